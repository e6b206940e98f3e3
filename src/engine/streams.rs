//! Streams: what connections bring, how they end, and the side that they are found to be on.
//!
//! A connection's peer may close its half: a FIN, or over TLS a close_notify (RFC 8446 §6.1). It says nothing more,
//! and may still read.
//!
//! A phone that un-registers and goes, or a script that asks and shuts its writing side, gets its answers all the same
//! (DESIGN.md, Responses): the connection stays while answers are owed over it, and for `HALF_CLOSED_MAX` at most. For
//! requests towards its peer it is gone at once, for their answers could not come back.
//!
//! What is owed is a count, kept where bytes come and go: requests that came over the connection less final responses
//! that were sent on it. So it is known whichever shard a context lives on, and costs a message nothing. A whole connection
//! over which something is owed is not closed for being idle, as long as that may still come.

use super::connections::ConnectionKey;
use super::location::Lost;
use super::location::notice::Notice;
use super::{CloseReason, Engine, Level, Mail, Output, Source};
use crate::abuse::Failure;
use crate::clock::Time;
use crate::ids::{ConnId, FlowRef, PointId, Side};
use crate::limits::PINGS_PER_READ_MAX;
use crate::proxy::Origin;
use crate::proxy_header;
use crate::sip::{FrameFault, Framed, Message, Method, Scanned};
use crate::stats::Counter;
use crate::tls::identity::Identities;

impl Engine {
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
            self.note_failed_conn(id, Failure::Connection);
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
            self.connection_ready(key, now);
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

    pub(super) fn on_conn_timer(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.timer = None;
        // Timer C gives an INVITE up, and 64*T1 after it what is done about that (RFC 3261 §16.8).
        let longest_wait = self.env.settings.live.timer_c + self.env.times.lifetime();
        match conn.deadline() {
            Some((at, CloseReason::Idle)) if at <= now && conn.stays_for_answers(longest_wait, now) => {
                self.update_deadline(id);
            }
            Some((at, reason)) if at <= now => {
                use CloseReason::{FirstMessageTimeout, HandshakeTimeout, SlowMessage};
                if matches!(reason, HandshakeTimeout | FirstMessageTimeout | SlowMessage) {
                    self.note_failed_conn(id, Failure::Connection);
                }
                self.close(id, reason, now);
            }
            _ => self.update_deadline(id),
        }
    }

    pub(super) fn on_bytes(&mut self, id: ConnId, bytes: &[u8], came: Time, now: Time) {
        let mut input = bytes;
        self.note_wait(now.since(came), now);
        if let Some(reason) = self.not_read(id, bytes, now) {
            return self.close(id, reason, now);
        }
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
                    self.on_stream_message(id, scanned, came, now);
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

    /// Why what comes over a connection is not even read, if so.
    fn not_read(&mut self, id: ConnId, bytes: &[u8], now: Time) -> Option<CloseReason> {
        if self.must_go(id, now) {
            return Some(CloseReason::ShutOut);
        }
        let conn = self.conns.get(id)?;
        if conn.heard || conn.begun.is_some() || !proxy_header::is_one(bytes) {
            return None;
        }
        let peer = conn.peer;
        self.count(Counter::ProxyHeaderUnexpected);
        self.event(proxy_header::UNEXPECTED, Some(peer), b"");
        self.note_failed_conn(id, Failure::Garbage);
        Some(CloseReason::Framing)
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
        Some(Source { flow, peer: conn.peer, side, is_peer: conn.is_peer, is_forwarded: conn.is_forwarded, binding })
    }

    fn on_stream_message(&mut self, id: ConnId, scanned: Scanned, came: Time, now: Time) {
        match scanned {
            Ok(mut message) => {
                message.set_came(came);
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
                self.note_failed_conn(id, Failure::Garbage);
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
        let mut origin = match conn.is_forwarded {
            true => Origin::FORWARDED,
            false => self.env.names.origin_of_stream(conn.peer, transport, shown, message.top_via(), message.buf()),
        };
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
            self.note_failed_conn(id, Failure::Garbage);
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
        if conn.is_registered() {
            self.note_bound(conn.peer.ip(), false);
        }
        // What could not be opened is said of its address, once.
        let is_unopened = conn.link.is_some() && matches!(reason, CloseReason::Connect(_));
        let level = match reason {
            _ if is_unopened => Level::Debug,
            CloseReason::Peer if !conn.is_registered() => Level::Debug,
            // A balancer's health check ends so, each second.
            CloseReason::Reset if conn.is_forwarded && !conn.heard => Level::Debug,
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
            self.connection_closed(key, id, reason, now);
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

    /// The peer has closed its half.
    pub(super) fn on_half_closed(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.ready || conn.owed == 0 {
            return self.close(id, CloseReason::Peer, now);
        }
        let counted = conn.counts_as_unregistered();
        let was_registered = conn.part(now);
        let (point, peer, link) = (conn.point, conn.peer.ip(), conn.link());
        if conn.counts_as_unregistered() && !counted {
            *self.unregistered.entry(peer).or_insert(0) += 1;
        }
        if was_registered {
            self.kept.conn_bound(self.env.settings.point(point).transport, false);
            self.note_bound(peer, false);
        }
        let lost = self.location.half_close(id);
        self.part_from(id, point, link, &lost, CloseReason::Peer, now);
        self.update_deadline(id);
    }
}
