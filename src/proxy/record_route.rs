//! Record-Route and Path values (RFC 3261 §16.6 step 4, RFC 5658, RFC 3327 §5.2).

use crate::config::engine::Point;
use crate::flow::keys::Keys;
use crate::flow::token::{Dialog, Facing, Kind, Token};
use crate::ids::{PointId, Side, Transport};
use crate::planted::{Plant, planted};
use crate::sip::{Edits, Message, Method, Name, NameAddr, Scheme, Uri, value::write_u32};

/// Whether requests of this method are given a Record-Route: those that make dialogs, and methods that we
/// do not know, in and out of dialogs.
#[must_use]
pub fn wanted(method: Method) -> bool {
    matches!(method, Method::Invite | Method::Subscribe | Method::Notify | Method::Refer | Method::Other)
}

/// One side of a traversal: which point a message uses there.
#[derive(Clone, Copy, Debug)]
pub struct Facet<'a> {
    /// Towards whom.
    pub side: Side,
    #[allow(missing_docs, reason = "see PointId")]
    pub id: PointId,
    /// The point's address and transport.
    pub point: &'a Point,
}

/// Appends the Record-Route fields: the side that the request leaves on first, for it is added last.
pub fn write(request: &Message, token: Token, came: Facet<'_>, leaves: Facet<'_>, keys: &Keys, out: &mut Vec<u8>) {
    let sips = request.request_uri().is_some_and(|uri| uri.scheme == Scheme::Sips);
    let dialog = Dialog { call_id: request.call_id(), tag: request.from_tag() };
    let mut one = |facing: Facing, point: &Point| {
        out.extend_from_slice(b"Record-Route: <");
        let token = Token { kind: Kind::RecordRoute, facing, ..token };
        write_uri(&token, point, sips, keys, dialog, out);
        out.extend_from_slice(b";lr>\r\n");
    };
    let (came, leaves) = if planted(Plant::RecordRouteSwapped) { (leaves, came) } else { (came, leaves) };
    if came.id == leaves.id {
        one(Facing::Both, leaves.point);
    } else {
        one(facing(leaves.side), leaves.point);
        one(facing(came.side), came.point);
    }
}

/// Adds the edits that mark our own values in a 2xx of a server that had been given up ([`Token::late`]): in the route set
/// that its receiver makes of them (RFC 3261 §12.1.2) they say so in each of its requests. A proxy may change its own
/// values in a response (§16.7 step 8).
pub fn mark_late(response: &Message, keys: &Keys, edits: &mut Edits) {
    let dialog = Dialog { call_id: response.call_id(), tag: response.from_tag() };
    for span in response.values(Name::RecordRoute) {
        let Ok(value) = NameAddr::parse(response.buf(), span) else { continue };
        let Ok(uri) = Uri::parse(response.buf(), value.uri) else { continue };
        if let Ok(token) = Token::decode(response.text(uri.user), keys, dialog)
            && token.kind == Kind::RecordRoute
        {
            edits.replace_with(uri.user, |out| Token { late: true, ..token }.encode(keys, dialog, out));
        }
    }
}

/// Appends the Path field, which faces the SIP Server.
pub fn write_path(token: &Token, server_point: &Point, keys: &Keys, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Path: <");
    write_uri(token, server_point, false, keys, Dialog::NONE, out);
    out.extend_from_slice(if token.ob { b";lr;ob>\r\n" } else { b";lr>\r\n" });
}

/// Appends `sip:TOKEN@host:port;transport=…` without brackets.
pub fn write_uri(token: &Token, point: &Point, sips: bool, keys: &Keys, dialog: Dialog<'_>, out: &mut Vec<u8>) {
    let sips = sips && point.transport == Transport::Tls;
    out.extend_from_slice(if sips { b"sips:" } else { b"sip:" });
    token.encode(keys, dialog, out);
    out.push(b'@');
    out.extend_from_slice(point.advertised_host.as_bytes());
    out.push(b':');
    write_u32(u32::from(point.advertised_port), out);
    if point.transport.is_stream() && !sips {
        out.extend_from_slice(b";transport=");
        out.extend_from_slice(point.transport.param_name().as_bytes());
    }
}

fn facing(side: Side) -> Facing {
    match side {
        Side::Server => Facing::Server,
        Side::Endpoint => Facing::Endpoint,
    }
}
