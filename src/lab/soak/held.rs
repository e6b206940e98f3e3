//! What the proxy holds and has counted at one moment, and what of it may be so at the end.
//!
//! Owns: the bounds, each with its reason. Must not touch: how it came to that.

use super::site::Site;
use crate::scenario::Ended;
use crate::watch;
use std::fmt;

/// Resident memory may grow by a twentieth and 6 MiB over what it was after the warm-up, when every table has had its
/// size: what else grows, grows with the time, and an hour at 60 calls a second has 200,000 calls, of which a leak of 100
/// bytes each is 20 MiB. The 6 MiB are what the allocator's arenas keep of a burst more or less.
const RSS_GROWTH_MAX: f64 = 0.05;
const RSS_MORE_MAX: u64 = 6 << 20;
/// The page that is read just now is a connection of its own, at either end of the comparison.
const DESCRIPTORS_MORE_MAX: u64 = 2;
/// Service checks that may be on their way, with what is kept of the one before.
const CHECKS_MAX: f64 = 16.0;
/// Timers of the shards and of the pair's health, besides one of each binding, UDP flow and transaction.
const TIMERS_MORE: f64 = 24.0;

const HANDSHAKES: &str = "hawser_tls_handshake_failures_total";

/// From one look of the proxy's watchdog to the next; the second that sees no heartbeat is a stall.
const STALL_US: u64 = 25_000;

/// Counters that nothing in here explains.
const ZERO: &[&str] = &[
    "hawser_panics_total",
    "hawser_unparsable_dropped_total",
    "hawser_faults_total",
    "hawser_mail_refused_total",
    "hawser_mail_waited_total",
    "hawser_accept_errors_total",
    "hawser_connections_refused_total",
    "hawser_log_lost_total",
    "hawser_datagrams_lost_total",
    "hawser_tokens_other_boot_total",
    "hawser_tls_files_stale_seconds",
    "hawser_draining",
];

/// Counters that everything in here moves, some of them by a label.
const COUNTED: &[(&str, &str)] = &[
    ("hawser_requests_total", "side=\"endpoint\""),
    ("hawser_requests_total", "side=\"server\""),
    ("hawser_responses_sent_total", ""),
    ("hawser_calls_total", ""),
    ("hawser_messages_received_total", "transport=\"udp\""),
    ("hawser_messages_received_total", "transport=\"tcp\""),
    ("hawser_messages_received_total", "transport=\"tls\""),
    ("hawser_keepalives_total", ""),
    ("hawser_deliveries_total", "flow=\"local\""),
    ("hawser_registrations_total", ""),
    ("hawser_flows_total", ""),
    ("hawser_timers_fired_total", ""),
    ("hawser_connections_opened_total", "direction=\"in\""),
    ("hawser_connections_closed_total", ""),
    ("hawser_server_switches_total", ""),
    ("hawser_server_pings_total", ""),
    ("hawser_failovers_total", ""),
    ("hawser_tls_handshakes_total", ""),
    ("hawser_tls_files_read_total", "outcome=\"taken\""),
    ("hawser_shard_passes_total", ""),
];

/// Gauges that are empty when nothing goes on.
const EMPTY: &[&str] = &[
    "hawser_tls_handshakes_in_progress",
    "hawser_tls_handshakes_waiting",
    "hawser_contexts_waiting",
    "hawser_dns_waiting",
    "hawser_mailbox_length",
    "hawser_send_queue_bytes",
];

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub struct Held {
    rss: u64,
    descriptors: u64,
    lab_rss: u64,
    kept_waiting_us: u64,
    samples: Vec<(String, f64)>,
}

impl Held {
    /// Reads it.
    ///
    /// # Errors
    /// The proxy does not answer.
    pub fn read(site: &mut Site) -> Ended<Self> {
        let samples = site.samples()?;
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", site.pid()))?.count() as u64;
        let (rss, lab_rss) = (watch::usage(&[site.pid()]).resident, watch::usage(&[std::process::id()]).resident);
        let kept_waiting_us = watch::kept_waiting_us(&[site.pid()]);
        Ok(Self { rss, descriptors, lab_rss, kept_waiting_us, samples })
    }

    /// The sum of the samples of this name that have the label; an empty one is every label.
    fn sum_of(&self, name: &str, label: &str) -> f64 {
        let is_meant = |sample: &str| sample.split('{').next() == Some(name) && sample.contains(label);
        // Not the -0 that an empty sum is.
        self.samples.iter().filter(|(sample, _)| is_meant(sample)).map(|(_, value)| value).sum::<f64>() + 0.0
    }

    fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }

    /// Counters that should be zero or should not, in words; `broken` is how many calls broke by a cause.
    pub fn faults(&self, broken: u64) -> Vec<String> {
        let mut faults = Vec::new();
        // A phone that moves closes its half of the old connection, and what it has asked there may never be answered.
        let half_closed = self.sum_of("hawser_limit_hits_total", "limit=\"half_closed\"");
        let limits = self.sum("hawser_limit_hits_total");
        if half_closed > broken as f64 || limits > half_closed {
            let hit = self.samples.iter().filter(|(name, count)| name.starts_with("hawser_limit_hits") && *count > 0.0);
            faults.push(format!("limits were hit, and nothing explains it: {:?}", hit.collect::<Vec<_>>()));
        }
        // A server that is killed resets the handshakes that are in the air.
        let is_reset = |sample: &str| sample.contains("side=\"server\"") && sample.contains("reason=\"reset\"");
        let failures = self.samples.iter().filter(|(sample, value)| sample.starts_with(HANDSHAKES) && *value > 0.0);
        for (sample, value) in failures.filter(|(sample, _)| !is_reset(sample)) {
            faults.push(format!("{sample} is {value}, and nothing explains it"));
        }
        // To the watchdog a thread that has no core for two looks is one that sleeps although there is work.
        let stalls = self.sum("hawser_shard_stalls_nudged_total");
        let explained = (self.kept_waiting_us / STALL_US) as f64;
        if stalls > explained {
            let waited_ms = self.kept_waiting_us / 1_000;
            faults.push(format!(
                "{stalls} stalls were nudged, and all threads waited for a core for {waited_ms} ms only"
            ));
        }
        for name in ZERO {
            let of_name = self.samples.iter().filter(|(sample, value)| sample.starts_with(name) && *value > 0.0);
            faults.extend(of_name.map(|(sample, value)| format!("{sample} is {value}, and nothing explains it")));
        }
        let idle = COUNTED.iter().filter(|(name, label)| self.sum_of(name, label) == 0.0);
        faults.extend(idle.map(|(name, label)| format!("{name} {label} has not counted")));
        faults
    }

    /// What is held beyond what the phones explain, in words.
    pub fn leftovers(&self, before: &Self, phones: u32) -> Vec<String> {
        let mut faults = Vec::new();
        let mut hold = |holds: bool, what: String| {
            if !holds {
                faults.push(what)
            }
        };
        let rss_max = before.rss + (before.rss as f64 * RSS_GROWTH_MAX) as u64 + RSS_MORE_MAX;
        hold(self.rss <= rss_max, format!("memory has grown from {} to {} KiB", before.rss >> 10, self.rss >> 10));
        let connections = self.sum("hawser_connections") - before.sum("hawser_connections");
        let descriptors = before.descriptors as f64 + connections + DESCRIPTORS_MORE_MAX as f64;
        hold(
            self.descriptors as f64 <= descriptors,
            format!("descriptors have grown from {} to {}", before.descriptors, self.descriptors),
        );
        for (name, value) in [("hawser_bindings", phones), ("hawser_registered_flows", phones)] {
            hold(self.sum(name) == f64::from(value), format!("{name} is {} for {phones} phones", self.sum(name)));
        }
        for transport in ["udp", "tcp", "tls"] {
            let flows = self.sum_of("hawser_registered_flows", &format!("transport=\"{transport}\""));
            hold(flows == f64::from(phones / 3), format!("hawser_registered_flows of {transport} is {flows}"));
        }
        let upstream = self.sum("hawser_server_connections");
        let unregistered = self.sum("hawser_connections_unregistered");
        hold(
            unregistered <= upstream,
            format!("{unregistered} connections hold no binding, {upstream} are to servers"),
        );
        hold(
            self.sum("hawser_udp_flows") <= f64::from(phones / 3) + 2.0,
            format!("hawser_udp_flows is {} for {} phones", self.sum("hawser_udp_flows"), phones / 3),
        );
        // Phones register all the time, once in the 32 s that Timer J takes at most; K is 5 s.
        for (kind, explained) in [("server", phones / 3), ("client", phones)] {
            let left = self.sum_of("hawser_transactions", &format!("kind=\"{kind}\""));
            let holds = left <= f64::from(explained) + CHECKS_MAX;
            hold(holds, format!("{left} {kind} transactions are not at their end"));
        }
        let explained: f64 =
            ["hawser_bindings", "hawser_udp_flows", "hawser_transactions"].map(|name| self.sum(name)).iter().sum();
        let timers = self.sum("hawser_timers");
        hold(timers <= explained + TIMERS_MORE, format!("{timers} timers run, {explained} are explained"));
        for name in EMPTY {
            let left: f64 = self.sum(name);
            hold(left == 0.0, format!("{name} is {left}"));
        }
        faults
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RSS {:.1} MiB  descriptors {}  transactions {}  connections {}  bindings {}  UDP flows {}  timers {}  stalls {}  waited for a core {:.1} s  (lab {:.0} MiB)",
            self.rss as f64 / f64::from(1 << 20),
            self.descriptors,
            self.sum("hawser_transactions"),
            self.sum("hawser_connections"),
            self.sum("hawser_bindings"),
            self.sum("hawser_udp_flows"),
            self.sum("hawser_timers"),
            self.sum("hawser_shard_stalls_nudged_total"),
            self.kept_waiting_us as f64 / 1e6,
            self.lab_rss as f64 / f64::from(1 << 20),
        )
    }
}
