//! `key-log-file`, against what OpenSSL writes of the same sessions.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::certificates::{FINE, WITHIN, call, ends, text};
use crate::harness::Scratch;
use crate::harness::ports::{Kind, free_port, is_bound};
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};

/// The lines of a key log, without comments.
fn lines(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_keys_are_those_that_openssl_has_of_the_same_sessions_and_go_nowhere_unasked() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("key-log");
    let log = scratch.path().join("keys.log");
    let theirs = |name: &str| scratch.path().join(format!("{name}.log"));
    let mut all = BTreeSet::new();
    // The second proxy goes on in the same file; the third has none.
    for (round, is_on) in [(1, true), (2, true), (3, false)] {
        let (server_port, at_server) = (free_port(), theirs(&format!("server-{round}")));
        let settings = Settings { server_port, internal_protocol: "tls", oos_check: 5, ..Settings::new(&scratch) };
        let own = settings.certificates.clone();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{server_port}")]);
        command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key).arg("-keylogfile").arg(&at_server);
        let mut server = Process::start("openssl s_server", &command);
        server.wait_until("listening", WITHIN, || is_bound(Kind::Tcp, server_port));
        let more = if is_on { format!("key-log-file = {log:?}\n") } else { String::new() };
        let toml = format!("{}{more}", settings.toml());
        let mut proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);
        let http = proxy.http;
        proxy.process.wait_until("connected to its server", WITHIN, || ends(http, "server").contains_key(FINE));
        server.wait_line("OPTIONS ", WITHIN);
        if is_on {
            proxy.process.wait_line("WHOEVER READS IT CAN READ ALL TRAFFIC", WITHIN);
        }
        let mut wanted = lines(&at_server);
        for version in ["-tls1_2", "-tls1_3"] {
            let at_client = theirs(&format!("client-{round}{version}"));
            call(&mut proxy, version, &[version, "-keylogfile", text(&at_client)], FINE);
            let found = lines(&at_client);
            assert_eq!(found.len(), if version == "-tls1_2" { 1 } else { 5 }, "{found:?}");
            wanted.extend(found);
        }
        if is_on {
            assert_eq!(fs::metadata(&log).expect("it is there").permissions().mode() & 0o7777, 0o600);
            all.extend(wanted);
        }
        assert_eq!(lines(&log), all, "round {round}");
    }
}

#[test]
fn a_key_log_that_cannot_be_written_harms_no_handshake_and_one_that_is_none_stops_the_start() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("key-log-faults");
    let log = scratch.path().join("keys.log");
    let settings = Settings::new(&scratch);
    let toml = format!("{}key-log-file = {log:?}\n", settings.toml());
    // A limit on the length of files stands in for a full disk.
    let file = scratch.write("hawser.toml", &toml);
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], settings.http_port));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_hawser"), "--config"]);
    fs::write(&log, "x".repeat(1_020)).expect("a scratch file");
    let mut process = Process::start("hawser with small files", command.arg(&file));
    process.wait_until("ready", WITHIN, || {
        crate::harness::proxy::page(http, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    let mut proxy = Proxy { settings, http, process };
    for version in ["-tls1_2", "-tls1_3"] {
        call(&mut proxy, version, &[version], FINE);
    }
    assert!(proxy.metric("hawser_tls_key_log_lost_total", "") >= 6.0);
    proxy.process.wait_line("lines of the TLS key log could not be written", WITHIN);

    let link = scratch.path().join("link.log");
    std::os::unix::fs::symlink(&log, &link).expect("a link");
    let file = scratch.write("link.toml", &toml.replace("keys.log", "link.log"));
    for arguments in [&["--check"][..], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
        let mut start = Process::start("hawser", command.arg("--config").arg(&file).args(arguments));
        assert!(!start.wait_exit(WITHIN).success());
        assert!(start.errors().join("\n").contains("link.log: key-log-file cannot be used: "), "{:?}", start.errors());
    }
}
