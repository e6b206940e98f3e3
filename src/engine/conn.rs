//! What is known of one connection beside its flow: framing, deadlines, and the side that it is found to be on. Which
//! bindings it carries is known to location.

use std::net::SocketAddr;
use std::time::Duration;

use super::connections::ConnectionKey;
use super::{Accept, CloseReason};
use crate::clock::Time;
use crate::ids::{PointId, Side};
use crate::limits::{FIRST_MESSAGE_MAX, HALF_CLOSED_MAX, HANDSHAKE_MAX, IDLE_UNREGISTERED_MAX, MESSAGE_BEGUN_MAX};
use crate::sip::Framer;
use crate::tls::identity::Identities;
use crate::wheel::TimerId;

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) point: PointId,
    pub(super) peer: SocketAddr,
    /// It came by way of a load balancer: see [`crate::proxy::Origin::FORWARDED`].
    pub(super) is_forwarded: bool,
    /// Found by its first request; an outbound connection has it from the start.
    pub(super) side: Option<Side>,
    /// Another site's proxy is at its other end.
    pub(super) is_peer: bool,
    /// We opened it.
    pub(super) link: Option<Box<ConnectionKey>>,
    pub(super) ready: bool,
    /// A whole message has come.
    pub(super) heard: bool,
    pub(super) framer: Framer,
    /// It carries a binding, as location has said.
    pub(super) registered: bool,
    /// When it was made, became ready, or last brought a whole message or a ping.
    pub(super) last: Time,
    /// When the message that is begun was begun.
    pub(super) begun: Option<Time>,
    /// Requests that came over it, less final responses that were sent on it. It errs where a request is never answered,
    /// or elsewhere, or twice; so it decides nothing but how long a connection outlives its peer's half.
    pub(super) owed: u32,
    /// How often it was idle for its time while answers were owed over it, since one was sent.
    pub(super) awaits: u8,
    /// Since when its peer says nothing more: see [`super::streams`].
    pub(super) half_closed: Option<Time>,
    pub(super) timer: Option<TimerId>,
    /// The names of the peer's verified certificate. Boxed: most phones show none.
    pub(super) identities: Option<Box<Identities>>,
}

impl Conn {
    /// One of whose peer nothing is known yet.
    pub(super) fn new(point: PointId, peer: SocketAddr, now: Time) -> Self {
        Self {
            point,
            peer,
            is_forwarded: false,
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
            awaits: 0,
            half_closed: None,
            timer: None,
            identities: None,
        }
    }

    /// One that a listener has accepted.
    pub(super) fn accepted(accept: Accept, now: Time) -> Self {
        Self { is_forwarded: accept.is_forwarded, ..Self::new(accept.point, accept.peer, now) }
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

    /// It was idle for its time. Whether it stays all the same, for answers are owed over it: as long as one may be waited for
    /// since the last was sent.
    pub(super) fn stays_for_answers(&mut self, longest_wait: Duration, now: Time) -> bool {
        let stays = self.owed > 0 && IDLE_UNREGISTERED_MAX * u32::from(self.awaits) < longest_wait;
        if stays {
            self.awaits = self.awaits.saturating_add(1);
            self.last = now;
        }
        stays
    }

    /// Its peer says nothing more. Whether it carried a binding.
    pub(super) fn part(&mut self, now: Time) -> bool {
        self.half_closed = Some(now);
        (self.framer, self.begun) = (Framer::default(), None);
        std::mem::take(&mut self.registered)
    }

    /// The deadline that counts now, and what missing it means.
    pub(super) fn deadline(&self) -> Option<(Time, CloseReason)> {
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
