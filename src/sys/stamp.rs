//! When the system got what a socket has: for how long it has waited to be read.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The one control message that a socket of [`ask`] gives with what is read (cmsg(3), socket(7) on SO_TIMESTAMPNS).
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Control {
    header: libc::cmsghdr,
    at: libc::timespec,
}

/// What a receiving call may write there.
pub(super) const CONTROL_LEN: usize = size_of::<Control>();

impl Control {
    pub(super) fn empty() -> Self {
        // SAFETY: all-zero bytes are a valid value of two plain C structs of numbers.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// For how long what came with it had waited at a moment; nothing when the system has not said.
    pub(super) fn waited(&self, len: usize, now: Duration) -> Duration {
        let is_stamp = len >= CONTROL_LEN
            && self.header.cmsg_level == libc::SOL_SOCKET
            && self.header.cmsg_type == libc::SCM_TIMESTAMPNS;
        let (Ok(s), Ok(ns)) = (u64::try_from(self.at.tv_sec), u32::try_from(self.at.tv_nsec)) else {
            return Duration::ZERO;
        };
        // A clock that is set forth makes everything late for the moment in which that is done, and never early.
        if is_stamp { now.saturating_sub(Duration::new(s, ns.min(999_999_999))) } else { Duration::ZERO }
    }
}

/// The system's time of day, which its stamps are of.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Wants the system to say when it got what is read from a socket. Connections that a listener accepts have it from that.
///
/// # Errors
/// What the system says.
#[allow(clippy::cast_possible_truncation, reason = "the size of a small integer")]
pub fn ask(fd: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an integer of the size that is passed with it.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One read of a stream, without waiting: its length, and for how long the last of it had waited.
///
/// # Errors
/// `WouldBlock` when there is nothing; what the system says.
pub fn read(fd: RawFd, into: &mut [u8]) -> io::Result<(usize, Duration)> {
    let mut control = Control::empty();
    let mut slice = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN;
    loop {
        // SAFETY: the header points to one slice over `into` and to `control`, with their lengths; both outlive the call
        // and nothing else uses them meanwhile.
        let n = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT) };
        if let Ok(n) = usize::try_from(n) {
            let waited = if n == 0 { Duration::ZERO } else { control.waited(header.msg_controllen, now()) };
            return Ok((n, waited));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    #[cfg_attr(miri, ignore = "miri has no recvmsg")]
    fn what_has_waited_says_for_how_long_on_a_connection_whose_listener_was_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ask(listener.as_raw_fd()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let sent = std::time::Instant::now();
        client.write_all(b"abc").unwrap();
        // Loopback delivers before the write returns.
        let (len, waited) = read(server.as_raw_fd(), &mut [0; 8]).unwrap();
        assert!(len == 3 && waited > Duration::ZERO && waited <= sent.elapsed(), "{waited:?}");
        assert_eq!(read(server.as_raw_fd(), &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(client);
        while read(server.as_raw_fd(), &mut [0; 8]).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(read(server.as_raw_fd(), &mut [0; 8]).unwrap(), (0, Duration::ZERO));
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no recvmsg")]
    fn a_socket_that_was_not_asked_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"abc").unwrap();
        assert_eq!(read(server.as_raw_fd(), &mut [0; 8]).unwrap(), (3, Duration::ZERO));
    }

    #[test]
    fn a_stamp_of_the_future_is_no_wait() {
        let mut control = Control::empty();
        (control.header.cmsg_level, control.header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS);
        control.at.tv_sec = 100;
        let waited = |len, now_s| control.waited(len, Duration::from_secs(now_s));
        assert_eq!(waited(CONTROL_LEN, 99), Duration::ZERO);
        assert_eq!(waited(CONTROL_LEN, 101), Duration::from_secs(1));
        assert_eq!(waited(0, 101), Duration::ZERO);
    }
}
