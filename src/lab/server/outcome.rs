//! What comes back: responses to the server's own requests, missing ACKs and alarms.
//!
//! Owns: relaying an answer to the other leg, and the end of a call. Must not touch: requests that come in.

use super::{CallRef, KIND_BYE, KIND_HANG_UP, KIND_INVITE, KIND_LOST, KIND_RELAY, Server, Step};
use crate::dialog::{Dialog, Tag};
use crate::net::{Closed, ConnId, Link};
use crate::stack::{Cookie, Outcome, Stack};
use crate::tally::Tally;
use crate::text::{Message, Name, Start};
use std::time::Duration;

impl Server {
    pub fn outcome(&mut self, stack: &mut Stack, cookie: Cookie, outcome: Outcome<'_, '_>) {
        match cookie.kind {
            KIND_INVITE => self.on_invite_outcome(stack, cookie, outcome),
            KIND_BYE => self.on_bye_outcome(stack, cookie, outcome),
            KIND_RELAY => self.on_relay_outcome(stack, cookie, outcome),
            _ => {}
        }
    }

    fn on_relay_outcome(&mut self, stack: &mut Stack, cookie: Cookie, outcome: Outcome<'_, '_>) {
        let Some(&id) = self.relays.get(cookie.slot as usize) else { return };
        let (code, reason, lines, body) = match outcome {
            Outcome::Response(_, code) if code < 200 => return,
            Outcome::Response(message, code) => {
                let Start::Response { reason, .. } = message.start else { return };
                let content_type = message.first(Name::ContentType);
                (code, reason, content_type.map(|kind| format!("Content-Type: {kind}\r\n")), message.body)
            }
            _ => (480, "Temporarily Unavailable", None, &b""[..]),
        };
        self.relays.remove(cookie.slot as usize);
        stack.respond(id, code, reason, "lab", &lines.unwrap_or_default(), body);
    }

    fn on_bye_outcome(&mut self, stack: &mut Stack, cookie: Cookie, outcome: Outcome<'_, '_>) {
        let code = match outcome {
            Outcome::Response(_, code) if code < 200 => return,
            Outcome::Response(_, code) => code,
            _ => 0,
        };
        if code == 0 {
            stack.tally.byes_lost += 1;
        }
        let Some(call) = self.call_of(cookie) else { return };
        let plan = call.plan;
        if plan.is_some() {
            let call_ref = CallRef { slot: cookie.slot, serial: cookie.serial };
            if code == 200 {
                stack.tally.calls_ended += 1;
                self.note(call_ref, plan, Step::Ended);
            } else {
                Tally::count(&mut stack.tally.calls_failed, format!("bye {code}"));
                self.note(call_ref, plan, Step::ByeFailed(code));
            }
            self.calls.remove(cookie.slot as usize);
        }
    }

    fn on_invite_outcome(&mut self, stack: &mut Stack, cookie: Cookie, outcome: Outcome<'_, '_>) {
        if self.call_of(cookie).is_none() {
            return;
        }
        match outcome {
            Outcome::Response(_, 100) => {}
            Outcome::Response(message, code) if code < 200 => self.on_ringing(stack, cookie, message, code),
            Outcome::Response(message, code) if code < 300 => self.on_answered(stack, cookie, message, code),
            Outcome::Response(message, code) => {
                let Start::Response { reason, .. } = message.start else { return };
                self.on_refused(stack, cookie, code, reason);
            }
            Outcome::TimedOut => self.on_refused(stack, cookie, 408, "Request Timeout"),
            Outcome::Disconnected => self.on_refused(stack, cookie, 480, "Connection Lost"),
        }
    }

    fn on_ringing(&mut self, stack: &mut Stack, cookie: Cookie, message: &Message<'_>, code: u16) {
        let near = usize::from(1 - cookie.leg);
        let Start::Response { reason, .. } = message.start else { return };
        let call = &self.calls[cookie.slot as usize];
        let plan = call.plan;
        if let (Some(invite), Some(link)) = (call.legs[near].invite_in, self.link_of(stack, cookie.slot, near)) {
            let tag = Tag { slot: cookie.slot, serial: cookie.serial, leg: near as u8 }.print(stack.boot);
            let contact = self.contact_for(stack, link);
            let kind = message.first(Name::ContentType).map(|kind| format!("Content-Type: {kind}\r\n"));
            let lines = format!("Contact: {contact}\r\n{}", kind.unwrap_or_default());
            stack.respond(invite, code, reason, &tag, &lines, message.body);
        }
        self.note(CallRef { slot: cookie.slot, serial: cookie.serial }, plan, Step::Ringing);
    }

    /// A link of the transport that a leg talks over, to name our Contact by.
    fn link_of(&mut self, stack: &mut Stack, slot: u32, leg: usize) -> Option<Link> {
        self.next_hop_in_dialog(stack, slot, leg).map(|hop| hop.link)
    }

    fn on_answered(&mut self, stack: &mut Stack, cookie: Cookie, message: &Message<'_>, code: u16) {
        let (far, near) = (usize::from(cookie.leg), usize::from(1 - cookie.leg));
        let call_ref = CallRef { slot: cookie.slot, serial: cookie.serial };
        let boot = stack.boot;
        let call = &mut self.calls[cookie.slot as usize];
        let (plan, started_us) = (call.plan, call.started_us);
        let is_first = call.legs[far].dialog.is_none();
        if is_first {
            call.legs[far].dialog = Dialog::of_answer(message);
        } else if let Some(dialog) = &mut call.legs[far].dialog {
            dialog.refresh(message);
        }
        if call.legs[far].dialog.is_none() {
            return self.on_refused(stack, cookie, 502, "Answer Without Contact");
        }
        let is_over = call.is_ending;
        call.legs[far].is_up = true;
        call.legs[far].ack_owed = message.cseq().map(|(number, _)| number);
        if is_over {
            // The answer has crossed our CANCEL or the caller's BYE.
            return self.end_leg(stack, cookie.slot, far);
        }
        if let Some(plan) = plan {
            self.send_ack(stack, cookie.slot, far, None, b"");
            if !is_first {
                stack.tally.reinvites_answered += 1;
            }
            if is_first {
                stack.tally.calls_answered += 1;
                stack.tally.setup.record(stack.now_us - started_us);
                if plan.talk == Some(Duration::ZERO) {
                    self.end_leg(stack, cookie.slot, far);
                } else if let Some(talk) = plan.talk {
                    stack.alarm_in(talk, Cookie { kind: KIND_HANG_UP, ..cookie });
                }
            }
            return self.note(call_ref, Some(plan), Step::Answered);
        }
        call.legs[near].is_up = true;
        let Some(invite) = call.legs[near].invite_in else { return };
        let Start::Response { reason, .. } = message.start else { return };
        let tag = Tag { slot: cookie.slot, serial: cookie.serial, leg: near as u8 }.print(boot);
        let link = self.link_of(stack, cookie.slot, near);
        let contact = link.map(|link| self.contact_for(stack, link)).unwrap_or_default();
        let kind = message.first(Name::ContentType).map(|kind| format!("Content-Type: {kind}\r\n"));
        let lines = format!("Contact: {contact}\r\n{}", kind.unwrap_or_default());
        stack.respond(invite, code, reason, &tag, &lines, message.body);
    }

    fn on_refused(&mut self, stack: &mut Stack, cookie: Cookie, code: u16, reason: &str) {
        let (far, near) = (usize::from(cookie.leg), usize::from(1 - cookie.leg));
        let boot = stack.boot;
        let call = &mut self.calls[cookie.slot as usize];
        call.legs[far].invite_out = None;
        let plan = call.plan;
        if let Some(invite) = call.legs[near].invite_in.take() {
            let tag = Tag { slot: cookie.slot, serial: cookie.serial, leg: near as u8 }.print(boot);
            stack.respond(invite, code, reason, &tag, "", b"");
        }
        if call.legs[far].is_up {
            // A re-INVITE was refused: the call goes on as it was (RFC 3261 §14.1), unless it is gone there.
            if code == 481 || code == 408 {
                self.end_leg(stack, cookie.slot, near);
            }
            return;
        }
        if code == 430 {
            let contact = self.registrar.lookup(&call.aor, stack.now_us).and_then(|mut found| found.next());
            if let Some(contact) = contact.map(|binding| binding.contact.clone()) {
                self.registrar.forget(&call.aor, &contact);
            }
        }
        self.calls.remove(cookie.slot as usize);
        if plan.is_some() {
            Tally::count(&mut stack.tally.calls_failed, code.to_string());
            self.note(CallRef { slot: cookie.slot, serial: cookie.serial }, plan, Step::Failed(code));
        }
    }

    pub fn ack_missing(&mut self, stack: &mut Stack, cookie: Cookie) {
        if self.call_of(cookie).is_some() {
            self.end_leg(stack, cookie.slot, 0);
            if self.call_of(cookie).is_some() {
                self.end_leg(stack, cookie.slot, 1);
            }
        }
    }

    pub fn alarm(&mut self, stack: &mut Stack, cookie: Cookie) {
        let Some(call) = self.call_of(cookie) else { return };
        match cookie.kind {
            KIND_LOST if call.legs[1].dialog.is_none() => {
                stack.tally.calls_lost += 1;
                let plan = call.plan;
                if let Some(invite) = call.legs[1].invite_out {
                    stack.cancel(invite);
                }
                self.calls.remove(cookie.slot as usize);
                self.note(CallRef { slot: cookie.slot, serial: cookie.serial }, plan, Step::Lost);
            }
            KIND_HANG_UP => self.end_leg(stack, cookie.slot, 1),
            _ => {}
        }
    }

    pub fn closed(&mut self, conn: ConnId, _why: &Closed) {
        for conns in self.connections.values_mut() {
            conns.retain(|&known| known != conn);
        }
    }
}
