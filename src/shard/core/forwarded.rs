//! Datagrams of a load balancer: the PROXY header (version 2) that each begins with is taken off.
//!
//! Owns: what of such a datagram is read. Must not touch: what it says. Where its sender is reached stays the balancer's
//! address and port, for a balancer has a port for each; all else goes by the address in the header.

use std::net::SocketAddr;

use super::Core;
use crate::driver::Driver;
use crate::proxy_header;
use crate::stats::Counter;

/// What a datagram is behind its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    /// Who has sent it to the balancer; `None` when none has forwarded it.
    pub(super) source: Option<SocketAddr>,
    pub(super) bytes: &'a [u8],
}

impl<D: Driver> Core<D> {
    /// What is left of a datagram; `None` when that is for nobody, and has been counted.
    pub(super) fn payload<'a>(&mut self, from: SocketAddr, bytes: &'a [u8]) -> Option<Payload<'a>> {
        if !self.engine.settings().is_balancer(from.ip()) {
            return Some(Payload { source: None, bytes });
        }
        match proxy_header::read_datagram(bytes) {
            Ok((source, bytes)) => {
                self.count(Counter::proxy_header(source.is_some()));
                // A balancer that speaks for itself checks our health, and has nothing else to say.
                let is_heard = source.is_some() || bytes.starts_with(b"OPTIONS ");
                is_heard.then_some(Payload { source: source.or(Some(from)), bytes })
            }
            Err(fault) => {
                let why = Counter::proxy_header_fault(fault);
                self.engine.counters_mut().count_with_bound(why);
                let reason = why.row().label("reason").unwrap_or_default();
                let about = format!("{} bytes", bytes.len());
                self.say_why("datagram dropped: its PROXY header is due, and none was read", reason, Some(from), about);
                None
            }
        }
    }
}
