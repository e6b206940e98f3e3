//! What becomes of a connection that a listener has accepted: it is taken in, waits for its source's turn to shake
//! hands, or is let go.
//!
//! Owns: nothing; here the core decides between [`super::handshakes`], [`super::parked`] and the engine.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use glommio::net::TcpStream;

use super::conn::{Arrival, Key, Phase};
use super::core::Core;
use super::handshakes::Turn;
use crate::clock::Time;
use crate::engine::{Accept, CloseReason, Input};
use crate::ids::{PointId, Side, Transport};
use crate::limits::HANDSHAKES_PARKED_COUNT_MAX;
use crate::stats::{Counter, HandshakeFailure};
use crate::sys;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// From one look to the next whether a handshake may begin, while so many are in the air.
pub(super) const HANDSHAKE_LOOK_EVERY: Duration = Duration::from_millis(2);

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

    /// Takes an accepted connection in, or lets it go at once. Its task must be started when it is taken.
    pub(super) fn accepted(&mut self, point: PointId, socket: TcpStream, peer: SocketAddr) -> Option<Key> {
        // The engine frees a slot when it asks for a close: nothing that is meant for the old connection may be
        // left when the slot is given to this one.
        self.carry_out();
        let now = self.clock.now();
        let Self { engine, .. } = self;
        let accept = Accept { point, peer };
        let id = match catch_unwind(AssertUnwindSafe(|| engine.accept(accept, now))) {
            Ok(Ok(id)) => id,
            Ok(Err(_)) => {
                // Counted by the engine, which may have an event to tell.
                self.set_dirty();
                return None;
            }
            Err(panic) => {
                self.on_panic(panic.as_ref());
                return None;
            }
        };
        // A socket that takes no option is one whose peer has gone, which the first read finds out.
        let _ = sys::with_socket(&socket, |socket| socket::set_stream_options(&socket));
        let point = self.engine.settings().point(point);
        let (transport, listens_for) = (point.transport, point.side);
        let side = listens_for.unwrap_or(Side::Endpoint);
        let session = match transport {
            Transport::Udp | Transport::Tcp => None,
            Transport::Tls => match self.tls.accept(listens_for) {
                Ok(session) => Some(Box::new(session)),
                Err(fault) => {
                    self.say("a TLS session could not be begun", Some(peer), fault.to_string());
                    self.tell_closed(id, CloseReason::Error);
                    return None;
                }
            },
        };
        let phase = if session.is_some() { Phase::Handshaking } else { Phase::Open };
        let key = self.insert(id, peer, side, phase, Stream::new(socket, session, self.waiting.clone()));
        self.conns[key.index].listens_for = listens_for;
        if phase == Phase::Handshaking {
            self.handshake_begun(key);
        } else if !self.input(Input::Ready { conn: id, identities: None }) {
            self.lost(key, CloseReason::Panic);
            return None;
        }
        Some(key)
    }

    /// A listener has accepted a connection. Its task must be started when it is given.
    pub(super) fn arrived(&mut self, point: PointId, socket: TcpStream, peer: SocketAddr) -> Option<Key> {
        let is_behind = self.parked.holds(peer.ip()) && self.engine.settings().point(point).transport == Transport::Tls;
        if !is_behind && self.turn(point, peer) != Turn::Parks {
            return self.accepted(point, socket, peer);
        }
        // Parked connections take descriptors like any other.
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
