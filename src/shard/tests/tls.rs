//! TLS connections of phones.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};

use super::stream::responses;
use super::*;
use crate::limits::{HANDSHAKES_COUNT_MAX, HANDSHAKES_PER_SOURCE_MAX};
use crate::shard::core::tests::PANIC;
use crate::stats::Gauge;

type Phone = StreamOwned<ClientConnection, TcpStream>;

fn phone(config: &Arc<rustls::ClientConfig>, to: SocketAddr) -> Phone {
    let socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = "proxy.example.com".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
}

fn rig(certificates: &Certificates, count: u8) -> Rig {
    Rig::with(count, certificates.tls("proxy.example.com"), nobody())
}

#[test]
fn a_message_split_into_records_of_a_byte_and_three_in_one_get_their_answers() {
    let certificates = Certificates::new("split");
    let rig = rig(&certificates, 2);
    let mut phone = phone(&certificates.phone(), rig.tls);
    for byte in options(rig.tls, "TLS", "split").bytes() {
        phone.write_all(&[byte]).unwrap();
    }
    assert!(responses(&mut phone, 1).starts_with("SIP/2.0 200"));
    let three: String = ["a", "b", "c"].map(|name| options(rig.tls, "TLS", name)).concat();
    phone.write_all(three.as_bytes()).unwrap();
    assert_eq!(responses(&mut phone, 3).matches("SIP/2.0 200").count(), 3);
    assert_eq!((rig.of(Counter::HandshakeEndpointFull), rig.of(Counter::AcceptedTls)), (1, 1));
    rig.shards.stop();
}

#[test]
fn tls_records_split_at_every_byte_of_the_wire_get_through() {
    let certificates = Certificates::new("wire");
    let rig = rig(&certificates, 1);
    let mut socket = TcpStream::connect(rig.tls).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = "proxy.example.com".try_into().unwrap();
    let mut client = ClientConnection::new(certificates.phone(), name).unwrap();
    let text = options(rig.tls, "TLS", "wire");
    // The request goes right behind the Finished, so that it may meet a handshake that is not done.
    client.writer().write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        for byte in wire {
            socket.write_all(&[byte]).unwrap();
        }
        assert!(client.read_tls(&mut socket).unwrap() > 0, "closed after {answer:?}");
        client.process_new_packets().unwrap();
        let mut part = Vec::new();
        // Says WouldBlock when there is no more.
        let _ = client.reader().read_to_end(&mut part);
        answer.push_str(&String::from_utf8(part).unwrap());
    }
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    rig.shards.stop();
}

#[test]
fn a_phone_that_closes_and_a_proxy_that_stops_both_say_close_notify() {
    let certificates = Certificates::new("close");
    let rig = rig(&certificates, 1);
    let mut leaving = phone(&certificates.phone(), rig.tls);
    leaving.write_all(b"\r\n\r\n").unwrap();
    leaving.read_exact(&mut [0; 2]).unwrap();
    leaving.conn.send_close_notify();
    leaving.flush().unwrap();
    // rustls says UnexpectedEof to a FIN without close_notify.
    assert_eq!(uninterrupted(|| leaving.read(&mut [0; 1])).unwrap(), 0);
    rig.wait_for(Counter::ClosedPeer, 1);
    let mut staying = phone(&certificates.phone(), rig.tls);
    staying.write_all(b"\r\n\r\n").unwrap();
    staying.read_exact(&mut [0; 2]).unwrap();
    rig.shards.stop();
    assert_eq!(uninterrupted(|| staying.read(&mut [0; 1])).unwrap(), 0);
}

#[test]
fn failed_handshakes_are_counted_by_reason() {
    let certificates = Certificates::new("failed");
    let rig = rig(&certificates, 1);
    let mut noise = TcpStream::connect(rig.tls).unwrap();
    noise.set_read_timeout(Some(DEADLINE)).unwrap();
    noise.write_all(options(rig.tls, "TCP", "clear").as_bytes()).unwrap();
    let mut alert = Vec::new();
    noise.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "an alert, and no SIP in the clear: {alert:?}");
    rig.wait_for(Counter::HandshakeEndpointProtocol, 1);
    drop(TcpStream::connect(rig.tls).unwrap());
    rig.wait_for(Counter::HandshakeEndpointReset, 1);
    let mut h2 = rustls::ClientConfig::clone(&certificates.phone());
    h2.alpn_protocols = vec![b"h2".to_vec()];
    phone(&Arc::new(h2), rig.tls).write_all(b"\r\n\r\n").unwrap_err();
    rig.wait_for(Counter::HandshakeEndpointAlpn, 1);
    // A phone that does not know our CA says so.
    let stranger = Certificates::new("stranger");
    phone(&stranger.phone(), rig.tls).write_all(b"\r\n\r\n").unwrap_err();
    rig.wait_for(Counter::HandshakeEndpointUnknownCa, 1);
    rig.wait_for(Counter::ClosedHandshake, 3);
    assert_eq!(rig.of(Counter::ClosedPeer), 1, "who has said nothing has only looked in");
    assert_eq!(rig.total().gauges.of(Gauge::HandshakesInProgress), 0);
    rig.shards.stop();
}

#[test]
fn stalled_handshakes_give_way_so_that_a_phone_gets_through() {
    let certificates = Certificates::new("stalled");
    let rig = rig(&certificates, 1);
    let stalled: Vec<TcpStream> =
        (0..HANDSHAKES_COUNT_MAX + 10).map(|_| TcpStream::connect(rig.tls).unwrap()).collect();
    let mut late = phone(&certificates.phone(), rig.tls);
    late.write_all(b"\r\n\r\n").unwrap();
    late.read_exact(&mut [0; 2]).unwrap();
    assert!(rig.of(Counter::HandshakeEndpointTimeout) >= 10);
    let in_progress = rig.total().gauges.of(Gauge::HandshakesInProgress);
    assert!(in_progress <= HANDSHAKES_COUNT_MAX as u64, "{in_progress}");
    let mut oldest = &stalled[0];
    oldest.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(uninterrupted(|| oldest.read(&mut [0; 1])), Ok(0) | Err(_)), "the oldest is gone");
    rig.shards.stop();
}

#[test]
fn more_handshakes_at_once_than_a_pass_takes_all_succeed_and_later_ones_resume() {
    let certificates = Certificates::new("burst");
    let rig = rig(&certificates, 2);
    let config = certificates.phone();
    let threads: Vec<_> = (0..60)
        .map(|_| {
            let (config, to) = (config.clone(), rig.tls);
            std::thread::spawn(move || {
                let mut phone = phone(&config, to);
                phone.write_all(b"\r\n\r\n").unwrap();
                phone.read_exact(&mut [0; 2]).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let full = rig.of(Counter::HandshakeEndpointFull);
    let mut again = phone(&config, rig.tls);
    again.write_all(b"\r\n\r\n").unwrap();
    again.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(full + rig.of(Counter::HandshakeEndpointResumed), 61);
    assert!(rig.of(Counter::HandshakeEndpointResumed) >= 1, "a ticket of any shard is good on any other");
    rig.shards.stop();
}

#[test]
fn a_panic_under_tls_closes_its_flow() {
    let certificates = Certificates::new("panic");
    let rig = rig(&certificates, 1);
    let mut victim = phone(&certificates.phone(), rig.tls);
    victim.write_all(b"\r\n\r\n").unwrap();
    victim.read_exact(&mut [0; 2]).unwrap();
    victim.write_all(PANIC).unwrap();
    assert!(matches!(uninterrupted(|| victim.read(&mut [0; 1])), Ok(0) | Err(_)));
    rig.wait_for(Counter::ClosedPanic, 1);
    assert_eq!(rig.of(Counter::Panics), 1);
    rig.shards.stop();
}

#[test]
fn a_source_that_is_over_its_share_waits_alone() {
    let certificates = Certificates::new("share");
    let rig = rig(&certificates, 1);
    let idle = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let from: SocketAddr = "127.0.0.2:0".parse().unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&rig.tls.into()).unwrap();
        socket
    };
    // Idlers say nothing, so that each holds its place until it has had its time.
    let idlers: Vec<_> = (0..HANDSHAKES_PER_SOURCE_MAX * 4).map(|_| idle()).collect();
    // However many of them wait, a phone behind them in the listener's queue does not.
    for _ in 0..20 {
        let mut late = phone(&certificates.phone(), rig.tls);
        late.write_all(b"\r\n\r\n").unwrap();
        late.read_exact(&mut [0; 2]).unwrap();
    }
    assert!(rig.of(Counter::LimitHandshakesPerSource) > 0);
    assert_eq!(rig.of(Counter::LimitHandshakesCount), 0, "nobody else gave way");
    // Those that waited had their turn, and go when their peers do.
    rig.wait_for(Counter::HandshakeEndpointTimeout, HANDSHAKES_PER_SOURCE_MAX as u64 * 3);
    drop(idlers);
    wait_until("all are gone", || {
        let gauges = rig.total().gauges;
        gauges.of(Gauge::HandshakesInProgress) + gauges.of(Gauge::HandshakesParked) == 0
    });
    rig.shards.stop();
}
