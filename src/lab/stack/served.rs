//! Server transactions (RFC 3261 §17.2, §9.2, §18.2, RFC 6026 §7.1): what we are asked, and our answer.
//!
//! Owns: requests that are being answered and the matching of their repetitions, CANCEL and ACK. Must not touch: our
//! own requests.

use super::{Alarm, Cookie, Server, ServerId, ServerState, Stack, User, finish};
use crate::net::{ConnId, Link, Net, SERVER, Transport};
use crate::text::{Message, Name};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io::Write;
use std::net::SocketAddr;

impl Stack {
    /// Lets the user find its own state again when a CANCEL comes or an ACK is missing.
    pub fn mark(&mut self, id: ServerId, cookie: Cookie) {
        if let Some(server) = self.server(id) {
            server.cookie = cookie;
        }
    }

    /// Answers over `link` from now on when the connection that the request came over is gone: a phone behind a proxy
    /// has no other way than its new flow (RFC 3261 §18.2.2, RFC 5626 §4.3).
    pub fn answer_over(&mut self, id: ServerId, link: Link) {
        let Some(server) = self.servers.get_mut(id.slot as usize).filter(|server| server.serial == id.serial) else {
            return;
        };
        if matches!(server.link, Link::Stream(conn) if !self.net.is_alive(conn)) {
            server.link = link;
        }
    }

    pub(super) fn server(&mut self, id: ServerId) -> Option<&mut Server> {
        self.servers.get_mut(id.slot as usize).filter(|server| server.serial == id.serial)
    }

    /// Whether the request still waits for its final response.
    pub fn is_unanswered(&mut self, id: ServerId) -> bool {
        self.server(id).is_some_and(|server| server.state == ServerState::Proceeding)
    }

    /// Answers. `extra` are whole header lines. A transaction that has been answered already stays as it is.
    pub fn respond(&mut self, id: ServerId, code: u16, reason: &str, tag: &str, extra: &str, body: &[u8]) {
        let (now_us, timers) = (self.now_us, self.timers);
        let Some(server) = self.servers.get_mut(id.slot as usize).filter(|server| server.serial == id.serial) else {
            return;
        };
        if server.state != ServerState::Proceeding {
            return;
        }
        let mut bytes = Vec::with_capacity(server.head.len() + extra.len() + body.len() + 128);
        write!(bytes, "SIP/2.0 {code} {reason}\r\n").expect("a Vec takes everything");
        bytes.extend_from_slice(&server.head);
        if code > 100 && !server.has_to_tag {
            write!(bytes, ";tag={tag}").expect("a Vec takes everything");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(extra.as_bytes());
        finish(&mut bytes, body);
        self.tally.messages_out += 1;
        if !self.net.send(server.link, &bytes) {
            let link = server.sent_by.and_then(|to| reopen(&mut self.net, &mut self.reopened, to));
            server.link = link.unwrap_or(server.link);
            if !self.net.send(server.link, &bytes) {
                self.tally.undeliverable += 1;
            }
        }
        server.last = bytes;
        if code < 200 {
            return;
        }
        let is_lossy = server.link.is_lossy();
        server.head = Vec::new();
        if server.is_invite {
            server.state = if code < 300 { ServerState::Accepted } else { ServerState::Completed };
            server.resend_us = timers.t1_us;
            if is_lossy || code < 300 {
                self.wheel.set(now_us + timers.t1_us, Alarm::ServerResend(id));
            }
            self.wheel.set(now_us + timers.give_up_us, Alarm::ServerGiveUp(id));
        } else if is_lossy {
            server.state = ServerState::Completed;
            self.wheel.set(now_us + timers.linger_us, Alarm::ServerForget(id));
        } else {
            self.forget_server(id);
        }
    }

    /// The ACK for our 2xx has come: it is not repeated any more.
    pub fn acked(&mut self, id: ServerId) {
        if self.server(id).is_some_and(|server| server.state == ServerState::Accepted) {
            self.confirm(id);
        }
    }

    /// An ACK has come: nothing is repeated any more.
    fn confirm(&mut self, id: ServerId) {
        let server = &mut self.servers[id.slot as usize];
        server.state = ServerState::Confirmed;
        server.last = Vec::new();
        if server.link.is_lossy() {
            self.wheel.set(self.now_us + self.timers.linger_us, Alarm::ServerForget(id));
        } else {
            self.forget_server(id);
        }
    }

    pub(super) fn forget_server(&mut self, id: ServerId) {
        if self.server(id).is_some() {
            let server = self.servers.remove(id.slot as usize);
            if self.keys.get(&server.key) == Some(&id) {
                self.keys.remove(&server.key);
            }
        }
    }

    pub(super) fn on_request(
        &mut self,
        user: &mut impl User,
        owner: u32,
        link: Link,
        message: &Message<'_>,
        method: &str,
    ) {
        let Some(via) = message.top_via() else {
            self.tally.malformed_in += 1;
            return;
        };
        let key_of = |method: &str| self.hasher.hash_one((via.branch, via.sent_by, method, owner));
        let key = key_of(if method == "ACK" { "INVITE" } else { method });
        let known = self.keys.get(&key).copied();
        if method == "ACK" {
            return self.on_ack(user, owner, known, message);
        }
        if let Some(id) = known {
            self.tally.retransmissions_in += 1;
            let server = &self.servers[id.slot as usize];
            if !server.last.is_empty() {
                self.net.send(server.link, &server.last);
                self.tally.responses_resent += 1;
            }
            return;
        }
        let invite = (method == "CANCEL").then(|| self.keys.get(&key_of("INVITE")).copied());
        let id = self.open_server(key, method == "INVITE", owner, link, message);
        match invite {
            None => user.request(self, id, owner, link, message),
            Some(None) => self.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b""),
            Some(Some(invite)) => {
                self.respond(id, 200, "OK", "lab", "", b"");
                let server = &self.servers[invite.slot as usize];
                if server.state == ServerState::Proceeding {
                    let cookie = server.cookie;
                    user.cancel(self, invite, cookie);
                }
            }
        }
    }

    pub(super) fn on_ack(&mut self, user: &mut impl User, owner: u32, known: Option<ServerId>, message: &Message<'_>) {
        let completed = known.filter(|&id| self.server(id).is_some_and(|s| s.state == ServerState::Completed));
        match completed {
            Some(id) => self.confirm(id),
            None => user.ack(self, owner, message),
        }
    }

    pub(super) fn open_server(
        &mut self,
        key: u64,
        is_invite: bool,
        owner: u32,
        link: Link,
        message: &Message<'_>,
    ) -> ServerId {
        let serial = self.next_serial();
        let (reply, sent_by) = self.where_answers_go(owner, link, message);
        let mut head = self.head_of_answers(link, is_invite, message);
        let to = message.first(Name::To).unwrap_or("");
        write!(head, "To: {to}").expect("a Vec takes everything");
        let slot = self.servers.insert(Server {
            serial,
            key,
            cookie: Cookie::default(),
            link: reply,
            is_invite,
            state: ServerState::Proceeding,
            resend_us: 0,
            sent_by,
            head,
            has_to_tag: crate::text::param(to, "tag").is_some(),
            last: Vec::new(),
        });
        let id = ServerId { slot: slot as u32, serial };
        self.keys.insert(key, id);
        id
    }

    /// The link that answers take, and for those of the SIP Server where a new connection would have to lead.
    fn where_answers_go(
        &self,
        owner: u32,
        link: Link,
        message: &Message<'_>,
    ) -> (Link, Option<(Transport, SocketAddr)>) {
        let (Some(top), Some(source)) = (message.top_via(), self.net.peer_addr(link)) else { return (link, None) };
        if let Link::Udp { socket, .. } = link {
            // RFC 3581 §4, else RFC 3261 §18.2.2: the source address and the port of sent-by.
            let port = match top.host_port() {
                Some((_, port)) if !top.asks_rport() => port.unwrap_or(5_060),
                _ => source.port(),
            };
            return (Link::Udp { socket, peer: SocketAddr::new(source.ip(), port) }, None);
        }
        let transport = self.net.transport(link).filter(|_| owner == SERVER);
        let sent_by = transport
            .zip(top.host_port())
            .and_then(|(transport, (host, port))| Some((transport, super::address(host, port, transport)?)));
        (link, sent_by)
    }

    /// What every answer repeats of its request (RFC 3261 §8.2.6.2), but for To.
    fn head_of_answers(&self, link: Link, is_invite: bool, message: &Message<'_>) -> Vec<u8> {
        let mut head = Vec::with_capacity(512);
        let source = self.net.peer_addr(link);
        for (at, via) in message.values(Name::Via).enumerate() {
            match (at, message.top_via(), source) {
                (0, Some(top), Some(source)) => write!(head, "Via: {}\r\n", top.stamped(source)),
                _ => write!(head, "Via: {via}\r\n"),
            }
            .expect("a Vec takes everything");
        }
        if is_invite {
            for route in message.values(Name::RecordRoute) {
                write!(head, "Record-Route: {route}\r\n").expect("a Vec takes everything");
            }
        }
        for (label, name) in [("From", Name::From), ("Call-ID", Name::CallId), ("CSeq", Name::Cseq)] {
            write!(head, "{label}: {}\r\n", message.first(name).unwrap_or("")).expect("a Vec takes everything");
        }
        head
    }

    /// Timer G; and the 2xx of an INVITE until its ACK.
    pub(super) fn resend_response(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(id.slot as usize).filter(|s| s.serial == id.serial) else { return };
        if matches!(server.state, ServerState::Completed | ServerState::Accepted) {
            server.resend_us = (server.resend_us * 2).min(self.timers.t2_us);
            self.net.send(server.link, &server.last);
            self.tally.responses_resent += 1;
            self.wheel.set(self.now_us + server.resend_us, Alarm::ServerResend(id));
        }
    }
}

/// A connection to where an answer goes whose stream is gone.
fn reopen(
    net: &mut Net,
    reopened: &mut HashMap<(Transport, SocketAddr), ConnId>,
    to: (Transport, SocketAddr),
) -> Option<Link> {
    if let Some(&conn) = reopened.get(&to).filter(|conn| net.is_alive(**conn)) {
        return Some(Link::Stream(conn));
    }
    let conn = net.connect(SERVER, to.0, to.1, None).ok()?;
    reopened.insert(to, conn);
    Some(Link::Stream(conn))
}
