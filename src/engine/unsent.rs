//! What a datagram cannot carry: too large for any, or refused by the system for a reason that does not pass by itself.
//! Such a request is answered at once (RFC 3261 §16.9, §18.4) instead of being sent again until a timer gives it up.

use std::net::SocketAddr;

use super::context::Event;
use super::{Engine, SendFault};
use crate::clock::Time;
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::Branch;

impl Engine {
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
        self.with_context(branch.txn, now, |_, context| {
            let is_its = context.client.nonce == branch.nonce && request.method() == Some(context.asked.method);
            is_its.then_some(Event::Unsendable(fault))
        });
    }
}
