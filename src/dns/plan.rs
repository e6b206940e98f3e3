//! Names and who waits for them: the state machine that [`super`] describes.
//!
//! Owns: each name's last answer, who waits for the next one, and what is asked for on their behalf. Must not touch:
//! what a record means (`walk`), how a resolver is asked (`exchange`).
//!
//! A name has at most one job, however many wait for it, and a record set is asked for once, however many names want
//! it. A job ends when the walk finds nothing missing, and after `DNS_NAME_MAX` at the latest.
//!
//! Expired records (RFC 8767) are given at once while it is known that no resolver answers; before that is known, to
//! those who have waited `DNS_STALE_AFTER` for fresh ones. The job goes on either way, and its answer replaces them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;

use super::cache::{At, Cache};
use super::exchange::{Around, Ended, Exchanges};
use super::order::{self, Blocked};
use super::walk::{Key, Walked, walk};
use super::{Answer, Failure, Input, NameRow, NameState, Output, Question, Settings, Target};
use crate::clock::Time;
use crate::ids::Transport;
use crate::limits::{
    DNS_NAME_MAX, DNS_NAMES_COUNT_MAX, DNS_RETRY_AFTER, DNS_STALE_AFTER, DNS_TTL_LEAST, DNS_WAITERS_COUNT_MAX,
};
use crate::rng::Rng;
use crate::stats::{Counter, Counters};
use crate::wheel::{TimerId, Wheel};

/// Which of a job's times is over. The number is the name's.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Expired records will do now.
    Stale(usize),
    /// Whoever waits is told that nobody answers.
    Over(usize),
}

/// A name that is being asked for.
#[derive(Debug)]
struct Job {
    since: Time,
    waiters: SmallVec<[u64; 4]>,
    stale_timer: TimerId,
    over_timer: TimerId,
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    /// Since when it is this one, and as fresh.
    since: Time,
    until: Time,
    stale: bool,
}

#[derive(Debug)]
struct Name {
    question: Question,
    known: Option<Known>,
    job: Option<Job>,
}

/// One shard's resolver. The loop of whoever drives it: `ask`, `handle` what came in, `fire` when `poll_timeout` has
/// passed, and after each of them `poll_output` until it is empty.
#[derive(Debug)]
pub struct Dns {
    names: Slab<Name>,
    /// Names that have a job.
    jobs: usize,
    by_question: BTreeMap<Question, usize>,
    /// The name that each of them waits for.
    waiters: BTreeMap<u64, usize>,
    /// Record sets that are asked for, and the names that want them.
    wanted: BTreeMap<Key, SmallVec<[usize; 2]>>,
    cache: Cache,
    exchanges: Exchanges,
    blocked: Blocked,
    wheel: Wheel<Timer>,
    rng: Rng,
    outputs: VecDeque<Output>,
}

impl Dns {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            names: Slab::new(),
            jobs: 0,
            by_question: BTreeMap::new(),
            waiters: BTreeMap::new(),
            wanted: BTreeMap::new(),
            cache: Cache::new(settings.ttl_stale),
            exchanges: Exchanges::new(settings.resolvers),
            blocked: Blocked::default(),
            wheel: Wheel::new(Time(0)),
            rng: Rng::new(&seed),
            outputs: VecDeque::new(),
        }
    }

    /// The servers of a name, if they are known now. Else `None`, and `waiter` hears through [`Output::Found`], within
    /// `DNS_NAME_MAX`. A waiter has one question: with a new one it takes its former one back.
    pub fn ask(&mut self, question: &Question, waiter: u64, now: Time, counters: &mut Counters) -> Option<Answer> {
        self.give_up(waiter);
        let index = match self.by_question.get(question) {
            Some(index) => *index,
            None => match self.insert(question, counters) {
                Some(index) => index,
                None => return Some(Err(Failure::Bound)),
            },
        };
        if let Some(answer) = self.at_hand(index, now, counters) {
            return Some(answer);
        }
        if self.names[index].job.is_none() {
            self.begin(index, now, counters);
            self.settle(now, counters);
            // The records may be there though the answer had expired; or expired ones are at hand.
            if let Some(answer) = self.at_hand(index, now, counters) {
                return Some(answer);
            }
        }
        counters.count(Counter::DnsAskedResolvers);
        let full = self.waiters.len() >= DNS_WAITERS_COUNT_MAX;
        match &mut self.names[index].job {
            Some(job) if !full => {
                job.waiters.push(waiter);
                self.waiters.insert(waiter, index);
                None
            }
            _ => {
                counters.count(Counter::LimitDnsWaitersCount);
                Some(Err(Failure::Bound))
            }
        }
    }

    /// What a name's requests are given now, if anything.
    fn at_hand(&self, index: usize, now: Time, counters: &mut Counters) -> Option<Answer> {
        let known = self.names[index].known.as_ref().filter(|known| now < known.until)?;
        counters.count(if known.stale { Counter::DnsAskedStale } else { Counter::DnsAskedCache });
        Some(known.answer.clone())
    }

    /// This waiter does not want to hear any more. What is asked for is still kept when it comes.
    pub fn give_up(&mut self, waiter: u64) {
        let Some(index) = self.waiters.remove(&waiter) else { return };
        if let Some(job) = self.names.get_mut(index).and_then(|name| name.job.as_mut()) {
            job.waiters.retain(|one| *one != waiter);
        }
    }

    /// The order in which a request tries these: by priority, within one by a random order that the weights govern
    /// (RFC 2782), and those that are blocked after all others. Take out those that cannot be reached from here before.
    pub fn order(&mut self, targets: &[Target], now: Time) -> SmallVec<[Target; 4]> {
        order::order(targets, &self.blocked, &mut self.rng, now)
    }

    /// An order for what belongs together, such as the requests of a dialog, which find the same order each time while
    /// their target is there: `hash` is evenly spread over dialogs and targets.
    pub fn order_alike(&self, targets: &[Target], hash: impl Fn(&Target) -> u64, now: Time) -> SmallVec<[Target; 4]> {
        order::order_alike(targets, &self.blocked, hash, now)
    }

    /// This target did not answer: it comes last for `DNS_BLOCK_TIME` (RFC 3263 §4.3).
    pub fn block(&mut self, transport: Transport, address: SocketAddr, now: Time, counters: &mut Counters) {
        if self.blocked.block(transport, address, now) {
            counters.count(Counter::LimitDnsBlockedCount);
        }
    }

    /// This target has answered.
    pub fn unblock(&mut self, transport: Transport, address: SocketAddr) {
        self.blocked.unblock(transport, address);
    }

    /// Takes what a socket has brought.
    pub fn handle(&mut self, input: Input<'_>, now: Time, counters: &mut Counters) {
        let Self { rng, outputs, .. } = self;
        self.exchanges.handle(input, &mut Around { now, rng, counters, outputs });
        self.settle(now, counters);
    }

    /// Acts on every time that is over.
    pub fn fire(&mut self, now: Time, counters: &mut Counters) {
        let Self { rng, outputs, .. } = self;
        self.exchanges.fire(&mut Around { now, rng, counters, outputs });
        self.settle(now, counters);
        while let Some(timer) = self.wheel.poll(now) {
            match timer {
                Timer::Stale(index) => self.take_stale(index, now, counters),
                Timer::Over(index) => self.on_over(index, now, counters),
            }
        }
    }

    /// When `fire` must be called next; `None` when nothing is in the air.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.exchanges.poll_timeout(), self.wheel.next()].into_iter().flatten().min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether nothing is asked for and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs == 0
            && self.exchanges.is_idle()
            && self.wanted.is_empty()
            && self.waiters.is_empty()
            && self.wheel.is_empty()
    }

    /// Names that are known and not being asked for, those that are, and who waits for them.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.names.len() - self.jobs, self.jobs, self.waiters.len())
    }

    /// Every name that was asked for lately, for an operator.
    #[must_use]
    pub fn names(&self, now: Time) -> Vec<NameRow> {
        let row = |index: &usize| {
            let Name { question, known, job } = &self.names[*index];
            let known = known.as_ref();
            let state = match known {
                Some(known) if known.stale && (now < known.until || job.is_some()) => NameState::Stale,
                _ if job.is_some() => NameState::Asking,
                Some(known) if now < known.until && known.answer.is_ok() => NameState::Fresh,
                Some(known) if now < known.until => NameState::Negative,
                _ => NameState::Expired,
            };
            NameRow {
                question: question.clone(),
                state,
                age: known.map_or(Duration::ZERO, |known| now.since(known.since)),
                expires_in: known.map_or(Duration::ZERO, |known| known.until.since(now)),
                answer: known.map(|known| known.answer.clone()),
                waiters: job.as_ref().map_or(0, |job| job.waiters.len()),
            }
        };
        self.by_question.values().map(row).collect()
    }

    /// A place for a new name; `None` when all of them are being asked for.
    fn insert(&mut self, question: &Question, counters: &mut Counters) -> Option<usize> {
        if self.names.len() >= DNS_NAMES_COUNT_MAX {
            counters.count(Counter::LimitDnsNamesCount);
            let at_rest = self.names.iter().filter(|(_, name)| name.job.is_none());
            let until = |name: &Name| name.known.as_ref().map(|known| known.until);
            let (oldest, _) = at_rest.min_by_key(|(_, name)| until(name))?;
            let gone = self.names.remove(oldest);
            self.by_question.remove(&gone.question);
        }
        let index = self.names.insert(Name { question: question.clone(), known: None, job: None });
        self.by_question.insert(question.clone(), index);
        Some(index)
    }

    /// Begins to ask for a name, unless what is needed is there.
    fn begin(&mut self, index: usize, now: Time, counters: &mut Counters) {
        let at = At { now, since: now, stale: false };
        let missing = match walk(&self.names[index].question, &self.cache, at, counters) {
            Walked::Known { answer, until, stale } => {
                return self.keep(index, answer.map(Into::into), until, stale, now, counters);
            }
            Walked::Missing(missing) => missing,
        };
        if !self.exchanges.has_resolvers() {
            let until = now.after(DNS_RETRY_AFTER);
            return self.keep(index, Err(Failure::Unanswered), until, false, now, counters);
        }
        self.jobs += 1;
        self.names[index].job = Some(Job {
            since: now,
            waiters: SmallVec::new(),
            stale_timer: self.wheel.arm(now.after(DNS_STALE_AFTER), Timer::Stale(index)),
            over_timer: self.wheel.arm(now.after(DNS_NAME_MAX), Timer::Over(index)),
        });
        self.want(index, missing, now, counters);
        if self.exchanges.is_silent() {
            self.take_stale(index, now, counters);
        }
    }

    /// Asks for record sets on behalf of a name.
    fn want(&mut self, index: usize, missing: SmallVec<[Key; 4]>, now: Time, counters: &mut Counters) {
        for key in missing {
            if let Some(names) = self.wanted.get_mut(&key) {
                if !names.contains(&index) {
                    names.push(index);
                }
                continue;
            }
            let Self { rng, outputs, .. } = self;
            if !self.exchanges.start(key.clone(), &mut Around { now, rng, counters, outputs }) {
                return self.finish(index, Err(Failure::Bound), now.after(DNS_TTL_LEAST), false, now, counters);
            }
            self.wanted.insert(key, SmallVec::from_slice(&[index]));
        }
    }

    /// Keeps what has been answered, and walks again for every name that wanted it.
    fn settle(&mut self, now: Time, counters: &mut Counters) {
        while let Some(Ended { key, answer }) = self.exchanges.poll_ended() {
            let names = self.wanted.remove(&key).unwrap_or_default();
            let (kind, name) = key;
            let gave_way = match answer {
                Some((known, ttl)) => self.cache.put(name, kind, known, ttl, now),
                None => self.cache.fail(name, kind, now),
            };
            if gave_way {
                counters.count(Counter::LimitDnsSetsCount);
            }
            for index in names {
                self.advance(index, now, counters);
            }
        }
    }

    fn advance(&mut self, index: usize, now: Time, counters: &mut Counters) {
        // The exchange's job may be over, and its place another name's.
        let Some(Name { question, job: Some(job), .. }) = self.names.get(index) else { return };
        match walk(question, &self.cache, At { now, since: job.since, stale: false }, counters) {
            Walked::Missing(missing) => self.want(index, missing, now, counters),
            Walked::Known { answer, until, stale } => {
                let answer = answer.map(Into::into);
                self.finish(index, answer, until, stale, now, counters);
            }
        }
    }

    /// Gives expired records to those who wait, if there are enough for an answer. The job goes on.
    fn take_stale(&mut self, index: usize, now: Time, counters: &mut Counters) {
        let Some(Name { question, job: Some(job), .. }) = self.names.get(index) else { return };
        let at = At { now, since: job.since, stale: true };
        let Walked::Known { answer: Ok(targets), until, .. } = walk(question, &self.cache, at, counters) else {
            return;
        };
        let answer: Answer = Ok(targets.into());
        let Some(job) = self.names[index].job.as_mut() else { return };
        let waiters = std::mem::take(&mut job.waiters);
        counters.add(Counter::DnsAskedStale, waiters.len() as u64);
        self.set(index, answer.clone(), until, true, now);
        self.tell(waiters, &answer);
    }

    fn on_over(&mut self, index: usize, now: Time, counters: &mut Counters) {
        if self.names.get(index).is_none_or(|name| name.job.is_none()) {
            return;
        }
        counters.count(Counter::LimitDnsName);
        self.take_stale(index, now, counters);
        match &self.names[index].known {
            Some(Known { answer, stale: true, until, .. }) if now < *until => {
                let (answer, until) = (answer.clone(), *until);
                self.finish(index, answer, until, true, now, counters);
            }
            _ => self.finish(index, Err(Failure::Unanswered), now.after(DNS_TTL_LEAST), false, now, counters),
        }
    }

    /// The job is over.
    fn finish(&mut self, index: usize, answer: Answer, until: Time, stale: bool, now: Time, counters: &mut Counters) {
        let Some(job) = self.names[index].job.take() else { return };
        self.jobs -= 1;
        self.wheel.cancel(job.stale_timer);
        self.wheel.cancel(job.over_timer);
        self.keep(index, answer.clone(), until, stale, now, counters);
        self.tell(job.waiters, &answer);
    }

    /// What requests are given from now on.
    fn keep(&mut self, index: usize, answer: Answer, until: Time, stale: bool, now: Time, counters: &mut Counters) {
        counters.count(match &answer {
            Ok(_) => Counter::DnsNameFound,
            Err(Failure::NoSuchName) => Counter::DnsNameNoSuchName,
            Err(Failure::NoRecords) => Counter::DnsNameNoRecords,
            Err(Failure::Unanswered) => Counter::DnsNameUnanswered,
            Err(Failure::Bound) => Counter::DnsNameBound,
        });
        self.set(index, answer, until, stale, now);
    }

    fn set(&mut self, index: usize, answer: Answer, until: Time, stale: bool, now: Time) {
        let known = &mut self.names[index].known;
        let same = known.as_ref().filter(|known| known.answer == answer && known.stale == stale);
        let since = same.map_or(now, |known| known.since);
        *known = Some(Known { answer, since, until, stale });
    }

    fn tell(&mut self, waiters: SmallVec<[u64; 4]>, answer: &Answer) {
        for waiter in waiters {
            self.waiters.remove(&waiter);
            self.outputs.push_back(Output::Found { waiter, answer: answer.clone() });
        }
    }
}
