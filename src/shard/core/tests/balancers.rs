//! Connections of load balancers: each becomes that of the address in its PROXY header, and who sends none holds up nobody.

use fastrand::Rng;

use super::peers::{Stage, TCP, TLS, UDP, answers};
use super::sim::End;
use super::*;
use crate::config::{Network, NetworkRule};
use crate::limits::{
    HANDSHAKES_COUNT_MAX, HANDSHAKES_PER_SOURCE_MAX, PROXY_HEADER_LEN_MAX, PROXY_HEADER_MAX,
    PROXY_HEADERS_AWAITED_COUNT_MAX,
};

const ROOM: usize = 64 << 10;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// With the load balancers of 203.0.113.0/24.
fn stage(seed: u64, tls: Tls) -> Stage {
    let mut stage = Stage::new(seed, tls);
    let network = Network { address: [203, 0, 113, 0].into(), prefix_len: 24 };
    let (unregistered_max, handshakes_max) = (10_000, HANDSHAKES_PER_SOURCE_MAX);
    let rule = NetworkRule { network, unregistered_max, handshakes_max, proxy_protocol: true, bans: true };
    let live = Live { networks: vec![rule], ..stage.core.engine.settings().live.clone() };
    assert!(stage.core.input(Input::Live(Box::new(live))));
    stage
}

fn balancer(last: u8, port: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], u16::try_from(port).unwrap()))
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.1 40000 5060\r\n").into_bytes()
}

fn v2(source: [u8; 4]) -> Vec<u8> {
    let ports = [40_000_u16.to_be_bytes(), 5_060_u16.to_be_bytes()].concat();
    [V2, &[0x21, 0x11, 0, 12], &source, &[192, 0, 2, 1], &ports].concat()
}

fn request(branch: &str) -> Vec<u8> {
    options(([192, 0, 2, 1], 5060).into(), "TCP", branch).into_bytes()
}

fn counted(stage: &Stage, counter: Counter) -> u64 {
    stage.core.engine.snapshot().counters.of(counter)
}

/// What the answer to a request behind this says of where that came from, however it is cut.
fn received(seed: u64, header: &[u8]) -> String {
    let mut stage = stage(seed, Tls::default());
    let mut end = stage.world.open(TCP, balancer(1, 7), ROOM);
    end.say(&[header, &request("one")].concat());
    while answers(&end.heard).is_empty() {
        end.step();
        stage.go_on();
    }
    let (says, nobody) = (counted(&stage, Counter::ProxyHeaderSource), counted(&stage, Counter::ProxyHeaderNobody));
    assert_eq!(says + nobody, 1);
    assert!(end.unread_len() == 0 && counted(&stage, Counter::AcceptedTcp) == 1);
    end.reset();
    stage.pass(Duration::from_secs(3));
    assert_eq!(stage.leftovers(), "");
    let text = String::from_utf8(end.heard).unwrap();
    text.split(";received=").nth(1).unwrap().split([';', '\r']).next().unwrap().to_owned()
}

#[test]
fn whoever_is_behind_a_balancer_is_known_by_the_address_in_the_header_wherever_the_stream_is_cut() {
    for seed in 0..100 {
        assert_eq!(received(seed, &v1("198.51.100.9")), "198.51.100.9", "seed {seed}");
        assert_eq!(received(seed, &v2([198, 51, 100, 8])), "198.51.100.8", "seed {seed}");
    }
    assert_eq!(received(1, b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 5060\r\n"), "2001:db8::9");
}

#[test]
fn a_balancer_that_speaks_for_itself_keeps_its_own_address() {
    let local = [V2, &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        assert_eq!(received(2, header), "203.0.113.1");
    }
}

#[test]
fn the_address_in_a_header_makes_no_server_of_who_comes_by_a_balancer() {
    for is_forwarded in [false, true] {
        let mut stage = stage(16, Tls::default());
        let live = Live { trusted: vec![([198, 51, 100, 9].into(), 32)], ..stage.core.engine.settings().live.clone() };
        assert!(stage.core.input(Input::Live(Box::new(live))));
        let from = if is_forwarded { balancer(1, 7) } else { SocketAddr::from(([198, 51, 100, 9], 7)) };
        let mut end = stage.world.open(TCP, from, ROOM);
        let header = if is_forwarded { v1("198.51.100.9") } else { Vec::new() };
        end.say_at_once(&[header, request("one")].concat());
        stage.rest();
        let of = |counter| counted(&stage, counter);
        let server = of(Counter::ServiceCheckServer200) + of(Counter::ServiceCheckServer503);
        let endpoint = of(Counter::ServiceCheckEndpoint200) + of(Counter::ServiceCheckEndpoint503);
        assert_eq!((server, endpoint), if is_forwarded { (0, 1) } else { (1, 0) });
    }
}

#[test]
fn a_connection_without_a_header_that_is_one_is_closed_and_counted_by_reason() {
    let too_long = [V2, &[0x21, 0x11], &u16::try_from(PROXY_HEADER_LEN_MAX - 15).unwrap().to_be_bytes()].concat();
    let cases: [(&[u8], Counter, u64); 7] = [
        (b"OPTIONS sip:a SIP/2.0\r\n", Counter::ProxyHeaderMissing, 1),
        (b"\x16\x03\x01", Counter::ProxyHeaderMissing, 1),
        (b"PROXY TCP4 198.51.100.9\r\n", Counter::ProxyHeaderMalformed, 1),
        (&too_long, Counter::ProxyHeaderTooLong, 1),
        (&[b'P'; 0], Counter::ProxyHeaderEnded, 1),
        (b"PROXY TCP4 198", Counter::ProxyHeaderEnded, 1),
        (b"PROXY TCP4 198.51.100.9 192.0.2.1 40000 5060", Counter::ProxyHeaderEnded, 1),
    ];
    for (text, reason, count) in cases {
        let mut stage = stage(3, Tls::default());
        let mut end = stage.world.open(TLS, balancer(1, 7), ROOM);
        end.say_at_once(text);
        if reason == Counter::ProxyHeaderEnded {
            end.end();
        }
        for _ in 0..50 {
            end.step();
            stage.rest();
        }
        assert!(end.is_closed() && end.heard.is_empty(), "{text:?}");
        assert_eq!(counted(&stage, reason), count, "{text:?}");
        assert_eq!(counted(&stage, Counter::LimitProxyHeaderLen), u64::from(reason == Counter::ProxyHeaderTooLong));
        assert_eq!(counted(&stage, Counter::AcceptedTcp), 0, "the engine has not heard of it");
        assert_eq!(stage.leftovers(), "");
    }
}

#[test]
fn a_header_that_does_not_come_is_waited_for_so_long_and_no_longer() {
    let mut stage = stage(4, Tls::default());
    let mut late = stage.world.open(TCP, balancer(1, 7), ROOM);
    let silent = stage.world.open(TCP, balancer(1, 8), ROOM);
    let mut slow = stage.world.open(TCP, balancer(1, 9), ROOM);
    stage.rest();
    let text = [v1("198.51.100.9"), request("late")].concat();
    slow.say_at_once(&text[..20]);
    stage.pass(PROXY_HEADER_MAX - Duration::from_millis(1));
    assert!(!silent.is_closed() && !slow.is_closed());
    late.say_at_once(&text);
    stage.rest();
    stage.pass(Duration::from_millis(1));
    stage.rest();
    assert!(silent.is_closed() && slow.is_closed(), "{}", stage.leftovers());
    assert_eq!(counted(&stage, Counter::ProxyHeaderTimeout), 2);
    assert_eq!(counted(&stage, Counter::LimitProxyHeader), 2);
    late.hear_all();
    assert_eq!(answers(&late.heard), ["late"]);
}

#[test]
fn so_many_headers_are_awaited_and_then_the_oldest_of_the_balancer_with_the_most_gives_way() {
    let mut stage = stage(5, Tls::default());
    let mut other = stage.world.open(TCP, balancer(2, 7), ROOM);
    stage.rest();
    let silent: Vec<End> =
        (1..=PROXY_HEADERS_AWAITED_COUNT_MAX - 1).map(|port| stage.world.open(TCP, balancer(1, port), ROOM)).collect();
    stage.rest();
    assert_eq!(stage.core.awaited.len(), PROXY_HEADERS_AWAITED_COUNT_MAX);
    assert_eq!(counted(&stage, Counter::LimitProxyHeadersAwaitedCount), 0, "at the bound");
    let mut newest = stage.world.open(TCP, balancer(1, 9_999), ROOM);
    stage.rest();
    assert_eq!(counted(&stage, Counter::LimitProxyHeadersAwaitedCount), 1, "one past it");
    assert_eq!(stage.core.awaited.len(), PROXY_HEADERS_AWAITED_COUNT_MAX);
    assert!(silent[0].is_closed() && silent[1..].iter().all(|end| !end.is_closed()));
    for (end, branch) in [(&mut other, "other"), (&mut newest, "newest")] {
        end.say_at_once(&[v1("198.51.100.9"), request(branch)].concat());
        stage.rest();
        end.hear_all();
        assert_eq!(answers(&end.heard), [branch]);
    }
    stage.pass(PROXY_HEADER_MAX);
    assert!(silent.iter().all(End::is_closed));
}

#[test]
fn they_take_no_descriptor_that_a_connection_may_need() {
    let mut stage = stage(6, Tls::default());
    let room = stage.core.engine.settings().connections_max as usize;
    let mut plain = Vec::new();
    for n in 0..room - 10 {
        plain.push(stage.world.open(TCP, SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 5060)), ROOM));
        if n % 1_000 == 0 {
            stage.rest();
        }
    }
    stage.rest();
    assert_eq!(stage.core.conns.len(), room - 10);
    let awaited: Vec<End> = (1..=11).map(|port| stage.world.open(TCP, balancer(1, port), ROOM)).collect();
    stage.rest();
    assert_eq!(stage.core.awaited.len(), 10);
    assert!(awaited[0].is_closed() && awaited[1..].iter().all(|end| !end.is_closed()));
    assert!(plain.iter().all(|end| !end.is_closed()));
}

/// Opens TLS connections by a balancer, each with its header, that say nothing more.
fn stalled(stage: &mut Stage, sources: impl Iterator<Item = [u8; 4]>) -> Vec<End> {
    let open = |(at, source)| {
        let mut end = stage.world.open(TLS, balancer(1, 1_000 + at), ROOM);
        end.say_at_once(&v2(source));
        end
    };
    sources.enumerate().map(open).collect()
}

#[test]
fn shares_of_handshakes_are_those_of_the_phones_and_not_of_their_balancer() {
    let certificates = Certificates::new("balancers");
    let mut stage = stage(7, certificates.tls("proxy.example.com"));
    let _others = stalled(&mut stage, (0..HANDSHAKES_PER_SOURCE_MAX).map(|n| [198, 51, 1, n as u8]));
    stage.rest();
    assert_eq!((stage.core.handshakes.len(), stage.core.parked.len()), (HANDSHAKES_PER_SOURCE_MAX, 0));
    let mut stage = self::stage(8, certificates.tls("proxy.example.com"));
    let _one = stalled(&mut stage, (0..HANDSHAKES_PER_SOURCE_MAX + 5).map(|_| [198, 51, 100, 9]));
    stage.rest();
    assert_eq!((stage.core.handshakes.len(), stage.core.parked.len()), (HANDSHAKES_PER_SOURCE_MAX, 5));
    assert_eq!(counted(&stage, Counter::LimitHandshakesPerSource), 5);
}

#[test]
fn who_comes_by_a_balancer_while_there_are_as_many_handshakes_as_may_be_waits_apart_and_gets_in() {
    let certificates = Certificates::new("balancers-wait");
    let mut stage = stage(9, certificates.tls("proxy.example.com"));
    let many = stalled(&mut stage, (0..HANDSHAKES_COUNT_MAX).map(|n| [198, 51, 1, n as u8]));
    stage.rest();
    assert_eq!((stage.core.handshakes.len(), stage.core.parked.len()), (HANDSHAKES_COUNT_MAX, 0));
    let mut late = stage.world.open(TLS, balancer(1, 9), ROOM);
    late.say_at_once(&v2([198, 51, 100, 9]));
    stage.rest();
    assert_eq!((stage.core.handshakes.len(), stage.core.parked.len()), (HANDSHAKES_COUNT_MAX, 1));
    assert_eq!(counted(&stage, Counter::LimitHandshakesPerSource), 0, "its own share is not used up");
    stage.pass(Duration::from_millis(600));
    assert_eq!(stage.core.parked.len(), 0, "the oldest has given way");
    assert!(many.iter().filter(|end| end.is_closed()).count() == 1 && !late.is_closed());
}

#[test]
fn a_header_from_where_none_is_due_ends_the_connection_and_is_counted() {
    let certificates = Certificates::new("balancers-elsewhere");
    let elsewhere = SocketAddr::from(([198, 51, 100, 1], 5060));
    for point in [TCP, TLS] {
        for header in [v1("198.51.100.9"), v2([198, 51, 100, 9])] {
            let mut stage = stage(10, certificates.tls("proxy.example.com"));
            let mut end = stage.world.open(point, elsewhere, ROOM);
            end.say_at_once(&[header, request("one")].concat());
            stage.pass(Duration::from_secs(3));
            end.hear_all();
            assert!(end.is_closed() && answers_none(&end.heard), "{:?}", end.heard);
            assert_eq!(counted(&stage, Counter::ProxyHeaderUnexpected), 1);
        }
    }
    // Nor is a second one taken, which is a stranger's own.
    let mut stage = stage(11, certificates.tls("proxy.example.com"));
    let mut end = stage.world.open(TCP, balancer(1, 7), ROOM);
    end.say_at_once(&[v1("198.51.100.9"), v1("192.0.2.7"), request("one")].concat());
    stage.pass(Duration::from_secs(3));
    assert!(end.is_closed() && counted(&stage, Counter::ProxyHeaderUnexpected) == 1);
}

/// Whether no SIP was heard: a TLS alert may be.
fn answers_none(heard: &[u8]) -> bool {
    !heard.windows(3).any(|part| part == b"SIP")
}

/// The answers to a datagram, and whom they went to.
fn answered(stage: &mut Stage, from: SocketAddr, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    stage.world.send_datagram(UDP, from, datagram);
    stage.rest();
    stage.world.take_sent(UDP)
}

fn udp_request(branch: &str) -> Vec<u8> {
    options(([192, 0, 2, 1], 5060).into(), "UDP", branch).into_bytes()
}

#[test]
fn a_datagram_of_a_balancer_is_of_the_address_in_its_header_and_is_answered_by_the_balancer() {
    let mut stage = stage(13, Tls::default());
    let header = v2([198, 51, 100, 9]);
    let sent = answered(&mut stage, balancer(1, 7), &[&header[..], &udp_request("one")].concat());
    let [(to, text)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((*to, answers(text)), (balancer(1, 7), vec!["one".to_owned()]));
    let text = String::from_utf8_lossy(text);
    assert!(text.contains("received=198.51.100.9") && !text.contains("203.0.113"), "{text}");
    // Keep-alives as well: a phone is told its own address.
    let sent = answered(&mut stage, balancer(1, 7), &[&header[..], b"\r\n\r\n"].concat());
    assert_eq!(sent, [(balancer(1, 7), b"\r\n".to_vec())]);
    let binding = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let sent = answered(&mut stage, balancer(1, 7), &[&header[..], &binding].concat());
    let mapped = [198 ^ 0x21, 51 ^ 0x12, 100 ^ 0xa4, 9 ^ 0x42];
    assert!(sent.len() == 1 && sent[0].0 == balancer(1, 7) && sent[0].1.ends_with(&mapped), "{sent:?}");
    assert_eq!(counted(&stage, Counter::ProxyHeaderSource), 3);
    assert_eq!(answered(&mut stage, balancer(1, 7), &header), [], "nothing is behind it");
}

#[test]
fn a_datagram_without_a_header_or_with_one_from_elsewhere_is_dropped_and_counted() {
    let mut stage = stage(14, Tls::default());
    let header = v2([198, 51, 100, 9]);
    let request = udp_request("one");
    let cut = [V2, &[0x21, 0x12, 0, 12, 1]].concat();
    let long = [V2, &[0x21, 0x12, 4, 0], &[0; 1_024][..]].concat();
    let elsewhere = SocketAddr::from(([198, 51, 100, 1], 5060));
    for (from, datagram, reason) in [
        (balancer(1, 7), request.clone(), Counter::ProxyHeaderMissing),
        (balancer(1, 7), v1("198.51.100.9"), Counter::ProxyHeaderMissing),
        (balancer(1, 7), b"\r\n\r\n".to_vec(), Counter::ProxyHeaderMissing),
        (balancer(1, 7), cut, Counter::ProxyHeaderMalformed),
        (balancer(1, 7), long, Counter::ProxyHeaderTooLong),
        (elsewhere, [&header[..], &request].concat(), Counter::ProxyHeaderUnexpected),
        (balancer(1, 7), [&header[..], &header, &request].concat(), Counter::ProxyHeaderUnexpected),
    ] {
        let before = counted(&stage, reason);
        assert_eq!(answered(&mut stage, from, &datagram), [], "{datagram:?}");
        assert_eq!(counted(&stage, reason), before + 1, "{datagram:?}");
    }
    assert_eq!(answered(&mut stage, elsewhere, &request).len(), 1, "who needs none is answered");
}

#[test]
fn a_balancer_checks_health_by_options_over_udp_and_says_nothing_else_for_itself() {
    let mut stage = stage(15, Tls::default());
    for header in [[V2, &[0x20, 0, 0, 0]].concat(), [V2, &[0x21, 0, 0, 0]].concat()] {
        let sent = answered(&mut stage, balancer(1, 7), &[&header[..], &udp_request("check")].concat());
        assert!(sent.len() == 1 && sent[0].0 == balancer(1, 7), "{sent:?}");
        assert!(String::from_utf8_lossy(&sent[0].1).contains("received=203.0.113.1"));
        let register = String::from_utf8(udp_request("bind")).unwrap().replace("OPTIONS", "REGISTER");
        for other in [register.as_bytes(), b"\r\n\r\n", b""] {
            assert_eq!(answered(&mut stage, balancer(1, 7), &[&header[..], other].concat()), []);
        }
    }
    assert_eq!(counted(&stage, Counter::ProxyHeaderNobody), 8);
}

#[test]
fn a_shard_that_stops_lets_those_go_that_still_wait() {
    let mut stage = stage(12, Tls::default());
    let count = Rng::with_seed(12).usize(2..9);
    let silent: Vec<End> = (1..=count).map(|port| stage.world.open(TCP, balancer(1, port), ROOM)).collect();
    stage.rest();
    assert_eq!(stage.core.awaited.len(), count);
    stage.core.remove_all();
    assert!(silent.iter().all(End::is_closed));
    assert_eq!(stage.leftovers(), "");
}
