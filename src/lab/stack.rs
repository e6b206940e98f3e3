//! One user agent's transaction layer, shared by the SIP Server and all phones of a process.
//!
//! Owns: client and server transactions, their timers, retransmissions and the matching of responses,
//! CANCEL and ACK (RFC 3261 §17, §9, RFC 6026 §7), and the 2xx that a UAS repeats until its ACK comes
//! (RFC 3261 §13.3.1.4). Must not touch: registrations, dialogs, statistics of calls.
//! An answer whose stream is gone goes over a new one to the address of its Via (RFC 3261 §18.2.2) when the SIP Server
//! gives it; a phone cannot be sure of that and names another with [`Stack::answer_over`], else it is counted as
//! undeliverable.
//!
//! What we ask stands in [`client`], what we are asked in [`served`].
//!
//! A client transaction is found by its branch, which carries slot and serial; a server transaction by a
//! keyed hash of branch, sent-by, method and the owner of the socket, so that a request that reaches the
//! wrong phone never passes for a retransmission.

mod client;
mod served;

use crate::net::{Closed, ConnId, Link, Net, NetEvent, Transport};
use crate::tally::Tally;
use crate::text::{Message, Start, numeric};
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
    /// Where the answer goes when its stream is gone.
    sent_by: Option<(Transport, SocketAddr)>,
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
    /// Connections that were opened for answers.
    reopened: HashMap<(Transport, SocketAddr), ConnId>,
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
            reopened: HashMap::new(),
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

    /// A number for a text, the same for the whole life of this process.
    pub fn hash_of(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// Transactions that have not been forgotten yet.
    pub fn open_transactions(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// INVITEs of ours without a final answer.
    pub fn open_invites(&self) -> usize {
        let is_open = |client: &Client| {
            client.is_invite && matches!(client.state, ClientState::Calling | ClientState::Proceeding)
        };
        self.clients.iter().filter(|(_, client)| is_open(client)).count()
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

    // Time and connections.

    fn on_alarm(&mut self, user: &mut impl User, alarm: Alarm) {
        match alarm {
            Alarm::User(cookie) => user.alarm(self, cookie),
            Alarm::ClientResend(id) => self.resend_request(id),
            Alarm::ClientGiveUp(id) => self.give_up_request(user, id),
            Alarm::ClientForget(id) => {
                if self.client(id).is_some() {
                    self.clients.remove(id.slot as usize);
                }
            }
            Alarm::ServerResend(id) => self.resend_response(id),
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
