//! Any number of phones in one process: they register, answer, call, hang up and watch over which connection
//! they are reached.
//!
//! Owns: each phone's connection and registration, and the phones' calls. Must not touch: the SIP Server.
//! Implements the user agent rules of RFC 3261 §8, §10.2, §12–15 and RFC 5626 §4 (one flow, instance-id and
//! reg-id, CRLF keep-alives). Left out on purpose: authentication, a second flow, media.
//!
//! Registration stands in [`registration`]; what comes back, and alarms, in [`outcome`].
//!
//! A phone keeps no buffer and no text: user, instance and Call-ID are made from its number.

mod outcome;
mod registration;

use crate::dialog::{Dialog, Tag};
use crate::net::{ConnId, Link, Transport};
use crate::sdp;
use crate::server::{LOST_AFTER, Plan, Step};
use crate::stack::{ClientId, Cookie, ServerId, Stack};
use crate::tally::Tally;
use crate::text::{self, Message, Name, Start};
use slab::Slab;
use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const KIND_REGISTER: u8 = 0x20;
const KIND_REFRESH: u8 = 0x21;
const KIND_RETRY: u8 = 0x22;
const KIND_KEEP_ALIVE: u8 = 0x23;
const KIND_INVITE: u8 = 0x24;
const KIND_BYE: u8 = 0x25;
const KIND_ACCEPT: u8 = 0x26;
const KIND_HANG_UP: u8 = 0x27;
const KIND_LOST: u8 = 0x28;
const KIND_CONNECT: u8 = 0x29;

/// Registrations that may be under way at once when many phones are switched on.
const REGISTERING_MAX: usize = 128;
const JOURNAL_LEN_MAX: usize = 10_000;
/// Call-IDs that are kept to tell a call that comes twice; then it begins anew.
const RECEIVED_LEN_MAX: usize = 1_000_000;
/// A phone that has no connection ready after so long gives up and tries again.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// Whether a cookie is one of the phones'.
pub fn is_phone_cookie(cookie: Cookie) -> bool {
    (KIND_REGISTER..=KIND_CONNECT).contains(&cookie.kind)
}

/// What a phone does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// 180 at once, 200 so long after.
    Accept(Duration),
    Busy,
    /// 180 and nothing more until the caller gives up.
    Ring,
}

/// The address that a phone believes to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    True,
    Host(IpAddr),
    /// One of 192.0.2.1 to 192.0.2.250, by the phone's number.
    Nat,
}

#[derive(Clone, Debug)]
pub struct PhonesConfig {
    pub transport: Transport,
    pub proxy: SocketAddr,
    pub domain: String,
    pub user_prefix: String,
    pub first: u32,
    pub count: u32,
    /// Local addresses, used in turn; empty: the system's choice.
    pub sources: Vec<IpAddr>,
    /// What Contact and Via claim instead of the true address, as behind a NAT; port 5060.
    pub claim: Claim,
    pub supports_path: bool,
    pub is_outbound: bool,
    pub expires_s: u32,
    pub habit: Habit,
    pub keep_alive: Option<Duration>,
    pub reconnects: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Off,
    Connecting,
    Registering,
    Registered,
}

struct Phone {
    state: State,
    /// Proxies in the order in which the phone tries them (RFC 3263 §4.3); empty: the one of the settings.
    proxies: Box<[SocketAddr]>,
    /// Which of them it is at.
    proxy: usize,
    link: Option<Link>,
    /// A connection that takes the place of `link` once it stands.
    next: Option<ConnId>,
    registered_over: Option<Link>,
    cseq: u32,
    attempts: u8,
    /// An alarm for the next keep-alive is set.
    keeps_alive: bool,
    started_us: u64,
    /// When its last REGISTER was answered with a 2xx.
    registered_us: u64,
}

/// Names a call of a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhoneCallRef {
    slot: u32,
    serial: u32,
}

/// Where a phone's call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Calling,
    Ringing,
    Up,
    /// The call is over, or was never there.
    Gone,
}

struct Call {
    serial: u32,
    phone: u32,
    dialog: Option<Dialog>,
    invite_in: Option<ServerId>,
    invite_out: Option<ClientId>,
    plan: Option<Plan>,
    phase: Phase,
    started_us: u64,
    acked: bool,
}

pub struct Phones {
    pub config: PhonesConfig,
    phones: Vec<Phone>,
    calls: Slab<Call>,
    registered: usize,
    started: u32,
    /// What became of the calls that somebody watches.
    pub journal: VecDeque<(PhoneCallRef, Step)>,
    /// Call-IDs of the calls that these phones have received.
    received: HashSet<u64>,
    /// From the beginning of the connection to the 200 of REGISTER.
    pub register_times: crate::tally::Histogram,
}

impl Phones {
    pub fn new(config: PhonesConfig) -> Self {
        let phones = (0..config.count)
            .map(|_| Phone {
                state: State::Off,
                proxies: Box::default(),
                proxy: 0,
                link: None,
                next: None,
                registered_over: None,
                cseq: 0,
                attempts: 0,
                keeps_alive: false,
                started_us: 0,
                registered_us: 0,
            })
            .collect();
        Self {
            config,
            phones,
            calls: Slab::new(),
            registered: 0,
            started: 0,
            journal: VecDeque::new(),
            received: HashSet::new(),
            register_times: crate::tally::Histogram::default(),
        }
    }

    /// Gives a phone the proxies that it has found, the one that it tries first in front.
    pub fn set_proxies(&mut self, phone: u32, proxies: Vec<SocketAddr>) {
        self.phones[phone as usize].proxies = proxies.into();
    }

    /// The proxy that a phone is at, or tries next.
    pub fn proxy_of(&self, phone: u32) -> SocketAddr {
        let Phone { proxies, proxy, .. } = &self.phones[phone as usize];
        if proxies.is_empty() { self.config.proxy } else { proxies[proxy % proxies.len()] }
    }

    pub fn registered_count(&self) -> usize {
        self.registered
    }

    pub fn calls_open(&self) -> usize {
        self.calls.len()
    }

    /// Calls that these phones have placed and that have not ended.
    pub fn placed_open(&self) -> usize {
        self.calls.iter().filter(|(_, call)| call.plan.is_some()).count()
    }

    pub fn is_registered(&self, phone: u32) -> bool {
        self.phones[phone as usize].state == State::Registered
    }

    /// How long ago the phone's last REGISTER was answered with a 2xx, by this clock.
    pub fn registered_before_us(&self, phone: u32, now_us: u64) -> u64 {
        now_us.saturating_sub(self.phones[phone as usize].registered_us)
    }

    /// Where a phone stands, in words.
    pub fn describe(&self, stack: &Stack, phone: u32) -> String {
        let entry = &self.phones[phone as usize];
        let at = |link: Option<Link>| link.map(|link| stack.net.local_addr(link));
        format!(
            "{} is {:?} at {:?}, registered at {:?} {:.1} s ago, CSeq {}, {} connection in its place",
            self.aor(phone),
            entry.state,
            at(entry.link),
            at(entry.registered_over),
            self.registered_before_us(phone, stack.now_us) as f64 / 1e6,
            entry.cseq,
            if entry.next.is_some() { "a" } else { "no" },
        )
    }

    /// Whether a connection or a REGISTER is under way that will take the place of what is registered now.
    pub fn is_moving(&self, phone: u32) -> bool {
        let phone = &self.phones[phone as usize];
        phone.next.is_some() || phone.link != phone.registered_over
    }

    pub fn user(&self, phone: u32) -> String {
        format!("{}{}", self.config.user_prefix, u64::from(self.config.first) + u64::from(phone))
    }

    pub fn aor(&self, phone: u32) -> String {
        format!("{}@{}", self.user(phone), self.config.domain)
    }

    pub fn phase(&self, call: PhoneCallRef) -> Phase {
        self.calls
            .get(call.slot as usize)
            .filter(|found| found.serial == call.serial)
            .map_or(Phase::Gone, |found| found.phase)
    }

    /// A call that the phone is in, and whether it stands with its ACK done.
    pub fn call_at(&self, phone: u32) -> Option<(PhoneCallRef, bool)> {
        self.calls.iter().find(|(_, call)| call.phone == phone).map(|(slot, call)| {
            (PhoneCallRef { slot: slot as u32, serial: call.serial }, call.phase == Phase::Up && call.acked)
        })
    }

    fn note(&mut self, cookie: Cookie, plan: Option<Plan>, step: Step) {
        if plan.is_some_and(|plan| plan.is_watched) {
            if self.journal.len() == JOURNAL_LEN_MAX {
                self.journal.pop_front();
            }
            self.journal.push_back((PhoneCallRef { slot: cookie.slot, serial: cookie.serial }, step));
        }
    }

    fn set_state(&mut self, phone: u32, state: State) {
        let entry = &mut self.phones[phone as usize];
        let was = entry.state == State::Registered;
        entry.state = state;
        let is = state == State::Registered;
        match (was, is) {
            (false, true) => self.registered += 1,
            (true, false) => self.registered -= 1,
            _ => {}
        }
    }

    // Calls out.

    /// Calls a URI; `None` when the phone has no connection.
    pub fn place_call(&mut self, stack: &mut Stack, phone: u32, uri: &str, plan: Plan) -> Option<PhoneCallRef> {
        stack.tally.calls_placed += 1;
        let way = self.phones[phone as usize].link.and_then(|link| Some((link, self.sent_by(stack, phone, link)?)));
        let Some((link, sent_by)) = way else {
            Tally::count(&mut stack.tally.calls_failed, "no connection");
            return None;
        };
        let tag = self.open_call(stack, phone, Some(plan));
        let (user, domain) = (self.user(phone), &self.config.domain);
        let call_id = stack.random();
        let contact = self.contact(stack.boot, phone, sent_by, true);
        let mut draft = stack.draft("INVITE", uri, self.config.transport, sent_by);
        draft.line("Max-Forwards", 70);
        draft.line("From", format_args!("<sip:{user}@{domain}>;tag={}", tag.print(stack.boot)));
        draft.line("To", format_args!("<{uri}>"));
        draft.line("Call-ID", format_args!("{call_id:016x}@phone"));
        draft.line("CSeq", "1 INVITE");
        draft.line("Contact", contact);
        draft.line("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS");
        draft.line("Content-Type", "application/sdp");
        let cookie = Cookie { kind: KIND_INVITE, leg: 0, slot: tag.slot, serial: tag.serial };
        let invite = stack.send(draft, phone, link, cookie, sdp::BODY);
        self.calls[tag.slot as usize].invite_out = Some(invite);
        stack.alarm_in(LOST_AFTER, Cookie { kind: KIND_LOST, ..cookie });
        Some(PhoneCallRef { slot: tag.slot, serial: tag.serial })
    }

    fn open_call(&mut self, stack: &mut Stack, phone: u32, plan: Option<Plan>) -> Tag {
        let serial = stack.next_serial();
        let slot = self.calls.insert(Call {
            serial,
            phone,
            dialog: None,
            invite_in: None,
            invite_out: None,
            plan,
            phase: Phase::Calling,
            started_us: stack.now_us,
            acked: false,
        });
        Tag { slot: slot as u32, serial, leg: 0 }
    }

    /// Ends a call: BYE when it stands, CANCEL or a refusal before.
    pub fn hang_up(&mut self, stack: &mut Stack, call: PhoneCallRef) {
        let Some(found) = self.calls.get(call.slot as usize).filter(|found| found.serial == call.serial) else {
            return;
        };
        if let Some(invite) = found.invite_in
            && stack.is_unanswered(invite)
        {
            stack.respond(invite, 603, "Decline", "lab", "", b"");
            self.calls.remove(call.slot as usize);
        } else if found.phase == Phase::Up {
            self.say(stack, call, "BYE", KIND_BYE);
        } else if let (Some(invite), Some(link)) = (found.invite_out, self.phones[found.phone as usize].link) {
            stack.cancel_over(invite, link);
        }
    }

    /// Sends a re-INVITE inside a call that stands.
    pub fn reinvite(&mut self, stack: &mut Stack, call: PhoneCallRef) -> bool {
        self.phase(call) == Phase::Up && self.say(stack, call, "INVITE", KIND_INVITE)
    }

    fn say(&mut self, stack: &mut Stack, call: PhoneCallRef, method: &str, kind: u8) -> bool {
        let phone = self.calls[call.slot as usize].phone;
        let way = self.phones[phone as usize].link.and_then(|link| Some((link, self.sent_by(stack, phone, link)?)));
        let cookie = Cookie { kind, leg: 0, slot: call.slot, serial: call.serial };
        let (Some((link, sent_by)), Some(dialog)) = (way, self.calls[call.slot as usize].dialog.as_mut()) else {
            if method == "BYE" {
                Tally::count(&mut stack.tally.calls_failed, "no connection for BYE");
                let gone = self.calls.remove(call.slot as usize);
                self.note(cookie, gone.plan, Step::ByeFailed(0));
            }
            return false;
        };
        let mut draft = dialog.draft(stack, method, None, self.config.transport, sent_by);
        let mut body: &[u8] = b"";
        if method == "INVITE" {
            draft.line("Contact", self.contact(stack.boot, phone, sent_by, true));
            draft.line("Content-Type", "application/sdp");
            body = sdp::BODY;
        }
        let sent = stack.send(draft, phone, link, cookie, body);
        if method == "INVITE" {
            self.calls[call.slot as usize].invite_out = Some(sent);
        }
        true
    }

    // Requests in.

    pub fn request(&mut self, stack: &mut Stack, id: ServerId, phone: u32, link: Link, message: &Message<'_>) {
        let Start::Request { method, uri } = message.start else { return };
        if !self.is_ours(stack, phone, link, uri) {
            return stack.respond(id, 404, "Not This Phone", "lab", "", b"");
        }
        let in_dialog = message.first(Name::To).and_then(|to| text::param(to, "tag")).is_some();
        match (method, in_dialog) {
            ("INVITE", false) => self.on_invite(stack, id, phone, link, message),
            (_, true) => self.on_dialog_request(stack, id, phone, link, message, method),
            ("OPTIONS" | "MESSAGE" | "NOTIFY", false) => stack.respond(id, 200, "OK", "lab", "", b""),
            _ => {
                stack.tally.unmatched_requests += 1;
                stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
            }
        }
    }

    /// Whether a request names this phone and came over the connection that it registered over.
    fn is_ours(&self, stack: &mut Stack, phone: u32, link: Link, uri: &str) -> bool {
        let entry = &self.phones[phone as usize];
        let is_right_link = match (link, entry.link, entry.registered_over) {
            (Link::Udp { socket, .. }, Some(Link::Udp { socket: own, .. }), _) => socket == own,
            (_, current, registered) => current == Some(link) || registered == Some(link),
        };
        if !is_right_link {
            stack.tally.wrong_connection += 1;
        }
        let user = text::Uri::parse(uri).map_or("", |uri| uri.user);
        let number = user.strip_prefix(self.config.user_prefix.as_str()).and_then(|number| number.parse::<u64>().ok());
        let is_right_phone = number == Some(u64::from(self.config.first) + u64::from(phone));
        if !is_right_phone {
            stack.tally.wrong_phone += 1;
        }
        is_right_phone
    }

    fn on_invite(&mut self, stack: &mut Stack, id: ServerId, phone: u32, link: Link, message: &Message<'_>) {
        stack.tally.calls_received += 1;
        if self.received.len() == RECEIVED_LEN_MAX {
            self.received.clear();
        }
        let call_id = message.first(Name::CallId).unwrap_or("");
        if !self.received.insert(stack.hash_of(call_id)) {
            stack.tally.duplicate_calls += 1;
        }
        if self.config.habit == Habit::Busy {
            return stack.respond(id, 486, "Busy Here", "lab", "", b"");
        }
        let tag = self.open_call(stack, phone, None);
        let text = tag.print(stack.boot);
        let cookie = Cookie { kind: KIND_ACCEPT, leg: 0, slot: tag.slot, serial: tag.serial };
        let call = &mut self.calls[tag.slot as usize];
        call.dialog = Dialog::of_invite(message, &text);
        call.invite_in = Some(id);
        call.phase = Phase::Ringing;
        let (true, Some(sent_by)) = (call.dialog.is_some(), self.sent_by(stack, phone, link)) else {
            self.calls.remove(tag.slot as usize);
            return stack.respond(id, 400, "Contact Missing", &text, "", b"");
        };
        stack.mark(id, cookie);
        let contact = format!("Contact: {}\r\n", self.contact(stack.boot, phone, sent_by, true));
        stack.respond(id, 180, "Ringing", &text, &contact, b"");
        match self.config.habit {
            Habit::Accept(Duration::ZERO) => self.accept(stack, tag),
            Habit::Accept(after) => stack.alarm_in(after, cookie),
            Habit::Busy | Habit::Ring => {}
        }
    }

    fn accept(&mut self, stack: &mut Stack, tag: Tag) {
        let call = &mut self.calls[tag.slot as usize];
        let (phone, Some(id)) = (call.phone, call.invite_in) else { return };
        let way = self.phones[phone as usize].link.and_then(|link| Some((link, self.sent_by(stack, phone, link)?)));
        let Some((link, sent_by)) = way else {
            // The phone's connection is gone; whoever waits for the answer is told by the proxy.
            self.calls.remove(tag.slot as usize);
            return;
        };
        let contact = self.contact(stack.boot, phone, sent_by, true);
        let lines = format!("Contact: {contact}\r\nContent-Type: application/sdp\r\n");
        self.calls[tag.slot as usize].phase = Phase::Up;
        stack.answer_over(id, link);
        stack.respond(id, 200, "OK", &tag.print(stack.boot), &lines, sdp::BODY);
    }

    fn on_dialog_request(
        &mut self,
        stack: &mut Stack,
        id: ServerId,
        phone: u32,
        link: Link,
        message: &Message<'_>,
        method: &str,
    ) {
        let tag = Tag::of(message, stack.boot);
        let tag = tag.filter(|tag| {
            self.calls.get(tag.slot as usize).is_some_and(|call| call.serial == tag.serial && call.phone == phone)
        });
        let Some(tag) = tag else {
            stack.tally.unmatched_requests += 1;
            return stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
        };
        let call = &mut self.calls[tag.slot as usize];
        let is_new = match (&mut call.dialog, message.cseq()) {
            (Some(dialog), Some((number, _))) => dialog.accepts(number),
            _ => false,
        };
        if !is_new {
            return stack.respond(id, 500, "CSeq Out Of Order", "lab", "", b"");
        }
        match method {
            "BYE" => {
                let call = self.calls.remove(tag.slot as usize);
                // A BYE that has overtaken the ACK ends the wait for it.
                if let Some(invite) = call.invite_in {
                    stack.acked(invite);
                }
                if call.plan.is_some() {
                    stack.tally.calls_ended += 1;
                    self.note(
                        Cookie { slot: tag.slot, serial: tag.serial, ..Cookie::default() },
                        call.plan,
                        Step::Ended,
                    );
                }
                stack.respond(id, 200, "OK", "lab", "", b"");
            }
            "INVITE" => {
                if let Some(dialog) = &mut call.dialog {
                    dialog.refresh(message);
                }
                call.invite_in = Some(id);
                call.acked = false;
                let Some(sent_by) = self.sent_by(stack, phone, link) else { return };
                let contact = self.contact(stack.boot, phone, sent_by, true);
                let lines = format!("Contact: {contact}\r\nContent-Type: application/sdp\r\n");
                stack.mark(id, Cookie { kind: KIND_ACCEPT, leg: 0, slot: tag.slot, serial: tag.serial });
                stack.respond(id, 200, "OK", "lab", &lines, sdp::BODY);
            }
            _ => stack.respond(id, 200, "OK", "lab", "", b""),
        }
    }

    pub fn ack(&mut self, stack: &mut Stack, phone: u32, message: &Message<'_>) {
        let found =
            Tag::of(message, stack.boot).and_then(|tag| self.calls.get_mut(tag.slot as usize).map(|c| (tag, c)));
        match found {
            Some((tag, call)) if call.serial == tag.serial && call.phone == phone => {
                call.acked = true;
                if let Some(invite) = call.invite_in.take() {
                    stack.acked(invite);
                }
            }
            _ => stack.tally.unmatched_acks += 1,
        }
    }

    pub fn cancel(&mut self, stack: &mut Stack, id: ServerId, cookie: Cookie) {
        if self.call_of(cookie).is_some() {
            self.calls.remove(cookie.slot as usize);
        }
        stack.respond(id, 487, "Request Terminated", "lab", "", b"");
    }

    fn call_of(&self, cookie: Cookie) -> Option<&Call> {
        self.calls.get(cookie.slot as usize).filter(|call| call.serial == cookie.serial)
    }
}
