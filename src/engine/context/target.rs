//! Where the request goes, and where it goes next when that will not do: a phone's flow, the servers of a pair, another
//! site's proxy, a device (RFC 3261 §16.5, §16.7 step 6; RFC 3263 §4; DESIGN.md, What it does on the wire, 2 to 5).
//!
//! A request that has found no answer is tried at the next target under a new branch.

use std::net::SocketAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::event::{Action, Named, Registered, Saw, Seek, Way, Why};
use super::state::{ClientMachine, GivenUp, NextHops, ResponseContext, Seeking, TargetSet, TxnTimer};
use super::turn::Turn;
use crate::dns::{Failure, NextHop};
use crate::engine::{ConnectFailure, SendFault};
use crate::ids::{BindingId, FlowRef, Side};
use crate::limits::{FLOW_ATTEMPTS_MAX, INVITE_LOST_MAX, TRYING_AFTER};
use crate::planted::{Plant, planted};
use crate::proxy::{Place, Refusal, Target, place_of, target};
use crate::sip::{Method, Uri};
use crate::stats::Counter;
use crate::tls::identity::Expected;

impl ResponseContext {
    /// Whether no target has been given up or passed over.
    pub(super) fn is_first_target(&self) -> bool {
        self.targets.tried().is_empty()
    }

    /// How long the request may wait for a phone whose flow is gone.
    fn longest_wait(&self, flow_grace: Duration) -> Duration {
        let under_way = self.client.flow.is_some();
        match (self.asked.method, under_way, self.asked.in_dialog) {
            (Method::Invite, true, _) => INVITE_LOST_MAX,
            (_, _, true) => flow_grace,
            (_, _, false) => Duration::ZERO,
        }
    }
}

impl Turn<'_> {
    pub(super) fn begin(&mut self, target: Target) {
        let quiet = match self.context.asked.method {
            Method::Invite => TRYING_AFTER,
            _ => self.env.times.timer_e_reaches_t2(),
        };
        self.arm(TxnTimer::Trying, quiet);
        if let (Target::Flow { flow, .. }, true) = (target, self.context.asked.in_dialog) {
            self.context.targets = TargetSet::Phone { binding: None, ob: false, named: Some(flow) };
        }
        self.aim(target);
    }

    /// Turns a target into a target set, and looks for the first way there.
    pub(super) fn aim(&mut self, target: Target) {
        match target {
            Target::Myself => {}
            Target::Server { pair, at } => {
                self.context.targets = TargetSet::Servers { pair, tried: SmallVec::new() };
                self.seek(Seek::Server { pair, at });
            }
            Target::Peer { peer } => self.seek(Seek::Peer(peer)),
            Target::Uri(uri) => self.aim_at_uri(uri),
            Target::Flow { flow, binding, ob } => {
                self.aim_at_phone(binding, ob);
                self.seek(Seek::Flow { flow, binding });
            }
            Target::Binding { binding, ob } => {
                self.aim_at_phone(Some(binding), ob);
                let routes = self.context.request.as_ref().map(|request| &request.routes);
                if routes.and_then(target::alias_of) != Some(binding) {
                    self.count(Counter::TokenOtherBoot);
                }
                self.locate(None);
            }
            Target::Table => self.seek(Seek::Registered { or: None }),
            Target::Address { transport, remote } => self.seek(Seek::Address(NextHop { transport, address: remote })),
            Target::Gone { ob } => {
                self.aim_at_phone(None, ob);
                self.finish_gone();
            }
        }
    }

    /// A phone's flow, by what is known of it.
    fn aim_at_phone(&mut self, to: Option<BindingId>, says_ob: bool) {
        if let TargetSet::Phone { binding, ob, .. } = &mut self.context.targets {
            (*binding, *ob) = (to, says_ob);
        }
    }

    fn bind_to(&mut self, to: Option<BindingId>) {
        if let TargetSet::Phone { binding, .. } = &mut self.context.targets {
            *binding = to;
        }
    }

    // --- a phone ---------------------------------------------------------------------------------------------

    /// Asks where the phone is. `not`: a flow that is known to be gone.
    pub(super) fn locate(&mut self, not: Option<FlowRef>) {
        self.context.attempts = self.context.attempts.saturating_add(1);
        if self.context.attempts > FLOW_ATTEMPTS_MAX {
            self.count(Counter::LimitFlowAttempts);
            return self.finish_gone();
        }
        match self.context.targets.binding() {
            Some(binding) => {
                let grace = self.env.settings.live.flow_grace;
                let wait = self.context.longest_wait(if planted(Plant::GraceIgnored) { Duration::ZERO } else { grace });
                self.seek(Seek::Home { binding, not, wait });
            }
            None if matches!(self.context.client.machine, ClientMachine::Waiting)
                && self.context.targets.is_phone() =>
            {
                self.aim_beyond(not);
            }
            None => self.finish_gone(),
        }
    }

    /// The connection that a server's token named is gone, and it was no phone's: the Request-URI may lead to who had
    /// it, over the same transport. Over another it could be anybody.
    fn aim_beyond(&mut self, lost: Option<FlowRef>) {
        if self.context.asked.source.side == Side::Server {
            self.seek(Seek::Beyond(lost));
        } else {
            self.finish_gone();
        }
    }

    pub(super) fn on_beyond(&mut self, target: Option<Target>) {
        match target {
            Some(target) => self.aim(target),
            None => self.finish_gone(),
        }
    }

    /// The binding's home has answered. A dialog goes on over the flow that it names, as long as that is there, and what
    /// is under way over UDP stays where it is: neither the end of a registration nor a connection that came and went ends
    /// a call.
    pub(super) fn on_located(&mut self, way: Option<Way>, still: Option<Way>) {
        if self.context.seeking != Some(Seeking::Home) {
            return;
        }
        self.found();
        if way.is_none() {
            // From here on nothing is asked about the binding, and so nothing comes back here.
            self.bind_to(None);
        }
        match way.or(still) {
            None => self.finish_gone(),
            Some(way) if self.context.client.flow.is_none() => self.send(&way),
            Some(way) => self.move_to(&way),
        }
    }

    /// What was sought is known.
    fn found(&mut self) {
        self.context.seeking = None;
        self.stop(TxnTimer::Location);
    }

    pub(super) fn on_registered(&mut self, found: Registered, or: Option<NextHop>) {
        match (found, or) {
            (Registered::By(binding), _) => {
                self.bind_to(Some(binding));
                self.locate(None);
            }
            (Registered::Unclear, _) => self.finish(480, "Not Registered Here", Counter::Refused480NotBound),
            (Registered::Nobody, Some(hop)) => self.aim_at_address(hop, Expected::Address(hop.address.ip())),
            (Registered::Nobody, None) => {
                let beyond = self.context.message().map(|request| target::beyond_table(request, &self.env.names));
                match beyond {
                    Some(Ok(target)) => self.aim(target),
                    Some(Err(refusal)) => self.refuse(refusal),
                    None => {}
                }
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.finish(refusal.code, refusal.reason, refusal.counter);
    }

    // --- X-Genesys-Route -------------------------------------------------------------------------------------

    pub(super) fn on_connected(&mut self, way: &Way, binding: Option<BindingId>) {
        self.bind_to(binding);
        self.send(way);
    }

    /// Another shard has said whether it holds a connection from the address in X-Genesys-Route.
    pub(super) fn on_connected_elsewhere(&mut self, found: Option<(Way, Option<BindingId>)>) {
        let Some(Seeking::Address(left)) = self.context.seeking else { return };
        if found.is_none() && left > 1 {
            return self.context.seeking = Some(Seeking::Address(left - 1));
        }
        self.found();
        if let Some((way, binding)) = found {
            return self.on_connected(&way, binding);
        }
        let Some(request) = self.context.message() else { return };
        match target::address_in_header(request, &self.env.names) {
            Some(Target::Address { transport, remote }) => {
                self.on_not_connected(NextHop { transport, address: remote })
            }
            _ => self.finish_gone(),
        }
    }

    /// Nobody is connected from the address in X-Genesys-Route. Where the request names a phone that registered, it
    /// is that phone's address of before, and no connection is opened to a phone; else it is a device's.
    pub(super) fn on_not_connected(&mut self, hop: NextHop) {
        let Some(request) = &self.context.request else { return };
        match target::of_phone(&request.message, &request.routes, &self.env.names, self.env.here) {
            Some(Target::Table) => self.seek(Seek::Registered { or: Some(hop) }),
            Some(target) => self.aim(target),
            None => self.aim_at_device(hop),
        }
    }

    // --- devices, names, other sites -------------------------------------------------------------------------

    /// Sends a request of the server side to what a URI names.
    fn aim_at_uri(&mut self, uri: Uri) {
        let Some(request) = self.context.message() else { return };
        if let Err(refusal) = target::reachable(&uri, request.buf()) {
            return self.refuse(refusal);
        }
        match place_of(&uri, request.buf()) {
            (Place::At(hop), host) => self.aim_at_address(hop, host),
            (Place::Named(question), host) => {
                let port = question.port.unwrap_or(0);
                self.context.targets = TargetSet::Device { list: NextHops::default(), host, port };
                self.context.seeking = Some(Seeking::Name);
                self.seek(Seek::Name(question));
            }
        }
    }

    /// An address that nobody's name stands before.
    pub(super) fn aim_at_device(&mut self, hop: NextHop) {
        self.aim_at_address(hop, Expected::Address(hop.address.ip()));
    }

    fn aim_at_address(&mut self, hop: NextHop, host: Expected) {
        let list = NextHops { all: SmallVec::from_slice(&[hop]), ..NextHops::default() };
        self.context.targets = TargetSet::Device { list, host, port: hop.address.port() };
        self.try_next();
    }

    pub(super) fn on_peer(&mut self, peer: u8, all: SmallVec<[NextHop; 2]>) {
        self.context.targets = TargetSet::Peer { peer, list: NextHops { all, ..NextHops::default() } };
        self.try_next();
    }

    pub(super) fn on_named(&mut self, named: Named) {
        if self.context.seeking != Some(Seeking::Name) {
            return;
        }
        self.found();
        let (reason, counter) = match named {
            Named::NextHops(all) => {
                if let Some(list) = self.context.targets.next_hops() {
                    list.all = all;
                }
                return self.try_next();
            }
            Named::Known(whose @ (Target::Server { .. } | Target::Peer { .. })) => return self.aim(whose),
            // It is ours.
            Named::Known(_) => return self.finish(480, "Not Registered Here", Counter::Refused480NotBound),
            Named::Nothing(Failure::NoSuchName | Failure::NoRecords) => ("No Such Name", Counter::Refused503NoSuchName),
            Named::Nothing(Failure::Unanswered | Failure::Bound) => {
                ("Name Not Resolved", Counter::Refused503NameUnanswered)
            }
        };
        self.finish(503, reason, counter);
    }

    /// Asks for the way to the next address of the list.
    pub(super) fn try_next(&mut self) {
        let Some(list) = self.context.targets.next_hops() else { return };
        let (hop, failure) = (list.all.get(list.next).copied(), list.failure);
        match hop {
            Some(hop) => {
                list.next += 1;
                self.context.client.hop = Some(hop);
                self.seek(Seek::Hop(hop));
            }
            None if failure == Some(ConnectFailure::Tls) => {
                self.finish(502, "Certificate Refused", Counter::Refused502Certificate);
            }
            None => self.finish(503, "No Target Left", Counter::Refused503NoTarget),
        }
    }

    pub(super) fn on_hop(&mut self, found: Result<Way, Option<ConnectFailure>>) {
        match found {
            Ok(way) => self.send(&way),
            Err(failure) => {
                if let Some(list) = self.context.targets.next_hops() {
                    list.failure = failure;
                }
                self.try_next();
            }
        }
    }

    /// The shard that holds the connections to a device has answered.
    pub(super) fn on_hop_elsewhere(&mut self, hop: NextHop, found: Result<Way, Option<ConnectFailure>>) {
        if self.context.seeking == Some(Seeking::Device) && self.context.client.hop == Some(hop) {
            self.found();
            self.on_hop(found);
        }
    }

    // --- servers ---------------------------------------------------------------------------------------------

    pub(super) fn on_server(&mut self, found: Option<(NextHop, Way)>, passed_over: SmallVec<[SocketAddr; 1]>) {
        if let TargetSet::Servers { tried, .. } = &mut self.context.targets {
            tried.extend(passed_over);
        }
        match found {
            Some((hop, way)) => {
                self.context.client.hop = Some(hop);
                self.send(&way);
            }
            None => self.finish(503, "SIP Server Unreachable", Counter::Refused503ServerConnect),
        }
    }

    pub(super) fn saw(&mut self, what: Saw) {
        if let (Some(pair), Some(hop)) = (self.context.targets.pair(), self.context.client.hop) {
            self.act(Action::Saw { pair, hop, what });
        }
    }

    /// Whether an address of a list answers.
    pub(super) fn reached(&mut self, answers: bool) {
        if let (Some(_), Some(hop)) = (self.context.targets.next_hops(), self.context.client.hop) {
            self.act(Action::Reached { hop, answers });
        }
    }

    /// An INVITE has had no response at all for a second: its server is asked at once whether it is there, so that
    /// silence is found out within one service check, and callers do not wait for two.
    pub(super) fn doubt_server(&mut self) {
        if self.context.client.machine.is_unanswered() && !self.env.settings.live.oos_check.is_zero() {
            self.saw(Saw::Silence);
        }
    }

    // --- what was sent is lost -------------------------------------------------------------------------------

    /// The connection that the request was sent on has gone before its final response.
    pub(super) fn on_lost(&mut self, failure: Option<ConnectFailure>) {
        if !self.context.client.machine.is_pending() || self.context.seeking.is_some() {
            return;
        }
        if self.context.targets.is_phone() {
            self.locate(self.context.client.flow);
        } else {
            self.on_target_lost(failure);
        }
    }

    /// The same, of a target that is no phone's. When nothing was heard, the connection is opened again, once, for an idle
    /// one may have been closed while the request was under way; then the next is tried. When something was heard, the
    /// target has the request, and opens a connection of its own for the answer (RFC 3261 §18.2.2): one of ours tells
    /// whether it is still there; of a server its pair's owner judges by that.
    fn on_target_lost(&mut self, failure: Option<ConnectFailure>) {
        self.context.attempts = self.context.attempts.saturating_add(1);
        let is_unanswered = self.context.client.machine.is_unanswered();
        let may_again = failure.is_none() && self.context.attempts <= 1;
        let is_given_up = self.context.given_up != GivenUp::No;
        match &mut self.context.targets {
            TargetSet::Device { list, .. } if is_unanswered && may_again && !is_given_up => {
                // A device's connection is its shard's to open.
                list.next = list.next.saturating_sub(1);
                self.context.client.machine = ClientMachine::Waiting;
                self.stop_client();
                self.try_next();
            }
            // What is still to be sent to a device needs a new one from us.
            TargetSet::Device { .. } if !is_unanswered => self.context.client.flow = None,
            // One that was given up is not sent again.
            _ if may_again && !(is_unanswered && is_given_up) => self.seek(Seek::Reopen { failure }),
            _ => self.on_not_reopened(failure),
        }
    }

    pub(super) fn on_reopened(&mut self, way: Option<Way>, failure: Option<ConnectFailure>) {
        match way {
            Some(way) => self.move_to(&way),
            None => self.on_not_reopened(failure),
        }
    }

    fn on_not_reopened(&mut self, failure: Option<ConnectFailure>) {
        let is_peer = matches!(self.context.targets, TargetSet::Peer { .. });
        if self.context.client.machine.is_unanswered() || (is_peer && failure.is_some()) {
            self.fail_over(Why::Connection(failure));
        } else if is_peer {
            self.context.client.flow = None;
        }
    }

    /// The request could not be sent on the flow that it was meant for: nobody has it yet, so that it waits no
    /// longer than one whose flow was known to be gone. `not` is the flow, when that is gone.
    fn on_unsent(&mut self, not: Option<FlowRef>) {
        let is_unanswered = self.context.client.machine.is_unanswered();
        let is_phones = self.context.targets.is_phone();
        if !is_phones || self.context.seeking.is_some() || !is_unanswered || self.context.attempts > 0 {
            return self.on_lost(None);
        }
        if self.context.given_up != GivenUp::No {
            return self.finish_cancelled();
        }
        self.context.client.flow = None;
        self.stop_client();
        self.context.client.machine = ClientMachine::Waiting;
        self.locate(not);
    }

    pub(super) fn on_not_sent(&mut self, flow: FlowRef, again: bool) {
        self.unwatch();
        if again { self.on_lost(None) } else { self.on_unsent(Some(flow)) }
    }

    /// Another shard could not send on its flow, or knows that the binding has left it.
    pub(super) fn on_not_sent_elsewhere(&mut self, flow: FlowRef, left: bool) {
        if !self.context.client.flow.is_some_and(|sent| sent.is_same(flow)) {
            return;
        }
        self.unwatch();
        if left && self.context.client.machine.is_pending() && self.context.seeking.is_none() {
            self.locate(None);
        } else {
            self.on_unsent(Some(flow));
        }
    }

    /// A request that is under way over UDP is due again, and its binding has left that address or is over.
    pub(super) fn on_registration_over(&mut self) {
        if self.context.seeking.is_none() {
            self.locate(None);
        }
    }

    /// Another shard has no room for what it should send: that says nothing about the phone.
    pub(super) fn on_no_room(&mut self) {
        if self.context.client.machine.is_unanswered() || self.context.seeking.is_some() {
            self.finish(503, "Overloaded", Counter::Refused503Mailbox);
        }
    }

    /// The system has refused the datagram.
    pub(super) fn on_unsendable(&mut self, fault: SendFault) {
        if self.context.client.machine.is_unanswered() {
            let (code, reason, counter) = match fault {
                SendFault::TooLarge => (513, "Message Too Large", Counter::Refused513Oversize),
                SendFault::Refused => (503, "Cannot Be Sent", Counter::Refused503Unsendable),
            };
            self.finish(code, reason, counter);
        }
    }

    // --- what has to be waited for ---------------------------------------------------------------------------

    /// Somebody else has been asked, and does not answer after `wait`.
    pub(super) fn on_asked(&mut self, seeking: Seeking, wait: Duration) {
        self.context.seeking = Some(seeking);
        self.arm(TxnTimer::Location, wait);
    }

    /// Who was asked has not answered: its mailbox or the shard is in trouble, or no resolver is there.
    pub(super) fn on_location_timer(&mut self) {
        match self.context.seeking.take() {
            Some(Seeking::Device) => {
                self.count(Counter::LimitHomeAnswer);
                self.try_next();
            }
            Some(Seeking::Name) => {
                self.act(Action::ForgetName);
                self.count(Counter::LimitNameAnswer);
                self.finish(503, "Name Not Resolved", Counter::Refused503NameUnanswered);
            }
            // The phone counts as gone.
            Some(Seeking::Home | Seeking::Address(_)) => {
                self.count(Counter::LimitHomeAnswer);
                self.finish_gone();
            }
            None => {}
        }
    }
}
