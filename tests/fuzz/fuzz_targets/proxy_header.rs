//! `checks::proxy_header` under libfuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hawser_fuzz::proxy_header::check(data));
