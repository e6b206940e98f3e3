//! Why a start failed: one variant for each fault, and how it reads on one line.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::secrets::SecretError;
use crate::config::ConfigError;
use crate::limits::SHARDS_MAX;
use crate::tls::error::TlsError;

/// Why a start failed. Prints as one line that names the mend.
#[derive(Debug)]
pub enum StartError {
    /// io_uring cannot be used.
    IoUring {
        /// The call that is refused.
        call: &'static str,
        /// The value of kernel.io_uring_disabled; empty when it can't be read.
        disabled: String,
        #[allow(missing_docs, reason = "what the system says")]
        fault: io::Error,
    },
    /// The settings want io_uring, and this is why it cannot be.
    Driver(Box<StartError>),
    /// Too little memory may be locked.
    Memlock {
        /// In bytes.
        soft: u64,
    },
    /// Too few descriptors.
    Descriptors {
        /// What is allowed.
        soft: u64,
        /// The least that makes sense.
        needed: u64,
    },
    /// The limits cannot be read.
    Limits(io::Error),
    /// A port cannot be bound.
    Port {
        /// udp, tcp, tls or http.
        transport: &'static str,
        #[allow(missing_docs, reason = "the address that the settings name")]
        address: SocketAddr,
        #[allow(missing_docs, reason = "what the system says")]
        fault: io::Error,
    },
    /// The settings.
    Settings(ConfigError),
    /// Certificates, keys or CAs.
    Tls(TlsError),
    /// Keys and random numbers.
    Secret(SecretError),
    /// No cores, or more than there can be shards.
    Cores(usize),
    /// An executor or a thread did not start.
    Executor(io::Error),
    /// A shard has ended by itself.
    ShardEnded,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring { call, disabled, fault } if disabled == "0" || disabled.is_empty() => write!(
                f,
                "io_uring cannot be used: {call}: {fault}; Linux 5.8 or newer is needed, and a seccomp profile (of a container, \
                 or SystemCallFilter) must allow io_uring_setup, io_uring_enter and io_uring_register"
            ),
            Self::IoUring { call, disabled, fault } => write!(
                f,
                "io_uring cannot be used: {call}: {fault}; the sysctl kernel.io_uring_disabled is {disabled}: set it to 0"
            ),
            Self::Driver(fault) => write!(f, "{fault}; with driver = \"epoll\" or \"auto\" Hawser runs without"),
            Self::Memlock { soft } => write!(
                f,
                "only {} KiB of memory may be locked, and io_uring needs at least 512 KiB: set LimitMEMLOCK=64M in the \
                 systemd unit, or ulimit -l 65536",
                soft / 1024
            ),
            Self::Descriptors { soft, needed } => write!(
                f,
                "only {soft} descriptors are allowed, and at least {needed} are needed: set LimitNOFILE=1048576 in the \
                 systemd unit, or ulimit -n"
            ),
            Self::Limits(fault) => write!(f, "the limits of this process cannot be read: {fault}"),
            Self::Port { transport, address, fault } => {
                write!(f, "{transport} {address}: cannot be bound: {fault}{}", mend_of_bind(fault))
            }
            Self::Settings(fault) => fault.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Secret(fault) => fault.fmt(f),
            Self::Cores(0) => f.write_str("cores: none to run on"),
            Self::Cores(count) => write!(f, "cores: {count} are too many, {SHARDS_MAX} are the most"),
            Self::Executor(fault) => write!(f, "a shard cannot start: {fault}"),
            Self::ShardEnded => {
                f.write_str("a shard has ended by itself; what the log says above is a fault of Hawser")
            }
        }
    }
}

fn mend_of_bind(fault: &io::Error) -> &'static str {
    match fault.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: stop it, or change the port)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has this address)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit)"
        }
        _ => "",
    }
}

impl std::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(fault: ConfigError) -> Self {
        Self::Settings(fault)
    }
}

impl From<TlsError> for StartError {
    fn from(fault: TlsError) -> Self {
        Self::Tls(fault)
    }
}

impl From<SecretError> for StartError {
    fn from(fault: SecretError) -> Self {
        Self::Secret(fault)
    }
}
