//! Healthy calls beside something unhealthy: registered phones that are called at an even rate for as long as a
//! scenario lasts, and what each of its phases cost.
//!
//! Owns: the schedule of calls, and the marks between phases. Must not touch: what is unhealthy.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::TlsFiles;
use crate::load;
use crate::net::{TlsSettings, Transport};
use crate::registrar::Policy;
use crate::server::{Habits, Plan};
use crate::stack::Timers;
use crate::tally::Histogram;
use crate::watch::{self, Usage};
use clap::Args;
use serde_json::{Value, json};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const DRAIN_MAX: Duration = Duration::from_secs(12);
const PLACED_PER_TURN_MAX: usize = 32;
const WAIT_MAX_US: u64 = 5_000;
const LINGER: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct HealthyLine {
    /// Where the proxy listens for phones, such as tls:127.0.0.1:5061.
    #[arg(long)]
    pub proxy: Place,
    /// Transport between the proxy and this SIP Server.
    #[arg(long, default_value = "udp")]
    internal: Transport,
    /// Where this SIP Server listens.
    #[arg(long, default_value = "127.0.0.1:7000")]
    server_listen: SocketAddr,
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
    /// The proxy's metrics, such as http://127.0.0.1:8080/metrics.
    #[arg(long)]
    pub metrics: Option<String>,
    /// Processes of the proxy, whose processor time and memory go into the report.
    #[arg(long, value_delimiter = ',')]
    watch_pid: Vec<u32>,
    /// Addresses that the bare TLS clients come from; 127.0.1.1 to 127.0.1.32 for a proxy on loopback, else the system's choice.
    #[arg(long, value_delimiter = ',')]
    pub client_source: Vec<IpAddr>,
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

/// Phones and their calls.
pub struct Healthy<'a> {
    line: &'a HealthyLine,
    pub bench: Bench,
    began_us: u64,
    placed: u64,
    /// The schedule counts from here: when, and how many had been placed.
    from: (u64, u64),
    is_paused: bool,
    behind: Histogram,
    phase: Mark,
    phases: Vec<Value>,
    metrics: Vec<(String, f64)>,
}

impl<'a> Healthy<'a> {
    /// Registers all phones.
    ///
    /// # Errors
    /// Not all of them got registered.
    pub fn start(line: &'a HealthyLine) -> Result<(Self, TlsSettings), Box<dyn Error>> {
        let timers = Timers { linger_us: LINGER.as_micros() as u64, ..Timers::default() };
        let tls = line.tls.load()?;
        let mut bench = Bench::new(tls.clone(), timers)?;
        let listen = Place { transport: line.internal, addr: line.server_listen };
        bench.add_server(&[listen], Policy::default(), Habits::default())?;
        bench.add_phones(line.phone.config(line.proxy, line.phones));
        let registered = load::register_all(&mut bench, line.register_rate)?;
        if registered < line.phones as usize {
            return Err(format!("only {registered} of {} phones are registered", line.phones).into());
        }
        let metrics = line.metrics.as_deref().map_or(Ok(Vec::new()), watch::metrics)?;
        let began_us = bench.stack.read_clock();
        let phase = Mark { at_us: began_us, ended: 0, busy_us: watch::busy_us(&line.watch_pid) };
        let healthy = Self {
            line,
            bench,
            began_us,
            placed: 0,
            from: (began_us, 0),
            is_paused: false,
            behind: Histogram::default(),
            phase,
            phases: Vec::new(),
            metrics,
        };
        Ok((healthy, tls))
    }

    /// Seconds since the first call.
    pub fn passed_s(&self) -> f64 {
        (self.bench.stack.now_us.max(self.began_us) - self.began_us) as f64 / 1e6
    }

    /// Places no more calls until told otherwise.
    pub fn pause(&mut self, is_paused: bool) {
        self.from = (self.bench.stack.read_clock(), self.placed);
        self.is_paused = is_paused;
    }

    /// Places what is due, and lets the network have its turn.
    ///
    /// # Errors
    /// The poll itself failed.
    pub fn turn(&mut self) -> Result<(), Box<dyn Error>> {
        if self.is_paused {
            return Ok(self.bench.turn(Duration::from_micros(WAIT_MAX_US))?);
        }
        let (from_us, first) = self.from;
        let due_of = |nth: u64| from_us + ((nth - first) as f64 * 1e6 / self.line.rate) as u64;
        let mut now_us = self.bench.stack.read_clock();
        let mut in_turn = 0;
        while due_of(self.placed) <= now_us && in_turn < PLACED_PER_TURN_MAX {
            self.behind.record(now_us - due_of(self.placed));
            let plan = Plan { talk: Some(Duration::from_millis(self.line.talk_ms)), is_watched: false };
            let phone = (self.placed.wrapping_mul(7_919) % u64::from(self.line.phones)) as u32;
            let aor = self.bench.phones().1.aor(phone);
            let (stack, server) = self.bench.server();
            server.place_call(stack, &aor, plan);
            self.placed += 1;
            in_turn += 1;
            now_us = self.bench.stack.read_clock();
        }
        let wait_us = due_of(self.placed).saturating_sub(now_us).min(WAIT_MAX_US);
        Ok(self.bench.turn(Duration::from_micros(wait_us))?)
    }

    /// Ends a phase: what its calls took and cost is set down under this name.
    pub fn end_phase(&mut self, name: &str) -> Phase {
        let now = self.mark();
        let tally = &mut self.bench.stack.tally;
        let setup = std::mem::take(&mut tally.setup);
        let ended = now.ended - self.phase.ended;
        let seconds = (now.at_us - self.phase.at_us) as f64 / 1e6;
        let busy_us = now.busy_us.saturating_sub(self.phase.busy_us);
        let usage: Usage = watch::usage(&self.line.watch_pid);
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
        let busy_us = watch::busy_us(&self.line.watch_pid);
        Mark { at_us: self.bench.stack.now_us, ended: self.bench.stack.tally.calls_ended, busy_us }
    }

    /// By how much all samples of the proxy whose name holds `part` have grown since the first call.
    ///
    /// # Errors
    /// Its HTTP port does not answer.
    pub fn grown(&self, parts: &[&str]) -> Result<Value, Box<dyn Error>> {
        let Some(url) = &self.line.metrics else { return Ok(Value::Null) };
        let now = watch::metrics(url)?;
        let mut grown = serde_json::Map::new();
        for (name, value) in now.iter().filter(|(name, _)| parts.iter().any(|part| name.contains(part))) {
            let before = self.metrics.iter().find(|(other, _)| other == name).map_or(0.0, |(_, value)| *value);
            if *value > before {
                grown.insert(name.clone(), json!(value - before));
            }
        }
        Ok(Value::Object(grown))
    }

    /// Waits for the last call to end; says what became of all, and whether that is as it should be.
    ///
    /// # Errors
    /// The poll itself failed.
    pub fn finish(mut self) -> Result<(Value, bool), Box<dyn Error>> {
        let is_over = |bench: &mut Bench| bench.server().1.calls_open() == 0 && bench.phones().1.calls_open() == 0;
        self.bench.turn_until(DRAIN_MAX, is_over)?;
        let stuck = self.bench.server().1.calls_open() + self.bench.phones().1.calls_open();
        let registered = self.bench.phones().1.registered_count();
        let tally = &self.bench.stack.tally;
        let failed: u64 = tally.calls_failed.values().sum();
        let lost = tally.calls_lost + tally.byes_lost;
        let report = json!({
            "phases": self.phases,
            "calls": {
                "placed": tally.calls_placed, "answered": tally.calls_answered, "ended": tally.calls_ended,
                "failed": failed, "failed_by": tally.calls_failed, "lost": lost, "still_open": stuck,
            },
            "phones": self.line.phones,
            "registered_at_the_end": registered,
            "connections_closed": tally.connections_closed,
            "behind_ms": self.behind.summary(),
        });
        let is_clean = failed + lost == 0 && stuck == 0 && registered == self.line.phones as usize;
        Ok((report, is_clean))
    }
}
