//! What each source address has here: connections without a binding, which are bounded, and such with one.
//!
//! Owns: these two numbers. Must not touch: what follows from them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::ports::{KeyedState, halve};
use crate::planted::{Plant, planted};

/// What a connection of a source is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It holds no binding.
    Unregistered,
    /// It holds one.
    Bound,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Source {
    unregistered: u32,
    bound: u32,
}

impl Source {
    fn of(&mut self, what: Counted) -> &mut u32 {
        match what {
            Counted::Unregistered => &mut self.unregistered,
            Counted::Bound => &mut self.bound,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sources(HashMap<IpAddr, Source, KeyedState>);

impl Sources {
    pub(super) fn new(state: KeyedState) -> Self {
        Self(HashMap::with_hasher(state))
    }

    pub(super) fn came(&mut self, ip: IpAddr, what: Counted) {
        *self.0.entry(ip).or_default().of(what) += 1;
    }

    pub(super) fn went(&mut self, ip: IpAddr, what: Counted) {
        if what == Counted::Unregistered && planted(Plant::ShareNotCounted) {
            return;
        }
        if let Some(source) = self.0.get_mut(&ip) {
            let count = source.of(what);
            *count = count.saturating_sub(1);
            if *source == Source::default() {
                self.0.remove(&ip);
            }
        }
    }

    /// Connections without a binding of a source.
    pub(super) fn unregistered(&self, ip: IpAddr) -> u32 {
        self.0.get(&ip).map_or(0, |source| source.unregistered)
    }

    /// Whether a connection of a source holds a binding.
    pub(super) fn is_bound(&self, ip: IpAddr) -> bool {
        self.0.get(&ip).is_some_and(|source| source.bound > 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both numbers over all sources.
    pub(super) fn sums(&self) -> (u32, u32) {
        self.0
            .values()
            .fold((0, 0), |(unregistered, bound), source| (unregistered + source.unregistered, bound + source.bound))
    }

    pub(super) fn shrink(&mut self) {
        halve(&mut self.0);
    }
}
