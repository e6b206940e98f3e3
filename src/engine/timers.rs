//! What follows when a timer fires, and when mail arrives.

use super::context::Event;
use super::ports::Timer;
use super::{Engine, Mail};
use crate::clock::Time;
use crate::ids::{FlowRef, ShardId};
use crate::stats::Counter;

impl Engine {
    pub(super) fn on_timer(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Context(id, timer) => self.on_context_timer(id, timer, now),
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

    pub(super) fn on_mail(&mut self, from: ShardId, mail: Mail, now: Time) {
        match mail {
            Mail::Message { message, source } => self.on_placed(message, source, now),
            Mail::Send { flow, letter } => self.on_send(from, flow, letter),
            Mail::Respond { conn, bytes } => self.on_respond(conn, bytes, now),
            Mail::Failed { txn, flow, left } => self.on_context(txn, Event::NotSentElsewhere { flow, left }, now),
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
