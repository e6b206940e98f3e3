//! The certificates and trust anchors that a set-up is made from: each file is read once, whoever names it, and what
//! peers share stays one thing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::authorities;
use super::certificate::Certificate;
use super::error::TlsError;
use super::inventory::{Inventory, Leaf};
use super::trust::Trust;
use crate::config::TrustFiles;
use crate::ids::Side;

/// The files that have been read so far.
#[derive(Debug, Default)]
pub(super) struct Store {
    certificates: HashMap<(PathBuf, PathBuf), Certificate>,
    trusts: HashMap<TrustFiles, Option<Arc<Trust>>>,
    /// What there was, to be shown to people.
    pub(super) inventory: Inventory,
}

/// Whose settings name a certificate of ours.
pub(super) struct Whose<'a> {
    pub(super) side: Side,
    /// The one peer that it is kept for.
    pub(super) peer: Option<&'a str>,
    /// The domain that it is kept for.
    pub(super) domain: Option<&'a str>,
}

impl Store {
    /// A certificate of ours with its key.
    ///
    /// # Errors
    /// A file is of no use, or they do not belong together.
    pub(super) fn certificate(
        &mut self,
        whose: Whose<'_>,
        path: &Path,
        key_path: &Path,
    ) -> Result<Certificate, TlsError> {
        let files = (path.to_owned(), key_path.to_owned());
        let certificate = match self.certificates.get(&files) {
            Some(certificate) => certificate.clone(),
            None => {
                let certificate = Certificate::read(path, key_path)?;
                self.certificates.insert(files, certificate.clone());
                certificate
            }
        };
        let domain = whose.domain.map(str::to_owned);
        let shown = |leaf: &Leaf| match &domain {
            Some(domain) => leaf.domain.as_ref() == Some(domain),
            None => leaf.path == path,
        };
        if !self.inventory.leaves.iter().any(shown) {
            let (peer, chain) = (whose.peer.map(str::to_owned), certificate.key.cert.clone());
            self.inventory.leaves.push(Leaf { side: whose.side, peer, path: path.to_owned(), chain, domain });
        }
        Ok(certificate)
    }

    /// The CAs that these files name, with what they have revoked; `None` when there are none.
    ///
    /// # Errors
    /// A file is of no use.
    pub(super) fn trust(&mut self, files: &TrustFiles) -> Result<Option<Arc<Trust>>, TlsError> {
        if let Some(known) = self.trusts.get(files) {
            return Ok(known.clone());
        }
        let trust = authorities::read(files)?.map(|read| {
            let Inventory { authorities, crls, .. } = &mut self.inventory;
            if !read.authorities.first().is_some_and(|first| authorities.iter().any(|other| other.path == first.path)) {
                authorities.extend(read.authorities);
            }
            if !read.crls.first().is_some_and(|first| crls.iter().any(|other| other.path == first.path)) {
                crls.extend(read.crls);
            }
            Arc::new(read.trust)
        });
        self.trusts.insert(files.clone(), trust.clone());
        Ok(trust)
    }
}
