//! Connections whose peer has closed its half: a FIN, or over TLS a close_notify.

use hawser::engine::{CloseReason, Input};
use hawser::ids::Transport;
use hawser::stats::{Counter, Gauge};

use crate::calls::registered_with;
use crate::stage::ask;
use crate::talk::{Phone, answer, header};
use crate::world::{SERVER, Setup, TCP, TLS, Wire, World};

fn half_close(world: &mut World, wire: Wire) {
    world.input(wire.shard, Input::HalfClosed { conn: wire.conn });
}

#[test]
fn what_was_asked_before_the_peer_closed_its_half_is_answered_and_then_it_is_closed() {
    for (shards, point, landing) in [(1, TCP, 0), (2, TLS, 1), (3, TLS, 2)] {
        let mut world = World::new(&Setup { shards, ..Setup::default() });
        let wire = world.connect(landing, point);
        world.write(wire, &ask("MESSAGE", "m1"));
        world.write(wire, &ask("INVITE", "c1"));
        half_close(&mut world, wire);
        world.pass_ms(1);
        assert!(world.closed.is_empty(), "two answers are owed");
        let (message, invite) = (world.expect_server("MESSAGE "), world.expect_server("INVITE "));
        world.datagram(0, SERVER, &answer(&message, "200 OK", "s1", ""));
        world.expect(wire, "SIP/2.0 200");
        world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "s2", ""));
        world.expect(wire, "SIP/2.0 180");
        world.pass_ms(1);
        assert!(world.closed.is_empty(), "a provisional response is no answer");
        world.datagram(0, SERVER, &answer(&invite, "486 Busy Here", "s2", ""));
        world.expect(wire, "SIP/2.0 486");
        world.pass_ms(1);
        assert_eq!(world.closed, [(wire, CloseReason::Peer)]);
        world.drain();
        world.end();
    }
}

#[test]
fn a_peer_that_closes_its_half_and_is_owed_nothing_is_closed_at_once() {
    let mut world = World::new(&Setup::default());
    let asked = world.connect(0, TCP);
    world.write(asked, &ask("MESSAGE", "m1"));
    let message = world.expect_server("MESSAGE ");
    world.datagram(1, SERVER, &answer(&message, "200 OK", "s1", ""));
    world.expect(asked, "SIP/2.0 200");
    let silent = world.connect(1, TLS);
    for wire in [asked, silent] {
        half_close(&mut world, wire);
    }
    assert_eq!(world.closed, [(asked, CloseReason::Peer), (silent, CloseReason::Peer)]);
    world.end();
}

#[test]
fn an_answer_that_does_not_come_holds_a_half_closed_connection_for_the_time_of_the_bound() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TCP);
    world.write(wire, &ask("INVITE", "c1"));
    let invite = world.expect_server("INVITE ");
    world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "s1", ""));
    half_close(&mut world, wire);
    world.pass_s(31);
    assert!(world.closed.is_empty());
    world.pass_s(2);
    assert_eq!(world.closed, [(wire, CloseReason::HalfClosed)]);
    assert_eq!(world.counted(Counter::LimitHalfClosed), 1);
    world.datagram(0, SERVER, &answer(&invite, "486 Busy Here", "s1", ""));
    world.drain();
    world.end();
}

#[test]
fn a_phone_that_un_registers_and_goes_hears_the_answer() {
    let (mut world, mut phone) = registered_with(&Setup::default());
    phone.send_register(&mut world, 0);
    half_close(&mut world, phone.wire);
    phone.accept_register(&mut world, 0);
    world.expect(phone.wire, "SIP/2.0 200");
    world.pass_ms(1);
    assert_eq!(world.closed, [(phone.wire, CloseReason::Peer)]);
    world.end();
}

#[test]
fn a_phone_that_has_closed_its_half_counts_as_gone_for_what_is_new() {
    let (mut world, mut phone) = registered_with(&Setup::default());
    let ringing = phone.server_request("INVITE", "c1", 1);
    world.datagram(0, SERVER, &ringing);
    let _at_phone = world.read(phone.wire);
    world.write(phone.wire, &ask("MESSAGE", "m1"));
    let message = world.expect_server("MESSAGE ");
    half_close(&mut world, phone.wire);
    let gauge = |world: &World, gauge| world.engines.iter().map(|e| e.snapshot().gauges.of(gauge)).sum::<u64>();
    assert_eq!((gauge(&world, Gauge::Bindings), world.counted(Counter::BindingFlowLost)), (0, 1));
    // Out of dialogs at once, though the token names a connection that is still there.
    world.datagram(1, SERVER, &phone.server_request("OPTIONS", "o1", 1));
    assert!(world.read_server().starts_with("SIP/2.0 430"));
    // Its answer to what it was asked before can't come any more.
    world.pass_s(2);
    let said: Vec<String> = std::iter::from_fn(|| world.try_read_udp(SERVER)).collect();
    let finals: Vec<_> = said.iter().filter(|text| text.starts_with("SIP/2.0 4")).collect();
    assert!(finals.len() == 1 && finals[0].starts_with("SIP/2.0 430"), "{said:#?}");
    // A REGISTER that was under way binds nothing to it, and what it is owed comes all the same.
    world.datagram(0, SERVER, &answer(&message, "200 OK", "s1", ""));
    assert_eq!(header(&world.expect(phone.wire, "SIP/2.0 200"), "Call-ID"), "m1");
    world.pass_ms(1);
    assert_eq!(world.closed, [(phone.wire, CloseReason::Peer)]);
    phone.wire = world.connect(0, TLS);
    phone.register(&mut world, 600);
    world.drain();
    world.end();
}

#[test]
fn a_registration_that_is_granted_after_the_phone_closed_its_half_leaves_no_binding() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(1, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.send_register(&mut world, 600);
    half_close(&mut world, wire);
    phone.accept_register(&mut world, 600);
    world.expect(wire, "SIP/2.0 200");
    world.pass_ms(1);
    assert_eq!(world.closed, [(wire, CloseReason::Peer)]);
    assert!(world.engines.iter().all(|engine| engine.snapshot().gauges.of(Gauge::Bindings) == 0));
    world.end();
}

#[test]
fn a_server_that_closes_its_half_of_our_connection_is_reached_over_a_new_one() {
    let mut world = World::new(&Setup { shards: 1, internal: Transport::Tcp, ..Setup::default() });
    let wire = world.connect(0, TLS);
    world.write(wire, &ask("MESSAGE", "m1"));
    let (first, ..) = world.dialled();
    world.ready(first);
    let message = world.read(first);
    world.write(first, &answer(&message, "200 OK", "s1", ""));
    world.expect(wire, "SIP/2.0 200");
    // It asks us something in the same segment as its FIN.
    world.write(first, &Phone::new("alice", wire).server_request("OPTIONS", "o1", 1).replace("UDP", "TCP"));
    half_close(&mut world, first);
    world.write(wire, &ask("MESSAGE", "m2"));
    let (second, ..) = world.dialled();
    assert_ne!(first, second);
    world.ready(second);
    let message = world.expect(second, "MESSAGE ");
    world.write(second, &answer(&message, "200 OK", "s2", ""));
    world.drain();
    world.end();
}
