//! Header values: lists, name-addr, Via, parameters. Input: which values are cut, the list.

use hawser::sip::value::{Params, parse_u32, split_values, unquoted, write_u32};
use hawser::sip::{Edits, Message, Name, NameAddr, Span, Uri, Via};

use super::parts::Front;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let cut = u16::from_be_bytes(front.array());
    let text = &front.0[..front.0.len().min(30_000)];
    let whole = Span::new(0, text.len());
    let mut last = 0;
    for value in split_values(text, whole) {
        assert!(value.start >= last && usize::from(value.end) <= text.len(), "values overlap");
        last = value.end;
        one(text, value);
    }
    number(text);
    in_a_message(text, cut);
}

fn one(text: &[u8], value: Span) {
    if let Ok(addr) = NameAddr::parse(text, value) {
        assert!(!addr.uri.is_empty());
        assert!(value.start <= addr.uri.start && addr.uri.end <= addr.params.start && addr.params.end <= value.end);
        let is_inside = |byte: &u8| !matches!(byte, b'<' | b'>' | b'"' | b'\r' | b'\n');
        assert!(addr.uri.of(text).iter().all(is_inside), "a URI leaves its brackets");
        let _ = Uri::parse_checked(text, addr.uri).map(|uri| uri.host_to_ask(text));
        for (name, found) in Params::over(text, addr.params) {
            let name = std::str::from_utf8(name).expect("a parameter's name is a token");
            let first = addr.param(text, name).expect("it stands there");
            assert!(first == found.unwrap_or_default() || Params::over(text, addr.params).count() > 1);
            let _ = unquoted(first);
        }
        // Alone it is the same.
        let alone = value.of(text);
        let again = NameAddr::parse(alone, Span::new(0, alone.len())).expect("it stands alone");
        assert_eq!((again.uri.of(alone), again.bracketed), (addr.uri.of(text), addr.bracketed));
    }
    if let Ok(via) = Via::parse(text, value) {
        let spans = [Some(via.host_span), Some(via.branch), via.rport, via.received];
        assert!(spans.into_iter().flatten().all(|span| via.all.start <= span.start && span.end <= via.all.end));
        assert!(via.port != Some(0));
    }
    assert!(Params::over(text, value).count() <= value.of(text).len() + 1);
}

fn number(text: &[u8]) {
    if let Some(number) = parse_u32(text) {
        let mut out = Vec::new();
        write_u32(number, &mut out);
        let digits = text.iter().position(|byte| *byte != b'0').map_or(&b"0"[..], |at| &text[at..]);
        assert_eq!(out, digits);
    }
}

/// As the Route values and the second Via of a message: those that are cut go, and nothing else does.
fn in_a_message(text: &[u8], cut: u16) {
    let head = b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bK1\r\nRecord-Route: <sip:c>,";
    let tail = b"\r\nFrom: <sip:d>;tag=1\r\nTo: <sip:e>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    let Ok(message) = Message::scan([head, text, tail].concat(), false) else { return };
    if message.fault().is_some() {
        return;
    }
    let values: Vec<Vec<u8>> = message.values(Name::RecordRoute).map(|span| message.text(span).to_vec()).collect();
    let goes = |index: usize| index < 16 && cut >> index & 1 != 0;
    let mut edits = Edits::new();
    for span in message.cut_values_where(Name::RecordRoute, |index, _| goes(index)) {
        edits.remove(span);
    }
    let mut out = Vec::new();
    edits.apply(message.buf(), &mut out);
    let left = Message::scan(out, false).unwrap_or_else(|(error, _)| panic!("it is no message any more: {error:?}"));
    let stay = values.iter().enumerate().filter(|(index, _)| !goes(*index)).map(|(_, value)| value.as_slice());
    let found = left.values(Name::RecordRoute).map(|span| left.text(span));
    // What stands between two commas may be nothing, and nothing alone is no value.
    let some = |value: &&[u8]| !value.is_empty();
    assert_eq!(found.filter(some).collect::<Vec<_>>(), stay.filter(some).collect::<Vec<_>>());
    assert_eq!((left.fault(), left.body()), (None, message.body()));
}
