//! What leaves a shard: bytes on a flow, wherever it is, and mail.

use std::net::SocketAddr;

use super::connections::Element;
use super::context::Asked;
use super::location::Waits;
use super::mail::{AckMail, By, Letter};
use super::{Engine, Mail, Output};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Transport};
use crate::limits::UDP_DATAGRAM_LEN_MAX;
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

impl Engine {
    /// Puts a mail into another shard's box, or among those that this shard reads at the end of the input.
    pub(super) fn mail(&mut self, to: ShardId, mail: Mail) {
        self.ports.mail(to, mail);
    }

    fn put_datagram(&mut self, point: PointId, to: SocketAddr, bytes: Vec<u8>) {
        if bytes.len() > UDP_DATAGRAM_LEN_MAX {
            // What can be answered was, before it came to this: see `unsent`.
            self.count(Counter::DatagramTooLarge);
            return self.ports.pool.give(bytes);
        }
        self.count(Counter::MessagesOutUdp);
        self.ports.counters.add(Counter::BytesOutUdp, bytes.len() as u64);
        self.ports.outputs.push_back(Output::Datagram { point, to, bytes });
    }

    fn put_bytes(&mut self, conn: ConnId, point: PointId, bytes: Vec<u8>) {
        let transport = self.env.settings.point(point).transport;
        self.count(Counter::messages_out(transport));
        self.ports.counters.add(Counter::bytes_out(transport), bytes.len() as u64);
        self.note_sent(conn, &bytes);
        self.ports.outputs.push_back(Output::Bytes { conn, bytes });
    }

    /// Sends a letter on a flow. When the flow is known here to be gone (for a request: its peer has closed its half, too),
    /// gives the letter back; when another shard finds that out, the letter goes to the home of its binding, or
    /// `Mail::Failed` comes back to its `txn`.
    ///
    /// # Errors
    /// The letter, unsent.
    pub(super) fn send(&mut self, flow: FlowRef, letter: Letter) -> Result<(), Letter> {
        match flow {
            FlowRef::Stream { shard, conn, point } if shard == self.me() => {
                if !self.location.carries(conn, &letter.bytes) {
                    return Err(letter);
                }
                self.put_bytes(conn, point, letter.bytes);
            }
            FlowRef::Udp { point, remote, .. } if self.knows_where(flow, &letter) => {
                self.put_datagram(point, remote, letter.bytes);
            }
            _ => self.mail(flow.shard(), Mail::Send { flow, letter }),
        }
        Ok(())
    }

    /// Whether no other shard need be asked whether a letter's binding has left a UDP flow: its home and the flow's owner
    /// know, and any shard can send.
    fn knows_where(&self, flow: FlowRef, letter: &Letter) -> bool {
        let home = letter.binding.map(|binding| binding.home(self.env.settings.shards));
        letter.by == By::Flow || flow.shard() == self.me() || home.is_none_or(|home| home == self.me())
    }

    /// The same for bytes that are looked for when their binding has moved, and are no response.
    ///
    /// # Errors
    /// The bytes, unsent.
    pub(super) fn send_on(
        &mut self,
        flow: FlowRef,
        binding: Option<BindingId>,
        bytes: Vec<u8>,
        txn: Option<TxnId>,
    ) -> Result<(), Vec<u8>> {
        self.send(flow, Letter { bytes, binding, txn, by: By::Binding }).map_err(|letter| letter.bytes)
    }

    /// Sends a response of a context to who asked.
    pub(super) fn respond_for(&mut self, asked: &Asked, bytes: Vec<u8>) {
        let binding = asked.source.binding;
        let bytes = match asked.stays {
            true => match self.send(asked.reply, Letter { bytes, binding, txn: None, by: By::Flow }) {
                Ok(()) => return,
                Err(letter) => letter.bytes,
            },
            false => bytes,
        };
        if let FlowRef::Stream { shard, conn, point } = asked.reply
            && asked.source.is_trusted()
            && binding.is_none()
        {
            if shard == self.me() && self.conns.get(conn).is_some() {
                return self.put_bytes(conn, point, bytes);
            }
            return self.mail(shard, Mail::Respond { conn, bytes });
        }
        self.respond(asked.reply, binding, bytes);
    }

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

    /// Sends a response towards the requester: over the flow that its request came by, or the one that took its place for
    /// the same binding; and over the first all the same when that one has gone too.
    pub(super) fn respond(&mut self, reply: FlowRef, binding: Option<BindingId>, bytes: Vec<u8>) {
        // A registration over UDP may have ended meanwhile; its address still takes the answer.
        let flow = self.moved_from(reply, binding).unwrap_or(reply);
        let by = By::binding_or(reply, flow);
        if let Err(letter) = self.send(flow, Letter { bytes, binding, txn: None, by }) {
            self.deliver(Some(flow), letter);
        }
    }

    /// Hands a letter to its binding's home, which knows where the phone is or waits for it to come back.
    pub(super) fn deliver(&mut self, not: Option<FlowRef>, letter: Letter) {
        match letter.binding {
            Some(binding) => {
                let home = binding.home(self.env.settings.shards);
                self.mail(home, Mail::Deliver { binding, not, letter: Box::new(letter) });
            }
            None => self.drop_letter(letter.bytes),
        }
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

    /// Nobody is there to be sent it.
    pub(super) fn drop_letter(&mut self, bytes: Vec<u8>) {
        self.count(Counter::ResponseConnectionGone);
        self.ports.pool.give(bytes);
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
        let left = is_there && self.location.step(flow, binding, &self.env).is_some_and(|moved| !moved.is_same(flow));
        match letter.txn {
            _ if is_there && !left => self.send_here(flow, letter.bytes),
            Some(txn) => {
                self.ports.pool.give(letter.bytes);
                self.mail(from, Mail::Failed { txn, flow, left });
            }
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
