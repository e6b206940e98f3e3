//! What follows when a timer fires.

use super::Engine;
use super::ports::Timer;
use crate::clock::Time;

impl Engine {
    pub(super) fn on_timer(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Context(id, timer) => self.on_context_timer(id, timer, now),
            Timer::Conn(id) => self.on_conn_timer(id, now),
            Timer::Binding(id) => self.on_binding_timer(id, now),
            Timer::Waiter(id) => self.on_waiter_timer(id, now),
            Timer::Udp(id) => self.on_udp_timer(id, now),
            Timer::Pool => self.on_pool_timer(now),
            Timer::Names => self.on_names_timer(now),
            Timer::Ping(ping) => self.on_ping_timer(ping, now),
            Timer::Dns => self.on_dns_timer(now),
            Timer::Overload => self.on_overload_timer(now),
            Timer::Abuse => self.on_abuse_timer(now),
        }
    }
}
