//! Metric names and limits: each declared once, used, and counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Token;
use crate::{Fault, File};

/// Limits that no counter of a shard belongs to, and why.
const NOT_COUNTED: &[(&str, &str)] = &[
    ("SHARDS_MAX", "more is refused at start"),
    ("LISTENERS_MAX", "more is refused at start"),
    ("PEERS_MAX", "more is refused at start"),
    ("NETWORKS_MAX", "more is refused at start"),
    ("TLS_SETUPS_MAX", "more is refused at start"),
    ("SERVER_SEND_QUEUE_LEN_MAX", "counted as send_queue_len"),
    ("UDP_REQUEST_LEN_MAX", "hawser_udp_oversize_total says what became of it"),
    (
        "UDP_DATAGRAM_LEN_MAX",
        "hawser_refusals_total{code=\"513\"}, hawser_datagrams_dropped_total{reason=\"too_large\"}",
    ),
    ("TRYING_AFTER", "a delay that RFC 3261 asks for"),
    ("SERVER_CONNECTIONS_RESERVE", "counted as connections: what phones may not use of them"),
    ("REGISTRATION_MAX", "a longer grant is only kept shorter"),
    ("INVITE_LOST_MAX", "hawser_refusals_total with reason=\"flow_lost\""),
    ("READ_LEN_MAX", "a turn ends and the next one goes on"),
    ("READS_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("BATCHES_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("HANDSHAKE_STEPS_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("MAILS_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("LOOKS_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("BULK_READS_PER_PASS_MAX", "a turn ends and the next one goes on"),
    ("ACCEPTS_IN_A_ROW_MAX", "a turn ends and the next one goes on"),
    ("QUEUE_WAIT_MAX", "hawser_refusals_total with reason=\"overload_dialog\""),
    ("HANDSHAKE_WAIT_MAX", "hawser_tls_handshakes_put_off_total"),
    ("HANDSHAKE_TRICKLE_EVERY", "hawser_tls_handshakes_put_off_total"),
    ("REGISTER_WAIT_MAX", "hawser_refusals_total with reason=\"overload_register\""),
    ("KNOWN_WAIT_MAX", "hawser_refusals_total with reason=\"overload_known\""),
    ("OVERLOAD_STANDS", "what is refused then is counted by its class"),
    ("OVERLOAD_AT_ONCE", "what is refused then is counted by its class"),
    ("OVERLOAD_QUIET", "what is refused then is counted by its class"),
    ("DIALOG_RATE_BURST", "hawser_refusals_total with reason=\"dialog_rate\""),
    ("ABUSE_SLOWED_FROM", "hawser_abuse_verdicts_total{verdict=\"slowed\"}"),
    ("ABUSE_SHUT_OUT_FROM", "hawser_abuse_verdicts_total{verdict=\"shut_out\"}"),
    ("ABUSE_SLOWED_LEAST", "an address is only shut out later"),
    ("ABUSE_HANDSHAKES_MAX", "counted as handshakes_per_source"),
    ("ABUSE_AORS_COUNT_MAX", "the oldest is forgotten, and counts once more"),
    ("BAN_TIME", "hawser_connections_refused_total{reason=\"shut_out\"}"),
    ("BAN_TIME_MAX", "hawser_connections_refused_total{reason=\"shut_out\"}"),
    ("BAN_REMEMBERED", "a time is only the first again"),
    ("LINGER_MAX", "the connection was closed and counted before"),
    ("CONTROLS_COUNT_MAX", "the shard that would count it does not answer; it is logged"),
    ("LOG_LINES_PER_SECOND_MAX", "hawser_log_suppressed_total"),
    ("LOG_LINES_OF_KIND_PER_SECOND_MAX", "hawser_log_suppressed_total"),
    ("LOG_SOURCES_COUNT_MAX", "hawser_log_suppressed_total; the summary names them together"),
    ("LOG_QUEUE_COUNT_MAX", "hawser_log_lost_total"),
    ("LOG_FLUSH_MAX", "the process ends, and nobody reads what it says"),
    ("PANICS_COUNT_MAX", "hawser_panics_total and hawser_ready"),
    ("PANIC_WINDOW", "hawser_panics_total and hawser_ready"),
    ("PORT_WAIT_MAX", "the start fails and names the port"),
    ("DRAIN_MAX", "the process ends; it is logged"),
    ("ADMIN_CONNECTIONS_MAX", "who gives way has not asked for anything"),
    ("TLS_FILE_LEN_MAX", "our own file; told with its name"),
    ("ADMIN_HEAD_LEN_MAX", "answered with 431 by the HTTP library"),
    ("ADMIN_HEAD_MAX", "the connection ends without a request to count"),
    ("ADMIN_CONNECTION_MAX", "the connection ends; its answer is counted"),
    ("ADMIN_ANSWER_MAX", "hawser_admin_answers_total{code=\"503\"}"),
    ("SERVER_DOUBT_AFTER", "hawser_server_pings_total says what came of the check"),
    ("LINK_RETRY_MIN", "hawser_connect_failures_total says how often one could not be opened"),
    ("LINK_RETRY_MAX", "hawser_connect_failures_total says how often one could not be opened"),
    ("NAMES_AGAIN", "a turn ends and the next one goes on"),
    ("POOL_CHECK_EVERY", "a turn ends and the next one goes on"),
    ("DNS_TRY_MAX", "hawser_dns_timeouts_total"),
    ("DNS_STALE_AFTER", "hawser_dns_asked_total{from=\"stale\"}"),
    ("DNS_RETRY_AFTER", "hawser_dns_asked_total{from=\"cache\"}"),
    ("DNS_TTL_MAX", "records are only asked for again sooner"),
    ("DNS_TTL_NEGATIVE_MAX", "records are only asked for again sooner"),
    ("DNS_TTL_LEAST", "records are only asked for again later"),
    ("DNS_DATAGRAM_LEN_MAX", "hawser_dns_tcp_fallbacks_total"),
    ("DNS_EXCHANGES_COUNT_MAX", "further questions only wait"),
    ("DNS_BLOCK_TIME", "a target that came last has its old place again"),
    ("ADMIN_LABEL_SETS_MAX", "hawser_label_sets_left_out"),
    ("ADMIN_ANSWERS_MAX", "hawser_admin_answers_total{code=\"503\"}"),
    ("HEARTBEAT_MAX", "hawser_shard_up and /healthz say so"),
    ("ADMIN_QUESTIONS_MAX", "hawser_admin_answers_total{code=\"503\"}"),
];

/// A text that is a metric's name stands in one place of the product's code.
pub fn names_are_declared_once(files: &[File]) -> Vec<Fault> {
    let mut places: BTreeMap<&str, Vec<Fault>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") && !file.path.starts_with("src/lab/")) {
        for token in &file.code {
            let Some(text) = token.quoted() else { continue };
            let rest = text.strip_prefix("hawser_").unwrap_or_default();
            if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                places.entry(text).or_default().push(file.fault(token.at.line, format!("{text} is declared twice")));
            }
        }
    }
    places.into_values().filter(|places| places.len() > 1).flatten().collect()
}

/// Every constant of `limits` has a doc, is named elsewhere in the product, and has its row in
/// `hawser_limit_hits_total` unless [`NOT_COUNTED`] says why not.
pub fn limits_are_used_and_counted(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(limits) = files.iter().find(|file| file.path == "src/limits.rs") else {
        return vec!["src/limits.rs is missing".to_owned()];
    };
    let used: BTreeSet<&str> =
        files.iter().filter(|f| f.path != limits.path && f.path.starts_with("src/")).flat_map(words).collect();
    let labels: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.path == "src/stats/table.rs")
        .flat_map(|file| file.code.windows(3))
        .filter(|three| three[0].is("limit") && three[1].is("="))
        .filter_map(|three| three[2].quoted())
        .collect();
    for item in &limits.items {
        let syn::Item::Const(item) = item else { continue };
        let (line, name) = (item.ident.span().start().line, item.ident.to_string());
        if !item.attrs.iter().any(|attr| attr.path().is_ident("doc")) {
            faults.push(limits.fault(line, format!("{name} has no doc")));
        }
        if !used.contains(name.as_str()) {
            faults.push(limits.fault(line, format!("{name} is used nowhere")));
        }
        let label = name.trim_end_matches("_MAX").to_ascii_lowercase();
        let excused = NOT_COUNTED.iter().any(|(excused, _)| *excused == name);
        if !excused && !labels.contains(label.as_str()) {
            faults.push(limits.fault(line, format!("no row of hawser_limit_hits_total has limit = \"{label}\"")));
        }
    }
    faults
}

/// Files where a counter is only chosen: naming it there is no use of it.
const CHOOSERS: [&str; 3] = ["src/stats/pick.rs", "src/sip/count.rs", "src/engine/count.rs"];

/// Every row of the table is counted or set somewhere in the product, by its own name or through a function that
/// chooses it: a metric that never moves misleads.
pub fn rows_are_counted(files: &[File]) -> Vec<Fault> {
    let Some(table) = files.iter().find(|file| file.path == "src/stats/table.rs") else {
        return vec!["src/stats/table.rs is missing".to_owned()];
    };
    let product = |file: &&File| file.path.starts_with("src/") && !file.path.starts_with("src/lab/");
    let users = files.iter().filter(product).filter(|f| f.path != table.path && !CHOOSERS.contains(&&*f.path));
    let mut used: BTreeSet<&str> = users.clone().flat_map(words).collect();
    let mut called: BTreeSet<(&str, bool)> = users.flat_map(calls).collect();
    let choosers: Vec<_> = files.iter().filter(|file| CHOOSERS.contains(&&*file.path)).flat_map(functions).collect();
    // A chooser may be called by another one (`bound` by `count_with_bound`), so until nothing is added.
    loop {
        let before = used.len();
        for (name, takes_self, body) in &choosers {
            if called.contains(&(*name, *takes_self)) {
                used.extend(body);
                called.extend(body.iter().flat_map(|word| [(*word, false), (*word, true)]));
            }
        }
        if used.len() == before {
            break;
        }
    }
    let rows =
        table.code.windows(2).filter(|two| two[1].is("{")).filter_map(|two| Some((two[0].at.line, two[0].word()?)));
    let variants = rows.filter(|(_, name)| name.starts_with(|c: char| c.is_ascii_uppercase()) && *name != "Row");
    let unused = variants.filter(|(_, name)| !used.contains(name));
    unused.map(|(line, name)| table.fault(line, format!("{name} is never counted"))).collect()
}

/// The functions of a file: name, whether it is a method, and its words.
fn functions(file: &File) -> impl Iterator<Item = (&str, bool, Vec<&str>)> {
    file.outline.functions.iter().map(|function| {
        let inside = file.code.iter().filter(|token| function.extent.holds(token));
        (function.name.as_str(), function.takes_self, inside.filter_map(Token::word).collect())
    })
}

/// What a file calls as a function of `Counter`, and what as a method (`true`): a word alone may be anything's name.
fn calls(file: &File) -> impl Iterator<Item = (&str, bool)> {
    file.code.windows(4).filter_map(|four| {
        let of_counter = four[0].is("Counter") && four[1].is("::");
        let is_method = four[1].is(".") && four[3].is("(");
        four[2].word().filter(|_| of_counter || is_method).map(|word| (word, is_method))
    })
}

fn words(file: &File) -> impl Iterator<Item = &str> {
    file.code.iter().filter_map(Token::word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn a_metric_that_is_declared_twice_is_found() {
        let text = "const X: &str = \"hawser_x_total\";";
        assert_eq!(names_are_declared_once(&tree(&[("src/a.rs", text), ("src/b.rs", text)])).len(), 2);
        let once = [("src/a.rs", text), ("src/lab/b.rs", text), ("tests/c.rs", text)];
        assert!(names_are_declared_once(&tree(&once)).is_empty());
    }

    #[test]
    fn a_row_that_nobody_counts_is_found() {
        let table = ("src/stats/table.rs", "table! { \"x\", \"X.\": Used {}  Chosen { a = \"b\" }  Unused {}; }");
        let pick =
            ("src/stats/pick.rs", "impl Counter { fn choose() -> Self { Self::Chosen } fn other() { Self::Unused } }");
        let user = ("src/engine/mod.rs", "fn f() { count(Counter::Used); count(Counter::choose()) }");
        let faults = rows_are_counted(&tree(&[table, pick, user]));
        assert!(faults.len() == 1 && faults[0].contains("Unused"), "{faults:?}");
        let namesake = ("src/flow/mod.rs", "fn f(other: u32) { self.other = other }");
        assert_eq!(rows_are_counted(&tree(&[table, pick, user, namesake])).len(), 1);
        let test = ("src/flow/mod.rs", "#[cfg(test)] mod tests { fn f() { Counter::Unused } }");
        assert_eq!(rows_are_counted(&tree(&[table, pick, user, test])).len(), 1);
        let other = ("src/flow/mod.rs", "fn f() { Counter::other() }");
        assert!(rows_are_counted(&tree(&[table, pick, user, other])).is_empty());
    }

    #[test]
    fn a_limit_without_doc_use_or_counter_is_found() {
        let table = ("src/stats/table.rs", "table! { LimitX { limit = \"x\" } }");
        let user = ("src/a.rs", "use crate::limits::X_MAX;");
        let faults = |limits: &str, files: &[(&'static str, &'static str)]| {
            let mut all = vec![("src/limits.rs", limits)];
            all.extend(files);
            limits_are_used_and_counted(&tree(&all)).len()
        };
        let whole = "//! Limits.\n/// Its unit.\npub const X_MAX: u32 = 1;";
        assert_eq!(faults(whole, &[table, user]), 0);
        assert_eq!(faults("//! Limits.\npub const X_MAX: u32 = 1;", &[table, user]), 1);
        assert_eq!(faults(whole, &[table]), 1);
        assert_eq!(faults(whole, &[user]), 1);
        assert_eq!(faults(whole, &[table, ("src/a.rs", "#[cfg(test)] mod t { use a::X_MAX; }")]), 1);
        assert_eq!(faults("/// A\npub const SHARDS_MAX: u8 = 1;", &[table, ("src/a.rs", "use a::SHARDS_MAX;")]), 0);
    }
}
