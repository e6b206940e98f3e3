//! Answers of our own: errors without a transaction, the final answer of an exchange, 100, and the service
//! check (RFC 3261 §8.2, §16.3, §11).

use super::exchange::{Exchange, Onward, ServerTxn};
use super::{Engine, Level, Source};
use crate::clock::Time;
use crate::ids::Side;
use crate::limits::STRANGER_ANSWER_FACTOR_MAX;
use crate::proxy::Refusal;
use crate::sip::response::{self, Reply};
use crate::sip::{Message, Method, Name, value::write_u32};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::key;

/// Seconds in the Retry-After of a 503: the least, and how many more at random, so that those who were sent
/// away do not all come back at once.
const RETRY_AFTER_MIN_S: u64 = 5;
const RETRY_AFTER_SPREAD_S: u64 = 10;

/// Our To tag for a transaction: the same in every answer to it, and known again in the ACK.
pub(super) fn tag_of(key: u128) -> [u8; 16] {
    let mut tag = [0; 16];
    for (at, place) in tag.iter_mut().enumerate() {
        let digit = ((key >> (at * 4)) & 0xf) as u8;
        *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    }
    tag
}

impl Engine {
    /// Answers a malformed request, without a transaction.
    pub(super) fn refuse_fault(&mut self, request: &Message, source: &Source) {
        let Some(fault) = request.fault() else { return };
        let (code, reason) = response::fault_reply(fault);
        let refusal = Refusal::new(code, reason, Counter::fault(fault));
        self.refuse(request, source, &refusal);
    }

    /// Answers a request without a transaction: a repetition gets the same answer again.
    pub(super) fn refuse(&mut self, request: &Message, source: &Source, refusal: &Refusal) {
        self.refuse_saying(request, source, refusal, b"");
    }

    /// The same, with more words for the operator.
    pub(super) fn refuse_saying(&mut self, request: &Message, source: &Source, refusal: &Refusal, more: &[u8]) {
        self.ports.counters.count_with_bound(refusal.counter);
        let about = [&super::home::in_words(request), more].concat();
        self.ports.tell_why(Level::Warn, "request refused", refusal.reason, Some(source.peer), &about);
        let mut extra = Vec::new();
        if refusal.unsupported {
            for field in request.fields().iter().filter(|field| field.name == Name::ProxyRequire) {
                extra.extend_from_slice(b"Unsupported: ");
                extra.extend_from_slice(request.text(field.value));
                extra.extend_from_slice(b"\r\n");
            }
        }
        if refusal.retry_after {
            self.write_retry_after(&mut extra);
        }
        let key = self.key_of(request, key::method_of(request), source);
        self.reply(request, source, refusal.code, refusal.reason, key, &extra);
    }

    /// Answers without a transaction. What a source over UDP gets of which nothing is known is bounded by what it sent,
    /// for it may have been sent in another's name.
    pub(super) fn reply(
        &mut self,
        request: &Message,
        source: &Source,
        code: u16,
        reason: &'static str,
        key: u128,
        extra: &[u8],
    ) {
        let mut bytes = self.ports.pool.take();
        response::write(request, source.peer, &Reply { code, reason, to_tag: &tag_of(key), extra }, &mut bytes);
        let len_max = request.buf().len() * STRANGER_ANSWER_FACTOR_MAX;
        if source.is_stranger() && bytes.len() > len_max {
            self.count(Counter::LimitStrangerAnswerFactor);
            // The tag stays: an answer without one is none (RFC 3261 §8.2.6.2).
            bytes.clear();
            let shortest = Reply { code, reason: "", to_tag: &tag_of(key), extra: b"" };
            response::write(request, source.peer, &shortest, &mut bytes);
            if bytes.len() > len_max {
                self.count(Counter::ResponseUnsendable);
                return self.ports.pool.give(bytes);
            }
        }
        self.count(Counter::response_to(source.side, code));
        let reply = self.reply_flow(request, source);
        self.respond(reply, None, bytes);
    }

    pub(super) fn write_retry_after(&mut self, out: &mut Vec<u8>) {
        let seconds = RETRY_AFTER_MIN_S + self.ports.rng.next() % RETRY_AFTER_SPREAD_S;
        out.extend_from_slice(b"Retry-After: ");
        write_u32(seconds as u32, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Ends an exchange with an answer of our own, counted and told.
    pub(super) fn finish(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        code: u16,
        reason: &'static str,
        counter: Counter,
        now: Time,
    ) {
        if !exchange.server.is_open() {
            // A target that was given up has answered it.
            return self.abandon_client(id, exchange);
        }
        self.count(counter);
        let about = exchange.request.as_deref().map_or(Vec::new(), super::home::in_words);
        self.event(reason, Some(exchange.source.peer), &about);
        if exchange.method == Method::Invite && !exchange.in_dialog {
            self.count(Counter::CallsRejected);
        }
        self.finish_quietly(id, exchange, code, reason, now);
    }

    /// Ends an INVITE that was cancelled.
    pub(super) fn finish_cancelled(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        if exchange.server.is_open() {
            self.count(Counter::CallsCancelled);
        }
        self.finish_quietly(id, exchange, 487, "Request Terminated", now);
    }

    /// Ends an exchange with an answer of our own.
    fn finish_quietly(&mut self, id: TxnId, exchange: &mut Exchange, code: u16, reason: &'static str, now: Time) {
        self.abandon_client(id, exchange);
        let Some(request) = exchange.request.take().filter(|_| exchange.server.is_open()) else { return };
        let mut extra = Vec::new();
        // For a server it would mean this proxy, and cut it off from the phones moored here.
        if code == 503 && (exchange.onward != Onward::Hops || exchange.source.side == Side::Endpoint) {
            self.write_retry_after(&mut extra);
        }
        let mut bytes = self.ports.pool.take();
        let reply = Reply { code, reason, to_tag: &tag_of(exchange.key), extra: &extra };
        response::write(&request, exchange.source.peer, &reply, &mut bytes);
        exchange.request = Some(request);
        self.answer(id, exchange, code, bytes, now);
    }

    /// The requester has heard nothing for a while: 100 (RFC 3261 §17.2.1; RFC 4320 §4.1).
    pub(super) fn say_trying(&mut self, exchange: &mut Exchange) {
        if exchange.said_provisional || !exchange.server.is_open() {
            return;
        }
        let Some(request) = exchange.request.as_deref() else { return };
        let mut bytes = self.ports.pool.take();
        let reply = Reply { code: 100, reason: "Trying", to_tag: b"", extra: b"" };
        response::write(request, exchange.source.peer, &reply, &mut bytes);
        if let ServerTxn::Plain(machine) = &mut exchange.server {
            machine.on_provisional();
        }
        exchange.said_provisional = true;
        self.keep_last(exchange, &bytes);
        self.count(Counter::TimerTrying);
        self.put_upstream(exchange, 100, bytes);
    }

    /// OPTIONS to the proxy itself (DESIGN.md, What it does on the wire, 12). The SIP Server gets 200 while
    /// any flow is held, also when draining: a 503 would cut it off from the phones moored here.
    pub(super) fn answer_service_check(&mut self, request: &Message, source: &Source) {
        let key = self.key_of(request, key::method_of(request), source);
        // Other shards may hold flows too: in the few seconds of a drain they count as if they did.
        let holds_flows = self.location.holds_flows() || self.env.settings.shards > 1;
        let server_down = !self.server_answers(self.env.names.serving());
        let (up, ok, not) = match source.side {
            Side::Server => {
                (!self.draining || holds_flows, Counter::ServiceCheckServer200, Counter::ServiceCheckServer503)
            }
            Side::Endpoint => {
                (!self.draining && !server_down, Counter::ServiceCheckEndpoint200, Counter::ServiceCheckEndpoint503)
            }
        };
        if up {
            self.count(ok);
            let extra = b"Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REGISTER, SUBSCRIBE, NOTIFY, REFER, PRACK, \
                          UPDATE, INFO, MESSAGE, PUBLISH\r\nSupported: path, outbound\r\n";
            self.reply(request, source, 200, "OK", key, extra);
        } else {
            self.count(not);
            let mut extra = Vec::new();
            self.write_retry_after(&mut extra);
            self.reply(request, source, 503, "Service Unavailable", key, &extra);
        }
    }
}
