//! CANCEL: it follows its INVITE (RFC 3261 §9, §16.10).
//!
//! One for another request is answered 200, and has no effect (§9.2). One that matches nothing gets 481: our branch
//! towards the next hop is random, so that a CANCEL sent on without state could match nothing there either.

use super::exchange::{Cancelling, ClientTxn, Exchange, GivenUp, Which, slot_of};
use super::{Engine, Source, placement};
use crate::clock::Time;
use crate::ids::{ShardId, Side};
use crate::proxy::{Refusal, Walk, trust};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::{PlainClient, key};

impl Engine {
    pub(super) fn on_cancel(&mut self, cancel: Box<Message>, source: &Source, walk: &Walk, now: Time) {
        let found = self.invite_of(&cancel, source).or_else(|| self.other_of(&cancel, source));
        let is_its_senders = |id: TxnId| {
            let exchange = self.exchanges.get(slot_of(id)).and_then(Option::as_deref);
            exchange.is_some_and(|exchange| trust::may_cancel(&exchange.source, source))
        };
        let Some((id, key)) = found.filter(|(id, _)| is_its_senders(*id)) else {
            if let Some(shard) = self.next_to_ask(&cancel, source) {
                return self.place(shard, cancel, *source);
            }
            self.count(Counter::request(source.side, Method::Cancel));
            let refusal = if walk.malformed {
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
        if let Some(mut exchange) = self.take_exchange(id) {
            if exchange.method == Method::Invite && exchange.server.is_open() {
                let is_first = exchange.given_up == GivenUp::No;
                for field in cancel.fields().iter().filter(|_| is_first) {
                    let line = cancel.text(field.line);
                    if cancel.text(field.name_span).eq_ignore_ascii_case(b"Reason")
                        && exchange.cancel_reason.len() + line.len() <= REASONS_LEN_MAX
                    {
                        exchange.cancel_reason.extend_from_slice(line);
                    }
                }
                self.cancel(id, &mut exchange, GivenUp::Caller, now);
            }
            self.put_back(id, exchange);
        }
        self.recycle_message(cancel);
    }

    /// The exchange of the INVITE that a CANCEL or an ACK is for, and its key: by the connection that it came over, or
    /// by its sender, which may have changed its connection meanwhile.
    pub(super) fn invite_of(&self, request: &Message, source: &Source) -> Option<(TxnId, u128)> {
        let key = self.key_of(request, Method::Invite, source);
        if let Some(id) = self.by_key.get(&key) {
            return Some((*id, key));
        }
        let id = *self.by_key.get(&self.lasting_key_of(request, source)?)?;
        let exchange = self.exchanges.get(slot_of(id))?.as_deref()?;
        Some((id, exchange.key))
    }

    /// The exchange of the request that a CANCEL is for when that is no INVITE, and its key.
    fn other_of(&self, cancel: &Message, source: &Source) -> Option<(TxnId, u128)> {
        key::CANCELLED_BESIDES_INVITE.into_iter().find_map(|method| {
            let key = self.key_of(cancel, method, source);
            self.by_key.get(&key).map(|id| (*id, key))
        })
    }

    /// The shard that may hold what an endpoint's CANCEL is for, when this one does not: an INVITE stays where it
    /// landed, and its sender's next connection may be another shard's. Each is asked once, from the one where the
    /// CANCEL landed. Of a sender who is known by its connection only, that is where its REGISTER went.
    fn next_to_ask(&self, cancel: &Message, source: &Source) -> Option<ShardId> {
        let landed = source.flow.shard();
        let next = match placement::lasting_sender_of(source) {
            Some(_) => ShardId((self.me().0 + 1) % self.env.settings.shards),
            None if source.side == Side::Endpoint && landed == self.me() => self.home_of_to(cancel)?,
            None => return None,
        };
        Some(next).filter(|next| *next != landed)
    }

    /// Ends an INVITE that was sent on, as RFC 3261 §9.1 asks: at once when something was heard of it, else
    /// with its first provisional response.
    pub(super) fn cancel(&mut self, id: TxnId, exchange: &mut Exchange, by: GivenUp, now: Time) {
        if exchange.given_up != GivenUp::No {
            return;
        }
        exchange.given_up = by;
        if matches!(exchange.client, ClientTxn::Waiting) {
            return self.finish_cancelled(id, exchange, now);
        }
        if !exchange.client.is_pending() {
            return;
        }
        exchange.cancelling = Cancelling::Wanted;
        self.arm(id, exchange, Which::Patience, now.after(self.env.times.lifetime()));
        if !exchange.client.is_unanswered() {
            self.send_cancel(id, exchange, now);
        }
    }

    pub(super) fn send_cancel(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        let mut bytes = self.ports.pool.take();
        if crate::sip::response::build_cancel(&exchange.sent, &mut bytes).is_err() {
            // What we sent was parsed once; it cannot fail. Without a CANCEL the call rings on to timer C.
            return self.ports.pool.give(bytes);
        }
        if !exchange.cancel_reason.is_empty() && bytes.ends_with(b"\r\n\r\n") {
            bytes.truncate(bytes.len() - 2);
            bytes.extend_from_slice(&exchange.cancel_reason);
            bytes.extend_from_slice(b"\r\n");
        }
        let reliable = exchange.next.is_none_or(|flow| self.is_reliable(flow));
        let (machine, effects) = PlainClient::start(reliable, self.env.times);
        let copy = self.ports.pool.copy(&bytes);
        exchange.cancelling = Cancelling::Sent { machine, bytes: self.ports.pool.exact(bytes) };
        self.apply_cancel(id, exchange, effects, now);
        self.send_next(id, exchange, copy, false, now);
    }
}

/// `Reason` fields that are carried from one CANCEL to the next (RFC 3326).
const REASONS_LEN_MAX: usize = 1_024;
