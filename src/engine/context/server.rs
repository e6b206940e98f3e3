//! The half of a context towards who asked: responses of ours and of others, their repetitions, and the end.

use super::build::{self, tag_of};
use super::event::{Action, Answer};
use super::state::{Cancel, ClientMachine, ServerMachine, TargetSet, TxnTimer};
use super::turn::Turn;
use crate::engine::Level;
use crate::engine::words::in_words;
use crate::ids::Side;
use crate::limits::{SERVER_DOUBT_AFTER, STRANGER_ANSWER_FACTOR_MAX, UDP_DATAGRAM_LEN_MAX};
use crate::planted::{Plant, planted};
use crate::sip::Method;
use crate::sip::response::{self, Reply};
use crate::stats::Counter;
use crate::transaction::{Effects, Tell};

impl Turn<'_> {
    // --- what the requester sends ----------------------------------------------------------------------------

    /// The request has come again.
    pub(super) fn on_repeated(&mut self) {
        self.count(Counter::AbsorbedRequest);
        let effects = match &mut self.context.server.machine {
            ServerMachine::Invite(machine) => machine.on_request(),
            ServerMachine::Plain(machine) => machine.on_request(),
        };
        if effects.resend.is_some() && !self.context.server.last.is_empty() {
            self.count(Counter::ResentResponse);
        }
        self.apply_server(effects);
    }

    /// The ACK to a final error.
    pub(super) fn on_ack(&mut self) {
        if let ServerMachine::Invite(machine) = &mut self.context.server.machine {
            let effects = machine.on_ack(self.env.times);
            self.apply_server(effects);
        }
    }

    /// Timer G.
    pub(super) fn on_server_retransmit(&mut self) {
        self.count(Counter::TimerG);
        let server = &mut self.context.server;
        let ServerMachine::Invite(machine) = &mut server.machine else { return };
        let mut effects = machine.on_retransmit(self.env.times);
        // One who asks again is answered again; a forged source asks once.
        match server.repeats_len.checked_sub(server.last.len()) {
            Some(left) => {
                server.repeats_len = left;
                self.count(Counter::ResentResponse);
            }
            None => effects.resend = None,
        }
        if planted(Plant::AnswerNotRepeated) {
            effects.resend = None;
        }
        self.apply_server(effects);
    }

    /// Timer H, I, J or L.
    pub(super) fn on_server_deadline(&mut self) {
        let effects = match &mut self.context.server.machine {
            ServerMachine::Invite(machine) => machine.on_deadline(),
            ServerMachine::Plain(machine) => machine.on_deadline(),
        };
        if effects.tell == Some(Tell::NoAck) {
            self.count(Counter::TimerH);
        }
        self.apply_server(effects);
    }

    /// The requester has heard nothing for a while, or the server nothing of what an INVITE asks.
    pub(super) fn on_trying(&mut self) {
        if self.context.server.said_provisional {
            return self.doubt_server();
        }
        self.say_trying();
        let is_open = self.context.server.machine.is_open();
        if self.context.targets.pair().is_some() && self.context.asked.method == Method::Invite && is_open {
            self.arm(TxnTimer::Trying, SERVER_DOUBT_AFTER);
        }
    }

    /// Carries out what the server machine wants, but for `tell`.
    fn apply_server(&mut self, effects: Effects) {
        self.apply(TxnTimer::ServerRetransmit, effects.retransmit);
        self.apply(TxnTimer::ServerDeadline, effects.deadline);
        if effects.resend.is_some() && !self.context.server.last.is_empty() {
            let bytes = self.ports.pool.copy(&self.context.server.last);
            self.act(Action::Respond(bytes));
        }
        if effects.ended {
            self.context.server.is_over = true;
        }
    }

    // --- what the requester is sent --------------------------------------------------------------------------

    /// 100, for who has heard nothing for a while (RFC 3261 §17.2.1; RFC 4320 §4.1).
    fn say_trying(&mut self) {
        let server = &mut self.context.server;
        if !server.machine.is_open() {
            return;
        }
        let Some(request) = &self.context.request else { return };
        let mut bytes = self.ports.pool.take();
        let reply = Reply { code: 100, reason: "Trying", to_tag: b"", extra: b"" };
        response::write(&request.message, self.context.asked.source.peer, &reply, &mut bytes);
        if let ServerMachine::Plain(machine) = &mut server.machine {
            machine.on_provisional();
        }
        self.count(Counter::TimerTrying);
        self.say_provisional(100, bytes);
    }

    pub(super) fn say_provisional(&mut self, code: u16, bytes: Vec<u8>) {
        self.context.server.said_provisional = true;
        self.keep_last(&bytes);
        self.put_upstream(code, bytes);
    }

    /// A 2xx to an INVITE that was answered already goes back all the same.
    pub(super) fn pass_success(&mut self, answer: Answer<'_>, late: bool) {
        let bytes = self.response_of(answer, late);
        self.act(Action::Respond(bytes));
    }

    /// The response as it goes back.
    pub(super) fn response_of(&mut self, answer: Answer<'_>, late: bool) -> Vec<u8> {
        build::response(answer.message, self.context.back(answer.is_trusted, late), None, self.env, self.ports)
    }

    /// Keeps what may have to be sent again: only over UDP does the requester ask twice.
    fn keep_last(&mut self, bytes: &[u8]) {
        if !self.env.is_reliable(self.context.asked.reply) {
            // It stays for up to 64*T1 behind a final response.
            self.context.server.last = bytes.to_vec();
        }
    }

    fn put_upstream(&mut self, code: u16, bytes: Vec<u8>) {
        let source = &self.context.asked.source;
        self.ports.count(Counter::response_to(source.side, code));
        if self.env.tells(Level::Trace) {
            let about = crate::engine::words::start_of(&bytes);
            self.tell(Level::Trace, "message sent", about);
        }
        self.act(Action::Respond(bytes));
    }

    /// Sends the final response, and lets go of what is no longer needed.
    pub(super) fn answer(&mut self, code: u16, bytes: Vec<u8>) {
        let asked = self.context.asked;
        let fits = bytes.len() <= UDP_DATAGRAM_LEN_MAX || self.env.is_reliable(asked.reply);
        let (code, bytes) = if fits { (code, bytes) } else { self.short_answer(bytes) };
        if asked.source.is_stranger(&self.env.settings) {
            let was_asked = self.context.message().map_or(0, |request| request.buf().len());
            let said = bytes.len() * (1 + usize::from(self.context.server.said_provisional));
            self.context.server.repeats_len = (was_asked * STRANGER_ANSWER_FACTOR_MAX).saturating_sub(said);
        }
        let effects = match &mut self.context.server.machine {
            ServerMachine::Invite(machine) => machine.on_final(code, self.env.times),
            ServerMachine::Plain(machine) => machine.on_final(self.env.times),
        };
        // A 2xx to an INVITE is repeated by who made it, not by its transactions (RFC 6026 §7.1).
        if asked.method == Method::Invite && code < 300 {
            self.context.server.last = Vec::new();
        } else {
            self.keep_last(&bytes);
        }
        self.put_upstream(code, bytes);
        self.apply_server(effects);
        self.stop(TxnTimer::Trying);
        self.release();
    }

    /// What is said in place of a final response that its requester's transport cannot carry: silence would be taken
    /// for a loss, and asked after until the end of the transaction.
    fn short_answer(&mut self, too_large: Vec<u8>) -> (u16, Vec<u8>) {
        self.count(Counter::ResponseTooLarge);
        self.ports.pool.give(too_large);
        let mut bytes = self.ports.pool.take();
        if let Some(request) = self.context.message() {
            let to_tag = &tag_of(self.context.asked.key);
            let reply = Reply { code: 500, reason: "Response Too Large", to_tag, extra: b"" };
            response::write(request, self.context.asked.source.peer, &reply, &mut bytes);
        }
        (500, bytes)
    }

    /// After the final response neither the request nor what was sent is needed again.
    pub(super) fn release(&mut self) {
        if let Some(request) = self.context.request.take() {
            self.ports.pool.give(request.message.into_buf());
        }
        // A client transaction that still waits for its own end only ever repeats its ACK; one that waits for
        // a final response (ours crossed it) may still have to make an ACK or a CANCEL of what it sent.
        if !self.context.client.machine.is_pending() {
            self.ports.pool.give(std::mem::take(&mut self.context.client.sent));
        }
    }

    // --- answers of our own ----------------------------------------------------------------------------------

    /// Ends the request with an answer of our own, counted and told.
    pub(super) fn finish(&mut self, code: u16, reason: &'static str, counter: Counter) {
        if !self.context.server.machine.is_open() {
            // A target that was given up has answered it.
            return self.abandon_client();
        }
        self.count(counter);
        let about = self.context.message().map_or(Vec::new(), in_words);
        self.tell(Level::Warn, reason, about);
        if self.context.asked.method == Method::Invite && !self.context.asked.in_dialog {
            self.count(Counter::CallsRejected);
        }
        self.finish_quietly(code, reason);
    }

    /// Ends an INVITE that was cancelled.
    pub(super) fn finish_cancelled(&mut self) {
        if self.context.server.machine.is_open() {
            self.count(Counter::CallsCancelled);
        }
        self.finish_quietly(487, "Request Terminated");
    }

    /// The phone is gone: 430 when the registrar may try the phone's other flow (RFC 5626 §5.3.1), else 480.
    pub(super) fn finish_gone(&mut self) {
        let (lost, in_dialog) = (self.context.client.flow.is_some(), self.context.asked.in_dialog);
        let ob = matches!(self.context.targets, TargetSet::Phone { ob: true, .. }) && !planted(Plant::OutboundIgnored);
        let (code, reason, counter) = match (ob && !in_dialog, lost, in_dialog) {
            (true, false, _) => (430, "Flow Failed", Counter::Refused430FlowGone),
            (true, true, _) => (430, "Flow Failed", Counter::Refused430FlowLost),
            (false, true, _) => (480, "Phone Lost", Counter::Refused480FlowLost),
            (false, false, true) => (480, "Phone Not Back", Counter::Refused480Grace),
            (false, false, false) => (480, "Phone Not Connected", Counter::Refused480FlowGone),
        };
        self.finish(code, reason, counter);
    }

    fn finish_quietly(&mut self, code: u16, reason: &'static str) {
        self.abandon_client();
        if !self.context.server.machine.is_open() {
            return self.release();
        }
        let Some(request) = &self.context.request else { return };
        let mut extra = Vec::new();
        // For a server it would mean this proxy, and cut it off from the phones moored here.
        let is_beyond = matches!(self.context.targets, TargetSet::Peer { .. } | TargetSet::Device { .. });
        if code == 503 && (!is_beyond || self.context.asked.source.side == Side::Endpoint) {
            self.ports.write_retry_after(&mut extra);
        }
        let mut bytes = self.ports.pool.take();
        let reply = Reply { code, reason, to_tag: &tag_of(self.context.asked.key), extra: &extra };
        response::write(&request.message, self.context.asked.source.peer, &reply, &mut bytes);
        self.answer(code, bytes);
    }

    /// The client half is given up: its timers stop, and what it may have sent again is let go.
    pub(super) fn abandon_client(&mut self) {
        self.stop_client();
        self.unwatch();
        self.context.client.machine = ClientMachine::Over;
        self.context.seeking = None;
        if matches!(self.context.client.cancel, Cancel::Wanted) {
            self.context.client.cancel = Cancel::No;
        }
    }

    /// Stops all that runs for the client half, and what it waits for.
    pub(super) fn stop_client(&mut self) {
        for timer in [TxnTimer::ClientRetransmit, TxnTimer::ClientDeadline, TxnTimer::TimerC, TxnTimer::Location] {
            self.stop(timer);
        }
    }
}
