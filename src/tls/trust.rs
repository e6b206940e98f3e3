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

/// The peer's certificate vouches for itself and is no trusted CA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfSigned;

impl std::fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// Trusted CAs, and the one name that they must vouch for.
#[derive(Debug)]
pub struct Trust {
    roots: RootCertStore,
    /// `None` with `verify = "chain"`.
    expected: Option<Expected>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts certificates that chain to one of `roots` and carry `expected`, if that is given.
    #[must_use]
    pub fn new(roots: RootCertStore, expected: Option<Expected>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, expected, algorithms }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // What was asked for is no evidence; what must be there is in the settings.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
            .map_err(|fault| tell_self_signed(fault, end_entity))?;
        let Some(expected) = &self.expected else { return Ok(ServerCertVerified::assertion()) };
        if identities(end_entity)?.match_expected(expected) {
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
