//! Load: the SIP Server and all phones in one process, calls at an open-loop rate, and what came of them.
//!
//! Owns: the schedule (absolute; how late each call was placed is reported on its own), the report, and what is read
//! about the proxy from outside (its metrics, its processor time and memory). Must not touch: SIP.

use crate::args::{HabitsLine, PhonesArgs, PolicyLine};
use crate::bench::{Bench, Place};
use crate::certs::TlsFiles;
use crate::net::Transport;
use crate::server::Plan;
use crate::stack::Timers;
use crate::tally::Histogram;
use crate::watch::{self, Usage};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Without one more registration for so long the set-up is given up.
const REGISTER_STALL: Duration = Duration::from_secs(20);
/// After the last call was placed.
const DRAIN_MAX: Duration = Duration::from_secs(12);
/// Calls placed before the network gets its turn.
const PLACED_PER_TURN_MAX: usize = 32;
/// A call placed later than this after its time means that the generator could not keep up.
const BEHIND: Duration = Duration::from_millis(100);
/// Finished transactions absorb late messages for less long than the RFC says, to bound memory at high rates.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    ToPhone,
    FromPhone,
    Both,
}

#[derive(Args)]
pub struct LoadLine {
    /// Where the proxy listens for phones, such as tls:127.0.0.1:5061.
    #[arg(long)]
    proxy: Place,
    /// Transport between the proxy and this SIP Server.
    #[arg(long, default_value = "udp")]
    internal: Transport,
    /// Where this SIP Server listens.
    #[arg(long, default_value = "127.0.0.1:7000")]
    server_listen: SocketAddr,
    /// Number of phones.
    #[arg(long, default_value_t = 100)]
    phones: u32,
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
    /// The proxy's metrics, read before and after, such as http://127.0.0.1:8080/metrics.
    #[arg(long)]
    metrics: Option<String>,
    /// Processes of the proxy, whose processor time and memory go into the report.
    #[arg(long, value_delimiter = ',')]
    watch_pid: Vec<u32>,
    #[command(flatten)]
    phone: PhonesArgs,
    #[command(flatten)]
    policy: PolicyLine,
    #[command(flatten)]
    habits: HabitsLine,
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
pub fn run(line: &LoadLine) -> Result<ExitCode, Box<dyn Error>> {
    let timers = Timers { linger_us: LINGER.as_micros() as u64, ..Timers::default() };
    let mut bench = Bench::new(line.tls.load()?, timers)?;
    let listen = Place { transport: line.internal, addr: line.server_listen };
    bench.add_server(&[listen], line.policy.policy(), line.habits.habits())?;
    bench.add_phones(line.phone.config(line.proxy, line.phones));

    let start = mark(&bench, line)?;
    let began_us = bench.stack.read_clock();
    let registered = register_all(&mut bench, line.register_rate)?;
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
        return Ok(ExitCode::FAILURE);
    }
    hold(&mut bench, line.hold)?;
    let before = mark(&bench, line)?;
    if !line.watch_pid.is_empty() {
        let grown = before.proxy.resident.saturating_sub(start.proxy.resident);
        report["proxy_bytes_per_phone"] = json!(grown / u64::from(line.phones.max(1)));
        report["proxy_resident_bytes"] = json!(before.proxy.resident);
        report["proxy_us_per_registration"] = json!(before.proxy.since(&start.proxy, registered as u64));
    }
    let behind = if line.register_only { register_again(&mut bench, line)? } else { call(&mut bench, line)? };
    let after = mark(&bench, line)?;
    let is_clean = finish(&mut bench, line, &mut report, &before, &after, &behind);
    println!("{report}");
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn mark(bench: &Bench, line: &LoadLine) -> Result<Mark, Box<dyn Error>> {
    Ok(Mark {
        proxy: watch::usage(&line.watch_pid),
        own: watch::usage(&[std::process::id()]),
        metrics: match &line.metrics {
            Some(url) => watch::metrics(url)?,
            None => Vec::new(),
        },
        registered: bench.stack.tally.registered,
    })
}

/// Lets all phones register, `rate` each second; says how many did before nothing moved any more.
///
/// # Errors
/// The poll itself failed.
pub fn register_all(bench: &mut Bench, rate: f64) -> Result<usize, Box<dyn Error>> {
    let count = bench.phones().1.config.count as usize;
    let began_us = bench.stack.read_clock();
    let mut shown_s = 0;
    let (mut best, mut best_us) = (0, began_us);
    loop {
        let now_us = bench.stack.read_clock();
        let due = ((now_us - began_us) as f64 / 1e6 * rate) as u64;
        let (stack, phones) = bench.phones();
        let has_more = phones.start_until(stack, due);
        bench.turn(Duration::from_millis(if has_more { 1 } else { 20 }))?;
        let phones = bench.phones().1;
        let registered = phones.registered_count();
        if registered > best {
            (best, best_us) = (registered, now_us);
        }
        let passed_s = (now_us - began_us) / 1_000_000;
        if passed_s > shown_s {
            shown_s = passed_s;
            eprintln!("{passed_s:4} s  registered {registered}/{count}");
        }
        if registered == count || now_us - best_us > REGISTER_STALL.as_micros() as u64 {
            return Ok(registered);
        }
    }
}

fn hold(bench: &mut Bench, seconds: u64) -> Result<(), Box<dyn Error>> {
    let until_us = bench.stack.read_clock() + seconds * 1_000_000;
    if seconds > 0 {
        eprintln!("holding for {seconds} s");
    }
    while bench.stack.read_clock() < until_us {
        bench.turn(Duration::from_millis(500))?;
    }
    Ok(())
}

/// Places calls on schedule and waits for the last to end; says how late each was placed.
fn call(bench: &mut Bench, line: &LoadLine) -> Result<Histogram, Box<dyn Error>> {
    let total = (line.rate * line.seconds as f64).round() as u64;
    let began_us = bench.stack.read_clock();
    let due_of = |nth: u64| began_us + (nth as f64 * 1e6 / line.rate) as u64;
    let to_server = format!("sip:answer@{}", line.phone.domain);
    let mut behind = Histogram::default();
    let (mut placed, mut shown_s) = (0_u64, 0);
    let mut drained_us = u64::MAX;
    let mut churned = 0_u64;
    loop {
        let mut now_us = bench.stack.read_clock();
        while placed < total && churned < ((now_us - began_us) as f64 / 1e6 * line.churn) as u64 {
            let phone = (churned % u64::from(line.phones)) as u32;
            let (stack, phones) = bench.phones();
            phones.drop_connection(stack, phone, true);
            phones.start_in(stack, phone, Duration::from_millis(line.away_ms));
            churned += 1;
        }
        let mut in_turn = 0;
        while placed < total && due_of(placed) <= now_us && in_turn < PLACED_PER_TURN_MAX {
            behind.record(now_us - due_of(placed));
            let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: false };
            let is_to_phone = match line.direction {
                Direction::ToPhone => true,
                Direction::FromPhone => false,
                Direction::Both => placed % 2 == 0,
            };
            // Neighbours in time are no neighbours in number, so that no order of registration shows.
            let phone = (placed.wrapping_mul(7_919) % u64::from(line.phones)) as u32;
            if is_to_phone {
                let aor = bench.phones().1.aor(phone);
                let (stack, server) = bench.server();
                server.place_call(stack, &aor, plan);
            } else {
                let (stack, phones) = bench.phones();
                phones.place_call(stack, phone, &to_server, plan);
            }
            placed += 1;
            in_turn += 1;
            now_us = bench.stack.read_clock();
        }
        let wait_us = match placed < total {
            true => due_of(placed).saturating_sub(now_us),
            false => 20_000,
        };
        bench.turn(Duration::from_micros(wait_us))?;
        let now_us = bench.stack.now_us;
        let passed_s = (now_us - began_us) / 1_000_000;
        if passed_s > shown_s {
            shown_s = passed_s;
            progress(bench, passed_s);
        }
        if placed == total {
            drained_us = drained_us.min(now_us + DRAIN_MAX.as_micros() as u64);
            if still_open(bench, line) == 0 || now_us > drained_us {
                return Ok(behind);
            }
        }
    }
}

/// Calls that have not ended. A side that was called and has lost its connection learns of the end late or not at
/// all, so that with churn only the callers' sides count.
fn still_open(bench: &mut Bench, line: &LoadLine) -> usize {
    if line.churn > 0.0 {
        return bench.server().1.placed_open() + bench.phones().1.placed_open();
    }
    bench.server().1.calls_open() + bench.phones().1.calls_open()
}

fn progress(bench: &Bench, passed_s: u64) {
    let tally = &bench.stack.tally;
    let failed: u64 = tally.calls_failed.values().sum();
    eprintln!(
        "{passed_s:4} s  placed {}  answered {}  ended {}  failed {failed}  lost {}  p50 {:.1} ms  p99 {:.1} ms  resent {}",
        tally.calls_placed,
        tally.calls_answered,
        tally.calls_ended,
        tally.calls_lost,
        tally.setup.percentile_ms(0.5),
        tally.setup.percentile_ms(0.99),
        tally.requests_resent,
    );
}

/// Lets phones come back over a new connection on schedule; says how late each was told to.
fn register_again(bench: &mut Bench, line: &LoadLine) -> Result<Histogram, Box<dyn Error>> {
    let total = (line.rate * line.seconds as f64).round() as u64;
    let began_us = bench.stack.read_clock();
    let due_of = |nth: u64| began_us + (nth as f64 * 1e6 / line.rate) as u64;
    let mut behind = Histogram::default();
    bench.phones().1.register_times = Histogram::default();
    let (mut told, mut shown_s, mut phone) = (0_u64, 0, 0_u32);
    let until_us = due_of(total) + DRAIN_MAX.as_micros() as u64;
    loop {
        let now_us = bench.stack.read_clock();
        let mut in_turn = 0;
        while told < total && due_of(told) <= now_us && in_turn < PLACED_PER_TURN_MAX {
            behind.record(now_us - due_of(told));
            let (stack, phones) = bench.phones();
            // One that is still on its way is left alone; its turn counts as one that came late.
            if phones.is_registered(phone) {
                phones.drop_connection(stack, phone, false);
                phones.start(stack, phone);
            }
            phone = (phone + 1) % line.phones;
            told += 1;
            in_turn += 1;
        }
        bench.turn(Duration::from_micros(if told < total { due_of(told).saturating_sub(now_us) } else { 20_000 }))?;
        let (stack, phones) = bench.phones();
        let passed_s = (stack.now_us - began_us) / 1_000_000;
        if passed_s > shown_s {
            shown_s = passed_s;
            let failed: u64 = stack.tally.register_failures.values().sum();
            eprintln!("{passed_s:4} s  registered {}  failed {failed}", stack.tally.registered);
        }
        if told == total && (phones.registered_count() == line.phones as usize || stack.now_us > until_us) {
            return Ok(behind);
        }
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
    let failed: u64 = tally.calls_failed.values().sum();
    let lost = tally.calls_lost + tally.byes_lost;
    let astray = tally.wrong_connection + tally.wrong_phone;
    let work = if line.register_only { tally.registered - before.registered } else { tally.calls_placed };
    report["rate"] = json!(line.rate);
    report["seconds"] = json!(line.seconds);
    report["internal"] = json!(line.internal.param());
    report["setup_ms"] = tally.setup.summary();
    report["behind_ms"] = behind.summary();
    report["generator_fell_behind"] = json!(behind.percentile_ms(0.99) > BEHIND.as_secs_f64() * 1e3);
    report["calls"] = json!({
        "placed": tally.calls_placed,
        "answered": tally.calls_answered,
        "ended": tally.calls_ended,
        "failed": failed,
        "failed_by": tally.calls_failed,
        "lost": lost,
        "still_open": stuck,
    });
    report["wrong_connection"] = json!(tally.wrong_connection);
    report["wrong_phone"] = json!(tally.wrong_phone);
    report["retransmissions"] = json!(tally.requests_resent + tally.responses_resent + tally.retransmissions_in);
    report["lab_us_per_unit"] = json!(after.own.since(&before.own, work));
    if !line.watch_pid.is_empty() {
        report["proxy_us_per_unit"] = json!(after.proxy.since(&before.proxy, work));
        report["proxy_resident_after_bytes"] = json!(after.proxy.resident);
    }
    if line.metrics.is_some() {
        report["passed_between_cores"] = json!(watch::grown(&before.metrics, &after.metrics, "hawser_placed_total"));
        report["across_cores"] = json!(watch::grown(&before.metrics, &after.metrics, "flow=\"across\""));
        report["same_core"] = json!(watch::grown(&before.metrics, &after.metrics, "flow=\"local\""));
    }
    report["counts"] = json!(tally);
    let is_whole = tally.calls_ended + failed + tally.calls_lost >= tally.calls_placed && stuck == 0;
    lost == 0
        && astray == 0
        && is_whole
        && (all_registered || line.churn > 0.0)
        && tally.path_shown_to_phone == 0
        && tally.malformed_in == 0
        && (line.churn > 0.0 || (tally.unmatched_requests == 0 && (failed == 0 || line.allow_refused)))
}
