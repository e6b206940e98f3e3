//! Who a shard talks to by name: pairs and their servers, connections to servers, peers and devices, DNS names.
//!
//! Owns: plain data for showing. The engine fills it in for a snapshot; `admin` prints it. Their labels are not known
//! when the program is built, so they cannot be rows of the table. Times are ages, for who reads them has another
//! clock.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ids::Transport;

/// What one shard has to show.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The pairs: in the snapshot of their owner, the first shard.
    pub pairs: Vec<PairRow>,
    /// This shard's own connections to servers and peers, and those that it waits to open again; and of those to devices
    /// some, for there may be very many.
    pub links: Vec<LinkRow>,
    /// How many connections to devices there are, in the order of [`LinkState::ALL`].
    pub devices: [u64; LinkState::ALL.len()],
    /// Every other site's proxy, as this shard has found it.
    pub peers: Vec<PeerRow>,
    /// The names that this shard has asked for.
    pub names: Vec<NameRow>,
}

/// A pair of SIP Servers.
#[derive(Clone, Debug)]
pub struct PairRow {
    /// As in the settings.
    pub name: String,
    /// `primary` or `backup`: who gets the requests.
    pub active: &'static str,
    /// For how long.
    pub age: Duration,
    /// Why that one.
    pub why: String,
    /// An operator wants it so.
    pub pinned: bool,
    /// For how long neither server has answered; `None` while one does.
    pub outage: Option<Duration>,
    /// Each address of both.
    pub servers: Vec<ServerRow>,
}

/// One address of a server.
#[derive(Clone, Debug)]
pub struct ServerRow {
    /// `primary` or `backup`.
    pub member: &'static str,
    /// `None`: its name does not resolve.
    pub address: Option<SocketAddr>,
    /// RFC 2782; 0 for an address of the settings.
    pub priority: u16,
    /// RFC 2782.
    pub weight: u16,
    /// Whether it answers, as far as is known.
    pub up: bool,
    /// For how long that has been so.
    pub age: Duration,
    /// What was last heard of it.
    pub why: String,
}

/// Another site's proxy.
#[derive(Clone, Debug)]
pub struct PeerRow {
    /// As in the settings.
    pub name: String,
    /// Whether it was there when it was last wanted; `None` when this shard has not wanted it yet, or over UDP as long
    /// as nothing was held against it.
    pub up: Option<bool>,
    /// For how long.
    pub age: Duration,
    /// Why it is not there; else empty.
    pub why: String,
}

/// Whom a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkKind {
    /// A SIP Server.
    Server,
    /// Another site's proxy.
    Peer,
    /// An endpoint that does not register.
    Device,
}

impl LinkKind {
    /// As shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Device => "device",
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// The connection is being opened.
    Connecting,
    /// Messages can pass.
    Open,
    /// The connection could not be opened, and is not tried again yet.
    BackingOff,
    /// The connection was closed, and is opened again when it is needed.
    Closed,
}

impl LinkState {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Connecting, Self::Open, Self::BackingOff, Self::Closed];

    /// As shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::BackingOff => "backing off",
            Self::Closed => "closed",
        }
    }
}

/// A connection to a server, a peer or a device.
#[derive(Clone, Debug)]
pub struct LinkRow {
    #[allow(missing_docs, reason = "see LinkKind")]
    pub kind: LinkKind,
    /// The pair's or the peer's name in the settings; empty for a device.
    pub name: String,
    /// The target's address and port.
    pub address: SocketAddr,
    #[allow(missing_docs, reason = "see Transport")]
    pub transport: Transport,
    #[allow(missing_docs, reason = "see LinkState")]
    pub state: LinkState,
    /// For how long.
    pub age: Duration,
    /// Why the last one to there ended; empty when none did.
    pub why: String,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameState {
    /// The name is being asked for.
    Asking,
    /// The name's servers are known.
    Fresh,
    /// The name's records have expired, and serve while no resolver answers.
    Stale,
    /// The name has no servers.
    Negative,
    /// What was known has expired, and nobody has asked since.
    Expired,
}

impl NameState {
    /// As shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Negative => "negative",
            Self::Expired => "expired",
        }
    }
}

/// A DNS name.
#[derive(Clone, Debug)]
pub struct NameRow {
    /// The host, with `:port` when it was asked for with one.
    pub name: String,
    /// Empty when it was left to the name's records.
    pub transport: &'static str,
    #[allow(missing_docs, reason = "see NameState")]
    pub state: NameState,
    /// For how long what it leads to, or that it leads nowhere, has been so.
    pub age: Duration,
    /// Until it is asked for again; zero when that is with the next request.
    pub expires_in: Duration,
    /// What it leads to.
    pub targets: Vec<SocketAddr>,
    /// Why it leads nowhere; else empty.
    pub why: String,
    /// Requests that wait for it.
    pub waiting: usize,
}
