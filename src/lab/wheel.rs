//! A timer wheel with lazy cancellation: whoever set an alarm finds out whether it still matters.
//!
//! Owns: alarms by due time. Must not touch: clocks (time is an argument, microseconds since start).

const TICK_US: u64 = 4_096;
const SLOTS: usize = 8_192;
/// How far [`Wheel::idle_us`] looks ahead.
const LOOK_AHEAD: usize = 256;

/// Alarms in slots of about 4 ms; one that lies more than a turn ahead stays in its slot for that turn.
pub struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    tick: u64,
}

impl<T> Wheel<T> {
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: 0 }
    }

    /// Sets an alarm; a time that has passed rings at the next [`Wheel::advance`].
    pub fn set(&mut self, due_us: u64, alarm: T) {
        let tick = (due_us / TICK_US + 1).max(self.tick + 1);
        self.slots[slot(tick)].push((due_us, alarm));
    }

    /// Moves everything that is due by `now_us` into `due`.
    pub fn advance(&mut self, now_us: u64, due: &mut Vec<T>) {
        let target = now_us / TICK_US;
        while self.tick < target {
            self.tick += 1;
            let limit_us = self.tick * TICK_US;
            let list = &mut self.slots[slot(self.tick)];
            if list.is_empty() {
                continue;
            }
            let mut at = 0;
            while at < list.len() {
                if list[at].0 <= limit_us {
                    due.push(list.swap_remove(at).1);
                } else {
                    at += 1;
                }
            }
            if list.is_empty() && list.capacity() > 1_024 {
                *list = Vec::new();
            }
        }
    }

    /// How long nothing can ring, at most about a second.
    pub fn idle_us(&self) -> u64 {
        let ahead = (1..LOOK_AHEAD as u64).find(|ahead| !self.slots[slot(self.tick + ahead)].is_empty());
        ahead.unwrap_or(LOOK_AHEAD as u64) * TICK_US
    }
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).expect("a slot index fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_ring_once_and_not_early() {
        let mut wheel = Wheel::new();
        let mut due = Vec::new();
        for (after_us, name) in [(10_000, "soon"), (500_000, "later"), (90_000_000, "past a turn"), (0, "at once")] {
            wheel.set(after_us, (after_us, name));
        }
        let mut now_us = 0;
        let mut rung = Vec::new();
        while now_us < 100_000_000 {
            now_us += 1_000;
            wheel.advance(now_us, &mut due);
            for (after_us, name) in due.drain(..) {
                assert!(now_us >= after_us, "{name} rang early");
                assert!(now_us <= after_us + 3 * TICK_US, "{name} rang late at {now_us}");
                rung.push(name);
            }
        }
        assert_eq!(rung, ["at once", "soon", "later", "past a turn"]);
    }
}
