//! What is said of a message, for events.

use crate::sip::{Message, Name, NameAddr};

/// Who wants what of whom, for events: `INVITE from sip:alice@example.com to sip:bob@example.com`.
pub(super) fn in_words(request: &Message) -> Vec<u8> {
    let uri_in = |name: Name| {
        request
            .first(name)
            .and_then(|field| NameAddr::parse(request.buf(), field.value).ok())
            .map_or(&b"?"[..], |value| request.text(value.uri))
    };
    let uri = |name| cut(uri_in(name));
    let (method, call_id) = (cut(request.method_text()), cut(call_id(request)));
    [method, b" from ", uri(Name::From), b" to ", uri(Name::To), b", Call-ID ", call_id].concat()
}

/// The Call-ID of a message, for an operator to find it by elsewhere.
pub(super) fn call_id(message: &Message) -> &[u8] {
    message.first(Name::CallId).map_or(b"?", |field| message.text(field.value))
}

/// So much of what a peer sent is shown that the rest of the line has room.
fn cut(text: &[u8]) -> &[u8] {
    text.get(..80).unwrap_or(text)
}

/// A message that passes: its start line and its length.
pub(super) fn start_of(text: &[u8]) -> Vec<u8> {
    let start = memchr::memchr(b'\r', text).map_or(text, |end| &text[..end]);
    let len = format!(" ({} bytes)", text.len());
    [start.get(..200).unwrap_or(start), len.as_bytes()].concat()
}
