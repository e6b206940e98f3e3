//! What the lab counts, and a histogram of times.

use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Counters of a whole process. Names are what the JSON summary prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub messages_in: u64,
    pub messages_out: u64,
    pub malformed_in: u64,
    pub requests_resent: u64,
    pub responses_resent: u64,
    pub retransmissions_in: u64,
    pub unmatched_responses: u64,
    pub unmatched_acks: u64,
    pub unmatched_requests: u64,
    pub ack_missing: u64,
    pub timeouts: u64,
    pub undeliverable: u64,
    /// Requests that reached the SIP Server, each once.
    pub invites_in: u64,
    pub options_in: u64,
    pub registers_in: u64,
    /// INVITEs of ours that nobody ever gave a final answer to, although the way there stood.
    pub invites_unanswered: u64,
    /// A 2xx of another dialog after the first one: two servers or phones have taken one call.
    pub second_answers: u64,
    /// INVITEs that reached a phone although their call was there already.
    pub duplicate_calls: u64,
    /// Requests inside a dialog that came to the server by another proxy than the INVITE.
    pub dialogs_moved: u64,
    pub registers_sent: u64,
    pub registered: u64,
    pub register_failures: BTreeMap<String, u64>,
    pub path_kept_from_phone: u64,
    pub path_shown_to_phone: u64,
    pub connections_opened: u64,
    pub connections_closed: BTreeMap<String, u64>,
    pub calls_placed: u64,
    pub calls_answered: u64,
    pub calls_ended: u64,
    pub calls_failed: BTreeMap<String, u64>,
    pub calls_lost: u64,
    pub byes_lost: u64,
    pub calls_received: u64,
    pub reinvites_answered: u64,
    pub wrong_connection: u64,
    pub wrong_phone: u64,
    /// From INVITE to its 200, of calls that this process placed.
    #[serde(skip)]
    pub setup: Histogram,
}

impl Tally {
    /// Calls that were refused.
    pub fn failed(&self) -> u64 {
        self.calls_failed.values().sum()
    }

    /// Calls or BYEs that nobody answered.
    pub fn lost(&self) -> u64 {
        self.calls_lost + self.byes_lost
    }

    /// Requests that reached a phone by another's connection, or another phone.
    pub fn astray(&self) -> u64 {
        self.wrong_connection + self.wrong_phone
    }

    /// What became of the calls, as the reports show it.
    pub fn calls(&self, still_open: usize) -> Value {
        json!({
            "placed": self.calls_placed,
            "answered": self.calls_answered,
            "ended": self.calls_ended,
            "failed": self.failed(),
            "failed_by": self.calls_failed,
            "lost": self.lost(),
            "still_open": still_open,
        })
    }

    /// Adds one to a counter that is kept by reason.
    pub fn count(map: &mut BTreeMap<String, u64>, reason: impl Into<String>) {
        *map.entry(reason.into()).or_default() += 1;
    }
}

const SUB_BITS: u32 = 6;
const BUCKETS: usize = 64 << SUB_BITS;

/// Times in microseconds, each within 1.6 % of what was put in.
#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max_us: 0 }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({} times, max {} us)", self.count, self.max_us)
    }
}

impl Histogram {
    pub fn record(&mut self, us: u64) {
        self.buckets[bucket(us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    pub fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1_000.0
    }

    /// The time that `share` of all stayed within, in milliseconds; zero when there are none.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return (ceiling_us(at).min(self.max_us)) as f64 / 1_000.0;
            }
        }
        0.0
    }

    /// The percentiles that every report shows.
    pub fn summary(&self) -> Value {
        json!({
            "count": self.count,
            "p50": self.percentile_ms(0.5),
            "p90": self.percentile_ms(0.9),
            "p99": self.percentile_ms(0.99),
            "max": self.max_ms(),
        })
    }
}

fn bucket(us: u64) -> usize {
    let exponent = (64 - us.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let at = (u64::from(exponent) << SUB_BITS) + (us >> exponent);
    usize::try_from(at).expect("buckets are few").min(BUCKETS - 1)
}

fn ceiling_us(at: usize) -> u64 {
    let at = at as u64;
    let exponent = (at >> SUB_BITS).saturating_sub(1);
    let mantissa = at - (exponent << SUB_BITS);
    ((mantissa + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close_to_what_was_recorded() {
        let mut times = Histogram::default();
        for us in 1..=100_000 {
            times.record(us);
        }
        for (share, ms) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0)] {
            let found = times.percentile_ms(share);
            assert!(found >= ms && found <= ms * 1.016, "{share}: {found}");
        }
        assert_eq!(times.max_ms(), 100.0);
        assert_eq!(Histogram::default().percentile_ms(0.5), 0.0);
    }

    #[test]
    fn every_bucket_holds_what_it_says() {
        for us in [0, 1, 63, 64, 127, 128, 129, 1_000_000, u64::from(u32::MAX)] {
            let at = bucket(us);
            assert!(ceiling_us(at) >= us && (at == 0 || ceiling_us(at - 1) < us), "{us} in {at}");
        }
    }
}
