//! Where a request goes on to: each step of the order (DESIGN.md, What it does on the wire, 2) against the next lower
//! one, by address and by name; and that nothing of it is an endpoint's to choose.

use std::time::Duration;

use hawser::config::{Host, PeerProxy, Server, Verify};
use hawser::engine::{ConnectFailure, Expected, Input, Settings, Sticky};
use hawser::flow::keys::Keys;
use hawser::ids::Transport;
use hawser::stats::Counter;

use crate::calls::{answered, registered_with};
use crate::registration::user_with_home;
use crate::resolver::RESOLVER;
use crate::stage::cancel;
use crate::talk::{Phone, answer, header, headers, start_line};
use crate::world::{SERVER, Sent, Setup, TLS, World};

/// The second pair.
const OTHER: &str = "10.8.0.1:5070";
/// The proxy of the other site, and the address of the servers behind it.
const PEER: &str = "10.9.0.1:5060";
const PEERS_SERVER: &str = "10.9.9.9";

pub fn wide(settings: &mut Settings) {
    settings.servers.push(Server::at("sips2", OTHER.parse().expect("an address"), Transport::Udp));
    settings.peers.push(PeerProxy {
        name: "site2".into(),
        // The pair's own address, too: ours goes first.
        servers: vec![PEERS_SERVER.parse().expect("an address"), "10.8.0.1".parse().expect("an address")],
        contact: Host::parse("10.9.0.1").expect("a host"),
        protocol: Transport::Udp,
        port_tls: None,
        tls_name: None,
        verify: Verify::Name,
        setup: None,
    });
    settings.dns.resolvers = vec![RESOLVER.parse().expect("an address")];
}

fn setup() -> Setup {
    Setup { mutate: wide, ..Setup::default() }
}

/// A request of the SIP Server outside of a dialog.
pub fn request(method: &str, target: &str, call: &str, fields: &str) -> String {
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {SERVER};branch=z9hG4bKn{method}{call}\r\nMax-Forwards: 70\r\n\
         {fields}From: <sip:caller@example.com>;tag=c1\r\nTo: <{target}>\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:{SERVER}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What the server is answered to a request, when nobody else is asked.
fn refused(world: &mut World, text: &str) -> String {
    world.datagram(0, SERVER, text);
    let answer = world.read_server();
    world.assert_silent();
    answer
}

/// The server's request goes to this UDP address alone, which answers it.
#[track_caller]
fn goes_to(world: &mut World, address: &str, text: &str) -> String {
    world.datagram(0, SERVER, text);
    let sent = world.read_udp(address);
    world.assert_silent();
    assert!(world.opened.is_empty(), "{:?}", world.opened);
    world.datagram(1, address, &answer(&sent, "200 OK", "d", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    sent
}

// --- the order ---------------------------------------------------------------------------------------------------

#[test]
fn x_genesys_route_goes_before_a_foreign_route() {
    let mut world = World::new(&setup());
    let fields = "X-Genesys-Route: <sip:10.1.1.1:5071>\r\nRoute: <sip:10.2.2.2:5072;lr>\r\n";
    let sent = goes_to(&mut world, "10.1.1.1:5071", &request("MESSAGE", "sip:x@10.3.3.3", "a", fields));
    assert!(headers(&sent, "X-Genesys-Route").is_empty());
    assert_eq!(header(&sent, "Route"), "<sip:10.2.2.2:5072;lr>");
    // One that names a server, or a server of another site, leads where its address would.
    for (named, to) in [(OTHER, OTHER), (PEERS_SERVER, PEER)] {
        let fields = format!("X-Genesys-Route: sip:{named}\r\n");
        goes_to(&mut world, to, &request("MESSAGE", "sip:x@10.3.3.3", named, &fields));
    }
    world.end();
}

#[test]
fn a_foreign_route_goes_before_the_token_in_the_request_uri() {
    let (mut world, phone) = registered_with(&Setup { sticky: Sticky::Contact, ..setup() });
    let fields = "Route: <sip:10.2.2.2:5072;lr>\r\n";
    let text = request("MESSAGE", &phone.bound_contact, "a", fields);
    goes_to(&mut world, "10.2.2.2:5072", &text);
    assert_eq!(world.try_read(phone.wire), None);
    // Without it the phone is meant.
    world.datagram(0, SERVER, &request("MESSAGE", &phone.bound_contact, "b", ""));
    let sent = world.read(phone.wire);
    world.write(phone.wire, &answer(&sent, "200 OK", "p", ""));
    world.read_server();
    world.end();
}

#[test]
fn a_foreign_route_that_names_a_server_or_another_sites_goes_to_the_pair_or_the_peer() {
    let mut world = World::new(&setup());
    for (named, to) in [(OTHER, OTHER), (PEERS_SERVER, PEER)] {
        let fields = format!("Route: <sip:{named};lr>\r\n");
        goes_to(&mut world, to, &request("MESSAGE", "sip:x@10.3.3.3", named, &fields));
    }
    world.end();
}

#[test]
fn the_token_in_our_route_goes_before_what_stands_behind_it_and_before_the_request_uri() {
    let (mut world, phone) = registered_with(&setup());
    for (at, target) in [OTHER, PEERS_SERVER, "10.3.3.3:5060"].iter().enumerate() {
        let fields = format!("Route: {}\r\nRoute: <sip:10.2.2.2:5072;lr>\r\n", phone.path[0]);
        world.datagram(0, SERVER, &request("MESSAGE", &format!("sip:x@{target}"), &format!("t{at}"), &fields));
        let sent = world.read(phone.wire);
        assert_eq!(header(&sent, "Route"), "<sip:10.2.2.2:5072;lr>");
        world.assert_silent();
        world.write(phone.wire, &answer(&sent, "200 OK", "p", ""));
        world.read_server();
    }
    world.end();
}

#[test]
fn a_token_that_does_not_verify_is_a_flow_that_is_gone_whatever_stands_behind_it() {
    let (mut world, phone) = registered_with(&setup());
    let forged = phone.path[0].replacen(phone.path[0].as_bytes()[10] as char, "-", 1);
    assert_ne!(forged, phone.path[0]);
    for (at, behind) in ["", "Route: <sip:10.2.2.2:5072;lr>\r\n"].iter().enumerate() {
        let fields = format!("Route: {forged}\r\n{behind}");
        let answer = refused(&mut world, &request("MESSAGE", "sip:x@10.3.3.3", &format!("f{at}"), &fields));
        assert!(answer.starts_with("SIP/2.0 480"), "{answer}");
    }
    world.end();
}

#[test]
fn a_registered_contact_goes_before_pairs_peers_and_devices_in_every_mode_and_on_every_shard() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for (at, host) in [OTHER, PEERS_SERVER, "192.168.7.7:5060"].iter().enumerate() {
            let mut world = World::new(&Setup { shards: 2, sticky, ..setup() });
            let wire = world.connect(1, TLS);
            let mut phone = Phone::new(user_with_home(&world, 0), wire);
            // Its user part has another home than the phone's name.
            let user = user_with_home(&world, 1);
            phone.contact = format!("sip:{user}@{host};transport=tls");
            phone.register(&mut world, 600);
            // By its own Contact, without the Path.
            let text = request("MESSAGE", &phone.contact, &format!("r{at}"), "");
            let text =
                text.replace(&format!("To: <{}>", phone.contact), &format!("To: <sip:{}@example.com>", phone.user));
            world.datagram(0, SERVER, &text);
            let sent = world.read(wire);
            world.assert_silent();
            assert!(world.opened.is_empty(), "{:?}", world.opened);
            world.write(wire, &answer(&sent, "200 OK", "p", ""));
            assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
            // Its connection is lost: the address that it wrote is no device's, as long as the server may think so.
            world.hang_up(wire);
            world.drain();
            // Whose To is not the phone's is another pair's or site's, as their addresses say.
            let others = request("INVITE", &phone.contact, "gone", "");
            let is_a_phones = *host == "192.168.7.7:5060";
            for text in [Some(text.replace("z9hG4bKn", "z9hG4bKm")), Some(others).filter(|_| is_a_phones)] {
                let Some(text) = text else { continue };
                let answer = refused(&mut world, &text);
                assert!(answer.starts_with("SIP/2.0 480"), "{answer}");
                if text.starts_with("INVITE") {
                    let ack = text.replace("INVITE", "ACK").replace("To: <", "To: <x>;tag=1\r\nX: <");
                    let tag = header(&answer, "To").split("tag=").nth(1).expect("a tag").to_owned();
                    world.datagram(0, SERVER, &ack.replace("<x>;tag=1", &format!("<{}>;tag={tag}", phone.contact)));
                }
            }
            assert!(world.opened.is_empty(), "{:?}", world.opened);
            world.end();
        }
    }
}

#[test]
fn another_pair_goes_before_a_peer_and_a_peer_before_a_device() {
    let mut world = World::new(&setup());
    goes_to(&mut world, OTHER, &request("MESSAGE", &format!("sip:x@{OTHER}"), "a", ""));
    // Another port at the same address is no server of ours, but one of the other site.
    goes_to(&mut world, PEER, &request("MESSAGE", "sip:x@10.8.0.1:5099", "b", ""));
    goes_to(&mut world, PEER, &request("MESSAGE", &format!("sip:x@{PEERS_SERVER}:5088"), "c", ""));
    goes_to(&mut world, "10.3.3.3:5060", &request("MESSAGE", "sip:x@10.3.3.3", "d", ""));
    goes_to(&mut world, "10.3.3.3:5077", &request("MESSAGE", "sip:x@10.3.3.3:5077;transport=udp", "e", ""));
    world.end();
}

#[test]
fn a_uri_of_ours_that_nobody_has_is_no_device() {
    let mut world = World::new(&setup());
    for (at, target) in ["sip:x@example.com", "sip:x@127.0.0.1", "sip:x@127.0.0.1:5061"].iter().enumerate() {
        let answer = refused(&mut world, &request("MESSAGE", target, &format!("o{at}"), ""));
        assert!(answer.starts_with("SIP/2.0 480"), "{target}: {answer}");
    }
    world.end();
}

#[test]
fn x_genesys_route_opens_a_connection_to_a_device_and_to_no_phone() {
    for sticky in [Sticky::Path, Sticky::Aor] {
        let (mut world, phone) = registered_with(&Setup { sticky, ..setup() });
        let route = "X-Genesys-Route: sip:100.100.100.101:5061;transport=tls\r\n";
        // The phone that the request names is not there, as little as anybody at that address: it is its own.
        let mut fields: String = phone.path.iter().map(|path| format!("Route: {path}\r\n")).collect();
        fields += route;
        world.hang_up(phone.wire);
        world.drain();
        let answer = refused(&mut world, &request("MESSAGE", &phone.bound_contact, "a", &fields));
        assert!(answer.starts_with("SIP/2.0 480") || answer.starts_with("SIP/2.0 430"), "{answer}");
        assert!(world.opened.is_empty(), "{:?}", world.opened);

        world.datagram(0, SERVER, &request("MESSAGE", "sip:x@10.3.3.3", "b", route));
        let (device, to, tls) = world.dialled();
        assert_eq!(to.to_string(), "100.100.100.101:5061");
        assert!(tls.is_some());
        world.ready(device);
        let sent = world.read(device);
        world.write(device, &crate::talk::answer(&sent, "200 OK", "d", ""));
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
        world.end();
    }
}

/// RFC 3261 §16.5, RFC 3263 §4.
#[test]
fn maddr_says_where_a_uri_leads() {
    let mut world = World::new(&setup());
    let named = "sip:x@10.3.3.3:5071;maddr=10.4.4.4";
    let sent = goes_to(&mut world, "10.4.4.4:5071", &request("MESSAGE", named, "a", ""));
    assert_eq!(start_line(&sent), format!("MESSAGE {named} SIP/2.0"));
    let fields = "Route: <sip:10.2.2.2;maddr=10.4.4.4;lr>\r\n";
    goes_to(&mut world, "10.4.4.4:5060", &request("MESSAGE", "sip:x@10.3.3.3", "b", fields));
    // It may name a server, or one of another site.
    let (host, port) = OTHER.split_once(':').expect("with a port");
    goes_to(&mut world, OTHER, &request("MESSAGE", &format!("sip:x@10.3.3.3:{port};maddr={host}"), "c", ""));
    goes_to(&mut world, PEER, &request("MESSAGE", &format!("sip:x@10.3.3.3;maddr={PEERS_SERVER}"), "d", ""));
    // The certificate carries what the URI says.
    world.datagram(0, SERVER, &request("MESSAGE", "sip:x@10.3.3.3;transport=tls;maddr=10.4.4.4", "e", ""));
    let (wire, to, tls) = world.dialled();
    assert_eq!(to.to_string(), "10.4.4.4:5061");
    let expected = Expected::Address("10.3.3.3".parse().expect("an address"));
    assert_eq!(tls.expect("whom to expect").expected, expected);
    world.fail(wire, ConnectFailure::Refused);
    world.read_server();
    world.end();
}

// --- what a URI leaves open ----------------------------------------------------------------------------------------

#[test]
fn a_request_uri_without_usable_host_port_or_transport_is_told_so() {
    let mut world = World::new(&setup());
    let all = [
        ("sip:x@", "host"),
        ("sip:x@:5060", "host"),
        ("sip:x@10.0.0.256", "host"),
        ("sip:x@10.0.0", "host"),
        ("sip:x@0.0.0.0:5060", "host"),
        ("sip:x@255.255.255.255", "host"),
        ("sip:x@224.0.1.75", "host"),
        ("sip:x@[::]", "host"),
        ("sip:x@[ff02::1]", "host"),
        ("sip:x@[::ffff:127.0.0.1]", "host"),
        ("sip:x@a..b:5060", "host"),
        ("sip:x@10.3.3.3;maddr=", "host"),
        ("sip:x@10.3.3.3;maddr=0.0.0.0", "host"),
        ("sip:x@10.3.3.3:", "port"),
        ("sip:x@10.3.3.3:0", "port"),
        ("sip:x@10.3.3.3:65536", "port"),
        ("sip:x@10.3.3.3:none", "port"),
        ("sip:x@10.3.3.3;transport=", "transport"),
        ("sip:x@10.3.3.3;transport=sctp", "transport"),
        ("sips:x@10.3.3.3;transport=udp", "transport"),
    ];
    for (at, (target, word)) in all.iter().enumerate() {
        let answer = refused(&mut world, &request("MESSAGE", target, &format!("u{at}"), ""));
        let line = start_line(&answer);
        assert!(line.starts_with("SIP/2.0 400 ") && line.contains(word), "{target}: {line}");
    }
    assert!(world.opened.is_empty());
    world.end();
}

#[test]
fn a_strict_router_towards_a_device_gets_the_request_uri() {
    let mut world = World::new(&setup());
    let fields = "Route: <sip:10.2.2.2:5072>\r\nRoute: <sip:10.4.4.4;lr>\r\n";
    let sent = goes_to(&mut world, "10.2.2.2:5072", &request("MESSAGE", "sip:x@10.3.3.3", "s", fields));
    assert_eq!(start_line(&sent), "MESSAGE sip:10.2.2.2:5072 SIP/2.0");
    assert_eq!(headers(&sent, "Route"), ["<sip:10.4.4.4;lr>", "<sip:x@10.3.3.3>"]);
    world.end();
}

#[test]
fn sips_means_tls_whatever_transport_it_names_beside() {
    let all = [
        ("sips:x@10.3.3.3", "10.3.3.3:5061"),
        ("sips:x@10.3.3.3:5071", "10.3.3.3:5071"),
        ("sips:x@10.3.3.3;transport=tcp", "10.3.3.3:5061"),
        ("sip:x@10.3.3.3;transport=tls", "10.3.3.3:5061"),
    ];
    for (target, address) in all {
        let mut world = World::new(&setup());
        world.datagram(0, SERVER, &request("MESSAGE", target, "s", ""));
        let (device, to, tls) = world.dialled();
        assert_eq!(to.to_string(), address, "{target}");
        assert!(tls.is_some());
        world.ready(device);
        let sent = world.read(device);
        assert!(headers(&sent, "Via")[0].starts_with("SIP/2.0/TLS "), "{sent}");
        world.write(device, &answer(&sent, "200 OK", "d", ""));
        world.read_server();
        world.end();
    }
}

#[test]
fn a_device_over_ipv6_leaves_from_a_listener_of_its_family_and_without_one_there_is_no_way() {
    const UDP6: hawser::ids::PointId = hawser::ids::PointId(3);
    let setup = Setup {
        mutate: |settings| {
            wide(settings);
            let bind = "[2001:db8::1]:5060".parse().expect("an address");
            let v6 =
                hawser::engine::Point { bind, advertised_host: "[2001:db8::1]".into(), ..settings.points[0].clone() };
            settings.points.push(v6);
        },
        ..Setup::default()
    };
    let mut world = World::new(&setup);
    let text = request("MESSAGE", "sip:x@[2001:DB8::9]:5077", "v6", "");
    world.datagram(0, SERVER, &text);
    let sent = world.read_udp("[2001:db8::9]:5077");
    assert!(headers(&sent, "Via")[0].starts_with("SIP/2.0/UDP [2001:db8::1]:5060;"), "{sent}");
    let ok = answer(&sent, "200 OK", "d", "");
    let from = "[2001:db8::9]:5077".parse().expect("an address");
    world.input(1, Input::Datagram { point: UDP6, from, bytes: ok.as_bytes(), waited: Duration::ZERO });
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.end();

    let mut world = World::new(&self::setup());
    let answer = refused(&mut world, &text);
    assert_eq!(start_line(&answer), "SIP/2.0 503 No Target Left");
    assert!(headers(&answer, "Retry-After").is_empty(), "it would cut this proxy off");
    world.end();
}

// --- names ---------------------------------------------------------------------------------------------------------

#[test]
fn names_in_request_uri_and_route_are_resolved_and_their_answers_kept() {
    let mut world = World::new(&setup());
    world.resolver.set_zone(&[
        "gw.test NAPTR SIP+D2U _sip._udp.gw.test",
        "_sip._udp.gw.test SRV 1 1 5075 a.gw.test",
        "a.gw.test A 10.3.3.3",
        "plain.test A 10.4.4.4",
    ]);
    goes_to(&mut world, "10.3.3.3:5075", &request("MESSAGE", "sip:x@GW.test.", "a", ""));
    let asked = world.resolver.asked.len();
    goes_to(&mut world, "10.3.3.3:5075", &request("MESSAGE", "sip:x@gw.test", "b", ""));
    assert_eq!(world.resolver.asked.len(), asked, "{:?}", world.resolver.asked);
    goes_to(&mut world, "10.4.4.4:5099", &request("MESSAGE", "sip:x@plain.test:5099", "c", ""));
    let fields = "Route: <sip:gw.test;lr>\r\n";
    goes_to(&mut world, "10.3.3.3:5075", &request("MESSAGE", "sip:x@nowhere.test", "d", fields));
    assert!(!world.resolver.asked.iter().any(|asked| asked.contains("nowhere")));
    world.end();
}

#[test]
fn a_name_that_is_ours_a_servers_or_another_sites_leads_where_its_address_would() {
    let mut world = World::new(&setup());
    world.resolver.set_zone(&[
        "us.test A 127.0.0.1",
        "sips2.test A 10.8.0.1",
        "far.test A 10.9.9.9",
        "odd.test A 0.0.0.0",
    ]);
    goes_to(&mut world, OTHER, &request("MESSAGE", "sip:x@sips2.test:5070", "a", ""));
    goes_to(&mut world, PEER, &request("MESSAGE", "sip:x@far.test:5060", "b", ""));
    let answer = refused(&mut world, &request("MESSAGE", "sip:x@us.test:5060", "c", ""));
    assert_eq!(start_line(&answer), "SIP/2.0 480 Not Registered Here");
    let answer = refused(&mut world, &request("MESSAGE", "sip:x@odd.test:5060", "d", ""));
    assert_eq!(start_line(&answer), "SIP/2.0 503 No Target Left");
    world.end();
}

#[test]
fn a_name_that_does_not_exist_is_503_at_once_and_an_unanswered_one_in_time() {
    let mut world = World::new(&setup());
    let answer = refused(&mut world, &request("MESSAGE", "sip:x@nowhere.test", "a", ""));
    assert_eq!(start_line(&answer), "SIP/2.0 503 No Such Name");
    assert!(headers(&answer, "Retry-After").is_empty(), "the server would stay away from all phones here");
    assert_eq!(world.counted(Counter::Refused503NoSuchName), 1);

    world.resolver.silent = true;
    world.datagram(0, SERVER, &request("INVITE", "sip:x@quiet.test", "b", ""));
    world.assert_silent();
    world.pass_ms(200);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 100 Trying");
    world.pass_s(6);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 503 Name Not Resolved");
    world.drain();
    // It is cancelled while the name is asked for.
    world.datagram(0, SERVER, &request("INVITE", "sip:x@quiet2.test", "c", ""));
    world.datagram(1, SERVER, &request("CANCEL", "sip:x@quiet2.test", "c", "").replace("nCANCEL", "nINVITE"));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 487 Request Terminated");
    world.drain();
    world.end();

    let mut world = World::new(&Setup::default());
    let answer = refused(&mut world, &request("MESSAGE", "sip:x@gw.test", "d", ""));
    assert_eq!(start_line(&answer), "SIP/2.0 503 Name Not Resolved", "there is no resolver to wait for");
    world.end();
}

/// Three targets of one name, in this order, over a transport.
fn three(transport: &str) -> World {
    let mut world = World::new(&setup());
    let service = if transport == "tls" { "_sips._tcp" } else { &format!("_sip._{transport}") };
    let srv = |n: u8| format!("{service}.gw.test SRV {n} 1 5061 h{n}.test");
    let a = |n: u8| format!("h{n}.test A 10.3.3.{n}");
    let zone: Vec<String> = (1..4).flat_map(|n| [srv(n), a(n)]).collect();
    world.resolver.set_zone(&zone.iter().map(String::as_str).collect::<Vec<_>>());
    world
}

#[test]
fn of_several_targets_the_next_is_tried_when_one_refuses_says_503_or_is_silent() {
    let mut world = three("udp");
    world.datagram(0, SERVER, &request("INVITE", "sip:x@gw.test;transport=udp", "a", ""));
    let first = world.read_udp("10.3.3.1:5061");
    world.datagram(1, "10.3.3.1:5061", &answer(&first, "503 Busy", "d", ""));
    assert!(world.read_udp("10.3.3.1:5061").starts_with("ACK "));
    let second = world.read_udp("10.3.3.2:5061");
    assert_ne!(headers(&first, "Via")[0], headers(&second, "Via")[0]);
    // The system tells any of the sockets that share the port.
    let other = u8::from(world.engines[0].in_flight() > 0);
    world.input(other, Input::Unreachable { to: "10.3.3.2:5061".parse().expect("one") });
    let third = world.read_udp("10.3.3.3:5061");
    assert_eq!(headers(&third, "Record-Route").len(), 1, "{third}");
    // Nobody is left: an endpoint's 503 is the server's 500.
    world.datagram(0, "10.3.3.3:5061", &answer(&third, "503 Busy", "d", ""));
    assert!(world.read_udp("10.3.3.3:5061").starts_with("ACK "));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 500 Server Internal Error");
    world.drain();

    // Which one did not answer comes last from now on.
    world.datagram(0, SERVER, &request("INVITE", "sip:x@gw.test;transport=udp", "b", ""));
    let first = world.read_udp("10.3.3.1:5061");
    world.pass_s(33);
    world.drain();
    world.datagram(0, SERVER, &request("MESSAGE", "sip:x@gw.test;transport=udp", "c", ""));
    let sent = world.read_udp("10.3.3.2:5061");
    world.datagram(0, "10.3.3.2:5061", &answer(&sent, "200 OK", "d", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    // What it says after all is acknowledged, and changes nothing.
    world.datagram(0, "10.3.3.1:5061", &answer(&first, "486 Busy Here", "d", ""));
    assert!(world.read_udp("10.3.3.1:5061").starts_with("ACK "));
    world.assert_silent();
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn over_tls_a_target_that_refuses_or_shows_a_bad_certificate_gives_way_to_the_next() {
    let mut world = three("tls");
    world.datagram(0, SERVER, &request("INVITE", "sip:x@gw.test;transport=tls", "a", ""));
    for n in 1..4 {
        let (wire, to, tls) = world.dialled();
        assert_eq!(to.to_string(), format!("10.3.3.{n}:5061"));
        let tls = tls.expect("whom to expect");
        assert_eq!(format!("{:?}", tls.expected), "Name(\"gw.test\")", "never an SRV target");
        world.fail(wire, if n == 3 { ConnectFailure::Tls } else { ConnectFailure::Refused });
    }
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 502 Certificate Refused");
    world.drain();
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn what_the_system_says_of_a_udp_device_is_heard_though_it_is_quicker_than_the_mail_and_of_a_phone_by_nobody() {
    let mut world = World::new(&Setup { shards: 2, ..setup() });
    let to = "10.3.3.3:5077".parse().expect("an address");
    world.hold_mail = true;
    // Whoever is nobody's target costs no mail.
    world.input(0, Input::Unreachable { to: "10.0.0.9:5060".parse().expect("an address") });
    assert_eq!(world.mails(), 0);
    let home = u8::from(Keys::new(&[7; 32]).user16(b"x") % 2 == 1);
    world.datagram(home, SERVER, &request("MESSAGE", &format!("sip:x@{to}"), "a", ""));
    world.read_udp("10.3.3.3:5077");
    world.input(1 - home, Input::Unreachable { to });
    world.assert_silent();
    while world.mails() > 0 {
        world.deliver_mail(0, false);
    }
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 503 No Target Left");
    world.hold_mail = false;
    world.end();
}

// --- endpoints -------------------------------------------------------------------------------------------------------

/// What an endpoint asks for goes to the server or nowhere.
fn asks(world: &mut World, text: &str, wire: crate::world::Wire) {
    let opened = world.opened.len();
    world.write(wire, text);
    let sent = world.drain();
    assert!(!sent.is_empty(), "no answer: {text}");
    for one in sent {
        match one {
            Sent::Datagram { to, text: sent } => {
                assert_eq!(to.to_string(), SERVER, "{text} went as {sent}");
                world.datagram(0, SERVER, &answer(&sent, "404 Not Found", "s", ""));
            }
            Sent::Stream { wire: to, text: sent } => {
                assert_eq!(to, wire, "{text} went as {sent}");
                assert!(sent.starts_with("SIP/2.0 403") || sent.starts_with("SIP/2.0 4"), "{text}: {sent}");
            }
        }
    }
    world.drain();
    assert_eq!(world.opened.len(), opened, "{text}");
    // The engines look up what the settings hold, and nothing else.
    let asked = world.resolver.asked.iter().find(|asked| !asked.ends_with("example.com"));
    assert_eq!(asked, None, "{text}");
}

#[test]
fn nothing_of_it_is_an_endpoints_to_choose() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        let (mut world, victim) = registered_with(&Setup { sticky, ..setup() });
        let (_, callee) = answered(&mut world, &victim, "dialog");
        let evil = world.connect(0, TLS);
        let path = victim.path.first().cloned().unwrap_or_else(|| "<sip:junk@127.0.0.1:5060;lr>".into());
        let record_route = callee.routes[0].clone();
        let targets = [
            "sip:x@gw.test",
            "sip:x@10.3.3.3",
            "sip:x@10.3.3.3:5061;transport=tls",
            &format!("sip:x@{OTHER}"),
            &format!("sip:x@{PEERS_SERVER}"),
            &victim.contact,
            &victim.bound_contact,
            &format!("sip:{}@example.com", victim.user),
        ];
        let fields = [
            String::new(),
            "X-Genesys-Route: sip:10.3.3.3:5060\r\n".into(),
            "Route: <sip:gw.test;lr>\r\n".into(),
            "Route: <sip:10.3.3.3;lr>\r\n".into(),
            format!("Route: <sip:{PEERS_SERVER};lr>\r\n"),
            "Route: <sip:127.0.0.1:5060;lr>\r\nRoute: <sip:gw.test;lr>\r\n".into(),
            format!("Route: <sip:example.com;lr>\r\nRoute: {path}\r\n"),
            format!("Route: {path}\r\n"),
            format!("Route: {path}\r\nRoute: {path}\r\n"),
            format!("Route: {path}\r\nRoute: <sip:gw.test;lr>\r\n"),
            format!("Route: {record_route}\r\n"),
            format!("Route: {path}\r\nRoute: {record_route}\r\n"),
            format!("Route: <sip:127.0.0.1:5060;lr>\r\nRoute: {path}\r\nRoute: {record_route}\r\n"),
        ];
        let mut count = 0;
        for target in targets {
            for fields in &fields {
                // Of no dialog, and with the Call-ID of one that has a Record-Route.
                for call in [&format!("x{count}"), "dialog"] {
                    count += 1;
                    let text = request("INVITE", target, call, fields)
                        .replace("SIP/2.0/UDP", "SIP/2.0/TLS")
                        .replace("z9hG4bKn", &format!("z9hG4bK{count}e"));
                    asks(&mut world, &text, evil);
                    assert_eq!(world.try_read(victim.wire), None, "{text}");
                }
            }
        }
        world.pass(Duration::from_secs(40));
        world.drain();
        world.end();
    }
}

#[test]
fn an_invite_that_is_cancelled_while_it_is_sought_by_its_address_is_answered_once() {
    let mut world = World::new(&Setup { shards: 3, mutate: wide, ..Setup::default() });
    let wire = world.connect_from(1, TLS, "192.0.2.7:40001".parse().expect("one"));
    let named = "X-Genesys-Route: <sip:192.0.2.7:40001;transport=tls>\r\n";
    let user = user_with_home(&world, 0);
    let text = request("INVITE", &format!("sip:{user}@192.0.2.7"), "c1", named);
    world.hold_mail = true;
    world.datagram(0, SERVER, &text);
    while world.mails() > 0 && world.mail_in_words(0).contains("Message") {
        world.deliver_mail(0, false);
    }
    world.datagram(0, SERVER, &cancel(&text));
    while world.mails() > 0 {
        world.deliver_mail(0, false);
    }
    world.hold_mail = false;
    world.settle();
    world.expect_server("SIP/2.0 200");
    world.expect_server("SIP/2.0 487");
    assert_eq!(world.try_read(wire), None);
    let ack = text.replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK");
    world.datagram(0, SERVER, &ack);
    world.pass_s(10);
    world.assert_silent();
    world.end();
}
