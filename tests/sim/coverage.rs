//! Every counter counts over the fixed seeds, or stands here with its reason: what nothing moves is no proof of anything.

use hawser::stats::{Counters, Row};

/// Name without `hawser_` and `_total`, a label's value (empty: all), and why it does not count here. It may: some are
/// only rare.
const NOT_HERE: [(&str, &str, &str); 53] = [
    ("requests", "REGISTER", "a server registers nowhere; those of phones count every time"),
    ("requests", "PRACK", "a method as any other here; integration tests play it"),
    ("retransmissions_absorbed", "ack", "rare: it takes an ACK that the network doubles and a phone that has moved"),
    ("service_checks", "server", "servers of this world do not ask; tests/two_engines/hostile.rs"),
    ("service_checks", "503", "rare: a stranger that asks while no server answers"),
    ("x_genesys_stripped", "server", "servers of this world name flows by tokens; tests/two_engines/next_hop.rs"),
    ("faults", "", "the texts of strangers are few; src/sip/torture.rs and tests/two_engines/torture.rs play each"),
    ("unparsable_dropped", "", "the same"),
    ("refusals", "client_aor", "a setting that is off here; tests/two_engines/client_aor.rs"),
    ("refusals", "loop", "nobody here is configured in a circle; tests/two_engines/hostile.rs"),
    ("refusals", "breadth", "rare: one text of strangers"),
    ("refusals", "transactions", "bounds are wide here; tests/two_engines/bounds.rs"),
    ("refusals", "dialog_rate", "a setting that is off here; tests/two_engines/overload.rs"),
    ("refusals", "certificate", "all certificates are good here; src/tls/tests and tests/integration/certificates.rs"),
    (
        "refusals",
        "no_such_name",
        "names are those of servers, whose records outlive the fault; tests/two_engines/servers.rs",
    ),
    ("refusals", "name_unanswered", "the same"),
    ("refusals", "unsendable", "the network takes every datagram; tests/two_engines/oversize.rs"),
    ("refusals", "oversize", "udp-oversize-action is tcp here; tests/two_engines/oversize.rs"),
    ("failovers", "timeout", "rare: health finds a silent server first"),
    ("responses_dropped", "", "by the network's mercy: bodies are short; tests/two_engines/oversize.rs, room.rs"),
    ("acks_dropped", "mailbox", "rare: a mailbox that is full to the last place"),
    ("udp_oversize", "reject", "udp-oversize-action is tcp here"),
    ("connections_refused", "", "bounds are wide here; src/engine/mod.rs and tests/two_engines/bounds.rs"),
    ("proxy_", "", "there is no balancer here; src/shard/core/tests/balancers.rs"),
    ("connections_closed", "error", "the systems of this world fail by reset and silence only"),
    ("connections_closed", "tls_fault", "nobody breaks TLS here: it would be the proxy's own fault"),
    ("connections_closed", "handshake", "all certificates are good here"),
    ("connections_closed", "handshake_timeout", "rare: one seed in ten has TLS"),
    ("connections_closed", "first_message", "rare: a stranger that says nothing"),
    ("connections_closed", "send", "bodies are short: queues stay so; src/shard/core/tests"),
    ("connections_closed", "shut_out", "strangers fail too seldom; tests/two_engines/abuse.rs"),
    ("abuse_", "", "the same"),
    ("connections_closed", "panic", "nothing panics"),
    ("connect_failures", "", "servers are there or refuse; src/shard/tests and tests/two_engines/devices.rs"),
    ("server_switches", "", "by what is rare here: tests/two_engines/failover.rs and chaos_pair.rs have each"),
    ("tls_", "", "one CA, one key, the newest protocol; src/tls/tests has every failure, version and cipher"),
    ("datagrams_", "", "sockets take what they are given, or all of it later; src/transport/udp.rs"),
    ("accept_errors", "", "rare"),
    ("dns_", "", "one zone of two names; src/dns/tests and tests/two_engines/servers.rs"),
    ("limit_hits", "", "bounds are wide here; each has its test at the edge (tests/tidy counts them)"),
    ("mail_waited", "", "rare: a mailbox that is full to the last place when a binding moves"),
    ("mail_refused", "", "rare: the same"),
    ("shard_stalls_nudged", "", "the watchdog is a thread, and there is none here"),
    ("panics", "", "nothing panics"),
    ("log_suppressed", "", "rare"),
    ("timers_fired", "H", "rare: it takes a phone that has left with an error in hand"),
    ("refusals", "mailbox", "rare"),
    ("refusals", "forged_token", "rare: strangers are few"),
    ("refusals", "wrong_listener", "rare: one seed in four has two listeners"),
    ("refusals", "draining", "rare: one seed in six drains, at its end"),
    ("responses_by_via", "", "rare"),
    ("tokens_other_boot", "", "rare: one fault in fifty is a restart"),
    ("flow_grace", "", "rare"),
];

fn is_excused(row: &Row) -> bool {
    let name = row.name.trim_start_matches("hawser_");
    NOT_HERE.iter().any(|(of, label, _)| {
        let is_of = name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest == "_total" || of.ends_with('_'));
        is_of && (label.is_empty() || row.labels.iter().any(|(_, value)| value.starts_with(label)))
    })
}

/// Every counter counts, or stands in the list.
pub fn check(counters: &Counters) {
    let never = counters.rows().filter(|(row, count)| *count == 0 && !is_excused(row));
    let never: Vec<String> = never.map(|(row, _)| format!("{} {:?}", row.name, row.labels)).collect();
    assert!(never.is_empty(), "these count in no seed, and no reason is known: {never:#?}");
}

/// Those that have not counted, for who searches.
pub fn never(counters: &Counters) -> Vec<String> {
    counters.rows().filter(|(_, count)| *count == 0).map(|(row, _)| format!("{} {:?}", row.name, row.labels)).collect()
}
