//! `checks::engine` under libfuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hawser_fuzz::engine::check(data));
