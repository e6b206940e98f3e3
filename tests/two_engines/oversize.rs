//! Requests that are too large for a datagram (`udp-oversize-action`; RFC 3261 §18.1.1).

use hawser::engine::{ConnectFailure, UdpOversize};
use hawser::stats::Counter;

use crate::talk::{answer, headers};
use crate::world::{SERVER, Setup, TLS, World};

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
