//! A PROXY header, however it comes: read as a stream is, by as many bytes as are asked for, and in any other parts.

use hawser::limits::PROXY_HEADER_LEN_MAX;
use hawser::proxy_header::{self, Fault, Header};

/// See the module.
pub fn check(data: &[u8]) {
    let all = proxy_header::read(data);
    let mut is_settled = None;
    for end in 0..=data.len().min(PROXY_HEADER_LEN_MAX + 1) {
        let part = proxy_header::read(&data[..end]);
        match (is_settled, part) {
            (Some(before), part) => assert_eq!(part, before, "more bytes have changed what was settled"),
            (None, Ok(Header::Needs(more))) => {
                assert!(more > 0 && end + more <= PROXY_HEADER_LEN_MAX, "{more} behind {end}");
                if let Ok(Header::Whole { len, .. }) = all {
                    assert!(end + more <= len, "{more} bytes behind {end} are asked for, of {len}");
                }
            }
            (None, Ok(Header::Whole { len, source })) => {
                assert_eq!(len, end, "it is whole as soon as it is there");
                assert!(source.is_none_or(|source| source.ip() == source.ip().to_canonical()));
                is_settled = Some(part);
            }
            (None, Err(_)) => is_settled = Some(part),
        }
    }
    as_a_stream(data, all);
    as_a_datagram(data, all);
    if proxy_header::is_one(data) {
        assert_ne!(all, Err(Fault::Missing), "what is taken for one is one, or was meant to be");
    }
}

/// Reads no byte more than is asked for, and finds the same.
fn as_a_stream(data: &[u8], all: Result<Header, Fault>) {
    let mut come = 0;
    loop {
        let found = proxy_header::read(&data[..come]);
        let Ok(Header::Needs(more)) = found else {
            return assert_eq!(found, all);
        };
        if come + more > data.len() {
            return assert!(matches!(all, Ok(Header::Needs(_))) || all.is_err(), "{all:?} without its last bytes");
        }
        come += more;
    }
}

/// A datagram is read as a stream is, but that all of its header is there, and of version 2.
fn as_a_datagram(data: &[u8], all: Result<Header, Fault>) {
    match (proxy_header::read_datagram(data), all) {
        (Ok((source, payload)), Ok(Header::Whole { len, source: of_stream })) => {
            assert_eq!((source, payload), (of_stream, &data[len..]));
        }
        (Ok(_), other) => panic!("{other:?}"),
        (Err(Fault::Missing), _) => {}
        (Err(Fault::Malformed), Ok(Header::Needs(_))) => {}
        (Err(fault), other) => assert_eq!(other, Err(fault)),
    }
}
