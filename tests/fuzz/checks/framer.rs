//! A stream in chunks. Input: how many cuts, the cuts, the stream.

use hawser::sip::value::parse_u32;
use hawser::sip::{Fault, FrameFault, Framed, Framer, Message, Name, ScanError};

use super::parts::Front;

/// What a framer found.
#[derive(Debug, PartialEq)]
enum Found {
    Ping,
    Message(Vec<u8>, Result<Option<Fault>, ScanError>),
}

/// What is found, how it ends, and whether a message is begun.
type Framing = (Vec<Found>, Result<bool, FrameFault>);

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let count = front.byte().into();
    let cuts = front.take(count);
    let stream = front.0;
    let whole = frame(std::iter::once(stream));
    assert_eq!(frame(chunks(stream, cuts).into_iter()), whole, "cut by {cuts:?}");
    assert_eq!(frame(stream.chunks(1)), whole, "byte by byte");
    lies_in(&whole, stream);
    for found in &whole.0 {
        if let Found::Message(bytes, _) = found {
            agrees(bytes);
        }
    }
    if let Err(fault) = whole.1 {
        let reason = fault.fault;
        if let Ok(message) = fault.into_message() {
            assert_eq!(message.fault(), Some(reason), "what is answered is why the stream ends");
        }
    }
}

/// The lengths of the chunks go round; a zero counts as one.
fn chunks<'a>(mut stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    for cut in cuts.iter().cycle() {
        let (chunk, rest) = stream.split_at(usize::from(*cut).max(1).min(stream.len()));
        if chunk.is_empty() {
            break;
        }
        out.push(chunk);
        stream = rest;
    }
    out.push(stream);
    out
}

fn frame<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Framing {
    let mut framer = Framer::default();
    let mut found = Vec::new();
    for mut chunk in chunks {
        loop {
            match framer.next(&mut chunk, &mut Vec::new) {
                Ok(Some(Framed::Ping)) => found.push(Found::Ping),
                Ok(Some(Framed::Message(Ok(message)))) => {
                    let fault = message.fault();
                    found.push(Found::Message(message.into_buf(), Ok(fault)));
                }
                Ok(Some(Framed::Message(Err((error, bytes))))) => found.push(Found::Message(bytes, Err(error))),
                Ok(None) => break,
                Err(fault) => return (found, Err(fault)),
            }
        }
        assert!(chunk.is_empty(), "bytes are left");
    }
    (found, Ok(framer.begun()))
}

/// What was found is the stream, piece by piece, with nothing but empty lines between.
fn lies_in((found, end): &Framing, stream: &[u8]) {
    let mut at = 0;
    for found in found {
        let blank = stream[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        match found {
            Found::Ping => {
                assert!(stream[at..].starts_with(b"\r\n\r\n"), "a ping is CRLFCRLF");
                at += 4;
            }
            Found::Message(bytes, _) => {
                assert!(blank < 4, "a ping is not overheard");
                at += blank;
                assert!(stream[at..].starts_with(bytes), "a message is other bytes than were sent");
                at += bytes.len();
            }
        }
    }
    if *end == Ok(false) {
        assert!(
            stream[at..].iter().all(|byte| matches!(byte, b'\r' | b'\n')) && stream.len() - at < 4,
            "bytes are lost"
        );
    }
}

/// The scanner reads a framed message to its end, and so does who reads it as a datagram.
fn agrees(bytes: &[u8]) {
    let Ok(message) = Message::scan(bytes.to_vec(), true) else { return };
    assert_eq!(message.buf(), bytes, "framer and scanner disagree");
    assert!(!message.fault().is_some_and(Fault::ends_stream), "{:?} should have ended the stream", message.fault());
    let said = message.fields().iter().filter(|field| field.name == Name::ContentLength);
    let lengths: Vec<_> = said.map(|field| parse_u32(message.text(field.value))).collect();
    let body_len = u32::try_from(message.body().len()).ok();
    assert!(!lengths.is_empty() && lengths.iter().all(|length| *length == body_len), "{lengths:?} is not {body_len:?}");
    let datagram = Message::scan(bytes.to_vec(), false).expect("as a stream it is a message");
    assert_eq!((datagram.buf(), datagram.body()), (bytes, message.body()), "a datagram is read otherwise");
    assert_eq!(datagram.fault(), message.fault());
}
