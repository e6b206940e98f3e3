//! What becomes of a connection that a listener has accepted: it is taken in, waits for its source's turn to shake
//! hands, or is let go.
//!
//! Owns: nothing; it is the part of the core that decides between [`super::handshakes`], [`super::parked`] and the
//! engine.

use std::net::SocketAddr;
use std::time::Duration;

use glommio::net::TcpStream;

use super::connection::Key;
use super::core::Core;
use super::handshakes::Turn;
use crate::clock::Time;
use crate::ids::{PointId, Side, Transport};
use crate::limits::HANDSHAKES_PARKED_COUNT_MAX;
use crate::stats::{Counter, HandshakeFailure};

/// From one look to the next whether a handshake may begin, while so many are in the air.
pub(super) const HANDSHAKE_LOOK_EVERY: Duration = Duration::from_millis(2);

/// A connection whose handshake is still to begin.
#[derive(Debug)]
pub(super) struct Arrival {
    point: PointId,
    socket: TcpStream,
    peer: SocketAddr,
}

impl Core {
    fn turn(&self, point: PointId, peer: SocketAddr) -> Turn {
        let is_tls = self.engine.settings().point(point).transport == Transport::Tls;
        if !is_tls || self.stopped() {
            return Turn::Now;
        }
        self.handshakes.turn(peer.ip(), !self.deferred.is_empty(), self.clock.now())
    }

    /// Whether a listener must not accept anything further for now: there are as many handshakes as may be, of all
    /// sources. One that is over its own share holds up nobody.
    pub(super) fn must_hold(&self, point: PointId, peer: SocketAddr) -> bool {
        !self.parked.holds(peer.ip()) && self.turn(point, peer) == Turn::Waits
    }

    /// A listener has accepted a connection. Its task must be started when it is given.
    pub(super) fn arrived(&mut self, point: PointId, socket: TcpStream, peer: SocketAddr) -> Option<Key> {
        let is_behind = self.parked.holds(peer.ip()) && self.engine.settings().point(point).transport == Transport::Tls;
        if !is_behind && self.turn(point, peer) != Turn::Parks {
            return self.accepted(point, socket, peer);
        }
        // They take descriptors like any other connection.
        let free = (self.engine.settings().connections_max as usize).saturating_sub(self.conns.len());
        let count_max = HANDSHAKES_PARKED_COUNT_MAX.min(free);
        let now = self.clock.now();
        self.count(Counter::LimitHandshakesPerSource);
        self.set_dirty();
        if let Some(gives_way) = self.parked.push(peer.ip(), Arrival { point, socket, peer }, count_max, now) {
            self.count(Counter::LimitHandshakesParkedCount);
            self.not_begun(&gives_way, "too many of its source wait to begin");
        }
        None
    }

    /// Begins the handshakes of those whose turn has come. Says when to look again, if some still wait.
    pub(super) fn unpark(&mut self, now: Time) -> Option<Time> {
        if self.parked.len() == 0 {
            return None;
        }
        for source in self.parked.sources() {
            while let Some(late) = self.parked.pop_expired(source, now) {
                self.count(Counter::LimitHandshake);
                self.not_begun(&late, "its source's turn did not come in time");
            }
            while self.handshakes.turn(source, !self.deferred.is_empty(), now) == Turn::Now
                && let Some(Arrival { point, socket, peer }) = self.parked.pop(source)
            {
                let key = self.accepted(point, socket, peer);
                self.to_spawn.extend(key);
            }
        }
        (self.parked.len() > 0).then(|| now.after(HANDSHAKE_LOOK_EVERY))
    }

    fn not_begun(&mut self, arrival: &Arrival, why: &'static str) {
        let side = self.engine.settings().point(arrival.point).side.unwrap_or(Side::Endpoint);
        self.handshake_failed(side, arrival.peer, HandshakeFailure::Timeout, why);
    }
}
