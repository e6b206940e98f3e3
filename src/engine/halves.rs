//! Connections whose peer has closed its half: a FIN, or over TLS a close_notify (RFC 8446 §6.1). It says nothing more,
//! and may still read.
//!
//! A phone that un-registers and goes, or a script that asks and shuts its writing side, gets its answers all the same
//! (DESIGN.md, Responses): the connection stays while answers are owed over it, and for `HALF_CLOSED_MAX` at most. For
//! requests towards its peer it is gone at once, for their answers could not come back.
//!
//! What is owed is a count, kept where bytes come and go: requests that came over the connection less final responses
//! that were sent on it. So it is known whichever shard a context lives on, and costs a message nothing.

use super::location::is_response;
use super::{CloseReason, Engine};
use crate::clock::Time;
use crate::ids::ConnId;

/// Whether a message is a final response.
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
        let was_registered = conn.part(now);
        let (point, peer, link) = (conn.point, conn.peer.ip(), conn.link());
        if conn.counts_as_unregistered() && !counted {
            *self.unregistered.entry(peer).or_insert(0) += 1;
        }
        if was_registered {
            self.kept.conn_bound(self.env.settings.point(point).transport, false);
        }
        let lost = self.location.half_close(id);
        self.part_from(id, point, link, &lost, CloseReason::Peer, now);
        self.update_deadline(id);
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
