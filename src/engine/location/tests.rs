//! Random histories of phones on one to four shards, with mail that comes late, against a model of plain maps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::super::Engine;
use super::super::ports::{Env, Ports, Timer};
use super::notice::{Notice, Whereabouts};
use super::{Action, Asker, Found, Location, Waits};
use crate::clock::Time;
use crate::config::engine::{Point, Settings};
use crate::flow::directory::Binding;
use crate::flow::keys::Identity;
use crate::flow::table::Slots;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId, Transport};
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

const HISTORIES: u64 = 2_000;
const STEPS: usize = 70;
const PHONES: usize = 6;
const TCP: PointId = PointId(0);
const UDP: PointId = PointId(1);

/// One shard: its location, and what the engine would hold around it.
struct Shard {
    location: Location,
    env: Env,
    ports: Ports,
    conns: Slots<()>,
    /// The connections that carry a binding, as location says.
    registered: BTreeSet<ConnId>,
}

/// What is true of a phone.
#[derive(Debug)]
struct Phone {
    id: BindingId,
    /// It is bound: over which flow last, and until when.
    bound: Option<(FlowRef, Time)>,
    /// Flows that it had since it was bound first; an un-REGISTER or the end of a registration begins anew.
    trail: Vec<FlowRef>,
    ever: Vec<FlowRef>,
    contact: usize,
}

struct World {
    rng: fastrand::Rng,
    now: Time,
    shards: Vec<Shard>,
    mail: BTreeMap<(u8, u8), VecDeque<Notice>>,
    phones: Vec<Phone>,
    /// The connections that are there, and whether each has both halves.
    streams: BTreeMap<FlowRef, bool>,
    /// The connection that was accepted last from an address, and whether its peer may be an endpoint.
    accepted: BTreeMap<(u8, SocketAddr), (FlowRef, bool)>,
    /// Who has asked: for whom, and until when the answer must have come.
    asked: BTreeMap<TxnId, (usize, Time)>,
    askers: u32,
    /// There may be no room for a UDP flow.
    is_tight: bool,
}

fn remote(n: u16) -> SocketAddr {
    SocketAddr::new([198, 51, 100, 7].into(), 5_000 + n)
}

fn point(transport: Transport) -> Point {
    let bind: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
    Point { transport, bind, advertised_host: "192.0.2.1".into(), advertised_port: 5060, side: None }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (shards, is_tight) = (rng.u8(1..=4), rng.u8(0..4) == 0);
        let shard = |shard| {
            let plain = Settings::plain(vec![point(Transport::Tcp), point(Transport::Udp)], Vec::new());
            let connections_max = if is_tight { 2 } else { 1_000 };
            let settings = Settings { shard: ShardId(shard), shards, connections_max, ..plain };
            let Engine { location, env, ports, .. } = Engine::new(settings, Time(0));
            Shard { location, env, ports, conns: Slots::new(1_000), registered: BTreeSet::new() }
        };
        let shards: Vec<Shard> = (0..shards).map(shard).collect();
        let phone = |phone| {
            let identity = Identity::Instance { instance: b"urn:uuid:1", reg_id: 0 };
            let user = format!("u{phone}");
            let id = shards[0].env.keys.binding(user.as_bytes(), Self::aor(phone).as_bytes(), identity, 0);
            Phone { id, bound: None, trail: Vec::new(), ever: Vec::new(), contact: 0 }
        };
        Self {
            rng,
            now: Time(0),
            phones: (0..PHONES).map(phone).collect(),
            shards,
            mail: BTreeMap::new(),
            streams: BTreeMap::new(),
            accepted: BTreeMap::new(),
            asked: BTreeMap::new(),
            askers: 0,
            is_tight,
        }
    }

    fn shard(&mut self, at: ShardId) -> &mut Shard {
        &mut self.shards[usize::from(at.0)]
    }

    fn any_shard(&mut self) -> ShardId {
        ShardId(self.rng.u8(0..self.shards.len() as u8))
    }

    fn aor(phone: usize) -> String {
        format!("sip:u{phone}@example.com")
    }

    /// Its user is another than its AOR's; each third one is no more than what its phone says.
    fn contact(&self, phone: usize) -> String {
        format!("sip:c{phone}@192.0.2.{}", 10 + self.phones[phone].contact)
    }

    fn id(&self, phone: usize) -> BindingId {
        self.phones[phone].id
    }

    fn home(&self, phone: usize) -> ShardId {
        self.id(phone).home(self.shards.len() as u8)
    }

    /// Calls a location, and carries out what it wants done; what it has to say to itself it hears at the end.
    fn call<R>(&mut self, at: ShardId, what: impl FnOnce(&mut Location, &Env, &mut Ports, Time) -> R) -> R {
        let now = self.now;
        let Shard { location, env, ports, .. } = self.shard(at);
        let done = what(location, env, ports, now);
        let mut local = VecDeque::new();
        loop {
            while let Some(action) = self.shard(at).location.poll_action() {
                match action {
                    Action::Tell { shard, notice } if shard == at => local.push_back(notice),
                    Action::Tell { shard, notice } => self.post(at, shard, notice),
                    Action::Answer { asker, flow } => self.on_answer(asker, flow),
                    Action::Wake { what: Waits::Request(asker), flow, .. } => self.on_answer(asker, Some(flow)),
                    Action::InVain { what: Waits::Request(asker) } => self.on_answer(asker, None),
                    Action::Registered { conn, is_registered } => {
                        let registered = &mut self.shard(at).registered;
                        assert!(if is_registered { registered.insert(conn) } else { registered.remove(&conn) });
                    }
                    Action::Event { .. } => {}
                    Action::Wake { .. } | Action::InVain { .. } => unreachable!("nothing else waits here"),
                }
            }
            let Some(notice) = local.pop_front() else { return done };
            let Shard { location, env, ports, .. } = self.shard(at);
            location.on_notice(notice, env, ports);
        }
    }

    fn post(&mut self, from: ShardId, to: ShardId, notice: Notice) {
        self.mail.entry((from.0, to.0)).or_default().push_back(notice);
    }

    /// Each is answered once, and with the flow that the phone has.
    fn on_answer(&mut self, asker: Asker, flow: Option<FlowRef>) {
        let (phone, until) = self.asked.remove(&asker.txn).expect("asked, and answered once");
        match flow {
            Some(_) => assert_eq!(flow, self.phones[phone].bound.map(|(flow, _)| flow)),
            None => assert!(self.now >= until),
        }
    }

    // --- what happens ------------------------------------------------------------------------------------------------

    fn open(&mut self) {
        let (at, from) = (self.any_shard(), remote(self.rng.u16(0..4)));
        let Some(conn) = self.shard(at).conns.insert(()) else { return };
        let flow = FlowRef::Stream { shard: at, conn, point: TCP };
        let faces_endpoint = self.rng.u8(0..5) > 0;
        self.call(at, |location, _, _, _| {
            location.open(conn, TCP, from, Some(Transport::Tcp));
            location.face(conn, faces_endpoint);
        });
        self.streams.insert(flow, true);
        self.accepted.insert((at.0, from), (flow, faces_endpoint));
    }

    fn end(&mut self, flow: FlowRef, half: bool) {
        let FlowRef::Stream { shard, conn, .. } = flow else { return };
        if half {
            self.streams.insert(flow, false);
        } else {
            self.streams.remove(&flow);
            self.shard(shard).conns.remove(conn);
        }
        self.accepted.retain(|_, (held, _)| *held != flow);
        self.shard(shard).registered.remove(&conn);
        let lost = self.call(shard, |location, _, _, _| match half {
            true => location.half_close(conn),
            false => location.close(conn),
        });
        for binding in lost.bindings {
            let (home, notice) = (binding.home(self.shards.len() as u8), Notice::FlowGone { flow, binding });
            if home == shard {
                self.call(shard, |location, env, ports, _| location.on_notice(notice, env, ports));
            } else {
                self.post(shard, home, notice);
            }
        }
    }

    fn any_stream(&mut self) -> Option<FlowRef> {
        let all: Vec<FlowRef> = self.streams.keys().copied().collect();
        self.rng.choice(all)
    }

    /// A 2xx to a phone's REGISTER, which came over any flow; it may be gone by now.
    fn register(&mut self, phone: usize) {
        let udp = FlowRef::Udp { shard: self.any_shard(), point: UDP, remote: remote(self.rng.u16(0..4)) };
        let known = self.rng.choice(self.phones[phone].ever.clone());
        let flow = match self.rng.u8(0..8) {
            0..2 => udp,
            2..4 => known.unwrap_or(udp),
            _ => self.any_stream().unwrap_or(udp),
        };
        if self.rng.u8(0..4) == 0 {
            self.phones[phone].contact = self.rng.usize(0..3);
        }
        let expires = self.now.after(Duration::from_secs(self.rng.u64(10..200)));
        let known = &mut self.phones[phone];
        known.bound = Some((flow, expires));
        known.trail.push(flow);
        known.ever.push(flow);
        let (aor, contact, id) = (Self::aor(phone), self.contact(phone), self.id(phone));
        let said_by = phone.is_multiple_of(3).then_some(aor.as_bytes());
        let contact_hash = self.shards[0].env.keys.contact(contact.as_bytes(), said_by);
        self.call(self.home(phone), |location, env, ports, now| {
            let binding = Binding {
                id,
                aor: aor.as_bytes().into(),
                contact: contact.as_bytes().into(),
                contact_hash,
                instance: b"urn:uuid:1"[..].into(),
                reg_id: None,
                flow: Some(flow),
                peer: remote(0),
                expires,
                asked: now,
                refreshed: now,
                call_id_hash: 0,
                cseq: 1,
                ob: false,
            };
            location.bind(binding, flow, env, ports);
        });
    }

    fn unregister(&mut self, phone: usize) {
        let id = self.id(phone);
        self.call(self.home(phone), |location, env, ports, _| location.remove(id, env, ports));
        self.over(phone);
    }

    fn over(&mut self, phone: usize) {
        self.phones[phone].bound = None;
        self.phones[phone].trail.clear();
    }

    fn ask(&mut self, phone: usize) {
        self.askers += 1;
        let txn = TxnId { slot: self.askers, generation: 1 };
        let wait = Duration::from_secs(self.rng.u64(0..20));
        // Who asks knows of a flow that it is gone.
        let gone: Vec<FlowRef> = self.phones[phone].ever.iter().copied().filter(|flow| !self.is_alive(*flow)).collect();
        let not = self.rng.choice(gone).filter(|_| self.rng.bool());
        self.asked.insert(txn, (phone, self.now.after(wait)));
        // One that may not wait is answered now.
        let (asker, asked) =
            (Asker { shard: self.any_shard(), txn }, Whereabouts { binding: self.id(phone), not, wait });
        self.call(self.home(phone), |location, env, ports, now| location.on_ask(asker, asked, env, ports, now));
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        let now = self.now;
        for phone in 0..PHONES {
            if self.phones[phone].bound.is_some_and(|(_, expires)| expires <= now) {
                self.over(phone);
            }
        }
        for at in (0..self.shards.len() as u8).map(ShardId) {
            while let Some(timer) = self.shard(at).ports.wheel.poll(now) {
                self.call(at, |location, env, ports, now| match timer {
                    Timer::Binding(id) => location.on_binding_timer(id, env, ports, now),
                    Timer::Waiter(id) => location.on_waiter_timer(id, ports),
                    Timer::Udp(id) => location.on_udp_timer(id, ports, now),
                    _ => {}
                });
            }
        }
        assert!(self.asked.values().all(|(_, until)| *until > now), "nobody waits longer than it was to");
    }

    fn deliver(&mut self, nth: usize) {
        let pairs: Vec<(u8, u8)> =
            self.mail.iter().filter(|(_, mail)| !mail.is_empty()).map(|(pair, _)| *pair).collect();
        let Some(pair) = pairs.get(nth % pairs.len().max(1)) else { return };
        let Some(notice) = self.mail.get_mut(pair).and_then(VecDeque::pop_front) else { return };
        self.call(ShardId(pair.1), |location, env, ports, _| location.on_notice(notice, env, ports));
    }

    fn deliver_all(&mut self) {
        while self.mail.values().any(|mail| !mail.is_empty()) {
            self.deliver(0);
        }
    }

    fn step(&mut self) {
        let phone = self.rng.usize(0..PHONES);
        match self.rng.u8(0..32) {
            0..5 => self.open(),
            5..8 => {
                let half = self.rng.u8(0..3) == 0;
                if let Some(flow) = self.any_stream() {
                    self.end(flow, half);
                }
            }
            8..15 => self.register(phone),
            15 => self.unregister(phone),
            16..19 => self.ask(phone),
            19..21 => {
                let seconds = self.rng.u64(0..40);
                self.pass(seconds);
            }
            21..30 => {
                let nth = self.rng.usize(0..16);
                self.deliver(nth);
            }
            _ => {
                self.deliver_all();
                self.check_at_rest();
            }
        }
        self.check();
    }

    // --- what must hold ----------------------------------------------------------------------------------------------

    /// Whether requests can be sent over it.
    fn is_alive(&self, flow: FlowRef) -> bool {
        !flow.is_stream() || self.streams.get(&flow) == Some(&true)
    }

    /// Whether its owner and its home are about to agree that a flow does not have a binding.
    fn is_news(&self, flow: FlowRef, id: BindingId) -> bool {
        self.mail.values().flatten().any(|notice| match notice {
            Notice::Bound { flow: of, binding, .. } | Notice::FlowGone { flow: of, binding } => {
                *binding == id && of.is_same(flow)
            }
            _ => false,
        })
    }

    /// At any time, whatever is under way.
    fn check(&mut self) {
        for Shard { location, env, conns, registered, .. } in &self.shards {
            assert_eq!(location.check(env), Ok(()));
            assert!(conns.iter().all(|(conn, ())| location.is_registered(conn) == registered.contains(&conn)));
        }
        for phone in 0..PHONES {
            self.check_phone(phone);
        }
        for (at, shard) in self.shards.iter().enumerate() {
            for from in (0..4).map(remote) {
                let found = shard.location.flow_at(Transport::Tcp, from, &shard.env);
                let expected = self.accepted.get(&(at as u8, from)).filter(|(_, faces_endpoint)| *faces_endpoint);
                assert_eq!(found.map(|(flow, _)| flow), expected.map(|(flow, _)| *flow));
                let udp = shard.location.flow_at(Transport::Udp, from, &shard.env);
                for (flow, binding) in [found, udp].into_iter().flatten() {
                    self.assert_had(flow, binding);
                }
            }
        }
    }

    /// A flow is said to have a binding that had it.
    fn assert_had(&self, flow: FlowRef, binding: Option<BindingId>) {
        let Some(binding) = binding else { return };
        let phone = (0..PHONES).find(|phone| self.id(*phone) == binding).expect("it is a phone's");
        assert!(self.phones[phone].ever.iter().any(|had| had.is_same(flow)), "another's flow");
    }

    fn check_phone(&mut self, phone: usize) {
        let (id, home) = (self.id(phone), self.home(phone));
        let found = self.call(home, |location, env, ports, _| location.find(id, None, env, ports));
        match (found, self.phones[phone].bound) {
            (None, None) => {}
            (Some(_), None) => panic!("its registration is over"),
            (None, Some((flow, _))) => assert!(!self.is_alive(flow) || (self.is_tight && !flow.is_stream())),
            (Some(found), Some((flow, _))) => {
                assert_eq!(found, flow);
                assert!(self.is_alive(flow) || self.is_news(flow, id), "it is gone, and nobody says so");
            }
        }
        let Some(had) = self.rng.choice(self.phones[phone].ever.clone()) else { return };
        for at in (0..self.shards.len() as u8).map(ShardId) {
            let Shard { location, env, .. } = &self.shards[usize::from(at.0)];
            let Some(to) = location.moved_from(had, Some(id), env) else {
                assert_eq!(had.shard(), at, "its owner alone knows that it is gone");
                continue;
            };
            self.assert_had(to, Some(id));
            if let (true, Some((flow, _))) = (at == home, self.phones[phone].bound)
                && found.is_some()
            {
                assert_eq!(to, flow, "its home knows");
            }
            let is_gone_here = to.is_stream() && to.shard() == at && !self.streams.contains_key(&to);
            assert!(!is_gone_here || !to.is_same(had), "a flow that is gone is no answer for itself");
        }
    }

    /// When no mail is under way: all shards agree.
    fn check_at_rest(&mut self) {
        for phone in 0..PHONES {
            let bound = self.phones[phone].bound;
            let now = bound.map(|(flow, _)| flow).filter(|flow| self.is_alive(*flow));
            if now.is_some_and(|flow| self.is_tight && !flow.is_stream()) {
                continue;
            }
            for had in self.phones[phone].trail.clone() {
                assert_eq!(self.follow(phone, had), now, "from {had:?}");
            }
            let found = if bound.is_some() { Found::Binding(self.id(phone)) } else { Found::Nobody };
            assert_eq!(self.look_up(phone, &Self::aor(phone), &format!("u{phone}")), found);
            assert_eq!(self.look_up(phone, &self.contact(phone), &format!("c{phone}")), found);
        }
        for (flow, is_whole) in &self.streams {
            let FlowRef::Stream { shard, conn, .. } = *flow else { continue };
            let carries = self.phones.iter().any(|phone| phone.bound.is_some_and(|(held, _)| held == *flow));
            assert_eq!(self.shards[usize::from(shard.0)].location.is_registered(conn), carries && *is_whole);
        }
    }

    /// Goes from owner to owner, and asks the home when there is no going on, as requests do.
    fn follow(&mut self, phone: usize, had: FlowRef) -> Option<FlowRef> {
        let (id, mut at) = (self.id(phone), had);
        for _ in 0..100 {
            let Shard { location, env, .. } = self.shard(at.shard());
            let is_gone = matches!(at, FlowRef::Stream { conn, .. } if !location.takes_requests(conn));
            match location.moved_from(at, Some(id), env).filter(|_| !is_gone) {
                Some(next) if next == at => return Some(at),
                Some(next) => at = next,
                None => {
                    return self.call(self.home(phone), |location, env, ports, _| location.find(id, None, env, ports));
                }
            }
        }
        panic!("it goes round in a circle")
    }

    fn look_up(&self, phone: usize, uri: &str, user: &str) -> Found {
        let text = format!(
            "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK1\r\nFrom: <sip:x@example.com>;tag=1\r\n\
             To: <{}>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
            Self::aor(phone)
        );
        let request = Message::scan(text.into_bytes(), false).expect("a request");
        let user = self.shards[0].env.keys.user16(user.as_bytes());
        let home = BindingId { user, hash: 0 }.home(self.shards.len() as u8);
        let Shard { location, env, .. } = &self.shards[usize::from(home.0)];
        location.look_up(&request, env, self.now, |_| false)
    }
}

#[test]
fn whatever_phones_do_each_is_found_where_it_is_and_every_table_empties() {
    for seed in 0..HISTORIES {
        let history = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            for flow in world.streams.keys().copied().collect::<Vec<_>>() {
                world.end(flow, false);
            }
            world.deliver_all();
            world.pass(1_000);
            world.deliver_all();
            world.check();
            assert!(world.asked.is_empty() && world.shards.iter().all(|shard| shard.location.is_empty()));
        });
        assert!(history.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_udp_flow_that_its_phone_has_left_is_remembered_and_no_longer_counted_as_registered() {
    let mut world = World::new(0);
    let (id, other) = (world.phones[0].id, FlowRef::Udp { shard: ShardId(0), point: UDP, remote: remote(2) });
    let Shard { location, ports, .. } = world.shard(ShardId(0));
    let seen = |flows: &super::flows::Flows, ports: &Ports| {
        let [opened, closed] = [Counter::FlowOpened, Counter::FlowClosed].map(|counter| ports.counters.of(counter));
        (flows.udp_registered_len(), flows.udp_len(), opened, closed)
    };
    assert!(location.flows.bind_udp(UDP, remote(1), id, Time(9), ports));
    assert_eq!(seen(&location.flows, ports), (1, 1, 1, 0));
    location.flows.unbind_udp(UDP, remote(1), id, Some(other), ports);
    assert_eq!(seen(&location.flows, ports), (0, 1, 1, 1));
    assert!(location.flows.bind_udp(UDP, remote(1), id, Time(9), ports));
    assert_eq!(seen(&location.flows, ports), (1, 1, 2, 1));
    location.flows.unbind_udp(UDP, remote(1), id, None, ports);
    assert_eq!(seen(&location.flows, ports), (0, 0, 2, 2));
}
