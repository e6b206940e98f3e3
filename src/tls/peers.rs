//! TLS towards single peers for whom the settings say something else than for their side: what we show them, and whose
//! certificates they may have.
//!
//! Owns: the set-ups of peers, and what such a peer's CAs count for when the peer opens the connection. They vouch for
//! that peer's names and for nobody else; and who has CAs of its own is vouched for by no other. Must not touch: who is
//! known by which name, which is for the pure code of [`crate::proxy`].
//!
//! Left out on purpose: connections that a device opens. What a rule says of devices holds for a network, and no
//! handshake knows whom of it to look for.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::connect::Connect;
use super::error::TlsError;
use super::identity::Identities;
use super::inventory::Files;
use super::key_log::KeyLogs;
use super::store::{Store, Whose};
use super::trust::PeerTrust;
use crate::config::{Config, PeerSetup, TlsPeer, Verify};
use crate::ids::{SetupId, Side};

/// What single peers have of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    /// By set-up.
    setups: Arc<[PeerTls]>,
    peer_trusts: Arc<[Arc<PeerTrust>]>,
}

/// One set-up.
#[derive(Debug)]
pub(super) struct PeerTls {
    /// `None` when no CA is trusted.
    pub(super) connect: Option<Connect>,
    pub(super) files: Files,
}

impl Peers {
    /// Reads the files of every set-up.
    ///
    /// # Errors
    /// One of them is of no use.
    pub(super) fn read(config: &Config, key_logs: &KeyLogs, store: &mut Store) -> Result<Self, TlsError> {
        let mut setups = Vec::with_capacity(config.security.peers.len());
        for (at, files) in config.security.peers.iter().enumerate() {
            // Whoever is the first to have it gives it a name.
            let whose = config.with_own_setup().find(|(_, _, setup)| usize::from(setup.id.0) == at);
            let (name, side) = whose.map_or((None, Side::Endpoint), |(name, side, _)| (Some(name), side));
            let certificate = match (&files.certificate, &files.certificate_key) {
                (Some(path), Some(key_path)) => {
                    let whose = Whose { side, peer: name.as_deref(), domain: None };
                    Some(store.certificate(whose, path, key_path)?)
                }
                _ => None,
            };
            let trust = store.trust(&files.trust)?;
            let key_log = key_logs.of(files.key_log_file.as_ref());
            let connect = trust.map(|trust| Connect::new(&trust, certificate.as_ref(), &key_log)).transpose()?;
            let files = Files {
                certificate: files.certificate.clone(),
                domains: false,
                trusted_ca: files.trust.trusted_ca.clone(),
                system_roots: files.trust.system_roots,
                servers_ca: None,
            };
            setups.push(PeerTls { connect, files });
        }
        Ok(Self { setups: setups.into(), peer_trusts: peer_trusts(config, store)?.into() })
    }

    /// A peer's own set-up.
    pub(super) fn setup(&self, id: SetupId) -> Option<&PeerTls> {
        self.setups.get(usize::from(id.0))
    }

    /// The CAs of peers that count on a port that serves `side`; `None` for both. On one for endpoints nobody is a
    /// server, so that a server's CAs have no say there.
    pub(super) fn peer_trusts(&self, side: Option<Side>) -> Vec<Arc<PeerTrust>> {
        let counts = |peer: &&Arc<PeerTrust>| peer.side == Side::Endpoint || side != Some(Side::Endpoint);
        self.peer_trusts.iter().filter(counts).cloned().collect()
    }

    /// Whose CAs vouch for a chain with these names. `None` when it names nobody who has CAs of its own.
    pub(super) fn trusting(
        &self,
        identities: &Identities,
        chain: &[CertificateDer<'_>],
    ) -> Option<Vec<(Side, SetupId)>> {
        let mut named = self.peer_trusts.iter().filter(|peer| peer.is_for(identities)).peekable();
        named.peek()?;
        let trusting = named.filter(|peer| peer.trust.trusts_client(chain, peer.eku));
        Some(trusting.map(|peer| (peer.side, peer.setup)).collect())
    }
}

fn peer_trusts(config: &Config, store: &mut Store) -> Result<Vec<Arc<PeerTrust>>, TlsError> {
    let servers = config.servers.iter().flat_map(|server| {
        let members = [Some(&server.primary), server.backup.as_ref()].into_iter().flatten();
        members.map(|member| (server.setup, server.tls_peer(member)))
    });
    let peers = config.peers.iter().map(|peer| (peer.setup, peer.tls_peer()));
    let mut all: Vec<PeerTrust> = Vec::new();
    for (setup, peer) in servers.chain(peers) {
        let Some(PeerSetup { id, own_trust: true }) = setup else { continue };
        let TlsPeer { side, expected, verify: Verify::Name, .. } = peer else { continue };
        if let Some(known) = all.iter_mut().find(|known| (known.side, known.setup) == (side, id)) {
            known.expected.push(expected);
            continue;
        }
        let Some(trust) = store.trust(&config.security.outbound(side, Some(id)).trust)? else { continue };
        let eku = config.security.side(side).client_eku;
        all.push(PeerTrust { side, setup: id, trust, eku, expected: vec![expected] });
    }
    Ok(all.into_iter().map(Arc::new).collect())
}
