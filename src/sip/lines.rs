//! Cuts a header block into fields, the same way for the framer and for the scanner: what one of them
//! took for a Content-Length the other must too, or a request could hide in a body (RFC 3261 §7.3.1).

use super::chars::{is_token_byte, trim};
use super::value::parse_u32;
use super::{Fault, Field, Name, Span};
use crate::limits::MESSAGE_LEN_MAX;

/// Where the header block ends: past its empty line. `from` says how far an earlier call looked.
pub(super) fn head_len(buf: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    memchr::memmem::find(buf.get(from..)?, b"\r\n\r\n").map(|at| from + at + 4)
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

/// A field before its name is looked up.
struct Line {
    span: Span,
    name_end: usize,
    value_at: usize,
    well_formed: bool,
}

impl Line {
    fn field(&self, buf: &[u8]) -> Field {
        let name_span = Span::new(self.span.start as usize, self.name_end);
        let value = trim(buf, self.value_at, self.span.end as usize);
        Field { name: Name::of(name_span.of(buf)), name_span, value, line: self.span }
    }
}

impl Iterator for FieldLines<'_> {
    /// The field, and whether it is well formed.
    type Item = (Field, bool);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().map(|line| (line.field(self.buf), line.well_formed))
    }
}

impl FieldLines<'_> {
    fn next_line(&mut self) -> Option<Line> {
        let (buf, start) = (self.buf, self.at);
        if start >= self.end {
            return None;
        }
        // A name of token bytes, and only blanks between it and the colon.
        let line = &buf[start..self.end];
        let name_len = line.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(line.len());
        let blanks = line[name_len..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let mut well_formed = name_len > 0 && line.get(name_len + blanks) == Some(&b':');
        let mut at = start + name_len + blanks;
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
        let span = Span::new(start, line_end);
        let (name_end, value_at) = if well_formed {
            (start + name_len, start + name_len + blanks + 1)
        } else {
            // What can be told all the same, for the answer. A line without a colon is all value.
            memchr::memchr(b':', span.of(buf))
                .map_or((start, start), |length| (trim(buf, start, start + length).end as usize, start + length + 1))
        };
        Some(Line { span, name_end, value_at, well_formed })
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
    let mut lines = FieldLines::new(head, first, end);
    while let Some(line) = lines.next_line() {
        if !line.well_formed {
            return Err(Fault::HeaderSyntax);
        }
        // Only names with the first letter of Content-Length or of its compact form are looked up.
        if matches!(head[line.span.start as usize], b'C' | b'c' | b'L' | b'l') {
            let field = line.field(head);
            if field.name == Name::ContentLength {
                length.add(field.value.of(head))?;
            }
        }
    }
    let body_len = length.value.ok_or(Fault::ContentLengthMissing)? as usize;
    match head.len().checked_add(body_len) {
        Some(length) if length <= MESSAGE_LEN_MAX => Ok(length),
        _ => Err(Fault::MessageTooLarge),
    }
}
