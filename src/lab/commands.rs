//! Command line of the lab.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::certs::{self, Further, TlsFiles};
use crate::control::{self, ServerLine};
use crate::failover::{self, FailoverLine};
use crate::load::{self, LoadLine};
use crate::overload::{self, OverloadLine};
use crate::pool::{self, PoolLine};
use crate::renew::{self, RenewLine};
use crate::scenario::{self, Ended};
use crate::sites::{self, SitesLine};
use crate::soak::{self, SoakLine};
use crate::stack::Timers;
use crate::stall::{self, StallLine};
use crate::storm::{self, StormLine};
use crate::story::{self, StoryLine};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

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
        /// A further certificate, such as device=192.0.2.7,device.example.com: device.pem and device.key.
        #[arg(long, value_name = "STEM=NAME[,NAME]")]
        issue: Vec<Further>,
    },
    /// Plays the SIP Server: registrar and B2BUA.
    Server(ServerLine),
    /// Plays phones that register, stay, and answer calls.
    Phones(PhonesLine),
    /// Plays the SIP Server and phones in one process, places calls at a rate, and reports.
    Load(Box<LoadLine>),
    /// Plays phones and a pair of SIP Servers, lets one server fail under load, and reports what that cost.
    Failover(Box<FailoverLine>),
    /// Places more calls than a proxy can take, over UDP, by callers that honour no refusal, and reports.
    Overload(Box<OverloadLine>),
    /// Starts a pool of three proxies that phones find through DNS, kills one under load, and reports.
    Pool(Box<PoolLine>),
    /// Starts two sites of two proxies and two SIP Servers each, lets their phones call each other over TLS, and
    /// reports.
    Sites(Box<SitesLine>),
    /// Lets thousands of TLS handshakes begin at once while phones are called, and reports.
    Storm(Box<StormLine>),
    /// Lets peers stall in the handshake, at one byte a second, and without reading, while phones are called, and
    /// reports.
    Stall(Box<StallLine>),
    /// Replaces the proxy's certificate on disk again and again under new handshakes and calls, and reports.
    Renew(Box<RenewLine>),
    /// Starts a proxy and a pair of SIP Servers, plays calls, moves, reloads, kills and storms for as long as it is told, and
    /// says what is left.
    Soak(Box<SoakLine>),
    /// Tells, step by step, what a proxy does for phones that register, call, move and hang up.
    Story(Box<StoryLine>),
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
pub fn run() -> Ended {
    match Line::parse().command {
        Command::Certs { dir, names, issue } => certs::write_all(&dir, &names, &issue).map(|()| ExitCode::SUCCESS),
        Command::Server(line) => control::serve(&line),
        Command::Phones(line) => play_phones(&line),
        Command::Load(line) => load::run(&line),
        Command::Failover(line) => failover::run(&line),
        Command::Overload(line) => overload::run(&line),
        Command::Pool(line) => pool::run(&line),
        Command::Sites(line) => sites::run(&line),
        Command::Storm(line) => storm::run(&line),
        Command::Stall(line) => stall::run(&line),
        Command::Renew(line) => renew::run(&line),
        Command::Soak(line) => soak::run(&line),
        Command::Story(line) => story::run(&line),
    }
}

fn play_phones(line: &PhonesLine) -> Ended {
    let mut bench = Bench::new(line.tls.load()?, Timers::default())?;
    bench.add_phones(line.phones.config(line.proxy, line.count));
    let began_us = bench.stack.read_clock();
    let (mut told_s, mut complete_us) = (0, None);
    loop {
        scenario::start_phones(&mut bench, began_us, line.register_rate, 200_000)?;
        let (stack, phones) = bench.phones();
        let registered = phones.registered_count();
        if complete_us.is_none() && registered == line.count as usize {
            let took_us = stack.now_us - began_us;
            complete_us = Some(took_us);
            eprintln!("all {} registered after {:.3} s", line.count, took_us as f64 / 1e6);
        }
        let tally = &stack.tally;
        let Some(passed_s) = scenario::tick(&mut told_s, stack.now_us - began_us) else { continue };
        eprintln!(
            "{passed_s:5} s  registered {registered}/{}  calls received {}  wrong connection {}  wrong phone {}",
            line.count, tally.calls_received, tally.wrong_connection, tally.wrong_phone
        );
        if line.seconds > 0 && passed_s >= line.seconds {
            let report = json!({
                "registered": registered,
                "register_s": complete_us.map(|took_us| took_us as f64 / 1e6),
                "register_ms": phones.register_times.summary(),
                "counts": tally,
            });
            println!("{report}");
            return Ok(scenario::status(registered == line.count as usize && tally.astray() == 0));
        }
    }
}
