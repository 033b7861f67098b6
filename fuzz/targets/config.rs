#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("config"), |data: &[u8]| snigate_fuzz::config::check(data));
