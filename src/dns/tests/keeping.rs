//! How long answers are kept, what expired ones are good for, and how many ask for one name.

use std::time::Duration;

use hickory_proto::op::ResponseCode;

use super::world::*;
use crate::dns::{Failure, NameState};
use crate::ids::Transport;
use crate::limits::*;
use crate::stats::Counter;

const SECOND: Duration = Duration::from_secs(1);
const FOUND: [&str; 1] = ["udp 10.0.0.1:5060 p0 w0"];

fn known(ttl: u32) -> World {
    let mut world = World::new();
    world.zone(&[&format!("a.test {ttl} A 10.0.0.1"), "test 7200 SOA 7200"]);
    assert_eq!(short(&world.resolve(&with_port("a.test", 5060))), FOUND);
    world
}

fn state(world: &World) -> (NameState, Duration) {
    let rows = world.dns.names(world.now);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    (row.state, row.expires_in)
}

#[test]
fn an_answer_is_kept_for_the_least_ttl_behind_it() {
    let mut world = World::new();
    world.zone(&["_sip._udp.a.test 50 SRV 0 0 5060 b.test", "b.test 90 CNAME c.test", "c.test 20 A 10.0.0.1"]);
    world.zone.push(record("test 7200 SOA 7200"));
    world.resolve(&over("a.test", Transport::Udp)).unwrap();
    assert_eq!(state(&world), (NameState::Fresh, 20 * SECOND));
    world.pass(20 * SECOND - Duration::from_millis(1));
    assert!(world.ask(&over("a.test", Transport::Udp)).is_ok());
    assert_eq!(world.of(Counter::DnsAskedCache), 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(state(&world).0, NameState::Expired);
    let waiter = world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    assert_eq!(world.questions(), ["A b.test"], "only what has expired is asked for");
    assert_eq!(state(&world).0, NameState::Asking);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), ["udp 10.0.0.1:5060 p0 w0"]);
}

#[test]
fn an_alias_has_its_own_ttl() {
    let mut world = World::new();
    world.zone(&["a.test 90 CNAME b.test", "b.test 10 CNAME c.test", "c.test 60 A 10.0.0.1", "c.test 60 AAAA ::1"]);
    world.resolve(&with_port("a.test", 5060)).unwrap();
    assert_eq!(state(&world), (NameState::Fresh, 10 * SECOND));
}

#[test]
fn what_expires_while_the_rest_is_asked_for_is_not_asked_for_again() {
    let mut world = World::with(2, Duration::ZERO);
    world.zone(&["_sip._udp.a.test 1 SRV 0 0 5060 b.test", "b.test 60 A 10.0.0.1", "test 7200 SOA 7200"]);
    let waiter = world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    let srv = world.take("SRV _sip._udp.a.test");
    world.answer(&srv);
    world.pass(DNS_TRY_MAX);
    assert_eq!(world.questions(), ["A b.test", "AAAA b.test"]);
    world.answer_all();
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert_eq!(world.of(Counter::DnsQuerySrv), 1);
}

#[test]
fn an_answer_has_been_what_it_is_since_it_changed_and_not_since_it_was_asked_for_again() {
    let age = |world: &World| world.dns.names(world.now)[0].age;
    let mut world = known(20);
    let begun = world.now;
    world.pass(21 * SECOND);
    assert_eq!(short(&world.resolve(&with_port("a.test", 5060))), FOUND);
    assert_eq!(age(&world), world.now.since(begun), "the same again");
    world.zone.clear();
    world.zone(&["a.test 20 A 10.0.0.2", "test 7200 SOA 7200"]);
    world.pass(21 * SECOND);
    world.resolve(&with_port("a.test", 5060)).unwrap();
    let changed = world.now;
    world.pass(3 * SECOND);
    assert_eq!(age(&world), world.now.since(changed));
}

#[test]
fn a_ttl_of_zero_lasts_a_second_and_none_lasts_longer_than_a_day() {
    let mut world = known(0);
    assert_eq!(state(&world).1, DNS_TTL_LEAST);
    world.pass(SECOND / 2);
    assert!(world.ask(&with_port("a.test", 5060)).is_ok());
    world.pass(SECOND / 2);
    assert!(world.ask(&with_port("a.test", 5060)).is_err());

    let mut world = World::new();
    world.zone(&["a.test 4000000000 A 10.0.0.1", "a.test 4000000000 AAAA ::1"]);
    world.resolve(&with_port("a.test", 5060)).unwrap();
    assert_eq!(state(&world).1, DNS_TTL_MAX);
}

#[test]
fn that_there_is_nothing_is_kept_as_the_soa_record_says_within_bounds() {
    for (soa, kept) in [
        (Some("test 7200 SOA 40"), 40 * SECOND),
        (Some("test 30 SOA 7200"), 30 * SECOND),
        (Some("test 7200 SOA 7200"), DNS_TTL_NEGATIVE_MAX),
        (Some("test 0 SOA 0"), DNS_TTL_LEAST),
        (None, DNS_TTL_LEAST),
    ] {
        let mut world = World::new();
        world.zone.extend(soa.map(record));
        assert_eq!(failure(&world.resolve(&with_port("a.test", 5060))), Failure::NoSuchName);
        assert_eq!(state(&world), (NameState::Negative, kept), "{soa:?}");
        assert_eq!(failure(&world.ask(&with_port("a.test", 5060)).unwrap()), Failure::NoSuchName);
        world.pass(kept);
        assert!(world.ask(&with_port("a.test", 5060)).is_err());
    }
}

#[test]
fn many_requests_for_one_name_ask_once() {
    let mut world = World::new();
    world.zone(&["a.test 60 A 10.0.0.1"]);
    let waiters: Vec<u64> = (0..100).map(|_| world.ask(&with_port("a.test", 5060)).unwrap_err()).collect();
    // Another question for the same records.
    let other = world.ask(&with_port("a.test", 5070)).unwrap_err();
    assert_eq!(world.questions(), ["A a.test", "AAAA a.test"]);
    assert_eq!(world.dns.counts(), (0, 2, 101));
    world.answer_all();
    for waiter in waiters {
        assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    }
    assert_eq!(short(&world.heard(other).unwrap()), ["udp 10.0.0.1:5070 p0 w0"]);
    assert_eq!(world.of(Counter::DnsQueryA) + world.of(Counter::DnsQueryAaaa), 2);
}

#[test]
fn who_gives_up_hears_nothing_and_a_second_question_takes_the_first_back() {
    let mut world = World::new();
    world.zone(&["a.test 60 A 10.0.0.1", "b.test 60 A 10.0.0.2"]);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    let stays = world.ask(&with_port("a.test", 5060)).unwrap_err();
    world.dns.give_up(waiter);
    world.dns.give_up(waiter);
    assert_eq!(world.dns.ask(&with_port("b.test", 5060), stays, world.now, &mut world.counters), None);
    world.pump();
    world.answer_all();
    assert_eq!(world.heard(waiter), None);
    assert_eq!(short(&world.heard(stays).unwrap()), ["udp 10.0.0.2:5060 p0 w0"]);
    assert!(world.ask(&with_port("a.test", 5060)).is_ok(), "what was asked for is kept all the same");
}

#[test]
fn expired_records_serve_those_who_have_waited_when_no_resolver_answers() {
    let mut world = known(60);
    world.pass(60 * SECOND);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    world.pass(DNS_STALE_AFTER - Duration::from_millis(2));
    assert_eq!(world.heard(waiter), None, "a resolver may answer yet");
    world.pass(Duration::from_millis(4));
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert_eq!(state(&world).0, NameState::Stale);
    assert_eq!(short(&world.ask(&with_port("a.test", 5060)).unwrap()), FOUND);
    assert_eq!(world.of(Counter::DnsAskedStale), 2);
    // The question goes on meanwhile, and its answer replaces them.
    assert_eq!(world.questions(), ["A a.test"]);
    world.zone(&["a.test 60 A 10.0.0.2"]);
    world.answer_all();
    assert_eq!(short(&world.ask(&with_port("a.test", 5060)).unwrap()), ["udp 10.0.0.2:5060 p0 w0"]);
    assert_eq!(state(&world).0, NameState::Fresh);
}

#[test]
fn expired_records_serve_at_once_while_resolvers_are_known_to_be_dead() {
    let mut world = known(60);
    world.zone(&["b.test 61 A 10.0.0.2", "test 7200 SOA 7200"]);
    world.resolve(&with_port("b.test", 5060)).unwrap();
    world.pass(61 * SECOND);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    world.pass(DNS_LOOKUP_MAX);
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert!(world.dns.is_idle(), "{:?}", world.dns);
    // Another name, which nobody has asked for since: its requests do not have to find out again.
    assert_eq!(short(&world.ask(&with_port("b.test", 5060)).unwrap()), ["udp 10.0.0.2:5060 p0 w0"]);
    assert_eq!(world.questions(), ["A b.test"]);
    // For hours, with one question for each name now and then.
    for _ in 0..500 {
        assert_eq!(short(&world.ask(&with_port("a.test", 5060)).unwrap()), FOUND);
        world.pass(7 * SECOND);
    }
    world.pass(3_600 * SECOND);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    world.pass(DNS_NAME_MAX);
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered, "`ttl-stale` is over");
}

#[test]
fn once_a_resolver_answers_again_fresh_records_are_waited_for() {
    let mut world = known(60);
    world.pass(60 * SECOND);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    world.pass(DNS_LOOKUP_MAX + DNS_RETRY_AFTER);
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert_eq!(short(&world.ask(&with_port("a.test", 5060)).unwrap()), FOUND);
    world.answer_all();
    world.pass(60 * SECOND);
    world.ask(&with_port("a.test", 5060)).unwrap_err();
}

#[test]
fn a_question_that_failed_is_not_asked_again_at_once() {
    let mut world = World::new();
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    while let Some(asked) = world.asked.first().cloned() {
        world.send(&asked, &asked.reply(ResponseCode::ServFail));
    }
    assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::Unanswered);
    world.pass(DNS_RETRY_AFTER - Duration::from_millis(1));
    assert_eq!(failure(&world.ask(&with_port("a.test", 5060)).unwrap()), Failure::Unanswered);
    assert_eq!(failure(&world.ask(&with_port("a.test", 5070)).unwrap()), Failure::Unanswered, "by other names too");
    world.pass(Duration::from_millis(1));
    assert!(world.ask(&with_port("a.test", 5060)).is_err());
}

#[test]
fn an_answer_that_there_is_no_such_name_replaces_expired_records_at_once() {
    let mut world = known(60);
    world.pass(60 * SECOND);
    world.zone(&["test 7200 SOA 7200"]);
    assert_eq!(failure(&world.resolve(&with_port("a.test", 5060))), Failure::NoSuchName);
    assert_eq!(world.of(Counter::DnsAskedStale), 0);
}

#[test]
fn a_resolver_that_fails_leaves_expired_records_in_force() {
    let mut world = known(60);
    world.pass(60 * SECOND);
    let waiter = world.ask(&with_port("a.test", 5060)).unwrap_err();
    let asked = world.take("A a.test");
    world.send(&asked, &asked.reply(ResponseCode::ServFail));
    assert_eq!(short(&world.heard(waiter).unwrap()), FOUND);
    assert_eq!(state(&world), (NameState::Stale, DNS_RETRY_AFTER));
}

#[test]
fn expired_records_serve_a_name_that_takes_several_questions() {
    let mut world = World::new();
    world.zone(&["_sip._udp.a.test 60 SRV 0 0 5060 b.test", "b.test 60 A 10.0.0.1", "test 60 SOA 30"]);
    let fresh = world.resolve(&host("a.test"));
    world.pass(100 * SECOND);
    // NAPTR and the other SRV records were absent, and that has expired too.
    let waiter = world.ask(&host("a.test")).unwrap_err();
    world.pass(DNS_STALE_AFTER);
    assert_eq!(world.heard(waiter), Some(fresh));
}

#[test]
fn questions_that_wait_for_their_turn_have_it_and_too_many_are_refused() {
    let mut world = World::new();
    let mut waiters = Vec::new();
    let pairs = (DNS_EXCHANGES_COUNT_MAX + DNS_LOOKUPS_COUNT_MAX) / 2;
    for n in 0..pairs {
        waiters.push(world.ask(&with_port(&format!("n{n}.test"), 5060)).unwrap_err());
    }
    assert_eq!(world.asked.len(), DNS_EXCHANGES_COUNT_MAX);
    assert_eq!(failure(&world.ask(&with_port("one-more.test", 5060)).unwrap()), Failure::Bound);
    assert_eq!(world.of(Counter::LimitDnsLookupsCount), 1);
    world.answer_all();
    for waiter in waiters {
        assert_eq!(failure(&world.heard(waiter).unwrap()), Failure::NoSuchName);
    }
    assert!(world.dns.is_idle());
    world.pass(SECOND);
    assert!(world.ask(&with_port("one-more.test", 5060)).is_err());
}

#[test]
fn too_many_waiters_are_refused() {
    let mut world = World::new();
    for _ in 0..DNS_WAITERS_COUNT_MAX {
        world.ask(&with_port("a.test", 5060)).unwrap_err();
    }
    assert_eq!(failure(&world.ask(&with_port("a.test", 5060)).unwrap()), Failure::Bound);
    assert_eq!(failure(&world.ask(&with_port("b.test", 5060)).unwrap()), Failure::Bound);
    assert_eq!(world.of(Counter::LimitDnsWaitersCount), 2);
    world.answer_all();
    assert_eq!(world.found.len(), DNS_WAITERS_COUNT_MAX);
    assert!(world.dns.is_idle());
}

#[test]
fn names_and_record_sets_are_bounded_and_the_oldest_give_way() {
    let mut world = World::new();
    world.zone(&["test 300 SOA 300"]);
    for n in 0..DNS_SETS_COUNT_MAX / 2 {
        world.resolve(&with_port(&format!("n{n}.test"), 5060)).unwrap_err();
        world.pass(Duration::from_millis(1));
    }
    assert_eq!(world.dns.names(world.now).len(), DNS_NAMES_COUNT_MAX);
    assert_eq!(world.of(Counter::LimitDnsNamesCount) as usize, DNS_SETS_COUNT_MAX / 2 - DNS_NAMES_COUNT_MAX);
    assert_eq!(world.of(Counter::LimitDnsSetsCount), 0);
    assert!(world.ask(&with_port("n0.test", 5060)).is_ok(), "its answer was dropped, its records were not");
    world.resolve(&with_port("another.test", 5060)).unwrap_err();
    assert_eq!(world.of(Counter::LimitDnsSetsCount), 2);
    world.ask(&with_port("n0.test", 5070)).unwrap_err();
    assert_eq!(world.questions(), ["A n0.test", "AAAA n0.test"]);
}

#[test]
fn records_and_targets_beyond_the_bounds_are_left_out() {
    let mut world = World::new();
    let records = |count: usize| (0..count).map(|n| record(&format!("a.test 60 A 10.0.1.{n}"))).collect::<Vec<_>>();
    world.zone = records(DNS_RECORDS_MAX);
    assert_eq!(short(&world.resolve(&with_port("a.test", 5060))).len(), DNS_RECORDS_MAX);
    assert_eq!(world.of(Counter::LimitDnsRecords), 0);
    world.pass(60 * SECOND);
    world.zone = records(DNS_RECORDS_MAX + 1);
    assert_eq!(short(&world.resolve(&with_port("a.test", 5060))).len(), DNS_RECORDS_MAX);
    assert_eq!(world.of(Counter::LimitDnsRecords), 1);

    let mut world = World::new();
    world.zone(&["_sip._udp.b.test 60 SRV 2 0 5060 a.test", "_sip._udp.b.test 60 SRV 1 0 5060 c.test"]);
    world.zone.extend(records(DNS_TARGETS_MAX));
    world.zone.push(record("c.test 60 A 10.0.0.1"));
    let targets = short(&world.resolve(&over("b.test", Transport::Udp)));
    assert_eq!((targets.len(), &*targets[0]), (DNS_TARGETS_MAX, "udp 10.0.0.1:5060 p1 w0"), "the best stay");
    assert_eq!(world.of(Counter::LimitDnsTargets), 1);
}
