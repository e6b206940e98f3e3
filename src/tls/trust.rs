//! Whether the certificate of a peer is to be trusted, in both directions of a connection: the chain, its dates, its
//! usage and its revocation by webpki, the name by [`identity`].
//!
//! There is no way to leave out the chain. `verify = "chain"` leaves out the name of a peer that we connect to; the
//! names of a client only say who it is; but where its CA is trusted for single peers only, they must be a peer's.
//!
//! A certificate whose issuer has no list here passes, and a list that is past its nextUpdate still revokes what it
//! names: an operator who is late with a list must not lock out every phone, and is warned instead.
//!
//! [`identity`]: super::identity

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter,
    KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::identity::{Expected, Identities};
use crate::config::{ClientEku, Verify};
use crate::ids::{SetupId, Side};

/// The names of trusted CAs that a client is told are at most so long in all; of more than that none is told.
const HINTS_LEN_MAX: usize = 8 * 1024;
/// The words for a certificate that was refused, in characters.
const REFUSED_LEN_MAX: usize = 512;
/// Names of a certificate that are told when none is the one that is meant, each in so many characters.
const PRESENTED_MAX: usize = 8;
const PRESENTED_LEN_MAX: usize = 80;

/// The peer's certificate vouches for itself and is no trusted CA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfSigned;

impl std::fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// A client's certificate is of a CA that is trusted for a peer only, and does not name that peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotThePeer {
    /// The names that it has.
    pub presented: Vec<String>,
}

impl std::fmt::Display for NotThePeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is of a CA that is trusted for a peer only, and it does not name that peer but ")?;
        f.write_str(&if self.presented.is_empty() { "nobody".to_owned() } else { self.presented.join(", ") })
    }
}

impl std::error::Error for NotThePeer {}

thread_local! {
    /// The last certificate that was refused on this thread, in words: rustls keeps it from whoever runs the
    /// handshake, and has none of its own verdicts say whose it was.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The certificate that the handshake step before this call has refused, if it has.
#[must_use]
pub fn take_refused() -> Option<String> {
    REFUSED.take()
}

fn note_refused(certificate: &CertificateDer<'_>) {
    REFUSED.set(X509Certificate::from_der(certificate).ok().map(|(_, certificate)| {
        let valid = certificate.validity();
        let words = format!(
            "{}, issued by {}, serial {}, valid from {} to {}",
            certificate.subject(),
            certificate.issuer(),
            certificate.raw_serial_as_string(),
            valid.not_before,
            valid.not_after
        );
        // A certificate may hold any text, and this goes into a log.
        words.chars().take(REFUSED_LEN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
    }));
}

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

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Server,
    Client,
    /// Certificates of CAs that no longer issue clientAuth.
    Either,
}

const SERVER_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2B, 6, 1, 5, 5, 7, 3, 1]);
const CLIENT_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2B, 6, 1, 5, 5, 7, 3, 2]);

impl ExtendedKeyUsageValidator for Usage {
    /// No extended key usage at all allows everything (RFC 5280 §4.2.1.12).
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match self {
            Self::Server => KeyUsage::server_auth().validate(purposes),
            Self::Client => KeyUsage::client_auth().validate(purposes),
            Self::Either => {
                let mut present = Vec::new();
                for purpose in purposes {
                    let purpose = purpose?;
                    if purpose == CLIENT_AUTH || purpose == SERVER_AUTH {
                        return Ok(());
                    }
                    present.push(purpose.to_decoded_oid());
                }
                let required = KeyUsage::client_auth();
                let fault = webpki::RequiredEkuNotFoundContext { required, present };
                if fault.present.is_empty() { Ok(()) } else { Err(webpki::Error::RequiredEkuNotFoundContext(fault)) }
            }
        }
    }
}

/// The CAs that one side trusts, with the lists of what they have revoked.
#[derive(Debug)]
pub struct Trust {
    roots: RootCertStore,
    crls: Vec<CertRevocationList<'static>>,
    /// Of each list: how many before it are of an issuer of the same name.
    ranks: Vec<usize>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts certificates that chain to one of `roots` and that no list names.
    #[must_use]
    pub fn new(
        roots: RootCertStore,
        crls: Vec<CertRevocationList<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let hints = roots.subjects();
        let fits = len_of(&hints) <= HINTS_LEN_MAX;
        let before = |at: usize| crls[..at].iter().filter(|other| other.issuer() == crls[at].issuer()).count();
        let ranks = (0..crls.len()).map(before).collect();
        Self { roots, crls, ranks, hints: if fits { hints } else { Vec::new() }, algorithms }
    }

    /// Whether the certificate of a client that has been taken in is one of ours too.
    #[must_use]
    pub fn trusts_client(&self, chain: &[CertificateDer<'_>], eku: ClientEku) -> bool {
        match chain.split_first() {
            Some((leaf, rest)) => self.verify(leaf, rest, UnixTime::now(), usage(eku)).is_ok(),
            None => false,
        }
    }

    /// Whether one of these names is that of a CA of ours. That it has issued anything is not verified by that.
    fn is_any(&self, issuers: &[Vec<u8>]) -> bool {
        // webpki names a subject by the content of its sequence, without the header.
        let roots = &self.roots.roots;
        issuers.iter().any(|issuer| roots.iter().any(|root| issuer.ends_with(&root.subject)))
    }

    /// A CA that has changed its key and kept its name has a list for each, and webpki asks the first of that name
    /// only: each of them is first in its turn, until there is one that the issuer's key has signed.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), Error> {
        let turns = self.ranks.iter().max().map_or(1, |rank| rank + 1);
        let verify = |turn| self.verify_in_turn(turn, certificate, intermediates, now, usage);
        // Where the CA is trusted under both keys, the fault that webpki has for the other one hides that of the list.
        let by_another = |result: &Result<(), _>| {
            use webpki::Error::{InvalidCrlSignatureForPublicKey, InvalidSignatureForPublicKey};
            matches!(result, Err(InvalidCrlSignatureForPublicKey | InvalidSignatureForPublicKey))
        };
        let mut result = verify(0);
        for turn in 1..turns {
            if by_another(&result) {
                result = verify(turn);
            }
        }
        result.map_err(|fault| fault_of(fault, certificate).into())
    }

    fn verify_in_turn(
        &self,
        turn: usize,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), webpki::Error> {
        // The list of this turn before the others of its name. A name with fewer lists keeps its order.
        let (first, others): (Vec<_>, Vec<_>) = self.crls.iter().zip(&self.ranks).partition(|(_, rank)| **rank == turn);
        let crls: Vec<&CertRevocationList<'_>> = first.into_iter().chain(others).map(|(list, _)| list).collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        EndEntityCert::try_from(certificate)?
            .verify_for_usage(self.algorithms.all, &self.roots.roots, intermediates, now, usage, revocation, None)
            .map(|_| ())
    }
}

/// Whom these certificates say that they are issued by.
fn issuers<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Vec<Vec<u8>> {
    let issuer = |der: &'a CertificateDer<'a>| {
        X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.issuer().as_raw().to_vec())
    };
    chain.filter_map(issuer).collect()
}

fn len_of(hints: &[DistinguishedName]) -> usize {
    hints.iter().map(|name| name.as_ref().len()).sum()
}

fn usage(eku: ClientEku) -> Usage {
    match eku {
        ClientEku::Strict => Usage::Client,
        ClientEku::Any => Usage::Either,
    }
}

/// rustls sends the alert that fits.
fn fault_of(fault: webpki::Error, certificate: &CertificateDer<'_>) -> CertificateError {
    use webpki::Error as Fault;
    match fault {
        // Most self-signed certificates call themselves a CA.
        Fault::UnknownIssuer | Fault::CaUsedAsEndEntity if is_self_signed(certificate) => {
            CertificateError::Other(OtherError(Arc::new(SelfSigned)))
        }
        Fault::UnknownIssuer => CertificateError::UnknownIssuer,
        Fault::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Fault::InvalidCertValidity => CertificateError::Expired,
        Fault::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        Fault::CertRevoked => CertificateError::Revoked,
        Fault::RequiredEkuNotFoundContext(_) | Fault::EmptyEkuExtension => CertificateError::InvalidPurpose,
        Fault::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Fault::BadDer | Fault::BadDerTime | Fault::TrailingData(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// Whether a certificate carries the name that a connection was opened with.
fn names(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let identities = identities(certificate)?;
    match expected(name) {
        Some(expected) if identities.match_expected(&expected) => Ok(()),
        _ => Err(CertificateError::NotValidForNameContext {
            expected: name.to_owned(),
            presented: presented(&identities),
        }
        .into()),
    }
}

/// The names of a certificate, for a log: they may hold any text.
fn presented(identities: &Identities) -> Vec<String> {
    let printable = |name: &String| {
        name.chars().take(PRESENTED_LEN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect::<String>()
    };
    identities.words().iter().take(PRESENTED_MAX).map(printable).collect()
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, c)| c.issuer() == c.subject())
}

/// Verifies whom we connect to.
#[derive(Debug)]
pub struct ServerCheck {
    trust: Arc<Trust>,
    verify: Verify,
}

impl ServerCheck {
    /// By its chain, and unless `verify` leaves it out by the name that the connection was opened with.
    #[must_use]
    pub fn new(trust: Arc<Trust>, verify: Verify) -> Self {
        Self { trust, verify }
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // Ours, from the settings: what the connection was opened with, and nothing that the peer says.
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.trust.verify(end_entity, intermediates, now, Usage::Server).and_then(|()| match self.verify {
                Verify::Chain => Ok(()),
                Verify::Name => names(end_entity, server_name),
            });
        verified.inspect_err(|_| note_refused(end_entity)).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// The CAs of peers that have their own, and the names that these vouch for.
#[derive(Debug)]
pub(super) struct PeerTrust {
    pub(super) side: Side,
    pub(super) setup: SetupId,
    pub(super) trust: Arc<Trust>,
    pub(super) eku: ClientEku,
    pub(super) expected: Vec<Expected>,
}

impl PeerTrust {
    /// Whether it may vouch for a certificate with these names.
    pub(super) fn is_for(&self, identities: &Identities) -> bool {
        self.expected.iter().any(|expected| identities.match_expected(expected))
    }
}

/// Verifies who connects to us, with `tls-mutual = 1`.
#[derive(Debug)]
pub struct ClientCheck {
    first: (Arc<Trust>, ClientEku),
    /// A port for both sides takes what either of them trusts.
    second: Option<(Arc<Trust>, ClientEku)>,
    /// CAs that are trusted for single peers, each with the names that it may vouch for.
    peer_trusts: Vec<Arc<PeerTrust>>,
    hints: Vec<DistinguishedName>,
}

impl ClientCheck {
    /// By the CAs of `first`; those of `second` are asked when it knows none of the chain, and those of `peer_trusts` when
    /// neither does.
    #[must_use]
    pub(super) fn new(
        first: (Arc<Trust>, ClientEku),
        second: Option<(Arc<Trust>, ClientEku)>,
        peer_trusts: Vec<Arc<PeerTrust>>,
    ) -> Self {
        let others = second.iter().map(|(trust, _)| trust).chain(peer_trusts.iter().map(|peer| &peer.trust));
        let mut hints: Vec<DistinguishedName> = Vec::new();
        for trust in [&first.0].into_iter().chain(others) {
            // No hints at all mean any CA.
            if trust.hints.is_empty() {
                hints.clear();
                break;
            }
            for hint in &trust.hints {
                if !hints.iter().any(|known| known.as_ref() == hint.as_ref()) {
                    hints.push(hint.clone());
                }
            }
        }
        if len_of(&hints) > HINTS_LEN_MAX {
            hints.clear();
        }
        Self { first, second, peer_trusts, hints }
    }

    /// A certificate that the CAs of no side vouch for, which is `unknown`: a peer may be known to its own, and its own
    /// may vouch for nobody else.
    fn verify_peer(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        unknown: Error,
    ) -> Result<(), Error> {
        let identities = identities(end_entity)?;
        let issuers = issuers([end_entity].into_iter().chain(intermediates));
        let mut fault = unknown;
        for peer in &self.peer_trusts {
            if !peer.is_for(&identities) {
                if peer.trust.is_any(&issuers) {
                    let presented = presented(&identities);
                    fault = CertificateError::Other(OtherError(Arc::new(NotThePeer { presented }))).into();
                }
                continue;
            }
            match peer.trust.verify(end_entity, intermediates, now, usage(peer.eku)) {
                Err(other) if is_unknown(&other) => {}
                Err(other) => return Err(other),
                Ok(()) => return Ok(()),
            }
        }
        Err(fault)
    }
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let by = |(trust, eku): &(Arc<Trust>, ClientEku)| trust.verify(end_entity, intermediates, now, usage(*eku));
        let verified = match (by(&self.first), &self.second) {
            (Err(first), Some(second)) if is_unknown(&first) => by(second),
            (other, _) => other,
        };
        let verified = match verified {
            Err(unknown) if is_unknown(&unknown) && !self.peer_trusts.is_empty() => {
                self.verify_peer(end_entity, intermediates, now, unknown)
            }
            other => other,
        };
        verified.inspect_err(|_| note_refused(end_entity)).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.first.0.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.first.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.0.algorithms.supported_schemes()
    }
}

/// Two CAs may have the same name, so that the key of one does not fit what the other has signed.
fn is_unknown(fault: &Error) -> bool {
    match fault {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.is::<SelfSigned>(),
        _ => false,
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
