//! Many datagrams for one call into the system, so that one core of callers outruns a proxy on another.
//!
//! Owns: the sockets, each connected to the proxy, and their batches. Must not touch: SIP.

use super::texts::Outbox;
use crate::scenario::Ended;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

const BATCH_COUNT_MAX: usize = 64;
/// No message of these calls comes near it.
const DATAGRAM_LEN_MAX: usize = 4_096;
/// What a socket is asked to hold, as far as the system lets it.
const RECEIVE_BUFFER_LEN: usize = 4 * 1024 * 1024;

struct End {
    socket: UdpSocket,
    addr: SocketAddr,
    /// Whether something may be there to be read.
    is_ready: bool,
}

pub struct Wire {
    poll: Poll,
    events: Events,
    ends: Vec<End>,
    sending: MultiHeaders<SockaddrIn>,
    receiving: MultiHeaders<SockaddrIn>,
    bytes: Vec<u8>,
    lens: SmallVec<[usize; BATCH_COUNT_MAX]>,
    /// Datagrams that the system did not take.
    pub unsent: u64,
}

impl Wire {
    /// # Errors
    /// There is no epoll.
    pub fn new() -> Ended<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(256),
            ends: Vec::new(),
            sending: MultiHeaders::preallocate(BATCH_COUNT_MAX, None),
            receiving: MultiHeaders::preallocate(BATCH_COUNT_MAX, None),
            bytes: vec![0; BATCH_COUNT_MAX * DATAGRAM_LEN_MAX],
            lens: SmallVec::new(),
            unsent: 0,
        })
    }

    /// One more socket, at `addr` and connected to the proxy; says where it is.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn open(&mut self, addr: SocketAddr, proxy: SocketAddr) -> Ended<SocketAddr> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Less is the system's choice; what did not fit is in the report.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN).ok();
        socket.bind(&SockAddr::from(addr)).map_err(|fault| format!("{addr}: {fault}"))?;
        socket.connect(&SockAddr::from(proxy))?;
        let mut socket = UdpSocket::from_std(socket.into());
        let addr = socket.local_addr()?;
        self.poll.registry().register(&mut socket, Token(self.ends.len()), Interest::READABLE)?;
        self.ends.push(End { socket, addr, is_ready: false });
        Ok(addr)
    }

    /// Where the sockets are, in order.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.ends.iter().map(|end| end.addr).collect()
    }

    /// Waits until something comes, for so long at most; not at all while something may be there already.
    ///
    /// # Errors
    /// The poll fails.
    pub fn wait(&mut self, wait: Duration) -> Ended<()> {
        let wait = if self.ends.iter().any(|end| end.is_ready) { Duration::ZERO } else { wait };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(fault) if fault.kind() != std::io::ErrorKind::Interrupted => return Err(fault.into()),
            _ => {}
        }
        for event in &self.events {
            self.ends[event.token().0].is_ready = true;
        }
        Ok(())
    }

    /// The first socket from `from` on that may have something to be read.
    pub fn ready(&self, from: usize) -> Option<usize> {
        (from..self.ends.len()).find(|at| self.ends[*at].is_ready)
    }

    /// Takes one batch of datagrams from a socket.
    pub fn receive(&mut self, socket: usize) -> impl Iterator<Item = &[u8]> {
        let end = &mut self.ends[socket];
        self.lens.clear();
        {
            let mut chunks = self.bytes.chunks_exact_mut(DATAGRAM_LEN_MAX);
            let slices: [[IoSliceMut<'_>; 1]; BATCH_COUNT_MAX] =
                std::array::from_fn(|_| [IoSliceMut::new(chunks.next().expect("as many as the batch"))]);
            let fd = end.socket.as_raw_fd();
            // A pending error of the socket (ICMP) is taken by the call that tells of it; what waits is read next time.
            match recvmmsg(fd, &mut self.receiving, slices.iter(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(received) => self.lens.extend(received.map(|one| one.bytes)),
                Err(fault) => end.is_ready = fault != nix::errno::Errno::EAGAIN,
            }
        }
        // With fewer than a whole batch the socket is empty, and what comes later is told anew.
        end.is_ready &= self.lens.is_empty() || self.lens.len() == BATCH_COUNT_MAX;
        self.lens.iter().zip(self.bytes.chunks_exact(DATAGRAM_LEN_MAX)).map(|(len, bytes)| &bytes[..*len])
    }

    /// Sends all that waits, in order.
    pub fn send(&mut self, outbox: &mut Outbox) {
        let mut batch: SmallVec<[[IoSlice<'_>; 1]; BATCH_COUNT_MAX]> = SmallVec::new();
        let mut of = 0;
        for (socket, bytes) in outbox.datagrams() {
            if batch.len() == BATCH_COUNT_MAX || (socket != of && !batch.is_empty()) {
                self.unsent += send_batch(&self.ends[of].socket, &mut self.sending, &batch);
                batch.clear();
            }
            of = socket;
            batch.push([IoSlice::new(bytes)]);
        }
        if !batch.is_empty() {
            self.unsent += send_batch(&self.ends[of].socket, &mut self.sending, &batch);
        }
        drop(batch);
        outbox.clear();
    }
}

/// Says how many the system did not take.
fn send_batch(socket: &UdpSocket, headers: &mut MultiHeaders<SockaddrIn>, batch: &[[IoSlice<'_>; 1]]) -> u64 {
    const NO_ADDRS: [Option<SockaddrIn>; BATCH_COUNT_MAX] = [None; BATCH_COUNT_MAX];
    const NO_CONTROL: [ControlMessage<'static>; 0] = [];
    let (mut from, mut unsent, mut is_second) = (0, 0, false);
    while from < batch.len() {
        match sendmmsg(socket.as_raw_fd(), headers, &batch[from..], NO_ADDRS, NO_CONTROL, MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => {
                from += sent.count().max(1);
                is_second = false;
            }
            // An ICMP error of an earlier datagram comes with this one, which has not gone then.
            Err(_) if !is_second => is_second = true,
            Err(_) => {
                (from, unsent, is_second) = (from + 1, unsent + 1, false);
            }
        }
    }
    unsent
}

/// How many datagrams the system has dropped at sockets of these addresses, for want of room.
pub fn dropped(addrs: &[SocketAddr]) -> u64 {
    dropped_in(&std::fs::read_to_string("/proc/net/udp").unwrap_or_default(), addrs)
}

fn dropped_in(table: &str, addrs: &[SocketAddr]) -> u64 {
    let names: Vec<String> = addrs.iter().filter_map(|addr| name_in_table(*addr)).collect();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|words| words.get(1).is_some_and(|word| names.iter().any(|name| name == word)));
    ours.filter_map(|words| words.last()?.parse::<u64>().ok()).sum()
}

fn name_in_table(addr: SocketAddr) -> Option<String> {
    let SocketAddr::V4(addr) = addr else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_le_bytes(addr.ip().octets()), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_to_the_proxy_and_answers_come_back_in_order() {
        let proxy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut wire = Wire::new().unwrap();
        for _ in 0..2 {
            wire.open("127.0.0.1:0".parse().unwrap(), proxy.local_addr().unwrap()).unwrap();
        }
        let mut outbox = Outbox::default();
        for nth in 0..70_u8 {
            outbox.push(usize::from(nth >= 68), |out| out.extend_from_slice(&[nth; 5]));
        }
        for _ in 0..2 {
            wire.send(&mut outbox);
        }
        assert_eq!((wire.unsent, outbox.datagrams().count()), (0, 0));
        let mut buffer = [0; 9];
        for nth in 0..70_u8 {
            let (len, from) = proxy.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&[nth; 5][..], wire.addrs()[usize::from(nth >= 68)]));
            proxy.send_to(&buffer[..len], from).unwrap();
        }
        let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 2];
        while got.iter().map(Vec::len).sum::<usize>() < 70 {
            wire.wait(Duration::from_secs(5)).unwrap();
            let socket = wire.ready(0).expect("something came within 5 s");
            got[socket].extend(wire.receive(socket).map(<[u8]>::to_vec));
        }
        let expected = |range: std::ops::Range<u8>| range.map(|nth| vec![nth; 5]).collect::<Vec<_>>();
        assert_eq!(got, [expected(0..68), expected(68..70)]);
    }

    #[test]
    fn drops_are_those_of_the_sockets_asked_for() {
        let table = "  sl  local_address rem_address   st\n\
            1: 0100007F:1B58 00000000:0000 07 0:0 00:0 0 0 0 5 2 0 17\n\
            2: 0100017F:1B58 00000000:0000 07 0:0 00:0 0 0 0 5 2 0 4\n";
        let addrs = ["127.1.0.1:7000", "127.0.0.1:7001"].map(|addr| addr.parse().unwrap());
        assert_eq!(dropped_in(table, &addrs), 4);
    }
}
