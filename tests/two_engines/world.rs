//! Two (or more) engines and their mailboxes under one virtual clock, with phones and a SIP Server that a
//! story drives by hand. Nothing here sleeps or touches a socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::config::Server;
use hawser::engine::{Accept, CloseReason, ConnectFailure, Engine, Input, Mail, Output, Point, Settings, Sticky};
use hawser::ids::{ConnId, PointId, ShardId, Transport};
use hawser::stats::Counter;
use hawser::tls::identity::{Identities, TlsPeer};

use crate::record::Record;
use crate::resolver::{Answer, Resolver};

pub const UDP: PointId = PointId(0);
pub const TCP: PointId = PointId(1);
pub const TLS: PointId = PointId(2);

pub const SERVER: &str = "127.0.0.1:7000";
/// Its partner, where a story has one.
pub const SERVER2: &str = "127.0.0.1:7001";

/// A connection as a peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    pub shard: u8,
    pub conn: ConnId,
}

/// One message that left the engines.
#[derive(Clone, Debug)]
pub enum Sent {
    Datagram { to: SocketAddr, text: String },
    Stream { wire: Wire, text: String },
}

pub struct World {
    pub engines: Vec<Engine>,
    pub now: Time,
    mail: VecDeque<(ShardId, ShardId, Mail)>,
    sent: VecDeque<Sent>,
    pub closed: Vec<(Wire, CloseReason)>,
    pub opened: Vec<(Wire, SocketAddr)>,
    /// Whom each of these must find, in the same order; `None` for TCP.
    pub expected: Vec<Option<TlsPeer>>,
    pub resolver: Resolver,
    answers: VecDeque<(ShardId, Answer)>,
    pub events: Vec<String>,
    /// Mail stays where it is until `deliver_mail`.
    pub hold_mail: bool,
    /// For how long what comes has waited for its turn.
    pub waited: Duration,
    next_port: u16,
    record: Option<Record>,
}

/// What a story may change before it starts.
pub struct Setup {
    pub shards: u8,
    pub sticky: Sticky,
    pub add_supported: bool,
    pub internal: Transport,
    pub flow_grace: Duration,
    pub boot: u32,
    pub member: u16,
    pub mutate: fn(&mut Settings),
}

impl Default for Setup {
    fn default() -> Self {
        // With another number of shards than stories were written for, to see what depends on it.
        let shards = std::env::var("HAWSER_SHARDS").ok().and_then(|shards| shards.parse().ok()).unwrap_or(2);
        Self {
            shards,
            sticky: Sticky::Path,
            add_supported: true,
            internal: Transport::Udp,
            flow_grace: Duration::from_secs(3),
            boot: 1,
            member: 7,
            mutate: |_| {},
        }
    }
}

fn start_seed(shard: u8, boot: u32) -> [u8; 32] {
    let mut seed = [shard + 1; 32];
    for (byte, of_boot) in seed.iter_mut().zip(boot.wrapping_sub(1).to_le_bytes()) {
        *byte ^= of_boot;
    }
    seed
}

fn settings(shard: u8, setup: &Setup) -> Settings {
    let point = |transport: Transport, port: u16| Point {
        transport,
        bind: SocketAddr::from(([127, 0, 0, 1], port)),
        advertised_host: "127.0.0.1".to_owned(),
        advertised_port: port,
        side: None,
    };
    let points = vec![point(Transport::Udp, 5060), point(Transport::Tcp, 5060), point(Transport::Tls, 5061)];
    let server = Server::at("sips1", SERVER.parse().expect("an address"), setup.internal);
    let mut settings = Settings {
        shard: ShardId(shard),
        shards: setup.shards,
        sticky: setup.sticky,
        boot: setup.boot,
        member: setup.member,
        // Of each start another: an answer of before meets no branch of now.
        seed: start_seed(shard, setup.boot),
        ..Settings::plain(points, vec![server])
    };
    settings.live.path_add_supported = setup.add_supported;
    settings.live.flow_grace = setup.flow_grace;
    settings.live.oos_force = Duration::from_secs(1);
    (setup.mutate)(&mut settings);
    settings
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let now = Time(1_000_000);
        Self {
            engines: (0..setup.shards).map(|shard| Engine::new(settings(shard, setup), now)).collect(),
            now,
            mail: VecDeque::new(),
            sent: VecDeque::new(),
            closed: Vec::new(),
            opened: Vec::new(),
            expected: Vec::new(),
            resolver: Resolver::default(),
            answers: VecDeque::new(),
            events: Vec::new(),
            hold_mail: false,
            waited: Duration::ZERO,
            next_port: 40_000,
            record: Record::begin(),
        }
    }

    /// A restart with the same key: the engines are new, the messages under way are lost.
    pub fn restart(&mut self, setup: &Setup) {
        if let Some(record) = &mut self.record {
            record.end(&self.engines);
        }
        self.engines = (0..setup.shards).map(|shard| Engine::new(settings(shard, setup), self.now)).collect();
        self.mail.clear();
        self.sent.clear();
    }

    // --- what peers do -----------------------------------------------------------------------------------

    /// A shard, where there may be fewer than a story was written for.
    fn shard(&self, shard: u8) -> u8 {
        shard % u8::try_from(self.engines.len()).expect("few shards")
    }

    /// A phone's connection, ready for SIP.
    pub fn connect(&mut self, shard: u8, point: PointId) -> Wire {
        self.next_port += 1;
        let peer = SocketAddr::from(([10, 0, 0, 1], self.next_port));
        self.connect_from(shard, point, peer)
    }

    pub fn connect_from(&mut self, shard: u8, point: PointId, peer: SocketAddr) -> Wire {
        self.accept(shard, Accept { point, peer, is_forwarded: false }, None)
    }

    /// A connection whose peer has shown a certificate with these names.
    pub fn connect_mutual(&mut self, shard: u8, point: PointId, peer: SocketAddr, identities: Identities) -> Wire {
        self.accept(shard, Accept { point, peer, is_forwarded: false }, Some(identities))
    }

    /// A connection of a load balancer, in whose PROXY header `peer` stands.
    pub fn connect_forwarded(
        &mut self,
        shard: u8,
        point: PointId,
        peer: SocketAddr,
        identities: Option<Identities>,
    ) -> Wire {
        self.accept(shard, Accept { point, peer, is_forwarded: true }, identities)
    }

    fn accept(&mut self, shard: u8, accept: Accept, identities: Option<Identities>) -> Wire {
        let shard = self.shard(shard);
        let engine = &mut self.engines[usize::from(shard)];
        let conn = engine.accept(accept, self.now).expect("accepted");
        engine.handle(Input::Ready { conn, identities: identities.map(Box::new) }, self.now);
        self.settle();
        Wire { shard, conn }
    }

    pub fn write(&mut self, wire: Wire, text: &str) {
        self.write_bytes(wire, text.as_bytes());
    }

    pub fn write_bytes(&mut self, wire: Wire, bytes: &[u8]) {
        let now = self.now;
        self.engines[usize::from(wire.shard)].handle(Input::Bytes { conn: wire.conn, bytes, waited: self.waited }, now);
        self.settle();
    }

    pub fn hang_up(&mut self, wire: Wire) {
        let now = self.now;
        let input = Input::Closed { conn: wire.conn, reason: CloseReason::Reset };
        self.engines[usize::from(wire.shard)].handle(input, now);
        self.settle();
    }

    /// A connection that the engines have opened is ready for SIP.
    pub fn ready(&mut self, wire: Wire) {
        self.input(wire.shard, Input::Ready { conn: wire.conn, identities: None });
    }

    /// A connection that the engines wanted could not be opened.
    pub fn fail(&mut self, wire: Wire, failure: ConnectFailure) {
        self.input(wire.shard, Input::Closed { conn: wire.conn, reason: CloseReason::Connect(failure) });
    }

    /// The connection that the engines want to open: the only one so far, or since this was last asked.
    #[track_caller]
    pub fn dialled(&mut self) -> (Wire, SocketAddr, Option<TlsPeer>) {
        assert_eq!(self.opened.len(), 1, "{:?}", self.opened);
        let (wire, to) = self.opened.remove(0);
        (wire, to, self.expected.remove(0))
    }

    /// A datagram that lands on a shard.
    pub fn datagram(&mut self, shard: u8, from: &str, text: &str) {
        let from = from.parse().expect("an address");
        let now = self.now;
        let input = Input::Datagram { point: UDP, from, bytes: text.as_bytes(), waited: self.waited };
        let shard = usize::from(shard) % self.engines.len();
        self.engines[shard].handle(input, now);
        self.settle();
    }

    pub fn input(&mut self, shard: u8, input: Input<'_>) {
        let (now, shard) = (self.now, self.shard(shard));
        self.engines[usize::from(shard)].handle(input, now);
        self.settle();
    }

    // --- time --------------------------------------------------------------------------------------------

    /// Lets time pass, and fires what is due on the way.
    pub fn pass(&mut self, wait: Duration) {
        let end = self.now.after(wait);
        loop {
            let next = self.engines.iter().filter_map(Engine::poll_timeout).min().filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            let now = self.now;
            for engine in &mut self.engines {
                engine.fire(now);
            }
            self.settle();
            // A wheel may name a moment a little early; the next millisecond brings it closer.
            if self.engines.iter().filter_map(Engine::poll_timeout).min().is_some_and(|next| next <= now) {
                self.now = self.now.after(Duration::from_millis(1));
            }
        }
        self.now = self.now.max(end);
        let now = self.now;
        for engine in &mut self.engines {
            engine.fire(now);
        }
        self.settle();
    }

    /// How long until something is due.
    pub fn until_next(&self) -> Option<Duration> {
        self.engines.iter().filter_map(Engine::poll_timeout).min().map(|at| at.since(self.now))
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    pub fn pass_s(&mut self, s: u64) {
        self.pass(Duration::from_secs(s));
    }

    /// Carries mail between the engines until there is none.
    pub fn settle(&mut self) {
        loop {
            for at in 0..self.engines.len() {
                let me = ShardId(u8::try_from(at).expect("few shards"));
                self.engines[at].check();
                while let Some(output) = self.engines[at].poll_output() {
                    self.carry_out(me, output);
                }
            }
            if self.hold_mail {
                return;
            }
            let now = self.now;
            let Some((from, to, mail)) = self.mail.pop_front() else {
                let Some((to, Answer { exchange, from, bytes })) = self.answers.pop_front() else { return };
                let input = hawser::dns::Input::Answer { exchange, from, bytes: &bytes };
                self.engines[usize::from(to.0)].handle(Input::Dns(input), now);
                continue;
            };
            self.engines[usize::from(to.0)].handle(Input::Mail { from, mail }, now);
        }
    }

    pub fn mails(&self) -> usize {
        self.mail.len()
    }

    /// The mail that [`World::deliver_mail`] would deliver.
    pub fn mail_in_words(&self, nth: usize) -> String {
        let (from, to, _) = self.mail.get(nth).expect("it is there");
        let oldest = self.mail.iter().find(|(a, b, _)| (a, b) == (from, to)).map(|(_, _, mail)| mail);
        let mut words = format!("{}>{} {oldest:?}", from.0, to.0);
        words.truncate(words.char_indices().nth(300).map_or(words.len(), |(at, _)| at));
        words
    }

    /// Delivers the oldest mail between the two shards that the nth mail is for: between two, none overtakes.
    /// `refuse`: there is no room for it, unless it is one that waits for room.
    pub fn deliver_mail(&mut self, nth: usize, refuse: bool) {
        let Some((from, to, _)) = self.mail.get(nth) else { return };
        let pair = (*from, *to);
        let at = self.mail.iter().position(|(from, to, _)| (*from, *to) == pair).expect("it is one of them");
        let (from, to, mail) = self.mail.remove(at).expect("found");
        let now = self.now;
        if refuse && !mail.is_directory() {
            self.engines[usize::from(from.0)].handle(Input::MailRefused { mail }, now);
        } else {
            self.engines[usize::from(to.0)].handle(Input::Mail { from, mail }, now);
        }
        self.settle();
    }

    fn carry_out(&mut self, me: ShardId, output: Output) {
        if let Some(record) = &mut self.record {
            record.output(me, self.now, &output);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output {
            Output::Datagram { to, bytes, .. } => {
                self.sent.push_back(Sent::Datagram { to, text: text(&bytes) });
                self.engines[usize::from(me.0)].recycle(bytes);
            }
            Output::Bytes { conn, bytes } => {
                self.sent.push_back(Sent::Stream { wire: Wire { shard: me.0, conn }, text: text(&bytes) });
                self.engines[usize::from(me.0)].recycle(bytes);
            }
            Output::Connect { conn, to, tls, .. } => {
                self.opened.push((Wire { shard: me.0, conn }, to));
                self.expected.push(tls.map(|tls| *tls));
            }
            Output::Close { conn, reason } => self.closed.push((Wire { shard: me.0, conn }, reason)),
            Output::Mail { to, mail } => self.mail.push_back((me, to, mail)),
            Output::Dns(output) => self.answers.extend(self.resolver.take(output).map(|answer| (me, answer))),
            Output::Event(event) => self.events.push(format!("{}: {}", event.what, event.said())),
        }
    }

    // --- what peers got ----------------------------------------------------------------------------------

    /// The next message on a connection, which must be there.
    #[track_caller]
    pub fn read(&mut self, wire: Wire) -> String {
        match self.try_read(wire) {
            Some(text) => text,
            None => panic!("nothing on {wire:?}; under way: {:#?}; said: {:#?}", self.sent, self.events),
        }
    }

    /// The same, and it begins so.
    #[track_caller]
    pub fn expect(&mut self, wire: Wire, start: &str) -> String {
        let text = self.read(wire);
        assert!(text.starts_with(start), "{start:?} is expected: {text}");
        text
    }

    pub fn try_read(&mut self, wire: Wire) -> Option<String> {
        let at = self.sent.iter().position(|sent| matches!(sent, Sent::Stream { wire: to, .. } if *to == wire))?;
        match self.sent.remove(at) {
            Some(Sent::Stream { text, .. }) => Some(text),
            _ => None,
        }
    }

    /// The next datagram to an address, which must be there.
    #[track_caller]
    pub fn read_udp(&mut self, to: &str) -> String {
        match self.try_read_udp(to) {
            Some(text) => text,
            None => panic!("nothing for {to}; under way: {:#?}", self.sent),
        }
    }

    pub fn try_read_udp(&mut self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().expect("an address");
        let at = self.sent.iter().position(|sent| matches!(sent, Sent::Datagram { to, .. } if *to == address))?;
        match self.sent.remove(at) {
            Some(Sent::Datagram { text, .. }) => Some(text),
            _ => None,
        }
    }

    #[track_caller]
    pub fn read_server(&mut self) -> String {
        self.read_udp(SERVER)
    }

    /// The same, and it begins so.
    #[track_caller]
    pub fn expect_server(&mut self, start: &str) -> String {
        let text = self.read_server();
        assert!(text.starts_with(start), "{start:?} is expected: {text}");
        text
    }

    /// Nothing that nobody read is under way.
    #[track_caller]
    pub fn assert_silent(&self) {
        assert!(self.sent.is_empty(), "unexpected: {:#?}", self.sent);
    }

    /// The same, but for what waits on this connection.
    #[track_caller]
    pub fn assert_silent_but(&self, wire: Wire) {
        let is_its = |sent: &&Sent| !matches!(sent, Sent::Stream { wire: to, .. } if *to == wire);
        let other: Vec<_> = self.sent.iter().filter(is_its).collect();
        assert!(other.is_empty(), "unexpected: {other:#?}");
    }

    /// Forgets what is under way.
    pub fn drain(&mut self) -> Vec<Sent> {
        self.sent.drain(..).collect()
    }

    pub fn counted(&self, counter: Counter) -> u64 {
        self.engines.iter().map(|engine| engine.snapshot().counters.of(counter)).sum()
    }

    /// All transactions end, all connections close, all bindings go: every table must be empty.
    #[track_caller]
    pub fn end(mut self) {
        self.pass_s(400);
        for engine in &self.engines {
            assert!(engine.is_quiet(), "a transaction is left: {:?}", engine.snapshot().gauges);
        }
        let now = self.now;
        for engine in &mut self.engines {
            engine.close_all(now);
        }
        self.settle();
        // Longer than any binding of the stories lives.
        self.pass_s(4_000);
        for engine in &self.engines {
            assert!(engine.is_empty(), "something is left: {:?}", engine.snapshot().gauges);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(record) = &mut self.record {
            record.end(&self.engines);
        }
    }
}
