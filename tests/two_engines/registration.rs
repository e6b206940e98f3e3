//! REGISTER in all three modes, and what binds and unbinds.

use std::time::Duration;

use hawser::engine::Sticky;
use hawser::ids::Transport;
use hawser::stats::Counter;
use hawser::tls::identity::Identities;

use crate::stage::ask;
use crate::talk::{Phone, answer, header, headers, start_line};
use crate::world::{SERVER, Setup, TLS, World};

/// A phone whose home is the other shard than the one that it connects to.
pub fn user_with_home(world: &World, shard: u8) -> &'static str {
    let users = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
    let keys = hawser::flow::keys::Keys::new(&[7; 32]);
    let shards = u16::try_from(world.engines.len()).expect("few");
    users.into_iter().find(|user| keys.user16(user.as_bytes()) % shards == u16::from(shard)).expect("one of eight")
}

#[test]
fn a_register_passes_with_a_path_and_is_bound_at_its_home_shard() {
    let mut world = World::new(&Setup { shards: 2, ..Setup::default() });
    let wire = world.connect(1, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    let response = phone.register(&mut world, 600);
    assert_eq!(start_line(&response), "SIP/2.0 200 OK");
    assert_eq!(headers(&response, "Via").len(), 1);
    assert_eq!(phone.path.len(), 1);
    assert!(phone.path[0].contains("@127.0.0.1:5060"), "the Path faces the server: {}", phone.path[0]);
    assert!(phone.path[0].contains(";lr"), "{}", phone.path[0]);
    assert!(phone.path[0].contains(";ob"), "a phone with a reg-id: {}", phone.path[0]);
    let aor = format!("sip:{}@example.com", phone.user);
    assert_eq!(world.engines[0].locate(&aor, world.now).len(), 1);
    assert_eq!(world.engines[1].locate(&aor, world.now).len(), 0);
    assert_eq!(world.engines[0].locate(&aor, world.now)[0].flow.shard().0, 1);
    world.end();
}

#[test]
fn a_phone_that_does_not_say_path_gets_it_added_and_taken_out_again() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.supported = "";
    phone.send_register(&mut world, 600);
    let request = phone.accept_register(&mut world, 600);
    assert!(headers(&request, "Supported").iter().any(|value| value.contains("path")), "{request}");
    let response = world.read(wire);
    assert!(headers(&response, "Path").is_empty(), "{response}");
    world.end();
}

#[test]
fn a_phone_that_says_path_sees_it() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    let response = phone.register(&mut world, 600);
    assert_eq!(headers(&response, "Path").len(), 1);
    world.end();
}

#[test]
fn with_sticky_contact_the_alias_stays_the_same_over_every_connection() {
    let mut world = World::new(&Setup { sticky: Sticky::Contact, ..Setup::default() });
    let first = world.connect(0, TLS);
    let mut phone = Phone::new("alice", first);
    let response = phone.register(&mut world, 600);
    assert!(header(&response, "Contact").contains(&phone.contact), "restored towards the phone: {response}");
    let alias = phone.bound_contact.clone();
    assert!(!alias.contains("192.0.2.7"), "{alias}");
    assert!(phone.path.is_empty());
    world.hang_up(first);
    phone.wire = world.connect(1, TLS);
    "sip:alice@192.0.2.7:6060;transport=tls".clone_into(&mut phone.contact);
    phone.register(&mut world, 600);
    assert_eq!(phone.bound_contact, alias);
    // A request to the alias reaches the phone with its own Contact.
    let (_, options) = phone.asked(&mut world, "OPTIONS", "o1");
    assert_eq!(start_line(&options), "OPTIONS sip:alice@192.0.2.7:6060;transport=tls SIP/2.0");
    let wire = phone.wire;
    world.write(wire, &answer(&options, "200 OK", "p", ""));
    world.read_server();
    world.end();
}

#[test]
fn with_sticky_aor_nothing_changes_on_the_wire_and_both_names_are_looked_up() {
    for shards in [1, 2, 5] {
        let mut world = World::new(&Setup { sticky: Sticky::Aor, shards, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        // The Contact's user part has its home somewhere else.
        "sip:x9f7-771@192.0.2.7:5060;transport=tls".clone_into(&mut phone.contact);
        phone.send_register(&mut world, 600);
        let request = world.read_server();
        assert!(headers(&request, "Path").is_empty(), "{request}");
        assert!(header(&request, "Contact").contains(&phone.contact), "{request}");
        let contact = format!("Contact: <{}>;expires=600\r\n", phone.contact);
        world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", &contact));
        world.read(wire);
        for (uri, call) in [(phone.contact.clone(), "a1"), ("sip:alice@example.com".to_owned(), "a2")] {
            phone.bound_contact = uri;
            let request = phone.server_request("OPTIONS", call, 1);
            world.datagram(0, SERVER, &request);
            let options = world.read(wire);
            world.write(wire, &answer(&options, "200 OK", "p", ""));
            assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
        }
        world.end();
    }
}

#[test]
fn another_users_contact_does_not_get_that_users_calls() {
    let mut world = World::new(&Setup { sticky: Sticky::Aor, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut mallory = Phone::new("mallory", wire);
    "sip:alice@192.0.2.7:5060;transport=tls".clone_into(&mut mallory.contact);
    mallory.register(&mut world, 600);
    // Alice is not here; the server still has her Contact.
    let mut alice = mallory.clone();
    alice.user = "alice";
    let request = alice.server_request("INVITE", "a1", 1);
    world.datagram(0, SERVER, &request);
    assert_eq!(world.try_read(wire), None);
    world.expect_server("SIP/2.0 480");
    world.end();
}

#[test]
fn only_what_the_2xx_grants_is_bound_a_query_changes_nothing_and_star_clears() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    let count = |world: &World| {
        world.engines.iter().map(|engine| engine.locate("sip:alice@example.com", world.now).len()).sum::<usize>()
    };
    // A refusal binds nothing.
    phone.send_register(&mut world, 600);
    let request = world.read_server();
    world.datagram(0, SERVER, &answer(&request, "401 Unauthorized", "srv", ""));
    assert_eq!(start_line(&world.read(wire)), "SIP/2.0 401 Unauthorized");
    assert_eq!(count(&world), 0);
    phone.register(&mut world, 600);
    assert_eq!(count(&world), 1);
    // A query.
    let query = "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKq1\r\n\
                 From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\nCall-ID: reg-alice\r\n\
                 CSeq: 50 REGISTER\r\nContent-Length: 0\r\n\r\n";
    world.write(wire, query);
    let request = world.read_server();
    world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", "Contact: <sip:other@192.0.2.9>;expires=60\r\n"));
    world.read(wire);
    assert_eq!(count(&world), 1);
    // Star.
    let star = query
        .replace("q1", "q2")
        .replace("CSeq: 50", "CSeq: 51")
        .replace("Content-Length", "Contact: *\r\nExpires: 0\r\nContent-Length");
    world.write(wire, &star);
    let request = world.read_server();
    assert_eq!(header(&request, "Contact"), "*");
    world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", ""));
    world.read(wire);
    assert_eq!(count(&world), 0);
    world.end();
}

#[test]
fn unregister_expiry_and_loss_of_the_flow_remove_the_binding() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(1, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    let aor = format!("sip:{}@example.com", phone.user);
    phone.register(&mut world, 600);
    phone.register(&mut world, 0);
    assert!(world.engines[0].locate(&aor, world.now).is_empty());
    phone.register(&mut world, 60);
    world.pass_s(59);
    assert_eq!(world.engines[0].locate(&aor, world.now).len(), 1);
    world.pass_s(2);
    assert!(world.engines[0].locate(&aor, world.now).is_empty());
    assert_eq!(world.counted(Counter::BindingExpired), 1);
    phone.register(&mut world, 600);
    world.hang_up(wire);
    assert!(world.engines[0].locate(&aor, world.now).is_empty());
    assert_eq!(world.counted(Counter::BindingFlowLost), 1);
    world.end();
}

#[test]
fn a_connection_that_dies_before_its_2xx_is_not_bound() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(1, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    phone.send_register(&mut world, 600);
    world.hang_up(wire);
    phone.accept_register(&mut world, 600);
    let aor = format!("sip:{}@example.com", phone.user);
    assert!(world.engines[0].locate(&aor, world.now).is_empty());
    world.pass_s(5);
    world.assert_silent();
    world.end();
}

#[test]
fn a_registered_connection_may_idle_and_an_unregistered_one_may_not() {
    let mut world = World::new(&Setup::default());
    let registered = world.connect(0, TLS);
    let mut phone = Phone::new("alice", registered);
    phone.register(&mut world, 3_600);
    let silent = world.connect(1, TLS);
    world.pass_s(29);
    assert!(world.closed.is_empty());
    world.pass_s(2);
    assert_eq!(world.closed.len(), 1);
    assert_eq!(world.closed[0].0, silent);
    world.pass_s(600);
    assert_eq!(world.closed.len(), 1);
    world.end();
}

#[test]
fn registration_over_udp_is_reached_at_its_source_address() {
    let mut world = World::new(&Setup::default());
    let phone_address = "10.9.9.9:40000";
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.via = "UDP";
    let text = phone.register_text(600);
    world.datagram(1, phone_address, &text);
    phone.accept_register(&mut world, 600);
    assert!(world.read_udp(phone_address).starts_with("SIP/2.0 200"));
    let request = phone.server_request("INVITE", "u1", 1);
    world.datagram(0, SERVER, &request);
    let invite = world.read_udp(phone_address);
    assert_eq!(headers(&invite, "Record-Route").len(), 1, "one point on both sides: {invite}");
    world.datagram(1, phone_address, &answer(&invite, "486 Busy Here", "p", ""));
    assert!(world.read_udp(phone_address).starts_with("ACK "));
    world.expect_server("SIP/2.0 486");
    world.end();
}

#[test]
fn internal_protocol_tcp_opens_one_connection_and_refuses_while_it_cannot() {
    use hawser::engine::ConnectFailure;
    let mut world = World::new(&Setup { internal: Transport::Tcp, shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.send_register(&mut world, 600);
    let (server, _) = world.opened[0];
    let request = world.read(server);
    assert!(request.starts_with("REGISTER "));
    world.fail(server, ConnectFailure::Refused);
    let response = world.expect(wire, "SIP/2.0 503");
    assert!(!headers(&response, "Retry-After").is_empty());
    // A little later it works again.
    world.pass(Duration::from_millis(1_100));
    phone.send_register(&mut world, 600);
    let (server, _) = world.opened[1];
    world.ready(server);
    let request = world.read(server);
    world.write(server, &answer(&request, "200 OK", "srv", ""));
    world.expect(wire, "SIP/2.0 200");
    world.end();
}

#[test]
fn an_answer_that_comes_late_does_not_take_the_binding_back_to_a_connection_that_is_gone() {
    let mut world = World::new(&Setup::default());
    let first = world.connect(1, TLS);
    let mut phone = Phone::new(user_with_home(&world, 0), first);
    phone.send_register(&mut world, 600);
    let slow = world.read_server();
    world.pass_ms(100);
    world.hang_up(first);
    phone.wire = world.connect(0, TLS);
    phone.register(&mut world, 600);
    let contact = format!("Contact: <{}>;expires=600\r\n", phone.contact);
    world.datagram(0, SERVER, &answer(&slow, "200 OK", "srv", &contact));
    let aor = format!("sip:{}@example.com", phone.user);
    assert_eq!(world.engines[0].locate(&aor, world.now).len(), 1);
    assert_eq!(world.engines[0].locate(&aor, world.now)[0].flow.shard().0, 0);
    // One that has lost count, and says so after all that, is believed.
    phone.cseq = 0;
    phone.contact = "sip:again@192.0.2.7:5060;transport=tls".to_owned();
    world.pass_s(40);
    phone.register(&mut world, 600);
    assert_eq!(world.engines[0].locate(&aor, world.now)[0].contact, phone.contact);
    world.drain();
    world.end();
}

#[test]
fn the_only_contact_is_bound_though_its_registrar_lists_it_in_another_form() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.send_register(&mut world, 600);
    let request = world.read_server();
    let listed = "Contact: <sip:alice@10.0.0.1:4711;ob>;expires=120\r\n";
    world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", listed));
    world.read(wire);
    let located = |world: &World| {
        world.engines.iter().flat_map(|engine| engine.locate("alice@example.com", world.now)).collect::<Vec<_>>()
    };
    assert_eq!(located(&world)[0].expires_in, Duration::from_secs(120));
    world.pass_s(121);
    assert!(located(&world).is_empty());
    world.end();
}

#[test]
fn a_udp_server_that_icmp_says_is_gone_refuses_at_once_and_is_tried_again_soon() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &ask("MESSAGE", "u1"));
    world.read_server();
    let gone = || hawser::engine::Input::Unreachable { to: SERVER.parse().expect("one") };
    world.input(0, gone());
    world.expect(wire, "SIP/2.0 503");
    world.input(0, gone());
    world.write(wire, &ask("MESSAGE", "u2"));
    assert!(world.read(wire).starts_with("SIP/2.0 503"), "not sent: it is known to be gone");
    world.pass_ms(1_100);
    world.write(wire, &ask("MESSAGE", "u3"));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    assert!(world.events.iter().any(|event| event.contains("reached again")));
    world.end();
}

#[test]
fn the_owner_of_a_flow_knows_the_names_of_its_phones_certificate() {
    let mut world = World::new(&Setup { shards: 2, ..Setup::default() });
    let identities = Identities { sip: vec!["phones.example.com".into()], ..Identities::default() };
    let wire = world.connect_mutual(1, TLS, "10.0.0.9:40100".parse().unwrap(), identities);
    let mut phone = Phone::new(user_with_home(&world, 0), wire);
    phone.register(&mut world, 600);
    let located = world.engines[0].locate(&format!("sip:{}@example.com", phone.user), world.now);
    let [located] = located.as_slice() else { panic!("one binding: {located:?}") };
    let words = world.engines[1].identities_of(located.flow).map(Identities::words);
    assert_eq!(words, Some(vec!["sip:phones.example.com".to_owned()]));
    assert_eq!(world.engines[0].identities_of(located.flow), None, "it is no flow of this shard");
}
