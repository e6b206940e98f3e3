//! One user agent's transaction layer, shared by the SIP Server and all phones of a process.
//!
//! Owns: client and server transactions, their timers, retransmissions and the matching of responses,
//! CANCEL and ACK (RFC 3261 §17, §9, RFC 6026 §7), and the 2xx that a UAS repeats until its ACK comes
//! (RFC 3261 §13.3.1.4). Must not touch: registrations, dialogs, statistics of calls.
//! Left out on purpose: opening a connection for an answer whose stream is gone (RFC 3261 §18.2.2); the user may
//! name another with [`Stack::answer_over`], else it is counted as undeliverable.
//!
//! A client transaction is found by its branch, which carries slot and serial; a server transaction by a
//! keyed hash of branch, sent-by, method and the owner of the socket, so that a request that reaches the
//! wrong phone never passes for a retransmission.

use crate::net::{Closed, ConnId, Link, Net, NetEvent, Transport};
use crate::tally::Tally;
use crate::text::{Message, Name, Start, numeric};
use crate::wheel::Wheel;
use slab::Slab;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Names a client transaction; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId {
    slot: u32,
    serial: u32,
}

/// Names a server transaction; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerId {
    slot: u32,
    serial: u32,
}

/// What a user wants to be told with a response; `kind` and the numbers are the user's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cookie {
    pub kind: u8,
    pub leg: u8,
    pub slot: u32,
    pub serial: u32,
}

/// Timers of RFC 3261 table 4, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    pub t1_us: u64,
    pub t2_us: u64,
    /// Timers B, F, H.
    pub give_up_us: u64,
    /// Timers D, I, J, K, L, M: how long a finished transaction absorbs what comes late.
    pub linger_us: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { t1_us: 500_000, t2_us: 4_000_000, give_up_us: 32_000_000, linger_us: 32_000_000 }
    }
}

/// How a client transaction went on.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a, 'm> {
    Response(&'a Message<'m>, u16),
    TimedOut,
    /// The connection that the request went over is gone.
    Disconnected,
}

/// The user of the stack: the SIP Server, the phones, or both.
pub trait User {
    /// A new request but ACK and CANCEL; an INVITE has not been answered with 100 yet.
    fn request(&mut self, stack: &mut Stack, id: ServerId, owner: u32, link: Link, message: &Message<'_>);
    /// An ACK that belongs to no final response of the transaction layer.
    fn ack(&mut self, stack: &mut Stack, owner: u32, message: &Message<'_>);
    /// The INVITE's caller has cancelled; its CANCEL has been answered, the INVITE has not.
    fn cancel(&mut self, stack: &mut Stack, id: ServerId, cookie: Cookie);
    /// A response, or its lack. A repeated 2xx is not told.
    fn outcome(&mut self, stack: &mut Stack, id: ClientId, cookie: Cookie, outcome: Outcome<'_, '_>);
    /// No ACK for our 2xx came in time.
    fn ack_missing(&mut self, stack: &mut Stack, cookie: Cookie);
    /// An alarm that the user has set.
    fn alarm(&mut self, stack: &mut Stack, cookie: Cookie);
    /// A connection is ready for messages.
    fn opened(&mut self, stack: &mut Stack, owner: u32, conn: ConnId);
    /// A connection has ended.
    fn closed(&mut self, stack: &mut Stack, owner: u32, conn: ConnId, why: &Closed);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientState {
    Calling,
    Proceeding,
    Completed,
    Accepted,
}

struct Client {
    serial: u32,
    owner: u32,
    cookie: Cookie,
    link: Link,
    is_invite: bool,
    state: ClientState,
    resend_us: u64,
    request: Vec<u8>,
    ack: Vec<u8>,
    cancel_wanted: bool,
    cancel: Option<ClientId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ServerState {
    Proceeding,
    Completed,
    Accepted,
    Confirmed,
}

struct Server {
    serial: u32,
    key: u64,
    cookie: Cookie,
    link: Link,
    is_invite: bool,
    state: ServerState,
    resend_us: u64,
    /// Via, Record-Route, From, Call-ID, CSeq and at last To without line end, to answer with.
    head: Vec<u8>,
    has_to_tag: bool,
    last: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Alarm {
    ClientResend(ClientId),
    ClientGiveUp(ClientId),
    ClientForget(ClientId),
    ServerResend(ServerId),
    ServerGiveUp(ServerId),
    ServerForget(ServerId),
    User(Cookie),
}

/// A request that is being written: start line and top Via are in place.
pub struct Draft {
    slot: usize,
    serial: u32,
    is_invite: bool,
    pub bytes: Vec<u8>,
}

impl Draft {
    pub fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        write!(self.bytes, "{label}: {value}\r\n").expect("a Vec takes everything");
    }
}

/// Transactions over [`Net`].
pub struct Stack {
    pub net: Net,
    pub tally: Tally,
    pub timers: Timers,
    /// Microseconds since start, as of this pass.
    pub now_us: u64,
    /// Marks tags and branches of this process.
    pub boot: u32,
    started: Instant,
    wheel: Wheel<Alarm>,
    due: Vec<Alarm>,
    clients: Slab<Client>,
    servers: Slab<Server>,
    keys: HashMap<u64, ServerId>,
    hasher: RandomState,
    serial: u32,
    buffer: Vec<u8>,
}

impl Stack {
    pub fn new(net: Net, timers: Timers) -> Self {
        let hasher = RandomState::new();
        let boot = (hasher.hash_one(std::process::id()) >> 32) as u32;
        Self {
            net,
            tally: Tally::default(),
            timers,
            now_us: 0,
            boot,
            started: Instant::now(),
            wheel: Wheel::new(),
            due: Vec::new(),
            clients: Slab::new(),
            servers: Slab::new(),
            keys: HashMap::new(),
            hasher,
            serial: 0,
            buffer: Vec::new(),
        }
    }

    /// A number that no other caller of this process gets.
    pub fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// A number that nobody can foretell, for Call-IDs and instance ids.
    pub fn random(&mut self) -> u64 {
        let serial = self.next_serial();
        self.hasher.hash_one((serial, self.boot))
    }

    /// Transactions that have not been forgotten yet.
    pub fn open_transactions(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    pub fn alarm_at(&mut self, due_us: u64, cookie: Cookie) {
        self.wheel.set(due_us, Alarm::User(cookie));
    }

    pub fn alarm_in(&mut self, after: Duration, cookie: Cookie) {
        self.alarm_at(self.now_us + micros(after), cookie);
    }

    /// The present time, read from the clock.
    pub fn read_clock(&mut self) -> u64 {
        self.now_us = micros(self.started.elapsed());
        self.now_us
    }

    /// One pass: waits at most `wait_max` for something to happen and lets `user` react to all of it.
    pub fn turn(&mut self, user: &mut impl User, wait_max: Duration) -> io::Result<()> {
        self.net.flush();
        let wait = wait_max.min(Duration::from_micros(self.wheel.idle_us()));
        self.net.wait(wait)?;
        self.read_clock();
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(event) = self.net.next(&mut buffer) {
            self.read_clock();
            match event {
                NetEvent::Message { owner, link } => self.on_message(user, owner, link, &buffer),
                NetEvent::Opened { owner, conn } => {
                    self.tally.connections_opened += 1;
                    user.opened(self, owner, conn);
                }
                NetEvent::Closed { owner, conn, why } => self.on_closed(user, owner, conn, &why),
            }
        }
        self.buffer = buffer;
        self.read_clock();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.now_us, &mut due);
        for alarm in due.drain(..) {
            self.on_alarm(user, alarm);
        }
        self.due = due;
        self.net.flush();
        Ok(())
    }

    // Client side.

    /// Begins a request; it must be sent before the next one is begun.
    pub fn draft(&mut self, method: &str, uri: &str, transport: Transport, sent_by: SocketAddr) -> Draft {
        let slot = self.clients.vacant_key();
        let serial = self.next_serial();
        let mut bytes = Vec::with_capacity(1_024);
        write!(
            bytes,
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{} {sent_by};branch=z9hG4bK{:08x}.{slot:x}.{serial:x};rport\r\n",
            transport.via(),
            self.boot
        )
        .expect("a Vec takes everything");
        Draft { slot, serial, is_invite: method == "INVITE", bytes }
    }

    /// Sends what was begun. The outcome is told with `cookie`.
    pub fn send(&mut self, mut draft: Draft, owner: u32, link: Link, cookie: Cookie, body: &[u8]) -> ClientId {
        finish(&mut draft.bytes, body);
        let id = ClientId { slot: draft.slot as u32, serial: draft.serial };
        let client = Client {
            serial: draft.serial,
            owner,
            cookie,
            link,
            is_invite: draft.is_invite,
            state: ClientState::Calling,
            resend_us: self.timers.t1_us,
            request: draft.bytes,
            ack: Vec::new(),
            cancel_wanted: false,
            cancel: None,
        };
        let is_sent = self.net.send(link, &client.request);
        let slot = self.clients.insert(client);
        assert_eq!(slot, draft.slot, "a draft is sent before the next is begun");
        self.tally.messages_out += 1;
        if !is_sent {
            // Told through the same door as any other outcome, at the next pass.
            self.wheel.set(0, Alarm::ClientGiveUp(id));
            return id;
        }
        if link.is_lossy() {
            self.wheel.set(self.now_us + self.timers.t1_us, Alarm::ClientResend(id));
        }
        self.wheel.set(self.now_us + self.timers.give_up_us, Alarm::ClientGiveUp(id));
        id
    }

    /// A message without a transaction, such as the ACK to a 2xx; the draft's branch is used up.
    pub fn send_ack(&mut self, invite: ClientId, link: Link, mut draft: Draft, body: &[u8]) {
        finish(&mut draft.bytes, body);
        self.tally.messages_out += 1;
        if !self.net.send(link, &draft.bytes) {
            self.tally.undeliverable += 1;
        }
        if let Some(client) = self.client(invite) {
            client.ack = draft.bytes;
            client.link = link;
        }
    }

    /// Cancels an INVITE: at once when a provisional response has come, else with the first one
    /// (RFC 3261 §9.1).
    pub fn cancel(&mut self, id: ClientId) {
        let Some(client) = self.client(id) else { return };
        if client.cancel.is_some() || !client.is_invite {
            return;
        }
        match client.state {
            ClientState::Calling => client.cancel_wanted = true,
            ClientState::Proceeding => self.send_cancel(id),
            ClientState::Completed | ClientState::Accepted => {}
        }
    }

    fn send_cancel(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id.slot as usize) else { return };
        let Some(bytes) = Message::parse(&client.request).and_then(|invite| hop_request(&invite, "CANCEL", None))
        else {
            return;
        };
        let (owner, link) = (client.owner, client.link);
        let slot = self.clients.vacant_key();
        let serial = self.next_serial();
        // It carries the INVITE's branch, so its response is found through the INVITE.
        let draft = Draft { slot, serial, is_invite: false, bytes };
        let cancel = self.send(draft, owner, link, Cookie::default(), b"");
        if let Some(client) = self.client(id) {
            client.cancel = Some(cancel);
        }
        // RFC 3261 §9.1: when no final response follows, the INVITE is given up after 64*T1.
        self.wheel.set(self.now_us + self.timers.give_up_us, Alarm::ClientGiveUp(id));
    }

    fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(id.slot as usize).filter(|client| client.serial == id.serial)
    }

    fn on_response(&mut self, user: &mut impl User, message: &Message<'_>, code: u16) {
        let found = message.top_via().and_then(|via| self.client_of(via.branch));
        let method = message.cseq().map_or("", |(_, method)| method);
        let id = match found {
            Some(id) if method == "CANCEL" => self.client(id).and_then(|client| client.cancel),
            other => other,
        };
        let linger_us = self.timers.linger_us;
        let due_us = self.now_us + linger_us;
        let Some((id, client)) =
            id.and_then(|id| Some((id, self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial)?)))
        else {
            self.tally.unmatched_responses += 1;
            return;
        };
        if client.is_invite != (method == "INVITE") {
            self.tally.unmatched_responses += 1;
            return;
        }
        let is_lossy = client.link.is_lossy();
        let cookie = client.cookie;
        match client.state {
            ClientState::Calling | ClientState::Proceeding if code < 200 => {
                client.state = ClientState::Proceeding;
                if std::mem::take(&mut client.cancel_wanted) {
                    self.send_cancel(id);
                }
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding if client.is_invite && code < 300 => {
                client.state = ClientState::Accepted;
                client.request = Vec::new();
                self.wheel.set(due_us, Alarm::ClientForget(id));
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding if client.is_invite => {
                client.state = ClientState::Completed;
                let to = message.first(Name::To);
                let ack = Message::parse(&client.request).and_then(|invite| hop_request(&invite, "ACK", to));
                if let Some(mut ack) = ack {
                    finish(&mut ack, b"");
                    self.net.send(client.link, &ack);
                    self.tally.messages_out += 1;
                    client.ack = ack;
                }
                client.request = Vec::new();
                if is_lossy || client.cancel.is_some() {
                    self.wheel.set(due_us, Alarm::ClientForget(id));
                } else {
                    self.clients.remove(id.slot as usize);
                }
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding => {
                client.state = ClientState::Completed;
                client.request = Vec::new();
                if is_lossy {
                    self.wheel.set(due_us, Alarm::ClientForget(id));
                } else {
                    self.clients.remove(id.slot as usize);
                }
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Completed | ClientState::Accepted => {
                self.tally.retransmissions_in += 1;
                if code >= 200 && !client.ack.is_empty() {
                    self.net.send(client.link, &client.ack);
                    self.tally.messages_out += 1;
                }
            }
        }
    }

    fn client_of(&self, branch: &str) -> Option<ClientId> {
        let mut parts = branch.strip_prefix("z9hG4bK")?.split('.');
        let boot = u32::from_str_radix(parts.next()?, 16).ok()?;
        let slot = u32::from_str_radix(parts.next()?, 16).ok()?;
        let serial = u32::from_str_radix(parts.next()?, 16).ok()?;
        (boot == self.boot).then_some(ClientId { slot, serial })
    }

    // Server side.

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

    fn server(&mut self, id: ServerId) -> Option<&mut Server> {
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
            self.tally.undeliverable += 1;
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
        let due_us = self.now_us + self.timers.linger_us;
        let Some(server) = self.server(id) else { return };
        if server.state != ServerState::Accepted {
            return;
        }
        server.state = ServerState::Confirmed;
        server.last = Vec::new();
        if server.link.is_lossy() {
            self.wheel.set(due_us, Alarm::ServerForget(id));
        } else {
            self.forget_server(id);
        }
    }

    fn forget_server(&mut self, id: ServerId) {
        if self.server(id).is_some() {
            let server = self.servers.remove(id.slot as usize);
            if self.keys.get(&server.key) == Some(&id) {
                self.keys.remove(&server.key);
            }
        }
    }

    fn on_message(&mut self, user: &mut impl User, owner: u32, link: Link, bytes: &[u8]) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return;
        }
        self.tally.messages_in += 1;
        let Some(message) = Message::parse(bytes) else {
            self.tally.malformed_in += 1;
            return;
        };
        match message.start {
            Start::Response { code, .. } => self.on_response(user, &message, code),
            Start::Request { method, .. } => self.on_request(user, owner, link, &message, method),
        }
    }

    fn on_request(&mut self, user: &mut impl User, owner: u32, link: Link, message: &Message<'_>, method: &str) {
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
        let id = self.open_server(key, method == "INVITE", link, message);
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

    fn on_ack(&mut self, user: &mut impl User, owner: u32, known: Option<ServerId>, message: &Message<'_>) {
        let due_us = self.now_us + self.timers.linger_us;
        let completed = known.filter(|&id| self.server(id).is_some_and(|s| s.state == ServerState::Completed));
        let Some(id) = completed else { return user.ack(self, owner, message) };
        let server = &mut self.servers[id.slot as usize];
        server.state = ServerState::Confirmed;
        server.last = Vec::new();
        if server.link.is_lossy() {
            self.wheel.set(due_us, Alarm::ServerForget(id));
        } else {
            self.forget_server(id);
        }
    }

    fn open_server(&mut self, key: u64, is_invite: bool, link: Link, message: &Message<'_>) -> ServerId {
        let serial = self.next_serial();
        let mut head = Vec::with_capacity(512);
        let source = self.net.peer_addr(link);
        let mut reply = link;
        for (at, via) in message.values(Name::Via).enumerate() {
            match (at, message.top_via(), source) {
                (0, Some(top), Some(source)) => {
                    if let Link::Udp { socket, .. } = link {
                        // RFC 3581 §4, else RFC 3261 §18.2.2: the source address and the port of sent-by.
                        let port = match top.host_port() {
                            Some((_, port)) if !top.asks_rport() => port.unwrap_or(5_060),
                            _ => source.port(),
                        };
                        reply = Link::Udp { socket, peer: SocketAddr::new(source.ip(), port) };
                    }
                    write!(head, "Via: {}\r\n", top.stamped(source))
                }
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
            head,
            has_to_tag: crate::text::param(to, "tag").is_some(),
            last: Vec::new(),
        });
        let id = ServerId { slot: slot as u32, serial };
        self.keys.insert(key, id);
        id
    }

    // Time and connections.

    fn on_alarm(&mut self, user: &mut impl User, alarm: Alarm) {
        let (now_us, timers) = (self.now_us, self.timers);
        match alarm {
            Alarm::User(cookie) => user.alarm(self, cookie),
            Alarm::ClientResend(id) => {
                let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial) else {
                    return;
                };
                let is_due = match client.state {
                    ClientState::Calling => true,
                    ClientState::Proceeding => !client.is_invite,
                    _ => false,
                };
                if is_due {
                    let cap_us = if client.is_invite { u64::MAX } else { timers.t2_us };
                    let is_proceeding = client.state == ClientState::Proceeding;
                    client.resend_us = if is_proceeding { timers.t2_us } else { (client.resend_us * 2).min(cap_us) };
                    self.net.send(client.link, &client.request);
                    self.tally.requests_resent += 1;
                    self.wheel.set(now_us + client.resend_us, Alarm::ClientResend(id));
                }
            }
            Alarm::ClientGiveUp(id) => {
                let Some(client) = self.clients.get(id.slot as usize).filter(|c| c.serial == id.serial) else {
                    return;
                };
                let is_gone = matches!(client.link, Link::Stream(conn) if !self.net.is_alive(conn));
                // Timer B ends with the first provisional response, but a cancelled INVITE is given up.
                let is_due = match client.state {
                    ClientState::Calling => true,
                    ClientState::Proceeding => is_gone || !client.is_invite || client.cancel.is_some(),
                    _ => false,
                };
                if is_due {
                    let cookie = client.cookie;
                    self.clients.remove(id.slot as usize);
                    if !is_gone {
                        self.tally.timeouts += 1;
                    }
                    let outcome = if is_gone { Outcome::Disconnected } else { Outcome::TimedOut };
                    user.outcome(self, id, cookie, outcome);
                }
            }
            Alarm::ClientForget(id) => {
                if self.client(id).is_some() {
                    self.clients.remove(id.slot as usize);
                }
            }
            Alarm::ServerResend(id) => {
                let Some(server) = self.servers.get_mut(id.slot as usize).filter(|s| s.serial == id.serial) else {
                    return;
                };
                if matches!(server.state, ServerState::Completed | ServerState::Accepted) {
                    server.resend_us = (server.resend_us * 2).min(timers.t2_us);
                    self.net.send(server.link, &server.last);
                    self.tally.responses_resent += 1;
                    self.wheel.set(now_us + server.resend_us, Alarm::ServerResend(id));
                }
            }
            Alarm::ServerGiveUp(id) => {
                let Some(server) = self.server(id) else { return };
                let (state, cookie) = (server.state, server.cookie);
                if matches!(state, ServerState::Completed | ServerState::Accepted) {
                    self.forget_server(id);
                }
                if state == ServerState::Accepted {
                    self.tally.ack_missing += 1;
                    user.ack_missing(self, cookie);
                }
            }
            Alarm::ServerForget(id) => self.forget_server(id),
        }
    }

    fn on_closed(&mut self, user: &mut impl User, owner: u32, conn: ConnId, why: &Closed) {
        let reason = match why {
            Closed::ByPeer => "by_peer".to_owned(),
            Closed::Failed(kind) => format!("{kind:?}"),
            Closed::Tls(fault) => format!("tls: {fault}"),
            Closed::BrokenFraming => "broken_framing".to_owned(),
            Closed::Stuck => "stuck".to_owned(),
        };
        Tally::count(&mut self.tally.connections_closed, reason);
        user.closed(self, owner, conn, why);
        self.disconnect(conn);
    }

    /// Tells the outcome of every request that still waits on a connection that is gone.
    pub fn disconnect(&mut self, conn: ConnId) {
        let waiting = self.clients.iter().filter(|(_, client)| client.link == Link::Stream(conn));
        for (slot, client) in waiting {
            self.wheel.set(0, Alarm::ClientGiveUp(ClientId { slot: slot as u32, serial: client.serial }));
        }
    }
}

/// CANCEL or the ACK to a refusal: the INVITE's target, top Via, Route, From, Call-ID and number
/// (RFC 3261 §9.1, §17.1.1.3).
fn hop_request(invite: &Message<'_>, method: &str, to: Option<&str>) -> Option<Vec<u8>> {
    let Start::Request { uri, .. } = invite.start else { return None };
    let mut bytes = Vec::with_capacity(512);
    write!(bytes, "{method} {uri} SIP/2.0\r\nVia: {}\r\n", invite.values(Name::Via).next()?).ok()?;
    for route in invite.values(Name::Route) {
        write!(bytes, "Route: {route}\r\n").ok()?;
    }
    write!(
        bytes,
        "Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n",
        invite.first(Name::From)?,
        to.or_else(|| invite.first(Name::To))?,
        invite.first(Name::CallId)?,
        invite.cseq()?.0,
    )
    .ok()?;
    Some(bytes)
}

fn finish(bytes: &mut Vec<u8>, body: &[u8]) {
    write!(bytes, "Content-Length: {}\r\n\r\n", body.len()).expect("a Vec takes everything");
    bytes.extend_from_slice(body);
}

/// Where a URI or sent-by with a numeric host points; the port that its transport has when it names none.
pub fn address(host: &str, port: Option<u16>, transport: Transport) -> Option<SocketAddr> {
    let port = port.unwrap_or(if transport == Transport::Tls { 5_061 } else { 5_060 });
    Some(SocketAddr::new(numeric(host)?, port))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
