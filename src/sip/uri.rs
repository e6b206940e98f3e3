//! URIs (RFC 3261 §19.1): spans into the buffer that they stand in.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Span;

/// The scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the schemes")]
pub enum Scheme {
    Sip,
    Sips,
    Other,
}

/// The host of a URI or of a Via.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, as written.
    Name(Span),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; brackets in the text.
    V6(Ipv6Addr),
}

/// A parsed URI. For `Scheme::Other` only `all` and `scheme` say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The whole URI.
    pub all: Span,
    /// sip, sips or another.
    pub scheme: Scheme,
    /// The user part without the password; empty when there is none.
    pub user: Span,
    /// The password; empty when there is none.
    pub password: Span,
    /// The host.
    pub host: Host,
    /// The host as written, brackets included.
    pub host_span: Span,
    /// The port, when it is written.
    pub port: Option<u16>,
    /// From the first `;` up to `?` or the end; empty when there are none.
    pub params: Span,
    /// After `?`; empty when there are none.
    pub headers: Span,
}
