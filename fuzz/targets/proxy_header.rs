#![no_main]

libfuzzer_sys::fuzz_target!(init: snigate_fuzz::seeds::write("proxy_header"), |data: &[u8]| snigate_fuzz::proxy_header::check(data));
