//! Where a request goes that is not for a phone's flow, and where it goes next when that will not do: the servers of
//! a pair, the targets of a name, a device (RFC 3263 §4, RFC 3261 §16.7 step 6; DESIGN.md, The SIP Server side).
//!
//! A request that has found no answer is tried at the next target under a new branch. What the one before still says
//! is heard: a 2xx always goes back.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::exchange::{Cancelling, ClientTxn, Exchange, GivenUp, Onward, Which};
use super::links::{Hop, LinkKey, Whose};
use super::mail::Query;
use super::{ConnectFailure, Engine, Mail};
use crate::clock::Time;
use crate::dns::{self, Answer, Failure, Question};
use crate::flow::keys::Tag;
use crate::ids::FlowRef;
use crate::limits::{HOME_ANSWER_MAX, NAME_ANSWER_MAX, TARGETS_COUNT_MAX};
use crate::proxy::{Target, Walk, names, target};
use crate::sip::Message;
use crate::stats::Counter;
use crate::tls::identity::Expected;
use crate::transaction::branch::TxnId;

/// The targets of a request that are left.
#[derive(Clone, Debug)]
pub(super) struct Hops {
    list: SmallVec<[Hop; 2]>,
    next: usize,
    /// The other site's proxy; `None` for a device.
    pub(super) peer: Option<u8>,
    /// What was asked for, before DNS.
    pub(super) host: Expected,
    pub(super) port: u16,
    /// The last one could not be reached because of this.
    pub(super) failure: Option<ConnectFailure>,
}

impl Hops {
    /// A device's, by the host and port that were named for it.
    pub(super) fn to_device(list: SmallVec<[Hop; 2]>, host: Expected, port: u16) -> Self {
        Self { list, next: 0, peer: None, host, port, failure: None }
    }

    /// Another site's, whose certificate its settings name.
    fn to_peer(list: SmallVec<[Hop; 2]>, peer: u8) -> Self {
        let host = Expected::Name(String::new());
        Self { list, next: 0, peer: Some(peer), host, port: 0, failure: None }
    }
}

/// Why a target would not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It said 503.
    Unavailable,
    /// The connection could not be opened, or was lost before anything was heard.
    Connection(Option<ConnectFailure>),
    /// Timer B.
    Timeout,
    /// The pair's owner says that it does not answer.
    Verdict,
}

impl Why {
    fn counter(self) -> Counter {
        match self {
            Self::Unavailable => Counter::FailoverUnavailable,
            Self::Connection(_) => Counter::FailoverConnection,
            Self::Timeout => Counter::FailoverTimeout,
            Self::Verdict => Counter::FailoverVerdict,
        }
    }
}

impl Engine {
    // --- servers -----------------------------------------------------------------------------------------

    /// Sends a request to the server of a pair that it is for, if that will take it, else as [`Engine::try_server`].
    pub(super) fn try_server_at(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        pair: u8,
        at: Option<SocketAddr>,
        walk: Option<&Walk>,
        now: Time,
    ) {
        if let Some(hop) = at.and_then(|at| self.hop_of_server(pair, at)) {
            exchange.onward = Onward::Server(pair);
            if let Some(flow) = self.flow_to(hop, Whose::Server(pair), None, now) {
                exchange.hop = Some(hop);
                return self.send_after_wait(id, exchange, walk, flow, now);
            }
            exchange.tried.push(hop.address);
        }
        self.try_server(id, exchange, pair, walk, now);
    }

    fn hop_of_server(&self, pair: u8, address: SocketAddr) -> Option<Hop> {
        let transport = self.env.settings.servers.get(usize::from(pair))?.transport;
        Some(Hop { transport, address })
    }

    /// Sends a request to the first server of its pair that will take it.
    pub(super) fn try_server(&mut self, id: TxnId, exchange: &mut Exchange, pair: u8, walk: Option<&Walk>, now: Time) {
        exchange.onward = Onward::Server(pair);
        let whose = Whose::Server(pair);
        let mut resting = None;
        while let Some(hop) = self.pick_server(pair, exchange, now) {
            if let Some(flow) = self.flow_to(hop, whose, None, now) {
                exchange.hop = Some(hop);
                return self.send_after_wait(id, exchange, walk, flow, now);
            }
            exchange.tried.push(hop.address);
            resting = resting.or(Some(hop));
        }
        // A server that is only late to start is not made to wait for by phones that come first.
        if let Some(hop) = resting.filter(|_| !self.view.pairs.get(usize::from(pair)).is_none_or(|pair| pair.heard)) {
            self.no_rest(LinkKey { whose, transport: hop.transport, address: hop.address });
            if let Some(flow) = self.flow_to(hop, whose, None, now) {
                exchange.hop = Some(hop);
                return self.send_after_wait(id, exchange, walk, flow, now);
            }
        }
        self.finish_unreachable_server(id, exchange, now);
    }

    /// The flow to a server of a pair, for what has no transaction: to the one that it is for, if there is a way.
    pub(super) fn server_flow(
        &mut self,
        pair: u8,
        at: Option<SocketAddr>,
        request: &Message,
        now: Time,
    ) -> Option<FlowRef> {
        if let Some(hop) = at.and_then(|at| self.hop_of_server(pair, at))
            && let Some(flow) = self.flow_to(hop, Whose::Server(pair), None, now)
        {
            return Some(flow);
        }
        let mut tried = SmallVec::<[SocketAddr; 1]>::new();
        while let Some(hop) = self.server_of(pair, Some(request), &tried, now) {
            match self.flow_to(hop, Whose::Server(pair), None, now) {
                Some(flow) => return Some(flow),
                None => tried.push(hop.address),
            }
        }
        None
    }

    fn pick_server(&mut self, pair: u8, exchange: &Exchange, now: Time) -> Option<Hop> {
        if exchange.tried.len().max(exchange.former.len()) >= TARGETS_COUNT_MAX {
            self.count(Counter::LimitTargetsCount);
            return None;
        }
        self.server_of(pair, exchange.request.as_deref(), &exchange.tried, now)
    }

    /// The server of a pair that gets a request: of the active one's addresses that answer, the one that the
    /// Request-URI of a dialog names, else by priority and weight; then its partner. What has the same Call-ID goes to
    /// the same address, for a server that is known by a name may write that into its Contact.
    fn server_of(&mut self, pair: u8, request: Option<&Message>, tried: &[SocketAddr], now: Time) -> Option<Hop> {
        let transport = self.env.settings.servers.get(usize::from(pair))?.transport;
        let view = self.view.pairs.get(usize::from(pair))?;
        for member in view.serving() {
            let may = member == view.active && !view.heard;
            let usable = |at: &&crate::server_pool::TargetView| (at.up || may) && !tried.contains(&at.address);
            let mut targets = view.member(member).targets.iter().filter(usable);
            let Some(first) = targets.next() else { continue };
            if targets.next().is_none() {
                return Some(Hop { transport, address: first.address });
            }
            let all: SmallVec<[dns::Target; 4]> = view
                .member(member)
                .targets
                .iter()
                .filter(usable)
                .map(|at| dns::Target { transport, address: at.address, priority: at.priority, weight: at.weight })
                .collect();
            let of_dialog = request.filter(|request| !request.to_tag().is_empty()).and_then(|request| {
                let uri = request.request_uri()?;
                let named = SocketAddr::new(uri.host.ip()?, names::port_of(uri, request.buf()));
                all.iter().find(|at| at.address == named).map(|at| at.address)
            });
            let address = match of_dialog {
                Some(address) => address,
                None => match request {
                    Some(request) => {
                        let hash = |at: &dns::Target| self.spread(request.call_id(), at.address);
                        self.dns.order_alike(&all, hash, now).first()?.address
                    }
                    None => self.dns.order(&all, now).first()?.address,
                },
            };
            return Some(Hop { transport, address });
        }
        None
    }

    /// Evenly spread over dialogs and addresses.
    fn spread(&self, call_id: &[u8], address: SocketAddr) -> u64 {
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => self.env.keys.hash64(Tag::CallId, &[call_id, &ip.octets(), &port]),
            IpAddr::V6(ip) => self.env.keys.hash64(Tag::CallId, &[call_id, &ip.octets(), &port]),
        }
    }

    // --- targets of names and addresses --------------------------------------------------------------------

    /// Sends a request of the server side to one of a name's servers, once they are known.
    pub(super) fn ask_for_targets(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        walk: &Walk,
        question: Question,
        host: Expected,
        now: Time,
    ) {
        exchange.onward = Onward::Hops;
        exchange.hops = Some(Box::new(Hops::to_device(SmallVec::new(), host, question.port.unwrap_or(0))));
        match self.dns.ask(&question, waiter_of(id), now, &mut self.ports.counters) {
            Some(answer) => self.on_targets(id, exchange, Some(walk), answer, now),
            None => {
                exchange.resolving = true;
                self.arm(id, exchange, Which::Wait, now.after(NAME_ANSWER_MAX));
            }
        }
    }

    /// A name has been resolved for a request that waits for it.
    pub(super) fn on_name(&mut self, id: TxnId, answer: Answer, now: Time) {
        let Some(mut exchange) = self.take_exchange(id) else { return };
        if exchange.resolving && exchange.onward == Onward::Hops {
            exchange.resolving = false;
            self.stop(&mut exchange, Which::Wait);
            self.on_targets(id, &mut exchange, None, answer, now);
        }
        self.put_back(id, exchange);
    }

    fn on_targets(&mut self, id: TxnId, exchange: &mut Exchange, walk: Option<&Walk>, answer: Answer, now: Time) {
        let (reason, counter) = match answer {
            Ok(targets) => {
                // The name of a server of ours, or of another site's, leads where its address would.
                let whose = targets.iter().find_map(|at| self.env.names.named_at(at.address));
                if let Some(target) = whose {
                    exchange.hops = None;
                    return match target {
                        Target::Peer { peer } => self.aim_at_peer(id, exchange, walk, peer, now),
                        Target::Server { pair, at } => self.try_server_at(id, exchange, pair, at, walk, now),
                        _ => self.finish(id, exchange, 480, "Not Registered Here", Counter::Refused480NotBound, now),
                    };
                }
                let list = self.usable(&targets, now);
                if let Some(hops) = &mut exchange.hops {
                    hops.list = list;
                }
                return self.try_hop(id, exchange, walk, now);
            }
            Err(Failure::NoSuchName | Failure::NoRecords) => ("No Such Name", Counter::Refused503NoSuchName),
            Err(Failure::Unanswered | Failure::Bound) => ("Name Not Resolved", Counter::Refused503NameUnanswered),
        };
        self.finish(id, exchange, 503, reason, counter, now);
    }

    /// The targets of a name that one request is tried at, in their order.
    pub(super) fn usable(&mut self, targets: &[dns::Target], now: Time) -> SmallVec<[Hop; 2]> {
        let order = self.dns.order(targets, now);
        let may_be = order.iter().filter(|at| target::may_be_sent_to(at.address.ip()));
        may_be.take(TARGETS_COUNT_MAX).map(Hop::from).collect()
    }

    /// Sends a request to another site's proxy.
    pub(super) fn aim_at_peer(&mut self, id: TxnId, exchange: &mut Exchange, walk: Option<&Walk>, peer: u8, now: Time) {
        exchange.onward = Onward::Hops;
        let targets = self.peers.get(usize::from(peer)).cloned().unwrap_or_default();
        let list = self.dns.order(&targets, now).iter().take(TARGETS_COUNT_MAX).map(Hop::from).collect();
        exchange.hops = Some(Box::new(Hops::to_peer(list, peer)));
        self.try_hop(id, exchange, walk, now);
    }

    /// Sends a request to the next of its targets that will take it.
    pub(super) fn try_hop(&mut self, id: TxnId, exchange: &mut Exchange, walk: Option<&Walk>, now: Time) {
        loop {
            let Some(hops) = exchange.hops.as_mut() else { return };
            let Some(hop) = hops.list.get(hops.next).copied() else {
                return self.finish_no_target(id, exchange, now);
            };
            hops.next += 1;
            let (peer, host, port) = (hops.peer, hops.host.clone(), hops.port);
            exchange.hop = Some(hop);
            let whose = match peer {
                Some(peer) => Whose::Peer(peer),
                None if !hop.transport.is_stream() => self.whose_device(None),
                None => {
                    let (shard, tls) = self.device_of(hop, &host, port);
                    exchange.resolving = true;
                    exchange.peers_asked = 1;
                    self.arm(id, exchange, Which::Wait, now.after(HOME_ANSWER_MAX));
                    return self.mail(shard, Mail::Ask { txn: id, query: Query::Device { hop, tls } });
                }
            };
            if let Some(flow) = self.flow_to(hop, whose, None, now) {
                return self.send_after_wait(id, exchange, walk, flow, now);
            }
            let failure = self.why_not(hop, whose, now);
            if let Some(hops) = &mut exchange.hops {
                hops.failure = failure;
            }
        }
    }

    fn finish_no_target(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let failure = exchange.hops.as_ref().and_then(|hops| hops.failure);
        let (code, reason, counter) = match failure {
            Some(ConnectFailure::Tls) => (502, "Certificate Refused", Counter::Refused502Certificate),
            _ => (503, "No Target Left", Counter::Refused503NoTarget),
        };
        self.finish(id, exchange, code, reason, counter, now);
    }

    /// A name was not resolved in time, or a device's shard has not answered.
    pub(super) fn on_wait_over(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        if std::mem::take(&mut exchange.peers_asked) > 0 {
            self.count(Counter::LimitHomeAnswer);
            return self.try_hop(id, exchange, None, now);
        }
        self.dns.give_up(waiter_of(id));
        self.count(Counter::LimitNameAnswer);
        self.finish(id, exchange, 503, "Name Not Resolved", Counter::Refused503NameUnanswered, now);
    }

    // --- the next one --------------------------------------------------------------------------------------

    /// Whether there is another target to try.
    pub(super) fn has_alternative(&mut self, exchange: &Exchange, now: Time) -> bool {
        if exchange.given_up != GivenUp::No || exchange.request.is_none() || !exchange.server.is_open() {
            return false;
        }
        match exchange.onward {
            Onward::Flow => false,
            Onward::Hops => exchange.hops.as_ref().is_some_and(|hops| hops.next < hops.list.len()),
            Onward::Server(pair) => {
                let mut tried = exchange.tried.clone();
                tried.extend(exchange.hop.map(|hop| hop.address));
                let next = self.server_of(pair, exchange.request.as_deref(), &tried, now);
                next.is_some_and(|hop| {
                    let key = LinkKey { whose: Whose::Server(pair), transport: hop.transport, address: hop.address };
                    tried.len().max(exchange.former.len()) < TARGETS_COUNT_MAX
                        && !self.links.get(&key).is_some_and(|link| link.rests(now))
                })
            }
        }
    }

    /// Gives a target up: the request goes to the next one under a new branch, or ends.
    pub(super) fn fail_over(&mut self, id: TxnId, exchange: &mut Exchange, why: Why, now: Time) {
        match exchange.given_up {
            GivenUp::No => {}
            GivenUp::Caller => {
                self.unwatch(id, exchange);
                if !matches!(exchange.cancelling, Cancelling::Sent { .. }) {
                    self.leave(exchange, now);
                }
                return self.finish_cancelled(id, exchange, now);
            }
            GivenUp::TimerC => {
                let counter = Counter::Refused408TimerC;
                return self.finish(id, exchange, 408, "Request Timeout", counter, now);
            }
        }
        self.unwatch(id, exchange);
        self.leave(exchange, now);
        self.stop_client(exchange);
        exchange.ack = Vec::new();
        exchange.client = ClientTxn::Waiting;
        exchange.cancelling = Cancelling::No;
        exchange.resolving = false;
        exchange.attempts = 0;
        exchange.nonce = self.ports.rng.next();
        self.count(why.counter());
        exchange.tried.extend(exchange.hop.map(|hop| hop.address));
        match exchange.onward {
            Onward::Server(pair) => self.try_server(id, exchange, pair, None, now),
            Onward::Hops => {
                if let (Some(hops), Why::Connection(failure)) = (&mut exchange.hops, why) {
                    hops.failure = failure;
                }
                self.try_hop(id, exchange, None, now);
            }
            Onward::Flow => self.finish_gone(id, exchange, now),
        }
    }

    /// The connection that a request was sent on to one of its targets is gone, and nothing was heard: once it is
    /// opened again, for an idle one may have been closed while the request was under way; then the next is tried.
    pub(super) fn on_target_lost(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        failure: Option<ConnectFailure>,
        now: Time,
    ) {
        exchange.attempts = exchange.attempts.saturating_add(1);
        if !exchange.client.is_unanswered() {
            return self.on_answered_target_lost(id, exchange, failure, now);
        }
        let again = match (exchange.onward, exchange.hop) {
            // One that was given up is not sent again.
            _ if failure.is_some() || exchange.attempts > 1 || exchange.given_up != GivenUp::No => None,
            (Onward::Server(pair), Some(hop)) => self.flow_to(hop, Whose::Server(pair), None, now),
            (Onward::Hops, Some(hop)) => match exchange.hops.as_ref().and_then(|hops| hops.peer) {
                Some(peer) => self.flow_to(hop, Whose::Peer(peer), None, now),
                None => {
                    // A device's connection is its shard's to open.
                    if let Some(hops) = &mut exchange.hops {
                        hops.next = hops.next.saturating_sub(1);
                    }
                    exchange.client = ClientTxn::Waiting;
                    self.stop_client(exchange);
                    return self.try_hop(id, exchange, None, now);
                }
            },
            _ => None,
        };
        match again {
            Some(flow) => self.follow_to(id, exchange, flow, now),
            None => self.fail_over(id, exchange, Why::Connection(failure), now),
        }
    }

    /// The same when something was heard: it has the request, and opens a connection of its own for the answer
    /// (RFC 3261 §18.2.2). One of ours tells whether it is still there; of a server its pair's owner judges by that.
    fn on_answered_target_lost(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        failure: Option<ConnectFailure>,
        now: Time,
    ) {
        let whose = match (exchange.onward, exchange.hops.as_ref().and_then(|hops| hops.peer)) {
            (Onward::Server(pair), _) => Whose::Server(pair),
            (Onward::Hops, Some(peer)) => Whose::Peer(peer),
            // What is still to be sent to a device needs a new one from us.
            (Onward::Hops, None) => return exchange.next = None,
            (Onward::Flow, _) => return,
        };
        if failure.is_some() && matches!(whose, Whose::Peer(_)) {
            return self.fail_over(id, exchange, Why::Connection(failure), now);
        }
        if let Some(hop) = exchange.hop.filter(|_| failure.is_none() && exchange.attempts <= 1)
            && let Some(flow) = self.flow_to(hop, whose, None, now)
        {
            self.follow_to(id, exchange, flow, now);
        } else if exchange.onward == Onward::Hops {
            exchange.next = None;
        }
    }

    /// Targets that were given up and answer again may be tried again.
    pub(super) fn forgive(&mut self, back: &[SocketAddr]) {
        for exchange in self.exchanges.iter_mut().filter_map(|(_, place)| place.as_mut()) {
            if matches!(exchange.onward, Onward::Server(_)) {
                exchange.tried.retain(|tried| !back.contains(tried));
            }
        }
    }

    /// Moves the requests that wait for an address which does not answer, if there is another.
    pub(super) fn move_from(
        &mut self,
        address: SocketAddr,
        why: Why,
        also_answered: bool,
        is_its: impl Fn(&Exchange) -> bool,
        now: Time,
    ) {
        let waiting: Vec<TxnId> = self
            .exchanges
            .iter()
            .filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
            .filter(|(_, one)| {
                let waits = one.client.is_unanswered() || (also_answered && one.client.is_pending());
                waits && one.hop.is_some_and(|hop| hop.address == address) && is_its(one)
            })
            .map(|(slot, _)| super::exchange::txn_of(slot))
            .collect();
        for id in waiting {
            let Some(mut exchange) = self.take_exchange(id) else { continue };
            if why != Why::Verdict || self.has_alternative(&exchange, now) || exchange.given_up != GivenUp::No {
                self.fail_over(id, &mut exchange, why, now);
            }
            self.put_back(id, exchange);
        }
    }
}

/// The waiter's name of a request: names of servers and peers have the highest bit.
pub(super) fn waiter_of(id: TxnId) -> u64 {
    (u64::from(id.slot & 0x7fff_ffff) << 32) | u64::from(id.generation)
}

/// The reverse of [`waiter_of`].
pub(super) fn txn_of_waiter(waiter: u64) -> TxnId {
    TxnId { slot: (waiter >> 32) as u32, generation: waiter as u32 }
}
