//! Record sets by name and type, each with its time: what was found, and that nothing was (RFC 2308).
//!
//! Owns: freshness, the stale window (RFC 8767), the bound. Must not touch: what records mean, who asks.
//!
//! A set outlives its TTL by `ttl_stale`. It serves then only when asking for it again has failed, or while it is
//! known that no resolver answers; any answer of a resolver, "no such name" too, replaces it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::wire::{Kind, Known};
use crate::clock::Time;
use crate::limits::{
    DNS_NAME_MAX, DNS_RETRY_AFTER, DNS_SETS_COUNT_MAX, DNS_TTL_LEAST, DNS_TTL_MAX, DNS_TTL_NEGATIVE_MAX,
};

// Else an asker could ask again and again for what fails.
const _: () = assert!(DNS_RETRY_AFTER.as_micros() >= DNS_NAME_MAX.as_micros());

#[derive(Debug)]
struct Set {
    /// `None`: asked for, and never answered.
    known: Option<Known>,
    /// When it was answered last.
    fetched: Time,
    /// Fresh before that.
    until: Time,
    /// When asking has failed last; forgotten with the next answer.
    failed: Option<Time>,
}

/// Since when, and whether expired sets will do.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub now: Time,
    /// What was answered since then counts though its time is over: the asker began then. What has failed counts for
    /// longer than an asker waits.
    pub since: Time,
    /// Take what has expired rather than ask.
    pub stale: bool,
}

/// What the cache has.
#[derive(Debug)]
pub(super) enum Seen<'a> {
    /// Fresh, or good enough for this asker, until then.
    Known { known: &'a Known, until: Time, stale: bool },
    /// No resolver has answered, and there is nothing stale; not to be asked again until then.
    Unanswered { until: Time },
    /// To be asked for.
    Missing,
}

#[derive(Debug)]
pub(super) struct Cache {
    sets: BTreeMap<Kind, BTreeMap<Box<str>, Set>>,
    len: usize,
    ttl_stale: Duration,
}

impl Cache {
    pub(super) fn new(ttl_stale: Duration) -> Self {
        Self { sets: BTreeMap::new(), len: 0, ttl_stale }
    }

    pub(super) fn look(&self, name: &str, kind: Kind, at: At) -> Seen<'_> {
        let Some(set) = self.sets.get(&kind).and_then(|sets| sets.get(name)) else { return Seen::Missing };
        let stale = set.known.as_ref().filter(|_| at.now < set.until.after(self.ttl_stale));
        if let Some(failed) = set.failed
            && at.now < failed.after(DNS_RETRY_AFTER)
        {
            let until = failed.after(DNS_RETRY_AFTER);
            return match stale {
                Some(known) => Seen::Known { known, until: until.max(set.until), stale: at.now >= set.until },
                None => Seen::Unanswered { until },
            };
        }
        match &set.known {
            Some(known) if at.now < set.until || (set.failed.is_none() && set.fetched >= at.since) => {
                Seen::Known { known, until: set.until, stale: false }
            }
            _ => match stale {
                Some(known) if at.stale => Seen::Known { known, until: at.now.after(DNS_RETRY_AFTER), stale: true },
                _ => Seen::Missing,
            },
        }
    }

    /// A resolver has answered. Says whether another set had to give way.
    pub(super) fn put(&mut self, name: Box<str>, kind: Kind, known: Known, ttl: u32, now: Time) -> bool {
        let ttl_max = match known {
            Known::NoSuchName | Known::NoRecords | Known::AliasesWithoutEnd => DNS_TTL_NEGATIVE_MAX,
            _ => DNS_TTL_MAX,
        };
        let ttl = Duration::from_secs(ttl.into()).clamp(DNS_TTL_LEAST, ttl_max);
        let set = Set { known: Some(known), fetched: now, until: now.after(ttl), failed: None };
        self.insert(name, kind, set)
    }

    /// No resolver has answered. Says whether another set had to give way.
    pub(super) fn fail(&mut self, name: Box<str>, kind: Kind, now: Time) -> bool {
        if let Some(set) = self.sets.get_mut(&kind).and_then(|sets| sets.get_mut(&name)) {
            set.failed = Some(now);
            return false;
        }
        self.insert(name, kind, Set { known: None, fetched: now, until: now, failed: Some(now) })
    }

    fn insert(&mut self, name: Box<str>, kind: Kind, set: Set) -> bool {
        let is_there = self.sets.get(&kind).is_some_and(|sets| sets.contains_key(&name));
        let gives_way = !is_there && self.len >= DNS_SETS_COUNT_MAX;
        if gives_way {
            self.drop_oldest();
        }
        if self.sets.entry(kind).or_default().insert(name, set).is_none() {
            self.len += 1;
        }
        gives_way
    }

    fn drop_oldest(&mut self) {
        let all = self.sets.iter().flat_map(|(kind, sets)| sets.iter().map(|(name, set)| (set.until, *kind, name)));
        let Some((_, kind, name)) = all.min().map(|(until, kind, name)| (until, kind, name.clone())) else { return };
        if self.sets.get_mut(&kind).is_some_and(|sets| sets.remove(&name).is_some()) {
            self.len -= 1;
        }
    }
}
