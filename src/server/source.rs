//! What the HTTP port shows, taken from the shards.

use std::time::{Duration, Instant, SystemTime};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::admin::{About, Certificate, Readiness};
use crate::config::Config;
use crate::engine::Located;
use crate::shard::Handle;
use crate::stats::Snapshot;
use crate::tls::setup::Leaf;

/// The shards of this process, for `admin`.
pub(super) struct Source {
    handle: Handle,
    started: Instant,
    about: About,
}

impl Source {
    pub(super) fn new(config: &Config, handle: Handle, leaves: &[Leaf]) -> Self {
        let sockets = config.listeners.iter().flat_map(crate::config::Listener::sockets);
        let server = config.serving();
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: Duration::ZERO,
            shards: u8::try_from(handle.shards()).unwrap_or(u8::MAX),
            listeners: sockets.map(|(transport, address)| format!("{} {address}", transport.param_name())).collect(),
            server: format!("{} {} {}", server.name, server.transport.param_name(), server.primary),
            sticky: config.sipproxy.sticky.to_string(),
            certificates: leaves.iter().filter_map(certificate).collect(),
        };
        Self { handle, started: Instant::now(), about }
    }
}

fn certificate(leaf: &Leaf) -> Option<Certificate> {
    Some(Certificate { file: leaf.path.display().to_string(), not_after: not_after(leaf)? })
}

/// When a certificate of ours stops to be valid.
pub(super) fn not_after(leaf: &Leaf) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(&leaf.der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl crate::admin::Source for Source {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.handle.snapshots()
    }

    fn locate(&self, aor: &str) -> Option<Vec<Located>> {
        self.handle.locate(aor)
    }

    fn readiness(&self) -> Readiness {
        if self.handle.draining() {
            Readiness::Not("stopping".to_owned())
        } else if self.handle.ready() {
            Readiness::Ready
        } else {
            Readiness::Not("a shard is out of service after repeated panics".to_owned())
        }
    }

    fn about(&self) -> About {
        About { uptime: self.started.elapsed(), ..self.about.clone() }
    }
}
