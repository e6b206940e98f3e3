//! The ways of RFC 3263, each once.

use super::world::*;
use crate::dns::Failure;
use crate::ids::Transport;

#[test]
fn an_explicit_port_asks_for_addresses_only() {
    let mut world = World::new();
    world.zone(&[
        "a.test 60 A 10.0.0.1",
        "a.test 60 A 10.0.0.2",
        "a.test 60 AAAA 2001:db8::1",
        "_sip._udp.a.test 60 SRV 1 1 9 b.test",
    ]);
    let waiter = world.ask(&with_port("a.test", 5070)).unwrap_err();
    assert_eq!(world.questions(), ["A a.test", "AAAA a.test"]);
    world.answer_all();
    let answer = world.heard(waiter).unwrap();
    assert_eq!(short(&answer), ["udp 10.0.0.1:5070 p0 w0", "udp 10.0.0.2:5070 p0 w0", "udp [2001:db8::1]:5070 p0 w0"]);
    assert!(world.dns.is_idle());
    assert_eq!(world.dns.poll_timeout(), None);
}

#[test]
fn an_explicit_transport_asks_for_its_srv_records_and_then_for_the_targets() {
    let mut world = World::new();
    world.zone(&[
        "_sip._tcp.a.test 60 SRV 20 1 5062 x.a.test",
        "_sip._tcp.a.test 60 SRV 10 3 5060 y.a.test",
        "x.a.test 60 A 10.0.0.1",
        "y.a.test 60 A 10.0.0.2",
    ]);
    let waiter = world.ask(&over("a.test", Transport::Tcp)).unwrap_err();
    assert_eq!(world.questions(), ["SRV _sip._tcp.a.test"]);
    let srv = world.take("SRV _sip._tcp.a.test");
    world.answer(&srv);
    assert_eq!(world.questions(), ["A x.a.test", "A y.a.test", "AAAA x.a.test", "AAAA y.a.test"]);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["tcp 10.0.0.2:5060 p10 w3", "tcp 10.0.0.1:5062 p20 w1"]);
}

#[test]
fn a_name_without_srv_records_is_reached_at_its_default_port() {
    let mut world = World::new();
    world.zone(&["a.test 60 A 10.0.0.1"]);
    assert_eq!(short(&world.resolve(&over("a.test", Transport::Tcp))), ["tcp 10.0.0.1:5060 p0 w0"]);
    assert_eq!(short(&world.resolve(&over("a.test", Transport::Tls))), ["tls 10.0.0.1:5061 p0 w0"]);
    assert_eq!(short(&world.resolve(&host("a.test"))), ["udp 10.0.0.1:5060 p0 w0"]);
}

#[test]
fn what_does_not_exist_is_said_not_to() {
    let mut world = World::new();
    world.zone(&["b.test 60 NS ns.test"]);
    assert_eq!(failure(&world.resolve(&with_port("a.test", 5060))), Failure::NoSuchName);
    assert_eq!(failure(&world.resolve(&with_port("b.test", 5060))), Failure::NoRecords);
}
