//! What may cost a request its answer: each time one named cause, found in what has happened to who was concerned while it
//! was open. Nothing else is excused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser::clock::Time;

use crate::judge::{Asked, is_server};
use crate::net::{PartyId, WireId};
use crate::plan::{DEVICE, Failure, SITE};
use crate::stack::{Served, TIMES, Way};

/// An answer that comes so late has few chances until timer F, each of them lost by a network that loses; without that it
/// may still be delayed.
const LATE: Duration = Duration::from_secs(22);
const LATE_AND_LOST: Duration = Duration::from_secs(16);

/// So many datagrams of a call have to be lost before that is taken for the cause.
const LOST_MIN: u32 = 6;

/// A 2xx to an INVITE that is said again for less than so long may be lost each time.
const LATE_AGAIN: Duration = Duration::from_secs(12);

/// How long a shard that is slow may not have heard that the servers' names are known.
const HEARSAY: Duration = Duration::from_secs(15);

/// How long a party lets an INVITE wait, which starts timer C again.
const RINGS_MAX: Duration = Duration::from_secs(12);

/// By how much the network may deliver one datagram later than another.
const OVERTAKES: Duration = Duration::from_millis(2_500);

/// How long two answers may be under way at once.
const CROSSING: Duration = Duration::from_secs(5);

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Who asked has lost the connection that it asked over, or the port.
    AskerLeft,
    /// Who asked, or was asked, had sent two REGISTERs from two places at nearly the same time, and the network has delivered
    /// the second one first: what is for it goes where it was.
    Overtaken,
    /// A mailbox was full.
    Mailbox,
    /// Nothing reached who asked.
    AskerAway,
    /// Who asked has died.
    AskerDied,
    /// The proxy was killed meanwhile.
    Restart,
    /// No INVITE, and who was asked did not answer in time: nothing may be said then (RFC 4320 §4.2).
    AskedLate,
    /// No INVITE, and nothing reached who was asked.
    AskedAway,
    /// Who was asked has died with it.
    AskedDied,
    /// An INVITE, whose 2xx the network has lost, and who would say it again has left the way that it was asked over and
    /// has not registered over another.
    AskedLeft,
    /// No INVITE, and the server that had it was out of order.
    ServerFailed,
    /// An INVITE of a UDP source that nothing is known of: its final answer is not repeated past a bound
    /// (`STRANGER_ANSWER_FACTOR_MAX`), and the network has lost it.
    StrangersBound,
    /// What may be sent again only so often was lost each time: a 2xx to an INVITE and its ACK, from end to end.
    Network,
    /// The answer came when the proxy had given the INVITE up (timer C, and 64*T1 behind its CANCEL).
    BeyondTimerC,
    /// The INVITE was answered with an error before its 2xx.
    GivenUp,
    /// A 2xx to an INVITE that was cancelled, for it had been given up for another server's answer.
    CancelCrossed,
    /// Nothing reached one of the dialog's ends while the 2xx was sent.
    AckerAway,
    /// DNS did not know the servers, or not yet: one of them was taken for an endpoint.
    Nameless,
    /// Who was asked had come by another way, and its registration has run out before its answer was acknowledged: its dialog
    /// knows the way before only.
    Lapsed,
    /// The dialog's other end has gone: no ACK can come.
    AckerLeft,
}

/// What has happened.
#[derive(Default)]
pub struct Facts {
    pub lost_wires: BTreeMap<WireId, Time>,
    /// Who has lost a connection.
    pub gone: Vec<(Time, PartyId)>,
    /// An operator has chosen a server.
    pub is_pinned: bool,
    pub moved: Vec<(Time, PartyId)>,
    pub died: Vec<(Time, PartyId)>,
    /// The servers have names.
    pub has_names: bool,
    /// From when until when the servers' names stood for them. At other times what they send is taken for an endpoint's.
    pub named: Vec<(Time, Option<Time>)>,
    /// Who has heard that it is registered, and until when.
    pub bound: Vec<(Time, PartyId, Time)>,
    /// Who has un-registered.
    pub unbound: Vec<(Time, PartyId)>,
    pub failures: Vec<(Time, PartyId, Option<Failure>)>,
    pub restarts: Vec<Time>,
    /// When a mail of a shard found no room: an answer may have been in it, and over a stream nobody asks again.
    pub mails_refused: Vec<Time>,
    /// The network loses datagrams.
    pub loses: bool,
    /// It delivers late at times, or shards stand still.
    pub is_late: bool,
    /// How many of each Call-ID it has lost.
    pub lost_of: BTreeMap<String, u32>,
    pub timer_c: Duration,
    /// Phones that were cut off, or read nothing: from when until when.
    pub away: Vec<(PartyId, Time, Time)>,
}

fn is_of_call(one: &Asked, other: &Asked) -> bool {
    one.call_ids().any(|call_id| other.call_ids().any(|its| its == call_id))
}

/// Whether a party has sent a REGISTER by then that it has never heard the answer of, and shortly after it one from another
/// place that it has: the network may have delivered them in the other order.
fn was_overtaken(party: PartyId, by: Time, all: &BTreeMap<String, Asked>) -> bool {
    let registers = || all.values().filter(|one| one.from == party && one.method == "REGISTER" && one.at < by);
    registers().filter(|one| one.finals.is_empty()).any(|one| {
        let passes = |next: &&Asked| next.at >= one.at && next.at.since(one.at) < OVERTAKES && next.way != one.way;
        registers().filter(passes).any(|next| !next.finals.is_empty())
    })
}

/// The request that a request's call began with.
pub fn first_of<'a>(asked: &'a Asked, all: &'a BTreeMap<String, Asked>) -> &'a Asked {
    all.values().filter(|one| is_of_call(one, asked)).min_by_key(|one| one.at).unwrap_or(asked)
}

/// When what a request belongs to began: its call, or the one that a B2BUA has made that of.
pub fn began(asked: &Asked, all: &BTreeMap<String, Asked>) -> Time {
    let call = first_of(asked, all).at;
    let is_parent = |one: &&Asked| {
        let mut made = one.made.iter().filter_map(|id| all.get(id));
        one.at < call && made.any(|made| is_of_call(made, asked))
    };
    all.values().filter(is_parent).map(|parent| began(parent, all)).min().unwrap_or(call)
}

impl Facts {
    pub fn has_died(&self, party: PartyId) -> bool {
        self.died.iter().any(|(_, dead)| *dead == party)
    }

    fn died_between(&self, party: PartyId, from: Time, until: Time) -> bool {
        self.died.iter().any(|(at, dead)| *dead == party && (from..=until).contains(at))
    }

    fn moved_between(&self, party: PartyId, from: Time, until: Time) -> bool {
        self.moved.iter().any(|(at, mover)| *mover == party && (from..=until).contains(at))
    }

    fn has_restarted(&self, from: Time, until: Time) -> bool {
        self.restarts.iter().any(|at| (from..=until).contains(at))
    }

    /// Whether the way that a request of this party took was lost behind it.
    fn left(&self, party: PartyId, way: Way, from: Time, until: Time) -> bool {
        match way {
            Way::Wire(wire) => self.lost_wires.get(&wire).is_some_and(|at| *at <= until),
            Way::Udp { .. } => self.moved_between(party, from, until),
        }
    }

    /// Whether who asked has left its way since.
    pub fn has_moved(&self, asked: &Asked) -> bool {
        asked.way.is_some_and(|way| self.left(asked.from, way, asked.at, Time(u64::MAX)))
    }

    /// Until when a request can have got its final answer: what happens later excuses nothing, and at the end of a run
    /// everybody goes.
    fn closed_at(&self, asked: &Asked) -> Time {
        asked.timed_out.unwrap_or(asked.at.after(RINGS_MAX + self.timer_c + TIMES.lifetime() * 2))
    }

    /// Whether a party kept its way and was there between these: a phone with its flow, a server that was well.
    pub fn was_steady(&self, party: PartyId, from: Time, until: Time) -> bool {
        let left = |list: &[(Time, PartyId)]| list.iter().any(|(at, one)| *one == party && (from..=until).contains(at));
        let has_left = [&self.gone, &self.moved, &self.died, &self.unbound].into_iter().any(|list| left(list));
        !has_left && !self.was_away(party, from, until) && !self.has_restarted(from, until) && !self.failed(from, until)
    }

    /// Whether a server has never been out of order until now, as far as the proxy can tell, nor an operator chosen between
    /// the two. Checks that are lost or late tell otherwise.
    pub fn was_always_well(&self, server: PartyId, now: Time) -> bool {
        let has_failed =
            self.failures.iter().any(|(at, party, failure)| *party == server && *at <= now && failure.is_some());
        !has_failed && !self.loses && !self.is_late && !self.is_pinned && !self.is_nameless(now)
    }

    /// Whether a phone had registered by then, and never takes that back.
    pub fn was_bound_throughout(&self, party: PartyId, by: Time) -> bool {
        let is_bound = self.bound_of(party).any(|(at, _)| at <= by);
        is_bound && !self.unbound.iter().any(|(_, one)| *one == party)
    }

    /// Whether a server was out of order at some time between these.
    fn failed(&self, from: Time, until: Time) -> bool {
        let mut since: BTreeMap<PartyId, Time> = BTreeMap::new();
        for (at, party, failure) in &self.failures {
            match failure {
                Some(_) => drop(since.insert(*party, *at)),
                None => {
                    if let Some(begun) = since.remove(party)
                        && begun <= until
                        && *at >= from
                    {
                        return true;
                    }
                }
            }
        }
        since.values().any(|begun| *begun <= until)
    }

    fn was_away(&self, party: PartyId, from: Time, until: Time) -> bool {
        self.away.iter().any(|(away, left, back)| *away == party && *left <= until && *back >= from)
    }

    /// Whether a server may have been nobody to the proxy while a request was under way.
    pub fn is_nameless(&self, since: Time) -> bool {
        let until = since.after(TIMES.lifetime() * 2);
        self.has_names
            && !self.named.iter().any(|(from, to)| from.after(HEARSAY) <= since && to.is_none_or(|to| to >= until))
    }

    /// The servers' names stand for them from now on, or not.
    pub fn note_names(&mut self, are_known: bool, now: Time) {
        match self.named.last_mut().filter(|(_, until)| until.is_none()) {
            Some((_, until)) if !are_known => *until = Some(now),
            None if are_known => self.named.push((now, None)),
            _ => {}
        }
    }

    /// How many datagrams of its Call-IDs were lost.
    fn lost(&self, asked: &Asked) -> u32 {
        let call_ids: BTreeSet<&str> = asked.call_ids().collect();
        call_ids.into_iter().filter_map(|call_id| self.lost_of.get(call_id)).sum()
    }

    /// Why a request may have had no final answer.
    pub fn why_unanswered(&self, asked: &Asked, all: &BTreeMap<String, Asked>) -> Option<Cause> {
        let way = asked.way?;
        let until = self.closed_at(asked);
        if self.died_between(asked.from, asked.at, until) {
            return Some(Cause::AskerDied);
        }
        if self.left(asked.from, way, asked.at, until) {
            return Some(Cause::AskerLeft);
        }
        if self.has_restarted(asked.at, until) {
            return Some(Cause::Restart);
        }
        if is_server(asked.from) && self.failed(asked.at, until) {
            return Some(Cause::ServerFailed);
        }
        if (is_server(asked.from) || asked.to == "s") && self.is_nameless(asked.at) {
            return Some(Cause::Nameless);
        }
        let is_full = |at: &Time| (asked.at..=until).contains(at);
        if way.is_stream() && self.mails_refused.iter().any(is_full) {
            return Some(Cause::Mailbox);
        }
        if !way.is_stream() && was_overtaken(asked.from, asked.at, all) {
            return Some(Cause::Overtaken);
        }
        let is_stranger = !way.is_stream() && !asked.is_bound && asked.from != DEVICE;
        if is_stranger && asked.method == "INVITE" && asked.answered_at.is_some() && self.loses {
            return Some(Cause::StrangersBound);
        }
        // A final answer is sent again for 64*T1.
        let answered_until = asked.answered_at.map_or(Time(u64::MAX), |at| at.after(TIMES.lifetime()));
        if self.was_away(asked.from, asked.at, asked.timed_out.unwrap_or(answered_until)) {
            return Some(Cause::AskerAway);
        }
        if asked.method == "INVITE" {
            let until = asked.answered_at.map_or(Time(u64::MAX), |at| at.after(TIMES.lifetime()));
            if asked.answered_at.is_some() && asked.receivers().any(|to| self.was_away(to, asked.at, until)) {
                return Some(Cause::AskedAway);
            }
            // It had answered, the network has lost that, and nobody is left to say it again.
            if asked.answered_at.is_some() && self.loses && self.failed(asked.at, until) {
                return Some(Cause::ServerFailed);
            }
            let has_died = |to| self.died_between(to, asked.at, until);
            if asked.answered_at.is_some() && self.loses && asked.receivers().any(has_died) {
                return Some(Cause::AskedDied);
            }
            let heard_again = TIMES.lifetime().saturating_sub(LATE_AGAIN);
            let by = asked.answered_at.map_or(Time(u64::MAX), |at| at.after(heard_again));
            let mut receivers = asked.receivers();
            if asked.answered_at.is_some() && self.loses && receivers.any(|to| self.left_for_good(to, asked.at, by)) {
                return Some(Cause::AskedLeft);
            }
            return (asked.answered_at.is_some() && self.lost(asked) >= LOST_MIN).then_some(Cause::Network);
        }
        let until = asked.timed_out?;
        if self.failed(asked.at, until) {
            return Some(Cause::ServerFailed);
        }
        let to: Vec<PartyId> = asked.receivers().collect();
        if to.iter().any(|to| self.died_between(*to, asked.at, until)) {
            return Some(Cause::AskedDied);
        }
        if to.iter().any(|to| self.was_away(*to, asked.at, until)) {
            return Some(Cause::AskedAway);
        }
        let late = if self.loses { LATE_AND_LOST } else { LATE };
        if asked.answered_at.is_some_and(|at| at.since(asked.at) > late) {
            return Some(Cause::AskedLate);
        }
        if to.iter().any(|to| was_overtaken(*to, until, all)) {
            return Some(Cause::Overtaken);
        }
        // What a B2BUA has made of it went no better, and its end came no sooner than that of this one.
        let made = asked.made.iter().filter_map(|id| all.get(id)).filter(|made| made.finals.is_empty());
        let cause = made.filter_map(|made| self.why_unanswered(made, all)).next();
        if cause.is_some() {
            return cause;
        }
        // A UDP flow is known until it expires, though nobody is there any more, and nobody may say 408.
        // A dialog that began when its phone was not registered knows the way of then and no other.
        let began = began(asked, all);
        let is_reachable = |to: &PartyId| {
            self.is_reachable(*to, asked.at, until)
                && self.is_reachable(*to, began, began)
                && !self.became_another(*to, began, until)
                && !self.moved_at_first(*to, first_of(asked, all))
                && !self.restarted_at_first(first_of(asked, all))
        };
        to.iter().any(|to| !is_reachable(to)).then_some(Cause::AskedLate)
    }

    /// Whether the proxy knew where a party was when it was asked, and that was so until the end: its last word of before
    /// was a registration that it heard the answer of, and it has left by no way since.
    fn is_reachable(&self, party: PartyId, at: Time, until: Time) -> bool {
        if party == DEVICE || party == SITE {
            return true;
        }
        let of = |list: &[(Time, PartyId)]| -> Vec<Time> {
            list.iter().filter(|(_, one)| *one == party).map(|(at, _)| *at).collect()
        };
        let leaves: Vec<Time> = [of(&self.moved), of(&self.unbound), of(&self.died), self.restarts.clone()].concat();
        let left = leaves.iter().filter(|left| **left <= at).max();
        let is_current = |(bound, end): &(Time, Time)| *bound <= at && *end >= at;
        let bound = self.bound_of(party).filter(is_current).map(|(bound, _)| bound).max();
        let stays = !leaves.iter().any(|left| *left > at && *left <= until);
        bound.is_some_and(|bound| left.is_none_or(|left| *left < bound)) && stays
    }

    /// Whether a party has left its way, and has not heard since that it is registered over another.
    fn left_for_good(&self, party: PartyId, from: Time, until: Time) -> bool {
        let left = self.gone.iter().chain(&self.moved);
        let left = left.filter(|(at, one)| *one == party && (from..=until).contains(at)).map(|(at, _)| *at).max();
        left.is_some_and(|left| !self.bound_of(party).any(|(at, _)| (left..=until).contains(&at)))
    }

    /// When a party has heard that it is registered, and until when.
    fn bound_of(&self, party: PartyId) -> impl Iterator<Item = (Time, Time)> {
        self.bound.iter().filter(move |(_, one, _)| *one == party).map(|(at, _, until)| (*at, *until))
    }

    /// Whether a party's registration has run out meanwhile.
    fn has_lapsed(&self, party: PartyId, from: Time, until: Time) -> bool {
        let is_renewed = |at: Time, end: Time| self.bound_of(party).any(|(again, _)| again > at && again <= end);
        self.bound_of(party).any(|(at, end)| (from..=until).contains(&end) && !is_renewed(at, end))
    }

    /// Whether a party has moved before the first request of its dialog was answered: it has said that again from where it
    /// was not registered yet, and that is what its dialog knows.
    fn moved_at_first(&self, party: PartyId, first: &Asked) -> bool {
        let until = first.answered_at.unwrap_or(Time(u64::MAX));
        first.from == party && self.moved_between(party, first.at, until)
    }

    /// Whether the proxy was killed before the first request of a dialog was answered: that was said again to one that knew
    /// nobody, and the way of then is all that its dialog knows.
    fn restarted_at_first(&self, first: &Asked) -> bool {
        self.has_restarted(first.at, first.answered_at.unwrap_or(Time(u64::MAX)))
    }

    /// Whether a party has left its way and its registration was over meanwhile: nothing ties who registers then to who it
    /// was, and nobody knows for long where it went.
    fn became_another(&self, party: PartyId, from: Time, until: Time) -> bool {
        let has = |list: &[(Time, PartyId)]| list.iter().any(|(at, one)| *one == party && (from..=until).contains(at));
        (has(&self.moved) || has(&self.gone)) && (has(&self.unbound) || self.has_lapsed(party, from, until))
    }

    /// Why an answer of `party` may have had no ACK.
    pub fn why_without_ack(
        &self,
        party: PartyId,
        asked: &Asked,
        served: &Served,
        all: &BTreeMap<String, Asked>,
    ) -> Option<Cause> {
        // It is answered again, and acknowledged, for 64*T1.
        let closed = served.answered_at.unwrap_or(asked.at).after(TIMES.lifetime());
        let concerned =
            |one: PartyId| self.died_between(one, asked.at, closed) || self.moved_between(one, asked.at, closed);
        let has_gone = self.gone.iter().any(|(at, one)| *one == party && (asked.at..=closed).contains(at));
        if concerned(party) || concerned(asked.from) || has_gone {
            return Some(Cause::AckerLeft);
        }
        // The two may have crossed.
        if asked.refused_at.is_some_and(|at| served.answered_at.is_some_and(|answered| answered.after(CROSSING) >= at))
        {
            return Some(Cause::GivenUp);
        }
        let until = asked.answered_at.map_or(Time(u64::MAX), |at| at.after(TIMES.lifetime()));
        if [party, asked.from].into_iter().any(|one| self.was_away(one, asked.at, until)) {
            return Some(Cause::AckerAway);
        }
        if self.has_restarted(asked.at, closed) {
            return Some(Cause::Restart);
        }
        let has_left = asked.way.is_some_and(|way| self.left(asked.from, way, asked.at, closed));
        if has_left || self.left(party, served.way, asked.at, closed) {
            return Some(Cause::AckerLeft);
        }
        if self.failed(asked.at, closed) {
            return Some(Cause::ServerFailed);
        }
        if asked.answered_at.is_some_and(|at| at.since(asked.at) > self.timer_c) {
            return Some(Cause::BeyondTimerC);
        }
        if self.is_nameless(asked.at) || self.is_nameless(began(asked, all)) {
            return Some(Cause::Nameless);
        }
        // What it was asked by may have been under way to where it was before.
        let began = Time(began(asked, all).0.saturating_sub(CROSSING.as_micros() as u64));
        if self.became_another(party, began, closed) {
            return Some(Cause::Lapsed);
        }
        (self.lost(asked) >= LOST_MIN).then_some(Cause::Network)
    }
}
