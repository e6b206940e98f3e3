//! Several listeners, each for one side and with its own name: what leaves by which, whose names are ours, and who
//! has no business where.

use std::net::SocketAddr;

use hawser::config::{Host, PeerProxy, Verify};
use hawser::engine::{Input, Point, Settings};
use hawser::ids::{PointId, Side, Transport};
use hawser::stats::Counter;
use hawser::tls::identity::Identities;

use crate::calls::{answered, registered_with};
use crate::registration::user_with_home;
use crate::talk::{Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TLS, UDP, World};

/// The phones' UDP listener.
const PHONES_UDP: PointId = PointId(1);
/// The phones' second TLS listener.
const PHONES_TLS_B: PointId = PointId(3);
/// Their UDP listener over IPv6.
const PHONES_UDP_V6: PointId = PointId(5);
/// The server side's TCP listener.
const INSIDE_TCP: PointId = PointId(4);
/// Its TLS listener.
const INSIDE_TLS: PointId = PointId(6);

fn point(transport: Transport, bind: &str, advertised: &str, side: Side) -> Point {
    let bind: SocketAddr = bind.parse().expect("an address");
    Point { transport, bind, advertised_host: advertised.into(), advertised_port: bind.port(), side: Some(side) }
}

fn two_sides(settings: &mut Settings) {
    settings.points = vec![
        point(Transport::Udp, "192.168.0.1:5060", "Inside.example.net", Side::Server),
        point(Transport::Udp, "10.1.0.1:5060", "10.1.0.1", Side::Endpoint),
        point(Transport::Tls, "10.1.0.1:5061", "phones.example.net", Side::Endpoint),
        point(Transport::Tls, "[2001:db8::1]:5062", "[2001:db8::5]", Side::Endpoint),
        point(Transport::Tcp, "192.168.0.1:5060", "Inside.example.net", Side::Server),
        point(Transport::Udp, "[2001:db8::1]:5060", "[2001:db8::5]", Side::Endpoint),
        point(Transport::Tls, "192.168.0.1:5061", "Inside.example.net", Side::Server),
    ];
}

fn two_sides_and_two_sites(settings: &mut Settings) {
    two_sides(settings);
    let peer = |name: &str, contact: &str, protocol| PeerProxy {
        name: name.to_owned(),
        servers: vec!["10.8.9.9".parse().expect("an address")],
        contact: Host::Ip(contact.parse().expect("an address")),
        protocol,
        port_tls: None,
        tls_name: Some(Host::Name(format!("{name}.example.net"))),
        verify: Verify::Name,
        setup: None,
    };
    settings.peers = vec![peer("site2", "10.8.0.2", Transport::Udp), peer("site3", "10.8.0.3", Transport::Tls)];
}

fn setup() -> Setup {
    Setup { mutate: two_sides, ..Setup::default() }
}

#[test]
fn via_path_and_record_route_are_of_the_listener_that_each_message_leaves_from() {
    let (mut world, phone) = registered_with(&setup());
    assert!(phone.path[0].contains("@Inside.example.net:5060;lr"), "{}", phone.path[0]);
    let (_, invite) = phone.asked(&mut world, "INVITE", "c0");
    let via = headers(&invite, "Via")[0];
    assert!(via.starts_with("SIP/2.0/TLS phones.example.net:5061;branch="), "{via}");
    let routes = headers(&invite, "Record-Route");
    assert!(uri(routes[0]).ends_with("@phones.example.net:5061;transport=tls;lr"), "{}", routes[0]);
    assert!(uri(routes[1]).ends_with("@Inside.example.net:5060;lr"), "{}", routes[1]);
    assert_eq!(routes.len(), 2);
    world.write(phone.wire, &answer(&invite, "486 Busy Here", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 486 Busy Here");
    world.read(phone.wire);
    world.drain();

    let (mut server, mut callee) = answered(&mut world, &phone, "c1");
    let bye = callee.request("INFO", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &bye);
    let info = world.read_server();
    let via = headers(&info, "Via")[0];
    assert!(via.starts_with("SIP/2.0/UDP Inside.example.net:5060;branch="), "{via}");
    assert!(headers(&info, "Route").is_empty(), "{info}");
    world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
    assert_eq!(start_line(&world.read(phone.wire)), "SIP/2.0 200 OK");
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(1, SERVER, &bye);
    let bye = world.read(phone.wire);
    assert!(headers(&bye, "Route").is_empty(), "{bye}");
    world.write(phone.wire, &answer(&bye, "200 OK", "", ""));
    world.read_server();
    world.assert_silent();
    world.end();
}

#[test]
fn a_second_listener_of_a_side_writes_its_own_ipv6_address() {
    let mut world = World::new(&setup());
    let wire = world.connect_from(1, PHONES_TLS_B, "[2001:db8::77]:40100".parse().expect("an address"));
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    let ok = phone.register(&mut world, 3_600);
    // RFC 3261 §25.1 has no brackets in this parameter.
    assert!(header(&ok, "Via").contains(";rport=40100;received=2001:db8::77"), "{ok}");
    let (_, mut callee) = answered(&mut world, &phone, "c1");
    assert!(callee.routes[0].contains("@[2001:db8::5]:5062;transport=tls;lr"), "{:?}", callee.routes);
    let info = callee.request("INFO", "TLS [2001:db8::77]:5061");
    world.write(phone.wire, &info);
    let info = world.read_server();
    assert!(headers(&info, "Route").is_empty(), "{info}");
    assert!(headers(&info, "Via")[1].contains("[2001:db8::77]:5061"), "{info}");
    world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
    assert_eq!(start_line(&world.read(phone.wire)), "SIP/2.0 200 OK");

    // The server names the connection by its peer, or an address over UDP.
    for (route, call) in [("sip:[2001:db8::77]:40100;transport=tls", "g1"), ("<sip:[2001:DB8::9]:5099>", "g2")] {
        let message = phone.server_request("MESSAGE", call, 1);
        let message =
            message.replace(&format!("Route: {}\r\n", phone.path[0]), &format!("X-Genesys-Route: {route}\r\n"));
        world.datagram(0, SERVER, &message);
        let sent = if call == "g1" { world.read(phone.wire) } else { world.read_udp("[2001:db8::9]:5099") };
        let ok = answer(&sent, "200 OK", "p", "");
        match call {
            "g1" => world.write(phone.wire, &ok),
            _ => {
                assert!(headers(&sent, "Via")[0].starts_with("SIP/2.0/UDP [2001:db8::5]:5060;"), "{sent}");
                let from = "[2001:db8::9]:5099".parse().expect("an address");
                world.input(
                    0,
                    Input::Datagram {
                        point: PHONES_UDP_V6,
                        from,
                        bytes: ok.as_bytes(),
                        waited: std::time::Duration::ZERO,
                    },
                );
            }
        }
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    }
    world.end();
}

#[test]
fn a_phone_over_udp_and_ipv6_is_called_where_its_datagrams_come_from() {
    let mut world = World::new(&setup());
    let from: SocketAddr = "[2001:db8::99]:5077".parse().expect("an address");
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    (phone.via, phone.contact) = ("UDP", format!("sip:{}@[2001:db8::99]:5077", phone.user));
    let register = phone.register_text(3_600).replace("192.0.2.7:5060", "[2001:db8::99]:5060");
    world.input(
        1,
        Input::Datagram { point: PHONES_UDP_V6, from, bytes: register.as_bytes(), waited: std::time::Duration::ZERO },
    );
    phone.accept_register(&mut world, 3_600);
    let ok = world.read_udp("[2001:db8::99]:5077");
    assert!(header(&ok, "Via").contains(";rport=5077;received=2001:db8::99"), "{ok}");
    let invite = phone.server_request("INVITE", "c1", 1);
    world.datagram(0, SERVER, &invite);
    let invite = world.read_udp("[2001:db8::99]:5077");
    assert!(headers(&invite, "Via")[0].starts_with("SIP/2.0/UDP [2001:db8::5]:5060;"), "{invite}");
    assert!(uri(headers(&invite, "Record-Route")[0]).ends_with("@[2001:db8::5]:5060;lr"), "{invite}");
    let busy = answer(&invite, "486 Busy Here", "p", "");
    world.input(
        1,
        Input::Datagram { point: PHONES_UDP_V6, from, bytes: busy.as_bytes(), waited: std::time::Duration::ZERO },
    );
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 486 Busy Here");
    world.drain();
    world.end();
}

/// A request of an endpoint without a dialog.
fn message(to: &str, call_id: &str, route: &str) -> String {
    format!(
        "MESSAGE {to} SIP/2.0\r\nVia: SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bK{call_id};rport\r\n{route}\
         Max-Forwards: 70\r\nFrom: <sip:eve@example.com>;tag=e\r\nTo: <{to}>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 MESSAGE\r\nUser-Agent: somebody whose request is longer than its answer\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn who_is_no_server_is_refused_at_a_listener_of_the_server_side() {
    let mut world = World::new(&setup());
    let request = message("sip:9000@example.com", "w1", "");
    world.datagram(0, "10.9.9.9:5060", &request);
    assert_eq!(start_line(&world.read_udp("10.9.9.9:5060")), "SIP/2.0 403 Wrong Listener");
    let wire = world.connect(1, INSIDE_TCP);
    world.write(wire, &request.replace("SIP/2.0/UDP", "SIP/2.0/TCP"));
    assert_eq!(start_line(&world.read(wire)), "SIP/2.0 403 Wrong Listener");
    world.write(wire, &request.replace("MESSAGE", "ACK"));
    assert_eq!(world.counted(Counter::Refused403WrongListener), 2);
    assert_eq!(world.counted(Counter::AckRefused), 1);
    world.assert_silent();
    world.end();
    // The server itself, whose connection shows who it is by its first Via, where that is the transport of its pair.
    for (internal, status) in [(Transport::Tcp, "200 OK"), (Transport::Udp, "403 Wrong Listener")] {
        let mut world = World::new(&Setup { internal, ..setup() });
        let wire = world.connect_from(0, INSIDE_TCP, "127.0.0.1:40200".parse().expect("an address"));
        let check = message("sip:inside.example.net", "w2", "").replace("MESSAGE", "OPTIONS");
        world.write(wire, &check.replace("SIP/2.0/UDP 10.9.9.9:5060", &format!("SIP/2.0/TCP {SERVER}")));
        assert_eq!(start_line(&world.read(wire)), format!("SIP/2.0 {status}"));
        world.end();
    }
}

#[test]
fn the_proxies_of_other_sites_are_heard_at_a_listener_of_the_server_side() {
    let mut world = World::new(&Setup { mutate: two_sides_and_two_sites, ..Setup::default() });
    world.datagram(0, "10.8.0.2:5060", &message("sip:9000@example.com", "s1", ""));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    assert_eq!(start_line(&world.read_udp("10.8.0.2:5060")), "SIP/2.0 200 OK");
    // By its certificate, from whichever address it comes.
    for (at, (name, served)) in [("site3.example.net", true), ("site4.example.net", false)].iter().enumerate() {
        let mut identities = Identities::default();
        identities.add_dns(name);
        let from = SocketAddr::from(([10, 8, 7, 7], 40_300));
        let wire = world.connect_mutual(1, INSIDE_TLS, from, identities);
        world.write(wire, &message("sip:9000@example.com", &format!("t{at}"), "").replace("2.0/UDP", "2.0/TLS"));
        if *served {
            let sent = world.read_server();
            world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
            assert_eq!(start_line(&world.read(wire)), "SIP/2.0 200 OK");
            world.hang_up(wire);
        } else {
            assert_eq!(start_line(&world.read(wire)), "SIP/2.0 403 Wrong Listener");
        }
    }
    world.assert_silent();
    world.end();
}

#[test]
fn at_a_listener_of_the_endpoint_side_nobody_counts_as_a_server() {
    let (mut world, phone) = registered_with(&setup());
    let from = SERVER.parse().expect("an address");
    let invite = phone.server_request("INVITE", "c1", 1);
    // Whoever can send from the server's address to the phones' listener rings nobody past the server.
    world.input(
        0,
        Input::Datagram { point: PHONES_UDP, from, bytes: invite.as_bytes(), waited: std::time::Duration::ZERO },
    );
    assert_eq!(world.try_read(phone.wire), None);
    let sent = world.read_server();
    assert!(start_line(&sent).starts_with("INVITE "), "an endpoint's request goes to the server: {sent}");
    world.datagram(0, SERVER, &answer(&sent, "486 Busy Here", "s", ""));
    world.drain();
    world.end();
}

#[test]
fn the_names_of_every_listener_are_ours_and_no_others() {
    let mut world = World::new(&setup());
    let ours = [
        "phones.example.net:5061;transport=tls",
        "PHONES.example.net;transport=tls",
        "[2001:db8::5]:5062;transport=tls",
        "[2001:DB8:0::5]:5062",
        "10.1.0.1",
        "10.1.0.1:5061;transport=tls",
        "inside.example.net",
        "192.168.0.1:5060",
    ];
    for (at, host) in ours.iter().enumerate() {
        let wire = world.connect(0, TLS);
        let route = format!("Route: <sip:{host};lr>\r\n");
        world.write(wire, &message("sip:9000@example.com", &format!("o{at}"), &route));
        let sent = world.read_server();
        assert!(headers(&sent, "Route").is_empty(), "{host}: {sent}");
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        assert_eq!(start_line(&world.read(wire)), "SIP/2.0 200 OK");
        let check = message(&format!("sip:{host}"), &format!("p{at}"), "").replace("MESSAGE", "OPTIONS");
        world.write(wire, &check);
        assert_eq!(start_line(&world.read(wire)), "SIP/2.0 200 OK", "{host}");
    }
    for (at, host) in ["phones.example.net:5060", "[2001:db8::6]:5062", "other.example.net:5061"].iter().enumerate() {
        let wire = world.connect(0, TLS);
        let route = format!("Route: <sip:{host};lr>\r\n");
        world.write(wire, &message("sip:9000@example.com", &format!("n{at}"), &route));
        assert!(start_line(&world.read(wire)).starts_with("SIP/2.0 403"), "{host}");
    }
    world.assert_silent();
    world.end();
}

#[test]
fn a_udp_phone_and_a_udp_server_at_two_listeners_get_two_values() {
    let mut world = World::new(&setup());
    let from = "10.9.9.9:5060".parse().expect("an address");
    let invite = message("sip:9000@example.com", "u1", "").replace("MESSAGE", "INVITE");
    let invite = invite.replace("Content-Length", "Contact: <sip:eve@10.9.9.9:5060>\r\nContent-Length");
    world.input(
        1,
        Input::Datagram { point: PHONES_UDP, from, bytes: invite.as_bytes(), waited: std::time::Duration::ZERO },
    );
    let sent = world.read_server();
    let routes = headers(&sent, "Record-Route");
    assert_eq!(routes.len(), 2, "{sent}");
    assert!(uri(routes[0]).ends_with("@Inside.example.net:5060;lr"), "{}", routes[0]);
    assert!(uri(routes[1]).ends_with("@10.1.0.1:5060;lr"), "{}", routes[1]);
    let input = answer(&sent, "486 Busy Here", "s", "");
    world.input(
        0,
        Input::Datagram {
            point: UDP,
            from: SERVER.parse().expect("an address"),
            bytes: input.as_bytes(),
            waited: std::time::Duration::ZERO,
        },
    );
    assert_eq!(start_line(&world.read_server()).split(' ').next(), Some("ACK"));
    assert_eq!(start_line(&world.read_udp("10.9.9.9:5060")), "SIP/2.0 486 Busy Here");
    world.drain();
    world.end();
}
