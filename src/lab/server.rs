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
//! What comes back is handled in [`outcome`]. Left out on purpose: forking to several contacts at once, PRACK, SDP (passed through unread).

mod outcome;

use crate::dialog::{Dialog, Tag};
use crate::net::{ConnId, Link, SERVER, Transport};
use crate::registrar::{Answer, Binding, Hop, Policy, Registrar};
use crate::sdp;
use crate::stack::{ClientId, Cookie, Draft, ServerId, Stack, address};
use crate::tally::Tally;
use crate::text::{self, Message, Name, Start, Uri};
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
    Failed(u16),
    Ended,
    /// The BYE got this instead of 200; 0 when nothing came.
    ByeFailed(u16),
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

/// The way to a next hop.
struct Way {
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
    ends: Ends,
    /// Connections by the address that they lead to, in the order in which they became known.
    ways: HashMap<(Transport, SocketAddr), Vec<ConnId>>,
    calls: Slab<Call>,
    relays: Slab<ServerId>,
    habits: Habits,
}

/// How the server finds its way to the proxy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Never sends requests over a connection that the proxy opened.
    pub own_connections: bool,
    /// Where requests to phones that registered without Path go; `None`: where their REGISTER came from.
    pub outbound_proxy: Option<(Transport, SocketAddr)>,
}

impl Server {
    pub fn new(policy: Policy, ends: Ends, habits: Habits) -> Self {
        Self {
            registrar: Registrar::new(policy),
            journal: VecDeque::new(),
            ends,
            ways: HashMap::new(),
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
        let tag = self.open_call(stack, aor.to_owned(), None, Some(plan));
        let from = format!("\"Lab\" <sip:lab@{}>", aor.split_once('@').map_or("localhost", |(_, host)| host));
        if !self.invite_binding(stack, tag, &binding, &from, Some("application/sdp"), sdp::BODY) {
            Tally::count(&mut stack.tally.calls_failed, "no way");
            self.calls.remove(tag.slot as usize);
            return None;
        }
        let cookie = Cookie { kind: KIND_LOST, leg: 1, slot: tag.slot, serial: tag.serial };
        stack.alarm_in(LOST_AFTER, cookie);
        Some(CallRef { slot: tag.slot, serial: tag.serial })
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

    // The way out.

    /// `turn` picks one of several connections; a call passes its serial, so that its ACK and BYE never overtake
    /// one another.
    fn way_to(&mut self, stack: &mut Stack, uri: &str, turn: u32) -> Option<Way> {
        let uri = Uri::parse(uri)?;
        let transport = match uri.param("transport") {
            Some(name) => name.parse().ok()?,
            None if uri.secure => Transport::Tls,
            None => Transport::Udp,
        };
        let transport = if uri.secure && transport == Transport::Tcp { Transport::Tls } else { transport };
        let peer = address(uri.host, uri.port, transport)?;
        self.way_over(stack, transport, peer, turn)
    }

    fn way_to_proxy(&mut self, stack: &mut Stack, uri: &str, turn: u32) -> Option<Way> {
        match self.habits.outbound_proxy {
            Some((transport, peer)) => self.way_over(stack, transport, peer, turn),
            None => self.way_to(stack, uri, turn),
        }
    }

    fn way_over(&mut self, stack: &mut Stack, transport: Transport, peer: SocketAddr, turn: u32) -> Option<Way> {
        if transport == Transport::Udp {
            let (socket, sent_by) = self.ends.udp?;
            return Some(Way { link: Link::Udp { socket, peer }, transport, sent_by });
        }
        let sent_by = if transport == Transport::Tls { self.ends.tls? } else { self.ends.tcp? };
        let conns = self.ways.entry((transport, peer)).or_default();
        conns.retain(|&conn| stack.net.is_alive(conn));
        if conns.is_empty() {
            conns.push(stack.net.connect(SERVER, transport, peer, None).ok()?);
        }
        Some(Way { link: Link::Stream(conns[turn as usize % conns.len()]), transport, sent_by })
    }

    fn way_over_link(&self, stack: &Stack, link: Link) -> Option<Way> {
        let transport = stack.net.transport(link)?;
        let sent_by = match transport {
            Transport::Udp => self.ends.udp?.1,
            Transport::Tcp => self.ends.tcp?,
            Transport::Tls => self.ends.tls?,
        };
        Some(Way { link, transport, sent_by })
    }

    /// Remembers the connection of a proxy by the address that its Via names (the idea of RFC 5923).
    fn learn_way(&mut self, stack: &Stack, link: Link, message: &Message<'_>) {
        let Link::Stream(conn) = link else { return };
        if self.habits.own_connections || message.values(Name::Via).count() < 2 {
            return;
        }
        let Some(transport) = stack.net.transport(link) else { return };
        let Some((host, port)) = message.top_via().and_then(|via| via.host_port()) else { return };
        let Some(peer) = address(host, port, transport) else { return };
        let conns = self.ways.entry((transport, peer)).or_default();
        if !conns.contains(&conn) {
            conns.push(conn);
        }
    }

    fn contact(way: &Way) -> String {
        format!("<sip:lab@{};transport={}>", way.sent_by, way.transport.param())
    }

    fn contact_for(&self, stack: &Stack, link: Link) -> String {
        self.way_over_link(stack, link).map(|way| Self::contact(&way)).unwrap_or_default()
    }

    /// The way of a request inside the dialog: its route set, else the link that the leg was set up over when
    /// the phone is reached directly.
    fn way_in_dialog(&mut self, stack: &mut Stack, slot: u32, leg: usize) -> Option<Way> {
        let leg = &self.calls[slot as usize].legs[leg];
        if let Some(way) = leg.link.and_then(|link| self.way_over_link(stack, link)) {
            return Some(way);
        }
        let uri = leg.dialog.as_ref()?.next_hop().to_owned();
        let serial = self.calls[slot as usize].serial;
        self.way_to(stack, &uri, serial)
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
        let way = match &binding.hop {
            Hop::Path(path) => self.way_to(stack, text::uri_of(&path[0]), tag.serial),
            Hop::Proxy(uri) => self.way_to_proxy(stack, uri, tag.serial),
            Hop::Direct(link) => {
                self.way_over_link(stack, *link).or_else(|| self.way_to(stack, &binding.contact, tag.serial))
            }
        };
        let Some(way) = way else { return false };
        let call_id = stack.random();
        let mut draft = stack.draft("INVITE", &binding.contact, way.transport, way.sent_by);
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
        draft.line("Contact", Self::contact(&way));
        draft.line("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, MESSAGE");
        if let Some(content_type) = content_type {
            draft.line("Content-Type", content_type);
        }
        let cookie = Cookie { kind: KIND_INVITE, leg: 1, slot: tag.slot, serial: tag.serial };
        let leg = &mut call.legs[1];
        leg.link = matches!(binding.hop, Hop::Direct(_)).then_some(way.link);
        leg.invite_out = Some(stack.send(draft, SERVER, way.link, cookie, body));
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
        let way = self.way_in_dialog(stack, slot, leg)?;
        let dialog = self.calls[slot as usize].legs[leg].dialog.as_mut()?;
        let mut draft = dialog.draft(stack, method, ack_of, way.transport, way.sent_by);
        if method == "INVITE" || method == "UPDATE" {
            draft.line("Contact", Self::contact(&way));
        }
        Some((draft, way.link))
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

    // Requests in.

    pub fn request(&mut self, stack: &mut Stack, id: ServerId, link: Link, message: &Message<'_>) {
        self.learn_way(stack, link, message);
        let Start::Request { method, uri } = message.start else { return };
        let in_dialog = message.first(Name::To).and_then(|to| text::param(to, "tag")).is_some();
        match (method, in_dialog) {
            ("REGISTER", _) => {
                let Answer { code, reason, lines } = self.registrar.register(message, link, stack.now_us);
                stack.respond(id, code, reason, "lab", &lines, b"");
            }
            (_, true) => self.on_dialog_request(stack, id, link, message, method),
            ("INVITE", _) => self.on_invite(stack, id, link, message, uri),
            ("OPTIONS", _) => {
                let lines = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER\r\nAccept: application/sdp\r\n";
                stack.respond(id, 200, "OK", "lab", lines, b"");
            }
            ("MESSAGE", _) => self.on_message(stack, id, message, uri),
            _ => {
                stack.tally.unmatched_requests += 1;
                stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
            }
        }
    }

    fn on_invite(&mut self, stack: &mut Stack, id: ServerId, link: Link, message: &Message<'_>, uri: &str) {
        stack.respond(id, 100, "Trying", "", "", b"");
        let Some(target) = Uri::parse(uri) else { return stack.respond(id, 416, "Bad URI", "lab", "", b"") };
        let special = Special::of(target.user);
        let tag = Tag { leg: 0, ..self.open_call(stack, target.aor(), special, None) };
        let text = tag.print(stack.boot);
        stack.mark(id, Cookie { kind: KIND_INVITE, leg: 0, slot: tag.slot, serial: tag.serial });
        let is_direct = message.values(Name::Via).count() < 2;
        let leg = &mut self.calls[tag.slot as usize].legs[0];
        leg.dialog = Dialog::of_invite(message, &text);
        leg.invite_in = Some(id);
        leg.link = is_direct.then_some(link);
        if leg.dialog.is_none() {
            self.calls.remove(tag.slot as usize);
            return stack.respond(id, 400, "Contact Missing", &text, "", b"");
        }
        let contact = format!("Contact: {}\r\n", self.contact_for(stack, link));
        let lines = format!("{contact}Content-Type: application/sdp\r\n");
        match special {
            Some(Special::Answer) => {
                stack.respond(id, 180, "Ringing", &text, &contact, b"");
                stack.respond(id, 200, "OK", &text, &lines, sdp::BODY);
                self.calls[tag.slot as usize].legs[0].is_up = true;
            }
            Some(Special::Ring) => stack.respond(id, 180, "Ringing", &text, &contact, b""),
            Some(Special::Busy) => {
                self.calls.remove(tag.slot as usize);
                stack.respond(id, 486, "Busy Here", &text, "", b"");
            }
            None => self.on_invite_to_phone(stack, id, tag, message),
        }
    }

    fn on_invite_to_phone(&mut self, stack: &mut Stack, id: ServerId, tag: Tag, message: &Message<'_>) {
        let aor = self.calls[tag.slot as usize].aor.clone();
        let found = self.registrar.lookup(&aor, stack.now_us).map(|mut bindings| bindings.next().cloned());
        let from = message.first(Name::From).map_or("", text::uri_of);
        let is_sent = match &found {
            Some(Some(binding)) => {
                let out = Tag { leg: 1, ..tag };
                let content_type = message.first(Name::ContentType);
                self.invite_binding(stack, out, binding, &format!("<{from}>"), content_type, message.body)
            }
            _ => false,
        };
        if !is_sent {
            self.calls.remove(tag.slot as usize);
            let (code, reason) = if found.is_none() { (404, "Not Found") } else { (480, "Temporarily Unavailable") };
            stack.respond(id, code, reason, &tag.print(stack.boot), "", b"");
        }
    }

    /// A MESSAGE outside of dialogs goes on to the phone that it names.
    fn on_message(&mut self, stack: &mut Stack, id: ServerId, message: &Message<'_>, uri: &str) {
        let aor = Uri::parse(uri).map(|uri| uri.aor()).unwrap_or_default();
        let binding = self.registrar.lookup(&aor, stack.now_us).and_then(|mut found| found.next()).cloned();
        let way = binding.as_ref().and_then(|binding| match &binding.hop {
            Hop::Path(path) => self.way_to(stack, text::uri_of(&path[0]), 0),
            Hop::Proxy(uri) => self.way_to_proxy(stack, uri, 0),
            Hop::Direct(link) => self.way_over_link(stack, *link),
        });
        let (Some(binding), Some(way)) = (binding, way) else {
            return stack.respond(id, 404, "Not Found", "lab", "", b"");
        };
        let call_id = stack.random();
        let mut draft = stack.draft("MESSAGE", &binding.contact, way.transport, way.sent_by);
        if let Hop::Path(path) = &binding.hop {
            for route in path {
                draft.line("Route", route);
            }
        }
        draft.line("Max-Forwards", 70);
        draft.line("From", format_args!("<{}>;tag=lab", message.first(Name::From).map_or("", text::uri_of)));
        draft.line("To", format_args!("<sip:{aor}>"));
        draft.line("Call-ID", format_args!("{call_id:016x}@lab"));
        draft.line("CSeq", "1 MESSAGE");
        if let Some(content_type) = message.first(Name::ContentType) {
            draft.line("Content-Type", content_type);
        }
        let slot = self.relays.insert(id) as u32;
        stack.send(draft, SERVER, way.link, Cookie { kind: KIND_RELAY, leg: 0, slot, serial: 0 }, message.body);
    }

    fn on_dialog_request(&mut self, stack: &mut Stack, id: ServerId, link: Link, message: &Message<'_>, method: &str) {
        let boot = stack.boot;
        let tag = Tag::of(message, boot)
            .filter(|tag| self.calls.get(tag.slot as usize).is_some_and(|call| call.serial == tag.serial));
        let Some(tag) = tag else {
            stack.tally.unmatched_requests += 1;
            return stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
        };
        let (near, far) = (usize::from(tag.leg), usize::from(1 - tag.leg));
        let call = &mut self.calls[tag.slot as usize];
        let Some(dialog) = call.legs[near].dialog.as_mut() else {
            return stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
        };
        if !message.cseq().is_some_and(|(number, _)| dialog.accepts(number)) {
            return stack.respond(id, 500, "CSeq Out Of Order", "lab", "", b"");
        }
        if matches!(method, "INVITE" | "UPDATE" | "SUBSCRIBE" | "NOTIFY") {
            dialog.refresh(message);
        }
        // A phone that is reached directly may have come back over another connection.
        if call.legs[near].link.is_some() {
            call.legs[near].link = Some(link);
        }
        let is_solo = call.special.is_some() || call.plan.is_some();
        match method {
            "BYE" => {
                stack.respond(id, 200, "OK", "lab", "", b"");
                // RFC 3261 §15.1.2: what is pending gets 487. A BYE that has overtaken the ACK ends the wait for it.
                if let Some(invite) = call.legs[near].invite_in.take() {
                    stack.respond(invite, 487, "Request Terminated", "lab", "", b"");
                    stack.acked(invite);
                }
                call.legs[near].is_up = false;
                call.is_ending = true;
                let (plan, call_ref) = (call.plan, CallRef { slot: tag.slot, serial: tag.serial });
                if is_solo {
                    self.calls.remove(tag.slot as usize);
                    if plan.is_some() {
                        stack.tally.calls_ended += 1;
                    }
                    self.note(call_ref, plan, Step::Ended);
                } else {
                    self.end_leg(stack, tag.slot, far);
                }
            }
            "INVITE" => {
                stack.respond(id, 100, "Trying", "", "", b"");
                if call.legs.iter().any(|leg| leg.invite_out.is_some()) || call.is_ending {
                    return stack.respond(id, 491, "Request Pending", "lab", "", b"");
                }
                stack.mark(id, Cookie { kind: KIND_INVITE, leg: tag.leg, slot: tag.slot, serial: tag.serial });
                call.legs[near].invite_in = Some(id);
                if is_solo {
                    let contact = self.contact_for(stack, link);
                    let lines = format!("Contact: {contact}\r\nContent-Type: application/sdp\r\n");
                    return stack.respond(id, 200, "OK", "lab", &lines, sdp::BODY);
                }
                if !self.relay_invite(stack, tag.slot, far, message.first(Name::ContentType), message.body) {
                    stack.respond(id, 480, "Temporarily Unavailable", "lab", "", b"");
                }
            }
            _ if is_solo => stack.respond(id, 200, "OK", "lab", "", b""),
            _ => self.relay_other(stack, id, tag, method, message),
        }
    }

    fn relay_other(&mut self, stack: &mut Stack, id: ServerId, tag: Tag, method: &str, message: &Message<'_>) {
        let far = usize::from(1 - tag.leg);
        let Some((mut draft, link)) = self.draft_in_dialog(stack, tag.slot, far, method, None) else {
            return stack.respond(id, 480, "Temporarily Unavailable", "lab", "", b"");
        };
        for label in ["Event", "Subscription-State", "Refer-To", "Referred-By", "Info-Package"] {
            if let Some(value) = message.labelled(label) {
                draft.line(label, value);
            }
        }
        if let Some(content_type) = message.first(Name::ContentType) {
            draft.line("Content-Type", content_type);
        }
        let slot = self.relays.insert(id) as u32;
        stack.send(draft, SERVER, link, Cookie { kind: KIND_RELAY, leg: 0, slot, serial: 0 }, message.body);
    }

    pub fn ack(&mut self, stack: &mut Stack, message: &Message<'_>) {
        let Some(tag) = Tag::of(message, stack.boot) else {
            stack.tally.unmatched_acks += 1;
            return;
        };
        let cookie = Cookie { kind: KIND_INVITE, leg: tag.leg, slot: tag.slot, serial: tag.serial };
        if self.call_of(cookie).is_none() {
            stack.tally.unmatched_acks += 1;
            return;
        }
        let call = &mut self.calls[tag.slot as usize];
        if let Some(invite) = call.legs[usize::from(tag.leg)].invite_in.take() {
            stack.acked(invite);
        }
        let content_type = message.first(Name::ContentType);
        self.send_ack(stack, tag.slot, usize::from(1 - tag.leg), content_type, message.body);
    }

    pub fn cancel(&mut self, stack: &mut Stack, id: ServerId, cookie: Cookie) {
        if self.call_of(cookie).is_none() {
            return;
        }
        let tag = Tag { slot: cookie.slot, serial: cookie.serial, leg: cookie.leg };
        stack.respond(id, 487, "Request Terminated", &tag.print(stack.boot), "", b"");
        let call = &mut self.calls[cookie.slot as usize];
        call.legs[usize::from(cookie.leg)].invite_in = None;
        let is_first = !call.legs[usize::from(cookie.leg)].is_up;
        let far = usize::from(1 - cookie.leg);
        if let Some(invite) = call.legs[far].invite_out {
            stack.cancel(invite);
        }
        if is_first {
            call.is_ending = true;
            self.forget_if_over(cookie.slot);
        }
    }
}
