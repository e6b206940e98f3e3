//! The proxy under test: Hawser's own program on free ports, or Kamailio's edge in its place.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::certs::Certificates;
use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{DOMAIN, START_MAX, Scratch, repository};

/// Ports and files of one proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    pub sip_port: u16,
    pub tls_port: u16,
    pub http_port: u16,
    /// The SIP Server's port on loopback.
    pub server_port: u16,
    /// The port of its backup, also on loopback.
    pub backup_port: Option<u16>,
    /// `udp`, `tcp` or `tls`.
    pub internal_protocol: &'static str,
    pub certificates: Certificates,
    /// Seconds between service checks; 0, for SIPp takes an OPTIONS for a failed call.
    pub oos_check: u32,
    /// Further lines of the section `[sipproxy]`.
    pub more: String,
}

impl Settings {
    /// Free ports, a SIP Server that is not there yet, UDP as the internal protocol.
    pub fn new(scratch: &Scratch) -> Self {
        Self {
            sip_port: free_port(),
            tls_port: free_port(),
            http_port: free_port(),
            server_port: free_port(),
            backup_port: None,
            internal_protocol: "udp",
            certificates: Certificates::new(scratch),
            oos_check: 0,
            more: String::new(),
        }
    }

    /// The settings as Hawser reads them.
    pub fn toml(&self) -> String {
        let mut toml = String::new();
        let Certificates { ca, certificate, key, .. } = &self.certificates;
        write!(
            toml,
            r#"[sipproxy]
sip-address = "127.0.0.1"
sip-port = {sip}
tls-port = {tls}
http-port = {http}
domains = ["{DOMAIN}"]
cores = "all"
internal-protocol = "{internal}"
oos-check = {oos_check}
{more}

[[sip-server]]
name = "server"
primary = "127.0.0.1:{server}"
{backup}

[security]
certificate = {certificate:?}
certificate-key = {key:?}
trusted-ca = {ca:?}
"#,
            sip = self.sip_port,
            tls = self.tls_port,
            http = self.http_port,
            internal = self.internal_protocol,
            oos_check = self.oos_check,
            more = self.more,
            server = self.server_port,
            backup = self.backup_port.map(|port| format!("backup = \"127.0.0.1:{port}\"")).unwrap_or_default(),
        )
        .expect("a String takes all");
        toml
    }
}

/// Whether Kamailio stands in for Hawser.
pub fn is_stand_in() -> bool {
    std::env::var_os("HAWSER_TEST_EDGE").is_some_and(|edge| edge == "kamailio")
}

/// Hawser's program with a settings file; it may fail to start.
pub fn hawser(settings: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    command.arg("--config").arg(settings).env("RUST_BACKTRACE", "1");
    Process::start("hawser", &command)
}

/// A proxy that is ready.
#[derive(Debug)]
pub struct Proxy {
    pub settings: Settings,
    pub http: SocketAddr,
    pub process: Process,
}

impl Proxy {
    /// Starts it and waits until it says that it is ready.
    pub fn start(scratch: &Scratch, settings: Settings) -> Self {
        if is_stand_in() {
            return Self::start_kamailio(scratch, settings);
        }
        let toml = settings.toml();
        Self::start_with(scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml)
    }

    /// Starts Hawser with a text of settings, which puts the HTTP port at this address.
    pub fn start_with(scratch: &Scratch, settings: Settings, http_ip: IpAddr, toml: &str) -> Self {
        let file: PathBuf = scratch.write("hawser.toml", toml);
        let mut process = hawser(&file);
        let http = SocketAddr::from((http_ip, settings.http_port));
        process.wait_until("ready", START_MAX, || {
            page(http, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        let proxy = Self { settings, http, process };
        proxy.check_driver(toml);
        proxy
    }

    /// Starts Kamailio's edge, which stands where Hawser would.
    pub fn start_kamailio(scratch: &Scratch, settings: Settings) -> Self {
        let Settings { sip_port, tls_port, server_port, internal_protocol, .. } = &settings;
        let mut command = Command::new("kamailio");
        command
            .arg("-f")
            .arg(repository("perf/kamailio/edge.cfg"))
            .args(["-DD", "-E", "-x", "fm", "-m", "64", "-M", "8"])
            .args(["-l", &format!("udp:127.0.0.1:{sip_port}"), "-l", &format!("tcp:127.0.0.1:{sip_port}")])
            .args(["-l", &format!("tls:127.0.0.1:{tls_port}")])
            .args(["-A", &format!("SERVER=\"sip:127.0.0.1:{server_port};transport={internal_protocol}\"")])
            .args(["-A", "SERVER_IP=\"127.0.0.1\"", "-A", &format!("SERVER_PORT={server_port}")])
            .args(["-A", &format!("CERTIFICATE={:?}", settings.certificates.certificate)])
            .args(["-A", &format!("KEY={:?}", settings.certificates.key)])
            .args(["-A", "WORKERS=2", "-Y"])
            .arg(scratch.path());
        let mut process = Process::start("kamailio as the edge", &command);
        let (sip_port, tls_port) = (*sip_port, *tls_port);
        process.wait_until("listening", START_MAX, || {
            is_bound(Kind::Udp, sip_port) && is_bound(Kind::Tcp, sip_port) && is_bound(Kind::Tcp, tls_port)
        });
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.http_port));
        Self { settings, http, process }
    }

    /// The sum of a counter's samples whose labels hold `label`, from `/metrics`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let page = page(self.http, "/metrics").expect("the HTTP port answers");
        let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
        let values: Vec<f64> =
            samples.map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Option<_>>().expect("numbers");
        assert!(!values.is_empty(), "no {name} with {label} in {page}");
        values.iter().sum()
    }

    /// The whole of these tests runs once more where too little memory may be locked for io_uring (scripts/test, with
    /// `HAWSER_DRIVER=epoll`): is it so?
    fn check_driver(&self, toml: &str) {
        if std::env::var("HAWSER_DRIVER").as_deref() != Ok("epoll") {
            return;
        }
        // Whoever needs a token for the page is passed over.
        let info = page(self.http, "/metrics").filter(|_| !toml.contains("\ndriver = "));
        if let Some(page) = info.filter(|page| page.contains("hawser_build_info")) {
            assert!(page.contains("driver=\"epoll\""), "another driver runs");
        }
    }

    /// The port for UDP and TCP, as a SIP address.
    pub fn sip(&self) -> String {
        format!("127.0.0.1:{}", self.settings.sip_port)
    }
}

/// A page of the HTTP port; `None` when it does not answer.
pub fn page(to: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    String::from_utf8(answer).ok()
}
