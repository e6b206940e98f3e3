//! Header names that Hawser acts on; all others are `Other` and pass byte for byte.

use super::chars::is_lower;

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
    XGenesysRoute,
    Other,
}

impl Name {
    /// By the name as written, in any case or compact. Compact forms of header fields that are not acted
    /// on (`c`, `e`, `s`, `o`, `u`, `r`, `b`, `x` …) are `Other` like their long ones.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let Some(first) = bytes.first().map(u8::to_ascii_lowercase) else { return Self::Other };
        // Length and first letter leave one candidate, but for two pairs that the second letter tells apart.
        let (found, name) = match (bytes.len(), first) {
            (1, b'v') => return Self::Via,
            (1, b'f') => return Self::From,
            (1, b't') => return Self::To,
            (1, b'i') => return Self::CallId,
            (1, b'm') => return Self::Contact,
            (1, b'l') => return Self::ContentLength,
            (1, b'k') => return Self::Supported,
            (2, b't') => (is_lower(bytes, b"to"), Self::To),
            (3, b'v') => (is_lower(bytes, b"via"), Self::Via),
            (4, b'f') => (is_lower(bytes, b"from"), Self::From),
            (4, b'c') => (is_lower(bytes, b"cseq"), Self::CSeq),
            (4, b'p') => (is_lower(bytes, b"path"), Self::Path),
            (4, b'd') => (is_lower(bytes, b"date"), Self::Date),
            (5, b'r') => (is_lower(bytes, b"route"), Self::Route),
            (6, b's') => (is_lower(bytes, b"server"), Self::Server),
            (7, b'c') if bytes[1] | 0x20 == b'a' => (is_lower(bytes, b"call-id"), Self::CallId),
            (7, b'c') => (is_lower(bytes, b"contact"), Self::Contact),
            (7, b'r') => (is_lower(bytes, b"require"), Self::Require),
            (7, b'e') => (is_lower(bytes, b"expires"), Self::Expires),
            (9, b's') => (is_lower(bytes, b"supported"), Self::Supported),
            (9, b't') => (is_lower(bytes, b"timestamp"), Self::Timestamp),
            (10, b'u') => (is_lower(bytes, b"user-agent"), Self::UserAgent),
            (11, b'r') => (is_lower(bytes, b"retry-after"), Self::RetryAfter),
            (11, b'u') => (is_lower(bytes, b"unsupported"), Self::Unsupported),
            (11, b'm') if bytes[1] | 0x20 == b'i' => (is_lower(bytes, b"min-expires"), Self::MinExpires),
            (11, b'm') => (is_lower(bytes, b"max-breadth"), Self::MaxBreadth),
            (12, b'm') => (is_lower(bytes, b"max-forwards"), Self::MaxForwards),
            (12, b'r') => (is_lower(bytes, b"record-route"), Self::RecordRoute),
            (13, b'p') => (is_lower(bytes, b"proxy-require"), Self::ProxyRequire),
            (14, b'c') => (is_lower(bytes, b"content-length"), Self::ContentLength),
            (15, b'x') => (is_lower(bytes, b"x-genesys-route"), Self::XGenesysRoute),
            _ => return Self::Other,
        };
        if found { name } else { Self::Other }
    }
}

#[cfg(test)]
mod tests;
