//! The verdict on the SIP Servers: what [`super::service_checks`] asks for is carried out here, on the shard that owns
//! the verdict; what is seen of servers is sent to it from every shard.

use std::net::SocketAddr;

use super::connections::{Element, SentBy};
use super::ports::Timer;
use super::service_checks::{Action, ServiceChecks, WATCH};
use super::{Engine, Mail, Source};
use crate::clock::Time;
use crate::dns::Answer;
use crate::ids::FlowRef;
use crate::limits::{NAMES_AGAIN, OVERLOAD_QUIET};
use crate::server_pool::Evidence;
use crate::sip::Message;
use crate::stats::Counter;

impl Engine {
    // --- the owner -------------------------------------------------------------------------------------------

    /// At start: the first service checks, and the first look at the names.
    pub(super) fn begin_as_owner(&mut self, now: Time) {
        self.as_owner(now, |_| {});
        self.on_names_timer(now);
    }

    /// Tells the owner's part something, on its shard, and carries out what follows.
    pub(super) fn as_owner(&mut self, now: Time, tell: impl FnOnce(&mut ServiceChecks)) {
        if let Some(checks) = &mut self.service_checks {
            tell(checks);
            self.pump_checks(now);
        }
    }

    fn pump_checks(&mut self, now: Time) {
        while let Some(action) = self.service_checks.as_mut().and_then(|checks| checks.poll(&mut self.ports)) {
            match action {
                Action::Verdict(upstream) => {
                    let mail = || Mail::View { upstream: Box::new(upstream.clone()) };
                    self.ports.mail_others(self.env.settings.shards, mail);
                    self.on_view(upstream, now);
                }
                Action::Send { id, pair, address } => {
                    let Some(hop) = self.hop_of_server(pair, address) else { continue };
                    // Whether it can be reached again is what is asked.
                    self.no_rest(hop, Element::Server(pair));
                    let flow = self.flow_to(hop, Element::Server(pair), None, now);
                    let Some(checks) = &mut self.service_checks else { continue };
                    match flow {
                        Some(flow) => {
                            let bytes = checks.send(id, hop, flow, &self.env, &mut self.ports, now);
                            self.send_check(flow, bytes);
                        }
                        None => checks.lost(id, Evidence::Unreachable, now),
                    }
                }
            }
        }
    }

    fn send_check(&mut self, flow: FlowRef, bytes: Vec<u8>) {
        if let Err(bytes) = self.send_on(flow, None, bytes, None) {
            self.ports.pool.give(bytes);
        }
    }

    pub(super) fn on_pool_timer(&mut self, now: Time) {
        self.as_owner(now, |checks| checks.on_pool_timer(now));
    }

    pub(super) fn on_ping_timer(&mut self, nonce: u64, now: Time) {
        let Some(checks) = &mut self.service_checks else { return };
        if let Some((flow, bytes)) = checks.on_check_timer(nonce, &self.env, &mut self.ports, now) {
            self.send_check(flow, bytes);
        }
    }

    /// A response to a service check of ours.
    pub(super) fn on_pong(&mut self, nonce: u64, message: &Message, source: &Source, now: Time) {
        let Some(checks) = &mut self.service_checks else { return self.count(Counter::ResponseStray) };
        if !checks.on_response(nonce, message, source, &mut self.ports, now) {
            return self.note_elsewhere(message, source);
        }
        self.pump_checks(now);
    }

    /// No answer comes any more to the service checks that were sent so.
    pub(super) fn on_checks_lost(&mut self, sent_by: SentBy, evidence: Evidence, now: Time) {
        let is_gone = |flow| match (sent_by, flow) {
            (SentBy::Conn(gone), FlowRef::Stream { conn, .. }) => conn == gone,
            (SentBy::Udp(gone), FlowRef::Udp { remote, .. }) => remote == gone,
            _ => false,
        };
        let Some(checks) = &mut self.service_checks else { return };
        for id in checks.end_those_on(is_gone, &mut self.ports) {
            self.as_owner(now, |checks| checks.lost(id, evidence, now));
        }
    }

    /// A shard is overloaded: it says so again while that lasts.
    pub(super) fn on_late(&mut self, now: Time) {
        if let Some(checks) = &mut self.service_checks {
            checks.note_late(now.after(OVERLOAD_QUIET * 2));
        }
    }

    /// What a shard has seen of a server.
    pub(super) fn on_evidence(&mut self, pair: u8, address: SocketAddr, evidence: Evidence, now: Time) {
        self.as_owner(now, |checks| checks.on_evidence(pair, address, evidence, now));
    }

    // --- names -----------------------------------------------------------------------------------------------

    /// Looks the names of the settings up again. What is fresh is in the cache.
    pub(super) fn on_names_timer(&mut self, now: Time) {
        let Some(due) = self.service_checks.as_mut().and_then(|checks| checks.names_due(now)) else { return };
        for at in due {
            let Some(checks) = &self.service_checks else { break };
            let answer = checks.look_up(at, WATCH | at as u64, &mut self.dns, &mut self.ports, now);
            if let Some(answer) = answer {
                self.on_watched(at, answer, now);
            }
        }
        self.ports.wheel.arm(now.after(NAMES_AGAIN), Timer::Names);
    }

    /// A name that the owner follows has been resolved, or not.
    pub(super) fn on_watched(&mut self, at: usize, answer: Answer, now: Time) {
        let Some(checks) = &mut self.service_checks else { return };
        checks.on_answer(at, answer, &self.env, &mut self.ports, now);
        self.pump_checks(now);
    }

    // --- every shard -----------------------------------------------------------------------------------------
}
