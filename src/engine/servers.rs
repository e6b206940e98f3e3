//! The SIP Servers and other sites' proxies: the part of the shard that owns the verdict on them (service checks,
//! names, the pool), and what every shard does with the verdict.
//!
//! The rules are in [`crate::server_pool`]; what is here carries them out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::context::{ResponseContext, Why};
use super::links::{Hop, LinkKey, Whose, evidence_of};
use super::{CloseReason, ConnectFailure, Engine, KeyedState, Level, Mail, Settings, Source, Timer, Upstream};
use crate::clock::Time;
use crate::config::{Host, Server, ServerAddress};
use crate::dns::{Answer, Failure, Question, Target};
use crate::ids::{ConnId, FlowRef, ShardId, Side, Transport};
use crate::limits::{NAMES_AGAIN, POOL_CHECK_EVERY};
use crate::proxy::trust::{self, SentTo};
use crate::server_pool::{
    Evidence, Member, MemberSettings, Output, PairSettings, PinFault, PingId, Pong, Pool, Settings as PoolSettings,
    View,
};
use crate::sip::Message;
use crate::sip::value::write_u32;
use crate::stats::{Counter, PairRow};
use crate::transaction::branch::TxnId;
use crate::transaction::{Branch, Effects, PlainClient, TimerOp};
use crate::wheel::TimerId;

/// The shard that owns the verdict.
pub(super) const OWNER: ShardId = ShardId(0);
/// Names of waiters for what the owner itself asks, apart from those of requests.
const WATCH: u64 = 1 << 63;

/// What only the owner has.
#[derive(Debug)]
pub(super) struct Owner {
    pool: Pool,
    timer: Option<(Time, TimerId)>,
    /// Service checks in the air, by the nonce of their branch.
    pings: HashMap<u64, Ping, KeyedState>,
    watches: Vec<Watch>,
    /// When the names of the pool are next compared with our own.
    pool_check_at: Time,
}

/// One OPTIONS of ours.
#[derive(Debug)]
struct Ping {
    id: PingId,
    hop: Hop,
    flow: FlowRef,
    machine: PlainClient,
    bytes: Vec<u8>,
    timer: Option<TimerId>,
}

/// A name whose servers the owner follows.
#[derive(Debug)]
struct Watch {
    whose: Watched,
    question: Question,
    last: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Server(u8, Member),
    Peer(u8),
    /// What we advertise.
    Own,
    /// A name of the pool: it should hold our own address. Whether 40000 has been said.
    Domain {
        said: bool,
    },
}

impl Owner {
    /// The pairs for an operator.
    pub(super) fn rows(&self, now: Time) -> Vec<PairRow> {
        self.pool.rows(now)
    }

    /// How many timers it has in the wheel, which run for ever.
    pub(super) fn timers(&self) -> usize {
        let pings = self.pings.values().filter(|ping| ping.timer.is_some()).count();
        pings + usize::from(self.timer.is_some()) + usize::from(!self.watches.is_empty())
    }

    /// What every shard begins with.
    pub(super) fn view(&self) -> &View {
        self.pool.view()
    }

    pub(super) fn new(settings: &Settings, state: KeyedState, now: Time) -> Self {
        let member = |at: &ServerAddress| match at {
            ServerAddress::Address(address) => MemberSettings::Address(*address),
            ServerAddress::Name(..) => MemberSettings::Name,
        };
        let pair = |server: &Server| PairSettings {
            name: server.name.as_str().into(),
            primary: member(&server.primary),
            backup: server.backup.as_ref().map(member),
        };
        let pool = PoolSettings {
            pairs: settings.servers.iter().map(pair).collect(),
            oos_check: settings.live.oos_check,
            oos_force: settings.live.oos_force,
        };
        Self {
            pool: Pool::new(pool, now),
            timer: None,
            pings: HashMap::with_hasher(state),
            watches: watches(settings),
            pool_check_at: now,
        }
    }
}

/// The names that the settings hold.
fn watches(settings: &Settings) -> Vec<Watch> {
    let watch = |whose, host: &str, port, transport| Watch {
        whose,
        question: Question { host: host.into(), port, transport: Some(transport), secure: false },
        last: None,
    };
    let mut all = Vec::new();
    for (pair, server) in (0..).zip(&settings.servers) {
        for (member, at) in [(Member::Primary, Some(&server.primary)), (Member::Backup, server.backup.as_ref())] {
            if let Some(ServerAddress::Name(name, port)) = at {
                all.push(watch(Watched::Server(pair, member), name, *port, server.transport));
            }
        }
    }
    for (index, peer) in (0..).zip(&settings.peers) {
        if let Host::Name(name) = &peer.contact {
            let port = peer.port_tls.filter(|_| peer.protocol == Transport::Tls);
            all.push(watch(Watched::Peer(index), name, port, peer.protocol));
        }
    }
    let shown = [Transport::Tls, Transport::Udp, Transport::Tcp];
    let shown = shown.into_iter().find(|by| settings.points.iter().any(|p| p.transport == *by));
    // Without a resolver nothing is known of what is published.
    if let (Some(shown), false) = (shown, settings.dns.resolvers.is_empty() || settings.live.domains.is_empty()) {
        for point in settings.points.iter().filter(|point| point.transport == shown) {
            if let Some(Host::Name(name)) = Host::parse(&point.advertised_host) {
                all.push(watch(Watched::Own, &name, Some(point.advertised_port), shown));
            }
        }
        for domain in settings.live.domains.iter().filter(|domain| domain.parse::<IpAddr>().is_err()) {
            all.push(watch(Watched::Domain { said: false }, domain, None, shown));
        }
    }
    all
}

/// Where the peers with an address are; those with a name come with DNS.
pub(super) fn peers_of(settings: &Settings) -> Vec<Vec<Target>> {
    let target = |peer: &crate::config::PeerProxy| match peer.contact {
        Host::Ip(ip) => {
            vec![Target { transport: peer.protocol, address: SocketAddr::new(ip, peer.port()), priority: 0, weight: 0 }]
        }
        Host::Name(_) => Vec::new(),
    };
    settings.peers.iter().map(target).collect()
}

/// Nobody is there; for silence may end.
fn is_certain(why: Evidence) -> bool {
    matches!(why, Evidence::Refused | Evidence::Unreachable)
}

impl Engine {
    // --- the owner ---------------------------------------------------------------------------------------

    /// At start: the first service checks, and the first look at the names.
    pub(super) fn begin_as_owner(&mut self, now: Time) {
        if self.owner.is_some() {
            self.pump_pool(now);
            self.on_names_timer(now);
        }
    }

    /// Does something with the owner's part, and carries out what follows.
    pub(super) fn as_owner(&mut self, now: Time, what: impl FnOnce(&mut Pool)) {
        if let Some(owner) = &mut self.owner {
            what(&mut owner.pool);
            self.pump_pool(now);
        }
    }

    fn pump_pool(&mut self, now: Time) {
        while let Some(output) = self.owner.as_mut().and_then(|owner| owner.pool.poll_output()) {
            match output {
                Output::Ping { ping, pair, address, .. } => {
                    if let Ok(pair) = u8::try_from(pair) {
                        self.ping(ping, pair, address, now);
                    }
                }
                Output::GiveUp { ping } => self.end_ping(|one| one.id == ping),
                Output::View => self.spread_view(now),
                Output::Say(event) => {
                    let Some(owner) = &self.owner else { return };
                    let line = owner.pool.line(&event);
                    let level = if line.warn { Level::Warn } else { Level::Info };
                    self.tell(level, line.what, None, line.about.as_bytes());
                }
                Output::Count(counter) => self.count(counter),
            }
        }
        let Some(owner) = &mut self.owner else { return };
        let due = owner.pool.poll_timeout();
        if owner.timer.map(|(at, _)| at) != due {
            if let Some((_, timer)) = owner.timer.take() {
                self.ports.wheel.cancel(timer);
            }
            owner.timer = due.map(|at| (at, self.ports.wheel.arm(at, Timer::Pool)));
        }
    }

    pub(super) fn on_pool_timer(&mut self, now: Time) {
        if let Some(owner) = &mut self.owner {
            owner.timer = None;
        }
        self.as_owner(now, |pool| pool.fire(now));
    }

    /// What a shard has seen of a server.
    pub(super) fn on_evidence(&mut self, pair: u8, address: SocketAddr, evidence: Evidence, now: Time) {
        let pair = usize::from(pair);
        self.as_owner(now, |pool| match evidence {
            Evidence::Request => pool.on_request(pair, address, now),
            evidence => pool.on_evidence(pair, address, evidence, now),
        });
    }

    /// Fixes which server of a pair is active, or leaves it to the rules again. To be asked of the first shard.
    ///
    /// # Errors
    /// There is no such pair, or no such member of it, or this is not the shard that owns the verdict.
    pub fn pin(&mut self, pair: &str, member: Option<Member>, now: Time) -> Result<(), PinFault> {
        let owner = self.owner.as_mut().ok_or(PinFault::Pair)?;
        let pair = owner.pool.pair_named(pair).ok_or(PinFault::Pair)?;
        let result = owner.pool.pin(pair, member, now);
        self.pump_pool(now);
        self.settle(now);
        result
    }

    fn spread_view(&mut self, now: Time) {
        let Some(owner) = &self.owner else { return };
        let upstream = Upstream { view: owner.pool.view().clone(), peers: self.peers.clone() };
        for shard in (0..self.env.settings.shards).map(ShardId).filter(|shard| *shard != OWNER) {
            self.mail(shard, Mail::View { upstream: Box::new(upstream.clone()) });
        }
        self.on_view(upstream, now);
    }

    // --- names -------------------------------------------------------------------------------------------

    /// Looks the names of the settings up again. What is fresh is in the cache.
    pub(super) fn on_names_timer(&mut self, now: Time) {
        let Some(owner) = &mut self.owner else { return };
        if owner.watches.is_empty() {
            return;
        }
        let check_pool = owner.pool_check_at <= now;
        if check_pool {
            owner.pool_check_at = now.after(POOL_CHECK_EVERY);
        }
        for at in 0..owner.watches.len() {
            let Some(watch) = self.owner.as_ref().and_then(|owner| owner.watches.get(at)) else { break };
            let due = match watch.whose {
                Watched::Server(..) | Watched::Peer(_) => true,
                Watched::Own | Watched::Domain { .. } => check_pool,
            };
            if due && let Some(answer) = self.dns.ask(&watch.question, WATCH | at as u64, now, &mut self.ports.counters)
            {
                self.on_watched(at, answer, now);
            }
        }
        self.ports.wheel.arm(now.after(NAMES_AGAIN), Timer::Names);
    }

    /// A name has been resolved, or not, for whom it was asked for.
    pub(super) fn on_found(&mut self, waiter: u64, answer: Answer, now: Time) {
        if waiter & WATCH == 0 {
            self.on_name(super::contexts::txn_of_waiter(waiter), answer, now);
        } else {
            self.on_watched((waiter & !WATCH) as usize, answer, now);
        }
    }

    fn on_watched(&mut self, at: usize, answer: Answer, now: Time) {
        let Some(watch) = self.owner.as_mut().and_then(|owner| owner.watches.get_mut(at)) else { return };
        if watch.last.as_ref() == Some(&answer) && !matches!(watch.whose, Watched::Domain { .. }) {
            return;
        }
        watch.last = Some(answer.clone());
        let host = watch.question.host.clone();
        let targets: Arc<[Target]> = answer.clone().unwrap_or_else(|_| Arc::new([]));
        match watch.whose {
            Watched::Server(pair, member) => {
                if targets.is_empty() {
                    self.event("the name of a SIP Server does not resolve", None, host.as_bytes());
                }
                self.as_owner(now, |pool| pool.on_targets(usize::from(pair), member, &targets, now));
            }
            Watched::Peer(peer) => {
                if targets.is_empty() {
                    self.event("the name of a peer proxy does not resolve", None, host.as_bytes());
                }
                if let Some(place) = self.peers.get_mut(usize::from(peer)) {
                    *place = targets.to_vec();
                }
                self.spread_view(now);
            }
            Watched::Own => {}
            Watched::Domain { said } => self.compare_pool(at, said, &host, &answer),
        }
    }

    /// 40000: a name of the pool does not hold our own address, so that nobody finds us by it.
    fn compare_pool(&mut self, at: usize, said: bool, host: &str, answer: &Answer) {
        let Some(owner) = &self.owner else { return };
        let own: Vec<SocketAddr> = owner
            .watches
            .iter()
            .filter(|watch| watch.whose == Watched::Own)
            .filter_map(|watch| watch.last.as_ref()?.as_ref().ok())
            .flat_map(|targets| targets.iter().map(|target| target.address))
            .collect();
        let holds = match answer {
            Ok(targets) => targets.iter().any(|t| own.contains(&t.address) || self.env.names.is_own_address(t.address)),
            Err(Failure::NoSuchName | Failure::NoRecords) => false,
            // That nobody answers says nothing about what is published.
            Err(Failure::Unanswered | Failure::Bound) => return,
        };
        if holds == said {
            let (level, what) = match holds {
                true => (Level::Info, "40000 cleared: the DNS list of the pool holds this proxy"),
                false => (Level::Warn, "40000 the DNS list of the pool does not hold this proxy"),
            };
            self.tell(level, what, None, host.as_bytes());
        }
        if let Some(watch) = self.owner.as_mut().and_then(|owner| owner.watches.get_mut(at)) {
            watch.whose = Watched::Domain { said: !holds };
        }
    }

    // --- service checks ------------------------------------------------------------------------------------

    fn ping(&mut self, id: PingId, pair: u8, address: SocketAddr, now: Time) {
        let transport = self.env.settings.servers[usize::from(pair)].transport;
        let hop = Hop { transport, address };
        let whose = Whose::Server(pair);
        // Whether it can be reached again is what is asked.
        self.no_rest(LinkKey { whose, transport, address });
        let Some(flow) = self.flow_to(hop, whose, None, now) else {
            // What follows is carried out by who carries this out: no deeper for each ping that is queued.
            if let Some(owner) = &mut self.owner {
                owner.pool.on_pong(id, Pong::Lost(Evidence::Unreachable), now);
            }
            return;
        };
        let nonce = self.ports.rng.next();
        let bytes = self.write_ping(flow, address, nonce);
        let (machine, effects) = PlainClient::start(self.is_reliable(flow), self.env.times);
        let sent = self.ports.pool.copy(&bytes);
        let ping = Ping { id, hop, flow, machine, bytes, timer: None };
        let Some(owner) = &mut self.owner else { return };
        owner.pings.insert(nonce, ping);
        self.apply_ping(nonce, effects, now);
        if let Err(bytes) = self.send_on(flow, None, sent, None) {
            self.ports.pool.give(bytes);
        }
    }

    fn write_ping(&mut self, flow: FlowRef, address: SocketAddr, nonce: u64) -> Vec<u8> {
        let point = self.env.settings.point(flow.point());
        let transport = point.transport;
        let branch = Branch { shard: self.env.settings.shard, txn: TxnId::NONE, nonce, loop_hash: 0 };
        let host = format!("{}:{}", point.advertised_host, point.advertised_port);
        let by = if transport == Transport::Udp { "" } else { transport.param_name() };
        let param = if by.is_empty() { String::new() } else { format!(";transport={by}") };
        let mut out =
            format!("OPTIONS sip:{address}{param} SIP/2.0\r\nVia: SIP/2.0/{} {host};branch=", transport.via_name())
                .into_bytes();
        branch.write(&mut out);
        let tag = self.ports.rng.next();
        out.extend_from_slice(
            format!(
                "\r\nMax-Forwards: 70\r\nFrom: <sip:{host}>;tag={tag:016x}\r\nTo: <sip:{address}>\r\nCall-ID: \
                 {nonce:016x}@{}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:{host}{param}>\r\nUser-Agent: Hawser\r\nContent-Length: ",
                point.advertised_host
            )
            .as_bytes(),
        );
        write_u32(0, &mut out);
        out.extend_from_slice(b"\r\n\r\n");
        out
    }

    /// Of a ping's timers only that for its repetition runs: the pool says when it has waited long enough.
    fn apply_ping(&mut self, nonce: u64, effects: Effects, now: Time) {
        let Some(ping) = self.owner.as_mut().and_then(|owner| owner.pings.get_mut(&nonce)) else { return };
        if let TimerOp::Arm(wait) = effects.retransmit {
            let at = now.after(wait);
            match ping.timer {
                Some(timer) if self.ports.wheel.rearm(timer, at) => {}
                _ => ping.timer = Some(self.ports.wheel.arm(at, Timer::Ping(nonce))),
            }
        }
        if effects.resend.is_some() {
            let (flow, bytes) = (ping.flow, self.ports.pool.copy(&ping.bytes));
            self.count(Counter::ResentRequest);
            if let Err(bytes) = self.send_on(flow, None, bytes, None) {
                self.ports.pool.give(bytes);
            }
        }
    }

    pub(super) fn on_ping_timer(&mut self, nonce: u64, now: Time) {
        let times = self.env.times;
        let Some(ping) = self.owner.as_mut().and_then(|owner| owner.pings.get_mut(&nonce)) else { return };
        ping.timer = None;
        let effects = ping.machine.on_retransmit(times);
        self.apply_ping(nonce, effects, now);
    }

    fn end_ping(&mut self, which: impl Fn(&Ping) -> bool) {
        let Some(owner) = &mut self.owner else { return };
        let ended: Vec<u64> = owner.pings.iter().filter(|(_, ping)| which(ping)).map(|(nonce, _)| *nonce).collect();
        for nonce in ended {
            if let Some(timer) = owner.pings.remove(&nonce).and_then(|ping| ping.timer) {
                self.ports.wheel.cancel(timer);
            }
        }
    }

    /// A response to a service check of ours.
    pub(super) fn on_pong(&mut self, nonce: u64, message: &Message, source: &Source, now: Time) {
        let Some(ping) = self.owner.as_mut().and_then(|owner| owner.pings.get_mut(&nonce)) else {
            return self.count(Counter::ResponseStray);
        };
        if !trust::may_answer(
            SentTo { flow: Some(ping.flow), moved_to: None, whose: trust::Whose::Server(ping.hop.address) },
            source,
        ) {
            return self.note_elsewhere(message, source);
        }
        let code = message.status().unwrap_or(0);
        self.ports.counters.count(Counter::response_from(Side::Server, code));
        if code >= 200 {
            let id = ping.id;
            self.end_ping(|one| one.id == id);
            self.as_owner(now, |pool| pool.on_pong(id, Pong::Status(code), now));
        }
    }

    /// A connection of this shard to a server is gone, and with it the service checks on it.
    pub(super) fn pings_lost(&mut self, conn: ConnId, reason: CloseReason, now: Time) {
        let is_on = |ping: &Ping| matches!(ping.flow, FlowRef::Stream { conn: on, .. } if on == conn);
        self.lose_pings(is_on, evidence_of(reason).unwrap_or(Evidence::Reset), now);
    }

    /// A UDP address of a server cannot be reached.
    pub(super) fn pings_unreachable(&mut self, address: SocketAddr, now: Time) {
        let is_to = |ping: &Ping| ping.hop.transport == Transport::Udp && ping.hop.address == address;
        self.lose_pings(is_to, Evidence::Refused, now);
    }

    fn lose_pings(&mut self, which: impl Fn(&Ping) -> bool, evidence: Evidence, now: Time) {
        let Some(owner) = &self.owner else { return };
        let lost: Vec<PingId> = owner.pings.values().filter(|ping| which(ping)).map(|ping| ping.id).collect();
        self.end_ping(which);
        for id in lost {
            self.as_owner(now, |pool| pool.on_pong(id, Pong::Lost(evidence), now));
        }
    }

    // --- every shard -----------------------------------------------------------------------------------------

    /// The owner's verdict: new requests go by it, and those that wait for a server that does not answer move on.
    pub(super) fn on_view(&mut self, upstream: Upstream, now: Time) {
        let Upstream { view, peers } = upstream;
        self.env.names.set_servers(&view);
        for (index, targets) in peers.iter().enumerate() {
            self.env.names.set_peer(index, targets.iter().map(|target| target.address));
        }
        let before = std::mem::replace(&mut self.view, view);
        self.peers = peers;
        let (mut down, mut back) = (Vec::new(), Vec::new());
        for ((pair, view), before) in (0..).zip(&self.view.pairs).zip(&before.pairs) {
            let answered = |address| {
                let before = before.members.iter().flat_map(|member| &member.targets);
                before.filter(|target| target.up).any(|target| target.address == address)
            };
            let transport = self.env.settings.servers[usize::from(pair)].transport;
            for target in view.members.iter().flat_map(|member| &member.targets) {
                if target.up {
                    // It has been heard of, which is more than that its time to rest is over.
                    let lives = matches!(
                        target.why,
                        Evidence::Answered | Evidence::Request | Evidence::TookCall | Evidence::Status(_)
                    );
                    let is_back = lives && !answered(target.address);
                    let key = LinkKey { whose: Whose::Server(pair), transport, address: target.address };
                    match self.links.get_mut(&key) {
                        Some(link) if is_back => link.is_well(),
                        Some(link) => link.rest_no_more(),
                        None => {}
                    }
                    if is_back {
                        back.push(target.address);
                        self.dns.unblock(transport, target.address);
                    }
                } else {
                    let refuses = !transport.is_stream() && is_certain(target.why);
                    down.push((pair, target.address, refuses));
                }
            }
        }
        if !back.is_empty() {
            self.forgive(&back);
        }
        for (pair, address, refuses) in down {
            let is_its = |one: &ResponseContext| one.targets.pair() == Some(pair);
            self.move_from(address, Why::Verdict, true, is_its, now);
            if refuses {
                // ICMP tells one shard only, whichever has sent what it is about.
                let why = Why::Connection(Some(ConnectFailure::Refused));
                self.move_from(address, why, false, is_its, now);
            }
        }
    }

    /// Whether a server of a pair answers, as far as is known.
    pub(super) fn server_answers(&self, pair: u8) -> bool {
        let pair = self.view.pairs.get(usize::from(pair));
        pair.is_some_and(|pair| pair.serving().any(|member| pair.member(member).up()))
    }

    /// A request other than OPTIONS of the server side: one that is not the active one's makes its sender that.
    pub(super) fn note_server_request(&mut self, request: &Message, peer: SocketAddr) {
        let via = request.top_via();
        let sent_by = || {
            let port = via.port.unwrap_or_else(|| via.transport.map_or(5060, Transport::default_port));
            via.host.ip().map(|ip| SocketAddr::new(ip, port)).filter(|at| at.ip() == peer.ip())
        };
        let found = self.env.names.server_at(peer).map(|found| (found, peer));
        let found = found.or_else(|| {
            let at = sent_by()?;
            Some((self.env.names.server_at(at)?, at))
        });
        if let Some(((pair, member), address)) = found
            && self.view.pairs.get(usize::from(pair)).is_some_and(|view| !view.pinned && view.active != member)
        {
            self.tell_evidence(pair, address, Evidence::Request);
        }
    }

    /// A SIP Server has answered a request. Without service checks nothing else tells that it is there, and it is told
    /// until the owner says that it has heard.
    pub(super) fn note_answer(&mut self, pair: u8, hop: Hop, code: u16) {
        if !self.env.settings.live.oos_check.is_zero() || matches!(code, 408 | 503 | 504) {
            return;
        }
        let targets = self.view.pairs.get(usize::from(pair)).into_iter().flat_map(|pair| &pair.members);
        let known = targets.flat_map(|member| &member.targets).find(|target| target.address == hop.address);
        if known.is_some_and(|target| matches!(target.why, Evidence::Start | Evidence::Retry)) {
            self.tell_evidence(pair, hop.address, Evidence::Answered);
        }
    }

    /// The partner has taken a call that the active server would not: it is the one that serves.
    pub(super) fn note_takes_calls(&mut self, pair: u8, hop: Hop) {
        if let Some((_, member)) = self.env.names.server_at(hop.address)
            && self.view.pairs.get(usize::from(pair)).is_some_and(|view| !view.pinned && view.active != member)
        {
            self.tell_evidence(pair, hop.address, Evidence::TookCall);
        }
    }

    /// The other site's proxy at an address.
    pub(super) fn peer_at(&self, address: SocketAddr) -> Option<u8> {
        let at = self.peers.iter().position(|targets| targets.iter().any(|target| target.address == address))?;
        u8::try_from(at).ok()
    }

    /// A datagram has come from an address that could not be reached before.
    pub(super) fn heard_from(&mut self, from: SocketAddr, now: Time) {
        let whose = match (self.env.names.server_at(from), self.peer_at(from)) {
            (Some((pair, _)), _) => Whose::Server(pair),
            (None, Some(peer)) => Whose::Peer(peer),
            (None, None) => self.whose_device(None),
        };
        self.link_heard(LinkKey { whose, transport: Transport::Udp, address: from }, now);
    }
}
