//! The response contexts of a shard: what happens to them, and how what one wants is carried out by the
//! other parts. Where a request goes is found in `seek`.

use std::net::SocketAddr;

use super::connections::Element;
use super::context::{
    Action, Actions, Answer, Asked, ContactOf, Event, ResponseContext, Saw, Seeking, Slot, Turn, TxnTimer, Which, Why,
    response, waiter_of,
};
use super::mail::{By, Letter};
use super::words::in_words;
use super::{ConnectFailure, Engine, Level};
use crate::clock::Time;
use crate::dns::{self, NextHop};
use crate::ids::{BindingId, ConnId, FlowRef, ShardId};
use crate::planted::{Plant, planted};
use crate::server_pool::Evidence;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

impl Engine {
    /// Something happens to a context, if it is still there.
    pub(super) fn on_context(&mut self, id: TxnId, event: Event<'_>, now: Time) {
        self.with_context(id, now, |_, _| Some(event));
    }

    /// The same, when what happens depends on the context.
    pub(super) fn with_context<'a>(
        &mut self,
        id: TxnId,
        now: Time,
        event: impl FnOnce(&mut Self, &mut ResponseContext) -> Option<Event<'a>>,
    ) {
        let Some(slot) = self.contexts.take(id) else { return };
        self.kept.take(&slot);
        let mut context = slot.into_context();
        if let Some(event) = event(self, &mut context) {
            self.turn(id, &mut context, event, now);
        }
        self.put_back(id, context);
    }

    /// Puts a context back into its slot, or forgets it when it is over.
    pub(super) fn put_back(&mut self, id: TxnId, mut context: Box<ResponseContext>) {
        let is_over = context.is_over();
        let watched = context.watched.filter(|_| !is_over);
        self.contexts.rewatch(id, std::mem::replace(&mut context.listed, watched), watched);
        if is_over {
            for (_, timer) in context.running() {
                self.ports.wheel.cancel(timer);
            }
            self.contexts.forget(id, &context.asked);
            return context.buffers().for_each(|buffer| self.ports.pool.give(buffer));
        }
        let (slot, sent) = Slot::of(context);
        self.ports.pool.give(sent);
        self.kept.add(&slot);
        self.contexts.put_back(id, slot);
    }

    /// One event, and all that follows from it.
    pub(super) fn turn(&mut self, id: TxnId, context: &mut ResponseContext, event: Event<'_>, now: Time) {
        let answer = match &event {
            Event::Response { answer, which, .. } => {
                if *which == Which::Last && context.client.machine.is_pending() {
                    self.note_answered(context, *answer);
                }
                Some(*answer)
            }
            _ => None,
        };
        let mut actions = Actions::new();
        Turn { id, context, env: &self.env, ports: &mut self.ports, now, actions: &mut actions }.on(event);
        for action in actions {
            if let Some(next) = self.carry_out(id, context, action, answer, now) {
                self.turn(id, context, next, now);
            }
        }
    }

    /// Carries out what a context wants, and says what it has to hear of that. `answer`: the response at hand.
    fn carry_out(
        &mut self,
        id: TxnId,
        context: &mut ResponseContext,
        action: Action,
        answer: Option<Answer<'_>>,
        now: Time,
    ) -> Option<Event<'static>> {
        match action {
            Action::Tell { level, what, peer, about } => self.tell(level, what, Some(peer), &about),
            Action::Respond(bytes) => self.respond_for(&context.asked, bytes),
            Action::Seek(seek) => return self.seek(id, context, seek, now),
            Action::Send { flow, bytes, again } => {
                if !again && self.tells(Level::Debug) {
                    self.tell_routed(context, flow);
                }
                if self.send_on(flow, context.targets.binding(), bytes, Some(id)).is_err() {
                    return Some(Event::NotSent { flow, again });
                }
            }
            Action::Follow { bytes, is_request } => return self.follow_request(id, context, bytes, is_request, now),
            Action::FollowEarlier { at, bytes } => self.follow_earlier(context, at, bytes, now),
            Action::Bind { late } => return self.bind_register(context, answer?, late, now),
            Action::Saw { pair, hop, what } => match what {
                Saw::Answer(code) => self.note_answer(pair, hop, code),
                Saw::TookCall => self.note_takes_calls(pair, hop),
                Saw::Unavailable => self.tell_evidence(pair, hop.address, Evidence::Status(503)),
                Saw::Silence => self.tell_evidence(pair, hop.address, Evidence::Silent),
            },
            Action::Reached { hop, answers: true } => self.dns.unblock(hop.transport, hop.address),
            Action::Reached { hop, answers: false } => {
                self.dns.block(hop.transport, hop.address, now, &mut self.ports.counters);
            }
            Action::GiveUp(why) => return Some(Event::TargetOut(why)),
            Action::ForgetName => self.dns.give_up(waiter_of(id)),
        }
        None
    }

    // --- what is sent ----------------------------------------------------------------------------------------

    /// Sends a message of the client transaction (the request again, its ACK, its CANCEL) to where the phone is now, or to
    /// the SIP Server. What cannot be sent there is looked after by the binding's home, and else left to the timers; but
    /// for the request itself, whose context has to know where it went.
    fn follow_request(
        &mut self,
        id: TxnId,
        context: &mut ResponseContext,
        bytes: Vec<u8>,
        is_request: bool,
        now: Time,
    ) -> Option<Event<'static>> {
        if planted(Plant::AckToWrongServer) && bytes.starts_with(b"ACK ") {
            self.misdirect(context, now);
        }
        let (binding, is_phones) = (context.targets.binding(), context.targets.is_phone());
        if let (Some(pair), Some(hop)) = (context.targets.pair(), context.client.hop)
            && context.client.flow.is_some_and(|flow| self.moved_from(flow, None).is_none())
        {
            let flow = self.flow_to(hop, Element::Server(pair), None, now);
            self.turn(id, context, Event::ServerIsBy(flow), now);
            if flow.is_none() {
                self.ports.pool.give(bytes);
                return None;
            }
        }
        let sent = context.client.flow;
        let Some(flow) = sent.and_then(|flow| self.moved_from(flow, binding)) else {
            if is_request && is_phones {
                self.ports.pool.give(bytes);
                return Some(Event::RegistrationOver);
            }
            self.send_anew(context, bytes, now);
            return None;
        };
        if is_request && is_phones && sent.is_some_and(|sent| !sent.is_same(flow)) {
            self.ports.pool.give(bytes);
            return Some(Event::Moved(self.way(context, flow)));
        }
        let by = sent.map_or(By::Binding, |sent| By::binding_or(sent, flow));
        let letter = Letter { bytes, binding, txn: is_request.then_some(id), by };
        if let Err(letter) = self.send(flow, letter) {
            self.deliver(Some(flow), Letter { txn: None, ..letter });
        }
        None
    }

    /// Lets a test plant that what follows goes to a server's partner.
    fn misdirect(&mut self, context: &mut ResponseContext, now: Time) {
        let (Some(pair), Some(hop)) = (context.targets.pair(), context.client.hop) else { return };
        if let Some(other) = self.server_of(pair, None, &[hop.address], now) {
            context.client.flow = self.flow_to(other, Element::Server(pair), None, now);
        }
    }

    /// Sends over the connection that the request went by, or to a server over the one that there is now.
    fn follow_earlier(&mut self, context: &ResponseContext, at: usize, bytes: Vec<u8>, now: Time) {
        let Some(earlier) = context.earlier.get(at) else { return self.ports.pool.give(bytes) };
        let Err(bytes) = self.send_on(earlier.flow, None, bytes, None) else { return };
        let again = match (context.targets.pair(), earlier.hop) {
            (Some(pair), Some(hop)) => self.flow_to(hop, Element::Server(pair), None, now),
            _ => None,
        };
        let unsent = match again {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        unsent.into_iter().for_each(|bytes| self.ports.pool.give(bytes));
    }

    /// A request goes on: which, and where to.
    fn tell_routed(&mut self, context: &ResponseContext, flow: FlowRef) {
        let Some(request) = context.message() else { return };
        let to = match (flow, context.client.hop) {
            (_, Some(hop)) => hop.address.to_string(),
            (FlowRef::Udp { remote, .. }, None) => remote.to_string(),
            (FlowRef::Stream { shard, conn, .. }, None) => match self.conns.get(conn).filter(|_| shard == self.me()) {
                Some(conn) => conn.peer.to_string(),
                None => format!("a connection of shard {}", shard.0),
            },
        };
        let to = format!(", sent to {to} over {}", self.transport_of(flow).param_name());
        let about = [&in_words(request), to.as_bytes()].concat();
        self.tell(Level::Debug, "request routed", Some(context.asked.source.peer), &about);
    }

    // --- what is bound and seen ------------------------------------------------------------------------------

    /// The SIP Server has accepted a REGISTER: its Contacts are bound, and its answer made of what is bound then.
    fn bind_register(
        &mut self,
        context: &mut ResponseContext,
        answer: Answer<'_>,
        late: bool,
        now: Time,
    ) -> Option<Event<'static>> {
        let registration = context.request.as_mut()?.registration.take()?;
        let request = context.message()?;
        let Asked { source, arrived, .. } = &context.asked;
        self.bind_contacts(request, &registration, answer.message, source, *arrived, now);
        let directory = self.location.directory();
        let contact_of = |id, out: &mut Vec<u8>| match directory.find(id) {
            Some(binding) => {
                out.extend_from_slice(&binding.contact);
                true
            }
            None => false,
        };
        let back = context.back(answer.is_trusted, late);
        let contact_of: &ContactOf<'_> = &contact_of;
        let bytes = response(answer.message, back, Some((request, contact_of)), &self.env, &mut self.ports);
        Some(Event::Bound { code: answer.code, bytes })
    }

    // --- what happens to contexts ----------------------------------------------------------------------------

    pub(super) fn on_context_timer(&mut self, id: TxnId, timer: TxnTimer, now: Time) {
        self.with_context(id, now, |engine, context| {
            let alternative = timer == TxnTimer::ClientDeadline && engine.has_alternative(context, now);
            Some(Event::Timer { timer, alternative })
        });
    }

    /// A binding's home has answered.
    pub(super) fn on_resolved(&mut self, id: TxnId, flow: Option<FlowRef>, now: Time) {
        self.with_context(id, now, |engine, context| {
            let still = if flow.is_none() { engine.still_there(context) } else { None };
            let way = |flow: FlowRef| engine.way(context, flow);
            Some(Event::Located { way: flow.map(way), still: still.map(way) })
        });
    }

    /// A name has been resolved for a request that waits for it.
    pub(super) fn on_name(&mut self, id: TxnId, answer: dns::Answer, now: Time) {
        self.with_context(id, now, |engine, context| {
            let is_its = context.seeking == Some(Seeking::Name);
            is_its.then(|| Event::Named(engine.named(answer, now)))
        });
    }

    /// A shard has said whether it holds the flow.
    pub(super) fn on_peer(&mut self, id: TxnId, found: Option<(FlowRef, Option<BindingId>)>, now: Time) {
        self.with_context(id, now, |engine, context| {
            let found = found.map(|(flow, binding)| (engine.way(context, flow), binding));
            Some(Event::ConnectedElsewhere(found))
        });
    }

    /// The device's shard has answered.
    pub(super) fn on_device(
        &mut self,
        id: TxnId,
        hop: NextHop,
        found: Result<FlowRef, Option<ConnectFailure>>,
        now: Time,
    ) {
        self.with_context(id, now, |engine, context| {
            Some(Event::HopElsewhere { hop, found: found.map(|flow| engine.way(context, flow)) })
        });
    }

    /// A connection of this or another shard has closed: who waits for an answer over it looks further.
    pub(super) fn on_conn_gone(&mut self, shard: ShardId, conn: ConnId, failure: Option<ConnectFailure>, now: Time) {
        for id in self.contexts.watching(shard, conn) {
            self.with_context(id, now, |_, context| {
                (context.watched, context.listed) = (None, None);
                Some(Event::ConnectionGone(failure))
            });
        }
    }

    /// Moves the requests that wait for an address which does not answer, if there is another.
    pub(super) fn move_from(
        &mut self,
        address: SocketAddr,
        why: Why,
        also_answered: bool,
        is_its: impl Fn(&ResponseContext) -> bool,
        now: Time,
    ) {
        let waits = |one: &ResponseContext| {
            let waits = one.client.machine.is_unanswered() || (also_answered && one.client.machine.is_pending());
            waits && one.client.hop.is_some_and(|hop| hop.address == address) && is_its(one)
        };
        let waiting = self.contexts.iter().filter(|(_, slot)| slot.open().is_some_and(waits));
        let waiting: Vec<TxnId> = waiting.map(|(id, _)| id).collect();
        for id in waiting {
            self.with_context(id, now, |engine, context| {
                let moves = why != Why::Verdict || engine.has_alternative(context, now) || context.is_given_up();
                moves.then_some(Event::TargetOut(why))
            });
        }
    }

    /// The counter of what keeps a new context from a place, on the number of contexts or on the bytes that all of them
    /// hold, for messages can be much larger than the memory of so many allows.
    pub(super) fn place_for_context(&mut self) -> Result<TxnId, Counter> {
        if self.kept.contexts_hold(self.env.held_len_max()) {
            return Err(Counter::LimitTransactionLen);
        }
        self.contexts.reserve().ok_or(Counter::LimitTransactions)
    }
}
