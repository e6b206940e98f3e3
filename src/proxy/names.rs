//! Which hosts mean us: listening points as bound and as advertised, and `domains`; and which mean a SIP Server or
//! another site's proxy.

use std::net::{IpAddr, SocketAddr};

use super::Target;
use crate::config::engine::{Expected, Live, Settings, TlsPeer};
use crate::config::{Host as Named, PeerSetup, ServerAddress, Verify};
use crate::ids::{SetupId, Side, Transport};
use crate::server_pool::{Member, View};
use crate::sip::uri::host_eq;
use crate::sip::{Host, Uri, Via};
use crate::tls::identity::Identities;

/// Who sends, as far as that decides what may be asked (DESIGN.md, Who is the server side).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    #[allow(missing_docs, reason = "see Side")]
    pub side: Side,
    /// Another site's proxy. It is no server: its requests go to the active SIP Server.
    pub is_peer: bool,
}

impl Origin {
    /// A SIP Server.
    pub const SERVER: Self = Self { side: Side::Server, is_peer: false };
    /// Another site's proxy.
    pub const PEER: Self = Self { side: Side::Endpoint, is_peer: true };
    /// Everybody else.
    pub const ENDPOINT: Self = Self { side: Side::Endpoint, is_peer: false };
    /// Who comes by way of a load balancer (`[[network]]` with `proxy-protocol`), for all that addresses say. The address
    /// in a PROXY header is believed for who waits, is counted, shown and written into Via; it makes nobody a server, a
    /// site's proxy or a trusted source. A balancer forwards strangers, and over UDP writes down what source they forge;
    /// and any host of its network could write what it likes. Nor does the balancer's own address, which is all that is
    /// known of who is behind an `UNKNOWN`. A verified certificate does, for TLS passes through a balancer
    /// ([`Names::origin_of_identity`]). Servers and sites reach us straight.
    pub const FORWARDED: Self = Self::ENDPOINT;
}

/// One pair: its names as they stand in the settings, and where they are now.
#[derive(Clone, Debug)]
struct ServerNames {
    transport: Transport,
    names: Vec<(String, Option<u16>)>,
    addresses: Vec<(Member, SocketAddr)>,
    /// What a certificate that names one carries; none where names do not count.
    identities: Vec<Expected>,
    /// Its own CAs decide on that, and not those of its side.
    own_trust: Option<SetupId>,
}

/// Another site's proxy, and the SIP Servers behind it.
#[derive(Clone, Debug)]
struct PeerNames {
    transport: Transport,
    servers: Vec<IpAddr>,
    /// Where the proxy is now.
    addresses: Vec<SocketAddr>,
    /// What a certificate that names it carries; none where names do not count.
    identities: Vec<Expected>,
    /// Its own CAs decide on that, and not those of its side.
    own_trust: Option<SetupId>,
}

/// Our own names and those of the servers, in the form that messages are compared with.
#[derive(Clone, Debug)]
pub struct Names {
    /// Advertised names (lower case) with their port.
    texts: Vec<(Vec<u8>, u16)>,
    /// Bound and advertised addresses with their port.
    addresses: Vec<(IpAddr, u16)>,
    domains: Vec<Vec<u8>>,
    servers: Vec<ServerNames>,
    serving: u8,
    peers: Vec<PeerNames>,
    trusted: Vec<(IpAddr, u8)>,
}

impl Names {
    /// From an engine's settings. Servers and peers that have a name instead of an address come with
    /// [`Names::set_servers`] and [`Names::set_peer`].
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let servers = settings.servers.iter().map(|server| {
            let named = |member: &ServerAddress| match member {
                ServerAddress::Address(_) => None,
                ServerAddress::Name(name, port) => Some((name.clone(), *port)),
            };
            let members = [Some(&server.primary), server.backup.as_ref()];
            let addresses = [Member::Primary, Member::Backup].into_iter().zip(members);
            ServerNames {
                transport: server.transport,
                names: members.into_iter().flatten().filter_map(named).collect(),
                addresses: addresses.filter_map(|(member, at)| Some((member, at?.address()?))).collect(),
                identities: members.into_iter().flatten().filter_map(|at| named_by(server.tls_peer(at))).collect(),
                own_trust: own_trust(server.setup),
            }
        });
        let peers = settings.peers.iter().map(|peer| PeerNames {
            transport: peer.protocol,
            servers: peer.servers.clone(),
            addresses: match peer.contact {
                Named::Ip(ip) => vec![SocketAddr::new(ip, peer.port())],
                Named::Name(_) => Vec::new(),
            },
            identities: named_by(peer.tls_peer()).into_iter().collect(),
            own_trust: own_trust(peer.setup),
        });
        let mut names = Self {
            texts: Vec::new(),
            addresses: Vec::new(),
            domains: Vec::new(),
            servers: servers.collect(),
            serving: settings.serving,
            peers: peers.collect(),
            trusted: Vec::new(),
        };
        names.set_live(&settings.live);
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

    /// What is ours and who is trusted from now on. Connections stay on the side that they were found to be on.
    pub fn set_live(&mut self, live: &Live) {
        self.domains = live.domains.iter().map(|domain| domain.to_ascii_lowercase().into_bytes()).collect();
        self.trusted.clone_from(&live.trusted);
    }

    /// Where the servers are now. Whether that is news.
    pub fn set_servers(&mut self, view: &View) -> bool {
        let mut is_news = false;
        for (server, pair) in self.servers.iter_mut().zip(&view.pairs) {
            let members = [Member::Primary, Member::Backup].into_iter().zip(&pair.members);
            let addresses = members.flat_map(|(member, view)| view.targets.iter().map(move |t| (member, t.address)));
            is_news |= replace(&mut server.addresses, addresses);
        }
        is_news
    }

    /// Where another site's proxy is now. Whether that is news.
    pub fn set_peer(&mut self, peer: usize, addresses: impl Iterator<Item = SocketAddr>) -> bool {
        self.peers.get_mut(peer).is_some_and(|peer| replace(&mut peer.addresses, addresses))
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

    /// Whether one of our listening points is bound to, or advertised as, an address.
    #[must_use]
    pub fn is_own_address(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&(address.ip(), address.port()))
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

    /// Whether users at a host are ours or our servers': one of `domains`, or a name or address of ours or of a SIP
    /// Server, whatever the port.
    #[must_use]
    pub fn has_users_at(&self, host: Host, buf: &[u8]) -> bool {
        let is_name = |name: &[u8]| host_eq(&host, buf, name);
        let server = |server: &ServerNames| match host.ip() {
            Some(ip) => server.addresses.iter().any(|(_, at)| at.ip() == ip),
            None => server.names.iter().any(|(name, _)| is_name(name.as_bytes())),
        };
        let own = match host.ip() {
            Some(ip) => self.addresses.iter().any(|(own, _)| *own == ip),
            None => self.texts.iter().any(|(own, _)| is_name(own)),
        };
        own || self.domains.iter().any(|domain| is_name(domain)) || self.servers.iter().any(server)
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

    /// The pair that a URI names, by an address of it or by a name in the settings.
    #[must_use]
    pub fn server_of_uri(&self, uri: &Uri, buf: &[u8]) -> Option<u8> {
        let port = port_of(uri, buf);
        let is_named = |server: &ServerNames| match uri.host.ip() {
            Some(ip) => server.addresses.iter().any(|(_, at)| *at == SocketAddr::new(ip, port)),
            None => server
                .names
                .iter()
                .any(|(name, own)| host_eq(&uri.host, buf, name.as_bytes()) && (*own == uri.port || own.is_none())),
        };
        self.servers.iter().position(is_named).and_then(|at| u8::try_from(at).ok())
    }

    /// The pair that the requests of endpoints go to unless their dialog is another one's.
    #[must_use]
    pub fn serving(&self) -> u8 {
        self.serving
    }

    /// The other site's proxy that a URI's host is behind.
    #[must_use]
    pub fn peer_of_uri(&self, uri: &Uri) -> Option<u8> {
        let ip = uri.host.ip()?;
        self.peers.iter().position(|peer| peer.servers.contains(&ip)).and_then(|at| u8::try_from(at).ok())
    }

    /// Whose an address is that a name has led to: ours, a server's, or that of a server of another site.
    #[must_use]
    pub fn named_at(&self, address: SocketAddr) -> Option<Target> {
        if self.is_own_address(address) {
            return Some(Target::Myself);
        }
        if let Some((pair, _)) = self.server_at(address) {
            return Some(Target::Server { pair, at: None });
        }
        let peer = self.peers.iter().position(|peer| peer.servers.contains(&address.ip()))?;
        u8::try_from(peer).ok().map(|peer| Target::Peer { peer })
    }

    /// The pair and member that has an address.
    #[must_use]
    pub fn server_at(&self, address: SocketAddr) -> Option<(u8, Member)> {
        self.servers.iter().zip(0..).find_map(|(server, pair)| {
            server.addresses.iter().find(|(_, at)| *at == address).map(|(member, _)| (pair, *member))
        })
    }

    /// The other site's proxy that is at an address.
    #[must_use]
    pub fn peer_at(&self, address: SocketAddr) -> Option<u8> {
        self.peers.iter().zip(0..).find_map(|(peer, at)| peer.addresses.contains(&address).then_some(at))
    }

    /// Whether servers or other sites' proxies are at an address: what they open is not held to a phone's measure.
    #[must_use]
    pub fn is_server_ip(&self, ip: IpAddr) -> bool {
        self.servers.iter().any(|server| server.addresses.iter().any(|(_, at)| at.ip() == ip))
            || self.peers.iter().any(|peer| peer.addresses.iter().any(|at| at.ip() == ip))
    }

    /// The same, or one of `trusted-sources`.
    #[must_use]
    pub fn is_server_side_ip(&self, ip: IpAddr) -> bool {
        self.is_server_ip(ip) || self.is_trusted(ip)
    }

    /// Who sends from a UDP source: the exact address and port of a server or a peer proxy, or a trusted source
    /// (DESIGN.md, Who is the server side).
    #[must_use]
    pub fn origin_of_datagram(&self, from: SocketAddr) -> Origin {
        let is_server =
            |s: &ServerNames| s.transport == Transport::Udp && s.addresses.iter().any(|(_, at)| *at == from);
        if self.servers.iter().any(is_server) || self.is_trusted(from.ip()) {
            Origin::SERVER
        } else if self.peers.iter().any(|p| p.transport == Transport::Udp && p.addresses.contains(&from)) {
            Origin::PEER
        } else {
            Origin::ENDPOINT
        }
    }

    /// Who is at the other end of an accepted connection, by its first request: a server or a peer proxy of this
    /// transport when it comes from its address and the top Via carries its address (or name) and port, or a trusted
    /// source. Where a certificate was asked for (`shown`) and has named nobody ([`Names::origin_of_identity`]), only one
    /// whose certificate need not carry a name.
    #[must_use]
    pub fn origin_of_stream(
        &self,
        peer: SocketAddr,
        transport: Transport,
        shown: Option<&Identities>,
        top_via: &Via,
        buf: &[u8],
    ) -> Origin {
        let port = top_via.port.unwrap_or_else(|| top_via.transport.map_or(5060, Transport::default_port));
        let says = |at: SocketAddr| {
            at.ip() == peer.ip() && at.port() == port && top_via.host.ip().is_none_or(|ip| ip == at.ip())
        };
        let may_be = |side, identities: &[Expected], own_trust| {
            shown.is_none_or(|shown| identities.is_empty() && shown.is_vouched_for(side, own_trust))
        };
        let is_server = |server: &ServerNames| {
            let named = top_via.host.ip().is_some()
                || server.names.iter().any(|(name, _)| host_eq(&top_via.host, buf, name.as_bytes()));
            named
                && server.transport == transport
                && may_be(Side::Server, &server.identities, server.own_trust)
                && server.addresses.iter().any(|(_, at)| says(*at))
        };
        // A proxy's Via has what it advertises, which may be any name of its host.
        let is_peer = |peer: &PeerNames| {
            peer.transport == transport
                && may_be(Side::Endpoint, &peer.identities, peer.own_trust)
                && peer.addresses.iter().any(|at| says(*at))
        };
        if self.servers.iter().any(is_server) || self.is_trusted(peer.ip()) {
            Origin::SERVER
        } else if self.peers.iter().any(is_peer) {
            Origin::PEER
        } else {
            Origin::ENDPOINT
        }
    }

    /// Who is at the other end of a connection by its verified certificate: the server or the peer proxy that it
    /// names. `None` when it names neither, so that address and first request decide.
    #[must_use]
    pub fn origin_of_identity(&self, identities: &Identities) -> Option<Origin> {
        let names = |expected: &[Expected]| expected.iter().any(|expected| identities.match_expected(expected));
        let is_server = |server: &ServerNames| {
            identities.is_vouched_for(Side::Server, server.own_trust) && names(&server.identities)
        };
        let is_peer =
            |peer: &PeerNames| identities.is_vouched_for(Side::Endpoint, peer.own_trust) && names(&peer.identities);
        if self.servers.iter().any(is_server) {
            Some(Origin::SERVER)
        } else if self.peers.iter().any(is_peer) {
            Some(Origin::PEER)
        } else {
            None
        }
    }

    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|(network, prefix)| in_network(ip, *network, *prefix))
    }
}

/// Whether that changes what was there.
fn replace<T: PartialEq>(all: &mut Vec<T>, by: impl Iterator<Item = T>) -> bool {
    let by: Vec<T> = by.collect();
    *all != by && {
        *all = by;
        true
    }
}

/// The identity that tells a peer, unless names do not count for it.
fn named_by(peer: TlsPeer) -> Option<Expected> {
    (peer.verify == Verify::Name).then_some(peer.expected)
}

/// The set-up whose CAs alone may name a peer.
fn own_trust(setup: Option<PeerSetup>) -> Option<SetupId> {
    setup.filter(|setup| setup.own_trust).map(|setup| setup.id)
}

/// A URI's port, or the default of its scheme and transport.
#[must_use]
pub fn port_of(uri: &Uri, buf: &[u8]) -> u16 {
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
