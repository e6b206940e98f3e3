//! Wakes a shard whose executor sleeps although there is work: glommio can park with runnable tasks, and a wake from
//! another thread is what gets it going again (GLOMMIO.md, The scheduler fault to live with).
//!
//! A stall is told by a heartbeat that stands still while mail waits, a deadline is over, or a pass was asked for.
//! A task that was made runnable by its socket and then lost shows none of these; so a shard that is quiet is woken
//! every fifth of a second all the same, which costs next to nothing, is not counted, and comes before the first
//! retransmission over UDP (T1). While all are quiet, the looks are fewer too.
//!
//! As the one plain thread that looks at all shards it also sees to it that memory is given back when much of it is free
//! ([`super::spare`]): the shards let go of the room in their tables, and then the allocator of what is free.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::mailbox::Inbox;
use super::shared::Handle;
use super::spare::Spare;
use crate::driver::{Clock, Kind};
use crate::sys::memory;

/// From one look to the next. A heartbeat that stands still for two looks is a stall.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// From one look to the next when the last look saw neither a heartbeat nor work.
const LOOK_EVERY_QUIET: Duration = Duration::from_millis(100);
/// How late a timer may be.
const LATE_US_MAX: u64 = 25_000;
/// Time without a heartbeat after which a quiet shard is woken.
const QUIET_MAX: Duration = Duration::from_millis(200);

/// Looks that the shards have to let go of what they keep, before it goes to the system.
const LOOKS_TO_SHRINK: u64 = 4;

/// What the last looks at a shard saw.
#[derive(Debug, Default)]
struct Seen {
    beats: u64,
    /// Looks in a row that saw work and the same heartbeat.
    stalled: u32,
    /// How long looks have seen the same heartbeat.
    quiet: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The shard's heart has beaten, or there is work that it has had no time for yet.
    Fine,
    /// No heartbeat, and no work.
    Idle,
    /// No heartbeat although there is work.
    Stalled,
    /// Idle for so long that it is woken all the same.
    Quiet,
}

impl Seen {
    fn look(&mut self, beats: u64, has_work: bool, since_last: Duration) -> Verdict {
        if self.beats != beats {
            *self = Self { beats, ..Self::default() };
            return Verdict::Fine;
        }
        self.quiet += since_last;
        self.stalled = if has_work { self.stalled + 1 } else { 0 };
        match self.stalled {
            2.. => {
                *self = Self { beats, ..Self::default() };
                Verdict::Stalled
            }
            1 => Verdict::Fine,
            0 if self.quiet >= QUIET_MAX => {
                self.quiet = Duration::ZERO;
                Verdict::Quiet
            }
            0 => Verdict::Idle,
        }
    }
}

/// Starts the thread. It ends when the other end of `stop` is dropped.
///
/// # Errors
/// The system starts no thread.
pub(super) fn start(
    handle: Handle,
    inboxes: Vec<Inbox>,
    clock: Clock,
    kind: Kind,
    stop: Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut seen: Vec<Seen> = inboxes.iter().map(|_| Seen::default()).collect();
        // The thread of the other driver sleeps in the system, which loses no wake.
        let nudges = kind == Kind::IoUring;
        let mut every = if nudges { LOOK_EVERY } else { LOOK_EVERY_QUIET };
        let mut spare = Spare::default();
        let (mut looks, mut gives_at) = (0_u64, u64::MAX);
        while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let mut idle = true;
            for (at, (seen, inbox)) in seen.iter_mut().zip(&inboxes).enumerate().filter(|_| nudges) {
                let shared = handle.shared(at);
                let late = shared.due() < clock.now().0.saturating_sub(LATE_US_MAX);
                let has_work = late || !inbox.is_empty() || handle.waits(at);
                let verdict = seen.look(shared.beats(), has_work, every);
                idle &= matches!(verdict, Verdict::Idle | Verdict::Quiet);
                match verdict {
                    Verdict::Fine | Verdict::Idle => {}
                    Verdict::Stalled => shared.nudge(true),
                    Verdict::Quiet => shared.nudge(false),
                }
            }
            let held = || (0..inboxes.len()).map(|shard| handle.shared(shard).held()).sum();
            if gives_at == u64::MAX && spare.look(every, memory::resident_len, held) {
                handle.shrink();
                gives_at = looks + LOOKS_TO_SHRINK;
            }
            if looks == gives_at {
                memory::give_back();
                spare.given_back();
                gives_at = u64::MAX;
            }
            looks += 1;
            every = if idle { LOOK_EVERY_QUIET } else { LOOK_EVERY };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_at_the_same_heartbeat_with_work_are_a_stall() {
        let mut seen = Seen::default();
        let mut look = |beats, has_work| seen.look(beats, has_work, LOOK_EVERY);
        assert_eq!(look(1, true), Verdict::Fine);
        assert_eq!(look(1, true), Verdict::Fine);
        assert_eq!(look(1, true), Verdict::Stalled);
        assert_eq!(look(2, true), Verdict::Fine);
        assert_eq!(look(2, true), Verdict::Fine);
        assert_eq!(look(2, false), Verdict::Idle);
        assert_eq!(look(2, true), Verdict::Fine, "work that was done meanwhile is no stall");
    }

    #[test]
    fn a_quiet_shard_is_woken_now_and_then() {
        for every in [LOOK_EVERY, LOOK_EVERY_QUIET] {
            let mut seen = Seen::default();
            let looks = Duration::from_secs(5).as_millis() / every.as_millis();
            let quiet = (0..looks).filter(|_| seen.look(0, false, every) == Verdict::Quiet).count();
            assert_eq!(quiet, 25, "five times a second");
        }
    }
}
