//! What follows when a timer fires, and when mail arrives.

use super::exchange::{Cancelling, ClientTxn, Exchange, GivenUp, Onward, ServerTxn, Which};
use super::onward::Why;
use super::{Engine, Mail, Timer};
use crate::clock::Time;
use crate::ids::{FlowRef, ShardId};
use crate::limits::SERVER_DOUBT_AFTER;
use crate::sip::Method;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::transaction::{Effects, Tell};

impl Engine {
    pub(super) fn on_timer(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Exchange(id, which) => {
                let Some(mut exchange) = self.take_exchange(id) else { return };
                Self::timer_spent(&mut exchange, which);
                self.on_exchange_timer(id, &mut exchange, which, now);
                self.put_back(id, exchange);
            }
            Timer::Conn(id) => self.on_conn_timer(id, now),
            Timer::Binding(id) => self.on_binding_timer(id, now),
            Timer::Waiter(id) => self.on_waiter_timer(id),
            Timer::Udp(id) => self.on_udp_timer(id, now),
            Timer::Pool => self.on_pool_timer(now),
            Timer::Names => self.on_names_timer(now),
            Timer::Ping(ping) => self.on_ping_timer(ping, now),
            Timer::Dns => self.on_dns_timer(now),
        }
    }

    fn on_exchange_timer(&mut self, id: TxnId, exchange: &mut Exchange, which: Which, now: Time) {
        match which {
            Which::ServerRetransmit => {
                self.count(Counter::TimerG);
                if let ServerTxn::Invite(machine) = &mut exchange.server {
                    let mut effects = machine.on_retransmit(self.env.times);
                    // One who asks again is answered again; a forged source asks once.
                    match exchange.repeats_len.checked_sub(exchange.last.len()) {
                        Some(left) => {
                            exchange.repeats_len = left;
                            self.count(Counter::ResentResponse);
                        }
                        None => effects.resend = None,
                    }
                    self.apply_server(id, exchange, effects, now);
                }
            }
            Which::ServerDeadline => {
                let effects = match &mut exchange.server {
                    ServerTxn::Invite(machine) => machine.on_deadline(),
                    ServerTxn::Plain(machine) => machine.on_deadline(),
                };
                if effects.tell == Some(Tell::NoAck) {
                    self.count(Counter::TimerH);
                }
                self.apply_server(id, exchange, effects, now);
            }
            Which::ClientRetransmit => {
                let (effects, counter) = match &mut exchange.client {
                    ClientTxn::Invite(machine) => (machine.on_retransmit(), Counter::TimerA),
                    ClientTxn::Plain(machine) => (machine.on_retransmit(self.env.times), Counter::TimerE),
                    ClientTxn::Waiting | ClientTxn::Over => return,
                };
                self.count(counter);
                self.count(Counter::ResentRequest);
                self.apply_client(id, exchange, effects, now);
            }
            Which::ClientDeadline => {
                let was_unanswered = exchange.client.is_unanswered();
                let (effects, counter) = match &mut exchange.client {
                    ClientTxn::Invite(machine) => (machine.on_deadline(), Counter::TimerB),
                    ClientTxn::Plain(machine) => (machine.on_deadline(), Counter::TimerF),
                    ClientTxn::Waiting | ClientTxn::Over => return,
                };
                self.apply_client(id, exchange, effects, now);
                if effects.tell == Some(Tell::Timeout) {
                    self.count(counter);
                    self.on_timeout(id, exchange, was_unanswered, now);
                }
            }
            Which::CancelRetransmit | Which::CancelDeadline => self.on_cancel_timer(id, exchange, which, now),
            Which::Trying if exchange.said_provisional => self.doubt_server(exchange),
            Which::Trying => {
                self.say_trying(exchange);
                if exchange.to_server() && exchange.method == Method::Invite && exchange.server.is_open() {
                    self.arm(id, exchange, Which::Trying, now.after(SERVER_DOUBT_AFTER));
                }
            }
            Which::Patience => self.on_patience(id, exchange, now),
            Which::Wait => {
                // The home has not answered: its mailbox or the shard is in trouble. The phone counts as gone.
                if exchange.resolving {
                    exchange.resolving = false;
                    if exchange.onward == Onward::Hops {
                        return self.on_wait_over(id, exchange, now);
                    }
                    self.count(Counter::LimitHomeAnswer);
                    self.finish_gone(id, exchange, now);
                }
            }
        }
    }

    fn on_cancel_timer(&mut self, id: TxnId, exchange: &mut Exchange, which: Which, now: Time) {
        let Cancelling::Sent { machine, .. } = &mut exchange.cancelling else { return };
        let effects = match which {
            Which::CancelRetransmit => machine.on_retransmit(self.env.times),
            _ => Effects { tell: None, ..machine.on_deadline() },
        };
        self.apply_cancel(id, exchange, effects, now);
    }

    /// Timer B or F: nothing at all, or nothing final, came back.
    fn on_timeout(&mut self, id: TxnId, exchange: &mut Exchange, was_unanswered: bool, now: Time) {
        if let (Onward::Hops, true, Some(hop)) = (exchange.onward, was_unanswered, exchange.hop) {
            // The next request is tried elsewhere first (RFC 3263 §4.3).
            self.dns.block(hop.transport, hop.address, now, &mut self.ports.counters);
        }
        if exchange.method == Method::Invite {
            if self.has_alternative(exchange, now) {
                return self.fail_over(id, exchange, Why::Timeout, now);
            }
            self.finish(id, exchange, 408, "Request Timeout", Counter::Refused408TimerB, now);
        } else {
            // RFC 4320 §4.2: a 408 to a request other than INVITE would come too late to help anybody.
            self.abandon_client(id, exchange);
            self.stop(exchange, Which::Trying);
            exchange.server_over = true;
            let peer = exchange.source.peer;
            let about = exchange.request.as_deref().map_or(Vec::new(), super::home::in_words);
            self.event("request unanswered", Some(peer), &about);
        }
    }

    /// Timer C, or a CANCEL that has brought nothing.
    fn on_patience(&mut self, id: TxnId, exchange: &mut Exchange, now: Time) {
        if !exchange.client.is_pending() {
            return;
        }
        match exchange.given_up {
            GivenUp::No => {
                self.count(Counter::TimerC);
                self.cancel(id, exchange, GivenUp::TimerC, now);
            }
            GivenUp::TimerC => {
                self.finish(id, exchange, 408, "Request Timeout", Counter::Refused408TimerC, now);
            }
            GivenUp::Caller => self.finish_cancelled(id, exchange, now),
        }
    }

    pub(super) fn on_mail(&mut self, from: ShardId, mail: Mail, now: Time) {
        match mail {
            Mail::Message { message, source } => self.on_placed(message, source, now),
            Mail::Send { flow, letter } => self.on_send(from, flow, letter),
            Mail::Respond { conn, bytes } => self.on_respond(conn, bytes, now),
            Mail::Failed { txn, flow, left } => self.on_failed(txn, flow, left, now),
            Mail::ConnGone { conn, failure } => self.on_conn_gone(from, conn, failure, now),
            Mail::Resolve { txn, binding, not, wait } => self.on_resolve(from, txn, binding, not, wait, now),
            Mail::Resolved { txn, flow } => self.on_resolved(txn, flow, now),
            Mail::FindPeer { txn, transport, remote } => {
                let found = self.flow_at(transport, remote);
                self.mail(from, Mail::Peer { txn, found });
            }
            Mail::Peer { txn, found } => self.on_peer(txn, found, now),
            Mail::FindDevice { txn, hop, tls } => self.on_find_device(from, txn, hop, tls.as_deref(), now),
            Mail::Device { txn, hop, found } => self.on_device(txn, hop, found, now),
            Mail::AimsAt { address } => self.on_aims_at(address, now),
            Mail::Unreachable { to } => {
                self.on_unreachable_here(to, now);
            }
            Mail::ToDevice { hop, tls, bytes } => self.on_to_device(hop, tls.as_deref(), bytes, now),
            Mail::Evidence { pair, address, evidence } => self.on_evidence(pair, address, evidence, now),
            Mail::View { upstream } => self.on_view(*upstream, now),
            Mail::Ack { message, source, binding, not } => self.on_ack_mail(message, source, binding, not, now),
            Mail::Deliver { binding, not, letter } => self.on_deliver(binding, not, letter, now),
            Mail::Bound { flow, binding, until } => {
                let held = match flow {
                    FlowRef::Stream { conn, .. } => self.bind_conn(conn, binding),
                    FlowRef::Udp { point, remote, .. } => self.bind_udp(point, remote, binding, until),
                };
                if !held {
                    self.mail(binding.home(self.env.settings.shards), Mail::FlowGone { flow, binding });
                }
            }
            Mail::Moved { flow, binding, to } => self.on_unbound(flow, binding, Some(to), now),
            Mail::Unbound { flow, binding } => self.on_unbound(flow, binding, None, now),
            Mail::FlowGone { flow, binding } => self.on_flow_gone(flow, binding),
            Mail::ForgetContact { contact, until } => self.directory.forget_contact(contact, until),
            Mail::PutContact { contact, binding, until } => self.on_put_contact(contact, binding, until),
            Mail::DropContact { contact, binding } => {
                self.directory.drop_contact(contact, binding);
            }
        }
    }

    /// A message that another shard has placed here.
    fn on_placed(&mut self, message: Box<crate::sip::Message>, source: super::Source, now: Time) {
        if message.is_request() {
            let walk = crate::proxy::route::walk(&message, &source, &self.env.names, &self.env.keys);
            self.on_request(message, source, &walk, now);
        } else {
            match crate::transaction::Branch::read(message.text(message.top_via().branch)) {
                Some(branch) => self.on_response(message, source, branch, now),
                None => self.drop_response(message, Counter::ResponseStray),
            }
        }
    }

    fn on_unbound(&mut self, flow: FlowRef, binding: crate::ids::BindingId, to: Option<FlowRef>, now: Time) {
        match flow {
            FlowRef::Stream { conn, .. } => self.unbind_conn(conn, binding, to, now),
            FlowRef::Udp { point, remote, .. } => self.unbind_udp(point, remote, binding, to),
        }
    }
}
