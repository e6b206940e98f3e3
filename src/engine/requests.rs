//! A request's way: transaction, checks, target, flow, and out (RFC 3261 §16.2–§16.6).

use std::time::Duration;

use super::exchange::{Arrival, Cancelling, ClientTxn, Exchange, GivenUp, Onward, ServerTxn, Which, slot_of, txn_of};
use super::home::{Found, in_words};
use super::links::Hop;
use super::{ConnectFailure, Engine, Mail, Source, UdpOversize, placement};
use crate::clock::Time;
use crate::flow::keys::Tag;
use crate::flow::token::{Facing, Kind, Token};
use crate::ids::{BindingId, FlowRef, PointId, ShardId, Side};
use crate::limits::{FLOW_ATTEMPTS_MAX, HOME_ANSWER_MAX, INVITE_LOST_MAX, TRYING_AFTER, UDP_REQUEST_LEN_MAX};
use crate::proxy::record_route::{self, Facet};
use crate::proxy::register::{self, Way};
use crate::proxy::{Refusal, Target, Walk, forward, target, validate};
use crate::sip::{Message, Method, Name};
use crate::stats::Counter;
use crate::tls::identity::Expected;
use crate::transaction::branch::TxnId;
use crate::transaction::{Branch, InviteClient, PlainClient, key};

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
        let loop_hash = validate::loop_hash(&request, source.side, &self.keys);
        let target = validate::validate(&request, loop_hash, &self.names)
            .and_then(|()| self.admit(&request))
            .and_then(|()| target::target(&request, walk, source.side, &self.names, self.here));
        match target {
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
        let registration = if request.method() == Some(Method::Register) && source.side == Side::Endpoint {
            match register::read(&request, &self.keys) {
                Ok(registration) => Some(Box::new(registration)),
                Err(fault) => {
                    if fault == register::RegisterFault::TooMany {
                        self.count(Counter::LimitContacts);
                    }
                    let refusal = Refusal::new(400, "Bad Contact", Counter::FaultContactSyntax);
                    self.refuse(&request, &source, &refusal);
                    return self.recycle_message(request);
                }
            }
        } else {
            None
        };
        let Some(slot) = self.exchanges.insert(None) else {
            self.count(Counter::LimitTransactions);
            let refusal = Refusal::unavailable("Too Many Transactions", Counter::Refused503Transactions);
            self.refuse(&request, &source, &refusal);
            return self.recycle_message(request);
        };
        let id = txn_of(slot);
        let reply = self.reply_flow(&request, &source);
        let reliable = self.is_reliable(source.flow);
        let nonce = self.rng.next();
        let is_call = request.method() == Some(Method::Invite) && request.to_tag().is_empty();
        let arrival = Arrival { key, arrived: now, source, reply, request, loop_hash, nonce, reliable };
        let mut exchange = Box::new(Exchange::new(arrival));
        exchange.registration = registration;
        exchange.stays = self.moved_from(source.flow, source.binding).is_some_and(|flow| flow != source.flow);
        self.by_key.insert(key, id);
        if exchange.method == Method::Invite
            && let Some(key) = exchange.request.as_deref().and_then(|invite| self.phone_key_of(invite, &source))
        {
            exchange.phone_key = Some(key);
            self.by_key.insert(key, id);
        }
        if is_call {
            self.count(Counter::CallsBegun);
        }
        let quiet = match exchange.method {
            Method::Invite => TRYING_AFTER,
            _ => self.times.timer_e_reaches_t2(),
        };
        self.arm(id, &mut exchange, Which::Trying, now.after(quiet));
        self.aim(id, &mut exchange, walk, target, now);
        self.put_back(id, exchange);
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
            Target::Server { pair } => self.try_server(id, exchange, pair, Some(walk), now),
            Target::Peer { peer } => self.aim_at_peer(id, exchange, Some(walk), peer, now),
            Target::Uri(uri) => self.aim_at_uri(id, exchange, walk, uri, now),
            Target::Flow { flow, binding, ob } => {
                (exchange.binding, exchange.ob) = (binding, ob);
                match self.moved_from(flow, binding) {
                    Some(flow) => self.send_request(id, exchange, walk, flow, now),
                    None => self.resolve(id, exchange, Some(flow).filter(|_| is_stream(flow)), now),
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
                match self.look_up(request) {
                    Found::Binding(binding) => {
                        exchange.binding = Some(binding);
                        self.resolve(id, exchange, None, now);
                    }
                    Found::Unclear => {
                        self.finish(id, exchange, 480, "Not Registered Here", Counter::Refused480NotBound, now);
                    }
                    Found::Nobody => match target::beyond_table(request, &self.names) {
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
            (_, _, true) => self.settings.flow_grace,
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
        let wait = self.patience_of(exchange);
        exchange.resolving = true;
        self.arm(id, exchange, Which::Wait, now.after(wait + HOME_ANSWER_MAX));
        let home = binding.home(self.settings.shards);
        let mail = Mail::Resolve { txn: id, binding, not, wait };
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
                (None, _) => self.finish_gone(id, &mut exchange, now),
            }
        }
        self.put_back(id, exchange);
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
        let walk = crate::proxy::route::walk(request, exchange.source.side, &self.names, &self.keys);
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
        if exchange.client.is_unanswered() {
            self.count(Counter::ResentRequest);
            let bytes = self.pool.copy(&exchange.sent);
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
    /// longer than one whose flow was known to be gone.
    fn on_unsent(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let is_phones = exchange.onward == Onward::Flow;
        if !is_phones || exchange.resolving || !exchange.client.is_unanswered() || exchange.attempts > 0 {
            return self.on_next_lost(id, exchange, None, now);
        }
        if exchange.given_up != GivenUp::No {
            return self.finish_cancelled(id, exchange, now);
        }
        let not = exchange.next.take();
        for which in [Which::ClientRetransmit, Which::ClientDeadline, Which::Patience] {
            self.stop(exchange, which);
        }
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

    /// Another shard could not send on its connection.
    pub(super) fn on_failed(&mut self, from: ShardId, id: TxnId, conn: crate::ids::ConnId, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        let is_current = matches!(exchange.next, Some(FlowRef::Stream { shard, conn: next, .. })
            if (shard, next) == (from, conn));
        if is_current {
            self.unwatch(id, &mut exchange);
            self.on_unsent(id, &mut exchange, now);
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

    /// Builds the request and sends it on a flow: RFC 3261 §16.6.
    pub(super) fn send_request(&mut self, id: TxnId, exchange: &mut Exchange, walk: &Walk, flow: FlowRef, now: Time) {
        let Some(request) = exchange.request.take() else { return };
        let source = exchange.source;
        let point_id = flow.point();
        let to_side = exchange.side_onward();
        let branch = Branch { shard: self.me(), txn: id, nonce: exchange.nonce, loop_hash: exchange.loop_hash };

        let mut contact = std::mem::take(&mut self.scratch);
        contact.clear();
        // An endpoint that has got hold of an alias must not learn whose Contact it stands for.
        let alias = target::alias_of(walk).filter(|_| source.side == Side::Server);
        let has_contact = alias.is_some_and(|alias| self.write_own_contact(alias, &mut contact));

        let mut edits = std::mem::take(&mut self.edits);
        edits.clear();
        let point = self.settings.point(point_id);
        let plan = forward::Plan {
            peer: source.peer,
            side: source.side,
            trusted: source.is_trusted(),
            walk,
            point,
            branch,
            request_uri: has_contact.then_some(contact.as_slice()),
        };
        forward::edit(&request, &plan, &mut edits);

        // Of two endpoints that talk past the server, the route set stands already.
        let endpoint_flow = match (source.side, to_side) {
            (Side::Endpoint, Side::Server) => Some((source.flow, source.binding)),
            (Side::Server, Side::Endpoint) => Some((flow, exchange.binding)),
            _ => None,
        };
        if let Some((endpoint, binding)) = endpoint_flow.filter(|_| record_route::wanted(exchange.method)) {
            let token = self.token(Kind::RecordRoute, false, endpoint, binding);
            let came_id = source.flow.point();
            let came = Facet { side: source.side, id: came_id, point: self.settings.point(came_id) };
            let leaves = Facet { side: to_side, id: point_id, point };
            let at =
                request.first(Name::RecordRoute).map_or_else(|| request.head_end(), |field| field.line.start as usize);
            let keys = &self.keys;
            edits.insert_with(at, |out| record_route::write(&request, token, came, leaves, keys, out));
        }
        let mut says_path = false;
        if let Some(registration) = &exchange.registration {
            let first = registration.lasting_contact();
            // Only the first hop may say that it holds the phone's flow (RFC 5626 §5.1).
            let is_first_hop = request.count_values(Name::Via) == 1;
            let ob = is_first_hop && first.is_some_and(|contact| contact.reg_id.is_some());
            let way = Way {
                sticky: self.settings.sticky,
                add_supported: self.settings.path_add_supported,
                token: self.token(Kind::Path, ob, source.flow, first.map(|contact| contact.id)),
                server_point: point,
            };
            says_path = register::says_path_for_it(&request, way.sticky, way.add_supported);
            register::edit_request(&request, registration, way, &self.keys, &mut edits);
        }
        exchange.sent.clear();
        if exchange.sent.capacity() == 0 {
            exchange.sent = self.pool.take();
        }
        edits.apply(request.buf(), &mut exchange.sent);
        self.edits = edits;
        self.scratch = contact;
        if says_path {
            self.count(Counter::PathSupportAdded);
        }
        if strips_genesys(&request, source.is_trusted()) {
            self.count(match source.side {
                Side::Server => Counter::XGenesysStrippedServer,
                Side::Endpoint => Counter::XGenesysStrippedEndpoint,
            });
        }
        exchange.request = Some(request);

        let reliable = self.is_reliable(flow);
        if !reliable && exchange.sent.len() > UDP_REQUEST_LEN_MAX {
            if self.settings.udp_oversize == UdpOversize::Reject {
                self.count(Counter::OversizeReject);
                return self.finish(id, exchange, 513, "Message Too Large", Counter::Refused513Oversize, now);
            }
            if self.settings.udp_oversize == UdpOversize::Tcp
                && let Some(hop) = exchange.hop
                && let Some(flow) = self.large_flow(to_side, hop.address, now)
            {
                self.count(Counter::OversizeTcp);
                return self.send_request(id, exchange, walk, flow, now);
            }
            self.count(Counter::OversizeUdp);
        }
        let (client, effects) = match exchange.method {
            Method::Invite => {
                let (machine, effects) = InviteClient::start(reliable, self.times);
                (ClientTxn::Invite(machine), effects)
            }
            _ => {
                let (machine, effects) = PlainClient::start(reliable, self.times);
                (ClientTxn::Plain(machine), effects)
            }
        };
        exchange.client = client;
        exchange.next = Some(flow);
        if exchange.method == Method::Invite && exchange.given_up == GivenUp::No {
            self.arm(id, exchange, Which::Patience, now.after(self.settings.timer_c));
        }
        if exchange.onward == Onward::Flow {
            self.count(match flow.shard() == self.me() {
                true => Counter::DeliveredLocal,
                false => Counter::DeliveredAcross,
            });
        }
        self.apply_client(id, exchange, effects, now);
        self.watch(id, flow);
        let bytes = self.pool.copy(&exchange.sent);
        if self.send_on(flow, exchange.binding, bytes, Some(id)).is_err() {
            self.unwatch(id, exchange);
            self.on_unsent(id, exchange, now);
        }
    }

    /// A token that names a flow of this start.
    fn token(&self, kind: Kind, ob: bool, flow: FlowRef, binding: Option<BindingId>) -> Token {
        Token {
            member: self.settings.member,
            boot: self.settings.boot,
            kind,
            facing: if kind == Kind::Path { Facing::Server } else { Facing::Both },
            ob,
            flow: Some(flow),
            binding,
        }
    }

    // --- CANCEL ------------------------------------------------------------------------------------------

    fn on_cancel(&mut self, cancel: Box<Message>, source: &Source, walk: &Walk, now: Time) {
        let Some((id, key)) = self.invite_of(&cancel, source) else {
            if let Some(shard) = self.next_to_ask(source) {
                return self.place(shard, cancel, *source);
            }
            self.count(Counter::request(source.side, Method::Cancel));
            let refusal = if walk.malformed {
                Refusal::new(400, "Bad Route", Counter::FaultRouteSyntax)
            } else {
                Refusal::new(481, "Call/Transaction Does Not Exist", Counter::Refused481Cancel)
            };
            self.refuse(&cancel, source, &refusal);
            return self.recycle_message(cancel);
        };
        self.count(Counter::request(source.side, Method::Cancel));
        // Our tag is made of the INVITE's key, so that repetitions, and the 487, carry the same.
        self.reply(&cancel, source, 200, "OK", key, b"");
        if let Some(mut exchange) = self.take_exchange(id) {
            if exchange.method == Method::Invite && exchange.server.is_open() {
                let is_first = exchange.given_up == GivenUp::No;
                for field in cancel.fields().iter().filter(|_| is_first) {
                    let line = cancel.text(field.line);
                    if cancel.text(field.name_span).eq_ignore_ascii_case(b"Reason")
                        && exchange.cancel_reason.len() + line.len() <= REASONS_LEN_MAX
                    {
                        exchange.cancel_reason.extend_from_slice(line);
                    }
                }
                self.cancel(id, &mut exchange, GivenUp::Caller, now);
            }
            self.put_back(id, exchange);
        }
        self.recycle_message(cancel);
    }

    /// The exchange of the INVITE that a CANCEL or an ACK is for, and its key: by the connection that it came over, or
    /// by the phone, which may have changed its connection meanwhile.
    fn invite_of(&self, request: &Message, source: &Source) -> Option<(TxnId, u128)> {
        let key = self.key_of(request, b"INVITE", source);
        if let Some(id) = self.by_key.get(&key) {
            return Some((*id, key));
        }
        let id = *self.by_key.get(&self.phone_key_of(request, source)?)?;
        let exchange = self.exchanges.get(slot_of(id))?.as_deref()?;
        Some((id, exchange.key))
    }

    /// The shard that may hold what a phone's CANCEL is for, when this one does not: an INVITE stays where it landed,
    /// and the phone's next connection may be another shard's. Each is asked once, from the one where the CANCEL landed.
    fn next_to_ask(&self, source: &Source) -> Option<ShardId> {
        placement::phone_of(source)?;
        let next = ShardId((self.me().0 + 1) % self.settings.shards);
        Some(next).filter(|next| *next != source.flow.shard())
    }

    /// Ends an INVITE that was sent on, as RFC 3261 §9.1 asks: at once when something was heard of it, else
    /// with its first provisional response.
    pub(super) fn cancel(&mut self, id: TxnId, exchange: &mut Exchange, by: GivenUp, now: Time) {
        if exchange.given_up != GivenUp::No {
            return;
        }
        exchange.given_up = by;
        if matches!(exchange.client, ClientTxn::Waiting) {
            return self.finish_cancelled(id, exchange, now);
        }
        if !exchange.client.is_pending() {
            return;
        }
        exchange.cancelling = Cancelling::Wanted;
        self.arm(id, exchange, Which::Patience, now.after(self.times.lifetime()));
        if !exchange.client.is_unanswered() {
            self.send_cancel(id, exchange, now);
        }
    }

    pub(super) fn send_cancel(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let mut bytes = self.pool.take();
        if crate::sip::response::build_cancel(&exchange.sent, &mut bytes).is_err() {
            // What we sent was parsed once; it cannot fail. Without a CANCEL the call rings on to timer C.
            return self.pool.give(bytes);
        }
        if !exchange.cancel_reason.is_empty() && bytes.ends_with(b"\r\n\r\n") {
            bytes.truncate(bytes.len() - 2);
            bytes.extend_from_slice(&exchange.cancel_reason);
            bytes.extend_from_slice(b"\r\n");
        }
        let reliable = exchange.next.is_none_or(|flow| self.is_reliable(flow));
        let (machine, effects) = PlainClient::start(reliable, self.times);
        let copy = self.pool.copy(&bytes);
        exchange.cancelling = Cancelling::Sent { machine, bytes };
        self.apply_cancel(id, exchange, effects, now);
        self.send_next(id, exchange, copy, now);
    }

    // --- ACK ---------------------------------------------------------------------------------------------

    fn on_ack(&mut self, ack: Box<Message>, source: Source, walk: &Walk, now: Time) {
        let invite = self.invite_of(&ack, &source);
        let key = invite.map_or_else(|| self.key_of(&ack, b"INVITE", &source), |(_, key)| key);
        if let Some((id, _)) = invite
            && let Some(mut exchange) = self.take_exchange(id)
        {
            let absorbed = match &mut exchange.server {
                ServerTxn::Invite(machine) if !machine.is_accepted() => Some(machine.on_ack(self.times)),
                _ => None,
            };
            if let Some(effects) = absorbed {
                self.apply_server(id, &mut exchange, effects, now);
                self.put_back(id, exchange);
                return self.recycle_message(ack);
            }
            self.put_back(id, exchange);
        }
        self.count(Counter::request(source.side, Method::Ack));
        // An ACK to an error that we made without a transaction ends here.
        if ack.to_tag() == super::replies::tag_of(key) {
            self.count(Counter::AbsorbedAck);
            return self.recycle_message(ack);
        }
        self.forward_ack(ack, source, walk, key, now);
    }

    /// An ACK to a 2xx is its own transaction, forwarded without state (RFC 3261 §16.11).
    fn forward_ack(&mut self, ack: Box<Message>, source: Source, walk: &Walk, key: u128, now: Time) {
        let loop_hash = validate::loop_hash(&ack, source.side, &self.keys);
        let target = validate::validate(&ack, loop_hash, &self.names)
            .and_then(|()| target::target(&ack, walk, source.side, &self.names, self.here));
        let way = match target {
            Err(_) | Ok(Target::Myself | Target::Gone { .. }) => {
                self.count(Counter::AckRefused);
                self.event("ACK dropped: it may go nowhere", Some(source.peer), &in_words(&ack));
                return self.recycle_message(ack);
            }
            Ok(Target::Flow { flow, binding, .. }) => match (self.moved_from(flow, binding), binding) {
                (Some(flow), binding) => AckWay::Flow { flow, binding },
                (None, Some(binding)) => AckWay::Home { binding, not: Some(flow).filter(|flow| is_stream(*flow)) },
                (None, None) => self.ack_beyond_lost(&ack, &source, Some(flow), now),
            },
            Ok(Target::Binding { binding, .. }) => AckWay::Home { binding, not: None },
            Ok(Target::Table) => match self.look_up(&ack) {
                Found::Binding(binding) => AckWay::Home { binding, not: None },
                Found::Unclear => AckWay::Nowhere,
                Found::Nobody => match target::beyond_table(&ack, &self.names) {
                    Ok(target) => self.ack_to(&ack, target, now),
                    Err(_) => AckWay::Nowhere,
                },
            },
            Ok(Target::Address { transport, remote }) => match self.flow_at(transport, remote) {
                Some((flow, binding)) => AckWay::Flow { flow, binding },
                None => AckWay::Nowhere,
            },
            Ok(target) => self.ack_to(&ack, target, now),
        };
        match way {
            AckWay::Flow { flow, binding } => self.send_ack(ack, &source, walk, flow, binding, key, loop_hash),
            AckWay::Home { binding, not } => {
                let home = binding.home(self.settings.shards);
                self.mail(home, Mail::Ack { message: ack, source, binding, not });
            }
            AckWay::Device { hop, host, port } => {
                if let Some(point) = self.settings.point_for(hop.transport, Side::Endpoint, hop.address.ip()) {
                    let bytes = self.ack_bytes(&ack, &source, walk, point, key, loop_hash);
                    self.send_to_device(hop, &host, port, bytes, now);
                }
                self.recycle_message(ack);
            }
            AckWay::Nowhere => {
                self.count(Counter::AckFlowGone);
                self.event("ACK dropped: nobody to send it to", Some(source.peer), &in_words(&ack));
                self.recycle_message(ack);
            }
        }
    }

    /// The home knows the flow of an ACK's phone.
    pub(super) fn forward_ack_on(
        &mut self,
        ack: Box<Message>,
        source: &Source,
        flow: FlowRef,
        binding: Option<BindingId>,
    ) {
        let walk = crate::proxy::route::walk(&ack, source.side, &self.names, &self.keys);
        let key = self.key_of(&ack, b"INVITE", source);
        let loop_hash = validate::loop_hash(&ack, source.side, &self.keys);
        self.send_ack(ack, source, &walk, flow, binding, key, loop_hash);
    }

    #[allow(clippy::too_many_arguments, reason = "everything that is known of an ACK, used once")]
    fn send_ack(
        &mut self,
        ack: Box<Message>,
        source: &Source,
        walk: &Walk,
        flow: FlowRef,
        binding: Option<BindingId>,
        key: u128,
        loop_hash: u32,
    ) {
        let bytes = self.ack_bytes(&ack, source, walk, flow.point(), key, loop_hash);
        if let Err(bytes) = self.send_on(flow, binding, bytes, None) {
            self.deliver(binding, Some(flow), bytes);
        }
        self.recycle_message(ack);
    }

    fn ack_bytes(
        &mut self,
        ack: &Message,
        source: &Source,
        walk: &Walk,
        point: PointId,
        key: u128,
        loop_hash: u32,
    ) -> Vec<u8> {
        // The same for a repetition, as a stateless proxy must make it (RFC 3261 §16.11).
        let nonce = self.keys.hash64(Tag::Branch, &[&key.to_be_bytes()]);
        let branch = Branch { shard: self.me(), txn: TxnId::NONE, nonce, loop_hash };
        let mut edits = std::mem::take(&mut self.edits);
        edits.clear();
        let point = self.settings.point(point);
        let plan = forward::Plan {
            peer: source.peer,
            side: source.side,
            trusted: source.is_trusted(),
            walk,
            point,
            branch,
            request_uri: None,
        };
        forward::edit(ack, &plan, &mut edits);
        let mut bytes = self.pool.take();
        edits.apply(ack.buf(), &mut bytes);
        self.edits = edits;
        bytes
    }

    /// A message has done its work.
    pub(super) fn recycle_message(&mut self, message: Box<Message>) {
        self.pool.give(message.into_buf());
    }
}

/// Where an ACK to a 2xx goes.
pub(super) enum AckWay {
    /// Over a flow.
    Flow {
        flow: FlowRef,
        binding: Option<BindingId>,
    },
    /// To a phone, as its home knows it.
    Home {
        binding: BindingId,
        not: Option<FlowRef>,
    },
    /// To a device, by its shard.
    Device {
        hop: Hop,
        host: Expected,
        port: u16,
    },
    Nowhere,
}

impl AckWay {
    /// Over a flow that no binding has.
    pub(super) fn to(flow: FlowRef) -> Self {
        Self::Flow { flow, binding: None }
    }
}

/// `Reason` fields that are carried from one CANCEL to the next (RFC 3326).
const REASONS_LEN_MAX: usize = 1_024;

fn is_stream(flow: FlowRef) -> bool {
    matches!(flow, FlowRef::Stream { .. })
}

fn strips_genesys(request: &Message, trusted: bool) -> bool {
    request.first(Name::XGenesysRoute).is_some() || (!trusted && request.first(Name::XGenesys).is_some())
}
