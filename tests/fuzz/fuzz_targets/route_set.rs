//! `checks::route_set` under libfuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hawser_fuzz::route_set::check(data));
