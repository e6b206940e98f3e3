//! One TCP or TLS connection: its socket, its session, and what it has to send.
//!
//! Owns: the bytes that wait. Text is gathered until the end of a pass and leaves as one run of records and one
//! send. An idle connection holds no buffer.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::limits::READ_LEN_MAX;
use crate::sys;
use crate::tls::session::{PART_LEN_MAX, Session};

/// How long the buffer must be that a shard lends to `poll_read`: a part record and one read behind it.
pub const SCRATCH_LEN: usize = PART_LEN_MAX + READ_LEN_MAX;

/// What has gone of a buffer that still holds more, before it is taken out.
const WIRE_GONE_LEN_MAX: usize = 64 * 1024;

/// What came of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All is with the system.
    All,
    /// The socket is full; the rest waits.
    Waits,
}

/// A stream connection.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
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
}

impl Stream {
    /// Over a socket that is connected or about to be.
    #[must_use]
    pub fn new(socket: TcpStream, session: Option<Box<Session>>) -> Self {
        Self { socket, session, text: Vec::new(), wire: Vec::new(), wire_gone: 0, taken: 0 }
    }

    /// Appends text to what the end of the pass sends. Gives back the buffer when it was copied from.
    pub fn push(&mut self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if self.text.is_empty() {
            let empty = std::mem::replace(&mut self.text, bytes);
            return (empty.capacity() > 0).then_some(empty);
        }
        self.text.extend_from_slice(&bytes);
        Some(bytes)
    }

    /// Appends records that the session has made of its own accord (handshake, alerts).
    pub fn push_wire(&mut self, records: &[u8]) {
        self.wire.extend_from_slice(records);
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

    /// Waits until the peer's answer to our SYN is known.
    pub fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_write(cx, &[]).map_ok(|_| ())
    }

    /// One direct read behind the session's part record. Gives where the read ends in `scratch`: equal to
    /// the part's length for the peer's FIN.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<(usize, usize)>> {
        let part_len = self.session.as_mut().map_or(0, |session| session.lay_part(scratch));
        let room = &mut scratch[part_len..part_len + READ_LEN_MAX];
        Pin::new(&mut self.socket).poll_read(cx, room).map_ok(|n| (part_len, part_len + n))
    }

    /// Makes records of the text that waits (not before the handshake is done) and sends what the socket takes.
    /// `lent` is the shard's buffer for records. Buffers that are done with go to `recycle`.
    ///
    /// # Errors
    /// What the socket says. The session's faults are `InvalidData`.
    pub fn flush(&mut self, lent: &mut Vec<u8>, mut recycle: impl FnMut(Vec<u8>)) -> io::Result<Flushed> {
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
                    let gone = if self.wire.is_empty() { self.try_send(lent)? } else { 0 };
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
            match self.try_send(&self.wire[self.wire_gone..])? {
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

    /// Sends what waited for the socket to have room again.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.wire_gone < self.wire.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.wire[self.wire_gone..]) {
                Poll::Ready(Ok(n)) => {
                    self.wire_gone += n;
                    self.taken += n as u64;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.wire_gone = 0;
        self.wire = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Bytes that the peer has not acknowledged, of those that the system has taken; `None` when there is no connection
    /// any more.
    #[must_use]
    pub fn outstanding(&self) -> Option<u64> {
        sys::outgoing::unacknowledged_len(self.socket.as_raw_fd()).ok()
    }

    /// For how long the peer's system has not been heard of.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        sys::outgoing::silent_for(self.socket.as_raw_fd()).ok()
    }

    /// Ends our direction: close_notify behind what waits, if the session can. The FIN is sent by `shut`.
    pub fn say_goodbye(&mut self, lent: &mut Vec<u8>) {
        if let Some(session) = &mut self.session {
            lent.clear();
            if !session.is_handshaking() && session.close(lent).is_ok() {
                self.wire.extend_from_slice(lent);
            }
        }
    }

    /// Sends the FIN.
    pub fn shut(&self) {
        // A connection that is gone already needs none.
        let _ = sys::with_socket(&self.socket, |socket| socket.shutdown(std::net::Shutdown::Write));
    }

    /// Lets the close of the socket reset the connection and throw away what the system still holds.
    pub fn abort(&self) {
        let _ = sys::with_socket(&self.socket, |socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// 0 when the socket is full.
    fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match sys::send(self.socket.as_raw_fd(), bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_peer_that_reads_slowly_and_never_all_does_not_make_the_buffer_grow() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        glommio::LocalExecutor::default().run(async {
            let mut stream = Stream::new(sys::adopt(socket.into()), None);
            let mut lent = Vec::new();
            let mut flush = |stream: &mut Stream| stream.flush(&mut lent, drop).unwrap();
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
        });
    }
}
