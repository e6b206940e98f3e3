//! The owner of the verdict on the SIP Servers: service checks (OPTIONS of ours), what other shards have seen, and the
//! names that are followed. One shard has it.
//!
//! Owns: the pool, whose rules are in [`crate::server_pool`]; the client transactions of the service checks; where the
//! peer proxies are. Must not touch: connections. Whoever drives it finds the flow that a check is sent on, and carries
//! out each [`Action`] that [`ServiceChecks::poll`] gives, after everything that it was told.
//!
//! DESIGN.md, The SIP Server side.

mod check;
mod names;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::io::Level;
use super::mail::Upstream;
use super::ports::{Env, KeyedState, Ports, Timer};
use crate::clock::Time;
use crate::config::engine::Settings;
use crate::config::{Host, PeerProxy, Server, ServerAddress};
use crate::dns::{Answer, Dns, NextHop, Target};
use crate::ids::{FlowRef, ShardId, Side};
use crate::proxy::Source;
use crate::proxy::trust::{self, SentTo, Whose};
use crate::server_pool::{
    Evidence, Member, MemberSettings, Output, PairSettings, PinFault, PingId, Pong, Pool, Settings as PoolSettings,
};
use crate::sip::Message;
use crate::stats::{Counter, PairRow};
use crate::wheel::TimerId;

use check::Check;
use names::{Watched, Watches};

/// Set in the numbers of waiters for what the owner of the verdict asks, which tells them from those of requests.
pub const WATCH: u64 = 1 << 63;

/// The shard that owns the verdict.
pub const OWNER: ShardId = ShardId(0);

/// What only the owner has.
#[derive(Debug)]
pub struct ServiceChecks {
    pool: Pool,
    /// The pool's next time in the wheel.
    timer: Option<(Time, TimerId)>,
    /// Those in the air, by the nonce of their branch.
    checks: HashMap<u64, Check, KeyedState>,
    watches: Watches,
    /// Of each peer proxy: where it is.
    peers: Vec<Vec<Target>>,
    /// They are elsewhere than the others know.
    peers_moved: bool,
}

/// What is to be done for it.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a service check to a server, whether or not it could be reached: [`ServiceChecks::send`] with the flow there,
    /// or [`ServiceChecks::lost`] when there is none.
    Send { id: PingId, pair: u8, address: SocketAddr },
    /// The verdict, for every shard.
    Verdict(Upstream),
}

impl ServiceChecks {
    pub fn new(settings: &Settings, state: KeyedState, now: Time) -> Self {
        let member = |at: &ServerAddress| match at {
            ServerAddress::Address(address) => MemberSettings::Address(*address),
            ServerAddress::Name(..) => MemberSettings::Name,
        };
        let pair = |server: &Server| PairSettings {
            name: server.name.as_str().into(),
            primary: member(&server.primary),
            backup: server.backup.as_ref().map(member),
        };
        let pool = PoolSettings {
            pairs: settings.servers.iter().map(pair).collect(),
            oos_check: settings.live.oos_check,
            oos_force: settings.live.oos_force,
        };
        // Those with a name come with DNS.
        let peer = |peer: &PeerProxy| match peer.contact {
            Host::Ip(ip) => {
                let address = SocketAddr::new(ip, peer.port());
                vec![Target { transport: peer.protocol, address, priority: 0, weight: 0 }]
            }
            Host::Name(_) => Vec::new(),
        };
        Self {
            pool: Pool::new(pool, now),
            timer: None,
            checks: HashMap::with_hasher(state),
            watches: Watches::new(settings, now),
            peers: settings.peers.iter().map(peer).collect(),
            peers_moved: false,
        }
    }

    /// The pairs for an operator.
    pub fn rows(&self, now: Time) -> Vec<PairRow> {
        self.pool.rows(now)
    }

    /// How many timers it has in the wheel, which run for ever.
    pub fn timers(&self) -> usize {
        let checks = self.checks.values().filter(|check| check.has_timer()).count();
        checks + usize::from(self.timer.is_some()) + usize::from(!self.watches.is_empty())
    }

    /// Where servers and peers are and which of them answer, as this owner sees it; every shard begins with it.
    pub fn upstream(&self) -> Upstream {
        Upstream { view: self.pool.view().clone(), peers: self.peers.clone() }
    }

    /// How many pairs answer, and how many there are.
    pub fn answering(&self) -> (usize, usize) {
        let pairs = &self.pool.view().pairs;
        (pairs.iter().filter(|pair| pair.outage.is_none()).count(), pairs.len())
    }

    // --- what follows ----------------------------------------------------------------------------------------

    /// The next thing to do; with `None` its time is in the wheel.
    pub fn poll(&mut self, ports: &mut Ports) -> Option<Action> {
        if std::mem::take(&mut self.peers_moved) {
            return Some(Action::Verdict(self.upstream()));
        }
        while let Some(output) = self.pool.poll_output() {
            match output {
                Output::Ping { ping: id, pair, address, .. } => {
                    if let Ok(pair) = u8::try_from(pair) {
                        return Some(Action::Send { id, pair, address });
                    }
                }
                Output::GiveUp { ping } => self.end(|check| check.id == ping, ports),
                Output::View => return Some(Action::Verdict(self.upstream())),
                Output::Say(event) => {
                    let line = self.pool.line(&event);
                    let level = if line.warn { Level::Warn } else { Level::Info };
                    ports.tell(level, line.what, None, line.about.as_bytes());
                }
                Output::Count(counter) => ports.count(counter),
            }
        }
        let due = self.pool.poll_timeout();
        if self.timer.map(|(at, _)| at) != due {
            if let Some((_, timer)) = self.timer.take() {
                ports.wheel.cancel(timer);
            }
            self.timer = due.map(|at| (at, ports.wheel.arm(at, Timer::Pool)));
        }
        None
    }

    // --- what is told ----------------------------------------------------------------------------------------

    pub fn on_pool_timer(&mut self, now: Time) {
        self.timer = None;
        self.pool.fire(now);
    }

    /// See [`Pool::note_late`].
    pub fn note_late(&mut self, until: Time) {
        self.pool.note_late(until);
    }

    /// What a shard has seen of a server.
    pub fn on_evidence(&mut self, pair: u8, address: SocketAddr, evidence: Evidence, now: Time) {
        let pair = usize::from(pair);
        match evidence {
            Evidence::Request => self.pool.on_request(pair, address, now),
            evidence => self.pool.on_evidence(pair, address, evidence, now),
        }
    }

    pub fn set_times(&mut self, oos_check: Duration, oos_force: Duration, now: Time) {
        self.pool.set_times(oos_check, oos_force, now);
    }

    /// Fixes which server of a pair is active, or leaves it to the rules again.
    ///
    /// # Errors
    /// There is no such pair, or no such member of it.
    pub fn pin(&mut self, pair: &str, member: Option<Member>, now: Time) -> Result<(), PinFault> {
        let pair = self.pool.pair_named(pair).ok_or(PinFault::Pair)?;
        self.pool.pin(pair, member, now)
    }

    // --- names -----------------------------------------------------------------------------------------------

    /// The names whose turn it is, by their index, to be looked up one after the other; `None` when none are followed.
    pub fn names_due(&mut self, now: Time) -> Option<Vec<usize>> {
        (!self.watches.is_empty()).then(|| self.watches.due(now))
    }

    /// Asks for a name as `waiter`. `None`: the answer comes later.
    pub fn look_up(&self, at: usize, waiter: u64, dns: &mut Dns, ports: &mut Ports, now: Time) -> Option<Answer> {
        dns.ask(self.watches.question(at)?, waiter, now, &mut ports.counters)
    }

    /// A name has been resolved, or not.
    pub fn on_answer(&mut self, at: usize, answer: Answer, env: &Env, ports: &mut Ports, now: Time) {
        match self.watches.on_answer(at, answer, &env.names, ports) {
            Some((Watched::Server(pair, member), targets)) => {
                self.pool.on_targets(usize::from(pair), member, &targets, now);
            }
            Some((Watched::Peer(peer), targets)) => {
                if let Some(place) = self.peers.get_mut(usize::from(peer)) {
                    *place = targets;
                }
                self.peers_moved = true;
            }
            _ => {}
        }
    }

    // --- service checks --------------------------------------------------------------------------------------

    /// A flow has been found for a check: what is to be sent on it.
    pub fn send(&mut self, id: PingId, to: NextHop, flow: FlowRef, env: &Env, ports: &mut Ports, now: Time) -> Vec<u8> {
        let (nonce, check) = Check::start(id, to, flow, env, ports, now);
        let bytes = ports.pool.copy(&check.bytes);
        self.checks.insert(nonce, check);
        bytes
    }

    /// Timer E of a check: what is to be sent again, and where.
    pub fn on_check_timer(
        &mut self,
        nonce: u64,
        env: &Env,
        ports: &mut Ports,
        now: Time,
    ) -> Option<(FlowRef, Vec<u8>)> {
        let check = self.checks.get_mut(&nonce)?;
        if !check.on_timer(env, ports, now) {
            return None;
        }
        ports.count(Counter::ResentRequest);
        Some((check.flow, ports.pool.copy(&check.bytes)))
    }

    /// A response to a service check. `false`: it does not come from where that was sent.
    pub fn on_response(
        &mut self,
        nonce: u64,
        message: &Message,
        source: &Source,
        ports: &mut Ports,
        now: Time,
    ) -> bool {
        let Some(check) = self.checks.get(&nonce) else {
            ports.count(Counter::ResponseStray);
            return true;
        };
        let sent_to = SentTo { flow: Some(check.flow), moved_to: None, whose: Whose::Server(check.to.address) };
        if !trust::may_answer(sent_to, source) {
            return false;
        }
        let (id, code) = (check.id, message.status().unwrap_or(0));
        ports.count(Counter::response_from(Side::Server, code));
        if code >= 200 {
            self.end(|one| one.id == id, ports);
            self.pool.on_pong(id, Pong::Status(code), now);
        }
        true
    }

    /// A check could not be sent, or no answer comes to it any more.
    pub fn lost(&mut self, id: PingId, evidence: Evidence, now: Time) {
        self.pool.on_pong(id, Pong::Lost(evidence), now);
    }

    /// Ends the checks that were sent on a flow that is gone, and gives them, each to be told [`ServiceChecks::lost`].
    pub fn end_those_on(&mut self, is_gone: impl Fn(FlowRef) -> bool, ports: &mut Ports) -> SmallVec<[PingId; 2]> {
        let ended = self.checks.values().filter(|check| is_gone(check.flow)).map(|check| check.id).collect();
        self.end(|check| is_gone(check.flow), ports);
        ended
    }

    fn end(&mut self, which: impl Fn(&Check) -> bool, ports: &mut Ports) {
        for (_, check) in self.checks.extract_if(|_, check| which(check)) {
            check.end(ports);
        }
    }

    /// What holds between two calls.
    pub fn check(&self) {
        let members = self.pool.view().pairs.iter().flat_map(|pair| &pair.members);
        let targets: usize = members.map(|member| member.targets.len()).sum();
        let mut ids: Vec<PingId> = self.checks.values().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), self.checks.len(), "a check was sent twice");
        assert!(ids.len() <= targets, "{} checks in the air for {targets} targets", ids.len());
        assert!(!self.peers_moved, "a verdict waits to be sent");
    }
}
