//! How one input holds several things.

/// Ends a part of an input that is text: a record separator, which no message needs.
pub const SEPARATOR: u8 = 0x1e;

/// The parts of an input that is text.
pub fn texts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == SEPARATOR)
}

/// Takes numbers and pieces off the front of an input; zeros and nothing when it is at its end.
pub struct Front<'a>(pub &'a [u8]);

impl<'a> Front<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A piece behind its length in two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = u16::from_be_bytes(self.array());
        self.take(len.into())
    }
}

/// Puts texts in the place of `%X`, where X is one of these letters. What stands behind a `%` else stays as it is.
pub fn filled(data: &[u8], fillings: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut at = 0;
    while let Some(byte) = data.get(at) {
        let named = data.get(at + 1).and_then(|name| fillings.iter().find(|(letter, _)| letter == name));
        match named {
            Some((_, text)) if *byte == b'%' => {
                out.extend_from_slice(text);
                at += 2;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}
