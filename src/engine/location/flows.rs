//! The table of flows of this shard: of each connection, and of each remote address that a phone has registered from over
//! UDP, what it carries.
//!
//! Owns: a row for each, found by connection or by address. Must not touch: the bytes of a connection, its deadlines, or
//! the side that its peer is on, which are the engine's; the directory.
//!
//! A row knows the bindings that its flow carries, and where those have gone that it carried. A UDP flow that all have left
//! is remembered for dialogs that name it, until they would have expired. That only saves a question to the binding's home,
//! so it gives way when the table is full: a phone that comes by ever new ports keeps nobody else out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::clock::Time;
use crate::engine::ports::{KeyedState, Ports, Timer, halve};
use crate::flow::table::Slots;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Transport};
use crate::limits::BINDINGS_PER_FLOW_MAX;
use crate::planted::{Plant, planted};
use crate::stats::Counter;
use crate::wheel::TimerId;

/// A binding that a flow carries, or carried before it moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) binding: BindingId,
    /// The flow that has it now, when it is another one.
    pub(super) moved_to: Option<FlowRef>,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) point: PointId,
    remote: SocketAddr,
    pub(super) bound: SmallVec<[Bound; 1]>,
    pub(super) kind: Kind,
}

/// What only a connection has, or only a UDP flow.
#[derive(Debug)]
pub(super) enum Kind {
    Stream {
        conn: ConnId,
        /// Its peer opened it: it is found by the peer's address.
        accepted: Option<Transport>,
        /// Its peer may be named by its address: it is ready for SIP, and its peer is no server.
        faces_endpoint: bool,
        /// Its peer says nothing more. It carries answers, and no request.
        half_closed: bool,
        /// Bit n: shard n has sent on this connection, and wants to hear of its end.
        used_by: u64,
    },
    Udp {
        until: Time,
        /// Looks whether it has ended, and again while it has not.
        timer: Option<TimerId>,
        /// Its place among those that give way.
        left: Option<u64>,
    },
}

/// How a flow is found by its peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    /// The last connection that was accepted from there, wherever it was accepted.
    Stream(Transport, SocketAddr),
    Udp(PointId, SocketAddr),
}

impl Flow {
    /// Whether it carries a binding now.
    pub(super) fn is_registered(&self) -> bool {
        self.binding().is_some()
    }

    /// A binding that it carries now.
    pub(super) fn binding(&self) -> Option<BindingId> {
        self.bound.iter().find(|bound| bound.moved_to.is_none()).map(|bound| bound.binding)
    }

    /// All bindings that it carried have moved away.
    fn is_left(&self) -> bool {
        !self.bound.is_empty() && !self.is_registered()
    }

    pub(super) fn takes_requests(&self) -> bool {
        !matches!(self.kind, Kind::Stream { half_closed: true, .. })
    }

    fn address(&self) -> Option<Address> {
        match self.kind {
            Kind::Stream { accepted, .. } => accepted.map(|transport| Address::Stream(transport, self.remote)),
            Kind::Udp { .. } => Some(Address::Udp(self.point, self.remote)),
        }
    }

    /// Adds a binding; `false` when that would be one too many. What has moved away gives way.
    fn bind(&mut self, binding: BindingId) -> bool {
        if let Some(known) = self.bound.iter_mut().find(|bound| bound.binding == binding) {
            known.moved_to = None;
            return true;
        }
        if self.bound.len() >= BINDINGS_PER_FLOW_MAX {
            let Some(moved) = self.bound.iter().position(|bound| bound.moved_to.is_some()) else { return false };
            self.bound.remove(moved);
        }
        self.bound.push(Bound { binding, moved_to: None });
        true
    }

    /// A binding has left it, to another flow or for good. One that moved before is remembered.
    fn unbind(&mut self, binding: BindingId, to: Option<FlowRef>) {
        match to {
            Some(to) => {
                if let Some(bound) = self.bound.iter_mut().find(|bound| bound.binding == binding) {
                    bound.moved_to = Some(to);
                }
            }
            None => self.bound.retain(|bound| bound.binding != binding || bound.moved_to.is_some()),
        }
    }
}

/// What a connection carried, and whom its end concerns.
#[derive(Debug, Default)]
pub(in crate::engine) struct Lost {
    /// Their homes are to be told.
    pub(in crate::engine) bindings: SmallVec<[BindingId; 1]>,
    used_by: u64,
}

impl Lost {
    /// The shards that have sent on it.
    pub(in crate::engine) fn users(&self, shards: u8) -> impl Iterator<Item = ShardId> + use<> {
        let used_by = self.used_by;
        (0..shards).filter(move |shard| used_by & (1 << (shard % 64)) != 0).map(ShardId)
    }
}

/// The flows of one shard.
#[derive(Debug)]
pub(super) struct Flows {
    rows: Slots<Flow>,
    /// The row of each slot of the shard's connections.
    streams: Vec<ConnId>,
    by_address: HashMap<Address, ConnId, KeyedState>,
    udp_len: usize,
    udp_len_max: usize,
    /// UDP flows whose bindings have all moved away, in the order in which they were left.
    left: BTreeMap<u64, ConnId>,
    /// Flows that were ever left.
    left_count: u64,
}

/// The row of a slot that has none: generation 0 names nothing.
const NO_ROW: ConnId = ConnId { slot: 0, generation: 0 };

impl Flows {
    pub(super) fn new(udp_len_max: usize, state: KeyedState) -> Self {
        Self {
            rows: Slots::new(usize::MAX),
            streams: Vec::new(),
            by_address: HashMap::with_hasher(state),
            udp_len: 0,
            udp_len_max,
            left: BTreeMap::new(),
            left_count: 0,
        }
    }

    pub(super) fn udp_len(&self) -> usize {
        self.udp_len
    }

    /// UDP flows that carry a binding now.
    pub(super) fn udp_registered_len(&self) -> usize {
        self.udp_len - self.left.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.by_address.is_empty() && self.left.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        halve(&mut self.by_address);
    }

    #[cfg(test)]
    pub(super) fn addresses_room(&self) -> usize {
        self.by_address.capacity()
    }

    // --- finding -----------------------------------------------------------------------------------------------------

    fn row_of(&self, conn: ConnId) -> Option<ConnId> {
        let row = *self.streams.get(conn.slot as usize)?;
        let is_its = |held: ConnId| held == conn || planted(Plant::GenerationUnchecked);
        let is_it = |flow: &Flow| matches!(flow.kind, Kind::Stream { conn: held, .. } if is_its(held));
        self.rows.get(row).is_some_and(is_it).then_some(row)
    }

    /// A connection.
    pub(super) fn stream(&self, conn: ConnId) -> Option<&Flow> {
        let flow = self.rows.get(*self.streams.get(conn.slot as usize)?)?;
        let is_its = |held: ConnId| held == conn || planted(Plant::GenerationUnchecked);
        matches!(flow.kind, Kind::Stream { conn: held, .. } if is_its(held)).then_some(flow)
    }

    fn stream_mut(&mut self, conn: ConnId) -> Option<&mut Flow> {
        let row = self.row_of(conn)?;
        self.rows.get_mut(row)
    }

    /// A remote address that a phone has registered from.
    pub(super) fn udp(&self, point: PointId, remote: SocketAddr) -> Option<&Flow> {
        self.rows.get(*self.by_address.get(&Address::Udp(point, remote))?)
    }

    /// A flow of this shard.
    pub(super) fn get(&self, flow: FlowRef) -> Option<&Flow> {
        match flow {
            FlowRef::Stream { conn, .. } => self.stream(conn),
            FlowRef::Udp { point, remote, .. } => self.udp(point, remote),
        }
    }

    /// The connection that was accepted last from an address, when its peer may be named by that.
    pub(super) fn accepted_from(&self, transport: Transport, remote: SocketAddr) -> Option<(ConnId, &Flow)> {
        let flow = self.rows.get(*self.by_address.get(&Address::Stream(transport, remote))?)?;
        match flow.kind {
            Kind::Stream { conn, faces_endpoint: true, .. } => Some((conn, flow)),
            _ => None,
        }
    }

    // --- connections -------------------------------------------------------------------------------------------------

    /// A connection has got its slot; `accepted` over which transport, when its peer has opened it.
    pub(super) fn open(&mut self, conn: ConnId, point: PointId, remote: SocketAddr, accepted: Option<Transport>) {
        let kind = Kind::Stream { conn, accepted, faces_endpoint: false, half_closed: false, used_by: 0 };
        let flow = Flow { point, remote, bound: SmallVec::new(), kind };
        let address = flow.address();
        let row = self.rows.insert(flow).expect("rows are bounded by connections and UDP flows");
        let slot = conn.slot as usize;
        if self.streams.len() <= slot {
            self.streams.resize(slot + 1, NO_ROW);
        }
        self.streams[slot] = row;
        if let Some(address) = address {
            self.by_address.insert(address, row);
        }
    }

    /// Whether a connection's peer may be named by its address.
    pub(super) fn face(&mut self, conn: ConnId, endpoint: bool) {
        if let Some(Flow { kind: Kind::Stream { faces_endpoint, .. }, .. }) = self.stream_mut(conn) {
            *faces_endpoint = endpoint;
        }
    }

    /// Another shard has sent on a connection.
    pub(super) fn note_use(&mut self, conn: ConnId, by: ShardId) {
        if let Some(Flow { kind: Kind::Stream { used_by, .. }, .. }) = self.stream_mut(conn) {
            *used_by |= 1 << (by.0 % 64);
        }
    }

    /// A connection is gone.
    pub(super) fn close(&mut self, conn: ConnId) -> Lost {
        let Some(row) = self.row_of(conn) else { return Lost::default() };
        let lost = self.half_close(conn);
        self.streams[conn.slot as usize] = NO_ROW;
        self.rows.remove(row);
        lost
    }

    /// A connection's peer says nothing more. What counted on its being there leaves it; where bindings have moved to stays
    /// known, for answers follow them.
    pub(super) fn half_close(&mut self, conn: ConnId) -> Lost {
        let Some(row) = self.row_of(conn) else { return Lost::default() };
        let Some(flow) = self.rows.get_mut(row) else { return Lost::default() };
        let here = flow.bound.iter().filter(|bound| bound.moved_to.is_none());
        let mut lost = Lost { bindings: here.map(|bound| bound.binding).collect(), used_by: 0 };
        flow.bound.retain(|bound| bound.moved_to.is_some());
        if let Kind::Stream { half_closed, used_by, .. } = &mut flow.kind {
            *half_closed = true;
            lost.used_by = std::mem::take(used_by);
        }
        if let Some(address) = flow.address()
            && self.by_address.get(&address) == Some(&row)
        {
            self.by_address.remove(&address);
        }
        lost
    }

    /// A connection has a binding now. `None` when it cannot have it, else whether that is its first.
    pub(super) fn bind_stream(&mut self, conn: ConnId, binding: BindingId, ports: &mut Ports) -> Option<bool> {
        let flow = self.stream_mut(conn).filter(|flow| flow.takes_requests())?;
        let is_first = !flow.is_registered();
        if !flow.bind(binding) {
            ports.count(Counter::LimitBindingsPerFlow);
            return None;
        }
        if is_first {
            ports.count(Counter::FlowOpened);
        }
        Some(is_first)
    }

    /// A binding has left a connection. Whether that was its last.
    pub(super) fn unbind_stream(
        &mut self,
        conn: ConnId,
        binding: BindingId,
        to: Option<FlowRef>,
        ports: &mut Ports,
    ) -> bool {
        let Some(flow) = self.stream_mut(conn) else { return false };
        let was_registered = flow.is_registered();
        flow.unbind(binding, to);
        let is_last = was_registered && !flow.is_registered();
        if is_last {
            ports.count(Counter::FlowClosed);
        }
        is_last
    }

    // --- UDP ---------------------------------------------------------------------------------------------------------

    /// A registration over UDP holds until `until`. `false` when there is no room for it.
    pub(super) fn bind_udp(
        &mut self,
        point: PointId,
        remote: SocketAddr,
        binding: BindingId,
        until: Time,
        ports: &mut Ports,
    ) -> bool {
        let known = self.by_address.get(&Address::Udp(point, remote)).copied();
        let Some(row) = known.or_else(|| self.open_udp(point, remote, until, ports)) else { return false };
        let Some(flow) = self.rows.get_mut(row) else { return false };
        if let Kind::Udp { until: held, .. } = &mut flow.kind {
            *held = until.max(*held);
        }
        if !flow.bind(binding) {
            ports.count(Counter::LimitBindingsPerFlow);
            return false;
        }
        self.note_left(row, ports);
        true
    }

    fn open_udp(&mut self, point: PointId, remote: SocketAddr, until: Time, ports: &mut Ports) -> Option<ConnId> {
        if self.udp_len >= self.udp_len_max {
            ports.count(Counter::LimitConnections);
            let oldest = self.left.first_key_value().map(|(_, row)| *row)?;
            self.end_udp(oldest, ports);
        }
        let kind = Kind::Udp { until, timer: None, left: None };
        let row = self.rows.insert(Flow { point, remote, bound: SmallVec::new(), kind })?;
        self.udp_len += 1;
        self.by_address.insert(Address::Udp(point, remote), row);
        self.arm_udp(row, until, ports);
        ports.count(Counter::FlowOpened);
        Some(row)
    }

    /// A binding has left a UDP flow, to another or for good.
    pub(super) fn unbind_udp(
        &mut self,
        point: PointId,
        remote: SocketAddr,
        binding: BindingId,
        to: Option<FlowRef>,
        ports: &mut Ports,
    ) {
        let Some(row) = self.by_address.get(&Address::Udp(point, remote)).copied() else { return };
        let Some(flow) = self.rows.get_mut(row) else { return };
        flow.unbind(binding, to);
        if flow.bound.is_empty() { self.end_udp(row, ports) } else { self.note_left(row, ports) }
    }

    /// A UDP flow may have expired.
    pub(super) fn on_timer(&mut self, row: ConnId, ports: &mut Ports, now: Time) {
        let Some(Flow { kind: Kind::Udp { until, timer, .. }, .. }) = self.rows.get_mut(row) else { return };
        *timer = None;
        let until = *until;
        if until <= now { self.end_udp(row, ports) } else { self.arm_udp(row, until, ports) }
    }

    /// A refresh only moves `until`: the timer looks again when it fires.
    fn arm_udp(&mut self, row: ConnId, at: Time, ports: &mut Ports) {
        if let Some(Flow { kind: Kind::Udp { timer, .. }, .. }) = self.rows.get_mut(row) {
            *timer = Some(ports.wheel.arm(at, Timer::Udp(row)));
        }
    }

    fn end_udp(&mut self, row: ConnId, ports: &mut Ports) {
        let Some(flow) = self.rows.remove(row) else { return };
        self.by_address.remove(&Address::Udp(flow.point, flow.remote));
        self.udp_len -= 1;
        if let Kind::Udp { timer, left, .. } = flow.kind {
            if let Some(timer) = timer {
                ports.wheel.cancel(timer);
            }
            match left {
                // It was counted when its last binding left.
                Some(place) => drop(self.left.remove(&place)),
                None => ports.count(Counter::FlowClosed),
            }
        }
    }

    /// A flow's bindings have changed: it is among those that give way exactly while all of them have moved away.
    fn note_left(&mut self, row: ConnId, ports: &mut Ports) {
        let Some(flow) = self.rows.get_mut(row) else { return };
        let is_left = flow.is_left();
        let Kind::Udp { left, .. } = &mut flow.kind else { return };
        match (is_left, *left) {
            (true, None) => {
                self.left_count += 1;
                self.left.insert(self.left_count, row);
                *left = Some(self.left_count);
                ports.count(Counter::FlowClosed);
            }
            (false, Some(place)) => {
                self.left.remove(&place);
                *left = None;
                ports.count(Counter::FlowOpened);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    // --- for tests ---------------------------------------------------------------------------------------------------

    /// Walks all rows, and hashes nothing.
    ///
    /// # Errors
    /// Which invariant is broken.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let (mut streams, mut udp, mut left) = (0, 0, 0);
        for (row, flow) in self.rows.iter() {
            holds(flow.bound.len() <= BINDINGS_PER_FLOW_MAX, "the bindings of a flow are bounded")?;
            match &flow.kind {
                Kind::Stream { conn, half_closed, .. } => {
                    streams += 1;
                    holds(self.row_of(*conn) == Some(row), "a connection's slot leads to its row")?;
                    holds(!(*half_closed && flow.is_registered()), "half a connection carries no binding")?;
                }
                Kind::Udp { timer, left: place, .. } => {
                    udp += 1;
                    left += usize::from(flow.is_left());
                    holds(timer.is_some() && !flow.bound.is_empty(), "a UDP flow has bindings, and an end")?;
                    holds(place.is_some() == flow.is_left(), "a UDP flow is left when all bindings have moved away")?;
                    let leads = |place| self.left.get(&place) == Some(&row);
                    holds(place.is_none_or(leads), "a left UDP flow is found in its order")?;
                }
            }
        }
        let mut udp_named = 0;
        for (address, row) in &self.by_address {
            let flow = self.rows.get(*row).filter(|flow| flow.takes_requests());
            holds(flow.and_then(Flow::address) == Some(*address), "an address leads to a whole flow that has it")?;
            udp_named += usize::from(matches!(address, Address::Udp(..)));
        }
        let slots = self.streams.iter().filter(|row| **row != NO_ROW).count();
        holds(slots == streams, "a slot without a connection has no row")?;
        holds(udp_named == udp, "a UDP flow is found by its address")?;
        holds(left == self.left.len(), "what has left is a flow")?;
        holds(udp == self.udp_len && udp <= self.udp_len_max, "UDP flows are counted, and bounded")
    }
}

/// An invariant.
pub(super) fn holds(is_so: bool, what: &'static str) -> Result<(), &'static str> {
    if is_so { Ok(()) } else { Err(what) }
}

/// Whether a message is a response. Ours are whole, and begin so.
pub(in crate::engine) fn is_response(bytes: &[u8]) -> bool {
    bytes.starts_with(b"SIP/2.0 ")
}
