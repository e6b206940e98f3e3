//! The calls: what is placed, and the cause of each that broke.
//!
//! Owns: the mix of calls, their records, the causes. Must not touch: what happens beside them.
//!
//! A call may break for one of these causes and no other: a server of the pair was killed while it stood, one of its
//! phones was away meanwhile, or the phone had registered at a server that was killed before it could tell the other one. A phone that has opened its new connection first is no cause, nor is a reload, nor are
//! those of others that come in a storm.

use super::parties::{Parties, PhoneId};
use crate::failover::pair::Pair;
use crate::ledger::{Caller, Fate, Ledger};
use crate::phones::{Phase, PhoneCallRef};
use crate::server::Plan;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The shortest time from answer to BYE, milliseconds.
const TALK_MS_MIN: u64 = 300;
/// A call that is given up before it is answered.
const CANCEL_AFTER_US: u64 = 400_000;
/// How long a call may take to its answer, and a BYE to its own: 8 s until a call counts as lost, and as much again.
const ANSWER_MAX_US: u64 = 8_000_000;
const BYE_MAX_US: u64 = 34_000_000;
/// From a REGISTER's answer until the other server of the pair knows.
const TOLD_WITHIN_US: u64 = 500_000;
const FAULTS_SHOWN: usize = 20;

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// A server calls a phone.
    ToPhone,
    /// A phone calls the server, which answers by itself.
    FromPhone,
    /// A phone calls another one.
    Between,
    /// A phone calls somebody who is busy.
    Busy,
    /// A phone calls somebody who rings, and gives up.
    GivenUp,
}

impl Sort {
    /// In each sixteen: of the first three sorts about as many each, and now and then one of the others.
    fn of(nth: u64) -> Self {
        match nth % 16 {
            7 => Self::Busy,
            15 => Self::GivenUp,
            at => [Self::ToPhone, Self::FromPhone, Self::Between][(at % 3) as usize],
        }
    }

    /// The refusal that is meant.
    fn meant(self) -> Option<u16> {
        match self {
            Self::Busy => Some(486),
            Self::GivenUp => Some(487),
            _ => None,
        }
    }
}

/// What is known of a call besides its record.
#[derive(Clone, Copy, Debug)]
struct Entry {
    record: usize,
    sort: Sort,
    phones: [Option<PhoneId>; 2],
    talk_ms: u64,
}

/// What is done with a phone's own call later.
struct Due {
    at_us: u64,
    id: PhoneId,
    call: PhoneCallRef,
    is_cancel: bool,
}

/// All calls.
pub struct Calls {
    ledger: Ledger,
    domain: String,
    talk_ms_max: u64,
    placed: u64,
    /// Calls of servers that were due while nobody was active.
    skipped: u64,
    /// Not settled yet.
    open: Vec<Entry>,
    due: Vec<Due>,
    kills: Vec<u64>,
    whole: u64,
    /// Refused as it was meant.
    refused: u64,
    by_cause: BTreeMap<String, u64>,
    without_cause: Vec<String>,
    /// The phones of the newest of these, each with which of these.
    puzzles: Vec<(usize, PhoneId)>,
    settle_us: u64,
}

impl Calls {
    /// Calls that last up to so long.
    pub fn new(domain: &str, talk_ms_max: u64) -> Self {
        Self {
            ledger: Ledger::default(),
            domain: domain.to_owned(),
            talk_ms_max: talk_ms_max.max(TALK_MS_MIN + 1),
            placed: 0,
            skipped: 0,
            open: Vec::new(),
            due: Vec::new(),
            kills: Vec::new(),
            whole: 0,
            refused: 0,
            by_cause: BTreeMap::new(),
            without_cause: Vec::new(),
            puzzles: Vec::new(),
            settle_us: 0,
        }
    }

    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Calls that are going on.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// A server was killed.
    pub fn killed(&mut self, now_us: u64) {
        self.kills.push(now_us);
    }

    /// Places the next call.
    pub fn place(&mut self, now_us: u64, parties: &mut Parties, pair: &mut Pair) {
        let sort = Sort::of(self.placed);
        let id = parties.any();
        if sort == Sort::ToPhone {
            return self.call_phone(now_us, id, parties, pair);
        }
        self.placed += 1;
        if !parties.is_registered(id) {
            // A phone that has no connection places no call.
            return;
        }
        let talk_ms = self.talk_ms(parties);
        let other = parties.any();
        let (uri, other) = match sort {
            Sort::Between if other != id => (format!("sip:{}", parties.aor(other)), Some(other)),
            Sort::Busy => (format!("sip:busy@{}", self.domain), None),
            Sort::GivenUp => (format!("sip:ring@{}", self.domain), None),
            _ => (format!("sip:answer@{}", self.domain), None),
        };
        let plan = Plan { talk: Some(Duration::from_millis(talk_ms)), is_watched: true };
        let group = parties.group(id);
        let call = group.bench.call_from(id.phone, &uri, plan);
        let record = group.calls.book(&mut self.ledger, now_us, Caller::Phone, call);
        self.open.push(Entry { record, sort, phones: [Some(id), other], talk_ms });
        let Some(call) = call else { return };
        match sort {
            Sort::GivenUp => self.due.push(Due { at_us: now_us + CANCEL_AFTER_US, id, call, is_cancel: true }),
            Sort::FromPhone if talk_ms > 1_000 => {
                self.due.push(Due { at_us: now_us + talk_ms * 500, id, call, is_cancel: false });
            }
            _ => {}
        }
    }

    fn talk_ms(&self, parties: &mut Parties) -> u64 {
        TALK_MS_MIN + parties.roll(self.talk_ms_max - TALK_MS_MIN)
    }

    /// Lets the active server call this phone.
    pub fn call_phone(&mut self, now_us: u64, id: PhoneId, parties: &mut Parties, pair: &mut Pair) {
        self.placed += 1;
        let (aor, talk_ms) = (parties.aor(id), self.talk_ms(parties));
        let record = self.ledger.len();
        if pair.place_call(now_us, &aor, talk_ms, &mut self.ledger) {
            self.open.push(Entry { record, sort: Sort::ToPhone, phones: [Some(id), None], talk_ms });
        } else {
            self.skipped += 1;
        }
    }

    /// Takes in what became of the calls, does what is due, and settles those that are over.
    pub fn turn(&mut self, now_us: u64, parties: &mut Parties) {
        parties.listen(now_us, &mut self.ledger);
        let (due, later) = self.due.drain(..).partition(|due: &Due| due.at_us <= now_us);
        self.due = later;
        for Due { id, call, is_cancel, .. } in due {
            let (stack, phones) = parties.group(id).bench.phones();
            match phones.phase(call) {
                Phase::Calling | Phase::Ringing if is_cancel => phones.hang_up(stack, call),
                Phase::Up if !is_cancel => drop(phones.reinvite(stack, call)),
                _ => {}
            }
        }
        if now_us >= self.settle_us {
            self.settle_us = now_us + 250_000;
            self.settle(now_us, parties);
        }
    }

    fn settle(&mut self, now_us: u64, parties: &Parties) {
        for entry in std::mem::take(&mut self.open) {
            let record = *self.ledger.get(entry.record);
            let end_us = match record.fate {
                Fate::Answered(at_us) => at_us + entry.talk_ms * 1_000 + BYE_MAX_US,
                Fate::Open => record.placed_us + ANSWER_MAX_US * 2,
                _ => 0,
            };
            if end_us > now_us {
                self.open.push(entry);
                continue;
            }
            match record.fate {
                Fate::Over(_, 200) => self.whole += 1,
                Fate::Refused(code) if Some(code) == entry.sort.meant() => self.refused += 1,
                Fate::Orphaned => self.count("of the server that was killed"),
                fate => match self.cause(&entry, fate, record.placed_us, now_us, parties) {
                    Some(cause) => self.count(cause),
                    None => {
                        let phones: Vec<String> =
                            entry.phones.iter().flatten().map(|id| parties.describe(*id)).collect();
                        let at = self.without_cause.len();
                        self.puzzles.extend(entry.phones.iter().flatten().map(|id| (at, *id)));
                        self.without_cause.push(format!(
                            "{:.1} s: {:?}, {} ms of talk: {fate:?} at {:.1} s; {}",
                            record.placed_us as f64 / 1e6,
                            entry.sort,
                            entry.talk_ms,
                            now_us as f64 / 1e6,
                            phones.join("; ")
                        ));
                    }
                },
            }
        }
    }

    fn count(&mut self, cause: &str) {
        *self.by_cause.entry(cause.to_owned()).or_default() += 1;
    }

    /// Why a call broke that was placed then and is over now.
    fn cause(&self, entry: &Entry, fate: Fate, placed_us: u64, now_us: u64, parties: &Parties) -> Option<&'static str> {
        // An INVITE goes on to the other server; what has died with the first is a call that stood.
        let stood = matches!(fate, Fate::Over(..) | Fate::Answered(_));
        if stood && self.kills.iter().any(|kill_us| (placed_us..now_us).contains(kill_us)) {
            return Some("a server was killed meanwhile");
        }
        let mut phones = entry.phones.iter().flatten();
        if phones.clone().any(|&id| parties.was_away(id, placed_us, now_us)) {
            return Some("its phone had lost its connection");
        }
        let is_unknown = |&id: &PhoneId| {
            let registered_us = parties.registered_us(id, now_us);
            self.kills.iter().any(|kill_us| kill_us.abs_diff(registered_us) < TOLD_WITHIN_US)
        };
        (matches!(fate, Fate::Refused(404 | 480)) && phones.any(is_unknown))
            .then_some("the server that its phone had registered at was killed before it told the other")
    }

    /// Adds what the proxy says of the phones of calls that broke without a cause; it is asked of few.
    pub fn ask_of_puzzles(&mut self, mut ask: impl FnMut(PhoneId) -> String) {
        for (at, id) in self.puzzles.drain(..).filter(|(at, _)| *at < FAULTS_SHOWN) {
            self.without_cause[at].push_str(&format!("; the proxy: {}", ask(id).trim_end()));
        }
    }

    pub fn broken_by_cause(&self) -> u64 {
        self.by_cause.values().sum()
    }

    /// What must not be, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> =
            self.without_cause.iter().take(FAULTS_SHOWN).map(|what| format!("without a cause: {what}")).collect();
        if self.without_cause.len() > FAULTS_SHOWN {
            faults.push(format!("and {} calls more", self.without_cause.len() - FAULTS_SHOWN));
        }
        if !self.open.is_empty() {
            faults.push(format!("{} calls are not over", self.open.len()));
        }
        faults
    }

    pub fn summary(&self) -> Value {
        json!({
            "placed": self.placed,
            "whole": self.whole,
            "refused_as_meant": self.refused,
            "broken_by_cause": self.by_cause,
            "broken_without_cause": self.without_cause.len(),
            "not_placed_while_nobody_was_active": self.skipped,
            "fates": self.ledger.summary(),
        })
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_cause = self.broken_by_cause();
        let (open, without) = (self.open.len(), self.without_cause.len());
        write!(
            f,
            "calls {} whole {} refused as meant {} open {open} broken by a cause {by_cause} {:?} and without {without}",
            self.placed, self.whole, self.refused, self.by_cause
        )
    }
}
