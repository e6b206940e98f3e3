//! Which server of each pair gets the requests.
//!
//! Owns: the state of the pairs as one shard decides it, and as the others act on it ([`View`]). Must not touch:
//! sockets, clocks, messages. One shard, the first, owns the verdict; the others send it evidence by mail and are
//! sent the view.

use std::net::SocketAddr;

use crate::clock::Time;

/// One of the two servers of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// `primary`.
    Primary,
    /// `backup`.
    Backup,
}

impl Member {
    /// The partner.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }
}

/// What is held for or against a server. Counted and shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Nothing has been heard yet.
    Start,
    /// A 2xx to our OPTIONS.
    Answered,
    /// A request of its own other than OPTIONS.
    Request,
    /// An operator's pin.
    Pinned,
    /// Another final response than 2xx to our OPTIONS, with its code.
    Status(u16),
    /// No answer to our OPTIONS in time.
    Silent,
    /// Its connection was reset.
    Reset,
    /// It refused a connection, or ICMP says that nobody listens.
    Refused,
    /// No route to it.
    Unreachable,
    /// The connection could not be opened in time.
    ConnectTimeout,
    /// Its certificate was refused, or the handshake failed.
    Tls,
    /// Its name does not resolve.
    Dns,
}

/// The pairs, as every shard sees them.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// In the order of the settings.
    pub pairs: Vec<PairView>,
}

/// One pair.
#[derive(Clone, Debug)]
pub struct PairView {
    /// Who gets the requests.
    pub active: Member,
    /// Since when, and why.
    pub since: Time,
    #[allow(missing_docs, reason = "see since")]
    pub why: Evidence,
    /// An operator wants it so.
    pub pinned: bool,
    /// Primary and backup.
    pub members: [MemberView; 2],
}

/// One server of a pair: an address, or what its name resolves to.
#[derive(Clone, Debug, Default)]
pub struct MemberView {
    /// Empty when there is none, or its name does not resolve.
    pub targets: Vec<TargetView>,
}

/// One address of a server.
#[derive(Clone, Copy, Debug)]
pub struct TargetView {
    /// Where it is.
    pub address: SocketAddr,
    /// RFC 2782; 0 for an address of the settings.
    pub priority: u16,
    /// RFC 2782.
    pub weight: u16,
    /// Whether it answers, as far as is known.
    pub up: bool,
    /// Since when that is so.
    pub since: Time,
    /// What was last heard of it.
    pub why: Evidence,
}
