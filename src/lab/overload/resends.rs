//! When requests without a final answer are sent again: timer A of RFC 3261 §17.1.1.2 with T1 of 500 ms, and the end of
//! patience after 8 s.
//!
//! Owns: the order of what is due. Must not touch: what is sent. As every interval has a queue of its own, each queue is
//! in order by itself, and a million calls cost no search.

use std::collections::VecDeque;

/// From one sending to the next; the last is no sending, but the end of patience, 8 s after the first.
const INTERVALS_US: [u64; 5] = [500_000, 1_000_000, 2_000_000, 4_000_000, 500_000];

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The number of its call.
    pub call: u64,
    /// Whether it is the BYE, else the INVITE.
    pub is_bye: bool,
}

/// What has come of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To be sent once more; the next step follows when [`Resends::again`] is called.
    Again(Waiting, usize),
    /// Has waited for 8 s.
    Lost(Waiting),
}

#[derive(Debug, Default)]
pub struct Resends {
    queues: [VecDeque<(u64, Waiting)>; INTERVALS_US.len()],
}

impl Resends {
    /// A request is sent for the first time.
    pub fn first(&mut self, waiting: Waiting, now_us: u64) {
        self.again(waiting, 0, now_us);
    }

    /// A request goes on waiting, at the step that [`Due::Again`] said, from when that was due.
    pub fn again(&mut self, waiting: Waiting, step: usize, from_us: u64) {
        self.queues[step].push_back((from_us + INTERVALS_US[step], waiting));
    }

    /// Takes one that is due, and when that was.
    pub fn take(&mut self, now_us: u64) -> Option<(Due, u64)> {
        for (step, queue) in self.queues.iter_mut().enumerate() {
            if let Some((due_us, waiting)) = queue.pop_front_if(|(due_us, _)| *due_us <= now_us) {
                let next = step + 1;
                let due = if next < INTERVALS_US.len() { Due::Again(waiting, next) } else { Due::Lost(waiting) };
                return Some((due, due_us));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_again_by_timer_a_and_lost_after_8_s() {
        let (one, two) = (Waiting { call: 1, is_bye: false }, Waiting { call: 2, is_bye: true });
        let mut resends = Resends::default();
        resends.first(one, 0);
        resends.first(two, 100_000);
        let mut seen = Vec::new();
        for now_us in (0..=9_000_000).step_by(50_000) {
            while let Some((due, due_us)) = resends.take(now_us) {
                assert_eq!(due_us, now_us);
                match due {
                    Due::Again(waiting, step) => {
                        seen.push((now_us / 1_000, waiting.call));
                        resends.again(waiting, step, due_us);
                    }
                    Due::Lost(waiting) => seen.push((now_us / 1_000, 10 * waiting.call)),
                }
            }
        }
        let one = [(500, 1), (1_500, 1), (3_500, 1), (7_500, 1), (8_000, 10)];
        let two = [(600, 2), (1_600, 2), (3_600, 2), (7_600, 2), (8_100, 20)];
        let mut both: Vec<_> = one.into_iter().chain(two).collect();
        both.sort_unstable();
        assert_eq!(seen, both);
    }
}
