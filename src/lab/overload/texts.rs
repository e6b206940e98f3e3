//! What is sent: texts made once, into which each call's number is written, and the outbox in which they wait.
//!
//! Owns: the text of a caller's requests and of the SIP Server's answers. Must not touch: sockets, time, state.

use super::answer;
use std::net::SocketAddr;

/// Stands in a template for the number of a call.
const HOLE: &[u8] = b"############";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Datagrams that wait to be sent.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Of each: its socket, and where it ends.
    ends: Vec<(usize, usize)>,
}

impl Outbox {
    /// One more, as `write` writes it.
    pub fn push(&mut self, socket: usize, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push((socket, self.bytes.len()));
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// All of them in order: socket and bytes.
    pub fn datagrams(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut from = 0;
        self.ends.iter().map(move |&(socket, end)| (socket, &self.bytes[std::mem::replace(&mut from, end)..end]))
    }
}

/// A text with places for the number of a call.
#[derive(Debug)]
struct Template {
    text: Vec<u8>,
    holes: Vec<usize>,
}

impl Template {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let holes = memchr::memmem::find_iter(&text, HOLE).collect();
        Self { text, holes }
    }

    fn write(&self, call: u64, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.text);
        for hole in &self.holes {
            for (digit, place) in out[from + hole..][..HOLE.len()].iter_mut().rev().enumerate() {
                *place = HEX[(call >> (4 * digit)) as usize & 15];
            }
        }
    }
}

/// Which request of a call an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Invite,
    Bye,
}

/// The requests that leave from one address.
#[derive(Debug)]
pub struct CallerTexts {
    invite: Template,
    /// For a final answer other than 2xx: hop by hop, so with the branch of the INVITE. The value of To follows.
    ack: Template,
    /// In the dialog: what follows the first line, up to the routes and To.
    ack_within: Template,
    bye: Template,
}

impl CallerTexts {
    /// `run` keeps the calls of one run apart from those of the one before.
    pub fn new(addr: SocketAddr, domain: &str, run: u32) -> Self {
        let callee = format!("sip:callee@{domain}");
        let common = |branch: char, cseq: &str| {
            format!(
                "Via: SIP/2.0/UDP {addr};branch=z9hG4bK-{run:08x}-{branch}############\r\nMax-Forwards: 70\r\n\
                 From: <sip:caller@{domain}>;tag=############\r\nCall-ID: ############-{run:08x}@overload\r\n\
                 CSeq: {cseq}\r\nContent-Length: 0\r\n"
            )
        };
        let invite = common('i', "1 INVITE");
        let contact = format!("Contact: <sip:caller@{addr}>\r\n");
        Self {
            invite: Template::new(&format!("INVITE {callee} SIP/2.0\r\n{invite}{contact}To: <{callee}>\r\n\r\n")),
            ack: Template::new(&format!("ACK {callee} SIP/2.0\r\n{}", common('i', "1 ACK"))),
            ack_within: Template::new(&common('a', "1 ACK")),
            bye: Template::new(&common('b', "2 BYE")),
        }
    }

    pub fn write_invite(&self, call: u64, out: &mut Vec<u8>) {
        self.invite.write(call, out);
    }

    /// The ACK of a refusal.
    pub fn write_ack(&self, call: u64, refusal: &[u8], out: &mut Vec<u8>) {
        self.ack.write(call, out);
        write_to(refusal, out);
    }

    /// The ACK of a 2xx.
    pub fn write_ack_within(&self, call: u64, answer: &[u8], out: &mut Vec<u8>) {
        write_within(b"ACK ", &self.ack_within, call, answer, out);
    }

    pub fn write_bye(&self, call: u64, answer: &[u8], out: &mut Vec<u8>) {
        write_within(b"BYE ", &self.bye, call, answer, out);
    }
}

/// The mark before the letter and the number in the branches of a run.
pub fn branch_mark(run: u32) -> Vec<u8> {
    format!(";branch=z9hG4bK-{run:08x}-").into_bytes()
}

/// What an answer of this run is for.
pub fn read_branch(message: &[u8], mark: &[u8]) -> Option<(Asked, u64)> {
    let (&letter, rest) = answer::after(message, mark)?.split_first()?;
    let asked = match letter {
        b'i' => Asked::Invite,
        b'b' => Asked::Bye,
        _ => return None,
    };
    let digits = std::str::from_utf8(rest.get(..HOLE.len())?).ok()?;
    Some((asked, u64::from_str_radix(digits, 16).ok()?))
}

fn write_within(method: &[u8], template: &Template, call: u64, answer: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(method);
    out.extend_from_slice(answer::value(answer, b"Contact").map_or(b"sip:none", answer::uri));
    out.extend_from_slice(b" SIP/2.0\r\n");
    template.write(call, out);
    for route in answer::values(answer, b"Record-Route").rev() {
        write_field(b"Route", route, out);
    }
    write_to(answer, out);
}

/// The value of To as the answer has it, and the end of the head.
fn write_to(answer: &[u8], out: &mut Vec<u8>) {
    write_field(b"To", answer::value(answer, b"To").unwrap_or_default(), out);
    out.extend_from_slice(b"\r\n");
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The SIP Server's 200 to a request; `contact` is its own address.
pub fn write_ok(request: &[u8], contact: SocketAddr, out: &mut Vec<u8>) {
    const COPIED: [&[u8]; 5] = [b"Via", b"Record-Route", b"From", b"Call-ID", b"CSeq"];
    out.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    for (name, value) in answer::fields(request) {
        if COPIED.iter().any(|copied| name.eq_ignore_ascii_case(copied)) {
            write_field(name, value, out);
        } else if name.eq_ignore_ascii_case(b"To") {
            out.extend_from_slice(b"To: ");
            out.extend_from_slice(value);
            let is_tagged = memchr::memmem::find(value, b";tag=").is_some();
            out.extend_from_slice(if is_tagged { b"\r\n" } else { b";tag=server\r\n" });
        }
    }
    out.extend_from_slice(format!("Contact: <sip:server@{contact}>\r\nContent-Length: 0\r\n\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Message, Name, Start};

    fn parsed(bytes: &[u8]) -> Message<'_> {
        Message::parse(bytes).expect("it is SIP")
    }

    #[test]
    fn a_call_is_one_dialog_by_the_labs_own_parser() {
        let texts = CallerTexts::new("127.1.0.1:9".parse().unwrap(), "example.com", 0xabc);
        let (mut invite, mut ok, mut ack, mut bye) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        texts.write_invite(0x12_3456, &mut invite);
        let forwarded = [
            &b"INVITE sip:x SIP/2.0\r\nRecord-Route: <sip:near;lr>\r\nRecord-Route: <sip:far;lr>\r\n"[..],
            &invite[invite.iter().position(|&byte| byte == b'\n').unwrap() + 1..],
        ]
        .concat();
        write_ok(&forwarded, "127.0.0.1:7000".parse().unwrap(), &mut ok);
        texts.write_ack_within(0x12_3456, &ok, &mut ack);
        texts.write_bye(0x12_3456, &ok, &mut bye);

        assert_eq!(read_branch(&ok, &branch_mark(0xabc)), Some((Asked::Invite, 0x12_3456)));
        assert_eq!(read_branch(&ok, &branch_mark(0xabd)), None, "another run's");
        assert_eq!(read_branch(&bye, &branch_mark(0xabc)), Some((Asked::Bye, 0x12_3456)));
        assert_eq!(parsed(&ack).cseq(), Some((1, "ACK")));
        assert_eq!(parsed(&bye).start, Start::Request { method: "BYE", uri: "sip:server@127.0.0.1:7000" });
        assert_eq!(parsed(&bye).values(Name::Route).collect::<Vec<_>>(), ["<sip:far;lr>", "<sip:near;lr>"]);
        assert_eq!(parsed(&bye).first(Name::To), Some("<sip:callee@example.com>;tag=server"));
        for name in [Name::CallId, Name::From] {
            assert_eq!(parsed(&invite).first(name), parsed(&bye).first(name));
        }
        assert_ne!(parsed(&invite).first(Name::Via), parsed(&ack).first(Name::Via));
    }

    #[test]
    fn a_refusal_is_acknowledged_hop_by_hop() {
        let texts = CallerTexts::new("127.1.0.1:9".parse().unwrap(), "example.com", 1);
        let (mut invite, mut ack) = (Vec::new(), Vec::new());
        texts.write_invite(7, &mut invite);
        texts.write_ack(7, b"SIP/2.0 503 No\r\nTo: <sip:callee@example.com>;tag=t\r\n\r\n", &mut ack);
        assert_eq!(parsed(&invite).first(Name::Via), parsed(&ack).first(Name::Via));
        assert_eq!(parsed(&ack).first(Name::To), Some("<sip:callee@example.com>;tag=t"));
        assert_eq!(parsed(&ack).start, Start::Request { method: "ACK", uri: "sip:callee@example.com" });
    }

    #[test]
    fn an_outbox_gives_what_was_put_in() {
        let mut outbox = Outbox::default();
        outbox.push(3, |out| out.extend_from_slice(b"one"));
        outbox.push(4, |out| out.extend_from_slice(b"two"));
        assert_eq!(outbox.datagrams().collect::<Vec<_>>(), [(3, &b"one"[..]), (4, b"two")]);
        outbox.clear();
        assert_eq!(outbox.datagrams().count(), 0);
    }
}
