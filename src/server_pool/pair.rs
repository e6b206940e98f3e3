//! The rules of one pair; `health` says what they are.
//!
//! Owns: what is known of each target beyond the view ([`Probe`]), the phase, and every decision. An entry
//! (`on_*`, [`Rules::step`]) notes what happened, then [`Rules::settle`] draws all consequences, always in the same
//! order, so that no entry has consequences of its own.

use std::net::SocketAddr;
use std::time::Duration;

use super::health::{MemberSettings, Output, PairSettings, PingId, Pong, Queue};
use super::{Event, Evidence, Member, MemberView, PairView, TargetView, event};
use crate::clock::Time;
use crate::dns::Target;
use crate::stats::Counter;

const BOTH: [Member; 2] = [Member::Primary, Member::Backup];
/// Targets of one name; further ones are left out.
const TARGETS_MAX: usize = 64;
/// So many pings in a row may find no answer while shards are overloaded, before that counts against a server.
pub(super) const SPARED_MAX: u8 = 3;
/// A server that gives a reason to be pinged again and again is pinged so often at most.
const PING_GAP: Duration = Duration::from_millis(500);

/// `oos-check` and `oos-force`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub check: Duration,
    pub force: Duration,
}

impl Times {
    /// An OPTIONS that is unanswered for so long is silence.
    fn patience(self) -> Duration {
        self.check.min(self.force)
    }

    /// After so long the partner is asked as well.
    fn doubt(self) -> Duration {
        self.patience() * 3 / 4
    }

    pub(super) fn checks(self) -> bool {
        self.check > Duration::ZERO
    }
}

/// What is known of a target beyond the view.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// The ping that waits for its answer, and since when.
    ping: Option<(PingId, Time)>,
    /// When the last ping was sent.
    sent: Option<Time>,
    /// When the next one is due while the pair is watched.
    next: Option<Time>,
    /// When a check is made sooner than that, for a reason.
    hurry: Option<Time>,
    /// The last answer that counts as one.
    answered: Option<Time>,
    /// A ping was lost with its connection and has been repeated.
    repeated: bool,
    /// Pings in a row whose silence was held against nobody.
    spared: u8,
    /// Without service checks: when it is taken to be up again.
    retry: Option<Time>,
    /// Without service checks: when nothing was held against it for long enough after that.
    trusted: Option<Time>,
}

/// The active server does not answer: both are asked in turn.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// An answer since then ends it.
    begun: Time,
    /// Whose turn is next, and when.
    next: Member,
    at: Time,
    /// The active one was judged by what a shard saw, and has not been pinged since.
    hearsay: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pair {
    probes: [Vec<Probe>; 2],
    search: Option<Search>,
    /// Since when the partner is being asked because the active one may not answer.
    doubt: Option<Time>,
    /// What put the active one down was what a shard saw, not a ping. Only while consequences are drawn.
    hearsay: bool,
    /// Somebody in this pair has answered an OPTIONS with 2xx, so that one may be expected.
    takes_options: bool,
    has_backup: bool,
    /// Whether the name of each has been looked up, or it has none.
    resolved: [bool; 2],
    /// The pair's place among the pairs, as a part of one.
    place: (u32, u32),
}

impl Pair {
    pub(super) fn new(settings: &PairSettings, at: usize, count: usize, checks: bool, now: Time) -> (Self, PairView) {
        let place = (u32::try_from(at).unwrap_or(0), u32::try_from(count).unwrap_or(1).max(1));
        let mut pair = Self {
            probes: [Vec::new(), Vec::new()],
            search: None,
            doubt: None,
            hearsay: false,
            takes_options: false,
            has_backup: settings.backup.is_some(),
            resolved: [true; 2],
            place,
        };
        let mut view = PairView {
            active: Member::Primary,
            since: now,
            why: Evidence::Start,
            pinned: false,
            outage: None,
            heard: !checks,
            members: [
                MemberView { since: now, ..MemberView::default() },
                MemberView { since: now, ..MemberView::default() },
            ],
        };
        for member in BOTH {
            let its = match member {
                Member::Primary => Some(&settings.primary),
                Member::Backup => settings.backup.as_ref(),
            };
            match its {
                Some(MemberSettings::Address(address)) => {
                    let up = true;
                    let target =
                        TargetView { address: *address, priority: 0, weight: 0, up, since: now, why: Evidence::Start };
                    view.members[member.index()].targets.push(target);
                    pair.probes[member.index()].push(Probe::default());
                }
                Some(MemberSettings::Name) => pair.resolved[member.index()] = false,
                None => {}
            }
        }
        (pair, view)
    }

    pub(super) fn has_backup(&self) -> bool {
        self.has_backup
    }

    /// What was to come later than the new times have it comes by them.
    pub(super) fn keep_to(&mut self, times: Times, now: Time) {
        for probe in self.probes.iter_mut().flatten() {
            probe.next = probe.next.map(|at| at.min(now.after(times.check)));
            probe.retry = probe.retry.map(|at| at.min(now.after(times.force)));
        }
        if let Some(search) = &mut self.search {
            search.at = search.at.min(now.after(times.force));
        }
    }

    /// When something is due.
    pub(super) fn due(&self, view: &PairView, times: Times) -> Option<Time> {
        let each = self.probes.iter().flatten().flat_map(|probe| {
            let ping = match probe.ping {
                Some((_, since)) => Some(since.after(times.patience())),
                None => [probe.hurry, probe.next].into_iter().flatten().min(),
            };
            [ping, probe.retry, probe.trusted]
        });
        let search = self.search.map(|search| search.at);
        each.flatten().chain(search).chain(self.doubt_at(view, times)).min()
    }

    /// When the partner is to be asked because no target of the active one has answered its ping yet.
    fn doubt_at(&self, view: &PairView, times: Times) -> Option<Time> {
        if self.search.is_some() || self.doubt.is_some() || view.pinned {
            return None;
        }
        if view.member(view.active.other()).targets.is_empty() {
            return None;
        }
        let mut at = None;
        for (target, probe) in view.member(view.active).targets.iter().zip(&self.probes[view.active.index()]) {
            if target.up {
                let (_, since) = probe.ping?;
                at = at.max(Some(since.after(times.doubt())));
            }
        }
        at
    }
}

/// A pair with all that its rules need.
pub(super) struct Rules<'a> {
    pub at: usize,
    pub pair: &'a mut Pair,
    pub view: &'a mut PairView,
    pub times: Times,
    /// Silence may be our own.
    pub is_late: bool,
    pub queue: &'a mut Queue,
    pub now: Time,
}

impl Rules<'_> {
    pub(super) fn on_targets(&mut self, member: Member, targets: &[Target]) {
        let m = member.index();
        if member == Member::Backup && !self.pair.has_backup {
            return;
        }
        self.pair.resolved[m] = true;
        let mut views: Vec<TargetView> = Vec::with_capacity(targets.len().min(TARGETS_MAX));
        let mut probes = Vec::with_capacity(views.capacity());
        for target in targets {
            if views.len() == TARGETS_MAX || views.iter().any(|known| known.address == target.address) {
                continue;
            }
            let Target { address, priority, weight, .. } = *target;
            let known = self.view.members[m].targets.iter().position(|known| known.address == address);
            let (view, probe) = match known {
                Some(at) => (self.view.members[m].targets[at], std::mem::take(&mut self.pair.probes[m][at])),
                None => {
                    let (up, since, why) = (true, self.now, Evidence::Start);
                    (TargetView { address, priority, weight, up, since, why }, Probe::default())
                }
            };
            views.push(TargetView { priority, weight, ..view });
            probes.push(probe);
        }
        for gone in std::mem::replace(&mut self.pair.probes[m], probes) {
            if let Some((ping, _)) = gone.ping {
                self.queue.push(Output::GiveUp { ping });
            }
        }
        let why = if views.is_empty() { Evidence::Dns } else { Evidence::Start };
        let view = &mut self.view.members[m];
        if view.targets != views || view.why != why {
            if view.why != why {
                (view.why, view.since) = (why, self.now);
            }
            view.targets = views;
            self.queue.view_changed();
        }
    }

    pub(super) fn on_pong(&mut self, ping: PingId, pong: Pong) {
        let waits = |probe: &Probe| probe.ping.is_some_and(|(waiting, _)| waiting == ping);
        let Some((member, nth)) =
            BOTH.into_iter().find_map(|m| Some((m, self.pair.probes[m.index()].iter().position(waits)?)))
        else {
            return;
        };
        let probe = &mut self.pair.probes[member.index()][nth];
        probe.ping = None;
        match pong {
            Pong::Status(200..=299) => {
                self.pair.takes_options = true;
                self.queue.push(Output::Count(Counter::ServerPingAnswered));
                self.on_life(member, nth, Evidence::Answered);
            }
            Pong::Status(code) => {
                self.queue.push(Output::Count(Counter::ServerPingOther));
                let answers = !matches!(code, 408 | 503 | 504);
                if answers && (member == self.view.active || !self.pair.takes_options) {
                    self.on_life(member, nth, Evidence::Status(code));
                } else {
                    self.on_down(member, nth, Evidence::Status(code));
                }
            }
            Pong::Lost(evidence) => {
                self.queue.push(Output::Count(Counter::ServerPingLost));
                // A request may have met the end of an idle connection.
                if evidence == Evidence::Reset && self.pair.search.is_none() && !probe.repeated {
                    probe.repeated = true;
                    probe.hurry = Some(self.now);
                } else {
                    self.on_down(member, nth, evidence);
                }
            }
        }
    }

    pub(super) fn on_evidence(&mut self, address: SocketAddr, evidence: Evidence) {
        let Some((member, nth)) = self.find(address) else { return };
        let checks = self.times.checks();
        match evidence {
            // With service checks only those tell: an answer may be old, and not every answer is one of theirs.
            Evidence::Answered if !checks => self.on_life(member, nth, evidence),
            Evidence::TookCall => self.on_serving(address, evidence),
            Evidence::Refused | Evidence::Unreachable | Evidence::ConnectTimeout | Evidence::Tls => {
                self.on_seen_down(member, nth, evidence);
            }
            // Nothing can be asked then, and over UDP nothing else tells.
            Evidence::Silent if !checks => self.on_seen_down(member, nth, evidence),
            Evidence::Reset | Evidence::Status(_) | Evidence::Silent if checks => self.on_suspicion(member, nth),
            _ => {}
        }
    }

    /// A server serves, as a request of its own or a call that it took shows.
    pub(super) fn on_serving(&mut self, address: SocketAddr, evidence: Evidence) {
        let Some((member, nth)) = self.find(address) else { return };
        self.on_life(member, nth, evidence);
        if member != self.view.active && !self.view.pinned {
            self.switch(member, evidence);
        }
    }

    pub(super) fn on_pin(&mut self, member: Option<Member>) {
        let from = self.view.active;
        let Some(member) = member else {
            if std::mem::take(&mut self.view.pinned) {
                self.queue.push(Output::Say(Event::Released { pair: self.at, member: from }));
                self.queue.view_changed();
            }
            return;
        };
        if self.view.pinned && member == from {
            return;
        }
        self.view.pinned = true;
        self.pair.doubt = None;
        self.view.why = Evidence::Pinned;
        if member != from {
            self.activate(member);
            self.queue.push(Output::Count(event::switched(Evidence::Pinned)));
        }
        let its = self.view.member(member);
        let (pair, why, up, addresses) = (self.at, its.evidence(), its.up(), self.addresses());
        self.queue.push(Output::Say(Event::Pinned { pair, member, why, up, from, addresses }));
        self.queue.view_changed();
    }

    /// Time has passed.
    pub(super) fn step(&mut self) {
        for member in BOTH {
            for nth in 0..self.pair.probes[member.index()].len() {
                let probe = &mut self.pair.probes[member.index()][nth];
                if let Some((ping, since)) = probe.ping
                    && since.after(self.times.patience()) <= self.now
                {
                    probe.ping = None;
                    self.queue.push(Output::GiveUp { ping });
                    self.queue.push(Output::Count(Counter::ServerPingSilent));
                    if self.is_late && probe.spared < SPARED_MAX {
                        probe.spared += 1;
                        probe.hurry = Some(self.now);
                    } else {
                        self.on_down(member, nth, Evidence::Silent);
                    }
                }
                let probe = &mut self.pair.probes[member.index()][nth];
                if probe.retry.is_some_and(|at| at <= self.now) {
                    probe.retry = None;
                    probe.trusted = Some(self.now.after(self.times.force));
                    self.set(member, nth, true, Evidence::Retry);
                } else if probe.trusted.is_some_and(|at| at <= self.now) {
                    self.on_life(member, nth, Evidence::Retry);
                }
            }
        }
    }

    /// Draws the consequences: phase, outage, and which pings are due.
    pub(super) fn settle(&mut self) {
        let active = self.view.active;
        let other = active.other();
        if self.times.checks() {
            if self.pair.search.is_none() && self.is_down(active) {
                self.begin_search();
            }
            if let Some(search) = self.pair.search {
                let answered = |probe: &Probe| probe.answered.is_some_and(|at| at >= search.begun);
                let mut partner = self.view.member(other).targets.iter().zip(&self.pair.probes[other.index()]);
                if self.view.member(active).up() {
                    self.pair.search = None;
                } else if !self.view.pinned && partner.any(|(target, probe)| target.up && answered(probe)) {
                    self.switch(other, self.view.member(active).evidence());
                }
            }
        } else if self.is_down(active) && self.view.member(other).up() && !self.view.pinned {
            self.switch(other, self.view.member(active).evidence());
        }
        if self.view.outage.is_none() && BOTH.iter().all(|member| self.is_down(*member)) {
            self.view.outage = Some(self.now);
            self.queue.view_changed();
            let evidence =
                BOTH.map(|m| (m == Member::Primary || self.pair.has_backup).then(|| self.view.member(m).evidence()));
            let (pair, addresses) = (self.at, self.addresses());
            self.queue.push(Output::Say(Event::Outage { pair, evidence, addresses }));
        }
        if self.times.checks() {
            self.take_turn();
            self.plan();
            self.send_due();
        }
        self.pair.hearsay = false;
    }

    fn begin_search(&mut self) {
        let active = self.view.active;
        let partner = !self.view.member(active.other()).targets.is_empty();
        // What was learnt by a ping need not be asked again at once.
        let hearsay = self.pair.hearsay;
        self.pair.search = Some(Search {
            begun: self.pair.doubt.take().unwrap_or(self.now),
            next: if partner { active.other() } else { active },
            at: if partner || hearsay { self.now } else { self.now.after(self.times.force) },
            hearsay,
        });
    }

    /// In a search: asks whose turn it is.
    fn take_turn(&mut self) {
        let Some(mut search) = self.pair.search else { return };
        let active = self.view.active;
        let partner = &self.pair.probes[active.other().index()];
        // A shard has condemned the active one, and there is no partner to take over: it is asked itself.
        let alone = !self.view.member(active.other()).up() && partner.iter().all(|probe| probe.ping.is_none());
        if search.hearsay && search.next == active && alone {
            search.at = self.now;
        }
        if search.at <= self.now {
            self.ping_all(search.next);
            search.hearsay &= search.next != active;
            if !self.pair.probes[search.next.other().index()].is_empty() {
                search.next = search.next.other();
            }
            search.at = self.now.after(self.times.force);
        }
        self.pair.search = Some(search);
    }

    /// Which targets are to be pinged, and when. In a search the turns say it.
    fn plan(&mut self) {
        let searching = self.pair.search.is_some();
        for member in BOTH {
            let targets = &self.view.members[member.index()].targets;
            for (target, probe) in targets.iter().zip(&mut self.pair.probes[member.index()]) {
                if searching {
                    (probe.next, probe.hurry) = (None, None);
                } else if member != self.view.active && target.up {
                    probe.next = None;
                } else if probe.next.is_none() {
                    let next = probe.sent.map_or(self.now, |sent| sent.after(self.times.check));
                    probe.next = Some(next.max(self.now));
                }
            }
        }
    }

    fn send_due(&mut self) {
        if self.pair.doubt_at(self.view, self.times).is_some_and(|at| at <= self.now) {
            self.on_doubt();
        }
        if self.pair.search.is_some() {
            return;
        }
        for member in BOTH {
            for nth in 0..self.pair.probes[member.index()].len() {
                let probe = &mut self.pair.probes[member.index()][nth];
                let due = probe.hurry.is_some_and(|at| at <= self.now) || probe.next.is_some_and(|at| at <= self.now);
                if probe.ping.is_some() {
                    probe.hurry = None;
                } else if due {
                    self.ping(member, nth);
                }
            }
        }
    }

    fn ping_all(&mut self, member: Member) {
        for nth in 0..self.pair.probes[member.index()].len() {
            if self.pair.probes[member.index()][nth].ping.is_none() {
                self.ping(member, nth);
            }
        }
    }

    fn ping(&mut self, member: Member, nth: usize) {
        let ping = PingId { pair: self.at, serial: self.queue.serial() };
        let address = self.view.members[member.index()].targets[nth].address;
        let first = self.pair.probes[member.index()][nth].sent.is_none();
        let sooner = if first { self.spread(member, nth) } else { Duration::ZERO };
        let probe = &mut self.pair.probes[member.index()][nth];
        probe.ping = Some((ping, self.now));
        probe.sent = Some(self.now);
        probe.hurry = None;
        probe.next = Some(self.now.after(self.times.check.saturating_sub(sooner)));
        self.queue.push(Output::Ping { ping, pair: self.at, member, address });
    }

    /// By how much the second ping of a target comes sooner: up to half of `oos-check`, each target at its own.
    fn spread(&self, member: Member, nth: usize) -> Duration {
        let (at, count) = self.pair.place;
        let len = u32::try_from(self.pair.probes[member.index()].len()).unwrap_or(1).max(1);
        let nth = u32::try_from(nth).unwrap_or(0);
        self.times.check * (at * len + nth) / (count * len) / 2
    }

    /// A server answers.
    fn on_life(&mut self, member: Member, nth: usize, why: Evidence) {
        let probe = &mut self.pair.probes[member.index()][nth];
        probe.answered = Some(self.now);
        (probe.repeated, probe.spared, probe.retry, probe.trusted) = (false, 0, None, None);
        self.set(member, nth, true, why);
        if why != Evidence::Retry && !std::mem::replace(&mut self.view.heard, true) {
            self.queue.view_changed();
        }
        if member == self.view.active {
            self.pair.doubt = None;
        }
        if self.view.outage.take().is_some() {
            let address = self.view.members[member.index()].targets[nth].address;
            self.queue.push(Output::Say(Event::OutageOver { pair: self.at, member, why, address }));
            self.queue.view_changed();
        }
    }

    /// A server does not answer.
    fn on_down(&mut self, member: Member, nth: usize, why: Evidence) {
        let answered = self.view.member(member).up();
        let probe = &mut self.pair.probes[member.index()][nth];
        (probe.repeated, probe.trusted, probe.hurry) = (false, None, None);
        if !self.times.checks() {
            probe.retry = Some(self.now.after(self.times.force));
        }
        self.set(member, nth, false, why);
        if answered && self.view.pinned && member == self.view.active && self.is_down(member) {
            let address = self.view.members[member.index()].targets[nth].address;
            self.queue.push(Output::Say(Event::PinnedDown { pair: self.at, member, why, address }));
        }
    }

    /// A shard is certain that it does not answer. A ping that is under way would only tell of a time before.
    fn on_seen_down(&mut self, member: Member, nth: usize, why: Evidence) {
        let probe = &mut self.pair.probes[member.index()][nth];
        // What was known to be down needs no more evidence.
        if !self.view.members[member.index()].targets[nth].up {
            return;
        }
        if let Some((ping, _)) = probe.ping.take() {
            self.queue.push(Output::GiveUp { ping });
        }
        self.on_down(member, nth, why);
        self.pair.hearsay = member == self.view.active;
    }

    /// A shard has seen what may mean nothing.
    fn on_suspicion(&mut self, member: Member, nth: usize) {
        let up = self.view.member(member).targets.iter().filter(|target| target.up).count();
        self.hurry(member, nth);
        if member == self.view.active && up == 1 && self.view.member(member).targets[nth].up && !self.view.pinned {
            self.on_doubt();
        }
    }

    /// The active one may not answer: its partner is asked before that is certain.
    fn on_doubt(&mut self) {
        self.pair.doubt.get_or_insert(self.now);
        let other = self.view.active.other();
        for nth in 0..self.pair.probes[other.index()].len() {
            self.hurry(other, nth);
        }
    }

    fn hurry(&mut self, member: Member, nth: usize) {
        let probe = &mut self.pair.probes[member.index()][nth];
        if probe.ping.is_none() && self.pair.search.is_none() {
            let soonest = probe.sent.map_or(self.now, |sent| sent.after(PING_GAP));
            probe.hurry.get_or_insert(soonest.max(self.now));
        }
    }

    fn switch(&mut self, to: Member, why: Evidence) {
        self.activate(to);
        self.view.why = why;
        let (pair, addresses) = (self.at, self.addresses());
        self.queue.push(Output::Say(Event::Switched { pair, to, why, addresses }));
        self.queue.push(Output::Count(event::switched(why)));
    }

    fn activate(&mut self, member: Member) {
        self.view.active = member;
        self.view.since = self.now;
        self.pair.search = None;
        self.pair.doubt = None;
        self.queue.view_changed();
    }

    fn set(&mut self, member: Member, nth: usize, up: bool, why: Evidence) {
        let target = &mut self.view.members[member.index()].targets[nth];
        if target.up != up {
            (target.up, target.since) = (up, self.now);
        } else if target.why == why {
            return;
        }
        target.why = why;
        self.queue.view_changed();
    }

    /// Whether it is known not to answer. A name that is still being looked up for the first time is not.
    fn is_down(&self, member: Member) -> bool {
        let known = self.pair.resolved[member.index()] || (member == Member::Backup && !self.pair.has_backup);
        known && !self.view.member(member).up()
    }

    /// The server at an address: the active one first.
    fn find(&self, address: SocketAddr) -> Option<(Member, usize)> {
        [self.view.active, self.view.active.other()].into_iter().find_map(|member| {
            let at = self.view.member(member).targets.iter().position(|target| target.address == address)?;
            Some((member, at))
        })
    }

    fn addresses(&self) -> [Option<SocketAddr>; 2] {
        BOTH.map(|member| self.view.member(member).address())
    }
}
