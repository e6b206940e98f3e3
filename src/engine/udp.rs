//! UDP: datagrams in, and the flows of phones that registered over UDP, at the shard where their datagrams
//! land (RFC 5626 §3: a remote address with the local socket).
//!
//! A flow that all bindings have moved away from is remembered for dialogs that name it, until they would have expired.
//! That only saves a question to the binding's home, so it gives way when the table is full: a phone that comes by ever
//! new ports keeps nobody else out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::conns::{Bound, push_bound};
use super::{Engine, KeyedState, Source, Timer};
use crate::clock::Time;
use crate::flow::table::Slots;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, Side};
use crate::proxy::Origin;
use crate::sip::Message;
use crate::stats::Counter;
use crate::wheel::TimerId;

/// One remote address with its bindings.
#[derive(Debug)]
struct UdpFlow {
    point: PointId,
    remote: SocketAddr,
    bound: SmallVec<[Bound; 1]>,
    until: Time,
    /// Looks whether it has ended, and again while it has not.
    timer: Option<TimerId>,
    /// Its place among those that give way.
    left: Option<u64>,
}

impl UdpFlow {
    fn is_left(&self) -> bool {
        !self.bound.is_empty() && self.bound.iter().all(|bound| bound.moved_to.is_some())
    }
}

/// The UDP flows of one shard.
#[derive(Debug)]
pub(super) struct UdpFlows {
    flows: Slots<UdpFlow>,
    by_address: HashMap<(PointId, SocketAddr), ConnId, KeyedState>,
    /// Those whose bindings have all moved away, in the order in which they were left.
    left: BTreeMap<u64, ConnId>,
    /// Flows that were ever left.
    left_count: u64,
}

impl UdpFlows {
    pub(super) fn new(flows_max: u32, state: KeyedState) -> Self {
        Self {
            flows: Slots::new(flows_max as usize),
            by_address: HashMap::with_hasher(state),
            left: BTreeMap::new(),
            left_count: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    fn get(&self, point: PointId, remote: SocketAddr) -> Option<&UdpFlow> {
        self.flows.get(*self.by_address.get(&(point, remote))?)
    }

    /// The flow that a binding has now, by what is known of one that it had: itself, the one that it moved
    /// to, or `None` when its registration is over. Without a binding nothing can have moved.
    pub(super) fn follow(
        &self,
        point: PointId,
        remote: SocketAddr,
        binding: Option<BindingId>,
        flow: FlowRef,
    ) -> Option<FlowRef> {
        let Some(binding) = binding else { return Some(flow) };
        let bound = self.get(point, remote)?.bound.iter().find(|bound| bound.binding == binding)?;
        Some(bound.moved_to.unwrap_or(flow))
    }

    /// A flow's bindings have changed: it is among those that give way exactly while all of them have moved away.
    fn note_left(&mut self, id: ConnId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        match (flow.is_left(), flow.left) {
            (true, None) => {
                self.left_count += 1;
                self.left.insert(self.left_count, id);
                flow.left = Some(self.left_count);
            }
            (false, Some(place)) => {
                self.left.remove(&place);
                flow.left = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// The flow that gives way when there is no room for another: the one that was left first.
    fn oldest_left(&self) -> Option<ConnId> {
        self.left.first_key_value().map(|(_, id)| *id)
    }

    /// Whether those that give way are those that a walk finds: for tests.
    pub(super) fn order_holds(&self) -> bool {
        let is_right = |(id, flow): (ConnId, &UdpFlow)| match flow.left {
            Some(place) => flow.is_left() && self.left.get(&place) == Some(&id),
            None => !flow.is_left(),
        };
        self.flows.iter().all(is_right)
            && self.flows.iter().filter(|(_, flow)| flow.is_left()).count() == self.left.len()
    }

    /// A binding that an address has.
    pub(super) fn binding_at(&self, point: PointId, remote: SocketAddr) -> Option<BindingId> {
        self.get(point, remote)?.bound.iter().find(|bound| bound.moved_to.is_none()).map(|bound| bound.binding)
    }
}

impl Engine {
    pub(super) fn on_datagram(&mut self, point: PointId, from: SocketAddr, bytes: &[u8], now: Time) {
        self.count(Counter::MessagesInUdp);
        self.ports.counters.add(Counter::BytesInUdp, bytes.len() as u64);
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            // What phones send to keep a NAT open; a datagram that says nothing gets no answer.
            return self.count(Counter::KeepalivePing);
        }
        let buf = self.ports.pool.copy(bytes);
        match Message::scan(buf, false) {
            Ok(message) => {
                let mut origin = self.env.names.origin_of_datagram(from);
                if !self.env.settings.point(point).serves(Side::Server) && origin.side == Side::Server {
                    origin = Origin::ENDPOINT;
                }
                let Origin { side, is_peer } = origin;
                self.heard_from(from, now);
                let bound = self.udp.get(point, from).map_or(&[][..], |flow| &flow.bound);
                let binding = self.binding_of(bound, &message);
                let flow = FlowRef::Udp { shard: self.me(), point, remote: from };
                self.on_message(message, Source { flow, peer: from, side, is_peer, binding }, now);
            }
            Err((error, buf)) => {
                self.ports.counters.count_with_bound(Counter::scan_error(error));
                self.event("message dropped: it cannot be answered", Some(from), buf.get(..64).unwrap_or(&buf));
                self.ports.pool.give(buf);
            }
        }
    }

    /// A registration over UDP holds until `until`.
    pub(super) fn bind_udp(&mut self, point: PointId, remote: SocketAddr, binding: BindingId, until: Time) -> bool {
        let id = match self.udp.by_address.get(&(point, remote)) {
            Some(id) => *id,
            None => {
                let flow = UdpFlow { point, remote, bound: SmallVec::new(), until, timer: None, left: None };
                if self.udp.flows.is_full() {
                    self.count(Counter::LimitConnections);
                    if let Some(oldest) = self.udp.oldest_left() {
                        self.end_udp(oldest);
                    }
                }
                let Some(id) = self.udp.flows.insert(flow) else { return false };
                self.udp.by_address.insert((point, remote), id);
                self.arm_udp(id, until);
                self.count(Counter::FlowOpened);
                id
            }
        };
        let Some(flow) = self.udp.flows.get_mut(id) else { return false };
        flow.until = flow.until.max(until);
        match flow.bound.iter_mut().find(|bound| bound.binding == binding) {
            Some(bound) => bound.moved_to = None,
            None => {
                if !push_bound(&mut flow.bound, binding) {
                    self.count(Counter::LimitBindingsPerFlow);
                    return false;
                }
            }
        }
        self.udp.note_left(id);
        true
    }

    /// A binding has left a UDP flow, to another or for good. One that moved is remembered until it would have
    /// expired, for dialogs that name the old flow.
    pub(super) fn unbind_udp(&mut self, point: PointId, remote: SocketAddr, binding: BindingId, to: Option<FlowRef>) {
        let Some(id) = self.udp.by_address.get(&(point, remote)).copied() else { return };
        let Some(flow) = self.udp.flows.get_mut(id) else { return };
        match to {
            Some(to) => {
                if let Some(bound) = flow.bound.iter_mut().find(|bound| bound.binding == binding) {
                    bound.moved_to = Some(to);
                }
            }
            None => flow.bound.retain(|bound| bound.binding != binding || bound.moved_to.is_some()),
        }
        if flow.bound.is_empty() { self.end_udp(id) } else { self.udp.note_left(id) }
    }

    /// A refresh only moves `until`: the timer looks again when it fires.
    fn arm_udp(&mut self, id: ConnId, at: Time) {
        let timer = self.ports.wheel.arm(at, Timer::Udp(id));
        if let Some(flow) = self.udp.flows.get_mut(id) {
            flow.timer = Some(timer);
        }
    }

    fn end_udp(&mut self, id: ConnId) {
        let Some(flow) = self.udp.flows.remove(id) else { return };
        self.udp.by_address.remove(&(flow.point, flow.remote));
        if let Some(place) = flow.left {
            self.udp.left.remove(&place);
        }
        if let Some(timer) = flow.timer {
            self.ports.wheel.cancel(timer);
        }
        self.count(Counter::FlowClosed);
    }

    pub(super) fn on_udp_timer(&mut self, id: ConnId, now: Time) {
        let Some(flow) = self.udp.flows.get_mut(id) else { return };
        flow.timer = None;
        let until = flow.until;
        if until <= now { self.end_udp(id) } else { self.arm_udp(id, until) }
    }
}
