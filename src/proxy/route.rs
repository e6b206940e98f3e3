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
use crate::sip::{Message, Span, Uri};

/// The Request-URI that belongs into the place of our own Record-Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Index of the last Route value, which holds it and goes.
    pub route_index: usize,
    /// Where it stands.
    pub uri: Span,
}

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
    /// A strict router before us has put our own Record-Route into the Request-URI (RFC 3261 §16.4).
    pub repair: Option<Repair>,
    /// A Route value cannot be parsed: 400.
    pub malformed: bool,
}

/// Walks the Route values of a request and looks at its Request-URI.
#[must_use]
pub fn walk(request: &Message, side: Side, names: &Names, keys: &Keys) -> Walk {
    let mut walk = Walk::default();
    let buf = request.buf();
    let decode = |uri: &Uri| {
        let user = uri.user.of(buf);
        if user.is_empty() { None } else { Token::decode(user, keys, request.call_id()).ok() }
    };
    walk.uri_token = request.request_uri().and_then(decode);
    let mut came = Came::default();
    if let Some(token) = walk.uri_token.filter(|token| token.kind == Kind::RecordRoute)
        && let Some((index, &span)) = request.route_uris().iter().enumerate().next_back()
    {
        let Ok(uri) = Uri::parse_checked(buf, span) else {
            walk.malformed = true;
            return walk;
        };
        walk.repair = Some(Repair { route_index: index, uri: uri.all });
        came.take(token, side, &mut walk);
    }
    let last = walk.repair.map_or(usize::MAX, |repair| repair.route_index);
    for &span in request.route_uris().iter().take(last) {
        let Ok(uri) = Uri::parse_checked(buf, span) else {
            walk.malformed = true;
            return walk;
        };
        match decode(&uri) {
            Some(token) => came.take(token, side, &mut walk),
            None if names.is_own_uri(&uri, buf) || (uri.user.is_empty() && names.is_domain(uri.host, buf)) => {
                walk.forged |= !uri.user.is_empty();
            }
            None => {
                walk.foreign = Some(uri);
                walk.foreign_is_strict = !uri.has_lr(buf);
                break;
            }
        }
        walk.own_count += 1;
    }
    walk
}

/// How a request came, as far as its Routes have been walked.
#[derive(Default)]
struct Came {
    /// A value of the traversal that the request came by has been seen.
    seen: bool,
    /// The value facing the endpoint of that traversal, while its second value may still follow.
    by: Option<Token>,
}

impl Came {
    fn take(&mut self, token: Token, side: Side, walk: &mut Walk) {
        if side == Side::Server {
            walk.token = walk.token.or(Some(token));
            return;
        }
        let second_of_pair =
            self.by.take().is_some_and(|first| token.facing == Facing::Server && same_flow(&first, &token));
        if second_of_pair {
            // How it came, second value.
        } else if !self.seen {
            self.seen = true;
            self.by = (token.facing == Facing::Endpoint).then_some(token);
        } else if token.kind == Kind::RecordRoute {
            walk.token = walk.token.or(Some(token));
        } else {
            walk.forged = true;
        }
    }
}

fn same_flow(a: &Token, b: &Token) -> bool {
    (a.member, a.boot, a.flow, a.binding) == (b.member, b.boot, b.flow, b.binding)
}
