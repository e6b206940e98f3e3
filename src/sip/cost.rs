//! What the text layer costs for one message, counted by hand under callgrind, and that it allocates nothing
//! beyond the message's own buffer.
//!
//! `cargo test --release --lib --no-run`, then
//! `valgrind --tool=callgrind --toggle-collect='*sip::cost::NAME*' BINARY --ignored sip::cost::rounds`,
//! where NAME is one of the functions below; divide by `ROUNDS`.

use super::{Edits, Framed, Framer, Message, Name};

const ROUNDS: usize = 1_000;

/// An INVITE as a proxy sees it in the middle: 20 header fields, two Vias, SDP.
const INVITE: &[u8] = b"INVITE sip:1001@192.0.2.44:5061;transport=tls;ob SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK0aF83kd93kfh4kd8fjw3kd7fhg;rport\r\n\
    Via: SIP/2.0/TLS 198.51.100.7:49152;branch=z9hG4bK-524287-1---a8d2f6a1;received=198.51.100.7\r\n\
    Max-Forwards: 69\r\n\
    Record-Route: <sip:192.0.2.10;lr;ftag=38c1e02a>\r\n\
    Route: <sip:AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEfGhIj@192.0.2.20:5060;lr;ob>\r\n\
    Contact: <sip:1000@198.51.100.7:49152;transport=tls;ob>\r\n\
    To: \"Bob\" <sip:1001@example.com>\r\n\
    From: \"Alice\" <sip:1000@example.com>;tag=38c1e02a\r\n\
    Call-ID: 87a4NzYyZGY3ZDMwMjE1YjQ1ZmQ3OWM3OTk@198.51.100.7\r\n\
    CSeq: 2 INVITE\r\n\
    Session-Expires: 1800\r\n\
    Min-SE: 90\r\n\
    Allow: OPTIONS, SUBSCRIBE, NOTIFY, INVITE, ACK, CANCEL, BYE, REFER, INFO, MESSAGE, UPDATE, PRACK\r\n\
    Supported: replaces, 100rel, timer, norefersub, outbound, path\r\n\
    User-Agent: Phone/7.1.2 (Linux)\r\n\
    X-Genesys-CallUUID: 0A1B2C3D4E5F60718293A4B5C6D7E8F9\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 127\r\n\
    Allow-Events: talk, hold\r\n\
    Accept: application/sdp\r\n\
    \r\n\
    v=0\r\no=- 3907 3907 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\n";

#[inline(never)]
fn frame(framer: &mut Framer, buf: Vec<u8>) -> Box<Message> {
    let mut input = std::hint::black_box(INVITE);
    let mut spare = Some(buf);
    match framer.next(&mut input, &mut || spare.take().unwrap_or_default()) {
        Ok(Some(Framed::Message(Ok(message)))) => message,
        other => panic!("it is one message: {other:?}"),
    }
}

#[inline(never)]
fn scan(buf: Vec<u8>) -> Box<Message> {
    Message::scan(buf, true).unwrap_or_else(|(error, _)| panic!("it is a message: {error:?}"))
}

/// What forwarding changes: Via added, Max-Forwards less one, own Route gone, Record-Route added.
#[inline(never)]
fn forward(message: &Message, edits: &mut Edits, out: &mut Vec<u8>) {
    edits.clear();
    out.clear();
    edits.insert(message.first_field_at(), b"Via: SIP/2.0/TLS 192.0.2.20:5061;branch=z9hG4bK0123456789abcdef0123\r\n");
    edits.insert(
        message.first_field_at(),
        b"Record-Route: <sip:AbCdEfGhIjKlMnOpQrStUvWxYz0123456789@192.0.2.20:5061;transport=tls;lr>\r\n",
    );
    if let Some(field) = message.first(Name::MaxForwards) {
        let hops = message.max_forwards().unwrap_or(70).saturating_sub(1);
        edits.replace_with(field.value, |out| super::value::write_u32(hops, out));
    }
    for cut in message.cut_values(Name::Route, 1) {
        edits.remove(cut);
    }
    edits.apply(message.buf(), out);
}

#[test]
fn a_usual_message_needs_no_memory_beyond_its_buffer() {
    let mut framer = Framer::default();
    let buf = Vec::with_capacity(4096);
    let memory = buf.as_ptr();
    let message = frame(&mut framer, buf);
    assert!(!framer.begun());
    assert_eq!((message.fault(), message.fields().len()), (None, 20));
    assert!(!message.fields.spilled(), "its fields stand in the message itself");
    assert!(!message.cut_values(Name::Route, 1).spilled());
    let (mut edits, mut out) = (Edits::new(), Vec::with_capacity(4096));
    forward(&message, &mut edits, &mut out);
    let before = (edits.memory(), out.as_ptr(), out.capacity());
    forward(&message, &mut edits, &mut out);
    assert_eq!((edits.memory(), out.as_ptr(), out.capacity()), before, "used again, nothing grows");
    let sent = scan(out);
    assert_eq!((sent.count_values(Name::Via), sent.max_forwards(), sent.count_values(Name::Route)), (3, Some(68), 0));
    assert_eq!(sent.body(), message.body());
    let back = message.into_buf();
    assert_eq!(back.as_ptr(), memory, "the buffer that was taken comes back");
}

#[test]
#[ignore = "a measurement, run by hand under callgrind"]
fn rounds() {
    let (mut framer, mut edits, mut out) = (Framer::default(), Edits::new(), Vec::with_capacity(4096));
    let mut buf = Vec::with_capacity(4096);
    for _ in 0..ROUNDS {
        let message = frame(&mut framer, buf);
        forward(&message, &mut edits, &mut out);
        buf = message.into_buf();
    }
    assert!(out.len() > INVITE.len());
}
