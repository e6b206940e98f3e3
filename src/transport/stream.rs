//! One TCP or TLS connection: its socket, its session, and what it has to send.
//!
//! Owns: the bytes that wait. Text is gathered until the end of a pass and leaves as one run of records and one
//! send. An idle connection holds no buffer.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::limits::READ_LEN_MAX;
use crate::tls::session::{PART_LEN_MAX, Session};

/// How long the buffer must be that a shard lends to `poll_read`: a part record and one read behind it.
pub const SCRATCH_LEN: usize = PART_LEN_MAX + READ_LEN_MAX;

/// What has gone of a buffer that still holds more, before it is taken out.
const WIRE_GONE_LEN_MAX: usize = 64 * 1024;

/// The socket of one stream connection, as the rest of the program sees it. Nothing in it waits.
pub trait StreamSocket {
    /// What became of a connection that was begun.
    ///
    /// # Errors
    /// `WouldBlock` while it is under way; why it did not come about.
    fn connected(&mut self) -> io::Result<()>;

    /// One read: its length, and for how long the last of it had waited. A length of 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; what the system says.
    fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, Duration)>;

    /// What a read would give, which is left there: its length.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; what the system says.
    fn peek(&self, into: &mut [u8]) -> io::Result<usize>;

    /// One send; says how much was taken.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; what the system says.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Bytes that were taken and that the peer has not acknowledged; `None` when there is no connection any more.
    fn outstanding(&self) -> Option<u64>;

    /// For how long the peer's system has not been heard of.
    fn silent_for(&self) -> Option<Duration>;

    /// Sends the FIN.
    fn shut(&mut self);

    /// Lets the close, which is the drop, reset the connection and throw away what the system still holds.
    fn abort(&mut self);
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where the part record before it ends in the scratch buffer.
    pub part_len: usize,
    /// Where the read ends: equal to `part_len` for the peer's FIN.
    pub end: usize,
    /// For how long the last of it had waited to be read.
    pub waited: Duration,
}

impl Read {
    /// The peer says nothing more.
    #[must_use]
    pub fn is_fin(self) -> bool {
        self.end == self.part_len
    }

    /// The read took as much as one can, so that there may be more.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.end - self.part_len == READ_LEN_MAX
    }
}

/// What came of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All is with the system.
    All,
    /// The socket is full; the rest waits.
    Waits,
}

/// Bytes that wait to be sent on all streams of a shard: kept by the streams themselves.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Rc<Cell<usize>>);

impl Waiting {
    /// In all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.get()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stream connection.
#[derive(Debug)]
pub struct Stream<S> {
    /// The socket of this connection.
    pub socket: S,
    /// The TLS session; `None` for TCP.
    pub session: Option<Box<Session>>,
    /// Text that waits for the end of the pass, or for the handshake.
    text: Vec<u8>,
    /// What the socket did not take: text for TCP, records for TLS.
    wire: Vec<u8>,
    /// How much of `wire` has gone.
    wire_gone: usize,
    /// What the system has taken in all.
    taken: u64,
    /// Of all streams of the shard, and what this one has put into it.
    waiting: Waiting,
    counted: usize,
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        self.waiting.0.set(self.waiting.0.get() - self.counted);
    }
}

impl<S: StreamSocket> Stream<S> {
    /// Over a socket that is connected or about to be, of the shard with this count.
    #[must_use]
    pub fn new(socket: S, session: Option<Box<Session>>, waiting: Waiting) -> Self {
        Self { socket, session, text: Vec::new(), wire: Vec::new(), wire_gone: 0, taken: 0, waiting, counted: 0 }
    }

    /// Brings the shard's count up to date. What changes `text` or `wire` ends with this.
    fn count(&mut self) {
        let now = self.waiting_len();
        self.waiting.0.set(self.waiting.0.get() + now - std::mem::replace(&mut self.counted, now));
    }

    /// Appends text to what the end of the pass sends. Gives back the buffer when it was copied from.
    pub fn push(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let back = if self.text.is_empty() {
            Some(std::mem::replace(&mut self.text, bytes)).filter(|empty| empty.capacity() > 0)
        } else {
            self.text.extend_from_slice(&bytes);
            Some(bytes)
        };
        self.count();
        back
    }

    /// Appends records that the session has made of its own accord (handshake, alerts).
    pub fn push_wire(&mut self, records: &[u8]) {
        self.wire.extend_from_slice(records);
        self.count();
    }

    /// The text that waits.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Bytes that wait, of text and of records.
    #[must_use]
    pub fn waiting_len(&self) -> usize {
        self.text.len() + self.wire.len() - self.wire_gone
    }

    /// Bytes that the system has taken since the connection began, of records for TLS.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the socket refused some of it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.wire.is_empty()
    }

    /// One direct read behind the session's part record.
    ///
    /// # Errors
    /// What the socket says.
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<Read> {
        let part_len = self.session.as_mut().map_or(0, |session| session.lay_part(scratch));
        let (len, waited) = self.socket.read(&mut scratch[part_len..part_len + READ_LEN_MAX])?;
        Ok(Read { part_len, end: part_len + len, waited })
    }

    /// Makes records of the text that waits (not before the handshake is done) and sends what the socket takes.
    /// `lent` is the shard's buffer for records. Buffers that are done with go to `recycle`.
    ///
    /// # Errors
    /// What the socket says. The session's faults are `InvalidData`.
    pub fn flush(&mut self, lent: &mut Vec<u8>, recycle: impl FnMut(Vec<u8>)) -> io::Result<Flushed> {
        let flushed = self.try_flush(lent, recycle);
        self.count();
        flushed
    }

    fn try_flush(&mut self, lent: &mut Vec<u8>, mut recycle: impl FnMut(Vec<u8>)) -> io::Result<Flushed> {
        // A peer that reads slowly may never let it run empty.
        if self.wire_gone >= WIRE_GONE_LEN_MAX {
            self.wire.drain(..std::mem::take(&mut self.wire_gone));
        }
        if !self.text.is_empty() {
            if let Some(session) = &mut self.session {
                if session.is_faulty() {
                    // Only the alert goes.
                    recycle(std::mem::take(&mut self.text));
                } else if !session.is_handshaking() {
                    lent.clear();
                    let encrypted = session.encrypt(&self.text, lent);
                    recycle(std::mem::take(&mut self.text));
                    encrypted.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
                    // The common case sends from the lent buffer without a copy.
                    let gone = if self.wire.is_empty() { Self::try_send(&mut self.socket, lent)? } else { 0 };
                    self.taken += gone as u64;
                    self.wire.extend_from_slice(&lent[gone..]);
                }
            } else if self.wire.is_empty() {
                self.wire = std::mem::take(&mut self.text);
            } else {
                self.wire.extend_from_slice(&self.text);
                recycle(std::mem::take(&mut self.text));
            }
        }
        while self.wire_gone < self.wire.len() {
            match Self::try_send(&mut self.socket, &self.wire[self.wire_gone..])? {
                0 => return Ok(Flushed::Waits),
                n => {
                    self.wire_gone += n;
                    self.taken += n as u64;
                }
            }
        }
        self.wire_gone = 0;
        if self.wire.capacity() > 0 {
            recycle(std::mem::take(&mut self.wire));
        }
        Ok(Flushed::All)
    }

    /// Ends our direction: close_notify behind what waits, if the session can. The FIN is sent by `shut`.
    pub fn say_goodbye(&mut self, lent: &mut Vec<u8>) {
        if let Some(session) = &mut self.session {
            lent.clear();
            if !session.is_handshaking() && session.close(lent).is_ok() {
                self.wire.extend_from_slice(lent);
                self.count();
            }
        }
    }

    /// 0 when the socket is full.
    fn try_send(socket: &mut S, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match socket.send(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tcp::TcpSocket;
    use std::io::Read as _;

    /// A socket of which the test says how much it takes.
    #[derive(Default)]
    struct Fake {
        room: usize,
        taken: Vec<u8>,
        says: Vec<u8>,
    }

    impl StreamSocket for Fake {
        fn connected(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, Duration)> {
            let len = self.says.len().min(into.len());
            into[..len].copy_from_slice(&self.says[..len]);
            self.says.drain(..len);
            Ok((len, Duration::ZERO))
        }

        fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
            let len = self.says.len().min(into.len());
            into[..len].copy_from_slice(&self.says[..len]);
            Ok(len)
        }

        fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.room);
            self.room -= len;
            self.taken.extend_from_slice(&bytes[..len]);
            if len == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(len) }
        }

        fn outstanding(&self) -> Option<u64> {
            None
        }

        fn silent_for(&self) -> Option<Duration> {
            None
        }

        fn shut(&mut self) {}

        fn abort(&mut self) {}
    }

    #[test]
    fn what_is_pushed_leaves_in_its_order_however_little_is_taken_at_once() {
        let all = Waiting::default();
        let mut stream = Stream::new(Fake::default(), None, all.clone());
        let (mut lent, mut back, mut pushed) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..60_u8 {
            let text = vec![round; usize::from(round) * 97];
            pushed.extend_from_slice(&text);
            back.extend(stream.push(text));
            stream.socket.room = usize::from(round % 7) * 800;
            let flushed = stream.flush(&mut lent, |buffer| back.push(buffer)).unwrap();
            assert_eq!(flushed == Flushed::All, stream.waiting_len() == 0, "round {round}");
            assert_eq!(stream.is_blocked(), flushed == Flushed::Waits);
            let taken = stream.socket.taken.len();
            assert_eq!((stream.taken(), taken + stream.waiting_len()), (taken as u64, pushed.len()));
            assert_eq!(all.len(), stream.waiting_len());
        }
        stream.socket.room = usize::MAX;
        assert_eq!(stream.flush(&mut lent, |buffer| back.push(buffer)).unwrap(), Flushed::All);
        assert_eq!(stream.socket.taken, pushed);
        assert!(!back.is_empty() && back.iter().all(|buffer| buffer.capacity() > 0));
    }

    #[test]
    fn a_read_takes_no_more_than_one_may() {
        let fake = Fake { says: vec![b'x'; READ_LEN_MAX + 1], ..Fake::default() };
        let mut stream = Stream::new(fake, None, Waiting::default());
        let mut scratch = vec![0; SCRATCH_LEN];
        let full = stream.read(&mut scratch).unwrap();
        assert!(full.is_full() && full == Read { part_len: 0, end: READ_LEN_MAX, waited: Duration::ZERO });
        assert_eq!(stream.read(&mut scratch).unwrap(), Read { part_len: 0, end: 1, waited: Duration::ZERO });
        assert!(stream.read(&mut scratch).unwrap().is_fin());
    }

    #[test]
    fn a_peer_that_reads_slowly_and_never_all_does_not_make_the_buffer_grow() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let all = Waiting::default();
        let mut stream = Stream::new(TcpSocket::new(socket.into()), None, all.clone());
        let mut lent = Vec::new();
        let mut flush = |stream: &mut Stream<TcpSocket>| stream.flush(&mut lent, drop).unwrap();
        let mut read = vec![0; 16 * 1024];
        let (mut pushed, mut got) = (0_u64, 0_u64);
        while flush(&mut stream) == Flushed::All {
            stream.push(vec![b'x'; 16 * 1024]);
            pushed += 16 * 1024;
        }
        for _ in 0..2_000 {
            while stream.waiting_len() < 128 * 1024 {
                stream.push(vec![b'x'; 16 * 1024]);
                pushed += 16 * 1024;
                flush(&mut stream);
            }
            got += peer.read(&mut read).unwrap() as u64;
            flush(&mut stream);
        }
        assert!(got > 4 * 1024 * 1024, "the peer has read {got}");
        assert!(stream.wire.len() <= 512 * 1024, "{} of a buffer for {}", stream.wire.len(), stream.waiting_len());
        assert!(got + stream.waiting_len() as u64 <= pushed);
        assert_eq!(all.len(), stream.waiting_len(), "the shard's count is kept");
        drop(stream);
        assert_eq!(all.len(), 0);
    }
}
