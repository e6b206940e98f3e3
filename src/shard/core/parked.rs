//! Connections that were accepted and whose handshake waits for the turn of their source.
//!
//! Owns: their order, and who gives way when there are too many. Must not touch: when a turn comes, which
//! [`super::handshakes`] says.
//!
//! A source that has filled its share of handshakes waits here, alone: the listener's queue goes on for everybody else.
//! So a site of a thousand phones behind one address gets in at the pace of the cryptography, and a host that opens
//! thousands of idle connections a second only ever delays itself. When too many wait, the newest of the source that
//! has the most gives way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::clock::Time;
use crate::limits::HANDSHAKE_MAX;

/// The parked connections of one shard. `T` is what is kept of a connection.
#[derive(Debug)]
pub(super) struct Parked<T> {
    /// The oldest first. No queue is empty.
    by_source: BTreeMap<IpAddr, VecDeque<(Time, T)>>,
    len: usize,
}

impl<T> Default for Parked<T> {
    fn default() -> Self {
        Self { by_source: BTreeMap::new(), len: 0 }
    }
}

impl<T> Parked<T> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether this source has some.
    pub(super) fn holds(&self, source: IpAddr) -> bool {
        self.by_source.contains_key(&source)
    }

    /// Sources that have parked connections.
    pub(super) fn sources(&self) -> Vec<IpAddr> {
        self.by_source.keys().copied().collect()
    }

    /// Puts one behind those of its source. Gives the one that gives way to it, when there would be more than
    /// `count_max`.
    pub(super) fn push(&mut self, source: IpAddr, what: T, count_max: usize, now: Time) -> Option<T> {
        self.by_source.entry(source).or_default().push_back((now, what));
        self.len += 1;
        if self.len <= count_max {
            return None;
        }
        let most = self.by_source.iter().max_by_key(|(_, queue)| queue.len()).map(|(source, _)| *source)?;
        self.take(most, VecDeque::pop_back)
    }

    /// The oldest of a source.
    pub(super) fn pop(&mut self, source: IpAddr) -> Option<T> {
        self.take(source, VecDeque::pop_front)
    }

    /// The oldest of a source, when it has waited for as long as a whole handshake may take.
    pub(super) fn pop_expired(&mut self, source: IpAddr, now: Time) -> Option<T> {
        let (since, _) = self.by_source.get(&source)?.front()?;
        if since.after(HANDSHAKE_MAX) > now {
            return None;
        }
        self.pop(source)
    }

    fn take(&mut self, source: IpAddr, pop: impl FnOnce(&mut VecDeque<(Time, T)>) -> Option<(Time, T)>) -> Option<T> {
        let queue = self.by_source.get_mut(&source)?;
        let (_, what) = pop(queue)?;
        self.len -= 1;
        if queue.is_empty() {
            self.by_source.remove(&source);
        }
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(1_000_000);

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_source_waits_in_its_own_queue_and_the_longest_gives_way() {
        let mut parked = Parked::default();
        for at in 0..5 {
            assert_eq!(parked.push(source(1), at, 6, START), None);
        }
        assert_eq!(parked.push(source(2), 100, 6, START), None);
        assert_eq!(parked.push(source(2), 101, 6, START), Some(4), "the newest of those who are most");
        assert_eq!(parked.push(source(1), 5, 6, START), Some(5));
        assert_eq!((parked.pop(source(1)), parked.pop(source(2))), (Some(0), Some(100)));
        assert_eq!((parked.len(), parked.holds(source(2)), parked.holds(source(3))), (4, true, false));
        assert_eq!((parked.pop(source(2)), parked.pop(source(2)), parked.pop(source(3))), (Some(101), None, None));
        assert_eq!(parked.sources(), [source(1)]);
        while parked.pop(source(1)).is_some() {}
        assert_eq!((parked.len(), parked.by_source.len()), (0, 0), "nothing is left behind");
    }

    #[test]
    fn nobody_waits_for_longer_than_a_handshake_may_take() {
        let mut parked = Parked::default();
        assert_eq!(parked.push(source(1), 'a', 6, START), None);
        assert_eq!(parked.push(source(1), 'b', 6, START.after(HANDSHAKE_MAX)), None);
        assert_eq!(parked.pop_expired(source(1), START), None);
        assert_eq!(parked.pop_expired(source(1), START.after(HANDSHAKE_MAX)), Some('a'));
        assert_eq!(parked.pop_expired(source(1), START.after(HANDSHAKE_MAX)), None, "the next came later");
    }
}
