//! A client's first TLS records, read beside rustls, whose word decides.

use hawser::tls::hello::{self, Offer};
use rustls::server::Acceptor;

/// Text of an offer in a log line, whatever was offered.
const SAID_LEN_MAX: usize = 2_000_000;

/// See the module.
pub fn check(data: &[u8]) {
    let offer = Offer::read(data);
    if let Some(plain) = hello::plain(data) {
        assert!(plain.len() <= 40 && plain.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{plain:?}");
        assert_eq!(offer, None, "text is no TLS");
    }
    if let Some(offer) = &offer {
        let said = offer.to_string();
        assert!(!said.chars().any(char::is_control) && said.len() < SAID_LEN_MAX, "{said:?}");
        let _ = offer.is_modern();
        // What follows the message is nobody's business.
        assert_eq!(Offer::read(&[data, b"\x16\x03\x01\x00\x01x"].concat()).as_ref(), Some(offer));
        if let Some(payload) = payload(data) {
            assert_eq!(Offer::read(&in_records(&payload, 7)).as_ref(), Some(offer), "its records count");
        }
    }
    agrees_with_rustls(data, offer.as_ref());
}

/// What whole handshake records hold; `None` when something else stands among them.
fn payload(mut records: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = records {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != 22 || rest.len() < len {
            return None;
        }
        out.extend_from_slice(&rest[..len]);
        records = &rest[len..];
    }
    records.is_empty().then_some(out)
}

fn in_records(payload: &[u8], len: u8) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).expect("short")][..], part].concat();
    payload.chunks(len.into()).flat_map(record).collect()
}

fn agrees_with_rustls(data: &[u8], offer: Option<&Offer>) {
    let mut acceptor = Acceptor::default();
    let mut rest = data;
    loop {
        let before = rest.len();
        if acceptor.read_tls(&mut rest).is_err() || before == rest.len() {
            return;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello();
                let offer = offer.expect("rustls reads it, and so must we");
                let suites = theirs.cipher_suites().iter().map(|suite| u16::from(*suite));
                let grease = |number: &u16| number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff;
                assert_eq!(offer.suites, suites.filter(|suite| !grease(suite)).collect::<Vec<_>>());
                if let Some(name) = theirs.server_name() {
                    let shown = &name[..name.len().min(64)];
                    assert!(
                        offer.name.as_deref().is_some_and(|said| said.eq_ignore_ascii_case(shown)),
                        "{offer:?}: {name}"
                    );
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}
