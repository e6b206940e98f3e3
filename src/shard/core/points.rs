//! The points that a shard listens on, as it reads them.

use std::net::SocketAddr;

use crate::clock::Time;
use crate::ids::PointId;
use crate::transport::udp::{DatagramSocket, Outgoing};

/// A listener of this shard.
pub(super) struct Listening<S> {
    pub(super) point: PointId,
    /// Connections wait there, as far as is known.
    pub(super) waits: bool,
    /// The next connection, while nobody's handshake may begin: whoever comes behind it waits with it.
    pub(super) held: Option<(S, SocketAddr)>,
    /// No accept before that.
    pub(super) rests_until: Option<Time>,
}

impl<S> Listening<S> {
    /// With something waiting, for all that is known.
    pub(super) fn new(point: PointId) -> Self {
        Self { point, waits: true, held: None, rests_until: None }
    }
}

/// One UDP point.
pub(super) struct Point<D> {
    pub(super) id: PointId,
    pub(super) outgoing: Outgoing<D>,
    /// The last turn left something unread.
    pub(super) has_more: bool,
}

impl<D: DatagramSocket> Point<D> {
    /// With nothing read, for the socket may hold something already.
    pub(super) fn new(id: PointId, socket: D) -> Self {
        Self { id, outgoing: Outgoing::new(socket), has_more: true }
    }
}
