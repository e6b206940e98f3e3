//! The trust anchors of a side or of a peer, and their revocation lists, read from files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateRevocationListDer;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::error::TlsError;
use super::inventory::{Authority, Crl};
use super::pem;
use super::trust::Trust;
use crate::config::TrustFiles;

/// A revocation list as it stands in its file.
type Der = CertificateRevocationListDer<'static>;

/// Who is trusted, and what there is to say of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) trust: Trust,
    pub(super) authorities: Vec<Authority>,
    pub(super) crls: Vec<Crl>,
}

/// The CAs that are trusted: those of a file, and the system's when they are asked for. `None` when there are none.
///
/// # Errors
/// A file is of no use.
pub(super) fn read(files: &TrustFiles) -> Result<Option<Read>, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = files.crl.as_deref().map(pem::crls).transpose()?.unwrap_or_default();
    let (lists, crls) = match &files.crl {
        Some(path) => revocation_lists(path, &found)?,
        None => Default::default(),
    };
    let mut authorities = Vec::new();
    if let Some(path) = &files.trusted_ca {
        for der in pem::certificates(path)? {
            roots.add(der.clone()).map_err(|_| TlsError::BadCa(path.clone()))?;
            let subject = X509Certificate::from_der(&der).map(|(_, ca)| ca.subject().as_raw().to_vec());
            let subject = subject.map_err(|_| TlsError::BadCa(path.clone()))?;
            // webpki names an issuer by the content of its sequence, without the header.
            let listed = lists.iter().any(|list| subject.ends_with(list.issuer()));
            authorities.push(Authority { path: path.clone(), der, unlisted: !lists.is_empty() && !listed });
        }
    }
    if files.system_roots {
        let found = rustls_native_certs::load_native_certs();
        // Some of the system's may be of forms that nobody accepts any more.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(TlsError::NoSystemRoots);
        }
    }
    if roots.is_empty() {
        return Ok(None);
    }
    if let Some(path) = &files.crl {
        signed_by_their_issuers(path, &found, &authorities)?;
    }
    let trust = Trust::new(roots, lists, ring::default_provider().signature_verification_algorithms);
    Ok(Some(Read { trust, authorities, crls }))
}

/// A list in the name of a CA that the key of no CA of that name has signed would lock out all who have a certificate
/// of it. Those of CAs further down are seen only when one of their certificates is shown.
fn signed_by_their_issuers(path: &Path, found: &[Der], authorities: &[Authority]) -> Result<(), TlsError> {
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let bad = |why: String| TlsError::BadCrl(path.to_owned(), why);
    for der in found {
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|fault| bad(fault.to_string()))?;
        let keys: Vec<_> = authorities
            .iter()
            .filter_map(|authority| X509Certificate::from_der(&authority.der).ok())
            .filter(|(_, ca)| ca.subject().as_raw() == list.issuer().as_raw())
            .map(|(_, ca)| ca.public_key().subject_public_key.data.to_vec())
            .collect();
        let signed = |key: &Vec<u8>| {
            let (message, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
            algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
        };
        if !keys.is_empty() && !keys.iter().any(signed) {
            return Err(TlsError::ForeignCrl(path.to_owned(), list.issuer().to_string()));
        }
    }
    Ok(())
}

fn revocation_lists(path: &Path, found: &[Der]) -> Result<(Vec<CertRevocationList<'static>>, Vec<Crl>), TlsError> {
    let mut all = (Vec::new(), Vec::new());
    for der in found {
        let bad = |why: String| TlsError::BadCrl(path.to_owned(), why);
        let list = OwnedCertRevocationList::from_der(der).map_err(|fault| bad(fault.to_string()))?;
        let (_, shown) = CertificateRevocationList::from_der(der).map_err(|fault| bad(fault.to_string()))?;
        all.1.push(Crl {
            path: path.to_owned(),
            issuer: shown.issuer().to_string(),
            next_update: shown.next_update().map(|time| time.timestamp()),
        });
        all.0.push(list.into());
    }
    Ok(all)
}
