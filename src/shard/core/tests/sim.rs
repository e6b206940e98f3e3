//! What a core stands on in tests that need no system: connections in memory, listeners that refuse, datagrams, readiness
//! that is told once and late, and a time of its own. The beginning of the simulator.
//!
//! Owns: what the system would do with what is said. Must not touch: what it means.
//!
//! Both ends hold the same [`Wire`]. What a peer says is under way at first and arrives in pieces: between two turns, or
//! in the middle of one, right after the core has found that nothing is there. Likewise it reads what it is sent, maybe
//! right after the core has found that there is no room.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;

use crate::clock::Time;
use crate::dns::socket::Asked;
use crate::driver::{Driver, Ready, Token};
use crate::ids::PointId;
use crate::sys::batch::{BATCH_COUNT_MAX, RecvBatch};
use crate::transport::stream::StreamSocket;
use crate::transport::udp::DatagramSocket;

/// Where nobody can be reached.
const NOWHERE: i32 = libc::EHOSTUNREACH;

/// What all sockets of a core share.
#[derive(Clone)]
pub struct World(Rc<RefCell<Inside>>);

struct Inside {
    now: Time,
    chance: Rng,
    /// Those that a core watches.
    watched: Vec<Rc<RefCell<Wire>>>,
    listeners: BTreeMap<u8, Listener>,
    ports: BTreeMap<u8, Port>,
    questions: BTreeMap<u32, Exchange>,
    /// Of a hundred accepts, those for which there is no descriptor.
    refused_percent: u8,
}

/// Something has become ready since that was told last.
type News = bool;

#[derive(Default)]
struct Listener {
    news: News,
    waiting: VecDeque<(Rc<RefCell<Wire>>, SocketAddr)>,
}

#[derive(Default)]
struct Port {
    news: News,
    came: VecDeque<(SocketAddr, Vec<u8>, Duration)>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

/// What a resolver has said.
#[derive(Default)]
struct Exchange {
    news: News,
    came: VecDeque<Vec<u8>>,
}

/// One stream connection.
pub struct Wire {
    chance: Rng,
    token: Option<Token>,
    news: News,
    /// Said by the peer, and not there yet.
    under_way: VecDeque<u8>,
    /// The peer says nothing more behind it.
    ends: bool,
    came: VecDeque<u8>,
    fin_came: bool,
    /// Reset by the peer; the core has been told, or not.
    reset: Option<News>,
    /// How much the core may send before its peer reads on.
    room: usize,
    was_full: bool,
    /// Sent by the core, and not read by the peer.
    sent: VecDeque<u8>,
    heard: Vec<u8>,
    /// The peer reads nothing.
    deaf: bool,
    fin_sent: bool,
    aborted: bool,
    closed: bool,
}

impl Wire {
    fn is_ended(&self) -> bool {
        self.fin_came || self.reset.is_some()
    }

    /// A part of what is under way arrives, maybe nothing.
    fn arrive(&mut self) {
        let len = self.chance.usize(..=self.under_way.len());
        self.came.extend(self.under_way.drain(..len));
        let fin = self.ends && self.under_way.is_empty() && !self.fin_came && self.chance.bool();
        self.fin_came |= fin;
        self.news |= len > 0 || fin;
    }

    /// The peer reads a part of what was sent, maybe nothing.
    fn hear(&mut self) {
        let len = if self.deaf { 0 } else { self.chance.usize(..=self.sent.len()) };
        self.room += len;
        if len > 0 && std::mem::take(&mut self.was_full) {
            self.news = true;
        }
        self.heard.extend(self.sent.drain(..len));
    }
}

/// The peer's end of a connection.
pub struct End {
    wire: Rc<RefCell<Wire>>,
    /// All that was heard.
    pub heard: Vec<u8>,
}

impl End {
    pub fn say(&mut self, bytes: &[u8]) {
        self.wire.borrow_mut().under_way.extend(bytes);
    }

    /// Says it, and it is there.
    pub fn say_at_once(&mut self, bytes: &[u8]) {
        let mut wire = self.wire.borrow_mut();
        wire.came.extend(bytes);
        wire.news = true;
    }

    /// What is there and the core has not read.
    pub fn unread_len(&self) -> usize {
        self.wire.borrow().came.len()
    }

    /// Reads all that was sent.
    pub fn hear_all(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.room += wire.sent.len();
        wire.news |= std::mem::take(&mut wire.was_full);
        self.heard.append(&mut wire.heard);
        self.heard.extend(wire.sent.drain(..));
    }

    /// Says nothing more behind what was said.
    pub fn end(&mut self) {
        self.wire.borrow_mut().ends = true;
    }

    pub fn reset(&mut self) {
        let mut wire = self.wire.borrow_mut();
        (wire.reset, wire.news) = (Some(true), true);
        wire.under_way.clear();
        wire.sent.clear();
    }

    pub fn be_deaf(&mut self, deaf: bool) {
        self.wire.borrow_mut().deaf = deaf;
    }

    /// Bytes go both ways.
    pub fn step(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.arrive();
        wire.hear();
        self.heard.append(&mut wire.heard);
    }

    /// The core will say nothing more, and all that it has said was heard.
    pub fn has_heard_the_end(&self) -> bool {
        let wire = self.wire.borrow();
        (wire.fin_sent || wire.closed) && wire.sent.is_empty()
    }

    /// The core has said that this was all.
    pub fn was_ended(&self) -> bool {
        self.wire.borrow().fin_sent
    }

    pub fn is_closed(&self) -> bool {
        self.wire.borrow().closed
    }

    pub fn was_aborted(&self) -> bool {
        self.wire.borrow().aborted
    }
}

impl World {
    pub fn new(chance: Rng, listeners: &[PointId], ports: &[PointId]) -> Self {
        Self(Rc::new(RefCell::new(Inside {
            now: Time(1_000_000),
            chance,
            watched: Vec::new(),
            listeners: listeners.iter().map(|point| (point.0, Listener::default())).collect(),
            ports: ports.iter().map(|point| (point.0, Port::default())).collect(),
            questions: BTreeMap::new(),
            refused_percent: 0,
        })))
    }

    pub fn refuse(&self, percent: u8) {
        self.0.borrow_mut().refused_percent = percent;
    }

    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    pub fn pass(&self, time: Duration) {
        let mut inside = self.0.borrow_mut();
        inside.now = inside.now.after(time);
    }

    /// A peer opens a connection whose core may send so much before the peer reads.
    pub fn open(&self, point: PointId, from: SocketAddr, room: usize) -> End {
        let mut inside = self.0.borrow_mut();
        let wire = Wire {
            chance: inside.chance.fork(),
            token: None,
            news: false,
            under_way: VecDeque::new(),
            ends: false,
            came: VecDeque::new(),
            fin_came: false,
            reset: None,
            room,
            was_full: false,
            sent: VecDeque::new(),
            heard: Vec::new(),
            deaf: false,
            fin_sent: false,
            aborted: false,
            closed: false,
        };
        let wire = Rc::new(RefCell::new(wire));
        let listener = inside.listeners.get_mut(&point.0).expect("a listener of this world");
        listener.waiting.push_back((wire.clone(), from));
        listener.news = true;
        End { wire, heard: Vec::new() }
    }

    pub fn send_datagram(&self, point: PointId, from: SocketAddr, bytes: &[u8]) {
        self.send_late(point, from, bytes, Duration::ZERO);
    }

    /// The system has had a datagram for so long.
    pub fn send_late(&self, point: PointId, from: SocketAddr, bytes: &[u8], waited: Duration) {
        let mut inside = self.0.borrow_mut();
        let port = inside.ports.get_mut(&point.0).expect("a port of this world");
        port.came.push_back((from, bytes.to_vec(), waited));
        port.news = true;
    }

    pub fn take_sent(&self, point: PointId) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.0.borrow_mut().ports.get_mut(&point.0).expect("a port of this world").sent)
    }

    /// A resolver says so much at once.
    pub fn answer(&self, exchange: u32, count: usize) {
        let mut inside = self.0.borrow_mut();
        let said = inside.questions.get_mut(&exchange).expect("a question of this world");
        said.came.extend(std::iter::repeat_n(b"an answer".to_vec(), count));
        said.news = true;
    }

    pub fn answers_left(&self, exchange: u32) -> usize {
        self.0.borrow().questions.get(&exchange).map_or(0, |said| said.came.len())
    }

    /// Whether something waits to be told.
    pub fn has_news(&self) -> bool {
        let inside = self.0.borrow();
        inside.watched.iter().any(|wire| wire.borrow().news && !wire.borrow().closed)
            || inside.listeners.values().any(|listener| listener.news)
            || inside.ports.values().any(|port| port.news)
            || inside.questions.values().any(|exchange| exchange.news)
    }

    /// Some of what is ready, in any order, each with all that it is ready for at this moment. The rest is told later.
    pub fn ready(&self) -> Vec<Ready> {
        let mut inside = self.0.borrow_mut();
        let Inside { chance, watched, listeners, ports, questions, .. } = &mut *inside;
        watched.retain(|wire| !wire.borrow().closed);
        let mut all = Vec::new();
        let mut tell = |chance: &mut Rng, news: &mut News, ready: Ready| {
            if *news && chance.u8(..4) > 0 {
                *news = false;
                all.push(ready);
            }
        };
        for wire in watched {
            let wire = &mut *wire.borrow_mut();
            let Some(token) = wire.token else { continue };
            let ended = wire.is_ended();
            let (readable, writable) = (ended || !wire.came.is_empty(), wire.room > 0 || wire.reset.is_some());
            tell(chance, &mut wire.news, Ready { token, readable, writable, ended });
        }
        let readable = |token| Ready { token, readable: true, writable: false, ended: false };
        for (point, listener) in listeners {
            tell(chance, &mut listener.news, readable(Token::Point(PointId(*point))));
        }
        for (point, port) in ports {
            tell(chance, &mut port.news, readable(Token::Point(PointId(*point))));
        }
        for (exchange, said) in questions {
            tell(chance, &mut said.news, readable(Token::Question(*exchange)));
        }
        chance.shuffle(&mut all);
        all
    }
}

/// The core's end of a connection.
pub struct Stream(Rc<RefCell<Wire>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

impl StreamSocket for Stream {
    fn connected(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let wire = self.0.borrow();
        let came = wire.came.iter();
        Ok(into.iter_mut().zip(came).map(|(place, byte)| *place = *byte).count())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, Duration)> {
        let wire = &mut *self.0.borrow_mut();
        if let (true, Some(news)) = (wire.came.is_empty(), &mut wire.reset) {
            return if std::mem::take(news) {
                Err(io::ErrorKind::ConnectionReset.into())
            } else {
                Ok((0, Duration::ZERO))
            };
        }
        if wire.came.is_empty() && !wire.fin_came {
            wire.arrive();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = into.len().min(wire.came.len());
        for (place, byte) in into.iter_mut().zip(wire.came.drain(..len)) {
            *place = byte;
        }
        if wire.chance.bool() {
            wire.arrive();
        }
        Ok((len, Duration::ZERO))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        assert!(!wire.fin_sent, "something is sent behind the FIN");
        if let Some(news) = &mut wire.reset {
            *news = false;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if wire.room == 0 {
            wire.was_full = true;
            wire.hear();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(wire.room);
        wire.room -= len;
        wire.sent.extend(&bytes[..len]);
        Ok(len)
    }

    fn outstanding(&self) -> Option<u64> {
        Some(self.0.borrow().sent.len() as u64)
    }

    fn silent_for(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn shut(&mut self) {
        self.0.borrow_mut().fin_sent = true;
    }

    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }
}

/// The socket of a UDP point.
pub struct Datagrams(World, PointId);

impl Datagrams {
    fn port<T>(&self, step: impl FnOnce(&mut Port) -> T) -> T {
        step(self.0.0.borrow_mut().ports.get_mut(&self.1.0).expect("a port of this world"))
    }
}

impl DatagramSocket for Datagrams {
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<(usize, bool)> {
        let some = self.port(|port| port.came.drain(..port.came.len().min(BATCH_COUNT_MAX)).collect::<Vec<_>>());
        if some.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        batch.fill(&some);
        Ok((some.len(), some.len() == BATCH_COUNT_MAX))
    }

    fn send<'a>(&mut self, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) -> io::Result<usize> {
        let some: Vec<_> = datagrams.take(BATCH_COUNT_MAX).map(|(to, bytes)| (to, bytes.to_vec())).collect();
        let count = some.len();
        self.port(|port| port.sent.extend(some));
        Ok(count)
    }

    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        None
    }

    fn dropped_count(&self) -> Option<u32> {
        None
    }
}

/// A DNS question that is in the air.
pub struct Question(World, u32);

impl Drop for Question {
    fn drop(&mut self) {
        self.0.0.borrow_mut().questions.remove(&self.1);
    }
}

impl Asked for Question {
    fn proceed(&mut self, mut heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<bool> {
        let mut inside = self.0.0.borrow_mut();
        let exchange = inside.questions.get_mut(&self.1).expect("it lives for as long as its question");
        if let Some(answer) = exchange.came.pop_front() {
            heard(([192, 0, 2, 53], 53).into(), &answer);
            return Ok(true);
        }
        Ok(false)
    }
}

impl Driver for World {
    type Stream = Stream;
    type Datagrams = Datagrams;
    type Question = Question;

    fn now(&self) -> Time {
        self.0.borrow().now
    }

    fn take_datagrams(&mut self, point: PointId) -> Option<Datagrams> {
        self.0.borrow().ports.contains_key(&point.0).then(|| Datagrams(self.clone(), point))
    }

    fn accept(&mut self, point: PointId) -> io::Result<(Stream, SocketAddr)> {
        let mut inside = self.0.borrow_mut();
        let Inside { chance, refused_percent, listeners, .. } = &mut *inside;
        let listener = listeners.get_mut(&point.0).ok_or(io::ErrorKind::NotConnected)?;
        if listener.waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if chance.u8(..100) < *refused_percent {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let (wire, from) = listener.waiting.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        Ok((Stream(wire), from))
    }

    fn close_listeners(&mut self) {
        self.0.borrow_mut().listeners.clear();
    }

    fn connect(&mut self, _: SocketAddr, _: SocketAddr) -> io::Result<Stream> {
        Err(io::Error::from_raw_os_error(NOWHERE))
    }

    fn watch(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        let mut wire = stream.0.borrow_mut();
        (wire.token, wire.news) = (Some(token), true);
        self.0.borrow_mut().watched.push(stream.0.clone());
        Ok(())
    }

    fn ask(&mut self, exchange: u32, _: SocketAddr, _: bool, _: &[u8]) -> io::Result<Question> {
        self.0.borrow_mut().questions.insert(exchange, Exchange::default());
        Ok(Question(self.clone(), exchange))
    }
}
