//! What files hold while a set-up is made: each is read once, whoever names it, and what peers share stays one thing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::authorities;
use super::own::Own;
use super::setup::{Inventory, Leaf, TlsError};
use super::trust::Trust;
use crate::config::TrustFiles;
use crate::ids::Side;

/// The files that have been read so far.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    own: HashMap<(PathBuf, PathBuf), Own>,
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

impl Shelf {
    /// A certificate of ours with its key.
    ///
    /// # Errors
    /// A file is of no use, or they do not belong together.
    pub(super) fn own(&mut self, whose: Whose<'_>, path: &Path, key_path: &Path) -> Result<Own, TlsError> {
        let files = (path.to_owned(), key_path.to_owned());
        let own = match self.own.get(&files) {
            Some(own) => own.clone(),
            None => {
                let own = Own::read(path, key_path)?;
                self.own.insert(files, own.clone());
                own
            }
        };
        let domain = whose.domain.map(str::to_owned);
        let shown = |leaf: &Leaf| match &domain {
            Some(domain) => leaf.domain.as_ref() == Some(domain),
            None => leaf.path == path,
        };
        if !self.inventory.leaves.iter().any(shown) {
            let (peer, chain) = (whose.peer.map(str::to_owned), own.key.cert.clone());
            self.inventory.leaves.push(Leaf { side: whose.side, peer, path: path.to_owned(), chain, domain });
        }
        Ok(own)
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
