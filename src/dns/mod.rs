//! Where a name's servers are: RFC 3263 over the system's resolvers.
//!
//! Owns: what is asked and found ([`Question`], [`Target`], [`NextHop`], [`Failure`]), and [`Dns`], the state machine
//! with its cache. Must not touch: sockets (but for `socket`, which the shell uses), clocks, what a SIP message says.
//! One of them belongs to each shard's engine; nothing is shared.
//!
//! Names that only an endpoint supplied are never asked for: that is the engine's duty.
//!
//! ```text
//!   ask(question) --> known? ------------------------------------------> the targets, at once
//!                       | no
//!                     walk: which record sets are missing? <------+
//!                       | none: Output::Found to each waiter      |
//!                     exchange: one question, over the resolvers  |
//!                       | Output::Send, Input::Answer             |
//!                     cache: the record set, or that there is none
//! ```
//!
//! `walk` is a function of the cache: it takes RFC 3263 from its beginning each time that a record set has come, and
//! says what is still missing or what the servers are. So there is no half-done state to keep, and whatever is known
//! already, of whichever name, is never asked for twice.
//!
//! RFC 3263 §4 (all but the SIP parts, which are the engine's), RFC 2782, RFC 2308, RFC 3403 as RFC 3263 uses it,
//! RFC 8767 (expired records), RFC 6891 (1,232 bytes), RFC 5452 (random ids and ports), RFC 6761 §6.3 (localhost).
//!
//! Left out on purpose: addresses of the additional section, which are asked for instead (RFC 2181 §5.4.1: they are
//! the least to be trusted); search lists and /etc/hosts (an operator's server names are whole names); mixed case in
//! questions, which some resolvers do not echo; DNSSEC, which is the resolver's work.

mod cache;
mod exchange;
mod order;
mod plan;
pub mod socket;
#[cfg(test)]
mod tests;
mod walk;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::engine::DnsSettings as Settings;
pub use plan::Dns;

use crate::ids::Transport;

/// A host to be found, with what is known of how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The host name, in lower case, without a dot at its end. Never an address.
    pub host: Box<str>,
    /// An explicit port: then no SRV record is asked for (RFC 3263 §4.2).
    pub port: Option<u16>,
    /// An explicit transport: then no NAPTR record is asked for (RFC 3263 §4.1). `None`: NAPTR, then SRV of each
    /// transport, then addresses for UDP (TLS when `secure`).
    pub transport: Option<Transport>,
    /// Only TLS will do: a `sips:` URI.
    pub secure: bool,
}

/// One server of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How it is reached.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// The lowest first (RFC 2782). Addresses without SRV have 0.
    pub priority: u16,
    /// The target's share among those of its priority. Several addresses of one SRV target have its weight each.
    pub weight: u16,
}

/// Where a request is sent: what RFC 3263 §4 makes of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// How.
    pub transport: Transport,
    /// The address and port.
    pub address: SocketAddr,
}

impl From<&Target> for NextHop {
    fn from(target: &Target) -> Self {
        Self { transport: target.transport, address: target.address }
    }
}

/// Why a name has no servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, and has no record that would do.
    NoRecords,
    /// No resolver has answered in time, and nothing stale is left.
    Unanswered,
    /// A bound was reached: a chain of CNAMEs, records, or questions in the air.
    Bound,
}

/// A name's servers, never none, or why there are none.
pub type Answer = Result<Arc<[Target]>, Failure>;

/// What goes in. An exchange that has ended is ignored.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A datagram, or a whole message over TCP without its length, came in on an exchange's socket.
    Answer {
        /// As in [`Output::Send`].
        exchange: u32,
        /// Whom it came from.
        from: SocketAddr,
        /// The message.
        bytes: &'a [u8],
    },
    /// An exchange's socket could not be opened, or has failed. It is closed; no [`Output::Done`] follows.
    Failed {
        /// As in [`Output::Send`].
        exchange: u32,
    },
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Open a socket of its own for this exchange, connected to the resolver from a port of the system's choice, send
    /// this, and report what comes in until [`Output::Done`].
    Send {
        /// Names the socket.
        exchange: u32,
        /// The resolver.
        to: SocketAddr,
        /// Over TCP, with the length before it (RFC 1035 §4.2.2); else as one datagram.
        tcp: bool,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Close the exchange's socket.
    Done {
        /// As in [`Output::Send`].
        exchange: u32,
    },
    /// To whoever asked with this number. For the engine, never for the shell.
    Found {
        /// As given to [`Dns::ask`].
        waiter: u64,
        /// What came of it.
        answer: Answer,
    },
}

/// What is known of a name, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRow {
    /// The name and how it was asked for.
    pub question: Question,
    /// See [`NameState`].
    pub state: NameState,
    /// For how long its answer has been what it is; zero while the first one is waited for.
    pub age: Duration,
    /// Until it is asked for again; zero when it is asked for now or when the next request comes.
    pub expires_in: Duration,
    /// The servers that requests are given, or why they are given none. `None` while the first answer is waited for.
    pub answer: Option<Answer>,
    /// Requests that wait for it.
    pub waiters: usize,
}

/// How a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameState {
    /// The name's servers are known.
    Fresh,
    /// The name's records have expired, and no resolver answers.
    Stale,
    /// The name has no servers.
    Negative,
    /// The name is being asked for.
    Asking,
    /// What was known has expired, and nobody has asked since.
    Expired,
}
