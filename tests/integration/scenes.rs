//! What takes several proxies: a pool that phones find through DNS and that loses a member, and two sites whose phones
//! call each other over TLS. The lab starts all of it on loopback addresses, with a resolver of its own (dnsmasq).

use std::process::Command;
use std::time::Duration;

use crate::harness::lab;
use crate::harness::process::Process;
use crate::harness::proxy::is_stand_in;

const RUN_MAX: Duration = Duration::from_secs(120);

fn plays(arguments: &[&str]) {
    if is_stand_in() {
        return;
    }
    let mut command = Command::new(lab());
    command.args(arguments).args(["--hawser", env!("CARGO_BIN_EXE_hawser")]);
    let status = Process::start(&format!("hawser-lab {}", arguments[0]), &command).wait_exit(RUN_MAX);
    assert!(status.success(), "{status}");
}

#[test]
fn phones_of_a_proxy_that_is_killed_come_back_through_another_of_the_pool() {
    plays(&["pool", "--phones", "30", "--rate", "40", "--seconds", "6", "--kill-after", "2"]);
}

#[test]
fn phones_of_two_sites_call_each_other_over_tls_and_survive_the_death_of_a_server() {
    plays(&["sites", "--phones", "10", "--rate", "15", "--seconds", "6", "--kill-after", "3", "--no-capture"]);
}
