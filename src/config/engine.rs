//! What one engine is made with: plain data, keys and seeds included. It stands here because `proxy` and
//! `config` use its types too, and imports only go down.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use super::settings::{Expected, NetworkRule, TlsPeer};
pub use super::value::{Sticky, UdpOversize};

use super::settings::{Device, PeerProxy, Server};
use super::value::{ClientAor, LogLevel};
use crate::ids::{PointId, ShardId, Side, Transport};
use crate::limits::HANDSHAKES_PER_SOURCE_MAX;
use crate::overload::DialogRate;

/// A local listening point. Its index in [`Settings::points`] is its `PointId`.
#[derive(Clone, Debug)]
pub struct Point {
    /// UDP, TCP or TLS.
    pub transport: Transport,
    /// The address and port that the socket is bound to.
    pub bind: SocketAddr,
    /// The host part as written into Via, Record-Route and Path: a name, an IPv4 address or a bracketed
    /// IPv6 address.
    pub advertised_host: String,
    /// The port as written there.
    pub advertised_port: u16,
    /// The one side that it serves; `None` for both.
    pub side: Option<Side>,
}

impl Point {
    /// Whether it has to do with this side: at a point of the endpoint side nobody counts as a server, and at one of
    /// the server side nobody else is served.
    #[must_use]
    pub fn serves(&self, side: Side) -> bool {
        self.side.is_none_or(|only| only == side)
    }
}

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    /// `dns.servers`, or those of resolv.conf: in the order in which they are tried. Empty: no name resolves.
    pub resolvers: Vec<SocketAddr>,
    /// `dns.ttl-stale`: how long expired records serve while no resolver answers.
    pub ttl_stale: Duration,
}

/// What may change while an engine runs. A change counts for what comes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// `oos-check`; zero for off.
    pub oos_check: Duration,
    /// `oos-force`.
    pub oos_force: Duration,
    /// `trusted-sources`: (network address, prefix length).
    pub trusted: Vec<(IpAddr, u8)>,
    /// `[[network]]`.
    pub networks: Vec<NetworkRule>,
    /// `domains`, in lower case.
    pub domains: Vec<String>,
    /// `path-add-supported`.
    pub path_add_supported: bool,
    /// `flow-grace`; zero for off.
    pub flow_grace: Duration,
    /// `[timers]` t1, t2, t4 and c.
    pub t1: Duration,
    #[allow(missing_docs, reason = "RFC 3261 table 4")]
    pub t2: Duration,
    #[allow(missing_docs, reason = "RFC 3261 table 4")]
    pub t4: Duration,
    #[allow(missing_docs, reason = "RFC 3261 §16.6 step 11")]
    pub timer_c: Duration,
    /// `udp-oversize-action = "reject"`, `"udp"` or `"tcp"`.
    pub udp_oversize: UdpOversize,
    /// `overload-ctrl-dialog-rate`; 0 for off.
    pub dialog_rate: u32,
    /// `log.level`: at debug and trace there is more to tell.
    pub log_level: LogLevel,
}

/// Everything that an engine is told from outside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What may change.
    pub live: Live,
    /// This shard.
    pub shard: ShardId,
    /// How many shards there are.
    pub shards: u8,
    /// Listening points; the same list on every shard.
    pub points: Vec<Point>,
    /// `[[sip-server]]`, at least one.
    pub servers: Vec<Server>,
    /// Which of them gets the requests of endpoints.
    pub serving: u8,
    /// `[[peer-proxy]]`.
    pub peers: Vec<PeerProxy>,
    /// `[[device]]`.
    pub devices: Vec<Device>,
    /// What begins dialogs, in all shards of the process together.
    pub dialog_rate: Arc<DialogRate>,
    /// `client-aor`.
    pub client_aor: ClientAor,
    /// `sticky`.
    pub sticky: Sticky,
    /// `[dns]`.
    pub dns: DnsSettings,
    /// The key of tokens (`flow-token-key-file`): the same on all shards and, if the file is shared, in the pool.
    pub token_key: [u8; 32],
    /// Random, of this start; the same on all shards.
    pub boot: u32,
    /// This member of the pool.
    pub member: u16,
    /// Seed of this shard's random numbers (branches, tags, jitter). From the system in the shell, from the
    /// seed in a test.
    pub seed: [u8; 32],
    /// Connections that this shard may hold.
    pub connections_max: u32,
    /// Transactions that this shard may hold.
    pub transactions_max: u32,
    /// Unregistered connections from one source address that no `[[network]]` holds.
    pub unregistered_per_source_max: u32,
}

impl Settings {
    /// One shard with the defaults of the settings, no service checks, and keys that anybody knows: for tests and
    /// benchmarks, which say what they want otherwise.
    #[must_use]
    pub fn plain(points: Vec<Point>, servers: Vec<Server>) -> Self {
        let live = Live {
            oos_check: Duration::ZERO,
            oos_force: Duration::from_secs(5),
            trusted: Vec::new(),
            networks: Vec::new(),
            domains: vec!["example.com".to_owned()],
            path_add_supported: true,
            flow_grace: Duration::from_secs(3),
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_c: Duration::from_secs(180),
            udp_oversize: UdpOversize::Tcp,
            dialog_rate: 0,
            log_level: LogLevel::Info,
        };
        Self {
            live,
            shard: ShardId(0),
            shards: 1,
            points,
            servers,
            serving: 0,
            peers: Vec::new(),
            devices: Vec::new(),
            dialog_rate: Arc::default(),
            client_aor: ClientAor::Off,
            sticky: Sticky::Path,
            dns: DnsSettings::default(),
            token_key: [7; 32],
            boot: 1,
            member: 2,
            seed: [1; 32],
            connections_max: 1_000,
            transactions_max: 1_000,
            unregistered_per_source_max: 100,
        }
    }

    /// A listening point.
    #[must_use]
    pub fn point(&self, id: PointId) -> &Point {
        &self.points[usize::from(id.0)]
    }

    /// The point that messages towards `remote`, on `side`, over `transport` leave from: of those whose address is of
    /// its family, the first that serves only this side, else the first that serves both.
    #[must_use]
    pub fn point_for(&self, transport: Transport, side: Side, remote: IpAddr) -> Option<PointId> {
        pick(&self.points, transport, side, remote)
    }

    /// Unregistered connections that an address may have.
    #[must_use]
    pub fn unregistered_max(&self, ip: IpAddr) -> u32 {
        NetworkRule::at(&self.live.networks, ip).map_or(self.unregistered_per_source_max, |rule| rule.unregistered_max)
    }

    /// TLS handshakes in the air that an address may have, of a shard.
    #[must_use]
    pub fn handshakes_max(&self, ip: IpAddr) -> usize {
        NetworkRule::at(&self.live.networks, ip).map_or(HANDSHAKES_PER_SOURCE_MAX, |rule| rule.handshakes_max)
    }

    /// Whether a load balancer is at an address, whose connections begin with a PROXY header.
    #[must_use]
    pub fn is_balancer(&self, ip: IpAddr) -> bool {
        NetworkRule::at(&self.live.networks, ip).is_some_and(|rule| rule.proxy_protocol)
    }

    /// Whether an address that only fails is slowed and shut out. Behind a load balancer's is everybody.
    #[must_use]
    pub fn bans(&self, ip: IpAddr) -> bool {
        NetworkRule::at(&self.live.networks, ip).is_none_or(|rule| rule.bans && !rule.proxy_protocol)
    }

    /// The rule for a device at an address: that of the smallest network that holds it.
    #[must_use]
    pub fn device_at(&self, ip: IpAddr) -> Option<&Device> {
        let holds = self.devices.iter().filter(|rule| rule.network.contains(ip));
        holds.max_by_key(|rule| rule.network.prefix_len)
    }
}

fn pick(points: &[Point], transport: Transport, side: Side, remote: IpAddr) -> Option<PointId> {
    let serves = |only: Option<Side>| {
        points.iter().position(|point| {
            point.transport == transport && point.side == only && point.bind.is_ipv4() == remote.is_ipv4()
        })
    };
    let at = serves(Some(side)).or_else(|| serves(None))?;
    u8::try_from(at).ok().map(PointId)
}

#[cfg(test)]
mod tests {
    use super::super::value::{Host, Network, Verify};
    use super::*;

    fn point(transport: Transport, bind: &str, side: Option<Side>) -> Point {
        let bind: SocketAddr = bind.parse().expect("an address");
        Point { transport, bind, advertised_host: bind.ip().to_string(), advertised_port: bind.port(), side }
    }

    #[test]
    fn of_several_rules_for_a_device_the_one_of_the_smallest_network_counts() {
        let rule = |network: &str, tls_name: &str| Device {
            network: Network::parse(network).expect("a network"),
            tls_name: Host::parse(tls_name),
            verify: Verify::Name,
            setup: None,
        };
        let devices = vec![rule("10.0.0.0/8", "all"), rule("10.1.0.0/16", "some"), rule("2001:db8::/32", "v6")];
        let settings = Settings { devices, ..Settings::plain(Vec::new(), Vec::new()) };
        let named = |ip: &str| settings.device_at(ip.parse().expect("an address")).and_then(|d| d.tls_name.clone());
        assert_eq!(named("10.1.2.3"), Host::parse("some"));
        assert_eq!(named("10.2.2.3"), Host::parse("all"));
        assert_eq!(named("2001:db8::1"), Host::parse("v6"));
        assert_eq!(named("11.0.0.1"), None);
    }

    #[test]
    fn a_point_is_picked_by_side_transport_and_family() {
        let points = [
            point(Transport::Udp, "10.0.0.1:5060", None),
            point(Transport::Udp, "[::]:5060", Some(Side::Endpoint)),
            point(Transport::Udp, "10.0.0.2:5060", Some(Side::Server)),
            point(Transport::Udp, "10.0.0.3:5060", Some(Side::Server)),
            point(Transport::Tls, "10.0.0.4:5061", Some(Side::Endpoint)),
        ];
        let picked = |transport, side, remote: &str| {
            pick(&points, transport, side, remote.parse().expect("an address")).map(|id| id.0)
        };
        assert_eq!(picked(Transport::Udp, Side::Endpoint, "10.9.9.9"), Some(0), "the one for both sides");
        assert_eq!(picked(Transport::Udp, Side::Endpoint, "::1"), Some(1), "the one of its family");
        assert_eq!(picked(Transport::Udp, Side::Server, "10.9.9.9"), Some(2), "its own side first, in their order");
        assert_eq!(picked(Transport::Udp, Side::Server, "::1"), None, "never another family or side");
        assert_eq!(picked(Transport::Tls, Side::Endpoint, "10.9.9.9"), Some(4));
        assert_eq!(picked(Transport::Tls, Side::Server, "10.9.9.9"), None);
        assert_eq!(picked(Transport::Tcp, Side::Endpoint, "10.9.9.9"), None);
    }
}
