//! The few calls into the system that no safe library offers as they are needed here.
//!
//! Owns: batched datagram calls ([`batch`]), the error queue of a UDP socket ([`errqueue`]) and what it has
//! dropped ([`incoming`]), resource limits ([`limits`]), whether io_uring may be used ([`ring`]), memory and the
//! allocator's part of it ([`memory`]), what a TCP peer has taken ([`outgoing`]), when something came ([`stamp`]), and the
//! handing over of descriptors to glommio. This is the one module where `unsafe` may stand; each block has its argument and a test. Must not
//! touch: SIP, TLS, state.

pub mod batch;
pub mod errqueue;
pub mod incoming;
pub mod limits;
pub mod memory;
pub mod outgoing;
pub mod ring;
pub mod stamp;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Makes a glommio object the owner of a descriptor. Must be called inside an executor.
pub fn adopt<T: FromRawFd>(descriptor: impl IntoRawFd) -> T {
    // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, which the new object takes over.
    unsafe { T::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Lets this thread run on one core alone.
///
/// # Errors
/// What the system says: there is no such core, or this process may not use it.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is below the set's size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live set of the size that is passed with it, which the call only reads.
    let failed = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A second descriptor of what `owner` has open.
///
/// # Errors
/// What the system says: there are no descriptors left.
pub fn duplicate(owner: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `owner` is borrowed for the whole call, so its descriptor stays open while `fd` lives.
    let fd = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    fd.try_clone_to_owned()
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

/// What a read would give, which is left there.
///
/// # Errors
/// `WouldBlock` when there is nothing; what the system says.
pub fn peek(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a live slice that nothing else uses meanwhile.
    let n = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_second_descriptor_is_of_the_same_socket_and_is_handed_over_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let second: TcpListener = adopt(duplicate(&listener).unwrap());
        assert_ne!(second.as_raw_fd(), listener.as_raw_fd());
        assert_eq!(second.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(second);
        assert!(listener.local_addr().is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no sched_getcpu")]
    fn a_thread_is_pinned_to_a_core_that_is_there_and_to_no_other() {
        std::thread::spawn(|| {
            pin_to(0).unwrap();
            // SAFETY: the call takes and touches nothing.
            assert_eq!(unsafe { libc::sched_getcpu() }, 0);
            assert!(pin_to(1_023).is_err() && pin_to(usize::MAX).is_err());
        })
        .join()
        .unwrap();
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
