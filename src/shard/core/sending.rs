//! What connections send: gathered during a pass, flushed at its end, and watched until the peer has it.
//!
//! Owns: when a flush happens, and what becomes of a connection whose peer does not take what it is sent. Must not touch:
//! how long that may last, which is [`super::progress`]'s.

use super::Core;
use super::conn::{Key, Phase};
use super::ends::close_reason;
use super::progress::{Seen, Verdict};
use crate::clock::Time;
use crate::driver::Driver;
use crate::engine::CloseReason;
use crate::ids::ConnId;
use crate::limits::{LOOKS_PER_PASS_MAX, SEND_STALL_MAX};
use crate::transport::stream::{Flushed, StreamSocket};

/// Text that is sent in the middle of a pass instead of being gathered further.
const FLUSH_EARLY_LEN: usize = 64 * 1024;

impl<D: Driver> Core<D> {
    /// Carries out `Output::Bytes`.
    pub(super) fn push_bytes(&mut self, id: ConnId, bytes: Vec<u8>) {
        let Some(key) = self.find(id) else { return self.engine.recycle(bytes) };
        let Some(conn) = self.conn(key) else { return self.engine.recycle(bytes) };
        let back = conn.stream.push(bytes);
        let (waiting_len, max) = (conn.stream.waiting_len(), conn.send_queue_len_max());
        let ready = conn.phase == Phase::Open;
        let queue = ready && !std::mem::replace(&mut conn.flush_queued, ready);
        back.into_iter().for_each(|buffer| self.engine.recycle(buffer));
        if queue {
            self.to_flush.push(key);
        }
        if ready && waiting_len >= FLUSH_EARLY_LEN {
            self.guarded(key, |core| core.flush(key));
        } else if waiting_len > max {
            self.lost(key, CloseReason::SendQueueFull);
        }
    }

    /// The end of this pass flushes it.
    pub(super) fn queue_flush(&mut self, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        if !std::mem::replace(&mut conn.flush_queued, true) {
            self.to_flush.push(key);
        }
        self.dirty = true;
    }

    /// The socket has room again: sends what waited for it.
    pub(super) fn send_on(&mut self, key: Key) {
        if self.conn(key).is_some_and(|conn| conn.stream.is_blocked()) {
            self.flush(key);
        }
    }

    /// The FIN of a connection that is leaving, behind its last byte: whoever finds the room for that, the socket or the
    /// flush of a pass that came first.
    fn end_half(&mut self, key: Key) {
        let Some(conn) = self.conn(key).filter(|conn| conn.phase == (Phase::Leaving { fin_sent: false })) else {
            return;
        };
        conn.stream.socket.shut();
        conn.phase = Phase::Leaving { fin_sent: true };
        self.end_if_left(key);
    }

    /// Flushes every connection that was given something; says whether there were any.
    pub(super) fn flush_conns(&mut self) -> bool {
        let mut keys = std::mem::take(&mut self.to_flush);
        let some = !keys.is_empty();
        for key in keys.drain(..) {
            self.guarded(key, |core| core.flush(key));
        }
        // What was queued meanwhile is for the next round; the longer buffer is kept.
        keys.append(&mut self.to_flush);
        self.to_flush = keys;
        some
    }

    pub(super) fn flush(&mut self, key: Key) {
        let now = self.driver.now();
        let Self { engine, lent, conns, watches, .. } = self;
        let Some(conn) = conns.get_mut(key.index()).filter(|conn| conn.is(key)) else { return };
        conn.flush_queued = false;
        #[cfg(test)]
        super::tests::panic_if_sent(conn.stream.text());
        let before = conn.stream.taken();
        let flushed = conn.stream.flush(lent, |buffer| engine.recycle(buffer));
        let taken = conn.stream.taken();
        if taken > before && !std::mem::replace(&mut conn.watched, true) {
            watches.begin(key, before, taken, now);
        }
        match flushed {
            Ok(Flushed::All) => self.end_half(key),
            Ok(Flushed::Waits) => {
                // The socket tells when there is room again.
                if conn.stream.waiting_len() > conn.send_queue_len_max() {
                    self.lost(key, CloseReason::SendQueueFull);
                }
            }
            Err(error) => {
                let reason = close_reason(&error);
                self.ended(key, reason);
            }
        }
    }

    /// Looks at those whose look is due, and gives up who does not take what it was sent.
    pub(super) fn look_at_progress(&mut self, now: Time) {
        for _ in 0..LOOKS_PER_PASS_MAX {
            let Some(watch) = self.watches.pop_due(now) else { return };
            let Self { conns, watches, .. } = self;
            let Some(conn) = conns.get_mut(watch.key.index()).filter(|conn| conn.is(watch.key)) else { continue };
            match conn.phase {
                Phase::Open => {}
                // The handshake has its own deadline.
                Phase::Connecting | Phase::Handshaking => {
                    watches.again(watch, now);
                    continue;
                }
                // The lingering has one too, and sends nothing more.
                Phase::Leaving { .. } => continue,
            }
            conn.watched = false;
            // A connection that has ended already shows it when it is read.
            let Some(outstanding) = conn.stream.socket.outstanding() else { continue };
            let seen = Seen { taken: conn.stream.taken(), outstanding, waits: conn.stream.waiting_len() > 0 };
            let is_there = || conn.stream.socket.silent_for().is_some_and(|silent| silent < SEND_STALL_MAX);
            match watches.looked(watch, seen, is_there, now) {
                Verdict::Done => {}
                Verdict::Goes => conn.watched = true,
                Verdict::Stalled => self.lost(watch.key, CloseReason::SendStalled),
                Verdict::Dead => {
                    conn.stream.socket.abort();
                    self.lost(watch.key, CloseReason::Dead);
                }
                Verdict::Slow => self.lost(watch.key, CloseReason::SendSlow),
            }
        }
    }
}
