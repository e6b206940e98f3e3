//! stunnel4: gives SIPp, which speaks no TLS here, a TLS connection for each of its TCP connections.

use std::fmt::Write as _;
use std::process::Command;

use super::certs::Certificates;
use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{START_MAX, Scratch};

/// A running stunnel4 and the port where it accepts.
#[derive(Debug)]
pub struct Stunnel {
    pub port: u16,
    _process: Process,
}

impl Stunnel {
    /// Accepts TCP and connects by TLS to `tls_port`, whose certificate it verifies.
    pub fn client(scratch: &Scratch, certificates: &Certificates, tls_port: u16) -> Self {
        let port = free_port();
        let service = format!(
            "client = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{tls_port}\n\
             verifyChain = yes\ncheckIP = 127.0.0.1\nCAfile = {}\n",
            certificates.ca.display()
        );
        Self::start(scratch, "stunnel-client", port, &service)
    }

    /// Accepts TLS on `port` and connects by TCP to `tcp_port`.
    pub fn server(scratch: &Scratch, certificates: &Certificates, port: u16, tcp_port: u16) -> Self {
        let service = format!(
            "accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{tcp_port}\ncert = {}\nkey = {}\n",
            certificates.certificate.display(),
            certificates.key.display()
        );
        Self::start(scratch, "stunnel-server", port, &service)
    }

    fn start(scratch: &Scratch, name: &str, port: u16, service: &str) -> Self {
        let mut settings = String::from("foreground = yes\npid =\nsyslog = no\nsocket = l:TCP_NODELAY=1\n");
        writeln!(settings, "socket = r:TCP_NODELAY=1\n[sip]\n{service}").expect("a String takes all");
        let file = scratch.write(&format!("{name}.conf"), &settings);
        let mut command = Command::new("stunnel4");
        command.arg(file);
        let mut process = Process::start(name, &command);
        process.wait_until("listening", START_MAX, || is_bound(Kind::Tcp, port));
        Self { port, _process: process }
    }
}
