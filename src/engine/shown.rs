//! What an operator sees of servers, peers, devices and names: who is there, since when, and why.

use super::Engine;
use super::links::Whose;
use crate::clock::Time;
use crate::dns::{Failure, NameState as Known};
use crate::ids::Side;
use crate::server_pool::Member;
use crate::stats::{LinkKind, LinkRow, LinkState, NameRow, NameState, PairRow, ServerRow, Upstreams};

impl Engine {
    /// The servers (on the shard that owns their verdict), this shard's connections to servers, peers and devices,
    /// and the names that it has asked for.
    #[must_use]
    pub fn upstreams(&self, now: Time) -> Upstreams {
        Upstreams { pairs: self.pair_rows(now), links: self.link_rows(now), names: self.name_rows(now) }
    }

    fn pair_rows(&self, now: Time) -> Vec<PairRow> {
        if self.owner.is_none() {
            return Vec::new();
        }
        let pairs = self.settings.servers.iter().zip(&self.view.pairs);
        let row = |(server, pair): (&crate::config::Server, &crate::server_pool::PairView)| PairRow {
            name: server.name.clone(),
            active: pair.active.name(),
            age: now.since(pair.since),
            why: pair.why.to_string(),
            pinned: pair.pinned,
            outage: pair.outage.map(|since| now.since(since)),
            servers: [Member::Primary, Member::Backup]
                .into_iter()
                .filter(|member| *member == Member::Primary || server.backup.is_some())
                .flat_map(|member| server_rows(member, pair.member(member), now))
                .collect(),
        };
        pairs.map(row).collect()
    }

    fn link_rows(&self, now: Time) -> Vec<LinkRow> {
        let row = |(key, link): (&super::LinkKey, &super::Link)| {
            let state = match (link.conn, link.open) {
                (Some(_), true) => LinkState::Open,
                (Some(_), false) => LinkState::Connecting,
                (None, _) if link.rests(now) => LinkState::BackingOff,
                // Neither there nor wanted: the next request opens it.
                (None, _) => return None,
            };
            let (kind, name) = match key.whose {
                Whose::Server(pair) => {
                    (LinkKind::Server, self.settings.servers.get(usize::from(pair)).map(|server| &server.name))
                }
                Whose::Peer(peer) => {
                    (LinkKind::Peer, self.settings.peers.get(usize::from(peer)).map(|peer| &peer.name))
                }
                Whose::Large(Side::Server) => (LinkKind::Server, None),
                Whose::Device(_) | Whose::Large(Side::Endpoint) => (LinkKind::Device, None),
            };
            Some(LinkRow {
                kind,
                name: name.cloned().unwrap_or_default(),
                address: key.address,
                transport: key.transport,
                state,
                age: now.since(link.since),
                why: link.why.map_or_else(String::new, |why| why.name().to_owned()),
            })
        };
        self.links.iter().filter_map(row).collect()
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
        self.dns.names(now).into_iter().map(row).collect()
    }
}

fn server_rows(member: Member, view: &crate::server_pool::MemberView, now: Time) -> Vec<ServerRow> {
    if view.targets.is_empty() {
        return vec![ServerRow {
            member: member.name(),
            address: None,
            priority: 0,
            weight: 0,
            up: false,
            age: now.since(view.since),
            why: view.why.to_string(),
        }];
    }
    let row = |target: &crate::server_pool::TargetView| ServerRow {
        member: member.name(),
        address: Some(target.address),
        priority: target.priority,
        weight: target.weight,
        up: target.up,
        age: now.since(target.since),
        why: target.why.to_string(),
    };
    view.targets.iter().map(row).collect()
}

fn words(failure: Failure) -> &'static str {
    match failure {
        Failure::NoSuchName => "does not exist",
        Failure::NoRecords => "has no records that would do",
        Failure::Unanswered => "no resolver answers",
        Failure::Bound => "too many names, records or questions",
    }
}
