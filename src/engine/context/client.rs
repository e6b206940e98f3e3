//! The half of a context towards its target: the client transaction, what its responses mean for the request (RFC 3261
//! §16.7), its CANCEL (§9, §16.10), and those that were given up for another target.
//!
//! A server that was taken to be dead may have been slow: it has the INVITE, and rings. So its 2xx goes back whenever
//! it comes, its error gets its ACK, and anything less gets a CANCEL, for the call is another target's now. Each is
//! sent without a transaction of its own: when it is lost, the server's repetition brings it again.

use super::build;
use super::event::{Action, Answer, Saw, Seek, Way, Which, Why};
use super::state::{Cancel, ClientMachine, Earlier, GivenUp, TargetSet, TxnTimer};
use super::turn::Turn;
use crate::engine::words::in_words;
use crate::engine::{Level, UdpOversize};
use crate::ids::FlowRef;
use crate::limits::{TARGETS_COUNT_MAX, UDP_DATAGRAM_LEN_MAX, UDP_REQUEST_LEN_MAX};
use crate::planted::{Plant, planted};
use crate::proxy::response::{Fate, fate};
use crate::sip::Method;
use crate::sip::response::{build_ack, build_cancel};
use crate::stats::Counter;
use crate::transaction::{Effects, InviteClient, PlainClient, Resend, Tell};

impl Turn<'_> {
    // --- sending ---------------------------------------------------------------------------------------------

    /// Builds the request and sends it by a way.
    pub(super) fn send(&mut self, way: &Way) {
        if self.context.request.is_none() {
            return;
        }
        build::request(self.context, self.id, way, self.env, self.ports);
        let (flow, len) = (way.flow, self.context.client.sent.len());
        if self.env.is_reliable(flow) || len <= UDP_REQUEST_LEN_MAX {
            return self.start_client(flow);
        }
        match self.env.settings.live.udp_oversize {
            UdpOversize::Reject => self.refuse_oversize(),
            UdpOversize::Tcp if self.context.client.hop.is_some() => self.seek(Seek::Large(flow)),
            UdpOversize::Tcp | UdpOversize::Udp => self.send_large(flow),
        }
    }

    /// The request is too large to go by a UDP flow, and may go by TCP now.
    pub(super) fn on_large(&mut self, way: Option<Way>, flow: FlowRef) {
        match way {
            Some(way) => {
                self.count(Counter::OversizeTcp);
                self.send(&way);
            }
            None => self.send_large(flow),
        }
    }

    fn send_large(&mut self, flow: FlowRef) {
        if self.context.client.sent.len() > UDP_DATAGRAM_LEN_MAX {
            return self.refuse_oversize();
        }
        self.count(Counter::OversizeUdp);
        self.start_client(flow);
    }

    fn refuse_oversize(&mut self) {
        self.count(Counter::OversizeReject);
        self.finish(513, "Message Too Large", Counter::Refused513Oversize);
    }

    /// Begins the client transaction of a request that is built.
    fn start_client(&mut self, flow: FlowRef) {
        let reliable = self.env.is_reliable(flow);
        let (machine, effects) = match self.context.asked.method {
            Method::Invite => {
                let (machine, effects) = InviteClient::start(reliable, self.env.times);
                (ClientMachine::Invite(machine), effects)
            }
            _ => {
                let (machine, effects) = PlainClient::start(reliable, self.env.times);
                (ClientMachine::Plain(machine), effects)
            }
        };
        self.context.client.machine = machine;
        self.context.client.flow = Some(flow);
        if self.context.asked.method == Method::Invite && self.context.given_up == GivenUp::No {
            self.arm(TxnTimer::TimerC, self.env.settings.live.timer_c);
        }
        if self.context.targets.is_phone() {
            self.count(match flow.shard() == self.env.me() {
                true => Counter::DeliveredLocal,
                false => Counter::DeliveredAcross,
            });
        }
        self.apply_client(effects);
        self.watch(flow);
        let bytes = self.ports.pool.copy(&self.context.client.sent);
        self.act(Action::Send { flow, bytes, again: false });
    }

    /// Sends the request, its ACK or its CANCEL to where the request has gone.
    fn follow(&mut self, bytes: Vec<u8>, is_request: bool) {
        self.act(Action::Follow { bytes, is_request });
    }

    /// The connection to the server that the request was sent to is another by now: a CANCEL goes where its INVITE is.
    pub(super) fn on_server_is_by(&mut self, flow: Option<FlowRef>) {
        self.unwatch();
        self.context.client.flow = flow;
        if let Some(flow) = flow.filter(|_| self.context.client.machine.is_pending()) {
            self.watch(flow);
        }
    }

    /// A request that is under way goes on over the flow that took the place of a lost one: sent again, under
    /// its branch, when nothing was heard of it; the phone may know it already.
    pub(super) fn move_to(&mut self, way: &Way) {
        let flow = way.flow;
        let left = self.context.client.flow.replace(flow);
        self.unwatch();
        if !self.context.client.machine.is_pending() {
            return;
        }
        let is_unanswered = self.context.client.machine.is_unanswered();
        if is_unanswered && left.is_none_or(|left| left.point() != flow.point()) {
            // Another transport or address of ours: the Via, and the timers, have to say so. The machine that is made
            // anew may have no need of this one.
            self.stop(TxnTimer::ClientRetransmit);
            return self.send(way);
        }
        self.watch(flow);
        if let Cancel::Sent { bytes, .. } = &self.context.client.cancel {
            // It went where the phone is no longer.
            let bytes = self.ports.pool.copy(bytes);
            self.follow(bytes, false);
        }
        if is_unanswered {
            self.count(Counter::ResentRequest);
            let bytes = self.ports.pool.copy(&self.context.client.sent);
            self.act(Action::Send { flow, bytes, again: true });
        }
    }

    // --- timers ----------------------------------------------------------------------------------------------

    /// Timer A or E.
    pub(super) fn on_client_retransmit(&mut self) {
        let (effects, counter) = match &mut self.context.client.machine {
            ClientMachine::Invite(machine) => (machine.on_retransmit(), Counter::TimerA),
            ClientMachine::Plain(machine) => (machine.on_retransmit(self.env.times), Counter::TimerE),
            ClientMachine::Waiting | ClientMachine::Over => return,
        };
        self.count(counter);
        self.count(Counter::ResentRequest);
        self.apply_client(effects);
    }

    /// Timer B, F, D, K or M.
    pub(super) fn on_client_deadline(&mut self, alternative: bool) {
        let was_unanswered = self.context.client.machine.is_unanswered();
        let (effects, counter) = match &mut self.context.client.machine {
            ClientMachine::Invite(machine) => (machine.on_deadline(), Counter::TimerB),
            ClientMachine::Plain(machine) => (machine.on_deadline(), Counter::TimerF),
            ClientMachine::Waiting | ClientMachine::Over => return,
        };
        self.apply_client(effects);
        if effects.tell == Some(Tell::Timeout) {
            self.count(counter);
            self.on_timeout(was_unanswered, alternative);
        }
    }

    /// Nothing at all, or nothing final, came back.
    fn on_timeout(&mut self, was_unanswered: bool, alternative: bool) {
        if was_unanswered {
            // The next request is tried elsewhere first (RFC 3263 §4.3).
            self.reached(false);
        }
        if self.context.asked.method == Method::Invite {
            if alternative {
                return self.fail_over(Why::Timeout);
            }
            self.finish(408, "Request Timeout", Counter::Refused408TimerB);
        } else {
            // RFC 4320 §4.2: a 408 to a request other than INVITE would come too late to help anybody.
            self.abandon_client();
            self.stop(TxnTimer::Trying);
            self.context.server.is_over = true;
            let about = self.context.message().map_or(Vec::new(), in_words);
            self.tell(Level::Warn, "request unanswered", about);
        }
    }

    /// Timer C, or a CANCEL that has brought nothing.
    pub(super) fn on_timer_c(&mut self) {
        if !self.context.client.machine.is_pending() {
            return;
        }
        match self.context.given_up {
            GivenUp::No => {
                self.count(Counter::TimerC);
                self.cancel(GivenUp::TimerC);
            }
            GivenUp::TimerC => self.finish(408, "Request Timeout", Counter::Refused408TimerC),
            GivenUp::Caller => self.finish_cancelled(),
        }
    }

    /// Carries out what the client machine wants, but for `tell`.
    fn apply_client(&mut self, effects: Effects) {
        self.apply(TxnTimer::ClientRetransmit, effects.retransmit);
        self.apply(TxnTimer::ClientDeadline, effects.deadline);
        match effects.resend {
            Some(Resend::Same) => {
                let bytes = self.ports.pool.copy(&self.context.client.sent);
                self.follow(bytes, true);
            }
            Some(Resend::Ack) if !self.context.client.ack.is_empty() => {
                let bytes = self.ports.pool.copy(&self.context.client.ack);
                self.follow(bytes, false);
            }
            _ => {}
        }
        if effects.ended {
            self.context.client.machine = ClientMachine::Over;
        }
    }

    // --- responses -------------------------------------------------------------------------------------------

    /// A response to one of the client transactions, from where that was sent.
    pub(super) fn on_response(&mut self, answer: Answer<'_>, which: Which, alternative: bool) {
        let (method, asked) = (answer.message.cseq().method, self.context.asked.method);
        let is_cancels = method == Method::Cancel && asked == Method::Invite;
        match which {
            Which::Earlier(at) if method == asked => self.on_earlier_response(at, answer),
            Which::Earlier(_) => {}
            Which::Last if is_cancels => {
                if let Cancel::Sent { machine, .. } = &mut self.context.client.cancel {
                    let effects = machine.on_response(answer.code, self.env.times);
                    self.apply_cancel(effects);
                }
            }
            Which::Last => {
                self.reached(true);
                self.on_last_response(answer, alternative);
            }
        }
    }

    fn on_last_response(&mut self, answer: Answer<'_>, alternative: bool) {
        let mut acks = false;
        let effects = match &mut self.context.client.machine {
            ClientMachine::Invite(machine) => {
                acks = answer.code >= 300 && !machine.is_final();
                machine.on_response(answer.code, self.env.times)
            }
            ClientMachine::Plain(machine) => machine.on_response(answer.code, self.env.times),
            ClientMachine::Waiting | ClientMachine::Over => return self.count(Counter::ResponseStray),
        };
        if acks {
            let mut ack = self.ports.pool.take();
            // What we sent was parsed once; it cannot fail. Without an ACK the phone's own timer H ends it.
            let _ = build_ack(&self.context.client.sent, answer.message, &mut ack);
            self.context.client.ack = self.ports.pool.exact(ack);
        }
        if effects.tell.is_none() {
            self.count(Counter::AbsorbedResponse);
        }
        self.apply_client(effects);
        if effects.tell != Some(Tell::Response) {
            return;
        }
        self.saw(Saw::Answer(answer.code));
        if answer.code < 200 { self.on_provisional(answer) } else { self.on_final(answer, alternative) }
    }

    fn on_provisional(&mut self, answer: Answer<'_>) {
        if matches!(self.context.client.cancel, Cancel::Wanted) {
            self.send_cancel();
        }
        // To a request other than INVITE only 100 may be said, and not before its time (RFC 4320 §4.1): the timer
        // says it.
        let is_invite = self.context.asked.method == Method::Invite;
        let is_trying = answer.code == 100 && !planted(Plant::TryingPassedOn);
        if is_trying || !is_invite || !self.context.server.machine.is_open() {
            return;
        }
        if self.context.given_up == GivenUp::No {
            self.arm(TxnTimer::TimerC, self.env.settings.live.timer_c);
        }
        self.stop(TxnTimer::Trying);
        if planted(Plant::RingingDropped) && self.context.server.said_provisional {
            return;
        }
        let bytes = self.response_of(answer, false);
        self.say_provisional(answer.code, bytes);
    }

    fn on_final(&mut self, answer: Answer<'_>, alternative: bool) {
        self.stop(TxnTimer::TimerC);
        self.unwatch();
        if matches!(self.context.client.cancel, Cancel::Wanted) {
            self.context.client.cancel = Cancel::No;
        }
        let is_invite = self.context.asked.method == Method::Invite;
        if !self.context.server.machine.is_open() {
            // A 2xx to an INVITE always goes back, also the second one, or one that crossed our own answer
            // (RFC 3261 §16.7 step 5).
            if is_invite && answer.code < 300 {
                self.pass_success(answer, false);
            }
            return;
        }
        if answer.code == 503 && alternative && !planted(Plant::UnavailablePassedOn) {
            self.saw(Saw::Unavailable);
            // Once its ACK has gone. Who asked has heard nothing yet, and needs its 100 all the same.
            return self.act(Action::GiveUp(Why::Unavailable));
        }
        self.stop(TxnTimer::Trying);
        if answer.code < 300 && is_invite && !self.context.is_first_target() {
            self.saw(Saw::TookCall);
        }
        let code = match fate(answer.code, is_invite, self.context.targets.side()) {
            Fate::Pass => answer.code,
            Fate::As500 => {
                self.count(Counter::Refused500Endpoint503);
                500
            }
            Fate::Drop => {
                self.context.server.is_over = true;
                return self.release();
            }
        };
        if code < 300 {
            self.on_success(answer, false);
        } else {
            let bytes = self.response_of(answer, false);
            self.answer(code, bytes);
        }
        if is_invite && !self.context.asked.in_dialog {
            self.count(match code {
                200..=299 => Counter::CallsAnswered,
                487 => Counter::CallsCancelled,
                _ => Counter::CallsRejected,
            });
        }
    }

    /// A 2xx goes back as the final response; that of a REGISTER binds first. `late`: it is of a server that had been given
    /// up.
    fn on_success(&mut self, answer: Answer<'_>, late: bool) {
        if self.context.request.as_ref().is_some_and(|request| request.registration.is_some()) {
            return self.act(Action::Bind { late });
        }
        let bytes = self.response_of(answer, late);
        self.answer(answer.code, bytes);
    }

    // --- CANCEL ----------------------------------------------------------------------------------------------

    /// The caller of an INVITE has sent a CANCEL, with these `Reason` fields.
    pub(super) fn on_cancelled(&mut self, reasons: Vec<u8>) {
        if self.context.asked.method == Method::Invite && self.context.server.machine.is_open() {
            if self.context.given_up == GivenUp::No {
                self.context.cancel_reason = reasons;
            }
            self.cancel(GivenUp::Caller);
        }
    }

    /// Ends an INVITE that was sent on, as RFC 3261 §9.1 asks: at once when something was heard of it, else
    /// with its first provisional response.
    fn cancel(&mut self, by: GivenUp) {
        if self.context.given_up != GivenUp::No {
            return;
        }
        self.context.given_up = by;
        if matches!(self.context.client.machine, ClientMachine::Waiting) {
            return self.finish_cancelled();
        }
        if !self.context.client.machine.is_pending() {
            return;
        }
        self.context.client.cancel = Cancel::Wanted;
        self.arm(TxnTimer::TimerC, self.env.times.lifetime());
        if !self.context.client.machine.is_unanswered() {
            self.send_cancel();
        }
    }

    fn send_cancel(&mut self) {
        if planted(Plant::CancelNotSent) {
            return;
        }
        let mut bytes = self.ports.pool.take();
        if build_cancel(&self.context.client.sent, &mut bytes).is_err() {
            // What we sent was parsed once; it cannot fail. Without a CANCEL the call rings on to timer C.
            return self.ports.pool.give(bytes);
        }
        if !self.context.cancel_reason.is_empty() && bytes.ends_with(b"\r\n\r\n") {
            bytes.truncate(bytes.len() - 2);
            bytes.extend_from_slice(&self.context.cancel_reason);
            bytes.extend_from_slice(b"\r\n");
        }
        let reliable = self.context.client.flow.is_none_or(|flow| self.env.is_reliable(flow));
        let (machine, effects) = PlainClient::start(reliable, self.env.times);
        let copy = self.ports.pool.copy(&bytes);
        self.context.client.cancel = Cancel::Sent { machine, bytes: self.ports.pool.exact(bytes) };
        self.apply_cancel(effects);
        self.follow(copy, false);
    }

    pub(super) fn on_cancel_timer(&mut self, timer: TxnTimer) {
        let Cancel::Sent { machine, .. } = &mut self.context.client.cancel else { return };
        let effects = match timer {
            TxnTimer::CancelRetransmit => machine.on_retransmit(self.env.times),
            _ => machine.on_deadline(),
        };
        self.apply_cancel(effects);
    }

    fn apply_cancel(&mut self, effects: Effects) {
        self.apply(TxnTimer::CancelRetransmit, effects.retransmit);
        self.apply(TxnTimer::CancelDeadline, effects.deadline);
        let Cancel::Sent { bytes, .. } = &self.context.client.cancel else { return };
        if effects.resend.is_some() {
            let copy = self.ports.pool.copy(bytes);
            self.count(Counter::ResentRequest);
            self.follow(copy, false);
        }
        if effects.ended {
            self.context.client.cancel = Cancel::No;
        }
    }

    // --- client transactions that were given up --------------------------------------------------------------

    /// The request leaves the target that it was sent to.
    fn leave(&mut self) {
        let client = &mut self.context.client;
        // What comes with the branch of before is not for the next target's.
        let nonce = std::mem::replace(&mut client.nonce, self.ports.rng.next());
        let Some(flow) = client.flow.take() else { return };
        if self.context.earlier.len() >= TARGETS_COUNT_MAX {
            return;
        }
        let is_invite = self.context.asked.method == Method::Invite;
        let sent = if is_invite { std::mem::take(&mut client.sent) } else { Vec::new() };
        // One that was heard of is cancelled at once, the others when they are heard of (RFC 3261 §9.1).
        let is_heard = client.machine.is_pending() && !client.machine.is_unanswered();
        self.context.earlier.push(Earlier { nonce, flow, hop: client.hop, sent });
        if is_invite && is_heard {
            self.cancel_earlier(self.context.earlier.len() - 1);
        }
        if is_invite {
            // It may be alive, and late: nobody else would stop it ringing.
            self.arm(TxnTimer::Earlier, self.env.times.lifetime());
        }
    }

    fn on_earlier_response(&mut self, at: usize, answer: Answer<'_>) {
        let is_invite = self.context.asked.method == Method::Invite;
        match answer.code {
            ..200 if is_invite => self.cancel_earlier(at),
            ..200 => {}
            200..300 if self.context.server.machine.is_open() => {
                // It has done what was asked for; what was asked of the next is taken back.
                self.on_success(answer, true);
                if is_invite && !self.context.asked.in_dialog {
                    self.count(Counter::CallsAnswered);
                }
                if is_invite && self.context.client.machine.is_pending() {
                    self.cancel(GivenUp::Caller);
                } else if !is_invite || matches!(self.context.client.machine, ClientMachine::Waiting) {
                    self.abandon_client();
                }
            }
            // Two have taken the call: the caller ends one. After an error of ours it would know neither.
            200..300 if self.context.server.machine.is_accepted() => self.pass_success(answer, true),
            200..300 => {}
            _ if is_invite => {
                let mut ack = self.ports.pool.take();
                match self.context.earlier.get(at).map(|earlier| build_ack(&earlier.sent, answer.message, &mut ack)) {
                    Some(Ok(())) => self.act(Action::FollowEarlier { at, bytes: ack }),
                    _ => self.ports.pool.give(ack),
                }
            }
            _ => {}
        }
    }

    fn cancel_earlier(&mut self, at: usize) {
        let mut cancel = self.ports.pool.take();
        match self.context.earlier.get(at).map(|earlier| build_cancel(&earlier.sent, &mut cancel)) {
            Some(Ok(())) => self.act(Action::FollowEarlier { at, bytes: cancel }),
            _ => self.ports.pool.give(cancel),
        }
    }

    // --- the next target -------------------------------------------------------------------------------------

    /// Gives a target up: the request goes to the next one under a new branch, or ends.
    pub(super) fn fail_over(&mut self, why: Why) {
        match self.context.given_up {
            GivenUp::No => {}
            GivenUp::Caller => {
                self.unwatch();
                if !self.context.client.cancel.is_sent() {
                    self.leave();
                }
                return self.finish_cancelled();
            }
            GivenUp::TimerC => return self.finish(408, "Request Timeout", Counter::Refused408TimerC),
        }
        self.unwatch();
        self.leave();
        self.stop_client();
        let hop = self.context.client.hop;
        let client = &mut self.context.client;
        client.ack = Vec::new();
        client.machine = ClientMachine::Waiting;
        client.cancel = Cancel::No;
        self.context.seeking = None;
        self.context.attempts = 0;
        self.count(why.counter());
        match &mut self.context.targets {
            TargetSet::Servers { pair, tried } => {
                tried.extend(hop.map(|hop| hop.address));
                let pair = *pair;
                self.seek(Seek::Server { pair, at: None });
            }
            TargetSet::Peer { list, .. } | TargetSet::Device { list, .. } => {
                if let Why::Connection(failure) = why {
                    list.failure = failure;
                }
                self.try_next();
            }
            TargetSet::Phone { .. } => self.finish_gone(),
        }
    }
}
