//! The ledger: every call of a run in which something fails, who placed it, and what became of it.
//!
//! Owns: the records and the figures that follow from them. Must not touch: sockets, processes, clocks.

use crate::server::Step;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

/// An answer that took longer than this had to wait for something.
const PROMPT_US: u64 = 1_000_000;

/// Who placed a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Phone,
    /// A server of the pair, by number.
    Server(usize),
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    /// The answer came at this time; its BYE has not been answered.
    Answered(u64),
    /// And so has its BYE, with this code; 0 when nothing came.
    Over(u64, u16),
    Refused(u16),
    /// No final answer within 8 s.
    Lost,
    /// The server that placed it has died.
    Orphaned,
}

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub placed_us: u64,
    caller: Caller,
    pub fate: Fate,
}

impl Record {
    fn answered_us(&self) -> Option<u64> {
        match self.fate {
            Fate::Answered(at) | Fate::Over(at, _) => Some(at),
            _ => None,
        }
    }

    /// Refused, lost, or ended by a BYE that was not answered with 200.
    pub fn is_broken(&self) -> bool {
        match self.fate {
            Fate::Over(_, code) => code != 200,
            _ => self.has_failed(),
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.fate, Fate::Refused(_) | Fate::Lost)
    }
}

/// All calls, in the order in which they were placed.
#[derive(Default)]
pub struct Ledger {
    records: Vec<Record>,
}

impl Ledger {
    /// Opens a record; its number.
    pub fn open(&mut self, now_us: u64, caller: Caller) -> usize {
        self.records.push(Record { placed_us: now_us, caller, fate: Fate::Open });
        self.records.len() - 1
    }

    /// Records so far; the number of the next one.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn get(&self, number: usize) -> &Record {
        &self.records[number]
    }

    pub fn note(&mut self, number: usize, now_us: u64, step: Step) {
        let record = &mut self.records[number];
        record.fate = match (record.fate, step) {
            (Fate::Open, Step::Answered) => Fate::Answered(now_us),
            (Fate::Open, Step::Failed(code)) => Fate::Refused(code),
            (Fate::Open, Step::Lost) => Fate::Lost,
            (Fate::Answered(at), Step::Ended) => Fate::Over(at, 200),
            (Fate::Answered(at), Step::ByeFailed(code)) => Fate::Over(at, code),
            (fate, _) => fate,
        };
    }

    /// The calls that a server had placed die with it.
    pub fn orphan(&mut self, server: usize) {
        for record in &mut self.records {
            if record.caller == Caller::Server(server) && matches!(record.fate, Fate::Open | Fate::Answered(_)) {
                record.fate = Fate::Orphaned;
            }
        }
    }

    /// Calls that have not come to an end; those of a dead server never do.
    pub fn unfinished(&self) -> usize {
        self.records.iter().filter(|record| matches!(record.fate, Fate::Open | Fate::Answered(_))).count()
    }

    /// Calls without a final answer.
    pub fn open_count(&self) -> usize {
        self.records.iter().filter(|record| record.fate == Fate::Open).count()
    }

    fn between(&self, from_us: u64, until_us: u64) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| (from_us..until_us).contains(&record.placed_us))
    }

    /// Refused or lost.
    pub fn failed_count(&self) -> usize {
        self.records.iter().filter(|record| record.has_failed()).count()
    }

    /// What happened to calls placed from a fault on, until `until_us`.
    pub fn window(&self, fault_us: u64, until_us: u64) -> Window {
        let ms = |at_us: u64| (at_us - fault_us) as f64 / 1e3;
        let first_ok_ms = self.between(fault_us, until_us).filter_map(Record::answered_us).min().map(ms);
        // All succeed from the call after the last one that failed; a call that waited was no success yet.
        let last_bad_us =
            self.between(fault_us, until_us).filter(|record| record.has_failed()).map(|r| r.placed_us).max();
        let after_us = last_bad_us.map_or(fault_us, |at| at + 1);
        let all_ok_ms = self.between(after_us, until_us).filter_map(Record::answered_us).min().map(ms);
        let waits: Vec<u64> =
            self.between(fault_us, until_us).filter_map(|r| r.answered_us().map(|at| at - r.placed_us)).collect();
        let slowest_ms = waits.iter().max().copied().unwrap_or(0) as f64 / 1e3;
        let waited = waits.iter().filter(|&&wait| wait > PROMPT_US).count();
        let failed = self.between(fault_us, until_us).filter(|record| record.has_failed()).count();
        let placed = self.between(fault_us, until_us).count();
        Window { placed, failed, first_ok_ms, all_ok_ms, slowest_ms, waited }
    }

    pub fn summary(&self) -> Value {
        let of = |is_wanted: fn(Caller) -> bool| {
            let mut by_fate: BTreeMap<String, u64> = BTreeMap::new();
            for record in self.records.iter().filter(|record| is_wanted(record.caller)) {
                let name = match record.fate {
                    Fate::Open => "stuck".to_owned(),
                    Fate::Answered(_) => "answered, BYE without an answer".to_owned(),
                    Fate::Over(_, 200) => "answered and ended".to_owned(),
                    Fate::Over(_, code) => format!("answered, BYE got {code}"),
                    Fate::Refused(code) => format!("refused with {code}"),
                    Fate::Lost => "lost".to_owned(),
                    Fate::Orphaned => "of the dead server".to_owned(),
                };
                *by_fate.entry(name).or_default() += 1;
            }
            by_fate
        };
        json!({
            "placed": self.records.len(),
            "from_phones": of(|caller| caller == Caller::Phone),
            "from_servers": of(|caller| caller != Caller::Phone),
        })
    }
}

/// The records of calls that one party has placed, by the party's own names of them.
pub struct Booked<K>(HashMap<K, usize>);

impl<K: Eq + Hash> Booked<K> {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Opens a record for a call that was placed, or could not be; its number.
    pub fn book(&mut self, ledger: &mut Ledger, now_us: u64, caller: Caller, call: Option<K>) -> usize {
        let record = ledger.open(now_us, caller);
        match call {
            Some(call) => drop(self.0.insert(call, record)),
            None => ledger.note(record, now_us, Step::Failed(0)),
        }
        record
    }

    /// Takes in what the party has noted since the last time.
    pub fn note(&self, ledger: &mut Ledger, now_us: u64, journal: &mut VecDeque<(K, Step)>) {
        for (call, step) in journal.drain(..) {
            if let Some(&record) = self.0.get(&call) {
                ledger.note(record, now_us, step);
            }
        }
    }
}

/// The time from a fault to the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub placed: usize,
    pub failed: usize,
    /// From the fault to the first answer of a call that was placed after it.
    pub first_ok_ms: Option<f64>,
    /// From the fault to the first answer of a call after which none failed any more.
    pub all_ok_ms: Option<f64>,
    pub slowest_ms: f64,
    /// Answered, but after more than a second.
    pub waited: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_the_first_answer_after_the_last_failure() {
        let mut ledger = Ledger::default();
        for second in 0..6 {
            let number = ledger.open(second * 1_000_000, Caller::Phone);
            let (later, step) = match second {
                2 => (700_000, Step::Failed(503)),
                3 => (8_000_000, Step::Lost),
                4 => (1_500_000, Step::Answered),
                _ => (10_000, Step::Answered),
            };
            ledger.note(number, second * 1_000_000 + later, step);
        }
        let window = ledger.window(500_000, u64::MAX);
        assert_eq!((window.placed, window.failed, window.waited), (5, 2, 1));
        assert_eq!((window.first_ok_ms, window.all_ok_ms), (Some(510.0), Some(4_510.0)));
        assert_eq!(window.slowest_ms, 1_500.0);
        assert_eq!(ledger.failed_count(), 2);
        assert_eq!(ledger.window(4_500_000, u64::MAX).all_ok_ms, Some(510.0));
    }

    #[test]
    fn calls_of_a_dead_server_are_told_apart_from_stuck_ones() {
        let mut ledger = Ledger::default();
        let (dead, alive, stuck) =
            (ledger.open(0, Caller::Server(0)), ledger.open(0, Caller::Server(1)), ledger.open(0, Caller::Phone));
        ledger.note(dead, 1, Step::Answered);
        ledger.orphan(0);
        ledger.note(dead, 2, Step::Ended);
        ledger.note(alive, 1, Step::Answered);
        ledger.note(alive, 2, Step::ByeFailed(481));
        assert_eq!((ledger.unfinished(), ledger.open_count()), (1, 1));
        let summary = ledger.summary();
        assert_eq!(summary["from_servers"]["of the dead server"], 1);
        assert_eq!(summary["from_servers"]["answered, BYE got 481"], 1);
        assert_eq!(summary["from_phones"]["stuck"], 1);
        assert_eq!(stuck, 2);
    }
}
