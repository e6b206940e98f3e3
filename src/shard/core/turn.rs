//! One turn of a shard: everything that is ready is read, and then one pass carries out and flushes what came of it.
//!
//! Owns: the order of these, and the end of a shard that was stopped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

use super::Core;
use super::conn::Key;
use super::pass::{Passed, RETRY_AFTER};
use crate::driver::{Driver, Next, Ready, Token, Turned, Turns};

/// How long a stopped shard waits for its peers to close too.
const STOP_LINGER_MAX: Duration = Duration::from_millis(250);

impl<D: Driver> Turns for Core<D> {
    fn turn(&mut self, ready: &[Ready]) -> Turned {
        self.caught(Self::read_left);
        self.caught(Self::hear_left);
        for one in ready {
            match one.token {
                Token::Conn { index, serial } => {
                    let key = Key { index: index as usize, serial };
                    self.guarded(key, |core| core.on_conn(key, one));
                }
                Token::Header(number) => self.caught(|core| core.on_header(number)),
                Token::Question(exchange) => self.caught(|core| core.on_question(exchange)),
                Token::Point(point) => {
                    self.datagrams_wait(point);
                    self.connections_wait(point);
                }
            }
        }
        self.caught(Self::receive_all);
        self.caught(Self::accept_all);
        // A panic may cut a pass short: the rest of it comes with the next.
        let soon = self.driver.now().after(RETRY_AFTER);
        let mut passed = Passed { due: Some(soon), gather: false };
        self.caught(|core| passed = core.pass());
        let next = if self.stopped { self.stopping() } else { self.next(passed) };
        Turned { next, gather: passed.gather }
    }

    fn about_to_wait(&mut self, waker: &Waker) -> bool {
        // Registered before the look, so that what is put in after it wakes.
        self.shared.register(waker);
        self.has_mail()
    }
}

impl<D: Driver> Core<D> {
    /// Takes a step, and catches its panic.
    fn caught(&mut self, step: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(self))) {
            self.on_panic(panic.as_ref());
        }
    }

    fn has_mail(&self) -> bool {
        !self.inbox.is_empty() || !self.controls.is_empty() || self.shared.has_orders()
    }

    fn next(&self, passed: Passed) -> Next {
        let has_more = self.udp.iter().any(|udp| udp.has_more) || self.resolving.has_more();
        if has_more || self.has_left() || self.has_mail() {
            return Next::Again;
        }
        match passed.due {
            Some(due) if due <= self.driver.now() => Next::Again,
            due => Next::At(due),
        }
    }

    /// Goodbyes are said; waits a little for the peers'.
    fn stopping(&mut self) -> Next {
        let now = self.driver.now();
        let at = *self.stops_at.get_or_insert(now.after(STOP_LINGER_MAX));
        if now < at && !self.conns.is_empty() {
            return if self.has_left() { Next::Again } else { Next::At(Some(at)) };
        }
        self.caught(Self::remove_all);
        self.shared.retire();
        Next::Over
    }
}
