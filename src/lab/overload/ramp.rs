//! The search for the rate that a proxy can take.
//!
//! Owns: which rate is tried next. Must not touch: how one is tried.

/// From one rate to the next while all hold.
const RISE: f64 = 1.25;
/// How close the search comes.
const CLOSE: f64 = 1.03;

/// Rises until a rate does not hold, then halves the distance.
#[derive(Debug)]
pub struct Ramp {
    held: f64,
    failed: Option<f64>,
}

impl Ramp {
    /// What held, as far as is known.
    pub fn held(&self) -> f64 {
        self.held
    }

    pub fn new() -> Self {
        Self { held: 0.0, failed: None }
    }

    /// The rate to try next; none when the search has come close.
    pub fn next(&self, first: f64) -> Option<f64> {
        match self.failed {
            None if self.held == 0.0 => Some(first),
            None => Some(self.held * RISE),
            Some(failed) if self.held == 0.0 || failed / self.held <= CLOSE => None,
            Some(failed) => Some(f64::midpoint(self.held, failed)),
        }
    }

    /// What became of it.
    pub fn tried(&mut self, rate: f64, holds: bool) {
        if holds {
            self.held = rate;
        } else {
            self.failed = Some(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: f64) -> (f64, usize) {
        let (mut ramp, mut tries) = (Ramp::new(), 0);
        while let Some(rate) = ramp.next(500.0) {
            ramp.tried(rate, rate <= limit);
            tries += 1;
        }
        (ramp.held(), tries)
    }

    #[test]
    fn the_search_comes_close_to_the_limit_from_below() {
        for limit in [500.0, 777.0, 16_000.0] {
            let (held, tries) = found(limit);
            assert!(held <= limit && held * CLOSE >= limit && tries < 25, "{limit}: {held} after {tries}");
        }
        assert_eq!(found(400.0), (0.0, 1));
    }
}
