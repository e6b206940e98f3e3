//! Connections of an address that only fails: they wait for one another, and then are closed before they wait for anything.

use super::peers::{Stage, TCP, TLS};
use super::sim::End;
use super::*;
use crate::abuse::CONNECTION;
use crate::limits::{ABUSE_HANDSHAKES_MAX, ABUSE_SHUT_OUT_FROM, ABUSE_SLOWED_FROM, ABUSE_SLOWED_LEAST};

fn open(stage: &mut Stage, point: PointId, last: u8) -> End {
    stage.world.open(point, SocketAddr::from(([203, 0, 113, last], 5060)), 64 << 10)
}

/// A peer closes its connection.
fn leave(stage: &mut Stage, mut end: End) {
    end.end();
    // The network takes its time.
    while !end.is_closed() {
        end.step();
        stage.rest();
        stage.world.pass(Duration::from_micros(10));
    }
}

/// Speaks no TLS to a TLS port, so many times.
fn fail(stage: &mut Stage, count: u32) {
    for _ in 0..count {
        let mut end = open(stage, TLS, 66);
        end.say_at_once(b"GET / HTTP/1.0\r\n\r\n");
        stage.rest();
        leave(stage, end);
    }
}

fn counted(stage: &Stage, counter: Counter) -> u64 {
    stage.core.engine.snapshot().counters.of(counter)
}

#[test]
fn who_is_slowed_has_few_handshakes_in_the_air_and_who_is_shut_out_is_let_go_at_once() {
    let certificates = Certificates::new("abuse");
    let mut stage = Stage::new(1, certificates.tls("proxy.example.com"));
    fail(&mut stage, ABUSE_SLOWED_FROM / CONNECTION - 1);
    let silent: Vec<End> = (0..2 * ABUSE_HANDSHAKES_MAX).map(|_| open(&mut stage, TLS, 66)).collect();
    stage.rest();
    assert_eq!(stage.core.handshakes.len(), silent.len(), "one failure before it is slowed");
    silent.into_iter().for_each(|end| leave(&mut stage, end));
    fail(&mut stage, 1);
    assert_eq!(counted(&stage, Counter::AbuseSlowed), 1);
    let silent: Vec<End> = (0..2 * ABUSE_HANDSHAKES_MAX).map(|_| open(&mut stage, TLS, 66)).collect();
    let other = open(&mut stage, TLS, 67);
    stage.rest();
    assert_eq!(
        (stage.core.handshakes.len(), stage.core.parked.len()),
        (ABUSE_HANDSHAKES_MAX + 1, ABUSE_HANDSHAKES_MAX)
    );
    silent.into_iter().for_each(|end| leave(&mut stage, end));
    stage.pass(Duration::from_secs(1));

    fail(&mut stage, ABUSE_SHUT_OUT_FROM / CONNECTION);
    stage.pass(ABUSE_SLOWED_LEAST);
    fail(&mut stage, 10);
    assert_eq!(counted(&stage, Counter::AbuseShutOut), 1);
    let before = counted(&stage, Counter::AcceptRefusedShutOut);
    let refused: Vec<End> = [TLS, TLS, TCP].into_iter().map(|point| open(&mut stage, point, 66)).collect();
    stage.rest();
    assert!(refused.iter().all(End::is_closed));
    assert_eq!(counted(&stage, Counter::AcceptRefusedShutOut) - before, 3);
    assert_eq!(stage.core.parked.len(), 0);
    let mut peer = open(&mut stage, TCP, 67);
    peer.say_at_once(options(([192, 0, 2, 1], 5060).into(), "TCP", "other").as_bytes());
    stage.rest();
    peer.hear_all();
    assert!(peer.heard.starts_with(b"SIP/2.0 "), "its neighbour has done nothing");
    drop(other);
}

/// As monitors and balancers do, each second.
#[test]
fn who_only_looks_whether_a_tls_port_is_open_fails_in_nothing() {
    let certificates = Certificates::new("abuse-looks");
    let mut stage = Stage::new(2, certificates.tls("proxy.example.com"));
    for _ in 0..ABUSE_SHUT_OUT_FROM {
        let end = open(&mut stage, TLS, 66);
        stage.rest();
        leave(&mut stage, end);
    }
    assert_eq!(counted(&stage, Counter::AbuseConnection), 0);
    let mut end = open(&mut stage, TLS, 66);
    // The start of a record, and then nothing.
    end.say_at_once(&[22, 3, 1]);
    stage.rest();
    leave(&mut stage, end);
    assert_eq!(counted(&stage, Counter::AbuseConnection), 1);
}
