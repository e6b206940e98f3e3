//! Which seeds a chaos test plays, and what becomes of those that fail.
//!
//! - As a test: those that have failed once (`failed-seeds` beside this file: a line `TEST SEED` each), so many that are
//!   always the same, and five from `HAWSER_SEED` on, or new ones. The first that fails ends the test.
//! - With `HAWSER_SEEDS=FROM..TO`: all of these and no others. One that fails is written to that file, and
//!   the next is played.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(10);

fn failed_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/two_engines/failed-seeds")
}

/// The seeds of a test that have failed once.
fn failed(test: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(failed_file()).unwrap_or_default();
    let seed = |line: &str| line.strip_prefix(test)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().filter_map(seed).collect()
}

/// Plays a test with its seeds.
pub fn play(test: &str, fixed: u64, one: impl Fn(u64)) {
    if let Ok(range) = std::env::var("HAWSER_SEEDS") {
        let (from, to) = range.split_once("..").expect("HAWSER_SEEDS=FROM..TO");
        return search(test, from.parse().expect("a number")..to.parse().expect("a number"), one);
    }
    let fresh: u64 = match std::env::var("HAWSER_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => seed,
        None => std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs().wrapping_mul(1_000)),
    };
    eprintln!("{test}: fresh seeds from HAWSER_SEED={fresh}");
    for seed in failed(test).into_iter().chain(0..fixed).chain(fresh..fresh + 5) {
        one(seed);
    }
}

fn search(test: &str, seeds: std::ops::Range<u64>, one: impl Fn(u64)) {
    let (begun, mut told, from) = (Instant::now(), Instant::now(), seeds.start);
    let mut faults = 0_u64;
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| one(seed))).is_err() {
            faults += 1;
            let mut file = OpenOptions::new().append(true).create(true).open(failed_file()).expect("the file of seeds");
            writeln!(file, "{test} {seed}").expect("written");
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let played = seed - from + 1;
            let rate = played as f64 / begun.elapsed().as_secs_f64();
            eprintln!("{test}: {played} seeds up to {seed}, {rate:.0} a second, {faults} failed");
        }
    }
    assert_eq!(faults, 0, "{test}: seeds have failed; they are in {}", failed_file().display());
}
