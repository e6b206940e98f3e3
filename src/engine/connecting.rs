//! Connections to servers, peers and devices: what [`super::connections`] asks for is carried out here, and what it
//! says is passed on.

use std::net::SocketAddr;

use super::connections::{Element, Way};
use super::mail::Answer;
use super::{ConnectFailure, Engine, Mail};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{FlowRef, ShardId, Side, Transport};
use crate::tls::identity::{Expected, TlsPeer};
use crate::transaction::branch::TxnId;

impl Engine {
    // --- what is asked for -----------------------------------------------------------------------------------

    /// The flow to an address, opened when there is none. `expected` is what a device's certificate must carry.
    ///
    /// # Errors
    /// None for now: it rests, as the last attempt has failed so; or no listening point of ours fits it, or there is no
    /// room.
    pub(super) fn reach(
        &mut self,
        hop: NextHop,
        whose: Element,
        expected: Option<&TlsPeer>,
        now: Time,
    ) -> Result<FlowRef, Option<ConnectFailure>> {
        match self.connections.way_to(hop, whose, expected, &self.env, &mut self.ports, now) {
            Way::Flow(flow) => Ok(flow),
            Way::Open { point, key, tls } => {
                let conn = self.open(point, key, tls, now).ok_or(None)?;
                self.connections.opening(key, conn, now);
                Ok(FlowRef::Stream { shard: self.me(), conn, point })
            }
            Way::Resting(failure) => Err(failure),
            Way::NoPoint | Way::NoRoom => Err(None),
        }
    }

    /// The same for who does not ask why there is none.
    pub(super) fn flow_to(
        &mut self,
        hop: NextHop,
        whose: Element,
        expected: Option<&TlsPeer>,
        now: Time,
    ) -> Option<FlowRef> {
        self.reach(hop, whose, expected, now).ok()
    }

    /// The connection over TCP to an address that a request is too large for over UDP, when it is known to take TCP
    /// (RFC 3261 §18.1.1). Until that is known, one is opened for those to come, and the request in hand does not
    /// wait for it.
    pub(super) fn large_flow(&mut self, side: Side, address: SocketAddr, now: Time) -> Option<FlowRef> {
        let (hop, whose) = (NextHop { transport: Transport::Tcp, address }, Element::Large(side));
        let open = self.connections.is_open(whose, hop);
        self.flow_to(hop, whose, None, now).filter(|_| open)
    }

    /// A connection is tried at once, however often it has failed.
    pub(super) fn no_rest(&mut self, hop: NextHop, whose: Element) {
        self.connections.no_rest(whose, hop);
    }

    // --- what is told ----------------------------------------------------------------------------------------

    // --- devices, for other shards ---------------------------------------------------------------------------

    /// Another shard wants the connection to a device, which belongs to this one.
    pub(super) fn on_find_device(&mut self, from: ShardId, txn: TxnId, hop: NextHop, tls: Option<&TlsPeer>, now: Time) {
        let found = self.reach(hop, self.element_of_device(tls), tls, now);
        if let Ok(FlowRef::Stream { conn, .. }) = found {
            self.note_use(conn, from);
        }
        self.mail(from, Mail::Answer { txn, answer: Answer::Device { hop, found } });
    }

    /// Sends an ACK or a CANCEL to a device: by its shard, which opens the connection when it is gone.
    pub(super) fn send_to_device(&mut self, hop: NextHop, host: &Expected, port: u16, bytes: Vec<u8>, now: Time) {
        if !hop.transport.is_stream() {
            return self.on_to_device(hop, None, bytes, now);
        }
        let (shard, tls) = self.device_of(hop, host, port);
        self.mail(shard, Mail::ToDevice { hop, tls, bytes });
    }

    /// See [`Mail::ToDevice`].
    pub(super) fn on_to_device(&mut self, hop: NextHop, tls: Option<&TlsPeer>, bytes: Vec<u8>, now: Time) {
        let flow = self.flow_to(hop, self.element_of_device(tls), tls, now);
        let unsent = match flow {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        if let Some(bytes) = unsent {
            self.drop_letter(bytes);
        }
    }
}
