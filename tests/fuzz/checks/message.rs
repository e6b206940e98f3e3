//! A message, forwarded and answered. Input: flags, the message.

use hawser::engine::Point;
use hawser::ids::{ShardId, Side, Transport};
use hawser::limits::{FIELDS_MAX, HEADER_BLOCK_LEN_MAX, VALUES_MAX};
use hawser::proxy::{Names, Source, forward, response as passed, route, target};
use hawser::sip::response::{self, Reply};
use hawser::sip::{Edits, Message, Name, NameAddr, ScanError, Span, Uri};
use hawser::transaction::Branch;
use hawser::transaction::branch::TxnId;

use super::parts::Front;
use super::place;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let flags = front.byte();
    let bytes = front.0.to_vec();
    let Ok(message) = Message::scan(bytes, flags & 1 != 0) else { return };
    read_all(&message);
    let same = again(message.buf().to_vec(), flags & 1 != 0);
    assert_eq!((same.buf(), same.fault()), (message.buf(), message.fault()), "read twice it is the same");
    if message.is_request() {
        let source = if flags & 2 != 0 { place::server() } else { place::stranger(flags & 4 != 0) };
        answered(&message, &source);
        if message.fault().is_none() {
            forwarded(&message, &source, flags & 8 != 0);
            of_a_client(&message);
        } else {
            let (code, reason) = response::fault_reply(message.fault().expect("it has one"));
            assert!((400..600).contains(&code) && !reason.is_empty());
        }
    } else {
        passed_on(&message, flags);
    }
}

fn again(bytes: Vec<u8>, stream: bool) -> Box<Message> {
    Message::scan(bytes, stream).unwrap_or_else(|(error, _)| panic!("it was a message: {error:?}"))
}

/// Whether a message of ours cannot be too large to be read back.
fn has_room(message: &Message) -> bool {
    message.head_end() + 1_024 < HEADER_BLOCK_LEN_MAX
        && message.fields().len() + 8 < FIELDS_MAX
        && message.count_values(Name::Via) + 2 < VALUES_MAX
        && message.count_values(Name::Route) + 2 < VALUES_MAX
}

/// Everything that can be asked of it lies inside of it.
fn read_all(message: &Message) {
    let buf = message.buf();
    let mut last = message.first_field_at();
    for field in message.fields() {
        assert_eq!(usize::from(field.line.start), last, "lines leave a gap");
        last = field.line.end.into();
        assert!(field.line.start <= field.name_span.start && field.name_span.end <= field.value.start);
        assert!(field.value.end <= field.line.end, "a value leaves its line");
    }
    assert_eq!(message.head_end(), last, "fields reach the empty line");
    assert_eq!(&buf[last..last + 2], b"\r\n");
    assert_eq!(message.body(), &buf[last + 2..]);
    let call_id = message.first(Name::CallId).map_or(&b""[..], |field| message.text(field.value));
    assert!(message.call_id() == call_id || message.fault().is_some(), "another Call-ID is read than stands there");
    for (name, tag) in [(Name::From, message.from_tag()), (Name::To, message.to_tag())] {
        let value = message.first(name).and_then(|field| NameAddr::parse(buf, field.value).ok());
        let stands = value.and_then(|value| value.param(buf, "tag")).unwrap_or_default();
        assert!(tag == stands || tag.is_empty() || message.fault().is_some(), "another tag is read than stands there");
    }
    for name in [Name::Via, Name::Route, Name::RecordRoute, Name::Path, Name::Contact, Name::Supported] {
        assert_eq!(message.count_values(name).min(VALUES_MAX), message.values(name).count().min(VALUES_MAX));
    }
    let _ = (message.max_forwards(), message.expires(), message.cseq(), message.method_text(), message.held_len());
    for &span in message.route_uris() {
        if !span.is_empty() {
            assert_eq!(Uri::parse_checked(buf, span), Uri::parse(buf, span));
        }
    }
}

/// All that it says, but for what these header fields say.
fn rest<'a>(message: &'a Message, but: &[Name]) -> Vec<(&'a [u8], &'a [u8])> {
    let other = message.fields().iter().filter(|field| !but.contains(&field.name));
    other.map(|field| (message.text(field.name_span), message.text(field.value))).collect()
}

fn texts(message: &Message, name: Name) -> Vec<&[u8]> {
    message.values(name).map(|span| message.text(span)).collect()
}

fn applied(message: &Message, edits: &mut Edits) -> Vec<u8> {
    let mut out = Vec::new();
    edits.apply(message.buf(), &mut out);
    out
}

/// What is sent on is read back without a fault, says what came and what we have added, and is sent on as it is.
fn forwarded(request: &Message, source: &Source, by_stream: bool) {
    if !has_room(request) {
        return;
    }
    let settings = place::settings(Transport::Udp);
    let names = Names::new(&settings);
    let routes = route::read(request, source, &names, &place::keys(), place::here(&settings));
    // What leads nowhere is refused before.
    let strict = routes.foreign.filter(|_| routes.foreign_is_strict && source.side == Side::Server);
    if routes.malformed || strict.is_some_and(|uri| target::reachable(&uri, request.buf()).is_err()) {
        return;
    }
    let transport = if by_stream { Transport::Tcp } else { Transport::Udp };
    let point: Point = place::point(transport, 5060);
    let txn = TxnId { slot: 7, generation: 9 };
    let branch = Branch { shard: ShardId(0), txn, nonce: 0x0123_4567_89ab_cdef, loop_hash: 1 };
    let plan = forward::Plan {
        peer: source.peer,
        side: source.side,
        routes: &routes,
        point: &point,
        branch,
        request_uri: None,
    };
    let mut edits = Edits::new();
    forward::edit(request, &plan, &mut edits);
    let sent = again(applied(request, &mut edits), by_stream);
    assert_eq!(sent.fault(), None, "{}", String::from_utf8_lossy(sent.buf()));
    assert_eq!(applied(&sent, &mut Edits::new()), sent.buf(), "no edit changes something");
    assert_eq!(Branch::read(sent.text(sent.top_via().branch)), Some(branch), "our Via is not on top");
    assert_eq!(sent.body(), request.body());
    assert_eq!(sent.count_values(Name::Via), request.count_values(Name::Via) + 1);
    assert_eq!(sent.max_forwards(), Some(request.max_forwards().map_or(70, |hops| hops.saturating_sub(1))));
    assert_eq!(sent.first(Name::XGenesysRoute), None);
    let moved = [Name::Via, Name::Route, Name::MaxForwards, Name::MaxBreadth, Name::XGenesysRoute, Name::ContentLength];
    assert_eq!(rest(&sent, &moved), rest(request, &moved), "another header field has changed");
    // All Vias but the top one are somebody else's word.
    assert_eq!(texts(&sent, Name::Via)[2..], texts(request, Name::Via)[1..]);
    let (before, after) = (texts(request, Name::Route), texts(&sent, Name::Route));
    if source.side == Side::Endpoint && routes.repair.is_none() {
        assert_eq!(after[..], before[routes.own_count..], "own Routes go, and nothing else");
        assert_eq!(
            request.request_uri().map(|uri| request.text(uri.all)),
            sent.request_uri().map(|u| sent.text(u.all))
        );
    }
    response_comes_back(&sent, request);
}

/// Its answer, made as the next hop makes it, comes back with the Vias of the request.
fn response_comes_back(sent: &Message, request: &Message) {
    let mut answer = Vec::new();
    let reply = Reply { code: 200, reason: "OK", to_tag: b"t", extra: b"" };
    response::write(sent, place::address(place::SERVER), &reply, &mut answer);
    let answer = again(answer, true);
    let mut edits = Edits::new();
    passed::edit(&answer, false, Transport::Tcp, &mut edits);
    let back = again(applied(&answer, &mut edits), true);
    assert_eq!(back.count_values(Name::Via), request.count_values(Name::Via));
    assert_eq!(back.top_via().branch.of(back.buf()), request.top_via().branch.of(request.buf()));
    assert_eq!((back.call_id(), back.cseq().number), (request.call_id(), request.cseq().number));
}

/// Our answers to it can be read, and are of its transaction.
fn answered(request: &Message, source: &Source) {
    for code in [100, 200, 400, 503] {
        let mut out = Vec::new();
        let reply = Reply { code, reason: "Reason", to_tag: b"tag", extra: b"Retry-After: 5\r\n" };
        response::write(request, source.peer, &reply, &mut out);
        let length = out.len();
        match Message::scan(out, true) {
            Ok(answer) => {
                assert_eq!((answer.status(), answer.buf().len()), (Some(code), length), "something is smuggled in");
                assert_eq!(answer.fields().iter().filter(|field| field.name == Name::Other).count(), 0);
                assert_eq!(answer.body(), b"");
                if request.fault().is_none() {
                    assert_eq!(answer.cseq().number, request.cseq().number);
                    assert_eq!(answer.count_values(Name::Via), request.count_values(Name::Via));
                    assert!(code == 100 || !answer.to_tag().is_empty());
                }
            }
            Err((error, _)) => {
                let is_large = length > HEADER_BLOCK_LEN_MAX && error == ScanError::TooLarge;
                assert!(request.fault().is_some() || is_large, "our answer cannot be read: {error:?}");
            }
        }
    }
}

/// The ACK and the CANCEL that a client transaction makes of it.
fn of_a_client(request: &Message) {
    let mut answer = Vec::new();
    let reply = Reply { code: 486, reason: "Busy Here", to_tag: b"t", extra: b"" };
    response::write(request, place::address(place::SERVER), &reply, &mut answer);
    let Ok(answer) = Message::scan(answer, true) else { return };
    let (mut ack, mut cancel) = (Vec::new(), Vec::new());
    response::build_ack(request.buf(), &answer, &mut ack).expect("it is a request");
    response::build_cancel(request.buf(), &mut cancel).expect("it is a request");
    for (text, method) in [(ack, &b"ACK"[..]), (cancel, b"CANCEL")] {
        let Ok(made) = Message::scan(text, true) else {
            assert!(!has_room(request), "what we have made cannot be read");
            continue;
        };
        // A method that only looks like one of those is not theirs.
        assert_eq!((made.fault(), made.method_text()), (None, method));
        assert_eq!(made.top_via().branch.of(made.buf()), request.top_via().branch.of(request.buf()));
        assert_eq!((made.call_id(), made.cseq().number), (request.call_id(), request.cseq().number));
        assert_eq!(texts(&made, Name::Route).len(), texts(request, Name::Route).len());
    }
}

/// A response loses our Via and nothing else.
fn passed_on(message: &Message, flags: u8) {
    let (trusted, leaves_on) = (flags & 2 != 0, if flags & 4 != 0 { Transport::Tcp } else { Transport::Udp });
    let mut edits = Edits::new();
    passed::edit(message, trusted, leaves_on, &mut edits);
    match Message::scan(applied(message, &mut edits), leaves_on.is_stream()) {
        Ok(sent) => {
            let moved = [Name::Via, Name::ContentLength, Name::XGenesysRoute];
            assert_eq!(sent.count_values(Name::Via) + 1, message.count_values(Name::Via));
            assert_eq!((sent.body(), sent.status()), (message.body(), message.status()));
            assert_eq!(rest(&sent, &moved), rest(message, &moved));
            assert_eq!(texts(&sent, Name::Via)[..], texts(message, Name::Via)[1..]);
            assert!(trusted || sent.first(Name::XGenesysRoute).is_none());
        }
        // It was our own request's, or the next Via is none that anybody could be answered by.
        Err((error, _)) => {
            let next = message.values(Name::Via).nth(1).map(|span: Span| hawser::sip::Via::parse(message.buf(), span));
            let is_large = !has_room(message);
            assert!(is_large || !matches!(next, Some(Ok(_))), "it cannot be read any more: {error:?}");
        }
    }
}
