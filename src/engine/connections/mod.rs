//! Connections that we open ourselves, to SIP Servers, other sites' proxies and devices: what is asked for, what it
//! gives, when it rests.
//!
//! Owns: one connection for each address and name that its certificate must carry (RFC 5923), used in both directions,
//! and opened again with growing pauses when it cannot be opened; the view of the pairs and the targets of the peer
//! proxies, and the choice among them. For UDP a connection is only the memory that its address could not be reached.
//!
//! Must not touch: transactions, response contexts, where phones are. [`Connections`] asks for a slot by [`Way::Open`],
//! and never sees it: whoever drives it opens the connection, says so, and carries out each [`Action`].
//!
//! ```text
//!   way_to(next hop) --> Way::Flow: send on it
//!                    --> Way::Open --> opening(slot) --> ready | closed
//!                    --> Way::Resting, until its pause is over, or no_rest, heard, a new verdict
//!   closed, unreachable --> Block, ChecksLost, Evidence, Move
//!   on_verdict          --> who is back, who is down
//! ```

mod connection;
mod device;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use smallvec::{SmallVec, smallvec};

pub use connection::{Connection, ConnectionKey, Element, State};
pub use device::{element as element_of_device, shard_of as shard_of_device, tls_of as tls_of_device};
pub use upstream::{evidence_of, usable};

use super::io::{CloseReason, ConnectFailure, Level};
use super::mail::{Mail, Seen, Upstream};
use super::ports::{Env, KeyedState, Ports};
use crate::clock::Time;
use crate::config::engine::{Settings, TlsPeer};
use crate::dns::NextHop;
use crate::ids::{ConnId, FlowRef, PointId, Transport};
use crate::limits::{LINK_RETRY_MIN, LINKS_COUNT_MAX};
use crate::proxy::{Place, place_of};
use crate::server_pool::{Evidence, Member};
use crate::sip::Uri;
use crate::stats::Counter;

/// Addresses that cannot be reached of which a shard waits to hear that another sends requests there. What is pushed
/// out costs a request its first repetition.
const UNHEARD_COUNT_MAX: usize = 64;

/// The connections of a shard that it has opened or tried to open.
#[derive(Debug)]
pub struct Connections {
    table: HashMap<ConnectionKey, Connection, KeyedState>,
    /// UDP addresses that cannot be reached, as far as nobody sends requests there.
    unheard: VecDeque<(SocketAddr, Time)>,
    upstream: Upstream,
}

/// What leads to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// This flow. A connection may still be being opened: what is sent waits.
    Flow(FlowRef),
    /// A connection that is to be opened from this point: then [`Connections::opening`].
    Open {
        point: PointId,
        key: ConnectionKey,
        /// Whom the certificate there must name; `None` for TCP.
        tls: Option<Box<TlsPeer>>,
    },
    /// None for now, and why the last attempt has failed, if that is known.
    Resting(Option<ConnectFailure>),
    /// No listening point of ours fits it.
    NoPoint,
    /// There are as many connections as may be. Counted.
    NoRoom,
}

/// What follows for others, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Among a name's targets this one comes last for a while.
    Block(NextHop),
    /// It no longer does.
    Unblock(NextHop),
    /// No answer comes to the service checks that were sent so.
    ChecksLost(SentBy, Evidence),
    /// The owner of the verdict is to hear this.
    Evidence(Seen),
    /// Requests that this UDP address has not answered go on to their next target.
    Move(SocketAddr),
}

/// How service checks were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentBy {
    /// On this connection of this shard.
    Conn(ConnId),
    /// To this address over UDP.
    Udp(SocketAddr),
}

/// At most so many follow from one event.
pub type Actions = SmallVec<[Action; 4]>;

/// What a new verdict changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Servers that answer again.
    pub back: Vec<NextHop>,
    /// Servers that do not answer, of which pair.
    pub down: Vec<Down>,
}

/// A server that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    pub pair: u8,
    pub address: SocketAddr,
    /// The system says that nobody is there. Of UDP it tells one shard only, whichever has sent what it is about.
    pub refuses: bool,
}

impl Connections {
    pub fn new(upstream: Upstream, state: KeyedState) -> Self {
        Self { table: HashMap::with_hasher(state), unheard: VecDeque::new(), upstream }
    }

    // --- what is asked for -----------------------------------------------------------------------------------

    /// What leads to an address. `expected` is what a device's certificate must carry.
    pub fn way_to(
        &mut self,
        to: NextHop,
        element: Element,
        expected: Option<&TlsPeer>,
        env: &Env,
        ports: &mut Ports,
        now: Time,
    ) -> Way {
        let NextHop { transport, address } = to;
        let Some(point) = env.settings.point_for(transport, element.side(), address.ip()) else { return Way::NoPoint };
        let key = ConnectionKey { element, to };
        let known = self.table.get(&key);
        if let Some(resting) = known.filter(|known| known.rests(now)) {
            return Way::Resting(resting.failure());
        }
        let shard = env.me();
        if !transport.is_stream() {
            if matches!(element, Element::Device(_)) && known.is_none() && self.note_device(key, ports, now) {
                // Where the system reports that it cannot be reached is not ours to choose.
                ports.mail_others(env.settings.shards, || Mail::AimsAt { address });
            }
            return Way::Flow(FlowRef::Udp { shard, point, remote: address });
        }
        if let Some(conn) = known.and_then(Connection::conn) {
            return Way::Flow(FlowRef::Stream { shard, conn, point });
        }
        if !self.has_room(ports, now) {
            return Way::NoRoom;
        }
        let tls = match (transport, expected) {
            (Transport::Tls, Some(expected)) => Some(expected.clone()),
            (Transport::Tls, None) => tls_peer(element, address, env),
            _ => None,
        };
        Way::Open { point, key, tls: tls.map(Box::new) }
    }

    /// A connection is being opened, as [`Way::Open`] has asked for.
    pub fn opening(&mut self, key: ConnectionKey, conn: ConnId, now: Time) {
        self.table.entry(key).or_insert(Connection::new(now)).opening(conn, now);
    }

    /// A connection is tried at once, however often it has failed.
    pub fn no_rest(&mut self, element: Element, to: NextHop) {
        if let Some(known) = self.table.get_mut(&ConnectionKey { element, to }) {
            known.rest_no_more();
        }
    }

    /// Whether it could not be reached, and is not tried for now.
    pub fn rests(&self, element: Element, to: NextHop, now: Time) -> bool {
        self.get(element, to).is_some_and(|known| known.rests(now))
    }

    /// Whether its connection is ready for SIP.
    pub fn is_open(&self, element: Element, to: NextHop) -> bool {
        self.get(element, to).is_some_and(|known| matches!(known.state(), State::Open(_)))
    }

    /// Whether the proxy sends requests to a device at this UDP address: what was too large for a datagram may have
    /// gone to it over TCP.
    pub fn aims_at(&self, to: NextHop, env: &Env) -> bool {
        !to.transport.is_stream() && self.get(element_of_device(None, &env.keys), to).is_some()
    }

    /// Whether a URI's host is known to be somebody else's than a phone's: a server's, another site's, or a device's by
    /// the settings or because it was sent to over UDP.
    pub fn is_known(&self, uri: &Uri, buf: &[u8], env: &Env) -> bool {
        let is_servers = env.names.has_users_at(uri.host, buf) || env.names.peer_of_uri(uri).is_some();
        let is_device = || match place_of(uri, buf).0 {
            Place::At(to) => env.settings.device_at(to.address.ip()).is_some() || self.aims_at(to, env),
            Place::Named(_) => false,
        };
        is_servers || is_device()
    }

    /// Where servers and peers are, and which of them answer.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ConnectionKey, &Connection)> {
        self.table.iter()
    }

    /// Whether none is open or being opened.
    pub fn is_idle(&self) -> bool {
        self.table.values().all(|known| known.state() == State::Closed)
    }

    fn get(&self, element: Element, to: NextHop) -> Option<&Connection> {
        self.table.get(&ConnectionKey { element, to })
    }

    // --- what is told ----------------------------------------------------------------------------------------

    /// A connection that was to be opened is ready for SIP.
    pub fn ready(&mut self, key: ConnectionKey, ports: &mut Ports, now: Time) -> Actions {
        let Some(known) = self.table.get_mut(&key) else { return Actions::new() };
        if known.opened(now) {
            ports.tell(Level::Info, key.element.words_up(), Some(key.to.address), b"");
        }
        smallvec![Action::Unblock(key.to)]
    }

    /// A connection that was opened, or was to be, is gone.
    pub fn closed(
        &mut self,
        key: ConnectionKey,
        conn: ConnId,
        reason: CloseReason,
        ports: &mut Ports,
        now: Time,
    ) -> Actions {
        let mut actions = Actions::new();
        let Some(known) = self.table.get_mut(&key).filter(|known| known.conn() == Some(conn)) else { return actions };
        known.closed(reason, now);
        if matches!(reason, CloseReason::Connect(_)) {
            if known.fail(now) {
                ports.event(key.element.words_down(), Some(key.to.address), reason.name().as_bytes());
            }
            actions.push(Action::Block(key.to));
        }
        if let Element::Server(pair) = key.element {
            let evidence = evidence_of(reason);
            actions.push(Action::ChecksLost(SentBy::Conn(conn), evidence.unwrap_or(Evidence::Reset)));
            actions.extend(evidence.map(|evidence| Action::Evidence((pair, key.to.address, evidence))));
        }
        actions
    }

    /// The system says that a UDP address cannot be reached. What a server, peer or device has not answered goes on at
    /// once (RFC 3261 §18.4, §16.9), as after a refused connection. `None` when it is resting already, which says
    /// nothing new, or when it is nobody's that this proxy sends requests to.
    pub fn unreachable(&mut self, address: SocketAddr, env: &Env, ports: &mut Ports, now: Time) -> Option<Actions> {
        let key = self.key_over_udp(address, env);
        if matches!(key.element, Element::Device(_)) && !self.table.contains_key(&key) {
            // A phone's address, as it seems, which is nobody's that we try anew.
            self.note_unheard(address, now);
            return None;
        }
        if !self.has_room(ports, now) {
            return Some(smallvec![Action::Move(address)]);
        }
        let known = self.table.entry(key).or_insert(Connection::new(now));
        if known.rests(now) {
            return None;
        }
        if known.unreachable(now) {
            ports.event(key.element.words_down(), Some(address), b"ICMP unreachable");
        }
        let mut actions = Actions::new();
        if let Element::Server(pair) = key.element {
            actions.push(Action::ChecksLost(SentBy::Udp(address), Evidence::Refused));
            actions.push(Action::Evidence((pair, address, Evidence::Refused)));
        }
        actions.extend([Action::Block(key.to), Action::Move(address)]);
        Some(actions)
    }

    /// Another shard sends requests to a device at a UDP address. `true` when the system has been quicker than its mail,
    /// and has said here already that the address cannot be reached.
    pub fn on_aims_at(&mut self, address: SocketAddr, env: &Env, ports: &mut Ports, now: Time) -> bool {
        let to = NextHop { transport: Transport::Udp, address };
        self.note_device(ConnectionKey { element: element_of_device(None, &env.keys), to }, ports, now);
        let at = self.unheard.iter().position(|(unheard, _)| *unheard == address);
        at.and_then(|at| self.unheard.remove(at)).is_some_and(|(_, heard)| now.since(heard) < LINK_RETRY_MIN)
    }

    /// A datagram has come from an address: it need not rest.
    pub fn heard(&mut self, from: SocketAddr, env: &Env, ports: &mut Ports, now: Time) {
        if self.table.is_empty() {
            return;
        }
        let key = self.key_over_udp(from, env);
        if self.table.get_mut(&key).is_some_and(|known| known.heard(now)) {
            ports.tell(Level::Info, key.element.words_up(), Some(from), b"");
        }
    }

    /// The owner of the verdict has spoken: new requests go by it.
    pub fn on_verdict(&mut self, upstream: Upstream, settings: &Settings) -> Verdict {
        let before = std::mem::replace(&mut self.upstream, upstream);
        let mut verdict = Verdict::default();
        for ((pair, view), before) in (0..).zip(&self.upstream.view.pairs).zip(&before.view.pairs) {
            let answered = |address| {
                let before = before.members.iter().flat_map(|member| &member.targets);
                before.filter(|target| target.up).any(|target| target.address == address)
            };
            let transport = settings.servers[usize::from(pair)].transport;
            for target in view.members.iter().flat_map(|member| &member.targets) {
                let to = NextHop { transport, address: target.address };
                if !target.up {
                    let refuses = !transport.is_stream() && upstream::is_certain(target.why);
                    verdict.down.push(Down { pair, address: target.address, refuses });
                    continue;
                }
                let is_back = upstream::has_lived(target.why) && !answered(target.address);
                match self.table.get_mut(&ConnectionKey { element: Element::Server(pair), to }) {
                    Some(known) if is_back => known.forgive(),
                    Some(known) => known.rest_no_more(),
                    None => {}
                }
                if is_back {
                    verdict.back.push(to);
                }
            }
        }
        verdict
    }

    // --- the table -------------------------------------------------------------------------------------------

    /// What the system says of an address over UDP is heard for devices that are in the table. `false` when there was no
    /// room.
    fn note_device(&mut self, key: ConnectionKey, ports: &mut Ports, now: Time) -> bool {
        let room = self.has_room(ports, now);
        if room {
            self.table.entry(key).or_insert(Connection::new(now));
        }
        room
    }

    fn note_unheard(&mut self, address: SocketAddr, now: Time) {
        if self.unheard.len() >= UNHEARD_COUNT_MAX {
            self.unheard.pop_front();
        }
        self.unheard.push_back((address, now));
    }

    /// Forgets what is over when there are as many as may be; `false`, counted, when there still are.
    fn has_room(&mut self, ports: &mut Ports, now: Time) -> bool {
        if self.table.len() >= LINKS_COUNT_MAX {
            self.table.retain(|_, known| known.conn().is_some() || known.rests(now));
        }
        let room = self.table.len() < LINKS_COUNT_MAX;
        if !room {
            ports.count(Counter::LimitLinksCount);
        }
        room
    }

    /// Who is at a UDP address. A server whose requests go over a connection is not sent to there.
    fn key_over_udp(&self, address: SocketAddr, env: &Env) -> ConnectionKey {
        let by_udp = |pair: &u8| !env.settings.servers[usize::from(*pair)].transport.is_stream();
        let server = env.names.server_at(address).map(|(pair, _)| pair).filter(by_udp);
        let element = match (server, env.names.peer_at(address)) {
            (Some(pair), _) => Element::Server(pair),
            (None, Some(peer)) => Element::Peer(peer),
            (None, None) => element_of_device(None, &env.keys),
        };
        ConnectionKey { element, to: NextHop { transport: Transport::Udp, address } }
    }

    /// What holds between two calls. `slots` are the connections that know their key, as long as requests may be sent over
    /// them, and whether they are ready.
    pub fn check(&self, slots: impl Iterator<Item = (ConnId, ConnectionKey, bool)>) {
        assert!(self.table.len() <= LINKS_COUNT_MAX && self.unheard.len() <= UNHEARD_COUNT_MAX, "a table is too long");
        for (key, known) in &self.table {
            known.check(key);
        }
        let mut count = 0;
        for (conn, key, ready) in slots {
            let state = if ready { State::Open(conn) } else { State::Opening(conn) };
            assert_eq!(self.table.get(&key).map(Connection::state), Some(state), "{key:?}");
            count += 1;
        }
        let held = self.table.values().filter(|known| known.conn().is_some()).count();
        assert_eq!(count, held, "a connection has lost its slot");
    }
}

/// What the certificate of a server or of another site's proxy must carry: `tls-name`, else the name or address in the
/// settings, never what the DNS made of it (RFC 5922 §4).
fn tls_peer(element: Element, address: SocketAddr, env: &Env) -> Option<TlsPeer> {
    match element {
        Element::Server(pair) => {
            let server = env.settings.servers.get(usize::from(pair))?;
            let backup = env.names.server_at(address).is_some_and(|(_, member)| member == Member::Backup);
            Some(server.tls_peer(server.backup.as_ref().filter(|_| backup).unwrap_or(&server.primary)))
        }
        Element::Peer(peer) => Some(env.settings.peers.get(usize::from(peer))?.tls_peer()),
        Element::Device(_) | Element::Large(_) => None,
    }
}
