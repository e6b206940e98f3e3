//! Phones and a SIP Server that do what comes into their heads, over networks and mailboxes that deliver when
//! they like. The seed decides everything; a failure prints it, and `HAWSER_SEED` plays it again.
//!
//! What must hold after each step: nothing of one user reaches another one's flow, and no request is answered
//! by two different final responses, or over a stream twice. At the end: every request that could be answered
//! was, and every table is empty.

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use hawser::clock::Time;
use hawser::engine::{CloseReason, ConnectFailure, Input, Sticky};
use hawser::ids::Transport;

use crate::seeds::play;
use crate::talk::{Dialog, Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Sent, Setup, TCP, TLS, Wire, World};

const USERS: [&str; 6] = ["u0", "u1", "u2", "u3", "u4", "u5"];

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Server,
    User(usize),
}

/// Where a party's message arrived, or leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Wire(Wire),
    Udp(u16),
}

/// A request that a party has sent.
struct Issued {
    text: String,
    by: Party,
    at: Time,
    finals: Vec<String>,
    /// Something happened that may cost it its answer.
    excused: bool,
}

/// A request that a party has received and not answered.
struct Received {
    text: String,
    by: Party,
    place: Place,
}

struct User {
    phone: Phone,
    /// Live connections, the last one the latest.
    wires: Vec<Wire>,
    /// A phone of this kind has no connection; its port changes with its NAT.
    udp_port: Option<u16>,
    registered: bool,
}

struct Chaos {
    rng: Rng,
    world: World,
    setup: fn(u64) -> Setup,
    seed: u64,
    boot: u32,
    users: Vec<User>,
    owners: BTreeMap<(u8, u32, u32), usize>,
    server_wires: Vec<Wire>,
    half: Vec<Wire>,
    opened_seen: usize,
    closed_seen: usize,
    issued: BTreeMap<String, Issued>,
    received: Vec<Received>,
    seen: BTreeSet<String>,
    /// What was said to requests other than INVITE, for those that come again (RFC 3261 §17.2.2).
    answered: BTreeMap<String, String>,
    dialogs: Vec<(usize, Dialog, Dialog)>,
    /// Datagrams under way to the engines.
    net: Vec<(u8, String, String)>,
    count: u32,
    refuses: bool,
    restarts: bool,
    /// Phones without an instance-id register under new Call-IDs.
    reboots: bool,
    trace: Vec<String>,
    /// With `HAWSER_TRACE` the mail of the shards stands in the trace too.
    tells_mail: bool,
}

/// Says which seed it was, and what came last.
impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = if self.tells_mail { usize::MAX } else { 200 };
            let from = self.trace.len().saturating_sub(lines);
            eprintln!("{}\nHAWSER_SEED={} fails", self.trace[from..].join("\n"), self.seed);
        }
    }
}

fn setup(seed: u64) -> Setup {
    let pick = |shift: u64, count: u64| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) % count;
    Setup {
        shards: u8::try_from(pick(20, 4) + 1).expect("up to 4"),
        sticky: [Sticky::Path, Sticky::Contact, Sticky::Aor][usize::try_from(pick(30, 3)).expect("small")],
        internal: [Transport::Udp, Transport::Udp, Transport::Tcp, Transport::Tls]
            [usize::try_from(pick(40, 4)).expect("small")],
        ..Setup::default()
    }
}

fn branch_of(message: &str) -> String {
    let via = headers(message, "Via").first().copied().unwrap_or("");
    let rest = via.split("branch=").nth(1).unwrap_or("");
    rest.split([';', ',']).next().unwrap_or("").to_owned()
}

fn cseq_method(message: &str) -> &str {
    header(message, "CSeq").split(' ').nth(1).unwrap_or("")
}

fn key_of(message: &str) -> String {
    format!("{} {}", cseq_method(message), branch_of(message))
}

/// The same request as another method of its transaction: CANCEL, or the ACK to an error.
fn derived(request: &str, method: &str, to: Option<&str>) -> String {
    let mut out =
        request.replacen("INVITE ", &format!("{method} "), 1).replacen(" INVITE\r\n", &format!(" {method}\r\n"), 1);
    if let Some(to) = to {
        out = out.replacen(&format!("To: {}\r\n", header(request, "To")), &format!("To: {to}\r\n"), 1);
    }
    out
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World::new(&setup(seed));
        let nowhere = Wire { shard: 0, conn: hawser::ids::ConnId { slot: u32::MAX, generation: 0 } };
        let users = (0..USERS.len()).map(|at| {
            let mut phone = Phone::new(USERS[at], nowhere);
            let udp_port = (at >= 4).then_some(30_000);
            if udp_port.is_some() {
                phone.via = "UDP";
            }
            if rng.bool() {
                phone.params = "";
            }
            User { phone, wires: Vec::new(), udp_port, registered: false }
        });
        Self {
            users: users.collect(),
            world,
            setup,
            seed,
            boot: 1,
            owners: BTreeMap::new(),
            server_wires: Vec::new(),
            half: Vec::new(),
            opened_seen: 0,
            closed_seen: 0,
            issued: BTreeMap::new(),
            received: Vec::new(),
            seen: BTreeSet::new(),
            answered: BTreeMap::new(),
            dialogs: Vec::new(),
            net: Vec::new(),
            count: 0,
            refuses: seed % 5 == 3,
            restarts: seed % 7 == 4,
            reboots: false,
            trace: Vec::new(),
            tells_mail: std::env::var_os("HAWSER_TRACE").is_some(),
            rng,
        }
    }

    fn shards(&self) -> u8 {
        u8::try_from(self.world.engines.len()).expect("few")
    }

    fn is_stream_server(&self) -> bool {
        (self.setup)(self.seed).internal != Transport::Udp
    }

    fn server_via(&self) -> String {
        format!("{} {SERVER}", (self.setup)(self.seed).internal.via_name())
    }

    fn user_via(&self, user: usize) -> String {
        format!("{} 192.0.2.7:5060", self.users[user].phone.via)
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{:>9} {what}", self.world.now.0 / 1000));
    }

    // --- sending -----------------------------------------------------------------------------------------

    fn send_user(&mut self, user: usize, place: Option<Place>, text: &str) -> bool {
        let alive = |wire: &Wire| self.users[user].wires.contains(wire);
        let latest = self.users[user].wires.last().copied();
        let port = self.users[user].udp_port;
        let wire = match place {
            Some(Place::Wire(wire)) if alive(&wire) => Some(wire),
            _ => latest,
        };
        self.note(format!("u{user} {wire:?} > {} {}", start_line(text), header(text, "Call-ID")));
        if let Some(latest) = port {
            // What came by one mapping of a NAT is answered by it.
            let port = if let Some(Place::Udp(port)) = place { port } else { latest };
            let shard = u8::try_from((usize::from(port) + user) % self.world.engines.len()).expect("few");
            self.net.push((shard, format!("10.9.0.{user}:{port}"), text.to_owned()));
            return true;
        }
        let Some(wire) = wire else { return false };
        self.world.write(wire, text);
        true
    }

    fn send_server(&mut self, place: Option<Place>, text: &str) -> bool {
        self.note(format!("server > {} {}", start_line(text), header(text, "Call-ID")));
        if !self.is_stream_server() {
            let shard = self.rng.u8(..self.shards());
            self.net.push((shard, SERVER.to_owned(), text.to_owned()));
            return true;
        }
        let wire = match place {
            Some(Place::Wire(wire)) if self.server_wires.contains(&wire) => wire,
            _ => match self.server_wires.last() {
                Some(_) => self.server_wires[self.rng.usize(..self.server_wires.len())],
                None => {
                    let shard = self.rng.u8(..self.shards());
                    self.count += 1;
                    let port = 20_000 + u16::try_from(self.count % 10_000).expect("small");
                    let point = if (self.setup)(self.seed).internal == Transport::Tls { TLS } else { TCP };
                    let wire = self.world.connect_from(shard, point, ([127, 0, 0, 1], port).into());
                    self.server_wires.push(wire);
                    wire
                }
            },
        };
        self.world.write(wire, text);
        true
    }

    fn send(&mut self, by: Party, place: Option<Place>, text: &str) -> bool {
        match by {
            Party::Server => self.send_server(place, text),
            Party::User(user) => self.send_user(user, place, text),
        }
    }

    /// Sends a request whose answer is waited for.
    fn issue(&mut self, by: Party, text: String) {
        if self.send(by, None, &text) {
            let issued = Issued { by, at: self.world.now, finals: Vec::new(), excused: false, text: text.clone() };
            self.issued.insert(key_of(&text), issued);
        }
    }

    fn excuse(&mut self, of: Option<Party>) {
        for issued in self.issued.values_mut().filter(|issued| of.is_none_or(|of| issued.by == of)) {
            issued.excused = true;
        }
    }

    /// What is no INVITE ends without a word when its answer comes too late (RFC 4320).
    fn excuse_late(&mut self, received: &str) {
        let now = self.world.now;
        let is_late = |issued: &&mut Issued| {
            !issued.excused && now.since(issued.at).as_secs() > 25 && !issued.text.starts_with("INVITE ")
        };
        for issued in self.issued.values_mut().filter(is_late) {
            issued.excused =
                ["Call-ID", "CSeq"].iter().all(|name| headers(&issued.text, name) == headers(received, name));
        }
    }

    // --- receiving ---------------------------------------------------------------------------------------

    fn look_around(&mut self) {
        while self.opened_seen < self.world.opened.len() {
            let (wire, to) = self.world.opened[self.opened_seen];
            self.opened_seen += 1;
            if to.to_string() != SERVER {
                // A Contact that nobody has registered is taken for a device's; nobody is there.
                let reason = CloseReason::Connect(ConnectFailure::Refused);
                self.world.input(wire.shard, Input::Closed { conn: wire.conn, reason });
                continue;
            }
            if self.rng.u8(..20) == 0 {
                let reason = CloseReason::Connect(ConnectFailure::Refused);
                self.world.input(wire.shard, Input::Closed { conn: wire.conn, reason });
                self.excuse(None);
            } else {
                self.world.ready(wire);
                self.server_wires.push(wire);
            }
        }
        while self.closed_seen < self.world.closed.len() {
            let (wire, reason) = self.world.closed[self.closed_seen];
            self.closed_seen += 1;
            self.note(format!("closed {wire:?} {reason:?}"));
            self.forget(wire);
        }
        for event in std::mem::take(&mut self.world.events) {
            self.note(format!("said: {event}"));
        }
        while let Some(sent) = self.world.next_sent() {
            let (by, place, text) = match sent {
                Sent::Stream { wire, text } => {
                    match self.owners.get(&(wire.shard, wire.conn.slot, wire.conn.generation)) {
                        Some(user) => (Party::User(*user), Place::Wire(wire), text),
                        None => (Party::Server, Place::Wire(wire), text),
                    }
                }
                Sent::Datagram { to, text } if to.to_string() == SERVER => (Party::Server, Place::Udp(0), text),
                Sent::Datagram { to, text } => {
                    let place = to.to_string();
                    let user = place.strip_prefix("10.9.0.").and_then(|at| at.split(':').next()?.parse().ok());
                    let Some(user) = user else {
                        // The same over UDP; the shard that has sent it is told.
                        for shard in 0..u8::try_from(self.world.engines.len()).expect("few") {
                            self.world.input(shard, Input::Unreachable { to });
                        }
                        continue;
                    };
                    (Party::User(user), Place::Udp(to.port()), text)
                }
            };
            assert!(
                text.starts_with("SIP/2.0") || !self.half.iter().any(|wire| place == Place::Wire(*wire)),
                "asked over a half-closed connection: {text}"
            );
            self.arrive(by, place, text);
        }
    }

    fn forget(&mut self, wire: Wire) {
        self.server_wires.retain(|other| *other != wire);
        let owner = self.owners.get(&(wire.shard, wire.conn.slot, wire.conn.generation)).copied();
        match owner {
            Some(user) => {
                self.users[user].wires.retain(|other| *other != wire);
                self.excuse(Some(Party::User(user)));
            }
            None => self.excuse(Some(Party::Server)),
        }
    }

    fn arrive(&mut self, by: Party, place: Place, text: String) {
        self.note(format!("{by:?} {place:?} < {} {}", start_line(&text), headers(&text, "Call-ID").join(",")));
        if let Party::User(user) = by {
            let call_id = header(&text, "Call-ID");
            assert!(call_id.ends_with(USERS[user]), "u{user} got what is another's: {text}");
        }
        if text.starts_with("SIP/2.0 ") {
            self.arrive_response(by, place, &text);
        } else {
            self.arrive_request(by, place, text);
        }
    }

    fn arrive_response(&mut self, by: Party, place: Place, text: &str) {
        let status = start_line(text).to_owned();
        if self.refuses && status == "SIP/2.0 503 Overloaded" {
            // A repetition may find the mailbox full where its first sending has passed.
            return;
        }
        let Some(issued) = self.issued.get_mut(&key_of(text)) else {
            assert_eq!(cseq_method(text), "CANCEL", "an answer to nothing: {text}");
            return;
        };
        assert_eq!(issued.by, by, "somebody else's answer: {text}");
        let code = &status[8..11];
        if code < "200" {
            return;
        }
        let is_stream = matches!(place, Place::Wire(_));
        let repeats = issued.finals.contains(&status);
        let is_2xx_again = cseq_method(text) == "INVITE" && code < "300";
        assert!(issued.finals.is_empty() || repeats, "two answers: {:?} and {status}: {}", issued.finals, issued.text);
        assert!(!repeats || !is_stream || is_2xx_again, "answered twice over a stream: {status}: {}", issued.text);
        if repeats {
            return;
        }
        issued.finals.push(status.clone());
        let request = issued.text.clone();
        match cseq_method(text) {
            "REGISTER" => {}
            "INVITE" if code >= "300" => {
                let ack = derived(&request, "ACK", Some(header(text, "To")));
                self.send(by, Some(place), &ack);
            }
            "INVITE" => {
                let mut dialog = Dialog::caller(text);
                dialog.cseq =
                    header(&request, "CSeq").split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
                let via = self.via_of(by);
                let ack = dialog.request("ACK", &via);
                self.send(by, Some(place), &ack);
                let mate = self
                    .dialogs
                    .iter()
                    .position(|(_, server, phone)| server.call_id == dialog.call_id && phone.call_id == dialog.call_id);
                // A re-INVITE changes nothing that the driver keeps.
                if mate.is_none()
                    && let Some(user) = USERS.iter().position(|user| dialog.call_id.ends_with(user))
                {
                    // A dialog may begin again after its BYE: what it sends is new all the same.
                    let past = 1_000 + u32::try_from(self.trace.len()).expect("a short story");
                    dialog.cseq = past;
                    let other = Dialog {
                        call_id: dialog.call_id.clone(),
                        local: dialog.remote.clone(),
                        remote: dialog.local.clone(),
                        target: uri(header(&request, "Contact")).to_owned(),
                        routes: dialog.routes.iter().rev().cloned().collect(),
                        cseq: past + 1_000_000,
                    };
                    let both = if by == Party::Server { (user, dialog, other) } else { (user, other, dialog) };
                    self.dialogs.push(both);
                }
            }
            _ => {}
        }
    }

    fn via_of(&self, party: Party) -> String {
        match party {
            Party::Server => self.server_via(),
            Party::User(user) => self.user_via(user),
        }
    }

    fn arrive_request(&mut self, by: Party, place: Place, text: String) {
        let method = cseq_method(&text).to_owned();
        if method == "ACK" || !self.seen.insert(key_of(&text)) {
            // The phone has come back, and hears again what it may have heard before: it answers from there.
            for received in self.received.iter_mut().filter(|received| key_of(&received.text) == key_of(&text)) {
                received.place = place;
            }
            if let Some(again) = self.answered.get(&key_of(&text)).cloned() {
                self.excuse_late(&text);
                self.send(by, Some(place), &again);
            }
            return;
        }
        match (method.as_str(), by) {
            ("CANCEL", _) => {
                self.send(by, Some(place), &answer(&text, "200 OK", "x", ""));
                let invite = format!("INVITE {}", branch_of(&text));
                let at = self.received.iter().position(|received| key_of(&received.text) == invite);
                if let Some(at) = at.filter(|_| self.rng.u8(..5) > 0) {
                    let received = self.received.swap_remove(at);
                    self.send(by, Some(place), &answer(&received.text, "487 Request Terminated", "x", ""));
                }
            }
            _ => self.received.push(Received { text, by, place }),
        }
    }

    // --- what they do ------------------------------------------------------------------------------------

    fn step(&mut self) {
        let user = self.rng.usize(..self.users.len());
        match self.rng.u8(..100) {
            0..=9 => self.connect(user),
            10..=14 => self.lose(user),
            15..=22 => self.register(user),
            23..=36 => self.call_user(user),
            37..=44 => self.call_server(user),
            45..=64 => self.answer_one(),
            65..=69 => self.cancel_one(),
            70..=79 => self.in_dialog(),
            80..=82 => self.attack(user),
            83..=91 => self.world.pass_ms(self.rng.u64(..700)),
            92 => self.pass(5),
            93 if self.rng.u8(..4) == 0 => self.pass(60),
            94 if self.is_stream_server() && !self.server_wires.is_empty() => {
                let wire = self.server_wires[self.rng.usize(..self.server_wires.len())];
                self.note(format!("the server closes {wire:?}"));
                self.forget(wire);
                self.excuse(None);
                self.world.hang_up(wire);
            }
            95 if self.restarts => self.restart(),
            _ => {}
        }
        for _ in 0..self.rng.usize(..12) {
            self.carry();
        }
        self.look_around();
    }

    /// Nothing is under way for seconds.
    fn pass(&mut self, seconds: u64) {
        while !self.net.is_empty() || self.world.mails() > 0 {
            self.carry();
            self.look_around();
        }
        self.world.pass_s(self.rng.u64(..seconds));
    }

    /// Delivers one mail or datagram.
    fn carry(&mut self) {
        let mails = self.world.mails();
        if mails > 0 {
            let refuse = self.refuses && self.rng.u8(..40) == 0;
            if refuse {
                self.excuse(None);
            }
            let nth = self.rng.usize(..mails);
            if self.tells_mail {
                let mail = self.world.mail_in_words(nth);
                self.note(format!("mail {mail}{}", if refuse { " is refused" } else { "" }));
            }
            self.world.deliver_mail(nth, refuse);
        }
        if !self.net.is_empty() {
            let at = self.rng.usize(..self.net.len());
            let (shard, from, text) =
                if self.rng.u8(..10) == 0 { self.net[at].clone() } else { self.net.swap_remove(at) };
            self.world.datagram(shard, &from, &text);
        }
    }

    fn run(mut self, steps: usize) {
        self.world.hold_mail = true;
        for _ in 0..steps {
            self.step();
        }
        // Everything that is under way arrives, and who has something to say says it.
        while !self.net.is_empty() || self.world.mails() > 0 || !self.received.is_empty() {
            self.carry();
            self.look_around();
            self.answer_one();
        }
        self.world.hold_mail = false;
        for _ in 0..10 {
            self.world.pass_s(40);
            self.look_around();
            while !self.net.is_empty() || !self.received.is_empty() {
                self.carry();
                self.look_around();
                self.answer_one();
            }
        }
        for issued in self.issued.values() {
            assert!(
                issued.excused || !issued.finals.is_empty(),
                "never answered, since {:?}: {}",
                issued.at,
                issued.text
            );
        }
        let world = std::mem::replace(&mut self.world, World::new(&setup(self.seed)));
        world.end();
    }
}

/// Steps of one run.
const STEPS: usize = 200;

#[test]
fn whatever_phones_and_server_do_every_message_reaches_its_own_and_every_table_empties() {
    play("chaos", 50, |seed| Chaos::new(seed).run(STEPS));
}

#[test]
fn whatever_they_do_when_phones_without_an_instance_id_start_again_under_new_call_ids_it_holds_too() {
    play("chaos_reboots", 50, |seed| {
        let mut chaos = Chaos::new(seed);
        chaos.reboots = true;
        chaos.run(STEPS);
    });
}
