//! Tests of `name`.

use super::*;

#[test]
fn names_are_known_in_any_case() {
    for (text, name) in [
        ("Via", Name::Via),
        ("FROM", Name::From),
        ("to", Name::To),
        ("Call-ID", Name::CallId),
        ("cseq", Name::CSeq),
        ("Contact", Name::Contact),
        ("Route", Name::Route),
        ("Record-Route", Name::RecordRoute),
        ("Path", Name::Path),
        ("mAx-fOrWaRdS", Name::MaxForwards),
        ("Max-Breadth", Name::MaxBreadth),
        ("Content-Length", Name::ContentLength),
        ("Expires", Name::Expires),
        ("Min-Expires", Name::MinExpires),
        ("Require", Name::Require),
        ("Proxy-Require", Name::ProxyRequire),
        ("Supported", Name::Supported),
        ("Unsupported", Name::Unsupported),
        ("Retry-After", Name::RetryAfter),
        ("Timestamp", Name::Timestamp),
        ("User-Agent", Name::UserAgent),
        ("Server", Name::Server),
        ("Date", Name::Date),
        ("X-Genesys-Route", Name::XGenesysRoute),
        ("x-genesys-ROUTE", Name::XGenesysRoute),
        ("X-Genesys-CallUUID", Name::Other),
        ("X-Genesys-Routes", Name::Other),
        ("C%6Fntact", Name::Other),
        ("Contacts", Name::Other),
        ("", Name::Other),
    ] {
        assert_eq!(Name::of(text.as_bytes()), name, "{text}");
    }
}

#[test]
fn compact_forms_are_known() {
    let known = [
        (b'v', Name::Via),
        (b'f', Name::From),
        (b't', Name::To),
        (b'i', Name::CallId),
        (b'm', Name::Contact),
        (b'l', Name::ContentLength),
        (b'k', Name::Supported),
    ];
    for byte in 0..=u8::MAX {
        let name = known.iter().find(|known| known.0 == byte.to_ascii_lowercase()).map_or(Name::Other, |known| known.1);
        assert_eq!(Name::of(&[byte]), name, "{byte:#x}");
    }
}
