//! Mail as it comes in, and mail of ours that did not fit its box: which part of the engine each is for.

use super::context::Event;
use super::location::Asker;
use super::mail::{Answer, Letter, Query};
use super::{Engine, Mail, Source};
use crate::clock::Time;
use crate::ids::ShardId;
use crate::proxy::{Refusal, route};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::Branch;
use crate::transaction::branch::TxnId;

impl Engine {
    pub(super) fn on_mail(&mut self, from: ShardId, mail: Mail, now: Time) {
        match mail {
            Mail::Message { message, source } => self.on_placed(message, source, now),
            Mail::Send { flow, letter } => self.on_send(from, flow, letter),
            Mail::Respond { conn, bytes } => self.on_respond(conn, bytes, now),
            Mail::Failed { txn, flow, left } => self.on_context(txn, Event::NotSentElsewhere { flow, left }, now),
            Mail::ConnGone { conn, failure } => self.on_conn_gone(from, conn, failure, now),
            Mail::Ask { txn, query } => self.on_ask(Asker { shard: from, txn }, query, now),
            Mail::Answer { txn, answer } => self.on_answered(txn, answer, now),
            Mail::AimsAt { address } => self.on_aims_at(address, now),
            Mail::Unreachable { to } => {
                self.on_unreachable_here(to, now);
            }
            Mail::ToDevice { hop, tls, bytes } => self.on_to_device(hop, tls.as_deref(), bytes, now),
            Mail::Evidence { pair, address, evidence } => self.on_evidence(pair, address, evidence, now),
            Mail::Late => self.on_late(now),
            Mail::View { upstream } => self.on_view(*upstream, now),
            Mail::Failure { source, failure } => self.on_failure(source, failure, now),
            Mail::Succeeded { source } => self.on_success(source),
            Mail::Verdict { source, verdict } => self.on_verdict(source, verdict),
            Mail::Ack(ack) => self.on_ack_mail(*ack, now),
            Mail::Deliver { binding, not, letter } => self.on_deliver(binding, not, *letter, now),
            Mail::Notice(notice) => self.locating(now, |location, env, ports| location.on_notice(notice, env, ports)),
        }
    }

    /// A message that another shard has placed here.
    fn on_placed(&mut self, message: Box<Message>, source: Source, now: Time) {
        self.note_wait(message.waited(now), now);
        if message.is_request() {
            let routes = route::read(&message, &source, &self.env.names, &self.env.keys, self.env.here);
            self.on_request(message, source, &routes, now);
        } else {
            match Branch::read(message.text(message.top_via().branch)) {
                Some(branch) => self.on_response(message, source, branch, now),
                None => self.drop_response(message, Counter::ResponseStray),
            }
        }
    }

    fn on_ask(&mut self, asker: Asker, query: Query, now: Time) {
        let Asker { shard, txn } = asker;
        match query {
            Query::Binding(asked) => {
                self.locating(now, |location, env, ports| location.on_ask(asker, asked, env, ports, now));
            }
            Query::Address { transport, remote } => {
                let answer = Answer::Address(self.flow_at(transport, remote));
                self.mail(shard, Mail::Answer { txn, answer });
            }
            Query::Device { hop, tls } => self.on_find_device(shard, txn, hop, tls.as_deref(), now),
        }
    }

    fn on_answered(&mut self, txn: TxnId, answer: Answer, now: Time) {
        match answer {
            Answer::Binding(flow) => self.on_resolved(txn, flow, now),
            Answer::Address(found) => self.on_peer(txn, found, now),
            Answer::Device { hop, found } => self.on_device(txn, hop, found, now),
        }
    }

    /// A mail did not fit its box.
    pub(super) fn on_mail_refused(&mut self, mail: Mail, now: Time) {
        match mail {
            Mail::Message { message, source } if message.is_request() => {
                self.count(Counter::LimitMailboxNewWorkCount);
                if message.method() == Some(Method::Ack) {
                    self.count(Counter::AckMailbox);
                } else {
                    let refusal = Refusal::unavailable("Overloaded", Counter::Refused503Mailbox);
                    self.refuse(&message, &source, &refusal);
                }
                self.recycle_message(message);
            }
            Mail::Message { message, .. } => self.drop_response(message, Counter::ResponseMailbox),
            Mail::Send { letter: Letter { bytes, txn: Some(txn), .. }, .. } => {
                self.count(Counter::LimitMailboxCount);
                self.ports.pool.give(bytes);
                self.on_context(txn, Event::NoRoom, now);
            }
            Mail::Send { letter: Letter { bytes, .. }, .. }
            | Mail::Respond { bytes, .. }
            | Mail::ToDevice { bytes, .. } => self.drop_bytes(bytes),
            Mail::Deliver { letter, .. } => self.drop_bytes(letter.bytes),
            Mail::Ack(ack) => {
                self.count(Counter::AckMailbox);
                self.recycle_message(ack.message);
            }
            // As if the answer were that there is none.
            Mail::Ask { txn, query: Query::Binding(_) } => self.on_context(txn, Event::NoRoom, now),
            Mail::Ask { txn, query: Query::Address { .. } } => self.on_peer(txn, None, now),
            Mail::Ask { txn, query: Query::Device { hop, .. } } => self.on_device(txn, hop, Err(None), now),
            // Timers of the asking shard end what waits for these; directory changes are never refused.
            Mail::Failed { .. }
            | Mail::Answer { .. }
            | Mail::ConnGone { .. }
            | Mail::AimsAt { .. }
            | Mail::Unreachable { .. }
            | Mail::Evidence { .. }
            | Mail::Late
            | Mail::View { .. }
            | Mail::Failure { .. }
            | Mail::Succeeded { .. }
            | Mail::Verdict { .. }
            | Mail::Notice(_) => self.count(Counter::LimitMailboxCount),
        }
    }

    fn drop_bytes(&mut self, bytes: Vec<u8>) {
        self.count(Counter::ResponseMailbox);
        self.ports.pool.give(bytes);
    }
}
