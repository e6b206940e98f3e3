//! Peers that stall: in the middle of their handshake, at one byte a second, and without ever reading, while registered
//! phones are called.
//!
//! Such peers come several times, for what one round leaves behind must not add up; and once more while nobody calls,
//! for what they cost by themselves is to be told from what they make the calls cost.
//!
//! Owns: the order of events, and the report. Must not touch: SIP.

use crate::bare_clients::{Fact, Kind, What};
use crate::healthy::{Healthy, HealthyLine, Phase};
use crate::scenario::Ended;
use crate::tally::{Histogram, Tally};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How long each step of them may take to come.
const COMING_MAX_S: f64 = 20.0;
const DEAF_AT_ONCE: u32 = 50;
/// After the last is closed, for what was kept for them to be given back.
const AFTER_S: f64 = 6.5;
/// For the last calls to end when no more are placed.
const CALLS_END_S: f64 = 2.0;

#[derive(Args)]
pub struct StallLine {
    /// Peers that stall in the handshake.
    #[arg(long, default_value_t = 1_000)]
    mute: u32,
    /// Peers that send a request one byte a second.
    #[arg(long, default_value_t = 1_000)]
    slow: u32,
    /// Peers that ask and do not read.
    #[arg(long, default_value_t = 1_000)]
    deaf: u32,
    /// Answers of 12 KiB that each of those asks for; fewer may all find room in the proxy's socket.
    #[arg(long, default_value_t = 24)]
    deaf_answers: u32,
    /// How often they come while there are calls.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Seconds of calls before each time, to compare with. After 32 s transactions end as fast as they begin, and with
    /// them those of the last round's time have gone.
    #[arg(long, default_value_t = 35.0)]
    before: f64,
    /// Seconds that are compared with them, from when all of them are there; the first leave after 10 s.
    #[arg(long, default_value_t = 6.0)]
    beside: f64,
    /// Leaves out the time that they come without calls.
    #[arg(long)]
    only_with_calls: bool,
    /// Fails when one of them is still there after so many seconds.
    #[arg(long, default_value_t = 60.0)]
    within: f64,
    #[command(flatten)]
    healthy: HealthyLine,
}

/// What became of one kind.
#[derive(Default)]
struct Group {
    meant: u32,
    stood: u32,
    /// Closed before their connection stood.
    turned_away: u32,
    ended: u32,
    lived: Histogram,
    shortest_ms: Option<f64>,
    by: BTreeMap<String, u64>,
}

impl Group {
    fn note(&mut self, fact: Fact) {
        match fact.what {
            What::Stands { .. } => self.stood += 1,
            What::Ended { stood: false, .. } => {
                self.turned_away += 1;
                self.ended += 1;
            }
            What::Ended { how, .. } => {
                let lived = fact.at - fact.began;
                let lived_ms = lived.as_secs_f64() * 1e3;
                self.ended += 1;
                self.lived.record(lived.as_micros() as u64);
                self.shortest_ms = Some(self.shortest_ms.map_or(lived_ms, |least| least.min(lived_ms)));
                Tally::count(&mut self.by, how.to_string());
            }
        }
    }

    fn report(&self) -> Value {
        json!({
            "meant": self.meant,
            "stood": self.stood,
            "turned_away": self.turned_away,
            "closed": self.ended,
            "closed_by": self.by,
            "first_after_ms": self.shortest_ms,
            "closed_after_ms": self.lived.summary(),
        })
    }
}

/// The mute, the slow and the deaf.
#[derive(Default)]
struct Groups([Group; 3]);

impl Groups {
    fn take(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.of(fact.kind).note(fact);
        }
    }

    fn of(&mut self, kind: Kind) -> &mut Group {
        let [mute, slow, deaf] = &mut self.0;
        match kind {
            Kind::Mute => mute,
            Kind::Slow => slow,
            _ => deaf,
        }
    }

    /// Whether whoever was told to come stands, or was turned away.
    fn are_there(&self) -> bool {
        self.0.iter().all(|group| group.stood + group.turned_away >= group.meant)
    }

    fn are_gone(&self) -> bool {
        self.0.iter().all(|group| group.ended >= group.meant)
    }
}

/// What was measured of each comparison.
#[derive(Default)]
struct Costs {
    before: Vec<Phase>,
    beside: Vec<Phase>,
    alone: Option<Phase>,
}

impl Costs {
    /// Microseconds of each call before and beside them; the latter less what they take by themselves.
    fn report(&self) -> Value {
        let sum = |phases: &[Phase]| {
            let busy_us: u64 = phases.iter().map(|phase| phase.busy_us).sum();
            (busy_us as f64, phases.iter().map(|p| p.calls).sum::<u64>().max(1) as f64)
        };
        let ((before_us, before), (beside_us, beside)) = (sum(&self.before), sum(&self.beside));
        let seconds: f64 = self.beside.iter().map(|phase| phase.seconds).sum();
        let alone_us_per_s = self.alone.map(|phase| phase.busy_us as f64 / phase.seconds);
        let call_us = before_us / before;
        let call_us_beside = alone_us_per_s.map(|alone| (beside_us - alone * seconds) / beside);
        json!({
            "call_us": call_us,
            "call_us_beside_with_all": beside_us / beside,
            "stalled_us_per_s": alone_us_per_s,
            "call_us_beside": call_us_beside,
            "more_percent": call_us_beside.map(|beside| (beside / call_us - 1.0) * 100.0),
        })
    }
}

/// The stalled clients of one round, from their coming until their memory should be given back.
struct Round<'a> {
    line: &'a StallLine,
    healthy: Healthy<'a>,
    groups: Groups,
}

impl Round<'_> {
    /// Goes on for so many seconds, or until `is_done`.
    fn until(&mut self, seconds: f64, is_done: impl Fn(&Groups) -> bool) -> Ended<()> {
        let groups = &mut self.groups;
        self.healthy.go_on(seconds, |_, facts| {
            groups.take(facts);
            is_done(groups)
        })
    }

    fn turn_for(&mut self, seconds: f64) -> Ended<()> {
        self.until(seconds, |_| false)
    }

    /// Gives the phase in which all of them were there, and whether all were closed in time.
    fn play(&mut self, name: &str) -> Ended<(Phase, bool)> {
        let line = self.line;
        let began_s = self.healthy.passed_s();
        // One after the other, and the deaf a few at a time, for sealing what each of them asks takes the lab a while.
        // The mute ones last: while they hold what there is for handshakes, nobody else gets in.
        let mut steps = vec![(Kind::Slow, line.slow)];
        let deaf = (0..line.deaf).step_by(DEAF_AT_ONCE as usize);
        steps.extend(deaf.map(|first| (Kind::Deaf(line.deaf_answers), DEAF_AT_ONCE.min(line.deaf - first))));
        steps.push((Kind::Mute, line.mute));
        for (kind, count) in steps {
            self.groups.of(kind).meant += count;
            self.healthy.clients.open(kind, count);
            self.until(COMING_MAX_S, Groups::are_there)?;
        }
        // The last answers of the deaf are still being made.
        self.turn_for(1.0)?;
        self.healthy.end_phase(&format!("coming{name}"));
        self.turn_for(line.beside)?;
        let beside = self.healthy.end_phase(&format!("stalled{name}"));
        self.until(line.within - (self.healthy.passed_s() - began_s), Groups::are_gone)?;
        let are_gone = self.groups.are_gone();
        self.healthy.end_phase(&format!("going{name}"));
        self.turn_for(AFTER_S)?;
        self.healthy.end_phase(&format!("after{name}"));
        Ok((beside, are_gone))
    }
}

/// Runs it; fails when a call came to harm, or a stalled one stays.
///
/// # Errors
/// What could not be started.
pub fn run(line: &StallLine) -> Ended {
    let mut round = Round { line, healthy: Healthy::start(&line.healthy)?, groups: Groups::default() };
    let mut costs = Costs::default();
    let mut are_gone = true;
    for nth in 1..=line.rounds {
        round.turn_for(line.before)?;
        costs.before.push(round.healthy.end_phase(&format!("before {nth}")));
        let (beside, gone) = round.play(&format!(" {nth}"))?;
        costs.beside.push(beside);
        are_gone &= gone;
    }
    if !line.only_with_calls {
        round.healthy.pause(true);
        round.turn_for(CALLS_END_S)?;
        let (alone, gone) = round.play(", no calls")?;
        costs.alone = Some(alone);
        are_gone &= gone;
    }
    let Round { healthy, groups: Groups(groups), .. } = round;
    let [mute, slow, deaf] = groups.map(|group| group.report());
    let stalled = json!({"mute": mute, "slow": slow, "deaf": deaf});
    let cost = costs.report();
    eprintln!("cost: {cost}");
    let counted = ["hawser_connections_closed", "hawser_limit_hits", "hawser_tls_handshake_failures"];
    healthy.report([("stalled", stalled), ("cost", cost)], &counted, are_gone)
}
