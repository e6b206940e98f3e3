//! How resolvers are asked: tries, their order, TCP, and answers that are none.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::world::*;
use crate::dns::Failure;
use crate::limits::{DNS_NAME_MAX, DNS_TRY_MAX};
use crate::stats::Counter;

/// A world with a question in the air whose AAAA half is answered.
fn asking(resolvers: u8) -> (World, u64) {
    let mut world = World::with(resolvers, Duration::ZERO);
    world.zone(&["a.test 60 A 10.0.0.1", "test 60 SOA 30"]);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    let aaaa = world.take("AAAA a.test");
    world.answer(&aaaa);
    (world, waiter)
}

const FOUND: [&str; 1] = ["udp 10.0.0.1:5060 p0 w0"];

#[test]
fn a_question_carries_edns_and_a_fresh_id_over_udp() {
    let (world, _) = asking(1);
    let [asked] = world.asked.as_slice() else { panic!("{:?}", world.asked) };
    assert_eq!((asked.tcp, asked.edns, asked.to), (false, Some(1_232), resolver(1)));
    assert_eq!(asked.query.query_type(), RecordType::A);
    let (mut other, _) = asking(1);
    other.pass(DNS_TRY_MAX);
    assert_ne!(other.asked[0].id, asked.id, "each try has an id of its own");
}

#[test]
fn a_resolver_that_does_not_answer_makes_way_for_the_next_which_is_asked_first_from_then_on() {
    let (mut world, waiter) = asking(2);
    let before = world.asked[0].exchange;
    world.pass(DNS_TRY_MAX);
    assert!(world.done.contains(&before));
    assert_eq!(world.asked[0].to, resolver(2));
    assert_eq!(world.of(Counter::DnsTimeout), 1);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    world.ask(&with_port("b.test", 5060)).unwrap_err();
    assert!(world.asked.iter().all(|asked| asked.to == resolver(2)));
}

#[test]
fn a_socket_that_fails_costs_no_time() {
    let (mut world, waiter) = asking(2);
    world.fail(world.asked[0].exchange);
    assert_eq!(world.asked[0].to, resolver(2));
    world.fail(world.asked[0].exchange);
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered);
    assert_eq!(world.of(Counter::DnsSocketError), 2);
    assert!(world.dns.is_idle());
}

#[test]
fn nobody_waits_longer_than_the_bound() {
    let (mut world, waiter) = asking(1);
    world.pass(DNS_NAME_MAX - Duration::from_millis(2));
    assert_eq!(world.heard(waiter), None);
    world.pass(Duration::from_millis(4));
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered);
    assert!(world.dns.is_idle(), "{:?}", world.dns);
    assert!(world.asked.is_empty(), "every socket is let go");
    assert_eq!(world.of(Counter::LimitDnsLookup), 1);
}

#[test]
fn a_resolver_that_cannot_help_makes_way_at_once() {
    for (code, counter) in
        [(ResponseCode::ServFail, Counter::DnsAnswerFailure), (ResponseCode::Refused, Counter::DnsAnswerRefused)]
    {
        let (mut world, waiter) = asking(2);
        let first = world.asked[0].clone();
        world.send(&first, &first.reply(code));
        assert_eq!((world.asked[0].to, world.of(counter)), (resolver(2), 1));
        world.answer_all();
        assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    }
}

#[test]
fn a_referral_is_no_answer_of_a_resolver() {
    let (mut world, waiter) = asking(2);
    let first = world.asked[0].clone();
    let mut referral = first.reply(ResponseCode::NoError);
    referral.metadata.recursion_available = false;
    referral.add_authority(record("test 60 NS ns.test"));
    world.send(&first, &referral);
    assert_eq!((world.asked[0].to, world.of(Counter::DnsAnswerLame)), (resolver(2), 1));
    let second = world.asked[0].clone();
    world.send(&second, &second.reply(ResponseCode::ServFail));
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered);
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let (mut world, waiter) = asking(1);
    let first = world.asked[0].clone();
    let mut truncated = first.reply(ResponseCode::NoError);
    truncated.metadata.truncation = true;
    truncated.add_answer(record("a.test 60 A 10.9.9.9"));
    world.send(&first, &truncated);
    assert!(world.asked[0].tcp && world.asked[0].to == resolver(1));
    assert!(world.done.contains(&first.exchange));
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert_eq!(world.of(Counter::DnsTcpFallback), 1);
}

#[test]
fn a_resolver_without_edns_is_asked_without() {
    let (mut world, waiter) = asking(1);
    let first = world.asked[0].clone();
    let mut refusal = first.reply(ResponseCode::FormErr);
    refusal.queries.clear();
    world.send(&first, &refusal);
    assert_eq!((world.asked[0].edns, world.of(Counter::DnsAnswerNoEdns)), (None, 1));
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
}

#[test]
fn answers_that_do_not_belong_to_the_question_are_as_if_they_had_not_come() {
    let (mut world, waiter) = asking(1);
    let asked = world.asked[0].clone();
    let mut right = asked.reply(ResponseCode::NoError);
    right.add_answer(record("a.test 60 A 10.6.6.6"));
    let forged = |change: &dyn Fn(&mut hickory_proto::op::Message)| {
        let mut message = right.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let id = forged(&|message| message.metadata.id = message.metadata.id.wrapping_add(1));
    let name_ = forged(&|message| {
        message.queries[0].set_name(name("b.test"));
    });
    let kind = forged(&|message| {
        message.queries[0].set_query_type(RecordType::AAAA);
    });
    let none = forged(&|message| message.queries.clear());
    let query = forged(&|message| message.metadata.message_type = hickory_proto::op::MessageType::Query);
    for bytes in [&id, &name_, &kind, &none, &query] {
        world.send_bytes(asked.exchange, asked.to, bytes);
    }
    let whole = right.to_vec().unwrap();
    world.send_bytes(asked.exchange, asked.to, &whole[..whole.len() - 1]);
    world.send_bytes(asked.exchange, asked.to, b"");
    world.send_bytes(asked.exchange, resolver(9), &whole);
    world.send_bytes(asked.exchange + 1, asked.to, &whole);
    assert_eq!(world.heard(waiter), None);
    let counters =
        [Counter::DnsIgnoredId, Counter::DnsIgnoredQuestion, Counter::DnsIgnoredMalformed, Counter::DnsIgnoredSource];
    assert_eq!(counters.map(|counter| world.of(counter)), [1, 3, 3, 1]);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
}
