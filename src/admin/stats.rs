//! `/stats` and `/where` as JSON.

use serde_json::{Map, Value, json};

use super::{About, Readiness, upstreams};
use crate::abuse::BanRow;
use crate::engine::Located;
use crate::ids::FlowRef;
use crate::stats::{Counters, Gauges, Row, Snapshot};

/// What runs here, the sum of all shards, and each shard.
pub(super) fn stats(about: &About, readiness: &Readiness, snapshots: &[Snapshot]) -> Value {
    let mut counters = Counters::default();
    let mut gauges = Gauges::default();
    for snapshot in snapshots {
        counters.merge(&snapshot.counters);
        gauges.merge(&snapshot.gauges);
    }
    let why = match readiness {
        Readiness::Ready => Value::Null,
        Readiness::Not(why) => Value::from(why.as_str()),
    };
    json!({
        "about": {
            "version": about.version,
            "uptime_s": about.uptime.as_secs(),
            "driver": about.driver,
            "shards": about.shards,
            "listeners": about.listeners,
            "server": about.server,
            "sticky": about.sticky,
            "certificates": about.tls_files.certificates.iter().map(|certificate| json!({
                "file": certificate.file,
                "not_after_unix_s": certificate.not_after_unix_s(),
                "days_left": certificate.days_left(),
            })).collect::<Vec<_>>(),
            "crls": about.tls_files.crls.iter().map(|crl| json!({
                "file": crl.file,
                "issuer": crl.issuer,
                "next_update_unix_s": crl.next_update_unix_s,
            })).collect::<Vec<_>>(),
            "tls_files_taken": about.tls_files.taken,
            "tls_files_refused": about.tls_files.refused,
            "tls_files_stale_s": about.tls_files.stale().as_secs(),
        },
        "ready": readiness == &Readiness::Ready,
        "why_not_ready": why,
        "pairs": upstreams::pairs(&snapshots.iter().flat_map(|s| s.upstreams.pairs.clone()).collect::<Vec<_>>()),
        "links": upstreams::links(snapshots),
        "peers": upstreams::peers(snapshots),
        "names": upstreams::names(snapshots),
        "total": { "counters": rows(counters.rows()), "gauges": rows(gauges.rows()) },
        "shards": snapshots.iter().map(|snapshot| json!({
            "shard": snapshot.shard,
            "counters": rows(snapshot.counters.rows()),
            "gauges": rows(snapshot.gauges.rows()),
        })).collect::<Vec<_>>(),
    })
}

/// By name: a number when the metric has no labels, else a list of objects with the labels and `value`.
fn rows(rows: impl Iterator<Item = (&'static Row, u64)>) -> Value {
    let mut out = Map::new();
    for (row, value) in rows {
        if row.labels.is_empty() {
            out.insert(row.name.to_owned(), value.into());
            continue;
        }
        let mut line: Map<_, _> =
            row.labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        line.insert("value".to_owned(), value.into());
        if let Value::Array(lines) = out.entry(row.name).or_insert_with(|| Value::Array(Vec::new())) {
            lines.push(Value::Object(line));
        }
    }
    Value::Object(out)
}

/// The addresses that are shut out.
pub(super) fn bans(rows: &[BanRow]) -> Value {
    let row = |row: &BanRow| {
        let BanRow { source, since, left, nth, failed, turned_away } = row;
        json!({
            "address": source.to_string(),
            "since_s": since.as_secs(),
            "left_s": left.as_secs(),
            "time": nth,
            "failed": {
                "connections": failed.connections,
                "malformed": failed.garbage,
                "refused": failed.refused,
                "registers": failed.registers,
            },
            "turned_away": turned_away,
        })
    };
    rows.iter().map(row).collect()
}

/// The bindings of an AOR.
pub(super) fn bindings(located: &[Located]) -> Value {
    located
        .iter()
        .map(|binding| {
            let conn = match binding.flow {
                FlowRef::Stream { conn, .. } => Value::from(format!("{}.{}", conn.slot, conn.generation)),
                FlowRef::Udp { .. } => Value::Null,
            };
            json!({
                "aor": binding.aor,
                "contact": binding.contact,
                "instance": binding.instance,
                "shard": binding.flow.shard().0,
                "conn": conn,
                "transport": binding.transport.param_name(),
                "peer": binding.peer.to_string(),
                "certificate": binding.certificate.join(", "),
                "expires_in_s": binding.expires_in.as_secs(),
                "age_s": binding.age.as_secs(),
            })
        })
        .collect()
}
