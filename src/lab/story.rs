//! The story that the demo tells: phones register through a running proxy, are called and call, and one loses
//! its connection in the middle of a call and goes on over another.
//!
//! Owns: the order of the steps, their plain words, and the reason when one fails. Must not touch: SIP.

use crate::args::{HopsLine, PhonesArgs, ServerArgs};
use crate::bench::Bench;
use crate::certs::TlsFiles;
use crate::net::Transport;
use crate::phones::{Phase, PhoneCallRef};
use crate::scenario::Ended;
use crate::server::{CallRef, Plan, Step};
use crate::stack::Timers;
use crate::watch;
use clap::Args;
use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// For each single thing that the story waits for.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long a phone stays away in the step that shows the grace that it is given.
const AWAY: Duration = Duration::from_millis(500);
/// Phones that may register until every core holds one.
const PHONES_MAX: u32 = 64;
const PHONES_MIN: usize = 4;
/// New connections until one lands on another core.
const MOVES_MAX: usize = 32;

/// A request for a phone whose connection another core holds than the one that received it.
const ACROSS: &str = "flow=\"across\"";
/// Parts of the proxy's samples, and what they count.
const COUNTED: [(&str, &str); 10] = [
    ("event=\"bound\"", "phones bound to a connection"),
    ("event=\"moved\"", "phones moved to a new connection"),
    ("event=\"flow_lost\"", "phones that lost their connection"),
    ("hawser_messages_received_total", "messages received"),
    ("flow=\"local\"", "requests to phones on the same core"),
    (ACROSS, "requests to phones on another core"),
    ("hawser_mail_sent_total", "mails between cores"),
    ("event=\"rescued\"", "requests that waited for their phone"),
    ("hawser_refusals_total", "requests refused"),
    ("hawser_limit_hits_total", "bounds reached"),
];

const OPEN_END: Plan = Plan { talk: None, is_watched: true };

#[derive(Args)]
pub struct StoryLine {
    #[command(flatten)]
    hops: HopsLine,
    /// The proxy's HTTP port, to ask which core holds which phone.
    #[arg(long)]
    http: Option<String>,
    /// Goes on serving as SIP Server when the story is told, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    phone: PhonesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    tls: TlsFiles,
}

type Told<T = ()> = Ended<T>;

struct Story<'a> {
    bench: Bench,
    line: &'a StoryLine,
    seen: Vec<(CallRef, Step)>,
    shards: u64,
    /// Every sample of the proxy when it was last asked.
    counters_seen: Vec<(String, f64)>,
    /// Requests that have crossed cores during the story.
    across_cores: f64,
}

impl StoryLine {
    fn read_counters(&self) -> Told<Option<Vec<(String, f64)>>> {
        let Some(http) = &self.http else { return Ok(None) };
        watch::metrics(&format!("{}/metrics", http.trim_end_matches('/'))).map(Some)
    }
}

/// Tells the story; an error is the reason why a step failed.
pub fn run(line: &StoryLine) -> Told<ExitCode> {
    let mut bench = Bench::new(line.tls.load()?, Timers::default())?;
    let places = bench.add_server(&[line.hops.server_place()], line.server.policy(), line.server.habits())?;
    bench.add_phones(line.phone.config(line.hops.proxy, PHONES_MAX));
    let shards = match &line.http {
        Some(http) => shard_count(&watch::json(&format!("{}/stats", http.trim_end_matches('/')))?)?,
        None => 1,
    };
    println!(
        "The SIP Server listens on {} {}; the proxy is expected at {} {}.",
        line.hops.internal.param(),
        places[0].addr,
        line.hops.proxy.transport.param(),
        line.hops.proxy.addr
    );
    let counters_seen = line.read_counters()?.unwrap_or_default();
    let mut story = Story { bench, line, seen: Vec::new(), shards, counters_seen, across_cores: 0.0 };
    let told = story.tell();
    story.counters();
    told?;
    println!("All of it went as it should.");
    if line.stay {
        story.stay()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shard_count(stats: &serde_json::Value) -> Told<u64> {
    let about = &stats["about"]["shards"];
    let count = about.as_u64().or_else(|| Some(stats["shards"].as_array()?.len() as u64));
    count.ok_or_else(|| "/stats does not say how many shards there are".into())
}

impl Story<'_> {
    fn tell(&mut self) -> Told {
        let (near, far) = self.register_phones()?;
        let (near_name, far_name) = (self.name(near), self.name(far));

        self.chapter(format_args!("The SIP Server calls {near_name} and {far_name}."))?;
        for phone in [near, far] {
            self.server_calls(phone)?;
        }
        self.phones_call(near, far)?;
        self.calls_survive_moves(near, far)?;
        self.calls_of_the_server_survive_moves(far)?;
        self.counted()?;
        self.nothing_astray()
    }

    fn phones_call(&mut self, near: u32, far: u32) -> Told {
        let (near_name, far_name) = (self.name(near), self.name(far));
        self.chapter(format_args!("{near_name} calls {far_name}, talks, and hangs up."))?;
        let (caller, callee) = self.connect(near, far)?;
        self.hang_up(caller, caller, callee)?;
        println!("  The BYE has reached {far_name}.");

        self.chapter(format_args!("{far_name} calls {near_name}; {near_name} hangs up."))?;
        let (caller, callee) = self.connect(far, near)?;
        self.hang_up(callee, caller, callee)?;
        println!("  The BYE has reached {far_name}.");
        Ok(())
    }

    fn calls_survive_moves(&mut self, near: u32, far: u32) -> Told {
        let (near_name, far_name) = (self.name(near), self.name(far));
        self.chapter(format_args!(
            "{near_name} calls {far_name}. In the middle of the call {far_name}'s connection breaks."
        ))?;
        let (caller, callee) = self.connect(near, far)?;
        self.come_back_elsewhere(far)?;
        self.reinvite(near, caller)?;
        println!("  {near_name} holds the call (re-INVITE): it has reached {far_name} over the new connection.");
        self.hang_up(caller, caller, callee)?;
        println!("  {near_name} hangs up: the BYE has reached {far_name} over the new connection.");

        self.chapter(format_args!("Once more, and this time the phone that moved hangs up."))?;
        let (caller, callee) = self.connect(near, far)?;
        self.come_back_elsewhere(far)?;
        self.hang_up(callee, caller, callee)?;
        println!("  The BYE of {far_name} has reached {near_name}.");

        self.chapter(format_args!("Once more: {near_name} hangs up while {far_name} is away."))?;
        let (caller, callee) = self.connect(near, far)?;
        self.drop(far);
        let (stack, phones) = self.bench.phones();
        phones.hang_up(stack, caller);
        self.bench.turn_until(AWAY, |_| false)?;
        self.switch_on(far)?;
        self.until_gone(caller, callee)?;
        println!("  {far_name} came back after {} ms, and the BYE that had waited has reached it.", AWAY.as_millis());
        Ok(())
    }

    fn calls_of_the_server_survive_moves(&mut self, far: u32) -> Told {
        let far_name = self.name(far);
        self.chapter(format_args!(
            "The SIP Server calls {far_name}, whose connection breaks while it talks; the SIP Server hangs up."
        ))?;
        let call = self.server_connects(far)?;
        self.come_back_elsewhere(far)?;
        self.server_hangs_up(call)?;
        println!("  The BYE has reached {far_name}.");

        if self.line.hops.proxy.transport != Transport::Udp {
            self.chapter(format_args!(
                "The SIP Server calls {far_name}, which opens a new connection while the old one stands."
            ))?;
            let call = self.server_connects(far)?;
            self.move_over(far)?;
            self.server_reinvites(call)?;
            println!("  The SIP Server's re-INVITE has reached {far_name} over the new connection.");
            self.server_hangs_up(call)?;
            println!("  So has its BYE.");
        }
        Ok(())
    }

    // What the proxy counted.

    fn chapter(&mut self, title: std::fmt::Arguments<'_>) -> Told {
        self.counted()?;
        println!("\n{title}");
        Ok(())
    }

    /// Says which of the proxy's counters have grown since the last time.
    fn counted(&mut self) -> Told {
        let Some(counters) = self.line.read_counters()? else { return Ok(()) };
        let grown: Vec<String> = COUNTED
            .iter()
            .map(|(part, words)| (watch::grown(&self.counters_seen, &counters, part), words))
            .filter(|(count, _)| *count > 0.0)
            .map(|(count, words)| format!("{words} {count}"))
            .collect();
        if !grown.is_empty() {
            println!("  Counted by Hawser: {}.", grown.join(", "));
        }
        self.across_cores += watch::grown(&self.counters_seen, &counters, ACROSS);
        self.counters_seen = counters;
        Ok(())
    }

    // Registration.

    /// Registers phones until every core holds one; says two of them, on different cores when there are two.
    fn register_phones(&mut self) -> Told<(u32, u32)> {
        println!("Phones register until each of the proxy's {} cores holds one.", self.shards);
        let mut held = BTreeSet::new();
        let mut places = Vec::new();
        for phone in 0..PHONES_MAX {
            self.switch_on(phone)?;
            let place = self.place(phone)?;
            println!("  {} has registered{}.", self.name(phone), self.words(phone)?);
            held.insert(place);
            places.push(place);
            if places.len() >= PHONES_MIN && held.len() as u64 >= self.shards {
                let far = places.iter().position(|&other| other != places[0]).unwrap_or(1);
                return Ok((0, far as u32));
            }
        }
        Err(format!("after {PHONES_MAX} phones only {} of {} cores hold any", held.len(), self.shards).into())
    }

    fn switch_on(&mut self, phone: u32) -> Told {
        let (stack, phones) = self.bench.phones();
        phones.start(stack, phone);
        if self.bench.turn_until(STEP_MAX, |bench| bench.phones().1.is_registered(phone))? {
            return Ok(());
        }
        let tally = &self.bench.stack.tally;
        Err(format!(
            "{} could not register within {STEP_MAX:?}: answers {:?}, connections ended {:?}",
            self.name(phone),
            tally.register_failures,
            tally.connections_closed
        )
        .into())
    }

    fn drop(&mut self, phone: u32) {
        let (stack, phones) = self.bench.phones();
        phones.drop_connection(stack, phone, true);
    }

    /// Breaks the phone's connection and lets it come back, until that is on another core.
    fn come_back_elsewhere(&mut self, phone: u32) -> Told {
        let before = self.place(phone)?;
        for _ in 0..MOVES_MAX {
            self.drop(phone);
            self.switch_on(phone)?;
            if self.shards < 2 || self.place(phone)? != before {
                println!("  {} has come back{}.", self.name(phone), self.words(phone)?);
                return Ok(());
            }
        }
        Err(format!("{} came back {MOVES_MAX} times and always on the same core", self.name(phone)).into())
    }

    fn move_over(&mut self, phone: u32) -> Told {
        let (stack, phones) = self.bench.phones();
        let is_begun = phones.move_over(stack, phone);
        if is_begun && self.bench.turn_until(STEP_MAX, |bench| !bench.phones().1.is_moving(phone))? {
            println!("  {} has moved{}.", self.name(phone), self.words(phone)?);
            return Ok(());
        }
        Err(self.fault(&format!("{} could not move to a second connection", self.name(phone))))
    }

    fn binding(&self, phone: u32) -> Told<Option<serde_json::Value>> {
        let Some(http) = &self.line.http else { return Ok(None) };
        let aor = self.bench.parts.phones.as_ref().expect("the story has phones").aor(phone);
        let url = format!("{}/where?aor=sip:{aor}", http.trim_end_matches('/'));
        match watch::json(&url)? {
            serde_json::Value::Array(mut list) => match list.len() {
                1 => Ok(list.pop()),
                count => Err(format!("{url}: {count} bindings instead of one").into()),
            },
            other => Err(format!("{url}: not a list: {other}").into()),
        }
    }

    /// The core that holds the phone's connection; 0 when nobody can be asked.
    fn place(&self, phone: u32) -> Told<u64> {
        match self.binding(phone)? {
            Some(binding) => binding["shard"].as_u64().ok_or_else(|| format!("no shard in {binding}").into()),
            None => Ok(0),
        }
    }

    fn words(&self, phone: u32) -> Told<String> {
        let Some(binding) = self.binding(phone)? else { return Ok(String::new()) };
        let text = |key: &str| binding[key].as_str().unwrap_or("?").to_owned();
        Ok(format!(
            ": core {}, {} connection {}, from {}",
            binding["shard"],
            text("transport"),
            text("conn"),
            text("peer")
        ))
    }

    fn name(&self, phone: u32) -> String {
        self.bench.parts.phones.as_ref().expect("the story has phones").user(phone)
    }

    // Calls.

    fn connect(&mut self, from: u32, to: u32) -> Told<(PhoneCallRef, PhoneCallRef)> {
        let uri = format!("sip:{}", self.bench.phones().1.aor(to));
        let began_us = self.bench.stack.read_clock();
        let caller = self.bench.call_from(from, &uri, OPEN_END).ok_or("the caller has no connection")?;
        let is_up = |bench: &mut Bench| {
            let phones = bench.phones().1;
            phones.phase(caller) == Phase::Up && phones.call_at(to).is_some_and(|(_, is_up)| is_up)
        };
        if !self.bench.turn_until(STEP_MAX, is_up)? {
            return Err(self.fault(&format!("the call from {} to {} was not set up", self.name(from), self.name(to))));
        }
        let took_ms = (self.bench.stack.now_us - began_us) as f64 / 1_000.0;
        println!("  INVITE, 180, 200, ACK: {} and {} talk after {took_ms:.1} ms.", self.name(from), self.name(to));
        let (callee, _) = self.bench.phones().1.call_at(to).ok_or("the callee has lost its call")?;
        Ok((caller, callee))
    }

    fn hang_up(&mut self, which: PhoneCallRef, caller: PhoneCallRef, callee: PhoneCallRef) -> Told {
        let (stack, phones) = self.bench.phones();
        phones.hang_up(stack, which);
        self.until_gone(caller, callee)
    }

    fn until_gone(&mut self, caller: PhoneCallRef, callee: PhoneCallRef) -> Told {
        let is_over = |bench: &mut Bench| {
            let open = bench.server().1.calls_open();
            let phones = bench.phones().1;
            open == 0 && phones.phase(caller) == Phase::Gone && phones.phase(callee) == Phase::Gone
        };
        let tally = &self.bench.stack.tally;
        let before = (tally.byes_lost, tally.calls_failed.len());
        let is_gone = self.bench.turn_until(STEP_MAX, is_over)?;
        let tally = &self.bench.stack.tally;
        if is_gone && before == (tally.byes_lost, tally.calls_failed.len()) {
            return Ok(());
        }
        Err(self.fault("the BYE did not end the call on both sides"))
    }

    fn reinvite(&mut self, phone: u32, call: PhoneCallRef) -> Told {
        let received = self.bench.stack.tally.reinvites_answered;
        let (stack, phones) = self.bench.phones();
        if !phones.reinvite(stack, call) {
            return Err(format!("{} has no call to hold", self.name(phone)).into());
        }
        self.until_reinvited(received)
    }

    fn server_reinvites(&mut self, call: CallRef) -> Told {
        let received = self.bench.stack.tally.reinvites_answered;
        let (stack, server) = self.bench.server();
        if !server.reinvite(stack, call) {
            return Err("the SIP Server has no call to hold".into());
        }
        self.until_reinvited(received)
    }

    /// Waits until the re-INVITE is answered and acknowledged on every leg, so that the next request meets no glare.
    fn until_reinvited(&mut self, before: u64) -> Told {
        let is_done = |bench: &mut Bench| bench.stack.tally.reinvites_answered > before && bench.server().1.is_quiet();
        if self.bench.turn_until(STEP_MAX, is_done)? {
            return Ok(());
        }
        Err(self.fault("the re-INVITE was not answered"))
    }

    fn server_calls(&mut self, phone: u32) -> Told {
        let call = self.server_connects(phone)?;
        self.server_hangs_up(call)?;
        println!("  {} has answered, and the call has ended.", self.name(phone));
        Ok(())
    }

    fn server_connects(&mut self, phone: u32) -> Told<CallRef> {
        let call = self.bench.call_phone(phone, OPEN_END);
        let call = call.ok_or_else(|| format!("{} has no binding", self.name(phone)))?;
        self.until_step(call, Step::Answered)?;
        Ok(call)
    }

    fn server_hangs_up(&mut self, call: CallRef) -> Told {
        let (stack, server) = self.bench.server();
        server.hang_up(stack, call);
        self.until_step(call, Step::Ended)
    }

    fn until_step(&mut self, call: CallRef, step: Step) -> Told {
        let seen = &mut self.seen;
        let is_done = |bench: &mut Bench| {
            seen.extend(bench.server().1.journal.drain(..));
            seen.iter().any(|(other, other_step)| *other == call && *other_step == step)
        };
        if self.bench.turn_until(STEP_MAX, is_done)? {
            return Ok(());
        }
        Err(self.fault(&format!("the SIP Server's call did not come to {step:?}")))
    }

    // The end.

    fn fault(&self, what: &str) -> Box<dyn Error> {
        let tally = &self.bench.stack.tally;
        let steps: Vec<Step> = self.seen.iter().rev().take(3).map(|&(_, step)| step).collect();
        format!(
            "{what} within {STEP_MAX:?}: failed {:?}, lost BYEs {}, last steps {steps:?}, unmatched {}",
            tally.calls_failed, tally.byes_lost, tally.unmatched_requests
        )
        .into()
    }

    fn nothing_astray(&self) -> Told {
        if self.shards > 1 && self.across_cores == 0.0 {
            return Err("no request has crossed cores".into());
        }
        let tally = &self.bench.stack.tally;
        if tally.astray() == 0 && tally.calls_failed.is_empty() {
            return Ok(());
        }
        Err(self.fault("a request went to the wrong phone or connection, or a call failed"))
    }

    fn counters(&self) {
        let tally = &self.bench.stack.tally;
        println!(
            "\n{} registrations, {} calls answered, {} requests over a wrong connection, {} at a wrong phone, \
             {} lost, {} retransmissions.",
            tally.registered,
            tally.calls_answered,
            tally.wrong_connection,
            tally.wrong_phone,
            tally.lost(),
            tally.requests_resent + tally.responses_resent
        );
    }

    /// Serves real phones; says who comes and goes.
    fn stay(&mut self) -> Told {
        println!("\nThe SIP Server stays. Register a softphone and call sip:answer@, sip:busy@ or another phone.");
        let mut known = BTreeSet::new();
        loop {
            self.bench.turn(Duration::from_millis(500))?;
            let (stack, server) = self.bench.server();
            let now: BTreeSet<String> = server
                .registrar
                .all(stack.now_us)
                .map(|(aor, binding)| format!("{aor} at {}", binding.contact))
                .collect();
            if !known.is_empty() {
                for one in now.difference(&known) {
                    println!("  {one} has registered.");
                }
                for one in known.difference(&now) {
                    println!("  {one} has gone.");
                }
            }
            known = now;
        }
    }
}
