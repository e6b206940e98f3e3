//! Callers that honour nothing: each call is placed when its time comes, its INVITE is sent again until something is
//! heard, and an answer is followed by ACK and BYE at once.
//!
//! Owns: where each call stands, and what came of the calls of each phase. Must not touch: sockets and clocks.

use super::answer;
use super::resends::{Due, Resends, Waiting};
use super::texts::{Asked, CallerTexts, Outbox, branch_mark, read_branch};
use crate::tally::Histogram;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

/// Calls in a row from one address, so that they leave in one batch.
const CALLS_IN_A_ROW: u64 = 16;

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was heard.
    Calling,
    /// A provisional response: the INVITE is not sent again.
    Proceeding,
    /// Its BYE waits for its answer.
    Leaving,
    /// It ended, was refused or is lost.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    placed_us: u64,
    phase: u32,
    state: State,
}

/// What came of the calls that were placed in one phase.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub offered: u64,
    pub accepted: Histogram,
    pub refused: Histogram,
    pub refused_by: BTreeMap<u16, u64>,
    /// Without a final answer for 8 s.
    pub lost: u64,
    pub resent: u64,
    /// BYEs without an answer for 8 s, or refused.
    pub byes_failed: u64,
}

pub struct Callers {
    texts: Vec<CallerTexts>,
    mark: Vec<u8>,
    /// Those from number `first` on; the first of them is not over, and those before it are.
    calls: VecDeque<Call>,
    first: u64,
    resends: Resends,
    /// BYEs that wait for an answer, to be sent again as they are.
    byes: HashMap<u64, Vec<u8>>,
    pub outcomes: Vec<Outcome>,
}

impl Callers {
    /// One for each of `addrs`, whose socket has the same number.
    pub fn new(addrs: &[SocketAddr], domain: &str, run: u32) -> Self {
        Self {
            texts: addrs.iter().map(|addr| CallerTexts::new(*addr, domain, run)).collect(),
            mark: branch_mark(run),
            calls: VecDeque::new(),
            first: 0,
            resends: Resends::default(),
            byes: HashMap::new(),
            outcomes: Vec::new(),
        }
    }

    /// From now on calls belong to a new phase; says its number.
    pub fn begin_phase(&mut self) -> usize {
        self.outcomes.push(Outcome::default());
        self.outcomes.len() - 1
    }

    /// Places a call.
    pub fn place(&mut self, now_us: u64, outbox: &mut Outbox) {
        let number = self.first + self.calls.len() as u64;
        let phase = self.outcomes.len() - 1;
        self.outcomes[phase].offered += 1;
        self.calls.push_back(Call { placed_us: now_us, phase: phase as u32, state: State::Calling });
        self.resends.first(Waiting { call: number, is_bye: false }, now_us);
        let socket = self.socket_of(number);
        outbox.push(socket, |out| self.texts[socket].write_invite(number, out));
    }

    fn socket_of(&self, number: u64) -> usize {
        (number / CALLS_IN_A_ROW % self.texts.len() as u64) as usize
    }

    /// A message has come to one of the sockets.
    pub fn take(&mut self, message: &[u8], now_us: u64, outbox: &mut Outbox) {
        let Some((asked, number)) = read_branch(message, &self.mark) else { return };
        let Some(code) = answer::status(message) else { return };
        match (asked, code) {
            (Asked::Invite, 100..200) => {
                if let Some(call) = self.call(number).filter(|call| call.state == State::Calling) {
                    call.state = State::Proceeding;
                }
            }
            (Asked::Invite, 200..300) => self.answered(number, message, now_us, outbox),
            (Asked::Invite, _) => self.refused(number, code, message, now_us, outbox),
            (Asked::Bye, 100..200) => {}
            (Asked::Bye, _) => self.left(number, code),
        }
    }

    fn call(&mut self, number: u64) -> Option<&mut Call> {
        self.calls.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Takes the final answer of a call that waits for one; says when it was placed, and its phase.
    fn decide(&mut self, number: u64, next: State) -> Option<(u64, &mut Outcome)> {
        let call = self.call(number).filter(|call| matches!(call.state, State::Calling | State::Proceeding))?;
        call.state = next;
        let (placed_us, phase) = (call.placed_us, call.phase as usize);
        Some((placed_us, &mut self.outcomes[phase]))
    }

    fn answered(&mut self, number: u64, message: &[u8], now_us: u64, outbox: &mut Outbox) {
        let socket = self.socket_of(number);
        outbox.push(socket, |out| self.texts[socket].write_ack_within(number, message, out));
        let Some((placed_us, outcome)) = self.decide(number, State::Leaving) else { return };
        outcome.accepted.record(now_us - placed_us);
        let mut bye = Vec::new();
        self.texts[socket].write_bye(number, message, &mut bye);
        outbox.push(socket, |out| out.extend_from_slice(&bye));
        self.byes.insert(number, bye);
        self.resends.first(Waiting { call: number, is_bye: true }, now_us);
    }

    fn refused(&mut self, number: u64, code: u16, message: &[u8], now_us: u64, outbox: &mut Outbox) {
        let socket = self.socket_of(number);
        outbox.push(socket, |out| self.texts[socket].write_ack(number, message, out));
        if let Some((placed_us, outcome)) = self.decide(number, State::Over) {
            outcome.refused.record(now_us - placed_us);
            *outcome.refused_by.entry(code).or_default() += 1;
            self.forget();
        }
    }

    fn left(&mut self, number: u64, code: u16) {
        let Some(call) = self.call(number).filter(|call| call.state == State::Leaving) else { return };
        call.state = State::Over;
        let phase = call.phase as usize;
        self.outcomes[phase].byes_failed += u64::from(code >= 300);
        self.byes.remove(&number);
        self.forget();
    }

    /// Sends again what is due, or gives it up.
    pub fn send_due(&mut self, now_us: u64, outbox: &mut Outbox) {
        while let Some((due, due_us)) = self.resends.take(now_us) {
            match due {
                Due::Again(waiting, step) => {
                    if self.send_again(waiting, outbox) {
                        self.resends.again(waiting, step, due_us);
                    }
                }
                Due::Lost(waiting) => self.give_up(waiting),
            }
        }
    }

    /// Says whether it still waits.
    fn send_again(&mut self, waiting: Waiting, outbox: &mut Outbox) -> bool {
        let (number, socket) = (waiting.call, self.socket_of(waiting.call));
        let Some(&mut Call { state, phase, .. }) = self.call(number) else { return false };
        match (state, waiting.is_bye) {
            (State::Calling, false) => outbox.push(socket, |out| self.texts[socket].write_invite(number, out)),
            (State::Leaving, true) => {
                let Some(bye) = self.byes.get(&number) else { return false };
                outbox.push(socket, |out| out.extend_from_slice(bye));
            }
            (State::Proceeding, false) => return true,
            _ => return false,
        }
        self.outcomes[phase as usize].resent += 1;
        true
    }

    fn give_up(&mut self, waiting: Waiting) {
        if waiting.is_bye {
            if self.call(waiting.call).is_some_and(|call| call.state == State::Leaving) {
                self.left(waiting.call, 408);
            }
        } else if let Some((_, outcome)) = self.decide(waiting.call, State::Over) {
            outcome.lost += 1;
            self.forget();
        }
    }

    /// Lets go of the oldest that are over.
    fn forget(&mut self) {
        while self.calls.pop_front_if(|call| call.state == State::Over).is_some() {
            self.first += 1;
        }
    }

    /// Whether no call waits for anything.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Message, Start};

    const RUN: u32 = 7;

    fn callers() -> Callers {
        let mut callers = Callers::new(&["127.1.0.1:9".parse().unwrap()], "example.com", RUN);
        callers.begin_phase();
        callers
    }

    /// The first lines' methods of what waits to be sent; the outbox is empty after.
    fn sent(outbox: &mut Outbox) -> Vec<String> {
        let methods = outbox.datagrams().map(|(_, bytes)| match Message::parse(bytes).expect("it is SIP").start {
            Start::Request { method, .. } => method.to_owned(),
            Start::Response { code, .. } => code.to_string(),
        });
        let methods = methods.collect();
        outbox.clear();
        methods
    }

    fn answer(letter: char, call: u64, code: u16) -> Vec<u8> {
        format!(
            "SIP/2.0 {code} x\r\nVia: SIP/2.0/UDP 127.1.0.1:9;branch=z9hG4bK-{RUN:08x}-{letter}{call:012x}\r\n\
             To: <sip:callee@example.com>;tag=t\r\nContact: <sip:server@127.0.0.1:7000>\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn an_accepted_call_is_hung_up_at_once_and_counted_once() {
        let (mut callers, mut outbox) = (callers(), Outbox::default());
        callers.place(1_000, &mut outbox);
        callers.take(&answer('i', 0, 200), 21_000, &mut outbox);
        assert_eq!(sent(&mut outbox), ["INVITE", "ACK", "BYE"]);
        callers.take(&answer('i', 0, 200), 22_000, &mut outbox);
        assert_eq!(sent(&mut outbox), ["ACK"], "a 200 that comes twice");
        callers.send_due(600_000, &mut outbox);
        assert_eq!(sent(&mut outbox), ["BYE"]);
        callers.take(&answer('b', 0, 200), 700_000, &mut outbox);
        let outcome = &callers.outcomes[0];
        assert_eq!((outcome.accepted.max_ms(), outcome.byes_failed, callers.is_idle()), (20.0, 0, true));
        assert_eq!(outcome.accepted.summary()["count"], 1);
    }

    #[test]
    fn a_refused_call_is_acknowledged_and_over() {
        let (mut callers, mut outbox) = (callers(), Outbox::default());
        callers.place(0, &mut outbox);
        callers.place(0, &mut outbox);
        callers.take(&answer('i', 1, 503), 5_000, &mut outbox);
        callers.take(&answer('i', 1, 503), 6_000, &mut outbox);
        assert_eq!(sent(&mut outbox), ["INVITE", "INVITE", "ACK", "ACK"]);
        assert_eq!(callers.outcomes[0].refused_by, BTreeMap::from([(503, 1)]));
        assert!(!callers.is_idle(), "the other one still waits");
    }

    #[test]
    fn a_call_without_a_final_answer_is_lost_after_8_s_and_a_100_only_ends_its_repetitions() {
        let (mut callers, mut outbox) = (callers(), Outbox::default());
        callers.place(0, &mut outbox);
        callers.place(0, &mut outbox);
        callers.take(&answer('i', 1, 100), 1, &mut outbox);
        sent(&mut outbox);
        callers.send_due(7_999_999, &mut outbox);
        assert_eq!((sent(&mut outbox), callers.outcomes[0].lost), (vec!["INVITE".to_owned(); 4], 0));
        callers.send_due(8_000_000, &mut outbox);
        assert_eq!((callers.outcomes[0].lost, callers.outcomes[0].resent, callers.is_idle()), (2, 4, true));
        callers.take(&answer('i', 0, 200), 8_100_000, &mut outbox);
        assert_eq!(callers.outcomes[0].accepted.summary()["count"], 0);
    }
}
