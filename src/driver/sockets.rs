//! The system's sockets of one shard, in the set that its loop waits for.

use std::io;
use std::net::SocketAddr;

use mio::Registry;
use mio::net::TcpListener;

use super::clock::Clock;
use super::seam::{Driver, Token};
use super::waits::{Waits, add};
use crate::clock::Time;
use crate::dns::socket::Question;
use crate::ids::PointId;
use crate::transport::socket;
use crate::transport::tcp::TcpSocket;
use crate::transport::udp::UdpSocket;

/// The socket of one point on one shard, bound already.
#[derive(Debug)]
pub enum Socket {
    /// A UDP point.
    Udp(socket2::Socket),
    /// A TCP or TLS listener.
    Listener(socket2::Socket),
}

/// See the module.
#[derive(Debug)]
pub struct Sockets {
    clock: Clock,
    tos: u32,
    registry: Registry,
    /// By point.
    datagrams: Vec<Option<UdpSocket>>,
    listeners: Vec<Option<TcpListener>>,
}

impl Sockets {
    /// Watches the sockets of all points, with `sip-ip-tos` for connections that are opened.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(waits: &Waits, sockets: Vec<Socket>, tos: u32, clock: Clock) -> io::Result<Self> {
        let registry = waits.registry()?;
        let (mut datagrams, mut listeners) = (Vec::new(), Vec::new());
        for (at, socket) in sockets.into_iter().enumerate() {
            let token = Token::Point(PointId(u8::try_from(at).unwrap_or(u8::MAX)));
            match socket {
                Socket::Udp(socket) => {
                    add(&registry, &socket, token, false)?;
                    datagrams.push(Some(UdpSocket::new(socket)));
                    listeners.push(None);
                }
                Socket::Listener(socket) => {
                    add(&registry, &socket, token, false)?;
                    datagrams.push(None);
                    listeners.push(Some(TcpListener::from_std(socket.into())));
                }
            }
        }
        Ok(Self { clock, tos, registry, datagrams, listeners })
    }
}

impl Driver for Sockets {
    type Stream = TcpSocket;
    type Datagrams = UdpSocket;
    type Question = Question;

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn take_datagrams(&mut self, point: PointId) -> Option<UdpSocket> {
        self.datagrams.get_mut(usize::from(point.0))?.take()
    }

    fn accept(&mut self, point: PointId) -> io::Result<(TcpSocket, SocketAddr)> {
        let listener = self.listeners.get(usize::from(point.0)).and_then(Option::as_ref);
        let (stream, peer) = listener.ok_or(io::ErrorKind::NotConnected)?.accept()?;
        Ok((TcpSocket::new(std::net::TcpStream::from(stream).into()), peer))
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpSocket> {
        socket::connect(from, to, self.tos).map(TcpSocket::new)
    }

    fn watch(&mut self, stream: &TcpSocket, token: Token) -> io::Result<()> {
        add(&self.registry, stream, token, true)
    }

    fn ask(&mut self, exchange: u32, to: SocketAddr, tcp: bool, question: &[u8]) -> io::Result<Question> {
        let asked = Question::ask(to, tcp, question)?;
        add(&self.registry, &asked, Token::Question(exchange), tcp)?;
        Ok(asked)
    }
}
