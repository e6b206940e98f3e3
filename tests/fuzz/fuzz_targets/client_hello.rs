//! `checks::client_hello` under libfuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hawser_fuzz::client_hello::check(data));
