//! The proxy, the server and the strangers of the checks that need some.

use std::net::SocketAddr;

use hawser::config::Server;
use hawser::engine::{Point, Settings};
use hawser::flow::keys::Keys;
use hawser::ids::{ConnId, FlowRef, PointId, ShardId, Side, Transport};
use hawser::proxy::Source;
use hawser::proxy::target::Incarnation;

pub const UDP: PointId = PointId(0);
pub const TCP: PointId = PointId(1);
pub const TLS: PointId = PointId(2);

pub const SERVER: &str = "192.0.2.50:5060";
/// Where the proxy is, but for the port.
pub const PROXY: [u8; 4] = [192, 0, 2, 20];

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address of ours")
}

pub fn point(transport: Transport, port: u16) -> Point {
    let bind = SocketAddr::from((PROXY, port));
    Point { transport, bind, advertised_host: bind.ip().to_string(), advertised_port: port, side: None }
}

/// One shard with a point of each transport, and one SIP Server.
pub fn settings(internal: Transport) -> Settings {
    let points = vec![point(Transport::Udp, 5060), point(Transport::Tcp, 5060), point(Transport::Tls, 5061)];
    Settings::plain(points, vec![Server::at("sips1", address(SERVER), internal)])
}

pub fn here(settings: &Settings) -> Incarnation {
    let Settings { boot, member, shards, .. } = *settings;
    Incarnation { boot, member, shards, points: settings.points.len() }
}

pub fn keys() -> Keys {
    Keys::new(&settings(Transport::Udp).token_key)
}

pub fn stream(slot: u32) -> FlowRef {
    FlowRef::Stream { shard: ShardId(0), conn: ConnId { slot, generation: 1 }, point: TLS }
}

pub fn udp(from: SocketAddr) -> FlowRef {
    FlowRef::Udp { shard: ShardId(0), point: UDP, remote: from }
}

/// An endpoint of which nothing is known, over its connection or by datagrams.
pub fn stranger(over_stream: bool) -> Source {
    let peer = address("198.51.100.66:40000");
    let flow = if over_stream { stream(66) } else { udp(peer) };
    Source { flow, peer, side: Side::Endpoint, is_peer: false, is_forwarded: false, binding: None }
}

/// The SIP Server, over UDP.
pub fn server() -> Source {
    let peer = address(SERVER);
    Source { flow: udp(peer), peer, side: Side::Server, is_peer: false, is_forwarded: false, binding: None }
}
