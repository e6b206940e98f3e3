//! What connections that we open are made with: whom they trust, and the certificate that we show there.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, KeyLog, SupportedProtocolVersion};

use super::certificate::Certificate;
use super::error::TlsError;
use super::trust::{ServerCheck, Trust};
use crate::config::Verify;

/// The versions of TLS that are spoken, in both directions.
pub(super) const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// One configuration serves all names: whom a connection must find is given with each.
#[derive(Clone, Debug)]
pub(super) struct Connect {
    pub(super) by_name: Arc<ClientConfig>,
    pub(super) by_chain: Arc<ClientConfig>,
}

impl Connect {
    /// Trusts `trust`, shows `certificate`, and writes the keys of sessions to `key_log`.
    ///
    /// # Errors
    /// rustls does not take its own provider.
    pub(super) fn new(
        trust: &Arc<Trust>,
        certificate: Option<&Certificate>,
        key_log: &Arc<dyn KeyLog>,
    ) -> Result<Self, TlsError> {
        let config = |verify: Verify| {
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(VERSIONS)
                .map_err(TlsError::Provider)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(ServerCheck::new(trust.clone(), verify)));
            let mut config = match certificate {
                Some(certificate) => {
                    builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())))
                }
                None => builder.with_no_client_auth(),
            };
            // For the same reason as above; and these connections are few and stay. So there is no cache from which a session
            // with one peer could be taken up with another's trust.
            config.resumption = Resumption::disabled();
            config.key_log = key_log.clone();
            Ok::<_, TlsError>(Arc::new(config))
        };
        Ok(Self { by_name: config(Verify::Name)?, by_chain: config(Verify::Chain)? })
    }
}
