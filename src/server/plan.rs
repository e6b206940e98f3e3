//! From settings to what each shard is made with.

use std::sync::Arc;

use super::checks::{Capacity, PortWait};
use super::error::StartError;
use super::resolvers;
use super::secrets;
use crate::config::Config;
use crate::engine::{Live, Point, Settings};
use crate::ids::{ShardId, Transport};
use crate::limits::UNREGISTERED_PER_SOURCE_MAX;
use crate::shard::Socket;
use crate::transport::socket::{self, TOS_UNSET};

/// `sip-ip-tos` as the sockets want it.
#[must_use]
pub fn tos(config: &Config) -> u32 {
    config.sipproxy.sip_ip_tos.map_or(TOS_UNSET, u32::from)
}

/// The listening points of every shard.
#[must_use]
pub fn points(config: &Config) -> Vec<Point> {
    let point = |listener: &crate::config::Listener, (transport, bind): (Transport, std::net::SocketAddr)| Point {
        transport,
        bind,
        advertised_host: listener.advertised_host(),
        advertised_port: bind.port(),
        side: listener.side,
    };
    config.listeners.iter().flat_map(|l| l.sockets().map(move |socket| point(l, socket))).collect()
}

/// What may change while the shards run.
#[must_use]
pub fn live(config: &Config) -> Live {
    let sipproxy = &config.sipproxy;
    Live {
        oos_check: sipproxy.oos_check,
        oos_force: sipproxy.oos_force,
        trusted: sipproxy.trusted_sources.iter().map(|network| (network.address, network.prefix_len)).collect(),
        networks: config.networks.clone(),
        domains: sipproxy.domains.clone(),
        path_add_supported: sipproxy.path_add_supported,
        flow_grace: sipproxy.flow_grace,
        t1: config.timers.t1,
        t2: config.timers.t2,
        t4: config.timers.t4,
        timer_c: config.timers.c,
        udp_oversize: sipproxy.udp_oversize_action,
        dialog_rate: sipproxy.overload_ctrl_dialog_rate,
        log_level: config.log.level,
    }
}

/// The settings of each shard's engine.
///
/// # Errors
/// A secret is missing.
pub fn settings(config: &Config, shards: u8, capacity: Capacity) -> Result<Vec<Settings>, StartError> {
    let sipproxy = &config.sipproxy;
    let points = points(config);
    let (host, port) = points.first().map_or(("", 0), |p| (p.advertised_host.as_str(), p.advertised_port));
    let common = Settings {
        live: live(config),
        shard: ShardId(0),
        shards,
        member: secrets::member(host, port),
        servers: config.servers.clone(),
        serving: sipproxy.serving_sipserver.and_then(|at| u8::try_from(at).ok()).unwrap_or(0),
        peers: config.peers.clone(),
        devices: config.devices.clone(),
        dialog_rate: Arc::default(),
        client_aor: config.security.client_aor,
        sticky: sipproxy.sticky,
        dns: resolvers::settings(&config.dns),
        token_key: secrets::token_key(sipproxy.flow_token_key_file.as_deref())?,
        boot: u32::from_ne_bytes(secrets::random()?),
        seed: [0; 32],
        connections_max: capacity.connections_max,
        transactions_max: capacity.transactions_max,
        unregistered_per_source_max: UNREGISTERED_PER_SOURCE_MAX,
        points,
    };
    (0..shards)
        .map(|shard| Ok(Settings { shard: ShardId(shard), seed: secrets::random()?, ..common.clone() }))
        .collect()
}

/// One shard's sockets, in the order of the points.
///
/// # Errors
/// One cannot be bound.
pub fn sockets(points: &[Point], tos: u32, wait: PortWait) -> Result<Vec<Socket>, StartError> {
    points
        .iter()
        .map(|point| {
            wait.bind(point.transport.param_name(), point.bind, || match point.transport {
                Transport::Udp => socket::udp(point.bind, tos).map(Socket::Udp),
                Transport::Tcp | Transport::Tls => socket::listen(point.bind, tos).map(Socket::Listener),
            })
        })
        .collect()
}
