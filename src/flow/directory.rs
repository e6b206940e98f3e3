//! The part of the directory that one home shard holds: which binding has which flow.
//!
//! Owns: the bindings whose AOR has its home here, found by name, AOR and Contact; and for Contacts with their
//! home here whose AOR lives elsewhere, the name of the binding. Must not touch: a flow (it only names them), a
//! timer (the engine arms one for each binding and calls [`Directory::expire`]), a message.
//!
//! The rules are those of RFC 3261 §10.3 and RFC 5626 §6, as far as somebody who looks over a registrar's
//! shoulder needs them: what the registrar accepted is bound, what it replaced is replaced.
//!
//! - A binding with the same name takes the place of the old one, whatever flow it came over. Which name a
//!   Contact has is decided when its REGISTER arrives, by [`super::recognise`].
//! - Two REGISTERs of one phone without an instance-id may cross, each with a Call-ID of its own, before either
//!   is accepted: the one that is accepted last takes the place of the other ([`Binding::is_same_phone`]).
//! - A binding whose flow is gone stays until it would have expired, without a flow: the registrar still has it
//!   and asks for it, and its phone is to be known again when it comes back. Where room is short, those that
//!   would expire first give way.
//!
//! Bindings of one AOR, and bindings of one Contact, hang in two linked lists through the slab, the most
//! recently bound first. Lists are found by a keyed 64-bit hash. Entries of an AOR's list are compared by the
//! AOR's bytes, so that a collision costs a comparison; a Contact is known by its hash alone, like a binding.
//!
//! What no room is left for is noted in `forgotten`: a Contact of a phone is never taken for a device's because a
//! table was full.
//!
//! Left out on purpose: q-values and forking (the registrar's job), URI comparison by RFC 3261 §19.1.4 (the
//! caller makes things canonical), order of CSeq (the registrar has judged it before its 2xx).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use slab::Slab;
use smallvec::SmallVec;

use super::forgotten::Forgotten;
use super::keys::{AlreadyHashed, Keys, Tag};
use crate::clock::Time;
use crate::ids::{BindingId, FlowRef};
use crate::limits::BINDINGS_PER_AOR_MAX;

/// One registered way to a phone.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its name, made with [`Keys::binding`].
    pub id: BindingId,
    /// The canonical AOR.
    pub aor: Box<[u8]>,
    /// The phone's own Contact URI as it was registered, whole.
    pub contact: Box<[u8]>,
    /// `Keys::hash64(Tag::Contact, …)` of the Contact URI in the canonical form that it is looked up by.
    pub contact_hash: u64,
    /// The instance-id, or empty.
    pub instance: Box<[u8]>,
    /// The reg-id, with which RFC 5626 §6 governs the binding.
    pub reg_id: Option<u32>,
    /// The flow that it was last accepted over; `None` when that is gone, and its phone has not come back.
    pub flow: Option<FlowRef>,
    /// The phone's address as last seen.
    pub peer: SocketAddr,
    /// When it ends unless it is refreshed.
    pub expires: Time,
    /// When the REGISTER that last refreshed it came.
    pub asked: Time,
    /// When that REGISTER was accepted.
    pub refreshed: Time,
    /// Keyed hash of that REGISTER's Call-ID.
    pub call_id_hash: u64,
    /// That REGISTER's CSeq.
    pub cseq: u32,
    /// The Contact carries `ob` (RFC 5626 §5.3.1 asks for 430 then).
    pub ob: bool,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("id", &self.id)
            .field("aor", &String::from_utf8_lossy(&self.aor))
            .field("contact", &String::from_utf8_lossy(&self.contact))
            .field("reg_id", &self.reg_id)
            .field("flow", &self.flow)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Binding {
    /// Whether a phone without an instance-id that registers this Contact over `flow`, from `ip`, is this one under
    /// another Call-ID (RFC 3261 §10.3). Its Contact alone does not say so: behind their NATs many phones are
    /// 192.168.1.10, and nobody becomes another phone by saying its Contact while that one is elsewhere.
    #[must_use]
    pub fn is_same_phone(&self, contact_hash: u64, flow: FlowRef, ip: IpAddr) -> bool {
        self.instance.is_empty()
            && self.contact_hash == contact_hash
            && (self.flow.is_none_or(|former| former == flow) || self.peer.ip() == ip)
    }
}

/// How a binding gives way: a variant of [`Replaced`].
type Way = fn(Binding) -> Replaced;

/// What a `bind` has done.
#[derive(Debug, PartialEq, Eq)]
pub struct Bound {
    #[allow(missing_docs, reason = "see Change")]
    pub change: Change,
    /// Another binding that gave way. Its flow, if that is another one, is to be told.
    pub replaced: Option<Replaced>,
}

/// What became of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not known, or had no flow any more.
    New,
    /// It was known with the same flow.
    Refreshed,
    /// It was known with another flow.
    Moved {
        /// The flow that it had.
        from: FlowRef,
    },
}

/// A binding with another name that gave way.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The same phone, which is this one now.
    SameContact(Binding),
    /// One of an AOR that has `BINDINGS_PER_AOR_MAX`: one without a flow, else the longest unrefreshed. Only who may
    /// register for an AOR can fill it, and harms nobody else.
    Oldest(Binding),
    /// One without a flow, the first to expire, when the table was full.
    Lost(Binding),
}

/// The table is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One home shard's part of the directory.
#[derive(Debug)]
pub struct Directory {
    keys: Keys,
    bindings_max: usize,
    entries: Slab<Entry>,
    by_id: HashMap<BindingId, u32, AlreadyHashed>,
    /// First entry of each list, by AOR hash and by Contact hash.
    heads: [HashMap<u64, u32, AlreadyHashed>; 2],
    remote_contacts: HashMap<u64, Holders, AlreadyHashed>,
    /// The bindings without a flow, the first to expire first.
    lost: BTreeSet<(Time, BindingId)>,
    forgotten: Forgotten,
    /// Makes collisions of AORs likely in tests.
    #[cfg(test)]
    aor_hash_mask: u64,
}

/// The bindings of other shards that have one Contact.
#[derive(Debug, Default)]
struct Holders {
    ids: SmallVec<[BindingId; 1]>,
    /// There were more than are kept: from now on nobody can say whose Contact it is.
    crowded: bool,
}

/// Index of a list in [`Directory::heads`] and [`Entry::links`].
#[derive(Clone, Copy, Debug)]
enum By {
    Aor,
    Contact,
}

#[derive(Debug)]
struct Entry {
    binding: Binding,
    aor_hash: u64,
    links: [Links; 2],
}

#[derive(Clone, Copy, Debug)]
struct Links {
    next: u32,
    prev: u32,
}

const NIL: u32 = u32::MAX;
const UNLINKED: Links = Links { next: NIL, prev: NIL };

impl Entry {
    fn hash(&self, by: By) -> u64 {
        match by {
            By::Aor => self.aor_hash,
            By::Contact => self.binding.contact_hash,
        }
    }
}

impl Directory {
    /// An empty part. `bindings_max` bounds the bindings, and the Contacts of other shards' bindings apart from
    /// them. Memory grows with use.
    #[must_use]
    pub fn new(keys: Keys, bindings_max: usize) -> Self {
        Self {
            keys,
            bindings_max,
            entries: Slab::new(),
            by_id: HashMap::default(),
            heads: [HashMap::default(), HashMap::default()],
            remote_contacts: HashMap::default(),
            lost: BTreeSet::new(),
            forgotten: Forgotten::default(),
            #[cfg(test)]
            aor_hash_mask: u64::MAX,
        }
    }

    /// Takes a binding that the registrar has accepted. It counts as the most recently refreshed one. The
    /// caller arms its expiry and tells the flows that have lost something.
    ///
    /// # Errors
    /// `Full` when it would be one too many; then nothing has changed.
    pub fn bind(&mut self, binding: Binding) -> Result<Bound, Full> {
        let known = self.by_id.get(&binding.id).copied();
        let mut giving_way = self.giving_way(&binding, known.is_none());
        if known.is_none() && giving_way.is_none() && self.entries.len() >= self.bindings_max {
            let (_, lost) = self.lost.first().ok_or(Full)?;
            giving_way = Some((*self.by_id.get(lost).ok_or(Full)?, Replaced::Lost));
        }
        let replaced = giving_way.map(|(index, way)| way(self.take_out(index)));
        let aor_hash = self.aor_hash(&binding.aor);
        let change = match known {
            None => {
                let id = binding.id;
                let entry = Entry { binding, aor_hash, links: [UNLINKED; 2] };
                let index = u32::try_from(self.entries.insert(entry)).expect("bindings_max is far below 2^32");
                self.by_id.insert(id, index);
                self.link(index);
                Change::New
            }
            Some(index) => {
                self.unlink(index);
                let entry = &mut self.entries[index as usize];
                let change = match entry.binding.flow {
                    None => Change::New,
                    from if from == binding.flow => Change::Refreshed,
                    Some(from) => Change::Moved { from },
                };
                self.lost.remove(&(entry.binding.expires, binding.id));
                entry.aor_hash = aor_hash;
                entry.binding = binding;
                self.link(index);
                change
            }
        };
        Ok(Bound { change, replaced })
    }

    /// Removes one binding.
    pub fn remove(&mut self, id: BindingId) -> Option<Binding> {
        let index = *self.by_id.get(&id)?;
        Some(self.take_out(index))
    }

    /// Removes all bindings of an AOR (`Contact: *`).
    pub fn remove_aor(&mut self, aor: &[u8]) -> Vec<Binding> {
        let ids: Vec<BindingId> = self.by_aor(aor).map(|binding| binding.id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Takes its flow from a binding, unless it has moved to another flow meanwhile.
    pub fn flow_gone(&mut self, id: BindingId, flow: FlowRef) -> Option<&Binding> {
        let binding = &mut self.entries.get_mut(*self.by_id.get(&id)? as usize)?.binding;
        binding.flow.take_if(|had| *had == flow)?;
        self.lost.insert((binding.expires, id));
        Some(binding)
    }

    /// Removes a binding whose time is up; leaves one that was refreshed since its timer was armed.
    pub fn expire(&mut self, id: BindingId, now: Time) -> Option<Binding> {
        if self.find(id)?.expires > now {
            return None;
        }
        self.remove(id)
    }

    /// The binding with this name.
    #[must_use]
    pub fn find(&self, id: BindingId) -> Option<&Binding> {
        let index = *self.by_id.get(&id)?;
        Some(&self.entries[index as usize].binding)
    }

    /// The bindings of a canonical AOR, the most recently refreshed first.
    pub fn by_aor(&self, aor: &[u8]) -> impl Iterator<Item = &Binding> {
        self.list(By::Aor, self.aor_hash(aor)).map(|(_, entry)| &entry.binding).filter(move |b| *b.aor == *aor)
    }

    /// The bindings with this Contact, whatever their AORs, the most recently refreshed first.
    pub fn by_contact(&self, contact_hash: u64) -> impl Iterator<Item = &Binding> {
        self.list(By::Contact, contact_hash).map(|(_, entry)| &entry.binding)
    }

    /// Notes that a Contact, whose home is this shard, is that of a binding whose AOR's home is another. Several
    /// may have it: phones behind different NATs, or one that says what another one says.
    ///
    /// # Errors
    /// `Full` when it would be one too many: then it is some phone's `until` then, and nobody can say whose.
    pub fn put_contact(&mut self, contact_hash: u64, id: BindingId, until: Time) -> Result<(), Full> {
        if self.remote_contacts.len() >= self.bindings_max && !self.remote_contacts.contains_key(&contact_hash) {
            self.forget_contact(contact_hash, until);
            return Err(Full);
        }
        let holders = self.remote_contacts.entry(contact_hash).or_default();
        if holders.ids.contains(&id) {
            return Ok(());
        }
        if holders.ids.len() >= BINDINGS_PER_AOR_MAX {
            holders.crowded = true;
            self.forget_contact(contact_hash, until);
            return Err(Full);
        }
        holders.ids.push(id);
        Ok(())
    }

    /// Forgets that a binding has such a Contact; `true` when it was known.
    pub fn drop_contact(&mut self, contact_hash: u64, id: BindingId) -> bool {
        let Some(holders) = self.remote_contacts.get_mut(&contact_hash) else { return false };
        let before = holders.ids.len();
        holders.ids.retain(|holder| *holder != id);
        let held = holders.ids.len() < before;
        if holders.ids.is_empty() {
            self.remote_contacts.remove(&contact_hash);
        }
        held
    }

    /// The bindings of such a Contact; none when there were too many to keep.
    #[must_use]
    pub fn contact(&self, contact_hash: u64) -> &[BindingId] {
        self.remote_contacts.get(&contact_hash).filter(|holders| !holders.crowded).map_or(&[], |holders| &holders.ids)
    }

    /// Whether some binding has such a Contact, however many do.
    #[must_use]
    pub fn holds_contact(&self, contact_hash: u64) -> bool {
        self.remote_contacts.contains_key(&contact_hash)
    }

    /// Notes that a Contact, whose home is this shard, may be a phone's until this time, though no table has it.
    pub fn forget_contact(&mut self, contact_hash: u64, until: Time) {
        self.forgotten.note(contact_hash, until);
    }

    /// Whether a Contact may be a phone's that is not held here: there are too many to keep.
    #[must_use]
    pub fn may_be_a_phones(&self, contact_hash: u64, now: Time) -> bool {
        self.remote_contacts.contains_key(&contact_hash) || self.forgotten.holds(contact_hash, now)
    }

    /// All bindings, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.entries.iter().map(|(_, entry)| &entry.binding)
    }

    /// Bindings that have a flow.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.lost.len()
    }

    /// Whether there is no binding, with a flow or without.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Contacts held here for other shards' bindings.
    #[must_use]
    pub fn remote_contacts_len(&self) -> usize {
        self.remote_contacts.len()
    }

    /// Walks everything.
    ///
    /// # Panics
    /// When an invariant is broken: each binding is found by its name and stands once in each of its two
    /// lists; no list is empty; no bound is passed; those without a flow are known.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.entries.len() <= self.bindings_max && self.remote_contacts.len() <= self.bindings_max);
        assert_eq!(self.by_id.len(), self.entries.len());
        let lost = self.iter().filter(|binding| binding.flow.is_none());
        assert_eq!(lost.map(|binding| (binding.expires, binding.id)).collect::<BTreeSet<_>>(), self.lost);
        for (id, &index) in &self.by_id {
            assert_eq!(self.entries[index as usize].binding.id, *id);
        }
        for by in [By::Aor, By::Contact] {
            let mut seen = 0;
            for (&hash, &head) in &self.heads[by as usize] {
                let mut prev = NIL;
                assert!(self.entries.contains(head as usize));
                for (index, entry) in self.list(by, hash) {
                    assert_eq!(entry.hash(by), hash);
                    assert_eq!(entry.links[by as usize].prev, prev);
                    prev = index;
                    seen += 1;
                    assert!(seen <= self.entries.len(), "a list goes round in a circle");
                }
            }
            assert_eq!(seen, self.entries.len());
        }
        for binding in self.iter() {
            assert_eq!(self.aor_hash(&binding.aor), self.entries[self.by_id[&binding.id] as usize].aor_hash);
            assert!(self.by_aor(&binding.aor).count() <= BINDINGS_PER_AOR_MAX);
        }
    }

    /// Which other binding of its AOR gives way to a binding, and as what.
    fn giving_way(&self, binding: &Binding, is_new: bool) -> Option<(u32, Way)> {
        let (mut count, mut oldest, mut lost) = (0, NIL, NIL);
        for (index, entry) in self.list(By::Aor, self.aor_hash(&binding.aor)) {
            let other = &entry.binding;
            if other.aor != binding.aor || other.id == binding.id {
                continue;
            }
            let is_same = |flow| other.is_same_phone(binding.contact_hash, flow, binding.peer.ip());
            if binding.instance.is_empty() && other.contact == binding.contact && binding.flow.is_some_and(is_same) {
                return Some((index, Replaced::SameContact));
            }
            count += 1;
            oldest = index;
            if other.flow.is_none() {
                lost = index;
            }
        }
        let gives = if lost == NIL { oldest } else { lost };
        (is_new && count >= BINDINGS_PER_AOR_MAX).then_some((gives, Replaced::Oldest))
    }

    fn take_out(&mut self, index: u32) -> Binding {
        self.unlink(index);
        let binding = self.entries.remove(index as usize).binding;
        self.by_id.remove(&binding.id);
        self.lost.remove(&(binding.expires, binding.id));
        binding
    }

    fn aor_hash(&self, aor: &[u8]) -> u64 {
        let hash = self.keys.hash64(Tag::Aor, &[aor]);
        #[cfg(test)]
        let hash = hash & self.aor_hash_mask;
        hash
    }

    /// One list, most recent first, with whatever else has the same hash.
    fn list(&self, by: By, hash: u64) -> impl Iterator<Item = (u32, &Entry)> {
        let mut next = self.heads[by as usize].get(&hash).copied().unwrap_or(NIL);
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            let index = std::mem::replace(&mut next, entry.links[by as usize].next);
            Some((index, entry))
        })
    }

    /// Puts an entry at the head of both its lists.
    fn link(&mut self, index: u32) {
        for by in [By::Aor, By::Contact] {
            let hash = self.entries[index as usize].hash(by);
            let next = self.heads[by as usize].insert(hash, index).unwrap_or(NIL);
            self.entries[index as usize].links[by as usize] = Links { next, prev: NIL };
            if next != NIL {
                self.entries[next as usize].links[by as usize].prev = index;
            }
        }
    }

    fn unlink(&mut self, index: u32) {
        for by in [By::Aor, By::Contact] {
            let entry = &self.entries[index as usize];
            let (hash, Links { next, prev }) = (entry.hash(by), entry.links[by as usize]);
            if next != NIL {
                self.entries[next as usize].links[by as usize].prev = prev;
            }
            if prev != NIL {
                self.entries[prev as usize].links[by as usize].next = next;
            } else if next != NIL {
                self.heads[by as usize].insert(hash, next);
            } else {
                self.heads[by as usize].remove(&hash);
            }
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
