//! Which counter belongs to a close, a failed connect or a refused connection: one exhaustive match each.

use super::{CloseReason, ConnectFailure, Refusal};
use crate::stats::Counter;

impl Counter {
    /// A connection that was closed, or one that could not be opened.
    #[must_use]
    pub fn closed(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Peer => Self::ClosedPeer,
            CloseReason::Reset => Self::ClosedReset,
            CloseReason::Dead => Self::ClosedDead,
            CloseReason::Error => Self::ClosedError,
            CloseReason::Handshake => Self::ClosedHandshake,
            CloseReason::HandshakeTimeout => Self::ClosedHandshakeTimeout,
            CloseReason::TlsFault => Self::ClosedTlsFault,
            CloseReason::FirstMessageTimeout => Self::ClosedFirstMessageTimeout,
            CloseReason::SlowMessage => Self::ClosedSlowMessage,
            CloseReason::Idle => Self::ClosedIdle,
            CloseReason::Framing => Self::ClosedFraming,
            CloseReason::SendQueueFull => Self::ClosedSendQueueFull,
            CloseReason::SendStalled => Self::ClosedSendStalled,
            CloseReason::SendSlow => Self::ClosedSendSlow,
            CloseReason::HalfClosed => Self::ClosedHalfClosed,
            CloseReason::Pings => Self::ClosedPings,
            CloseReason::ShutOut => Self::ClosedShutOut,
            CloseReason::Panic => Self::ClosedPanic,
            CloseReason::Connect(ConnectFailure::Refused) => Self::ConnectRefused,
            CloseReason::Connect(ConnectFailure::Unreachable) => Self::ConnectUnreachable,
            CloseReason::Connect(ConnectFailure::Timeout) => Self::ConnectTimeout,
            CloseReason::Connect(ConnectFailure::Resources) => Self::ConnectResources,
            CloseReason::Connect(ConnectFailure::Tls) => Self::ConnectTls,
        }
    }

    /// A connection that was not taken.
    #[must_use]
    pub fn accept_refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Connections => Self::AcceptRefusedConnections,
            Refusal::Source => Self::AcceptRefusedSource,
            Refusal::ShutOut => Self::AcceptRefusedShutOut,
            Refusal::Draining => Self::AcceptRefusedDraining,
        }
    }
}

impl CloseReason {
    /// As counted and logged: the `reason` label of its counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        Counter::closed(self).row().label("reason").unwrap_or("error")
    }
}

impl Refusal {
    /// As counted and logged: the `reason` label of its counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        Counter::accept_refused(self).row().label("reason").unwrap_or("connections")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_one_name_for_metrics_and_log() {
        assert_eq!(CloseReason::SendQueueFull.name(), "send_queue_full");
        assert_eq!(CloseReason::Connect(ConnectFailure::Refused).name(), "refused");
        assert_eq!(
            Counter::closed(CloseReason::Connect(ConnectFailure::Tls)).row().name,
            "hawser_connect_failures_total"
        );
        assert_eq!(Refusal::Source.name(), "source");
        assert_eq!(Counter::closed(CloseReason::Peer).bound(), None);
        assert_eq!(Counter::closed(CloseReason::SlowMessage).bound(), Some(Counter::LimitMessageBegun));
    }
}
