//! Contacts: several in one REGISTER, the same of several phones, changing with the connection, and aliases.

use hawser::engine::Sticky;
use hawser::stats::Counter;

use crate::registration::user_with_home;
use crate::talk::{Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TLS, World};

const MODES: [Sticky; 3] = [Sticky::Path, Sticky::Contact, Sticky::Aor];

fn bindings(world: &World, user: &str) -> Vec<String> {
    let aor = format!("sip:{user}@example.com");
    let all = world.engines.iter().flat_map(|engine| engine.locate(&aor, world.now));
    all.map(|located| located.contact).collect()
}

/// The server asks for the phone, who must hear it.
fn reach(world: &mut World, phone: &Phone, call_id: &str) {
    let request = phone.server_request("OPTIONS", call_id, 1);
    world.datagram(0, SERVER, &request);
    let options = world.read(phone.wire);
    assert_eq!(start_line(&options), format!("OPTIONS {} SIP/2.0", phone.contact));
    world.write(phone.wire, &answer(&options, "200 OK", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
}

#[test]
fn a_phone_without_instance_whose_contact_changes_with_its_connection_stays_one_binding() {
    for sticky in MODES {
        for shards in [1, 2, 4] {
            let mut world = World::new(&Setup { sticky, shards, ..Setup::default() });
            let wire = world.connect(0, TLS);
            let mut phone = Phone::new("alice", wire);
            phone.params = "";
            for (at, user) in ["alice", "x1", "x2", "alice", "x3"].iter().enumerate() {
                phone.wire = world.connect(u8::try_from(at).expect("few") % shards, TLS);
                phone.contact = format!("sip:{user}@192.0.2.7:{};transport=tls", 40_000 + at);
                phone.register(&mut world, 600);
                assert_eq!(bindings(&world, "alice"), [phone.contact.clone()]);
                reach(&mut world, &phone, &format!("r{at}"));
            }
            world.end();
        }
    }
}

#[test]
fn one_contact_of_several_is_taken_back_and_the_others_stay() {
    for sticky in MODES {
        let mut world = World::new(&Setup { sticky, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        phone.params = "";
        let second = "sip:alice@192.0.2.8:5060;transport=tls";
        let first = phone.contact.clone();
        let text = phone.register_text(600).replacen("Contact:", &format!("Contact: <{second}>\r\nContact:"), 1);
        // <second>, <first>
        world.write(wire, &text);
        let request = world.read_server();
        let contacts: String = headers(&request, "Contact")
            .iter()
            .map(|contact| format!("Contact: <{}>;expires=600\r\n", uri(contact)))
            .collect();
        world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", &contacts));
        let response = world.read(wire);
        let told: Vec<&str> = headers(&response, "Contact").iter().map(|contact| uri(contact)).collect();
        assert_eq!(told, [second, first.as_str()], "the phone sees its own");
        let mut bound = bindings(&world, "alice");
        bound.sort();
        assert_eq!(bound, [first.as_str(), second]);
        // Now <first> alone, with Expires: 0.
        phone.send_register(&mut world, 0);
        let request = world.read_server();
        world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", ""));
        world.read(wire);
        assert_eq!(bindings(&world, "alice"), [second], "{sticky:?}");
        world.end();
    }
}

/// Two phones behind different NATs that both call themselves the same, with their homes at `homes`.
fn twins(homes: [u8; 2]) -> (World, [Phone; 2]) {
    let mut world = World::new(&Setup { sticky: Sticky::Aor, shards: 2, ..Setup::default() });
    let keys = hawser::flow::keys::Keys::new(&[7; 32]);
    let names = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mike", "nina"];
    let mut free = names.to_vec();
    let phones = homes.map(|home| {
        let at = free.iter().position(|name| keys.user16(name.as_bytes()) % 2 == u16::from(home)).expect("one");
        let user = free.remove(at);
        let wire = world.connect(home, TLS);
        let mut phone = Phone::new(user, wire);
        phone.params = "";
        "sip:line1@192.168.1.10:5060;transport=tls".clone_into(&mut phone.contact);
        phone.register(&mut world, 600);
        phone
    });
    (world, phones)
}

#[test]
fn with_sticky_aor_a_contact_that_two_users_have_rings_only_whom_to_names() {
    for homes in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        let (mut world, phones) = twins(homes);
        for (at, phone) in phones.iter().enumerate() {
            reach(&mut world, phone, &format!("t{at}"));
        }
        // To names neither: nobody's phone rings.
        let mut nobody = phones[0].clone();
        nobody.user = "group42";
        let request = nobody.server_request("INVITE", "n1", 1);
        world.datagram(0, SERVER, &request);
        assert!(world.read_server().starts_with("SIP/2.0 480"), "{homes:?}");
        for phone in &phones {
            assert_eq!(world.try_read(phone.wire), None, "{homes:?}");
        }
        // One has gone: the Contact is the other's alone.
        world.hang_up(phones[0].wire);
        reach(&mut world, &phones[1], "t3");
        world.drain();
        world.end();
    }
}

#[test]
fn with_sticky_aor_another_users_contact_name_gets_no_calls_whatever_its_home() {
    for home in [0, 1] {
        let mut world = World::new(&Setup { sticky: Sticky::Aor, ..Setup::default() });
        let victim = user_with_home(&world, 0);
        let wire = world.connect(home, TLS);
        let names = ["mallory", "mallet", "mal", "mal2", "mal3", "mal4"];
        let keys = hawser::flow::keys::Keys::new(&[7; 32]);
        let name = names.into_iter().find(|name| keys.user16(name.as_bytes()) % 2 == u16::from(home)).expect("one");
        let mut mallory = Phone::new(name, wire);
        mallory.contact = format!("sip:{victim}@192.0.2.7:5060;transport=tls");
        mallory.register(&mut world, 600);
        let mut stale = mallory.clone();
        stale.user = victim;
        let request = stale.server_request("INVITE", "a1", 1);
        world.datagram(0, SERVER, &request);
        assert_eq!(world.try_read(wire), None);
        world.expect_server("SIP/2.0 480");
        world.end();
    }
}

#[test]
fn an_alias_in_an_endpoints_request_leads_nowhere() {
    let mut world = World::new(&Setup { sticky: Sticky::Contact, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut alice = Phone::new("alice", wire);
    alice.register(&mut world, 600);
    let other = world.connect(0, TLS);
    let text = alice.server_request("MESSAGE", "m1", 1).replace(&format!("UDP {SERVER}"), "TLS 192.0.2.66:5060");
    world.write(other, &text);
    world.expect(other, "SIP/2.0 403");
    world.assert_silent();
    world.end();
}

#[test]
fn a_register_is_answered_over_its_own_connection_though_the_binding_was_elsewhere() {
    // Home and both connections at one shard, and apart.
    for shards in [1, 2] {
        let mut world = World::new(&Setup { shards, ..Setup::default() });
        let first = world.connect(0, TLS);
        let mut phone = Phone::new("alice", first);
        phone.register(&mut world, 600);
        let second = world.connect(shards - 1, TLS);
        phone.wire = second;
        phone.register(&mut world, 600);
        phone.wire = first;
        phone.register(&mut world, 600);
        assert_eq!(world.try_read(second), None);
        world.end();
    }
}

#[test]
fn a_contact_that_is_no_sip_uri_passes_and_binds_nothing() {
    for sticky in MODES {
        let mut world = World::new(&Setup { sticky, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        let text = phone.register_text(600).replacen("Contact:", "Contact: <mailto:alice@example.com>\r\nContact:", 1);
        world.write(wire, &text);
        let request = world.read_server();
        assert_eq!(headers(&request, "Contact")[0], "<mailto:alice@example.com>");
        world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", ""));
        world.read(wire);
        assert_eq!(bindings(&world, "alice"), [phone.contact.clone()]);
        world.end();
    }
}

#[test]
fn behind_another_proxy_the_path_does_not_say_that_we_hold_the_phones_flow() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    let text = phone.register_text(600).replacen("Via:", "Via: SIP/2.0/TLS 10.4.4.4;branch=z9hG4bKp\r\nVia:", 1);
    world.write(wire, &text);
    let request = world.read_server();
    assert!(!header(&request, "Path").contains(";ob"), "{request}");
    world.datagram(0, SERVER, &answer(&request, "403 No", "s", ""));
    world.drain();
    world.end();
}

#[test]
fn a_register_of_the_server_binds_nothing() {
    let (mut world, phone) = crate::calls::registered();
    let (_, sent) = phone.asked(&mut world, "REGISTER", "sr");
    world.write(phone.wire, &answer(&sent, "200 OK", "p", &format!("Contact: <{}>;expires=60\r\n", phone.contact)));
    world.expect_server("SIP/2.0 200");
    assert_eq!(world.counted(Counter::BindingBound), 1);
    world.end();
}
