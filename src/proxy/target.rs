//! Where a request goes (RFC 3261 §16.5, §16.6; DESIGN.md, What it does on the wire, 1–5).
//!
//! For a request of the server side, first match: `X-Genesys-Route`; a Route that is not ours; the token in our
//! Route; the token in the Request-URI; the connection table; another site's proxy; the Request-URI itself, which is
//! a device that did not register. A Route that stands *behind* our token is not ours to follow: the token names the
//! flow towards it (RFC 5626 §5.3).
//!
//! A Request-URI that is a telephone number or a name (tel, urn; an emergency call is `urn:service:sos`, RFC 5031) goes
//! on unchanged wherever something else decides: of an endpoint always, of the server side by the first four.

use super::destination::Target;
use super::names::port_of;
use super::{Names, Refusal, RouteSet};
use crate::flow::token::{Kind, Token};
use std::net::{IpAddr, SocketAddr};

use crate::ids::{BindingId, ShardId, Side, Transport};
use crate::planted::{Plant, planted};
use crate::sip::{Fault, Host, Message, Method, Name, NameAddr, Scheme, Span, Uri, response};
use crate::stats::Counter;

/// This start of this member: what makes a token's flow mean something.
#[derive(Clone, Copy, Debug)]
pub struct Incarnation {
    /// `Settings::boot`.
    pub boot: u32,
    /// `Settings::member`.
    pub member: u16,
    /// `Settings::shards`.
    pub shards: u8,
    /// How many listening points there are.
    pub points: usize,
}

impl Incarnation {
    /// Whether a token was made here, by this start of this member: slots and generations begin anew with each start.
    pub fn has_made(self, token: &Token) -> bool {
        token.boot == self.boot && token.member == self.member
    }

    /// What an authentic token names.
    fn target_of(self, token: &Token) -> Target {
        let here = self.has_made(token);
        match (token.flow, token.binding) {
            (Some(flow), binding)
                if here && flow.shard().0 < self.shards && usize::from(flow.point().0) < self.points =>
            {
                Target::Flow { flow, binding, ob: token.ob }
            }
            (_, Some(binding)) => Target::Binding { binding, ob: token.ob },
            (_, None) => Target::Gone { ob: token.ob },
        }
    }
}

/// Decides the target of a request.
///
/// # Errors
/// A refusal, to be answered.
pub fn target(
    request: &Message,
    routes: &RouteSet,
    side: Side,
    names: &Names,
    here: Incarnation,
) -> Result<Target, Refusal> {
    if routes.malformed {
        return Err(Refusal::new(400, "Bad Route", Counter::FaultRouteSyntax));
    }
    match side {
        Side::Endpoint => from_endpoint(request, routes, names, here),
        Side::Server => {
            Ok(named_by_header(request, routes, names).unwrap_or_else(|| from_server(request, routes, names, here)))
        }
    }
}

/// What a server's `X-Genesys-Route` names; an ACK goes by its route set.
fn named_by_header(request: &Message, routes: &RouteSet, names: &Names) -> Option<Target> {
    if request.method() == Some(Method::Ack) && routes.token.is_some() {
        return None;
    }
    address_in_header(request, names)
}

/// The address in `X-Genesys-Route: sip:IP:port[;transport=…]`, or whose it is. One that is no such address, or ours,
/// is only stripped.
#[must_use]
pub fn address_in_header(request: &Message, names: &Names) -> Option<Target> {
    let field = request.first(Name::XGenesysRoute)?;
    let buf = request.buf();
    // Without brackets the whole value is the URI, its parameters included.
    let value = NameAddr::parse(buf, field.value).ok()?;
    let uri = Uri::parse(buf, if value.bracketed { value.uri } else { field.value }).ok()?;
    if names.is_own_uri(&uri, buf) {
        return None;
    }
    let default = if uri.scheme == Scheme::Sips { Transport::Tls } else { Transport::Udp };
    let transport = uri.transport(buf).unwrap_or(Some(default))?;
    let port = uri.port.unwrap_or_else(|| transport.default_port());
    let ip = uri.host.ip().filter(|ip| may_be_sent_to(*ip))?;
    Some(match named(uri, buf, names) {
        Target::Uri(_) => Target::Address { transport, remote: SocketAddr::new(ip, port) },
        known => known,
    })
}

/// Whether an OPTIONS asks the proxy itself: no user part, and a host that means us.
#[must_use]
pub fn is_for_me(request: &Message, routes: &RouteSet, names: &Names) -> bool {
    request.method() == Some(Method::Options)
        && routes.foreign.is_none()
        && routes.token.is_none()
        && request.request_uri().is_some_and(|uri| {
            uri.user.is_empty() && (names.is_own_uri(uri, request.buf()) || names.is_domain(uri.host, request.buf()))
        })
}

fn from_endpoint(request: &Message, routes: &RouteSet, names: &Names, here: Incarnation) -> Result<Target, Refusal> {
    if routes.forged {
        return Err(Refusal::new(403, "Route Not Accepted", Counter::Refused403ForgedToken));
    }
    let in_dialog = is_in_dialog(request);
    // A registration is for the SIP Server alone: it belongs to no dialog whose route set could lead elsewhere.
    if routes.has_more_than_its_own && request.method() == Some(Method::Register) {
        return Err(Refusal::new(403, "Route Not Accepted", Counter::Refused403ForgedToken));
    }
    if let Some(token) = &routes.token {
        // It is good in its dialog, which an INVITE with the same Call-ID and no To tag is not: that one would ring
        // somebody past the server.
        if !in_dialog && !planted(Plant::HijackByRoute) {
            return Err(Refusal::new(403, "Route Not Accepted", Counter::Refused403ForgedToken));
        }
        return Ok(here.target_of(token));
    }
    if routes.foreign.is_none() && is_for_me(request, routes, names) {
        return Ok(Target::Myself);
    }
    // A way to somebody's phone comes back from a server that forwards it as if the server had named its target.
    if !in_dialog && routes.uri_token.is_some() {
        return Err(Refusal::new(403, "Request-URI Not Accepted", Counter::Refused403ForgedToken));
    }
    // What stands behind the first foreign value is a dialog's route set, which its other elements have written. Without
    // a dialog the endpoint has made it up, and a server that goes by it would be its relay.
    let beyond = request.route_uris().get(routes.own_count..).unwrap_or_default();
    let checked = if in_dialog { beyond.get(..1).unwrap_or_default() } else { beyond };
    if !checked.iter().all(|&route| is_towards_servers(request, route, names)) {
        return Err(Refusal::new(403, "Route Not Accepted", Counter::Refused403ForeignRoute));
    }
    Ok(late_server(request, routes, names)
        .unwrap_or_else(|| Target::Server { pair: pair_of(request, routes, names), at: None }))
}

/// Whether a request says that it belongs to a dialog. A REGISTER belongs to none, whatever tag its To has
/// (RFC 3261 §10.2).
fn is_in_dialog(request: &Message) -> bool {
    request.method() != Some(Method::Register) && !request.to_tag().is_empty()
}

/// Whether a Route value of an endpoint names a SIP Server, one of `domains`, or ourselves. A token of ours in it would
/// come back from the server as if the server had named its target.
fn is_towards_servers(request: &Message, route: Span, names: &Names) -> bool {
    let buf = request.buf();
    Uri::parse_checked(buf, route).is_ok_and(|uri| match names.is_own_uri(&uri, buf) {
        true => uri.user.is_empty(),
        false => names.server_of_uri(&uri, buf).is_some() || names.is_domain(uri.host, buf),
    })
}

/// The server that the remote target of a late dialog names: its partner knows nothing of that.
fn late_server(request: &Message, routes: &RouteSet, names: &Names) -> Option<Target> {
    let uri = request.request_uri().filter(|_| routes.is_late && is_in_dialog(request))?;
    let address = SocketAddr::new(uri.host.ip()?, port_of(uri, request.buf()));
    names.server_at(address).map(|(pair, _)| Target::Server { pair, at: Some(address) })
}

/// The pair that a request of an endpoint goes to: the serving one, or in a dialog the one that its Route or
/// Request-URI names, for that has the dialog.
fn pair_of(request: &Message, routes: &RouteSet, names: &Names) -> u8 {
    let buf = request.buf();
    let named = || {
        let of_route = routes.foreign.and_then(|uri| names.server_of_uri(&uri, buf));
        of_route.or_else(|| request.request_uri().and_then(|uri| names.server_of_uri(uri, buf)))
    };
    is_in_dialog(request).then(named).flatten().unwrap_or_else(|| names.serving())
}

fn from_server(request: &Message, routes: &RouteSet, names: &Names, here: Incarnation) -> Target {
    if let Some(token) = &routes.token {
        return here.target_of(token);
    }
    if routes.forged {
        // What stands behind it is for the flow that it named, as behind a token that is good.
        return Target::Gone { ob: false };
    }
    if let Some(uri) = routes.foreign {
        return named(uri, request.buf(), names);
    }
    if let Some(token) = &routes.uri_token {
        return here.target_of(token);
    }
    if is_for_me(request, routes, names) { Target::Myself } else { Target::Table }
}

/// What a URI of the server side names: servers of ours, another site's, or somebody else.
fn named(uri: Uri, buf: &[u8], names: &Names) -> Target {
    let asked = to_ask(&uri, buf);
    match (names.server_of_uri(&asked, buf), names.peer_of_uri(&asked)) {
        (Some(pair), _) => Target::Server { pair, at: None },
        (None, Some(peer)) => Target::Peer { peer },
        (None, None) => Target::Uri(uri),
    }
}

/// The URI with the host of its `maddr` in place of its own (RFC 3261 §16.5); [`reachable`] refuses one without a host.
fn to_ask(uri: &Uri, buf: &[u8]) -> Uri {
    Uri { host: uri.host_to_ask(buf).unwrap_or(uri.host), ..*uri }
}

/// Where a request of the server side goes whose Request-URI nobody has registered: another pair of ours, another
/// site's proxy, or the device that it names.
///
/// # Errors
/// 416 for a number or a name, which leads nowhere by itself; 480 for a URI of ours; 400 for one without a usable
/// transport (RFC 3263 §4.1).
pub fn beyond_table(request: &Message, names: &Names) -> Result<Target, Refusal> {
    let buf = request.buf();
    let nobody = || Refusal::new(480, "Not Registered Here", Counter::Refused480NotBound);
    let uri = request.request_uri().ok_or_else(nobody)?;
    if !uri.scheme.is_sip() {
        let (code, reason) = response::fault_reply(Fault::Scheme);
        return Err(Refusal::new(code, reason, Counter::FaultScheme));
    }
    let asked = to_ask(uri, buf);
    if names.is_own_uri(&asked, buf) || names.is_domain(asked.host, buf) {
        return Err(nobody());
    }
    match named(*uri, buf, names) {
        Target::Uri(uri) => reachable(&uri, buf),
        other => Ok(other),
    }
}

/// The phone that a request of the server side names, if it names one: by a token, or by what may be in the
/// connection table.
#[must_use]
pub fn of_phone(request: &Message, routes: &RouteSet, names: &Names, here: Incarnation) -> Option<Target> {
    let target = from_server(request, routes, names, here);
    let is_phones =
        matches!(target, Target::Flow { .. } | Target::Binding { .. } | Target::Gone { .. } | Target::Table);
    is_phones.then_some(target)
}

/// Whether an address can be one host's: 0.0.0.0 would be this one, and a group or everybody is no target. IPv4 in the
/// clothes of IPv6 would pass for another address than the one that is known, and our sockets do not reach it.
#[must_use]
pub fn may_be_sent_to(ip: IpAddr) -> bool {
    let is_odd = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    !(ip.is_unspecified() || ip.is_multicast() || is_odd)
}

/// Whether a name can stand in the DNS (RFC 1035 §2.3.4): no part of it is empty, and none too long.
fn may_be_asked_for(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    name.len() <= 253 && name.split(|byte| *byte == b'.').all(|label| (1..=63).contains(&label.len()))
}

/// A URI as a target.
///
/// # Errors
/// Its host is no host's address, or no name that there can be, or its transport none that we speak, or one that sips excludes (RFC 3261 §26.2.2).
pub fn reachable(uri: &Uri, buf: &[u8]) -> Result<Target, Refusal> {
    let may_be = match uri.host_to_ask(buf) {
        Some(Host::Name(name)) => may_be_asked_for(name.of(buf)),
        Some(host) => host.ip().is_some_and(may_be_sent_to),
        None => false,
    };
    if !may_be {
        return Err(Refusal::new(400, "Bad host in Request-URI", Counter::FaultRequestUriHost));
    }
    match (uri.scheme, uri.transport(buf)) {
        (_, Some(None)) | (Scheme::Sips, Some(Some(Transport::Udp))) => {
            Err(Refusal::new(400, "Bad transport in Request-URI", Counter::FaultRequestUriTransport))
        }
        _ => Ok(Target::Uri(*uri)),
    }
}

/// The shard that handles a request of the server side, made before any state so that a repetition, its ACK
/// and its CANCEL reach the same one. `None`: where it landed.
#[must_use]
pub fn placement_from_server(
    request: &Message,
    routes: &RouteSet,
    names: &Names,
    here: Incarnation,
    user16: impl FnOnce(&[u8]) -> u16,
) -> Option<ShardId> {
    let target = from_server(request, routes, names, here);
    match target {
        Target::Flow { flow, .. } => Some(flow.shard()),
        Target::Binding { binding, .. } => Some(binding.home(here.shards)),
        Target::Table | Target::Server { .. } | Target::Peer { .. } | Target::Uri(_) => {
            let uri = request.request_uri()?;
            let mut user = Vec::new();
            uri.user_unescaped(request.buf(), &mut user);
            Some(BindingId { user: user16(&user), hash: 0 }.home(here.shards))
        }
        // X-Genesys-Route has no say in it: a CANCEL may come without.
        Target::Myself | Target::Gone { .. } | Target::Address { .. } => None,
    }
}

/// Whether the Request-URI is the alias of a binding, to be replaced by the phone's own Contact.
#[must_use]
pub fn alias_of(routes: &RouteSet) -> Option<BindingId> {
    routes.uri_token.filter(|token| token.kind == Kind::Alias).and_then(|token| token.binding)
}
