//! The SIP Server as a process of its own, and the orders that it takes, line by line, on standard input and on a
//! control port; each answer is one line of JSON.
//!
//! Owns: orders and their answers, what the server tells its partner. Must not touch: SIP.
//!
//! ```text
//! call AOR [TALK_MS]      calls a registered phone
//! dial URI [TALK_MS]      calls what the URI names, through --proxy-sip: a device, a phone of another site
//! bindings | stats        what it knows, what it has counted
//! health KIND             up, 503, options-503, refuse (everything reset, nothing listens) or cut (a dead cable)
//! partner ADDRESS:PORT    tells the other server of the pair, at its control port, what phones register
//! bind JSON               what the partner tells
//! quit
//! ```
//! To freeze it, stop the process (SIGSTOP).

mod partner;
#[cfg(test)]
mod tests;

use crate::args::ServerArgs;
use crate::bench::{Bench, Place};
use crate::certs::TlsFiles;
use crate::net::SERVER;
use crate::registrar::Shared;
use crate::server::{CallRef, Habits, Mood, Plan, Trunk};
use crate::stack::Timers;
use clap::Args;
use crossbeam_channel::{Receiver, Sender};
use partner::Partner;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A command for the server, and where its answer goes.
type Order = (String, Sender<String>);
const ORDERS_MAX: usize = 1_024;
const EXPECTED: &str = "expected: call AOR [TALK_MS] | dial URI [TALK_MS] | bindings | stats | health KIND | partner ADDRESS:PORT | bind JSON | quit";

#[derive(Args)]
pub struct ServerLine {
    /// Where to listen, such as udp:127.0.0.1:7000; one for each transport.
    #[arg(long, required = true)]
    listen: Vec<Place>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    tls: TlsFiles,
    /// Plays a device that does not register: answers every call itself.
    #[arg(long)]
    device: bool,
    /// The domain of the phones that are called by this server's own address, as from another site.
    #[arg(long)]
    domain: Option<String>,
    /// Phones of another site and the server there, such as b.example.com=10.2.0.10:7000;transport=tls; they are
    /// called through --proxy-sip.
    #[arg(long, requires = "proxy_sip")]
    trunk: Vec<Trunk>,
    /// Listens here for commands as well; they are read from standard input in any case.
    #[arg(long)]
    control: Option<SocketAddr>,
}

impl ServerLine {
    fn habits(&self) -> Habits {
        let (domain, trunks) = (self.domain.clone(), self.trunk.clone());
        Habits { is_device: self.device, domain, trunks, ..self.server.habits() }
    }
}

/// What can be wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    Refuses,
    RefusesOptions,
    Shut,
    Cut,
}

impl FromStr for Health {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "up" => Ok(Self::Up),
            "503" => Ok(Self::Refuses),
            "options-503" => Ok(Self::RefusesOptions),
            "refuse" => Ok(Self::Shut),
            "cut" => Ok(Self::Cut),
            _ => Err(format!("{text}: expected up, 503, options-503, refuse or cut")),
        }
    }
}

struct Desk {
    bench: Bench,
    health: Health,
    partner: Option<Partner>,
    /// Calls that somebody has asked for, and where their story goes.
    calls: Vec<(CallRef, Sender<String>)>,
}

/// Serves until it is told to quit.
///
/// # Errors
/// Files, addresses, or the poll itself.
pub fn serve(line: &ServerLine) -> Result<ExitCode, Box<dyn Error>> {
    let mut bench = Bench::new(line.tls.load()?, Timers::default())?;
    for place in bench.add_server(&line.listen, line.server.policy(), line.habits())? {
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
    let mut desk = Desk { bench, health: Health::Up, partner: None, calls: Vec::new() };
    while !desk.turn(&inbox)? {}
    // Answers that are on their way are still written; whoever does not read them is not waited for.
    written.recv_timeout(Duration::from_secs(1)).ok();
    Ok(ExitCode::SUCCESS)
}

fn take_orders(
    reader: impl BufRead,
    mut writer: impl Write + Send + 'static,
    orders: &Sender<Order>,
    waker: &mio::Waker,
    done: &Sender<()>,
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

impl Desk {
    /// One pass; says whether the server has been told to quit.
    fn turn(&mut self, inbox: &Receiver<Order>) -> Result<bool, Box<dyn Error>> {
        self.bench.turn(Duration::from_secs(1))?;
        for (order, reply) in inbox.try_iter() {
            if order == "quit" {
                self.calls.clear();
                return Ok(true);
            }
            if let Some(answer) = self.obey(&order, &reply) {
                // Whoever asked may have gone; that is no fault of the server.
                reply.send(answer.to_string()).ok();
            }
        }
        let (_, server) = self.bench.server();
        while let Some((call, step)) = server.journal.pop_front() {
            let answer = json!({"call": call.number(), "step": format!("{step:?}")});
            for (_, reply) in self.calls.iter().filter(|(known, _)| *known == call) {
                // As above.
                reply.send(answer.to_string()).ok();
            }
            if !server.is_open(call) {
                self.calls.retain(|(known, _)| *known != call);
            }
        }
        let news = self.bench.server().1.registrar.news();
        if let Some(partner) = &self.partner {
            news.into_iter().for_each(|binding| partner.tell(binding));
        }
        Ok(false)
    }

    /// Carries out an order; the answer, when it has one.
    fn obey(&mut self, order: &str, reply: &Sender<String>) -> Option<Value> {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let mut words = rest.split_whitespace();
        match verb {
            "" => None,
            "call" | "dial" => {
                let whom = words.next().unwrap_or("").to_owned();
                let talk_ms = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                Some(self.call(&whom, verb == "dial", Duration::from_millis(talk_ms), reply))
            }
            "bindings" => Some(self.bindings()),
            "stats" => {
                let calls_open = self.bench.server().1.calls_open();
                let stack = &self.bench.stack;
                Some(json!({
                    "stats": stack.tally,
                    "calls_open": calls_open,
                    "invites_open": stack.open_invites(),
                    "transactions": stack.open_transactions(),
                }))
            }
            "health" => Some(match rest.parse().map(|health| self.fall_to(health)) {
                Ok(Ok(())) => json!({ "health": rest }),
                Ok(Err(fault)) => json!({"error": fault.to_string()}),
                Err(fault) => json!({ "error": fault }),
            }),
            "partner" => Some(match rest.parse() {
                Ok(addr) => {
                    let now_us = self.bench.stack.read_clock();
                    let (_, server) = self.bench.server();
                    let partner = Partner::new(addr);
                    server.registrar.all_shared(now_us).into_iter().for_each(|binding| partner.tell(binding));
                    self.partner = Some(partner);
                    json!({ "partner": rest })
                }
                Err(_) => json!({"error": format!("{rest}: expected ADDRESS:PORT")}),
            }),
            "bind" => match serde_json::from_str::<Shared>(rest) {
                Ok(shared) => {
                    let now_us = self.bench.stack.read_clock();
                    self.bench.server().1.registrar.adopt(shared, now_us);
                    None
                }
                Err(fault) => Some(json!({"error": fault.to_string()})),
            },
            _ => Some(json!({ "error": EXPECTED })),
        }
    }

    fn call(&mut self, whom: &str, dials: bool, talk: Duration, reply: &Sender<String>) -> Value {
        let (stack, server) = self.bench.server();
        let plan = Plan { talk: Some(talk), is_watched: true };
        let placed = match dials {
            true => server.dial(stack, whom, plan),
            false => server.place_call(stack, whom.trim_start_matches("sip:"), plan),
        };
        match placed {
            Some(call) => {
                self.calls.push((call, reply.clone()));
                json!({"call": call.number(), "step": "Calling"})
            }
            None => json!({"call": null, "step": "NotRegistered"}),
        }
    }

    fn bindings(&mut self) -> Value {
        let (stack, server) = self.bench.server();
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
        json!({ "bindings": list })
    }

    fn fall_to(&mut self, health: Health) -> std::io::Result<()> {
        match (self.health, health) {
            (Health::Shut, Health::Shut) => {}
            (Health::Shut, _) => self.bench.open_server()?,
            (Health::Cut, _) => self.bench.stack.net.mend(SERVER)?,
            _ => {}
        }
        match health {
            Health::Shut => self.bench.shut_server(),
            Health::Cut => self.bench.stack.net.cut(SERVER)?,
            Health::Up | Health::Refuses | Health::RefusesOptions => {}
        }
        self.bench.server().1.mood = match health {
            Health::Refuses => Mood::Refuses,
            Health::RefusesOptions => Mood::RefusesOptions,
            _ => Mood::Well,
        };
        self.health = health;
        Ok(())
    }
}
