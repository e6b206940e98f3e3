//! How a loop keeps its pace.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use super::clock::Clock;
use super::seam::{Next, Turns};
use super::waits::Waits;
use crate::clock::Time;

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
    /// Lets a shard take turns until there is nothing to do at once, and the gathering pause after that, if there is to be
    /// one. Says when the next turn is due by time, if one is; breaks when the shard has ended.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn turn(&self, shard: &mut impl Turns, waits: &mut Waits) -> io::Result<ControlFlow<(), Option<Time>>> {
        loop {
            let turned = shard.turn(waits.ready());
            match turned.next {
                Next::Over => return Ok(ControlFlow::Break(())),
                Next::Again => {
                    waits.look(Some(Duration::ZERO))?;
                }
                Next::At(due) => {
                    // The thread sleeps, for the point is that nothing wakes meanwhile.
                    if turned.gather && !self.gather.is_zero() {
                        std::thread::sleep(self.gather);
                    }
                    return Ok(ControlFlow::Continue(due));
                }
            }
        }
    }
}
