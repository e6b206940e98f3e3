//! Datagrams, the mailbox of plain threads, the watchdog, drain and stop.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use super::server_side::message;
use super::stream::responses;
use super::*;

#[test]
fn keep_alives_are_answered_on_every_shard() {
    let rig = Rig::start(2);
    let phones: Vec<UdpSocket> = (0..50).map(|_| udp_phone()).collect();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    request.extend_from_slice(&[9; 12]);
    let mut buffer = [0; 100];
    for phone in &phones {
        phone.send_to(&request, rig.udp).unwrap();
        phone.send_to(b"\r\n\r\n", rig.udp).unwrap();
        phone.send_to(b"\r\n", rig.udp).unwrap();
    }
    for phone in &phones {
        let (len, from) = uninterrupted(|| phone.recv_from(&mut buffer)).unwrap();
        assert_eq!(from, rig.udp);
        assert_eq!((len, &buffer[..2]), (32, &[1, 1][..]));
        assert_eq!(uninterrupted(|| phone.recv(&mut buffer)).unwrap(), 2);
        assert_eq!(&buffer[..2], b"\r\n");
    }
    let counters = rig.total().counters;
    assert_eq!((counters.of(Counter::KeepaliveStun), counters.of(Counter::KeepalivePing)), (50, 50));
    let each: Vec<u64> =
        rig.shards.handle().snapshots().iter().map(|s| s.counters.of(Counter::KeepaliveStun)).collect();
    assert!(each.iter().all(|n| *n > 0), "50 ports fall on both shards: {each:?}");
    rig.shards.stop();
}

#[test]
fn a_burst_of_datagrams_larger_than_any_batch_is_answered_whole() {
    let rig = Rig::start(1);
    let phone = udp_phone();
    crate::transport::socket::probe(rig.udp, Transport::Udp).unwrap_err();
    for _ in 0..150 {
        phone.send_to(b"\r\n\r\n", rig.udp).unwrap();
    }
    let mut buffer = [0; 100];
    for at in 0..150 {
        assert_eq!(uninterrupted(|| phone.recv(&mut buffer)).unwrap(), 2, "answer {at}");
    }
    rig.shards.stop();
}

#[test]
fn stopping_lets_go_of_the_ports() {
    let rig = Rig::start(2);
    let (udp, tcp) = (rig.udp, rig.tcp);
    drop(TcpStream::connect(tcp).unwrap());
    rig.shards.stop();
    // The rings of an ended executor let go of their sockets a little later.
    wait_until("the ports are free", || {
        socket::probe(udp, Transport::Udp).and(socket::probe(tcp, Transport::Tcp)).is_ok()
    });
}

#[test]
fn draining_refuses_new_connections_and_is_done_when_nothing_is_in_flight() {
    let rig = Rig::start(2);
    let handle = rig.shards.handle();
    assert!(handle.ready() && !handle.draining());
    assert!(handle.drain(DEADLINE));
    assert!(!handle.ready() && handle.draining());
    let gone = TcpStream::connect(rig.tcp).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        uninterrupted(|| stream.read(&mut [0; 1]))
    });
    assert!(matches!(gone, Err(_) | Ok(0)), "{gone:?}");
    rig.shards.stop();
}

#[test]
fn an_idle_shard_on_epoll_shows_that_it_lives_and_is_never_nudged() {
    let rig = Rig::of_kind(Kind::Epoll);
    let handle = rig.shards.handle();
    let since = Instant::now();
    while since.elapsed() < crate::limits::HEARTBEAT_MAX + Duration::from_millis(200) {
        assert_eq!(handle.running(), 1, "after {:?}", since.elapsed());
        std::thread::park_timeout(LOOK_EVERY);
    }
    assert_eq!(rig.of(Counter::StallsNudged), 0);
    rig.shards.stop();
}

#[test]
fn a_lost_wake_is_found_by_the_watchdog_and_counted() {
    let rig = Rig::of_kind(Kind::IoUring);
    let handle = rig.shards.handle();
    assert_eq!(rig.total().counters.of(Counter::StallsNudged), 0);
    handle.shared(0).lose_wakes.store(true, Ordering::SeqCst);
    let before = Instant::now();
    let snapshots = handle.snapshots();
    assert_eq!(snapshots.len(), 1, "the answer comes although its wake was lost");
    assert!(before.elapsed() < Duration::from_millis(900), "{:?}", before.elapsed());
    handle.shared(0).lose_wakes.store(false, Ordering::SeqCst);
    rig.wait_for(Counter::StallsNudged, 1);
    rig.shards.stop();
}

#[test]
fn a_request_whose_datagram_the_system_refuses_is_answered_at_once() {
    // Nothing can be sent to port 0, and no time makes it better.
    let nowhere = Server::at("sips1", "127.0.0.1:0".parse().unwrap(), Transport::Udp);
    let rig = Rig::with(1, Tls::default(), nowhere);
    let mut phone = std::net::TcpStream::connect(rig.tcp).unwrap();
    phone.set_read_timeout(Some(DEADLINE)).unwrap();
    std::io::Write::write_all(&mut phone, message("MESSAGE", rig.tcp, "nowhere").as_bytes()).unwrap();
    assert!(responses(&mut phone, 1).starts_with("SIP/2.0 503"));
    assert!(rig.of(Counter::DatagramSendError) >= 1);
    assert_eq!(rig.of(Counter::TimerE), 0, "it is not sent again");
    rig.shards.stop();
}
