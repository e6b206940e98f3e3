//! The judge at each of its edges, and what a shard keeps of it.

use super::*;

const START: Time = Time(1_000_000_000);

fn at(s: u64) -> Time {
    START.after(Duration::from_secs(s))
}

fn source(last: u8) -> Source {
    Source::of([192, 0, 2, last].into())
}

fn changes(judge: &mut Judge) -> Vec<(Source, Verdict)> {
    std::iter::from_fn(|| judge.poll_change()).map(|change| (change.source, change.verdict)).collect()
}

/// Fails so often.
fn fail(judge: &mut Judge, who: Source, failure: Failure, count: u32, now: Time) {
    for _ in 0..count {
        judge.on_failure(who, failure, now);
    }
}

/// Shuts an address out as soon as that can be; gives when.
fn shut_out(judge: &mut Judge, who: Source, now: Time) -> Time {
    fail(judge, who, Failure::Garbage, ABUSE_SHUT_OUT_FROM / GARBAGE, now);
    let later = now.after(ABUSE_SLOWED_LEAST);
    fail(judge, who, Failure::Garbage, 1, later);
    later
}

#[test]
fn an_address_is_slowed_at_the_first_bound_and_not_one_point_before() {
    let mut judge = Judge::default();
    fail(&mut judge, source(1), Failure::Connection, ABUSE_SLOWED_FROM / CONNECTION - 1, START);
    assert_eq!(changes(&mut judge), []);
    fail(&mut judge, source(1), Failure::Connection, 1, START);
    assert_eq!(changes(&mut judge), [(source(1), Verdict::Slowed)]);
    fail(&mut judge, source(1), Failure::Connection, 1, START);
    assert_eq!((changes(&mut judge), judge.counts()), (vec![], (1, 0)), "once");
    let points = ABUSE_SLOWED_FROM + CONNECTION - ABUSE_SLOWED_FROM / 2;
    assert_eq!(judge.due(), Some(at(points.into())));
    judge.on_time(Time(at(points.into()).0 - 1));
    assert_eq!(changes(&mut judge), []);
    judge.on_time(at(points.into()));
    assert_eq!(changes(&mut judge), [(source(1), Verdict::Free)]);
    assert_eq!((judge.due(), judge.counts()), (None, (0, 0)));
}

#[test]
fn an_address_is_shut_out_at_the_second_bound_when_it_has_been_slowed_for_long_enough() {
    let mut judge = Judge::default();
    fail(&mut judge, source(1), Failure::Refused, ABUSE_SHUT_OUT_FROM / REFUSED + 50, START);
    assert_eq!(changes(&mut judge), [(source(1), Verdict::Slowed)], "it is not asked who holds a binding sooner");
    let early = Time(START.after(ABUSE_SLOWED_LEAST).0 - 1);
    fail(&mut judge, source(1), Failure::Refused, 1, early);
    assert_eq!(changes(&mut judge), []);
    let now = START.after(ABUSE_SLOWED_LEAST);
    fail(&mut judge, source(1), Failure::Refused, 1, now);
    assert_eq!(changes(&mut judge), [(source(1), Verdict::ShutOut(now.after(BAN_TIME)))]);
    let bans: Vec<_> = judge.bans().collect();
    let failed = Failed { refused: ABUSE_SHUT_OUT_FROM / REFUSED + 52, ..Failed::default() };
    assert_eq!(bans, [(source(1), Ban { since: now, until: now.after(BAN_TIME), nth: 1, failed })]);
}

#[test]
fn one_point_below_the_second_bound_nobody_is_shut_out() {
    let mut judge = Judge::default();
    fail(&mut judge, source(1), Failure::Connection, ABUSE_SLOWED_FROM / CONNECTION, START);
    let now = at(10);
    // What is left of the points, and as many more as make 299.
    let left = ABUSE_SLOWED_FROM - 10;
    fail(&mut judge, source(1), Failure::Garbage, (ABUSE_SHUT_OUT_FROM - left) / GARBAGE - 1, now);
    fail(&mut judge, source(1), Failure::Connection, GARBAGE / CONNECTION - 1, now);
    assert_eq!((changes(&mut judge).len(), judge.counts()), (1, (1, 0)));
    fail(&mut judge, source(1), Failure::Connection, 1, now);
    assert_eq!(judge.counts(), (0, 1));
}

#[test]
fn each_time_lasts_twice_as_long_up_to_a_day_and_is_forgotten_in_the_end() {
    let mut judge = Judge::default();
    let mut now = START;
    for nth in 1..=10 {
        now = shut_out(&mut judge, source(1), now);
        let (_, ban) = judge.bans().next().expect("it is shut out");
        let time = BAN_TIME * 2_u32.pow(nth - 1);
        assert_eq!((ban.nth, ban.until), (nth, now.after(time.min(BAN_TIME_MAX))));
        judge.on_time(Time(ban.until.0 - 1));
        assert_eq!(judge.counts(), (0, 1));
        now = ban.until;
        judge.on_time(now);
        assert_eq!(judge.counts(), (0, 0));
    }
    let later = shut_out(&mut judge, source(1), now.after(BAN_REMEMBERED));
    assert_eq!(judge.bans().next().map(|(_, ban)| (ban.nth, ban.until)), Some((1, later.after(BAN_TIME))));
}

#[test]
fn success_clears_an_address_of_all_and_another_is_not_touched() {
    let mut judge = Judge::default();
    shut_out(&mut judge, source(1), START);
    shut_out(&mut judge, source(2), START);
    fail(&mut judge, source(3), Failure::Garbage, 1, START);
    changes(&mut judge);
    for who in [1, 3, 4] {
        judge.on_success(source(who));
    }
    assert_eq!(changes(&mut judge), [(source(1), Verdict::Free)], "of the others nothing was told");
    assert_eq!(judge.bans().map(|(source, _)| source).collect::<Vec<_>>(), [source(2)]);
    let again = shut_out(&mut judge, source(1), at(60));
    let ban = judge.bans().find(|(who, _)| *who == source(1)).map(|(_, ban)| (ban.nth, ban.until));
    assert_eq!(ban, Some((1, again.after(BAN_TIME))), "it is the first time again");
}

#[test]
fn an_operator_lets_in_who_is_shut_out() {
    let mut judge = Judge::default();
    shut_out(&mut judge, source(1), START);
    changes(&mut judge);
    assert!(judge.pardon(source(1)) && !judge.pardon(source(1)) && !judge.pardon(source(2)));
    assert_eq!(changes(&mut judge), [(source(1), Verdict::Free)]);
    shut_out(&mut judge, source(1), START);
    changes(&mut judge);
    judge.pardon_where(|who| who == source(1));
    assert_eq!((changes(&mut judge), judge.counts()), (vec![(source(1), Verdict::Free)], (0, 0)));
}

#[test]
fn an_address_of_record_counts_once_and_fourteen_shut_nobody_out() {
    let mut judge = Judge::default();
    for s in 0..3_600 {
        judge.on_failure(source(1), Failure::Register(7), at(s));
        for aor in 0..14 {
            judge.on_failure(source(2), Failure::Register(aor), at(s));
        }
    }
    assert!(
        changes(&mut judge).iter().all(|(who, verdict)| *who == source(2) && !matches!(verdict, Verdict::ShutOut(_)))
    );
    let mut judge = Judge::default();
    for aor in 0..15 {
        judge.on_failure(source(1), Failure::Register(aor), START);
    }
    for aor in 15..17 {
        judge.on_failure(source(1), Failure::Register(aor), START.after(ABUSE_SLOWED_LEAST));
    }
    assert_eq!(judge.counts(), (0, 1), "who guesses takes another");
    const { assert!(ABUSE_AORS_COUNT_MAX as u32 * REGISTER >= ABUSE_SHUT_OUT_FROM) };
}

#[test]
fn of_addresses_of_record_the_oldest_is_forgotten_past_the_bound() {
    let refused = |aors: u64| {
        let mut suspect = Suspect::new(START);
        (0..aors).for_each(|aor| suspect.add(Failure::Register(aor), START));
        suspect.add(Failure::Register(0), START);
        (suspect.aors.len(), u64::from(suspect.failed.registers))
    };
    let max = ABUSE_AORS_COUNT_MAX as u64;
    assert_eq!(refused(max), (ABUSE_AORS_COUNT_MAX, max), "at the bound it is known");
    assert_eq!(refused(max + 1), (ABUSE_AORS_COUNT_MAX, max + 2), "one past it, it is not");
}

#[test]
fn who_fails_slowly_is_never_even_slowed() {
    for (every_ms, failure) in [(2_000, Failure::Connection), (10_000, Failure::Garbage), (10_000, Failure::Refused)] {
        let mut judge = Judge::default();
        for n in 0..10_000 {
            judge.on_failure(source(1), failure, START.after(Duration::from_millis(every_ms * n)));
        }
        assert_eq!(changes(&mut judge), [], "{failure:?}");
    }
    let mut judge = Judge::default();
    for s in 0..3_600 {
        judge.on_failure(source(1), Failure::Connection, at(s));
    }
    assert!(!changes(&mut judge).is_empty(), "one a second is too much");
}

#[test]
fn an_ipv6_address_counts_with_its_64_and_a_mapped_one_as_what_it_is() {
    let of = |ip: &str| Source::of(ip.parse().expect("an address")).to_string();
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    assert_eq!(of("2001:db8:1:2::9"), "2001:db8:1:2::/64");
    assert_eq!(of("2001:db8:1:3::9"), "2001:db8:1:3::/64");
    let parsed = |text: &str| Source::parse(text).map(|source| source.to_string());
    for text in ["2001:db8:1:2::/64", "2001:db8:1:2::9", "192.0.2.7"] {
        assert_eq!(parsed(text), Some(of(text.trim_end_matches("/64"))));
    }
    assert_eq!(["", "192.0.2.7/64", "2001:db8::/48", "host"].map(parsed), [const { None }; 4]);
    assert_eq!((of("192.0.2.7"), of("::ffff:192.0.2.7")), ("192.0.2.7".into(), "192.0.2.7".into()));
}

fn numbered(n: usize) -> Source {
    Source::of(IpAddr::V4(u32::try_from(n).expect("few").into()))
}

#[test]
fn when_the_table_is_full_the_least_guilty_quarter_is_forgotten() {
    let mut judge = Judge::default();
    shut_out(&mut judge, numbered(0), START);
    fail(&mut judge, numbered(1), Failure::Garbage, ABUSE_SLOWED_FROM / GARBAGE, START);
    changes(&mut judge);
    let now = START.after(ABUSE_SLOWED_LEAST);
    for n in 2..ABUSE_SOURCES_COUNT_MAX {
        let failure = if n % 2 == 0 { Failure::Connection } else { Failure::Garbage };
        assert!(!judge.on_failure(numbered(n), failure, now), "{n}");
    }
    assert_eq!(judge.suspects.len(), ABUSE_SOURCES_COUNT_MAX, "at the bound");
    assert!(!judge.on_failure(numbered(2), Failure::Connection, now), "nobody new");
    assert!(judge.on_failure(numbered(ABUSE_SOURCES_COUNT_MAX), Failure::Connection, now), "one past it");
    assert_eq!(judge.suspects.len(), ABUSE_SOURCES_COUNT_MAX / 4 * 3 + 1);
    assert_eq!((changes(&mut judge), judge.counts()), (vec![], (1, 1)), "not one of them was guilty");
    assert!((3..ABUSE_SOURCES_COUNT_MAX).step_by(2).all(|n| judge.suspects.contains_key(&numbered(n))));
}

#[test]
fn of_those_that_are_all_shut_out_whose_time_ends_first_give_way_and_are_told_so() {
    let mut judge = Judge::default();
    for n in 0..ABUSE_SOURCES_COUNT_MAX {
        shut_out(&mut judge, numbered(n), at(n as u64 / 64));
    }
    changes(&mut judge);
    judge.on_failure(numbered(ABUSE_SOURCES_COUNT_MAX), Failure::Connection, at(100));
    let gone: Vec<_> = (0..ABUSE_SOURCES_COUNT_MAX / 4).map(|n| (numbered(n), Verdict::Free)).collect();
    assert_eq!(changes(&mut judge), gone);
}

#[test]
fn a_shard_refuses_until_the_time_is_over_though_nobody_says_so() {
    let mut sentences = Sentences::default();
    let ip: IpAddr = [192, 0, 2, 1].into();
    sentences.set(source(1), Verdict::Slowed);
    assert!(sentences.has(ip) && !sentences.shuts_out(ip, START));
    sentences.set(source(1), Verdict::ShutOut(at(600)));
    assert!(sentences.shuts_out(ip, Time(at(600).0 - 1)) && !sentences.shuts_out(ip, at(600)));
    assert!(!sentences.shuts_out([192, 0, 2, 2].into(), START));
    sentences.note_turned_away(ip);
    sentences.note_turned_away([192, 0, 2, 2].into());
    assert_eq!(sentences.turned_away().collect::<Vec<_>>(), [(source(1), 1)]);
    sentences.set(source(1), Verdict::Free);
    assert!(sentences.is_empty());
}
