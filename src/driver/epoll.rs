//! The loop that waits by `epoll_wait`: one system call for each wait, with all sockets, the wake from other threads and
//! the time in it.

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::pace::Pace;
use super::seam::Turns;
use super::waits::Waits;
use crate::limits::HEARTBEAT_MAX;
use crate::sys;

/// A shard that has nothing to do still shows that it lives.
const IDLE_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(IDLE_MAX.as_millis() * 2 <= HEARTBEAT_MAX.as_millis());

pub(super) fn run<T: Turns>(
    pace: Pace,
    make: impl FnOnce(&Waits) -> io::Result<T>,
    started: impl FnOnce(Result<(), &io::Error>),
) -> io::Result<()> {
    let begin = || {
        pace.cpu.map(sys::pin_to).transpose()?;
        let waits = Waits::new()?;
        Ok((make(&waits)?, waits.waker()?, waits))
    };
    let (mut shard, waker, mut waits) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            started(Err(&error));
            return Err(error);
        }
    };
    started(Ok(()));
    loop {
        let ControlFlow::Continue(due) = pace.turn(&mut shard, &mut waits)? else { return Ok(()) };
        if shard.about_to_wait(&waker) {
            waits.look(Some(Duration::ZERO))?;
            continue;
        }
        let within = || due.map_or(IDLE_MAX, |due| pace.clock.until(due).min(IDLE_MAX));
        if spins(pace.spin_before_park.min(within()), &mut waits)? {
            continue;
        }
        waits.look(Some(within()))?;
    }
}

/// Looks for so long without a wait; says whether something is ready, or somebody has woken the shard.
fn spins(for_: Duration, waits: &mut Waits) -> io::Result<bool> {
    if for_.is_zero() {
        return Ok(false);
    }
    let begun = Instant::now();
    while begun.elapsed() < for_ {
        if waits.look(Some(Duration::ZERO))? {
            return Ok(true);
        }
        std::hint::spin_loop();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::driver::clock::Clock;
    use crate::driver::seam::{Next, Ready, Turned};
    use std::task::Waker;

    /// Is due soon, and ends when it is called.
    struct Due {
        clock: Clock,
        at: Option<Time>,
    }

    impl Turns for Due {
        fn turn(&mut self, _: &[Ready]) -> Turned {
            let next = match self.at {
                Some(at) if at <= self.clock.now() => Next::Over,
                _ => Next::At(Some(*self.at.get_or_insert(self.clock.now().after(Duration::from_millis(5))))),
            };
            Turned { next, gather: false }
        }

        fn about_to_wait(&mut self, _: &Waker) -> bool {
            false
        }
    }

    #[test]
    fn who_spins_is_not_late_for_what_is_due() {
        let clock = Clock::start();
        let pace = Pace { clock, cpu: None, gather: Duration::ZERO, spin_before_park: Duration::from_secs(60) };
        run(pace, |_| Ok(Due { clock, at: None }), |_| {}).unwrap();
        assert!(clock.now() < Time(30_000_000));
    }
}
