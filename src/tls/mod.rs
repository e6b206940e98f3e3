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

use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use crate::config::Verify;
use crate::ids::Side;
use identity::TlsPeer;
use session::Session;

/// What the shards of a process make sessions with.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    server: SideTls,
    endpoint: SideTls,
}

/// What sessions of one side are made with.
#[derive(Clone, Debug, Default)]
struct SideTls {
    /// `None` without a certificate of ours.
    accept: Option<Arc<ServerConfig>>,
    /// `None` when no CA is trusted.
    connect: Option<Connect>,
}

/// One configuration serves all names: whom a connection must find is given with each.
#[derive(Clone, Debug)]
struct Connect {
    by_name: Arc<ClientConfig>,
    by_chain: Arc<ClientConfig>,
}

/// Why a session cannot be begun.
#[derive(Debug)]
pub enum BeginError {
    /// No certificate of ours is set for the side that the port serves.
    NoCertificate(Side),
    /// Nothing says which CAs to trust on this side.
    NoTrust(Side),
    /// The name that is expected is none that TLS can ask for.
    BadName(String),
    /// rustls refuses the configuration.
    Rustls(rustls::Error),
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate(side) => write!(f, "no certificate is set for {}", table(*side)),
            Self::NoTrust(side) => write!(f, "no CA is trusted: set trusted-ca or system-roots for {}", table(*side)),
            Self::BadName(name) => write!(f, "{name:?} is no name that TLS can ask for"),
            Self::Rustls(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for BeginError {}

fn table(side: Side) -> &'static str {
    match side {
        Side::Server => "[security.server]",
        Side::Endpoint => "[security.endpoint]",
    }
}

impl Tls {
    fn side(&self, side: Side) -> &SideTls {
        match side {
            Side::Server => &self.server,
            Side::Endpoint => &self.endpoint,
        }
    }

    /// What accepted connections are made with on a port that serves `side`. A port for both shows the endpoint
    /// side's certificate: who calls is known only later.
    #[must_use]
    pub fn acceptor(&self, side: Option<Side>) -> Option<&Arc<ServerConfig>> {
        self.side(side.unwrap_or(Side::Endpoint)).accept.as_ref()
    }

    /// A session for a connection that was accepted on a port that serves `side`; `None` for both.
    ///
    /// # Errors
    /// There is no certificate.
    pub fn accept(&self, side: Option<Side>) -> Result<Session, BeginError> {
        let config = self.acceptor(side).ok_or(BeginError::NoCertificate(side.unwrap_or(Side::Endpoint)))?;
        Session::accept(config.clone()).map_err(BeginError::Rustls)
    }

    /// A session for a connection that we open to `peer`.
    ///
    /// # Errors
    /// Nobody is trusted on its side, or its name is none.
    pub fn connect(&self, peer: &TlsPeer) -> Result<Session, BeginError> {
        let connect = self.side(peer.side).connect.as_ref().ok_or(BeginError::NoTrust(peer.side))?;
        let config = match peer.verify {
            Verify::Name => &connect.by_name,
            Verify::Chain => &connect.by_chain,
        };
        let name = trust::server_name(&peer.expected).map_err(BeginError::BadName)?;
        Session::connect(config.clone(), name).map_err(BeginError::Rustls)
    }
}
