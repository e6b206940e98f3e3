//! The loop's way in: an engine is made, takes inputs and fires timers.

use std::collections::HashMap;

use super::abuse::Abuse;
use super::connections::Connections;
use super::context::Contexts;
use super::io::Input;
use super::kept::Kept;
use super::location::Location;
use super::ports::{Env, KeyedState, Ports};
use super::service_checks::{OWNER, ServiceChecks};
use crate::config::engine::{Live, Settings};

use super::{CloseReason, Engine};
use crate::abuse::{self, Failure};
use crate::clock::Time;
use crate::dns;
use crate::flow::table::Slots;
use crate::ids::ConnId;
use crate::limits::SERVER_CONNECTIONS_RESERVE;
use crate::overload::Admission;
use crate::rng::Rng;
use crate::server_pool::{Member, PinFault};
use crate::stats::Counter;
use crate::wheel::Wheel;

impl Engine {
    /// An engine without connections or transactions.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        let env = Env::new(settings);
        let settings = &env.settings;
        let mut rng = Rng::new(&settings.seed);
        let state = KeyedState(siphasher::sip::SipHasher13::new_with_keys(rng.next(), rng.next()));
        let service_checks = ServiceChecks::new(settings, state.clone(), now);
        let mut engine = Self {
            kept: Kept::default(),
            conns: Slots::new(settings.connections_max as usize + SERVER_CONNECTIONS_RESERVE),
            unregistered: HashMap::with_hasher(state.clone()),
            location: Location::new(settings, &env.keys, state.clone()),
            connections: Connections::new(service_checks.upstream(), state.clone()),
            service_checks: (settings.shard == OWNER).then(|| Box::new(service_checks)),
            contexts: Contexts::new(settings.transactions_max as usize, &state),
            dns: dns::Dns::new(settings.dns.clone(), rng.seed()),
            dns_timer: None,
            admission: Admission::default(),
            abuse: Abuse::new(settings.shard == OWNER, state),
            draining: false,
            ports: Ports::new(settings.shard, rng, Wheel::new(now)),
            env,
        };
        engine.begin_as_owner(now);
        engine.settle(now);
        engine
    }

    /// Settings have changed. What is in the air ends by them too, but for the timers that run. Whether there are service
    /// checks at all stays as it was: what is known of a server with them and without is not the same.
    fn set_live(&mut self, mut live: Live, now: Time) {
        let former = self.env.settings.live.oos_check;
        if former.is_zero() != live.oos_check.is_zero() {
            live.oos_check = former;
        }
        let (check, force) = (live.oos_check, live.oos_force);
        self.env.set_live(live);
        self.review_sentences();
        self.as_owner(now, |checks| checks.set_times(check, force, now));
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        match input {
            Input::Datagram { point, from, bytes, waited } => {
                self.on_datagram(point, from, None, bytes, now.before(waited), now);
            }
            Input::Forwarded { point, from, source, bytes, waited } => {
                self.on_datagram(point, from, Some(source), bytes, now.before(waited), now);
            }
            Input::Ready { conn, identities } => self.on_ready(conn, identities, now),
            Input::Bytes { conn, bytes, waited } => self.on_bytes(conn, bytes, now.before(waited), now),
            Input::HalfClosed { conn } => self.on_half_closed(conn, now),
            Input::Closed { conn, reason } => {
                if reason == CloseReason::Handshake {
                    self.note_failed_conn(conn, Failure::Connection);
                }
                self.on_closed(conn, reason, now);
            }
            Input::Unreachable { to } => {
                self.count(Counter::DatagramUnreachable);
                self.on_unreachable(to, now);
            }
            Input::Unsent { to, bytes, fault } => self.on_unsent_datagram(to, bytes, fault, now),
            Input::Mail { from, mail } => self.on_mail(from, mail, now),
            Input::MailRefused { mail } => self.on_mail_refused(mail, now),
            Input::Dns(input) => self.dns.handle(input, now, &mut self.ports.counters),
            Input::Drain => self.draining = true,
            Input::Live(live) => self.set_live(*live, now),
        }
        self.settle(now);
    }

    /// Fires every timer that is due.
    pub fn fire(&mut self, now: Time) {
        while let Some(timer) = self.ports.wheel.poll(now) {
            self.on_timer(timer, now);
            self.settle(now);
        }
    }

    /// Mail of this shard to itself, and what the resolver has to say: either may bring more of the other.
    fn settle(&mut self, now: Time) {
        loop {
            while let Some(mail) = self.ports.local.pop_front() {
                self.on_mail(self.env.settings.shard, mail, now);
            }
            self.pump_dns(now);
            if self.ports.local.is_empty() {
                return;
            }
        }
    }

    /// Fixes which server of a pair is active, or leaves it to the rules again. To be asked of the first shard.
    ///
    /// # Errors
    /// There is no such pair, or no such member of it, or this is not the shard that owns the verdict.
    pub fn pin(&mut self, pair: &str, member: Option<Member>, now: Time) -> Result<(), PinFault> {
        let mut result = Err(PinFault::Pair);
        self.as_owner(now, |checks| result = checks.pin(pair, member, now));
        self.settle(now);
        result
    }

    /// Lets an address in again. Says whether it was shut out. To be asked of the first shard.
    pub fn pardon(&mut self, source: abuse::Source, now: Time) -> bool {
        let mut was_out = false;
        self.judging(|judge| was_out = judge.pardon(source));
        self.settle(now);
        was_out
    }

    /// The proxy shows other certificates: who has failed by the old ones begins anew.
    pub fn pardon_all(&mut self, now: Time) {
        self.judging(|judge| judge.pardon_where(|_| true));
        self.settle(now);
    }

    /// Ends every connection, as if each had been idle for too long: for tests of what is left then. A shard that stops
    /// does without its engine.
    pub fn close_all(&mut self, now: Time) {
        let all: Vec<ConnId> = self.conns.iter().map(|(id, _)| id).collect();
        for id in all {
            self.close(id, CloseReason::Idle, now);
        }
        self.settle(now);
    }
}
