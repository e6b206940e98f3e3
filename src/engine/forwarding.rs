//! A request that has a flow is built and sent (RFC 3261 §16.6).
//!
//! What may have to be sent again is kept in the exchange; nothing is printed from an object model, the received bytes
//! are copied with the edits of `proxy`.

use super::exchange::{ClientTxn, Exchange, GivenUp, Onward, Which};
use super::home::in_words;
use super::{Engine, Level, Point, Source, UdpOversize};
use crate::clock::Time;
use crate::flow::token::{Facing, Kind, Token};
use crate::ids::{BindingId, FlowRef, Side};
use crate::limits::UDP_REQUEST_LEN_MAX;
use crate::proxy::record_route::{self, Facet};
use crate::proxy::register::{self, Way};
use crate::proxy::{Walk, forward, target};
use crate::sip::{Message, Method, Name};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::{Branch, InviteClient, PlainClient};

impl Engine {
    /// Builds the request and sends it on a flow.
    pub(super) fn send_request(&mut self, id: TxnId, exchange: &mut Exchange, walk: &Walk, flow: FlowRef, now: Time) {
        let Some(request) = exchange.request.take() else { return };
        self.build_request(id, exchange, &request, walk, flow);
        exchange.request = Some(request);

        let reliable = self.is_reliable(flow);
        if !reliable && exchange.sent.len() > UDP_REQUEST_LEN_MAX {
            if self.env.settings.live.udp_oversize == UdpOversize::Reject {
                self.count(Counter::OversizeReject);
                return self.finish(id, exchange, 513, "Message Too Large", Counter::Refused513Oversize, now);
            }
            if self.env.settings.live.udp_oversize == UdpOversize::Tcp
                && let Some(hop) = exchange.hop
                && let Some(flow) = self.large_flow(exchange.side_onward(), hop.address, now)
            {
                self.count(Counter::OversizeTcp);
                return self.send_request(id, exchange, walk, flow, now);
            }
            if !self.fits(flow, exchange.sent.len()) {
                self.count(Counter::OversizeReject);
                return self.finish(id, exchange, 513, "Message Too Large", Counter::Refused513Oversize, now);
            }
            self.count(Counter::OversizeUdp);
        }
        let (client, effects) = match exchange.method {
            Method::Invite => {
                let (machine, effects) = InviteClient::start(reliable, self.env.times);
                (ClientTxn::Invite(machine), effects)
            }
            _ => {
                let (machine, effects) = PlainClient::start(reliable, self.env.times);
                (ClientTxn::Plain(machine), effects)
            }
        };
        exchange.client = client;
        exchange.next = Some(flow);
        if self.tells(Level::Debug) {
            self.tell_routed(exchange, flow);
        }
        if exchange.method == Method::Invite && exchange.given_up == GivenUp::No {
            self.arm(id, exchange, Which::Patience, now.after(self.env.settings.live.timer_c));
        }
        if exchange.onward == Onward::Flow {
            self.count(match flow.shard() == self.me() {
                true => Counter::DeliveredLocal,
                false => Counter::DeliveredAcross,
            });
        }
        self.apply_client(id, exchange, effects, now);
        self.watch(id, flow);
        let bytes = self.ports.pool.copy(&exchange.sent);
        if self.send_on(flow, exchange.binding, bytes, Some(id)).is_err() {
            self.unwatch(id, exchange);
            self.on_unsent(id, exchange, Some(flow), now);
        }
    }

    /// A request goes on: which, and where to.
    fn tell_routed(&mut self, exchange: &Exchange, flow: FlowRef) {
        let Some(request) = exchange.request.as_deref() else { return };
        let to = match (flow, exchange.hop) {
            (_, Some(hop)) => hop.address.to_string(),
            (FlowRef::Udp { remote, .. }, None) => remote.to_string(),
            (FlowRef::Stream { shard, conn, .. }, None) => match self.conns.get(conn).filter(|_| shard == self.me()) {
                Some(conn) => conn.peer.to_string(),
                None => format!("a connection of shard {}", shard.0),
            },
        };
        let to = format!(", sent to {to} over {}", self.transport_of(flow).param_name());
        let about = [&in_words(request), to.as_bytes()].concat();
        self.tell(Level::Debug, "request routed", Some(exchange.source.peer), &about);
    }

    /// Builds the request as it leaves on a flow, into `exchange.sent`.
    fn build_request(&mut self, id: TxnId, exchange: &mut Exchange, request: &Message, walk: &Walk, flow: FlowRef) {
        let source = exchange.source;
        let point_id = flow.point();
        let to_side = exchange.side_onward();
        let branch = Branch { shard: self.me(), txn: id, nonce: exchange.nonce, loop_hash: exchange.loop_hash };

        let mut contact = std::mem::take(&mut self.ports.scratch);
        contact.clear();
        // An endpoint that has got hold of an alias must not learn whose Contact it stands for.
        let alias = target::alias_of(walk).filter(|_| source.side == Side::Server);
        let has_contact = alias.is_some_and(|alias| self.write_own_contact(alias, &mut contact));

        let mut edits = std::mem::take(&mut self.ports.edits);
        edits.clear();
        let point = self.env.settings.point(point_id);
        let request_uri = has_contact.then_some(contact.as_slice());
        forward::edit(request, &plan(&source, walk, point, branch, request_uri), &mut edits);

        // Of two endpoints that talk past the server, the route set stands already.
        let endpoint_flow = match (source.side, to_side) {
            (Side::Endpoint, Side::Server) => Some((source.flow, source.binding)),
            (Side::Server, Side::Endpoint) => Some((flow, exchange.binding)),
            _ => None,
        };
        if let Some((endpoint, binding)) = endpoint_flow.filter(|_| record_route::wanted(exchange.method)) {
            let opened = exchange.onward == Onward::Hops || self.is_opened(endpoint);
            let token = Token { opened, ..self.token(Kind::RecordRoute, false, endpoint, binding) };
            let came_id = source.flow.point();
            let came = Facet { side: source.side, id: came_id, point: self.env.settings.point(came_id) };
            let leaves = Facet { side: to_side, id: point_id, point };
            let at =
                request.first(Name::RecordRoute).map_or_else(|| request.head_end(), |field| field.line.start as usize);
            let keys = &self.env.keys;
            edits.insert_with(at, |out| record_route::write(request, token, came, leaves, keys, out));
        }
        let mut says_path = false;
        if let Some(registration) = &exchange.registration {
            let first = registration.lasting_contact();
            // Only the first hop may say that it holds the phone's flow (RFC 5626 §5.1).
            let is_first_hop = request.count_values(Name::Via) == 1;
            let ob = is_first_hop && first.is_some_and(|contact| contact.reg_id.is_some());
            let way = Way {
                sticky: self.env.settings.sticky,
                add_supported: self.env.settings.live.path_add_supported,
                token: self.token(Kind::Path, ob, source.flow, first.map(|contact| contact.id)),
                server_point: point,
            };
            says_path = register::says_path_for_it(request, way.sticky, way.add_supported);
            register::edit_request(request, registration, way, &self.env.keys, &mut edits);
        }
        exchange.sent.clear();
        if exchange.sent.capacity() == 0 {
            exchange.sent = self.ports.pool.take();
        }
        edits.apply(request.buf(), &mut exchange.sent);
        self.ports.edits = edits;
        self.ports.scratch = contact;
        if says_path {
            self.count(Counter::PathSupportAdded);
        }
        if request.first(Name::XGenesysRoute).is_some() {
            self.count(match source.side {
                Side::Server => Counter::XGenesysStrippedServer,
                Side::Endpoint => Counter::XGenesysStrippedEndpoint,
            });
        }
    }

    /// A token that names a flow of this start.
    fn token(&self, kind: Kind, ob: bool, flow: FlowRef, binding: Option<BindingId>) -> Token {
        Token {
            member: self.env.settings.member,
            boot: self.env.settings.boot,
            kind,
            facing: if kind == Kind::Path { Facing::Server } else { Facing::Both },
            late: false,
            opened: false,
            ob,
            flow: Some(flow),
            binding,
        }
    }
}

/// What decides the edits of a request that leaves from `point`.
pub(super) fn plan<'a>(
    source: &Source,
    walk: &'a Walk,
    point: &'a Point,
    branch: Branch,
    request_uri: Option<&'a [u8]>,
) -> forward::Plan<'a> {
    forward::Plan { peer: source.peer, side: source.side, walk, point, branch, request_uri }
}
