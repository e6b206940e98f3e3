//! A phone's or a device's end of a connection that a test drives message by message.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};

use super::certs::Certificates;
use super::datagrams::uninterrupted;
use super::ports::unread_len;
use super::text::field;

/// How long a message may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A phone's end of a connection, over TCP or TLS.
pub struct Client {
    tcp: TcpStream,
    tls: Option<Connection>,
    received: Vec<u8>,
}

impl Client {
    /// Connected to the proxy.
    pub fn tcp(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).expect("the proxy listens"))
    }

    /// The same from an address of this host.
    pub fn tcp_from(own: IpAddr, to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(own, 0).into()).expect("an address of loopback");
        socket.connect(&to.into()).expect("the proxy listens");
        Self::over(socket.into())
    }

    fn over(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).expect("a socket option");
        tcp.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout above zero");
        Self { tcp, tls: None, received: Vec::new() }
    }

    /// Connected to the proxy, whose certificate must carry the address.
    pub fn tls(to: SocketAddr, certificates: &Certificates) -> Self {
        Self::tcp(to).secured(to.ip(), certificates)
    }

    /// Speaks TLS from now on, to who has a certificate with that address.
    pub fn secured(mut self, ip: IpAddr, certificates: &Certificates) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificates.ca).expect("PEM")).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::from(ip);
        let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.tcp).expect("a handshake");
        }
        self.tls = Some(tls.into());
        self
    }

    /// A device's end of the connection that the proxy opens to it. With certificates it speaks TLS.
    ///
    /// # Errors
    /// The proxy breaks the handshake off.
    pub fn accept(listener: &TcpListener, certificates: Option<&Certificates>) -> std::io::Result<Self> {
        let mut client = Self::over(accept(listener).expect("the proxy connects in time"));
        if let Some(Certificates { certificate, key, .. }) = certificates {
            let chain = vec![CertificateDer::from_pem_file(certificate).expect("PEM")];
            let key = PrivateKeyDer::from_pem_file(key).expect("PEM");
            let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
            let mut tls = ServerConnection::new(Arc::new(config.expect("a pair"))).expect("a server");
            while tls.is_handshaking() {
                tls.complete_io(&mut client.tcp)?;
            }
            client.tls = Some(tls.into());
        }
        Ok(client)
    }

    /// The bytes as they go into the connection: with TLS, a record.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return plain.to_vec() };
        let mut sealed = Vec::new();
        tls.writer().write_all(plain).expect("room in a record");
        while tls.wants_write() {
            tls.write_tls(&mut sealed).expect("a Vec takes all");
        }
        sealed
    }

    /// Sends bytes as one segment and waits until the proxy has read them, so that the next are a segment and a read of
    /// their own.
    pub fn send_and_be_read(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("the connection is open");
        let (ours, theirs) = (self.tcp.local_addr().expect("ours"), self.tcp.peer_addr().expect("theirs"));
        let deadline = Instant::now() + ANSWER_MAX;
        while unread_len(theirs.port(), ours.port()).expect("the connection is open") > 0 {
            assert!(Instant::now() < deadline, "the proxy does not read");
            std::thread::yield_now();
        }
    }

    /// The connection alone.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// The phone's address and port.
    pub fn local_addr(&self) -> SocketAddr {
        self.tcp.local_addr().expect("it is connected")
    }

    /// Sends a message.
    pub fn send(&mut self, message: &str) {
        let bytes = self.seal(message.as_bytes());
        self.tcp.write_all(&bytes).expect("the connection is open");
    }

    /// The next message that is no 100. On a machine that is busy enough, a 100 may come first (RFC 4320 §4.1).
    pub fn receive(&mut self) -> String {
        loop {
            if let Some(len) = message_len(&self.received) {
                let message = self.received.drain(..len).collect();
                let message = String::from_utf8(message).expect("text");
                if message.starts_with("SIP/2.0 100 ") {
                    continue;
                }
                return message;
            }
            let mut bytes = [0; 4096];
            let len = match &mut self.tls {
                None => uninterrupted(|| self.tcp.read(&mut bytes)).expect("bytes in time"),
                Some(tls) => match tls.reader().read(&mut bytes) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        let len = uninterrupted(|| tls.read_tls(&mut self.tcp)).expect("bytes in time");
                        assert!(len > 0, "closed");
                        tls.process_new_packets().expect("records");
                        continue;
                    }
                    read => read.expect("bytes"),
                },
            };
            assert!(len > 0, "the proxy has closed the connection");
            self.received.extend_from_slice(&bytes[..len]);
        }
    }
}

/// The next connection; `None` when none comes in time.
fn accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).expect("a socket option");
    let deadline = Instant::now() + ANSWER_MAX;
    while Instant::now() < deadline {
        if let Ok((tcp, _)) = listener.accept() {
            tcp.set_nonblocking(false).expect("a socket option");
            return Some(tcp);
        }
        std::thread::yield_now();
    }
    None
}

/// The length of the first whole message.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(bytes).expect("text");
    let head = text.find("\r\n\r\n")? + 4;
    let body: usize = field(&text[..head], "Content-Length").map_or(0, |len| len.parse().expect("a length"));
    (bytes.len() >= head + body).then_some(head + body)
}
