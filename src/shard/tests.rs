//! Shards with real sockets on loopback. Every wait has a deadline.

use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::config::engine::{Point, ServerTarget, Sticky, UdpOversize};
use crate::ids::{ShardId, Transport};
use crate::stats::{Counter, Snapshot};
use crate::transport::socket;

const DEADLINE: Duration = Duration::from_secs(10);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Shards with one UDP and one TCP point on ports of the system's choice.
struct Rig {
    shards: Shards,
    udp: SocketAddr,
    tcp: SocketAddr,
}

fn settings(shard: u8, shards: u8, udp: SocketAddr, tcp: SocketAddr, server: SocketAddr) -> Settings {
    let point = |transport, bind: SocketAddr| Point {
        transport,
        bind,
        advertised_host: bind.ip().to_string(),
        advertised_port: bind.port(),
        side: None,
    };
    Settings {
        shard: ShardId(shard),
        shards,
        points: vec![point(Transport::Udp, udp), point(Transport::Tcp, tcp)],
        server: ServerTarget { name: "sips1".into(), address: server, transport: Transport::Udp },
        trusted: vec![],
        domains: vec!["example.com".into()],
        sticky: Sticky::Path,
        path_add_supported: true,
        flow_grace: Duration::from_secs(3),
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        timer_c: Duration::from_secs(180),
        udp_oversize: UdpOversize::Tcp,
        token_key: [7; 32],
        boot: 1,
        member: 2,
        seed: [shard; 32],
        connections_max: 1_000,
        transactions_max: 1_000,
        unregistered_per_source_max: 1_000,
    }
}

impl Rig {
    fn start(count: u8) -> Self {
        let server: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let first_udp = socket::udp(loopback(), socket::TOS_UNSET).unwrap();
        let first_tcp = socket::listen(loopback(), socket::TOS_UNSET).unwrap();
        let udp = first_udp.local_addr().unwrap().as_socket().unwrap();
        let tcp = first_tcp.local_addr().unwrap().as_socket().unwrap();
        let mut first = Some((first_udp, first_tcp));
        let setups = (0..count).map(|shard| {
            let (u, t) = first.take().unwrap_or_else(|| {
                (socket::udp(udp, socket::TOS_UNSET).unwrap(), socket::listen(tcp, socket::TOS_UNSET).unwrap())
            });
            Setup {
                cpu: None,
                settings: settings(shard, count, udp, tcp, server),
                sockets: vec![Socket::Udp(u), Socket::Listener(t)],
            }
        });
        let common = Common {
            tls: Tls::default(),
            tos: socket::TOS_UNSET,
            gather: Duration::ZERO,
            spin_before_park: Duration::ZERO,
        };
        Self { shards: Shards::start(setups.collect(), &common).unwrap(), udp, tcp }
    }

    fn total(&self) -> Snapshot {
        let snapshots = self.shards.handle().snapshots();
        assert_eq!(snapshots.len(), self.shards.handle().shards(), "every shard answers");
        let mut total = Snapshot::default();
        snapshots.iter().for_each(|s| total.counters.merge(&s.counters));
        total
    }

    fn wait_for(&self, counter: Counter, at_least: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.total().counters.of(counter) < at_least {
            assert!(Instant::now() < deadline, "{counter:?} stays below {at_least}");
        }
    }
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind(loopback()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

#[test]
fn keep_alives_are_answered_on_every_shard() {
    let rig = Rig::start(2);
    let phones: Vec<UdpSocket> = (0..50).map(|_| phone()).collect();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    request.extend_from_slice(&[9; 12]);
    let mut buffer = [0; 100];
    for phone in &phones {
        phone.send_to(&request, rig.udp).unwrap();
        phone.send_to(b"\r\n\r\n", rig.udp).unwrap();
        phone.send_to(b"\r\n", rig.udp).unwrap();
    }
    for phone in &phones {
        let (len, from) = phone.recv_from(&mut buffer).unwrap();
        assert_eq!(from, rig.udp);
        assert_eq!((len, &buffer[..2]), (32, &[1, 1][..]));
        assert_eq!(phone.recv(&mut buffer).unwrap(), 2);
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
    let phone = phone();
    crate::transport::socket::probe(rig.udp, Transport::Udp).unwrap_err();
    for _ in 0..150 {
        phone.send_to(b"\r\n\r\n", rig.udp).unwrap();
    }
    let mut buffer = [0; 100];
    for at in 0..150 {
        assert_eq!(phone.recv(&mut buffer).unwrap(), 2, "answer {at}");
    }
    rig.shards.stop();
}

#[test]
fn stopping_lets_go_of_the_ports() {
    let rig = Rig::start(2);
    let (udp, tcp) = (rig.udp, rig.tcp);
    drop(TcpStream::connect(tcp).unwrap());
    rig.shards.stop();
    let deadline = Instant::now() + DEADLINE;
    // The rings of an ended executor let go of their sockets a little later.
    while socket::probe(udp, Transport::Udp).and(socket::probe(tcp, Transport::Tcp)).is_err() {
        assert!(Instant::now() < deadline);
    }
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
        stream.read(&mut [0; 1])
    });
    assert!(matches!(gone, Err(_) | Ok(0)), "{gone:?}");
    rig.shards.stop();
}

#[test]
fn a_lost_wake_is_found_by_the_watchdog_and_counted() {
    let rig = Rig::start(1);
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
