//! The sockets of DNS questions: one for each, over UDP or TCP, from a port of the system's choice.
//!
//! Owns: how a question leaves and what comes back. Must not touch: what they say, for how long they are waited for.
//!
//! A UDP socket is connected, so that the system passes on datagrams of the resolver only, and tells at once when
//! nobody listens there.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::sys;
use crate::transport::socket;

/// The longest datagram that is read: more than a resolver is told to send, and what is longer is malformed then.
const DATAGRAM_LEN_MAX: usize = 4_096;
/// Reads of one turn: a resolver that floods has the rest of its say in the next.
const READS_MAX: usize = 8;
/// What goes before a message over TCP (RFC 1035 §4.2.2).
const PREFIX_LEN: usize = 2;

/// A question in the air.
pub trait Asked {
    /// Goes on as far as the socket lets it: sends what is left of the question, and hands each answer to `heard`. Says
    /// whether there may be more to read at once.
    ///
    /// # Errors
    /// What ended the exchange: what the system says, or `UnexpectedEof` when the resolver has closed.
    fn proceed(&mut self, heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<bool>;
}

/// A question over a socket of the system.
#[derive(Debug)]
pub struct Question {
    socket: Socket,
    to: SocketAddr,
    over: Over,
}

#[derive(Debug)]
enum Over {
    Udp,
    /// What of the question has not gone, and what of the answers has come.
    Tcp {
        unsent: Vec<u8>,
        came: Vec<u8>,
    },
}

impl Question {
    /// Asks.
    ///
    /// # Errors
    /// What the system says at once.
    pub fn ask(to: SocketAddr, tcp: bool, question: &[u8]) -> io::Result<Self> {
        if !tcp {
            let socket = socket::dns_udp(to)?;
            sys::send(socket.as_raw_fd(), question)?;
            return Ok(Self { socket, to, over: Over::Udp });
        }
        let len = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let unsent = [&len.to_be_bytes(), question].concat();
        Ok(Self { socket: socket::dns_tcp(to)?, to, over: Over::Tcp { unsent, came: Vec::new() } })
    }
}

impl AsRawFd for Question {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Asked for Question {
    fn proceed(&mut self, mut heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<bool> {
        if let Over::Tcp { unsent, .. } = &mut self.over
            && !send_on(&self.socket, unsent)?
        {
            return Ok(false);
        }
        let mut buffer = [0; DATAGRAM_LEN_MAX];
        for _ in 0..READS_MAX {
            let len = match self.socket.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match &mut self.over {
                Over::Udp => heard(self.to, &buffer[..len]),
                Over::Tcp { .. } if len == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Over::Tcp { came, .. } => {
                    came.extend_from_slice(&buffer[..len]);
                    let mut at = 0;
                    while let Some(message) = message_at(&came[at..]) {
                        heard(self.to, message);
                        at += PREFIX_LEN + message.len();
                    }
                    came.drain(..at);
                }
            }
        }
        Ok(true)
    }
}

/// Says whether all has gone.
fn send_on(socket: &Socket, unsent: &mut Vec<u8>) -> io::Result<bool> {
    while !unsent.is_empty() {
        match sys::send(socket.as_raw_fd(), unsent) {
            Ok(len) => drop(unsent.drain(..len)),
            // A connection that is still under way has no room either.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The whole message that stands at the beginning, if it has come.
fn message_at(came: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = came.split_first_chunk::<PREFIX_LEN>()?;
    rest.get(..usize::from(u16::from_be_bytes(*prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, UdpSocket};
    use std::time::{Duration, Instant};

    /// Goes on until so many answers have been heard, or the exchange ends.
    fn until(question: &mut Question, count: usize) -> io::Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = Vec::new();
        while all.len() < count {
            question.proceed(|_, answer| all.push(answer.to_vec()))?;
            assert!(Instant::now() < deadline, "{all:?}");
        }
        Ok(all)
    }

    #[test]
    fn over_udp_each_datagram_is_an_answer_and_a_closed_port_ends_the_exchange() {
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = resolver.local_addr().unwrap();
        let mut question = Question::ask(to, false, b"who?").unwrap();
        let mut buffer = [0; 16];
        let (len, from) = resolver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"who?");
        resolver.send_to(b"one", from).unwrap();
        resolver.send_to(b"two", from).unwrap();
        assert_eq!(until(&mut question, 2).unwrap(), [b"one", b"two"]);
        drop(resolver);
        let refused = Question::ask(to, false, b"who?").and_then(|mut question| until(&mut question, 1));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn over_tcp_messages_are_told_apart_however_they_are_cut_and_the_end_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut question = Question::ask(listener.local_addr().unwrap(), true, b"who?").unwrap();
        let (mut resolver, _) = listener.accept().unwrap();
        let mut answers = Vec::new();
        while resolver.set_nonblocking(true).is_ok() && answers.len() < 6 {
            question.proceed(|_, _| panic!("nobody has said anything")).unwrap();
            let mut byte = [0; 6];
            answers.extend(resolver.read(&mut byte).map(|len| byte[..len].to_vec()).unwrap_or_default());
        }
        assert_eq!(answers, b"\0\x04who?");
        let (long, mut wire) = (vec![7; 9_000], vec![0, 3]);
        wire.extend(b"one");
        wire.extend(u16::try_from(long.len()).unwrap().to_be_bytes());
        wire.extend(&long);
        resolver.set_nonblocking(false).unwrap();
        let mut heard = Vec::new();
        for part in wire.chunks(1_000) {
            resolver.write_all(part).unwrap();
            question.proceed(|_, answer| heard.push(answer.to_vec())).unwrap();
        }
        heard.extend(until(&mut question, 2 - heard.len()).unwrap());
        assert_eq!(heard, [b"one".to_vec(), long]);
        drop(resolver);
        assert_eq!(until(&mut question, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
