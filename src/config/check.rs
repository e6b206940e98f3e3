//! What must fit together: the checks that look at more than one key.

use std::net::{IpAddr, SocketAddr};

use super::document::Lines;
use super::error::{ConfigError, Fault, Need};
use super::settings::{Config, Listener, NetworkRule, PeerProxy, PeerSetup};
use super::value::{ClientAor, Host, ServerAddress};
use crate::ids::{Side, Transport};
use crate::limits::{LISTENERS_MAX, NETWORKS_MAX, PEERS_MAX};

pub(super) fn check(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    let counts = [
        ("listener", config.listeners.len(), LISTENERS_MAX),
        ("sip-server", config.servers.len(), PEERS_MAX),
        ("peer-proxy", config.peers.len(), PEERS_MAX),
        ("network", config.networks.len(), NETWORKS_MAX),
    ];
    for (table, count, max) in counts {
        if count > max {
            return Err(lines.error(table, max, Fault::TooMany(max)));
        }
    }
    listeners(config, lines)?;
    http(config, lines)?;
    certificates(config, lines)?;
    servers(config, lines)?;
    peers(config, lines)?;
    devices(config, lines)?;
    networks(config, lines)?;
    if config.timers.t2 < config.timers.t1 {
        return Err(lines.error("timers.t2", 0, Fault::TimerOrder));
    }
    Ok(())
}

/// The key of a listener's setting: in `[[listener]]`, or in `[sipproxy]` when there is none.
fn listener_key(lines: &Lines, key: &str) -> String {
    let explicit = lines.has("listener", 0);
    match (explicit, key) {
        (true, key) => format!("listener.{key}"),
        (false, "address") => "sipproxy.sip-address".to_owned(),
        (false, key) => format!("sipproxy.{key}"),
    }
}

fn listeners(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    if lines.has("listener", 0) {
        let beside = ["sip-address", "external-address", "sip-port", "tls-port"].map(|key| format!("sipproxy.{key}"));
        if let Some(key) = beside.iter().find(|key| lines.has(key, 0)) {
            return Err(lines.error(key, 0, Fault::ListenersInstead));
        }
    }
    for side in [Side::Endpoint, Side::Server] {
        if facing(config, side).next().is_none() {
            return Err(lines.error("listener.side", 0, Fault::NoListenerFor(side)));
        }
    }
    let mut used: Vec<(bool, SocketAddr)> = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let fault = |key, fault| Err(lines.error(&listener_key(lines, key), index, fault));
        if listener.sip_port == 0 && listener.tls_port == 0 {
            return fault("sip-port", Fault::NoListener);
        }
        if listener.address.is_unspecified() && listener.advertise.is_none() {
            let what =
                if lines.has("listener", 0) { Fault::Needs(Need::Advertise) } else { Fault::Needs(Need::External) };
            return fault("address", what);
        }
        for (transport, address) in listener.sockets() {
            let key = if transport == Transport::Tls { "tls-port" } else { "sip-port" };
            let clash =
                |(stream, other): &(bool, SocketAddr)| *stream == transport.is_stream() && meet(*other, address);
            if used.iter().any(clash) {
                return fault(key, Fault::AddressTwice(address));
            }
            used.push((transport.is_stream(), address));
        }
    }
    Ok(())
}

/// The listeners that have to do with a side.
fn facing(config: &Config, side: Side) -> impl Iterator<Item = &Listener> {
    config.listeners.iter().filter(move |listener| listener.side.is_none_or(|only| only == side))
}

fn http(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    let sipproxy = &config.sipproxy;
    if sipproxy.http_port == 0 {
        return Ok(());
    }
    let address = SocketAddr::new(sipproxy.http_address, sipproxy.http_port);
    let mut streams = config.listeners.iter().flat_map(Listener::sockets).filter(|(by, _)| by.is_stream());
    if streams.any(|(_, other)| meet(other, address)) {
        return Err(lines.error("sipproxy.http-port", 0, Fault::AddressTwice(address)));
    }
    if sipproxy.http_tls && config.security.endpoint.certificate.is_none() {
        return Err(lines.error("sipproxy.http-tls", 0, Fault::Needs(Need::HttpCertificate)));
    }
    let guarded = sipproxy.http_tls && sipproxy.http_token_file.is_some();
    if !(sipproxy.http_address.is_loopback() || guarded || sipproxy.http_in_the_clear) {
        return Err(lines.error("sipproxy.http-address", 0, Fault::HttpExposed));
    }
    Ok(())
}

/// Whether two sockets of one protocol cannot both be bound.
fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let overlap = a.ip() == b.ip() || (same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && overlap
}

fn certificates(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for (side, table) in [(Side::Server, "security.server"), (Side::Endpoint, "security.endpoint")] {
        let security = config.security.side(side);
        // The fault is told where the value stands: in the side's table, else in [security].
        let fault = |key: &str, fault| {
            let own = format!("{table}.{key}");
            let key = if lines.has(&own, 0) { own } else { format!("security.{key}") };
            Err(lines.error(&key, 0, fault))
        };
        match (&security.certificate, &security.certificate_key) {
            (Some(_), None) => return fault("certificate", Fault::Needs(Need::Key)),
            (None, Some(_)) => return fault("certificate-key", Fault::Needs(Need::CertificateOfKey)),
            _ => {}
        }
        if security.tls_mutual && security.trusted_ca.is_none() && !security.system_roots {
            return fault("tls-mutual", Fault::Needs(Need::MutualRoots));
        }
    }
    if config.security.client_aor != ClientAor::Off && !config.security.endpoint.tls_mutual {
        let own = "security.endpoint.client-aor";
        let key = if lines.has(own, 0) { own } else { "security.client-aor" };
        return Err(lines.error(key, 0, Fault::Needs(Need::Mutual)));
    }
    for (index, sni) in config.security.sni.iter().enumerate() {
        if matches!(sni.domain, Host::Ip(_)) {
            return Err(lines.error("security.sni.domain", index, Fault::NameNeeded));
        }
        if config.security.sni[..index].iter().any(|other| other.domain == sni.domain) {
            return Err(lines.error("security.sni.domain", index, Fault::NameTwice));
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        // A port for both sides shows the endpoint side's certificate: who calls is known only later.
        let shown = config.security.side(listener.side.unwrap_or(Side::Endpoint));
        if listener.tls_port != 0 && shown.certificate.is_none() {
            return Err(lines.error(&listener_key(lines, "tls-port"), index, Fault::Needs(Need::Certificate)));
        }
    }
    Ok(())
}

fn servers(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    if config.servers.is_empty() {
        return Err(lines.error("sip-server", 0, Fault::NoServer));
    }
    if config.servers.len() > 1 && config.sipproxy.serving_sipserver.is_none() {
        return Err(lines.error("sipproxy.serving-sipserver", 0, Fault::ServingNeeded));
    }
    let mut used: Vec<SocketAddr> = Vec::new();
    for (index, server) in config.servers.iter().enumerate() {
        if config.servers[..index].iter().any(|other| other.name == server.name) {
            return Err(lines.error("sip-server.name", index, Fault::NameTwice));
        }
        let transport_key = match lines.has("sip-server.transport", index) {
            true => ("sip-server.transport", index),
            false => ("sipproxy.internal-protocol", 0),
        };
        let transport_fault = |fault| Err(lines.error(transport_key.0, transport_key.1, fault));
        let facing_by = || facing(config, Side::Server).filter(|l| l.port(server.transport) != 0);
        if facing_by().next().is_none() {
            return transport_fault(Fault::Needs(Need::Port));
        }
        let targets = [("sip-server.primary", Some(&server.primary)), ("sip-server.backup", server.backup.as_ref())];
        for (key, target) in targets {
            let fault = |fault| Err(lines.error(key, index, fault));
            let address = match target {
                None => continue,
                Some(ServerAddress::Name(name, port)) if is_own_name(config, name, *port, server.transport) => {
                    return fault(Fault::ServerIsSelf);
                }
                Some(ServerAddress::Name(..)) => continue,
                Some(ServerAddress::Address(address)) => *address,
            };
            if used.contains(&address) {
                return fault(Fault::AddressTwice(address));
            }
            used.push(address);
            if !facing_by().any(|l| same_family(l.address, address.ip())) {
                return fault(Fault::FamilyDiffers);
            }
            let mut sockets = config.listeners.iter().flat_map(Listener::sockets);
            if sockets.any(|(transport, own)| transport == server.transport && own == address) {
                return fault(Fault::ServerIsSelf);
            }
        }
        let trusts = trust_of_peer(config, lines, ("sip-server", index), Side::Server, server.setup)?;
        if server.transport == Transport::Tls && !trusts {
            return transport_fault(Fault::Needs(Need::Roots));
        }
    }
    Ok(())
}

/// Whether there is anybody whom a peer's certificate may be of.
///
/// # Errors
/// It has a certificate of ours without the key, or the other way round.
fn trust_of_peer(
    config: &Config,
    lines: &Lines,
    (table, index): (&str, usize),
    side: Side,
    setup: Option<PeerSetup>,
) -> Result<bool, ConfigError> {
    let own = config.security.outbound(side, setup.map(|setup| setup.id));
    let fault = |key: &str, fault| Err(lines.error(&format!("{table}.{key}"), index, fault));
    match (&own.certificate, &own.certificate_key) {
        (Some(_), None) => fault("certificate", Fault::Needs(Need::Key)),
        (None, Some(_)) => fault("certificate-key", Fault::Needs(Need::CertificateOfKey)),
        _ => Ok(own.trust.is_some()),
    }
}

/// Whether a server's name is one that a listener advertises; without a port SRV records decide, which may lead to us.
fn is_own_name(config: &Config, name: &str, port: Option<u16>, over: Transport) -> bool {
    let is_own = |l: &Listener| l.advertise == Some(Host::Name(name.to_owned())) && l.port(over) != 0;
    config.listeners.iter().filter(|l| is_own(l)).any(|l| port.is_none_or(|port| port == l.port(over)))
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

fn peers(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for (index, peer) in config.peers.iter().enumerate() {
        if config.peers[..index].iter().any(|other| other.name == peer.name) {
            return Err(lines.error("peer-proxy.name", index, Fault::NameTwice));
        }
        let others = config.peers[..index].iter().flat_map(|other| &other.servers);
        if let Some(address) = peer.servers.iter().find(|address| others.clone().any(|other| other == *address)) {
            return Err(lines.error("peer-proxy.servers", index, Fault::ServerOfTwoPeers(*address)));
        }
        // A peer is no server: it is reached, and its certificate verified, as an endpoint is.
        if !facing(config, Side::Endpoint).any(|l| l.port(peer.protocol) != 0) {
            return Err(lines.error("peer-proxy.peer-proxy-protocol", index, Fault::Needs(Need::Port)));
        }
        if is_self(config, peer) {
            return Err(lines.error("peer-proxy.peer-proxy-contact", index, Fault::ServerIsSelf));
        }
        let trusts = trust_of_peer(config, lines, ("peer-proxy", index), Side::Endpoint, peer.setup)?;
        if peer.protocol == Transport::Tls && !trusts {
            return Err(lines.error("peer-proxy.peer-proxy-protocol", index, Fault::Needs(Need::Roots)));
        }
    }
    Ok(())
}

/// Whether a site's proxy is known by what one of our listeners is known by.
fn is_self(config: &Config, peer: &PeerProxy) -> bool {
    let port = match peer.protocol {
        Transport::Udp | Transport::Tcp => 5060,
        Transport::Tls => peer.port_tls.unwrap_or(5061),
    };
    config.listeners.iter().filter(|listener| listener.port(peer.protocol) == port).any(|listener| {
        peer.contact == Host::Ip(listener.address) || listener.advertise.as_ref() == Some(&peer.contact)
    })
}

fn devices(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for (index, device) in config.devices.iter().enumerate() {
        if config.devices[..index].iter().any(|other| other.network == device.network) {
            return Err(lines.error("device.network", index, Fault::NetworkTwice));
        }
        // What these rules say is how certificates are verified.
        if !trust_of_peer(config, lines, ("device", index), Side::Endpoint, device.setup)? {
            return Err(lines.error("device", index, Fault::Needs(Need::Roots)));
        }
    }
    Ok(())
}

fn networks(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for (index, rule) in config.networks.iter().enumerate() {
        if config.networks[..index].iter().any(|other| other.network == rule.network) {
            return Err(lines.error("network.network", index, Fault::NetworkTwice));
        }
    }
    // They would be asked for a header, and then be nobody's by their address.
    let servers = config.servers.iter().flat_map(|server| [Some(&server.primary), server.backup.as_ref()]);
    let servers = servers.flatten().filter_map(ServerAddress::address).map(|address| address.ip());
    let sites = config.peers.iter().filter_map(|peer| match peer.contact {
        Host::Ip(ip) => Some(ip),
        Host::Name(_) => None,
    });
    let trusted = config.sipproxy.trusted_sources.iter().map(|network| network.address);
    for ip in servers.chain(sites).chain(trusted) {
        let balancer = NetworkRule::at(&config.networks, ip).filter(|rule| rule.proxy_protocol);
        if let Some(index) = balancer.and_then(|it| config.networks.iter().position(|rule| rule == it)) {
            return Err(lines.error("network.proxy-protocol", index, Fault::BalancerIsServer(ip)));
        }
    }
    Ok(())
}
