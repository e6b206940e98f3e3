//! Whether the servers of the pairs answer, and which one of each pair gets the requests.
//!
//! Owns: [`Pool`], the owner's machine, which one shard runs. It takes what was seen and heard (`on_*`), time
//! (`fire`), and gives pings to send, views to pass on and lines to write (`poll_output`). After each call its
//! caller polls until `None`. The rules of one pair are in `pair`. Must not touch: messages, and which target of
//! several a request goes to.
//!
//! # The rules
//!
//! ```text
//!                no target of the active one is up
//!    Watching -----------------------------------------> Searching
//!    ping the active one    <------------------------    ping the partner, then both in turn, every oos-force
//!    every oos-check         a 2xx: that one is active
//! ```
//!
//! - A request other than OPTIONS makes its sender active at once. There is no automatic return.
//! - An OPTIONS unanswered for `min(oos-check, oos-force)` is silence. After three quarters of that the partner is
//!   pinged too, so that its answer is there when silence is certain.
//! - A refused connection, an unreachable host, a connect timeout or a failed handshake is certain. A reset may be
//!   an idle close, and a 503 may mean this request alone: they are reasons to ping at once (and the partner with
//!   it), at most once in `PING_GAP`.
//! - 503, 408 and 504 to OPTIONS mean that it does not answer: the last two say that somebody before the server did.
//!   Any other final response is an answer of the *active* server, for many registrars take no OPTIONS. Of the
//!   *partner*, in a search, only a 2xx counts, unless nothing in this pair has ever answered 2xx.
//! - A target of the standby that is down is pinged every `oos-check`, so that the view tells when it is back. A
//!   standby that is not known to be down is left alone.
//! - A name's targets are pinged each on its own; the server answers while one of them does.
//! - With `oos-check = 0` nothing is pinged, resets and 503 mean nothing, and what is down is tried again after
//!   `oos-force`.
//!
//! Left out on purpose: counting failures before a switch (the transaction repeats its OPTIONS over UDP already).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::pair::{Pair, Rules, Times};
use super::{Event, Evidence, Line, Member, View};
use crate::clock::Time;
use crate::dns::Target;
use crate::stats::Counter;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberSettings {
    /// At this address.
    Address(SocketAddr),
    /// At what its name resolves to, which [`Pool::on_targets`] says.
    Name,
}

/// One pair of the settings.
#[derive(Clone, Debug)]
pub struct PairSettings {
    /// `name`.
    pub name: Box<str>,
    /// `primary`.
    pub primary: MemberSettings,
    /// `backup`, if there is one.
    pub backup: Option<MemberSettings>,
}

/// All that the pool is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In the order of the settings.
    pub pairs: Vec<PairSettings>,
    /// `oos-check`; zero: nothing is pinged.
    pub oos_check: Duration,
    /// `oos-force`; not zero.
    pub oos_force: Duration,
}

/// One ping. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PingId {
    pub(super) pair: usize,
    pub(super) serial: u64,
}

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// The code of its final response.
    Status(u16),
    /// The OPTIONS could not be sent, or its connection was lost.
    Lost(Evidence),
}

/// What the owner's shard is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an OPTIONS, and say what became of it with [`Pool::on_pong`].
    Ping {
        #[allow(missing_docs, reason = "see PingId")]
        ping: PingId,
        /// Index into the settings.
        pair: usize,
        /// Which server, for transport and verified name.
        member: Member,
        /// Where it goes.
        address: SocketAddr,
    },
    /// Nobody waits for this ping any more.
    GiveUp {
        #[allow(missing_docs, reason = "see PingId")]
        ping: PingId,
    },
    /// The view has changed: send it to every shard.
    View,
    /// Write [`Pool::line`] of it.
    Say(Event),
    /// Count it.
    Count(Counter),
}

/// Why a pin was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinFault {
    /// There is no such pair.
    Pair,
    /// The pair has no backup.
    Member,
}

/// What waits to be polled.
#[derive(Debug, Default)]
pub(super) struct Queue {
    outputs: VecDeque<Output>,
    view_changed: bool,
    serial: u64,
}

impl Queue {
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Views are not queued: the one that is polled is the newest.
    pub(super) fn view_changed(&mut self) {
        self.view_changed = true;
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    names: Vec<Box<str>>,
    times: Times,
    view: View,
    pairs: Vec<Pair>,
    queue: Queue,
    due: Option<Time>,
    /// Until when silence may be our own: answers wait too long here, or have found no room.
    late_until: Time,
}

impl Pool {
    /// Every primary counts as active; the first pings wait to be polled.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        let count = settings.pairs.len();
        let times = Times { check: settings.oos_check, force: settings.oos_force };
        let mut pool = Self {
            names: Vec::with_capacity(count),
            times,
            view: View::default(),
            pairs: Vec::with_capacity(count),
            queue: Queue::default(),
            due: None,
            late_until: Time(0),
        };
        for (at, settings) in settings.pairs.into_iter().enumerate() {
            let (pair, view) = Pair::new(&settings, at, count, times.checks(), now);
            pool.names.push(settings.name);
            pool.pairs.push(pair);
            pool.view.pairs.push(view);
        }
        pool.step(now);
        pool
    }

    /// `oos-check` and `oos-force` have changed; whether there are checks at all may not.
    pub fn set_times(&mut self, oos_check: Duration, oos_force: Duration, now: Time) {
        self.times = Times { check: oos_check, force: oos_force };
        for pair in &mut self.pairs {
            pair.keep_to(self.times, now);
        }
        self.plan();
    }

    /// A shard is overloaded, for so long at least: its answers may be those that do not come.
    pub fn note_late(&mut self, until: Time) {
        self.late_until = self.late_until.max(until);
    }

    /// The pairs of this moment.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// A pair's name.
    #[must_use]
    pub fn name(&self, pair: usize) -> &str {
        self.names.get(pair).map_or("", |name| name)
    }

    /// A pair by its name.
    #[must_use]
    pub fn pair_named(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| **known == *name)
    }

    /// Whether a pair has a backup.
    #[must_use]
    pub fn has_backup(&self, pair: usize) -> bool {
        self.pairs.get(pair).is_some_and(Pair::has_backup)
    }

    /// An event in words.
    #[must_use]
    pub fn line(&self, event: &Event) -> Line {
        event.line(self.name(event.pair()))
    }

    /// The name of a server has resolved; empty: it has no targets, or nobody could say. Targets that were there
    /// before keep what is known of them, new ones count as up, others are forgotten.
    pub fn on_targets(&mut self, pair: usize, member: Member, targets: &[Target], now: Time) {
        self.on(pair, now, |rules| rules.on_targets(member, targets));
    }

    /// What became of a ping. Ignored when nobody waits for it.
    pub fn on_pong(&mut self, ping: PingId, pong: Pong, now: Time) {
        self.on(ping.pair, now, |rules| rules.on_pong(ping, pong));
    }

    /// What a shard has seen of a server. Ignored when no server is there.
    pub fn on_evidence(&mut self, pair: usize, address: SocketAddr, evidence: Evidence, now: Time) {
        self.on(pair, now, |rules| rules.on_evidence(address, evidence));
    }

    /// A request other than OPTIONS came from a server. Costs little when that one is active and well.
    pub fn on_request(&mut self, pair: usize, address: SocketAddr, now: Time) {
        let known = self.view.pairs.get(pair).is_some_and(|view| {
            let here = |t: &super::TargetView| t.address == address && t.up;
            view.outage.is_none() && view.member(view.active).targets.iter().any(here)
        });
        if !known {
            self.on(pair, now, |rules| rules.on_serving(address, Evidence::Request));
        }
    }

    /// Fixes which server of a pair is active; with `None` the rules decide again.
    ///
    /// # Errors
    /// [`PinFault::Pair`] and [`PinFault::Member`] when there is no such one.
    pub fn pin(&mut self, pair: usize, member: Option<Member>, now: Time) -> Result<(), PinFault> {
        let pair_state = self.pairs.get(pair).ok_or(PinFault::Pair)?;
        if member == Some(Member::Backup) && !pair_state.has_backup() {
            return Err(PinFault::Member);
        }
        self.on(pair, now, |rules| rules.on_pin(member));
        Ok(())
    }

    /// When [`Pool::fire`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.due
    }

    /// Does what is due.
    pub fn fire(&mut self, now: Time) {
        if self.due.is_some_and(|due| due <= now) {
            self.step(now);
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.queue.outputs.pop_front().or_else(|| std::mem::take(&mut self.queue.view_changed).then_some(Output::View))
    }

    /// Applies something to a pair, and lets its rules draw the consequences.
    fn on(&mut self, pair: usize, now: Time, what: impl FnOnce(&mut Rules<'_>)) {
        let (Some(state), Some(view)) = (self.pairs.get_mut(pair), self.view.pairs.get_mut(pair)) else { return };
        let is_late = now < self.late_until;
        let mut rules = Rules { at: pair, pair: state, view, times: self.times, is_late, queue: &mut self.queue, now };
        what(&mut rules);
        rules.settle();
        self.plan();
    }

    fn step(&mut self, now: Time) {
        let is_late = now < self.late_until;
        for (at, (pair, view)) in self.pairs.iter_mut().zip(&mut self.view.pairs).enumerate() {
            let mut rules = Rules { at, pair, view, times: self.times, is_late, queue: &mut self.queue, now };
            rules.step();
            rules.settle();
        }
        self.plan();
    }

    fn plan(&mut self) {
        self.due = self.pairs.iter().zip(&self.view.pairs).filter_map(|(pair, view)| pair.due(view, self.times)).min();
    }
}
