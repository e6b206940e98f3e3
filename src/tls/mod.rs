//! TLS by rustls: what a session does with bytes, whom it trusts, and what it is made from.
//!
//! Owns: [`session`], which turns records into text and back with buffers that the shard lends it; [`setup`], which
//! reads certificates, keys and CAs ([`pem`]); [`trust`] and [`identity`], which verify a peer; [`failure`],
//! which says why a handshake failed. Must not touch: sockets, SIP, the engine's state.

pub mod failure;
pub mod identity;
pub mod pem;
pub mod session;
pub mod setup;
#[cfg(test)]
mod tests;
pub mod trust;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

/// What the shards of a process make sessions with.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// For accepted connections; `None` when no point listens for TLS.
    pub accept: Option<Arc<ServerConfig>>,
    /// For connections to the SIP Server; `None` when the internal protocol is not TLS.
    pub server: Option<Outbound>,
}

/// What a connection to one peer is opened with. The name is for SNI; what the certificate must carry is
/// known to the verifier inside the configuration.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Trust, own certificate, versions.
    pub config: Arc<ClientConfig>,
    /// The name that is asked for.
    pub name: ServerName<'static>,
}
