//! Which counter belongs to a method, a fault or bytes that are no message: one exhaustive match each.

use super::{Fault, Method, ScanError};
use crate::ids::Side;
use crate::stats::Counter;

impl Counter {
    /// A request that `from` sent, retransmissions left out.
    #[must_use]
    pub fn request(from: Side, method: Method) -> Self {
        match (from, method) {
            (Side::Server, Method::Invite) => Self::RequestServerInvite,
            (Side::Server, Method::Ack) => Self::RequestServerAck,
            (Side::Server, Method::Bye) => Self::RequestServerBye,
            (Side::Server, Method::Cancel) => Self::RequestServerCancel,
            (Side::Server, Method::Register) => Self::RequestServerRegister,
            (Side::Server, Method::Options) => Self::RequestServerOptions,
            (Side::Server, Method::Prack) => Self::RequestServerPrack,
            (Side::Server, Method::Subscribe) => Self::RequestServerSubscribe,
            (Side::Server, Method::Notify) => Self::RequestServerNotify,
            (Side::Server, Method::Publish) => Self::RequestServerPublish,
            (Side::Server, Method::Info) => Self::RequestServerInfo,
            (Side::Server, Method::Refer) => Self::RequestServerRefer,
            (Side::Server, Method::Message) => Self::RequestServerMessage,
            (Side::Server, Method::Update) => Self::RequestServerUpdate,
            (Side::Server, Method::Other) => Self::RequestServerOther,
            (Side::Endpoint, Method::Invite) => Self::RequestEndpointInvite,
            (Side::Endpoint, Method::Ack) => Self::RequestEndpointAck,
            (Side::Endpoint, Method::Bye) => Self::RequestEndpointBye,
            (Side::Endpoint, Method::Cancel) => Self::RequestEndpointCancel,
            (Side::Endpoint, Method::Register) => Self::RequestEndpointRegister,
            (Side::Endpoint, Method::Options) => Self::RequestEndpointOptions,
            (Side::Endpoint, Method::Prack) => Self::RequestEndpointPrack,
            (Side::Endpoint, Method::Subscribe) => Self::RequestEndpointSubscribe,
            (Side::Endpoint, Method::Notify) => Self::RequestEndpointNotify,
            (Side::Endpoint, Method::Publish) => Self::RequestEndpointPublish,
            (Side::Endpoint, Method::Info) => Self::RequestEndpointInfo,
            (Side::Endpoint, Method::Refer) => Self::RequestEndpointRefer,
            (Side::Endpoint, Method::Message) => Self::RequestEndpointMessage,
            (Side::Endpoint, Method::Update) => Self::RequestEndpointUpdate,
            (Side::Endpoint, Method::Other) => Self::RequestEndpointOther,
        }
    }

    /// A message that was dropped since it could not even be answered.
    #[must_use]
    pub fn scan_error(error: ScanError) -> Self {
        match error {
            ScanError::StartLine => Self::ScanStartLine,
            ScanError::Truncated => Self::ScanTruncated,
            ScanError::TooLarge => Self::ScanTooLarge,
            ScanError::TooManyFields => Self::ScanTooManyFields,
            ScanError::Unanswerable => Self::ScanUnanswerable,
        }
    }

    /// A request that was answered for a fault in it.
    #[must_use]
    pub fn fault(fault: Fault) -> Self {
        match fault {
            Fault::Version => Self::FaultVersion,
            Fault::RequestLine => Self::FaultRequestLine,
            Fault::RequestUri => Self::FaultRequestUri,
            Fault::Scheme => Self::FaultScheme,
            Fault::HeaderSyntax => Self::FaultHeaderSyntax,
            Fault::TooManyValues => Self::FaultTooManyValues,
            Fault::ViaSyntax => Self::FaultViaSyntax,
            Fault::MissingTo => Self::FaultMissingTo,
            Fault::ToSyntax => Self::FaultToSyntax,
            Fault::DuplicateTo => Self::FaultDuplicateTo,
            Fault::MissingFrom => Self::FaultMissingFrom,
            Fault::FromSyntax => Self::FaultFromSyntax,
            Fault::DuplicateFrom => Self::FaultDuplicateFrom,
            Fault::MissingCallId => Self::FaultMissingCallId,
            Fault::CallIdSyntax => Self::FaultCallIdSyntax,
            Fault::DuplicateCallId => Self::FaultDuplicateCallId,
            Fault::MissingCseq => Self::FaultMissingCseq,
            Fault::CseqSyntax => Self::FaultCseqSyntax,
            Fault::CseqMethod => Self::FaultCseqMethod,
            Fault::DuplicateCseq => Self::FaultDuplicateCseq,
            Fault::MaxForwardsSyntax => Self::FaultMaxForwardsSyntax,
            Fault::DuplicateMaxForwards => Self::FaultDuplicateMaxForwards,
            Fault::ContentLengthSyntax => Self::FaultContentLengthSyntax,
            Fault::ContentLengthConflict => Self::FaultContentLengthConflict,
            Fault::ContentLengthMissing => Self::FaultContentLengthMissing,
            Fault::ContentLengthTooLarge => Self::FaultContentLengthTooLarge,
            Fault::RouteSyntax => Self::FaultRouteSyntax,
            Fault::ContactSyntax => Self::FaultContactSyntax,
            Fault::RequestUriTooLong => Self::FaultRequestUriTooLong,
            Fault::RequestUriHost => Self::FaultRequestUriHost,
            Fault::RequestUriPort => Self::FaultRequestUriPort,
            Fault::HeaderBlockTooLarge => Self::FaultHeaderBlockTooLarge,
            Fault::MessageTooLarge => Self::FaultMessageTooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_side_and_method() {
        let row = Counter::request(Side::Endpoint, Method::Register).row();
        assert_eq!((row.label("side"), row.label("method")), (Some("endpoint"), Some("REGISTER")));
        assert_eq!(Counter::fault(Fault::CseqMethod).row().label("fault"), Some("cseq_method"));
        assert_eq!(Counter::scan_error(ScanError::TooLarge).row().label("reason"), Some("too_large"));
    }
}
