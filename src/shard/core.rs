//! What one shard owns, in one cell that is never borrowed across an await: the engine, its connections with
//! their TLS sessions, what waits to be sent, and the buffers that all of them share.
//!
//! The tasks of [`super::tasks`] wait for readiness and call in here; nothing here waits. Input goes to the
//! engine where it is read; what the engine wants done is carried out once for each pass.

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use slab::Slab;

use super::arrivals::Arrival;
use super::connection::{Conn, Key, Opening};
use super::handshakes::Handshakes;
use super::mailbox::{Inbox, Post, Posted};
use super::parked::Parked;
use super::progress::Watches;
use super::reporter::Reporter;
use super::resolving::{Ask, Resolving};
use super::shared::{Control, Orders, Shared};
use crate::clock::Time;
use crate::dns;
use crate::engine::{CloseReason, Engine, Event, Input, Level, Mail, Output, Settings};
use crate::ids::{ConnId, FlowRef, PointId, ShardId};
use crate::limits::{
    BATCHES_PER_PASS_MAX, BULK_READS_PER_PASS_MAX, HANDSHAKE_STEPS_PER_PASS_MAX, MAILS_PER_PASS_MAX, PANIC_WINDOW,
    PANICS_COUNT_MAX,
};
use crate::stats::{Counter, Gauge, Snapshot};
use crate::sys::batch::{BATCH_COUNT_MAX, RecvBatch};
use crate::tls::Tls;
use crate::tls::identity::Identities;
use crate::transport::stream::{SCRATCH_LEN, Waiting};
use crate::transport::stun::{self, Stun};
use crate::transport::udp::{self, Outgoing, Unsent};

/// When something waits for room that nobody announces (a full socket, a full mailbox), it is tried again after
/// this.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(1);
/// Rounds of one pass, in each of which what the flush brought about (closed connections) is carried out.
const ROUNDS_MAX: usize = 8;
/// How long a shard that drains waits after the end of the last transaction, for the ACK behind it.
const DRAIN_SETTLE: Duration = Duration::from_millis(200);
/// Inputs of a pass from which on a gathering pause is worth its latency.
const GATHER_INPUTS_MIN: u32 = 4;

/// The clock that all shards of a process share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The present moment.
    #[must_use]
    pub fn now(self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// From now until then.
    pub(super) fn until(self, then: Time) -> Duration {
        then.since(self.now())
    }
}

/// What a pass leaves to its task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    /// When the next one is due if nothing happens before.
    pub due: Option<Time>,
    /// Whether enough came in for a gathering pause to pay.
    pub gather: bool,
}

pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    pub(super) conns: Slab<Conn>,
    /// The connection that an engine's slot stands for.
    pub(super) by_slot: Vec<Option<Key>>,
    pub(super) serial: u64,
    /// Of all connections.
    pub(super) waiting: Waiting,
    pub(super) tls: Tls,
    pub(super) tos: u32,
    /// By point; `None` where it is no UDP point.
    udp: Vec<Option<Outgoing>>,
    listeners: Vec<socket2::Socket>,
    post: Post,
    inbox: Inbox,
    controls: crossbeam_channel::Receiver<Control>,
    /// Lent out while it is read.
    batch: Option<RecvBatch>,
    /// The same, for mails.
    mails: Vec<(ShardId, Mail)>,
    pub(super) scratch: Box<[u8]>,
    /// The shard's buffer for records.
    pub(super) lent: Vec<u8>,
    pub(super) to_flush: Vec<Key>,
    pub(super) to_spawn: Vec<Key>,
    pub(super) resolving: Resolving,
    pub(super) to_resolve: Vec<Ask>,
    pub(super) watches: Watches,
    /// In the order of time: connections that wait for the peer's FIN.
    pub(super) lingers: VecDeque<(Time, Key)>,
    pub(super) handshakes: Handshakes,
    /// Connections whose source has as many of them as it may have.
    pub(super) parked: Parked<Arrival>,
    pub(super) handshake_steps_left: usize,
    /// Handshakes that wait for a later pass.
    pub(super) deferred: VecDeque<Key>,
    pub(super) bulk_reads_left: usize,
    /// The same, of connections that send more than a read takes.
    pub(super) bulky: VecDeque<Key>,
    pub(super) reporter: Reporter,
    panics: VecDeque<Time>,
    inputs: u32,
    pub(super) dirty: bool,
    drained: Option<Sender<()>>,
    draining: Option<Draining>,
    stopped: bool,
}

/// How far a drain has come. What was in flight may have an ACK behind it, which is no transaction: the last end is
/// waited out for a moment.
#[derive(Debug, Default)]
struct Draining {
    was_busy: bool,
    quiet_since: Option<Time>,
}

impl Draining {
    /// When it is done, as far as is known now: at once for a shard that had nothing in flight, never for one that has.
    fn done_at(&mut self, in_flight: usize, now: Time) -> Option<Time> {
        if in_flight > 0 {
            *self = Self { was_busy: true, quiet_since: None };
            return None;
        }
        let since = *self.quiet_since.get_or_insert(now);
        Some(if self.was_busy { since.after(DRAIN_SETTLE) } else { since })
    }
}

/// What a panic says.
pub(super) type Panic = Box<dyn Any + Send>;

/// Hands an input to an engine, and catches its panic. What the engine is lent is borrowed beside it, not taken out of
/// the core: nothing has to be put back.
pub(super) fn hand(engine: &mut Engine, input: Input<'_>, now: Time) -> Result<(), Panic> {
    catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        super::tests::panic_if_asked(&input);
        engine.handle(input, now);
    }))
}

/// What a core is made from.
pub(super) struct Parts {
    pub settings: Settings,
    pub clock: Clock,
    pub shared: Arc<Shared>,
    pub tls: Tls,
    pub tos: u32,
    pub udp: Vec<Option<Outgoing>>,
    pub listeners: Vec<socket2::Socket>,
    pub post: Post,
    pub inbox: Inbox,
    pub controls: crossbeam_channel::Receiver<Control>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let reporter = Reporter::new(parts.settings.shard);
        Self {
            engine: Engine::new(parts.settings, parts.clock.now()),
            clock: parts.clock,
            shared: parts.shared,
            conns: Slab::new(),
            by_slot: Vec::new(),
            serial: 0,
            waiting: Waiting::default(),
            tls: parts.tls,
            tos: parts.tos,
            udp: parts.udp,
            listeners: parts.listeners,
            post: parts.post,
            inbox: parts.inbox,
            controls: parts.controls,
            batch: None,
            mails: Vec::new(),
            scratch: vec![0; SCRATCH_LEN].into_boxed_slice(),
            lent: Vec::new(),
            to_flush: Vec::new(),
            to_spawn: Vec::new(),
            resolving: Resolving::default(),
            to_resolve: Vec::new(),
            watches: Watches::default(),
            lingers: VecDeque::new(),
            handshakes: Handshakes::default(),
            parked: Parked::default(),
            handshake_steps_left: HANDSHAKE_STEPS_PER_PASS_MAX,
            deferred: VecDeque::new(),
            bulk_reads_left: BULK_READS_PER_PASS_MAX,
            bulky: VecDeque::new(),
            reporter,
            panics: VecDeque::new(),
            inputs: 0,
            dirty: false,
            drained: None,
            draining: None,
            stopped: false,
        }
    }

    /// Whether something was done since the last call that asks for a pass.
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn set_dirty(&mut self) {
        self.dirty = true;
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn count(&mut self, counter: Counter) {
        self.engine.counters_mut().count(counter);
    }

    pub(super) fn say(&mut self, what: &'static str, peer: Option<SocketAddr>, about: String) {
        self.say_why(what, "", peer, about);
    }

    /// The same with the fixed words of the reason.
    pub(super) fn say_why(
        &mut self,
        what: &'static str,
        reason: &'static str,
        peer: Option<SocketAddr>,
        about: String,
    ) {
        self.report(&Event { level: Level::Warn, what, reason, peer, about });
    }

    fn report(&mut self, event: &Event) {
        let now = self.clock.now();
        if !self.reporter.report(event, now) {
            self.count(Counter::LogSuppressed);
        }
    }

    /// Hands an input to the engine. `false` when that panicked: the panic is counted, and a connection that the
    /// input came from has to be closed.
    pub(super) fn input(&mut self, input: Input<'_>) -> bool {
        let handled = hand(&mut self.engine, input, self.clock.now());
        self.handled(handled)
    }

    /// What came of an input that was handed to the engine; as [`Core::input`].
    pub(super) fn handled(&mut self, result: Result<(), Panic>) -> bool {
        self.inputs += 1;
        self.dirty = true;
        match result {
            Ok(()) => true,
            Err(panic) => {
                self.on_panic(panic.as_ref());
                false
            }
        }
    }

    /// Takes one step of a connection. A panic in it (of rustls, or of what verifies a certificate) closes this one and
    /// leaves everything else as it was.
    pub(super) fn guarded(&mut self, key: Key, step: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(self))) {
            self.on_panic(panic.as_ref());
            self.lost(key, CloseReason::Panic);
        }
    }

    /// Counts a panic, and lets the engine put right what it may have cut short; repeated ones take the shard out of
    /// service.
    pub(super) fn on_panic(&mut self, panic: &(dyn Any + Send)) {
        let now = self.clock.now();
        let Self { engine, .. } = self;
        // A second one leaves things as they are, which is no worse.
        let _ = catch_unwind(AssertUnwindSafe(|| engine.recover()));
        self.count(Counter::Panics);
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let about = text.unwrap_or("no message").to_owned();
        self.say("a panic was caught while a message was handled: this is a fault of Hawser", None, about);
        self.panics.push_back(now);
        while self.panics.front().is_some_and(|first| now.since(*first) > PANIC_WINDOW) {
            self.panics.pop_front();
        }
        if self.panics.len() >= PANICS_COUNT_MAX && self.shared.in_service() {
            self.shared.leave_service();
            self.close_listeners();
            log::error!(
                "shard {}: {PANICS_COUNT_MAX} panics within {} s: it takes no new connections any more; restart \
                 Hawser and report what the log says above",
                self.engine.settings().shard.0,
                PANIC_WINDOW.as_secs(),
            );
        }
    }

    /// Ends the permanent accept tasks: their accept fails from now on.
    fn close_listeners(&mut self) {
        for listener in self.listeners.drain(..) {
            // What fails here is a listener that is closed already.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Reads what a UDP socket holds, within bounds; says whether there may be more.
    pub(super) fn receive(&mut self, point: PointId, fd: std::os::fd::RawFd) -> bool {
        let mut batch = self.batch.take().unwrap_or_default();
        let more = self.receive_into(&mut batch, point, fd);
        self.batch = Some(batch);
        more
    }

    fn receive_into(&mut self, batch: &mut RecvBatch, point: PointId, fd: std::os::fd::RawFd) -> bool {
        for _ in 0..BATCHES_PER_PASS_MAX {
            let result = batch.recv(fd);
            let count = *result.as_ref().unwrap_or(&0);
            for at in 0..count {
                if let Some((from, bytes)) = batch.datagram(at) {
                    self.datagram(point, from, bytes);
                }
            }
            match result {
                Ok(BATCH_COUNT_MAX) => {}
                Ok(_) => return false,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.icmp(fd),
            }
        }
        true
    }

    fn datagram(&mut self, point: PointId, from: SocketAddr, bytes: &[u8]) {
        match bytes {
            b"\r\n\r\n" => {
                self.count(Counter::KeepalivePing);
                self.push_datagram(point, from, b"\r\n".to_vec());
            }
            // An answer to nothing of ours, or half a ping.
            b"\r\n" | b"" => {}
            _ => {
                let mut answer = Vec::new();
                match stun::respond(bytes, from, &mut answer) {
                    Stun::No => {
                        self.input(Input::Datagram { point, from, bytes });
                    }
                    Stun::Answered => {
                        self.count(Counter::KeepaliveStun);
                        self.push_datagram(point, from, answer);
                    }
                    Stun::Dropped => {}
                }
            }
        }
    }

    fn push_datagram(&mut self, point: PointId, to: SocketAddr, bytes: Vec<u8>) {
        self.dirty = true;
        match self.udp.get_mut(usize::from(point.0)) {
            Some(Some(udp)) => udp.push(to, bytes),
            _ => self.engine.recycle(bytes),
        }
    }

    /// Tells the engine which destinations the system says cannot be reached.
    pub(super) fn icmp(&mut self, fd: std::os::fd::RawFd) {
        udp::drain_errors(fd, |to| {
            self.input(Input::Unreachable { to });
        });
    }

    /// The shard runs: a pass, or the mailbox task that the watchdog wakes now and then.
    fn ran(&self) {
        self.shared.set_ran(self.clock.now());
    }

    /// Takes mail, and the questions and orders of plain threads; says whether more may wait.
    pub(super) fn read_mail(&mut self) -> bool {
        self.ran();
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
        !self.inbox.is_empty()
    }

    fn control(&mut self, control: Control) {
        // An asker that gave up has dropped its end.
        match control {
            Control::Snapshot(reply) => drop(reply.try_send(self.snapshot())),
            Control::Pairs(reply) => drop(reply.try_send(self.engine.pairs(self.clock.now()))),
            Control::Locate(aor, reply) => drop(reply.try_send(self.engine.locate(&aor, self.clock.now()))),
            Control::Pin(pair, member, reply) => {
                self.dirty = true;
                let pinned = self.engine.pin(&pair, member, self.clock.now());
                let _ = reply.try_send(pinned);
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
        let lost = self.udp.iter_mut().flatten().map(Outgoing::lost_count).sum();
        self.engine.counters_mut().add(Counter::DatagramsLost, lost);
        let mut snapshot = self.engine.snapshot();
        snapshot.upstreams = self.engine.upstreams(self.clock.now());
        snapshot.gauges.set_len(Gauge::MailboxLength, self.inbox.len());
        snapshot.gauges.set_len(Gauge::HandshakesInProgress, self.handshakes.len());
        snapshot.gauges.set_len(Gauge::HandshakesParked, self.parked.len());
        snapshot.gauges.set_len(Gauge::SendQueueBytes, self.waiting.len());
        snapshot
    }

    /// One pass: fire what is due, carry out what the engine wants, flush once, wake other shards once.
    pub(super) fn pass(&mut self) -> Passed {
        self.ran();
        self.shared.beat();
        self.shared.set_asked(false);
        self.count(Counter::Passes);
        // So that a heartbeat means that mail was read too: a wake of the mailbox task that is lost then costs no
        // more than the time to the next pass, or the watchdog's two looks.
        if !self.inbox.is_empty() || self.shared.has_orders() {
            self.read_mail();
        }
        self.dirty = false;
        let now = self.clock.now();
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
        let retry =
            (waits || self.dirty || !self.deferred.is_empty() || !self.bulky.is_empty() || !self.inbox.is_empty())
                .then(|| now.after(RETRY_AFTER));
        let told = self.reporter.due();
        let due = [self.engine.poll_timeout(), self.next_expiry(), retry, drained, unparks, told];
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
                self.resolving.begin(exchange);
                self.to_resolve.push(Ask { exchange, to, tcp, bytes });
            }
            Output::Dns(dns::Output::Done { exchange }) => self.resolving.end(exchange),
            // The engine keeps these.
            Output::Dns(dns::Output::Found { .. }) => {}
            Output::Event(event) => self.report(&event),
        }
    }

    /// Says whether datagrams wait for room, and whether the engine was told of some that came back.
    fn flush_datagrams(&mut self) -> (bool, bool) {
        let (mut waits, mut told) = (false, false);
        for at in 0..self.udp.len() {
            let Self { udp, engine, .. } = self;
            let Some(out) = &mut udp[at] else { continue };
            let (mut named, mut unsent) = (Vec::new(), Vec::new());
            let flushed = out.flush(|bytes| engine.recycle(bytes), |to| named.push(to), |one| unsent.push(one));
            engine.counters_mut().add(Counter::DatagramSendError, flushed.dropped);
            engine.counters_mut().add(Counter::DatagramSocketFull, flushed.overflowed);
            engine.counters_mut().add(Counter::LimitDatagramsWaitingCount, flushed.overflowed);
            waits |= flushed.waiting;
            told |= !named.is_empty() || !unsent.is_empty();
            for to in named {
                self.input(Input::Unreachable { to });
            }
            for Unsent { to, bytes, fault } in unsent {
                self.input(Input::Unsent { to, bytes: &bytes, fault });
                self.engine.recycle(bytes);
            }
        }
        (waits, told)
    }

    /// Forgets which connection a slot stands for, if it still is this one.
    pub(super) fn free_slot(&mut self, id: ConnId, key: Key) {
        if let Some(slot) = self.by_slot.get_mut(id.slot as usize)
            && *slot == Some(key)
        {
            *slot = None;
        }
    }

    /// Tells the engine that a connection is gone.
    pub(super) fn tell_closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.input(Input::Closed { conn, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_waits_for_the_ack_behind_the_last_transaction_and_an_idle_one_for_nothing() {
        let at = |ms: u64| Time(ms * 1_000);
        assert_eq!(Draining::default().done_at(0, at(5)), Some(at(5)));
        let mut draining = Draining::default();
        assert_eq!(draining.done_at(2, at(10)), None);
        assert_eq!(draining.done_at(0, at(900)), Some(at(900).after(DRAIN_SETTLE)));
        assert_eq!(draining.done_at(1, at(950)), None, "a BYE came meanwhile");
        assert_eq!(draining.done_at(0, at(1_000)), Some(at(1_000).after(DRAIN_SETTLE)));
        assert_eq!(draining.done_at(0, at(1_100)), Some(at(1_000).after(DRAIN_SETTLE)));
    }
}
