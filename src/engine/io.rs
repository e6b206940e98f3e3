//! Everything that goes into an engine and comes out of it: plain data.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Time;
use crate::config::engine::Live;
use crate::dns::{NextHop, Target};
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Side, Transport};
pub use crate::proxy::Source;
use crate::server_pool::{Evidence, View};
use crate::sip::{Message, Method};
use crate::tls::identity::{Identities, TlsPeer};
use crate::transaction::branch::TxnId;

/// A TCP connection that a listener of this shard has accepted. For TLS the handshake is still to come.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// The listening point.
    pub point: PointId,
    /// The peer's address and port.
    pub peer: SocketAddr,
}

/// Why a new connection is not taken. The shell closes it at once, before a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `connections_max` of this shard is reached.
    Connections,
    /// Too many unregistered connections from this source address.
    Source,
    /// Shutting down.
    Draining,
}

/// Why a connection was closed, by us or by the peer. Declared once, counted and logged by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed in an orderly way (FIN or close_notify).
    Peer,
    /// Reset by the peer.
    Reset,
    /// `TCP_USER_TIMEOUT` or keep-alives found the peer dead.
    Dead,
    /// Another socket error.
    Error,
    /// The TLS handshake failed (the reason is counted apart).
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// A TLS fault after the handshake.
    TlsFault,
    /// No message within the time for the first one.
    FirstMessageTimeout,
    /// A message was begun and not finished in time.
    SlowMessage,
    /// Idle and without a binding.
    Idle,
    /// The stream cannot be framed any more (after its 400).
    Framing,
    /// More waits to be sent than the bound allows.
    SendQueueFull,
    /// The peer has acknowledged nothing of what it was sent for too long.
    SendStalled,
    /// The peer acknowledges, but so slowly that what it was sent has grown too old.
    SendSlow,
    /// The peer had closed its half, and an answer that it was owed did not come in time.
    HalfClosed,
    /// More pings in one read than any phone sends.
    Pings,
    /// A panic was caught while its message was handled.
    Panic,
    /// It could not be opened.
    Connect(ConnectFailure),
}

/// Why an outbound connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// Connection refused.
    Refused,
    /// No route, or host unreachable.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Out of descriptors or ports.
    Resources,
    /// The peer's certificate was refused, or the TLS handshake failed.
    Tls,
}

/// Why the system has refused a datagram, for a cause that does not pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFault {
    /// It is larger than a datagram, or than the way allows (EMSGSIZE).
    TooLarge,
    /// Anything else: no route, a packet filter, an address that nothing can be sent to.
    Refused,
}

/// What goes in.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived at a UDP point.
    Datagram {
        #[allow(missing_docs, reason = "see Point")]
        point: PointId,
        /// Its source.
        from: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A connection is ready for SIP: the accepted TLS handshake is done, or the outbound connection (and its
    /// handshake) is. For accepted TCP it follows `accept` at once.
    Ready {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// The names of the peer's certificate; `None` when none was shown and verified.
        identities: Option<Box<Identities>>,
    },
    /// Plaintext arrived on a connection: any part of the stream, split anywhere.
    Bytes {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The peer of a connection says nothing more, and may still read: its FIN, or over TLS its close_notify. Comes once.
    /// Ends in an [`Output::Close`], unless the connection is gone before.
    HalfClosed {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
    },
    /// A connection is gone, not at the engine's request (an [`Output::Close`] is not echoed).
    Closed {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// The system reported that a UDP destination cannot be reached (ICMP).
    Unreachable {
        /// Where it was sent.
        to: SocketAddr,
    },
    /// A datagram that the system has refused for good.
    Unsent {
        /// Where it was to go.
        to: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
        /// Why.
        fault: SendFault,
    },
    /// Mail from another shard.
    Mail {
        /// The sender.
        from: ShardId,
        /// What it says.
        mail: Mail,
    },
    /// A mail did not fit its shard's mailbox and is dropped (never for directory changes).
    MailRefused {
        /// The mail.
        mail: Mail,
    },
    /// What the socket of a DNS question has brought.
    Dns(crate::dns::Input<'a>),
    /// No new work from now on; what is in flight goes on.
    Drain,
    /// Settings that may change have changed.
    Live(Box<Live>),
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Send one datagram.
    Datagram {
        /// From this UDP point.
        point: PointId,
        /// To this address.
        to: SocketAddr,
        /// Give it back with `Engine::recycle`.
        bytes: Vec<u8>,
    },
    /// Append to what the connection has to send; flushed once at the end of the pass.
    Bytes {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// Give it back with `Engine::recycle`.
        bytes: Vec<u8>,
    },
    /// Open a connection from the point's address (port of the system's choice), and with `Transport::Tls` do
    /// the client handshake. Ends in `Input::Ready` or in `Input::Closed` with `CloseReason::Connect`.
    /// Bytes for it may follow at once and wait.
    Connect {
        /// The slot that the engine has given it.
        conn: ConnId,
        /// The point whose address it leaves from.
        point: PointId,
        /// Tcp or Tls.
        transport: Transport,
        /// The peer.
        to: SocketAddr,
        /// Which side the peer is on.
        side: Side,
        /// Whom the peer's certificate must name; `None` for TCP.
        tls: Option<Box<TlsPeer>>,
    },
    /// Send what waits, then close (with close_notify over TLS). The slot is free already.
    Close {
        #[allow(missing_docs, reason = "see ConnId")]
        conn: ConnId,
        /// Counted already.
        reason: CloseReason,
    },
    /// To another shard's mailbox.
    Mail {
        /// The receiver.
        to: ShardId,
        /// What it says.
        mail: Mail,
    },
    /// Ask a resolver, or stop asking it. Never `Found`.
    Dns(crate::dns::Output),
    /// Something that an operator should hear: logged at a bounded rate.
    Event(Event),
}

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

/// How a letter looks for whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Where the binding is; it waits for a phone that is away.
    Binding,
    /// Where the binding is; when it has no flow, by this one, as long as that is there: the one that a response was
    /// asked for over, or that a request of a dialog names.
    BindingOr(FlowRef),
    /// By the flow that it is sent on, though the binding has left it; when that is gone, where the binding is.
    Flow,
}

impl By {
    /// Where the binding is, or by this flow, when that is another one.
    #[must_use]
    pub fn binding_or(named: FlowRef, tried: FlowRef) -> Self {
        if named.is_same(tried) { Self::Binding } else { Self::BindingOr(named) }
    }

    /// A flow has been found to be gone.
    #[must_use]
    pub fn without(self, gone: FlowRef) -> Self {
        match self {
            Self::BindingOr(named) => Self::binding_or(named, gone),
            Self::Binding | Self::Flow => Self::Binding,
        }
    }
}

impl Letter {
    /// For who has no binding, or need not be looked for when it has moved.
    #[must_use]
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, binding: None, txn: None, by: By::Binding }
    }
}

/// What shards say to each other. Directory changes (`is_directory`) are never dropped.
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
    /// To a binding's home: where is it?
    Resolve {
        /// Who asks.
        txn: TxnId,
        /// Which binding.
        binding: BindingId,
        /// A flow that is known to be gone.
        not: Option<FlowRef>,
        /// How long to wait for the phone to come back.
        wait: Duration,
    },
    /// The answer: the flow, or `None` when there is none and nobody came back in time.
    Resolved {
        /// As given.
        txn: TxnId,
        /// Where it is.
        flow: Option<FlowRef>,
    },
    /// To every other shard: do you hold a flow of an endpoint at this address?
    FindPeer {
        /// Who asks.
        txn: TxnId,
        #[allow(missing_docs, reason = "see Transport")]
        transport: Transport,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// To the shard that holds the connection to a device: which is it? It is opened when there is none. Answered
    /// with `Device`.
    FindDevice {
        /// Who asks.
        txn: TxnId,
        /// Where the device is.
        hop: NextHop,
        /// What its certificate must carry; `None` for TCP.
        tls: Option<Box<TlsPeer>>,
    },
    /// The answer to `FindDevice`.
    Device {
        /// As given.
        txn: TxnId,
        /// As given.
        hop: NextHop,
        /// The flow, or why there is none.
        found: Result<FlowRef, Option<ConnectFailure>>,
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
    /// Its verdict, to every other shard.
    View {
        /// Where servers and peers are, and which of them answer.
        upstream: Box<Upstream>,
    },
    /// The answer of one shard.
    Peer {
        /// As given.
        txn: TxnId,
        /// The flow, and a binding that it has.
        found: Option<(FlowRef, Option<BindingId>)>,
    },
    /// To a binding's home: an ACK to a 2xx whose flow is gone.
    Ack {
        /// The ACK as received.
        message: Box<Message>,
        #[allow(missing_docs, reason = "see Source")]
        source: Source,
        /// Whom it is for.
        binding: BindingId,
        /// The flow that its token names: a connection is gone; a UDP address takes it when its binding has no flow.
        not: Option<FlowRef>,
    },
    /// To a binding's home: a message whose flow is gone, or has been left by the binding.
    Deliver {
        /// Whom it is for.
        binding: BindingId,
        /// A flow that is known to be gone.
        not: Option<FlowRef>,
        #[allow(missing_docs, reason = "see Letter")]
        letter: Letter,
    },
    /// Home to owner: your flow has this binding now.
    Bound {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
        /// Until when.
        until: Time,
    },
    /// Home to owner: this binding has moved from your flow to another.
    Moved {
        /// The flow that it had.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
        /// The flow that it has.
        to: FlowRef,
    },
    /// Home to owner: your flow has lost this binding (expired, or taken back).
    Unbound {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
    },
    /// Owner to home: the flow of this binding is gone.
    FlowGone {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
    },
    /// To the home of a Contact's user part: this Contact leads to that binding, whose home is elsewhere.
    PutContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// The binding.
        binding: BindingId,
        /// When it ends unless it is refreshed.
        until: Time,
    },
    /// To the home of a Contact's user part: no room is left to keep it. Until this time it is no device's.
    ForgetContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// When the registration would have expired.
        until: Time,
    },
    /// The reverse of `PutContact`.
    DropContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// The binding.
        binding: BindingId,
    },
}

impl Mail {
    /// Whether it must wait for room instead of being dropped when the mailbox is full.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(
            self,
            Self::ConnGone { .. }
                | Self::Bound { .. }
                | Self::Moved { .. }
                | Self::Unbound { .. }
                | Self::FlowGone { .. }
                | Self::ForgetContact { .. }
                | Self::PutContact { .. }
                | Self::DropContact { .. }
                | Self::Evidence { .. }
                | Self::View { .. }
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

/// How much an event matters, the least first. Events of the first two are made only while the settings ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each message.
    Trace,
    /// Each request and connection.
    Debug,
    /// It happens every day.
    Info,
    /// Somebody did not get what was asked for.
    Warn,
}

/// What an operator should hear. The shell writes each kind at a bounded rate.
#[derive(Clone, Debug)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// The fixed words, by which the rate is bounded.
    pub what: &'static str,
    /// The fixed words of why, by which it is bounded too; empty where `what` says it.
    pub reason: &'static str,
    /// The peer.
    pub peer: Option<SocketAddr>,
    /// The AOR, Call-ID or other name concerned.
    pub about: String,
}

impl Event {
    /// Reason and what is concerned, in words.
    #[must_use]
    pub fn said(&self) -> Cow<'_, str> {
        match (self.reason, self.about.as_str()) {
            ("", about) => about.into(),
            (reason, "") => reason.into(),
            (reason, about) => format!("{reason}: {about}").into(),
        }
    }
}

/// One binding, as `hawser where` shows it.
#[derive(Clone, Debug)]
pub struct Located {
    /// Canonical AOR.
    pub aor: String,
    /// The phone's own Contact URI.
    pub contact: String,
    /// Instance-id, or empty.
    pub instance: String,
    /// The flow: shard, connection, point.
    pub flow: FlowRef,
    /// TLS, TCP or UDP.
    pub transport: Transport,
    /// The phone's address as seen.
    pub peer: SocketAddr,
    /// The names of the certificate that it has shown, such as `sip:example.com`; empty without one. Known to the
    /// flow's owner shard only.
    pub certificate: Vec<String>,
    /// Until it expires.
    pub expires_in: Duration,
    /// Since the REGISTER that last refreshed it.
    pub age: Duration,
}
