//! One TLS session without buffers of its own (rustls' unbuffered form): records are decrypted from the shard's
//! scratch buffer, and only a part record is kept between reads (GLOMMIO.md, TLS).

use std::sync::Arc;

use crate::planted::{Plant, planted};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig};

/// What a record costs beside its text, at most: header, nonce, content type and tag.
const RECORD_OVERHEAD_LEN: usize = 64;
/// Text in one record.
const RECORD_TEXT_LEN: usize = 16 * 1024;
/// What may be kept of records and handshake messages that are not whole: rustls takes handshake messages
/// of up to 64 KiB, in records with their headers.
pub const PART_LEN_MAX: usize = 80 * 1024;

enum Role {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The handshake goes on.
    Handshaking,
    /// Text may go both ways.
    Open,
    /// The peer has sent its close_notify.
    PeerClosed,
}

/// A TLS session.
pub struct Session {
    role: Role,
    /// The part record of the last read, for the next.
    part: Vec<u8>,
    /// There was a fault: rustls must not be asked for anything any more.
    faulty: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("part_len", &self.part.len()).finish_non_exhaustive()
    }
}

enum Step {
    Again,
    Wait,
    PeerClosed,
}

impl Session {
    /// The accepting side of a connection.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self { role: Role::Server(UnbufferedServerConnection::new(config)?), part: Vec::new(), faulty: false })
    }

    /// The connecting side. Its first message is written by the first call of `feed`.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn connect(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self { role: Role::Client(UnbufferedClientConnection::new(config, name)?), part: Vec::new(), faulty: false })
    }

    /// Length of the part record that must stand before what is read next.
    #[cfg(test)]
    pub(super) fn part_len(&self) -> usize {
        self.part.len()
    }

    /// Puts the part record to the front of `scratch`, so that the next read continues it; says how long it is.
    pub fn lay_part(&mut self, scratch: &mut [u8]) -> usize {
        let len = self.part.len();
        scratch[..len].copy_from_slice(&self.part);
        len
    }

    /// Whether a fault has ended it.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        self.faulty
    }

    /// Whether the handshake is still under way.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        match &self.role {
            Role::Server(conn) => conn.is_handshaking(),
            Role::Client(conn) => conn.is_handshaking(),
        }
    }

    /// Whether rustls has something to send of its own accord.
    fn has_alert(&self) -> bool {
        match &self.role {
            Role::Server(conn) => conn.wants_write(),
            Role::Client(conn) => conn.wants_write(),
        }
    }

    /// Whether the handshake took up an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        let kind = match &self.role {
            Role::Server(conn) => conn.handshake_kind(),
            Role::Client(conn) => conn.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The version and suite that the two have agreed on.
    #[must_use]
    pub fn agreed(&self) -> Option<(ProtocolVersion, CipherSuite)> {
        let (version, suite) = match &self.role {
            Role::Server(conn) => (conn.protocol_version(), conn.negotiated_cipher_suite()),
            Role::Client(conn) => (conn.protocol_version(), conn.negotiated_cipher_suite()),
        };
        Some((version?, suite?.suite()))
    }

    /// The chain that the peer has shown and that was verified; `None` when it has shown none.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.role {
            Role::Server(conn) => conn.peer_certificates(),
            Role::Client(conn) => conn.peer_certificates(),
        }
    }

    /// Takes records: the part that `lay_part` put there, and what was read behind it. Text goes to `on_text`,
    /// what must be sent to the peer is appended to `wire`.
    ///
    /// # Errors
    /// What is wrong; an alert that tells the peer has been appended to `wire`.
    pub fn feed(
        &mut self,
        records: &mut [u8],
        wire: &mut Vec<u8>,
        on_text: &mut dyn FnMut(&[u8]),
    ) -> Result<Progress, Error> {
        if self.faulty {
            return Err(Error::General("records after a fault".into()));
        }
        let mut at = 0;
        let mut closed = false;
        loop {
            let (discard, step) = self.step(&mut records[at..], wire, on_text, &[], false);
            at += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => break,
                Ok(Step::PeerClosed) => closed = true,
                Err(fault) => {
                    self.faulty = true;
                    // rustls panics when it is shown records again after a fault, so it is asked for its alert
                    // and nothing else.
                    while self.has_alert() && self.step(&mut [], wire, on_text, &[], false).1.is_ok() {}
                    return Err(fault);
                }
            }
        }
        // Nothing counts behind a close_notify.
        let rest = if closed { &[][..] } else { &records[at..] };
        if rest.len() > PART_LEN_MAX {
            return Err(Error::General("a record or handshake message that does not end".into()));
        }
        // An empty part frees its buffer: an idle session keeps none.
        self.part = if planted(Plant::PartRecordDropped) { Vec::new() } else { rest.to_vec() };
        Ok(match (closed, self.is_handshaking()) {
            (true, _) => Progress::PeerClosed,
            (false, true) => Progress::Handshaking,
            (false, false) => Progress::Open,
        })
    }

    /// Appends the records of `text` to `wire`.
    ///
    /// # Errors
    /// The handshake is not done, or the session is at its end.
    pub fn encrypt(&mut self, text: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        self.emit(text, false, wire)
    }

    /// Appends a close_notify to `wire`.
    ///
    /// # Errors
    /// The handshake is not done, or the session is at its end.
    pub fn close(&mut self, wire: &mut Vec<u8>) -> Result<(), Error> {
        self.emit(&[], true, wire)
    }

    fn emit(&mut self, text: &[u8], close: bool, wire: &mut Vec<u8>) -> Result<(), Error> {
        if self.faulty {
            return Err(Error::EncryptError);
        }
        // rustls counts into the part record, so it has to be shown although nothing is added to it.
        let mut part = std::mem::take(&mut self.part);
        let mut at = 0;
        let result = loop {
            let before = wire.len();
            let (discard, step) = self.step(&mut part[at..], wire, &mut |_| {}, text, close);
            at += discard;
            match step {
                Ok(Step::Again | Step::PeerClosed) => {}
                Ok(Step::Wait) if wire.len() > before || text.is_empty() => break Ok(()),
                Ok(Step::Wait) => break Err(Error::HandshakeNotComplete),
                Err(fault) => {
                    self.faulty = true;
                    break Err(fault);
                }
            }
        };
        part.drain(..at);
        self.part = part;
        result
    }

    fn step(
        &mut self,
        records: &mut [u8],
        wire: &mut Vec<u8>,
        on_text: &mut dyn FnMut(&[u8]),
        text: &[u8],
        close: bool,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.role {
            Role::Server(conn) => carry_out(conn.process_tls_records(records), wire, on_text, text, close),
            Role::Client(conn) => carry_out(conn.process_tls_records(records), wire, on_text, text, close),
        }
    }
}

fn carry_out<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    wire: &mut Vec<u8>,
    on_text: &mut dyn FnMut(&[u8]),
    text: &[u8],
    close: bool,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(fault) => Err(fault),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(fault)) => break Err(fault),
                Some(Ok(record)) => {
                    discard += record.discard;
                    on_text(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            match append(wire, RECORD_OVERHEAD_LEN, |room| data.encode(room), needed_to_encode) {
                Ok(()) => Ok(Step::Again),
                Err(_) => Err(Error::General("a handshake record was encoded twice".into())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let mut result = Ok(());
            if !text.is_empty() {
                let room = text.len() + RECORD_OVERHEAD_LEN * (text.len() / RECORD_TEXT_LEN + 1);
                result = append(wire, room, |room| traffic.encrypt(text, room), needed_to_encrypt);
            }
            if close && result.is_ok() {
                result = append(wire, RECORD_OVERHEAD_LEN, |room| traffic.queue_close_notify(room), needed_to_encrypt);
            }
            result.map(|()| Step::Wait).map_err(|_| Error::EncryptError)
        }
        // Early data is never enabled, so that it can't come.
        Ok(_) => Ok(Step::Wait),
    };
    (discard, step)
}

/// Lets `write` fill room at the end of `wire`, more of it when it asks for more.
fn append<E>(
    wire: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    needed: impl Fn(&E) -> Option<usize>,
) -> Result<(), E> {
    let start = wire.len();
    wire.resize(start + room, 0);
    let mut result = write(&mut wire[start..]);
    if let Some(more) = result.as_ref().err().and_then(&needed) {
        wire.resize(start + more, 0);
        result = write(&mut wire[start..]);
    }
    wire.truncate(start + result.as_ref().copied().unwrap_or(0));
    result.map(|_| ())
}

fn needed_to_encode(error: &EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(size) => Some(size.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

fn needed_to_encrypt(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}
