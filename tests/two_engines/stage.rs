//! SIP Servers around a [`World`] that answer service checks, die, freeze, refuse and come back, while a story
//! decides by hand what they say to anything else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hawser::config::ServerAddress;
use hawser::engine::{CloseReason, ConnectFailure, Input, Settings};
use hawser::ids::Transport;
use hawser::stats::Gauge;

use crate::talk::{Dialog, Phone, answer, header, headers, uri};
use crate::world::{SERVER, SERVER2, Setup, TCP, TLS, Wire, World};

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers checks; the story answers the rest.
    Up,
    /// Frozen: what it gets waits for its thaw.
    Silent,
    /// Its process is gone: connections are reset, new ones refused, and datagrams come back.
    Gone,
    /// Answers everything with 503, checks too.
    Unavailable,
    /// The same, but for checks.
    Overloaded,
    /// Its certificate is refused.
    Stranger,
}

#[derive(Clone, Debug)]
struct Arrived {
    text: String,
    wire: Option<Wire>,
}

#[derive(Debug)]
struct Machine {
    address: SocketAddr,
    transport: Transport,
    mode: Mode,
    inbox: VecDeque<Arrived>,
    held: Vec<Arrived>,
    wires: Vec<Wire>,
    /// Connections whose handshake waits for the thaw.
    waiting: Vec<Wire>,
    pings: usize,
}

/// See the module.
pub struct Stage {
    pub world: World,
    machines: Vec<Machine>,
    opened_seen: usize,
    closed_seen: usize,
    /// Where the datagrams of servers land.
    pub land: u8,
}

/// One pair with service checks: every 5 s, every second in a search.
pub fn paired(settings: &mut Settings) {
    settings.servers[0].backup = Some(ServerAddress::Address(address(SERVER2)));
    settings.live.oos_check = Duration::from_secs(5);
    settings.live.oos_force = Duration::from_secs(1);
}

/// The same without service checks.
pub fn unchecked(settings: &mut Settings) {
    paired(settings);
    settings.live.oos_check = Duration::ZERO;
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Every internal protocol, with one to three shards.
pub fn everywhere(mutate: fn(&mut Settings), story: impl Fn(Stage)) {
    for (internal, shards) in [
        (Transport::Udp, 1),
        (Transport::Udp, 3),
        (Transport::Tcp, 1),
        (Transport::Tcp, 2),
        (Transport::Tls, 2),
        (Transport::Tls, 3),
    ] {
        story(Stage::new(&Setup { internal, shards, mutate, ..Setup::default() }));
    }
}

impl Stage {
    pub fn new(setup: &Setup) -> Self {
        let mut stage =
            Self { world: World::new(setup), machines: Vec::new(), opened_seen: 0, closed_seen: 0, land: 0 };
        stage.add(SERVER, setup.internal);
        stage.add(SERVER2, setup.internal);
        stage
    }

    /// Another server.
    pub fn add(&mut self, at: &str, transport: Transport) {
        self.machines.push(Machine {
            address: address(at),
            transport,
            mode: Mode::Up,
            inbox: VecDeque::new(),
            held: Vec::new(),
            wires: Vec::new(),
            waiting: Vec::new(),
            pings: 0,
        });
    }

    pub fn shards(&self) -> u8 {
        u8::try_from(self.world.engines.len()).expect("few")
    }

    fn at(&self, server: &str) -> usize {
        let address = address(server);
        self.machines.iter().position(|machine| machine.address == address).expect("a server of this story")
    }

    /// Service checks that a server has seen.
    pub fn pings(&self, server: &str) -> usize {
        self.machines[self.at(server)].pings
    }

    /// Connections that a server has now.
    pub fn wires(&self, server: &str) -> Vec<Wire> {
        self.machines[self.at(server)].wires.clone()
    }

    pub fn set(&mut self, server: &str, mode: Mode) {
        let at = self.at(server);
        let before = std::mem::replace(&mut self.machines[at].mode, mode);
        if matches!(mode, Mode::Gone | Mode::Stranger) {
            let wires = std::mem::take(&mut self.machines[at].wires);
            for wire in wires {
                self.world.input(wire.shard, Input::Closed { conn: wire.conn, reason: CloseReason::Reset });
            }
            let refused = CloseReason::Connect(ConnectFailure::Refused);
            for wire in std::mem::take(&mut self.machines[at].waiting) {
                self.world.input(wire.shard, Input::Closed { conn: wire.conn, reason: refused });
            }
            self.machines[at].inbox.clear();
            self.machines[at].held.clear();
        } else if before == Mode::Silent && mode != Mode::Silent {
            for wire in std::mem::take(&mut self.machines[at].waiting) {
                self.world.input(wire.shard, Input::Ready { conn: wire.conn, identities: None });
                self.machines[at].wires.push(wire);
            }
            for arrived in std::mem::take(&mut self.machines[at].held) {
                self.arrive(at, arrived);
            }
        }
        self.run();
    }

    /// Carries on until nothing moves.
    pub fn run(&mut self) {
        loop {
            self.world.settle();
            let moved = self.open() | self.close() | self.carry();
            if !moved {
                return;
            }
        }
    }

    fn open(&mut self) -> bool {
        let mut moved = false;
        while let Some((wire, to)) = self.world.opened.get(self.opened_seen).copied() {
            self.opened_seen += 1;
            moved = true;
            let refused = |failure| Input::Closed { conn: wire.conn, reason: CloseReason::Connect(failure) };
            let Some(machine) = self.machines.iter_mut().find(|machine| machine.address == to) else {
                self.world.input(wire.shard, refused(ConnectFailure::Refused));
                continue;
            };
            let refuses = matches!(machine.mode, Mode::Gone | Mode::Stranger);
            // What was to be sent once it is open goes down with it.
            while refuses && self.world.try_read(wire).is_some() {}
            let input = match (machine.mode, machine.transport) {
                (Mode::Gone, _) => refused(ConnectFailure::Refused),
                (Mode::Stranger, _) => refused(ConnectFailure::Tls),
                (Mode::Silent, Transport::Tls) => {
                    machine.waiting.push(wire);
                    continue;
                }
                _ => {
                    machine.wires.push(wire);
                    Input::Ready { conn: wire.conn, identities: None }
                }
            };
            self.world.input(wire.shard, input);
        }
        moved
    }

    fn close(&mut self) -> bool {
        let mut moved = false;
        while let Some((wire, _)) = self.world.closed.get(self.closed_seen).copied() {
            self.closed_seen += 1;
            moved = true;
            for machine in &mut self.machines {
                machine.wires.retain(|other| *other != wire);
                machine.waiting.retain(|other| *other != wire);
            }
        }
        moved
    }

    fn carry(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.machines.len() {
            let name = self.machines[at].address.to_string();
            while let Some(text) = self.world.try_read_udp(&name) {
                moved = true;
                if self.machines[at].mode == Mode::Gone {
                    let land = self.land % self.shards();
                    self.world.input(land, Input::Unreachable { to: address(&name) });
                } else {
                    self.arrive(at, Arrived { text, wire: None });
                }
            }
            let wires: Vec<Wire> = self.machines[at].wires.iter().chain(&self.machines[at].waiting).copied().collect();
            for wire in wires {
                while let Some(text) = self.world.try_read(wire) {
                    moved = true;
                    self.arrive(at, Arrived { text, wire: Some(wire) });
                }
            }
        }
        moved
    }

    fn arrive(&mut self, at: usize, arrived: Arrived) {
        let machine = &mut self.machines[at];
        let is_ping = arrived.text.starts_with("OPTIONS ") && arrived.text.contains("User-Agent: Hawser\r\n");
        let is_plain = ["ACK ", "CANCEL ", "SIP/2.0 "].iter().all(|start| !arrived.text.starts_with(start));
        machine.pings += usize::from(is_ping);
        let status = match machine.mode {
            Mode::Silent => {
                machine.held.push(arrived);
                return;
            }
            Mode::Up | Mode::Overloaded if is_ping => "200 OK",
            Mode::Unavailable | Mode::Overloaded if is_plain => "503 Service Unavailable",
            _ => {
                machine.inbox.push_back(arrived);
                return;
            }
        };
        let server = machine.address.to_string();
        if !is_ping {
            machine.inbox.push_back(arrived.clone());
        }
        self.say_over(&server, arrived.wire, &answer(&arrived.text, status, "s503", ""));
    }

    /// A server says something, over the connection given if it is there.
    fn say_over(&mut self, server: &str, wire: Option<Wire>, text: &str) {
        let at = self.at(server);
        let machine = &self.machines[at];
        if machine.transport == Transport::Udp {
            return self.world.datagram(self.land, server, text);
        }
        let known = wire.filter(|wire| machine.wires.contains(wire)).or(machine.wires.last().copied());
        let point = if machine.transport == Transport::Tls { TLS } else { TCP };
        let wire = match known {
            Some(wire) => wire,
            None => {
                let wire = self.world.connect_from(self.land, point, SocketAddr::from(([127, 0, 0, 1], 33_333)));
                self.machines[at].wires.push(wire);
                wire
            }
        };
        self.world.write(wire, text);
    }

    /// A server says something.
    pub fn say(&mut self, server: &str, text: &str) {
        self.say_over(server, None, text);
        self.run();
    }

    /// A server answers what it got.
    pub fn reply(&mut self, server: &str, request: &str, status: &str) {
        let extra = format!("Contact: <sip:{server}>\r\n");
        self.say(server, &answer(request, status, &format!("t{}", &server[server.len() - 1..]), &extra));
    }

    pub fn try_read_at(&mut self, server: &str) -> Option<String> {
        self.run();
        let at = self.at(server);
        self.machines[at].inbox.pop_front().map(|arrived| arrived.text)
    }

    /// The next message that a server got, checks left out.
    #[track_caller]
    pub fn read_at(&mut self, server: &str) -> String {
        match self.try_read_at(server) {
            Some(text) => text,
            None => panic!("nothing at {server}: {:#?}; {:#?}", self.machines, self.world.events),
        }
    }

    /// The next message that a server got, which is such a request.
    #[track_caller]
    pub fn read_request(&mut self, server: &str, method: &str) -> String {
        let text = self.read_at(server);
        assert!(text.starts_with(&format!("{method} ")), "at {server}: {text}");
        text
    }

    /// Nothing waits at a server that the story has not read.
    #[track_caller]
    pub fn assert_idle(&mut self, server: &str) {
        self.run();
        let at = self.at(server);
        assert!(self.machines[at].inbox.is_empty(), "at {server}: {:#?}", self.machines[at].inbox);
    }

    /// Forgets what a server got.
    pub fn forget(&mut self, server: &str) {
        self.run();
        let at = self.at(server);
        self.machines[at].inbox.clear();
    }

    /// A phone says something.
    pub fn write(&mut self, wire: Wire, text: &str) {
        self.world.write(wire, text);
        self.run();
    }

    /// The next message that a phone got.
    #[track_caller]
    pub fn read(&mut self, wire: Wire) -> String {
        self.run();
        self.world.read(wire)
    }

    /// The next message that a phone got is a response with this status.
    #[track_caller]
    pub fn read_status(&mut self, wire: Wire, status: &str) -> String {
        let text = self.read(wire);
        assert!(text.starts_with(&format!("SIP/2.0 {status}")), "{text}");
        text
    }

    /// A phone asks, and a server gets it.
    #[track_caller]
    pub fn asked(&mut self, wire: Wire, method: &str, id: &str, server: &str) -> String {
        self.write(wire, &ask(method, id));
        self.read_request(server, method)
    }

    /// The final response to a phone, which has this status. Those before it are provisional, and no two of them alike.
    #[track_caller]
    pub fn read_final(&mut self, wire: Wire, status: &str) -> String {
        let mut before: Vec<String> = Vec::new();
        loop {
            let text = self.read(wire);
            if !text.starts_with("SIP/2.0 1") {
                assert!(text.starts_with(&format!("SIP/2.0 {status}")), "{text}");
                return text;
            }
            assert!(!before.contains(&text), "twice: {text}");
            before.push(text);
        }
    }

    /// A phone asks within a dialog, and a server that gets it says 200: what it got.
    #[track_caller]
    pub fn in_dialog(&mut self, wire: Wire, dialog: &mut Dialog, method: &str, server: &str) -> String {
        let text = dialog.request(method, "TLS 192.0.2.7:5060");
        self.write(wire, &text);
        let request = self.read_request(server, method);
        self.reply(server, &request, "200 OK");
        self.read_status(wire, "200");
        request
    }

    /// A phone's ACK to a 2xx, and a server gets it.
    #[track_caller]
    pub fn acknowledge(&mut self, wire: Wire, dialog: &mut Dialog, server: &str) {
        let ack = dialog.request("ACK", "TLS 192.0.2.7:5060");
        self.write(wire, &ack);
        self.read_request(server, "ACK");
    }

    /// A phone on the last shard.
    pub fn phone(&mut self) -> Wire {
        let shard = self.shards() - 1;
        self.world.connect(shard, TLS)
    }

    /// A phone that has registered with a server.
    pub fn registered(&mut self, user: &'static str, server: &str) -> Phone {
        let wire = self.phone();
        let mut phone = Phone::new(user, wire);
        self.register(&mut phone, server);
        phone
    }

    pub fn register(&mut self, phone: &mut Phone, server: &str) {
        let text = phone.register_text(3_600);
        self.write(phone.wire, &text);
        self.grant(phone, server);
        self.read_status(phone.wire, "200");
    }

    /// A server's part of a registration.
    pub fn grant(&mut self, phone: &mut Phone, server: &str) {
        let request = self.read_request(server, "REGISTER");
        phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
        phone.bound_contact = uri(header(&request, "Contact")).to_owned();
        let mut extra: String = phone.path.iter().map(|path| format!("Path: {path}\r\n")).collect();
        extra += &format!("Contact: <{}>;expires=3600\r\n", phone.bound_contact);
        self.say(server, &answer(&request, "200 OK", "srv", &extra));
    }

    /// A request of a server to a phone, by what it stored.
    pub fn request_of(&self, server: &str, phone: &Phone, method: &str, call_id: &str) -> String {
        let via = self.machines[self.at(server)].transport.via_name();
        phone
            .server_request(method, call_id, 1)
            .replace(&format!("UDP {SERVER}"), &format!("{via} {server}"))
            .replace(&format!("Contact: <sip:{SERVER}>"), &format!("Contact: <sip:{server}>"))
    }

    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.world.now.after(Duration::from_millis(ms));
        self.run();
        while self.world.now < end {
            let left = end.since(self.world.now);
            let next = self.world.until_next().unwrap_or(left).clamp(Duration::from_millis(1), left);
            self.world.pass(next);
            self.run();
        }
    }

    pub fn pass_s(&mut self, s: u64) {
        self.pass_ms(s * 1_000);
    }

    /// How often something was said.
    pub fn told(&self, words: &str) -> usize {
        self.world.events.iter().filter(|event| event.contains(words)).count()
    }

    /// Where a new request of each shard goes: a phone asks, and the server answers.
    #[track_caller]
    pub fn assert_served_by(&mut self, server: &str) {
        for shard in 0..self.shards() {
            let wire = self.world.connect(shard, TLS);
            let id = format!("probe{shard}{}{}", self.world.now.0, wire.conn.generation);
            let request = self.asked(wire, "MESSAGE", &id, server);
            assert_eq!(header(&request, "Call-ID"), id);
            self.reply(server, &request, "200 OK");
            self.read_status(wire, "200");
            self.world.hang_up(wire);
        }
    }

    /// Nothing is left but what the service checks need.
    #[track_caller]
    pub fn end(mut self) {
        for machine in 0..self.machines.len() {
            let name = self.machines[machine].address.to_string();
            self.set(&name, Mode::Up);
        }
        self.pass_s(400);
        for engine in &self.world.engines {
            assert!(engine.is_quiet(), "a transaction is left: {:?}", engine.snapshot().gauges);
        }
        self.world.drain();
        if self.world.engines.iter().any(|engine| engine.snapshot().gauges.of(Gauge::Bindings) > 0) {
            // Longer than any binding of the stories lives.
            self.pass_s(4_000);
        }
        for (shard, engine) in self.world.engines.iter().enumerate() {
            let gauges = engine.snapshot().gauges;
            assert!(engine.is_quiet(), "something is left: {gauges:?}");
            assert_eq!(gauges.of(Gauge::Bindings), 0);
            let links = gauges.of(Gauge::ConnectionsTcp) + gauges.of(Gauge::ConnectionsTls);
            assert!(links <= self.machines.len() as u64 * 2, "{gauges:?}");
            // The owner's: the pool, the names, and a service check's repetition for each server.
            let timers = if shard == 0 { 2 + self.machines.len() as u64 } else { 0 };
            assert!(gauges.of(Gauge::Timers) <= timers, "timers are left: {gauges:?}");
        }
    }
}

/// A request of a phone.
pub fn ask(method: &str, id: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bK{id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\n\
         Call-ID: {id}\r\nCSeq: 1 {method}\r\nContact: <sip:alice@192.0.2.7>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The CANCEL of a request.
pub fn cancel(request: &str) -> String {
    let (method, _) = request.split_once(' ').expect("a start line");
    request.replacen(&format!("{method} "), "CANCEL ", 1).replacen(&format!(" {method}\r\n"), " CANCEL\r\n", 1)
}

/// The branch of the top Via.
pub fn branch(message: &str) -> String {
    let via = headers(message, "Via")[0];
    via.split("branch=").nth(1).and_then(|rest| rest.split([';', ',']).next()).expect("a branch").to_owned()
}
