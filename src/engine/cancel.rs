//! CANCEL: it follows its INVITE (RFC 3261 §9, §16.10).
//!
//! One for another request is answered 200, and has no effect (§9.2). One that matches nothing gets 481: our branch
//! towards the next hop is random, so that a CANCEL sent on without state could match nothing there either.

use super::context::Event;
use super::{Engine, Source};
use crate::clock::Time;
use crate::ids::{ShardId, Side};
use crate::proxy::{Refusal, RouteSet, trust};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::key;

impl Engine {
    pub(super) fn on_cancel(&mut self, cancel: Box<Message>, source: &Source, routes: &RouteSet, now: Time) {
        let found = self.invite_of(&cancel, source).or_else(|| self.other_of(&cancel, source));
        let is_its_senders =
            |id: TxnId| self.contexts.get(id).is_some_and(|slot| trust::may_cancel(&slot.asked().source, source));
        let Some((id, key)) = found.filter(|(id, _)| is_its_senders(*id)) else {
            if let Some(shard) = self.next_to_ask(&cancel, source) {
                return self.place(shard, cancel, *source, now);
            }
            self.count(Counter::request(source.side, Method::Cancel));
            let refusal = if routes.malformed {
                Refusal::new(400, "Bad Route", Counter::FaultRouteSyntax)
            } else {
                Refusal::new(481, "Call/Transaction Does Not Exist", Counter::Refused481Cancel)
            };
            self.refuse(&cancel, source, &refusal);
            return self.recycle_message(cancel);
        };
        self.count(Counter::request(source.side, Method::Cancel));
        // Our tag is made of the request's key, so that repetitions, and the 487, carry the same.
        self.reply(&cancel, source, 200, "OK", key, b"");
        self.on_context(id, Event::Cancelled(reasons_of(&cancel)), now);
        self.recycle_message(cancel);
    }

    /// The context of the INVITE that a CANCEL or an ACK is for, and its key: by the connection that it came over, or
    /// by its sender, which may have changed its connection meanwhile.
    pub(super) fn invite_of(&self, request: &Message, source: &Source) -> Option<(TxnId, u128)> {
        let key = self.key_of(request, Method::Invite, source);
        if let Some(id) = self.contexts.with_key(key) {
            return Some((id, key));
        }
        let id = self.contexts.with_key(self.lasting_key_of(request, source)?)?;
        Some((id, self.contexts.get(id)?.asked().key))
    }

    /// The context of the request that a CANCEL is for when that is no INVITE, and its key.
    fn other_of(&self, cancel: &Message, source: &Source) -> Option<(TxnId, u128)> {
        key::CANCELLED_BESIDES_INVITE.into_iter().find_map(|method| {
            let key = self.key_of(cancel, method, source);
            self.contexts.with_key(key).map(|id| (id, key))
        })
    }

    /// The shard that may hold what an endpoint's CANCEL is for, when this one does not: an INVITE stays where it
    /// landed, and its sender's next connection may be another shard's. Each is asked once, from the one where the
    /// CANCEL landed. Of a sender who is known by its connection only, that is where its REGISTER went.
    fn next_to_ask(&self, cancel: &Message, source: &Source) -> Option<ShardId> {
        let landed = source.flow.shard();
        let next = match Self::lasts(source) {
            true => ShardId((self.me().0 + 1) % self.env.settings.shards),
            false if source.side == Side::Endpoint && landed == self.me() => self.home_of_to(cancel)?,
            false => return None,
        };
        Some(next).filter(|next| *next != landed)
    }
}

/// `Reason` fields that are carried from one CANCEL to the next (RFC 3326).
const REASONS_LEN_MAX: usize = 1_024;

/// The `Reason` fields of a CANCEL.
fn reasons_of(cancel: &Message) -> Vec<u8> {
    let mut reasons = Vec::new();
    for field in cancel.fields() {
        let line = cancel.text(field.line);
        let is_reason = cancel.text(field.name_span).eq_ignore_ascii_case(b"Reason");
        if is_reason && reasons.len() + line.len() <= REASONS_LEN_MAX {
            reasons.extend_from_slice(line);
        }
    }
    reasons
}
