//! Which counter belongs to a side, a transport, a timer or a failed handshake.

use super::Counter;
use crate::ids::{Side, Transport};

/// Why a TLS handshake failed: the `reason` label of `hawser_tls_handshake_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer was asked for a certificate and gave none.
    None,
    /// The peer's certificate, or one of the chain, has expired.
    Expired,
    /// The peer's certificate is not valid yet.
    NotYetValid,
    /// No trusted CA issued it.
    UnknownCa,
    /// The peer's certificate is self-signed.
    SelfSigned,
    /// A CRL lists it.
    Revoked,
    /// The certificate's key usage does not fit the peer's role.
    Usage,
    /// The certificate does not carry the configured name (RFC 5922).
    Name,
    /// A signature does not verify, or its algorithm is not accepted.
    Signature,
    /// No common TLS version.
    Version,
    /// No common cipher suite or key exchange group.
    Cipher,
    /// ALPN was offered without `sip/2`.
    Alpn,
    /// Not finished in time.
    Timeout,
    /// The peer closed or reset the connection.
    Reset,
    /// Anything else, such as bytes that are not TLS.
    Protocol,
}

impl HandshakeFailure {
    /// The label, as counted and logged.
    #[must_use]
    pub fn name(self) -> &'static str {
        Counter::handshake_failed(Side::Endpoint, self).row().label("reason").unwrap_or("protocol")
    }
}

impl Counter {
    /// One SIP message received over `transport`.
    #[must_use]
    pub fn messages_in(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::MessagesInUdp,
            Transport::Tcp => Self::MessagesInTcp,
            Transport::Tls => Self::MessagesInTls,
        }
    }

    /// One SIP message sent over `transport`.
    #[must_use]
    pub fn messages_out(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::MessagesOutUdp,
            Transport::Tcp => Self::MessagesOutTcp,
            Transport::Tls => Self::MessagesOutTls,
        }
    }

    /// Bytes received over `transport`.
    #[must_use]
    pub fn bytes_in(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::BytesInUdp,
            Transport::Tcp => Self::BytesInTcp,
            Transport::Tls => Self::BytesInTls,
        }
    }

    /// Bytes sent over `transport`.
    #[must_use]
    pub fn bytes_out(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::BytesOutUdp,
            Transport::Tcp => Self::BytesOutTcp,
            Transport::Tls => Self::BytesOutTls,
        }
    }

    /// A response with `code` that `from` sent. A code below 200 counts as 1xx, one above 699 as 6xx.
    #[must_use]
    pub fn response_from(from: Side, code: u16) -> Self {
        match (from, code / 100) {
            (Side::Server, ..=1) => Self::ResponseFromServer1xx,
            (Side::Server, 2) => Self::ResponseFromServer2xx,
            (Side::Server, 3) => Self::ResponseFromServer3xx,
            (Side::Server, 4) => Self::ResponseFromServer4xx,
            (Side::Server, 5) => Self::ResponseFromServer5xx,
            (Side::Server, 6..) => Self::ResponseFromServer6xx,
            (Side::Endpoint, ..=1) => Self::ResponseFromEndpoint1xx,
            (Side::Endpoint, 2) => Self::ResponseFromEndpoint2xx,
            (Side::Endpoint, 3) => Self::ResponseFromEndpoint3xx,
            (Side::Endpoint, 4) => Self::ResponseFromEndpoint4xx,
            (Side::Endpoint, 5) => Self::ResponseFromEndpoint5xx,
            (Side::Endpoint, 6..) => Self::ResponseFromEndpoint6xx,
        }
    }

    /// A response with `code` that went to `to`; codes as in [`Counter::response_from`].
    #[must_use]
    pub fn response_to(to: Side, code: u16) -> Self {
        match (to, code / 100) {
            (Side::Server, ..=1) => Self::ResponseToServer1xx,
            (Side::Server, 2) => Self::ResponseToServer2xx,
            (Side::Server, 3) => Self::ResponseToServer3xx,
            (Side::Server, 4) => Self::ResponseToServer4xx,
            (Side::Server, 5) => Self::ResponseToServer5xx,
            (Side::Server, 6..) => Self::ResponseToServer6xx,
            (Side::Endpoint, ..=1) => Self::ResponseToEndpoint1xx,
            (Side::Endpoint, 2) => Self::ResponseToEndpoint2xx,
            (Side::Endpoint, 3) => Self::ResponseToEndpoint3xx,
            (Side::Endpoint, 4) => Self::ResponseToEndpoint4xx,
            (Side::Endpoint, 5) => Self::ResponseToEndpoint5xx,
            (Side::Endpoint, 6..) => Self::ResponseToEndpoint6xx,
        }
    }

    /// A connection of ours or of a peer that became ready; `None` for UDP, which has none.
    #[must_use]
    pub fn connection_opened(transport: Transport, outbound: bool) -> Option<Self> {
        match (transport, outbound) {
            (Transport::Udp, _) => None,
            (Transport::Tcp, false) => Some(Self::AcceptedTcp),
            (Transport::Tls, false) => Some(Self::AcceptedTls),
            (Transport::Tcp, true) => Some(Self::OpenedTcp),
            (Transport::Tls, true) => Some(Self::OpenedTls),
        }
    }

    /// A PROXY header that was read; whether it names a source.
    #[must_use]
    pub fn proxy_header(names_source: bool) -> Self {
        if names_source { Self::ProxyHeaderSource } else { Self::ProxyHeaderNobody }
    }

    /// A TLS handshake that succeeded.
    #[must_use]
    pub fn handshake(side: Side, resumed: bool) -> Self {
        match (side, resumed) {
            (Side::Server, false) => Self::HandshakeServerFull,
            (Side::Server, true) => Self::HandshakeServerResumed,
            (Side::Endpoint, false) => Self::HandshakeEndpointFull,
            (Side::Endpoint, true) => Self::HandshakeEndpointResumed,
        }
    }

    /// A TLS handshake that failed.
    #[must_use]
    pub fn handshake_failed(side: Side, why: HandshakeFailure) -> Self {
        use HandshakeFailure as Why;
        match (side, why) {
            (Side::Server, Why::None) => Self::HandshakeServerNone,
            (Side::Server, Why::Expired) => Self::HandshakeServerExpired,
            (Side::Server, Why::NotYetValid) => Self::HandshakeServerNotYetValid,
            (Side::Server, Why::UnknownCa) => Self::HandshakeServerUnknownCa,
            (Side::Server, Why::SelfSigned) => Self::HandshakeServerSelfSigned,
            (Side::Server, Why::Revoked) => Self::HandshakeServerRevoked,
            (Side::Server, Why::Usage) => Self::HandshakeServerUsage,
            (Side::Server, Why::Name) => Self::HandshakeServerName,
            (Side::Server, Why::Signature) => Self::HandshakeServerSignature,
            (Side::Server, Why::Version) => Self::HandshakeServerVersion,
            (Side::Server, Why::Cipher) => Self::HandshakeServerCipher,
            (Side::Server, Why::Alpn) => Self::HandshakeServerAlpn,
            (Side::Server, Why::Timeout) => Self::HandshakeServerTimeout,
            (Side::Server, Why::Reset) => Self::HandshakeServerReset,
            (Side::Server, Why::Protocol) => Self::HandshakeServerProtocol,
            (Side::Endpoint, Why::None) => Self::HandshakeEndpointNone,
            (Side::Endpoint, Why::Expired) => Self::HandshakeEndpointExpired,
            (Side::Endpoint, Why::NotYetValid) => Self::HandshakeEndpointNotYetValid,
            (Side::Endpoint, Why::UnknownCa) => Self::HandshakeEndpointUnknownCa,
            (Side::Endpoint, Why::SelfSigned) => Self::HandshakeEndpointSelfSigned,
            (Side::Endpoint, Why::Revoked) => Self::HandshakeEndpointRevoked,
            (Side::Endpoint, Why::Usage) => Self::HandshakeEndpointUsage,
            (Side::Endpoint, Why::Name) => Self::HandshakeEndpointName,
            (Side::Endpoint, Why::Signature) => Self::HandshakeEndpointSignature,
            (Side::Endpoint, Why::Version) => Self::HandshakeEndpointVersion,
            (Side::Endpoint, Why::Cipher) => Self::HandshakeEndpointCipher,
            (Side::Endpoint, Why::Alpn) => Self::HandshakeEndpointAlpn,
            (Side::Endpoint, Why::Timeout) => Self::HandshakeEndpointTimeout,
            (Side::Endpoint, Why::Reset) => Self::HandshakeEndpointReset,
            (Side::Endpoint, Why::Protocol) => Self::HandshakeEndpointProtocol,
        }
    }

    /// The bound that was reached when this is counted; `None` when none was.
    #[must_use]
    pub fn bound(self) -> Option<Self> {
        match self {
            Self::FaultMessageTooLarge => Some(Self::LimitMessageLen),
            Self::FaultHeaderBlockTooLarge | Self::ScanTooLarge => Some(Self::LimitHeaderBlockLen),
            Self::ScanTooManyFields => Some(Self::LimitFields),
            Self::FaultTooManyValues => Some(Self::LimitValues),
            Self::FaultRequestUriTooLong => Some(Self::LimitUriLen),
            Self::ClosedHandshakeTimeout => Some(Self::LimitHandshake),
            Self::ClosedFirstMessageTimeout => Some(Self::LimitFirstMessage),
            Self::ClosedSlowMessage => Some(Self::LimitMessageBegun),
            Self::ClosedIdle => Some(Self::LimitIdleUnregistered),
            Self::ClosedSendQueueFull => Some(Self::LimitSendQueueLen),
            Self::ClosedSendStalled => Some(Self::LimitSendStall),
            Self::ClosedSendSlow => Some(Self::LimitSendAge),
            Self::ClosedHalfClosed => Some(Self::LimitHalfClosed),
            Self::ProxyHeaderTooLong => Some(Self::LimitProxyHeaderLen),
            Self::ProxyHeaderTimeout => Some(Self::LimitProxyHeader),
            Self::ProxyHeaderGaveWay => Some(Self::LimitProxyHeadersAwaitedCount),
            Self::ClosedPings => Some(Self::LimitPingsPerRead),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_counted_under_its_own_label() {
        assert_eq!(HandshakeFailure::NotYetValid.name(), "not_yet_valid");
        let row = Counter::handshake_failed(Side::Server, HandshakeFailure::UnknownCa).row();
        assert_eq!((row.label("side"), row.label("reason")), (Some("server"), Some("unknown_ca")));
        assert_eq!(Counter::response_from(Side::Endpoint, 486).row().label("class"), Some("4xx"));
        assert_eq!(Counter::response_to(Side::Server, 100).row().label("class"), Some("1xx"));
        assert_eq!(Counter::response_to(Side::Server, 700).row().label("class"), Some("6xx"));
        assert_eq!(Counter::messages_in(Transport::Tls).row().label("transport"), Some("tls"));
    }
}
