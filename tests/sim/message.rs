//! Messages as parties read and write them: lines, not spans, and by other code than the proxy's own.

use std::fmt::Write as _;

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msg {
    pub start: String,
    /// In order, as written.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Msg {
    pub fn request(method: &str, uri: &str) -> Self {
        Self { start: format!("{method} {uri} SIP/2.0"), fields: Vec::new(), body: Vec::new() }
    }

    /// Reads a whole message. `None` when it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let mut fields = Vec::with_capacity(16);
        for line in lines {
            let (name, value) = line.split_once(':')?;
            fields.push((name.trim_end().to_owned(), value.trim().to_owned()));
        }
        Some(Self { start, fields, body: bytes[end + 4..].to_vec() })
    }

    /// Takes the first whole message off a stream; what stands before it is keep-alives.
    pub fn take(stream: &mut Vec<u8>) -> Option<Vec<u8>> {
        let pings = stream.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        stream.drain(..pings);
        let head = memchr::memmem::find(stream, b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&stream[..head]).expect("the proxy sends text");
        let line = text.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
        let len: usize = line.expect("a length over a stream").parse().expect("a number");
        (stream.len() >= head + len).then(|| stream.drain(..head + len).collect())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = String::with_capacity(512);
        out.push_str(&self.start);
        out.push_str("\r\n");
        for (name, value) in &self.fields {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.fields.push((name.to_owned(), value.into()));
    }

    /// Puts a field in front of all others.
    pub fn push_front(&mut self, name: &str, value: impl Into<String>) {
        self.fields.insert(0, (name.to_owned(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.fields.iter_mut().find(|(field, _)| field.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value.into(),
            None => self.push(name, value),
        }
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first field of this name, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub fn is_request(&self) -> bool {
        !self.start.starts_with("SIP/2.0 ")
    }

    pub fn method(&self) -> &str {
        match self.is_request() {
            true => self.start.split(' ').next().unwrap_or(""),
            false => self.get("CSeq").split(' ').nth(1).unwrap_or(""),
        }
    }

    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    pub fn set_uri(&mut self, uri: &str) {
        self.start = format!("{} {uri} SIP/2.0", self.method());
    }

    pub fn code(&self) -> u16 {
        self.start.get(8..11).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub fn cseq(&self) -> u32 {
        self.get("CSeq").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    pub fn branch(&self) -> &str {
        parameter(self.get("Via"), "branch")
    }

    /// What names a transaction: its method (that of the INVITE for an ACK or a CANCEL's own), and its branch.
    pub fn key(&self) -> String {
        let method = if self.method() == "ACK" { "INVITE" } else { self.method() };
        format!("{method} {}", self.branch())
    }

    /// A response to this request, with its Vias and Record-Routes.
    pub fn answer(&self, status: &str, tag: &str) -> Self {
        let mut out = Self { start: format!("SIP/2.0 {status}"), fields: Vec::with_capacity(12), body: Vec::new() };
        let makes_dialog = matches!(self.method(), "INVITE" | "SUBSCRIBE" | "NOTIFY" | "REFER");
        for (name, value) in &self.fields {
            match name.as_str() {
                "Via" | "From" | "Call-ID" | "CSeq" => out.push(name, value.as_str()),
                "Record-Route" if makes_dialog => out.push(name, value.as_str()),
                "To" if value.contains("tag=") || status.starts_with("100") => out.push(name, value.as_str()),
                "To" => out.push(name, format!("{value};tag={tag}")),
                _ => {}
            }
        }
        out
    }

    /// The CANCEL of this INVITE, or the ACK to its final error `of`.
    pub fn within(&self, method: &str, of: Option<&Self>) -> Self {
        let mut out = Self::request(method, self.uri());
        for (name, value) in &self.fields {
            match name.as_str() {
                "Via" if out.get("Via").is_empty() => out.push(name, value.as_str()),
                "Max-Forwards" | "Route" | "From" | "Call-ID" => out.push(name, value.as_str()),
                "To" => out.push(name, of.map_or(value.as_str(), |response| response.get("To"))),
                _ => {}
            }
        }
        out.push("CSeq", format!("{} {method}", self.cseq()));
        out
    }
}

/// A parameter's value, or nothing.
pub fn parameter<'a>(value: &'a str, name: &str) -> &'a str {
    let mut parameters = value.split(';').skip(1);
    let found = parameters.find_map(|one| one.trim().strip_prefix(name)?.strip_prefix('='));
    found.map_or("", |value| value.split([',', '>', ' ']).next().unwrap_or(""))
}

/// The URI in the brackets of a value.
pub fn uri_of(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
}

/// The user part of a URI.
pub fn user_of(uri: &str) -> &str {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    rest.split_once('@').map_or("", |(user, _)| user)
}
