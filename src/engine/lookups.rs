//! The engine's dealings with [`crate::dns`]: its outputs, its time, and who waits for a name: a request, or the owner of
//! the verdict, which follows the names of servers and peers.

use super::context::txn_of_waiter;
use super::ports::Timer;
use super::service_checks::WATCH;
use super::{Engine, Output};
use crate::clock::Time;
use crate::dns::Output as DnsOutput;

impl Engine {
    /// Takes out what the resolver wants done, and keeps its time in the wheel.
    pub(super) fn pump_dns(&mut self, now: Time) {
        while let Some(output) = self.dns.poll_output() {
            match output {
                DnsOutput::Found { waiter, answer } if waiter & WATCH == 0 => {
                    self.on_name(txn_of_waiter(waiter), answer, now);
                }
                DnsOutput::Found { waiter, answer } => self.on_watched((waiter & !WATCH) as usize, answer, now),
                output => self.ports.outputs.push_back(Output::Dns(output)),
            }
        }
        let due = self.dns.poll_timeout();
        match (due, self.dns_timer) {
            (Some(due), Some((at, _))) if due == at => {}
            (None, None) => {}
            (due, timer) => {
                if let Some((_, id)) = timer {
                    self.ports.wheel.cancel(id);
                }
                self.dns_timer = due.map(|due| (due, self.ports.wheel.arm(due, Timer::Dns)));
            }
        }
    }

    pub(super) fn on_dns_timer(&mut self, now: Time) {
        self.dns_timer = None;
        self.dns.fire(now, &mut self.ports.counters);
    }
}
