//! UDP: datagrams in.

use std::net::SocketAddr;

use super::{Engine, Source};
use crate::clock::Time;
use crate::ids::{FlowRef, PointId, Side};
use crate::proxy::Origin;
use crate::sip::Message;
use crate::stats::Counter;

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
                let flow = FlowRef::Udp { shard: self.me(), point, remote: from };
                let binding = self.location.binding_of(flow, &message, &self.env);
                self.on_message(message, Source { flow, peer: from, side, is_peer, is_forwarded: false, binding }, now);
            }
            Err((error, buf)) => {
                self.ports.counters.count_with_bound(Counter::scan_error(error));
                self.event("message dropped: it cannot be answered", Some(from), buf.get(..64).unwrap_or(&buf));
                self.ports.pool.give(buf);
            }
        }
    }
}
