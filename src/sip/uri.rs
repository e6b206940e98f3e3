//! URIs (RFC 3261 §19.1): spans into the buffer that they stand in.
//!
//! Strict about what decides where a request goes (host, port, escapes, white space), lenient about the
//! bytes of user part and parameters, which are passed on as they are. An unescaped `@` divides user and
//! host, and there can be only one. `header` parts are found but not taken apart, except to compare.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Span;
use super::chars::{eq_unescaped_ignore_case, escaped, find_not_uri, trim, unescaped};
use crate::ids::Transport;
use crate::limits::URI_LEN_MAX;

/// The scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the schemes")]
pub enum Scheme {
    Sip,
    Sips,
    /// A telephone number (RFC 3966): who dials it leaves it to the SIP Server where it leads.
    Tel,
    /// A name (RFC 8141), such as that of an emergency service (RFC 5031): the same.
    Urn,
    Other,
}

impl Scheme {
    /// Whether such a URI has a user, a host and a port, and so says by itself where it leads.
    #[must_use]
    pub fn is_sip(self) -> bool {
        matches!(self, Self::Sip | Self::Sips)
    }
}

/// The host of a URI or of a Via.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, as written.
    Name(Span),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; brackets in the text.
    V6(Ipv6Addr),
}

/// A parsed URI. When its scheme is neither sip nor sips, only `all` and `scheme` say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The whole URI.
    pub all: Span,
    #[allow(missing_docs, reason = "see Scheme")]
    pub scheme: Scheme,
    /// The user part without the password; empty when there is none.
    pub user: Span,
    /// The password; empty when there is none.
    pub password: Span,
    /// The host.
    pub host: Host,
    /// The host as written, brackets included.
    pub host_span: Span,
    /// The port, when it is written.
    pub port: Option<u16>,
    /// From the first `;` up to `?` or the end; empty when there are none.
    pub params: Span,
    /// After `?`; empty when there are none.
    pub headers: Span,
}

/// Why bytes are no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriError {
    /// Nothing there.
    Empty,
    /// Over `URI_LEN_MAX`.
    TooLong,
    /// No scheme with a colon at the start.
    Scheme,
    /// White space, a control, `<`, `>` or `"`: never part of a URI.
    Character,
    /// A `%` without two hexadecimal digits.
    Escape,
    /// An `@` without a user before it.
    User,
    /// Neither a name nor an address.
    Host,
    /// Not 1–65535 in digits.
    Port,
}

impl Uri {
    /// Parses the URI that fills `span`.
    ///
    /// # Errors
    /// What [`UriError`] says. A scheme other than sip and sips is no error.
    pub fn parse(buf: &[u8], span: Span) -> Result<Self, UriError> {
        Self::parse_with(buf, span, |bytes| find_not_uri(bytes, 0, bytes.len()).is_none())
    }

    /// Parses the URI of a [`super::NameAddr`], which has looked for [`UriError::Character`].
    ///
    /// # Errors
    /// As [`Uri::parse`].
    pub fn parse_checked(buf: &[u8], span: Span) -> Result<Self, UriError> {
        debug_assert_eq!(find_not_uri(buf, span.start as usize, span.end as usize), None);
        Self::parse_with(buf, span, |_| true)
    }

    #[inline]
    fn parse_with(buf: &[u8], span: Span, is_clean: impl Fn(&[u8]) -> bool) -> Result<Self, UriError> {
        let bytes = span.of(buf);
        if bytes.is_empty() {
            return Err(UriError::Empty);
        }
        if bytes.len() > URI_LEN_MAX {
            return Err(UriError::TooLong);
        }
        let base = span.start as usize;
        let (scheme, colon) = if bytes.starts_with(b"sip:") {
            (Scheme::Sip, 3)
        } else {
            let colon = memchr::memchr(b':', bytes).ok_or(UriError::Scheme)?;
            (scheme(&bytes[..colon])?, colon)
        };
        if !is_clean(bytes) {
            return Err(UriError::Character);
        }
        let empty = Span::within(base + bytes.len(), base + bytes.len());
        let mut uri = Self {
            all: span,
            scheme,
            user: empty,
            password: empty,
            host: Host::Name(empty),
            host_span: empty,
            port: None,
            params: empty,
            headers: empty,
        };
        if !scheme.is_sip() {
            return if colon + 1 < bytes.len() { Ok(uri) } else { Err(UriError::Empty) };
        }
        if memchr::memchr_iter(b'%', bytes).any(|at| escaped(&bytes[at..]).is_none()) {
            return Err(UriError::Escape);
        }
        uri.read_from(buf, colon + 1)?;
        Ok(uri)
    }

    /// What stands behind the scheme of a sip or sips URI: `[user[:password]@]host[:port][;parameters][?headers]`.
    #[inline(always)]
    fn read_from(&mut self, buf: &[u8], mut at: usize) -> Result<(), UriError> {
        let (bytes, base) = (self.all.of(buf), self.all.start as usize);
        if let Some(length) = memchr::memchr(b'@', &bytes[at..]) {
            let userinfo = &bytes[at..at + length];
            let user_len = memchr::memchr(b':', userinfo).unwrap_or(length);
            if user_len == 0 {
                return Err(UriError::User);
            }
            self.user = Span::within(base + at, base + at + user_len);
            if user_len < length {
                self.password = Span::within(base + at + user_len + 1, base + at + length);
            }
            at += length + 1;
        }
        let (host, host_span, past) = host_at(buf, base + at, base + bytes.len()).ok_or(UriError::Host)?;
        (self.host, self.host_span) = (host, host_span);
        at = past - base;
        if bytes.get(at) == Some(&b':') {
            let rest = &bytes[at + 1..];
            let length = rest.iter().position(|byte| matches!(byte, b';' | b'?')).unwrap_or(rest.len());
            self.port = Some(parse_port(&rest[..length]).ok_or(UriError::Port)?);
            at += 1 + length;
        }
        if bytes.get(at) == Some(&b';') {
            let length = memchr::memchr2(b'?', b'@', &bytes[at..]).unwrap_or(bytes.len() - at);
            if bytes.get(at + length) == Some(&b'@') {
                return Err(UriError::Host);
            }
            self.params = Span::within(base + at, base + at + length);
            at += length;
        }
        match bytes.get(at) {
            None => Ok(()),
            Some(b'?') => {
                self.headers = Span::within(base + at + 1, base + bytes.len());
                Ok(())
            }
            Some(_) => Err(UriError::Host),
        }
    }

    /// A parameter's value as written, by its name in any case; `Some(b"")` when it has none.
    #[must_use]
    pub fn param<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        params(self.params.of(buf)).find(|(found, _)| eq_unescaped_ignore_case(found, name.as_bytes())).map(|it| it.1)
    }

    /// The host that a request with this URI is sent to: that of `maddr`, else the URI's own (RFC 3263 §4). `None` when
    /// `maddr` holds none.
    #[must_use]
    pub fn host_to_ask(&self, buf: &[u8]) -> Option<Host> {
        let Some(value) = self.param(buf, "maddr") else { return Some(self.host) };
        if value.is_empty() {
            return None;
        }
        let start = value.as_ptr().addr().wrapping_sub(buf.as_ptr().addr());
        Host::parse(buf, Span::within(start, start + value.len()))
    }

    /// The `transport` parameter: `None` without one, `Some(None)` when it is none of ours.
    #[must_use]
    pub fn transport(&self, buf: &[u8]) -> Option<Option<Transport>> {
        let value = self.param(buf, "transport")?;
        Some(
            [Transport::Udp, Transport::Tcp, Transport::Tls]
                .into_iter()
                .find(|transport| eq_unescaped_ignore_case(value, transport.param_name().as_bytes())),
        )
    }

    /// What of it may stand as a Request-URI: all but header parts (RFC 3261 §19.1.1).
    #[must_use]
    pub fn without_headers(&self) -> Span {
        let end = if self.headers.is_empty() { self.all.end } else { self.headers.start - 1 };
        Span { start: self.all.start, end }
    }

    /// Whether it has the `lr` parameter (RFC 3261 §19.1.1), with a value or without.
    #[must_use]
    pub fn has_lr(&self, buf: &[u8]) -> bool {
        self.param(buf, "lr").is_some()
    }

    /// Appends the user part with its escapes undone; other schemes whole, as written.
    pub fn user_unescaped(&self, buf: &[u8], out: &mut Vec<u8>) {
        if !self.scheme.is_sip() {
            return out.extend_from_slice(self.all.of(buf));
        }
        let user = self.user.of(buf);
        if memchr::memchr(b'%', user).is_none() {
            out.extend_from_slice(user);
        } else {
            out.extend(unescaped(user).map(|(byte, _)| byte));
        }
    }

    /// Appends the canonical address of record (RFC 3261 §10.3): password, parameters and headers dropped,
    /// escapes undone, host in lower case without a final dot (addresses in their shortest form), sips as
    /// sip, the scheme's default port removed. A key to compare, not a URI to send. Other schemes as
    /// written.
    pub fn write_aor(&self, buf: &[u8], out: &mut Vec<u8>) {
        if !self.scheme.is_sip() {
            out.extend_from_slice(self.all.of(buf));
            return;
        }
        out.extend_from_slice(b"sip:");
        if !self.user.is_empty() {
            self.user_unescaped(buf, out);
            out.push(b'@');
        }
        self.host.write(buf, out);
        let default = if self.scheme == Scheme::Sips { 5061 } else { 5060 };
        if let Some(port) = self.port.filter(|&port| port != default) {
            out.push(b':');
            super::value::write_u32(u32::from(port), out);
        }
    }
}

impl Host {
    /// Parses a host that fills `span`: `[IPv6]`, IPv4, or a name. Underscores in names are let pass.
    #[must_use]
    pub fn parse(buf: &[u8], span: Span) -> Option<Self> {
        let bytes = span.of(buf);
        if let [b'[', inner @ .., b']'] = bytes {
            let text = std::str::from_utf8(inner).ok()?;
            // RFC 3261's grammar allows a third colon before an IPv4 part (RFC 5118 §4.10).
            let tolerant = || text.contains(":::").then(|| text.replacen(":::", "::", 1).parse().ok())?;
            return text.parse().ok().or_else(tolerant).map(Self::V6);
        }
        if bytes.is_empty() {
            return None;
        }
        // What looks like an IPv4 address must be one: a name of digits and dots would be read by others
        // as an address that we did not check.
        if bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
            return v4_prefix(bytes).filter(|&(_, length)| length == bytes.len()).map(|(ip, _)| Self::V4(ip));
        }
        // No label is empty: without its final dot, `a..` would be taken for `a.`, and that for `a`.
        let mut before = b'.';
        let ok = bytes.iter().all(|&byte| {
            let last = std::mem::replace(&mut before, byte);
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && last != b'.')
        });
        (ok && bytes[0] != b'-').then_some(Self::Name(span))
    }

    /// The address, when it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match *self {
            Self::Name(_) => None,
            Self::V4(ip) => Some(IpAddr::V4(ip)),
            Self::V6(ip) => Some(IpAddr::V6(ip)),
        }
    }

    /// Whether it is this address; an IPv4 address mapped into IPv6 is the IPv4 address.
    #[must_use]
    pub fn matches_ip(&self, ip: IpAddr) -> bool {
        self.ip().is_some_and(|own| own.to_canonical() == ip.to_canonical())
    }

    /// Appends the canonical text: names in lower case without a final dot, addresses in their shortest
    /// form, IPv6 in brackets.
    pub fn write(&self, buf: &[u8], out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing to a Vec cannot fail.
        let _ = match *self {
            Self::Name(span) => {
                out.extend(name_without_dot(span.of(buf)).iter().map(u8::to_ascii_lowercase));
                Ok(())
            }
            Self::V4(ip) => write!(out, "{ip}"),
            Self::V6(ip) => write!(out, "[{ip}]"),
        };
    }
}

/// Whether a host is the one that `text` names: names in any case and with or without a final dot,
/// addresses in any spelling, IPv6 with or without brackets.
#[must_use]
pub fn host_eq(host: &Host, buf: &[u8], text: &[u8]) -> bool {
    let bare = match text {
        [b'[', inner @ .., b']'] => inner,
        _ => text,
    };
    let ip = std::str::from_utf8(bare).ok().and_then(|text| text.parse::<IpAddr>().ok());
    match (host, ip) {
        (Host::Name(_), Some(_)) => false,
        (Host::Name(span), None) => name_without_dot(span.of(buf)).eq_ignore_ascii_case(name_without_dot(text)),
        (_, Some(ip)) => host.matches_ip(ip),
        (_, None) => false,
    }
}

/// Whether two URIs are equivalent (RFC 3261 §19.1.4). Following the examples there, a `transport` that
/// only one of them has is a difference. Other schemes are compared byte by byte, and so are URIs of more
/// parts than anybody needs.
#[must_use]
pub fn equivalent(a: &Uri, a_buf: &[u8], b: &Uri, b_buf: &[u8]) -> bool {
    if a.scheme != b.scheme {
        return false;
    }
    // Whatever stands in it: a parameter that is there twice, which none may be, would else be compared with the other.
    if a.all.of(a_buf) == b.all.of(b_buf) {
        return true;
    }
    let parts = |uri: &Uri, buf| memchr::memchr3_iter(b';', b'&', b'?', uri.all.of(buf)).count();
    if !a.scheme.is_sip() || parts(a, a_buf).max(parts(b, b_buf)) > COMPARED_PARTS_MAX {
        return false;
    }
    let same_host = match (&a.host, &b.host) {
        (Host::Name(x), Host::Name(y)) => {
            name_without_dot(x.of(a_buf)).eq_ignore_ascii_case(name_without_dot(y.of(b_buf)))
        }
        (x, y) => x.ip().is_some() && x.ip() == y.ip(),
    };
    same_host
        && a.port == b.port
        && eq_text(a.user.of(a_buf), b.user.of(b_buf))
        && eq_text(a.password.of(a_buf), b.password.of(b_buf))
        && params_agree(a, a_buf, b, b_buf)
        && params_agree(b, b_buf, a, a_buf)
        && headers_agree(a.headers.of(a_buf), b.headers.of(b_buf))
}

/// Every parameter and header part is held against every other, which a URI full of them would make dear.
const COMPARED_PARTS_MAX: usize = 32;

/// Parameters of `a` against those of `b`, one direction.
fn params_agree(a: &Uri, a_buf: &[u8], b: &Uri, b_buf: &[u8]) -> bool {
    const DECISIVE: [&[u8]; 5] = [b"user", b"ttl", b"method", b"maddr", b"transport"];
    params(a.params.of(a_buf)).all(|(name, value)| {
        let twin = params(b.params.of(b_buf)).find(|(other, _)| {
            unescaped(other).map(|it| it.0.to_ascii_lowercase()).eq(unescaped(name).map(|it| it.0.to_ascii_lowercase()))
        });
        match twin {
            Some((_, other)) => unescaped(value)
                .map(|it| it.0.to_ascii_lowercase())
                .eq(unescaped(other).map(|it| it.0.to_ascii_lowercase())),
            None => !DECISIVE.iter().any(|decisive| eq_unescaped_ignore_case(name, decisive)),
        }
    })
}

/// Header parts in any order, as often in one as in the other.
fn headers_agree(a: &[u8], b: &[u8]) -> bool {
    let parts = |bytes| split(bytes, b'&').filter(|part: &&[u8]| !part.is_empty());
    let same = |x: &[u8], y: &[u8]| {
        let (x_name, x_value) = name_and_value(x);
        let (y_name, y_value) = name_and_value(y);
        x_name.eq_ignore_ascii_case(y_name) && unescaped(x_value).map(|it| it.0).eq(unescaped(y_value).map(|it| it.0))
    };
    let occurs = |part: &[u8], bytes| parts(bytes).filter(|other| same(part, other)).count();
    parts(a).count() == parts(b).count() && parts(a).all(|part| occurs(part, a) == occurs(part, b))
}

/// Case-sensitive; a byte is the same escaped and not, unless it is reserved (RFC 3261 §19.1.4).
fn eq_text(a: &[u8], b: &[u8]) -> bool {
    let weighed = |(byte, was_escaped): (u8, bool)| {
        let reserved = matches!(byte, b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b',');
        (byte, was_escaped && reserved)
    };
    unescaped(a).map(weighed).eq(unescaped(b).map(weighed))
}

fn scheme(bytes: &[u8]) -> Result<Scheme, UriError> {
    if bytes.eq_ignore_ascii_case(b"sip") {
        return Ok(Scheme::Sip);
    }
    if bytes.eq_ignore_ascii_case(b"sips") {
        return Ok(Scheme::Sips);
    }
    if bytes.eq_ignore_ascii_case(b"tel") {
        return Ok(Scheme::Tel);
    }
    if bytes.eq_ignore_ascii_case(b"urn") {
        return Ok(Scheme::Urn);
    }
    let rest_ok = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if rest_ok && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        Ok(Scheme::Other)
    } else {
        Err(UriError::Scheme)
    }
}

/// The host at the start of `buf[at..end]` (of a sent-by or a hostport), its span, and where it ends: white
/// space behind it is left out of the span.
pub(super) fn host_at(buf: &[u8], at: usize, end: usize) -> Option<(Host, Span, usize)> {
    let bytes = &buf[at..end];
    if let Some((ip, length)) = v4_prefix(bytes)
        && matches!(bytes.get(length), None | Some(b':' | b';' | b'?'))
    {
        return Some((Host::V4(ip), Span::within(at, at + length), at + length));
    }
    let past = at + host_len(bytes)?;
    let span = trim(buf, at, past);
    Some((Host::parse(buf, span)?, span, past))
}

/// How many bytes at the start are a host: up to `:`, `;`, `?` or the end, past the bracket for IPv6.
fn host_len(bytes: &[u8]) -> Option<usize> {
    if bytes.first() == Some(&b'[') {
        return memchr::memchr(b']', bytes).map(|at| at + 1);
    }
    Some(memchr::memchr3(b':', b';', b'?', bytes).unwrap_or(bytes.len()))
}

/// The longest run of digits and dots at the start, when it is an IPv4 address as the standard library
/// reads it: four numbers up to 255 in digits without a zero before them. With its length.
fn v4_prefix(bytes: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let mut octets = [0; 4];
    let mut at = 0;
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let start = at;
        let mut value = 0u16;
        while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
            if at == start + 3 || (at > start && value == 0) {
                return None;
            }
            value = value * 10 + u16::from(digit);
            at += 1;
        }
        if at == start {
            return None;
        }
        *octet = u8::try_from(value).ok()?;
    }
    (bytes.get(at) != Some(&b'.')).then_some((Ipv4Addr::from(octets), at))
}

/// 1–65535 in digits.
pub(super) fn parse_port(bytes: &[u8]) -> Option<u16> {
    super::value::parse_u32(bytes).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}

fn name_without_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

fn params(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    split(bytes, b';').filter(|part| !part.is_empty()).map(name_and_value)
}

fn split(bytes: &[u8], by: u8) -> impl Iterator<Item = &[u8]> {
    bytes.split(move |byte| *byte == by)
}

fn name_and_value(bytes: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', bytes) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

#[cfg(test)]
mod tests;
