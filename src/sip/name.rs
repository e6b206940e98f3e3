//! Header names that Hawser acts on; all others are `Other` and pass byte for byte.

/// A known header field name, in any case and in its compact form (RFC 3261 §7.3.3, §20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the header field of that name")]
pub enum Name {
    Via,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    Route,
    RecordRoute,
    Path,
    MaxForwards,
    MaxBreadth,
    ContentLength,
    Expires,
    MinExpires,
    Require,
    ProxyRequire,
    Supported,
    Unsupported,
    RetryAfter,
    UserAgent,
    Server,
    Date,
    /// Any `X-Genesys-Route`.
    XGenesysRoute,
    /// Any other name that begins with `X-Genesys-`.
    XGenesys,
    Other,
}
