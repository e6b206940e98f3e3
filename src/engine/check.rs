//! What holds between any two inputs: asked by every test after each of them.

use super::Engine;
use super::context::Asked;
use super::contexts::{Contexts, Slot};
use super::ports::{Ports, Timer};

impl Engine {
    /// Checks what each part says of itself, and what two of them know of each other. It walks over everything.
    ///
    /// # Panics
    /// When something does not hold, with what that is.
    pub fn check(&self) {
        assert!(self.ports.local.is_empty(), "a mail to itself is left");
        assert!(self.kept_counts_hold(), "a count is not what a walk finds");
        self.contexts.check(&self.ports);
        self.check_connections();
    }
}

impl Contexts {
    /// Keys and contexts, timers and handles, watchers and targets.
    fn check(&self, ports: &Ports) {
        let (mut keys, mut handles, mut watching) = (0, 0, 0);
        for (id, slot) in self.iter() {
            let Asked { key, lasting_key, .. } = slot.asked();
            assert_eq!(self.with_key(key), Some(id), "a context is not found by its key");
            keys += 1;
            // A later request of the same sender with the same branch has taken it over.
            keys += usize::from(lasting_key.is_some_and(|key| self.with_key(key) == Some(id)));
            for (timer, handle) in slot.timers() {
                handles += 1;
                let armed = ports.wheel.key_of(handle);
                let is_its = matches!(armed, Some(Timer::Context(of, which)) if of == id && which == timer);
                assert!(is_its, "{timer:?} of a context is {armed:?}");
            }
            if let Slot::Open(context) = slot {
                assert_eq!(context.watched, context.listed, "a context hears of another connection than it wants to");
                watching += usize::from(context.listed.is_some());
                assert!(context.listed.is_none_or(|on| self.is_watched(on, id)), "a context is no watcher");
                context.check();
            }
        }
        assert_eq!(keys, self.keys_len(), "a key leads to no context");
        assert_eq!(watching, self.watchers_len(), "a watcher is no context");
        let armed = ports.wheel.keys().filter(|timer| matches!(timer, Timer::Context(..))).count();
        assert_eq!(armed, handles, "a timer runs for nobody");
    }
}
