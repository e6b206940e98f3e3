//! Healthy calls beside something unhealthy: registered phones that are called at an even rate for as long as a
//! scenario lasts, and what each of its phases cost.
//!
//! Owns: the schedule of calls, and the marks between phases. Must not touch: what is unhealthy.

use crate::args::{HopsLine, PhonesArgs, WatchLine};
use crate::bare_clients::{BareClients, Fact};
use crate::bench::Bench;
use crate::certs::TlsFiles;
use crate::registrar::Policy;
use crate::scenario::{self, Ended, Schedule};
use crate::server::{Habits, Plan};
use crate::watch::{self, Usage};
use clap::Args;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

const DRAIN_MAX: Duration = Duration::from_secs(12);
const WAIT_MAX_US: u64 = 5_000;
const LINGER: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct HealthyLine {
    #[command(flatten)]
    hops: HopsLine,
    /// Number of phones.
    #[arg(long, default_value_t = 500)]
    phones: u32,
    /// Calls each second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// From answer to BYE, milliseconds.
    #[arg(long, default_value_t = 500)]
    talk_ms: u64,
    /// Registrations started each second at the beginning.
    #[arg(long, default_value_t = 500.0)]
    register_rate: f64,
    #[command(flatten)]
    watch: WatchLine,
    /// Addresses that the bare TLS clients come from; 127.0.1.1 to 127.0.1.32 for a proxy on loopback, else the system's choice.
    #[arg(long, value_delimiter = ',')]
    client_source: Vec<IpAddr>,
    #[command(flatten)]
    phone: PhonesArgs,
    #[command(flatten)]
    tls: TlsFiles,
}

/// What was counted when a phase began.
struct Mark {
    at_us: u64,
    ended: u64,
    busy_us: u64,
}

/// What the calls of a phase cost.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub seconds: f64,
    pub calls: u64,
    /// Processor time of the proxy, for whatever it did.
    pub busy_us: u64,
}

/// Phones and their calls, and beside them the bare clients that are about to be unhealthy.
pub struct Healthy<'a> {
    line: &'a HealthyLine,
    pub bench: Bench,
    pub clients: BareClients,
    began_us: u64,
    schedule: Schedule,
    is_paused: bool,
    phase: Mark,
    phases: Vec<Value>,
    metrics: Vec<(String, f64)>,
}

impl<'a> Healthy<'a> {
    /// Registers all phones.
    pub fn start(line: &'a HealthyLine) -> Ended<Self> {
        let tls = line.tls.load()?;
        let mut bench = scenario::bench(tls.clone(), LINGER)?;
        bench.add_server(&[line.hops.server_place()], Policy::default(), Habits::default())?;
        bench.add_phones(line.phone.config(line.hops.proxy, line.phones));
        scenario::register(&mut bench, line.register_rate)?;
        let metrics = line.watch.samples()?;
        let clients = BareClients::start(line.hops.proxy.addr, &tls, line.client_source.clone())?;
        let began_us = bench.stack.read_clock();
        let phase = Mark { at_us: began_us, ended: 0, busy_us: watch::busy_us(&line.watch.watch_pid) };
        let schedule = Schedule::new(began_us, line.rate, u64::MAX);
        Ok(Self { line, bench, clients, began_us, schedule, is_paused: false, phase, phases: Vec::new(), metrics })
    }

    /// Seconds since the first call.
    pub fn passed_s(&self) -> f64 {
        (self.bench.stack.now_us.max(self.began_us) - self.began_us) as f64 / 1e6
    }

    /// Places no more calls until told otherwise.
    pub fn pause(&mut self, is_paused: bool) {
        self.schedule.resume(self.bench.stack.read_clock());
        self.is_paused = is_paused;
    }

    /// Places what is due, and lets the network have its turn.
    pub fn turn(&mut self) -> Ended<()> {
        let Self { line, bench, schedule, .. } = self;
        let mut wait_us = WAIT_MAX_US;
        if !self.is_paused {
            let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: false };
            let clock = |bench: &mut Bench| bench.stack.read_clock();
            schedule.place_due(bench, clock, |bench, nth| {
                bench.call_phone(scenario::phone_of(nth, line.phones), plan);
            });
            wait_us = schedule.wait_us(clock(bench)).min(WAIT_MAX_US);
        }
        Ok(bench.turn(Duration::from_micros(wait_us))?)
    }

    /// Goes on for so many seconds, or until `is_done`, which gets the seconds that have passed of them and what has
    /// become of the bare clients.
    pub fn go_on(&mut self, seconds: f64, mut is_done: impl FnMut(f64, Vec<Fact>) -> bool) -> Ended<()> {
        let from_s = self.passed_s();
        while self.passed_s() - from_s < seconds {
            self.turn()?;
            if is_done(self.passed_s() - from_s, self.clients.facts()?) {
                break;
            }
        }
        Ok(())
    }

    /// Ends a phase: what its calls took and cost is set down under this name.
    pub fn end_phase(&mut self, name: &str) -> Phase {
        let now = self.mark();
        let tally = &mut self.bench.stack.tally;
        let setup = std::mem::take(&mut tally.setup);
        let ended = now.ended - self.phase.ended;
        let seconds = (now.at_us - self.phase.at_us) as f64 / 1e6;
        let busy_us = now.busy_us.saturating_sub(self.phase.busy_us);
        let usage: Usage = watch::usage(&self.line.watch.watch_pid);
        let each = (ended > 0).then(|| busy_us as f64 / ended as f64);
        eprintln!(
            "{name}: {seconds:.1} s, {ended} calls, p99 {:.1} ms, {:.0} us each, {} MiB",
            setup.percentile_ms(0.99),
            each.unwrap_or(0.0),
            usage.resident >> 20
        );
        self.phases.push(json!({
            "phase": name,
            "seconds": seconds,
            "calls_ended": ended,
            "setup_ms": setup.summary(),
            "proxy_us_per_call": each,
            "proxy_busy_share": busy_us as f64 / 1e6 / seconds,
            "proxy_resident_bytes": usage.resident,
        }));
        self.phase = now;
        Phase { seconds, calls: ended, busy_us }
    }

    fn mark(&self) -> Mark {
        let busy_us = watch::busy_us(&self.line.watch.watch_pid);
        Mark { at_us: self.bench.stack.now_us, ended: self.bench.stack.tally.calls_ended, busy_us }
    }

    /// By how much all samples of the proxy whose name holds one of `parts` have grown since the first call.
    fn grown(&self, parts: &[&str]) -> Ended<Value> {
        if self.line.watch.metrics.is_none() {
            return Ok(Value::Null);
        }
        let mut grown = serde_json::Map::new();
        let now = self.line.watch.samples()?;
        for (name, value) in now.iter().filter(|(name, _)| parts.iter().any(|part| name.contains(part))) {
            let before = self.metrics.iter().find(|(other, _)| other == name).map_or(0.0, |(_, value)| *value);
            if *value > before {
                grown.insert(name.clone(), json!(value - before));
            }
        }
        Ok(Value::Object(grown))
    }

    /// Waits for the last call to end, and prints what became of all, beside what is the scenario's own and what the
    /// proxy has counted of `metrics`; fails when a call came to harm, or unless the scenario's own expectations hold.
    pub fn report<const N: usize>(mut self, own: [(&str, Value); N], metrics: &[&str], holds: bool) -> Ended {
        let metrics = self.grown(metrics)?;
        self.bench.turn_until(DRAIN_MAX, |bench| bench.calls_open() == 0)?;
        let stuck = self.bench.calls_open();
        let registered = self.bench.phones().1.registered_count();
        let tally = &self.bench.stack.tally;
        let mut report = json!({
            "phases": self.phases,
            "calls": tally.calls(stuck),
            "phones": self.line.phones,
            "registered_at_the_end": registered,
            "connections_closed": tally.connections_closed,
            "behind_ms": self.schedule.behind.summary(),
            "metrics": metrics,
        });
        for (name, value) in own {
            report[name] = value;
        }
        println!("{report}");
        let is_clean = tally.failed() + tally.lost() == 0 && stuck == 0 && registered == self.line.phones as usize;
        Ok(scenario::status(is_clean && holds))
    }
}
