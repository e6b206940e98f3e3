//! One core: what is ready goes to the engine, and what the engine wants is carried out.
//!
//! Owns: the core of a shard ([`mod@self::core`]: a turn over all that is ready, connections, datagrams), the mailbox
//! between shards (`mailbox`), what plain threads see (`shared`), the watchdog (`watchdog`) and the bounded log
//! (`reporter`). Who waits is a driver (`driver`). Must not touch: what a message says.

mod core;
mod mailbox;
mod reporter;
mod shared;
mod spare;
#[cfg(test)]
mod tests;
mod watchdog;

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

pub use self::core::{Core, Ends, Parts, join};
pub use self::shared::Handle;
pub use crate::driver::Socket;

use crate::driver::{self, Clock, Kind, Pace, Sockets, Waits};
use crate::engine::Settings;
use crate::tls::Tls;

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
    /// Who waits for the sockets.
    pub kind: Kind,
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
    threads: Vec<JoinHandle<std::io::Result<()>>>,
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
    /// Starts one thread for each setup, and the watchdog.
    ///
    /// # Errors
    /// A thread or its loop cannot be started.
    pub fn start(setups: Vec<Setup>, common: &Common) -> std::io::Result<Self> {
        let clock = Clock::start();
        let (handle, ends) = join(setups.len(), mailbox::queue_count_max(setups.len()), clock);
        let watched = ends.iter().map(Ends::watch).collect();
        let (end, ended) = crossbeam_channel::bounded(setups.len());
        let (started, has_started) = crossbeam_channel::bounded(setups.len());
        let mut threads = Vec::new();
        for (setup, ends) in setups.into_iter().zip(ends) {
            let (common, started, end) = (common.clone(), started.clone(), TellEnd(end.clone()));
            let name = format!("shard-{}", setup.settings.shard.0);
            let Setup { cpu, settings, sockets } = setup;
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let _end = end;
                let Common { kind, tls, tos, gather, spin_before_park } = common;
                let pace = Pace { clock, cpu, gather, spin_before_park };
                let make = |waits: &Waits| {
                    let sockets = Sockets::new(waits, sockets, tos, clock)?;
                    Ok(Core::new(sockets, Parts { settings, tls, ends }))
                };
                let tell = |began: Result<(), &std::io::Error>| {
                    // The starter waits for as many words as there are threads.
                    let _ = started.send(began.map_err(ToString::to_string));
                };
                driver::run(kind, pace, make, tell)
            })?;
            threads.push(thread);
        }
        drop(started);
        for _ in 0..threads.len() {
            match has_started.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(std::io::Error::other(error)),
                // The thread ended without a word: it panicked, which has been printed.
                Err(_) => return Err(std::io::Error::other("a shard ended while it started")),
            }
        }
        let (watchdog_stop, stop) = crossbeam_channel::bounded(0);
        let watchdog = watchdog::start(handle.clone(), watched, clock, common.kind, stop)?;
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

    /// Closes all connections and waits for the shards to end.
    pub fn stop(self) {
        self.handle.stop();
        for thread in self.threads {
            // A panic has been printed by the thread itself.
            if let Ok(Err(error)) = thread.join() {
                log::error!("a shard has ended: {error}");
            }
        }
        drop(self.watchdog_stop);
        let _ = self.watchdog.join();
    }
}
