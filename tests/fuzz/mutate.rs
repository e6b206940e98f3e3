//! Changes of a corpus, the same for the same seed.

/// Bytes that readers trip over.
const TRICKY: &[u8] = b"\r\n \t\0\"\\<>,;:=@?%[]/.*0123456789z\x1e\x7f\x80\xff";

/// Makes new inputs of old ones.
pub struct Mutator {
    random: fastrand::Rng,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seed: u64, words: Vec<Vec<u8>>) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), words }
    }

    /// One of the corpus with a few changes.
    pub fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.random.choice(corpus).expect("a corpus").clone();
        for _ in 0..=self.random.usize(..6) {
            self.change(&mut bytes, corpus);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let random = &mut self.random;
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(1..64)).min(bytes.len());
        match random.u8(..8) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 => bytes.insert(at, *random.choice(TRICKY).expect("there are some")),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let other = random.choice(corpus).expect("a corpus");
                let from = random.usize(..=other.len());
                let to = (from + random.usize(1..256)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            6 if !self.words.is_empty() => {
                let word = random.choice(&self.words).expect("there are some");
                bytes.splice(at..at, word.iter().copied());
            }
            _ if at < bytes.len() => bytes[at] = *random.choice(TRICKY).expect("there are some"),
            _ => bytes.push(b'\n'),
        }
    }

    /// It with some piece of it so often that it is nearly so long.
    pub fn grown(&mut self, bytes: &[u8], len_max: usize) -> Vec<u8> {
        let at = self.random.usize(..=bytes.len());
        let end = (at + self.random.usize(1..32)).min(bytes.len());
        let piece = &bytes[at..end];
        let times = (len_max.saturating_sub(bytes.len())) / piece.len().max(1);
        [&bytes[..end], &piece.repeat(if piece.is_empty() { 0 } else { times }), &bytes[end..]].concat()
    }
}

/// The word of a line of a dictionary of libfuzzer: `name="text"` or `"text"`, with `\xHH`, `\\` and `\"`.
pub fn word(line: &str) -> Option<Vec<u8>> {
    let inner = line.trim().strip_suffix('"')?.split_once('"')?.1;
    let mut out = Vec::new();
    let mut rest = inner.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let hex = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
                rest = tail;
            }
            (b'\\', [escaped, tail @ ..]) => {
                out.push(*escaped);
                rest = tail;
            }
            _ => out.push(*byte),
        }
    }
    Some(out)
}
