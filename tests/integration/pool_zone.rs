//! The DNS records of a pool: what `scripts/pool-zone` prints is what dnsmasq publishes and what the check finds to
//! agree; and each way in which they may come apart is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::ports::free_port;
use crate::harness::proxy::is_stand_in;
use crate::harness::{DOMAIN, Scratch, dnsmasq, repository};

/// The file of a proxy that could run at this address; its certificates are not looked at.
fn proxy(scratch: &Scratch, name: &str, address: &str, tls_port: u16) -> PathBuf {
    // Of the listener's own family.
    let server = if address.contains(':') { "[::1]" } else { "127.0.0.1" };
    let toml = format!(
        "[sipproxy]\nsip-address = \"{address}\"\ntls-port = {tls_port}\nhttp-port = 0\ndomains = [\"{DOMAIN}\"]\n\
         [[sip-server]]\nname = \"server\"\nprimary = \"{server}:7000\"\n\
         [security]\ncertificate = \"none.pem\"\ncertificate-key = \"none.key\"\n"
    );
    scratch.write(&format!("{name}.toml"), &toml)
}

fn pool_zone(arguments: &[&str], members: &[&Path]) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_hawser")).parent().expect("a folder");
    Command::new(repository("scripts/pool-zone"))
        .env("HAWSER_BIN_DIR", programs)
        .args(["--domain", DOMAIN])
        .args(arguments)
        .args(members)
        .output()
        .expect("the script runs")
}

/// The status of a check, and what it said.
fn check(port: u16, arguments: &[&str], members: &[&Path]) -> (Option<i32>, String) {
    let resolver = format!("127.0.0.1:{port}");
    let arguments = [&["--check", "--resolver", resolver.as_str()], arguments].concat();
    let output = pool_zone(&arguments, members);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn dnsmasq_publishes_what_is_printed_and_the_check_tells_what_has_changed() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("pool-zone");
    let one = proxy(&scratch, "one", "192.0.2.1", 5061);
    let two = proxy(&scratch, "two", "2001:db8::2", 5061);
    let printed = pool_zone(&["--format", "dnsmasq", "--weight", "20"], &[&one, &two]);
    assert!(printed.status.success(), "{printed:?}");
    let lines = String::from_utf8(printed.stdout).expect("text");
    let port = free_port();
    let _dnsmasq = dnsmasq::start(&scratch, port, &lines);

    let agrees = (Some(0), format!("{DOMAIN}: the DNS agrees with its 2 proxies\n"));
    assert_eq!(check(port, &[], &[&one, &two]), agrees);
    assert_eq!(check(port, &["--weight", "20"], &[&one, &two]), agrees);

    // A proxy has moved to another port, one was added, and one is gone.
    let moved = proxy(&scratch, "moved", "192.0.2.1", 5071);
    let three = proxy(&scratch, "three", "192.0.2.3", 0);
    let (status, told) = check(port, &["--weight", "20"], &[&moved, &three]);
    assert_eq!(status, Some(1));
    let expected = [
        format!("_sips._tcp.{DOMAIN}: sipproxy1.{DOMAIN} has port 5061, but the proxy listens on 5071"),
        format!("_sips._tcp.{DOMAIN}: sipproxy2.{DOMAIN} port 5061 is no proxy of this pool"),
        format!("_sip._udp.{DOMAIN}: sipproxy2.{DOMAIN} port 5060 is no proxy of this pool"),
        format!("_sip._udp.{DOMAIN}: no record for 192.0.2.3 port 5060"),
    ];
    for line in &expected {
        assert!(told.lines().any(|said| said == line), "{line:?} in\n{told}");
    }
    assert!(!told.contains(&format!("_sips._tcp.{DOMAIN}: no record for 192.0.2.3")), "its TLS is off:\n{told}");
}

#[test]
fn a_resolver_that_is_not_there_is_told_as_such() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("pool-zone-silent");
    let one = proxy(&scratch, "one", "192.0.2.1", 5061);
    let (status, told) = check(free_port(), &[], &[&one]);
    assert_eq!(status, Some(1));
    assert!(told.starts_with(&format!("_sips._tcp.{DOMAIN}: cannot be looked up: no resolver answers: ")), "{told}");
}
