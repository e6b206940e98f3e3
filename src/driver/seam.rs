//! What a shard's core and its loop say to one another, and what the core asks of the world.

use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use crate::clock::Time;
use crate::dns::socket::Asked;
use crate::ids::PointId;
use crate::transport::stream::StreamSocket;
use crate::transport::udp::DatagramSocket;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A connection, by its place and by a number that tells it from others in the same place.
    Conn {
        #[allow(missing_docs, reason = "said above")]
        index: u32,
        #[allow(missing_docs, reason = "said above")]
        serial: u32,
    },
    /// The socket or listener of a point.
    Point(PointId),
    /// A connection whose PROXY header is awaited.
    Header(u32),
    /// A DNS exchange.
    Question(u32),
}

/// A socket that has become ready, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whose it is.
    pub token: Token,
    /// Something can be read, the end of it too.
    pub readable: bool,
    /// There is room to send, or a connection that was begun has come about or failed.
    pub writable: bool,
    /// Reads go on until they find the end or a fault, for it is there.
    pub ended: bool,
}

/// What a shard's core stands on: its sockets and the time. Nothing in it waits. One for each shard.
pub trait Driver {
    /// A stream connection. Dropped, it is closed.
    type Stream: StreamSocket;
    /// The socket of a UDP point.
    type Datagrams: DatagramSocket;
    /// A DNS question in the air. Dropped, it is given up.
    type Question: Asked;

    /// The present moment.
    fn now(&self) -> Time;

    /// Takes out the socket of a UDP point, which stays watched; `None` for any other point.
    fn take_datagrams(&mut self, point: PointId) -> Option<Self::Datagrams>;

    /// Takes the next connection that waits at a listener.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; `NotConnected` when the listener is closed; what the system says.
    fn accept(&mut self, point: PointId) -> io::Result<(Self::Stream, SocketAddr)>;

    /// Closes all listeners, with the connections that wait there.
    fn close_listeners(&mut self);

    /// Begins a connection from that address and a port of the system's choice.
    ///
    /// # Errors
    /// What the system says at once.
    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<Self::Stream>;

    /// Tells of this connection's readiness from now on, what is there already included. One that is watched already is
    /// told of under its new token.
    ///
    /// # Errors
    /// What the system says.
    fn watch(&mut self, stream: &Self::Stream, token: Token) -> io::Result<()>;

    /// Asks a resolver, and tells of the exchange's readiness from now on.
    ///
    /// # Errors
    /// What the system says at once.
    fn ask(&mut self, exchange: u32, to: SocketAddr, tcp: bool, question: &[u8]) -> io::Result<Self::Question>;
}

/// What a turn leaves to the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more to do at once.
    Again,
    /// Nothing is to do before something is ready, somebody wakes the shard, or this moment has come.
    At(Option<Time>),
    /// The shard has ended.
    Over,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// When to call again.
    pub next: Next,
    /// Whether enough came in for a gathering pause to pay.
    pub gather: bool,
}

/// What a loop runs: a shard.
pub trait Turns {
    /// Does all that is ready and due. Never waits.
    fn turn(&mut self, ready: &[Ready]) -> Turned;

    /// The loop is about to wait: from now on `waker` is who wakes it. Says whether something came meanwhile, so that
    /// it must not wait.
    fn about_to_wait(&mut self, waker: &Waker) -> bool;
}
