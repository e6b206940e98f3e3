//! A response's arrival: the client transaction that it is for, and whether it counts (RFC 3261 §16.7 step 1).

use super::context::{Answer, Event, ResponseContext, TargetSet, Which};
use super::words::in_words;
use super::{Engine, Source};
use crate::clock::Time;
use crate::proxy::trust;
use crate::proxy::trust::{SentTo, Whose};
use crate::sip::{Message, Method, Name};
use crate::stats::Counter;
use crate::transaction::Branch;
use crate::transaction::branch::TxnId;

impl Engine {
    /// A response whose top Via is ours, with a branch of this shard.
    pub(super) fn on_response(&mut self, message: Box<Message>, source: Source, branch: Branch, now: Time) {
        let id = branch.txn;
        // Behind our own Via stands at least that of who asked; a CANCEL or a service check is our own, and has no
        // other.
        let is_own = message.cseq().method == Method::Cancel || id == TxnId::NONE;
        let via_count_min = if is_own { 1 } else { 2 };
        if message.count_values(Name::Via) < via_count_min {
            return self.drop_response(message, Counter::ResponseForeignVia);
        }
        if id == TxnId::NONE && message.cseq().method == Method::Options {
            self.on_pong(branch.nonce, &message, &source, now);
            return self.recycle_message(message);
        }
        if self.contexts.get(id).is_none() {
            return self.drop_response(message, Counter::ResponseStray);
        }
        let response = &*message;
        self.with_context(id, now, |engine, context| engine.answer_of(context, branch, response, &source, now));
        self.recycle_message(message);
    }

    /// Where the client transaction with a branch was sent, and which one that is; `None` when there is none with that
    /// branch.
    fn sent_to(&self, context: &ResponseContext, branch: Branch) -> Option<(SentTo, Which)> {
        let client = &context.client;
        let (which, flow, hop) = if client.nonce == branch.nonce {
            (Which::Last, client.flow, client.hop)
        } else {
            let at = context.earlier.iter().position(|earlier| earlier.nonce == branch.nonce)?;
            (Which::Earlier(at), Some(context.earlier[at].flow), context.earlier[at].hop)
        };
        let whose = match (&context.targets, hop) {
            (TargetSet::Phone { .. }, _) | (_, None) => {
                let binding = context.targets.binding();
                let moved_to = flow.and_then(|flow| self.moved_from(flow, binding));
                return Some((SentTo { flow, moved_to, whose: Whose::Endpoint(binding) }, which));
            }
            (TargetSet::Servers { .. }, Some(hop)) => Whose::Server(hop.address),
            (TargetSet::Peer { .. }, Some(hop)) => Whose::Peer(hop.address),
            (TargetSet::Device { .. }, Some(hop)) => Whose::Device(hop.address),
        };
        // A connection that there is now need not be the one that it was sent over.
        let was_lost = which == Which::Last && context.attempts > 0;
        let flow = flow.filter(|flow| !flow.is_stream() || (!was_lost && self.is_there(*flow)));
        Some((SentTo { flow, moved_to: None, whose }, which))
    }

    /// A response that has the branch of a request, and does not come from where that was sent.
    pub(super) fn note_elsewhere(&mut self, message: &Message, source: &Source) {
        self.count(Counter::ResponseElsewhere);
        let what = "response dropped: it does not come from where its request was sent";
        self.event(what, Some(source.peer), &in_words(message));
    }

    /// What a response is to a context, when it counts: it is from where its request was sent.
    fn answer_of<'a>(
        &mut self,
        context: &ResponseContext,
        branch: Branch,
        message: &'a Message,
        source: &Source,
        now: Time,
    ) -> Option<Event<'a>> {
        let Some((sent, which)) = self.sent_to(context, branch) else {
            self.count(Counter::ResponseStray);
            return None;
        };
        if !trust::may_answer(sent, source) {
            self.note_elsewhere(message, source);
            return None;
        }
        let (code, method) = (message.status().unwrap_or(0), message.cseq().method);
        let is_cancels = method == Method::Cancel && context.asked.method == Method::Invite;
        if which == Which::Last && method != context.asked.method && !is_cancels {
            self.count(Counter::ResponseStray);
            return None;
        }
        self.count(Counter::response_from(source.side, code));
        let alternative = code == 503 && self.has_alternative(context, now);
        let answer = Answer { message, code, is_trusted: source.is_trusted() };
        Some(Event::Response { answer, which, alternative })
    }
}
