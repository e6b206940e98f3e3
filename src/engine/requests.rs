//! A request's arrival: its transaction, the checks, its target, and the response context that begins (RFC 3261 §16.2–§16.5).

use super::context::{Asked, Event, ResponseContext};
use super::{Engine, Source, context};
use crate::clock::Time;
use crate::flow::recognise::Asking;
use crate::ids::Side;
use crate::planted::{Plant, planted};
use crate::proxy::register::{RegisterFault, Registration};
use crate::proxy::{Refusal, RouteSet, Target, register, target, trust, validate};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::key;

/// A request that begins a transaction.
struct NewRequest {
    key: u128,
    loop_hash: u32,
    request: Box<Message>,
    routes: RouteSet,
}

impl Engine {
    /// A request has reached the shard that placement names.
    pub(super) fn on_request(&mut self, request: Box<Message>, source: Source, routes: &RouteSet, now: Time) {
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
            Method::Ack => return self.on_ack(request, source, routes, now),
            Method::Cancel => return self.on_cancel(request, &source, routes, now),
            _ => {}
        }
        let key = self.key_of(&request, key::method_of(&request), &source);
        if let Some(id) = self.contexts.with_key(key).filter(|_| !planted(Plant::RepetitionNotAbsorbed)) {
            self.on_context(id, Event::Repeated, now);
            return self.recycle_message(request);
        }
        self.count(Counter::request(source.side, method));
        if !self.admits(&request, &source, key, now) {
            return self.recycle_message(request);
        }
        if source.side == Side::Server && method != Method::Options {
            self.note_server_request(&request, source.peer);
        }
        let loop_hash = validate::loop_hash(&request, source.side, &self.env.keys);
        let target = target::target(&request, routes, source.side, &self.env.names, self.env.here);
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
            Ok(target) => self.begin(NewRequest { key, loop_hash, request, routes: *routes }, source, target, now),
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

    /// Begins the response context of a request that may go on.
    fn begin(&mut self, new: NewRequest, source: Source, target: Target, now: Time) {
        let NewRequest { key, loop_hash, request, routes } = new;
        let registration = match self.registration_of(&request, &source, &target) {
            Ok(registration) => registration.map(Box::new),
            Err(refusal) => {
                self.refuse(&request, &source, &refusal);
                return self.recycle_message(request);
            }
        };
        let id = match self.place_for_context() {
            Ok(id) => id,
            Err(limit) => {
                self.count(limit);
                let refusal = Refusal::unavailable("Too Many Transactions", Counter::Refused503Transactions);
                self.refuse(&request, &source, &refusal);
                return self.recycle_message(request);
            }
        };
        let method = request.method().unwrap_or(Method::Other);
        let in_dialog = !request.to_tag().is_empty();
        let is_invite = method == Method::Invite;
        let asked = Asked {
            key,
            lasting_key: if is_invite { self.lasting_key_of(&request, &source) } else { None },
            method,
            in_dialog,
            arrived: request.came().min(now),
            source: match method {
                // Its answer belongs to the connection that it came by: a phone that comes back to this one would
                // hear it over the other, which it has left.
                Method::Register => Source { binding: None, ..source },
                _ => source,
            },
            reply: self.reply_flow(&request, &source),
            stays: self.moved_from(source.flow, source.binding).is_some_and(|flow| !flow.is_same(source.flow)),
        };
        self.contexts.begin(id, &asked);
        if is_invite && !in_dialog {
            self.count(Counter::CallsBegun);
        }
        let (reliable, nonce) = (self.is_reliable(source.flow), self.ports.rng.next());
        let request = context::Request { message: request, routes, registration };
        let mut context = Box::new(ResponseContext::new(asked, request, loop_hash, nonce, reliable));
        self.turn(id, &mut context, Event::Begin(target), now);
        self.put_back(id, context);
    }

    /// The Contacts that a REGISTER asks to be bound.
    fn registration_of(
        &mut self,
        request: &Message,
        source: &Source,
        target: &Target,
    ) -> Result<Option<Registration>, Refusal> {
        if request.method() != Some(Method::Register) || !trust::may_bind(source, target) {
            return Ok(None);
        }
        let read = register::read(request, source, &self.env.names, &self.env.keys, |aor, user, asked| {
            let (flow, ip) = (source.flow, source.peer.ip());
            let asking = Asking { aor, user, call_id: request.call_id(), flow, ip };
            asking.names(asked, self.location.directory(), &self.env.keys)
        });
        read.map(Some).map_err(|fault| match fault {
            RegisterFault::To => Refusal::new(400, "Bad To", Counter::FaultToSyntax),
            RegisterFault::TooMany => {
                self.count(Counter::LimitContacts);
                Refusal::new(400, "Bad Contact", Counter::FaultContactSyntax)
            }
            _ => Refusal::new(400, "Bad Contact", Counter::FaultContactSyntax),
        })
    }
}
