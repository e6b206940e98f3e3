//! A pool: three proxies that phones find through DNS (SRV, RFC 3263 on their side), one of which is killed under
//! calls. Its phones register again through another, the SIP Server follows them to their new flow, and the calls of
//! all the others never notice.
//!
//! Owns: the pool's settings and zone, the schedule, what is expected. Must not touch: SIP. dnsmasq publishes what
//! `hawser pool-zone` prints for the proxies' own files, and `hawser pool-zone --check` is held to agree with it.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::{self, TlsFiles};
use crate::dns;
use crate::ledger::{Caller, Fate, Ledger};
use crate::load;
use crate::net::Transport;
use crate::phones::PhoneCallRef;
use crate::processes::{Hawser, Program, Scratch, dnsmasq, free_ports};
use crate::server::{CallRef, Habits, Plan, Step};
use crate::stack::Timers;
use clap::Args;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

const MEMBERS: u8 = 3;
const DRAIN_MAX_US: u64 = 14_000_000;
const LINGER: Duration = Duration::from_secs(20);

#[derive(Args)]
pub struct PoolLine {
    /// Hawser's program.
    #[arg(long)]
    hawser: PathBuf,
    /// Of the phones.
    #[arg(long, default_value = "tls")]
    transport: Transport,
    /// Transport between the proxies and the SIP Server.
    #[arg(long, default_value = "udp")]
    internal: Transport,
    #[arg(long, default_value_t = 90)]
    phones: u32,
    /// Calls each second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// The proxy with the most phones is killed after so many seconds.
    #[arg(long, default_value_t = 4.0)]
    kill_after: f64,
    /// From answer to BYE, milliseconds.
    #[arg(long, default_value_t = 500)]
    talk_ms: u64,
    /// Fails when a phone of the killed proxy is not back so long after, milliseconds.
    #[arg(long)]
    expect_within: Option<f64>,
    #[command(flatten)]
    phone: PhonesArgs,
}

/// A call and the phone that is in it.
struct Entry {
    record: usize,
    phone: u32,
}

struct Pool<'a> {
    line: &'a PoolLine,
    bench: Bench,
    proxies: Vec<(IpAddr, Hawser)>,
    ledger: Ledger,
    entries: Vec<Entry>,
    from_phones: HashMap<PhoneCallRef, usize>,
    from_server: HashMap<CallRef, usize>,
    killed: Option<(IpAddr, u64)>,
    /// Phones of the killed proxy, and when they were back.
    away: BTreeMap<u32, Option<u64>>,
}

/// Runs it; fails when a call breaks that the killed proxy has nothing to do with, or a phone does not come back.
///
/// # Errors
/// What could not be started, or a zone that does not agree with the proxies.
pub fn run(line: &PoolLine) -> Result<ExitCode, Box<dyn Error>> {
    let scratch = Scratch::new("pool")?;
    let dir = scratch.path();
    let domain = &line.phone.domain;
    let members: Vec<IpAddr> = (1..=MEMBERS).map(|last| IpAddr::from([127, 0, 0, 10 + last])).collect();
    let home = IpAddr::from([127, 0, 0, 1]);
    let all: Vec<IpAddr> = members.iter().copied().chain([home]).collect();
    let port = free_ports(&all, 5)?;
    let (server_at, dns_at) = (SocketAddr::new(home, port + 3), SocketAddr::new(home, port + 4));
    let names: Vec<String> = members.iter().map(IpAddr::to_string).chain([domain.clone()]).collect();
    certs::write_all(dir, &names, &[])?;
    let tls = TlsFiles {
        ca: Some(dir.join("ca.pem")),
        cert: Some(dir.join("server.pem")),
        key: Some(dir.join("server.key")),
        tls_name: (line.transport == Transport::Tls).then(|| domain.clone()),
        ..TlsFiles::default()
    };

    let timers = Timers { linger_us: LINGER.as_micros() as u64, ..Timers::default() };
    let mut bench = Bench::new(tls.load()?, timers)?;
    let place = Place { transport: line.internal, addr: server_at };
    bench.add_server(&[place], Default::default(), Habits::default())?;
    let mut proxies = Vec::new();
    for (at, &ip) in members.iter().enumerate() {
        let http = SocketAddr::new(ip, port + 2);
        let text = settings(line, dir, ip, port, server_at);
        proxies.push((ip, Hawser::start(&line.hawser, dir, &format!("proxy{}", at + 1), &text, http)?));
    }
    let _dnsmasq = publish(line, dir, dns_at)?;

    let targets = dns::find(dns_at, domain, line.transport)?;
    let first = Place { transport: line.transport, addr: targets[0].addr };
    bench.add_phones(line.phone.config(first, line.phones));
    for phone in 0..line.phones {
        let (stack, phones) = bench.phones();
        phones.set_proxies(phone, dns::order(&targets, |below| stack.random() % below));
    }
    let registered = load::register_all(&mut bench, 500.0)?;
    if registered < line.phones as usize {
        let tally = &bench.stack.tally;
        return Err(format!("{registered} of {} registered: {:?}", line.phones, tally.register_failures).into());
    }
    let mut pool = Pool {
        line,
        bench,
        proxies,
        ledger: Ledger::default(),
        entries: Vec::new(),
        from_phones: HashMap::new(),
        from_server: HashMap::new(),
        killed: None,
        away: BTreeMap::new(),
    };
    println!("phones at the start   {}", pool.spread());
    pool.call()?;
    Ok(pool.report())
}

fn settings(line: &PoolLine, dir: &Path, ip: IpAddr, port: u16, server: SocketAddr) -> String {
    let (domain, internal, dir) = (&line.phone.domain, line.internal.param(), dir.display());
    format!(
        "[sipproxy]\nsip-address = \"{ip}\"\nsip-port = {port}\ntls-port = {}\nhttp-address = \"{ip}\"\n\
         http-port = {}\ndomains = [\"{domain}\"]\ninternal-protocol = \"{internal}\"\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"{server}\"\n\
         [security]\ncertificate = \"{dir}/server.pem\"\ncertificate-key = \"{dir}/server.key\"\n\
         trusted-ca = \"{dir}/ca.pem\"\n",
        port + 1,
        port + 2
    )
}

/// Publishes the pool as `hawser pool-zone` prints it, and lets it check what is published.
fn publish(line: &PoolLine, dir: &Path, dns_at: SocketAddr) -> Result<Program, Box<dyn Error>> {
    let files = (1..=MEMBERS).map(|number| dir.join(format!("proxy{number}.toml")));
    let pool_zone = |further: &[&str]| {
        let mut command = Command::new(&line.hawser);
        command.args(["pool-zone", "--domain", &line.phone.domain]).args(further).args(files.clone());
        command.output()
    };
    let printed = pool_zone(&["--format", "dnsmasq"])?;
    if !printed.status.success() {
        return Err(format!("pool-zone: {}", String::from_utf8_lossy(&printed.stderr)).into());
    }
    let program = dnsmasq(dir, dns_at.port(), std::str::from_utf8(&printed.stdout)?)?;
    let checked = pool_zone(&["--check", "--resolver", &dns_at.to_string()])?;
    if !checked.status.success() {
        return Err(format!("pool-zone --check: {}", String::from_utf8_lossy(&checked.stderr)).into());
    }
    Ok(program)
}

impl Pool<'_> {
    /// How many phones are registered through each proxy.
    fn spread(&mut self) -> String {
        let mut counts: BTreeMap<IpAddr, u32> = self.proxies.iter().map(|(ip, _)| (*ip, 0)).collect();
        let phones = self.bench.phones().1;
        for phone in (0..self.line.phones).filter(|&phone| phones.is_registered(phone)) {
            *counts.entry(phones.proxy_of(phone).ip()).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(ip, count)| format!("{ip}: {count}")).collect();
        counts.join("  ")
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let line = self.line;
        let total = (line.rate * line.seconds as f64).round() as u64;
        let began_us = self.bench.stack.read_clock();
        let due_of = |nth: u64| began_us + (nth as f64 * 1e6 / line.rate) as u64;
        let mut placed = 0;
        loop {
            let mut now_us = self.bench.stack.read_clock();
            if self.killed.is_none() && now_us >= began_us + (line.kill_after * 1e6) as u64 {
                self.kill();
            }
            while placed < total && due_of(placed) <= now_us {
                self.place(placed);
                placed += 1;
                now_us = self.bench.stack.read_clock();
            }
            let wait_us = if placed < total { due_of(placed).saturating_sub(now_us) } else { 20_000 };
            self.bench.turn(Duration::from_micros(wait_us))?;
            self.note();
            let is_over = self.ledger.unfinished() == 0 && self.bench.stack.open_invites() == 0;
            if placed == total && (is_over || self.bench.stack.now_us > due_of(total) + DRAIN_MAX_US) {
                return Ok(());
            }
        }
    }

    /// Kills the proxy that has the most phones.
    fn kill(&mut self) {
        let phones = self.bench.phones().1;
        let at =
            |ip: IpAddr| (0..self.line.phones).filter(|&phone| phones.proxy_of(phone).ip() == ip).collect::<Vec<u32>>();
        let (index, lost) = self
            .proxies
            .iter()
            .map(|(ip, _)| at(*ip))
            .enumerate()
            .max_by_key(|(_, lost)| lost.len())
            .expect("a pool has members");
        self.away = lost.into_iter().map(|phone| (phone, None)).collect();
        let (ip, hawser) = &mut self.proxies[index];
        hawser.program.kill();
        self.killed = Some((*ip, self.bench.stack.read_clock()));
        println!("killed                {ip}, with {} phones", self.away.len());
    }

    fn place(&mut self, nth: u64) {
        let line = self.line;
        let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: true };
        let phone = (nth.wrapping_mul(7_919) % u64::from(line.phones)) as u32;
        let now_us = self.bench.stack.now_us;
        let caller = if nth.is_multiple_of(2) { Caller::Phone } else { Caller::Server(0) };
        let record = self.ledger.open(now_us, caller);
        self.entries.push(Entry { record, phone });
        let is_placed = if caller == Caller::Phone {
            let (stack, phones) = self.bench.phones();
            let call = phones.place_call(stack, phone, &format!("sip:answer@{}", line.phone.domain), plan);
            call.map(|call| self.from_phones.insert(call, record)).is_some()
        } else {
            let aor = self.bench.phones().1.aor(phone);
            let (stack, server) = self.bench.server();
            server.place_call(stack, &aor, plan).map(|call| self.from_server.insert(call, record)).is_some()
        };
        if !is_placed {
            self.ledger.note(record, now_us, Step::Failed(0));
        }
    }

    fn note(&mut self) {
        let now_us = self.bench.stack.now_us;
        let phones = self.bench.phones().1;
        while let Some((call, step)) = phones.journal.pop_front() {
            if let Some(&record) = self.from_phones.get(&call) {
                self.ledger.note(record, now_us, step);
            }
        }
        let server = self.bench.server().1;
        while let Some((call, step)) = server.journal.pop_front() {
            if let Some(&record) = self.from_server.get(&call) {
                self.ledger.note(record, now_us, step);
            }
        }
        let Some((dead, _)) = self.killed else { return };
        let phones = self.bench.phones().1;
        for (&phone, back_us) in self.away.iter_mut().filter(|(_, back_us)| back_us.is_none()) {
            if phones.is_registered(phone) && phones.proxy_of(phone).ip() != dead {
                *back_us = Some(now_us);
            }
        }
    }

    /// Whether the killed proxy had to do with a call: its phone was there, and not back when it was placed.
    fn is_hit(&self, entry: &Entry) -> bool {
        let Some((_, killed_us)) = self.killed else { return false };
        let Some(back_us) = self.away.get(&entry.phone) else { return false };
        let record = self.ledger.get(entry.record);
        // A call that was over by then is like any other.
        let was_over = matches!(record.fate, Fate::Over(answered_us, 200) if answered_us < killed_us)
            && record.placed_us < killed_us;
        !was_over && back_us.is_none_or(|back_us| record.placed_us < back_us)
    }

    fn report(mut self) -> ExitCode {
        let spread = self.spread();
        println!("phones at the end     {spread}");
        let (_, killed_us) = self.killed.unwrap_or((IpAddr::from([0, 0, 0, 0]), 0));
        let backs: Vec<f64> = self.away.values().flatten().map(|back_us| (back_us - killed_us) as f64 / 1e3).collect();
        let missing = self.away.len() - backs.len();
        let first = backs.iter().copied().fold(f64::INFINITY, f64::min);
        let last = backs.iter().copied().fold(0.0, f64::max);
        println!("back after            {first:.0} to {last:.0} ms ({missing} are not back)");
        let (mut hit, mut hit_broken, mut others, mut broken) = (0, 0, 0, 0);
        for entry in &self.entries {
            let is_broken = self.ledger.get(entry.record).is_broken();
            match self.is_hit(entry) {
                true => {
                    hit += 1;
                    hit_broken += u32::from(is_broken);
                }
                false => {
                    others += 1;
                    broken += u32::from(is_broken);
                }
            }
        }
        println!("calls it had part in  {hit}, {hit_broken} of them broken");
        println!("all other calls       {others}, {broken} of them broken");
        let tally = &self.bench.stack.tally;
        // What the server sends to the dead proxy gets no answer, and counts as lost after 8 s.
        let stuck = self.ledger.open_count();
        let astray = tally.wrong_connection + tally.wrong_phone;
        println!("stuck {stuck}, astray {astray}, duplicates {}", tally.duplicate_calls);
        println!("{}", self.ledger.summary());
        let mut faults = Vec::new();
        if broken > 0 {
            faults.push(format!("{broken} calls broke that the killed proxy had no part in"));
        }
        if missing > 0 || self.line.expect_within.is_some_and(|max_ms| last > max_ms) {
            faults.push(format!("{missing} phones are not back, the last came after {last:.0} ms"));
        }
        if stuck > 0 || astray > 0 {
            faults.push(format!("{stuck} calls are stuck, {astray} requests went astray"));
        }
        if self.away.is_empty() {
            faults.push("the killed proxy had no phone".to_owned());
        }
        for (ip, hawser) in &mut self.proxies {
            if Some(*ip) != self.killed.map(|(dead, _)| dead) && !hawser.program.stop() {
                faults.push(format!("{ip} did not end in order:\n{}", hawser.program.tail()));
            }
        }
        for fault in &faults {
            eprintln!("hawser-lab pool: {fault}");
        }
        if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
