//! Builds sockets, with all their options before they are bound.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::ids::Transport;
use crate::sys;

/// Connections that wait to be accepted; the system may cut it down (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// What a UDP socket may hold before datagrams are lost; the system may cut it down (net.core.rmem_max).
pub const UDP_BUFFER_LEN: usize = 4 << 20;
/// What the system holds of a stream connection's text that the peer does not read (it doubles this for its own use).
/// Left to itself it would take in megabytes before a send could stall.
const SEND_BUFFER_LEN: usize = 128 * 1024;
/// Silence after which the system asks whether the peer is still there, and from one question to the next.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// `TCP_USER_TIMEOUT`: silence for so long ends the connection, if a question or sent bytes are unanswered. The system
/// takes it in place of the count of questions (tcp(7)): with less, one question that is lost would end the connection of
/// a phone that is well. Who is sent something and is silent is given up sooner, in `shard`.
const USER_TIMEOUT: Duration = Duration::from_secs(45);
const _: () = assert!(
    USER_TIMEOUT.as_secs() == KEEPALIVE_IDLE.as_secs() + KEEPALIVE_COUNT as u64 * KEEPALIVE_INTERVAL.as_secs(),
    "the system's two bounds say the same"
);

/// Leaves the type of service to the system.
pub const TOS_UNSET: u32 = 256;

fn build(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// `sip-ip-tos`, when it is not [`TOS_UNSET`].
fn set_tos(socket: &SockRef<'_>, v6: bool, tos: u32) -> io::Result<()> {
    match (tos, v6) {
        (TOS_UNSET.., _) => Ok(()),
        (tos, false) => socket.set_tos_v4(tos),
        (tos, true) => socket.set_tclass_v6(tos),
    }
}

/// Whether something else listens there: binds once without SO_REUSEPORT and lets go again.
///
/// # Errors
/// `AddrInUse` when it does; what the system says otherwise (an address that is not ours, a privileged port).
pub fn probe(address: SocketAddr, transport: Transport) -> io::Result<()> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp | Transport::Tls => (Type::STREAM, Protocol::TCP),
    };
    let socket = build(address, kind, protocol)?;
    if kind == Type::STREAM {
        // Connections of a former run in TIME_WAIT do not count as something that listens.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM { socket.listen(1) } else { Ok(()) }
}

/// A listener beside those of the other shards on the same port.
///
/// # Errors
/// What the system says.
pub fn listen(address: SocketAddr, tos: u32) -> io::Result<Socket> {
    let socket = build(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted connections have all of these from their listener.
    set_tos(&SockRef::from(&socket), address.is_ipv6(), tos)?;
    set_stream_options(&SockRef::from(&socket))?;
    ask_for_stamps(&socket);
    socket.set_send_buffer_size(SEND_BUFFER_LEN)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A listener on a port of its own.
///
/// # Errors
/// What the system says.
pub fn listen_alone(address: SocketAddr) -> io::Result<Socket> {
    let socket = build(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A UDP socket beside those of the other shards on the same port.
///
/// # Errors
/// What the system says.
pub fn udp(address: SocketAddr, tos: u32) -> io::Result<Socket> {
    let socket = build(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    set_tos(&SockRef::from(&socket), address.is_ipv6(), tos)?;
    socket.set_recv_buffer_size(UDP_BUFFER_LEN)?;
    socket.set_send_buffer_size(UDP_BUFFER_LEN)?;
    sys::errqueue::enable(socket.as_raw_fd(), address.is_ipv6())?;
    ask_for_stamps(&socket);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Of the buffers that a UDP socket asked for, those that the system has cut down: the sysctl that bounds it, and how
/// many bytes it gave.
///
/// # Errors
/// What the system says.
pub fn cut_down(udp: &Socket) -> io::Result<impl Iterator<Item = (&'static str, usize)> + use<>> {
    // The system doubles what is asked for, for its own use, and says so.
    let given =
        [("net.core.rmem_max", udp.recv_buffer_size()? / 2), ("net.core.wmem_max", udp.send_buffer_size()? / 2)];
    Ok(given.into_iter().filter(|(_, len)| *len < UDP_BUFFER_LEN))
}

/// Wants to hear for how long what is read had waited. A system that does not say it has no time in queue then.
fn ask_for_stamps(socket: &Socket) {
    let _ = sys::stamp::ask(socket.as_raw_fd());
}

/// Options of every stream connection, accepted or opened.
fn set_stream_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_COUNT),
    )
}

/// Begins a connection from `from`'s address and a port of the system's choice; it may still be under way when this
/// returns.
///
/// # Errors
/// What the system says at once.
pub fn connect(from: SocketAddr, to: SocketAddr, tos: u32) -> io::Result<Socket> {
    let socket = build(to, Type::STREAM, Protocol::TCP)?;
    let options = SockRef::from(&socket);
    set_stream_options(&options)?;
    ask_for_stamps(&socket);
    set_tos(&options, to.is_ipv6(), tos)?;
    socket.set_send_buffer_size(SEND_BUFFER_LEN)?;
    if !from.ip().is_unspecified() && from.is_ipv4() == to.is_ipv4() {
        socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    }
    begin_connect(&socket, to)?;
    Ok(socket)
}

/// A UDP socket for one DNS question, connected to the resolver from a port of the system's choice.
///
/// # Errors
/// What the system says.
pub fn dns_udp(resolver: SocketAddr) -> io::Result<Socket> {
    let socket = build(resolver, Type::DGRAM, Protocol::UDP)?;
    socket.connect(&resolver.into())?;
    Ok(socket)
}

/// Begins a connection for one DNS question; it may still be under way when this returns.
///
/// # Errors
/// What the system says at once.
pub fn dns_tcp(resolver: SocketAddr) -> io::Result<Socket> {
    let socket = build(resolver, Type::STREAM, Protocol::TCP)?;
    begin_connect(&socket, resolver)?;
    Ok(socket)
}

fn begin_connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_port_that_another_holds_with_reuseport_is_found_taken() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let held =
                if transport == Transport::Udp { udp(any(), TOS_UNSET) } else { listen(any(), TOS_UNSET) }.unwrap();
            let address = held.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(probe(address, transport).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(held);
            probe(address, transport).unwrap();
        }
    }

    #[test]
    fn shards_share_a_port_and_sockets_carry_their_options() {
        let first = listen(any(), 0x60).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let second = listen(address, 0x60).unwrap();
        assert_eq!(second.local_addr().unwrap().as_socket().unwrap(), address);
        assert_eq!(second.tos_v4().unwrap(), 0x60);
        let client = connect(any(), address, TOS_UNSET).unwrap();
        assert_ne!(client.tos_v4().unwrap(), 0x60);
        let (accepted, _) = first.accept().or_else(|_| second.accept()).unwrap();
        for socket in [client, accepted] {
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert!(socket.send_buffer_size().unwrap() <= 2 * SEND_BUFFER_LEN);
        }
    }

    /// A connection that has come about.
    fn pair(listener: &Socket, tos: u32) -> (Socket, Socket) {
        let to = listener.local_addr().unwrap().as_socket().unwrap();
        let opened = connect(SocketAddr::new(to.ip(), 0), to, tos).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (accepted, opened)
    }

    #[test]
    fn the_type_of_service_is_on_every_socket_of_both_families() {
        let v4: SocketAddr = any();
        assert_eq!(udp(v4, 0xb8).unwrap().tos_v4().unwrap(), 0xb8);
        let (accepted, opened) = pair(&listen(v4, 0xb8).unwrap(), 0x60);
        assert_eq!((accepted.tos_v4().unwrap(), opened.tos_v4().unwrap()), (0xb8, 0x60));
        let v6: SocketAddr = "[::1]:0".parse().unwrap();
        assert_eq!(udp(v6, 0xb8).unwrap().tclass_v6().unwrap(), 0xb8);
        let (accepted, opened) = pair(&listen(v6, 0xb8).unwrap(), 0x60);
        assert_eq!((accepted.tclass_v6().unwrap(), opened.tclass_v6().unwrap()), (0xb8, 0x60));
    }

    #[test]
    fn what_the_system_cuts_down_of_a_udp_buffer_is_named() {
        let socket = udp(any(), TOS_UNSET).unwrap();
        let cut: Vec<_> = cut_down(&socket).unwrap().collect();
        for (name, file) in [("net.core.rmem_max", "rmem_max"), ("net.core.wmem_max", "wmem_max")] {
            let bound = std::fs::read_to_string(format!("/proc/sys/net/core/{file}")).unwrap();
            let bound: usize = bound.trim().parse().unwrap();
            let expected = (bound < UDP_BUFFER_LEN).then_some((name, bound));
            assert_eq!(cut.iter().find(|(cut, _)| *cut == name).copied(), expected);
        }
        let small = UDP_BUFFER_LEN / 64;
        socket.set_recv_buffer_size(small).unwrap();
        assert!(cut_down(&socket).unwrap().any(|cut| cut == ("net.core.rmem_max", small)));
    }

    #[test]
    fn the_wildcards_of_both_families_share_a_port() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let bind = |address: SocketAddr| match transport {
                Transport::Udp => udp(address, TOS_UNSET),
                _ => listen(address, TOS_UNSET),
            };
            let v6 = bind("[::]:0".parse().unwrap()).unwrap();
            let port = v6.local_addr().unwrap().as_socket().unwrap().port();
            let v4 = SocketAddr::from(([0, 0, 0, 0], port));
            probe(v4, transport).unwrap();
            bind(v4).unwrap();
        }
    }
}
