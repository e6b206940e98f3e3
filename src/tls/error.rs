//! Why TLS cannot be set up: one variant for each fault of a file or a setting.

use std::path::PathBuf;

use rustls::Error;

use super::pem::PemError;

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
