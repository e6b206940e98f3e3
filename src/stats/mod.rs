//! Plain counters and gauges of one shard.
//!
//! Owns: the table of metrics (`table`), each name declared once with its help, the arrays that hold their values,
//! and what is shown of servers and others by name (`upstreams`). The engine and the shell add to a `&mut Counters`;
//! `admin` prints a sum of [`Snapshot`]s. Pure: an index into an array, no registry, no atomics, no names looked up
//! while a message is handled.
//!
//! Which counter belongs to a reason is said in one place for each type of reason: here for the types of
//! `ids`, in `sip::count` for methods and faults, in `engine::count` for closes and refused connections.

mod pick;
mod table;
mod upstreams;

pub use pick::HandshakeFailure;
pub use table::{COUNTERS, Counter, GAUGES, Gauge};
pub use upstreams::{LinkKind, LinkRow, LinkState, NameRow, NameState, PairRow, PeerRow, ServerRow, Upstreams};

/// One line of the table: a metric name with one set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The metric's name; rows with the same name stand together.
    pub name: &'static str,
    /// What it counts, the same for all rows of a name.
    pub help: &'static str,
    /// Label names and values.
    pub labels: &'static [(&'static str, &'static str)],
}

impl Row {
    /// The value of a label, if the row has it.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&'static str> {
        self.labels.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }
}

/// Counter values of one shard.
#[derive(Clone, Debug)]
pub struct Counters {
    values: [u64; COUNTERS.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: [0; COUNTERS.len()] }
    }
}

impl Counters {
    /// Adds one.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds one, and one to the bound that was reached when there is one. For what is seldom.
    pub fn count_with_bound(&mut self, counter: Counter) {
        self.count(counter);
        if let Some(bound) = counter.bound() {
            self.count(bound);
        }
    }

    /// Adds `n`.
    pub fn add(&mut self, counter: Counter, n: u64) {
        let value = &mut self.values[counter as usize];
        *value = value.wrapping_add(n);
    }

    /// The value.
    #[must_use]
    pub fn of(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Adds all of another shard's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.values.iter_mut().zip(other.values) {
            *mine = mine.wrapping_add(theirs);
        }
    }

    /// Every row of the table with its value, in the table's order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Row, u64)> + '_ {
        COUNTERS.iter().zip(self.values)
    }
}

/// Gauge values of one shard. What was not set is 0.
#[derive(Clone, Debug)]
pub struct Gauges {
    values: [u64; GAUGES.len()],
}

impl Default for Gauges {
    fn default() -> Self {
        Self { values: [0; GAUGES.len()] }
    }
}

impl Gauges {
    /// Sets the value of this moment.
    pub fn set(&mut self, gauge: Gauge, value: u64) {
        self.values[gauge as usize] = value;
    }

    /// Sets the value of this moment from a table's length.
    pub fn set_len(&mut self, gauge: Gauge, len: usize) {
        self.set(gauge, u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// The value.
    #[must_use]
    pub fn of(&self, gauge: Gauge) -> u64 {
        self.values[gauge as usize]
    }

    /// Adds all of another shard's: every gauge is a count, so that sums mean something.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.values.iter_mut().zip(other.values) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// Every row of the table with its value, in the table's order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Row, u64)> + '_ {
        GAUGES.iter().zip(self.values)
    }
}

/// Counters and gauges of one shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which shard.
    pub shard: u8,
    /// All counters.
    pub counters: Counters,
    /// All gauges.
    pub gauges: Gauges,
    /// Servers, names, peers and devices.
    pub upstreams: Upstreams,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_of_one_name_stand_together_and_no_two_are_the_same() {
        let mut names = HashSet::new();
        let mut rows = HashSet::new();
        let mut last = "";
        for row in COUNTERS.iter().chain(GAUGES) {
            if row.name != last {
                assert!(names.insert(row.name), "{} is declared twice", row.name);
                last = row.name;
            }
            assert!(rows.insert((row.name, row.labels)), "{} {:?} is declared twice", row.name, row.labels);
        }
    }

    #[test]
    fn names_and_labels_are_what_prometheus_takes() {
        let word =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        for row in COUNTERS.iter().chain(GAUGES) {
            assert!(row.name.starts_with("hawser_") && word(row.name), "{}", row.name);
            assert!(row.help.ends_with('.') && row.help.len() > 15, "{}: {}", row.name, row.help);
            for (key, _) in row.labels {
                assert!(word(key) && *key != "shard", "{} {key}", row.name);
            }
            let keys: Vec<_> = row.labels.iter().map(|(key, _)| key).collect();
            let first = COUNTERS.iter().chain(GAUGES).find(|r| r.name == row.name).expect("it is in the table");
            let first: Vec<_> = first.labels.iter().map(|(key, _)| key).collect();
            assert_eq!(keys, first, "{}: all rows of a name have the same labels", row.name);
        }
        // OpenMetrics names a counter's family without `_total`.
        let stem = |row: &Row| row.name.trim_end_matches("_total").to_owned();
        assert!(GAUGES.iter().all(|gauge| COUNTERS.iter().all(|counter| stem(counter) != gauge.name)));
        assert!(COUNTERS.iter().all(|row| row.name.ends_with("_total")));
        // A counter's family goes by its name without the ending, and must not be a gauge's.
        let family = |row: &Row| row.name.strip_suffix("_total").unwrap_or(row.name);
        assert!(COUNTERS.iter().all(|row| GAUGES.iter().all(|gauge| gauge.name != family(row))));
        assert!(GAUGES.iter().all(|row| !row.name.ends_with("_total")));
    }

    #[test]
    fn a_bound_that_was_reached_is_counted_with_its_consequence() {
        let mut counters = Counters::default();
        counters.count_with_bound(Counter::ScanTooManyFields);
        counters.count_with_bound(Counter::Refused483Hops);
        let counted: Vec<_> = counters.rows().filter(|(_, n)| *n > 0).map(|(row, _)| *row).collect();
        let expected = [Counter::ScanTooManyFields, Counter::Refused483Hops, Counter::LimitFields];
        assert_eq!(counted, expected.map(|counter| *counter.row()));
    }

    #[test]
    fn counters_and_gauges_of_two_shards_add_up() {
        let mut one = Snapshot::default();
        let mut two = Snapshot::default();
        one.counters.count(Counter::Panics);
        two.counters.add(Counter::Panics, 2);
        one.gauges.set(Gauge::Bindings, 5);
        two.gauges.set_len(Gauge::Bindings, 7);
        one.counters.merge(&two.counters);
        one.gauges.merge(&two.gauges);
        assert_eq!(one.counters.of(Counter::Panics), 3);
        assert_eq!(one.gauges.of(Gauge::Bindings), 12);
        assert_eq!(one.counters.rows().map(|(_, n)| n).sum::<u64>(), 3);
        assert_eq!(one.counters.rows().find(|(_, n)| *n == 3).map(|(row, _)| row.name), Some("hawser_panics_total"));
    }
}
