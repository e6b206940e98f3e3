//! A request's way to its target: transaction, checks, target, flow (RFC 3261 §16.2–§16.5). `forwarding` sends it on.

use std::time::Duration;

use super::exchange::{Arrival, Cancelling, ClientTxn, Exchange, GivenUp, Onward, ServerTxn, Which, txn_of};
use super::home::Found;
use super::links::Hop;
use super::mail::Query;
use super::{ConnectFailure, Engine, Mail, Source, Whereabouts};
use crate::clock::Time;
use crate::flow::recognise::Asking;
use crate::ids::{FlowRef, Side};
use crate::limits::{FLOW_ATTEMPTS_MAX, HOME_ANSWER_MAX, INVITE_LOST_MAX, TRYING_AFTER};
use crate::proxy::register;
use crate::proxy::{Refusal, Target, Walk, target, trust, validate};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::key;

impl Engine {
    /// A request has reached the shard that placement names.
    pub(super) fn on_request(&mut self, request: Box<Message>, source: Source, walk: &Walk, now: Time) {
        let method = request.method().unwrap_or(Method::Other);
        if request.fault().is_some() {
            if method != Method::Ack {
                self.refuse_fault(&request, &source);
            } else {
                self.count(Counter::AckRefused);
            }
            return self.recycle_message(request);
        }
        match method {
            Method::Ack => return self.on_ack(request, source, walk, now),
            Method::Cancel => return self.on_cancel(request, &source, walk, now),
            _ => {}
        }
        let key = self.key_of(&request, key::method_of(&request), &source);
        if let Some(id) = self.by_key.get(&key).copied() {
            self.on_repetition(id, now);
            return self.recycle_message(request);
        }
        self.count(Counter::request(source.side, method));
        if source.side == Side::Server && method != Method::Options {
            self.note_server_request(&request, source.peer);
        }
        let loop_hash = validate::loop_hash(&request, source.side, &self.env.keys);
        let target = target::target(&request, walk, source.side, &self.env.names, self.env.here);
        let is_mine = matches!(target, Ok(Target::Myself));
        let checked = validate::validate(&request, is_mine, loop_hash, &self.env.names);
        match checked.and_then(|()| self.admit(&request)).and(target) {
            Err(refusal) => {
                self.refuse(&request, &source, &refusal);
                self.recycle_message(request);
            }
            Ok(Target::Myself) => {
                self.answer_service_check(&request, &source);
                self.recycle_message(request);
            }
            Ok(target) => self.begin(key, loop_hash, request, source, walk, target, now),
        }
    }

    /// While draining, only what belongs to a call that exists goes on, and the service check.
    fn admit(&self, request: &Message) -> Result<(), Refusal> {
        let is_check = request.method() == Some(Method::Options);
        if self.draining && request.to_tag().is_empty() && !is_check {
            return Err(Refusal::unavailable("Shutting Down", Counter::Refused503Draining));
        }
        Ok(())
    }

    fn on_repetition(&mut self, id: TxnId, now: Time) {
        self.count(Counter::AbsorbedRequest);
        let Some(mut exchange) = self.take_exchange(id) else { return };
        let effects = match &mut exchange.server {
            ServerTxn::Invite(machine) => machine.on_request(),
            ServerTxn::Plain(machine) => machine.on_request(),
        };
        if effects.resend.is_some() && !exchange.last.is_empty() {
            self.count(Counter::ResentResponse);
        }
        self.apply_server(id, &mut exchange, effects, now);
        self.put_back(id, exchange);
    }

    #[allow(clippy::too_many_arguments, reason = "everything that is known of a new request, used once")]
    fn begin(
        &mut self,
        key: u128,
        loop_hash: u32,
        request: Box<Message>,
        source: Source,
        walk: &Walk,
        target: Target,
        now: Time,
    ) {
        let registration = if request.method() == Some(Method::Register) && trust::may_bind(&source, &target) {
            match register::read(&request, &source, &self.env.names, &self.env.keys, |aor, user, asked| {
                let (flow, ip) = (source.flow, source.peer.ip());
                let asking = Asking { aor, user, call_id: request.call_id(), flow, ip };
                asking.names(asked, self.location.directory(), &self.env.keys)
            }) {
                Ok(registration) => Some(Box::new(registration)),
                Err(fault) => {
                    if fault == register::RegisterFault::TooMany {
                        self.count(Counter::LimitContacts);
                    }
                    let refusal = match fault {
                        register::RegisterFault::To => Refusal::new(400, "Bad To", Counter::FaultToSyntax),
                        _ => Refusal::new(400, "Bad Contact", Counter::FaultContactSyntax),
                    };
                    self.refuse(&request, &source, &refusal);
                    return self.recycle_message(request);
                }
            }
        } else {
            None
        };
        let id = match self.place_for_exchange() {
            Ok(id) => id,
            Err(limit) => {
                self.count(limit);
                let refusal = Refusal::unavailable("Too Many Transactions", Counter::Refused503Transactions);
                self.refuse(&request, &source, &refusal);
                return self.recycle_message(request);
            }
        };
        let reply = self.reply_flow(&request, &source);
        let reliable = self.is_reliable(source.flow);
        let nonce = self.ports.rng.next();
        let is_call = request.method() == Some(Method::Invite) && request.to_tag().is_empty();
        let arrival = Arrival { key, arrived: now, source, reply, request, loop_hash, nonce, reliable };
        let mut exchange = Box::new(Exchange::new(arrival));
        exchange.registration = registration;
        exchange.stays = self.moved_from(source.flow, source.binding).is_some_and(|flow| !flow.is_same(source.flow));
        self.by_key.insert(key, id);
        if exchange.method == Method::Invite
            && let Some(key) = exchange.request.as_deref().and_then(|invite| self.lasting_key_of(invite, &source))
        {
            exchange.lasting_key = Some(key);
            self.by_key.insert(key, id);
        }
        if is_call {
            self.count(Counter::CallsBegun);
        }
        let quiet = match exchange.method {
            Method::Invite => TRYING_AFTER,
            _ => self.env.times.timer_e_reaches_t2(),
        };
        self.arm(id, &mut exchange, Which::Trying, now.after(quiet));
        self.aim(id, &mut exchange, walk, target, now);
        self.put_back(id, exchange);
    }

    /// A place for a new exchange, or the bound that leaves none: on their number, or on the bytes that all of them hold,
    /// for messages can be much larger than the memory of so many allows.
    fn place_for_exchange(&mut self) -> Result<TxnId, Counter> {
        if self.exchanges_are_full() {
            return Err(Counter::LimitTransactionLen);
        }
        self.exchanges.insert(None).map(txn_of).ok_or(Counter::LimitTransactions)
    }

    /// Where responses to a request go: back over its connection; over UDP to its source when it asked for
    /// rport or an endpoint's Via names another host (NAT), else to the Via's port at the source's address
    /// (RFC 3261 §18.2.2).
    pub(super) fn reply_flow(&self, request: &Message, source: &Source) -> FlowRef {
        let FlowRef::Udp { shard, point, mut remote } = source.flow else { return source.flow };
        let via = request.top_via();
        if via.rport.is_none() && (source.side == Side::Server || via.host.matches_ip(remote.ip())) {
            remote.set_port(via.port.unwrap_or(5060));
        }
        FlowRef::Udp { shard, point, remote }
    }

    /// Turns a target into a flow, and sends the request there.
    pub(super) fn aim(&mut self, id: TxnId, exchange: &mut Exchange, walk: &Walk, target: Target, now: Time) {
        match target {
            Target::Myself => {}
            Target::Server { pair, at } => self.try_server_at(id, exchange, pair, at, Some(walk), now),
            Target::Peer { peer } => self.aim_at_peer(id, exchange, Some(walk), peer, now),
            Target::Uri(uri) => self.aim_at_uri(id, exchange, walk, uri, now),
            Target::Flow { flow, binding, ob } => {
                (exchange.binding, exchange.ob) = (binding, ob);
                match self.moved_from(flow, binding) {
                    Some(flow) => self.send_request(id, exchange, walk, flow, now),
                    None => self.resolve(id, exchange, Some(flow).filter(|flow| flow.is_stream()), now),
                }
            }
            Target::Binding { binding, ob } => {
                (exchange.binding, exchange.ob) = (Some(binding), ob);
                if target::alias_of(walk) != Some(binding) {
                    self.count(Counter::TokenOtherBoot);
                }
                self.resolve(id, exchange, None, now);
            }
            Target::Table => {
                let Some(request) = exchange.request.as_deref() else { return };
                match self.look_up(request, now) {
                    Found::Binding(binding) => {
                        exchange.binding = Some(binding);
                        self.resolve(id, exchange, None, now);
                    }
                    Found::Unclear => {
                        self.finish(id, exchange, 480, "Not Registered Here", Counter::Refused480NotBound, now);
                    }
                    Found::Nobody => match target::beyond_table(request, &self.env.names) {
                        Ok(target) => self.aim(id, exchange, walk, target, now),
                        Err(refusal) => self.finish_refused(id, exchange, refusal, now),
                    },
                }
            }
            Target::Address { transport, remote } => {
                self.aim_at(id, exchange, walk, Hop { transport, address: remote }, now);
            }
            Target::Gone { ob } => {
                exchange.ob = ob;
                self.finish_gone(id, exchange, now);
            }
        }
    }

    /// How long a request may wait for a phone whose flow is gone.
    fn patience_of(&self, exchange: &Exchange) -> Duration {
        let under_way = exchange.next.is_some();
        match (exchange.method, under_way, exchange.in_dialog) {
            (Method::Invite, true, _) => INVITE_LOST_MAX,
            (_, _, true) => self.env.settings.live.flow_grace,
            (_, _, false) => Duration::ZERO,
        }
    }

    /// Asks the binding's home where the phone is.
    fn resolve(&mut self, id: TxnId, exchange: &mut Exchange, not: Option<FlowRef>, now: Time) {
        exchange.attempts = exchange.attempts.saturating_add(1);
        if exchange.attempts > FLOW_ATTEMPTS_MAX {
            self.count(Counter::LimitFlowAttempts);
            return self.finish_gone(id, exchange, now);
        }
        let Some(binding) = exchange.binding else {
            return match exchange.client {
                ClientTxn::Waiting if exchange.onward == Onward::Flow => self.aim_beyond(id, exchange, not, now),
                _ => self.finish_gone(id, exchange, now),
            };
        };
        // Nobody has to be waited for while there is another way.
        let another = |flow: &FlowRef| not.is_none_or(|gone| !gone.is_same(*flow));
        let wait = match self.still_there(exchange).filter(another) {
            Some(_) => Duration::ZERO,
            None => self.patience_of(exchange),
        };
        exchange.resolving = true;
        self.arm(id, exchange, Which::Wait, now.after(wait + HOME_ANSWER_MAX));
        let home = binding.home(self.env.settings.shards);
        let mail = Mail::Ask { txn: id, query: Query::Binding(Whereabouts { binding, not, wait }) };
        self.mail(home, mail);
    }

    /// The home has answered.
    pub(super) fn on_resolved(&mut self, id: TxnId, flow: Option<FlowRef>, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.resolving {
            exchange.resolving = false;
            self.stop(&mut exchange, Which::Wait);
            match (flow, exchange.next) {
                (Some(flow), None) => self.send_after_wait(id, &mut exchange, None, flow, now),
                (Some(flow), Some(_)) => self.follow_to(id, &mut exchange, flow, now),
                (None, _) => self.on_binding_gone(id, &mut exchange, now),
            }
        }
        self.put_back(id, exchange);
    }

    /// A request that is under way over UDP is due again, and its binding has left that address or is over.
    pub(super) fn on_registration_over(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        if !exchange.resolving {
            self.resolve(id, exchange, None, now);
        }
    }

    /// Its binding has no flow any more. A dialog goes on over the flow that it names, as long as that is there, and what
    /// is under way over UDP stays where it is: neither the end of a registration nor a connection that came and went ends
    /// a call.
    fn on_binding_gone(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let still = self.still_there(exchange);
        // From here on nothing is asked about the binding, and so nothing comes back here.
        exchange.binding = None;
        match (still, exchange.next) {
            (None, _) => self.finish_gone(id, exchange, now),
            (Some(flow), None) => self.send_after_wait(id, exchange, None, flow, now),
            (Some(flow), Some(_)) => self.follow_to(id, exchange, flow, now),
        }
    }

    /// The flow that a request can go by though its binding has none.
    fn still_there(&self, exchange: &Exchange) -> Option<FlowRef> {
        exchange.next.filter(|next| !next.is_stream()).or_else(|| self.flow_named(exchange))
    }

    /// The flow that a request of a dialog names by its token, unless that is known to be gone.
    fn flow_named(&self, exchange: &Exchange) -> Option<FlowRef> {
        exchange.binding.filter(|_| exchange.in_dialog)?;
        let request = exchange.request.as_deref()?;
        let walk = crate::proxy::route::walk(request, &exchange.source, &self.env.names, &self.env.keys);
        match target::target(request, &walk, exchange.source.side, &self.env.names, self.env.here) {
            Ok(Target::Flow { flow, .. }) => {
                Some(flow).filter(|flow| self.location.is_open_to(*flow, exchange.binding, &self.env))
            }
            _ => None,
        }
    }

    /// Sends a request that has waited, or is sent anew, on a flow.
    pub(super) fn send_after_wait(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        walk: Option<&Walk>,
        flow: FlowRef,
        now: Time,
    ) {
        if let Some(walk) = walk {
            return self.send_request(id, exchange, walk, flow, now);
        }
        // The machine that is made anew may have no need of it.
        self.stop(exchange, Which::ClientRetransmit);
        let Some(request) = exchange.request.as_deref() else { return };
        let walk = crate::proxy::route::walk(request, &exchange.source, &self.env.names, &self.env.keys);
        self.send_request(id, exchange, &walk, flow, now);
    }

    /// A request that is under way goes on over the flow that took the place of a lost one: sent again, under
    /// its branch, when nothing was heard of it; the phone may know it already.
    pub(super) fn follow_to(&mut self, id: TxnId, exchange: &mut Exchange, flow: FlowRef, now: Time) {
        let former = exchange.next;
        self.unwatch(id, exchange);
        exchange.next = Some(flow);
        if !exchange.client.is_pending() {
            return;
        }
        if exchange.client.is_unanswered() && former.is_none_or(|former| former.point() != flow.point()) {
            // Another transport or address of ours: the Via, and the timers, have to say so.
            return self.send_after_wait(id, exchange, None, flow, now);
        }
        self.watch(id, flow);
        if let Cancelling::Sent { bytes, .. } = &exchange.cancelling {
            // It went where the phone is no longer.
            let bytes = self.ports.pool.copy(bytes);
            self.send_next(id, exchange, bytes, false, now);
        }
        if exchange.client.is_unanswered() {
            self.count(Counter::ResentRequest);
            let bytes = self.ports.pool.copy(&exchange.sent);
            if self.send_on(flow, exchange.binding, bytes, Some(id)).is_err() {
                self.unwatch(id, exchange);
                self.on_next_lost(id, exchange, None, now);
            }
        }
    }

    /// The flow that a request was sent on is gone before its final response.
    pub(super) fn on_next_lost(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        failure: Option<ConnectFailure>,
        now: Time,
    ) {
        if !exchange.client.is_pending() || exchange.resolving {
            return;
        }
        if exchange.onward != Onward::Flow {
            return self.on_target_lost(id, exchange, failure, now);
        }
        self.resolve(id, exchange, exchange.next, now);
    }

    /// The request could not be sent on the flow that it was meant for: nobody has it yet, so that it waits no
    /// longer than one whose flow was known to be gone. `not` is the flow, when that is gone.
    pub(super) fn on_unsent(&mut self, id: TxnId, exchange: &mut Exchange, not: Option<FlowRef>, now: Time) {
        let is_phones = exchange.onward == Onward::Flow;
        if !is_phones || exchange.resolving || !exchange.client.is_unanswered() || exchange.attempts > 0 {
            return self.on_next_lost(id, exchange, None, now);
        }
        if exchange.given_up != GivenUp::No {
            return self.finish_cancelled(id, exchange, now);
        }
        exchange.next = None;
        self.stop_client(exchange);
        exchange.client = ClientTxn::Waiting;
        self.resolve(id, exchange, not, now);
    }

    /// Another shard has no room for what it should send: it says nothing about the phone.
    pub(super) fn on_unposted(&mut self, id: TxnId, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.client.is_unanswered() || exchange.resolving {
            self.finish(id, &mut exchange, 503, "Overloaded", Counter::Refused503Mailbox, now);
        }
        self.put_back(id, exchange);
    }

    /// Another shard could not send on its flow, or knows that the binding has left it.
    pub(super) fn on_failed(&mut self, id: TxnId, flow: FlowRef, left: bool, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.next.is_some_and(|next| next.is_same(flow)) {
            self.unwatch(id, &mut exchange);
            if left && exchange.client.is_pending() && !exchange.resolving {
                self.resolve(id, &mut exchange, None, now);
            } else {
                self.on_unsent(id, &mut exchange, Some(flow), now);
            }
        }
        self.put_back(id, exchange);
    }

    pub(super) fn finish_unreachable_server(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        self.finish(id, exchange, 503, "SIP Server Unreachable", Counter::Refused503ServerConnect, now);
    }

    pub(super) fn finish_refused(&mut self, id: TxnId, exchange: &mut Exchange, refusal: Refusal, now: Time) {
        self.finish(id, exchange, refusal.code, refusal.reason, refusal.counter, now);
    }

    /// 430 when the registrar may try the phone's other flow (RFC 5626 §5.3.1), else 480.
    pub(super) fn finish_gone(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let lost = exchange.next.is_some();
        let (code, reason, counter) = match (exchange.ob && !exchange.in_dialog, lost, exchange.in_dialog) {
            (true, false, _) => (430, "Flow Failed", Counter::Refused430FlowGone),
            (true, true, _) => (430, "Flow Failed", Counter::Refused430FlowLost),
            (false, true, _) => (480, "Phone Lost", Counter::Refused480FlowLost),
            (false, false, true) => (480, "Phone Not Back", Counter::Refused480Grace),
            (false, false, false) => (480, "Phone Not Connected", Counter::Refused480FlowGone),
        };
        self.finish(id, exchange, code, reason, counter, now);
    }

    /// A message has done its work.
    pub(super) fn recycle_message(&mut self, message: Box<Message>) {
        self.ports.pool.give(message.into_buf());
    }
}
