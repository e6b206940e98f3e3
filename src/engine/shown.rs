//! What an operator sees of servers, peers, devices and names: who is there, since when, and why.

use std::cell::OnceCell;

use super::connections::{Connection, Element, State};
use super::{CloseReason, Engine};
use crate::clock::Time;
use crate::config::{Host, PeerProxy};
use crate::dns::{Failure, NameState as Known};
use crate::ids::Side;
use crate::limits::ADMIN_LABEL_SETS_MAX;
use crate::stats::{LinkKind, LinkRow, LinkState, NameRow, NameState, PairRow, PeerRow, Upstreams};

impl Engine {
    /// The servers (on the shard that owns their verdict), this shard's connections to servers, peers and devices,
    /// and the names that it has asked for.
    #[must_use]
    pub fn upstreams(&self, now: Time) -> Upstreams {
        let pairs = self.pairs(now);
        let (links, devices) = self.link_rows(now);
        Upstreams { pairs, links, devices, peers: self.peer_rows(now), names: self.name_rows(now) }
    }

    /// The pairs, on the shard that owns their verdict; none on others.
    #[must_use]
    pub fn pairs(&self, now: Time) -> Vec<PairRow> {
        self.service_checks.as_ref().map_or_else(Vec::new, |checks| checks.rows(now))
    }

    /// How many pairs answer and how many there are, on the shard that owns their verdict.
    #[must_use]
    pub fn pairs_answering(&self) -> Option<(usize, usize)> {
        self.service_checks.as_ref().map(|checks| checks.answering())
    }

    fn peer_rows(&self, now: Time) -> Vec<PeerRow> {
        // One look at all ways, however many peers there are. One address of several is enough; what was closed while
        // idle says nothing.
        let mut ways: Vec<(Option<&Connection>, Option<&Connection>)> =
            vec![(None, None); self.env.settings.peers.len()];
        for (key, link) in self.connections.iter() {
            let Element::Peer(at) = key.element else { continue };
            let Some((well, bad)) = ways.get_mut(usize::from(at)) else { continue };
            let newer = |known: &Option<&Connection>| known.is_none_or(|known| link.since >= known.since);
            if link.is_there() && newer(well) {
                *well = Some(link);
            } else if link.is_out() && newer(bad) {
                *bad = Some(link);
            }
        }
        // The shard that asks for the peers' names knows of one that leads nowhere.
        let names = OnceCell::new();
        let nowhere = |name: &str| {
            let asked = names.get_or_init(|| self.dns.names(now)).iter().find(|row| &*row.question.host == name)?;
            asked.answer.as_ref()?.as_ref().err().map(|failure| (*failure, asked.age))
        };
        let row = |(at, peer): (usize, &PeerProxy)| {
            if let (Host::Name(name), Some([])) =
                (&peer.contact, self.connections.upstream().peers.get(at).map(Vec::as_slice))
                && let Some((failure, age)) = nowhere(name)
            {
                let why = format!("its name does not resolve: {}", words(failure));
                return PeerRow { name: peer.name.clone(), up: Some(false), age, why };
            }
            let (up, since, why) = match ways[at] {
                (Some(link), _) => (Some(true), link.since, None),
                (None, Some(link)) => (Some(false), link.since, link.why),
                (None, None) => (None, now, None),
            };
            PeerRow { name: peer.name.clone(), up, age: now.since(since), why: words_of(why) }
        };
        self.env.settings.peers.iter().enumerate().map(row).collect()
    }

    /// Rows of the ways to servers and peers, and of some to devices; and how many of these there are by state.
    fn link_rows(&self, now: Time) -> (Vec<LinkRow>, [u64; LinkState::ALL.len()]) {
        let mut rows = Vec::new();
        let mut devices = [0; LinkState::ALL.len()];
        let mut devices_left = ADMIN_LABEL_SETS_MAX;
        for (key, link) in self.connections.iter() {
            let state = match link.state() {
                State::Open(_) => LinkState::Open,
                State::Opening(_) => LinkState::Connecting,
                State::Closed if link.rests(now) => LinkState::BackingOff,
                // For UDP it is only the memory of a failure.
                State::Closed if !key.to.transport.is_stream() => continue,
                State::Closed => LinkState::Closed,
            };
            let (kind, name) = match key.element {
                Element::Server(pair) => {
                    (LinkKind::Server, self.env.settings.servers.get(usize::from(pair)).map(|server| &server.name))
                }
                Element::Peer(peer) => {
                    (LinkKind::Peer, self.env.settings.peers.get(usize::from(peer)).map(|peer| &peer.name))
                }
                Element::Large(Side::Server) => (LinkKind::Server, None),
                Element::Device(_) | Element::Large(Side::Endpoint) => (LinkKind::Device, None),
            };
            if kind == LinkKind::Device {
                devices[state as usize] += 1;
                let Some(left) = devices_left.checked_sub(1) else { continue };
                devices_left = left;
            }
            rows.push(LinkRow {
                kind,
                name: name.cloned().unwrap_or_default(),
                address: key.to.address,
                transport: key.to.transport,
                state,
                age: now.since(link.since),
                why: words_of(link.why),
            });
        }
        rows.sort_by(|a, b| (a.kind, &a.name, a.address, a.transport).cmp(&(b.kind, &b.name, b.address, b.transport)));
        (rows, devices)
    }

    fn name_rows(&self, now: Time) -> Vec<NameRow> {
        let row = |known: crate::dns::NameRow| NameRow {
            name: match known.question.port {
                Some(port) => format!("{}:{port}", known.question.host),
                None => known.question.host.to_string(),
            },
            transport: known.question.transport.map_or("", crate::ids::Transport::param_name),
            state: match known.state {
                Known::Fresh => NameState::Fresh,
                Known::Stale => NameState::Stale,
                Known::Negative => NameState::Negative,
                Known::Asking => NameState::Asking,
                Known::Expired => NameState::Expired,
            },
            age: known.age,
            expires_in: known.expires_in,
            targets: match &known.answer {
                Some(Ok(targets)) => targets.iter().map(|target| target.address).collect(),
                _ => Vec::new(),
            },
            why: match known.answer {
                Some(Err(failure)) => words(failure).to_owned(),
                _ => String::new(),
            },
            waiting: known.waiters,
        };
        let mut rows: Vec<_> = self.dns.names(now).into_iter().map(row).collect();
        rows.sort_by(|a, b| (&a.name, a.transport).cmp(&(&b.name, b.transport)));
        rows
    }
}

fn words_of(why: Option<CloseReason>) -> String {
    why.map_or_else(String::new, |why| why.name().to_owned())
}

fn words(failure: Failure) -> &'static str {
    match failure {
        Failure::NoSuchName => "does not exist",
        Failure::NoRecords => "has no records that would do",
        Failure::Unanswered => "no resolver answers",
        Failure::Bound => "too many names, records or questions",
    }
}
