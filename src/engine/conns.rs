//! Connections: their slots, framing, deadlines, and the side that they are found to be on. Which bindings they carry is
//! known to location.

use std::net::SocketAddr;

use super::connections::{ConnectionKey, Element};
use super::location::Lost;
use super::location::notice::Notice;
use super::{Accept, CloseReason, Engine, Level, Mail, Output, Refusal, Source, Timer};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{ConnId, FlowRef, PointId, Side, Transport};
use crate::limits::{
    FIRST_MESSAGE_MAX, HALF_CLOSED_MAX, HANDSHAKE_MAX, IDLE_UNREGISTERED_MAX, MESSAGE_BEGUN_MAX, PINGS_PER_READ_MAX,
};
use crate::proxy::Origin;
use crate::sip::{FrameFault, Framed, Framer, Message, Method, Scanned};
use crate::stats::Counter;
use crate::tls::identity::{Identities, TlsPeer};
use crate::wheel::TimerId;

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) point: PointId,
    pub(super) peer: SocketAddr,
    /// Found by its first request; an outbound connection has it from the start.
    pub(super) side: Option<Side>,
    /// Another site's proxy is at its other end.
    is_peer: bool,
    /// We opened it.
    link: Option<Box<ConnectionKey>>,
    pub(super) ready: bool,
    /// A whole message has come.
    heard: bool,
    framer: Framer,
    /// It carries a binding, as location has said.
    registered: bool,
    /// When it was made, became ready, or last brought a whole message or a ping.
    last: Time,
    /// When the message that is begun was begun.
    begun: Option<Time>,
    /// Requests that came over it, less final responses that were sent on it. It errs where a request is never answered,
    /// or elsewhere, or twice; so it decides nothing but how long a connection outlives its peer's half.
    pub(super) owed: u32,
    /// Since when its peer says nothing more: see [`super::halves`].
    pub(super) half_closed: Option<Time>,
    timer: Option<TimerId>,
    /// The names of the peer's verified certificate. Boxed: most phones show none.
    identities: Option<Box<Identities>>,
}

impl Conn {
    /// One that was accepted, and of whose peer nothing is known yet.
    fn new(point: PointId, peer: SocketAddr, now: Time) -> Self {
        Self {
            point,
            peer,
            side: None,
            is_peer: false,
            link: None,
            ready: false,
            heard: false,
            framer: Framer::default(),
            registered: false,
            last: now,
            begun: None,
            owed: 0,
            half_closed: None,
            timer: None,
            identities: None,
        }
    }

    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Whether it carries a binding now.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    /// The way that it is, when we opened it.
    pub(super) fn link(&self) -> Option<ConnectionKey> {
        self.link.as_deref().copied()
    }

    /// Whether it counts among those of its source that hold no binding.
    pub(super) fn counts_as_unregistered(&self) -> bool {
        !(self.link.is_some() || self.is_peer || self.side == Some(Side::Server) || self.is_registered())
    }

    /// Its peer says nothing more. Whether it carried a binding.
    pub(super) fn part(&mut self, now: Time) -> bool {
        self.half_closed = Some(now);
        (self.framer, self.begun) = (Framer::default(), None);
        std::mem::take(&mut self.registered)
    }

    /// The deadline that counts now, and what missing it means.
    fn deadline(&self) -> Option<(Time, CloseReason)> {
        if !self.ready {
            let reason = if self.link.is_some() {
                CloseReason::Connect(super::ConnectFailure::Timeout)
            } else {
                CloseReason::HandshakeTimeout
            };
            return Some((self.last.after(HANDSHAKE_MAX), reason));
        }
        if let Some(since) = self.half_closed {
            return Some(match self.owed {
                0 => (since, CloseReason::Peer),
                _ => (since.after(HALF_CLOSED_MAX), CloseReason::HalfClosed),
            });
        }
        if let Some(begun) = self.begun {
            return Some((begun.after(MESSAGE_BEGUN_MAX), CloseReason::SlowMessage));
        }
        // Our own connection to a server stays as long as the server lets it.
        if self.link.is_some() || self.is_peer || self.is_registered() || self.side == Some(Side::Server) {
            return None;
        }
        if !self.heard {
            return Some((self.last.after(FIRST_MESSAGE_MAX), CloseReason::FirstMessageTimeout));
        }
        Some((self.last.after(IDLE_UNREGISTERED_MAX), CloseReason::Idle))
    }
}

impl Engine {
    /// A connection was accepted: gives it a slot, or says why it must be closed at once.
    ///
    /// # Errors
    /// A [`Refusal`], counted already.
    pub fn accept(&mut self, accept: Accept, now: Time) -> Result<ConnId, Refusal> {
        let held = self.unregistered.get(&accept.peer.ip()).copied().unwrap_or(0);
        // A server or proxy that opens its connections from one address is not held to a phone's measure.
        let is_server = self.env.names.is_server_ip(accept.peer.ip());
        let refusal = if self.draining {
            Some(Refusal::Draining)
        } else if held >= self.env.settings.unregistered_per_source_max && !is_server {
            self.count(Counter::LimitUnregisteredPerSource);
            Some(Refusal::Source)
        } else if self.conns.len() >= self.env.settings.connections_max as usize && !is_server {
            // What is left of the slots is for the servers.
            self.count(Counter::LimitConnections);
            Some(Refusal::Connections)
        } else {
            None
        };
        let refusal = match refusal {
            Some(refusal) => refusal,
            None => match self.conns.insert(Conn::new(accept.point, accept.peer, now)) {
                Some(id) => {
                    let transport = self.env.settings.point(accept.point).transport;
                    self.kept.conn_came(transport);
                    self.location.open(id, accept.point, accept.peer, Some(transport));
                    *self.unregistered.entry(accept.peer.ip()).or_insert(0) += 1;
                    self.update_deadline(id);
                    return Ok(id);
                }
                None => {
                    self.count(Counter::LimitConnections);
                    Refusal::Connections
                }
            },
        };
        self.count(Counter::accept_refused(refusal));
        self.ports.tell_why(Level::Warn, "connection refused", refusal.name(), Some(accept.peer), b"");
        Err(refusal)
    }

    /// Gives an outbound connection its slot and asks for it to be opened.
    pub(super) fn open(
        &mut self,
        point: PointId,
        key: ConnectionKey,
        tls: Option<Box<TlsPeer>>,
        now: Time,
    ) -> Option<ConnId> {
        let ConnectionKey { element, to: NextHop { transport, address: to } } = key;
        let side = element.side();
        let conn = Conn {
            side: Some(side),
            is_peer: matches!(element, Element::Peer(_)),
            link: Some(Box::new(key)),
            heard: true,
            ..Conn::new(point, to, now)
        };
        // What is left of the slots beyond `connections_max` is for servers and other sites.
        let full = self.conns.len() >= self.env.settings.connections_max as usize;
        let for_endpoint = matches!(element, Element::Device(_) | Element::Large(Side::Endpoint));
        let conn = if full && for_endpoint { None } else { self.conns.insert(conn) };
        let Some(conn) = conn else {
            self.count(Counter::LimitConnections);
            return None;
        };
        self.kept.conn_came(self.env.settings.point(point).transport);
        self.location.open(conn, point, to, None);
        self.update_deadline(conn);
        self.ports.outputs.push_back(Output::Connect { conn, point, transport, to, side, tls });
        Some(conn)
    }

    pub(super) fn on_ready(&mut self, id: ConnId, identities: Option<Box<Identities>>, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ready = true;
        conn.last = now;
        let point = self.env.settings.point(conn.point);
        let (link, transport) = (conn.link(), point.transport);
        let peer = conn.peer;
        let origin = identities.as_ref().and_then(|identities| self.env.names.origin_of_identity(identities));
        let origin = origin.filter(|origin| origin.is_peer || point.serves(origin.side));
        // Nobody of a peer's CA becomes a phone, not even when the settings' files have changed since it was let in.
        if link.is_none() && origin.is_none() && identities.as_ref().is_some_and(|shown| shown.of_peers_only) {
            self.event("connection refused: its certificate is of a peer's CA, and not the peer's", Some(peer), b"");
            return self.close(id, CloseReason::Handshake, now);
        }
        conn.identities = identities;
        // A certificate settles the side before the first request can.
        if let (None, Some(origin)) = (conn.side, origin) {
            let ip = conn.peer.ip();
            (conn.side, conn.is_peer) = (Some(origin.side), origin.is_peer);
            self.uncount_source(ip);
        }
        self.show_side(id);
        if let Some(key) = link {
            self.link_ready(key, now);
        }
        if let Some(counter) = Counter::connection_opened(transport, link.is_some()) {
            self.count(counter);
        }
        if self.tells(Level::Debug) {
            let by = if link.is_some() { " by us" } else { "" };
            let about = format!("{}{by}", transport.param_name());
            self.tell(Level::Debug, "connection opened", Some(peer), about.as_bytes());
        }
        self.update_deadline(id);
    }

    /// Sets the connection's timer to its deadline. A timer that runs and is early enough is left alone: it
    /// looks again when it fires.
    pub(super) fn update_deadline(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match (conn.deadline(), conn.timer) {
            (None, None) => {}
            (None, Some(timer)) => {
                self.ports.wheel.cancel(timer);
                conn.timer = None;
            }
            (Some((at, _)), Some(timer)) => {
                if !self.ports.wheel.rearm(timer, at) {
                    conn.timer = Some(self.ports.wheel.arm(at, Timer::Conn(id)));
                }
            }
            (Some((at, _)), None) => conn.timer = Some(self.ports.wheel.arm(at, Timer::Conn(id))),
        }
    }

    /// The names of the verified certificate that the peer of a flow of this shard has shown.
    #[must_use]
    pub fn identities_of(&self, flow: FlowRef) -> Option<&Identities> {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == self.me() => self.conns.get(conn)?.identities.as_deref(),
            _ => None,
        }
    }

    pub(super) fn on_conn_timer(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.timer = None;
        match conn.deadline() {
            Some((at, reason)) if at <= now => self.close(id, reason, now),
            _ => self.update_deadline(id),
        }
    }

    pub(super) fn on_bytes(&mut self, id: ConnId, bytes: &[u8], now: Time) {
        let mut input = bytes;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let transport = self.env.settings.point(conn.point).transport;
        let was_begun = conn.begun.is_some();
        // Taken out while its messages are handled: what a message causes may close the connection.
        let mut framer = std::mem::take(&mut conn.framer);
        self.ports.counters.add(Counter::bytes_in(transport), bytes.len() as u64);
        let (mut heard, mut pings) = (false, 0);
        loop {
            let pool = &mut self.ports.pool;
            match framer.next(&mut input, &mut || pool.take()) {
                Ok(Some(Framed::Message(scanned))) => {
                    heard = true;
                    self.count(Counter::messages_in(transport));
                    self.on_stream_message(id, scanned, now);
                }
                Ok(Some(Framed::Ping)) => {
                    pings += 1;
                    if pings > PINGS_PER_READ_MAX {
                        return self.close(id, CloseReason::Pings, now);
                    }
                    if pings == 1 {
                        self.pong(id);
                    }
                }
                Ok(None) => break,
                Err(fault) => {
                    self.on_frame_fault(id, fault, now);
                    return;
                }
            }
            if self.conns.get(id).is_none() {
                return;
            }
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let begun = framer.begun();
        conn.framer = framer;
        conn.begun = if begun { Some(conn.begun.filter(|_| !heard).unwrap_or(now)) } else { None };
        // Who only ever pings is no phone: a ping keeps alive what a message has begun.
        if heard || (pings > 0 && conn.heard) {
            conn.last = now;
        }
        conn.heard |= heard;
        let now_begun = conn.begun.is_some();
        // The idle deadline moves with each message; its timer catches up when it fires.
        if was_begun != now_begun || (heard && conn.timer.is_some() && !conn.is_registered() && now_begun) {
            self.update_deadline(id);
        }
    }

    /// Answers the pings of a read: all that was read is known to have come, whatever their number. One that is still
    /// to be sent answers these too.
    fn pong(&mut self, id: ConnId) {
        self.count(Counter::KeepalivePing);
        let is_one = |last: &Output| matches!(last, Output::Bytes { conn, bytes } if *conn == id && bytes == b"\r\n");
        if !self.ports.outputs.back().is_some_and(is_one) {
            self.ports.outputs.push_back(Output::Bytes { conn: id, bytes: b"\r\n".to_vec() });
        }
    }

    fn stream_source(&self, id: ConnId, message: &Message) -> Option<Source> {
        let conn = self.conns.get(id)?;
        let flow = FlowRef::Stream { shard: self.me(), conn: id, point: conn.point };
        let binding = self.location.binding_of(flow, message, &self.env);
        let side = conn.side.unwrap_or(Side::Endpoint);
        Some(Source { flow, peer: conn.peer, side, is_peer: conn.is_peer, binding })
    }

    fn on_stream_message(&mut self, id: ConnId, scanned: Scanned, now: Time) {
        match scanned {
            Ok(message) => {
                self.settle_side(id, &message);
                let Some(source) = self.stream_source(id, &message) else { return };
                if message.is_request() && message.method() != Some(Method::Ack) {
                    self.note_asked(id);
                }
                let ends = message.fault().is_some_and(crate::sip::Fault::ends_stream);
                self.on_message(message, source, now);
                if ends {
                    self.close(id, CloseReason::Framing, now);
                }
            }
            Err((error, buf)) => {
                self.ports.counters.count_with_bound(Counter::scan_error(error));
                let peer = self.conns.get(id).map(|conn| conn.peer);
                self.event("message dropped: it cannot be answered", peer, buf.get(..64).unwrap_or(&buf));
                self.ports.pool.give(buf);
            }
        }
    }

    /// The side of an accepted connection is found by its first request.
    fn settle_side(&mut self, id: ConnId, message: &Message) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.side.is_some() || !message.is_request() {
            return;
        }
        let transport = self.env.settings.point(conn.point).transport;
        let shown = conn.identities.as_deref();
        let mut origin = self.env.names.origin_of_stream(conn.peer, transport, shown, message.top_via(), message.buf());
        if !self.env.settings.point(conn.point).serves(Side::Server) && origin.side == Side::Server {
            origin = Origin::ENDPOINT;
        }
        let counted = conn.counts_as_unregistered();
        (conn.side, conn.is_peer) = (Some(origin.side), origin.is_peer);
        let (uncounts, ip) = (counted && !conn.counts_as_unregistered(), conn.peer.ip());
        self.show_side(id);
        if uncounts {
            self.uncount_source(ip);
            self.update_deadline(id);
        }
    }

    /// Whether a server may name the peer of a connection by its address.
    fn show_side(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            self.location.face(id, conn.ready && conn.side != Some(Side::Server));
        }
    }

    fn on_frame_fault(&mut self, id: ConnId, fault: FrameFault, now: Time) {
        let what = fault.fault;
        if let Ok(message) = fault.into_message()
            && message.is_request()
            && message.method() != Some(Method::Ack)
            && let Some(source) = self.stream_source(id, &message)
        {
            self.refuse_fault(&message, &source);
        } else {
            self.ports.counters.count_with_bound(Counter::fault(what));
        }
        self.close(id, CloseReason::Framing, now);
    }

    /// Closes a connection of ours: its slot is free at once, what waits for it is told.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason, now: Time) {
        if self.conns.get(id).is_some() {
            self.ports.outputs.push_back(Output::Close { conn: id, reason });
            self.on_closed(id, reason, now);
        }
    }

    pub(super) fn on_closed(&mut self, id: ConnId, reason: CloseReason, now: Time) {
        let Some(conn) = self.conns.remove(id) else { return };
        if let Some(timer) = conn.timer {
            self.ports.wheel.cancel(timer);
        }
        self.kept.conn_went(self.env.settings.point(conn.point).transport, conn.is_registered());
        self.ports.counters.count_with_bound(Counter::closed(reason));
        if conn.counts_as_unregistered() {
            self.uncount_source(conn.peer.ip());
        }
        // What could not be opened is said of its address, once.
        let is_unopened = conn.link.is_some() && matches!(reason, CloseReason::Connect(_));
        let level = match reason {
            _ if is_unopened => Level::Debug,
            CloseReason::Peer if !conn.is_registered() => Level::Debug,
            CloseReason::Peer | CloseReason::Idle => Level::Info,
            _ => Level::Warn,
        };
        if self.tells(level) {
            self.ports.tell_why(level, "connection closed", reason.name(), Some(conn.peer), b"");
        }
        let lost = self.location.close(id);
        self.part_from(id, conn.point, conn.link(), &lost, reason, now);
    }

    /// Nobody reaches the peer of a connection over it any more: whoever counts on that is told, once.
    pub(super) fn part_from(
        &mut self,
        id: ConnId,
        point: PointId,
        link: Option<ConnectionKey>,
        lost: &Lost,
        reason: CloseReason,
        now: Time,
    ) {
        if let Some(key) = link {
            self.link_closed(key, id, reason, now);
        }
        if !lost.bindings.is_empty() {
            self.count(Counter::FlowClosed);
        }
        let flow = FlowRef::Stream { shard: self.me(), conn: id, point };
        for binding in lost.bindings.iter().copied() {
            let home = binding.home(self.env.settings.shards);
            self.mail(home, Mail::Notice(Notice::FlowGone { flow, binding }));
        }
        let failure = match reason {
            CloseReason::Connect(failure) => Some(failure),
            _ => None,
        };
        for shard in lost.users(self.env.settings.shards) {
            self.mail(shard, Mail::ConnGone { conn: id, failure });
        }
        self.on_conn_gone(self.me(), id, failure, now);
    }

    fn uncount_source(&mut self, ip: std::net::IpAddr) {
        if let Some(count) = self.unregistered.get_mut(&ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unregistered.remove(&ip);
            }
        }
    }

    /// Location says that a connection has its first binding now, or none any more.
    pub(super) fn on_registered(&mut self, id: ConnId, is_registered: bool, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let counted = conn.counts_as_unregistered();
        conn.registered = is_registered;
        let (point, ip, counts) = (conn.point, conn.peer.ip(), conn.counts_as_unregistered());
        if !is_registered {
            conn.last = now;
        }
        self.kept.conn_bound(self.env.settings.point(point).transport, is_registered);
        match (counted, counts) {
            (true, false) => self.uncount_source(ip),
            (false, true) => *self.unregistered.entry(ip).or_insert(0) += 1,
            (true, true) | (false, false) => {}
        }
        self.update_deadline(id);
    }

    /// Ends every connection, as if each had been idle for too long: for tests of what is left then. A shard that stops
    /// does without its engine.
    pub fn close_all(&mut self, now: Time) {
        let all: Vec<ConnId> = self.conns.iter().map(|(id, _)| id).collect();
        for id in all {
            self.close(id, CloseReason::Idle, now);
        }
        self.settle(now);
    }

    /// Of each connection that was opened for [`super::connections`], and that requests may be sent over: its key, and
    /// whether it is ready.
    pub(super) fn opened_conns(&self) -> impl Iterator<Item = (ConnId, ConnectionKey, bool)> {
        let opened = self.conns.iter().filter(|(_, conn)| conn.half_closed.is_none());
        opened.filter_map(|(id, conn)| Some((id, *conn.link.as_deref()?, conn.ready)))
    }

    /// Whether a flow is a connection of this shard that we have opened.
    pub(super) fn is_opened(&self, flow: FlowRef) -> bool {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == self.me() => {
                self.conns.get(conn).is_some_and(|conn| conn.link.is_some())
            }
            _ => false,
        }
    }

    /// Whether a stream message of this transport is sent whole and in order.
    pub(super) fn is_reliable(&self, flow: FlowRef) -> bool {
        self.env.is_reliable(flow)
    }

    /// The transport of a flow.
    pub(super) fn transport_of(&self, flow: FlowRef) -> Transport {
        self.env.transport_of(flow)
    }
}
