//! The settings as they are used: typed, whole, and with the defaults in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::value::{
    ClientAor, ClientEku, Cores, DriverChoice, HepWhat, Host, LogFormat, LogLevel, Network, ServerAddress, Sticky,
    UdpOversize, Verify,
};
use crate::ids::{SetupId, Side, Transport};

/// A whole configuration, valid in itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[sipproxy]`, but for what is in [`Config::listeners`].
    pub sipproxy: SipProxy,
    /// `[[listener]]`; without any, the one that `[sipproxy]` describes. At least one, with a port that is on.
    pub listeners: Vec<Listener>,
    /// `[[sip-server]]`, at least one.
    pub servers: Vec<Server>,
    /// `[[peer-proxy]]`.
    pub peers: Vec<PeerProxy>,
    /// `[[device]]`.
    pub devices: Vec<Device>,
    /// `[[network]]`.
    pub networks: Vec<NetworkRule>,
    /// `[security]`.
    pub security: Security,
    /// `[dns]`.
    pub dns: Dns,
    /// `[timers]`.
    pub timers: Timers,
    /// `[hep]`.
    pub hep: Hep,
    /// `[log]`.
    pub log: Log,
}

/// `[sipproxy]`.
#[derive(Clone, Debug)]
pub struct SipProxy {
    /// Bound, and where connections to servers come from.
    pub sip_address: IpAddr,
    /// 0 = off.
    pub http_port: u16,
    /// Where `http_port` is bound.
    pub http_address: IpAddr,
    /// HTTPS.
    pub http_tls: bool,
    /// The file with the bearer token.
    pub http_token_file: Option<PathBuf>,
    /// HTTP on an address that is not loopback is wanted.
    pub http_in_the_clear: bool,
    /// Names that mean us or our pool, in lower case; IPv6 in brackets.
    pub domains: Vec<String>,
    /// Which cores get a shard.
    pub cores: Cores,
    /// What the shards wait with.
    pub driver: DriverChoice,
    /// Where a server does not say otherwise; [`Server::transport`] has it in.
    pub internal_protocol: Transport,
    /// How the SIP Server finds the way back.
    pub sticky: Sticky,
    /// Whether `Supported: path` is added.
    pub path_add_supported: bool,
    /// `None`: a key of this start.
    pub flow_token_key_file: Option<PathBuf>,
    /// Zero = off.
    pub flow_grace: Duration,
    /// Zero = off.
    pub oos_check: Duration,
    /// Between attempts while no server answers.
    pub oos_force: Duration,
    /// INVITE/s; 0 = off.
    pub overload_ctrl_dialog_rate: u32,
    /// `None`: left to the system.
    pub sip_ip_tos: Option<u8>,
    /// Index into [`Config::servers`].
    pub serving_sipserver: Option<usize>,
    /// Further sources that count as the server side.
    pub trusted_sources: Vec<Network>,
    /// What becomes of large requests over UDP.
    pub udp_oversize_action: UdpOversize,
    /// Zero = park at once.
    pub spin_before_park: Duration,
    /// Zero = no wait.
    pub gather: Duration,
}

/// A listening address with its ports.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The one side that it serves; `None` for both.
    pub side: Option<Side>,
    /// Bound.
    pub address: IpAddr,
    /// Written into Via, Record-Route and Path in place of `address`.
    pub advertise: Option<Host>,
    /// UDP and TCP; 0 = off.
    pub sip_port: u16,
    /// 0 = off.
    pub tls_port: u16,
}

impl Listener {
    /// Transports with the address that each is bound to; those that are off left out.
    pub fn sockets(&self) -> impl Iterator<Item = (Transport, SocketAddr)> + use<> {
        let ports = [(Transport::Udp, self.sip_port), (Transport::Tcp, self.sip_port), (Transport::Tls, self.tls_port)];
        let address = self.address;
        ports.into_iter().filter(|(_, port)| *port != 0).map(move |(by, port)| (by, SocketAddr::new(address, port)))
    }

    /// The host part as it is written into Via, Record-Route and Path.
    #[must_use]
    pub fn advertised_host(&self) -> String {
        match &self.advertise {
            Some(host) => host.to_string(),
            None => Host::Ip(self.address).to_string(),
        }
    }

    /// The port of a transport; 0 = off.
    #[must_use]
    pub fn port(&self, transport: Transport) -> u16 {
        match transport {
            Transport::Udp | Transport::Tcp => self.sip_port,
            Transport::Tls => self.tls_port,
        }
    }
}

/// A SIP Server pair.
#[derive(Clone, Debug)]
pub struct Server {
    /// Unique.
    pub name: String,
    /// Address or name.
    pub primary: ServerAddress,
    /// The partner of `primary`.
    pub backup: Option<ServerAddress>,
    /// The pair's own or `internal-protocol`.
    pub transport: Transport,
    /// What its certificate must carry; `None`: the name or address of `primary`.
    pub tls_name: Option<Host>,
    /// How far its certificate is checked.
    pub verify: Verify,
    /// What is its own of TLS; `None`: all is as for the server side.
    pub setup: Option<PeerSetup>,
}

impl Server {
    /// One without a partner, at an address.
    #[must_use]
    pub fn at(name: &str, address: SocketAddr, transport: Transport) -> Self {
        Self {
            name: name.to_owned(),
            primary: ServerAddress::Address(address),
            backup: None,
            transport,
            tls_name: None,
            verify: Verify::Name,
            setup: None,
        }
    }

    /// What the certificate of its primary or backup must carry.
    #[must_use]
    pub fn tls_peer(&self, target: &ServerAddress) -> TlsPeer {
        let target = match target {
            ServerAddress::Address(address) => Host::Ip(address.ip()),
            ServerAddress::Name(name, _) => Host::Name(name.clone()),
        };
        TlsPeer {
            side: Side::Server,
            setup: self.setup.map(|setup| setup.id),
            expected: Expected::of(self.tls_name.as_ref(), &target),
            verify: self.verify,
        }
    }
}

/// The proxy of another site.
#[derive(Clone, Debug)]
pub struct PeerProxy {
    /// Unique.
    pub name: String,
    /// The SIP Servers behind it.
    pub servers: Vec<IpAddr>,
    /// Where it is.
    pub contact: Host,
    /// How it is reached.
    pub protocol: Transport,
    /// The site's TLS port; `None`: what the DNS says of its name (RFC 3263), 5061 for an address.
    pub port_tls: Option<u16>,
    /// What its certificate must carry; `None`: `contact`.
    pub tls_name: Option<Host>,
    /// How far its certificate is checked.
    pub verify: Verify,
    /// What is its own of TLS; `None`: all is as for the endpoint side.
    pub setup: Option<PeerSetup>,
}

impl PeerProxy {
    /// What its certificate must carry.
    #[must_use]
    pub fn tls_peer(&self) -> TlsPeer {
        let expected = Expected::of(self.tls_name.as_ref(), &self.contact);
        TlsPeer { side: Side::Endpoint, setup: self.setup.map(|setup| setup.id), expected, verify: self.verify }
    }

    /// The port that it is reached at, when its contact does not say otherwise.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port_tls.filter(|_| self.protocol == Transport::Tls).unwrap_or(self.protocol.default_port())
    }
}

/// What the certificate of a peer must carry, from the settings and never from DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A host name.
    Name(String),
    /// An address, for a target that is given as one.
    Address(IpAddr),
}

impl Expected {
    /// The name that is set for a target, else the target itself.
    #[must_use]
    pub fn of(tls_name: Option<&Host>, target: &Host) -> Self {
        match tls_name.unwrap_or(target) {
            Host::Ip(ip) => Self::Address(*ip),
            Host::Name(name) => Self::Name(name.clone()),
        }
    }
}

/// What a connection over TLS that we open must find at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPeer {
    /// Whose trust and certificate of ours count, unless it has its own.
    pub side: Side,
    /// What is its own.
    pub setup: Option<SetupId>,
    /// Whom the certificate must name, and whom we ask for.
    pub expected: Expected,
    /// `Chain` leaves out the name, never the chain.
    pub verify: Verify,
}

/// A rule for devices that do not register.
#[derive(Clone, Debug)]
pub struct Device {
    /// The devices' addresses.
    pub network: Network,
    /// What their certificates must carry; `None`: the target of the request.
    pub tls_name: Option<Host>,
    /// How far their certificates are checked.
    pub verify: Verify,
    /// What is their own of TLS; `None`: all is as for the endpoint side.
    pub setup: Option<PeerSetup>,
}

/// What the addresses of a network may have, each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    /// The smallest one that holds an address counts.
    pub network: Network,
    /// Connections without a binding.
    pub unregistered_max: u32,
    /// TLS handshakes in the air, of a shard.
    pub handshakes_max: usize,
    /// What comes from here is of a load balancer, and begins with a PROXY header that says whose it is.
    pub proxy_protocol: bool,
    /// Who only fails is slowed and shut out; never a load balancer.
    pub bans: bool,
}

impl NetworkRule {
    /// The one that counts for an address, if there is any.
    #[must_use]
    pub fn at(rules: &[Self], ip: IpAddr) -> Option<&Self> {
        let hold = rules.iter().filter(|rule| rule.network.contains(ip));
        hold.max_by_key(|rule| rule.network.prefix_len)
    }
}

/// Which set-up of TLS is a peer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// Peers whose files are the same have the same.
    pub id: SetupId,
    /// Others are trusted with its name than with those of its side: `trusted-ca`, `system-roots` or `crl` differ.
    pub own_trust: bool,
}

/// The files of a set-up: those of a side, or what a peer has in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSecurity {
    /// PEM, shown to the peer when it asks; there if and only if `certificate_key` is.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub certificate_key: Option<PathBuf>,
    /// Whom the peer's certificate must be of.
    pub trust: TrustFiles,
    /// The side's: a peer has none of its own.
    pub key_log_file: Option<PathBuf>,
}

/// Where it stands which CAs are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustFiles {
    /// PEM.
    pub trusted_ca: Option<PathBuf>,
    /// The system's CAs count too.
    pub system_roots: bool,
    /// PEM or DER.
    pub crl: Option<PathBuf>,
}

impl TrustFiles {
    /// Whether anybody is trusted.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.trusted_ca.is_some() || self.system_roots
    }
}

/// `[security]`, with the overrides of each side in.
#[derive(Clone, Debug)]
pub struct Security {
    /// Towards SIP Servers.
    pub server: SideSecurity,
    /// Towards endpoints.
    pub endpoint: SideSecurity,
    /// What a certificate of an endpoint must cover.
    pub client_aor: ClientAor,
    /// Certificates by domain.
    pub sni: Vec<Sni>,
    /// What peers have of their own, each different set-up once.
    pub peers: Vec<PeerSecurity>,
}

impl Security {
    /// The settings of one side.
    #[must_use]
    pub fn side(&self, side: Side) -> &SideSecurity {
        match side {
            Side::Server => &self.server,
            Side::Endpoint => &self.endpoint,
        }
    }

    /// What connections that we open are made with: a peer's own, else what is set for its side.
    #[must_use]
    pub fn outbound(&self, side: Side, setup: Option<SetupId>) -> PeerSecurity {
        let own = setup.and_then(|id| self.peers.get(usize::from(id.0)));
        own.cloned().unwrap_or_else(|| self.side(side).outbound())
    }
}

/// TLS of one side.
#[derive(Clone, Debug)]
pub struct SideSecurity {
    /// Client certificates are verified.
    pub tls_mutual: bool,
    /// PEM; there if and only if `certificate_key` is.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub certificate_key: Option<PathBuf>,
    /// PEM.
    pub trusted_ca: Option<PathBuf>,
    /// The system's CAs count too.
    pub system_roots: bool,
    /// PEM.
    pub crl: Option<PathBuf>,
    /// Usages of client certificates.
    pub client_eku: ClientEku,
    /// `None`: a secret of this start.
    pub ticket_key_file: Option<PathBuf>,
    /// How long a ticket key is used.
    pub ticket_key_hours: u32,
    /// Where the keys of its sessions are written; `None`: nowhere.
    pub key_log_file: Option<PathBuf>,
}

impl SideSecurity {
    /// What connections that we open are made with, when their peer has nothing of its own.
    #[must_use]
    pub fn outbound(&self) -> PeerSecurity {
        let (certificate, certificate_key) = (self.certificate.clone(), self.certificate_key.clone());
        PeerSecurity { certificate, certificate_key, trust: self.trust(), key_log_file: self.key_log_file.clone() }
    }

    /// Whom it trusts.
    #[must_use]
    pub fn trust(&self) -> TrustFiles {
        let (trusted_ca, crl) = (self.trusted_ca.clone(), self.crl.clone());
        TrustFiles { trusted_ca, system_roots: self.system_roots, crl }
    }
}

/// A certificate for a domain.
#[derive(Clone, Debug)]
pub struct Sni {
    /// The name that a client asks for.
    pub domain: Host,
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub certificate_key: PathBuf,
}

/// `[dns]`.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Empty: those of resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// How long expired records serve while no resolver answers.
    pub ttl_stale: Duration,
}

/// `[timers]`, RFC 3261 table 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the RFC's names")]
pub struct Timers {
    pub t1: Duration,
    pub t2: Duration,
    pub t4: Duration,
    pub c: Duration,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important that is written.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}

/// `[hep]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hep {
    /// The collector; `None`: off.
    pub address: Option<SocketAddr>,
    /// What this proxy is known by there.
    pub capture_id: u32,
    /// What is sent there.
    pub what: HepWhat,
}

impl Config {
    /// Peers with a set-up of TLS of their own: the table and the name in it, their side, and which.
    pub fn with_own_setup(&self) -> impl Iterator<Item = (String, Side, PeerSetup)> {
        let servers = self.servers.iter().map(|s| (format!("sip-server {}", s.name), Side::Server, s.setup));
        let peers = self.peers.iter().map(|p| (format!("peer-proxy {}", p.name), Side::Endpoint, p.setup));
        let devices = self.devices.iter().map(|d| (format!("device {}", d.network), Side::Endpoint, d.setup));
        servers.chain(peers).chain(devices).filter_map(|(name, side, setup)| Some((name, side, setup?)))
    }

    /// The pair that requests of endpoints go to.
    #[must_use]
    pub fn serving(&self) -> &Server {
        // `check` has seen to it that there is one, and that several come with `serving-sipserver`.
        &self.servers[self.sipproxy.serving_sipserver.unwrap_or(0)]
    }
}
