//! Two sites, each with two proxies and a pair of SIP Servers on loopback addresses of their own. Phones of one call
//! phones of the other: phone, proxy, SIP Server, proxy, the other site's proxy, its SIP Server, its proxy, phone; TLS
//! on every hop, with certificates on both ends of each.
//!
//! Owns: the settings of both sites, the schedule of calls, what is expected. Must not touch: SIP. A capture of the
//! loopback interface ([`capture`]) shows that nothing goes in the clear.

mod capture;

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::{self, Further, TlsFiles};
use crate::dns;
use crate::failover::child::SipServer;
use crate::ledger::{Caller, Fate, Ledger};
use crate::load;
use crate::net::Transport;
use crate::phones::{Phase, PhoneCallRef};
use crate::processes::{Hawser, Program, Scratch, dnsmasq, free_ports};
use crate::server::{Plan, Step};
use crate::stack::Timers;
use capture::Capture;
use clap::Args;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

const DRAIN_MAX_US: u64 = 14_000_000;
const TURN: Duration = Duration::from_millis(2);
const LINGER: Duration = Duration::from_secs(20);
/// Ports from the first one on: SIP (off), TLS, HTTP, the SIP Servers' and the resolver's.
const PORTS: u16 = 5;

#[derive(Args)]
pub struct SitesLine {
    /// Hawser's program.
    #[arg(long)]
    hawser: PathBuf,
    /// At each site.
    #[arg(long, default_value_t = 30)]
    phones: u32,
    /// Calls each second: two of three go to the other site.
    #[arg(long, default_value_t = 30.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// From answer to BYE, milliseconds; every third call has a re-INVITE in the middle.
    #[arg(long, default_value_t = 1_000)]
    talk_ms: u64,
    /// The second site's primary is killed after so many seconds; never, unless given.
    #[arg(long)]
    kill_after: Option<f64>,
    /// Goes on without a capture where that is not permitted.
    #[arg(long)]
    no_capture: bool,
    #[command(flatten)]
    phone: PhonesArgs,
}

/// One site and its phones.
struct Site {
    bench: Bench,
    servers: [SipServer; 2],
    proxies: Vec<(IpAddr, Hawser)>,
    calls: HashMap<PhoneCallRef, usize>,
    counts: BTreeMap<String, u64>,
}

struct Sites<'a> {
    line: &'a SitesLine,
    sites: Vec<Site>,
    ledger: Ledger,
    /// Re-INVITEs that are due, in order.
    reinvites: VecDeque<(u64, usize, PhoneCallRef)>,
    reinvites_sent: u64,
    /// Whether each call goes from one site to the other.
    is_across: Vec<bool>,
    killed_us: Option<u64>,
}

fn domain(site: usize) -> String {
    format!("site{}.test", site + 1)
}

fn address(site: usize, last: u8) -> IpAddr {
    IpAddr::from([127, 0, 1 + site as u8, last])
}

/// Runs it; fails when a call is lost or refused, a dialog leaves its proxy, or SIP is seen in the clear.
///
/// # Errors
/// What could not be started.
pub fn run(line: &SitesLine) -> Result<ExitCode, Box<dyn Error>> {
    let scratch = Scratch::new("sites")?;
    let dir = scratch.path();
    let all: Vec<IpAddr> = (0..2).flat_map(|site| [1, 2, 10, 11].map(|last| address(site, last))).collect();
    let port = free_ports(&all, PORTS)?;
    certs::write_all(dir, &[], &certificates()?)?;
    let dns_at = SocketAddr::from(([127, 0, 0, 1], port + 4));
    let mut proxies: Vec<Vec<(IpAddr, Hawser)>> = Vec::new();
    for site in 0..2 {
        for number in 1..=2 {
            let text = settings(dir, site, number, port, dns_at);
            std::fs::write(dir.join(format!("site{site}-proxy{number}.toml")), text)?;
        }
    }
    let _dnsmasq = publish(&line.hawser, dir, dns_at)?;
    let capture = match Capture::start(port..port + 4) {
        Ok(capture) => Some(capture),
        Err(fault) if line.no_capture => {
            println!("no capture: {fault}");
            None
        }
        Err(fault) => return Err(format!("no capture (see --no-capture): {fault}").into()),
    };
    let mut sites = Vec::new();
    for site in 0..2 {
        let timers = Timers { linger_us: LINGER.as_micros() as u64, ..Timers::default() };
        let bench = Bench::new(phone_tls(dir, site).load()?, timers)?;
        let servers = [server(dir, site, 10, port, &bench)?, server(dir, site, 11, port, &bench)?];
        sites.push((bench, servers));
        proxies.push(Vec::new());
        for number in 1..=2 {
            let (ip, name) = (address(site, number), format!("site{site}-proxy{number}"));
            let text = std::fs::read_to_string(dir.join(format!("{name}.toml")))?;
            let hawser = Hawser::start(&line.hawser, dir, &name, &text, SocketAddr::new(ip, port + 2))?;
            proxies[site].push((ip, hawser));
        }
    }
    let sites = sites.into_iter().zip(proxies).map(|((bench, mut servers), proxies)| {
        let controls = [servers[0].control, servers[1].control];
        servers[0].order(&format!("partner {}", controls[1]));
        servers[1].order(&format!("partner {}", controls[0]));
        Site { bench, servers, proxies, calls: HashMap::new(), counts: BTreeMap::new() }
    });
    let mut run = Sites {
        line,
        sites: sites.collect(),
        ledger: Ledger::default(),
        reinvites: VecDeque::new(),
        reinvites_sent: 0,
        is_across: Vec::new(),
        killed_us: None,
    };
    run.register(dns_at)?;
    run.call()?;
    run.report(capture)
}

/// A certificate for each role, so that nobody passes for another.
fn certificates() -> Result<Vec<Further>, Box<dyn Error>> {
    let mut further = Vec::new();
    for site in 0..2 {
        let [one, two, primary, backup] = [1, 2, 10, 11].map(|last| address(site, last));
        further.push(format!("site{site}-proxy={one},{two},{}", domain(site)).parse::<Further>()?);
        further.push(format!("site{site}-server={primary},{backup}").parse()?);
    }
    Ok(further)
}

fn settings(dir: &Path, site: usize, number: u8, port: u16, dns_at: SocketAddr) -> String {
    let (own, other) = (domain(site), domain(1 - site));
    let (ip, dir) = (address(site, number), dir.display());
    let [primary, backup] = [10, 11].map(|last| SocketAddr::new(address(site, last), port + 3));
    let [far_primary, far_backup] = [10, 11].map(|last| address(1 - site, last));
    format!(
        "[sipproxy]\nsip-address = \"{ip}\"\nsip-port = 0\ntls-port = {}\nhttp-address = \"{ip}\"\nhttp-port = {}\n\
         domains = [\"{own}\"]\ninternal-protocol = \"tls\"\noos-check = 1\noos-force = 1\n\
         [[sip-server]]\nname = \"own\"\nprimary = \"{primary}\"\nbackup = \"{backup}\"\n\
         [[peer-proxy]]\nname = \"other\"\nservers = [\"{far_primary}\", \"{far_backup}\"]\n\
         peer-proxy-contact = \"{other}\"\npeer-proxy-protocol = \"tls\"\n\
         [dns]\nservers = [\"{dns_at}\"]\n\
         [security]\ntls-mutual = 1\ncertificate = \"{dir}/site{site}-proxy.pem\"\n\
         certificate-key = \"{dir}/site{site}-proxy.key\"\ntrusted-ca = \"{dir}/ca.pem\"\n",
        port + 1,
        port + 2
    )
}

/// Both sites' zones, as `hawser pool-zone` prints them.
fn publish(hawser: &Path, dir: &Path, dns_at: SocketAddr) -> Result<Program, Box<dyn Error>> {
    let mut lines = String::new();
    for site in 0..2 {
        let mut command = Command::new(hawser);
        command.args(["pool-zone", "--domain", &domain(site), "--format", "dnsmasq"]);
        command.args((1..=2).map(|number| dir.join(format!("site{site}-proxy{number}.toml"))));
        let printed = command.output()?;
        if !printed.status.success() {
            return Err(format!("pool-zone: {}", String::from_utf8_lossy(&printed.stderr)).into());
        }
        lines.push_str(std::str::from_utf8(&printed.stdout)?);
    }
    dnsmasq(dir, dns_at.port(), &lines)
}

fn phone_tls(dir: &Path, site: usize) -> TlsFiles {
    TlsFiles {
        ca: Some(dir.join("ca.pem")),
        cert: Some(dir.join("phone.pem")),
        key: Some(dir.join("phone.key")),
        tls_name: Some(domain(site)),
        ..TlsFiles::default()
    }
}

fn server(dir: &Path, site: usize, last: u8, port: u16, bench: &Bench) -> Result<SipServer, Box<dyn Error>> {
    let tls = TlsFiles {
        ca: Some(dir.join("ca.pem")),
        cert: Some(dir.join(format!("site{site}-server.pem"))),
        key: Some(dir.join(format!("site{site}-server.key"))),
        mutual: true,
        ..TlsFiles::default()
    };
    let listen = Place { transport: Transport::Tls, addr: SocketAddr::new(address(site, last), port + 3) };
    // Each server of the pair has a proxy of its own that it sends calls to the other site through.
    let proxy = SocketAddr::new(address(site, last - 9), port + 1);
    let far = SocketAddr::new(address(1 - site, 10), port + 3);
    let further = [
        "--domain".to_owned(),
        domain(site),
        "--trunk".to_owned(),
        format!("{}={far};transport=tls", domain(1 - site)),
        "--proxy-sip".to_owned(),
        format!("tls:{proxy}"),
    ];
    SipServer::start(&[listen], &tls, &further, bench.stack.net.waker())
}

impl Sites<'_> {
    fn register(&mut self, dns_at: SocketAddr) -> Result<(), Box<dyn Error>> {
        let line = self.line;
        for (number, site) in self.sites.iter_mut().enumerate() {
            let targets = dns::find(dns_at, &domain(number), Transport::Tls)?;
            let first = Place { transport: Transport::Tls, addr: targets[0].addr };
            let mut config = line.phone.config(first, line.phones);
            config.domain = domain(number);
            site.bench.add_phones(config);
            for phone in 0..line.phones {
                let (stack, phones) = site.bench.phones();
                phones.set_proxies(phone, dns::order(&targets, |below| stack.random() % below));
            }
            let registered = load::register_all(&mut site.bench, 200.0)?;
            if registered < line.phones as usize {
                let failures = &site.bench.stack.tally.register_failures;
                let logs: Vec<String> = site.proxies.iter().map(|(_, hawser)| hawser.program.tail()).collect();
                return Err(format!("{registered} registered: {failures:?}\n{}", logs.join("\n")).into());
            }
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), Box<dyn Error>> {
        let line = self.line;
        let total = (line.rate * line.seconds as f64).round() as u64;
        let began_us = self.sites[0].bench.stack.read_clock();
        let due_of = |nth: u64| began_us + (nth as f64 * 1e6 / line.rate) as u64;
        let mut placed = 0;
        loop {
            // One clock for both sites: that of the first.
            let now_us = self.sites[0].bench.stack.read_clock();
            if let Some(after) = line.kill_after
                && self.killed_us.is_none()
                && now_us > began_us + (after * 1e6) as u64
            {
                self.sites[1].servers[0].kill();
                self.killed_us = Some(now_us);
            }
            while placed < total && due_of(placed) <= now_us {
                self.place(placed, now_us);
                placed += 1;
            }
            while self.reinvites.front().is_some_and(|&(due_us, ..)| due_us <= now_us) {
                let (_, site, call) = self.reinvites.pop_front().expect("it was looked at");
                let (stack, phones) = self.sites[site].bench.phones();
                if phones.phase(call) == Phase::Up && phones.reinvite(stack, call) {
                    self.reinvites_sent += 1;
                }
            }
            for site in &mut self.sites {
                site.bench.turn(TURN)?;
            }
            self.note(now_us);
            let open: usize = self.sites.iter().map(|site| site.bench.stack.open_invites()).sum();
            let is_over = self.ledger.unfinished() == 0 && open == 0;
            if placed == total && (is_over || now_us > due_of(total) + DRAIN_MAX_US) {
                return Ok(());
            }
        }
    }

    fn place(&mut self, nth: u64, now_us: u64) {
        let line = self.line;
        let from = usize::from(nth % 2 == 1);
        let is_across = !nth.is_multiple_of(3);
        let to = if is_across { 1 - from } else { from };
        let count = u64::from(line.phones);
        let caller = (nth.wrapping_mul(7_919) % count) as u32;
        let callee = ((nth.wrapping_mul(7_919) + 1 + nth % (count - 1).max(1)) % count) as u32;
        let uri = format!("sip:{}", self.sites[to].bench.phones().1.aor(callee));
        let talk = Duration::from_millis(line.talk_ms);
        let record = self.ledger.open(now_us, Caller::Phone);
        self.is_across.push(is_across);
        let (stack, phones) = self.sites[from].bench.phones();
        match phones.place_call(stack, caller, &uri, Plan { talk: Some(talk), is_watched: true }) {
            Some(call) => {
                self.sites[from].calls.insert(call, record);
                if nth.is_multiple_of(3) || nth % 3 == 1 {
                    self.reinvites.push_back((now_us + line.talk_ms * 500, from, call));
                }
            }
            None => self.ledger.note(record, now_us, Step::Failed(0)),
        }
    }

    fn note(&mut self, now_us: u64) {
        for site in &mut self.sites {
            let phones = site.bench.phones().1;
            while let Some((call, step)) = phones.journal.pop_front() {
                if let Some(&record) = site.calls.get(&call) {
                    self.ledger.note(record, now_us, step);
                }
            }
            for server in &mut site.servers {
                while let Some(said) = server.poll_said() {
                    for key in ["dialogs_moved", "invites_in", "malformed_in"] {
                        if let Some(count) = said["stats"][key].as_u64() {
                            // Both servers of a site answer in turn; the larger number is the one of interest.
                            let known = site.counts.entry(key.to_owned()).or_default();
                            *known = (*known).max(count);
                        }
                    }
                }
            }
        }
    }

    /// Whether the server that was killed had a part in a call: it was not over by then, or just begun.
    fn is_hit(&self, record: usize) -> bool {
        let (Some(killed_us), record) = (self.killed_us, self.ledger.get(record)) else { return false };
        let talk_us = self.line.talk_ms * 1_000;
        let was_over = matches!(record.fate, Fate::Over(answered_us, 200) if answered_us + talk_us < killed_us);
        record.placed_us < killed_us && !was_over
    }

    fn report(mut self, capture: Option<Capture>) -> Result<ExitCode, Box<dyn Error>> {
        for site in &mut self.sites {
            site.servers.iter_mut().for_each(|server| server.order("stats"));
        }
        let until_us = self.sites[0].bench.stack.read_clock() + 1_000_000;
        while self.sites[0].bench.stack.read_clock() < until_us {
            self.sites.iter_mut().try_for_each(|site| site.bench.turn(TURN))?;
            self.note(until_us);
        }
        let mut faults: Vec<String> = Vec::new();
        println!("| calls | placed | broken | of the killed server |");
        println!("| --- | --- | --- | --- |");
        for (name, across) in [("to the other site", true), ("inside a site", false)] {
            let own: Vec<usize> = (0..self.is_across.len()).filter(|&at| self.is_across[at] == across).collect();
            let hit = own.iter().filter(|&&at| self.is_hit(at)).count();
            let broken = own.iter().filter(|&&at| self.ledger.get(at).is_broken() && !self.is_hit(at)).count();
            println!("| {name} | {} | {broken} | {hit} |", own.len());
            if broken > 0 {
                faults.push(format!("{broken} calls {name} broke"));
            }
        }
        println!("{}", self.ledger.summary());
        let stuck = self.ledger.open_count();
        let (mut astray, mut answered, mut moved) = (0, 0, 0);
        for site in &self.sites {
            let tally = &site.bench.stack.tally;
            astray += tally.wrong_connection + tally.wrong_phone;
            answered += tally.reinvites_answered;
            moved += site.counts.get("dialogs_moved").copied().unwrap_or(0);
        }
        println!("re-INVITEs {} sent, {answered} answered; dialogs that left their proxy {moved}", self.reinvites_sent);
        if stuck > 0 || astray > 0 || moved > 0 {
            faults.push(format!("{stuck} calls are stuck, {astray} requests went astray, {moved} dialogs moved"));
        }
        if self.killed_us.is_none() && answered < self.reinvites_sent {
            faults.push(format!("{} re-INVITEs were not answered", self.reinvites_sent - answered));
        }
        if let Some(capture) = capture {
            let seen = capture.stop();
            println!(
                "captured {} frames, {} bytes; {} begin a TLS record; {} show SIP",
                seen.frames, seen.bytes, seen.tls, seen.clear
            );
            if seen.clear > 0 || seen.tls == 0 {
                faults.push(format!("{} frames show SIP in the clear, {} were TLS", seen.clear, seen.tls));
            }
        }
        for (ip, hawser) in self.sites.iter_mut().flat_map(|site| &mut site.proxies) {
            if !hawser.program.stop() || !faults.is_empty() {
                eprintln!("{ip}:\n{}", hawser.program.tail());
            }
        }
        for fault in &faults {
            eprintln!("hawser-lab sites: {fault}");
        }
        Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
