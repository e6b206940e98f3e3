//! One event in a context's life: the context, what it may use, and what it wants done.

use smallvec::SmallVec;

use super::event::{Action, Seek};
use super::state::{ResponseContext, TxnTimer};
use crate::clock::Time;
use crate::engine::Level;
use crate::engine::ports::{Env, Ports, Timer};
use crate::ids::FlowRef;
use crate::planted::{Plant, planted};
use crate::stats::Counter;
use crate::transaction::TimerOp;
use crate::transaction::branch::TxnId;

/// What a context wants done, in this order.
pub type Actions = SmallVec<[Action; 2]>;

/// See the module.
pub struct Turn<'a> {
    pub id: TxnId,
    pub context: &'a mut ResponseContext,
    pub env: &'a Env,
    pub ports: &'a mut Ports,
    pub now: Time,
    pub actions: &'a mut Actions,
}

impl Turn<'_> {
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn seek(&mut self, what: Seek) {
        self.act(Action::Seek(what));
    }

    pub(super) fn count(&mut self, counter: Counter) {
        self.ports.count(counter);
    }

    pub(super) fn tell(&mut self, level: Level, what: &'static str, about: Vec<u8>) {
        let peer = self.context.asked.source.peer;
        self.act(Action::Tell { level, what, peer, about });
    }

    // --- timers --------------------------------------------------------------------------------------------

    pub(super) fn arm(&mut self, timer: TxnTimer, wait: std::time::Duration) {
        let at = self.now.after(wait);
        let place = &mut self.context.timers[timer as usize];
        match *place {
            Some(armed) if self.ports.wheel.rearm(armed, at) => {}
            _ => *place = Some(self.ports.wheel.arm(at, Timer::Context(self.id, timer))),
        }
    }

    pub(super) fn stop(&mut self, timer: TxnTimer) {
        if let Some(armed) = self.context.timers[timer as usize].take()
            && !planted(Plant::TimerNotStopped)
        {
            self.ports.wheel.cancel(armed);
        }
    }

    pub(super) fn apply(&mut self, timer: TxnTimer, op: TimerOp) {
        match op {
            TimerOp::Keep => {}
            TimerOp::Arm(wait) => self.arm(timer, wait),
            TimerOp::Stop => self.stop(timer),
        }
    }

    /// A timer has fired: its handle is spent.
    pub(super) fn spend(&mut self, timer: TxnTimer) {
        self.context.timers[timer as usize] = None;
    }

    // --- what it waits for -----------------------------------------------------------------------------------

    /// The context wants to hear of the end of the connection that it was sent on, until its final response.
    pub(super) fn watch(&mut self, flow: FlowRef) {
        self.context.watched = match flow {
            FlowRef::Stream { shard, conn, .. } => Some((shard, conn)),
            FlowRef::Udp { .. } => None,
        };
    }

    pub(super) fn unwatch(&mut self) {
        self.context.watched = None;
    }
}
