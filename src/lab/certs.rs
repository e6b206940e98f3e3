//! Throw-away certificates, and TLS settings from PEM files.
//!
//! Owns: a CA of its own for demo, tests and load; reading certificates and keys. Must not touch:
//! verification, which is rustls's own in both directions.

use crate::net::TlsSettings;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate that is asked for besides the usual ones: `STEM=NAME,NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Further {
    stem: String,
    names: Vec<String>,
}

impl std::str::FromStr for Further {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stem, names) = text.split_once('=').ok_or("expected STEM=NAME[,NAME]")?;
        Ok(Self { stem: stem.to_owned(), names: names.split(',').map(str::to_owned).collect() })
    }
}

/// Writes `ca.pem`, `server.pem`, `server.key`, `phone.pem` and `phone.key` into `dir`, and a certificate and key for
/// each further stem.
///
/// # Errors
/// A name that no certificate can carry, or a file that cannot be written.
pub fn write_all(dir: &Path, names: &[String], further: &[Further]) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Hawser lab throw-away CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    write(dir, "ca.pem", &ca.pem(), 0o644)?;

    let mut all = vec!["127.0.0.1".to_owned(), "::1".to_owned(), "localhost".to_owned()];
    all.extend(names.iter().filter(|name| !name.is_empty()).cloned());
    // The server's certificate is shown in both directions: Hawser connects with it as well.
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(dir, &ca, "server", all, &usages)?;
    for Further { stem, names } in further {
        issue(dir, &ca, stem, names.clone(), &usages)?;
    }
    issue(dir, &ca, "phone", vec!["phone.example.com".to_owned()], &usages[1..])
}

fn issue(
    dir: &Path,
    ca: &CertifiedIssuer<'_, KeyPair>,
    stem: &str,
    names: Vec<String>,
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<(), Box<dyn Error>> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, format!("Hawser lab {stem}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    write(dir, &format!("{stem}.pem"), &params.signed_by(&key, ca)?.pem(), 0o644)?;
    write(dir, &format!("{stem}.key"), &key.serialize_pem(), 0o600)
}

fn write(dir: &Path, name: &str, text: &str, mode: u32) -> Result<(), Box<dyn Error>> {
    let path = dir.join(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|fault| format!("{}: {fault}", path.display()).into())
}

/// Which files TLS uses; all may be missing when no TLS is spoken.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsFiles {
    /// CAs that the other side's certificate is checked against.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Own certificate; needed to listen.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the own certificate.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Name that the proxy's certificate must carry, instead of its address.
    #[arg(long)]
    pub tls_name: Option<String>,
    /// Asks whoever connects for a certificate of --ca.
    #[arg(long, requires = "ca")]
    pub mutual: bool,
    /// Resumes TLS sessions on reconnect.
    #[arg(long)]
    pub resume: bool,
}

impl TlsFiles {
    /// What [`write_all`] has put there, with the certificate of this stem.
    pub fn written(dir: &Path, stem: &str) -> Self {
        let file = |name: String| Some(dir.join(name));
        let (ca, cert, key) = (file("ca.pem".into()), file(format!("{stem}.pem")), file(format!("{stem}.key")));
        Self { ca, cert, key, ..Self::default() }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A file that is missing or holds something else.
    pub fn load(&self) -> Result<TlsSettings, Box<dyn Error>> {
        let provider = Arc::new(ring::default_provider());
        let mut settings = TlsSettings::default();
        if let Some(name) = &self.tls_name {
            settings.peer_name = Some(ServerName::try_from(name.clone())?);
        }
        let roots = self.ca.as_ref().map(|path| roots(path)).transpose()?.map(Arc::new);
        if let Some(roots) = &roots {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(Arc::clone(roots));
            let mut config = match self.own()? {
                Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![b"sip/2".to_vec()];
            if !self.resume {
                config.resumption = Resumption::disabled();
            }
            settings.client = Some(Arc::new(config));
        }
        if let Some((chain, key)) = self.own()? {
            let builder =
                ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
            let builder = match (self.mutual, roots) {
                (true, Some(roots)) => builder
                    .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots, provider).build()?),
                _ => builder.with_no_client_auth(),
            };
            let mut config = builder.with_single_cert(chain, key)?;
            config.alpn_protocols = vec![b"sip/2".to_vec()];
            settings.server = Some(Arc::new(config));
        }
        Ok(settings)
    }

    #[expect(clippy::type_complexity, reason = "a pair that one caller takes apart at once")]
    fn own(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Box<dyn Error>> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(None) };
        let chain = chain(cert)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|fault| format!("{}: {fault}", key.display()))?;
        Ok(Some((chain, key)))
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|fault| format!("{}: {fault}", path.display()).into())
}

fn roots(path: &Path) -> Result<RootCertStore, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    for cert in chain(path)? {
        roots.add(cert)?;
    }
    if roots.is_empty() {
        return Err(format!("{}: no certificate", path.display()).into());
    }
    Ok(roots)
}
