//! What must hold of messages, whoever sends them. Each request of a party has a number (`X-Id: FROM NUMBER TO`), each
//! response that a party makes another (`X-Rid`): both pass unchanged, so that it is known of everything that arrives who
//! has sent it, to whom it was to go, and what it said.
//!
//! Owns: the questions that are asked of each message when it arrives and of each request at the end. What may excuse a
//! request that was never answered stands in `excuses`.

use std::collections::{BTreeMap, BTreeSet};

use hawser::clock::Time;

use crate::duties::{Duties, check_503};
use crate::excuses::{Cause, Facts, began};
use crate::fields;
use crate::message::{Msg, parameter, uri_of};
use crate::net::{PartyId, WireId};
use crate::plan::{Failure, STRANGER, Setup};
use crate::stack::{Client, Served, TIMES, Way};

/// The servers are parties 0 and 1.
pub fn is_server(party: PartyId) -> bool {
    party < 2
}

/// A request that a party has sent.
pub struct Asked {
    pub from: PartyId,
    /// A party's number, or `s` for the pair.
    pub to: String,
    pub method: String,
    /// As it was sent, by its first sender and by servers that have sent it on: each time another branch.
    sent: Vec<Msg>,
    /// The way of its transaction; `None` for an ACK.
    pub way: Option<Way>,
    pub at: Time,
    pub finals: Vec<String>,
    /// When the first of them came, an error.
    pub refused_at: Option<Time>,
    pub timed_out: Option<Time>,
    pub in_dialog: bool,
    /// Its sender was bound over the way that it took.
    pub is_bound: bool,
    /// Who has got it, and when first.
    pub arrived: Vec<(PartyId, Time)>,
    /// When somebody has answered it for good.
    pub answered_at: Option<Time>,
    /// The requests that a B2BUA has made of it.
    pub made: Vec<String>,
    /// Where proxying servers have sent it on to.
    pub onward: Vec<PartyId>,
}

impl Asked {
    /// Who was to answer: a party, or those that a proxying server has sent it on to.
    pub fn receivers(&self) -> impl Iterator<Item = PartyId> {
        self.to.parse().into_iter().chain(self.onward.iter().copied())
    }

    pub fn call_ids(&self) -> impl Iterator<Item = &str> {
        self.sent.iter().map(|sent| sent.get("Call-ID"))
    }
}

/// Of whole runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub acks: u64,
    pub messages: u64,
    pub excused: BTreeMap<Cause, u64>,
}

#[derive(Default)]
pub struct Judge {
    pub asked: BTreeMap<String, Asked>,
    /// Responses by number, as they were sent by their first sender, and by servers that have passed them back.
    said: BTreeMap<String, Vec<Msg>>,
    pub facts: Facts,
    pub tally: Tally,
    /// Of INVITEs that were answered for good: who has not got an ACK.
    without_ack: Vec<(PartyId, Served)>,
    /// When each transaction of a party, by its branch, had an error for its final answer.
    refused: BTreeMap<String, Time>,
    /// CANCELs that parties have got, by Call-ID.
    cancelled: BTreeSet<(PartyId, String)>,
    /// ACKs that either server has got, by Call-ID and number: a pair shares its calls, and who is active hears of them.
    acks_at_servers: BTreeSet<(String, u32)>,
    /// Call-IDs of which a server has had a 503 of the proxy's own.
    refused_at_servers: BTreeSet<String>,
    pub duties: Duties,
    /// By which phones say that they can be reached.
    contacts: BTreeMap<PartyId, String>,
}

impl Judge {
    // --- what leaves a party --------------------------------------------------------------------------------

    /// A message leaves a party, maybe not for the first time.
    pub fn left(&mut self, party: PartyId, message: &Msg, now: Time) {
        if message.is_request() {
            let id = message.get("X-Id");
            if id.is_empty() {
                return;
            }
            let asked = self.asked.entry(id.to_owned()).or_insert_with(|| {
                let mut words = id.split(' ').skip(2);
                Asked {
                    from: party,
                    to: words.next().expect("a receiver").to_owned(),
                    method: message.method().to_owned(),
                    sent: Vec::new(),
                    way: None,
                    at: now,
                    finals: Vec::new(),
                    refused_at: None,
                    timed_out: None,
                    in_dialog: !parameter(message.get("To"), "tag").is_empty(),
                    is_bound: true,
                    arrived: Vec::new(),
                    answered_at: None,
                    made: Vec::new(),
                    onward: Vec::new(),
                }
            });
            if asked.sent.iter().all(|sent| sent.branch() != message.branch()) {
                asked.sent.push(message.clone());
            }
            if message.method() == "REGISTER" {
                self.contacts.insert(party, uri_of(message.get("Contact")).to_owned());
            }
        } else if !message.get("X-Rid").is_empty() {
            let said = self.said.entry(message.get("X-Rid").to_owned()).or_default();
            if said.iter().all(|one| one.branch() != message.branch()) {
                said.push(message.clone());
            }
        }
    }

    /// A proxying server sends it on to this party.
    pub fn onward(&mut self, id: &str, to: &str) {
        if let Some(asked) = self.asked.get_mut(id) {
            asked.onward.push(to.parse().expect("a party"));
        }
    }

    /// A B2BUA has made a request of another.
    pub fn made(&mut self, of: &str, id: &str) {
        if let Some(asked) = self.asked.get_mut(of) {
            asked.made.push(id.to_owned());
        }
    }

    /// A transaction begins: it is owed one final answer.
    pub fn asked(&mut self, party: PartyId, request: &Msg, way: Way, is_bound: bool, now: Time) {
        self.left(party, request, now);
        let asked = self.asked.get_mut(request.get("X-Id")).expect("it has just left");
        if asked.from == party && asked.way.is_none() {
            (asked.way, asked.is_bound) = (Some(way), is_bound);
        }
    }

    // --- what arrives at a party ----------------------------------------------------------------------------

    /// A message has arrived. `has_had`: an INVITE of its branch has come before.
    pub fn arrived(&mut self, party: PartyId, message: &Msg, has_had: bool, now: Time, setup: &Setup) {
        self.tally.messages += 1;
        if message.is_request() {
            self.request_arrived(party, message, has_had, now, setup);
        } else {
            self.response_arrived(party, message, now, setup);
        }
    }

    fn request_arrived(&mut self, party: PartyId, message: &Msg, has_had: bool, now: Time, setup: &Setup) {
        let id = message.get("X-Id");
        if id.is_empty() {
            let is_ours = match message.method() {
                "OPTIONS" => is_server(party),
                "CANCEL" => self.has_had(party, message),
                "ACK" => {
                    self.has_had(party, message) && (has_had || setup.named || self.may_be_passed_on(message, now))
                }
                _ => false,
            };
            if message.method() == "CANCEL" {
                self.cancelled.insert((party, message.get("Call-ID").to_owned()));
            }
            assert!(is_ours, "party {party} gets what nobody has sent: {message:?}");
            return;
        }
        if message.method() == "ACK" && is_server(party) {
            self.acks_at_servers.insert((message.get("Call-ID").to_owned(), message.cseq()));
        }
        // While the servers' name is not resolved, nobody knows that a server has sent it, nor later in that dialog.
        let is_nameless =
            |asked: &Asked| self.facts.is_nameless(asked.at) || self.facts.is_nameless(began(asked, &self.asked));
        let is_unknown = self.facts.has_names && is_server(party) && self.asked.get(id).is_some_and(is_nameless);
        let Some(asked) = self.asked.get_mut(id) else { panic!("nobody has sent {message:?} to {party}") };
        if asked.arrived.iter().all(|(known, _)| *known != party) {
            asked.arrived.push((party, now));
        }
        let is_for_it = if is_server(party) {
            let passes = setup.is_proxying() && !is_server(asked.from) && !is_direct(asked, setup);
            asked.to == "s" || passes || is_unknown
        } else {
            asked.to == party.to_string() || asked.onward.contains(&party)
        };
        assert!(is_for_it, "{id} reaches party {party}: {message:?}, sent as {:?}", asked.sent);
        let below = parameter(message.all("Via").nth(1).unwrap_or(""), "branch");
        let sent = asked.sent.iter().find(|sent| sent.branch() == below);
        let Some(sent) = sent else { panic!("nobody has sent it so: {message:?}") };
        check_request(sent, message, setup);
        let is_servers = is_server_branch(sent);
        if !(is_servers && is_server(party)) {
            fields::check_request(party, sent, message, is_servers, !is_servers && !is_server(party), setup);
            let contact = self.contacts.get(&party).filter(|_| is_servers);
            fields::check_uri(sent, message, contact, setup);
        }
    }

    /// Whether the ACK to an error may not have found its transaction at the proxy, which passes it on without state then
    /// (RFC 3261 §16.11): who asked has another port by now, the proxy has started anew, or timer H or I has fired.
    fn may_be_passed_on(&self, ack: &Msg, now: Time) -> bool {
        let call_id = ack.get("Call-ID");
        let mut of = self.asked.values().filter(|asked| asked.call_ids().any(|one| one == call_id));
        // Or the proxy had refused it where it landed, without a state and a tag of its own: for want of room in a mailbox, or
        // of time.
        let was_refused = |asked: &Asked| asked.in_dialog && asked.finals.iter().any(|line| line.contains(" 503 "));
        let is_late = |asked: &Asked| asked.answered_at.is_some_and(|at| now.since(at) >= TIMES.t4);
        !self.facts.restarts.is_empty()
            || self.refused_at_servers.contains(call_id)
            || of.any(|asked| self.facts.has_moved(asked) || was_refused(asked) || is_late(asked))
    }

    /// Whether this party has got the INVITE of a CANCEL or of an ACK to an error. Either may overtake it over UDP.
    fn has_had(&self, party: PartyId, message: &Msg) -> bool {
        let call_id = message.get("Call-ID");
        self.asked.values().any(|asked| {
            let is_it = |sent: &Msg| sent.get("Call-ID") == call_id && sent.method() == "INVITE";
            let is_for_it = is_server(party) || asked.to == party.to_string() || asked.onward.contains(&party);
            is_for_it && asked.sent.iter().any(is_it)
        })
    }

    fn response_arrived(&mut self, party: PartyId, message: &Msg, now: Time, setup: &Setup) {
        if !is_server(party) {
            fields::check_response(party, message, setup);
        }
        let rid = message.get("X-Rid");
        if rid.is_empty() {
            if is_server(party) && message.code() == 503 {
                self.refused_at_servers.insert(message.get("Call-ID").to_owned());
            }
            let is_refusal = is_server(party) && matches!(message.code(), 430 | 480);
            let is_its =
                |(_, asked): &(&String, &Asked)| asked.sent.iter().any(|sent| sent.branch() == message.branch());
            if let Some((id, _)) = self.asked.iter().filter(|_| is_refusal).find(is_its) {
                self.duties.check_refusal(id, message, &self.asked, &self.facts, setup, now);
            }
            return;
        }
        assert_ne!(message.code(), 100, "it is for the next hop only (RFC 3261 §16.7 step 5): {message:?}");
        self.duties.provisional_came(message);
        let said = self.said.get(rid).unwrap_or_else(|| panic!("nobody has said {message:?}"));
        let below = |said: &&Msg| parameter(said.all("Via").nth(1).unwrap_or(""), "branch") == message.branch();
        let Some(said) = said.iter().find(below) else { panic!("nobody has said it so: {message:?}") };
        check_response(said, message, setup);
    }

    // --- what becomes of requests ---------------------------------------------------------------------------

    /// A transaction has passed a response on.
    pub fn answered(&mut self, request: &Msg, response: &Msg, again: bool, now: Time) {
        if response.code() < 200 {
            return;
        }
        if request.method() == "CANCEL" && response.code() == 200 {
            let branch = request.branch();
            let of = self.asked.iter().find(|(_, asked)| asked.sent.iter().any(|sent| sent.branch() == branch));
            if let Some((id, _)) = of {
                self.duties.cancel_accepted(branch, id, now);
            }
        }
        if response.code() >= 300 {
            self.refused.entry(request.branch().to_owned()).or_insert(now);
        }
        let Some(asked) = self.asked.get_mut(request.get("X-Id")) else { return };
        if is_server(asked.from) != is_server_branch(request) {
            return;
        }
        if response.code() == 503 {
            check_503(asked, response, &self.facts, self.duties.is_cancelled(request.branch()), now);
        }
        let is_2xx_again = request.method() == "INVITE" && response.code() < 300;
        let is_other = !asked.finals.is_empty() && !asked.finals.contains(&response.start);
        assert!(!is_other, "two answers: {:?} and {}: {request:?}", asked.finals, response.start);
        assert!(asked.finals.is_empty() || again || is_2xx_again, "answered twice: {response:?}");
        if asked.finals.is_empty() {
            asked.finals.push(response.start.clone());
            asked.refused_at = Some(now).filter(|_| response.code() >= 300);
        }
        let is_408 = response.code() == 408 && request.method() != "INVITE";
        assert!(!is_408, "408 to what is no INVITE: {response:?}");
    }

    /// Somebody has answered a request for good.
    pub fn was_answered(&mut self, id: &str, now: Time) {
        if let Some(asked) = self.asked.get_mut(id) {
            asked.answered_at.get_or_insert(now);
        }
    }

    /// A response that no transaction waits for.
    pub fn stray(&mut self, party: PartyId, response: &Msg) {
        let call_id = response.get("Call-ID");
        if response.method() == "CANCEL" || self.facts.has_died(party) {
            return;
        }
        let mut own = self.asked.values().filter(|asked| {
            let is_it = |sent: &Msg| sent.get("Call-ID") == call_id && sent.branch() == response.branch();
            asked.sent.iter().any(is_it)
        });
        let asked = own.next().unwrap_or_else(|| panic!("an answer to nothing of party {party}: {response:?}"));
        let is_stream = asked.way.is_some_and(Way::is_stream);
        let is_late = asked.timed_out.is_some();
        let is_2xx = response.code() / 100 == 2 && asked.method == "INVITE";
        let ok = is_late || !is_stream || is_2xx || response.code() < 200 || is_server(party) != is_server(asked.from);
        assert!(ok, "answered twice over a stream: {response:?}");
    }

    pub fn timed_out(&mut self, client: &Client, now: Time) {
        if let Some(asked) = self.asked.get_mut(client.request.get("X-Id")) {
            asked.timed_out.get_or_insert(now);
        }
    }

    pub fn no_ack(&mut self, party: PartyId, served: &Served) {
        self.without_ack.push((party, served.clone()));
    }

    // --- what happens ---------------------------------------------------------------------------------------

    pub fn wire_lost(&mut self, party: PartyId, wire: WireId, now: Time) {
        self.facts.gone.push((now, party));
        self.facts.lost_wires.entry(wire).or_insert(now);
    }

    pub fn moved(&mut self, party: PartyId, now: Time) {
        self.facts.moved.push((now, party));
    }

    pub fn away(&mut self, party: PartyId, now: Time, until: Time) {
        self.facts.away.push((party, now, until));
    }

    /// Whether the proxy has started anew since a request was sent.
    pub fn has_restarted_since(&self, id: &str) -> bool {
        self.asked.get(id).is_some_and(|asked| self.facts.restarts.iter().any(|at| *at >= asked.at))
    }

    /// Whether who has sent a request has un-registered since.
    pub fn has_unbound_since(&self, id: &str) -> bool {
        let Some(asked) = self.asked.get(id) else { return false };
        self.facts.unbound.iter().any(|(at, party)| *party == asked.from && *at >= asked.at)
    }

    /// A phone un-registers, which may overtake what it has asked just before.
    pub fn unbinds(&mut self, party: PartyId, now: Time) {
        self.facts.unbound.push((now, party));
        let open = self.asked.values_mut().filter(|asked| asked.from == party && asked.finals.is_empty());
        open.for_each(|asked| asked.is_bound = false);
    }

    pub fn died(&mut self, party: PartyId, now: Time) {
        self.facts.died.push((now, party));
    }

    pub fn server_changed(&mut self, party: PartyId, failure: Option<Failure>, now: Time) {
        self.facts.failures.push((now, party, failure));
    }

    // --- the end --------------------------------------------------------------------------------------------

    /// Asks of each request whether it was answered, and of each answer whether it was acknowledged.
    pub fn conclude(&mut self) {
        for (id, asked) in &self.asked {
            if asked.way.is_none() {
                self.tally.acks += u64::from(asked.method == "ACK");
                continue;
            }
            self.tally.requests += 1;
            if asked.finals.is_empty() {
                let cause = self.facts.why_unanswered(asked, &self.asked);
                let Some(cause) = cause else { panic!("never answered: {id}, {:?}", asked.sent) };
                *self.tally.excused.entry(cause).or_default() += 1;
            }
        }
        self.duties.conclude(&self.asked, &self.cancelled, &self.facts);
        for (party, served) in &self.without_ack {
            let id = served.request.get("X-Id");
            // A stranger acknowledges nothing.
            let Some(asked) = self.asked.get(id).filter(|asked| asked.from != STRANGER) else { continue };
            let of = asked.sent.first().map(|sent| (sent.get("Call-ID").to_owned(), sent.cseq()));
            if is_server(*party) && of.is_some_and(|of| self.acks_at_servers.contains(&of)) {
                continue;
            }
            // Each of the servers that it came by may have sent it to the same phone.
            let parties = [*party, 0, 1];
            let is_cancelled = asked
                .call_ids()
                .any(|call_id| parties.into_iter().any(|party| self.cancelled.contains(&(party, call_id.to_owned()))));
            // Who has sent it to the proxy was told that it came to nothing, before it was answered.
            let below = parameter(served.request.all("Via").nth(1).unwrap_or(""), "branch");
            let is_late = |at: &Time| served.answered_at.is_some_and(|answered| answered >= *at);
            let given_up = self.refused.get(below).is_some_and(is_late).then_some(Cause::GivenUp);
            let crossed = is_cancelled.then_some(Cause::CancelCrossed);
            let cause = self.facts.why_without_ack(*party, asked, served, &self.asked).or(given_up).or(crossed);
            let Some(cause) = cause else { panic!("party {party} never got an ACK for {id}: {:?}", asked.sent) };
            *self.tally.excused.entry(cause).or_default() += 1;
        }
    }
}

/// Whether the request of an endpoint goes to another endpoint without the server.
fn is_direct(asked: &Asked, setup: &Setup) -> bool {
    asked.in_dialog && !setup.server_record_routes && asked.to != "s"
}

fn is_server_branch(request: &Msg) -> bool {
    request.get("Via").contains("192.0.2.11") || request.get("Via").contains("192.0.2.12")
}

/// Fields that the proxy may change, add or take away.
const EDITED: [&str; 8] =
    ["Via", "Max-Forwards", "Route", "Record-Route", "Path", "Max-Breadth", "X-Genesys-Route", "Content-Length"];

fn kept<'a>(message: &'a Msg, also: &[&str]) -> Vec<(&'a str, &'a str)> {
    let is_edited = |name: &str| EDITED.iter().chain(also).any(|edited| edited.eq_ignore_ascii_case(name));
    message.fields.iter().filter(|(name, _)| !is_edited(name)).map(|(name, value)| (&**name, &**value)).collect()
}

fn without_received(via: &str) -> String {
    let mut parts = via.split(';');
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts.filter(|part| !part.starts_with("received=") && !part.starts_with("rport")) {
        out.push(';');
        out.push_str(part);
    }
    out
}

/// What has come is what was sent, but for what a proxy does to it (RFC 3261 §16.6).
fn check_request(sent: &Msg, got: &Msg, setup: &Setup) {
    let also: &[&str] = match sent.method() {
        "REGISTER" if setup.rewrites_contact() => &["Supported", "Contact"],
        "REGISTER" => &["Supported"],
        _ => &[],
    };
    assert_eq!(kept(sent, also), kept(got, also), "fields differ");
    assert_eq!(sent.body, got.body, "the body differs of {got:?}");
    assert_eq!(sent.method(), got.method());
    let hops = |message: &Msg| message.get("Max-Forwards").parse::<u32>().expect("it is there");
    assert_eq!(hops(sent), hops(got) + 1, "{got:?}");
    let vias: Vec<&str> = got.all("Via").collect();
    assert!(vias.len() > 1 && vias[0].contains(setup.own_host()), "it came through the proxy: {got:?}");
    let below: Vec<String> = vias[1..].iter().map(|via| without_received(via)).collect();
    let own: Vec<String> = sent.all("Via").map(without_received).collect();
    assert_eq!(below, own, "Vias differ");
}

/// The same for a response (RFC 3261 §16.7).
fn check_response(said: &Msg, got: &Msg, setup: &Setup) {
    let also: &[&str] = match said.method() {
        "REGISTER" if setup.rewrites_contact() => &["Contact", "Retry-After"],
        _ => &["Retry-After"],
    };
    assert_eq!(kept(said, also), kept(got, also), "fields of a response differ");
    assert_eq!(said.body, got.body, "the body of a response differs");
    // An endpoint's 503 goes on as 500 (RFC 3261 §16.7 step 6).
    let is_503 = said.code() == 503 && got.code() == 500;
    assert!(said.start == got.start || is_503, "{} became {}", said.start, got.start);
    let vias: Vec<&str> = said.all("Via").skip(1).collect();
    assert_eq!(vias, got.all("Via").collect::<Vec<_>>(), "Vias of a response differ");
}
