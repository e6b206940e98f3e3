//! A pool: three proxies that phones find through DNS (SRV, RFC 3263 on their side), one of which is killed under
//! calls. Its phones register again through another, the SIP Server follows them to their new flow, and the calls of
//! all the others never notice.
//!
//! Owns: the pool's settings and zone, the schedule, what is expected. Must not touch: SIP. dnsmasq publishes what
//! `hawser pool-zone` prints for the proxies' own files, and `hawser pool-zone --check` is held to agree with it.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::{self, TlsFiles};
use crate::ledger::{Booked, Caller, Fate, Ledger};
use crate::net::Transport;
use crate::phones::PhoneCallRef;
use crate::processes::{Program, Scratch, dnsmasq, free_ports, hawser, pool_zone};
use crate::scenario::{self, Ended, FATES_MAX, LINGER, Scenario};
use crate::server::{CallRef, Habits, Plan};
use clap::Args;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const MEMBERS: u8 = 3;

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
    proxies: Vec<(IpAddr, Program)>,
    ledger: Ledger,
    entries: Vec<Entry>,
    from_phones: Booked<PhoneCallRef>,
    from_server: Booked<CallRef>,
    killed: Option<(IpAddr, u64)>,
    /// Phones of the killed proxy, and when they were back.
    away: BTreeMap<u32, Option<u64>>,
}

/// Runs it; fails when a call breaks that the killed proxy has nothing to do with, or a phone does not come back.
///
/// # Errors
/// What could not be started, or a zone that does not agree with the proxies.
pub fn run(line: &PoolLine) -> Ended {
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
    let tls_name = (line.transport == Transport::Tls).then(|| domain.clone());
    let tls = TlsFiles { tls_name, ..TlsFiles::written(dir, "server") };

    let mut bench = scenario::bench(tls.load()?, LINGER)?;
    let place = Place { transport: line.internal, addr: server_at };
    bench.add_server(&[place], Default::default(), Habits::default())?;
    for (number, &ip) in (1..).zip(&members) {
        std::fs::write(dir.join(format!("proxy{number}.toml")), settings(line, dir, ip, port, server_at))?;
    }
    let _dnsmasq = publish(line, dir, dns_at)?;
    let mut proxies = Vec::new();
    for (number, &ip) in (1..).zip(&members) {
        let http = SocketAddr::new(ip, port + 2);
        proxies.push((ip, hawser(&line.hawser, dir, &format!("proxy{number}"), http)?));
    }

    scenario::register_by_dns(&mut bench, (&line.phone, line.phones), (dns_at, domain.clone(), line.transport), 500.0)?;
    let mut pool = Pool {
        line,
        bench,
        proxies,
        ledger: Ledger::default(),
        entries: Vec::new(),
        from_phones: Booked::new(),
        from_server: Booked::new(),
        killed: None,
        away: BTreeMap::new(),
    };
    println!("phones at the start   {}", pool.spread());
    scenario::play(&mut pool, line.rate, line.seconds, FATES_MAX)?;
    Ok(pool.report())
}

fn settings(line: &PoolLine, dir: &Path, ip: IpAddr, port: u16, server: SocketAddr) -> String {
    let (domain, internal, dir) = (&line.phone.domain, line.internal.param(), dir.display());
    let (tls, http) = (port + 1, port + 2);
    format!(
        "[sipproxy]\nsip-address = \"{ip}\"\nsip-port = {port}\ntls-port = {tls}\nhttp-address = \"{ip}\"\n\
         http-port = {http}\ndomains = [\"{domain}\"]\ninternal-protocol = \"{internal}\"\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"{server}\"\n\
         [security]\ncertificate = \"{dir}/server.pem\"\ncertificate-key = \"{dir}/server.key\"\n\
         trusted-ca = \"{dir}/ca.pem\"\n"
    )
}

/// Publishes the pool as `hawser pool-zone` prints it, and lets it check what is published.
fn publish(line: &PoolLine, dir: &Path, dns_at: SocketAddr) -> Ended<Program> {
    let files: Vec<PathBuf> = (1..=MEMBERS).map(|number| dir.join(format!("proxy{number}.toml"))).collect();
    let domain = &line.phone.domain;
    let printed = pool_zone(&line.hawser, domain, &["--format", "dnsmasq"], &files)?;
    let program = dnsmasq(dir, dns_at.port(), &printed)?;
    pool_zone(&line.hawser, domain, &["--check", "--resolver", &dns_at.to_string()], &files)?;
    Ok(program)
}

impl Scenario for Pool<'_> {
    fn bench(&mut self) -> &mut Bench {
        &mut self.bench
    }

    fn disturb(&mut self, passed_s: f64) -> Ended<()> {
        if self.killed.is_none() && passed_s >= self.line.kill_after {
            self.kill();
        }
        Ok(())
    }

    fn place(&mut self, nth: u64) {
        let line = self.line;
        let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: true };
        let phone = scenario::phone_of(nth, line.phones);
        let now_us = self.bench.stack.now_us;
        let record = if nth.is_multiple_of(2) {
            let call = self.bench.call_from(phone, &format!("sip:answer@{}", line.phone.domain), plan);
            self.from_phones.book(&mut self.ledger, now_us, Caller::Phone, call)
        } else {
            let call = self.bench.call_phone(phone, plan);
            self.from_server.book(&mut self.ledger, now_us, Caller::Server(0), call)
        };
        self.entries.push(Entry { record, phone });
    }

    fn turn(&mut self, wait_us: u64) -> Ended<()> {
        self.bench.turn(Duration::from_micros(wait_us))?;
        let now_us = self.bench.stack.now_us;
        self.from_phones.note(&mut self.ledger, now_us, &mut self.bench.phones().1.journal);
        self.from_server.note(&mut self.ledger, now_us, &mut self.bench.server().1.journal);
        let Some((dead, _)) = self.killed else { return Ok(()) };
        let phones = self.bench.phones().1;
        for (&phone, back_us) in self.away.iter_mut().filter(|(_, back_us)| back_us.is_none()) {
            if phones.is_registered(phone) && phones.proxy_of(phone).ip() != dead {
                *back_us = Some(now_us);
            }
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        self.ledger.unfinished() == 0 && self.bench.stack.open_invites() == 0
    }
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
        let (ip, proxy) = &mut self.proxies[index];
        proxy.kill();
        self.killed = Some((*ip, self.bench.stack.read_clock()));
        println!("killed                {ip}, with {} phones", self.away.len());
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
        // By whether it had part in them, and whether they broke.
        let mut calls = [[0_u32; 2]; 2];
        for entry in &self.entries {
            let is_broken = self.ledger.get(entry.record).is_broken();
            calls[usize::from(self.is_hit(entry))][usize::from(is_broken)] += 1;
        }
        let [[whole, broken], [hit_whole, hit_broken]] = calls;
        println!("calls it had part in  {}, {hit_broken} of them broken", hit_whole + hit_broken);
        println!("all other calls       {}, {broken} of them broken", whole + broken);
        let tally = &self.bench.stack.tally;
        // What the server sends to the dead proxy gets no answer, and counts as lost after 8 s.
        let stuck = self.ledger.open_count();
        let astray = tally.astray();
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
        for (ip, proxy) in &mut self.proxies {
            if Some(*ip) != self.killed.map(|(dead, _)| dead) && !proxy.stop() {
                faults.push(format!("{ip} did not end in order:\n{}", proxy.tail()));
            }
        }
        scenario::verdict("pool", &faults)
    }
}
