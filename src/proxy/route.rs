//! Which leading Route values are ours, and what their tokens name (RFC 3261 §16.4, §16.12; DESIGN.md,
//! Record-Route).
//!
//! From the server side the first token names the target. From an endpoint the topmost own values say how the request
//! came and are only popped: one traversal of this proxy wrote one value (facing both sides) or two (RFC 5658), and
//! however often they stand there, they are no target. An own value of another traversal behind them names one, and
//! only in the dialog that both were made in: the same Call-ID, begun by the same party.

use crate::flow::keys::Keys;
use crate::flow::token::{Dialog, Kind, Token};
use crate::ids::Side;
use crate::proxy::target::Incarnation;
use crate::proxy::{Names, Source};
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
pub struct RouteSet {
    /// Leading Route values that are ours: to be popped.
    pub own_count: usize,
    /// The token that names the target: from the server side the first, from an endpoint one behind the
    /// values that say how the request came.
    pub token: Option<Token>,
    /// From an endpoint: a token stands behind those of one traversal, a repeated one or a target.
    pub has_more_than_its_own: bool,
    /// From an endpoint: its dialog is one that a server made after it had been given up ([`Token::late`]).
    pub is_late: bool,
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
pub fn read(request: &Message, source: &Source, names: &Names, keys: &Keys, here: Incarnation) -> RouteSet {
    let mut routes = RouteSet::default();
    let buf = request.buf();
    // Either party may have begun the dialog.
    let dialogs = [request.from_tag(), request.to_tag()].map(|tag| Dialog { call_id: request.call_id(), tag });
    let decode = |uri: &Uri| {
        let user = uri.user.of(buf);
        if user.is_empty() { None } else { Token::decode_of(user, keys, &dialogs).ok() }
    };
    let in_uri = request.request_uri().and_then(decode);
    routes.uri_token = in_uri.map(|(token, _)| token);
    let mut came = Came { source, here, first: None, values: 0 };
    if let Some(own) = in_uri.filter(|(token, _)| token.kind == Kind::RecordRoute)
        && let Some((index, &span)) = request.route_uris().iter().enumerate().next_back()
    {
        let Ok(uri) = Uri::parse_checked(buf, span) else {
            routes.malformed = true;
            return routes;
        };
        routes.repair = Some(Repair { route_index: index, uri: uri.without_headers() });
        came.take(own, &mut routes);
    }
    let last = routes.repair.map_or(usize::MAX, |repair| repair.route_index);
    for &span in request.route_uris().iter().take(last) {
        let Ok(uri) = Uri::parse_checked(buf, span) else {
            routes.malformed = true;
            return routes;
        };
        match decode(&uri) {
            Some(own) => came.take(own, &mut routes),
            None if names.is_own_uri(&uri, buf) || (uri.user.is_empty() && names.is_domain(uri.host, buf)) => {
                routes.forged |= !uri.user.is_empty();
            }
            None => {
                routes.foreign = Some(uri);
                routes.foreign_is_strict = !uri.has_lr(buf);
                break;
            }
        }
        routes.own_count += 1;
    }
    if source.side == Side::Endpoint {
        // What the next element hands back to us it hands back as its own word: that has to be of this dialog.
        for &span in request.route_uris().iter().take(last).skip(routes.own_count + 1) {
            routes.forged |= Uri::parse_checked(buf, span).is_ok_and(|uri| {
                let is_of_dialog = || decode(&uri).is_some_and(|(token, _)| token.kind == Kind::RecordRoute);
                !uri.user.is_empty() && names.is_own_uri(&uri, buf) && !is_of_dialog()
            });
        }
    }
    routes
}

/// How a request came, as far as its Routes have been walked.
struct Came<'a> {
    source: &'a Source,
    here: Incarnation,
    /// The first token, and who of the two parties began the dialog that it is of.
    first: Option<(Token, usize)>,
    /// Values of the traversal that it names.
    values: usize,
}

impl Came<'_> {
    fn take(&mut self, (token, begun_by): (Token, usize), routes: &mut RouteSet) {
        if self.source.side == Side::Server {
            routes.token = routes.token.or(Some(token));
            return;
        }
        let (first, first_begun_by) = *self.first.get_or_insert((token, begun_by));
        if self.says_how_it_came(&first, &token) {
            self.values += 1;
            routes.is_late |= token.late;
            // RFC 5658 §4: a traversal has one value, or one for each side.
            routes.has_more_than_its_own |= self.values > 2 || (self.values == 2 && first.facing == token.facing);
            return;
        }
        routes.has_more_than_its_own = true;
        if token.kind == Kind::RecordRoute && begun_by == first_begun_by {
            routes.token = routes.token.or(Some(token));
        } else {
            routes.forged = true;
        }
    }

    /// Whether a token leads to where the request has come from.
    fn says_how_it_came(&self, first: &Token, token: &Token) -> bool {
        let is_firsts = (first.member, first.boot, first.flow, first.binding)
            == (token.member, token.boot, token.flow, token.binding);
        // A UDP flow is an address, which every start and member knows by the same name.
        let is_its_flow = token
            .flow
            .is_some_and(|flow| flow.is_same(self.source.flow) && (!flow.is_stream() || self.here.has_made(token)));
        let is_its_binding = token.binding.is_some() && token.binding == self.source.binding;
        is_firsts || is_its_flow || is_its_binding
    }
}
