#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("hello"), |data: &[u8]| snigate_fuzz::hello::check(data));
