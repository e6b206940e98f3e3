//! What the system knows of the receiving side of a UDP socket: how much it has thrown away.

use std::io;
use std::os::fd::RawFd;

/// Words of SO_MEMINFO, and which of them counts drops (linux/sock_diag.h).
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// Datagrams that the system has dropped at this socket since it was made, for its buffer was full or their checksum
/// wrong. Starts again at 0 after 2^32.
///
/// # Errors
/// What the system says (Linux before 4.12 knows no SO_MEMINFO).
#[allow(clippy::cast_possible_truncation, reason = "the size of nine words")]
pub fn dropped_count(fd: RawFd) -> io::Result<u32> {
    let mut words = [0_u32; MEMINFO_WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the pointer is to a place of the length that is passed with it; the system writes no more than that, and
    // words for which all values are valid.
    let failed = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut len) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(words[MEMINFO_DROPS]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    #[cfg_attr(miri, ignore = "miri has no datagram sockets")]
    fn what_a_full_buffer_drops_is_counted() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        socket2::SockRef::from(&b).set_recv_buffer_size(4_096).unwrap();
        let fd = b.as_raw_fd();
        assert_eq!(dropped_count(fd).unwrap(), 0);
        let to = b.local_addr().unwrap();
        for _ in 0..100 {
            a.send_to(&[0; 1_000], to).unwrap();
        }
        b.set_nonblocking(true).unwrap();
        let read = std::iter::from_fn(|| b.recv(&mut [0; 1_000]).ok()).count();
        assert!(read < 100);
        assert_eq!(dropped_count(fd).unwrap() as usize, 100 - read, "over loopback nothing is lost elsewhere");
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no SO_MEMINFO")]
    fn what_is_no_socket_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(dropped_count(file.as_raw_fd()).is_err());
    }
}
