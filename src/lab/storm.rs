//! A storm: thousands of TLS handshakes at once, as after a power cut, while registered phones are called.
//!
//! Owns: the order of events, and the report. Must not touch: SIP.

use crate::bare_clients::{BareClients, End, Kind, What};
use crate::healthy::{Healthy, HealthyLine};
use crate::tally::{Histogram, Tally};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

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
pub fn run(line: &StormLine) -> Result<ExitCode, Box<dyn Error>> {
    let (mut healthy, tls) = Healthy::start(&line.healthy)?;
    let clients = BareClients::start(line.healthy.proxy.addr, &tls, line.healthy.client_source.clone())?;
    while healthy.passed_s() < line.before {
        healthy.turn()?;
    }
    healthy.end_phase("before");

    clients.open(Kind::Guest, line.handshakes);
    let (mut served, mut refused, mut left_later) = (Histogram::default(), Histogram::default(), 0_u64);
    let mut refused_by: BTreeMap<String, u64> = BTreeMap::new();
    let began_s = healthy.passed_s();
    let mut told_s = 0.0;
    let mut told = 0;
    while told < line.handshakes && healthy.passed_s() - began_s < line.within {
        healthy.turn()?;
        for fact in clients.facts()? {
            let took_us = (fact.at - fact.began).as_micros() as u64;
            match fact.what {
                What::Stands { .. } => served.record(took_us),
                What::Ended { stood: true, .. } => {
                    left_later += 1;
                    continue;
                }
                What::Ended { stood: false, how } => {
                    refused.record(took_us);
                    Tally::count(&mut refused_by, said(how));
                }
            }
            told += 1;
            told_s = healthy.passed_s() - began_s;
        }
    }
    let p99_ms = healthy.bench.stack.tally.setup.percentile_ms(0.99);
    healthy.end_phase("storm");
    let over_s = healthy.passed_s();
    while healthy.passed_s() - over_s < AFTER_S {
        healthy.turn()?;
    }
    healthy.end_phase("after");
    let metrics = healthy.grown(&["hawser_tls_handshake", "hawser_limit_hits", "hawser_connections_refused"])?;
    let (mut report, is_clean) = healthy.finish()?;
    report["storm"] = json!({
        "handshakes": line.handshakes,
        "served": served.summary(),
        "refused": refused.summary(),
        "refused_by": refused_by,
        "closed_after_being_served": left_later,
        "unanswered": line.handshakes - told,
        "all_told_within_s": told_s,
    });
    report["metrics"] = metrics;
    println!("{report}");
    let holds = is_clean && told == line.handshakes && p99_ms <= line.expect_p99;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An end in a word.
pub fn said(how: End) -> String {
    match how {
        End::Left => "left".into(),
        End::Closed => "closed".into(),
        End::Reset => "reset".into(),
        End::Failed(why) => why,
    }
}
