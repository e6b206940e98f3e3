//! One shard's composition: pure, fed with [`Input`]s, drained of [`Output`]s.
//!
//! The loop of whoever drives it: `handle(input, now)` for everything that is ready (and `accept` for new
//! connections, `fire` when `poll_timeout` has passed), then `poll_output` until it is empty, then flush.
//!
//! A message's way: [`Input`] → `conns` (framer, side) → `placement` (perhaps mail) → `requests` or
//! `responses` (transactions, the phases of `proxy`), `forwarding` → `outbox` → [`Output`]. `location` answers where a phone
//! is.

mod ack;
mod cancel;
mod check;
mod connections;
mod conns;
mod context;
mod contexts;
mod count;
mod halves;
mod home;
mod inbox;
mod io;
mod kept;
mod links;
mod location;
mod lookups;
mod mail;
mod outbox;
mod placement;
mod pool;
mod ports;
mod recover;
mod replies;
mod requests;
mod responses;
mod seek;
mod service_checks;
mod shown;
mod timers;
mod udp;
mod unsent;
mod verdict;
mod words;

use std::collections::HashMap;
use std::net::IpAddr;

pub use crate::config::engine::{Expected, Live, Point, Settings, Sticky, TlsPeer, UdpOversize};
pub use io::{Accept, CloseReason, ConnectFailure, Event, Input, Level, Located, Output, Refusal, SendFault, Source};
pub use location::notice::{Notice, Whereabouts};
pub use mail::{AckMail, Answer, By, Letter, Mail, Query, Seen, Upstream};

use crate::clock::Time;
use crate::dns;
use crate::flow::keys::Tag;
use crate::flow::table::Slots;
use crate::ids::ShardId;
use crate::limits::SERVER_CONNECTIONS_RESERVE;
use crate::rng::Rng;
use crate::sip::Method;
use crate::stats::{Counter, Counters, Gauge, Snapshot};
use crate::wheel::{TimerId, Wheel};

use connections::Connections;
use conns::Conn;
use contexts::Contexts;
use kept::Kept;
use location::Location;
use pool::Pool;
use ports::{Env, KeyedState, Ports, Timer, halve};
use service_checks::ServiceChecks;

/// One shard's whole state.
pub struct Engine {
    env: Env,
    ports: Ports,

    kept: Kept,
    conns: Slots<Conn>,
    /// Connections without a binding, by source address.
    unregistered: HashMap<IpAddr, u32, KeyedState>,
    location: Location,
    /// To servers, peers and devices.
    connections: Connections,
    /// On the shard that owns the verdict.
    service_checks: Option<Box<ServiceChecks>>,
    dns: dns::Dns,
    /// Its next time in the wheel.
    dns_timer: Option<(Time, TimerId)>,

    contexts: Contexts,

    draining: bool,
}

impl Engine {
    /// An engine without connections or transactions.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        let env = Env::new(settings);
        let settings = &env.settings;
        let mut rng = Rng::new(&settings.seed);
        let state = KeyedState(siphasher::sip::SipHasher13::new_with_keys(rng.next(), rng.next()));
        let service_checks = ServiceChecks::new(settings, state.clone(), now);
        let mut engine = Self {
            kept: Kept::default(),
            conns: Slots::new(settings.connections_max as usize + SERVER_CONNECTIONS_RESERVE),
            unregistered: HashMap::with_hasher(state.clone()),
            location: Location::new(settings, &env.keys, state.clone()),
            connections: Connections::new(service_checks.upstream(), state.clone()),
            service_checks: (settings.shard == service_checks::OWNER).then(|| Box::new(service_checks)),
            contexts: Contexts::new(settings.transactions_max as usize, &state),
            dns: dns::Dns::new(settings.dns.clone(), rng.seed()),
            dns_timer: None,
            draining: false,
            ports: Ports::new(settings.shard, rng, Wheel::new(now)),
            env,
        };
        engine.begin_as_owner(now);
        engine.settle(now);
        engine
    }

    /// Settings have changed. What is in the air ends by them too, but for the timers that run. Whether there are service
    /// checks at all stays as it was: what is known of a server with them and without is not the same.
    fn set_live(&mut self, mut live: Live, now: Time) {
        let former = self.env.settings.live.oos_check;
        if former.is_zero() != live.oos_check.is_zero() {
            live.oos_check = former;
        }
        let (check, force) = (live.oos_check, live.oos_force);
        self.env.set_live(live);
        self.as_owner(now, |checks| checks.set_times(check, force, now));
    }

    /// What it was made with, and what has changed since.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.env.settings
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        match input {
            Input::Datagram { point, from, bytes } => self.on_datagram(point, from, bytes, now),
            Input::Ready { conn, identities } => self.on_ready(conn, identities, now),
            Input::Bytes { conn, bytes } => self.on_bytes(conn, bytes, now),
            Input::HalfClosed { conn } => self.on_half_closed(conn, now),
            Input::Closed { conn, reason } => self.on_closed(conn, reason, now),
            Input::Unreachable { to } => {
                self.count(Counter::DatagramUnreachable);
                self.on_unreachable(to, now);
            }
            Input::Unsent { to, bytes, fault } => self.on_unsent_datagram(to, bytes, fault, now),
            Input::Mail { from, mail } => self.on_mail(from, mail, now),
            Input::MailRefused { mail } => self.on_mail_refused(mail, now),
            Input::Dns(input) => self.dns.handle(input, now, &mut self.ports.counters),
            Input::Drain => self.draining = true,
            Input::Live(live) => self.set_live(*live, now),
        }
        self.settle(now);
    }

    /// Fires every timer that is due.
    pub fn fire(&mut self, now: Time) {
        while let Some(timer) = self.ports.wheel.poll(now) {
            self.on_timer(timer, now);
            self.settle(now);
        }
    }

    /// Mail of this shard to itself, and what the resolver has to say: either may bring more of the other.
    fn settle(&mut self, now: Time) {
        loop {
            while let Some(mail) = self.ports.local.pop_front() {
                self.on_mail(self.env.settings.shard, mail, now);
            }
            self.pump_dns(now);
            if self.ports.local.is_empty() {
                return;
            }
        }
    }

    /// When `fire` must be called next; `None` when no timer runs.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.ports.wheel.next()
    }

    /// The next thing to do for the shell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.ports.outputs.pop_front()
    }

    /// Gives a buffer back that came with an output, to be used again.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.ports.pool.give(buffer);
    }

    /// Lets go of the buffers and of the room in tables that a burst has left behind. Slots and timers keep theirs: what
    /// they hold is known by its place.
    pub fn shrink(&mut self) {
        self.ports.pool = Pool::default();
        self.ports.outputs.shrink_to_fit();
        self.ports.local.shrink_to_fit();
        self.location.shrink();
        halve(&mut self.unregistered);
        self.contexts.shrink();
    }

    /// The counters, which the shell adds its own to.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.ports.counters
    }

    /// Transactions that still wait for their final response; a drain waits until there are none.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.kept.open()
    }

    /// About what this shard's connections, transactions and waiting messages take, in bytes: in constant time, for who
    /// wants to know whether memory that is resident is in use.
    #[must_use]
    pub fn held_len(&self) -> u64 {
        self.kept.held_len() + self.location.held_len()
    }

    /// Counters and gauges of this moment. It takes as long however much the engine holds.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot =
            Snapshot { shard: self.env.settings.shard.0, counters: self.ports.counters.clone(), ..Snapshot::default() };
        let gauges = &mut snapshot.gauges;
        self.kept.show(gauges);
        self.location.show(gauges);
        gauges.set(Gauge::ConnectionsLimit, u64::from(self.env.settings.connections_max));
        gauges.set(Gauge::TransactionsLimit, u64::from(self.env.settings.transactions_max));
        gauges.set_len(Gauge::Timers, self.ports.wheel.len());
        let (known, asking, waiting) = self.dns.counts();
        gauges.set_len(Gauge::DnsNamesKnown, known);
        gauges.set_len(Gauge::DnsNamesAsking, asking);
        gauges.set_len(Gauge::DnsWaiting, waiting);
        gauges.set(Gauge::Draining, u64::from(self.draining));
        snapshot
    }

    /// Whether nothing is left but idle connections and bindings: what a test asks at its end.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.contexts.is_empty() && self.location.nobody_waits() && self.dns.is_idle()
    }

    /// Whether every table is empty, and no timer runs but those of the owner of the verdict.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_quiet()
            && self.conns.is_empty()
            && self.kept == Kept::default()
            && self.unregistered.is_empty()
            && self.location.is_empty()
            && self.connections.is_idle()
            && self.ports.wheel.len() == self.service_checks.as_ref().map_or(0, |checks| checks.timers())
    }

    fn me(&self) -> ShardId {
        self.env.me()
    }

    fn count(&mut self, counter: Counter) {
        self.ports.count(counter);
    }

    /// Somebody did not get what was asked for.
    fn event(&mut self, what: &'static str, peer: Option<std::net::SocketAddr>, about: &[u8]) {
        self.ports.event(what, peer, about);
    }

    fn tell(&mut self, level: Level, what: &'static str, peer: Option<std::net::SocketAddr>, about: &[u8]) {
        self.ports.tell(level, what, peer, about);
    }

    /// Whether events of this level are asked for, which cost too much to be made for nobody.
    fn tells(&self, level: Level) -> bool {
        self.env.tells(level)
    }

    fn key_of(&self, request: &crate::sip::Message, method: Method, source: &Source) -> u128 {
        self.key_from(request, method, &placement::sender_of(source))
    }

    /// The key of an INVITE that its sender's other connections know it by, too.
    fn lasting_key_of(&self, request: &crate::sip::Message, source: &Source) -> Option<u128> {
        placement::lasting_sender_of(source).map(|sender| self.key_from(request, Method::Invite, &sender))
    }

    fn key_from(&self, request: &crate::sip::Message, method: Method, sender: &[u8]) -> u128 {
        crate::transaction::key::hashed(request, method, sender, |parts| self.env.keys.hash128(Tag::Transaction, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::engine::Point;
    use std::net::SocketAddr;

    use crate::ids::{ConnId, PointId, Transport};

    #[test]
    fn a_burst_that_is_over_leaves_no_room_in_tables_and_no_buffers() {
        let address: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let point = Point {
            transport: Transport::Tcp,
            bind: address,
            advertised_host: address.ip().to_string(),
            advertised_port: address.port(),
            side: None,
        };
        let (connections_max, unregistered_per_source_max) = (2_000, 2_000);
        let plain = Settings::plain(vec![point], Vec::new());
        let mut engine = Engine::new(Settings { connections_max, unregistered_per_source_max, ..plain }, Time(0));
        let come = |engine: &mut Engine, count: u16| -> Vec<ConnId> {
            let accept = |port| Accept { point: PointId(0), peer: SocketAddr::new([198, 51, 100, 1].into(), port) };
            (1..=count).map(|port| engine.accept(accept(port), Time(0)).expect("there is room")).collect()
        };
        for conn in come(&mut engine, 1_000) {
            engine.recycle(Vec::with_capacity(4_096));
            engine.handle(Input::Closed { conn, reason: CloseReason::Peer }, Time(0));
        }
        while engine.poll_output().is_some() {}
        let stays = come(&mut engine, 10);
        assert!(engine.location.addresses_room() >= 1_000);
        engine.shrink();
        assert!(engine.location.addresses_room() < 100, "{}", engine.location.addresses_room());
        assert_eq!(engine.ports.pool.take().capacity(), Pool::default().take().capacity(), "a fresh buffer");
        assert!(stays.iter().all(|conn| engine.conns.get(*conn).is_some()));
        engine.check();
    }
}
