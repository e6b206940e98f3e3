//! What a shard stands on here: a driver whose sockets and time are those of the network in memory.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::dns::socket::Asked as Question;
use hawser::driver::{Driver, Ready, Token};
use hawser::ids::PointId;
use hawser::transport::stream::StreamSocket;
use hawser::transport::udp::{BATCH_COUNT_MAX, DatagramSocket, RecvBatch};

use crate::net::{Asked, Net, Port, WireId};
use crate::wire::Opening;

/// The largest datagram that a socket takes.
const DATAGRAM_LEN_MAX: usize = 65_507;
/// How long a peer may be silent that its system's keep-alives reach.
const SILENT_MAX: Duration = Duration::from_secs(30);
const MESSAGE_TOO_LONG: i32 = 90;
const TOO_MANY_FILES: i32 = 24;

/// A shard's place in the network.
pub struct Place {
    net: Net,
    shard: u8,
}

impl Place {
    pub fn new(net: &Net, shard: u8) -> Self {
        Self { net: net.clone(), shard }
    }
}

/// What is ready for a shard: some of it, in any order. The rest is told later.
pub fn ready(net: &Net, shard: u8) -> Vec<Ready> {
    let inside = &mut *net.0.borrow_mut();
    let mut all = Vec::new();
    let chance = &mut inside.chance;
    let mut is_told = |news: &mut bool| *news && chance.u8(..4) > 0 && std::mem::take(news);
    let readable = |token| Ready { token, readable: true, writable: false, ended: false };
    let seat = &mut inside.seats[usize::from(shard)];
    let mut left = Vec::new();
    for (wire, end) in std::mem::take(&mut seat.fresh) {
        let one = &mut inside.wires[wire].ends[end];
        let Some(token) = one.token.filter(|_| !one.closed) else { continue };
        if !is_told(&mut one.news) {
            left.push((wire, end));
            continue;
        }
        let is_pending = one.opening == Opening::Pending && one.fault.is_none();
        let ended = one.fin_came || one.fault.is_some();
        let readable = !is_pending && (ended || !one.came.is_empty());
        let writable = !is_pending && (one.room > 0 || one.fault.is_some());
        all.push(Ready { token, readable, writable, ended });
    }
    seat.fresh = left;
    for (at, port) in &mut seat.ports {
        if is_told(&mut port.news) {
            all.push(readable(Token::Point(PointId(*at))));
        }
    }
    for (at, listener) in &mut seat.listeners {
        if is_told(&mut listener.news) {
            all.push(readable(Token::Point(PointId(*at))));
        }
    }
    for (exchange, question) in &mut seat.questions {
        if is_told(&mut question.news) {
            all.push(readable(Token::Question(*exchange)));
        }
    }
    inside.chance.shuffle(&mut all);
    all
}

/// Whether something waits to be told.
pub fn has_news(net: &Net, shard: u8) -> bool {
    let inside = net.0.borrow();
    let seat = &inside.seats[usize::from(shard)];
    !seat.fresh.is_empty()
        || seat.ports.values().any(|port| port.news)
        || seat.listeners.values().any(|listener| listener.news)
        || seat.questions.values().any(|question| question.news)
}

impl Driver for Place {
    type Stream = Stream;
    type Datagrams = Datagrams;
    type Question = Exchange;

    fn now(&self) -> Time {
        self.net.now()
    }

    fn take_datagrams(&mut self, point: PointId) -> Option<Datagrams> {
        let inside = self.net.0.borrow();
        let seat = &inside.seats[usize::from(self.shard)];
        seat.ports.contains_key(&point.0).then(|| Datagrams { net: self.net.clone(), shard: self.shard, point })
    }

    fn accept(&mut self, point: PointId) -> io::Result<(Stream, SocketAddr)> {
        let inside = &mut *self.net.0.borrow_mut();
        let refuses = inside.accepts_refused_percent > 0 && inside.chance.u8(..100) < inside.accepts_refused_percent;
        let seat = &mut inside.seats[usize::from(self.shard)];
        let listener = seat.listeners.get_mut(&point.0).ok_or(ErrorKind::NotConnected)?;
        if refuses && !listener.waiting.is_empty() {
            return Err(io::Error::from_raw_os_error(TOO_MANY_FILES));
        }
        let wire = listener.waiting.pop_front().ok_or(ErrorKind::WouldBlock)?;
        let peer = inside.wires[wire].ends[0].address;
        Ok((Stream { net: self.net.clone(), wire, end: 1, aborts: false }, peer))
    }

    fn close_listeners(&mut self) {
        let inside = &mut *self.net.0.borrow_mut();
        let seat = &mut inside.seats[usize::from(self.shard)];
        let waiting: Vec<WireId> = seat.listeners.values_mut().flat_map(|one| one.waiting.drain(..)).collect();
        seat.listeners.clear();
        for wire in waiting {
            inside.close(wire, 1, true);
        }
    }

    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<Stream> {
        let wire = self.net.0.borrow_mut().connect_shard(self.shard, from, to);
        Ok(Stream { net: self.net.clone(), wire, end: 0, aborts: false })
    }

    fn watch(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        let inside = &mut *self.net.0.borrow_mut();
        inside.wires[stream.wire].ends[stream.end].token = Some(token);
        inside.news(stream.wire, stream.end);
        Ok(())
    }

    fn ask(&mut self, exchange: u32, to: SocketAddr, tcp: bool, question: &[u8]) -> io::Result<Exchange> {
        let inside = &mut *self.net.0.borrow_mut();
        inside.seats[usize::from(self.shard)].questions.insert(exchange, Default::default());
        let question = question.to_vec();
        inside.asked.push_back(Asked { shard: self.shard, exchange, to, tcp, question });
        Ok(Exchange { net: self.net.clone(), shard: self.shard, exchange })
    }
}

/// A shard's end of a connection.
pub struct Stream {
    net: Net,
    wire: WireId,
    end: usize,
    aborts: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.net.0.borrow_mut().close(self.wire, self.end, self.aborts);
    }
}

impl StreamSocket for Stream {
    fn connected(&mut self) -> io::Result<()> {
        let inside = self.net.0.borrow();
        let end = &inside.wires[self.wire].ends[self.end];
        match (end.opening, end.fault) {
            (_, Some((kind, _))) => Err(kind.into()),
            (Opening::Up, None) => Ok(()),
            (Opening::Pending, None) => Err(ErrorKind::WouldBlock.into()),
            (Opening::Failed(kind), None) => Err(kind.into()),
        }
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let inside = self.net.0.borrow();
        let came = inside.wires[self.wire].ends[self.end].came.iter();
        Ok(into.iter_mut().zip(came).map(|(place, byte)| *place = *byte).count())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, Duration)> {
        let inside = &mut *self.net.0.borrow_mut();
        let now = inside.now;
        let cuts = inside.chance_of(inside.weather.cut_permille);
        let end = &mut inside.wires[self.wire].ends[self.end];
        if end.came.is_empty() {
            return match &mut end.fault {
                Some((kind, told)) => match std::mem::replace(told, true) {
                    false => Err((*kind).into()),
                    true => Ok((0, Duration::ZERO)),
                },
                None if end.fin_came => Ok((0, Duration::ZERO)),
                None => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let (most, waited) = (into.len().min(end.came.len()), now.since(end.came_at));
        let len = if cuts && most > 1 { inside.chance.usize(1..most) } else { most };
        for (place, byte) in into.iter_mut().zip(end.came.drain(..len)) {
            *place = byte;
        }
        // The rest has come behind this read, which the system tells.
        if len < most {
            inside.news(self.wire, self.end);
        }
        inside.give_room(self.wire, 1 - self.end, len);
        Ok((len, waited))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let inside = &mut *self.net.0.borrow_mut();
        let end = &mut inside.wires[self.wire].ends[self.end];
        assert!(!end.fin_sent, "something is sent behind the FIN");
        if let Some((_, told)) = &mut end.fault {
            *told = true;
            return Err(ErrorKind::BrokenPipe.into());
        }
        if end.room == 0 {
            end.was_full = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = bytes.len().min(end.room);
        end.room -= len;
        end.was_full = len < bytes.len();
        inside.write(self.wire, self.end, &bytes[..len]);
        Ok(len)
    }

    fn outstanding(&self) -> Option<u64> {
        let inside = self.net.0.borrow();
        let end = &inside.wires[self.wire].ends[self.end];
        end.fault.is_none().then_some(end.unacknowledged as u64)
    }

    fn silent_for(&self) -> Option<Duration> {
        let inside = self.net.0.borrow();
        let [one, other] = [&inside.wires[self.wire].ends[self.end], &inside.wires[self.wire].ends[1 - self.end]];
        let silent = inside.now.since(one.heard_at);
        Some(if inside.is_cut(other.address) { silent } else { silent.min(SILENT_MAX) })
    }

    fn shut(&mut self) {
        self.net.0.borrow_mut().fin(self.wire, self.end);
    }

    fn abort(&mut self) {
        self.aborts = true;
    }
}

/// The socket of a UDP point of a shard.
pub struct Datagrams {
    net: Net,
    shard: u8,
    point: PointId,
}

impl Datagrams {
    fn port<T>(&self, step: impl FnOnce(&mut Port) -> T) -> T {
        let mut inside = self.net.0.borrow_mut();
        step(inside.seats[usize::from(self.shard)].ports.get_mut(&self.point.0).expect("a port of this shard"))
    }
}

impl DatagramSocket for Datagrams {
    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<(usize, bool)> {
        let fails = self.port(|port| std::mem::take(&mut port.fails));
        if fails {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let now = self.net.now();
        let some: Vec<_> = self.port(|port| {
            let count = port.came.len().min(BATCH_COUNT_MAX);
            port.came.drain(..count).map(|(from, bytes, at)| (from, bytes.to_vec(), now.since(at))).collect()
        });
        if some.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        batch.fill(&some);
        Ok((some.len(), some.len() == BATCH_COUNT_MAX))
    }

    fn send<'a>(&mut self, datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>) -> io::Result<usize> {
        if self.port(|port| std::mem::take(&mut port.fails)) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let inside = &mut *self.net.0.borrow_mut();
        if inside.chance_of(inside.weather.full_permille) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let (from, _) = inside.points[usize::from(self.point.0)];
        let mut count = 0;
        for (to, bytes) in datagrams.take(BATCH_COUNT_MAX) {
            if bytes.len() > DATAGRAM_LEN_MAX {
                return if count == 0 { Err(io::Error::from_raw_os_error(MESSAGE_TOO_LONG)) } else { Ok(count) };
            }
            inside.send(from, to, bytes);
            count += 1;
        }
        Ok(count)
    }

    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        self.port(|port| port.back.pop_front())
    }

    fn dropped_count(&self) -> Option<u32> {
        Some(self.port(|port| port.dropped))
    }
}

/// A DNS question that is in the air.
pub struct Exchange {
    net: Net,
    shard: u8,
    exchange: u32,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.net.0.borrow_mut().seats[usize::from(self.shard)].questions.remove(&self.exchange);
    }
}

impl Question for Exchange {
    fn proceed(&mut self, mut heard: impl FnMut(SocketAddr, &[u8])) -> io::Result<bool> {
        let (came, refused) = {
            let mut inside = self.net.0.borrow_mut();
            let questions = &mut inside.seats[usize::from(self.shard)].questions;
            let Some(question) = questions.get_mut(&self.exchange) else { return Ok(false) };
            (std::mem::take(&mut question.came), question.refused)
        };
        for (from, bytes) in &came {
            heard(*from, bytes);
        }
        if refused { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(false) }
    }
}
