//! What shards say to each other: plain data.

use std::net::SocketAddr;

use super::io::ConnectFailure;
use super::location::notice::{Notice, Whereabouts};
use crate::abuse::{self, Failure};
use crate::dns::{NextHop, Target};
use crate::ids::{BindingId, ConnId, FlowRef, Transport};
use crate::proxy::Source;
use crate::server_pool::{Evidence, View};
use crate::sip::{Message, Method};
use crate::tls::identity::TlsPeer;
use crate::transaction::branch::TxnId;

/// Of a pair, at one of its addresses: what was seen.
pub type Seen = (u8, SocketAddr, Evidence);

/// A message that is ready to go, on its way to an endpoint.
#[derive(Debug)]
pub struct Letter {
    /// The message.
    pub bytes: Vec<u8>,
    /// The binding that it is for: it may have moved to another flow.
    pub binding: Option<BindingId>,
    /// Who wants to hear that it was not sent on its flow; it ends there then.
    pub txn: Option<TxnId>,
    #[allow(missing_docs, reason = "see By")]
    pub by: By,
}

impl Letter {
    /// The same, which goes by this UDP flow when its binding has none: a registration that is over ends no dialog. A
    /// connection that its dialog names comes first, for that it is there can be told.
    #[must_use]
    pub fn or_by(mut self, address: FlowRef) -> Self {
        if !matches!(&self.by, By::BindingOr(named) if named.is_stream()) {
            self.by = By::BindingOr(Box::new(address));
        }
        self
    }
}

/// How a letter looks for whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Where the binding is; it waits for a phone that is away.
    Binding,
    /// Where the binding is; when it has no flow, by this one, as long as that is there: the one that a response was
    /// asked for over, or that a request of a dialog names. Boxed, for it is rare: the binding has moved.
    BindingOr(Box<FlowRef>),
    /// By the flow that it is sent on, though the binding has left it; when that is gone, where the binding is.
    Flow,
}

impl By {
    /// Where the binding is, or by this flow, when that is another one.
    #[must_use]
    pub fn binding_or(named: FlowRef, tried: FlowRef) -> Self {
        if named.is_same(tried) { Self::Binding } else { Self::BindingOr(Box::new(named)) }
    }

    /// A flow has been found to be gone.
    #[must_use]
    pub fn without(self, gone: FlowRef) -> Self {
        match self {
            Self::BindingOr(named) => Self::binding_or(*named, gone),
            Self::Binding | Self::Flow => Self::Binding,
        }
    }
}

/// What is asked of a shard: where is it now?
#[derive(Debug)]
pub enum Query {
    /// Of a binding's home: which flow has it?
    Binding(Whereabouts),
    /// Of every other shard: do you hold a flow of an endpoint at this address?
    Address {
        #[allow(missing_docs, reason = "see Transport")]
        transport: Transport,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// Of the shard that holds the connection to a device: which is it? It is opened when there is none.
    Device {
        /// Where the device is.
        hop: NextHop,
        /// What its certificate must carry; `None` for TCP.
        tls: Option<Box<TlsPeer>>,
    },
}

/// The answer to a [`Query`] of the same kind.
#[derive(Debug)]
pub enum Answer {
    /// The flow, or `None` when there is none and nobody came back in time.
    Binding(Option<FlowRef>),
    /// The flow, and a binding that it has.
    Address(Option<(FlowRef, Option<BindingId>)>),
    /// Of the device at `hop`.
    Device {
        /// As given.
        hop: NextHop,
        /// The flow, or why there is none.
        found: Result<FlowRef, Option<ConnectFailure>>,
    },
}

/// An ACK to a 2xx, on its way to its phone's home.
#[derive(Debug)]
pub struct AckMail {
    /// The ACK as received.
    pub message: Box<Message>,
    #[allow(missing_docs, reason = "see Source")]
    pub source: Source,
    /// Whom it is for.
    pub binding: BindingId,
    /// The flow that its token names: a connection is gone; a UDP address takes it when its binding has no flow.
    pub not: Option<FlowRef>,
}

/// What shards say to each other. Directory changes (`is_directory`) are never dropped.
///
/// It is moved with every message that crosses, so what is large and rare in it is boxed.
#[derive(Debug)]
pub enum Mail {
    /// A message to be handled by the receiver, as placement asks.
    Message {
        /// Parsed where it landed; the spans travel with their bytes.
        message: Box<Message>,
        #[allow(missing_docs, reason = "see Source")]
        source: Source,
    },
    /// Send this on that flow of yours. Answered only when the flow is gone or its binding has left it: with `Failed` when
    /// the letter's `txn` is given; else the letter goes to the home of its binding, if it has one.
    Send {
        /// The flow.
        flow: FlowRef,
        #[allow(missing_docs, reason = "see Letter")]
        letter: Letter,
    },
    /// Send this response to a server or another site's proxy on that connection of yours, over which it was asked
    /// for; when that is gone, to where its Via says that its sender is (RFC 3261 §18.2.2).
    Respond {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// The response.
        bytes: Vec<u8>,
    },
    /// To the sender of `Send`: it was not sent, for that flow is gone, or the binding has left it.
    Failed {
        /// As given.
        txn: TxnId,
        /// As given.
        flow: FlowRef,
        /// It is there, and the binding has moved to another.
        left: bool,
    },
    /// A connection of the sender's, which the receiver has sent on, has closed.
    ConnGone {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// It could not be opened at all.
        failure: Option<ConnectFailure>,
    },
    /// Where is it now?
    Ask {
        /// Who asks.
        txn: TxnId,
        #[allow(missing_docs, reason = "see Query")]
        query: Query,
    },
    /// To the sender of `Ask`.
    Answer {
        /// As given.
        txn: TxnId,
        #[allow(missing_docs, reason = "see Answer")]
        answer: Answer,
    },
    /// To the shard that holds the connection to a device: send it these bytes. It is opened when there is none, and
    /// a failure is not answered.
    ToDevice {
        /// Where the device is.
        hop: NextHop,
        /// What its certificate must carry; `None` for TCP.
        tls: Option<Box<TlsPeer>>,
        /// The message.
        bytes: Vec<u8>,
    },
    /// To every other shard: this shard sends to a device at this address over UDP. Where the system reports that it
    /// cannot be reached is not ours to choose: of the sockets that share a port, any may be told.
    AimsAt {
        /// The device's.
        address: SocketAddr,
    },
    /// To every other shard: the system has reported that this UDP address cannot be reached.
    Unreachable {
        /// A server's, a peer's, or a device's that a shard sends to.
        to: SocketAddr,
    },
    /// To the shard that owns the verdict on the SIP Servers: this was seen of one.
    Evidence {
        /// Index into the settings.
        pair: u8,
        /// Which of its addresses.
        address: SocketAddr,
        /// What.
        evidence: Evidence,
    },
    /// To the same: this shard is overloaded, and answers to service checks may wait or have found no room here.
    Late,
    /// Its verdict, to every other shard.
    View {
        /// Where servers and peers are, and which of them answer.
        upstream: Box<Upstream>,
    },
    /// To the shard that judges: an address has failed.
    Failure {
        /// Whose.
        source: abuse::Source,
        /// In what.
        failure: Failure,
    },
    /// To the shard that judges: an address that something is held against has had success, or holds a binding.
    Succeeded {
        /// Whose.
        source: abuse::Source,
    },
    /// To every other shard: what is held against an address.
    Verdict {
        /// Whose.
        source: abuse::Source,
        /// What.
        verdict: abuse::Verdict,
    },
    /// To a binding's home: an ACK to a 2xx whose flow is gone.
    Ack(Box<AckMail>),
    /// To a binding's home: a message whose flow is gone, or has been left by the binding.
    Deliver {
        /// Whom it is for.
        binding: BindingId,
        /// A flow that is known to be gone.
        not: Option<FlowRef>,
        #[allow(missing_docs, reason = "see Letter")]
        letter: Box<Letter>,
    },
    /// The directory, or what a flow carries, has changed.
    Notice(Notice),
}

impl Mail {
    /// Whether it must wait for room instead of being dropped when the mailbox is full. As many verdicts can wait as there
    /// may be suspects, and of success one for each verdict and binding.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(
            self,
            Self::ConnGone { .. }
                | Self::Notice(_)
                | Self::Evidence { .. }
                | Self::View { .. }
                | Self::Succeeded { .. }
                | Self::Verdict { .. }
        )
    }

    /// Whether only the newest word counts: it waits in one place for each thing that it is about.
    #[must_use]
    pub fn is_latest(&self) -> bool {
        matches!(self, Self::Evidence { .. } | Self::View { .. })
    }

    /// Whether a mail of which the newest counts is about the same as another.
    #[must_use]
    pub fn says_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::View { .. }, Self::View { .. }) => true,
            _ => self.seen().is_some_and(|seen| Some(seen) == other.seen()),
        }
    }

    /// What it says was seen of a server.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        match self {
            Self::Evidence { pair, address, evidence } => Some((*pair, *address, *evidence)),
            _ => None,
        }
    }

    /// Whether it may not use the last quarter of the mailbox: requests that begin something new.
    #[must_use]
    pub fn is_new_work(&self) -> bool {
        match self {
            Self::Message { message, .. } => !matches!(message.method(), None | Some(Method::Ack | Method::Cancel)),
            _ => false,
        }
    }
}

/// Where servers and other sites' proxies are, as the shard that owns the verdict on them says.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// The pairs.
    pub view: View,
    /// Of each `[[peer-proxy]]`: its targets.
    pub peers: Vec<Vec<Target>>,
}

#[cfg(test)]
mod tests {
    use super::super::Output;
    use super::*;

    /// They were 160 and 168 while what is rare in them was not boxed.
    #[test]
    fn what_is_moved_with_every_message_stays_small() {
        assert_eq!((size_of::<Mail>(), size_of::<Output>()), (120, 128));
    }
}
