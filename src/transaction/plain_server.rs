//! The non-INVITE server transaction (RFC 3261 §17.2.2).
//!
//! ```text
//! Trying --1xx--> Proceeding --final--> Completed --J--> end
//! ```

use super::{Effects, Resend, Times};

/// Where the transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No response yet: repetitions of the request are absorbed.
    Trying,
    /// A provisional response was sent: repetitions get it again.
    Proceeding,
    /// The final response was sent: repetitions get it again until timer J.
    Completed,
}

/// One request other than INVITE and ACK that was received.
#[derive(Clone, Copy, Debug)]
pub struct PlainServer {
    state: State,
    reliable: bool,
}

impl PlainServer {
    /// A request has come that matches no transaction.
    #[must_use]
    pub fn start(reliable: bool) -> Self {
        Self { state: State::Trying, reliable }
    }

    /// Whether a final response may still be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Completed
    }

    /// The core sends a provisional response.
    pub fn on_provisional(&mut self) {
        if self.state == State::Trying {
            self.state = State::Proceeding;
        }
    }

    /// The core sends the final response.
    pub fn on_final(&mut self, times: Times) -> Effects {
        self.state = State::Completed;
        Effects::linger((!self.reliable).then(|| times.lifetime()))
    }

    /// The request has come again.
    pub fn on_request(&mut self) -> Effects {
        match self.state {
            State::Trying => Effects::none(),
            State::Proceeding | State::Completed => Effects::resend(Resend::Same),
        }
    }

    /// Timer J.
    pub fn on_deadline(&mut self) -> Effects {
        match self.state {
            State::Completed => Effects::ended(),
            _ => Effects::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::TimerOp;
    use super::*;

    const TIMES: Times =
        Times { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    #[test]
    fn repetitions_get_the_last_response_once_there_is_one() {
        let mut machine = PlainServer::start(false);
        assert_eq!(machine.on_request(), Effects::none());
        machine.on_provisional();
        assert_eq!(machine.on_request().resend, Some(Resend::Same));
        assert_eq!(machine.on_final(TIMES).deadline, TimerOp::Arm(Duration::from_secs(32)));
        assert_eq!(machine.on_request().resend, Some(Resend::Same));
        assert!(machine.on_deadline().ended);
    }

    #[test]
    fn a_final_response_over_a_stream_ends_at_once() {
        let mut machine = PlainServer::start(true);
        assert!(machine.on_final(TIMES).ended);
    }
}
