//! Certificates, keys and revocation lists from files. The one file that names `rustls-pemfile`.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::file;

/// The mark that some editors put before a text in UTF-8.
const BOM: &[u8] = b"\xEF\xBB\xBF";
/// Labels of other things in a file that are named, each so long.
const LABELS_MAX: usize = 3;
const LABEL_LEN_MAX: usize = 32;

/// Why a file is of no use.
#[derive(Debug)]
pub enum PemError {
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The file is no PEM.
    Malformed(PathBuf),
    /// The file holds no certificate.
    NoCertificate(PathBuf, Instead),
    /// The file holds no private key.
    NoKey(PathBuf, Instead),
    /// The file's private key is encrypted.
    EncryptedKey(PathBuf),
    /// The file holds no revocation list.
    NoCrl(PathBuf),
}

/// What a file holds in place of what was looked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Instead {
    /// Nothing that is known.
    Nothing,
    /// Binary data that may be DER.
    Binary,
    /// PEM of these labels.
    Labels(Vec<String>),
}

impl Instead {
    fn of(text: &[u8]) -> Self {
        // A sequence, that is a digit zero, with what no text has in it.
        if text.first() == Some(&0x30) && text.iter().any(|byte| *byte < b'\t') {
            return Self::Binary;
        }
        let mut labels = Vec::new();
        for line in text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"-----BEGIN ")) {
            let len = line.iter().take(LABEL_LEN_MAX).take_while(|b| b.is_ascii_alphanumeric() || **b == b' ').count();
            let label = String::from_utf8_lossy(&line[..len]).into_owned();
            if labels.len() < LABELS_MAX && !labels.contains(&label) {
                labels.push(label);
            }
        }
        if labels.is_empty() { Self::Nothing } else { Self::Labels(labels) }
    }

    /// What there is to add; `convert` makes PEM of DER.
    fn words(&self, convert: &str) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Binary => {
                format!(
                    ", but binary data: `{convert} -inform DER` makes PEM of DER, `openssl pkcs12 -nodes` of PKCS#12"
                )
            }
            Self::Labels(labels) => format!(", but {}", labels.join(", ")),
        }
    }
}

impl std::fmt::Display for PemError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(path, fault) => write!(f, "{}: cannot be read: {fault}", path.display()),
            Self::Malformed(path) => write!(f, "{}: is not a PEM file", path.display()),
            Self::NoCertificate(path, instead) => {
                let words = instead.words("openssl x509");
                write!(f, "{}: holds no certificate in PEM form{words}", path.display())
            }
            Self::NoKey(path, instead) => {
                let words = instead.words("openssl pkey");
                write!(f, "{}: holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1){words}", path.display())
            }
            Self::EncryptedKey(path) => write!(
                f,
                "{}: holds an encrypted private key, and nobody is there to type its password: decrypt it with \
                 `openssl pkey`, and let only Hawser read it",
                path.display()
            ),
            Self::NoCrl(path) => {
                write!(f, "{}: holds no certificate revocation list in PEM or DER form", path.display())
            }
        }
    }
}

impl std::error::Error for PemError {}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let mut text = file::read(path).map_err(|fault| PemError::Unreadable(path.to_owned(), fault))?;
    if text.starts_with(BOM) {
        text.drain(..BOM.len());
    }
    Ok(text)
}

/// All certificates of a file, at least one, in its order.
///
/// # Errors
/// The file is of no use.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = rustls_pemfile::certs(&mut text.as_slice()).collect();
    let all = all.map_err(|_| PemError::Malformed(path.to_owned()))?;
    if all.is_empty() { Err(PemError::NoCertificate(path.to_owned(), Instead::of(&text))) } else { Ok(all) }
}

/// The first private key of a file.
///
/// # Errors
/// The file is of no use.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = read(path)?;
    // PKCS#8 says it in its label, the older forms in a header.
    let marks: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];
    if marks.iter().any(|mark| memchr::memmem::find(&text, mark).is_some()) {
        return Err(PemError::EncryptedKey(path.to_owned()));
    }
    rustls_pemfile::private_key(&mut text.as_slice())
        .map_err(|_| PemError::Malformed(path.to_owned()))?
        .ok_or_else(|| PemError::NoKey(path.to_owned(), Instead::of(&text)))
}

/// All revocation lists of a file in PEM, or the one of a file in DER.
///
/// # Errors
/// The file is of no use.
pub fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let text = read(path)?;
    if memchr::memmem::find(&text, b"-----BEGIN ").is_none() {
        // A sequence, whose content the reader of the list judges.
        let is_der = text.first() == Some(&0x30);
        return if is_der { Ok(vec![text.into()]) } else { Err(PemError::NoCrl(path.to_owned())) };
    }
    let all: Result<Vec<_>, _> = rustls_pemfile::crls(&mut text.as_slice()).collect();
    let all = all.map_err(|_| PemError::Malformed(path.to_owned()))?;
    if all.is_empty() { Err(PemError::NoCrl(path.to_owned())) } else { Ok(all) }
}
