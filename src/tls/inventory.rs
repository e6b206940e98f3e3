//! What the files of TLS hold, to be shown to people: our certificates, the CAs that are trusted, revocation lists.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ids::Side;

/// A certificate of ours, to be shown to people.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Whose settings name it.
    pub side: Side,
    /// The one peer that it is shown to, by its table and its name there; others may share it.
    pub peer: Option<String>,
    /// The file that holds it.
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

/// A revocation list, to be shown to people.
#[derive(Clone, Debug)]
pub struct Crl {
    /// The file that holds it.
    pub path: PathBuf,
    /// Whose certificates it revokes.
    pub issuer: String,
    /// When the next one was to come, in seconds since 1970; `None` when it does not say.
    pub next_update: Option<i64>,
}

/// A CA that is trusted, to be shown to people.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The file that holds it.
    pub path: PathBuf,
    /// The CA's certificate.
    pub der: CertificateDer<'static>,
    /// There are revocation lists, and none of them is its own.
    pub unlisted: bool,
}

impl Authority {
    /// The CA's name, in words.
    #[must_use]
    pub fn subject(&self) -> String {
        X509Certificate::from_der(&self.der).map_or_else(|_| "?".to_owned(), |(_, ca)| ca.subject().to_string())
    }
}

/// The files that an operator has to look at when handshakes fail.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Who asks for a domain of `[[security.sni]]` sees another.
    pub domains: bool,
    /// The CAs that peers are verified against.
    pub trusted_ca: Option<PathBuf>,
    /// The system's CAs count too.
    pub system_roots: bool,
    /// The CAs of SIP Servers, where these come to the same port.
    pub servers_ca: Option<PathBuf>,
}
