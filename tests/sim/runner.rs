//! Which seeds are played, on all cores, and what becomes of those that fail.
//!
//! - As a test: those that have failed once (`failed-seeds` beside this file), so many that are always the same, and some
//!   new ones, from a number that is printed.
//! - `HAWSER_SIM=FROM..TO` (`scripts/sim`): all of these and no others, with a line of progress. One that fails is shrunk,
//!   printed, and written to that file; the rest is played on.
//! - `HAWSER_SEED=N`: this one alone, with its trace.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::trace;
use crate::world::{Outcome, World};

const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Seeds that are played as a test, always the same.
pub const FIXED: u64 = 1_000;
/// And new ones.
const FRESH: u64 = 100;
/// Of all requests, how many may be excused.
const EXCUSED_PERMILLE_MAX: u64 = 25;
const REQUESTS_MIN: u64 = 10_000;
/// Lines of the trace that are printed of a run that fails.
const LINES_SHOWN: usize = 60;

fn failed_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sim/failed-seeds")
}

/// The seeds that have failed once.
fn failed() -> Vec<u64> {
    let text = std::fs::read_to_string(failed_file()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Plays a plan; says what was wrong with it.
pub fn play(plan: &Plan, traces: bool) -> Result<Outcome, String> {
    trace::panicked();
    if traces {
        trace::begin();
    }
    let played = catch_unwind(AssertUnwindSafe(|| World::new(plan, traces).run()));
    played.map_err(|_| trace::panicked())
}

/// What came of many runs.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub outcome: Outcome,
    pub failed: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, played: Result<Outcome, String>) {
        self.seeds += 1;
        match played {
            Ok(outcome) => self.outcome.add(&outcome),
            Err(why) => self.failed.push((seed, why)),
        }
    }

    pub fn excused(&self) -> u64 {
        self.outcome.tally.excused.values().sum()
    }

    /// In words.
    fn said(&self, took: Duration) -> String {
        let Outcome { tally, faults, turns, virtual_s, .. } = &self.outcome;
        let mut out = String::new();
        let rate = self.seeds as f64 / took.as_secs_f64();
        let _ = writeln!(
            out,
            "{} seeds in {:.0} s, {rate:.1} a second; {} h of their time; {} failed\n\
             {} requests, {} ACKs, {} messages that reached a party, {turns} turns of shards",
            self.seeds,
            took.as_secs_f64(),
            virtual_s / 3_600,
            self.failed.len(),
            tally.requests,
            tally.acks,
            tally.messages,
        );
        let percent = 100.0 * self.excused() as f64 / tally.requests.max(1) as f64;
        let _ = writeln!(out, "excused {} requests ({percent:.2} %): {:?}", self.excused(), tally.excused);
        let _ = write!(out, "faults and work:");
        for (what, count) in faults {
            let _ = write!(out, " {what} {count};");
        }
        out
    }
}

/// Plays seeds on all cores.
pub fn all(seeds: Vec<u64>, tells: bool) -> Sum {
    trace::catch_panics();
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let sum = Mutex::new((Sum::default(), Instant::now()));
    let player = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(seed) = seeds.get(at).copied() else { return };
            let played = play(&Plan::draw(seed), false);
            if let Err(why) = &played {
                tell_failure(seed, why);
            }
            let mut sum = sum.lock().expect("nothing panics while it is held");
            sum.0.add(seed, played);
            if tells && sum.1.elapsed() > PROGRESS_EVERY {
                sum.1 = Instant::now();
                let rate = sum.0.seeds as f64 / begun.elapsed().as_secs_f64();
                let share = 100.0 * sum.0.excused() as f64 / sum.0.outcome.tally.requests.max(1) as f64;
                eprintln!(
                    "{} of {} seeds, {rate:.1} a second, {} failed, {} requests, {share:.2} % excused",
                    sum.0.seeds,
                    seeds.len(),
                    sum.0.failed.len(),
                    sum.0.outcome.tally.requests,
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            let builder = std::thread::Builder::new().name(trace::PLAYER.to_owned());
            builder.spawn_scoped(scope, player).expect("a thread");
        }
    });
    let (sum, _) = sum.into_inner().expect("nothing panics while it is held");
    eprintln!("{}", sum.said(begun.elapsed()));
    sum
}

/// Shrinks what fails, and prints it.
fn tell_failure(seed: u64, why: &str) {
    let (plan, why) = crate::shrink::shrink(Plan::draw(seed), why);
    let _ = play(&plan, true);
    let lines = about(&why, trace::take());
    let from = lines.len().saturating_sub(LINES_SHOWN);
    let mut out = format!("\nseed {seed} fails: {}\n{:?}\n{:?}\n", short(&why), plan.setup, plan.weather);
    for (at, step) in &plan.steps {
        let _ = writeln!(out, "  {at:>7} ms {step:?}");
    }
    for line in lines.iter().skip(from) {
        let _ = writeln!(out, "{}", line.chars().take(260).collect::<String>());
    }
    eprintln!("{out}seed {seed} fails (HAWSER_SEED={seed}): {}", short(&why));
}

/// What the trace says of the message that a failure names; all of it if that is none.
fn about(why: &str, lines: VecDeque<String>) -> Vec<String> {
    let call_id = why.split("(\"Call-ID\", \"").nth(1).and_then(|rest| rest.split('"').next());
    let Some(call_id) = call_id else { return lines.into() };
    let is_about = |line: &String| {
        line.contains("---") || line.contains("switched") || line.split([' ', ']', ',']).any(|word| word == call_id)
    };
    lines.into_iter().filter(is_about).collect()
}

fn short(why: &str) -> String {
    why.chars().take(900).collect()
}

fn keep(failed: &[(u64, String)]) {
    let Ok(mut file) = OpenOptions::new().append(true).create(true).open(failed_file()) else { return };
    for (seed, why) in failed {
        let why: String = why.chars().take(80).collect();
        let _ = writeln!(file, "{seed} {}", why.replace('\n', " "));
    }
}

fn one(seed: u64) {
    trace::catch_panics();
    let played = play(&Plan::draw(seed), true);
    for line in trace::take() {
        eprintln!("{line}");
    }
    let outcome = played.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    eprintln!("seed {seed} holds: {:?}", outcome.tally);
}

#[test]
fn whatever_happens_every_request_is_answered_and_nothing_goes_astray() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("HAWSER_SEED") {
        return one(seed);
    }
    let (seeds, is_search) = match std::env::var("HAWSER_SIM") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("HAWSER_SIM=FROM..TO");
            ((from.parse().expect("a number")..to.parse().expect("a number")).collect(), true)
        }
        Err(_) => {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
            let fresh = 1_000_000_000 + now * 1_000;
            eprintln!("fresh seeds: {fresh}..{}", fresh + FRESH);
            (failed().into_iter().chain(0..FIXED).chain(fresh..fresh + FRESH).collect::<Vec<u64>>(), false)
        }
    };
    let sum = all(seeds, is_search);
    if is_search {
        keep(&sum.failed);
    }
    let seeds: Vec<u64> = sum.failed.iter().map(|(seed, _)| *seed).collect();
    assert!(seeds.is_empty(), "seeds fail: {seeds:?}");
    let (excused, requests) = (sum.excused(), sum.outcome.tally.requests);
    // Of few seeds it says nothing.
    let is_little = requests < REQUESTS_MIN || excused * 1_000 <= requests * EXCUSED_PERMILLE_MAX;
    assert!(is_little, "{excused} of {requests} requests are excused");
    if is_search {
        eprintln!("counted in none of them: {}", crate::coverage::never(&sum.outcome.counters).join(", "));
    } else {
        crate::coverage::check(&sum.outcome.counters);
    }
}
