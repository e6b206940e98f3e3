//! The sending and the receiving party, which are plain sockets: a phone's UDP port and its connection to each proxy,
//! and a SIP Server's UDP port. What arrives anywhere comes out of one queue.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::arrived::message_len;
use super::corpus::{Side, Transport};
use crate::harness::datagrams::uninterrupted;

/// A message, from which of the two proxies, and at which side it arrived.
pub struct Arrival {
    pub proxy: usize,
    pub side: Side,
    pub bytes: Vec<u8>,
}

/// The two parties.
pub struct Parties {
    pub phone: UdpSocket,
    pub server: UdpSocket,
    proxies: [SocketAddr; 2],
    connections: Vec<TcpStream>,
    arrivals: Receiver<Arrival>,
}

impl Parties {
    /// Binds the phone's port, takes the server's, and connects to both proxies.
    pub fn new(server: UdpSocket, proxies: [SocketAddr; 2]) -> Self {
        let phone = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let (tell, arrivals) = channel();
        for (socket, side) in [(&phone, Side::Phone), (&server, Side::Server)] {
            let (socket, tell) = (socket.try_clone().expect("a descriptor"), tell.clone());
            std::thread::spawn(move || read_datagrams(&socket, side, &proxies, &tell));
        }
        let connect = |(proxy, &to): (usize, &SocketAddr)| {
            let stream = TcpStream::connect(to).expect("the proxy listens");
            stream.set_nodelay(true).expect("a socket option");
            let (reader, tell) = (stream.try_clone().expect("a descriptor"), tell.clone());
            std::thread::spawn(move || read_stream(reader, proxy, &tell));
            stream
        };
        let connections = proxies.iter().enumerate().map(connect).collect();
        Self { phone, server, proxies, connections, arrivals }
    }

    /// The port of the phone's connection to a proxy.
    pub fn port_at(&self, proxy: usize) -> u16 {
        self.connections[proxy].local_addr().expect("it is connected").port()
    }

    /// The next message; `None` when none comes.
    pub fn next(&self, within: Duration) -> Option<Arrival> {
        self.arrivals.recv_timeout(within).ok()
    }

    /// Sends a message of this side to a proxy; between SIP Server and proxy there is UDP alone.
    pub fn send(&mut self, side: Side, transport: Transport, proxy: usize, bytes: &[u8]) {
        // A proxy that has closed its connection shows in what does not arrive.
        let _ = match (side, transport) {
            (Side::Server, _) => self.server.send_to(bytes, self.proxies[proxy]).map(drop),
            (Side::Phone, Transport::Udp) => self.phone.send_to(bytes, self.proxies[proxy]).map(drop),
            (Side::Phone, Transport::Tcp) => self.connections[proxy].write_all(bytes),
        };
    }
}

impl Drop for Parties {
    fn drop(&mut self) {
        for connection in &self.connections {
            // The reader of a connection ends with it. The readers of the ports end with the test's process.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn read_datagrams(socket: &UdpSocket, side: Side, proxies: &[SocketAddr; 2], tell: &Sender<Arrival>) {
    let mut bytes = vec![0; 65_536];
    while let Ok((len, from)) = uninterrupted(|| socket.recv_from(&mut bytes)) {
        let Some(proxy) = proxies.iter().position(|&known| known == from) else { continue };
        if tell.send(Arrival { proxy, side, bytes: bytes[..len].to_vec() }).is_err() {
            return;
        }
    }
}

fn read_stream(mut stream: TcpStream, proxy: usize, tell: &Sender<Arrival>) {
    let (mut received, mut bytes) = (Vec::new(), [0; 16_384]);
    while let Ok(len @ 1..) = uninterrupted(|| stream.read(&mut bytes)) {
        received.extend_from_slice(&bytes[..len]);
        while let Some(len) = message_len(&received) {
            let bytes = received.drain(..len).collect();
            if tell.send(Arrival { proxy, side: Side::Phone, bytes }).is_err() {
                return;
            }
        }
    }
}
