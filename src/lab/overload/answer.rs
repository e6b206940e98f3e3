//! The few values of a message that an overload's parties need: read by lines, without taking the message apart.
//!
//! Owns: bytes to borrowed values. Must not touch: sockets, time, state. Left out on purpose: folded lines, compact names
//! and comma lists; neither these parties nor the proxy write any.

use memchr::{memchr, memmem};

/// The code of a response; `None` for a request.
pub fn status(message: &[u8]) -> Option<u16> {
    let digits = message.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    digits.iter().try_fold(0, |code, digit| digit.is_ascii_digit().then(|| code * 10 + u16::from(digit - b'0')))
}

/// The lines of the head but the first: name, and value without blank space around it.
pub fn fields(message: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = message;
    next_line(&mut rest);
    std::iter::from_fn(move || {
        let line = next_line(&mut rest).filter(|line| !line.is_empty())?;
        let colon = memchr(b':', line)?;
        Some((line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii()))
    })
}

fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr(b'\n', rest)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// The values of every field of that name, in order.
pub fn values<'a>(message: &'a [u8], name: &'a [u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    fields(message)
        .filter(move |(label, _)| label.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect::<Vec<_>>()
        .into_iter()
}

/// The value of the first field of that name.
pub fn value<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    fields(message).find(|(label, _)| label.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The URI between the angle brackets of a value, or the value.
pub fn uri(value: &[u8]) -> &[u8] {
    let from = memchr(b'<', value).map_or(0, |at| at + 1);
    let len = memchr(b'>', &value[from..]).unwrap_or(value.len() - from);
    &value[from..from + len]
}

/// What follows `mark` where it stands first: as the top Via stands before the others, its branch.
pub fn after<'a>(message: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    memmem::find(message, mark).map(|at| &message[at + mark.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.1.0.1:9;branch=z9hG4bK-x-i00ff\r\n\
        Record-Route: <sip:a;lr>\r\nrecord-route :<sip:b;lr>\r\nTo: <sip:callee@example.com>;tag=7\r\n\
        Contact: <sip:s@127.0.0.1:7000>\r\nContent-Length: 5\r\n\r\nTo: x";

    #[test]
    fn what_an_ack_needs_is_read() {
        assert_eq!(status(ANSWER), Some(200));
        assert_eq!(value(ANSWER, b"to"), Some(&b"<sip:callee@example.com>;tag=7"[..]));
        assert_eq!(uri(value(ANSWER, b"Contact").unwrap()), b"sip:s@127.0.0.1:7000");
        let reversed: Vec<_> = values(ANSWER, b"Record-Route").rev().collect();
        assert_eq!(reversed, [b"<sip:b;lr>", b"<sip:a;lr>"]);
        assert!(after(ANSWER, b"z9hG4bK-x-").unwrap().starts_with(b"i00ff\r\n"));
    }

    #[test]
    fn a_request_and_rubbish_have_no_status() {
        for text in ["INVITE sip:a SIP/2.0\r\n\r\n", "SIP/2.0 2x0 OK\r\n", "SIP/2.0 20", ""] {
            assert_eq!(status(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_body_is_no_field() {
        assert_eq!(fields(ANSWER).count(), 6);
        assert_eq!(value(b"x\r\n\r\nTo: y\r\n", b"To"), None);
        assert_eq!(uri(b"sip:bare"), b"sip:bare");
    }
}
