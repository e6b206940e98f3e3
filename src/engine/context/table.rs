//! The table of response contexts: their slots, their keys, and which of them wait for an answer over a connection.

use std::collections::HashMap;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::{Absorber, Asked, ResponseContext, TxnTimer};
use crate::engine::ports::KeyedState;
use crate::flow::keys::AlreadyHashed;
use crate::flow::table::Slots;
use crate::ids::{ConnId, ShardId};
use crate::transaction::branch::TxnId;
use crate::wheel::TimerId;

/// The response contexts of a shard.
#[derive(Debug)]
pub struct Contexts {
    /// `None` while a context is worked on.
    slots: Slots<Option<Slot>>,
    by_key: HashMap<u128, TxnId, AlreadyHashed>,
    /// Contexts that wait for an answer over a connection.
    watchers: HashMap<(ShardId, ConnId), SmallVec<[TxnId; 2]>, KeyedState>,
}

/// A context in its slot.
#[derive(Debug)]
pub enum Slot {
    Open(Box<ResponseContext>),
    /// Its final response has gone.
    Absorber(Box<Absorber>),
}

impl Slot {
    /// The context as long as it may have something to do.
    pub fn open(&self) -> Option<&ResponseContext> {
        match self {
            Self::Open(context) => Some(context),
            Self::Absorber(_) => None,
        }
    }

    pub fn asked(&self) -> Asked {
        match self {
            Self::Open(context) => context.asked,
            Self::Absorber(absorber) => absorber.asked(),
        }
    }

    /// Its timers that run.
    pub fn timers(&self) -> SmallVec<[(TxnTimer, TimerId); 4]> {
        match self {
            Self::Open(context) => context.running().collect(),
            Self::Absorber(absorber) => absorber.running().collect(),
        }
    }

    /// Whether an ACK of its INVITE ends here: that to an error does.
    pub fn absorbs_ack(&self) -> bool {
        match self {
            Self::Open(context) => context.server.machine.absorbs_ack(),
            Self::Absorber(absorber) => absorber.absorbs_ack(),
        }
    }
}

/// The table of contexts has the slots of the table of connections.
fn slot_of(id: TxnId) -> ConnId {
    ConnId { slot: id.slot, generation: id.generation }
}

/// The reverse of [`slot_of`].
fn txn_of(slot: ConnId) -> TxnId {
    TxnId { slot: slot.slot, generation: slot.generation }
}

impl Contexts {
    pub fn new(count_max: usize, state: &KeyedState) -> Self {
        Self { slots: Slots::new(count_max), by_key: HashMap::default(), watchers: HashMap::with_hasher(state.clone()) }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.by_key.is_empty() && self.watchers.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn keys_len(&self) -> usize {
        self.by_key.len()
    }

    pub fn watchers_len(&self) -> usize {
        self.watchers.values().map(SmallVec::len).sum()
    }

    pub fn is_watched(&self, conn: (ShardId, ConnId), by: TxnId) -> bool {
        self.watchers.get(&conn).is_some_and(|list| list.contains(&by))
    }

    /// Gives back the room in tables that a burst has left behind.
    pub fn shrink(&mut self) {
        self.by_key.shrink_to(self.by_key.len() * 2);
        self.watchers.shrink_to(self.watchers.len() * 2);
    }

    /// A place for a context to come; `None` when there is none left.
    pub fn reserve(&mut self) -> Option<TxnId> {
        self.slots.insert(None).map(txn_of)
    }

    pub fn with_key(&self, key: u128) -> Option<TxnId> {
        self.by_key.get(&key).copied()
    }

    pub fn get(&self, id: TxnId) -> Option<&Slot> {
        self.slots.get(slot_of(id))?.as_ref()
    }

    /// All that lie in their slots.
    pub fn iter(&self) -> impl Iterator<Item = (TxnId, &Slot)> {
        self.slots.iter().filter_map(|(slot, place)| Some((txn_of(slot), place.as_ref()?)))
    }

    /// Puts a new context into its place.
    pub fn begin(&mut self, id: TxnId, asked: &Asked) {
        for key in [Some(asked.key), asked.lasting_key].into_iter().flatten() {
            self.by_key.insert(key, id);
        }
    }

    /// Whoever waits for an answer over a connection that has closed.
    pub fn watching(&mut self, shard: ShardId, conn: ConnId) -> SmallVec<[TxnId; 2]> {
        self.watchers.remove(&(shard, conn)).unwrap_or_default()
    }

    /// Which connection's end a context wants to hear of has changed.
    pub fn rewatch(&mut self, id: TxnId, from: Option<(ShardId, ConnId)>, to: Option<(ShardId, ConnId)>) {
        if from == to {
            return;
        }
        if let Some(list) = from.and_then(|from| self.watchers.get_mut(&from)) {
            // A connection to a server may have thousands.
            if let Some(at) = list.iter().position(|other| *other == id) {
                list.swap_remove(at);
            }
        }
        if let Some(from) = from.filter(|from| self.watchers.get(from).is_some_and(SmallVec::is_empty)) {
            self.watchers.remove(&from);
        }
        if let Some(to) = to {
            self.watchers.entry(to).or_default().push(id);
        }
    }

    /// What a panic has taken along while it was worked on, with all that leads to it: the ids.
    pub fn recover(&mut self) -> Vec<TxnId> {
        let empty = self.slots.iter().filter(|(_, place)| place.is_none());
        let lost: Vec<TxnId> = empty.map(|(slot, _)| txn_of(slot)).collect();
        if !lost.is_empty() {
            self.by_key.retain(|_, id| !lost.contains(id));
            self.watchers.retain(|_, list| {
                list.retain(|id| !lost.contains(id));
                !list.is_empty()
            });
        }
        for id in &lost {
            self.slots.remove(slot_of(*id));
        }
        lost
    }

    /// Takes a context out of its slot for the time that it is worked on.
    pub fn take(&mut self, id: TxnId) -> Option<Slot> {
        self.slots.get_mut(slot_of(id)).and_then(Option::take)
    }

    /// Puts a context back into its slot.
    pub fn put_back(&mut self, id: TxnId, slot: Slot) {
        if let Some(place) = self.slots.get_mut(slot_of(id)) {
            *place = Some(slot);
        }
    }

    /// Forgets a context that was taken out and is over.
    pub fn forget(&mut self, id: TxnId, asked: &Asked) {
        for key in [Some(asked.key), asked.lasting_key].into_iter().flatten() {
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
        self.slots.remove(slot_of(id));
    }

    /// Targets that were given up and answer again may be tried again.
    pub fn forgive(&mut self, back: &[SocketAddr]) {
        for slot in self.slots.iter_mut().filter_map(|(_, place)| place.as_mut()) {
            if let Slot::Open(context) = slot {
                context.forgive(back);
            }
        }
    }
}

impl Slot {
    /// A context as it lies in its slot: what is left of it when its final response has gone; and a buffer that is of no
    /// more use.
    pub fn of(context: Box<ResponseContext>) -> (Self, Vec<u8>) {
        if !Absorber::may_replace(&context) {
            return (Self::Open(context), Vec::new());
        }
        let (absorber, sent) = Absorber::of(*context);
        (Self::Absorber(Box::new(absorber)), sent)
    }

    /// The context, for something to happen to it.
    pub fn into_context(self) -> Box<ResponseContext> {
        match self {
            Self::Open(context) => context,
            Self::Absorber(absorber) => absorber.open(),
        }
    }
}

/// The name of a request as one that waits for the DNS: names of servers and peers have the highest bit.
pub fn waiter_of(id: TxnId) -> u64 {
    (u64::from(id.slot & 0x7fff_ffff) << 32) | u64::from(id.generation)
}

/// The reverse of [`waiter_of`].
pub fn txn_of_waiter(waiter: u64) -> TxnId {
    TxnId { slot: (waiter >> 32) as u32, generation: waiter as u32 }
}
