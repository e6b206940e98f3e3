//! Contacts of phones whose connection is gone, until their registrations would have expired.
//!
//! Owns: their hashes, at the home of the Contact's user part, where a Request-URI is looked up. The SIP Server still
//! has the registration, and may ask for the phone by its Contact: that is a phone's address, to which no connection is
//! opened, and by now it may be another one's (DESIGN.md, What it does on the wire, 4). A phone that comes back is
//! found in the directory first.

use std::collections::HashMap;

use super::{Engine, KeyedState, Mail, Timer};
use crate::clock::Time;
use crate::flow::directory::Binding;
use crate::ids::BindingId;
use crate::stats::Counter;

/// See the module.
#[derive(Debug)]
pub(super) struct Lost {
    until: HashMap<u64, Time, KeyedState>,
    count_max: usize,
}

impl Lost {
    pub(super) fn new(count_max: usize, state: KeyedState) -> Self {
        Self { until: HashMap::with_hasher(state), count_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Whether a phone that is gone has registered this Contact.
    pub(super) fn holds(&self, contact: u64) -> bool {
        self.until.contains_key(&contact)
    }
}

impl Engine {
    /// A phone's connection has closed.
    pub(super) fn note_lost(&mut self, binding: &Binding) {
        let user = self.contact_user16_of(&binding.contact);
        let home = BindingId { user, hash: 0 }.home(self.settings.shards);
        self.mail(home, Mail::LostContact { contact: binding.contact_hash, until: binding.expires });
    }

    /// See [`Mail::LostContact`].
    pub(super) fn on_lost_contact(&mut self, contact: u64, until: Time) {
        let held = self.lost.until.get_mut(&contact);
        if let Some(held) = held {
            *held = until.max(*held);
        } else if self.lost.until.len() < self.lost.count_max {
            self.lost.until.insert(contact, until);
            self.wheel.arm(until, Timer::LostContact(contact));
        } else {
            self.count(Counter::LimitBindings);
        }
    }

    pub(super) fn on_lost_contact_timer(&mut self, contact: u64, now: Time) {
        match self.lost.until.get(&contact) {
            Some(until) if *until > now => {
                self.wheel.arm(*until, Timer::LostContact(contact));
            }
            _ => {
                self.lost.until.remove(&contact);
            }
        }
    }
}
