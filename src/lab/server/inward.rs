//! Requests that come in: registrations, calls and what belongs to them.
//!
//! Owns: answering, and passing on to the other leg. Must not touch: what comes back for our own requests.

use super::{CallRef, KIND_INVITE, KIND_RELAY, Mood, Server, Special, Step};
use crate::dialog::{Dialog, Tag};
use crate::net::{Link, SERVER};
use crate::registrar::{Answer, Hop};
use crate::sdp;
use crate::stack::{Cookie, ServerId, Stack};
use crate::text::{self, Message, Name, Start, Uri};

impl Server {
    pub fn request(&mut self, stack: &mut Stack, id: ServerId, link: Link, message: &Message<'_>) {
        self.learn_connection(stack, link, message);
        let Start::Request { method, uri } = message.start else { return };
        match method {
            "INVITE" => stack.tally.invites_in += 1,
            "OPTIONS" => stack.tally.options_in += 1,
            "REGISTER" => stack.tally.registers_in += 1,
            _ => {}
        }
        if self.mood == Mood::Refuses || (self.mood == Mood::RefusesOptions && method == "OPTIONS") {
            return stack.respond(id, 503, "Service Unavailable", "lab", "", b"");
        }
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
        let special = match (self.habits.is_device, self.trunk(&target)) {
            (true, _) => Some(Special::Answer),
            (false, Some(_)) => None,
            (false, None) => Special::of(target.user),
        };
        let tag = Tag { leg: 0, ..self.open_call(stack, target.aor(), special, None) };
        let text = tag.print(stack.boot);
        stack.mark(id, Cookie { kind: KIND_INVITE, leg: 0, slot: tag.slot, serial: tag.serial });
        let is_direct = message.values(Name::Via).count() < 2;
        let leg = &mut self.calls[tag.slot as usize].legs[0];
        leg.dialog = Dialog::of_invite(message, &text);
        leg.invite_in = Some(id);
        leg.link = is_direct.then_some(link);
        leg.proxy = message.top_via().filter(|_| !is_direct).map(|via| via.sent_by.into());
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
            None => self.on_invite_to_phone(stack, id, tag, message, &target),
        }
    }

    fn on_invite_to_phone(&mut self, stack: &mut Stack, id: ServerId, tag: Tag, message: &Message<'_>, to: &Uri<'_>) {
        let found = self.whom(to, stack.now_us);
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
        let hop = binding.as_ref().and_then(|binding| match &binding.hop {
            Hop::Path(path) => self.next_hop_to(stack, text::uri_of(&path[0]), 0),
            Hop::Proxy(uri) => self.next_hop_to_proxy(stack, uri, 0),
            Hop::Direct(link) => self.next_hop_over_link(stack, *link),
        });
        let (Some(binding), Some(hop)) = (binding, hop) else {
            return stack.respond(id, 404, "Not Found", "lab", "", b"");
        };
        let call_id = stack.random();
        let mut draft = stack.draft("MESSAGE", &binding.contact, hop.transport, hop.sent_by);
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
        stack.send(draft, SERVER, hop.link, Cookie { kind: KIND_RELAY, leg: 0, slot, serial: 0 }, message.body);
    }

    fn on_dialog_request(&mut self, stack: &mut Stack, id: ServerId, link: Link, message: &Message<'_>, method: &str) {
        let boot = stack.boot;
        let tag = Tag::of(message, boot)
            .filter(|tag| self.calls.get(tag.slot as usize).is_some_and(|call| call.serial == tag.serial));
        let Some(tag) = tag else {
            stack.tally.unmatched_requests += 1;
            return stack.respond(id, 481, "Call/Transaction Does Not Exist", "lab", "", b"");
        };
        let near = usize::from(tag.leg);
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
        if call.legs[near]
            .proxy
            .as_deref()
            .is_some_and(|proxy| message.top_via().is_none_or(|via| via.sent_by != proxy))
        {
            stack.tally.dialogs_moved += 1;
        }
        // A phone that is reached directly may have come back over another connection.
        if call.legs[near].link.is_some() {
            call.legs[near].link = Some(link);
        }
        let is_solo = call.special.is_some() || call.plan.is_some();
        match method {
            "BYE" => self.on_bye(stack, id, tag, is_solo),
            "INVITE" => self.on_reinvite(stack, id, tag, link, is_solo, message),
            _ if is_solo => stack.respond(id, 200, "OK", "lab", "", b""),
            _ => self.relay_other(stack, id, tag, method, message),
        }
    }

    fn on_bye(&mut self, stack: &mut Stack, id: ServerId, tag: Tag, is_solo: bool) {
        let call = &mut self.calls[tag.slot as usize];
        let leg = &mut call.legs[usize::from(tag.leg)];
        stack.respond(id, 200, "OK", "lab", "", b"");
        // RFC 3261 §15.1.2: what is pending gets 487. A BYE that has overtaken the ACK ends the wait for it.
        if let Some(invite) = leg.invite_in.take() {
            stack.respond(invite, 487, "Request Terminated", "lab", "", b"");
            stack.acked(invite);
        }
        leg.is_up = false;
        call.is_ending = true;
        let (plan, call_ref) = (call.plan, CallRef { slot: tag.slot, serial: tag.serial });
        if is_solo {
            self.calls.remove(tag.slot as usize);
            if plan.is_some() {
                stack.tally.calls_ended += 1;
            }
            self.note(call_ref, plan, Step::Ended);
        } else {
            self.end_leg(stack, tag.slot, usize::from(1 - tag.leg));
        }
    }

    /// An INVITE within a dialog: answered here when there is no other leg, else relayed to it.
    fn on_reinvite(
        &mut self,
        stack: &mut Stack,
        id: ServerId,
        tag: Tag,
        link: Link,
        is_solo: bool,
        message: &Message<'_>,
    ) {
        let call = &mut self.calls[tag.slot as usize];
        stack.respond(id, 100, "Trying", "", "", b"");
        if call.legs.iter().any(|leg| leg.invite_out.is_some()) || call.is_ending {
            return stack.respond(id, 491, "Request Pending", "lab", "", b"");
        }
        stack.mark(id, Cookie { kind: KIND_INVITE, leg: tag.leg, slot: tag.slot, serial: tag.serial });
        call.legs[usize::from(tag.leg)].invite_in = Some(id);
        if is_solo {
            let contact = self.contact_for(stack, link);
            let lines = format!("Contact: {contact}\r\nContent-Type: application/sdp\r\n");
            return stack.respond(id, 200, "OK", "lab", &lines, sdp::BODY);
        }
        let far = usize::from(1 - tag.leg);
        if !self.relay_invite(stack, tag.slot, far, message.first(Name::ContentType), message.body) {
            stack.respond(id, 480, "Temporarily Unavailable", "lab", "", b"");
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
