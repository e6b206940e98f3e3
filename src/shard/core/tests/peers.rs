//! Peers of every kind over streams in memory: cut anywhere, blocked, half-closed, reset; each seed another mixture.

use fastrand::Rng;
use memchr::memmem;
use rustls::ClientConnection;

use super::sim::{End, World};
use super::*;
use crate::driver::{Next, Ready};

pub const UDP: PointId = PointId(0);
pub const TCP: PointId = PointId(1);
pub const TLS: PointId = PointId(2);

/// Turns in a row that nothing was ready for, and that want another one at once.
const RESTLESS_TURNS_MAX: usize = 64;
/// Steps of a whole play.
const STEPS_MAX: usize = 40_000;
/// The longest that a peer reads nothing at a time: a connection that is leaving has 2 s (`LINGER_MAX`).
const DEAF_MAX_MS: u64 = 500;

/// A core over a world in memory.
pub struct Stage {
    pub world: World,
    pub core: Core<World>,
    pub chance: Rng,
    restless: usize,
}

impl Stage {
    pub fn new(seed: u64, tls: Tls) -> Self {
        let mut chance = Rng::with_seed(seed);
        let point = |transport, port: u16| PointSettings {
            transport,
            bind: ([192, 0, 2, 1], port).into(),
            advertised_host: "192.0.2.1".into(),
            advertised_port: port,
            side: None,
        };
        let points = vec![point(Transport::Udp, 5060), point(Transport::Tcp, 5060), point(Transport::Tls, 5061)];
        let world = World::new(chance.fork(), &[TCP, TLS], &[UDP]);
        let core = Core::new(world.clone(), parts(points, tls, Clock::start()));
        Self { world, core, chance, restless: 0 }
    }

    /// One turn over some of what is ready.
    pub fn turn(&mut self) -> Next {
        let ready = self.world.ready();
        self.turn_with(&ready)
    }

    fn turn_with(&mut self, ready: &[Ready]) -> Next {
        let next = self.core.turn(ready).next;
        self.restless = if ready.is_empty() && next == Next::Again { self.restless + 1 } else { 0 };
        assert!(self.restless < RESTLESS_TURNS_MAX, "it burns a core: {}", self.leftovers());
        next
    }

    /// A turn, and what time passes until the next one.
    pub fn go_on(&mut self) {
        let wait = match self.turn() {
            Next::At(due) if !self.world.has_news() => {
                let most = due.map_or(Duration::MAX, |due| due.since(self.world.now()));
                Duration::from_micros(self.chance.u64(0..2_000)).min(most)
            }
            Next::Again | Next::At(_) => Duration::from_micros(self.chance.u64(1..200)),
            Next::Over => panic!("nobody has stopped it"),
        };
        self.world.pass(wait);
    }

    /// Turns until nothing is left to do before some time has passed.
    pub fn rest(&mut self) -> Option<Time> {
        for _ in 0..RESTLESS_TURNS_MAX {
            match self.turn() {
                Next::At(due) if !self.world.has_news() => return due,
                _ => self.world.pass(Duration::from_micros(10)),
            }
        }
        panic!("it does not come to rest: {}", self.leftovers());
    }

    /// So much time passes, with the turns that are due in it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.world.now().after(time);
        while self.world.now() < end {
            let due = self.rest().unwrap_or(end).min(end);
            self.world.pass(due.since(self.world.now()));
        }
    }

    /// What a core that has no connections holds of them; empty when all is well.
    pub fn leftovers(&self) -> String {
        self.core
            .holds()
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count} "))
            .collect()
    }
}

/// How a peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It closes its half behind its last word.
    Half,
    /// It closes when it has all that it is owed.
    Full,
    /// It resets the connection when it still has so much to say.
    Reset(usize),
    /// Not at all: the proxy closes.
    Stays,
}

struct Peer {
    end: End,
    session: Option<Box<ClientConnection>>,
    unsaid: VecDeque<u8>,
    /// Branches, and empty for a ping.
    owed: Vec<String>,
    ending: Ending,
    has_ended: bool,
    /// Text that was heard.
    text: Vec<u8>,
    /// How much of what the end has heard was fed to the session.
    fed: usize,
    deaf_until: Time,
}

impl Peer {
    fn new(stage: &mut Stage, name: usize, tls: Option<&Arc<rustls::ClientConfig>>) -> Self {
        let chance = &mut stage.chance;
        let (mut unsaid, mut owed) = (VecDeque::new(), Vec::new());
        for at in 0..chance.usize(1..8) {
            let branch = if chance.u8(..4) == 0 { String::new() } else { format!("p{name}m{at}") };
            if branch.is_empty() {
                unsaid.extend(b"\r\n\r\n");
            } else {
                let len = if chance.u8(..8) == 0 { chance.usize(..40_000) } else { chance.usize(..200) };
                let text = options(([192, 0, 2, 1], 5060).into(), "TCP", &branch);
                unsaid.extend(text.replace("Length: 0", &format!("Length: {len}")).into_bytes());
                unsaid.extend(std::iter::repeat_n(b'x', len));
            }
            owed.push(branch);
        }
        let ending = match chance.u8(..40) {
            0..16 => Ending::Half,
            16..28 => Ending::Full,
            28..39 => Ending::Reset(chance.usize(..unsaid.len())),
            _ => Ending::Stays,
        };
        let room = *chance.choice(&[60, 700, 6_000, 200_000]).unwrap();
        let from = ([192, 0, 2, chance.u8(10..13)], 1_024 + name as u16).into();
        let session = tls.map(|config| {
            let name = "proxy.example.com".try_into().unwrap();
            Box::new(ClientConnection::new(config.clone(), name).unwrap())
        });
        let end = stage.world.open(if session.is_some() { TLS } else { TCP }, from, room);
        let deaf_until = stage.world.now();
        Self { end, session, unsaid, owed, ending, has_ended: false, text: Vec::new(), fed: 0, deaf_until }
    }

    /// Says a part of what is left, and ends when it is time for that.
    fn speak(&mut self, chance: &mut Rng) {
        let most = *chance.choice(&[1, 30, 3_000, 100_000]).unwrap();
        let len = chance.usize(..=self.unsaid.len().min(most));
        if self.session.as_ref().is_none_or(|session| !session.is_handshaking()) {
            let part: Vec<u8> = self.unsaid.drain(..len).collect();
            match &mut self.session {
                Some(session) => session.writer().write_all(&part).unwrap(),
                None => self.end.say(&part),
            }
        }
        let ends = match self.ending {
            Ending::Half => self.unsaid.is_empty(),
            Ending::Full => self.has_all(),
            Ending::Reset(left) if self.unsaid.len() <= left && !self.has_ended => {
                self.end.reset();
                self.has_ended = true;
                return;
            }
            Ending::Reset(_) | Ending::Stays => false,
        };
        if let Some(session) = self.session.as_mut().filter(|_| ends && !self.has_ended) {
            session.send_close_notify();
        }
        self.tell_records();
        if ends && !self.has_ended {
            self.end.end();
            self.has_ended = true;
        }
    }

    fn tell_records(&mut self) {
        let Some(session) = &mut self.session else { return };
        let mut records = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut records).unwrap();
        }
        if !records.is_empty() {
            self.end.say(&records);
        }
    }

    fn step(&mut self, chance: &mut Rng, now: Time) {
        if chance.u16(..400) == 0 {
            self.deaf_until = now.after(Duration::from_millis(chance.u64(..DEAF_MAX_MS)));
        }
        self.end.be_deaf(now < self.deaf_until);
        if !self.is_over() {
            self.speak(chance);
        }
        self.end.step();
        self.hear();
    }

    fn hear(&mut self) {
        let mut fresh = &self.end.heard[self.fed..];
        self.fed = self.end.heard.len();
        let Some(session) = &mut self.session else { return self.text.extend(fresh) };
        while !fresh.is_empty() {
            session.read_tls(&mut fresh).unwrap();
            let told = session.process_new_packets().unwrap().plaintext_bytes_to_read();
            let mut text = vec![0; told];
            session.reader().read_exact(&mut text).unwrap();
            self.text.extend(text);
        }
    }

    fn is_over(&self) -> bool {
        match self.ending {
            Ending::Reset(_) => self.end.is_closed() && self.has_ended,
            Ending::Stays => self.has_all(),
            Ending::Half | Ending::Full => self.has_ended && self.end.has_heard_the_end(),
        }
    }

    /// Whether each request has its answer, in order, and the pings have theirs: one for all that come in one read.
    fn has_all(&self) -> bool {
        let [(answers, pongs), (owed, pings)] = [answers(&self.text), self.owed.clone()].map(|all| {
            let (pongs, answers): (Vec<_>, Vec<_>) = all.into_iter().partition(String::is_empty);
            (answers, pongs.len())
        });
        answers == owed && (pings.min(1)..=pings).contains(&pongs)
    }

    fn check(&self) {
        if let Ending::Reset(_) = self.ending {
            let mut answers = answers(&self.text);
            answers.retain(|answer| !answer.is_empty());
            let owed: Vec<_> = self.owed.iter().filter(|branch| !branch.is_empty()).cloned().collect();
            assert!(owed.starts_with(&answers), "{answers:?} for {owed:?}");
        } else {
            assert!(self.has_all(), "{:?}: {:?} for {:?}", self.ending, answers(&self.text), self.owed);
            assert!(self.ending == Ending::Stays || self.end.was_ended(), "it was not told of the end");
            assert!(!self.end.was_aborted());
        }
    }
}

/// The branches of whole responses, and an empty one for each pong.
pub fn answers(mut text: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        if let Some(rest) = text.strip_prefix(b"\r\n") {
            all.push(String::new());
            text = rest;
        } else if let Some(end) = memmem::find(text, b"\r\n\r\n") {
            let response = std::str::from_utf8(&text[..end]).unwrap();
            assert!(response.starts_with("SIP/2.0 200 "), "{response}");
            let branch = response.split("branch=z9hG4bK").nth(1).unwrap().split([';', '\r']).next().unwrap();
            all.push(branch.to_owned());
            text = &text[end + 4..];
        } else {
            return all;
        }
    }
}

fn play(seed: u64, tls: &Tls, of_phones: Option<&Arc<rustls::ClientConfig>>) {
    let mut stage = Stage::new(seed, tls.clone());
    if stage.chance.bool() {
        stage.world.refuse(30);
    }
    let count = stage.chance.usize(1..6);
    let mut peers: Vec<Peer> = Vec::new();
    for step in 0.. {
        assert!(step < STEPS_MAX, "{:?}; {}", stage.leftovers(), waits_for(&peers));
        if peers.len() < count && stage.chance.u8(..4) == 0 {
            let tls = of_phones.filter(|_| stage.chance.bool());
            let peer = Peer::new(&mut stage, peers.len(), tls);
            peers.push(peer);
        }
        let now = stage.world.now();
        peers.iter_mut().for_each(|peer| peer.step(&mut stage.chance, now));
        stage.go_on();
        if peers.len() == count && peers.iter().all(Peer::is_over) {
            break;
        }
    }
    peers.iter().for_each(Peer::check);
    let stays = peers.iter().any(|peer| peer.ending == Ending::Stays);
    stage.pass(if stays { crate::limits::IDLE_UNREGISTERED_MAX * 2 } else { Duration::from_secs(5) });
    assert_eq!(stage.leftovers(), "");
}

fn waits_for(peers: &[Peer]) -> String {
    let some = peers.iter().filter(|peer| !peer.is_over());
    some.map(|peer| format!("{:?} has {:?} of {:?}; ", peer.ending, answers(&peer.text), peer.owed)).collect()
}

/// Plays so many seeds, or the one that `HAWSER_SEED` names, and names the one that fails.
fn all(seeds: u64, play: impl Fn(u64)) {
    let one = std::env::var("HAWSER_SEED").ok().map(|seed| seed.parse().expect("a number"));
    for seed in one.map_or(0..seeds, |one: u64| one..one + 1) {
        let result = catch_unwind(AssertUnwindSafe(|| play(seed)));
        assert!(result.is_ok(), "HAWSER_SEED={seed}");
    }
}

#[test]
fn each_gets_all_that_it_is_owed_in_order_and_nothing_is_left_behind() {
    all(1_000, |seed| play(seed, &Tls::default(), None));
}

#[test]
fn over_tls_too() {
    let certificates = Certificates::new("peers");
    let (tls, phone) = (certificates.tls("proxy.example.com"), certificates.phone());
    all(100, |seed| play(seed, &tls, Some(&phone)));
}
