//! What makes two requests the same transaction (RFC 3261 §17.2.3).

use super::branch::MAGIC_COOKIE;
use crate::sip::{Message, Method};

/// Gives `hash` the parts that make a server transaction's key. `method` is the transaction's: INVITE for an
/// ACK or for the INVITE that a CANCEL looks for. `sender` tells senders apart, so that nobody reaches
/// another's transaction by guessing its branch.
pub fn hashed(request: &Message, method: &[u8], sender: &[u8], hash: impl FnOnce(&[&[u8]]) -> u128) -> u128 {
    let via = request.top_via();
    let branch = request.text(via.branch);
    let has_cookie = branch.len() > MAGIC_COOKIE.len()
        && branch.get(..MAGIC_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(MAGIC_COOKIE));
    if has_cookie {
        let port = via.port.map_or([0; 3], |port| {
            let [high, low] = port.to_be_bytes();
            [1, high, low]
        });
        hash(&[method, sender, branch, request.text(via.host_span), &port])
    } else {
        // RFC 2543: no branch to rely on. The To tag is left out, for the ACK has one and the INVITE has not.
        let uri = request.request_uri().map_or(&b""[..], |uri| request.text(uri.all));
        hash(&[method, sender, uri, request.from_tag(), request.call_id(), request.text(via.all)])
    }
}

/// The method whose transaction a request belongs to.
#[must_use]
pub fn method_of(request: &Message) -> &[u8] {
    match request.method() {
        Some(Method::Ack) => b"INVITE",
        _ => request.method_text(),
    }
}
