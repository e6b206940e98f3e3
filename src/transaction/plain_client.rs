//! The non-INVITE client transaction (RFC 3261 §17.1.2).
//!
//! ```text
//! Trying --1xx--> Proceeding --final--> Completed --K--> end
//!    \------------ F -----------> end (timeout)
//! ```

use std::time::Duration;

use super::{Effects, Resend, Tell, TimerOp, Times};

/// Where the transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No response yet; `next` is the next interval of timer E.
    Trying { next: Duration },
    /// A provisional response has come: timer E runs at T2.
    Proceeding,
    /// A final response has come; repetitions are absorbed until timer K.
    Completed,
}

/// One request other than INVITE and ACK that was sent on.
#[derive(Clone, Copy, Debug)]
pub struct PlainClient {
    state: State,
    reliable: bool,
}

impl PlainClient {
    /// The request is being sent: timers E (unreliable transports only) and F start.
    #[must_use]
    pub fn start(reliable: bool, times: Times) -> (Self, Effects) {
        let effects = Effects {
            retransmit: if reliable { TimerOp::Keep } else { TimerOp::Arm(times.t1.min(times.t2)) },
            deadline: TimerOp::Arm(times.lifetime()),
            ..Effects::default()
        };
        (Self { state: State::Trying { next: times.t1 * 2 }, reliable }, effects)
    }

    /// Whether no response at all has come yet.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    /// Whether a final response has come.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.state == State::Completed
    }

    /// A response that matches this transaction has come.
    pub fn on_response(&mut self, code: u16, times: Times) -> Effects {
        match (self.state, code) {
            (State::Completed, _) => Effects::none(),
            (_, 100..=199) => {
                self.state = State::Proceeding;
                Effects::none().and_tell(Tell::Response)
            }
            _ => {
                self.state = State::Completed;
                Effects::linger((!self.reliable).then_some(times.t4)).and_tell(Tell::Response)
            }
        }
    }

    /// Timer E.
    pub fn on_retransmit(&mut self, times: Times) -> Effects {
        let wait = match &mut self.state {
            State::Trying { next } => {
                let wait = (*next).min(times.t2);
                *next = wait.saturating_mul(2);
                wait
            }
            State::Proceeding => times.t2,
            State::Completed => return Effects::none(),
        };
        Effects { retransmit: TimerOp::Arm(wait), ..Effects::resend(Resend::Same) }
    }

    /// Timer F or K.
    pub fn on_deadline(&mut self) -> Effects {
        match self.state {
            State::Completed => Effects::ended(),
            _ => Effects::ended().and_tell(Tell::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    #[test]
    fn timer_e_doubles_up_to_t2_and_stays_there_after_a_provisional() {
        let (mut machine, effects) = PlainClient::start(false, TIMES);
        assert_eq!(effects.retransmit, TimerOp::Arm(TIMES.t1));
        for seconds in [1, 2, 4, 4] {
            assert_eq!(machine.on_retransmit(TIMES).retransmit, TimerOp::Arm(Duration::from_secs(seconds)));
        }
        assert_eq!(machine.on_response(100, TIMES).tell, Some(Tell::Response));
        assert_eq!(machine.on_retransmit(TIMES).retransmit, TimerOp::Arm(TIMES.t2));
    }

    #[test]
    fn timer_f_expiry_tells_timeout_even_after_a_provisional() {
        let (mut machine, _) = PlainClient::start(true, TIMES);
        machine.on_response(100, TIMES);
        assert_eq!(machine.on_deadline().tell, Some(Tell::Timeout));
    }

    #[test]
    fn a_repeated_final_response_is_absorbed_until_timer_k() {
        let (mut machine, _) = PlainClient::start(false, TIMES);
        let effects = machine.on_response(200, TIMES);
        assert_eq!((effects.tell, effects.deadline), (Some(Tell::Response), TimerOp::Arm(TIMES.t4)));
        assert_eq!(machine.on_response(200, TIMES), Effects::none());
        let effects = machine.on_deadline();
        assert_eq!((effects.tell, effects.ended), (None, true));
    }

    #[test]
    fn a_final_response_over_a_stream_ends_at_once() {
        let (mut machine, _) = PlainClient::start(true, TIMES);
        assert!(machine.on_response(404, TIMES).ended);
    }
}
