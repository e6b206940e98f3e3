//! Which bindings of its AOR the Contacts of a REGISTER are, asked before the REGISTER goes on: the Path and the
//! alias that the SIP Server stores name the binding (RFC 3261 §10.2, §10.3; RFC 5626 §6; DESIGN.md, What it does on
//! the wire, 3).
//!
//! Owns: the rule. Must not touch: the directory, which it only reads; whether the registrar accepts any of it.
//!
//! A Contact has a *key*: its instance-id and reg-id, or for a phone without an instance-id the Call-ID of the
//! REGISTER, or its own URI as far as [`Binding::is_same_phone`] lets that count. Each binding of the AOR under the
//! key is given to one Contact only:
//!
//! 1. a Contact that binds gets the binding that has its URI;
//! 2. a Contact that is taken back means the binding that has its URI, whichever of the AOR's phones without another
//!    instance-id asks (RFC 3261 §10.3 step 7), or that has its reg-id;
//! 3. a Contact that binds and has none yet takes one that is left: first what the same REGISTER takes back, then in
//!    the order in which they stood in their own REGISTER. So a phone whose address has changed stays who it was, and
//!    what is bound is not taken back;
//! 4. whoever has none gets a new name. It is the same here, after a restart and at any other member of the pool, for
//!    the first REGISTER with this instance-id or Call-ID.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::directory::{Binding, Directory};
use super::keys::{Identity, Keys, Tag};
use crate::ids::{BindingId, FlowRef};

/// One Contact, as its REGISTER says it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The Contact's instance-id, or empty.
    pub instance: &'a [u8],
    /// The Contact's reg-id, when it has an instance-id too (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// The Contact's URI as written. Of several with one canonical form, which may differ in their transport, it means
    /// this one.
    pub contact: &'a [u8],
    /// Keyed hash of its canonical URI.
    pub contact_hash: u64,
    /// The Contact binds, or it is taken back.
    pub binds: bool,
}

impl Asked<'_> {
    /// Whether two Contacts of one REGISTER cannot both be bound.
    fn excludes(&self, other: &Self) -> bool {
        (self.instance, self.reg_id) == (other.instance, other.reg_id)
            && (self.reg_id.is_some() || self.contact_hash == other.contact_hash)
    }
}

/// A REGISTER, and the flow that it came over.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The canonical AOR.
    pub aor: &'a [u8],
    /// The AOR's user part, unescaped.
    pub user: &'a [u8],
    #[allow(missing_docs, reason = "see RFC 3261 §10.2")]
    pub call_id: &'a [u8],
    #[allow(missing_docs, reason = "see FlowRef")]
    pub flow: FlowRef,
    /// The source address as seen.
    pub ip: IpAddr,
}

/// The binding that a Contact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    #[allow(missing_docs, reason = "see BindingId")]
    pub id: BindingId,
    /// The Contact is taken back by a REGISTER that binds the same binding: nothing is taken back, whichever stands
    /// first.
    pub superseded: bool,
}

/// Names for the Contacts of one REGISTER, in their order.
pub type Names = SmallVec<[Named; 1]>;

impl Asking<'_> {
    /// The binding of each Contact. No two that bind get the same.
    #[must_use]
    pub fn names(&self, asked: &[Asked<'_>], directory: &Directory, keys: &Keys) -> Names {
        let mut naming = Naming {
            asking: self,
            asked,
            known: directory.by_aor(self.aor).collect(),
            call_id_hash: keys.hash64(Tag::CallId, &[self.call_id]),
            ids: SmallVec::from_elem(None, asked.len()),
        };
        naming.bind_by_contact();
        let bound = naming.ids.clone();
        naming.take_back();
        naming.bind_by_key(bound);
        for at in naming.binding().chain(naming.taken_back()) {
            if naming.ids[at].is_none() {
                naming.ids[at] = Some(self.new_name(&asked[at], &naming.ids, directory, keys));
            }
        }
        naming.names()
    }

    fn new_name(&self, one: &Asked<'_>, ids: &[Option<BindingId>], directory: &Directory, keys: &Keys) -> BindingId {
        let identity = match one.instance {
            [] => Identity::CallId(self.call_id),
            instance => Identity::Instance { instance, reg_id: one.reg_id.unwrap_or(0) },
        };
        let mut names = (0..=u8::MAX).map(|ordinal| keys.binding(self.user, self.aor, identity, ordinal));
        let is_free = |id: &BindingId| directory.find(*id).is_none() && !ids.contains(&Some(*id));
        names.find(is_free).expect("an AOR's bindings and a REGISTER's Contacts are bounded to fewer than 256")
    }
}

type Ids = SmallVec<[Option<BindingId>; 4]>;

/// The Contacts of one REGISTER while their bindings are looked for among those that its AOR has.
struct Naming<'a> {
    asking: &'a Asking<'a>,
    asked: &'a [Asked<'a>],
    known: SmallVec<[&'a Binding; 4]>,
    call_id_hash: u64,
    /// By Contact; `None` while nothing is found.
    ids: Ids,
}

impl<'a> Naming<'a> {
    fn binding(&self) -> impl Iterator<Item = usize> + use<'a> {
        let asked = self.asked;
        (0..asked.len()).filter(move |at| asked[*at].binds)
    }

    fn taken_back(&self) -> impl Iterator<Item = usize> + use<'a> {
        let asked = self.asked;
        (0..asked.len()).filter(move |at| !asked[*at].binds)
    }

    /// Whether a binding is the phone's whose Contact this is: by instance-id and reg-id, else by the Call-ID or as
    /// [`Binding::is_same_phone`] says.
    fn has_key(&self, one: &Asked<'_>, binding: &Binding) -> bool {
        match one.instance {
            [] => {
                binding.instance.is_empty()
                    && (binding.call_id_hash == self.call_id_hash
                        || binding.is_same_phone(one.contact_hash, self.asking.flow, self.asking.ip))
            }
            instance => *binding.instance == *instance && binding.reg_id == one.reg_id,
        }
    }

    /// In what a binding differs: the least counts as the nearest.
    fn differs(&self, one: &Asked<'_>, binding: &Binding) -> (bool, bool) {
        (binding.call_id_hash != self.call_id_hash, *binding.contact != *one.contact)
    }

    /// What binds is first the binding of the same phone with the same Contact.
    fn bind_by_contact(&mut self) {
        for at in self.binding() {
            let one = &self.asked[at];
            let may = |binding: &&&Binding| {
                binding.contact_hash == one.contact_hash
                    && self.has_key(one, binding)
                    && !self.ids.contains(&Some(binding.id))
            };
            let found = self.known.iter().filter(may).min_by_key(|binding| self.differs(one, binding));
            self.ids[at] = found.map(|binding| binding.id);
        }
    }

    /// What is taken back is a binding with its Contact, the phone's own before others; else one of the phone's flow.
    fn take_back(&mut self) {
        for at in self.taken_back() {
            let one = &self.asked[at];
            // Two instance-ids are two phones, though both may call themselves 192.168.1.10.
            let may_mean = |binding: &Binding| {
                binding.reg_id.is_none() && (one.instance.is_empty() || binding.instance.is_empty())
            };
            let says = |binding: &&&Binding| {
                binding.contact_hash == one.contact_hash && (self.has_key(one, binding) || may_mean(binding))
            };
            let nearest = |binding: &&&Binding| (!self.has_key(one, binding), self.differs(one, binding));
            let by_key = || self.known.iter().find(|binding| one.reg_id.is_some() && self.has_key(one, binding));
            let found = self.known.iter().filter(says).min_by_key(nearest).or_else(by_key);
            self.ids[at] = found.map(|binding| binding.id);
        }
    }

    /// What binds and has another Contact than any binding is one of the same phone's that is not `taken`, at best one
    /// that is not taken back.
    fn bind_by_key(&mut self, mut taken: Ids) {
        let removed: Ids = self.taken_back().map(|at| self.ids[at]).collect();
        for at in self.binding() {
            if self.ids[at].is_none() {
                // The list has the most recently bound first, which stood last.
                let may =
                    |binding: &&&Binding| self.has_key(&self.asked[at], binding) && !taken.contains(&Some(binding.id));
                let first = |binding: &&&Binding| !removed.contains(&Some(binding.id));
                self.ids[at] = self.known.iter().rev().filter(may).min_by_key(first).map(|binding| binding.id);
                taken.push(self.ids[at]);
            }
        }
    }

    fn names(&self) -> Names {
        let name = |at: usize| {
            let is_same = |other: usize| self.ids[other] == self.ids[at] || self.asked[other].excludes(&self.asked[at]);
            let superseded = !self.asked[at].binds && self.binding().any(is_same);
            Named { id: self.ids[at].expect("each has got one by now"), superseded }
        };
        (0..self.asked.len()).map(name).collect()
    }
}

#[cfg(test)]
#[path = "recognise_tests.rs"]
mod tests;
