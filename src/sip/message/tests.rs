//! Tests of `message` and `scan`.

use super::*;
use crate::limits::{FIELDS_MAX, HEADER_BLOCK_LEN_MAX, URI_LEN_MAX, VALUES_MAX};
use crate::sip::{Edits, Host};

/// A request whose lines can be replaced by their name.
fn request(changes: &[(&str, &str)]) -> Vec<u8> {
    let lines = [
        ("", "INVITE sip:bob@example.com SIP/2.0"),
        ("Via", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1"),
        ("Max-Forwards", "Max-Forwards: 70"),
        ("From", "From: <sip:alice@example.com>;tag=a"),
        ("To", "To: <sip:bob@example.com>"),
        ("Call-ID", "Call-ID: 1@example.com"),
        ("CSeq", "CSeq: 1 INVITE"),
        ("Content-Length", "Content-Length: 4"),
    ];
    let mut text = String::new();
    for (name, line) in lines {
        let line = changes.iter().find(|change| change.0 == name).map_or(line, |change| change.1);
        if !line.is_empty() {
            text += line;
            text += "\r\n";
        }
    }
    for change in changes.iter().filter(|change| change.0 == "+") {
        text += change.1;
        text += "\r\n";
    }
    format!("{text}\r\nbody").into_bytes()
}

fn scan_ok(bytes: &[u8]) -> Message {
    *Message::scan(bytes.to_vec(), false).unwrap_or_else(|(error, _)| panic!("{error:?}"))
}

fn fault_of(changes: &[(&str, &str)]) -> Option<Fault> {
    scan_ok(&request(changes)).fault()
}

fn error_of(bytes: &[u8]) -> ScanError {
    let (error, back) = Message::scan(bytes.to_vec(), false).expect_err("no message");
    assert_eq!(back, bytes, "the buffer comes back");
    error
}

fn apply(message: &Message, cuts: &Cuts) -> String {
    let mut edits = Edits::new();
    for cut in cuts {
        edits.remove(*cut);
    }
    let mut out = Vec::new();
    edits.apply(message.buf(), &mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_request_is_taken_apart() {
    let bytes = request(&[("To", "t: \"Bob\" <sip:bob@example.com> ; tag = b"), ("+", "Expires: 60")]);
    let message = scan_ok(&bytes);
    assert_eq!(message.fault(), None);
    assert!(message.is_request());
    assert_eq!(
        (message.method(), message.method_text(), message.status()),
        (Some(Method::Invite), &b"INVITE"[..], None)
    );
    let uri = message.request_uri().expect("a Request-URI");
    assert_eq!(message.text(uri.all), b"sip:bob@example.com");
    assert_eq!(message.top_via().host, Host::V4("192.0.2.1".parse().expect("an address")));
    assert_eq!(
        (message.call_id(), message.from_tag(), message.to_tag()),
        (&b"1@example.com"[..], &b"a"[..], &b"b"[..])
    );
    assert_eq!((message.cseq().number, message.cseq().method), (1, Method::Invite));
    assert_eq!((message.max_forwards(), message.expires()), (Some(70), Some(60)));
    assert_eq!(message.body(), b"body");
    assert_eq!(message.fields().len(), 8);
    assert_eq!(&bytes[message.first_field_at()..][..5], b"Via: ");
    assert_eq!(&bytes[message.head_end()..], b"\r\n\r\nbody".strip_prefix(b"\r\n").expect("it begins so"));
    assert_eq!(message.first(Name::To).map(|field| message.text(field.name_span)), Some(&b"t"[..]));
    assert_eq!(message.into_buf(), bytes);
}

#[test]
fn a_response_is_taken_apart() {
    for (line, code, reason) in [
        ("SIP/2.0 180 Ringing", 180, "Ringing"),
        ("sip/2.0 200 OK = 2**3", 200, "OK = 2**3"),
        ("SIP/2.0 100 ", 100, ""),
        ("SIP/2.0 699", 699, ""),
    ] {
        let message = scan_ok(&request(&[("", line), ("CSeq", "CSeq: 7 FOO")]));
        let Start::Status { code: found, reason: span } = message.start else { panic!("{line} is a status line") };
        assert_eq!((found, message.text(span)), (code, reason.as_bytes()), "{line}");
        assert_eq!((message.status(), message.method(), message.is_request()), (Some(code), None, false));
        assert_eq!((message.method_text(), message.request_uri()), (&b"FOO"[..], None));
    }
}

#[test]
fn any_order_and_unknown_methods_and_headers_pass() {
    let bytes = b"F%oO sip:x SIP/2.0\r\nX-New :  y\r\n z \r\nCSEQ: 0 F%oO\r\ni:1\r\nl:0\r\nT:<sip:x>\r\nf:<sip:y>\r\nv:SIP/2.0/UDP h\r\n\r\n";
    let message = scan_ok(bytes);
    assert_eq!((message.fault(), message.method()), (None, Some(Method::Other)));
    let field = message.fields()[0];
    assert_eq!((field.name, message.text(field.name_span)), (Name::Other, &b"X-New"[..]));
    assert_eq!(message.text(field.value), b"y\r\n z");
    assert_eq!(message.text(field.line), b"X-New :  y\r\n z \r\n");
    assert_eq!((message.from_tag(), message.max_forwards(), message.expires()), (&b""[..], None, None));
}

#[test]
fn methods_are_case_sensitive() {
    for text in [
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "REGISTER",
        "OPTIONS",
        "PRACK",
        "SUBSCRIBE",
        "NOTIFY",
        "PUBLISH",
        "INFO",
        "REFER",
        "MESSAGE",
        "UPDATE",
    ] {
        assert_ne!(Method::of(text.as_bytes()), Method::Other, "{text}");
        assert_eq!(Method::of(text.to_lowercase().as_bytes()), Method::Other, "{text}");
    }
}

#[test]
fn empty_lines_before_the_start_line_are_taken_off() {
    let bytes = request(&[]);
    let message = scan_ok(&[b"\r\n\r\n\r\n", &bytes[..]].concat());
    assert_eq!(message.buf(), bytes);
    assert_eq!(Message::scan(b"\r\n\r\n".to_vec(), false).map_err(|error| error.0).err(), Some(ScanError::Truncated));
}

#[test]
fn each_fault_of_a_request_has_its_variant() {
    use Fault as F;
    let long_uri = format!("INVITE sip:{} SIP/2.0", "a".repeat(URI_LEN_MAX));
    let cases: &[(&[(&str, &str)], Fault)] = &[
        (&[("", "INVITE sip:b SIP/2.1")], F::Version),
        (&[("", "INVITE sip:b SIP/02.0")], F::Version),
        (&[("", "INVITE sip:b SIP/x")], F::RequestLine),
        (&[("", "INVITE  sip:b SIP/2.0")], F::RequestLine),
        (&[("", "INVITE sip:b  SIP/2.0")], F::RequestLine),
        (&[("", "INVITE sip:b SIP/2.0 ")], F::RequestLine),
        (&[("", "INVITE sip:b\tSIP/2.0")], F::RequestLine),
        (&[("", "INVITE sip:b ;lr SIP/2.0")], F::RequestLine),
        (&[("", "INVITE <sip:b> SIP/2.0")], F::RequestUri),
        (&[("", "INVITE sip:%4@b SIP/2.0")], F::RequestUri),
        (&[("", "INVITE sip:b?x=y SIP/2.0")], F::RequestUri),
        (&[("", "INVITE tel: SIP/2.0")], F::RequestUri),
        (&[("", "INVITE sip:1.2.3 SIP/2.0")], F::RequestUriHost),
        (&[("", "INVITE sip:b:0 SIP/2.0")], F::RequestUriPort),
        (&[("", &long_uri)], F::RequestUriTooLong),
        (&[("", "INVITE mailto:a@b SIP/2.0")], F::Scheme),
        (&[("+", "X y: z")], F::HeaderSyntax),
        (&[("+", "no colon")], F::HeaderSyntax),
        (&[("+", "a\nb: c")], F::HeaderSyntax),
        (&[("+", "a: b\rc")], F::HeaderSyntax),
        (&[("+", "a: b\0c")], F::HeaderSyntax),
        (&[("Via", " folded: first\r\nVia: SIP/2.0/UDP b;branch=1")], F::HeaderSyntax),
        (&[("Via", "Via: SIP/2.0/UDP b;;branch=1")], F::ViaSyntax),
        (&[("Via", "Via: SIP/2.0/UDP b;branch=1,")], F::ViaSyntax),
        (&[("To", "")], F::MissingTo),
        (&[("To", "To: \"x <sip:b>")], F::ToSyntax),
        (&[("To", "To: <sip:b>;tag=1;tag=2")], F::ToSyntax),
        (&[("+", "t: <sip:b>")], F::DuplicateTo),
        (&[("From", "")], F::MissingFrom),
        (&[("From", "From:")], F::FromSyntax),
        (&[("+", "f: <sip:b>")], F::DuplicateFrom),
        (&[("Call-ID", "")], F::MissingCallId),
        (&[("Call-ID", "Call-ID:")], F::CallIdSyntax),
        (&[("Call-ID", "Call-ID: a b")], F::CallIdSyntax),
        (&[("+", "i: 1")], F::DuplicateCallId),
        (&[("CSeq", "")], F::MissingCseq),
        (&[("CSeq", "CSeq: 1")], F::CseqSyntax),
        (&[("CSeq", "CSeq: INVITE")], F::CseqSyntax),
        (&[("CSeq", "CSeq: -1 INVITE")], F::CseqSyntax),
        (&[("CSeq", "CSeq: 2147483648 INVITE")], F::CseqSyntax),
        (&[("CSeq", "CSeq: 1 INV ITE")], F::CseqSyntax),
        (&[("CSeq", "CSeq: 1 invite")], F::CseqMethod),
        (&[("+", "CSeq: 1 INVITE")], F::DuplicateCseq),
        (&[("Max-Forwards", "Max-Forwards: 256")], F::MaxForwardsSyntax),
        (&[("Max-Forwards", "Max-Forwards: +1")], F::MaxForwardsSyntax),
        (&[("+", "Max-Forwards: 70")], F::DuplicateMaxForwards),
        (&[("Content-Length", "l: 4\r\n 0")], F::ContentLengthSyntax),
        (&[("Content-Length", "l: +4")], F::ContentLengthSyntax),
        (&[("Content-Length", "l: 4294967300")], F::ContentLengthSyntax),
        (&[("+", "l: 3")], F::ContentLengthConflict),
        (&[("Content-Length", "l: 5")], F::ContentLengthTooLarge),
        (&[("+", "Route: sip:b;lr")], F::RouteSyntax),
        (&[("+", "Route: <sip:b;lr>,")], F::RouteSyntax),
    ];
    for (changes, fault) in cases {
        assert_eq!(fault_of(changes), Some(*fault), "{changes:?}");
    }
    assert_eq!(fault_of(&[]), None);
    for line in ["INVITE tel:+1;phone-context=x SIP/2.0", "INVITE urn:service:sos SIP/2.0"] {
        assert_eq!(fault_of(&[("", line)]), None, "{line}");
    }
    assert_eq!(fault_of(&[("CSeq", "CSeq: 2147483647\r\n\tINVITE"), ("Max-Forwards", "Max-Forwards: 255")]), None);
}

#[test]
fn contacts_are_looked_at_in_a_register_only() {
    let line = ("+", "Contact: sip:b?x=y");
    assert_eq!(fault_of(&[line]), None);
    let register = [("", "REGISTER sip:b SIP/2.0"), ("CSeq", "CSeq: 1 REGISTER")];
    assert_eq!(fault_of(&[register[0], register[1], line]), Some(Fault::ContactSyntax));
    assert_eq!(fault_of(&[register[0], register[1], ("+", "m: *")]), None);
    assert_eq!(fault_of(&[register[0], register[1], ("+", "m: <sip:a>;q=1, \"b, c\" <sip:b>")]), None);
}

#[test]
fn what_cannot_be_answered_is_an_error() {
    for (bytes, error) in [
        (&b""[..], ScanError::Truncated),
        (b"INVITE sip:b SIP/2.0\r\nVia: SIP/2.0/UDP b\r\n", ScanError::Truncated),
        (b"GET / HTTP/1.1\r\n\r\n", ScanError::StartLine),
        (b"INVITE\r\n\r\n", ScanError::StartLine),
        (b"INVITE SIP/2.0\r\n\r\n", ScanError::StartLine),
        (b" INVITE sip:b SIP/2.0\r\n\r\n", ScanError::StartLine),
        (b"IN\"VITE sip:b SIP/2.0\r\n\r\n", ScanError::StartLine),
        (b"\r\r\n\r\n", ScanError::StartLine),
        (b"INVITE sip:b SIP/2.0\r\n\r\n", ScanError::Unanswerable),
        (b"INVITE sip:b SIP/2.0\r\nVia: x\r\n\r\n", ScanError::Unanswerable),
        (b"INVITE sip:b SIP/2.0\r\nVia:\r\n\r\n", ScanError::Unanswerable),
        (b"SIP/2.0 200 OK\r\n\r\n", ScanError::Unanswerable),
    ] {
        assert_eq!(error_of(bytes), error, "{}", String::from_utf8_lossy(bytes));
    }
    for line in [
        "SIP/2.0 99 x",
        "SIP/2.0 0200 OK",
        "SIP/2.0 700 x",
        "SIP/2.0 2x0 OK",
        "SIP/3.0 200 OK",
        "SIP/2.0  200 OK",
        "SIP/2.0 ",
    ] {
        assert_eq!(error_of(&request(&[("", line)])), ScanError::Unanswerable, "{line}");
    }
    for change in [("CSeq", ""), ("Content-Length", "l: 5"), ("+", "a\nb: c"), ("+", "CSeq: 2 INVITE")] {
        assert_eq!(error_of(&request(&[("", "SIP/2.0 200 OK"), change])), ScanError::Unanswerable, "{change:?}");
    }
}

#[test]
fn a_response_needs_a_via_and_a_cseq_and_nothing_else() {
    for change in [
        ("From", ""),
        ("From", "From: <sip:a>;tag="),
        ("+", "f: <sip:b>"),
        ("To", ""),
        ("To", "To: \"x <sip:b>"),
        ("Call-ID", ""),
        ("Call-ID", "Call-ID: a b"),
        ("Max-Forwards", "Max-Forwards: x"),
    ] {
        let response = scan_ok(&request(&[("", "SIP/2.0 486 Busy Here"), change]));
        assert_eq!((response.fault(), response.cseq().method), (None, Method::Invite), "{change:?}");
        // A fault behind it is found all the same.
        let also = request(&[("", "SIP/2.0 486 Busy Here"), change, ("CSeq", "CSeq: x")]);
        assert_eq!(error_of(&also), ScanError::Unanswerable, "{change:?}");
    }
}

#[test]
fn a_datagram_ends_by_content_length_or_by_itself() {
    let rest = [request(&[("Content-Length", "l: 2")]), b"INVITE sip:x SIP/2.0\r\n\r\n".to_vec()].concat();
    let message = scan_ok(&rest);
    assert_eq!((message.fault(), message.body()), (None, &b"bo"[..]));
    assert!(message.buf().ends_with(b"\r\n\r\nbo"));
    assert_eq!(scan_ok(&request(&[("Content-Length", "")])).body(), b"body");
    assert_eq!(scan_ok(&request(&[("+", "Content-Length: 04")])).body(), b"body");
    let streamed = Message::scan(request(&[("Content-Length", "")]), true).expect("it can be answered");
    assert_eq!(streamed.fault(), Some(Fault::ContentLengthMissing));
}

#[test]
#[cfg_attr(miri, ignore = "a header block of full length, byte by byte")]
fn the_bounds_hold_at_their_edges() {
    let lines = |count: usize| vec!["X: y"; count].join("\r\n");
    assert_eq!(scan_ok(&request(&[("+", &lines(FIELDS_MAX - 7))])).fields().len(), FIELDS_MAX);
    assert_eq!(error_of(&request(&[("+", &lines(FIELDS_MAX - 6))])), ScanError::TooManyFields);
    let vias = |count: usize| format!("Via: {}", vec!["SIP/2.0/UDP b"; count].join(","));
    assert_eq!(fault_of(&[("Via", &vias(VALUES_MAX))]), None);
    assert_eq!(fault_of(&[("Via", &vias(VALUES_MAX + 1))]), Some(Fault::TooManyValues));
    let routes = |count: usize| vec!["Route: <sip:b;lr>"; count].join("\r\n");
    assert_eq!(fault_of(&[("+", &routes(VALUES_MAX))]), None);
    assert_eq!(fault_of(&[("+", &routes(VALUES_MAX + 1))]), Some(Fault::TooManyValues));
    let filled = |length: usize| {
        let without = request(&[("+", "X: ")]).len() - "\r\nbody".len();
        request(&[("+", &format!("X: {}", "x".repeat(length - without)))])
    };
    assert_eq!(scan_ok(&filled(HEADER_BLOCK_LEN_MAX)).head_end(), HEADER_BLOCK_LEN_MAX);
    assert_eq!(error_of(&filled(HEADER_BLOCK_LEN_MAX + 1)), ScanError::TooLarge);
}

#[test]
fn values_run_across_fields_and_commas() {
    let message = scan_ok(&request(&[
        ("+", "Route: <sip:a,b;lr>\r\nX: y\r\nroute: <sip:c> , <sip:d>"),
        ("Via", "Via: SIP/2.0/TCP a, SIP/2.0/UDP b\r\nv: x"),
    ]));
    let texts: Vec<_> = message.values(Name::Route).map(|span| message.text(span)).collect();
    assert_eq!(texts, [&b"<sip:a,b;lr>"[..], b"<sip:c>", b"<sip:d>"]);
    assert_eq!(message.count_values(Name::Route), 3);
    let vias: Vec<_> = message.vias().map(|via| via.is_ok()).collect();
    assert_eq!(vias, [true, true, false]);
}

#[test]
fn options_are_tokens_in_any_case() {
    let message = scan_ok(&request(&[("+", "k: 100rel,\tPATH\r\nSupported: outbound\r\nRequire:")]));
    assert!(message.has_option(Name::Supported, b"path") && message.has_option(Name::Supported, b"outbound"));
    assert!(!message.has_option(Name::Supported, b"pat") && !message.has_option(Name::Require, b""));
}

#[test]
fn an_expires_that_is_no_number_is_none() {
    for (value, seconds) in [("3600", Some(3600)), ("4294967296", None), ("soon", None), ("", None)] {
        assert_eq!(scan_ok(&request(&[("+", &format!("Expires: {value}"))])).expires(), seconds, "{value}");
    }
}

#[test]
fn first_values_are_cut_with_their_lines_and_commas() {
    let message = scan_ok(&request(&[("+", "Route: <sip:a>\r\nRoute: <sip:b> ,\r\n <sip:c>\r\nRoute: <sip:d>")]));
    let cut = |n| {
        let text = apply(&message, &message.cut_values(Name::Route, n));
        let at = text.find("Content-Length: 4\r\n").expect("it stays") + 19;
        text[at..].trim_end_matches("\r\n\r\nbody").to_owned()
    };
    assert_eq!(cut(0), "Route: <sip:a>\r\nRoute: <sip:b> ,\r\n <sip:c>\r\nRoute: <sip:d>");
    assert_eq!(cut(1), "Route: <sip:b> ,\r\n <sip:c>\r\nRoute: <sip:d>");
    assert_eq!(cut(2), "Route: <sip:c>\r\nRoute: <sip:d>");
    assert_eq!(cut(3), "Route: <sip:d>");
    assert_eq!(cut(4), "\r\nbody");
    assert_eq!(cut(9), "\r\nbody");
}

#[test]
fn one_value_is_cut_with_its_comma() {
    let message = scan_ok(&request(&[("+", "k: a, b ,c\r\nk: d")]));
    let cut = |index| apply(&message, &message.cut_values_where(Name::Supported, |at, _| at == index));
    let plain = apply(&message, &Cuts::new());
    assert_eq!(cut(0), plain.replace("a, b ,c", "b ,c"));
    assert_eq!(cut(1), plain.replace("a, b ,c", "a ,c"));
    assert_eq!(cut(2), plain.replace("a, b ,c", "a, b"));
    assert_eq!(cut(3), plain.replace("k: d\r\n", ""));
    assert_eq!(cut(4), plain);
}

#[test]
fn several_values_are_cut_in_one_go() {
    let message = scan_ok(&request(&[("+", "k: a, b ,c\r\nk: d")]));
    let cut = |gone: &[u8]| {
        apply(&message, &message.cut_values_where(Name::Supported, |_, value| gone.contains(&message.text(value)[0])))
    };
    let plain = apply(&message, &Cuts::new());
    assert_eq!(cut(b"ab"), plain.replace("a, b ,c", "c"));
    assert_eq!(cut(b"bc"), plain.replace("a, b ,c", "a"));
    assert_eq!(cut(b"acd"), plain.replace("a, b ,c\r\nk: d", "b"));
    assert_eq!(cut(b"abc"), plain.replace("k: a, b ,c\r\n", ""));
    assert_eq!(cut(b"abcd"), plain.replace("k: a, b ,c\r\nk: d\r\n", ""));
}

#[test]
fn a_message_can_go_to_another_thread_and_prints_no_bytes() {
    fn send<T: Send + 'static>(_: &T) {}
    let message = scan_ok(&request(&[]));
    send(&message);
    assert!(!format!("{message:?}").contains("alice"));
}

#[test]
fn an_empty_value_stands_in_its_line() {
    for line in ["Subject:\r\n", "Subject: \r\n", "Subject : \t \r\n", "Subject: \r\n \r\n"] {
        let text = format!("OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{line}\r\n");
        let message = Message::scan(text.into_bytes(), false).expect("it can be answered");
        let field = message.fields()[1];
        assert_eq!(message.text(field.line), line.as_bytes());
        assert!(field.value.is_empty(), "{line:?}");
        assert!(field.line.start < field.value.start && field.value.end + 2 <= field.line.end, "{line:?}");
    }
}
