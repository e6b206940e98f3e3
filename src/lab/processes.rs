//! Other programs that a scenario starts: Hawser itself, and dnsmasq. Each ends with the value that stands for it.
//!
//! Owns: starting, waiting until one is ready, signals, the end. Must not touch: what they are set to.

use crate::scenario::Ended;
use crate::watch;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);
const END_MAX: Duration = Duration::from_secs(8);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Ports are sought from here on, below the range of outgoing connections.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 32_000;
const LOG_TAIL: usize = 15;

/// A running program.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it with its output in a file of `dir`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Ended<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|fault| format!("{}: {fault}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until `is_ready`.
    ///
    /// # Errors
    /// It ended, or is not ready in time; with the last of what it wrote.
    pub fn wait(&mut self, mut is_ready: impl FnMut() -> bool) -> Ended<()> {
        let until = Instant::now() + START_MAX;
        while !is_ready() {
            if self.child.try_wait()?.is_some() || Instant::now() > until {
                return Err(format!("{} does not start:\n{}", self.name, self.tail()).into());
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(())
    }

    /// The end of what it wrote.
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        // The process has ended already, or does now.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, such as HUP; says whether it was taken.
    pub fn signal(&self, name: &str) -> bool {
        let script = ["-c", "kill -s \"$1\" \"$2\"", "kill", name, &self.child.id().to_string()];
        Command::new("sh").args(script).status().is_ok_and(|status| status.success())
    }

    /// Asks it to end (SIGTERM); says whether it did so in order.
    pub fn stop(&mut self) -> bool {
        if self.signal("TERM") {
            let until = Instant::now() + END_MAX;
            while Instant::now() < until {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return status.success();
                }
                std::thread::sleep(POLL_EVERY);
            }
        }
        self.kill();
        false
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts Hawser with the settings in NAME.toml of that folder, and waits until it says that it is ready.
///
/// # Errors
/// It ended, or is not ready in time.
pub fn hawser(binary: &Path, dir: &Path, name: &str, http: SocketAddr) -> Ended<Program> {
    let file = dir.join(format!("{name}.toml"));
    let mut program = Program::start(dir, name, Command::new(binary).arg("--config").arg(&file))?;
    program.wait(|| watch::fetch(&format!("http://{http}/readyz")).is_ok())?;
    Ok(program)
}

/// What `hawser pool-zone` says of these proxies' files.
///
/// # Errors
/// It does not run, or ends with another status than 0.
pub fn pool_zone(binary: &Path, domain: &str, further: &[&str], files: &[PathBuf]) -> Ended<String> {
    let said = Command::new(binary).args(["pool-zone", "--domain", domain]).args(further).args(files).output()?;
    if !said.status.success() {
        return Err(format!("pool-zone {}: {}", further[0], String::from_utf8_lossy(&said.stderr)).into());
    }
    Ok(String::from_utf8(said.stdout)?)
}

/// A port that is free on every one of these addresses, and the `count - 1` after it too.
///
/// # Errors
/// There is none.
pub fn free_ports(addresses: &[IpAddr], count: u16) -> Ended<u16> {
    // Two that are started one after the other look in different places.
    let start = PORT_FIRST + (std::process::id().wrapping_mul(61) % 4_000) as u16;
    let is_free = |port: u16| {
        addresses.iter().all(|&ip| TcpListener::bind((ip, port)).is_ok() && UdpSocket::bind((ip, port)).is_ok())
    };
    (start..PORT_LAST)
        .step_by(usize::from(count))
        .find(|&first| (first..first + count).all(is_free))
        .ok_or_else(|| "no free port".into())
}

/// Starts dnsmasq with these lines as all that it knows.
///
/// # Errors
/// It is not installed, or did not start.
pub fn dnsmasq(dir: &Path, port: u16, lines: &str) -> Ended<Program> {
    let file = dir.join("dnsmasq.conf");
    fs::write(&file, lines)?;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.env("PATH", path).args(["-c", "exec dnsmasq \"$@\"", "dnsmasq", "--keep-in-foreground"]);
    command.arg(format!("--conf-file={}", file.display())).arg(format!("--port={port}"));
    command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="]);
    command.args(["--log-facility=-", "--user=root"]);
    let mut program = Program::start(dir, "dnsmasq", &mut command)?;
    // The program's port is taken once it listens.
    program.wait(|| UdpSocket::bind(("127.0.0.1", port)).is_err())?;
    Ok(program)
}

/// A folder that goes with this value.
pub struct Scratch(PathBuf);

impl Scratch {
    /// # Errors
    /// It cannot be made.
    pub fn new(what: &str) -> Ended<Self> {
        let path = std::env::temp_dir().join(format!("hawser-lab-{what}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system clears its temporary folder in any case.
        fs::remove_dir_all(&self.0).ok();
    }
}
