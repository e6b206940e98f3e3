//! When a drain is over: nothing is in flight, and what may come behind the last transaction has had its time.

use std::time::Duration;

use crate::clock::Time;

/// How long a shard that drains waits after the end of the last transaction, for the ACK behind it.
const DRAIN_SETTLE: Duration = Duration::from_millis(200);

/// How far a drain has come. What was in flight may have an ACK behind it, which is no transaction: the last end is
/// waited out for a moment.
#[derive(Debug, Default)]
pub(super) struct Draining {
    was_busy: bool,
    quiet_since: Option<Time>,
}

impl Draining {
    /// When it is done, as far as is known now: at once for a shard that had nothing in flight, never for one that has.
    pub(super) fn done_at(&mut self, in_flight: usize, now: Time) -> Option<Time> {
        if in_flight > 0 {
            *self = Self { was_busy: true, quiet_since: None };
            return None;
        }
        let since = *self.quiet_since.get_or_insert(now);
        Some(if self.was_busy { since.after(DRAIN_SETTLE) } else { since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_waits_for_the_ack_behind_the_last_transaction_and_an_idle_one_for_nothing() {
        let at = |ms: u64| Time(ms * 1_000);
        assert_eq!(Draining::default().done_at(0, at(5)), Some(at(5)));
        let mut draining = Draining::default();
        assert_eq!(draining.done_at(2, at(10)), None);
        assert_eq!(draining.done_at(0, at(900)), Some(at(900).after(DRAIN_SETTLE)));
        assert_eq!(draining.done_at(1, at(950)), None, "a BYE came meanwhile");
        assert_eq!(draining.done_at(0, at(1_000)), Some(at(1_000).after(DRAIN_SETTLE)));
        assert_eq!(draining.done_at(0, at(1_100)), Some(at(1_000).after(DRAIN_SETTLE)));
    }
}
