//! Plain counters and gauges, each metric name declared once. Pure: the shell and the engine add to a
//! `&mut Counters`; `admin` prints a sum of [`Snapshot`]s.

macro_rules! counters {
    ($($variant:ident => $name:literal, $labels:literal, $help:literal;)*) => {
        /// A monotonic counter. One variant for each metric name and label set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "the help text in the table says it")]
        pub enum Counter { $($variant),* }

        /// (metric name, labels as `key="value",…`, help), in the order of [`Counter`].
        pub const COUNTERS: &[(&str, &str, &str)] = &[$(($name, $labels, $help)),*];
    };
}

// Rows with the same metric name stand together.
counters! {
    RequestsServer => "hawser_requests_total", "side=\"server\"", "Requests received, retransmissions left out.";
    RequestsEndpoint => "hawser_requests_total", "side=\"endpoint\"", "Requests received, retransmissions left out.";
    Placed => "hawser_placed_total", "", "Messages passed to the shard that placement names.";
    MailSent => "hawser_mail_sent_total", "", "Mails sent to other shards.";
    MailRefused => "hawser_mail_refused_total", "", "Mails that found the mailbox full.";
    StallsNudged => "hawser_shard_stalls_nudged_total", "", "Stalled executors that the watchdog woke.";
    Panics => "hawser_panics_total", "", "Panics caught while a message was handled.";
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
}

/// Counters and gauges of one shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which shard.
    pub shard: u8,
    /// All counters.
    pub counters: Counters,
    /// Name, labels, value, in a fixed order: the same on every shard.
    pub gauges: Vec<(&'static str, &'static str, f64)>,
}
