//! What an operator sees of servers, peers, devices and names: plain rows for a snapshot.

use super::links::{Link, LinkKey, Whose};
use super::{CloseReason, Engine};
use crate::clock::Time;
use crate::dns::{self, Failure};
use crate::stats::{LinkKind, LinkRow, LinkState, NameRow, NameState, Upstreams};

impl Engine {
    /// Who this shard talks to by name.
    #[must_use]
    pub fn upstreams(&self, now: Time) -> Upstreams {
        let links = self.links.iter().filter(|(key, link)| key.transport.is_stream() || link.rests(now));
        let mut links: Vec<_> = links.map(|(key, link)| self.link_row(*key, link, now)).collect();
        links.sort_by(|a, b| (a.kind, &a.name, a.address, a.transport).cmp(&(b.kind, &b.name, b.address, b.transport)));
        let mut names: Vec<_> = self.dns.names(now).into_iter().map(name_row).collect();
        names.sort_by(|a, b| (&a.name, a.transport).cmp(&(&b.name, b.transport)));
        Upstreams { pairs: self.owner.as_ref().map_or_else(Vec::new, |owner| owner.rows(now)), links, names }
    }

    fn link_row(&self, key: LinkKey, link: &Link, now: Time) -> LinkRow {
        let (kind, name) = match key.whose {
            Whose::Server(pair) => (LinkKind::Server, self.settings.servers.get(usize::from(pair)).map(|s| &s.name)),
            Whose::Peer(peer) => (LinkKind::Peer, self.settings.peers.get(usize::from(peer)).map(|peer| &peer.name)),
            Whose::Device(_) => (LinkKind::Device, None),
        };
        LinkRow {
            kind,
            name: name.cloned().unwrap_or_default(),
            address: key.address,
            transport: key.transport,
            state: match link.conn {
                Some(_) if link.open => LinkState::Open,
                Some(_) => LinkState::Connecting,
                None if link.rests(now) => LinkState::BackingOff,
                None => LinkState::Closed,
            },
            age: now.since(link.since),
            why: link.why.map(CloseReason::name).unwrap_or_default().to_owned(),
        }
    }
}

fn name_row(row: dns::NameRow) -> NameRow {
    let dns::Question { host, port, transport, .. } = row.question;
    let (targets, why) = match &row.answer {
        Some(Ok(targets)) => (targets.iter().map(|target| target.address).collect(), ""),
        Some(Err(failure)) => (Vec::new(), in_words(*failure)),
        None => (Vec::new(), ""),
    };
    NameRow {
        name: port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}")),
        transport: transport.map_or("", crate::ids::Transport::param_name),
        state: match row.state {
            dns::NameState::Fresh => NameState::Fresh,
            dns::NameState::Stale => NameState::Stale,
            dns::NameState::Negative => NameState::Negative,
            dns::NameState::Asking => NameState::Asking,
            dns::NameState::Expired => NameState::Expired,
        },
        expires_in: row.expires_in,
        targets,
        why: why.to_owned(),
        waiting: row.waiters,
    }
}

fn in_words(failure: Failure) -> &'static str {
    match failure {
        Failure::NoSuchName => "no such name",
        Failure::NoRecords => "no record that would do",
        Failure::Unanswered => "no resolver answers",
        Failure::Bound => "too many records, or too many questions at once",
    }
}
