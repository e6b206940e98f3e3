//! Cuts a header block into fields, the same way for the framer and for the scanner: what one of them
//! took for a Content-Length the other must too, or a request could hide in a body (RFC 3261 §7.3.1).

use super::chars::{find_control, find_name_end, is_token, trim};
use super::value::parse_u32;
use super::{Fault, Field, Name, Span};
use crate::limits::MESSAGE_LEN_MAX;

/// Where the header block ends: past its empty line. `from` says how far an earlier call looked.
pub(super) fn head_len(buf: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    memchr::memmem::find(buf.get(from..)?, b"\r\n\r\n").map(|at| from + at + 4)
}

/// The fields of `buf[at..]` up to the empty line, which is the first CRLFCRLF and nothing else: a line that
/// ends without a CR does not make the CRLF behind it an empty one.
pub(super) struct FieldLines<'a> {
    buf: &'a [u8],
    at: usize,
    head_len: Option<usize>,
}

impl<'a> FieldLines<'a> {
    /// `at` is past the start line.
    pub(super) fn new(buf: &'a [u8], at: usize) -> Self {
        Self { buf, at, head_len: None }
    }

    /// As [`head_len`], once there are no more fields. `None` also when the last of them were no whole lines.
    pub(super) fn head_len(&self) -> Option<usize> {
        self.head_len
    }
}

impl FieldLines<'_> {
    /// The next field, and whether it is well formed.
    #[inline(always)]
    pub(super) fn next_field(&mut self) -> Option<(Field, bool)> {
        let (buf, start, end) = (self.buf, self.at, self.buf.len());
        let line = buf.get(start..).filter(|line| !line.is_empty())?;
        if line.starts_with(b"\r\n") && buf[..start].ends_with(b"\r\n") {
            self.at = end;
            self.head_len = Some(start + 2);
            return None;
        }
        // A name of token bytes, which those that are known are, and only blanks between it and the colon.
        let mut name_end = find_name_end(buf, start, end).unwrap_or(end);
        let mut name = Name::of(&buf[start..name_end]);
        let mut at = name_end;
        while matches!(buf.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        let mut value_at = at + 1;
        let mut well_formed = buf.get(at) == Some(&b':') && (name != Name::Other || is_token(&buf[start..name_end]));
        // One search finds the end, the folds, and every control that may not stand in a header: a bare
        // CR or LF, which others could take for the end of a line, and NUL, which ends their strings.
        let line_end = loop {
            let Some(found) = find_control(buf, at, end) else {
                well_formed = false;
                break end;
            };
            at = found + 1;
            match buf[found] {
                b'\r' if at < end && buf[at] == b'\n' => at += 1,
                b'\n' => well_formed = false,
                // A quoted pair may hold NUL (RFC 3261 §25.1).
                0 if found > start && buf[found - 1] == b'\\' => continue,
                b'\r' | 0 => {
                    well_formed = false;
                    continue;
                }
                _ => continue,
            }
            if at >= end || !matches!(buf[at], b' ' | b'\t') {
                break at;
            }
        };
        self.at = line_end;
        let line = Span::within(start, line_end);
        if !well_formed {
            (name_end, value_at) = malformed_parts(buf, line);
            name = Name::of(&buf[start..name_end]);
        }
        // Nearly every value has one space before it and CRLF behind it, which leaves the rest little to do.
        let rest = &buf[value_at..line_end];
        let from = value_at + usize::from(rest.starts_with(b" "));
        let value = trim(buf, from, if buf[from..line_end].ends_with(b"\r\n") { line_end - 2 } else { line_end });
        Some((Field { name, name_span: Span::within(start, name_end), value, line }, well_formed))
    }
}

/// Where the name ends and the value begins, as far as it can be told all the same, for the answer. A line
/// without a colon is all value.
#[cold]
fn malformed_parts(buf: &[u8], line: Span) -> (usize, usize) {
    let start = line.start as usize;
    memchr::memchr(b':', line.of(buf))
        .map_or((start, start), |length| (trim(buf, start, start + length).end as usize, start + length + 1))
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

/// How long the parts of a stream's message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measure {
    /// Empty line included.
    pub(super) head_len: usize,
    /// Of the whole message.
    pub(super) length: usize,
}

/// Measures the message that `buf` begins with. `None` when the end of its header block is missing.
///
/// # Errors
/// What leaves doubt about where the message ends, or that it ends too far away; with the header block's
/// length.
pub(super) fn measure(buf: &[u8]) -> Option<Result<Measure, (Fault, usize)>> {
    match measure_usual(buf) {
        Ok(measure) => measure.map(Ok),
        // The walk stopped at the fault, which only counts when the header block has an end.
        Err(fault) => head_len(buf, 0).map(|head_len| Err((fault, head_len))),
    }
}

fn measure_usual(buf: &[u8]) -> Result<Option<Measure>, Fault> {
    let Some(first) = memchr::memchr(b'\n', buf).map(|at| at + 1) else { return Ok(None) };
    let line = buf[..first].strip_suffix(b"\r\n").ok_or(Fault::RequestLine)?;
    if memchr::memchr2(b'\r', 0, line).is_some() {
        return Err(Fault::RequestLine);
    }
    let mut length = ContentLength::default();
    let mut lines = FieldLines::new(buf, first);
    while let Some((field, well_formed)) = lines.next_field() {
        if !well_formed {
            return Err(Fault::HeaderSyntax);
        }
        if field.name == Name::ContentLength {
            length.add(field.value.of(buf))?;
        }
    }
    let Some(head_len) = lines.head_len() else { return Ok(None) };
    let body_len = length.value.ok_or(Fault::ContentLengthMissing)? as usize;
    match head_len.checked_add(body_len) {
        Some(length) if length <= MESSAGE_LEN_MAX => Ok(Some(Measure { head_len, length })),
        _ => Err(Fault::MessageTooLarge),
    }
}
