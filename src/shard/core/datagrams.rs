//! What comes and goes by the UDP points.
//!
//! Owns: how much is read of a socket in one turn, keep-alives and STUN, and the one flush at the end of a turn. Must not
//! touch: what a message says.

use std::net::SocketAddr;

use super::Core;
use super::forwarded::Payload;
use crate::driver::Driver;
use crate::engine::Input;
use crate::ids::PointId;
use crate::limits::BATCHES_PER_PASS_MAX;
use crate::stats::Counter;
use crate::sys::batch::RecvBatch;
use crate::transport::stun::{self, Stun};
use crate::transport::udp::{Datagram, DatagramSocket, Unsent};

impl<D: Driver> Core<D> {
    /// The socket of a UDP point has something, if it is one.
    pub(super) fn datagrams_wait(&mut self, point: PointId) {
        self.udp.iter_mut().filter(|udp| udp.id == point).for_each(|udp| udp.has_more = true);
    }

    /// Reads what the UDP sockets hold, within bounds.
    pub(super) fn receive_all(&mut self) {
        for at in 0..self.udp.len() {
            if self.udp[at].has_more {
                let mut batch = self.batch.take().unwrap_or_default();
                self.udp[at].has_more = self.receive(&mut batch, at);
                self.batch = Some(batch);
            }
        }
    }

    /// Says whether there may be more.
    fn receive(&mut self, batch: &mut RecvBatch, at: usize) -> bool {
        for _ in 0..BATCHES_PER_PASS_MAX {
            let result = self.udp[at].outgoing.socket.receive(batch);
            let (count, more) = *result.as_ref().unwrap_or(&(0, true));
            let point = self.udp[at].id;
            for datagram in 0..count {
                if let Some(datagram) = batch.datagram(datagram) {
                    self.datagram(point, datagram);
                }
            }
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.hear_unreachable(at),
            }
            if !more {
                return false;
            }
        }
        true
    }

    fn datagram(&mut self, point: PointId, datagram: Datagram<'_>) {
        let Datagram { from, bytes, waited } = datagram;
        let Some(Payload { source, bytes }) = self.payload(from, bytes) else { return };
        match bytes {
            b"\r\n\r\n" => {
                self.count(Counter::KeepalivePing);
                self.push_datagram(point, from, b"\r\n".to_vec());
            }
            // An answer to nothing of ours, or half a ping.
            b"\r\n" | b"" => {}
            _ => {
                let mut answer = Vec::new();
                match stun::respond(bytes, source.unwrap_or(from), &mut answer) {
                    Stun::No => {
                        self.input(match source {
                            None => Input::Datagram { point, from, bytes, waited },
                            Some(source) => Input::Forwarded { point, from, source, bytes, waited },
                        });
                    }
                    Stun::Answered => {
                        self.count(Counter::KeepaliveStun);
                        self.push_datagram(point, from, answer);
                    }
                    Stun::Dropped => {}
                }
            }
        }
    }

    pub(super) fn push_datagram(&mut self, point: PointId, to: SocketAddr, bytes: Vec<u8>) {
        self.dirty = true;
        match self.udp.iter_mut().find(|udp| udp.id == point) {
            Some(udp) => udp.outgoing.push(to, bytes),
            None => self.engine.recycle(bytes),
        }
    }

    /// Tells the engine which destinations the system says cannot be reached.
    fn hear_unreachable(&mut self, at: usize) {
        let mut named = Vec::new();
        self.udp[at].outgoing.drain_errors(|to| named.push(to));
        for to in named {
            self.input(Input::Unreachable { to });
        }
    }

    /// Says whether datagrams wait for room, and whether the engine was told of some that came back.
    pub(super) fn flush_datagrams(&mut self) -> (bool, bool) {
        let (mut waits, mut told) = (false, false);
        for at in 0..self.udp.len() {
            let Self { udp, engine, .. } = self;
            let (mut named, mut unsent) = (Vec::new(), Vec::new());
            let flushed =
                udp[at].outgoing.flush(|bytes| engine.recycle(bytes), |to| named.push(to), |one| unsent.push(one));
            engine.counters_mut().add(Counter::DatagramSendError, flushed.dropped);
            engine.counters_mut().add(Counter::DatagramSocketFull, flushed.overflowed);
            engine.counters_mut().add(Counter::LimitDatagramsWaitingCount, flushed.overflowed);
            waits |= flushed.waiting;
            told |= !named.is_empty() || !unsent.is_empty();
            for to in named {
                self.input(Input::Unreachable { to });
            }
            for Unsent { to, bytes, fault } in unsent {
                self.input(Input::Unsent { to, bytes: &bytes, fault });
                self.engine.recycle(bytes);
            }
        }
        (waits, told)
    }

    /// Counts the datagrams that the system has dropped since this was asked last.
    pub(super) fn count_lost_datagrams(&mut self) {
        let lost = self.udp.iter_mut().map(|udp| udp.outgoing.lost_count()).sum();
        self.engine.counters_mut().add(Counter::DatagramsLost, lost);
    }
}
