//! Headers as balancers write them, at the edges, and one past.

use super::*;

/// Of version 2: command, family with transport, and what follows.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &len, block].concat()
}

fn v4_block() -> Vec<u8> {
    [&[198, 51, 100, 9, 192, 0, 2, 1][..], &40_000_u16.to_be_bytes(), &5_061_u16.to_be_bytes()].concat()
}

fn v6_block(source: &str) -> Vec<u8> {
    let [source, destination] = [source, "2001:db8::1"].map(|ip| ip.parse::<Ipv6Addr>().unwrap().octets());
    [&source[..], &destination, &40_000_u16.to_be_bytes(), &5_061_u16.to_be_bytes()].concat()
}

fn from(source: &str) -> Option<SocketAddr> {
    Some(source.parse().unwrap())
}

/// What a header gives as a whole, with more behind it, and in every part of it, which asks for no byte too many.
#[track_caller]
fn source(bytes: &[u8]) -> Option<SocketAddr> {
    let whole = read(bytes);
    let Ok(Header::Whole { len, source }) = whole else { panic!("{whole:?}") };
    assert_eq!(len, bytes.len());
    assert_eq!(read(&[bytes, b"\x16\x03\x01"].concat()), whole, "what follows is not looked at");
    let (mut come, mut steps) = (0, 0);
    while let Ok(Header::Needs(more)) = read(&bytes[..come]) {
        assert!(more > 0);
        come += more;
        assert!(come <= bytes.len(), "{come} of {}", bytes.len());
        steps += 1;
    }
    assert_eq!((read(&bytes[..come]), come), (whole, bytes.len()));
    assert!(steps <= 16 || bytes.starts_with(b"PROXY UNKNOWN"), "{steps} reads for {} bytes", bytes.len());
    for end in 0..bytes.len() {
        let part = read(&bytes[..end]);
        assert!(matches!(part, Ok(Header::Needs(more)) if end + more <= bytes.len()), "{end}: {part:?}");
    }
    source
}

#[track_caller]
fn fault(bytes: &[u8]) -> Fault {
    let fault = read(bytes).unwrap_err();
    assert_eq!(read(&[bytes, b"\r\nREGISTER sip:a SIP/2.0\r\n"].concat()), Err(fault));
    fault
}

#[test]
fn version_1_names_the_source() {
    assert_eq!(source(b"PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061\r\n"), from("198.51.100.9:40000"));
    assert_eq!(source(b"PROXY TCP4 1.1.1.1 1.1.1.1 0 1\r\n"), from("1.1.1.1:0"), "the shortest");
    assert_eq!(source(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), from("255.255.255.255:65535"));
    assert_eq!(source(b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 5061\r\n"), from("[2001:db8::9]:40000"));
    assert_eq!(source(b"PROXY TCP6 :: :: 1 1\r\n"), from("[::]:1"), "the shortest");
    assert_eq!(source(b"PROXY TCP6 ::ffff:198.51.100.9 ::1 7 1\r\n"), from("198.51.100.9:7"), "it is of IPv4");
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY TCP6 {full} {full} 65535 65535\r\n");
    assert_eq!(source(longest.as_bytes()), from(&format!("[{full}]:65535")));
}

#[test]
fn version_1_may_not_know_the_source() {
    assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(source(b"PROXY UNKNOWN whatever \xff stands here\r\n"), None);
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
    assert_eq!((source(longest.as_bytes()), longest.len()), (None, V1_LEN_MAX));
    assert_eq!(fault(longest.replace("\r\n", "x\r\n").as_bytes()), Fault::TooLong, "one past it");
    assert_eq!(fault(&[b"PROXY UNKNOWN", &[b' '; 93][..], b"\r"].concat()), Fault::TooLong);
}

#[test]
fn version_1_takes_no_liberties() {
    for line in [
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061\n",
        "PROXY TCP4  198.51.100.9 192.0.2.1 40000 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061 \r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061 6\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061\r\r\n",
        "PROXY TCP4 198.51.100.09 192.0.2.1 40000 5061\r\n",
        "PROXY TCP4 198.51.100.256 192.0.2.1 40000 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2 40000 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 040000 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 +4000 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 65536 5061\r\n",
        "PROXY TCP4 198.51.100.9 192.0.2.1 40000 -1\r\n",
        "PROXY TCP4 2001:db8::9 2001:db8::1 40000 5061\r\n",
        "PROXY TCP6 198.51.100.9 192.0.2.1 40000 5061\r\n",
        "PROXY TCP6 2001:db8::9%1 2001:db8::1 40000 5061\r\n",
        "PROXY TCP6 [2001:db8::9] 2001:db8::1 40000 5061\r\n",
        "PROXY UDP4 198.51.100.9 192.0.2.1 40000 5061\r\n",
        "PROXY tcp4 198.51.100.9 192.0.2.1 40000 5061\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
    ] {
        assert_eq!(fault(line.as_bytes()), Fault::Malformed, "{line:?}");
    }
}

#[test]
fn version_2_names_the_source_and_what_follows_the_addresses_is_skipped() {
    for family in [0x11, 0x12] {
        assert_eq!(source(&v2(0x21, family, &v4_block())), from("198.51.100.9:40000"));
        let with_fields = [v4_block(), vec![0xff; 300]].concat();
        assert_eq!(source(&v2(0x21, family, &with_fields)), from("198.51.100.9:40000"));
        assert_eq!(fault(&v2(0x21, family, &v4_block()[..11])), Fault::Malformed, "one less than addresses take");
    }
    for family in [0x21, 0x22] {
        assert_eq!(source(&v2(0x21, family, &v6_block("2001:db8::9"))), from("[2001:db8::9]:40000"));
        assert_eq!(source(&v2(0x21, family, &v6_block("::ffff:198.51.100.9"))), from("198.51.100.9:40000"));
        assert_eq!(fault(&v2(0x21, family, &v6_block("::1")[..35])), Fault::Malformed);
    }
}

#[test]
fn version_2_may_not_know_the_source() {
    for (command, family) in [(0x20, 0x00), (0x20, 0x11), (0x20, 0xff), (0x21, 0x00), (0x21, 0x31), (0x21, 0x10)] {
        assert_eq!(source(&v2(command, family, b"")), None, "{command:x} {family:x}");
        assert_eq!(source(&v2(command, family, &v4_block())), None, "{command:x} {family:x}");
    }
}

#[test]
fn version_2_is_refused_for_what_nobody_knows() {
    for (command, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x2f, 0x00), (0x21, 0x41), (0x21, 0x13)] {
        assert_eq!(fault(&v2(command, family, &v4_block())), Fault::Malformed, "{command:x} {family:x}");
    }
}

#[test]
fn version_2_is_as_long_as_the_bound_and_no_longer() {
    let of_len = |len: usize| v2(0x21, 0x11, &[v4_block(), vec![0; len - V2_FIXED_LEN - 12]].concat());
    assert_eq!(source(&of_len(PROXY_HEADER_LEN_MAX)), from("198.51.100.9:40000"));
    assert_eq!(fault(&of_len(PROXY_HEADER_LEN_MAX + 1)), Fault::TooLong);
    assert_eq!(fault(&of_len(PROXY_HEADER_LEN_MAX + 1)[..V2_FIXED_LEN]), Fault::TooLong, "as soon as it says so");
}

#[test]
fn what_is_no_header_is_known_by_its_first_byte_that_differs() {
    for text in ["REGISTER sip:a SIP/2.0\r\n", "\r\n\r\nREGISTER", "\x16\x03\x01", "PROXX", "\r\n\r\n\0\r\nQUIT\r", "x"]
    {
        assert_eq!(fault(text.as_bytes()), Fault::Missing, "{text:?}");
    }
    assert_eq!(read(b""), Ok(Header::Needs(V1_LEN_MIN)));
    assert_eq!(read(b"\r\n\r\n"), Ok(Header::Needs(12)), "a ping may be the begin of one");
}

#[test]
fn a_datagram_has_its_whole_header_of_version_2_before_it() {
    let header = v2(0x21, 0x12, &v4_block());
    let datagram = [&header[..], b"OPTIONS"].concat();
    assert_eq!(read_datagram(&datagram), Ok((from("198.51.100.9:40000"), &b"OPTIONS"[..])));
    assert_eq!(read_datagram(&header), Ok((from("198.51.100.9:40000"), &b""[..])));
    assert_eq!(read_datagram(&v2(0x20, 0, b"")), Ok((None, &b""[..])));
    assert_eq!(read_datagram(&header[..header.len() - 1]), Err(Fault::Malformed));
    assert_eq!(read_datagram(&v2(0x21, 0x12, &[0; PROXY_HEADER_LEN_MAX])), Err(Fault::TooLong));
    for text in [&b"PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061\r\n"[..], b"OPTIONS", b"", &V2[..11]] {
        assert_eq!(read_datagram(text), Err(Fault::Missing), "{text:?}");
    }
}

#[test]
fn a_header_where_none_is_due_is_told_from_a_method_of_its_name() {
    assert!(is_one(b"PROXY TCP4 198.51.100.9 192.0.2.1 40000 5061\r\n") && is_one(b"PROXY UNKNOWN\r\n"));
    assert!(is_one(&v2(0x21, 0x11, b"")));
    assert!(!is_one(b"PROXY sip:alice@example.com SIP/2.0\r\n") && !is_one(b"PROXY TCP") && !is_one(b"\r\n\r\n"));
}
