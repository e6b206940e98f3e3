//! Connections that the proxy opens to the SIP Server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustls::{ServerConnection, StreamOwned};

use super::stream::responses;
use super::*;
use crate::config::Host;

fn target(address: SocketAddr, transport: Transport) -> Server {
    let tls_name = Host::parse("sips1.example.com");
    Server { tls_name, ..Server::at("sips1", address, transport) }
}

pub(super) fn message(method: &str, to: SocketAddr, branch: &str) -> String {
    format!(
        "{method} sip:alice@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5999;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\n\
         Call-ID: {branch}\r\nCSeq: 1 {method}\r\nContact: <sip:alice@{to}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A 200 with what a response has to repeat.
pub(super) fn ok(request: &str) -> String {
    let repeated = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines = request.split("\r\n").filter(|line| repeated.iter().any(|name| line.starts_with(name)));
    let fields: String = lines.map(|line| format!("{line}\r\n")).collect();
    format!("SIP/2.0 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")
}

fn read_request(from: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0; 1];
    while !text.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte).unwrap();
        text.extend_from_slice(&byte);
    }
    String::from_utf8(text).unwrap()
}

/// A phone over TCP that has asked for something.
fn asking(rig: &Rig, branch: &str) -> TcpStream {
    let mut phone = TcpStream::connect(rig.tcp).unwrap();
    phone.set_read_timeout(Some(DEADLINE)).unwrap();
    phone.write_all(message("MESSAGE", rig.tcp, branch).as_bytes()).unwrap();
    phone
}

/// The server answers what this phone has asked for.
fn answer(server: &mut (impl Read + Write), mut phone: TcpStream) {
    let request = read_request(server);
    assert!(request.starts_with("MESSAGE sip:alice@example.com"), "{request}");
    server.write_all(ok(&request).as_bytes()).unwrap();
    assert!(responses(&mut phone, 1).starts_with("SIP/2.0 200"));
}

/// The server's end of TLS over a connection.
fn secured(tls: &Tls, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(tls.acceptor(None).unwrap().clone()).unwrap(), stream)
}

/// The acceptor of a stand-in for the SIP Server, on a thread, so that both can be waited for.
fn accept(listener: TcpListener) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    })
}

#[test]
fn a_request_goes_to_the_server_over_tcp_from_our_address_and_its_answer_comes_back() {
    let listener = TcpListener::bind(loopback()).unwrap();
    let rig = Rig::with(1, Tls::default(), target(listener.local_addr().unwrap(), Transport::Tcp));
    let accepting = accept(listener);
    let phone = asking(&rig, "first");
    let mut server = accepting.join().unwrap();
    assert_eq!(server.peer_addr().unwrap().ip(), rig.tcp.ip());
    answer(&mut server, phone);
    // The second one uses the same connection.
    answer(&mut server, asking(&rig, "second"));
    assert_eq!(rig.of(Counter::OpenedTcp), 1);
    rig.shards.stop();
}

#[test]
fn a_request_goes_to_the_server_over_tls_when_its_certificate_names_it() {
    let certificates = Certificates::new("server");
    let listener = TcpListener::bind(loopback()).unwrap();
    let tls = certificates.tls("sips1.example.com");
    let rig = Rig::with(1, tls.clone(), target(listener.local_addr().unwrap(), Transport::Tls));
    let accepting = accept(listener);
    let phone = asking(&rig, "first");
    let mut server = secured(&tls, accepting.join().unwrap());
    answer(&mut server, phone);
    answer(&mut server, asking(&rig, "second"));
    assert_eq!((rig.of(Counter::OpenedTls), rig.of(Counter::HandshakeServerFull)), (1, 1));
    rig.shards.stop();
}

/// What waits for a dead server moves to its partner at once, which is more than one phone may let wait.
#[test]
fn a_burst_waits_for_the_server_while_its_connection_is_being_opened() {
    const COUNT: usize = 300;
    let certificates = Certificates::new("burst");
    let listener = TcpListener::bind(loopback()).unwrap();
    let tls = certificates.tls("sips1.example.com");
    let rig = Rig::with(1, tls.clone(), target(listener.local_addr().unwrap(), Transport::Tls));
    let mut phone = TcpStream::connect(rig.tcp).unwrap();
    phone.set_read_timeout(Some(DEADLINE)).unwrap();
    let fill = format!("Subject: {}\r\nContent-Length", "x".repeat(1_000));
    for number in 0..COUNT {
        let text = message("MESSAGE", rig.tcp, &format!("burst{number}")).replace("Content-Length", &fill);
        phone.write_all(text.as_bytes()).unwrap();
    }
    // The handshake waits for us, and so does everything else.
    wait_until("all of it waits", || {
        rig.total().gauges.of(crate::stats::Gauge::SendQueueBytes) > (COUNT * 1_000) as u64
    });
    let mut server = secured(&tls, accept(listener).join().unwrap());
    for _ in 0..COUNT {
        let request = read_request(&mut server);
        server.write_all(ok(&request).as_bytes()).unwrap();
    }
    assert_eq!(responses(&mut phone, COUNT).matches("SIP/2.0 200").count(), COUNT);
    assert_eq!(rig.of(Counter::ClosedSendQueueFull), 0);
    rig.shards.stop();
}

#[test]
fn a_server_with_another_name_gets_no_sip_byte_and_the_phone_its_answer() {
    let certificates = Certificates::new("other-name");
    let listener = TcpListener::bind(loopback()).unwrap();
    let tls = certificates.tls("other.example.com");
    let rig = Rig::with(1, tls.clone(), target(listener.local_addr().unwrap(), Transport::Tls));
    let accepting = accept(listener);
    let mut phone = asking(&rig, "first");
    let mut server = secured(&tls, accepting.join().unwrap());
    let refused = uninterrupted(|| server.read(&mut [0; 1])).unwrap_err();
    assert!(refused.to_string().contains("Certificate"), "{refused}");
    let answer = responses(&mut phone, 1);
    assert!(answer.starts_with("SIP/2.0 5"), "{answer}");
    rig.wait_for(Counter::HandshakeServerName, 1);
    rig.wait_for(Counter::ConnectTls, 1);
    rig.shards.stop();
}

#[test]
fn a_server_that_refuses_is_counted_and_the_phone_gets_its_answer() {
    let gone = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let rig = Rig::with(1, Tls::default(), target(gone, Transport::Tcp));
    let mut phone = asking(&rig, "first");
    let answer = responses(&mut phone, 1);
    assert!(answer.starts_with("SIP/2.0 5"), "{answer}");
    rig.wait_for(Counter::ConnectRefused, 1);
    rig.shards.stop();
}

#[test]
fn a_datagram_that_the_servers_host_refuses_is_told_to_the_engine() {
    let gone = UdpSocket::bind(loopback()).unwrap().local_addr().unwrap();
    let rig = Rig::with(1, Tls::default(), target(gone, Transport::Udp));
    let _phone = asking(&rig, "first");
    // The engine counts what it is told.
    rig.wait_for(Counter::DatagramUnreachable, 1);
    rig.shards.stop();
}
