//! The plan's steps, carried out; what they begin and what ends by itself later; resolvers; the end of a run.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hawser::server_pool::Member;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::agent::Ctx;
use crate::net::{Asked, Event, PartyId};
use crate::plan::{PHONES, Resolving, Step, Undo};
use crate::stack::Way;
use crate::world::World;

/// How long records are good for.
const TTL_S: u32 = 7;

impl World {
    fn later(&self, ms: u64, undo: Undo) {
        self.ctx.net.after(Duration::from_millis(ms), Event::Undo(undo));
    }

    fn phone_does(&mut self, phone: usize, what: impl FnOnce(&mut crate::agent::Agent, &mut Ctx)) {
        if let Some(agent) = self.agents.get_mut(&(PHONES + phone)) {
            what(agent, &mut self.ctx);
        }
    }

    fn server_does(&mut self, server: usize, what: impl FnOnce(&mut crate::agent::Agent, &mut Ctx)) {
        use crate::plan::Failure::{Cut, Freeze, Kill, Reset};
        let agent = self.agents.get_mut(&server).expect("a server");
        // One that is dead or stands still does nothing.
        if !matches!(agent.server().failure, Some(Kill | Reset | Freeze | Cut)) {
            what(agent, &mut self.ctx);
        }
    }

    pub fn act(&mut self, at: usize) {
        let step = self.plan.steps[at].1.clone();
        self.ctx.note(|| format!("--- {step:?}"));
        *self.outcome.faults.entry(name_of(&step)).or_default() += 1;
        match step {
            Step::Asks { phone, method, user } => {
                self.phone_does(phone, |agent, ctx| agent.phone_asks(ctx, method, &user));
            }
            Step::GoesOn { phone, method } => self.phone_does(phone, |agent, ctx| agent.phone_goes_on(ctx, method)),
            Step::Cancels { phone } => self.phone_does(phone, |agent, ctx| agent.phone_cancels(ctx)),
            Step::Registers { phone, expires_s } => self.phone_does(phone, |agent, ctx| match agent.phone().way {
                Some(_) => agent.register(ctx, expires_s),
                None => agent.phone_connect(ctx),
            }),
            Step::Moves { phone } => self.phone_does(phone, |agent, ctx| agent.phone_connect(ctx)),
            Step::Loses { phone, how } => self.phone_does(phone, |agent, ctx| {
                let way = agent.phone().way;
                agent.phone_leave(ctx, how, way);
                if let Some(Way::Wire(_)) = way {
                    agent.phone_comes_back(ctx);
                }
            }),
            Step::Reboots { phone } => self.phone_does(phone, |agent, ctx| agent.reboot(ctx)),
            Step::ServerAsks { server, method, user } => {
                self.server_does(server, |agent, ctx| agent.server_asks(ctx, method, &user));
            }
            Step::ServerGoesOn { server, method } => {
                let legs: Vec<String> = self.ctx.book.legs.iter().map(|leg| leg.call_id.clone()).collect();
                if let Some(call_id) = self.ctx.chance.choice(&legs).cloned() {
                    self.server_does(server, |agent, ctx| agent.server_goes_on(ctx, &call_id, method, None));
                }
            }
            Step::DeviceAsks { party, method, user } => {
                let agent = self.agents.get_mut(&party).expect("a device");
                agent.phone_asks(&mut self.ctx, method, &user);
            }
            fault => self.act_badly(fault),
        }
    }

    fn act_badly(&mut self, fault: Step) {
        match fault {
            Step::Away { phone, ms } => {
                let id = PHONES + phone;
                let host: IpAddr = self.agents[&id].host;
                let now = self.ctx.net.now();
                self.ctx.judge.away(id, now, now.after(Duration::from_millis(ms)));
                let mut inside = self.ctx.net.0.borrow_mut();
                inside.cut.push(host);
                inside.watch_for_death(host);
                drop(inside);
                self.later(ms, Undo::Away(id));
            }
            Step::Deaf { phone, ms } => {
                self.phone_does(phone, |agent, ctx| agent.set_deaf(ctx, true));
                let now = self.ctx.net.now();
                self.ctx.judge.away(PHONES + phone, now, now.after(Duration::from_millis(ms)));
                self.later(ms, Undo::Deaf(PHONES + phone));
            }
            Step::ServerFails { server, how, ms } => {
                let agent = self.agents.get_mut(&server).expect("a server");
                if agent.server().failure.is_none() {
                    agent.server_fails(&mut self.ctx, Some(how));
                    self.later(ms, Undo::Server(server));
                }
            }
            Step::Holds { shard, ms } => {
                let mut inside = self.ctx.net.0.borrow_mut();
                let until = inside.now.after(Duration::from_millis(ms));
                if let Some(seat) = inside.seats.get_mut(usize::from(shard)) {
                    seat.held_until = seat.held_until.max(until);
                }
            }
            Step::Slow { shard, us, ms } => {
                let mut inside = self.ctx.net.0.borrow_mut();
                if let Some(seat) = inside.seats.get_mut(usize::from(shard)) {
                    seat.slow = Duration::from_micros(us);
                }
                drop(inside);
                self.later(ms, Undo::Slow(shard));
            }
            Step::Resolvers { how, ms } => {
                self.resolving = how;
                self.later(ms, Undo::Resolvers);
            }
            Step::NoDescriptors { ms } => {
                self.ctx.net.0.borrow_mut().accepts_refused_percent = 50;
                self.later(ms, Undo::Descriptors);
            }
            Step::Reload { grace_s, check_s } => {
                self.live.flow_grace = Duration::from_secs(grace_s);
                let duties = &mut self.ctx.judge.duties;
                duties.flow_grace = duties.flow_grace.min(self.live.flow_grace);
                self.live.oos_check = Duration::from_secs(check_s);
                if let Some(handle) = &self.handle {
                    handle.set_live(&self.live);
                }
                self.wake_all();
            }
            Step::Pin { member } => {
                self.ctx.judge.facts.is_pinned = true;
                let member = [None, Some(Member::Primary), Some(Member::Backup)][usize::from(member % 3)];
                self.pin(member);
            }
            Step::Restart { same_keys } => self.restart(same_keys),
            Step::Stranger { what, victim } => self.stranger(what, PHONES + victim),
            _ => unreachable!("it is no fault"),
        }
    }

    fn restart(&mut self, same_keys: bool) {
        if self.handle.is_none() || self.is_stopping {
            return;
        }
        self.ctx.judge.facts.restarts.push(self.ctx.net.now());
        self.kill();
        // Bindings are forgotten with it.
        for agent in self.agents.values_mut().filter(|agent| agent.id >= PHONES) {
            agent.phone().bound_way = None;
        }
        let ms = self.ctx.chance.u64(50..3_000);
        self.later(ms, Undo::Start { same_keys });
    }

    pub fn undo(&mut self, undo: Undo) -> bool {
        self.ctx.note(|| format!("--- over: {undo:?}"));
        match undo {
            Undo::Server(server) => {
                let agent = self.agents.get_mut(&server).expect("a server");
                agent.server_fails(&mut self.ctx, None);
            }
            Undo::Away(id) => {
                let host = self.agents[&id].host;
                let mut inside = self.ctx.net.0.borrow_mut();
                if let Some(at) = inside.cut.iter().position(|cut| *cut == host) {
                    inside.cut.swap_remove(at);
                }
            }
            Undo::Deaf(id) => self.agents.get_mut(&id).expect("a phone").set_deaf(&mut self.ctx, false),
            Undo::Slow(shard) => {
                if let Some(seat) = self.ctx.net.0.borrow_mut().seats.get_mut(usize::from(shard)) {
                    seat.slow = Duration::ZERO;
                }
            }
            Undo::Resolvers => self.resolving = Resolving::Well,
            Undo::Descriptors => self.ctx.net.0.borrow_mut().accepts_refused_percent = 0,
            Undo::Start { same_keys } => {
                self.key += u8::from(!same_keys);
                self.start();
            }
            Undo::PhonesRest => self.phones_rest(),
            Undo::PhonesLeave => self.phones_leave(),
            Undo::Rest => self.check_rest(),
            Undo::Stop => self.stop(),
            Undo::Over => return true,
        }
        false
    }

    // --- the end --------------------------------------------------------------------------------------------

    pub fn schedule_end(&self) {
        // All faults are over within a minute; then transactions have their time, and bindings theirs.
        let rest = self.plan.len_ms() + 62_000;
        let leave = rest + self.plan.setup.timer_c_s * 1_000 + 75_000;
        // A call that began when a server was nobody may go from one server to the other, each time for as long as timer C
        // lets it, and a connection stays for its answer.
        let astray = if self.plan.setup.named { (self.plan.setup.timer_c_s + 32) * 3_000 + 360_000 } else { 0 };
        let empty = leave + 125_000 + astray;
        self.later(rest, Undo::PhonesRest);
        self.later(leave, Undo::PhonesLeave);
        if !self.plan.drains {
            self.later(empty, Undo::Rest);
        }
        self.later(empty + 10, Undo::Stop);
        self.later(empty + 5_000, Undo::Over);
    }

    fn phones_rest(&mut self) {
        for agent in self.agents.values_mut().filter(|agent| agent.id >= PHONES) {
            agent.phone().is_off = true;
        }
        if let Some(handle) = self.handle.as_ref().filter(|_| self.plan.drains) {
            let _ = handle.drain(Duration::ZERO);
            self.wake_all();
        }
    }

    fn phones_leave(&mut self) {
        let ids: Vec<PartyId> = self.agents.keys().copied().collect();
        for id in ids {
            let agent = self.agents.get_mut(&id).expect("it is there");
            let wires: Vec<usize> = agent.conns.keys().copied().collect();
            for wire in wires.into_iter().filter(|_| id >= PHONES) {
                agent.close(&mut self.ctx, wire, false);
            }
            // A server's own connections, which nobody else would close.
            let own: Vec<usize> = agent.conns.iter().filter(|(_, conn)| conn.end == 0).map(|(wire, _)| *wire).collect();
            for wire in own {
                agent.close(&mut self.ctx, wire, false);
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        if let Some(handle) = &self.handle {
            handle.stop();
        }
        self.wake_all();
    }

    /// Those who were given an order are woken, as threads would do it.
    fn wake_all(&mut self) {
        self.woken();
    }

    // --- names ----------------------------------------------------------------------------------------------

    /// Resolvers answer what was asked.
    pub fn resolve(&mut self) {
        loop {
            let Some(asked) = self.ctx.net.0.borrow_mut().asked.pop_front() else { return };
            let (shard, exchange, from) = (asked.shard, asked.exchange, asked.to);
            let answer = match self.resolving {
                Resolving::Silent => continue,
                Resolving::Unreachable => None,
                Resolving::Garbage => Some(b"\x00\x01garbage".to_vec()),
                how => Some(answer(&asked, how)),
            };
            let is_lost = !asked.tcp && {
                let mut inside = self.ctx.net.0.borrow_mut();
                let permille = inside.weather.loss_permille;
                inside.chance_of(permille)
            };
            if !is_lost {
                let wait = self.ctx.net.0.borrow_mut().delay();
                self.ctx.net.after(wait, Event::Answer { shard, exchange, from, bytes: answer });
            }
        }
    }
}

fn answer(asked: &Asked, how: Resolving) -> Vec<u8> {
    let question = Message::from_vec(&asked.question).expect("a DNS message");
    let query = question.queries[0].clone();
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let name = query.name().to_ascii().to_ascii_lowercase();
    let address: Option<[u8; 4]> = match name.trim_end_matches('.') {
        "sip1.example.com" => Some([192, 0, 2, 11]),
        "sip2.example.com" => Some([192, 0, 2, 12]),
        _ => None,
    };
    match how {
        Resolving::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Resolving::Refused => answer.metadata.response_code = ResponseCode::Refused,
        Resolving::Truncated if !asked.tcp => answer.metadata.truncation = true,
        Resolving::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        _ => {
            let is_a = query.query_type() == RecordType::A;
            if let Some([a, b, c, d]) = address.filter(|_| is_a) {
                let name = Name::from_ascii(&name).expect("a name");
                answer.add_answers([Record::from_rdata(name, TTL_S, RData::A(A::new(a, b, c, d)))]);
            } else if address.is_none() {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
        }
    }
    answer.add_query(query);
    answer.to_vec().expect("it can be written")
}

fn name_of(step: &Step) -> &'static str {
    match step {
        Step::Asks { .. } => "phone asks",
        Step::GoesOn { .. } => "phone goes on",
        Step::Cancels { .. } => "phone cancels",
        Step::Registers { .. } => "phone registers",
        Step::Moves { .. } => "phone moves",
        Step::Loses { .. } => "phone loses its connection",
        Step::Reboots { .. } => "phone reboots",
        Step::Away { .. } => "phone is cut off",
        Step::Deaf { .. } => "phone reads nothing",
        Step::ServerAsks { .. } => "server asks",
        Step::ServerGoesOn { .. } => "server goes on",
        Step::ServerFails { how, .. } => match how {
            crate::plan::Failure::Kill => "server is killed",
            crate::plan::Failure::Reset => "server's ports are closed",
            crate::plan::Failure::Freeze => "server freezes",
            crate::plan::Failure::Refuse => "server refuses all",
            crate::plan::Failure::RefuseOptions => "server refuses checks",
            crate::plan::Failure::Cut => "server is cut off",
        },
        Step::DeviceAsks { .. } => "device asks",
        Step::Holds { .. } => "shard stands still",
        Step::Slow { .. } => "shard is slow",
        Step::Resolvers { .. } => "resolvers fail",
        Step::NoDescriptors { .. } => "no descriptors",
        Step::Reload { .. } => "reload",
        Step::Pin { .. } => "pin",
        Step::Restart { .. } => "restart",
        Step::Stranger { .. } => "stranger",
    }
}

/// An address of a stranger's.
pub fn stranger_address(nth: u32) -> SocketAddr {
    ([198, 51, 100, 66], 1_024 + (nth % 60_000) as u16).into()
}
