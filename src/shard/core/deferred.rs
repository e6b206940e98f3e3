//! Handshakes that wait for a later turn, and in an overload for longer: who goes first then.
//!
//! Owns: their order, and how many steps a pass may take. Must not touch: connections, and whether there is an overload,
//! which [`crate::overload`] says.
//!
//! In an overload messages wait, and a handshake costs as much as a call: so they give way first. They are never held up
//! altogether, for a phone that has lost its connection can be reached by nobody until it has another.

use std::collections::VecDeque;

use super::conn::Key;
use crate::clock::Time;
use crate::limits::{HANDSHAKE_STEPS_PER_PASS_MAX, HANDSHAKE_TRICKLE_EVERY, HANDSHAKES_COUNT_MAX};

/// Who waits, the first to go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Its handshake is half done, or other phones are bound at its address.
    Known,
    /// It offers to resume a session, which takes half of the time.
    Resumes,
    /// All others, and everybody while there is no overload.
    New,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Deferred {
    queues: [VecDeque<Key>; 3],
    /// Steps that may still be taken in this pass.
    steps_left: usize,
    /// When the next one may be taken, in an overload.
    next: Time,
}

impl Default for Deferred {
    fn default() -> Self {
        Self { queues: [const { VecDeque::new() }; 3], steps_left: HANDSHAKE_STEPS_PER_PASS_MAX, next: Time(0) }
    }
}

impl Deferred {
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(super) fn push(&mut self, key: Key, rank: Rank) {
        self.queues[rank as usize].push_back(key);
    }

    /// Lets go of those that are there no more, when there may be many: in an overload they would wait for their turn.
    pub(super) fn tidy(&mut self, is_there: impl Fn(Key) -> bool) {
        if self.len() >= 2 * HANDSHAKES_COUNT_MAX {
            self.queues.iter_mut().for_each(|queue| queue.retain(|key| is_there(*key)));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Key> {
        self.queues.iter_mut().find_map(VecDeque::pop_front)
    }

    /// A new pass begins. `gives_way`: there is an overload.
    pub(super) fn begin_pass(&mut self, gives_way: bool, now: Time) {
        self.steps_left = match gives_way {
            false => HANDSHAKE_STEPS_PER_PASS_MAX,
            true if self.next > now => 0,
            true => {
                self.next = now.after(HANDSHAKE_TRICKLE_EVERY);
                1
            }
        };
    }

    pub(super) fn steps_left(&self) -> usize {
        self.steps_left
    }

    /// Whether a step may be taken in this pass.
    pub(super) fn take_step(&mut self) -> bool {
        let less = self.steps_left.checked_sub(1);
        self.steps_left = less.unwrap_or(0);
        less.is_some()
    }

    /// When the next of those that wait may go on, if time alone is waited for.
    pub(super) fn due(&self) -> Option<Time> {
        (self.steps_left == 0 && self.len() > 0).then_some(self.next)
    }

    /// Those that wait, in their order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> {
        self.queues.iter().flatten().copied()
    }

    pub(super) fn shrink(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::shrink_to_fit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: usize) -> Key {
        Key::of_test(index)
    }

    #[test]
    fn who_is_known_goes_first_and_each_rank_in_the_order_of_its_coming() {
        let mut all = Deferred::default();
        let came = [(1, Rank::New), (2, Rank::Resumes), (3, Rank::Known), (4, Rank::Resumes), (5, Rank::Known)];
        for (at, rank) in came {
            all.push(key(at), rank);
        }
        let order: Vec<_> = std::iter::from_fn(|| all.pop()).map(Key::index).collect();
        assert_eq!(order, [3, 5, 2, 4, 1]);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn a_pass_takes_so_many_steps_and_in_an_overload_one_now_and_then() {
        let mut all = Deferred::default();
        let steps = |all: &mut Deferred| (0..1_000).filter(|_| all.take_step()).count();
        all.push(key(1), Rank::New);
        all.begin_pass(false, Time(0));
        assert_eq!((all.due(), steps(&mut all)), (None, HANDSHAKE_STEPS_PER_PASS_MAX));
        let (first, second) = (Time(1_000), Time(1_000).after(HANDSHAKE_TRICKLE_EVERY));
        all.begin_pass(true, first);
        assert_eq!(steps(&mut all), 1);
        all.begin_pass(true, Time(second.0 - 1));
        assert_eq!((all.due(), steps(&mut all)), (Some(second), 0), "too early");
        all.begin_pass(true, second);
        assert_eq!((steps(&mut all), all.pop()), (1, Some(key(1))));
        assert_eq!(all.due(), None, "nobody waits");
        all.begin_pass(false, second);
        assert_eq!(steps(&mut all), HANDSHAKE_STEPS_PER_PASS_MAX, "the overload is over");
    }
}
