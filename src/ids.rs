//! Newtypes for everything that is counted, indexed or named, so that one cannot be taken for another.

use std::fmt;
use std::net::SocketAddr;

/// One executor, pinned to one core. At most 255 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u8);

/// A local listening point: an address, port and transport that Hawser is bound to and advertises.
/// Index into `engine::Settings::points`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointId(pub u8);

/// TLS towards peers for whom the settings say something else than for their side. Index into
/// `config::Security::peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetupId(pub u16);

/// A stream connection of one shard: a slot and its generation, so that a slot that is used again is
/// never taken for the connection that held it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index into the shard's connection table.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// A transport protocol as SIP names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// SIP over UDP.
    Udp,
    /// SIP over TCP.
    Tcp,
    /// SIP over TLS over TCP.
    Tls,
}

impl Transport {
    /// As written in a Via (RFC 3261 §20.42).
    #[must_use]
    pub fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// As written in a `transport` URI parameter (RFC 3261 §19.1.1).
    #[must_use]
    pub fn param_name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether it is reliable, so that timers A, E, G, I, J, K and D do not run (RFC 3261 §17).
    #[must_use]
    pub fn is_stream(self) -> bool {
        self != Self::Udp
    }

    /// 5060, or 5061 for TLS.
    #[must_use]
    pub fn default_port(self) -> u16 {
        if self == Self::Tls { 5061 } else { 5060 }
    }
}

/// Which side of the proxy a message came from or goes to (DESIGN.md, Words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// A known SIP Server.
    Server,
    /// Everything else.
    Endpoint,
}

/// One way to a peer, named so that any shard can use it: a connection with the shard that owns it, or
/// for UDP a remote address with the local socket (RFC 5626 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowRef {
    /// A TCP or TLS connection.
    Stream {
        /// The shard that holds the connection.
        shard: ShardId,
        /// The connection in that shard.
        conn: ConnId,
        /// The local listening point that its messages leave from: Via, Record-Route, transport.
        point: PointId,
    },
    /// A UDP flow. Any shard can send on it.
    Udp {
        /// The shard where its datagrams land.
        shard: ShardId,
        /// The local socket.
        point: PointId,
        /// The remote address and port.
        remote: SocketAddr,
    },
}

impl FlowRef {
    /// The owner shard.
    #[must_use]
    pub fn shard(self) -> ShardId {
        match self {
            Self::Stream { shard, .. } | Self::Udp { shard, .. } => shard,
        }
    }

    /// The local listening point.
    #[must_use]
    pub fn point(self) -> PointId {
        match self {
            Self::Stream { point, .. } | Self::Udp { point, .. } => point,
        }
    }

    /// Whether it is a connection.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Whether two names mean the same flow: a connection is known by its shard and slot alone, a UDP flow by its
    /// socket and remote address, wherever its datagrams land.
    #[must_use]
    pub fn is_same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Stream { shard, conn, .. }, Self::Stream { shard: shard_b, conn: conn_b, .. }) => {
                (shard, conn) == (shard_b, conn_b)
            }
            (Self::Udp { point, remote, .. }, Self::Udp { point: point_b, remote: remote_b, .. }) => {
                (point, remote) == (point_b, remote_b)
            }
            _ => false,
        }
    }
}

/// The name of a binding in tokens and mails: keyed hashes, so that nobody outside can make one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingId {
    /// Keyed hash of the AOR's user part; names the home shard by its remainder.
    pub user: u16,
    /// Keyed hash of AOR and instance-id and reg-id, or of AOR and the Call-ID of the first REGISTER.
    pub hash: u64,
}

impl fmt::Debug for BindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}.{:016x}", self.user, self.hash)
    }
}

impl BindingId {
    /// The shard that is the only writer of this binding's part of the directory.
    #[must_use]
    pub fn home(self, shards: u8) -> ShardId {
        // A remainder of a u8 fits a u8.
        ShardId(u8::try_from(self.user % u16::from(shards.max(1))).unwrap_or(0))
    }
}
