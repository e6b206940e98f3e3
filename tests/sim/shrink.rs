//! Makes a plan that fails smaller while it fails in the same way: fewer steps, fewer faults, a calmer network, fewer
//! shards.

use crate::plan::{Plan, Weather};
use crate::runner::play;

/// Runs that are spent on it.
const RUNS_MAX: u32 = 300;

struct Shrinking {
    plan: Plan,
    /// Where in the code it fails.
    place: String,
    why: String,
    runs: u32,
}

/// The place in the code, which is what makes two failures one.
fn place_of(why: &str) -> String {
    why.split(": ").next().unwrap_or("").to_owned()
}

impl Shrinking {
    /// Takes the plan if it fails too; says whether it does.
    fn take(&mut self, plan: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        match play(&plan, false) {
            Err(why) if place_of(&why) == self.place => {
                (self.plan, self.why) = (plan, why);
                true
            }
            _ => false,
        }
    }

    /// Leaves out parts of the steps, large ones first.
    fn steps(&mut self) {
        let mut len = self.plan.steps.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            while from < self.plan.steps.len() {
                let to = (from + len).min(self.plan.steps.len());
                let mut plan = self.plan.clone();
                plan.steps.drain(from..to);
                if !self.take(plan) {
                    from = to;
                }
            }
            if len == 1 || self.runs >= RUNS_MAX {
                return;
            }
            len = len.div_ceil(2);
        }
    }

    fn weather(&mut self) {
        let calm: [fn(&mut Weather); 6] = [
            |weather| weather.loss_permille = 0,
            |weather| weather.double_permille = 0,
            |weather| weather.late_permille = 0,
            |weather| weather.cut_permille = 0,
            |weather| weather.full_permille = 0,
            |weather| weather.room = 1_000_000,
        ];
        for calm in calm {
            let mut plan = self.plan.clone();
            calm(&mut plan.weather);
            self.take(plan);
        }
    }

    fn setup(&mut self) {
        let plainer: [fn(&mut Plan); 5] = [
            |plan| plan.setup.shards = 1,
            |plan| plan.drains = false,
            |plan| plan.setup.named = false,
            |plan| plan.setup.split = false,
            |plan| plan.setup.mails_max = 1_024,
        ];
        for plainer in plainer {
            let mut plan = self.plan.clone();
            plainer(&mut plan);
            self.take(plan);
        }
    }
}

/// A smaller plan that fails in the same place, and what it says.
pub fn shrink(plan: Plan, why: &str) -> (Plan, String) {
    let mut shrinking = Shrinking { place: place_of(why), why: why.to_owned(), plan, runs: 0 };
    shrinking.weather();
    shrinking.setup();
    shrinking.steps();
    (shrinking.plan, shrinking.why)
}
