//! Command line of the lab.

use crate::bench::{Bench, Place};
use crate::certs::{self, TlsFiles};
use crate::load::{self, LoadLine};
use crate::phones::{Claim, Habit, PhonesConfig};
use crate::registrar::{PathPolicy, Policy};
use crate::server::{Habits, Plan};
use crate::stack::Timers;
use crate::story::{self, StoryLine};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "hawser-lab", about = "SIP Server and phones for trying, testing and measuring a SIP proxy")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a throw-away CA with a server's and a phone's certificate.
    Certs {
        #[arg(long)]
        dir: PathBuf,
        /// Further names and addresses for the server's certificate.
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
    },
    /// Plays the SIP Server: registrar and B2BUA.
    Server(ServerLine),
    /// Plays phones that register, stay, and answer calls.
    Phones(PhonesLine),
    /// Plays the SIP Server and phones in one process, places calls at a rate, and reports.
    Load(Box<LoadLine>),
    /// Tells, step by step, what a proxy does for phones that register, call, move and hang up.
    Story(Box<StoryLine>),
}

/// What the registrar does about Path and expiry.
#[derive(Args, Clone, Debug)]
pub struct PolicyLine {
    /// A registrar that does not know Path.
    #[arg(long, visible_alias = "sticky-no-path", conflicts_with = "strict_path")]
    no_path: bool,
    /// 420 to a REGISTER with Path from a phone that does not say `Supported: path`.
    #[arg(long)]
    strict_path: bool,
    /// Shortest expiry granted, seconds; less gets 423.
    #[arg(long, default_value_t = 1)]
    expires_min: u32,
    /// Longest expiry granted, seconds.
    #[arg(long, default_value_t = 3_600)]
    expires_max: u32,
}

impl PolicyLine {
    pub fn policy(&self) -> Policy {
        let path = match (self.no_path, self.strict_path) {
            (true, _) => PathPolicy::Ignore,
            (_, true) => PathPolicy::Strict,
            _ => PathPolicy::Keep,
        };
        Policy { path, expires_min_s: self.expires_min, expires_s: self.expires_max }
    }
}

/// How the server finds its way to the proxy.
#[derive(Args, Clone, Debug)]
pub struct WayLine {
    /// Never sends requests over a connection that the proxy opened.
    #[arg(long)]
    own_connections: bool,
    /// Where calls to phones that registered without Path go, such as udp:127.0.0.1:5060; else to where their
    /// REGISTER came from.
    #[arg(long)]
    proxy_sip: Option<Place>,
}

impl WayLine {
    pub fn habits(&self) -> Habits {
        let outbound_proxy = self.proxy_sip.map(|place| (place.transport, place.addr));
        Habits { own_connections: self.own_connections, outbound_proxy }
    }
}

#[derive(Args)]
struct ServerLine {
    /// Where to listen, such as udp:127.0.0.1:7000; one for each transport.
    #[arg(long, required = true)]
    listen: Vec<Place>,
    #[command(flatten)]
    policy: PolicyLine,
    #[command(flatten)]
    tls: TlsFiles,
    #[command(flatten)]
    way: WayLine,
    /// Listens here for commands as well; they are read from standard input in any case.
    #[arg(long)]
    control: Option<SocketAddr>,
}

/// How phones look and behave.
#[derive(Args, Clone, Debug)]
pub struct PhonesArgs {
    #[arg(long, default_value = "example.com")]
    pub domain: String,
    #[arg(long, default_value = "phone")]
    user_prefix: String,
    /// Number of the first phone.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Local addresses, used in turn.
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Address that Contact and Via claim, with port 5060, as behind a NAT.
    #[arg(long)]
    contact_host: Option<IpAddr>,
    /// Contact and Via claim 192.0.2.x:5060.
    #[arg(long, conflicts_with = "contact_host")]
    nat_contact: bool,
    /// Phones do not say `Supported: path`.
    #[arg(long)]
    no_supported_path: bool,
    /// Phones without instance-id and reg-id.
    #[arg(long)]
    no_outbound: bool,
    /// Expiry asked for, seconds.
    #[arg(long, default_value_t = 3_600)]
    expires: u32,
    /// From 180 to 200, milliseconds.
    #[arg(long, default_value_t = 0)]
    answer_ms: u64,
    /// Answers every call with 486.
    #[arg(long, conflicts_with = "ring")]
    busy: bool,
    /// Rings until the caller gives up.
    #[arg(long)]
    ring: bool,
    /// Sends CRLFCRLF so often, seconds; 0 is never.
    #[arg(long, default_value_t = 0)]
    keep_alive: u64,
}

impl PhonesArgs {
    pub fn config(&self, proxy: Place, count: u32) -> PhonesConfig {
        PhonesConfig {
            transport: proxy.transport,
            proxy: proxy.addr,
            domain: self.domain.clone(),
            user_prefix: self.user_prefix.clone(),
            first: self.first,
            count,
            sources: self.source.clone(),
            claim: match (self.contact_host, self.nat_contact) {
                (_, true) => Claim::Nat,
                (Some(host), _) => Claim::Host(host),
                _ => Claim::True,
            },
            supports_path: !self.no_supported_path,
            is_outbound: !self.no_outbound,
            expires_s: self.expires,
            habit: match (self.busy, self.ring) {
                (true, _) => Habit::Busy,
                (_, true) => Habit::Ring,
                _ => Habit::Accept(Duration::from_millis(self.answer_ms)),
            },
            keep_alive: (self.keep_alive > 0).then(|| Duration::from_secs(self.keep_alive)),
            reconnects: true,
        }
    }
}

#[derive(Args)]
struct PhonesLine {
    /// Where the proxy listens for phones, such as tls:127.0.0.1:5061.
    #[arg(long)]
    proxy: Place,
    #[arg(long, default_value_t = 1)]
    count: u32,
    #[command(flatten)]
    phones: PhonesArgs,
    #[command(flatten)]
    tls: TlsFiles,
    /// Registrations started each second.
    #[arg(long, default_value_t = 200.0)]
    register_rate: f64,
    /// Ends after so many seconds; 0 is never.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

/// Reads the command line and does what it says.
pub fn run() -> Result<ExitCode, Box<dyn Error>> {
    match Line::parse().command {
        Command::Certs { dir, names } => certs::write_all(&dir, &names).map(|()| ExitCode::SUCCESS),
        Command::Server(line) => serve(&line),
        Command::Phones(line) => play_phones(&line),
        Command::Load(line) => load::run(&line),
        Command::Story(line) => story::run(&line),
    }
}

/// A command for the server, and where its answer goes.
type Order = (String, crossbeam_channel::Sender<String>);
const ORDERS_MAX: usize = 1_024;

fn serve(line: &ServerLine) -> Result<ExitCode, Box<dyn Error>> {
    let mut bench = Bench::new(line.tls.load()?, Timers::default())?;
    for place in bench.add_server(&line.listen, line.policy.policy(), line.way.habits())? {
        println!("{}", json!({"listening": format!("{}:{}", place.transport.param(), place.addr)}));
    }
    let (orders, inbox) = crossbeam_channel::bounded::<Order>(ORDERS_MAX);
    let (done, written) = crossbeam_channel::bounded::<()>(1);
    let waker = bench.stack.net.waker();
    if let Some(addr) = line.control {
        let listener = TcpListener::bind(addr)?;
        println!("{}", json!({"control": listener.local_addr()?.to_string()}));
        let (orders, waker, done) = (orders.clone(), Arc::clone(&waker), done.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (orders, waker, done) = (orders.clone(), Arc::clone(&waker), done.clone());
                std::thread::spawn(move || {
                    let Ok(writer) = stream.try_clone() else { return };
                    take_orders(BufReader::new(stream), writer, &orders, &waker, &done);
                });
            }
        });
    }
    std::thread::spawn(move || take_orders(std::io::stdin().lock(), std::io::stdout(), &orders, &waker, &done));
    let mut calls = Vec::new();
    loop {
        bench.turn(Duration::from_secs(1))?;
        for (order, reply) in inbox.try_iter() {
            if order == "quit" {
                calls.clear();
                drop(reply);
                // Answers that are on their way are still written; whoever does not read them is not waited for.
                written.recv_timeout(Duration::from_secs(1)).ok();
                return Ok(ExitCode::SUCCESS);
            }
            if let Some(answer) = obey(&mut bench, &order, &reply, &mut calls) {
                // Whoever asked may have gone; that is no fault of the server.
                reply.send(answer.to_string()).ok();
            }
        }
        let (_, server) = bench.server();
        while let Some((call, step)) = server.journal.pop_front() {
            let answer = json!({"call": call.number(), "step": format!("{step:?}")});
            for (_, reply) in calls.iter().filter(|(known, _)| *known == call) {
                // As above.
                let _: Result<_, _> = reply.send(answer.to_string());
            }
            if !server.is_open(call) {
                calls.retain(|(known, _)| *known != call);
            }
        }
    }
}

fn take_orders(
    reader: impl BufRead,
    mut writer: impl Write + Send + 'static,
    orders: &crossbeam_channel::Sender<Order>,
    waker: &mio::Waker,
    done: &crossbeam_channel::Sender<()>,
) {
    let (reply, replies) = crossbeam_channel::bounded::<String>(ORDERS_MAX);
    let writing = std::thread::spawn(move || {
        for text in replies {
            if writeln!(writer, "{text}").and_then(|()| writer.flush()).is_err() {
                return;
            }
        }
    });
    for order in reader.lines().map_while(Result::ok) {
        let is_last = order.trim() == "quit";
        if orders.send((order.trim().to_owned(), reply.clone())).is_err() || waker.wake().is_err() {
            return;
        }
        if is_last {
            drop(reply);
            // A writer that panicked has nothing left to write.
            writing.join().ok();
            done.try_send(()).ok();
            return;
        }
    }
}

fn obey(
    bench: &mut Bench,
    order: &str,
    reply: &crossbeam_channel::Sender<String>,
    calls: &mut Vec<(crate::server::CallRef, crossbeam_channel::Sender<String>)>,
) -> Option<Value> {
    let mut words = order.split_whitespace();
    match (words.next(), words.next()) {
        (None, _) => None,
        (Some("call"), Some(aor)) => {
            let talk_ms = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            let plan = Plan { talk: Some(Duration::from_millis(talk_ms)), is_watched: true };
            let (stack, server) = bench.server();
            Some(match server.place_call(stack, aor.trim_start_matches("sip:"), plan) {
                Some(call) => {
                    calls.push((call, reply.clone()));
                    json!({"call": call.number(), "step": "Calling"})
                }
                None => json!({"call": null, "step": "NotRegistered"}),
            })
        }
        (Some("bindings"), _) => {
            let (stack, server) = bench.server();
            let now_us = stack.now_us;
            let list: Vec<Value> = server
                .registrar
                .all(now_us)
                .map(|(aor, binding)| {
                    json!({
                        "aor": aor,
                        "contact": binding.contact,
                        "hop": format!("{:?}", binding.hop),
                        "instance": binding.instance,
                        "expires_in_s": (binding.expires_us - now_us) / 1_000_000,
                    })
                })
                .collect();
            Some(json!({ "bindings": list }))
        }
        (Some("stats"), _) => {
            let calls_open = bench.server().1.calls_open();
            let transactions = bench.stack.open_transactions();
            Some(json!({"stats": bench.stack.tally, "calls_open": calls_open, "transactions": transactions}))
        }
        _ => Some(json!({"error": "expected: call AOR [TALK_MS] | bindings | stats | quit"})),
    }
}

fn play_phones(line: &PhonesLine) -> Result<ExitCode, Box<dyn Error>> {
    let mut bench = Bench::new(line.tls.load()?, Timers::default())?;
    bench.add_phones(line.phones.config(line.proxy, line.count));
    let started_us = bench.stack.read_clock();
    let mut shown_s = 0;
    let mut complete_us = None;
    loop {
        let passed_us = bench.stack.read_clock() - started_us;
        let due = ((passed_us as f64 / 1e6) * line.register_rate) as u64;
        let (stack, phones) = bench.phones();
        let has_more = phones.start_until(stack, due);
        bench.turn(Duration::from_millis(if has_more { 1 } else { 200 }))?;
        let phones = bench.phones().1;
        if complete_us.is_none() && phones.registered_count() == line.count as usize {
            let took_us = bench.stack.now_us - started_us;
            complete_us = Some(took_us);
            eprintln!("all {} registered after {:.3} s", line.count, took_us as f64 / 1e6);
        }
        let passed_s = passed_us / 1_000_000;
        let (stack, phones) = bench.phones();
        if passed_s > shown_s {
            shown_s = passed_s;
            eprintln!(
                "{passed_s:5} s  registered {}/{}  calls received {}  wrong connection {}  wrong phone {}",
                phones.registered_count(),
                line.count,
                stack.tally.calls_received,
                stack.tally.wrong_connection,
                stack.tally.wrong_phone
            );
        }
        if line.seconds > 0 && passed_s >= line.seconds {
            let report = json!({
                "registered": phones.registered_count(),
                "register_s": complete_us.map(|took_us| took_us as f64 / 1e6),
                "register_ms": phones.register_times.summary(),
                "counts": stack.tally,
            });
            println!("{report}");
            let is_good = phones.registered_count() == line.count as usize
                && stack.tally.wrong_connection + stack.tally.wrong_phone == 0;
            return Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}
