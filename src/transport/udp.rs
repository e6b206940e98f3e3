//! Datagrams that wait for the end of a pass, and their one sendmmsg.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::engine::SendFault;
use crate::limits::DATAGRAMS_WAITING_COUNT_MAX;
use crate::sys::batch;
use crate::sys::{errqueue, incoming};

pub use crate::sys::batch::{BATCH_COUNT_MAX, Datagram, RecvBatch};

/// The socket of one UDP point, as the rest of the program sees it. Nothing in it waits.
pub trait DatagramSocket {
    /// Takes datagrams into `batch`; says how many, and whether there may be more.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; a pending error, which [`DatagramSocket::next_unreachable`] explains.
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<(usize, bool)>;

    /// Sends as many of the first as are taken at once; says how many.
    ///
    /// # Errors
    /// What is wrong with the first one, none having gone; a pending error; `WouldBlock` when there is no room.
    fn send<'a>(&mut self, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) -> io::Result<usize>;

    /// The next destination of which an earlier datagram came back.
    fn next_unreachable(&mut self) -> Option<SocketAddr>;

    /// Datagrams that came and were dropped for want of room, in all, modulo 2^32; `None` when that is not known.
    fn dropped_count(&self) -> Option<u32>;
}

/// A UDP socket of the system.
#[derive(Debug)]
pub struct UdpSocket(Socket);

impl UdpSocket {
    /// Over a socket that [`super::socket::udp`] has built.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self(socket)
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl DatagramSocket for UdpSocket {
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<(usize, bool)> {
        let count = batch.recv(self.as_raw_fd())?;
        Ok((count, count == BATCH_COUNT_MAX))
    }

    fn send<'a>(&mut self, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) -> io::Result<usize> {
        batch::send(self.as_raw_fd(), datagrams)
    }

    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        errqueue::next(self.as_raw_fd()).map(|(to, _)| to)
    }

    fn dropped_count(&self) -> Option<u32> {
        incoming::dropped_count(self.as_raw_fd()).ok()
    }
}

/// One UDP socket, and what it has to send.
#[derive(Debug)]
pub struct Outgoing<D> {
    /// The socket.
    pub socket: D,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    /// What the system had dropped of what came when that was looked at last.
    dropped_count: u32,
}

/// What a flush came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Datagrams that went out.
    pub sent: u64,
    /// Datagrams that the system refused for a cause that passes (no memory). What is sent again finds it better.
    pub dropped: u64,
    /// The oldest, dropped since more waited than `DATAGRAMS_WAITING_COUNT_MAX`.
    pub overflowed: u64,
    /// Whether some wait for room in the socket.
    pub waiting: bool,
}

/// A datagram that the system has refused for good.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Where it was to go.
    pub to: SocketAddr,
    /// The datagram's payload.
    pub bytes: Vec<u8>,
    /// Why.
    pub fault: SendFault,
}

impl<D: DatagramSocket> Outgoing<D> {
    /// With nothing to send yet.
    #[must_use]
    pub fn new(socket: D) -> Self {
        Self { socket, waiting: VecDeque::new(), dropped_count: 0 }
    }

    /// Datagrams that came to the same socket, and that the system has dropped since this was asked last.
    pub fn lost_count(&mut self) -> u64 {
        let count = self.socket.dropped_count().unwrap_or(self.dropped_count);
        u64::from(count.wrapping_sub(std::mem::replace(&mut self.dropped_count, count)))
    }

    /// Appends one. It stays until `flush`.
    pub fn push(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.waiting.push_back((to, bytes));
    }

    /// Sends all that the socket takes. Buffers that are done with go to `recycle`; destinations of which an earlier
    /// datagram came back are told to `unreachable`; what the system refuses for good goes to `unsent`.
    pub fn flush(
        &mut self,
        mut recycle: impl FnMut(Vec<u8>),
        mut unreachable: impl FnMut(SocketAddr),
        mut unsent: impl FnMut(Unsent),
    ) -> Flushed {
        let mut flushed = Flushed::default();
        // A pending error belongs to an earlier datagram, so that the first one is tried again after it, once.
        let mut tried_again = false;
        while !self.waiting.is_empty() {
            let sent = self.socket.send(self.waiting.iter().map(|(to, bytes)| (*to, bytes.as_slice())));
            match sent {
                Ok(n) => {
                    flushed.sent += n as u64;
                    self.waiting.drain(..n).for_each(|(_, bytes)| recycle(bytes));
                    tried_again = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if !tried_again => {
                    self.drain_errors(&mut unreachable);
                    tried_again = true;
                }
                Err(error) => {
                    tried_again = false;
                    let Some((to, bytes)) = self.waiting.pop_front() else { break };
                    match fault_of(&error) {
                        Some(fault) => unsent(Unsent { to, bytes, fault }),
                        None => {
                            flushed.dropped += 1;
                            recycle(bytes);
                        }
                    }
                }
            }
        }
        while self.waiting.len() > DATAGRAMS_WAITING_COUNT_MAX {
            flushed.overflowed += 1;
            self.waiting.pop_front().into_iter().for_each(|(_, bytes)| recycle(bytes));
        }
        flushed.waiting = !self.waiting.is_empty();
        flushed
    }

    /// Tells the destinations of which earlier datagrams came back.
    pub fn drain_errors(&mut self, mut unreachable: impl FnMut(SocketAddr)) {
        while let Some(to) = self.socket.next_unreachable() {
            unreachable(to);
        }
    }
}

/// Why a datagram can never be sent; `None` for what passes: the system is short of memory, or another datagram's error
/// was in the way.
fn fault_of(error: &io::Error) -> Option<SendFault> {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Some(SendFault::TooLarge),
        Some(libc::ENOBUFS | libc::ENOMEM | libc::ECONNREFUSED) => None,
        _ => Some(SendFault::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    #[test]
    fn a_pass_of_many_datagrams_goes_out_whole_and_its_buffers_come_back() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        b.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut out = Outgoing::new(super::UdpSocket::new(a.into()));
        for i in 0..150_u8 {
            out.push(b.local_addr().unwrap(), vec![i; 10]);
        }
        let mut back = 0;
        let flushed = out.flush(|_| back += 1, |to| panic!("{to} is there"), |unsent| panic!("{unsent:?}"));
        assert_eq!(flushed, Flushed { sent: 150, dropped: 0, overflowed: 0, waiting: false });
        assert_eq!(back, 150);
        for i in 0..150_u8 {
            let mut buffer = [0; 20];
            assert_eq!(b.recv(&mut buffer).unwrap(), 10);
            assert_eq!(buffer[0], i);
        }
    }

    #[test]
    fn a_destination_that_refuses_is_named_and_the_others_get_theirs() {
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let socket = super::super::socket::udp(address, super::super::socket::TOS_UNSET).unwrap();
        let gone = UdpSocket::bind(address).unwrap().local_addr().unwrap();
        let live = UdpSocket::bind(address).unwrap();
        live.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut out = Outgoing::new(super::UdpSocket::new(socket));
        out.push(gone, b"lost".to_vec());
        let mut named = Vec::new();
        let mut dropped = out.flush(|_| {}, |to| named.push(to), |unsent| panic!("{unsent:?}")).dropped;
        // The refusal of loopback is there at once, and the next flush meets it.
        out.push(live.local_addr().unwrap(), b"kept".to_vec());
        dropped += out.flush(|_| {}, |to| named.push(to), |unsent| panic!("{unsent:?}")).dropped;
        let mut buffer = [0; 9];
        assert_eq!(live.recv(&mut buffer).unwrap(), 4);
        let deadline = Instant::now() + Duration::from_secs(5);
        while named.is_empty() && Instant::now() < deadline {
            out.drain_errors(|to| named.push(to));
        }
        assert_eq!((named, dropped), (vec![gone], 0));
    }

    #[test]
    fn a_datagram_that_no_network_takes_comes_back_and_does_not_hold_up_the_next() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (to, nobody) = (b.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
        let mut out = Outgoing::new(super::UdpSocket::new(a.into()));
        out.push(to, vec![0; 70_000]);
        out.push(nobody, b"to no port".to_vec());
        out.push(to, b"kept".to_vec());
        let mut unsent = Vec::new();
        let flushed = out.flush(|_| {}, |_| {}, |one| unsent.push(one));
        assert_eq!(flushed, Flushed { sent: 1, dropped: 0, overflowed: 0, waiting: false });
        let too_large = Unsent { to, bytes: vec![0; 70_000], fault: SendFault::TooLarge };
        let refused = Unsent { to: nobody, bytes: b"to no port".to_vec(), fault: SendFault::Refused };
        assert_eq!(unsent, [too_large, refused]);
    }
}
