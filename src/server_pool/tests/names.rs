//! Members that are names: sets of targets.

use super::*;

const ONE: &str = "192.0.2.11:5060";
const TWO: &str = "192.0.2.12:5060";

/// A primary that is a name, and a backup that is an address.
fn named() -> Bench {
    let mut settings = settings(CHECK, FORCE);
    settings.pairs[0].primary = MemberSettings::Name;
    Bench::new(settings)
}

#[test]
fn a_name_that_is_being_looked_up_is_not_down() {
    let mut bench = named();
    assert_eq!((bench.sent.len(), bench.said.len()), (0, 0));
    bench.pass(CHECK * 3);
    assert_eq!((bench.active(), bench.sent.len()), (Member::Primary, 0));
    bench.targets(Member::Primary, &[target(ONE)]);
    assert!(bench.waits(ONE) && bench.up(ONE) && bench.views == 1);
}

#[test]
fn a_name_that_does_not_resolve_is_down_until_it_does() {
    let mut bench = named();
    bench.targets(Member::Primary, &[]);
    let primary = bench.view().member(Member::Primary);
    assert_eq!((primary.evidence(), primary.since), (Evidence::Dns, bench.now));
    bench.answer(BACKUP, 200);
    assert_eq!((bench.active(), bench.view().why), (Member::Backup, Evidence::Dns));
    assert!(bench.last_line().contains("primary without an address (primary: its name does not resolve)"));
    bench.targets(Member::Primary, &[target(ONE)]);
    assert!(bench.up(ONE) && bench.active() == Member::Backup);
}

#[test]
fn every_target_is_pinged_and_the_server_answers_while_one_does() {
    let mut bench = named();
    bench.targets(Member::Primary, &[Target { priority: 1, weight: 7, ..target(ONE) }, target(TWO)]);
    assert!(bench.waits(ONE) && bench.waits(TWO));
    bench.answer(ONE, 200);
    bench.pong(TWO, Pong::Lost(Evidence::Refused));
    assert!(bench.up(ONE) && !bench.up(TWO) && bench.active() == Member::Primary && bench.said.is_empty());
    let kept = bench.view().member(Member::Primary).targets[0];
    assert_eq!((kept.priority, kept.weight), (1, 7));
    let since = bench.now.after(MOMENT);
    for _ in 0..4 {
        bench.pass(CHECK);
        for server in [ONE, TWO] {
            if bench.waits(server) {
                bench.answer(server, if server == ONE { 200 } else { 503 });
            }
        }
    }
    assert!(bench.pings_since(ONE, since) >= 4 && bench.pings_since(TWO, since) >= 4);
    bench.evidence(ONE, Evidence::Refused);
    bench.answer(BACKUP, 200);
    assert_eq!(bench.active(), Member::Backup);
}

#[test]
fn one_silent_target_of_two_asks_no_partner() {
    let mut bench = named();
    bench.targets(Member::Primary, &[target(ONE), target(TWO)]);
    bench.answer(ONE, 200);
    bench.pass(FORCE);
    assert!(!bench.up(TWO) && !bench.waits(BACKUP) && bench.said.is_empty());
}

#[test]
fn targets_that_stay_keep_what_is_known_and_those_that_vanish_leave() {
    let mut bench = named();
    bench.targets(Member::Primary, &[target(ONE), target(TWO)]);
    bench.pong(TWO, Pong::Lost(Evidence::Refused));
    let views = bench.views;
    bench.targets(Member::Primary, &[target(ONE), target(TWO), target(ONE)]);
    assert_eq!(bench.views, views, "nothing is new");
    assert!(!bench.up(TWO));
    // ONE goes with its ping under way (the bench sees that it is given up), NEW comes.
    bench.targets(Member::Primary, &[target(TWO), target("192.0.2.13:5060")]);
    let addresses: Vec<_> = bench.view().member(Member::Primary).targets.iter().map(|target| target.address).collect();
    assert_eq!(addresses, [TWO, "192.0.2.13:5060"].map(address));
    assert!(bench.up("192.0.2.13:5060") && bench.waits("192.0.2.13:5060") && !bench.up(TWO) && !bench.waits(ONE));
    // All that is left is down.
    bench.targets(Member::Primary, &[target(TWO)]);
    assert!(bench.waits(BACKUP));
}

#[test]
fn an_outage_ends_with_a_sign_of_life_and_not_with_a_new_address() {
    let mut bench = named();
    bench.targets(Member::Primary, &[target(ONE)]);
    bench.pong(ONE, Pong::Lost(Evidence::Refused));
    bench.pong(BACKUP, Pong::Lost(Evidence::Refused));
    assert!(bench.view().outage.is_some());
    bench.targets(Member::Primary, &[target(TWO)]);
    assert!(bench.view().outage.is_some() && bench.up(TWO) && bench.waits(TWO));
    bench.pong(TWO, Pong::Lost(Evidence::Refused));
    assert_eq!(bench.said.len(), 1, "it is still the same outage");
    while !bench.waits(TWO) {
        bench.pass(MOMENT * 100);
    }
    bench.answer(TWO, 200);
    assert!(bench.view().outage.is_none() && bench.said.len() == 2);
}

#[test]
fn more_targets_than_the_bound_are_left_out() {
    let mut bench = named();
    let many: Vec<_> = (0..300).map(|n| target(&format!("192.0.2.1:{}", 1_000 + n))).collect();
    bench.targets(Member::Primary, &many);
    assert_eq!(bench.view().member(Member::Primary).targets.len(), 64);
    assert_eq!(bench.waiting.len(), 64);
}

#[test]
fn targets_for_a_backup_that_there_is_not_are_ignored() {
    let mut settings = settings(CHECK, FORCE);
    settings.pairs[0].backup = None;
    let mut bench = Bench::new(settings);
    bench.targets(Member::Backup, &[target(TWO)]);
    assert!(bench.view().member(Member::Backup).targets.is_empty());
}
