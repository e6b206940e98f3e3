//! Client transactions that were given up for another target: what they still say is heard (RFC 3261 §16.7).
//!
//! A server that was taken to be dead may have been slow: it has the INVITE, and rings. So its 2xx goes back whenever
//! it comes, its error gets its ACK, and anything less gets a CANCEL, for the call is another target's now. Each is
//! sent without a transaction of its own: when it is lost, the server's repetition brings it again.

use super::Engine;
use super::exchange::{ClientTxn, Exchange, Former, GivenUp, Onward, ServerTxn};
use super::links::Whose;
use crate::clock::Time;
use crate::limits::TARGETS_COUNT_MAX;
use crate::sip::response::{build_ack, build_cancel};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

impl Engine {
    /// A request leaves the target that it was sent to.
    pub(super) fn leave(&mut self, exchange: &mut Exchange, now: Time) {
        let Some(flow) = exchange.next.take() else { return };
        if exchange.former.len() >= TARGETS_COUNT_MAX {
            return;
        }
        let is_invite = exchange.method == Method::Invite;
        let sent = if is_invite { std::mem::take(&mut exchange.sent) } else { Vec::new() };
        exchange.former.push(Former { nonce: exchange.nonce, flow, hop: exchange.hop, sent });
        // One that was heard of is cancelled at once, the others when they are heard of (RFC 3261 §9.1).
        if is_invite && exchange.client.is_pending() && !exchange.client.is_unanswered() {
            self.cancel_former(exchange, exchange.former.len() - 1, now);
        }
    }

    /// A response to a client transaction that was given up for another target.
    pub(super) fn on_former_response(
        &mut self,
        id: TxnId,
        exchange: &mut Exchange,
        at: usize,
        message: &Message,
        code: u16,
        now: Time,
    ) {
        let is_invite = exchange.method == Method::Invite;
        match code {
            ..200 if is_invite => self.cancel_former(exchange, at, now),
            ..200 => {}
            200..300 if exchange.server.is_open() => {
                // It has done what was asked for; what was asked of the next is taken back.
                self.on_success(id, exchange, message, code, true, now);
                if is_invite && !exchange.in_dialog {
                    self.count(Counter::CallsAnswered);
                }
                if is_invite && exchange.client.is_pending() {
                    self.cancel(id, exchange, GivenUp::Caller, now);
                } else if !is_invite || matches!(exchange.client, ClientTxn::Waiting) {
                    self.abandon_client(id, exchange);
                }
            }
            200..300 => {
                // Two have taken the call: the caller ends one. After an error of ours it would know neither.
                if matches!(&exchange.server, ServerTxn::Invite(machine) if machine.is_accepted()) {
                    self.pass_success(exchange, message, true);
                }
            }
            _ if is_invite => {
                let mut ack = self.ports.pool.take();
                match exchange.former.get(at).map(|former| build_ack(&former.sent, message, &mut ack)) {
                    Some(Ok(())) => self.send_to_former(exchange, at, ack, now),
                    _ => self.ports.pool.give(ack),
                }
            }
            _ => {}
        }
    }

    fn cancel_former(&mut self, exchange: &Exchange, at: usize, now: Time) {
        let mut cancel = self.ports.pool.take();
        match exchange.former.get(at).map(|former| build_cancel(&former.sent, &mut cancel)) {
            Some(Ok(())) => self.send_to_former(exchange, at, cancel, now),
            _ => self.ports.pool.give(cancel),
        }
    }

    /// Sends over the connection that the request went by, or to a server over the one that there is now.
    fn send_to_former(&mut self, exchange: &Exchange, at: usize, bytes: Vec<u8>, now: Time) {
        let Some(former) = exchange.former.get(at) else { return self.ports.pool.give(bytes) };
        let Err(bytes) = self.send_on(former.flow, None, bytes, None) else { return };
        let again = match (exchange.onward, former.hop) {
            (Onward::Server(pair), Some(hop)) => self.flow_to(hop, Whose::Server(pair), None, now),
            _ => None,
        };
        match again {
            Some(flow) => {
                if let Err(bytes) = self.send_on(flow, None, bytes, None) {
                    self.ports.pool.give(bytes);
                }
            }
            None => self.ports.pool.give(bytes),
        }
    }
}
