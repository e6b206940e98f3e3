//! The messages of RFC 4475 and RFC 5118 through a whole engine: what a phone that sends them gets to hear, and
//! what the SIP Server gets to see, over UDP and as a stream.

use hawser::engine::{CloseReason, Input};

use crate::talk::{headers, start_line};
use crate::world::{SERVER, Sent, Setup, TCP, UDP, World};

/// What a message brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It goes on to the SIP Server.
    Forwarded,
    /// It is answered with this code.
    Answered(u16),
    /// Nothing at all.
    Nothing,
}

fn send(bytes: &[u8], stream: bool) -> (Outcome, bool) {
    const PHONE: &str = "10.0.0.9:5060";
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TCP);
    if stream {
        world.write_bytes(wire, bytes);
    } else {
        let from = PHONE.parse().expect("an address");
        world.input(0, Input::Datagram { point: UDP, from, bytes, waited: std::time::Duration::ZERO });
    }
    let mut outcome = Outcome::Nothing;
    if world.try_read_udp(SERVER).is_some() {
        outcome = Outcome::Forwarded;
    }
    let answers: Vec<String> = if stream {
        std::iter::from_fn(|| world.try_read(wire)).collect()
    } else {
        world
            .drain()
            .into_iter()
            .map(|sent| match sent {
                Sent::Datagram { text, .. } | Sent::Stream { text, .. } => text,
            })
            .collect()
    };
    if let Some(answer) = answers.first() {
        assert!(stream || answer.len() <= bytes.len() * 3, "a stranger gets too much for what it sent: {answer}");
        let to = headers(answer, "To");
        assert!(to.iter().all(|to| to.contains("tag")), "RFC 3261 §8.2.6.2: {answer}");
        assert_eq!(outcome, Outcome::Nothing, "forwarded and answered: {answer}");
        let code = start_line(answer)[8..11].parse().expect("a code");
        outcome = Outcome::Answered(code);
    }
    let closed = world.closed.iter().any(|(closed, reason)| *closed == wire && *reason == CloseReason::Framing);
    world.drain();
    world.end();
    (outcome, closed)
}

use Outcome::{Answered, Forwarded, Nothing};

/// File, what it brings about in a datagram, what on a stream, and whether the stream ends with it.
///
/// 400, 416, 420, 483 and 505 as DESIGN.md and RFC 3261 §16.3 have them, where the RFCs' text lets a liberal
/// element guess too. Responses have no transaction here and are dropped. 403: a Route of a stranger. `clerr` on
/// a stream waits for the rest of its body. What only an end point could complain about (unknown Require, a
/// media type, a Date) goes on.
const TABLE: &[(&str, Outcome, Outcome, bool)] = &[
    ("rfc4475/badaspec", Answered(400), Answered(400), false),
    ("rfc4475/badbranch", Forwarded, Forwarded, false),
    ("rfc4475/baddate", Forwarded, Forwarded, false),
    ("rfc4475/baddn", Answered(400), Answered(400), false),
    ("rfc4475/badinv01", Answered(400), Answered(400), false),
    ("rfc4475/badvers", Answered(505), Answered(505), false),
    ("rfc4475/bcast", Nothing, Nothing, false),
    ("rfc4475/bext01", Answered(420), Answered(420), false),
    ("rfc4475/bigcode", Nothing, Nothing, false),
    ("rfc4475/clerr", Answered(400), Nothing, false),
    ("rfc4475/cparam01", Forwarded, Forwarded, false),
    ("rfc4475/cparam02", Forwarded, Forwarded, false),
    ("rfc4475/dblreq", Forwarded, Forwarded, true),
    ("rfc4475/esc01", Forwarded, Forwarded, false),
    ("rfc4475/esc02", Forwarded, Forwarded, false),
    ("rfc4475/escnull", Forwarded, Forwarded, false),
    ("rfc4475/escruri", Answered(400), Answered(400), false),
    ("rfc4475/insuf", Answered(400), Answered(400), false),
    ("rfc4475/intmeth", Forwarded, Forwarded, false),
    ("rfc4475/inv2543", Forwarded, Answered(400), true),
    ("rfc4475/invut", Forwarded, Forwarded, false),
    ("rfc4475/longreq", Forwarded, Forwarded, false),
    ("rfc4475/ltgtruri", Answered(400), Answered(400), false),
    ("rfc4475/lwsdisp", Forwarded, Forwarded, false),
    ("rfc4475/lwsruri", Answered(400), Answered(400), false),
    ("rfc4475/lwsstart", Answered(400), Answered(400), false),
    ("rfc4475/mcl01", Answered(400), Answered(400), true),
    ("rfc4475/mismatch01", Answered(400), Answered(400), false),
    ("rfc4475/mismatch02", Answered(400), Answered(400), false),
    ("rfc4475/mpart01", Answered(403), Answered(403), false),
    ("rfc4475/multi01", Answered(400), Answered(400), false),
    ("rfc4475/ncl", Answered(400), Answered(400), true),
    ("rfc4475/noreason", Nothing, Nothing, false),
    ("rfc4475/novelsc", Answered(416), Answered(416), false),
    ("rfc4475/quotbal", Answered(400), Answered(400), false),
    ("rfc4475/regaut01", Forwarded, Forwarded, false),
    ("rfc4475/regbadct", Answered(400), Answered(400), false),
    ("rfc4475/regescrt", Forwarded, Forwarded, false),
    ("rfc4475/scalar02", Answered(400), Answered(400), false),
    ("rfc4475/scalarlg", Nothing, Nothing, false),
    ("rfc4475/sdp01", Forwarded, Forwarded, false),
    ("rfc4475/semiuri", Forwarded, Forwarded, false),
    ("rfc4475/test", Nothing, Nothing, true),
    ("rfc4475/transports", Forwarded, Forwarded, false),
    ("rfc4475/trws", Answered(400), Answered(400), false),
    ("rfc4475/unkscm", Answered(416), Answered(416), false),
    ("rfc4475/unksm2", Forwarded, Forwarded, false),
    ("rfc4475/unreason", Nothing, Nothing, false),
    ("rfc4475/wsinv", Answered(403), Answered(403), false),
    ("rfc4475/zeromf", Answered(483), Answered(483), false),
    ("rfc5118/ipv4-mapped-ipv6", Forwarded, Forwarded, false),
    ("rfc5118/ipv6-bad", Answered(400), Answered(400), false),
    ("rfc5118/ipv6-bug-abnf-3-colons", Forwarded, Forwarded, false),
    ("rfc5118/ipv6-correct-abnf-2-colons", Forwarded, Forwarded, false),
    ("rfc5118/ipv6-good", Forwarded, Forwarded, false),
    ("rfc5118/ipv6-in-sdp", Forwarded, Forwarded, false),
    ("rfc5118/mult-ip-in-header", Forwarded, Forwarded, false),
    ("rfc5118/mult-ip-in-sdp", Forwarded, Forwarded, false),
    ("rfc5118/port-ambiguous", Forwarded, Forwarded, false),
    ("rfc5118/port-unambiguous", Forwarded, Forwarded, false),
    ("rfc5118/via-received-param-no-delim", Forwarded, Forwarded, false),
    ("rfc5118/via-received-param-with-delim", Forwarded, Forwarded, false),
];

fn directory(name: &str) -> String {
    format!("{}/tests/torture/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn torture_messages_go_on_or_are_answered_as_the_rfcs_ask() {
    for &(name, in_datagram, on_stream, ends) in TABLE {
        let bytes = std::fs::read(directory(&format!("{name}.dat"))).expect(name);
        assert_eq!(send(&bytes, false), (in_datagram, false), "{name} in a datagram");
        assert_eq!(send(&bytes, true), (on_stream, ends), "{name} on a stream");
    }
}

#[test]
fn every_torture_message_is_in_the_table() {
    for dir in ["rfc4475", "rfc5118"] {
        for entry in std::fs::read_dir(directory(dir)).expect("the messages") {
            let path = entry.expect("an entry").path();
            let name = format!("{dir}/{}", path.file_stem().expect("a name").to_string_lossy());
            assert!(TABLE.iter().any(|row| row.0 == name), "{name}");
        }
    }
}
