//! Renewal: the proxy's certificate is replaced on disk again and again, now and then by rubbish, under new handshakes
//! and calls.
//!
//! Owns: the files that the proxy reads, the order of events, and the report. Must not touch: SIP.

use crate::bare_clients::{BareClients, Fact, Kind, What, mark};
use crate::healthy::{Healthy, HealthyLine};
use crate::scenario::Ended;
use crate::tally::{Histogram, Tally};
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// DESIGN.md §TLS: from the change of a file to the last handshake that shows the old one.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// After the last handshake was begun.
const AFTER_S: f64 = 3.0;

/// A certificate and its key, as `CERTIFICATE,KEY`.
#[derive(Clone, Debug)]
pub struct Set {
    certificate: PathBuf,
    key: PathBuf,
}

impl std::str::FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (certificate, key) = text.split_once(',').ok_or("expected CERTIFICATE,KEY")?;
        Ok(Self { certificate: certificate.into(), key: key.into() })
    }
}

#[derive(Args)]
pub struct RenewLine {
    /// The certificate and the key that the proxy reads, such as live.pem,live.key; they are overwritten.
    #[arg(long)]
    live: Set,
    /// What takes their place in turn; at least four, so that an old one is told from one that is due again.
    #[arg(long, required = true)]
    set: Vec<Set>,
    /// From one replacement to the next, milliseconds.
    #[arg(long, default_value_t = 1_000)]
    every_ms: u64,
    /// Each so-manieth is rubbish; 0 is none.
    #[arg(long, default_value_t = 10)]
    bad_every: u64,
    /// How long rubbish stays, milliseconds: a proxy may wait a while for the rest of a file.
    #[arg(long, default_value_t = 2_500)]
    bad_ms: u64,
    /// New handshakes each second.
    #[arg(long, default_value_t = 200.0)]
    knocks: f64,
    #[arg(long, default_value_t = 120.0)]
    seconds: f64,
    #[command(flatten)]
    healthy: HealthyLine,
}

/// A certificate that was put in place, and when.
struct Placed {
    at: Instant,
    mark: u64,
    /// From then to the first handshake that showed it.
    shown_after: Option<Duration>,
}

/// What was done and what came of it.
struct Renewal<'a> {
    line: &'a RenewLine,
    /// Of each of the line's certificates.
    marks: Vec<u64>,
    placed: Vec<Placed>,
    changes: u64,
    rubbish: u64,
    /// When the files are replaced next, in seconds from the start.
    next_s: f64,
    begun: u64,
    stood: u64,
    stale: u64,
    took: Histogram,
    failed: BTreeMap<String, u64>,
}

/// Runs it; fails when a handshake failed, a call came to harm, or an old certificate was shown for too long.
///
/// # Errors
/// What could not be started, or a file.
pub fn run(line: &RenewLine) -> Ended {
    let mut renewal = Renewal::new(line)?;
    let mut healthy = Healthy::start(&line.healthy)?;
    renewal.placed[0].at = Instant::now();
    while healthy.passed_s() <= line.seconds + AFTER_S {
        healthy.turn()?;
        let passed_s = healthy.passed_s();
        if passed_s < line.seconds {
            renewal.begin(&healthy.clients, passed_s)?;
            renewal.replace(passed_s)?;
        }
        for fact in healthy.clients.facts()? {
            renewal.note(fact);
        }
    }
    healthy.end_phase("renewing");
    let counted = ["hawser_tls_files_read", "hawser_tls_handshake_failures", "hawser_limit_hits"];
    let holds = renewal.failures() + renewal.unanswered() + renewal.stale == 0;
    healthy.report([("renewal", renewal.report())], &counted, holds)
}

impl<'a> Renewal<'a> {
    fn new(line: &'a RenewLine) -> Ended<Self> {
        if line.set.len() < 4 {
            return Err("--set: at least four".into());
        }
        let shown = |set: &Set| -> Ended<u64> { Ok(mark(&CertificateDer::from_pem_file(&set.certificate)?)) };
        let (marks, first) = (line.set.iter().map(shown).collect::<Ended<_>>()?, shown(&line.live)?);
        Ok(Self {
            line,
            marks,
            placed: vec![Placed { at: Instant::now(), mark: first, shown_after: Some(Duration::ZERO) }],
            changes: 0,
            rubbish: 0,
            next_s: line.every_ms as f64 / 1e3,
            begun: 0,
            stood: 0,
            stale: 0,
            took: Histogram::default(),
            failed: BTreeMap::new(),
        })
    }

    /// Begins the handshakes that are due.
    fn begin(&mut self, clients: &BareClients, passed_s: f64) -> Ended<()> {
        let due = (passed_s * self.line.knocks) as u64;
        if due > self.begun {
            clients.open(Kind::Passer, u32::try_from(due - self.begun)?);
            self.begun = due;
        }
        Ok(())
    }

    /// Replaces the files when that is due: by the next certificate, or by rubbish.
    fn replace(&mut self, passed_s: f64) -> Ended<()> {
        let line = self.line;
        if passed_s < self.next_s {
            return Ok(());
        }
        self.changes += 1;
        self.next_s += line.every_ms.max(1) as f64 / 1e3;
        if line.bad_every > 0 && self.changes.is_multiple_of(line.bad_every) {
            self.rubbish += 1;
            self.next_s = passed_s + line.bad_ms as f64 / 1e3;
            return replace(&line.live.certificate, b"-----BEGIN CERTIFICATE-----\nrubbish\n");
        }
        let nth = (self.changes % line.set.len() as u64) as usize;
        // The proxy may look between the two.
        replace(&line.live.key, &fs::read(&line.set[nth].key)?)?;
        replace(&line.live.certificate, &fs::read(&line.set[nth].certificate)?)?;
        self.placed.push(Placed { at: Instant::now(), mark: self.marks[nth], shown_after: None });
        Ok(())
    }

    fn note(&mut self, fact: Fact) {
        match fact.what {
            What::Stands { certificate } => {
                self.stood += 1;
                self.took.record((fact.at - fact.began).as_micros() as u64);
                self.stale += u64::from(is_stale(&self.placed, certificate, fact.began));
                let shown = self.placed.iter_mut().rev().find(|placed| placed.mark == certificate);
                if let Some(shown) = shown.filter(|placed| placed.shown_after.is_none()) {
                    shown.shown_after = Some(fact.at.saturating_duration_since(shown.at));
                }
            }
            What::Ended { stood: false, how } => Tally::count(&mut self.failed, how.to_string()),
            What::Ended { stood: true, .. } => {}
        }
    }

    fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn unanswered(&self) -> u64 {
        self.begun.saturating_sub(self.stood + self.failures())
    }

    fn report(&self) -> Value {
        let mut shown = Histogram::default();
        for after in self.placed.iter().skip(1).filter_map(|placed| placed.shown_after) {
            shown.record(after.as_micros() as u64);
        }
        json!({
            "changes": self.changes,
            "rubbish": self.rubbish,
            "handshakes": self.begun,
            "served": self.stood,
            "failed": self.failures(),
            "failed_by": self.failed,
            "unanswered": self.unanswered(),
            "handshake_ms": self.took.summary(),
            "new_one_shown_after_ms": shown.summary(),
            "never_shown": self.placed.iter().filter(|placed| placed.shown_after.is_none()).count(),
            "old_one_shown_too_long": self.stale,
        })
    }
}

/// Whether a handshake that began then showed what had given way too long before.
fn is_stale(placed: &[Placed], certificate: u64, began: Instant) -> bool {
    let mut until = None;
    for at in placed.iter().rev() {
        if at.mark == certificate {
            // What took its place, or nothing yet.
            return until.is_some_and(|until: Instant| began.saturating_duration_since(until) > TAKEN_WITHIN);
        }
        until = Some(at.at);
    }
    true
}

/// As certbot and its like do it: the whole file at once.
pub fn replace(path: &Path, content: &[u8]) -> Ended<()> {
    let new = path.with_extension("new");
    let fault = |fault| format!("{}: {fault}", path.display());
    fs::write(&new, content).map_err(fault)?;
    fs::rename(&new, path).map_err(fault)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_certificate_is_stale_two_seconds_after_it_gave_way() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let placed = [(0, 1), (10, 2), (20, 3), (30, 1)];
        let placed = placed.map(|(s, mark)| Placed { at: at(s), mark, shown_after: None });
        assert!(!is_stale(&placed[..2], 1, at(12)));
        assert!(is_stale(&placed[..2], 1, at(13)));
        assert!(!is_stale(&placed[..2], 2, at(99)), "nothing has taken its place");
        assert!(!is_stale(&placed, 1, at(99)), "it is due again");
        assert!(is_stale(&placed, 2, at(31)));
        assert!(is_stale(&placed, 9, at(0)), "nobody put it there");
    }
}
