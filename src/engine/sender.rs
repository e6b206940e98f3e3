//! What tells transactions apart (RFC 3261 §17.1.3, §17.2.3): their keys, and of those their senders.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::{Engine, Source};
use crate::flow::keys::Tag;
use crate::ids::{BindingId, FlowRef, ShardId, Side};
use crate::proxy::register;
use crate::sip::{Message, Method};

impl Engine {
    pub(super) fn key_of(&self, request: &Message, method: Method, source: &Source) -> u128 {
        self.key_from(request, method, &sender_of(source))
    }

    /// The key of an INVITE that its sender's other connections know it by, too.
    pub(super) fn lasting_key_of(&self, request: &Message, source: &Source) -> Option<u128> {
        lasting_sender_of(source).map(|sender| self.key_from(request, Method::Invite, &sender))
    }

    fn key_from(&self, request: &Message, method: Method, sender: &[u8]) -> u128 {
        crate::transaction::key::hashed(request, method, sender, |parts| self.env.keys.hash128(Tag::Transaction, parts))
    }

    /// Whether a sender is known by more than its connection.
    pub(super) fn lasts(source: &Source) -> bool {
        lasting_sender_of(source).is_some()
    }

    /// The shard that handles a REGISTER.
    pub(super) fn home_of_to(&self, request: &Message) -> Option<ShardId> {
        let user = self.env.keys.user16(&register::aor_user(request)?);
        Some(BindingId { user, hash: 0 }.home(self.env.settings.shards))
    }
}

/// What tells the senders of requests apart in a transaction's key: a connection, a UDP source's address (a
/// NAT may change its port), or the server side as a whole (a pair may send from both of its addresses).
fn sender_of(source: &Source) -> SmallVec<[u8; 16]> {
    let mut sender = SmallVec::new();
    match (source.side, source.flow) {
        (Side::Server, _) => sender.push(b's'),
        (Side::Endpoint, FlowRef::Stream { shard, conn, .. }) => {
            sender.push(shard.0);
            sender.extend_from_slice(&conn.slot.to_be_bytes());
            sender.extend_from_slice(&conn.generation.to_be_bytes());
        }
        (Side::Endpoint, FlowRef::Udp { .. }) => push_ip(&mut sender, source.peer.ip()),
    }
    sender
}

/// The same for those who are known by more than their connection, and keep it when that changes: a phone by its
/// binding, another site's proxy by its address.
fn lasting_sender_of(source: &Source) -> Option<SmallVec<[u8; 17]>> {
    let mut sender = SmallVec::new();
    match (source.binding, source.side) {
        (Some(binding), Side::Endpoint) => {
            sender.push(b'b');
            sender.extend_from_slice(&binding.user.to_be_bytes());
            sender.extend_from_slice(&binding.hash.to_be_bytes());
        }
        (None, Side::Endpoint) if source.is_peer => {
            sender.push(b'p');
            push_ip(&mut sender, source.peer.ip());
        }
        _ => return None,
    }
    Some(sender)
}

fn push_ip<A: smallvec::Array<Item = u8>>(out: &mut SmallVec<A>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}
