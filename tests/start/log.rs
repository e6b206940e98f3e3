//! The log: what a level shows, and a stderr that nobody reads.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::stop::Running;
use super::{File, free_port, plain};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the proxy itself, and waits for the answer.
fn options(phone: &UdpSocket, port: u16, turn: u32) -> String {
    let request = format!(
        "OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKl{turn};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:a@example.com>;tag=1\r\nTo: <sip:127.0.0.1:{port}>\r\nCall-ID: l{turn}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n",
        phone.local_addr().expect("bound")
    );
    let mut buffer = [0; 2_048];
    loop {
        phone.send_to(request.as_bytes(), ("127.0.0.1", port)).expect("it is sent");
        if let Ok(len) = phone.recv(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..len]).into_owned();
        }
    }
}

#[test]
fn a_stderr_that_nobody_reads_stops_no_shard_and_no_end() {
    let (port, http) = (free_port(), free_port());
    let text = plain(port).replace("http-port = 0", &format!("http-port = {http}"));
    let file = File::new("unread.toml", &format!("{text}[log]\nlevel = \"trace\"\n"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["--config", file.path(), "--cores", "0"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is there");
    let mut unread = child.stderr.take().expect("piped");
    let running = Running::of(child);
    let phone = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    phone.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // More lines than the pipe and the queue take.
    let mut turn = 0;
    let lost = loop {
        for _ in 0..2_000 {
            turn += 1;
            assert!(options(&phone, port, turn).starts_with("SIP/2.0 "), "it answers");
        }
        let mut asked = TcpStream::connect(("127.0.0.1", http)).expect("it listens");
        asked.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        asked.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("it reads");
        let mut page = String::new();
        asked.read_to_string(&mut page).expect("it answers");
        let lost = page.lines().find_map(|line| line.strip_prefix("hawser_log_lost_total ")).expect("it is there");
        let lost: u64 = lost.parse().expect("a number");
        if lost > 0 {
            break lost;
        }
        assert!(turn < 50_000, "nothing is lost");
    };
    running.signal("-TERM");
    let (status, _) = running.end();
    assert_eq!(status, Some(0), "{lost} lines were lost");
    let mut got = String::new();
    unread.read_to_string(&mut got).expect("text");
    assert!(got.contains("message received: peer 127.0.0.1:"), "{}", &got[..got.len().min(2_000)]);
}
