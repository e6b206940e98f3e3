//! Which hosts mean us: listening points as bound and as advertised, and `domains`.

use std::net::{IpAddr, SocketAddr};

use crate::config::Verify;
use crate::config::engine::{Expected, Settings};
use crate::ids::{Side, Transport};
use crate::sip::{Host, Uri, Via};
use crate::tls::identity::Identities;

/// Our own names and the SIP Server's address, in the form that messages are compared with.
#[derive(Clone, Debug)]
pub struct Names {
    /// Advertised names (lower case) with their port.
    texts: Vec<(Vec<u8>, u16)>,
    /// Bound and advertised addresses with their port.
    addresses: Vec<(IpAddr, u16)>,
    domains: Vec<Vec<u8>>,
    server: SocketAddr,
    server_transport: Transport,
    /// What a certificate that names the server carries; `None` when names do not count.
    server_identity: Option<Expected>,
    trusted: Vec<(IpAddr, u8)>,
}

impl Names {
    /// From an engine's settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let mut names = Self {
            texts: Vec::new(),
            addresses: Vec::new(),
            domains: settings.domains.iter().map(|domain| domain.to_ascii_lowercase().into_bytes()).collect(),
            server: settings.server.address,
            server_transport: settings.server.transport,
            server_identity: settings
                .server
                .tls
                .as_ref()
                .filter(|peer| peer.verify == Verify::Name)
                .map(|peer| peer.expected.clone()),
            trusted: settings.trusted.clone(),
        };
        for point in &settings.points {
            names.addresses.push((point.bind.ip(), point.bind.port()));
            let host = point.advertised_host.trim_start_matches('[').trim_end_matches(']');
            match host.parse::<IpAddr>() {
                Ok(ip) => names.addresses.push((ip, point.advertised_port)),
                Err(_) => {
                    names.texts.push((host.to_ascii_lowercase().into_bytes(), point.advertised_port));
                }
            }
        }
        names
    }

    fn is_own_host(&self, host: Host, buf: &[u8], port: u16) -> bool {
        match host {
            Host::Name(span) => {
                let name = span.of(buf);
                self.texts.iter().any(|(own, own_port)| *own_port == port && own.eq_ignore_ascii_case(name))
            }
            Host::V4(ip) => self.addresses.contains(&(IpAddr::V4(ip), port)),
            Host::V6(ip) => self.addresses.contains(&(IpAddr::V6(ip), port)),
        }
    }

    /// Whether a host name is one of `domains`.
    #[must_use]
    pub fn is_domain(&self, host: Host, buf: &[u8]) -> bool {
        match host {
            Host::Name(span) => {
                let name = span.of(buf);
                self.domains.iter().any(|domain| domain.eq_ignore_ascii_case(name))
            }
            Host::V4(_) | Host::V6(_) => false,
        }
    }

    /// Whether a URI's host and port mean one of our listening points.
    #[must_use]
    pub fn is_own_uri(&self, uri: &Uri, buf: &[u8]) -> bool {
        self.is_own_host(uri.host, buf, port_of(uri, buf))
    }

    /// Whether a Via's sent-by is one of ours.
    #[must_use]
    pub fn is_own_via(&self, via: &Via, buf: &[u8]) -> bool {
        let port = via.port.unwrap_or_else(|| via.transport.map_or(5060, Transport::default_port));
        self.is_own_host(via.host, buf, port)
    }

    /// Whether a URI names the SIP Server.
    #[must_use]
    pub fn is_server_uri(&self, uri: &Uri, buf: &[u8]) -> bool {
        uri.host.ip() == Some(self.server.ip()) && port_of(uri, buf) == self.server.port()
    }

    /// The side of a UDP source: the exact address and port of a server, or a trusted source (DESIGN.md, Who
    /// is the server side).
    #[must_use]
    pub fn side_of_datagram(&self, from: SocketAddr) -> Side {
        if (self.server_transport == Transport::Udp && from == self.server) || self.is_trusted(from.ip()) {
            Side::Server
        } else {
            Side::Endpoint
        }
    }

    /// The side of an accepted connection by its first request: one from the server's address whose top Via
    /// carries the server's address and port, or from a trusted source.
    #[must_use]
    pub fn side_of_stream(&self, peer: SocketAddr, top_via: &Via) -> Side {
        let port = top_via.port.unwrap_or_else(|| top_via.transport.map_or(5060, Transport::default_port));
        let says_server = top_via.host.ip() == Some(self.server.ip()) && port == self.server.port();
        if (peer.ip() == self.server.ip() && says_server) || self.is_trusted(peer.ip()) {
            Side::Server
        } else {
            Side::Endpoint
        }
    }

    /// The side of an accepted connection by its verified certificate: that of the server which it names. `None` when
    /// it names no server, so that address and first request decide.
    #[must_use]
    pub fn side_of_identity(&self, identities: &Identities) -> Option<Side> {
        let expected = self.server_identity.as_ref()?;
        (!identities.of_endpoint && identities.match_expected(expected)).then_some(Side::Server)
    }

    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|(network, prefix)| in_network(ip, *network, *prefix))
    }
}

/// A URI's port, or the default of its scheme and transport.
fn port_of(uri: &Uri, buf: &[u8]) -> u16 {
    uri.port.unwrap_or_else(|| {
        let tls = uri.scheme == crate::sip::Scheme::Sips || uri.transport(buf) == Some(Some(Transport::Tls));
        if tls { 5061 } else { 5060 }
    })
}

fn in_network(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (ip.to_canonical(), network.to_canonical()) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let shift = 32 - u32::from(prefix.min(32));
            u64::from(ip.to_bits()) >> shift == u64::from(network.to_bits()) >> shift
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let shift = 128 - u32::from(prefix.min(128));
            ip.to_bits().checked_shr(shift) == network.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_match_by_their_prefix_and_zero_matches_all_of_its_family() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(in_network(ip("10.1.2.3"), ip("10.1.0.0"), 16));
        assert!(!in_network(ip("10.2.2.3"), ip("10.1.0.0"), 16));
        assert!(in_network(ip("10.2.2.3"), ip("0.0.0.0"), 0));
        assert!(!in_network(ip("::1"), ip("0.0.0.0"), 0));
        assert!(in_network(ip("2001:db8::9"), ip("2001:db8::"), 32));
        assert!(in_network(ip("::2"), ip("::"), 0));
        assert!(in_network(ip("::ffff:10.1.2.3"), ip("10.1.2.3"), 32));
    }
}
