//! Calls from either side, their errors and their CANCELs.

use std::time::Duration;

use hawser::ids::Transport;
use hawser::stats::Counter;

use crate::registration::user_with_home;
use crate::stage::cancel;
use crate::talk::{Dialog, Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TCP, TLS, World};

/// A world with a phone that is connected to shard 1 and has its home at shard 0.
pub fn registered() -> (World, Phone) {
    registered_with(&Setup::default())
}

pub fn registered_with(setup: &Setup) -> (World, Phone) {
    let mut world = World::new(setup);
    let wire = world.connect(1, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    phone.register(&mut world, 3_600);
    (world, phone)
}

/// A call from the SIP Server that is answered: both ends' dialogs.
pub fn answered(world: &mut World, phone: &Phone, call_id: &str) -> (Dialog, Dialog) {
    let request = phone.server_request("INVITE", call_id, 1);
    world.datagram(0, SERVER, &request);
    let invite = world.read(phone.wire);
    let contact = format!("Contact: <{}>\r\n", phone.contact);
    world.write(phone.wire, &answer(&invite, "200 OK", "p1", &contact));
    let ok = world.read_server();
    assert_eq!(start_line(&ok), "SIP/2.0 200 OK");
    let mut caller = Dialog::caller(&ok);
    let callee = Dialog::callee(&invite, "p1");
    let ack = caller.request("ACK", &format!("UDP {SERVER}"));
    world.datagram(1, SERVER, &ack);
    let ack = world.expect(phone.wire, "ACK ");
    assert!(headers(&ack, "Route").is_empty(), "{ack}");
    (caller, callee)
}

#[test]
fn a_call_from_the_server_rings_connects_and_ends_from_either_side() {
    for phone_hangs_up in [false, true] {
        let (mut world, phone) = registered();
        let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
        assert_eq!(start_line(&invite), format!("INVITE {} SIP/2.0", phone.contact));
        assert!(headers(&invite, "Route").is_empty());
        let vias = headers(&invite, "Via");
        assert_eq!(vias.len(), 2);
        assert!(vias[0].starts_with("SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bK"), "{}", vias[0]);
        assert_eq!(header(&invite, "Max-Forwards"), "69");
        let routes = headers(&invite, "Record-Route");
        assert_eq!(routes.len(), 2, "{invite}");
        assert!(uri(routes[0]).contains("@127.0.0.1:5061;transport=tls"), "{}", routes[0]);
        assert!(uri(routes[1]).ends_with("@127.0.0.1:5060;lr"), "{}", routes[1]);

        world.write(phone.wire, &answer(&invite, "100 Trying", "", ""));
        world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
        let ringing = world.read_server();
        assert_eq!(start_line(&ringing), "SIP/2.0 180 Ringing");
        assert_eq!(headers(&ringing, "Via").len(), 1);
        let contact = format!("Contact: <{}>\r\n", phone.contact);
        world.write(phone.wire, &answer(&invite, "200 OK", "p1", &contact));
        let ok = world.read_server();
        let mut server = Dialog::caller(&ok);
        let mut callee = Dialog::callee(&invite, "p1");
        let ack = server.request("ACK", &format!("UDP {SERVER}"));
        world.datagram(0, SERVER, &ack);
        world.expect(phone.wire, "ACK ");
        if phone_hangs_up {
            let bye = callee.request("BYE", "TLS 192.0.2.7:5060");
            world.write(phone.wire, &bye);
            let bye = world.read_server();
            assert!(bye.starts_with(&format!("BYE sip:{SERVER} ")), "{bye}");
            assert!(headers(&bye, "Route").is_empty(), "{bye}");
            world.datagram(0, SERVER, &answer(&bye, "200 OK", "", ""));
            world.expect(phone.wire, "SIP/2.0 200");
        } else {
            server.server_hangs_up(&mut world, 0, phone.wire);
        }
        world.assert_silent();
        world.end();
    }
}

#[test]
fn a_call_from_the_phone_reaches_the_server_with_two_record_routes() {
    let (mut world, phone) = registered();
    let invite = format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKi1\r\n\
         From: <sip:{0}@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: p1\r\nCSeq: 1 INVITE\r\n\
         Contact: <{1}>\r\nX-Genesys-Route: sip:10.0.0.1:5060\r\nX-Genesys-Other: 1\r\nContent-Length: 3\r\n\r\nv=0",
        phone.user, phone.contact
    );
    world.write(phone.wire, &invite);
    let sent = world.read_server();
    assert_eq!(start_line(&sent), "INVITE sip:bob@example.com SIP/2.0", "never changed");
    assert!(sent.ends_with("\r\n\r\nv=0"));
    assert_eq!(header(&sent, "Max-Forwards"), "70");
    assert_eq!(header(&sent, "Max-Breadth"), "60");
    assert!(headers(&sent, "X-Genesys-Route").is_empty(), "{sent}");
    assert_eq!(header(&sent, "X-Genesys-Other"), "1");
    let vias = headers(&sent, "Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP 127.0.0.1:5060;branch="), "{}", vias[0]);
    assert!(vias[1].contains("received=10.0.0.1"), "{}", vias[1]);
    assert_eq!(headers(&sent, "Record-Route").len(), 2);
    let ok = answer(&sent, "200 OK", "s1", &format!("Contact: <sip:{SERVER}>\r\n"));
    world.datagram(0, SERVER, &ok);
    let ok = world.read(phone.wire);
    let mut caller = Dialog::caller(&ok);
    let ack = caller.request("ACK", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &ack);
    world.expect_server("ACK ");
    // The server hangs up, by the route set that its INVITE carried.
    let mut server = Dialog::callee(&sent, "s1");
    server.server_hangs_up(&mut world, 0, phone.wire);
    world.end();
}

#[test]
fn an_invite_hears_100_within_200_ms_and_its_retransmissions_are_absorbed() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.pass_ms(199);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 100 Trying");
    world.datagram(1, SERVER, &request);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 100 Trying");
    world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
    world.read_server();
    world.datagram(0, SERVER, &request);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 180 Ringing");
    assert_eq!(world.try_read(phone.wire), None);
    world.write(phone.wire, &answer(&invite, "200 OK", "p1", &format!("Contact: <{}>\r\n", phone.contact)));
    world.read_server();
    world.datagram(1, SERVER, &request);
    world.assert_silent();
    // The phone repeats its 200 until the ACK; each goes on.
    world.write(phone.wire, &answer(&invite, "200 OK", "p1", &format!("Contact: <{}>\r\n", phone.contact)));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.end();
}

#[test]
fn a_busy_phone_gets_our_ack_and_the_server_gets_its_486_until_it_acks() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.write(phone.wire, &answer(&invite, "486 Busy Here", "p1", ""));
    let ack = world.expect(phone.wire, "ACK ");
    assert_eq!(headers(&ack, "Via").len(), 1);
    assert!(header(&ack, "To").contains("tag=p1"));
    let busy = world.read_server();
    assert_eq!(start_line(&busy), "SIP/2.0 486 Busy Here");
    world.pass_ms(510);
    assert_eq!(world.read_server(), busy, "timer G");
    let ack = request
        .replace("INVITE", "ACK")
        .replace(&format!("z9hG4bKsrvACK{}", "c11"), &format!("z9hG4bKsrvINVITE{}", "c11"))
        .replace("example.com>\r\nCall-ID", "example.com>;tag=p1\r\nCall-ID");
    world.datagram(1, SERVER, &ack);
    world.pass_s(10);
    world.assert_silent();
    world.end();
}

#[test]
fn cancel_before_any_response_waits_for_the_first_and_then_goes_on() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    let taken_back = cancel(&request).replace("Max-Forwards", "Reason: SIP;cause=200\r\nMax-Forwards");
    world.datagram(1, SERVER, &taken_back);
    assert_eq!(header(&world.read_server(), "CSeq"), "1 CANCEL");
    assert_eq!(world.try_read(phone.wire), None);
    world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
    let cancel = world.expect(phone.wire, "CANCEL ");
    assert_eq!(headers(&cancel, "Via"), [headers(&invite, "Via")[0]], "the branch of the INVITE");
    assert_eq!(header(&cancel, "Reason"), "SIP;cause=200");
    world.write(phone.wire, &answer(&cancel, "200 OK", "p1", ""));
    world.write(phone.wire, &answer(&invite, "487 Request Terminated", "p1", ""));
    world.expect(phone.wire, "ACK ");
    world.read_server();
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 487 Request Terminated");
    world.drain();
    world.end();
}

#[test]
fn cancel_while_ringing_goes_on_at_once_and_after_the_answer_changes_nothing() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
    world.read_server();
    world.datagram(0, SERVER, &cancel(&request));
    world.expect_server("SIP/2.0 200");
    let taken_back = world.read(phone.wire);
    // The phone answers the call in the same moment: the 200 goes back, the server hangs up then.
    world.write(phone.wire, &answer(&invite, "200 OK", "p1", ""));
    assert_eq!(header(&world.read_server(), "CSeq"), "1 INVITE");
    world.write(phone.wire, &answer(&taken_back, "481 Gone", "p1", ""));
    world.datagram(0, SERVER, &cancel(&request));
    world.expect_server("SIP/2.0 200");
    world.assert_silent();
    world.end();
}

#[test]
fn a_cancel_that_matches_nothing_gets_481() {
    let (mut world, phone) = registered();
    let request = phone.server_request("INVITE", "c1", 1);
    world.datagram(0, SERVER, &cancel(&request));
    world.expect_server("SIP/2.0 481");
    world.end();
}

#[test]
fn a_cancelled_invite_that_never_ends_is_ended_after_64_t1() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
    world.read_server();
    world.datagram(0, SERVER, &cancel(&request));
    world.read_server();
    world.read(phone.wire);
    world.pass_s(33);
    world.expect_server("SIP/2.0 487");
    world.drain();
    world.end();
}

#[test]
fn an_endpoints_503_goes_to_the_server_as_500() {
    let (mut world, phone) = registered();
    let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.write(phone.wire, &answer(&invite, "503 Service Unavailable", "p1", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 500 Server Internal Error");
    world.drain();
    world.end();
}

#[test]
fn every_internal_protocol_carries_the_same_call() {
    for internal in [Transport::Tcp, Transport::Tls] {
        let mut world = World::new(&Setup { shards: 2, internal, ..Setup::default() });
        let wire = world.connect(1, TLS);
        let mut phone = Phone::new("alice", wire);
        phone.send_register(&mut world, 600);
        let (server, _) = world.opened[0];
        world.ready(server);
        let request = world.read(server);
        phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
        phone.bound_contact = uri(header(&request, "Contact")).to_owned();
        let contact = format!("Contact: <{}>;expires=600\r\n", phone.bound_contact);
        world.write(server, &answer(&request, "200 OK", "s", &contact));
        world.expect(wire, "SIP/2.0 200");
        // The server's own request comes over the connection that we opened, or over one of its own.
        let name = internal.via_name();
        let point = if internal == Transport::Tls { TLS } else { TCP };
        let own = world.connect_from(1 - server.shard, point, "127.0.0.1:45000".parse().expect("an address"));
        for (from, call) in [(server, "i1"), (own, "i2")] {
            let invite = phone.server_request("INVITE", call, 1).replace("SIP/2.0/UDP", &format!("SIP/2.0/{name}"));
            world.write(from, &invite);
            let invite = world.read(wire);
            world.write(wire, &answer(&invite, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
            let ok = world.read(from);
            let mut dialog = Dialog::caller(&ok);
            let via = format!("{name} {SERVER}");
            let ack = dialog.request("ACK", &via);
            world.write(from, &ack);
            world.expect(wire, "ACK ");
            let bye = dialog.request("BYE", &via);
            world.write(from, &bye);
            let bye = world.read(wire);
            world.write(wire, &answer(&bye, "200 OK", "", ""));
            world.expect(from, "SIP/2.0 200");
        }
        world.assert_silent();
        world.end();
    }
}

#[test]
fn a_servers_call_is_answered_though_the_connection_that_it_came_by_has_gone() {
    for internal in [Transport::Tcp, Transport::Tls] {
        for own_shard in 0..2 {
            let mut world = World::new(&Setup { internal, ..Setup::default() });
            let mut phone = Phone::new("alice", world.connect(1, TLS));
            phone.send_register(&mut world, 600);
            let (first, _) = world.opened[0];
            world.ready(first);
            let request = world.read(first);
            phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
            let contact = format!("Contact: {};expires=600\r\n", header(&request, "Contact"));
            phone.bound_contact = uri(header(&request, "Contact")).to_owned();
            world.write(first, &answer(&request, "200 OK", "s", &contact));
            world.expect(phone.wire, "SIP/2.0 200");
            let name = internal.via_name();
            let from = "127.0.0.1:45000".parse().expect("an address");
            let own = world.connect_from(own_shard, if internal == Transport::Tls { TLS } else { TCP }, from);
            let invite = phone.server_request("INVITE", "i", 1).replace("SIP/2.0/UDP", &format!("SIP/2.0/{name}"));
            world.write(own, &invite);
            let invite = world.read(phone.wire);
            world.hang_up(own);
            world.write(phone.wire, &answer(&invite, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
            // Over the connection of ours that the shard has, or the one that it opens.
            let wire = match world.opened.get(1) {
                Some((second, address)) => {
                    assert_eq!(address.to_string(), SERVER);
                    let second = *second;
                    world.ready(second);
                    second
                }
                None => first,
            };
            let mut dialog = Dialog::caller(&world.read(wire));
            world.write(wire, &dialog.request("ACK", &format!("{name} {SERVER}")));
            world.expect(phone.wire, "ACK ");
            assert_eq!(world.counted(Counter::ResponseByVia), 1);
            world.end();
        }
    }
}

#[test]
fn an_endpoints_answer_is_dropped_with_its_connection_whatever_its_via_says() {
    let mut world = World::new(&Setup { internal: Transport::Tcp, ..Setup::default() });
    let wire = world.connect(0, crate::world::TCP);
    let invite = format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP {SERVER};branch=z9hG4bKi1\r\nMax-Forwards: 70\r\n\
         From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: p1\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:a@192.0.2.7>\r\nContent-Length: 0\r\n\r\n"
    );
    world.write(wire, &invite);
    let (server, _) = world.opened[0];
    world.ready(server);
    let sent = world.read(server);
    world.hang_up(wire);
    world.write(server, &answer(&sent, "486 Busy Here", "s", ""));
    world.expect(server, "ACK ");
    assert_eq!((world.opened.len(), world.counted(Counter::ResponseConnectionGone)), (1, 1));
    world.assert_silent();
    world.end();
}

#[test]
fn split_at_every_byte_and_pipelined_in_one_segment_give_the_same_output() {
    let run = |write: &dyn Fn(&mut World, crate::world::Wire, &str)| {
        let mut world = World::new(&Setup::default());
        let wire = world.connect(0, TLS);
        let mut text = String::new();
        for at in 1..=3 {
            text += &format!(
                "OPTIONS sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKi{at}\r\n\
                 From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: p{at}\r\n\
                 CSeq: 1 OPTIONS\r\nl: 4\r\n\r\nbody"
            );
        }
        write(&mut world, wire, &text);
        (0..3).map(|_| world.read_server()).collect::<Vec<_>>()
    };
    let whole = run(&|world, wire, text| world.write(wire, text));
    let split = run(&|world, wire, text| {
        for byte in text.as_bytes() {
            world.write_bytes(wire, &[*byte]);
        }
    });
    assert_eq!(whole, split);
}

#[test]
fn an_ack_without_max_forwards_is_given_one() {
    let (mut world, phone) = registered();
    let (_, mut callee) = answered(&mut world, &phone, "c1");
    // The phone re-INVITEs, and its ACK to the 200 lacks Max-Forwards.
    let invite = callee.request("INVITE", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &invite);
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "", &format!("Contact: <sip:{SERVER}>\r\n")));
    world.read(phone.wire);
    let ack = callee.request("ACK", "TLS 192.0.2.7:5060").replace("Max-Forwards: 70\r\n", "");
    world.write(phone.wire, &ack);
    assert_eq!(header(&world.read_server(), "Max-Forwards"), "70");
    assert_eq!(world.counted(Counter::AckRefused), 0);
    world.pass(Duration::from_secs(1));
    world.end();
}

#[test]
fn a_connection_whose_certificate_names_the_server_is_the_servers_and_no_other_is() {
    use hawser::config::{Host, Verify};
    use hawser::tls::identity::Identities;

    for (verify, name, is_server) in [
        (Verify::Name, "sips1.example.com", true),
        (Verify::Name, "phone.example.com", false),
        (Verify::Chain, "sips1.example.com", false),
    ] {
        let mutate: fn(&mut hawser::engine::Settings) = match verify {
            Verify::Name => |settings| settings.servers[0].tls_name = Host::parse("sips1.example.com"),
            Verify::Chain => |settings| {
                settings.servers[0].tls_name = Host::parse("sips1.example.com");
                settings.servers[0].verify = Verify::Chain;
            },
        };
        let (mut world, phone) = registered_with(&Setup { mutate, ..Setup::default() });
        let peer = "10.0.0.9:40100".parse().unwrap();
        let wire = world.connect_mutual(1, TLS, peer, Identities { dns: vec![name.into()], ..Identities::default() });
        let text = phone.server_request("MESSAGE", "m1", 1).replace(&format!("UDP {SERVER}"), "TLS 10.0.0.9:5061");
        world.write(wire, &text);
        if is_server {
            assert!(world.read(phone.wire).starts_with("MESSAGE "), "a server reaches a phone by its token");
        } else {
            assert!(world.read_server().starts_with("MESSAGE "), "{verify:?} {name}: an endpoint reaches the server");
        }
    }
}
