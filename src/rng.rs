//! Random numbers from an injected seed: SipHash-2-4 in counter mode, so that who sees some (branches, DNS ids)
//! cannot tell the next.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// A generator with its key and counter.
#[derive(Clone, Debug)]
pub struct Rng {
    key: SipHasher24,
    counter: u64,
}

impl Rng {
    /// From a seed; the same one gives the same numbers.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let word = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&seed[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        // All 32 bytes count: the second half is hashed under the first.
        let mut first = SipHasher24::new_with_keys(word(0), word(8));
        first.write_u64(word(16));
        let low = first.finish();
        first.write_u64(word(24));
        Self { key: SipHasher24::new_with_keys(low, first.finish()), counter: 0 }
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends, and an iterator would say that it may")]
    pub fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = self.key;
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// A seed for another generator.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for word in seed.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        seed
    }
}

/// How many of so many rounds a test plays: under miri, which takes a thousand times as long for each, a few.
#[cfg(test)]
pub(crate) fn rounds(all: u64) -> u64 {
    if cfg!(miri) { all.div_ceil(2_000) } else { all }
}
