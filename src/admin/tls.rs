//! HTTPS: what sessions of the HTTP port are made with.
//!
//! The certificates are those that phones see, by the same resolver; client certificates are not asked for, whatever
//! `tls-mutual` says, as a scraper shows a token. A browser must not send one port's session to the other: tickets
//! are not shared with SIP, and ALPN tells the two apart.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};

/// From what the SIP port of phones is made with.
///
/// # Errors
/// None, as long as that one works.
pub(super) fn like(sip: &ServerConfig) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(sip.crypto_provider().clone())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(sip.cert_resolver.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // One request for each connection, and few of them.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
