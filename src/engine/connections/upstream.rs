//! The choice of a server and of a site's proxy by the verdict on them, and what is seen of them that the owner of the
//! verdict should hear.
//!
//! DESIGN.md, The SIP Server side; RFC 3263 §4, RFC 2782. Where they are stands in [`Upstream`], which the owner sends.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::clock::Time;
use crate::config::engine::Settings;
use crate::dns::{Dns, NextHop, Target};
use crate::engine::io::{CloseReason, ConnectFailure};
use crate::engine::mail::{Seen, Upstream};
use crate::engine::ports::Env;
use crate::flow::keys::{Keys, Tag};
use crate::ids::Transport;
use crate::limits::TARGETS_COUNT_MAX;
use crate::proxy::{names, target};
use crate::server_pool::{Evidence, Member, PairView};
use crate::sip::Message;

impl Upstream {
    /// A pair, as the owner of the verdict sees it.
    pub(in crate::engine) fn pair(&self, pair: u8) -> Option<&PairView> {
        self.view.pairs.get(usize::from(pair))
    }

    /// Whether a server of a pair answers, as far as is known.
    pub(in crate::engine) fn answers(&self, pair: u8) -> bool {
        self.pair(pair).is_some_and(|pair| pair.serving().any(|member| pair.member(member).up()))
    }

    /// The server of a pair that gets a request: of the active one's addresses that answer, the one that the
    /// Request-URI of a dialog names, else by priority and weight; then its partner. `tried` are left out.
    pub(in crate::engine) fn server_of(
        &self,
        pair: u8,
        request: Option<&Message>,
        tried: &[SocketAddr],
        env: &Env,
        dns: &mut Dns,
        now: Time,
    ) -> Option<NextHop> {
        let transport = env.settings.servers.get(usize::from(pair))?.transport;
        let view = self.pair(pair)?;
        view.serving().find_map(|member| {
            let may = member == view.active && !view.heard;
            let targets = view.member(member).targets.iter();
            let targets: SmallVec<[Target; 4]> = targets
                .filter(|at| (at.up || may) && !tried.contains(&at.address))
                .map(|at| Target { transport, address: at.address, priority: at.priority, weight: at.weight })
                .collect();
            let address = match *targets {
                [only] => only.address,
                _ => pick(&targets, request, &env.keys, dns, now)?,
            };
            Some(NextHop { transport, address })
        })
    }

    /// Where another site's proxy is, in the order in which its targets are tried.
    pub(in crate::engine) fn peer_targets(&self, peer: u8, dns: &mut Dns, now: Time) -> SmallVec<[Target; 4]> {
        self.peers.get(usize::from(peer)).map_or_else(SmallVec::new, |targets| dns.order(targets, now))
    }

    /// A request other than OPTIONS of the server side: one that is not the active server's makes its sender that.
    pub(in crate::engine) fn seen_request(&self, request: &Message, peer: SocketAddr, env: &Env) -> Option<Seen> {
        let via = request.top_via();
        let sent_by = || {
            let port = via.port.unwrap_or_else(|| via.transport.map_or(5060, Transport::default_port));
            via.host.ip().map(|ip| SocketAddr::new(ip, port)).filter(|at| at.ip() == peer.ip())
        };
        let found = |at: SocketAddr| env.names.server_at(at).map(|found| (found, at));
        let ((pair, member), address) = found(peer).or_else(|| found(sent_by()?))?;
        self.may_serve(pair, member).then_some((pair, address, Evidence::Request))
    }

    /// A server has answered a request. Without service checks nothing else tells that it is there, and it is told until
    /// the owner says that it has heard.
    pub(in crate::engine) fn seen_answer(
        &self,
        pair: u8,
        address: SocketAddr,
        code: u16,
        settings: &Settings,
    ) -> Option<Seen> {
        if !settings.live.oos_check.is_zero() || matches!(code, 408 | 503 | 504) {
            return None;
        }
        let targets = self.pair(pair)?.members.iter().flat_map(|member| &member.targets);
        let known = targets.into_iter().find(|target| target.address == address)?;
        matches!(known.why, Evidence::Start | Evidence::Retry).then_some((pair, address, Evidence::Answered))
    }

    /// The partner has taken a call that the active server would not: it is the one that serves.
    pub(in crate::engine) fn seen_call_taken(&self, pair: u8, address: SocketAddr, env: &Env) -> Option<Seen> {
        let (_, member) = env.names.server_at(address)?;
        self.may_serve(pair, member).then_some((pair, address, Evidence::TookCall))
    }

    fn may_serve(&self, pair: u8, member: Member) -> bool {
        self.pair(pair).is_some_and(|view| !view.pinned && view.active != member)
    }
}

/// Which of several targets gets a request. What has the same Call-ID goes to the same address, for a server that is
/// known by a name may write that into its Contact.
fn pick(targets: &[Target], request: Option<&Message>, keys: &Keys, dns: &mut Dns, now: Time) -> Option<SocketAddr> {
    let Some(request) = request else { return dns.order(targets, now).first().map(|at| at.address) };
    let named = || {
        let uri = request.request_uri().filter(|_| !request.to_tag().is_empty())?;
        let named = SocketAddr::new(uri.host.ip()?, names::port_of(uri, request.buf()));
        targets.iter().any(|at| at.address == named).then_some(named)
    };
    let alike = || {
        let hash = |at: &Target| spread(request.call_id(), at.address, keys);
        dns.order_alike(targets, hash, now).first().map(|at| at.address)
    };
    named().or_else(alike)
}

/// Evenly spread over dialogs and addresses.
fn spread(call_id: &[u8], address: SocketAddr, keys: &Keys) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => keys.hash64(Tag::CallId, &[call_id, &ip.octets(), &port]),
        IpAddr::V6(ip) => keys.hash64(Tag::CallId, &[call_id, &ip.octets(), &port]),
    }
}

/// The targets of a name that one request is tried at, in their order.
pub fn usable(targets: &[Target], dns: &mut Dns, now: Time) -> SmallVec<[NextHop; 2]> {
    let order = dns.order(targets, now);
    let may_be = order.iter().filter(|at| target::may_be_sent_to(at.address.ip()));
    may_be.take(TARGETS_COUNT_MAX).map(NextHop::from).collect()
}

/// What the end of a connection says of the server at its other end.
pub fn evidence_of(reason: CloseReason) -> Option<Evidence> {
    Some(match reason {
        CloseReason::Connect(ConnectFailure::Refused) => Evidence::Refused,
        CloseReason::Connect(ConnectFailure::Unreachable) => Evidence::Unreachable,
        CloseReason::Connect(ConnectFailure::Timeout) => Evidence::ConnectTimeout,
        CloseReason::Connect(ConnectFailure::Tls) => Evidence::Tls,
        // Ours, not its.
        CloseReason::Connect(ConnectFailure::Resources)
        | CloseReason::Panic
        | CloseReason::Framing
        | CloseReason::Pings
        | CloseReason::HalfClosed
        | CloseReason::Idle => return None,
        _ => Evidence::Reset,
    })
}

/// Whether it says that nobody is there; for silence may end.
pub fn is_certain(why: Evidence) -> bool {
    matches!(why, Evidence::Refused | Evidence::Unreachable)
}

/// Whether a server has been heard of, which is more than that its time to rest is over.
pub fn has_lived(why: Evidence) -> bool {
    matches!(why, Evidence::Answered | Evidence::Request | Evidence::TookCall | Evidence::Status(_))
}
