//! Peers that stall: in the middle of their handshake, at one byte a second, and without ever reading, while registered
//! phones are called.
//!
//! Owns: the order of events, and the report. Must not touch: SIP.

use crate::crowd::{Crowd, Fact, Kind, What};
use crate::healthy::{Healthy, HealthyLine};
use crate::storm::said;
use crate::tally::{Histogram, Tally};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

/// How long each step of them may take to come.
const COMING_MAX_S: f64 = 20.0;
const DEAF_AT_ONCE: u32 = 50;
/// After the last is closed, for what was kept for them to be given back.
const AFTER_S: f64 = 8.0;

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
    /// Seconds of calls before that.
    #[arg(long, default_value_t = 10.0)]
    before: f64,
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
                Tally::count(&mut self.by, said(how));
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

struct Groups {
    mute: Group,
    slow: Group,
    deaf: Group,
}

impl Groups {
    fn take(&mut self, crowd: &Crowd) -> Result<(), Box<dyn Error>> {
        for fact in crowd.facts()? {
            self.of(fact.kind).note(fact);
        }
        Ok(())
    }

    fn of(&mut self, kind: Kind) -> &mut Group {
        match kind {
            Kind::Mute => &mut self.mute,
            Kind::Slow => &mut self.slow,
            _ => &mut self.deaf,
        }
    }

    fn all(&self) -> [&Group; 3] {
        [&self.mute, &self.slow, &self.deaf]
    }

    /// Whether whoever was told to come stands, or was turned away.
    fn are_there(&self) -> bool {
        self.all().iter().all(|group| group.stood + group.turned_away >= group.meant)
    }

    fn are_gone(&self) -> bool {
        self.all().iter().all(|group| group.ended >= group.meant)
    }
}

/// Runs it; fails when a call came to harm, or a stalled one stays.
///
/// # Errors
/// What could not be started.
pub fn run(line: &StallLine) -> Result<ExitCode, Box<dyn Error>> {
    let (mut healthy, tls) = Healthy::start(&line.healthy)?;
    let crowd = Crowd::start(line.healthy.proxy.addr, &tls, line.healthy.crowd_source.clone())?;
    while healthy.passed_s() < line.before {
        healthy.turn()?;
    }
    healthy.end_phase("before");

    let mut groups = Groups { mute: Group::default(), slow: Group::default(), deaf: Group::default() };
    let began_s = healthy.passed_s();
    // One after the other, and the deaf a few at a time, for sealing what each of them asks takes the crowd a while.
    // The mute ones last: while they hold what there is for handshakes, nobody else gets in.
    let mut steps = vec![(Kind::Slow, line.slow)];
    let deaf = (0..line.deaf).step_by(DEAF_AT_ONCE as usize);
    steps.extend(deaf.map(|first| (Kind::Deaf(line.deaf_answers), DEAF_AT_ONCE.min(line.deaf - first))));
    steps.push((Kind::Mute, line.mute));
    for (kind, count) in steps {
        groups.of(kind).meant += count;
        crowd.open(kind, count);
        let from_s = healthy.passed_s();
        while !groups.are_there() && healthy.passed_s() - from_s < COMING_MAX_S {
            healthy.turn()?;
            groups.take(&crowd)?;
        }
    }
    healthy.end_phase("coming");
    while !groups.are_gone() && healthy.passed_s() - began_s < line.within {
        healthy.turn()?;
        groups.take(&crowd)?;
    }
    healthy.end_phase("stalled");
    let are_gone = groups.are_gone();
    let over_s = healthy.passed_s();
    while healthy.passed_s() - over_s < AFTER_S {
        healthy.turn()?;
    }
    healthy.end_phase("after");

    let metrics =
        healthy.grown(&["hawser_connections_closed", "hawser_limit_hits", "hawser_tls_handshake_failures"])?;
    let (mut report, is_clean) = healthy.finish()?;
    report["stalled"] =
        json!({"mute": groups.mute.report(), "slow": groups.slow.report(), "deaf": groups.deaf.report()});
    report["metrics"] = metrics;
    println!("{report}");
    Ok(if is_clean && are_gone { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
