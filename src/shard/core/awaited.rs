//! Connections of a load balancer that are still to say whose they are: those from a `[[network]]` with `proxy-protocol`.
//!
//! Owns: them, until their PROXY header is whole; who gives way when there are too many. Must not touch: what a header
//! says, which is for [`crate::proxy_header`], and what becomes of a connection, which is for [`super::arrivals`].
//!
//! The engine has not heard of them, and no TLS session is made for them. A header is read to its end and not a byte
//! further, so that nothing has to be given back: what follows is read by the connection that it becomes. That goes on as
//! if a listener had accepted it from the address in its header, so that shares, waiting, logs and Via have the phone's
//! address. Who the balancer speaks for is not asked here: a balancer that speaks for itself (a health check) keeps its
//! own address, and who sends no header is let go.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::clock::Time;
use crate::ids::PointId;
use crate::limits::PROXY_HEADER_MAX;
use crate::proxy_header::{self, Header};
use crate::stats::Counter;
use crate::transport::stream::StreamSocket;

/// One of them.
pub(super) struct Awaiting<S> {
    pub(super) point: PointId,
    pub(super) socket: S,
    /// The balancer.
    pub(super) peer: SocketAddr,
    due: Time,
    /// What has come of its header.
    pub(super) come: Vec<u8>,
}

/// Those of one shard.
pub(super) struct Awaited<S> {
    /// By a number that grows with each, so that the oldest comes first.
    all: BTreeMap<u32, Awaiting<S>>,
    last: u32,
}

impl<S> Default for Awaited<S> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), last: 0 }
    }
}

impl<S> Awaited<S> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The number of the next one.
    pub(super) fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Takes one in, that has come now.
    pub(super) fn push(&mut self, number: u32, point: PointId, socket: S, peer: SocketAddr, now: Time) {
        let due = now.after(PROXY_HEADER_MAX);
        self.all.insert(number, Awaiting { point, socket, peer, due, come: Vec::new() });
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, number: u32) -> Option<Awaiting<S>> {
        self.all.remove(&number)
    }

    /// The one that has waited longest, and when its time is over.
    pub(super) fn oldest(&self) -> Option<(u32, Time)> {
        self.all.first_key_value().map(|(number, one)| (*number, one.due))
    }

    /// The oldest of the balancer that has the most.
    pub(super) fn gives_way(&self) -> Option<u32> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for one in self.all.values() {
            *counts.entry(one.peer.ip()).or_default() += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.all.iter().find(|(_, one)| one.peer.ip() == most).map(|(number, _)| *number)
    }
}

/// What a look at one has found.
pub(super) enum Found {
    /// Nothing more to read for now.
    Nothing,
    /// The header, and the address in it.
    Header(Option<SocketAddr>),
    /// None comes.
    Fault(Counter),
}

impl<S: StreamSocket> Awaited<S> {
    /// Reads on, never past the header's end.
    pub(super) fn look(&mut self, number: u32) -> Found {
        let Some(Awaiting { socket, come, .. }) = self.all.get_mut(&number) else { return Found::Nothing };
        loop {
            let more = match proxy_header::read(come) {
                Ok(Header::Needs(more)) => more,
                Ok(Header::Whole { source, .. }) => return Found::Header(source),
                Err(fault) => return Found::Fault(Counter::proxy_header_fault(fault)),
            };
            let before = come.len();
            come.resize(before + more, 0);
            let read = socket.read(&mut come[before..]);
            come.truncate(before + read.as_ref().map_or(0, |(len, _)| *len));
            match read {
                Ok((0, _)) => return Found::Fault(Counter::ProxyHeaderEnded),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Found::Nothing,
                Err(_) => return Found::Fault(Counter::ProxyHeaderEnded),
            }
        }
    }
}
