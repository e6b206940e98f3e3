//! Ways that we open ourselves: to SIP Servers, other sites' proxies and devices. A connection is kept for each
//! address and the name that its certificate must carry (RFC 5923), used in both directions, and opened again with
//! growing pauses when it cannot be opened.
//!
//! For UDP a link is only the memory that its address could not be reached.

use std::net::SocketAddr;

use super::{CloseReason, ConnectFailure, Engine, Level, Mail};
use crate::clock::Time;
use crate::config::Verify;
use crate::dns;
use crate::flow::keys::Tag;
use crate::ids::{ConnId, FlowRef, ShardId, Side, Transport};
use crate::limits::{LINK_RETRY_MAX, LINK_RETRY_MIN, LINKS_COUNT_MAX};
use crate::server_pool::{Evidence, Member};
use crate::stats::Counter;
use crate::tls::identity::{Expected, TlsPeer};

/// Addresses that cannot be reached of which a shard waits to hear that another sends requests there. What is pushed
/// out costs a request its first repetition.
const UNHEARD_COUNT_MAX: usize = 64;

/// What ICMP says of a UDP address, as how a link ends.
const UNREACHABLE: CloseReason = CloseReason::Connect(ConnectFailure::Refused);

/// One address that a request may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    #[allow(missing_docs, reason = "see Transport")]
    pub transport: Transport,
    /// The address and port.
    pub address: SocketAddr,
}

impl From<&dns::Target> for Hop {
    fn from(target: &dns::Target) -> Self {
        Self { transport: target.transport, address: target.address }
    }
}

/// Whom a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// A server of this pair.
    Server(u8),
    /// The proxy of this site.
    Peer(u8),
    /// A device, or what a server's Route names, by a hash of the name that its certificate must carry and of whom it
    /// must be.
    Device(u64),
    /// TCP beside UDP, for requests that are too large for a datagram, to one on this side. That it cannot be opened
    /// says nothing of who is there.
    Large(Side),
}

impl Whose {
    pub(super) fn side(self) -> Side {
        match self {
            Self::Server(_) => Side::Server,
            Self::Peer(_) | Self::Device(_) => Side::Endpoint,
            Self::Large(side) => side,
        }
    }
}

/// What tells links apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkKey {
    pub(super) whose: Whose,
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
}

/// One way that we opened, or tried to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// The connection, while there is one.
    pub(super) conn: Option<ConnId>,
    /// It is ready for SIP.
    pub(super) open: bool,
    /// Attempts that failed, one after the other.
    failures: u32,
    /// It is not tried again before.
    retry_at: Option<Time>,
    /// Since when it is open, being opened, or down.
    pub(super) since: Time,
    /// How it ended last.
    pub(super) why: Option<CloseReason>,
}

impl Link {
    fn new(now: Time) -> Self {
        Self { conn: None, open: false, failures: 0, retry_at: None, since: now, why: None }
    }

    /// Whether it could not be opened, or its address not be reached, and must rest.
    pub(super) fn rests(&self, now: Time) -> bool {
        self.conn.is_none() && self.retry_at.is_some_and(|at| now < at)
    }

    /// Whether it is open; for UDP, where nothing is, that what was sent since has reached its address.
    pub(super) fn is_there(&self) -> bool {
        self.open || (self.why == Some(UNREACHABLE) && self.failures == 0)
    }

    /// Whether it could not be opened the last time, or its address not be reached.
    pub(super) fn is_out(&self) -> bool {
        self.failures > 0
    }

    /// Why it could not be opened, when that is how it ended.
    pub(super) fn failure(&self) -> Option<ConnectFailure> {
        match (self.conn, self.why) {
            (None, Some(CloseReason::Connect(failure))) => Some(failure),
            _ => None,
        }
    }

    /// It is tried at once, however often it has failed.
    pub(super) fn rest_no_more(&mut self) {
        self.retry_at = None;
    }

    /// It is known to answer.
    pub(super) fn is_well(&mut self) {
        (self.retry_at, self.failures) = (None, 0);
    }

    /// It could not be opened, or not be reached. `true` when it is the first time since it could.
    fn fail(&mut self, now: Time) -> bool {
        let wait = LINK_RETRY_MIN.saturating_mul(1 << self.failures.min(8)).min(LINK_RETRY_MAX);
        self.failures += 1;
        self.retry_at = Some(now.after(wait));
        self.since = now;
        self.failures == 1
    }
}

impl Engine {
    /// The flow to an address, opened when there is none; `None` while it cannot be reached, or no listening point of
    /// ours fits it. `expected` is what a device's certificate must carry.
    pub(super) fn flow_to(&mut self, hop: Hop, whose: Whose, expected: Option<&TlsPeer>, now: Time) -> Option<FlowRef> {
        let Hop { transport, address } = hop;
        let point = self.env.settings.point_for(transport, whose.side(), address.ip())?;
        let key = LinkKey { whose, transport, address };
        let link = self.links.get(&key);
        if link.is_some_and(|link| link.rests(now)) {
            return None;
        }
        let shard = self.me();
        if !transport.is_stream() {
            if matches!(whose, Whose::Device(_)) && link.is_none() && self.make_room_for_link(now).is_some() {
                // What the system says of an address is heard for those that are aimed at.
                self.links.insert(key, Link::new(now));
                for other in (0..self.env.settings.shards).map(ShardId).filter(|other| *other != shard) {
                    self.mail(other, Mail::AimsAt { address });
                }
            }
            return Some(FlowRef::Udp { shard, point, remote: address });
        }
        let conn = match link.and_then(|link| link.conn) {
            Some(conn) => conn,
            None => {
                let tls = match (transport, expected) {
                    (Transport::Tls, Some(expected)) => Some(expected.clone()),
                    (Transport::Tls, None) => self.tls_peer(whose, address),
                    _ => None,
                };
                self.make_room_for_link(now)?;
                let conn = self.open(point, key, tls.map(Box::new), now)?;
                let link = self.links.entry(key).or_insert(Link::new(now));
                (link.conn, link.open, link.since) = (Some(conn), false, now);
                conn
            }
        };
        Some(FlowRef::Stream { shard, conn, point })
    }

    /// Forgets links that are over, when there are as many as may be.
    fn make_room_for_link(&mut self, now: Time) -> Option<()> {
        if self.links.len() >= LINKS_COUNT_MAX {
            self.links.retain(|_, link| link.conn.is_some() || link.rests(now));
        }
        if self.links.len() < LINKS_COUNT_MAX {
            return Some(());
        }
        self.count(Counter::LimitLinksCount);
        None
    }

    /// What the certificate of a server or of another site's proxy must carry: `tls-name`, else the name or address
    /// in the settings, never what the DNS made of it (RFC 5922 §4).
    pub(super) fn tls_peer(&self, whose: Whose, address: SocketAddr) -> Option<TlsPeer> {
        match whose {
            Whose::Server(pair) => {
                let server = self.env.settings.servers.get(usize::from(pair))?;
                let backup = self.env.names.server_at(address).is_some_and(|(_, member)| member == Member::Backup);
                Some(server.tls_peer(server.backup.as_ref().filter(|_| backup).unwrap_or(&server.primary)))
            }
            Whose::Peer(peer) => Some(self.env.settings.peers.get(usize::from(peer))?.tls_peer()),
            Whose::Device(_) | Whose::Large(_) => None,
        }
    }

    /// The connection over TCP to an address that a request is too large for over UDP, when it is known to take TCP
    /// (RFC 3261 §18.1.1). Until that is known, one is opened for those to come, and the request in hand does not
    /// wait for it.
    pub(super) fn large_flow(&mut self, side: Side, address: SocketAddr, now: Time) -> Option<FlowRef> {
        let key = LinkKey { whose: Whose::Large(side), transport: Transport::Tcp, address };
        let open = self.links.get(&key).is_some_and(|link| link.open);
        let flow = self.flow_to(Hop { transport: Transport::Tcp, address }, key.whose, None, now);
        flow.filter(|_| open)
    }

    /// What a device's certificate must carry: what its network's rule says, else the host that the server named.
    pub(super) fn tls_of_device(&self, host: &Expected, address: SocketAddr) -> TlsPeer {
        let rule = self.env.settings.device_at(address.ip());
        let named = rule.and_then(|rule| rule.tls_name.as_ref());
        let expected = named.map_or_else(|| host.clone(), |name| Expected::of(None, name));
        TlsPeer {
            side: Side::Endpoint,
            setup: rule.and_then(|rule| rule.setup).map(|setup| setup.id),
            expected,
            verify: rule.map_or(Verify::Name, |rule| rule.verify),
        }
    }

    /// The link that leads to a device.
    pub(super) fn whose_device(&self, tls: Option<&TlsPeer>) -> Whose {
        let hash = tls.map_or(0, |tls| {
            let chain = [u8::from(tls.verify == Verify::Chain)];
            // 0 is the set-up of the side.
            let setup = tls.setup.map_or(0, |setup| u32::from(setup.0) + 1).to_be_bytes();
            let (kind, name): (&[u8], _) = match &tls.expected {
                Expected::Name(name) => (b"n", name.clone()),
                Expected::Address(ip) => (b"a", ip.to_string()),
            };
            self.env.keys.hash64(Tag::Device, &[kind, name.as_bytes(), &chain, &setup])
        });
        Whose::Device(hash)
    }

    /// The shard that holds the connection to a device (DESIGN.md: by the hash of its target before DNS).
    pub(super) fn shard_of_device(&self, host: &[u8], port: u16, transport: Transport) -> ShardId {
        let hash = self.env.keys.hash64(Tag::Device, &[host, &port.to_be_bytes(), transport.param_name().as_bytes()]);
        // A remainder of a u8 fits a u8.
        ShardId(u8::try_from(hash % u64::from(self.env.settings.shards.max(1))).unwrap_or(0))
    }

    /// A link is tried at once, however often it has failed.
    pub(super) fn no_rest(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(&key) {
            link.rest_no_more();
        }
    }

    /// A connection that we opened is ready.
    pub(super) fn link_ready(&mut self, key: LinkKey, now: Time) {
        let Some(link) = self.links.get_mut(&key) else { return };
        let was_down = std::mem::take(&mut link.failures) > 0;
        (link.open, link.retry_at, link.since) = (true, None, now);
        if was_down {
            self.tell(Level::Info, whose_up(key.whose), Some(key.address), b"");
        }
        self.dns.unblock(key.transport, key.address);
    }

    /// A connection that we opened, or wanted to, is gone. What it says of a server is evidence.
    pub(super) fn link_closed(&mut self, key: LinkKey, conn: ConnId, reason: CloseReason, now: Time) {
        let Some(link) = self.links.get_mut(&key).filter(|link| link.conn == Some(conn)) else { return };
        (link.conn, link.open, link.since, link.why) = (None, false, now, Some(reason));
        let failed = matches!(reason, CloseReason::Connect(_));
        if failed {
            if link.fail(now) {
                self.event(whose_down(key.whose), Some(key.address), reason.name().as_bytes());
            }
            self.dns.block(key.transport, key.address, now, &mut self.ports.counters);
        }
        if let Whose::Server(pair) = key.whose {
            self.pings_lost(conn, reason, now);
            if let Some(evidence) = evidence_of(reason) {
                self.tell_evidence(pair, key.address, evidence);
            }
        }
    }

    /// The system says that a UDP address cannot be reached. `false` when that is known.
    pub(super) fn link_unreachable(&mut self, key: LinkKey, now: Time) -> bool {
        if self.make_room_for_link(now).is_none() {
            return true;
        }
        let link = self.links.entry(key).or_insert(Link::new(now));
        if link.rests(now) {
            return false;
        }
        let is_news = link.fail(now);
        link.why = Some(UNREACHABLE);
        if is_news {
            self.event(whose_down(key.whose), Some(key.address), b"ICMP unreachable");
        }
        if let Whose::Server(pair) = key.whose {
            self.pings_unreachable(key.address, now);
            self.tell_evidence(pair, key.address, Evidence::Refused);
        }
        self.dns.block(key.transport, key.address, now, &mut self.ports.counters);
        true
    }

    /// See [`Mail::AimsAt`].
    pub(super) fn on_aims_at(&mut self, address: SocketAddr, now: Time) {
        let key = LinkKey { whose: self.whose_device(None), transport: Transport::Udp, address };
        if self.make_room_for_link(now).is_some() {
            self.links.entry(key).or_insert(Link::new(now));
        }
        // The system may have been quicker than the mail.
        if let Some(at) = self.unheard.iter().position(|(to, _)| *to == address)
            && let Some((_, heard)) = self.unheard.remove(at)
            && now.since(heard) < LINK_RETRY_MIN
        {
            self.on_unreachable(address, now);
        }
    }

    /// The system says of an address that it cannot be reached, and nobody is known to send requests there.
    pub(super) fn note_unheard(&mut self, to: SocketAddr, now: Time) {
        if self.unheard.len() >= UNHEARD_COUNT_MAX {
            self.unheard.pop_front();
        }
        self.unheard.push_back((to, now));
    }

    /// Something was heard from an address: it need not rest.
    pub(super) fn link_heard(&mut self, key: LinkKey, now: Time) {
        if self.links.is_empty() {
            return;
        }
        if let Some(link) = self.links.get_mut(&key)
            && std::mem::take(&mut link.failures) > 0
        {
            (link.retry_at, link.since) = (None, now);
            self.tell(Level::Info, whose_up(key.whose), Some(key.address), b"");
        }
    }

    pub(super) fn tell_evidence(&mut self, pair: u8, address: SocketAddr, evidence: Evidence) {
        self.mail(super::servers::OWNER, Mail::Evidence { pair, address, evidence });
    }
}

fn whose_up(whose: Whose) -> &'static str {
    match whose {
        Whose::Server(_) => "SIP Server can be reached again",
        Whose::Peer(_) => "peer proxy can be reached again",
        Whose::Device(_) => "device can be reached again",
        Whose::Large(_) => "requests that are too large for a datagram go by TCP again",
    }
}

fn whose_down(whose: Whose) -> &'static str {
    match whose {
        Whose::Server(_) => "SIP Server cannot be reached",
        Whose::Peer(_) => "peer proxy cannot be reached",
        Whose::Device(_) => "device cannot be reached",
        Whose::Large(_) => "requests that are too large for a datagram go by UDP: no TCP there",
    }
}

/// What the end of a connection says of the server at its other end.
pub(super) fn evidence_of(reason: CloseReason) -> Option<Evidence> {
    use super::ConnectFailure;
    Some(match reason {
        CloseReason::Connect(ConnectFailure::Refused) => Evidence::Refused,
        CloseReason::Connect(ConnectFailure::Unreachable) => Evidence::Unreachable,
        CloseReason::Connect(ConnectFailure::Timeout) => Evidence::ConnectTimeout,
        CloseReason::Connect(ConnectFailure::Tls) => Evidence::Tls,
        // Ours, not its.
        CloseReason::Connect(ConnectFailure::Resources)
        | CloseReason::Panic
        | CloseReason::Framing
        | CloseReason::Pings
        | CloseReason::HalfClosed
        | CloseReason::Idle => return None,
        _ => Evidence::Reset,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_to_a_device_is_shared_by_those_who_want_the_same_name_and_the_same_trust() {
        let engine = Engine::new(crate::config::engine::Settings::plain(Vec::new(), Vec::new()), Time(0));
        let host = |name: &str| Expected::Name(name.to_owned());
        let peer = |setup: Option<u16>, expected, verify| TlsPeer {
            side: Side::Endpoint,
            setup: setup.map(crate::ids::SetupId),
            expected,
            verify,
        };
        let all = [
            peer(None, host("a.test"), Verify::Name),
            peer(Some(0), host("a.test"), Verify::Name),
            peer(Some(1), host("a.test"), Verify::Name),
            peer(Some(1), host("a.test"), Verify::Chain),
            peer(Some(1), host("b.test"), Verify::Chain),
            peer(Some(1), Expected::Address("192.0.2.1".parse().expect("an address")), Verify::Chain),
        ];
        let links: Vec<_> = all.iter().map(|peer| engine.whose_device(Some(peer))).collect();
        for (at, link) in links.iter().enumerate() {
            assert_eq!(*link, engine.whose_device(Some(&all[at].clone())));
            assert!(!links[..at].contains(link), "{:?}", all[at]);
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut link = Link::new(Time(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            link.fail(Time(0));
            waits.push(link.retry_at.map(|at| at.since(Time(0))).unwrap_or_default());
        }
        assert_eq!(waits[0], LINK_RETRY_MIN);
        assert!(waits.windows(2).all(|two| two[0] <= two[1]));
        assert_eq!(waits[11], LINK_RETRY_MAX);
        assert!(link.rests(Time(0)) && !link.rests(Time(0).after(LINK_RETRY_MAX + Duration::from_millis(1))));
    }
}
