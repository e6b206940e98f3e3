//! Which reason a failed handshake is counted by. Pure.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::stats::HandshakeFailure;

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
