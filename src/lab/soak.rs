//! A soak: mixed calls through one proxy for as long as it is told, while phones move, settings and certificates are
//! read again, SIP Servers are killed and phones come in storms; and what is left of it all at the end.
//!
//! Owns: the order of events, the line of figures, the end. Must not touch: SIP. The parts are those of the other
//! scenarios: a pair of servers ([`crate::failover`]), phones over UDP, TCP and TLS ([`crate::bench`]), bare clients.
//!
//! ```text
//! warm-up (calls and everything else) ── idle ── what is held is noted down
//! the rest of the time, the same      ── every phone is called once ── idle ── what is held is compared
//! ```
//!
//! [`calls`] names the cause of each call that broke, [`parties`] plays the phones, [`site`] the proxy and its servers,
//! [`held`] says what may be left.

mod calls;
mod held;
mod parties;
mod site;

use crate::args::PhonesArgs;
use crate::bare_clients::{BareClients, Kind, What};
use crate::net::Transport;
use crate::scenario::{self, Ended, Schedule};
use calls::Calls;
use clap::Args;
use held::Held;
use parties::{Parties, PhoneId};
use site::Site;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// After the last call was placed: 8 s until one counts as lost, the longest talk, and the BYE's own 32 s.
const DRAIN_MAX_S: f64 = 50.0;
const ALL_CALLED_PER_S: f64 = 50.0;
/// Less does not empty everything.
const IDLE_MIN_S: u64 = 65;
/// A server that was killed stays away for so long.
const DEAD_S: f64 = 8.0;
/// Between a kill and a storm, so that what registers in the storm is not lost with the server.
const APART_S: f64 = 2.0;
/// Handshakes of a storm beside the phones that come back.
const STORM_HANDSHAKES: u32 = 150;

#[derive(Args)]
pub struct SoakLine {
    /// Hawser's program.
    #[arg(long)]
    hawser: PathBuf,
    /// Folder for settings, certificates and logs.
    #[arg(long)]
    dir: PathBuf,
    /// Seconds of calls and all that goes on beside them; a quarter of them, at most 300, is the warm-up.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Seconds without calls before what is held is looked at: a transaction ends after 64·T1, a UDP address that a phone has
    /// left is remembered for the 60 s of its registration, and connections give their buffers back. What is held is not
    /// looked at after less than 65.
    #[arg(long, default_value_t = 75)]
    idle: u64,
    /// Transport between proxy and servers.
    #[arg(long, default_value = "tcp")]
    internal: Transport,
    /// Phones, a third of them each over UDP, TCP and TLS.
    #[arg(long, default_value_t = 600)]
    phones: u32,
    /// Calls each second.
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// The longest time from answer to BYE, milliseconds.
    #[arg(long, default_value_t = 6_000)]
    talk_ms_max: u64,
    /// From one line of figures to the next, seconds.
    #[arg(long, default_value_t = 60.0)]
    tell_every: f64,
    /// From one move of a phone to the next, seconds: in turn its connection is lost and it comes back, or it opens
    /// another one first.
    #[arg(long, default_value_t = 0.5)]
    move_every: f64,
    #[arg(long, default_value_t = 20.0)]
    reload_every: f64,
    /// From one kill of a SIP Server to the next, seconds, the active one and the other in turn.
    #[arg(long, default_value_t = 45.0)]
    kill_every: f64,
    /// From one storm to the next, seconds: in turn every phone registers again, or a third of them lose their
    /// connections at once.
    #[arg(long, default_value_t = 60.0)]
    storm_every: f64,
    #[command(flatten)]
    phone: PhonesArgs,
}

/// Something that is done again and again.
struct Every {
    every_s: f64,
    next_s: f64,
    count: u64,
}

impl Every {
    /// The first time after `share` of the time between two, so that not all comes at once. A short run has each kind too.
    fn new(every_s: f64, seconds: u64, share: f64) -> Self {
        let every_s = every_s.min(seconds as f64 / 4.0);
        Self { every_s, next_s: every_s * share, count: 0 }
    }

    /// Whether it is due; its number, from 0 on.
    fn take(&mut self, passed_s: f64) -> Option<u64> {
        if passed_s < self.next_s {
            return None;
        }
        self.next_s = passed_s.max(self.next_s) + self.every_s;
        self.count += 1;
        Some(self.count - 1)
    }
}

/// What goes on beside the calls.
struct Beside {
    moves: Every,
    reloads: Every,
    kills: Every,
    storms: Every,
    /// The server that is dead, and when it comes back.
    dead: Option<(usize, f64)>,
    killed_s: f64,
    stormed_s: f64,
    handshakes: u64,
    handshakes_failed: u64,
}

struct Soak<'a> {
    line: &'a SoakLine,
    began: Instant,
    site: Site,
    parties: Parties,
    calls: Calls,
    clients: BareClients,
    beside: Beside,
    tell: Every,
}

/// Runs it; fails when a call broke without a cause, a phone cannot be reached at the end, or the proxy holds or has
/// counted what it should not.
///
/// # Errors
/// What could not be started.
pub fn run(line: &SoakLine) -> Ended {
    let mut soak = Soak::start(line)?;
    let warm_up_s = (line.seconds as f64 / 4.0).min(300.0);
    soak.play(warm_up_s)?;
    soak.finish_calls()?;
    soak.idle()?;
    let before = Held::read(&mut soak.site)?;
    println!("after the warm-up     {before}");
    soak.play(line.seconds as f64 - warm_up_s)?;
    soak.finish_calls()?;
    soak.call_everybody()?;
    soak.idle()?;
    soak.verdict(&before)
}

impl<'a> Soak<'a> {
    fn start(line: &'a SoakLine) -> Ended<Self> {
        let files = Site::prepare(&line.dir, &line.phone.domain)?;
        let tls = files.load()?;
        let mut parties = Parties::new(line.phones, &tls)?;
        let place = (line.dir.as_path(), line.phone.domain.as_str());
        let site = Site::start(&line.hawser, place, line.internal, &files, parties.waker())?;
        parties.register(&line.phone, |transport| site.place(transport))?;
        let clients = BareClients::start(site.place(Transport::Tls).addr, &tls, Vec::new())?;
        let beside = Beside {
            moves: Every::new(line.move_every, line.seconds, 1.0),
            reloads: Every::new(line.reload_every, line.seconds, 0.5),
            kills: Every::new(line.kill_every, line.seconds, 0.4),
            storms: Every::new(line.storm_every, line.seconds, 0.7),
            dead: None,
            killed_s: -APART_S,
            stormed_s: -APART_S,
            handshakes: 0,
            handshakes_failed: 0,
        };
        let tell = Every { every_s: line.tell_every, next_s: line.tell_every, count: 0 };
        let calls = Calls::new(&line.phone.domain, line.talk_ms_max);
        Ok(Self { line, began: Instant::now(), site, parties, calls, clients, beside, tell })
    }

    fn passed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Calls and all else for so many seconds.
    fn play(&mut self, seconds: f64) -> Ended<()> {
        let from_s = self.passed_s();
        for every in [&mut self.beside.moves, &mut self.beside.reloads, &mut self.beside.kills, &mut self.beside.storms]
        {
            // What would have been due during an idle time is not made up for.
            every.next_s = every.next_s.max(from_s + every.every_s * 0.3);
        }
        let mut schedule = Schedule::new(self.now_us(), self.line.rate, (self.line.rate * seconds) as u64);
        while !schedule.is_done() {
            schedule.place_due(self, |soak| soak.now_us(), Self::place);
            self.disturb()?;
            self.turn()?;
        }
        Ok(())
    }

    fn place(&mut self, _nth: u64) {
        let now_us = self.now_us();
        self.calls.place(now_us, &mut self.parties, &mut self.site.pair);
    }

    fn disturb(&mut self) -> Ended<()> {
        let (passed_s, now_us) = (self.passed_s(), self.now_us());
        if let Some(nth) = self.beside.moves.take(passed_s) {
            self.parties.move_one(nth, now_us);
        }
        if let Some(nth) = self.beside.reloads.take(passed_s) {
            self.site.reload(nth)?;
        }
        if passed_s > self.beside.killed_s + APART_S
            && let Some(nth) = self.beside.storms.take(passed_s)
        {
            self.beside.stormed_s = passed_s;
            self.parties.storm(nth, now_us);
            self.clients.open(Kind::Passer, STORM_HANDSHAKES);
            self.beside.handshakes += u64::from(STORM_HANDSHAKES);
        }
        if self.beside.dead.is_none()
            && passed_s > self.beside.stormed_s + APART_S
            && let Some(nth) = self.beside.kills.take(passed_s)
        {
            let victim = self.site.kill(nth.is_multiple_of(2), self.calls.ledger())?;
            self.calls.killed(now_us);
            self.beside.killed_s = passed_s;
            self.beside.dead = Some((victim, passed_s + DEAD_S.min(self.beside.kills.every_s / 2.0)));
        }
        Ok(())
    }

    /// Lets everybody have a turn, and takes in what came of it.
    fn turn(&mut self) -> Ended<()> {
        let passed_s = self.passed_s();
        if let Some((server, until_s)) = self.beside.dead
            && passed_s >= until_s
        {
            self.site.restart(server, self.calls.ledger())?;
            self.beside.dead = None;
        }
        self.parties.turn(self.began)?;
        let now_us = self.now_us();
        self.site.turn(now_us, self.calls.ledger());
        self.calls.turn(now_us, &mut self.parties);
        self.calls.ask_of_puzzles(|id| self.site.where_is(&self.parties.aor(id)));
        for fact in self.clients.facts()? {
            self.beside.handshakes_failed += u64::from(matches!(fact.what, What::Ended { stood: false, .. }));
        }
        if self.tell.take(passed_s).is_some() {
            self.tell()?;
        }
        Ok(())
    }

    /// Goes on for so many seconds, or until `is_done`.
    fn turn_until(&mut self, seconds: f64, mut is_done: impl FnMut(&mut Self) -> bool) -> Ended<bool> {
        let until_s = self.passed_s() + seconds;
        while self.passed_s() < until_s {
            if is_done(self) {
                return Ok(true);
            }
            self.turn()?;
        }
        Ok(is_done(self))
    }

    /// Waits until the last call is over, both servers are back, and so is every phone.
    fn finish_calls(&mut self) -> Ended<()> {
        self.turn_until(DRAIN_MAX_S, |soak| {
            soak.calls.open_count() == 0 && soak.beside.dead.is_none() && soak.parties.are_all_registered()
        })?;
        Ok(())
    }

    fn idle(&mut self) -> Ended<()> {
        self.turn_until(self.line.idle as f64, |_| false)?;
        Ok(())
    }

    /// Calls each phone once.
    fn call_everybody(&mut self) -> Ended<()> {
        let all: Vec<PhoneId> = self.parties.all().collect();
        let mut schedule = Schedule::new(self.now_us(), ALL_CALLED_PER_S, all.len() as u64);
        while !schedule.is_done() {
            schedule.place_due(
                self,
                |soak| soak.now_us(),
                |soak, nth| {
                    let now_us = soak.now_us();
                    soak.calls.call_phone(now_us, all[nth as usize], &mut soak.parties, &mut soak.site.pair);
                },
            );
            self.turn()?;
        }
        self.finish_calls()
    }

    fn tell(&mut self) -> Ended<()> {
        let held = Held::read(&mut self.site)?;
        let Beside { moves, reloads, kills, storms, handshakes, .. } = &self.beside;
        println!(
            "{:6.0} s  {}  moves {}  reloads {}  kills {}  storms {}  bare handshakes {handshakes}  registered {}/{}  {held}",
            self.passed_s(),
            self.calls,
            moves.count,
            reloads.count,
            kills.count,
            storms.count,
            self.parties.registered_count(),
            self.line.phones,
        );
        Ok(())
    }

    /// Says what is broken, and ends all.
    fn verdict(mut self, before: &Held) -> Ended<ExitCode> {
        self.tell()?;
        let after = Held::read(&mut self.site)?;
        let mut broken = self.calls.faults();
        broken.extend(self.parties.faults());
        let Beside { moves, reloads, kills, storms, handshakes_failed, .. } = &self.beside;
        if *handshakes_failed > 0 {
            broken.push(format!("{handshakes_failed} of the bare handshakes failed"));
        }
        for (what, every) in [("move", moves), ("reload", reloads), ("kill", kills), ("storm", storms)] {
            if every.count == 0 {
                broken.push(format!("there was no {what}: the run is too short"));
            }
        }
        broken.extend(after.faults(self.calls.broken_by_cause()));
        if self.line.idle >= IDLE_MIN_S {
            broken.extend(after.leftovers(before, self.line.phones));
        }
        broken.extend(self.site.end());
        println!("calls                 {}", self.calls.summary());
        println!("phones                {}", self.parties.summary());
        println!("after the warm-up     {before}");
        println!("at the end            {after}");
        Ok(scenario::verdict("soak", &broken))
    }
}
