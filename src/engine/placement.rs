//! Which shard handles a message: a pure function of the message, asked before any state is.

use smallvec::SmallVec;

use super::{Engine, Mail, Output, Source};
use crate::clock::Time;
use crate::ids::{BindingId, FlowRef, ShardId, Side};
use crate::proxy::{Refusal, Walk, register, route, target};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::Branch;

impl Engine {
    /// A message has been parsed where it landed.
    pub(super) fn on_message(&mut self, message: Box<Message>, source: Source, now: Time) {
        if !message.is_request() {
            match Branch::read(message.text(message.top_via().branch)) {
                Some(branch) if branch.shard == self.me() => self.on_response(message, source, branch, now),
                Some(branch) if branch.shard.0 < self.settings.shards => self.place(branch.shard, message, source),
                _ => self.drop_response(message, Counter::ResponseStray),
            }
            return;
        }
        if message.fault().is_none()
            && !(source.is_peer || self.settings.point(source.flow.point()).serves(source.side))
        {
            return self.refuse_stranger(message, &source);
        }
        let walk = route::walk(&message, source.side, &self.names, &self.keys);
        match self.placement(&message, &walk, source.side) {
            Some(shard) if shard != self.me() => self.place(shard, message, source),
            _ => self.on_request(message, source, &walk, now),
        }
    }

    /// Who is no server has no business at a listener of the server side. Where the message landed is where this is
    /// said, without any state.
    fn refuse_stranger(&mut self, request: Box<Message>, source: &Source) {
        if request.method() == Some(Method::Ack) {
            self.count(Counter::AckRefused);
        } else {
            let refusal = Refusal::new(403, "Wrong Listener", Counter::Refused403WrongListener);
            self.refuse(&request, source, &refusal);
        }
        self.recycle_message(request);
    }

    pub(super) fn place(&mut self, to: ShardId, message: Box<Message>, source: Source) {
        self.count(Counter::Placed);
        self.outputs.push_back(Output::Mail { to, mail: Mail::Message { message, source } });
    }

    fn placement(&self, request: &Message, walk: &Walk, side: Side) -> Option<ShardId> {
        if self.settings.shards <= 1 || request.fault().is_some() {
            return None;
        }
        if side == Side::Server {
            let user16 = |user: &[u8]| self.keys.user16(user);
            return target::placement_from_server(request, walk, &self.names, self.here, user16);
        }
        if request.method() == Some(Method::Register) {
            let user = self.keys.user16(&register::aor_user(request)?);
            return Some(BindingId { user, hash: 0 }.home(self.settings.shards));
        }
        None
    }
}

/// The same for a request of a phone: its binding, which it keeps when its connection changes.
pub(super) fn phone_of(source: &Source) -> Option<[u8; 11]> {
    let binding = source.binding.filter(|_| source.side == Side::Endpoint)?;
    let mut sender = [b'b'; 11];
    sender[1..3].copy_from_slice(&binding.user.to_be_bytes());
    sender[3..].copy_from_slice(&binding.hash.to_be_bytes());
    Some(sender)
}

/// What tells the senders of requests apart in a transaction's key: a connection, a UDP source's address (a
/// NAT may change its port), or the server side as a whole (a pair may send from both of its addresses).
pub(super) fn sender_of(source: &Source) -> SmallVec<[u8; 16]> {
    let mut sender = SmallVec::new();
    match (source.side, source.flow) {
        (Side::Server, _) => sender.push(b's'),
        (Side::Endpoint, FlowRef::Stream { shard, conn, .. }) => {
            sender.push(shard.0);
            sender.extend_from_slice(&conn.slot.to_be_bytes());
            sender.extend_from_slice(&conn.generation.to_be_bytes());
        }
        (Side::Endpoint, FlowRef::Udp { remote, .. }) => match remote.ip() {
            std::net::IpAddr::V4(ip) => sender.extend_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => sender.extend_from_slice(&ip.octets()),
        },
    }
    sender
}
