//! haproxy in front of the proxy, which passes TCP through and says whose each connection is.

use std::process::Command;

use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{START_MAX, Scratch};

/// Where its connections to the proxy come from.
pub const BALANCER: &str = "127.0.0.9";

/// A running haproxy and the port where it accepts.
#[derive(Debug)]
pub struct Haproxy {
    pub port: u16,
    _process: Process,
}

impl Haproxy {
    /// Passes what it accepts to a port of 127.0.0.1; `options` are of haproxy's `server`.
    pub fn start(scratch: &Scratch, to: u16, options: &str) -> Self {
        let port = free_port();
        let settings = format!(
            "global\n    maxconn 100\ndefaults\n    mode tcp\n    timeout connect 20s\n    timeout client 5m\n\
             \x20   timeout server 5m\nlisten sip\n    bind 127.0.0.1:{port}\n\
             \x20   server hawser 127.0.0.1:{to} source {BALANCER} {options}\n"
        );
        let file = scratch.write(&format!("haproxy-{port}.cfg"), &settings);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let mut process = Process::start("haproxy", &command);
        process.wait_until("listening", START_MAX, || is_bound(Kind::Tcp, port));
        Self { port, _process: process }
    }
}
