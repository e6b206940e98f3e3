//! Who waits for a phone to come back, at its binding's home.
//!
//! Owns: requests (by the name of who asks), ACKs and ready messages, each with its timer. Must not touch: where phones are.

use std::collections::HashMap;
use std::time::Duration;

use smallvec::SmallVec;

use super::flows::holds;
use crate::clock::Time;
use crate::engine::ports::{Env, KeyedState, Ports, Timer, halve};
use crate::flow::table::Slots;
use crate::ids::{BindingId, ConnId, ShardId};
use crate::limits::WAITERS_PER_BINDING_MAX;
use crate::proxy::Source;
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::wheel::TimerId;

/// Who asks where a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Asker {
    pub(in crate::engine) shard: ShardId,
    pub(in crate::engine) txn: TxnId,
}

/// What waits, or may go now.
#[derive(Debug)]
pub(in crate::engine) enum Waits {
    /// A request, in its response context.
    Request(Asker),
    /// An ACK to a 2xx.
    Ack { message: Box<Message>, source: Source },
    /// A response, or another message that is ready to go.
    Bytes(Vec<u8>),
}

impl Waits {
    /// Bytes that it holds of a message; a request's are its response context's.
    fn held_len(&self) -> u64 {
        match self {
            Self::Request(_) => 0,
            Self::Ack { message, .. } => message.held_len() as u64,
            Self::Bytes(bytes) => bytes.capacity() as u64,
        }
    }
}

#[derive(Debug)]
struct Waiter {
    binding: BindingId,
    timer: Option<TimerId>,
    what: Waits,
}

/// Who waits at one shard.
#[derive(Debug)]
pub(super) struct Waiters {
    all: Slots<Waiter>,
    by_binding: HashMap<BindingId, SmallVec<[ConnId; 2]>, KeyedState>,
    /// Bytes that wait.
    held_len: u64,
}

impl Waiters {
    pub(super) fn new(count_max: usize, state: KeyedState) -> Self {
        Self { all: Slots::new(count_max), by_binding: HashMap::with_hasher(state), held_len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn held_len(&self) -> u64 {
        self.held_len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_binding.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        halve(&mut self.by_binding);
    }

    /// `false` when nobody may wait, or too many do. Those of one binding are few: each that has waited in vain is looked
    /// for among them, and one phone could else make as many wait as there are transactions.
    pub(super) fn add(
        &mut self,
        binding: BindingId,
        wait: Duration,
        what: Waits,
        env: &Env,
        ports: &mut Ports,
        now: Time,
    ) -> bool {
        if wait.is_zero() {
            return false;
        }
        if self.by_binding.get(&binding).is_some_and(|waiters| waiters.len() >= WAITERS_PER_BINDING_MAX) {
            ports.count(Counter::LimitWaitersPerBinding);
            return false;
        }
        if self.held_len >= env.held_len_max() && !matches!(what, Waits::Request(_)) {
            ports.count(Counter::LimitTransactionLen);
            return false;
        }
        let held_len = what.held_len();
        // The timer needs the slot's name.
        let Some(id) = self.all.insert(Waiter { binding, timer: None, what }) else {
            ports.count(Counter::LimitTransactions);
            return false;
        };
        let timer = ports.wheel.arm(now.after(wait), Timer::Waiter(id));
        if let Some(waiter) = self.all.get_mut(id) {
            waiter.timer = Some(timer);
        }
        self.held_len += held_len;
        self.by_binding.entry(binding).or_default().push(id);
        ports.count(Counter::GraceBegun);
        true
    }

    /// A binding has a flow again: all that have waited for it, in the order in which they came.
    pub(super) fn wake(&mut self, binding: BindingId, ports: &mut Ports) -> SmallVec<[Waits; 1]> {
        let ids = self.by_binding.remove(&binding).unwrap_or_default();
        ids.into_iter()
            .filter_map(|id| {
                let waiter = self.all.remove(id)?;
                self.held_len -= waiter.what.held_len();
                if let Some(timer) = waiter.timer {
                    ports.wheel.cancel(timer);
                }
                ports.count(Counter::GraceRescued);
                Some(waiter.what)
            })
            .collect()
    }

    /// One has waited in vain.
    pub(super) fn on_timer(&mut self, id: ConnId, ports: &mut Ports) -> Option<Waits> {
        let waiter = self.all.remove(id)?;
        self.held_len -= waiter.what.held_len();
        if let Some(list) = self.by_binding.get_mut(&waiter.binding) {
            list.retain(|other| *other != id);
            if list.is_empty() {
                self.by_binding.remove(&waiter.binding);
            }
        }
        ports.count(Counter::GraceFailed);
        Some(waiter.what)
    }

    /// Walks all who wait.
    ///
    /// # Errors
    /// Which invariant is broken.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let mut listed = 0;
        for (binding, list) in &self.by_binding {
            let is_its = |id: &ConnId| self.all.get(*id).is_some_and(|waiter| waiter.binding == *binding);
            holds(list.iter().all(is_its), "who is listed waits for that binding")?;
            listed += list.len();
        }
        holds(listed == self.all.len(), "who waits is listed")?;
        holds(self.all.iter().all(|(_, waiter)| waiter.timer.is_some()), "nobody waits for ever")?;
        let few = |list: &SmallVec<[ConnId; 2]>| (1..=WAITERS_PER_BINDING_MAX).contains(&list.len());
        holds(self.by_binding.values().all(few), "of one binding a few wait, or nobody is listed")?;
        let held: u64 = self.all.iter().map(|(_, waiter)| waiter.what.held_len()).sum();
        holds(held == self.held_len, "the bytes that wait are counted")
    }
}
