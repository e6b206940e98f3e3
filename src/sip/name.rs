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
    Timestamp,
    UserAgent,
    Server,
    Date,
    /// Any `X-Genesys-Route`.
    XGenesysRoute,
    /// Any other name that begins with `X-Genesys-`.
    XGenesys,
    Other,
}

impl Name {
    /// By the name as written, in any case or compact. Compact forms of header fields that are not acted
    /// on (`c`, `e`, `s`, `o`, `u`, `r`, `b`, `x` …) are `Other` like their long ones.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let known: &[(&[u8], Self)] = match bytes.len() {
            1 => {
                return match bytes[0].to_ascii_lowercase() {
                    b'v' => Self::Via,
                    b'f' => Self::From,
                    b't' => Self::To,
                    b'i' => Self::CallId,
                    b'm' => Self::Contact,
                    b'l' => Self::ContentLength,
                    b'k' => Self::Supported,
                    _ => Self::Other,
                };
            }
            2 => &[(b"to", Self::To)],
            3 => &[(b"via", Self::Via)],
            4 => &[(b"from", Self::From), (b"cseq", Self::CSeq), (b"path", Self::Path), (b"date", Self::Date)],
            5 => &[(b"route", Self::Route)],
            6 => &[(b"server", Self::Server)],
            7 => &[
                (b"call-id", Self::CallId),
                (b"contact", Self::Contact),
                (b"require", Self::Require),
                (b"expires", Self::Expires),
            ],
            9 => &[(b"supported", Self::Supported), (b"timestamp", Self::Timestamp)],
            10 => &[(b"user-agent", Self::UserAgent)],
            11 => &[
                (b"retry-after", Self::RetryAfter),
                (b"unsupported", Self::Unsupported),
                (b"min-expires", Self::MinExpires),
                (b"max-breadth", Self::MaxBreadth),
            ],
            12 => &[(b"max-forwards", Self::MaxForwards), (b"record-route", Self::RecordRoute)],
            13 => &[(b"proxy-require", Self::ProxyRequire)],
            14 => &[(b"content-length", Self::ContentLength)],
            15 => &[(b"x-genesys-route", Self::XGenesysRoute)],
            _ => &[],
        };
        if let Some((_, name)) = known.iter().find(|(text, _)| bytes.eq_ignore_ascii_case(text)) {
            return *name;
        }
        match bytes.get(..10) {
            Some(prefix) if prefix.eq_ignore_ascii_case(b"x-genesys-") => Self::XGenesys,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
