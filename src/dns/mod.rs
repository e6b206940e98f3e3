//! Where a name's servers are: RFC 3263 over the system's resolvers.
//!
//! Owns: what is asked and found ([`Question`], [`Target`]); `plan`, the state machine with its cache. Must not
//! touch: sockets, clocks, what a SIP message says. One of them belongs to each shard's engine; nothing is shared.
//!
//! Names that only an endpoint supplied are never asked for: that is the engine's duty.

use std::net::SocketAddr;

use crate::ids::Transport;

/// A host to be found, with what is known of how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Its share among those of its priority. Several addresses of one SRV target have its weight each.
    pub weight: u16,
}

/// Why a name has no servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not exist.
    NoSuchName,
    /// It exists, and has no record that would do.
    NoRecords,
    /// No resolver has answered in time, and nothing stale is left.
    Unanswered,
    /// A bound was reached: a chain of CNAMEs, records, or questions in the air.
    Bound,
}
