//! Addresses that only fail, as far as the engine sees it: what counts as failure and success, and how a verdict reaches
//! every shard. Who is guilty of how much is for [`crate::abuse`].
//!
//! One shard judges, for connections of one address land on all of them. Every shard tells it of failures, and of
//! success only while something is held against the address; and each is told what follows. Streams alone count, for over
//! UDP anybody can fail in another's name. Nobody is judged whom the settings name: servers, other sites' proxies,
//! `trusted-sources`, devices, load balancers, and networks with `bans = false`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::context::{Answer, ResponseContext};
use super::ports::{KeyedState, Timer};
use super::service_checks::OWNER;
use super::{Engine, Level, Mail, Source as Sender};
use crate::abuse::{Ban, BanRow, Change, Failure, Judge, LET_IN, SHUT_OUT, Sentences, Shown, Source, Verdict};
use crate::clock::Time;
use crate::flow::keys::Tag;
use crate::ids::{ConnId, Side};
use crate::limits::ABUSE_HANDSHAKES_MAX;
use crate::sip::Method;
use crate::stats::{Counter, Gauge, Gauges};
use crate::wheel::TimerId;

/// What one shard knows of addresses.
#[derive(Debug)]
pub(super) struct Abuse {
    sentences: Sentences,
    /// Connections that hold a binding, by address.
    bound: HashMap<Source, u32, KeyedState>,
    /// On the shard that judges.
    judge: Option<Box<Judge>>,
    timer: Option<TimerId>,
}

impl Abuse {
    pub(super) fn new(judges: bool, state: KeyedState) -> Self {
        let judge = judges.then(Box::default);
        Self { sentences: Sentences::default(), bound: HashMap::with_hasher(state), judge, timer: None }
    }

    /// A connection of this address has got its first binding, or lost its last.
    pub(super) fn note_bound(&mut self, ip: IpAddr, is_bound: bool) {
        let source = Source::of(ip);
        let count = self.bound.entry(source).or_default();
        *count = if is_bound { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.bound.remove(&source);
        }
    }

    /// Whether a connection of its network holds a binding here.
    pub(super) fn is_bound(&self, ip: IpAddr) -> bool {
        !self.bound.is_empty() && self.bound.contains_key(&Source::of(ip))
    }

    /// Connections that hold a binding.
    pub(super) fn bound_len(&self) -> u32 {
        self.bound.values().sum()
    }

    /// Timers that run for it.
    pub(super) fn timers_len(&self) -> usize {
        usize::from(self.timer.is_some())
    }

    pub(super) fn shrink(&mut self) {
        super::ports::halve(&mut self.bound);
    }

    pub(super) fn show(&self, gauges: &mut Gauges) {
        let (slowed, out) = self.judge.as_ref().map_or((0, 0), |judge| judge.counts());
        gauges.set_len(Gauge::AbuseSlowed, slowed);
        gauges.set_len(Gauge::AbuseShutOut, out);
    }
}

impl Engine {
    // --- what is held against an address -------------------------------------------------------------------------

    /// Whether connections of an address are refused now.
    #[must_use]
    pub fn shuts_out(&self, ip: IpAddr, now: Time) -> bool {
        // A /64 may hold one that is excepted.
        self.abuse.sentences.shuts_out(ip, now) && self.is_judged(ip)
    }

    /// TLS handshakes in the air that an address may have, of this shard.
    #[must_use]
    pub fn handshakes_max(&self, ip: IpAddr) -> usize {
        let most = self.env.settings.handshakes_max(ip);
        let is_slowed = self.abuse.sentences.has(ip) && self.is_judged(ip);
        if is_slowed { most.min(ABUSE_HANDSHAKES_MAX) } else { most }
    }

    /// Whether a connection that is open must not go on: its address has been shut out since, and it holds no binding.
    pub(super) fn must_go(&self, id: ConnId, now: Time) -> bool {
        if self.abuse.sentences.is_empty() {
            return false;
        }
        let ip = self.conns.get(id).filter(|conn| conn.counts_as_unregistered()).map(|conn| conn.peer.ip());
        ip.is_some_and(|ip| self.shuts_out(ip, now))
    }

    fn is_judged(&self, ip: IpAddr) -> bool {
        let settings = &self.env.settings;
        settings.bans(ip) && !self.env.names.is_server_side_ip(ip) && settings.device_at(ip).is_none()
    }

    // --- what is seen ----------------------------------------------------------------------------------------------

    /// Something has failed that came over a connection from this address.
    pub(super) fn note_failure(&mut self, ip: IpAddr, failure: Failure) {
        let source = Source::of(ip);
        // A peer that gives up on a shard that is overloaded has not failed by itself.
        let may_be_ours = failure == Failure::Connection && self.admission.overload().is_some();
        if !may_be_ours && !self.abuse.bound.contains_key(&source) && self.is_judged(ip) {
            self.ports.mail(OWNER, Mail::Failure { source, failure });
        }
    }

    /// The same of a connection that its peer has opened.
    pub(super) fn note_failed_conn(&mut self, id: ConnId, failure: Failure) {
        let accepted = self.conns.get(id).filter(|conn| conn.counts_as_unregistered());
        if let Some(ip) = accepted.map(|conn| conn.peer.ip()) {
            self.note_failure(ip, failure);
        }
    }

    /// A request of this sender has failed.
    pub(super) fn note_failed_request(&mut self, sender: &Sender, failure: Failure) {
        if sender.flow.is_stream() && sender.side == Side::Endpoint && !sender.is_peer && sender.binding.is_none() {
            self.note_failure(sender.peer.ip(), failure);
        }
    }

    /// A server has answered an endpoint's request for good.
    pub(super) fn note_answered(&mut self, context: &ResponseContext, answer: Answer<'_>) {
        let asked = &context.asked;
        if !answer.is_trusted || asked.source.is_trusted() || !asked.source.flow.is_stream() {
            return;
        }
        let ip = asked.source.peer.ip();
        match answer.code {
            200..300 if self.abuse.sentences.has(ip) => {
                self.ports.mail(OWNER, Mail::Succeeded { source: Source::of(ip) })
            }
            403 | 404 if asked.method == Method::Register => {
                let registration = context.request.as_ref().and_then(|request| request.registration.as_ref());
                let aor = registration.map_or(&[][..], |registration| &registration.aor);
                let failure = Failure::Register(self.env.keys.hash64(Tag::Aor, &[aor]));
                self.note_failed_request(&asked.source, failure);
            }
            403 => self.note_failed_request(&asked.source, Failure::Refused),
            _ => {}
        }
    }

    /// A connection holds a binding now, or none any more.
    pub(super) fn note_bound(&mut self, ip: IpAddr, is_bound: bool) {
        self.abuse.note_bound(ip, is_bound);
        if is_bound && self.abuse.sentences.has(ip) {
            self.ports.mail(OWNER, Mail::Succeeded { source: Source::of(ip) });
        }
    }

    // --- the shard that judges --------------------------------------------------------------------------------------

    pub(super) fn on_failure(&mut self, source: Source, failure: Failure, now: Time) {
        self.count(match failure {
            Failure::Connection => Counter::AbuseConnection,
            Failure::Garbage => Counter::AbuseGarbage,
            Failure::Refused => Counter::AbuseRefused,
            Failure::Register(_) => Counter::AbuseRegister,
        });
        let mut others_went = false;
        self.judging(|judge| others_went = judge.on_failure(source, failure, now));
        if others_went {
            self.count(Counter::LimitAbuseSourcesCount);
        }
    }

    pub(super) fn on_success(&mut self, source: Source) {
        self.judging(|judge| judge.on_success(source));
    }

    pub(super) fn on_abuse_timer(&mut self, now: Time) {
        self.abuse.timer = None;
        self.judging(|judge| judge.on_time(now));
        self.await_end_of_sentence();
    }

    /// Settings have changed: who is excepted now is let in.
    pub(super) fn review_sentences(&mut self) {
        let Some(mut judge) = self.abuse.judge.take() else { return };
        judge.pardon_where(|source| !self.is_judged(source.ip()));
        self.abuse.judge = Some(judge);
        self.judging(|_| {});
    }

    /// Tells the judge something, on its shard, and carries out what follows.
    pub(super) fn judging(&mut self, tell: impl FnOnce(&mut Judge)) {
        let Some(judge) = &mut self.abuse.judge else { return };
        tell(judge);
        let mut has_changed = false;
        while let Some(change) = self.abuse.judge.as_mut().and_then(|judge| judge.poll_change()) {
            has_changed = true;
            let Change { source, verdict, .. } = change;
            self.tell_change(&change);
            self.ports.mail_others(self.env.settings.shards, || Mail::Verdict { source, verdict });
            self.on_verdict(source, verdict);
        }
        if has_changed {
            self.await_end_of_sentence();
        }
    }

    fn await_end_of_sentence(&mut self) {
        if let Some(timer) = self.abuse.timer.take() {
            self.ports.wheel.cancel(timer);
        }
        let due = self.abuse.judge.as_ref().and_then(|judge| judge.due());
        self.abuse.timer = due.map(|due| self.ports.wheel.arm(due, Timer::Abuse));
    }

    fn tell_change(&mut self, change: &Change) {
        let Change { source, verdict, ban, why } = change;
        self.count(match verdict {
            Verdict::Slowed => Counter::AbuseSlowed,
            Verdict::ShutOut(_) => Counter::AbuseShutOut,
            Verdict::Free => Counter::AbuseFree,
        });
        match (verdict, ban) {
            (Verdict::ShutOut(_), Some(Ban { since, until, nth, failed })) => {
                let about = format!("{source}: for {} s, time {nth}: {failed}", until.since(*since).as_secs());
                self.tell(Level::Warn, SHUT_OUT, None, about.as_bytes());
            }
            (Verdict::Free, Some(_)) => {
                self.tell(Level::Warn, LET_IN, None, format!("{source}: {}", why.words()).as_bytes());
            }
            _ => {}
        }
    }

    // --- every shard ------------------------------------------------------------------------------------------------

    /// The judge has decided. Where the address holds a binding, it is acquitted.
    pub(super) fn on_verdict(&mut self, source: Source, verdict: Verdict) {
        if verdict != Verdict::Free && self.abuse.bound.contains_key(&source) {
            return self.ports.mail(OWNER, Mail::Succeeded { source });
        }
        self.abuse.sentences.set(source, verdict);
    }

    /// Who is shut out, and how many connections this shard has refused for it.
    #[must_use]
    pub fn bans(&self, now: Time) -> Shown {
        let row = |(source, Ban { since, until, nth, failed })| BanRow {
            source,
            since: now.since(since),
            left: until.since(now),
            nth,
            failed,
            turned_away: 0,
        };
        let bans = self.abuse.judge.iter().flat_map(|judge| judge.bans()).map(row).collect();
        Shown { bans, turned_away: self.abuse.sentences.turned_away().collect() }
    }

    /// A connection is refused for its address.
    pub(super) fn note_turned_away(&mut self, ip: IpAddr) {
        self.abuse.sentences.note_turned_away(ip);
    }
}
