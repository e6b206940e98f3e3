//! When memory that is free goes back to the system, which the allocator would keep for a burst that may never come again.
//!
//! Owns: the decision. Must not touch: how memory is measured or given back.
//!
//! What counts is what is free, whatever it was used for: connections, transactions over UDP, or waiting messages. That is
//! what is resident less what the shards hold by their own count; and of that, what was left when memory was given back
//! last cannot be given back (code, stacks, rings, pages that are used in part). So the measure is the growth since then,
//! and its least over some time: a proxy under load uses again what it has freed, and would only fetch it anew. The
//! shards' count leaves out what goes with each transaction (keys, timers, what the allocator adds), so that most of the
//! growth has to be free. The allocator itself is not asked: it stands still for tens of milliseconds while it counts, and
//! with it every shard.

use std::time::Duration;

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// For how long memory must be free.
const FREE_FOR: Duration = Duration::from_secs(10);
/// With less there is not much to give back.
const FREE_LEN_MIN: u64 = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// Until the next look.
    wait: Duration,
    /// What was resident, and what of that was free, when memory was given back last, or less since; `None` before
    /// that is known.
    left: Option<(u64, u64)>,
    /// The least that was free since this look, and for how long.
    least: u64,
    lasted: Duration,
}

impl Spare {
    /// Whether memory is to be given back now. Of what is resident, `in_use` says how much is held.
    pub(super) fn look(
        &mut self,
        since_last: Duration,
        resident: impl FnOnce() -> Option<u64>,
        in_use: impl FnOnce() -> u64,
    ) -> bool {
        self.wait = self.wait.saturating_sub(since_last);
        if !self.wait.is_zero() {
            return false;
        }
        self.wait = LOOK_EVERY;
        let Some(resident) = resident() else { return false };
        if self.left.is_some_and(|(left, _)| resident < left + FREE_LEN_MIN) {
            (self.least, self.lasted) = (u64::MAX, Duration::ZERO);
            return false;
        }
        let free = resident.saturating_sub(in_use());
        let (left, left_free) = self.left.unwrap_or((resident, free));
        self.left = Some((left.min(resident), left_free.min(free)));
        // Two thirds of what has grown.
        let free_min = left_free + FREE_LEN_MIN.max(resident.saturating_sub(left) / 3 * 2);
        if free < free_min {
            (self.least, self.lasted) = (u64::MAX, Duration::ZERO);
            return false;
        }
        self.least = self.least.min(free);
        self.lasted += LOOK_EVERY;
        if self.lasted <= FREE_FOR {
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
            spare.look(Duration::from_secs(1), || Some(resident * MIB), || in_use * MIB)
        })
    }

    #[test]
    fn what_a_burst_has_left_is_given_back_whatever_it_was() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        assert_eq!(given(&mut spare, |_| (190, 170)), None, "it is in use");
        let seconds = given(&mut spare, |_| (190, 25));
        assert!(seconds.is_some_and(|seconds| (10..=15).contains(&seconds)), "{seconds:?}");
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
    fn under_load_what_the_count_leaves_out_is_not_taken_for_free() {
        let mut spare = Spare::default();
        assert_eq!(given(&mut spare, |_| (33, 20)), None);
        // Finished calls: 3.9 KB each, of which the shards count somewhat more than half.
        assert_eq!(given(&mut spare, |second| (33 + second.min(32) * 4, 20 + second.min(32) * 2)), None);
        assert!(given(&mut spare, |_| (161, 24)).is_some(), "they have gone");
    }

    #[test]
    fn a_system_that_says_nothing_gives_nothing_back() {
        let mut spare = Spare::default();
        assert!(!spare.look(LOOK_EVERY, || None, || panic!("asked")));
    }
}
