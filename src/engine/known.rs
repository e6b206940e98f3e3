//! What the parts know, asked of them as the rest of the engine needs it.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::connections::Element;
use super::location::Found;
use super::{Engine, Located, connections};
use crate::clock::Time;
use crate::dns::{NextHop, Target};
use crate::ids::{BindingId, ConnId, FlowRef, ShardId, Transport};
use crate::sip::Message;
use crate::tls::identity::{Expected, Identities, TlsPeer};

impl Engine {
    /// See [`super::location::Location::moved_from`].
    pub(super) fn moved_from(&self, flow: FlowRef, binding: Option<BindingId>) -> Option<FlowRef> {
        self.location.moved_from(flow, binding, &self.env)
    }

    /// See [`super::location::Location::flow_at`].
    pub(super) fn flow_at(&self, transport: Transport, remote: SocketAddr) -> Option<(FlowRef, Option<BindingId>)> {
        self.location.flow_at(transport, remote, &self.env)
    }

    /// See [`super::location::Location::is_there`].
    pub(super) fn is_there(&self, flow: FlowRef) -> bool {
        self.location.is_there(flow, &self.env)
    }

    /// See [`super::location::Location::note_use`].
    pub(super) fn note_use(&mut self, conn: ConnId, by: ShardId) {
        self.location.note_use(conn, by);
    }

    /// See [`super::location::Location::look_up`].
    pub(super) fn look_up(&self, request: &Message, now: Time) -> Found {
        self.location.look_up(request, &self.env, now, |uri| self.connections.is_known(uri, request.buf(), &self.env))
    }

    /// What this shard knows of an AOR's bindings (only its home shard knows any). `aor` may lack its scheme.
    #[must_use]
    pub fn locate(&self, aor: &str, now: Time) -> Vec<Located> {
        self.location.locate(aor, &self.env, now)
    }

    /// Whether an address could not be reached, and is not tried for now.
    pub(super) fn rests(&self, hop: NextHop, whose: Element, now: Time) -> bool {
        self.connections.rests(whose, hop, now)
    }

    /// A server of a pair by its address.
    pub(super) fn hop_of_server(&self, pair: u8, address: SocketAddr) -> Option<NextHop> {
        let transport = self.env.settings.servers.get(usize::from(pair))?.transport;
        Some(NextHop { transport, address })
    }

    /// The server of a pair that gets a request; `tried` are left out.
    pub(super) fn server_of(
        &mut self,
        pair: u8,
        request: Option<&Message>,
        tried: &[SocketAddr],
        now: Time,
    ) -> Option<NextHop> {
        self.connections.upstream().server_of(pair, request, tried, &self.env, &mut self.dns, now)
    }

    /// Whether one of a pair's servers has been heard of.
    pub(super) fn was_server_heard(&self, pair: u8) -> bool {
        self.connections.upstream().pair(pair).is_none_or(|pair| pair.heard)
    }

    /// Where another site's proxy is, in the order in which its targets are tried.
    pub(super) fn peer_targets(&mut self, peer: u8, now: Time) -> SmallVec<[Target; 4]> {
        self.connections.upstream().peer_targets(peer, &mut self.dns, now)
    }

    /// The targets of a name that one request is tried at, in their order.
    pub(super) fn usable(&mut self, targets: &[Target], now: Time) -> SmallVec<[NextHop; 2]> {
        connections::usable(targets, &mut self.dns, now)
    }

    /// The element that a device is.
    pub(super) fn element_of_device(&self, tls: Option<&TlsPeer>) -> Element {
        connections::element_of_device(tls, &self.env.keys)
    }

    /// The shard that holds the connection to a device, and what its certificate must carry.
    pub(super) fn device_of(&self, hop: NextHop, host: &Expected, port: u16) -> (ShardId, Option<Box<TlsPeer>>) {
        let settings = &self.env.settings;
        let tls = || Box::new(connections::tls_of_device(host, hop.address, settings));
        let shard = connections::shard_of_device(host, port, hop.transport, &self.env.keys, settings.shards);
        (shard, (hop.transport == Transport::Tls).then(tls))
    }

    /// Whether the proxy sends requests to a device at this UDP address.
    pub(super) fn aims_at(&self, hop: NextHop) -> bool {
        self.connections.aims_at(hop, &self.env)
    }

    /// Whether a server of a pair answers, as far as is known.
    pub(super) fn server_answers(&self, pair: u8) -> bool {
        self.connections.upstream().answers(pair)
    }

    /// Whether a flow is a connection of this shard that we have opened.
    pub(super) fn is_opened(&self, flow: FlowRef) -> bool {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == self.me() => {
                self.conns.get(conn).is_some_and(|conn| conn.link.is_some())
            }
            _ => false,
        }
    }

    /// The names of the verified certificate that the peer of a flow of this shard has shown.
    #[must_use]
    pub fn identities_of(&self, flow: FlowRef) -> Option<&Identities> {
        match flow {
            FlowRef::Stream { shard, conn, .. } if shard == self.me() => self.conns.get(conn)?.identities.as_deref(),
            _ => None,
        }
    }

    /// The transport of a flow.
    pub(super) fn transport_of(&self, flow: FlowRef) -> Transport {
        self.env.transport_of(flow)
    }

    /// Whether a stream message of this transport is sent whole and in order.
    pub(super) fn is_reliable(&self, flow: FlowRef) -> bool {
        self.env.is_reliable(flow)
    }
}
