//! What one shard owns, in one cell that is never borrowed across an await: the engine, its connections with
//! their TLS sessions, what waits to be sent, and the buffers that all of them share.
//!
//! The tasks of [`super::tasks`] wait for readiness and call in here; nothing here waits. Input goes to the
//! engine where it is read; what the engine wants done is carried out once for each [`pass`](super::pass).

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::Sender;
use slab::Slab;

use super::clock::Clock;
use super::conn::{Arrival, Conn, Key};
use super::draining::Draining;
use super::handshakes::Handshakes;
use super::mailbox::{Inbox, Post};
use super::parked::Parked;
use super::progress::Watches;
use super::reporter::Reporter;
use super::resolving::{Ask, Resolving};
use super::shared::{Control, Shared};
use crate::clock::Time;
use crate::engine::{CloseReason, Engine, Event, Input, Level, Mail, Settings};
use crate::ids::{ConnId, PointId, ShardId};
use crate::limits::{
    BATCHES_PER_PASS_MAX, BULK_READS_PER_PASS_MAX, HANDSHAKE_STEPS_PER_PASS_MAX, PANIC_WINDOW, PANICS_COUNT_MAX,
};
use crate::stats::Counter;
use crate::sys::batch::{BATCH_COUNT_MAX, RecvBatch};
use crate::tls::Tls;
use crate::transport::stream::{SCRATCH_LEN, Waiting};
use crate::transport::stun::{self, Stun};
use crate::transport::udp::{self, Outgoing};

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
    pub(super) udp: Vec<Option<Outgoing>>,
    pub(super) listeners: Vec<socket2::Socket>,
    pub(super) post: Post,
    pub(super) inbox: Inbox,
    pub(super) controls: crossbeam_channel::Receiver<Control>,
    /// Lent out while it is read.
    batch: Option<RecvBatch>,
    /// Lent out while mail is read.
    pub(super) mails: Vec<(ShardId, Mail)>,
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
    /// Connections that send more than a read takes, and wait for a later pass.
    pub(super) bulky: VecDeque<Key>,
    pub(super) reporter: Reporter,
    panics: VecDeque<Time>,
    pub(super) inputs: u32,
    pub(super) dirty: bool,
    pub(super) drained: Option<Sender<()>>,
    pub(super) draining: Option<Draining>,
    pub(super) stopped: bool,
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

    /// Reports an event with the fixed words of its reason.
    pub(super) fn say_why(
        &mut self,
        what: &'static str,
        reason: &'static str,
        peer: Option<SocketAddr>,
        about: String,
    ) {
        self.report(&Event { level: Level::Warn, what, reason, peer, about });
    }

    pub(super) fn report(&mut self, event: &Event) {
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
    pub(super) fn close_listeners(&mut self) {
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

    pub(super) fn push_datagram(&mut self, point: PointId, to: SocketAddr, bytes: Vec<u8>) {
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
