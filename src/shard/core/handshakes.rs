//! The TLS handshakes in the air of one shard: how many there may be, and which one gives way.
//!
//! Owns: their order and their number, in all and by source address. Must not touch: connections; what is decided
//! here is carried out by [`super::connection`].
//!
//! A burst of connections is taken in at the pace of the cryptography: while the bound is reached, connections wait in
//! the listener's queue, so that a thousand phones that come back at once all get in. Stalled ones do not hold up that
//! queue: who has had its time gives way to the next. A source that fills its share gives way among its own, and waits
//! aside ([`super::parked`]), so that nobody waits behind it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::conn::Key;
use crate::clock::Time;
use crate::limits::HANDSHAKES_COUNT_MAX;
use crate::stats::Counter;

/// A handshake may take so long before it gives way to newer ones while this shard has others to reckon: what it waits
/// for may be its turn.
const PATIENCE_BUSY: Duration = Duration::from_millis(500);
/// The same in an overload, in which handshakes give way: whose turn does not come is not to blame.
const PATIENCE_OVERLOADED: Duration = Duration::from_secs(5);
/// How long a handshake may take while this shard waits for its peers: two round trips. Short, for nobody is let in
/// meanwhile, and whoever fills the places with connections that say nothing must not keep others out.
const PATIENCE_IDLE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug)]
struct Entry {
    begun: Time,
    /// `None` for one that we have begun, which counts for no source.
    source: Option<IpAddr>,
    key: Key,
}

/// What handshakes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Their peers.
    Idle,
    /// This shard: some wait for their turn.
    Busy,
    /// An overload.
    Overloaded,
}

impl Pace {
    fn patience(self) -> Duration {
        match self {
            Self::Idle => PATIENCE_IDLE,
            Self::Busy => PATIENCE_BUSY,
            Self::Overloaded => PATIENCE_OVERLOADED,
        }
    }
}

/// Whether a handshake may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The handshake may begin.
    Now,
    /// The source has as many as it may have: this handshake waits, and nobody behind it.
    Parks,
    /// There are as many as may be: everybody waits.
    Waits,
}

/// The handshakes of one shard.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// The oldest first.
    all: VecDeque<Entry>,
    by_source: BTreeMap<IpAddr, usize>,
}

impl Handshakes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a handshake with this source, which may have so many, may begin now; if not, it may soon.
    pub(super) fn turn(&self, source: IpAddr, of_source_max: usize, pace: Pace, now: Time) -> Turn {
        let patience = pace.patience();
        let (in_the_way, otherwise) = if self.of(source) >= of_source_max {
            (self.oldest_of(source), Turn::Parks)
        } else if self.all.len() >= HANDSHAKES_COUNT_MAX {
            (self.all.front(), Turn::Waits)
        } else {
            (None, Turn::Now)
        };
        if in_the_way.is_none_or(|entry| entry.begun.after(patience) <= now) { Turn::Now } else { otherwise }
    }

    /// One has begun; with its source, if it counts for one, and how many that may have. Says which one gives way to it, and
    /// the bound by which it does.
    pub(super) fn begin(&mut self, key: Key, share: Option<(IpAddr, usize)>, now: Time) -> Option<(Key, Counter)> {
        self.all.push_back(Entry { begun: now, source: share.map(|(source, _)| source), key });
        if let Some((source, of_source_max)) = share {
            *self.by_source.entry(source).or_insert(0) += 1;
            if self.of(source) > of_source_max {
                return Some((self.oldest_of(source)?.key, Counter::LimitHandshakesPerSource));
            }
        }
        let is_over = self.all.len() > HANDSHAKES_COUNT_MAX;
        self.all.front().filter(|_| is_over).map(|entry| (entry.key, Counter::LimitHandshakesCount))
    }

    /// One is over, however it ended.
    pub(super) fn end(&mut self, key: Key) {
        let Some(at) = self.all.iter().position(|entry| entry.key == key) else { return };
        let Some(Entry { source: Some(source), .. }) = self.all.remove(at) else { return };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    fn of(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    fn oldest_of(&self, source: IpAddr) -> Option<&Entry> {
        self.all.iter().find(|entry| entry.source == Some(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HANDSHAKES_PER_SOURCE_MAX;

    const SHARE: usize = HANDSHAKES_PER_SOURCE_MAX;
    const START: Time = Time(1_000_000);

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// So many of one source, from the first number on.
    fn burst(all: &mut Handshakes, first: usize, count: usize, from: IpAddr) {
        for at in first..first + count {
            assert_eq!(all.begin(Key::of_test(at), Some((from, SHARE)), START), None, "{at}");
        }
    }

    #[test]
    fn the_bound_is_waited_for_and_then_the_oldest_gives_way() {
        let mut all = Handshakes::default();
        burst(&mut all, 0, HANDSHAKES_COUNT_MAX / 2, source(1));
        burst(&mut all, 1_000, HANDSHAKES_COUNT_MAX - HANDSHAKES_COUNT_MAX / 2, source(2));
        for (pace, patience) in
            [(Pace::Overloaded, PATIENCE_OVERLOADED), (Pace::Busy, PATIENCE_BUSY), (Pace::Idle, PATIENCE_IDLE)]
        {
            assert_eq!(all.turn(source(3), SHARE, pace, START), Turn::Waits, "at the bound");
            assert_eq!(all.turn(source(3), SHARE, pace, START.after(patience - Duration::from_micros(1))), Turn::Waits);
            assert_eq!(all.turn(source(3), SHARE, pace, START.after(patience)), Turn::Now);
        }
        let gives_way = all.begin(Key::of_test(9_999), Some((source(3), SHARE)), START.after(PATIENCE_IDLE));
        assert_eq!(gives_way, Some((Key::of_test(0), Counter::LimitHandshakesCount)));
        all.end(Key::of_test(0));
        assert_eq!(all.len(), HANDSHAKES_COUNT_MAX);
        all.end(Key::of_test(1));
        assert_eq!(all.turn(source(3), SHARE, Pace::Busy, START), Turn::Now, "one below it");
    }

    #[test]
    fn a_source_waits_and_gives_way_among_its_own() {
        let mut all = Handshakes::default();
        burst(&mut all, 5_000, 1, source(2));
        burst(&mut all, 0, SHARE, source(1));
        assert_eq!(all.turn(source(1), SHARE, Pace::Busy, START), Turn::Parks);
        assert_eq!(all.turn(source(2), SHARE, Pace::Busy, START), Turn::Now, "others are not held up");
        burst(&mut all, 6_000, HANDSHAKES_COUNT_MAX - SHARE - 1, source(3));
        assert_eq!(all.turn(source(2), SHARE, Pace::Busy, START), Turn::Waits);
        assert_eq!(
            all.turn(source(1), SHARE, Pace::Busy, START),
            Turn::Parks,
            "nor by it, when there is room for nobody"
        );
        let gives_way = all.begin(Key::of_test(9_999), Some((source(1), SHARE)), START.after(PATIENCE_BUSY));
        assert_eq!(gives_way, Some((Key::of_test(0), Counter::LimitHandshakesPerSource)), "not the oldest of all");
        for at in (0..SHARE).chain(6_000..6_100).chain([5_000, 9_999]) {
            all.end(Key::of_test(at));
        }
        assert_eq!((all.len(), all.by_source.len()), (0, 0), "nothing is left behind");
    }

    #[test]
    fn each_source_has_the_share_of_its_own_network() {
        let mut all = Handshakes::default();
        for at in 0..2 {
            assert_eq!(all.turn(source(1), 2, Pace::Busy, START), Turn::Now, "{at}");
            assert_eq!(all.begin(Key::of_test(at), Some((source(1), 2)), START), None);
        }
        assert_eq!(all.turn(source(1), 2, Pace::Busy, START), Turn::Parks, "at its bound");
        assert_eq!(all.turn(source(2), 3, Pace::Busy, START), Turn::Now, "which is nobody else's");
        let gives_way = all.begin(Key::of_test(2), Some((source(1), 2)), START);
        assert_eq!(gives_way, Some((Key::of_test(0), Counter::LimitHandshakesPerSource)), "one past it");
    }
}
