//! Our own branch parameter: it says which shard and slot a response belongs to, and is random, so that
//! nobody else can make one (RFC 3261 §8.1.1.7, §16.6 step 8; RFC 5393 §4.2 for the loop part).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ids::ShardId;

/// RFC 3261 §8.1.1.7.
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";
const RAW_LEN: usize = 21;
/// `z9hG4bK` and 28 characters.
const TEXT_LEN: usize = MAGIC_COOKIE.len() + RAW_LEN / 3 * 4;

/// A transaction of one shard: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxnId {
    /// Index into the shard's table of exchanges.
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
        let mut text = [0u8; TEXT_LEN];
        text[..MAGIC_COOKIE.len()].copy_from_slice(MAGIC_COOKIE);
        let len =
            URL_SAFE_NO_PAD.encode_slice(raw, &mut text[MAGIC_COOKIE.len()..]).expect("21 bytes make 28 characters");
        out.extend_from_slice(&text[..MAGIC_COOKIE.len() + len]);
    }

    /// Reads it back; `None` for a branch that is not of this form.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LEN || !text.starts_with(MAGIC_COOKIE) {
            return None;
        }
        // One byte of slack: the decoder wants room for its estimate.
        let mut raw = [0u8; RAW_LEN + 3];
        let len = URL_SAFE_NO_PAD.decode_slice(&text[MAGIC_COOKIE.len()..], &mut raw).ok()?;
        if len != RAW_LEN {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        Some(Self {
            shard: ShardId(raw[0]),
            txn: TxnId { slot: word(1), generation: word(5) },
            nonce: (u64::from(word(9)) << 32) | u64::from(word(13)),
            loop_hash: word(17),
        })
    }
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
    }

    #[test]
    fn other_branches_are_not_ours() {
        for text in
            [&b""[..], b"z9hG4bK", b"z9hG4bK-524287-1---abcdefghijklmnopq", b"z9hG4bK!!!!!!!!!!!!!!!!!!!!!!!!!!!!"]
        {
            assert_eq!(Branch::read(text), None);
        }
    }
}
