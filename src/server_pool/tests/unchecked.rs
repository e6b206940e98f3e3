//! `oos-check = 0`: nothing is pinged.

use super::*;

fn unchecked() -> Bench {
    Bench::new(settings(Duration::ZERO, FORCE))
}

#[test]
fn nothing_is_pinged_and_a_server_counts_as_answering() {
    let mut bench = unchecked();
    bench.pass(Duration::from_secs(3_600));
    bench.evidence(PRIMARY, Evidence::Reset);
    bench.evidence(PRIMARY, Evidence::Status(503));
    assert!(bench.sent.is_empty() && bench.up(PRIMARY) && bench.active() == Member::Primary);
    assert_eq!(bench.pool.poll_timeout(), None);
}

#[test]
fn evidence_makes_the_partner_active_at_once_and_without_return() {
    for evidence in
        [Evidence::Refused, Evidence::Unreachable, Evidence::ConnectTimeout, Evidence::Tls, Evidence::Silent]
    {
        let mut bench = unchecked();
        bench.evidence(PRIMARY, evidence);
        assert_eq!((bench.active(), bench.view().why), (Member::Backup, evidence));
        bench.pass(FORCE);
        assert!(bench.up(PRIMARY), "it is to be tried again when it is needed");
        bench.pass(FORCE * 10);
        assert_eq!((bench.active(), bench.said.len(), bench.sent.len()), (Member::Backup, 1, 0));
    }
}

#[test]
fn with_both_down_each_is_tried_again_after_oos_force_and_the_outage_is_said_once() {
    let mut bench = unchecked();
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.evidence(BACKUP, Evidence::Refused);
    assert!(!bench.up(PRIMARY) && !bench.up(BACKUP) && bench.view().outage.is_some());
    for _ in 0..5 {
        bench.pass(FORCE);
        assert!(bench.up(PRIMARY) && bench.up(BACKUP), "both are to be tried");
        bench.evidence(BACKUP, Evidence::Refused);
        bench.evidence(PRIMARY, Evidence::Refused);
    }
    let outages = |bench: &Bench| bench.said.iter().filter(|event| matches!(event, Event::Outage { .. })).count();
    assert_eq!(outages(&bench), 1);
    bench.pass(FORCE);
    assert!(bench.view().outage.is_some(), "nobody has answered yet");
    bench.evidence(PRIMARY, Evidence::Answered);
    assert!(bench.view().outage.is_none());
    assert!(bench.said.iter().any(|event| matches!(event, Event::OutageOver { member: Member::Primary, .. })));
}

#[test]
fn what_nothing_was_held_against_for_long_enough_counts_as_back() {
    let mut bench = unchecked();
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.evidence(BACKUP, Evidence::Refused);
    bench.pass(FORCE * 2);
    assert!(bench.view().outage.is_none());
    assert_eq!(bench.pool.poll_timeout(), None);
}

#[test]
fn a_request_makes_the_backup_active() {
    let mut bench = unchecked();
    bench.request(BACKUP);
    assert_eq!((bench.active(), bench.view().why), (Member::Backup, Evidence::Request));
}
