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
    let tag = |text: &str| NameAddr::parse_tag(text.as_bytes(), Span::new(0, text.len()));
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
    for seed in 0..crate::rng::rounds(20_000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut text: String = (0..random.usize(1..13)).map(|_| random.digit(10)).collect();
        if random.u8(..4) == 0 {
            text.insert(random.usize(..=text.len()), ['/', ':', '-', ' ', 'a'][random.usize(..5)]);
        }
        assert_eq!(parse_u32(text.as_bytes()), text.parse().ok(), "seed {seed}: {text:?}");
    }
    for value in [0, 7, 10, 5060, u32::MAX] {
        let mut out = Vec::new();
        write_u32(value, &mut out);
        assert_eq!(out, value.to_string().as_bytes());
    }
}

/// A text of pieces that `seed` picks.
fn pieced(seed: u64, pieces: &[&str]) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..random.usize(1..9)).map(|_| pieces[random.usize(..pieces.len())]).collect()
}

#[test]
#[cfg_attr(miri, ignore = "it counts what it meets, for which miri plays too few seeds")]
fn usual_parameters_are_what_parameters_of_any_form_would_be() {
    const PIECES: &[&str] = &[
        ";",
        "=",
        "tag",
        "branch",
        "x",
        "%20",
        "\"",
        "\"a;b=c\"",
        "\\",
        " ",
        "\r\n ",
        ",",
        "é",
        "a.b-c",
        "[::1]",
        "\0",
    ];
    let (mut plain, mut others) = (0, 0);
    for seed in 0..50_000 {
        let text = pieced(seed, PIECES);
        let mut usual = Params::new(text.as_bytes());
        let mut any = usual.clone();
        loop {
            let before = usual.at;
            let quick = usual.clone().next_plain();
            let found = usual.next_spans();
            assert_eq!(found, any.next_of_any_form(), "seed {seed}: {text:?} from {before}");
            assert_eq!((usual.malformed, usual.unclosed), (any.malformed, any.unclosed), "seed {seed}: {text:?}");
            let Some((name, _)) = found else { break };
            assert_eq!(usual.at, any.at, "seed {seed}: {text:?}");
            assert!(quick.is_none() || is_token(name.of(text.as_bytes())), "seed {seed}: {text:?}");
            *(if quick.is_some() { &mut plain } else { &mut others }) += 1;
        }
    }
    assert!(plain > 5_000 && others > 5_000, "{plain} and {others}: both are tried");
}

#[test]
#[cfg_attr(miri, ignore = "it counts what it meets, for which miri plays too few seeds")]
fn the_usual_protocol_is_what_a_protocol_of_any_form_would_be() {
    const PIECES: &[&str] = &["SIP/2.0/", "UDP ", "TCP ", "TLS ", "sip/2.0/", "udp ", "SCTP ", "UDP", " ", "/", "h"];
    let mut usual = 0;
    for seed in 0..50_000 {
        let text = pieced(seed, PIECES);
        if let Some(transport) = usual_protocol(text.as_bytes()) {
            usual += 1;
            let (any, end) = protocol(text.as_bytes(), 0, text.len()).expect("what is usual is right");
            assert_eq!((any, end + 1), (Some(transport), USUAL_PROTOCOL_LEN), "seed {seed}: {text:?}");
        }
    }
    assert!(usual > 500, "{usual}");
}

#[test]
#[cfg_attr(miri, ignore = "it counts what it meets, for which miri plays too few seeds")]
fn a_bracketed_uri_ends_at_the_first_bracket_and_holds_none_of_what_no_uri_holds() {
    const PIECES: &[&str] =
        &["<", "<sip:a@b", ">", ">;tag=7", "sip:a", "\"A\"", "\"", " ", "\t", "é", ",", "?", ";", "\x7f"];
    let mut bracketed = 0;
    for seed in 0..50_000 {
        let text = pieced(seed, PIECES);
        let Ok(addr) = addr(&text) else { continue };
        let uri = addr.uri.of(text.as_bytes());
        assert!(!uri.is_empty() && uri.iter().all(|byte| *byte > b' ' && !b"<>\"\x7f".contains(byte)), "{text:?}");
        if addr.bracketed {
            bracketed += 1;
            let (before, after) = (addr.uri.start as usize - 1, addr.uri.end as usize);
            assert_eq!((text.as_bytes()[before], text.as_bytes()[after]), (b'<', b'>'), "seed {seed}: {text:?}");
            assert_eq!(after - before, text[before..].find('>').expect("it ends"), "seed {seed}: {text:?}");
        } else {
            assert!(!uri.contains(&b'?') && !uri.contains(&b','), "seed {seed}: {text:?}");
        }
    }
    assert!(bracketed > 500, "{bracketed}");
}
