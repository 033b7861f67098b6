#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("connection"), |data: &[u8]| snigate_fuzz::connection::check(data));
