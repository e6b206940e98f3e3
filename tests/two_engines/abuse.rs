//! Addresses that only fail: slowed, then shut out on every shard, and never while they hold a binding.

use std::net::SocketAddr;
use std::time::Duration;

use hawser::abuse::{CONNECTION, GARBAGE, REFUSED, REGISTER, Source};
use hawser::config::{Device, Network, NetworkRule, Verify};
use hawser::engine::{Accept, CloseReason, Input, Refusal, Settings};
use hawser::limits::{
    ABUSE_HANDSHAKES_MAX, ABUSE_SHUT_OUT_FROM, ABUSE_SLOWED_FROM, ABUSE_SLOWED_LEAST, BAN_TIME, HANDSHAKE_MAX,
    HANDSHAKES_PER_SOURCE_MAX, OVERLOAD_QUIET,
};
use hawser::stats::{Counter, Gauge};

use crate::overload::overload;
use crate::registration::user_with_home;
use crate::talk::{Phone, answer, start_line};
use crate::world::{SERVER, Setup, TCP, TLS, Wire, World};

const SCANNER: &str = "203.0.113.66";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

fn accept(world: &mut World, shard: u8, ip: &str) -> Result<Wire, Refusal> {
    let (now, shard) = (world.now, usize::from(shard) % world.engines.len());
    let accept = Accept { point: TLS, peer: at(ip, 999), is_forwarded: false };
    let accepted = world.engines[shard].accept(accept, now);
    world.settle();
    accepted.map(|conn| Wire { shard: u8::try_from(shard).expect("few"), conn })
}

/// A TLS handshake fails on a shard.
fn fail_handshake(world: &mut World, shard: u8, ip: &str) {
    let wire = accept(world, shard, ip).expect("it is let in");
    world.input(shard, Input::Closed { conn: wire.conn, reason: CloseReason::Handshake });
}

/// So many of these weigh as much as it takes.
fn to_be_shut_out(weight: u32) -> u32 {
    ABUSE_SHUT_OUT_FROM.div_ceil(weight)
}

/// What of an address is done until it is shut out, on all shards in turn; then once more in time.
fn shut_out_by(world: &mut World, weight: u32, mut fail: impl FnMut(&mut World, u8)) {
    for n in 0..to_be_shut_out(weight) {
        fail(world, u8::try_from(n % 2).expect("small"));
    }
    assert_eq!(world.counted(Counter::AbuseSlowed), 1, "{:?}", world.events);
    assert_eq!(world.counted(Counter::AbuseShutOut), 0);
    world.pass(ABUSE_SLOWED_LEAST);
    for _ in 0..10 {
        if world.counted(Counter::AbuseShutOut) == 0 {
            fail(world, 1);
        }
    }
}

fn shut_out(world: &mut World, ip: &str) {
    shut_out_by(world, CONNECTION, |world, shard| fail_handshake(world, shard, ip));
}

fn is_out(world: &World, ip: &str) -> Vec<bool> {
    let ip = ip.parse().expect("an address");
    world.engines.iter().map(|engine| engine.shuts_out(ip, world.now)).collect()
}

fn lines<'a>(world: &'a World, what: &str) -> Vec<&'a str> {
    world.events.iter().map(String::as_str).filter(|event| event.starts_with(what)).collect()
}

fn shown(world: &World, gauge: Gauge) -> u64 {
    world.engines.iter().map(|engine| engine.snapshot().gauges.of(gauge)).sum()
}

#[test]
fn who_only_fails_handshakes_is_slowed_then_shut_out_on_every_shard_for_a_time() {
    let mut world = World::new(&Setup::default());
    let max = |world: &World, shard: usize| world.engines[shard].handshakes_max(SCANNER.parse().expect("an address"));
    for n in 0..ABUSE_SLOWED_FROM / CONNECTION {
        let last = world.engines.len() - 1;
        assert_eq!([max(&world, 0), max(&world, last)], [HANDSHAKES_PER_SOURCE_MAX; 2], "{n}");
        fail_handshake(&mut world, u8::try_from(n % 2).expect("small"), SCANNER);
    }
    let last = world.engines.len() - 1;
    assert_eq!([max(&world, 0), max(&world, last)], [ABUSE_HANDSHAKES_MAX; 2]);
    assert_eq!((shown(&world, Gauge::AbuseSlowed), shown(&world, Gauge::AbuseShutOut)), (1, 0));
    for _ in ABUSE_SLOWED_FROM / CONNECTION..to_be_shut_out(CONNECTION) {
        fail_handshake(&mut world, 0, SCANNER);
    }
    world.pass(ABUSE_SLOWED_LEAST);
    (0..3).for_each(|_| fail_handshake(&mut world, 1, SCANNER));
    assert!(is_out(&world, SCANNER).iter().all(|is_out| *is_out));
    assert_eq!((shown(&world, Gauge::AbuseSlowed), shown(&world, Gauge::AbuseShutOut)), (0, 1));
    for shard in [0, 1, 1] {
        assert_eq!(accept(&mut world, shard, SCANNER), Err(Refusal::ShutOut));
    }
    assert_eq!(world.counted(Counter::AcceptRefusedShutOut), 3);
    assert!(accept(&mut world, 1, "203.0.113.67").is_ok(), "its neighbour has done nothing");
    assert_eq!(
        lines(&world, "address"),
        [
            "address shut out: 203.0.113.66: for 600 s, time 1: 153 failed connections, 0 malformed messages, 0 requests \
          refused with 403, 0 addresses of record refused"
        ]
    );
    assert_eq!(lines(&world, "connection refused").len(), 0, "that it is shut out is told once");
    let bans = world.engines[0].bans(world.now).bans;
    let [ban] = bans.as_slice() else { panic!("{bans:?}") };
    assert_eq!((ban.source.to_string().as_str(), ban.since, ban.left), (SCANNER, Duration::ZERO, BAN_TIME));
    let turned_away: u64 =
        world.engines.iter().flat_map(|engine| engine.bans(world.now).turned_away).map(|(_, count)| count).sum();
    assert_eq!(turned_away, 3);

    world.pass(BAN_TIME + Duration::from_millis(10));
    assert!(is_out(&world, SCANNER).iter().all(|is_out| !is_out));
    assert_eq!(lines(&world, "address let in again"), ["address let in again: 203.0.113.66: its time is over"]);
    assert!(accept(&mut world, 1, SCANNER).is_ok());
    assert_eq!(shown(&world, Gauge::AbuseShutOut), 0);
    world.end();
}

/// A connection of an address, that is ready for SIP.
fn connect(world: &mut World, shard: u8, ip: &str) -> Wire {
    world.connect_from(shard, TCP, at(ip, 998))
}

#[test]
fn garbage_shuts_out_and_what_is_still_open_is_closed_with_its_next_word() {
    let mut world = World::new(&Setup::default());
    let open = connect(&mut world, 1, SCANNER);
    shut_out_by(&mut world, GARBAGE, |world, shard| {
        let wire = connect(world, shard, SCANNER);
        world.write(wire, "GET / HTTP/1.0\r\n\r\n");
        world.hang_up(wire);
    });
    world.drain();
    assert!(is_out(&world, SCANNER).iter().all(|is_out| *is_out), "{:?}", world.events);
    assert!(world.counted(Counter::AbuseGarbage) >= 31);
    assert_eq!(world.closed.iter().filter(|(wire, _)| *wire == open).count(), 0);
    world.write(open, "OPTIONS sip:127.0.0.1 SIP/2.0\r\n");
    assert_eq!(world.closed.last(), Some(&(open, CloseReason::ShutOut)));
    world.end();
}

/// An INVITE of nobody that is known, of its own transaction.
fn invite(from: Wire, nth: u32) -> String {
    format!(
        "INVITE sip:00{nth}@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 203.0.113.66;branch=z9hG4bKi{nth}{}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:x@example.com>;tag=x\r\nTo: <sip:00{nth}@example.com>\r\nCall-ID: i{nth}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:x@203.0.113.66>\r\nContent-Length: 0\r\n\r\n",
        from.conn.slot
    )
}

/// The server's answer to what has come last.
fn served(world: &mut World, from: Wire, text: &str, status: &str) {
    world.write(from, text);
    let request = world.read_server();
    let answer = answer(&request, status, "srv", "");
    world.datagram(0, SERVER, &answer);
    // Over UDP it comes again when its ACK is lost.
    world.datagram(0, SERVER, &answer);
    world.drain();
}

#[test]
fn refused_requests_shut_out_but_for_a_trunk_that_has_success_too() {
    for has_success in [false, true] {
        let mut world = World::new(&Setup::default());
        let wire = connect(&mut world, 1, SCANNER);
        for nth in 0..to_be_shut_out(REFUSED) * 3 {
            served(&mut world, wire, &invite(wire, nth), "403 Forbidden");
            if has_success && nth % 10 == 9 {
                served(&mut world, wire, &invite(wire, 1_000 + nth), "200 OK");
            }
            world.pass_ms(200);
            if world.counted(Counter::ClosedShutOut) > 0 || world.counted(Counter::AbuseShutOut) > 0 {
                break;
            }
        }
        assert_eq!(world.counted(Counter::AbuseShutOut), u64::from(!has_success), "{has_success}");
        assert!(world.counted(Counter::AbuseRefused) <= u64::from(to_be_shut_out(REFUSED) * 3), "each once");
        world.drain();
    }
}

#[test]
fn what_we_refuse_ourselves_counts_and_a_challenge_does_not() {
    let mut world = World::new(&Setup::default());
    let wire = connect(&mut world, 0, SCANNER);
    for nth in 0..200 {
        served(&mut world, wire, &invite(wire, nth), "401 Unauthorized");
        served(&mut world, wire, &invite(wire, 1_000 + nth), "407 Proxy Authentication Required");
        served(&mut world, wire, &invite(wire, 2_000 + nth), "486 Busy Here");
    }
    assert_eq!(world.counted(Counter::AbuseRefused), 0);
    let relay = invite(wire, 5_000).replace("Max-Forwards", "Route: <sip:elsewhere.example.net;lr>\r\nMax-Forwards");
    world.write(wire, &relay);
    assert_eq!(start_line(&world.read(wire)).split(' ').nth(1), Some("403"));
    assert_eq!(world.counted(Counter::AbuseRefused), 1);
    world.pass_s(100);
    world.drain();
    world.end();
}

/// Registers in the name of many, over a connection of its own for each.
fn guess(world: &mut World, shard: u8, ip: &str, aor: u32, status: &str) {
    let wire = connect(world, shard, ip);
    let mut phone = Phone::new("guess", wire);
    phone.call_id = format!("g{aor}{}", world.now.0);
    let text = phone.register_text(600).replace("guess@", &format!("guess{aor}@"));
    served(world, wire, &text, status);
    world.hang_up(wire);
}

#[test]
fn refused_registers_of_many_shut_out_and_those_of_a_few_do_not_however_often_they_come() {
    for status in ["403 Forbidden", "404 Not Found"] {
        let mut world = World::new(&Setup::default());
        let mut aor = 0;
        shut_out_by(&mut world, REGISTER, |world, shard| {
            aor += 1;
            guess(world, shard, SCANNER, aor, status);
        });
        assert!(is_out(&world, SCANNER).iter().all(|is_out| *is_out), "{:?}", world.events);
        assert!(
            lines(&world, "address shut out")[0].ends_with(" 16 addresses of record refused"),
            "{:?}",
            world.events
        );
    }
    let mut world = World::new(&Setup::default());
    for round in 0..40 {
        for aor in 0..14 {
            guess(&mut world, u8::try_from(round % 2).expect("small"), SCANNER, aor, "403 Forbidden");
        }
        world.pass_s(1);
    }
    assert_eq!(world.counted(Counter::AbuseShutOut), 0);
    world.pass_s(400);
    world.end();
}

/// Some of a site's phones have a wrong password or an old certificate.
#[test]
fn a_site_is_not_shut_out_while_one_phone_of_it_is_bound_on_whichever_shard() {
    for home in [0, 1] {
        let mut world = World::new(&Setup { shards: 2, ..Setup::default() });
        let wire = world.connect_from(1, TLS, at(SCANNER, 1));
        let mut phone = Phone::new(user_with_home(&world, home), wire);
        phone.register(&mut world, 3_600);
        for _ in 0..2 {
            for n in 0..to_be_shut_out(CONNECTION) {
                fail_handshake(&mut world, u8::try_from(n % 2).expect("small"), SCANNER);
                guess(&mut world, u8::try_from(n % 2).expect("small"), SCANNER, n, "403 Forbidden");
            }
            world.pass(ABUSE_SLOWED_LEAST);
        }
        assert_eq!(world.counted(Counter::AbuseShutOut), 0);
        let max = |engine: &hawser::engine::Engine| engine.handshakes_max(SCANNER.parse().expect("an address"));
        assert!(world.engines.iter().all(|engine| max(engine) == HANDSHAKES_PER_SOURCE_MAX), "nor slowed for long");
        // It goes, and what comes then counts.
        world.hang_up(wire);
        shut_out_from_here(&mut world);
        assert_eq!(world.counted(Counter::AbuseShutOut), 1);
        world.drain();
        world.end();
    }
}

fn shut_out_from_here(world: &mut World) {
    (0..to_be_shut_out(CONNECTION)).for_each(|_| fail_handshake(world, 0, SCANNER));
    world.pass(ABUSE_SLOWED_LEAST);
    // As many as make up for the points of five seconds.
    (0..3).for_each(|_| fail_handshake(world, 0, SCANNER));
}

#[test]
fn a_phone_that_registers_clears_its_address() {
    let mut world = World::new(&Setup::default());
    let wire = connect(&mut world, 1, SCANNER);
    for _ in 0..to_be_shut_out(CONNECTION) {
        fail_handshake(&mut world, 0, SCANNER);
    }
    assert_eq!(shown(&world, Gauge::AbuseSlowed), 1);
    let mut phone = Phone::new("alice", wire);
    phone.register(&mut world, 3_600);
    assert_eq!((shown(&world, Gauge::AbuseSlowed), world.counted(Counter::AbuseFree)), (0, 1));
    world.pass(ABUSE_SLOWED_LEAST);
    (0..3).for_each(|_| fail_handshake(&mut world, 0, SCANNER));
    assert_eq!((shown(&world, Gauge::AbuseSlowed), world.counted(Counter::AbuseShutOut)), (0, 0));
    world.end();
}

/// A shard that is late says so all the same, and nobody whom it holds is refused there.
#[test]
fn a_binding_that_is_told_late_lifts_a_ban_and_its_own_shard_never_refuses() {
    let mut world = World::new(&Setup { shards: 2, ..Setup::default() });
    let wire = world.connect_from(1, TLS, at(SCANNER, 1));
    Phone::new(user_with_home(&world, 1), wire).register(&mut world, 3_600);
    world.hold_mail = true;
    shut_out_from_here(&mut world);
    assert_eq!(is_out(&world, SCANNER), [true, false]);
    world.hold_mail = false;
    world.settle();
    assert_eq!(is_out(&world, SCANNER), [false, false]);
    assert_eq!(lines(&world, "address let in again"), ["address let in again: 203.0.113.66: it has had success"]);
    world.end();
}

#[test]
fn over_udp_nobody_fails_for_its_source_can_be_forged() {
    let mut world = World::new(&Setup::default());
    for n in 0..200 {
        let from = format!("{SCANNER}:5060");
        world.datagram(0, &from, "GET / HTTP/1.0\r\n\r\n");
        let wire = Wire { shard: 0, conn: hawser::ids::ConnId { slot: 0, generation: 0 } };
        let text = invite(wire, n).replace("TCP", "UDP");
        world.datagram(1, &from, &text.replace("Max-", "Route: <sip:elsewhere.example.net;lr>\r\nMax-"));
        world.datagram(0, &from, &text);
        let request = world.read_server();
        world.datagram(0, SERVER, &answer(&request, "403 Forbidden", "srv", ""));
        world.drain();
    }
    let kinds = [Counter::AbuseConnection, Counter::AbuseGarbage, Counter::AbuseRefused, Counter::AbuseRegister];
    assert_eq!(kinds.map(|kind| world.counted(kind)), [0; 4]);
    world.pass_s(100);
    world.drain();
    world.end();
}

fn excepted(settings: &mut Settings) {
    let network = |last: u8| Network { address: [203, 0, 113, last].into(), prefix_len: 32 };
    let rule = |last, proxy_protocol, bans| NetworkRule {
        network: network(last),
        unregistered_max: 1_000,
        handshakes_max: HANDSHAKES_PER_SOURCE_MAX,
        proxy_protocol,
        bans,
    };
    settings.live.networks = vec![rule(1, true, true), rule(2, false, false), rule(66, false, true)];
    settings.live.trusted = vec![([203, 0, 113, 3].into(), 32)];
    settings.devices = vec![Device { network: network(4), tls_name: None, verify: Verify::Name, setup: None }];
}

#[test]
fn whom_the_settings_name_is_never_judged() {
    let mut world = World::new(&Setup { mutate: excepted, ..Setup::default() });
    for ip in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "127.0.0.1"] {
        (0..500).for_each(|n| fail_handshake(&mut world, u8::try_from(n % 2).expect("small"), ip));
    }
    assert_eq!(world.counted(Counter::AbuseConnection), 0);
    shut_out(&mut world, SCANNER);
    assert!(is_out(&world, SCANNER).iter().all(|is_out| *is_out), "a network with bans = true");
    // An operator excepts it.
    let mut live = world.engines[0].settings().live.clone();
    live.networks[2].bans = false;
    for shard in (0..u8::try_from(world.engines.len()).expect("few")).rev() {
        world.input(shard, Input::Live(Box::new(live.clone())));
    }
    assert!(is_out(&world, SCANNER).iter().all(|is_out| !is_out));
    let why = "address let in again: 203.0.113.66: settings or certificates have changed";
    assert_eq!(lines(&world, "address let in again"), [why]);
    world.end();
}

#[test]
fn an_ipv6_host_is_shut_out_with_its_64_but_for_who_is_excepted_there() {
    let mutate: fn(&mut Settings) = |settings| settings.live.trusted = vec![("2001:db8::5".parse().expect("one"), 128)];
    let mut world = World::new(&Setup { mutate, ..Setup::default() });
    let mut host = 0x10;
    shut_out_by(&mut world, CONNECTION, |world, shard| {
        host += 1;
        fail_handshake(world, shard, &format!("2001:db8::{host:x}"));
    });
    assert!(is_out(&world, "2001:db8::ffff").iter().all(|is_out| *is_out));
    assert!(is_out(&world, "2001:db8::5").iter().all(|is_out| !is_out));
    assert!(is_out(&world, "2001:db8:0:1::1").iter().all(|is_out| !is_out));
    assert!(lines(&world, "address shut out: 2001:db8::/64: for 600 s, ").len() == 1, "{:?}", world.events);
    world.end();
}

#[test]
fn an_operator_and_new_certificates_let_in_who_is_shut_out() {
    let mut world = World::new(&Setup::default());
    shut_out(&mut world, SCANNER);
    let (source, now) = (Source::parse(SCANNER).expect("an address"), world.now);
    assert!(world.engines[0].pardon(source, now));
    world.settle();
    assert!(is_out(&world, SCANNER).iter().all(|is_out| !is_out));
    assert!(!world.engines[0].pardon(source, now), "not twice");
    shut_out_from_here(&mut world);
    assert!(is_out(&world, SCANNER).iter().all(|is_out| *is_out));
    world.engines[0].pardon_all(now);
    world.settle();
    assert!(is_out(&world, SCANNER).iter().all(|is_out| !is_out));
    assert_eq!(lines(&world, "address").len(), 4, "{:?}", world.events);
    world.end();
}

#[test]
fn a_handshake_that_fails_while_the_shard_is_overloaded_is_held_against_nobody() {
    let mut world = World::new(&Setup::default());
    overload(&mut world);
    for n in 0..200 {
        fail_handshake(&mut world, n % 2, SCANNER);
    }
    assert_eq!(world.counted(Counter::AbuseConnection), 0);
    world.pass(OVERLOAD_QUIET + Duration::from_millis(10));
    fail_handshake(&mut world, 1, SCANNER);
    assert_eq!(world.counted(Counter::AbuseConnection), 1);
    world.end();
}

#[test]
fn who_says_nothing_fails_and_who_only_looks_in_does_not() {
    let mut world = World::new(&Setup::default());
    for _ in 0..10 {
        let wire = accept(&mut world, 0, SCANNER).expect("it is let in");
        world.input(0, Input::Closed { conn: wire.conn, reason: CloseReason::Peer });
    }
    assert_eq!(world.counted(Counter::AbuseConnection), 0);
    let _silent = accept(&mut world, 1, SCANNER).expect("it is let in");
    world.pass(HANDSHAKE_MAX);
    assert_eq!(world.counted(Counter::AbuseConnection), 1);
    let _ready = connect(&mut world, 1, SCANNER);
    world.pass_s(31);
    assert_eq!(world.counted(Counter::AbuseConnection), 2);
    world.end();
}
