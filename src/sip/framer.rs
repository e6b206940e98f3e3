//! Finds messages in a stream (RFC 3261 §18.3, RFC 5626 §3.5.1).
//!
//! Owns the bytes of a message that is begun and nothing else: between messages it holds no memory. Its
//! work is linear in the bytes, however they arrive. What leaves doubt about
//! where a message ends is a fault, after which the stream must be closed: a guess would let somebody's
//! body be read as somebody else's request. The caller bounds the time that a message may take.

use super::Fault;
use super::lines::{head_len, measure};
use super::message::{Message, Scanned};
use super::scan::{Extent, scan};
use crate::limits::{HEADER_BLOCK_LEN_MAX, MESSAGE_LEN_MAX};

/// Keeps a part message between reads.
#[derive(Default)]
pub struct Framer {
    /// What there is of the message that is begun; never longer than `MESSAGE_LEN_MAX`.
    buf: Vec<u8>,
    /// How far `buf` was searched for the end of the header block.
    searched: usize,
    /// The message's whole length, once the header block is there.
    length: Option<usize>,
    /// How many bytes of CRLFCRLF stand before the next message.
    blank: u8,
}

impl std::fmt::Debug for Framer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framer({} of {:?} bytes)", self.buf.len(), self.length)
    }
}

/// What was found.
#[derive(Debug)]
pub enum Framed {
    /// One whole message, without empty lines before it, as [`Message::scan`] reads it.
    Message(Scanned),
    /// CRLFCRLF between messages, to be answered with CRLF.
    Ping,
}

/// Why the stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFault {
    /// What is wrong.
    pub fault: Fault,
    /// What there is of the message's header block; empty when there is nothing to answer.
    pub head: Vec<u8>,
}

impl FrameFault {
    /// The request to answer before the stream is closed, with the fault.
    ///
    /// # Errors
    /// As [`Message::scan`].
    pub fn into_message(self) -> Scanned {
        Message::scan_head(self.head)
    }
}

/// The empty line may stand behind a header block of full length.
const HEAD_LEN_MAX: usize = HEADER_BLOCK_LEN_MAX + 2;

impl Framer {
    /// Takes bytes off `input` until something is found; `Ok(None)` when all of them are taken and more are
    /// needed. `take` gives an empty buffer for a message. Call it until it returns `Ok(None)`.
    ///
    /// # Errors
    /// The stream must be closed; nothing of it can be read any more.
    pub fn next(&mut self, input: &mut &[u8], take: &mut dyn FnMut() -> Vec<u8>) -> Result<Option<Framed>, FrameFault> {
        if self.buf.is_empty() {
            match self.skip_blank(input)? {
                Some(ping) => return Ok(Some(ping)),
                None if input.is_empty() => return Ok(None),
                None => {}
            }
            if let Some(message) = self.next_whole(input, take)? {
                return Ok(Some(Framed::Message(message)));
            }
        }
        Ok(self.next_buffered(input)?.map(|buf| Framed::Message(Message::scan(buf, true))))
    }

    /// Whether a message is begun. Else it keeps no memory: a CRLF that may become a ping is remembered without any.
    #[must_use]
    pub fn begun(&self) -> bool {
        !self.buf.is_empty()
    }

    /// How much of a message is kept.
    #[cfg(test)]
    pub(super) fn buffered_len(&self) -> usize {
        self.buf.len()
    }

    /// Takes off empty lines between messages. Half a CRLF is a fault: no message begins with it.
    fn skip_blank(&mut self, input: &mut &[u8]) -> Result<Option<Framed>, FrameFault> {
        while let Some((&byte, rest)) = input.split_first() {
            let wanted = if self.blank.is_multiple_of(2) { b'\r' } else { b'\n' };
            if byte != wanted {
                // No message begins with a control character or beyond ASCII, but TLS does: it is not waited for its end.
                if self.blank.is_multiple_of(2) && matches!(byte, b' '..=b'~') {
                    self.blank = 0;
                    return Ok(None);
                }
                return Err(FrameFault { fault: Fault::RequestLine, head: Vec::new() });
            }
            *input = rest;
            self.blank += 1;
            if self.blank == 4 {
                self.blank = 0;
                return Ok(Some(Framed::Ping));
            }
        }
        Ok(None)
    }

    /// The usual case: a whole message lies in `input`, and is read and copied once. Otherwise keeps what there is.
    fn next_whole(
        &mut self,
        input: &mut &[u8],
        take: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<Option<Scanned>, FrameFault> {
        // One reading frames and parses what the scanner finds no fault with. Of all else, parts of a message among it,
        // only the end is looked for.
        if let Ok(mut message) = scan(input, Extent::Stream)
            && message.fault.is_none()
            && message.length as usize <= MESSAGE_LEN_MAX
        {
            message.buf = cut(input, message.length as usize, take);
            return Ok(Some(Ok(message)));
        }
        let bounded = &input[..input.len().min(HEAD_LEN_MAX)];
        let length = match measure(bounded) {
            None if bounded.len() == HEAD_LEN_MAX => return Err(fault(Fault::HeaderBlockTooLarge, bounded, take)),
            None => None,
            Some(Ok(measure)) => Some(measure.length),
            Some(Err((reason, head_len))) => return Err(fault(reason, &bounded[..head_len], take)),
        };
        if let Some(length) = length.filter(|&length| length <= input.len()) {
            return Ok(Some(Message::scan(cut(input, length, take), true)));
        }
        // It grows with what comes, and not by what is announced: a first byte alone must not cost a whole buffer.
        self.buf = cut(input, input.len(), &mut Vec::new);
        self.length = length;
        self.searched = self.buf.len();
        Ok(None)
    }

    fn next_buffered(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameFault> {
        debug_assert!(self.buf.len() <= MESSAGE_LEN_MAX);
        let length = match self.length {
            Some(length) => length,
            None => {
                let before = self.buf.len();
                let room = (HEAD_LEN_MAX - before).min(input.len());
                self.buf.extend_from_slice(&input[..room]);
                let Some(head_len) = head_len(&self.buf, self.searched) else {
                    *input = &input[room..];
                    self.searched = self.buf.len();
                    if self.buf.len() >= HEAD_LEN_MAX {
                        return Err(self.give_up(Fault::HeaderBlockTooLarge));
                    }
                    return Ok(None);
                };
                // The header block ended in these bytes; what is behind it stays in the input.
                self.buf.truncate(head_len);
                *input = &input[head_len - before..];
                match measure(&self.buf) {
                    Some(Ok(measure)) => measure.length,
                    Some(Err((reason, _))) => return Err(self.give_up(reason)),
                    // Never: its end was found.
                    None => return Err(self.give_up(Fault::HeaderSyntax)),
                }
            }
        };
        self.length = Some(length);
        let wanted = (length - self.buf.len()).min(input.len());
        self.buf.extend_from_slice(&input[..wanted]);
        *input = &input[wanted..];
        if self.buf.len() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(std::mem::take(&mut self.buf)))
    }

    fn give_up(&mut self, fault: Fault) -> FrameFault {
        let head = std::mem::take(&mut self.buf);
        *self = Self::default();
        FrameFault { fault, head }
    }
}

fn fault(fault: Fault, mut head: &[u8], take: &mut dyn FnMut() -> Vec<u8>) -> FrameFault {
    let length = head.len();
    FrameFault { fault, head: cut(&mut head, length, take) }
}

/// Takes so much off `input`, into a buffer.
fn cut(input: &mut &[u8], length: usize, take: &mut dyn FnMut() -> Vec<u8>) -> Vec<u8> {
    let (bytes, rest) = input.split_at(length);
    *input = rest;
    let mut buf = take();
    buf.clear();
    buf.extend_from_slice(bytes);
    buf
}

#[cfg(test)]
pub(super) mod tests;
