//! The messages of RFC 4475 and RFC 5118 (tests/torture), each over UDP and as a stream, with what the RFCs
//! and DESIGN.md ask of a proxy's parser. Their bytes are also what the seeded tests below mutate.

use super::framer::tests::Framed;
use super::lines::{FieldLines, head_len};
use super::{Fault, FrameFault, Framer, Message, ScanError};

/// What the parser makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Taken as it is.
    Accepted,
    /// Answered with an error.
    Faulty(Fault),
    /// Dropped.
    Dropped(ScanError),
}

/// What the framer makes of the same bytes on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnStream {
    /// The same verdict as in a datagram.
    Same,
    /// It waits for more.
    Waits,
    /// The connection ends; the fault can be answered first.
    Ends(Fault),
    /// The connection ends with nothing to answer.
    EndsUnanswered(Fault),
    /// So many messages, then it ends.
    Several(usize, Fault),
}

use Fault as F;
use OnStream::{Ends, EndsUnanswered, Same, Several, Waits};
use Verdict::{Accepted, Dropped, Faulty};

macro_rules! torture {
    ($(in $dir:literal: $($name:literal $verdict:expr, $stream:expr;)+)+) => {
        const TABLE: &[(&str, &[u8], Verdict, OnStream)] = &[$($((
            $name,
            include_bytes!(concat!("../../tests/torture/", $dir, "/", $name, ".dat")),
            $verdict,
            $stream,
        ),)+)+];
    };
}

torture! {
    in "rfc4475":
    // 3.1.1, valid messages.
    "wsinv" Accepted, Same;
    "intmeth" Accepted, Same;
    "esc01" Accepted, Same;
    "escnull" Accepted, Same;
    "esc02" Accepted, Same;
    "lwsdisp" Accepted, Same;
    "longreq" Accepted, Same;
    // The INVITE behind it is noise in a datagram. On a stream it is the next message, whose body is one
    // byte longer than it says.
    "dblreq" Accepted, Several(2, F::ContentLengthMissing);
    "semiuri" Accepted, Same;
    "transports" Accepted, Same;
    "mpart01" Accepted, Same;
    "unreason" Accepted, Same;
    "noreason" Accepted, Same;
    // 3.1.2, invalid messages. Where the RFC lets a liberal element guess, Hawser does not, but for a Date
    // that it has no use for.
    "badinv01" Faulty(F::ViaSyntax), Same;
    "clerr" Faulty(F::ContentLengthTooLarge), Waits;
    "ncl" Faulty(F::ContentLengthSyntax), Ends(F::ContentLengthSyntax);
    "scalar02" Faulty(F::CseqSyntax), Same;
    "scalarlg" Dropped(ScanError::Unanswerable), Same;
    "quotbal" Faulty(F::ToSyntax), Same;
    "ltgtruri" Faulty(F::RequestUri), Same;
    "lwsruri" Faulty(F::RequestLine), Same;
    "lwsstart" Faulty(F::RequestLine), Same;
    "trws" Faulty(F::RequestLine), Same;
    "escruri" Faulty(F::RequestUri), Same;
    "baddate" Accepted, Same;
    "regbadct" Faulty(F::ContactSyntax), Same;
    "badaspec" Faulty(F::ToSyntax), Same;
    "baddn" Faulty(F::FromSyntax), Same;
    "badvers" Faulty(F::Version), Same;
    "mismatch01" Faulty(F::CseqMethod), Same;
    "mismatch02" Faulty(F::CseqMethod), Same;
    "bigcode" Dropped(ScanError::Unanswerable), Same;
    // 3.2 and 3.3, of which a parser must not break: what else is wrong is for the layers above.
    "badbranch" Accepted, Same;
    "insuf" Faulty(F::MissingTo), Same;
    "unkscm" Faulty(F::Scheme), Same;
    "novelsc" Faulty(F::Scheme), Same;
    "unksm2" Accepted, Same;
    "bext01" Accepted, Same;
    "invut" Accepted, Same;
    "regaut01" Accepted, Same;
    "multi01" Faulty(F::DuplicateCseq), Same;
    "mcl01" Faulty(F::ContentLengthConflict), Ends(F::ContentLengthConflict);
    "bcast" Accepted, Same;
    "zeromf" Accepted, Same;
    "cparam01" Accepted, Same;
    "cparam02" Accepted, Same;
    "regescrt" Accepted, Same;
    "sdp01" Accepted, Same;
    // 3.4. RFC 2543 knew no streams without Content-Length either.
    "inv2543" Accepted, Ends(F::ContentLengthMissing);
    // Only in the archive: a request line without a version, and a line without a colon.
    "test" Dropped(ScanError::StartLine), EndsUnanswered(F::HeaderSyntax);
    in "rfc5118":
    "ipv6-good" Accepted, Same;
    "ipv6-bad" Faulty(F::RequestUriHost), Same;
    "port-ambiguous" Accepted, Same;
    "port-unambiguous" Accepted, Same;
    "via-received-param-with-delim" Accepted, Same;
    "via-received-param-no-delim" Accepted, Same;
    "ipv6-in-sdp" Accepted, Same;
    "mult-ip-in-header" Accepted, Same;
    "mult-ip-in-sdp" Accepted, Same;
    "ipv4-mapped-ipv6" Accepted, Same;
    "ipv6-bug-abnf-3-colons" Accepted, Same;
    "ipv6-correct-abnf-2-colons" Accepted, Same;
}

fn verdict(bytes: Vec<u8>, stream: bool) -> Verdict {
    match Message::scan(bytes, stream) {
        Ok(message) => message.fault().map_or(Accepted, Faulty),
        Err((error, _)) => Dropped(error),
    }
}

/// What a framer finds in the pieces, and how it ends.
fn frame<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Framed>, Result<usize, FrameFault>) {
    let mut framer = Framer::default();
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match framer.next(&mut piece, &mut Vec::new) {
                Ok(Some(framed)) => found.push(framed.into()),
                Ok(None) => break,
                Err(fault) => return (found, Err(fault)),
            }
        }
        assert!(piece.is_empty(), "the framer left {} bytes", piece.len());
    }
    (found, Ok(framer.buffered_len()))
}

fn message_bytes(framed: &Framed) -> Vec<u8> {
    match framed {
        Framed::Message(bytes) => bytes.clone(),
        Framed::Ping => panic!("no ping was sent"),
    }
}

#[test]
fn torture_messages_in_datagrams() {
    for &(name, bytes, wanted, _) in TABLE {
        assert_eq!(verdict(bytes.to_vec(), false), wanted, "{name}");
    }
}

fn scanned(name: &str) -> Message {
    let bytes = TABLE.iter().find(|row| row.0 == name).expect("it is in the table").1;
    *Message::scan(bytes.to_vec(), false).unwrap_or_else(|(error, _)| panic!("{name}: {error:?}"))
}

#[test]
fn tortuous_messages_are_read_right() {
    use super::{Method, Name, NameAddr, Uri};
    use crate::ids::Transport;
    let wsinv = scanned("wsinv");
    assert_eq!((wsinv.from_tag(), wsinv.to_tag()), (&b"98asjd8"[..], &b"1918181833n"[..]));
    assert_eq!((wsinv.cseq().number, wsinv.cseq().method, wsinv.max_forwards()), (9, Method::Invite, Some(68)));
    let branches: Vec<_> = wsinv.vias().map(|via| wsinv.text(via.expect("a Via").branch)).collect();
    assert_eq!(branches, [&b"390skdjuw"[..], b"z9hG4bK9ikj8", b"z9hG4bK30239"]);
    assert_eq!((wsinv.count_values(Name::Route), wsinv.body().len()), (1, 150));

    let aor = |name: &str| {
        let message = scanned(name);
        let to = message.first(Name::To).expect("a To").value;
        let uri = NameAddr::parse(message.buf(), to).expect("a name-addr").uri;
        let mut aor = Vec::new();
        Uri::parse(message.buf(), uri).expect("a URI").write_aor(message.buf(), &mut aor);
        String::from_utf8(aor).expect("UTF-8")
    };
    assert_eq!(aor("escnull"), "sip:null-\0-null@example.com");
    assert_eq!(aor("esc01"), "sip:user@example.com");
    assert_eq!(aor("ipv6-correct-abnf-2-colons"), aor("ipv6-bug-abnf-3-colons"));

    let esc02 = scanned("esc02");
    assert_eq!((esc02.method(), esc02.count_values(Name::Contact)), (Some(Method::Other), 2));
    let transports = scanned("transports");
    let found: Vec<_> = transports.vias().map(|via| via.expect("a Via").transport).collect();
    let wanted = [Some(Transport::Udp), None, Some(Transport::Tls), None, Some(Transport::Tcp)];
    assert_eq!(found, wanted);
    let semiuri = scanned("semiuri");
    let uri = semiuri.request_uri().expect("a URI");
    assert_eq!((semiuri.text(uri.user), uri.params.is_empty()), (&b"user;par=u%40example.net"[..], true));
    let mapped = scanned("ipv4-mapped-ipv6");
    assert!(mapped.top_via().host.matches_ip("192.0.2.10".parse().expect("an address")));
    assert_eq!(mapped.top_via().port, Some(19823));
}

#[test]
fn torture_messages_on_a_stream() {
    for &(name, bytes, wanted, stream) in TABLE {
        let (found, end) = frame(std::iter::once(bytes));
        match stream {
            Same => {
                assert_eq!((found.len(), end), (1, Ok(0)), "{name}");
                assert_eq!(verdict(message_bytes(&found[0]), true), wanted, "{name}");
            }
            Waits => assert_eq!((found.len(), end), (0, Ok(bytes.len())), "{name}"),
            Ends(fault) => {
                let end = end.expect_err(name);
                assert_eq!((found.len(), end.fault), (0, fault), "{name}");
                assert_eq!(end.into_message().expect(name).fault(), Some(fault), "{name}");
            }
            EndsUnanswered(fault) => {
                let end = end.expect_err(name);
                assert_eq!((found.len(), end.fault), (0, fault), "{name}");
                assert!(end.into_message().is_err(), "{name}");
            }
            Several(count, fault) => {
                assert_eq!((found.len(), end.expect_err(name).fault), (count, fault), "{name}");
                for framed in &found {
                    assert_eq!(verdict(message_bytes(framed), true), wanted, "{name}");
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "each of its bytes begins a reading of all: hours under miri")]
fn a_split_at_every_byte_changes_nothing() {
    for &(name, bytes, ..) in TABLE {
        let whole = frame(std::iter::once(bytes));
        assert_eq!(frame(bytes.chunks(1)), whole, "{name} byte by byte");
        for at in 1..bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(frame([left, right].into_iter()), whole, "{name} split at {at}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "each of its bytes begins a reading of all: hours under miri")]
fn three_pipelined_messages_are_three_however_they_are_split() {
    let message = |name: &str| TABLE.iter().find(|row| row.0 == name).expect("it is in the table").1;
    let three = [message("wsinv"), message("zeromf"), message("mpart01")];
    let bytes = three.concat();
    let wanted: Vec<_> = three.iter().map(|bytes| Framed::Message(bytes.to_vec())).collect();
    for at in 0..=bytes.len() {
        let (left, right) = bytes.split_at(at);
        assert_eq!(frame([left, right].into_iter()), (wanted.clone(), Ok(0)), "split at {at}");
    }
    assert_eq!(frame(bytes.chunks(1)), (wanted, Ok(0)));
}

/// xorshift64*: the seed is printed by a failure.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Bytes that parsers trip over.
const TRICKY: &[u8] = b"\r\n \t\0\"\\<>,;:=@?%[]/.0123456789z\x80\xff";

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = TRICKY[random.below(TRICKY.len())],
            1 => bytes.insert(at, TRICKY[random.below(TRICKY.len())]),
            2 => drop(bytes.drain(at..(at + 1 + random.below(8)).min(bytes.len()))),
            _ => bytes.extend_from_within(at..(at + random.below(64)).min(bytes.len())),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
}

/// Reads everything that can be read of a message, and checks that all of it lies inside.
fn read_all(message: &Message, seed: u64) {
    use super::response::{Reply, mark_source, write};
    use super::value::Params;
    use super::{Edits, Name, NameAddr, Span, Uri};
    use crate::limits::VALUES_MAX;
    let buf = message.buf();
    let mut last = message.first_field_at();
    for field in message.fields() {
        assert_eq!(field.line.start as usize, last, "seed {seed}: lines leave no gap");
        last = field.line.end as usize;
        assert!(field.line.start <= field.value.start && field.value.end <= field.line.end, "seed {seed}");
        for value in super::value::split_values(buf, field.value) {
            assert!(field.value.start <= value.start && value.end <= field.value.end, "seed {seed}");
            if let Ok(addr) = NameAddr::parse(buf, value) {
                assert!(addr.param(buf, "tag").is_none_or(|tag| tag.len() <= value.len()), "seed {seed}");
                if let Ok(uri) = Uri::parse(buf, addr.uri) {
                    uri.write_aor(buf, &mut Vec::new());
                    assert!(super::uri::equivalent(&uri, buf, &uri, buf), "seed {seed}");
                }
            }
            assert!(Params::over(buf, value).count() <= value.len() + 1, "seed {seed}");
        }
    }
    assert_eq!(message.head_end(), last, "seed {seed}: fields reach the empty line");
    assert_eq!(message.length as usize, buf.len(), "seed {seed}");
    if message.is_request() {
        let uris = message.values(Name::Route).take(VALUES_MAX).map(|value| NameAddr::parse(buf, value));
        let uris: Vec<_> = uris.map(|addr| addr.map_or(Span::default(), |addr| addr.uri)).collect();
        assert_eq!(message.route_uris(), uris, "seed {seed}");
        for &span in &uris {
            assert_eq!(Uri::parse_checked(buf, span), Uri::parse(buf, span), "seed {seed}");
        }
    }
    let vias = message.count_values(Name::Via);
    assert_eq!(message.vias().count(), vias, "seed {seed}");
    if vias > 0 && message.fault().is_none() {
        let mut edits = Edits::new();
        for cut in message.cut_values(Name::Via, 1) {
            edits.remove(cut);
        }
        let mut out = Vec::new();
        edits.apply(buf, &mut out);
        match Message::scan(out, false) {
            Ok(popped) => assert_eq!(popped.count_values(Name::Via), vias - 1, "seed {seed}"),
            Err((error, _)) => assert!(error == ScanError::Unanswerable, "seed {seed}: {error:?}"),
        }
    }
    if message.is_request() {
        let source = "192.0.2.77:4321".parse().expect("an address");
        let mut out = Vec::new();
        let reply = Reply { code: 400, reason: "Bad Request", to_tag: b"t", extra: b"" };
        write(message, source, &reply, &mut out);
        let length = out.len();
        let marked = Message::scan(out, true);
        if message.fault().is_none() {
            let answer = marked.unwrap_or_else(|(error, _)| panic!("seed {seed}: our answer is bad: {error:?}"));
            assert_eq!((answer.status(), answer.buf().len()), (Some(400), length), "seed {seed}");
            let mut edits = Edits::new();
            mark_source(message, source, &mut edits);
            let mut out = Vec::new();
            edits.apply(buf, &mut out);
            let marked = Message::scan(out, false).unwrap_or_else(|(error, _)| panic!("seed {seed}: {error:?}"));
            assert_eq!(marked.fault(), None, "seed {seed}");
        }
    }
}

#[test]
fn mutated_messages_break_nothing() {
    let start = 0x5150_0001_u64;
    for round in 0..crate::rng::rounds(20_000) {
        let seed = start + round;
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = TABLE[random.below(TABLE.len())].1.to_vec();
        mutate(&mut bytes, &mut random);
        if let Ok(message) = Message::scan(bytes.clone(), false) {
            read_all(&message, seed);
        }
        if let Some(first) = memchr::memchr(b'\n', &bytes) {
            let mut lines = FieldLines::new(&bytes, first + 1);
            while lines.next_field().is_some() {}
            assert_eq!(lines.head_len(), head_len(&bytes, 0), "seed {seed}: line by line and by one search");
        }
        let whole = frame(std::iter::once(&bytes[..]));
        let at = random.below(bytes.len());
        let (left, right) = bytes.split_at(at);
        assert_eq!(frame([left, right].into_iter()), whole, "seed {seed} split at {at}");
        for framed in &whole.0 {
            if let Framed::Message(framed) = framed {
                let length = framed.len();
                if let Ok(message) = Message::scan(framed.clone(), true) {
                    assert_eq!(message.buf().len(), length, "seed {seed}: framer and scanner disagree");
                    assert!(!message.fault().is_some_and(Fault::ends_stream), "seed {seed}");
                    read_all(&message, seed);
                }
            }
        }
        if let Err(fault) = whole.1 {
            let reason = fault.fault;
            if let Ok(message) = fault.into_message() {
                assert_eq!(message.fault(), Some(reason), "seed {seed}");
            }
        }
    }
}
