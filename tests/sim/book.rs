//! What both SIP Servers of the pair know: the registrar's bindings, and the dialogs of a B2BUA. It outlives each.

use hawser::clock::Time;

use crate::dialog::Dialog;
use crate::net::PartyId;

/// One registered Contact.
#[derive(Clone, Debug)]
pub struct Binding {
    pub user: String,
    pub phone: PartyId,
    pub contact: String,
    pub path: Vec<String>,
    pub until: Time,
    /// Call-ID and number of its REGISTER.
    pub by: (String, u32),
}

#[derive(Default)]
pub struct Book {
    pub bindings: Vec<Binding>,
    /// By Call-ID, few.
    pub legs: Vec<Dialog>,
}

impl Book {
    /// A phone has registered this Contact. It replaces what the phone had.
    pub fn bind(&mut self, binding: Binding) {
        self.unbind(binding.phone);
        self.bindings.push(binding);
    }

    pub fn unbind(&mut self, phone: PartyId) {
        self.bindings.retain(|one| one.phone != phone);
    }

    /// The bindings of a user that count now.
    pub fn of(&self, user: &str, now: Time) -> Vec<&Binding> {
        self.bindings.iter().filter(|one| one.user == user && one.until > now).collect()
    }

    pub fn leg(&mut self, call_id: &str) -> Option<&mut Dialog> {
        self.legs.iter_mut().find(|leg| leg.call_id == call_id)
    }

    pub fn end(&mut self, call_id: &str) {
        self.legs.retain(|leg| leg.call_id != call_id);
    }
}
