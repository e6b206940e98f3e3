//! NAPTR and SRV: what is asked for, what counts, and what an absent record leads to.

use hickory_proto::op::ResponseCode;

use super::world::*;
use crate::dns::{Failure, Question};
use crate::ids::Transport;
use crate::stats::Counter;

fn secure(host: &str, transport: Option<Transport>) -> Question {
    Question { host: host.into(), port: None, transport, secure: true }
}

const ZONE: &[&str] = &[
    "a.test 60 NAPTR 50 50 \"s\" \"SIPS+D2T\" \"\" _sips._tcp.a.test",
    "a.test 60 NAPTR 90 50 \"s\" \"SIP+D2T\" \"\" _sip._tcp.a.test",
    "a.test 60 NAPTR 100 50 \"s\" \"SIP+D2U\" \"\" _sip._udp.a.test",
    "_sips._tcp.a.test 60 SRV 0 1 5061 x.test",
    "_sip._tcp.a.test 60 SRV 0 1 5060 x.test",
    "_sip._udp.a.test 60 SRV 0 1 5060 x.test",
    "a.test 60 A 10.0.0.9",
    "x.test 60 A 10.0.0.1",
];

#[test]
fn naptr_records_name_the_transport_by_order_and_preference() {
    let mut world = World::new();
    world.zone(ZONE);
    let waiter = world.ask(&host("a.test")).unwrap_err();
    assert_eq!(world.questions(), ["NAPTR a.test"]);
    let naptr = world.take("NAPTR a.test");
    world.answer(&naptr);
    assert_eq!(world.questions(), ["SRV _sips._tcp.a.test"]);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["tls 10.0.0.1:5061 p0 w1"]);

    let mut world = World::new();
    world.zone(&["a.test 60 NAPTR 10 20 s SIP+D2T _ _sip._tcp.a.test", "x.test 60 A 10.0.0.1"]);
    world
        .zone
        .extend(["_sip._udp.a.test 60 SRV 0 1 5060 x.test", "_sip._tcp.a.test 60 SRV 0 1 5060 x.test"].map(record));
    let regexp = world.resolve(&host("a.test"));
    assert_eq!(short(&regexp), ["udp 10.0.0.1:5060 p0 w1"], "a regular expression is not for us: SRV in our own order");
    world.zone.extend(
        [
            "b.test 60 NAPTR 10 20 S sip+d2u \"\" _sip._udp.a.test",
            "b.test 60 NAPTR 10 10 S SIP+D2T \"\" _sip._tcp.a.test",
        ]
        .map(record),
    );
    assert_eq!(short(&world.resolve(&host("b.test"))), ["tcp 10.0.0.1:5060 p0 w1"]);
}

#[test]
fn naptr_records_of_transports_that_we_do_not_speak_count_as_none() {
    let mut world = World::new();
    world.zone(&[
        "a.test 60 NAPTR 10 10 s SIP+D2S \"\" _sip._sctp.a.test",
        "a.test 60 NAPTR 10 10 u E2U+sip \"\" _sip._udp.a.test",
        "a.test 60 NAPTR 10 10 a SIP+D2T \"\" x.test",
        "_sip._udp.a.test 60 SRV 0 1 5070 x.test",
        "x.test 60 A 10.0.0.1",
    ]);
    let waiter = world.ask(&host("a.test")).unwrap_err();
    let naptr = world.take("NAPTR a.test");
    world.answer(&naptr);
    let all = ["SRV _sip._tcp.a.test", "SRV _sip._udp.a.test", "SRV _sips._tcp.a.test", "SRV _sips._tls.a.test"];
    assert_eq!(world.questions(), all);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["udp 10.0.0.1:5070 p0 w1"]);
}

#[test]
fn a_pointer_that_leads_nowhere_gives_way_to_the_next_of_its_order_only() {
    let mut world = World::new();
    world.zone(&[
        "a.test 60 NAPTR 10 10 s SIP+D2U \"\" _sip._udp.gone.test",
        "a.test 60 NAPTR 10 20 s SIP+D2T \"\" _sip._tcp.a.test",
        "_sip._tcp.a.test 60 SRV 0 1 5070 x.test",
        "x.test 60 A 10.0.0.1",
    ]);
    assert_eq!(short(&world.resolve(&host("a.test"))), ["tcp 10.0.0.1:5070 p0 w1"]);
    world.zone.extend(
        [
            "b.test 60 NAPTR 10 10 s SIP+D2U \"\" _sip._udp.gone.test",
            "b.test 60 NAPTR 20 10 s SIP+D2T \"\" _sip._tcp.a.test",
            "b.test 60 A 10.0.0.2",
        ]
        .map(record),
    );
    assert_eq!(failure(&world.resolve(&host("b.test"))), Failure::NoRecords);
}

#[test]
fn a_naptr_question_that_nobody_answers_is_passed_over() {
    let mut world = World::new();
    world.zone(&["_sip._udp.a.test 60 SRV 0 1 5070 x.test", "x.test 60 A 10.0.0.1"]);
    let waiter = world.ask(&host("a.test")).unwrap_err();
    let naptr = world.take("NAPTR a.test");
    world.send(&naptr, &naptr.reply(ResponseCode::NotImp));
    let again = world.take("NAPTR a.test");
    assert_eq!(again.edns, None);
    world.send(&again, &again.reply(ResponseCode::NotImp));
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["udp 10.0.0.1:5070 p0 w1"]);
}

#[test]
fn sips_is_tls_and_nothing_else() {
    let mut world = World::new();
    world.zone(ZONE);
    assert_eq!(short(&world.resolve(&secure("a.test", None))), ["tls 10.0.0.1:5061 p0 w1"]);
    assert_eq!(short(&world.resolve(&secure("a.test", Some(Transport::Tcp)))), ["tls 10.0.0.1:5061 p0 w1"]);
    assert_eq!(failure(&world.resolve(&secure("a.test", Some(Transport::Udp)))), Failure::NoRecords);
    let port = Question { port: Some(5071), ..secure("a.test", None) };
    assert_eq!(short(&world.resolve(&port)), ["tls 10.0.0.9:5071 p0 w0"]);
    let waiter = world.ask(&secure("b.test", None)).unwrap_err();
    let naptr = world.take("NAPTR b.test");
    world.answer(&naptr);
    assert_eq!(world.questions(), ["SRV _sips._tcp.b.test", "SRV _sips._tls.b.test"], "no cleartext is asked for");
    world.zone.push(record("b.test 60 A 10.0.0.7"));
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["tls 10.0.0.7:5061 p0 w0"]);
}

#[test]
fn both_names_of_tls_count_as_one_set_without_repetitions() {
    let mut world = World::new();
    world.zone(&[
        "_sips._tcp.a.test 60 SRV 10 5 5061 x.test",
        "_sips._tls.a.test 60 SRV 90 9 5061 x.test",
        "_sips._tls.a.test 60 SRV 5 1 5061 y.test",
        "x.test 60 A 10.0.0.1",
        "y.test 60 A 10.0.0.2",
    ]);
    let answer = world.resolve(&over("a.test", Transport::Tls));
    assert_eq!(short(&answer), ["tls 10.0.0.2:5061 p5 w1", "tls 10.0.0.1:5061 p10 w5"]);
    world.zone.retain(|record| record.name != name("_sips._tcp.a.test"));
    world.pass(DAY_AND_MORE);
    let answer = world.resolve(&over("a.test", Transport::Tls));
    assert_eq!(short(&answer), ["tls 10.0.0.2:5061 p5 w1", "tls 10.0.0.1:5061 p90 w9"], "Genesys' form alone does");
}

#[test]
fn a_service_that_is_not_offered_is_not_looked_for_at_the_default_port() {
    let mut world = World::new();
    world.zone(&["_sip._tcp.a.test 60 SRV 0 0 0 .", "a.test 60 A 10.0.0.1"]);
    assert_eq!(failure(&world.resolve(&over("a.test", Transport::Tcp))), Failure::NoRecords);
    assert_eq!(short(&world.resolve(&over("a.test", Transport::Udp))), ["udp 10.0.0.1:5060 p0 w0"]);
    assert_eq!(failure(&world.resolve(&host("a.test"))), Failure::NoRecords, "the name does speak of its services");
}

#[test]
fn a_target_without_addresses_is_left_out_and_all_of_them_are_a_failure() {
    let mut world = World::new();
    world.zone(&[
        "_sip._udp.a.test 60 SRV 0 0 5060 gone.test",
        "_sip._udp.a.test 60 SRV 1 0 5060 x.test",
        "_sip._udp.b.test 60 SRV 0 0 5060 gone.test",
        "x.test 60 A 10.0.0.1",
        "b.test 60 A 10.0.0.2",
    ]);
    assert_eq!(short(&world.resolve(&over("a.test", Transport::Udp))), ["udp 10.0.0.1:5060 p1 w0"]);
    assert_eq!(failure(&world.resolve(&over("b.test", Transport::Udp))), Failure::NoRecords);
}

#[test]
fn srv_records_that_nobody_could_tell_of_are_not_taken_for_absent() {
    let mut world = World::new();
    world.zone(&["a.test 60 A 10.0.0.1"]);
    let waiter = world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    let srv = world.take("SRV _sip._udp.a.test");
    world.send(&srv, &srv.reply(ResponseCode::ServFail));
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered);
}

#[test]
fn addresses_of_one_family_do_when_the_other_cannot_be_had() {
    for code in [ResponseCode::ServFail, ResponseCode::NoError] {
        let mut world = World::new();
        world.zone(&["a.test 60 A 10.0.0.1"]);
        let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
        let a = world.take("A a.test");
        world.answer(&a);
        assert_eq!(world.heard(waiter), None, "both are waited for");
        let aaaa = world.take("AAAA a.test");
        world.send(&aaaa, &aaaa.reply(code));
        assert_eq!(short(&world.heard(waiter).unwrap()), ["udp 10.0.0.1:5060 p0 w0"]);
    }
}

#[test]
fn aliases_are_followed_within_an_answer_and_across_answers() {
    let mut world = World::new();
    world.zone(&["a.test 60 CNAME b.test", "b.test 60 CNAME c.test", "c.test 60 A 10.0.0.1", "test 60 SOA 30"]);
    assert_eq!(short(&world.resolve(&with_port("a.test", 5060))), ["udp 10.0.0.1:5060 p0 w0"]);

    let waiter = world.ask(&with_port("d.test", 5060)).unwrap_err();
    for text in ["A d.test", "AAAA d.test"] {
        let asked = world.take(text);
        let mut partial = asked.reply(ResponseCode::NoError);
        partial.add_answer(record("d.test 60 CNAME e.test"));
        world.send(&asked, &partial);
    }
    assert_eq!(world.questions(), ["A e.test", "AAAA e.test"]);
    world.zone.push(record("e.test 60 AAAA 2001:db8::1"));
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["udp [2001:db8::1]:5060 p0 w0"]);
}

#[test]
fn aliases_without_end_are_a_bound() {
    let mut world = World::new();
    world.zone(&["a.test 60 CNAME b.test", "b.test 60 CNAME a.test"]);
    assert_eq!(failure(&world.resolve(&with_port("a.test", 5060))), Failure::Bound);
    assert_eq!(world.of(Counter::LimitDnsAliases), 2, "of A and of AAAA");
    assert!(world.dns.is_idle());

    // A chain with an alias for each answer.
    let chain = |count: u32| {
        let mut world = World::new();
        let waiter = world.ask(&with_port("n0.test", 5060)).unwrap_err();
        let aaaa = world.take("AAAA n0.test");
        world.send(&aaaa, &aaaa.reply(ResponseCode::NoError));
        for n in 0..count {
            let asked = world.take(&format!("A n{n}.test"));
            let mut partial = asked.reply(ResponseCode::NoError);
            partial.add_answer(record(&format!("n{n}.test 60 CNAME n{}.test", n + 1)));
            world.send(&asked, &partial);
        }
        (world, waiter, count)
    };
    let (mut world, waiter, count) = chain(8);
    world.zone(&[&format!("n{count}.test 60 A 10.0.0.1")]);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["udp 10.0.0.1:5060 p0 w0"]);
    let (mut world, waiter, _) = chain(9);
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Bound);
    assert_eq!(world.questions(), Vec::<String>::new());
}

#[test]
fn records_of_other_owners_do_not_count() {
    let mut world = World::new();
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    let aaaa = world.take("AAAA a.test");
    world.send(&aaaa, &aaaa.reply(ResponseCode::NoError));
    let asked = world.take("A a.test");
    let mut message = asked.reply(ResponseCode::NoError);
    message.add_answer(record("victim.test 60 A 10.6.6.6"));
    message.add_additional(record("a.test 60 A 10.6.6.6"));
    message.add_authority(record("a.test 60 A 10.6.6.6"));
    world.send(&asked, &message);
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::NoRecords);
    world.ask(&with_port("victim.test", 5060)).unwrap_err();
    assert_eq!(world.questions(), ["A victim.test", "AAAA victim.test"]);
}

#[test]
fn this_host_and_names_that_are_none_are_known_without_asking() {
    let mut world = World::new();
    let local = ["udp 127.0.0.1:5060 p0 w0", "udp [::1]:5060 p0 w0"];
    assert_eq!(short(&world.ask(&host("localhost")).unwrap()), local);
    assert_eq!(short(&world.ask(&host("a.localhost")).unwrap()), local);
    let long = "a".repeat(64) + ".test";
    let longer = "abc.".repeat(64) + "test";
    for bad in [&*long, &longer, "", "a..test", ".", "ä.test"] {
        assert_eq!(failure(&world.ask(&host(bad)).unwrap()), Failure::NoSuchName, "{bad}");
    }
    assert!(world.dns.is_idle());
}

#[test]
fn without_resolvers_every_name_fails_at_once() {
    let mut world = World::with(0, std::time::Duration::from_secs(60));
    assert_eq!(failure(&world.ask(&host("a.test")).unwrap()), Failure::Unanswered);
    assert!(world.dns.is_idle());
}
