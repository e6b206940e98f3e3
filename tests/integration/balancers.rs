//! Phones behind a load balancer: haproxy passes TCP and TLS through, and says by the PROXY protocol whose each connection
//! is; over UDP the test plays the balancer.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use crate::harness::client::{ANSWER_MAX, Client};
use crate::harness::datagrams::{Datagrams, uninterrupted};
use crate::harness::haproxy::{BALANCER, Haproxy};
use crate::harness::proxy::{Proxy, Settings, is_stand_in, page};
use crate::harness::text::{answer, field, fields, first_line};
use crate::harness::{DOMAIN, START_MAX, Scratch};

/// Where the phone connects from.
const PHONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// A proxy that takes PROXY headers from this network, its folder, and its SIP Server, which the test plays.
fn behind(test: &str, network: &str) -> (Scratch, Proxy, Datagrams) {
    let scratch = Scratch::new(test);
    let settings = Settings::new(&scratch);
    let server = Datagrams::bind((Ipv4Addr::LOCALHOST, settings.server_port).into());
    let toml = format!("{}[[network]]\nnetwork = \"{network}\"\nproxy-protocol = true\n", settings.toml());
    let proxy = Proxy::start_with(&scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml);
    (scratch, proxy, server)
}

fn register(own: SocketAddr, over: &str) -> String {
    format!(
        "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{over} 192.168.1.2:5060;branch=z9hG4bKr;rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@{DOMAIN}>;tag=a\r\nTo: <sip:alice@{DOMAIN}>\r\nCall-ID: r\r\n\
         CSeq: 1 REGISTER\r\nSupported: path\r\nContact: <sip:alice@{own};transport={over}>\r\nExpires: 300\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The server's part of a registration by a phone that is there: what it sees has the phone's address. Gives the Path.
fn accept(proxy: &Proxy, server: &Datagrams, phone: SocketAddr) -> String {
    let (got, from) = server.receive();
    assert!(got.starts_with("REGISTER "), "{got}");
    let via = fields(&got, "Via")[1];
    let (received, rport) = (format!(";received={}", phone.ip()), format!(";rport={}", phone.port()));
    assert!(via.contains(&received) && via.contains(&rport), "{got}");
    assert!(!got.contains(BALANCER), "{got}");
    let contact = field(&got, "Contact").expect("a Contact");
    server.send(from, &answer(&got, "200 OK", "s", &format!("Contact: {contact};expires=300\r\n")));
    assert_eq!(from.port(), proxy.settings.sip_port);
    field(&got, "Path").expect("a Path").to_owned()
}

/// The server's INVITE by that Path.
fn invite(proxy: &Proxy, server: &Datagrams, path: &str) {
    let at = server.address();
    let text = format!(
        "INVITE sip:alice@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bKi\r\nRoute: {path}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:bob@{DOMAIN}>;tag=b\r\nTo: <sip:alice@{DOMAIN}>\r\nCall-ID: i\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:bob@{at}>\r\nContent-Length: 0\r\n\r\n"
    );
    server.send((Ipv4Addr::LOCALHOST, proxy.settings.sip_port).into(), &text);
}

/// Whether the proxy's page says that alice is at this address.
fn assert_where(proxy: &Proxy, phone: SocketAddr) {
    let known = page(proxy.http, &format!("/where?aor=alice@{DOMAIN}")).expect("the HTTP port answers");
    assert!(known.contains(&phone.to_string()) && !known.contains(BALANCER), "{known}");
}

/// The next response that is no 100.
fn response(server: &Datagrams) -> String {
    loop {
        let (got, _) = server.receive();
        if !got.starts_with("SIP/2.0 100 ") {
            return got;
        }
    }
}

fn a_phone_is_called(test: &str, tls: bool, options: &str) {
    if is_stand_in() {
        return;
    }
    let (scratch, proxy, server) = behind(test, BALANCER);
    let Settings { sip_port, tls_port, certificates, .. } = &proxy.settings;
    let balancer = Haproxy::start(&scratch, if tls { *tls_port } else { *sip_port }, options);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, balancer.port));
    let mut phone = Client::tcp_from(PHONE.into(), to);
    if tls {
        phone = phone.secured(to.ip(), certificates);
    }
    let own = phone.local_addr();
    assert_eq!(own.ip(), IpAddr::from(PHONE));
    phone.send(&register(own, if tls { "TLS" } else { "TCP" }));
    let path = accept(&proxy, &server, own);
    let ok = phone.receive();
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains(&format!(";received={PHONE}")), "{ok}");
    assert_where(&proxy, own);

    invite(&proxy, &server, &path);
    let got = phone.receive();
    assert!(got.starts_with("INVITE "), "{got}");
    phone.send(&answer(&got, "200 OK", "p", &format!("Contact: <sip:alice@{own}>\r\n")));
    assert_eq!(first_line(&response(&server)), "SIP/2.0 200 OK");
    assert!(proxy.metric("hawser_proxy_headers_total", "says=\"source\"") >= 1.0);
    assert!(proxy.metric("hawser_proxy_header_faults_total", "") == 0.0);
}

#[test]
fn a_tcp_phone_is_called_through_haproxy_with_version_1() {
    a_phone_is_called("balancer-tcp-v1", false, "send-proxy");
}

#[test]
fn a_tcp_phone_is_called_through_haproxy_with_version_2() {
    a_phone_is_called("balancer-tcp-v2", false, "send-proxy-v2");
}

#[test]
fn a_tls_phone_is_called_through_haproxy_with_version_1() {
    a_phone_is_called("balancer-tls-v1", true, "send-proxy");
}

#[test]
fn a_tls_phone_is_called_through_haproxy_with_version_2_and_all_that_it_can_add() {
    let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
    a_phone_is_called("balancer-tls-v2", true, options);
}

/// By version 1 haproxy names itself as the source, by version 2 it speaks for itself; without a header its check is over
/// before there is a connection.
#[test]
fn haproxy_checks_the_proxy_with_headers_and_nothing_is_told_of_it() {
    if is_stand_in() {
        return;
    }
    let (scratch, mut proxy, _server) = behind("balancer-checks", BALANCER);
    let to = proxy.settings.sip_port;
    let _first = Haproxy::start(&scratch, to, "send-proxy check inter 100ms check-send-proxy");
    let _second = Haproxy::start(&scratch, to, "send-proxy-v2 check inter 100ms check-send-proxy");
    let http = proxy.http;
    let count = |says: &str| {
        let page = page(http, "/metrics").expect("the HTTP port answers");
        let samples = page.lines().filter(|line| line.starts_with("hawser_proxy_headers_total") && line.contains(says));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let checked = || count("says=\"nobody\"") >= 4.0 && count("says=\"source\"") >= 4.0;
    proxy.process.wait_until("checked", START_MAX, checked);
    assert!(proxy.metric("hawser_proxy_header_faults_total", "") == 0.0);
    assert!(proxy.metric("hawser_connections_opened_total", "direction=\"in\",transport=\"tcp\"") >= 8.0);
    let told = proxy.process.errors();
    assert!(!told.iter().any(|line| line.contains(&format!("peer {BALANCER}"))), "{told:?}");
}

#[test]
fn a_header_that_is_missing_or_from_elsewhere_ends_the_connection() {
    if is_stand_in() {
        return;
    }
    let (scratch, proxy, _server) = behind("balancer-faults", "127.0.0.66");
    let ended = |mut tcp: TcpStream, text: &str| {
        tcp.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout above zero");
        tcp.write_all(text.as_bytes()).expect("the connection is open");
        let mut heard = Vec::new();
        let read = uninterrupted(|| tcp.read_to_end(&mut heard));
        assert!(read.is_ok_and(|len| len == 0) || heard.is_empty(), "{heard:?}");
    };
    let text = register((PHONE, 5060).into(), "TCP");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.settings.sip_port));
    ended(Client::tcp_from(PHONE.into(), to).into_tcp(), &text);
    assert!(proxy.metric("hawser_proxy_header_faults_total", "missing") == 1.0);
    // This balancer's network has no proxy-protocol.
    let balancer = Haproxy::start(&scratch, proxy.settings.sip_port, "send-proxy-v2");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, balancer.port));
    ended(Client::tcp(to).into_tcp(), &text);
    assert!(proxy.metric("hawser_proxy_header_faults_total", "unexpected") == 1.0);
    let line = proxy.process.wait_line("a PROXY header came from an address that no [[network]]", ANSWER_MAX);
    assert!(line.contains(BALANCER), "{line}");
}

/// A header of version 2 for a datagram from there.
fn before(phone: SocketAddr, text: &str) -> Vec<u8> {
    let IpAddr::V4(ip) = phone.ip() else { panic!("{phone}") };
    let ports = [phone.port().to_be_bytes(), 5_060_u16.to_be_bytes()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c", &ip.octets()[..], &[127, 0, 0, 1], &ports, text.as_bytes()].concat()
}

#[test]
fn a_udp_phone_is_called_through_a_balancer() {
    if is_stand_in() {
        return;
    }
    let (_scratch, proxy, server) = behind("balancer-udp", BALANCER);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.settings.sip_port));
    let own = SocketAddr::from((PHONE, 5_060));
    let balancer = UdpSocket::bind((BALANCER, 0)).expect("a port");
    balancer.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout above zero");
    let receive = || {
        let mut bytes = [0; 65_536];
        let len = uninterrupted(|| balancer.recv(&mut bytes)).expect("a message in time");
        String::from_utf8(bytes[..len].to_vec()).expect("text")
    };
    balancer.send_to(&before(own, &register(own, "UDP")), to).expect("loopback");
    let path = accept(&proxy, &server, own);
    let ok = receive();
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains(&format!(";received={PHONE}")), "{ok}");
    assert_where(&proxy, own);
    invite(&proxy, &server, &path);
    let got = receive();
    assert!(got.starts_with("INVITE "), "{got}");
    let ok = answer(&got, "200 OK", "p", &format!("Contact: <sip:alice@{own}>\r\n"));
    balancer.send_to(&before(own, &ok), to).expect("loopback");
    assert_eq!(first_line(&response(&server)), "SIP/2.0 200 OK");
}
