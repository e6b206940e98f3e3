//! What the proxy owes besides a final answer: a CANCEL that it has accepted goes on, a provisional response comes back, a
//! server's 503 is not passed on while its partner is there, and who is asked in vain is refused as its flow says and not
//! before its time.
//!
//! Owns: what was cancelled and what was said on the way. Asked is only where nothing stood in the way: the excuses of a
//! final answer are many, and these duties are watched in the runs that need none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser::clock::Time;
use hawser::engine::Sticky;

use crate::excuses::{Facts, first_of};
use crate::judge::{Asked, is_server};
use crate::message::Msg;
use crate::net::PartyId;
use crate::plan::{PHONES, Setup};

/// What is said so long before the final answer, or accepted so long before it, has come by then: shards stand still for
/// up to 4 s.
const IN_TIME: Duration = Duration::from_secs(8);

/// How long an INVITE that was on its way waits for its phone, which is the shortest that any request within a dialog does
/// by the settings of these runs, but for `flow-grace`.
const INVITE_LOST: Duration = Duration::from_millis(1_800);

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
    /// Of the setting, the shortest in this run.
    pub flow_grace: Duration,
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
            // A server that is thought to be out of order, for what it says is late, has its requests no more.
            let is_left = facts.is_late && is_server(one.party);
            let is_over = is_left || asked.refused_at.is_some_and(|at| at <= one.at);
            let ok = is_over || !is_late(asked, one.at) || !was_quiet(asked, one.at.after(IN_TIME));
            assert!(ok, "party {} rings for {}, which nobody hears", one.party, one.id);
        }
    }

    /// A refusal of the proxy's own has come to a server: as the phone's flow says (RFC 5626 §5.3.1), and within a dialog
    /// not before the phone has had its time to come back.
    pub fn check_refusal(
        &self,
        id: &str,
        got: &Msg,
        all: &BTreeMap<String, Asked>,
        facts: &Facts,
        setup: &Setup,
        now: Time,
    ) {
        let asked = &all[id];
        let phones = || asked.receivers().filter_map(|party| setup.phones.get(party.checked_sub(PHONES)?));
        if got.code() == 430 {
            let is_other =
                setup.sticky == Sticky::Path && !asked.in_dialog && phones().any(|phone| phone.instance == 2);
            assert!(is_other, "no other flow can be tried: {got:?}, {:?}", asked.method);
        }
        if got.code() != 480 || !facts.restarts.is_empty() {
            return;
        }
        let is_gone = ["480 Phone Lost", "480 Phone Not Connected"].iter().any(|gone| got.start.ends_with(gone));
        let has_others =
            setup.sticky == Sticky::Path && phones().count() > 0 && phones().all(|phone| phone.instance == 2);
        assert!(!is_gone || asked.in_dialog || !has_others, "another flow could be tried: {got:?}");
        // Who was not registered when its call began is known by its connection alone.
        let first = first_of(asked, all);
        let is_bound =
            |party: PartyId| facts.was_bound_throughout(party, first.at) && (first.from != party || first.is_bound);
        // A home that stands still for longer is not waited for.
        if got.start.ends_with("480 Phone Not Back") && !facts.is_late && asked.receivers().all(is_bound) {
            let waited = now.since(asked.at);
            let least = self.flow_grace.min(INVITE_LOST);
            assert!(waited >= least, "the phone had {waited:?} to come back: {got:?}");
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
