//! Answers of our own without a transaction: errors and the service check (RFC 3261 §8.2, §16.3, §11).

use super::context::tag_of;
use super::words::in_words;
use super::{Engine, Level, Source};
use crate::abuse::Failure;
use crate::ids::{FlowRef, Side};
use crate::limits::STRANGER_ANSWER_FACTOR_MAX;
use crate::proxy::Refusal;
use crate::sip::response::Reply;
use crate::sip::{Message, Name, response};
use crate::stats::Counter;
use crate::transaction::key;

impl Engine {
    /// Answers a malformed request, without a transaction.
    pub(super) fn refuse_fault(&mut self, request: &Message, source: &Source) {
        let Some(fault) = request.fault() else { return };
        let (code, reason) = response::fault_reply(fault);
        let refusal = Refusal::new(code, reason, Counter::fault(fault));
        self.note_failed_request(source, Failure::Garbage);
        self.refuse(request, source, &refusal);
    }

    /// Answers a request without a transaction: a repetition gets the same answer again.
    pub(super) fn refuse(&mut self, request: &Message, source: &Source, refusal: &Refusal) {
        self.refuse_saying(request, source, refusal, b"");
    }

    /// The same, with more words for the operator.
    pub(super) fn refuse_saying(&mut self, request: &Message, source: &Source, refusal: &Refusal, more: &[u8]) {
        self.ports.counters.count_with_bound(refusal.counter);
        let about = [&in_words(request), more].concat();
        self.ports.tell_why(Level::Warn, "request refused", refusal.reason, Some(source.peer), &about);
        if refusal.code == 403 {
            self.note_failed_request(source, Failure::Refused);
        }
        let mut extra = Vec::new();
        if refusal.unsupported {
            for field in request.fields().iter().filter(|field| field.name == Name::ProxyRequire) {
                extra.extend_from_slice(b"Unsupported: ");
                extra.extend_from_slice(request.text(field.value));
                extra.extend_from_slice(b"\r\n");
            }
        }
        if refusal.retry_after {
            self.ports.write_retry_after(&mut extra);
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
        if source.is_stranger(&self.env.settings) && bytes.len() > len_max {
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
            self.ports.write_retry_after(&mut extra);
            self.reply(request, source, 503, "Service Unavailable", key, &extra);
        }
    }

    /// Where responses to a request go: back over its connection; over UDP to its source when it asked for
    /// rport or an endpoint's Via names another host (NAT), else to the Via's port at the source's address
    /// (RFC 3261 §18.2.2). Behind a load balancer another port is another phone's.
    pub(super) fn reply_flow(&self, request: &Message, source: &Source) -> FlowRef {
        let FlowRef::Udp { shard, point, mut remote } = source.flow else { return source.flow };
        let via = request.top_via();
        if source.is_forwarded {
            return source.flow;
        }
        if via.rport.is_none() && (source.side == Side::Server || via.host.matches_ip(remote.ip())) {
            remote.set_port(via.port.unwrap_or(5060));
        }
        FlowRef::Udp { shard, point, remote }
    }
}
