//! Which seeds are played.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plan::Plan;
use crate::world::World;

#[test]
fn seeds_hold() {
    let from: u64 = std::env::var("FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let to: u64 = std::env::var("TO").ok().and_then(|s| s.parse().ok()).unwrap_or(from + 20);
    if std::env::var_os("ONE").is_none() {
        std::panic::set_hook(Box::new(|info| {
            let text: String = info.to_string().chars().take(360).collect();
            eprintln!("  {}", text.replace('\n', " "));
        }));
    }
    let begun = std::time::Instant::now();
    let mut turns = 0;
    let mut tally = crate::judge::Tally::default();
    for seed in from..to {
        let plan = Plan::draw(seed);
        let result = catch_unwind(AssertUnwindSafe(|| World::new(&plan, false).run()));
        match result {
            Ok((outcome, _)) => {
                turns += outcome.turns;
                tally.requests += outcome.tally.requests;
                tally.messages += outcome.tally.messages;
                for (cause, count) in outcome.tally.excused {
                    *tally.excused.entry(cause).or_default() += count;
                }
            }
            Err(_) => {
                eprintln!("seed {seed} fails");
                if std::env::var_os("ONE").is_some() {
                    struct Tell;
                    impl log::Log for Tell {
                        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                            true
                        }
                        fn log(&self, record: &log::Record<'_>) {
                            eprintln!("            {}", record.args());
                        }
                        fn flush(&self) {}
                    }
                    let _ = log::set_boxed_logger(Box::new(Tell));
                    log::set_max_level(log::LevelFilter::Trace);
                    let _ = catch_unwind(AssertUnwindSafe(|| World::new(&plan, true).run()));
                    panic!("seed {seed}");
                }
            }
        }
    }
    let per = begun.elapsed() / u32::try_from(to - from).unwrap();
    eprintln!("{turns} turns, {per:?} a seed, {tally:?}");
}
