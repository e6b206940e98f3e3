//! Who comes by way of a load balancer: known by the address in the PROXY header in all that is shown and counted, and
//! nobody's server for it.

use std::net::SocketAddr;

use hawser::config::{Host, Network, PeerProxy, Verify};
use hawser::engine::{Accept, Input, Refusal, Settings};
use hawser::ids::Transport;
use hawser::tls::identity::Identities;

use crate::registration::user_with_home;
use crate::talk::{Phone, answer, header, headers, start_line};
use crate::world::{SERVER, Setup, TCP, TLS, UDP, World};

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_phone_behind_a_balancer_is_shown_and_called_by_its_own_address() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect_forwarded(1, TLS, at("198.51.100.9:40000"), None);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    phone.send_register(&mut world, 600);
    let request = phone.accept_register(&mut world, 600);
    assert!(headers(&request, "Via")[1].contains(";rport=40000;received=198.51.100.9"), "{request}");
    let ok = world.read(wire);
    assert!(header(&ok, "Via").contains(";rport=40000;received=198.51.100.9"), "{ok}");
    let aor = format!("sip:{}@example.com", phone.user);
    let located = world.engines[0].locate(&aor, world.now);
    assert_eq!(located.iter().map(|it| it.peer).collect::<Vec<_>>(), [at("198.51.100.9:40000")]);
    let (_, message) = phone.asked(&mut world, "MESSAGE", "m1");
    world.write(wire, &answer(&message, "200 OK", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    // The server may name the connection by the phone's address, too.
    let route = format!("Route: {}\r\n", phone.path[0]);
    let named = "X-Genesys-Route: sip:198.51.100.9:40000;transport=tls\r\n";
    world.datagram(0, SERVER, &phone.server_request("MESSAGE", "m2", 1).replace(&route, named));
    let message = world.read(wire);
    world.write(wire, &answer(&message, "200 OK", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.end();
}

/// The balancer's port for one phone.
const BALANCER: &str = "203.0.113.1:30001";

fn forwarded(world: &mut World, shard: u8, source: &str, text: &str) {
    let (from, source) = (at(BALANCER), at(source));
    world.input(
        shard,
        Input::Forwarded { point: UDP, from, source, bytes: text.as_bytes(), waited: std::time::Duration::ZERO },
    );
}

#[test]
fn a_phone_behind_a_balancer_over_udp_is_shown_by_its_own_address_and_reached_by_the_balancers_port() {
    let mut world = World::new(&Setup::default());
    let spare = world.connect(0, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), spare);
    (phone.via, phone.params) = ("UDP", "");
    phone.contact = format!("sip:{}@198.51.100.9:40000", phone.user);
    let register = phone.register_text(600);
    forwarded(&mut world, 1, "198.51.100.9:40000", &register);
    let request = phone.accept_register(&mut world, 600);
    assert!(headers(&request, "Via")[1].contains(";rport=40000;received=198.51.100.9"), "{request}");
    let ok = world.read_udp(BALANCER);
    assert!(start_line(&ok) == "SIP/2.0 200 OK" && header(&ok, "Via").contains("received=198.51.100.9"), "{ok}");
    let aor = format!("sip:{}@example.com", phone.user);
    let located = world.engines[0].locate(&aor, world.now);
    assert_eq!(located.iter().map(|it| it.peer).collect::<Vec<_>>(), [at("198.51.100.9:40000")]);
    let message = phone.server_request("MESSAGE", "m1", 1);
    world.datagram(0, SERVER, &message);
    let message = world.read_udp(BALANCER);
    forwarded(&mut world, 0, "198.51.100.9:40000", &answer(&message, "200 OK", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.hang_up(spare);
    world.end();
}

#[test]
fn an_answer_goes_to_the_balancers_port_that_its_request_came_by_and_to_no_other() {
    let mut world = World::new(&Setup::default());
    // Without rport an answer goes to the port in Via, at the source's address: there it is another phone's.
    let text = "OPTIONS sip:127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.1:30002;branch=z9hG4bKo1\r\n\
                From: <sip:m@example.com>;tag=m\r\nTo: <sip:127.0.0.1>\r\nCall-ID: o1\r\nCSeq: 1 OPTIONS\r\n\
                Content-Length: 0\r\n\r\n";
    world.datagram(0, BALANCER, text);
    assert!(world.try_read_udp("203.0.113.1:30002").is_some(), "so it is for everybody else");
    for source in ["198.51.100.9:40000", BALANCER] {
        forwarded(&mut world, 0, source, &text.replace("o1", &format!("o{}", source.len())));
        assert!(world.try_read_udp(BALANCER).is_some() && world.try_read_udp("203.0.113.1:30002").is_none());
    }
    world.end();
}

#[test]
fn two_phones_behind_one_balancer_may_use_the_same_branch() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    for (n, source) in ["198.51.100.8:40000", "198.51.100.9:40000"].iter().enumerate() {
        let text = past_the_server("UDP", "192.168.1.2:5060", "same").replace(FAR, "example.com");
        forwarded(&mut world, 0, source, &text);
        let request = world.read_server();
        assert!(headers(&request, "Via")[1].contains(&format!("received={}", &source[..12])), "{n}: {request}");
        world.datagram(0, SERVER, &answer(&request, "200 OK", "s", ""));
        assert_eq!(start_line(&world.read_udp(BALANCER)), "SIP/2.0 200 OK");
    }
    world.drain();
    world.end();
}

#[test]
fn an_address_in_a_datagrams_header_makes_nobody_a_server() {
    let mut world = World::new(&Setup::default());
    world.datagram(0, SERVER, &past_the_server("UDP", SERVER, "d1"));
    assert!(world.try_read_udp(FAR).is_some());
    forwarded(&mut world, 0, SERVER, &past_the_server("UDP", SERVER, "d2"));
    assert!(world.try_read_udp(FAR).is_none());
    assert!(world.read_server().starts_with("MESSAGE"), "it is an endpoint's");
}

const FAR: &str = "198.51.100.7:5060";

/// A request for an address that only servers may name, with a server's Via.
fn past_the_server(over: &str, via: &str, call: &str) -> String {
    format!(
        "MESSAGE sip:x@{FAR} SIP/2.0\r\nVia: SIP/2.0/{over} {via};branch=z9hG4bK{call}\r\n\
         From: <sip:m@example.com>;tag=m\r\nTo: <sip:x@example.com>\r\nCall-ID: {call}\r\nCSeq: 1 MESSAGE\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn an_address_in_a_header_makes_nobody_a_server() {
    let mutate: fn(&mut Settings) = |settings| settings.live.trusted = vec![([192, 0, 2, 0].into(), 24)];
    let setup = Setup { internal: Transport::Tcp, mutate, ..Setup::default() };
    // The pair's own address with its Via, and a trusted source.
    for from in ["127.0.0.1:40404", "192.0.2.9:40404"] {
        let mut world = World::new(&setup);
        let wire = world.connect_from(0, TCP, at(from));
        world.write(wire, &past_the_server("TCP", SERVER, "s1"));
        assert!(world.try_read_udp(FAR).is_some(), "straight from there it is the server: {from}");
        let mut world = World::new(&setup);
        let wire = world.connect_forwarded(0, TCP, at(from), None);
        world.write(wire, &past_the_server("TCP", SERVER, "s1"));
        assert!(world.try_read_udp(FAR).is_none(), "{from}");
        assert_eq!(world.dialled().1, at(SERVER), "it is an endpoint's, and goes to the server");
    }
}

#[test]
fn a_certificate_that_names_a_server_makes_one_behind_a_balancer_too() {
    let names = Identities { addresses: vec![[127, 0, 0, 1].into()], ..Identities::default() };
    let mut world = World::new(&Setup { internal: Transport::Tls, ..Setup::default() });
    let wire = world.connect_forwarded(0, TLS, at("198.51.100.9:40404"), Some(names));
    world.write(wire, &past_the_server("TLS", "198.51.100.9:5061", "s1"));
    assert!(world.try_read_udp(FAR).is_some());
}

#[test]
fn an_address_in_a_header_lifts_no_measure() {
    let mutate: fn(&mut Settings) = |settings| {
        settings.unregistered_per_source_max = 1;
        settings.peers.push(PeerProxy {
            name: "site2".into(),
            servers: vec![[10, 9, 9, 9].into()],
            contact: Host::Ip([10, 9, 0, 1].into()),
            protocol: Transport::Tcp,
            port_tls: None,
            tls_name: None,
            verify: Verify::Name,
            setup: None,
        });
    };
    let mut world = World::new(&Setup { shards: 1, mutate, ..Setup::default() });
    for ip in ["10.9.0.1", "127.0.0.1"] {
        let accept = |port, is_forwarded| Accept { point: TCP, peer: at(&format!("{ip}:{port}")), is_forwarded };
        let now = world.now;
        let engine = &mut world.engines[0];
        assert!(engine.accept(accept(1, true), now).is_ok());
        assert_eq!(engine.accept(accept(2, true), now), Err(Refusal::Source), "one past it");
        assert!(engine.accept(accept(3, false), now).is_ok(), "a server or a site's proxy is held to none");
    }
}

#[test]
fn the_answer_of_a_lost_server_is_not_taken_from_who_has_its_address_in_a_header() {
    let setup = Setup { internal: Transport::Tcp, ..Setup::default() };
    for is_forwarded in [false, true] {
        let mut world = World::new(&setup);
        let phone = world.connect(0, TLS);
        let text = past_the_server("TLS", "192.0.2.7:5060", "a1").replace(FAR, "example.com");
        world.write(phone, &text);
        let (server, _, _) = world.dialled();
        world.ready(server);
        let request = world.read(server);
        world.hang_up(server);
        let from = at("127.0.0.1:40404");
        let wire = match is_forwarded {
            true => world.connect_forwarded(server.shard, TCP, from, None),
            false => world.connect_from(server.shard, TCP, from),
        };
        world.write(wire, &answer(&request, "200 OK", "s", ""));
        let heard = world.try_read(phone).is_some_and(|text| text.starts_with("SIP/2.0 200"));
        assert_eq!(heard, !is_forwarded);
    }
}

#[test]
fn a_network_may_be_a_balancers_and_the_smallest_says_so() {
    let rule = |last: u8, prefix_len, proxy_protocol| hawser::config::NetworkRule {
        network: Network { address: [10, 0, 0, last].into(), prefix_len },
        unregistered_max: 1,
        handshakes_max: 1,
        proxy_protocol,
        bans: true,
    };
    let mut settings = Settings::plain(Vec::new(), Vec::new());
    settings.live.networks = vec![rule(0, 24, true), rule(8, 32, false), rule(9, 32, true)];
    let is_balancer = |last: u8| settings.is_balancer([10, 0, 0, last].into());
    assert_eq!([7, 8, 9].map(is_balancer), [true, false, true]);
    assert!(!settings.is_balancer([10, 0, 1, 1].into()));
}
