//! dnsmasq as the only name server, with the records of a test.

use std::net::SocketAddr;
use std::process::Command;

use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{START_MAX, Scratch};

/// Starts it on a port of loopback; `lines` are of dnsmasq.conf. It knows nothing but those.
pub fn start(scratch: &Scratch, port: u16, lines: &str) -> Process {
    let file = scratch.write(&format!("dnsmasq-{port}.conf"), lines);
    let mut command = Command::new("dnsmasq");
    command
        .arg("--keep-in-foreground")
        .arg(format!("--conf-file={}", file.display()))
        .args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="])
        .args(["--log-facility=-", "--user=root", &format!("--port={port}")]);
    let mut process = Process::start("dnsmasq", &command).log(file);
    process.wait_until("listening", START_MAX, || is_bound(Kind::Udp, port));
    process
}

/// A name server that can be lost.
#[derive(Debug)]
pub struct Dnsmasq {
    /// Where it answers, over UDP and TCP.
    pub address: SocketAddr,
    process: Process,
}

impl Dnsmasq {
    /// Knows `lines` and nothing else of `.test`; names elsewhere it refuses. Records last `ttl` seconds.
    pub fn start(scratch: &Scratch, ttl: u32, lines: &[&str]) -> Self {
        Self::at(scratch, free_port(), ttl, lines)
    }

    /// The same on the port of a former one.
    pub fn at(scratch: &Scratch, port: u16, ttl: u32, lines: &[&str]) -> Self {
        let lines = format!("local=/test/\nlocal-ttl={ttl}\nlog-queries\n{}\n", lines.join("\n"));
        let process = start(scratch, port, &lines);
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), process }
    }

    /// Goes silent and keeps its socket: nothing tells whoever asks.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }
}
