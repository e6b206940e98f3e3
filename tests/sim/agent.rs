//! A party: its host, its sockets and connections, its transactions; what it does with them stands in `phone` and
//! `server`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use hawser::ids::Transport;

use crate::book::Book;
use crate::judge::Judge;
use crate::message::Msg;
use crate::net::{Event, Net, PartyId, WireId};
use crate::phone::Phone;
use crate::plan::Setup;
use crate::server::Server;
use crate::stack::{Stack, Todo, Up, Way, Why};
use crate::wire::Arrived;

/// What parties share.
pub struct Ctx {
    pub net: Net,
    pub judge: Judge,
    pub book: Book,
    pub chance: Rng,
    pub setup: Setup,
    pub tls: Option<crate::certificates::Clients>,
}

impl Ctx {
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        crate::trace::note(|| {
            let at = self.net.now().0 - 1_000_000;
            format!("{:>4}.{:06} {}", at / 1_000_000, at % 1_000_000, line())
        });
    }

    pub fn chance_of(&mut self, percent: u8) -> bool {
        self.chance.u8(..100) < percent
    }
}

/// A connection of a party.
pub struct Conn {
    /// Which end of the wire it is.
    pub end: usize,
    session: Option<Box<rustls::Connection>>,
    text: Vec<u8>,
    /// What waits for the handshake.
    unsent: Vec<u8>,
}

pub enum Role {
    Phone(Box<Phone>),
    Server(Box<Server>),
}

/// What a party does later.
#[derive(Clone, Debug)]
pub enum Later {
    /// Answers the request under this key.
    Answer { key: String, status: &'static str },
    /// Registers again.
    Register { nth: u32 },
    /// Opens a connection again.
    Connect { nth: u32 },
}

/// See the module.
pub struct Agent {
    pub id: PartyId,
    pub name: String,
    pub host: IpAddr,
    pub role: Role,
    pub stack: Stack,
    pub conns: BTreeMap<WireId, Conn>,
    laters: BTreeMap<u64, Later>,
    next_later: u64,
    next_branch: u32,
    /// How fast its clock goes: a thousand of its milliseconds are so many.
    pub clock_permille: u32,
}

/// Timers of the party itself, told apart from those of its transactions.
const LATER: u64 = 1 << 63;

impl Agent {
    pub fn new(id: PartyId, name: &str, host: IpAddr, role: Role) -> Self {
        Self {
            id,
            name: name.to_owned(),
            host,
            role,
            stack: Stack::default(),
            conns: BTreeMap::new(),
            laters: BTreeMap::new(),
            next_later: LATER,
            next_branch: 0,
            clock_permille: 1_000,
        }
    }

    pub fn later(&mut self, ctx: &mut Ctx, wait: Duration, what: Later) {
        self.next_later += 1;
        self.laters.insert(self.next_later, what);
        ctx.net.after(self.by_clock(wait), Event::Timer { party: self.id, timer: self.next_later });
    }

    /// How long its clock takes for that.
    fn by_clock(&self, wait: Duration) -> Duration {
        wait * self.clock_permille / 1_000
    }

    pub fn later_ms(&mut self, ctx: &mut Ctx, ms: std::ops::Range<u64>, what: Later) {
        let ms = ctx.chance.u64(ms);
        self.later(ctx, Duration::from_millis(ms), what);
    }

    pub fn branch(&mut self) -> String {
        self.next_branch += 1;
        format!("z9hG4bK{}.{}", self.name, self.next_branch)
    }

    /// A number of this party's that none has had.
    pub fn number(&mut self) -> u32 {
        self.next_branch += 1;
        self.next_branch
    }

    /// Forgets its transactions, and what it wanted to do.
    pub fn die(&mut self) {
        self.stack.die();
        self.laters.clear();
        self.conns.clear();
    }

    // --- what comes -----------------------------------------------------------------------------------------

    pub fn on_timer(&mut self, ctx: &mut Ctx, timer: u64) {
        if timer >= LATER {
            let Some(what) = self.laters.remove(&timer) else { return };
            return match &self.role {
                Role::Phone(_) => self.phone_later(ctx, what),
                Role::Server(_) => self.server_later(ctx, what),
            };
        }
        let mut todo = Todo::default();
        self.stack.on_timer(timer, ctx.net.now(), &mut todo);
        self.carry_out(ctx, todo);
    }

    pub fn on_datagram(&mut self, ctx: &mut Ctx, from: SocketAddr, own: SocketAddr, bytes: &[u8]) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return;
        }
        let Some(message) = Msg::read(bytes) else { panic!("{} got what cannot be read: {bytes:?}", self.name) };
        self.on_message(ctx, message, Way::Udp { own, to: from });
    }

    pub fn on_stream(&mut self, ctx: &mut Ctx, wire: WireId, what: Arrived) {
        match what {
            Arrived::Opened => self.accept(ctx, wire),
            Arrived::Bytes(bytes) => self.on_bytes(ctx, wire, &bytes),
            Arrived::Fin => {
                self.close(ctx, wire, false);
                self.on_lost(ctx, wire);
            }
            Arrived::Lost => {
                self.conns.remove(&wire);
                self.on_lost(ctx, wire);
            }
        }
    }

    fn on_lost(&mut self, ctx: &mut Ctx, wire: WireId) {
        ctx.note(|| format!("{} has lost wire {wire}", self.name));
        ctx.judge.wire_lost(self.id, wire, ctx.net.now());
        match &self.role {
            Role::Phone(_) => self.phone_lost(ctx, wire),
            Role::Server(_) => {}
        }
    }

    fn accept(&mut self, ctx: &mut Ctx, wire: WireId) {
        // The proxy comes by TCP too, with what is too long for a datagram.
        let is_tls = ctx.setup.internal == Transport::Tls;
        let session = ctx.tls.as_ref().filter(|_| is_tls).map(|tls| tls.accept());
        self.conns.insert(wire, Conn { end: 1, session, text: Vec::new(), unsent: Vec::new() });
    }

    fn on_bytes(&mut self, ctx: &mut Ctx, wire: WireId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        match &mut conn.session {
            None => conn.text.extend_from_slice(bytes),
            Some(session) => {
                let mut bytes = bytes;
                while !bytes.is_empty() {
                    session.read_tls(&mut bytes).expect("it reads from memory");
                    let told = session.process_new_packets().expect("the proxy speaks TLS").plaintext_bytes_to_read();
                    let mut text = vec![0; told];
                    session.reader().read_exact(&mut text).expect("it said so");
                    conn.text.extend(text);
                }
                self.flush(ctx, wire);
            }
        }
        loop {
            let Some(conn) = self.conns.get_mut(&wire) else { return };
            let Some(message) = Msg::take(&mut conn.text) else { return };
            let message = Msg::read(&message).expect("a message");
            self.on_message(ctx, message, Way::Wire(wire));
        }
    }

    fn on_message(&mut self, ctx: &mut Ctx, mut message: Msg, way: Way) {
        ctx.note(|| format!("{} < {} {way:?}", self.name, in_short(&message)));
        message.remove("Content-Length");
        if message.is_request() && message.method() == "INVITE" {
            self.stack.invited.insert(message.branch().to_owned());
        }
        let has_had = self.stack.invited.contains(message.branch());
        ctx.judge.arrived(self.id, &message, has_had, ctx.net.now(), &ctx.setup);
        if let Role::Server(_) = self.role
            && !self.server_takes(ctx, &message, way)
        {
            return;
        }
        let mut todo = Todo::default();
        self.stack.on_message(message, way, ctx.net.now(), &mut todo);
        self.carry_out(ctx, todo);
    }

    // --- what leaves ----------------------------------------------------------------------------------------

    pub fn carry_out(&mut self, ctx: &mut Ctx, todo: Todo) {
        for (at, timer) in todo.arm {
            ctx.net.after(self.by_clock(at.since(ctx.net.now())), Event::Timer { party: self.id, timer });
        }
        for (way, message) in todo.send {
            self.send(ctx, way, &message);
        }
        for up in todo.up {
            self.on_up(ctx, up);
        }
    }

    fn on_up(&mut self, ctx: &mut Ctx, up: Up) {
        match &up {
            Up::Response { client, response, again, .. } => {
                ctx.judge.answered(&client.request, response, *again, ctx.net.now());
            }
            Up::Timeout { client } => ctx.judge.timed_out(client, ctx.net.now()),
            Up::NoAck { served } => ctx.judge.no_ack(self.id, served),
            Up::Stray { response } => ctx.judge.stray(self.id, response),
            Up::Request { .. } | Up::Ack { .. } | Up::Cancel { .. } => {}
        }
        match &self.role {
            Role::Phone(_) => self.phone_up(ctx, up),
            Role::Server(_) => self.server_up(ctx, up),
        }
    }

    /// Sends a request of this party; gives the key of its transaction.
    pub fn ask(&mut self, ctx: &mut Ctx, request: Msg, way: Way, why: Why) -> String {
        let is_bound = match &self.role {
            Role::Phone(phone) => phone.bound_way == Some(way) && phone.bound_until > ctx.net.now(),
            Role::Server(_) => true,
        };
        ctx.judge.asked(self.id, &request, way, is_bound, ctx.net.now());
        let mut todo = Todo::default();
        let key = self.stack.request(request, way, why, ctx.net.now(), &mut todo);
        self.carry_out(ctx, todo);
        key
    }

    /// Answers the request under this key.
    pub fn respond(&mut self, ctx: &mut Ctx, key: &str, mut response: Msg) {
        if response.get("X-Rid").is_empty() {
            let number = self.number();
            response.push("X-Rid", format!("{} {number}", self.id));
        }
        if let Some(served) = self.stack.served.get(key) {
            let (id, now) = (served.request.get("X-Id"), ctx.net.now());
            match response.code() {
                100 => {}
                101..200 => ctx.judge.duties.rings(self.id, id, &response, now),
                _ => ctx.judge.was_answered(id, now),
            }
        }
        let mut todo = Todo::default();
        let is_own = response.get("X-Rid").split(' ').next() == Some(&*self.id.to_string());
        self.stack.respond(key, response, is_own, ctx.net.now(), &mut todo);
        self.carry_out(ctx, todo);
    }

    pub fn cancel(&mut self, ctx: &mut Ctx, key: &str) {
        let mut todo = Todo::default();
        if self.stack.cancel(key, ctx.net.now(), &mut todo) {
            ctx.note(|| format!("{} cancels {key}", self.name));
        }
        self.carry_out(ctx, todo);
    }

    pub fn send(&mut self, ctx: &mut Ctx, way: Way, message: &Msg) {
        ctx.note(|| format!("{} > {} {way:?}", self.name, in_short(message)));
        ctx.judge.left(self.id, message, ctx.net.now());
        let bytes = message.bytes();
        match way {
            Way::Udp { own, to } => ctx.net.send(own, to, &bytes),
            Way::Wire(wire) => self.write(ctx, wire, &bytes),
        }
    }

    /// Bytes over a connection, if it is there.
    pub fn write(&mut self, ctx: &mut Ctx, wire: WireId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        match &mut conn.session {
            None => ctx.net.0.borrow_mut().write(wire, conn.end, bytes),
            Some(_) => {
                conn.unsent.extend_from_slice(bytes);
                self.flush(ctx, wire);
            }
        }
    }

    fn flush(&mut self, ctx: &mut Ctx, wire: WireId) {
        let Some(conn) = self.conns.get_mut(&wire) else { return };
        let Some(session) = &mut conn.session else { return };
        if !session.is_handshaking() && !conn.unsent.is_empty() {
            std::io::Write::write_all(&mut session.writer(), &std::mem::take(&mut conn.unsent)).expect("it takes all");
        }
        let mut records = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut records).expect("it writes to memory");
        }
        if !records.is_empty() {
            ctx.net.0.borrow_mut().write(wire, conn.end, &records);
        }
    }

    /// Opens a connection to a point of the proxy.
    pub fn connect(&mut self, ctx: &mut Ctx, point: u8) -> Option<WireId> {
        let own = SocketAddr::new(self.host, ctx.net.fresh_port());
        let wire = ctx.net.0.borrow_mut().connect_party(self.id, own, point)?;
        let session = ctx.tls.as_ref().map(|tls| tls.connect());
        self.conns.insert(wire, Conn { end: 0, session, text: Vec::new(), unsent: Vec::new() });
        self.flush(ctx, wire);
        ctx.note(|| format!("{} opens wire {wire} from {own}", self.name));
        Some(wire)
    }

    /// Lets go of a connection.
    pub fn close(&mut self, ctx: &mut Ctx, wire: WireId, abort: bool) {
        let Some(mut conn) = self.conns.remove(&wire) else { return };
        ctx.judge.wire_lost(self.id, wire, ctx.net.now());
        if let Some(session) = conn.session.as_mut().filter(|_| !abort) {
            session.send_close_notify();
            let mut records = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut records).expect("it writes to memory");
            }
            ctx.net.0.borrow_mut().write(wire, conn.end, &records);
        }
        ctx.net.0.borrow_mut().close(wire, conn.end, abort);
    }

    /// Stops reading, or reads on.
    pub fn set_deaf(&mut self, ctx: &mut Ctx, deaf: bool) {
        let wires: Vec<(WireId, usize)> = self.conns.iter().map(|(wire, conn)| (*wire, conn.end)).collect();
        for (wire, end) in wires {
            let missed = ctx.net.0.borrow_mut().set_deaf(wire, end, deaf);
            if !missed.is_empty() {
                self.on_bytes(ctx, wire, &missed);
            }
        }
    }

    pub fn phone(&mut self) -> &mut Phone {
        match &mut self.role {
            Role::Phone(phone) => phone,
            Role::Server(_) => unreachable!("a phone is asked for"),
        }
    }

    pub fn server(&mut self) -> &mut Server {
        match &mut self.role {
            Role::Server(server) => server,
            Role::Phone(_) => unreachable!("a server is asked for"),
        }
    }
}

/// A message in the trace.
fn in_short(message: &Msg) -> String {
    format!("{} [{} {}] {}", message.start, message.get("CSeq"), message.get("Call-ID"), message.get("X-Id"))
}
