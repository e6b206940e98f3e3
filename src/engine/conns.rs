//! Connections: their slots, framing, deadlines, the side that they are found to be on, and the bindings
//! that they carry.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::connections::{ConnectionKey, Element};
use super::{Accept, CloseReason, Engine, Level, Mail, Output, Refusal, Source, Timer};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Side, Transport};
use crate::limits::{
    BINDINGS_PER_FLOW_MAX, FIRST_MESSAGE_MAX, FLOW_ATTEMPTS_MAX, HALF_CLOSED_MAX, HANDSHAKE_MAX, IDLE_UNREGISTERED_MAX,
    MESSAGE_BEGUN_MAX, PINGS_PER_READ_MAX,
};
use crate::proxy::Origin;
use crate::sip::{FrameFault, Framed, Framer, Message, Method, Name, Scanned};
use crate::stats::Counter;
use crate::tls::identity::{Identities, TlsPeer};
use crate::wheel::TimerId;

/// A binding that a flow carries, or carried before it moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) binding: BindingId,
    /// The flow that has it now, when it is another one.
    pub(super) moved_to: Option<FlowRef>,
}

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
    pub(super) bound: SmallVec<[Bound; 1]>,
    /// Bit n: shard n has sent on this connection, and wants to hear of its end.
    used_by: u64,
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

/// Adds a binding to those of a flow; `false` when that would be one too many. What has moved away gives way.
pub(super) fn push_bound<A>(bound: &mut SmallVec<A>, binding: BindingId) -> bool
where
    A: smallvec::Array<Item = Bound>,
{
    if bound.len() >= BINDINGS_PER_FLOW_MAX {
        let Some(moved) = bound.iter().position(|bound| bound.moved_to.is_some()) else { return false };
        bound.remove(moved);
    }
    bound.push(Bound { binding, moved_to: None });
    true
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
            bound: SmallVec::new(),
            used_by: 0,
            last: now,
            begun: None,
            owed: 0,
            half_closed: None,
            timer: None,
            identities: None,
        }
    }

    /// Whether it carries a binding now.
    pub(super) fn is_registered(&self) -> bool {
        self.bound.iter().any(|bound| bound.moved_to.is_none())
    }

    /// Whether it counts among those of its source that hold no binding.
    pub(super) fn counts_as_unregistered(&self) -> bool {
        !(self.link.is_some() || self.is_peer || self.side == Some(Side::Server) || self.is_registered())
    }

    /// Its peer says nothing more. What counted on its being there leaves it, in what is given: its bindings, and the
    /// shards that have sent on it. Where bindings have moved to stays known, for answers follow them.
    pub(super) fn part(&mut self, now: Time) -> Self {
        self.half_closed = Some(now);
        (self.framer, self.begun) = (Framer::default(), None);
        let moved = self.bound.iter().copied().filter(|bound| bound.moved_to.is_some()).collect();
        Self {
            bound: std::mem::replace(&mut self.bound, moved),
            link: self.link.clone(),
            used_by: std::mem::take(&mut self.used_by),
            ..Self::new(self.point, self.peer, now)
        }
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
                    self.by_peer.insert((transport, accept.peer), id);
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
        self.update_deadline(conn);
        self.ports.outputs.push_back(Output::Connect { conn, point, transport, to, side, tls });
        Some(conn)
    }

    pub(super) fn on_ready(&mut self, id: ConnId, identities: Option<Box<Identities>>, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.ready = true;
        conn.last = now;
        let point = self.env.settings.point(conn.point);
        let (link, transport) = (conn.link.as_deref().copied(), point.transport);
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

    fn stream_source(&self, id: ConnId, message: Option<&Message>) -> Option<Source> {
        let conn = self.conns.get(id)?;
        let flow = FlowRef::Stream { shard: self.me(), conn: id, point: conn.point };
        let binding = message.and_then(|message| self.binding_of(&conn.bound, message));
        let side = conn.side.unwrap_or(Side::Endpoint);
        Some(Source { flow, peer: conn.peer, side, is_peer: conn.is_peer, binding })
    }

    /// The binding that a message of a flow belongs to: that of its sender's user, who stands in From of a request and in
    /// To of a response; else the flow's, when the message comes straight from its maker. One that has left the flow is
    /// nobody else's who uses that since, and behind an edge, which adds a Via, there are many.
    pub(super) fn binding_of(&self, bound: &[Bound], message: &Message) -> Option<BindingId> {
        let is_direct = || !message.is_request() || message.count_values(Name::Via) == 1;
        let here = bound.iter().find(|bound| bound.moved_to.is_none());
        if let ([only], Some(_)) = (bound, here)
            && is_direct()
        {
            return Some(only.binding);
        }
        let user = if bound.is_empty() { None } else { self.user16_of_sender(message) };
        let of_user = bound.iter().filter(|bound| Some(bound.binding.user) == user);
        let named = of_user.min_by_key(|bound| bound.moved_to.is_some());
        named.or_else(|| here.filter(|_| is_direct())).map(|bound| bound.binding)
    }

    fn user16_of_sender(&self, message: &Message) -> Option<u16> {
        let sender = if message.is_request() { Name::From } else { Name::To };
        let field = message.first(sender)?;
        let value = crate::sip::NameAddr::parse(message.buf(), field.value).ok()?;
        let uri = crate::sip::Uri::parse(message.buf(), value.uri).ok()?;
        Some(self.user16_of(&uri, message.buf()))
    }

    fn on_stream_message(&mut self, id: ConnId, scanned: Scanned, now: Time) {
        match scanned {
            Ok(message) => {
                self.settle_side(id, &message);
                let Some(source) = self.stream_source(id, Some(&message)) else { return };
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
        if counted && !conn.counts_as_unregistered() {
            let ip = conn.peer.ip();
            self.uncount_source(ip);
            self.update_deadline(id);
        }
    }

    fn on_frame_fault(&mut self, id: ConnId, fault: FrameFault, now: Time) {
        let what = fault.fault;
        if let Ok(message) = fault.into_message()
            && message.is_request()
            && message.method() != Some(Method::Ack)
            && let Some(source) = self.stream_source(id, Some(&message))
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
        self.part_from(id, &conn, reason, now);
    }

    /// Nobody reaches the peer of a connection over it any more: whoever counts on that is told, once.
    pub(super) fn part_from(&mut self, id: ConnId, conn: &Conn, reason: CloseReason, now: Time) {
        let named = (self.env.settings.point(conn.point).transport, conn.peer);
        if self.by_peer.get(&named) == Some(&id) {
            self.by_peer.remove(&named);
        }
        if let Some(key) = conn.link.as_deref() {
            self.link_closed(*key, id, reason, now);
        }
        let flow = FlowRef::Stream { shard: self.me(), conn: id, point: conn.point };
        if conn.is_registered() {
            self.count(Counter::FlowClosed);
        }
        for bound in conn.bound.iter().filter(|bound| bound.moved_to.is_none()) {
            let home = bound.binding.home(self.env.settings.shards);
            self.mail(home, Mail::FlowGone { flow, binding: bound.binding });
        }
        let failure = match reason {
            CloseReason::Connect(failure) => Some(failure),
            _ => None,
        };
        for shard in 0..self.env.settings.shards {
            if conn.used_by & (1 << (shard % 64)) != 0 {
                self.mail(ShardId(shard), Mail::ConnGone { conn: id, failure });
            }
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

    /// The flow that has a binding now, by what this shard's connection knows: the connection itself, the flow
    /// that it moved to, or `None` when the connection is gone.
    pub(super) fn follow(&self, conn: ConnId, point: PointId, binding: Option<BindingId>) -> Option<FlowRef> {
        let here = self.conns.get(conn)?;
        let moved = binding.and_then(|binding| here.bound.iter().find(|bound| bound.binding == binding));
        match moved.and_then(|bound| bound.moved_to) {
            Some(flow) => Some(flow),
            None => Some(FlowRef::Stream { shard: self.me(), conn, point }),
        }
    }

    pub(super) fn step(&self, flow: FlowRef, binding: Option<BindingId>) -> Option<FlowRef> {
        match flow {
            FlowRef::Stream { shard, conn, point } if shard == self.me() => self.follow(conn, point, binding),
            FlowRef::Udp { point, remote, shard } if shard == self.me() => {
                self.udp.follow(point, remote, binding, flow)
            }
            elsewhere => Some(elsewhere),
        }
    }

    /// A flow towards an endpoint at an address, with a binding that it has: a connection of this shard that was
    /// accepted from there, or over UDP the address itself.
    pub(super) fn flow_at(&self, transport: Transport, remote: SocketAddr) -> Option<(FlowRef, Option<BindingId>)> {
        let shard = self.me();
        if !transport.is_stream() {
            let point = self.env.settings.point_for(transport, Side::Endpoint, remote.ip())?;
            return Some((FlowRef::Udp { shard, point, remote }, self.udp.binding_at(point, remote)));
        }
        let id = *self.by_peer.get(&(transport, remote))?;
        let conn = self.conns.get(id).filter(|conn| conn.ready && conn.side != Some(Side::Server))?;
        let binding = conn.bound.iter().find(|bound| bound.moved_to.is_none()).map(|bound| bound.binding);
        Some((FlowRef::Stream { shard, conn: id, point: conn.point }, binding))
    }

    /// The flow that a binding has now, by what its home says where that is this shard, else by what is known of a flow
    /// of this shard that it had.
    pub(super) fn moved_from(&self, flow: FlowRef, binding: Option<BindingId>) -> Option<FlowRef> {
        let found = binding.and_then(|binding| self.directory.find(binding)).and_then(|found| found.flow);
        if let Some(found) = found.filter(|found| self.is_there(*found)) {
            return Some(found);
        }
        let mut flow = self.step(flow, binding)?;
        for _ in 0..FLOW_ATTEMPTS_MAX {
            // A flow that it moved to and that is gone is for the caller to find: it may name a newer one.
            match self.step(flow, binding) {
                Some(next) if !next.is_same(flow) => flow = next,
                // A UDP address that is known to be the binding's no longer may be another phone's by now.
                None if !flow.is_stream() => return None,
                _ => break,
            }
        }
        Some(flow)
    }

    /// Another shard has sent on this connection.
    pub(super) fn note_use(&mut self, conn: ConnId, by: ShardId) {
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.used_by |= 1 << (by.0 % 64);
        }
    }

    pub(super) fn bind_conn(&mut self, conn: ConnId, binding: BindingId) -> bool {
        let here = self.conns.get_mut(conn).filter(|here| here.half_closed.is_none());
        let Some(here) = here else { return false };
        let was_registered = here.is_registered();
        match here.bound.iter_mut().find(|bound| bound.binding == binding) {
            Some(bound) => bound.moved_to = None,
            None => {
                if !push_bound(&mut here.bound, binding) {
                    self.count(Counter::LimitBindingsPerFlow);
                    return false;
                }
            }
        }
        if !was_registered {
            let ip = here.peer.ip();
            self.kept.conn_bound(self.env.settings.point(here.point).transport, true);
            let counted = !(here.link.is_some() || here.is_peer || here.side == Some(Side::Server));
            self.count(Counter::FlowOpened);
            if counted {
                self.uncount_source(ip);
            }
            self.update_deadline(conn);
        }
        true
    }

    /// A binding has left this connection, to another flow or for good.
    pub(super) fn unbind_conn(&mut self, conn: ConnId, binding: BindingId, to: Option<FlowRef>, now: Time) {
        let Some(here) = self.conns.get_mut(conn) else { return };
        let was_registered = here.is_registered();
        match to {
            Some(flow) => {
                if let Some(bound) = here.bound.iter_mut().find(|bound| bound.binding == binding) {
                    bound.moved_to = Some(flow);
                }
            }
            None => here.bound.retain(|bound| bound.binding != binding || bound.moved_to.is_some()),
        }
        if was_registered && !here.is_registered() {
            here.last = now;
            self.kept.conn_bound(self.env.settings.point(here.point).transport, false);
            let ip = here.peer.ip();
            let counted = here.counts_as_unregistered();
            self.count(Counter::FlowClosed);
            if counted {
                *self.unregistered.entry(ip).or_insert(0) += 1;
            }
            self.update_deadline(conn);
        }
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

    /// Whether a flow is not known here to be gone.
    pub(super) fn is_there(&self, flow: FlowRef) -> bool {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == self.me() => self.conns.get(conn).is_some(),
            _ => true,
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
