//! dnsmasq as the only name server, with the records of a test.

use std::process::Command;

use super::ports::{Kind, is_bound};
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
