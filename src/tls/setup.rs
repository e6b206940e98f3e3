//! From settings and files to what sessions are made with (RFC 9325).
//!
//! TLS 1.2 and 1.3; the suites of rustls' ring provider, all with forward secrecy and AEAD; no SHA-1, RSA from 2,048
//! bits. Session tickets are stateless and work on every shard; with `tls-mutual = 1` there are none.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, KeyLog, ServerConfig, SupportedProtocolVersion};

pub use super::authorities::{Authority, Crl};

use super::identity::Expected;
use super::key_log::KeyLogs;
use super::own::{Own, Shown};
use super::peers::{Peers, Voucher};
use super::pem::PemError;
use super::shelf::{Shelf, Whose};
use super::tickets::{TicketSecrets, Ticketer};
use super::trust::{self, ClientCheck, ServerCheck, Trust};
use super::{Connect, Files, SideTls, Tls};
use crate::config::{ClientEku, Config, PeerProxy, Server, SideSecurity, Verify};
use crate::ids::{Side, Transport};

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// SIP over TLS in the registry of RFC 7301.
const ALPN: &[u8] = b"sip/2";

/// Why TLS cannot be set up. Prints as one line that names the file.
#[derive(Debug)]
pub enum TlsError {
    /// A file is of no use.
    Pem(PemError),
    /// The key belongs to another certificate.
    Mismatch {
        #[allow(missing_docs, reason = "the setting of that name")]
        certificate: PathBuf,
        #[allow(missing_docs, reason = "the setting of that name")]
        key: PathBuf,
    },
    /// The certificate is not one that rustls takes.
    Unusable(PathBuf, Error),
    /// The key is damaged, or of a kind that rustls does not take.
    BadKey(PathBuf),
    /// A CA certificate is not one.
    BadCa(PathBuf),
    /// A revocation list is none, or of a kind that cannot be used.
    BadCrl(PathBuf, String),
    /// A revocation list in this name that is not signed by the CA of that name.
    ForeignCrl(PathBuf, String),
    /// Peers have to be verified for this reason, and nothing says which CAs to trust.
    NoTrust(&'static str),
    /// `system-roots` is on, and the system has none.
    NoSystemRoots,
    /// A name that can't be asked for.
    BadName(String),
    /// The file for the keys of sessions cannot be opened, or is not one for us alone.
    KeyLog(PathBuf, std::io::Error),
    /// rustls does not take its own provider.
    Provider(Error),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pem(fault) => fault.fmt(f),
            Self::Mismatch { certificate, key } => {
                write!(f, "{}: is not the key of the certificate in {}", key.display(), certificate.display())
            }
            Self::Unusable(path, fault) => write!(f, "{}: cannot be used: {fault}", path.display()),
            Self::BadKey(path) => write!(
                f,
                "{}: cannot be used: its private key is damaged or of a kind that is not taken; expected RSA of 2,048 to \
                 4,096 bits, ECDSA on P-256 or P-384, or Ed25519",
                path.display()
            ),
            Self::BadCa(path) => write!(f, "{}: holds a CA certificate that cannot be used", path.display()),
            Self::BadCrl(path, why) => {
                write!(
                    f,
                    "{}: holds a revocation list that cannot be used: {why}; it has to be one of version 2 with a \
                     number and its issuer's key identifier (RFC 5280 §5), and no delta",
                    path.display()
                )
            }
            Self::ForeignCrl(path, issuer) => {
                write!(f, "{}: holds a revocation list of {issuer} that is not signed by its key", path.display())
            }
            Self::NoTrust(why) => write!(
                f,
                "{why}, but no CA is trusted: set trusted-ca in [security] (or the table of that side), or \
                 system-roots = true"
            ),
            Self::NoSystemRoots => f.write_str("system-roots is true, but the system has no CA certificates"),
            Self::BadName(name) => write!(f, "tls-name: {name:?} is no name that TLS can ask for"),
            Self::KeyLog(path, fault) => {
                write!(
                    f,
                    "{}: key-log-file cannot be used: {fault}; it has to be a plain file of Hawser's own user, in a folder \
                     that is there",
                    path.display()
                )
            }
            Self::Provider(fault) => write!(f, "TLS cannot be set up: {fault}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<PemError> for TlsError {
    fn from(fault: PemError) -> Self {
        Self::Pem(fault)
    }
}

/// A certificate of ours, to be shown to people.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Whose settings name it.
    pub side: Side,
    /// The one peer that it is shown to, by its table and its name there; others may share it.
    pub peer: Option<String>,
    /// Its file.
    pub path: PathBuf,
    /// The certificate, and what vouches for it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The domain that it is kept for; `None` for the one that is shown to all others.
    pub domain: Option<String>,
}

impl Leaf {
    /// The certificate without its chain.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }
}

/// What the files held, to be shown to people. What both sides share stands there once.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Our own certificates.
    pub leaves: Vec<Leaf>,
    /// The CAs of `trusted-ca`.
    pub authorities: Vec<Authority>,
    /// Revocation lists.
    pub crls: Vec<Crl>,
}

/// Reads every file that the settings name and makes what the shards need. Says beside it what there was. The keys of
/// sessions go to `key_logs`.
///
/// # Errors
/// The first fault that is found.
pub fn set_up(config: &Config, tickets: &TicketSecrets, key_logs: &KeyLogs) -> Result<(Tls, Inventory), TlsError> {
    let mut shelf = Shelf::default();
    let mut parts = |side| Parts::read(config, side, (tickets, key_logs), &mut shelf);
    let (endpoint, server) = (parts(Side::Endpoint)?, parts(Side::Server)?);
    let peers = Peers::read(config, key_logs, &mut shelf)?;
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
    let vouches_for_servers = server.trusted().filter(|_| !same_trust);
    let mut of_endpoint = endpoint.side(peers.vouchers(Some(Side::Endpoint)))?;
    if vouches_for_servers.is_some() && config.listeners.iter().any(|listener| listener.side.is_none()) {
        of_endpoint.files.servers_ca.clone_from(&servers.trusted_ca);
    }
    Ok((
        Tls {
            accept_both: endpoint.accept(vouches_for_servers.clone(), peers.vouchers(None))?,
            endpoint: of_endpoint,
            server: server.side(peers.vouchers(Some(Side::Server)))?,
            vouches_for_servers,
            peers,
        },
        shelf.inventory,
    ))
}

/// What the files of one side hold.
struct Parts<'a> {
    security: &'a SideSecurity,
    ticket_secret: &'a [u8; 32],
    key_log: Arc<dyn KeyLog>,
    own: Option<Own>,
    by_domain: HashMap<String, Arc<CertifiedKey>>,
    trust: Option<Arc<Trust>>,
}

impl<'a> Parts<'a> {
    fn read(
        config: &'a Config,
        side: Side,
        (tickets, key_logs): (&'a TicketSecrets, &KeyLogs),
        shelf: &mut Shelf,
    ) -> Result<Self, TlsError> {
        let security = config.security.side(side);
        let own = match (&security.certificate, &security.certificate_key) {
            (Some(path), Some(key_path)) => {
                Some(shelf.own(Whose { side, peer: None, domain: None }, path, key_path)?)
            }
            _ => None,
        };
        let mut by_domain = HashMap::new();
        for sni in &config.security.sni {
            let domain = sni.domain.to_string();
            let whose = Whose { side, peer: None, domain: Some(&domain) };
            let own = shelf.own(whose, &sni.certificate, &sni.certificate_key)?;
            by_domain.insert(domain, own.key);
        }
        let trust = shelf.trust(&security.trust())?;
        let by_side = |server: &Server| server.transport == Transport::Tls && server.setup.is_none();
        if side == Side::Server && config.servers.iter().any(by_side) && trust.is_none() {
            return Err(TlsError::NoTrust("the SIP Server is reached over TLS"));
        }
        if security.tls_mutual && own.is_some() && trust.is_none() {
            return Err(TlsError::NoTrust("tls-mutual is 1"));
        }
        let ticket_secret = match side {
            Side::Server => &tickets.server,
            Side::Endpoint => &tickets.endpoint,
        };
        let key_log = key_logs.of(security.key_log_file.as_ref());
        Ok(Self { security, ticket_secret, key_log, own, by_domain, trust })
    }

    fn trusted(&self) -> Option<(Arc<Trust>, ClientEku)> {
        self.trust.clone().map(|trust| (trust, self.security.client_eku))
    }

    fn side(&self, vouchers: Vec<Arc<Voucher>>) -> Result<SideTls, TlsError> {
        let connect = self.trust.as_ref().map(|trust| connect(trust, self.own.as_ref(), &self.key_log)).transpose()?;
        let files = Files {
            certificate: self.security.certificate.clone(),
            domains: !self.by_domain.is_empty(),
            trusted_ca: self.security.trusted_ca.clone(),
            system_roots: self.security.system_roots,
            servers_ca: None,
        };
        Ok(SideTls { accept: self.accept(None, vouchers)?, connect, trusted: self.trusted(), files })
    }

    /// What accepted connections are made with; `None` without a certificate. Clients that this side does not know
    /// may be known to `others`, and peers to `vouchers`.
    fn accept(
        &self,
        others: Option<(Arc<Trust>, ClientEku)>,
        vouchers: Vec<Arc<Voucher>>,
    ) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        let Some(own) = &self.own else { return Ok(None) };
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::Provider)?;
        let shown = Shown { default: own.key.clone(), by_domain: self.by_domain.clone() };
        let mutual = self.trusted().filter(|_| self.security.tls_mutual);
        let is_mutual = mutual.is_some();
        let builder = match mutual {
            Some(trusted) => builder.with_client_cert_verifier(Arc::new(ClientCheck::new(trusted, others, vouchers))),
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

/// What connections that we open are made with.
///
/// # Errors
/// rustls does not take its own provider.
pub(super) fn connect(trust: &Arc<Trust>, own: Option<&Own>, key_log: &Arc<dyn KeyLog>) -> Result<Connect, TlsError> {
    let config = |verify: Verify| {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerCheck::new(trust.clone(), verify)));
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        // For the same reason as above; and these connections are few and stay. So there is no cache from which a session
        // with one peer could be taken up with another's trust.
        config.resumption = Resumption::disabled();
        config.key_log = key_log.clone();
        Ok::<_, TlsError>(Arc::new(config))
    };
    Ok(Connect { by_name: config(Verify::Name)?, by_chain: config(Verify::Chain)? })
}
