//! All keyed hashing of the project: SipHash-2-4-128 under keys that are derived from one secret.
//!
//! Owns: the derived keys, and how the parts of what is hashed are kept apart. Must not touch: randomness (the
//! secret is an argument).
//!
//! SipHash is a pseudo-random function with a 128-bit key: without the key nobody can make two texts collide
//! in our tables, choose the shard that a name falls on, or forge a token. What is hashed starts with a
//! [`Tag`], and each part with its length, so that one use or one split of a text is never taken for another.
//! Byte order is fixed: the members of a pool that share a secret agree on every hash, whatever they run on.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::ids::BindingId;

/// What a hash is for. Hashes of different uses have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// The user part of an AOR or a Contact, which names the home shard.
    User = 1,
    /// A binding's name.
    Binding = 2,
    /// A canonical AOR.
    Aor = 3,
    /// A canonical Contact URI.
    Contact = 4,
    /// A Call-ID.
    CallId = 5,
    /// What a request is routed by, for loop detection (RFC 3261 §16.6 step 8, RFC 5393 §4.2).
    Loop = 6,
    /// A transaction's key (RFC 3261 §17.2.3).
    Transaction = 7,
    /// The target of a device that did not register, which names the shard of its connection.
    Device = 8,
    /// What is written into our own branch parameters.
    Branch = 9,
    /// A token's MAC.
    Token = 10,
}

/// What tells a binding from the other bindings of its AOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// `+sip.instance` and `reg-id` (RFC 5626 §6): the same over every connection and restart of the phone.
    Instance {
        /// The instance-id as it stands in the Contact.
        instance: &'a [u8],
        /// The reg-id; 0 when there is none.
        reg_id: u32,
    },
    /// The Call-ID of the first REGISTER of a phone without an instance-id, which `recognise` knows again under others.
    CallId(&'a [u8]),
}

/// The keys of a process, or of a pool that shares its secret. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    hash: SipHasher24,
    mac: SipHasher24,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Derives the keys. The secret is the content of `flow-token-key-file`, or random when there is none.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { hash: derive(secret, b"hawser hash 1"), mac: derive(secret, b"hawser token 1") }
    }

    /// A hash of 128 bits.
    #[must_use]
    pub fn hash128(&self, tag: Tag, parts: &[&[u8]]) -> u128 {
        digest(self.hash, tag, parts)
    }

    /// A hash of 64 bits: half of [`Keys::hash128`].
    #[must_use]
    pub fn hash64(&self, tag: Tag, parts: &[&[u8]]) -> u64 {
        low(self.hash128(tag, parts))
    }

    /// The name under which a Contact is found, by its canonical URI. One that is no more than what a phone says of
    /// itself (`said_by`, a canonical AOR) is found for requests to that AOR only, and has a name of its own.
    #[must_use]
    pub fn contact(&self, canonical: &[u8], said_by: Option<&[u8]>) -> u64 {
        match said_by {
            None => self.hash64(Tag::Contact, &[canonical]),
            Some(aor) => self.hash64(Tag::Contact, &[canonical, aor]),
        }
    }

    /// The name under which it is known that some phone says a Contact of itself, whoever that is.
    #[must_use]
    pub fn contact_said(&self, canonical: &[u8]) -> u64 {
        self.hash64(Tag::Contact, &[canonical, b"", b"said"])
    }

    /// Hash of a user part, as [`BindingId::user`] holds it. A URI without a user part: hash its host.
    #[must_use]
    pub fn user16(&self, user: &[u8]) -> u16 {
        (self.hash128(Tag::User, &[user]) & 0xffff) as u16
    }

    /// The name of a binding.
    ///
    /// `aor` is canonical and `aor_user` its user part. `ordinal` tells bindings of one AOR apart that have the
    /// same identity, as several Contacts of one REGISTER may: 0 for the first.
    #[must_use]
    pub fn binding(&self, aor_user: &[u8], aor: &[u8], identity: Identity<'_>, ordinal: u8) -> BindingId {
        let hash = match identity {
            Identity::Instance { instance, reg_id } => {
                self.hash64(Tag::Binding, &[aor, b"i", instance, &reg_id.to_le_bytes(), &[ordinal]])
            }
            Identity::CallId(call_id) => self.hash64(Tag::Binding, &[aor, b"c", call_id, &[ordinal]]),
        };
        BindingId { user: self.user16(aor_user), hash }
    }

    /// The MAC of a token, under a key that serves for nothing else.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> u128 {
        digest(self.mac, Tag::Token, parts)
    }
}

/// Of maps whose keys are keyed hashes: to hash them again would cost time and bring nothing.
pub type AlreadyHashed = BuildHasherDefault<TakeAsIs>;

/// See [`AlreadyHashed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeAsIs(u64);

impl Hasher for TakeAsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u16(&mut self, n: u16) {
        self.0 ^= u64::from(n);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 ^= n;
    }

    fn write_u128(&mut self, n: u128) {
        self.0 ^= low(n);
    }
}

/// The sum of two pseudo-random functions, one for each half of the secret: as strong as the stronger half.
fn derive(secret: &[u8; 32], label: &[u8]) -> SipHasher24 {
    let (first, second) = secret.split_at(16);
    // What is hashed differs between the halves, or two equal halves would cancel each other out.
    let half = |key: &[u8], which: u8| {
        let mut sip = SipHasher24::new_with_key(key.try_into().expect("half of 32 bytes is 16"));
        sip.write(&[which]);
        sip.write(label);
        sip.finish128().as_u128()
    };
    SipHasher24::new_with_key(&(half(first, 0) ^ half(second, 1)).to_le_bytes())
}

fn digest(mut sip: SipHasher24, tag: Tag, parts: &[&[u8]]) -> u128 {
    // In pieces as long as can be: each that begins or ends within a word costs the hasher as much as several words.
    let mut piece = [0; PIECE_LEN];
    let mut length = 0;
    let mut put = |bytes: &[u8]| match piece.get_mut(length..length + bytes.len()) {
        Some(room) => {
            room.copy_from_slice(bytes);
            length += bytes.len();
        }
        None => {
            sip.write(&piece[..length]);
            sip.write(bytes);
            length = 0;
        }
    };
    put(&(u64::from(tag as u8) | (parts.len() as u64) << 8).to_le_bytes());
    for part in parts {
        put(&(part.len() as u64).to_le_bytes());
        put(part);
    }
    sip.write(&piece[..length]);
    sip.finish128().as_u128()
}

/// Nearly all that is hashed for a message is shorter.
const PIECE_LEN: usize = 384;

fn low(hash: u128) -> u64 {
    (hash & u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let keys = Keys::new(&[7; 32]);
        let hash = |parts: &[&[u8]]| keys.hash128(Tag::Aor, parts);
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"ab"]), hash(&[b"ab", b""]));
        assert_ne!(hash(&[b""]), hash(&[]));
        assert_ne!(hash(&[b"a"]), keys.hash128(Tag::Contact, &[b"a"]));
    }

    /// The bound of what is hashed at once is none of what is hashed.
    #[test]
    fn a_hash_is_that_of_all_parts_with_their_lengths() {
        let keys = Keys::new(&[7; 32]);
        let long = [b'x'; PIECE_LEN + 1];
        for lengths in [[0, 0, 0], [3, PIECE_LEN - 8, 5], [3, PIECE_LEN, 5], [PIECE_LEN - 40, 8, PIECE_LEN + 1]] {
            let parts = lengths.map(|length| &long[..length]);
            let mut sip = keys.hash;
            sip.write(&(Tag::Loop as u64 | 3 << 8).to_le_bytes());
            for part in parts {
                sip.write(&(part.len() as u64).to_le_bytes());
                sip.write(part);
            }
            assert_eq!(keys.hash128(Tag::Loop, &parts), sip.finish128().as_u128(), "{lengths:?}");
        }
    }

    #[test]
    fn equal_halves_of_a_secret_do_not_cancel_out() {
        let hash = |byte| Keys::new(&[byte; 32]).hash128(Tag::Aor, &[b"x"]);
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn every_bit_of_the_secret_counts() {
        let base = Keys::new(&[0; 32]);
        for bit in 0..256 {
            let mut secret = [0; 32];
            secret[bit / 8] |= 1 << (bit % 8);
            let other = Keys::new(&secret);
            assert_ne!(base.hash128(Tag::Aor, &[b"x"]), other.hash128(Tag::Aor, &[b"x"]), "bit {bit}");
            assert_ne!(base.mac(&[b"x"]), other.mac(&[b"x"]), "bit {bit}");
        }
    }

    /// Members of a pool with one key file must agree, in this release and the next.
    #[test]
    fn hashes_stay_what_they_are() {
        let keys = Keys::new(b"0123456789abcdef0123456789ABCDEF");
        let id = keys.binding(b"bob", b"sip:bob@example.com", Identity::CallId(b"1@phone"), 0);
        assert_eq!(format!("{id:?}"), "5afd.6429b1a9de160982");
    }

    #[test]
    fn a_binding_is_named_by_all_that_tells_it_apart() {
        let keys = Keys::new(&[1; 32]);
        let aor = b"sip:bob@example.com";
        let all = [
            keys.binding(b"bob", aor, Identity::Instance { instance: b"x", reg_id: 1 }, 0),
            keys.binding(b"bob", aor, Identity::Instance { instance: b"x", reg_id: 2 }, 0),
            keys.binding(b"bob", aor, Identity::Instance { instance: b"y", reg_id: 1 }, 0),
            keys.binding(b"bob", aor, Identity::CallId(b"x"), 0),
            keys.binding(b"bob", aor, Identity::CallId(b"x"), 1),
            keys.binding(b"bob", b"sip:bob@example.org", Identity::CallId(b"x"), 0),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.hash != one.hash), "{at}");
            assert_eq!(one.user, all[0].user, "one user, one home");
        }
    }

    #[test]
    fn users_spread_over_the_shards() {
        let keys = Keys::new(&[3; 32]);
        let mut counts = [0_u32; 3];
        for user in 1_000..4_000 {
            let id = BindingId { user: keys.user16(user.to_string().as_bytes()), hash: 0 };
            counts[usize::from(id.home(3).0)] += 1;
        }
        assert!(counts.iter().all(|c| (900..1_100).contains(c)), "{counts:?}");
    }
}
