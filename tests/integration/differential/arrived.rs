//! A message as it arrived: lines and body, told apart without looking into them.

use std::fmt;

/// A header field with its name, and all after the colon, as they came; folded lines stay folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: String,
}

impl Field {
    /// Whether the field has this name, or its compact form.
    pub fn is(&self, name: &str) -> bool {
        let compact = match name {
            "Via" => "v",
            "From" => "f",
            "To" => "t",
            "Call-ID" => "i",
            "Contact" => "m",
            "Content-Length" => "l",
            "Supported" => "k",
            _ => name,
        };
        [name, compact].iter().any(|name| self.name.trim().eq_ignore_ascii_case(name))
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub first_line: String,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
}

impl Arrived {
    /// Takes a whole message apart.
    pub fn read(bytes: &[u8]) -> Self {
        let head = head_len(bytes).expect("a whole head");
        let text = String::from_utf8_lossy(&bytes[..head - 4]).into_owned();
        let (first_line, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
        let mut fields: Vec<Field> = Vec::new();
        for line in rest.split("\r\n") {
            match (line.starts_with([' ', '\t']), fields.last_mut()) {
                (true, Some(last)) => last.value += &format!("\r\n{line}"),
                _ => {
                    let (name, value) = line.split_once(':').expect("a header field has a colon");
                    fields.push(Field { name: name.to_owned(), value: value.to_owned() });
                }
            }
        }
        Self { first_line: first_line.to_owned(), fields, body: bytes[head..].to_vec() }
    }

    /// The value of the first field of this name, without the space around it.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.is(name)).map(|field| field.value.trim())
    }

    /// All fields of this name, as lines.
    pub fn lines(&self, name: &str) -> String {
        let fields = self.fields.iter().filter(|field| field.is(name));
        fields.map(|Field { name, value }| format!("{name}:{value}")).collect::<Vec<_>>().join("\r\n")
    }

    /// All values of the fields of this name, joined by commas.
    pub fn joined(&self, name: &str) -> String {
        let fields = self.fields.iter().filter(|field| field.is(name));
        fields.map(|field| field.value.trim()).collect::<Vec<_>>().join(", ")
    }

    pub fn status(&self) -> Option<&str> {
        self.first_line.strip_prefix("SIP/2.0 ")
    }

    /// Whether this is a proxy's own 100, which goes one hop.
    pub fn is_trying(&self) -> bool {
        self.status().is_some_and(|status| status.starts_with("100 "))
    }

    pub fn method(&self) -> &str {
        self.first_line.split(' ').next().unwrap_or_default()
    }
}

impl fmt::Display for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {}", self.first_line)?;
        for Field { name, value } in &self.fields {
            writeln!(f, "    {name}:{}", value.escape_debug())?;
        }
        writeln!(f, "    (body: {} bytes)", self.body.len())
    }
}

/// The length of the head with the empty line after it; `None` while that is not there.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The length of the first whole message of a stream.
pub fn message_len(bytes: &[u8]) -> Option<usize> {
    let head = head_len(bytes)?;
    let len: usize =
        Arrived::read(&bytes[..head]).value("Content-Length").map_or(0, |len| len.parse().expect("a length"));
    (bytes.len() >= head + len).then_some(head + len)
}
