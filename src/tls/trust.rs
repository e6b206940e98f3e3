//! How the certificate of a peer that we connect to is verified: the chain by rustls, the name by [`identity`].
//!
//! There is no way to leave out the chain. `verify = "chain"` leaves out the name.
//!
//! [`identity`]: super::identity

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::identity::{Expected, Identities};
use crate::config::Verify;

/// The peer's certificate vouches for itself and is no trusted CA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfSigned;

impl std::fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// What asks for `expected` in a handshake.
///
/// # Errors
/// The name, when it is none that TLS can ask for.
pub fn server_name(expected: &Expected) -> Result<ServerName<'static>, String> {
    match expected {
        Expected::Name(name) => ServerName::try_from(name.clone()).map_err(|_| name.clone()),
        Expected::Address(ip) => Ok(ServerName::from(*ip)),
    }
}

/// The reverse of [`server_name`].
fn expected(name: &ServerName<'_>) -> Option<Expected> {
    match name {
        ServerName::DnsName(name) => Some(Expected::Name(name.as_ref().to_owned())),
        ServerName::IpAddress(ip) => Some(Expected::Address(IpAddr::from(*ip))),
        _ => None,
    }
}

/// Trusted CAs, and whether a certificate of theirs must carry the name that a connection was opened with.
#[derive(Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts certificates that chain to one of `roots`.
    #[must_use]
    pub fn new(roots: Arc<RootCertStore>, verify: Verify, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, verify, algorithms }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // Ours, from the settings: what the connection was opened with, and nothing that the peer says.
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
            .map_err(|fault| tell_self_signed(fault, end_entity))?;
        if self.verify == Verify::Chain {
            return Ok(ServerCertVerified::assertion());
        }
        let identities = identities(end_entity)?;
        if expected(server_name).is_some_and(|expected| identities.match_expected(&expected)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// An unknown issuer that is the certificate itself has its own reason.
fn tell_self_signed(fault: Error, certificate: &CertificateDer<'_>) -> Error {
    let own = |der: &[u8]| X509Certificate::from_der(der).is_ok_and(|(_, c)| c.issuer() == c.subject());
    match fault {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if own(certificate) => {
            CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
        }
        other => other,
    }
}

/// The names of a certificate that count.
///
/// # Errors
/// It cannot be read.
pub fn identities(certificate: &CertificateDer<'_>) -> Result<Identities, Error> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let mut all = Identities::default();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => all.add_uri(uri),
                GeneralName::DNSName(name) => all.add_dns(name),
                GeneralName::IPAddress(octets) => all.addresses.extend(address(octets)),
                _ => {}
            }
        }
    }
    Ok(all)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok().map(|ip| ip.to_canonical())
}
