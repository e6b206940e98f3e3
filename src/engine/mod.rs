//! One shard's composition: pure, fed with [`Input`]s, drained of [`Output`]s.
//!
//! The loop of whoever drives it: `handle(input, now)` for everything that is ready (and `accept` for new
//! connections, `fire` when `poll_timeout` has passed), then `poll_output` until it is empty, then flush.
//!
//! A message's way: [`Input`] → `conns` (framer, side) → `placement` (perhaps mail) → `requests` or
//! `responses` (transactions, the phases of `proxy`), `forwarding` → `outbox` → [`Output`]. `location` answers where a phone
//! is.

mod ack;
mod ack_out;
mod cancel;
mod check;
mod conn;
mod connecting;
mod connections;
mod conns;
mod context;
mod contexts;
mod count;
mod evidence;
mod inbox;
mod inputs;
mod io;
mod kept;
mod known;
mod letters;
mod locating;
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
mod sender;
mod service_checks;
mod shown;
mod streams;
mod timers;
mod udp;
mod unsent;
mod upstream;
mod verdict;
mod words;

use std::collections::HashMap;
use std::net::IpAddr;

use conn::Conn;
use connections::Connections;
use context::Contexts;
use kept::Kept;
use location::Location;
use pool::Pool;
use ports::{Env, KeyedState, Ports, halve};
use service_checks::ServiceChecks;

use crate::clock::Time;
use crate::dns;
use crate::flow::table::Slots;
use crate::ids::ShardId;
use crate::stats::{Counter, Counters, Gauge, Snapshot};
use crate::wheel::TimerId;

pub use crate::config::engine::{Expected, Live, Point, Settings, Sticky, TlsPeer, UdpOversize};
pub use io::{Accept, CloseReason, ConnectFailure, Event, Input, Level, Located, Output, Refusal, SendFault, Source};
pub use location::notice::{Notice, Whereabouts};
pub use mail::{AckMail, Answer, By, Letter, Mail, Query, Seen, Upstream};

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
    /// What it was made with, and what has changed since.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.env.settings
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
