//! The system's stream sockets.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::Socket;

use super::stream::StreamSocket;
use crate::sys;

/// A TCP socket that never waits.
#[derive(Debug)]
pub struct TcpSocket(Socket);

impl TcpSocket {
    /// Over a socket that is set to non-blocking.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self(socket)
    }
}

impl AsRawFd for TcpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl StreamSocket for TcpSocket {
    fn connected(&mut self) -> io::Result<()> {
        if let Some(error) = self.0.take_error()? {
            return Err(error);
        }
        match self.0.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
            other => other.map(|_| ()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, Duration)> {
        sys::stamp::read(self.0.as_raw_fd(), into)
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        sys::peek(self.0.as_raw_fd(), into)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::send(self.0.as_raw_fd(), bytes)
    }

    fn outstanding(&self) -> Option<u64> {
        sys::outgoing::unacknowledged_len(self.0.as_raw_fd()).ok()
    }

    fn silent_for(&self) -> Option<Duration> {
        sys::outgoing::silent_for(self.0.as_raw_fd()).ok()
    }

    fn shut(&mut self) {
        // A connection that is gone already needs none.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    fn abort(&mut self) {
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::socket::{self, TOS_UNSET};
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn a_connection_is_under_way_then_there_and_a_refused_one_says_so() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind(any).unwrap();
        let to = listener.local_addr().unwrap();
        let outcome = |to| {
            let mut socket = TcpSocket::new(socket::connect(any, to, TOS_UNSET).unwrap());
            loop {
                match socket.connected() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    outcome => return outcome.map(|()| socket),
                }
            }
        };
        let mut ours = outcome(to).unwrap();
        let (peer, _) = listener.accept().unwrap();
        assert_eq!(ours.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(ours.send(b"abc").unwrap(), 3);
        ours.shut();
        drop((peer, listener));
        assert_eq!(outcome(to).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
