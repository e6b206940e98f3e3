//! The next hop of a request: which transport, which connection, and what our own end is called.
//!
//! Owns: connections by the address that they lead to. Must not touch: messages.

use super::{NextHop, Server};
use crate::net::{Link, SERVER, Transport};
use crate::stack::{Stack, address};
use crate::text::{Message, Name, Uri};
use std::net::SocketAddr;

impl Server {
    /// `turn` picks one of several connections; a call passes its serial, so that its ACK and BYE never overtake
    /// one another.
    pub(super) fn next_hop_to(&mut self, stack: &mut Stack, uri: &str, turn: u32) -> Option<NextHop> {
        let uri = Uri::parse(uri)?;
        let transport = match uri.param("transport") {
            Some(name) => name.parse().ok()?,
            None if uri.secure => Transport::Tls,
            None => Transport::Udp,
        };
        let transport = if uri.secure && transport == Transport::Tcp { Transport::Tls } else { transport };
        let peer = address(uri.host, uri.port, transport)?;
        self.next_hop_over(stack, transport, peer, turn)
    }

    pub(super) fn next_hop_to_proxy(&mut self, stack: &mut Stack, uri: &str, turn: u32) -> Option<NextHop> {
        match self.habits.outbound_proxy {
            Some((transport, peer)) => self.next_hop_over(stack, transport, peer, turn),
            None => self.next_hop_to(stack, uri, turn),
        }
    }

    pub(super) fn next_hop_over(
        &mut self,
        stack: &mut Stack,
        transport: Transport,
        peer: SocketAddr,
        turn: u32,
    ) -> Option<NextHop> {
        if transport == Transport::Udp {
            let (socket, sent_by) = self.ends.udp?;
            return Some(NextHop { link: Link::Udp { socket, peer }, transport, sent_by });
        }
        let sent_by = if transport == Transport::Tls { self.ends.tls? } else { self.ends.tcp? };
        let conns = self.connections.entry((transport, peer)).or_default();
        conns.retain(|&conn| stack.net.is_alive(conn));
        if conns.is_empty() {
            // From the address that it listens at, by which the proxy knows it.
            let source = Some(sent_by.ip()).filter(|ip| !ip.is_unspecified());
            conns.push(stack.net.connect(SERVER, transport, peer, source).ok()?);
        }
        Some(NextHop { link: Link::Stream(conns[turn as usize % conns.len()]), transport, sent_by })
    }

    pub(super) fn next_hop_over_link(&self, stack: &Stack, link: Link) -> Option<NextHop> {
        let transport = stack.net.transport(link)?;
        let sent_by = match transport {
            Transport::Udp => self.ends.udp?.1,
            Transport::Tcp => self.ends.tcp?,
            Transport::Tls => self.ends.tls?,
        };
        Some(NextHop { link, transport, sent_by })
    }

    /// Remembers the connection of a proxy by the address that its Via names (the idea of RFC 5923).
    pub(super) fn learn_connection(&mut self, stack: &Stack, link: Link, message: &Message<'_>) {
        let Link::Stream(conn) = link else { return };
        if self.habits.own_connections || message.values(Name::Via).count() < 2 {
            return;
        }
        let Some(transport) = stack.net.transport(link) else { return };
        let Some((host, port)) = message.top_via().and_then(|via| via.host_port()) else { return };
        let Some(peer) = address(host, port, transport) else { return };
        let conns = self.connections.entry((transport, peer)).or_default();
        if !conns.contains(&conn) {
            conns.push(conn);
        }
    }

    pub(super) fn contact(hop: &NextHop) -> String {
        format!("<sip:lab@{};transport={}>", hop.sent_by, hop.transport.param())
    }

    pub(super) fn contact_for(&self, stack: &Stack, link: Link) -> String {
        self.next_hop_over_link(stack, link).map(|hop| Self::contact(&hop)).unwrap_or_default()
    }

    /// The next hop of a request inside the dialog: that of its route set, else the link that the leg was set up over when
    /// the phone is reached directly.
    pub(super) fn next_hop_in_dialog(&mut self, stack: &mut Stack, slot: u32, leg: usize) -> Option<NextHop> {
        let leg = &self.calls[slot as usize].legs[leg];
        if let Some(hop) = leg.link.and_then(|link| self.next_hop_over_link(stack, link)) {
            return Some(hop);
        }
        let uri = leg.dialog.as_ref()?.next_hop().to_owned();
        let serial = self.calls[slot as usize].serial;
        self.next_hop_to(stack, &uri, serial)
    }
}
