//! Whether a peer takes what it is sent: looked at now and then, for the connections alone that have sent something.
//!
//! Owns: the order of the looks, and the verdict. Must not touch: sockets; what is seen is handed in.
//!
//! Progress is what the peer's system has acknowledged, not what ours has taken: 256 KiB find room in a socket whose
//! peer has long ceased to read. So the first send puts a connection here, a look follows within a second, and when
//! nothing is outstanding by then that was all: a message costs nothing, and a phone that is called each second one
//! look. While something is outstanding the looks go on. A peer is given up
//!
//! - when it acknowledges nothing more for 10 s though its system is there ([`Verdict::Stalled`]): it has closed its
//!   window, and its program does not read.
//! - when it acknowledges nothing more for 20 s and cannot be heard at all ([`Verdict::Dead`]): it may have lost its
//!   network for a moment, and has longer for that. (Who was sent nothing is found dead by the system's keep-alives.)
//! - when it does acknowledge, but what was outstanding once is not through after 32 s ([`Verdict::Slow`]). That is
//!   64*T1: no transaction waits any more for what is older (RFC 3261 §17), so whoever reads so slowly makes no
//!   progress in terms of SIP, and holds our memory at the price of a few bytes now and then.

use std::collections::VecDeque;
use std::time::Duration;

use super::conn::Key;
use crate::clock::Time;
use crate::limits::{SEND_AGE_MAX, SEND_STALL_MAX};

/// Looks are made at whole multiples of this, so that they share their wake-ups.
const LOOK_TOGETHER: Duration = Duration::from_millis(250);
/// From a send, or a look, to the next look, at most.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(1);
/// For how long a peer that cannot be heard of may leave unacknowledged what it was sent.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// What the queue may keep room for while it is empty.
const ROOM_COUNT_MAX: usize = 1_024;

/// What a look has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Bytes that the system has taken since the connection began.
    pub taken: u64,
    /// Of those, what the peer has not acknowledged.
    pub outstanding: u64,
    /// Whether more waits for room in the socket.
    pub waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is with the peer.
    Done,
    /// Something is outstanding, and the peer has time left for it.
    Goes,
    /// Nothing was acknowledged for too long.
    Stalled,
    /// The same, and its system has not been heard of either.
    Dead,
    /// What was outstanding once still is.
    Slow,
}

/// A connection that is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) key: Key,
    due: Time,
    /// What the peer had acknowledged when that was found to have grown.
    acknowledged: u64,
    grown_at: Time,
    /// Where the oldest that is outstanding ends, as far as looks tell, and when it was given to the system at the
    /// latest.
    mark: u64,
    marked_at: Time,
}

impl Watch {
    fn look(&mut self, seen: Seen, is_there: impl FnOnce() -> bool, now: Time) -> Verdict {
        if seen.outstanding == 0 && !seen.waits {
            return Verdict::Done;
        }
        let acknowledged = seen.taken.saturating_sub(seen.outstanding);
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.grown_at = now;
        }
        if acknowledged >= self.mark {
            self.mark = seen.taken;
            self.marked_at = now;
        }
        if now.since(self.grown_at) >= SEND_STALL_MAX && is_there() {
            Verdict::Stalled
        } else if now.since(self.grown_at) >= DEAD_AFTER {
            Verdict::Dead
        } else if now.since(self.marked_at) >= SEND_AGE_MAX {
            Verdict::Slow
        } else {
            Verdict::Goes
        }
    }
}

/// The watches of one shard, in the order of their next look.
#[derive(Debug, Default)]
pub(super) struct Watches {
    queue: VecDeque<Watch>,
}

impl Watches {
    /// A connection with nothing outstanding has sent something: the system had taken `before`, and now has `taken`.
    pub(super) fn begin(&mut self, key: Key, before: u64, taken: u64, now: Time) {
        let due = next_look(now);
        self.queue.push_back(Watch { key, due, acknowledged: before, grown_at: now, mark: taken, marked_at: now });
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> Option<Time> {
        self.queue.front().map(|watch| watch.due)
    }

    /// Takes out the next that is due. It is put back by [`Watches::looked`].
    pub(super) fn pop_due(&mut self, now: Time) -> Option<Watch> {
        if self.queue.front()?.due > now {
            return None;
        }
        let watch = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > ROOM_COUNT_MAX {
            self.queue = VecDeque::new();
        }
        watch
    }

    /// The verdict over one that was taken out; while it goes on, it is looked at again. `is_there` says whether its
    /// system has been heard of within the time of the bound, and is asked only when the verdict hangs on it.
    pub(super) fn looked(
        &mut self,
        mut watch: Watch,
        seen: Seen,
        is_there: impl FnOnce() -> bool,
        now: Time,
    ) -> Verdict {
        let verdict = watch.look(seen, is_there, now);
        if verdict == Verdict::Goes {
            self.again(watch, now);
        }
        verdict
    }

    /// Puts one back without a verdict.
    pub(super) fn again(&mut self, watch: Watch, now: Time) {
        self.queue.push_back(Watch { due: next_look(now), ..watch });
    }
}

fn next_look(now: Time) -> Time {
    let together = LOOK_TOGETHER.as_micros() as u64;
    Time(now.after(LOOK_AFTER_MAX).0 / together * together)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(7_100_000);

    /// Looks until a verdict other than `Goes`; gives it and the seconds that have passed. `acknowledged` says what the
    /// peer has acknowledged so many seconds after the start, of 100,000 bytes taken.
    fn looked_until(waits: bool, is_there: bool, acknowledged: impl Fn(f64) -> u64) -> (Verdict, f64) {
        let mut watches = Watches::default();
        watches.begin(Key::of_test(1), 0, 100_000, START);
        for _ in 0..1_000 {
            let now = watches.due().unwrap();
            let passed = now.since(START).as_secs_f64();
            let watch = watches.pop_due(now).unwrap();
            let seen = Seen { taken: 100_000, outstanding: 100_000 - acknowledged(passed), waits };
            let verdict = watches.looked(watch, seen, || is_there, now);
            assert_eq!(watches.queue.len(), usize::from(verdict == Verdict::Goes));
            if verdict != Verdict::Goes {
                return (verdict, passed);
            }
        }
        panic!("no end");
    }

    #[test]
    fn one_look_is_all_when_nothing_is_outstanding() {
        let (verdict, passed) = looked_until(false, true, |_| 100_000);
        assert_eq!(verdict, Verdict::Done);
        assert!(passed > 0.7 && passed <= 1.0, "{passed}");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_after_the_time_of_the_bound() {
        let (verdict, passed) = looked_until(false, true, |_| 0);
        assert_eq!(verdict, Verdict::Stalled);
        assert!((10.0..11.0).contains(&passed), "{passed}");
        let (verdict, passed) = looked_until(true, true, |passed| if passed < 3.0 { 40_000 } else { 60_000 });
        assert_eq!(verdict, Verdict::Stalled, "and after the last progress");
        assert!((13.0..15.0).contains(&passed), "{passed}");
    }

    #[test]
    fn a_peer_whose_system_is_silent_has_longer_and_is_given_up_as_dead() {
        let (verdict, passed) = looked_until(true, false, |_| 0);
        assert_eq!(verdict, Verdict::Dead);
        assert!((20.0..21.5).contains(&passed), "{passed}");
        let (verdict, passed) = looked_until(false, false, |passed| if passed < 5.0 { 0 } else { 10 });
        assert_eq!(verdict, Verdict::Dead, "and after the last progress");
        assert!((25.0..27.0).contains(&passed), "{passed}");
    }

    #[test]
    fn a_trickle_is_given_up_when_what_was_outstanding_is_too_old() {
        let (verdict, passed) = looked_until(true, true, |passed| passed as u64);
        assert_eq!(verdict, Verdict::Slow);
        assert!((32.0..33.0).contains(&passed), "{passed}");
    }

    #[test]
    fn who_takes_it_in_time_may_be_slow_for_ever() {
        let mut watch = Watch {
            key: Key::of_test(1),
            due: START,
            acknowledged: 0,
            grown_at: START,
            mark: 50_000,
            marked_at: START,
        };
        for second in 1..1_000_u64 {
            let seen = Seen { taken: 50_000 + second * 2_000, outstanding: 50_000, waits: true };
            assert_eq!(watch.look(seen, || true, START.after(Duration::from_secs(second))), Verdict::Goes, "{second}");
        }
    }

    #[test]
    fn looks_share_their_moments_and_leave_no_room_behind() {
        let mut watches = Watches::default();
        for at in 0..5_000 {
            watches.begin(Key::of_test(at), 0, 10, START.after(Duration::from_micros(at as u64 * 30)));
        }
        let mut moments: Vec<Time> = watches.queue.iter().map(|watch| watch.due).collect();
        moments.dedup();
        assert!(moments.len() <= 2, "{moments:?}");
        while watches.pop_due(START.after(LOOK_AFTER_MAX * 2)).is_some() {}
        assert!(watches.queue.capacity() <= ROOM_COUNT_MAX);
        assert_eq!(watches.due(), None);
    }
}
