//! Devices that did not register, over real sockets: over TLS with certificates that carry their address or do not,
//! over TCP and UDP with SIPp as the device; calls that either side ends.

use std::net::{SocketAddr, TcpListener};

use crate::harness::Scratch;
use crate::harness::certs::Certificates;
use crate::harness::client::Client;
use crate::harness::datagrams::Datagrams;
use crate::harness::ports::free_port;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::sipp::{Mode, Sipp};
use crate::harness::text::{answer, field, fields, first_line};

/// Where devices are.
const DEVICE: [u8; 4] = [127, 0, 0, 3];

/// The SIP Server, over UDP.
struct Server {
    udp: Datagrams,
    proxy: SocketAddr,
}

/// Its end of a call.
struct Call {
    id: String,
    from: String,
    to: String,
    target: String,
    routes: String,
}

impl Server {
    fn new(settings: &Settings) -> Self {
        let udp = Datagrams::bind(([127, 0, 0, 1], settings.server_port).into());
        Self { udp, proxy: SocketAddr::from(([127, 0, 0, 1], settings.sip_port)) }
    }

    fn send(&self, text: &str) {
        self.udp.send(self.proxy, text);
    }

    /// The next message of a call that is no 100.
    fn receive(&self, call: &str) -> String {
        loop {
            let (message, _) = self.udp.receive();
            if field(&message, "Call-ID") == Some(call) && !message.starts_with("SIP/2.0 100") {
                return message;
            }
        }
    }

    fn request(&self, method: &str, call: &Call, cseq: u32) {
        let own = self.udp.address();
        let Call { id, from, to, target, routes } = call;
        self.send(&format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id}{method}{cseq}\r\n\
             Max-Forwards: 70\r\n{routes}From: {from}\r\nTo: {to}\r\nCall-ID: {id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{own}>\r\nContent-Length: 0\r\n\r\n"
        ));
    }

    /// Begins a call.
    fn invite(&self, id: &str, target: &str) -> Call {
        let (from, to) = (format!("<sip:server@example.com>;tag=s{id}"), format!("<{target}>"));
        let call = Call { id: id.into(), from, to, target: target.into(), routes: String::new() };
        self.request("INVITE", &call, 1);
        call
    }

    /// The answer to an INVITE: the call stands, and is acknowledged.
    fn accept(&self, mut call: Call) -> Call {
        let ok = loop {
            let message = self.receive(&call.id);
            if !message.starts_with("SIP/2.0 1") {
                break message;
            }
        };
        assert_eq!(first_line(&ok), "SIP/2.0 200 OK");
        call.to = field(&ok, "To").expect("To").into();
        let contact = field(&ok, "Contact").and_then(|contact| contact.split(['<', '>']).nth(1));
        call.target = contact.expect("a Contact").into();
        call.routes = fields(&ok, "Record-Route").iter().rev().map(|route| format!("Route: {route}\r\n")).collect();
        self.request("ACK", &call, 1);
        call
    }

    /// Ends a call.
    fn bye(&self, call: &Call) {
        self.request("BYE", call, 2);
        assert_eq!(first_line(&self.receive(&call.id)), "SIP/2.0 200 OK");
    }
}

fn start(scratch: &Scratch, names: &[&str], rule: &str) -> (Proxy, Server) {
    let mut settings = Settings::new(scratch);
    settings.certificates = Certificates::named(scratch, names);
    let server = Server::new(&settings);
    let toml = settings.toml() + rule;
    (Proxy::start_with(scratch, settings, "127.0.0.1".parse().expect("an address"), &toml), server)
}

fn open_connections(proxy: &Proxy) -> f64 {
    proxy.metric("hawser_device_connections", "state=\"open\"")
}

#[test]
fn a_device_over_tls_is_called_on_one_connection_that_either_side_uses() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("device-tls");
    let (proxy, server) = start(&scratch, &["127.0.0.1", "127.0.0.3"], "");
    let listener = TcpListener::bind(SocketAddr::from((DEVICE, 0))).expect("a port");
    let at = listener.local_addr().expect("bound");
    let uri = |user: &str| format!("sip:{user}@{at};transport=tls");
    let first = server.invite("c0", &uri("d0"));
    let mut device = Client::accept(&listener, Some(&proxy.settings.certificates)).expect("the names agree");
    let mut call = Some(first);
    // Users whose home is any of the shards.
    for n in 0..8 {
        let id = format!("c{n}");
        let begun = call.take().unwrap_or_else(|| server.invite(&id, &uri(&format!("d{n}"))));
        let invite = device.receive();
        assert_eq!(first_line(&invite), format!("INVITE {} SIP/2.0", uri(&format!("d{n}"))));
        device.send(&answer(&invite, "180 Ringing", "d", ""));
        device.send(&answer(&invite, "200 OK", "d", &format!("Contact: <{}>\r\n", uri("d"))));
        let standing = server.accept(begun);
        assert!(device.receive().starts_with("ACK "));
        if n % 2 == 0 {
            server.request("BYE", &standing, 2);
            let bye = device.receive();
            device.send(&answer(&bye, "200 OK", "d", ""));
            assert_eq!(first_line(&server.receive(&id)), "SIP/2.0 200 OK");
        } else {
            let routes: String = fields(&invite, "Record-Route").iter().map(|r| format!("Route: {r}\r\n")).collect();
            device.send(&format!(
                "BYE sip:{} SIP/2.0\r\nVia: SIP/2.0/TLS {at};branch=z9hG4bKdev{n}\r\nMax-Forwards: 70\r\n{routes}\
                 From: {}\r\nTo: {}\r\nCall-ID: {id}\r\nCSeq: 7 BYE\r\nContent-Length: 0\r\n\r\n",
                server.udp.address(),
                standing.to,
                standing.from,
            ));
            let bye = server.receive(&id);
            assert!(bye.starts_with("BYE "), "{bye}");
            server.send(&answer(&bye, "200 OK", "s", ""));
            assert_eq!(first_line(&device.receive()), "SIP/2.0 200 OK");
        }
    }
    assert!((open_connections(&proxy) - 1.0).abs() < 0.1, "{}", open_connections(&proxy));
    assert!(listener.accept().is_err(), "there is one connection for the whole proxy");

    // It is opened again when it was lost.
    drop(device);
    let call = server.invite("again", &uri("d0"));
    let mut device = Client::accept(&listener, Some(&proxy.settings.certificates)).expect("the names agree");
    let invite = device.receive();
    device.send(&answer(&invite, "486 Busy Here", "d", ""));
    assert!(device.receive().starts_with("ACK "));
    assert_eq!(first_line(&server.receive(&call.id)), "SIP/2.0 486 Busy Here");
    for name in ["panics", "unparsable_dropped", "responses_dropped", "acks_dropped"] {
        assert!(proxy.metric(&format!("hawser_{name}_total"), "") == 0.0, "{name}");
    }
}

#[test]
fn a_certificate_without_the_devices_address_is_refused_unless_a_rule_says_otherwise() {
    if is_stand_in() {
        return;
    }
    let rules = [
        ("", "SIP/2.0 502 Certificate Refused"),
        ("[[device]]\nnetwork = \"127.0.0.4/32\"\nverify = \"chain\"\n", "SIP/2.0 502 Certificate Refused"),
        ("[[device]]\nnetwork = \"127.0.0.0/24\"\ntls-name = \"gw.example.net\"\n", "SIP/2.0 486 Busy Here"),
        ("[[device]]\nnetwork = \"127.0.0.0/24\"\nverify = \"chain\"\n", "SIP/2.0 486 Busy Here"),
    ];
    for (rule, expected) in rules {
        let scratch = Scratch::new("device-names");
        let (proxy, server) = start(&scratch, &["127.0.0.1", "127.0.0.4", "gw.example.net"], rule);
        let listener = TcpListener::bind(SocketAddr::from((DEVICE, 0))).expect("a port");
        let at = listener.local_addr().expect("bound");
        let call = server.invite("c", &format!("sip:d@{at};transport=tls"));
        let device = Client::accept(&listener, Some(&proxy.settings.certificates));
        if expected.contains("486") {
            let mut device = device.expect("the rule counts");
            let invite = device.receive();
            device.send(&answer(&invite, "486 Busy Here", "d", ""));
        }
        assert_eq!(first_line(&server.receive(&call.id)), expected, "{rule}");
        if expected.contains("502") {
            let failures = proxy.metric("hawser_tls_handshake_failures_total", "reason=\"name\"");
            assert!((failures - 1.0).abs() < 0.1, "{failures}");
            assert!(open_connections(&proxy).abs() < 0.1, "it is closed");
        }
    }
}

#[test]
fn devices_over_tcp_and_udp_are_called() {
    if is_stand_in() {
        return;
    }
    const CALLS: u32 = 6;
    for (mode, transport) in [(Mode::Udp, "udp"), (Mode::Tcp, "tcp")] {
        let scratch = Scratch::new(&format!("device-{transport}"));
        let (proxy, server) = start(&scratch, &["127.0.0.1"], "");
        let at = SocketAddr::from((DEVICE, free_port()));
        let device = Sipp::device(&scratch, mode, at, CALLS);
        for n in 0..CALLS {
            let call = server.invite(&format!("c{n}"), &format!("sip:d{n}@{at};transport={transport}"));
            server.bye(&server.accept(call));
        }
        device.succeed();
        for name in ["panics", "unparsable_dropped", "refusals", "faults", "responses_dropped", "acks_dropped"] {
            assert!(proxy.metric(&format!("hawser_{name}_total"), "") == 0.0, "{name}");
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_503_over_every_transport() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("device-gone");
    let (_proxy, server) = start(&scratch, &["127.0.0.1"], "");
    for transport in ["udp", "tcp", "tls"] {
        let at = SocketAddr::from((DEVICE, free_port()));
        let call = server.invite(transport, &format!("sip:d@{at};transport={transport}"));
        let refused = server.receive(&call.id);
        assert_eq!(first_line(&refused), "SIP/2.0 503 No Target Left", "{transport}");
        assert!(field(&refused, "Retry-After").is_none(), "{refused}");
    }
}
