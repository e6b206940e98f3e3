//! What strangers send to a whole shard to which one phone has registered. Input: flags, then parts of a letter and what it
//! is about:
//!
//! | letter | what happens |
//! | --- | --- |
//! | `u`, `v` | a datagram from one of two strangers |
//! | `f` | a datagram that a load balancer has forwarded, with the server's own address in its PROXY header |
//! | `t`, `s` | bytes on a stranger's TCP or TLS connection, which is opened when it is not there |
//! | `c`, `h` | that of TCP is closed, or half of it |
//! | `r` | the server answers what it was sent last; the part is the status line's end, such as `486 Busy Here` |
//! | `w` | so many milliseconds pass |
//!
//! In what strangers send, `%P` stands for the phone's Path, `%C` for its Contact, and `%R` for the Record-Route of what the
//! server was sent last.

use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::engine::{Accept, CloseReason, Engine, Input, Output};
use hawser::ids::{ConnId, PointId, Transport};
use hawser::sip::response::{self, Reply};
use hawser::sip::{Message, Method, Name, NameAddr};

use super::parts::{Front, filled, texts};
use super::place::{self, SERVER, TCP, TLS, UDP, address};

const STRANGERS: [&str; 2] = ["198.51.100.66:40000", "198.51.100.67:5060"];
/// A load balancer's port for one stranger: what it is sent goes there and to no other.
const BALANCER: &str = "198.51.100.99:30001";
const PHONE: &str = "203.0.113.7:50001";
const PARTS_MAX: usize = 48;
const WAIT_MS_MAX: u64 = 40_000;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let flags = front.byte();
    let mut shard = Shard::new(if flags & 1 != 0 { Transport::Tcp } else { Transport::Udp });
    shard.phone_registers();
    for part in texts(front.0).take(PARTS_MAX) {
        if let Some((letter, about)) = part.split_first() {
            shard.play(*letter, about);
        }
    }
    shard.ends();
}

/// A message to the phone reaches it: by its Path, whatever strangers have said.
const TO_PHONE: &str = "MESSAGE sip:bob@203.0.113.7:5060;transport=tls SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.50:5060;branch=z9hG4bKlast\r\nMax-Forwards: 70\r\nRoute: %P\r\n\
    From: <sip:s@example.com>;tag=s\r\nTo: <sip:bob@example.com>\r\nCall-ID: last\r\nCSeq: 1 MESSAGE\r\n\
    Content-Length: 0\r\n\r\n";

const REGISTER: &[u8] = b"REGISTER sip:example.com SIP/2.0\r\n\
    Via: SIP/2.0/TLS 203.0.113.7:5060;branch=z9hG4bKreg;rport\r\nMax-Forwards: 70\r\n\
    From: <sip:bob@example.com>;tag=r\r\nTo: <sip:bob@example.com>\r\nCall-ID: reg\r\nCSeq: 1 REGISTER\r\n\
    Contact: <sip:bob@203.0.113.7:5060;transport=tls>;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n\
    Supported: path, outbound\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n";

struct Shard {
    engine: Engine,
    now: Time,
    internal: Transport,
    phone: ConnId,
    /// What the phone was sent.
    phone_heard: Vec<Vec<u8>>,
    /// The connections of strangers: TCP and TLS.
    strangers: [Option<ConnId>; 2],
    /// All that they had.
    strangers_had: Vec<ConnId>,
    /// Those that the engine has opened to the server.
    to_server: Vec<ConnId>,
    /// What the server was sent.
    server_heard: Vec<Vec<u8>>,
    /// Bytes that strangers were sent by UDP since the last input.
    sent_by_udp: usize,
    path: Vec<u8>,
}

impl Shard {
    fn new(internal: Transport) -> Self {
        let now = Time(1_000_000);
        let mut engine = Engine::new(place::settings(internal), now);
        let phone = engine
            .accept(Accept { point: TLS, peer: address(PHONE), is_forwarded: false }, now)
            .expect("there is room");
        Self {
            engine,
            now,
            internal,
            phone,
            phone_heard: Vec::new(),
            strangers: [None; 2],
            strangers_had: Vec::new(),
            to_server: Vec::new(),
            server_heard: Vec::new(),
            sent_by_udp: 0,
            path: Vec::new(),
        }
    }

    fn phone_registers(&mut self) {
        self.input(Input::Ready { conn: self.phone, identities: None });
        self.input(Input::Bytes { conn: self.phone, bytes: REGISTER, waited: Duration::ZERO });
        let register = Message::scan(self.server_heard.last().expect("a REGISTER").clone(), true).expect("it is one");
        let path = register.first(Name::Path).expect("we add one");
        self.path = register.text(path.value).to_vec();
        self.answer("200 OK");
        assert!(self.phone_heard.pop().expect("an answer").starts_with(b"SIP/2.0 200"));
    }

    /// Everything that anybody does goes through here.
    fn input(&mut self, input: Input<'_>) {
        self.engine.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        self.engine.check();
        while let Some(output) = self.engine.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Datagram { to, bytes, point } => {
                assert_eq!(point, UDP);
                if to == address(SERVER) {
                    self.server_heard.push(bytes);
                } else {
                    let is_its = to == address(BALANCER) || STRANGERS.iter().any(|one| address(one).ip() == to.ip());
                    assert!(is_its, "{to} is sent {}", String::from_utf8_lossy(&bytes));
                    self.sent_by_udp += bytes.len();
                }
            }
            Output::Bytes { conn, bytes } if conn == self.phone => self.phone_heard.push(bytes),
            Output::Bytes { conn, bytes } if self.to_server.contains(&conn) => self.server_heard.push(bytes),
            Output::Bytes { conn, .. } => assert!(self.strangers_had.contains(&conn), "{conn:?} is nobody's"),
            Output::Connect { conn, to, .. } => {
                assert_eq!(to, address(SERVER), "a stranger makes us connect");
                self.to_server.push(conn);
                self.engine.handle(Input::Ready { conn, identities: None }, self.now);
                self.engine.check();
            }
            Output::Close { conn, .. } => {
                assert_ne!(conn, self.phone, "a stranger ends the phone's connection");
                self.to_server.retain(|other| *other != conn);
                self.strangers.iter_mut().filter(|other| **other == Some(conn)).for_each(|gone| *gone = None);
            }
            Output::Mail { .. } => panic!("there is no other shard"),
            Output::Dns(output) => panic!("a stranger makes us ask: {output:?}"),
            Output::Event(event) => assert!(!event.said().chars().any(char::is_control), "{:?}", event.said()),
        }
    }

    fn play(&mut self, letter: u8, about: &[u8]) {
        match letter {
            b'u' | b'v' | b'f' => {
                let point = UDP;
                let bytes = self.filled(about);
                self.sent_by_udp = 0;
                let heard = self.server_heard.len();
                let waited = Duration::ZERO;
                self.input(match letter {
                    b'f' => {
                        let (from, source) = (address(BALANCER), address(SERVER));
                        Input::Forwarded { point, from, source, bytes: &bytes, waited }
                    }
                    _ => {
                        let from = address(STRANGERS[usize::from(letter == b'v')]);
                        Input::Datagram { point, from, bytes: &bytes, waited }
                    }
                });
                // Its address may be forged: what is not the server's answer is bounded by what was sent.
                let is_ours = self.server_heard.len() == heard;
                assert!(
                    !is_ours || self.sent_by_udp <= 3 * bytes.len(),
                    "{} bytes for {}",
                    self.sent_by_udp,
                    bytes.len()
                );
            }
            b't' | b's' => {
                let bytes = self.filled(about);
                if let Some(conn) = self.stranger(letter) {
                    self.input(Input::Bytes { conn, bytes: &bytes, waited: Duration::ZERO });
                }
            }
            b'c' | b'h' => {
                let Some(conn) = self.strangers[0] else { return };
                if letter == b'h' {
                    self.input(Input::HalfClosed { conn });
                } else {
                    self.strangers[0] = None;
                    self.input(Input::Closed { conn, reason: CloseReason::Reset });
                }
            }
            b'r' => self.answer(std::str::from_utf8(about).unwrap_or("500 What")),
            b'w' => {
                let ms = std::str::from_utf8(about).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                self.pass(Duration::from_millis(WAIT_MS_MAX.min(ms)));
            }
            _ => {}
        }
        let heard = self.phone_heard.first().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(heard, None, "the phone hears a stranger");
    }

    /// A stranger's connection, opened when it is not there.
    fn stranger(&mut self, letter: u8) -> Option<ConnId> {
        let (at, point, port) = if letter == b't' { (0, TCP, 41_000) } else { (1, TLS, 42_000) };
        if self.strangers[at].is_none() {
            let peer = SocketAddr::new(address(STRANGERS[0]).ip(), port);
            let conn = self.engine.accept(Accept { point, peer, is_forwarded: false }, self.now).ok()?;
            self.strangers[at] = Some(conn);
            self.strangers_had.push(conn);
            self.input(Input::Ready { conn, identities: None });
        }
        self.strangers[at]
    }

    fn filled(&self, text: &[u8]) -> Vec<u8> {
        let last = self.server_heard.last().and_then(|bytes| Message::scan(bytes.clone(), true).ok());
        let routes: Vec<u8> = last.map_or_else(Vec::new, |last| {
            let values: Vec<&[u8]> = last.values(Name::RecordRoute).map(|value| last.text(value)).collect();
            values.join(&b", "[..])
        });
        filled(text, &[(b'P', &self.path), (b'C', b"sip:bob@203.0.113.7:5060;transport=tls"), (b'R', &routes)])
    }

    /// The server answers the last request that it was sent. It lets no stranger register.
    fn answer(&mut self, status: &str) {
        let requests = self.server_heard.iter().rev().filter_map(|bytes| Message::scan(bytes.clone(), true).ok());
        let Some(request) = requests.filter(|message| message.is_request()).find(|it| it.method() != Some(Method::Ack))
        else {
            return;
        };
        let code = status.get(..3).and_then(|code| code.parse().ok()).filter(|code| (100..700).contains(code));
        let is_phones = request.call_id() == b"reg";
        let code = match code.unwrap_or(500) {
            200..300 if request.method() == Some(Method::Register) && !is_phones => 403,
            code => code,
        };
        let mut extra = Vec::new();
        for (name, text) in
            [(Name::RecordRoute, &b"Record-Route: "[..]), (Name::Path, b"Path: "), (Name::Contact, b"Contact: ")]
        {
            for value in request.values(name) {
                if name != Name::Contact || is_phones || NameAddr::parse(request.buf(), value).is_ok() {
                    extra.extend_from_slice(text);
                    extra.extend(request.text(value).iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
                    extra.extend_from_slice(b"\r\n");
                }
            }
        }
        let mut out = Vec::new();
        response::write(
            &request,
            address(SERVER),
            &Reply { code, reason: "Said", to_tag: b"srv", extra: &extra },
            &mut out,
        );
        self.server_says(&out);
    }

    fn server_says(&mut self, bytes: &[u8]) {
        match (self.internal, self.to_server.last()) {
            (Transport::Udp, _) => {
                self.input(Input::Datagram { point: UDP, from: address(SERVER), bytes, waited: Duration::ZERO })
            }
            (_, Some(&conn)) => self.input(Input::Bytes { conn, bytes, waited: Duration::ZERO }),
            (_, None) => {}
        }
    }

    fn pass(&mut self, wait: Duration) {
        let end = self.now.after(wait);
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.engine.fire(self.now);
            self.drain();
            // A wheel may name a moment a little early.
            if self.engine.poll_timeout().is_some_and(|next| next <= self.now) {
                self.now = self.now.after(Duration::from_millis(1));
            }
        }
        self.now = self.now.max(end);
    }

    /// All transactions end, the phone is still there, and when all is closed nothing is left.
    fn ends(mut self) {
        self.pass(Duration::from_secs(400));
        assert!(self.engine.is_quiet(), "a transaction is left: {:?}", self.engine.snapshot().gauges);
        self.phone_heard.clear();
        let text = filled(TO_PHONE.as_bytes(), &[(b'P', &self.path)]);
        self.server_says_as_a_request(&text);
        let heard = self.phone_heard.pop().expect("the phone is not reached any more");
        assert!(heard.starts_with(b"MESSAGE sip:bob@203.0.113.7"));
        self.pass(Duration::from_secs(400));
        self.phone_heard.clear();
        self.engine.handle(Input::Closed { conn: self.phone, reason: CloseReason::Peer }, self.now);
        self.engine.close_all(self.now);
        self.drain();
        self.pass(Duration::from_secs(4_000));
        assert!(self.engine.is_empty(), "something is left: {:?}", self.engine.snapshot().gauges);
    }

    /// Over a connection of the server's own, where it is one.
    fn server_says_as_a_request(&mut self, bytes: &[u8]) {
        if self.internal == Transport::Udp {
            return self.server_says(bytes);
        }
        let point: PointId = TCP;
        let peer = SocketAddr::new(address(SERVER).ip(), 33_333);
        let conn = self
            .engine
            .accept(Accept { point, peer, is_forwarded: false }, self.now)
            .expect("there is room for a server");
        self.to_server.push(conn);
        self.input(Input::Ready { conn, identities: None });
        let text = String::from_utf8_lossy(bytes).replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        self.input(Input::Bytes { conn, bytes: text.as_bytes(), waited: Duration::ZERO });
    }
}
