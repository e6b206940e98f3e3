//! The proxy with its settings and certificates, and its pair of SIP Servers.
//!
//! Owns: starting, reloading, killing and ending them. Must not touch: phones and calls.

use crate::bench::Place;
use crate::certs::{self, Further, TlsFiles};
use crate::failover::fault::{Event, Kind};
use crate::failover::pair::Pair;
use crate::ledger::Ledger;
use crate::net::Transport;
use crate::processes::{Program, free_ports, hawser};
use crate::renew::replace;
use crate::scenario::Ended;
use crate::watch;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Ports from the first one on: SIP, TLS, HTTP, primary, backup.
const PORTS: u16 = 5;
/// Certificates that take each other's place.
const SETS: u64 = 4;
const ASK_EVERY_US: u64 = 200_000;
/// What the log may not hold.
const NOT_IN_LOG: [&str; 3] = [" ERROR ", "panicked", "stalled"];
const LOG_LINES_SHOWN: usize = 5;

pub struct Site {
    dir: PathBuf,
    domain: String,
    internal: Transport,
    first_port: u16,
    proxy: Program,
    pub pair: Pair,
    ask_us: u64,
}

impl Site {
    /// Makes the certificates: the servers', and those that take each other's place at the proxy.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn prepare(dir: &Path, domain: &str) -> Ended<TlsFiles> {
        let name = |nth| format!("set{nth}=127.0.0.1,{domain}").parse();
        let further: Vec<Further> = (0..SETS).map(name).collect::<Result<_, _>>()?;
        certs::write_all(dir, &[domain.to_owned()], &further)?;
        install(dir, 0)?;
        Ok(TlsFiles::written(dir, "server"))
    }

    /// Starts the servers, then the proxy. `waker` rings when a server says something.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start(
        program: &Path,
        (dir, domain): (&Path, &str),
        internal: Transport,
        tls: &TlsFiles,
        waker: Arc<mio::Waker>,
    ) -> Ended<Self> {
        let home = IpAddr::from(Ipv4Addr::LOCALHOST);
        let first_port = free_ports(&[home], PORTS)?;
        let place = |port| Place { transport: internal, addr: SocketAddr::new(home, port) };
        let pair = Pair::start([place(first_port + 3), place(first_port + 4)], tls, Vec::new(), waker)?;
        fs::write(dir.join("hawser.toml"), settings(dir, first_port, internal, domain, 0))?;
        let proxy = hawser(program, dir, "hawser", SocketAddr::new(home, first_port + 2))?;
        let (dir, domain) = (dir.to_owned(), domain.to_owned());
        Ok(Self { dir, domain, internal, first_port, proxy, pair, ask_us: 0 })
    }

    /// Where the proxy listens for phones.
    pub fn place(&self, transport: Transport) -> Place {
        let port = self.first_port + u16::from(transport == Transport::Tls);
        Place { transport, addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    pub fn pid(&self) -> u32 {
        self.proxy.id()
    }

    /// Every sample of the proxy's.
    ///
    /// # Errors
    /// Its HTTP port does not answer, or it has died.
    pub fn samples(&mut self) -> Ended<Vec<(String, f64)>> {
        if !self.proxy.runs() {
            return Err(format!("the proxy has ended:\n{}", self.proxy.tail()).into());
        }
        watch::metrics(&format!("http://127.0.0.1:{}/metrics", self.first_port + 2))
    }

    /// What the proxy says of a phone.
    pub fn where_is(&self, aor: &str) -> String {
        let url = format!("http://127.0.0.1:{}/where?aor={aor}", self.first_port + 2);
        watch::fetch(&url).unwrap_or_else(|error| error.to_string())
    }

    /// In turn, other settings and a SIGHUP, and another certificate, which the proxy finds by itself.
    ///
    /// # Errors
    /// A file that cannot be written, or a proxy that is gone.
    pub fn reload(&mut self, nth: u64) -> Ended<()> {
        if nth % 2 == 1 {
            return install(&self.dir, nth / 2 + 1);
        }
        let text = settings(&self.dir, self.first_port, self.internal, &self.domain, nth / 2 + 1);
        replace(&self.dir.join("hawser.toml"), text.as_bytes())?;
        if !self.proxy.signal("HUP") {
            return Err("the proxy takes no SIGHUP".into());
        }
        Ok(())
    }

    /// Kills the active server, or the other one; says which.
    ///
    /// # Errors
    /// See [`Pair::apply`].
    pub fn kill(&mut self, is_active: bool, ledger: &mut Ledger) -> Ended<usize> {
        let active = self.pair.active().unwrap_or(0);
        let server = if is_active { active } else { 1 - active };
        self.pair.apply(Event { at_s: 0.0, server, kind: Kind::Kill, begins: true }, ledger)?;
        Ok(server)
    }

    /// Starts a server that was killed.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, server: usize, ledger: &mut Ledger) -> Ended<()> {
        self.pair.apply(Event { at_s: 0.0, server, kind: Kind::Kill, begins: false }, ledger)
    }

    /// Takes in what the servers say, and asks them what they have counted.
    pub fn turn(&mut self, now_us: u64, ledger: &mut Ledger) {
        if now_us >= self.ask_us {
            self.pair.ask();
            self.ask_us = now_us + ASK_EVERY_US;
        }
        self.pair.listen(now_us, ledger);
    }

    /// Ends the proxy; says what is wrong with that, or in its log.
    pub fn end(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.pair.said_wrong > 0 {
            faults.push(format!("{} orders were not understood by the servers", self.pair.said_wrong));
        }
        if !self.proxy.stop() {
            faults.push(format!("the proxy does not end in order:\n{}", self.proxy.tail()));
        }
        let log = fs::read_to_string(self.dir.join("hawser.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| NOT_IN_LOG.iter().any(|word| line.contains(word))).collect();
        if !lines.is_empty() {
            let shown = lines[..lines.len().min(LOG_LINES_SHOWN)].join("\n");
            faults.push(format!("{} lines of the log should not be there:\n{shown}", lines.len()));
        }
        faults
    }
}

/// Puts a set in the place that the proxy reads.
fn install(dir: &Path, nth: u64) -> Ended<()> {
    for end in ["key", "pem"] {
        let set = fs::read(dir.join(format!("set{}.{end}", nth % SETS)))?;
        replace(&dir.join(format!("live.{end}")), &set)?;
    }
    Ok(())
}

/// The proxy's settings; `nth` changes some of those that it takes while it runs.
fn settings(dir: &Path, first_port: u16, internal: Transport, domain: &str, nth: u64) -> String {
    let (tls, http, primary, backup) = (first_port + 1, first_port + 2, first_port + 3, first_port + 4);
    let (internal, dir) = (internal.param(), dir.display());
    let (grace, force) = (5 + nth % 2, if nth.is_multiple_of(2) { "1" } else { "1.5" });
    format!(
        "[sipproxy]\nsip-address = \"127.0.0.1\"\nsip-port = {first_port}\ntls-port = {tls}\nhttp-port = {http}\n\
         domains = [\"{domain}\", \"n{nth}.example.net\"]\ninternal-protocol = \"{internal}\"\n\
         oos-check = 1\noos-force = {force}\nflow-grace = {grace}\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"127.0.0.1:{primary}\"\nbackup = \"127.0.0.1:{backup}\"\n\
         [security]\ncertificate = \"{dir}/live.pem\"\ncertificate-key = \"{dir}/live.key\"\n\
         trusted-ca = \"{dir}/ca.pem\"\n\
         # What a phone that is lost meanwhile has ring at a server would go from one that is killed to the next for ever.\n\
         [timers]\nc = 60000\n"
    )
}
