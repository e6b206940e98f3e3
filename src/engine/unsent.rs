//! What a datagram cannot carry: too large for any, or refused by the system for a reason that does not pass by itself.
//! Such a request is answered at once (RFC 3261 §16.9, §18.4) instead of being sent again until a timer gives it up.

use std::net::SocketAddr;

use super::exchange::Exchange;
use super::replies::tag_of;
use super::{Engine, SendFault};
use crate::clock::Time;
use crate::ids::FlowRef;
use crate::limits::UDP_DATAGRAM_LEN_MAX;
use crate::sip::Message;
use crate::sip::response::{self, Reply};
use crate::stats::Counter;
use crate::transaction::Branch;
use crate::transaction::branch::TxnId;

impl Engine {
    /// Whether a message of so many bytes fits its transport.
    pub(super) fn fits(&self, flow: FlowRef, len: usize) -> bool {
        len <= UDP_DATAGRAM_LEN_MAX || self.is_reliable(flow)
    }

    /// What is said in place of a final response that its requester's transport cannot carry: silence would be taken
    /// for a loss, and asked after until the end of the transaction.
    pub(super) fn short_answer(&mut self, exchange: &Exchange, too_large: Vec<u8>) -> (u16, Vec<u8>) {
        self.count(Counter::ResponseTooLarge);
        self.ports.pool.give(too_large);
        let mut bytes = self.ports.pool.take();
        if let Some(request) = exchange.request.as_deref() {
            let to_tag = &tag_of(exchange.key);
            let reply = Reply { code: 500, reason: "Response Too Large", to_tag, extra: b"" };
            response::write(request, exchange.source.peer, &reply, &mut bytes);
        }
        (500, bytes)
    }

    /// The system has refused a datagram.
    pub(super) fn on_unsent_datagram(&mut self, to: SocketAddr, bytes: &[u8], fault: SendFault, now: Time) {
        self.count(match fault {
            SendFault::TooLarge => Counter::DatagramTooLarge,
            SendFault::Refused => Counter::DatagramSendError,
        });
        let buf = self.ports.pool.copy(bytes);
        let message = match Message::scan(buf, false) {
            Ok(message) => message,
            Err((_, buf)) => return self.ports.pool.give(buf),
        };
        let branch = Branch::read(message.text(message.top_via().branch)).filter(|branch| branch.shard == self.me());
        if let (true, Some(branch)) = (message.is_request(), branch) {
            if fault == SendFault::Refused {
                // A server, a peer or a device is tried elsewhere, with all that waits for it.
                self.on_unreachable(to, now);
            }
            self.on_unsent_request(branch, &message, fault, now);
        }
        self.ports.pool.give(message.into_buf());
    }

    /// What is still to be answered of it is; a CANCEL or an ACK is left to the timers of its INVITE.
    fn on_unsent_request(&mut self, branch: Branch, request: &Message, fault: SendFault, now: Time) {
        if branch.txn == TxnId::NONE {
            return;
        }
        let Some(mut exchange) = self.take_exchange(branch.txn) else { return };
        let is_its = exchange.nonce == branch.nonce && request.method() == Some(exchange.method);
        if is_its && exchange.client.is_unanswered() {
            let (code, reason, counter) = match fault {
                SendFault::TooLarge => (513, "Message Too Large", Counter::Refused513Oversize),
                SendFault::Refused => (503, "Cannot Be Sent", Counter::Refused503Unsendable),
            };
            self.finish(branch.txn, &mut exchange, code, reason, counter, now);
        }
        self.put_back(branch.txn, exchange);
    }
}
