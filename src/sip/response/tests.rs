//! Tests of `response`.

use super::*;

const REQUEST: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport;x, SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK0\r\n\
    v: SIP/2.0/TLS [2001:db8::1]\r\n ;branch=z9hG4bK00\r\n\
    Max-Forwards: 70\r\nTimestamp: 54\r\n\
    f: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
    t: <sip:bob@example.com>\r\n\
    i: 1@example.com\r\n\
    CSeq: 7 INVITE\r\n\
    Route: <sip:r1;lr>, <sip:r2;lr>\r\nX: y\r\nRoute: <sip:r3;lr>\r\n\
    l: 4\r\n\r\nbody";

fn scanned(text: &str) -> Message {
    *Message::scan(text.as_bytes().to_vec(), false).unwrap_or_else(|(error, _)| panic!("{error:?}: {text}"))
}

fn source() -> SocketAddr {
    "198.51.100.7:40000".parse().expect("an address")
}

fn reply_to(request: &Message, reply: &Reply<'_>) -> String {
    let mut out = Vec::new();
    write(request, source(), reply, &mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_response_copies_what_the_request_said() {
    let reply = Reply { code: 403, reason: "Forbidden", to_tag: b"t1", extra: b"Retry-After: 5\r\n" };
    assert_eq!(
        reply_to(&scanned(REQUEST), &reply),
        "SIP/2.0 403 Forbidden\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport=40000;x;received=198.51.100.7, SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK0\r\n\
         Via: SIP/2.0/TLS [2001:db8::1]   ;branch=z9hG4bK00\r\n\
         From: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@example.com>;tag=t1\r\n\
         Call-ID: 1@example.com\r\n\
         CSeq: 7 INVITE\r\n\
         Retry-After: 5\r\n\
         Content-Length: 0\r\n\r\n"
    );
}

#[test]
fn a_100_has_no_tag_of_ours_and_keeps_the_timestamp() {
    let text = reply_to(&scanned(REQUEST), &Reply { code: 100, reason: "Trying", to_tag: b"t1", extra: b"" });
    assert!(text.contains("\r\nTo: <sip:bob@example.com>\r\n") && text.contains("\r\nTimestamp: 54\r\n"), "{text}");
}

#[test]
fn a_tag_that_is_there_stays() {
    let request = scanned(&REQUEST.replace("t: <sip:bob@example.com>", "t: <sip:bob@example.com>;tag=b"));
    let text =
        reply_to(&request, &Reply { code: 481, reason: "Call/Transaction Does Not Exist", to_tag: b"t1", extra: b"" });
    assert!(text.contains("\r\nTo: <sip:bob@example.com>;tag=b\r\n") && !text.contains("t1"), "{text}");
}

#[test]
fn a_faulty_request_is_answered_with_what_there_is() {
    let text =
        REQUEST.replace("i: 1@example.com\r\n", "").replace("t: <sip", "t: \"open <sip").replace("X: y", "bad\nv: z");
    let request = scanned(&text);
    assert!(request.fault().is_some());
    let (code, phrase) = fault_reply(Fault::ToSyntax);
    let answer = reply_to(&request, &Reply { code, reason: phrase, to_tag: b"t1", extra: b"" });
    assert!(answer.starts_with("SIP/2.0 400 Bad To\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;"), "{answer}");
    assert!(answer.contains("\r\nTo: \"open <sip:bob@example.com>;tag=t1\r\nCSeq: 7 INVITE\r\n"), "{answer}");
    assert!(answer.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "no line of theirs is made: {answer:?}");
}

fn marked(via: &str, source: &str) -> String {
    let text = REQUEST.replace("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport;x", via);
    let request = scanned(&text);
    let mut edits = Edits::new();
    mark_source(&request, source.parse().expect("an address"), &mut edits);
    let mut out = Vec::new();
    edits.apply(request.buf(), &mut out);
    let out = String::from_utf8(out).expect("ASCII");
    let value = out.split_once("Via: ").and_then(|rest| rest.1.split_once(", SIP")).expect("the top Via").0.to_owned();
    assert_eq!(out.replace(&value, via), text, "nothing else changes");
    value
}

#[test]
fn the_source_is_marked_where_it_differs_or_is_asked_for() {
    for (via, source, wanted) in [
        ("SIP/2.0/UDP 192.0.2.1;branch=1", "192.0.2.1:9", "SIP/2.0/UDP 192.0.2.1;branch=1"),
        ("SIP/2.0/UDP 192.0.2.1;branch=1", "192.0.2.2:9", "SIP/2.0/UDP 192.0.2.1;branch=1;received=192.0.2.2"),
        ("SIP/2.0/UDP host;branch=1", "192.0.2.1:9", "SIP/2.0/UDP host;branch=1;received=192.0.2.1"),
        (
            "SIP/2.0/UDP 192.0.2.1;rport;branch=1",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;rport=9;branch=1;received=192.0.2.1",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1;branch=1;rport",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;branch=1;rport=9;received=192.0.2.1",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1;rport=7;branch=1",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;rport=9;branch=1;received=192.0.2.1",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1;received=6.6.6.6;branch=1",
            "192.0.2.1:9",
            "SIP/2.0/UDP 192.0.2.1;received=192.0.2.1;branch=1",
        ),
        ("SIP/2.0/UDP a;received=6.6.6.6;rport", "192.0.2.1:9", "SIP/2.0/UDP a;received=192.0.2.1;rport=9"),
        (
            "SIP/2.0/UDP [2001:db8::1];rport",
            "[2001:db8::2]:9",
            "SIP/2.0/UDP [2001:db8::1];rport=9;received=2001:db8::2",
        ),
        ("SIP/2.0/UDP 192.0.2.1", "[::ffff:192.0.2.1]:9", "SIP/2.0/UDP 192.0.2.1"),
        ("SIP/2.0/UDP a", "[::ffff:192.0.2.1]:9", "SIP/2.0/UDP a;received=192.0.2.1"),
        // A fault, but its answer must find the way.
        ("SIP/2.0/UDP a;rport=", "192.0.2.1:9", "SIP/2.0/UDP a;rport=9;received=192.0.2.1"),
    ] {
        assert_eq!(marked(via, source), wanted, "{via} from {source}");
    }
}

#[test]
fn an_ack_takes_the_way_of_the_invite() {
    let mut busy = Vec::new();
    write(&scanned(REQUEST), source(), &Reply { code: 486, reason: "Busy", to_tag: b"t9", extra: b"" }, &mut busy);
    let busy = Message::scan(busy, true).expect("it is a response");
    let mut ack = Vec::new();
    build_ack(REQUEST.as_bytes(), &busy, &mut ack).expect("it is an INVITE");
    assert_eq!(
        String::from_utf8(ack).expect("ASCII"),
        "ACK sip:bob@example.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport;x\r\n\
         Max-Forwards: 70\r\n\
         Route: <sip:r1;lr>, <sip:r2;lr>\r\n\
         Route: <sip:r3;lr>\r\n\
         From: \"Alice\" <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@example.com>;tag=t9\r\n\
         Call-ID: 1@example.com\r\n\
         CSeq: 7 ACK\r\n\
         Content-Length: 0\r\n\r\n"
    );
}

#[test]
fn a_cancel_is_for_the_invite_as_it_was_sent() {
    let mut cancel = Vec::new();
    build_cancel(REQUEST.as_bytes(), &mut cancel).expect("it is an INVITE");
    let cancel = Message::scan(cancel, true).expect("it is a request");
    let invite = scanned(REQUEST);
    assert_eq!(
        (cancel.fault(), cancel.method(), cancel.max_forwards()),
        (None, Some(crate::sip::Method::Cancel), Some(70))
    );
    assert_eq!((cancel.cseq().number, cancel.call_id(), cancel.from_tag()), (7, invite.call_id(), invite.from_tag()));
    assert_eq!((cancel.count_values(Name::Via), cancel.count_values(Name::Route)), (1, 3));
    assert_eq!(cancel.text(cancel.top_via().all), invite.text(invite.top_via().all));
    assert_eq!(cancel.first(Name::To).map(|to| cancel.text(to.value)), Some(&b"<sip:bob@example.com>"[..]));
    let response = "SIP/2.0 200 OK".to_owned() + &REQUEST[REQUEST.find("\r\n").expect("it has lines")..];
    assert_eq!(build_cancel(response.as_bytes(), &mut Vec::new()), Err(ScanError::StartLine));
    assert_eq!(build_cancel(b"", &mut Vec::new()), Err(ScanError::Truncated));
}

#[test]
fn a_response_replaces_a_received_that_stands_before_rport() {
    let request = scanned(&REQUEST.replace(";branch=z9hG4bK1;rport;x", ";received=6.6.6.6;branch=z9hG4bK1;rport"));
    let text = reply_to(&request, &Reply { code: 200, reason: "OK", to_tag: b"t1", extra: b"" });
    let via = "Via: SIP/2.0/UDP 192.0.2.1:5060;received=198.51.100.7;branch=z9hG4bK1;rport=40000, SIP/2.0/TCP";
    assert!(text.contains(via), "{text}");
}

#[test]
fn a_fault_that_is_no_400_has_its_code() {
    assert_eq!(fault_reply(Fault::Version).0, 505);
    assert_eq!(fault_reply(Fault::Scheme).0, 416);
    assert_eq!(fault_reply(Fault::MessageTooLarge).0, 513);
    assert_eq!(fault_reply(Fault::RequestUriTooLong).0, 414);
}
