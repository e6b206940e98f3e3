//! The bench: a stack with what sits on it, the SIP Server, the phones, or both.
//!
//! Owns: the sharing-out of events by owner and cookie. Must not touch: what the parts do with them.

use crate::net::{Closed, ConnId, Link, Net, SERVER, TlsSettings, Transport};
use crate::phones::{self, PhoneCallRef, Phones, PhonesConfig};
use crate::registrar::Policy;
use crate::server::{self, CallRef, Ends, Habits, Plan, Server};
use crate::stack::{ClientId, Cookie, Outcome, ServerId, Stack, Timers, User};
use crate::text::Message;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A transport and an address, written `tls:127.0.0.1:5061`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub transport: Transport,
    pub addr: SocketAddr,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, addr) = text.split_once(':').ok_or("expected TRANSPORT:ADDRESS:PORT")?;
        let addr = addr.parse().map_err(|_| format!("{addr}: expected ADDRESS:PORT"))?;
        Ok(Self { transport: transport.parse()?, addr })
    }
}

/// The parts that sit on the stack.
#[derive(Default)]
pub struct Parts {
    pub server: Option<Server>,
    pub phones: Option<Phones>,
}

/// A stack with its parts.
pub struct Bench {
    pub stack: Stack,
    pub parts: Parts,
    /// Where the server listens when it is not shut.
    places: Vec<Place>,
}

impl Bench {
    pub fn new(tls: TlsSettings, timers: Timers) -> io::Result<Self> {
        Ok(Self { stack: Stack::new(Net::new(tls)?, timers), parts: Parts::default(), places: Vec::new() })
    }

    /// Adds the SIP Server; says the places that it listens at.
    ///
    /// # Errors
    /// An address that cannot be bound.
    pub fn add_server(&mut self, listen: &[Place], policy: Policy, habits: Habits) -> io::Result<Vec<Place>> {
        let (ends, places) = bind(&mut self.stack.net, listen)?;
        self.parts.server = Some(Server::new(policy, ends, habits));
        self.places = places.clone();
        Ok(places)
    }

    /// Resets every connection of the server and lets the kernel refuse new ones.
    pub fn shut_server(&mut self) {
        self.stack.net.shut(SERVER);
        self.server().1.ends = Ends::default();
    }

    /// Listens again where the server did before it was shut.
    ///
    /// # Errors
    /// An address that somebody else has taken meanwhile.
    pub fn open_server(&mut self) -> io::Result<()> {
        let (ends, _) = bind(&mut self.stack.net, &self.places)?;
        self.server().1.ends = ends;
        Ok(())
    }

    pub fn add_phones(&mut self, config: PhonesConfig) {
        self.parts.phones = Some(Phones::new(config));
    }

    /// One pass of the loop.
    ///
    /// # Errors
    /// The poll itself failed.
    pub fn turn(&mut self, wait_max: Duration) -> io::Result<()> {
        self.stack.turn(&mut self.parts, wait_max)
    }

    pub fn server(&mut self) -> (&mut Stack, &mut Server) {
        (&mut self.stack, self.parts.server.as_mut().expect("this mode has a server"))
    }

    pub fn phones(&mut self) -> (&mut Stack, &mut Phones) {
        (&mut self.stack, self.parts.phones.as_mut().expect("this mode has phones"))
    }

    /// Lets the server call a phone; `None` when the phone is not registered.
    pub fn call_phone(&mut self, phone: u32, plan: Plan) -> Option<CallRef> {
        let aor = self.phones().1.aor(phone);
        let (stack, server) = self.server();
        server.place_call(stack, &aor, plan)
    }

    /// Lets a phone call `uri`; `None` when the phone has no connection.
    pub fn call_from(&mut self, phone: u32, uri: &str, plan: Plan) -> Option<PhoneCallRef> {
        let (stack, phones) = self.phones();
        phones.place_call(stack, phone, uri, plan)
    }

    /// Calls of either part that have not ended.
    pub fn calls_open(&self) -> usize {
        let Parts { server, phones } = &self.parts;
        server.as_ref().map_or(0, Server::calls_open) + phones.as_ref().map_or(0, Phones::calls_open)
    }

    /// Turns until `done` says so; false when `within` passes first.
    ///
    /// # Errors
    /// The poll itself failed.
    pub fn turn_until(&mut self, within: Duration, mut done: impl FnMut(&mut Self) -> bool) -> io::Result<bool> {
        let until_us = self.stack.read_clock() + u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        while self.stack.now_us < until_us {
            if done(self) {
                return Ok(true);
            }
            self.turn(Duration::from_millis(20))?;
        }
        Ok(done(self))
    }
}

/// Binds the server's sockets.
fn bind(net: &mut Net, listen: &[Place]) -> io::Result<(Ends, Vec<Place>)> {
    let mut ends = Ends::default();
    let mut places = Vec::new();
    for place in listen {
        let addr = match place.transport {
            Transport::Udp => {
                let (socket, addr) = net.bind_udp(SERVER, place.addr)?;
                ends.udp = Some((socket, addr));
                addr
            }
            transport => {
                let addr = net.listen(SERVER, transport, place.addr)?;
                *(if transport == Transport::Tls { &mut ends.tls } else { &mut ends.tcp }) = Some(addr);
                addr
            }
        };
        places.push(Place { transport: place.transport, addr });
    }
    Ok((ends, places))
}

impl User for Parts {
    fn request(&mut self, stack: &mut Stack, id: ServerId, owner: u32, link: Link, message: &Message<'_>) {
        match (owner, &mut self.server, &mut self.phones) {
            (SERVER, Some(server), _) => server.request(stack, id, link, message),
            (phone, _, Some(phones)) if phone != SERVER => phones.request(stack, id, phone, link, message),
            _ => {}
        }
    }

    fn ack(&mut self, stack: &mut Stack, owner: u32, message: &Message<'_>) {
        match (owner, &mut self.server, &mut self.phones) {
            (SERVER, Some(server), _) => server.ack(stack, message),
            (phone, _, Some(phones)) if phone != SERVER => phones.ack(stack, phone, message),
            _ => {}
        }
    }

    fn cancel(&mut self, stack: &mut Stack, id: ServerId, cookie: Cookie) {
        match (&mut self.server, &mut self.phones) {
            (Some(server), _) if server::is_server_cookie(cookie) => server.cancel(stack, id, cookie),
            (_, Some(phones)) if phones::is_phone_cookie(cookie) => phones.cancel(stack, id, cookie),
            _ => {}
        }
    }

    fn outcome(&mut self, stack: &mut Stack, id: ClientId, cookie: Cookie, outcome: Outcome<'_, '_>) {
        match (&mut self.server, &mut self.phones) {
            (Some(server), _) if server::is_server_cookie(cookie) => server.outcome(stack, cookie, outcome),
            (_, Some(phones)) if phones::is_phone_cookie(cookie) => phones.outcome(stack, id, cookie, outcome),
            _ => {}
        }
    }

    fn ack_missing(&mut self, stack: &mut Stack, cookie: Cookie) {
        match (&mut self.server, &mut self.phones) {
            (Some(server), _) if server::is_server_cookie(cookie) => server.ack_missing(stack, cookie),
            (_, Some(phones)) if phones::is_phone_cookie(cookie) => phones.ack_missing(stack, cookie),
            _ => {}
        }
    }

    fn alarm(&mut self, stack: &mut Stack, cookie: Cookie) {
        match (&mut self.server, &mut self.phones) {
            (Some(server), _) if server::is_server_cookie(cookie) => server.alarm(stack, cookie),
            (_, Some(phones)) if phones::is_phone_cookie(cookie) => phones.alarm(stack, cookie),
            _ => {}
        }
    }

    fn opened(&mut self, stack: &mut Stack, owner: u32, conn: ConnId) {
        if let (Some(phones), true) = (&mut self.phones, owner != SERVER) {
            phones.opened(stack, owner, conn);
        }
    }

    fn closed(&mut self, stack: &mut Stack, owner: u32, conn: ConnId, why: &Closed) {
        match (owner, &mut self.server, &mut self.phones) {
            (SERVER, Some(server), _) => server.closed(conn, why),
            (phone, _, Some(phones)) if phone != SERVER => phones.closed(stack, phone, conn, why),
            _ => {}
        }
    }
}
