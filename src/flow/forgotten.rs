//! Contacts that phones have registered, and that a full table has no room for.
//!
//! Owns: until when such a Contact may be a phone's, by a part of its hash. What is noted here is never taken for
//! nobody's before its time; now and then something that was never noted is held for noted. So the tables fail
//! closed: the SIP Server gets 480 for what may be a phone that registered, and nothing is sent to an address that a
//! phone has said, or has had. Its size is fixed, and one phone's Contacts take one place of it each.

use crate::clock::Time;

/// Places. With 400 Contacts forgotten, one device in a hundred and sixty is held for a phone.
const PLACES: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Seconds since the start of time by place; empty until something is forgotten.
    until_s: Vec<u32>,
}

impl Forgotten {
    /// A Contact may be a phone's until this time.
    pub(super) fn note(&mut self, contact_hash: u64, until: Time) {
        self.until_s.resize(PLACES, 0);
        let place = &mut self.until_s[place_of(contact_hash)];
        // Rounded up: it ends no earlier than the registration.
        *place = (*place).max(seconds(until).saturating_add(1));
    }

    /// Whether a Contact may be one of them.
    pub(super) fn holds(&self, contact_hash: u64, now: Time) -> bool {
        self.until_s.get(place_of(contact_hash)).is_some_and(|until| *until > seconds(now))
    }
}

fn seconds(time: Time) -> u32 {
    u32::try_from(time.since(Time(0)).as_secs()).unwrap_or(u32::MAX)
}

fn place_of(contact_hash: u64) -> usize {
    // A remainder of 65,536 fits a usize.
    usize::try_from(contact_hash % PLACES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_is_held_until_its_time_and_others_are_not() {
        let mut forgotten = Forgotten::default();
        assert!(!forgotten.holds(7, Time(0)));
        forgotten.note(7, Time(60_500_000));
        // A shorter time does not end a longer one.
        forgotten.note(7, Time(10_000_000));
        assert!(forgotten.holds(7, Time(60_500_000)));
        assert!(!forgotten.holds(7, Time(61_500_000)));
        assert!(!forgotten.holds(8, Time(0)));
    }

    #[test]
    fn whatever_many_there_are_none_is_taken_for_nobodys() {
        let mut forgotten = Forgotten::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let all: Vec<u64> = std::iter::repeat_with(|| rng.u64(..)).take(200_000).collect();
        for contact in &all {
            forgotten.note(*contact, Time(3_600_000_000));
        }
        assert!(all.iter().all(|contact| forgotten.holds(*contact, Time(3_599_000_000))));
        assert_eq!(forgotten.until_s.len(), PLACES);
    }
}
