//! Which leading Route values are ours, and what their tokens name (RFC 3261 §16.4, §16.12; DESIGN.md,
//! Record-Route).
//!
//! From an endpoint the topmost own values say how the request came and are only popped: one traversal of
//! this proxy wrote one value (facing both sides) or two (RFC 5658). An own value behind them was written by
//! another traversal in the same dialog and names a target. From the server side the first token names it.

use crate::flow::keys::Keys;
use crate::flow::token::{Facing, Kind, Token};
use crate::ids::Side;
use crate::proxy::Names;
use crate::sip::{Message, Name, NameAddr, Uri};

/// What the Route header says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Leading Route values that are ours: to be popped.
    pub own_count: usize,
    /// The token that names the target: from the server side the first, from an endpoint one behind the
    /// values that say how the request came.
    pub token: Option<Token>,
    /// A Route carries our address and a user part that is no authentic token of this dialog, or a kind of
    /// token that is no target there.
    pub forged: bool,
    /// The first Route value that is not ours.
    pub foreign: Option<Uri>,
    /// The first foreign value lacks `lr`: its element is a strict router (RFC 3261 §16.6 step 6).
    pub foreign_is_strict: bool,
    /// The Request-URI holds an authentic token of ours.
    pub uri_token: Option<Token>,
    /// A Route value cannot be parsed: 400.
    pub malformed: bool,
}

/// Walks the Route values of a request and looks at its Request-URI.
#[must_use]
pub fn walk(request: &Message, side: Side, names: &Names, keys: &Keys) -> Walk {
    let mut walk = Walk::default();
    let buf = request.buf();
    // The value facing the endpoint of the traversal that the request came by, while its second value may
    // still follow.
    let mut came_by: Option<Token> = None;
    let mut came = false;
    for span in request.values(Name::Route) {
        let Some(uri) = NameAddr::parse(buf, span).ok().and_then(|value| Uri::parse(buf, value.uri).ok()) else {
            walk.malformed = true;
            return walk;
        };
        let user = uri.user.of(buf);
        let token = if user.is_empty() { None } else { Token::decode(user, keys, request.call_id()).ok() };
        match token {
            None if names.is_own_uri(&uri, buf) || (user.is_empty() && names.is_domain(uri.host, buf)) => {
                walk.forged |= !user.is_empty();
            }
            None => {
                walk.foreign = Some(uri);
                walk.foreign_is_strict = !uri.has_lr(buf);
                break;
            }
            Some(token) if side == Side::Server => {
                walk.token = walk.token.or(Some(token));
            }
            Some(token) => {
                let second_of_pair =
                    came_by.take().is_some_and(|first| token.facing == Facing::Server && same_flow(&first, &token));
                if second_of_pair {
                    // How it came, second value.
                } else if !came {
                    came = true;
                    came_by = (token.facing == Facing::Endpoint).then_some(token);
                } else if token.kind == Kind::RecordRoute {
                    walk.token = walk.token.or(Some(token));
                } else {
                    walk.forged = true;
                }
            }
        }
        walk.own_count += 1;
    }
    if let Some(uri) = request.request_uri() {
        let user = uri.user.of(buf);
        if !user.is_empty() {
            walk.uri_token = Token::decode(user, keys, request.call_id()).ok();
        }
    }
    walk
}

fn same_flow(a: &Token, b: &Token) -> bool {
    (a.member, a.boot, a.flow, a.binding) == (b.member, b.boot, b.flow, b.binding)
}
