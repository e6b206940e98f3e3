//! Sockets of the lab: UDP, TCP and TLS under one readiness loop.
//!
//! Owns: every descriptor, TLS session and byte that waits. Whoever uses it pulls [`NetEvent`]s and sends by
//! [`Link`]. Must not touch: SIP beyond framing, timers, state of phones or server.
//! An idle connection holds no buffer; a link names a connection by slot and serial, so that a slot that is
//! used again is never taken for the former connection.
//!
//! Listeners and datagram sockets stand in [`ends`], what may go wrong with them on purpose in [`faults`].

mod ends;
mod faults;

use crate::text::{self, Frame};
use ends::{Listener, UdpEnd};
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Messages that one pull pass hands out at most, so that timers and the call schedule get their turn.
const PASS_COUNT_MAX: usize = 1_024;
/// What may wait to be sent on one connection before it counts as stuck and is closed.
const SEND_QUEUE_LEN_MAX: usize = 1024 * 1024;
const READ_BUFFER_LEN: usize = 64 * 1024;
const SPARE_BUFFERS_MAX: usize = 256;

const WAKER: Token = Token(usize::MAX - 1);
const UDP_BASE: usize = 1 << 40;
const LISTENER_BASE: usize = 1 << 41;

/// The owner of every socket of the SIP Server; a phone's owner is its index.
pub const SERVER: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// As a Via names it.
    pub fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// As a URI parameter names it.
    pub fn param(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl std::str::FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            "tls" => Ok(Self::Tls),
            _ => Err(format!("{text}: expected udp, tcp or tls")),
        }
    }
}

/// One connection; never reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    slot: u32,
    serial: u32,
}

/// Where a message came from, and where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    Udp { socket: u32, peer: SocketAddr },
    Stream(ConnId),
}

impl Link {
    /// Whether what is sent may get lost, so that transactions must repeat it.
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Udp { .. })
    }
}

/// What happened; the bytes of a message are in the buffer that the puller gave.
#[derive(Debug)]
pub enum NetEvent {
    Message { owner: u32, link: Link },
    Opened { owner: u32, conn: ConnId },
    Closed { owner: u32, conn: ConnId, why: Closed },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Closed {
    ByPeer,
    Failed(ErrorKind),
    Tls(rustls::Error),
    BrokenFraming,
    Stuck,
}

/// TLS settings of both directions.
#[derive(Clone, Default)]
pub struct TlsSettings {
    pub client: Option<Arc<ClientConfig>>,
    pub server: Option<Arc<ServerConfig>>,
    /// The name that a peer's certificate must carry; its address when empty.
    pub peer_name: Option<ServerName<'static>>,
}

struct Conn {
    serial: u32,
    owner: u32,
    stream: TcpStream,
    tls: Option<Box<Connection>>,
    peer: SocketAddr,
    transport: Transport,
    is_connected: bool,
    is_open: bool,
    is_dirty: bool,
    is_ended: bool,
    received: Vec<u8>,
    read_at: usize,
    unsent: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Udp(usize),
    Accept(usize),
    Conn(usize),
}

/// All sockets of this process.
pub struct Net {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    tls: TlsSettings,
    /// By an index that is never given twice, so that what waits for a socket that is gone never meets another.
    udp: HashMap<usize, UdpEnd>,
    udp_next: usize,
    listeners: Slab<Listener>,
    conns: Slab<Conn>,
    serial: u32,
    work: VecDeque<Work>,
    done: VecDeque<NetEvent>,
    dirty: Vec<usize>,
    /// Owners whose cable has been cut.
    cut: Vec<u32>,
    read_buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
    budget: usize,
    burst: usize,
    /// Datagrams that the kernel would not take.
    pub udp_send_failures: u64,
}

impl Net {
    pub fn new(tls: TlsSettings) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            events: Events::with_capacity(1_024),
            waker,
            tls,
            udp: HashMap::new(),
            udp_next: 0,
            listeners: Slab::new(),
            conns: Slab::new(),
            serial: 0,
            work: VecDeque::new(),
            done: VecDeque::new(),
            dirty: Vec::new(),
            cut: Vec::new(),
            read_buffer: vec![0; READ_BUFFER_LEN],
            spare: Vec::new(),
            budget: 0,
            burst: 0,
            udp_send_failures: 0,
        })
    }

    /// Ends a wait from another thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Begins a connection; [`NetEvent::Opened`] follows when it is ready for messages, which may be sent at
    /// once all the same and wait.
    pub fn connect(
        &mut self,
        owner: u32,
        transport: Transport,
        peer: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<ConnId> {
        if self.cut.contains(&owner) {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        match socket.connect(&SockAddr::from(peer)) {
            Ok(()) => {}
            Err(fault) if fault.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(fault) => return Err(fault),
        }
        let tls = if transport == Transport::Tls {
            let config = self.tls.client.clone().ok_or_else(|| missing("TLS client settings (--ca)"))?;
            let name = self.tls.peer_name.clone().unwrap_or(ServerName::IpAddress(peer.ip().into()));
            Some(Box::new(Connection::Client(ClientConnection::new(config, name).map_err(io::Error::other)?)))
        } else {
            None
        };
        self.adopt(TcpStream::from_std(socket.into()), owner, transport, peer, tls, false)
    }

    fn adopt(
        &mut self,
        mut stream: TcpStream,
        owner: u32,
        transport: Transport,
        peer: SocketAddr,
        mut tls: Option<Box<Connection>>,
        is_connected: bool,
    ) -> io::Result<ConnId> {
        if let Some(tls) = &mut tls {
            // A pass may produce more than rustls keeps by itself; what is stuck is told by the same bound.
            tls.set_buffer_limit(Some(SEND_QUEUE_LEN_MAX));
        }
        self.serial = self.serial.wrapping_add(1);
        let entry = self.conns.vacant_entry();
        let slot = entry.key();
        self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        let serial = self.serial;
        entry.insert(Conn {
            serial,
            owner,
            stream,
            tls,
            peer,
            transport,
            is_connected,
            is_open: false,
            is_dirty: false,
            is_ended: false,
            received: Vec::new(),
            read_at: 0,
            unsent: Vec::new(),
        });
        Ok(ConnId { slot: u32::try_from(slot).expect("connections are bounded by descriptors"), serial })
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(id.slot as usize).filter(|conn| conn.serial == id.serial && !conn.is_ended)
    }

    /// Whether the connection still stands.
    pub fn is_alive(&self, id: ConnId) -> bool {
        self.conn(id).is_some()
    }

    /// The address that this end of a link has.
    pub fn local_addr(&self, link: Link) -> Option<SocketAddr> {
        match link {
            Link::Udp { socket, .. } => self.udp.get(&(socket as usize))?.socket.local_addr().ok(),
            Link::Stream(id) => self.conn(id)?.stream.local_addr().ok(),
        }
    }

    /// The address at the far end of a link.
    pub fn peer_addr(&self, link: Link) -> Option<SocketAddr> {
        match link {
            Link::Udp { peer, .. } => Some(peer),
            Link::Stream(id) => Some(self.conn(id)?.peer),
        }
    }

    /// The transport of a link; `None` when its connection is gone.
    pub fn transport(&self, link: Link) -> Option<Transport> {
        match link {
            Link::Udp { .. } => Some(Transport::Udp),
            Link::Stream(id) => Some(self.conn(id)?.transport),
        }
    }

    /// Ends a connection, orderly or with a reset; no [`NetEvent::Closed`] follows.
    pub fn close(&mut self, id: ConnId, abruptly: bool) {
        if self.conn(id).is_none() {
            return;
        }
        let slot = id.slot as usize;
        if abruptly {
            return self.reset(slot);
        }
        if let Some(tls) = &mut self.conns[slot].tls {
            tls.send_close_notify();
        }
        self.write_out(slot);
        // The write may have found the connection broken.
        if self.conn(id).is_some() {
            self.remove(slot);
        }
    }

    fn reset(&mut self, slot: usize) {
        // Where lingering can't be switched off the close is an orderly one, which ends the flow as well.
        socket2::SockRef::from(&self.conns[slot].stream).set_linger(Some(Duration::ZERO)).ok();
        self.remove(slot);
    }

    /// Sends one message. On a stream it waits for [`Net::flush`].
    ///
    /// Says whether there was a way to send it.
    pub fn send(&mut self, link: Link, bytes: &[u8]) -> bool {
        match link {
            Link::Udp { socket, peer } => {
                let Some(end) = self.udp.get(&(socket as usize)) else { return false };
                if self.cut.contains(&end.owner) {
                    return true;
                }
                match end.socket.send_to(bytes, peer) {
                    Ok(_) => {}
                    // The kernel's buffer is full: lost, as on a wire; transactions repeat it.
                    Err(_) => self.udp_send_failures += 1,
                }
                true
            }
            Link::Stream(id) => {
                if self.conn(id).is_none() {
                    return false;
                }
                let slot = id.slot as usize;
                let conn = &mut self.conns[slot];
                match &mut conn.tls {
                    Some(tls) => {
                        if tls.writer().write_all(bytes).is_err() {
                            self.end(slot, Closed::Stuck);
                            return false;
                        }
                    }
                    None => conn.unsent.extend_from_slice(bytes),
                }
                if !conn.is_dirty {
                    conn.is_dirty = true;
                    self.dirty.push(slot);
                }
                true
            }
        }
    }

    /// Writes what the last pass has produced: one send for each connection.
    pub fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(slot) {
                conn.is_dirty = false;
                if conn.is_connected {
                    self.write_out(slot);
                }
            }
        }
        // Whatever became dirty meanwhile was added to the fresh list.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Waits until something is ready; at once when work is left over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = if self.work.is_empty() && self.done.is_empty() { timeout } else { Duration::ZERO };
        self.budget = PASS_COUNT_MAX;
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(fault) if fault.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(fault) => return Err(fault),
        }
        let ready: Vec<(usize, bool)> =
            self.events.iter().map(|event| (event.token().0, event.is_writable())).collect();
        for (token, is_writable) in ready {
            if token == WAKER.0 {
                continue;
            }
            if token >= LISTENER_BASE {
                self.work.push_back(Work::Accept(token - LISTENER_BASE));
            } else if token >= UDP_BASE {
                let work = Work::Udp(token - UDP_BASE);
                if !self.work.contains(&work) {
                    self.work.push_back(work);
                }
            } else {
                if is_writable {
                    self.on_writable(token);
                }
                self.work.push_back(Work::Conn(token));
            }
        }
        Ok(())
    }

    /// The next event of this pass, with a message's bytes in `buffer`; `None` ends the pass.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Option<NetEvent> {
        if self.budget == 0 {
            return None;
        }
        loop {
            if let Some(event) = self.done.pop_front() {
                self.budget -= 1;
                return Some(event);
            }
            let event = match *self.work.front()? {
                Work::Udp(index) => self.receive(index, buffer),
                Work::Accept(index) => {
                    self.accept(index);
                    None
                }
                Work::Conn(slot) => self.next_message(slot, buffer),
            };
            if event.is_some() {
                self.budget -= 1;
                return event;
            }
        }
    }

    fn on_writable(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if !conn.is_connected {
            if let Ok(Some(fault)) = conn.stream.take_error() {
                return self.end(slot, Closed::Failed(fault.kind()));
            }
            if conn.stream.peer_addr().is_err() {
                return;
            }
            conn.is_connected = true;
        }
        self.write_out(slot);
        self.on_progress(slot);
    }

    /// Notes when a connection becomes ready for messages.
    fn on_progress(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let is_ready = conn.is_connected && conn.tls.as_ref().is_none_or(|tls| !tls.is_handshaking());
        if is_ready && !conn.is_open && !conn.is_ended {
            conn.is_open = true;
            let conn_id = ConnId { slot: slot as u32, serial: conn.serial };
            self.done.push_back(NetEvent::Opened { owner: conn.owner, conn: conn_id });
        }
    }

    fn write_out(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !self.cut.contains(&conn.owner)) else { return };
        if let Some(tls) = &mut conn.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut conn.unsent).is_err() {
                    break;
                }
            }
        }
        let mut sent = 0;
        while sent < conn.unsent.len() {
            match conn.stream.write(&conn.unsent[sent..]) {
                Ok(len) => sent += len,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                Err(fault) => return self.end(slot, Closed::Failed(fault.kind())),
            }
        }
        if sent == conn.unsent.len() {
            conn.unsent = Vec::new();
        } else {
            conn.unsent.drain(..sent);
            if conn.unsent.len() > SEND_QUEUE_LEN_MAX {
                self.end(slot, Closed::Stuck);
            }
        }
    }

    fn next_message(&mut self, slot: usize, buffer: &mut Vec<u8>) -> Option<NetEvent> {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.is_ended) else {
            self.work.pop_front();
            return None;
        };
        let link = Link::Stream(ConnId { slot: slot as u32, serial: conn.serial });
        loop {
            let bytes = &conn.received[conn.read_at..];
            if bytes.is_empty() {
                break;
            }
            match text::frame(bytes) {
                Frame::More => break,
                Frame::Pong(len) => conn.read_at += len,
                Frame::Ping(len) => {
                    conn.read_at += len;
                    self.send(link, b"\r\n");
                    return None;
                }
                Frame::Message(len) => {
                    buffer.clear();
                    buffer.extend_from_slice(&bytes[..len]);
                    conn.read_at += len;
                    return Some(NetEvent::Message { owner: conn.owner, link });
                }
                Frame::Broken => {
                    self.end(slot, Closed::BrokenFraming);
                    return None;
                }
            }
        }
        if conn.read_at == conn.received.len() {
            let mut empty = std::mem::take(&mut conn.received);
            conn.read_at = 0;
            if empty.capacity() > 0 && self.spare.len() < SPARE_BUFFERS_MAX {
                empty.clear();
                self.spare.push(empty);
            }
        } else if conn.read_at > 0 {
            conn.received.drain(..conn.read_at);
            conn.read_at = 0;
        }
        self.read_in(slot);
        None
    }

    /// Reads once; the connection leaves the work list when its socket is drained.
    fn read_in(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        let len = match conn.stream.read(&mut self.read_buffer) {
            Ok(0) => return self.end(slot, Closed::ByPeer),
            Ok(len) => len,
            Err(fault) if fault.kind() == ErrorKind::Interrupted => return,
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                self.work.pop_front();
                return;
            }
            Err(fault) => return self.end(slot, Closed::Failed(fault.kind())),
        };
        if conn.received.capacity() == 0 {
            conn.received = self.spare.pop().unwrap_or_default();
        }
        let Some(tls) = &mut conn.tls else {
            conn.received.extend_from_slice(&self.read_buffer[..len]);
            return;
        };
        let mut fault = None;
        let mut rest = &self.read_buffer[..len];
        while !rest.is_empty() && fault.is_none() {
            if let Err(refused) = tls.read_tls(&mut rest) {
                fault = Some(Closed::Failed(refused.kind()));
            }
            match tls.process_new_packets() {
                Ok(state) => {
                    let have = conn.received.len();
                    conn.received.resize(have + state.plaintext_bytes_to_read(), 0);
                    if tls.reader().read_exact(&mut conn.received[have..]).is_err() {
                        conn.received.truncate(have);
                    }
                    if state.peer_has_closed() && fault.is_none() {
                        fault = Some(Closed::ByPeer);
                    }
                }
                Err(refused) => fault = Some(Closed::Tls(refused)),
            }
        }
        if tls.wants_write() {
            self.write_out(slot);
        }
        match fault {
            // What came before the close_notify is still to be read; the socket says its end afterwards.
            Some(Closed::ByPeer) if !self.conns[slot].received.is_empty() => {}
            Some(why) => self.end(slot, why),
            None => self.on_progress(slot),
        }
    }

    fn end(&mut self, slot: usize, why: Closed) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.is_ended) else { return };
        let conn_id = ConnId { slot: slot as u32, serial: conn.serial };
        self.done.push_back(NetEvent::Closed { owner: conn.owner, conn: conn_id, why });
        self.remove(slot);
    }

    fn remove(&mut self, slot: usize) {
        let mut conn = self.conns.remove(slot);
        self.work.retain(|&work| work != Work::Conn(slot));
        self.dirty.retain(|&dirty| dirty != slot);
        // The descriptor is closed right after; a failure to take it out of epoll changes nothing.
        conn.stream.deregister(self.poll.registry()).ok();
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("{what} missing"))
}
