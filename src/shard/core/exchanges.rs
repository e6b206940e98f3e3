//! Which DNS exchanges live.

use std::collections::BTreeMap;

/// By exchange; few, for the engine bounds them.
pub(super) struct Exchanges<Q> {
    pub(super) live: BTreeMap<u32, Q>,
    /// Exchanges that have more to be read, in the next turn.
    pub(super) left: Vec<u32>,
}

impl<Q> Default for Exchanges<Q> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), left: Vec::new() }
    }
}

impl<Q> Exchanges<Q> {
    /// An exchange was read, and maybe has more: it is in the list once, however often its socket tells of that.
    pub(super) fn put_down(&mut self, exchange: u32, more: bool) {
        if more && !self.left.contains(&exchange) {
            self.left.push(exchange);
        }
    }

    /// The engine is done with an exchange.
    pub(super) fn end(&mut self, exchange: u32) {
        self.live.remove(&exchange);
    }

    pub(super) fn end_all(&mut self) {
        self.live.clear();
    }

    pub(super) fn has_more(&self) -> bool {
        !self.left.is_empty()
    }
}
