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
use crate::failover::child::SipServer;
use crate::ledger::{Booked, Caller, Fate, Ledger};
use crate::net::Transport;
use crate::phones::{Phase, PhoneCallRef};
use crate::processes::{Program, Scratch, dnsmasq, free_ports, hawser, pool_zone};
use crate::scenario::{self, Ended, FATES_MAX, LINGER, Scenario};
use crate::server::Plan;
use capture::Capture;
use clap::Args;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of each site, one after the other.
const TURN: Duration = Duration::from_millis(2);
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
    proxies: [(IpAddr, Program); 2],
    calls: Booked<PhoneCallRef>,
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
pub fn run(line: &SitesLine) -> Ended {
    let scratch = Scratch::new("sites")?;
    let dir = scratch.path();
    let all: Vec<IpAddr> = (0..2).flat_map(|site| [1, 2, 10, 11].map(|last| address(site, last))).collect();
    let port = free_ports(&all, PORTS)?;
    certs::write_all(dir, &[], &certificates()?)?;
    let dns_at = SocketAddr::from(([127, 0, 0, 1], port + 4));
    for (site, number) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        let text = settings(dir, site, number, port, dns_at);
        std::fs::write(dir.join(format!("site{site}-proxy{number}.toml")), text)?;
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
        let tls = TlsFiles { tls_name: Some(domain(site)), ..TlsFiles::written(dir, "phone") };
        let bench = scenario::bench(tls.load()?, LINGER)?;
        let mut servers = [server(dir, site, 10, port, &bench)?, server(dir, site, 11, port, &bench)?];
        SipServer::introduce(servers.each_mut());
        let proxy = |number| -> Ended<(IpAddr, Program)> {
            let (ip, name) = (address(site, number), format!("site{site}-proxy{number}"));
            Ok((ip, hawser(&line.hawser, dir, &name, SocketAddr::new(ip, port + 2))?))
        };
        let proxies = [proxy(1)?, proxy(2)?];
        sites.push(Site { bench, servers, proxies, calls: Booked::new(), counts: BTreeMap::new() });
    }
    let mut run = Sites {
        line,
        sites,
        ledger: Ledger::default(),
        reinvites: VecDeque::new(),
        reinvites_sent: 0,
        is_across: Vec::new(),
        killed_us: None,
    };
    run.register(dns_at)?;
    scenario::play(&mut run, line.rate, line.seconds, FATES_MAX)?;
    run.report(capture)
}

/// A certificate for each role, so that nobody passes for another.
fn certificates() -> Ended<Vec<Further>> {
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
    let (ip, tls, http, dir) = (address(site, number), port + 1, port + 2, dir.display());
    let [primary, backup] = [10, 11].map(|last| SocketAddr::new(address(site, last), port + 3));
    let [far_primary, far_backup] = [10, 11].map(|last| address(1 - site, last));
    format!(
        "[sipproxy]\nsip-address = \"{ip}\"\nsip-port = 0\ntls-port = {tls}\nhttp-address = \"{ip}\"\nhttp-port = {http}\n\
         domains = [\"{own}\"]\ninternal-protocol = \"tls\"\noos-check = 1\noos-force = 1\n\
         [[sip-server]]\nname = \"own\"\nprimary = \"{primary}\"\nbackup = \"{backup}\"\n\
         [[peer-proxy]]\nname = \"other\"\nservers = [\"{far_primary}\", \"{far_backup}\"]\n\
         peer-proxy-contact = \"{other}\"\npeer-proxy-protocol = \"tls\"\n\
         [dns]\nservers = [\"{dns_at}\"]\n\
         [security]\ntls-mutual = 1\ncertificate = \"{dir}/site{site}-proxy.pem\"\n\
         certificate-key = \"{dir}/site{site}-proxy.key\"\ntrusted-ca = \"{dir}/ca.pem\"\n"
    )
}

/// Both sites' zones, as `hawser pool-zone` prints them.
fn publish(hawser: &Path, dir: &Path, dns_at: SocketAddr) -> Ended<Program> {
    let mut lines = String::new();
    for site in 0..2 {
        let files = [1, 2].map(|number| dir.join(format!("site{site}-proxy{number}.toml")));
        lines += &pool_zone(hawser, &domain(site), &["--format", "dnsmasq"], &files)?;
    }
    dnsmasq(dir, dns_at.port(), &lines)
}

fn server(dir: &Path, site: usize, last: u8, port: u16, bench: &Bench) -> Ended<SipServer> {
    let tls = TlsFiles { mutual: true, ..TlsFiles::written(dir, &format!("site{site}-server")) };
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

impl Scenario for Sites<'_> {
    /// One clock for both sites: that of the first.
    fn bench(&mut self) -> &mut Bench {
        &mut self.sites[0].bench
    }

    fn disturb(&mut self, passed_s: f64) -> Ended<()> {
        if self.killed_us.is_none() && self.line.kill_after.is_some_and(|after| passed_s > after) {
            self.sites[1].servers[0].kill();
            self.killed_us = Some(self.bench().stack.read_clock());
        }
        let now_us = self.bench().stack.read_clock();
        while let Some((_, site, call)) = self.reinvites.pop_front_if(|&mut (due_us, ..)| due_us <= now_us) {
            let (stack, phones) = self.sites[site].bench.phones();
            if phones.phase(call) == Phase::Up && phones.reinvite(stack, call) {
                self.reinvites_sent += 1;
            }
        }
        Ok(())
    }

    fn place(&mut self, nth: u64) {
        let line = self.line;
        let from = usize::from(nth % 2 == 1);
        let is_across = !nth.is_multiple_of(3);
        let to = if is_across { 1 - from } else { from };
        let count = u64::from(line.phones);
        let caller = scenario::phone_of(nth, line.phones);
        let callee = ((u64::from(caller) + 1 + nth % (count - 1).max(1)) % count) as u32;
        let uri = format!("sip:{}", self.sites[to].bench.phones().1.aor(callee));
        let now_us = self.bench().stack.read_clock();
        let site = &mut self.sites[from];
        let plan = Plan { talk: Some(Duration::from_millis(line.talk_ms)), is_watched: true };
        let call = site.bench.call_from(caller, &uri, plan);
        site.calls.book(&mut self.ledger, now_us, Caller::Phone, call);
        self.is_across.push(is_across);
        if let Some(call) = call.filter(|_| nth % 3 < 2) {
            self.reinvites.push_back((now_us + line.talk_ms * 500, from, call));
        }
    }

    fn turn(&mut self, _wait_us: u64) -> Ended<()> {
        let now_us = self.bench().stack.read_clock();
        for site in &mut self.sites {
            site.bench.turn(TURN)?;
            site.calls.note(&mut self.ledger, now_us, &mut site.bench.phones().1.journal);
            while let Some(said) = site.servers.iter_mut().find_map(SipServer::poll_said) {
                for key in ["dialogs_moved", "invites_in", "malformed_in"] {
                    if let Some(count) = said["stats"][key].as_u64() {
                        // Both servers of a site answer in turn; the larger number is the one of interest.
                        let known = site.counts.entry(key.to_owned()).or_default();
                        *known = (*known).max(count);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        let open: usize = self.sites.iter().map(|site| site.bench.stack.open_invites()).sum();
        self.ledger.unfinished() == 0 && open == 0
    }
}

impl Sites<'_> {
    fn register(&mut self, dns_at: SocketAddr) -> Ended<()> {
        for (number, site) in self.sites.iter_mut().enumerate() {
            let phones = (&self.line.phone, self.line.phones);
            let found_by = (dns_at, domain(number), Transport::Tls);
            scenario::register_by_dns(&mut site.bench, phones, found_by, 200.0).map_err(|fault| {
                let logs: Vec<String> = site.proxies.iter().map(|(_, proxy)| proxy.tail()).collect();
                format!("{fault}\n{}", logs.join("\n"))
            })?;
        }
        Ok(())
    }

    /// Whether the server that was killed had a part in a call: it was not over by then, or just begun.
    fn is_hit(&self, record: usize) -> bool {
        let (Some(killed_us), record) = (self.killed_us, self.ledger.get(record)) else { return false };
        let talk_us = self.line.talk_ms * 1_000;
        let was_over = matches!(record.fate, Fate::Over(answered_us, 200) if answered_us + talk_us < killed_us);
        record.placed_us < killed_us && !was_over
    }

    fn report(mut self, capture: Option<Capture>) -> Ended {
        for site in &mut self.sites {
            site.servers.iter_mut().for_each(|server| server.order("stats"));
        }
        let until_us = self.bench().stack.read_clock() + 1_000_000;
        while self.bench().stack.read_clock() < until_us {
            self.turn(0)?;
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
            astray += tally.astray();
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
        for (ip, proxy) in self.sites.iter_mut().flat_map(|site| &mut site.proxies) {
            if !proxy.stop() || !faults.is_empty() {
                eprintln!("{ip}:\n{}", proxy.tail());
            }
        }
        Ok(scenario::verdict("sites", &faults))
    }
}
