//! Changes to a message, applied while its spans are copied into the outgoing buffer.
//!
//! Edits name positions of the message as it was received, in any order. Cleared and used again, a list
//! allocates nothing.

use smallvec::SmallVec;

use super::Span;

/// A list of edits.
#[derive(Debug, Default)]
pub struct Edits {
    ops: SmallVec<[Op; 16]>,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    cut: Span,
    insert: bool,
    order: u32,
    /// Where its text stands in that of all, which may be longer than a header block.
    text: (u32, u32),
}

impl Edits {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all edits and keeps the memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.text.clear();
    }

    /// Leaves `span` out. Overlapping removals are one.
    pub fn remove(&mut self, span: Span) {
        self.replace(span, b"");
    }

    /// Puts `text` in the place of `span`. Inside of a removed span it vanishes.
    pub fn replace(&mut self, span: Span, text: &[u8]) {
        self.push(span, false, |out| out.extend_from_slice(text));
    }

    /// Like [`Edits::replace`] with what `write` appends.
    pub fn replace_with(&mut self, span: Span, write: impl FnOnce(&mut Vec<u8>)) {
        self.push(span, false, write);
    }

    /// Puts `text` before the byte at `at`. At one place, insertions stand in the order of the calls and
    /// before a replacement that starts there. Inside of a removed span, but for its start, it vanishes.
    pub fn insert(&mut self, at: usize, text: &[u8]) {
        self.push(Span::within(at, at), true, |out| out.extend_from_slice(text));
    }

    /// Like [`Edits::insert`] with what `write` appends.
    pub fn insert_with(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.push(Span::within(at, at), true, write);
    }

    /// Appends `buf` with the edits to `out`. The list can be applied again.
    pub fn apply(&mut self, buf: &[u8], out: &mut Vec<u8>) {
        // The order of the call breaks ties, so that an unstable sort, which needs no memory, will do.
        self.ops.sort_unstable_by_key(|op| (op.cut.start, !op.insert, op.order));
        out.reserve(buf.len() + self.text.len());
        let mut copied = 0;
        let mut cut_start = None;
        for op in &self.ops {
            let start = (op.cut.start as usize).min(buf.len());
            let end = (op.cut.end as usize).min(buf.len());
            if start >= copied {
                out.extend_from_slice(&buf[copied..start]);
                copied = start;
            } else if op.insert || cut_start != Some(start) {
                copied = copied.max(end);
                continue;
            }
            if !op.insert {
                cut_start = Some(start);
            }
            out.extend_from_slice(&self.text[op.text.0 as usize..op.text.1 as usize]);
            copied = copied.max(end);
        }
        out.extend_from_slice(&buf[copied..]);
    }

    /// Where its memory is and how much, for the test that it is used again.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (bool, *const u8, usize) {
        (self.ops.spilled(), self.text.as_ptr(), self.text.capacity())
    }

    fn push(&mut self, cut: Span, insert: bool, write: impl FnOnce(&mut Vec<u8>)) {
        // A message holds far fewer edits than 2^32, and less text.
        let (order, start) = (self.ops.len() as u32, self.text.len() as u32);
        write(&mut self.text);
        let text = (start, self.text.len() as u32);
        self.ops.push(Op { cut, insert, order, text });
    }
}

#[cfg(test)]
mod tests;
