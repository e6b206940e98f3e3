//! Routes of strict routers, before us and behind us, and Routes that go on behind ours.

use crate::calls::{answered, registered, registered_with};
use crate::talk::{answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup};

/// A request as a strict router sends it on: the first Route in the Request-URI, the Request-URI as the last.
fn strict(request: &str) -> String {
    let routes = headers(request, "Route");
    let target = start_line(request).split(' ').nth(1).expect("a Request-URI");
    let mut text = request.replacen(target, uri(routes[0]), 1);
    for route in &routes {
        text = text.replacen(&format!("Route: {route}\r\n"), "", 1);
    }
    let rest: String = routes[1..].iter().map(|route| format!("Route: {route}\r\n")).collect();
    text.replacen("From:", &format!("{rest}Route: <{target}>\r\nFrom:"), 1)
}

#[test]
fn what_a_strict_router_has_moved_is_put_back_from_both_sides() {
    let (mut world, phone) = registered();
    let (mut server, mut callee) = answered(&mut world, &phone, "c1");
    let plain = callee.request("BYE", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &strict(&plain));
    let bye = world.read_server();
    assert_eq!(start_line(&bye), format!("BYE sip:{SERVER} SIP/2.0"));
    assert!(headers(&bye, "Route").is_empty(), "{bye}");
    world.datagram(0, SERVER, &answer(&bye, "200 OK", "", ""));
    world.read(phone.wire);

    let plain = server.request("INFO", &format!("UDP {SERVER}"));
    for shard in [0, 1] {
        // The second is a retransmission, which lands elsewhere and reaches the same transaction.
        world.datagram(shard, SERVER, &strict(&plain));
    }
    let info = world.read(phone.wire);
    assert_eq!(start_line(&info), format!("INFO {} SIP/2.0", phone.contact));
    assert!(headers(&info, "Route").is_empty(), "{info}");
    world.write(phone.wire, &answer(&info, "200 OK", "", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.assert_silent();
    world.end();
}

#[test]
fn a_record_route_in_the_request_uri_opens_no_way_in_another_dialog() {
    let (mut world, phone) = registered();
    let (_, mut callee) = answered(&mut world, &phone, "c1");
    let wire = world.connect(0, crate::world::TLS);
    let borrowed = strict(&callee.request("INFO", "TLS 192.0.2.66:5060"));
    // In its own dialog the token says how the request came; it goes to the server.
    world.write(wire, &borrowed);
    assert_eq!(start_line(&world.read_server()), format!("INFO sip:{SERVER} SIP/2.0"));
    // In another one it is no token of ours, and its Route a stranger's.
    world.write(wire, &borrowed.replace("Call-ID: c1", "Call-ID: c2").replace("branch=z9hG4bKd", "branch=z9hG4bKe"));
    world.expect(wire, "SIP/2.0 403");
    assert_eq!(world.try_read(phone.wire), None);
    world.drain();
    world.end();
}

#[test]
fn a_strict_router_behind_the_phones_flow_gets_the_request_uri() {
    let (mut world, phone) = registered();
    for (at, lr) in ["", ";lr"].iter().enumerate() {
        let behind = format!("sip:10.3.3.3:5060{lr}");
        let text = phone.server_request("MESSAGE", &format!("s{at}"), 1).replacen(
            "From:",
            &format!("Route: <{behind}>\r\nFrom:"),
            1,
        );
        world.datagram(0, SERVER, &text);
        let message = world.read(phone.wire);
        let (target, route) = if lr.is_empty() {
            (behind.as_str(), format!("<{}>", phone.contact))
        } else {
            (phone.contact.as_str(), format!("<{behind}>"))
        };
        assert_eq!(start_line(&message), format!("MESSAGE {target} SIP/2.0"));
        assert_eq!(header(&message, "Route"), route);
        world.write(phone.wire, &answer(&message, "200 OK", "p", ""));
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    }
    world.end();
}

#[test]
fn header_parts_of_a_route_do_not_come_into_the_request_uri() {
    let (mut world, phone) = registered();
    let (_, mut callee) = answered(&mut world, &phone, "c1");
    let text = phone.server_request("MESSAGE", "s1", 1);
    world.datagram(0, SERVER, &text.replacen("From:", "Route: <sip:10.3.3.3:5060?a=b>\r\nFrom:", 1));
    let message = world.read(phone.wire);
    assert_eq!(start_line(&message), "MESSAGE sip:10.3.3.3:5060 SIP/2.0");
    world.write(phone.wire, &answer(&message, "200 OK", "p", ""));
    world.expect_server("SIP/2.0 200");
    let moved = strict(&callee.request("INFO", "TLS 192.0.2.7:5060"));
    world.write(phone.wire, &moved.replace(&format!("Route: <sip:{SERVER}>"), &format!("Route: <sip:{SERVER}?a=b>")));
    let info = world.expect_server("INFO ");
    assert_eq!(start_line(&info), format!("INFO sip:{SERVER} SIP/2.0"));
    world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
    world.read(phone.wire);
    world.end();
}

#[test]
fn the_servers_own_uri_behind_our_routes_is_kept_in_both_directions() {
    let (mut world, phone) = registered();
    let (mut server, mut callee) = answered(&mut world, &phone, "c1");
    let own = format!("<sip:{SERVER};lr>");
    callee.routes.push(own.clone());
    let bye = callee.request("INFO", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &bye);
    let info = world.read_server();
    assert_eq!(header(&info, "Route"), own);
    world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
    world.read(phone.wire);
    server.routes.push(own.clone());
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &bye);
    let bye = world.read(phone.wire);
    assert_eq!(header(&bye, "Route"), own);
    world.write(phone.wire, &answer(&bye, "200 OK", "", ""));
    world.read_server();
    world.end();
}

#[test]
fn x_genesys_route_of_the_server_names_a_connection_on_any_shard_or_a_udp_address() {
    let (mut world, phone) = registered_with(&Setup { shards: 2, ..Setup::default() });
    let aor = format!("{}@example.com", phone.user);
    let peer = world.engines.iter().find_map(|engine| engine.locate(&aor, world.now).first().map(|at| at.peer));
    let peer = peer.expect("it is bound");
    let with = |call: &str, route: &str| {
        phone
            .server_request("MESSAGE", call, 1)
            .replace(&format!("Route: {}\r\n", phone.path[0]), &format!("X-Genesys-Route: {route}\r\n"))
            .replace(&phone.bound_contact, "sip:somebody@198.51.100.9:5060")
    };
    for (shard, call) in [(0, "g1"), (1, "g2")] {
        world.datagram(shard, SERVER, &with(call, &format!("sip:{peer};transport=tls")));
        let message = world.read(phone.wire);
        assert!(!message.contains("X-Genesys"), "{message}");
        world.write(phone.wire, &answer(&message, "200 OK", "p", ""));
        world.expect_server("SIP/2.0 200");
    }
    world.datagram(0, SERVER, &with("g3", "<sip:10.7.7.7:5099>"));
    let message = world.read_udp("10.7.7.7:5099");
    world.datagram(0, "10.7.7.7:5099", &answer(&message, "200 OK", "p", ""));
    world.expect_server("SIP/2.0 200");
    // What is no address is only stripped: the Request-URI is looked up, and nobody has registered it.
    let text = with("g5", "sip:device.example.net").replace("sip:somebody@198.51.100.9:5060", "sip:bob@example.com");
    world.datagram(0, SERVER, &text);
    world.expect_server("SIP/2.0 480");
    assert!(world.opened.is_empty());
    world.end();
}

#[test]
fn a_device_that_icmp_says_is_gone_ends_its_request_whichever_shard_hears_it() {
    for shard in [0, 1] {
        let (mut world, phone) = registered();
        let request = phone
            .server_request("MESSAGE", "d1", 1)
            .replace(&format!("Route: {}\r\n", phone.path[0]), "")
            .replace(&phone.bound_contact, "sip:door@198.51.100.9:5070");
        world.datagram(0, SERVER, &request);
        world.read_udp("198.51.100.9:5070");
        let to = "198.51.100.9:5070".parse().expect("an address");
        world.input(shard, hawser::engine::Input::Unreachable { to });
        assert!(world.read_server().starts_with("SIP/2.0 503"), "heard by shard {shard}");
        world.end();
    }
}
