//! What a response context is told, and what it wants done: the whole of its interface.

use std::net::SocketAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::state::{Seeking, TxnTimer};
use crate::dns::NextHop;
use crate::dns::{Failure, Question};
use crate::engine::{ConnectFailure, Level, SendFault};
use crate::ids::{BindingId, FlowRef};
use crate::proxy::Target;
use crate::sip::Message;
use crate::stats::Counter;

/// A flow that the request can be sent on, with what its header fields say of it.
#[derive(Debug)]
pub struct Way {
    pub flow: FlowRef,
    /// The Contact that an alias in the Request-URI stands for.
    pub contact: Option<Box<[u8]>>,
    /// The endpoint's connection is one that we have opened.
    pub opened: bool,
}

/// A response.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub message: &'a Message,
    pub code: u16,
    /// A server, here or at another site, has sent it.
    pub is_trusted: bool,
}

/// Which of its client transactions a response is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that counts.
    Last,
    /// One that was given up, by its place.
    Earlier(usize),
}

/// Why a target would not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The target said 503.
    Unavailable,
    /// The connection could not be opened, or was lost before anything was heard.
    Connection(Option<ConnectFailure>),
    /// Timer B.
    Timeout,
    /// The pair's owner says that it does not answer.
    Verdict,
}

impl Why {
    pub fn counter(self) -> Counter {
        match self {
            Self::Unavailable => Counter::FailoverUnavailable,
            Self::Connection(_) => Counter::FailoverConnection,
            Self::Timeout => Counter::FailoverTimeout,
            Self::Verdict => Counter::FailoverVerdict,
        }
    }
}

/// What the registrations say of a Request-URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    By(BindingId),
    /// Phones have registered it, and none of them may be meant.
    Unclear,
    Nobody,
}

/// What happens to a context.
#[derive(Debug)]
pub enum Event<'a> {
    /// The request has come, and goes here.
    Begin(Target),
    /// The request has come again.
    Repeated,
    /// The ACK to its final error has come.
    Ack,
    /// Its caller has sent a CANCEL with these `Reason` fields.
    Cancelled(Vec<u8>),
    /// One of its timers has fired. `alternative`: another server would take the request.
    Timer { timer: TxnTimer, alternative: bool },
    /// A response to one of its client transactions, from where that was sent. `alternative` as above, for a 503.
    Response { answer: Answer<'a>, which: Which, alternative: bool },
    /// The Contacts of its REGISTER are bound; this is its answer.
    Bound { code: u16, bytes: Vec<u8> },

    // Of what it seeks.
    /// Somebody else has to be asked: no answer will come after `wait`.
    Asked { seeking: Seeking, wait: Duration },
    /// The request can be sent there.
    Found(Way),
    /// The flow of its token is gone; a stream is named.
    FlowGone(Option<FlowRef>),
    /// What its Request-URI is registered by; `or`, for nobody's, the address in its X-Genesys-Route.
    Registered { found: Registered, or: Option<NextHop> },
    /// Its binding's home has answered. `still`: the way that is left though its binding has none.
    Located { way: Option<Way>, still: Option<Way> },
    /// Who it was that the lost flow of its token led to.
    Beyond(Option<Target>),
    /// A connection from the address in X-Genesys-Route, or its UDP address, with the binding that it has.
    Connected { way: Way, binding: Option<BindingId> },
    /// UDP, and nobody's that is registered: it is a device's.
    Device(NextHop),
    /// No connection is there from the address in X-Genesys-Route.
    NotConnected(NextHop),
    /// Another shard has said whether it holds that connection.
    ConnectedElsewhere(Option<(Way, Option<BindingId>)>),
    /// A server of the pair will take it, or none; these would not.
    Server { found: Option<(NextHop, Way)>, passed_over: SmallVec<[SocketAddr; 1]> },
    /// The addresses of another site's proxy, in order.
    Peer { peer: u8, all: SmallVec<[NextHop; 2]> },
    /// What a name stands for.
    Named(Named),
    /// The way to the next address of its list.
    Hop(Result<Way, Option<ConnectFailure>>),
    /// The same, from the shard that holds the connections to a device at this address.
    HopElsewhere { hop: NextHop, found: Result<Way, Option<ConnectFailure>> },
    /// The way to the address that it was sent to, when the connection was lost for this reason.
    Reopened { way: Option<Way>, failure: Option<ConnectFailure> },
    /// The way by TCP for a request that is too large to go by `flow`.
    Large { way: Option<Way>, flow: FlowRef },

    // Of what it sends.
    /// The request could not be sent on that flow, which is gone; `again`: it had been sent before.
    NotSent { flow: FlowRef, again: bool },
    /// The same, of another shard's flow; or its binding has `left` it.
    NotSentElsewhere { flow: FlowRef, left: bool },
    /// Its phone is elsewhere by now.
    Moved(Way),
    /// The registration that it is for is over, and its UDP address may be another's.
    RegistrationOver,
    /// Its server is reached by this flow now.
    ServerIsBy(Option<FlowRef>),
    /// The connection that it was sent on has closed, or could not be opened.
    ConnectionGone(Option<ConnectFailure>),
    /// Another shard has no room for what it should send: that says nothing about the phone.
    NoRoom,
    /// The system has refused the datagram.
    Unsendable(SendFault),
    /// Its target will not answer.
    TargetOut(Why),
}

/// What a name stands for.
#[derive(Debug)]
pub enum Named {
    /// Addresses, in the order in which they are tried.
    NextHops(SmallVec<[NextHop; 2]>),
    /// A server of ours, or another site's proxy: it leads where its address would.
    Known(Target),
    Nothing(Failure),
}

/// What a context asks for.
#[derive(Debug)]
pub enum Seek {
    /// The flow that a token names, or where its binding is.
    Flow { flow: FlowRef, binding: Option<BindingId> },
    /// What its Request-URI is registered by.
    Registered { or: Option<NextHop> },
    /// A flow towards the address in X-Genesys-Route.
    Address(NextHop),
    /// To whom the flow that its token named had led, now that it is lost.
    Beyond(Option<FlowRef>),
    /// Where its binding is: of its home, which waits so long for a phone that is away.
    Home { binding: BindingId, not: Option<FlowRef>, wait: Duration },
    /// A server of its pair, `at` first.
    Server { pair: u8, at: Option<SocketAddr> },
    /// Where another site's proxy is.
    Peer(u8),
    /// The addresses of a name.
    Name(Question),
    /// The way to an address of its list.
    Hop(NextHop),
    /// The way to the address that it was sent to.
    Reopen { failure: Option<ConnectFailure> },
    /// The way by TCP for what is too large to go by this flow.
    Large(FlowRef),
}

/// What a context has seen of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saw {
    /// The server has answered.
    Answer(u16),
    /// It has answered 503, and another will be asked.
    Unavailable,
    /// It has taken a call that another would not.
    TookCall,
    /// It says nothing to an INVITE.
    Silence,
}

/// What a context wants done.
#[derive(Debug)]
pub enum Action {
    /// An operator should hear of it.
    Tell { level: Level, what: &'static str, peer: SocketAddr, about: Vec<u8> },
    /// Send this response to who asked.
    Respond(Vec<u8>),
    /// Find out where the request goes.
    Seek(Seek),
    /// Send the request on this flow. `again`: it had been sent before.
    Send { flow: FlowRef, bytes: Vec<u8>, again: bool },
    /// Send this to where the request has gone: the request again, its ACK, its CANCEL.
    Follow { bytes: Vec<u8>, is_request: bool },
    /// Send this to where one that was given up has gone.
    FollowEarlier { at: usize, bytes: Vec<u8> },
    /// Bind what the REGISTER asks for, by the response at hand, and make of that what goes back. `late`: it is of a server
    /// that had been given up.
    Bind { late: bool },
    /// Of a server of a pair.
    Saw { pair: u8, hop: NextHop, what: Saw },
    /// An address that it was sent to `answers`, or does not.
    Reached { hop: NextHop, answers: bool },
    /// Give the target up, when what stands before this is done.
    GiveUp(Why),
    /// Nobody waits for the name any more.
    ForgetName,
}
