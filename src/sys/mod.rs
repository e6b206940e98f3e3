//! The few calls into the system that no safe library offers as they are needed here.
//!
//! Owns: batched datagram calls ([`batch`]), the error queue of a UDP socket ([`errqueue`]) and what it has
//! dropped ([`incoming`]), resource limits and the io_uring probe ([`limits`]), memory and the allocator's part of it ([`memory`]), what a
//! TCP peer has taken ([`outgoing`]), and the handing over of descriptors to
//! glommio. This is the one module where `unsafe` may stand; each block has its argument and a test. Must not touch:
//! SIP, TLS, state.

pub mod batch;
pub mod errqueue;
pub mod incoming;
pub mod limits;
pub mod memory;
pub mod outgoing;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};

/// Makes a glommio object the owner of a socket that was built with socket2, so that options can be set
/// before it is bound. Must be called inside an executor.
pub fn adopt<T: FromRawFd>(socket: socket2::Socket) -> T {
    // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, which the new object takes over.
    unsafe { T::from_raw_fd(socket.into_raw_fd()) }
}

/// Runs `f` with the socket behind `owner`, to set or read options of a socket that glommio owns.
pub fn with_socket<R>(owner: &impl AsRawFd, f: impl FnOnce(socket2::SockRef<'_>) -> R) -> R {
    // SAFETY: `owner` is borrowed for the whole call, so its descriptor stays open while `fd` lives, and `f`
    // cannot keep it beyond the call.
    let fd = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    f(socket2::SockRef::from(&fd))
}

/// Sends what fits without waiting. `Ok(0)` never stands for a full socket: that is `WouldBlock`.
///
/// # Errors
/// What the system says.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of a live slice, which the call only reads.
        let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
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
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_stays_open_while_its_options_are_set_and_is_handed_over_once() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        with_socket(&socket, |s| s.set_tcp_nodelay(true)).unwrap();
        let adopted: TcpListener = adopt(socket);
        assert!(with_socket(&adopted, |s| s.tcp_nodelay()).unwrap());
    }

    #[test]
    fn send_says_would_block_when_the_socket_is_full() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(send(client.as_raw_fd(), b"abc").unwrap(), 3);
        let mut buf = [0; 3];
        server.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"abc");
        let big = vec![0; 1 << 20];
        let full = (0..1000).find_map(|_| send(client.as_raw_fd(), &big).err()).expect("the buffers are finite");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
