//! Kamailio as the SIP Server: registrar with its default, strict Path, or without Path.

use std::process::Command;

use super::ports::{Kind, is_bound};
use super::process::Process;
use super::{DOMAIN, START_MAX, Scratch, repository};

/// Starts it on a UDP port, with strict Path.
pub fn start(scratch: &Scratch, port: u16) -> Process {
    start_with(scratch, port, &[])
}

/// Starts it on a UDP port, with further definitions (`perf/kamailio/registrar.cfg` tells them).
pub fn start_with(scratch: &Scratch, port: u16, definitions: &[&str]) -> Process {
    let mut command = Command::new("kamailio");
    command
        .arg("-f")
        .arg(repository("perf/kamailio/registrar.cfg"))
        .args(["-DD", "-E", "-m", "32", "-M", "4", "-l", &format!("udp:127.0.0.1:{port}")])
        .args(["-A", &format!("DOMAIN={DOMAIN:?}")])
        .args(definitions.iter().flat_map(|definition| ["-A", definition]))
        .arg("-Y")
        .arg(scratch.path());
    let mut process = Process::start("kamailio as the SIP Server", &command);
    process.wait_until("listening", START_MAX, || is_bound(Kind::Udp, port));
    process
}
