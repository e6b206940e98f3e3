//! What one shard owns: the engine, its connections with their TLS sessions, what waits to be sent, and the buffers that
//! all of them share. Names no socket and no executor: it stands on a [`Driver`].
//!
//! A loop of `driver` waits for readiness and calls in by [`turn`]; nothing here waits. Input goes to the engine where it
//! is read (`reading`, `arrivals`, `datagrams`, `resolving`); what the engine wants done is carried out once for each
//! turn, by its `pass`.

mod arrivals;
mod awaited;
mod conn;
mod connection;
mod datagrams;
mod deferred;
mod draining;
mod ends;
mod exchanges;
mod forwarded;
mod handshakes;
mod parked;
mod pass;
mod points;
mod progress;
mod reading;
mod resolving;
mod sending;
#[cfg(test)]
pub(super) mod tests;
mod turn;

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use slab::Slab;

use self::awaited::Awaited;
use self::conn::{Arrival, Conn, Key};
use self::deferred::Deferred;
use self::draining::Draining;
use self::exchanges::Exchanges;
use self::handshakes::Handshakes;
use self::parked::Parked;
use self::points::{Listening, Point};
use self::progress::Watches;
use super::mailbox::{self, Inbox, Post};
use super::reporter::Reporter;
use super::shared::{Control, Handle, Shared};
use crate::clock::Time;
use crate::driver::{Clock, Driver};
use crate::engine::{CloseReason, Engine, Event, Input, Level, Mail, Settings};
use crate::ids::{ConnId, PointId, ShardId, Transport};
use crate::limits::{BULK_READS_PER_PASS_MAX, PANIC_WINDOW, PANICS_COUNT_MAX};
use crate::stats::Counter;
use crate::sys::batch::RecvBatch;
use crate::tls::Tls;
use crate::transport::stream::{SCRATCH_LEN, Waiting};

/// A shard, over what it stands on.
pub struct Core<D: Driver> {
    engine: Engine,
    driver: D,
    shared: Arc<Shared>,
    conns: Slab<Conn<D::Stream>>,
    /// The connection that an engine's slot stands for.
    by_slot: Vec<Option<Key>>,
    serial: u32,
    /// Of all connections.
    waiting: Waiting,
    tls: Tls,
    /// The UDP points.
    udp: Vec<Point<D::Datagrams>>,
    /// The TCP and TLS points.
    listeners: Vec<Listening<D::Stream>>,
    post: Post,
    inbox: Inbox,
    controls: Receiver<Control>,
    /// Lent out while it is read.
    batch: Option<Box<RecvBatch>>,
    /// Lent out while mail is read.
    mails: Vec<(ShardId, Mail)>,
    scratch: Box<[u8]>,
    /// The shard's buffer for records.
    lent: Vec<u8>,
    to_flush: Vec<Key>,
    /// Connections that have more to be read, in the next turn.
    to_read: Vec<Key>,
    resolving: Exchanges<D::Question>,
    watches: Watches,
    /// In the order of time: connections that wait for the peer's FIN.
    lingers: VecDeque<(Time, Key)>,
    handshakes: Handshakes,
    /// Connections whose source has as many of them as it may have.
    parked: Parked<Arrival<D::Stream>>,
    awaited: Awaited<D::Stream>,
    /// Handshakes that wait for a later turn.
    deferred: Deferred,
    bulk_reads_left: usize,
    /// Connections that send more than a read takes, and wait for a later turn.
    bulky: VecDeque<Key>,
    reporter: Reporter,
    panics: VecDeque<Time>,
    inputs: u32,
    dirty: bool,
    drained: Option<Sender<()>>,
    draining: Option<Draining>,
    stopped: bool,
    /// When a shard that has been stopped ends at the latest.
    stops_at: Option<Time>,
}

/// What a panic says.
type Panic = Box<dyn Any + Send>;

/// Hands an input to an engine, and catches its panic. What the engine is lent is borrowed beside it, not taken out of
/// the core: nothing has to be put back.
fn hand(engine: &mut Engine, input: Input<'_>, now: Time) -> Result<(), Panic> {
    catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        tests::panic_if_asked(&input);
        engine.handle(input, now);
    }))
}

/// What a core is made from, besides what it stands on.
pub struct Parts {
    /// Of its engine.
    pub settings: Settings,
    /// How TLS sessions are made.
    pub tls: Tls,
    /// What joins it to the others.
    pub ends: Ends,
}

/// What joins a shard to all shards of its process, and to plain threads.
#[derive(Debug)]
pub struct Ends {
    /// What other threads see of it.
    shared: Arc<Shared>,
    /// Its way to all shards.
    post: Post,
    /// What all shards send to it.
    inbox: Inbox,
    /// What plain threads ask.
    controls: Receiver<Control>,
}

/// Joins so many shards; each pair's queue takes so many mails.
#[must_use]
pub fn join(shards: usize, mails_max: usize, clock: Clock) -> (Handle, Vec<Ends>) {
    let all: Vec<Arc<Shared>> = (0..shards).map(|_| Arc::default()).collect();
    let (handle, controls) = Handle::new(&all, clock);
    let (posts, inboxes) = mailbox::join(&all, mails_max);
    let ends = all.into_iter().zip(posts).zip(inboxes.into_iter().zip(controls));
    (handle, ends.map(|((shared, post), (inbox, controls))| Ends { shared, post, inbox, controls }).collect())
}

impl Ends {
    /// A second look at its mailbox, for the watchdog.
    pub(super) fn watch(&self) -> Inbox {
        self.inbox.watch()
    }
}

impl<D: Driver> Core<D> {
    /// With nothing ready yet.
    pub fn new(mut driver: D, parts: Parts) -> Self {
        let reporter = Reporter::new(parts.settings.shard);
        let (mut udp, mut listeners) = (Vec::new(), Vec::new());
        for (at, point) in (0..=u8::MAX).map(PointId).zip(&parts.settings.points) {
            match point.transport {
                Transport::Udp => udp.extend(driver.take_datagrams(at).map(|socket| Point::new(at, socket))),
                Transport::Tcp | Transport::Tls => listeners.push(Listening::new(at)),
            }
        }
        Self {
            engine: Engine::new(parts.settings, driver.now()),
            driver,
            shared: parts.ends.shared,
            conns: Slab::new(),
            by_slot: Vec::new(),
            serial: 0,
            waiting: Waiting::default(),
            tls: parts.tls,
            udp,
            listeners,
            post: parts.ends.post,
            inbox: parts.ends.inbox,
            controls: parts.ends.controls,
            batch: None,
            mails: Vec::new(),
            scratch: vec![0; SCRATCH_LEN].into_boxed_slice(),
            lent: Vec::new(),
            to_flush: Vec::new(),
            to_read: Vec::new(),
            resolving: Exchanges::default(),
            watches: Watches::default(),
            lingers: VecDeque::new(),
            handshakes: Handshakes::default(),
            parked: Parked::default(),
            awaited: Awaited::default(),
            deferred: Deferred::default(),
            bulk_reads_left: BULK_READS_PER_PASS_MAX,
            bulky: VecDeque::new(),
            reporter,
            panics: VecDeque::new(),
            inputs: 0,
            dirty: false,
            drained: None,
            draining: None,
            stopped: false,
            stops_at: None,
        }
    }

    /// What it is about, for who drives it by hand.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it stands on.
    #[must_use]
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// What it holds beside its engine, by name: all is zero when no connection is there and nothing waits.
    #[must_use]
    pub fn holds(&self) -> [(&'static str, usize); 15] {
        [
            ("connections", self.conns.len()),
            ("to read", self.to_read.len()),
            ("to flush", self.to_flush.len()),
            ("deferred", self.deferred.len()),
            ("bulky", self.bulky.len()),
            ("lingers", self.lingers.len()),
            ("watches", usize::from(self.watches.due().is_some())),
            ("handshakes", self.handshakes.len()),
            ("parked", self.parked.len()),
            ("headers awaited", self.awaited.len()),
            ("bytes to send", self.waiting.len()),
            ("listeners that hold one", self.listeners.iter().filter(|one| one.held.is_some()).count()),
            ("listeners that rest", self.listeners.iter().filter(|one| one.rests_until.is_some()).count()),
            ("answers to read", self.resolving.left.len()),
            ("panics", self.panics.len()),
        ]
    }

    fn count(&mut self, counter: Counter) {
        self.engine.counters_mut().count(counter);
    }

    fn say(&mut self, what: &'static str, peer: Option<SocketAddr>, about: String) {
        self.say_why(what, "", peer, about);
    }

    /// Reports an event with the fixed words of its reason.
    fn say_why(&mut self, what: &'static str, reason: &'static str, peer: Option<SocketAddr>, about: String) {
        self.report(&Event { level: Level::Warn, what, reason, peer, about });
    }

    fn report(&mut self, event: &Event) {
        let now = self.driver.now();
        if !self.reporter.report(event, now) {
            self.count(Counter::LogSuppressed);
        }
    }

    /// Hands an input to the engine. `false` when that panicked: the panic is counted, and a connection that the
    /// input came from has to be closed.
    fn input(&mut self, input: Input<'_>) -> bool {
        let handled = hand(&mut self.engine, input, self.driver.now());
        self.handled(handled)
    }

    /// What came of an input that was handed to the engine; as [`Core::input`].
    fn handled(&mut self, result: Result<(), Panic>) -> bool {
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
    fn on_panic(&mut self, panic: &(dyn Any + Send)) {
        let now = self.driver.now();
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
            let about = format!(
                "{PANICS_COUNT_MAX} panics within {} s; restart Hawser and report what the log says above",
                PANIC_WINDOW.as_secs(),
            );
            let what = "this shard takes no new connections any more";
            self.report(&Event { level: Level::Error, what, reason: "", peer: None, about });
        }
    }

    /// Takes no connections any more.
    fn close_listeners(&mut self) {
        self.driver.close_listeners();
        self.listeners.clear();
    }

    /// Forgets which connection a slot stands for, if it still is this one.
    fn free_slot(&mut self, id: ConnId, key: Key) {
        if let Some(slot) = self.by_slot.get_mut(id.slot as usize)
            && *slot == Some(key)
        {
            *slot = None;
        }
    }

    /// Tells the engine that a connection is gone.
    fn tell_closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.input(Input::Closed { conn, reason });
    }
}
