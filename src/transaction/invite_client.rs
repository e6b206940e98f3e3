//! The INVITE client transaction (RFC 3261 §17.1.1, RFC 6026 §7.2, §8.4).
//!
//! ```text
//! Calling --1xx--> Proceeding --2xx--> Accepted --M--> end
//!    |  \--2xx--> Accepted   \--3xx-6xx--> Completed --D--> end
//!    |  \--3xx-6xx--> Completed
//!    \--B--> end (timeout)
//! ```

use std::time::Duration;

use super::{Effects, Resend, Tell, TimerOp, Times};

/// Where the transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No response yet; `next` is the next interval of timer A.
    Calling { next: Duration },
    /// A provisional response has come.
    Proceeding,
    /// A 2xx has come: more of them are passed on until timer M.
    Accepted,
    /// A final error has come: each repetition gets the ACK again until timer D.
    Completed,
}

/// One INVITE that was sent on.
#[derive(Clone, Copy, Debug)]
pub struct InviteClient {
    state: State,
    reliable: bool,
}

impl InviteClient {
    /// The INVITE is being sent: timers A (unreliable transports only) and B start.
    #[must_use]
    pub fn start(reliable: bool, times: Times) -> (Self, Effects) {
        let effects = Effects {
            retransmit: if reliable { TimerOp::Keep } else { TimerOp::Arm(times.t1) },
            deadline: TimerOp::Arm(times.lifetime()),
            ..Effects::default()
        };
        (Self { state: State::Calling { next: times.t1 * 2 }, reliable }, effects)
    }

    /// Whether no response at all has come yet.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. })
    }

    /// Whether a final response has come.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Accepted | State::Completed)
    }

    /// A response that matches this transaction has come.
    pub fn on_response(&mut self, code: u16, times: Times) -> Effects {
        match (self.state, code) {
            (State::Calling { .. } | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                Effects { retransmit: TimerOp::Stop, deadline: TimerOp::Stop, ..Effects::none() }
                    .and_tell(Tell::Response)
            }
            (State::Calling { .. } | State::Proceeding, 200..=299) => {
                self.state = State::Accepted;
                Effects::linger(Some(times.lifetime())).and_tell(Tell::Response)
            }
            (State::Calling { .. } | State::Proceeding, _) => {
                self.state = State::Completed;
                // Timer D: at least 32 s over UDP, zero otherwise (RFC 3261 §17.1.1.2).
                let wait = (!self.reliable).then(|| times.lifetime().max(Duration::from_secs(32)));
                Effects::linger(wait).and_resend(Resend::Ack).and_tell(Tell::Response)
            }
            (State::Accepted, 200..=299) => Effects::none().and_tell(Tell::Response),
            (State::Completed, 300..) => Effects::resend(Resend::Ack),
            (State::Accepted | State::Completed, _) => Effects::none(),
        }
    }

    /// Timer A.
    pub fn on_retransmit(&mut self) -> Effects {
        match &mut self.state {
            State::Calling { next } => {
                let wait = *next;
                *next = wait.saturating_mul(2);
                Effects { retransmit: TimerOp::Arm(wait), ..Effects::resend(Resend::Same) }
            }
            _ => Effects::none(),
        }
    }

    /// Timer B, M or D.
    pub fn on_deadline(&mut self) -> Effects {
        match self.state {
            State::Calling { .. } => Effects::ended().and_tell(Tell::Timeout),
            State::Proceeding => Effects::none(),
            State::Accepted | State::Completed => Effects::ended(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    #[test]
    fn timer_a_doubles_until_a_provisional_stops_it() {
        let (mut machine, effects) = InviteClient::start(false, TIMES);
        assert_eq!(effects.retransmit, TimerOp::Arm(TIMES.t1));
        assert_eq!(effects.deadline, TimerOp::Arm(Duration::from_secs(32)));
        for seconds in [1, 2, 4, 8] {
            let effects = machine.on_retransmit();
            assert_eq!(effects.resend, Some(Resend::Same));
            assert_eq!(effects.retransmit, TimerOp::Arm(Duration::from_secs(seconds)));
        }
        let effects = machine.on_response(180, TIMES);
        assert_eq!((effects.retransmit, effects.deadline), (TimerOp::Stop, TimerOp::Stop));
        assert_eq!(machine.on_retransmit(), Effects::none());
    }

    #[test]
    fn timer_b_expiry_tells_timeout() {
        let (mut machine, _) = InviteClient::start(true, TIMES);
        let effects = machine.on_deadline();
        assert_eq!((effects.tell, effects.ended), (Some(Tell::Timeout), true));
    }

    #[test]
    fn a_final_error_is_acked_each_time_and_told_once() {
        let (mut machine, _) = InviteClient::start(false, TIMES);
        let first = machine.on_response(486, TIMES);
        assert_eq!((first.resend, first.tell), (Some(Resend::Ack), Some(Tell::Response)));
        assert_eq!(first.deadline, TimerOp::Arm(Duration::from_secs(32)));
        let again = machine.on_response(486, TIMES);
        assert_eq!((again.resend, again.tell), (Some(Resend::Ack), None));
        assert!(machine.on_deadline().ended);
    }

    #[test]
    fn a_final_error_over_a_stream_ends_at_once() {
        let (mut machine, _) = InviteClient::start(true, TIMES);
        assert!(machine.on_response(486, TIMES).ended);
    }

    #[test]
    fn every_2xx_is_told_until_timer_m() {
        let (mut machine, _) = InviteClient::start(true, TIMES);
        assert_eq!(machine.on_response(200, TIMES).tell, Some(Tell::Response));
        assert_eq!(machine.on_response(200, TIMES).tell, Some(Tell::Response));
        assert_eq!(machine.on_response(486, TIMES), Effects::none());
        assert!(machine.on_deadline().ended);
    }
}
