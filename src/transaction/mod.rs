//! The four transaction state machines of RFC 3261 §17 with RFC 6026, their keys and their timers.
//!
//! Owns: states, and which timer runs in which state. Must not touch: messages, flows, the wheel. Each
//! machine is told what happened (`on_*`) and answers with [`Effects`]: what to send again, which of its two
//! timers to arm or stop, what to tell the proxy core, and whether it has ended. A machine has one
//! *retransmit* timer (A, E or G) and one *deadline* (B, F, H, I, J, K, L, M or D); which letter it is
//! follows from the state.
//!
//! Left out on purpose: RFC 2543 transactions without the magic cookie are matched by the key of
//! [`key`], but have the timers of RFC 3261.

pub mod branch;
pub mod invite_client;
pub mod invite_server;
pub mod key;
pub mod plain_client;
pub mod plain_server;

use std::time::Duration;

pub use branch::Branch;
pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use plain_client::PlainClient;
pub use plain_server::PlainServer;

/// T1, T2 and T4 (RFC 3261 table 4).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Round-trip estimate.
    pub t1: Duration,
    /// The longest retransmit interval of non-INVITE requests and INVITE responses.
    pub t2: Duration,
    /// The longest that a message stays in the network.
    pub t4: Duration,
}

impl Times {
    /// 64·T1: timers B, F, H, J, L and M.
    #[must_use]
    pub fn lifetime(self) -> Duration {
        self.t1 * 64
    }

    /// How long after its first sending a non-INVITE request's timer E reaches T2, which is when a proxy
    /// that has no answer yet says 100 (RFC 4320 §4.1).
    #[must_use]
    pub fn timer_e_reaches_t2(self) -> Duration {
        let (mut at, mut interval) = (Duration::ZERO, self.t1.max(Duration::from_millis(1)));
        while interval < self.t2 {
            at += interval;
            interval *= 2;
        }
        at.max(self.t1)
    }
}

/// What a machine wants done with one of its two timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimerOp {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Let it fire so long from now, instead of when it would have.
    Arm(Duration),
    /// Stop it.
    Stop,
}

/// What to put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// The request as it was sent (client), or the last response (server).
    Same,
    /// The ACK to the final response (INVITE client only).
    Ack,
}

/// What the proxy core has to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// Pass this response on.
    Response,
    /// No final response in time (timer B or F).
    Timeout,
    /// No ACK in time (timer H).
    NoAck,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Send this.
    pub resend: Option<Resend>,
    /// Timer A, E or G.
    pub retransmit: TimerOp,
    /// Timer B, D, F, H, I, J, K, L or M.
    pub deadline: TimerOp,
    /// Tell the core.
    pub tell: Option<Tell>,
    /// The transaction is over: forget it.
    pub ended: bool,
}

impl Effects {
    fn none() -> Self {
        Self::default()
    }

    fn ended() -> Self {
        Self { retransmit: TimerOp::Stop, deadline: TimerOp::Stop, ended: true, ..Self::default() }
    }

    fn resend(what: Resend) -> Self {
        Self { resend: Some(what), ..Self::default() }
    }

    /// `deadline` after `wait`, or the end at once when there is nothing to wait for.
    fn linger(wait: Option<Duration>) -> Self {
        match wait {
            Some(wait) => Self { retransmit: TimerOp::Stop, deadline: TimerOp::Arm(wait), ..Self::default() },
            None => Self::ended(),
        }
    }

    fn and_tell(self, tell: Tell) -> Self {
        Self { tell: Some(tell), ..self }
    }

    fn and_resend(self, what: Resend) -> Self {
        Self { resend: Some(what), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_e_reaches_t2_after_three_and_a_half_seconds_with_the_defaults() {
        let times = Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };
        assert_eq!(times.timer_e_reaches_t2(), Duration::from_millis(3_500));
        assert_eq!(times.lifetime(), Duration::from_secs(32));
    }
}
