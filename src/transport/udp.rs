//! Datagrams that wait for the end of a pass, and their one sendmmsg.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::engine::SendFault;
use crate::limits::DATAGRAMS_WAITING_COUNT_MAX;
use crate::sys::{batch, errqueue, incoming};

/// What one UDP socket has to send.
#[derive(Debug)]
pub struct Outgoing {
    fd: RawFd,
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

impl Outgoing {
    /// For the socket of this descriptor, which must stay open as long.
    #[must_use]
    pub fn new(fd: RawFd) -> Self {
        Self { fd, waiting: VecDeque::new(), dropped_count: 0 }
    }

    /// Datagrams that came to the same socket, and that the system has dropped since this was asked last.
    pub fn lost_count(&mut self) -> u64 {
        let count = incoming::dropped_count(self.fd).unwrap_or(self.dropped_count);
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
            let sent = batch::send(self.fd, self.waiting.iter().map(|(to, bytes)| (*to, bytes.as_slice())));
            match sent {
                Ok(n) => {
                    flushed.sent += n as u64;
                    self.waiting.drain(..n).for_each(|(_, bytes)| recycle(bytes));
                    tried_again = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if !tried_again => {
                    drain_errors(self.fd, &mut unreachable);
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
}

/// Empties the error queue of a socket; tells the destinations that its errors name.
pub fn drain_errors(fd: RawFd, mut unreachable: impl FnMut(SocketAddr)) {
    while let Some((to, _)) = errqueue::next(fd) {
        unreachable(to);
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
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    #[test]
    fn a_pass_of_many_datagrams_goes_out_whole_and_its_buffers_come_back() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        b.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut out = Outgoing::new(a.as_raw_fd());
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
        let mut out = Outgoing::new(socket.as_raw_fd());
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
            drain_errors(socket.as_raw_fd(), |to| named.push(to));
        }
        assert_eq!((named, dropped), (vec![gone], 0));
    }

    #[test]
    fn a_datagram_that_no_network_takes_comes_back_and_does_not_hold_up_the_next() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (to, nobody) = (b.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
        let mut out = Outgoing::new(a.as_raw_fd());
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
