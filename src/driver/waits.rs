//! The epoll set of a shard: what of its sockets is ready, and the wake from other threads.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry};

use super::seam::{Ready, Token};
use crate::ids::PointId;

/// What one look tells of at most. The rest is told by the next.
const EVENTS_COUNT_MAX: usize = 512;

/// Above every place that a connection can have: the lower half of a token that is no connection's.
const POINT: u32 = u32::MAX;
const QUESTION: u32 = u32::MAX - 1;
const WAKE: u32 = u32::MAX - 2;
const HEADER: u32 = u32::MAX - 3;

/// The readiness of a shard's sockets.
#[derive(Debug)]
pub struct Waits {
    poll: Poll,
    events: Events,
    ready: Vec<Ready>,
}

/// Ends a wait from another thread.
struct Bell(mio::Waker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A counter that is full wakes too.
        let _ = self.0.wake();
    }
}

impl Waits {
    /// Of no sockets yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(EVENTS_COUNT_MAX), ready: Vec::new() })
    }

    /// What adds sockets to the set.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn registry(&self) -> io::Result<Registry> {
        self.poll.registry().try_clone()
    }

    /// What ends a look that waits, from any thread.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn waker(&self) -> io::Result<Waker> {
        let waker = mio::Waker::new(self.poll.registry(), mio::Token(pack(WAKE, 0)))?;
        Ok(Arc::new(Bell(waker)).into())
    }

    /// What the last look found.
    #[must_use]
    pub fn ready(&self) -> &[Ready] {
        &self.ready
    }

    /// Looks what is ready, and waits for it for so long (rounded up to milliseconds); for ever without a time. A wake
    /// ends the wait too. Says whether there was either.
    ///
    /// # Errors
    /// What the system says.
    pub fn look(&mut self, within: Option<Duration>) -> io::Result<bool> {
        self.ready.clear();
        match self.poll.poll(&mut self.events, within) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        }
        for event in &self.events {
            let Some(token) = unpack(event.token().0) else { continue };
            let ended = event.is_read_closed() || event.is_write_closed() || event.is_error();
            let (readable, writable) = (event.is_readable() || ended, event.is_writable() || ended);
            self.ready.push(Ready { token, readable, writable, ended });
        }
        Ok(!self.events.is_empty())
    }
}

impl AsRawFd for Waits {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

/// Adds a socket to a set, or gives one that is in it another token. Its close takes it out again.
pub(super) fn add(registry: &Registry, socket: &impl AsRawFd, token: Token, writes: bool) -> io::Result<()> {
    let fd: RawFd = socket.as_raw_fd();
    let interest = if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    let token = match token {
        Token::Conn { index, serial } => pack(index, serial),
        Token::Point(point) => pack(POINT, point.0.into()),
        Token::Question(exchange) => pack(QUESTION, exchange),
        Token::Header(number) => pack(HEADER, number),
    };
    let token = mio::Token(token);
    match registry.register(&mut SourceFd(&fd), token, interest) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            registry.reregister(&mut SourceFd(&fd), token, interest)
        }
        added => added,
    }
}

fn pack(low: u32, high: u32) -> usize {
    const { assert!(usize::BITS == 64, "a token has 64 bits") };
    (high as usize) << 32 | low as usize
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of it")]
fn unpack(token: usize) -> Option<Token> {
    let (low, high) = (token as u32, (token >> 32) as u32);
    match low {
        WAKE => None,
        POINT => Some(Token::Point(PointId(high as u8))),
        QUESTION => Some(Token::Question(high)),
        HEADER => Some(Token::Header(high)),
        index => Some(Token::Conn { index, serial: high }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn readiness_is_told_once_with_its_token_and_the_end_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let mut waits = Waits::new().unwrap();
        let token = Token::Conn { index: 7, serial: u32::MAX };
        add(&waits.registry().unwrap(), &ours, token, true).unwrap();
        assert!(waits.look(Some(LONG)).unwrap());
        assert_eq!(waits.ready(), [Ready { token, readable: false, writable: true, ended: false }]);
        assert!(!waits.look(Some(Duration::ZERO)).unwrap(), "once");
        peer.write_all(b"x").unwrap();
        assert!(waits.look(Some(LONG)).unwrap());
        assert!(waits.ready()[0].readable && !waits.ready()[0].ended);
        drop(peer);
        assert!(waits.look(Some(LONG)).unwrap());
        assert!(waits.ready()[0].ended);
        drop(ours);
        assert!(!waits.look(Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn a_socket_that_is_given_another_token_is_told_of_again_with_what_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let mut waits = Waits::new().unwrap();
        add(&waits.registry().unwrap(), &ours, Token::Header(1), true).unwrap();
        peer.write_all(b"x").unwrap();
        let is_readable = |ready: &[Ready]| ready.iter().any(|one| one.readable);
        while !is_readable(waits.ready()) {
            assert!(waits.look(Some(LONG)).unwrap());
        }
        assert!(!waits.look(Some(Duration::ZERO)).unwrap(), "once");
        let token = Token::Conn { index: 7, serial: 1 };
        add(&waits.registry().unwrap(), &ours, token, true).unwrap();
        assert!(waits.look(Some(LONG)).unwrap());
        assert_eq!(waits.ready(), [Ready { token, readable: true, writable: true, ended: false }]);
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait_and_says_nothing() {
        let mut waits = Waits::new().unwrap();
        let waker = waits.waker().unwrap();
        let begun = Instant::now();
        let thread = std::thread::spawn({
            let waker = waker.clone();
            move || waker.wake()
        });
        assert!(waits.look(Some(LONG)).unwrap());
        assert!(begun.elapsed() < LONG && waits.ready().is_empty());
        thread.join().unwrap();
    }

    #[test]
    fn every_token_comes_back_as_it_was() {
        let all = [
            Token::Conn { index: 0, serial: 0 },
            Token::Conn { index: u32::MAX - 4, serial: u32::MAX },
            Token::Point(PointId(u8::MAX)),
            Token::Question(u32::MAX),
            Token::Header(u32::MAX),
        ];
        for token in all {
            let packed = match token {
                Token::Conn { index, serial } => pack(index, serial),
                Token::Point(point) => pack(POINT, point.0.into()),
                Token::Question(exchange) => pack(QUESTION, exchange),
                Token::Header(number) => pack(HEADER, number),
            };
            assert_eq!(unpack(packed), Some(token));
        }
        assert_eq!(unpack(pack(WAKE, 0)), None);
    }
}
