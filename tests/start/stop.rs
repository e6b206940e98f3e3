//! The limits of the system that a start needs, and the signals that end a run.

use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{File, free_port, plain};

const DEADLINE: Duration = Duration::from_secs(20);
/// DESIGN.md, Settings: what is in flight finishes for up to 5 s.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A running program, killed when the test ends before it.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    pub fn of(child: Child) -> Self {
        Self(child)
    }

    /// Started, and answering on its port.
    pub fn start(file: &File, sip_port: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(["--config", file.path(), "--cores", "all"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is there");
        let mut running = Self(child);
        let phone = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        phone.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let deadline = Instant::now() + DEADLINE;
        loop {
            drop(phone.send_to(b"\r\n\r\n", ("127.0.0.1", sip_port)));
            if phone.recv(&mut [0; 4]).is_ok() {
                return running;
            }
            assert_eq!(running.0.try_wait().expect("it is ours"), None, "it has ended");
            assert!(Instant::now() < deadline, "it does not answer");
        }
    }

    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.0.id().to_string()]).status().expect("there is kill");
        assert!(killed.success());
    }

    /// Its status, and how long it took from now.
    pub fn end(mut self) -> (Option<i32>, Duration) {
        let since = Instant::now();
        let (done, ended) = mpsc::channel();
        let id = self.0.id().to_string();
        let watch = thread::spawn(move || {
            if ended.recv_timeout(DEADLINE).is_err() {
                drop(Command::new("kill").args(["-KILL", &id]).status());
            }
        });
        let status: ExitStatus = self.0.wait().expect("it is ours");
        done.send(()).expect("the watch waits");
        watch.join().expect("the watch ends");
        (status.code(), since.elapsed())
    }
}

#[test]
fn sigterm_and_sigint_end_an_idle_proxy_at_once_with_status_0() {
    for name in ["-TERM", "-INT"] {
        let port = free_port();
        let file = File::new(&format!("stop{name}.toml"), &plain(port));
        let running = Running::start(&file, port);
        running.signal("-HUP");
        running.signal(name);
        let (status, took) = running.end();
        assert_eq!(status, Some(0), "{name}");
        assert!(took < DRAIN_MAX, "nothing was in flight: {took:?}");
    }
}

#[test]
fn what_is_in_flight_has_five_seconds_unless_a_second_signal_comes() {
    // A SIP Server that never answers.
    let server = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let address = server.local_addr().expect("bound").to_string();
    for second in [false, true] {
        let port = free_port();
        let file = File::new(&format!("flight-{second}.toml"), &plain(port).replace("127.0.0.1:1", &address));
        let running = Running::start(&file, port);
        let phone = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        let invite = format!(
            "INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKflight{second};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\n\
             Call-ID: flight{second}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1>\r\nContent-Length: 0\r\n\r\n",
            phone.local_addr().expect("bound")
        );
        phone.send_to(invite.as_bytes(), ("127.0.0.1", port)).expect("it is sent");
        let mut buffer = [0; 4096];
        loop {
            let length = match server.recv(&mut buffer) {
                // As it does when this process is stopped and continued (signal(7)).
                Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
                received => received.expect("the INVITE arrives"),
            };
            if String::from_utf8_lossy(&buffer[..length]).contains(&format!("flight{second}")) {
                break;
            }
        }
        running.signal("-TERM");
        // It has taken the first signal when it says that it takes no new work any more.
        if second {
            let phone = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
            phone.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            let deadline = Instant::now() + DEADLINE;
            for turn in 0.. {
                let options = format!(
                    "OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKd{turn};rport\r\n\
                     Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag=1\r\nTo: <sip:127.0.0.1:{port}>\r\n\
                     Call-ID: d{turn}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
                    phone.local_addr().expect("bound")
                );
                phone.send_to(options.as_bytes(), ("127.0.0.1", port)).expect("it is sent");
                let answer = phone.recv(&mut buffer).map(|length| buffer[..length].starts_with(b"SIP/2.0 503"));
                if answer.unwrap_or(false) {
                    break;
                }
                assert!(Instant::now() < deadline, "it never drains");
            }
            running.signal("-TERM");
        }
        let (status, took) = running.end();
        let (want, in_time) = if second { (130, took < DRAIN_MAX / 2) } else { (0, took >= DRAIN_MAX / 2) };
        assert_eq!(status, Some(want));
        assert!(in_time && took < DRAIN_MAX * 2, "second signal: {second}, took {took:?}");
    }
}

#[test]
fn limits_that_are_too_low_name_their_mend() {
    for (limit, driver, mend) in [("-n 100", "auto", "LimitNOFILE"), ("-l 64", "io_uring", "LimitMEMLOCK=64M")] {
        let text = plain(free_port()).replacen("\n", &format!("\ndriver = \"{driver}\"\n"), 1);
        let file = File::new(&format!("limit{limit}.toml").replace(' ', ""), &text);
        let command = format!("ulimit {limit} && exec {} --config {}", env!("CARGO_BIN_EXE_hawser"), file.path());
        let mut child = Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut err = String::new();
        // The pipe ends with the process, which the guard ends should the test fail.
        let mut pipe = child.stderr.take().expect("piped");
        let running = Running(child);
        pipe.read_to_string(&mut err).expect("stderr is text");
        let (status, _) = running.end();
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains(mend) && err.lines().count() == 1, "{limit}: {err}");
    }
}
