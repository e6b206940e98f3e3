//! A range of a message's header block.

/// Bytes `start..end` of the buffer that it was made for. A header block is at most 32 KiB, so 16 bits hold it: a parsed
/// message is made of spans, and is kept for as long as its transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: u16,
    /// One past the last byte.
    pub end: u16,
}

impl Span {
    /// From indexes. Of a text that is no header block, and longer than any, it holds the beginning.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end);
        let short = |at: usize| at.min(u16::MAX as usize) as u16;
        Self { start: short(start), end: short(end) }
    }

    /// From indexes into a header block, or into what another span holds.
    pub(super) fn within(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && u16::try_from(end).is_ok());
        Self { start: start as u16, end: end as u16 }
    }

    /// The bytes, or nothing when the span does not belong to `buf`.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }

    /// Length in bytes.
    #[cfg(test)]
    pub(super) fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }
}
