//! The engine's dealings with [`Location`]: what it is told and asked, and what becomes of its actions.

use super::location::{Accepted, Action, Asker, Location, Waits};
use super::mail::Answer;
use super::ports::{Env, Ports};
use super::{Engine, Mail, Source};
use crate::clock::Time;
use crate::ids::{BindingId, ConnId, FlowRef};
use crate::proxy::register::Registration;
use crate::sip::Message;
use crate::stats::Counter;

impl Engine {
    /// Lets location do something, and carries out what it wants done.
    pub(super) fn locating<R>(&mut self, now: Time, what: impl FnOnce(&mut Location, &Env, &mut Ports) -> R) -> R {
        let done = what(&mut self.location, &self.env, &mut self.ports);
        while let Some(action) = self.location.poll_action() {
            self.carry_out_located(action, now);
        }
        done
    }

    fn carry_out_located(&mut self, action: Action, now: Time) {
        match action {
            Action::Tell { shard, notice } => self.mail(shard, Mail::Notice(notice)),
            Action::Answer { asker, flow } => self.say_where(asker, flow),
            Action::Wake { what, binding, flow } => match what {
                Waits::Request(asker) => self.say_where(asker, Some(flow)),
                Waits::Ack { message, source } => self.forward_ack_on(message, &source, flow, Some(binding)),
                Waits::Bytes(bytes) => {
                    if let Err(bytes) = self.send_on(flow, Some(binding), bytes, None) {
                        self.ports.pool.give(bytes);
                    }
                }
            },
            Action::InVain { what } => match what {
                Waits::Request(asker) => self.say_where(asker, None),
                Waits::Ack { message, .. } => {
                    self.count(Counter::AckFlowGone);
                    self.recycle_message(message);
                }
                Waits::Bytes(bytes) => self.drop_letter(bytes),
            },
            Action::Registered { conn, is_registered } => self.on_registered(conn, is_registered, now),
            Action::Event { level, what, peer, aor } => self.tell(level, what, Some(peer), &aor),
        }
    }

    fn say_where(&mut self, asker: Asker, flow: Option<FlowRef>) {
        self.mail(asker.shard, Mail::Answer { txn: asker.txn, answer: Answer::Binding(flow) });
    }

    /// The SIP Server has accepted a REGISTER.
    pub(super) fn bind_contacts(
        &mut self,
        request: &Message,
        registration: &Registration,
        response: &Message,
        source: &Source,
        arrived: Time,
        now: Time,
    ) {
        let accepted = Accepted { request, registration, response, source, arrived };
        self.locating(now, |location, env, ports| location.accept(&accepted, env, ports, now));
    }

    pub(super) fn on_binding_timer(&mut self, id: BindingId, now: Time) {
        self.locating(now, |location, env, ports| location.on_binding_timer(id, env, ports, now));
    }

    pub(super) fn on_waiter_timer(&mut self, id: ConnId, now: Time) {
        self.locating(now, |location, _, ports| location.on_waiter_timer(id, ports));
    }

    pub(super) fn on_udp_timer(&mut self, id: ConnId, now: Time) {
        self.locating(now, |location, _, ports| location.on_udp_timer(id, ports, now));
    }
}
