//! The error queue of a UDP socket (IP_RECVERR): which destination an ICMP error was about.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::batch::{RAW_ADDR_LEN, RawAddr};

/// Asks the system to keep ICMP errors with their destinations.
///
/// # Errors
/// What the system says.
#[allow(clippy::cast_possible_truncation, reason = "the size of an int")]
pub fn enable(fd: RawFd, v6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    // SAFETY: the value is an int of the size that is passed with it and outlives the call.
    let failed = unsafe {
        libc::setsockopt(fd, level, name, (&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Room for the control message: a header, the error and the offender's address.
#[repr(C, align(16))]
struct Control([u8; 256]);

/// Takes the next error off the queue: the destination of a datagram that could not be delivered, with the
/// system's error number. Errors that are no verdict on the destination (too large, say) are passed over.
pub fn next(fd: RawFd) -> Option<(SocketAddr, i32)> {
    loop {
        let mut addr = RawAddr::zeroed();
        let mut control = Control([0; 256]);
        let mut payload = [0_u8; 1];
        let mut slice = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_name = (&raw mut addr).cast();
        header.msg_namelen = RAW_ADDR_LEN;
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len();
        // SAFETY: the header points to live places of the lengths that stand beside them.
        let n = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        if n < 0 {
            return None;
        }
        // SAFETY: the system has filled `control` and set its length in the header.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header inside `control`, which is aligned
        // for it; the data of a RECVERR message is a sock_extended_err, read unaligned.
        let error = unsafe {
            let mut found = None;
            while let Some(message) = at.as_ref() {
                let kind = (message.cmsg_level, message.cmsg_type);
                if kind == (libc::IPPROTO_IP, libc::IP_RECVERR) || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) {
                    found = Some(libc::CMSG_DATA(at).cast::<libc::sock_extended_err>().read_unaligned());
                }
                at = libc::CMSG_NXTHDR(&raw const header, at);
            }
            found
        };
        let number = error.and_then(|e| i32::try_from(e.ee_errno).ok()).unwrap_or(0);
        let verdict = matches!(
            number,
            libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENOPROTOOPT
        );
        if let (true, Some(to)) = (verdict, addr.get()) {
            return Some((to, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    fn refused(bind: &str) {
        let socket = UdpSocket::bind(bind).unwrap();
        enable(socket.as_raw_fd(), bind.starts_with('[')).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let gone = UdpSocket::bind(bind).unwrap().local_addr().unwrap();
        socket.send_to(b"x", gone).unwrap();
        let error = socket.recv(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(next(socket.as_raw_fd()), Some((gone, libc::ECONNREFUSED)));
        assert_eq!(next(socket.as_raw_fd()), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn the_queue_names_the_destination_that_refused_over_ipv4() {
        refused("127.0.0.1:0");
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn the_queue_names_the_destination_that_refused_over_ipv6() {
        refused("[::1]:0");
    }
}
