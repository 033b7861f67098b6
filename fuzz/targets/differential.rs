#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("differential"), |data: &[u8]| snigate_fuzz::differential::check(data));
