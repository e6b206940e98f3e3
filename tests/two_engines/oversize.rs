//! Requests that are too large for a datagram (`udp-oversize-action`; RFC 3261 §18.1.1).

use hawser::engine::{ConnectFailure, Input, SendFault, Sticky, UdpOversize};
use hawser::ids::{ConnId, Transport};
use hawser::stats::Counter;

use crate::talk::{Phone, answer, header, headers, uri};
use crate::world::{SERVER, SERVER2, Setup, TLS, Wire, World};

fn message(call: &str, body_len: usize) -> String {
    format!(
        "MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bK{call}\r\n\
         From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call}\r\nCSeq: 1 MESSAGE\r\n\
         Content-Length: {body_len}\r\n\r\n{}",
        "x".repeat(body_len)
    )
}

#[test]
fn a_large_request_goes_by_tcp_to_a_server_that_is_known_to_take_it_and_until_then_by_udp() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    world.write(wire, &message("o1", 1_200));
    let sent = world.read_server();
    assert!(headers(&sent, "Via")[0].starts_with("SIP/2.0/UDP"), "nobody waits for a connection that may never come");
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");

    let (tcp, to) = world.opened[0];
    assert_eq!(to.to_string(), SERVER);
    world.ready(tcp);
    world.write(wire, &message("o2", 1_200));
    let sent = world.read(tcp);
    assert!(headers(&sent, "Via")[0].starts_with("SIP/2.0/TCP"), "{sent}");
    world.write(tcp, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    // A small one stays on UDP.
    world.write(wire, &message("o3", 10));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.read(wire);
    assert_eq!(world.counted(Counter::OversizeTcp), 1);

    // Lost before the answer: the request is not.
    world.write(wire, &message("o4", 1_200));
    world.read(tcp);
    world.hang_up(tcp);
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    world.end();
}

#[test]
fn a_server_that_refuses_tcp_is_not_taken_for_one_that_is_gone() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    for call in ["o1", "o2"] {
        world.write(wire, &message(call, 1_200));
        let sent = world.read_server();
        if let Some((tcp, _)) = world.opened.pop() {
            world.fail(tcp, ConnectFailure::Refused);
        }
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        world.expect(wire, "SIP/2.0 200");
    }
    assert_eq!(world.counted(Counter::OversizeUdp), 2);
    assert_eq!(world.counted(Counter::FailoverConnection), 0);
    assert!(!world.events.iter().any(|event| event.contains("cannot be reached")), "{:?}", world.events);
    world.end();
}

#[test]
fn that_a_server_takes_no_tcp_is_said_once() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    for call in ["o1", "o2", "o3", "o4"] {
        world.write(wire, &message(call, 1_200));
        let sent = world.read_server();
        let (tcp, _, _) = world.dialled();
        world.fail(tcp, ConnectFailure::Refused);
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        world.expect(wire, "SIP/2.0 200");
        world.pass_s(10);
    }
    assert_eq!(world.events.len(), 1, "{:?}", world.events);
    assert!(world.events[0].contains("no TCP"), "{:?}", world.events);
    assert_eq!((world.counted(Counter::OversizeUdp), world.counted(Counter::ConnectRefused)), (4, 4));
    // One that is there, and then is not, is news again.
    for failure in [None, Some(ConnectFailure::Refused)] {
        world.write(wire, &message(if failure.is_some() { "o6" } else { "o5" }, 1_200));
        let sent = world.read_server();
        let (tcp, _, _) = world.dialled();
        match failure {
            Some(failure) => world.fail(tcp, failure),
            None => {
                world.ready(tcp);
                world.hang_up(tcp);
            }
        }
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        world.expect(wire, "SIP/2.0 200");
    }
    let about_tcp = |event: &&String| event.contains("too large for a datagram");
    assert_eq!(world.events.iter().filter(about_tcp).count(), 3, "{:?}", world.events);
    world.end();
}

#[test]
fn the_action_udp_asks_for_no_connection_and_reject_answers_513() {
    for (action, code) in [(UdpOversize::Udp, "200"), (UdpOversize::Reject, "513")] {
        let mutate: fn(&mut hawser::engine::Settings) = match action {
            UdpOversize::Udp => |settings| settings.live.udp_oversize = UdpOversize::Udp,
            _ => |settings| settings.live.udp_oversize = UdpOversize::Reject,
        };
        let mut world = World::new(&Setup { shards: 1, mutate, ..Setup::default() });
        let wire = world.connect(0, TLS);
        world.write(wire, &message("o1", 1_200));
        if let Some(sent) = world.try_read_udp(SERVER) {
            world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        }
        world.expect(wire, &format!("SIP/2.0 {code}"));
        assert!(world.opened.is_empty());
        world.end();
    }
}

/// A phone over UDP asks to be registered by a server over TCP: a stream carries more than a datagram.
fn registering_over_udp(sticky: Sticky, params: &str) -> (World, Phone, String) {
    let mut world = World::new(&Setup { shards: 2, internal: Transport::Tcp, sticky, ..Setup::default() });
    let mut phone = Phone::new("alice", Wire { shard: 0, conn: ConnId { slot: 0, generation: 0 } });
    phone.via = "UDP";
    phone.contact = format!("sip:alice@{PHONE}{params}");
    world.datagram(1, PHONE, &phone.register_text(600));
    let (link, ..) = world.dialled();
    world.ready(link);
    phone.wire = link;
    let request = world.expect(link, "REGISTER ");
    phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
    phone.bound_contact = uri(header(&request, "Contact")).to_owned();
    let path: String = phone.path.iter().map(|path| format!("Path: {path}\r\n")).collect();
    let extra = format!("{path}Contact: <{}>;expires=600\r\n", phone.bound_contact);
    (world, phone, answer(&request, "200 OK", "srv", &extra))
}

/// The same, registered, with the server's own connection.
fn registered_over_udp() -> (World, Phone, Wire) {
    let (mut world, phone, granted) = registering_over_udp(Sticky::Path, "");
    world.write(phone.wire, &granted);
    assert!(world.read_udp(PHONE).starts_with("SIP/2.0 200"));
    let server = phone.wire;
    (world, phone, server)
}

const PHONE: &str = "10.0.0.9:5060";

/// With a body, so that all of it is this long.
fn of_length(request: &str, length: usize) -> String {
    let body_len = length - request.len() - 4;
    request.replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {body_len}\r\n\r\n{}", "x".repeat(body_len)))
}

#[test]
fn a_request_that_no_datagram_can_carry_is_answered_at_once() {
    for method in ["MESSAGE", "INVITE"] {
        let (mut world, phone, server) = registered_over_udp();
        let request = phone.server_request(method, "big", 1).replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        world.write(server, &of_length(&request, 65_530));
        world.expect(server, "SIP/2.0 513");
        assert_eq!(world.try_read_udp(PHONE), None);
        assert_eq!(world.counted(Counter::Refused513Oversize), 1);
        assert_eq!(world.counted(Counter::DatagramTooLarge), 0, "it was never made a datagram");
        world.end();
    }
}

#[test]
fn a_final_response_that_no_datagram_can_carry_gives_way_to_a_short_one() {
    // What makes it longer than it came is the phone's own Contact, in place of the alias.
    let params = format!(";x={}", "y".repeat(1_000));
    let (mut world, mut phone, granted) = registering_over_udp(Sticky::Contact, &params);
    world.write(phone.wire, &of_length(&granted, 65_500));
    let short = world.read_udp(PHONE);
    assert!(short.starts_with("SIP/2.0 500 Response Too Large"), "{}", &short[..100]);
    assert_eq!((world.counted(Counter::ResponseTooLarge), world.counted(Counter::DatagramTooLarge)), (1, 0));
    // Asked again, it says the same.
    phone.cseq -= 1;
    world.datagram(1, PHONE, &phone.register_text(600));
    assert_eq!(world.read_udp(PHONE), short);
    world.end();
}

#[test]
fn a_datagram_that_the_system_refuses_answers_its_request_at_once() {
    for (fault, code) in [(SendFault::TooLarge, "513"), (SendFault::Refused, "503")] {
        let (mut world, phone, server) = registered_over_udp();
        let request = phone.server_request("MESSAGE", "m1", 1).replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        world.write(server, &request);
        let sent = world.read_udp(PHONE);
        let home = (0..2).find(|shard| world.engines[usize::from(*shard)].in_flight() > 0).expect("it is under way");
        let to = PHONE.parse().expect("an address");
        world.input(home, Input::Unsent { to, bytes: sent.as_bytes(), fault });
        world.expect(server, &format!("SIP/2.0 {code}"));
        world.pass_s(40);
        assert_eq!(world.try_read_udp(PHONE), None, "it is not sent again");
        // Told of it once more, and of what is nobody's.
        world.input(home, Input::Unsent { to, bytes: sent.as_bytes(), fault });
        world.input(home, Input::Unsent { to, bytes: b"\r\n", fault });
        world.assert_silent();
        world.end();
    }
}

#[test]
fn a_server_that_nothing_can_be_sent_to_gives_way_to_its_partner() {
    let mut world = World::new(&Setup { shards: 1, mutate: crate::stage::unchecked, ..Setup::default() });
    let wire = world.connect(0, TLS);
    world.write(wire, &message("m1", 10));
    let sent = world.read_server();
    let to = SERVER.parse().expect("an address");
    world.input(0, Input::Unsent { to, bytes: sent.as_bytes(), fault: SendFault::Refused });
    let sent = world.read_udp(SERVER2);
    world.datagram(0, SERVER2, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    world.end();
}
