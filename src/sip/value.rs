//! Header values with structure: Via, name-addr, parameters (RFC 3261 §20, §25.1).
//!
//! White space and folds are allowed wherever the grammar has SEMI, EQUAL, SLASH, COLON or COMMA. A
//! display name may hold any bytes that cannot be taken for structure, for phones do not always quote.

use super::chars::{
    find_not_plain, find_not_uri, is_lower, is_lws, is_token, is_token_byte, quoted_end, skip_lws, trim,
};
use super::uri::{host_at, parse_port};
use super::{Host, Span};
use crate::ids::Transport;

/// One Via value (RFC 3261 §20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The whole value, without the comma.
    pub all: Span,
    /// The transport when it is one of ours.
    pub transport: Option<Transport>,
    /// sent-by's host.
    pub host: Host,
    /// The host as written, brackets included.
    pub host_span: Span,
    /// sent-by's port, when it is written.
    pub port: Option<u16>,
    /// The branch parameter's value; empty when there is none (RFC 2543).
    pub branch: Span,
    /// The `rport` parameter: its value's span, empty when it has none (a request's).
    pub rport: Option<Span>,
    /// The `received` parameter's value.
    pub received: Option<Span>,
}

/// What is wrong with a Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViaError {
    /// Not `name/version/transport` and white space.
    Protocol,
    /// sent-by's host.
    Host,
    /// sent-by's port.
    Port,
    /// A parameter without a name, an empty `branch`, `rport=` or `received`, one of them twice, or
    /// something that is no parameter.
    Params,
}

impl Via {
    /// Parses one value.
    ///
    /// # Errors
    /// What [`ViaError`] says.
    pub fn parse(buf: &[u8], span: Span) -> Result<Self, ViaError> {
        let (via, fault) = Self::parse_answerable(buf, span)?;
        fault.map_or(Ok(via), Err)
    }

    /// Parses one value so far that an answer can be sent by it, and says what else is wrong with it.
    pub(super) fn parse_answerable(buf: &[u8], span: Span) -> Result<(Self, Option<ViaError>), ViaError> {
        let end = (span.end as usize).min(buf.len());
        let at = skip_lws(buf, span.start as usize, end);
        let (transport, at) = match usual_protocol(&buf[at..end]) {
            Some(transport) => (Some(transport), at + USUAL_PROTOCOL_LEN),
            None => protocol(buf, at, end)?,
        };
        let at = skip_lws(buf, at, end);
        let (host, host_span, at) = host_at(buf, at, end).ok_or(ViaError::Host)?;
        let mut at = skip_lws(buf, at, end);
        let mut port = None;
        if at < end && buf[at] == b':' {
            let port_end = buf[at..end].iter().position(|&byte| byte == b';').map_or(end, |length| at + length);
            port = Some(parse_port(trim(buf, at + 1, port_end).of(buf)).ok_or(ViaError::Port)?);
            at = port_end;
        }
        if at < end && buf[at] != b';' {
            return Err(ViaError::Host);
        }
        let none = Span::within(end, end);
        let mut via = Self {
            all: trim(buf, span.start as usize, end),
            transport,
            host,
            host_span,
            port,
            branch: none,
            rport: None,
            received: None,
        };
        let fault = via.read_params(buf, at, end);
        Ok((via, fault))
    }

    fn read_params(&mut self, buf: &[u8], at: usize, end: usize) -> Option<ViaError> {
        let mut fault = None;
        let mut params = Params::over(buf, Span::within(at, end));
        let mut branches = 0;
        while let Some((name, value, is_token)) = params.next_checked() {
            let text = name.of(buf);
            let mut bad = !is_token || value.is_some_and(Span::is_empty);
            if is_lower(text, b"branch") {
                branches += 1;
                bad |= value.is_none() || branches > 1;
                if branches == 1 {
                    self.branch = value.unwrap_or(self.branch);
                }
            } else if is_lower(text, b"rport") {
                bad |= self.rport.is_some();
                self.rport = self.rport.or(Some(value.unwrap_or(Span::within(name.end as usize, name.end as usize))));
            } else if is_lower(text, b"received") {
                bad |= value.is_none() || self.received.is_some();
                self.received = self.received.or(value);
            }
            if bad {
                fault = Some(ViaError::Params);
            }
        }
        if params.malformed { Some(ViaError::Params) } else { fault }
    }
}

/// What [`usual_protocol`] takes.
const USUAL_PROTOCOL_LEN: usize = b"SIP/2.0/UDP ".len();

/// The transport of a sent-protocol as nearly everyone writes it, with the space behind it. For all
/// others `protocol` says what they are.
fn usual_protocol(bytes: &[u8]) -> Option<Transport> {
    match bytes.strip_prefix(b"SIP/2.0/")?.first_chunk::<4>()? {
        b"UDP " => Some(Transport::Udp),
        b"TCP " => Some(Transport::Tcp),
        b"TLS " => Some(Transport::Tls),
        _ => None,
    }
}

/// A sent-protocol: the transport when it is one of ours, and where it ends.
fn protocol(buf: &[u8], mut at: usize, end: usize) -> Result<(Option<Transport>, usize), ViaError> {
    for _ in 0..2 {
        let slash = memchr::memchr(b'/', &buf[at..end]).ok_or(ViaError::Protocol)? + at;
        if !is_token(trim(buf, at, slash).of(buf)) {
            return Err(ViaError::Protocol);
        }
        at = skip_lws(buf, slash + 1, end);
    }
    let transport_end = buf[at..end].iter().position(|&byte| is_lws(byte)).ok_or(ViaError::Protocol)? + at;
    let text = &buf[at..transport_end];
    if !is_token(text) {
        return Err(ViaError::Protocol);
    }
    let transport = [Transport::Udp, Transport::Tcp, Transport::Tls]
        .into_iter()
        .find(|transport| text.eq_ignore_ascii_case(transport.via_name().as_bytes()));
    Ok((transport, transport_end))
}

/// One value of Contact, Route, Record-Route, Path, From or To.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The whole value, without the comma.
    pub all: Span,
    /// The URI between the brackets, or the bare addr-spec.
    pub uri: Span,
    /// Whether the URI stands in angle brackets.
    pub bracketed: bool,
    /// Header parameters from the first `;` on; empty when there are none.
    pub params: Span,
}

/// What is wrong with a name-addr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameAddrError {
    /// A quote that does not end, or structure where a display name should stand.
    DisplayName,
    /// No closing bracket, nothing between them, white space in the URI, or a bare one with a `?` or `,`.
    Uri,
    /// Something other than parameters after the URI.
    Params,
}

impl NameAddr {
    /// Parses one value. The URI's own syntax is left to [`super::Uri::parse`].
    ///
    /// # Errors
    /// What [`NameAddrError`] says.
    pub fn parse(buf: &[u8], span: Span) -> Result<Self, NameAddrError> {
        Self::parse_noting(buf, span, |_, _| {})
    }

    /// Parses one value and gives each parameter's name and value to `note`.
    #[inline]
    fn parse_noting(buf: &[u8], span: Span, mut note: impl FnMut(Span, Option<Span>)) -> Result<Self, NameAddrError> {
        let all = trim(buf, span.start as usize, (span.end as usize).min(buf.len()));
        let (start, end) = (all.start as usize, all.end as usize);
        let mut at = start;
        if at < end && buf[at] == b'"' {
            at = quoted_end(buf, at, end).ok_or(NameAddrError::DisplayName)?;
            at = skip_lws(buf, at, end);
            if at >= end || buf[at] != b'<' {
                return Err(NameAddrError::DisplayName);
            }
        }
        let open = if at < end && buf[at] == b'<' { Some(0) } else { memchr::memchr(b'<', &buf[at..end]) };
        let (uri, bracketed, after) = match open {
            // An angle bracket behind a `;` would belong to a parameter of a bare URI.
            Some(length) if length == 0 || memchr::memchr(b';', &buf[at..at + length]).is_none() => {
                if buf[at..at + length].iter().any(|byte| matches!(byte, b'"' | b'>' | b',')) {
                    return Err(NameAddrError::DisplayName);
                }
                // What ends the URI must be the bracket, and not what may not stand in it.
                let start = at + length + 1;
                let close = find_not_uri(buf, start, end).filter(|&at| buf[at] == b'>').ok_or(NameAddrError::Uri)?;
                (Span::within(start, close), true, close + 1)
            }
            _ => {
                let uri_end = memchr::memchr(b';', &buf[at..end]).map_or(end, |length| at + length);
                let uri = trim(buf, at, uri_end);
                let forbidden = find_not_uri(buf, uri.start as usize, uri.end as usize).is_some();
                if forbidden || memchr::memchr2(b'?', b',', uri.of(buf)).is_some() {
                    return Err(NameAddrError::Uri);
                }
                (uri, false, uri_end)
            }
        };
        if uri.is_empty() {
            return Err(NameAddrError::Uri);
        }
        let at = skip_lws(buf, after, end);
        if at < end && buf[at] != b';' {
            return Err(NameAddrError::Params);
        }
        let addr = Self { all, uri, bracketed, params: Span::within(at, end) };
        let mut params = Params::over(buf, addr.params);
        while let Some((name, value, is_token)) = params.next_checked() {
            if !is_token {
                return Err(NameAddrError::Params);
            }
            note(name, value);
        }
        if params.unclosed { Err(NameAddrError::Params) } else { Ok(addr) }
    }

    /// A parameter's value by its name in any case, as [`Params`] yields it; `Some(b"")` when it has none.
    #[must_use]
    pub fn param<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        find_param(buf, self.params, name)
    }

    /// Parses a From or To for its tag: `None` when it has none; an empty one or two of them are an error.
    pub(super) fn parse_tag(buf: &[u8], span: Span) -> Result<Option<Span>, NameAddrError> {
        let mut tag = Ok(None);
        Self::parse_noting(buf, span, |name, value| {
            if is_lower(name.of(buf), b"tag") {
                // Not all keep to a token here, and nothing is lost by it.
                let plain = |value: &Span| !matches!(value.of(buf).first(), None | Some(b'"'));
                let value = value.filter(|value| plain(value) && tag == Ok(None));
                tag = value.map(Some).ok_or(NameAddrError::Params);
            }
        })?;
        tag
    }
}

fn find_param<'a>(buf: &'a [u8], span: Span, name: &str) -> Option<&'a [u8]> {
    Params::over(buf, span)
        .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value.unwrap_or(b""))
}

/// Iterates over `;name=value` parameters as `(name, value)`; a quoted value keeps its quotes
/// ([`unquoted`] takes them off). White space and folds around `;` and `=` are left out, empty parameters
/// are skipped.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    buf: &'a [u8],
    at: usize,
    end: usize,
    /// An empty parameter was skipped, or `unclosed`.
    pub(super) malformed: bool,
    /// A quote did not end, or something followed one.
    pub(super) unclosed: bool,
}

impl<'a> Params<'a> {
    #[cfg(test)]
    fn new(bytes: &'a [u8]) -> Self {
        Self::over(bytes, Span::within(0, bytes.len()))
    }

    /// Over a span of a buffer, such as [`NameAddr::params`], that begins with `;` or with the first name.
    #[must_use]
    pub fn over(buf: &'a [u8], span: Span) -> Self {
        let end = (span.end as usize).min(buf.len());
        let at = skip_lws(buf, span.start as usize, end);
        let at = if at < end && buf[at] == b';' { at + 1 } else { at };
        // A `;` with nothing after it is as wrong as two of them, but nothing at all is no parameters.
        Self { buf, at, end, malformed: at == end && !span.is_empty(), unclosed: false }
    }

    /// The next parameter's name and value as spans.
    fn next_spans(&mut self) -> Option<(Span, Option<Span>)> {
        self.next_checked().map(|(name, value, _)| (name, value))
    }

    /// Like `next_spans`, with whether the name is a token.
    #[inline]
    fn next_checked(&mut self) -> Option<(Span, Option<Span>, bool)> {
        if self.at >= self.end {
            return None;
        }
        if let Some((name, value)) = self.next_plain() {
            return Some((name, value, true));
        }
        self.next_of_any_form().map(|(name, value)| (name, value, is_token(name.of(self.buf))))
    }

    /// The usual parameter: a token, and a value in which nothing is quoted and nothing blank. `None`, with
    /// nothing changed, for all that `next_of_any_form` must look at.
    fn next_plain(&mut self) -> Option<(Span, Option<Span>)> {
        let rest = self.buf.get(self.at..self.end)?;
        let name_len = rest.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(rest.len());
        if name_len == 0 {
            return None;
        }
        let mut length = name_len;
        let mut value = None;
        if rest.get(length) == Some(&b'=') {
            let value_at = length + 1;
            length = find_not_plain(rest, value_at, rest.len()).unwrap_or(rest.len());
            value = Some(Span::within(self.at + value_at, self.at + length));
        }
        if rest.get(length).is_some_and(|&byte| byte != b';') {
            return None;
        }
        let name = Span::within(self.at, self.at + name_len);
        // `;` as the last byte leaves an empty parameter behind it.
        self.malformed |= length + 1 == rest.len();
        self.at += length + 1;
        Some((name, value))
    }

    fn next_of_any_form(&mut self) -> Option<(Span, Option<Span>)> {
        while self.at < self.end {
            let start = self.at;
            let mut equal = None;
            let mut at = start;
            // The parameter ends at the next `;` outside of quotes.
            loop {
                match memchr::memchr3(b';', b'=', b'"', &self.buf[at..self.end]).map(|length| at + length) {
                    None => {
                        at = self.end;
                        break;
                    }
                    Some(found) if self.buf[found] == b';' => {
                        at = found;
                        break;
                    }
                    Some(found) if self.buf[found] == b'=' => {
                        equal = equal.or(Some(found));
                        at = found + 1;
                    }
                    Some(found) => {
                        let Some(past) = quoted_end(self.buf, found, self.end) else {
                            self.malformed = true;
                            self.unclosed = true;
                            at = self.end;
                            break;
                        };
                        at = past;
                    }
                }
            }
            // `;` as the last byte leaves an empty parameter behind it.
            self.malformed |= at + 1 == self.end;
            self.at = at + 1;
            let name = trim(self.buf, start, equal.unwrap_or(at));
            let value = equal.map(|equal| trim(self.buf, equal + 1, at));
            if name.is_empty() && value.is_none() {
                self.malformed = true;
                continue;
            }
            if value.is_some_and(|value| !is_plain_or_quoted(value.of(self.buf))) {
                self.malformed = true;
                self.unclosed = true;
            }
            return Some((name, value));
        }
        None
    }
}

/// A value without quotes and inner white space, or one quoted string and nothing else.
fn is_plain_or_quoted(value: &[u8]) -> bool {
    if value.first() == Some(&b'"') {
        return quoted_end(value, 0, value.len()) == Some(value.len());
    }
    !value.iter().any(|&byte| byte == b'"' || is_lws(byte))
}

impl<'a> Iterator for Params<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_spans()?;
        Some((name.of(self.buf), value.map(|value| value.of(self.buf))))
    }
}

/// A parameter's value without the quotes around it. Escapes inside stay.
#[must_use]
pub fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Splits a list on commas outside of quotes and angle brackets, without the white space around them. A
/// blank span holds no value; between two commas stands an empty one.
pub fn split_values(buf: &[u8], span: Span) -> Values<'_> {
    let end = (span.end as usize).min(buf.len());
    let at = skip_lws(buf, span.start as usize, end);
    Values { buf, at, end, done: at >= end }
}

/// Iterator of [`split_values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    buf: &'a [u8],
    at: usize,
    end: usize,
    done: bool,
}

impl Iterator for Values<'_> {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        if self.done { None } else { Some(self.next_value()) }
    }
}

impl Values<'_> {
    fn next_value(&mut self) -> Span {
        let start = self.at;
        let mut at = start;
        loop {
            // Most values with a bracket begin with it, and have nothing behind it.
            let found = match self.buf[at..self.end].first() {
                None => None,
                Some(b'<') => Some(at),
                Some(_) => memchr::memchr3(b',', b'"', b'<', &self.buf[at..self.end]).map(|length| at + length),
            };
            let Some(found) = found else {
                self.done = true;
                return trim(self.buf, start, self.end);
            };
            at = match self.buf[found] {
                b',' => {
                    self.at = found + 1;
                    return trim(self.buf, start, found);
                }
                b'"' => quoted_end(self.buf, found, self.end),
                _ => memchr::memchr(b'>', &self.buf[found..self.end]).map(|length| found + length + 1),
            }
            .unwrap_or(self.end);
        }
    }
}

/// Digits and nothing else, up to `u32::MAX`.
#[must_use]
pub fn parse_u32(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    if bytes.len() <= 9 {
        // So few digits are no number over the bound.
        let mut value = 0;
        for digit in bytes.iter().map(|byte| byte.wrapping_sub(b'0')) {
            if digit > 9 {
                return None;
            }
            value = value * 10 + u32::from(digit);
        }
        return Some(value);
    }
    bytes.iter().try_fold(0u32, |value, byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u32::from(byte - b'0'))
    })
}

/// Appends a number in digits.
pub fn write_u32(mut value: u32, out: &mut Vec<u8>) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder of ten is one digit.
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
