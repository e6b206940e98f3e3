//! A dialog's state and the requests inside it (RFC 3261 §12).
//!
//! Owns: Call-ID, tags, sequence numbers, route set, remote target. Must not touch: sockets, transactions.
//! Tags that the lab makes carry the slot and serial of their call, so that a request inside a dialog finds
//! its call without a table.

use crate::net::Transport;
use crate::stack::{Draft, Stack};
use crate::text::{self, Message, Name, Uri};
use std::net::SocketAddr;

/// What a tag of ours names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub slot: u32,
    pub serial: u32,
    pub leg: u8,
}

impl Tag {
    pub fn print(self, boot: u32) -> String {
        format!("{boot:08x}-{:x}-{:x}-{}", self.slot, self.serial, self.leg)
    }

    pub fn parse(text: &str, boot: u32) -> Option<Self> {
        let mut parts = text.split('-');
        let is_ours = u32::from_str_radix(parts.next()?, 16).ok()? == boot;
        let slot = u32::from_str_radix(parts.next()?, 16).ok()?;
        let serial = u32::from_str_radix(parts.next()?, 16).ok()?;
        let leg = parts.next()?.parse().ok()?;
        (is_ours && leg < 2 && parts.next().is_none()).then_some(Self { slot, serial, leg })
    }

    /// The tag in a request's To, when it is one of ours.
    pub fn of(message: &Message<'_>, boot: u32) -> Option<Self> {
        Self::parse(text::param(message.first(Name::To)?, "tag")?, boot)
    }
}

/// One side's view of a dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    call_id: Box<str>,
    local: Box<str>,
    remote: Box<str>,
    target: Box<str>,
    routes: Vec<Box<str>>,
    pub cseq: u32,
    remote_cseq: Option<u32>,
}

impl Dialog {
    /// The callee's side, from the INVITE and the tag that its answer carries (RFC 3261 §12.1.1).
    pub fn of_invite(invite: &Message<'_>, tag: &str) -> Option<Self> {
        Some(Self {
            call_id: invite.first(Name::CallId)?.into(),
            local: format!("{};tag={tag}", invite.first(Name::To)?).into(),
            remote: invite.first(Name::From)?.into(),
            target: text::uri_of(invite.values(Name::Contact).next()?).into(),
            routes: invite.values(Name::RecordRoute).map(Box::from).collect(),
            cseq: 0,
            remote_cseq: invite.cseq().map(|(number, _)| number),
        })
    }

    /// The caller's side, from a response that has a To tag (RFC 3261 §12.1.2).
    pub fn of_answer(answer: &Message<'_>) -> Option<Self> {
        let mut routes: Vec<Box<str>> = answer.values(Name::RecordRoute).map(Box::from).collect();
        routes.reverse();
        Some(Self {
            call_id: answer.first(Name::CallId)?.into(),
            local: answer.first(Name::From)?.into(),
            remote: answer.first(Name::To)?.into(),
            target: text::uri_of(answer.values(Name::Contact).next()?).into(),
            routes,
            cseq: answer.cseq()?.0,
            remote_cseq: None,
        })
    }

    /// Takes the Contact of a target refresh (RFC 3261 §12.2.2).
    pub fn refresh(&mut self, message: &Message<'_>) {
        if let Some(contact) = message.values(Name::Contact).next() {
            self.target = text::uri_of(contact).into();
        }
    }

    /// Whether a request's number is new here; RFC 3261 §12.2.2 refuses an older one with 500.
    pub fn accepts(&mut self, cseq: u32) -> bool {
        let is_new = self.remote_cseq.is_none_or(|last| cseq > last);
        if is_new {
            self.remote_cseq = Some(cseq);
        }
        is_new
    }

    /// The URI that says where requests inside the dialog go first.
    pub fn next_hop(&self) -> &str {
        self.routes.first().map_or(&self.target, |route| text::uri_of(route))
    }

    /// Begins a request inside the dialog with the next sequence number, or the ACK to number `cseq`.
    pub fn draft(
        &mut self,
        stack: &mut Stack,
        method: &str,
        ack_of: Option<u32>,
        transport: Transport,
        sent_by: SocketAddr,
    ) -> Draft {
        let cseq = ack_of.unwrap_or_else(|| {
            self.cseq += 1;
            self.cseq
        });
        let is_strict = self
            .routes
            .first()
            .is_some_and(|route| Uri::parse(text::uri_of(route)).is_some_and(|uri| uri.param("lr").is_none()));
        let uri = if is_strict { text::uri_of(&self.routes[0]) } else { &self.target };
        let mut draft = stack.draft(method, uri, transport, sent_by);
        for route in &self.routes[usize::from(is_strict)..] {
            draft.line("Route", route);
        }
        if is_strict {
            draft.line("Route", format_args!("<{}>", self.target));
        }
        draft.line("Max-Forwards", 70);
        draft.line("From", &self.local);
        draft.line("To", &self.remote);
        draft.line("Call-ID", &self.call_id);
        draft.line("CSeq", format_args!("{cseq} {method}"));
        draft
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Net, TlsSettings};
    use crate::stack::Timers;

    const ANSWER: &[u8] = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
        Record-Route: <sip:near;lr>, <sip:middle;lr>\r\nRecord-Route: <sip:far>\r\n\
        From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\nCall-ID: c\r\nCSeq: 4 INVITE\r\n\
        Contact: <sip:b@192.0.2.9:5060>\r\nContent-Length: 0\r\n\r\n";

    fn lines(mut dialog: Dialog) -> Vec<String> {
        let net = Net::new(TlsSettings::default()).expect("a poll");
        let mut stack = Stack::new(net, Timers::default());
        let sent_by = "127.0.0.1:9".parse().expect("an address");
        let draft = dialog.draft(&mut stack, "BYE", None, Transport::Udp, sent_by);
        let text = String::from_utf8(draft.bytes).expect("text");
        text.lines().filter(|line| !line.starts_with("Via") && !line.starts_with("Max")).map(str::to_owned).collect()
    }

    #[test]
    fn the_caller_reverses_the_route_set_and_obeys_a_strict_router() {
        let answer = Message::parse(ANSWER).expect("a message");
        let expected = [
            "BYE sip:far SIP/2.0",
            "Route: <sip:middle;lr>",
            "Route: <sip:near;lr>",
            "Route: <sip:b@192.0.2.9:5060>",
            "From: <sip:a@x>;tag=1",
            "To: <sip:b@x>;tag=2",
            "Call-ID: c",
            "CSeq: 5 BYE",
        ];
        assert_eq!(lines(Dialog::of_answer(&answer).expect("a dialog")), expected);
    }

    #[test]
    fn the_callee_keeps_the_order_and_its_own_tag() {
        let invite = b"INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
            Record-Route: <sip:near;lr>, <sip:far;lr>\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\n\
            Call-ID: c\r\nCSeq: 4 INVITE\r\nContact: <sip:a@h>\r\n\r\n";
        let mut dialog = Dialog::of_invite(&Message::parse(invite).expect("a message"), "9").expect("a dialog");
        assert!(!dialog.accepts(4) && dialog.accepts(5) && !dialog.accepts(5));
        assert_eq!(dialog.next_hop(), "sip:near;lr");
        let expected = [
            "BYE sip:a@h SIP/2.0",
            "Route: <sip:near;lr>",
            "Route: <sip:far;lr>",
            "From: <sip:b@x>;tag=9",
            "To: <sip:a@x>;tag=1",
            "Call-ID: c",
            "CSeq: 1 BYE",
        ];
        assert_eq!(lines(dialog), expected);
    }

    #[test]
    fn only_our_own_tags_are_read_back() {
        let tag = Tag { slot: 7, serial: 300, leg: 1 };
        assert_eq!(Tag::parse(&tag.print(5), 5), Some(tag));
        assert_eq!(Tag::parse(&tag.print(5), 6), None);
        assert_eq!(Tag::parse("a-b", 5), None);
    }
}
