//! Failover: phones and a pair of SIP Servers call each other through a proxy at an even rate while one server is
//! killed, reset, frozen, made to refuse, or cut off, and what that cost.
//!
//! Owns: the schedule of calls and faults, and the report. Must not touch: SIP. The two servers are processes of their
//! own ([`child`]), so that SIGSTOP and SIGKILL are meant; the phones are in this process.
//!
//! While no server is known to be active, nobody calls the phones: the one that is well does so once the proxy has
//! turned to it, or after `--takeover-ms`.

pub mod child;
pub mod fault;
pub mod pair;

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::TlsFiles;
use crate::ledger::{Booked, Caller, Ledger, Window};
use crate::load::Direction;
use crate::net::Transport;
use crate::phones::PhoneCallRef;
use crate::scenario::{self, Ended, FATES_MAX, LINGER, Scenario};
use crate::server::Plan;
use crate::watch;
use clap::Args;
use fault::{Event, Fault, schedule};
use pair::Pair;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

const ASK_EVERY_US: u64 = 100_000;
const NAMES: [&str; 2] = ["primary", "backup"];

#[derive(Args)]
pub struct FailoverLine {
    /// Where the proxy listens for phones, such as tls:127.0.0.1:5061.
    #[arg(long)]
    proxy: Place,
    /// Transport between the proxy and the servers.
    #[arg(long, default_value = "udp")]
    internal: Transport,
    /// Where the primary listens.
    #[arg(long, default_value = "127.0.0.1:7000")]
    primary: SocketAddr,
    /// Where the backup listens.
    #[arg(long, default_value = "127.0.0.1:7001")]
    backup: SocketAddr,
    /// What goes wrong, such as freeze@5-12 or rst@20:backup (kill, rst, freeze, 503, options-503, cut); may be given
    /// more than once.
    #[arg(long)]
    fault: Vec<Fault>,
    #[arg(long, default_value_t = 100)]
    phones: u32,
    /// Calls each second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    /// From answer to BYE, milliseconds.
    #[arg(long, default_value_t = 1_000)]
    talk_ms: u64,
    /// Registrations started each second at the beginning.
    #[arg(long, default_value_t = 500.0)]
    register_rate: f64,
    /// The other server calls phones so long after a fault, milliseconds, instead of once the proxy has turned to it.
    #[arg(long)]
    takeover_ms: Option<u64>,
    /// The proxy's HTTP port, such as http://127.0.0.1:8080, for what it says of its pairs at the end.
    #[arg(long)]
    http: Option<String>,
    /// Fails when calls do not succeed again so long after a fault, milliseconds.
    #[arg(long)]
    expect_within: Option<f64>,
    /// Fails when more calls are refused or lost.
    #[arg(long)]
    expect_failed: Option<usize>,
    /// Fails when the proxy turned from one server to the other more or less often.
    #[arg(long)]
    expect_switches: Option<u32>,
    /// Prints a row of a table for each fault, instead of the whole report.
    #[arg(long)]
    markdown: bool,
    #[command(flatten)]
    phone: PhonesArgs,
    #[command(flatten)]
    tls: TlsFiles,
}

struct Run<'a> {
    line: &'a FailoverLine,
    bench: Bench,
    pair: Pair,
    ledger: Ledger,
    calls: Booked<PhoneCallRef>,
    /// What goes wrong and has not yet, in order.
    events: VecDeque<Event>,
    faults: Vec<(Event, u64)>,
    /// When the servers are asked next what they have counted.
    ask_us: u64,
    /// Calls that phones have placed since it was last told who serves.
    by_phones: u64,
    /// Calls of servers that were due while nobody was active.
    skipped: u64,
}

/// Runs it; fails when a call is stuck, went astray, or an expectation is broken.
///
/// # Errors
/// What could not be started.
pub fn run(line: &FailoverLine) -> Ended {
    let mut bench = scenario::bench(line.tls.load()?, LINGER)?;
    let place = |addr| Place { transport: line.internal, addr };
    let waker = bench.stack.net.waker();
    let pair = Pair::start([place(line.primary), place(line.backup)], &line.tls, Vec::new(), waker)?;
    bench.add_phones(line.phone.config(line.proxy, line.phones));
    let registered = scenario::register_all(&mut bench, line.register_rate)?;
    if registered < line.phones as usize {
        println!("{}", json!({"phones": line.phones, "registered": registered, "counts": bench.stack.tally}));
        return Ok(scenario::status(false));
    }
    let mut run = Run {
        line,
        bench,
        pair,
        ledger: Ledger::default(),
        calls: Booked::new(),
        events: schedule(&line.fault).into(),
        faults: Vec::new(),
        ask_us: 0,
        by_phones: 0,
        skipped: 0,
    };
    scenario::play(&mut run, line.rate, line.seconds, FATES_MAX)?;
    run.report()
}

impl Scenario for Run<'_> {
    fn bench(&mut self) -> &mut Bench {
        &mut self.bench
    }

    fn disturb(&mut self, passed_s: f64) -> Ended<()> {
        while let Some(event) = self.events.pop_front_if(|event| event.at_s <= passed_s) {
            let what = if event.begins { "begins" } else { "is over" };
            let name = NAMES[event.server];
            eprintln!("{:6.2} s  {} of the {name} {what}", event.at_s, event.kind);
            self.pair.apply(event, &mut self.ledger)?;
            if event.begins {
                // A signal or an order has been given by now; that took the shell its time.
                self.faults.push((event, self.bench.stack.read_clock()));
            }
        }
        let now_us = self.bench.stack.read_clock();
        let is_late = |&(_, at_us): &(Event, u64)| self.line.takeover_ms.is_some_and(|ms| now_us > at_us + ms * 1_000);
        if self.faults.last().is_some_and(is_late) {
            self.pair.take_over();
        }
        if now_us >= self.ask_us {
            self.pair.ask();
            self.ask_us = now_us + ASK_EVERY_US;
        }
        Ok(())
    }

    fn place(&mut self, nth: u64) {
        let line = self.line;
        let phone = scenario::phone_of(nth, line.phones);
        let now_us = self.bench.stack.now_us;
        if line.direction.is_from_phone(nth) {
            let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: true };
            let call = self.bench.call_from(phone, &format!("sip:answer@{}", line.phone.domain), plan);
            self.calls.book(&mut self.ledger, now_us, Caller::Phone, call);
            self.by_phones += 1;
        } else {
            let aor = self.bench.phones().1.aor(phone);
            let is_placed = self.pair.place_call(now_us, &aor, line.talk_ms, &mut self.ledger);
            self.skipped += u64::from(!is_placed);
        }
    }

    fn turn(&mut self, wait_us: u64) -> Ended<()> {
        let wait_us = wait_us.min(self.ask_us.saturating_sub(self.bench.stack.read_clock()));
        self.bench.turn(Duration::from_micros(wait_us))?;
        let now_us = self.bench.stack.now_us;
        self.pair.listen(now_us, &mut self.ledger);
        self.calls.note(&mut self.ledger, now_us, &mut self.bench.phones().1.journal);
        Ok(())
    }

    fn progress(&mut self, passed_s: u64) {
        let serving = self.pair.look(std::mem::take(&mut self.by_phones));
        let serving = serving.map_or("nobody", |server| ["the primary", "the backup"][server]);
        eprintln!(
            "{passed_s:6} s  {serving} serves  unfinished {}  refused or lost {}",
            self.ledger.unfinished(),
            self.ledger.failed_count()
        );
    }

    fn is_over(&mut self) -> bool {
        self.ledger.unfinished() == 0 && self.bench.stack.open_invites() == 0
    }
}

impl Run<'_> {
    fn report(mut self) -> Ended {
        let line = self.line;
        // What became of each fault, until the next one.
        let ends: Vec<u64> = self.faults.iter().skip(1).map(|&(_, at)| at).chain([u64::MAX]).collect();
        let windows: Vec<(Event, Window)> =
            self.faults.iter().zip(ends).map(|(&(event, at), end)| (event, self.ledger.window(at, end))).collect();
        let stuck = self.ledger.open_count() as u64
            + self.bench.stack.tally.invites_unanswered
            + self.bench.stack.open_invites() as u64
            + self.pair.invites_open();
        let broken = self.broken(&windows, stuck);
        let report = self.figures(&windows, stuck, &broken)?;
        if line.markdown {
            for (event, window) in &windows {
                println!("{}", row(line.internal, event, window, stuck, self.pair.switches));
            }
        } else {
            println!("{report}");
        }
        // The phones go first: their connections end in order, and the servers with them.
        self.bench.turn(Duration::ZERO)?;
        Ok(scenario::verdict("failover", &broken))
    }

    /// Every expectation of the line that does not hold, in words.
    fn broken(&self, windows: &[(Event, Window)], stuck: u64) -> Vec<String> {
        let line = self.line;
        let failed = self.ledger.failed_count();
        let astray = self.bench.stack.tally.astray();
        let mut broken: Vec<String> = Vec::new();
        if stuck > 0 {
            broken.push(format!("{stuck} calls are stuck"));
        }
        if astray > 0 || self.pair.said_wrong > 0 {
            broken.push(format!("{astray} requests went astray, {} orders were not understood", self.pair.said_wrong));
        }
        if line.expect_failed.is_some_and(|max| failed > max) {
            broken.push(format!("{failed} calls were refused or lost"));
        }
        if line.expect_switches.is_some_and(|wanted| wanted != self.pair.switches) {
            broken.push(format!("the proxy switched {} times", self.pair.switches));
        }
        if let Some(max_ms) = line.expect_within {
            let is_late = |window: &Window| window.placed > 0 && window.all_ok_ms.is_none_or(|ms| ms > max_ms);
            broken.extend(windows.iter().filter(|(_, window)| is_late(window)).map(|(event, window)| {
                format!("after {} at {} s calls succeeded after {:?} ms", event.kind, event.at_s, window.all_ok_ms)
            }));
        }
        broken
    }

    fn figures(&self, windows: &[(Event, Window)], stuck: u64, broken: &[String]) -> Ended<Value> {
        let shown: Vec<Value> = windows.iter().map(|(event, window)| of_fault(event, window)).collect();
        let got = [self.pair.got(0), self.pair.got(1)];
        let tally = &self.bench.stack.tally;
        Ok(json!({
            "internal": self.line.internal.param(),
            "rate": self.line.rate,
            "faults": shown,
            "calls": self.ledger.summary(),
            "refused_or_lost": self.ledger.failed_count(),
            "stuck": stuck,
            "second_answers": tally.second_answers,
            "duplicate_calls": tally.duplicate_calls,
            "not_placed_while_nobody_was_active": self.skipped,
            "switches": self.pair.switches,
            "invites_to_primary": got[0].invites,
            "invites_to_backup": got[1].invites,
            "options_to_primary": got[0].options,
            "options_to_backup": got[1].options,
            "registers_to_primary": got[0].registers,
            "registers_to_backup": got[1].registers,
            "broken": broken,
            "counts": tally,
            "proxy": self.pairs_as_the_proxy_sees_them()?,
        }))
    }

    fn pairs_as_the_proxy_sees_them(&self) -> Ended<Value> {
        let Some(http) = &self.line.http else { return Ok(Value::Null) };
        let stats = watch::json(&format!("{}/stats", http.trim_end_matches('/')))?;
        Ok(stats["servers"].clone())
    }
}

/// What a fault did to the calls after it.
fn of_fault(event: &Event, window: &Window) -> Value {
    json!({
        "fault": event.kind.to_string(),
        "server": NAMES[event.server],
        "at_s": event.at_s,
        "placed": window.placed,
        "failed": window.failed,
        "first_ok_ms": window.first_ok_ms,
        "all_ok_ms": window.all_ok_ms,
        "slowest_ms": window.slowest_ms,
        "waited_over_1_s": window.waited,
    })
}

/// One fault's row: see `perf/run failover` for the head of the table.
fn row(internal: Transport, event: &Event, window: &Window, stuck: u64, switches: u32) -> String {
    let name = NAMES[event.server];
    let again = window.all_ok_ms.map_or("never".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "| {} | {} of the {name} | {again} | {:.0} ms | {} of {} | {stuck} | {switches} |",
        internal.param(),
        event.kind,
        window.slowest_ms,
        window.failed,
        window.placed
    )
}
