//! What the system knows of the sending side of a TCP connection: how much the peer has not acknowledged, and when it
//! was heard of last.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;
use std::time::Duration;

/// Bytes that the system has taken and the peer's system has not acknowledged (SIOCOUTQ), sent or not.
///
/// # Errors
/// What the system says.
pub fn unacknowledged_len(fd: RawFd) -> io::Result<u64> {
    let mut len: libc::c_int = 0;
    // SAFETY: the request writes one int, to a live place of that size. (TIOCOUTQ is SIOCOUTQ by another name.)
    let failed = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut len) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(len).unwrap_or(0)) }
}

/// For how long the peer's system has acknowledged nothing, not even a question whether its window is still closed.
///
/// # Errors
/// What the system says.
#[allow(clippy::cast_possible_truncation, reason = "the size of a struct")]
pub fn silent_for(fd: RawFd) -> io::Result<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer is to a place of the length that is passed with it; the system fills as much as it knows.
    let failed =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) != 0 };
    if failed {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a tcp_info is made of integers, for which what the system left as zero is valid too.
    let info = unsafe { info.assume_init() };
    Ok(Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no TCP_INFO")]
    fn what_the_peer_does_not_read_stays_unacknowledged_until_it_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let fd = ours.as_raw_fd();
        assert_eq!(unacknowledged_len(fd).unwrap(), 0);
        let mut taken = 0;
        while let Ok(len) = ours.write(&[7; 64 * 1024]) {
            taken += len;
        }
        let unacknowledged = usize::try_from(unacknowledged_len(fd).unwrap()).unwrap();
        assert!(unacknowledged > 0 && unacknowledged < taken, "{unacknowledged} of {taken}");
        peer.read_exact(&mut vec![0; taken]).unwrap();
        wait_until("all is acknowledged", || unacknowledged_len(fd).unwrap() == 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no TCP_INFO")]
    fn silence_lasts_until_the_next_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        wait_until("it has been silent for some time", || silent_for(ours.as_raw_fd()).unwrap().as_millis() >= 50);
        let before = silent_for(ours.as_raw_fd()).unwrap();
        ours.write_all(b"x").unwrap();
        wait_until("it is acknowledged", || silent_for(ours.as_raw_fd()).unwrap() < before);
        drop(peer);
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no TCP_INFO")]
    fn what_is_no_connection_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacknowledged_len(file.as_raw_fd()).is_err());
        assert!(silent_for(file.as_raw_fd()).is_err());
    }
}
