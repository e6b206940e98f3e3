//! UDP: datagrams in.

use std::net::SocketAddr;

use super::{Engine, Source};
use crate::clock::Time;
use crate::ids::{FlowRef, PointId, Side};
use crate::proxy::Origin;
use crate::proxy_header;
use crate::sip::Message;
use crate::stats::Counter;

impl Engine {
    /// `source`: whose it is, when a load balancer has forwarded it.
    pub(super) fn on_datagram(
        &mut self,
        point: PointId,
        from: SocketAddr,
        source: Option<SocketAddr>,
        bytes: &[u8],
        came: Time,
        now: Time,
    ) {
        let (peer, is_forwarded) = (source.unwrap_or(from), source.is_some());
        self.count(Counter::MessagesInUdp);
        self.note_wait(now.since(came), now);
        self.ports.counters.add(Counter::BytesInUdp, bytes.len() as u64);
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            // What phones send to keep a NAT open; a datagram that says nothing gets no answer.
            return self.count(Counter::KeepalivePing);
        }
        if proxy_header::is_one(bytes) {
            self.count(Counter::ProxyHeaderUnexpected);
            return self.event(proxy_header::UNEXPECTED, Some(peer), b"");
        }
        let buf = self.ports.pool.copy(bytes);
        match Message::scan(buf, false) {
            Ok(mut message) => {
                message.set_came(came);
                let mut origin = if is_forwarded { Origin::FORWARDED } else { self.env.names.origin_of_datagram(from) };
                if !self.env.settings.point(point).serves(Side::Server) && origin.side == Side::Server {
                    origin = Origin::ENDPOINT;
                }
                let Origin { side, is_peer } = origin;
                self.heard_from(from, now);
                let flow = FlowRef::Udp { shard: self.me(), point, remote: from };
                let binding = self.location.binding_of(flow, &message, &self.env);
                self.on_message(message, Source { flow, peer, side, is_peer, is_forwarded, binding }, now);
            }
            Err((error, buf)) => {
                self.ports.counters.count_with_bound(Counter::scan_error(error));
                self.event("message dropped: it cannot be answered", Some(peer), buf.get(..64).unwrap_or(&buf));
                self.ports.pool.give(buf);
            }
        }
    }
}
