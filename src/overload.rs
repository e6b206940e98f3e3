//! Admission: which new work gives way when messages wait too long for their turn (DESIGN.md, Overload).
//!
//! Owns: whether a shard is overloaded, and how long a message of each class may have waited then. Must not touch: what a
//! message says, how it is refused, and where waits come from.
//!
//! # The rules
//!
//! 1. What counts is for how long a message has waited when its turn comes, as the system and the mailboxes say.
//! 2. An overload begins when messages wait [`QUEUE_WAIT_MAX`] or longer and none of them less for [`OVERLOAD_STANDS`], or
//!    when one waits [`OVERLOAD_AT_ONCE`]. One slow moment is none: what a stall has left is worked off within that.
//! 3. While it lasts, work is refused whose message has waited longer than its class may. So the wait stays near the
//!    bound: what is refused costs little, and takes from the queue what makes the others wait.
//! 4. It is over when no message has waited [`QUEUE_WAIT_MAX`] for [`OVERLOAD_QUIET`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;
use crate::limits::{
    DIALOG_RATE_BURST, HANDSHAKE_WAIT_MAX, KNOWN_WAIT_MAX, OVERLOAD_AT_ONCE, OVERLOAD_QUIET, OVERLOAD_STANDS,
    QUEUE_WAIT_MAX, REGISTER_WAIT_MAX,
};

/// Work that may be refused, in the order in which it gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A TLS handshake.
    Handshake,
    /// A REGISTER of who has no binding.
    Register,
    /// A request outside a dialog.
    Dialog,
    /// A request in a dialog, or a REGISTER of who has a binding.
    Known,
}

impl Class {
    /// For how long its message may have waited in an overload.
    #[must_use]
    pub fn wait_max(self) -> Duration {
        match self {
            Self::Handshake => HANDSHAKE_WAIT_MAX,
            Self::Register => REGISTER_WAIT_MAX,
            Self::Dialog => QUEUE_WAIT_MAX,
            Self::Known => KNOWN_WAIT_MAX,
        }
    }
}

/// An overload, as it is told when it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overload {
    /// When it began.
    pub since: Time,
    /// When a message has waited too long last.
    pub last: Time,
    /// The longest that one has waited.
    pub longest: Duration,
    /// For how long the one before has.
    pub latest: Duration,
    /// What was refused, by class.
    pub refused: [u64; 4],
}

/// What one shard admits.
#[derive(Debug, Default)]
pub struct Admission {
    /// Since when no message has waited less than the bound, and when that was seen last.
    stands: Option<(Time, Time)>,
    overload: Option<Overload>,
}

impl Admission {
    /// A message's turn has come. Says whether an overload begins with it.
    pub fn note(&mut self, waited: Duration, now: Time) -> bool {
        if let Some(overload) = &mut self.overload {
            overload.latest = waited;
        }
        if waited < QUEUE_WAIT_MAX {
            self.stands = None;
            return false;
        }
        if let Some(overload) = &mut self.overload {
            overload.last = now;
            overload.longest = overload.longest.max(waited);
            return false;
        }
        let since = match self.stands {
            Some((since, seen)) if now.since(seen) < OVERLOAD_STANDS => since,
            _ => now,
        };
        self.stands = Some((since, now));
        let begins = now.since(since) >= OVERLOAD_STANDS || waited >= OVERLOAD_AT_ONCE;
        if begins {
            self.overload = Some(Overload { since: now, last: now, longest: waited, latest: waited, refused: [0; 4] });
        }
        begins
    }

    /// Whether work may go on whose message has waited so long.
    pub fn admits(&mut self, class: Class, waited: Duration) -> bool {
        let Some(overload) = self.overload.as_mut().filter(|_| waited >= class.wait_max()) else { return true };
        overload.refused[class as usize] += 1;
        false
    }

    /// Whether work without a message of its own gives way, by how long the last message has waited.
    #[must_use]
    pub fn puts_off(&self, class: Class) -> bool {
        self.overload.is_some_and(|overload| overload.latest >= class.wait_max())
    }

    /// Some was put off.
    pub fn note_put_off(&mut self, class: Class) {
        if let Some(overload) = &mut self.overload {
            overload.refused[class as usize] += 1;
        }
    }

    /// The overload that there is.
    #[must_use]
    pub fn overload(&self) -> Option<&Overload> {
        self.overload.as_ref()
    }

    /// When the overload is over if no message waits too long until then.
    #[must_use]
    pub fn ends_at(&self) -> Option<Time> {
        self.overload.map(|overload| overload.last.after(OVERLOAD_QUIET))
    }

    /// The overload that is over by now, once.
    pub fn take_over(&mut self, now: Time) -> Option<Overload> {
        self.ends_at().filter(|at| *at <= now)?;
        self.stands = None;
        self.overload.take()
    }
}

/// A hard cap on what begins dialogs, in all shards of a process together: `overload-ctrl-dialog-rate`.
///
/// The moments at which they were due at an even rate follow one another; what comes earlier than
/// [`DIALOG_RATE_BURST`] before its own is too much. (The virtual scheduling of ITU-T I.371.) Shards share one number, which
/// they write only while there is a cap.
#[derive(Debug, Default)]
pub struct DialogRate {
    /// When the next one is due, in nanoseconds.
    due_ns: AtomicU64,
}

impl DialogRate {
    /// Whether another dialog may begin at `rate` a second; 0 is no cap.
    pub fn admits(&self, rate: u32, now: Time) -> bool {
        if rate == 0 {
            return true;
        }
        let every_ns = 1_000_000_000 / u64::from(rate);
        let now_ns = now.0.saturating_mul(1_000);
        let latest_ns = now_ns.saturating_add(u64::try_from(DIALOG_RATE_BURST.as_nanos()).unwrap_or(u64::MAX));
        let next = |due_ns: u64| (due_ns <= latest_ns).then(|| due_ns.max(now_ns).saturating_add(every_ns));
        self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    #[test]
    fn one_slow_moment_is_no_overload_and_what_stands_is() {
        let mut admission = Admission::default();
        for ms in 0..99 {
            assert!(!admission.note(QUEUE_WAIT_MAX, at(ms)), "{ms}");
        }
        assert!(!admission.note(QUEUE_WAIT_MAX - MS, at(99)), "one that waits less ends it");
        for ms in 100..200 {
            assert!(!admission.note(QUEUE_WAIT_MAX, at(ms)), "{ms}");
        }
        assert!(admission.admits(Class::Handshake, Duration::MAX), "nothing is refused before it begins");
        assert!(admission.note(QUEUE_WAIT_MAX, at(200)));
        assert!(!admission.note(QUEUE_WAIT_MAX, at(201)), "it begins once");
    }

    #[test]
    fn messages_that_are_far_apart_do_not_make_a_queue_that_stands() {
        let mut admission = Admission::default();
        for s in 0..10 {
            assert!(!admission.note(QUEUE_WAIT_MAX, at(s * 1_000)));
        }
    }

    #[test]
    fn a_wait_of_a_second_is_an_overload_at_once() {
        let mut admission = Admission::default();
        assert!(!admission.note(OVERLOAD_AT_ONCE - MS, at(0)));
        assert!(admission.note(OVERLOAD_AT_ONCE, at(1)));
    }

    #[test]
    fn what_a_stall_leaves_behind_is_worked_off_and_refused_to_nobody() {
        let mut admission = Admission::default();
        // A pause of half a second, and what came in it, within 90 ms.
        for ms in 0..90 {
            assert!(!admission.note(Duration::from_millis(500 - 5 * ms), at(ms)), "{ms}");
            assert!(admission.admits(Class::Dialog, Duration::from_millis(500 - 5 * ms)));
        }
        assert!(!admission.note(MS, at(90)));
    }

    #[test]
    fn each_class_gives_way_at_its_own_wait_in_its_order() {
        let mut admission = Admission::default();
        assert!(admission.note(OVERLOAD_AT_ONCE, at(0)));
        let all = [Class::Handshake, Class::Register, Class::Dialog, Class::Known];
        assert!(all.windows(2).all(|two| two[0].wait_max() < two[1].wait_max()));
        for class in all {
            assert!(admission.admits(class, class.wait_max() - Duration::from_micros(1)));
            assert!(!admission.admits(class, class.wait_max()));
        }
        assert_eq!(admission.overload().map(|overload| overload.refused), Some([1; 4]));
    }

    #[test]
    fn it_is_over_when_nothing_has_waited_for_a_while_and_is_told_once() {
        let mut admission = Admission::default();
        admission.note(OVERLOAD_AT_ONCE, at(1_000));
        admission.note(OVERLOAD_AT_ONCE * 2, at(1_500));
        admission.note(MS, at(1_600));
        let end = at(1_500).after(OVERLOAD_QUIET);
        assert_eq!(admission.ends_at(), Some(end));
        assert_eq!(admission.take_over(Time(end.0 - 1)), None);
        let told = admission.take_over(end).expect("it is over");
        assert_eq!((told.since, told.last, told.longest), (at(1_000), at(1_500), OVERLOAD_AT_ONCE * 2));
        assert_eq!((admission.take_over(end), admission.ends_at()), (None, None));
        assert!(admission.admits(Class::Handshake, Duration::MAX));
    }

    /// How many of so many a second, offered for so many seconds, may begin.
    fn begun(rate: DialogRate, cap: u32, offered: u64, seconds: u64) -> u64 {
        let times = (0..offered * seconds).map(|n| Time(5_000_000 + n * 1_000_000 / offered));
        times.filter(|now| rate.admits(cap, *now)).count() as u64
    }

    #[test]
    fn a_rate_lets_so_many_through_and_a_burst_of_a_tenth_of_a_second() {
        assert_eq!(begun(DialogRate::default(), 0, 1_000, 2), 2_000, "no cap");
        assert_eq!(begun(DialogRate::default(), 100, 99, 10), 990, "below it");
        for offered in [200, 1_000, 50_000] {
            let through = begun(DialogRate::default(), 100, offered, 10);
            assert!((1_000..=1_011).contains(&through), "{through} of {offered} a second");
        }
        assert!((10..=11).contains(&begun(DialogRate::default(), 1, 10, 10)), "one a second");
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let rate = DialogRate::default();
        let burst = |s: u64| (0..1_000).filter(|_| rate.admits(100, Time(s * 1_000_000))).count();
        assert_eq!((burst(1), burst(100)), (11, 11));
    }
}
