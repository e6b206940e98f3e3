//! Targets that are addresses: what X-Genesys-Route names, and devices that did not register (DESIGN.md, What it does
//! on the wire, 2 and 5).
//!
//! Owns: how such a target becomes a flow. The connection to a device is that of the shard that the hash of its target
//! names; the others ask it for the flow, or give it what has no transaction. Must not touch: tokens and bindings.
//!
//! Only a request of the server side comes here. What an endpoint has sent opens no connection and asks no resolver:
//! where the Request-URI of a dialog may hold a name that only an endpoint supplied (its Contact), a name is not
//! followed.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::ack::AckWay;
use super::exchange::{Exchange, Onward, Which};
use super::links::{Hop, LinkKey, Whose};
use super::mail::{Answer, By, Letter, Query};
use super::onward::Hops;
use super::{ConnectFailure, Engine, Mail, Source};
use crate::clock::Time;
use crate::dns::Question;
use crate::ids::{BindingId, FlowRef, ShardId, Side, Transport};
use crate::limits::HOME_ANSWER_MAX;
use crate::proxy::{Target, Walk, target};
use crate::sip::{Host, Message, Scheme, Uri};
use crate::tls::identity::{Expected, TlsPeer};
use crate::transaction::branch::TxnId;

/// What a URI names (RFC 3263 §4).
pub(super) enum Place {
    /// An address.
    At(Hop),
    /// A name, to be asked for.
    Named(Question),
}

/// What a URI names, and the host that a certificate there must carry.
fn place_of(uri: &Uri, buf: &[u8]) -> (Place, Expected) {
    let secure = uri.scheme == Scheme::Sips;
    // sips with transport=tcp is TLS (RFC 3261 §26.2.2).
    let explicit = uri.transport(buf).flatten().map(|by| if secure { Transport::Tls } else { by });
    let default = if secure { Transport::Tls } else { Transport::Udp };
    // Without a dot at its end.
    let text = |host: Host| {
        let mut name = Vec::new();
        host.write(buf, &mut name);
        String::from_utf8_lossy(&name).into_owned()
    };
    // `maddr` says where to ask, and nothing of who is to answer (RFC 5922 §7.3 compares the URI's host).
    let expected = uri.host.ip().map_or_else(|| Expected::Name(text(uri.host)), Expected::Address);
    let host = uri.host_to_ask(buf).unwrap_or(uri.host);
    let place = match host.ip() {
        Some(ip) => {
            let transport = explicit.unwrap_or(default);
            let port = uri.port.unwrap_or_else(|| transport.default_port());
            Place::At(Hop { transport, address: SocketAddr::new(ip, port) })
        }
        None => Place::Named(Question { host: text(host).into(), port: uri.port, transport: explicit, secure }),
    };
    (place, expected)
}

impl Engine {
    // --- X-Genesys-Route ---------------------------------------------------------------------------------------

    /// The SIP Server names its target's address: over UDP it is sent there; a connection is one of ours whose peer
    /// it is, here or at another shard.
    pub(super) fn aim_at(&mut self, id: TxnId, exchange: &mut Exchange, walk: &Walk, hop: Hop, now: Time) {
        if let Some((flow, binding)) = self.flow_at(hop.transport, hop.address) {
            if !hop.transport.is_stream() && binding.is_none() {
                return self.aim_at_address(id, exchange, Some(walk), hop, Expected::Address(hop.address.ip()), now);
            }
            exchange.binding = binding;
            return self.send_request(id, exchange, walk, flow, now);
        }
        let others = (0..self.env.settings.shards).map(ShardId).filter(|shard| *shard != self.me());
        let others: SmallVec<[ShardId; 8]> = others.collect();
        if others.is_empty() || !hop.transport.is_stream() {
            return self.aim_without_flow(id, exchange, hop, now);
        }
        exchange.resolving = true;
        exchange.peers_asked = u8::try_from(others.len()).unwrap_or(u8::MAX);
        self.arm(id, exchange, Which::Wait, now.after(HOME_ANSWER_MAX));
        for shard in others {
            let query = Query::Address { transport: hop.transport, remote: hop.address };
            self.mail(shard, Mail::Ask { txn: id, query });
        }
    }

    /// A shard has said whether it holds the flow.
    pub(super) fn on_peer(&mut self, id: TxnId, found: Option<(FlowRef, Option<BindingId>)>, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.peers_asked > 0 && exchange.resolving && exchange.onward == Onward::Flow {
            exchange.peers_asked -= 1;
            if found.is_some() || exchange.peers_asked == 0 {
                exchange.peers_asked = 0;
                exchange.resolving = false;
                self.stop(&mut exchange, Which::Wait);
                match found {
                    Some((flow, binding)) => {
                        exchange.binding = binding;
                        self.send_after_wait(id, &mut exchange, None, flow, now);
                    }
                    None => self.aim_without_flow_again(id, &mut exchange, now),
                }
            }
        }
        self.put_back(id, exchange);
    }

    fn aim_without_flow_again(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let Some(request) = exchange.request.as_deref() else { return };
        match target::address_in_header(request, &self.env.names) {
            Some(Target::Address { transport, remote }) => {
                self.aim_without_flow(id, exchange, Hop { transport, address: remote }, now);
            }
            _ => self.finish_gone(id, exchange, now),
        }
    }

    /// Nobody is connected from the address in X-Genesys-Route. Where the request names a phone that registered, it
    /// is that phone's address of before, and no connection is opened to a phone; else it is a device's.
    fn aim_without_flow(&mut self, id: TxnId, exchange: &mut Exchange, hop: Hop, now: Time) {
        let Some(request) = exchange.request.as_deref() else { return };
        let walk = crate::proxy::route::walk(request, &exchange.source, &self.env.names, &self.env.keys);
        let phone = target::of_phone(request, &walk, &self.env.names, self.env.here);
        let phone = phone.filter(|target| match target {
            Target::Table => self.look_up(request, now) != super::home::Found::Nobody,
            _ => true,
        });
        match phone {
            Some(target) => self.aim(id, exchange, &walk, target, now),
            None => self.aim_at_address(id, exchange, Some(&walk), hop, Expected::Address(hop.address.ip()), now),
        }
    }

    // --- devices -----------------------------------------------------------------------------------------------

    /// Sends a request of the server side to what a URI names.
    pub(super) fn aim_at_uri(&mut self, id: TxnId, exchange: &mut Exchange, walk: &Walk, uri: Uri, now: Time) {
        let Some(request) = exchange.request.as_deref() else { return };
        if let Err(refusal) = target::reachable(&uri, request.buf()) {
            return self.finish_refused(id, exchange, refusal, now);
        }
        match place_of(&uri, request.buf()) {
            (Place::At(hop), host) => self.aim_at_address(id, exchange, Some(walk), hop, host, now),
            (Place::Named(question), host) => self.ask_for_targets(id, exchange, walk, question, host, now),
        }
    }

    fn aim_at_address(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        walk: Option<&Walk>,
        hop: Hop,
        host: Expected,
        now: Time,
    ) {
        exchange.onward = Onward::Hops;
        exchange.hops = Some(Box::new(Hops::to_device(SmallVec::from_slice(&[hop]), host, hop.address.port())));
        self.try_hop(id, exchange, walk, now);
    }

    /// Another shard wants the connection to a device, which belongs to this one.
    pub(super) fn on_find_device(&mut self, from: ShardId, txn: TxnId, hop: Hop, tls: Option<&TlsPeer>, now: Time) {
        let whose = self.whose_device(tls);
        let found = match self.flow_to(hop, whose, tls, now) {
            Some(flow) => Ok(flow),
            None => Err(self.why_not(hop, whose, now)),
        };
        if let Ok(FlowRef::Stream { conn, .. }) = found {
            self.note_use(conn, from);
        }
        self.mail(from, Mail::Answer { txn, answer: Answer::Device { hop, found } });
    }

    /// The device's shard has answered.
    pub(super) fn on_device(&mut self, id: TxnId, hop: Hop, found: Result<FlowRef, Option<ConnectFailure>>, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.peers_asked > 0 && exchange.resolving && exchange.hop == Some(hop) {
            exchange.peers_asked = 0;
            exchange.resolving = false;
            self.stop(&mut exchange, Which::Wait);
            match found {
                Ok(flow) => self.send_after_wait(id, &mut exchange, None, flow, now),
                Err(failure) => {
                    if let Some(hops) = &mut exchange.hops {
                        hops.failure = failure;
                    }
                    self.try_hop(id, &mut exchange, None, now);
                }
            }
        }
        self.put_back(id, exchange);
    }

    /// Why the last attempt to reach an address has failed.
    pub(super) fn why_not(&self, hop: Hop, whose: Whose, now: Time) -> Option<ConnectFailure> {
        let key = LinkKey { whose, transport: hop.transport, address: hop.address };
        self.links.get(&key).filter(|link| link.rests(now))?.failure()
    }

    /// The connection that a server's token named is gone, and it was no phone's: the Request-URI may lead to who had
    /// it, over the same transport. Over another it could be anybody.
    pub(super) fn aim_beyond(&mut self, id: TxnId, exchange: &mut Exchange, lost: Option<FlowRef>, now: Time) {
        let Some(request) = exchange.request.as_deref() else { return };
        if exchange.source.side != Side::Server {
            return self.finish_gone(id, exchange, now);
        }
        let walk = crate::proxy::route::walk(request, &exchange.source, &self.env.names, &self.env.keys);
        match self.beyond_lost(request, &walk, lost) {
            Some(target) => {
                self.aim(id, exchange, &walk, target, now);
            }
            None => self.finish_gone(id, exchange, now),
        }
    }

    fn beyond_lost(&self, request: &Message, walk: &Walk, lost: Option<FlowRef>) -> Option<Target> {
        let transport = lost.map(|flow| self.transport_of(flow)).filter(|transport| transport.is_stream());
        let opened = walk.token.is_some_and(|token| token.opened);
        // What an endpoint says of itself opens no connection; the settings may know the address as a device's.
        let may_open = |hop: Hop| opened || self.env.settings.device_at(hop.address.ip()).is_some();
        target::beyond_table(request, &self.env.names).ok().filter(|target| match target {
            Target::Uri(uri) => match place_of(uri, request.buf()) {
                (Place::At(hop), _) => (Some(hop.transport) == transport && may_open(hop)) || self.aims_at(hop),
                // It stands in the device's Contact, and nobody else has named it.
                (Place::Named(_), _) => false,
            },
            _ => true,
        })
    }

    /// Whether a URI's host is known to be somebody else's than a phone's: a server's, another site's, or a device's by the
    /// settings or because it was sent to over UDP.
    pub(super) fn is_known(&self, uri: &Uri, buf: &[u8]) -> bool {
        let is_servers = self.env.names.has_users_at(uri.host, buf) || self.env.names.peer_of_uri(uri).is_some();
        is_servers
            || match place_of(uri, buf) {
                (Place::At(hop), _) => self.env.settings.device_at(hop.address.ip()).is_some() || self.aims_at(hop),
                (Place::Named(_), _) => false,
            }
    }

    /// Whether the proxy sends requests to a device at this UDP address: what was too large for a datagram may have
    /// gone to it over TCP.
    fn aims_at(&self, hop: Hop) -> bool {
        let key = LinkKey { whose: self.whose_device(None), transport: Transport::Udp, address: hop.address };
        !hop.transport.is_stream() && self.links.contains_key(&key)
    }

    // --- what has no transaction -------------------------------------------------------------------------------

    /// Sends an ACK or a CANCEL to a device: by its shard, which opens the connection when it is gone.
    pub(super) fn send_to_device(&mut self, hop: Hop, host: &Expected, port: u16, bytes: Vec<u8>, now: Time) {
        if !hop.transport.is_stream() {
            return self.on_to_device(hop, None, bytes, now);
        }
        let (shard, tls) = self.device_of(hop, host, port);
        self.mail(shard, Mail::ToDevice { hop, tls, bytes });
    }

    /// See [`Mail::ToDevice`].
    pub(super) fn on_to_device(&mut self, hop: Hop, tls: Option<&TlsPeer>, bytes: Vec<u8>, now: Time) {
        let flow = self.flow_to(hop, self.whose_device(tls), tls, now);
        let unsent = match flow {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        if let Some(bytes) = unsent {
            self.drop_letter(bytes);
        }
    }

    /// The shard that holds the connection to a device, and what its certificate must carry.
    pub(super) fn device_of(&self, hop: Hop, host: &Expected, port: u16) -> (ShardId, Option<Box<TlsPeer>>) {
        let tls = (hop.transport == Transport::Tls).then(|| Box::new(self.tls_of_device(host, hop.address)));
        let shard = match host {
            Expected::Name(name) => self.shard_of_device(name.as_bytes(), port, hop.transport),
            Expected::Address(ip) => self.shard_of_device(ip.to_string().as_bytes(), port, hop.transport),
        };
        (shard, tls)
    }

    /// A CANCEL, or an ACK to an error, of a request whose connection is gone.
    pub(super) fn send_anew(&mut self, exchange: &Exchange, bytes: Vec<u8>, now: Time) {
        let (Some(hops), Some(hop)) = (exchange.hops.as_deref(), exchange.hop) else {
            // A UDP address takes what belongs to its exchange, though its registration is over.
            let (gone, by) = match exchange.next {
                Some(address) if !address.is_stream() => (None, By::BindingOr(Box::new(address))),
                gone => (gone, By::Binding),
            };
            return self.deliver(gone, Letter { bytes, binding: exchange.binding, txn: None, by });
        };
        match hops.peer {
            None => self.send_to_device(hop, &hops.host.clone(), hops.port, bytes, now),
            Some(peer) => match self.flow_to(hop, Whose::Peer(peer), None, now) {
                Some(flow) => {
                    if let Err(bytes) = self.send_on(flow, None, bytes, None) {
                        self.drop_letter(bytes);
                    }
                }
                None => self.drop_letter(bytes),
            },
        }
    }

    /// Where an ACK to a 2xx goes that no flow of ours was found for. `lost` is the flow that its token named.
    pub(super) fn ack_beyond_lost(
        &mut self,
        ack: &Message,
        source: &Source,
        walk: &Walk,
        lost: Option<FlowRef>,
        now: Time,
    ) -> AckWay {
        if source.side != Side::Server {
            return AckWay::Nowhere;
        }
        match self.beyond_lost(ack, walk, lost) {
            Some(target) => self.ack_to(ack, target, now),
            None => AckWay::Nowhere,
        }
    }

    /// Where an ACK to a 2xx goes that is for no phone. It cannot wait for a name: one that is not known is of no use.
    pub(super) fn ack_to(&mut self, ack: &Message, target: Target, now: Time) -> AckWay {
        match target {
            Target::Server { pair, at } => self.server_flow(pair, at, ack, now).map_or(AckWay::Nowhere, AckWay::to),
            Target::Peer { peer } => {
                let targets = self.peers.get(usize::from(peer)).cloned().unwrap_or_default();
                let order = self.dns.order(&targets, now);
                let hops = order.iter().map(Hop::from);
                let flow = hops.into_iter().find_map(|hop| self.flow_to(hop, Whose::Peer(peer), None, now));
                flow.map_or(AckWay::Nowhere, AckWay::to)
            }
            Target::Uri(uri) => {
                if target::reachable(&uri, ack.buf()).is_err() {
                    return AckWay::Nowhere;
                }
                let (place, host) = place_of(&uri, ack.buf());
                let (hop, port) = match place {
                    Place::At(hop) => (Some(hop), hop.address.port()),
                    Place::Named(question) => {
                        let nobody = super::onward::waiter_of(TxnId::NONE);
                        let answer = self.dns.ask(&question, nobody, now, &mut self.ports.counters);
                        self.dns.give_up(nobody);
                        let targets = answer.and_then(Result::ok).unwrap_or_else(|| std::sync::Arc::new([]));
                        (self.usable(&targets, now).first().copied(), question.port.unwrap_or(0))
                    }
                };
                hop.map_or(AckWay::Nowhere, |hop| AckWay::Device { hop, host, port })
            }
            Target::Address { transport, remote } => {
                let hop = Hop { transport, address: remote };
                AckWay::Device { hop, host: Expected::Address(remote.ip()), port: remote.port() }
            }
            _ => AckWay::Nowhere,
        }
    }
}
