//! What a client offers in its first message (RFC 8446 §4.1.2), for the operator who wants to know why it cannot
//! connect. Pure: read from the bytes again after the handshake has failed, for rustls says only what it missed; and before,
//! in an overload.
//!
//! Nothing of this decides anything but who goes first.

use std::fmt;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;

/// How many entries of a list are written.
const SHOWN_COUNT_MAX: usize = 12;
/// From so many characters on a text is one.
const PLAIN_LEN_MIN: usize = 4;
/// How much of it is written.
const PLAIN_LEN_MAX: usize = 40;

/// An offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Protocol versions by their numbers, such as 0x0303 for TLS 1.2.
    pub versions: Vec<u16>,
    /// Cipher suites by their numbers.
    pub suites: Vec<u16>,
    /// Signature schemes by their numbers; empty for clients before TLS 1.2.
    pub schemes: Vec<u16>,
    /// Application protocols.
    pub protocols: Vec<String>,
    /// The name that it asks for.
    pub name: Option<String>,
    /// It has a ticket of an earlier session (RFC 5077 §3.2, RFC 8446 §4.2.11), good or not.
    pub resumes: bool,
}

impl Offer {
    /// Reads what begins with a client's first message. `None` when that is not there whole, or is none.
    #[must_use]
    pub fn read(records: &[u8]) -> Option<Self> {
        let message = unwrap(records)?;
        let mut at = Reader(&message);
        let legacy = at.u16()?;
        at.take(32)?;
        at.short()?;
        let suites = at.long()?.u16s();
        at.short()?;
        let mut offer = Self { versions: vec![legacy], suites, ..Self::default() };
        // Clients before TLS 1.2 may send no extensions at all.
        let mut extensions = at.long().unwrap_or(Reader(&[]));
        while let Some(kind) = extensions.u16() {
            let mut body = extensions.long()?;
            match kind {
                SERVER_NAME => offer.name = body.long().and_then(|mut list| list.take(1).and(list.long())).map(text),
                SIGNATURE_ALGORITHMS => offer.schemes = body.long()?.u16s(),
                ALPN => {
                    let mut list = body.long()?;
                    while let Some(name) = list.short() {
                        offer.protocols.push(text(name));
                    }
                }
                SESSION_TICKET => offer.resumes |= !body.0.is_empty(),
                PRE_SHARED_KEY => offer.resumes = true,
                SUPPORTED_VERSIONS => offer.versions = body.short()?.u16s(),
                _ => {}
            }
        }
        // Placeholders that keep servers honest (RFC 8701).
        offer.versions.retain(|version| !is_grease(*version));
        offer.suites.retain(|suite| !is_grease(*suite));
        Some(offer)
    }

    /// Whether it can speak TLS 1.2 or newer.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        self.versions.iter().any(|version| *version >= 0x0303)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.versions.iter().map(|version| version_name(*version)).collect();
        write!(f, "{}", versions.join(", "))?;
        write_numbers(f, "; suites", &self.suites)?;
        write_numbers(f, "; signatures", &self.schemes)?;
        if !self.protocols.is_empty() {
            write!(f, "; protocols {}", self.protocols.join(" "))?;
        }
        match &self.name {
            Some(name) => write!(f, "; asks for {name}"),
            None => Ok(()),
        }
    }
}

fn write_numbers(f: &mut fmt::Formatter<'_>, what: &str, numbers: &[u16]) -> fmt::Result {
    if numbers.is_empty() {
        return Ok(());
    }
    f.write_str(what)?;
    numbers.iter().take(SHOWN_COUNT_MAX).try_for_each(|number| write!(f, " {number:04x}"))?;
    match numbers.len().saturating_sub(SHOWN_COUNT_MAX) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn version_name(version: u16) -> String {
    match version {
        0x0300 => "SSL 3.0".to_owned(),
        0x0301 => "TLS 1.0".to_owned(),
        0x0302 => "TLS 1.1".to_owned(),
        0x0303 => "TLS 1.2".to_owned(),
        0x0304 => "TLS 1.3".to_owned(),
        other => format!("version {other:04x}"),
    }
}

fn is_grease(number: u16) -> bool {
    number & 0x0F0F == 0x0A0A && number >> 8 == number & 0xFF
}

/// The message out of its records; a long one is in several.
fn unwrap(records: &[u8]) -> Option<Vec<u8>> {
    let mut at = Reader(records);
    let mut message = Vec::new();
    loop {
        let wanted = match message.get(..4) {
            Some(head) if head[0] != CLIENT_HELLO => return None,
            Some(head) => 4 + usize::from(head[1]) * 65_536 + usize::from(head[2]) * 256 + usize::from(head[3]),
            None => usize::MAX,
        };
        if message.len() >= wanted {
            message.truncate(wanted);
            return Some(message.split_off(4));
        }
        if at.take(1)? != [HANDSHAKE] {
            return None;
        }
        at.take(2)?;
        message.extend_from_slice(at.long()?.0);
    }
}

/// Names come from the network and go into a log.
fn text(bytes: Reader<'_>) -> String {
    let shown = bytes.0.iter().take(64).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' });
    shown.collect()
}

/// The begin of what is text and no TLS at all, such as SIP or HTTP on the wrong port.
#[must_use]
pub fn plain(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let shown = &line[..line.len().min(PLAIN_LEN_MAX)];
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~');
    (shown.len() >= PLAIN_LEN_MIN && shown.iter().all(is_text)).then(|| String::from_utf8_lossy(shown).into_owned())
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    /// What a length of one byte stands before.
    fn short(&mut self) -> Option<Self> {
        let len = self.take(1)?[0];
        self.take(usize::from(len)).map(Self)
    }

    /// What a length of two bytes stands before.
    fn long(&mut self) -> Option<Self> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(Self)
    }

    fn u16s(self) -> Vec<u16> {
        self.0.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(body: &[u8]) -> Vec<u8> {
        [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &long(body)].concat()
    }

    /// A first message in one record.
    fn hello(legacy: u16, suites: &[u8], extensions: Option<Vec<u8>>) -> Vec<u8> {
        let mut body = legacy.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(long(suites));
        body.extend([1, 0]);
        body.extend(extensions.map(|all| long(&all)).unwrap_or_default());
        let message = [&[1, 0][..], &long(&body)].concat();
        [&[22, 3, 1][..], &long(&message)].concat()
    }

    #[test]
    fn an_old_phones_offer_is_read_and_said() {
        let offer = Offer::read(&hello(0x0302, &[0xC0, 0x13, 0, 0x2F], None)).unwrap();
        assert!(!offer.is_modern());
        assert_eq!(offer.to_string(), "TLS 1.1; suites c013 002f");
    }

    #[test]
    fn a_new_ones_is_read_whatever_its_records_and_its_placeholders_are_left_out() {
        let extensions = [
            extension(0, &long(&[&[0][..], &long(b"sip.example\n")].concat())),
            extension(13, &long(&[4, 3, 8, 4])),
            extension(16, &long(b"\x02h2\x05sip/2")),
            extension(43, &[6, 0x1A, 0x1A, 3, 4, 3, 3]),
        ];
        let whole = hello(0x0303, &[0x13, 1, 0xDA, 0xDA], Some(extensions.concat()));
        let offer = Offer::read(&whole).unwrap();
        assert!(offer.is_modern());
        let said = "TLS 1.3, TLS 1.2; suites 1301; signatures 0403 0804; protocols h2 sip/2; asks for sip.example?";
        assert_eq!(offer.to_string(), said);
        let (first, second) = whole[5..].split_at(20);
        let cut = [&[22, 3, 1][..], &long(first), &[22, 3, 1], &long(second)].concat();
        assert_eq!(Offer::read(&cut), Some(offer));
    }

    #[test]
    fn who_has_a_ticket_says_so_in_either_version() {
        let resumes = |extensions: Vec<u8>| Offer::read(&hello(0x0303, &[0x13, 1], Some(extensions))).unwrap().resumes;
        assert!(resumes(extension(35, b"ticket")) && resumes(extension(41, b"identities and binders")));
        assert!(!resumes(extension(35, b"")), "it would take one");
        assert!(!resumes(extension(43, &[2, 3, 4])));
    }

    #[test]
    fn what_is_cut_or_something_else_is_none() {
        let whole = hello(0x0303, &[0x13, 1], Some(extension(43, &[2, 3, 4])));
        for end in 0..whole.len() {
            assert_eq!(Offer::read(&whole[..end]), None, "cut at {end}");
        }
        assert_eq!(Offer::read(b"OPTIONS sip:example.com SIP/2.0\r\n\r\n"), None);
    }

    #[test]
    fn text_is_told_from_what_is_none() {
        assert_eq!(plain(b"GET / HTTP/1.1\r\nHost: a\r\n").as_deref(), Some("GET / HTTP/1.1"));
        let long = format!("REGISTER sip:{} SIP/2.0\r\n", "a".repeat(100));
        assert_eq!(plain(long.as_bytes()).unwrap().len(), PLAIN_LEN_MAX);
        for none in
            [&b"\r\n\r\n"[..], b"", b"GET", b"\x16\x03\x01\x02", b"GET \x1b[31m / HTTP/1.1\r\n", b"\x80.\x01\x00"]
        {
            assert_eq!(plain(none), None);
        }
    }
}
