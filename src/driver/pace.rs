//! How a loop keeps its pace.

use std::time::Duration;

use super::clock::Clock;
use super::seam::Turned;

/// How a loop keeps its pace.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What the times of turns are told by.
    pub clock: Clock,
    /// The core that the thread is pinned to; `None` for any.
    pub cpu: Option<usize>,
    /// `gather-us`; zero for off.
    pub gather: Duration,
    /// `spin-before-park-us`; zero for off.
    pub spin_before_park: Duration,
}

impl Pace {
    /// The pause after a turn, if there is to be one. The thread sleeps, for the point is that nothing wakes meanwhile.
    pub(super) fn rest(&self, turned: Turned) {
        if turned.gather && !self.gather.is_zero() {
            std::thread::sleep(self.gather);
        }
    }
}
