//! Where a request goes: what a response context asks, put to the location of phones, the connections and the DNS.

use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::connections::Element;
use super::context::waiter_of;
use super::context::{Event, Named, Registered, ResponseContext, Seek, Seeking, TargetSet, Way};
use super::location::Found;
use super::location::notice::Whereabouts;
use super::mail::{By, Letter, Query};
use super::{Engine, Mail};
use crate::clock::Time;
use crate::dns;
use crate::dns::{Answer, NextHop, Question};
use crate::ids::{FlowRef, ShardId, Side};
use crate::limits::{HOME_ANSWER_MAX, NAME_ANSWER_MAX, TARGETS_COUNT_MAX};
use crate::proxy::{Place, RouteSet, Target, place_of, target};
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

impl Engine {
    /// Answers what a context asks, at once or with [`Event::Asked`].
    pub(super) fn seek(
        &mut self,
        id: TxnId,
        context: &ResponseContext,
        seek: Seek,
        now: Time,
    ) -> Option<Event<'static>> {
        Some(match seek {
            Seek::Flow { flow, binding } => match self.moved_from(flow, binding) {
                Some(flow) => Event::Found(self.way(context, flow)),
                None => Event::FlowGone(Some(flow).filter(|flow| flow.is_stream())),
            },
            Seek::Registered { or } => {
                let found = match self.look_up(context.message()?, now) {
                    Found::Binding(binding) => Registered::By(binding),
                    Found::Unclear => Registered::Unclear,
                    Found::Nobody => Registered::Nobody,
                };
                Event::Registered { found, or }
            }
            Seek::Address(hop) => self.seek_address(id, context, hop),
            Seek::Beyond(lost) => {
                let request = context.request.as_ref()?;
                Event::Beyond(self.beyond_lost(&request.message, &request.routes, lost))
            }
            Seek::Home { binding, not, wait } => {
                // Nobody has to be waited for while there is another way.
                let another = |flow: &FlowRef| not.is_none_or(|gone| !gone.is_same(*flow));
                let wait = self.still_there(context).filter(another).map_or(wait, |_| std::time::Duration::ZERO);
                let home = binding.home(self.env.settings.shards);
                let query = Query::Binding(Whereabouts { binding, not, wait });
                self.mail(home, Mail::Ask { txn: id, query });
                Event::Asked { seeking: Seeking::Home, wait: wait + HOME_ANSWER_MAX }
            }
            Seek::Server { pair, at } => self.seek_server(context, pair, at, now),
            Seek::Peer(peer) => {
                let all = self.peer_targets(peer, now).iter().take(TARGETS_COUNT_MAX).map(NextHop::from).collect();
                Event::Peer { peer, all }
            }
            Seek::Name(question) => match self.dns.ask(&question, waiter_of(id), now, &mut self.ports.counters) {
                Some(answer) => Event::Named(self.named(answer, now)),
                None => Event::Asked { seeking: Seeking::Name, wait: NAME_ANSWER_MAX },
            },
            Seek::Hop(hop) => return self.seek_hop(id, context, hop, now),
            Seek::Reopen { failure } => {
                let whose = match context.targets {
                    TargetSet::Servers { pair, .. } => Some(Element::Server(pair)),
                    TargetSet::Peer { peer, .. } => Some(Element::Peer(peer)),
                    TargetSet::Phone { .. } | TargetSet::Device { .. } => None,
                };
                let flow = self.flow_to(context.client.hop?, whose?, None, now);
                Event::Reopened { way: flow.map(|flow| self.way(context, flow)), failure }
            }
            Seek::Large(flow) => {
                let by_tcp = self.large_flow(context.targets.side(), context.client.hop?.address, now);
                Event::Large { way: by_tcp.map(|flow| self.way(context, flow)), flow }
            }
        })
    }

    /// A flow, with what a request says of it.
    pub(super) fn way(&self, context: &ResponseContext, flow: FlowRef) -> Way {
        let source = &context.asked.source;
        // An endpoint that has got hold of an alias must not learn whose Contact it stands for.
        let alias = context.request.as_ref().filter(|_| source.side == Side::Server);
        let alias = alias.and_then(|request| target::alias_of(&request.routes));
        let contact = alias.and_then(|alias| Some(self.location.directory().find(alias)?.contact.clone()));
        let endpoint = if source.side == Side::Endpoint { source.flow } else { flow };
        Way { flow, contact, opened: self.is_opened(endpoint) }
    }

    // --- phones ----------------------------------------------------------------------------------------------

    /// The flow that a request can go by though its binding has none: the UDP address that it was sent to, or what is left
    /// to it by what its token names, unless that is known to be gone or to be somebody else's by now.
    pub(super) fn still_there(&self, context: &ResponseContext) -> Option<FlowRef> {
        let TargetSet::Phone { binding, named, .. } = context.targets else { return None };
        if let Some(sent) = context.client.flow.filter(|flow| !flow.is_stream()) {
            return Some(sent);
        }
        Some(self.location.left_to(named?, binding?, &self.env))
            .filter(|flow| self.location.is_open_to(*flow, binding, &self.env))
    }

    /// The SIP Server names its target's address: over UDP it is sent there; a connection is one of ours whose peer
    /// it is, here or at another shard.
    fn seek_address(&mut self, id: TxnId, context: &ResponseContext, hop: NextHop) -> Event<'static> {
        if let Some((flow, binding)) = self.flow_at(hop.transport, hop.address) {
            if !hop.transport.is_stream() && binding.is_none() {
                return Event::Device(hop);
            }
            return Event::Connected { way: self.way(context, flow), binding };
        }
        let others = (0..self.env.settings.shards).map(ShardId).filter(|shard| *shard != self.me());
        let others: SmallVec<[ShardId; 8]> = others.collect();
        if others.is_empty() || !hop.transport.is_stream() {
            return Event::NotConnected(hop);
        }
        let count = u8::try_from(others.len()).unwrap_or(u8::MAX);
        for shard in others {
            let query = Query::Address { transport: hop.transport, remote: hop.address };
            self.mail(shard, Mail::Ask { txn: id, query });
        }
        Event::Asked { seeking: Seeking::Address(count), wait: HOME_ANSWER_MAX }
    }

    /// To whom the flow that a token named had led, now that it is lost.
    pub(super) fn beyond_lost(&self, request: &Message, routes: &RouteSet, lost: Option<FlowRef>) -> Option<Target> {
        let transport = lost.map(|flow| self.transport_of(flow)).filter(|transport| transport.is_stream());
        let opened = routes.token.is_some_and(|token| token.opened);
        // What an endpoint says of itself opens no connection; the settings may know the address as a device's.
        let may_open = |hop: NextHop| opened || self.env.settings.device_at(hop.address.ip()).is_some();
        target::beyond_table(request, &self.env.names).ok().filter(|target| match target {
            Target::Uri(uri) => match place_of(uri, request.buf()) {
                (Place::At(hop), _) => (Some(hop.transport) == transport && may_open(hop)) || self.aims_at(hop),
                // It stands in the device's Contact, and nobody else has named it.
                (Place::Named(_), _) => false,
            },
            _ => true,
        })
    }

    // --- servers ---------------------------------------------------------------------------------------------

    /// The first server of a pair that will take a request: `at`, if that will, else as the pair's view says.
    fn seek_server(
        &mut self,
        context: &ResponseContext,
        pair: u8,
        at: Option<SocketAddr>,
        now: Time,
    ) -> Event<'static> {
        let mut tried = SmallVec::<[SocketAddr; 1]>::from(context.targets.tried());
        let (whose, before) = (Element::Server(pair), tried.len());
        let at = at.and_then(|at| self.hop_of_server(pair, at));
        let (mut found, mut resting) = (None, None);
        let mut next = at.or_else(|| self.pick_server(pair, context, &tried, now));
        while let (Some(hop), None) = (next, found) {
            found = self.flow_to(hop, whose, None, now).map(|flow| (hop, flow));
            if found.is_none() {
                tried.push(hop.address);
                resting = resting.or(Some(hop).filter(|hop| Some(*hop) != at));
                next = self.pick_server(pair, context, &tried, now);
            }
        }
        // A server that is only late to start is not made to wait for by phones that come first.
        if let (None, Some(hop), false) = (found, resting, self.was_server_heard(pair)) {
            self.no_rest(hop, whose);
            found = self.flow_to(hop, whose, None, now).map(|flow| (hop, flow));
        }
        let passed_over = SmallVec::from_slice(&tried[before..]);
        Event::Server { found: found.map(|(hop, flow)| (hop, self.way(context, flow))), passed_over }
    }

    fn pick_server(&mut self, pair: u8, context: &ResponseContext, tried: &[SocketAddr], now: Time) -> Option<NextHop> {
        if tried.len().max(context.earlier.len()) >= TARGETS_COUNT_MAX {
            self.count(Counter::LimitTargetsCount);
            return None;
        }
        self.server_of(pair, context.message(), tried, now)
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
            && let Some(flow) = self.flow_to(hop, Element::Server(pair), None, now)
        {
            return Some(flow);
        }
        let mut tried = SmallVec::<[SocketAddr; 1]>::new();
        while let Some(hop) = self.server_of(pair, Some(request), &tried, now) {
            match self.flow_to(hop, Element::Server(pair), None, now) {
                Some(flow) => return Some(flow),
                None => tried.push(hop.address),
            }
        }
        None
    }

    /// Whether there is another target to try.
    pub(super) fn has_alternative(&mut self, context: &ResponseContext, now: Time) -> bool {
        if !context.may_try_another() {
            return false;
        }
        let Some(pair) = context.targets.pair() else { return context.targets.has_next() };
        let mut tried = SmallVec::<[SocketAddr; 1]>::from(context.targets.tried());
        tried.extend(context.client.hop.map(|hop| hop.address));
        let next = self.server_of(pair, context.message(), &tried, now);
        next.is_some_and(|hop| {
            tried.len().max(context.earlier.len()) < TARGETS_COUNT_MAX && !self.rests(hop, Element::Server(pair), now)
        })
    }

    // --- names, devices, other sites -------------------------------------------------------------------------

    /// What a name stands for. That of a server of ours, or of another site's, leads where its address would.
    pub(super) fn named(&mut self, answer: Answer, now: Time) -> Named {
        match answer {
            Ok(targets) => match targets.iter().find_map(|at| self.env.names.named_at(at.address)) {
                Some(whose) => Named::Known(whose),
                None => Named::NextHops(self.usable(&targets, now)),
            },
            Err(failure) => Named::Nothing(failure),
        }
    }

    /// The addresses of a name that it cannot be waited for; none when it is not known.
    pub(super) fn named_at_once(&mut self, question: &Question, now: Time) -> Arc<[dns::Target]> {
        let nobody = waiter_of(TxnId::NONE);
        let answer = self.dns.ask(question, nobody, now, &mut self.ports.counters);
        self.dns.give_up(nobody);
        answer.and_then(Result::ok).unwrap_or_else(|| Arc::new([]))
    }

    /// The way to an address of a list. The connection to a device is its shard's, which opens it.
    fn seek_hop(&mut self, id: TxnId, context: &ResponseContext, hop: NextHop, now: Time) -> Option<Event<'static>> {
        let whose = match &context.targets {
            TargetSet::Peer { peer, .. } => Element::Peer(*peer),
            TargetSet::Device { .. } if !hop.transport.is_stream() => self.element_of_device(None),
            TargetSet::Device { host, port, .. } => {
                let (shard, tls) = self.device_of(hop, host, *port);
                self.mail(shard, Mail::Ask { txn: id, query: Query::Device { hop, tls } });
                return Some(Event::Asked { seeking: Seeking::Device, wait: HOME_ANSWER_MAX });
            }
            TargetSet::Phone { .. } | TargetSet::Servers { .. } => return None,
        };
        let found = self.reach(hop, whose, None, now);
        Some(Event::Hop(found.map(|flow| self.way(context, flow))))
    }

    /// A CANCEL, or an ACK to an error, of a request whose connection is gone.
    pub(super) fn send_anew(&mut self, context: &ResponseContext, bytes: Vec<u8>, now: Time) {
        match (&context.targets, context.client.hop) {
            (TargetSet::Device { host, port, .. }, Some(hop)) => self.send_to_device(hop, host, *port, bytes, now),
            (TargetSet::Peer { peer, .. }, Some(hop)) => {
                let flow = self.flow_to(hop, Element::Peer(*peer), None, now);
                let unsent = match flow {
                    Some(flow) => self.send_on(flow, None, bytes, None).err(),
                    None => Some(bytes),
                };
                unsent.into_iter().for_each(|bytes| self.drop_letter(bytes));
            }
            _ => {
                // A UDP address takes what belongs to its context, though its registration is over.
                let letter = Letter { bytes, binding: context.targets.binding(), txn: None, by: By::Binding };
                match context.client.flow {
                    Some(address) if !address.is_stream() => self.deliver(None, letter.or_by(address)),
                    gone => self.deliver(gone, letter),
                }
            }
        }
    }
}
