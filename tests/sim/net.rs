//! The network: an order of events in time, datagrams that get lost, late, doubled and out of order, and who lives at
//! which address.
//!
//! Owns: the clock, what is under way, chance. Must not touch: what a message says. Streams are in `wire`, and what a
//! shard sees of all this in `place`.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use hawser::clock::Time;
use hawser::ids::Transport;

use crate::plan::{Undo, Weather};
use crate::wire::Wire;

/// A party, by its place in the world.
pub type PartyId = usize;
/// A stream connection, by its place in the network; none is used twice.
pub type WireId = usize;

/// Datagrams that a socket of the proxy holds until it reads them.
const SOCKET_COUNT_MAX: usize = 128;

/// Who holds an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Shard(u8),
    Party(PartyId),
}

/// What happens at its time.
#[derive(Debug)]
pub enum Event {
    /// A shard has its turn.
    Turn(u8),
    /// A datagram arrives.
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Rc<[u8]> },
    /// The host of `of` says that nobody listens there.
    Unreachable { to: SocketAddr, of: SocketAddr },
    /// What was sent from this end of a connection arrives.
    Stream { wire: WireId, from: usize },
    /// The system at this end gives up a connection whose other end is not heard of any more.
    Dead { wire: WireId, end: usize },
    /// A resolver answers a question of a shard; without bytes its host says that nobody listens.
    Answer { shard: u8, exchange: u32, from: SocketAddr, bytes: Option<Vec<u8>> },
    /// A party's timer.
    Timer { party: PartyId, timer: u64 },
    /// A step of the plan.
    Act(usize),
    /// What ends later.
    Undo(Undo),
}

struct Due {
    at: Time,
    nth: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.nth) == (other.at, other.nth)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}

/// One UDP socket of a shard.
#[derive(Default)]
pub struct Port {
    pub news: bool,
    /// With when it came.
    pub came: VecDeque<(SocketAddr, Rc<[u8]>, Time)>,
    /// Destinations of which datagrams came back; the first makes the next call fail.
    pub back: VecDeque<SocketAddr>,
    pub fails: bool,
    pub dropped: u32,
}

/// One listener of a shard.
#[derive(Default)]
pub struct Listener {
    pub news: bool,
    pub waiting: VecDeque<WireId>,
}

/// What a shard is told of.
#[derive(Default)]
pub struct Seat {
    pub ports: BTreeMap<u8, Port>,
    pub listeners: BTreeMap<u8, Listener>,
    /// Ends of connections that have news.
    pub fresh: Vec<(WireId, usize)>,
    /// DNS questions in the air, with what came.
    pub questions: BTreeMap<u32, Question>,
    /// Its next turn.
    pub turn_at: Option<Time>,
    /// Nothing of it runs before.
    pub held_until: Time,
    /// Every turn takes so long.
    pub slow: Duration,
}

#[derive(Default)]
pub struct Question {
    pub news: bool,
    pub came: VecDeque<(SocketAddr, Vec<u8>)>,
    pub refused: bool,
}

/// A DNS question that was just asked.
pub struct Asked {
    pub shard: u8,
    pub exchange: u32,
    pub to: SocketAddr,
    pub tcp: bool,
    pub question: Vec<u8>,
}

pub struct Inside {
    pub now: Time,
    pub chance: Rng,
    pub weather: Weather,
    queue: BinaryHeap<Reverse<Due>>,
    nth: u64,
    pub wires: Vec<Wire>,
    pub seats: Vec<Seat>,
    /// The proxy's points, and whether the process is there.
    pub points: Vec<(SocketAddr, Transport)>,
    pub is_up: bool,
    /// UDP and TCP addresses of parties.
    pub udp: BTreeMap<SocketAddr, PartyId>,
    pub tcp: BTreeMap<SocketAddr, PartyId>,
    /// Hosts that swallow everything, silently.
    pub cut: Vec<std::net::IpAddr>,
    pub asked: VecDeque<Asked>,
    pub lost: u64,
    /// Datagrams that were lost, by Call-ID.
    pub lost_of: BTreeMap<String, u32>,
    pub doubled: u64,
    pub late: u64,
    next_port: u16,
    /// Splits connections and datagrams among the shards.
    hash_key: u64,
    pub accepts_refused_percent: u8,
}

/// See the module.
#[derive(Clone)]
pub struct Net(pub Rc<RefCell<Inside>>);

impl Net {
    pub fn new(mut chance: Rng, weather: Weather, points: &[(SocketAddr, Transport)]) -> Self {
        Self(Rc::new(RefCell::new(Inside {
            now: Time(1_000_000),
            hash_key: chance.u64(..),
            chance,
            weather,
            queue: BinaryHeap::new(),
            nth: 0,
            wires: Vec::new(),
            seats: Vec::new(),
            points: points.to_vec(),
            is_up: true,
            udp: BTreeMap::new(),
            tcp: BTreeMap::new(),
            cut: Vec::new(),
            asked: VecDeque::new(),
            lost: 0,
            lost_of: BTreeMap::new(),
            doubled: 0,
            late: 0,
            next_port: 20_000,
            accepts_refused_percent: 0,
        })))
    }

    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    /// New sockets for so many shards; connections and datagrams of old ones are gone.
    pub fn seat(&self, shards: u8) {
        let mut inside = self.0.borrow_mut();
        let inside = &mut *inside;
        inside.seats = (0..shards).map(|_| Seat::default()).collect();
        for seat in &mut inside.seats {
            for (at, (_, transport)) in (0_u8..).zip(&inside.points) {
                match transport {
                    Transport::Udp => drop(seat.ports.insert(at, Port::default())),
                    Transport::Tcp | Transport::Tls => drop(seat.listeners.insert(at, Listener::default())),
                }
            }
        }
        inside.is_up = true;
    }

    /// The next event, and its time.
    pub fn pop(&self) -> Option<Event> {
        let mut inside = self.0.borrow_mut();
        let Reverse(due) = inside.queue.pop()?;
        assert!(due.at >= inside.now, "time goes back");
        inside.now = due.at;
        Some(due.event)
    }

    pub fn after(&self, wait: Duration, event: Event) {
        let mut inside = self.0.borrow_mut();
        let at = inside.now.after(wait);
        inside.at(at, event);
    }

    pub fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.0.borrow_mut().send(from, to, bytes);
    }

    /// A port of a party's host that nobody has had.
    pub fn fresh_port(&self) -> u16 {
        let mut inside = self.0.borrow_mut();
        inside.next_port = inside.next_port.checked_add(1).expect("few ports are used");
        inside.next_port
    }
}

impl Inside {
    pub fn at(&mut self, at: Time, event: Event) {
        self.nth += 1;
        let due = Due { at: at.max(self.now), nth: self.nth, event };
        self.queue.push(Reverse(due));
    }

    pub fn chance_of(&mut self, permille: u16) -> bool {
        permille > 0 && self.chance.u16(..1_000) < permille
    }

    /// How long something is under way.
    pub fn delay(&mut self) -> Duration {
        let Weather { delay_us, late_permille, late_us, .. } = self.weather;
        let mut us = self.chance.u64(delay_us / 4..=delay_us);
        if self.chance_of(late_permille) {
            us += self.chance.u64(..=late_us);
            self.late += 1;
        }
        Duration::from_micros(us)
    }

    pub fn is_cut(&self, address: SocketAddr) -> bool {
        self.cut.contains(&address.ip())
    }

    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.is_cut(to) || self.is_cut(from) {
            return;
        }
        if self.chance_of(self.weather.loss_permille) {
            self.lost += 1;
            if let Some(call_id) = call_id_of(bytes) {
                *self.lost_of.entry(call_id.to_owned()).or_default() += 1;
            }
            return;
        }
        let bytes: Rc<[u8]> = bytes.into();
        if self.chance_of(self.weather.double_permille) {
            self.doubled += 1;
            let at = self.now.after(self.delay());
            self.at(at, Event::Datagram { from, to, bytes: bytes.clone() });
        }
        let at = self.now.after(self.delay());
        self.at(at, Event::Datagram { from, to, bytes });
    }

    /// The point of the proxy at an address.
    pub fn point(&self, to: SocketAddr, is_udp: bool) -> Option<u8> {
        let at =
            self.points.iter().position(|(at, transport)| *at == to && (*transport == Transport::Udp) == is_udp)?;
        u8::try_from(at).ok()
    }

    /// Which shard the system gives a peer's datagrams and connections to.
    pub fn shard_of(&self, peer: SocketAddr) -> u8 {
        let mut hash = self.hash_key ^ u64::from(peer.port());
        if let SocketAddr::V4(peer) = peer {
            hash ^= u64::from(peer.ip().to_bits()) << 16;
        }
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 40) % self.seats.len() as u64) as u8
    }

    /// A datagram is at the proxy's host.
    pub fn arrive_at_proxy(&mut self, point: u8, from: SocketAddr, bytes: Rc<[u8]>) {
        if !self.is_up {
            let (to, _) = self.points[usize::from(point)];
            return self.refuse(from, to);
        }
        let (shard, now) = (self.shard_of(from), self.now);
        let Some(port) = self.seats[usize::from(shard)].ports.get_mut(&point) else { return };
        if port.came.len() >= SOCKET_COUNT_MAX {
            port.dropped += 1;
            return;
        }
        port.came.push_back((from, bytes, now));
        port.news = true;
        self.wake(shard);
    }

    /// Nobody listens at `at`: its host tells the sender.
    pub fn refuse(&mut self, sender: SocketAddr, at: SocketAddr) {
        let when = self.now.after(self.delay());
        self.at(when, Event::Unreachable { to: sender, of: at });
    }

    /// The system of the proxy's host hears that nobody listens at `of`. It tells the socket that would get what comes
    /// from there.
    pub fn hear_unreachable(&mut self, point: u8, of: SocketAddr) {
        let shard = self.shard_of(of);
        let Some(port) = self.seats[usize::from(shard)].ports.get_mut(&point) else { return };
        port.back.push_back(of);
        (port.fails, port.news) = (true, true);
        self.wake(shard);
    }

    /// Something is ready for a shard, or it was woken: it runs soon.
    pub fn wake(&mut self, shard: u8) {
        let us = self.chance.u64(2..60);
        self.turn_by(shard, self.now.after(Duration::from_micros(us)));
    }

    /// A shard runs at this time, if not before.
    pub fn turn_by(&mut self, shard: u8, at: Time) {
        let seat = &mut self.seats[usize::from(shard)];
        let at = at.max(seat.held_until).max(self.now);
        if seat.turn_at.is_none_or(|known| at < known) {
            seat.turn_at = Some(at);
            self.at(at, Event::Turn(shard));
        }
    }

    /// Tells the owner of an end that there is something new; says whether that is a shard.
    pub fn news(&mut self, wire: WireId, end: usize) {
        let one = &mut self.wires[wire].ends[end];
        let Owner::Shard(shard) = one.owner else { return };
        if one.token.is_none() || one.closed || std::mem::replace(&mut one.news, true) {
            return;
        }
        self.seats[usize::from(shard)].fresh.push((wire, end));
        self.wake(shard);
    }
}

/// The Call-ID of a message.
fn call_id_of(bytes: &[u8]) -> Option<&str> {
    let at = memchr::memmem::find(bytes, b"Call-ID: ")? + 9;
    let len = memchr::memchr(b'\r', &bytes[at..])?;
    std::str::from_utf8(&bytes[at..at + len]).ok()
}
