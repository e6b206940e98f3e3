//! Servers, peers, devices and DNS names: as JSON for `/stats` and `/servers`, as lines for `/metrics`.
//!
//! Labels come from settings, DNS and Request-URIs, so each metric has at most `ADMIN_LABEL_SETS_MAX` lines;
//! devices, which anybody's Request-URI may name, are only counted. Shards open connections and ask for names on
//! their own: what they have is added up.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use serde_json::{Value, json};

use super::metrics::{Labels, escaped, gauge};
use crate::limits::ADMIN_LABEL_SETS_MAX;
use crate::stats::{LinkKind, LinkState, PairRow, PeerRow, ServerRow, Snapshot};

/// In a few words and without names, for whom no token is asked.
pub(super) fn summary(answering: Option<(usize, usize)>) -> String {
    match answering {
        Some((1, 1)) => "a SIP Server answers".to_owned(),
        Some((_, 1)) => "no SIP Server answers".to_owned(),
        Some((answering, all)) => format!("{answering} of {all} pairs of SIP Servers answer"),
        None => "the state of the SIP Servers is not known".to_owned(),
    }
}

/// The pairs as a JSON array.
pub(super) fn pairs(pairs: &[PairRow]) -> Value {
    let server = |server: &ServerRow| {
        json!({
            "member": server.member,
            "address": server.address.map(|address| address.to_string()),
            "up": server.up,
            "since_s": server.age.as_secs(),
            "why": server.why,
            "priority": server.priority,
            "weight": server.weight,
        })
    };
    let pair = |pair: &PairRow| {
        json!({
            "name": pair.name,
            "active": pair.active,
            "since_s": pair.age.as_secs(),
            "why": pair.why,
            "pinned": pair.pinned,
            "out_since_s": pair.outage.map(|outage| outage.as_secs()),
            "servers": pair.servers.iter().map(server).collect::<Vec<_>>(),
        })
    };
    pairs.iter().map(pair).collect()
}

/// Every shard's connections to servers, peers and devices.
pub(super) fn links(snapshots: &[Snapshot]) -> Value {
    let each = snapshots.iter().flat_map(|snapshot| snapshot.upstreams.links.iter().map(move |l| (snapshot.shard, l)));
    let row = each.map(|(shard, link)| {
        json!({
            "shard": shard,
            "kind": link.kind.name(),
            "name": link.name,
            "address": link.address.to_string(),
            "transport": link.transport.param_name(),
            "state": link.state.name(),
            "since_s": link.age.as_secs(),
            "why": link.why,
        })
    });
    row.collect()
}

/// The other sites' proxies as a JSON array.
pub(super) fn peers(snapshots: &[Snapshot]) -> Value {
    let row = |peer: &PeerRow| {
        json!({
            "name": peer.name,
            "up": peer.up,
            "since_s": peer.up.map(|_| peer.age.as_secs()),
            "why": peer.why,
        })
    };
    known_peers(snapshots).into_iter().map(row).collect()
}

/// What is known of each of the other sites' proxies: one that a shard has found there is there, and else what was
/// found last counts.
fn known_peers(snapshots: &[Snapshot]) -> Vec<&PeerRow> {
    let mut known: BTreeMap<&str, &PeerRow> = BTreeMap::new();
    let rank = |peer: &PeerRow| (peer.up.map_or(0, |up| 1 + u8::from(up)), Reverse(peer.age));
    for peer in snapshots.iter().flat_map(|snapshot| &snapshot.upstreams.peers) {
        let best = known.entry(&peer.name).or_insert(peer);
        if rank(peer) > rank(best) {
            *best = peer;
        }
    }
    known.into_values().collect()
}

/// Every shard's DNS names.
pub(super) fn names(snapshots: &[Snapshot]) -> Value {
    let each = snapshots.iter().flat_map(|snapshot| snapshot.upstreams.names.iter().map(move |n| (snapshot.shard, n)));
    let row = each.map(|(shard, name)| {
        json!({
            "shard": shard,
            "name": name.name,
            "transport": name.transport,
            "state": name.state.name(),
            "since_s": name.age.as_secs(),
            "expires_in_s": name.expires_in.as_secs(),
            "targets": name.targets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "why": name.why,
            "waiting": name.waiting,
        })
    });
    row.collect()
}

/// Writes metrics and notes what was left out.
struct Families<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
    left_out: u64,
}

impl Families<'_, '_> {
    /// A metric without lines is not written.
    fn write<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        lines: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> Result<(), fmt::Error> {
        let mut lines = lines.into_iter().peekable();
        if lines.peek().is_none() {
            return Ok(());
        }
        let mut metric = gauge(self.encoder, name, help)?;
        for (labels, value) in lines.by_ref().take(ADMIN_LABEL_SETS_MAX) {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        self.left_out += lines.count() as u64;
        Ok(())
    }
}

/// All of it as metrics.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshots: &[Snapshot]) -> Result<(), fmt::Error> {
    let mut families = Families { encoder, left_out: 0 };
    encode_pairs(&mut families, snapshots)?;
    encode_links(&mut families, snapshots)?;
    encode_names(&mut families, snapshots)?;
    let Families { encoder, left_out } = families;
    let help = "Lines that a metric with labels of settings, DNS or Request-URIs was too long for.";
    gauge(encoder, "hawser_label_sets_left_out", help)?.encode_gauge(&left_out)
}

fn encode_pairs(families: &mut Families<'_, '_>, snapshots: &[Snapshot]) -> Result<(), fmt::Error> {
    let pairs: Vec<&PairRow> = snapshots.iter().flat_map(|snapshot| &snapshot.upstreams.pairs).collect();
    let of_pair = |pair: &PairRow| vec![("pair", own(&pair.name))];
    let servers = || pairs.iter().flat_map(|pair| pair.servers.iter().map(move |server| (*pair, server)));
    let labels = |pair: &PairRow, server: &ServerRow| {
        let address = server.address.map_or_else(String::new, |address| address.to_string());
        vec![("pair", own(&pair.name)), ("server", server.member.into()), ("address", address.into())]
    };
    let up = servers().map(|(pair, server)| (labels(pair, server), flag(server.up)));
    families.write("hawser_server_up", "1 when the server answers, as far as is known.", up)?;
    let since = servers().map(|(pair, server)| (labels(pair, server), server.age.as_secs_f64()));
    families.write("hawser_server_since_seconds", "For how long the server has been up or down.", since)?;
    let active = pairs.iter().flat_map(|pair| {
        let mut members: Vec<_> = pair.servers.iter().map(|server| server.member).collect();
        members.dedup();
        let line = |member: &'static str| {
            (vec![("pair", own(&pair.name)), ("server", member.into())], flag(member == pair.active))
        };
        members.into_iter().map(line).collect::<Vec<_>>()
    });
    families.write("hawser_server_active", "1 for the server that gets the requests of its pair.", active)?;
    let age = pairs.iter().map(|pair| (of_pair(pair), pair.age.as_secs_f64()));
    families.write("hawser_server_active_since_seconds", "For how long the active server has been that.", age)?;
    let pinned = pairs.iter().map(|pair| (of_pair(pair), flag(pair.pinned)));
    families.write("hawser_server_pinned", "1 while an operator has fixed the active server.", pinned)?;
    let out = pairs.iter().map(|pair| (of_pair(pair), flag(pair.outage.is_some())));
    families.write("hawser_server_pair_out", "1 while neither server of the pair answers (event 40001).", out)
}

fn encode_links(families: &mut Families<'_, '_>, snapshots: &[Snapshot]) -> Result<(), fmt::Error> {
    let links = || snapshots.iter().flat_map(|snapshot| &snapshot.upstreams.links);
    for (kind, label, name, help) in [
        (LinkKind::Server, "pair", "hawser_server_connections", "Our connections to SIP Servers, by state."),
        (LinkKind::Peer, "peer", "hawser_peer_connections", "Our connections to other sites' proxies, by state."),
    ] {
        let mut counts = BTreeMap::new();
        for link in links().filter(|link| link.kind == kind) {
            let key = (link.name.as_str(), link.address, link.transport, link.state.name());
            *counts.entry(key).or_insert(0_u64) += 1;
        }
        let lines = counts.into_iter().map(|((name, address, transport, state), count)| {
            let address = Cow::Owned(address.to_string());
            let transport = transport.param_name().into();
            (vec![(label, own(name)), ("address", address), ("transport", transport), ("state", state.into())], count)
        });
        families.write(name, help, lines)?;
    }
    let known = known_peers(snapshots);
    let peers = known.iter().map(|peer| (vec![("peer", own(&peer.name))], flag(peer.up != Some(false))));
    families.write("hawser_peer_up", "0 when the other site's proxy was not there when it was last wanted.", peers)?;
    let since = known.iter().filter(|peer| peer.up.is_some());
    let since = since.map(|peer| (vec![("peer", own(&peer.name))], peer.age.as_secs_f64()));
    families.write("hawser_peer_since_seconds", "For how long that has been so, once it was wanted.", since)?;
    let devices = LinkState::ALL.map(|state| {
        let count: u64 = snapshots.iter().map(|snapshot| snapshot.upstreams.devices[state as usize]).sum();
        (vec![("state", state.name().into())], count)
    });
    families.write("hawser_device_connections", "Our connections to devices that do not register, by state.", devices)
}

fn encode_names(families: &mut Families<'_, '_>, snapshots: &[Snapshot]) -> Result<(), fmt::Error> {
    let mut counts = BTreeMap::new();
    for name in snapshots.iter().flat_map(|snapshot| &snapshot.upstreams.names) {
        *counts.entry((name.name.as_str(), name.transport, name.state.name())).or_insert(0_u64) += 1;
    }
    let lines = counts.into_iter().map(|((name, transport, state), count)| {
        (vec![("name", own(name)), ("transport", transport.into()), ("state", state.into())], count)
    });
    families.write("hawser_dns_name_state", "Shards that hold the DNS name in this state.", lines)
}

fn own(text: &str) -> Cow<'static, str> {
    Cow::Owned(escaped(text).into_owned())
}

fn flag(set: bool) -> u64 {
    u64::from(set)
}
