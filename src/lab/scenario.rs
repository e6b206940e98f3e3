//! The skeleton of a scenario, so that each says only what is particular to it.
//!
//! ```text
//! arguments (args)      ── what several commands take
//! start                 ── bench, then register or register_by_dns
//! schedule              ── play: calls at an even rate, and whatever else the Scenario does meanwhile
//! report                ── a Value on standard output, or lines of the scenario's own
//! expectations          ── verdict: each that is broken in words, and the status
//! ```
//!
//! Owns: the even schedule (absolute; how late each call was placed is reported on its own), the loop around it, the
//! registrations before it. Must not touch: SIP, and what any one scenario is about.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::dns;
use crate::net::{TlsSettings, Transport};
use crate::stack::Timers;
use crate::tally::Histogram;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Calls placed before the network gets its turn.
const PLACED_PER_TURN_MAX: usize = 32;
/// The longest turn while nothing is due.
const TURN_MAX_US: u64 = 20_000;
/// Without one more registration for so long the set-up is given up.
const REGISTER_STALL_US: u64 = 20_000_000;

/// After the last call of a run whose every call has its record: 8 s until one counts as lost, and time for what follows
/// from that.
pub const FATES_MAX: Duration = Duration::from_secs(14);
/// In such a run, and for as long as that, finished transactions absorb late messages.
pub const LINGER: Duration = Duration::from_secs(20);

/// What a command or a step of one comes to, or what could not be started; all else that can go wrong in here is that
/// the poll itself fails.
pub type Ended<T = ExitCode> = Result<T, Box<dyn Error>>;

/// A bench whose finished transactions absorb late messages for `linger`, which at high rates is less than the RFC says,
/// to bound memory.
pub fn bench(tls: TlsSettings, linger: Duration) -> Ended<Bench> {
    let timers = Timers { linger_us: linger.as_micros() as u64, ..Timers::default() };
    Ok(Bench::new(tls, timers)?)
}

/// Lets all phones register, `rate` each second; says how many did before nothing moved any more.
pub fn register_all(bench: &mut Bench, rate: f64) -> Ended<usize> {
    let count = bench.phones().1.config.count as usize;
    let began_us = bench.stack.read_clock();
    let mut told_s = 0;
    let (mut best, mut best_us) = (0, began_us);
    loop {
        let now_us = bench.stack.read_clock();
        start_phones(bench, began_us, rate, TURN_MAX_US)?;
        let registered = bench.phones().1.registered_count();
        if registered > best {
            (best, best_us) = (registered, now_us);
        }
        if let Some(passed_s) = tick(&mut told_s, now_us - began_us) {
            eprintln!("{passed_s:4} s  registered {registered}/{count}");
        }
        if registered == count || now_us - best_us > REGISTER_STALL_US {
            return Ok(registered);
        }
    }
}

/// Starts the phones that are due, and lets the network have its turn: a short one while there are more.
pub fn start_phones(bench: &mut Bench, began_us: u64, rate: f64, wait_us: u64) -> Ended<()> {
    let (stack, phones) = bench.phones();
    let due = ((stack.read_clock() - began_us) as f64 / 1e6 * rate) as u64;
    let has_more = phones.start_until(stack, due);
    Ok(bench.turn(Duration::from_micros(if has_more { 1_000 } else { wait_us }))?)
}

/// Lets all phones register.
pub fn register(bench: &mut Bench, rate: f64) -> Ended<()> {
    let (registered, count) = (register_all(bench, rate)?, bench.phones().1.config.count);
    if registered < count as usize {
        let failures = &bench.stack.tally.register_failures;
        return Err(format!("only {registered} of {count} phones are registered: {failures:?}").into());
    }
    Ok(())
}

/// Adds phones that find their proxies through DNS, each in an order of its own, and lets them register.
pub fn register_by_dns(
    bench: &mut Bench,
    (phones, count): (&PhonesArgs, u32),
    (resolver, domain, transport): (SocketAddr, String, Transport),
    rate: f64,
) -> Ended<()> {
    let targets = dns::find(resolver, &domain, transport)?;
    let mut config = phones.config(Place { transport, addr: targets[0].addr }, count);
    config.domain = domain;
    bench.add_phones(config);
    for phone in 0..count {
        let (stack, phones) = bench.phones();
        phones.set_proxies(phone, dns::order(&targets, |below| stack.random() % below));
    }
    register(bench, rate)
}

/// The seconds that have passed, once each; `told_s` remembers the last.
pub fn tick(told_s: &mut u64, passed_us: u64) -> Option<u64> {
    let passed_s = passed_us / 1_000_000;
    (std::mem::replace(told_s, passed_s) < passed_s).then_some(passed_s)
}

/// An even rate: each has its time, whatever became of those before it.
pub struct Schedule {
    from_us: u64,
    rate: f64,
    /// The number of the one that is due at `from_us`.
    first: u64,
    next: u64,
    total: u64,
    /// How late each was.
    pub behind: Histogram,
}

impl Schedule {
    pub fn new(from_us: u64, rate: f64, total: u64) -> Self {
        Self { from_us, rate, first: 0, next: 0, total, behind: Histogram::default() }
    }

    /// Goes on from now, so that what would have been due meanwhile never is.
    pub fn resume(&mut self, now_us: u64) {
        (self.from_us, self.first) = (now_us, self.next);
    }

    fn next_us(&self) -> u64 {
        self.from_us + ((self.next - self.first) as f64 * 1e6 / self.rate) as u64
    }

    /// Takes the next that is due, by its number.
    pub fn take(&mut self, now_us: u64) -> Option<u64> {
        let (nth, due_us) = (self.next, self.next_us());
        if self.is_done() || due_us > now_us {
            return None;
        }
        self.behind.record(now_us - due_us);
        self.next += 1;
        Some(nth)
    }

    /// Does what is due, as `place` says, but for not too long; `clock` is read between one and the next.
    pub fn place_due<T>(&mut self, of: &mut T, clock: impl Fn(&mut T) -> u64, mut place: impl FnMut(&mut T, u64)) {
        for _ in 0..PLACED_PER_TURN_MAX {
            let now_us = clock(of);
            let Some(nth) = self.take(now_us) else { return };
            place(of, nth);
        }
    }

    /// How long until the next is due; when all are done, the longest turn.
    pub fn wait_us(&self, now_us: u64) -> u64 {
        if self.is_done() { TURN_MAX_US } else { self.next_us().saturating_sub(now_us) }
    }

    pub fn is_done(&self) -> bool {
        self.next >= self.total
    }
}

/// A phone for the call of this number: neighbours in time are no neighbours in number, so that no order of
/// registration shows.
pub fn phone_of(nth: u64, phones: u32) -> u32 {
    (nth.wrapping_mul(7_919) % u64::from(phones)) as u32
}

/// What is particular to a scenario, in the order of a turn.
pub trait Scenario {
    /// What it runs on; of several benches the one whose clock is that of the run.
    fn bench(&mut self) -> &mut Bench;

    /// What happens besides the calls, such as a fault, so many seconds after the first call.
    fn disturb(&mut self, _passed_s: f64) -> Ended<()> {
        Ok(())
    }

    /// Places the call of this number, from 0 on.
    fn place(&mut self, nth: u64);

    /// Lets the network have its turn, of so many microseconds at most, and takes in what came of it.
    fn turn(&mut self, wait_us: u64) -> Ended<()> {
        Ok(self.bench().turn(Duration::from_micros(wait_us))?)
    }

    /// Once a second.
    fn progress(&mut self, _passed_s: u64) {}

    /// Whether nothing of what was placed is under way any more.
    fn is_over(&mut self) -> bool;
}

/// Places calls at an even rate, and waits, for at most `drain_max` after the last, until they are over; says how late
/// each was placed.
pub fn play<S: Scenario>(scenario: &mut S, rate: f64, seconds: u64, drain_max: Duration) -> Ended<Histogram> {
    let clock = |scenario: &mut S| scenario.bench().stack.read_clock();
    let began_us = clock(scenario);
    let mut schedule = Schedule::new(began_us, rate, (rate * seconds as f64).round() as u64);
    let (mut told_s, mut given_up_us) = (0, None);
    loop {
        let passed_us = clock(scenario) - began_us;
        scenario.disturb(passed_us as f64 / 1e6)?;
        schedule.place_due(scenario, clock, S::place);
        let wait_us = schedule.wait_us(clock(scenario));
        scenario.turn(wait_us)?;
        let now_us = clock(scenario);
        if let Some(passed_s) = tick(&mut told_s, now_us - began_us) {
            scenario.progress(passed_s);
        }
        if schedule.is_done() {
            let given_up_us = *given_up_us.get_or_insert(now_us + drain_max.as_micros() as u64);
            if scenario.is_over() || now_us > given_up_us {
                return Ok(schedule.behind);
            }
        }
    }
}

/// The status of a run that held what was expected, or did not.
pub fn status(holds: bool) -> ExitCode {
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says each expectation that is broken, and gives the status.
pub fn verdict(command: &str, broken: &[String]) -> ExitCode {
    for what in broken {
        eprintln!("hawser-lab {command}: {what}");
    }
    status(broken.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_taken_in_turn_and_a_pause_is_not_made_up_for() {
        let mut schedule = Schedule::new(1_000_000, 10.0, 4);
        assert_eq!((schedule.take(999_999), schedule.take(1_000_000)), (None, Some(0)));
        assert_eq!((schedule.wait_us(1_000_000), schedule.take(1_150_000)), (100_000, Some(1)));
        assert_eq!(schedule.behind.max_ms(), 50.0);
        schedule.resume(9_000_000);
        assert_eq!((schedule.take(9_000_000), schedule.take(9_000_001)), (Some(2), None));
        assert_eq!((schedule.take(9_100_000), schedule.is_done()), (Some(3), true));
        let mut told_s = 0;
        let told = [900_000, 1_500_000, 1_600_000, 3_700_000].map(|passed_us| tick(&mut told_s, passed_us));
        assert_eq!(told, [None, Some(1), None, Some(3)]);
    }
}
