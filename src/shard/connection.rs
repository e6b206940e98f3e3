//! The connections of one shard: from accept or connect to the last byte.
//!
//! ```text
//! accept ──► Handshaking ──► Open ──► Leaving ──► gone
//! connect ─► Connecting ─┴──────┘         (what waits, close_notify, FIN, the peer's FIN or 2 s)
//! ```
//! TCP skips the handshake. A connection that the system or a bound ends goes at once. One whose peer says nothing more
//! (its FIN, its close_notify) is told to the engine, which lets it go on, leaving, when no answer is owed over it.
//!
//! What they send is in `sending`. The engine owns every deadline but three: a peer that does not take what it is sent
//! (`progress`), the lingering after our FIN, and how many handshakes may be in the air (`handshakes`).

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use super::conn::{Conn, Key, Opening, Phase};
use super::core::{Core, Panic, hand};
use super::ends::{close_reason, connect_failure, cuts_off, handshake_close};
use super::parked::Parked;
use crate::clock::Time;
use crate::engine::{CloseReason, ConnectFailure, Engine, Input};
use crate::ids::{ConnId, Side, Transport};
use crate::limits::{
    BULK_READS_PER_PASS_MAX, HANDSHAKE_STEPS_PER_PASS_MAX, LINGER_MAX, READ_LEN_MAX, READS_PER_PASS_MAX,
};
use crate::stats::{Counter, HandshakeFailure};
use crate::sys;
use crate::tls::failure::{self, Failed};
use crate::tls::hello::{Offer, plain};
use crate::tls::key_log;
use crate::tls::session::{Progress, Session};
use crate::tls::trust;
use crate::transport::socket;
use crate::transport::stream::{Flushed, Stream};

impl Core {
    pub(super) fn conn(&mut self, key: Key) -> Option<&mut Conn> {
        self.conns.get_mut(key.index).filter(|conn| conn.serial == key.serial)
    }

    pub(super) fn insert(&mut self, id: ConnId, peer: SocketAddr, side: Side, phase: Phase, stream: Stream) -> Key {
        self.serial += 1;
        let serial = self.serial;
        let outbound = phase == Phase::Connecting;
        let index = self.conns.insert(Conn {
            id,
            serial,
            peer,
            side,
            listens_for: None,
            outbound,
            setup: None,
            phase,
            stream,
            waker: None,
            flush_queued: false,
            is_bulky: false,
            is_deferred: false,
            half_closed: false,
            fin_seen: false,
            watched: false,
        });
        let slot = id.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, None);
        }
        let key = Key { index, serial };
        self.by_slot[slot] = Some(key);
        key
    }

    pub(super) fn find(&self, id: ConnId) -> Option<Key> {
        let key = (*self.by_slot.get(id.slot as usize)?)?;
        (self.conns.get(key.index)?.id == id).then_some(key)
    }

    /// Takes one step of a connection. A panic in it (of rustls, or of what verifies a certificate) closes this one and
    /// leaves everything else as it was.
    pub(super) fn guarded(&mut self, key: Key, step: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(self))) {
            self.on_panic(panic.as_ref());
            self.lost(key, CloseReason::Panic);
        }
    }

    /// Carries out `Output::Connect`.
    pub(super) fn connect(&mut self, id: ConnId, opening: Opening) {
        let Opening { point, transport, to, side, tls } = opening;
        let from = self.engine.settings().point(point).bind;
        let setup = tls.as_ref().and_then(|peer| peer.setup);
        let session = match (transport, tls) {
            (Transport::Udp | Transport::Tcp, _) => None,
            (Transport::Tls, Some(peer)) => match self.tls.connect(&peer) {
                Ok(session) => Some(Box::new(session)),
                // Text is never sent in the clear because a configuration is missing.
                Err(fault) => {
                    self.say("a TLS session could not be begun", Some(to), fault.to_string());
                    return self.tell_closed(id, CloseReason::Connect(ConnectFailure::Tls));
                }
            },
            (Transport::Tls, None) => {
                self.say("a TLS session could not be begun", Some(to), "nobody is expected there".into());
                return self.tell_closed(id, CloseReason::Connect(ConnectFailure::Tls));
            }
        };
        match socket::connect(from, to, self.tos) {
            Ok(socket) => {
                let stream = Stream::new(sys::adopt(socket), session, self.waiting.clone());
                let key = self.insert(id, to, side, Phase::Connecting, stream);
                self.conns[key.index].setup = setup;
                self.to_spawn.push(key);
            }
            Err(error) => {
                self.say("a connection could not be opened", Some(to), error.to_string());
                self.tell_closed(id, CloseReason::Connect(connect_failure(&error)));
            }
        }
    }

    /// Carries out `Output::Close`.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason) {
        let Some(key) = self.find(id) else { return };
        self.free_slot(id, key);
        let Some(conn) = self.conn(key) else { return };
        let (peer, side) = (conn.peer, conn.side);
        match (conn.phase, reason) {
            (Phase::Handshaking, CloseReason::HandshakeTimeout | CloseReason::Connect(ConnectFailure::Timeout)) => {
                self.handshake_failed(side, peer, HandshakeFailure::Timeout, "not finished in time");
                self.remove(key);
            }
            (Phase::Open, reason) if cuts_off(reason) => {
                conn.stream.abort();
                self.remove(key);
            }
            (Phase::Open, _) => self.guarded(key, |core| core.leave(key)),
            (Phase::Connecting | Phase::Handshaking, _) => self.remove(key),
            (Phase::Leaving { .. }, _) => {}
        }
    }

    /// Closes every connection in an orderly way, as far as the sockets take it at once.
    pub(super) fn close_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter().map(|(index, conn)| Key { index, serial: conn.serial }).collect();
        for key in keys {
            if self.conn(key).is_some_and(|conn| conn.phase == Phase::Open) {
                self.guarded(key, |core| core.leave(key));
            }
        }
    }

    /// Closes every socket that is left.
    pub(super) fn remove_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter().map(|(index, conn)| Key { index, serial: conn.serial }).collect();
        keys.into_iter().for_each(|key| self.remove(key));
        self.parked = Parked::default();
        self.resolving.end_all();
    }

    /// Sends what waits, says goodbye and waits for the peer's FIN, so that it can read what was sent last.
    fn leave(&mut self, key: Key) {
        let now = self.clock.now();
        let Self { conns, engine, lent, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        let sent = conn.stream.flush(lent, |buffer| engine.recycle(buffer)).and_then(|_| {
            conn.stream.say_goodbye(lent);
            conn.stream.flush(lent, |buffer| engine.recycle(buffer))
        });
        match sent {
            Err(_) => return self.remove(key),
            Ok(flushed) => {
                let fin_sent = flushed == Flushed::All;
                if fin_sent {
                    conn.stream.shut();
                }
                conn.phase = Phase::Leaving { fin_sent };
            }
        }
        conn.wake();
        self.lingers.push_back((now.after(LINGER_MAX), key));
    }

    /// The connection is gone, and the engine does not know it yet.
    pub(super) fn lost(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conn(key) else { return };
        let (id, told) = (conn.id, matches!(conn.phase, Phase::Leaving { .. }));
        if cuts_off(reason) {
            conn.stream.abort();
        }
        self.remove(key);
        if !told {
            self.tell_closed(id, reason);
        }
    }

    /// The connection's task panicked outside the engine.
    pub(super) fn panicked(&mut self, key: Key) {
        self.lost(key, CloseReason::Panic);
    }

    /// Closes the socket and ends the task.
    fn remove(&mut self, key: Key) {
        if self.conn(key).is_none() {
            return;
        }
        let mut conn = self.conns.remove(key.index);
        self.free_slot(conn.id, key);
        if conn.phase == Phase::Handshaking {
            self.handshakes.end(key);
        }
        conn.wake();
    }

    /// A wake of the connection's task: connected, readable, room to send, or told to leave. `Ready` ends the task.
    pub(super) fn poll_conn(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<()> {
        let Some(conn) = self.conn(key) else { return Poll::Ready(()) };
        if conn.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            conn.waker = Some(cx.waker().clone());
        }
        if conn.phase == Phase::Connecting {
            match conn.stream.poll_connected(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    let peer = conn.peer;
                    self.say("a connection could not be opened", Some(peer), error.to_string());
                    self.lost(key, CloseReason::Connect(connect_failure(&error)));
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) => self.connected(key),
            }
        }
        if self.poll_send(key, cx).is_ready() {
            return Poll::Ready(());
        }
        let mut reads = 0;
        while let Some(conn) = self.conn(key) {
            if conn.fin_seen {
                // Nothing is left to read; what is left to send is waited for.
                if conn.phase == (Phase::Leaving { fin_sent: true }) {
                    self.remove(key);
                    return Poll::Ready(());
                }
                return Poll::Pending;
            }
            if !self.has_turn(key) {
                return Poll::Pending;
            }
            if reads == READS_PER_PASS_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            if self.poll_read(key, cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Whether a read may be made in this pass; if not, the connection is resumed in a later one. So the length of a
    /// pass, and with it how long everybody waits, is bounded while thousands shake hands or send all that they can.
    fn has_turn(&mut self, key: Key) -> bool {
        let Self { conns, handshake_steps_left, bulk_reads_left, deferred, bulky, dirty, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return true };
        let (left, queue) = if conn.phase == Phase::Handshaking {
            (handshake_steps_left, deferred)
        } else if conn.is_bulky && conn.side == Side::Endpoint {
            (bulk_reads_left, bulky)
        } else {
            // All calls go through a server's connection, however many phones send too much.
            return true;
        };
        if let Some(less) = left.checked_sub(1) {
            *left = less;
            return true;
        }
        if !std::mem::replace(&mut conn.is_deferred, true) {
            queue.push_back(key);
        }
        *dirty = true;
        false
    }

    /// The peer took our SYN.
    fn connected(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        if conn.stream.session.is_some() {
            conn.phase = Phase::Handshaking;
            self.handshake_begun(key);
            // The session's first message.
            self.records(key, 0);
        } else {
            self.open(key);
        }
    }

    fn open(&mut self, key: Key) {
        let Self { conns, tls, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        conn.phase = Phase::Open;
        let id = conn.id;
        let session = conn.stream.session.as_ref();
        let identities = session.and_then(|session| match conn.outbound {
            true => tls.identities(session),
            false => tls.identities_of_client(session, conn.listens_for),
        });
        let identities = identities.map(Box::new);
        self.queue_flush(key);
        if !self.input(Input::Ready { conn: id, identities }) {
            self.lost(key, CloseReason::Panic);
        }
    }

    /// One read, and what becomes of it. `Pending` when there is nothing to read.
    fn poll_read(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<()> {
        let Self { conns, scratch, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else {
            return Poll::Ready(());
        };
        let (part_len, end) = match conn.stream.poll_read(cx, scratch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => {
                self.ended(key, close_reason(&error));
                return Poll::Ready(());
            }
        };
        conn.is_bulky = end - part_len == READ_LEN_MAX;
        if end == part_len {
            conn.fin_seen = true;
            match conn.phase {
                Phase::Open => self.half_closed(key),
                Phase::Leaving { .. } => {}
                Phase::Connecting | Phase::Handshaking => self.ended(key, CloseReason::Peer),
            }
        } else if conn.half_closed || matches!(conn.phase, Phase::Leaving { .. }) {
            // Nobody reads it any more.
        } else if conn.stream.session.is_some() {
            self.records(key, end);
        } else {
            let id = conn.id;
            if !self.bytes(id, 0, end) {
                self.lost(key, CloseReason::Panic);
            }
        }
        Poll::Ready(())
    }

    /// Hands a part of the scratch buffer to the engine.
    fn bytes(&mut self, id: ConnId, start: usize, end: usize) -> bool {
        let Self { engine, scratch, clock, .. } = self;
        let handled = hand(engine, Input::Bytes { conn: id, bytes: &scratch[start..end] }, clock.now());
        self.handled(handled)
    }

    /// The peer or the system has ended the connection.
    pub(super) fn ended(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conn(key) else { return };
        let (peer, side, outbound) = (conn.peer, conn.side, conn.outbound);
        if conn.phase == Phase::Handshaking {
            self.handshake_failed(side, peer, HandshakeFailure::Reset, "the peer closed the connection");
            self.lost(key, handshake_close(outbound));
        } else {
            self.lost(key, reason);
        }
    }

    /// Feeds the session with the scratch buffer up to `end`.
    fn records(&mut self, key: Key, end: usize) {
        let now = self.clock.now();
        let mut panicked = None;
        let Self { conns, engine, scratch, lent, dirty, .. } = self;
        lent.clear();
        *dirty = true;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        let Conn { id, stream, phase, .. } = conn;
        let Some(session) = stream.session.as_mut() else { return };
        let opened = *phase == Phase::Open;
        let result = feed(session, &mut scratch[..end], lent, engine, *id, opened, now, &mut panicked);
        stream.push_wire(lent);
        if let Some((lines, why)) = key_log::take_lost() {
            self.engine.counters_mut().add(Counter::TlsKeyLogLost, lines);
            self.say("lines of the TLS key log could not be written", None, why.to_string());
        }
        if let Some(panic) = panicked {
            self.on_panic(panic.as_ref());
            return self.lost(key, CloseReason::Panic);
        }
        match result {
            Ok((progress, early)) => self.fed(key, progress, &early),
            Err(fault) => self.tls_fault(key, &fault, end),
        }
    }

    fn fed(&mut self, key: Key, progress: Progress, early: &[u8]) {
        let Some(conn) = self.conn(key) else { return };
        let handshaking = conn.phase == Phase::Handshaking;
        let done = conn.stream.session.as_ref().is_some_and(|session| !session.is_handshaking());
        if handshaking && done {
            let resumed = conn.stream.session.as_ref().is_some_and(|session| session.is_resumed());
            let (id, side) = (conn.id, conn.side);
            let agreed = conn.stream.session.as_ref().and_then(|session| session.agreed());
            self.handshakes.end(key);
            self.count(Counter::handshake(side, resumed));
            for counter in agreed.into_iter().flat_map(|(version, suite)| failure::agreed(version, suite)) {
                self.count(counter);
            }
            self.open(key);
            if !early.is_empty() && !self.input(Input::Bytes { conn: id, bytes: early }) {
                self.lost(key, CloseReason::Panic);
            }
        } else if handshaking {
            // Handshake records leave at once: the peer waits for them.
            self.flush(key);
        } else {
            self.queue_flush(key);
        }
        if progress == Progress::PeerClosed {
            match self.conn(key).map(|conn| conn.phase) {
                Some(Phase::Open) => self.half_closed(key),
                Some(Phase::Handshaking) => self.ended(key, CloseReason::Peer),
                Some(Phase::Connecting | Phase::Leaving { .. }) | None => {}
            }
        }
    }

    /// The peer says nothing more: its FIN, or its close_notify, which a FIN may follow. It is the engine that knows
    /// whether it is still owed something.
    fn half_closed(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        if std::mem::replace(&mut conn.half_closed, true) {
            return;
        }
        let id = conn.id;
        if !self.input(Input::HalfClosed { conn: id }) {
            self.lost(key, CloseReason::Panic);
        }
    }

    /// The session gave up; its alert is in what waits to be sent. The records that it gave up at are in the scratch
    /// buffer up to `end`.
    fn tls_fault(&mut self, key: Key, fault: &rustls::Error, end: usize) {
        let Some(conn) = self.conn(key) else { return };
        let (id, peer, side, phase, outbound) = (conn.id, conn.peer, conn.side, conn.phase, conn.outbound);
        let setup = conn.setup;
        let reason = if phase == Phase::Handshaking {
            let offer = if outbound { None } else { Offer::read(&self.scratch[..end]) };
            let refused = trust::take_refused();
            let plain =
                if matches!(fault, rustls::Error::InvalidMessage(_)) { plain(&self.scratch[..end]) } else { None };
            let files = self.tls.files(side, setup);
            let failed = Failed { fault, offer, refused, plain, outbound, files };
            let (why, words) = (failed.reason(), failed.words());
            self.handshake_failed(side, peer, why, &words);
            handshake_close(outbound)
        } else if outbound && failure::is_of_our_certificate(fault) {
            let files = self.tls.files(side, setup);
            let failed = Failed { fault, offer: None, refused: None, plain: None, outbound, files };
            let (why, words) = (failed.reason(), failed.words());
            self.handshake_failed(side, peer, why, &words);
            CloseReason::TlsFault
        } else {
            self.say("a TLS fault ended a connection", Some(peer), fault.to_string());
            CloseReason::TlsFault
        };
        self.free_slot(id, key);
        if phase == Phase::Handshaking {
            self.handshakes.end(key);
        }
        if let Some(conn) = self.conn(key) {
            conn.phase = Phase::Leaving { fin_sent: false };
        }
        self.leave(key);
        self.tell_closed(id, reason);
    }

    pub(super) fn handshake_failed(&mut self, side: Side, peer: SocketAddr, why: HandshakeFailure, detail: &str) {
        self.count(Counter::handshake_failed(side, why));
        self.say_why("a TLS handshake failed", why.name(), Some(peer), detail.to_owned());
    }

    pub(super) fn handshake_begun(&mut self, key: Key) {
        let now = self.clock.now();
        let Some(conn) = self.conn(key) else { return };
        let source = (!conn.outbound).then_some(conn.peer.ip());
        let Some((older, bound)) = self.handshakes.begin(key, source, now) else { return };
        self.count(bound);
        let Some(conn) = self.conn(older) else { return };
        let (peer, side, outbound) = (conn.peer, conn.side, conn.outbound);
        self.handshake_failed(side, peer, HandshakeFailure::Timeout, "it gave way to newer ones");
        let reason = if outbound { handshake_close(outbound) } else { CloseReason::HandshakeTimeout };
        self.lost(older, reason);
    }

    /// Lets those go on that had to wait for the next pass.
    pub(super) fn resume_deferred(&mut self) {
        self.handshake_steps_left = HANDSHAKE_STEPS_PER_PASS_MAX;
        self.bulk_reads_left = BULK_READS_PER_PASS_MAX;
        for _ in 0..HANDSHAKE_STEPS_PER_PASS_MAX {
            let Some(key) = self.deferred.pop_front() else { break };
            self.resume(key);
        }
        // Each has several reads in its turn.
        for _ in 0..BULK_READS_PER_PASS_MAX / READS_PER_PASS_MAX {
            let Some(key) = self.bulky.pop_front() else { break };
            self.resume(key);
        }
    }

    fn resume(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        conn.is_deferred = false;
        conn.wake();
    }

    /// Lets go of the room that a burst of work has left behind.
    pub(super) fn shrink(&mut self) {
        self.engine.shrink();
        self.lent = Vec::new();
        self.conns.shrink_to_fit();
        let end = self.by_slot.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.by_slot.truncate(end);
        self.by_slot.shrink_to_fit();
        self.to_flush.shrink_to_fit();
        self.deferred.shrink_to_fit();
        self.bulky.shrink_to_fit();
        self.lingers.shrink_to_fit();
    }

    /// Ends what has lingered for too long.
    pub(super) fn expire_lingers(&mut self, now: Time) {
        while let Some(&(_, key)) = self.lingers.front().filter(|(due, _)| *due <= now) {
            self.lingers.pop_front();
            self.remove(key);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Time> {
        let linger = self.lingers.front().map(|(due, _)| *due);
        [self.watches.due(), linger].into_iter().flatten().min()
    }
}

/// Feeds a session. Its text goes to the engine; before the connection is `opened` it is given back instead, for
/// the engine is to hear of the finished handshake first.
#[allow(clippy::too_many_arguments, reason = "the parts of one core, borrowed apart")]
fn feed(
    session: &mut Session,
    records: &mut [u8],
    wire: &mut Vec<u8>,
    engine: &mut Engine,
    id: ConnId,
    opened: bool,
    now: Time,
    panicked: &mut Option<Panic>,
) -> Result<(Progress, Vec<u8>), rustls::Error> {
    #[cfg(test)]
    super::tests::panic_if_read(records);
    // A client may send text right behind the end of its handshake, in one segment.
    let mut early = Vec::new();
    let progress = session.feed(records, wire, &mut |text| {
        if !opened {
            early.extend_from_slice(text);
        } else if panicked.is_none() {
            *panicked = hand(engine, Input::Bytes { conn: id, bytes: text }, now).err();
        }
    })?;
    Ok((progress, early))
}
