//! One DNS question against the resolvers: tries, their times, and which resolver is asked next.
//!
//! Owns: questions in the air with their ids, those that wait for their turn, and which resolver answered last. Must
//! not touch: the cache, who wants to know.
//!
//! ```text
//!            +-- no answer within DNS_TRY_MAX, or the socket failed: the next resolver --+
//!            v                                                                           |
//!  start --> UDP --> TC: TCP, the same resolver --> the answer -------------> ended: it is known
//!            ^ |                                        |                     ended: unanswered, when DNS_LOOKUP_MAX
//!            | +-- no EDNS there: the same without      | failure, refused,   is over or no resolver is left
//!            +------------------------------------------+ lame: the next
//! ```
//!
//! Each try has a socket and an id of its own, so that a forged answer has to guess both (RFC 5452 §4). An answer
//! that does not match is as if it had not come: the try goes on until its time is over.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::walk::Key;
use super::wire::{self, Fault, Kind, Known, Said};
use super::{Input, Output};
use crate::clock::Time;
use crate::limits::{DNS_EXCHANGES_COUNT_MAX, DNS_LOOKUP_MAX, DNS_LOOKUPS_COUNT_MAX, DNS_TRY_MAX};
use crate::rng::Rng;
use crate::stats::{Counter, Counters};
use crate::wheel::{TimerId, Wheel};

/// What every step needs of the one around it.
pub(super) struct Around<'a> {
    pub now: Time,
    pub rng: &'a mut Rng,
    pub counters: &'a mut Counters,
    pub outputs: &'a mut VecDeque<Output>,
}

/// A question that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub key: Key,
    /// What there is, and its TTL in seconds; `None` when no resolver has answered.
    pub answer: Option<(Known, u32)>,
}

/// A question, over all of its tries.
#[derive(Debug)]
struct Lookup {
    key: Key,
    /// When it ends whatever happens.
    ends: Time,
    /// Resolvers that gave no answer and will give none.
    spent: SmallVec<[usize; 4]>,
    /// Whether EDNS is offered.
    edns: bool,
    /// Whether some resolver has said something, if only that it cannot help.
    heard: bool,
}

/// One try of it.
#[derive(Debug)]
struct Try {
    lookup: Lookup,
    resolver: usize,
    id: u16,
    tcp: bool,
    timer: TimerId,
}

#[derive(Debug)]
pub(super) struct Exchanges {
    resolvers: Vec<SocketAddr>,
    /// The resolver that answered last.
    preferred: usize,
    /// Whether no resolver has said anything to the last question that ended.
    silent: bool,
    tries: BTreeMap<u32, Try>,
    queue: VecDeque<Key>,
    wheel: Wheel<u32>,
    last: u32,
    ended: VecDeque<Ended>,
}

impl Exchanges {
    pub(super) fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self {
            resolvers,
            preferred: 0,
            silent: false,
            tries: BTreeMap::new(),
            queue: VecDeque::new(),
            wheel: Wheel::new(Time(0)),
            last: 0,
            ended: VecDeque::new(),
        }
    }

    pub(super) fn has_resolvers(&self) -> bool {
        !self.resolvers.is_empty()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tries.is_empty() && self.queue.is_empty() && self.ended.is_empty()
    }

    /// Begins with a question, or puts it into the queue. `false` when that is full.
    pub(super) fn start(&mut self, key: Key, around: &mut Around<'_>) -> bool {
        if self.tries.len() >= DNS_EXCHANGES_COUNT_MAX {
            if self.queue.len() >= DNS_LOOKUPS_COUNT_MAX {
                around.counters.count(Counter::LimitDnsLookupsCount);
                return false;
            }
            self.queue.push_back(key);
            return true;
        }
        self.begin(key, around);
        true
    }

    /// The next question that has ended.
    pub(super) fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.wheel.next()
    }

    /// Ends the tries whose time is over.
    pub(super) fn fire(&mut self, around: &mut Around<'_>) {
        while let Some(exchange) = self.wheel.poll(around.now) {
            let Some(over) = self.tries.remove(&exchange) else { continue };
            around.counters.count(Counter::DnsTimeout);
            around.outputs.push_back(Output::Done { exchange });
            self.try_next(over.lookup, over.resolver, around);
        }
    }

    pub(super) fn handle(&mut self, input: Input<'_>, around: &mut Around<'_>) {
        match input {
            Input::Answer { exchange, from, bytes } => {
                let Some(one) = self.tries.get(&exchange) else { return };
                let (kind, name) = (one.lookup.key.0, &one.lookup.key.1);
                let said = if from == self.resolvers[one.resolver] {
                    wire::read(bytes, one.id, name, kind).map_err(|fault| match fault {
                        Fault::Malformed => Counter::DnsIgnoredMalformed,
                        Fault::Id => Counter::DnsIgnoredId,
                        Fault::Question => Counter::DnsIgnoredQuestion,
                    })
                } else {
                    Err(Counter::DnsIgnoredSource)
                };
                match said {
                    Ok(said) => self.on_answer(exchange, said, around),
                    Err(counter) => around.counters.count(counter),
                }
            }
            Input::Failed { exchange } => {
                let Some(mut failed) = self.remove(exchange) else { return };
                around.counters.count(Counter::DnsSocketError);
                failed.lookup.spent.push(failed.resolver);
                self.try_next(failed.lookup, failed.resolver, around);
            }
        }
    }

    fn remove(&mut self, exchange: u32) -> Option<Try> {
        let one = self.tries.remove(&exchange)?;
        self.wheel.cancel(one.timer);
        Some(one)
    }

    fn on_answer(&mut self, exchange: u32, said: Said, around: &mut Around<'_>) {
        around.counters.count(counter_of(&said));
        let Some(Try { mut lookup, resolver, tcp, .. }) = self.remove(exchange) else { return };
        around.outputs.push_back(Output::Done { exchange });
        match said {
            Said::Known { known, ttl, cut } => {
                if cut {
                    around.counters.count(Counter::LimitDnsRecords);
                }
                if known == Known::AliasesWithoutEnd {
                    around.counters.count(Counter::LimitDnsAliases);
                }
                self.preferred = resolver;
                self.silent = false;
                self.end(lookup.key, Some((known, ttl)), around);
            }
            Said::Truncated if !tcp => {
                around.counters.count(Counter::DnsTcpFallback);
                self.send(lookup, resolver, true, around);
            }
            Said::NoEdns if lookup.edns => {
                lookup.edns = false;
                self.send(lookup, resolver, tcp, around);
            }
            Said::Truncated | Said::NoEdns | Said::Failure | Said::Refused | Said::Lame => {
                lookup.heard = true;
                lookup.spent.push(resolver);
                self.try_next(lookup, resolver, around);
            }
        }
    }

    fn begin(&mut self, key: Key, around: &mut Around<'_>) {
        let lookup =
            Lookup { key, ends: around.now.after(DNS_LOOKUP_MAX), spent: SmallVec::new(), edns: true, heard: false };
        match self.resolvers.is_empty() {
            true => self.end(lookup.key, None, around),
            false => self.send(lookup, self.preferred, false, around),
        }
    }

    /// The resolver after this one, of those that are not spent.
    fn try_next(&mut self, lookup: Lookup, resolver: usize, around: &mut Around<'_>) {
        let count = self.resolvers.len();
        let next = (1..=count).map(|n| (resolver + n) % count).find(|next| !lookup.spent.contains(next));
        let is_late = around.now >= lookup.ends;
        match next {
            Some(next) if !is_late => self.send(lookup, next, false, around),
            _ => {
                if is_late {
                    around.counters.count(Counter::LimitDnsLookup);
                }
                self.silent = !lookup.heard;
                self.end(lookup.key, None, around);
            }
        }
    }

    fn send(&mut self, lookup: Lookup, resolver: usize, tcp: bool, around: &mut Around<'_>) {
        let (kind, name) = &lookup.key;
        // 16 of 64 random bits.
        let id = around.rng.next() as u16;
        // Names that cannot be written were sorted out before.
        let Some(bytes) = wire::question(id, name, *kind, lookup.edns) else {
            return self.end(lookup.key, Some((Known::NoSuchName, 0)), around);
        };
        around.counters.count(match kind {
            Kind::A => Counter::DnsQueryA,
            Kind::Aaaa => Counter::DnsQueryAaaa,
            Kind::Srv => Counter::DnsQuerySrv,
            Kind::Naptr => Counter::DnsQueryNaptr,
        });
        let exchange = self.free_number();
        let timer = self.wheel.arm(around.now.after(DNS_TRY_MAX).min(lookup.ends), exchange);
        around.outputs.push_back(Output::Send { exchange, to: self.resolvers[resolver], tcp, bytes });
        self.tries.insert(exchange, Try { lookup, resolver, id, tcp, timer });
    }

    /// Few are in the air, so the search is short.
    fn free_number(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.tries.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// The exchange's place is free for one that waits.
    fn end(&mut self, key: Key, answer: Option<(Known, u32)>, around: &mut Around<'_>) {
        self.ended.push_back(Ended { key, answer });
        if self.tries.len() < DNS_EXCHANGES_COUNT_MAX
            && let Some(next) = self.queue.pop_front()
        {
            self.begin(next, around);
        }
    }
}

fn counter_of(said: &Said) -> Counter {
    match said {
        Said::Known { known: Known::NoSuchName, .. } => Counter::DnsAnswerNoSuchName,
        Said::Known { known: Known::NoRecords, .. } => Counter::DnsAnswerNoRecords,
        Said::Known { .. } => Counter::DnsAnswerRecords,
        Said::Truncated => Counter::DnsAnswerTruncated,
        Said::NoEdns => Counter::DnsAnswerNoEdns,
        Said::Failure => Counter::DnsAnswerFailure,
        Said::Refused => Counter::DnsAnswerRefused,
        Said::Lame => Counter::DnsAnswerLame,
    }
}
