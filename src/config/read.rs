//! From a document to [`Config`]: types, ranges and defaults of each key by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Document, Section};
use super::error::{ConfigError, Expected, Fault};
use super::settings::{
    Config, Device, Dns, Hep, Listener, Log, NetworkRule, PeerProxy, PeerSecurity, PeerSetup, Security, Server,
    SideSecurity, SipProxy, Sni, Timers, TrustFiles,
};
use super::value::{
    ClientAor, ClientEku, Cores, DriverChoice, HepWhat, Host, LogFormat, LogLevel, Network, ServerAddress, Sticky,
    UdpOversize, Verify,
};
use crate::ids::{SetupId, Side, Transport};
use crate::limits::{HANDSHAKES_COUNT_MAX, HANDSHAKES_PER_SOURCE_MAX, TLS_SETUPS_MAX, UNREGISTERED_PER_SOURCE_MAX};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// `sip-ip-tos` with this value leaves the byte to the system.
const TOS_SYSTEM: u16 = 256;

pub(super) fn config(document: &Document<'_>) -> Result<Config, ConfigError> {
    let table = document.table("sipproxy");
    let mut sipproxy = sipproxy(&table)?;
    let mut security = security(document)?;
    let servers = document.tables("sip-server").map(|t| server(&t, sipproxy.internal_protocol, &mut security));
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    if let Some(name) = table.name_or_none("serving-sipserver")? {
        let at = servers.iter().position(|server| server.name == name);
        let unknown = || document.lines.error("sipproxy.serving-sipserver", 0, Fault::ServingUnknown);
        sipproxy.serving_sipserver = Some(at.ok_or_else(unknown)?);
    }
    let own = Listener {
        side: None,
        address: sipproxy.sip_address,
        advertise: table.host("external-address")?,
        sip_port: table.port("sip-port")?.unwrap_or(5060),
        tls_port: table.port("tls-port")?.unwrap_or(5061),
    };
    let mut listeners = document.tables("listener").map(|t| listener(&t)).collect::<Result<Vec<_>, _>>()?;
    if listeners.is_empty() {
        listeners.push(own);
    }
    Ok(Config {
        listeners,
        servers,
        peers: document.tables("peer-proxy").map(|t| peer_proxy(&t, &mut security)).collect::<Result<_, _>>()?,
        devices: document.tables("device").map(|t| device(&t, &mut security)).collect::<Result<_, _>>()?,
        networks: document.tables("network").map(|t| network(&t)).collect::<Result<_, _>>()?,
        security,
        dns: dns(&document.table("dns"))?,
        timers: timers(&document.table("timers"))?,
        hep: hep(&document.table("hep"))?,
        log: log(&document.table("log"))?,
        sipproxy,
    })
}

fn sipproxy(table: &Section<'_>) -> Result<SipProxy, ConfigError> {
    let tos = table.integer("sip-ip-tos", 0, TOS_SYSTEM.into())?.unwrap_or(TOS_SYSTEM);
    Ok(SipProxy {
        sip_address: table.address("sip-address")?.unwrap_or(LOOPBACK),
        http_port: table.port("http-port")?.unwrap_or(8080),
        http_address: table.address("http-address")?.unwrap_or(LOOPBACK),
        http_tls: table.boolean("http-tls")?.unwrap_or(false),
        http_token_file: table.path("http-token-file")?.flatten(),
        http_in_the_clear: table.boolean("http-in-the-clear")?.unwrap_or(false),
        domains: table
            .list("domains", Expected::Hosts, |text| Host::parse(text).map(|host| host.to_string()))?
            .unwrap_or_default(),
        cores: table.read("cores", Expected::Cores, |v| v.as_str()?.parse().ok())?.unwrap_or(Cores::All),
        driver: table.word("driver")?.unwrap_or(DriverChoice::Auto),
        internal_protocol: table.word("internal-protocol")?.unwrap_or(Transport::Udp),
        sticky: table.word("sticky")?.unwrap_or(Sticky::Path),
        path_add_supported: table.boolean("path-add-supported")?.unwrap_or(true),
        flow_token_key_file: table.path("flow-token-key-file")?.flatten(),
        flow_grace: table.seconds("flow-grace", 0, 32)?.unwrap_or(Duration::from_secs(3)),
        oos_check: table.seconds("oos-check", 0, 300)?.unwrap_or(Duration::from_secs(5)),
        oos_force: table.seconds("oos-force", 1, 32)?.unwrap_or(Duration::from_secs(5)),
        overload_ctrl_dialog_rate: table.integer("overload-ctrl-dialog-rate", 0, 1_000_000)?.unwrap_or(0),
        sip_ip_tos: u8::try_from(tos).ok(),
        serving_sipserver: None,
        trusted_sources: table.list("trusted-sources", Expected::Networks, Network::parse)?.unwrap_or_default(),
        udp_oversize_action: table.word("udp-oversize-action")?.unwrap_or(UdpOversize::Tcp),
        spin_before_park: microseconds(table, "spin-before-park-us", 1_000_000)?,
        gather: microseconds(table, "gather-us", 10_000)?,
    })
}

fn microseconds(table: &Section<'_>, key: &str, max: i64) -> Result<Duration, ConfigError> {
    Ok(Duration::from_micros(table.integer(key, 0, max)?.unwrap_or(0)))
}

fn listener(table: &Section<'_>) -> Result<Listener, ConfigError> {
    /// `None` inside: both sides.
    const SIDES: &[(&str, Option<Side>)] =
        &[("endpoint", Some(Side::Endpoint)), ("server", Some(Side::Server)), ("both", None)];
    let expected = Expected::OneOf(&["endpoint", "server", "both"]);
    let side = table.read("side", expected, |v| {
        let word = v.as_str()?;
        SIDES.iter().find(|(name, _)| *name == word).map(|(_, side)| *side)
    })?;
    Ok(Listener {
        side: side.flatten(),
        address: table.require("address", Expected::Address, table.address("address"))?,
        advertise: table.host("advertise")?,
        sip_port: table.port("sip-port")?.unwrap_or(5060),
        tls_port: table.port("tls-port")?.unwrap_or(5061),
    })
}

fn server(table: &Section<'_>, internal_protocol: Transport, security: &mut Security) -> Result<Server, ConfigError> {
    let primary = table.read("primary", Expected::Server, |v| ServerAddress::parse(v.as_str()?));
    let backup = table.read("backup", Expected::Server, |v| match v.as_str()? {
        "" => Some(None),
        text => ServerAddress::parse(text).map(Some),
    });
    Ok(Server {
        name: table.require("name", Expected::Name, table.name("name"))?,
        primary: table.require("primary", Expected::Server, primary)?,
        backup: backup?.flatten(),
        transport: table.word("transport")?.unwrap_or(internal_protocol),
        tls_name: table.host("tls-name")?,
        verify: table.word("verify")?.unwrap_or(Verify::Name),
        setup: setup(table, Side::Server, security)?,
    })
}

fn peer_proxy(table: &Section<'_>, security: &mut Security) -> Result<PeerProxy, ConfigError> {
    let servers = table.list("servers", Expected::Addresses, |text| text.parse().ok());
    let contact = table.read("peer-proxy-contact", Expected::HostRequired, |v| Host::parse(v.as_str()?));
    Ok(PeerProxy {
        name: table.require("name", Expected::Name, table.name("name"))?,
        servers: table.require("servers", Expected::Addresses, servers.map(|s| s.filter(|s| !s.is_empty())))?,
        contact: table.require("peer-proxy-contact", Expected::HostRequired, contact)?,
        protocol: table.word("peer-proxy-protocol")?.unwrap_or(Transport::Tls),
        port_tls: table.port("peer-proxy-port-tls")?.filter(|port| *port != 0),
        tls_name: table.host("tls-name")?,
        verify: table.word("verify")?.unwrap_or(Verify::Name),
        setup: setup(table, Side::Endpoint, security)?,
    })
}

fn device(table: &Section<'_>, security: &mut Security) -> Result<Device, ConfigError> {
    let network = table.read("network", Expected::Network, |v| Network::parse(v.as_str()?));
    Ok(Device {
        network: table.require("network", Expected::Network, network)?,
        tls_name: table.host("tls-name")?,
        verify: table.word("verify")?.unwrap_or(Verify::Name),
        setup: setup(table, Side::Endpoint, security)?,
    })
}

fn network(table: &Section<'_>) -> Result<NetworkRule, ConfigError> {
    let network = table.read("network", Expected::Network, |v| Network::parse(v.as_str()?));
    let handshakes_max = table.integer("handshakes-max", 1, HANDSHAKES_COUNT_MAX as i64)?;
    Ok(NetworkRule {
        network: table.require("network", Expected::Network, network)?,
        unregistered_max: table.integer("unregistered-max", 1, 1_000_000)?.unwrap_or(UNREGISTERED_PER_SOURCE_MAX),
        handshakes_max: handshakes_max.unwrap_or(HANDSHAKES_PER_SOURCE_MAX),
        proxy_protocol: table.boolean("proxy-protocol")?.unwrap_or(false),
        bans: table.boolean("bans")?.unwrap_or(true),
    })
}

/// What a peer's table says of TLS in place of what its side has. `None` when that is nothing.
fn setup(table: &Section<'_>, side: Side, security: &mut Security) -> Result<Option<PeerSetup>, ConfigError> {
    let over = security.side(side).outbound();
    let path = |key, over: &Option<PathBuf>| table.path(key).map(|path| path.unwrap_or_else(|| over.clone()));
    let certificate = path("certificate", &over.certificate)?;
    let own = PeerSecurity {
        // Who is shown no certificate needs no key for it either.
        certificate_key: match &certificate {
            None => table.path("certificate-key")?.flatten(),
            Some(_) => path("certificate-key", &over.certificate_key)?,
        },
        certificate,
        trust: TrustFiles {
            trusted_ca: path("trusted-ca", &over.trust.trusted_ca)?,
            system_roots: table.boolean("system-roots")?.unwrap_or(over.trust.system_roots),
            crl: path("crl", &over.trust.crl)?,
        },
        key_log_file: over.key_log_file.clone(),
    };
    if own == over {
        return Ok(None);
    }
    let own_trust = own.trust != over.trust;
    let known = security.peers.iter().position(|other| *other == own);
    let at = known.unwrap_or(security.peers.len());
    let id = u16::try_from(at).ok().filter(|_| at < TLS_SETUPS_MAX).map(SetupId);
    let id = id.ok_or_else(|| table.error(Fault::TooMany(TLS_SETUPS_MAX)))?;
    if known.is_none() {
        security.peers.push(own);
    }
    Ok(Some(PeerSetup { id, own_trust }))
}

fn security(document: &Document<'_>) -> Result<Security, ConfigError> {
    let none = SideSecurity {
        tls_mutual: false,
        certificate: None,
        certificate_key: None,
        trusted_ca: None,
        system_roots: false,
        crl: None,
        client_eku: ClientEku::Strict,
        ticket_key_file: None,
        ticket_key_hours: 12,
        key_log_file: None,
    };
    let both = side_security(&document.table("security"), &none)?;
    let client_aor = |table| document.table(table).word("client-aor");
    let client_aor = client_aor("security.endpoint")?.or(client_aor("security")?);
    Ok(Security {
        server: side_security(&document.table("security.server"), &both)?,
        endpoint: side_security(&document.table("security.endpoint"), &both)?,
        client_aor: client_aor.unwrap_or(ClientAor::Off),
        sni: document.tables("security.sni").map(|t| sni(&t)).collect::<Result<_, _>>()?,
        peers: Vec::new(),
    })
}

/// The keys of a table of `[security]`, over those that stand when it leaves them out.
fn side_security(table: &Section<'_>, over: &SideSecurity) -> Result<SideSecurity, ConfigError> {
    let path = |key, over: &Option<PathBuf>| table.path(key).map(|path| path.unwrap_or_else(|| over.clone()));
    Ok(SideSecurity {
        tls_mutual: table.integer::<u8>("tls-mutual", 0, 1)?.map_or(over.tls_mutual, |n| n == 1),
        certificate: path("certificate", &over.certificate)?,
        certificate_key: path("certificate-key", &over.certificate_key)?,
        trusted_ca: path("trusted-ca", &over.trusted_ca)?,
        system_roots: table.boolean("system-roots")?.unwrap_or(over.system_roots),
        crl: path("crl", &over.crl)?,
        client_eku: table.word("client-eku")?.unwrap_or(over.client_eku),
        ticket_key_file: path("ticket-key-file", &over.ticket_key_file)?,
        ticket_key_hours: table.integer("ticket-key-hours", 1, 168)?.unwrap_or(over.ticket_key_hours),
        key_log_file: path("key-log-file", &over.key_log_file)?,
    })
}

fn sni(table: &Section<'_>) -> Result<Sni, ConfigError> {
    let domain = table.read("domain", Expected::HostRequired, |v| Host::parse(v.as_str()?));
    let path = |key| table.require(key, Expected::Path, table.path(key).map(Option::flatten));
    Ok(Sni {
        domain: table.require("domain", Expected::HostRequired, domain)?,
        certificate: path("certificate")?,
        certificate_key: path("certificate-key")?,
    })
}

fn dns(table: &Section<'_>) -> Result<Dns, ConfigError> {
    let server = |text: &str| text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    Ok(Dns {
        servers: table.list("servers", Expected::Sockets, server)?.unwrap_or_default(),
        ttl_stale: Duration::from_secs(table.integer("ttl-stale", 0, 604_800)?.unwrap_or(3600)),
    })
}

fn hep(table: &Section<'_>) -> Result<Hep, ConfigError> {
    let address = |text: &str| match text {
        "" => Some(None),
        text => text.parse().ok().filter(|address: &SocketAddr| address.port() != 0).map(Some),
    };
    Ok(Hep {
        address: table.read("address", Expected::Socket, |value| address(value.as_str()?))?.flatten(),
        capture_id: table.integer("capture-id", 0, i64::from(u32::MAX))?.unwrap_or(0),
        what: table.word("what")?.unwrap_or(HepWhat::Traced),
    })
}

fn log(table: &Section<'_>) -> Result<Log, ConfigError> {
    Ok(Log {
        level: table.word("level")?.unwrap_or(LogLevel::Info),
        format: table.word("format")?.unwrap_or(LogFormat::Text),
    })
}

fn timers(table: &Section<'_>) -> Result<Timers, ConfigError> {
    let timer = |key, min, max, default| {
        table.milliseconds(key, min, max).map(|ms| ms.unwrap_or(Duration::from_millis(default)))
    };
    Ok(Timers {
        t1: timer("t1", 10, 10_000, 500)?,
        t2: timer("t2", 10, 60_000, 4_000)?,
        t4: timer("t4", 10, 60_000, 5_000)?,
        c: timer("c", 100, 86_400_000, 180_000)?,
    })
}
