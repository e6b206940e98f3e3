//! Targets that are addresses: what X-Genesys-Route names, and devices that did not register (DESIGN.md, What it does
//! on the wire, 2 and 5).
//!
//! Owns: how such a target becomes a flow. The connection to a device is that of the shard that the hash of its target
//! names; the others ask it for the flow, or give it what has no transaction. Must not touch: tokens and bindings.
//!
//! Only a request of the server side comes here. What an endpoint has sent opens no connection and asks no resolver:
//! where the Request-URI of a dialog may hold a name that only an endpoint supplied (its Contact), a name is not
//! followed.

use smallvec::SmallVec;

use super::ack::AckWay;
use super::connections::{Place, place_of};
use super::exchange::{Exchange, Onward, Which};
use super::io::{By, Letter};
use super::links::{Hop, Whose};
use super::onward::Hops;
use super::{ConnectFailure, Engine, Mail, Source};
use crate::clock::Time;
use crate::ids::{BindingId, FlowRef, ShardId, Side};
use crate::limits::HOME_ANSWER_MAX;
use crate::proxy::{Target, Walk, target};
use crate::sip::{Message, Uri};
use crate::tls::identity::Expected;
use crate::transaction::branch::TxnId;

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
            self.mail(shard, Mail::FindPeer { txn: id, transport: hop.transport, remote: hop.address });
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

    // --- what has no transaction -------------------------------------------------------------------------------

    /// A CANCEL, or an ACK to an error, of a request whose connection is gone.
    pub(super) fn send_anew(&mut self, exchange: &Exchange, bytes: Vec<u8>, now: Time) {
        let (Some(hops), Some(hop)) = (exchange.hops.as_deref(), exchange.hop) else {
            // A UDP address takes what belongs to its exchange, though its registration is over.
            let (gone, by) = match exchange.next {
                Some(address) if !address.is_stream() => (None, By::BindingOr(address)),
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
                let order = self.peer_targets(peer, now);
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
