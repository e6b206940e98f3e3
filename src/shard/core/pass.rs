//! The end of a turn: mail and orders in, timers fired, what the engine wants carried out, everything flushed once.
//!
//! Owns: the order of these. Must not touch: what becomes of a connection, which is for [`super::connection`],
//! [`super::sending`] and [`super::arrivals`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Core;
use super::conn::Opening;
use super::draining::Draining;
use crate::clock::Time;
use crate::dns;
use crate::driver::Driver;
use crate::engine::{Input, Output};
use crate::ids::FlowRef;
use crate::limits::MAILS_PER_PASS_MAX;
use crate::shard::mailbox::Posted;
use crate::shard::shared::{Control, Orders};
use crate::stats::{Counter, Gauge, Snapshot};
use crate::tls::identity::Identities;

/// When something waits for room that nobody announces (a full socket, a full mailbox), it is tried again after
/// this.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(1);
/// Rounds of one pass, in each of which what the flush brought about (closed connections) is carried out.
const ROUNDS_MAX: usize = 8;
/// Inputs of a pass from which on a gathering pause is worth its latency.
const GATHER_INPUTS_MIN: u32 = 4;

/// What a pass leaves to its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    /// When the next one is due if nothing happens before.
    pub due: Option<Time>,
    /// Whether enough came in for a gathering pause to pay.
    pub gather: bool,
}

impl<D: Driver> Core<D> {
    /// The shard runs, if only since the watchdog has woken it.
    fn ran(&self) {
        self.shared.set_ran(self.driver.now());
    }

    /// Takes mail, and the questions and orders of plain threads.
    fn read_mail(&mut self) {
        let mut mails = std::mem::take(&mut self.mails);
        let taken = self.inbox.drain(MAILS_PER_PASS_MAX, |from, mail| mails.push((from, mail)));
        self.engine.counters_mut().add(Counter::MailReceived, taken as u64);
        for (from, mail) in mails.drain(..) {
            self.input(Input::Mail { from, mail });
        }
        self.mails = mails;
        while let Ok(control) = self.controls.try_recv() {
            self.control(control);
        }
        if let Some(orders) = self.shared.take_orders() {
            self.carry_out_orders(orders);
        }
    }

    fn control(&mut self, control: Control) {
        // An asker that gave up has dropped its end.
        match control {
            Control::Snapshot(reply) => drop(reply.try_send(self.snapshot())),
            Control::Pairs(reply) => drop(reply.try_send(self.engine.pairs(self.driver.now()))),
            Control::Locate(aor, reply) => drop(reply.try_send(self.engine.locate(&aor, self.driver.now()))),
            Control::Pin(pair, member, reply) => {
                self.dirty = true;
                let pinned = self.engine.pin(&pair, member, self.driver.now());
                let _ = reply.try_send(pinned);
            }
            Control::Bans(reply) => drop(reply.try_send(self.engine.bans(self.driver.now()))),
            Control::Unban(source, reply) => {
                self.dirty = true;
                let was_out = self.engine.pardon(source, self.driver.now());
                let _ = reply.try_send(was_out);
            }
            Control::Certificates(flows, reply) => {
                let names = |flow: &FlowRef| self.engine.identities_of(*flow).map(Identities::words);
                let shown = flows.iter().enumerate().filter_map(|(at, flow)| Some((at, names(flow)?)));
                drop(reply.try_send(shown.collect()));
            }
        }
    }

    fn carry_out_orders(&mut self, orders: Orders) {
        if let Some(live) = orders.live {
            self.input(Input::Live(live));
        }
        if let Some(tls) = orders.tls {
            self.tls = *tls;
            self.dirty = true;
            self.engine.pardon_all(self.driver.now());
        }
        if orders.shrink {
            self.shrink();
        }
        if let Some(reply) = orders.drain {
            self.draining = Some(Draining::default());
            self.drained = Some(reply);
            self.close_listeners();
            self.input(Input::Drain);
        }
        if orders.stop {
            self.close_listeners();
            self.close_all();
            self.reporter.tell_left_out();
            self.stopped = true;
            self.dirty = true;
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let nudges = self.shared.take_nudges();
        self.engine.counters_mut().add(Counter::StallsNudged, nudges);
        self.count_lost_datagrams();
        let mut snapshot = self.engine.snapshot();
        snapshot.upstreams = self.engine.upstreams(self.driver.now());
        snapshot.gauges.set_len(Gauge::MailboxLength, self.inbox.len());
        snapshot.gauges.set_len(Gauge::HandshakesInProgress, self.handshakes.len());
        snapshot.gauges.set_len(Gauge::HandshakesParked, self.parked.len());
        snapshot.gauges.set_len(Gauge::ProxyHeadersAwaited, self.awaited.len());
        snapshot.gauges.set_len(Gauge::SendQueueBytes, self.waiting.len());
        snapshot
    }

    /// One pass: fire what is due, carry out what the engine wants, flush once, wake other shards once.
    pub(super) fn pass(&mut self) -> Passed {
        self.ran();
        self.shared.beat();
        self.count(Counter::Passes);
        // A heartbeat means that mail was read too.
        self.read_mail();
        self.dirty = false;
        let now = self.driver.now();
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            let Self { engine, .. } = self;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| engine.fire(now))) {
                self.on_panic(panic.as_ref());
            }
        }
        let unparks = self.unpark(now);
        self.reporter.fire(now);
        self.look_at_progress(now);
        self.expire_lingers(now);
        let mut waits = false;
        for _ in 0..ROUNDS_MAX {
            let did = self.carry_out();
            let told;
            (waits, told) = self.flush_datagrams();
            let flushed = self.flush_conns();
            if !did && !flushed && !told {
                // What was put in meanwhile has been carried out too.
                self.dirty = false;
                break;
            }
        }
        waits |= self.post.retry();
        let woken = self.post.wake();
        self.engine.counters_mut().add(Counter::MailWakes, woken);
        self.resume_deferred();
        let drained = self.tell_drained(now);
        let retry = (waits || self.dirty).then(|| now.after(RETRY_AFTER));
        let told = self.reporter.due();
        let accepts = self.accepts_at(now);
        let (engine, shakes) = (self.engine.poll_timeout(), self.deferred.due());
        let due = [engine, self.next_expiry(), retry, drained, unparks, told, accepts, shakes];
        let due = due.into_iter().flatten().min();
        self.shared.set_due(due.map(|due| due.0));
        if let Some((answering, all)) = self.engine.pairs_answering() {
            self.shared.set_pairs(answering, all);
        }
        self.shared.set_held(self.engine.held_len());
        Passed { due, gather: std::mem::take(&mut self.inputs) >= GATHER_INPUTS_MIN }
    }

    /// Says when to look again, if time alone is waited for.
    fn tell_drained(&mut self, now: Time) -> Option<Time> {
        let done = self.draining.as_mut()?.done_at(self.engine.in_flight(), now)?;
        if done > now {
            return Some(done);
        }
        // Told once. Nobody listens any more when the time for draining is over.
        let _ = self.drained.take().is_some_and(|reply| reply.try_send(()).is_ok());
        None
    }

    /// Carries out all outputs; says whether there were any.
    pub(super) fn carry_out(&mut self) -> bool {
        let mut did = false;
        loop {
            let Self { engine, .. } = self;
            match catch_unwind(AssertUnwindSafe(|| engine.poll_output())) {
                Ok(None) => return did,
                Ok(Some(output)) => self.output(output),
                Err(panic) => {
                    self.on_panic(panic.as_ref());
                    return did;
                }
            }
            did = true;
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Datagram { point, to, bytes } => self.push_datagram(point, to, bytes),
            Output::Bytes { conn, bytes } => self.push_bytes(conn, bytes),
            Output::Connect { conn, point, transport, to, side, tls } => {
                self.connect(conn, Opening { point, transport, to, side, tls });
            }
            Output::Close { conn, reason } => self.close(conn, reason),
            Output::Mail { to, mail } => match self.post.post(to, mail) {
                Posted::Sent => self.count(Counter::MailSent),
                Posted::Waits => self.count(Counter::MailWaited),
                Posted::Refused(mail) => {
                    self.count(Counter::MailRefused);
                    self.input(Input::MailRefused { mail });
                }
            },
            Output::Dns(dns::Output::Send { exchange, to, tcp, bytes }) => {
                self.ask(exchange, to, tcp, &bytes);
            }
            Output::Dns(dns::Output::Done { exchange }) => self.resolving.end(exchange),
            // The engine keeps these.
            Output::Dns(dns::Output::Found { .. }) => {}
            Output::Event(event) => self.report(&event),
        }
    }
}
