//! The sockets of DNS questions: one for each, over UDP or TCP, from a port of the system's choice.
//!
//! Owns: how a question leaves and what comes back. Must not touch: what they say, for how long they are waited for.
//!
//! A UDP socket is connected, so that the system passes on datagrams of the resolver only, and tells at once when
//! nobody listens there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpStream, UdpSocket};

use crate::sys;
use crate::transport::socket;

/// The longest datagram that is read: more than a resolver is told to send, and what is longer is malformed then.
const DATAGRAM_LEN_MAX: usize = 4_096;

/// Asks, and reports whatever comes in to `heard`, until it is dropped or the socket fails, which is what it returns.
pub async fn ask(to: SocketAddr, tcp: bool, question: Vec<u8>, heard: impl FnMut(SocketAddr, &[u8])) -> io::Error {
    let asked = if tcp { over_tcp(to, question, heard).await } else { over_udp(to, &question, heard).await };
    match asked {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

enum Never {}

async fn over_udp(to: SocketAddr, question: &[u8], mut heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<Never> {
    let socket: UdpSocket = sys::adopt(socket::dns_udp(to)?);
    sys::send(socket.as_raw_fd(), question)?;
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        heard(from, &buffer[..len]);
        glommio::yield_if_needed().await;
    }
}

async fn over_tcp(to: SocketAddr, question: Vec<u8>, mut heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<Never> {
    let mut stream: TcpStream = sys::adopt(socket::dns_tcp(to)?);
    let len = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend(question);
    stream.write_all(&framed).await?;
    let mut answer = Vec::new();
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len).await?;
        answer.resize(usize::from(u16::from_be_bytes(len)), 0);
        stream.read_exact(&mut answer).await?;
        heard(to, &answer);
        glommio::yield_if_needed().await;
    }
}
