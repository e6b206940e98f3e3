//! In which order the servers of a name are tried: RFC 2782, with those that did not answer lately at the end.
//!
//! Owns: the list of targets to be tried last (RFC 3263 §4.3). Must not touch: how targets are found.
//!
//! RFC 2782 draws among running sums with 0 and the sum both included, which gives the first record more than its
//! share. Here each record's chance is exactly its weight's share, and a weight of 0 counts as a small part of a
//! weight of 1: chosen seldom beside others, and evenly among themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Target;
use crate::clock::Time;
use crate::ids::Transport;
use crate::limits::{DNS_BLOCK_TIME, DNS_BLOCKED_COUNT_MAX};
use crate::rng::Rng;

/// How many records of weight 0 make up one of weight 1.
const ZEROES_PER_ONE: u64 = 64;

/// Targets that did not answer, each until when.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    until: BTreeMap<(Transport, SocketAddr), Time>,
}

impl Blocked {
    /// Says whether another one had to give way.
    pub(super) fn block(&mut self, transport: Transport, address: SocketAddr, now: Time) -> bool {
        let key = (transport, address);
        let mut pushed_out = false;
        if self.until.len() >= DNS_BLOCKED_COUNT_MAX && !self.until.contains_key(&key) {
            self.until.retain(|_, until| *until > now);
            if self.until.len() >= DNS_BLOCKED_COUNT_MAX {
                let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
                first.map(|key| self.until.remove(&key));
                pushed_out = true;
            }
        }
        self.until.insert(key, now.after(DNS_BLOCK_TIME));
        pushed_out
    }

    pub(super) fn unblock(&mut self, transport: Transport, address: SocketAddr) {
        self.until.remove(&(transport, address));
    }

    pub(super) fn is_blocked(&self, transport: Transport, address: SocketAddr, now: Time) -> bool {
        self.until.get(&(transport, address)).is_some_and(|until| *until > now)
    }
}

/// The order in which to try them.
pub(super) fn order(targets: &[Target], blocked: &Blocked, rng: &mut Rng, now: Time) -> SmallVec<[Target; 4]> {
    let mut left: SmallVec<[Target; 4]> = SmallVec::from_slice(targets);
    let is_blocked = |target: &Target| blocked.is_blocked(target.transport, target.address, now);
    left.sort_by_key(|target| (is_blocked(target), target.priority));
    let mut from = 0;
    while from < left.len() {
        let (first, is_last) = (left[from].priority, is_blocked(&left[from]));
        let alike = |target: &Target| target.priority == first && is_blocked(target) == is_last;
        let to = from + left[from..].iter().take_while(|target| alike(target)).count();
        draw(&mut left[from..to], rng);
        from = to;
    }
    left
}

/// Puts those of one priority into a random order, by weight.
fn draw(targets: &mut [Target], rng: &mut Rng) {
    let share = |target: &Target| (u64::from(target.weight) * ZEROES_PER_ONE).max(1);
    for at in 0..targets.len().saturating_sub(1) {
        let left = &mut targets[at..];
        let sum: u64 = left.iter().map(share).sum();
        // The sum is far below 2^32, so the remainder favours nobody that counts.
        let mut drawn = rng.next() % sum;
        let mut chosen = 0;
        while drawn >= share(&left[chosen]) {
            drawn -= share(&left[chosen]);
            chosen += 1;
        }
        // The rest keeps its order.
        left[..=chosen].rotate_right(1);
    }
}
