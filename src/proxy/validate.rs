//! The checks of RFC 3261 §16.3, in its order: syntax and version (kept in `Message::fault`), scheme,
//! Max-Forwards, loops and breadth (RFC 5393), Proxy-Require.

use super::{Names, Refusal};
use crate::flow::keys::{Keys, Tag};
use crate::ids::Side;
use crate::sip::value::parse_u32;
use crate::sip::{Message, Method, Name, response};
use crate::stats::Counter;
use crate::transaction::Branch;

/// Hash of everything that decides where a request goes (RFC 5393 §4.2.2): the Request-URI, the Routes, the
/// side that it came from, and of a server's `X-Genesys-Route`.
#[must_use]
pub fn loop_hash(request: &Message, side: Side, keys: &Keys) -> u32 {
    let uri = request.request_uri().map_or(&b""[..], |uri| request.text(uri.all));
    let (side, named): (&[u8], _) = match side {
        Side::Server => (b"s", request.first(Name::XGenesysRoute)),
        Side::Endpoint => (b"e", None),
    };
    let mut parts = smallvec::SmallVec::<[&[u8]; 8]>::new();
    parts.push(uri);
    parts.push(side);
    parts.push(named.map_or(&b""[..], |field| request.text(field.value)));
    for field in request.fields() {
        if field.name == Name::Route {
            parts.push(request.text(field.value));
        }
    }
    // The low half: a keyed hash is as good in any of its bits.
    (keys.hash64(Tag::Loop, &parts) & u64::from(u32::MAX)) as u32
}

/// Checks a request that matches no transaction. One that asks the proxy itself (`is_mine`) goes no further, so that it
/// needs no hops to do so (RFC 3261 §16.3 step 3).
///
/// # Errors
/// The refusal to answer with. For an ACK the caller drops it instead.
pub fn validate(request: &Message, is_mine: bool, loop_hash: u32, names: &Names) -> Result<(), Refusal> {
    if let Some(fault) = request.fault() {
        let (code, reason) = response::fault_reply(fault);
        return Err(Refusal::new(code, reason, Counter::fault(fault)));
    }
    if !is_mine {
        may_go_on(request, loop_hash, names)?;
    }
    let binds = !matches!(request.method(), Some(Method::Ack | Method::Cancel));
    if binds && request.count_values(Name::ProxyRequire) > 0 {
        return Err(Refusal {
            unsupported: true,
            ..Refusal::new(420, "Bad Extension", Counter::Refused420ProxyRequire)
        });
    }
    Ok(())
}

/// Whether a request has not gone far enough already, or in a circle.
fn may_go_on(request: &Message, loop_hash: u32, names: &Names) -> Result<(), Refusal> {
    if request.max_forwards() == Some(0) {
        return Err(Refusal::new(483, "Too Many Hops", Counter::Refused483Hops));
    }
    // A request that has one Via comes straight from its maker.
    if request.count_values(Name::Via) > 1 {
        for via in request.vias().flatten() {
            let is_loop = names.is_own_via(&via, request.buf())
                && Branch::read(request.text(via.branch)).is_some_and(|branch| branch.loop_hash == loop_hash);
            if is_loop {
                return Err(Refusal::new(482, "Loop Detected", Counter::Refused482Loop));
            }
        }
    }
    // RFC 5393 §5.3.3: nobody may be sent it any more.
    let breadth = request.first(Name::MaxBreadth).and_then(|field| parse_u32(request.text(field.value)));
    if breadth == Some(0) && request.method() != Some(Method::Ack) {
        return Err(Refusal::new(440, "Max-Breadth Exceeded", Counter::Refused440Breadth));
    }
    Ok(())
}
