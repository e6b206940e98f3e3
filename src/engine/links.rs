//! Connections to servers, peers and devices: what [`super::connections`] asks for is carried out here, and what it
//! says is passed on.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::connections::Element;
use super::connections::{self, Action, Actions, Way};
use super::context::{ResponseContext, Why};
use super::mail::Answer;
use super::{CloseReason, ConnectFailure, Engine, Mail, Upstream};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::dns::Target;
use crate::ids::{ConnId, FlowRef, ShardId, Side, Transport};
use crate::sip::{Message, Uri};
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
    pub(super) fn whose_device(&self, tls: Option<&TlsPeer>) -> Element {
        connections::element_of_device(tls, &self.env.keys)
    }

    /// The shard that holds the connection to a device, and what its certificate must carry.
    pub(super) fn device_of(&self, hop: NextHop, host: &Expected, port: u16) -> (ShardId, Option<Box<TlsPeer>>) {
        let settings = &self.env.settings;
        let tls = || Box::new(connections::tls_of_device(host, hop.address, settings));
        let shard = connections::shard_of_device(host, port, hop.transport, &self.env.keys, settings.shards);
        (shard, (hop.transport == Transport::Tls).then(tls))
    }

    /// Whether a URI's host is known to be somebody else's than a phone's.
    pub(super) fn is_known(&self, uri: &Uri, buf: &[u8]) -> bool {
        self.connections.is_known(uri, buf, &self.env)
    }

    /// Whether the proxy sends requests to a device at this UDP address.
    pub(super) fn aims_at(&self, hop: NextHop) -> bool {
        self.connections.aims_at(hop, &self.env)
    }

    // --- what is told ----------------------------------------------------------------------------------------

    /// A connection that we opened is ready.
    pub(super) fn link_ready(&mut self, key: connections::ConnectionKey, now: Time) {
        let actions = self.connections.ready(key, &mut self.ports, now);
        self.carry_out_for_connections(actions, now);
    }

    /// A connection that we opened, or wanted to, is gone.
    pub(super) fn link_closed(
        &mut self,
        key: connections::ConnectionKey,
        conn: ConnId,
        reason: CloseReason,
        now: Time,
    ) {
        let actions = self.connections.closed(key, conn, reason, &mut self.ports, now);
        self.carry_out_for_connections(actions, now);
    }

    /// The system says that a UDP destination cannot be reached.
    pub(super) fn on_unreachable(&mut self, to: SocketAddr, now: Time) {
        // Of the sockets that share a port one is told: its shard tells the others. Of a phone there is nobody to tell.
        if self.on_unreachable_here(to, now) {
            self.ports.mail_others(self.env.settings.shards, || Mail::Unreachable { to });
        }
    }

    /// `false` when it was known, or says nothing of anybody that this proxy sends requests to.
    pub(super) fn on_unreachable_here(&mut self, to: SocketAddr, now: Time) -> bool {
        let actions = self.connections.unreachable(to, &self.env, &mut self.ports, now);
        let is_news = actions.is_some();
        self.carry_out_for_connections(actions.unwrap_or_default(), now);
        is_news
    }

    /// See [`Mail::AimsAt`].
    pub(super) fn on_aims_at(&mut self, address: SocketAddr, now: Time) {
        if self.connections.on_aims_at(address, &self.env, &mut self.ports, now) {
            self.on_unreachable(address, now);
        }
    }

    /// A datagram has come from an address.
    pub(super) fn heard_from(&mut self, from: SocketAddr, now: Time) {
        self.connections.heard(from, &self.env, &mut self.ports, now);
    }

    /// The owner's verdict: new requests go by it, and those that wait for a server that does not answer move on.
    pub(super) fn on_view(&mut self, upstream: Upstream, now: Time) {
        self.env.names.set_servers(&upstream.view);
        for (index, targets) in upstream.peers.iter().enumerate() {
            self.env.names.set_peer(index, targets.iter().map(|target| target.address));
        }
        let verdict = self.connections.on_verdict(upstream, &self.env.settings);
        for to in &verdict.back {
            self.dns.unblock(to.transport, to.address);
        }
        if !verdict.back.is_empty() {
            let back: Vec<SocketAddr> = verdict.back.iter().map(|to| to.address).collect();
            self.forgive(&back);
        }
        for down in verdict.down {
            let is_its = |one: &ResponseContext| one.targets.pair() == Some(down.pair);
            self.move_from(down.address, Why::Verdict, true, is_its, now);
            if down.refuses {
                let why = Why::Connection(Some(ConnectFailure::Refused));
                self.move_from(down.address, why, false, is_its, now);
            }
        }
    }

    fn carry_out_for_connections(&mut self, actions: Actions, now: Time) {
        for action in actions {
            match action {
                Action::Block(to) => self.dns.block(to.transport, to.address, now, &mut self.ports.counters),
                Action::Unblock(to) => self.dns.unblock(to.transport, to.address),
                Action::ChecksLost(sent_by, evidence) => self.on_checks_lost(sent_by, evidence, now),
                Action::Evidence((pair, address, evidence)) => self.tell_evidence(pair, address, evidence),
                Action::Move(address) => {
                    let why = Why::Connection(Some(ConnectFailure::Refused));
                    let is_its = |one: &ResponseContext| one.client.hop.is_some_and(|hop| !hop.transport.is_stream());
                    self.move_from(address, why, false, is_its, now);
                }
            }
        }
    }

    // --- devices, for other shards ---------------------------------------------------------------------------

    /// Another shard wants the connection to a device, which belongs to this one.
    pub(super) fn on_find_device(&mut self, from: ShardId, txn: TxnId, hop: NextHop, tls: Option<&TlsPeer>, now: Time) {
        let found = self.reach(hop, self.whose_device(tls), tls, now);
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
        let flow = self.flow_to(hop, self.whose_device(tls), tls, now);
        let unsent = match flow {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        if let Some(bytes) = unsent {
            self.drop_letter(bytes);
        }
    }
}
