//! From settings and files to what sessions are made with (RFC 9325).
//!
//! TLS 1.2 and 1.3; the suites of rustls' ring provider, all with forward secrecy and AEAD; no SHA-1, RSA from 2,048
//! bits. Session tickets are stateless and work on every shard. Client certificates of phones are not asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::identity::Expected;
use super::pem::{self, PemError};
use super::trust::Trust;
use super::{Outbound, Tls};
use crate::config::{Config, Host, Server, ServerAddress, SideSecurity, Verify};
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
    /// The certificate or key is not one that rustls takes.
    Unusable(PathBuf, Error),
    /// A CA certificate is not one.
    BadCa(PathBuf),
    /// The server speaks TLS, and nothing says which CAs to trust.
    NoTrust,
    /// `system-roots` is on, and the system has none.
    NoSystemRoots,
    /// A name that can't be asked for.
    BadName(String),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pem(fault) => fault.fmt(f),
            Self::Mismatch { certificate, key } => {
                write!(f, "{}: is not the key of the certificate in {}", key.display(), certificate.display())
            }
            Self::Unusable(path, fault) => write!(f, "{}: cannot be used: {fault}", path.display()),
            Self::BadCa(path) => write!(f, "{}: holds a CA certificate that cannot be used", path.display()),
            Self::NoTrust => f.write_str(
                "the SIP Server is reached over TLS, but no CA is trusted: set trusted-ca in [security] (or \
                 [security.server]), or system-roots = true",
            ),
            Self::NoSystemRoots => f.write_str("system-roots is true, but the system has no CA certificates"),
            Self::BadName(name) => write!(f, "tls-name: {name:?} is no name that TLS can ask for"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<PemError> for TlsError {
    fn from(fault: PemError) -> Self {
        Self::Pem(fault)
    }
}

/// A certificate of ours with its key.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    key_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Own {
    /// `None` when the side has none.
    fn read(security: &SideSecurity) -> Result<Option<Self>, TlsError> {
        let (Some(path), Some(key_path)) = (&security.certificate, &security.certificate_key) else {
            return Ok(None);
        };
        let (chain, key) = (pem::certificates(path)?, pem::private_key(key_path)?);
        Ok(Some(Self { path: path.clone(), key_path: key_path.clone(), chain, key }))
    }

    fn fault(path: &Path, key_path: &Path, fault: Error) -> TlsError {
        match fault {
            Error::InconsistentKeys(_) => TlsError::Mismatch { certificate: path.to_owned(), key: key_path.to_owned() },
            Error::InvalidCertificate(_) => TlsError::Unusable(path.to_owned(), fault),
            other => TlsError::Unusable(key_path.to_owned(), other),
        }
    }
}

/// A leaf certificate of ours, to be shown to people.
#[derive(Debug)]
pub struct Leaf {
    /// Whose settings name it.
    pub side: Side,
    /// Its file.
    pub path: PathBuf,
    /// The certificate.
    pub der: CertificateDer<'static>,
}

/// Reads every file that the settings name and makes what the shards need. Gives the own certificates beside it.
///
/// # Errors
/// The first fault that is found.
pub fn set_up(config: &Config) -> Result<(Tls, Vec<Leaf>), TlsError> {
    let mut leaves = Vec::new();
    let mut note = |side, own: &Option<Own>| {
        let leaf = own.as_ref().and_then(|own| own.chain.first().map(|der| (own.path.clone(), der.clone())));
        leaves.extend(leaf.map(|(path, der)| Leaf { side, path, der }));
    };
    let endpoint = Own::read(config.security.side(Side::Endpoint))?;
    let server = Own::read(config.security.side(Side::Server))?;
    note(Side::Endpoint, &endpoint);
    if config.security.server.certificate != config.security.endpoint.certificate {
        note(Side::Server, &server);
    }
    let listens = config.listeners.iter().any(|listener| listener.tls_port != 0);
    let accept = match endpoint {
        Some(own) if listens => Some(accept(own)?),
        // Not used, but said to be used: a mismatch is a fault all the same.
        Some(own) => accept(own).map(|_| None)?,
        None => None,
    };
    let target = config.serving();
    let outbound = (target.transport == Transport::Tls)
        .then(|| outbound(target, config.security.side(Side::Server), server))
        .transpose()?;
    Ok((Tls { accept, server: outbound }, leaves))
}

fn accept(own: Own) -> Result<Arc<ServerConfig>, TlsError> {
    let Own { path, key_path, chain, key } = own;
    let fault = |fault| Own::fault(&path, &key_path, fault);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(VERSIONS)
        .map_err(fault)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(fault)?;
    // rustls picks it when it is offered, and refuses a list without it.
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new().map_err(fault)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn outbound(target: &Server, security: &SideSecurity, own: Option<Own>) -> Result<Outbound, TlsError> {
    let expected = match (&target.tls_name, &target.primary) {
        (Some(Host::Name(name)), _) | (None, ServerAddress::Name(name, _)) => Expected::Name(name.clone()),
        (Some(Host::Ip(ip)), _) => Expected::Address(*ip),
        (None, ServerAddress::Address(address)) => Expected::Address(address.ip()),
    };
    let name = match &expected {
        Expected::Name(name) => ServerName::try_from(name.clone()).map_err(|_| TlsError::BadName(name.clone()))?,
        Expected::Address(ip) => ServerName::from(*ip),
    };
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let checked = (target.verify == Verify::Name).then_some(expected);
    let trust = Trust::new(roots(security)?, checked, algorithms);
    let (path, key_path) = own.as_ref().map(|own| (own.path.clone(), own.key_path.clone())).unwrap_or_default();
    let fault = |fault| Own::fault(&path, &key_path, fault);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(VERSIONS)
        .map_err(fault)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust));
    let config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain, own.key).map_err(fault)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Outbound { config: Arc::new(config), name })
}

/// The CAs of a side: those of its file, and the system's when they are asked for.
fn roots(security: &SideSecurity) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &security.trusted_ca {
        for certificate in pem::certificates(path)? {
            roots.add(certificate).map_err(|_| TlsError::BadCa(path.clone()))?;
        }
    }
    if security.system_roots {
        let found = rustls_native_certs::load_native_certs();
        // Some of the system's may be of forms that nobody accepts any more.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(TlsError::NoSystemRoots);
        }
    }
    if roots.is_empty() { Err(TlsError::NoTrust) } else { Ok(roots) }
}
