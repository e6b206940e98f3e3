//! A parsed message: one buffer, and spans into it.
//!
//! [`Message::scan`] splits start line, header fields and body and picks out what every message needs.
//! It fails only when the message cannot even be answered; every other fault is kept in
//! [`Message::fault`], for the one place that turns it into a 400 or a drop (RFC 3261 §16.3, §8.2).

use smallvec::SmallVec;

use super::{Name, Span, Uri, Via};

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
    /// Over a bound of `limits`: header block, number of fields.
    TooLarge,
    /// A response with a fault, or a request without a Via to send an answer by.
    Unanswerable,
}

/// What is wrong with a message that can be answered. One variant for each misbehaviour; `reason` in
/// `response` gives each its phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant names the header field and what is wrong with it")]
pub enum Fault {
    /// SIP-Version is not `SIP/2.0`: 505.
    Version,
    RequestLine,
    RequestUri,
    /// A scheme other than sip and sips: 416.
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
    ContactSyntax,
    ExpiresSyntax,
}

/// A message with its buffer. `Debug` prints the start line and lengths.
#[derive(Clone)]
pub struct Message {
    pub(super) buf: Vec<u8>,
    pub(super) start: Start,
    pub(super) fields: SmallVec<[Field; 24]>,
    pub(super) body: Span,
    pub(super) top_via: Via,
    pub(super) call_id: Span,
    pub(super) cseq: Cseq,
    pub(super) from_tag: Span,
    pub(super) to_tag: Span,
    pub(super) max_forwards: Option<u32>,
    pub(super) request_uri: Option<Uri>,
    pub(super) fault: Option<Fault>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({:?}, {} bytes)", self.start, self.buf.len())
    }
}
