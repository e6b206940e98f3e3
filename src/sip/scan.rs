//! From bytes to a [`Message`]: start line, fields, and the few values that every message needs
//! (RFC 3261 §7, §8.1.1, §18.3).
//!
//! A bare CR or LF, and a NUL outside of a quoted pair, are faults in the header block: others take them for the end of
//! a line or of a string, and a request could hide behind them. Values of header fields that the proxy does not act on
//! are not looked at.

use smallvec::SmallVec;

use super::chars::{find_control, has_lws, is_lower, is_lws, is_token, trim};
use super::lines::{ContentLength, FieldLines, head_len, measure};
use super::message::{Cseq, Fault, Field, Message, Method, ScanError, Start};
use super::value::{NameAddr, Via, parse_u32, split_values};
use super::{Name, Scheme, Span, Uri, UriError};
use crate::clock::Time;
use crate::limits::{FIELDS_MAX, HEADER_BLOCK_LEN_MAX, VALUES_MAX};

/// How the end of the message is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// A datagram: its end, or before it by Content-Length.
    Datagram,
    /// Cut out of a stream: Content-Length is a must.
    Stream,
    /// A datagram that we have sent: with our own header fields it may be longer than what we take.
    Sent,
    /// Only the header block of a message that a stream cannot go on after.
    HeadOnly {
        /// Its own end is missing.
        cut_off: bool,
    },
}

/// Parses `buf`, without leading empty lines. The message's own `buf` is left empty.
pub(super) fn scan(buf: &[u8], extent: Extent) -> Result<Box<Message>, ScanError> {
    let head_len_max = if extent == Extent::Sent { u16::MAX.into() } else { HEADER_BLOCK_LEN_MAX + 2 };
    let bounded = &buf[..buf.len().min(head_len_max)];
    parse(buf, bounded, extent).map_err(|error| match head_len(bounded, 0) {
        Some(_) => error,
        // That its end is missing comes before all that is wrong in it.
        None if buf.len() > HEADER_BLOCK_LEN_MAX => ScanError::TooLarge,
        None => ScanError::Truncated,
    })
}

/// `bounded` is the part of `buf` that must hold the header block.
#[inline(always)]
fn parse(buf: &[u8], bounded: &[u8], extent: Extent) -> Result<Box<Message>, ScanError> {
    let line_end = memchr::memchr(b'\n', bounded).ok_or(ScanError::Truncated)? + 1;
    let mut faults = Faults::default();
    let line = buf[..line_end].strip_suffix(b"\n").unwrap_or(&buf[..line_end]);
    let clean = line.strip_suffix(b"\r").filter(|line| {
        find_control(line, 0, line.len()).is_none_or(|first| memchr::memchr2(b'\r', 0, &line[first..]).is_none())
    });
    if clean.is_none() {
        faults.add(Fault::RequestLine);
    }
    let start = start_line(buf, trim_end(line).len(), clean.unwrap_or(line).len(), &mut faults)?;
    faults.in_response = matches!(start, Start::Status { .. });

    let mut message = blank(start, line_end);
    let mut content_length = ContentLength::default();
    let mut seen = Seen::default();
    let mut lines = FieldLines::new(bounded, line_end);
    while let Some((field, well_formed)) = lines.next_field() {
        if message.fields.len() == FIELDS_MAX && extent != Extent::Sent {
            return Err(ScanError::TooManyFields);
        }
        if !well_formed {
            faults.add(Fault::HeaderSyntax);
        }
        seen.read(buf, &field, &mut message, &mut content_length, &mut faults);
        message.fields.push(field);
    }
    let head_len = lines.head_len().ok_or(ScanError::Truncated)?;
    message.head_end = (head_len - 2) as u16;
    message.length = head_len as u32;
    message.via_count = seen.vias as u16;
    if !seen.top_via {
        return Err(ScanError::Unanswerable);
    }
    seen.check_missing(&mut faults);
    check_cseq_method(buf, &message, &mut faults);
    check_length(buf, bounded, extent, content_length.value, &mut message, &mut faults);
    // The scheme comes last, for nothing is wrong with the syntax (RFC 3261 §16.3).
    read_request_uri(buf, &mut message, &mut faults);
    message.fault = faults.first;
    if message.fault.is_some() && !message.is_request() {
        return Err(ScanError::Unanswerable);
    }
    Ok(message)
}

/// A message of which only the start line is known.
#[inline(always)]
fn blank(start: Start, line_end: usize) -> Box<Message> {
    let empty = Span::within(line_end, line_end);
    Box::new(Message {
        buf: Vec::new(),
        start,
        fields: SmallVec::new(),
        first_field: line_end as u16,
        head_end: 0,
        length: 0,
        via_count: 0,
        top_via: Via {
            all: empty,
            transport: None,
            host: super::Host::Name(empty),
            host_span: empty,
            port: None,
            branch: empty,
            rport: None,
            received: None,
        },
        call_id: empty,
        cseq: Cseq { number: 0, method: Method::Other, method_span: empty },
        from_tag: empty,
        to_tag: empty,
        max_forwards: None,
        request_uri: None,
        route_uris: SmallVec::new(),
        fault: None,
        came: Time(u64::MAX),
        posted: Time(u64::MAX),
        was_in_overload: false,
    })
}

/// How long the message is, as its transport and its header fields say.
fn check_length(
    buf: &[u8],
    bounded: &[u8],
    extent: Extent,
    content_length: Option<u32>,
    message: &mut Message,
    faults: &mut Faults,
) {
    match extent {
        // Why the stream ended comes before all else that is wrong.
        Extent::HeadOnly { cut_off: true } => faults.first = Some(Fault::HeaderBlockTooLarge),
        Extent::HeadOnly { cut_off: false } => {
            let fault = measure(bounded).and_then(Result::err).map(|(fault, _)| fault);
            faults.first = fault.or(faults.first);
        }
        Extent::Datagram | Extent::Stream | Extent::Sent => {
            measure_body(buf, extent, content_length, message, faults);
        }
    }
}

/// Keeps the first fault that counts.
#[derive(Debug, Default)]
struct Faults {
    first: Option<Fault>,
    in_response: bool,
}

impl Faults {
    fn add(&mut self, fault: Fault) {
        if !self.in_response || fault.is_of_response() {
            self.first.get_or_insert(fault);
        }
    }
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().rev().take_while(|&&byte| is_lws(byte)).count();
    &bytes[..bytes.len() - blanks]
}

/// `trimmed` is the line's length without blanks at its end, `length` with them.
fn start_line(buf: &[u8], trimmed: usize, length: usize, faults: &mut Faults) -> Result<Start, ScanError> {
    let line = &buf[..trimmed];
    if is_lower(line.get(..4).unwrap_or(b""), b"sip/") {
        return status_line(&buf[..length]);
    }
    let method_len = memchr::memchr(b' ', line).ok_or(ScanError::StartLine)?;
    if !is_token(&line[..method_len]) {
        return Err(ScanError::StartLine);
    }
    let version_at = line.iter().rposition(|&byte| is_lws(byte)).map_or(0, |at| at + 1);
    let version = &line[version_at..];
    if !is_lower(version.get(..4).unwrap_or(b""), b"sip/") {
        return Err(ScanError::StartLine);
    }
    let uri = trim(buf, method_len, version_at);
    if version_at <= method_len || uri.is_empty() {
        return Err(ScanError::StartLine);
    }
    if !is_lower(version, b"sip/2.0") {
        faults.add(if is_version(&version[4..]) { Fault::Version } else { Fault::RequestLine });
    }
    // Exactly one space between the three of them and nothing after (RFC 3261 §7.1).
    let exact = uri.start as usize == method_len + 1 && uri.end as usize + 1 == version_at && length == trimmed;
    if !exact || buf[version_at - 1] != b' ' || has_lws(uri.of(buf)) {
        faults.add(Fault::RequestLine);
    }
    let method_span = Span::within(0, method_len);
    Ok(Start::Request { method: Method::of(method_span.of(buf)), method_span, uri })
}

fn is_version(bytes: &[u8]) -> bool {
    memchr::memchr(b'.', bytes).is_some_and(|dot| {
        let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        digits(&bytes[..dot]) && digits(&bytes[dot + 1..])
    })
}

fn status_line(line: &[u8]) -> Result<Start, ScanError> {
    let rest = match line.get(..8) {
        Some(version) if is_lower(version, b"sip/2.0 ") => &line[8..],
        _ => return Err(ScanError::Unanswerable),
    };
    // Some leave the space out when the reason phrase is empty.
    let (code, reason_at) = match memchr::memchr(b' ', rest) {
        Some(at) => (&rest[..at], 8 + at + 1),
        None => (rest, line.len()),
    };
    let code = parse_u32(code).filter(|value| code.len() == 3 && (100..700).contains(value));
    let code = code.and_then(|code| u16::try_from(code).ok()).ok_or(ScanError::Unanswerable)?;
    Ok(Start::Status { code, reason: Span::within(reason_at, line.len()) })
}

/// Which header fields were there.
#[derive(Debug, Default)]
struct Seen {
    top_via: bool,
    vias: usize,
    routes: usize,
    to: bool,
    from: bool,
    call_id: bool,
    cseq: bool,
    max_forwards: bool,
}

impl Seen {
    fn read(
        &mut self,
        buf: &[u8],
        field: &Field,
        message: &mut Message,
        content_length: &mut ContentLength,
        faults: &mut Faults,
    ) {
        let value = field.value;
        match field.name {
            Name::Via => self.read_vias(buf, value, message, faults),
            Name::From | Name::To if !message.is_request() => {}
            Name::From if std::mem::replace(&mut self.from, true) => faults.add(Fault::DuplicateFrom),
            Name::From => match tag_of(buf, value) {
                Some(tag) => message.from_tag = tag.unwrap_or(message.from_tag),
                None => faults.add(Fault::FromSyntax),
            },
            Name::To if std::mem::replace(&mut self.to, true) => faults.add(Fault::DuplicateTo),
            Name::To => match tag_of(buf, value) {
                Some(tag) => message.to_tag = tag.unwrap_or(message.to_tag),
                None => faults.add(Fault::ToSyntax),
            },
            Name::CallId if std::mem::replace(&mut self.call_id, true) => faults.add(Fault::DuplicateCallId),
            Name::CallId => {
                message.call_id = value;
                if value.is_empty() || has_lws(value.of(buf)) {
                    faults.add(Fault::CallIdSyntax);
                }
            }
            Name::CSeq if std::mem::replace(&mut self.cseq, true) => faults.add(Fault::DuplicateCseq),
            Name::CSeq => match cseq(buf, value) {
                Some(cseq) => message.cseq = cseq,
                None => faults.add(Fault::CseqSyntax),
            },
            Name::MaxForwards if std::mem::replace(&mut self.max_forwards, true) => {
                faults.add(Fault::DuplicateMaxForwards);
            }
            Name::MaxForwards => match parse_u32(value.of(buf)).filter(|&hops| hops <= 255) {
                Some(hops) => message.max_forwards = Some(hops),
                None => faults.add(Fault::MaxForwardsSyntax),
            },
            Name::ContentLength => {
                if let Err(fault) = content_length.add(value.of(buf)) {
                    faults.add(fault);
                }
            }
            Name::Route if message.is_request() => self.read_routes(buf, value, message, faults),
            Name::Contact if message.method() == Some(Method::Register) => {
                let ok = |contact: Span| contact.of(buf) == b"*" || NameAddr::parse(buf, contact).is_ok();
                if !split_values(buf, value).all(ok) {
                    faults.add(Fault::ContactSyntax);
                }
            }
            _ => {}
        }
    }

    fn read_routes(&mut self, buf: &[u8], value: Span, message: &mut Message, faults: &mut Faults) {
        for route in split_values(buf, value) {
            self.routes += 1;
            if self.routes > VALUES_MAX {
                faults.add(Fault::TooManyValues);
                break;
            }
            let route = NameAddr::parse(buf, route);
            if !route.is_ok_and(|route| route.bracketed) {
                faults.add(Fault::RouteSyntax);
            }
            message.route_uris.push(route.map_or(Span::default(), |route| route.uri));
        }
    }

    /// The top value is taken apart; of the others only that there is something, for what they say is for
    /// those who put them there.
    fn read_vias(&mut self, buf: &[u8], value: Span, message: &mut Message, faults: &mut Faults) {
        for via in split_values(buf, value) {
            self.vias += 1;
            if self.vias > VALUES_MAX {
                faults.add(Fault::TooManyValues);
                break;
            }
            if self.vias == 1 {
                match Via::parse_answerable(buf, via) {
                    Ok((via, fault)) => {
                        self.top_via = true;
                        message.top_via = via;
                        if fault.is_some() {
                            faults.add(Fault::ViaSyntax);
                        }
                    }
                    Err(_) => faults.add(Fault::ViaSyntax),
                }
            } else if matches!(via.of(buf).first(), None | Some(b';')) {
                faults.add(Fault::ViaSyntax);
            }
        }
    }

    fn check_missing(&self, faults: &mut Faults) {
        for (seen, fault) in [
            (self.to, Fault::MissingTo),
            (self.from, Fault::MissingFrom),
            (self.call_id, Fault::MissingCallId),
            (self.cseq, Fault::MissingCseq),
        ] {
            if !seen {
                faults.add(fault);
            }
        }
    }
}

/// The tag of a From or To: `None` when the value is malformed, `Some(None)` when it has no tag.
fn tag_of(buf: &[u8], value: Span) -> Option<Option<Span>> {
    NameAddr::parse_tag(buf, value).ok()
}

fn cseq(buf: &[u8], value: Span) -> Option<Cseq> {
    let digits = value.of(buf).iter().position(|&byte| is_lws(byte))?;
    let number_end = value.start as usize + digits;
    let number = parse_u32(&buf[value.start as usize..number_end]).filter(|&number| number < 1 << 31)?;
    let method_span = trim(buf, number_end, value.end as usize);
    let text = method_span.of(buf);
    is_token(text).then(|| Cseq { number, method: Method::of(text), method_span })
}

fn check_cseq_method(buf: &[u8], message: &Message, faults: &mut Faults) {
    if let Start::Request { method_span, .. } = message.start
        && !message.cseq.method_span.is_empty()
        && method_span.of(buf) != message.cseq.method_span.of(buf)
    {
        faults.add(Fault::CseqMethod);
    }
}

fn measure_body(buf: &[u8], extent: Extent, wanted: Option<u32>, message: &mut Message, faults: &mut Faults) {
    let head_len = message.length as usize;
    let present = buf.len() - head_len;
    let length = match wanted.map(|length| length as usize) {
        None => {
            if extent == Extent::Stream {
                faults.add(Fault::ContentLengthMissing);
            }
            present
        }
        Some(wanted) if wanted > present => {
            faults.add(Fault::ContentLengthTooLarge);
            present
        }
        Some(wanted) => wanted,
    };
    message.length = (head_len + length) as u32;
}

fn read_request_uri(buf: &[u8], message: &mut Message, faults: &mut Faults) {
    let Start::Request { uri, .. } = message.start else { return };
    match Uri::parse(buf, uri) {
        Ok(uri) => {
            message.request_uri = Some(uri);
            if uri.scheme == Scheme::Other {
                faults.add(Fault::Scheme);
            } else if !uri.headers.is_empty() {
                // Header parts may not stand in a Request-URI (RFC 3261 §19.1.1).
                faults.add(Fault::RequestUri);
            }
        }
        Err(UriError::TooLong) => faults.add(Fault::RequestUriTooLong),
        Err(UriError::Host) => faults.add(Fault::RequestUriHost),
        Err(UriError::Port) => faults.add(Fault::RequestUriPort),
        Err(_) => faults.add(Fault::RequestUri),
    }
}
