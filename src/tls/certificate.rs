//! Our own certificates: each with its key, its chain put in order, and which of them a client is shown.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::Error;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::pem;

/// A certificate of ours with its chain and key.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// One is of no use, or the key is that of none of the certificates.
    pub(super) fn read(path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let found = pem::certificates(path)?;
        let unusable = |path: &Path, fault| TlsError::Unusable(path.to_owned(), fault);
        let key = ring::sign::any_supported_type(&pem::private_key(key_path)?)
            .map_err(|_| TlsError::BadKey(key_path.to_owned()))?;
        let public = key.public_key();
        let mut certificates = Vec::with_capacity(found.len());
        for der in &found {
            let (_, certificate) = X509Certificate::from_der(der)
                .map_err(|_| unusable(path, Error::InvalidCertificate(rustls::CertificateError::BadEncoding)))?;
            certificates.push(certificate);
        }
        let leaf = certificates.iter().position(|certificate| {
            public.as_ref().is_some_and(|public| public.as_ref() == certificate.public_key().raw)
        });
        let Some(leaf) = leaf else {
            return Err(TlsError::Mismatch { certificate: path.to_owned(), key: key_path.to_owned() });
        };
        // What rustls would refuse in every handshake is told at the start.
        webpki::EndEntityCert::try_from(&found[leaf])
            .map_err(|fault| unusable(path, Error::General(format!("{fault}"))))?;
        let chain = in_order(leaf, &certificates).into_iter().map(|at| found[at].clone()).collect();
        Ok(Self { key: Arc::new(CertifiedKey::new(chain, key)) })
    }
}

/// The chain from `leaf` on, whatever the order of the file. What belongs to another chain is left out, and so is a
/// root: who trusts it has it (RFC 8446 §4.4.2).
fn in_order(leaf: usize, certificates: &[X509Certificate<'_>]) -> Vec<usize> {
    let mut chain = vec![leaf];
    let mut last = leaf;
    while let Some(next) = certificates.iter().enumerate().position(|(at, certificate)| {
        !chain.contains(&at)
            && certificate.subject() == certificates[last].issuer()
            && certificate.subject() != certificate.issuer()
    }) {
        chain.push(next);
        last = next;
    }
    chain
}

/// Which certificate a client is shown: that of the domain which it asks for, else the default one.
#[derive(Debug)]
pub(super) struct SniResolver {
    pub(super) default: Arc<CertifiedKey>,
    /// By domain in lower case.
    pub(super) by_domain: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        Some(name.and_then(|name| self.by_domain.get(&name)).unwrap_or(&self.default).clone())
    }
}

/// The certificates of a port that lives longer than one set-up: each handshake takes those that are in use then.
#[derive(Debug)]
pub struct CurrentCertificate(Mutex<Arc<dyn ResolvesServerCert>>);

impl CurrentCertificate {
    /// Begins with these.
    #[must_use]
    pub fn new(shown: Arc<dyn ResolvesServerCert>) -> Self {
        Self(Mutex::new(shown))
    }

    /// From now on these are shown.
    pub fn set(&self, shown: Arc<dyn ResolvesServerCert>) {
        *self.lock() = shown;
    }

    fn lock(&self) -> MutexGuard<'_, Arc<dyn ResolvesServerCert>> {
        // What the lock guards is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.lock().clone();
        shown.resolve(hello)
    }
}
