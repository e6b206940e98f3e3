//! Responses of our own (RFC 3261 §8.2.6, §16.7), the marking of a request's source in its top Via
//! (RFC 3261 §18.2.1, RFC 3581 §4), and the two requests that a client transaction makes by itself: ACK to
//! a failure (RFC 3261 §17.1.1.3) and CANCEL (§9.1).
//!
//! The only place where Hawser writes messages that it did not receive.

use std::io::Write;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::chars::is_lws;
use super::scan::{Extent, scan};
use super::value::write_u32;
use super::{Edits, Fault, Field, Message, Name, NameAddr, ScanError, Span, Start};

/// What to answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// 100–699.
    pub code: u16,
    /// [`fault_reply`] has one for each fault.
    pub reason: &'a str,
    /// Put into To when it has none and the code is over 100; may be empty for 100.
    pub to_tag: &'a [u8],
    /// Further header lines, each with its CRLF.
    pub extra: &'a [u8],
}

/// Appends the response to a request that came from `source`. A request with a fault gets what can be
/// copied of it.
pub fn write(request: &Message, source: SocketAddr, reply: &Reply<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SIP/2.0 ");
    write_u32(u32::from(reply.code), out);
    out.push(b' ');
    out.extend_from_slice(reply.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let buf = request.buf();
    for field in request.fields().iter().filter(|field| field.name == Name::Via) {
        out.extend_from_slice(b"Via: ");
        let marks = if field.value.start <= request.top_via().all.start && request.top_via().all.end <= field.value.end
        {
            marks(request, source)
        } else {
            Marks::new()
        };
        let mut at = field.value.start;
        for mark in marks {
            write_unfolded(Span { start: at, end: mark.span.start }.of(buf), out);
            mark.write(source, out);
            at = mark.span.end;
        }
        write_unfolded(Span { start: at, end: field.value.end }.of(buf), out);
        out.extend_from_slice(b"\r\n");
    }
    write_field(buf, "From", request.first(Name::From), out);
    if let Some(to) = request.first(Name::To) {
        out.extend_from_slice(b"To: ");
        write_unfolded(to.value.of(buf), out);
        if request.to_tag().is_empty() && reply.code > 100 && !reply.to_tag.is_empty() {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(reply.to_tag);
        }
        out.extend_from_slice(b"\r\n");
    }
    write_field(buf, "Call-ID", request.first(Name::CallId), out);
    write_field(buf, "CSeq", request.first(Name::CSeq), out);
    if reply.code == 100 {
        write_field(buf, "Timestamp", request.first(Name::Timestamp), out);
    }
    out.extend_from_slice(reply.extra);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Marks in the top Via of a request where it came from: `received` when sent-by names another host, is a
/// name, or when `rport` is asked for; `rport`'s value; and a `received` that the sender put there itself
/// is replaced.
pub fn mark_source(request: &Message, source: SocketAddr, edits: &mut Edits) {
    for mark in marks(request, source) {
        edits.replace_with(mark.span, |out| mark.write(source, out));
    }
}

#[derive(Clone, Copy, Debug)]
enum MarkKind {
    /// `;received=address` after the last parameter.
    NewReceived,
    Received,
    /// The value of rport, with or without its `=` there.
    Rport {
        equal: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    span: Span,
    kind: MarkKind,
}

impl Mark {
    fn write(self, source: SocketAddr, out: &mut Vec<u8>) {
        match self.kind {
            MarkKind::NewReceived => {
                // Writing to a Vec cannot fail. No brackets (RFC 3261 §25.1, via-received).
                let _ = write!(out, ";received={}", source.ip().to_canonical());
            }
            MarkKind::Received => {
                let _ = write!(out, "{}", source.ip().to_canonical());
            }
            MarkKind::Rport { equal } => {
                if !equal {
                    out.push(b'=');
                }
                write_u32(u32::from(source.port()), out);
            }
        }
    }
}

type Marks = SmallVec<[Mark; 2]>;

/// In the order of their places.
fn marks(request: &Message, source: SocketAddr) -> Marks {
    let mut marks = Marks::new();
    let via = request.top_via();
    if let Some(span) = via.rport {
        let before = &request.buf()[via.host_span.end as usize..span.start as usize];
        let equal = !span.is_empty() || before.iter().rev().find(|&&byte| !is_lws(byte)) == Some(&b'=');
        marks.push(Mark { span, kind: MarkKind::Rport { equal } });
    }
    match via.received {
        Some(span) => marks.push(Mark { span, kind: MarkKind::Received }),
        None if via.rport.is_some() || !via.host.matches_ip(source.ip()) => {
            let end = via.all.end as usize;
            marks.push(Mark { span: Span::within(end, end), kind: MarkKind::NewReceived });
        }
        None => {}
    }
    marks.sort_unstable_by_key(|mark| mark.span.start);
    marks
}

/// Appends the ACK for a final response other than 2xx: to where the INVITE went, with its branch
/// (RFC 3261 §17.1.1.3). `invite` are the bytes as they were sent. To is the response's; one without a To that could
/// be read is acknowledged with the INVITE's.
///
/// # Errors
/// When `invite` is no request.
pub fn build_ack(invite: &[u8], response: &Message, out: &mut Vec<u8>) -> Result<(), ScanError> {
    let to = response.first(Name::To).filter(|field| NameAddr::parse(response.buf(), field.value).is_ok());
    let to = to.map(|field| response.text(field.value));
    write_for_invite(invite, b"ACK", to, out)
}

/// Appends the CANCEL of a request (RFC 3261 §9.1). `invite` are the bytes as they were sent.
///
/// # Errors
/// When `invite` is no request.
pub fn build_cancel(invite: &[u8], out: &mut Vec<u8>) -> Result<(), ScanError> {
    write_for_invite(invite, b"CANCEL", None, out)
}

fn write_for_invite(invite: &[u8], method: &[u8], to: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), ScanError> {
    let parsed = scan(invite, Extent::Sent)?;
    let Start::Request { uri, .. } = parsed.start else { return Err(ScanError::StartLine) };
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(uri.of(invite));
    out.extend_from_slice(b" SIP/2.0\r\nVia: ");
    write_unfolded(parsed.top_via.all.of(invite), out);
    out.extend_from_slice(b"\r\nMax-Forwards: 70\r\n");
    for route in parsed.fields.iter().filter(|field| field.name == Name::Route) {
        write_field(invite, "Route", Some(route), out);
    }
    write_field(invite, "From", parsed.first(Name::From), out);
    match to {
        Some(to) => {
            out.extend_from_slice(b"To: ");
            write_unfolded(to, out);
            out.extend_from_slice(b"\r\n");
        }
        None => write_field(invite, "To", parsed.first(Name::To), out),
    }
    write_field(invite, "Call-ID", parsed.first(Name::CallId), out);
    out.extend_from_slice(b"CSeq: ");
    write_u32(parsed.cseq.number, out);
    out.push(b' ');
    out.extend_from_slice(method);
    out.extend_from_slice(b"\r\nContent-Length: 0\r\n\r\n");
    Ok(())
}

fn write_field(buf: &[u8], name: &str, field: Option<&Field>, out: &mut Vec<u8>) {
    if let Some(field) = field {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        write_unfolded(field.value.of(buf), out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Copies a value on one line, so that nothing in a malformed request becomes a header line of ours.
fn write_unfolded(value: &[u8], out: &mut Vec<u8>) {
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        out.extend_from_slice(value);
    } else {
        out.extend(value.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    }
}

/// The code and phrase for a fault.
#[must_use]
pub fn fault_reply(fault: Fault) -> (u16, &'static str) {
    match fault {
        Fault::Version => (505, "Version Not Supported"),
        Fault::RequestLine => (400, "Bad Request Line"),
        Fault::RequestUri => (400, "Bad Request-URI"),
        Fault::RequestUriHost => (400, "Bad host in Request-URI"),
        Fault::RequestUriPort => (400, "Bad port in Request-URI"),
        Fault::RequestUriTooLong => (414, "Request-URI Too Long"),
        Fault::Scheme => (416, "Unsupported URI Scheme"),
        Fault::HeaderSyntax => (400, "Bad Header Field"),
        Fault::TooManyValues => (400, "Too Many Via or Route Values"),
        Fault::ViaSyntax => (400, "Bad Via"),
        Fault::MissingTo => (400, "Missing To"),
        Fault::ToSyntax => (400, "Bad To"),
        Fault::DuplicateTo => (400, "Two To Header Fields"),
        Fault::MissingFrom => (400, "Missing From"),
        Fault::FromSyntax => (400, "Bad From"),
        Fault::DuplicateFrom => (400, "Two From Header Fields"),
        Fault::MissingCallId => (400, "Missing Call-ID"),
        Fault::CallIdSyntax => (400, "Bad Call-ID"),
        Fault::DuplicateCallId => (400, "Two Call-ID Header Fields"),
        Fault::MissingCseq => (400, "Missing CSeq"),
        Fault::CseqSyntax => (400, "Bad CSeq"),
        Fault::CseqMethod => (400, "CSeq Is Not For This Method"),
        Fault::DuplicateCseq => (400, "Two CSeq Header Fields"),
        Fault::MaxForwardsSyntax => (400, "Bad Max-Forwards"),
        Fault::DuplicateMaxForwards => (400, "Two Max-Forwards Header Fields"),
        Fault::ContentLengthSyntax => (400, "Bad Content-Length"),
        Fault::ContentLengthConflict => (400, "Different Content-Lengths"),
        Fault::ContentLengthMissing => (400, "Missing Content-Length"),
        Fault::ContentLengthTooLarge => (400, "Content-Length Too Large"),
        Fault::RouteSyntax => (400, "Bad Route"),
        Fault::ContactSyntax => (400, "Bad Contact"),
        Fault::HeaderBlockTooLarge => (513, "Header Too Large"),
        Fault::MessageTooLarge => (513, "Message Too Large"),
    }
}

#[cfg(test)]
mod tests;
