//! Cuts a header block into fields, the same way for the framer and for the scanner: what one of them
//! took for a Content-Length the other must too, or a request could hide in a body (RFC 3261 §7.3.1).

use super::chars::{is_token, trim};
use super::value::parse_u32;
use super::{Fault, Field, Name, Span};
use crate::limits::MESSAGE_LEN_MAX;

/// Where the header block ends: past its empty line. `from` says how far an earlier call looked.
pub(super) fn head_len(buf: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let mut at = from;
    // It is the LF of one line and the CRLF right after it.
    while let Some(length) = memchr::memchr(b'\n', buf.get(at..)?) {
        let lf = at + length;
        at = lf + 1;
        if lf >= 1 && buf[lf - 1] == b'\r' && buf.get(at..at + 2) == Some(b"\r\n") {
            return Some(at + 2);
        }
    }
    None
}

/// The fields of `buf[at..end]`, where `end` is past the CRLF of the last one.
pub(super) struct FieldLines<'a> {
    buf: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> FieldLines<'a> {
    pub(super) fn new(buf: &'a [u8], at: usize, end: usize) -> Self {
        Self { buf, at, end }
    }
}

impl Iterator for FieldLines<'_> {
    /// The field, and whether it is well formed.
    type Item = (Field, bool);

    fn next(&mut self) -> Option<Self::Item> {
        let (buf, start) = (self.buf, self.at);
        if start >= self.end {
            return None;
        }
        let mut well_formed = true;
        let mut at = start;
        // One search finds the end, the folds, and every control that may not stand in a header: a bare
        // CR or LF, which others could take for the end of a line, and NUL, which ends their strings.
        let line_end = loop {
            let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &buf[at..self.end]).map(|length| at + length) else {
                well_formed = false;
                break self.end;
            };
            at = found + 1;
            match buf[found] {
                b'\r' if at < self.end && buf[at] == b'\n' => at += 1,
                b'\n' => well_formed = false,
                // A quoted pair may hold NUL (RFC 3261 §25.1).
                0 if found > start && buf[found - 1] == b'\\' => continue,
                _ => {
                    well_formed = false;
                    continue;
                }
            }
            if at >= self.end || !matches!(buf[at], b' ' | b'\t') {
                break at;
            }
        };
        self.at = line_end;
        let line = Span::new(start, line_end);
        let colon = memchr::memchr(b':', line.of(buf)).map(|length| start + length);
        let name_end = colon.unwrap_or(start);
        let mut name_span = trim(buf, start, name_end);
        // Nothing may stand before the name, and only blanks between it and the colon.
        well_formed &= name_span.start as usize == start
            && is_token(name_span.of(buf))
            && buf[name_span.end as usize..name_end].iter().all(|byte| matches!(byte, b' ' | b'\t'));
        if colon.is_none() {
            name_span = Span::new(start, start);
            well_formed = false;
        }
        let value = trim(buf, colon.map_or(start, |colon| colon + 1), line_end);
        Some((Field { name: Name::of(name_span.of(buf)), name_span, value, line }, well_formed))
    }
}

/// One Content-Length field after another: digits only, and all the same (RFC 3261 §18.3, §20.14).
#[derive(Debug, Default)]
pub(super) struct ContentLength {
    pub(super) value: Option<u32>,
}

impl ContentLength {
    pub(super) fn add(&mut self, text: &[u8]) -> Result<(), Fault> {
        let length = parse_u32(text).ok_or(Fault::ContentLengthSyntax)?;
        if self.value.is_some_and(|earlier| earlier != length) {
            return Err(Fault::ContentLengthConflict);
        }
        self.value = Some(length);
        Ok(())
    }
}

/// The whole length of the message of a stream that begins with this header block, empty line included.
///
/// # Errors
/// What leaves doubt about where the message ends, or that it ends too far away.
pub(super) fn message_len(head: &[u8]) -> Result<usize, Fault> {
    let end = head.len().saturating_sub(2);
    let first = memchr::memchr(b'\n', head).map_or(end, |at| at + 1);
    let line = head[..first].strip_suffix(b"\r\n").ok_or(Fault::RequestLine)?;
    if memchr::memchr2(b'\r', 0, line).is_some() {
        return Err(Fault::RequestLine);
    }
    let mut length = ContentLength::default();
    for (field, well_formed) in FieldLines::new(head, first, end) {
        if !well_formed {
            return Err(Fault::HeaderSyntax);
        }
        if field.name == Name::ContentLength {
            length.add(field.value.of(head))?;
        }
    }
    let body_len = length.value.ok_or(Fault::ContentLengthMissing)? as usize;
    match head.len().checked_add(body_len) {
        Some(length) if length <= MESSAGE_LEN_MAX => Ok(length),
        _ => Err(Fault::MessageTooLarge),
    }
}
