//! A response's way: its transaction, what it means for the request, and back to who asked (RFC 3261 §16.7).

use super::exchange::{Cancelling, ClientTxn, Exchange, GivenUp, Onward, ServerTxn, Which};
use super::onward::Why;
use super::{Engine, Level, Source};
use crate::clock::Time;
use crate::ids::Side;
use crate::limits::STRANGER_ANSWER_FACTOR_MAX;
use crate::proxy::record_route;
use crate::proxy::register;
use crate::proxy::response::{self, Fate};
use crate::proxy::trust::{self, SentTo, Whose};
use crate::server_pool::Evidence;
use crate::sip::{Message, Method, Name, Span};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::{Branch, Effects, Tell};

impl Engine {
    /// A response whose top Via is ours, with a branch of this shard.
    pub(super) fn on_response(&mut self, message: Box<Message>, source: Source, branch: Branch, now: Time) {
        let id = branch.txn;
        // Behind our own Via stands at least that of who asked; a CANCEL or a service check is our own, and has no
        // other.
        let is_own = message.cseq().method == Method::Cancel || id == TxnId::NONE;
        let via_count_min = if is_own { 1 } else { 2 };
        if message.count_values(Name::Via) < via_count_min {
            return self.drop_response(message, Counter::ResponseForeignVia);
        }
        if id == TxnId::NONE && message.cseq().method == Method::Options {
            self.on_pong(branch.nonce, &message, &source, now);
            return self.recycle_message(message);
        }
        let Some(mut exchange) = self.take_exchange(id) else {
            return self.drop_response(message, Counter::ResponseStray);
        };
        match self.sent_to(&exchange, branch) {
            None => self.count(Counter::ResponseStray),
            Some((sent, _)) if !trust::may_answer(sent, &source) => self.note_elsewhere(&message, &source),
            Some((_, former)) => self.on_answer(id, &mut exchange, former, &message, &source, now),
        }
        self.put_back(id, exchange);
        self.recycle_message(message);
    }

    /// Where the client transaction with a branch was sent, and which of the given-up ones that is; `None` when there is
    /// none with that branch.
    fn sent_to(&self, exchange: &Exchange, branch: Branch) -> Option<(SentTo, Option<usize>)> {
        let (former, flow, hop) = if exchange.nonce == branch.nonce {
            (None, exchange.next, exchange.hop)
        } else {
            let at = exchange.former.iter().position(|former| former.nonce == branch.nonce)?;
            (Some(at), Some(exchange.former[at].flow), exchange.former[at].hop)
        };
        let peer = exchange.hops.as_ref().and_then(|hops| hops.peer);
        let whose = match (exchange.onward, hop) {
            (Onward::Flow, _) | (_, None) => {
                let moved_to = flow.and_then(|flow| self.moved_from(flow, exchange.binding));
                return Some((SentTo { flow, moved_to, whose: Whose::Endpoint(exchange.binding) }, former));
            }
            (Onward::Server(_), Some(hop)) => Whose::Server(hop.address),
            (Onward::Hops, Some(hop)) if peer.is_some() => Whose::Peer(hop.address),
            (Onward::Hops, Some(hop)) => Whose::Device(hop.address),
        };
        // A connection that there is now need not be the one that it was sent over.
        let was_lost = former.is_none() && exchange.attempts > 0;
        let flow = flow.filter(|flow| !flow.is_stream() || (!was_lost && self.is_there(*flow)));
        Some((SentTo { flow, moved_to: None, whose }, former))
    }

    /// A response that has the branch of a request, and does not come from where that was sent.
    pub(super) fn note_elsewhere(&mut self, message: &Message, source: &Source) {
        self.count(Counter::ResponseElsewhere);
        let what = "response dropped: it does not come from where its request was sent";
        self.event(what, Some(source.peer), &super::home::in_words(message));
    }

    /// A response to one of an exchange's client transactions, from where that was sent.
    fn on_answer(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        former: Option<usize>,
        message: &Message,
        source: &Source,
        now: Time,
    ) {
        let code = message.status().unwrap_or(0);
        let method = message.cseq().method;
        let is_cancels = former.is_none() && method == Method::Cancel && exchange.method == Method::Invite;
        if method != exchange.method && !is_cancels && former.is_none() {
            return self.count(Counter::ResponseStray);
        }
        self.count(Counter::response_from(source.side, code));
        exchange.answer_is_trusted = source.is_trusted();
        match former {
            Some(at) if method == exchange.method => self.on_former_response(id, exchange, at, message, code, now),
            Some(_) => {}
            None if is_cancels => self.on_cancel_response(id, exchange, code, now),
            None => {
                if let (Onward::Hops, Some(hop)) = (exchange.onward, exchange.hop) {
                    self.dns.unblock(hop.transport, hop.address);
                }
                self.on_own_response(id, exchange, message, code, now);
            }
        }
    }

    pub(super) fn drop_response(&mut self, message: Box<Message>, why: Counter) {
        self.count(why);
        self.recycle_message(message);
    }

    fn on_own_response(&mut self, id: TxnId, exchange: &mut Exchange, message: &Message, code: u16, now: Time) {
        let mut acks = false;
        let effects = match &mut exchange.client {
            ClientTxn::Invite(machine) => {
                acks = code >= 300 && !machine.is_final();
                machine.on_response(code, self.env.times)
            }
            ClientTxn::Plain(machine) => machine.on_response(code, self.env.times),
            ClientTxn::Waiting | ClientTxn::Over => {
                self.count(Counter::ResponseStray);
                return;
            }
        };
        if acks {
            let mut ack = self.ports.pool.take();
            // What we sent was parsed once; it cannot fail. Without an ACK the phone's own timer H ends it.
            let _ = crate::sip::response::build_ack(&exchange.sent, message, &mut ack);
            exchange.ack = self.ports.pool.exact(ack);
        }
        if effects.tell.is_none() {
            self.count(Counter::AbsorbedResponse);
        }
        self.apply_client(id, exchange, effects, now);
        if effects.tell != Some(Tell::Response) {
            return;
        }
        self.note_answer(exchange, code);
        if code < 200 {
            self.on_provisional(id, exchange, message, code, now);
        } else {
            self.on_final(id, exchange, message, code, now);
        }
    }

    fn on_provisional(&mut self, id: TxnId, exchange: &mut Exchange, message: &Message, code: u16, now: Time) {
        if matches!(exchange.cancelling, Cancelling::Wanted) {
            self.send_cancel(id, exchange, now);
        }
        // To a request other than INVITE only 100 may be said, and not before its time (RFC 4320 §4.1): the timer
        // says it.
        if code == 100 || exchange.method != Method::Invite || !exchange.server.is_open() {
            return;
        }
        if exchange.given_up == GivenUp::No {
            self.arm(id, exchange, Which::Patience, now.after(self.env.settings.live.timer_c));
        }
        self.stop(exchange, Which::Trying);
        exchange.said_provisional = true;
        let bytes = self.response_bytes(exchange, message, None, false);
        self.keep_last(exchange, &bytes);
        self.put_upstream(exchange, code, bytes);
    }

    fn on_final(&mut self, id: TxnId, exchange: &mut Exchange, message: &Message, code: u16, now: Time) {
        self.stop(exchange, Which::Patience);
        self.unwatch(id, exchange);
        if matches!(exchange.cancelling, Cancelling::Wanted) {
            exchange.cancelling = Cancelling::No;
        }
        let is_invite = exchange.method == Method::Invite;
        let from = exchange.side_onward();
        if !exchange.server.is_open() {
            // A 2xx to an INVITE always goes back, also the second one, or one that crossed our own answer
            // (RFC 3261 §16.7 step 5).
            if is_invite && code < 300 {
                self.pass_success(exchange, message, false);
            }
            return;
        }
        if code == 503 && exchange.onward != Onward::Flow && self.has_alternative(exchange, now) {
            if let (Onward::Server(pair), Some(hop)) = (exchange.onward, exchange.hop) {
                self.tell_evidence(pair, hop.address, Evidence::Status(503));
            }
            // Who asked has heard nothing yet, and needs its 100 all the same.
            return self.fail_over(id, exchange, Why::Unavailable, now);
        }
        self.stop(exchange, Which::Trying);
        if code < 300 && is_invite && !exchange.tried.is_empty() {
            self.note_takes_calls(exchange.onward, exchange.hop);
        }
        let code = match response::fate(code, is_invite, from) {
            Fate::Pass => code,
            Fate::As500 => {
                self.count(Counter::Refused500Endpoint503);
                500
            }
            Fate::Drop => {
                exchange.server_over = true;
                self.release(exchange);
                return;
            }
        };
        if code < 300 {
            self.on_success(id, exchange, message, code, false, now);
        } else {
            let bytes = self.response_bytes(exchange, message, None, false);
            self.answer(id, exchange, code, bytes, now);
        }
        if is_invite && !exchange.in_dialog {
            self.count(match code {
                200..=299 => Counter::CallsAnswered,
                487 => Counter::CallsCancelled,
                _ => Counter::CallsRejected,
            });
        }
    }

    /// A 2xx goes back as the final response; that of a REGISTER binds. `late`: it is of a server that had been given up.
    pub(super) fn on_success(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        message: &Message,
        code: u16,
        late: bool,
        now: Time,
    ) {
        let register = exchange.request.take_if(|_| exchange.registration.is_some());
        if let (Some(registration), Some(request)) = (exchange.registration.take(), &register) {
            self.bind_contacts(request, &registration, message, &exchange.source, exchange.arrived, now);
        }
        let bytes = self.response_bytes(exchange, message, register.as_deref(), late);
        if register.is_some() {
            exchange.request = register;
        }
        self.answer(id, exchange, code, bytes, now);
    }

    /// A 2xx to an INVITE that was answered already goes back all the same.
    pub(super) fn pass_success(&mut self, exchange: &Exchange, message: &Message, late: bool) {
        let bytes = self.response_bytes(exchange, message, None, late);
        self.respond_for(exchange, bytes);
    }

    /// The response as it goes back. `register` is the REGISTER that a 2xx answers; `late` as for [`Engine::on_success`].
    fn response_bytes(
        &mut self,
        exchange: &Exchange,
        message: &Message,
        register: Option<&Message>,
        late: bool,
    ) -> Vec<u8> {
        let from = exchange.side_onward();
        let mut edits = std::mem::take(&mut self.ports.edits);
        edits.clear();
        let code = message.status().unwrap_or(0);
        let as_500 = response::fate(code, exchange.method == Method::Invite, from) == Fate::As500;
        if as_500 {
            edits.replace(Span::new(0, message.first_field_at()), b"SIP/2.0 500 Server Internal Error\r\n");
        }
        let trusted = exchange.answer_is_trusted;
        response::edit(message, trusted, self.transport_of(exchange.reply), &mut edits);
        if !trusted && message.first(Name::XGenesysRoute).is_some() {
            self.count(Counter::XGenesysStrippedEndpoint);
        }
        if code == 503 && !as_500 && message.first(Name::RetryAfter).is_none() {
            // Or all phones would come back at once (RFC 5390).
            let mut line = Vec::new();
            self.write_retry_after(&mut line);
            edits.insert(message.head_end(), &line);
        }
        if late && exchange.to_server() && exchange.source.side == Side::Endpoint {
            record_route::mark_late(message, &self.env.keys, &mut edits);
        }
        if let Some(request) = register {
            let sticky = self.env.settings.sticky;
            let take_path = register::says_path_for_it(request, sticky, self.env.settings.live.path_add_supported);
            register::edit_response(message, sticky, take_path, &self.env.keys, &mut edits, |id, out| {
                self.write_own_contact(id, out)
            });
        }
        let mut bytes = self.ports.pool.take();
        edits.apply(message.buf(), &mut bytes);
        self.ports.edits = edits;
        bytes
    }

    /// Keeps what may have to be sent again: only over UDP does the requester ask twice.
    pub(super) fn keep_last(&mut self, exchange: &mut Exchange, bytes: &[u8]) {
        if self.is_reliable(exchange.reply) {
            return;
        }
        // It stays for up to 64*T1 behind a final response.
        exchange.last = bytes.to_vec();
    }

    pub(super) fn put_upstream(&mut self, exchange: &Exchange, code: u16, bytes: Vec<u8>) {
        self.count(Counter::response_to(exchange.source.side, code));
        if self.tells(Level::Trace) {
            self.ports.tell_message("message sent", exchange.source.peer, &bytes);
        }
        self.respond_for(exchange, bytes);
    }

    /// Sends the final response of an exchange, and lets go of what it no longer needs.
    pub(super) fn answer(&mut self, id: TxnId, exchange: &mut Exchange, code: u16, bytes: Vec<u8>, now: Time) {
        let (code, bytes) = match self.fits(exchange.reply, bytes.len()) {
            true => (code, bytes),
            false => self.short_answer(exchange, bytes),
        };
        if exchange.source.is_stranger() {
            let asked = exchange.request.as_deref().map_or(0, |request| request.buf().len());
            let said = bytes.len() * (1 + usize::from(exchange.said_provisional));
            exchange.repeats_len = (asked * STRANGER_ANSWER_FACTOR_MAX).saturating_sub(said);
        }
        let effects = match &mut exchange.server {
            ServerTxn::Invite(machine) => machine.on_final(code, self.env.times),
            ServerTxn::Plain(machine) => machine.on_final(self.env.times),
        };
        // A 2xx to an INVITE is repeated by who made it, not by its transactions (RFC 6026 §7.1).
        if exchange.method == Method::Invite && code < 300 {
            exchange.last = Vec::new();
        } else {
            self.keep_last(exchange, &bytes);
        }
        self.put_upstream(exchange, code, bytes);
        self.apply_server(id, exchange, effects, now);
        self.stop(exchange, Which::Trying);
        self.release(exchange);
    }

    /// After the final response neither the request nor what was sent is needed again.
    fn release(&mut self, exchange: &mut Exchange) {
        if let Some(request) = exchange.request.take() {
            self.ports.pool.give(request.into_buf());
        }
        // A client transaction that still waits for its own end only ever repeats its ACK; one that waits for
        // a final response (ours crossed it) may still have to make an ACK or a CANCEL of what it sent.
        if !exchange.client.is_pending() {
            self.ports.pool.give(std::mem::take(&mut exchange.sent));
        }
        exchange.registration = None;
    }

    // --- the answers to our CANCEL ------------------------------------------------------------------------

    fn on_cancel_response(&mut self, id: TxnId, exchange: &mut Exchange, code: u16, now: Time) {
        if let Cancelling::Sent { machine, .. } = &mut exchange.cancelling {
            let effects = machine.on_response(code, self.env.times);
            self.apply_cancel(id, exchange, effects, now);
        }
    }

    pub(super) fn apply_cancel(&mut self, id: TxnId, exchange: &mut Exchange, effects: Effects, now: Time) {
        self.apply_timer(id, exchange, Which::CancelRetransmit, effects.retransmit, now);
        self.apply_timer(id, exchange, Which::CancelDeadline, effects.deadline, now);
        if effects.resend.is_some()
            && let Cancelling::Sent { bytes, .. } = &exchange.cancelling
        {
            let copy = self.ports.pool.copy(bytes);
            self.count(Counter::ResentRequest);
            self.send_next(id, exchange, copy, false, now);
        }
        if effects.ended && matches!(exchange.cancelling, Cancelling::Sent { .. }) {
            exchange.cancelling = Cancelling::No;
        }
    }
}
