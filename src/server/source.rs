//! What the HTTP port says of this process besides the numbers of its shards.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::admin::{About, Certificate, Crl, TlsFiles};
use crate::config::Config;
use crate::driver::Kind;
use crate::tls::inventory::{Inventory, Leaf};

/// What does not change while it runs.
pub(super) fn about(config: &Config, driver: Kind) -> About {
    let sockets = config.listeners.iter().flat_map(crate::config::Listener::sockets);
    let server = config.serving();
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: Duration::ZERO,
        driver: driver.to_string(),
        shards: 0,
        listeners: sockets.map(|(transport, address)| format!("{} {address}", transport.param_name())).collect(),
        server: format!("{} {} {}", server.name, server.transport.param_name(), server.primary),
        sticky: config.sipproxy.sticky.to_string(),
        tls_files: TlsFiles::default(),
        log_lost: 0,
    }
}

/// The certificates that we show.
pub(super) fn certificates(inventory: &Inventory) -> Vec<Certificate> {
    inventory.leaves.iter().filter_map(certificate).collect()
}

/// The revocation lists that say when the next one is to come.
pub(super) fn crls(inventory: &Inventory) -> Vec<Crl> {
    let shown = inventory.crls.iter().filter_map(|crl| {
        let (file, issuer) = (crl.path.display().to_string(), crl.issuer.clone());
        Some(Crl { file, issuer, next_update_unix_s: crl.next_update? })
    });
    shown.collect()
}

fn certificate(leaf: &Leaf) -> Option<Certificate> {
    Some(Certificate { file: leaf.path.display().to_string(), not_after: not_after(leaf)? })
}

/// When a certificate of ours begins to be valid.
pub(super) fn not_before(leaf: &Leaf) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(leaf.der()).ok()?;
    time(certificate.validity().not_before.timestamp())
}

/// When a certificate of ours stops to be valid.
pub(super) fn not_after(leaf: &Leaf) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(leaf.der()).ok()?;
    time(certificate.validity().not_after.timestamp())
}

fn time(seconds: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}
