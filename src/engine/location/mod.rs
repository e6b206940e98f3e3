//! Location: *where is it now?* A machine of its own, which the engine asks and tells, and whose [`Action`]s it carries out.
//!
//! Owns: the table of this shard's flows, this shard's part of the directory, and who waits for a phone to come back. What
//! several locations know of one binding they tell each other by [`Notice`]s. Must not touch: connections (their bytes,
//! deadlines and sides), response contexts, connections to servers and devices, or how anything is sent.
//!
//! # The rules
//!
//! DESIGN.md, What it does on the wire, 4 and 7. A binding moves when a 2xx to REGISTER binds it to another flow: its home
//! says so to the owner of the flow that it had, which remembers it. So each question is asked where a move is known first.
//!
//! **Where is a binding?** ([`Location::find`], at its home)
//!
//! 1. Where the directory says; but not over a flow that who asks knows to be gone, nor over a connection of this shard
//!    that is gone or takes no requests: it is taken from the binding, whose phone is away then.
//! 2. Nowhere. Who asked may wait for its phone to come back ([`Location::wait_for`]).
//!
//! **Where has a binding gone that had this flow?** ([`Location::moved_from`]; what a token names, or the flow that a request
//! came by) As far as this shard knows, without asking anybody:
//!
//! 1. Where the directory says, when this shard is its home, unless that flow is known here to be gone.
//! 2. When the flow is another shard's: there. Its owner knows better, and says so when it is asked to send.
//! 3. When the flow is gone: nowhere that is known here. A UDP address is gone when the binding's registration there is
//!    over, for it may be another phone's by now.
//! 4. Where the flow's row says that the binding has moved, and so on from there; a connection that it moved to and that is
//!    gone is for who sends to find, who may learn of a newer one.
//! 5. The flow itself: the binding has not moved, as far as is known.
//!
//! **Whose is an address?** ([`Location::flow_at`]) The connection that was accepted from it, when it is ready and no
//! server's; over UDP the address itself.
//!
//! **Whose is a Request-URI?** ([`Location::look_up`])
//!
//! **What may go over a flow?** Nothing when it is gone ([`Location::is_there`]). Over half a connection, whose peer says
//! nothing more, responses alone ([`Location::carries`], [`Location::takes_requests`]). Over a UDP address that another
//! binding has by now, no request of a dialog that names it ([`Location::is_open_to`]).

mod bindings;
mod flows;
mod look_up;
pub mod notice;
#[cfg(test)]
mod tests;
mod waiters;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

pub(super) use bindings::Accepted;
pub(super) use flows::{Lost, is_response};
pub(super) use look_up::Found;
pub(super) use waiters::{Asker, Waits};

use super::io::Level;
use super::ports::{Env, KeyedState, Ports, halve};
use crate::clock::Time;
use crate::config::engine::Settings;
use crate::flow::directory::Directory;
use crate::flow::keys::Keys;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Side, Transport};
use crate::limits::FLOW_ATTEMPTS_MAX;
use crate::planted::{Plant, planted};
use crate::sip::{Message, Name, NameAddr, Uri};
use crate::stats::{Counter, Gauge, Gauges};
use crate::wheel::TimerId;
use flows::{Flow, Flows, holds};
use notice::{Notice, Whereabouts};
use waiters::Waiters;

/// What location wants done, in the order in which it is to be done.
#[derive(Debug)]
pub(super) enum Action {
    /// Tell the location of a shard, which may be this one.
    Tell { shard: ShardId, notice: Notice },
    /// Tell who has asked where a binding is.
    Answer { asker: Asker, flow: Option<FlowRef> },
    /// Its binding has a flow again: send it there.
    Wake { what: Waits, binding: BindingId, flow: FlowRef },
    /// It has waited in vain: let it go.
    InVain { what: Waits },
    /// A connection has its first binding now, or none any more.
    Registered { conn: ConnId, is_registered: bool },
    /// An operator should hear this of a phone.
    Event { level: Level, what: &'static str, peer: SocketAddr, aor: Box<[u8]> },
}

/// One shard's location of flows and bindings.
#[derive(Debug)]
pub(super) struct Location {
    flows: Flows,
    directory: Directory,
    /// When each binding of the directory may have expired.
    timers: HashMap<BindingId, TimerId, KeyedState>,
    waiters: Waiters,
    actions: VecDeque<Action>,
}

impl Location {
    pub(super) fn new(settings: &Settings, keys: &Keys, state: KeyedState) -> Self {
        let bindings_max = settings.connections_max.saturating_mul(2).max(1_024) as usize;
        Self {
            flows: Flows::new(settings.connections_max as usize, state.clone()),
            directory: Directory::new(keys.clone(), bindings_max),
            timers: HashMap::with_hasher(state.clone()),
            waiters: Waiters::new(settings.transactions_max as usize, state),
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do. To be drained after each call that changes something.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn tell(&mut self, shard: ShardId, notice: Notice) {
        self.actions.push_back(Action::Tell { shard, notice });
    }

    fn event(&mut self, level: Level, what: &'static str, peer: SocketAddr, aor: Box<[u8]>) {
        self.actions.push_back(Action::Event { level, what, peer, aor });
    }

    // --- where is it now? --------------------------------------------------------------------------------------------

    /// The flow of a binding, at its home. One that is known to be gone counts as none, and is taken from it.
    pub(super) fn find(
        &mut self,
        binding: BindingId,
        not: Option<FlowRef>,
        env: &Env,
        ports: &mut Ports,
    ) -> Option<FlowRef> {
        let flow = self.directory.find(binding)?.flow?;
        let is_gone = not.is_some_and(|not| not.is_same(flow))
            // Its loss may be known here before the directory has heard of it.
            || matches!(flow, FlowRef::Stream { shard, conn, .. } if shard == env.me() && !self.takes_requests(conn));
        if is_gone {
            self.on_flow_gone(flow, binding, ports);
            return None;
        }
        Some(flow)
    }

    /// The flow that a binding has now, by what this shard knows of it and of a flow that it had. `None` when that is gone.
    pub(super) fn moved_from(&self, flow: FlowRef, binding: Option<BindingId>, env: &Env) -> Option<FlowRef> {
        if planted(Plant::FlowNotAskedForBinding) {
            return Some(flow);
        }
        let found = binding.and_then(|binding| self.directory.find(binding)).and_then(|found| found.flow);
        if let Some(found) = found.filter(|found| self.is_there(*found, env)) {
            return Some(found);
        }
        self.step(flow, binding, env)?;
        let last = self.last_of(flow, binding, env);
        if last.is_stream() { Some(last) } else { self.step(last, binding, env).map(|_| last) }
    }

    /// What is left to a dialog that names a flow when its binding has none: the UDP address that this went to last from
    /// there, as far as is known here, else what it names.
    pub(super) fn left_to(&self, named: FlowRef, binding: BindingId, env: &Env) -> FlowRef {
        let last = self.last_of(named, Some(binding), env);
        if last.is_stream() { named } else { last }
    }

    /// The flow that a binding had last, as far as the rows of this shard say from one that it had. It may be gone.
    fn last_of(&self, mut flow: FlowRef, binding: Option<BindingId>, env: &Env) -> FlowRef {
        for _ in 0..=FLOW_ATTEMPTS_MAX {
            let Some(next) = self.step(flow, binding, env) else { break };
            let stays = next.is_same(flow);
            flow = next;
            if stays {
                break;
            }
        }
        flow
    }

    /// What the row of a flow of this shard says: where a binding has gone, or `None` when the flow is gone. Without a
    /// binding nothing can have moved.
    pub(super) fn step(&self, flow: FlowRef, binding: Option<BindingId>, env: &Env) -> Option<FlowRef> {
        if flow.shard() != env.me() {
            return Some(flow);
        }
        let bound = |row: &Flow| row.bound.iter().find(|bound| Some(bound.binding) == binding).copied();
        match (flow, binding) {
            (FlowRef::Stream { conn, .. }, _) => {
                let moved_to = bound(self.flows.stream(conn)?).and_then(|bound| bound.moved_to);
                Some(moved_to.unwrap_or(flow))
            }
            (FlowRef::Udp { .. }, None) => Some(flow),
            (FlowRef::Udp { point, remote, .. }, Some(_)) => {
                Some(bound(self.flows.udp(point, remote)?)?.moved_to.unwrap_or(flow))
            }
        }
    }

    /// A flow towards an endpoint at an address, with a binding that it has: a connection of this shard that was
    /// accepted from there, or over UDP the address itself.
    pub(super) fn flow_at(
        &self,
        transport: Transport,
        remote: SocketAddr,
        env: &Env,
    ) -> Option<(FlowRef, Option<BindingId>)> {
        let shard = env.me();
        if !transport.is_stream() {
            let point = env.settings.point_for(transport, Side::Endpoint, remote.ip())?;
            return Some((
                FlowRef::Udp { shard, point, remote },
                self.flows.udp(point, remote).and_then(Flow::binding),
            ));
        }
        let (conn, flow) = self.flows.accepted_from(transport, remote)?;
        Some((FlowRef::Stream { shard, conn, point: flow.point }, flow.binding()))
    }

    // --- what may go over it? ----------------------------------------------------------------------------------------

    /// Whether a flow is not known here to be gone.
    pub(super) fn is_there(&self, flow: FlowRef, env: &Env) -> bool {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == env.me() => self.flows.stream(conn).is_some(),
            _ => true,
        }
    }

    /// Whether requests may be sent over a connection of this shard.
    pub(super) fn takes_requests(&self, conn: ConnId) -> bool {
        self.flows.stream(conn).is_some_and(Flow::takes_requests)
    }

    /// Whether a connection of this shard can carry a message: it is not gone, and not gone for this one.
    pub(super) fn carries(&self, conn: ConnId, message: &[u8]) -> bool {
        self.flows.stream(conn).is_some_and(|flow| flow.takes_requests() || is_response(message))
    }

    /// Whether a request for a binding, of a dialog that names a flow, may still go over that, as far as is known here.
    pub(super) fn is_open_to(&self, flow: FlowRef, binding: Option<BindingId>, env: &Env) -> bool {
        match flow {
            _ if flow.shard() != env.me() => true,
            FlowRef::Stream { conn, .. } => self.takes_requests(conn),
            // An address may be somebody else's by now.
            FlowRef::Udp { point, remote, .. } => {
                let holder = self.flows.udp(point, remote).and_then(Flow::binding);
                holder.is_none_or(|holder| Some(holder) == binding)
            }
        }
    }

    /// Whether any flow is held.
    pub(super) fn holds_flows(&self) -> bool {
        !self.flows.is_empty()
    }

    // --- whose is it? ------------------------------------------------------------------------------------------------

    /// The binding that a message of a flow of this shard belongs to: that of its sender's user, who stands in From of a
    /// request and in To of a response; else the flow's, when the message comes straight from its maker. One that has left
    /// the flow is nobody else's who uses that since, and behind an edge, which adds a Via, there are many.
    pub(super) fn binding_of(&self, flow: FlowRef, message: &Message, env: &Env) -> Option<BindingId> {
        let flow = self.flows.get(flow)?;
        let is_direct = || !message.is_request() || message.count_values(Name::Via) == 1;
        if let ([only], true) = (&*flow.bound, flow.is_registered())
            && is_direct()
        {
            return Some(only.binding);
        }
        let user = if flow.bound.is_empty() { None } else { user16_of_sender(message, env) };
        let of_user = flow.bound.iter().filter(|bound| Some(bound.binding.user) == user);
        let named = of_user.min_by_key(|bound| bound.moved_to.is_some()).map(|bound| bound.binding);
        named.or_else(|| flow.binding().filter(|_| is_direct()))
    }

    /// What is bound here, to be read.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    // --- what happens ------------------------------------------------------------------------------------------------

    /// A connection has got its slot; `accepted` over which transport, when its peer has opened it.
    pub(super) fn open(&mut self, conn: ConnId, point: PointId, remote: SocketAddr, accepted: Option<Transport>) {
        self.flows.open(conn, point, remote, accepted);
    }

    /// Whether a connection's peer may be named by its address: it is ready for SIP, and its peer is no server.
    pub(super) fn face(&mut self, conn: ConnId, endpoint: bool) {
        self.flows.face(conn, endpoint);
    }

    /// Another shard has sent on a connection.
    pub(super) fn note_use(&mut self, conn: ConnId, by: ShardId) {
        self.flows.note_use(conn, by);
    }

    /// A connection's peer says nothing more. Its bindings' homes are for the caller to tell.
    pub(super) fn half_close(&mut self, conn: ConnId) -> Lost {
        self.flows.half_close(conn)
    }

    /// A connection is gone. Its bindings' homes are for the caller to tell.
    pub(super) fn close(&mut self, conn: ConnId) -> Lost {
        self.flows.close(conn)
    }

    /// What another shard's location, or this one, has to say.
    pub(super) fn on_notice(&mut self, notice: Notice, env: &Env, ports: &mut Ports) {
        match notice {
            Notice::Bound { flow, binding, until } => {
                let held = match flow {
                    FlowRef::Stream { conn, .. } => {
                        let is_first = self.flows.bind_stream(conn, binding, ports);
                        if is_first == Some(true) {
                            self.actions.push_back(Action::Registered { conn, is_registered: true });
                        }
                        is_first.is_some()
                    }
                    FlowRef::Udp { point, remote, .. } => self.flows.bind_udp(point, remote, binding, until, ports),
                };
                if !held {
                    self.tell(binding.home(env.settings.shards), Notice::FlowGone { flow, binding });
                }
            }
            Notice::Moved { flow, binding, to } => self.unbind(flow, binding, Some(to), ports),
            Notice::Unbound { flow, binding } => self.unbind(flow, binding, None, ports),
            Notice::FlowGone { flow, binding } => self.on_flow_gone(flow, binding, ports),
            Notice::ForgetContact { contact, until } => self.directory.forget_contact(contact, until),
            Notice::PutContact { contact, binding, until } => {
                if self.directory.put_contact(contact, binding, until).is_err() {
                    ports.count(Counter::LimitBindings);
                }
            }
            Notice::DropContact { contact, binding } => {
                self.directory.drop_contact(contact, binding);
            }
        }
    }

    fn unbind(&mut self, flow: FlowRef, binding: BindingId, to: Option<FlowRef>, ports: &mut Ports) {
        match flow {
            FlowRef::Stream { conn, .. } => {
                if self.flows.unbind_stream(conn, binding, to, ports) {
                    self.actions.push_back(Action::Registered { conn, is_registered: false });
                }
            }
            FlowRef::Udp { point, remote, .. } => self.flows.unbind_udp(point, remote, binding, to, ports),
        }
    }

    /// Someone asks where a binding is.
    pub(super) fn on_ask(&mut self, asker: Asker, asked: Whereabouts, env: &Env, ports: &mut Ports, now: Time) {
        let Whereabouts { binding, not, wait } = asked;
        match self.find(binding, not, env, ports) {
            Some(flow) => {
                ports.count(if not.is_some() { Counter::ResolvedMoved } else { Counter::ResolvedFound });
                self.actions.push_back(Action::Answer { asker, flow: Some(flow) });
            }
            None if !self.waiters.add(binding, wait, Waits::Request(asker), env, ports, now) => {
                ports.count(Counter::ResolvedMissing);
                self.actions.push_back(Action::Answer { asker, flow: None });
            }
            None => {}
        }
    }

    /// Keeps an ACK or a message until its phone comes back, `flow-grace` at most. `false`, and it is dropped, when it may
    /// not wait.
    pub(super) fn wait_for(
        &mut self,
        binding: BindingId,
        what: Waits,
        env: &Env,
        ports: &mut Ports,
        now: Time,
    ) -> bool {
        self.waiters.add(binding, env.settings.live.flow_grace, what, env, ports, now)
    }

    /// Somebody has waited long enough for a phone to come back.
    pub(super) fn on_waiter_timer(&mut self, id: ConnId, ports: &mut Ports) {
        if let Some(what) = self.waiters.on_timer(id, ports) {
            self.actions.push_back(Action::InVain { what });
        }
    }

    /// A UDP flow may have expired.
    pub(super) fn on_udp_timer(&mut self, id: ConnId, ports: &mut Ports, now: Time) {
        self.flows.on_timer(id, ports, now);
    }

    // --- what there is -----------------------------------------------------------------------------------------------

    /// Bytes of messages that wait.
    pub(super) fn held_len(&self) -> u64 {
        self.waiters.held_len()
    }

    pub(super) fn show(&self, gauges: &mut Gauges) {
        gauges.set_len(Gauge::RegisteredFlowsUdp, self.flows.udp_registered_len());
        gauges.set_len(Gauge::UdpFlows, self.flows.udp_len());
        gauges.set_len(Gauge::Bindings, self.directory.len());
        gauges.set_len(Gauge::ContextsGrace, self.waiters.len());
    }

    pub(super) fn nobody_waits(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
            && self.flows.is_empty()
            && self.directory.is_empty()
            && self.directory.remote_contacts_len() == 0
            && self.timers.is_empty()
    }

    /// Lets go of the room in tables that a burst has left behind.
    pub(super) fn shrink(&mut self) {
        self.flows.shrink();
        halve(&mut self.timers);
        self.waiters.shrink();
    }

    #[cfg(test)]
    pub(super) fn addresses_room(&self) -> usize {
        self.flows.addresses_room()
    }

    /// Walks everything. For tests, after any input.
    ///
    /// # Errors
    /// Which invariant is broken.
    pub(super) fn check(&self, env: &Env) -> Result<(), &'static str> {
        self.flows.check()?;
        self.waiters.check()?;
        holds(self.actions.is_empty(), "what location wants is done at once")?;
        let ids = || self.directory.iter().map(|binding| binding.id);
        holds(self.timers.keys().all(|id| self.directory.find(*id).is_some()), "a timer is of a binding")?;
        holds(ids().count() == self.timers.len(), "a binding has its timer")?;
        holds(ids().all(|id| id.home(env.settings.shards) == env.me()), "a binding is at its home")
    }

    /// Timers that run for it.
    pub(super) fn timers_len(&self) -> usize {
        self.timers.len() + self.waiters.len() + self.flows.udp_len()
    }

    /// Whether a connection carries a binding.
    pub(super) fn is_registered(&self, conn: ConnId) -> bool {
        self.flows.stream(conn).is_some_and(Flow::is_registered)
    }
}

fn user16_of_sender(message: &Message, env: &Env) -> Option<u16> {
    let sender = if message.is_request() { Name::From } else { Name::To };
    let value = NameAddr::parse(message.buf(), message.first(sender)?.value).ok()?;
    let uri = Uri::parse(message.buf(), value.uri).ok()?;
    Some(env.user16_of(&uri, message.buf()))
}
