//! Writes what an operator should hear, each kind at a bounded rate.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::clock::Time;
use crate::engine::{Event, Level};
use crate::ids::ShardId;
use crate::limits::LOG_LINES_PER_SECOND_MAX;

const SECOND_US: u64 = 1_000_000;

#[derive(Debug, Default)]
struct Kind {
    /// The second that is counted.
    second: u64,
    lines: u32,
    suppressed: u64,
}

/// The log of one shard.
#[derive(Debug)]
pub struct Reporter {
    shard: ShardId,
    kinds: HashMap<&'static str, Kind>,
}

/// Whether a line is written, and how many of its kind were left out before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Write { suppressed: u64 },
    Suppress,
}

impl Reporter {
    /// Nothing written yet.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self { shard, kinds: HashMap::new() }
    }

    /// Writes the event, unless its kind has had its lines of this second. Says whether it was written.
    pub fn report(&mut self, event: &Event, now: Time) -> bool {
        let Verdict::Write { suppressed } = self.admit(event.what, now) else { return false };
        let (shard, what) = (self.shard.0, event.what);
        let more = More(suppressed);
        let level = match event.level {
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
        };
        match (event.peer, event.about.is_empty()) {
            (Some(peer), true) => log::log!(level, "shard {shard}: {what}: peer {peer}{more}"),
            (Some(peer), false) => log::log!(level, "shard {shard}: {what}: peer {peer}: {}{more}", event.about),
            (None, true) => log::log!(level, "shard {shard}: {what}{more}"),
            (None, false) => log::log!(level, "shard {shard}: {what}: {}{more}", event.about),
        }
        true
    }

    /// The same for what the shell itself has to say.
    pub fn say(&mut self, what: &'static str, peer: Option<SocketAddr>, about: String, now: Time) -> bool {
        self.report(&Event { level: Level::Warn, what, peer, about }, now)
    }

    fn admit(&mut self, what: &'static str, now: Time) -> Verdict {
        let second = now.0 / SECOND_US;
        let kind = self.kinds.entry(what).or_default();
        if kind.second != second {
            kind.second = second;
            kind.lines = 0;
        }
        if kind.lines >= LOG_LINES_PER_SECOND_MAX {
            kind.suppressed += 1;
            return Verdict::Suppress;
        }
        kind.lines += 1;
        Verdict::Write { suppressed: std::mem::take(&mut kind.suppressed) }
    }
}

struct More(u64);

impl std::fmt::Display for More {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} more of these were suppressed)", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_lines_for_a_second_and_then_says_what_was_left_out() {
        let mut reporter = Reporter::new(ShardId(0));
        let second = |s: u64| Time(s * SECOND_US);
        for _ in 0..LOG_LINES_PER_SECOND_MAX {
            assert_eq!(reporter.admit("a", second(3)), Verdict::Write { suppressed: 0 });
        }
        for _ in 0..7 {
            assert_eq!(reporter.admit("a", second(3)), Verdict::Suppress);
        }
        assert_eq!(reporter.admit("b", second(3)), Verdict::Write { suppressed: 0 });
        assert_eq!(reporter.admit("a", second(4)), Verdict::Write { suppressed: 7 });
        assert_eq!(reporter.admit("a", second(4)), Verdict::Write { suppressed: 0 });
    }
}
