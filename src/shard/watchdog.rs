//! Wakes a shard whose executor sleeps although there is work: glommio can park with runnable tasks, and a wake from
//! another thread is what gets it going again (GLOMMIO.md, The scheduler fault to live with).
//!
//! A stall is told by a heartbeat that stands still while mail waits, a deadline is over, or a pass was asked for.
//! A task that was made runnable by its socket and then lost shows none of these; so a shard that is quiet is woken
//! every quarter of a second all the same, which costs next to nothing and is not counted.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::Clock;
use super::mailbox::Inbox;
use super::shared::Handle;

/// From one look to the next. A heartbeat that stands still for two looks is a stall.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How late a timer may be.
const LATE_US_MAX: u64 = 25_000;
/// Looks without a heartbeat after which a quiet shard is woken.
const QUIET_LOOKS_MAX: u32 = 10;

/// What the last looks at a shard saw.
#[derive(Debug, Default)]
struct Seen {
    beats: u64,
    /// Looks in a row that saw work and the same heartbeat.
    stalled: u32,
    /// Looks in a row that saw the same heartbeat.
    quiet: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Stalled,
    Quiet,
}

impl Seen {
    fn look(&mut self, beats: u64, has_work: bool) -> Verdict {
        if self.beats != beats {
            *self = Self { beats, ..Self::default() };
            return Verdict::Fine;
        }
        self.quiet += 1;
        self.stalled = if has_work { self.stalled + 1 } else { 0 };
        if self.stalled >= 2 {
            self.stalled = 0;
            self.quiet = 0;
            Verdict::Stalled
        } else if self.quiet >= QUIET_LOOKS_MAX {
            self.quiet = 0;
            Verdict::Quiet
        } else {
            Verdict::Fine
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
    stop: Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut seen: Vec<Seen> = inboxes.iter().map(|_| Seen::default()).collect();
        while stop.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            for (at, (seen, inbox)) in seen.iter_mut().zip(&inboxes).enumerate() {
                let shared = handle.shared(at);
                let late = shared.due() < clock.now().0.saturating_sub(LATE_US_MAX);
                let has_work = late || shared.asked() || !inbox.is_empty() || handle.waiting(at) > 0;
                match seen.look(shared.beats(), has_work) {
                    Verdict::Fine => {}
                    Verdict::Stalled => shared.nudge(true),
                    Verdict::Quiet => shared.nudge(false),
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_at_the_same_heartbeat_with_work_are_a_stall() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(1, true), Verdict::Fine);
        assert_eq!(seen.look(1, true), Verdict::Fine);
        assert_eq!(seen.look(1, true), Verdict::Stalled);
        assert_eq!(seen.look(2, true), Verdict::Fine);
        assert_eq!(seen.look(2, true), Verdict::Fine);
        assert_eq!(seen.look(2, false), Verdict::Fine);
        assert_eq!(seen.look(2, true), Verdict::Fine, "work that was done meanwhile is no stall");
    }

    #[test]
    fn a_quiet_shard_is_woken_now_and_then() {
        let mut seen = Seen::default();
        let quiet = (0..100).filter(|_| seen.look(0, false) == Verdict::Quiet).count();
        assert_eq!(quiet, 10);
    }
}
