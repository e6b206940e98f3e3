//! One SIP Server of a pair, a process of its own (`hawser-lab server`): so that it can be stopped and killed in
//! earnest.
//!
//! Owns: the process, its orders and what it says. Must not touch: what follows from that.

use crate::bench::Place;
use crate::certs::TlsFiles;
use crate::scenario::Ended;
use crossbeam_channel::Receiver;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(10);
const SAID_MAX: usize = 65_536;

/// The process; killed when it is dropped.
pub struct SipServer {
    child: Child,
    said: Receiver<Value>,
    /// Where it takes orders from its partner.
    pub control: SocketAddr,
}

impl SipServer {
    /// Starts it and waits until it listens; `waker` rings when it says something.
    ///
    /// # Errors
    /// It ended, or did not listen in time.
    pub fn start(listen: &[Place], tls: &TlsFiles, further: &[String], waker: Arc<mio::Waker>) -> Ended<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["server", "--control", "127.0.0.1:0"]).args(further);
        for place in listen {
            command.args(["--listen", &format!("{}:{}", place.transport.param(), place.addr)]);
        }
        for (option, file) in [("--ca", &tls.ca), ("--cert", &tls.cert), ("--key", &tls.key)] {
            if let Some(file) = file {
                command.arg(option).arg(file);
            }
        }
        if let Some(name) = &tls.tls_name {
            command.args(["--tls-name", name]);
        }
        if tls.mutual {
            command.arg("--mutual");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, said) = crossbeam_channel::bounded(SAID_MAX);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                // Nobody listens any more, or nobody can be woken: the run is over.
                if tell.send(value).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        });
        // From here on the child ends with this value, also when it does not come up.
        let mut server = Self { child, said, control: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let until = Instant::now() + START_MAX;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let value = server.said.recv_timeout(left).map_err(|_| "a SIP Server did not start")?;
            if let Some(addr) = value["control"].as_str() {
                server.control = addr.parse()?;
                return Ok(server);
            }
        }
    }

    /// Tells each of a pair where the other takes orders.
    pub fn introduce([one, other]: [&mut Self; 2]) {
        one.order(&format!("partner {}", other.control));
        other.order(&format!("partner {}", one.control));
    }

    /// Gives an order. One that has died does not take it, which is what the run is about.
    pub fn order(&mut self, text: &str) {
        if let Some(stdin) = &mut self.child.stdin {
            writeln!(stdin, "{text}").and_then(|()| stdin.flush()).ok();
        }
    }

    /// What it has said since the last call.
    pub fn poll_said(&mut self) -> Option<Value> {
        self.said.try_recv().ok()
    }

    /// Sends a signal, such as STOP.
    ///
    /// # Errors
    /// The shell did not run, or the process is gone.
    pub fn signal(&mut self, name: &str) -> Ended<()> {
        let script = "kill -s \"$1\" \"$2\"";
        let status = Command::new("sh").args(["-c", script, "kill", name, &self.child.id().to_string()]).status()?;
        if !status.success() {
            return Err(format!("SIG{name} was not taken").into());
        }
        Ok(())
    }

    /// Ends it at once (SIGKILL), and waits for its end.
    pub fn kill(&mut self) {
        // The process has ended already, or does now.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for SipServer {
    fn drop(&mut self) {
        self.kill();
    }
}
