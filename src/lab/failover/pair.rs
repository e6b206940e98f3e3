//! The two servers of the pair during a run: their processes, their calls, what they have counted.
//!
//! Owns: doing a fault and undoing it, which server places calls, who served. Must not touch: phones, the report.

use super::child::SipServer;
use super::fault::{Event, Kind};
use crate::bench::Place;
use crate::certs::TlsFiles;
use crate::ledger::{Caller, Ledger};
use crate::scenario::Ended;
use crate::server::Step;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Requests that a server has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Got {
    pub invites: u64,
    pub options: u64,
    pub registers: u64,
}

struct Side {
    child: SipServer,
    place: Place,
    /// Records of calls that have been ordered and have no number yet, in order.
    ordered: VecDeque<usize>,
    calls: HashMap<u64, usize>,
    is_well: bool,
    is_frozen: bool,
    /// Of this process, when it was last asked.
    got: Got,
    /// Of the processes before it.
    got_before: Got,
    invites_open: u64,
    served_before: u64,
}

pub struct Pair {
    sides: [Side; 2],
    tls: TlsFiles,
    further: Vec<String>,
    waker: Arc<mio::Waker>,
    /// Who places the server's calls; `None`: nobody until the proxy turns to the one that is well.
    placer: Option<usize>,
    serving: Option<usize>,
    pub switches: u32,
    pub said_wrong: u64,
}

impl Pair {
    /// Starts both, the primary first.
    ///
    /// # Errors
    /// One of them did not start.
    pub fn start(places: [Place; 2], tls: &TlsFiles, further: Vec<String>, waker: Arc<mio::Waker>) -> Ended<Self> {
        let side = |place: Place| -> Ended<Side> {
            Ok(Side {
                child: SipServer::start(&[place], tls, &further, Arc::clone(&waker))?,
                place,
                ordered: VecDeque::new(),
                calls: HashMap::new(),
                is_well: true,
                is_frozen: false,
                got: Got::default(),
                got_before: Got::default(),
                invites_open: 0,
                served_before: 0,
            })
        };
        let mut pair = Self {
            sides: [side(places[0])?, side(places[1])?],
            tls: tls.clone(),
            further: further.clone(),
            waker: Arc::clone(&waker),
            placer: Some(0),
            serving: None,
            switches: 0,
            said_wrong: 0,
        };
        SipServer::introduce(pair.sides.each_mut().map(|side| &mut side.child));
        Ok(pair)
    }

    /// Brings a fault about, or its end. Says whether the server's own calls die with it.
    ///
    /// # Errors
    /// A signal that was not taken, or a process that did not start again.
    pub fn apply(&mut self, event: Event, ledger: &mut Ledger) -> Ended<()> {
        let side = &mut self.sides[event.server];
        side.is_well = !event.begins;
        match (event.kind.order(), event.kind, event.begins) {
            (Some(order), _, true) => side.child.order(order),
            (Some(_), _, false) => side.child.order("health up"),
            (None, Kind::Kill, true) => {
                side.child.kill();
                side.got_before.invites += side.got.invites;
                side.got_before.options += side.got.options;
                side.got_before.registers += side.got.registers;
                side.got = Got::default();
                side.invites_open = 0;
            }
            (None, Kind::Kill, false) => {
                side.child = SipServer::start(&[side.place], &self.tls, &self.further, Arc::clone(&self.waker))?;
                SipServer::introduce(self.sides.each_mut().map(|side| &mut side.child));
            }
            (None, _, begins) => {
                side.child.signal(if begins { "STOP" } else { "CONT" })?;
                side.is_frozen = begins;
            }
        }
        if event.begins && !matches!(event.kind, Kind::Refuse | Kind::RefuseOptions) {
            ledger.orphan(event.server);
            let side = &mut self.sides[event.server];
            side.ordered.clear();
            side.calls.clear();
        }
        if event.begins && self.placer == Some(event.server) {
            self.placer = None;
        }
        Ok(())
    }

    /// Who is the active one, as far as its requests show; `None` while the proxy has not turned to the one that is well.
    pub fn active(&self) -> Option<usize> {
        self.placer
    }

    /// The server that is well takes over by itself.
    pub fn take_over(&mut self) {
        if self.placer.is_none() {
            self.placer = self.sides.iter().position(|side| side.is_well);
        }
    }

    /// Lets the active server call a phone; false when nobody is active.
    pub fn place_call(&mut self, now_us: u64, aor: &str, talk_ms: u64, ledger: &mut Ledger) -> bool {
        let Some(placer) = self.placer else { return false };
        let number = ledger.open(now_us, Caller::Server(placer));
        let side = &mut self.sides[placer];
        side.ordered.push_back(number);
        side.child.order(&format!("call {aor} {talk_ms}"));
        true
    }

    /// Asks both what they have counted; a frozen one is left alone.
    pub fn ask(&mut self) {
        for side in self.sides.iter_mut().filter(|side| !side.is_frozen) {
            side.child.order("stats");
        }
    }

    /// Takes in what the servers have said.
    pub fn listen(&mut self, now_us: u64, ledger: &mut Ledger) {
        for at in 0..2 {
            while let Some(said) = self.sides[at].child.poll_said() {
                self.hear(at, now_us, &said, ledger);
            }
        }
    }

    fn hear(&mut self, at: usize, now_us: u64, said: &Value, ledger: &mut Ledger) {
        let side = &mut self.sides[at];
        if let Some(tally) = said.get("stats") {
            let count = |key: &str| tally[key].as_u64().unwrap_or(0);
            let got =
                Got { invites: count("invites_in"), options: count("options_in"), registers: count("registers_in") };
            let has_work = got.invites > side.got.invites || got.registers > side.got.registers;
            side.got = got;
            side.invites_open = said["invites_open"].as_u64().unwrap_or(0);
            // The proxy has turned to it, so it is the active one and calls phones too.
            if has_work && side.is_well && self.placer.is_none() {
                self.placer = Some(at);
            }
        } else if let Some(step) = said["step"].as_str() {
            let number = said["call"].as_u64();
            if step == "Calling" || step == "NotRegistered" {
                match (side.ordered.pop_front(), number) {
                    (Some(record), Some(number)) => {
                        side.calls.insert(number, record);
                    }
                    (Some(record), None) => ledger.note(record, now_us, Step::Failed(404)),
                    (None, _) => {}
                }
            } else if let (Some(step), Some(number)) = (parse_step(step), number)
                && let Some(&record) = side.calls.get(&number)
            {
                ledger.note(record, now_us, step);
            }
        } else if said.get("error").is_some() {
            eprintln!("server {at} says {said}");
            self.said_wrong += 1;
        }
    }

    /// Who served most of the calls that phones have placed since the last look; `None` when none did.
    pub fn look(&mut self, placed: u64) -> Option<usize> {
        let mut grown = [0; 2];
        for (side, grown) in self.sides.iter_mut().zip(&mut grown) {
            let total = side.got.invites + side.got_before.invites;
            *grown = total - side.served_before.min(total);
            side.served_before = total;
        }
        let leader = usize::from(grown[1] > grown[0]);
        if grown[leader] * 2 <= placed || placed == 0 {
            return None;
        }
        if self.serving.is_some_and(|serving| serving != leader) {
            self.switches += 1;
        }
        self.serving = Some(leader);
        Some(leader)
    }

    pub fn got(&self, server: usize) -> Got {
        let Side { got, got_before, .. } = &self.sides[server];
        Got {
            invites: got.invites + got_before.invites,
            options: got.options + got_before.options,
            registers: got.registers + got_before.registers,
        }
    }

    /// INVITEs of servers that are well which have no final answer.
    pub fn invites_open(&self) -> u64 {
        self.sides.iter().filter(|side| side.is_well).map(|side| side.invites_open).sum()
    }
}

/// A step as the server's process prints it.
fn parse_step(text: &str) -> Option<Step> {
    let (name, code) = text.trim_end_matches(')').split_once('(').unwrap_or((text, "0"));
    let code = code.parse().ok()?;
    match name {
        "Ringing" => Some(Step::Ringing),
        "Answered" => Some(Step::Answered),
        "Failed" => Some(Step::Failed(code)),
        "Lost" => Some(Step::Lost),
        "Ended" => Some(Step::Ended),
        "ByeFailed" => Some(Step::ByeFailed(code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_as_it_is_printed() {
        let steps = [Step::Ringing, Step::Answered, Step::Failed(503), Step::Lost, Step::Ended, Step::ByeFailed(0)];
        for step in steps {
            assert_eq!(parse_step(&format!("{step:?}")), Some(step));
        }
        assert_eq!(parse_step("Calling"), None);
    }
}
