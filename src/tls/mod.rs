//! TLS by rustls: what a session does with bytes, whom it trusts, and what it is made from.
//!
//! Owns: [`session`], which turns records into text and back with buffers that the shard lends it; [`setup`], which
//! reads our certificates ([`certificate`]), CAs and revocation lists ([`authorities`]) from files ([`mod@file`],
//! [`pem`], [`store`]), for each side and for single peers ([`peers`], [`connect`]); [`trust`] and [`identity`], which verify a peer;
//! [`tickets`], by which sessions are taken up again; [`failure`] and [`hello`], which say why a handshake failed;
//! [`key_log`], for those who have to read a capture. Must not touch: sockets, SIP, the engine's state.

mod authorities;
mod certificate;
mod connect;
pub mod error;
pub mod failure;
pub mod file;
pub mod hello;
pub mod identity;
pub mod inventory;
pub mod key_log;
mod peers;
pub mod pem;
pub mod session;
pub mod setup;
mod store;
#[cfg(test)]
mod tests;
pub mod tickets;
pub mod trust;

pub use certificate::CurrentCertificate;

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::config::{ClientEku, Verify};
use crate::ids::{SetupId, Side};
use connect::Connect;
use identity::{Identities, TlsPeer};
use inventory::Files;
use peers::Peers;
use session::Session;
use trust::Trust;

/// What the shards of a process make sessions with.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    server: SideTls,
    endpoint: SideTls,
    /// For ports that serve both sides. Such a port shows the endpoint side's certificate: who calls is known only later.
    accept_both: Option<Arc<ServerConfig>>,
    /// What a client's certificate must chain to before it may name a server, when that is not what the endpoint
    /// side trusts anyway.
    servers_trust: Option<(Arc<Trust>, ClientEku)>,
    peers: Peers,
}

/// What sessions of one side are made with.
#[derive(Clone, Debug, Default)]
struct SideTls {
    /// `None` without a certificate of ours.
    accept: Option<Arc<ServerConfig>>,
    /// `None` when no CA is trusted.
    connect: Option<Connect>,
    /// What a client's certificate must chain to.
    trusted: Option<(Arc<Trust>, ClientEku)>,
    files: Files,
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

    /// What accepted connections are made with on a port that serves `side`; `None` for both.
    #[must_use]
    pub fn acceptor(&self, side: Option<Side>) -> Option<&Arc<ServerConfig>> {
        match side {
            Some(side) => self.side(side).accept.as_ref(),
            None => self.accept_both.as_ref(),
        }
    }

    /// The names of the certificate that the peer of a session which we have begun has shown and that was verified.
    #[must_use]
    pub fn identities(&self, session: &Session) -> Option<Identities> {
        // One that rustls has verified can be read.
        trust::identities(session.peer_certificates()?.first()?).ok()
    }

    /// The names of the client of a session that was accepted on a port that serves `side`, `None` for both; and whose
    /// CAs vouch for the certificate, as that decides whom it may name. `None` when it has shown none.
    #[must_use]
    pub fn identities_of_client(&self, session: &Session, side: Option<Side>) -> Option<Identities> {
        let mut identities = self.identities(session)?;
        let chain = session.peer_certificates()?;
        let trusts = |(trust, eku): &(Arc<Trust>, ClientEku)| trust.trusts_client(chain, *eku);
        identities.of_endpoint = self.servers_trust.as_ref().is_some_and(|trusted| !trusts(trusted));
        // Who names none of those with CAs of their own was let in by the CAs of a side.
        if let Some(peers) = self.peers.trusting(&identities, chain) {
            let mut sides =
                [Side::Endpoint, Side::Server].into_iter().filter(|one| side.is_none_or(|only| only == *one));
            identities.of_peers_only = !sides.any(|side| self.side(side).trusted.as_ref().is_some_and(trusts));
            identities.peers = peers;
        }
        Some(identities)
    }

    /// The files that count for a peer on a side.
    #[must_use]
    pub fn files(&self, side: Side, setup: Option<SetupId>) -> &Files {
        let own = setup.and_then(|setup| self.peers.setup(setup));
        own.map_or(&self.side(side).files, |own| &own.files)
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
        let connect = match peer.setup {
            Some(setup) => self.peers.setup(setup).and_then(|own| own.connect.as_ref()),
            None => self.side(peer.side).connect.as_ref(),
        };
        let connect = connect.ok_or(BeginError::NoTrust(peer.side))?;
        let config = match peer.verify {
            Verify::Name => &connect.by_name,
            Verify::Chain => &connect.by_chain,
        };
        let name = trust::server_name(&peer.expected).map_err(BeginError::BadName)?;
        Session::connect(config.clone(), name).map_err(BeginError::Rustls)
    }
}
