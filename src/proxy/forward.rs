//! The request as it goes on: a list of edits over the received bytes (RFC 3261 §16.6).

use std::net::SocketAddr;

use crate::config::engine::Point;
use crate::ids::Side;
use crate::planted::{Plant, planted};
use crate::proxy::RouteSet;
use crate::sip::value::write_u32;
use crate::sip::{Edits, Message, Name, response};
use crate::transaction::Branch;

/// RFC 3261 §16.6 step 3.
const MAX_FORWARDS: u32 = 70;
/// RFC 5393 §5.3.3.
const MAX_BREADTH: u32 = 60;

/// What decides the edits that every forwarded request gets.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The peer that it came from.
    pub peer: SocketAddr,
    /// The side that it came from.
    pub side: Side,
    #[allow(missing_docs, reason = "see RouteSet")]
    pub routes: &'a RouteSet,
    /// The point that it leaves from.
    pub point: &'a Point,
    /// The branch of our Via.
    pub branch: Branch,
    /// Replaces the Request-URI.
    pub request_uri: Option<&'a [u8]>,
}

/// Adds the edits: received, our Via, Max-Forwards, Max-Breadth, popped Routes, no X-Genesys-Route,
/// the Request-URI and a Content-Length that a stream needs.
pub fn edit(request: &Message, plan: &Plan<'_>, edits: &mut Edits) {
    response::mark_source(request, plan.peer, edits);
    let at = request.first(Name::Via).map_or_else(|| request.first_field_at(), |field| field.line.start as usize);
    edits.insert_with(at, |out| write_via(plan.point, plan.branch, out));

    match request.first(Name::MaxForwards) {
        Some(field) => {
            let left = request.max_forwards().unwrap_or(MAX_FORWARDS).saturating_sub(1);
            edits.replace_with(field.value, |out| write_u32(left, out));
        }
        None => edits.insert_with(request.head_end(), |out| {
            out.extend_from_slice(b"Max-Forwards: ");
            write_u32(MAX_FORWARDS, out);
            out.extend_from_slice(b"\r\n");
        }),
    }
    if request.first(Name::MaxBreadth).is_none() {
        edits.insert_with(request.head_end(), |out| {
            out.extend_from_slice(b"Max-Breadth: ");
            write_u32(MAX_BREADTH, out);
            out.extend_from_slice(b"\r\n");
        });
    }
    edit_routes(request, plan, edits);
    // A server's was for us, and an endpoint's for nobody.
    for field in request.fields().iter().filter(|field| field.name == Name::XGenesysRoute) {
        if planted(Plant::OwnHeaderLeft) {
            break;
        }
        edits.remove(field.line);
    }
    if plan.point.transport.is_stream() && request.first(Name::ContentLength).is_none() {
        edits.insert_with(request.head_end(), |out| write_content_length(request.body().len(), out));
    }
}

/// Pops our own Routes, puts back what a strict router before us has moved (RFC 3261 §16.4), and moves the
/// Request-URI for one behind us (§16.6 step 6). Only for a server's request: an endpoint's goes to the SIP
/// Server, whatever its Route says, and its digest covers the Request-URI.
fn edit_routes(request: &Message, plan: &Plan<'_>, edits: &mut Edits) {
    let Some(received) = request.request_uri() else { return };
    let RouteSet { own_count, repair, .. } = *plan.routes;
    let strict = plan.routes.foreign.filter(|_| plan.routes.foreign_is_strict && plan.side == Side::Server);
    let last = repair.map(|repair| repair.route_index);
    let popped = own_count + usize::from(strict.is_some());
    if popped > 0 || last.is_some() {
        for span in request.cut_values_where(Name::Route, |index, _| index < popped || Some(index) == last) {
            edits.remove(span);
        }
    }
    let own_uri = plan.request_uri.or_else(|| repair.map(|repair| request.text(repair.uri)));
    match strict {
        None => {
            if let Some(uri) = own_uri {
                edits.replace(received.all, uri);
            }
        }
        Some(next) => {
            edits.replace(received.all, request.text(next.without_headers()));
            let last = request.fields().iter().rfind(|field| field.name == Name::Route);
            let at = last.map_or_else(|| request.head_end(), |field| field.line.end as usize);
            edits.insert_with(at, |out| {
                out.extend_from_slice(b"Route: <");
                out.extend_from_slice(own_uri.unwrap_or_else(|| request.text(received.all)));
                out.extend_from_slice(b">\r\n");
            });
        }
    }
}

/// Appends `Content-Length`, for a message that came over UDP without one and leaves on a stream.
pub fn write_content_length(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    write_u32(u32::try_from(len).unwrap_or(u32::MAX), out);
    out.extend_from_slice(b"\r\n");
}

fn write_via(point: &Point, branch: Branch, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Via: SIP/2.0/");
    out.extend_from_slice(point.transport.via_name().as_bytes());
    out.push(b' ');
    out.extend_from_slice(point.advertised_host.as_bytes());
    out.push(b':');
    write_u32(u32::from(point.advertised_port), out);
    out.extend_from_slice(b";branch=");
    branch.write(out);
    out.extend_from_slice(b"\r\n");
}
