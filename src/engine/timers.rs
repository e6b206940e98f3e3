//! What follows when a timer fires.

use super::exchange::{Cancelling, ClientTxn, Exchange, GivenUp, Onward, ServerTxn, Which};
use super::links::{LinkKey, Whose};
use super::onward::Why;
use super::{ConnectFailure, Engine, Mail, Timer};
use crate::clock::Time;
use crate::ids::{ShardId, Transport};
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
            Timer::Waiter(id) => self.on_waiter_timer(id, now),
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

    /// The system says that a UDP destination cannot be reached. What a server, peer or device has not answered goes
    /// on at once (RFC 3261 §18.4, §16.9), as after a refused connection; a repetition while it rests says nothing new.
    pub(super) fn on_unreachable(&mut self, to: std::net::SocketAddr, now: Time) {
        // Of the sockets that share a port one is told: its shard tells the others. Of a phone there is nobody to tell.
        if self.on_unreachable_here(to, now) {
            let me = self.me();
            for shard in (0..self.env.settings.shards).map(ShardId).filter(|shard| *shard != me) {
                self.mail(shard, Mail::Unreachable { to });
            }
        }
    }

    /// `false` when it was known, or says nothing of anybody that this proxy sends requests to.
    pub(super) fn on_unreachable_here(&mut self, to: std::net::SocketAddr, now: Time) -> bool {
        let whose = match (self.env.names.server_at(to), self.peer_at(to)) {
            (Some((pair, _)), _) if !self.env.settings.servers[usize::from(pair)].transport.is_stream() => {
                Whose::Server(pair)
            }
            (_, Some(peer)) => Whose::Peer(peer),
            _ => self.whose_device(None),
        };
        let key = LinkKey { whose, transport: Transport::Udp, address: to };
        if matches!(whose, Whose::Device(_)) && !self.links.contains_key(&key) {
            // A phone's address, as it seems, which is nobody's that we try anew.
            self.note_unheard(to, now);
            return false;
        }
        let is_new = self.link_unreachable(key, now);
        if is_new {
            let why = Why::Connection(Some(ConnectFailure::Refused));
            self.move_from(to, why, false, |one| one.hop.is_some_and(|hop| !hop.transport.is_stream()), now);
        }
        is_new
    }
}
