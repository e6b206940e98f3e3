//! What holds between any two inputs: asked by every test after each of them.

use super::Engine;
use super::context::Asked;
use super::context::{Contexts, Slot};
use super::kept::Kept;
use super::ports::{Ports, Timer};

impl Engine {
    /// Checks what each part says of itself, and what two of them know of each other. It walks over everything.
    ///
    /// # Panics
    /// When something does not hold, with what that is.
    pub fn check(&self) {
        assert!(self.ports.local.is_empty(), "a mail to itself is left");
        let of_contexts = self.contexts.check(&self.ports);
        self.connections.check(self.opened_conns());
        let checks = self.service_checks.as_ref();
        checks.iter().for_each(|checks| checks.check());
        if let Err(what) = self.location.check(&self.env) {
            panic!("location: it does not hold that {what}");
        }
        let (mut walked, mut of_conns, mut unregistered, mut bound) = (Kept::default(), 0, 0, 0);
        self.contexts.iter().for_each(|(_, slot)| walked.add(slot));
        for (id, conn) in self.conns.iter() {
            assert_eq!(conn.is_registered(), self.location.is_registered(id), "a connection and its flow differ");
            let transport = self.env.settings.point(conn.point).transport;
            walked.conn_came(transport);
            if conn.is_registered() {
                walked.conn_bound(transport, true);
            }
            of_conns += usize::from(conn.has_timer());
            unregistered += u32::from(conn.counts_as_unregistered());
            bound += u32::from(conn.is_registered());
        }
        let shares: u32 = self.unregistered.values().sum();
        assert_eq!(unregistered, shares, "the shares of sources are not what a walk finds");
        assert_eq!(bound, self.abuse.bound_len(), "the bindings of sources are not what a walk finds");
        assert_eq!(walked, self.kept, "a count is not what a walk finds");
        let of_checks = checks.map_or(0, |checks| checks.timers());
        let of_dns = usize::from(self.dns_timer.is_some());
        let of_overload = usize::from(self.admission.overload().is_some());
        let of_abuse = self.abuse.timers_len();
        let held = of_contexts + self.location.timers_len() + of_conns + of_checks + of_dns + of_overload + of_abuse;
        assert_eq!(self.ports.wheel.len(), held, "a timer runs for nobody");
    }
}

impl Contexts {
    /// Keys and contexts, timers and handles, watchers and targets. Gives the number of timers.
    fn check(&self, ports: &Ports) -> usize {
        let (mut keys, mut handles, mut watching) = (0, 0, 0);
        for (id, slot) in self.iter() {
            let Asked { key, lasting_key, .. } = slot.asked();
            assert_eq!(self.with_key(key), Some(id), "a context is not found by its key");
            // A later request of the same sender with the same branch may have taken the second over.
            keys += 1 + usize::from(lasting_key.is_some_and(|key| self.with_key(key) == Some(id)));
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
        handles
    }
}
