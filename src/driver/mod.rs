//! Who waits for readiness, and what a shard's core asks of the world.
//!
//! Owns: the seam between a shard's core and what it stands on ([`Driver`], and [`Turns`] the other way round), the
//! sockets of a shard in one epoll set ([`Sockets`], [`Waits`]), and the two loops that wait for that set: [`epoll`] with
//! the one system call that is made for it, and [`glommio`] with an io_uring that polls the set as a whole. Must not
//! touch: what is read and sent, SIP, state of a shard.
//!
//! ```text
//!            turn(ready) ─────────────►            accept, connect, read, send, now
//!   a loop                  shard::Core  ─────────────────────────────────────────► Driver
//!            ◄───────────── Next
//! ```
//! A turn takes what is ready, and says when the next one is due. Nothing in it waits, so that the simulator can be a
//! driver too: it makes readiness, time and sockets of its own.
//!
//! Readiness is told once (edge-triggered): the core reads until there is nothing left, or remembers that there is more.
//! With both drivers the sockets are in one epoll set. An io_uring that polled each of them would have the kernel walk
//! all armed polls at every wait, so that a call would cost the more the more phones are idle (perf/README.md).

mod clock;
mod epoll;
mod glommio;
mod pace;
mod seam;
mod sockets;
mod waits;

use std::fmt;
use std::io;

pub use self::clock::Clock;
pub use self::pace::Pace;
pub use self::seam::{Driver, Next, Ready, Token, Turned, Turns};
pub use self::sockets::{Socket, Sockets};
pub use self::waits::Waits;

/// Who waits for the sockets of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// glommio's ring.
    IoUring,
    /// The thread itself, in `epoll_wait`.
    Epoll,
}

impl Kind {
    /// As the settings call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes a shard on this thread, and runs it to its end. `started` hears how that began.
pub fn run<T: Turns>(
    kind: Kind,
    pace: Pace,
    make: impl FnOnce(&Waits) -> io::Result<T>,
    started: impl FnOnce(Result<(), &io::Error>),
) -> io::Result<()> {
    match kind {
        Kind::IoUring => glommio::run(pace, make, started),
        Kind::Epoll => epoll::run(pace, make, started),
    }
}
