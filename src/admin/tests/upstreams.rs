//! Servers, links and names in every answer that shows them.

use super::*;
use crate::limits::ADMIN_LABEL_SETS_MAX;
use crate::stats::{LinkKind, LinkRow, LinkState, NameRow, NameState, PeerRow, ServerRow, Upstreams};

/// Two pairs: one that answers, with a backup that does not, and one that is out.
pub fn pairs() -> Vec<PairRow> {
    let server = |member, address: Option<&str>, up, why: &str| ServerRow {
        member,
        address: address.map(|address| address.parse().expect("an address")),
        priority: 0,
        weight: 0,
        up,
        age: Duration::from_secs(7),
        why: why.to_owned(),
    };
    let pair = |name: &str, pinned, outage, servers| PairRow {
        name: name.to_owned(),
        active: "primary",
        age: Duration::from_secs(9),
        why: "since the start".to_owned(),
        pinned,
        outage,
        servers,
    };
    vec![
        pair(
            "sips\"1",
            true,
            None,
            vec![
                server("primary", Some("192.0.2.1:5060"), true, "it answers"),
                server("backup", Some("[2001:db8::2]:5060"), false, "no answer in time"),
            ],
        ),
        pair(
            "sips2",
            false,
            Some(Duration::from_secs(5)),
            vec![server("primary", None, false, "its name does not resolve")],
        ),
    ]
}

/// The first shard has the pairs; each has a link of every kind, and names.
pub fn of_shard(shard: u8, names: usize) -> Upstreams {
    let link = |kind, name: &str, state| LinkRow {
        kind,
        name: name.to_owned(),
        address: "192.0.2.9:5061".parse().expect("an address"),
        transport: Transport::Tls,
        state,
        age: Duration::from_secs(3),
        why: "reset".to_owned(),
    };
    let peer = |name: &str, up, age, why: &str| PeerRow {
        name: name.to_owned(),
        up,
        age: Duration::from_secs(age),
        why: why.to_owned(),
    };
    // One shard alone has found the third to be gone; nobody has wanted the fourth.
    let second = match shard {
        0 => peer("site2", Some(true), 3, ""),
        _ => peer("site2", Some(false), 1, "refused"),
    };
    let third = match shard {
        0 => peer("site3", None, 0, ""),
        _ => peer("site3", Some(false), 5, "timeout"),
    };
    let name = |nth| NameRow {
        name: format!("n{nth:04}.example.com"),
        transport: "tls",
        state: if shard == 0 { NameState::Fresh } else { NameState::Asking },
        age: Duration::from_secs(4),
        expires_in: Duration::from_secs(30),
        targets: vec!["192.0.2.9:5061".parse().expect("an address")],
        why: String::new(),
        waiting: 2,
    };
    Upstreams {
        pairs: if shard == 0 { pairs() } else { Vec::new() },
        links: vec![
            link(LinkKind::Server, "sips2", LinkState::Open),
            link(LinkKind::Peer, "site2", if shard == 0 { LinkState::Open } else { LinkState::BackingOff }),
            link(LinkKind::Device, "", LinkState::Connecting),
        ],
        devices: [1, 0, 0, 0],
        peers: vec![second, third, peer("site4", None, 0, "")],
        names: (0..names).map(name).collect(),
    }
}

#[test]
fn metrics_show_them_by_name() {
    let admin = serve(fake(), None);
    let (_, _, text) = get(admin.address(), "/metrics");
    for line in [
        "hawser_server_up{pair=\"sips\\\"1\",server=\"primary\",address=\"192.0.2.1:5060\"} 1",
        "hawser_server_up{pair=\"sips\\\"1\",server=\"backup\",address=\"[2001:db8::2]:5060\"} 0",
        "hawser_server_up{pair=\"sips2\",server=\"primary\",address=\"\"} 0",
        "hawser_server_since_seconds{pair=\"sips2\",server=\"primary\",address=\"\"} 7.0",
        "hawser_server_active{pair=\"sips\\\"1\",server=\"primary\"} 1",
        "hawser_server_active{pair=\"sips\\\"1\",server=\"backup\"} 0",
        "hawser_server_active_since_seconds{pair=\"sips2\"} 9.0",
        "hawser_server_pinned{pair=\"sips\\\"1\"} 1",
        "hawser_server_pair_out{pair=\"sips2\"} 1",
        "hawser_server_connections{pair=\"sips2\",address=\"192.0.2.9:5061\",transport=\"tls\",state=\"open\"} 2",
        "hawser_peer_connections{peer=\"site2\",address=\"192.0.2.9:5061\",transport=\"tls\",state=\"backing off\"} 1",
        "hawser_peer_up{peer=\"site2\"} 1",
        "hawser_peer_up{peer=\"site3\"} 0",
        "hawser_peer_up{peer=\"site4\"} 1",
        "hawser_peer_since_seconds{peer=\"site2\"} 3.0",
        "hawser_peer_since_seconds{peer=\"site3\"} 5.0",
        "hawser_device_connections{state=\"connecting\"} 2",
        "hawser_dns_name_state{name=\"n0000.example.com\",transport=\"tls\",state=\"asking\"} 1",
        "hawser_label_sets_left_out 0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

#[test]
fn names_of_their_metrics_are_what_prometheus_takes() {
    let admin = serve(fake(), None);
    let (_, _, text) = get(admin.address(), "/metrics");
    let word = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let mut seen = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(word(name), "{line}");
        seen +=
            usize::from(["server", "peer", "device"].iter().any(|kind| name.starts_with(&format!("hawser_{kind}_"))));
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn a_metric_has_no_more_lines_than_the_bound_and_says_what_was_left_out() {
    let lines = |names| {
        let (_, _, text) = get(serve(Fake { names, ..fake() }, None).address(), "/metrics");
        let count = text.lines().filter(|line| line.starts_with("hawser_dns_name_state{")).count();
        let left = text.lines().find_map(|line| line.strip_prefix("hawser_label_sets_left_out "));
        (count, left.expect("it is always there").to_owned())
    };
    // Two shards, each with its own state of every name.
    assert_eq!(lines(ADMIN_LABEL_SETS_MAX / 2), (ADMIN_LABEL_SETS_MAX, "0".to_owned()));
    assert_eq!(lines(ADMIN_LABEL_SETS_MAX / 2 + 1), (ADMIN_LABEL_SETS_MAX, "2".to_owned()));
}

#[test]
fn json_shows_them_with_since_when_and_why() {
    let admin = serve(fake(), None);
    let (status, _, text) = get(admin.address(), "/servers");
    assert_eq!(status, 200);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        json[1],
        serde_json::json!({
            "name": "sips2", "active": "primary", "since_s": 9, "why": "since the start", "pinned": false,
            "out_since_s": 5,
            "servers": [{
                "member": "primary", "address": null, "up": false, "since_s": 7, "why": "its name does not resolve",
                "priority": 0, "weight": 0,
            }],
        })
    );
    let (_, _, text) = get(admin.address(), "/stats");
    let stats: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(stats["pairs"], json);
    assert_eq!(
        stats["links"][1],
        serde_json::json!({
            "shard": 0, "kind": "peer", "name": "site2", "address": "192.0.2.9:5061", "transport": "tls",
            "state": "open", "since_s": 3, "why": "reset",
        })
    );
    assert_eq!(
        stats["peers"],
        serde_json::json!([
            { "name": "site2", "up": true, "since_s": 3, "why": "" },
            { "name": "site3", "up": false, "since_s": 5, "why": "timeout" },
            { "name": "site4", "up": null, "since_s": null, "why": "" },
        ])
    );
    assert_eq!(
        stats["names"][1],
        serde_json::json!({
            "shard": 1, "name": "n0000.example.com", "transport": "tls", "state": "asking", "since_s": 4, "expires_in_s": 30,
            "targets": ["192.0.2.9:5061"], "why": "", "waiting": 2,
        })
    );
    assert_eq!(get(serve(Fake { silent: vec![0], ..fake() }, None).address(), "/servers").0, 503);
}
