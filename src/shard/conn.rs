//! What a shard knows of each of its connections, by the name that its task has for it.

use std::net::SocketAddr;
use std::task::Waker;

use glommio::net::TcpStream;

use crate::engine::TlsPeer;
use crate::ids::{ConnId, PointId, SetupId, Side, Transport};
use crate::limits::{SEND_QUEUE_LEN_MAX, SERVER_SEND_QUEUE_LEN_MAX};
use crate::transport::stream::Stream;

/// A connection of this shard, as its task knows it: a slot that is used again has another serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: usize,
    pub(super) serial: u64,
}

impl Key {
    pub(super) fn index(self) -> usize {
        self.index
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

pub(super) struct Conn {
    /// The engine's name for it; free again while it is leaving.
    pub(super) id: ConnId,
    pub(super) serial: u64,
    pub(super) peer: SocketAddr,
    pub(super) side: Side,
    /// The one side that the port which it was accepted on serves; `None` for both.
    pub(super) listens_for: Option<Side>,
    pub(super) outbound: bool,
    /// Of the peer that we connect to.
    pub(super) setup: Option<SetupId>,
    pub(super) phase: Phase,
    pub(super) stream: Stream,
    /// Of its task.
    pub(super) waker: Option<Waker>,
    pub(super) flush_queued: bool,
    /// The last read filled the buffer: more waits, and further reads are of those that are bounded for each pass.
    pub(super) is_bulky: bool,
    /// The connection waits in one of the core's queues for its turn in a later pass.
    pub(super) is_deferred: bool,
    /// The engine has been told that the peer says nothing more.
    pub(super) half_closed: bool,
    /// The peer's FIN was read. The socket shows it to every read from then on.
    pub(super) fin_seen: bool,
    /// See [`super::progress`].
    pub(super) watched: bool,
}

impl Conn {
    /// Whether this is the connection of that name, and not a later one in its slot.
    pub(super) fn is(&self, key: Key) -> bool {
        self.serial == key.serial
    }

    /// What may wait to be sent: a server is trusted with more than a peer whom anybody can play.
    pub(super) fn send_queue_len_max(&self) -> usize {
        if self.outbound && self.side == Side::Server { SERVER_SEND_QUEUE_LEN_MAX } else { SEND_QUEUE_LEN_MAX }
    }

    pub(super) fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// A connection whose handshake is still to begin.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) point: PointId,
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
}
