//! Shards with real sockets on loopback, and the real engine in them. Every wait has a deadline.

mod datagram;
mod halves;
mod panic;
mod server_side;
pub mod stream;
mod tls;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::engine::Point;
use crate::config::{Config, Server};
use crate::ids::{ShardId, Transport};
use crate::stats::{Counter, Snapshot};
use crate::transport::socket;

pub const DEADLINE: Duration = Duration::from_secs(10);
/// From one look at the counters to the next, which costs the shards a snapshot each.
const LOOK_EVERY: Duration = Duration::from_millis(2);
pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Who waits for the sockets in these tests: `HAWSER_DRIVER`, for `scripts/test` plays them with each.
fn kind() -> Kind {
    match std::env::var("HAWSER_DRIVER").as_deref() {
        Ok("epoll") => Kind::Epoll,
        Ok("io_uring") | Err(_) => Kind::IoUring,
        Ok(other) => panic!("HAWSER_DRIVER is io_uring or epoll, not {other}"),
    }
}

/// Shards with a UDP, a TCP and a TLS point on ports of the system's choice.
struct Rig {
    shards: Shards,
    udp: SocketAddr,
    tcp: SocketAddr,
    tls: SocketAddr,
}

/// The SIP Server of a rig: an address where nobody is, unless a test has one.
pub fn nobody() -> Server {
    Server::at("sips1", "127.0.0.1:9".parse().unwrap(), Transport::Udp)
}

pub fn settings(shard: u8, shards: u8, points: Vec<Point>, server: Server) -> Settings {
    Settings {
        shard: ShardId(shard),
        shards,
        seed: [shard; 32],
        connections_max: 10_000,
        transactions_max: 10_000,
        unregistered_per_source_max: 10_000,
        ..Settings::plain(points, vec![server])
    }
}

impl Rig {
    fn start(count: u8) -> Self {
        Self::with(count, Tls::default(), nobody())
    }

    fn with(count: u8, tls: Tls, server: Server) -> Self {
        Self::all(kind(), count, tls, server, Duration::ZERO)
    }

    /// One shard whose sockets are waited for in this way, whichever the others have.
    fn of_kind(kind: Kind) -> Self {
        Self::all(kind, 1, Tls::default(), nobody(), Duration::ZERO)
    }

    fn gathering(gather: Duration) -> Self {
        Self::all(kind(), 1, Tls::default(), nobody(), gather)
    }

    fn all(kind: Kind, count: u8, tls: Tls, server: Server, gather: Duration) -> Self {
        let first = [
            Socket::Udp(socket::udp(loopback(), socket::TOS_UNSET).unwrap()),
            Socket::Listener(socket::listen(loopback(), socket::TOS_UNSET).unwrap()),
            Socket::Listener(socket::listen(loopback(), socket::TOS_UNSET).unwrap()),
        ];
        let address = |socket: &Socket| match socket {
            Socket::Udp(socket) | Socket::Listener(socket) => socket.local_addr().unwrap().as_socket().unwrap(),
        };
        let [udp, tcp, tls_address] = [address(&first[0]), address(&first[1]), address(&first[2])];
        let point = |transport, bind: SocketAddr| Point {
            transport,
            bind,
            advertised_host: bind.ip().to_string(),
            advertised_port: bind.port(),
            side: None,
        };
        let points = vec![point(Transport::Udp, udp), point(Transport::Tcp, tcp), point(Transport::Tls, tls_address)];
        let mut first = Some(Vec::from(first));
        let setups = (0..count).map(|shard| Setup {
            cpu: None,
            settings: settings(shard, count, points.clone(), server.clone()),
            sockets: first.take().unwrap_or_else(|| {
                vec![
                    Socket::Udp(socket::udp(udp, socket::TOS_UNSET).unwrap()),
                    Socket::Listener(socket::listen(tcp, socket::TOS_UNSET).unwrap()),
                    Socket::Listener(socket::listen(tls_address, socket::TOS_UNSET).unwrap()),
                ]
            }),
        });
        let common = Common { kind, tls, tos: socket::TOS_UNSET, gather, spin_before_park: Duration::ZERO };
        Self { shards: Shards::start(setups.collect(), &common).unwrap(), udp, tcp, tls: tls_address }
    }

    fn total(&self) -> Snapshot {
        let snapshots = self.shards.handle().snapshots();
        assert_eq!(snapshots.len(), self.shards.handle().shards(), "every shard answers");
        let mut total = Snapshot::default();
        for snapshot in &snapshots {
            total.counters.merge(&snapshot.counters);
            total.gauges.merge(&snapshot.gauges);
        }
        total
    }

    fn of(&self, counter: Counter) -> u64 {
        self.total().counters.of(counter)
    }

    fn wait_for(&self, counter: Counter, at_least: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.of(counter) < at_least {
            let all = self.total().counters;
            let some: Vec<_> = all.rows().filter(|(_, n)| *n > 0).map(|(row, n)| (row.name, row.labels, n)).collect();
            std::thread::park_timeout(LOOK_EVERY);
            assert!(Instant::now() < deadline, "in vain: {counter:?} reaches {at_least}; {some:#?}");
        }
    }
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Repeats what a signal has cut short: a read with a timeout ends so when this process is stopped and continued, or an
/// io_uring in it has work (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn udp_phone() -> UdpSocket {
    let socket = UdpSocket::bind(loopback()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The service check, which the proxy answers itself.
pub fn options(to: SocketAddr, transport: &str, branch: &str) -> String {
    format!(
        "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1:5999;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: {branch}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Certificates in a folder that goes when the test ends.
pub struct Certificates {
    folder: PathBuf,
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Certificates {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hawser-shard-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { folder, ca: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// A certificate of ours for this name, and what makes sessions with it.
    pub fn tls(&self, name: &str) -> Tls {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        let write = |name: &str, text: String| {
            let path = self.folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (cert, key) = (write("cert.pem", cert.pem()), write("key.pem", key.serialize_pem()));
        let ca = write("ca.pem", self.ca.pem());
        let text = format!(
            "[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\ntransport = \"tls\"\n\
             [security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\ntrusted-ca = {ca:?}\n"
        );
        let secrets = crate::tls::tickets::TicketSecrets { server: [1; 32], endpoint: [2; 32] };
        let config = Config::parse(&text, "hawser.toml").unwrap();
        crate::tls::setup::set_up(&config, &secrets, &Default::default()).unwrap().0
    }

    /// A phone's side of TLS, that trusts our CA.
    pub fn phone(&self) -> Arc<rustls::ClientConfig> {
        self.phone_of(rustls::DEFAULT_VERSIONS)
    }

    /// The settings of a phone that knows these versions only.
    fn phone_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}
