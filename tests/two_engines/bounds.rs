//! What holds at a bound, when a mailbox is full, and what keeps a connection alive.

use hawser::engine::{CloseReason, ConnectFailure, Settings, Sticky};
use hawser::ids::Transport;
use hawser::limits::{BINDINGS_PER_FLOW_MAX, FIELDS_MAX, HEADER_BLOCK_LEN_MAX, PINGS_PER_READ_MAX};
use hawser::stats::{Counter, Gauge};

use crate::calls::{answered, registered, registered_with};
use crate::stage::{ask, cancel};
use crate::talk::{Phone, answer, headers, start_line};
use crate::world::{SERVER, Setup, TCP, TLS, Wire, World};

/// An OPTIONS to the proxy itself.
fn check(via: &str, call: &str) -> String {
    format!(
        "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{via};branch=z9hG4bK{call}\r\n\
         From: <sip:a@example.com>;tag=a\r\nTo: <sip:127.0.0.1>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// Refuses every mail that may be refused, until there is none.
fn refuse_all(world: &mut World) {
    while world.mails() > 0 {
        world.deliver_mail(0, true);
    }
    world.hold_mail = false;
}

#[test]
fn a_full_mailbox_says_503_and_leaves_the_binding_alone() {
    // By AOR the home asks, and the flow is another shard's.
    let (mut world, mut phone) = registered_with(&Setup { sticky: Sticky::Aor, shards: 2, ..Setup::default() });
    phone.bound_contact = format!("sip:{}@example.com", phone.user);
    world.hold_mail = true;
    let request = phone.server_request("INVITE", "c1", 1);
    world.datagram(0, SERVER, &request);
    refuse_all(&mut world);
    let refused = world.expect_server("SIP/2.0 503");
    assert_eq!(headers(&refused, "Retry-After").len(), 1);
    assert_eq!(world.counted(Counter::BindingFlowLost), 0);
    let (_, message) = phone.asked(&mut world, "MESSAGE", "c2");
    world.write(phone.wire, &answer(&message, "200 OK", "p", ""));
    world.drain();
    world.end();
}

#[test]
fn a_full_mailbox_loses_no_news_of_a_connection() {
    let (mut world, phone) = registered();
    world.hold_mail = true;
    world.hang_up(phone.wire);
    refuse_all(&mut world);
    assert_eq!(world.counted(Counter::BindingFlowLost), 1);
    world.end();
}

#[test]
fn one_flow_carries_so_many_bindings_and_no_more() {
    let mutate = |settings: &mut hawser::engine::Settings| {
        (settings.connections_max, settings.transactions_max) = (2_000, 5_000);
    };
    let mut world = World::new(&Setup { shards: 1, mutate, ..Setup::default() });
    let wire = world.connect(0, TLS);
    for at in 0..=BINDINGS_PER_FLOW_MAX {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7;branch=z9hG4bKr{at}\r\n\
             From: <sip:g{at}@example.com>;tag=r\r\nTo: <sip:g{at}@example.com>\r\nCall-ID: g{at}\r\n\
             CSeq: 1 REGISTER\r\nContact: <sip:g{at}@192.0.2.7>\r\nContent-Length: 0\r\n\r\n"
        );
        world.write(wire, &text);
        let request = world.read_server();
        world.datagram(0, SERVER, &answer(&request, "200 OK", "s", ""));
        world.expect(wire, "SIP/2.0 200");
        let bound = world.engines[0].locate(&format!("g{at}@example.com"), world.now).len();
        assert_eq!(bound, usize::from(at < BINDINGS_PER_FLOW_MAX), "{at}");
    }
    assert_eq!(world.counted(Counter::LimitBindingsPerFlow), 1);
    world.end();
}

#[test]
fn what_has_moved_away_gives_way_at_the_bound() {
    let mutate = |settings: &mut hawser::engine::Settings| {
        (settings.connections_max, settings.transactions_max) = (2_000, 5_000);
    };
    let mut world = World::new(&Setup { shards: 1, mutate, ..Setup::default() });
    let first = world.connect(0, TLS);
    let second = world.connect(0, TLS);
    let mut phone = Phone::new("alice", first);
    for at in 0..=BINDINGS_PER_FLOW_MAX {
        // A phone that has a new instance-id each time, and then moves.
        phone.params = "";
        phone.contact = format!("sip:alice@192.0.2.7:{}", 10_000 + at);
        for wire in [first, second] {
            phone.wire = wire;
            let text = phone.register_text(600).replace("Call-ID: reg-alice", &format!("Call-ID: r{at}"));
            world.write(wire, &text);
            phone.accept_register(&mut world, 600);
            world.expect(wire, "SIP/2.0 200");
        }
    }
    assert_eq!(world.counted(Counter::LimitBindingsPerFlow), 0);
    assert_eq!(world.engines[0].locate("alice@example.com", world.now).len(), 128);
    world.end();
}

/// Of a gateway that does not register: its call waits in a queue for longer than a connection may be idle.
#[test]
fn an_idle_connection_stays_as_long_as_an_answer_may_be_owed_over_it_and_no_longer() {
    for (rings, answered) in [(false, true), (true, true), (false, false)] {
        let mut world = World::new(&Setup::default());
        let gateway = world.connect(0, TCP);
        let method = if answered { "INVITE" } else { "MESSAGE" };
        let text = check("TCP 192.0.2.7", "g").replace("OPTIONS", method).replacen(
            "sip:127.0.0.1:5060",
            "sip:q@example.com",
            1,
        );
        world.write(gateway, &text);
        let sent = world.read_server();
        for _ in 0..if rings { 5 } else { 1 } {
            world.datagram(0, SERVER, &answer(&sent, "182 Queued", "q", ""));
            world.pass_s(170);
        }
        if answered {
            world.datagram(0, SERVER, &answer(&sent, "200 OK", "q", ""));
            let said: Vec<String> = std::iter::from_fn(|| world.try_read(gateway)).collect();
            assert!(said.last().is_some_and(|text| text.starts_with("SIP/2.0 200")), "{said:?}");
        }
        world.pass_s(if answered { 121 } else { 320 });
        assert_eq!(world.closed, [(gateway, CloseReason::Idle)]);
        world.drain();
        world.end();
    }
}

#[test]
fn pings_keep_alive_what_a_message_has_begun_and_nothing_else() {
    let mut world = World::new(&Setup::default());
    let silent = world.connect(0, TLS);
    let phone = world.connect(0, TLS);
    world.write(phone, &check("TLS 192.0.2.7", "o"));
    world.read(phone);
    for _ in 0..31 {
        world.pass_s(10);
        for wire in [silent, phone] {
            if world.closed.iter().all(|(closed, _)| *closed != wire) {
                world.write(wire, "\r\n\r\n");
                assert_eq!(world.read(wire), "\r\n");
            }
        }
    }
    assert_eq!(world.closed, [(silent, CloseReason::FirstMessageTimeout)]);
    world.pass_s(121);
    assert_eq!(world.closed[1], (phone, CloseReason::Idle));
    world.end();
}

#[test]
fn the_pings_of_a_read_get_one_answer_and_too_many_of_them_end_the_connection() {
    let mut world = World::new(&Setup::default());
    let (wire, other) = (world.connect(0, TCP), world.connect(0, TLS));
    world.write(wire, &"\r\n\r\n".repeat(PINGS_PER_READ_MAX));
    assert_eq!(world.read(wire), "\r\n");
    world.write(wire, &format!("\r\n\r\n{}\r\n\r\n", check("TCP 10.0.0.1:5060", "c1")));
    assert_eq!(world.read(wire), "\r\n");
    world.expect(wire, "SIP/2.0 200");
    world.assert_silent();
    assert!(world.closed.is_empty());
    world.write(wire, &"\r\n\r\n".repeat(PINGS_PER_READ_MAX + 1));
    assert_eq!(world.closed, [(wire, CloseReason::Pings)]);
    assert_eq!(world.counted(Counter::LimitPingsPerRead), 1);
    world.write(other, "\r\n\r\n");
    assert_eq!(world.read(other), "\r\n");
    world.drain();
    world.end();
}

#[test]
fn a_datagram_that_only_keeps_a_nat_open_is_no_fault() {
    let mut world = World::new(&Setup::default());
    for text in ["\r\n\r\n", "\r\n", "\0\0\0\0", ""] {
        world.datagram(0, "10.0.0.9:5060", text);
    }
    world.assert_silent();
    assert!(world.events.is_empty(), "{:?}", world.events);
    assert_eq!(world.counted(Counter::KeepalivePing), 4);
    world.end();
}

#[test]
fn over_udp_an_endpoint_is_answered_at_its_source_and_a_server_at_its_via() {
    let mut world = World::new(&Setup {
        shards: 1,
        mutate: |settings| settings.live.trusted.push(("10.7.0.1".parse().expect("an address"), 32)),
        ..Setup::default()
    });
    for (at, (from, via, to)) in [
        ("10.0.0.9:1111", "10.0.0.9:2222", "10.0.0.9:2222"),
        ("10.0.0.9:1111", "10.0.0.9", "10.0.0.9:5060"),
        ("10.0.0.9:1111", "10.0.0.9:2222;rport", "10.0.0.9:1111"),
        ("10.0.0.9:1111", "192.168.1.2:2222", "10.0.0.9:1111"),
        ("10.0.0.9:1111", "phone.example.com", "10.0.0.9:1111"),
        ("10.0.0.9:1111", "10.0.0.9:2222;maddr=10.6.6.6", "10.0.0.9:2222"),
        ("10.7.0.1:1111", "sips.example.com:2222", "10.7.0.1:2222"),
        ("10.7.0.1:1111", "sips.example.com:2222;rport", "10.7.0.1:1111"),
    ]
    .into_iter()
    .enumerate()
    {
        world.datagram(0, from, &check(&format!("UDP {via}"), &format!("o{at}")));
        assert!(world.read_udp(to).starts_with("SIP/2.0 200"), "{via}");
    }
    world.end();
}

#[test]
fn a_lost_server_counts_as_back_when_it_is_to_be_tried_again() {
    let mut world = World::new(&Setup { internal: Transport::Tcp, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.send_register(&mut world, 600);
    world.fail(world.opened[0].0, ConnectFailure::Refused);
    world.expect(wire, "SIP/2.0 503");
    world.write(wire, &check("TLS 192.0.2.7", "o1"));
    world.expect(wire, "SIP/2.0 503");
    world.pass_s(1);
    world.write(wire, &check("TLS 192.0.2.7", "o2"));
    world.expect(wire, "SIP/2.0 200");
    world.end();
}

#[test]
fn a_servers_503_goes_on_with_a_retry_after() {
    for own in ["", "Retry-After: 77\r\n"] {
        let mut world = World::new(&Setup::default());
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        phone.send_register(&mut world, 600);
        let request = world.read_server();
        world.datagram(0, SERVER, &answer(&request, "503 Busy", "s", own));
        let response = world.read(wire);
        assert_eq!(start_line(&response), "SIP/2.0 503 Busy");
        let after = headers(&response, "Retry-After");
        assert_eq!(after.len(), 1, "{response}");
        assert!(own.is_empty() || after == ["77"]);
        world.end();
    }
}

#[test]
fn a_cancel_follows_to_the_servers_next_connection() {
    let mut world = World::new(&Setup { internal: Transport::Tcp, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let invite = ask("INVITE", "p1");
    world.write(wire, &invite);
    let (first, _) = world.opened[0];
    world.ready(first);
    let sent = world.read(first);
    world.write(first, &answer(&sent, "180 Ringing", "s", ""));
    world.read(wire);
    world.hang_up(first);
    world.write(wire, &cancel(&invite));
    world.expect(wire, "SIP/2.0 200");
    let (second, _) = world.opened[1];
    world.ready(second);
    let cancel = world.read(second);
    assert!(cancel.starts_with("CANCEL "));
    world.write(second, &answer(&cancel, "200 OK", "s", ""));
    world.write(second, &answer(&sent, "487 Request Terminated", "s", ""));
    world.expect(second, "ACK ");
    world.expect(wire, "SIP/2.0 487");
    world.end();
}

#[test]
fn a_phone_that_comes_back_over_another_transport_gets_the_invite_with_its_via() {
    for (udp, via) in [(false, "SIP/2.0/TCP 127.0.0.1:5060"), (true, "SIP/2.0/UDP 127.0.0.1:5060")] {
        let (mut world, mut phone) = registered();
        let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
        world.hang_up(phone.wire);
        let address = "10.9.9.9:40000";
        let text = phone.register_text(600);
        if udp {
            world.datagram(1, address, &text);
        } else {
            phone.wire = world.connect(0, crate::world::TCP);
            world.write(phone.wire, &text);
        }
        phone.accept_register(&mut world, 600);
        let texts: Vec<String> = if udp {
            std::iter::from_fn(|| world.try_read_udp(address)).collect()
        } else {
            std::iter::from_fn(|| world.try_read(phone.wire)).collect()
        };
        let again = texts.iter().find(|text| text.starts_with("INVITE ")).expect("the INVITE follows");
        assert!(headers(again, "Via")[0].starts_with(via), "{again}");
        let branch = |text: &str| headers(text, "Via")[0].split("branch=").nth(1).map(str::to_owned);
        assert_eq!(branch(again), branch(&invite));
        world.datagram(0, address, &answer(again, "486 Busy Here", "p", ""));
        world.drain();
        world.end();
    }
}

#[test]
fn a_dialog_of_an_endpoint_that_did_not_register_lives_as_long_as_its_flow() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(1, TLS);
    let mut caller = Phone::new("trunk", wire);
    caller.bound_contact = caller.contact.clone();
    world.write(wire, &ask("INVITE", "p1"));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s1", &format!("Contact: <sip:{SERVER}>\r\n")));
    world.read(wire);
    let mut server = crate::talk::Dialog::callee(&sent, "s1");
    let info = server.request("INFO", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &info);
    let info = world.read(wire);
    world.write(wire, &answer(&info, "200 OK", "", ""));
    world.read_server();
    world.hang_up(wire);
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &bye);
    assert!(world.read_server().starts_with("SIP/2.0 480"), "nobody is waited for");
    world.end();
}

#[test]
fn a_ringing_call_ends_by_timer_c_though_the_servers_connection_never_comes_back() {
    let mut world = World::new(&Setup { internal: Transport::Tcp, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.bound_contact = phone.contact.clone();
    let invite = phone.server_request("INVITE", "c1", 1).replace(&format!("UDP {SERVER}"), "TLS 192.0.2.7:5060");
    world.write(wire, &invite);
    let (first, _) = world.opened[0];
    world.ready(first);
    let sent = world.read(first);
    world.write(first, &answer(&sent, "180 Ringing", "s", ""));
    world.hang_up(first);
    world.drain();
    world.pass_s(100);
    world.write(wire, "\r\n\r\n");
    world.read(wire);
    world.pass_s(81);
    if let Some((second, _)) = world.opened.get(1).copied() {
        world.fail(second, ConnectFailure::Refused);
    }
    world.pass_s(33);
    world.expect(wire, "SIP/2.0 408");
    world.end();
}

#[test]
fn an_answered_call_is_not_disturbed_by_a_full_mailbox() {
    let (mut world, phone) = registered_with(&Setup { shards: 2, ..Setup::default() });
    let (mut server, _) = answered(&mut world, &phone, "c1");
    world.hold_mail = true;
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    // It lands where its flow is not: refused there, and tried again.
    world.datagram(0, SERVER, &bye);
    refuse_all(&mut world);
    world.expect_server("SIP/2.0 503");
    world.datagram(1, SERVER, &bye);
    let bye = world.read(phone.wire);
    world.write(phone.wire, &answer(&bye, "200 OK", "", ""));
    world.expect_server("SIP/2.0 200");
    world.end();
}

#[test]
fn a_shard_full_of_phones_still_reaches_its_server() {
    use hawser::engine::{Accept, Refusal};
    let setup = Setup {
        shards: 1,
        internal: hawser::ids::Transport::Tcp,
        mutate: |settings| settings.connections_max = 3,
        ..Setup::default()
    };
    let mut world = World::new(&setup);
    let wires = [(); 3].map(|()| world.connect(0, TLS));
    let now = world.now;
    let accept = Accept { point: TLS, peer: "10.0.0.2:1".parse().expect("an address"), is_forwarded: false };
    assert_eq!(world.engines[0].accept(accept, now), Err(Refusal::Connections));
    let mut phone = Phone::new("alice", wires[0]);
    let text = phone.register_text(60);
    world.write(wires[0], &text);
    assert_eq!(world.opened.len(), 1, "the connection to the server has its place");
    let (server, _) = world.opened[0];
    world.ready(server);
    let request = world.read(server);
    world.write(server, &answer(&request, "403 Forbidden", "s", ""));
    assert!(world.read(wires[0]).starts_with("SIP/2.0 403"));
    let accept =
        Accept { point: crate::world::TCP, peer: "127.0.0.1:1".parse().expect("an address"), is_forwarded: false };
    assert!(world.engines[0].accept(accept, now).is_ok(), "nor is the server's own refused");
    world.end();
}

fn timers(world: &World) -> Vec<u64> {
    world.engines.iter().map(|engine| engine.snapshot().gauges.of(Gauge::Timers)).collect()
}

#[test]
fn a_udp_phone_that_comes_and_goes_leaves_no_timer_behind() {
    for shards in [1, 2] {
        let mut world = World::new(&Setup { shards, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut phone = Phone { via: "UDP", ..Phone::new("alice", wire) };
        phone.register(&mut world, 3_600);
        world.pass_s(100);
        let before = timers(&world);
        for at in 0..100 {
            // A new port each time, and each time for the longest that there is.
            let from = format!("10.9.9.9:{}", 40_000 + at);
            phone.call_id = format!("c{at}");
            for expires in [7 * 24 * 3_600, 0] {
                let text = phone.register_text(expires).replace("alice", "bob");
                world.datagram(1, &from, &text);
                phone.accept_register(&mut world, expires);
                assert!(world.read_udp(&from).starts_with("SIP/2.0 200"));
            }
        }
        world.pass_s(100);
        assert_eq!(timers(&world), before, "{shards}");
        world.end();
    }
}

#[test]
fn a_udp_phone_that_moves_keeps_one_timer_for_its_binding_and_one_for_each_address() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone { via: "UDP", ..Phone::new("alice", wire) };
    world.hang_up(wire);
    let before = timers(&world)[0];
    for at in 0..100 {
        let from = format!("10.9.9.9:{}", 40_000 + at);
        let text = phone.register_text(300);
        world.datagram(1, &from, &text);
        phone.accept_register(&mut world, 300);
        assert!(world.read_udp(&from).starts_with("SIP/2.0 200"));
        world.pass_s(100);
    }
    // The last three addresses have not ended yet.
    assert!(timers(&world)[0] <= before + 1 + 3, "{:?}", timers(&world));
    world.end();
}

/// A REGISTER of a phone without an instance-id, which is accepted: `sip:USER@192.0.2.7:PORT`.
fn register_plainly(world: &mut World, wire: Wire, user: &str, port: u16, cseq: u32) {
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7;branch=z9hG4bKr{user}{cseq}\r\n\
         From: <sip:{user}@example.com>;tag=r\r\nTo: <sip:{user}@example.com>\r\nCall-ID: {user}\r\n\
         CSeq: {cseq} REGISTER\r\nContact: <sip:{user}@192.0.2.7:{port}>\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n"
    );
    world.write(wire, &text);
    let request = world.read_server();
    world.datagram(0, SERVER, &answer(&request, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
}

/// The server asks for a Contact, and what comes of it: 480, or a connection or datagram to the address.
fn ask_contact(world: &mut World, user: &str, port: u16, id: &str) -> String {
    let text = ask("OPTIONS", id)
        .replace("sip:bob@example.com SIP", &format!("sip:{user}@192.0.2.7:{port} SIP"))
        .replace("TLS 192.0.2.7:5060", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &text);
    match world.try_read_udp(&format!("192.0.2.7:{port}")) {
        Some(_) => "sent".to_owned(),
        None => start_line(&world.read_server())[8..11].to_owned(),
    }
}

/// 512 connections have room for 1,024 bindings.
fn of_1024(settings: &mut Settings) {
    (settings.connections_max, settings.transactions_max) = (512, 20_000);
}

#[test]
fn phones_that_come_back_over_new_ports_fill_no_table() {
    for shards in [1, 2] {
        let mut world = World::new(&Setup { sticky: Sticky::Aor, shards, mutate: of_1024, ..Setup::default() });
        for round in 0..6_u16 {
            let wire = world.connect(u8::try_from(round).expect("few") % shards, TLS);
            for at in 0..500 {
                register_plainly(&mut world, wire, &format!("p{at}"), 10_000 + round, 1 + u32::from(round));
            }
            world.pass_s(300);
            world.hang_up(wire);
        }
        assert_eq!(world.counted(Counter::LimitBindings), 0, "{shards}");
        for at in [0, 499] {
            assert_eq!(
                ask_contact(&mut world, &format!("p{at}"), 10_005, &format!("o{at}")),
                "480",
                "its phone is lost"
            );
        }
        assert_eq!(ask_contact(&mut world, "gateway", 10_005, "d"), "sent", "a device is one");
        world.drain();
        world.end();
    }
}

/// More are lost than there is room for: what is forgotten is no device for all that, until its registration ends.
#[test]
fn a_full_directory_takes_no_lost_phones_contact_for_a_devices() {
    for shards in [1, 2] {
        let mut world = World::new(&Setup { sticky: Sticky::Aor, shards, mutate: of_1024, ..Setup::default() });
        for round in 0..3_u16 {
            let wire = world.connect(0, TLS);
            for at in 0..1_000 {
                register_plainly(&mut world, wire, &format!("p{round}-{at}"), 10_000, 1);
            }
            world.hang_up(wire);
        }
        let forgotten = world.counted(Counter::LimitBindings);
        assert!(forgotten >= 3_000 - 1_024 * u64::from(shards), "{forgotten}");
        for at in 0..1_000 {
            for round in [0, 1, 2] {
                let id = format!("o{round}-{at}");
                assert_eq!(ask_contact(&mut world, &format!("p{round}-{at}"), 10_000, &id), "480");
            }
        }
        world.pass_s(3_700);
        assert_eq!(ask_contact(&mut world, "p0-0", 10_000, "late"), "sent", "its time is over");
        world.drain();
        world.end();
    }
}

/// The same while every place is taken by a phone that is there.
#[test]
fn a_contact_that_is_not_bound_for_want_of_room_is_no_devices() {
    let mut world = World::new(&Setup { sticky: Sticky::Aor, shards: 1, mutate: of_1024, ..Setup::default() });
    let wires = [world.connect(0, TLS), world.connect(0, TLS)];
    for at in 0..1_030 {
        register_plainly(&mut world, wires[at % 2], &format!("p{at}"), 10_000, 1);
    }
    assert_eq!(world.counted(Counter::LimitBindings), 6);
    for at in 1_024..1_030 {
        assert_eq!(ask_contact(&mut world, &format!("p{at}"), 10_000, &format!("o{at}")), "480");
    }
    world.drain();
    world.end();
}

/// One user fills the places of its own AOR, and nobody else's: another lost phone is known all the same.
#[test]
fn who_registers_ever_new_contacts_for_one_aor_takes_only_its_own_places() {
    let mut world = World::new(&Setup { sticky: Sticky::Aor, shards: 1, mutate: of_1024, ..Setup::default() });
    let wire = world.connect(0, TLS);
    register_plainly(&mut world, wire, "honest", 10_000, 1);
    world.hang_up(wire);
    let wire = world.connect(0, TLS);
    let mut mallory = Phone { params: "", ..Phone::new("mallory", wire) };
    for at in 0..1_500 {
        mallory.contact = format!("sip:x{at}@192.0.2.66:5060");
        mallory.call_id = format!("m{at}");
        mallory.register(&mut world, 600);
    }
    assert_eq!(world.engines[0].locate("mallory@example.com", world.now).len(), 128);
    assert_eq!(world.counted(Counter::LimitBindingsPerAor), 1_500 - 128);
    for at in 0..100 {
        assert_eq!(ask_contact(&mut world, &format!("gateway{at}"), 10_000, &format!("d{at}")), "sent");
    }
    let wire = world.connect(0, TLS);
    let honest = "sip:honest@192.0.2.7:10000";
    let mut back = Phone { params: "", contact: honest.to_owned(), ..Phone::new("honest", wire) };
    assert_eq!(ask_contact(&mut world, "honest", 10_000, "o1"), "480");
    back.register(&mut world, 600);
    assert_eq!(world.engines[0].locate("honest@example.com", world.now).len(), 1);
    world.drain();
    world.end();
}

/// A request with more header fields, before its last.
fn with_fields(text: &str, more: &str) -> String {
    text.replace("Content-Length", &format!("{more}Content-Length"))
}

fn fields_of(text: &str) -> usize {
    text.split("\r\n\r\n").next().map_or(0, |head| head.lines().count() - 1)
}

/// What we add to a message takes it past the bounds of what we take: its ACK and its CANCEL are made of what was sent.
#[test]
fn an_invite_at_the_bound_of_fields_is_acknowledged_and_cancelled() {
    for cancelled in [false, true] {
        let (mut world, phone) = registered();
        let text = phone.server_request("INVITE", "c1", 1);
        let more: String = (fields_of(&text)..FIELDS_MAX).map(|n| format!("X-F{n}: y\r\n")).collect();
        let text = with_fields(&text, &more);
        assert_eq!(fields_of(&text), FIELDS_MAX);
        world.datagram(0, SERVER, &text);
        let invite = world.expect(phone.wire, "INVITE ");
        world.write(phone.wire, &answer(&invite, "180 Ringing", "p", ""));
        world.expect_server("SIP/2.0 180");
        if cancelled {
            world.datagram(0, SERVER, &cancel(&phone.server_request("INVITE", "c1", 1)));
            world.expect_server("SIP/2.0 200");
            world.expect(phone.wire, "CANCEL ");
        }
        world.write(phone.wire, &answer(&invite, "486 Busy Here", "p", ""));
        world.expect_server("SIP/2.0 486");
        world.expect(phone.wire, "ACK ");
    }
}

#[test]
fn an_invite_whose_header_block_has_full_length_is_acknowledged_and_cancelled() {
    for cancelled in [false, true] {
        let mut world = World::new(&Setup::default());
        let wire = world.connect(1, TLS);
        let text = ask("INVITE", "i1");
        let more = format!("X: {}\r\n", "x".repeat(HEADER_BLOCK_LEN_MAX + 2 - text.len() - 5));
        let text = with_fields(&text, &more);
        assert_eq!(text.len(), HEADER_BLOCK_LEN_MAX + 2);
        world.write(wire, &text);
        let invite = world.expect_server("INVITE ");
        world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "p", ""));
        world.expect(wire, "SIP/2.0 180");
        if cancelled {
            world.write(wire, &cancel(&ask("INVITE", "i1")));
            world.expect(wire, "SIP/2.0 200");
            world.expect_server("CANCEL ");
        }
        world.datagram(0, SERVER, &answer(&invite, "486 Busy Here", "p", ""));
        world.expect(wire, "SIP/2.0 486");
        world.expect_server("ACK ");
    }
}
