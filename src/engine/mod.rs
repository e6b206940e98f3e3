//! One shard's composition: pure, fed with [`Input`]s, drained of [`Output`]s.
//!
//! The loop of whoever drives it: `handle(input, now)` for everything that is ready (and `accept` for new
//! connections, `fire` when `poll_timeout` has passed), then `poll_output` until it is empty, then flush.

mod count;
mod io;

pub use crate::config::engine::{Point, ServerTarget, Settings, Sticky, UdpOversize};
pub use io::{Accept, CloseReason, ConnectFailure, Event, Input, Located, Mail, Output, Refusal};

use crate::clock::Time;
use crate::ids::ConnId;
use crate::stats::Counters;

/// One shard's whole state.
pub struct Engine {
    settings: Settings,
    counters: Counters,
}

impl Engine {
    /// An engine without connections or transactions.
    #[must_use]
    pub fn new(settings: Settings, _now: Time) -> Self {
        Self { settings, counters: Counters::default() }
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A connection was accepted: gives it a slot, or says why it must be closed at once.
    ///
    /// # Errors
    /// A [`Refusal`], counted already.
    pub fn accept(&mut self, _accept: Accept, _now: Time) -> Result<ConnId, Refusal> {
        Err(Refusal::Connections)
    }

    /// Takes one input.
    pub fn handle(&mut self, _input: Input<'_>, _now: Time) {}

    /// Fires every timer that is due.
    pub fn fire(&mut self, _now: Time) {}

    /// When `fire` must be called next; `None` when no timer runs.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The next thing to do for the shell.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Gives a buffer back that came with an output, to be used again.
    pub fn recycle(&mut self, _buffer: Vec<u8>) {}

    /// The counters, which the shell adds its own to.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// What this shard knows of an AOR's bindings (only its home shard knows any).
    #[must_use]
    pub fn locate(&self, _aor: &str, _now: Time) -> Vec<Located> {
        Vec::new()
    }

    /// Counters and gauges of this moment.
    #[must_use]
    pub fn snapshot(&self, _now: Time) -> crate::stats::Snapshot {
        crate::stats::Snapshot::default()
    }

    /// Transactions that still wait for their end; a drain waits until it is 0.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        0
    }
}
