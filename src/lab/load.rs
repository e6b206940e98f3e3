//! Load: the SIP Server and all phones in one process, calls at an open-loop rate, and what came of them.
//!
//! Owns: what is placed, the report, and what is read about the proxy from outside (its metrics, its processor time and
//! memory). Must not touch: SIP.

use crate::args::{HopsLine, PhonesArgs, ServerArgs, WatchLine};
use crate::bench::Bench;
use crate::certs::TlsFiles;
use crate::scenario::{self, Ended, Scenario};
use crate::server::Plan;
use crate::tally::Histogram;
use crate::watch::{self, Usage};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::time::Duration;

/// After the last call was placed.
const DRAIN_MAX: Duration = Duration::from_secs(12);
/// A call placed later than this after its time means that the generator could not keep up.
const BEHIND: Duration = Duration::from_millis(100);
const LINGER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    ToPhone,
    FromPhone,
    Both,
}

impl Direction {
    /// Whether a phone places the call of this number.
    pub fn is_from_phone(self, nth: u64) -> bool {
        match self {
            Self::ToPhone => false,
            Self::FromPhone => true,
            Self::Both => !nth.is_multiple_of(2),
        }
    }
}

#[derive(Args)]
pub struct LoadLine {
    #[command(flatten)]
    hops: HopsLine,
    /// Number of phones.
    #[arg(long, default_value_t = 100)]
    phones: u32,
    /// Phones that take part in calls, the first of all; the others are idle. 0 is all
    #[arg(long, default_value_t = 0)]
    called: u32,
    /// Calls each second, or registrations with --register-only.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, value_enum, default_value_t = Direction::ToPhone)]
    direction: Direction,
    /// From answer to BYE, milliseconds.
    #[arg(long, default_value_t = 0)]
    talk_ms: u64,
    /// Registrations started each second at the beginning.
    #[arg(long, default_value_t = 500.0)]
    register_rate: f64,
    /// Phones reconnect and register again at --rate; no calls.
    #[arg(long)]
    register_only: bool,
    /// Phones that lose their connection each second, abruptly and in turn, and come back; what that breaks is no
    /// fault, but every call must still come to an end and nothing may go astray.
    #[arg(long, default_value_t = 0.0)]
    churn: f64,
    /// How long such a phone stays away, milliseconds.
    #[arg(long, default_value_t = 0)]
    away_ms: u64,
    /// Idle seconds between registration and load, to measure memory.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Calls that were refused are no fault.
    #[arg(long)]
    allow_refused: bool,
    #[command(flatten)]
    watch: WatchLine,
    #[command(flatten)]
    phone: PhonesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    tls: TlsFiles,
}

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
struct Mark {
    proxy: Usage,
    own: Usage,
    metrics: Vec<(String, f64)>,
    registered: u64,
}

/// Runs the load; fails when anything was lost or went astray.
pub fn run(line: &LoadLine) -> Ended {
    let mut bench = scenario::bench(line.tls.load()?, LINGER)?;
    bench.add_server(&[line.hops.server_place()], line.server.policy(), line.server.habits())?;
    bench.add_phones(line.phone.config(line.hops.proxy, line.phones));

    let start = mark(&bench, line)?;
    let began_us = bench.stack.read_clock();
    let registered = scenario::register_all(&mut bench, line.register_rate)?;
    let register_s = (bench.stack.read_clock() - began_us) as f64 / 1e6;
    let mut report = json!({
        "phones": line.phones,
        "registered": registered,
        "register_s": register_s,
        "registrations_per_s": registered as f64 / register_s,
        "register_ms": bench.phones().1.register_times.summary(),
    });
    if registered < line.phones as usize {
        report["counts"] = json!(bench.stack.tally);
        println!("{report}");
        return Ok(scenario::status(false));
    }
    if line.hold > 0 {
        eprintln!("holding for {} s", line.hold);
        bench.turn_until(Duration::from_secs(line.hold), |_| false)?;
    }
    let before = mark(&bench, line)?;
    if !line.watch.watch_pid.is_empty() {
        let grown = before.proxy.resident.saturating_sub(start.proxy.resident);
        report["proxy_bytes_per_phone"] = json!(grown / u64::from(line.phones.max(1)));
        report["proxy_resident_bytes"] = json!(before.proxy.resident);
        report["proxy_us_per_registration"] = json!(before.proxy.since(&start.proxy, registered as u64));
    }
    let behind = if line.register_only {
        bench.phones().1.register_times = Histogram::default();
        scenario::play(&mut Registrations { bench: &mut bench, line }, line.rate, line.seconds, DRAIN_MAX)?
    } else {
        scenario::play(&mut Calls { bench: &mut bench, line, churned: 0 }, line.rate, line.seconds, DRAIN_MAX)?
    };
    let after = mark(&bench, line)?;
    let is_clean = finish(&mut bench, line, &mut report, &before, &after, &behind);
    println!("{report}");
    Ok(scenario::status(is_clean))
}

fn mark(bench: &Bench, line: &LoadLine) -> Ended<Mark> {
    Ok(Mark {
        proxy: watch::usage(&line.watch.watch_pid),
        own: watch::usage(&[std::process::id()]),
        metrics: line.watch.samples()?,
        registered: bench.stack.tally.registered,
    })
}

/// Calls in one direction or both, and phones that lose their connection meanwhile.
struct Calls<'a> {
    bench: &'a mut Bench,
    line: &'a LoadLine,
    churned: u64,
}

impl Scenario for Calls<'_> {
    fn bench(&mut self) -> &mut Bench {
        self.bench
    }

    fn disturb(&mut self, passed_s: f64) -> Ended<()> {
        let line = self.line;
        let due = (passed_s.min(line.seconds as f64) * line.churn) as u64;
        for nth in self.churned..due {
            let phone = (nth % u64::from(line.phones)) as u32;
            let (stack, phones) = self.bench.phones();
            phones.drop_connection(stack, phone, true);
            phones.start_in(stack, phone, Duration::from_millis(line.away_ms));
        }
        self.churned = due;
        Ok(())
    }

    fn place(&mut self, nth: u64) {
        let line = self.line;
        let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: false };
        let called = if line.called == 0 { line.phones } else { line.called.min(line.phones) };
        let phone = scenario::phone_of(nth, called);
        if line.direction.is_from_phone(nth) {
            self.bench.call_from(phone, &format!("sip:answer@{}", line.phone.domain), plan);
        } else {
            self.bench.call_phone(phone, plan);
        }
    }

    fn progress(&mut self, passed_s: u64) {
        let tally = &self.bench.stack.tally;
        eprintln!(
            "{passed_s:4} s  placed {}  answered {}  ended {}  failed {}  lost {}  p50 {:.1} ms  p99 {:.1} ms  resent {}",
            tally.calls_placed,
            tally.calls_answered,
            tally.calls_ended,
            tally.failed(),
            tally.calls_lost,
            tally.setup.percentile_ms(0.5),
            tally.setup.percentile_ms(0.99),
            tally.requests_resent,
        );
    }

    fn is_over(&mut self) -> bool {
        still_open(self.bench, self.line) == 0
    }
}

/// Calls that have not ended. A side that was called and has lost its connection learns of the end late or not at
/// all, so that with churn only the callers' sides count.
fn still_open(bench: &mut Bench, line: &LoadLine) -> usize {
    if line.churn > 0.0 {
        return bench.server().1.placed_open() + bench.phones().1.placed_open();
    }
    bench.calls_open()
}

/// Phones that come back over a new connection, in turn.
struct Registrations<'a> {
    bench: &'a mut Bench,
    line: &'a LoadLine,
}

impl Scenario for Registrations<'_> {
    fn bench(&mut self) -> &mut Bench {
        self.bench
    }

    fn place(&mut self, nth: u64) {
        let phone = (nth % u64::from(self.line.phones)) as u32;
        let (stack, phones) = self.bench.phones();
        // One that is still on its way is left alone; its turn counts as one that came late.
        if phones.is_registered(phone) {
            phones.drop_connection(stack, phone, false);
            phones.start(stack, phone);
        }
    }

    fn progress(&mut self, passed_s: u64) {
        let tally = &self.bench.stack.tally;
        let failed: u64 = tally.register_failures.values().sum();
        eprintln!("{passed_s:4} s  registered {}  failed {failed}", tally.registered);
    }

    fn is_over(&mut self) -> bool {
        self.bench.phones().1.registered_count() == self.line.phones as usize
    }
}

fn finish(
    bench: &mut Bench,
    line: &LoadLine,
    report: &mut Value,
    before: &Mark,
    after: &Mark,
    behind: &Histogram,
) -> bool {
    let stuck = still_open(bench, line);
    let all_registered = bench.phones().1.registered_count() == line.phones as usize;
    report["reregister_ms"] = if line.register_only { bench.phones().1.register_times.summary() } else { Value::Null };
    let tally = &bench.stack.tally;
    let (failed, lost) = (tally.failed(), tally.lost());
    let work = if line.register_only { tally.registered - before.registered } else { tally.calls_placed };
    report["rate"] = json!(line.rate);
    report["seconds"] = json!(line.seconds);
    report["internal"] = json!(line.hops.internal.param());
    report["setup_ms"] = tally.setup.summary();
    report["behind_ms"] = behind.summary();
    report["generator_fell_behind"] = json!(behind.percentile_ms(0.99) > BEHIND.as_secs_f64() * 1e3);
    report["calls"] = tally.calls(stuck);
    report["wrong_connection"] = json!(tally.wrong_connection);
    report["wrong_phone"] = json!(tally.wrong_phone);
    report["retransmissions"] = json!(tally.requests_resent + tally.responses_resent + tally.retransmissions_in);
    report["lab_us_per_unit"] = json!(after.own.since(&before.own, work));
    if !line.watch.watch_pid.is_empty() {
        report["proxy_us_per_unit"] = json!(after.proxy.since(&before.proxy, work));
        report["proxy_resident_after_bytes"] = json!(after.proxy.resident);
    }
    if line.watch.metrics.is_some() {
        report["passed_between_cores"] = json!(watch::grown(&before.metrics, &after.metrics, "hawser_placed_total"));
        report["across_cores"] = json!(watch::grown(&before.metrics, &after.metrics, "flow=\"across\""));
        report["same_core"] = json!(watch::grown(&before.metrics, &after.metrics, "flow=\"local\""));
    }
    report["counts"] = json!(tally);
    let is_whole = tally.calls_ended + failed + tally.calls_lost >= tally.calls_placed && stuck == 0;
    lost == 0
        && tally.astray() == 0
        && is_whole
        && (all_registered || line.churn > 0.0)
        && tally.path_shown_to_phone == 0
        && tally.malformed_in == 0
        && (line.churn > 0.0 || (tally.unmatched_requests == 0 && (failed == 0 || line.allow_refused)))
}
