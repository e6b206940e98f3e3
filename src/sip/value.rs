//! Header values with structure: Via, name-addr, parameters (RFC 3261 §20, §25.1).

use super::{Host, Span};
use crate::ids::Transport;

/// One Via value (RFC 3261 §20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The whole value, without the comma.
    pub all: Span,
    /// The transport when it is one of ours.
    pub transport: Option<Transport>,
    /// sent-by's host.
    pub host: Host,
    /// The host as written, brackets included.
    pub host_span: Span,
    /// sent-by's port, when it is written.
    pub port: Option<u16>,
    /// The branch parameter's value; empty when there is none (RFC 2543).
    pub branch: Span,
    /// The `rport` parameter: its value's span, empty when it has none (a request's).
    pub rport: Option<Span>,
    /// The `received` parameter's value.
    pub received: Option<Span>,
}

/// One value of Contact, Route, Record-Route, Path, From or To.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The whole value, without the comma.
    pub all: Span,
    /// The URI between the brackets, or the bare addr-spec.
    pub uri: Span,
    /// Whether the URI stands in angle brackets.
    pub bracketed: bool,
    /// Header parameters from the first `;` on; empty when there are none.
    pub params: Span,
}

/// Iterates over `;name=value` parameters.
#[derive(Clone, Debug)]
pub struct Params;
