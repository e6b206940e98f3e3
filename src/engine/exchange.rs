//! One request on its way through: its server transaction, what was sent on in a client transaction, and the
//! timers of both. Hawser sends a request to one target at a time, so an exchange has at most one of each.

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::clock::Time;
use crate::ids::{BindingId, ConnId, FlowRef, ShardId, Side};
use crate::proxy::register::Registration;
use crate::sip::{Message, Method};
use crate::transaction::branch::TxnId;
use crate::transaction::{Effects, InviteClient, InviteServer, PlainClient, PlainServer, Resend, TimerOp};
use crate::wheel::TimerId;

use super::io::Source;
use super::links::Hop;
use super::onward::Hops;
use super::{Engine, Timer};

/// The server half.
#[derive(Clone, Copy, Debug)]
pub(super) enum ServerTxn {
    Invite(InviteServer),
    Plain(PlainServer),
}

impl ServerTxn {
    /// Whether a final response may still be sent.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_proceeding(),
            Self::Plain(machine) => machine.is_open(),
        }
    }
}

/// The client half.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClientTxn {
    /// Nothing has been sent on yet: the request waits for its flow.
    Waiting,
    Invite(InviteClient),
    Plain(PlainClient),
    /// Ended, or given up.
    Over,
}

impl ClientTxn {
    /// Whether it was sent and no response has come.
    pub(super) fn is_unanswered(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_calling(),
            Self::Plain(machine) => machine.is_trying(),
            Self::Waiting | Self::Over => false,
        }
    }

    /// Whether it was sent and no final response has come.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(machine) => !machine.is_final(),
            Self::Plain(machine) => !machine.is_final(),
            Self::Waiting | Self::Over => false,
        }
    }
}

/// The CANCEL of an INVITE that was sent on.
#[derive(Debug)]
pub(super) enum Cancelling {
    No,
    /// To be sent when a provisional response comes (RFC 3261 §9.1).
    Wanted,
    Sent {
        machine: PlainClient,
        bytes: Vec<u8>,
    },
}

/// Who has given up an INVITE before its final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    No,
    /// Its caller: 487 when its CANCEL brings nothing.
    Caller,
    /// Timer C: 408 when our CANCEL brings nothing.
    TimerC,
}

/// Where a request goes on to, when that is not a phone's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onward {
    /// A flow: a phone's, or one that a server's Route or X-Genesys-Route names.
    Flow,
    /// The servers of a pair.
    Server(u8),
    /// The targets of a name or an address: another site's proxy, a device, a server's Route.
    Hops,
}

/// The client transaction that was given up for another target.
#[derive(Debug)]
pub(super) struct Former {
    /// Of its branch.
    pub(super) nonce: u64,
    /// Where it was sent.
    pub(super) flow: FlowRef,
    /// Which of the targets that is.
    pub(super) hop: Option<Hop>,
    /// An INVITE as it was sent: its ACK and its CANCEL are made of it. Empty for other requests.
    pub(super) sent: Vec<u8>,
}

/// Which of an exchange's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// G: the final response to an INVITE is to be sent again.
    ServerRetransmit,
    /// H, I, J or L: no ACK has come, or the server transaction is to be forgotten.
    ServerDeadline,
    /// A or E: the request is to be sent again.
    ClientRetransmit,
    /// B, F, D, K or M: no answer has come, or the client transaction is to be forgotten.
    ClientDeadline,
    /// E of our CANCEL.
    CancelRetransmit,
    /// F or K of our CANCEL.
    CancelDeadline,
    /// The requester has heard nothing for so long that it needs a 100.
    Trying,
    /// C: an INVITE rings for too long; or its CANCEL has brought nothing.
    Patience,
    /// The flow that the request waits for has not come.
    Wait,
}

const TIMERS: usize = 9;

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) key: u128,
    /// The key by which its sender finds it over another connection.
    pub(super) lasting_key: Option<u128>,
    pub(super) method: Method,
    pub(super) in_dialog: bool,
    /// When the request came.
    pub(super) arrived: Time,
    /// Where the request came from.
    pub(super) source: Source,
    /// Where its responses go.
    pub(super) reply: FlowRef,
    /// It came over a flow that its binding had left already: as long as that is there, the answer goes back
    /// over it.
    pub(super) stays: bool,
    /// Kept until a final response has gone.
    pub(super) request: Option<Box<Message>>,
    pub(super) server: ServerTxn,
    pub(super) server_over: bool,
    /// The last response, where it may have to be sent again.
    pub(super) last: Vec<u8>,
    /// A provisional response has gone to the requester.
    pub(super) said_provisional: bool,
    /// Bytes of the final response that may still be sent again without being asked for (`STRANGER_ANSWER_FACTOR_MAX`).
    pub(super) repeats_len: usize,
    pub(super) client: ClientTxn,
    pub(super) nonce: u64,
    pub(super) loop_hash: u32,
    /// The flow that the request was sent on.
    pub(super) next: Option<FlowRef>,
    /// What it goes on to.
    pub(super) onward: Onward,
    /// The address that it was last sent to, of those that `onward` stands for.
    pub(super) hop: Option<Hop>,
    /// Addresses that would not do.
    pub(super) tried: SmallVec<[SocketAddr; 1]>,
    /// What is left of `Onward::Hops`.
    pub(super) hops: Option<Box<Hops>>,
    /// Client transactions that were given up for another target; their answers still count (RFC 3261 §16.7).
    pub(super) former: Vec<Former>,
    /// The binding that it is for.
    pub(super) binding: Option<BindingId>,
    /// 430 instead of 480 when its flow is gone.
    pub(super) ob: bool,
    /// The request as sent, until a final response.
    pub(super) sent: Vec<u8>,
    /// The ACK to a final error, for its repetitions.
    pub(super) ack: Vec<u8>,
    pub(super) cancelling: Cancelling,
    /// The `Reason` fields of the CANCEL that asked for it.
    pub(super) cancel_reason: Vec<u8>,
    pub(super) given_up: GivenUp,
    /// A flow was asked for at the binding's home.
    pub(super) resolving: bool,
    /// Shards that were asked for a flow by its peer's address, and have not answered.
    pub(super) peers_asked: u8,
    /// A server, here or at another site, has sent the response at hand.
    pub(super) answer_is_trusted: bool,
    /// Flows tried.
    pub(super) attempts: u8,
    pub(super) registration: Option<Box<Registration>>,
    timers: [Option<TimerId>; TIMERS],
}

/// What an exchange is made from.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) key: u128,
    pub(super) arrived: Time,
    pub(super) source: Source,
    pub(super) reply: FlowRef,
    pub(super) request: Box<Message>,
    pub(super) loop_hash: u32,
    pub(super) nonce: u64,
    /// Whether the requester's transport is reliable.
    pub(super) reliable: bool,
}

impl Exchange {
    pub(super) fn new(arrival: Arrival) -> Self {
        let Arrival { key, arrived, mut source, reply, request, loop_hash, nonce, reliable } = arrival;
        let method = request.method().unwrap_or(Method::Other);
        if method == Method::Register {
            // Its answer belongs to the connection that it came by: a phone that comes back to this one would
            // hear it over the other, which it has left.
            source.binding = None;
        }
        let server = if method == Method::Invite {
            ServerTxn::Invite(InviteServer::start(reliable))
        } else {
            ServerTxn::Plain(PlainServer::start(reliable))
        };
        Self {
            key,
            lasting_key: None,
            method,
            in_dialog: !request.to_tag().is_empty(),
            arrived,
            source,
            reply,
            stays: false,
            request: Some(request),
            server,
            server_over: false,
            last: Vec::new(),
            said_provisional: false,
            repeats_len: usize::MAX,
            client: ClientTxn::Waiting,
            nonce,
            loop_hash,
            next: None,
            onward: Onward::Flow,
            hop: None,
            tried: SmallVec::new(),
            hops: None,
            former: Vec::new(),
            binding: None,
            ob: false,
            sent: Vec::new(),
            ack: Vec::new(),
            cancelling: Cancelling::No,
            cancel_reason: Vec::new(),
            given_up: GivenUp::No,
            resolving: false,
            peers_asked: 0,
            answer_is_trusted: false,
            attempts: 0,
            registration: None,
            timers: [None; TIMERS],
        }
    }

    /// Whether it goes to a SIP Server.
    pub(super) fn to_server(&self) -> bool {
        matches!(self.onward, Onward::Server(_))
    }

    /// The side that it goes to.
    pub(super) fn side_onward(&self) -> Side {
        if self.to_server() { Side::Server } else { Side::Endpoint }
    }

    /// Bytes of memory that it holds: its own, and all that grows with what peers send. What it knows of its targets and
    /// of a registration beside is small.
    pub(super) fn held_len(&self) -> usize {
        let cancel = match &self.cancelling {
            Cancelling::Sent { bytes, .. } => bytes.capacity(),
            Cancelling::No | Cancelling::Wanted => 0,
        };
        let kept = [&self.last, &self.sent, &self.ack, &self.cancel_reason].map(Vec::capacity);
        let former = self.former.iter().map(|former| former.sent.capacity());
        let request = self.request.as_deref().map_or(0, Message::held_len);
        size_of::<Self>() + request + cancel + kept.iter().sum::<usize>() + former.sum::<usize>()
    }

    fn is_over(&self) -> bool {
        let cancel_over = !matches!(self.cancelling, Cancelling::Sent { .. });
        self.server_over && matches!(self.client, ClientTxn::Over) && cancel_over
    }
}

impl Engine {
    /// Takes an exchange out of its slot for the time that it is worked on; [`Engine::put_back`] ends that.
    pub(super) fn take_exchange(&mut self, id: TxnId) -> Option<Box<Exchange>> {
        let exchange = self.exchanges.get_mut(slot_of(id)).and_then(Option::take)?;
        self.kept.take(&exchange);
        Some(exchange)
    }

    /// Puts it back, or forgets it when it is over.
    pub(super) fn put_back(&mut self, id: TxnId, exchange: Box<Exchange>) {
        if exchange.is_over() {
            self.forget_exchange(id, *exchange);
        } else if let Some(slot) = self.exchanges.get_mut(slot_of(id)) {
            self.kept.add(&exchange);
            *slot = Some(exchange);
        }
    }

    fn forget_exchange(&mut self, id: TxnId, mut exchange: Exchange) {
        for timer in exchange.timers.iter_mut().filter_map(Option::take) {
            self.ports.wheel.cancel(timer);
        }
        for key in [Some(exchange.key), exchange.lasting_key].into_iter().flatten() {
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
        self.unwatch(id, &mut exchange);
        self.exchanges.remove(slot_of(id));
        if let Some(request) = exchange.request.take() {
            self.ports.pool.give(request.into_buf());
        }
        self.ports.pool.give(exchange.sent);
        for former in exchange.former {
            self.ports.pool.give(former.sent);
        }
    }

    pub(super) fn arm(&mut self, id: TxnId, exchange: &mut Exchange, which: Which, at: Time) {
        let place = &mut exchange.timers[which as usize];
        match *place {
            Some(timer) if self.ports.wheel.rearm(timer, at) => {}
            _ => *place = Some(self.ports.wheel.arm(at, Timer::Exchange(id, which))),
        }
    }

    pub(super) fn stop(&mut self, exchange: &mut Exchange, which: Which) {
        if let Some(timer) = exchange.timers[which as usize].take() {
            self.ports.wheel.cancel(timer);
        }
    }

    pub(super) fn apply_timer(&mut self, id: TxnId, exchange: &mut Exchange, which: Which, op: TimerOp, now: Time) {
        match op {
            TimerOp::Keep => {}
            TimerOp::Arm(wait) => self.arm(id, exchange, which, now.after(wait)),
            TimerOp::Stop => self.stop(exchange, which),
        }
    }

    /// Carries out what the server machine wants, but for `tell`.
    pub(super) fn apply_server(&mut self, id: TxnId, exchange: &mut Exchange, effects: Effects, now: Time) {
        self.apply_timer(id, exchange, Which::ServerRetransmit, effects.retransmit, now);
        self.apply_timer(id, exchange, Which::ServerDeadline, effects.deadline, now);
        if effects.resend.is_some() && !exchange.last.is_empty() {
            let bytes = self.ports.pool.copy(&exchange.last);
            self.respond_for(exchange, bytes);
        }
        if effects.ended {
            exchange.server_over = true;
        }
    }

    /// Carries out what the client machine wants, but for `tell`.
    pub(super) fn apply_client(&mut self, id: TxnId, exchange: &mut Exchange, effects: Effects, now: Time) {
        self.apply_timer(id, exchange, Which::ClientRetransmit, effects.retransmit, now);
        self.apply_timer(id, exchange, Which::ClientDeadline, effects.deadline, now);
        match effects.resend {
            Some(Resend::Same) => {
                if exchange.onward == Onward::Flow
                    && let Some(former) = exchange.next
                    && let Some(flow) = self.moved_from(former, exchange.binding)
                    && !flow.is_same(former)
                {
                    return self.follow_to(id, exchange, flow, now);
                }
                let bytes = self.ports.pool.copy(&exchange.sent);
                self.send_next(id, exchange, bytes, true, now);
            }
            Some(Resend::Ack) if !exchange.ack.is_empty() => {
                let bytes = self.ports.pool.copy(&exchange.ack);
                self.send_next(id, exchange, bytes, false, now);
            }
            _ => {}
        }
        if effects.ended {
            exchange.client = ClientTxn::Over;
        }
    }

    /// Stops all that runs for the client half, and what it waits for.
    pub(super) fn stop_client(&mut self, exchange: &mut Exchange) {
        for which in [Which::ClientRetransmit, Which::ClientDeadline, Which::Patience, Which::Wait] {
            self.stop(exchange, which);
        }
    }

    /// The client half is given up: its timers stop, and what it may have sent again is let go.
    pub(super) fn abandon_client(&mut self, id: TxnId, exchange: &mut Exchange) {
        self.stop_client(exchange);
        self.unwatch(id, exchange);
        exchange.client = ClientTxn::Over;
        exchange.resolving = false;
        if matches!(exchange.cancelling, Cancelling::Wanted) {
            exchange.cancelling = Cancelling::No;
        }
    }

    /// A timer of an exchange has fired: the handle is spent.
    pub(super) fn timer_spent(exchange: &mut Exchange, which: Which) {
        exchange.timers[which as usize] = None;
    }

    /// Remembers that the exchange depends on the flow that it was sent on, until its final response.
    pub(super) fn watch(&mut self, id: TxnId, flow: FlowRef) {
        if let FlowRef::Stream { shard, conn, .. } = flow {
            self.watchers.entry((shard, conn)).or_default().push(id);
        }
    }

    /// Undoes [`Engine::watch`].
    pub(super) fn unwatch(&mut self, id: TxnId, exchange: &mut Exchange) {
        let Some(FlowRef::Stream { shard, conn, .. }) = exchange.next else { return };
        self.unwatch_flow(id, shard, conn);
    }

    fn unwatch_flow(&mut self, id: TxnId, shard: ShardId, conn: ConnId) {
        if let Some(list) = self.watchers.get_mut(&(shard, conn)) {
            // A connection to a server may have thousands.
            if let Some(at) = list.iter().position(|other| *other == id) {
                list.swap_remove(at);
            }
            if list.is_empty() {
                self.watchers.remove(&(shard, conn));
            }
        }
    }
}

/// The table of exchanges has the slots of the table of connections.
pub(super) fn slot_of(id: TxnId) -> ConnId {
    ConnId { slot: id.slot, generation: id.generation }
}

/// The reverse of [`slot_of`].
pub(super) fn txn_of(slot: ConnId) -> TxnId {
    TxnId { slot: slot.slot, generation: slot.generation }
}
