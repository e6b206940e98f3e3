//! What becomes of a connection that a listener has accepted: it is taken in, waits for its source's turn to shake
//! hands, or is let go.
//!
//! Owns: when the next connection of a listener is taken. Between [`super::awaited`], [`super::handshakes`],
//! [`super::parked`] and the engine the core decides here.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Core;
use super::awaited::{Awaiting, Found};
use super::conn::{Arrival, Phase};
use super::ends::{AcceptFailure, accept_failure};
use super::handshakes::{Pace, Turn};
use super::points::Listening;
use crate::clock::Time;
use crate::driver::{Driver, Token};
use crate::engine::{Accept, CloseReason, Input};
use crate::ids::{PointId, Side, Transport};
use crate::limits::{ACCEPTS_IN_A_ROW_MAX, HANDSHAKES_PARKED_COUNT_MAX, PROXY_HEADERS_AWAITED_COUNT_MAX};
use crate::stats::{Counter, HandshakeFailure};
use crate::tls::hello::plain;
use crate::transport::stream::Stream;

/// From one look to the next whether a handshake may begin, while so many are in the air.
const HANDSHAKE_LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a listener rests after the system refused a connection (descriptors, memory).
const ACCEPT_REST: Duration = Duration::from_millis(100);

impl<D: Driver> Core<D> {
    fn turn(&self, point: PointId, peer: SocketAddr) -> Turn {
        let is_tls = self.engine.settings().point(point).transport == Transport::Tls;
        if !is_tls || self.stopped {
            return Turn::Now;
        }
        self.turn_of(peer.ip())
    }

    fn turn_of(&self, source: IpAddr) -> Turn {
        let of_source_max = self.engine.handshakes_max(source);
        let pace = match self.deferred.len() {
            0 => Pace::Idle,
            _ if self.engine.puts_off_handshakes() => Pace::Overloaded,
            _ => Pace::Busy,
        };
        self.handshakes.turn(source, of_source_max, pace, self.driver.now())
    }

    /// Connections wait at the listener of a point, if it has one.
    pub(super) fn connections_wait(&mut self, point: PointId) {
        self.listeners.iter_mut().filter(|listener| listener.point == point).for_each(|one| one.waits = true);
    }

    /// Takes what waits at the listeners, within bounds.
    pub(super) fn accept_all(&mut self) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_IN_A_ROW_MAX {
                let Some((socket, peer)) = self.next_arrival(at) else { break };
                let point = self.listeners[at].point;
                if self.engine.settings().is_balancer(peer.ip()) {
                    self.await_header(point, socket, peer);
                    continue;
                }
                if self.must_hold(point, peer) {
                    self.listeners[at].held = Some((socket, peer));
                    break;
                }
                self.arrived(Arrival { point, socket, peer, is_forwarded: false });
            }
        }
    }

    fn next_arrival(&mut self, at: usize) -> Option<(D::Stream, SocketAddr)> {
        let now = self.driver.now();
        let listener = self.listeners.get_mut(at)?;
        if listener.rests_until.is_some_and(|until| until > now) {
            return None;
        }
        listener.rests_until = None;
        if let Some(held) = listener.held.take() {
            return Some(held);
        }
        while listener.waits {
            let error = match self.driver.accept(listener.point) {
                Ok(arrival) => return Some(arrival),
                Err(error) => error,
            };
            match accept_failure(&error) {
                AcceptFailure::NoMore => listener.waits = false,
                AcceptFailure::Passed => {}
                AcceptFailure::Refused => {
                    listener.rests_until = Some(now.after(ACCEPT_REST));
                    self.count(Counter::AcceptError);
                    self.say("a connection could not be accepted (see LimitNOFILE)", None, error.to_string());
                    return None;
                }
            }
        }
        None
    }

    /// When listeners are to be looked at again that tell nothing by themselves: now, if connections wait there.
    pub(super) fn accepts_at(&self, now: Time) -> Option<Time> {
        let at = |listener: &Listening<D::Stream>| match listener {
            Listening { rests_until: Some(until), .. } => Some(*until),
            Listening { held: Some(_), .. } => Some(now.after(HANDSHAKE_LOOK_EVERY)),
            listener => listener.waits.then_some(now),
        };
        self.listeners.iter().filter_map(at).min()
    }

    /// Whether a listener must not accept anything further for now: there are as many handshakes as may be, of all
    /// sources. One that is over its own share holds up nobody.
    fn must_hold(&self, point: PointId, peer: SocketAddr) -> bool {
        !self.parked.holds(peer.ip()) && !self.is_shut_out(peer.ip()) && self.turn(point, peer) == Turn::Waits
    }

    fn is_shut_out(&self, source: IpAddr) -> bool {
        self.engine.shuts_out(source, self.driver.now())
    }

    /// Takes an accepted connection in, or lets it go at once.
    pub(super) fn accepted(&mut self, arrival: Arrival<D::Stream>) {
        let Arrival { point, socket, peer, is_forwarded } = arrival;
        // The engine frees a slot when it asks for a close: nothing that is meant for the old connection may be
        // left when the slot is given to this one.
        self.carry_out();
        let now = self.driver.now();
        let Self { engine, .. } = self;
        let accept = Accept { point, peer, is_forwarded };
        let id = match catch_unwind(AssertUnwindSafe(|| engine.accept(accept, now))) {
            Ok(Ok(id)) => id,
            Ok(Err(_)) => {
                // Counted by the engine, which may have an event to tell.
                self.dirty = true;
                return;
            }
            Err(panic) => return self.on_panic(panic.as_ref()),
        };
        let point = self.engine.settings().point(point);
        let (transport, listens_for) = (point.transport, point.side);
        let side = listens_for.unwrap_or(Side::Endpoint);
        let session = match transport {
            Transport::Udp | Transport::Tcp => None,
            Transport::Tls => match self.tls.accept(listens_for) {
                Ok(session) => Some(Box::new(session)),
                Err(fault) => {
                    self.say("a TLS session could not be begun", Some(peer), fault.to_string());
                    return self.tell_closed(id, CloseReason::Error);
                }
            },
        };
        let phase = if session.is_some() { Phase::Handshaking } else { Phase::Open };
        let stream = Stream::new(socket, session, self.waiting.clone());
        let Some(key) = self.insert(id, peer, side, phase, stream) else { return };
        self.conns[key.index].listens_for = listens_for;
        if phase == Phase::Handshaking {
            self.handshake_begun(key);
        } else if !self.input(Input::Ready { conn: id, identities: None }) {
            self.lost(key, CloseReason::Panic);
        }
    }

    /// A listener has accepted a connection, of which is known whose it is. Those of a balancer have no listener's queue to
    /// wait in while there are as many handshakes as may be.
    pub(super) fn arrived(&mut self, arrival: Arrival<D::Stream>) {
        let Arrival { point, peer, .. } = arrival;
        if self.is_shut_out(peer.ip()) {
            // The engine refuses and counts it, before it can wait for anything.
            return self.accepted(arrival);
        }
        let is_behind = self.parked.holds(peer.ip()) && self.engine.settings().point(point).transport == Transport::Tls;
        let turn = if is_behind { Turn::Parks } else { self.turn(point, peer) };
        if turn == Turn::Now {
            return self.accepted(arrival);
        }
        // Parked connections take descriptors like any other.
        let free = (self.engine.settings().connections_max as usize).saturating_sub(self.conns.len());
        let count_max = HANDSHAKES_PARKED_COUNT_MAX.min(free);
        let now = self.driver.now();
        if turn == Turn::Parks {
            self.count(Counter::LimitHandshakesPerSource);
        }
        self.dirty = true;
        if let Some(gives_way) = self.parked.push(peer.ip(), arrival, count_max, now) {
            self.count(Counter::LimitHandshakesParkedCount);
            self.not_begun(&gives_way, "too many of its source wait to begin");
        }
    }

    /// Begins the handshakes of those whose turn has come, and ends the wait for headers that do not come. Says when to look
    /// again, if some still wait.
    pub(super) fn unpark(&mut self, now: Time) -> Option<Time> {
        let awaited = self.expire_awaited(now);
        if self.parked.len() == 0 {
            return awaited;
        }
        for source in self.parked.sources() {
            while let Some(late) = self.parked.pop_expired(source, now) {
                self.count(Counter::LimitHandshake);
                self.not_begun(&late, "its source's turn did not come in time");
            }
            while self.turn_of(source) == Turn::Now
                && let Some(arrival) = self.parked.pop(source)
            {
                self.accepted(arrival);
            }
        }
        let parked = (self.parked.len() > 0).then(|| now.after(HANDSHAKE_LOOK_EVERY));
        [parked, awaited].into_iter().flatten().min()
    }

    fn not_begun(&mut self, arrival: &Arrival<D::Stream>, why: &'static str) {
        let side = self.engine.settings().point(arrival.point).side.unwrap_or(Side::Endpoint);
        self.handshake_failed(side, arrival.peer, HandshakeFailure::Timeout, why);
    }

    /// A balancer has opened a connection.
    fn await_header(&mut self, point: PointId, socket: D::Stream, peer: SocketAddr) {
        let number = self.awaited.next();
        if let Err(error) = self.driver.watch(&socket, Token::Header(number)) {
            return self.say("a connection could not be watched", Some(peer), error.to_string());
        }
        self.awaited.push(number, point, socket, peer, self.driver.now());
        // They take descriptors like any other.
        let taken = self.conns.len() + self.parked.len();
        let free = (self.engine.settings().connections_max as usize).saturating_sub(taken);
        while self.awaited.len() > PROXY_HEADERS_AWAITED_COUNT_MAX.min(free) {
            let Some(number) = self.awaited.gives_way() else { return };
            self.refuse_awaited(number, Counter::ProxyHeaderGaveWay);
        }
    }

    /// The socket of a connection is ready whose PROXY header is awaited.
    pub(super) fn on_header(&mut self, number: u32) {
        match self.awaited.look(number) {
            Found::Nothing => {}
            Found::Fault(why) => self.refuse_awaited(number, why),
            Found::Header(source) => {
                let Some(Awaiting { point, socket, peer, .. }) = self.awaited.remove(number) else { return };
                self.count(Counter::proxy_header(source.is_some()));
                self.arrived(Arrival { point, socket, peer: source.unwrap_or(peer), is_forwarded: true });
            }
        }
    }

    /// Lets those go whose header has not come in time. Says when the next one's time is over.
    fn expire_awaited(&mut self, now: Time) -> Option<Time> {
        loop {
            let (number, due) = self.awaited.oldest()?;
            if due > now {
                return Some(due);
            }
            self.refuse_awaited(number, Counter::ProxyHeaderTimeout);
        }
    }

    fn refuse_awaited(&mut self, number: u32, why: Counter) {
        let Some(Awaiting { peer, come, .. }) = self.awaited.remove(number) else { return };
        self.engine.counters_mut().count_with_bound(why);
        // A balancer that only looks whether the port is open says nothing, and comes every second.
        if why == Counter::ProxyHeaderEnded && come.is_empty() {
            return;
        }
        let reason = why.row().label("reason").unwrap_or_default();
        let about = match plain(&come) {
            Some(text) => format!("it begins with {text:?}"),
            None => format!("{} bytes of it have come", come.len()),
        };
        self.say_why("connection refused: its PROXY header is due, and none was read", reason, Some(peer), about);
    }
}
