//! A pair of SIP Servers of which one fails while phones and servers call each other: no call of a phone is lost, none
//! is stuck, and the proxy turns to the partner once. The lab plays both servers as processes, so that they are killed
//! and stopped in earnest, and phones over TLS; `perf/run failover` plays all faults over all transports, for longer.

use std::process::Command;
use std::time::Duration;

use crate::harness::ports::free_port;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::{Scratch, lab};

/// A run of some seconds, and all that may have to be waited for after it.
const RUN_MAX: Duration = Duration::from_secs(90);

/// The primary fails in this way, over this transport, while 50 calls are placed each second.
fn no_call_is_lost(internal: &'static str, fault: &str) {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new(&format!("failover-{internal}"));
    let settings = Settings {
        internal_protocol: internal,
        backup_port: Some(free_port()),
        oos_check: 1,
        more: "oos-force = 1".to_owned(),
        ..Settings::new(&scratch)
    };
    let backup = settings.backup_port.expect("it was just chosen");
    let proxy = Proxy::start(&scratch, settings);
    let Settings { tls_port, server_port, certificates, .. } = &proxy.settings;
    let mut command = Command::new(lab());
    command
        .args(["failover", "--internal", internal, "--fault", fault])
        .args(["--proxy", &format!("tls:127.0.0.1:{tls_port}")])
        .args(["--primary", &format!("127.0.0.1:{server_port}"), "--backup", &format!("127.0.0.1:{backup}")])
        .args(["--phones", "20", "--rate", "50", "--seconds", "6", "--talk-ms", "500"])
        .args(["--expect-failed", "0", "--expect-switches", "1"])
        .arg("--ca")
        .arg(&certificates.ca)
        .arg("--cert")
        .arg(&certificates.certificate)
        .arg("--key")
        .arg(&certificates.key);
    let status = Process::start("hawser-lab failover", &command).wait_exit(RUN_MAX);
    assert!(status.success(), "{status}");
}

#[test]
fn no_call_is_lost_over_udp_when_the_primary_is_killed() {
    no_call_is_lost("udp", "kill@2");
}

#[test]
fn no_call_is_lost_over_tcp_when_the_primary_is_frozen() {
    no_call_is_lost("tcp", "freeze@2");
}

#[test]
fn no_call_is_lost_over_tls_when_the_cable_of_the_primary_is_cut() {
    no_call_is_lost("tls", "cut@2");
}

#[test]
fn no_call_is_lost_over_tls_when_the_primary_answers_503() {
    no_call_is_lost("tls", "503@2");
}
