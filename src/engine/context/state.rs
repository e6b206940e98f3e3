//! What a response context holds until its final response has gone and its client transactions have ended.

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::clock::Time;
use crate::dns::NextHop;
use crate::engine::{ConnectFailure, Source};
use crate::ids::{BindingId, ConnId, FlowRef, ShardId, Side};
use crate::proxy::RouteSet;
use crate::proxy::register::Registration;
use crate::sip::{Message, Method};
use crate::tls::identity::Expected;
use crate::transaction::{InviteClient, InviteServer, PlainClient, PlainServer};
use crate::wheel::TimerId;

/// ClientIndex of a context's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnTimer {
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
    TimerC,
    /// Where the request goes has not been answered in time.
    Location,
    /// B of the INVITE that was last given up for another target: what it still says may have to be cancelled.
    Earlier,
}

impl TxnTimer {
    /// All of them, each in the place of its number.
    pub const ALL: [Self; TIMERS] = [
        Self::ServerRetransmit,
        Self::ServerDeadline,
        Self::ClientRetransmit,
        Self::ClientDeadline,
        Self::CancelRetransmit,
        Self::CancelDeadline,
        Self::Trying,
        Self::TimerC,
        Self::Location,
        Self::Earlier,
    ];
}

/// How many there are.
pub const TIMERS: usize = 10;

/// Who asked for what, and where the responses go: known when the request comes.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub key: u128,
    /// The key by which its sender finds the context over another connection.
    pub lasting_key: Option<u128>,
    pub method: Method,
    pub in_dialog: bool,
    pub arrived: Time,
    pub source: Source,
    /// Where responses go.
    pub reply: FlowRef,
    /// The request came over a flow that its binding had left already: as long as that flow is there, the answer goes
    /// back over it.
    pub stays: bool,
}

/// The machine of a server transaction.
#[derive(Clone, Copy, Debug)]
pub enum ServerMachine {
    Invite(InviteServer),
    Plain(PlainServer),
}

impl ServerMachine {
    /// Whether a final response may still be sent.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_proceeding(),
            Self::Plain(machine) => machine.is_open(),
        }
    }

    /// Whether an ACK of its INVITE ends here: that to an error does.
    pub fn absorbs_ack(&self) -> bool {
        matches!(self, Self::Invite(machine) if !machine.is_accepted())
    }

    /// Whether a 2xx to an INVITE has gone.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.is_accepted())
    }
}

/// The server transaction (RFC 3261 §17.2).
#[derive(Debug)]
pub struct ServerTransaction {
    pub machine: ServerMachine,
    pub is_over: bool,
    /// The last response, where it may have to be sent again.
    pub last: Vec<u8>,
    /// A provisional response has gone to the requester.
    pub said_provisional: bool,
    /// Bytes of the final response that may still be sent again without being asked for (`STRANGER_ANSWER_FACTOR_MAX`).
    pub repeats_len: usize,
}

/// The machine of a client transaction.
#[derive(Clone, Copy, Debug)]
pub enum ClientMachine {
    /// Nothing has been sent on: the request waits for its next hop.
    Waiting,
    Invite(InviteClient),
    Plain(PlainClient),
    /// Ended, or given up.
    Over,
}

impl ClientMachine {
    /// Whether the request was sent and no response has come.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_calling(),
            Self::Plain(machine) => machine.is_trying(),
            Self::Waiting | Self::Over => false,
        }
    }

    /// Whether the request was sent and no final response has come.
    pub fn is_pending(&self) -> bool {
        match self {
            Self::Invite(machine) => !machine.is_final(),
            Self::Plain(machine) => !machine.is_final(),
            Self::Waiting | Self::Over => false,
        }
    }
}

/// The client transaction (RFC 3261 §17.1). A request goes to one target at a time, so there is one that counts.
#[derive(Debug)]
pub struct ClientTransaction {
    pub machine: ClientMachine,
    /// Of its branch.
    pub nonce: u64,
    /// The flow that the request was sent on; `None` before, and when that is gone.
    pub flow: Option<FlowRef>,
    /// ClientIndex of the target set's addresses that leads to, when it is no phone's.
    pub hop: Option<NextHop>,
    /// The request as sent, until a final response.
    pub sent: Vec<u8>,
    /// The ACK to a final error, for its repetitions.
    pub ack: Vec<u8>,
    pub cancel: Cancel,
}

impl ClientTransaction {
    pub fn new(machine: ClientMachine, nonce: u64) -> Self {
        Self { machine, nonce, flow: None, hop: None, sent: Vec::new(), ack: Vec::new(), cancel: Cancel::No }
    }
}

/// A client transaction that was given up for another target: what it still says is heard (RFC 3261 §16.7).
#[derive(Debug)]
pub struct Earlier {
    pub nonce: u64,
    pub flow: FlowRef,
    pub hop: Option<NextHop>,
    /// An INVITE as it was sent: its ACK and its CANCEL are made of it. Empty for other requests.
    pub sent: Vec<u8>,
}

/// The CANCEL of an INVITE that was sent on.
#[derive(Debug)]
pub enum Cancel {
    No,
    /// To be sent when a provisional response comes (RFC 3261 §9.1).
    Wanted,
    Sent {
        machine: PlainClient,
        bytes: Vec<u8>,
    },
}

impl Cancel {
    pub fn is_sent(&self) -> bool {
        matches!(self, Self::Sent { .. })
    }
}

/// Who has given up an INVITE before its final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    No,
    /// Its caller: 487 when its CANCEL brings nothing.
    Caller,
    /// Timer C: 408 when our CANCEL brings nothing.
    TimerC,
}

/// The target set (RFC 3261 §16.5): one target at a time, the next when that will not do.
#[derive(Debug)]
pub enum TargetSet {
    /// A flow: a phone's, or one that a server's Route or X-Genesys-Route names.
    Phone {
        binding: Option<BindingId>,
        /// 430 instead of 480 when its flow is gone (RFC 5626 §5.3.1).
        ob: bool,
        /// The flow that the token of a dialog's request names.
        named: Option<FlowRef>,
    },
    /// The servers of a pair.
    Servers {
        pair: u8,
        /// Addresses that would not do.
        tried: SmallVec<[SocketAddr; 1]>,
    },
    /// Another site's proxy.
    Peer { peer: u8, list: NextHops },
    /// What a URI or X-Genesys-Route of a server names: a device that did not register.
    Device {
        list: NextHops,
        /// What was asked for, before DNS.
        host: Expected,
        port: u16,
    },
}

/// The addresses of a target, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    pub all: SmallVec<[NextHop; 2]>,
    pub next: usize,
    /// The last one could not be reached because of this.
    pub failure: Option<ConnectFailure>,
}

impl TargetSet {
    /// A flow that no binding is known of.
    pub const FLOW: Self = Self::Phone { binding: None, ob: false, named: None };

    pub fn is_phone(&self) -> bool {
        matches!(self, Self::Phone { .. })
    }

    /// The pair, when that is what the request goes to.
    pub fn pair(&self) -> Option<u8> {
        match self {
            Self::Servers { pair, .. } => Some(*pair),
            _ => None,
        }
    }

    /// The servers that would not do.
    pub fn tried(&self) -> &[SocketAddr] {
        match self {
            Self::Servers { tried, .. } => tried,
            _ => &[],
        }
    }

    pub fn binding(&self) -> Option<BindingId> {
        match self {
            Self::Phone { binding, .. } => *binding,
            _ => None,
        }
    }

    /// The side that the request goes to.
    pub fn side(&self) -> Side {
        if self.pair().is_some() { Side::Server } else { Side::Endpoint }
    }

    /// What is left of a list of addresses.
    pub fn next_hops(&mut self) -> Option<&mut NextHops> {
        match self {
            Self::Peer { list, .. } | Self::Device { list, .. } => Some(list),
            Self::Phone { .. } | Self::Servers { .. } => None,
        }
    }

    /// Whether a list has another address to try.
    pub fn has_next(&self) -> bool {
        match self {
            Self::Peer { list, .. } | Self::Device { list, .. } => list.next < list.all.len(),
            Self::Phone { .. } | Self::Servers { .. } => false,
        }
    }
}

/// What the request waits for before it can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeking {
    /// The home of its binding.
    Home,
    /// So many shards, of which one may hold a connection from an address.
    Address(u8),
    /// The shard that holds the connection to a device.
    Device,
    /// The DNS.
    Name,
}

/// A request until its final response.
#[derive(Debug)]
pub struct Request {
    pub message: Box<Message>,
    /// Its route set, as it came.
    pub routes: RouteSet,
    /// The Contacts that a REGISTER asks for.
    pub registration: Option<Box<Registration>>,
}

/// See the module.
#[derive(Debug)]
pub struct ResponseContext {
    pub asked: Asked,
    pub server: ServerTransaction,
    /// Until a final response has gone.
    pub request: Option<Request>,
    pub targets: TargetSet,
    /// `None` while nothing is asked about where the request goes.
    pub seeking: Option<Seeking>,
    /// Flows tried.
    pub attempts: u8,
    pub client: ClientTransaction,
    pub earlier: Vec<Earlier>,
    pub given_up: GivenUp,
    /// The `Reason` fields of the CANCEL that asked for it.
    pub cancel_reason: Vec<u8>,
    pub loop_hash: u32,
    /// The connection whose end it wants to hear of.
    pub watched: Option<(ShardId, ConnId)>,
    /// That of which it hears, as its table has it.
    pub listed: Option<(ShardId, ConnId)>,
    pub(super) timers: [Option<TimerId>; TIMERS],
}

impl ResponseContext {
    pub fn new(asked: Asked, request: Request, loop_hash: u32, nonce: u64, reliable: bool) -> Self {
        let machine = match asked.method {
            Method::Invite => ServerMachine::Invite(InviteServer::start(reliable)),
            _ => ServerMachine::Plain(PlainServer::start(reliable)),
        };
        let (last, repeats_len) = (Vec::new(), usize::MAX);
        let client = ClientTransaction::new(ClientMachine::Waiting, nonce);
        Self {
            asked,
            server: ServerTransaction { machine, is_over: false, last, said_provisional: false, repeats_len },
            request: Some(request),
            targets: TargetSet::FLOW,
            seeking: None,
            attempts: 0,
            client,
            earlier: Vec::new(),
            given_up: GivenUp::No,
            cancel_reason: Vec::new(),
            loop_hash,
            watched: None,
            listed: None,
            timers: [None; TIMERS],
        }
    }

    /// The request, while it may still be sent on.
    pub fn message(&self) -> Option<&Message> {
        self.request.as_ref().map(|request| &*request.message)
    }

    /// Whether it may go to another target, if there is one.
    pub fn may_try_another(&self) -> bool {
        self.given_up == GivenUp::No && self.request.is_some() && self.server.machine.is_open()
    }

    /// Whether its caller or timer C has given it up.
    pub fn is_given_up(&self) -> bool {
        self.given_up != GivenUp::No
    }

    /// Servers that were given up and answer again may be tried again.
    pub fn forgive(&mut self, back: &[SocketAddr]) {
        if let TargetSet::Servers { tried, .. } = &mut self.targets {
            tried.retain(|tried| !back.contains(tried));
        }
    }

    /// Its timers that run.
    pub fn running(&self) -> impl Iterator<Item = (TxnTimer, TimerId)> + '_ {
        TxnTimer::ALL.into_iter().zip(self.timers).filter_map(|(which, timer)| Some((which, timer?)))
    }

    /// What holds whenever nothing happens to it.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn check(&self) {
        let runs = |timer: TxnTimer| self.timers[timer as usize].is_some();
        let (client, server) = (&self.client, &self.server);
        let is_open = server.machine.is_open() && !server.is_over;
        assert!(self.request.is_some() || !is_open, "it is to be answered, and its request is gone");
        assert!(self.seeking.is_none() || runs(TxnTimer::Location), "it waits for where it goes without end");
        assert!(self.watched.is_none() || client.flow.is_some(), "it watches what it was not sent on");
        assert!(self.watched.is_none() || client.machine.is_pending(), "it watches, and waits for nothing");
        assert!(client.cancel.is_sent() || !runs(TxnTimer::CancelDeadline), "a CANCEL that is over has a timer");
        assert!(server.machine.is_open() || !runs(TxnTimer::Trying), "it is answered, and would say 100");
        let waits = client.machine.is_pending() || self.seeking.is_some() || client.cancel.is_sent();
        assert!(waits || !is_open, "nothing will ever answer it");
    }

    /// The buffers that it leaves, to be used again.
    pub fn buffers(self) -> impl Iterator<Item = Vec<u8>> {
        let earlier = self.earlier.into_iter().map(|earlier| earlier.sent);
        self.request.map(|request| request.message.into_buf()).into_iter().chain([self.client.sent]).chain(earlier)
    }

    pub fn is_over(&self) -> bool {
        let is_client_over = matches!(self.client.machine, ClientMachine::Over) && !self.client.cancel.is_sent();
        self.server.is_over && is_client_over && self.timers[TxnTimer::Earlier as usize].is_none()
    }

    /// Bytes of memory that it holds: its own, and all that grows with what peers send. What it knows of its targets and
    /// of a registration beside is small.
    pub fn held_len(&self) -> usize {
        let cancel = match &self.client.cancel {
            Cancel::Sent { bytes, .. } => bytes.capacity(),
            Cancel::No | Cancel::Wanted => 0,
        };
        let kept = [&self.server.last, &self.client.sent, &self.client.ack, &self.cancel_reason].map(Vec::capacity);
        let earlier = self.earlier.iter().map(|earlier| earlier.sent.capacity());
        let request = self.message().map_or(0, Message::held_len);
        size_of::<Self>() + request + cancel + kept.iter().sum::<usize>() + earlier.sum::<usize>()
    }
}
