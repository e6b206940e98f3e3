//! Devices that did not register (DESIGN.md, What it does on the wire, 5): one connection for the whole proxy, whom it
//! must find there, its use in both directions, and what becomes of it.

use hawser::config::{Device, Host, Network, PeerSetup, Verify};
use hawser::engine::{ConnectFailure, Expected};
use hawser::flow::keys::Keys;
use hawser::ids::SetupId;
use hawser::stats::Counter;

use crate::next_hop::{request, wide};
use crate::talk::{Dialog, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Sent, Setup, TCP, TLS, Wire, World};

const DEVICE: &str = "100.100.100.101:5061";

/// A device's URI with this user part.
fn at(user: &str, transport: &str) -> String {
    format!("sip:{user}@{DEVICE};transport={transport}")
}

fn setup() -> Setup {
    Setup { mutate: wide, ..Setup::default() }
}

/// User parts whose home is each of so many shards.
fn users(shards: u8) -> Vec<String> {
    let keys = Keys::new(&[7; 32]);
    let has_home = |user: &String, shard: u8| keys.user16(user.as_bytes()) % u16::from(shards) == u16::from(shard);
    (0..shards).map(|shard| (0..).map(|n| format!("u{n}")).find(|user| has_home(user, shard)).expect("one")).collect()
}

/// The device answers what it has got on a connection, and the server hears it.
fn answers(world: &mut World, device: Wire, status: &str) -> String {
    let sent = world.read(device);
    world.write(device, &answer(&sent, status, "d", ""));
    assert_eq!(start_line(&world.read_server()), format!("SIP/2.0 {status}"));
    sent
}

/// A call of the server to the device that is answered: the connection, and both ends' dialogs.
fn called(world: &mut World, transport: &str, call: &str) -> (Wire, Dialog, Dialog) {
    world.datagram(1, SERVER, &request("INVITE", &at("d", transport), call, ""));
    let (device, to, _) = world.dialled();
    assert_eq!(to.to_string(), DEVICE);
    world.ready(device);
    let invite = world.read(device);
    world.write(device, &answer(&invite, "180 Ringing", "d", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 180 Ringing");
    let contact = format!("Contact: <{}>\r\n", at("d", transport));
    world.write(device, &answer(&invite, "200 OK", "d", &contact));
    let ok = world.read_server();
    let mut server = Dialog::caller(&ok);
    let callee = Dialog::callee(&invite, "d");
    world.datagram(0, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    world.expect(device, "ACK ");
    world.assert_silent();
    (device, server, callee)
}

#[test]
fn there_is_one_connection_whichever_shard_a_request_lands_on_and_has_its_home_at() {
    for shards in [1, 2, 4] {
        for transport in ["tcp", "tls"] {
            let mut world = World::new(&Setup { shards, ..setup() });
            let mut device = None;
            for (n, user) in users(shards).iter().enumerate() {
                for landed in 0..shards {
                    let call = format!("{n}-{landed}");
                    world.datagram(landed, SERVER, &request("MESSAGE", &at(user, transport), &call, ""));
                    if device.is_none() {
                        let (wire, to, tls) = world.dialled();
                        assert_eq!(to.to_string(), DEVICE);
                        assert_eq!(tls.is_some(), transport == "tls");
                        world.assert_silent_but(wire);
                        world.ready(wire);
                        device = Some(wire);
                    }
                    let sent = answers(&mut world, device.expect("it is open"), "200 OK");
                    assert_eq!(start_line(&sent), format!("MESSAGE {} SIP/2.0", at(user, transport)));
                }
            }
            assert!(world.opened.is_empty(), "{shards} {transport}: {:?}", world.opened);
            world.end();
        }
    }
}

#[test]
fn a_call_lives_on_the_connection_in_both_directions() {
    for transport in ["tcp", "tls"] {
        let mut world = World::new(&setup());
        let (device, mut server, mut callee) = called(&mut world, transport, "c1");
        let via = format!("{} {DEVICE}", transport.to_uppercase());
        let info = callee.request("INFO", &via);
        world.write(device, &info);
        let info = world.read_server();
        assert_eq!(start_line(&info), format!("INFO sip:{SERVER} SIP/2.0"));
        assert!(headers(&info, "Route").is_empty(), "{info}");
        world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
        assert_eq!(start_line(&world.read(device)), "SIP/2.0 200 OK");
        // A call that the device begins.
        let invite = request("INVITE", "sip:9000@example.com", "c2", "").replace("UDP", &transport.to_uppercase());
        world.write(device, &invite.replace(SERVER, DEVICE));
        let invite = world.read_server();
        assert_eq!(headers(&invite, "Record-Route").len(), 2, "{invite}");
        world.datagram(1, SERVER, &answer(&invite, "486 Busy Here", "s", ""));
        world.expect_server("ACK ");
        assert_eq!(start_line(&world.read(device)), "SIP/2.0 486 Busy Here");
        world.write(device, &server.request("BYE", &format!("UDP {SERVER}")).replace("BYE", "ACK"));
        world.drain();

        world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
        answers(&mut world, device, "200 OK");
        assert!(world.opened.is_empty());
        world.drain();
        world.end();
    }
}

#[test]
fn a_device_over_udp_is_called_and_calls_like_any_other() {
    let mut world = World::new(&setup());
    let target = "sip:d@100.100.100.101:5070;transport=udp";
    world.datagram(0, SERVER, &request("INVITE", target, "c1", ""));
    let invite = world.read_udp("100.100.100.101:5070");
    world.datagram(1, "100.100.100.101:5070", &answer(&invite, "200 OK", "d", &format!("Contact: <{target}>\r\n")));
    let mut server = Dialog::caller(&world.read_server());
    let mut callee = Dialog::callee(&invite, "d");
    world.datagram(1, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    assert!(world.read_udp("100.100.100.101:5070").starts_with("ACK "));
    world.datagram(0, "100.100.100.101:5070", &callee.request("INFO", "UDP 100.100.100.101:5070"));
    let info = world.read_server();
    world.datagram(0, SERVER, &answer(&info, "200 OK", "", ""));
    assert_eq!(start_line(&world.read_udp("100.100.100.101:5070")), "SIP/2.0 200 OK");
    world.datagram(1, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
    let bye = world.read_udp("100.100.100.101:5070");
    world.datagram(0, "100.100.100.101:5070", &answer(&bye, "200 OK", "", ""));
    world.read_server();
    world.assert_silent();
    world.end();
}

#[test]
fn the_certificate_must_carry_the_address_or_what_its_network_says() {
    let rule = |network: &str, prefix_len, tls_name: Option<&str>, verify| Device {
        network: Network { address: network.parse().expect("an address"), prefix_len },
        tls_name: tls_name.map(|name| Host::parse(name).expect("a host")),
        verify,
        setup: None,
    };
    let expect = |devices: Vec<Device>, target: &str| {
        let mut world = World::new(&setup());
        world.resolver.set_zone(&["gw.test A 100.100.100.101"]);
        for engine in &mut world.engines {
            let mut settings = engine.settings().clone();
            settings.devices.clone_from(&devices);
            *engine = hawser::engine::Engine::new(settings, world.now);
        }
        world.datagram(0, SERVER, &request("MESSAGE", target, "a", ""));
        let (wire, _, tls) = world.dialled();
        world.ready(wire);
        answers(&mut world, wire, "200 OK");
        let tls = tls.expect("whom to expect");
        assert_eq!(tls.side, hawser::ids::Side::Endpoint);
        (tls.expected, tls.verify)
    };
    let ip = Expected::Address("100.100.100.101".parse().expect("an address"));
    let name = |name: &str| Expected::Name(name.to_owned());
    let named = "sip:d@gw.test:5061;transport=tls";
    assert_eq!(expect(Vec::new(), &at("d", "tls")), (ip.clone(), Verify::Name));
    assert_eq!(expect(Vec::new(), named), (name("gw.test"), Verify::Name));
    let chain =
        || vec![rule("100.100.100.0", 24, None, Verify::Chain), rule("10.0.0.0", 8, Some("x.test"), Verify::Name)];
    assert_eq!(expect(chain(), &at("d", "tls")), (ip, Verify::Chain));
    assert_eq!(expect(chain(), named), (name("gw.test"), Verify::Chain));
    let set = || vec![rule("100.100.0.0", 16, Some("gateways.test"), Verify::Name)];
    assert_eq!(expect(set(), &at("d", "tls")), (name("gateways.test"), Verify::Name));
    assert_eq!(expect(set(), named), (name("gateways.test"), Verify::Name));
}

#[test]
fn devices_of_a_network_are_reached_by_its_own_set_up_of_tls() {
    let mut world = World::new(&setup());
    let rule = |network: &str, setup: Option<u16>| Device {
        network: Network { address: network.parse().expect("an address"), prefix_len: 32 },
        tls_name: None,
        verify: Verify::Name,
        setup: setup.map(|id| PeerSetup { id: SetupId(id), own_trust: true }),
    };
    for engine in &mut world.engines {
        let mut settings = engine.settings().clone();
        settings.devices = vec![rule("100.100.100.101", Some(7)), rule("100.100.100.102", None)];
        *engine = hawser::engine::Engine::new(settings, world.now);
    }
    for (address, setup) in [("100.100.100.101", Some(7)), ("100.100.100.102", None), ("100.100.100.103", None)] {
        // By a name or by itself, and from whichever shard it is asked for.
        for user in users(2) {
            let uri = format!("sip:{user}@{address};transport=tls");
            world.datagram(0, SERVER, &request("MESSAGE", &uri, &format!("{user}-{address}"), ""));
        }
        let (wire, _, tls) = world.dialled();
        assert_eq!(tls.expect("whom to expect").setup, setup.map(SetupId), "{address}");
        assert!(world.opened.is_empty(), "one connection for the whole proxy");
        world.ready(wire);
        for _ in 0..2 {
            answers(&mut world, wire, "200 OK");
        }
    }
    world.end();
}

#[test]
fn a_certificate_that_is_refused_is_502_at_once_and_while_the_device_rests() {
    let mut world = World::new(&setup());
    world.datagram(0, SERVER, &request("MESSAGE", &at("d", "tls"), "a", ""));
    let (wire, _, _) = world.dialled();
    world.fail(wire, ConnectFailure::Tls);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 502 Certificate Refused");
    for (n, user) in users(2).iter().enumerate() {
        world.datagram(0, SERVER, &request("MESSAGE", &at(user, "tls"), &format!("b{n}"), ""));
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 502 Certificate Refused");
    }
    assert!(world.opened.is_empty(), "it rests");
    assert_eq!(world.counted(Counter::Refused502Certificate), 3);
    world.pass_s(1);
    world.datagram(0, SERVER, &request("MESSAGE", &at("d", "tls"), "c", ""));
    let (wire, _, _) = world.dialled();
    world.ready(wire);
    answers(&mut world, wire, "200 OK");
    world.end();
}

#[test]
fn a_device_that_refuses_or_cannot_be_reached_is_503_without_retry_after() {
    for failure in [ConnectFailure::Refused, ConnectFailure::Unreachable, ConnectFailure::Timeout] {
        let mut world = World::new(&setup());
        for (n, user) in users(2).iter().enumerate() {
            world.datagram(0, SERVER, &request("INVITE", &at(user, "tcp"), &format!("a{n}"), ""));
            if n == 0 {
                let (wire, _, _) = world.dialled();
                if failure == ConnectFailure::Timeout {
                    // Nobody says anything: the handshake's time ends it.
                    world.pass_s(10);
                    assert_eq!(start_line(&world.read_server()), "SIP/2.0 100 Trying");
                    assert_eq!(world.closed.pop().map(|(closed, _)| closed), Some(wire));
                } else {
                    world.fail(wire, failure);
                }
            }
            let refused = world.read_server();
            assert_eq!(start_line(&refused), "SIP/2.0 503 No Target Left");
            assert!(headers(&refused, "Retry-After").is_empty());
        }
        assert!(world.opened.is_empty());
        world.pass_s(60);
        world.drain();
        world.end();
    }
}

#[test]
fn a_lost_connection_is_opened_again_for_what_belongs_to_the_device() {
    for transport in ["tcp", "tls"] {
        let mut world = World::new(&setup());
        let (device, mut server, _) = called(&mut world, transport, "c1");
        world.hang_up(device);
        assert!(world.opened.is_empty(), "nobody wants it");
        // By the token of its dialog, which names the connection that is gone.
        world.datagram(1, SERVER, &server.request("INFO", &format!("UDP {SERVER}")));
        let (device, to, _) = world.dialled();
        assert_eq!(to.to_string(), DEVICE);
        world.ready(device);
        let info = answers(&mut world, device, "200 OK");
        assert!(headers(&info, "Route").is_empty(), "{info}");
        // And what comes after uses the same.
        world.datagram(0, SERVER, &request("MESSAGE", &at("d", transport), "m", ""));
        answers(&mut world, device, "200 OK");
        world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
        answers(&mut world, device, "200 OK");
        assert!(world.opened.is_empty());
        world.end();
    }
}

#[test]
fn a_request_that_crosses_the_end_of_an_idle_connection_is_sent_again_once() {
    for (lost_again, last) in [(false, "SIP/2.0 200 OK"), (true, "SIP/2.0 503 No Target Left")] {
        let mut world = World::new(&setup());
        world.datagram(0, SERVER, &request("MESSAGE", &at("d", "tls"), "a", ""));
        let (first, _, _) = world.dialled();
        world.ready(first);
        let sent = world.read(first);
        world.hang_up(first);
        let (second, _, _) = world.dialled();
        world.ready(second);
        assert_eq!(world.read(second), sent);
        if lost_again {
            world.hang_up(second);
        } else {
            world.write(second, &answer(&sent, "200 OK", "d", ""));
        }
        assert_eq!(start_line(&world.read_server()), last);
        assert!(world.opened.is_empty());
        world.end();
    }
}

#[test]
fn an_ack_and_a_cancel_whose_connection_is_gone_open_it_again() {
    for transport in ["tcp", "tls"] {
        let mut world = World::new(&setup());
        world.datagram(1, SERVER, &request("INVITE", &at("d", transport), "c1", ""));
        let (device, _, _) = world.dialled();
        world.ready(device);
        let invite = world.read(device);
        let contact = format!("Contact: <{}>\r\n", at("d", transport));
        world.write(device, &answer(&invite, "200 OK", "d", &contact));
        let mut server = Dialog::caller(&world.read_server());
        world.hang_up(device);
        world.datagram(0, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
        let (device, _, _) = world.dialled();
        world.ready(device);
        let ack = world.read(device);
        assert_eq!(start_line(&ack), format!("ACK {} SIP/2.0", at("d", transport)));
        assert!(headers(&ack, "Via")[0].contains(&transport.to_uppercase()), "{ack}");

        world.datagram(1, SERVER, &request("INVITE", &at("d", transport), "c2", ""));
        let invite = world.read(device);
        world.write(device, &answer(&invite, "180 Ringing", "d", ""));
        world.read_server();
        world.hang_up(device);
        let cancel = request("CANCEL", &at("d", transport), "c2", "").replace("nCANCEL", "nINVITE");
        world.datagram(0, SERVER, &cancel);
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
        let (device, _, _) = world.dialled();
        world.ready(device);
        let cancel = world.read(device);
        assert_eq!(start_line(&cancel), format!("CANCEL {} SIP/2.0", at("d", transport)));
        assert_eq!(headers(&cancel, "Via")[0], headers(&invite, "Via")[0]);
        world.write(device, &answer(&cancel, "200 OK", "d", ""));
        world.write(device, &answer(&invite, "487 Request Terminated", "d", ""));
        world.expect(device, "ACK ");
        assert_eq!(start_line(&world.read_server()), "SIP/2.0 487 Request Terminated");
        world.drain();
        world.end();
    }
}

#[test]
fn a_ringing_device_that_comes_back_by_itself_is_heard() {
    let mut world = World::new(&setup());
    world.datagram(1, SERVER, &request("INVITE", &at("d", "tls"), "c1", ""));
    let (device, _, _) = world.dialled();
    world.ready(device);
    let invite = world.read(device);
    world.write(device, &answer(&invite, "180 Ringing", "d", ""));
    world.read_server();
    world.hang_up(device);
    let own = world.connect_from(0, TLS, "100.100.100.101:40444".parse().expect("an address"));
    world.write(own, &answer(&invite, "486 Busy Here", "d", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 486 Busy Here");
    // Its ACK goes where the INVITE went.
    let (device, to, _) = world.dialled();
    assert_eq!(to.to_string(), DEVICE);
    world.ready(device);
    world.expect(device, "ACK ");
    world.drain();
    world.end();
}

#[test]
fn what_a_lost_connections_contact_says_opens_nothing_over_another_transport_and_asks_no_resolver() {
    let contacts = [
        "sip:d@100.100.100.101:5061;transport=tls",
        "sip:d@100.100.100.101:5061",
        "sip:d@gw.test:5061;transport=tcp",
        "sip:d@gw.test;transport=tcp",
        "sips:d@100.100.100.101:5061;transport=tcp",
        "sip:d@0.0.0.0:5061;transport=tcp",
    ];
    for contact in contacts {
        let mut world = World::new(&setup());
        // Somebody calls over TCP, says what its Contact is, and is gone.
        let wire = world.connect(1, TCP);
        let invite = request("INVITE", "sip:9000@example.com", "c1", "").replace("UDP", "TCP");
        world.write(wire, &invite.replace(&format!("<sip:{SERVER}>"), &format!("<{contact}>")));
        let invite = world.read_server();
        assert_eq!(uri(header(&invite, "Contact")), contact);
        world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
        world.read(wire);
        let mut server = Dialog::callee(&invite, "s");
        world.hang_up(wire);
        world.datagram(1, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
        world.assert_silent();
        world.datagram(1, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
        let gone = world.read_server();
        assert!(gone.starts_with("SIP/2.0 480"), "{contact}: {gone}");
        assert!(world.opened.is_empty(), "{contact}: {:?}", world.opened);
        let asked = world.resolver.asked.iter().find(|asked| !asked.ends_with("example.com"));
        assert_eq!(asked, None, "{contact}");
        world.end();
    }
}

#[test]
fn a_request_that_is_cancelled_before_the_device_is_there_is_never_sent() {
    let mut world = World::new(&Setup { shards: 2, ..setup() });
    world.hold_mail = true;
    // The user's home and the device's shard are two; the answer is still under way.
    for (n, user) in users(2).iter().enumerate() {
        let call = format!("c{n}");
        let landed = u8::try_from(n).expect("few");
        world.datagram(landed, SERVER, &request("INVITE", &at(user, "tls"), &call, ""));
        world.datagram(landed, SERVER, &request("CANCEL", &at(user, "tls"), &call, "").replace("nCANCEL", "nINVITE"));
    }
    while world.mails() > 0 {
        world.deliver_mail(0, false);
    }
    world.hold_mail = false;
    world.pass_ms(0);
    let (wire, _, _) = world.dialled();
    world.ready(wire);
    let mut answers: Vec<String> = Vec::new();
    for sent in world.drain() {
        match sent {
            Sent::Datagram { text, .. } => answers.push(start_line(&text).to_owned()),
            // Of one whose device was on its own shard the INVITE has gone: it is cancelled when it is heard.
            Sent::Stream { text, .. } => assert!(text.starts_with("INVITE "), "{text}"),
        }
    }
    answers.sort();
    assert_eq!(answers[..2], ["SIP/2.0 200 OK", "SIP/2.0 200 OK"]);
    assert!(answers[2..].iter().all(|answer| answer == "SIP/2.0 487 Request Terminated"), "{answers:?}");
    assert!(answers.len() > 2, "one waited for the device's shard");
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn a_full_mailbox_towards_the_devices_shard_is_503_and_not_silence() {
    let mut world = World::new(&Setup { shards: 2, ..setup() });
    let keys_home = users(2);
    world.hold_mail = true;
    for (n, user) in keys_home.iter().enumerate() {
        world.datagram(
            u8::try_from(n).expect("few"),
            SERVER,
            &request("MESSAGE", &at(user, "tcp"), &format!("c{n}"), ""),
        );
    }
    assert_eq!(world.mails(), 1, "one of them is not the device's");
    world.deliver_mail(0, true);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 503 No Target Left");
    world.hold_mail = false;
    let (wire, _, _) = world.dialled();
    world.ready(wire);
    answers(&mut world, wire, "200 OK");
    world.end();
}

#[test]
fn a_udp_device_that_was_called_over_tcp_for_the_requests_size_is_reached_over_udp_when_that_is_lost() {
    let mut world = World::new(&setup());
    let device = "100.100.100.101:5070";
    let target = format!("sip:d@{device}");
    let large = |call: &str| {
        let subject = format!("Subject: {}\r\n", "x".repeat(1_200));
        request("INVITE", &target, call, &subject)
    };
    // The first goes over UDP, and a connection is opened for those to come.
    world.datagram(0, SERVER, &large("c1"));
    let invite = world.read_udp(device);
    world.datagram(0, device, &answer(&invite, "486 Busy Here", "d", ""));
    world.drain();
    let (tcp, to, _) = world.dialled();
    assert_eq!(to.to_string(), device);
    world.ready(tcp);
    world.datagram(0, SERVER, &large("c2"));
    let invite = world.read(tcp);
    world.write(tcp, &answer(&invite, "200 OK", "d", &format!("Contact: <{target}>\r\n")));
    let mut server = Dialog::caller(&world.read_server());
    world.hang_up(tcp);
    world.datagram(1, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    assert!(world.read_udp(device).starts_with("ACK "));
    world.datagram(1, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
    let bye = world.read_udp(device);
    world.datagram(0, device, &answer(&bye, "200 OK", "", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.drain();
    world.pass_s(60);
    world.drain();
    world.end();
}

#[test]
fn a_cancelled_invite_whose_connection_is_lost_unheard_is_over_and_not_sent_again() {
    let mut world = World::new(&setup());
    world.datagram(1, SERVER, &request("INVITE", &at("d", "tcp"), "c1", ""));
    let (device, _, _) = world.dialled();
    world.ready(device);
    world.read(device);
    world.datagram(0, SERVER, &request("CANCEL", &at("d", "tcp"), "c1", "").replace("nCANCEL", "nINVITE"));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.hang_up(device);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 487 Request Terminated");
    assert!(world.opened.is_empty());
    world.drain();
    world.end();
}
