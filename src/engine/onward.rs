//! The choice of a server (RFC 3263 §4.2; DESIGN.md, The SIP Server side).

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::Engine;
use super::links::{Hop, Whose};
use crate::clock::Time;
use crate::dns;
use crate::flow::keys::Tag;
use crate::ids::FlowRef;
use crate::limits::TARGETS_COUNT_MAX;
use crate::proxy::{names, target};
use crate::sip::Message;

impl Engine {
    pub(super) fn hop_of_server(&self, pair: u8, address: SocketAddr) -> Option<Hop> {
        let transport = self.env.settings.servers.get(usize::from(pair))?.transport;
        Some(Hop { transport, address })
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

    /// The server of a pair that gets a request: of the active one's addresses that answer, the one that the
    /// Request-URI of a dialog names, else by priority and weight; then its partner. What has the same Call-ID goes to
    /// the same address, for a server that is known by a name may write that into its Contact.
    pub(super) fn server_of(
        &mut self,
        pair: u8,
        request: Option<&Message>,
        tried: &[SocketAddr],
        now: Time,
    ) -> Option<Hop> {
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

    /// The targets of a name that one request is tried at, in their order.
    pub(super) fn usable(&mut self, targets: &[dns::Target], now: Time) -> SmallVec<[Hop; 2]> {
        let order = self.dns.order(targets, now);
        let may_be = order.iter().filter(|at| target::may_be_sent_to(at.address.ip()));
        may_be.take(TARGETS_COUNT_MAX).map(Hop::from).collect()
    }
}
