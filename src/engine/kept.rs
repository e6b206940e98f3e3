//! Counts that are kept where what they count changes, so that a snapshot costs the same whatever a shard holds.
//!
//! Owns: the numbers. A context is counted while it lies in its slot: it can only change while it is taken out
//! (`Contexts::take`), and is counted as what it then is when it is put back. A connection is counted from its slot's
//! begin to its end, and by whether it carries a binding. [`super::Engine::check`] compares them with a walk.

use super::context::Slot;
use crate::ids::Transport;
use crate::stats::{Gauge, Gauges};

/// What a connection is taken to hold: what was measured of an idle TLS phone (perf/README.md).
const CONNECTION_HELD_LEN: u64 = 6 * 1024;

/// What an engine holds, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Server transactions that are not over.
    server: u64,
    /// Client transactions that wait for a final response.
    client: u64,
    /// Contexts that have asked a binding's home.
    home: u64,
    /// Server transactions without a final response.
    open: u64,
    /// Bytes that contexts hold.
    bytes: u64,
    tcp: Streams,
    tls: Streams,
}

/// The connections of one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streams {
    all: u64,
    /// Of those, with a binding.
    bound: u64,
}

impl Kept {
    /// A context lies in its slot again.
    pub(super) fn add(&mut self, slot: &Slot) {
        for (count, one) in self.of(slot) {
            *count += one;
        }
    }

    /// A context was taken out of its slot, and may change.
    pub(super) fn take(&mut self, slot: &Slot) {
        for (count, one) in self.of(slot) {
            *count -= one;
        }
    }

    /// What a context adds to each count.
    fn of(&mut self, slot: &Slot) -> [(&mut u64, u64); 5] {
        let (server, client, home, open, bytes) = match slot {
            Slot::Open(context) => (
                !context.server.is_over,
                context.client.machine.is_pending(),
                context.seeking.is_some(),
                context.server.machine.is_open(),
                context.held_len(),
            ),
            Slot::Absorber(absorber) => (!absorber.server_is_over(), false, false, false, absorber.held_len()),
        };
        [
            (&mut self.server, u64::from(server)),
            (&mut self.client, u64::from(client)),
            (&mut self.home, u64::from(home)),
            (&mut self.open, u64::from(open)),
            (&mut self.bytes, bytes as u64),
        ]
    }

    /// A connection has a slot, and no binding yet.
    pub(super) fn conn_came(&mut self, transport: Transport) {
        self.streams(transport).all += 1;
    }

    /// A connection has none any more.
    pub(super) fn conn_went(&mut self, transport: Transport, registered: bool) {
        let streams = self.streams(transport);
        streams.all -= 1;
        streams.bound -= u64::from(registered);
    }

    /// A connection got its first binding, or lost its last.
    pub(super) fn conn_bound(&mut self, transport: Transport, registered: bool) {
        let streams = self.streams(transport);
        streams.bound = if registered { streams.bound + 1 } else { streams.bound - 1 };
    }

    fn streams(&mut self, transport: Transport) -> &mut Streams {
        if transport == Transport::Tls { &mut self.tls } else { &mut self.tcp }
    }

    /// About what all of it takes, in bytes; a connection's TLS session and buffers are not asked.
    pub(super) fn held_len(&self) -> u64 {
        self.bytes + (self.tcp.all + self.tls.all) * CONNECTION_HELD_LEN
    }

    /// Whether contexts hold so many bytes.
    pub(super) fn contexts_hold(&self, len: u64) -> bool {
        self.bytes >= len
    }

    /// Contexts without a final response.
    pub(super) fn open(&self) -> usize {
        usize::try_from(self.open).unwrap_or(usize::MAX)
    }

    pub(super) fn show(&self, gauges: &mut Gauges) {
        gauges.set(Gauge::ConnectionsTcp, self.tcp.all);
        gauges.set(Gauge::ConnectionsTls, self.tls.all);
        gauges.set(Gauge::RegisteredFlowsTcp, self.tcp.bound);
        gauges.set(Gauge::RegisteredFlowsTls, self.tls.bound);
        gauges.set(Gauge::ConnectionsUnregistered, self.tcp.all + self.tls.all - self.tcp.bound - self.tls.bound);
        gauges.set(Gauge::TransactionsServer, self.server);
        gauges.set(Gauge::TransactionsClient, self.client);
        gauges.set(Gauge::TransactionsBytes, self.bytes);
        gauges.set(Gauge::ContextsHome, self.home);
    }
}
