//! Ports that are still held when Hawser starts: for a while by somebody else, and by a Hawser that was killed, whose
//! io_uring sockets the kernel lets go of late.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use super::stop::Running;
use super::{File, certificate, free_port, plain, with_tls};

/// A configuration with all four kinds of ports; the ports for SIP, TLS and HTTP.
fn all_kinds(pem: &File, key: &File) -> (String, [u16; 3]) {
    let (sip, http) = (free_port(), free_port());
    let text = with_tls(sip, pem.path(), key.path());
    let text = text.replace("http-port = 0", &format!("http-port = {http}"));
    let tls = text.lines().find_map(|line| line.strip_prefix("tls-port = ")).expect("it is there");
    let tls = tls.parse().expect("a port");
    (format!("{text}[log]\nlevel = \"debug\"\n"), [sip, tls, http])
}

/// Whatever holds a port while this is there.
enum Holder {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

#[test]
fn a_port_that_is_let_go_of_within_two_seconds_is_waited_for() {
    let (pem, key) = certificate("held");
    for kind in ["udp", "tcp", "tls", "http"] {
        let (text, [sip, tls, http]) = all_kinds(&pem, &key);
        let port = match kind {
            "tls" => tls,
            "http" => http,
            _ => sip,
        };
        let at = ("127.0.0.1", port);
        let holder = match kind {
            "udp" => Holder::Udp(UdpSocket::bind(at).expect("it was free")),
            _ => Holder::Tcp(TcpListener::bind(at).expect("it was free")),
        };
        let file = File::new(&format!("held-{kind}.toml"), &text);
        let mut child = Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(["--config", file.path()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let running = Running::of(child);
        let mut lines = lines.map(|line| line.expect("text"));
        let waits = format!("{kind} 127.0.0.1:{port} is still held");
        assert!(lines.any(|line| line.contains(&waits)), "{kind}: it does not wait");
        match holder {
            Holder::Udp(socket) => drop(socket),
            Holder::Tcp(listener) => drop(listener),
        }
        // It says so when it runs; or ends, and then there are no more lines.
        assert!(lines.any(|line| line.contains("capacity")), "{kind}: it does not start");
        running.signal("-KILL");
    }
}

#[test]
fn a_start_right_after_a_crash_finds_its_ports() {
    let port = free_port();
    let file = File::new("crash.toml", &plain(port));
    // Without the wait one in six fails, where a start is quick enough to come before the kernel.
    for _ in 0..20 {
        // `start` fails when it ends.
        let running = Running::start(&file, port);
        let connections: Vec<_> = (0..50)
            .map(|_| {
                let mut phone = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                phone.write_all(b"OPTIONS sip:a@example.com SIP/2.0\r\n").expect("it is connected");
                phone
            })
            .collect();
        running.signal("-KILL");
        assert_eq!(running.end().0, None, "a signal ended it");
        drop(connections);
    }
}
