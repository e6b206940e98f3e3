//! Writes what an operator should hear, at a rate that is bounded by kind and by the network that it comes from, so that
//! whoever scans does not hide the one phone that fails; and each ten seconds what was left out, with where most of it
//! came from.
//!
//! A kind is the fixed words of an event with its reason. A network is an IPv4 address's /24 or an IPv6 address's /64,
//! which is what one party commonly has. Of one kind and network each second some lines are written; of one kind, over
//! all networks, more; and past that still as many for networks that have had none in these ten seconds. What is only
//! told at the levels debug and trace is asked for and written as it comes: the queue behind the log bounds it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::abuse::{LET_IN, SHUT_OUT};
use crate::clock::Time;
use crate::engine::{Event, Level};
use crate::ids::ShardId;
use crate::limits::{LOG_LINES_OF_KIND_PER_SECOND_MAX, LOG_LINES_PER_SECOND_MAX, LOG_SOURCES_COUNT_MAX};

const SECOND_US: u64 = 1_000_000;
/// From one summary to the next.
const WINDOW: Duration = Duration::from_secs(10);
/// Networks that a summary names.
const NAMED_MAX: usize = 3;

/// The fixed words of an event, and of its reason.
type Kind = (&'static str, &'static str);

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Network {
    /// From no peer.
    None,
    /// The first address of the /24 or /64.
    Of(IpAddr),
    /// Networks for which the table had no room.
    Others,
}

impl Network {
    fn of(peer: Option<SocketAddr>) -> Self {
        match peer.map(|peer| peer.ip().to_canonical()) {
            None => Self::None,
            Some(IpAddr::V4(ip)) => Self::Of(IpAddr::V4((ip.to_bits() & !0xff).into())),
            Some(IpAddr::V6(ip)) => Self::Of(IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into())),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no peer"),
            Self::Of(ip @ IpAddr::V4(_)) => write!(f, "{ip}/24"),
            Self::Of(ip @ IpAddr::V6(_)) => write!(f, "{ip}/64"),
            Self::Others => f.write_str("further networks"),
        }
    }
}

/// Lines of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    second: u64,
    lines: u32,
}

impl Second {
    /// Lines so far of the second that this moment is in.
    fn lines(&mut self, now: Time) -> &mut u32 {
        let second = now.0 / SECOND_US;
        if self.second != second {
            *self = Self { second, lines: 0 };
        }
        &mut self.lines
    }
}

/// What has become of the events of a kind, or of a kind and a network, in these ten seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    second: Second,
    written: u64,
    left_out: u64,
}

/// The log of one shard.
#[derive(Debug)]
pub struct Reporter {
    shard: ShardId,
    /// When the first event of these ten seconds came.
    begun: Option<Time>,
    /// Something was left out since.
    left_out: bool,
    kinds: HashMap<Kind, (Level, Tally)>,
    sources: HashMap<(Kind, Network), Tally>,
}

impl Reporter {
    /// Nothing written yet.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self { shard, begun: None, left_out: false, kinds: HashMap::new(), sources: HashMap::new() }
    }

    /// Writes the event, unless its kind and network have had their lines of this second. Says whether it was written.
    pub fn report(&mut self, event: &Event, now: Time) -> bool {
        if !self.admits(event, now) {
            return false;
        }
        let (shard, what, said) = (self.shard.0, event.what, event.said());
        let level = level_of(event.level);
        match (event.peer, said.is_empty()) {
            (Some(peer), true) => log::log!(level, "shard {shard}: {what}: peer {peer}"),
            (Some(peer), false) => log::log!(level, "shard {shard}: {what}: peer {peer}: {said}"),
            (None, true) => log::log!(level, "shard {shard}: {what}"),
            (None, false) => log::log!(level, "shard {shard}: {what}: {said}"),
        }
        true
    }

    /// When what was left out is to be told.
    pub fn due(&self) -> Option<Time> {
        self.begun.filter(|_| self.left_out).map(|begun| begun.after(WINDOW))
    }

    /// Tells it when it is time.
    pub fn fire(&mut self, now: Time) {
        if self.begun.is_some_and(|begun| begun.after(WINDOW) <= now) {
            self.tell_left_out();
        }
    }

    /// Tells what was left out in these ten seconds, which end with this.
    pub fn tell_left_out(&mut self) {
        for (level, line) in self.summary() {
            log::log!(level_of(level), "shard {}: {line}", self.shard.0);
        }
        (self.begun, self.left_out) = (None, false);
        self.kinds.clear();
        self.sources.clear();
    }

    /// A line for each kind of which something was left out.
    fn summary(&self) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        for (kind, (level, tally)) in self.kinds.iter().filter(|(_, (_, tally))| tally.left_out > 0) {
            let of_kind = self.sources.iter().filter(|((its, _), source)| its == kind && source.left_out > 0);
            let mut most: Vec<(u64, Network)> = of_kind.map(|((_, network), s)| (s.left_out, *network)).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let named: Vec<_> = most.iter().take(NAMED_MAX).map(|(n, network)| format!("{network} ({n})")).collect();
            let (what, reason) = kind;
            let joint = if reason.is_empty() { "" } else { ": " };
            let all = tally.written + tally.left_out;
            lines.push((
                *level,
                format!(
                    "{what}{joint}{reason}: {} of {all} in {} s were left out, of {} networks, most from {}",
                    tally.left_out,
                    WINDOW.as_secs(),
                    most.len(),
                    named.join(", ")
                ),
            ));
        }
        lines.sort_by(|(_, a), (_, b)| a.cmp(b));
        lines
    }

    fn admits(&mut self, event: &Event, now: Time) -> bool {
        // Those who read bans must not miss one; what it takes to be shut out bounds their rate.
        let is_ban = matches!(event.what, SHUT_OUT | LET_IN);
        if is_ban || matches!(event.level, Level::Debug | Level::Trace) {
            return true;
        }
        self.fire(now);
        self.begun.get_or_insert(now);
        let kind = (event.what, event.reason);
        let mut network = Network::of(event.peer);
        if self.sources.len() >= LOG_SOURCES_COUNT_MAX && !self.sources.contains_key(&(kind, network)) {
            network = Network::Others;
        }
        let (_, of_kind) = self.kinds.entry(kind).or_insert((event.level, Tally::default()));
        let source = self.sources.entry((kind, network)).or_default();
        let (lines, lines_of_kind) = (source.second.lines(now), of_kind.second.lines(now));
        let kind_max = LOG_LINES_OF_KIND_PER_SECOND_MAX;
        let kind_has_room = *lines_of_kind < kind_max || (source.written == 0 && *lines_of_kind < 2 * kind_max);
        if *lines < LOG_LINES_PER_SECOND_MAX && kind_has_room {
            *lines += 1;
            *lines_of_kind += 1;
            source.written += 1;
            of_kind.written += 1;
            true
        } else {
            self.left_out = true;
            source.left_out += 1;
            of_kind.left_out += 1;
            false
        }
    }
}

fn level_of(level: Level) -> log::Level {
    match level {
        Level::Trace => log::Level::Trace,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &'static str, peer: &str) -> Event {
        let peer = Some(format!("{peer}:5060").parse().unwrap());
        Event { level: Level::Warn, what: "request refused", reason, peer, about: String::new() }
    }

    /// How many of so many events of this second are written.
    fn written(reporter: &mut Reporter, event: &Event, second: u64, count: u32) -> u32 {
        (0..count).map(|_| u32::from(reporter.admits(event, Time(second * SECOND_US)))).sum()
    }

    #[test]
    fn each_kind_has_its_lines_for_a_second_and_each_network() {
        let mut reporter = Reporter::new(ShardId(0));
        let max = LOG_LINES_PER_SECOND_MAX;
        assert_eq!(written(&mut reporter, &event("Forbidden", "203.0.113.1"), 3, max + 7), max);
        assert_eq!(written(&mut reporter, &event("Forbidden", "203.0.113.99"), 3, 7), 0, "the same network");
        assert_eq!(written(&mut reporter, &event("Not Found", "203.0.113.1"), 3, 1), 1, "another reason");
        assert_eq!(written(&mut reporter, &event("Forbidden", "198.51.100.1"), 3, 1), 1, "another network");
        assert_eq!(written(&mut reporter, &event("Forbidden", "203.0.113.1"), 4, max), max, "another second");
        let debug = Event { level: Level::Debug, ..event("Forbidden", "203.0.113.1") };
        assert_eq!(written(&mut reporter, &debug, 4, 100), 100, "it is asked for");
    }

    #[test]
    fn no_ban_is_left_out_however_many_there_are() {
        let mut reporter = Reporter::new(ShardId(0));
        for what in [SHUT_OUT, LET_IN] {
            let ban = Event { what, peer: None, ..event("", "203.0.113.1") };
            assert_eq!(written(&mut reporter, &ban, 3, 1_000), 1_000, "{what}");
        }
    }

    #[test]
    fn a_scanner_does_not_hide_the_one_phone_that_fails() {
        let mut reporter = Reporter::new(ShardId(0));
        for second in 0..5 {
            for host in 0..200 {
                written(&mut reporter, &event("Forbidden", &format!("203.0.113.{host}")), second, 50);
            }
        }
        assert_eq!(written(&mut reporter, &event("Forbidden", "198.51.100.7"), 4, 1), 1);
    }

    #[test]
    fn many_networks_together_have_a_bound_and_who_had_no_line_yet_has_a_part_of_its_own() {
        let mut reporter = Reporter::new(ShardId(0));
        let max = LOG_LINES_OF_KIND_PER_SECOND_MAX;
        let from = |net: u32| event("Forbidden", &format!("10.{}.{}.1", net / 256, net % 256));
        let scan: u32 = (0..max).map(|net| written(&mut reporter, &from(net), 0, 100)).sum();
        assert!((max..=2 * max).contains(&scan), "{scan}");
        let scan: u32 = (0..max).map(|net| written(&mut reporter, &from(net), 1, 100)).sum();
        assert_eq!(scan, max, "they have had theirs");
        assert_eq!(written(&mut reporter, &event("Forbidden", "198.51.100.7"), 1, 1), 1);
        let new: u32 = (0..4 * max).map(|net| written(&mut reporter, &from(1_000 + net), 2, 1)).sum();
        assert_eq!(new, 2 * max, "and no more than that, whoever it is");
    }

    #[test]
    fn what_was_left_out_is_told_after_ten_seconds_by_reason_with_where_most_came_from() {
        let mut reporter = Reporter::new(ShardId(0));
        assert_eq!(reporter.due(), None);
        for (host, count) in [("203.0.113.1", 105), ("198.51.100.1", 15), ("192.0.2.1", 10), ("[2001:db8::1]", 8)] {
            written(&mut reporter, &event("Forbidden", host), 20, count);
        }
        written(&mut reporter, &event("Not Found", "192.0.2.1"), 21, 1);
        assert_eq!(reporter.due(), Some(Time(30 * SECOND_US)));
        assert_eq!(
            reporter.summary().into_iter().map(|(_, line)| line).collect::<Vec<_>>(),
            ["request refused: Forbidden: 118 of 138 in 10 s were left out, of 4 networks, most from 203.0.113.0/24 \
              (100), 198.51.100.0/24 (10), 192.0.2.0/24 (5)"]
        );
        reporter.fire(Time(29 * SECOND_US));
        assert!(reporter.due().is_some(), "not yet");
        reporter.fire(Time(30 * SECOND_US));
        assert!(reporter.due().is_none() && reporter.sources.is_empty() && reporter.kinds.is_empty());
    }

    #[test]
    fn sources_past_the_bound_of_the_table_count_as_one() {
        let mut reporter = Reporter::new(ShardId(0));
        for net in 0..=LOG_SOURCES_COUNT_MAX {
            let peer = format!("10.{}.{}.1", net / 256, net % 256);
            written(&mut reporter, &event("Forbidden", &peer), 0, 1);
        }
        for _ in 0..10 {
            written(&mut reporter, &event("Forbidden", "192.0.2.1"), 0, 10);
        }
        assert_eq!(reporter.sources.len(), LOG_SOURCES_COUNT_MAX + 1);
        let (_, line) = &reporter.summary()[0];
        assert!(line.contains("further networks ("), "{line}");
    }
}
