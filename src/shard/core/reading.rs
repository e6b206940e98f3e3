//! What connections say: read when their sockets are ready, within the bounds of a turn, and fed to TLS and the engine.
//!
//! Owns: how much is read of whom, and what becomes of it. Must not touch: what a message says.
//!
//! Readiness is told once. So a connection is read until there is nothing left, or it is put down to be read on: in the
//! next turn (`to_read`), or when it has its share again of what is bounded for each turn (`deferred`, `bulky`). It is in
//! one of these at most, and is not read out of its turn while it is: who has had a share waits behind those that have
//! not, however much it has to say.

use std::io;
use std::time::Duration;

use super::conn::{Conn, Key, Phase, Share};
use super::deferred::Rank;
use super::ends::{close_reason, connect_failure, handshake_close};
use super::{Core, Panic, hand};
use crate::clock::Time;
use crate::driver::{Driver, Ready};
use crate::engine::{CloseReason, Engine, Input};
use crate::ids::ConnId;
use crate::limits::{BULK_READS_PER_PASS_MAX, READS_PER_PASS_MAX};
use crate::proxy_header;
use crate::stats::Counter;
use crate::tls::failure::{self, Failed};
use crate::tls::hello::{Offer, plain};
use crate::tls::key_log;
use crate::tls::session::{Progress, Session};
use crate::tls::trust;
use crate::transport::stream::{Read, StreamSocket};

/// How much of a handshake's first message is looked at.
const HELLO_LEN_MAX: usize = 4 * 1024;

/// What a read has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing, for now.
    Nothing,
    /// Maybe more.
    More,
}

impl<D: Driver> Core<D> {
    /// The socket of a connection is ready.
    pub(super) fn on_conn(&mut self, key: Key, ready: &Ready) {
        let Some(conn) = self.conn(key) else { return };
        conn.ends |= ready.ended;
        if conn.phase == Phase::Connecting {
            match conn.stream.socket.connected() {
                Ok(()) => self.connected(key),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let peer = conn.peer;
                    self.say("a connection could not be opened", Some(peer), error.to_string());
                    return self.lost(key, CloseReason::Connect(connect_failure(&error)));
                }
            }
        } else if ready.writable {
            self.send_on(key);
        }
        if ready.readable && self.conn(key).is_some_and(|conn| !conn.is_put_down) {
            self.read_on(key);
        }
    }

    /// Reads those on that the turn before has left something of.
    pub(super) fn read_left(&mut self) {
        let mut keys = std::mem::take(&mut self.to_read);
        for key in keys.drain(..) {
            let Some(conn) = self.conn(key) else { continue };
            conn.is_put_down = false;
            self.guarded(key, |core| core.read_on(key));
        }
        // What was put down meanwhile is for the next turn; the longer buffer is kept.
        keys.append(&mut self.to_read);
        self.to_read = keys;
    }

    fn read_on(&mut self, key: Key) {
        for _ in 0..READS_PER_PASS_MAX {
            match self.conn(key) {
                None => return,
                Some(conn) if conn.fin_seen => return self.end_if_left(key),
                Some(_) => {}
            }
            if !self.has_turn(key) {
                break;
            }
            if self.read(key) == Left::Nothing {
                return;
            }
        }
        self.put_down(key);
    }

    /// Whether a read may be made in this turn. So the length of a turn, and with it how long everybody waits, is bounded
    /// while thousands shake hands or send all that they can.
    fn has_turn(&mut self, key: Key) -> bool {
        let Self { conns, deferred, bulk_reads_left, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return true };
        match conn.share() {
            Share::Free => true,
            Share::Handshakes => deferred.take_step(),
            Share::Bulk => {
                let less = bulk_reads_left.checked_sub(1);
                *bulk_reads_left = less.unwrap_or(0);
                less.is_some()
            }
        }
    }

    /// The connection is read on later.
    fn put_down(&mut self, key: Key) {
        let Self { conns, to_read, bulky, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        if std::mem::replace(&mut conn.is_put_down, true) {
            return;
        }
        match conn.share() {
            Share::Free => to_read.push(key),
            Share::Handshakes => self.defer(key),
            Share::Bulk => bulky.push_back(key),
        }
    }

    /// A handshake goes on in a later turn. In an overload it is looked at who that is: at what it has sent, without taking
    /// it from the socket.
    fn defer(&mut self, key: Key) {
        let gives_way = self.engine.puts_off_handshakes();
        let Self { conns, deferred, engine, scratch, .. } = self;
        deferred.tidy(|key| conns.get(key.index).is_some_and(|conn| conn.is(key)));
        let Some(conn) = conns.get_mut(key.index).filter(|_| gives_way) else { return deferred.push(key, Rank::New) };
        engine.handshake_put_off();
        let is_known = conn.outbound || conn.is_answered() || engine.is_bound_at(conn.peer.ip());
        let came = if is_known { 0 } else { conn.stream.socket.peek(&mut scratch[..HELLO_LEN_MAX]).unwrap_or(0) };
        let resumes = Offer::read(&scratch[..came]).is_some_and(|offer| offer.resumes);
        deferred.push(
            key,
            match (is_known, resumes) {
                (true, _) => Rank::Known,
                (false, true) => Rank::Resumes,
                (false, false) => Rank::New,
            },
        );
    }

    /// Whether connections are to be read on in the next turn. Of those that wait for their share, as many as were looked
    /// at may be gone.
    pub(super) fn has_left(&self) -> bool {
        let may_shake = self.deferred.len() > 0 && self.deferred.steps_left() > 0;
        may_shake || !(self.to_read.is_empty() && self.bulky.is_empty())
    }

    /// The peer took our SYN.
    fn connected(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        if conn.stream.session.is_some() {
            conn.phase = Phase::Handshaking;
            self.handshake_begun(key);
            // The session's first message.
            self.records(key, 0, Duration::ZERO);
        } else {
            self.open(key);
        }
    }

    /// One read, and what becomes of it.
    fn read(&mut self, key: Key) -> Left {
        let Self { conns, scratch, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.is(key)) else { return Left::Nothing };
        let read = match conn.stream.read(scratch) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
            Err(error) => {
                self.ended(key, close_reason(&error));
                return Left::Nothing;
            }
        };
        conn.is_bulky = read.is_full();
        let left = if read.is_full() || read.is_fin() || conn.ends { Left::More } else { Left::Nothing };
        if read.is_fin() {
            conn.fin_seen = true;
            match conn.phase {
                Phase::Open => self.half_closed(key),
                Phase::Leaving { .. } => {}
                Phase::Connecting | Phase::Handshaking => self.ended(key, CloseReason::Peer),
            }
        } else if conn.half_closed || matches!(conn.phase, Phase::Leaving { .. }) {
            // Nobody reads it any more.
        } else if conn.stream.session.is_some() {
            self.records(key, read.end, read.waited);
        } else {
            let id = conn.id;
            if !self.bytes(id, read) {
                self.lost(key, CloseReason::Panic);
            }
        }
        left
    }

    /// Hands a part of the scratch buffer to the engine.
    fn bytes(&mut self, id: ConnId, read: Read) -> bool {
        let Self { engine, scratch, driver, .. } = self;
        let input = Input::Bytes { conn: id, bytes: &scratch[..read.end], waited: read.waited };
        let handled = hand(engine, input, driver.now());
        self.handled(handled)
    }

    /// Feeds the session with the scratch buffer up to `end`.
    fn records(&mut self, key: Key, end: usize, waited: Duration) {
        let now = self.driver.now();
        let mut panicked = None;
        let Self { conns, engine, scratch, lent, dirty, .. } = self;
        lent.clear();
        *dirty = true;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        conn.has_said |= end > 0;
        let Conn { id, stream, phase, .. } = conn;
        let Some(session) = stream.session.as_mut() else { return };
        let opened = *phase == Phase::Open;
        let result = feed(session, &mut scratch[..end], lent, engine, *id, opened, waited, now, &mut panicked);
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
            Ok((progress, early)) => self.fed(key, progress, &early, waited),
            Err(fault) => self.tls_fault(key, &fault, end),
        }
    }

    fn fed(&mut self, key: Key, progress: Progress, early: &[u8], waited: Duration) {
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
            if !early.is_empty() && !self.input(Input::Bytes { conn: id, bytes: early, waited }) {
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
            if !outbound && proxy_header::is_one(&self.scratch[..end]) {
                self.count(Counter::ProxyHeaderUnexpected);
                self.say(proxy_header::UNEXPECTED, Some(peer), String::new());
            }
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

    /// Lets those go on that had to wait for the next turn.
    pub(super) fn resume_deferred(&mut self) {
        self.deferred.begin_pass(self.engine.puts_off_handshakes(), self.driver.now());
        self.bulk_reads_left = BULK_READS_PER_PASS_MAX;
        for _ in 0..self.deferred.steps_left() {
            let Some(key) = self.deferred.pop() else { break };
            self.resume(key);
        }
        // Each has several reads in its turn.
        for _ in 0..BULK_READS_PER_PASS_MAX / READS_PER_PASS_MAX {
            let Some(key) = self.bulky.pop_front() else { break };
            self.resume(key);
        }
    }

    fn resume(&mut self, key: Key) {
        if self.conn(key).is_some() {
            self.to_read.push(key);
        }
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
    waited: Duration,
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
            *panicked = hand(engine, Input::Bytes { conn: id, bytes: text, waited }, now).err();
        }
    })?;
    Ok((progress, early))
}
