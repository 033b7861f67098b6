#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("names"), |data: &[u8]| snigate_fuzz::names::check(data));
