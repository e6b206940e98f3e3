//! From settings and files to what sessions are made with (RFC 9325).
//!
//! TLS 1.2 and 1.3; the suites of rustls' ring provider, all with forward secrecy and AEAD; no SHA-1, RSA from 2,048
//! bits. Session tickets are stateless and work on every shard. Client certificates of phones are not asked for.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::pem::{self, PemError};
use super::trust::{self, Trust};
use super::{Connect, SideTls, Tls};
use crate::config::{Config, SideSecurity, Verify};
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

    fn fault(&self, fault: Error) -> TlsError {
        match fault {
            Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: self.path.clone(), key: self.key_path.clone() }
            }
            Error::InvalidCertificate(_) => TlsError::Unusable(self.path.clone(), fault),
            other => TlsError::Unusable(self.key_path.clone(), other),
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
    let endpoint = side(config, Side::Endpoint, &mut leaves)?;
    let server = side(config, Side::Server, &mut leaves)?;
    for server in config.servers.iter().filter(|server| server.transport == Transport::Tls) {
        for target in [Some(&server.primary), server.backup.as_ref()].into_iter().flatten() {
            trust::server_name(&server.tls_peer(target).expected).map_err(TlsError::BadName)?;
        }
    }
    Ok((Tls { server, endpoint }, leaves))
}

fn side(config: &Config, side: Side, leaves: &mut Vec<Leaf>) -> Result<SideTls, TlsError> {
    let security = config.security.side(side);
    let own = Own::read(security)?;
    if let Some(own) = &own
        && !leaves.iter().any(|leaf: &Leaf| leaf.path == own.path)
        && let Some(der) = own.chain.first()
    {
        leaves.push(Leaf { side, path: own.path.clone(), der: der.clone() });
    }
    let accept = own.as_ref().map(accept).transpose()?;
    let connect = roots(security)?.map(|roots| connect(Arc::new(roots), own.as_ref())).transpose()?;
    let speaks_tls = side == Side::Server && config.servers.iter().any(|server| server.transport == Transport::Tls);
    if speaks_tls && connect.is_none() {
        return Err(TlsError::NoTrust);
    }
    Ok(SideTls { accept, connect })
}

fn accept(own: &Own) -> Result<Arc<ServerConfig>, TlsError> {
    let fault = |fault| own.fault(fault);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(VERSIONS)
        .map_err(fault)?
        .with_no_client_auth()
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .map_err(fault)?;
    // rustls picks it when it is offered, and refuses a list without it.
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new().map_err(fault)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn connect(roots: Arc<RootCertStore>, own: Option<&Own>) -> Result<Connect, TlsError> {
    let config = |verify: Verify| {
        let provider = ring::default_provider();
        let trust = Trust::new(roots.clone(), verify, provider.signature_verification_algorithms);
        let fault = |fault| match own {
            Some(own) => own.fault(fault),
            None => TlsError::Unusable(PathBuf::new(), fault),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(VERSIONS)
            .map_err(fault)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match own {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).map_err(fault)?,
            None => builder.with_no_client_auth(),
        };
        // A session that is taken up again shows no certificate, so that a name, a date or a CRL could not be
        // checked; and these connections are few and stay.
        config.resumption = Resumption::disabled();
        Ok::<_, TlsError>(Arc::new(config))
    };
    Ok(Connect { by_name: config(Verify::Name)?, by_chain: config(Verify::Chain)? })
}

/// The CAs of a side: those of its file, and the system's when they are asked for. `None` when there are none.
fn roots(security: &SideSecurity) -> Result<Option<RootCertStore>, TlsError> {
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
    Ok((!roots.is_empty()).then_some(roots))
}
