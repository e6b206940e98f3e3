//! What other threads may see and do of a shard: wake it, watch it, ask it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::abuse::{self, BanRow, Shown};
use crate::clock::Time;
use crate::driver::Clock;
use crate::engine::{Live, Located};
use crate::ids::{FlowRef, Transport};
use crate::limits::{CONTROLS_COUNT_MAX, HEARTBEAT_MAX};
use crate::server_pool::{Member, PinFault};
use crate::stats::{PairRow, Snapshot};
use crate::tls::Tls;

/// How long `Handle` waits for the shards' answers.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The few words that all threads may read and write.
#[derive(Debug)]
pub struct Shared {
    waker: AtomicWaker,
    /// The waker once more, in a place that a wake does not empty: a task that was woken and then lost has no other left.
    nudger: Mutex<Option<Waker>>,
    /// Counts passes, each of which reads mail: the heartbeat.
    beat: AtomicU64,
    /// When the shard wants to run next without being woken, in microseconds of the shards' clock; `u64::MAX` for
    /// never.
    due: AtomicU64,
    /// Nudges of the watchdog that the shard has not counted yet.
    nudges: AtomicU64,
    /// When the shard last ran, in microseconds of the shards' clock.
    ran: AtomicU64,
    /// Pairs of SIP Servers that answer, and behind them in the lower half all that there are: as the first shard, which
    /// owns the verdict, saw them at its last pass.
    pairs: AtomicU32,
    /// Bytes that its engine held at the last pass.
    held: AtomicU64,
    in_service: AtomicBool,
    retired: AtomicBool,
    orders: Mutex<Orders>,
    /// Something is in `orders`.
    ordered: AtomicBool,
    #[cfg(test)]
    pub(super) lose_wakes: AtomicBool,
}

/// What a shard is told, until it has taken that up. Each kind has one place: the newest counts, nothing is dropped
/// however many questions wait, and nothing waits behind anything else.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Settings have changed.
    pub live: Option<Box<Live>>,
    /// New handshakes are made with this; open connections stay.
    pub tls: Option<Box<Tls>>,
    /// Let go of the room that a burst of work has left behind.
    pub shrink: bool,
    /// Take no new work; say once when nothing is in flight any more.
    pub drain: Option<Sender<()>>,
    /// Close everything and end.
    pub stop: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            waker: AtomicWaker::new(),
            nudger: Mutex::new(None),
            beat: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            nudges: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            pairs: AtomicU32::new(0),
            held: AtomicU64::new(0),
            in_service: AtomicBool::new(true),
            retired: AtomicBool::new(false),
            orders: Mutex::default(),
            ordered: AtomicBool::new(false),
            #[cfg(test)]
            lose_wakes: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// Wakes the shard, if it waits. What it is to find must be in its queues before.
    pub fn wake(&self) {
        #[cfg(test)]
        if self.lose_wakes.load(Ordering::SeqCst) {
            return;
        }
        self.waker.wake();
    }

    /// The watchdog's wake. It reaches an executor that sleeps although its task has been woken already.
    pub(super) fn nudge(&self, counted: bool) {
        if counted {
            self.nudges.fetch_add(1, Ordering::Relaxed);
        }
        self.nudger().iter().for_each(Waker::wake_by_ref);
    }

    pub(super) fn register(&self, waker: &Waker) {
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        self.waker.register(waker);
        let mut nudger = self.nudger();
        if nudger.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *nudger = Some(waker.clone());
        }
    }

    /// Puts an order into its place, and wakes the shard. What stood there goes when the place is free again for the
    /// shard to look at, for to let go of a set-up of TLS takes a while.
    fn order<T>(&self, put: impl FnOnce(&mut Orders) -> T) {
        let _former = put(&mut self.orders());
        self.ordered.store(true, Ordering::Release);
        self.wake();
    }

    /// The orders that the shard has not taken up, which it does with this.
    pub(super) fn take_orders(&self) -> Option<Orders> {
        // Before the look: an order that comes after it sets this again.
        self.ordered.swap(false, Ordering::Acquire).then(|| std::mem::take(&mut *self.orders()))
    }

    pub(super) fn has_orders(&self) -> bool {
        self.ordered.load(Ordering::Relaxed)
    }

    /// Held for as long as it takes to put one in or to take all out; every place is whole at any time.
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing panics while it is held, and a waker is whole at any time.
    fn nudger(&self) -> MutexGuard<'_, Option<Waker>> {
        self.nudger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody may wake the shard any more: its executor is about to end.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        drop(self.waker.take());
        drop(self.nudger().take());
    }

    pub(super) fn beat(&self) {
        // The shard is the only writer.
        self.beat.store(self.beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    pub(super) fn set_ran(&self, now: Time) {
        self.ran.store(now.0, Ordering::Relaxed);
    }

    /// Whether it has run of late: the watchdog wakes a shard that has nothing to do often enough.
    fn runs(&self, now: Time) -> bool {
        let silent = now.since(Time(self.ran.load(Ordering::Relaxed)));
        silent < HEARTBEAT_MAX && !self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn set_held(&self, len: u64) {
        self.held.store(len, Ordering::Relaxed);
    }

    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn set_pairs(&self, answering: usize, all: usize) {
        // `PEERS_MAX` is less.
        let half = |count: usize| u32::from(u16::try_from(count).unwrap_or(u16::MAX));
        self.pairs.store(half(answering) << 16 | half(all), Ordering::Relaxed);
    }

    pub(super) fn set_due(&self, due: Option<u64>) {
        self.due.store(due.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    pub(super) fn take_nudges(&self) -> u64 {
        self.nudges.swap(0, Ordering::Relaxed)
    }

    pub(super) fn leave_service(&self) {
        self.in_service.store(false, Ordering::Relaxed);
    }

    /// Whether it takes new work: not after repeated panics.
    #[must_use]
    pub fn in_service(&self) -> bool {
        self.in_service.load(Ordering::Relaxed)
    }
}

/// What a plain thread asks of a shard: who asks waits for the answer for a while, and does without.
#[derive(Debug)]
pub(super) enum Control {
    Snapshot(Sender<Snapshot>),
    /// Of the first shard: the pairs of SIP Servers.
    Pairs(Sender<Vec<PairRow>>),
    Locate(Arc<str>, Sender<Vec<Located>>),
    /// The names of the certificates that the peers of these flows have shown, by the flow's place in the list.
    Certificates(Arc<[FlowRef]>, Sender<Vec<(usize, Vec<String>)>>),
    /// Addresses that are shut out, and how many of their connections were refused.
    Bans(Sender<Shown>),
    /// Of the first shard: let an address in again.
    Unban(abuse::Source, Sender<bool>),
    /// Of the first shard: fix the active server of the pair of this name, or let the rules decide again.
    Pin(Box<str>, Option<Member>, Sender<Result<(), PinFault>>),
}

#[derive(Debug)]
struct Link {
    control: Sender<Control>,
    shared: Arc<Shared>,
}

impl Link {
    fn ask(&self, request: Control) {
        match self.control.try_send(request) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // A shard with so many questions open does not answer; it is not asked once more.
            Err(TrySendError::Full(_)) => log::warn!("a shard does not answer: {CONTROLS_COUNT_MAX} questions wait"),
        }
        self.shared.wake();
    }
}

#[derive(Debug)]
struct Inner {
    links: Vec<Link>,
    clock: Clock,
    draining: AtomicBool,
}

/// The shards of a process as plain threads see them.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl Handle {
    /// For these shards, with the ends that their control requests come out of.
    pub(super) fn new(shards: &[Arc<Shared>], clock: Clock) -> (Self, Vec<Receiver<Control>>) {
        let (links, controls) = shards
            .iter()
            .map(|shared| {
                let (control, out) = bounded(CONTROLS_COUNT_MAX);
                (Link { control, shared: shared.clone() }, out)
            })
            .unzip();
        (Self { inner: Arc::new(Inner { links, clock, draining: AtomicBool::new(false) }) }, controls)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inner.links.len()
    }

    /// Counters and gauges of every shard that answers within a second, in the order of the shards. Blocks.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut all = self.ask(Control::Snapshot);
        all.sort_by_key(|snapshot| snapshot.shard);
        all
    }

    /// All bindings of an AOR, from whichever shard knows them, within a second; `None` when a shard did not
    /// answer. Blocks.
    #[must_use]
    pub fn locate(&self, aor: &str) -> Option<Vec<Located>> {
        let aor: Arc<str> = aor.into();
        let answers = self.ask(|reply| Control::Locate(aor.clone(), reply));
        if answers.len() != self.shards() {
            return None;
        }
        let mut located: Vec<Located> = answers.into_iter().flatten().collect();
        if located.iter().any(|located| located.transport == Transport::Tls) {
            // The home shard knows the bindings, and the owner of a flow its peer.
            let flows: Arc<[FlowRef]> = located.iter().map(|located| located.flow).collect();
            let shown = self.ask(|reply| Control::Certificates(flows.clone(), reply));
            for (at, names) in shown.into_iter().flatten() {
                located[at].certificate = names;
            }
        }
        Some(located)
    }

    /// The pairs of SIP Servers, from the shard that owns the verdict, within a second. Blocks.
    #[must_use]
    pub fn pairs(&self) -> Option<Vec<PairRow>> {
        self.ask_owner(Control::Pairs)
    }

    /// Fixes which server of a pair is active, or lets the rules decide again, within a second; `None` when the shard
    /// that owns the verdict did not answer. Blocks.
    #[must_use]
    pub fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>> {
        self.ask_owner(|reply| Control::Pin(pair.into(), member, reply))
    }

    /// The addresses that are shut out, those of late first, within a second; `None` when a shard did not answer. Blocks.
    #[must_use]
    pub fn bans(&self) -> Option<Vec<BanRow>> {
        let answers = self.ask(Control::Bans);
        if answers.len() != self.shards() {
            return None;
        }
        let mut turned_away: HashMap<abuse::Source, u64> = HashMap::new();
        for (source, count) in answers.iter().flat_map(|shown| &shown.turned_away) {
            *turned_away.entry(*source).or_default() += count;
        }
        let of = |source| turned_away.get(&source).copied().unwrap_or(0);
        let rows = answers.into_iter().flat_map(|shown| shown.bans);
        let mut rows: Vec<_> = rows.map(|row| BanRow { turned_away: of(row.source), ..row }).collect();
        rows.sort_by_key(|row| (row.since, row.source));
        Some(rows)
    }

    /// Lets an address in again, and says whether it was shut out; `None` when the shard that judges did not answer. Blocks.
    #[must_use]
    pub fn unban(&self, source: abuse::Source) -> Option<bool> {
        self.ask_owner(|reply| Control::Unban(source, reply))
    }

    /// Asks to pin or to release, and waits for no answer.
    pub fn ask_to_pin(&self, pair: &str, member: Option<Member>) {
        if let Some(first) = self.inner.links.first() {
            let (reply, _) = bounded(1);
            first.ask(Control::Pin(pair.into(), member, reply));
        }
    }

    /// How many shards run: their heartbeat is not older than `HEARTBEAT_MAX`. Asks none of them, and blocks nobody.
    #[must_use]
    pub fn running(&self) -> usize {
        let now = self.inner.clock.now();
        self.inner.links.iter().filter(|link| link.shared.runs(now)).count()
    }

    /// How many pairs of SIP Servers answer, and how many there are; `None` when that is not known yet. The same.
    #[must_use]
    pub fn pairs_answering(&self) -> Option<(usize, usize)> {
        let pairs = self.inner.links.first()?.shared.pairs.load(Ordering::Relaxed);
        let (answering, all) = (pairs >> 16, pairs & 0xffff);
        (all > 0).then_some((answering as usize, all as usize))
    }

    /// Whether no new work is taken since the process is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    /// Whether every shard is in service and none is draining.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.draining() && self.inner.links.iter().all(|link| link.shared.in_service())
    }

    /// Asks all shards to take no new work, and waits until nothing is in flight or the time is over. Says
    /// whether nothing is.
    pub fn drain(&self, at_most: Duration) -> bool {
        self.inner.draining.store(true, Ordering::Relaxed);
        let (reply, done) = bounded(self.shards());
        let deadline = Instant::now() + at_most;
        let mut left = self.shards();
        self.order_all(|orders| orders.drain.replace(reply.clone()));
        drop(reply);
        while left > 0 && done.recv_deadline(deadline).is_ok() {
            left -= 1;
        }
        left == 0
    }

    /// Lets every shard make new handshakes with this.
    pub fn set_tls(&self, tls: &Tls) {
        for link in &self.inner.links {
            let new = Box::new(tls.clone());
            link.shared.order(|orders| orders.tls.replace(new));
        }
    }

    /// Asks all shards to let go of the room that a burst of work has left behind.
    pub(super) fn shrink(&self) {
        self.order_all(|orders| orders.shrink = true);
    }

    /// Gives all shards settings that have changed.
    pub fn set_live(&self, live: &Live) {
        for link in &self.inner.links {
            let new = Box::new(live.clone());
            link.shared.order(|orders| orders.live.replace(new));
        }
    }

    /// Asks all shards to close their connections and to end.
    pub fn stop(&self) {
        self.order_all(|orders| orders.stop = true);
    }

    fn ask<T>(&self, request: impl Fn(Sender<T>) -> Control) -> Vec<T> {
        let (reply, answers) = bounded(self.shards());
        let deadline = Instant::now() + ANSWER_MAX;
        for link in &self.inner.links {
            link.ask(request(reply.clone()));
        }
        drop(reply);
        let mut all = Vec::with_capacity(self.shards());
        // Ends early when the last shard has dropped its end.
        while let Ok(answer) = answers.recv_deadline(deadline) {
            all.push(answer);
        }
        all
    }

    /// Asks the first shard alone, which owns the verdict on the SIP Servers.
    fn ask_owner<T>(&self, request: impl FnOnce(Sender<T>) -> Control) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.inner.links.first()?.ask(request(reply));
        answer.recv_timeout(ANSWER_MAX).ok()
    }

    fn order_all<T>(&self, put: impl Fn(&mut Orders) -> T) {
        for link in &self.inner.links {
            link.shared.order(&put);
        }
    }

    /// Whether a shard was asked or told something that it has not looked at.
    pub(super) fn waits(&self, shard: usize) -> bool {
        let link = &self.inner.links[shard];
        !link.control.is_empty() || link.shared.has_orders()
    }

    pub(super) fn shared(&self, shard: usize) -> &Shared {
        &self.inner.links[shard].shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn orders_are_never_dropped_however_many_questions_wait_and_the_newest_counts() {
        let shared = [Arc::<Shared>::default()];
        let (handle, controls) = Handle::new(&shared, Clock::start());
        let (reply, _answers) = bounded(1);
        for _ in 0..2 * CONTROLS_COUNT_MAX {
            handle.inner.links[0].ask(Control::Snapshot(reply.clone()));
        }
        assert_eq!(controls[0].len(), CONTROLS_COUNT_MAX);
        assert!(shared[0].take_orders().is_none());
        handle.set_tls(&Tls::default());
        let mut live = crate::engine::Settings::plain(vec![], vec![]).live;
        for seconds in [1, 2] {
            live.oos_check = Duration::from_secs(seconds);
            handle.set_live(&live);
        }
        handle.shrink();
        assert!(!handle.drain(Duration::ZERO), "nobody has taken it up yet");
        handle.stop();
        assert!(handle.waits(0));
        let orders = shared[0].take_orders().unwrap();
        assert_eq!(orders.live.unwrap().oos_check, Duration::from_secs(2));
        assert!(orders.tls.is_some() && orders.shrink && orders.drain.is_some() && orders.stop);
        assert!(shared[0].take_orders().is_none() && !shared[0].has_orders());
    }

    #[test]
    fn a_shard_runs_while_its_heartbeat_is_young_and_until_it_has_ended() {
        let shared = Shared::default();
        let at = |after: Duration| Time(1_000_000).after(after);
        shared.set_ran(at(Duration::ZERO));
        assert!(shared.runs(at(Duration::ZERO)) && shared.runs(at(HEARTBEAT_MAX - Duration::from_millis(1))));
        assert!(!shared.runs(at(HEARTBEAT_MAX)));
        shared.set_ran(at(HEARTBEAT_MAX));
        assert!(shared.runs(at(HEARTBEAT_MAX)));
        shared.retire();
        assert!(!shared.runs(at(HEARTBEAT_MAX)));
    }

    #[test]
    fn a_nudge_reaches_a_shard_whose_mailbox_task_was_woken_and_lost() {
        let (shared, count) = (Shared::default(), Arc::new(Count::default()));
        shared.register(&count.clone().into());
        for _ in 0..3 {
            shared.wake();
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake until the task has run");
        shared.nudge(true);
        shared.nudge(false);
        assert_eq!(count.0.load(Ordering::SeqCst), 3, "a nudge does not depend on that");
        assert_eq!(shared.take_nudges(), 1);
        shared.retire();
        shared.nudge(true);
        shared.register(&count.clone().into());
        shared.nudge(true);
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
        assert_eq!(Arc::strong_count(&count), 1, "a shard that ends leaves no waker behind");
    }
}
