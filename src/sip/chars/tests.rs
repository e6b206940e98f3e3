//! Tests of `chars`: what looks at eight bytes at a time says what a look at each byte says.

use super::*;

#[test]
fn eight_bytes_at_a_time_find_what_one_at_a_time_finds() {
    // Every byte counts, and those next to a bound the most.
    const NEAR: &[u8] = b"\0\x01\x08\t\n\x0b\x0c\r\x0e\x1f !\"#;<=>?@\x7e\x7f\x80\x81\x8a\x8d\xa0\xa2\xbc\xbe\xfe\xff";
    let not_uri = |byte: u8| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f);
    for seed in 0..crate::rng::rounds(20_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(b'a'..=b'z')).collect();
        for _ in 0..random.usize(..4) {
            let byte = if random.bool() { NEAR[random.usize(..NEAR.len())] } else { random.u8(..) };
            bytes.insert(random.usize(..=bytes.len()), byte);
        }
        let at = random.usize(..=bytes.len());
        let end = random.usize(at..=bytes.len());
        let naive = |wanted: &dyn Fn(u8) -> bool| (at..end).find(|&at| wanted(bytes[at]));
        assert_eq!(find_control(&bytes, at, end), naive(&|byte| byte <= b'\r'), "seed {seed}");
        assert_eq!(find_not_uri(&bytes, at, end), naive(&not_uri), "seed {seed}");
        assert_eq!(has_lws(&bytes[at..end]), naive(&is_lws).is_some(), "seed {seed}");
    }
}

#[test]
fn a_range_outside_of_the_bytes_holds_nothing() {
    assert_eq!((find_control(b"\r", 0, 2), find_control(b"\r", 2, 1)), (None, None));
}

#[test]
fn a_text_in_lower_case_is_found_in_any_case_and_in_no_other_bytes() {
    const TEXT: &[u8; 12] = b"call-id@[`{/";
    for at in 0..TEXT.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = *TEXT;
            bytes[at] = byte;
            assert_eq!(is_lower(&bytes, TEXT), bytes.eq_ignore_ascii_case(TEXT), "{byte} at {at}");
        }
    }
    assert!(!is_lower(b"call", b"call-") && !is_lower(b"call-", b"call") && is_lower(b"", b""));
}
