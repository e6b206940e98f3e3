//! Connections come, get their slots and deadlines, and are counted.

use super::conn::Conn;
use super::connections::{ConnectionKey, Element};
use super::location::is_response;
use super::ports::Timer;
use super::{Accept, Engine, Level, Output, Refusal};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::ids::{ConnId, PointId, Side};
use crate::planted::{Plant, planted};
use crate::stats::Counter;
use crate::tls::identity::TlsPeer;

impl Engine {
    /// A connection was accepted: gives it a slot, or says why it must be closed at once.
    ///
    /// # Errors
    /// A [`Refusal`], counted already.
    pub fn accept(&mut self, accept: Accept, now: Time) -> Result<ConnId, Refusal> {
        let held = self.unregistered.get(&accept.peer.ip()).copied().unwrap_or(0);
        // A server or proxy that opens its connections from one address is not held to a phone's measure.
        let is_server = !accept.is_forwarded && self.env.names.is_server_ip(accept.peer.ip());
        let refusal = if self.draining {
            Some(Refusal::Draining)
        } else if self.shuts_out(accept.peer.ip(), now) {
            self.note_turned_away(accept.peer.ip());
            Some(Refusal::ShutOut)
        } else if held >= self.env.settings.unregistered_max(accept.peer.ip()) && !is_server {
            self.count(Counter::LimitUnregisteredPerSource);
            Some(Refusal::Source)
        } else if self.conns.len() >= self.env.settings.connections_max as usize && !is_server {
            // What is left of the slots is for the servers.
            self.count(Counter::LimitConnections);
            Some(Refusal::Connections)
        } else {
            None
        };
        let refusal = match refusal {
            Some(refusal) => refusal,
            None => match self.conns.insert(Conn::accepted(accept, now)) {
                Some(id) => {
                    let transport = self.env.settings.point(accept.point).transport;
                    self.kept.conn_came(transport);
                    self.location.open(id, accept.point, accept.peer, Some(transport));
                    *self.unregistered.entry(accept.peer.ip()).or_insert(0) += 1;
                    self.update_deadline(id);
                    return Ok(id);
                }
                None => {
                    self.count(Counter::LimitConnections);
                    Refusal::Connections
                }
            },
        };
        self.count(Counter::accept_refused(refusal));
        // That an address is shut out has been told, once.
        let level = if refusal == Refusal::ShutOut { Level::Debug } else { Level::Warn };
        if self.tells(level) {
            self.ports.tell_why(level, "connection refused", refusal.name(), Some(accept.peer), b"");
        }
        Err(refusal)
    }

    /// Gives an outbound connection its slot and asks for it to be opened.
    pub(super) fn open(
        &mut self,
        point: PointId,
        key: ConnectionKey,
        tls: Option<Box<TlsPeer>>,
        now: Time,
    ) -> Option<ConnId> {
        let ConnectionKey { element, to: NextHop { transport, address: to } } = key;
        let side = element.side();
        let conn = Conn {
            side: Some(side),
            is_peer: matches!(element, Element::Peer(_)),
            link: Some(Box::new(key)),
            heard: true,
            ..Conn::new(point, to, now)
        };
        // What is left of the slots beyond `connections_max` is for servers and other sites.
        let full = self.conns.len() >= self.env.settings.connections_max as usize;
        let for_endpoint = matches!(element, Element::Device(_) | Element::Large(Side::Endpoint));
        let conn = if full && for_endpoint { None } else { self.conns.insert(conn) };
        let Some(conn) = conn else {
            self.count(Counter::LimitConnections);
            return None;
        };
        self.kept.conn_came(self.env.settings.point(point).transport);
        self.location.open(conn, point, to, None);
        self.update_deadline(conn);
        self.ports.outputs.push_back(Output::Connect { conn, point, transport, to, side, tls });
        Some(conn)
    }

    /// Sets the connection's timer to its deadline. A timer that runs and is early enough is left alone: it
    /// looks again when it fires.
    pub(super) fn update_deadline(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match (conn.deadline(), conn.timer) {
            (None, None) => {}
            (None, Some(timer)) => {
                self.ports.wheel.cancel(timer);
                conn.timer = None;
            }
            (Some((at, _)), Some(timer)) => {
                if !self.ports.wheel.rearm(timer, at) {
                    conn.timer = Some(self.ports.wheel.arm(at, Timer::Conn(id)));
                }
            }
            (Some((at, _)), None) => conn.timer = Some(self.ports.wheel.arm(at, Timer::Conn(id))),
        }
    }

    /// Whether a server may name the peer of a connection by its address.
    pub(super) fn show_side(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            self.location.face(id, conn.ready && conn.side != Some(Side::Server));
        }
    }

    /// A name stands for other addresses now: who has opened a connection from one of them before, and was taken for an
    /// endpoint, is asked again by its next request.
    pub(super) fn unsettle_sides(&mut self) {
        for (_, conn) in self.conns.iter_mut() {
            let is_endpoint = conn.link.is_none() && !conn.is_peer && conn.side == Some(Side::Endpoint);
            if is_endpoint && !conn.is_registered() && self.env.names.is_server_ip(conn.peer.ip()) {
                conn.side = None;
            }
        }
    }

    pub(super) fn uncount_source(&mut self, ip: std::net::IpAddr) {
        if planted(Plant::ShareNotCounted) {
            return;
        }
        if let Some(count) = self.unregistered.get_mut(&ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unregistered.remove(&ip);
            }
        }
    }

    /// Location says that a connection has its first binding now, or none any more.
    pub(super) fn on_registered(&mut self, id: ConnId, is_registered: bool, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let counted = conn.counts_as_unregistered();
        conn.registered = is_registered;
        let (point, ip, counts) = (conn.point, conn.peer.ip(), conn.counts_as_unregistered());
        if !is_registered {
            conn.last = now;
        }
        self.kept.conn_bound(self.env.settings.point(point).transport, is_registered);
        self.note_bound(ip, is_registered);
        match (counted, counts) {
            (true, false) => self.uncount_source(ip),
            (false, true) => *self.unregistered.entry(ip).or_insert(0) += 1,
            (true, true) | (false, false) => {}
        }
        self.update_deadline(id);
    }

    /// Of each connection that was opened for [`super::connections`], and that requests may be sent over: its key, and
    /// whether it is ready.
    pub(super) fn opened_conns(&self) -> impl Iterator<Item = (ConnId, ConnectionKey, bool)> {
        let opened = self.conns.iter().filter(|(_, conn)| conn.half_closed.is_none());
        opened.filter_map(|(id, conn)| Some((id, *conn.link.as_deref()?, conn.ready)))
    }

    /// A request has come over a connection, that wants an answer.
    pub(super) fn note_asked(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.owed = conn.owed.saturating_add(1);
        }
    }

    /// A message is sent on a connection. What was owed last ends one that is half closed, behind it.
    pub(super) fn note_sent(&mut self, id: ConnId, message: &[u8]) {
        if !is_response(message) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.awaits = 0;
        if !is_final(message) {
            return;
        }
        conn.owed = conn.owed.saturating_sub(1);
        if conn.owed == 0 && conn.half_closed.is_some() {
            self.update_deadline(id);
        }
    }
}

/// Whether a message is a final response.
fn is_final(bytes: &[u8]) -> bool {
    is_response(bytes) && bytes.get(8).is_some_and(|class| *class != b'1')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_final_response_pays() {
        assert!(is_final(b"SIP/2.0 200 OK\r\n") && is_final(b"SIP/2.0 487 Request Terminated\r\n"));
        assert!(!is_final(b"SIP/2.0 180 Ringing\r\n") && is_response(b"SIP/2.0 180 Ringing\r\n"));
        assert!(!is_response(b"OPTIONS sip:a@example.com SIP/2.0\r\n") && !is_final(b"\r\n"));
    }
}
