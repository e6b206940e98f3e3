//! The pairs as an operator sees them.

use super::{Evidence, Member, MemberView, Pool};
use crate::clock::Time;
use crate::stats::{PairRow, ServerRow};

impl Pool {
    /// One row for each pair.
    #[must_use]
    pub fn rows(&self, now: Time) -> Vec<PairRow> {
        let pairs = self.view().pairs.iter().enumerate().map(|(at, pair)| {
            let mut servers = servers(Member::Primary, pair.member(Member::Primary), now);
            if self.has_backup(at) {
                servers.extend(self::servers(Member::Backup, pair.member(Member::Backup), now));
            }
            PairRow {
                name: self.name(at).to_owned(),
                active: pair.active.name(),
                age: now.since(pair.since),
                why: match pair.why {
                    // Nothing has made it that; what is heard of its servers is with them.
                    Evidence::Start => "since the start".to_owned(),
                    why => why.to_string(),
                },
                pinned: pair.pinned,
                outage: pair.outage.map(|since| now.since(since)),
                servers,
            }
        });
        pairs.collect()
    }
}

/// One row for each target, or one that says why there is none.
fn servers(member: Member, view: &MemberView, now: Time) -> Vec<ServerRow> {
    let row = |address, priority, weight, up, since, why: Evidence| ServerRow {
        member: member.name(),
        address,
        priority,
        weight,
        up,
        age: now.since(since),
        why: why.to_string(),
    };
    if view.targets.is_empty() {
        return vec![row(None, 0, 0, false, view.since, view.why)];
    }
    view.targets.iter().map(|t| row(Some(t.address), t.priority, t.weight, t.up, t.since, t.why)).collect()
}
