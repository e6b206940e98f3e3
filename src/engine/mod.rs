//! One shard's composition: pure, fed with [`Input`]s, drained of [`Output`]s.
//!
//! The loop of whoever drives it: `handle(input, now)` for everything that is ready (and `accept` for new
//! connections, `fire` when `poll_timeout` has passed), then `poll_output` until it is empty, then flush.
//!
//! # The parts
//!
//! Four machines, none of which sees another or the [`Engine`]. Each is told what has happened and says what it wants done;
//! the engine passes one's wants to the next.
//!
//! | part | what it decides | what it is told | what it wants |
//! | --- | --- | --- | --- |
//! | [`context`] | what becomes of one request: its transactions, its target set, its timers (RFC 3261 §16.7) | [`context::Event`] | [`context::Action`] |
//! | [`location`] | where a phone is now: flows, bindings, who waits for one | its methods, [`Notice`]s | [`location::Action`] |
//! | [`connections`] | how servers, other sites and devices are reached, and when that rests | its methods | [`connections::Action`] |
//! | [`service_checks`] | which SIP Servers answer, on the shard that owns the verdict | its methods | [`service_checks::Action`] |
//!
//! Beside them stand [`dns`], and what every part may use: [`ports`] (settings, names, keys; timers, counters,
//! buffers, outputs, mail). The rest is composition. It calls one way only, and `tests/tidy` holds that:
//!
//! ```text
//! inputs, inbox, timers         what has come: an input, a mail, a time
//!   streams, udp                bytes in; connections come and go
//!     placement                 which shard
//!       requests, responses, ack, cancel, unsent, replies
//!         upstream, verdict     what happens to servers, and what follows
//!           contexts, seek      what a context wants, put to the other parts
//!             locating, connecting, known
//!               ack_out, outbox what leaves
//!                 conns, sender, abuse
//! ```
//!
//! [`Engine::check`] says what holds between any two inputs; every test asks it after each of them.
//!
//! # One INVITE
//!
//! From the SIP Server, to a phone that registered over TLS with another shard.
//!
//! 1. [`Engine::handle`] gets the datagram; [`Engine::on_datagram`] has it parsed ([`Message::scan`](crate::sip::Message::scan)) and finds
//!    whose it is ([`origin_of_datagram`](crate::proxy::Names::origin_of_datagram)).
//! 2. [`Engine::on_message`] reads its route set ([`route::read`](crate::proxy::route::read)) and asks which shard handles it
//!    (`Engine::placement`): that of the token's flow. [`Engine::place`] sends it there; [`Engine::on_mail`] takes it.
//! 3. [`Engine::on_request`] finds no transaction of that key, decides the target
//!    ([`target`](crate::proxy::target::target)), validates, and `Engine::begin`s a response context.
//! 4. [`Turn::on`](context::Turn::on) with `Begin` aims at a phone and wants to know where that is: `Seek::Flow`.
//!    [`Engine::seek`] asks [`Location::moved_from`] and answers `Found`.
//! 5. `Found` builds the request ([`context::Turn::send`]), starts the client transaction and its timers, and wants it sent:
//!    [`Engine::send_on`] makes an [`Output::Bytes`] of it. [`Engine::put_back`] puts the context into its slot.
//! 6. The phone's 200 comes as [`Input::Bytes`]: [`Engine::on_bytes`], [`Engine::on_message`], and, by the shard in its
//!    branch, [`Engine::on_response`]. Whether it counts is asked once: [`may_answer`](crate::proxy::trust::may_answer).
//! 7. `Response` tells the client machine, then the server machine, and wants `Respond`: [`Engine::respond_for`] sends it by
//!    Via. [`Slot::of`](context::Slot::of) shrinks the context to what absorbs repetitions.
//! 8. The ACK is a transaction of its own: [`Engine::on_ack`] finds nothing that absorbs it, and
//!    [`Engine::send_ack`] sends it after the 200.
//!
//! # One CANCEL
//!
//! While the phone rings.
//!
//! 1. [`Engine::on_request`] hands it to [`Engine::on_cancel`], which finds the INVITE's context by key
//!    ([`Engine::invite_of`]), also over another connection of the same phone, or asks the next shard.
//! 2. Whether it counts is asked once: [`may_cancel`](crate::proxy::trust::may_cancel). It is answered with 200
//!    ([`Engine::reply`]).
//! 3. [`Turn::on`](context::Turn::on) with `Cancelled` sends our CANCEL when the INVITE was heard of, else notes that it is
//!    wanted; timer C is set to 64·T1. `Follow` sends it to where the INVITE has gone by now (`Engine::follow_request`).
//! 4. The phone's 487 is a `Response` like any: the context acknowledges it, and passes it on. When none comes, timer C ends
//!    the context with a 487 of our own.
//!
//! # One move of a phone
//!
//! Its connection is lost; it registers over a new one, at another shard, while a call of it goes on.
//!
//! 1. [`Engine::on_closed`] takes the old flow out of [`location`] ([`Location::close`]) and tells its bindings' home
//!    ([`Notice`]); the binding stays, without a flow. Contexts that wait for an answer over it hear
//!    `ConnectionGone` ([`Engine::on_conn_gone`]), and ask where the phone is: `Seek::Home`, a [`Mail::Ask`]. The home lets
//!    them wait.
//! 2. The REGISTER comes over the new connection and is placed at the AOR's home, whose context sends it to the active server
//!    (`Seek::Server`) with a Path.
//! 3. The server's 200 wants `Bind`: `Engine::bind_register` has [`Location::accept`] bind the Contact to the new flow, which
//!    tells the owners of both flows, and wakes who waits. Only then the answer is made, and goes to the phone.
//! 4. [`Engine::on_resolved`] tells the waiting contexts `Located`, and each goes on over the new flow. What comes later
//!    with a token of the old one asks [`Location::moved_from`], and follows at once.

mod abuse;
mod ack;
mod ack_out;
mod admission;
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

use abuse::Abuse;
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
use crate::overload::Admission;
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

    admission: Admission,
    abuse: Abuse,
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
        self.abuse.shrink();
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
        self.abuse.show(gauges);
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
            && self.abuse.bound_len() == 0
            && self.ports.wheel.len()
                == self.service_checks.as_ref().map_or(0, |checks| checks.timers()) + self.abuse.timers_len()
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
            let accept = |port| Accept {
                point: PointId(0),
                peer: SocketAddr::new([198, 51, 100, 1].into(), port),
                is_forwarded: false,
            };
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
