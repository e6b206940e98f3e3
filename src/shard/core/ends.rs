//! Why a connection ends: what the system's errors, and ours, mean for the engine.

use std::io;

use crate::engine::{CloseReason, ConnectFailure};

/// Whether what waits is thrown away, in the system too, for the peer does not take it.
pub(super) fn cuts_off(reason: CloseReason) -> bool {
    use CloseReason::{Panic, SendQueueFull, SendSlow, SendStalled};
    matches!(reason, SendQueueFull | SendStalled | SendSlow | Panic)
}

/// Why a connection that was being opened, or accepted, did not come about.
pub(super) fn handshake_close(outbound: bool) -> CloseReason {
    if outbound { CloseReason::Connect(ConnectFailure::Tls) } else { CloseReason::Handshake }
}

pub(super) fn connect_failure(error: &io::Error) -> ConnectFailure {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset, _) => ConnectFailure::Refused,
        (io::ErrorKind::TimedOut, _) => ConnectFailure::Timeout,
        (io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _)
        | (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)) => ConnectFailure::Resources,
        _ => ConnectFailure::Unreachable,
    }
}

/// What a listener's refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptFailure {
    /// Nobody waits there, or it is closed.
    NoMore,
    /// It was about one connection, whose peer has given up before it was accepted.
    Passed,
    /// The system has no room: the listener rests.
    Refused,
}

pub(super) fn accept_failure(error: &io::Error) -> AcceptFailure {
    use libc::{ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPROTO};
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected, _) => AcceptFailure::NoMore,
        // Linux hands on what has happened to a connection that waits (accept(2)).
        (_, Some(ECONNABORTED | EINTR | EPROTO | ENOPROTOOPT | ENONET)) => AcceptFailure::Passed,
        (_, Some(ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH)) => AcceptFailure::Passed,
        _ => AcceptFailure::Refused,
    }
}

pub(super) fn close_reason(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            CloseReason::Reset
        }
        // The system's verdict after keep-alives or TCP_USER_TIMEOUT.
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            CloseReason::Dead
        }
        io::ErrorKind::InvalidData => CloseReason::TlsFault,
        _ => CloseReason::Error,
    }
}
