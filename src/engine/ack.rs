//! ACK: absorbed by the transaction that sent an error, else forwarded without state (RFC 3261 §16.11, §17.2.1).

use super::connections::Element;
use super::context::Slot;
use super::context::{Event, tag_of};
use super::location::Found;
use super::mail::{AckMail, By};
use super::words::in_words;
use super::{Engine, Mail, Source};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{BindingId, FlowRef, Side};
use crate::proxy::{Place, RouteSet, Target, place_of, target, validate};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::tls::identity::Expected;

impl Engine {
    pub(super) fn on_ack(&mut self, ack: Box<Message>, source: Source, routes: &RouteSet, now: Time) {
        let invite = self.invite_of(&ack, &source);
        let key = invite.map_or_else(|| self.key_of(&ack, Method::Invite, &source), |(_, key)| key);
        let absorbs = |id| self.contexts.get(id).is_some_and(Slot::absorbs_ack);
        if let Some((id, _)) = invite.filter(|(id, _)| absorbs(*id)) {
            self.on_context(id, Event::Ack, now);
            return self.recycle_message(ack);
        }
        self.count(Counter::request(source.side, Method::Ack));
        // An ACK to an error that we made without a transaction ends here.
        if ack.to_tag().eq_ignore_ascii_case(&tag_of(key)) {
            self.count(Counter::AbsorbedAck);
            return self.recycle_message(ack);
        }
        self.forward_ack(ack, source, routes, key, now);
    }

    /// An ACK to a 2xx is its own transaction, forwarded without state (RFC 3261 §16.11).
    fn forward_ack(&mut self, ack: Box<Message>, source: Source, routes: &RouteSet, key: u128, now: Time) {
        let loop_hash = validate::loop_hash(&ack, source.side, &self.env.keys);
        let target = validate::validate(&ack, false, loop_hash, &self.env.names)
            .and_then(|()| target::target(&ack, routes, source.side, &self.env.names, self.env.here));
        let way = match target {
            Err(_) | Ok(Target::Myself | Target::Gone { .. }) => {
                self.count(Counter::AckRefused);
                self.event("ACK dropped: it may go nowhere", Some(source.peer), &in_words(&ack));
                return self.recycle_message(ack);
            }
            Ok(Target::Flow { flow, binding, .. }) => match (self.moved_from(flow, binding), binding) {
                (Some(to), binding) => AckWay::Flow { flow: to, binding, named: flow },
                (None, Some(binding)) => {
                    AckWay::Home { binding, not: Some(self.location.left_to(flow, binding, &self.env)) }
                }
                (None, None) => self.ack_beyond_lost(&ack, &source, routes, Some(flow), now),
            },
            Ok(Target::Binding { binding, .. }) => AckWay::Home { binding, not: None },
            Ok(Target::Table) => match self.look_up(&ack, now) {
                Found::Binding(binding) => AckWay::Home { binding, not: None },
                Found::Unclear => AckWay::Nowhere,
                Found::Nobody => match target::beyond_table(&ack, &self.env.names) {
                    Ok(target) => self.ack_to(&ack, target, now),
                    Err(_) => AckWay::Nowhere,
                },
            },
            Ok(Target::Address { transport, remote }) => match self.flow_at(transport, remote) {
                Some((flow, binding)) => AckWay::Flow { flow, binding, named: flow },
                None => AckWay::Nowhere,
            },
            Ok(target) => self.ack_to(&ack, target, now),
        };
        match way {
            AckWay::Flow { flow, binding, named } => {
                let by = By::binding_or(named, flow);
                self.send_ack(ack, &source, routes, flow, binding, by, key, loop_hash);
            }
            AckWay::Home { binding, not } => {
                let home = binding.home(self.env.settings.shards);
                self.mail(home, Mail::Ack(Box::new(AckMail { message: ack, source, binding, not })));
            }
            AckWay::Device { hop, host, port } => {
                if let Some(point) = self.env.settings.point_for(hop.transport, Side::Endpoint, hop.address.ip()) {
                    let bytes = self.ack_bytes(&ack, &source, routes, point, key, loop_hash);
                    self.send_to_device(hop, &host, port, bytes, now);
                }
                self.recycle_message(ack);
            }
            AckWay::Nowhere => {
                self.count(Counter::AckFlowGone);
                self.event("ACK dropped: nobody to send it to", Some(source.peer), &in_words(&ack));
                self.recycle_message(ack);
            }
        }
    }

    /// Where an ACK to a 2xx goes that no flow of ours was found for. `lost` is the flow that its token named.
    fn ack_beyond_lost(
        &mut self,
        ack: &Message,
        source: &Source,
        routes: &RouteSet,
        lost: Option<FlowRef>,
        now: Time,
    ) -> AckWay {
        if source.side != Side::Server {
            return AckWay::Nowhere;
        }
        match self.beyond_lost(ack, routes, lost) {
            Some(target) => self.ack_to(ack, target, now),
            None => AckWay::Nowhere,
        }
    }

    /// Where an ACK to a 2xx goes that is for no phone. It cannot wait for a name: one that is not known is of no use.
    fn ack_to(&mut self, ack: &Message, target: Target, now: Time) -> AckWay {
        match target {
            Target::Server { pair, at } => self.server_flow(pair, at, ack, now).map_or(AckWay::Nowhere, AckWay::to),
            Target::Peer { peer } => {
                let order = self.peer_targets(peer, now);
                let hops = order.iter().map(NextHop::from);
                let flow = hops.into_iter().find_map(|hop| self.flow_to(hop, Element::Peer(peer), None, now));
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
                        let targets = self.named_at_once(&question, now);
                        (self.usable(&targets, now).first().copied(), question.port.unwrap_or(0))
                    }
                };
                hop.map_or(AckWay::Nowhere, |hop| AckWay::Device { hop, host, port })
            }
            Target::Address { transport, remote } => {
                let hop = NextHop { transport, address: remote };
                AckWay::Device { hop, host: Expected::Address(remote.ip()), port: remote.port() }
            }
            _ => AckWay::Nowhere,
        }
    }
}

/// Where an ACK to a 2xx goes.
enum AckWay {
    /// Over a flow.
    Flow {
        flow: FlowRef,
        binding: Option<BindingId>,
        /// The flow that its token names.
        named: FlowRef,
    },
    /// To a phone, as its home knows it.
    Home {
        binding: BindingId,
        not: Option<FlowRef>,
    },
    /// To a device, by its shard.
    Device {
        hop: NextHop,
        host: Expected,
        port: u16,
    },
    Nowhere,
}

impl AckWay {
    /// Over a flow that no binding has.
    fn to(flow: FlowRef) -> Self {
        Self::Flow { flow, binding: None, named: flow }
    }
}
