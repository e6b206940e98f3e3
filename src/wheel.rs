//! A hierarchical timer wheel over a slab: arm, cancel and re-arm in constant time, a few dozen bytes a timer.
//!
//! Owns: which key is due next. Must not touch: a clock (the present is an argument), what a key means.
//!
//! Time is cut into ticks of 1 ms. A deadline is rounded up to its tick and a timer is due once the present
//! has reached that tick, so it is up to 1 ms late and never early. Level 0 has a slot for each tick of the
//! present block of 64, level 1 a slot for each block of 64 in the present block of 4,096, and so on: a timer
//! lives at the level of the highest digit (base 64) in which its tick differs from the present one. Two facts
//! follow, and the code rests on them:
//!
//! - everything in a lower level is due before anything in a higher one;
//! - within a level, slots stand in the order of time and never wrap.
//!
//! So the next slot is the first set bit of the first level that has one, however far away it lies: hours
//! without work cost one step, not one for each tick. When the present reaches a slot of a higher level, its
//! timers move down, each at most once for each level.
//!
//! Left out on purpose: an overflow list (ten levels cover every [`Time`]), order within a tick, and a bound on
//! the number of timers. The tables whose entries hold the timers are bounded, and each entry holds few.

use crate::clock::Time;

/// Resolution, in microseconds.
const TICK_US: u64 = 1_000;
/// Bits of a digit: 64 slots a level, so that a level's occupancy is one word.
const DIGIT_BITS: u32 = 6;
const SLOTS_PER_LEVEL: usize = 1 << DIGIT_BITS;
/// 60 bits of ticks; a [`Time`] has fewer than 55.
const LEVELS: usize = 10;
/// No entry.
const NIL: u32 = u32::MAX;

/// One armed timer. Stale once it has fired or was cancelled; a stale id does nothing and finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

#[derive(Clone, Copy)]
struct Entry<K> {
    tick: u64,
    key: K,
    /// In a slot's list, or in the list of free entries.
    next: u32,
    prev: u32,
    generation: u32,
    slot: u16,
}

/// Timers that each carry a key.
pub struct Wheel<K> {
    entries: Vec<Entry<K>>,
    free: u32,
    armed: usize,
    /// The present, in ticks: the greatest that `poll` has worked up to. No armed timer lies before it.
    tick: u64,
    /// Bit `n`: level `n` has a timer.
    levels: u16,
    /// For each level, bit `n`: slot `n` has a timer.
    occupied: [u64; LEVELS],
    /// First entry of each slot's list, level after level.
    heads: [u32; LEVELS * SLOTS_PER_LEVEL],
}

impl<K> std::fmt::Debug for Wheel<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel").field("armed", &self.armed).field("tick", &self.tick).finish_non_exhaustive()
    }
}

impl<K: Copy> Wheel<K> {
    /// A wheel without timers.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            armed: 0,
            tick: now.0 / TICK_US,
            levels: 0,
            occupied: [0; LEVELS],
            heads: [NIL; LEVELS * SLOTS_PER_LEVEL],
        }
    }

    /// Arms a timer that fires at `at`, or at the next `poll` if that has passed.
    pub fn arm(&mut self, at: Time, key: K) -> TimerId {
        let index = if self.free == NIL {
            let index = u32::try_from(self.entries.len()).expect("tables bound the timers far below 2^32");
            self.entries.push(Entry { tick: 0, key, next: NIL, prev: NIL, generation: 0, slot: 0 });
            index
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            index
        };
        self.armed += 1;
        let entry = &mut self.entries[index as usize];
        entry.key = key;
        entry.tick = tick_of(at);
        let generation = entry.generation;
        self.link(index);
        TimerId { index, generation }
    }

    /// Takes a timer back; `false` when it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        if !self.is_armed(id) {
            return false;
        }
        self.unlink(id.index);
        self.release(id.index);
        true
    }

    /// Takes back all timers whose key `is_one`. Walks over all that run: for what happens seldom.
    pub fn cancel_where(&mut self, is_one: impl Fn(&K) -> bool) {
        for at in 0..self.heads.len() {
            let mut index = self.heads[at];
            while index != NIL {
                let Entry { key, next, .. } = self.entries[index as usize];
                if is_one(&key) {
                    self.unlink(index);
                    self.release(index);
                }
                index = next;
            }
        }
    }

    /// Moves a timer to another time, under the same id; `false` (and nothing is armed) when it has fired or
    /// was cancelled before.
    pub fn rearm(&mut self, id: TimerId, at: Time) -> bool {
        if !self.is_armed(id) {
            return false;
        }
        self.unlink(id.index);
        self.entries[id.index as usize].tick = tick_of(at);
        self.link(id.index);
        true
    }

    /// Takes out the next timer that is due at `now`, earlier ticks first. Call until `None`.
    ///
    /// After `None`, `next` lies after `now`. A `now` before that of an earlier call fires nothing.
    pub fn poll(&mut self, now: Time) -> Option<K> {
        let now = now.0 / TICK_US;
        loop {
            let Some((level, slot, start)) = self.first_slot() else {
                self.tick = self.tick.max(now);
                return None;
            };
            if start > now {
                // All timers keep their level: the present stays before the first slot that holds any.
                self.tick = self.tick.max(now);
                return None;
            }
            self.tick = start;
            let at = level * SLOTS_PER_LEVEL + slot;
            let index = self.heads[at];
            if level == 0 {
                self.unlink(index);
                self.release(index);
                return Some(self.entries[index as usize].key);
            }
            self.move_down(level, slot);
        }
    }

    /// The earliest moment at which `poll` could yield; `None` when no timer is armed.
    ///
    /// Never later than the tick of the earliest timer. When others share its slot it may be as early as the
    /// start of that slot: a wake-up then yields nothing but moves them down, at most once for each level.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        let (level, slot, start) = self.first_slot()?;
        let first = &self.entries[self.heads[level * SLOTS_PER_LEVEL + slot] as usize];
        // A timer that is alone in its slot is the earliest: a shard with little to do sleeps once for it.
        let tick = if first.next == NIL { first.tick.max(start) } else { start };
        Some(Time(tick.saturating_mul(TICK_US)))
    }

    /// Timers that are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// What an armed timer is for.
    #[must_use]
    pub fn key_of(&self, id: TimerId) -> Option<K> {
        self.is_armed(id).then(|| self.entries[id.index as usize].key)
    }

    /// An id's generation is that of its entry from `arm` to `release`.
    fn is_armed(&self, id: TimerId) -> bool {
        self.entries.get(id.index as usize).is_some_and(|entry| entry.generation == id.generation)
    }

    /// Level, slot and first tick of the earliest slot that holds a timer.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * DIGIT_BITS;
        // The slot shares all higher digits with the present.
        let block = self.tick >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        Some((level as usize, slot as usize, block | (u64::from(slot) << shift)))
    }

    /// Puts an entry into the slot of its tick.
    fn link(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        // What has passed is due at once: in the slot of the present tick.
        let tick = entry.tick.max(self.tick);
        let level = ((tick ^ self.tick) | 1).ilog2() / DIGIT_BITS;
        let slot = (tick >> (level * DIGIT_BITS)) as usize % SLOTS_PER_LEVEL;
        let level = level as usize;
        let at = level * SLOTS_PER_LEVEL + slot;
        let head = self.heads[at];
        entry.prev = NIL;
        entry.next = head;
        entry.slot = at as u16;
        if head != NIL {
            self.entries[head as usize].prev = index;
        }
        self.heads[at] = index;
        self.occupied[level] |= 1 << slot;
        self.levels |= 1 << level;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, prev, slot, .. } = self.entries[index as usize];
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev == NIL {
            self.heads[usize::from(slot)] = next;
            if next == NIL {
                self.clear(usize::from(slot) / SLOTS_PER_LEVEL, usize::from(slot) % SLOTS_PER_LEVEL);
            }
        } else {
            self.entries[prev as usize].next = next;
        }
    }

    /// Marks a slot as empty.
    fn clear(&mut self, level: usize, slot: usize) {
        self.occupied[level] &= !(1 << slot);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    /// Makes an unlinked entry free; its ids are stale from now on.
    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.armed -= 1;
    }

    /// Spreads a slot that the present has reached over the levels below.
    fn move_down(&mut self, level: usize, slot: usize) {
        let at = level * SLOTS_PER_LEVEL + slot;
        let mut index = std::mem::replace(&mut self.heads[at], NIL);
        self.clear(level, slot);
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.link(index);
            index = next;
        }
    }
}

/// The first tick that does not lie before `at`.
fn tick_of(at: Time) -> u64 {
    at.0.div_ceil(TICK_US)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BinaryHeap};

    use super::*;

    const MS: u64 = 1_000;
    const HOUR: u64 = 3_600_000 * MS;

    fn drain(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.poll(Time(now))).collect()
    }

    #[test]
    fn a_timer_fires_at_its_tick_and_never_early() {
        let mut wheel = Wheel::new(Time(10));
        wheel.arm(Time(1_500), 7);
        assert_eq!(wheel.next(), Some(Time(2_000)));
        assert_eq!(wheel.poll(Time(1_999)), None);
        assert_eq!(wheel.poll(Time(2_000)), Some(7));
        assert_eq!(wheel.next(), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn what_has_passed_fires_at_the_next_poll() {
        let mut wheel = Wheel::new(Time(HOUR));
        wheel.arm(Time(3), 1);
        assert_eq!(wheel.next(), Some(Time(HOUR)));
        assert_eq!(wheel.poll(Time(HOUR)), Some(1));
    }

    #[test]
    fn a_present_that_goes_back_fires_nothing_and_loses_nothing() {
        let mut wheel = Wheel::new(Time(0));
        wheel.arm(Time(3 * HOUR), 1);
        assert_eq!(wheel.poll(Time(2 * HOUR)), None);
        wheel.arm(Time(2 * HOUR + 5 * MS), 2);
        assert_eq!(wheel.poll(Time(HOUR)), None);
        wheel.arm(Time(2 * HOUR + 3 * MS), 3);
        assert_eq!(drain(&mut wheel, 3 * HOUR), [3, 2, 1]);
    }

    #[test]
    fn a_stale_id_is_harmless_when_its_entry_is_used_again() {
        let mut wheel = Wheel::new(Time(0));
        let first = wheel.arm(Time(5 * MS), 1);
        assert!(wheel.cancel(first));
        let second = wheel.arm(Time(6 * MS), 2);
        assert_eq!(first.index, second.index, "the entry is used again");
        assert!(!wheel.cancel(first));
        assert!(!wheel.rearm(first, Time(HOUR)));
        assert_eq!(drain(&mut wheel, 6 * MS), [2]);
        assert!(!wheel.cancel(second), "it has fired");
    }

    #[test]
    fn a_jump_of_a_day_takes_few_steps_and_keeps_the_order() {
        let mut wheel = Wheel::new(Time(0));
        let at = [24 * HOUR, 1, 32_000 * MS, 30 * 24 * HOUR, 180_000 * MS, 500 * MS, HOUR];
        for (key, at) in (0..).zip(at) {
            wheel.arm(Time(at), key);
        }
        assert_eq!(drain(&mut wheel, 24 * HOUR), [1, 5, 2, 4, 6, 0]);
        assert_eq!(wheel.len(), 1);
        // Alone in its slot: the answer is exact.
        assert_eq!(wheel.next(), Some(Time(30 * 24 * HOUR)));
        assert_eq!(drain(&mut wheel, 30 * 24 * HOUR), [3]);
    }

    #[test]
    fn the_end_of_time_is_a_time() {
        let mut wheel = Wheel::new(Time(0));
        let never = wheel.arm(Time(u64::MAX), 1);
        assert_eq!(wheel.next(), Some(Time(u64::MAX)));
        assert_eq!(wheel.poll(Time(u64::MAX)), None, "the last tick has no end");
        assert!(wheel.rearm(never, Time(0)));
        assert_eq!(wheel.poll(Time(u64::MAX)), Some(1));
    }

    #[test]
    fn following_next_reaches_every_timer_in_few_wake_ups() {
        let mut wheel = Wheel::new(Time(0));
        for key in 0..8 {
            wheel.arm(Time(HOUR + u64::from(key) * MS), key);
        }
        let (mut wakes, mut fired, mut now) = (0, 0, Time(0));
        while let Some(at) = wheel.next() {
            assert!(at > now, "after a poll that yields nothing, next lies ahead");
            now = at;
            wakes += 1;
            fired += drain(&mut wheel, now.0).len();
        }
        assert_eq!(fired, 8);
        assert!(wakes <= 8 + LEVELS, "{wakes} wake-ups");
    }

    #[test]
    fn entries_stay_small() {
        // A key of 12 bytes: a slot, its generation, and which of its timers.
        assert!(size_of::<Entry<[u32; 3]>>() <= 40);
    }

    /// Random arms, re-arms, cancels and jumps, compared with a heap of (tick, key).
    #[test]
    fn behaves_as_a_heap_does() {
        for seed in 0..crate::rng::rounds(64) {
            model_run(seed, if cfg!(miri) { 300 } else { 3_000 });
        }
    }

    fn model_run(seed: u64, steps: u32) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = rng.u64(0..1 << 40);
        let mut wheel = Wheel::new(Time(now));
        // Lazily deleted: an entry counts only while `live` says the same tick.
        let mut heap = BinaryHeap::new();
        let mut live: BTreeMap<u32, (TimerId, u64)> = BTreeMap::new();
        let mut dead = Vec::new();
        // What is armed for the past counts as armed for the present tick.
        let due = |at: u64, now: u64| at.div_ceil(MS).max(now / MS);
        let span = |rng: &mut fastrand::Rng| match rng.u8(0..5) {
            0 => rng.u64(0..3 * MS),
            1 => rng.u64(0..70 * MS),
            2 => rng.u64(0..40_000 * MS),
            3 => rng.u64(0..2 * HOUR),
            _ => rng.u64(0..40 * HOUR),
        };
        for key in 0..steps {
            let place = format!("seed {seed} step {key}");
            match rng.u8(0..10) {
                0..=4 => {
                    let at = (now + span(&mut rng)).saturating_sub(rng.u64(0..2 * MS));
                    live.insert(key, (wheel.arm(Time(at), key), due(at, now)));
                    heap.push(Reverse((due(at, now), key)));
                }
                5 | 6 if !live.is_empty() => {
                    let (&key, &(id, _)) = live.iter().nth(rng.usize(0..live.len())).expect("within its length");
                    if rng.bool() {
                        assert!(wheel.cancel(id), "{place}");
                        live.remove(&key);
                        dead.push(id);
                    } else {
                        let at = now + span(&mut rng);
                        assert!(wheel.rearm(id, Time(at)), "{place}");
                        live.insert(key, (id, due(at, now)));
                        heap.push(Reverse((due(at, now), key)));
                    }
                }
                7 if !dead.is_empty() => {
                    let id = dead[rng.usize(0..dead.len())];
                    assert!(!wheel.cancel(id) && !wheel.rearm(id, Time(now)), "{place}");
                }
                _ => {
                    now += if rng.bool() { rng.u64(0..5 * MS) } else { span(&mut rng) };
                    let mut last = 0;
                    while let Some(key) = wheel.poll(Time(now)) {
                        let (id, tick) = live.remove(&key).unwrap_or_else(|| panic!("{place}: {key} fired twice"));
                        assert!(tick <= now / MS, "{place}: early");
                        assert!(tick >= last, "{place}: order");
                        last = tick;
                        dead.push(id);
                    }
                    assert!(live.values().all(|&(_, tick)| tick > now / MS), "{place}: one is due and did not fire");
                    assert!(wheel.next().is_none_or(|next| next > Time(now)), "{place}: next after an empty poll");
                }
            }
            while let Some(&Reverse((tick, key))) = heap.peek() {
                if live.get(&key).is_some_and(|l| l.1 == tick) {
                    break;
                }
                heap.pop();
            }
            assert_eq!(wheel.len(), live.len(), "{place}");
            match (heap.peek(), wheel.next()) {
                (None, None) => {}
                (Some(Reverse((tick, _))), Some(next)) => assert!(next.0 <= tick * MS, "{place}: next is late"),
                other => panic!("{place}: {other:?}"),
            }
        }
    }
}
