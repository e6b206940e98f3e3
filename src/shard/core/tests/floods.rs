//! Those who send all that they can: nobody else waits for long, and nothing is left lying.

use super::super::conn::Phase;
use super::peers::{Stage, TCP, TLS, UDP, answers};
use super::sim::End;
use super::*;
use crate::driver::{Driver as _, Next, Ready, Token};
use crate::ids::Side;
use crate::limits::{
    ACCEPTS_IN_A_ROW_MAX, BATCHES_PER_PASS_MAX, HANDSHAKE_STEPS_PER_PASS_MAX, HANDSHAKE_TRICKLE_EVERY,
    HANDSHAKES_COUNT_MAX, OVERLOAD_AT_ONCE, OVERLOAD_QUIET, READS_PER_PASS_MAX,
};
use crate::sys::batch::BATCH_COUNT_MAX;

/// What a peer's window takes of answers without a read.
const ROOM: usize = 64 << 20;
/// A message that takes several reads.
const LONG_LEN: usize = 60_000;

fn open(stage: &mut Stage, point: PointId, host: usize) -> End {
    stage.world.open(point, SocketAddr::from(([198, 51, host as u8, (host >> 8) as u8], 5060)), ROOM)
}

/// A request with a body of so many bytes.
fn request(branch: &str, len: usize) -> Vec<u8> {
    let text = options(([192, 0, 2, 1], 5060).into(), "TCP", branch).replace("Length: 0", &format!("Length: {len}"));
    [text.into_bytes(), vec![b'x'; len]].concat()
}

/// Turns until this peer has its answer, while the flooders say more before each.
fn turns_until_answered(
    stage: &mut Stage,
    peer: &mut End,
    turns_max: usize,
    mut flood: impl FnMut(&mut Stage),
) -> usize {
    for turn in 0..turns_max {
        flood(stage);
        stage.turn();
        peer.hear_all();
        if !answers(&peer.heard).is_empty() {
            return turn;
        }
    }
    panic!("not after {turns_max} turns: {}", stage.leftovers());
}

fn bytes_in(stage: &Stage) -> usize {
    stage.core.engine.snapshot().counters.of(Counter::bytes_in(Transport::Tcp)) as usize
}

#[test]
fn those_who_always_have_more_share_with_one_whose_long_message_comes_among_them() {
    let mut stage = Stage::new(1, Tls::default());
    let count = BULK_READS_PER_PASS_MAX / READS_PER_PASS_MAX + 2;
    let mut flooders: Vec<End> = (0..count).map(|host| open(&mut stage, TCP, host)).collect();
    let mut flood = move |_: &mut Stage| {
        for flooder in &mut flooders {
            while flooder.unread_len() < 10 * LONG_LEN {
                flooder.say_at_once(&request("flood", LONG_LEN));
            }
        }
    };
    for _ in 0..10 {
        flood(&mut stage);
        stage.turn();
    }
    let mut peer = open(&mut stage, TCP, 1_000);
    peer.say_at_once(&request("long", LONG_LEN));
    turns_until_answered(&mut stage, &mut peer, 12, &mut flood);
    let mut short = open(&mut stage, TCP, 1_001);
    short.say_at_once(&request("short", 0));
    turns_until_answered(&mut stage, &mut short, 4, &mut flood);
}

#[test]
fn a_server_that_always_has_more_has_its_reads_of_a_turn_and_no_more_however_often_it_is_told() {
    let mut stage = Stage::new(2, Tls::default());
    let mut server = open(&mut stage, TCP, 1);
    stage.rest();
    stage.core.conns[0].side = Side::Server;
    for _ in 0..50 {
        server.say_at_once(&request("flood", LONG_LEN).repeat(3));
        let before = bytes_in(&stage);
        let token = Token::Conn { index: 0, serial: stage.core.conns[0].serial };
        stage.core.turn(&[Ready { token, readable: true, writable: true, ended: false }]);
        let read = bytes_in(&stage) - before;
        // What the turn before has left is read before what is ready.
        assert!(read <= READS_PER_PASS_MAX * READ_LEN_MAX, "{read}");
        assert!(stage.core.to_read.len() <= 1);
    }
}

#[test]
fn handshakes_that_wait_for_their_turn_get_it_when_those_before_them_are_gone() {
    let mut stage = Stage::new(3, Tls::default());
    let count = 20 * HANDSHAKE_STEPS_PER_PASS_MAX;
    let mut peers: Vec<End> = (0..count).map(|host| open(&mut stage, TCP, host)).collect();
    while stage.core.conns.len() < count {
        stage.turn();
    }
    stage.rest();
    // Without a certificate there is no TLS here: what is waited for is the same.
    stage.core.conns.iter_mut().for_each(|(_, conn)| conn.phase = Phase::Handshaking);
    peers.iter_mut().for_each(|peer| peer.say_at_once(b"OPT"));
    while stage.world.has_news() {
        stage.turn();
    }
    assert!(stage.core.deferred.len() > 2 * HANDSHAKE_STEPS_PER_PASS_MAX, "{}", stage.leftovers());
    let first: Vec<Key> = stage.core.deferred.iter().take(HANDSHAKE_STEPS_PER_PASS_MAX).collect();
    first.into_iter().for_each(|key| stage.core.remove(key));
    stage.rest();
    assert_eq!(stage.core.deferred.len(), 0);
    assert!(peers.iter().all(|peer| peer.is_closed() || peer.unread_len() == 0));
}

#[test]
fn in_an_overload_handshakes_go_on_now_and_then() {
    let certificates = Certificates::new("overload");
    let mut stage = Stage::new(3, certificates.tls("proxy.example.com"));
    let count = 2 * HANDSHAKE_STEPS_PER_PASS_MAX;
    let mut peers: Vec<End> = (0..count).map(|host| open(&mut stage, TLS, host)).collect();
    while stage.core.conns.len() < count {
        stage.turn();
    }
    let late = options(([192, 0, 2, 1], 5060).into(), "UDP", "late");
    stage.world.send_late(UDP, ([198, 51, 100, 1], 5060).into(), late.as_bytes(), OVERLOAD_AT_ONCE);
    stage.rest();
    // The begin of a first message.
    peers.iter_mut().for_each(|peer| peer.say_at_once(&[22, 3, 1, 2, 0, 1]));
    let waiting = |stage: &mut Stage, time: Duration| {
        stage.pass(time);
        peers.iter().filter(|peer| peer.unread_len() > 0).count()
    };
    let at_first = waiting(&mut stage, HANDSHAKE_TRICKLE_EVERY);
    assert!(at_first >= count - 2, "{at_first} of {count} wait");
    assert_eq!(waiting(&mut stage, HANDSHAKE_TRICKLE_EVERY * 4), at_first - 4);
    let put_off = stage.core.engine.snapshot().counters.of(Counter::HandshakesPutOff);
    assert!(put_off >= at_first as u64, "{put_off}");
    assert_eq!(waiting(&mut stage, OVERLOAD_QUIET), 0, "it is over");
}

#[test]
fn silent_handshakes_from_everywhere_keep_nobody_out_for_long() {
    let certificates = Certificates::new("floods");
    let mut stage = Stage::new(4, certificates.tls("proxy.example.com"));
    let silent: Vec<End> = (0..2 * HANDSHAKES_COUNT_MAX).map(|host| open(&mut stage, TLS, host)).collect();
    let mut plain = open(&mut stage, TCP, 9_000);
    plain.say_at_once(&request("plain", 0));
    let bound = HANDSHAKES_COUNT_MAX / ACCEPTS_IN_A_ROW_MAX;
    turns_until_answered(&mut stage, &mut plain, bound, |_| {});
    let before = stage.world.now();
    while stage.core.listeners.iter().any(|listener| listener.held.is_some() || listener.waits) {
        stage.pass(Duration::from_millis(10));
    }
    assert!(stage.world.now().since(before) < Duration::from_secs(2), "{:?}", stage.world.now().since(before));
    stage.pass(crate::limits::HANDSHAKE_MAX * 2);
    assert!(silent.iter().all(End::is_closed));
    drop(plain);
}

#[test]
fn a_flood_of_datagrams_leaves_a_turn_to_everybody_and_is_answered_whole() {
    let mut stage = Stage::new(5, Tls::default());
    let from = SocketAddr::from(([198, 51, 100, 1], 5060));
    const COUNT: usize = 5_000;
    (0..COUNT).for_each(|_| stage.world.send_datagram(UDP, from, b"\r\n\r\n"));
    let mut peer = open(&mut stage, TCP, 1);
    peer.say_at_once(&request("one", 0));
    let turns = turns_until_answered(&mut stage, &mut peer, 8, |_| {});
    assert!((turns + 1) * BATCHES_PER_PASS_MAX * BATCH_COUNT_MAX < COUNT, "while the flood goes on");
    stage.rest();
    let pongs = stage.world.take_sent(UDP).into_iter().filter(|sent| *sent == (from, b"\r\n".to_vec()));
    assert_eq!(pongs.count(), COUNT);
}

#[test]
fn a_resolver_that_floods_is_heard_within_the_bound_of_a_turn_however_often_it_is_told() {
    let mut stage = Stage::new(6, Tls::default());
    let question = stage.core.driver.ask(7, ([192, 0, 2, 53], 53).into(), false, b"who?").unwrap();
    stage.core.resolving.live.insert(7, question);
    stage.world.answer(7, 1_000);
    let mut before = 1_000;
    for _ in 0..100 {
        stage.core.turn(&[Ready { token: Token::Question(7), readable: true, writable: false, ended: false }]);
        let left = stage.world.answers_left(7);
        assert!(before - left <= 2, "one for what was left, one for what is told: {}", before - left);
        before = left;
    }
    assert_eq!(stage.turn(), Next::Again);
}
