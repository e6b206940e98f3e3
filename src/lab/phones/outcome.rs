//! What comes back for the phones' own requests, and alarms.
//!
//! Owns: how a call that a phone has placed goes on and ends. Must not touch: requests that come in.

use super::{
    KIND_ACCEPT, KIND_BYE, KIND_CONNECT, KIND_HANG_UP, KIND_INVITE, KIND_KEEP_ALIVE, KIND_LOST, KIND_REFRESH,
    KIND_REGISTER, KIND_RETRY, Phase, PhoneCallRef, Phones, State,
};
use crate::dialog::{Dialog, Tag};
use crate::server::Step;
use crate::stack::{ClientId, Cookie, Outcome, Stack};
use crate::tally::Tally;
use crate::text::Message;
use std::time::Duration;

impl Phones {
    pub fn outcome(&mut self, stack: &mut Stack, id: ClientId, cookie: Cookie, outcome: Outcome<'_, '_>) {
        match cookie.kind {
            KIND_REGISTER => self.on_register_outcome(stack, cookie, outcome),
            KIND_INVITE => self.on_invite_outcome(stack, id, cookie, outcome),
            KIND_BYE => {
                let is_planned = self.call_of(cookie).is_some_and(|call| call.plan.is_some());
                let mut step = Step::ByeFailed(0);
                match outcome {
                    Outcome::Response(_, code) if code < 200 => return,
                    Outcome::Response(_, 200) => {
                        step = Step::Ended;
                        stack.tally.calls_ended += u64::from(is_planned);
                    }
                    Outcome::Response(_, code) => {
                        step = Step::ByeFailed(code);
                        Tally::count(&mut stack.tally.calls_failed, format!("bye {code}"));
                    }
                    Outcome::TimedOut => stack.tally.byes_lost += 1,
                    Outcome::Disconnected => Tally::count(&mut stack.tally.calls_failed, "bye disconnected"),
                }
                if self.call_of(cookie).is_some() {
                    let call = self.calls.remove(cookie.slot as usize);
                    self.note(cookie, call.plan, step);
                }
            }
            _ => {}
        }
    }

    fn on_invite_outcome(&mut self, stack: &mut Stack, id: ClientId, cookie: Cookie, outcome: Outcome<'_, '_>) {
        if self.call_of(cookie).is_none() {
            return;
        }
        let call = &mut self.calls[cookie.slot as usize];
        let is_first = call.dialog.is_none();
        let (reason, code) = match outcome {
            Outcome::Response(_, code) if code < 200 => {
                if code > 100 && call.phase == Phase::Calling {
                    call.phase = Phase::Ringing;
                }
                return;
            }
            Outcome::Response(message, code) if code < 300 => {
                return self.on_answered(stack, id, cookie, message, is_first);
            }
            Outcome::Response(_, code) => (code.to_string(), code),
            Outcome::TimedOut => ("timeout".to_owned(), 408),
            Outcome::Disconnected => ("disconnected".to_owned(), 0),
        };
        call.invite_out = None;
        let reason = if is_first { reason } else { format!("re-INVITE {reason}") };
        Tally::count(&mut stack.tally.calls_failed, reason);
        if is_first {
            let call = self.calls.remove(cookie.slot as usize);
            self.note(cookie, call.plan, Step::Failed(code));
        }
    }

    fn on_answered(&mut self, stack: &mut Stack, id: ClientId, cookie: Cookie, answer: &Message<'_>, is_first: bool) {
        let call = &mut self.calls[cookie.slot as usize];
        let phone = call.phone;
        call.invite_out = None;
        match (&mut call.dialog, is_first) {
            (Some(dialog), false) => dialog.refresh(answer),
            (dialog, _) => *dialog = Dialog::of_answer(answer),
        }
        let (plan, started_us) = (call.plan, call.started_us);
        call.phase = Phase::Up;
        call.acked = true;
        let way = self.phones[phone as usize].link.and_then(|link| Some((link, self.sent_by(stack, phone, link)?)));
        let (Some((link, sent_by)), Some(dialog)) = (way, self.calls[cookie.slot as usize].dialog.as_mut()) else {
            self.calls.remove(cookie.slot as usize);
            self.note(cookie, plan, Step::Failed(0));
            return Tally::count(&mut stack.tally.calls_failed, "answer without Contact or connection");
        };
        let number = answer.cseq().map_or(1, |(number, _)| number);
        let draft = dialog.draft(stack, "ACK", Some(number), self.config.transport, sent_by);
        stack.send_ack(id, link, draft, b"");
        if !is_first {
            stack.tally.reinvites_answered += 1;
            return;
        }
        stack.tally.calls_answered += 1;
        stack.tally.setup.record(stack.now_us - started_us);
        self.note(cookie, plan, Step::Answered);
        match plan.and_then(|plan| plan.talk) {
            Some(Duration::ZERO) => {
                self.say(stack, PhoneCallRef { slot: cookie.slot, serial: cookie.serial }, "BYE", KIND_BYE);
            }
            Some(talk) => stack.alarm_in(talk, Cookie { kind: KIND_HANG_UP, ..cookie }),
            None => {}
        }
    }

    pub fn ack_missing(&mut self, stack: &mut Stack, cookie: Cookie) {
        if self.call_of(cookie).is_some() {
            let call = PhoneCallRef { slot: cookie.slot, serial: cookie.serial };
            self.say(stack, call, "BYE", KIND_BYE);
        }
    }

    pub fn alarm(&mut self, stack: &mut Stack, cookie: Cookie) {
        match cookie.kind {
            KIND_RETRY => self.start(stack, cookie.slot),
            KIND_CONNECT => self.on_connect_timeout(stack, cookie),
            KIND_REFRESH => {
                let entry = &self.phones[cookie.slot as usize];
                if entry.state == State::Registered && entry.cseq == cookie.serial {
                    self.register(stack, cookie.slot, self.config.expires_s);
                }
            }
            KIND_KEEP_ALIVE => {
                let entry = &mut self.phones[cookie.slot as usize];
                match (entry.state, entry.link, self.config.keep_alive) {
                    (State::Registered, Some(link), Some(after)) => {
                        if !link.is_lossy() {
                            stack.net.send(link, b"\r\n\r\n");
                        }
                        stack.alarm_in(after, cookie);
                    }
                    _ => entry.keeps_alive = false,
                }
            }
            KIND_ACCEPT if self.call_of(cookie).is_some_and(|call| call.phase == Phase::Ringing) => {
                self.accept(stack, Tag { slot: cookie.slot, serial: cookie.serial, leg: 0 });
            }
            KIND_HANG_UP => self.hang_up(stack, PhoneCallRef { slot: cookie.slot, serial: cookie.serial }),
            KIND_LOST => {
                let is_lost = self.call_of(cookie).is_some_and(|call| call.dialog.is_none());
                if is_lost {
                    stack.tally.calls_lost += 1;
                    let call = self.calls.remove(cookie.slot as usize);
                    self.note(cookie, call.plan, Step::Lost);
                    if let Some(invite) = call.invite_out {
                        stack.cancel(invite);
                    }
                }
            }
            _ => {}
        }
    }
}
