//! Two servers that die, freeze, refuse, and come back while phones call: whatever they do, no request is answered
//! twice, no 2xx that a phone waits for is lost, nothing waits longer than it must, and every table empties. The seed
//! decides everything; a failure prints it, and `HAWSER_SEED` plays it again.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use hawser::clock::Time;
use hawser::engine::Settings;
use hawser::ids::Transport;
use hawser::server_pool::Member;

use crate::seeds::play;
use crate::stage::{Mode, Stage, ask, branch, cancel, paired, unchecked};
use crate::talk::{Dialog, Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, SERVER2, Setup, TLS};

const SERVERS: [&str; 2] = [SERVER, SERVER2];
const USERS: [&str; 3] = ["u0", "u1", "u2"];
/// While a server answers, an INVITE waits no longer: `oos-check`, `oos-force`, 64·T1 at each server, and a second.
const STUCK_MS: u64 = 71_000;

struct Issued {
    text: String,
    user: usize,
    at: Time,
    finals: Vec<String>,
    cancelled: bool,
    /// Something happened that may cost it its answer, or make it wait for timer C.
    excused: bool,
    /// A server has said 2xx to it before it had any answer.
    taken: bool,
}

struct Chaos {
    rng: Rng,
    seed: u64,
    stage: Stage,
    phones: Vec<Phone>,
    modes: [Mode; 2],
    /// Since when one of them has answered without a break.
    well_since: Time,
    pinned: bool,
    /// Mail between shards waits a while.
    holds: bool,
    /// Requests that each has and has not answered.
    pending: [Vec<String>; 2],
    seen: [BTreeSet<String>; 2],
    issued: BTreeMap<String, Issued>,
    count: u32,
    trace: Vec<String>,
}

/// Says which seed it was, and what came last.
impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trace.len().saturating_sub(200);
            eprintln!("{}\nHAWSER_SEED={} fails", self.trace[from..].join("\n"), self.seed);
        }
    }
}

fn method_of(text: &str) -> &str {
    header(text, "CSeq").split(' ').nth(1).unwrap_or("")
}

fn answers(mode: Mode) -> bool {
    matches!(mode, Mode::Up)
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let internal = [Transport::Udp, Transport::Tcp, Transport::Tls][rng.usize(..3)];
        let mutate: fn(&mut Settings) = if rng.u8(..5) == 0 { unchecked } else { paired };
        let mut stage = Stage::new(&Setup { internal, shards: rng.u8(1..=3), mutate, ..Setup::default() });
        stage.land = rng.u8(..stage.shards());
        let mut phones = Vec::new();
        for (at, user) in USERS.into_iter().enumerate() {
            let shard = u8::try_from(at).expect("few") % stage.shards();
            let wire = stage.world.connect(shard, TLS);
            let mut phone = Phone::new(user, wire);
            stage.register(&mut phone, SERVER);
            phones.push(phone);
        }
        let well_since = stage.world.now;
        Self {
            rng,
            seed,
            stage,
            phones,
            modes: [Mode::Up; 2],
            well_since,
            pinned: false,
            holds: seed.is_multiple_of(3),
            pending: [Vec::new(), Vec::new()],
            seen: [BTreeSet::new(), BTreeSet::new()],
            issued: BTreeMap::new(),
            count: 0,
            trace: Vec::new(),
        }
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{:>9} {what}", self.stage.world.now.0 / 1000));
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..=29 => self.call(),
            30..=54 => self.serve(),
            55..=59 => self.cancel_one(),
            60..=69 => self.turn(),
            70..=71 => self.announce(),
            72 => self.pin(),
            73..=99 => {
                let most = [1_500, 1_500, 9_000, 40_000][self.rng.usize(..4)];
                let ms = self.rng.u64(..most);
                self.pass(ms);
            }
            _ => {}
        }
        self.deliver(false);
        self.look();
    }

    /// Mail between shards that was held arrives: some of it, in an order that keeps each pair's, or all.
    fn deliver(&mut self, all: bool) {
        let most = if all { usize::MAX } else { self.rng.usize(..4) };
        for _ in 0..most {
            let mails = self.stage.world.mails();
            if mails == 0 {
                break;
            }
            let nth = self.rng.usize(..mails);
            self.stage.world.deliver_mail(nth, false);
            self.stage.run();
        }
    }

    fn pass(&mut self, ms: u64) {
        self.deliver(true);
        self.stage.world.hold_mail = false;
        self.stage.pass_ms(ms);
        // What they say to what they find is under way no longer than anything else is, when it is asked who is stuck.
        self.look();
        self.stage.run();
        self.look();
        self.stage.world.hold_mail = self.holds;
        self.assert_none_is_stuck();
    }

    fn call(&mut self) {
        self.count += 1;
        let user = self.rng.usize(..USERS.len());
        let method = ["INVITE", "INVITE", "INVITE", "MESSAGE", "REGISTER"][self.rng.usize(..5)];
        let id = format!("{}-{}", self.count, USERS[user]);
        let text = match method {
            "REGISTER" => self.phones[user].register_text(3_600).replace(";rport", &format!("{id};rport")),
            _ => ask(method, &id),
        };
        self.note(format!("u{user} > {method} {id}"));
        let issued = Issued {
            text: text.clone(),
            user,
            at: self.stage.world.now,
            finals: Vec::new(),
            cancelled: false,
            // Who asks while nobody answers may be told so, or not.
            excused: !self.modes.iter().any(|mode| answers(*mode)),
            taken: false,
        };
        self.issued.insert(branch(&text), issued);
        let wire = self.phones[user].wire;
        self.stage.write(wire, &text);
    }

    fn cancel_one(&mut self) {
        let is_open = |one: &&mut Issued| one.finals.is_empty() && one.text.starts_with("INVITE ");
        let mut open: Vec<&mut Issued> = self.issued.values_mut().filter(is_open).collect();
        if open.is_empty() {
            return;
        }
        let at = self.rng.usize(..open.len());
        open[at].cancelled = true;
        let (text, user) = (cancel(&open[at].text), open[at].user);
        self.note(format!("u{user} > CANCEL {}", header(&text, "Call-ID")));
        let wire = self.phones[user].wire;
        self.stage.write(wire, &text);
    }

    /// A server changes its mind.
    fn turn(&mut self) {
        let at = self.rng.usize(..2);
        let mode = match self.modes[at] {
            Mode::Up => {
                [Mode::Gone, Mode::Gone, Mode::Silent, Mode::Unavailable, Mode::Overloaded][self.rng.usize(..5)]
            }
            _ => Mode::Up,
        };
        self.set(at, mode);
    }

    fn set(&mut self, at: usize, mode: Mode) {
        self.note(format!("{} is {mode:?}", SERVERS[at]));
        let was_well = self.modes.iter().any(|mode| answers(*mode));
        self.modes[at] = mode;
        let is_well = self.modes.iter().any(|mode| answers(*mode));
        if is_well && !was_well {
            self.well_since = self.stage.world.now;
        }
        for issued in self.issued.values_mut().filter(|one| one.finals.is_empty()) {
            // What is no INVITE may end without a word then (RFC 4320).
            issued.excused |= !issued.text.starts_with("INVITE ");
        }
        if mode == Mode::Gone {
            // It forgets, and when it is back before anybody has noticed, nobody knows.
            for text in std::mem::take(&mut self.pending[at]) {
                let via = headers(&text, "Via");
                let key = via.get(1).map(|_| branch_below(&text)).unwrap_or_default();
                if let Some(issued) = self.issued.get_mut(&key) {
                    issued.excused = true;
                }
            }
        }
        self.stage.set(SERVERS[at], mode);
    }

    /// A server asks for something, which makes it the active one.
    fn announce(&mut self) {
        let at = self.rng.usize(..2);
        if !answers(self.modes[at]) {
            return;
        }
        self.count += 1;
        let method = ["NOTIFY", "OPTIONS"][self.rng.usize(..2)];
        let via = self.stage.world.engines[0].settings().servers[0].transport.via_name();
        let (server, count) = (SERVERS[at], self.count);
        self.note(format!("{server} > {method}"));
        let text = format!(
            "{method} sip:nobody@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/{via} {server};branch=z9hG4bKown{count}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{server}>;tag=o\r\nTo: <sip:nobody@127.0.0.1>\r\nCall-ID: own{count}\r\n\
             CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        self.stage.say(server, &text);
    }

    fn pin(&mut self) {
        let member = match self.pinned {
            true => None,
            false => Some(if self.rng.bool() { Member::Primary } else { Member::Backup }),
        };
        self.pinned = !self.pinned;
        self.note(format!("pin {member:?}"));
        let now = self.stage.world.now;
        self.stage.world.engines[0].pin("sips1", member, now).expect("there is a pair");
        self.stage.run();
        self.well_since = now;
    }

    /// A server answers something.
    fn serve(&mut self) {
        self.look();
        let at = self.rng.usize(..2);
        if matches!(self.modes[at], Mode::Silent | Mode::Gone) || self.pending[at].is_empty() {
            return;
        }
        let nth = self.rng.usize(..self.pending[at].len());
        let text = self.pending[at][nth].clone();
        let method = method_of(&text).to_owned();
        if method == "INVITE" && self.rng.u8(..2) == 0 {
            let status = ["100 Trying", "180 Ringing"][self.rng.usize(..2)];
            return self.say(at, &text, status);
        }
        self.pending[at].swap_remove(nth);
        let status = ["200 OK", "200 OK", "200 OK", "486 Busy Here", "503 Service Unavailable"][self.rng.usize(..5)];
        if status.starts_with("503")
            && let Some(issued) = self.issued.get_mut(&branch_below(&text))
        {
            // However long this server had it, the next one may take its time from here.
            issued.at = self.stage.world.now;
        }
        self.say(at, &text, status);
    }

    fn say(&mut self, at: usize, text: &str, status: &str) {
        let server = SERVERS[at];
        self.note(format!("{server} > {status} {} {}", method_of(text), header(text, "Call-ID")));
        let mut extra = format!("Contact: <sip:{server}>\r\n");
        if method_of(text) == "REGISTER" && status == "200 OK" {
            extra = headers(text, "Path").iter().map(|path| format!("Path: {path}\r\n")).collect();
            extra += &format!("Contact: <{}>;expires=3600\r\n", uri(header(text, "Contact")));
        }
        // What is no INVITE ends without a word when its answer comes too late (RFC 4320).
        let is_success = status.starts_with('2');
        if is_success {
            // What is under way could cross it.
            self.deliver(true);
            self.look();
        }
        if is_success
            && method_of(text) == "INVITE"
            && let Some(issued) = self.issued.get_mut(&branch_below(text))
            && issued.finals.is_empty()
        {
            issued.taken = true;
        }
        let tag = format!("t{at}{}", &branch(text)[20..24]);
        self.stage.say(server, &answer(text, status, &tag, &extra));
        if is_success {
            self.deliver(true);
        }
        self.look();
    }

    /// Everybody reads what has come.
    fn look(&mut self) {
        for (at, server) in SERVERS.into_iter().enumerate() {
            while let Some(text) = self.stage.try_read_at(server) {
                self.arrive_at_server(at, text);
            }
        }
        for user in 0..USERS.len() {
            while let Some(text) = self.stage.world.try_read(self.phones[user].wire) {
                self.arrive_at_phone(user, &text);
            }
        }
    }

    fn arrive_at_server(&mut self, at: usize, text: String) {
        if text.starts_with("SIP/2.0 ") || text.starts_with("ACK ") {
            return;
        }
        let key = format!("{} {}", method_of(&text), branch(&text));
        if !self.seen[at].insert(key) {
            return;
        }
        self.note(format!("{} < {} {}", SERVERS[at], start_line(&text), header(&text, "Call-ID")));
        if text.starts_with("CANCEL ") {
            self.stage.say(SERVERS[at], &answer(&text, "200 OK", "c", ""));
            let is_its = |one: &String| one.starts_with("INVITE ") && branch(one) == branch(&text);
            if let Some(nth) = self.pending[at].iter().position(is_its)
                && self.rng.u8(..5) > 0
            {
                let invite = self.pending[at].swap_remove(nth);
                self.say(at, &invite, "487 Request Terminated");
            }
        } else if matches!(self.modes[at], Mode::Up | Mode::Silent) {
            self.pending[at].push(text);
        }
        // In the other modes its 503 has gone already.
    }

    fn arrive_at_phone(&mut self, user: usize, text: &str) {
        self.note(format!("u{user} < {} {} {}", start_line(text), header(text, "CSeq"), header(text, "Call-ID")));
        assert!(text.starts_with("SIP/2.0 "), "nobody asks the phones: {text}");
        if method_of(text) == "CANCEL" {
            return;
        }
        let issued = self.issued.get_mut(&branch(text)).expect("it was asked");
        assert_eq!(issued.user, user, "another's answer: {text}");
        let status = start_line(text).to_owned();
        if status.as_bytes()[8] == b'1' {
            assert!(issued.finals.is_empty(), "{status} after {:?}", issued.finals);
            return;
        }
        let is_invite = issued.text.starts_with("INVITE ");
        assert!(is_invite || !status.contains(" 408 "), "408 to {}", issued.text);
        let is_2xx = status.as_bytes()[8] == b'2';
        let only_2xx = issued.finals.iter().all(|before| before.as_bytes()[8] == b'2');
        assert!(issued.finals.is_empty() || (is_invite && is_2xx && only_2xx), "{status} after {:?}", issued.finals);
        issued.finals.push(status);
        let wire = self.phones[user].wire;
        if is_invite && is_2xx {
            let ack = Dialog::caller(text).request("ACK", "TLS 192.0.2.7:5060");
            self.stage.write(wire, &ack);
        } else if is_invite {
            let ack = issued.text.replacen("INVITE ", "ACK ", 1).replacen(" INVITE\r\n", " ACK\r\n", 1);
            let to = format!("To: {}\r\n", header(text, "To"));
            let ack = ack.replacen(&format!("To: {}\r\n", header(&issued.text, "To")), &to, 1);
            self.stage.write(wire, &ack);
        }
    }

    /// An INVITE that the servers could have had for long enough: one of them holds it, or it is over.
    #[track_caller]
    fn assert_none_is_stuck(&self) {
        let now = self.stage.world.now;
        // Without service checks each silent server is waited for until timer B.
        let checks = !self.stage.world.engines[0].settings().live.oos_check.is_zero();
        let is_well = self.modes.iter().any(|mode| answers(*mode));
        let waits = |one: &&Issued| one.finals.is_empty() && !one.excused && one.text.starts_with("INVITE ");
        for issued in self.issued.values().filter(|one| checks && is_well && waits(one)) {
            let since = issued.at.max(self.well_since);
            let is_its = |text: &String| branch_below(text) == branch(&issued.text);
            // The server that has it may take its time, and so may one whose mind is elsewhere.
            let is_held =
                self.pending.iter().zip(self.modes).any(|(held, mode)| held.iter().any(is_its) && mode != Mode::Gone);
            let waited = u64::try_from(now.since(since).as_millis()).expect("a short story");
            assert!(is_held || self.pinned || waited < STUCK_MS, "stuck for {waited} ms: {}", issued.text);
        }
    }

    fn run(mut self, steps: usize) {
        self.stage.world.hold_mail = self.holds;
        for _ in 0..steps {
            self.step();
        }
        self.holds = false;
        self.pass(0);
        if self.pinned {
            self.pin();
        }
        for at in 0..2 {
            self.set(at, Mode::Up);
        }
        // Who has something to say says it, until timer C has had its turn.
        for _ in 0..12 {
            self.pass(40_000);
            for at in 0..2 {
                while let Some(text) = self.pending[at].pop() {
                    self.say(at, &text, "200 OK");
                }
            }
        }
        for issued in self.issued.values() {
            let is_invite = issued.text.starts_with("INVITE ");
            assert!(!issued.finals.is_empty() || (issued.excused && !is_invite), "never answered: {}", issued.text);
            let has_2xx = issued.finals.iter().any(|last| last.as_bytes()[8] == b'2');
            assert!(has_2xx || !issued.taken, "a 2xx was lost, {:?}: {}", issued.finals, issued.text);
        }
        let stage = std::mem::replace(&mut self.stage, Stage::new(&Setup::default()));
        stage.end();
    }
}

/// The branch of the phone's own Via in what a server got.
fn branch_below(text: &str) -> String {
    let via = headers(text, "Via").get(1).copied().unwrap_or("");
    via.split("branch=").nth(1).and_then(|rest| rest.split([';', ',']).next()).unwrap_or("").to_owned()
}

/// Steps of one run.
const STEPS: usize = 200;

#[test]
fn whatever_two_servers_do_every_request_is_answered_once_and_no_2xx_is_lost() {
    play("chaos_pair", 30, |seed| Chaos::new(seed).run(STEPS));
}
