//! What an operator sees of a pair and does to it: `hawser servers`, `pin` and `release`, `/metrics`, `/readyz` and the
//! log, while its two SIP Servers answer, refuse and fall silent.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::ports::free_port;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::text::answer;
use crate::harness::{START_MAX, Scratch};

/// Longer than `oos-check` and `oos-force` together.
const NOTICED_MAX: Duration = Duration::from_secs(10);

/// A SIP Server that answers OPTIONS with 200, or with nothing while it is frozen. Its end is a port that refuses.
struct Server {
    at: SocketAddr,
    frozen: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(port: u16) -> Self {
        let udp = UdpSocket::bind(("127.0.0.1", port)).expect("a free port");
        // So that it looks whether it is over.
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout above zero");
        let at = udp.local_addr().expect("it is bound");
        let (frozen, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (is_frozen, is_over) = (Arc::clone(&frozen), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while !is_over.load(Ordering::SeqCst) {
                let Ok((len, from)) = udp.recv_from(&mut bytes) else { continue };
                let request = String::from_utf8_lossy(&bytes[..len]).into_owned();
                if request.starts_with("OPTIONS ") && !is_frozen.load(Ordering::SeqCst) {
                    udp.send_to(answer(&request, "200 OK", "s", "").as_bytes(), from).expect("loopback");
                }
            }
        });
        Self { at, frozen, over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Runs a command of the program against a proxy.
pub fn hawser(proxy: &Proxy, arguments: &[&str]) -> Output {
    let http = proxy.http.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    command.args(arguments).args(["--http", &http]).output().expect("it runs")
}

/// What it says, when it succeeds.
pub fn said(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = hawser(proxy, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Asks `hawser servers` until a line of its answer has all these words.
fn wait(proxy: &mut Proxy, words: &[&str]) {
    let http = proxy.http.to_string();
    proxy.process.wait_until(&format!("{words:?}"), NOTICED_MAX, || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
        let output = command.args(["servers", "--http", &http]).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn an_operator_sees_a_switch_pins_and_releases() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("operator");
    let settings = Settings { oos_check: 1, more: "oos-force = 1".to_owned(), ..Settings::new(&scratch) };
    let backup_port = free_port();
    let toml = settings.toml().replace("\n[security]", &format!("backup = \"127.0.0.1:{backup_port}\"\n\n[security]"));
    let primary = Server::start(settings.server_port);
    let backup = Server::start(backup_port);
    let (first, second) = (primary.at.to_string(), backup.at.to_string());
    let mut proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);

    wait(&mut proxy, &["primary", &first, "up", "it answers"]);
    assert!(said(&proxy, &["servers"]).starts_with("server: primary is active for "));

    assert_eq!(said(&proxy, &["pin", "server", "backup"]), "server: backup is active until it is released\n");
    proxy.process.wait_line("a SIP Server is pinned: server: backup", START_MAX);
    wait(&mut proxy, &["server: backup is pinned"]);
    wait(&mut proxy, &["backup", &second, "up", "it answers"]);
    assert_eq!(proxy.metric("hawser_server_pinned", "pair=\"server\""), 1.0);
    assert_eq!(proxy.metric("hawser_server_active{", "server=\"backup\""), 1.0);
    assert_eq!(proxy.metric("hawser_server_switches_total", "reason=\"pinned\""), 1.0);
    let refused = hawser(&proxy, &["pin", "other", "primary"]);
    assert!(!refused.status.success());
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "other: there is no pair of this name\n");

    // A pinned server that dies stays; once released it does not.
    drop(backup);
    wait(&mut proxy, &["backup", &second, "down", "connection refused"]);
    wait(&mut proxy, &["server: backup is pinned"]);
    assert_eq!(said(&proxy, &["release", "server"]), "server: released\n");
    wait(&mut proxy, &["server: primary is active", "connection refused"]);
    proxy.process.wait_line(&format!("server: primary {first} in place of backup {second} (backup: "), START_MAX);

    primary.frozen.store(true, Ordering::SeqCst);
    wait(&mut proxy, &["40001: neither server has answered"]);
    let line = proxy.process.wait_line("40001 no SIP Server answers: server: ", START_MAX);
    assert!(line.contains(&format!("primary {first}: no answer in time; backup {second}: ")), "{line}");
    assert_eq!(proxy.metric("hawser_server_pair_out", "pair=\"server\""), 1.0);
    assert_eq!(proxy.metric("hawser_ready", ""), 1.0);

    let _backup = Server::start(backup_port);
    proxy
        .process
        .wait_line(&format!("40001 cleared: a SIP Server answers: server: backup {second}: it answers"), NOTICED_MAX);
    wait(&mut proxy, &["server: backup is active"]);
    assert_eq!(proxy.metric("hawser_server_up", "server=\"backup\""), 1.0);
    assert_eq!(proxy.metric("hawser_server_up", "server=\"primary\""), 0.0);
}
