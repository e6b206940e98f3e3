//! What a handshake came to: by which counter, and in which words for the operator. Pure.

use rustls::{AlertDescription, CertificateError, CipherSuite, Error, PeerIncompatible, ProtocolVersion};

use super::Files;
use super::hello::Offer;
use crate::stats::{Counter, HandshakeFailure};

/// What our first message says.
const OFFERED: &str = "TLS 1.2 and 1.3, and ECDHE by X25519, P-256 or P-384 with AES-GCM or ChaCha20";

/// What is wrong with a certificate of SHA-1, or with a key that is too short.
const ALGORITHM: &str = "it is signed by an algorithm or has a key that is not taken";

/// The counters of what the two have agreed on.
#[must_use]
pub fn agreed(version: ProtocolVersion, suite: CipherSuite) -> [Counter; 2] {
    let version = match version {
        ProtocolVersion::TLSv1_3 => Counter::TlsVersion13,
        _ => Counter::TlsVersion12,
    };
    let suite = match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Counter::TlsCipher13Aes256,
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Counter::TlsCipher13Aes128,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Counter::TlsCipher13Chacha20,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Counter::TlsCipherEcdsaAes256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Counter::TlsCipherEcdsaAes128,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Counter::TlsCipherEcdsaChacha20,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Counter::TlsCipherRsaAes256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Counter::TlsCipherRsaAes128,
        // The provider has no other.
        _ => Counter::TlsCipherRsaChacha20,
    };
    [version, suite]
}

/// A handshake that rustls has given up.
#[derive(Debug)]
pub struct Failed<'a> {
    /// rustls' verdict.
    pub fault: &'a Error,
    /// What the client had offered, if it failed at that.
    pub offer: Option<Offer>,
    /// The certificate of the peer that was refused, in words.
    pub refused: Option<String>,
    /// What the client has sent that is no TLS.
    pub plain: Option<String>,
    /// We have opened the connection.
    pub outbound: bool,
    /// Ours.
    pub files: &'a Files,
}

impl Failed<'_> {
    /// The reason that is counted.
    #[must_use]
    pub fn reason(&self) -> HandshakeFailure {
        use HandshakeFailure as Why;
        match (reason(self.fault), &self.offer) {
            // A client before TLS 1.2 names no signature schemes, and that is what rustls misses first.
            (Why::Signature | Why::Cipher, Some(offer)) if !offer.is_modern() => Why::Version,
            (why, _) => why,
        }
    }

    /// What happened, what the peer has shown or offered, what is wanted, and which file is concerned.
    #[must_use]
    pub fn words(&self) -> String {
        use HandshakeFailure as Why;
        let mut words = verdict(self.fault);
        if let Error::AlertReceived(_) = self.fault {
            words.push_str(&match self.reason() {
                // The peer has answered our first message, and has seen nothing else.
                Why::Version | Why::Cipher if self.outbound => format!("; it was offered {OFFERED}"),
                _ => self.shown(),
            });
            return words;
        }
        if let Some(plain) = &self.plain {
            words.push_str(&format!("; it speaks no TLS on this port, but begins with {plain:?}"));
            return words;
        }
        if let Some(refused) = &self.refused {
            words.push_str(&format!("; it has shown {refused}"));
        }
        if let Some(offer) = &self.offer {
            words.push_str(&format!("; it offers {offer}"));
        }
        let wanted = match self.reason() {
            _ if let Some(wanted) = instead_of(self.fault) => wanted.to_owned(),
            Why::Version => "TLS 1.2 or 1.3".to_owned(),
            Why::Cipher => "ECDHE by X25519, P-256 or P-384 with AES-GCM or ChaCha20, and a suite that fits the \
                            certificate"
                .to_owned(),
            Why::Alpn => "sip/2 in the list, or no list".to_owned(),
            Why::Signature => {
                "SHA-256 or more, and RSA of 2,048 bits or more, ECDSA by P-256 or P-384, or Ed25519".to_owned()
            }
            Why::None | Why::UnknownCa | Why::SelfSigned => {
                format!("a certificate of {}", self.trusted())
            }
            Why::Usage => "clientAuth in a client's certificate (see client-eku), serverAuth in a server's".to_owned(),
            _ => return words,
        };
        words.push_str(&format!("; wanted is {wanted}"));
        words
    }

    /// What the peer has seen of us.
    fn shown(&self) -> String {
        let Some(path) = &self.files.certificate else { return "; the peer was shown no certificate".to_owned() };
        let other =
            if self.files.domains && !self.outbound { " (or that of the domain that it asked for)" } else { "" };
        format!("; the peer was shown the certificate in {}{other}", path.display())
    }

    /// Who may vouch for the peer.
    fn trusted(&self) -> String {
        let mut words = match (&self.files.trusted_ca, self.files.system_roots) {
            (Some(path), false) => format!("a CA in {}", path.display()),
            (Some(path), true) => format!("a CA in {}, or one of the system's", path.display()),
            // Without either nobody is asked for a certificate.
            (None, _) => "one of the system's CAs".to_owned(),
        };
        // A SIP Server's CA has no place in the file for phones.
        if let (Some(path), false) = (&self.files.servers_ca, self.outbound) {
            words.push_str(&format!(" (for a SIP Server, in {})", path.display()));
        }
        words
    }
}

/// rustls' verdict, where it does not print it as a programmer would.
fn verdict(fault: &Error) -> String {
    let what = match fault {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<webpki::Error>() {
            // The fault's details are all algorithms by their numbers, those that are taken too.
            Some(fault) if chain(fault) == HandshakeFailure::Signature => ALGORITHM.to_owned(),
            _ => other.0.to_string(),
        },
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => ALGORITHM.to_owned(),
        fault => return fault.to_string(),
    };
    format!("invalid peer certificate: {what}")
}

/// What is wanted, where the reason alone would lead its reader astray.
fn instead_of(fault: &Error) -> Option<&'static str> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = fault else { return None };
    match other.0.downcast_ref()? {
        // As `openssl x509 -req` makes them without extensions.
        webpki::Error::UnsupportedCertVersion => Some("a certificate of X.509 version 3"),
        webpki::Error::CaUsedAsEndEntity => Some("a certificate that is no CA's own (basicConstraints CA:FALSE)"),
        webpki::Error::EndEntityUsedAsCa => Some("a chain of CAs (basicConstraints CA:TRUE)"),
        webpki::Error::InvalidCrlSignatureForPublicKey => {
            Some("a list in the file of crl that is signed by the key of this issuer")
        }
        _ => None,
    }
}

/// The reason for rustls' verdict on a handshake.
#[must_use]
pub fn reason(fault: &Error) -> HandshakeFailure {
    use HandshakeFailure as Why;
    match fault {
        Error::InvalidCertificate(fault) => certificate(fault),
        Error::NoCertificatesPresented => Why::None,
        Error::NoApplicationProtocol => Why::Alpn,
        Error::PeerIncompatible(what) => incompatible(what),
        Error::AlertReceived(alert) => received(*alert),
        _ => Why::Protocol,
    }
}

fn certificate(fault: &CertificateError) -> HandshakeFailure {
    use HandshakeFailure as Why;
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Why::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Why::NotYetValid,
        CertificateError::Revoked => Why::Revoked,
        CertificateError::UnknownIssuer => Why::UnknownCa,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Why::Usage,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Why::Name,
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Why::Signature,
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(fault) => chain(fault),
            None if other.0.is::<super::trust::SelfSigned>() => Why::SelfSigned,
            None if other.0.is::<super::trust::NotThePeer>() => Why::Name,
            None => Why::Protocol,
        },
        _ => Why::Protocol,
    }
}

/// The rarer faults of a chain.
fn chain(fault: &webpki::Error) -> HandshakeFailure {
    use HandshakeFailure as Why;
    match fault {
        webpki::Error::CaUsedAsEndEntity => Why::Usage,
        webpki::Error::EndEntityUsedAsCa
        | webpki::Error::PathLenConstraintViolated
        | webpki::Error::MaximumPathDepthExceeded => Why::UnknownCa,
        webpki::Error::NameConstraintViolation => Why::Name,
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | webpki::Error::SignatureAlgorithmMismatch => Why::Signature,
        _ => Why::Protocol,
    }
}

fn incompatible(what: &PeerIncompatible) -> HandshakeFailure {
    use HandshakeFailure as Why;
    match what {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Why::Version,
        PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Why::Signature,
        _ => Why::Cipher,
    }
}

/// Whether the peer refuses the certificate that we have shown, or that we have shown none. With TLS 1.3 a client
/// learns that only when the handshake is over for it (RFC 8446 §4.4.2.4, §6.2).
#[must_use]
pub fn is_of_our_certificate(fault: &Error) -> bool {
    use AlertDescription as Alert;
    let Error::AlertReceived(alert) = fault else { return false };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

/// What the peer holds against us.
fn received(alert: AlertDescription) -> HandshakeFailure {
    use HandshakeFailure as Why;
    match alert {
        AlertDescription::CertificateExpired => Why::Expired,
        AlertDescription::CertificateRevoked => Why::Revoked,
        AlertDescription::UnknownCA => Why::UnknownCa,
        AlertDescription::UnsupportedCertificate => Why::Usage,
        AlertDescription::CertificateRequired => Why::None,
        AlertDescription::NoApplicationProtocol => Why::Alpn,
        AlertDescription::ProtocolVersion => Why::Version,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Why::Cipher,
        AlertDescription::DecryptError => Why::Signature,
        AlertDescription::UserCanceled | AlertDescription::CloseNotify => Why::Reset,
        _ => Why::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::super::trust::{NotThePeer, SelfSigned};
    use super::*;

    fn files() -> Files {
        let (certificate, trusted_ca) = (Some("own.pem".into()), Some("ca.pem".into()));
        Files { certificate, trusted_ca, ..Files::default() }
    }

    #[test]
    fn the_files_that_are_named_are_those_that_count() {
        let words = |fault: Error, files: &Files| {
            let (offer, refused, plain) = (None, None, None);
            Failed { fault: &fault, offer, refused, plain, outbound: false, files }.words()
        };
        let unknown = || Error::from(CertificateError::UnknownIssuer);
        let mut files = Files { system_roots: true, domains: true, ..files() };
        assert!(words(unknown(), &files).ends_with("a certificate of a CA in ca.pem, or one of the system's"));
        files.servers_ca = Some("servers.pem".into());
        assert!(words(unknown(), &files).ends_with("one of the system's (for a SIP Server, in servers.pem)"));
        files.servers_ca = None;
        files.trusted_ca = None;
        assert!(words(unknown(), &files).ends_with("a certificate of one of the system's CAs"));
        let alert = || Error::AlertReceived(AlertDescription::UnknownCA);
        assert!(words(alert(), &files).ends_with("in own.pem (or that of the domain that it asked for)"));
        files.certificate = None;
        assert!(words(alert(), &files).ends_with("; the peer was shown no certificate"));
    }

    #[test]
    fn the_words_say_what_was_offered_what_is_wanted_and_which_file_is_concerned() {
        let files = files();
        let failed = |fault, offer, refused: Option<&str>| {
            let refused = refused.map(str::to_owned);
            let failed = Failed { fault: &fault, offer, refused, plain: None, outbound: false, files: &files };
            (failed.reason(), failed.words())
        };
        let old = Offer { versions: vec![0x0302], ..Offer::default() };
        let missed = Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired);
        let (why, words) = failed(missed.clone(), Some(old), None);
        assert_eq!(why, HandshakeFailure::Version, "that is what its owner has to know");
        assert!(words.ends_with("; it offers TLS 1.1; wanted is TLS 1.2 or 1.3"), "{words}");
        let new = Offer { versions: vec![0x0303], ..Offer::default() };
        assert_eq!(failed(missed, Some(new), None).0, HandshakeFailure::Signature);
        let (why, words) = failed(CertificateError::UnknownIssuer.into(), None, Some("CN=a"));
        assert_eq!(why, HandshakeFailure::UnknownCa);
        assert!(words.ends_with("; it has shown CN=a; wanted is a certificate of a CA in ca.pem"), "{words}");
        let (why, words) = failed(Error::AlertReceived(AlertDescription::UnknownCA), None, None);
        assert_eq!(why, HandshakeFailure::UnknownCa);
        assert!(words.ends_with("; the peer was shown the certificate in own.pem"), "{words}");
    }

    #[test]
    fn the_words_lead_nobody_astray() {
        let files = files();
        let words = |fault: Error, plain: Option<&str>| {
            let plain = plain.map(str::to_owned);
            Failed { fault: &fault, offer: None, refused: None, plain, outbound: true, files: &files }.words()
        };
        let other = |fault| CertificateError::Other(rustls::OtherError(std::sync::Arc::new(fault))).into();
        assert!(
            words(other(webpki::Error::CaUsedAsEndEntity), None).contains("wanted is a certificate that is no CA's")
        );
        let ours = |fault| Error::from(CertificateError::Other(rustls::OtherError(fault)));
        let own = words(ours(std::sync::Arc::new(SelfSigned)), None);
        assert!(own.starts_with("invalid peer certificate: it is self-signed; wanted is a certificate of"), "{own}");
        let weak = webpki::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6],
            supported_algorithms: Vec::new(),
        };
        let weak = words(other(webpki::Error::UnsupportedSignatureAlgorithmContext(weak)), None);
        assert!(weak.starts_with("invalid peer certificate: it is signed by an algorithm or has a key"), "{weak}");
        let presented = vec!["dns:a.example".to_owned(), "ip:192.0.2.1".to_owned()];
        let peer = words(ours(std::sync::Arc::new(NotThePeer { presented })), None);
        assert!(peer.ends_with("it does not name that peer but dns:a.example, ip:192.0.2.1"), "{peer}");
        let list = words(other(webpki::Error::InvalidCrlSignatureForPublicKey), None);
        assert!(list.contains("wanted is a list in the file of crl"), "{list}");
        // Nothing of ours was shown to who does not even take our first message.
        for alert in [AlertDescription::ProtocolVersion, AlertDescription::HandshakeFailure] {
            let words = words(Error::AlertReceived(alert), None);
            assert!(words.contains("; it was offered TLS 1.2 and 1.3") && !words.contains("own.pem"), "{words}");
        }
        let plain = words(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), Some("REGISTER sip:"));
        assert!(plain.ends_with("; it speaks no TLS on this port, but begins with \"REGISTER sip:\""), "{plain}");
    }

    #[test]
    fn what_the_peer_says_of_our_certificate_is_told_from_other_alerts() {
        for alert in [AlertDescription::UnknownCA, AlertDescription::CertificateRequired] {
            assert!(is_of_our_certificate(&Error::AlertReceived(alert)), "{alert:?}");
        }
        assert!(!is_of_our_certificate(&Error::AlertReceived(AlertDescription::InternalError)));
        assert!(!is_of_our_certificate(&Error::DecryptError));
    }
}
