//! recvmmsg and sendmmsg: many datagrams for one call (GLOMMIO.md, The floor).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::time::Duration;

use super::stamp::{self, CONTROL_LEN, Control};

/// Datagrams for each call.
pub const BATCH_COUNT_MAX: usize = 64;
/// The largest UDP payload.
pub const DATAGRAM_LEN_MAX: usize = 65_535;

/// An address as the system's calls want it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    any: libc::sockaddr,
}

#[allow(clippy::cast_possible_truncation, reason = "the sizes of two small structs")]
pub(super) const RAW_ADDR_LEN: libc::socklen_t = size_of::<RawAddr>() as libc::socklen_t;

impl RawAddr {
    pub(super) fn zeroed() -> Self {
        // SAFETY: all-zero bytes are a valid value of each of the union's plain C structs.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    #[allow(clippy::cast_possible_truncation, reason = "address family numbers are small, sizes too")]
    fn set(&mut self, addr: SocketAddr) -> libc::socklen_t {
        match addr {
            SocketAddr::V4(a) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(a) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: a.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                    sin6_scope_id: a.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    pub(super) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and all bytes of the union are initialised (`zeroed`).
        match i32::from(unsafe { self.any.sa_family }) {
            libc::AF_INET => {
                // SAFETY: the family says that the system wrote this variant.
                let a = unsafe { self.v4 };
                let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(a.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let a = unsafe { self.v6 };
                let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
                let port = u16::from_be(a.sin6_port);
                Some(SocketAddrV6::new(ip, port, a.sin6_flowinfo, a.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

fn zeroed_header() -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid mmsghdr: null pointers with zero lengths.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// One that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its source.
    pub from: SocketAddr,
    /// Its payload.
    pub bytes: &'a [u8],
    /// For how long it had waited when its batch was taken; zero for a socket that was not asked ([`stamp::ask`]).
    pub waited: Duration,
}

/// Room for one batch of received datagrams; one for each shard, shared by its sockets. Pages that no datagram
/// reaches are never touched.
pub struct RecvBatch {
    bytes: Vec<u8>,
    addrs: [RawAddr; BATCH_COUNT_MAX],
    lens: [usize; BATCH_COUNT_MAX],
    controls: [Control; BATCH_COUNT_MAX],
    waits: [Duration; BATCH_COUNT_MAX],
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").finish_non_exhaustive()
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self {
            bytes: vec![0; BATCH_COUNT_MAX * DATAGRAM_LEN_MAX],
            addrs: [RawAddr::zeroed(); BATCH_COUNT_MAX],
            lens: [0; BATCH_COUNT_MAX],
            controls: [Control::empty(); BATCH_COUNT_MAX],
            waits: [Duration::ZERO; BATCH_COUNT_MAX],
        }
    }
}

impl RecvBatch {
    /// Takes up to `BATCH_COUNT_MAX` datagrams from the socket without waiting; says how many. They are read
    /// with `datagram` until the next call.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; a pending error of the socket (ICMP).
    #[allow(clippy::cast_possible_truncation, reason = "the batch is 64")]
    pub fn recv(&mut self, fd: RawFd) -> io::Result<usize> {
        let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_COUNT_MAX];
        let mut headers = [zeroed_header(); BATCH_COUNT_MAX];
        let parts = self.bytes.chunks_exact_mut(DATAGRAM_LEN_MAX).zip(&mut self.addrs).zip(&mut self.controls);
        for ((slice, header), ((buffer, addr), control)) in slices.iter_mut().zip(&mut headers).zip(parts) {
            *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_name = std::ptr::from_mut(addr).cast();
            header.msg_hdr.msg_namelen = RAW_ADDR_LEN;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = std::ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: each header points to one slice over a part of `self.bytes` and to one place of `self.addrs` and of
        // `self.controls`, none shared with another, with their lengths; all outlive the call and nothing else uses them
        // meanwhile.
        let n = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                BATCH_COUNT_MAX as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        let now = stamp::now();
        let places = self.lens.iter_mut().zip(&mut self.waits).zip(&self.controls);
        for (((len, waited), control), header) in places.zip(&headers[..n]) {
            *len = header.msg_len as usize;
            *waited = control.waited(header.msg_hdr.msg_controllen, now);
        }
        Ok(n)
    }

    /// Takes these in as a call to the system would, for a world without one: as many of the first as there is room for,
    /// each of at most `DATAGRAM_LEN_MAX` bytes, and with how long it has waited.
    pub fn fill(&mut self, datagrams: &[(SocketAddr, Vec<u8>, Duration)]) {
        let parts = self.bytes.chunks_exact_mut(DATAGRAM_LEN_MAX).zip(&mut self.addrs).zip(&mut self.lens);
        for ((from, bytes, waited), (((buffer, addr), len), wait)) in datagrams.iter().zip(parts.zip(&mut self.waits)) {
            let kept = bytes.len().min(DATAGRAM_LEN_MAX);
            buffer[..kept].copy_from_slice(&bytes[..kept]);
            addr.set(*from);
            (*len, *wait) = (kept, *waited);
        }
    }

    /// A datagram of the last batch, below the number that `recv` gave. `None` for a source that is neither
    /// IPv4 nor IPv6.
    #[must_use]
    pub fn datagram(&self, at: usize) -> Option<Datagram<'_>> {
        let start = at * DATAGRAM_LEN_MAX;
        let from = self.addrs.get(at)?.get()?;
        let bytes = &self.bytes[start..start + self.lens[at].min(DATAGRAM_LEN_MAX)];
        Some(Datagram { from, bytes, waited: self.waits[at] })
    }
}

/// Sends up to `BATCH_COUNT_MAX` of the datagrams without waiting; says how many of the first went out.
///
/// # Errors
/// What is wrong with the first one (none has gone then), or a pending error of the socket (ICMP), or
/// `WouldBlock`.
#[allow(clippy::cast_possible_truncation, reason = "the batch is 64")]
pub fn send<'a>(fd: RawFd, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) -> io::Result<usize> {
    let mut addrs = [RawAddr::zeroed(); BATCH_COUNT_MAX];
    let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_COUNT_MAX];
    let mut headers = [zeroed_header(); BATCH_COUNT_MAX];
    let mut count = 0;
    let places = addrs.iter_mut().zip(&mut slices).zip(&mut headers);
    for ((to, bytes), ((addr, slice), header)) in datagrams.zip(places) {
        *slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_namelen = addr.set(to);
        header.msg_hdr.msg_name = std::ptr::from_mut(addr).cast();
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: the first `count` headers point to places of `addrs` and `slices` that were filled above, with their
    // lengths, and the slices to borrowed payloads which the call only reads; all outlive the call.
    let n = unsafe {
        libc::sendmmsg(fd, headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    fn round(bind: &str) {
        let (a, b) = (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap());
        b.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = b.local_addr().unwrap();
        let payloads: Vec<Vec<u8>> = (0..70_u8).map(|i| vec![i; usize::from(i) * 20]).collect();
        let sent = send(a.as_raw_fd(), payloads.iter().map(|p| (to, p.as_slice()))).unwrap();
        assert_eq!(sent, BATCH_COUNT_MAX, "one call takes a whole batch and no more");
        let rest = send(a.as_raw_fd(), payloads[sent..].iter().map(|p| (to, p.as_slice()))).unwrap();
        assert_eq!(rest, 6);
        let mut batch = RecvBatch::default();
        let mut got = Vec::new();
        for want in [64, 6] {
            assert_eq!(batch.recv(b.as_raw_fd()).unwrap(), want);
            got.extend((0..want).map(|i| batch.datagram(i).unwrap()).map(|d| (d.from, d.bytes.to_vec())));
        }
        assert!(got.iter().all(|(from, _)| *from == a.local_addr().unwrap()));
        assert_eq!(got.into_iter().map(|(_, p)| p).collect::<Vec<_>>(), payloads);
        assert_eq!(batch.recv(b.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn batches_keep_order_sources_and_lengths_over_ipv4() {
        round("127.0.0.1:0");
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn batches_keep_order_sources_and_lengths_over_ipv6() {
        round("[::1]:0");
    }

    #[test]
    fn addresses_of_both_families_and_lengths_come_back() {
        let sources = ["192.0.2.7:5060", "[2001:db8::7]:65535", "0.0.0.0:0", "[fe80::1%3]:1"];
        let wait = |len| Duration::from_millis(len as u64);
        let filled: Vec<(SocketAddr, Vec<u8>, Duration)> =
            (1..).zip(sources).map(|(len, from)| (from.parse().unwrap(), vec![7; len], wait(len))).collect();
        let mut batch = RecvBatch::default();
        // Each place holds the other family before.
        for datagrams in [filled.iter().cloned().rev().collect::<Vec<_>>(), filled] {
            batch.fill(&datagrams);
            for (at, (from, bytes, waited)) in datagrams.iter().enumerate() {
                assert_eq!(batch.datagram(at), Some(Datagram { from: *from, bytes, waited: *waited }));
            }
        }
        assert_eq!(batch.datagram(BATCH_COUNT_MAX - 1), None, "of no family");
        assert_eq!(batch.datagram(BATCH_COUNT_MAX), None);
    }

    #[test]
    fn nothing_to_send_is_no_call() {
        assert_eq!(send(-1, std::iter::empty()).unwrap(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn the_largest_datagram_arrives_whole() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let payload = vec![7; 65_507];
        assert_eq!(send(a.as_raw_fd(), std::iter::once((b.local_addr().unwrap(), payload.as_slice()))).unwrap(), 1);
        let mut batch = RecvBatch::default();
        assert_eq!(batch.recv(b.as_raw_fd()).unwrap(), 1);
        assert_eq!(batch.datagram(0).unwrap().bytes, payload);
    }
}
