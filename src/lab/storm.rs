//! A storm: thousands of TLS handshakes at once, as after a power cut, while registered phones are called.
//!
//! Owns: the order of events, and the report. Must not touch: SIP.

use crate::bare_clients::{Kind, What};
use crate::healthy::{Healthy, HealthyLine};
use crate::scenario::Ended;
use crate::tally::{Histogram, Tally};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;

/// After the last handshake has ended.
const AFTER_S: f64 = 5.0;

#[derive(Args)]
pub struct StormLine {
    /// TLS handshakes that begin at once.
    #[arg(long, default_value_t = 5_000)]
    handshakes: u32,
    /// Seconds of calls before that.
    #[arg(long, default_value_t = 5.0)]
    before: f64,
    /// Fails when not all of them are served or refused within so many seconds.
    #[arg(long, default_value_t = 30.0)]
    within: f64,
    /// Fails when the 99th percentile from INVITE to 200 is longer meanwhile, milliseconds.
    #[arg(long, default_value_t = 100.0)]
    expect_p99: f64,
    #[command(flatten)]
    healthy: HealthyLine,
}

/// Runs it; fails when a call came to harm, or an expectation is broken.
///
/// # Errors
/// What could not be started.
pub fn run(line: &StormLine) -> Ended {
    let mut healthy = Healthy::start(&line.healthy)?;
    healthy.go_on(line.before, |_, _| false)?;
    healthy.end_phase("before");

    healthy.clients.open(Kind::Guest, line.handshakes);
    let (mut served, mut refused, mut left_later) = (Histogram::default(), Histogram::default(), 0_u64);
    let mut refused_by: BTreeMap<String, u64> = BTreeMap::new();
    let (mut told, mut told_s) = (0, 0.0);
    healthy.go_on(line.within, |passed_s, facts| {
        for fact in facts {
            let took_us = (fact.at - fact.began).as_micros() as u64;
            match fact.what {
                What::Stands { .. } => served.record(took_us),
                What::Ended { stood: true, .. } => {
                    left_later += 1;
                    continue;
                }
                What::Ended { stood: false, how } => {
                    refused.record(took_us);
                    Tally::count(&mut refused_by, how.to_string());
                }
            }
            (told, told_s) = (told + 1, passed_s);
        }
        told >= line.handshakes
    })?;
    let p99_ms = healthy.bench.stack.tally.setup.percentile_ms(0.99);
    healthy.end_phase("storm");
    healthy.go_on(AFTER_S, |_, _| false)?;
    healthy.end_phase("after");
    let storm = json!({
        "handshakes": line.handshakes,
        "served": served.summary(),
        "refused": refused.summary(),
        "refused_by": refused_by,
        "closed_after_being_served": left_later,
        "unanswered": line.handshakes - told,
        "all_told_within_s": told_s,
    });
    let counted = ["hawser_tls_handshake", "hawser_limit_hits", "hawser_connections_refused"];
    let holds = told == line.handshakes && p99_ms <= line.expect_p99;
    healthy.report([("storm", storm)], &counted, holds)
}
