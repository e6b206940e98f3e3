//! `checks::name_addr` under libfuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hawser_fuzz::name_addr::check(data));
