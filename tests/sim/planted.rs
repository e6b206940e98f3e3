//! Each planted fault is found (`hawser::planted`): by which seed, and by which of the things that must hold.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hawser::planted::{Plant, plant};

use crate::plan::Plan;
use crate::runner::play;
use crate::trace;

/// Seeds until a fault must have been found.
const SEEDS_MAX: u64 = 20_000;

/// The first seed that fails, with what it says.
fn search() -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, String)>));
    let player = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= SEEDS_MAX || found.lock().expect("whole").is_some() {
                return;
            }
            if let Err(why) = play(&Plan::draw(seed), false) {
                let mut found = found.lock().expect("whole");
                if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                    *found = Some((seed, why));
                }
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
    found.into_inner().expect("whole")
}

#[test]
fn each_planted_fault_is_found() {
    trace::catch_panics();
    let only = std::env::var("HAWSER_PLANT").ok();
    let mut missed = Vec::new();
    for fault in Plant::ALL.into_iter().filter(|one| only.as_ref().is_none_or(|only| *only == format!("{one:?}"))) {
        plant(Some(fault));
        let begun = Instant::now();
        match search() {
            Some((seed, why)) => {
                let why: String = why.chars().take(110).collect();
                eprintln!("{fault:?}: seed {seed}, {:.1} s: {}", begun.elapsed().as_secs_f64(), why.replace('\n', " "));
            }
            None => {
                eprintln!("{fault:?}: NOT FOUND by {SEEDS_MAX} seeds");
                missed.push(fault);
            }
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not found: {missed:?}");
}
