//! A generational slot table: what holds a shard's connections.
//!
//! Owns: slots, generations, the bound. Must not touch: what a slot holds.
//!
//! A [`ConnId`] travels far: in tokens that come back after days, in mails, in directory entries. It must never
//! find the connection that took the slot over. So each use of a slot has a generation of its own, which is
//! part of the id, and a slot whose generations are used up is retired for good: at 6,000 connections a second
//! through one slot that happens once in 8 days and costs its few bytes, while a counter that wrapped would
//! make an old id good again.
//!
//! A free slot is used again last in, first out: the table stays as long as the greatest number of connections
//! at one time and its hot part stays in the cache. First in, first out would only spread the generations,
//! which retirement makes needless.

use crate::ids::ConnId;
use crate::planted::{Plant, planted};

/// No slot.
const NIL: u32 = u32::MAX;

#[derive(Debug)]
enum Content<T> {
    Used(T),
    /// The next free slot.
    Free(u32),
    Retired,
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the present use, or of the next one while free. Ids of generation 0 name nothing.
    generation: u32,
    content: Content<T>,
}

/// A bounded table whose ids stay unique for the life of the process.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
    count_max: usize,
}

/// Whether an id is of this use of its slot.
fn is_of(generation: u32, id: ConnId) -> bool {
    generation == id.generation || planted(Plant::GenerationUnchecked)
}

impl<T> Slots<T> {
    /// An empty table for at most `count_max` values. Memory grows with use.
    #[must_use]
    pub fn new(count_max: usize) -> Self {
        Self { slots: Vec::new(), free: NIL, len: 0, count_max }
    }

    /// Puts a value in; `None`, and the value is dropped, when the table is full.
    pub fn insert(&mut self, value: T) -> Option<ConnId> {
        if self.is_full() {
            return None;
        }
        let index = if self.free == NIL {
            let index = u32::try_from(self.slots.len()).ok().filter(|&index| index != NIL)?;
            self.slots.push(Slot { generation: 1, content: Content::Free(NIL) });
            index
        } else {
            self.free
        };
        let slot = &mut self.slots[index as usize];
        if let Content::Free(next) = std::mem::replace(&mut slot.content, Content::Used(value)) {
            self.free = next;
        }
        self.len += 1;
        Some(ConnId { slot: index, generation: slot.generation })
    }

    /// The value, unless it has been removed.
    #[must_use]
    pub fn get(&self, id: ConnId) -> Option<&T> {
        match self.slots.get(id.slot as usize) {
            Some(Slot { generation, content: Content::Used(value) }) if is_of(*generation, id) => Some(value),
            _ => None,
        }
    }

    /// The value, unless it has been removed.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Slot { generation, content: Content::Used(value) }) if is_of(*generation, id) => Some(value),
            _ => None,
        }
    }

    /// Takes a value out. From now on `id` names nothing, for ever.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        let slot = &mut self.slots[id.slot as usize];
        let after = match slot.generation.checked_add(1) {
            None => Content::Retired,
            Some(generation) => {
                slot.generation = generation;
                let next = std::mem::replace(&mut self.free, id.slot);
                Content::Free(next)
            }
        };
        self.len -= 1;
        match std::mem::replace(&mut slot.content, after) {
            Content::Used(value) => Some(value),
            Content::Free(_) | Content::Retired => None,
        }
    }

    /// Values in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is room for no other.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len >= self.count_max
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| match &slot.content {
            Content::Used(value) => Some((ConnId { slot: index, generation: slot.generation }, value)),
            Content::Free(_) | Content::Retired => None,
        })
    }

    /// All values, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| match &mut slot.content {
            Content::Used(value) => Some((ConnId { slot: index, generation: slot.generation }, value)),
            Content::Free(_) | Content::Retired => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_old_id_does_not_find_the_next_use_of_its_slot() {
        let mut slots = Slots::new(1);
        let old = slots.insert('a').expect("room");
        assert_eq!(slots.remove(old), Some('a'));
        let new = slots.insert('b').expect("room");
        assert_eq!(old.slot, new.slot);
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.get_mut(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&'b'));
    }

    #[test]
    fn the_bound_holds_at_its_edge() {
        let mut slots = Slots::new(2);
        let first = slots.insert(1).expect("room");
        assert!(slots.insert(2).is_some());
        assert_eq!(slots.insert(3), None);
        assert_eq!(slots.len(), 2);
        slots.remove(first);
        assert!(slots.insert(4).is_some());
        assert_eq!(slots.insert(5), None);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_never_used_again() {
        let mut slots = Slots::new(1);
        let first = slots.insert(1).expect("room");
        slots.slots[0].generation = u32::MAX;
        let last = ConnId { generation: u32::MAX, ..first };
        assert_eq!(slots.remove(last), Some(1));
        let next = slots.insert(2).expect("retired slots do not count");
        assert_ne!(next.slot, first.slot);
        assert_eq!((slots.get(first), slots.get(last)), (None, None));
        assert_eq!(slots.remove(last), None);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(next, &2)]);
    }

    #[test]
    fn ids_of_other_tables_and_of_zeroes_find_nothing() {
        let mut slots = Slots::new(8);
        slots.insert(1);
        assert_eq!(slots.get(ConnId { slot: 0, generation: 0 }), None);
        assert_eq!(slots.get(ConnId { slot: 7, generation: 1 }), None);
        assert_eq!(slots.get(ConnId { slot: u32::MAX, generation: u32::MAX }), None);
    }

    #[test]
    fn behaves_as_a_map_of_ids_that_never_come_back() {
        for seed in 0..crate::rng::rounds(16) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut slots = Slots::new(20);
            let mut live = BTreeMap::new();
            let mut dead: Vec<ConnId> = Vec::new();
            for value in 0..if cfg!(miri) { 500_u32 } else { 5_000 } {
                if rng.bool() {
                    let id = slots.insert(value);
                    assert_eq!(id.is_none(), live.len() == 20, "seed {seed}");
                    if let Some(id) = id {
                        assert!(live.insert(id, value).is_none(), "seed {seed}");
                        assert!(!dead.contains(&id), "seed {seed}: an id came back");
                    }
                } else if let Some((&id, _)) = live.iter().nth(rng.usize(0..20)) {
                    assert_eq!(slots.remove(id), live.remove(&id), "seed {seed}");
                    dead.push(id);
                }
                if let Some(id) = rng.choice(dead.iter()) {
                    assert_eq!(slots.get(*id), None, "seed {seed}");
                }
                assert_eq!(slots.len(), live.len(), "seed {seed}");
            }
            assert_eq!(slots.iter().map(|(id, value)| (id, *value)).collect::<BTreeMap<_, _>>(), live, "seed {seed}");
        }
    }
}
