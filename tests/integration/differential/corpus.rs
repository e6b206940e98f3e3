//! The corpus: what the makes of phone, server and border controller in `messages/` say, one file for each make.
//!
//! A file is a row of sections, each begun by a line with `@ `. The first ones say how this make writes:
//!
//! ```text
//! @ phone UDP               which side it stands on (phone or server), and the transport towards the phone
//! @ request                 how it writes a request, with {more} where the lines of one message go
//! @ response                the same for a response
//! @ body NAME               a body, for {NAME}
//! @ METHOD URI              a request: its own lines and, after an empty line, its body
//! @ in-dialog METHOD URI    the same, with a To tag and a Route
//! @ 183 Session Progress    a response to the request before it
//! ```
//!
//! A word in braces stands for what [`Words`] has; `{sp}` and `{tab}` are white space that no editor takes away,
//! `{long N}` is N letters, and `{bytes}` in a body every byte that there is. A line that ends in a word which is empty
//! is left out. A line that begins with white space is folded, as it stands. A line of a message's own that begins with
//! `= ` takes the place of the make's line of that name.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::harness::repository;

/// Where a make stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Phone,
    Server,
}

/// The transport between phone and proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Header lines and body of one message, as the file has them.
#[derive(Clone, Debug, Default)]
pub struct Part {
    lines: String,
    body: String,
}

/// A request and the responses to it, in order; none to an ACK.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub method: String,
    uri: String,
    pub is_in_dialog: bool,
    part: Part,
    pub answers: Vec<(String, Part)>,
}

/// A make, with all that it says.
#[derive(Clone, Debug)]
pub struct Make {
    pub name: String,
    pub side: Side,
    pub transport: Transport,
    request: String,
    response: String,
    bodies: HashMap<String, String>,
    pub exchanges: Vec<Exchange>,
}

/// What the words in braces stand for.
#[derive(Clone, Debug, Default)]
pub struct Words(HashMap<&'static str, String>);

impl Words {
    pub fn set(&mut self, word: &'static str, text: impl Into<String>) -> &mut Self {
        self.0.insert(word, text.into());
        self
    }
}

/// Every make, in the order of their names.
pub fn makes() -> Vec<Make> {
    let folder = std::fs::read_dir(repository("tests/integration/messages")).expect("the corpus");
    let mut files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        Make::read(name, &std::fs::read_to_string(path).expect("text"))
    };
    files.iter().filter(|path| path.extension().is_some_and(|end| end == "txt")).map(read).collect()
}

impl Make {
    fn read(name: String, text: &str) -> Self {
        let (side, transport) = (Side::Phone, Transport::Udp);
        let (request, response, bodies) = (String::new(), String::new(), HashMap::new());
        let mut make = Self { name, side, transport, request, response, bodies, exchanges: Vec::new() };
        for section in text.split("\n@ ").skip(1) {
            let (title, content) = section.split_once('\n').unwrap_or((section, ""));
            make.add(title, content);
        }
        assert!(!make.exchanges.is_empty(), "{}: no message", make.name);
        make
    }

    fn add(&mut self, title: &str, content: &str) {
        let part = || {
            let (lines, body) = match content.strip_prefix('\n') {
                Some(body) => ("", body),
                None => content.split_once("\n\n").unwrap_or((content, "")),
            };
            Part { lines: lines.trim_end_matches('\n').to_owned(), body: body.to_owned() }
        };
        match title.split_once(' ').unwrap_or((title, "")) {
            ("phone", transport) => (self.side, self.transport) = (Side::Phone, Transport::of(transport)),
            ("server", transport) => (self.side, self.transport) = (Side::Server, Transport::of(transport)),
            ("request", _) => self.request = content.trim_end().to_owned(),
            ("response", _) => self.response = content.trim_end().to_owned(),
            ("body", name) => drop(self.bodies.insert(name.to_owned(), content.to_owned())),
            (code, _) if code.starts_with(|c: char| c.is_ascii_digit()) => {
                let exchange = self.exchanges.last_mut().expect("a response follows its request");
                exchange.answers.push((title.replace("{sp}", " "), part()));
            }
            (method, rest) => {
                let is_in_dialog = method == "in-dialog";
                let (method, uri) = if is_in_dialog { rest.split_once(' ').expect("a method") } else { (method, rest) };
                let (method, uri) = (method.to_owned(), uri.to_owned());
                self.exchanges.push(Exchange { method, uri, is_in_dialog, part: part(), answers: Vec::new() });
            }
        }
    }

    /// The request of an exchange, as it goes onto the wire.
    pub fn request(&self, exchange: &Exchange, words: &Words) -> Vec<u8> {
        let mut words = words.clone();
        let uri = self.fill_line(&exchange.uri, &words).0;
        words.set("method", &exchange.method).set("uri", uri);
        self.print(&self.request, &exchange.part, &words)
    }

    /// One of the responses to it.
    pub fn response(&self, (status, part): &(String, Part), words: &Words) -> Vec<u8> {
        let mut words = words.clone();
        words.set("status", status);
        self.print(&self.response, part, &words)
    }

    fn print(&self, template: &str, part: &Part, words: &Words) -> Vec<u8> {
        let body = self.body(&part.body, words);
        let mut words = words.clone();
        words.set("length", body.len().to_string());
        let (replacing, own): (Vec<String>, Vec<String>) =
            fields(&part.lines).into_iter().partition(|field| field.starts_with("= "));
        let more = self.fill(&own.join("\n"), &words);
        words.set("more", more.trim_end_matches("\r\n"));
        let mut lines = fields(template);
        for field in replacing.iter().map(|field| &field[2..]) {
            let same = |line: &&mut String| name_of(line).eq_ignore_ascii_case(name_of(field));
            *lines.iter_mut().find(same).expect("the make has a line of that name") = field.to_owned();
        }
        let mut bytes = self.fill(&lines.join("\n"), &words).into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&body);
        bytes
    }

    fn body(&self, text: &str, words: &Words) -> Vec<u8> {
        let named = |name: &str| self.bodies.get(name).map(|body| self.fill(body, words));
        let mut body = Vec::new();
        for line in text.lines() {
            let word = line.strip_prefix('{').and_then(|line| line.strip_suffix('}'));
            match word.map(|word| (word, named(word))) {
                Some(("bytes", _)) => body.extend(0..=u8::MAX),
                Some((_, Some(text))) => body.extend(text.bytes()),
                _ => body.extend(self.fill(line, words).bytes()),
            }
        }
        body
    }

    /// The lines with their words put in, each ended by CRLF.
    fn fill(&self, text: &str, words: &Words) -> String {
        let mut filled = String::new();
        for line in text.lines() {
            let (line, is_left_out) = self.fill_line(line, words);
            if !is_left_out {
                write!(filled, "{line}\r\n").expect("a String takes all");
            }
        }
        filled
    }

    /// A line with its words put in, and whether it ends in one that is empty.
    fn fill_line(&self, line: &str, words: &Words) -> (String, bool) {
        let (mut filled, mut rest) = (String::new(), line);
        while let Some((before, from)) = rest.split_once('{') {
            let Some((word, after)) = from.split_once('}') else { break };
            let text = match word.split_once(' ') {
                Some(("long", len)) => "long-".repeat(len.parse::<usize>().expect("a length") / 5),
                _ => match (word, words.0.get(word)) {
                    ("sp", _) => " ".to_owned(),
                    ("tab", _) => "\t".to_owned(),
                    (_, Some(text)) => text.clone(),
                    // JSON and MIME have braces of their own.
                    (_, None) => format!("{{{word}}}"),
                },
            };
            filled.push_str(before);
            filled.push_str(&text);
            rest = after;
            if rest.is_empty() && text.is_empty() && (filled.is_empty() || filled.ends_with(": ")) {
                return (filled, true);
            }
        }
        filled.push_str(rest);
        (filled, false)
    }
}

/// Header fields, each with its folded lines.
fn fields(text: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in text.lines() {
        match fields.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => *last += &format!("\n{line}"),
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

fn name_of(field: &str) -> &str {
    field.split(':').next().unwrap_or_default().trim()
}

impl Transport {
    fn of(text: &str) -> Self {
        match text {
            "UDP" => Self::Udp,
            "TCP" => Self::Tcp,
            _ => panic!("{text}: expected UDP or TCP"),
        }
    }

    /// As a Via has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}
