//! Phones register at the server directly, without any proxy, and call each other.

mod wire;

use crate::bench::{Bench, Place};
use crate::certs::{self, TlsFiles};
use crate::net::Transport;
use crate::phones::{Claim, Habit, Phase, PhonesConfig};
use crate::registrar::Policy;
use crate::server::{Habits, Plan};
use crate::stack::Timers;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

fn bench(transport: Transport, count: u32, habit: Habit) -> Bench {
    let mut tls = TlsFiles::default();
    if transport == Transport::Tls {
        let dir = std::env::temp_dir().join(format!("hawser-lab-{}-{count}", std::process::id()));
        certs::write_all(&dir, &[], &[]).expect("certificates");
        tls.ca = Some(dir.join("ca.pem"));
        tls.cert = Some(dir.join("server.pem"));
        tls.key = Some(dir.join("server.key"));
    }
    let settings = tls.load().expect("TLS files");
    if let Some(dir) = tls.ca.as_ref().and_then(|ca| ca.parent()) {
        std::fs::remove_dir_all(dir).expect("the directory that was just made");
    }
    let mut bench = Bench::new(settings, Timers::default()).expect("a bench");
    let listen = Place { transport, addr: "127.0.0.1:0".parse().expect("an address") };
    let places = bench.add_server(&[listen], Policy::default(), Habits::default()).expect("a listener");
    bench.add_phones(PhonesConfig {
        transport,
        proxy: places[0].addr,
        domain: "example.com".to_owned(),
        user_prefix: "phone".to_owned(),
        first: 100,
        count,
        sources: Vec::new(),
        claim: Claim::True,
        supports_path: true,
        is_outbound: true,
        expires_s: 60,
        habit,
        keep_alive: None,
        reconnects: true,
    });
    for phone in 0..count {
        let (stack, phones) = bench.phones();
        phones.start(stack, phone);
    }
    let registered =
        bench.turn_until(DEADLINE, |bench| bench.phones().1.registered_count() == count as usize).expect("turns");
    assert!(registered, "{:?}", bench.stack.tally);
    bench
}

fn assert_clean(bench: &mut Bench) {
    let tally = &bench.stack.tally;
    assert_eq!((tally.wrong_connection, tally.wrong_phone), (0, 0));
    assert_eq!((tally.calls_lost, tally.byes_lost, tally.timeouts, tally.ack_missing), (0, 0, 0, 0));
    assert_eq!((tally.unmatched_acks, tally.unmatched_requests, tally.unmatched_responses), (0, 0, 0));
    assert_eq!((tally.malformed_in, tally.undeliverable), (0, 0));
    assert!(tally.calls_failed.is_empty() && tally.register_failures.is_empty(), "{tally:?}");
}

fn everybody_calls(transport: Transport) {
    const PHONES: u32 = 20;
    let mut bench = bench(transport, PHONES, Habit::Accept(Duration::ZERO));
    let plan = Plan { talk: Some(Duration::ZERO), is_watched: false };
    for phone in 0..PHONES {
        let (stack, phones) = bench.phones();
        let other = phones.aor((phone + 1) % PHONES);
        phones.place_call(stack, phone, &format!("sip:{other}"), plan).expect("a connection");
        let (aor, to_server) = (phones.aor(phone), format!("sip:answer@{}", phones.config.domain));
        phones.place_call(stack, phone, &to_server, plan).expect("a connection");
        let (stack, server) = bench.server();
        server.place_call(stack, &aor, plan).expect("a binding");
    }
    let over =
        bench.turn_until(DEADLINE, |bench| bench.server().1.calls_open() == 0 && bench.phones().1.calls_open() == 0);
    assert!(over.expect("turns"), "{:?}", bench.stack.tally);
    assert_eq!(bench.stack.tally.calls_answered, u64::from(PHONES) * 3);
    assert_eq!(bench.stack.tally.calls_ended, u64::from(PHONES) * 3);
    assert_eq!(bench.stack.tally.calls_received, u64::from(PHONES) * 2);
    assert_clean(&mut bench);
}

#[test]
fn phones_call_each_other_over_udp() {
    everybody_calls(Transport::Udp);
}

#[test]
fn phones_call_each_other_over_tcp() {
    everybody_calls(Transport::Tcp);
}

#[test]
fn phones_call_each_other_over_tls() {
    everybody_calls(Transport::Tls);
}

#[test]
fn a_cancelled_call_leaves_nothing_behind() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut bench = bench(transport, 2, Habit::Ring);
        let plan = Plan { talk: None, is_watched: false };
        let (stack, phones) = bench.phones();
        let other = format!("sip:{}", phones.aor(1));
        let call = phones.place_call(stack, 0, &other, plan).expect("a connection");
        let rings = bench.turn_until(DEADLINE, |bench| bench.phones().1.phase(call) == Phase::Ringing);
        assert!(rings.expect("turns"), "{:?}", bench.stack.tally);
        let (stack, phones) = bench.phones();
        phones.hang_up(stack, call);
        let over = bench
            .turn_until(DEADLINE, |bench| bench.server().1.calls_open() == 0 && bench.phones().1.calls_open() == 0);
        assert!(over.expect("turns"), "{:?}", bench.stack.tally);
        assert_eq!(bench.stack.tally.calls_failed.get("487"), Some(&1));
        assert_eq!(bench.stack.tally.timeouts, 0);
    }
}

#[test]
fn a_busy_phone_and_an_unknown_one_are_told_apart() {
    let mut bench = bench(Transport::Tcp, 2, Habit::Busy);
    let plan = Plan { talk: None, is_watched: false };
    let (stack, phones) = bench.phones();
    let busy = format!("sip:{}", phones.aor(1));
    phones.place_call(stack, 0, &busy, plan).expect("a connection");
    phones.place_call(stack, 0, "sip:nobody@example.com", plan).expect("a connection");
    phones.place_call(stack, 0, "sip:busy@example.com", plan).expect("a connection");
    let over = bench.turn_until(DEADLINE, |bench| bench.phones().1.calls_open() == 0);
    assert!(over.expect("turns"), "{:?}", bench.stack.tally);
    let failed = &bench.stack.tally.calls_failed;
    assert_eq!((failed.get("486"), failed.get("404")), (Some(&2), Some(&1)));
}

#[test]
fn a_call_takes_a_reinvite_from_either_side_and_a_late_hang_up() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut bench = bench(transport, 3, Habit::Accept(Duration::from_millis(5)));
        let plan = Plan { talk: None, is_watched: true };
        let (stack, phones) = bench.phones();
        let other = format!("sip:{}", phones.aor(1));
        let call = phones.place_call(stack, 0, &other, plan).expect("a connection");
        let up =
            |bench: &mut Bench| bench.phones().1.call_at(1).filter(|&(_, is_acked)| is_acked).map(|(call, _)| call);
        assert!(bench.turn_until(DEADLINE, |bench| up(bench).is_some()).expect("turns"));
        let callee = up(&mut bench).expect("the callee's side");
        for side in [call, callee] {
            let answered = bench.stack.tally.reinvites_answered;
            let (stack, phones) = bench.phones();
            assert!(phones.reinvite(stack, side));
            let done = bench.turn_until(DEADLINE, |bench| {
                let is_quiet = bench.server().1.is_quiet();
                is_quiet && bench.stack.tally.reinvites_answered > answered
            });
            assert!(done.expect("turns"), "{:?}", bench.stack.tally);
        }
        let (stack, phones) = bench.phones();
        phones.hang_up(stack, callee);
        let over = bench
            .turn_until(DEADLINE, |bench| bench.server().1.calls_open() == 0 && bench.phones().1.calls_open() == 0);
        assert!(over.expect("turns"), "{:?}", bench.stack.tally);
        assert_clean(&mut bench);
    }
}

#[test]
fn a_phone_that_moves_to_another_connection_keeps_its_call() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut bench = bench(transport, 1, Habit::Accept(Duration::ZERO));
        let aor = bench.phones().1.aor(0);
        let plan = Plan { talk: None, is_watched: true };
        let (stack, server) = bench.server();
        let call = server.place_call(stack, &aor, plan).expect("a binding");
        let up = bench.turn_until(DEADLINE, |bench| bench.phones().1.call_at(0).is_some_and(|(_, is_acked)| is_acked));
        assert!(up.expect("turns"));
        let (stack, phones) = bench.phones();
        assert!(phones.move_over(stack, 0));
        assert!(bench.turn_until(DEADLINE, |bench| !bench.phones().1.is_moving(0)).expect("turns"));
        let (caller, _) = bench.phones().1.call_at(0).expect("the phone's side");
        let (stack, phones) = bench.phones();
        // A request of the phone tells the server, which has no proxy between, the new way.
        assert!(phones.reinvite(stack, caller));
        assert!(bench.turn_until(DEADLINE, |bench| bench.stack.tally.reinvites_answered == 1).expect("turns"));
        let (stack, server) = bench.server();
        assert!(server.is_open(call) && server.reinvite(stack, call));
        assert!(bench.turn_until(DEADLINE, |bench| bench.stack.tally.reinvites_answered == 2).expect("turns"));
        let (stack, server) = bench.server();
        server.hang_up(stack, call);
        let over = bench
            .turn_until(DEADLINE, |bench| bench.server().1.calls_open() == 0 && bench.phones().1.calls_open() == 0);
        assert!(over.expect("turns"), "{:?}", bench.stack.tally);
        assert_clean(&mut bench);
    }
}
