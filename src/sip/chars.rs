//! Classes of bytes and the smallest operations on them (RFC 3261 §25.1).

use super::Span;

/// Linear white space, the CRLF of a fold included. The scanner lets no other CR or LF pass.
pub(super) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Which bytes may stand in a `token`; looked up for every byte of every header field's name.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        byte += 1;
    }
    table
};

/// A byte of a `token`.
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A `token`: at least one byte, and only those.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// `start..end` without the white space and folds around it.
pub(super) fn trim(buf: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && is_lws(buf[start]) {
        start += 1;
    }
    while end > start && is_lws(buf[end - 1]) {
        end -= 1;
    }
    Span::new(start, end)
}

/// The first byte from `at` on that is no white space, or `end`.
pub(super) fn skip_lws(buf: &[u8], mut at: usize, end: usize) -> usize {
    while at < end && is_lws(buf[at]) {
        at += 1;
    }
    at
}

/// Where the quoted string that begins at `at` ends: past its closing quote. `None` without one.
pub(super) fn quoted_end(buf: &[u8], at: usize, end: usize) -> Option<usize> {
    debug_assert_eq!(buf.get(at), Some(&b'"'));
    let mut from = at + 1;
    loop {
        let found = from + memchr::memchr2(b'"', b'\\', buf.get(from..end)?)?;
        if buf[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

/// The value of two hexadecimal digits after a `%` at the start of `bytes`.
pub(super) fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *bytes else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Yields the bytes with their escapes undone, each with whether it was escaped. A `%` without two
/// digits stands for itself.
pub(super) fn unescaped(bytes: &[u8]) -> impl Iterator<Item = (u8, bool)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        if let Some(value) = escaped(&bytes[at..]) {
            at += 3;
            return Some((value, true));
        }
        at += 1;
        Some((byte, false))
    })
}

/// Whether `bytes` is `text`, in any case and with any of it escaped.
pub(super) fn eq_unescaped_ignore_case(bytes: &[u8], text: &[u8]) -> bool {
    if memchr::memchr(b'%', bytes).is_none() {
        return bytes.eq_ignore_ascii_case(text);
    }
    unescaped(bytes).map(|(byte, _)| byte.to_ascii_lowercase()).eq(text.iter().map(u8::to_ascii_lowercase))
}
