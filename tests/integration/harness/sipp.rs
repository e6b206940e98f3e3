//! SIPp with the scenarios of `perf/scenarios`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{DOMAIN, START_MAX, Scratch, repository};

/// How long all calls of one scenario may take.
const RUN_MAX: Duration = Duration::from_secs(30);

/// SIPp's transport modes that the tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// UDP, one socket.
    Udp,
    /// TCP, one connection for all calls.
    Tcp,
    /// TCP, a connection for each call.
    TcpEach,
}

impl Mode {
    fn option(self) -> &'static str {
        match self {
            Self::Udp => "u1",
            Self::Tcp => "t1",
            Self::TcpEach => "tn",
        }
    }
}

/// A running SIPp.
#[derive(Debug)]
pub struct Sipp(Process);

impl Sipp {
    /// The SIP Server's side of `scenario`, on `port`, for so many calls. It is ready when this returns.
    pub fn server(scratch: &Scratch, scenario: &str, mode: Mode, port: u16, calls: u32) -> Self {
        let name = format!("{scenario}.server");
        let mut command = command(scratch, &name, mode, port, calls);
        command.arg("-key").args(["proxy", "unused"]);
        let mut process = start(scratch, &name, &command);
        let kind = if mode == Mode::Udp { Kind::Udp } else { Kind::Tcp };
        process.wait_until("listening", START_MAX, || is_bound(kind, port));
        Self(process)
    }

    /// The phones' side of `scenario`: so many phones, all through `to`. `proxy` is the address by which the proxy
    /// knows itself.
    pub fn phones(scratch: &Scratch, scenario: &str, mode: Mode, to: &str, proxy: &str, calls: u32) -> Self {
        let name = format!("{scenario}.phone");
        let mut command = command(scratch, &name, mode, free_port(), calls);
        command.args(["-s", "phone", "-r", "50", "-key", "proxy", proxy, to]);
        Self(start(scratch, &name, &command))
    }

    /// A device that did not register, at a loopback address of its own: SIPp's own scenario for who is called.
    pub fn device(scratch: &Scratch, mode: Mode, at: SocketAddr, calls: u32) -> Self {
        let mut command = Command::new("sipp");
        command
            .current_dir(scratch.path())
            .args(["-sn", "uas", "-t", mode.option(), "-i", &at.ip().to_string(), "-p", &at.port().to_string()])
            .args(["-cp", &free_port().to_string(), "-m", &calls.to_string(), "-nostdin", "-timer_resol", "1"])
            .args(["-timeout", &RUN_MAX.as_secs().to_string(), "-timeout_error"])
            .args(["-trace_err", "-error_file", "device.errors", "-trace_msg", "-message_file", "device.messages"]);
        let mut process = start(scratch, "device", &command);
        let kind = if mode == Mode::Udp { Kind::Udp } else { Kind::Tcp };
        process.wait_until("listening", START_MAX, || is_bound(kind, at.port()));
        Self(process)
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When a call failed.
    pub fn succeed(mut self) {
        let status = self.0.wait_exit(RUN_MAX + Duration::from_secs(10));
        assert!(status.success(), "{}: {status}", self.0.name());
    }
}

fn command(scratch: &Scratch, name: &str, mode: Mode, port: u16, calls: u32) -> Command {
    let mut command = Command::new("sipp");
    command
        .current_dir(scratch.path())
        .arg("-sf")
        .arg(repository("perf/scenarios").join(format!("{name}.xml")))
        .args(["-t", mode.option(), "-i", "127.0.0.1", "-p", &port.to_string(), "-cp", &free_port().to_string()])
        .args(["-key", "domain", DOMAIN, "-m", &calls.to_string(), "-nostdin", "-timer_resol", "1"])
        .args(["-timeout", &RUN_MAX.as_secs().to_string(), "-timeout_error", "-max_socket", "1000"])
        .args(["-trace_err", "-error_file", &format!("{name}.errors")])
        .args(["-trace_msg", "-message_file", &format!("{name}.messages")]);
    command
}

fn start(scratch: &Scratch, name: &str, command: &Command) -> Process {
    Process::start(&format!("sipp {name}"), command)
        .log(scratch.path().join(format!("{name}.errors")))
        .log(scratch.path().join(format!("{name}.messages")))
}
