//! The clock of a process, which all shards share: the one place of the shell that makes a [`Time`].

use std::time::{Duration, Instant};

use crate::clock::Time;

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
    #[must_use]
    pub fn until(self, then: Time) -> Duration {
        then.since(self.now())
    }
}
