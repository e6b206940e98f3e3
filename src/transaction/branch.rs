//! Our own branch parameter: it says which shard and slot a response belongs to, and is random, so that
//! nobody else can make one (RFC 3261 §8.1.1.7, §16.6 step 8; RFC 5393 §4.2 for the loop part).
//!
//! It is written in an alphabet without case, for others may write it back in another one (RFC 3261 §7.3.1).

use crate::ids::ShardId;

/// RFC 3261 §8.1.1.7.
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";
const RAW_LEN: usize = 21;
/// Characters of five bits each.
const CHARS_LEN: usize = (RAW_LEN * 8).div_ceil(5);
/// `z9hG4bK` and 34 characters.
const TEXT_LEN: usize = MAGIC_COOKIE.len() + CHARS_LEN;
/// RFC 4648 §6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Whether a branch begins with the magic cookie and has something behind it (RFC 3261 §8.1.1.7), in any case.
#[must_use]
pub fn has_magic_cookie(branch: &[u8]) -> bool {
    let (cookie, rest) = branch.split_at(branch.len().min(MAGIC_COOKIE.len()));
    !rest.is_empty() && (cookie == MAGIC_COOKIE || cookie.eq_ignore_ascii_case(MAGIC_COOKIE))
}

/// A transaction of one shard: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxnId {
    /// Index into the shard's table of response contexts.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl TxnId {
    /// Names no transaction: the branch of an ACK that is forwarded statelessly.
    pub const NONE: Self = Self { slot: u32::MAX, generation: 0 };
}

/// The contents of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Where the transaction is.
    pub shard: ShardId,
    /// Which transaction.
    pub txn: TxnId,
    /// Random: a response that does not know it is a stranger's.
    pub nonce: u64,
    /// Hash of what decides the routing of the request as it arrived (RFC 5393 §4.2.2).
    pub loop_hash: u32,
}

impl Branch {
    /// Appends the text of the branch.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut raw = [0u8; RAW_LEN];
        raw[0] = self.shard.0;
        raw[1..5].copy_from_slice(&self.txn.slot.to_be_bytes());
        raw[5..9].copy_from_slice(&self.txn.generation.to_be_bytes());
        raw[9..17].copy_from_slice(&self.nonce.to_be_bytes());
        raw[17..21].copy_from_slice(&self.loop_hash.to_be_bytes());
        out.extend_from_slice(MAGIC_COOKIE);
        out.extend_from_slice(&encode(&raw));
    }

    /// Reads it back, in any case; `None` for a branch that is not of this form.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LEN || !has_magic_cookie(text) {
            return None;
        }
        let raw = decode(text[MAGIC_COOKIE.len()..].try_into().ok()?)?;
        let word = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        Some(Self {
            shard: ShardId(raw[0]),
            txn: TxnId { slot: word(1), generation: word(5) },
            nonce: (u64::from(word(9)) << 32) | u64::from(word(13)),
            loop_hash: word(17),
        })
    }
}

/// What each character of the alphabet stands for, in either case; 255 for all others.
static VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        values[ALPHABET[at].to_ascii_uppercase() as usize] = at as u8;
        at += 1;
    }
    values
};

/// Five bits a character, from the highest on; what is left of the last one is zero.
fn encode(raw: &[u8; RAW_LEN]) -> [u8; CHARS_LEN] {
    let mut text = [0; CHARS_LEN];
    let (fives, last) = raw.as_chunks::<5>();
    let (eights, rest) = text.as_chunks_mut::<8>();
    let write = |bits: u64, chars: &mut [u8]| {
        for (at, char) in chars.iter_mut().rev().enumerate() {
            *char = ALPHABET[(bits >> (at * 5)) as usize & 31];
        }
    };
    for (five, chars) in fives.iter().zip(eights) {
        write(five.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)), chars);
    }
    write(u64::from(last[0]) << 2, rest);
    text
}

/// The reverse, in any case; `None` when a character is none of the alphabet's, or there is something in the bits
/// that are left.
fn decode(text: &[u8; CHARS_LEN]) -> Option<[u8; RAW_LEN]> {
    let mut raw = [0; RAW_LEN];
    let (eights, rest) = text.as_chunks::<8>();
    let (fives, last) = raw.as_chunks_mut::<5>();
    let mut all = 0;
    let mut read = |chars: &[u8]| {
        chars.iter().fold(0u64, |bits, char| {
            let value = VALUES[usize::from(*char)];
            all |= value;
            bits << 5 | u64::from(value & 31)
        })
    };
    for (chars, five) in eights.iter().zip(fives) {
        five.copy_from_slice(&read(chars).to_be_bytes()[3..]);
    }
    let bits = read(rest);
    last[0] = (bits >> 2) as u8;
    (all < 32 && bits & 3 == 0).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_reads_back_as_written() {
        let branch = Branch {
            shard: ShardId(63),
            txn: TxnId { slot: 0x0102_0304, generation: u32::MAX },
            nonce: 0xfeed_beef_0000_0001,
            loop_hash: 7,
        };
        let mut text = Vec::new();
        branch.write(&mut text);
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(Branch::read(&text), Some(branch));
        assert_eq!(text, b"z9hG4bKh4aqeaye777777765w7o6aaaaaaqaaaaa4");
        for other in [text.to_ascii_lowercase(), text.to_ascii_uppercase()] {
            assert_eq!(Branch::read(&other), Some(branch), "{}", String::from_utf8_lossy(&other));
        }
        let swapped: Vec<u8> = text.iter().map(|byte| byte ^ (byte.is_ascii_alphabetic() as u8 * 0x20)).collect();
        assert_eq!(Branch::read(&swapped), Some(branch));
    }

    #[test]
    fn each_character_counts() {
        let branch = Branch { shard: ShardId(0), txn: TxnId { slot: 0, generation: 0 }, nonce: 0, loop_hash: 0 };
        let mut text = Vec::new();
        branch.write(&mut text);
        for at in MAGIC_COOKIE.len()..text.len() {
            let mut other = text.clone();
            other[at] = b'b';
            assert_ne!(Branch::read(&other), Some(branch), "{at}");
        }
        *text.last_mut().expect("it has some") = b'b';
        assert_eq!(Branch::read(&text), None, "it could be written in two ways");
    }

    #[test]
    fn other_branches_are_not_ours() {
        for text in [
            &b""[..],
            b"z9hG4bK",
            b"z9hG4bK-524287-1---abcdefghijklmnopq234567",
            &[b"z9hG4bK", &[b'1'; CHARS_LEN][..]].concat(),
        ] {
            assert_eq!(Branch::read(text), None);
        }
    }
}
