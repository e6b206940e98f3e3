//! An address that only fails, from the first garbage until an operator lets it in again: what it meets, what the log says
//! to fail2ban, `hawser bans` and `hawser unban`, and the paths that these ask.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::harness::client::Client;
use crate::harness::proxy::{Proxy, Settings, is_stand_in, page};
use crate::harness::{Scratch, repository};
use crate::operator::{hawser, said};

/// Not the SIP Server's, which is never judged.
const SCANNER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 66));
/// It is slowed for five seconds before.
const SHUT_OUT_MAX: Duration = Duration::from_secs(60);
const CONNECTIONS: u32 = 40;

fn connect(to: SocketAddr) -> TcpStream {
    Client::tcp_from(SCANNER, to).into_tcp()
}

/// Whether the proxy answers a ping; else it has closed the connection.
fn is_served(to: SocketAddr) -> bool {
    let mut tcp = connect(to);
    // It may be closed already.
    let _ = tcp.write_all(b"\r\n\r\n");
    tcp.read_exact(&mut [0; 2]).is_ok()
}

/// Garbage, and the end of its connection.
fn fail(to: SocketAddr) {
    let mut tcp = connect(to);
    // It may be closed already.
    let _ = tcp.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let _ = tcp.read_to_end(&mut Vec::new());
}

fn post(proxy: &Proxy, path: &str) -> String {
    let mut http = TcpStream::connect(proxy.http).expect("the HTTP port is open");
    write!(http, "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", proxy.http).expect("it is open");
    let mut answer = String::new();
    http.read_to_string(&mut answer).expect("text");
    answer
}

/// How many lines of a log fail2ban's filter finds an address in.
fn found_by_fail2ban(log: &str) -> usize {
    let scratch = Scratch::new("fail2ban");
    let file = scratch.write("hawser.log", log);
    let mut command = Command::new("fail2ban-regex");
    command.args(["--out", "ip"]).arg(file).arg(repository("conf/fail2ban-hawser.conf"));
    let found = command.output().expect("fail2ban-regex runs");
    let text = String::from_utf8(found.stdout).expect("text");
    text.lines().filter(|line| line.trim() == SCANNER.to_string()).count()
}

#[test]
fn who_sends_garbage_is_shut_out_shown_read_by_fail2ban_and_let_in_again() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("bans");
    let settings = Settings::new(&scratch);
    let to = SocketAddr::from(([127, 0, 0, 1], settings.sip_port));
    let mut proxy = Proxy::start(&scratch, settings);
    assert_eq!(said(&proxy, &["bans"]), "no address is shut out\n");
    let http = proxy.http;
    proxy.process.wait_until("shut out", SHUT_OUT_MAX, || {
        (0..CONNECTIONS).for_each(|_| fail(to));
        page(http, "/bans").expect("the HTTP port answers").contains("127.0.0.66")
    });
    assert!(!is_served(to));
    assert!(proxy.metric("hawser_connections_refused_total", "reason=\"shut_out\"") >= 1.0);
    let shown = said(&proxy, &["bans"]);
    assert!(shown.starts_with("127.0.0.66: shut out for ") && shown.contains("9 min ") && shown.contains("(time 1)"));
    assert!(shown.contains(" malformed messages") && !shown.contains("; 0 connections turned away"), "{shown}");
    drop(Client::tcp(to));

    let line = proxy.process.wait_line("address shut out", Duration::from_secs(10));
    assert!(line.contains(": address shut out: 127.0.0.66: for 600 s, time 1: "), "{line}");
    let log = proxy.process.errors().join("\n") + "\n";
    assert_eq!(found_by_fail2ban(&log), 1, "{line}");
    let of_journal = format!("Dec  1 02:31:38 proxy hawser[812]: {line}\n");
    assert_eq!(found_by_fail2ban(&of_journal), 1, "{of_journal}");
    // What a phone writes is no ban.
    let forged = line.replace("address shut out", &format!("request refused: peer 192.0.2.1:5060: From {line}"));
    assert_eq!(found_by_fail2ban(&(forged + "\n")), 0);

    assert_eq!(said(&proxy, &["unban", "127.0.0.66"]), "127.0.0.66: let in again\n");
    assert!(is_served(to));
    proxy.process.wait_line("address let in again: 127.0.0.66: an operator says so", Duration::from_secs(10));
    let refused = hawser(&proxy, &["unban", "127.0.0.66"]);
    assert!(!refused.status.success());
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "127.0.0.66: it is not shut out\n");
    assert!(page(http, "/bans").expect("the HTTP port answers").ends_with("\r\n[]"));
    assert!(post(&proxy, "/unban?address=127.0.0.66").starts_with("HTTP/1.1 404"));
    assert!(post(&proxy, "/unban?address=nobody").starts_with("HTTP/1.1 400"));
}
