//! One connection of ours: whom it leads to, whether it is there, and the pauses after it could not be opened.

use crate::clock::Time;
use crate::dns::NextHop;
use crate::engine::io::{CloseReason, ConnectFailure};
use crate::ids::{ConnId, Side};
use crate::limits::{LINK_RETRY_MAX, LINK_RETRY_MIN};

/// What ICMP says of a UDP address, as how a connection ends.
const UNREACHABLE: CloseReason = CloseReason::Connect(ConnectFailure::Refused);

/// Who is at the other end, as far as it tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// A server of this pair.
    Server(u8),
    /// The proxy of this site.
    Peer(u8),
    /// A device, or what a server's Route names, by a hash of the name that its certificate must carry and of whom it
    /// must be.
    Device(u64),
    /// Who takes over TCP what is too large for a datagram, on this side. That no connection can be opened says nothing
    /// of who is there.
    Large(Side),
}

impl Element {
    pub fn side(self) -> Side {
        match self {
            Self::Server(_) => Side::Server,
            Self::Peer(_) | Self::Device(_) => Side::Endpoint,
            Self::Large(side) => side,
        }
    }

    /// What an operator hears when it can be reached again.
    pub fn words_up(self) -> &'static str {
        match self {
            Self::Server(_) => "SIP Server can be reached again",
            Self::Peer(_) => "peer proxy can be reached again",
            Self::Device(_) => "device can be reached again",
            Self::Large(_) => "requests that are too large for a datagram go by TCP again",
        }
    }

    /// What an operator hears when it could not be reached.
    pub fn words_down(self) -> &'static str {
        match self {
            Self::Server(_) => "SIP Server cannot be reached",
            Self::Peer(_) => "peer proxy cannot be reached",
            Self::Device(_) => "device cannot be reached",
            Self::Large(_) => "requests that are too large for a datagram go by UDP: no TCP there",
        }
    }
}

/// What tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    pub element: Element,
    pub to: NextHop,
}

/// Whether a connection is there. One over UDP never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    /// Asked for; bytes for it may be sent, and wait.
    Opening(ConnId),
    /// Ready for SIP.
    Open(ConnId),
}

/// A connection that we opened, or tried to. For UDP: that its address was sent to, and whether it could be reached.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    state: State,
    /// Attempts that failed, one after the other.
    failures: u32,
    /// It is not tried again before.
    retry_at: Option<Time>,
    /// Since when it is open, being opened, or down.
    pub since: Time,
    /// How it ended last.
    pub why: Option<CloseReason>,
}

impl Connection {
    pub fn new(now: Time) -> Self {
        Self { state: State::Closed, failures: 0, retry_at: None, since: now, why: None }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The slot that it has, open or not yet.
    pub fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Opening(conn) | State::Open(conn) => Some(conn),
            State::Closed => None,
        }
    }

    /// Whether it could not be opened, or its address not be reached, and must rest.
    pub fn rests(&self, now: Time) -> bool {
        self.state == State::Closed && self.retry_at.is_some_and(|at| now < at)
    }

    /// Whether it is open; for UDP, where nothing is, that what was sent since has reached its address.
    pub fn is_there(&self) -> bool {
        matches!(self.state, State::Open(_)) || (self.why == Some(UNREACHABLE) && self.failures == 0)
    }

    /// Whether it could not be opened the last time, or its address not be reached.
    pub fn is_out(&self) -> bool {
        self.failures > 0
    }

    /// Why it could not be opened, when that is how it ended.
    pub fn failure(&self) -> Option<ConnectFailure> {
        match (self.state, self.why) {
            (State::Closed, Some(CloseReason::Connect(failure))) => Some(failure),
            _ => None,
        }
    }

    /// The connection is tried at once, however often it has failed.
    pub fn rest_no_more(&mut self) {
        self.retry_at = None;
    }

    /// Who is there is known to answer.
    pub fn forgive(&mut self) {
        (self.retry_at, self.failures) = (None, 0);
    }

    pub fn opening(&mut self, conn: ConnId, now: Time) {
        (self.state, self.since) = (State::Opening(conn), now);
    }

    /// Its slot is ready for SIP. `true` when it could not be opened before.
    pub fn opened(&mut self, now: Time) -> bool {
        if let Some(conn) = self.conn() {
            self.state = State::Open(conn);
        }
        (self.retry_at, self.since) = (None, now);
        std::mem::take(&mut self.failures) > 0
    }

    pub fn closed(&mut self, reason: CloseReason, now: Time) {
        (self.state, self.since, self.why) = (State::Closed, now, Some(reason));
    }

    /// Something has come from its address. `true` when it could not be reached before.
    pub fn heard(&mut self, now: Time) -> bool {
        let was_out = self.is_out();
        if was_out {
            self.forgive();
            self.since = now;
        }
        was_out
    }

    /// The system says that its address cannot be reached. `true` when it is the first time since it could.
    pub fn unreachable(&mut self, now: Time) -> bool {
        self.why = Some(UNREACHABLE);
        self.fail(now)
    }

    /// The connection could not be opened, or its address not be reached. `true` when it is the first time since it could.
    pub fn fail(&mut self, now: Time) -> bool {
        let wait = LINK_RETRY_MIN.saturating_mul(1 << self.failures.min(8)).min(LINK_RETRY_MAX);
        self.failures += 1;
        self.retry_at = Some(now.after(wait));
        self.since = now;
        self.failures == 1
    }

    /// What holds between two calls.
    pub fn check(&self, key: &ConnectionKey) {
        assert!(key.to.transport.is_stream() || self.state == State::Closed, "UDP has no connection: {key:?} {self:?}");
        assert!(self.retry_at.is_none() || self.failures > 0, "only what has failed rests: {key:?} {self:?}");
        assert!(!matches!(self.state, State::Open(_)) || self.failures == 0, "what is open has not failed: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut connection = Connection::new(Time(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            connection.fail(Time(0));
            waits.push(connection.retry_at.map(|at| at.since(Time(0))).unwrap_or_default());
        }
        assert_eq!(waits[0], LINK_RETRY_MIN);
        assert!(waits.windows(2).all(|two| two[0] <= two[1]));
        assert_eq!(waits[11], LINK_RETRY_MAX);
        let over = Time(0).after(LINK_RETRY_MAX + Duration::from_millis(1));
        assert!(connection.rests(Time(0)) && !connection.rests(over));
    }

    #[test]
    fn what_was_opened_begins_with_the_shortest_pause_again() {
        let mut connection = Connection::new(Time(0));
        assert!(connection.fail(Time(0)), "the first failure is news");
        assert!(!connection.fail(Time(0)), "the second is not");
        let conn = ConnId { slot: 1, generation: 1 };
        connection.opening(conn, Time(0));
        assert!(connection.is_out() && !connection.rests(Time(0)), "it is being tried");
        assert!(connection.opened(Time(0)) && connection.is_there());
        connection.closed(CloseReason::Connect(ConnectFailure::Refused), Time(0));
        connection.fail(Time(0));
        assert_eq!(connection.retry_at, Some(Time(0).after(LINK_RETRY_MIN)));
        assert_eq!(connection.failure(), Some(ConnectFailure::Refused));
    }
}
