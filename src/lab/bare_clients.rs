//! Bare TLS clients beside the phones, in a thread of their own, so that what it costs to play them does not hold up the
//! calls: those that only shake hands, and those that do as badly as they can.
//!
//! Owns: their sockets and sessions. Must not touch: calls and phones. [`BareClients::open`] says what the thread opens,
//! and [`Fact`]s what became of that.
//!
//! The clients come from addresses of their own (127.0.1.x for a proxy on loopback), for a proxy bounds what one source may
//! hold.

use crate::net::TlsSettings;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

const TURN: Duration = Duration::from_millis(2);
const DRIP_EVERY: Duration = Duration::from_secs(1);
/// What a deaf peer lets pile up in its own socket.
const DEAF_RECEIVE_LEN: usize = 4 * 1024;
/// The Call-ID of its requests, which comes back in each answer.
const DEAF_CALL_ID_LEN: usize = 12 * 1024;
/// Connections that are begun before the others get their turn.
const BEGUN_PER_TURN_MAX: usize = 256;
const READ_LEN: usize = 16 * 1024;

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Shakes hands, and stays.
    Guest,
    /// Shakes hands, and goes.
    Passer,
    /// Sends half of its ClientHello, and no more.
    Mute,
    /// Shakes hands, and then sends a request one byte a second.
    Slow,
    /// Shakes hands, asks for so many answers of 12 KiB, and reads none.
    Deaf(u32),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, as it was meant to.
    Left,
    /// The proxy closed it, with a close_notify or without.
    Closed,
    /// The proxy reset it, or never took it.
    Reset,
    /// TLS failed.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Failed(why) => why,
        })
    }
}

/// What became of a peer.
#[derive(Clone, Debug)]
pub struct Fact {
    pub kind: Kind,
    /// When it began to connect.
    pub began: Instant,
    pub at: Instant,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The peer's connection stands as far as it will (for all but the mute: the handshake is done), and this is the
    /// certificate that it was shown.
    Stands {
        certificate: u64,
    },
    Ended {
        stood: bool,
        how: End,
    },
}

/// The mark of a certificate, as [`What::Stands`] has it.
pub fn mark(der: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    der.hash(&mut hasher);
    hasher.finish()
}

/// A handle on the thread, which ends when this is dropped.
pub struct BareClients {
    orders: Sender<(Kind, u32)>,
    facts: Receiver<Fact>,
}

impl BareClients {
    /// Starts the thread.
    ///
    /// # Errors
    /// There are no TLS settings for clients, or no poll.
    pub fn start(proxy: SocketAddr, tls: &TlsSettings, sources: Vec<IpAddr>) -> Result<Self, Box<dyn Error>> {
        let config = tls.client.clone().ok_or("TLS client settings (--ca) missing")?;
        let name = tls.peer_name.clone().unwrap_or(ServerName::IpAddress(proxy.ip().into()));
        let (orders, ordered) = channel();
        let (tell, facts) = channel();
        let sources = match (sources.is_empty(), proxy.ip()) {
            (true, IpAddr::V4(ip)) if ip.is_loopback() => {
                (1..=32).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 1, last))).collect()
            }
            _ => sources,
        };
        let poll = Poll::new()?;
        let mut thread =
            Thread { poll, peers: Slab::new(), proxy, config, name, sources, waiting: Vec::new(), begun: 0, tell };
        std::thread::Builder::new().name("bare-clients".into()).spawn(move || thread.run(&ordered))?;
        Ok(Self { orders, facts })
    }

    /// Lets so many more of a kind come at once.
    pub fn open(&self, kind: Kind, count: u32) {
        // A thread that has ended shows in the facts, which no longer come.
        self.orders.send((kind, count)).ok();
    }

    /// What has happened since the last call.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn facts(&self) -> Result<Vec<Fact>, Box<dyn Error>> {
        let mut all = Vec::new();
        loop {
            match self.facts.try_recv() {
                Ok(fact) => all.push(fact),
                Err(TryRecvError::Empty) => return Ok(all),
                Err(TryRecvError::Disconnected) => return Err("the thread of the bare clients has ended".into()),
            }
        }
    }
}

struct Peer {
    kind: Kind,
    stream: TcpStream,
    tls: ClientConnection,
    began: Instant,
    is_connected: bool,
    stood: bool,
    unsent: Vec<u8>,
    /// The rest of what a slow one has to say.
    to_say: &'static [u8],
    next_drip: Instant,
}

struct Thread {
    poll: Poll,
    peers: Slab<Peer>,
    proxy: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    sources: Vec<IpAddr>,
    waiting: Vec<(Kind, u32, Instant)>,
    begun: usize,
    tell: Sender<Fact>,
}

const SLOW_REQUEST: &[u8] =
    b"OPTIONS sip:slow@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bKslow\r\n\
    Max-Forwards: 70\r\nFrom: <sip:slow@example.com>;tag=1\r\nTo: <sip:slow@example.com>\r\n";

impl Thread {
    fn run(&mut self, ordered: &Receiver<(Kind, u32)>) {
        let mut events = Events::with_capacity(1_024);
        let mut swept = Instant::now();
        loop {
            loop {
                match ordered.try_recv() {
                    // Connections count from here, for that is when all of them come.
                    Ok((kind, count)) => self.waiting.push((kind, count, Instant::now())),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.begin();
            let wait = if self.waiting.is_empty() { TURN } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(fault) if fault.kind() != ErrorKind::Interrupted => return,
                _ => {}
            }
            let ready: Vec<(usize, bool)> = events
                .iter()
                .map(|event| (event.token().0, event.is_error() || event.is_read_closed() || event.is_write_closed()))
                .collect();
            for (at, is_over) in ready {
                self.on_ready(at, is_over);
            }
            if swept.elapsed() >= DRIP_EVERY / 10 {
                swept = Instant::now();
                self.drip(swept);
            }
        }
    }

    fn begin(&mut self) {
        let mut left = BEGUN_PER_TURN_MAX;
        while left > 0
            && let Some(at) = self.waiting.len().checked_sub(1)
        {
            let (kind, count, began) = self.waiting[at];
            if count == 0 {
                self.waiting.pop();
                continue;
            }
            self.waiting[at].1 = count - 1;
            left -= 1;
            if let Err(fault) = self.connect(kind, began) {
                self.say(kind, began, What::Ended { stood: false, how: End::Failed(fault.to_string()) });
            }
        }
    }

    fn connect(&mut self, kind: Kind, began: Instant) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(self.proxy), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if matches!(kind, Kind::Deaf(_)) {
            socket.set_recv_buffer_size(DEAF_RECEIVE_LEN)?;
        }
        if !self.sources.is_empty() {
            let source = self.sources[self.begun % self.sources.len()];
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        self.begun += 1;
        match socket.connect(&SockAddr::from(self.proxy)) {
            Err(fault) if fault.raw_os_error() != Some(libc::EINPROGRESS) => return Err(fault),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        let tls = ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        let entry = self.peers.vacant_entry();
        self.poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Peer {
            kind,
            stream,
            tls,
            began,
            is_connected: false,
            stood: false,
            unsent: Vec::new(),
            to_say: SLOW_REQUEST,
            next_drip: began,
        });
        Ok(())
    }

    fn say(&self, kind: Kind, began: Instant, what: What) {
        // Nobody listens any more when the run is over.
        self.tell.send(Fact { kind, began, at: Instant::now(), what }).ok();
    }

    fn end(&mut self, at: usize, how: End) {
        let mut peer = self.peers.remove(at);
        // The peer's descriptor is closed right after.
        self.poll.registry().deregister(&mut peer.stream).ok();
        self.say(peer.kind, peer.began, What::Ended { stood: peer.stood, how });
    }

    fn on_ready(&mut self, at: usize, is_over: bool) {
        let Some(peer) = self.peers.get_mut(at) else { return };
        if let Ok(Some(_)) = peer.stream.take_error() {
            return self.end(at, End::Reset);
        }
        if !peer.is_connected {
            if peer.stream.peer_addr().is_err() {
                return;
            }
            peer.is_connected = true;
        }
        let is_deaf = matches!(peer.kind, Kind::Deaf(_)) && peer.stood;
        // One that does not read learns of the end by its being over alone.
        if is_deaf && is_over {
            return self.end(at, End::Closed);
        }
        let mut outcome = peer.write();
        if outcome.is_none() && !is_deaf {
            outcome = peer.read();
        }
        let has_news = !peer.stood && outcome.is_none() && peer.stands();
        if has_news {
            peer.stood = true;
            let (kind, began) = (peer.kind, peer.began);
            let certificate = peer.tls.peer_certificates().and_then(|all| all.first()).map_or(0, |der| mark(der));
            self.say(kind, began, What::Stands { certificate });
            let peer = &mut self.peers[at];
            outcome = peer.on_standing();
            // What else had come is not told again.
            if outcome.is_none() && !matches!(kind, Kind::Deaf(_)) {
                outcome = peer.read();
            }
        }
        if let Some(how) = outcome {
            self.end(at, how);
        }
    }

    fn drip(&mut self, now: Instant) {
        let due = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.stood && now >= peer.next_drip && matches!(peer.kind, Kind::Slow | Kind::Deaf(_)));
        let due: Vec<usize> = due.map(|(at, _)| at).collect();
        for at in due {
            let peer = &mut self.peers[at];
            peer.next_drip = now + DRIP_EVERY;
            let said = match peer.kind {
                Kind::Slow => match peer.to_say.split_first() {
                    Some((_, rest)) => {
                        let byte = &peer.to_say[..1];
                        peer.to_say = rest;
                        peer.tls.writer().write_all(byte)
                    }
                    None => Ok(()),
                },
                // Were its connection closed, it would hear of it in no other way.
                _ if peer.unsent.is_empty() => peer.tls.writer().write_all(b"\r\n\r\n"),
                _ => Ok(()),
            };
            let outcome = if said.is_ok() { peer.write() } else { None };
            if let Some(how) = outcome {
                self.end(at, how);
            }
        }
    }
}

impl Peer {
    fn stands(&self) -> bool {
        match self.kind {
            Kind::Mute => self.is_connected,
            _ => !self.tls.is_handshaking() && self.tls.peer_certificates().is_some(),
        }
    }

    /// What it does as soon as it stands.
    fn on_standing(&mut self) -> Option<End> {
        match self.kind {
            Kind::Guest | Kind::Mute | Kind::Slow => None,
            Kind::Passer => {
                self.tls.send_close_notify();
                Some(self.write().unwrap_or(End::Left))
            }
            Kind::Deaf(count) => {
                for nth in 0..count {
                    let long = "a".repeat(DEAF_CALL_ID_LEN);
                    let request = format!(
                        "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bKdeaf{nth}\r\n\
                         Max-Forwards: 70\r\nFrom: <sip:deaf@example.com>;tag=1\r\nTo: <sip:127.0.0.1>\r\n\
                         Call-ID: {nth}{long}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
                    );
                    // rustls keeps 64 KiB by itself; what is sealed makes room for the next.
                    self.tls.writer().write_all(request.as_bytes()).ok()?;
                    while self.tls.wants_write() {
                        self.tls.write_tls(&mut self.unsent).ok()?;
                    }
                }
                self.write()
            }
        }
    }

    /// Writes what the socket takes; says when that is the end.
    fn write(&mut self) -> Option<End> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unsent).ok()?;
        }
        // The first half of the ClientHello is all that a mute one ever says.
        let end = match (self.kind, self.stood) {
            (Kind::Mute, false) => self.unsent.len() / 2,
            (Kind::Mute, true) => 0,
            _ => self.unsent.len(),
        };
        let mut sent = 0;
        while sent < end && self.is_connected {
            match self.stream.write(&self.unsent[sent..end]) {
                Ok(len) => sent += len,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Some(End::Reset),
            }
        }
        self.unsent.drain(..sent);
        None
    }

    /// Reads all that there is; says when that is the end.
    fn read(&mut self) -> Option<End> {
        let mut bytes = [0; READ_LEN];
        loop {
            let mut rest = match self.stream.read(&mut bytes) {
                Ok(0) => return Some(End::Closed),
                Ok(len) => &bytes[..len],
                Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
                Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return None,
                Err(_) => return Some(End::Reset),
            };
            while !rest.is_empty() {
                if self.tls.read_tls(&mut rest).is_err() {
                    return Some(End::Closed);
                }
                match self.tls.process_new_packets() {
                    Ok(state) => {
                        let mut plain = vec![0; state.plaintext_bytes_to_read()];
                        // What is said to it is of no interest.
                        self.tls.reader().read_exact(&mut plain).ok();
                        if state.peer_has_closed() {
                            return Some(End::Closed);
                        }
                    }
                    Err(fault) => return Some(End::Failed(fault.to_string())),
                }
            }
            if let Some(how) = self.write() {
                return Some(how);
            }
            if self.stands() && !self.stood {
                return None;
            }
        }
    }
}
