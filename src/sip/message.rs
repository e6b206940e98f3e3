//! A parsed message: one buffer, and spans into it.
//!
//! [`Message::scan`] splits start line, header fields and body and picks out what every message needs.
//! It fails only when the message cannot even be answered; every other fault is kept in
//! [`Message::fault`], for the one place that turns it into a 400 or a drop (RFC 3261 §16.3, §8.2).

use smallvec::SmallVec;

use super::scan::{Extent, scan};
use super::value::{ViaError, parse_u32, split_values};
use super::{Name, NameAddr, Span, Uri, Via};
use std::time::Duration;

use crate::clock::Time;
use crate::limits::HEADER_BLOCK_LEN_MAX;

/// A request method (RFC 3261 §7.1 and its extensions); `Other` is forwarded as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the method of that name")]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Register,
    Options,
    Prack,
    Subscribe,
    Notify,
    Publish,
    Info,
    Refer,
    Message,
    Update,
    Other,
}

impl Method {
    /// By its text. Methods are case-sensitive (RFC 3261 §7.1).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"PRACK" => Self::Prack,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"PUBLISH" => Self::Publish,
            b"INFO" => Self::Info,
            b"REFER" => Self::Refer,
            b"MESSAGE" => Self::Message,
            b"UPDATE" => Self::Update,
            _ => Self::Other,
        }
    }
}

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `METHOD SP Request-URI SP SIP-Version`.
    Request {
        /// The known method.
        method: Method,
        /// The method as written.
        method_span: Span,
        /// The Request-URI as written.
        uri: Span,
    },
    /// `SIP-Version SP Status-Code SP Reason-Phrase`.
    Status {
        /// 100–699.
        code: u16,
        /// May be empty.
        reason: Span,
    },
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The known name, compact forms included.
    pub name: Name,
    /// The name as written.
    pub name_span: Span,
    /// The value without white space around it; may hold folded lines.
    pub value: Span,
    /// From the first byte of the name to past the CRLF that ends the field: what to copy or to cut out.
    pub line: Span,
}

/// `CSeq: number method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cseq {
    /// Less than 2^31.
    pub number: u32,
    /// The method's known name.
    pub method: Method,
    /// The method as written.
    pub method_span: Span,
}

/// Why bytes are no message that could be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// No start line of a request or a status.
    StartLine,
    /// The end of the header block is missing.
    Truncated,
    /// A header block over its bound.
    TooLarge,
    /// More header fields than their bound.
    TooManyFields,
    /// A response with a fault, or a request without a Via to send an answer by.
    Unanswerable,
}

/// What is wrong with a message that can be answered. One variant for each misbehaviour;
/// `response::fault_reply` gives each its code and phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant names the header field and what is wrong with it")]
pub enum Fault {
    /// SIP-Version is not `SIP/2.0`: 505.
    Version,
    RequestLine,
    RequestUri,
    /// A scheme other than sip, sips, tel and urn: 416.
    Scheme,
    HeaderSyntax,
    TooManyValues,
    ViaSyntax,
    MissingTo,
    ToSyntax,
    DuplicateTo,
    MissingFrom,
    FromSyntax,
    DuplicateFrom,
    MissingCallId,
    CallIdSyntax,
    DuplicateCallId,
    MissingCseq,
    CseqSyntax,
    CseqMethod,
    DuplicateCseq,
    MaxForwardsSyntax,
    DuplicateMaxForwards,
    ContentLengthSyntax,
    ContentLengthConflict,
    ContentLengthMissing,
    /// Over UDP: larger than what follows the header block.
    ContentLengthTooLarge,
    RouteSyntax,
    /// Of a REGISTER; elsewhere Contact is not looked at.
    ContactSyntax,
    /// 414.
    RequestUriTooLong,
    RequestUriHost,
    RequestUriPort,
    /// On a stream: 513.
    HeaderBlockTooLarge,
    /// On a stream: 513.
    MessageTooLarge,
}

impl Fault {
    /// Whether it is one of a response too. What finds a response's transaction is its Via and its CSeq
    /// (RFC 3261 §17.1.3); the rest of its head is for who reads it.
    pub(super) fn is_of_response(self) -> bool {
        !matches!(
            self,
            Self::MissingTo
                | Self::ToSyntax
                | Self::DuplicateTo
                | Self::MissingFrom
                | Self::FromSyntax
                | Self::DuplicateFrom
                | Self::MissingCallId
                | Self::CallIdSyntax
                | Self::DuplicateCallId
                | Self::MaxForwardsSyntax
                | Self::DuplicateMaxForwards
        )
    }

    /// Whether nobody can say where the message ends, so that a stream must not go on after it.
    #[must_use]
    pub fn ends_stream(self) -> bool {
        matches!(
            self,
            Self::HeaderSyntax
                | Self::ContentLengthSyntax
                | Self::ContentLengthConflict
                | Self::ContentLengthMissing
                | Self::ContentLengthTooLarge
                | Self::HeaderBlockTooLarge
                | Self::MessageTooLarge
        )
    }
}

/// A message with its buffer. `Debug` prints the start line and lengths.
#[derive(Clone)]
pub struct Message {
    pub(super) buf: Vec<u8>,
    pub(super) start: Start,
    pub(super) fields: SmallVec<[Field; 24]>,
    pub(super) first_field: u16,
    pub(super) head_end: u16,
    /// Of the whole message.
    pub(super) length: u32,
    pub(super) via_count: u16,
    pub(super) top_via: Via,
    pub(super) call_id: Span,
    pub(super) cseq: Cseq,
    pub(super) from_tag: Span,
    pub(super) to_tag: Span,
    pub(super) max_forwards: Option<u32>,
    pub(super) request_uri: Option<Uri>,
    pub(super) route_uris: SmallVec<[Span; 4]>,
    pub(super) fault: Option<Fault>,
    pub(super) came: Time,
    /// When its wait for the shard that has it began.
    pub(super) posted: Time,
    pub(super) was_in_overload: bool,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({:?}, {} bytes)", self.start, self.buf.len())
    }
}

/// What comes of a buffer: a message, for which there is one place in memory from the beginning, or the buffer with why not.
pub type Scanned = Result<Box<Message>, (ScanError, Vec<u8>)>;

/// Spans to leave out of a message.
pub type Cuts = SmallVec<[Span; 4]>;

impl Message {
    /// Parses a datagram, or one message that the framer cut out of a stream. Empty lines before the start
    /// line are taken off, and so is what follows the body by Content-Length (RFC 3261 §7.5, §18.3).
    ///
    /// # Errors
    /// What [`ScanError`] says, with the buffer, so that it can be used again.
    pub fn scan(mut buf: Vec<u8>, stream: bool) -> Scanned {
        if matches!(buf.first(), Some(b'\r' | b'\n')) {
            let blank = buf.chunks(2).take_while(|pair| pair == b"\r\n").count() * 2;
            buf.drain(..blank);
        }
        let extent = if stream { Extent::Stream } else { Extent::Datagram };
        match scan(&buf, extent) {
            Ok(mut message) => {
                buf.truncate(message.length as usize);
                message.buf = buf;
                Ok(message)
            }
            Err(error) => Err((error, buf)),
        }
    }

    /// Parses the header block that a [`super::FrameFault`] holds, so that the request can be answered. The
    /// message has the fault for which the framer stopped, and no body.
    ///
    /// # Errors
    /// As [`Message::scan`].
    pub fn scan_head(mut head: Vec<u8>) -> Scanned {
        let mut cut_off = false;
        if !head.ends_with(b"\r\n\r\n") {
            // Only whole lines count.
            cut_off = true;
            head.truncate(HEADER_BLOCK_LEN_MAX);
            let end = memchr::memmem::rfind(&head, b"\r\n").map_or(0, |at| at + 2);
            head.truncate(end);
            head.extend_from_slice(b"\r\n");
        }
        match scan(&head, Extent::HeadOnly { cut_off }) {
            Ok(mut message) => {
                message.buf = head;
                Ok(message)
            }
            Err(error) => Err((error, head)),
        }
    }

    /// Bytes of memory that it holds: many short header fields take more than their text.
    #[must_use]
    pub fn held_len(&self) -> usize {
        let fields = if self.fields.spilled() { self.fields.capacity() * size_of::<Field>() } else { 0 };
        let routes = if self.route_uris.spilled() { self.route_uris.capacity() * size_of::<Span>() } else { 0 };
        size_of::<Self>() + self.buf.capacity() + fields + routes
    }

    /// When it came; in the future when that is not known.
    #[must_use]
    pub fn came(&self) -> Time {
        self.came
    }

    /// It came then.
    pub fn set_came(&mut self, came: Time) {
        (self.came, self.posted) = (came, came);
    }

    /// The shard where it landed sends it on, which is overloaded or not.
    pub fn set_posted(&mut self, now: Time, overloaded: bool) {
        (self.posted, self.was_in_overload) = (now, overloaded);
    }

    /// For how long it has waited for the shard that has it now.
    #[must_use]
    pub fn waited(&self, now: Time) -> Duration {
        now.since(self.posted)
    }

    /// For how long it had waited where it landed, when that shard was overloaded and has sent it on.
    #[must_use]
    pub fn waited_before(&self) -> Option<Duration> {
        self.was_in_overload.then(|| self.posted.since(self.came))
    }

    /// The whole message.
    #[must_use]
    pub fn buf(&self) -> &[u8] {
        &self.buf
    }

    /// Gives the buffer back.
    #[must_use]
    pub fn into_buf(self) -> Vec<u8> {
        self.buf
    }

    /// The bytes of a span of this message.
    #[must_use]
    pub fn text(&self, span: Span) -> &[u8] {
        span.of(&self.buf)
    }

    /// Whether it is a request.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// A request's method; `None` for a response.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        match self.start {
            Start::Request { method, .. } => Some(method),
            Start::Status { .. } => None,
        }
    }

    /// The method as written: a request's own, a response's by its CSeq.
    #[must_use]
    pub fn method_text(&self) -> &[u8] {
        match self.start {
            Start::Request { method_span, .. } => self.text(method_span),
            Start::Status { .. } => self.text(self.cseq.method_span),
        }
    }

    /// A response's status code; `None` for a request.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Status { code, .. } => Some(code),
        }
    }

    /// A request's Request-URI; `None` for a response, and when its syntax is a fault.
    #[must_use]
    pub fn request_uri(&self) -> Option<&Uri> {
        self.request_uri.as_ref()
    }

    /// The URIs of a request's Route values, for [`Uri::parse_checked`]; an empty span where a value is
    /// malformed. At most `VALUES_MAX`: that there are more is a fault.
    #[must_use]
    pub fn route_uris(&self) -> &[Span] {
        &self.route_uris
    }

    /// The first thing that is wrong with it. Only requests have one.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// All header fields in their order.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The first field of that name.
    #[must_use]
    pub fn first(&self, name: Name) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The values of a list header, across its fields and the commas in them.
    pub fn values(&self, name: Name) -> impl Iterator<Item = Span> + '_ {
        let fields = self.fields.iter().filter(move |field| field.name == name);
        fields.flat_map(|field| split_values(&self.buf, field.value))
    }

    /// How many values a list header has. Via's are counted once; that there are more than `VALUES_MAX` is a fault.
    #[must_use]
    pub fn count_values(&self, name: Name) -> usize {
        if name == Name::Via { self.via_count.into() } else { self.values(name).count() }
    }

    /// The topmost Via.
    #[must_use]
    pub fn top_via(&self) -> &Via {
        &self.top_via
    }

    /// All Via values from the top. Only the first is known to be well formed.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via, ViaError>> + '_ {
        self.values(Name::Via).map(|span| Via::parse(&self.buf, span))
    }

    /// The Call-ID; empty when its absence is the fault, and in a response without one.
    #[must_use]
    pub fn call_id(&self) -> &[u8] {
        self.text(self.call_id)
    }

    /// The CSeq; number 0 with an empty method when its absence is the fault.
    #[must_use]
    pub fn cseq(&self) -> Cseq {
        self.cseq
    }

    /// From's tag; empty when there is none (RFC 2543).
    #[must_use]
    pub fn from_tag(&self) -> &[u8] {
        self.tag(Name::From, self.from_tag)
    }

    /// To's tag; empty outside of a dialog.
    #[must_use]
    pub fn to_tag(&self) -> &[u8] {
        self.tag(Name::To, self.to_tag)
    }

    /// A request's tag is read with the request. Few ask for a response's, so that it is looked for only then.
    fn tag(&self, name: Name, of_request: Span) -> &[u8] {
        let looked_for = || NameAddr::parse_tag(&self.buf, self.first(name)?.value).ok()?;
        self.text(if self.is_request() { of_request } else { looked_for().unwrap_or_default() })
    }

    /// Max-Forwards, 0–255.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u32> {
        self.max_forwards
    }

    /// Expires in seconds; `None` when it is missing or malformed, which counts as the default
    /// (RFC 3261 §10.2.1.1).
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.first(Name::Expires).and_then(|field| parse_u32(self.text(field.value)))
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.buf.get(self.head_end() + 2..).unwrap_or(&[])
    }

    /// Where the empty line's CRLF is: a header line inserted here becomes the last one.
    #[must_use]
    pub fn head_end(&self) -> usize {
        self.head_end.into()
    }

    /// Right after the start line: a header line inserted here becomes the first one.
    #[must_use]
    pub fn first_field_at(&self) -> usize {
        self.first_field.into()
    }

    /// Whether a list of tokens (Supported, Require, Proxy-Require) holds this one, in any case.
    #[must_use]
    pub fn has_option(&self, name: Name, option: &[u8]) -> bool {
        self.values(name).any(|value| self.text(value).eq_ignore_ascii_case(option))
    }

    /// What to leave out so that the first `n` values of a list header vanish: whole lines where all
    /// values of a line go, else values with the comma behind them.
    #[must_use]
    pub fn cut_values(&self, name: Name, n: usize) -> Cuts {
        self.cut_values_where(name, |index, _| index < n)
    }

    /// What to leave out so that all values vanish for which `cut` holds, given index and value. To cut
    /// several, call it once: cuts of single values made apart would leave commas behind.
    #[must_use]
    pub fn cut_values_where(&self, name: Name, mut cut: impl FnMut(usize, Span) -> bool) -> Cuts {
        let mut cuts = Cuts::new();
        let mut index = 0;
        for field in self.fields.iter().filter(|field| field.name == name) {
            // Where the values begin that go as long as none of the line stays, and where the one before ends.
            let (mut first, mut before) = (None, None);
            for value in split_values(&self.buf, field.value) {
                let goes = cut(index, value);
                index += 1;
                match before {
                    None if goes => first = first.or(Some(value.start)),
                    // Behind a value that stays, a value goes with the comma before it.
                    Some(start) if goes => cuts.push(Span { start, end: value.end }),
                    _ => {
                        if let Some(start) = first.take() {
                            cuts.push(Span { start, end: value.start });
                        }
                    }
                }
                if !goes || before.is_some() {
                    before = Some(value.end);
                }
            }
            if first.is_some() {
                cuts.push(field.line);
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests;
