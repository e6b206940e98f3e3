//! DNS questions in the air: each has a task with its socket, which ends when the engine is done with it.
//!
//! Owns: which exchanges live, and the task that waits for each. Must not touch: the sockets, what is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

/// What a new task is to do.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) exchange: u32,
    pub(super) to: SocketAddr,
    pub(super) tcp: bool,
    pub(super) bytes: Vec<u8>,
}

/// By exchange; few, for the engine bounds them.
#[derive(Debug, Default)]
pub(super) struct Resolving {
    /// `None` until the task has run for the first time.
    live: BTreeMap<u32, Option<Waker>>,
}

impl Resolving {
    pub(super) fn begin(&mut self, exchange: u32) {
        self.live.insert(exchange, None);
    }

    /// Ends an exchange: its task is woken, and finds that it is over.
    pub(super) fn end(&mut self, exchange: u32) {
        if let Some(Some(task)) = self.live.remove(&exchange) {
            task.wake();
        }
    }

    pub(super) fn end_all(&mut self) {
        std::mem::take(&mut self.live).into_values().flatten().for_each(Waker::wake);
    }

    /// For its task: ready when the exchange is over.
    pub(super) fn poll_over(&mut self, exchange: u32, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = self.live.get_mut(&exchange) else { return Poll::Ready(()) };
        if task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_over_once_it_has_ended_and_not_before() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut resolving = Resolving::default();
        assert!(resolving.poll_over(1, &mut cx).is_ready(), "it has never begun");
        (1..=3).for_each(|exchange| resolving.begin(exchange));
        assert!(resolving.poll_over(1, &mut cx).is_pending());
        resolving.end(1);
        assert!(resolving.poll_over(1, &mut cx).is_ready());
        assert!(resolving.poll_over(2, &mut cx).is_pending());
        resolving.end_all();
        assert!(resolving.poll_over(2, &mut cx).is_ready() && resolving.poll_over(3, &mut cx).is_ready());
    }
}
