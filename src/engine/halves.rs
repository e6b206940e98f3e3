//! Connections whose peer has closed its half: a FIN, or over TLS a close_notify (RFC 8446 §6.1). It says nothing more,
//! and may still read.
//!
//! A phone that un-registers and goes, or a script that asks and shuts its writing side, gets its answers all the same
//! (DESIGN.md, Responses): the connection stays while answers are owed over it, and for `HALF_CLOSED_MAX` at most. For
//! requests towards its peer it is gone at once, for their answers could not come back.
//!
//! What is owed is a count, kept where bytes come and go: requests that came over the connection less final responses
//! that were sent on it. So it is known whichever shard a context lives on, and costs a message nothing.

use super::{CloseReason, Engine};
use crate::clock::Time;
use crate::ids::{ConnId, PointId};

/// Whether a message is a response. Ours are whole, and begin so.
fn is_response(bytes: &[u8]) -> bool {
    bytes.starts_with(b"SIP/2.0 ")
}

/// Whether it is a final one.
fn is_final(bytes: &[u8]) -> bool {
    is_response(bytes) && bytes.get(8).is_some_and(|class| *class != b'1')
}

impl Engine {
    /// The peer has closed its half.
    pub(super) fn on_half_closed(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.ready || conn.owed == 0 {
            return self.close(id, CloseReason::Peer, now);
        }
        let counted = conn.counts_as_unregistered();
        let parted = conn.part(now);
        let (peer, counts) = (conn.peer.ip(), conn.counts_as_unregistered());
        if counts && !counted {
            *self.unregistered.entry(peer).or_insert(0) += 1;
        }
        if parted.is_registered() {
            self.kept.conn_bound(self.env.settings.point(parted.point).transport, false);
        }
        self.part_from(id, &parted, CloseReason::Peer, now);
        self.update_deadline(id);
    }

    /// Whether requests may be sent over a connection of this shard.
    pub(super) fn takes_requests(&self, conn: ConnId) -> bool {
        self.conns.get(conn).is_some_and(|conn| conn.half_closed.is_none())
    }

    /// The point of a connection of this shard that can carry a message; `None` when it is gone, or gone for this one.
    pub(super) fn carries(&self, conn: ConnId, message: &[u8]) -> Option<PointId> {
        let here = self.conns.get(conn)?;
        (here.half_closed.is_none() || is_response(message)).then_some(here.point)
    }

    /// A request has come over a connection, that wants an answer.
    pub(super) fn note_asked(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.owed = conn.owed.saturating_add(1);
        }
    }

    /// A message is sent on a connection. What was owed last ends one that is half closed, behind it.
    pub(super) fn note_sent(&mut self, id: ConnId, message: &[u8]) {
        if !is_final(message) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.owed = conn.owed.saturating_sub(1);
        if conn.owed == 0 && conn.half_closed.is_some() {
            self.update_deadline(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_final_response_pays() {
        assert!(is_final(b"SIP/2.0 200 OK\r\n") && is_final(b"SIP/2.0 487 Request Terminated\r\n"));
        assert!(!is_final(b"SIP/2.0 180 Ringing\r\n") && is_response(b"SIP/2.0 180 Ringing\r\n"));
        assert!(!is_response(b"OPTIONS sip:a@example.com SIP/2.0\r\n") && !is_final(b"\r\n"));
    }
}
