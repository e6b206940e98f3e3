//! What one party may take of the memory and the tables that all share: it leaves room for others.

use hawser::engine::{Settings, Sticky};
use hawser::ids::Transport;
use hawser::limits::{MESSAGE_LEN_MAX, TRANSACTION_LEN, WAITERS_PER_BINDING_MAX};
use hawser::stats::{Counter, Gauge};

use crate::registration::user_with_home;
use crate::stage::{ask, cancel};
use crate::talk::{Phone, answer, headers};
use crate::world::{SERVER, Setup, TLS, World};

/// Transactions are counted for two messages of a usual size, and a message may be 64 KiB.
#[test]
fn large_requests_are_refused_before_they_take_the_memory_of_other_transactions() {
    let of_100 = |settings: &mut Settings| settings.transactions_max = 100;
    let setup = Setup { shards: 1, internal: Transport::Tcp, mutate: of_100, ..Setup::default() };
    let mut world = World::new(&setup);
    let bytes = |world: &World| world.engines[0].snapshot().gauges.of(Gauge::TransactionsBytes);
    let wire = world.connect(0, TLS);
    let body = "b".repeat(60_000);
    let large = |id: &str| ask("INVITE", id).replace("Length: 0\r\n\r\n", &format!("Length: 60000\r\n\r\n{body}"));
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for at in 0..40 {
        let invite = large(&format!("l{at}"));
        world.write(wire, &invite);
        if at == 0 {
            world.ready(world.opened[0].0);
        }
        match world.try_read(world.opened[0].0) {
            Some(sent) => taken.push((invite, sent)),
            None => refused.push(world.expect(wire, "SIP/2.0 503 Too Many Transactions")),
        }
        // Each is sent on once, and a buffer grows to twice its text at most.
        let bound = 100 * TRANSACTION_LEN + 4 * MESSAGE_LEN_MAX;
        assert!(bytes(&world) <= bound as u64, "{at}: {}", bytes(&world));
    }
    assert!(taken.len() >= 3 && refused.len() > 20, "{} are taken, {} refused", taken.len(), refused.len());
    assert!(refused.iter().all(|text| headers(text, "Retry-After").len() == 1));
    assert_eq!(world.counted(Counter::LimitTransactionLen), refused.len() as u64);
    assert_eq!(world.counted(Counter::LimitTransactions), 0, "there are few of them");
    world.write(wire, &ask("OPTIONS", "small"));
    world.expect(wire, "SIP/2.0 503");

    // What belongs to those that live goes on: a response, a CANCEL, an ACK.
    let server = world.opened[0].0;
    let mut taken = taken.into_iter();
    let (invite, sent) = taken.next().expect("one");
    world.write(server, &answer(&sent, "180 Ringing", "s", ""));
    world.expect(wire, "SIP/2.0 180");
    world.write(wire, &cancel(&invite));
    world.expect(wire, "SIP/2.0 200");
    let cancel = world.expect(server, "CANCEL ");
    world.write(server, &answer(&cancel, "200 OK", "s", ""));
    world.write(server, &answer(&sent, "487 Request Terminated", "s", ""));
    world.expect(server, "ACK ");
    world.expect(wire, "SIP/2.0 487");
    for (_, sent) in taken {
        world.write(server, &answer(&sent, "486 Busy Here", "s", ""));
        world.expect(server, "ACK ");
        world.expect(wire, "SIP/2.0 486");
    }
    // A final response lets go of both messages: there is room again.
    world.write(wire, &ask("OPTIONS", "later"));
    let sent = world.expect(server, "OPTIONS ");
    world.write(server, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    world.pass_s(40);
    assert_eq!(bytes(&world), 0);
    world.end();
}

/// A small message of many short fields: what it is read into is larger than its text.
#[test]
fn a_request_counts_with_what_its_header_fields_take() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let bytes = |world: &World| world.engines[0].snapshot().gauges.of(Gauge::TransactionsBytes);
    let wire = world.connect(0, TLS);
    world.write(wire, &ask("OPTIONS", "few"));
    let few = bytes(&world);
    assert!(few > 0 && few < TRANSACTION_LEN as u64, "{few}");
    world
        .write(wire, &ask("OPTIONS", "many").replace("Max-Forwards", &format!("{}Max-Forwards", "a:\r\n".repeat(200))));
    assert!(bytes(&world) > 2 * few + 200 * 16, "{}", bytes(&world) - few);
    world.drain();
    world.end();
}

/// Registers over UDP from an address, and is told so.
fn register_from(world: &mut World, phone: &mut Phone, from: &str) {
    let text = phone.register_text(3_600);
    world.datagram(0, from, &text);
    phone.accept_register(world, 3_600);
    assert!(world.read_udp(from).starts_with("SIP/2.0 200"));
}

#[test]
fn udp_addresses_that_their_phone_has_left_make_room_for_other_phones() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        let of_50 = |settings: &mut Settings| settings.connections_max = 50;
        let mut world = World::new(&Setup { sticky, shards: 1, mutate: of_50, ..Setup::default() });
        let flows = |world: &World| world.engines[0].snapshot().gauges.of(Gauge::UdpFlows);
        let wire = world.connect(0, TLS);
        let [mut restless, mut honest] =
            ["mallory", "alice"].map(|user| Phone { via: "UDP", ..Phone::new(user, wire) });
        register_from(&mut world, &mut restless, "10.6.6.6:19999");
        let old = restless.server_request("MESSAGE", "m1", 1);
        // There and back again, many times: each address has one place among those that give way.
        for at in 0..100 {
            register_from(&mut world, &mut restless, &format!("10.6.6.6:{}", 19_999 - at % 2));
        }
        assert_eq!(flows(&world), 2);
        for port in 20_000..20_080 {
            register_from(&mut world, &mut restless, &format!("10.6.6.6:{port}"));
        }
        assert_eq!(flows(&world), 50);
        assert_eq!(world.counted(Counter::LimitConnections), 80 + 2 - 50);
        assert_eq!(world.counted(Counter::BindingFlowLost), 0, "nobody was refused");
        register_from(&mut world, &mut honest, "10.7.7.7:5060");
        for (phone, id, at) in [(&honest, "v1", "10.7.7.7:5060"), (&restless, "m2", "10.6.6.6:20079")] {
            let call = phone.server_request("MESSAGE", id, 1);
            world.datagram(0, SERVER, &call);
            assert!(world.read_udp(at).starts_with("MESSAGE "), "{sticky:?}");
        }
        // What names an address that gave way follows its phone.
        world.datagram(0, SERVER, &old);
        assert!(world.read_udp("10.6.6.6:20079").starts_with("MESSAGE "), "{sticky:?}");
        world.drain();
        world.end();
    }
}

/// Two phones behind one address: one has left it for an address that is forgotten since, the other after that.
#[test]
fn a_phone_is_not_looked_for_at_an_address_that_gave_way() {
    for home_of in [0, 1] {
        let of_3 = |settings: &mut Settings| settings.connections_max = 3;
        let mut world = World::new(&Setup { shards: 2, mutate: of_3, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let user = user_with_home(&world, home_of);
        let mut one = Phone { via: "UDP", ..Phone::new(user, wire) };
        let mut two = Phone { via: "UDP", ..Phone::new("other", wire) };
        for phone in [&mut one, &mut two] {
            register_from(&mut world, phone, "10.6.6.6:1");
        }
        let old = one.server_request("MESSAGE", "m1", 1);
        register_from(&mut world, &mut one, "10.6.6.6:2");
        register_from(&mut world, &mut one, "10.6.6.6:3");
        register_from(&mut world, &mut two, "10.6.6.6:4");
        world.datagram(0, SERVER, &old);
        assert!(world.read_udp("10.6.6.6:3").starts_with("MESSAGE "), "{home_of}");
        world.drain();
        world.end();
    }
}

/// The home looks for each that has waited in vain among all that wait for the same phone, so these are bounded: and
/// whoever waits for another phone is no worse off.
#[test]
fn so_many_answers_wait_for_one_phone_and_no_more() {
    let of_20_000 = |settings: &mut Settings| settings.transactions_max = 20_000;
    for comes_back in [true, false] {
        let mut world = World::new(&Setup { shards: 1, mutate: of_20_000, ..Setup::default() });
        let waiting = |world: &World| world.engines[0].snapshot().gauges.of(Gauge::ContextsGrace);
        let (one, other) = (world.connect(0, TLS), world.connect(0, TLS));
        let [mut phone, mut honest] = [("mallory", one), ("alice", other)].map(|(user, wire)| Phone::new(user, wire));
        phone.register(&mut world, 3_600);
        honest.register(&mut world, 3_600);
        let mut asked = Vec::new();
        for at in 0..=WAITERS_PER_BINDING_MAX {
            world.write(one, &ask("MESSAGE", &format!("w{at}")).replace("alice", "mallory"));
            asked.push(world.expect_server("MESSAGE "));
        }
        world.write(other, &ask("MESSAGE", "h"));
        let honest_asked = world.expect_server("MESSAGE ");
        world.hang_up(one);
        world.hang_up(other);
        for (at, text) in asked.iter().enumerate() {
            assert_eq!(world.counted(Counter::LimitWaitersPerBinding), 0, "{at}");
            assert_eq!(waiting(&world), at as u64);
            world.datagram(0, SERVER, &answer(text, "200 OK", "s", ""));
        }
        assert_eq!(world.counted(Counter::LimitWaitersPerBinding), 1);
        assert_eq!(world.counted(Counter::ResponseConnectionGone), 1, "the last one waits for nobody");
        world.datagram(0, SERVER, &answer(&honest_asked, "200 OK", "s", ""));
        assert_eq!(waiting(&world), WAITERS_PER_BINDING_MAX as u64 + 1);
        if comes_back {
            phone.wire = world.connect(0, TLS);
            phone.register(&mut world, 3_600);
            let answers = std::iter::from_fn(|| world.try_read(phone.wire)).count();
            assert_eq!(answers, WAITERS_PER_BINDING_MAX);
        }
        world.pass_ms(3_200);
        assert_eq!(waiting(&world), 0);
        world.drain();
        world.end();
    }
}

/// What waits in no transaction (responses, ACKs) may be large as well, and many phones may be away.
#[test]
fn large_answers_that_wait_for_phones_take_no_more_memory_than_transactions_may() {
    let of_50 = |settings: &mut Settings| settings.transactions_max = 50;
    let mut world = World::new(&Setup { shards: 1, mutate: of_50, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.register(&mut world, 3_600);
    let asked = (0..20).map(|at| {
        world.write(wire, &ask("MESSAGE", &format!("w{at}")));
        world.expect_server("MESSAGE ")
    });
    let asked: Vec<_> = asked.collect();
    world.hang_up(wire);
    let large = format!("Content-Length: 60000\r\n\r\n{}", "b".repeat(60_000));
    for text in &asked {
        let large = answer(text, "200 OK", "s", "").replace("Content-Length: 0\r\n\r\n", &large);
        world.datagram(0, SERVER, &large);
    }
    let waiting = world.engines[0].snapshot().gauges.of(Gauge::ContextsGrace);
    assert!((3..=7).contains(&waiting), "{waiting} of 60 kB are in 400 KiB");
    assert_eq!(world.counted(Counter::LimitTransactionLen), 20 - waiting);
    assert_eq!(world.counted(Counter::ResponseConnectionGone), 20 - waiting);
    phone.wire = world.connect(0, TLS);
    phone.register(&mut world, 3_600);
    assert_eq!(std::iter::from_fn(|| world.try_read(phone.wire)).count() as u64, waiting);
    world.drain();
    world.end();
}
