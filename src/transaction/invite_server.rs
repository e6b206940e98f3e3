//! The INVITE server transaction (RFC 3261 §17.2.1, RFC 6026 §7.1, §8.5).
//!
//! ```text
//! Proceeding --2xx--> Accepted --L--> end
//!     \--3xx-6xx--> Completed --ACK--> Confirmed --I--> end
//!                       \--H--> end (no ACK)
//! ```

use std::time::Duration;

use super::{Effects, Resend, Tell, TimerOp, Times};

/// Where the transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No final response yet.
    Proceeding,
    /// A 2xx was passed on: retransmitted INVITEs are absorbed until timer L.
    Accepted,
    /// A final error was sent and waits for its ACK; `next` is the next interval of timer G.
    Completed { next: Duration },
    /// The ACK has come; repetitions of it are absorbed until timer I.
    Confirmed,
}

/// One INVITE that was received.
#[derive(Clone, Copy, Debug)]
pub struct InviteServer {
    state: State,
    reliable: bool,
}

impl InviteServer {
    /// An INVITE has come that matches no transaction.
    #[must_use]
    pub fn start(reliable: bool) -> Self {
        Self { state: State::Proceeding, reliable }
    }

    /// Whether a final response may still be sent.
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Whether a 2xx has gone: further ones are passed on as they come.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.state == State::Accepted
    }

    /// The core sends a final response.
    pub fn on_final(&mut self, code: u16, times: Times) -> Effects {
        if code < 300 {
            self.state = State::Accepted;
            return Effects::linger(Some(times.lifetime()));
        }
        self.state = State::Completed { next: times.t1 * 2 };
        Effects {
            retransmit: if self.reliable { TimerOp::Stop } else { TimerOp::Arm(times.t1.min(times.t2)) },
            deadline: TimerOp::Arm(times.lifetime()),
            ..Effects::none()
        }
    }

    /// The INVITE has come again.
    pub fn on_request(&mut self) -> Effects {
        match self.state {
            State::Proceeding | State::Completed { .. } => Effects::resend(Resend::Same),
            State::Accepted | State::Confirmed => Effects::none(),
        }
    }

    /// An ACK with this transaction's key has come.
    pub fn on_ack(&mut self, times: Times) -> Effects {
        match self.state {
            State::Completed { .. } => {
                self.state = State::Confirmed;
                Effects::linger((!self.reliable).then_some(times.t4))
            }
            _ => Effects::none(),
        }
    }

    /// Timer G.
    pub fn on_retransmit(&mut self, times: Times) -> Effects {
        match &mut self.state {
            State::Completed { next } => {
                let wait = (*next).min(times.t2);
                *next = wait.saturating_mul(2);
                Effects { retransmit: TimerOp::Arm(wait), ..Effects::resend(Resend::Same) }
            }
            _ => Effects::none(),
        }
    }

    /// Timer H, I or L.
    pub fn on_deadline(&mut self) -> Effects {
        match self.state {
            State::Proceeding => Effects::none(),
            State::Completed { .. } => Effects::ended().and_tell(Tell::NoAck),
            State::Accepted | State::Confirmed => Effects::ended(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    #[test]
    fn timer_g_doubles_up_to_t2_until_the_ack() {
        let mut machine = InviteServer::start(false);
        assert_eq!(machine.on_final(486, TIMES).retransmit, TimerOp::Arm(TIMES.t1));
        for seconds in [1, 2, 4, 4, 4] {
            assert_eq!(machine.on_retransmit(TIMES).retransmit, TimerOp::Arm(Duration::from_secs(seconds)));
        }
        let effects = machine.on_ack(TIMES);
        assert_eq!((effects.retransmit, effects.deadline), (TimerOp::Stop, TimerOp::Arm(TIMES.t4)));
        assert_eq!(machine.on_request(), Effects::none());
        assert!(machine.on_deadline().ended);
    }

    #[test]
    fn timer_h_expiry_tells_that_no_ack_came() {
        let mut machine = InviteServer::start(true);
        let effects = machine.on_final(503, TIMES);
        assert_eq!((effects.retransmit, effects.deadline), (TimerOp::Stop, TimerOp::Arm(Duration::from_secs(32))));
        let effects = machine.on_deadline();
        assert_eq!((effects.tell, effects.ended), (Some(Tell::NoAck), true));
    }

    #[test]
    fn an_ack_over_a_stream_ends_at_once() {
        let mut machine = InviteServer::start(true);
        machine.on_final(486, TIMES);
        assert!(machine.on_ack(TIMES).ended);
    }

    #[test]
    fn a_retransmitted_invite_after_2xx_is_absorbed_until_timer_l() {
        let mut machine = InviteServer::start(false);
        assert_eq!(machine.on_request().resend, Some(Resend::Same));
        assert_eq!(machine.on_final(200, TIMES).deadline, TimerOp::Arm(Duration::from_secs(32)));
        assert_eq!(machine.on_request(), Effects::none());
        assert_eq!(machine.on_ack(TIMES), Effects::none());
        assert!(machine.on_deadline().ended);
    }
}
