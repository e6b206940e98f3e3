//! SIP text for the lab: a small lenient reader and framer, written apart from the proxy's own parser so
//! that each checks the other.
//!
//! Owns: bytes to borrowed fields (RFC 3261 §7, §7.3.3 compact forms, §18.3 framing) and the few values
//! that a user agent needs (URI, tag, top Via). Must not touch: sockets, time, state.
//! Left out on purpose: strictness (the proxy under test is the strict one), escapes, multi-valued Via
//! comparison beyond what a user agent does.

use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};

/// A message longer than this ends a stream: the lab never sends one.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// The header fields that a user agent acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Via,
    From,
    To,
    CallId,
    Cseq,
    Contact,
    Route,
    RecordRoute,
    Path,
    Expires,
    Supported,
    Require,
    ContentType,
    ContentLength,
    Other,
}

impl Name {
    fn of(text: &str) -> Self {
        const TABLE: [(&str, &str, Name); 14] = [
            ("via", "v", Name::Via),
            ("from", "f", Name::From),
            ("to", "t", Name::To),
            ("call-id", "i", Name::CallId),
            ("cseq", "", Name::Cseq),
            ("contact", "m", Name::Contact),
            ("route", "", Name::Route),
            ("record-route", "", Name::RecordRoute),
            ("path", "", Name::Path),
            ("expires", "", Name::Expires),
            ("supported", "k", Name::Supported),
            ("require", "", Name::Require),
            ("content-type", "c", Name::ContentType),
            ("content-length", "l", Name::ContentLength),
        ];
        TABLE
            .iter()
            .find(|(long, short, _)| text.eq_ignore_ascii_case(long) || text.eq_ignore_ascii_case(short))
            .map_or(Name::Other, |&(_, _, name)| name)
    }
}

/// One header field as it stands in the message.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    pub name: Name,
    pub label: &'a str,
    pub value: &'a str,
}

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    Request { method: &'a str, uri: &'a str },
    Response { code: u16, reason: &'a str },
}

/// A message that borrows the bytes it was read from.
#[derive(Debug)]
pub struct Message<'a> {
    pub start: Start<'a>,
    pub fields: SmallVec<[Field<'a>; 20]>,
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one whole message; `None` when it is no SIP at all.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head_len = memchr::memmem::find(bytes, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..head_len + 2]).ok()?;
        let body = &bytes[head_len + 4..];
        let line_len = head.find("\r\n")?;
        let start = start_line(&head[..line_len])?;
        let mut fields = SmallVec::new();
        let mut rest = &head[line_len + 2..];
        while !rest.is_empty() {
            let mut end = rest.find("\r\n")?;
            // A folded line goes on as long as the next one starts with blank space (RFC 3261 §7.3.1).
            while rest[end + 2..].starts_with([' ', '\t']) {
                end = end + 2 + rest[end + 2..].find("\r\n")?;
            }
            let (label, value) = rest[..end].split_once(':')?;
            let label = label.trim();
            fields.push(Field { name: Name::of(label), label, value: value.trim() });
            rest = &rest[end + 2..];
        }
        Some(Self { start, fields, body })
    }

    /// The first field of that name.
    pub fn first(&self, name: Name) -> Option<&'a str> {
        self.fields.iter().find(|field| field.name == name).map(|field| field.value)
    }

    /// A field that [`Name`] does not list, by its label.
    pub fn labelled(&self, label: &str) -> Option<&'a str> {
        self.fields.iter().find(|field| field.label.eq_ignore_ascii_case(label)).map(|field| field.value)
    }

    /// Every value of that name, comma lists taken apart, in order.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &'a str> + '_ {
        self.fields.iter().filter(move |field| field.name == name).flat_map(|field| list(field.value))
    }

    /// The topmost Via value.
    pub fn top_via(&self) -> Option<Via<'a>> {
        Via::parse(self.values(Name::Via).next()?)
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> Option<(u32, &'a str)> {
        let (number, method) = self.first(Name::Cseq)?.split_once(char::is_whitespace)?;
        Some((number.parse().ok()?, method.trim()))
    }

    /// Whether a list field (Supported, Require) names the option tag.
    pub fn lists(&self, name: Name, tag: &str) -> bool {
        self.values(name).any(|value| value.eq_ignore_ascii_case(tag))
    }
}

fn start_line(line: &str) -> Option<Start<'_>> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        return Some(Start::Response { code: code.parse().ok()?, reason });
    }
    let mut parts = line.split(' ');
    let (method, uri, version) = (parts.next()?, parts.next()?, parts.next()?);
    (version == "SIP/2.0" && parts.next().is_none()).then_some(Start::Request { method, uri })
}

/// A comma list taken apart outside of quotes and angle brackets.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut angled, mut escaped) = (false, false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'<' if !quoted => angled = true,
                b'>' if !quoted => angled = false,
                b',' if !quoted && !angled => {
                    rest = Some(&text[at + 1..]);
                    return Some(text[..at].trim());
                }
                _ => {}
            }
        }
        rest = None;
        Some(text.trim())
    })
}

/// The URI of a name-addr or addr-spec.
pub fn uri_of(value: &str) -> &str {
    match unquoted(value, b'<') {
        Some(open) => {
            let inner = &value[open + 1..];
            &inner[..inner.find('>').unwrap_or(inner.len())]
        }
        None => value[..value.find(';').unwrap_or(value.len())].trim(),
    }
}

/// A parameter of the header value itself, not of its URI; an empty text when it has no value.
pub fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let from = match unquoted(value, b'<') {
        Some(open) => open + value[open..].find('>')?,
        None => 0,
    };
    let tail = &value[from..];
    params(&tail[tail.find(';')?..]).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn unquoted(value: &str, wanted: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    value.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if byte == wanted && !quoted => return true,
            _ => {}
        }
        false
    })
}

fn params(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(';').filter(|part| !part.trim().is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key.trim(), value.trim().trim_matches('"'))
    })
}

/// A SIP URI taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub secure: bool,
    pub user: &'a str,
    pub host: &'a str,
    pub port: Option<u16>,
    params: &'a str,
}

impl<'a> Uri<'a> {
    /// Reads a sip or sips URI.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let secure = scheme.eq_ignore_ascii_case("sips");
        if !secure && !scheme.eq_ignore_ascii_case("sip") {
            return None;
        }
        let rest = &rest[..rest.find('?').unwrap_or(rest.len())];
        let (user, rest) = rest.split_once('@').unwrap_or(("", rest));
        let split = rest.find(';').unwrap_or(rest.len());
        let (host, port) = host_port(&rest[..split])?;
        Some(Self { secure, user, host, port, params: &rest[split..] })
    }

    /// A URI parameter; an empty text when it has no value.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        params(self.params).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The address-of-record that this URI names (RFC 3261 §10.3): no parameters, host in lower case.
    pub fn aor(&self) -> String {
        let user = &self.user[..self.user.find([';', ':']).unwrap_or(self.user.len())];
        format!("{user}@{}", self.host.to_ascii_lowercase())
    }
}

fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        (&text[..end], text[end..].strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    match port {
        Some(port) => Some((host, Some(port.trim().parse().ok()?))),
        None => Some((host, None)),
    }
}

/// A numeric host, an IPv6 one with or without its brackets.
pub fn numeric(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A Via value taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    pub transport: &'a str,
    pub sent_by: &'a str,
    pub branch: &'a str,
    value: &'a str,
}

impl<'a> Via<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let (protocol, rest) = value.split_once(char::is_whitespace)?;
        let transport = protocol.rsplit('/').next()?;
        let rest = rest.trim_start();
        let sent_by = rest[..rest.find(';').unwrap_or(rest.len())].trim();
        Some(Self { transport, sent_by, branch: param(value, "branch").unwrap_or(""), value })
    }

    /// Whether the sender asks for `rport` (RFC 3581 §3).
    pub fn asks_rport(&self) -> bool {
        param(self.value, "rport") == Some("")
    }

    /// Host and port of sent-by; `None` for the port when it says none.
    pub fn host_port(&self) -> Option<(&'a str, Option<u16>)> {
        host_port(self.sent_by)
    }

    /// The value with `received` and, when asked for, `rport` filled in (RFC 3261 §18.2.1, RFC 3581 §4).
    pub fn stamped(&self, source: SocketAddr) -> String {
        let named = self.host_port().and_then(|(host, _)| numeric(host)) == Some(source.ip());
        let mut text = self.value.to_owned();
        if self.asks_rport() {
            let port = format!(";rport={}", source.port());
            text = text.replacen(";rport=", ";rport", 1).replacen(";rport", &port, 1);
        }
        if !named || self.asks_rport() {
            text.push_str(&format!(";received={}", source.ip()));
        }
        text
    }
}

/// What stands at the start of a stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed.
    More,
    /// So many bytes of keep-alive: a pair of CRLF asks for an answer (RFC 5626 §4.4.1).
    Ping(usize),
    /// A lone CRLF.
    Pong(usize),
    /// One message of that length.
    Message(usize),
    /// This stream cannot be read on.
    Broken,
}

/// Finds the first message in `bytes`, by Content-Length (RFC 3261 §18.3).
pub fn frame(bytes: &[u8]) -> Frame {
    if bytes.starts_with(b"\r\n\r\n") {
        return Frame::Ping(4);
    }
    if bytes.starts_with(b"\r\n") {
        return if bytes.len() == 3 && bytes[2] == b'\r' { Frame::More } else { Frame::Pong(2) };
    }
    let Some(head_len) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > MESSAGE_LEN_MAX { Frame::Broken } else { Frame::More };
    };
    let mut body_len = 0;
    for line in bytes[..head_len].split(|&byte| byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let label = line[..colon].trim_ascii();
        if label.eq_ignore_ascii_case(b"content-length") || label.eq_ignore_ascii_case(b"l") {
            let value = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok();
            match value.and_then(|value| value.parse::<usize>().ok()) {
                Some(len) if len <= MESSAGE_LEN_MAX => body_len = len,
                _ => return Frame::Broken,
            }
        }
    }
    let len = head_len + 4 + body_len;
    if bytes.len() >= len { Frame::Message(len) } else { Frame::More }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"INVITE sip:bob@example.com;x=1 SIP/2.0\r\n\
        v: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKa , SIP/2.0/TCP b;branch=z9hG4bKb\r\n\
        f: \"A, <B>\" <sip:a@example.com>;tag=1\r\n\
        To: <sip:bob@example.com;user=phone>\r\n\
        Record-Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\n\
        CSeq: 7  INVITE\r\n\
        l: 4\r\n\r\nbody";

    #[test]
    fn compact_folded_and_listed_fields_are_read() {
        let message = Message::parse(INVITE).expect("a message");
        assert_eq!(message.start, Start::Request { method: "INVITE", uri: "sip:bob@example.com;x=1" });
        let via = message.top_via().expect("a Via");
        assert_eq!((via.transport, via.sent_by, via.branch), ("UDP", "192.0.2.1:5060", "z9hG4bKa"));
        let routes: Vec<_> = message.values(Name::RecordRoute).map(uri_of).collect();
        assert_eq!(routes, ["sip:p1;lr", "sip:p2;lr"]);
        let from = message.first(Name::From).expect("a From");
        assert_eq!((uri_of(from), param(from, "tag")), ("sip:a@example.com", Some("1")));
        let to = message.first(Name::To).expect("a To");
        assert_eq!(param(to, "user"), None);
        assert_eq!(message.cseq(), Some((7, "INVITE")));
        assert_eq!(message.body, b"body");
    }

    #[test]
    fn a_stamped_via_tells_source_address_and_port() {
        let message = Message::parse(INVITE).expect("a message");
        let stamped = message.top_via().expect("a Via").stamped("198.51.100.7:4000".parse().expect("an address"));
        assert_eq!(stamped, "SIP/2.0/UDP 192.0.2.1:5060;rport=4000;branch=z9hG4bKa;received=198.51.100.7");
    }

    #[test]
    fn a_stream_is_framed_at_every_split() {
        for cut in 1..INVITE.len() {
            assert_eq!(frame(&INVITE[..cut]), Frame::More, "cut at {cut}");
        }
        let mut two = INVITE.to_vec();
        two.extend_from_slice(b"\r\n\r\nnext");
        assert_eq!(frame(&two), Frame::Message(INVITE.len()));
        assert_eq!(frame(&two[INVITE.len()..]), Frame::Ping(4));
        assert_eq!(frame(b"\r\nINVITE"), Frame::Pong(2));
        assert_eq!(frame(b"A b SIP/2.0\r\nContent-Length: -1\r\n\r\n"), Frame::Broken);
    }

    #[test]
    fn a_uri_is_taken_apart() {
        let uri = Uri::parse("sips:tok;x@[2001:db8::1]:5071;transport=TLS;lr").expect("a URI");
        assert_eq!((uri.secure, uri.user, uri.host, uri.port), (true, "tok;x", "[2001:db8::1]", Some(5071)));
        assert_eq!((uri.param("Transport"), uri.param("lr"), uri.param("ob")), (Some("TLS"), Some(""), None));
        assert_eq!(Uri::parse("sip:Bob@EXAMPLE.com:5060;a=b").expect("a URI").aor(), "Bob@example.com");
        assert_eq!(Uri::parse("tel:+123"), None);
    }
}
