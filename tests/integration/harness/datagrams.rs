//! A party that is no more than a UDP port, for tests that speak for it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};

use super::client::ANSWER_MAX;

/// Repeats what a signal has cut short. A read with a timeout ends so even when the process is merely stopped and
/// continued, as machines under load and those that are moved do with it (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The port.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Takes a port. What is received from it has to come within `ANSWER_MAX`.
    pub fn bind(at: SocketAddr) -> Self {
        let udp = UdpSocket::bind(at).expect("a free port");
        udp.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout above zero");
        Self(udp)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Sends a message.
    pub fn send(&self, to: SocketAddr, message: &str) {
        self.0.send_to(message.as_bytes(), to).expect("loopback");
    }

    /// The next message, and who sent it.
    pub fn receive(&self) -> (String, SocketAddr) {
        let mut bytes = [0; 65_536];
        let (len, from) = uninterrupted(|| self.0.recv_from(&mut bytes)).expect("a message in time");
        (String::from_utf8(bytes[..len].to_vec()).expect("text"), from)
    }
}
