//! Where others reach us: datagram sockets and listeners.
//!
//! Owns: binding, receiving datagrams, accepting connections. Must not touch: a connection that stands.

use super::{LISTENER_BASE, Link, Net, NetEvent, SERVER, Transport, UDP_BASE};
use mio::net::{TcpListener, UdpSocket};
use mio::{Interest, Token};
use rustls::{Connection, ServerConnection};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

/// Datagrams of one socket before the next one gets its turn.
const DATAGRAM_BURST_MAX: usize = 64;
const UDP_SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;

pub(super) struct UdpEnd {
    pub(super) socket: UdpSocket,
    pub(super) owner: u32,
}

pub(super) struct Listener {
    pub(super) socket: TcpListener,
    transport: Transport,
    pub(super) owner: u32,
}

impl Net {
    /// Binds a UDP socket; says its index and address.
    pub fn bind_udp(&mut self, owner: u32, addr: SocketAddr) -> io::Result<(u32, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if owner == SERVER {
            socket.set_recv_buffer_size(UDP_SOCKET_BUFFER_LEN)?;
            socket.set_send_buffer_size(UDP_SOCKET_BUFFER_LEN)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(addr))?;
        let mut socket = UdpSocket::from_std(socket.into());
        let bound = socket.local_addr()?;
        let index = self.udp_next;
        self.udp_next += 1;
        self.poll.registry().register(&mut socket, Token(UDP_BASE + index), Interest::READABLE)?;
        self.udp.insert(index, UdpEnd { socket, owner });
        Ok((u32::try_from(index).expect("sockets are bounded by descriptors"), bound))
    }

    /// Takes a UDP socket away: the kernel refuses what still comes for it.
    pub fn unbind(&mut self, socket: u32) {
        if let Some(mut end) = self.udp.remove(&(socket as usize)) {
            // The descriptor is closed right after; a failure to take it out of epoll changes nothing.
            self.poll.registry().deregister(&mut end.socket).ok();
        }
    }

    /// Listens for TCP or TLS; says the address.
    pub fn listen(&mut self, owner: u32, transport: Transport, addr: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(addr))?;
        socket.listen(4_096)?;
        let mut socket = TcpListener::from_std(socket.into());
        let bound = socket.local_addr()?;
        let token = Token(LISTENER_BASE + self.listeners.vacant_key());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        self.listeners.insert(Listener { socket, transport, owner });
        Ok(bound)
    }

    pub(super) fn receive(&mut self, index: usize, buffer: &mut Vec<u8>) -> Option<NetEvent> {
        self.burst += 1;
        if self.burst > DATAGRAM_BURST_MAX {
            self.burst = 0;
            self.work.rotate_left(1);
            return None;
        }
        let Some(end) = self.udp.get(&index) else {
            // The socket was shut while its turn was due.
            self.burst = 0;
            self.work.pop_front();
            return None;
        };
        match end.socket.recv_from(&mut self.read_buffer) {
            Ok((len, peer)) => {
                buffer.clear();
                buffer.extend_from_slice(&self.read_buffer[..len]);
                let socket = u32::try_from(index).expect("sockets are bounded by descriptors");
                Some(NetEvent::Message { owner: end.owner, link: Link::Udp { socket, peer } })
            }
            Err(fault) if fault.kind() == ErrorKind::WouldBlock => {
                self.burst = 0;
                self.work.pop_front();
                None
            }
            // An ICMP error of an earlier send; the socket itself is fine.
            Err(_) => None,
        }
    }

    pub(super) fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else {
            self.work.pop_front();
            return;
        };
        let (transport, owner) = (listener.transport, listener.owner);
        match listener.socket.accept() {
            Ok((stream, peer)) => {
                // Without TCP_NODELAY it works too, only slower.
                stream.set_nodelay(true).ok();
                let tls = match (transport, &self.tls.server) {
                    (Transport::Tls, Some(config)) => match ServerConnection::new(Arc::clone(config)) {
                        Ok(tls) => Some(Box::new(Connection::Server(tls))),
                        Err(_) => return,
                    },
                    (Transport::Tls, None) => return,
                    _ => None,
                };
                // When it can't be registered the connection drops, which the peer sees.
                self.adopt(stream, owner, transport, peer, tls, true).ok();
            }
            Err(_) => {
                self.work.pop_front();
            }
        }
    }
}
