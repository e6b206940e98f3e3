//! `/metrics`: the tables of `stats` with a `shard` label, servers and others by name (`upstreams`), and what the
//! process says about itself.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::process::Process;
use super::{About, Readiness, upstreams};
use crate::stats::{Row, Snapshot};

/// The two texts that scrapers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own, which everybody reads: what is sent unless the other is asked for.
    Prometheus,
    /// OpenMetrics, for scrapers that name it in Accept.
    OpenMetrics,
}

impl Format {
    /// What a request's Accept header asks for.
    pub(super) fn asked(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything that one scrape shows.
#[derive(Debug)]
pub(super) struct Scrape {
    pub about: About,
    pub readiness: Readiness,
    /// By shard number; a shard that did not answer is missing.
    pub snapshots: Vec<Snapshot>,
    pub process: Process,
    /// Answers of the HTTP port so far, by status.
    pub answers: Vec<(u16, u64)>,
}

/// The text of a scrape.
///
/// # Errors
/// None that a `String` can give; the encoder's signature has one.
pub(super) fn encode(scrape: Scrape, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(match format {
        Format::OpenMetrics => out,
        Format::Prometheus => classic(&out),
    })
}

/// The metrics in Prometheus' own text: a counter's family is named like its samples, with `_total`, and an info
/// is a gauge.
fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 4 * 1_024);
    // HELP comes before the TYPE that says how the family is named.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, text)) = help.take() {
                out.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out
}

pub(super) type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        table(&mut encoder, MetricType::Counter, &self.snapshots, |snapshot, visit| {
            snapshot.counters.rows().try_for_each(|(row, value)| visit(row, value))
        })?;
        table(&mut encoder, MetricType::Gauge, &self.snapshots, |snapshot, visit| {
            snapshot.gauges.rows().try_for_each(|(row, value)| visit(row, value))
        })?;
        upstreams::encode(&mut encoder, &self.snapshots)?;
        self.encode_own(&mut encoder)
    }
}

impl Scrape {
    fn encode_tls_files(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tls_files = &self.about.tls_files;
        if !tls_files.certificates.is_empty() {
            let help = "When a certificate of Hawser's own stops to be valid, in seconds since 1970.";
            let mut metric = gauge(encoder, "hawser_certificate_not_after_seconds", help)?;
            for certificate in &tls_files.certificates {
                let labels: Labels<'_> = vec![("file", escaped(&certificate.file))];
                metric.encode_family(&labels)?.encode_gauge(&certificate.not_after_unix_s())?;
            }
            let help = "Whole days until a certificate of Hawser's own stops to be valid; below zero when it has.";
            let mut metric = gauge(encoder, "hawser_certificate_days_left", help)?;
            for certificate in &tls_files.certificates {
                let labels: Labels<'_> = vec![("file", escaped(&certificate.file))];
                metric.encode_family(&labels)?.encode_gauge(&certificate.days_left())?;
            }
        }
        if !tls_files.crls.is_empty() {
            let help = "When the next issue of a revocation list is due, in seconds since 1970.";
            let mut metric = gauge(encoder, "hawser_crl_next_update_seconds", help)?;
            for crl in &tls_files.crls {
                let labels: Labels<'_> = vec![("file", escaped(&crl.file)), ("issuer", escaped(&crl.issuer))];
                metric.encode_family(&labels)?.encode_gauge(&crl.next_update_unix_s)?;
            }
        }
        let help = "Times that the files of TLS were read again while running, by what came of it.";
        let mut reads = encoder.encode_descriptor("hawser_tls_files_read", help, None, MetricType::Counter)?;
        for (outcome, count) in [("taken", tls_files.taken), ("refused", tls_files.refused)] {
            let labels: Labels<'_> = vec![("outcome", Cow::Borrowed(outcome))];
            reads.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "For how long the files of TLS on the disk are not what is used; 0 when they are.";
        gauge(encoder, "hawser_tls_files_stale_seconds", help)?.encode_gauge(&tls_files.stale().as_secs_f64())
    }

    fn encode_own(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut up = gauge(encoder, "hawser_shard_up", "1 when the shard answered this scrape.")?;
        for shard in 0..self.about.shards {
            let answered = self.snapshots.iter().any(|s| s.shard == shard);
            let labels: Labels<'_> = vec![("shard", Cow::Owned(shard.to_string()))];
            up.encode_family(&labels)?.encode_gauge(&u64::from(answered))?;
        }
        gauge(encoder, "hawser_ready", "1 while new work is taken.")?
            .encode_gauge(&u64::from(self.readiness == Readiness::Ready))?;
        gauge(encoder, "hawser_uptime_seconds", "How long the process has run.")?
            .encode_gauge(&self.about.uptime.as_secs_f64())?;
        let mut build = encoder.encode_descriptor("hawser_build", "What runs here.", None, MetricType::Info)?;
        let labels: Labels<'_> =
            vec![("version", escaped(&self.about.version)), ("driver", escaped(&self.about.driver))];
        build.encode_info(&labels)?;

        self.encode_tls_files(encoder)?;
        let help = "Log lines that were lost, for stderr did not take them.";
        let mut lost = encoder.encode_descriptor("hawser_log_lost", help, None, MetricType::Counter)?;
        lost.encode_counter::<NoLabelSet, u64, f64>(&self.about.log_lost, None)?;
        let help = "Answers of the HTTP port, by status.";
        let mut answers = encoder.encode_descriptor("hawser_admin_answers", help, None, MetricType::Counter)?;
        for (code, count) in &self.answers {
            let labels: Labels<'_> = vec![("code", Cow::Owned(code.to_string()))];
            answers.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
        }
        let process = [
            ("process_resident_memory_bytes", "Resident memory.", self.process.resident),
            ("process_open_fds", "Open descriptors.", self.process.descriptors),
            ("process_max_fds", "The soft limit of open descriptors.", self.process.descriptors_max),
        ];
        for (name, help, value) in process {
            if let Some(value) = value {
                gauge(encoder, name, help)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

pub(super) fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// A label's value with what the format escapes; the encoder writes values as they are.
pub(super) fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        Cow::Owned(value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    } else {
        Cow::Borrowed(value)
    }
}

/// Writes one table of `stats`: a family for each name, a line for each of its rows and each shard.
///
/// The tables keep rows of a name together, so a family is a run of rows; OpenMetrics forbids to open one twice.
fn table(
    encoder: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    snapshots: &[Snapshot],
    each: impl Fn(&Snapshot, &mut dyn FnMut(&'static Row, u64) -> fmt::Result) -> fmt::Result,
) -> fmt::Result {
    let mut lines: Vec<(&'static Row, Vec<u64>)> = Vec::new();
    for (nth, snapshot) in snapshots.iter().enumerate() {
        let mut at = 0;
        each(snapshot, &mut |row, value| {
            if nth == 0 {
                lines.push((row, Vec::with_capacity(snapshots.len())));
            }
            lines[at].1.push(value);
            at += 1;
            Ok(())
        })?;
    }
    for family in lines.chunk_by(|(a, _), (b, _)| a.name == b.name) {
        let row = family[0].0;
        // The encoder appends the `_total` that a counter's name ends with.
        let counter = matches!(kind, MetricType::Counter);
        let name = if counter { row.name.strip_suffix("_total").unwrap_or(row.name) } else { row.name };
        let mut metric = encoder.encode_descriptor(name, row.help, None, kind)?;
        for (row, values) in family {
            for (snapshot, value) in snapshots.iter().zip(values) {
                let mut labels: Labels<'_> = vec![("shard", Cow::Owned(snapshot.shard.to_string()))];
                labels.extend(row.labels.iter().map(|(key, value)| (*key, Cow::Borrowed(*value))));
                let mut line = metric.encode_family(&labels)?;
                if counter {
                    line.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
                } else {
                    line.encode_gauge(value)?;
                }
            }
        }
    }
    Ok(())
}
