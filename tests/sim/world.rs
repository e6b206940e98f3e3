//! Everything under one clock: whole shards, the parties around them, and the order of what happens.
//!
//! Owns: the shards' turns, when each is called again, what must hold after each of them, and the end of a run. Steps of
//! the plan are carried out in `steps`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use fastrand::Rng;
use hawser::clock::Time;
use hawser::config::engine::DnsSettings;
use hawser::config::{Device, Network, PeerProxy, Server as Pair, ServerAddress, Verify};
use hawser::driver::{Clock, Next, Turns};
use hawser::engine::{Live, Point, Settings};
use hawser::ids::{ShardId, Side, Transport};
use hawser::shard::{Core, Handle, Parts, join};
use hawser::stats::{Counter, Counters, Gauge};
use hawser::tls::Tls;

use crate::agent::{Agent, Ctx, Role};
use crate::book::Book;
use crate::certificates::certificates;
use crate::judge::{Judge, Tally};
use crate::message::Msg;
use crate::net::{Event, Net, Owner, PartyId};
use crate::phone::Phone;
use crate::place::{self, Place};
use crate::plan::{DEVICE, Kind, PHONES, Plan, Resolving, SITE, STRANGER, Setup, Step};
use crate::server::Server;
use crate::wire::{Arrived, Wire};

/// Where resolvers are.
pub const RESOLVERS: [([u8; 4], u16); 2] = [([192, 0, 2, 53], 53), ([192, 0, 2, 54], 53)];
/// Where the device is, and another site's proxy.
const DEVICE_AT: [u8; 4] = [192, 0, 2, 21];
const SITE_AT: [u8; 4] = [192, 0, 2, 99];
/// No mailbox of so many is ever full here.
const MAILS_ENOUGH: usize = 1_024;
/// Turns in a row that nothing was ready for, and that want another one at once.
const RESTLESS_TURNS_MAX: u32 = 256;
/// Events of one moment.
const EVENTS_AT_ONCE_MAX: u32 = 10_000;
const LOST_WAKE: &str = "a shard sleeps with mail that nobody wakes it for";

/// Set when a shard is woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A shard, while it runs.
struct Shard {
    core: Core<Place>,
    flag: Arc<Flag>,
    /// It waits to be woken, for news or for its time.
    waits: bool,
    restless: u32,
    /// Mails of its own that found no room, so far.
    refused: u64,
}

/// What came of a run.
#[derive(Clone, Default)]
pub struct Outcome {
    pub counters: Counters,
    pub tally: Tally,
    pub faults: BTreeMap<&'static str, u64>,
    pub turns: u64,
    pub virtual_s: u64,
}

impl Outcome {
    /// Puts another run's to this one.
    pub fn add(&mut self, other: &Self) {
        self.counters.merge(&other.counters);
        self.tally.requests += other.tally.requests;
        self.tally.acks += other.tally.acks;
        self.tally.messages += other.tally.messages;
        for (cause, count) in &other.tally.excused {
            *self.tally.excused.entry(*cause).or_default() += count;
        }
        for (what, count) in &other.faults {
            *self.faults.entry(what).or_default() += count;
        }
        self.turns += other.turns;
        self.virtual_s += other.virtual_s;
    }
}

/// See the module.
pub struct World {
    pub plan: Plan,
    pub ctx: Ctx,
    pub agents: BTreeMap<PartyId, Agent>,
    shards: Vec<Option<Shard>>,
    pub handle: Option<Handle>,
    pub live: Live,
    pub boot: u32,
    pub key: u8,
    pub resolving: Resolving,
    pub outcome: Outcome,
    pub is_stopping: bool,
    pub strangers: u32,
}

impl World {
    pub fn new(plan: &Plan, traces: bool) -> Self {
        let mut setup = plan.setup.clone();
        let mut chance = Rng::with_seed(setup.seed ^ 0x5eed);
        for (user, uri, party) in
            [("gw", "sip:gw@192.0.2.21:5060".to_owned(), DEVICE), ("far", "sip:far@192.0.2.99:5060".to_owned(), SITE)]
        {
            setup.fixed.insert(user.to_owned(), (uri, party));
        }
        let points: Vec<(SocketAddr, Transport)> =
            points(&setup).iter().map(|point| (point.bind, point.transport)).collect();
        let net = Net::new(chance.fork(), plan.weather, &points);
        let ctx = Ctx {
            net,
            judge: Judge::default(),
            book: Book::default(),
            chance,
            tls: setup.tls.then(|| certificates().parties.clone()),
            setup,
        };
        let mut live = settings(&plan.setup, 0, 1, 1).live;
        if traces {
            // What the engine decides stands in the trace too.
            live.log_level = hawser::config::LogLevel::Trace;
        }
        let mut world = Self {
            plan: plan.clone(),
            ctx,
            agents: BTreeMap::new(),
            shards: Vec::new(),
            handle: None,
            live,
            boot: 0,
            key: 1,
            resolving: Resolving::Well,
            outcome: Outcome::default(),
            is_stopping: false,
            strangers: 0,
        };
        world.ctx.judge.facts.timer_c = Duration::from_secs(plan.setup.timer_c_s);
        world.ctx.judge.duties.flow_grace = Duration::from_secs(plan.setup.flow_grace_s);
        world.ctx.judge.facts.has_names = plan.setup.named;
        world.ctx.judge.facts.is_late = plan.weather.late_permille > 0
            || plan.steps.iter().any(|(_, step)| matches!(step, Step::Holds { .. } | Step::Slow { .. }));
        world.ctx.judge.facts.loses = plan.weather.loss_permille > 0;
        world.people();
        // Clocks of parties differ by up to a fiftieth.
        for (id, agent) in &mut world.agents {
            let salt = plan.setup.seed.wrapping_mul(31).wrapping_add(*id as u64 * 17);
            agent.clock_permille = 980 + u32::try_from(salt % 41).expect("small");
        }
        world.start();
        world
    }

    fn people(&mut self) {
        for (at, address) in self.plan.setup.servers.into_iter().enumerate() {
            let agent = Agent::new(at, &format!("s{at}"), address.ip(), Role::Server(Box::new(Server::new(address))));
            self.agents.insert(at, agent);
            let mut inside = self.ctx.net.0.borrow_mut();
            inside.udp.insert(address, at);
            inside.tcp.insert(address, at);
        }
        for (at, plan) in self.plan.setup.phones.iter().enumerate() {
            let id = PHONES + at;
            let user = format!("u{}", plan.user);
            let transport = match plan.transport {
                Transport::Udp => String::new(),
                other => format!(";transport={}", other.param_name()),
            };
            let params = match plan.instance {
                0 => String::new(),
                1 => format!(";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000{at}>\""),
                _ => format!(";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000{at}>\";reg-id=1"),
            };
            // Many phones behind NATs have the same private address.
            let contact = format!("sip:{user}@192.168.7.2:{}{transport}", 5060 + at);
            let kind = if plan.guest { Kind::Guest } else { Kind::Phone };
            let mut phone = Phone::new(kind, plan.transport, &user, contact, params);
            (phone.expires_s, phone.comes_back) = (plan.expires_s, plan.comes_back);
            let host = [10, 0, 0, u8::try_from(at).expect("few")].into();
            self.agents.insert(id, Agent::new(id, &format!("p{id}"), host, Role::Phone(Box::new(phone))));
        }
        for (id, kind, user, host) in [(DEVICE, Kind::Device, "gw", DEVICE_AT), (SITE, Kind::Site, "far", SITE_AT)] {
            let host: std::net::IpAddr = host.into();
            let contact = format!("sip:{user}@{host}:5060");
            let phone = Phone::new(kind, Transport::Udp, user, contact, String::new());
            let mut agent = Agent::new(id, user, host, Role::Phone(Box::new(phone)));
            agent.phone_connect(&mut self.ctx);
            self.agents.insert(id, agent);
        }
    }

    /// The proxy's process starts.
    pub fn start(&mut self) {
        self.boot += 1;
        let setup = &self.plan.setup;
        self.ctx.net.seat(setup.shards);
        let (handle, ends) = join(usize::from(setup.shards), setup.mails_max, Clock::start());
        let tls = if setup.tls { certificates().proxy.clone() } else { Tls::default() };
        self.shards = ends
            .into_iter()
            .zip(0..)
            .map(|(ends, shard)| {
                let settings = Settings { live: self.live.clone(), ..settings(setup, shard, self.boot, self.key) };
                let parts = Parts { settings, tls: tls.clone(), ends };
                let core = Core::new(Place::new(&self.ctx.net, shard), parts);
                Some(Shard { core, flag: Arc::default(), waits: false, restless: 0, refused: 0 })
            })
            .collect();
        self.handle = Some(handle);
        let mut inside = self.ctx.net.0.borrow_mut();
        for shard in 0..setup.shards {
            inside.wake(shard);
        }
    }

    /// Whether the first shard, which has their names looked up, knows where the servers are.
    fn look_at_names(&mut self) {
        let now = self.ctx.net.now();
        let rows = self.shards.first().and_then(Option::as_ref).map(|first| first.core.engine().pairs(now));
        let mut rows = rows.iter().flatten().peekable();
        let are_known = rows.peek().is_some() && rows.flat_map(|row| &row.servers).all(|one| one.address.is_some());
        self.ctx.judge.facts.note_names(are_known, now);
    }

    /// The proxy's process is killed.
    pub fn kill(&mut self) {
        for shard in self.shards.iter_mut().filter_map(Option::take) {
            self.outcome.counters.merge(&shard.core.engine().snapshot().counters);
            drop(shard);
        }
        self.handle = None;
        self.look_at_names();
        let mut inside = self.ctx.net.0.borrow_mut();
        let waiting: Vec<usize> = inside
            .seats
            .iter_mut()
            .flat_map(|seat| seat.listeners.values_mut())
            .flat_map(|listener| listener.waiting.drain(..))
            .collect();
        for wire in waiting {
            inside.close(wire, 1, true);
        }
        for seat in &mut inside.seats {
            *seat = Default::default();
        }
        inside.is_up = false;
    }

    /// Plays it to its end.
    pub fn run(mut self) -> Outcome {
        for (at, (ms, _)) in self.plan.steps.iter().enumerate() {
            self.ctx.net.after(Duration::from_millis(*ms), Event::Act(at));
        }
        self.schedule_end();
        let (mut at, mut count) = (Time(0), 0_u32);
        while let Some(event) = self.ctx.net.pop() {
            count = if self.ctx.net.now() == at { count + 1 } else { 0 };
            at = self.ctx.net.now();
            assert!(count < EVENTS_AT_ONCE_MAX, "time stands still: {event:?}");
            if self.happen(event) {
                break;
            }
        }
        self.outcome.virtual_s = (self.ctx.net.now().0 - 1_000_000) / 1_000_000;
        self.conclude();
        self.outcome
    }

    /// Those that somebody outside has woken.
    pub fn woken(&mut self) {
        self.wakes(u8::MAX);
    }

    /// Asks the first shard to fix who is active. The answer comes with its turn.
    pub fn pin(&mut self, member: Option<hawser::server_pool::Member>) {
        if let Some(handle) = &self.handle {
            handle.ask_to_pin("sips1", member);
        }
        self.woken();
    }

    /// One event; says whether it was the last one.
    fn happen(&mut self, event: Event) -> bool {
        match event {
            Event::Turn(shard) => self.turn(shard),
            Event::Datagram { from, to, bytes } => self.datagram(from, to, bytes),
            Event::Unreachable { to, of } => {
                let mut inside = self.ctx.net.0.borrow_mut();
                if let Some(point) = inside.point(to, true).filter(|_| inside.is_up) {
                    inside.hear_unreachable(point, of);
                }
            }
            Event::Stream { wire, from } => {
                let arrived = self.ctx.net.0.borrow_mut().arrive(wire, from);
                self.stream(wire, arrived);
            }
            Event::Dead { wire, end } => {
                let arrived = self.ctx.net.0.borrow_mut().give_up(wire, end);
                self.stream(wire, arrived);
            }
            Event::Answer { shard, exchange, from, bytes } => self.dns_answer(shard, exchange, from, bytes),
            Event::Timer { party, timer } => {
                if let Some(agent) = self.agents.get_mut(&party) {
                    agent.on_timer(&mut self.ctx, timer);
                }
            }
            Event::Act(at) => self.act(at),
            Event::Undo(undo) => return self.undo(undo),
        }
        false
    }

    fn stream(&mut self, wire: usize, arrived: Option<(PartyId, Arrived)>) {
        let Some((party, what)) = arrived else { return };
        if let Some(agent) = self.agents.get_mut(&party) {
            agent.on_stream(&mut self.ctx, wire, what);
        }
    }

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: std::rc::Rc<[u8]>) {
        let party = {
            let mut inside = self.ctx.net.0.borrow_mut();
            if inside.is_cut(to) || inside.is_cut(from) {
                return;
            }
            if let Some(point) = inside.point(to, true) {
                return inside.arrive_at_proxy(point, from, bytes);
            }
            let Some(party) = inside.udp.get(&to).copied() else {
                // Some hosts say nothing.
                if to.port().is_multiple_of(2) {
                    inside.refuse(from, to);
                }
                return;
            };
            party
        };
        match self.agents.get_mut(&party) {
            Some(agent) => agent.on_datagram(&mut self.ctx, from, to, &bytes),
            // It is answered; and who has called a server is asked by that within its call.
            None => {
                let to_stranger = |message: &Msg| message.get("X-Id").split(' ').nth(2) == Some(&*STRANGER.to_string());
                let is_ok = Msg::read(&bytes).is_none_or(|message| !message.is_request() || to_stranger(&message));
                assert!(is_ok, "a stranger is asked: {}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    fn dns_answer(&mut self, shard: u8, exchange: u32, from: SocketAddr, bytes: Option<Vec<u8>>) {
        let mut inside = self.ctx.net.0.borrow_mut();
        let Some(seat) = inside.seats.get_mut(usize::from(shard)) else { return };
        let Some(question) = seat.questions.get_mut(&exchange) else { return };
        match bytes {
            Some(bytes) => question.came.push_back((from, bytes)),
            None => question.refused = true,
        }
        question.news = true;
        inside.wake(shard);
    }

    // --- turns ----------------------------------------------------------------------------------------------

    fn turn(&mut self, at: u8) {
        let now = self.ctx.net.now();
        {
            let mut inside = self.ctx.net.0.borrow_mut();
            let seat = &mut inside.seats[usize::from(at)];
            if seat.turn_at != Some(now) {
                return;
            }
            seat.turn_at = None;
            if seat.held_until > now {
                let until = seat.held_until;
                return inside.turn_by(at, until);
            }
        }
        let Some(shard) = self.shards[usize::from(at)].as_mut() else { return };
        let ready = place::ready(&self.ctx.net, at);
        shard.waits = false;
        let next = shard.core.turn(&ready).next;
        self.outcome.turns += 1;
        shard.core.engine().check();
        if self.plan.setup.mails_max < MAILS_ENOUGH {
            let refused = shard.core.engine().snapshot().counters.of(Counter::MailRefused);
            if std::mem::replace(&mut shard.refused, refused) < refused {
                self.ctx.judge.facts.mails_refused.push(now);
            }
        }
        let is_restless = ready.is_empty() && next == Next::Again;
        shard.restless = if is_restless { shard.restless + 1 } else { 0 };
        assert!(shard.restless < RESTLESS_TURNS_MAX, "it burns a core: {:?}", shard.core.holds());
        self.goes_on(at, next, now);
        if at == 0 && self.plan.setup.named {
            self.look_at_names();
        }
        self.wakes(at);
        self.resolve();
    }

    /// When a shard has its next turn.
    fn goes_on(&mut self, at: u8, next: Next, now: Time) {
        let Some(shard) = self.shards[usize::from(at)].as_mut() else { return };
        let mut inside = self.ctx.net.0.borrow_mut();
        let slow = inside.seats[usize::from(at)].slow;
        if !slow.is_zero() {
            inside.seats[usize::from(at)].held_until = now.after(slow);
        }
        match next {
            Next::Again => inside.wake(at),
            Next::At(due) => {
                drop(inside);
                let waker: Waker = shard.flag.clone().into();
                let has_news = place::has_news(&self.ctx.net, at) || shard.core.about_to_wait(&waker);
                shard.waits = !has_news;
                let mut inside = self.ctx.net.0.borrow_mut();
                if has_news {
                    inside.wake(at);
                } else if let Some(due) = due {
                    inside.turn_by(at, due);
                }
            }
            Next::Over => {
                assert!(self.is_stopping, "nobody has stopped it");
                drop(inside);
                self.outcome.counters.merge(&shard.core.engine().snapshot().counters);
                check_end(&shard.core);
                self.shards[usize::from(at)] = None;
            }
        }
    }

    /// Those that were woken have their turn; and nobody sleeps over mail.
    fn wakes(&mut self, but: u8) {
        for at in 0..self.shards.len() {
            let Some(shard) = self.shards[at].as_mut() else { continue };
            let is_woken = shard.flag.0.swap(false, Ordering::Relaxed);
            let at = u8::try_from(at).expect("few");
            if is_woken {
                shard.waits = false;
                self.ctx.net.0.borrow_mut().wake(at);
            } else if shard.waits && at != but {
                let waker: Waker = shard.flag.clone().into();
                assert!(!shard.core.about_to_wait(&waker), "{LOST_WAKE}");
            }
        }
    }

    /// Counters of all shards, those of before a restart too.
    fn counters(&self) -> Counters {
        let mut all = self.outcome.counters.clone();
        for shard in self.shards.iter().flatten() {
            all.merge(&shard.core.engine().snapshot().counters);
        }
        all
    }

    // --- the end --------------------------------------------------------------------------------------------

    fn conclude(&mut self) {
        for (at, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            assert!(self.is_stopping, "it has not been stopped");
            panic!("shard {at} does not end: {:?}", shard.core.holds());
        }
        self.ctx.judge.facts.lost_of = std::mem::take(&mut self.ctx.net.0.borrow_mut().lost_of);
        self.ctx.judge.conclude();
        self.outcome.tally = self.ctx.judge.tally.clone();
        let counters = self.counters();
        for never in NEVER {
            assert_eq!(counters.of(never), 0, "it counts what nobody has done: {:?}", never.row());
        }
        let (sent, waited) = (counters.of(Counter::MailSent), counters.of(Counter::MailWaited));
        let received = counters.of(Counter::MailReceived);
        assert!(received <= sent + waited, "{received} mails of {sent} and {waited}");
        self.outcome.counters = counters;
        let inside = self.ctx.net.0.borrow();
        for (what, count) in [("datagrams lost", inside.lost), ("doubled", inside.doubled), ("late", inside.late)] {
            self.outcome.faults.insert(what, count);
        }
    }

    /// Everything is over: nothing may be left but the proxy's own connections to servers.
    pub fn check_rest(&self) {
        let inside = self.ctx.net.0.borrow();
        for (shard, at) in self.shards.iter().zip(0..) {
            let Some(Shard { core, .. }) = shard else { continue };
            let is_own = |wire: &&Wire| wire.ends.iter().any(|end| end.owner == Owner::Shard(at) && !end.closed);
            let open = inside.wires.iter().filter(is_own).count() as u64;
            let snapshot = core.engine().snapshot();
            let gauges = [Gauge::ConnectionsTcp, Gauge::ConnectionsTls];
            let known: u64 = gauges.into_iter().map(|gauge| snapshot.gauges.of(gauge)).sum();
            assert!(known == open, "{open} connections, and left are {:#?}", left(core));
            let left: u64 = EMPTY.into_iter().map(|gauge| snapshot.gauges.of(gauge)).sum();
            assert_eq!(left, 0, "something is left: {:#?}", self::left(core));
            // A service check may be under way, over a connection that is being opened.
            let is_well = |what: &str| match what {
                "connections" | "watches" => true,
                "handshakes" | "bytes to send" => open > 0,
                _ => false,
            };
            let holds = core.holds().into_iter().filter(|(what, count)| *count > 0 && !is_well(what));
            assert_eq!(holds.count(), 0, "something is left: {:?}", core.holds());
        }
    }
}

/// What would be the proxy's own fault: nobody here breaks TLS, or has the system refuse what is whole.
const NEVER: [Counter; 4] = [Counter::Panics, Counter::ClosedPanic, Counter::ClosedTlsFault, Counter::ClosedError];

/// What must be nothing when phones and calls are gone.
const EMPTY: [Gauge; 10] = [
    Gauge::RegisteredFlowsUdp,
    Gauge::RegisteredFlowsTcp,
    Gauge::RegisteredFlowsTls,
    Gauge::UdpFlows,
    Gauge::Bindings,
    Gauge::TransactionsServer,
    Gauge::TransactionsClient,
    Gauge::ContextsGrace,
    Gauge::ContextsHome,
    Gauge::MailboxLength,
];

fn left(core: &Core<Place>) -> Vec<(&'static str, String, u64)> {
    let snapshot = core.engine().snapshot();
    let some = snapshot.gauges.rows().filter(|(_, value)| *value > 0);
    some.map(|(row, value)| (row.name, format!("{:?}", row.labels), value)).collect()
}

fn check_end(core: &Core<Place>) {
    // What lingered or was watched has been closed with the rest; its place in those queues means nothing then.
    let is_over = |what: &str| matches!(what, "lingers" | "watches");
    let holds = core.holds().into_iter().filter(|(what, count)| *count > 0 && !is_over(what));
    let holds: Vec<_> = holds.collect();
    assert!(holds.is_empty(), "a shard that has ended holds {holds:?}");
}

/// The proxy's points.
fn points(setup: &Setup) -> Vec<Point> {
    let listener = |host: u8, side| {
        [(Transport::Udp, 5060), (Transport::Tcp, 5060), (Transport::Tls, 5061)].map(|(transport, port)| Point {
            transport,
            bind: ([203, 0, 113, host], port).into(),
            advertised_host: format!("203.0.113.{host}"),
            advertised_port: port,
            side,
        })
    };
    match setup.split {
        true => [listener(1, Some(Side::Endpoint)), listener(2, Some(Side::Server))].concat(),
        false => listener(1, None).to_vec(),
    }
}

/// What a shard is made with.
fn settings(setup: &Setup, shard: u8, boot: u32, key: u8) -> Settings {
    let at = |at: usize, name: &str| match setup.named {
        true => ServerAddress::Name(name.to_owned(), Some(7000)),
        false => ServerAddress::Address(setup.servers[at]),
    };
    let mut pair = Pair::at("sips1", setup.servers[0], setup.internal);
    (pair.primary, pair.backup) = (at(0, "sip1.example.com"), Some(at(1, "sip2.example.com")));
    pair.verify = Verify::Chain;
    let site = PeerProxy {
        name: "site2".to_owned(),
        servers: vec![SITE_AT.into()],
        contact: hawser::config::Host::Ip(SITE_AT.into()),
        protocol: Transport::Udp,
        port_tls: None,
        tls_name: None,
        verify: Verify::Name,
        setup: None,
    };
    let network = Network { address: DEVICE_AT.into(), prefix_len: 32 };
    let device = Device { network, tls_name: None, verify: Verify::Name, setup: None };
    let mut seed = [shard + 1; 32];
    seed[1..9].copy_from_slice(&setup.seed.to_le_bytes());
    seed[9..13].copy_from_slice(&boot.to_le_bytes());
    let mut settings = Settings {
        shard: ShardId(shard),
        shards: setup.shards,
        sticky: setup.sticky,
        boot,
        token_key: [key; 32],
        seed,
        peers: vec![site],
        devices: vec![device],
        dns: DnsSettings { resolvers: RESOLVERS.map(SocketAddr::from).to_vec(), ttl_stale: Duration::from_secs(3_600) },
        ..Settings::plain(points(setup), vec![pair])
    };
    settings.live.oos_check = Duration::from_secs(setup.oos_check_s);
    settings.live.oos_force = Duration::from_secs(1);
    settings.live.flow_grace = Duration::from_secs(setup.flow_grace_s);
    settings.live.timer_c = Duration::from_secs(setup.timer_c_s);
    settings
}
