//! Other sites (DESIGN.md, Multi-site): how their proxies are reached and told, and that what they ask goes to the
//! active SIP Server and never past it to a phone.

use std::net::SocketAddr;

use hawser::config::{Host, PeerProxy, PeerSetup, Verify};
use hawser::engine::{ConnectFailure, Expected, Input, Point, Settings, Sticky};
use hawser::ids::{PointId, SetupId, Side, Transport};
use hawser::stats::Counter;
use hawser::tls::identity::Identities;

use crate::calls::{answered, registered_with};
use crate::next_hop::request;
use crate::resolver::RESOLVER;
use crate::talk::{Dialog, Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TCP, TLS, Wire, World};

/// A server of the other site, and its proxy's address.
const FAR: &str = "10.9.9.9";
const PEER: [u8; 4] = [10, 9, 0, 1];

pub fn site(settings: &mut Settings, contact: &str, protocol: Transport, port_tls: Option<u16>) {
    settings.peers.push(PeerProxy {
        name: "site2".into(),
        servers: vec![FAR.parse().expect("an address")],
        contact: Host::parse(contact).expect("a host"),
        protocol,
        port_tls,
        tls_name: None,
        verify: Verify::Name,
        setup: None,
    });
    settings.dns.resolvers = vec![RESOLVER.parse().expect("an address")];
    settings.unregistered_per_source_max = 2;
}

fn by(transport: Transport) -> Setup {
    let mutate: fn(&mut Settings) = match transport {
        Transport::Udp => |settings| site(settings, "10.9.0.1", Transport::Udp, None),
        Transport::Tcp => |settings| site(settings, "10.9.0.1", Transport::Tcp, None),
        Transport::Tls => |settings| site(settings, "10.9.0.1", Transport::Tls, Some(5071)),
    };
    Setup { mutate, ..Setup::default() }
}

fn by_name() -> Setup {
    Setup { mutate: |settings| site(settings, "proxy.site2.test", Transport::Tls, None), ..Setup::default() }
}

/// A request of a server of the other site, as its proxy sends it on to ours.
fn from_far(method: &str, target: &str, call: &str, via: &str, fields: &str) -> String {
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{via};branch=z9hG4bKp{method}{call}\r\n\
         Via: SIP/2.0/UDP {FAR};branch=z9hG4bKq{call}\r\nMax-Forwards: 69\r\n{fields}\
         From: <sip:far@site2.test>;tag=f1\r\nTo: <{target}>\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:{FAR}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A connection of the peer's own, from any port of its address, which its first Via tells.
fn own_connection(world: &mut World, shard: u8, port: u16) -> Wire {
    world.connect_from(shard, TLS, SocketAddr::from((PEER, port)))
}

/// The server hears a request of the peer, and answers it.
fn server_answers(world: &mut World, status: &str, extra: &str) -> String {
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, status, "s", extra));
    sent
}

#[test]
fn what_is_for_the_other_site_goes_to_its_proxy_over_its_protocol_and_port() {
    for (transport, port) in [(Transport::Udp, 5060), (Transport::Tcp, 5060), (Transport::Tls, 5071)] {
        let mut world = World::new(&by(transport));
        let expected = SocketAddr::from((PEER, port));
        // Whatever transport the Request-URI names: it says how the far server is reached, which is the peer's to do.
        let target = format!("sip:x@{FAR}:5060;transport=udp");
        world.datagram(0, SERVER, &request("MESSAGE", &target, "a", ""));
        if transport == Transport::Udp {
            let sent = world.read_udp(&expected.to_string());
            assert_eq!(start_line(&sent), format!("MESSAGE {target} SIP/2.0"));
            world.datagram(1, &expected.to_string(), &answer(&sent, "200 OK", "f", ""));
        } else {
            let (wire, to, tls) = world.dialled();
            assert_eq!(to, expected);
            assert_eq!(
                tls.map(|tls| (tls.side, tls.expected)),
                match transport {
                    Transport::Tls => Some((Side::Endpoint, Expected::Address(expected.ip()))),
                    _ => None,
                }
            );
            world.ready(wire);
            let sent = world.read(wire);
            world.write(wire, &answer(&sent, "200 OK", "f", ""));
        }
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
        world.end();
    }
}

#[test]
fn an_operator_sees_that_a_peer_over_udp_is_gone_and_that_it_is_back() {
    let mut world = World::new(&Setup { shards: 2, ..by(Transport::Udp) });
    let seen = |world: &World| -> Vec<_> {
        let rows = world.engines.iter().flat_map(|engine| engine.upstreams(world.now).peers);
        rows.map(|peer| (peer.name, peer.up, peer.why)).collect()
    };
    let unknown = ("site2".to_owned(), None, String::new());
    assert_eq!(seen(&world), [unknown.clone(), unknown]);
    let proxy = SocketAddr::from((PEER, 5060));
    world.datagram(0, SERVER, &request("MESSAGE", &format!("sip:x@{FAR}"), "a", ""));
    world.read_udp(&proxy.to_string());
    for shard in 0..2 {
        world.input(shard, Input::Unreachable { to: proxy });
    }
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 503 No Target Left");
    let gone = ("site2".to_owned(), Some(false), "refused".to_owned());
    assert_eq!(seen(&world), [gone.clone(), gone.clone()]);
    world.pass_s(60);
    assert_eq!(seen(&world), [gone.clone(), gone], "it was not wanted since");
    for shard in 0..2 {
        let far = from_far("MESSAGE", "sip:near@example.com", &format!("n{shard}"), "UDP 10.9.0.1", "");
        world.datagram(shard, &proxy.to_string(), &far);
        server_answers(&mut world, "200 OK", "");
        world.read_udp(&proxy.to_string());
    }
    let back = ("site2".to_owned(), Some(true), String::new());
    assert_eq!(seen(&world), [back.clone(), back]);
    world.end();
}

#[test]
fn a_peer_by_name_is_found_by_srv_and_its_targets_are_tried_in_turn() {
    let mut world = World::new(&by_name());
    let target = format!("sip:x@{FAR}");
    // Its name does not resolve yet.
    world.datagram(0, SERVER, &request("MESSAGE", &target, "a", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 503 No Target Left");
    let shown = |world: &World| world.engines[0].upstreams(world.now).peers.remove(0);
    assert_eq!(
        (shown(&world).up, shown(&world).why.as_str()),
        (Some(false), "its name does not resolve: does not exist")
    );
    world.resolver.set_zone(&[
        "_sips._tls.proxy.site2.test SRV 1 1 5071 a.site2.test",
        "_sips._tcp.proxy.site2.test SRV 2 1 5072 b.site2.test",
        "a.site2.test A 10.9.0.1",
        "b.site2.test A 10.9.0.2",
    ]);
    world.pass_s(310);
    world.datagram(1, SERVER, &request("INVITE", &target, "b", ""));
    for (to, failure) in [("10.9.0.1:5071", Some(ConnectFailure::Refused)), ("10.9.0.2:5072", None)] {
        let (wire, address, tls) = world.dialled();
        assert_eq!(address.to_string(), to);
        assert_eq!(tls.map(|tls| tls.expected), Some(Expected::Name("proxy.site2.test".into())), "never an SRV target");
        match failure {
            Some(failure) => world.fail(wire, failure),
            None => {
                world.ready(wire);
                let sent = world.read(wire);
                // Its 503 says nothing of this proxy: 500.
                world.write(wire, &answer(&sent, "503 Service Unavailable", "f", ""));
                world.expect(wire, "ACK ");
            }
        }
    }
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 500 Server Internal Error");
    world.drain();
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn a_peers_503_goes_to_the_next_target_and_a_bad_certificate_is_502() {
    let mut world = World::new(&by_name());
    world.resolver.set_zone(&[
        "_sips._tcp.proxy.site2.test SRV 1 1 5071 a.site2.test",
        "_sips._tcp.proxy.site2.test SRV 2 1 5072 a.site2.test",
        "a.site2.test A 10.9.0.1",
    ]);
    world.pass_s(310);
    let target = format!("sip:x@{FAR}");
    world.datagram(0, SERVER, &request("INVITE", &target, "a", ""));
    let (first, _, _) = world.dialled();
    world.ready(first);
    let sent = world.read(first);
    world.write(first, &answer(&sent, "503 Service Unavailable", "f", ""));
    world.expect(first, "ACK ");
    let (second, to, _) = world.dialled();
    assert_eq!(to.port(), 5072);
    world.ready(second);
    let sent = world.read(second);
    world.write(second, &answer(&sent, "486 Busy Here", "f", ""));
    world.expect(second, "ACK ");
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 486 Busy Here");
    world.drain();
    world.pass_s(60);
    world.drain();
    world.end();

    let mut world = World::new(&by(Transport::Tls));
    for call in ["a", "b"] {
        world.datagram(0, SERVER, &request("MESSAGE", &target, call, ""));
        if call == "a" {
            let (wire, _, _) = world.dialled();
            world.fail(wire, ConnectFailure::Tls);
        }
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 502 Certificate Refused");
    }
    assert!(world.opened.is_empty(), "it rests");
    world.end();
}

/// Whether who has sent a request is taken for another site's proxy: an X-Genesys-Route in its answers is believed, and
/// passes. That of a request never does.
fn is_peer(world: &mut World, from: SocketAddr, wire: Option<Wire>, sent: &str) -> bool {
    assert!(headers(sent, "X-Genesys-Route").is_empty(), "{sent}");
    assert_eq!(headers(sent, "X-Genesys-CallUUID"), ["1"], "{sent}");
    let transport = if wire.is_some() { "tls" } else { "udp" };
    let fields = format!("X-Genesys-Route: sip:{from};transport={transport}\r\n");
    let call = format!("back-{}", header(sent, "Call-ID"));
    world.datagram(0, SERVER, &request("MESSAGE", "sip:x@10.3.3.3", &call, &fields));
    let asked = |text: &str| answer(text, "200 OK", "f", GENESYS);
    match wire {
        Some(wire) => {
            let text = world.read(wire);
            world.write(wire, &asked(&text));
        }
        None => {
            let text = world.read_udp(&from.to_string());
            world.datagram(1, &from.to_string(), &asked(&text));
        }
    }
    let ok = world.expect_server("SIP/2.0 200");
    assert_eq!(headers(&ok, "X-Genesys-CallUUID"), ["1"], "{ok}");
    world.drain();
    !headers(&ok, "X-Genesys-Route").is_empty()
}

const GENESYS: &str = "X-Genesys-CallUUID: 1\r\nX-Genesys-Route: sip:10.3.3.3:5060\r\n";

#[test]
fn a_peer_is_told_by_address_and_port_by_address_and_via_or_by_certificate() {
    let mut world = World::new(&by(Transport::Udp));
    for (n, (from, told)) in
        [("10.9.0.1:5060", true), ("10.9.0.1:5061", false), ("10.9.0.2:5060", false)].iter().enumerate()
    {
        let text = from_far("MESSAGE", "sip:9000@example.com", &format!("u{n}"), &format!("UDP {from}"), GENESYS);
        world.datagram(0, from, &text);
        let sent = world.read_server();
        assert_eq!(is_peer(&mut world, from.parse().expect("an address"), None, &sent), *told, "{from}");
    }
    world.pass_s(60);
    world.drain();
    world.end();

    let mut world = World::new(&by(Transport::Tls));
    let from_peer = SocketAddr::from((PEER, 40_123));
    let cases = [
        (from_peer, "TLS 10.9.0.1:5071", true),
        // What it advertises may be a name.
        (from_peer, "TLS site2.example.net:5071", true),
        (from_peer, "TLS 10.9.0.1:5061", false),
        (from_peer, "TLS 10.9.0.3:5071", false),
        (SocketAddr::from(([10, 9, 0, 2], 5071)), "TLS 10.9.0.1:5071", false),
    ];
    for (n, (from, via, told)) in cases.into_iter().enumerate() {
        let wire = world.connect_from(0, TLS, from);
        world.write(wire, &from_far("MESSAGE", "sip:9000@example.com", &format!("t{n}"), via, GENESYS));
        let sent = world.read_server();
        assert_eq!(is_peer(&mut world, from, Some(wire), &sent), told, "{from} {via}");
    }
    world.pass_s(60);
    world.drain();
    world.end();

    let mut world = World::new(&by_name());
    let named = |name: &str| Identities { dns: vec![name.into()], of_endpoint: true, ..Identities::default() };
    for (n, (name, told)) in [("proxy.site2.test", true), ("phone.site2.test", false)].into_iter().enumerate() {
        let from = SocketAddr::from(([172, 16, 0, 1], 40_200));
        let wire = world.connect_mutual(0, TLS, from, named(name));
        let via = "TLS 172.16.0.1:5061";
        world.write(wire, &from_far("MESSAGE", "sip:9000@example.com", &format!("c{n}"), via, GENESYS));
        let sent = world.read_server();
        assert_eq!(is_peer(&mut world, from, Some(wire), &sent), told, "{name}");
    }
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn a_peer_with_cas_of_its_own_is_named_by_these_alone_and_they_make_nobody_else() {
    let own = |settings: &mut Settings| {
        site(settings, "proxy.site2.test", Transport::Tls, None);
        let setup = PeerSetup { id: SetupId(3), own_trust: true };
        settings.peers[0].setup = Some(setup);
        settings.servers[0].setup = Some(setup);
        settings.servers[0].tls_name = Host::parse("sips1.example.com");
        // Two sides at one port, and one for endpoints only.
        let ends = Point { side: Some(Side::Endpoint), ..settings.points[usize::from(TLS.0)].clone() };
        settings.points.push(ends);
    };
    let both = TLS;
    let mut world = World::new(&Setup { mutate: own, ..Setup::default() });
    let ends = PointId(u8::try_from(world.engines[0].settings().points.len() - 1).expect("few points"));
    let vouched = |name: &str, side| Identities {
        dns: vec![name.into()],
        peers: vec![(side, SetupId(3))],
        of_peers_only: true,
        ..Identities::default()
    };
    let by_side = |name: &str| Identities { dns: vec![name.into()], ..Identities::default() };
    let peer = |name| vouched(name, Side::Endpoint);
    let server = |name| vouched(name, Side::Server);
    // Who is taken for a peer; `None` for who is let go before a word.
    let cases = [
        (both, peer("proxy.site2.test"), Some(true)),
        (ends, peer("proxy.site2.test"), Some(true)),
        (both, by_side("proxy.site2.test"), Some(false)),
        (both, peer("phone.site2.test"), None),
        (both, peer("sips1.example.com"), None),
        (both, server("proxy.site2.test"), None),
        (ends, server("sips1.example.com"), None),
    ];
    for (n, (point, identities, told)) in cases.into_iter().enumerate() {
        let from = SocketAddr::from(([172, 16, 0, 1], 40_300));
        let what = format!("case {n}");
        let wire = world.connect_mutual(0, point, from, identities);
        let text = from_far("MESSAGE", "sip:9000@example.com", &format!("o{n}"), "TLS 172.16.0.1:5061", GENESYS);
        world.write(wire, &text);
        match told {
            Some(told) => {
                let sent = world.read_server();
                assert_eq!(is_peer(&mut world, from, Some(wire), &sent), told, "{what}");
                world.hang_up(wire);
            }
            None => assert_eq!(world.try_read_udp(SERVER), None, "{what}"),
        }
    }
    assert_eq!(world.counted(Counter::ClosedHandshake), 4);
    // A server by its own CAs.
    let (mut world, phone) = registered_with(&Setup { mutate: own, ..Setup::default() });
    let from = SocketAddr::from(([10, 0, 0, 9], 40_301));
    for (identities, is_server) in [(server("sips1.example.com"), true), (by_side("sips1.example.com"), false)] {
        let wire = world.connect_mutual(1, both, from, identities);
        let text = phone.server_request("MESSAGE", &format!("s{is_server}"), 1);
        world.write(wire, &text.replace(&format!("UDP {SERVER}"), "TLS 10.0.0.9:5061"));
        match is_server {
            true => assert!(world.read(phone.wire).starts_with("MESSAGE "), "a server reaches a phone by its token"),
            false => assert!(world.read_server().starts_with("MESSAGE "), "an endpoint reaches the server"),
        }
        world.hang_up(wire);
    }
}

#[test]
fn a_peer_rings_no_phone_past_the_server() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        let (mut world, phone) = registered_with(&Setup { sticky, ..by(Transport::Tls) });
        let (_, callee) = answered(&mut world, &phone, "dialog");
        let peer = own_connection(&mut world, 0, 40_001);
        let path = phone.path.first().cloned().unwrap_or_else(|| "<sip:junk@127.0.0.1:5060;lr>".into());
        let rr = &callee.routes[0];
        let targets = [format!("sip:{}@example.com", phone.user), phone.contact.clone(), phone.bound_contact.clone()];
        let fields = [
            String::new(),
            format!("Route: {path}\r\n"),
            format!("Route: {path}\r\nRoute: {path}\r\n"),
            format!("Route: {rr}\r\n"),
            format!("Route: {path}\r\nRoute: {rr}\r\n"),
            "X-Genesys-Route: sip:10.0.0.1:40001;transport=tls\r\n".to_owned(),
            "Route: <sip:10.3.3.3;lr>\r\n".to_owned(),
        ];
        let mut count = 0;
        for target in &targets {
            for fields in &fields {
                for call in ["dialog", "new"] {
                    count += 1;
                    let text = from_far("INVITE", target, call, "TLS 10.9.0.1:5071", fields)
                        .replace("z9hG4bKp", &format!("z9hG4bKp{count}"));
                    world.write(peer, &text);
                    assert_eq!(world.try_read(phone.wire), None, "{text}");
                    match world.try_read_udp(SERVER) {
                        Some(sent) => {
                            assert_eq!(start_line(&sent), format!("INVITE {target} SIP/2.0"));
                            world.datagram(0, SERVER, &answer(&sent, "404 Not Found", "s", ""));
                        }
                        None => assert!(world.read(peer).starts_with("SIP/2.0 403"), "{text}"),
                    }
                    world.drain();
                }
            }
        }
        assert!(world.opened.is_empty(), "{:?}", world.opened);
        world.pass_s(60);
        world.drain();
        world.end();
    }
}

#[test]
fn a_dialog_between_sites_stays_on_its_proxies_and_keeps_what_the_servers_say() {
    let mut world = World::new(&by(Transport::Tls));
    let target = format!("sip:x@{FAR}");
    let said = "X-Genesys-CallUUID: 1\r\n";
    world.datagram(0, SERVER, &request("INVITE", &target, "c1", said));
    let (peer, _, _) = world.dialled();
    world.ready(peer);
    let invite = world.read(peer);
    assert_eq!(headers(&invite, "X-Genesys-CallUUID").len(), 1, "{invite}");
    let routes = headers(&invite, "Record-Route");
    assert!(uri(routes[0]).ends_with("@127.0.0.1:5061;transport=tls;lr"), "{invite}");
    assert!(uri(routes[1]).ends_with("@127.0.0.1:5060;lr"), "UDP inside, TLS between: {invite}");
    // The other site's proxy stays, too.
    let with_theirs = invite.replacen(
        "Record-Route:",
        "Record-Route: <sip:their@10.9.0.1:5071;transport=tls;lr>\r\nRecord-Route:",
        1,
    );
    let extra = format!("{said}Contact: <{target}>\r\n");
    world.write(peer, &answer(&with_theirs, "200 OK", "f", &extra));
    let ok = world.read_server();
    assert_eq!(headers(&ok, "X-Genesys-CallUUID").len(), 1, "{ok}");
    let mut server = Dialog::caller(&ok);
    let mut far = Dialog::callee(&invite, "f");
    world.datagram(1, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    let ack = world.read(peer);
    assert_eq!(header(&ack, "Route"), "<sip:their@10.9.0.1:5071;transport=tls;lr>");

    // From the server by the token, and its answer.
    world.datagram(1, SERVER, &server.request("INFO", &format!("UDP {SERVER}")));
    let info = world.read(peer);
    world.write(peer, &answer(&info, "200 OK", "", said));
    assert_eq!(headers(&world.read_server(), "X-Genesys-CallUUID").len(), 1);
    // From the other site, over a connection of its own.
    let own = own_connection(&mut world, 1, 40_050);
    let info = far.request("INFO", "TLS 10.9.0.1:5071").replacen("From:", &format!("{said}From:"), 1);
    world.write(own, &info);
    let info = server_answers(&mut world, "200 OK", said);
    assert_eq!(start_line(&info), format!("INFO sip:{SERVER} SIP/2.0"));
    assert_eq!(headers(&info, "X-Genesys-CallUUID").len(), 1);
    assert!(headers(&info, "Route").is_empty(), "{info}");
    assert_eq!(headers(&world.read(own), "X-Genesys-CallUUID").len(), 1);

    // The connection is lost: the dialog goes on over a new one.
    world.hang_up(peer);
    world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
    let (peer, to, _) = world.dialled();
    assert_eq!(to, SocketAddr::from((PEER, 5071)));
    world.ready(peer);
    let bye = world.read(peer);
    world.write(peer, &answer(&bye, "200 OK", "", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.assert_silent();
    world.end();
}

#[test]
fn a_call_of_the_other_site_has_both_record_routes_and_is_cancelled_and_acknowledged() {
    let mut world = World::new(&by(Transport::Tls));
    let peer = own_connection(&mut world, 1, 40_002);
    let via = "TLS 10.9.0.1:5071";
    world.write(peer, &from_far("INVITE", "sip:9000@example.com", "c1", via, ""));
    let invite = world.read_server();
    assert_eq!(headers(&invite, "Record-Route").len(), 2);
    world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "s", ""));
    assert_eq!(start_line(&world.read(peer)), "SIP/2.0 180 Ringing");
    world.write(peer, &from_far("CANCEL", "sip:9000@example.com", "c1", via, "").replace("pCANCEL", "pINVITE"));
    assert_eq!(start_line(&world.read(peer)), "SIP/2.0 200 OK");
    let cancel = server_answers(&mut world, "200 OK", "");
    assert!(cancel.starts_with("CANCEL "));
    world.datagram(0, SERVER, &answer(&invite, "487 Request Terminated", "s", ""));
    world.expect_server("ACK ");
    assert_eq!(start_line(&world.read(peer)), "SIP/2.0 487 Request Terminated");

    world.write(peer, &from_far("INVITE", "sip:9000@example.com", "c2", via, ""));
    let invite = world.read_server();
    let contact = format!("Contact: <sip:{SERVER}>\r\n");
    world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &contact));
    let mut far = Dialog::caller(&world.read(peer));
    world.write(peer, &far.request("ACK", via));
    let ack = world.read_server();
    assert_eq!(start_line(&ack), format!("ACK sip:{SERVER} SIP/2.0"));
    // The server hangs up, by a token that names the peer's own connection, on the other shard.
    let mut server = Dialog::callee(&invite, "s");
    world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
    let bye = world.read(peer);
    world.write(peer, &answer(&bye, "200 OK", "", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.drain();
    world.end();
}

#[test]
fn what_a_peer_is_owed_finds_it_when_its_connection_has_gone_and_it_may_cancel_over_the_next() {
    for next in 0..2 {
        let mut world = World::new(&by(Transport::Tls));
        let peer = own_connection(&mut world, 1, 40_002);
        let via = "TLS 10.9.0.1:5071";
        let text = from_far("INVITE", "sip:9000@example.com", "c1", via, "");
        world.write(peer, &text);
        let invite = world.read_server();
        world.hang_up(peer);
        world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "s", ""));
        let (wire, to, tls) = world.dialled();
        assert_eq!(to, SocketAddr::from((PEER, 5071)));
        assert_eq!(tls.map(|tls| tls.expected), Some(Expected::Address(to.ip())));
        world.ready(wire);
        assert_eq!(start_line(&world.read(wire)), "SIP/2.0 180 Ringing");

        let peer = own_connection(&mut world, next, 40_003);
        world.write(peer, &text.replace("INVITE sip", "CANCEL sip").replace("1 INVITE", "1 CANCEL"));
        assert_eq!(start_line(&world.read(peer)), "SIP/2.0 200 OK");
        let cancel = server_answers(&mut world, "200 OK", "");
        assert!(cancel.starts_with("CANCEL "), "{cancel}");
        world.datagram(0, SERVER, &answer(&invite, "487 Request Terminated", "s", ""));
        world.expect_server("ACK ");
        assert_eq!(start_line(&world.read(wire)), "SIP/2.0 487 Request Terminated");
        assert_eq!(world.counted(Counter::ResponseByVia), 2);
        assert_eq!(world.counted(Counter::ResponseConnectionGone), 0);
        world.end();
    }
}

#[test]
fn peers_are_not_held_to_a_phones_measure_nor_closed_when_idle() {
    let mut world = World::new(&by(Transport::Tls));
    let mut wires = Vec::new();
    for n in 0..4 {
        let wire = own_connection(&mut world, 0, 40_010 + n);
        let text = from_far("OPTIONS", "sip:example.com", &format!("o{n}"), "TLS 10.9.0.1:5071", "");
        world.write(wire, &text);
        assert_eq!(start_line(&world.read(wire)), "SIP/2.0 200 OK");
        wires.push(wire);
    }
    // A peer that opens a connection and waits with its first request is a stranger's for now.
    let phone = world.connect(1, TCP);
    world.pass_s(400);
    assert_eq!(world.closed.iter().map(|(wire, _)| *wire).collect::<Vec<_>>(), [phone]);
    for (n, wire) in wires.iter().enumerate() {
        let text = from_far("OPTIONS", "sip:example.com", &format!("r{n}"), "TLS 10.9.0.1:5071", "");
        world.write(*wire, &text);
        assert_eq!(start_line(&world.read(*wire)), "SIP/2.0 200 OK");
    }
    assert_eq!(world.counted(Counter::LimitUnregisteredPerSource), 0);
    world.end();
}

#[test]
fn a_phone_may_register_through_a_peer_and_is_called_over_its_connection() {
    let mut world = World::new(&by(Transport::Tls));
    let peer = own_connection(&mut world, 1, 40_003);
    let mut phone = Phone::new("alice", peer);
    let text =
        phone.register_text(600).replacen("Via:", "Via: SIP/2.0/TLS 10.9.0.1:5071;branch=z9hG4bKedge\r\nVia:", 1);
    world.write(peer, &text);
    phone.accept_register(&mut world, 600);
    world.read(peer);
    world.datagram(0, SERVER, &phone.server_request("MESSAGE", "m1", 1));
    let sent = world.read(peer);
    world.write(peer, &answer(&sent, "200 OK", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.end();
}
