//! Networks whose addresses have shares of their own.

use std::net::SocketAddr;

use hawser::config::{Network, NetworkRule};
use hawser::engine::{Accept, Input, Refusal};
use hawser::stats::Counter;

use crate::talk::Phone;
use crate::world::{Setup, TLS, World};

fn rule(network: &str, prefix_len: u8, unregistered_max: u32) -> NetworkRule {
    let network = Network { address: network.parse().expect("an address"), prefix_len };
    NetworkRule { network, unregistered_max, handshakes_max: 192, proxy_protocol: false, bans: true }
}

fn setup() -> Setup {
    Setup {
        shards: 1,
        mutate: |settings| {
            settings.unregistered_per_source_max = 1;
            settings.live.networks = vec![rule("10.1.0.0", 16, 2), rule("10.1.1.0", 24, 3)];
        },
        ..Setup::default()
    }
}

/// How many connections without a binding an address may open, up to ten.
fn opened(world: &mut World, ip: [u8; 4]) -> usize {
    let before = world.counted(Counter::LimitUnregisteredPerSource);
    let now = world.now;
    let mut open = |port| {
        let accepted = world.engines[0]
            .accept(Accept { point: TLS, peer: SocketAddr::from((ip, port)), is_forwarded: false }, now);
        assert!(matches!(accepted, Ok(_) | Err(Refusal::Source)), "{accepted:?}");
        accepted.is_ok()
    };
    let count = (1..=10).take_while(|port| open(*port)).count();
    assert_eq!(world.counted(Counter::LimitUnregisteredPerSource) - before, u64::from(count < 10));
    count
}

#[test]
fn each_address_may_open_as_many_connections_as_the_smallest_network_says_that_holds_it() {
    let mut world = World::new(&setup());
    assert_eq!(opened(&mut world, [10, 2, 0, 1]), 1, "no network holds it");
    assert_eq!(opened(&mut world, [10, 1, 2, 1]), 2);
    assert_eq!(opened(&mut world, [10, 1, 1, 1]), 3);
    assert_eq!(opened(&mut world, [10, 1, 1, 2]), 3, "its neighbour has its own share");
    let mut live = world.engines[0].settings().live.clone();
    live.networks = vec![rule("10.1.0.0", 16, 4)];
    world.input(0, Input::Live(Box::new(live)));
    assert_eq!(opened(&mut world, [10, 1, 2, 1]), 2, "two more, with what it holds");
    assert_eq!(opened(&mut world, [10, 1, 1, 1]), 1);
    let now = world.now;
    world.engines[0].close_all(now);
    world.end();
}

#[test]
fn a_phone_that_registers_makes_room_for_the_next_one_behind_its_address() {
    let mut world = World::new(&setup());
    let from = |port| SocketAddr::from(([10, 2, 0, 1], port));
    let wire = world.connect_from(0, TLS, from(1));
    let now = world.now;
    assert_eq!(
        world.engines[0].accept(Accept { point: TLS, peer: from(2), is_forwarded: false }, now),
        Err(Refusal::Source)
    );
    Phone::new("alice", wire).register(&mut world, 3_600);
    let _second = world.connect_from(0, TLS, from(2));
    world.end();
}
