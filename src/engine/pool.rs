//! Buffers that are used again, so that a forwarded message costs no allocation once the shard is warm.

/// Buffers kept at most.
const BUFFERS_MAX: usize = 1_024;
/// A buffer that has grown past this is given back to the system.
const BUFFER_LEN_MAX: usize = 8 * 1024;
/// What a new buffer holds: most SIP messages. A smaller one is not kept, for it would have to grow at its next use.
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

    /// What a buffer holds in one of its own size, for what is kept for half a minute or longer: a buffer of the pool
    /// for a few hundred bytes would be most of what a finished transaction costs.
    pub(super) fn exact(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        let exact = buffer.as_slice().to_vec();
        self.give(buffer);
        exact
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let fits = (BUFFER_LEN..=BUFFER_LEN_MAX).contains(&buffer.capacity());
        if fits && self.free.len() < BUFFERS_MAX {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_buffers_that_a_message_fits_into_are_used_again() {
        let mut pool = Pool::default();
        pool.give(b"\r\n".to_vec());
        pool.give(Vec::new());
        pool.give(Vec::with_capacity(BUFFER_LEN_MAX + 1));
        assert!(pool.free.is_empty());
        let buffer = pool.copy(b"SIP/2.0 200 OK\r\n");
        let kept = pool.exact(buffer);
        assert_eq!((kept.as_slice(), kept.capacity()), (&b"SIP/2.0 200 OK\r\n"[..], 16));
        assert_eq!(pool.free.len(), 1, "the pool's own is used again");
        assert!(pool.take().capacity() >= BUFFER_LEN);
    }
}
