//! Stream connections in memory: cut anywhere, late, blocked, half-closed, reset, and half-open when a host is cut off.
//!
//! Owns: what the systems at both ends would do. Bytes keep their order; what a datagram network would lose comes late
//! here. A party reads all at once unless it is deaf; a shard reads when it has its turn.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::driver::Token;

use crate::net::{Event, Inside, Owner, PartyId, WireId};

/// From the last sign of a peer until its system gives a connection up: three keep-alives, 5 s apart, behind 30 s.
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// How long a segment waits before it is sent again while a host is cut off.
const SEND_AGAIN: Duration = Duration::from_millis(800);

/// Of a connection that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Pending,
    Up,
    Failed(ErrorKind),
}

/// What goes over a connection.
#[derive(Clone, Debug)]
enum Part {
    /// The connection comes about.
    Open,
    /// Nobody listens.
    Refuse,
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// One end.
pub struct End {
    pub owner: Owner,
    pub address: SocketAddr,
    pub token: Option<Token>,
    pub news: bool,
    pub opening: Opening,
    /// Come, and not read.
    pub came: VecDeque<u8>,
    /// When the last of it came.
    pub came_at: Time,
    pub fin_came: bool,
    /// The connection is gone; why is told once.
    pub fault: Option<(ErrorKind, bool)>,
    /// How much it may send before the other end reads on.
    pub room: usize,
    pub was_full: bool,
    pub fin_sent: bool,
    /// Its owner has let go of it.
    pub closed: bool,
    /// Reads nothing for now.
    pub deaf: bool,
    pub unacknowledged: usize,
    pub heard_at: Time,
    under_way: VecDeque<(Time, Part)>,
}

pub struct Wire {
    /// Who opened it, and who accepted it.
    pub ends: [End; 2],
}

/// What a party gets.
#[derive(Debug)]
pub enum Arrived {
    Opened,
    Bytes(Vec<u8>),
    Fin,
    /// It is gone.
    Lost,
}

impl End {
    fn new(owner: Owner, address: SocketAddr, room: usize, now: Time) -> Self {
        Self {
            owner,
            address,
            token: None,
            news: false,
            opening: Opening::Up,
            came: VecDeque::new(),
            came_at: Time(0),
            fin_came: false,
            fault: None,
            room,
            was_full: false,
            fin_sent: false,
            closed: false,
            deaf: false,
            unacknowledged: 0,
            heard_at: now,
            under_way: VecDeque::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.closed || self.fault.is_some()
    }
}

impl Inside {
    /// Opens a connection. For a party's, the shard is who gets it.
    fn wire(&mut self, from: (Owner, SocketAddr), to: (Owner, SocketAddr)) -> WireId {
        let room = self.weather.room;
        let opener = End { opening: Opening::Pending, ..End::new(from.0, from.1, room, self.now) };
        self.wires.push(Wire { ends: [opener, End::new(to.0, to.1, room, self.now)] });
        self.wires.len() - 1
    }

    /// A party opens a connection to a point of the proxy. `None` when nobody listens there, or nothing comes through.
    pub fn connect_party(&mut self, party: PartyId, from: SocketAddr, point: u8) -> Option<WireId> {
        let (to, _) = self.points[usize::from(point)];
        if !self.is_up || self.is_cut(from) {
            return None;
        }
        let shard = self.shard_of(from);
        self.seats[usize::from(shard)].listeners.get(&point)?;
        let wire = self.wire((Owner::Party(party), from), (Owner::Shard(shard), to));
        self.wires[wire].ends[0].opening = Opening::Up;
        let listener = self.seats[usize::from(shard)].listeners.get_mut(&point)?;
        listener.waiting.push_back(wire);
        listener.news = true;
        self.wake(shard);
        Some(wire)
    }

    /// A shard opens a connection.
    pub fn connect_shard(&mut self, shard: u8, from: SocketAddr, to: SocketAddr) -> WireId {
        let party = self.tcp.get(&to).copied();
        // A port of the system's choice, behind those of parties.
        let from = SocketAddr::new(from.ip(), 40_000 + (self.wires.len() % 20_000) as u16);
        let wire = self.wire((Owner::Shard(shard), from), (Owner::Party(party.unwrap_or(usize::MAX)), to));
        if !self.is_cut(to) {
            let (end, part) = match party {
                Some(_) => (0, Part::Open),
                None => (1, Part::Refuse),
            };
            self.put(wire, end, part);
        }
        wire
    }

    /// Something leaves an end, behind what is under way.
    fn put(&mut self, wire: WireId, from: usize, part: Part) {
        let at = self.now.after(self.delay());
        let end = &mut self.wires[wire].ends[from];
        let at = end.under_way.back().map_or(at, |(last, _)| at.max(*last));
        end.under_way.push_back((at, part));
        self.at(at, Event::Stream { wire, from });
    }

    /// Bytes leave an end, in one piece or several.
    pub fn write(&mut self, wire: WireId, from: usize, mut bytes: &[u8]) {
        if self.wires[wire].ends[from].is_over() {
            return;
        }
        self.wires[wire].ends[from].unacknowledged += bytes.len();
        while self.chance_of(self.weather.cut_permille) && bytes.len() > 1 {
            let (part, rest) = bytes.split_at(self.chance.usize(1..bytes.len()));
            self.put(wire, from, Part::Bytes(part.to_vec()));
            bytes = rest;
        }
        self.put(wire, from, Part::Bytes(bytes.to_vec()));
    }

    pub fn fin(&mut self, wire: WireId, from: usize) {
        let end = &mut self.wires[wire].ends[from];
        if !end.is_over() && !std::mem::replace(&mut end.fin_sent, true) {
            self.put(wire, from, Part::Fin);
        }
    }

    /// The owner of an end lets go of it. What has not been read, or `abort`, resets the connection.
    pub fn close(&mut self, wire: WireId, from: usize, abort: bool) {
        let end = &mut self.wires[wire].ends[from];
        if std::mem::replace(&mut end.closed, true) || end.fault.is_some() {
            return;
        }
        if abort || !end.came.is_empty() || end.opening != Opening::Up {
            end.under_way.clear();
            self.put(wire, from, Part::Reset);
        } else if !std::mem::replace(&mut end.fin_sent, true) {
            self.put(wire, from, Part::Fin);
        }
    }

    /// What an end of a shard has from its system now. An end that a fault has hit hears nothing else.
    pub fn fail(&mut self, wire: WireId, end: usize, kind: ErrorKind) {
        let one = &mut self.wires[wire].ends[end];
        if one.is_over() {
            return;
        }
        one.fault = Some((kind, false));
        one.under_way.clear();
        self.news(wire, end);
    }

    /// What was sent from an end is due at the other; gives what a party gets of it.
    pub fn arrive(&mut self, wire: WireId, from: usize) -> Option<(PartyId, Arrived)> {
        let to = 1 - from;
        let now = self.now;
        let [one, other] = [&self.wires[wire].ends[from], &self.wires[wire].ends[to]];
        let due = one.under_way.front().is_some_and(|(at, _)| *at <= now);
        if !due {
            return None;
        }
        if self.is_cut(one.address) || self.is_cut(other.address) {
            self.at(now.after(SEND_AGAIN), Event::Stream { wire, from });
            return None;
        }
        let (_, part) = self.wires[wire].ends[from].under_way.pop_front()?;
        let more = self.wires[wire].ends[from].under_way.front().map(|(at, _)| *at);
        if let Some(at) = more.filter(|at| *at <= now) {
            self.at(at, Event::Stream { wire, from });
        }
        self.wires[wire].ends[from].heard_at = now;
        let other = &mut self.wires[wire].ends[to];
        other.heard_at = now;
        // A system that knows nothing of a connection any more resets it.
        let is_closed = other.closed || other.fault.is_some();
        if other.fault.is_some() && !matches!(part, Part::Bytes(_)) {
            return None;
        }
        match part {
            Part::Open => self.opened(wire),
            Part::Refuse => {
                other.opening = Opening::Failed(ErrorKind::ConnectionRefused);
                self.news(wire, to);
                None
            }
            // Who sends to one that is closed gets a reset.
            Part::Bytes(_) if is_closed => self.lose(wire, from),
            Part::Bytes(bytes) => self.deliver(wire, from, bytes),
            Part::Fin => {
                other.fin_came = true;
                self.news(wire, to);
                self.for_party(wire, to, Arrived::Fin)
            }
            Part::Reset if is_closed => None,
            Part::Reset => self.lose(wire, to),
        }
    }

    /// A connection of a shard has reached its party, whose system takes it.
    fn opened(&mut self, wire: WireId) -> Option<(PartyId, Arrived)> {
        if self.wires[wire].ends[1].owner == Owner::Party(usize::MAX) {
            return None;
        }
        self.wires[wire].ends[0].opening = Opening::Up;
        self.news(wire, 0);
        self.for_party(wire, 1, Arrived::Opened)
    }

    /// An end is reset.
    fn lose(&mut self, wire: WireId, end: usize) -> Option<(PartyId, Arrived)> {
        if self.wires[wire].ends[end].is_over() {
            return None;
        }
        self.fail(wire, end, ErrorKind::ConnectionReset);
        self.for_party(wire, end, Arrived::Lost)
    }

    fn for_party(&self, wire: WireId, end: usize, what: Arrived) -> Option<(PartyId, Arrived)> {
        match self.wires[wire].ends[end].owner {
            Owner::Party(party) if !self.wires[wire].ends[end].closed => Some((party, what)),
            _ => None,
        }
    }

    fn deliver(&mut self, wire: WireId, from: usize, bytes: Vec<u8>) -> Option<(PartyId, Arrived)> {
        let to = 1 - from;
        let sender = &mut self.wires[wire].ends[from];
        sender.unacknowledged = sender.unacknowledged.saturating_sub(bytes.len());
        let receiver = &mut self.wires[wire].ends[to];
        if let (Owner::Party(party), false) = (receiver.owner, receiver.deaf) {
            self.give_room(wire, from, bytes.len());
            return Some((party, Arrived::Bytes(bytes)));
        }
        receiver.came.extend(bytes);
        receiver.came_at = self.now;
        self.news(wire, to);
        None
    }

    /// The other end has read so much of what this one has sent.
    pub fn give_room(&mut self, wire: WireId, end: usize, len: usize) {
        let one = &mut self.wires[wire].ends[end];
        one.room += len;
        if len > 0 && std::mem::take(&mut one.was_full) {
            self.news(wire, end);
        }
    }

    /// A party reads on, or not. Gives what it has missed.
    pub fn set_deaf(&mut self, wire: WireId, end: usize, deaf: bool) -> Vec<u8> {
        let one = &mut self.wires[wire].ends[end];
        one.deaf = deaf;
        if deaf {
            return Vec::new();
        }
        let missed: Vec<u8> = one.came.drain(..).collect();
        self.give_room(wire, 1 - end, missed.len());
        missed
    }

    /// A host is cut off now: the systems of those who talk to it give up after a while.
    pub fn watch_for_death(&mut self, host: std::net::IpAddr) {
        for wire in 0..self.wires.len() {
            for end in 0..2 {
                let [one, other] = [&self.wires[wire].ends[end], &self.wires[wire].ends[1 - end]];
                if other.address.ip() == host && !one.is_over() {
                    // Keep-alives have heard of it until now.
                    let now = self.now;
                    self.wires[wire].ends[end].heard_at = now;
                    self.at(now.after(DEAD_AFTER), Event::Dead { wire, end });
                }
            }
        }
    }

    /// The time for that has come: is nothing heard yet?
    pub fn give_up(&mut self, wire: WireId, end: usize) -> Option<(PartyId, Arrived)> {
        let [one, other] = [&self.wires[wire].ends[end], &self.wires[wire].ends[1 - end]];
        if one.is_over() || !self.is_cut(other.address) || self.now.since(one.heard_at) < DEAD_AFTER {
            return None;
        }
        self.fail(wire, end, ErrorKind::TimedOut);
        self.for_party(wire, end, Arrived::Lost)
    }
}
