//! The program as `perf/run` calls it: what it takes, what it prints, its status.

use serde_json::Value;
use std::net::UdpSocket;
use std::process::Command;

/// Everything that `perf/run load` reads from the report.
const READ: [&str; 8] = [
    "registered",
    "registrations_per_s",
    "register_ms",
    "setup_ms",
    "generator_fell_behind",
    "lab_us_per_unit",
    "proxy_us_per_registration",
    "proxy_us_per_unit",
];

#[test]
fn phones_and_server_agree_without_a_proxy_and_the_report_has_what_is_read_of_it() {
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let ran = Command::new(env!("CARGO_BIN_EXE_hawser-lab"))
        .args(["load", "--phones", "4", "--rate", "40", "--seconds", "1", "--proxy", &format!("udp:{free}")])
        .args(["--server-listen", &free.to_string(), "--watch-pid", &std::process::id().to_string()])
        .output()
        .expect("it runs");
    let said = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let report: Value = serde_json::from_str(&said.0).unwrap_or_default();
    for key in READ {
        assert!(!report[key].is_null(), "{key} is missing: {said:?}");
    }
    for (key, count) in [("placed", 40), ("answered", 40), ("failed", 0), ("lost", 0), ("still_open", 0)] {
        assert_eq!(report["calls"][key], count, "{key}: {said:?}");
    }
    assert!(ran.status.success(), "{said:?}");
}
