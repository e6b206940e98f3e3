//! Overload: callers that honour nothing place calls at a rate that the proxy cannot take, over UDP, and what came of them.
//!
//! Owns: the phases and their order in time, the SIP Server, the reports. Must not touch: what is said in a call
//! (`callers`, `texts`), and sockets (`wire`). The other commands play whole user agents, which on one core are slower
//! than the proxy; here a call is a few bytes of state, and a message is a text made before.
//!
//! A call is INVITE, 200, ACK, BYE and 200. It counts for the phase in which it was placed, whenever its answer comes;
//! phases follow each other without a pause, for what is asked is how soon calls are well again after an overload.

mod answer;
mod callers;
mod ramp;
mod resends;
mod texts;
mod wire;

use crate::scenario::{self, Ended, Schedule};
use crate::watch::{self, Usage};
use callers::{Callers, Outcome};
use clap::Args;
use ramp::Ramp;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use texts::Outbox;
use wire::Wire;

/// The longest that the SIP Server waits for the proxy's first check of it.
const CHECK_MAX: Duration = Duration::from_secs(30);
/// From that on until calls begin.
const AFTER_CHECK: Duration = Duration::from_millis(500);
/// Between two rates of a ramp.
const PAUSE: Duration = Duration::from_secs(1);
const WAIT_MAX_US: u64 = 5_000;
const PLACED_PER_TURN_MAX: usize = 64;
/// Batches from one socket before the others have their turn.
const BATCHES_PER_TURN_MAX: usize = 4;
/// Less of what was asked for means that the generator could not keep up, and so does a call placed so late.
const OFFERED_SHARE_MIN: f64 = 0.99;
const BEHIND_MAX_MS: f64 = 20.0;
/// What a rate of a ramp has to hold.
const ACCEPTED_SHARE_MIN: f64 = 0.99;
const ACCEPTED_P99_MAX_MS: f64 = 100.0;

/// A rate for some time.
#[derive(Clone, Debug, PartialEq)]
struct Phase {
    name: String,
    rate: f64,
    seconds: f64,
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text}: expected NAME=RATE:SECONDS");
        let (name, rest) = text.split_once('=').ok_or_else(expected)?;
        let (rate, seconds) = rest.split_once(':').ok_or_else(expected)?;
        let number = |text: &str| text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(expected);
        Ok(Self { name: name.to_owned(), rate: number(rate)?, seconds: number(seconds)? })
    }
}

#[derive(Args)]
pub struct OverloadLine {
    /// Where the proxy listens over UDP.
    #[arg(long)]
    proxy: SocketAddr,
    /// Where the SIP Server listens.
    #[arg(long, default_value = "127.0.0.1:7000")]
    server: SocketAddr,
    #[arg(long, default_value = "example.com")]
    domain: String,
    /// Calls each second.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Instead of --rate and --seconds: phases without a pause between them, each with a report of its own, such as
    /// before=1000:10; may be repeated.
    #[arg(long, value_name = "NAME=RATE:SECONDS")]
    phase: Vec<Phase>,
    /// Instead: rising rates from --rate on, of --seconds each, until less than 99 % of calls are answered by 2xx or the
    /// 99th percentile is over 100 ms; then closer.
    #[arg(long, conflicts_with = "phase")]
    ramp: bool,
    /// Callers, each at an address of its own from 127.1.0.1 on.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(1..=250))]
    callers: u8,
    /// Processes of the proxy, whose processor time and memory go into the reports.
    #[arg(long, value_delimiter = ',')]
    watch_pid: Vec<u32>,
}

/// What is measured about a phase besides its calls.
struct Measured {
    phase: Phase,
    schedule: Schedule,
    before: Mark,
    after: Mark,
    /// The most that the proxy had resident in any second.
    resident_max: u64,
}

struct Mark {
    usage: Usage,
    dropped_here: u64,
    dropped_by_proxy: u64,
}

/// Runs the phases or the ramp, and prints a line of JSON for each. That calls are refused or lost is no failure: it is what
/// is measured.
///
/// # Errors
/// What could not be started; the proxy never checks the SIP Server.
pub fn run(line: &OverloadLine) -> Ended {
    let mut play = Play::new(line)?;
    play.await_check()?;
    if line.ramp {
        return play.ramp();
    }
    let one = || vec![Phase { name: "load".to_owned(), rate: line.rate, seconds: line.seconds }];
    let phases = if line.phase.is_empty() { one() } else { line.phase.clone() };
    play.phases(&phases)?;
    Ok(scenario::status(true))
}

struct Play<'a> {
    line: &'a OverloadLine,
    began: Instant,
    wire: Wire,
    outbox: Outbox,
    callers: Callers,
    /// The number of the SIP Server's socket: the last, behind those of the callers.
    server: usize,
    checks: u64,
}

impl<'a> Play<'a> {
    fn new(line: &'a OverloadLine) -> Ended<Self> {
        let mut wire = Wire::new()?;
        for nth in 1..=line.callers {
            wire.open(SocketAddr::from((Ipv4Addr::new(127, 1, 0, nth), 0)), line.proxy)?;
        }
        let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u32;
        let callers = Callers::new(&wire.addrs(), &line.domain, run);
        wire.open(line.server, line.proxy)?;
        let server = usize::from(line.callers);
        Ok(Self { line, began: Instant::now(), wire, outbox: Outbox::default(), callers, server, checks: 0 })
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Waits until the proxy has seen that the SIP Server is there.
    fn await_check(&mut self) -> Ended<()> {
        while self.checks == 0 {
            self.turn(WAIT_MAX_US)?;
            if self.began.elapsed() > CHECK_MAX {
                return Err("the proxy has not sent an OPTIONS to the SIP Server within 30 s".into());
            }
        }
        self.idle(AFTER_CHECK)
    }

    fn idle(&mut self, time: Duration) -> Ended<()> {
        let until_us = self.now_us() + time.as_micros() as u64;
        while self.now_us() < until_us {
            self.turn(WAIT_MAX_US)?;
        }
        Ok(())
    }

    /// Runs phases one after the other, waits until each call has its answer or is lost, and prints what came of each.
    fn phases(&mut self, phases: &[Phase]) -> Ended<Vec<Value>> {
        let first = self.callers.outcomes.len();
        let mut measured = Vec::new();
        for phase in phases {
            measured.push(self.phase(phase)?);
        }
        while !self.callers.is_idle() {
            self.turn(WAIT_MAX_US)?;
        }
        let outcomes = self.callers.outcomes[first..].iter();
        let reports: Vec<_> = measured.iter().zip(outcomes).map(|(phase, outcome)| phase.report(outcome)).collect();
        for report in &reports {
            println!("{report}");
        }
        Ok(reports)
    }

    fn phase(&mut self, phase: &Phase) -> Ended<Measured> {
        self.callers.begin_phase();
        let began_us = self.now_us();
        let until_us = began_us + (phase.seconds * 1e6) as u64;
        let mut schedule = Schedule::new(began_us, phase.rate, (phase.rate * phase.seconds).round() as u64);
        let before = self.mark();
        let (mut told_s, mut resident_max) = (0, before.usage.resident);
        loop {
            let now_us = self.now_us();
            if now_us >= until_us {
                break;
            }
            for _ in 0..PLACED_PER_TURN_MAX {
                if schedule.take(now_us).is_none() {
                    break;
                }
                self.callers.place(now_us, &mut self.outbox);
            }
            let wait_us = schedule.wait_us(now_us).min(until_us - now_us).min(WAIT_MAX_US);
            self.turn(wait_us)?;
            if scenario::tick(&mut told_s, now_us - began_us).is_some() {
                resident_max = resident_max.max(watch::usage(&self.line.watch_pid).resident);
            }
        }
        Ok(Measured { phase: phase.clone(), schedule, before, after: self.mark(), resident_max })
    }

    fn mark(&self) -> Mark {
        Mark {
            usage: watch::usage(&self.line.watch_pid),
            dropped_here: wire::dropped(&self.wire.addrs()) + self.wire.unsent,
            dropped_by_proxy: wire::dropped(&[self.line.proxy]),
        }
    }

    /// Sends what waits, and takes in what comes within so many microseconds.
    fn turn(&mut self, wait_us: u64) -> Ended<()> {
        self.callers.send_due(self.now_us(), &mut self.outbox);
        self.wire.send(&mut self.outbox);
        // The system waits for whole milliseconds: a shorter time is spent awake.
        self.wire.wait(Duration::from_millis(wait_us / 1_000))?;
        let mut next = 0;
        while let Some(socket) = self.wire.ready(next) {
            next = socket + 1;
            for _ in 0..BATCHES_PER_TURN_MAX {
                self.take_batch(socket);
                if self.wire.ready(socket) != Some(socket) {
                    break;
                }
            }
        }
        self.wire.send(&mut self.outbox);
        Ok(())
    }

    fn take_batch(&mut self, socket: usize) {
        let now_us = self.now_us();
        for message in self.wire.receive(socket) {
            if socket != self.server {
                self.callers.take(message, now_us, &mut self.outbox);
                continue;
            }
            self.checks += u64::from(message.starts_with(b"OPTIONS "));
            if answer::status(message).is_none() && !message.starts_with(b"ACK ") {
                self.outbox.push(socket, |out| texts::write_ok(message, self.line.server, out));
            }
        }
    }

    /// Looks for the rate that holds.
    fn ramp(&mut self) -> Ended {
        let mut ramp = Ramp::new();
        while let Some(rate) = ramp.next(self.line.rate) {
            let phase = Phase { name: "ramp".to_owned(), rate, seconds: self.line.seconds };
            let report = self.phases(&[phase])?.remove(0);
            if report["generator_fell_behind"] == json!(true) {
                eprintln!("hawser-lab overload: this generator cannot place {rate:.0} calls each second");
            }
            ramp.tried(rate, holds(&report));
            self.idle(PAUSE)?;
        }
        println!("{}", json!({ "capacity": ramp.held().round() }));
        Ok(scenario::status(ramp.held() > 0.0))
    }
}

/// Whether the proxy took the rate of this report.
fn holds(report: &Value) -> bool {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::MAX);
    number(&report["accepted"]) >= ACCEPTED_SHARE_MIN * number(&report["asked"])
        && number(&report["accepted_ms"]["p99"]) <= ACCEPTED_P99_MAX_MS
}

impl Measured {
    fn report(&self, outcome: &Outcome) -> Value {
        let (behind, phase) = (self.schedule.behind.percentile_ms(0.99), &self.phase);
        let asked = (phase.rate * phase.seconds).round();
        let accepted = outcome.accepted.summary();
        let goodput = accepted["count"].as_f64().unwrap_or(0.0) / phase.seconds;
        let refused: u64 = outcome.refused_by.values().sum();
        let cost = self.after.usage.since(&self.before.usage, 1);
        json!({
            "phase": phase.name,
            "rate": phase.rate,
            "seconds": phase.seconds,
            "asked": asked,
            "offered": outcome.offered,
            "offered_per_s": outcome.offered as f64 / phase.seconds,
            "generator_fell_behind": (outcome.offered as f64) < asked * OFFERED_SHARE_MIN || behind > BEHIND_MAX_MS,
            "behind_p99_ms": behind,
            "accepted": accepted["count"],
            "goodput_per_s": goodput,
            "refused": refused,
            "refused_by": outcome.refused_by,
            "lost": outcome.lost,
            "accepted_ms": accepted,
            "refused_ms": outcome.refused.summary(),
            "resent": outcome.resent,
            "byes_failed": outcome.byes_failed,
            "dropped_here": self.after.dropped_here - self.before.dropped_here,
            "dropped_by_proxy": self.after.dropped_by_proxy.saturating_sub(self.before.dropped_by_proxy),
            "proxy_user_percent": cost.user / phase.seconds / 1e4,
            "proxy_system_percent": cost.system / phase.seconds / 1e4,
            "proxy_resident": self.after.usage.resident,
            "proxy_resident_max": self.resident_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_read_or_refused() {
        let phase = Phase { name: "twice".to_owned(), rate: 2e4, seconds: 1.5 };
        assert_eq!("twice=20000:1.5".parse(), Ok(phase));
        for text in ["20000:1", "a=1", "a=0:1", "a=1:-1", "a=1:inf", "a=x:1"] {
            assert_eq!(text.parse::<Phase>(), Err(format!("{text}: expected NAME=RATE:SECONDS")));
        }
    }

    #[test]
    fn a_rate_holds_when_nearly_all_are_answered_soon() {
        let report =
            |accepted: u64, p99: f64| json!({ "asked": 1_000, "accepted": accepted, "accepted_ms": { "p99": p99 } });
        assert!(holds(&report(990, 100.0)));
        assert!(!holds(&report(989, 1.0)));
        assert!(!holds(&report(1_000, 100.1)));
    }
}
