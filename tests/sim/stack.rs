//! Transactions of a party: the proxy's own state machines (RFC 3261 §17), so that parties send again what was lost.
//!
//! Owns: keys, timers and the last message of each transaction, and the 2xx that is sent again until its ACK comes
//! (RFC 3261 §13.3.1.4). Must not touch: what a party wants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::transaction::{
    Effects, InviteClient, InviteServer, PlainClient, PlainServer, Resend, Tell, TimerOp, Times,
};

use crate::message::Msg;
use crate::net::WireId;

/// RFC 3261, table 4.
pub const TIMES: Times =
    Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

/// The way that a message takes or took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From this address of the party to that of the other.
    Udp {
        own: SocketAddr,
        to: SocketAddr,
    },
    Wire(WireId),
}

impl Way {
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Wire(_))
    }
}

/// What a request is for, as its sender remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A party's own request.
    Own,
    /// Sent on for the server transaction with this key.
    For(String),
    /// A REGISTER.
    Register,
}

#[derive(Clone, Copy, Debug)]
enum ClientMachine {
    Invite(InviteClient),
    Plain(PlainClient),
}

#[derive(Clone, Debug)]
pub struct Client {
    machine: ClientMachine,
    pub request: Msg,
    pub way: Way,
    pub why: Why,
    /// The ACK to a final error.
    ack: Option<Msg>,
    pub finals: Vec<String>,
    pub provisional: bool,
    pub cancelled: bool,
    timers: [Option<(Time, u64)>; 2],
}

#[derive(Clone, Copy, Debug)]
enum ServerMachine {
    Invite(InviteServer),
    Plain(PlainServer),
}

#[derive(Clone, Debug)]
pub struct Served {
    machine: ServerMachine,
    pub request: Msg,
    pub way: Way,
    pub response: Option<Msg>,
    /// When it was answered for good.
    pub answered_at: Option<Time>,
    /// A 2xx to an INVITE waits for its ACK: the next interval, and until when.
    waits: Option<(Duration, Time)>,
    timers: [Option<(Time, u64)>; 3],
}

/// What a party has to hear of.
#[derive(Debug)]
pub enum Up {
    /// A new request; its server transaction is under `key`.
    Request { key: String },
    /// A response that a client transaction passes on; a final one may have ended it. `again`: a repeated 2xx.
    Response { key: String, client: Box<Client>, response: Msg, again: bool },
    /// Timer B or F of the client transaction under `key`, which is over.
    Timeout { client: Box<Client> },
    /// Neither an ACK to a 2xx nor to an error came in time.
    NoAck { served: Box<Served> },
    /// An ACK to a 2xx.
    Ack { ack: Msg },
    /// A CANCEL, which has been answered, of the INVITE under `key`.
    Cancel { key: String },
    /// A response to nothing of this party.
    Stray { response: Msg },
}

/// Timers of one transaction: which of them, for whom.
#[derive(Clone, Debug)]
enum Timer {
    Client { key: String, deadline: bool },
    Server { key: String, which: usize },
}

/// What has to be done outside.
#[derive(Default)]
pub struct Todo {
    pub send: Vec<(Way, Msg)>,
    /// Timers to be set: when, and which.
    pub arm: Vec<(Time, u64)>,
    pub up: Vec<Up>,
}

/// All transactions of one party.
#[derive(Default)]
pub struct Stack {
    pub clients: BTreeMap<String, Client>,
    pub served: BTreeMap<String, Served>,
    timers: BTreeMap<u64, Timer>,
    next_timer: u64,
    /// Branches of all INVITEs that it has ever got.
    pub invited: BTreeSet<String>,
}

impl Stack {
    fn arm(&mut self, timer: Timer, at: Time, todo: &mut Todo) -> u64 {
        self.next_timer += 1;
        self.timers.insert(self.next_timer, timer);
        todo.arm.push((at, self.next_timer));
        self.next_timer
    }

    /// Sends a request.
    pub fn request(&mut self, request: Msg, way: Way, why: Why, now: Time, todo: &mut Todo) -> String {
        let key = request.key();
        let (machine, effects) = if request.method() == "INVITE" {
            let (machine, effects) = InviteClient::start(way.is_stream(), TIMES);
            (ClientMachine::Invite(machine), effects)
        } else {
            let (machine, effects) = PlainClient::start(way.is_stream(), TIMES);
            (ClientMachine::Plain(machine), effects)
        };
        todo.send.push((way, request.clone()));
        let client = Client {
            machine,
            request,
            way,
            why,
            ack: None,
            finals: Vec::new(),
            provisional: false,
            cancelled: false,
            timers: [None; 2],
        };
        let former = self.clients.insert(key.clone(), client);
        assert!(former.is_none(), "a party uses a branch twice: {key}");
        self.client_effects(&key, effects, now, todo);
        key
    }

    /// Cancels an INVITE; says whether there was one to be cancelled.
    pub fn cancel(&mut self, key: &str, now: Time, todo: &mut Todo) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        if !client.provisional || !client.finals.is_empty() || client.cancelled {
            return false;
        }
        client.cancelled = true;
        let (cancel, way) = (client.request.within("CANCEL", None), client.way);
        self.request(cancel, way, Why::Own, now, todo);
        true
    }

    fn client_effects(&mut self, key: &str, effects: Effects, now: Time, todo: &mut Todo) {
        let Some(client) = self.clients.get_mut(key) else { return };
        match effects.resend {
            Some(Resend::Same) => todo.send.push((client.way, client.request.clone())),
            Some(Resend::Ack) => todo.send.extend(client.ack.clone().map(|ack| (client.way, ack))),
            None => {}
        }
        for (deadline, op) in [(false, effects.retransmit), (true, effects.deadline)] {
            let id = match op {
                TimerOp::Keep => continue,
                TimerOp::Stop => None,
                TimerOp::Arm(wait) => {
                    let at = now.after(wait);
                    Some((at, self.arm(Timer::Client { key: key.to_owned(), deadline }, at, todo)))
                }
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.timers[usize::from(deadline)] = id;
            }
        }
        if effects.ended {
            let client = self.clients.remove(key);
            if effects.tell == Some(Tell::Timeout) {
                todo.up.extend(client.map(|client| Up::Timeout { client: Box::new(client) }));
            }
        }
    }

    /// Answers a request. Nothing happens when it has its final answer. `is_own`: by this party, which sends a 2xx to an
    /// INVITE again until its ACK comes; what a proxy passes back is sent again by who has answered.
    pub fn respond(&mut self, key: &str, response: Msg, is_own: bool, now: Time, todo: &mut Todo) {
        let code = response.code();
        let Some(served) = self.served.get_mut(key) else { return };
        let effects = match &mut served.machine {
            ServerMachine::Invite(machine) if !machine.is_proceeding() => return,
            ServerMachine::Plain(machine) if !machine.is_open() => return,
            ServerMachine::Invite(machine) if code >= 200 => machine.on_final(code, TIMES),
            ServerMachine::Plain(machine) if code >= 200 => machine.on_final(TIMES),
            ServerMachine::Plain(machine) => {
                machine.on_provisional();
                Effects::default()
            }
            ServerMachine::Invite(_) => Effects::default(),
        };
        todo.send.push((served.way, response.clone()));
        let is_accepted = is_own && code / 100 == 2 && matches!(served.machine, ServerMachine::Invite(_));
        served.response = Some(response);
        served.answered_at = Some(now).filter(|_| code >= 200);
        if is_accepted {
            let (wait, at) = (TIMES.t1, now.after(TIMES.t1));
            served.waits = Some((wait, now.after(TIMES.lifetime() - TIMES.t1)));
            let timer = self.arm(Timer::Server { key: key.to_owned(), which: 2 }, at, todo);
            self.set_server_timer(key, 2, Some((at, timer)));
        }
        self.server_effects(key, effects, now, todo);
    }

    fn set_server_timer(&mut self, key: &str, which: usize, timer: Option<(Time, u64)>) {
        if let Some(served) = self.served.get_mut(key) {
            served.timers[which] = timer;
        }
    }

    fn server_effects(&mut self, key: &str, effects: Effects, now: Time, todo: &mut Todo) {
        let Some(served) = self.served.get_mut(key) else { return };
        if effects.resend == Some(Resend::Same) {
            todo.send.extend(served.response.clone().map(|response| (served.way, response)));
        }
        for (which, op) in [effects.retransmit, effects.deadline].into_iter().enumerate() {
            let timer = match op {
                TimerOp::Keep => continue,
                TimerOp::Stop => None,
                TimerOp::Arm(wait) => {
                    let at = now.after(wait);
                    Some((at, self.arm(Timer::Server { key: key.to_owned(), which }, at, todo)))
                }
            };
            self.set_server_timer(key, which, timer);
        }
        if effects.tell == Some(Tell::NoAck) {
            let served = self.served.get(key).cloned();
            todo.up.extend(served.map(|served| Up::NoAck { served: Box::new(served) }));
        }
        if effects.ended {
            self.served.remove(key);
        }
    }

    /// A message has come.
    pub fn on_message(&mut self, message: Msg, way: Way, now: Time, todo: &mut Todo) {
        if !message.is_request() {
            return self.on_response(message, now, todo);
        }
        match message.method() {
            "ACK" => self.on_ack(message, now, todo),
            _ => self.on_request(message, way, now, todo),
        }
    }

    fn on_request(&mut self, request: Msg, way: Way, now: Time, todo: &mut Todo) {
        let key = request.key();
        if let Some(served) = self.served.get_mut(&key) {
            // The phone may have come back by another way: it answers from there.
            served.way = way;
            let effects = match &mut served.machine {
                ServerMachine::Invite(machine) => machine.on_request(),
                ServerMachine::Plain(machine) => machine.on_request(),
            };
            return self.server_effects(&key, effects, now, todo);
        }
        let machine = match request.method() {
            "INVITE" => ServerMachine::Invite(InviteServer::start(way.is_stream())),
            _ => ServerMachine::Plain(PlainServer::start(way.is_stream())),
        };
        let cancels = (request.method() == "CANCEL").then(|| format!("INVITE {}", request.branch()));
        let answer = cancels.is_some().then(|| request.answer("200 OK", "c"));
        let served =
            Served { machine, request, way, response: None, answered_at: None, waits: None, timers: [None; 3] };
        self.served.insert(key.clone(), served);
        match (answer, cancels) {
            (Some(answer), Some(invite)) => {
                self.respond(&key, answer, true, now, todo);
                if self.served.contains_key(&invite) {
                    todo.up.push(Up::Cancel { key: invite });
                }
            }
            _ => todo.up.push(Up::Request { key }),
        }
    }

    fn on_ack(&mut self, ack: Msg, now: Time, todo: &mut Todo) {
        let key = ack.key();
        if let Some(served) = self.served.get_mut(&key)
            && let ServerMachine::Invite(machine) = &mut served.machine
            && !machine.is_accepted()
        {
            let effects = machine.on_ack(TIMES);
            return self.server_effects(&key, effects, now, todo);
        }
        // Of a 2xx: a transaction of its own, known by its dialog.
        let (call, cseq) = (ack.get("Call-ID"), ack.cseq());
        let tag = crate::message::parameter(ack.get("To"), "tag");
        let of = self.served.values_mut().filter(|served| {
            let answered = served.response.as_ref().is_some_and(|response| {
                response.code() / 100 == 2 && crate::message::parameter(response.get("To"), "tag") == tag
            });
            answered && served.request.get("Call-ID") == call && served.request.cseq() == cseq
        });
        // A request that came by two servers was answered twice, and is one dialog.
        for served in of.filter(|served| served.request.method() == "INVITE") {
            (served.waits, served.timers[2]) = (None, None);
        }
        todo.up.push(Up::Ack { ack });
    }

    fn on_response(&mut self, response: Msg, now: Time, todo: &mut Todo) {
        let key = response.key();
        let Some(client) = self.clients.get_mut(&key) else {
            return todo.up.push(Up::Stray { response });
        };
        let code = response.code();
        if code > 100 || client.request.method() == "INVITE" {
            client.provisional |= code < 200;
        }
        if code >= 300 && client.request.method() == "INVITE" {
            client.ack = Some(client.request.within("ACK", Some(&response)));
        }
        let effects = match &mut client.machine {
            ClientMachine::Invite(machine) => machine.on_response(code, TIMES),
            ClientMachine::Plain(machine) => machine.on_response(code, TIMES),
        };
        if effects.tell == Some(Tell::Response) {
            let again = code >= 200 && client.finals.contains(&response.start);
            if code >= 200 {
                client.finals.push(response.start.clone());
            }
            let client = Box::new(client.clone());
            todo.up.push(Up::Response { key: key.clone(), client, response, again });
        } else if code >= 200 && client.way.is_stream() {
            todo.up.push(Up::Stray { response });
        }
        self.client_effects(&key, effects, now, todo);
    }

    /// A timer that was armed is due.
    pub fn on_timer(&mut self, id: u64, now: Time, todo: &mut Todo) {
        match self.timers.remove(&id) {
            Some(Timer::Client { key, deadline }) => {
                let Some(client) = self.clients.get_mut(&key) else { return };
                if client.timers[usize::from(deadline)].is_none_or(|(_, known)| known != id) {
                    return;
                }
                let effects = match (&mut client.machine, deadline) {
                    (ClientMachine::Invite(machine), false) => machine.on_retransmit(),
                    (ClientMachine::Invite(machine), true) => machine.on_deadline(),
                    (ClientMachine::Plain(machine), false) => machine.on_retransmit(TIMES),
                    (ClientMachine::Plain(machine), true) => machine.on_deadline(),
                };
                self.client_effects(&key, effects, now, todo);
            }
            Some(Timer::Server { key, which }) => self.on_server_timer(&key, which, id, now, todo),
            None => {}
        }
    }

    fn on_server_timer(&mut self, key: &str, which: usize, id: u64, now: Time, todo: &mut Todo) {
        let Some(served) = self.served.get_mut(key) else { return };
        if served.timers[which].is_none_or(|(_, known)| known != id) {
            return;
        }
        if which == 2 {
            return self.send_2xx_again(key, now, todo);
        }
        let effects = match (&mut served.machine, which) {
            (ServerMachine::Invite(machine), 0) => machine.on_retransmit(TIMES),
            (ServerMachine::Invite(machine), _) => machine.on_deadline(),
            (ServerMachine::Plain(machine), _) => machine.on_deadline(),
        };
        self.server_effects(key, effects, now, todo);
    }

    fn send_2xx_again(&mut self, key: &str, now: Time, todo: &mut Todo) {
        let Some(served) = self.served.get_mut(key) else { return };
        let Some((wait, until)) = served.waits else { return };
        // A clock that goes fast comes ever closer.
        if until.since(now) <= TIMES.t1 {
            served.waits = None;
            return todo.up.push(Up::NoAck { served: Box::new(served.clone()) });
        }
        todo.send.extend(served.response.clone().map(|response| (served.way, response)));
        let wait = (wait * 2).min(TIMES.t2);
        served.waits = Some((wait, until));
        let at = now.after(wait).min(until);
        let timer = self.arm(Timer::Server { key: key.to_owned(), which: 2 }, at, todo);
        self.set_server_timer(key, 2, Some((at, timer)));
    }

    /// Forgets everything.
    pub fn die(&mut self) {
        let invited = std::mem::take(&mut self.invited);
        *self = Self { next_timer: self.next_timer, invited, ..Self::default() };
    }
}
