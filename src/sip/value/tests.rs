//! Tests of `value`.

use super::*;

fn via(text: &str) -> Result<Via, ViaError> {
    Via::parse(text.as_bytes(), Span::new(0, text.len()))
}

fn addr(text: &str) -> Result<NameAddr, NameAddrError> {
    NameAddr::parse(text.as_bytes(), Span::new(0, text.len()))
}

#[test]
fn a_via_is_taken_apart() {
    let text = " SIP/2.0/tls [2001:db8::9]:5071;branch=z9hG4bK1;rport;received=192.0.2.1;Alias ";
    let (buf, via) = (text.as_bytes(), via(text).expect("it is a Via"));
    assert_eq!(via.all.of(buf), text.trim().as_bytes());
    assert_eq!((via.transport, via.port), (Some(Transport::Tls), Some(5071)));
    assert_eq!(via.host.ip(), Some("2001:db8::9".parse().expect("an address")));
    assert_eq!(via.host_span.of(buf), b"[2001:db8::9]");
    assert_eq!(via.branch.of(buf), b"z9hG4bK1");
    assert!(via.rport.is_some_and(Span::is_empty));
    assert_eq!(via.received.map(|span| span.of(buf)), Some(&b"192.0.2.1"[..]));
    assert_eq!(via.param(buf, "alias"), Some(&b""[..]));
    assert_eq!(via.param(buf, "maddr"), None);
}

#[test]
fn a_via_may_be_folded_and_spaced() {
    let text = "SIP  /   2.0\r\n /UDP\r\n    first.example.com : 4000 ;ttl=16\r\n ; branch =\r\n z9hG4bK1 ; rport = 7";
    let (buf, via) = (text.as_bytes(), via(text).expect("it is a Via"));
    assert_eq!((via.transport, via.port), (Some(Transport::Udp), Some(4000)));
    assert_eq!(via.host_span.of(buf), b"first.example.com");
    assert_eq!(via.branch.of(buf), b"z9hG4bK1");
    assert_eq!(via.rport.map(|span| span.of(buf)), Some(&b"7"[..]));
}

#[test]
fn a_via_of_another_transport_or_without_branch_is_one_too() {
    let text = "SIP/2.0/SCTP host";
    let via = via(text).expect("it is a Via");
    assert_eq!((via.transport, via.port, via.branch.is_empty()), (None, None, true));
    assert_eq!((via.rport, via.received), (None, None));
}

#[test]
fn each_fault_of_a_via_has_its_variant() {
    for (text, error) in [
        ("", ViaError::Protocol),
        ("SIP/2.0 host", ViaError::Protocol),
        ("SIP/2.0/UDP", ViaError::Protocol),
        ("SIP/2.0/UDP;x", ViaError::Protocol),
        ("S P/2.0/UDP host", ViaError::Protocol),
        ("SIP/2.0/UDP  ", ViaError::Host),
        ("SIP/2.0/UDP ;branch=x", ViaError::Host),
        ("SIP/2.0/UDP a b;branch=x", ViaError::Host),
        ("SIP/2.0/UDP [::1;branch=x", ViaError::Host),
        ("SIP/2.0/UDP [::1]a;branch=x", ViaError::Host),
        ("SIP/2.0/UDP a?b", ViaError::Host),
        ("SIP/2.0/UDP host:;branch=x", ViaError::Port),
        ("SIP/2.0/UDP host:99999", ViaError::Port),
        ("SIP/2.0/UDP host;", ViaError::Params),
        ("SIP/2.0/UDP host;;branch=x", ViaError::Params),
        ("SIP/2.0/UDP host;branch=x;", ViaError::Params),
        ("SIP/2.0/UDP host;branch", ViaError::Params),
        ("SIP/2.0/UDP host;branch=", ViaError::Params),
        ("SIP/2.0/UDP host;branch=a;branch=b", ViaError::Params),
        ("SIP/2.0/UDP host;rport;rport=1", ViaError::Params),
        ("SIP/2.0/UDP host;rport=", ViaError::Params),
        ("SIP/2.0/UDP host;received=1.2.3.4;received=1.2.3.4", ViaError::Params),
        ("SIP/2.0/UDP host;branch=a b", ViaError::Params),
        ("SIP/2.0/UDP host;x=\"open", ViaError::Params),
        ("SIP/2.0/UDP host;a b", ViaError::Params),
    ] {
        assert_eq!(via(text), Err(error), "{text}");
    }
}

#[test]
fn a_name_addr_is_taken_apart() {
    for (text, uri, bracketed, params) in [
        ("<sip:a@b;lr>;tag=x", "sip:a@b;lr", true, ";tag=x"),
        ("\"A, \\\"<B>\\\"\" <sip:a@b?x=y,z> ; tag = x", "sip:a@b?x=y,z", true, "; tag = x"),
        ("caller<sip:a@b>", "sip:a@b", true, ""),
        ("I have (spaces) <sip:a@b>", "sip:a@b", true, ""),
        ("sip:a@b;tag=x", "sip:a@b", false, ";tag=x"),
        ("\r\n sip:a@b ;   tag    = x ", "sip:a@b", false, ";   tag    = x"),
        ("<tel:+1>", "tel:+1", true, ""),
        ("sip:a@b;p=\"<>\"", "sip:a@b", false, ";p=\"<>\""),
    ] {
        let (buf, addr) = (text.as_bytes(), addr(text).unwrap_or_else(|error| panic!("{text}: {error:?}")));
        assert_eq!(addr.uri.of(buf), uri.as_bytes(), "{text}");
        assert_eq!(addr.bracketed, bracketed, "{text}");
        assert_eq!(addr.params.of(buf), params.as_bytes(), "{text}");
        assert_eq!(addr.param(buf, "TAG"), params.contains("tag").then_some(&b"x"[..]), "{text}");
    }
}

#[test]
fn each_fault_of_a_name_addr_has_its_variant() {
    for (text, error) in [
        ("", NameAddrError::Uri),
        ("<>", NameAddrError::Uri),
        ("<sip:a@b", NameAddrError::Uri),
        ("\"A\" < sip:a@b >", NameAddrError::Uri),
        ("<sip:a@b\r\n >", NameAddrError::Uri),
        ("sip:a@b?x=y", NameAddrError::Uri),
        ("sip:a@b,c", NameAddrError::Uri),
        ("sip:a b@c", NameAddrError::Uri),
        ("\"A <sip:a@b>", NameAddrError::DisplayName),
        ("\"A\" sip:a@b", NameAddrError::DisplayName),
        ("\"A\"", NameAddrError::DisplayName),
        ("Bell, Alexander <sip:a@b>", NameAddrError::DisplayName),
        ("A \"B\" <sip:a@b>", NameAddrError::DisplayName),
        ("<sip:a@b>tag=x", NameAddrError::Params),
        ("<sip:a@b>;t g=x", NameAddrError::Params),
        ("<sip:a@b>;x=\"open", NameAddrError::Params),
        ("<sip:a@b>;x=\"a\"b", NameAddrError::Params),
    ] {
        assert_eq!(addr(text), Err(error), "{text}");
    }
}

#[test]
fn a_tag_must_be_one_and_not_empty() {
    let tag = |text: &str| addr(text).expect("it is a name-addr").tag(text.as_bytes());
    assert_eq!(tag("<sip:a@b>"), Ok(None));
    assert_eq!(tag("<sip:a@b>;x;Tag=7"), Ok(Some(Span::new(16, 17))));
    assert_eq!(tag("<sip:a@b>;tag="), Err(NameAddrError::Params));
    assert_eq!(tag("<sip:a@b>;tag"), Err(NameAddrError::Params));
    assert_eq!(tag("<sip:a@b>;tag=a;tag=a"), Err(NameAddrError::Params));
    assert_eq!(tag("<sip:a@b>;tag=\"a\""), Err(NameAddrError::Params));
}

#[test]
fn parameters_keep_their_quotes_and_lose_white_space() {
    let text = b" ; a = b;c=\"x;\\\"y=\" ;; flag\r\n ;e=;+sip.instance=\"<urn:uuid:1>\"";
    let found: Vec<_> = Params::new(text).collect();
    let wanted: [(&[u8], Option<&[u8]>); 5] = [
        (b"a", Some(b"b")),
        (b"c", Some(b"\"x;\\\"y=\"")),
        (b"flag", None),
        (b"e", Some(b"")),
        (b"+sip.instance", Some(b"\"<urn:uuid:1>\"")),
    ];
    assert_eq!(found, wanted);
    assert_eq!(unquoted(b"\"<urn:uuid:1>\""), b"<urn:uuid:1>");
    assert_eq!(unquoted(b"x"), b"x");
    assert_eq!(unquoted(b"\""), b"\"");
    assert_eq!(Params::new(b"a=1;b").collect::<Vec<_>>(), [(&b"a"[..], Some(&b"1"[..])), (b"b", None)]);
    assert_eq!(Params::new(b"").count(), 0);
    assert_eq!(Params::new(b"a=b=c").collect::<Vec<_>>(), [(&b"a"[..], Some(&b"b=c"[..]))]);
}

#[test]
fn lists_are_split_outside_of_quotes_and_brackets() {
    let split = |text: &'static str| -> Vec<&'static str> {
        let buf = text.as_bytes();
        let values = split_values(buf, Span::new(0, buf.len()));
        values.map(|span| std::str::from_utf8(span.of(buf)).expect("ASCII")).collect()
    };
    assert_eq!(split("a"), ["a"]);
    assert_eq!(split(" a ,\r\n b\t, c "), ["a", "b", "c"]);
    assert_eq!(
        split("\"x, \\\" y\" <sip:a@b,c>;p=\"1,2\", <sip:d>"),
        ["\"x, \\\" y\" <sip:a@b,c>;p=\"1,2\"", "<sip:d>"]
    );
    assert_eq!(split("a,,b,"), ["a", "", "b", ""]);
    assert_eq!(split(" \r\n "), [""; 0]);
    assert_eq!(split("\"a,b"), ["\"a,b"]);
    assert_eq!(split("<a,b"), ["<a,b"]);
    assert_eq!(split("\"a\\"), ["\"a\\"]);
}

#[test]
fn numbers_are_digits_and_nothing_else() {
    assert_eq!(parse_u32(b"0"), Some(0));
    assert_eq!(parse_u32(b"00000000000000000068"), Some(68));
    assert_eq!(parse_u32(b"4294967295"), Some(u32::MAX));
    for bad in ["", "+1", "-1", " 1", "1 ", "1\r\n 2", "4294967296", "99999999999999999999999", "0x1", "1.0"] {
        assert_eq!(parse_u32(bad.as_bytes()), None, "{bad:?}");
    }
    for value in [0, 7, 10, 5060, u32::MAX] {
        let mut out = Vec::new();
        write_u32(value, &mut out);
        assert_eq!(out, value.to_string().as_bytes());
    }
}
