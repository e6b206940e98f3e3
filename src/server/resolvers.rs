//! Which resolvers are asked (`dns.servers`, or those of resolv.conf), and asking one where no executor runs.
//!
//! Owns: the plain, blocking sockets of `--check` and `pool-zone`. Must not touch: what a question or an answer says
//! (`dns::wire`). The shards' own sockets are those of `dns::socket`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::config;
use crate::config::engine::DnsSettings;

/// Where the system names its resolvers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// A resolver is told to send less.
const DATAGRAM_LEN_MAX: usize = 4_096;

/// Read once, at start. Without any, no name resolves.
pub fn settings(config: &config::Dns) -> DnsSettings {
    let resolvers = if config.servers.is_empty() {
        // A host without that file has no resolver, which is no fault as long as no name is used.
        system().unwrap_or_default()
    } else {
        config.servers.clone()
    };
    DnsSettings { resolvers, ttl_stale: config.ttl_stale }
}

/// The resolvers that the system uses; perhaps none.
///
/// # Errors
/// The file cannot be read.
pub fn system() -> io::Result<Vec<SocketAddr>> {
    Ok(parse(&std::fs::read_to_string(RESOLV_CONF)?))
}

/// Asks, and hands on whatever the resolver sends, until `heard` says that this is enough.
///
/// # Errors
/// The socket fails, or it is not enough after `wait_max`.
pub fn ask(
    to: SocketAddr,
    tcp: bool,
    question: &[u8],
    wait_max: Duration,
    heard: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let until = Instant::now() + wait_max;
    if tcp { over_tcp(to, question, until, heard) } else { over_udp(to, question, until, heard) }
}

fn over_udp(to: SocketAddr, question: &[u8], until: Instant, mut heard: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // The system passes on only what the resolver sends then.
    socket.connect(to)?;
    socket.send(question)?;
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        let len = match socket.recv(&mut buffer) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if heard(&buffer[..len]) {
            return Ok(());
        }
    }
}

fn over_tcp(to: SocketAddr, question: &[u8], until: Instant, mut heard: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, left(until)?)?;
    stream.set_write_timeout(Some(left(until)?))?;
    let len = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), question].concat())?;
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut answer)?;
        if heard(&answer) {
            return Ok(());
        }
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The `nameserver` lines of resolv.conf(5). Search lists and options do not matter here: the names that are asked for
/// are whole ones. An address that names an interface (`fe80::1%eth0`) is left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        resolvers.extend(address.map(|address| SocketAddr::new(address, PORT)).filter(|a| !resolvers.contains(a)));
    }
    resolvers
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nameservers_are_read_in_their_order_and_the_rest_is_passed_over() {
        let text = "# nameserver 10.0.0.9\n; nameserver 10.0.0.8\nsearch example.com\nnameserver 10.0.0.2\n\
                    nameserver\t2001:db8::1   # ours\n nameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\n\
                    nameserver ns.example.com\nnameserver 10.0.0.2\noptions timeout:1\nnameservers 10.0.0.7\n";
        let expected = ["10.0.0.2:53", "[2001:db8::1]:53", "10.0.0.1:53"];
        assert_eq!(parse(text), expected.map(|address| address.parse().unwrap()));
        assert!(parse("").is_empty());
    }

    #[test]
    fn what_is_configured_comes_instead_of_the_system_s() {
        let servers = vec!["127.0.0.1:5353".parse().unwrap()];
        let found = settings(&config::Dns { servers: servers.clone(), ttl_stale: Duration::from_secs(7) });
        assert_eq!((found.resolvers, found.ttl_stale), (servers, Duration::from_secs(7)));
    }
}
