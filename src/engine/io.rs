//! Everything that goes into an engine and comes out of it: plain data.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use super::mail::Mail;
use crate::config::engine::Live;
use crate::ids::{ConnId, FlowRef, PointId, ShardId, Side, Transport};
pub use crate::proxy::Source;
use crate::tls::identity::{Identities, TlsPeer};

/// A TCP connection that a listener of this shard has accepted. For TLS the handshake is still to come.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// The listening point.
    pub point: PointId,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// A load balancer has opened it, and `peer` is whose it says that it is: see [`crate::proxy::Origin::FORWARDED`].
    pub is_forwarded: bool,
}

/// Why a new connection is not taken. The shell closes it at once, before a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `connections_max` of this shard is reached.
    Connections,
    /// Too many unregistered connections from this source address.
    Source,
    /// Its address only fails, and is shut out for a time.
    ShutOut,
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
    /// Its address only fails, and has been shut out since.
    ShutOut,
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
        /// For how long it had waited to be read.
        waited: Duration,
    },
    /// A datagram of a load balancer arrived at a UDP point, without the PROXY header that was before it.
    Forwarded {
        #[allow(missing_docs, reason = "see Point")]
        point: PointId,
        /// The balancer's address and port, where answers go.
        from: SocketAddr,
        /// Whose it is, as the header says; or `from`, when that says nothing.
        source: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
        /// For how long it had waited to be read.
        waited: Duration,
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
        /// For how long the last of them had waited to be read.
        waited: Duration,
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
    /// Hawser itself is at fault.
    Error,
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
