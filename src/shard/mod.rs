//! One core's loop: wait for what is ready, feed the engine, carry out what it wants.
//!
//! Owns: the executor's tasks (`tasks`), the core that they share ([`mod@self::core`]), the connections
//! (`connection`), which of them are taken in and when (`arrivals`, `handshakes`, `parked`), what they send (`sending`)
//! and whether it is taken (`progress`), the mailbox between shards (`mailbox`), what plain threads see (`shared`), the
//! watchdog (`watchdog`), the DNS questions in the air (`resolving`) and the bounded log (`reporter`). Must not touch:
//! what a message says.

mod arrivals;
mod clock;
mod conn;
mod connection;
mod core;
mod draining;
mod ends;
mod handshakes;
mod mailbox;
mod parked;
mod pass;
mod progress;
mod reporter;
mod resolving;
mod sending;
mod shared;
mod spare;
mod tasks;
#[cfg(test)]
mod tests;
mod watchdog;

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};

pub use self::clock::Clock;
pub use self::shared::Handle;

use self::core::{Core, Parts};
use self::shared::Shared;
use self::tasks::Shard;
use crate::engine::Settings;
use crate::ids::PointId;
use crate::sys;
use crate::tls::Tls;
use crate::transport::udp::Outgoing;

/// Memory that glommio reserves for storage I/O, which Hawser does not do; its default of 10 MiB is resident.
const IO_MEMORY_LEN: usize = 65_536;
const RING_DEPTH: usize = 1_024;
/// How long a task may run before timers and other shards' mail are looked at.
const PREEMPT_EVERY: Duration = Duration::from_millis(10);

/// The socket of one point on one shard, bound already.
#[derive(Debug)]
pub enum Socket {
    /// A UDP point.
    Udp(socket2::Socket),
    /// A TCP or TLS listener.
    Listener(socket2::Socket),
}

/// What one shard is started with.
#[derive(Debug)]
pub struct Setup {
    /// The core that it is pinned to; `None` for any.
    pub cpu: Option<usize>,
    /// Of its engine.
    pub settings: Settings,
    /// In the order of `settings.points`.
    pub sockets: Vec<Socket>,
}

/// What all shards of a process have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// How TLS sessions are made.
    pub tls: Tls,
    /// `sip-ip-tos`, for connections that are opened.
    pub tos: u32,
    /// `gather-us`; zero for off.
    pub gather: Duration,
    /// `spin-before-park-us`; zero for off.
    pub spin_before_park: Duration,
}

/// The running shards of a process.
#[derive(Debug)]
pub struct Shards {
    handle: Handle,
    threads: Vec<JoinHandle<Result<(), String>>>,
    watchdog: JoinHandle<()>,
    /// Dropped to end the watchdog.
    watchdog_stop: Sender<()>,
    /// Told when a shard's thread ends, for whatever cause.
    ended: Receiver<()>,
}

/// Tells that a thread has ended, by a panic too.
struct TellEnd(Sender<()>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        // One place for each shard.
        let _ = self.0.try_send(());
    }
}

impl Shards {
    /// Starts one executor for each setup, and the watchdog.
    ///
    /// # Errors
    /// A thread or an executor cannot be started.
    pub fn start(setups: Vec<Setup>, common: &Common) -> std::io::Result<Self> {
        let clock = Clock::start();
        let shared: Vec<Arc<Shared>> = setups.iter().map(|_| Arc::default()).collect();
        let (handle, controls) = Handle::new(&shared, clock);
        let (posts, inboxes) = mailbox::join(&shared);
        let watched = inboxes.iter().map(mailbox::Inbox::watch).collect();
        let (end, ended) = crossbeam_channel::bounded(setups.len());
        let (started, has_started) = crossbeam_channel::bounded(setups.len());
        let mut threads = Vec::new();
        let ends = shared.into_iter().zip(posts).zip(inboxes.into_iter().zip(controls));
        for (setup, ((shared, post), (inbox, controls))) in setups.into_iter().zip(ends) {
            let (common, started, end) = (common.clone(), started.clone(), TellEnd(end.clone()));
            let name = format!("shard-{}", setup.settings.shard.0);
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let _end = end;
                let executor = LocalExecutorBuilder::new(setup.cpu.map_or(Placement::Unbound, Placement::Fixed))
                    .io_memory(IO_MEMORY_LEN)
                    .ring_depth(RING_DEPTH)
                    .preempt_timer(PREEMPT_EVERY)
                    .spin_before_park(common.spin_before_park)
                    .make()
                    .map_err(|error| error.to_string());
                let executor = match executor {
                    Ok(executor) => executor,
                    Err(error) => {
                        drop(started.send(Err(error.clone())));
                        return Err(error);
                    }
                };
                executor.run(async move {
                    let shard = assemble(setup, &common, clock, shared, post, inbox, controls);
                    drop(started.send(Ok(())));
                    tasks::pump(shard).await;
                });
                Ok(())
            })?;
            threads.push(thread);
        }
        drop(started);
        for _ in 0..threads.len() {
            match has_started.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(std::io::Error::other(error)),
                // The thread ended without a word: it panicked, which has been printed.
                Err(_) => return Err(std::io::Error::other("an executor ended while it started")),
            }
        }
        let (watchdog_stop, stop) = crossbeam_channel::bounded(0);
        let watchdog = watchdog::start(handle.clone(), watched, clock, stop)?;
        Ok(Self { handle, threads, watchdog, watchdog_stop, ended })
    }

    /// What plain threads ask the shards through.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gets one word for each shard that ends.
    #[must_use]
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Closes all connections and waits for the executors to end.
    pub fn stop(self) {
        self.handle.stop();
        for thread in self.threads {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
        drop(self.watchdog_stop);
        let _ = self.watchdog.join();
    }
}

/// Makes the core and starts its tasks. Runs inside the executor, which adopts the sockets.
fn assemble(
    setup: Setup,
    common: &Common,
    clock: Clock,
    shared: Arc<Shared>,
    post: mailbox::Post,
    inbox: mailbox::Inbox,
    controls: Receiver<shared::Control>,
) -> Rc<Shard> {
    use std::os::fd::AsRawFd;
    let mut udp = Vec::new();
    let mut listeners = Vec::new();
    let mut adopted = Vec::new();
    for socket in setup.sockets {
        match socket {
            Socket::Udp(socket) => {
                let socket: Rc<glommio::net::UdpSocket> = Rc::new(sys::adopt(socket));
                udp.push(Some(Outgoing::new(socket.as_raw_fd())));
                adopted.push((Some(socket), None));
            }
            Socket::Listener(socket) => {
                // A second descriptor of the same socket, to shut it down by.
                listeners.extend(socket.try_clone());
                udp.push(None);
                adopted.push((None, Some(sys::adopt::<glommio::net::TcpListener>(socket))));
            }
        }
    }
    let parts = Parts {
        settings: setup.settings,
        clock,
        shared,
        tls: common.tls.clone(),
        tos: common.tos,
        udp,
        listeners,
        post,
        inbox,
        controls,
    };
    let shard = Shard::new(Core::new(parts), common.gather);
    for (at, (udp, listener)) in adopted.into_iter().enumerate() {
        let point = PointId(u8::try_from(at).unwrap_or(u8::MAX));
        if let Some(socket) = udp {
            glommio::spawn_local(tasks::datagrams(shard.clone(), point, socket)).detach();
        }
        if let Some(listener) = listener {
            glommio::spawn_local(tasks::accept(shard.clone(), point, listener)).detach();
        }
    }
    glommio::spawn_local(tasks::mailbox(shard.clone())).detach();
    shard
}
