//! IPv6, several listeners, and the type of service: a phone over TLS and a SIP Server over UDP, each message by hand,
//! through a real proxy with real sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;

use crate::harness::Scratch;
use crate::harness::certs::Certificates;
use crate::harness::client::Client;
use crate::harness::datagrams::Datagrams;
use crate::harness::dnsmasq::Dnsmasq;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::text::{answer, field, fields, first_line};

/// The SIP Server.
struct Server {
    udp: Datagrams,
    seen: BTreeSet<String>,
}

impl Server {
    fn bind(at: SocketAddr) -> Self {
        Self { udp: Datagrams::bind(at), seen: BTreeSet::new() }
    }

    /// The next message that is no repetition, no 100 and no service check, which is answered.
    fn receive(&mut self) -> String {
        loop {
            let (message, from) = self.udp.receive();
            let first = first_line(&message).to_owned();
            if first.starts_with("OPTIONS ") {
                self.send(from, &answer(&message, "200 OK", "callee", ""));
                continue;
            }
            let which = format!("{first} {:?}", field(&message, "Via"));
            if self.seen.insert(which) && !first.starts_with("SIP/2.0 100") {
                return message;
            }
        }
    }

    fn send(&self, to: SocketAddr, message: &str) {
        self.udp.send(to, message);
    }
}

/// Where the parties of a call are, and what Hawser says of itself towards each.
struct Places<'a> {
    phone: &'a mut Client,
    server: &'a mut Server,
    server_at: SocketAddr,
    /// Hawser's UDP socket towards the server.
    inside: SocketAddr,
    /// Its TLS port towards the phone.
    outside: SocketAddr,
}

/// Registers the phone, lets the server call it, and the phone hang up.
fn a_call(places: Places<'_>) {
    let Places { phone, server, server_at, inside, outside } = places;
    let own = phone.local_addr();
    let register = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS {own};branch=z9hG4bKr;rport\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:alice@example.com>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\n\
         Supported: path\r\nContact: <sip:alice@{own};transport=tls>\r\nExpires: 300\r\nContent-Length: 0\r\n\r\n"
    );
    phone.send(&register);
    let got = server.receive();
    assert!(got.starts_with("REGISTER "), "{got}");
    assert!(fields(&got, "Via")[0].starts_with(&format!("SIP/2.0/UDP {inside};branch=")), "{got}");
    let path = field(&got, "Path").expect("a Path").to_owned();
    assert!(path.contains(&format!("@{inside};lr")), "{path}");
    let contact = field(&got, "Contact").expect("a Contact");
    server.send(inside, &answer(&got, "200 OK", "callee", &format!("Contact: {contact};expires=300\r\n")));
    let ok = phone.receive();
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    let via = field(&ok, "Via").expect("its own");
    assert!(via.starts_with(&format!("SIP/2.0/TLS {own};")), "{via}");
    assert!(via.contains(&format!(";rport={}", own.port())), "{via}");
    assert!(via.contains(&format!(";received={}", own.ip())), "{via}");

    let invite = format!(
        "INVITE sip:alice@{own};transport=tls SIP/2.0\r\nVia: SIP/2.0/UDP {server_at};branch=z9hG4bKi\r\n\
         Route: {path}\r\nMax-Forwards: 70\r\nFrom: <sip:bob@example.com>;tag=b\r\nTo: <sip:alice@example.com>\r\n\
         Call-ID: i\r\nCSeq: 1 INVITE\r\nContact: <sip:bob@{server_at}>\r\nContent-Length: 0\r\n\r\n"
    );
    server.send(inside, &invite);
    let got = phone.receive();
    assert!(got.starts_with("INVITE "), "{got}");
    assert!(fields(&got, "Via")[0].starts_with(&format!("SIP/2.0/TLS {outside};branch=")), "{got}");
    let routes = fields(&got, "Record-Route");
    assert_eq!(routes.len(), 2, "{got}");
    assert!(routes[0].contains(&format!("@{outside};transport=tls;lr")), "{}", routes[0]);
    assert!(routes[1].contains(&format!("@{inside};lr")), "{}", routes[1]);
    phone.send(&answer(&got, "200 OK", "callee", &format!("Contact: <sip:alice@{own};transport=tls>\r\n")));
    let ok = server.receive();
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    let to_server: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    let to_phone: String = routes.iter().rev().map(|route| format!("Route: {route}\r\n")).collect();
    let ack = format!(
        "ACK sip:alice@{own};transport=tls SIP/2.0\r\nVia: SIP/2.0/UDP {server_at};branch=z9hG4bKa\r\n{to_phone}\
         Max-Forwards: 70\r\nFrom: <sip:bob@example.com>;tag=b\r\nTo: <sip:alice@example.com>;tag=callee\r\n\
         Call-ID: i\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"
    );
    server.send(inside, &ack);
    let got = phone.receive();
    assert!(got.starts_with("ACK ") && fields(&got, "Route").is_empty(), "{got}");
    let bye = format!(
        "BYE sip:bob@{server_at} SIP/2.0\r\nVia: SIP/2.0/TLS {own};branch=z9hG4bKb;rport\r\n{to_server}\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=callee\r\nTo: <sip:bob@example.com>;tag=b\r\n\
         Call-ID: i\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
    );
    phone.send(&bye);
    let got = server.receive();
    assert!(got.starts_with("BYE ") && fields(&got, "Route").is_empty(), "{got}");
    server.send(inside, &answer(&got, "200 OK", "callee", ""));
    let ok = phone.receive();
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
}

fn security(settings: &Settings) -> String {
    let certificates = &settings.certificates;
    format!("[security]\ncertificate = {:?}\ncertificate-key = {:?}\n", certificates.certificate, certificates.key)
}

fn at(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().expect("an address"), port).into()
}

fn hawser_says(arguments: &[&str]) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_hawser")).args(arguments).output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("text")
}

#[test]
fn a_listener_of_one_side_shows_the_certificate_of_that_side() {
    if is_stand_in() {
        return;
    }
    let (scratch, other) = (Scratch::new("two-certificates"), Scratch::new("servers-certificate"));
    let settings = Settings::new(&scratch);
    let inside = Certificates::named(&other, &["127.0.0.1"]);
    let Settings { tls_port, http_port, server_port, .. } = settings;
    let toml = format!(
        "[sipproxy]\nhttp-port = {http_port}\n\
         [[listener]]\nside = \"endpoint\"\naddress = \"127.0.0.2\"\nsip-port = 0\ntls-port = {tls_port}\n\
         [[listener]]\nside = \"server\"\naddress = \"127.0.0.1\"\nsip-port = 0\ntls-port = {tls_port}\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"127.0.0.1:{server_port}\"\ntransport = \"tls\"\n\
         {}[security.server]\ncertificate = {:?}\ncertificate-key = {:?}\ntrusted-ca = {:?}\n",
        security(&settings),
        inside.certificate,
        inside.key,
        inside.ca
    );
    let proxy = Proxy::start_with(&scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml);
    // Each is verified by its own authority, which has not signed the other.
    let mut phone = Client::tls(at("127.0.0.2", tls_port), &proxy.settings.certificates);
    let mut stranger = Client::tls(at("127.0.0.1", tls_port), &inside);
    for (client, to, is_refused) in [(&mut phone, "127.0.0.2", false), (&mut stranger, "127.0.0.1", true)] {
        client.send(&format!(
            "OPTIONS sip:{to}:{tls_port};transport=tls SIP/2.0\r\n\
             Via: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bKo;rport\r\nMax-Forwards: 70\r\n\
             From: <sip:a@example.com>;tag=a\r\nTo: <sip:{to}>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        ));
        // Phones are told whether a server answers, with 200 or 503.
        let got = client.receive();
        assert_eq!(got.starts_with("SIP/2.0 403 Wrong Listener\r\n"), is_refused, "{got}");
    }
}

#[test]
fn a_check_shows_what_names_give_and_which_do_not_lead_here() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("check-names");
    let dns = Dnsmasq::start(
        &scratch,
        60,
        &[
            "host-record=sips1.test,127.0.0.1,::1",
            "srv-host=_sip._udp.pool.test,p1.test,5060,1,60",
            "srv-host=_sip._udp.pool.test,p2.test,5060,1,40",
            "srv-host=_sip._tcp.pool.test,p2.test,5060,1,40",
            "host-record=p1.test,192.0.2.1",
            "host-record=p2.test,192.0.2.2",
        ],
    );
    let toml = format!(
        "[sipproxy]\nexternal-address = \"p1.test\"\ntls-port = 0\nhttp-port = 0\ndomains = [\"pool.test\"]\n\
         [[sip-server]]\nname = \"a\"\nprimary = \"sips1.test:5070\"\nbackup = \"sips2.test\"\n\
         [dns]\nservers = [\"{}\"]\n",
        dns.address
    );
    let file = scratch.write("hawser.toml", &toml);
    let said = hawser_says(&["--config", file.to_str().expect("text"), "--check"]);
    let names: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("name         ")).collect();
    // The addresses of one name have no order.
    let (first, rest) = names.split_first().expect("names");
    assert!(first.starts_with("sips1.test:5070 over udp: "), "{said}");
    assert!(first.contains("127.0.0.1:5070") && first.contains("[::1]:5070"), "{said}");
    let expected = [
        "sips2.test over udp: does not exist",
        "p1.test:5060 over udp: 192.0.2.1:5060",
        "p1.test:5060 over tcp: 192.0.2.1:5060",
        "pool.test over udp: 192.0.2.1:5060 (priority 1, weight 60), 192.0.2.2:5060 (priority 1, weight 40)",
        "pool.test over tcp: 192.0.2.2:5060 (priority 1, weight 40); THIS PROXY IS NOT AMONG THEM",
    ];
    assert_eq!(rest, expected, "{said}");
    assert!(said.contains(&format!("resolvers    {}\n", dns.address)), "{said}");
}

#[test]
fn a_tls_phone_is_called_over_ipv6_throughout() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("ipv6");
    let settings = Settings::new(&scratch);
    let Settings { sip_port, tls_port, http_port, server_port, .. } = settings;
    let toml = format!(
        "[sipproxy]\nsip-address = \"::1\"\nsip-port = {sip_port}\ntls-port = {tls_port}\nhttp-address = \"::1\"\n\
         http-port = {http_port}\ndomains = [\"example.com\"]\noos-check = 0\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"[::1]:{server_port}\"\n{}",
        security(&settings)
    );
    let server_at = at("::1", server_port);
    let server = &mut Server::bind(server_at);
    let proxy = Proxy::start_with(&scratch, settings, Ipv6Addr::LOCALHOST.into(), &toml);
    let outside = at("::1", tls_port);
    let mut phone = Client::tls(outside, &proxy.settings.certificates);
    a_call(Places { phone: &mut phone, server, server_at, inside: at("::1", sip_port), outside });
    let peer = phone.local_addr();
    let file = scratch.path().join("hawser.toml");
    let file = file.to_str().expect("text");
    let located = hawser_says(&["where", "sip:alice@example.com", "--config", file]);
    assert!(located.contains(&format!("peer          {peer}\n")), "{located}");
    let located = hawser_says(&["where", "sip:alice@example.com", "--http", &format!("[::1]:{http_port}")]);
    assert!(located.contains(&format!("peer          {peer}\n")), "{located}");
    let checked = hawser_says(&["--config", file, "--check"]);
    assert!(checked.contains(&format!("TLS [::1]:{tls_port}, as [::1]:{tls_port}")), "{checked}");
    assert!(checked.contains(&format!("at [::1]:{server_port} over udp")), "{checked}");
}

/// Phones at `phones` over TLS, and a SIP Server at 127.0.0.1 that has a listener of its own over UDP.
fn two_listeners(test: &str, phones: &str) {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new(test);
    let settings = Settings::new(&scratch);
    let Settings { sip_port, tls_port, http_port, server_port, .. } = settings;
    let toml = format!(
        "[sipproxy]\nhttp-port = {http_port}\ndomains = [\"example.com\"]\noos-check = 0\nsip-ip-tos = 184\n\
         [[listener]]\nside = \"endpoint\"\naddress = \"{phones}\"\nsip-port = {sip_port}\ntls-port = {tls_port}\n\
         [[listener]]\nside = \"server\"\naddress = \"127.0.0.1\"\nsip-port = {sip_port}\ntls-port = 0\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"127.0.0.1:{server_port}\"\n{}",
        security(&settings)
    );
    let (server_at, inside, outside) = (at("127.0.0.1", server_port), at("127.0.0.1", sip_port), at(phones, tls_port));
    let server = &mut Server::bind(server_at);
    let proxy = Proxy::start_with(&scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml);
    let mut phone = Client::tls(outside, &proxy.settings.certificates);
    a_call(Places { phone: &mut phone, server, server_at, inside, outside });

    let stranger = &mut Server::bind(at("127.0.0.1", 0));
    let options = format!(
        "OPTIONS sip:{inside} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKo;rport\r\nMax-Forwards: 70\r\n\
         From: <sip:eve@example.com>;tag=e\r\nTo: <sip:{inside}>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n\
         User-Agent: somebody whose request is longer than its answer\r\nContent-Length: 0\r\n\r\n"
    );
    stranger.send(inside, &options);
    assert!(stranger.receive().starts_with("SIP/2.0 403 Wrong Listener\r\n"));
    assert!(proxy.metric("hawser_refusals_total", "wrong_listener") > 0.5);

    assert_eq!(tos("-u", "UNCONN", inside), ["0xb8"]);
    assert_eq!(tos("-u", "UNCONN", at(phones, sip_port)), ["0xb8"]);
    assert_eq!(tos("-t", "LISTEN", outside), ["0xb8"]);
    assert_eq!(tos("-t", "ESTAB", outside), ["0xb8"], "the phone's connection");
}

/// The types of service of the sockets in a state at a local address, as the kernel tells them: what is sent on such a
/// socket carries the byte.
fn tos(kind: &str, state: &str, local: SocketAddr) -> Vec<String> {
    let said = Command::new("ss").args(["-anH", "--tos", kind]).output().expect("ss of iproute2");
    let text = String::from_utf8(said.stdout).expect("text");
    let name = if local.is_ipv6() { "tclass:" } else { "tos:" };
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with(state)) {
        if line.split_whitespace().nth(3) == Some(&local.to_string()) {
            found.extend(line.split_whitespace().filter_map(|word| word.strip_prefix(name)).map(str::to_owned));
        }
    }
    found.into_iter().collect()
}

#[test]
fn connections_to_a_server_leave_from_the_servers_listener_and_carry_the_type_of_service() {
    if is_stand_in() {
        return;
    }
    for (server_ip, inside_ip) in [("127.0.0.1", "127.0.0.3"), ("::1", "::1")] {
        let scratch = Scratch::new("outbound");
        let settings = Settings::new(&scratch);
        let Settings { sip_port, tls_port, http_port, server_port, .. } = settings;
        let listener = TcpListener::bind(at(server_ip, server_port)).expect("a free port");
        let toml = format!(
            "[sipproxy]\nhttp-port = {http_port}\ninternal-protocol = \"tcp\"\nsip-ip-tos = 96\n\
             [[listener]]\nside = \"endpoint\"\naddress = \"127.0.0.2\"\nsip-port = 0\ntls-port = {tls_port}\n\
             [[listener]]\nside = \"server\"\naddress = \"{inside_ip}\"\nsip-port = {sip_port}\ntls-port = 0\n\
             [[sip-server]]\nname = \"server\"\nprimary = \"{}\"\n{}",
            at(server_ip, server_port),
            security(&settings)
        );
        let proxy = Proxy::start_with(&scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml);
        let mut phone = Client::tls(at("127.0.0.2", tls_port), &proxy.settings.certificates);
        phone.send(
            "MESSAGE sip:9000@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bKm;rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a\r\nTo: <sip:9000@example.com>\r\n\
             Call-ID: m\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
        );
        let (_connection, from) = listener.accept().expect("Hawser connects");
        assert_eq!(from.ip(), at(inside_ip, 0).ip());
        assert_eq!(tos("-t", "ESTAB", from), ["0x60"]);
    }
}

#[test]
fn a_phone_over_ipv6_and_a_server_over_ipv4_have_a_listener_each() {
    two_listeners("mixed", "::1");
}

#[test]
fn the_endpoint_side_and_the_server_side_have_a_listener_each() {
    two_listeners("sides", "127.0.0.2");
}
