//! Ports that nobody uses, and whether somebody listens on one.
//!
//! Ports are taken from below the range that the system gives to outgoing connections, so that no connection of
//! another test takes one between the choice and the bind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port that is free on loopback for UDP and TCP, and that no other call in this process gives.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(COUNT)).expect("less than COUNT");
    for _ in 0..COUNT {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let free = |ip| TcpListener::bind((ip, port)).is_ok() && UdpSocket::bind((ip, port)).is_ok();
        if loopbacks.into_iter().all(free) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// A kind of socket in the kernel's tables.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Udp,
    Tcp,
}

/// Whether a socket is bound to this loopback port (for TCP: listens on it).
pub fn is_bound(kind: Kind, port: u16) -> bool {
    rows(kind).iter().any(|row| row.local_port == port && (matches!(kind, Kind::Udp) || row.state == "0A"))
}

/// The bytes that the kernel holds for the reader of the TCP connection from `local_port` to `remote_port`, as the
/// owner of `local_port` sees it; `None` when there is no such connection.
pub fn unread_len(local_port: u16, remote_port: u16) -> Option<u64> {
    rows(Kind::Tcp)
        .iter()
        .find(|row| row.local_port == local_port && row.remote_port == remote_port)
        .map(|row| row.receive_queue_len)
}

struct Row {
    local_port: u16,
    remote_port: u16,
    state: String,
    receive_queue_len: u64,
}

fn rows(kind: Kind) -> Vec<Row> {
    let path = match kind {
        Kind::Udp => "/proc/net/udp",
        Kind::Tcp => "/proc/net/tcp",
    };
    let table = std::fs::read_to_string(path).expect("the kernel's table of sockets");
    table.lines().skip(1).filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace().skip(1);
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let local_port = port(words.next()?)?;
    let remote_port = port(words.next()?)?;
    let state = words.next()?.to_owned();
    let queues = words.next()?;
    let receive_queue_len = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
    Some(Row { local_port, remote_port, state, receive_queue_len })
}
