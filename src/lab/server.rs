//! The SIP Server: a registrar and a back-to-back user agent in one.
//!
//! Owns: bindings, calls of two legs (each a dialog of its own), connections by address, calls that the
//! server places itself. Must not touch: phones. Implements the user agent rules of RFC 3261 §8, §12–15 and
//! the registrar's routing by Path (RFC 3327 §5.4).
//!
//! ```text
//! phone ── leg 0 (INVITE in) ── Call ── leg 1 (INVITE out) ── phone
//! ```
//! A call to one of the special users has only leg 0; a call that the server places has only leg 1.
//! What comes in is handled in [`inward`], what comes back in [`outcome`]; [`next_hops`] finds the next hop. Left out on
//! purpose: forking to several contacts at once, PRACK, SDP (passed through unread).

mod inward;
mod next_hops;
mod outcome;

use crate::dialog::{Dialog, Tag};
use crate::net::{ConnId, Link, SERVER, Transport};
use crate::registrar::{Binding, Hop, Policy, Registrar};
use crate::sdp;
use crate::stack::{ClientId, Cookie, Draft, ServerId, Stack};
use crate::tally::Tally;
use crate::text::{self, Uri};
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// A call without a final answer for so long counts as lost.
pub const LOST_AFTER: Duration = Duration::from_secs(8);
const JOURNAL_LEN_MAX: usize = 10_000;

const KIND_INVITE: u8 = 0x10;
const KIND_BYE: u8 = 0x11;
const KIND_RELAY: u8 = 0x12;
const KIND_LOST: u8 = 0x13;
const KIND_HANG_UP: u8 = 0x14;
const KIND_OTHER: u8 = 0x15;

/// Whether a cookie is one of the server's.
pub fn is_server_cookie(cookie: Cookie) -> bool {
    (KIND_INVITE..=KIND_OTHER).contains(&cookie.kind)
}

/// Users that the server answers for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Special {
    Answer,
    Busy,
    Ring,
}

impl Special {
    fn of(user: &str) -> Option<Self> {
        match user {
            "answer" => Some(Self::Answer),
            "busy" => Some(Self::Busy),
            "ring" => Some(Self::Ring),
            _ => None,
        }
    }
}

/// Names a call of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallRef {
    slot: u32,
    serial: u32,
}

impl CallRef {
    pub fn number(self) -> u32 {
        self.serial
    }
}

/// What became of a call that somebody watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Ringing,
    Answered,
    /// Refused; 0 when the connection was lost.
    Failed(u16),
    /// No final answer within [`LOST_AFTER`].
    Lost,
    Ended,
    /// The BYE got this instead of 200; 0 when nothing came.
    ByeFailed(u16),
}

/// How well the server is, for what it makes of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Answers 503 to every request.
    Refuses,
    /// Answers 503 to OPTIONS and serves all else.
    RefusesOptions,
}

/// How a call that the server places goes on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Hangs up so long after the answer; `None` leaves that to the other side or to [`Server::hang_up`].
    pub talk: Option<Duration>,
    pub is_watched: bool,
}

#[derive(Default)]
struct Leg {
    dialog: Option<Dialog>,
    link: Option<Link>,
    /// An INVITE from this side that has not been acknowledged.
    invite_in: Option<ServerId>,
    /// An INVITE to this side that has no final answer yet, or one whose ACK has not been sent.
    invite_out: Option<ClientId>,
    ack_owed: Option<u32>,
    is_up: bool,
    /// Sent-by of the top Via of the INVITE that came from this side: the proxy that the dialog goes through.
    proxy: Option<Box<str>>,
}

struct Call {
    serial: u32,
    aor: String,
    legs: [Leg; 2],
    special: Option<Special>,
    plan: Option<Plan>,
    started_us: u64,
    is_ending: bool,
}

/// A next hop, and what our own end is called there.
struct NextHop {
    link: Link,
    transport: Transport,
    sent_by: SocketAddr,
}

/// Addresses that the server listens at; at least one.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    pub udp: Option<(u32, SocketAddr)>,
    pub tcp: Option<SocketAddr>,
    pub tls: Option<SocketAddr>,
}

pub struct Server {
    pub registrar: Registrar,
    pub journal: VecDeque<(CallRef, Step)>,
    pub mood: Mood,
    /// Empty while the server is shut.
    pub ends: Ends,
    /// Connections by the address that they lead to, in the order in which they became known.
    connections: HashMap<(Transport, SocketAddr), Vec<ConnId>>,
    calls: Slab<Call>,
    relays: Slab<ServerId>,
    habits: Habits,
}

/// Phones of another site: the host part of their addresses of record, and the server there, as
/// `HOST:PORT;transport=TRANSPORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    pub domain: String,
    pub server: String,
}

impl std::str::FromStr for Trunk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, server) = text.split_once('=').ok_or("expected DOMAIN=HOST:PORT;transport=TRANSPORT")?;
        Ok(Self { domain: domain.to_ascii_lowercase(), server: server.to_owned() })
    }
}

/// How the server finds its way to the proxy, and whom it knows besides the phones that register.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// Never sends requests over a connection that the proxy opened.
    pub own_connections: bool,
    /// Where requests to phones that registered without Path go; `None`: where their REGISTER came from.
    pub outbound_proxy: Option<(Transport, SocketAddr)>,
    /// A device: answers every call itself.
    pub is_device: bool,
    /// The domain of phones that are called by an address of the pair.
    pub domain: Option<String>,
    pub trunks: Vec<Trunk>,
}

impl Server {
    pub fn new(policy: Policy, ends: Ends, habits: Habits) -> Self {
        Self {
            registrar: Registrar::new(policy),
            journal: VecDeque::new(),
            mood: Mood::Well,
            ends,
            connections: HashMap::new(),
            calls: Slab::new(),
            relays: Slab::new(),
            habits,
        }
    }

    /// Calls that the server has placed and that have not ended.
    pub fn placed_open(&self) -> usize {
        self.calls.iter().filter(|(_, call)| call.plan.is_some()).count()
    }

    pub fn calls_open(&self) -> usize {
        self.calls.len()
    }

    /// Whether no INVITE is under way in either direction, so that the next one meets no glare.
    pub fn is_quiet(&self) -> bool {
        self.calls
            .iter()
            .all(|(_, call)| call.legs.iter().all(|leg| leg.invite_in.is_none() && leg.invite_out.is_none()))
    }

    /// Whether the call has not been forgotten.
    pub fn is_open(&self, call: CallRef) -> bool {
        self.calls.get(call.slot as usize).is_some_and(|found| found.serial == call.serial)
    }

    /// Calls a registered phone; `None` when there is no binding for it.
    pub fn place_call(&mut self, stack: &mut Stack, aor: &str, plan: Plan) -> Option<CallRef> {
        stack.tally.calls_placed += 1;
        let Some(binding) = self.registrar.lookup(aor, stack.now_us).and_then(|mut found| found.next()).cloned() else {
            Tally::count(&mut stack.tally.calls_failed, "not registered");
            return None;
        };
        let from = format!("\"Lab\" <sip:lab@{}>", aor.split_once('@').map_or("localhost", |(_, host)| host));
        self.place(stack, aor.to_owned(), &binding, &from, plan)
    }

    /// Calls a URI as it stands, through the proxy: a device, or a phone of another site.
    pub fn dial(&mut self, stack: &mut Stack, uri: &str, plan: Plan) -> Option<CallRef> {
        stack.tally.calls_placed += 1;
        let aor = Uri::parse(uri).map(|uri| uri.aor()).unwrap_or_default();
        let domain = self.habits.domain.as_deref().unwrap_or("localhost");
        let from = format!("\"Lab\" <sip:lab@{domain}>");
        self.place(stack, aor, &Binding::beyond(uri), &from, plan)
    }

    fn place(&mut self, stack: &mut Stack, aor: String, to: &Binding, from: &str, plan: Plan) -> Option<CallRef> {
        let tag = self.open_call(stack, aor, None, Some(plan));
        if !self.invite_binding(stack, tag, to, from, Some("application/sdp"), sdp::BODY) {
            Tally::count(&mut stack.tally.calls_failed, "no way");
            self.calls.remove(tag.slot as usize);
            return None;
        }
        let cookie = Cookie { kind: KIND_LOST, leg: 1, slot: tag.slot, serial: tag.serial };
        stack.alarm_in(LOST_AFTER, cookie);
        Some(CallRef { slot: tag.slot, serial: tag.serial })
    }

    /// Whoever a URI names: a phone of another site, or one that registers here; `None` when it is not known at all.
    fn whom(&self, uri: &Uri<'_>, now_us: u64) -> Option<Option<Binding>> {
        if let Some(trunk) = self.trunk(uri) {
            return Some(Some(Binding::beyond(&format!("sip:{}@{}", uri.user, trunk.server))));
        }
        let aor = match (&self.habits.domain, text::numeric(uri.host)) {
            // The server's own address, or the one of its partner, which it stands in for.
            (Some(domain), Some(_)) => format!("{}@{domain}", uri.user),
            _ => uri.aor(),
        };
        Some(self.registrar.lookup(&aor, now_us)?.next().cloned())
    }

    fn trunk(&self, uri: &Uri<'_>) -> Option<&Trunk> {
        self.habits.trunks.iter().find(|trunk| trunk.domain.eq_ignore_ascii_case(uri.host))
    }

    /// Ends a call: BYE when it stands, CANCEL before.
    pub fn hang_up(&mut self, stack: &mut Stack, call: CallRef) {
        if !self.is_open(call) {
            return;
        }
        self.end_leg(stack, call.slot, 0);
        self.end_leg(stack, call.slot, 1);
    }

    /// Sends a re-INVITE to the phone of a call that the server placed; it is acknowledged at once.
    pub fn reinvite(&mut self, stack: &mut Stack, call: CallRef) -> bool {
        if !self.is_open(call) {
            return false;
        }
        self.relay_invite(stack, call.slot, 1, Some("application/sdp"), sdp::BODY)
    }

    fn open_call(&mut self, stack: &mut Stack, aor: String, special: Option<Special>, plan: Option<Plan>) -> Tag {
        let serial = stack.next_serial();
        let slot = self.calls.insert(Call {
            serial,
            aor,
            legs: Default::default(),
            special,
            plan,
            started_us: stack.now_us,
            is_ending: false,
        });
        Tag { slot: slot as u32, serial, leg: 1 }
    }

    fn note(&mut self, call: CallRef, plan: Option<Plan>, step: Step) {
        if plan.is_some_and(|plan| plan.is_watched) {
            if self.journal.len() == JOURNAL_LEN_MAX {
                self.journal.pop_front();
            }
            self.journal.push_back((call, step));
        }
    }

    // Requests out.

    fn invite_binding(
        &mut self,
        stack: &mut Stack,
        tag: Tag,
        binding: &Binding,
        from: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> bool {
        let hop = match &binding.hop {
            Hop::Path(path) => self.next_hop_to(stack, text::uri_of(&path[0]), tag.serial),
            Hop::Proxy(uri) => self.next_hop_to_proxy(stack, uri, tag.serial),
            Hop::Direct(link) => {
                self.next_hop_over_link(stack, *link).or_else(|| self.next_hop_to(stack, &binding.contact, tag.serial))
            }
        };
        let Some(hop) = hop else { return false };
        let call_id = stack.random();
        let mut draft = stack.draft("INVITE", &binding.contact, hop.transport, hop.sent_by);
        if let Hop::Path(path) = &binding.hop {
            for route in path {
                draft.line("Route", route);
            }
        }
        let call = &mut self.calls[tag.slot as usize];
        draft.line("Max-Forwards", 70);
        draft.line("From", format_args!("{from};tag={}", tag.print(stack.boot)));
        draft.line("To", format_args!("<sip:{}>", call.aor));
        draft.line("Call-ID", format_args!("{call_id:016x}@lab"));
        draft.line("CSeq", "1 INVITE");
        draft.line("Contact", Self::contact(&hop));
        draft.line("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, MESSAGE");
        if let Some(content_type) = content_type {
            draft.line("Content-Type", content_type);
        }
        let cookie = Cookie { kind: KIND_INVITE, leg: 1, slot: tag.slot, serial: tag.serial };
        let leg = &mut call.legs[1];
        leg.link = matches!(binding.hop, Hop::Direct(_)).then_some(hop.link);
        leg.invite_out = Some(stack.send(draft, SERVER, hop.link, cookie, body));
        true
    }

    fn draft_in_dialog(
        &mut self,
        stack: &mut Stack,
        slot: u32,
        leg: usize,
        method: &str,
        ack_of: Option<u32>,
    ) -> Option<(Draft, Link)> {
        let hop = self.next_hop_in_dialog(stack, slot, leg)?;
        let dialog = self.calls[slot as usize].legs[leg].dialog.as_mut()?;
        let mut draft = dialog.draft(stack, method, ack_of, hop.transport, hop.sent_by);
        if method == "INVITE" || method == "UPDATE" {
            draft.line("Contact", Self::contact(&hop));
        }
        Some((draft, hop.link))
    }

    fn relay_invite(
        &mut self,
        stack: &mut Stack,
        slot: u32,
        leg: usize,
        content_type: Option<&str>,
        body: &[u8],
    ) -> bool {
        let Some((mut draft, link)) = self.draft_in_dialog(stack, slot, leg, "INVITE", None) else { return false };
        if let Some(content_type) = content_type {
            draft.line("Content-Type", content_type);
        }
        let call = &mut self.calls[slot as usize];
        let cookie = Cookie { kind: KIND_INVITE, leg: leg as u8, slot, serial: call.serial };
        call.legs[leg].invite_out = Some(stack.send(draft, SERVER, link, cookie, body));
        true
    }

    fn send_ack(&mut self, stack: &mut Stack, slot: u32, leg: usize, content_type: Option<&str>, body: &[u8]) {
        let call = &mut self.calls[slot as usize];
        let (Some(cseq), Some(invite)) = (call.legs[leg].ack_owed.take(), call.legs[leg].invite_out.take()) else {
            return;
        };
        if let Some((mut draft, link)) = self.draft_in_dialog(stack, slot, leg, "ACK", Some(cseq)) {
            if let Some(content_type) = content_type {
                draft.line("Content-Type", content_type);
            }
            stack.send_ack(invite, link, draft, body);
        }
    }

    /// Ends one side: answers its INVITE with 487, cancels ours, or says BYE.
    fn end_leg(&mut self, stack: &mut Stack, slot: u32, leg: usize) {
        let call = &mut self.calls[slot as usize];
        call.is_ending = true;
        let serial = call.serial;
        let side = &mut call.legs[leg];
        if let Some(invite) = side.invite_in
            && stack.is_unanswered(invite)
        {
            side.invite_in = None;
            let tag = Tag { slot, serial, leg: leg as u8 }.print(stack.boot);
            stack.respond(invite, 487, "Request Terminated", &tag, "", b"");
        }
        if let Some(invite) = side.invite_out
            && side.ack_owed.is_none()
        {
            stack.cancel(invite);
        }
        self.send_ack(stack, slot, leg, None, b"");
        let side = &mut self.calls[slot as usize].legs[leg];
        if std::mem::take(&mut side.is_up) {
            let cookie = Cookie { kind: KIND_BYE, leg: leg as u8, slot, serial };
            if let Some((draft, link)) = self.draft_in_dialog(stack, slot, leg, "BYE", None) {
                stack.send(draft, SERVER, link, cookie, b"");
            }
        }
        self.forget_if_over(slot);
    }

    /// A call is over when it was ended and no INVITE of either side is open.
    fn forget_if_over(&mut self, slot: u32) {
        let Some(call) = self.calls.get(slot as usize) else { return };
        let is_quiet = call.legs.iter().all(|leg| !leg.is_up && leg.invite_out.is_none());
        // A call that the server placed stays until its BYE is answered.
        if call.is_ending && is_quiet && call.plan.is_none() {
            self.calls.remove(slot as usize);
        }
    }

    fn call_of(&self, cookie: Cookie) -> Option<&Call> {
        self.calls.get(cookie.slot as usize).filter(|call| call.serial == cookie.serial)
    }
}
