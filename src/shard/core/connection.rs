//! The connections of one shard: from accept or connect to the last byte.
//!
//! ```text
//! accept ──► Handshaking ──► Open ──► Leaving ──► gone
//! connect ─► Connecting ─┴──────┘         (what waits, close_notify, FIN, the peer's FIN or 2 s)
//! ```
//! TCP skips the handshake. A connection that the system or a bound ends goes at once. One whose peer says nothing more
//! (its FIN, its close_notify) is told to the engine, which lets it go on, leaving, when no answer is owed over it.
//!
//! What they say is in `reading`, what they send in `sending`. The engine owns every deadline but three: a peer that does not take what it is sent
//! (`progress`), the lingering after our FIN, and how many handshakes may be in the air (`handshakes`).

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Core;
use super::awaited::Awaited;
use super::conn::{Conn, Key, Opening, Phase};
use super::ends::{connect_failure, cuts_off, handshake_close};
use super::parked::Parked;
use crate::clock::Time;
use crate::driver::Driver;
use crate::engine::{CloseReason, ConnectFailure, Input};
use crate::ids::{ConnId, Side, Transport};
use crate::limits::LINGER_MAX;
use crate::stats::{Counter, HandshakeFailure};
use crate::transport::stream::{Flushed, Stream, StreamSocket};

impl<D: Driver> Core<D> {
    pub(super) fn conn(&mut self, key: Key) -> Option<&mut Conn<D::Stream>> {
        self.conns.get_mut(key.index).filter(|conn| conn.serial == key.serial)
    }

    /// Takes a connection in. `None`, and told to the engine, when the system will not watch it.
    pub(super) fn insert(
        &mut self,
        id: ConnId,
        peer: SocketAddr,
        side: Side,
        phase: Phase,
        stream: Stream<D::Stream>,
    ) -> Option<Key> {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let outbound = phase == Phase::Connecting;
        let index = self.conns.insert(Conn {
            id,
            serial,
            peer,
            side,
            listens_for: None,
            outbound,
            setup: None,
            phase,
            stream,
            flush_queued: false,
            is_bulky: false,
            is_put_down: false,
            half_closed: false,
            ends: false,
            fin_seen: false,
            watched: false,
            has_said: false,
        });
        let slot = id.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, None);
        }
        let key = Key { index, serial };
        self.by_slot[slot] = Some(key);
        let watched = key.token().ok_or_else(|| std::io::ErrorKind::OutOfMemory.into());
        match watched.and_then(|token| self.driver.watch(&self.conns[index].stream.socket, token)) {
            Ok(()) => Some(key),
            Err(error) => {
                self.say("a connection could not be watched", Some(peer), error.to_string());
                let failed = CloseReason::Connect(ConnectFailure::Resources);
                self.lost(key, if outbound { failed } else { CloseReason::Error });
                None
            }
        }
    }

    pub(super) fn find(&self, id: ConnId) -> Option<Key> {
        let key = (*self.by_slot.get(id.slot as usize)?)?;
        (self.conns.get(key.index)?.id == id).then_some(key)
    }

    /// Takes one step of a connection. A panic in it (of rustls, or of what verifies a certificate) closes this one and
    /// leaves everything else as it was.
    pub(super) fn guarded(&mut self, key: Key, step: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(self))) {
            self.on_panic(panic.as_ref());
            self.lost(key, CloseReason::Panic);
        }
    }

    /// Carries out `Output::Connect`.
    pub(super) fn connect(&mut self, id: ConnId, opening: Opening) {
        let Opening { point, transport, to, side, tls } = opening;
        let from = self.engine.settings().point(point).bind;
        let setup = tls.as_ref().and_then(|peer| peer.setup);
        let session = match (transport, tls) {
            (Transport::Udp | Transport::Tcp, _) => None,
            (Transport::Tls, Some(peer)) => match self.tls.connect(&peer) {
                Ok(session) => Some(Box::new(session)),
                // Text is never sent in the clear because a configuration is missing.
                Err(fault) => {
                    self.say("a TLS session could not be begun", Some(to), fault.to_string());
                    return self.tell_closed(id, CloseReason::Connect(ConnectFailure::Tls));
                }
            },
            (Transport::Tls, None) => {
                self.say("a TLS session could not be begun", Some(to), "nobody is expected there".into());
                return self.tell_closed(id, CloseReason::Connect(ConnectFailure::Tls));
            }
        };
        match self.driver.connect(from, to) {
            Ok(socket) => {
                let stream = Stream::new(socket, session, self.waiting.clone());
                if let Some(key) = self.insert(id, to, side, Phase::Connecting, stream) {
                    self.conns[key.index].setup = setup;
                }
            }
            Err(error) => {
                self.say("a connection could not be opened", Some(to), error.to_string());
                self.tell_closed(id, CloseReason::Connect(connect_failure(&error)));
            }
        }
    }

    /// Carries out `Output::Close`.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason) {
        let Some(key) = self.find(id) else { return };
        self.free_slot(id, key);
        let Some(conn) = self.conn(key) else { return };
        let (peer, side) = (conn.peer, conn.side);
        match (conn.phase, reason) {
            (Phase::Handshaking, CloseReason::HandshakeTimeout | CloseReason::Connect(ConnectFailure::Timeout)) => {
                self.handshake_failed(side, peer, HandshakeFailure::Timeout, "not finished in time");
                self.remove(key);
            }
            (Phase::Open, reason) if cuts_off(reason) => {
                conn.stream.socket.abort();
                self.remove(key);
            }
            (Phase::Open, _) => self.guarded(key, |core| core.leave(key)),
            (Phase::Connecting | Phase::Handshaking, _) => self.remove(key),
            (Phase::Leaving { .. }, _) => {}
        }
    }

    /// Closes every connection in an orderly way, as far as the sockets take it at once.
    pub(super) fn close_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter().map(|(index, conn)| Key { index, serial: conn.serial }).collect();
        for key in keys {
            if self.conn(key).is_some_and(|conn| conn.phase == Phase::Open) {
                self.guarded(key, |core| core.leave(key));
            }
        }
    }

    /// Closes every socket that is left.
    pub(super) fn remove_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter().map(|(index, conn)| Key { index, serial: conn.serial }).collect();
        keys.into_iter().for_each(|key| self.remove(key));
        self.parked = Parked::default();
        self.awaited = Awaited::default();
        self.resolving.end_all();
    }

    /// Sends what waits, says goodbye and waits for the peer's FIN, so that it can read what was sent last.
    pub(super) fn leave(&mut self, key: Key) {
        let now = self.driver.now();
        let Self { conns, engine, lent, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        let sent = conn.stream.flush(lent, |buffer| engine.recycle(buffer)).and_then(|_| {
            conn.stream.say_goodbye(lent);
            conn.stream.flush(lent, |buffer| engine.recycle(buffer))
        });
        match sent {
            Err(_) => return self.remove(key),
            Ok(flushed) => {
                let fin_sent = flushed == Flushed::All;
                if fin_sent {
                    conn.stream.socket.shut();
                }
                conn.phase = Phase::Leaving { fin_sent };
            }
        }
        self.lingers.push_back((now.after(LINGER_MAX), key));
        self.end_if_left(key);
    }

    /// The connection is gone, and the engine does not know it yet.
    pub(super) fn lost(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conn(key) else { return };
        let (id, told) = (conn.id, matches!(conn.phase, Phase::Leaving { .. }));
        if cuts_off(reason) {
            conn.stream.socket.abort();
        }
        self.remove(key);
        if !told {
            self.tell_closed(id, reason);
        }
    }

    /// Both sides have sent their FIN: a connection that is leaving is gone.
    pub(super) fn end_if_left(&mut self, key: Key) {
        if self.conn(key).is_some_and(|conn| conn.fin_seen && conn.phase == (Phase::Leaving { fin_sent: true })) {
            self.remove(key);
        }
    }

    /// Closes the socket.
    pub(super) fn remove(&mut self, key: Key) {
        if self.conn(key).is_none() {
            return;
        }
        let conn = self.conns.remove(key.index);
        self.free_slot(conn.id, key);
        if conn.phase == Phase::Handshaking {
            self.handshakes.end(key);
        }
    }

    pub(super) fn open(&mut self, key: Key) {
        let Self { conns, tls, .. } = self;
        let Some(conn) = conns.get_mut(key.index).filter(|conn| conn.serial == key.serial) else { return };
        conn.phase = Phase::Open;
        let id = conn.id;
        let session = conn.stream.session.as_ref();
        let identities = session.and_then(|session| match conn.outbound {
            true => tls.identities(session),
            false => tls.identities_of_client(session, conn.listens_for),
        });
        let identities = identities.map(Box::new);
        self.queue_flush(key);
        if !self.input(Input::Ready { conn: id, identities }) {
            self.lost(key, CloseReason::Panic);
        }
    }

    /// The peer or the system has ended the connection.
    pub(super) fn ended(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conn(key) else { return };
        let (peer, side, outbound, has_said) = (conn.peer, conn.side, conn.outbound, conn.has_said);
        if conn.phase == Phase::Handshaking {
            self.handshake_failed(side, peer, HandshakeFailure::Reset, "the peer closed the connection");
            // Who only looks whether the port is open has failed in nothing.
            self.lost(key, if has_said || outbound { handshake_close(outbound) } else { reason });
        } else {
            self.lost(key, reason);
        }
    }

    pub(super) fn handshake_failed(&mut self, side: Side, peer: SocketAddr, why: HandshakeFailure, detail: &str) {
        self.count(Counter::handshake_failed(side, why));
        self.say_why("a TLS handshake failed", why.name(), Some(peer), detail.to_owned());
    }

    pub(super) fn handshake_begun(&mut self, key: Key) {
        let now = self.driver.now();
        let Some(conn) = self.conn(key) else { return };
        let source = (!conn.outbound).then_some(conn.peer.ip());
        let share = source.map(|ip| (ip, self.engine.handshakes_max(ip)));
        let Some((older, bound)) = self.handshakes.begin(key, share, now) else { return };
        self.count(bound);
        let Some(conn) = self.conn(older) else { return };
        let (peer, side, outbound) = (conn.peer, conn.side, conn.outbound);
        self.handshake_failed(side, peer, HandshakeFailure::Timeout, "it gave way to newer ones");
        let reason = if outbound { handshake_close(outbound) } else { CloseReason::HandshakeTimeout };
        self.lost(older, reason);
    }

    /// Lets go of the room that a burst of work has left behind.
    pub(super) fn shrink(&mut self) {
        self.engine.shrink();
        self.lent = Vec::new();
        self.conns.shrink_to_fit();
        let end = self.by_slot.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.by_slot.truncate(end);
        self.by_slot.shrink_to_fit();
        self.to_flush.shrink_to_fit();
        self.deferred.shrink();
        self.bulky.shrink_to_fit();
        self.lingers.shrink_to_fit();
    }

    /// Ends what has lingered for too long.
    pub(super) fn expire_lingers(&mut self, now: Time) {
        while let Some(&(_, key)) = self.lingers.front().filter(|(due, _)| *due <= now) {
            self.lingers.pop_front();
            self.remove(key);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Time> {
        let linger = self.lingers.front().map(|(due, _)| *due);
        [self.watches.due(), linger].into_iter().flatten().min()
    }
}
