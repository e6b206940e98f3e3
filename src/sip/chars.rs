//! Classes of bytes and the smallest operations on them (RFC 3261 §25.1).

use super::Span;

/// Linear white space, the CRLF of a fold included. The scanner lets no other CR or LF pass.
pub(super) const fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether a byte may be part of a `token`.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        at += 1;
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

/// Whether `bytes` is `text`, which is in lower case, in any case. Its length is known when this is
/// compiled, so that it costs a few instructions.
#[inline(always)]
pub(super) fn is_lower<const N: usize>(bytes: &[u8], text: &[u8; N]) -> bool {
    let Ok(bytes) = <&[u8; N]>::try_from(bytes) else { return false };
    let mut difference = 0;
    for at in 0..N {
        // Only a letter has its other case one bit away.
        let case = if text[at].is_ascii_lowercase() { 0x20 } else { 0 };
        difference |= (bytes[at] | case) ^ text[at];
    }
    difference == 0
}

/// `byte` in each of eight.
const fn eight(byte: u8) -> u64 {
    u64::MAX / 0xff * byte as u64
}

/// The high bit of each byte that is below `LIMIT`, up to 128. Right for the lowest one that is set, and
/// for whether there is any; a borrow can set those above it.
#[inline(always)]
fn below<const LIMIT: u8>(word: u64) -> u64 {
    word.wrapping_sub(eight(LIMIT)) & !word & eight(0x80)
}

/// Like [`below`] for the bytes that are `BYTE`.
#[inline(always)]
fn equal<const BYTE: u8>(word: u64) -> u64 {
    below::<1>(word ^ eight(BYTE))
}

/// The first byte of `buf[at..end]` for which `byte` holds, eight at a time with `word`, which says the
/// same as [`below`] does. No call and no set-up, so for short texts it beats a search by vectors.
#[inline(always)]
fn find(buf: &[u8], mut at: usize, end: usize, word: impl Fn(u64) -> u64, byte: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, rest) = buf.get(at..end)?.as_chunks::<8>();
    for &eight in words {
        let found = word(u64::from_le_bytes(eight));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    rest.iter().position(|&it| byte(it)).map(|length| at + length)
}

/// The first control up to CR, NUL and TAB among them.
pub(super) fn find_control(buf: &[u8], at: usize, end: usize) -> Option<usize> {
    find(buf, at, end, below::<{ b'\r' + 1 }>, |byte| byte <= b'\r')
}

/// The first byte that ends a header field's name: a colon, or a blank or control up to it.
pub(super) fn find_name_end(buf: &[u8], at: usize, end: usize) -> Option<usize> {
    let word = |word: u64| below::<{ b' ' + 1 }>(word) | equal::<b':'>(word);
    find(buf, at, end, word, |byte| byte <= b' ' || byte == b':')
}

/// The first byte that may end a parameter's plain value: `;`, a quote, or a blank or control up to it.
pub(super) fn find_not_plain(buf: &[u8], at: usize, end: usize) -> Option<usize> {
    let word = |word: u64| below::<{ b' ' + 1 }>(word) | equal::<b';'>(word) | equal::<b'"'>(word);
    find(buf, at, end, word, |byte| byte <= b' ' || matches!(byte, b';' | b'"'))
}

/// The first byte that can never be part of a URI: white space, a control, `<`, `>` or `"`.
pub(super) fn find_not_uri(buf: &[u8], at: usize, end: usize) -> Option<usize> {
    // `<` and `>` are one bit apart.
    let word = |word: u64| {
        below::<{ b' ' + 1 }>(word) | equal::<b'"'>(word) | equal::<b'>'>(word | eight(0x02)) | equal::<0x7f>(word)
    };
    find(buf, at, end, word, |byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f))
}

/// Whether there is white space in it.
pub(super) fn has_lws(bytes: &[u8]) -> bool {
    find(bytes, 0, bytes.len(), below::<{ b' ' + 1 }>, |byte| byte <= b' ')
        .is_some_and(|first| bytes[first..].iter().any(|&byte| is_lws(byte)))
}

/// `start..end` without the white space and folds around it.
pub(super) fn trim(buf: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && is_lws(buf[start]) {
        start += 1;
    }
    while end > start && is_lws(buf[end - 1]) {
        end -= 1;
    }
    Span::within(start, end)
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

#[cfg(test)]
mod tests;
