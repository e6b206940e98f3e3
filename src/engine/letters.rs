//! What other shards want sent: a letter on a flow of this one, or for a binding whose home this is, a response to a
//! server, an ACK to a 2xx.

use std::net::SocketAddr;

use super::connections::Element;
use super::location::Waits;
use super::mail::{AckMail, By, Letter};
use super::{Engine, Mail};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{BindingId, ConnId, FlowRef, ShardId, Transport};
use crate::sip::Message;
use crate::stats::Counter;

impl Engine {
    /// See [`Mail::Respond`].
    pub(super) fn on_respond(&mut self, conn: ConnId, bytes: Vec<u8>, now: Time) {
        if let Some(point) = self.conns.get(conn).map(|conn| conn.point) {
            return self.put_bytes(conn, point, bytes);
        }
        let (way, bytes) = match Message::scan(bytes, true) {
            Ok(response) => (self.way_back(&response), response.into_buf()),
            Err((_, bytes)) => (None, bytes),
        };
        let flow = way.and_then(|(whose, hop)| self.flow_to(hop, whose, None, now));
        let unsent = match flow {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        match unsent {
            None => self.count(Counter::ResponseByVia),
            Some(bytes) => {
                self.count(Counter::ResponseConnectionGone);
                self.ports.pool.give(bytes);
            }
        }
    }

    /// Where the sender of a request says that it is, when that is a server's or another site's proxy's address: no
    /// connection is opened to anybody else for a response (RFC 3261 §18.2.2).
    fn way_back(&self, response: &Message) -> Option<(Element, NextHop)> {
        let via = response.top_via();
        let transport = via.transport.filter(|transport| transport.is_stream())?;
        let port = via.port.unwrap_or(transport.default_port());
        // A server's other interface has no port of its own in the settings: what its Via names has.
        let received = via.received.and_then(|span| std::str::from_utf8(span.of(response.buf())).ok()?.parse().ok());
        [received, via.host.ip()].into_iter().flatten().find_map(|ip| {
            let address = SocketAddr::new(ip, port);
            let (own, whose) = match self.env.names.server_at(address) {
                Some((pair, _)) => (self.env.settings.servers.get(usize::from(pair))?.transport, Element::Server(pair)),
                None => {
                    let peer = self.env.names.peer_at(address)?;
                    (self.env.settings.peers.get(usize::from(peer))?.protocol, Element::Peer(peer))
                }
            };
            let whose = match transport {
                _ if transport == own => whose,
                Transport::Tcp => Element::Large(whose.side()),
                _ => return None,
            };
            Some((whose, NextHop { transport, address }))
        })
    }

    /// See [`Mail::Deliver`].
    pub(super) fn on_deliver(&mut self, binding: BindingId, not: Option<FlowRef>, letter: Letter, now: Time) {
        let Letter { bytes, binding: for_whom, txn, by } = letter;
        let by = match not {
            Some(gone) => by.without(gone),
            None => by,
        };
        let letter = |by| Letter { bytes, binding: for_whom, txn, by };
        let unsent = match (self.find(binding, not, now), by) {
            (Some(flow), by) => self.send(flow, letter(by)),
            (None, By::BindingOr(named)) => self.send(*named, letter(By::Flow)),
            (None, by @ (By::Binding | By::Flow)) => Err(letter(by)),
        };
        if let Err(letter) = unsent
            && !self.wait_for(binding, Waits::Bytes(letter.bytes), now)
        {
            self.count(Counter::ResponseConnectionGone);
        }
    }

    /// See [`Mail::Ack`].
    pub(super) fn on_ack_mail(&mut self, ack: AckMail, now: Time) {
        let AckMail { message, source, binding, not } = ack;
        let gone = not.filter(|flow| flow.is_stream());
        let address = not.filter(|flow| !flow.is_stream());
        match self.find(binding, gone, now).or(address) {
            Some(flow) => self.forward_ack_on(message, &source, flow, Some(binding)),
            None => {
                if !self.wait_for(binding, Waits::Ack { message, source }, now) {
                    self.count(Counter::AckFlowGone);
                }
            }
        }
    }

    fn find(&mut self, binding: BindingId, not: Option<FlowRef>, now: Time) -> Option<FlowRef> {
        self.locating(now, |location, env, ports| location.find(binding, not, env, ports))
    }

    fn wait_for(&mut self, binding: BindingId, what: Waits, now: Time) -> bool {
        self.locating(now, |location, env, ports| location.wait_for(binding, what, env, ports, now))
    }

    /// Another shard wants a letter sent on a flow of this one.
    pub(super) fn on_send(&mut self, from: ShardId, flow: FlowRef, letter: Letter) {
        let is_there = match flow {
            FlowRef::Stream { conn, .. } => self.location.carries(conn, &letter.bytes),
            FlowRef::Udp { .. } => true,
        };
        if let (true, Some(_), FlowRef::Stream { conn, .. }) = (is_there, letter.txn, flow) {
            self.note_use(conn, from);
        }
        let binding = letter.binding.filter(|_| letter.by != By::Flow);
        let step = self.location.step(flow, binding, &self.env).filter(|_| is_there);
        // Nobody here knows whose a UDP address is when the binding's registration there is over.
        let is_over = is_there && step.is_none();
        let left = is_over || step.is_some_and(|moved| !moved.is_same(flow));
        match letter.txn {
            _ if is_there && !left => self.send_here(flow, letter.bytes),
            Some(txn) => {
                self.ports.pool.give(letter.bytes);
                self.mail(from, Mail::Failed { txn, flow, left });
            }
            None if is_over => self.deliver(None, letter.or_by(flow)),
            // The home alone knows where the binding is by now: from here the letter could go back and forth between two
            // shards that have each heard of another move.
            None if left => self.deliver(None, letter),
            None => self.deliver(Some(flow), letter),
        }
    }

    /// Sends on a flow of this shard, which is there.
    fn send_here(&mut self, flow: FlowRef, bytes: Vec<u8>) {
        match flow {
            FlowRef::Udp { point, remote, .. } => self.put_datagram(point, remote, bytes),
            FlowRef::Stream { conn, .. } => match self.conns.get(conn).map(|conn| conn.point) {
                Some(point) => self.put_bytes(conn, point, bytes),
                None => self.drop_letter(bytes),
            },
        }
    }
}
