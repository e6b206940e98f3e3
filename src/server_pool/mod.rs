//! Which server of each pair gets the requests.
//!
//! Owns: the state of the pairs as one shard decides it ([`Pool`]), and as the others act on it ([`View`]). Must not
//! touch: sockets, clocks, messages. One shard, the first, owns the verdict; the others send it evidence by mail and
//! are sent the view.

mod event;
mod health;
mod pair;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;

use crate::clock::Time;

pub use event::{Event, Line};
pub use health::{MemberSettings, Output, PairSettings, PinFault, PingId, Pong, Pool, Settings};

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

    /// As the settings and the control port name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }

    /// The member's place in `PairView::members`.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is held for or against a server. Counted and shown by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Nothing has been heard yet.
    #[default]
    Start,
    /// A 2xx to our OPTIONS; from a shard any answer to a request, which counts only without service checks.
    Answered,
    /// A request of its own other than OPTIONS.
    Request,
    /// The server took a call that its partner would not.
    TookCall,
    /// An operator's pin.
    Pinned,
    /// Another final response than 2xx to our OPTIONS, with its code; from a shard: a 503 to a request.
    Status(u16),
    /// No answer to our OPTIONS in time.
    Silent,
    /// The server's connection was reset.
    Reset,
    /// The server refused a connection, or ICMP says that nobody listens.
    Refused,
    /// No route to it.
    Unreachable,
    /// The connection could not be opened in time.
    ConnectTimeout,
    /// The server's certificate was refused, or the handshake failed.
    Tls,
    /// The server's name does not resolve.
    Dns,
    /// The server was taken to be down, and is to be tried again: there are no service checks (`oos-check = 0`).
    Retry,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "nothing heard yet",
            Self::Answered => "it answers",
            Self::Request => "it sent a request",
            Self::TookCall => "it took a call that the other one would not",
            Self::Pinned => "pinned by an operator",
            Self::Status(code) => return write!(f, "status {code}"),
            Self::Silent => "no answer in time",
            Self::Reset => "connection reset",
            Self::Refused => "connection refused",
            Self::Unreachable => "no route to it",
            Self::ConnectTimeout => "no connection in time",
            Self::Tls => "TLS handshake failed",
            Self::Dns => "its name does not resolve",
            Self::Retry => "to be tried again",
        })
    }
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
    /// Since when neither server answers; `None` while one does. It ends with a sign of life, not with a new address.
    pub outage: Option<Time>,
    /// One of them has been heard of, or nothing is checked. Until then what is held against the active one is no
    /// reason to keep requests from it (DESIGN.md, Health): it may only be late, or answer no OPTIONS.
    pub heard: bool,
    /// Primary and backup.
    pub members: [MemberView; 2],
}

impl PairView {
    /// Who may get requests, in this order: the active one, and its partner while that one does not answer; but what
    /// an operator has pinned stands alone.
    pub fn serving(&self) -> impl Iterator<Item = Member> + use<> {
        let partner = (!self.pinned).then_some(self.active.other());
        std::iter::once(self.active).chain(partner)
    }

    /// One of its servers.
    #[must_use]
    pub fn member(&self, member: Member) -> &MemberView {
        &self.members[member.index()]
    }
}

/// One server of a pair: an address, or what its name resolves to.
#[derive(Clone, Debug, Default)]
pub struct MemberView {
    /// Empty when there is none, or its name does not resolve.
    pub targets: Vec<TargetView>,
    /// [`Evidence::Dns`] when its name does not resolve; what its targets say is with them.
    pub why: Evidence,
    /// Since when that is so.
    pub since: Time,
}

impl MemberView {
    /// Whether one of its targets answers, as far as is known.
    #[must_use]
    pub fn up(&self) -> bool {
        self.targets.iter().any(|target| target.up)
    }

    /// What was last heard: of a target that answers if there is one.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let answering = self.targets.iter().find(|target| target.up);
        answering.or_else(|| self.targets.iter().max_by_key(|target| target.since)).map_or(self.why, |t| t.why)
    }

    /// An address to name it by: of a target that answers if there is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let answering = self.targets.iter().find(|target| target.up);
        answering.or_else(|| self.targets.first()).map(|target| target.address)
    }
}

/// One address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
