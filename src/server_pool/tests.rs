//! The rules one by one, under virtual time.

mod chaos;
mod names;
mod unchecked;

use std::net::SocketAddr;
use std::time::Duration;

use super::pair::SPARED_MAX;
use super::*;
use crate::dns::Target;
use crate::ids::Transport;
use crate::stats::Counter;

const CHECK: Duration = Duration::from_secs(5);
const FORCE: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(1);
const PRIMARY: &str = "192.0.2.1:5060";
const BACKUP: &str = "192.0.2.2:5060";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn target(text: &str) -> Target {
    Target { transport: Transport::Udp, address: address(text), priority: 0, weight: 0 }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    ping: PingId,
    to: SocketAddr,
    at: Time,
}

/// A pool with all that it has asked for.
struct Bench {
    pool: Pool,
    now: Time,
    /// Pings that wait for an answer.
    waiting: Vec<Sent>,
    /// All pings, in their order.
    sent: Vec<Sent>,
    said: Vec<Event>,
    said_at: Vec<Time>,
    counted: Vec<Counter>,
    views: usize,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Time(1_000_000);
        let pool = Pool::new(settings, now);
        let (waiting, sent, said, said_at, counted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bench = Self { pool, now, waiting, sent, said, said_at, counted, views: 0 };
        bench.drain();
        bench
    }

    /// One pair of addresses.
    fn pair() -> Self {
        Self::new(settings(CHECK, FORCE))
    }

    fn drain(&mut self) {
        while let Some(output) = self.pool.poll_output() {
            match output {
                Output::Ping { ping, pair, member, address } => {
                    let targets = &self.pool.view().pairs[pair].member(member).targets;
                    assert!(targets.iter().any(|target| target.address == address), "{address} is no target");
                    let sent = Sent { ping, to: address, at: self.now };
                    self.waiting.push(sent);
                    self.sent.push(sent);
                }
                Output::GiveUp { ping } => {
                    let at = self.waiting.iter().position(|sent| sent.ping == ping).expect("it waits for its answer");
                    self.waiting.remove(at);
                }
                Output::View => self.views += 1,
                Output::Say(event) => {
                    self.said.push(event);
                    self.said_at.push(self.now);
                }
                Output::Count(counter) => self.counted.push(counter),
            }
        }
        assert!(self.pool.poll_timeout().is_none_or(|due| due > self.now), "nothing is due twice");
    }

    /// Lets time pass, step by step.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.pool.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.pool.fire(due);
            self.drain();
        }
        self.now = end;
    }

    fn waits(&self, to: &str) -> bool {
        self.waiting.iter().any(|sent| sent.to == address(to))
    }

    fn pong(&mut self, from: &str, pong: Pong) {
        let at = self.waiting.iter().position(|sent| sent.to == address(from)).expect("it was pinged");
        let ping = self.waiting.remove(at).ping;
        self.pool.on_pong(ping, pong, self.now);
        self.drain();
    }

    fn answer(&mut self, from: &str, code: u16) {
        self.pong(from, Pong::Status(code));
    }

    fn evidence(&mut self, of: &str, evidence: Evidence) {
        self.pool.on_evidence(0, address(of), evidence, self.now);
        self.drain();
    }

    fn request(&mut self, from: &str) {
        self.pool.on_request(0, address(from), self.now);
        self.drain();
    }

    fn pin(&mut self, member: Option<Member>) -> Result<(), PinFault> {
        let pinned = self.pool.pin(0, member, self.now);
        self.drain();
        pinned
    }

    fn targets(&mut self, member: Member, targets: &[Target]) {
        self.pool.on_targets(0, member, targets, self.now);
        self.drain();
    }

    fn view(&self) -> &PairView {
        &self.pool.view().pairs[0]
    }

    fn active(&self) -> Member {
        self.view().active
    }

    fn up(&self, of: &str) -> bool {
        let mut all = self.view().members.iter().flat_map(|member| &member.targets);
        all.find(|target| target.address == address(of)).expect("it is a target").up
    }

    /// Pings to an address since then.
    fn pings_since(&self, to: &str, since: Time) -> usize {
        self.sent.iter().filter(|sent| sent.to == address(to) && sent.at >= since).count()
    }

    /// What was said last, in words.
    fn last_line(&self) -> String {
        let line = self.pool.line(self.said.last().expect("something was said"));
        format!("{}: {}", line.what, line.about)
    }
}

fn settings(oos_check: Duration, oos_force: Duration) -> Settings {
    let primary = MemberSettings::Address(address(PRIMARY));
    let backup = Some(MemberSettings::Address(address(BACKUP)));
    Settings { pairs: vec![PairSettings { name: "sips1".into(), primary, backup }], oos_check, oos_force }
}

#[test]
fn the_primary_counts_as_active_and_is_pinged_at_once_and_then_every_oos_check() {
    let mut bench = Bench::pair();
    assert_eq!(bench.active(), Member::Primary);
    assert!(bench.up(PRIMARY) && bench.waits(PRIMARY) && !bench.waits(BACKUP));
    bench.answer(PRIMARY, 200);
    assert_eq!(bench.view().member(Member::Primary).evidence(), Evidence::Answered);
    for _ in 0..5 {
        let before = bench.now;
        bench.pass(CHECK);
        assert_eq!(bench.pings_since(PRIMARY, before.after(MOMENT)), 1);
        bench.answer(PRIMARY, 200);
    }
    assert_eq!(bench.pings_since(BACKUP, Time(0)), 0, "a standby that is not known to be down is left alone");
    assert_eq!(
        (bench.views, bench.said.len()),
        (1, 0),
        "the first answer changes the view, the others say nothing new"
    );
}

#[test]
fn silence_is_certain_within_oos_check_and_oos_force_and_the_partner_has_answered_by_then() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    let frozen = bench.now.after(MOMENT);
    bench.pass(CHECK + FORCE - MOMENT * 300);
    assert_eq!(bench.active(), Member::Primary);
    bench.answer(BACKUP, 200);
    assert_eq!(bench.active(), Member::Primary, "the partner's answer alone moves nothing");
    bench.pass(MOMENT * 300);
    assert_eq!(bench.active(), Member::Backup);
    assert!(bench.now.since(frozen) <= CHECK + FORCE);
    assert_eq!(
        bench.last_line(),
        "switched to the other SIP Server: sips1: backup 192.0.2.2:5060 in place of primary 192.0.2.1:5060 \
         (primary: no answer in time)"
    );
    assert_eq!(bench.said.len(), 1);
    assert!(bench.counted.contains(&Counter::ServerSwitchSilent));
    assert_eq!((bench.view().why, bench.view().since), (Evidence::Silent, bench.now));
}

/// How often a primary that has fallen silent is asked until its partner takes its place, which answers.
fn asked_until_the_partner_serves(late: Duration) -> usize {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    bench.pool.note_late(bench.now.after(late));
    for _ in 0..1_000 {
        bench.pass(MOMENT * 100);
        if bench.waits(BACKUP) {
            bench.answer(BACKUP, 200);
        }
        if bench.active() == Member::Backup {
            return bench.sent.iter().filter(|sent| sent.to == address(PRIMARY)).count();
        }
    }
    panic!("it never does");
}

#[test]
fn silence_counts_later_while_shards_are_overloaded_and_counts() {
    let usual = asked_until_the_partner_serves(Duration::ZERO);
    assert_eq!(asked_until_the_partner_serves(CHECK / 2), usual, "that is over when it counts");
    assert_eq!(asked_until_the_partner_serves(CHECK * 100), usual + usize::from(SPARED_MAX));
}

#[test]
fn an_answer_after_the_partner_was_asked_keeps_the_active_one() {
    let mut bench = Bench::pair();
    bench.pass(FORCE - MOMENT);
    assert!(bench.waits(BACKUP));
    bench.answer(BACKUP, 200);
    bench.answer(PRIMARY, 200);
    bench.pass(CHECK - FORCE + MOMENT);
    assert!(bench.active() == Member::Primary && bench.waits(PRIMARY) && !bench.waits(BACKUP));
    // The backup's old answer does not count when the active one falls silent later.
    bench.pass(FORCE);
    assert_eq!(bench.active(), Member::Primary);
    assert!(bench.waits(BACKUP) && !bench.up(PRIMARY));
}

#[test]
fn what_is_certain_at_once_asks_the_partner_at_once() {
    for evidence in [Evidence::Refused, Evidence::Unreachable, Evidence::ConnectTimeout, Evidence::Tls] {
        let mut bench = Bench::pair();
        bench.answer(PRIMARY, 200);
        bench.pass(MOMENT);
        bench.evidence(PRIMARY, evidence);
        assert!(!bench.up(PRIMARY) && bench.waits(BACKUP) && !bench.waits(PRIMARY));
        bench.answer(BACKUP, 200);
        assert_eq!((bench.active(), bench.view().why), (Member::Backup, evidence));
    }
}

#[test]
fn a_ping_from_before_a_certain_end_tells_nothing() {
    let mut bench = Bench::pair();
    let before = bench.waiting[0].ping;
    bench.evidence(PRIMARY, Evidence::Refused);
    assert!(!bench.waits(PRIMARY), "it is given up");
    bench.pool.on_pong(before, Pong::Status(200), bench.now);
    bench.drain();
    assert!(!bench.up(PRIMARY));
}

#[test]
fn a_reset_and_a_503_to_a_request_are_reasons_to_ask_both_at_once() {
    for evidence in [Evidence::Reset, Evidence::Status(503), Evidence::Silent] {
        let mut bench = Bench::pair();
        bench.answer(PRIMARY, 200);
        bench.pass(Duration::from_secs(1));
        bench.evidence(PRIMARY, evidence);
        assert!(bench.up(PRIMARY) && bench.waits(PRIMARY) && bench.waits(BACKUP), "{evidence}");
        bench.answer(BACKUP, 200);
        bench.answer(PRIMARY, 200);
        bench.pass(MOMENT);
        assert_eq!((bench.active(), bench.said.len()), (Member::Primary, 0), "it was an idle close");

        bench.pass(Duration::from_secs(1));
        bench.evidence(PRIMARY, evidence);
        bench.answer(BACKUP, 200);
        bench.pong(PRIMARY, Pong::Lost(Evidence::Refused));
        assert_eq!((bench.active(), bench.view().why), (Member::Backup, Evidence::Refused));
    }
}

#[test]
fn suspicion_on_and_on_costs_few_pings_and_no_switch() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    for _ in 0..1_000 {
        bench.evidence(PRIMARY, Evidence::Status(503));
        for server in [PRIMARY, BACKUP] {
            if bench.waits(server) {
                bench.answer(server, 200);
            }
        }
        bench.pass(Duration::from_millis(5));
    }
    assert_eq!((bench.active(), bench.said.len()), (Member::Primary, 0));
    assert!(bench.sent.len() <= 24, "{} pings in 5 s", bench.sent.len());
}

#[test]
fn a_ping_that_was_lost_with_its_connection_is_repeated_once() {
    let mut bench = Bench::pair();
    bench.pong(PRIMARY, Pong::Lost(Evidence::Reset));
    assert!(bench.up(PRIMARY) && bench.waits(PRIMARY));
    bench.pong(PRIMARY, Pong::Lost(Evidence::Reset));
    assert!(!bench.up(PRIMARY) && bench.waits(BACKUP));
    // An answer gives the next one its second chance back.
    let mut bench = Bench::pair();
    bench.pong(PRIMARY, Pong::Lost(Evidence::Reset));
    bench.answer(PRIMARY, 200);
    bench.pass(CHECK);
    bench.pong(PRIMARY, Pong::Lost(Evidence::Reset));
    assert!(bench.up(PRIMARY));
}

#[test]
fn codes_that_mean_that_nobody_is_there_and_codes_that_do_not() {
    for code in [408, 503, 504] {
        let mut bench = Bench::pair();
        bench.answer(PRIMARY, code);
        assert!(!bench.up(PRIMARY), "{code}");
    }
    for code in [204, 302, 401, 403, 404, 405, 420, 481, 486, 500, 501, 603] {
        let mut bench = Bench::pair();
        bench.answer(PRIMARY, code);
        assert!(bench.up(PRIMARY), "{code}");
    }
}

#[test]
fn only_a_2xx_of_the_partner_ends_a_search_once_the_pair_has_said_2xx() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.answer(BACKUP, 404);
    assert!(bench.active() == Member::Primary && !bench.up(BACKUP));
    // The active one itself may answer as it likes: it answers. It was asked at once, for only a shard had said so.
    bench.answer(PRIMARY, 404);
    assert!(bench.active() == Member::Primary && bench.up(PRIMARY));

    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 404);
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.answer(BACKUP, 404);
    assert_eq!(bench.active(), Member::Backup, "nobody here has ever said 2xx");
}

#[test]
fn both_are_asked_in_turn_every_oos_force_until_one_answers() {
    let mut bench = Bench::pair();
    bench.pong(PRIMARY, Pong::Lost(Evidence::Refused));
    let begun = bench.now;
    let mut order = Vec::new();
    for _ in 0..6 {
        let to = bench.waiting[0].to;
        assert_eq!(bench.waiting.len(), 1);
        order.push((to, bench.now.since(begun)));
        bench.pong(&to.to_string(), Pong::Lost(Evidence::Refused));
        bench.pass(FORCE);
    }
    let turns = [BACKUP, PRIMARY, BACKUP, PRIMARY, BACKUP, PRIMARY].map(address);
    assert_eq!(order, turns.into_iter().zip((0..).map(|n| FORCE * n)).collect::<Vec<_>>());
    bench.answer(BACKUP, 200);
    assert_eq!(bench.active(), Member::Backup);
    // From then on it is pinged every oos-check, and so is the one that is down.
    let since = bench.now.after(MOMENT);
    for _ in 0..40 {
        bench.pass(CHECK / 10);
        if bench.waits(BACKUP) {
            bench.answer(BACKUP, 200);
        }
        if bench.waits(PRIMARY) {
            bench.pong(PRIMARY, Pong::Lost(Evidence::Refused));
        }
    }
    assert_eq!((bench.pings_since(BACKUP, since), bench.pings_since(PRIMARY, since)), (4, 4));
}

#[test]
fn an_outage_is_said_once_with_the_evidence_of_both_and_cleared_once() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 503);
    assert!(bench.said.is_empty());
    bench.pong(BACKUP, Pong::Lost(Evidence::Tls));
    let said = bench.last_line();
    assert_eq!(
        said,
        "40001 no SIP Server answers: sips1: primary 192.0.2.1:5060: status 503; backup 192.0.2.2:5060: TLS handshake \
         failed"
    );
    assert_eq!(bench.view().outage, Some(bench.now));
    bench.pass(CHECK * 10);
    assert_eq!(bench.said.len(), 1);
    while !bench.waits(BACKUP) {
        bench.pass(MOMENT * 100);
    }
    bench.answer(BACKUP, 200);
    assert_eq!((bench.active(), bench.view().outage), (Member::Backup, None));
    assert!(matches!(bench.said[1], Event::OutageOver { member: Member::Backup, why: Evidence::Answered, .. }));
    assert!(matches!(bench.said[2], Event::Switched { to: Member::Backup, .. }));
    assert_eq!(bench.said.len(), 3);
}

#[test]
fn without_a_backup_the_primary_is_asked_every_oos_force() {
    let mut settings = settings(CHECK, FORCE);
    settings.pairs[0].backup = None;
    let mut bench = Bench::new(settings);
    bench.answer(PRIMARY, 200);
    bench.evidence(PRIMARY, Evidence::Refused);
    assert!(bench.waits(PRIMARY), "a shard's word is verified at once");
    assert_eq!(bench.last_line(), "40001 no SIP Server answers: sips1: primary 192.0.2.1:5060: connection refused");
    bench.pong(PRIMARY, Pong::Lost(Evidence::Refused));
    let since = bench.now;
    for _ in 0..3 {
        bench.pass(FORCE);
        bench.pong(PRIMARY, Pong::Lost(Evidence::Refused));
    }
    assert_eq!(bench.pings_since(PRIMARY, since.after(MOMENT)), 3);
    bench.pass(FORCE);
    bench.answer(PRIMARY, 200);
    assert_eq!((bench.view().outage, bench.said.len()), (None, 2));
    assert_eq!(bench.pin(Some(Member::Backup)), Err(PinFault::Member));
    assert_eq!(bench.pool.rows(bench.now)[0].servers.len(), 1);
}

#[test]
fn a_request_makes_its_sender_active_at_once_and_there_is_no_automatic_return() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    bench.request(BACKUP);
    assert_eq!((bench.active(), bench.view().why), (Member::Backup, Evidence::Request));
    assert!(bench.last_line().ends_with("(backup: it sent a request)"), "{}", bench.last_line());
    assert!(bench.waits(BACKUP), "it is asked at once");
    bench.answer(BACKUP, 200);
    for _ in 0..10 {
        bench.pass(CHECK);
        bench.answer(BACKUP, 200);
    }
    assert_eq!((bench.active(), bench.said.len()), (Member::Backup, 1));
    bench.request(PRIMARY);
    assert_eq!(bench.active(), Member::Primary);
    let views = bench.views;
    for _ in 0..100 {
        bench.request(PRIMARY);
    }
    assert_eq!(bench.views, views, "the active one's requests change nothing");
}

#[test]
fn a_request_of_the_active_one_ends_the_search() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 503);
    bench.pong(BACKUP, Pong::Lost(Evidence::Refused));
    bench.request(PRIMARY);
    assert!(bench.up(PRIMARY) && bench.view().outage.is_none());
    bench.pass(CHECK);
    assert!(bench.waits(PRIMARY));
}

#[test]
fn evidence_against_the_former_active_one_changes_nothing_about_the_new_one() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.answer(BACKUP, 200);
    let said = bench.said.len();
    for evidence in [Evidence::Refused, Evidence::Reset, Evidence::Tls, Evidence::Status(503), Evidence::Silent] {
        bench.evidence(PRIMARY, evidence);
        bench.pass(MOMENT);
    }
    assert_eq!((bench.active(), bench.said.len()), (Member::Backup, said));
    assert!(bench.up(BACKUP));
}

#[test]
fn a_shards_answer_is_no_service_check() {
    let mut bench = Bench::pair();
    bench.evidence(PRIMARY, Evidence::Refused);
    for server in [PRIMARY, BACKUP] {
        bench.evidence(server, Evidence::Answered);
    }
    assert!(!bench.up(PRIMARY) && bench.active() == Member::Primary);
}

#[test]
fn a_former_active_one_that_comes_back_is_shown_and_stays_standby() {
    let mut bench = Bench::pair();
    bench.evidence(PRIMARY, Evidence::Refused);
    bench.answer(BACKUP, 200);
    bench.pass(CHECK);
    bench.answer(BACKUP, 200);
    bench.answer(PRIMARY, 200);
    assert!(bench.up(PRIMARY) && bench.active() == Member::Backup);
    let since = bench.now.after(MOMENT);
    bench.pass(CHECK);
    assert_eq!(bench.pings_since(PRIMARY, since), 0);
}

#[test]
fn stale_pongs_and_strangers_are_ignored() {
    let mut bench = Bench::pair();
    let old = bench.waiting[0].ping;
    bench.pass(FORCE);
    assert!(!bench.up(PRIMARY));
    let (said, views) = (bench.said.len(), bench.views);
    bench.pool.on_pong(old, Pong::Status(200), bench.now);
    bench.pool.on_pong(PingId { pair: 7, serial: 1 }, Pong::Status(200), bench.now);
    bench.evidence("192.0.2.77:5060", Evidence::Refused);
    bench.request("192.0.2.77:5060");
    bench.pool.on_evidence(7, address(PRIMARY), Evidence::Refused, bench.now);
    bench.pool.on_request(7, address(PRIMARY), bench.now);
    bench.pool.on_targets(7, Member::Primary, &[], bench.now);
    bench.drain();
    assert!(!bench.up(PRIMARY));
    assert_eq!((bench.said.len(), bench.views), (said, views));
}

#[test]
fn a_pin_fixes_the_active_one_and_a_release_hands_back_at_once() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    assert_eq!(bench.pool.pin(1, None, bench.now), Err(PinFault::Pair));
    assert_eq!(bench.pin(Some(Member::Backup)), Ok(()));
    assert_eq!((bench.active(), bench.view().pinned, bench.view().why), (Member::Backup, true, Evidence::Pinned));
    assert_eq!(
        bench.last_line(),
        "a SIP Server is pinned: sips1: backup 192.0.2.2:5060 in place of primary 192.0.2.1:5060 (taken to answer: \
         nothing heard yet)"
    );
    assert_eq!(bench.counted.last(), Some(&Counter::ServerSwitchPinned));
    bench.answer(BACKUP, 200);
    bench.request(PRIMARY);
    assert_eq!(bench.active(), Member::Backup, "a request does not undo it");

    // The backup dies; nothing takes its place.
    bench.evidence(BACKUP, Evidence::Refused);
    assert!(bench.last_line().starts_with("the pinned SIP Server does not answer: sips1: backup 192.0.2.2:5060: "));
    assert!(bench.waits(PRIMARY), "the other one is asked all the same");
    bench.answer(PRIMARY, 200);
    bench.pass(FORCE);
    bench.pong(BACKUP, Pong::Lost(Evidence::Refused));
    assert_eq!(bench.active(), Member::Backup);
    assert_eq!(bench.pin(None), Ok(()));
    assert!(bench.active() == Member::Primary && !bench.view().pinned);

    let said = bench.said.len();
    assert_eq!(bench.pin(None), Ok(()), "a second release does nothing");
    assert_eq!(bench.said.len(), said);
}

#[test]
fn a_release_keeps_a_server_that_answers() {
    let mut bench = Bench::pair();
    bench.answer(PRIMARY, 200);
    bench.pin(Some(Member::Backup)).expect("there is a backup");
    bench.answer(BACKUP, 200);
    bench.pin(None).expect("there is a pair");
    bench.pass(CHECK);
    bench.answer(BACKUP, 200);
    assert_eq!(bench.active(), Member::Backup, "there is no automatic return");
}

#[test]
fn pings_of_many_pairs_spread_over_time() {
    let pairs = (1..=20).map(|n| PairSettings {
        name: format!("sips{n}").into(),
        primary: MemberSettings::Address(address(&format!("192.0.2.{n}:5060"))),
        backup: None,
    });
    let mut bench = Bench::new(Settings { pairs: pairs.collect(), oos_check: CHECK, oos_force: FORCE });
    assert_eq!(bench.sent.len(), 20, "the first ping is sent at once");
    for _ in 0..300 {
        while let Some(sent) = bench.waiting.first().copied() {
            bench.answer(&sent.to.to_string(), 200);
        }
        bench.pass(MOMENT * 50);
    }
    let last = Time(bench.now.0 - 5_000_000);
    let mut times: Vec<_> = bench.sent.iter().filter(|sent| sent.at > last).map(|sent| sent.at).collect();
    assert_eq!(times.len(), 20);
    times.dedup();
    assert_eq!(times.len(), 20, "no two at one time");
}
