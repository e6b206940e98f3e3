//! What the proxy owes besides a final answer: a CANCEL that it has accepted goes on, a provisional response comes back,
//! and a server's 503 is not passed on while its partner is there.
//!
//! Owns: what was cancelled and what was said on the way. Asked is only where nothing stood in the way: the excuses of a
//! final answer are many, and these duties are watched in the runs that need none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser::clock::Time;

use crate::excuses::Facts;
use crate::judge::{Asked, is_server};
use crate::message::Msg;
use crate::net::PartyId;

/// What is said so long before the final answer, or accepted so long before it, has come by then: shards stand still for
/// up to 4 s.
const IN_TIME: Duration = Duration::from_secs(8);

/// A provisional response that a party has made.
struct Provisional {
    party: PartyId,
    id: String,
    at: Time,
    has_come: bool,
}

#[derive(Default)]
pub struct Duties {
    /// By branch: when the proxy has answered the CANCEL of an INVITE with 200, and the INVITE's `X-Id`.
    cancelled: BTreeMap<String, (Time, String)>,
    provisionals: BTreeMap<String, Provisional>,
}

impl Duties {
    pub fn cancel_accepted(&mut self, branch: &str, id: &str, now: Time) {
        self.cancelled.entry(branch.to_owned()).or_insert_with(|| (now, id.to_owned()));
    }

    pub fn is_cancelled(&self, branch: &str) -> bool {
        self.cancelled.contains_key(branch)
    }

    /// A party says that it rings.
    pub fn rings(&mut self, party: PartyId, id: &str, response: &Msg, now: Time) {
        let ringing = || Provisional { party, id: id.to_owned(), at: now, has_come: false };
        self.provisionals.entry(response.get("X-Rid").to_owned()).or_insert_with(ringing);
    }

    pub fn provisional_came(&mut self, response: &Msg) {
        if let Some(one) = self.provisionals.get_mut(response.get("X-Rid")) {
            one.has_come = true;
        }
    }

    /// Asks of each CANCEL and of each provisional response what has become of it.
    pub fn conclude(&self, all: &BTreeMap<String, Asked>, cancels: &BTreeSet<(PartyId, String)>, facts: &Facts) {
        let was_quiet = |asked: &Asked, until: Time| {
            let mut parties = asked.receivers().chain([asked.from, 0, 1]);
            !facts.loses && parties.all(|party| facts.was_steady(party, asked.at, until))
        };
        let is_late = |asked: &Asked, at: Time| asked.answered_at.is_none_or(|end| end > at.after(IN_TIME));
        for (at, id) in self.cancelled.values() {
            let Some(asked) = all.get(id).filter(|asked| !is_server(asked.from) && is_late(asked, *at)) else {
                continue;
            };
            let has_come =
                asked.call_ids().any(|call| [0, 1].iter().any(|one| cancels.contains(&(*one, call.to_owned()))));
            let is_servers = asked.arrived.iter().any(|(party, _)| is_server(*party));
            let ok = has_come || !is_servers || !was_quiet(asked, at.after(IN_TIME));
            assert!(ok, "the CANCEL of {id} was accepted, and has gone nowhere");
        }
        for one in self.provisionals.values().filter(|one| !one.has_come) {
            let Some(asked) = all.get(&one.id) else { continue };
            let ok = !is_late(asked, one.at) || !was_quiet(asked, one.at.after(IN_TIME));
            assert!(ok, "party {} rings for {}, which nobody hears", one.party, one.id);
        }
    }
}

/// A 503 of a server that has come to an endpoint: its partner was asked too, or was not well.
pub fn check_503(asked: &Asked, response: &Msg, facts: &Facts, was_cancelled: bool, now: Time) {
    let Ok(by) = response.get("X-Rid").split(' ').next().unwrap_or("").parse::<PartyId>() else { return };
    if !is_server(by) || is_server(asked.from) || was_cancelled {
        return;
    }
    let partner = 1 - by;
    let was_asked = asked.arrived.iter().any(|(party, _)| *party == partner);
    let is_well = facts.was_always_well(partner, now);
    assert!(was_asked || !is_well, "server {by} refuses, and {partner} was not asked: {response:?}");
}
