//! From settings and files to what sessions are made with (RFC 9325).
//!
//! TLS 1.2 and 1.3; the suites of rustls' ring provider, all with forward secrecy and AEAD; no SHA-1, RSA from 2,048
//! bits. Session tickets are stateless and work on every shard; with `tls-mutual = 1` there are none.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{KeyLog, ServerConfig};

use super::certificate::{Certificate, SniResolver};
use super::connect::{Connect, VERSIONS};
use super::error::TlsError;
use super::identity::Expected;
use super::inventory::{Files, Inventory};
use super::key_log::KeyLogs;
use super::peers::Peers;
use super::store::{Store, Whose};
use super::tickets::{TicketSecrets, Ticketer};
use super::trust::{self, ClientCheck, PeerTrust, Trust};
use super::{SideTls, Tls};
use crate::config::{ClientEku, Config, PeerProxy, Server, SideSecurity};
use crate::ids::{Side, Transport};

/// SIP over TLS in the registry of RFC 7301.
const ALPN: &[u8] = b"sip/2";

/// Reads every file that the settings name and makes what the shards need. Says beside it what there was. The keys of
/// sessions go to `key_logs`.
///
/// # Errors
/// The first fault that is found.
pub fn set_up(config: &Config, tickets: &TicketSecrets, key_logs: &KeyLogs) -> Result<(Tls, Inventory), TlsError> {
    let mut store = Store::default();
    let mut parts = |side| Parts::read(config, side, (tickets, key_logs), &mut store);
    let (endpoint, server) = (parts(Side::Endpoint)?, parts(Side::Server)?);
    let peers = Peers::read(config, key_logs, &mut store)?;
    for server in config.servers.iter().filter(|server| server.transport == Transport::Tls) {
        for target in [Some(&server.primary), server.backup.as_ref()].into_iter().flatten() {
            trust::server_name(&server.tls_peer(target).expected).map_err(TlsError::BadName)?;
        }
    }
    let proxies = config.peers.iter().filter(|peer| peer.protocol == Transport::Tls);
    let named = config.devices.iter().filter_map(|device| device.tls_name.as_ref());
    let others = proxies.map(PeerProxy::tls_peer).map(|peer| peer.expected);
    for expected in others.chain(named.map(|name| Expected::of(None, name))) {
        trust::server_name(&expected).map_err(TlsError::BadName)?;
    }
    let (ends, servers) = (config.security.side(Side::Endpoint), config.security.side(Side::Server));
    let same_trust = ends.trust() == servers.trust() && ends.client_eku == servers.client_eku;
    let servers_trust = server.trusted().filter(|_| !same_trust);
    let mut of_endpoint = endpoint.side(peers.peer_trusts(Some(Side::Endpoint)))?;
    if servers_trust.is_some() && config.listeners.iter().any(|listener| listener.side.is_none()) {
        of_endpoint.files.servers_ca.clone_from(&servers.trusted_ca);
    }
    Ok((
        Tls {
            accept_both: endpoint.accept(servers_trust.clone(), peers.peer_trusts(None))?,
            endpoint: of_endpoint,
            server: server.side(peers.peer_trusts(Some(Side::Server)))?,
            servers_trust,
            peers,
        },
        store.inventory,
    ))
}

/// What the files of one side hold.
struct Parts<'a> {
    security: &'a SideSecurity,
    ticket_secret: &'a [u8; 32],
    key_log: Arc<dyn KeyLog>,
    certificate: Option<Certificate>,
    by_domain: HashMap<String, Arc<CertifiedKey>>,
    trust: Option<Arc<Trust>>,
}

impl<'a> Parts<'a> {
    fn read(
        config: &'a Config,
        side: Side,
        (tickets, key_logs): (&'a TicketSecrets, &KeyLogs),
        store: &mut Store,
    ) -> Result<Self, TlsError> {
        let security = config.security.side(side);
        let certificate = match (&security.certificate, &security.certificate_key) {
            (Some(path), Some(key_path)) => {
                Some(store.certificate(Whose { side, peer: None, domain: None }, path, key_path)?)
            }
            _ => None,
        };
        let mut by_domain = HashMap::new();
        for sni in &config.security.sni {
            let domain = sni.domain.to_string();
            let whose = Whose { side, peer: None, domain: Some(&domain) };
            let certificate = store.certificate(whose, &sni.certificate, &sni.certificate_key)?;
            by_domain.insert(domain, certificate.key);
        }
        let trust = store.trust(&security.trust())?;
        let by_side = |server: &Server| server.transport == Transport::Tls && server.setup.is_none();
        if side == Side::Server && config.servers.iter().any(by_side) && trust.is_none() {
            return Err(TlsError::NoTrust("the SIP Server is reached over TLS"));
        }
        if security.tls_mutual && certificate.is_some() && trust.is_none() {
            return Err(TlsError::NoTrust("tls-mutual is 1"));
        }
        let ticket_secret = match side {
            Side::Server => &tickets.server,
            Side::Endpoint => &tickets.endpoint,
        };
        let key_log = key_logs.of(security.key_log_file.as_ref());
        Ok(Self { security, ticket_secret, key_log, certificate, by_domain, trust })
    }

    fn trusted(&self) -> Option<(Arc<Trust>, ClientEku)> {
        self.trust.clone().map(|trust| (trust, self.security.client_eku))
    }

    fn side(&self, peer_trusts: Vec<Arc<PeerTrust>>) -> Result<SideTls, TlsError> {
        let connect = self
            .trust
            .as_ref()
            .map(|trust| Connect::new(trust, self.certificate.as_ref(), &self.key_log))
            .transpose()?;
        let files = Files {
            certificate: self.security.certificate.clone(),
            domains: !self.by_domain.is_empty(),
            trusted_ca: self.security.trusted_ca.clone(),
            system_roots: self.security.system_roots,
            servers_ca: None,
        };
        Ok(SideTls { accept: self.accept(None, peer_trusts)?, connect, trusted: self.trusted(), files })
    }

    /// What accepted connections are made with; `None` without a certificate. Clients that this side does not know
    /// may be known to `others`, and peers to `peer_trusts`.
    fn accept(
        &self,
        others: Option<(Arc<Trust>, ClientEku)>,
        peer_trusts: Vec<Arc<PeerTrust>>,
    ) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        let Some(certificate) = &self.certificate else { return Ok(None) };
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::Provider)?;
        let shown = SniResolver { default: certificate.key.clone(), by_domain: self.by_domain.clone() };
        let mutual = self.trusted().filter(|_| self.security.tls_mutual);
        let is_mutual = mutual.is_some();
        let builder = match mutual {
            Some(trusted) => {
                builder.with_client_cert_verifier(Arc::new(ClientCheck::new(trusted, others, peer_trusts)))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        // rustls picks it when it is offered, and refuses a list without it.
        config.alpn_protocols = vec![ALPN.to_vec()];
        // All suites are strong; scanners ask for an order all the same.
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.key_log = self.key_log.clone();
        // A session that is taken up again shows no certificate, so that dates, lists and CAs could not be checked
        // again: under tls-mutual none is.
        if is_mutual {
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Arc::new(Ticketer::new(self.ticket_secret, self.security.ticket_key_hours));
            config.send_tls13_tickets = 1;
        }
        Ok(Some(Arc::new(config)))
    }
}
