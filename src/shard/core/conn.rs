//! What a shard knows of each of its connections, by its place and its number.

use std::net::SocketAddr;

use crate::driver::Token;
use crate::engine::TlsPeer;
use crate::ids::{ConnId, PointId, SetupId, Side, Transport};
use crate::limits::{SEND_QUEUE_LEN_MAX, SERVER_SEND_QUEUE_LEN_MAX};
use crate::transport::stream::Stream;

/// A connection of this shard: a place that is used again has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: usize,
    pub(super) serial: u32,
}

impl Key {
    pub(super) fn index(self) -> usize {
        self.index
    }

    /// `None` past the bound of connections, which is far below.
    pub(super) fn token(self) -> Option<Token> {
        Some(Token::Conn { index: u32::try_from(self.index).ok()?, serial: self.serial })
    }

    #[cfg(test)]
    pub(super) fn of_test(index: usize) -> Self {
        Self { index, serial: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Handshaking,
    Open,
    Leaving { fin_sent: bool },
}

/// A connection that the engine wants to be opened: see `Output::Connect`.
pub(super) struct Opening {
    pub(super) point: PointId,
    pub(super) transport: Transport,
    pub(super) to: SocketAddr,
    pub(super) side: Side,
    pub(super) tls: Option<Box<TlsPeer>>,
}

/// What bounds the reads of a connection in a turn, besides its own bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Nothing.
    Free,
    /// The steps of all handshakes but those with servers, which all calls wait for.
    Handshakes,
    /// The reads of all who send more than one takes.
    Bulk,
}

pub(super) struct Conn<S> {
    /// The engine's name for it; free again while it is leaving.
    pub(super) id: ConnId,
    pub(super) serial: u32,
    pub(super) peer: SocketAddr,
    pub(super) side: Side,
    /// The one side that the port which it was accepted on serves; `None` for both.
    pub(super) listens_for: Option<Side>,
    pub(super) outbound: bool,
    /// Of the peer that we connect to.
    pub(super) setup: Option<SetupId>,
    pub(super) phase: Phase,
    pub(super) stream: Stream<S>,
    pub(super) flush_queued: bool,
    /// The last read filled the buffer: more waits, and further reads are of those that are bounded for each pass.
    pub(super) is_bulky: bool,
    /// The connection waits in one of the core's queues to be read on.
    pub(super) is_put_down: bool,
    /// The engine has been told that the peer says nothing more.
    pub(super) half_closed: bool,
    /// The system has told that there is an end to find, which is read up to.
    pub(super) ends: bool,
    /// The peer's FIN was read. The socket shows it to every read from then on.
    pub(super) fin_seen: bool,
    /// The peer has sent something.
    pub(super) has_said: bool,
    /// See [`super::progress`].
    pub(super) watched: bool,
}

impl<S> Conn<S> {
    /// Whether this is the connection of that name, and not a later one in its slot.
    pub(super) fn is(&self, key: Key) -> bool {
        self.serial == key.serial
    }

    /// What its next read counts for. All calls go through a server's connection, however many phones send too much.
    pub(super) fn share(&self) -> Share {
        let is_ours = self.outbound && self.side == Side::Server;
        if self.phase == Phase::Handshaking && !is_ours {
            Share::Handshakes
        } else if self.is_bulky && self.side == Side::Endpoint {
            Share::Bulk
        } else {
            Share::Free
        }
    }

    /// Whether its first message was answered: half of the handshake's work is done.
    pub(super) fn is_answered(&self) -> bool {
        self.stream.session.as_ref().is_some_and(|session| session.agreed().is_some())
    }

    /// What may wait to be sent: a server is trusted with more than a peer whom anybody can play.
    pub(super) fn send_queue_len_max(&self) -> usize {
        if self.outbound && self.side == Side::Server { SERVER_SEND_QUEUE_LEN_MAX } else { SEND_QUEUE_LEN_MAX }
    }
}

/// A connection that the engine has not heard of.
#[derive(Debug)]
pub(super) struct Arrival<S> {
    pub(super) point: PointId,
    pub(super) socket: S,
    /// Whose it is: who has opened it, or the address in its PROXY header.
    pub(super) peer: SocketAddr,
    /// See [`crate::engine::Accept`].
    pub(super) is_forwarded: bool,
}
