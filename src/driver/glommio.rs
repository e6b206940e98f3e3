//! The loop that waits in glommio's executor: one task, and one armed poll over the epoll set of all sockets.
//!
//! Before it parks, which costs glommio 16 to 25 µs, the loop looks once more whether something is ready. An executor of
//! glommio can park although its task is runnable (GLOMMIO.md, The scheduler fault to live with); the wake of a foreign
//! thread gets it going again, and is the watchdog's.

use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};

use super::clock::Clock;
use super::pace::Pace;
use super::seam::Turns;
use super::waits::Waits;
use crate::clock::Time;
use crate::sys;

/// Memory that glommio reserves for storage I/O, which Hawser does not do; its default of 10 MiB is resident.
const IO_MEMORY_LEN: usize = 65_536;
/// One poll, the executor's own and a timer.
const RING_DEPTH: usize = 128;
/// How long a task may run before the executor wants to look at others. There are none, and a timer that is armed and
/// cancelled at each wait is left as rare as can be.
const PREEMPT_EVERY: Duration = Duration::from_millis(10);

/// How long a wait lasts while the system has no descriptor for the poll: connections may have taken the last one, which
/// must not end the shard that they are with.
const BLIND_MAX: Duration = Duration::from_millis(2);

pub(super) fn run<T: Turns>(
    pace: Pace,
    make: impl FnOnce(&Waits) -> io::Result<T>,
    started: impl FnOnce(Result<(), &io::Error>),
) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(pace.cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_EVERY)
        .spin_before_park(pace.spin_before_park)
        .make()
        .map_err(|error| io::Error::other(error.to_string()));
    let begun = executor.and_then(|executor| {
        let waits = Waits::new()?;
        Ok((executor, make(&waits)?, waits))
    });
    match begun {
        Ok((executor, shard, waits)) => {
            started(Ok(()));
            executor.run(turns(pace, shard, waits))
        }
        Err(error) => {
            started(Err(&error));
            Err(error)
        }
    }
}

async fn turns<T: Turns>(pace: Pace, mut shard: T, mut waits: Waits) -> io::Result<()> {
    let mut park = Park { poll: None, timer: None };
    loop {
        let ControlFlow::Continue(due) = pace.turn(&mut shard, &mut waits)? else { return Ok(()) };
        if waits.look(Some(Duration::ZERO))? {
            continue;
        }
        let mut has_waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_waited, true) || shard.about_to_wait(cx.waker()) {
                return Poll::Ready(());
            }
            park.poll(pace.clock, &waits, due, cx)
        })
        .await;
        waits.look(Some(Duration::ZERO))?;
    }
}

/// What a wait of the executor hangs on. Both outlive a wait that something else has ended.
struct Park {
    /// The one poll, over the whole set.
    poll: Option<TcpStream>,
    /// The timer and when it fires: never later than what is due, maybe earlier, for moving it each time that
    /// the next deadline moves would cost more than a turn for nothing now and then.
    timer: Option<(Timer, Time)>,
}

impl Park {
    fn poll(&mut self, clock: Clock, waits: &Waits, due: Option<Time>, cx: &mut Context<'_>) -> Poll<()> {
        let due = match self.poll_set(waits, cx) {
            Ok(Poll::Ready(())) => return Poll::Ready(()),
            Ok(Poll::Pending) => due,
            Err(_) => {
                let soon = clock.now().after(BLIND_MAX);
                Some(due.map_or(soon, |due| due.min(soon)))
            }
        };
        self.poll_timer(clock, due, cx)
    }

    /// Ready when something in the set is. glommio polls descriptors for its own streams only, so that the set is shown to
    /// it as one: the poll is armed when the stream is made, and a read after it finds out that this is no socket,
    /// which is how its end shows.
    ///
    /// # Errors
    /// There is no descriptor for it.
    fn poll_set(&mut self, waits: &Waits, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if self.poll.is_none() {
            self.poll = Some(sys::adopt(sys::duplicate(waits)?));
        }
        let fired = self.poll.as_mut().is_some_and(|poll| Pin::new(poll).poll_read(cx, &mut [0]).is_ready());
        if fired {
            self.poll = None;
            return Ok(Poll::Ready(()));
        }
        Ok(Poll::Pending)
    }

    fn poll_timer(&mut self, clock: Clock, due: Option<Time>, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_ref().is_some_and(|(_, fires)| clock.until(*fires).is_zero()) {
            self.timer = None;
        }
        let Some(due) = due else { return Poll::Pending };
        if self.timer.as_ref().is_some_and(|(_, fires)| *fires <= due) {
            return Poll::Pending;
        }
        let mut timer = Timer::new(clock.until(due));
        if Pin::new(&mut timer).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.timer = Some((timer, due));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::seam::{Next, Ready, Turned};
    use std::fs::File;
    use std::process::Command;
    use std::task::Waker;

    /// Set in the process that runs out of descriptors.
    const ALONE: &str = "HAWSER_TEST_ALONE";

    /// Takes all descriptors that there are, waits a few times, and ends.
    struct Greedy {
        clock: Clock,
        files: Vec<File>,
        turns: u32,
    }

    impl Turns for Greedy {
        fn turn(&mut self, _: &[Ready]) -> Turned {
            self.turns += 1;
            self.files.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
            let next = match self.turns {
                1..4 => Next::At(Some(self.clock.now().after(Duration::from_secs(60)))),
                _ => Next::Over,
            };
            Turned { next, gather: false }
        }

        fn about_to_wait(&mut self, _: &Waker) -> bool {
            false
        }
    }

    #[test]
    fn a_shard_whose_connections_have_taken_the_last_descriptor_goes_on() {
        if std::env::var_os(ALONE).is_some() {
            let clock = Clock::start();
            let pace = Pace { clock, cpu: None, gather: Duration::ZERO, spin_before_park: Duration::ZERO };
            return run(pace, |_| Ok(Greedy { clock, files: Vec::new(), turns: 0 }), |_| {}).unwrap();
        }
        let name = "driver::glommio::tests::a_shard_whose_connections_have_taken_the_last_descriptor_goes_on";
        let alone = std::env::current_exe().unwrap();
        let command = format!("ulimit -n 100 && exec {} --exact {name}", alone.display());
        let run = Command::new("sh").args(["-c", &command]).env(ALONE, "1").output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    }
}
