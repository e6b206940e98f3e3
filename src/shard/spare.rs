//! When memory that is free goes back to the system, which the allocator would keep for a crowd that may never come again.
//!
//! Owns: the decision. Must not touch: how memory is measured or given back.
//!
//! What counts is what is free, whatever it was used for: connections, transactions over UDP, or mails. That is what is
//! resident less what the allocator has handed out; and of that, what was left when memory was given back last cannot
//! be given back (code, stacks, rings, pages that are used in part). So the measure is the growth since then, and its
//! least over some time: a proxy under load uses again what it has freed, and would only fetch it anew.
//!
//! How much is handed out is a dear question: the allocator stands still while it counts (some tens of milliseconds
//! beside 40 MiB of finished calls). While the answer is that it is in use, it is asked more and more seldom.

use std::time::Duration;

/// From one look to the next, while it costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// From one dear question to the next at most, while what is resident is in use.
const ASK_EVERY_MAX: Duration = Duration::from_secs(20);
/// And while it is free.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// For how long memory must be free.
const FREE_FOR: Duration = Duration::from_secs(10);
/// With less there is not much to give back.
const FREE_LEN_MIN: u64 = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Spare {
    /// Until the next look.
    wait: Duration,
    /// From the last dear question to the next.
    pause: Duration,
    /// What was resident, and what of that was free, when memory was given back last, or less since; `None` before
    /// that is known.
    left: Option<(u64, u64)>,
    /// The least that was free since this look, and for how long.
    least: u64,
    lasted: Duration,
}

impl Default for Spare {
    fn default() -> Self {
        Self { wait: Duration::ZERO, pause: LOOK_EVERY, left: None, least: u64::MAX, lasted: Duration::ZERO }
    }
}

impl Spare {
    /// Whether memory is to be given back now. Of what is resident, `in_use` says how much is handed out; it is asked
    /// only when there can be something to give back, for it is dear.
    pub(super) fn look(
        &mut self,
        since_last: Duration,
        resident: impl FnOnce() -> Option<u64>,
        in_use: impl FnOnce() -> Option<u64>,
    ) -> bool {
        self.wait = self.wait.saturating_sub(since_last);
        if !self.wait.is_zero() {
            return false;
        }
        self.wait = LOOK_EVERY;
        let Some(resident) = resident() else { return false };
        if self.left.is_some_and(|(left, _)| resident < left + FREE_LEN_MIN) {
            (self.least, self.lasted, self.pause) = (u64::MAX, Duration::ZERO, LOOK_EVERY);
            return false;
        }
        let Some(free) = in_use().map(|in_use| resident.saturating_sub(in_use)) else { return false };
        let (left, left_free) = self.left.unwrap_or((resident, free));
        self.left = Some((left.min(resident), left_free.min(free)));
        if free < left_free + FREE_LEN_MIN {
            (self.least, self.lasted) = (u64::MAX, Duration::ZERO);
            self.wait = self.pause.max(LOOK_EVERY);
            self.pause = (self.wait * 2).min(ASK_EVERY_MAX);
            return false;
        }
        if self.least == u64::MAX {
            self.least = free;
        } else {
            self.least = self.least.min(free);
            self.lasted += CONFIRM_EVERY;
        }
        self.wait = CONFIRM_EVERY;
        if self.lasted < FREE_FOR {
            return false;
        }
        self.lasted = Duration::ZERO;
        std::mem::replace(&mut self.least, u64::MAX) >= left_free + FREE_LEN_MIN
    }

    /// Memory has been given back: what is free by now stays so.
    pub(super) fn given_back(&mut self) {
        *self = Self { wait: LOOK_EVERY, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Seconds until memory is given back, at most 120, while so much is resident and in use at each second.
    fn given(spare: &mut Spare, at: impl Fn(u64) -> (u64, u64)) -> Option<u64> {
        (1..=120).find(|second| {
            let (resident, in_use) = at(*second);
            spare.look(Duration::from_secs(1), || Some(resident * MIB), || Some(in_use * MIB))
        })
    }

    #[test]
    fn what_a_burst_has_left_is_given_back_whatever_it_was() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        assert_eq!(given(&mut spare, |_| (190, 170)), None, "it is in use");
        let seconds = given(&mut spare, |_| (190, 25));
        assert!(seconds.is_some_and(|seconds| (10..=32).contains(&seconds)), "{seconds:?}");
        spare.given_back();
        assert_eq!(given(&mut spare, |_| (60, 24)), None, "what cannot be given back is not asked for again");
        assert!(given(&mut spare, |_| (80, 24)).is_some(), "what comes on top is");
    }

    #[test]
    fn what_is_used_again_and_again_stays() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        assert_eq!(given(&mut spare, |second| (190, if second % 8 < 4 { 30 } else { 180 })), None);
        assert_eq!(given(&mut spare, |_| (45, 20)), None, "too little to matter");
    }

    #[test]
    fn under_steady_load_the_dear_question_is_asked_seldom() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        let asked = std::cell::Cell::new(0);
        for _ in 0..600 {
            let ask = || {
                asked.set(asked.get() + 1);
                Some(170 * MIB)
            };
            assert!(!spare.look(Duration::from_secs(1), || Some(190 * MIB), ask));
        }
        assert!((20..40).contains(&asked.get()), "{}", asked.get());
    }

    #[test]
    fn the_dear_question_is_asked_when_there_can_be_something_to_give_back() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        for resident in [None, Some(40 * MIB)] {
            assert!(!spare.look(LOOK_EVERY, || resident, || panic!("asked")));
        }
        assert!(!spare.look(LOOK_EVERY, || Some(90 * MIB), || None), "an allocator that says nothing");
    }
}
