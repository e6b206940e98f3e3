//! Settings that change while the engines run.

use std::time::Duration;

use hawser::engine::{Input, Live};

use crate::calls::{answered, registered};
use crate::stage::{everywhere, paired};
use crate::world::{SERVER, Setup, World};

/// Every shard hears of the change.
fn change(world: &mut World, what: impl Fn(&mut Live)) {
    let mut live = world.engines[0].settings().live.clone();
    what(&mut live);
    for shard in 0..u8::try_from(world.engines.len()).expect("few") {
        world.input(shard, Input::Live(Box::new(live.clone())));
    }
}

#[test]
fn a_source_is_trusted_and_a_domain_is_ours_from_the_change_on() {
    let mut world = World::new(&Setup::default());
    let options = |host: &str, n: u32| {
        format!(
            "OPTIONS sip:{host} SIP/2.0\r\nVia: SIP/2.0/UDP sips.example.com:2222;branch=z9hG4bKo{n}\r\n\
             From: <sip:a@example.com>;tag=a\r\nTo: <sip:{host}>\r\nCall-ID: o{n}\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    // To a stranger at its source, to a server at its Via.
    let from = "10.7.0.1:1111";
    world.datagram(0, from, &options("127.0.0.1", 1));
    assert!(world.read_udp(from).starts_with("SIP/2.0 200"));
    world.datagram(1, from, &options("new.example", 2));
    world.expect_server("OPTIONS sip:new.example ");
    change(&mut world, |live| {
        live.trusted.push(("10.7.0.1".parse().expect("an address"), 32));
        live.domains.push("New.Example".into());
    });
    for shard in 0..2 {
        world.datagram(shard, from, &options("new.example", 3 + u32::from(shard)));
        assert!(world.read_udp("10.7.0.1:2222").starts_with("SIP/2.0 200"));
    }
    change(&mut world, |live| live.trusted.clear());
    world.datagram(0, from, &options("new.example", 5));
    assert!(world.read_udp(from).starts_with("SIP/2.0 200"));
    world.end();
}

#[test]
fn patience_with_a_phone_that_is_away_follows_the_change() {
    let (mut world, phone) = registered();
    let (mut server, _) = answered(&mut world, &phone, "c1");
    world.hang_up(phone.wire);
    let via = format!("UDP {SERVER}");
    world.datagram(0, SERVER, &server.request("INFO", &via));
    world.assert_silent();
    change(&mut world, |live| live.flow_grace = Duration::ZERO);
    world.datagram(0, SERVER, &server.request("INFO", &via));
    world.expect_server("SIP/2.0 480");
    world.assert_silent();
    // The one that waited before the change waits on.
    world.pass_s(4);
    world.expect_server("SIP/2.0 480");
    world.end();
}

#[test]
fn service_checks_keep_to_the_new_times_and_are_not_turned_off() {
    everywhere(paired, |mut stage| {
        change(&mut stage.world, |live| live.oos_check = Duration::from_secs(300));
        stage.pass_s(30);
        let before = stage.pings(SERVER);
        assert!(before <= 2, "{before}");
        change(&mut stage.world, |live| live.oos_check = Duration::from_secs(1));
        stage.pass_ms(10_100);
        let since = stage.pings(SERVER) - before;
        assert!((9..=12).contains(&since), "{since}");
        change(&mut stage.world, |live| live.oos_check = Duration::ZERO);
        stage.pass_ms(10_100);
        assert!(stage.pings(SERVER) >= before + since + 9);
        stage.end();
    });
}
