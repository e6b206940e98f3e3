//! What happens to connections to servers, peers and devices, and what follows for the requests that were sent on them.

use std::net::SocketAddr;

use super::connections::{Action, Actions};
use super::context::{ResponseContext, Why};
use super::{CloseReason, ConnectFailure, Engine, Mail, Upstream, connections};
use crate::clock::Time;
use crate::ids::ConnId;

impl Engine {
    /// A connection that we opened is ready.
    pub(super) fn connection_ready(&mut self, key: connections::ConnectionKey, now: Time) {
        let actions = self.connections.ready(key, &mut self.ports, now);
        self.carry_out_for_connections(actions, now);
    }

    /// A connection that we opened, or wanted to, is gone.
    pub(super) fn connection_closed(
        &mut self,
        key: connections::ConnectionKey,
        conn: ConnId,
        reason: CloseReason,
        now: Time,
    ) {
        let actions = self.connections.closed(key, conn, reason, &mut self.ports, now);
        self.carry_out_for_connections(actions, now);
    }

    /// The system says that a UDP destination cannot be reached.
    pub(super) fn on_unreachable(&mut self, to: SocketAddr, now: Time) {
        // Of the sockets that share a port one is told: its shard tells the others. Of a phone there is nobody to tell.
        if self.on_unreachable_here(to, now) {
            self.ports.mail_others(self.env.settings.shards, || Mail::Unreachable { to });
        }
    }

    /// `false` when it was known, or says nothing of anybody that this proxy sends requests to.
    pub(super) fn on_unreachable_here(&mut self, to: SocketAddr, now: Time) -> bool {
        let actions = self.connections.unreachable(to, &self.env, &mut self.ports, now);
        let is_news = actions.is_some();
        self.carry_out_for_connections(actions.unwrap_or_default(), now);
        is_news
    }

    /// See [`Mail::AimsAt`].
    pub(super) fn on_aims_at(&mut self, address: SocketAddr, now: Time) {
        if self.connections.on_aims_at(address, &self.env, &mut self.ports, now) {
            self.on_unreachable(address, now);
        }
    }

    /// A datagram has come from an address.
    pub(super) fn heard_from(&mut self, from: SocketAddr, now: Time) {
        self.connections.heard(from, &self.env, &mut self.ports, now);
    }

    /// The owner's verdict: new requests go by it, and those that wait for a server that does not answer move on.
    pub(super) fn on_view(&mut self, upstream: Upstream, now: Time) {
        let mut is_news = self.env.names.set_servers(&upstream.view);
        for (index, targets) in upstream.peers.iter().enumerate() {
            is_news |= self.env.names.set_peer(index, targets.iter().map(|target| target.address));
        }
        if is_news {
            self.unsettle_sides();
        }
        let verdict = self.connections.on_verdict(upstream, &self.env.settings);
        for to in &verdict.back {
            self.dns.unblock(to.transport, to.address);
        }
        if !verdict.back.is_empty() {
            let back: Vec<SocketAddr> = verdict.back.iter().map(|to| to.address).collect();
            self.contexts.forgive(&back);
        }
        for down in verdict.down {
            let is_its = |one: &ResponseContext| one.targets.pair() == Some(down.pair);
            self.move_from(down.address, Why::Verdict, true, is_its, now);
            if down.refuses {
                let why = Why::Connection(Some(ConnectFailure::Refused));
                self.move_from(down.address, why, false, is_its, now);
            }
        }
    }

    fn carry_out_for_connections(&mut self, actions: Actions, now: Time) {
        for action in actions {
            match action {
                Action::Block(to) => self.dns.block(to.transport, to.address, now, &mut self.ports.counters),
                Action::Unblock(to) => self.dns.unblock(to.transport, to.address),
                Action::ChecksLost(sent_by, evidence) => self.on_checks_lost(sent_by, evidence, now),
                Action::Evidence((pair, address, evidence)) => self.tell_evidence(pair, address, evidence),
                Action::Move(address) => {
                    let why = Why::Connection(Some(ConnectFailure::Refused));
                    let is_its = |one: &ResponseContext| one.client.hop.is_some_and(|hop| !hop.transport.is_stream());
                    self.move_from(address, why, false, is_its, now);
                }
            }
        }
    }
}
