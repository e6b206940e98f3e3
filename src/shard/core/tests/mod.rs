//! A core that is turned by hand: here over real sockets, in the rest over a world in memory.

mod abuse;
mod balancers;
mod floods;
mod peers;
mod sim;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use crate::config::engine::Point as PointSettings;
use crate::driver::{Clock, Sockets, Turns, Waits};
use crate::engine::Live;
use crate::limits::READ_LEN_MAX;
use crate::shard::tests::{
    Certificates, DEADLINE, loopback, nobody, options, settings, stream::connect, stream::responses, uninterrupted,
    wait_until,
};
use crate::transport::socket::TOS_UNSET;
use crate::transport::tcp::TcpSocket;

/// What makes a handling panic, in tests only.
pub const PANIC: &[u8] = b"hawser-test-panic";

/// Panics while a TLS session is fed, and while a connection is flushed: outside the engine.
pub const PANIC_READING: &[u8] = b"hawser-test-reading";
pub const PANIC_SENDING: &[u8] = b"hawser-test-sending";

fn panic_if_in(bytes: &[u8], word: &[u8]) {
    assert!(!bytes.windows(word.len()).any(|part| part == word), "a test asked for this panic");
}

pub(super) fn panic_if_asked(input: &Input<'_>) {
    if let Input::Bytes { bytes, .. } | Input::Datagram { bytes, .. } = input {
        panic_if_in(bytes, PANIC);
    }
}

pub(super) fn panic_if_read(records: &[u8]) {
    panic_if_in(records, PANIC_READING);
}

pub(super) fn panic_if_sent(text: &[u8]) {
    panic_if_in(text, PANIC_SENDING);
}

/// What a core of one shard with these points is made from.
fn parts(points: Vec<PointSettings>, tls: Tls, clock: Clock) -> Parts {
    let (_handle, mut ends) = join(1, 64, clock);
    Parts { settings: settings(0, 1, points, nobody()), tls, ends: ends.remove(0) }
}

/// A core of one shard with a TCP point, for connections that a test accepts at `listener`.
fn core_for(listener: &TcpListener) -> (Core<Sockets>, Waits) {
    let address = listener.local_addr().unwrap();
    let point = PointSettings {
        transport: Transport::Tcp,
        bind: address,
        advertised_host: address.ip().to_string(),
        advertised_port: address.port(),
        side: None,
    };
    let (clock, waits) = (Clock::start(), Waits::new().unwrap());
    let parts = parts(vec![point], Tls::default(), clock);
    (Core::new(Sockets::new(&waits, vec![], TOS_UNSET, clock).unwrap(), parts), waits)
}

/// A connection that `peer` has opened.
fn take(core: &mut Core<Sockets>, listener: &TcpListener) {
    let (socket, from) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = TcpSocket::new(socket.into());
    core.accepted(Arrival { point: PointId(0), socket, peer: from, is_forwarded: false });
}

fn connected(core: &mut Core<Sockets>, listener: &TcpListener) -> TcpStream {
    let peer = connect(listener.local_addr().unwrap());
    take(core, listener);
    peer
}

#[test]
fn those_who_send_all_that_they_can_share_the_reads_of_a_turn_and_all_is_read_in_the_end() {
    const PEERS: usize = 20;
    let listener = TcpListener::bind(loopback()).unwrap();
    let text = options(listener.local_addr().unwrap(), "TCP", "bulk").repeat(250);
    let read_of = |core: &Core<Sockets>| core.engine.snapshot().counters.of(Counter::bytes_in(Transport::Tcp)) as usize;
    let (mut core, mut waits) = core_for(&listener);
    let peers: Vec<TcpStream> = (0..PEERS)
        .map(|_| {
            let mut peer = connect(listener.local_addr().unwrap());
            peer.write_all(text.as_bytes()).unwrap();
            wait_until("all is with the system", || {
                crate::sys::outgoing::unacknowledged_len(peer.as_raw_fd()).unwrap() == 0
            });
            take(&mut core, &listener);
            peer
        })
        .collect();
    let (mut before, mut turns) = (0, 0);
    let deadline = Instant::now() + DEADLINE;
    while before < PEERS * text.len() {
        assert!(Instant::now() < deadline, "{before} of {} after {turns} turns", PEERS * text.len());
        waits.look(Some(Duration::ZERO)).unwrap();
        core.turn(waits.ready());
        turns += 1;
        let read = read_of(&core);
        // The first read of each is free: nobody is known to have more.
        let reads_max = turns * BULK_READS_PER_PASS_MAX + PEERS;
        assert!(read <= reads_max * READ_LEN_MAX, "{read} after {turns} turns");
        before = read;
    }
    assert!(turns > 1, "{turns}");
    drop(peers);
}

#[test]
fn a_slot_that_is_used_again_before_the_next_pass_leaves_the_old_connection_its_400_and_its_end() {
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (mut core, _waits) = core_for(&listener);
    let mut old = connected(&mut core, &listener);
    let text = options(address, "TCP", "bad").replace("Content-Length: 0", "Content-Length: 5\r\nContent-Length: 7");
    let first = ConnId { slot: 0, generation: 1 };
    assert!(core.input(Input::Bytes { conn: first, bytes: text.as_bytes(), waited: Duration::ZERO }));
    let mut new = connected(&mut core, &listener);
    let second = ConnId { slot: 0, generation: 2 };
    assert!(core.input(Input::Bytes {
        conn: second,
        bytes: options(address, "TCP", "new").as_bytes(),
        waited: Duration::ZERO
    }));
    core.turn(&[]);
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("SIP/2.0 400"), "{answer:?}");
    assert!(responses(&mut new, 1).starts_with("SIP/2.0 200"));
}

#[test]
fn what_was_ready_for_a_connection_is_not_taken_for_the_next_one_in_its_place() {
    let listener = TcpListener::bind(loopback()).unwrap();
    let (mut core, mut waits) = core_for(&listener);
    let mut old = connected(&mut core, &listener);
    old.write_all(b"\r\n\r\n").unwrap();
    assert!(waits.look(Some(DEADLINE)).unwrap());
    let stale = waits.ready().to_vec();
    core.close_all();
    core.remove_all();
    let _new = connected(&mut core, &listener);
    assert_eq!(core.conns.iter().map(|(index, _)| index).collect::<Vec<_>>(), [0]);
    core.turn(&stale);
    assert_eq!(core.engine.snapshot().counters.of(Counter::bytes_in(Transport::Tcp)), 0);
}

#[test]
fn a_panic_while_a_connection_is_flushed_closes_it_and_all_others_get_what_waits() {
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let word = String::from_utf8(PANIC_SENDING.to_vec()).unwrap();
    let (mut core, _waits) = core_for(&listener);
    let mut peers: Vec<TcpStream> = (0..3_u32)
        .map(|slot| {
            let peer = connected(&mut core, &listener);
            let conn = ConnId { slot, generation: 1 };
            let branch = if slot == 1 { word.clone() } else { format!("b{slot}") };
            assert!(core.input(Input::Bytes {
                conn,
                bytes: options(address, "TCP", &branch).as_bytes(),
                waited: Duration::ZERO
            }));
            peer
        })
        .collect();
    core.turn(&[]);
    assert!(matches!(uninterrupted(|| peers[1].read(&mut [0; 1])), Ok(0) | Err(_)), "it is closed");
    for at in [0, 2] {
        assert!(responses(&mut peers[at], 1).starts_with("SIP/2.0 200"), "{at}");
    }
    let counters = core.engine.snapshot().counters;
    assert_eq!((counters.of(Counter::Panics), counters.of(Counter::ClosedPanic), core.conns.len()), (1, 1, 2));
}
