//! The bytes that a context sends: the request as it goes on (RFC 3261 §16.6), a response as it goes back (§16.7), and
//! what stands in both. Nothing is printed from an object model: the received bytes are copied with the edits of `proxy`.

use super::event::Way;
use super::state::ResponseContext;
use crate::engine::ports::{Env, Ports};
use crate::engine::{Point, Source};
use crate::flow::token::{Facing, Kind, Token};
use crate::ids::{BindingId, FlowRef, Side};
use crate::planted::{Plant, planted};
use crate::proxy::record_route::{self, Facet};
use crate::proxy::register;
use crate::proxy::response::{self, Fate};
use crate::proxy::{RouteSet, forward};
use crate::sip::{Message, Method, Name, Span};
use crate::stats::Counter;
use crate::transaction::Branch;
use crate::transaction::branch::TxnId;

/// Our To tag for a transaction: the same in every answer to it, and known again in the ACK.
pub fn tag_of(key: u128) -> [u8; 16] {
    let mut tag = [0; 16];
    for (at, place) in tag.iter_mut().enumerate() {
        let digit = ((key >> (at * 4)) & 0xf) as u8;
        *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    }
    tag
}

/// What decides the edits of a request that leaves from `point`.
pub fn plan<'a>(
    source: &Source,
    routes: &'a RouteSet,
    point: &'a Point,
    branch: Branch,
    request_uri: Option<&'a [u8]>,
) -> forward::Plan<'a> {
    forward::Plan { peer: source.peer, side: source.side, routes, point, branch, request_uri }
}

/// A token that names a flow of this start.
fn token(env: &Env, kind: Kind, ob: bool, flow: FlowRef, binding: Option<BindingId>) -> Token {
    Token {
        member: env.settings.member,
        boot: env.settings.boot,
        kind,
        facing: if kind == Kind::Path { Facing::Server } else { Facing::Both },
        late: false,
        opened: false,
        ob,
        flow: Some(flow),
        binding,
    }
}

/// Builds the request as it leaves by a way, into what was sent.
pub(super) fn request(context: &mut ResponseContext, id: TxnId, way: &Way, env: &Env, ports: &mut Ports) {
    let ResponseContext { asked, request: Some(request), targets, client, loop_hash, .. } = context else { return };
    let (message, routes, source) = (&*request.message, &request.routes, &asked.source);
    let (point_id, to_side) = (way.flow.point(), targets.side());
    let branch = Branch { shard: env.me(), txn: id, nonce: client.nonce, loop_hash: *loop_hash };
    let mut edits = std::mem::take(&mut ports.edits);
    edits.clear();
    let point = env.settings.point(point_id);
    forward::edit(
        message,
        &plan(source, routes, point, branch, way.contact.as_deref().filter(|_| !planted(Plant::AliasLeft))),
        &mut edits,
    );

    // Of two endpoints that talk past the server, the route set stands already.
    let endpoint_flow = match (source.side, to_side) {
        (Side::Endpoint, Side::Server) => Some((source.flow, source.binding)),
        (Side::Server, Side::Endpoint) => Some((way.flow, targets.binding())),
        _ => None,
    };
    if let Some((endpoint, binding)) = endpoint_flow.filter(|_| record_route::wanted(asked.method)) {
        let opened = targets.next_hops().is_some() || way.opened;
        let token = Token { opened, ..token(env, Kind::RecordRoute, false, endpoint, binding) };
        let came_id = source.flow.point();
        let came = Facet { side: source.side, id: came_id, point: env.settings.point(came_id) };
        let leaves = Facet { side: to_side, id: point_id, point };
        let at = message.first(Name::RecordRoute).map_or_else(|| message.head_end(), |field| field.line.start as usize);
        edits.insert_with(at, |out| record_route::write(message, token, came, leaves, &env.keys, out));
    }
    if let Some(registration) = &request.registration {
        let first = registration.lasting_contact();
        // Only the first hop may say that it holds the phone's flow (RFC 5626 §5.1).
        let is_first_hop = message.count_values(Name::Via) == 1;
        let ob = is_first_hop && first.is_some_and(|contact| contact.reg_id.is_some());
        let way = register::Way {
            sticky: env.settings.sticky,
            add_supported: env.settings.live.path_add_supported,
            token: token(env, Kind::Path, ob, source.flow, first.map(|contact| contact.id)),
            server_point: point,
        };
        if register::says_path_for_it(message, way.sticky, way.add_supported) {
            ports.count(Counter::PathSupportAdded);
        }
        register::edit_request(message, registration, way, &env.keys, &mut edits);
    }
    client.sent.clear();
    if client.sent.capacity() == 0 {
        client.sent = ports.pool.take();
    }
    edits.apply(message.buf(), &mut client.sent);
    ports.edits = edits;
    if message.first(Name::XGenesysRoute).is_some() {
        ports.count(match source.side {
            Side::Server => Counter::XGenesysStrippedServer,
            Side::Endpoint => Counter::XGenesysStrippedEndpoint,
        });
    }
}

/// What decides the edits of a response that goes back.
#[derive(Clone, Copy)]
pub struct Back {
    pub is_invite: bool,
    /// The side that it comes from.
    pub from: Side,
    /// The side that it goes to.
    pub to: Side,
    /// The flow that it goes back by.
    pub reply: FlowRef,
    /// A server, here or at another site, has sent it.
    pub is_trusted: bool,
    /// The response is a 2xx of a server that had been given up.
    pub late: bool,
}

/// Writes the Contact of a binding; `false` when there is none.
pub type ContactOf<'a> = dyn Fn(BindingId, &mut Vec<u8>) -> bool + 'a;

/// The response as it goes back. `register`: the REGISTER that a 2xx answers, and who knows the Contact of a binding.
pub fn response(
    message: &Message,
    back: Back,
    register: Option<(&Message, &ContactOf<'_>)>,
    env: &Env,
    ports: &mut Ports,
) -> Vec<u8> {
    let mut edits = std::mem::take(&mut ports.edits);
    edits.clear();
    let code = message.status().unwrap_or(0);
    let as_500 = response::fate(code, back.is_invite, back.from) == Fate::As500;
    if as_500 {
        edits.replace(Span::new(0, message.first_field_at()), b"SIP/2.0 500 Server Internal Error\r\n");
    }
    response::edit(message, back.is_trusted, env.transport_of(back.reply), &mut edits);
    if !back.is_trusted && message.first(Name::XGenesysRoute).is_some() {
        ports.count(Counter::XGenesysStrippedEndpoint);
    }
    if code == 503 && !as_500 && message.first(Name::RetryAfter).is_none() {
        // Or all phones would come back at once (RFC 5390).
        let mut line = Vec::new();
        ports.write_retry_after(&mut line);
        edits.insert(message.head_end(), &line);
    }
    if back.late && back.from == Side::Server && back.to == Side::Endpoint {
        record_route::mark_late(message, &env.keys, &mut edits);
    }
    if let Some((request, contact_of)) = register {
        let sticky = env.settings.sticky;
        let take_path = register::says_path_for_it(request, sticky, env.settings.live.path_add_supported);
        register::edit_response(message, sticky, take_path, &env.keys, &mut edits, contact_of);
    }
    let mut bytes = ports.pool.take();
    edits.apply(message.buf(), &mut bytes);
    ports.edits = edits;
    bytes
}

impl ResponseContext {
    /// How a response to it goes back.
    pub fn back(&self, is_trusted: bool, late: bool) -> Back {
        let (asked, from) = (&self.asked, self.targets.side());
        let is_invite = asked.method == Method::Invite;
        Back { is_invite, from, to: asked.source.side, reply: asked.reply, is_trusted, late }
    }
}
