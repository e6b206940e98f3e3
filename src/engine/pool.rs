//! Buffers that are used again, so that a forwarded message costs no allocation once the shard is warm.

/// Buffers kept at most.
const BUFFERS_MAX: usize = 1_024;
/// A buffer that has grown past this is given back to the system.
const BUFFER_LEN_MAX: usize = 8 * 1024;
/// What a new buffer holds: most SIP messages.
const BUFFER_LEN: usize = 2 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Vec<u8>>,
}

impl Pool {
    /// An empty buffer.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_LEN))
    }

    /// A buffer with a copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.take();
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0 && capacity <= BUFFER_LEN_MAX && self.free.len() < BUFFERS_MAX {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}
