//! The tasks of one shard. Each waits for one thing and calls into the core; none holds it across an await.
//!
//! One pass is: everything that was ready has called in, then the pump runs, for it was woken by the first of
//! them and the executor's queue is first in, first out. So what a pass brought about is carried out and flushed
//! once. glommio can park with runnable tasks (GLOMMIO.md); the watchdog outside wakes the mailbox task then.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::net::{TcpListener, UdpSocket};
use glommio::timer::Timer;

use super::arrivals::HANDSHAKE_LOOK_EVERY;
use super::clock::Clock;
use super::conn::Key;
use super::core::Core;
use super::pass::RETRY_AFTER;
use super::resolving::Ask;
use super::shared::Shared;
use crate::clock::Time;
use crate::dns;
use crate::engine::Input;
use crate::ids::PointId;
use crate::limits::ACCEPTS_IN_A_ROW_MAX;
use crate::stats::Counter;

/// How long a stopped shard waits for its peers to close too.
const STOP_LINGER_MAX: Duration = Duration::from_millis(250);
/// How long it then waits for its tasks to end, which let go of their sockets.
const STOP_TASKS_MAX: Duration = Duration::from_millis(100);
/// From one look at that to the next.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a listener rests after the system refused a connection (descriptors, memory).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A shard: its core, and how its tasks wake each other.
pub(super) struct Shard {
    core: RefCell<Core>,
    clock: Clock,
    shared: std::sync::Arc<Shared>,
    gather: Duration,
    pump: RefCell<Option<Waker>>,
    pump_woken: Cell<bool>,
    /// Tasks that wait for something besides the end of the shard.
    stop_wakers: RefCell<Vec<Waker>>,
    stopped: Cell<bool>,
}

impl Shard {
    pub(super) fn new(core: Core, gather: Duration) -> Rc<Self> {
        let (clock, shared) = (core.clock, core.shared.clone());
        Rc::new(Self {
            core: core.into(),
            clock,
            shared,
            gather,
            pump: None.into(),
            pump_woken: false.into(),
            stop_wakers: Vec::new().into(),
            stopped: false.into(),
        })
    }

    /// Calls into the core; a panic on the way is counted, and gives `None`. Asks for a pass when there is cause.
    fn call<R>(self: &Rc<Self>, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
        let mut core = self.core.borrow_mut();
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut core)));
        let result = match result {
            Ok(result) => Some(result),
            Err(panic) => {
                core.on_panic(panic.as_ref());
                None
            }
        };
        if core.take_dirty() && !self.pump_woken.replace(true) {
            self.shared.set_asked(true);
            self.pump.borrow().iter().for_each(Waker::wake_by_ref);
        }
        let spawn = std::mem::take(&mut core.to_spawn);
        let resolve = std::mem::take(&mut core.to_resolve);
        drop(core);
        // A task runs as soon as it is spawned, so the core must be free.
        for key in spawn {
            self.spawn_conn(key);
        }
        for ask in resolve {
            glommio::spawn_local(question(self.clone(), ask)).detach();
        }
        result
    }

    /// Waits for `what`, or for the end of the shard, which gives `None`.
    async fn unless_stopped<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = std::pin::pin!(what);
        let mut registered = false;
        poll_fn(|cx| {
            if self.stopped.get() {
                return Poll::Ready(None);
            }
            if !std::mem::replace(&mut registered, true) {
                let mut wakers = self.stop_wakers.borrow_mut();
                if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
            }
            what.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn spawn_conn(self: &Rc<Self>, key: Key) {
        glommio::spawn_local(connection(self.clone(), key)).detach();
    }
}

/// Waits for one connection. Keeps no buffer.
async fn connection(shard: Rc<Shard>, key: Key) {
    poll_fn(|cx| match shard.call(|core| core.poll_conn(key, cx)) {
        Some(poll) => poll,
        None => {
            shard.call(|core| core.panicked(key));
            Poll::Ready(())
        }
    })
    .await;
}

/// Asks a resolver, and reports what it says until the engine is done with it.
async fn question(shard: Rc<Shard>, ask: Ask) {
    let Ask { exchange, to, tcp, bytes } = ask;
    let heard = |from, bytes: &[u8]| {
        shard.call(|core| core.input(Input::Dns(dns::Input::Answer { exchange, from, bytes })));
    };
    let mut asked = std::pin::pin!(dns::socket::ask(to, tcp, bytes, heard));
    let failed = poll_fn(|cx| {
        // The engine's word comes first: what is over has nothing to report.
        if shard.call(|core| core.resolving.poll_over(exchange, cx)) != Some(Poll::Pending) {
            return Poll::Ready(None);
        }
        asked.as_mut().poll(cx).map(Some)
    })
    .await;
    if failed.is_some() {
        shard.call(|core| {
            core.resolving.end(exchange);
            core.input(Input::Dns(dns::Input::Failed { exchange }))
        });
    }
}

/// Runs the passes and the one timer that stands for all of the engine's. Ends when the shard has been stopped.
pub(super) async fn pump(shard: Rc<Shard>) {
    let mut pump = Pump { timer: None, stop: None };
    poll_fn(|cx| pump.poll(&shard, cx)).await;
}

struct Pump {
    /// The timer and when it fires: never later than what is due, maybe earlier, for moving it each time that
    /// the next deadline moves would cost more than a pass for nothing now and then.
    timer: Option<(Timer, Time)>,
    /// When a stopped shard ends at the latest.
    stop: Option<Time>,
}

impl Pump {
    fn poll(&mut self, shard: &Rc<Shard>, cx: &mut Context<'_>) -> Poll<()> {
        let mut own = shard.pump.borrow_mut();
        if own.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *own = Some(cx.waker().clone());
        }
        drop(own);
        // Wakes of a pass that ask for the next one come after this.
        shard.pump_woken.set(false);
        let passed = shard.call(Core::pass);
        if shard.core.borrow().stopped() {
            return self.poll_stop(shard, cx);
        }
        let Some(passed) = passed else {
            // A panic has cut the pass short: the rest of it comes with the next.
            let soon = shard.clock.now().after(RETRY_AFTER);
            self.arm(shard, Some(soon), cx);
            return Poll::Pending;
        };
        if passed.gather && !shard.gather.is_zero() {
            // The thread sleeps and not the task: the point is that nothing of the shard wakes meanwhile.
            std::thread::sleep(shard.gather);
        }
        self.arm(shard, passed.due, cx);
        Poll::Pending
    }

    /// Goodbyes are said; waits a little for the peers' and then for the tasks.
    fn poll_stop(&mut self, shard: &Rc<Shard>, cx: &mut Context<'_>) -> Poll<()> {
        let now = shard.clock.now();
        let mut at = *self.stop.get_or_insert_with(|| now.after(STOP_LINGER_MAX));
        if !shard.stopped.get() && (now >= at || shard.core.borrow().conns.is_empty()) {
            shard.stopped.set(true);
            shard.call(Core::remove_all);
            shard.stop_wakers.take().into_iter().for_each(Waker::wake);
            at = now.after(STOP_TASKS_MAX);
            self.stop = Some(at);
        }
        // The last one is ours.
        if shard.stopped.get() && (now >= at || Rc::strong_count(shard) == 1) {
            shard.shared.retire();
            return Poll::Ready(());
        }
        self.arm(shard, Some(now.after(STOP_LOOK_EVERY)), cx);
        Poll::Pending
    }

    fn arm(&mut self, shard: &Rc<Shard>, due: Option<Time>, cx: &mut Context<'_>) {
        let now = shard.clock.now();
        if self.timer.as_ref().is_some_and(|(_, fires)| *fires <= now) {
            self.timer = None;
        }
        let Some(due) = due else { return };
        if self.timer.as_ref().is_some_and(|(_, fires)| *fires <= due) {
            return;
        }
        let mut timer = Timer::new(shard.clock.until(due));
        if Pin::new(&mut timer).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
            return;
        }
        self.timer = Some((timer, due));
    }
}

/// Takes mail and the requests of plain threads. Woken from outside; the watchdog's nudge comes in here too.
pub(super) async fn mailbox(shard: Rc<Shard>) {
    let look = poll_fn(|cx| {
        // Registered before the look, so that what is put in after it wakes again.
        shard.shared.register(cx.waker());
        if shard.call(Core::read_mail) != Some(false) {
            cx.waker().wake_by_ref();
        }
        Poll::<()>::Pending
    });
    shard.unless_stopped(look).await;
}

/// Reads the datagrams of one socket, in batches.
pub(super) async fn datagrams(shard: Rc<Shard>, point: PointId, socket: Rc<UdpSocket>) {
    let fd = socket.as_raw_fd();
    loop {
        if shard.call(|core| core.receive(point, fd)).unwrap_or(true) {
            // More waits, but others have their turn first.
            yield_once().await;
            continue;
        }
        match shard.unless_stopped(socket.peek_from(&mut [0; 1])).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                shard.call(|core| core.icmp(fd));
                yield_once().await;
            }
        }
    }
}

/// Goes to the end of the executor's queue.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Accepts for one listener, for as long as the shard lives: a cancelled accept would leak descriptors. Ends when the
/// listener is shut down.
pub(super) async fn accept(shard: Rc<Shard>, point: PointId, listener: TcpListener) {
    let mut in_a_row = 0;
    loop {
        let error = match listener.shared_accept().await {
            Ok(accepted) => {
                // Without an address it is one that has gone already.
                if let Ok(peer) = accepted.peer_addr() {
                    // Whoever comes next waits with it in the listener's queue.
                    while shard.call(|core| core.must_hold(point, peer)) == Some(true) {
                        glommio::timer::sleep(HANDSHAKE_LOOK_EVERY).await;
                    }
                    let socket = accepted.bind_to_executor();
                    let key = shard.call(|core| core.arrived(point, socket, peer));
                    if let Some(Some(key)) = key {
                        shard.spawn_conn(key);
                    }
                }
                // A burst in the listener's queue is accepted without a wait between.
                in_a_row += 1;
                if in_a_row == ACCEPTS_IN_A_ROW_MAX {
                    in_a_row = 0;
                    yield_once().await;
                }
                continue;
            }
            Err(error) => error.raw_os_error(),
        };
        match error {
            Some(libc::EINVAL | libc::EBADF) => return,
            // The peer has given up before it was accepted.
            Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
            other => {
                let about = other.map(std::io::Error::from_raw_os_error).map(|e| e.to_string()).unwrap_or_default();
                shard.call(|core| {
                    core.count(Counter::AcceptError);
                    core.say("a connection could not be accepted (see LimitNOFILE)", None, about);
                });
                glommio::timer::sleep(ACCEPT_REST).await;
            }
        }
    }
}
