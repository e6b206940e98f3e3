//! Peers that say all that they have to say, close their half, and wait for the answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};

use super::server_side::{message, ok};
use super::*;

fn socket(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// All that is still said on a connection, to its orderly end.
fn rest(from: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match uninterrupted(|| from.read(&mut buffer)).expect("an orderly end, in time") {
            0 => return String::from_utf8(text).unwrap(),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Two requests and the end of the sender's half, in one segment.
fn asks_and_closes_its_half(rig: &Rig, tls: Option<&Arc<rustls::ClientConfig>>, branch: &str) -> Box<dyn Read> {
    let text =
        options(rig.tcp, "TCP", branch) + &message("MESSAGE", rig.tcp, &format!("{branch}m")).replace("TCP", "TLS");
    let Some(config) = tls else {
        let mut phone = socket(rig.tcp);
        phone.write_all(text.as_bytes()).unwrap();
        phone.shutdown(Shutdown::Write).unwrap();
        return Box::new(phone);
    };
    let name = "proxy.example.com".try_into().unwrap();
    let mut phone = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket(rig.tls));
    while phone.conn.is_handshaking() {
        phone.conn.complete_io(&mut phone.sock).unwrap();
    }
    phone.conn.writer().write_all(text.as_bytes()).unwrap();
    phone.conn.send_close_notify();
    let mut wire = Vec::new();
    while phone.conn.wants_write() {
        phone.conn.write_tls(&mut wire).unwrap();
    }
    phone.sock.write_all(&wire).unwrap();
    Box::new(phone)
}

#[test]
fn what_is_asked_in_one_segment_with_a_fin_or_a_close_notify_is_answered() {
    let certificates = Certificates::new("halves");
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    let phones: Vec<_> = versions.map(|version| certificates.phone_of(&[version])).into();
    for shards in [1, 2] {
        let server = udp_phone();
        let address = server.local_addr().unwrap();
        let tls = certificates.tls("proxy.example.com");
        let rig = Rig::with(shards, tls, Server::at("sips1", address, Transport::Udp));
        for (at, tls) in [None, Some(&phones[0]), Some(&phones[1])].into_iter().enumerate() {
            let mut phone = asks_and_closes_its_half(&rig, tls, &format!("s{shards}at{at}"));
            let mut buffer = [0; 4_096];
            // The proxy's service checks are not what is waited for.
            let (request, from) = loop {
                let (len, from) = uninterrupted(|| server.recv_from(&mut buffer)).unwrap();
                let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
                if text.starts_with("MESSAGE ") {
                    break (text, from);
                }
            };
            server.send_to(ok(&request).as_bytes(), from).unwrap();
            let answers = rest(&mut phone);
            assert_eq!(answers.matches("SIP/2.0 200").count(), 2, "{at} of {shards} shards: {answers}");
        }
        rig.wait_for(Counter::ClosedPeer, 3);
        let closed = [Counter::ClosedReset, Counter::ClosedTlsFault, Counter::ClosedHalfClosed];
        assert_eq!(closed.map(|counter| rig.of(counter)), [0; 3]);
        rig.shards.stop();
    }
}

#[test]
fn a_request_right_behind_the_handshake_with_a_close_notify_is_answered() {
    let certificates = Certificates::new("early");
    let rig = Rig::with(1, certificates.tls("proxy.example.com"), nobody());
    let config = certificates.phone_of(&[&rustls::version::TLS13]);
    let mut socket = socket(rig.tls);
    let name = "proxy.example.com".try_into().unwrap();
    let mut phone = ClientConnection::new(config, name).unwrap();
    let mut sent = Vec::new();
    phone.write_tls(&mut sent).unwrap();
    socket.write_all(&sent).unwrap();
    while phone.is_handshaking() {
        assert!(phone.read_tls(&mut socket).unwrap() > 0);
        phone.process_new_packets().unwrap();
    }
    // The Finished, the request and the end go in one segment.
    phone.writer().write_all(options(rig.tls, "TLS", "early").as_bytes()).unwrap();
    phone.send_close_notify();
    let mut wire = Vec::new();
    while phone.wants_write() {
        phone.write_tls(&mut wire).unwrap();
    }
    socket.write_all(&wire).unwrap();
    let answer = rest(&mut StreamOwned::new(phone, socket));
    assert!(answer.starts_with("SIP/2.0 200"), "{answer:?}");
    rig.shards.stop();
}

#[test]
fn what_follows_a_close_notify_is_not_read_and_costs_nothing() {
    let certificates = Certificates::new("behind");
    let server = udp_phone();
    let address = server.local_addr().unwrap();
    let rig = Rig::with(1, certificates.tls("proxy.example.com"), Server::at("sips1", address, Transport::Udp));
    let name = "proxy.example.com".try_into().unwrap();
    let mut phone = StreamOwned::new(ClientConnection::new(certificates.phone(), name).unwrap(), socket(rig.tls));
    phone.write_all(message("MESSAGE", rig.tls, "behind").as_bytes()).unwrap();
    phone.conn.send_close_notify();
    phone.conn.complete_io(&mut phone.sock).unwrap();
    phone.sock.write_all(&[b'x'; 100_000]).unwrap();
    let mut buffer = [0; 4_096];
    let (len, from) = uninterrupted(|| server.recv_from(&mut buffer)).unwrap();
    let request = String::from_utf8(buffer[..len].to_vec()).unwrap();
    server.send_to(ok(&request).as_bytes(), from).unwrap();
    assert!(rest(&mut phone).starts_with("SIP/2.0 200"));
    rig.wait_for(Counter::ClosedPeer, 1);
    assert_eq!(rig.of(Counter::ClosedTlsFault), 0);
    rig.shards.stop();
}
