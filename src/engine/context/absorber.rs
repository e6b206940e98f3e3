//! What is left of a context after its final response (RFC 3261 §17.1.1.2, §17.1.2.2, §17.2.1, §17.2.2; RFC 6026): enough to
//! absorb what comes again, and to say again what was said, until the last of its timers.
//!
//! A context is shrunk to this when it is put back into its slot, and made whole again when something happens to it, so
//! that there is one machine: [`ResponseContext`]. Most of what is kept for half a minute is never asked for.

use std::net::{Ipv4Addr, SocketAddr};

use smallvec::SmallVec;

use super::state::{
    Asked, ClientMachine, ClientTransaction, GivenUp, NextHops, ResponseContext, ServerMachine, ServerTransaction,
    TIMERS, TargetSet, TxnTimer,
};
use crate::clock::Time;
use crate::dns::NextHop;
use crate::engine::Source;
use crate::ids::{BindingId, FlowRef, Side};
use crate::sip::Method;
use crate::tls::identity::Expected;
use crate::wheel::TimerId;

/// See the module.
#[derive(Debug)]
pub struct Absorber {
    /// Of its request. Not as a `u128`, whose alignment would cost eight bytes.
    key: [u64; 2],
    /// 0 when there is none, which no keyed hash is.
    lasting_key: [u64; 2],
    server: ServerMachine,
    server_is_over: bool,
    method: Method,
    deadline: Option<TimerId>,
    response: Box<Response>,
    client: Option<Box<Client>>,
}

/// The final response, as far as it may have to be sent again, and whose it is.
#[derive(Debug)]
struct Response {
    bytes: Box<[u8]>,
    reply: FlowRef,
    /// The port that the request came from, over UDP.
    port: u16,
    side: Side,
    is_peer: bool,
    binding: Option<BindingId>,
    stays: bool,
    repeats_len: usize,
    retransmit: Option<TimerId>,
}

/// The client transaction until its end: it repeats the ACK to an error, and passes further 2xx to an INVITE on.
#[derive(Debug)]
struct Client {
    machine: ClientMachine,
    nonce: u64,
    flow: Option<FlowRef>,
    hop: Option<NextHop>,
    targets: Targets,
    attempts: u8,
    ack: Box<[u8]>,
    deadline: Option<TimerId>,
}

/// A target set of which nothing is tried any more.
#[derive(Clone, Copy, Debug)]
enum Targets {
    Phone(Option<BindingId>),
    Servers(u8),
    Peer(u8),
    Device,
}

fn halves(key: u128) -> [u64; 2] {
    [(key >> 64) as u64, key as u64]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

/// The timers that run after a final response.
fn is_kept(timer: TxnTimer) -> bool {
    matches!(timer, TxnTimer::ServerRetransmit | TxnTimer::ServerDeadline | TxnTimer::ClientDeadline)
}

impl Absorber {
    /// Whether a context is so far that this is all that is left of it.
    pub fn may_replace(context: &ResponseContext) -> bool {
        let client = &context.client;
        let is_device = matches!(context.targets, TargetSet::Device { .. });
        context.request.is_none()
            && !context.server.machine.is_open()
            && !matches!(client.machine, ClientMachine::Waiting)
            && !client.machine.is_pending()
            && !client.cancel.is_sent()
            && context.earlier.is_empty()
            // To acknowledge its error again, a device's connection may have to be opened by its name.
            && (client.ack.is_empty() || !is_device)
            && context.running().all(|(timer, _)| is_kept(timer))
    }

    /// Its timers that run.
    pub fn running(&self) -> impl Iterator<Item = (TxnTimer, TimerId)> {
        let client = self.client.as_ref().and_then(|client| client.deadline);
        let all = [
            (TxnTimer::ServerRetransmit, self.response.retransmit),
            (TxnTimer::ServerDeadline, self.deadline),
            (TxnTimer::ClientDeadline, client),
        ];
        all.into_iter().filter_map(|(which, timer)| Some((which, timer?)))
    }

    /// What is left of a context that [`Absorber::may_replace`], and the buffer that is not.
    pub fn of(context: ResponseContext) -> (Self, Vec<u8>) {
        let ResponseContext { asked, server, targets, client, attempts, timers, .. } = context;
        let source = &asked.source;
        let port = match source.flow {
            FlowRef::Udp { remote, .. } => remote.port(),
            FlowRef::Stream { .. } => 0,
        };
        let response = Response {
            bytes: server.last.into_boxed_slice(),
            reply: asked.reply,
            port,
            side: source.side,
            is_peer: source.is_peer,
            binding: source.binding,
            stays: asked.stays,
            repeats_len: server.repeats_len,
            retransmit: timers[TxnTimer::ServerRetransmit as usize],
        };
        let still = Client {
            machine: client.machine,
            nonce: client.nonce,
            flow: client.flow,
            hop: client.hop,
            targets: match targets {
                TargetSet::Phone { binding, .. } => Targets::Phone(binding),
                TargetSet::Servers { pair, .. } => Targets::Servers(pair),
                TargetSet::Peer { peer, .. } => Targets::Peer(peer),
                TargetSet::Device { .. } => Targets::Device,
            },
            attempts,
            ack: client.ack.into_boxed_slice(),
            deadline: timers[TxnTimer::ClientDeadline as usize],
        };
        let is_over = matches!(client.machine, ClientMachine::Over);
        let absorber = Self {
            key: halves(asked.key),
            lasting_key: halves(asked.lasting_key.unwrap_or(0)),
            server: server.machine,
            server_is_over: server.is_over,
            method: asked.method,
            deadline: timers[TxnTimer::ServerDeadline as usize],
            response: Box::new(response),
            client: (!is_over).then(|| Box::new(still)),
        };
        (absorber, client.sent)
    }

    /// The context again, for as long as something happens to it.
    pub fn open(self) -> Box<ResponseContext> {
        let mut timers = [None; TIMERS];
        timers[TxnTimer::ServerDeadline as usize] = self.deadline;
        timers[TxnTimer::ServerRetransmit as usize] = self.response.retransmit;
        let (asked, response) = (self.asked(), *self.response);
        let (client, targets, attempts) = match self.client {
            Some(client) => {
                timers[TxnTimer::ClientDeadline as usize] = client.deadline;
                client.open()
            }
            None => (ClientTransaction::new(ClientMachine::Over, 0), TargetSet::FLOW, 0),
        };
        Box::new(ResponseContext {
            asked,
            server: ServerTransaction {
                machine: self.server,
                is_over: self.server_is_over,
                last: response.bytes.into_vec(),
                said_provisional: true,
                repeats_len: response.repeats_len,
            },
            request: None,
            targets,
            seeking: None,
            attempts,
            client,
            earlier: Vec::new(),
            given_up: GivenUp::No,
            cancel_reason: Vec::new(),
            loop_hash: 0,
            watched: None,
            listed: None,
            timers,
        })
    }

    /// Who asked, as far as that is still asked for: not when, and over a stream not from which address.
    pub fn asked(&self) -> Asked {
        let Response { reply, port, side, is_peer, binding, stays, .. } = *self.response;
        let (flow, peer) = match reply {
            FlowRef::Udp { shard, point, mut remote } => {
                remote.set_port(port);
                (FlowRef::Udp { shard, point, remote }, remote)
            }
            FlowRef::Stream { .. } => (reply, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        };
        Asked {
            key: whole(self.key),
            lasting_key: Some(whole(self.lasting_key)).filter(|key| *key != 0),
            method: self.method,
            in_dialog: false,
            arrived: Time(0),
            source: Source { flow, peer, side, is_peer, is_forwarded: false, binding },
            reply,
            stays,
        }
    }

    /// Bytes of memory that it holds.
    pub fn held_len(&self) -> usize {
        let client = self.client.as_ref().map_or(0, |client| size_of::<Client>() + client.ack.len());
        size_of::<Self>() + size_of::<Response>() + self.response.bytes.len() + client
    }

    /// Whether an ACK of its INVITE ends here: that to an error does.
    pub fn absorbs_ack(&self) -> bool {
        self.server.absorbs_ack()
    }

    pub fn server_is_over(&self) -> bool {
        self.server_is_over
    }
}

impl Client {
    fn open(self) -> (ClientTransaction, TargetSet, u8) {
        let targets = match self.targets {
            Targets::Phone(binding) => TargetSet::Phone { binding, ob: false, named: None },
            Targets::Servers(pair) => TargetSet::Servers { pair, tried: SmallVec::new() },
            Targets::Peer(peer) => TargetSet::Peer { peer, list: NextHops::default() },
            Targets::Device => {
                let host = Expected::Name(String::new());
                TargetSet::Device { list: NextHops::default(), host, port: 0 }
            }
        };
        let client = ClientTransaction {
            flow: self.flow,
            hop: self.hop,
            ack: self.ack.into_vec(),
            ..ClientTransaction::new(self.machine, self.nonce)
        };
        (client, targets, self.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absorber_is_small() {
        assert!(size_of::<Absorber>() <= 100, "{}", size_of::<Absorber>());
    }
}
