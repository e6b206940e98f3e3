//! What somebody says of himself, and where he stands, buys him nothing of another's: a Contact, a Path, a tag, an address
//! that was another's.

use hawser::config::Server;
use hawser::engine::{Settings, Sticky};
use hawser::ids::Transport;

use crate::next_hop::request;
use crate::talk::{Dialog, Phone, answer, header, headers, uri};
use crate::world::{SERVER, Setup, TCP, TLS, World};

const MODES: [Sticky; 3] = [Sticky::Path, Sticky::Contact, Sticky::Aor];
const MEDIA: &str = "198.51.100.7:5060";

/// In each mode, with one shard and two.
fn each(story: impl Fn(World, Sticky, u8)) {
    for sticky in MODES {
        for shards in [1, 2] {
            story(World::new(&Setup { sticky, shards, ..Setup::default() }), sticky, shards);
        }
    }
}

/// Mallory may register for her own AOR, and says a media server's address as her Contact. That has been asked before.
fn says_the_media_servers(world: &mut World, shards: u8) -> Phone {
    world.datagram(0, SERVER, &request("OPTIONS", &format!("sip:msml@{MEDIA}"), "m0", ""));
    let asked = world.read_udp(MEDIA);
    world.datagram(0, MEDIA, &answer(&asked, "200 OK", "m", ""));
    world.expect_server("SIP/2.0 200");
    let wire = world.connect(shards - 1, TLS);
    let mut mallory = Phone::new("mallory", wire);
    mallory.contact = format!("sip:msml@{MEDIA}");
    mallory.register(world, 600);
    mallory
}

/// The server asks its media server, as it does for each announcement: To is the same URI.
#[test]
fn who_says_a_devices_address_takes_nothing_from_the_device() {
    each(|mut world, sticky, shards| {
        let mallory = says_the_media_servers(&mut world, shards);
        world.datagram(0, SERVER, &request("INVITE", &format!("sip:msml@{MEDIA}"), "m1", ""));
        assert_eq!(world.try_read(mallory.wire), None, "{sticky:?} {shards}: mallory has it");
        let sent = world.try_read_udp(MEDIA);
        assert!(sent.is_some(), "{sticky:?} {shards}: the device has lost it: {:?}", world.try_read_udp(SERVER));
    });
}

/// The To is that of the call that it belongs to.
#[test]
fn who_says_a_devices_address_gets_none_of_its_calls() {
    each(|mut world, sticky, shards| {
        let mallory = says_the_media_servers(&mut world, shards);
        let target = format!("sip:msml@{MEDIA}");
        let text =
            request("INVITE", &target, "m1", "").replace(&format!("To: <{target}>"), "To: <sip:8000@example.com>");
        world.datagram(0, SERVER, &text);
        assert_eq!(world.try_read(mallory.wire), None, "{sticky:?} {shards}: mallory has it");
        assert!(world.try_read_udp(MEDIA).is_some(), "{sticky:?} {shards}: the device has lost it");
    });
}

/// Of a device that nobody has heard of it cannot be told whether it is a phone's: neither gets it.
#[test]
fn who_says_an_unknown_address_gets_none_of_its_calls() {
    each(|mut world, sticky, shards| {
        let wire = world.connect(shards - 1, TLS);
        let mut mallory = Phone::new("mallory", wire);
        mallory.contact = format!("sip:msml@{MEDIA}");
        mallory.register(&mut world, 600);
        world.datagram(0, SERVER, &request("INVITE", &format!("sip:msml@{MEDIA}"), "m1", ""));
        assert_eq!(world.try_read(mallory.wire), None, "{sticky:?} {shards}: mallory has it");
        world.expect_server("SIP/2.0 480");
        // Her own calls reach her by it.
        let own = request("INVITE", &format!("sip:msml@{MEDIA}"), "m2", "")
            .replace(&format!("To: <sip:msml@{MEDIA}>"), "To: <sip:mallory@example.com>");
        world.datagram(0, SERVER, &own);
        world.expect(mallory.wire, "INVITE ");
    });
}

/// A victim that is registered at another member of the pool (or not at all): a forwarded call names another To.
#[test]
fn who_says_anothers_aor_as_contact_gets_no_call_that_was_forwarded_to_it() {
    each(|mut world, sticky, shards| {
        let wire = world.connect(shards - 1, TLS);
        let mut mallory = Phone::new("mallory", wire);
        "sip:victim@example.com".clone_into(&mut mallory.contact);
        mallory.register(&mut world, 600);
        let target = "sip:victim@example.com";
        let text =
            request("INVITE", target, "m1", "").replace(&format!("To: <{target}>"), "To: <sip:group@example.com>");
        world.datagram(0, SERVER, &text);
        assert_eq!(world.try_read(wire), None, "{sticky:?} {shards}: mallory has the victim's call");
    });
}

/// A phone's UDP address is another's by now. Who calls from there, registered or not, under whichever name, is no longer
/// the phone that has moved.
#[test]
fn who_has_a_moved_phones_former_udp_address_keeps_his_own_dialogs() {
    for (registers, name) in [(false, "sip:bob@example.com"), (true, "sip:anonymous@anonymous.invalid")] {
        each(|mut world, sticky, shards| {
            let (old, new) = ("10.7.0.1:5060", "10.7.0.2:5060");
            let wire = world.connect(0, TLS);
            let [mut alice, mut bob] = ["alice", "bob"].map(|user| Phone { via: "UDP", ..Phone::new(user, wire) });
            let register = |world: &mut World, phone: &mut Phone, from: &str| {
                let text = phone.register_text(3_600);
                world.datagram(1, from, &text);
                phone.accept_register(world, 3_600);
                assert!(world.read_udp(from).starts_with("SIP/2.0 200"));
            };
            register(&mut world, &mut alice, old);
            register(&mut world, &mut alice, new);
            if registers {
                register(&mut world, &mut bob, old);
            }
            let invite = format!(
                "INVITE sip:service@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {old};branch=z9hG4bKbob;rport\r\n\
                 Max-Forwards: 70\r\nFrom: <{name}>;tag=b\r\nTo: <sip:service@example.com>\r\n\
                 Call-ID: bob1\r\nCSeq: 1 INVITE\r\nContact: <sip:bob@{old}>\r\nContent-Length: 0\r\n\r\n"
            );
            world.datagram(1, old, &invite);
            let invite = world.expect_server("INVITE ");
            world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
            assert!(world.read_udp(old).starts_with("SIP/2.0 200"), "{sticky:?} {shards}");
            let mut server = Dialog::callee(&invite, "s");
            for method in ["INFO", "BYE"] {
                world.datagram(0, SERVER, &server.request(method, &format!("UDP {SERVER}")));
                assert_eq!(world.try_read_udp(new), None, "{sticky:?} {shards}: alice gets bob's");
                assert!(world.read_udp(old).starts_with(method));
            }
        });
    }
}

/// The same over a connection that several phones share (an edge proxy's, a gateway's): one has left it.
#[test]
fn who_shares_a_connection_that_another_has_left_keeps_his_own_dialogs() {
    each(|mut world, sticky, shards| {
        let shared = world.connect(0, TLS);
        let mut alice = Phone::new("alice", shared);
        alice.register(&mut world, 3_600);
        let own = world.connect(shards - 1, TLS);
        alice.wire = own;
        alice.register(&mut world, 3_600);
        let invite = "INVITE sip:service@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7;branch=z9hG4bKbob;rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:bob@example.com>;tag=b\r\nTo: <sip:service@example.com>\r\n\
             Call-ID: bob1\r\nCSeq: 1 INVITE\r\nContact: <sip:bob@192.0.2.7>\r\nContent-Length: 0\r\n\r\n";
        world.write(shared, invite);
        let invite = world.expect_server("INVITE ");
        world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
        world.expect(shared, "SIP/2.0 200");
        let mut server = Dialog::callee(&invite, "s");
        world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
        assert_eq!(world.try_read(own), None, "{sticky:?} {shards}: alice gets bob's");
        world.expect(shared, "BYE ");
    });
}

/// A second pair, which serves nobody here.
fn two(settings: &mut Settings) {
    settings.servers.push(Server::at("sips2", "10.8.0.1:5070".parse().expect("an address"), Transport::Udp));
}

/// A REGISTER for the victim that would go to the second pair, as in a dialog.
fn to_the_other_pair(mallory: &mut Phone) -> String {
    mallory
        .register_text(600)
        .replace("REGISTER sip:example.com", "REGISTER sip:10.8.0.1:5070")
        .replace("To: <sip:victim@example.com>", "To: <sip:victim@example.com>;tag=x")
}

/// A REGISTER belongs to no dialog, whatever tag its To has: it goes to the serving pair alone.
#[test]
fn a_register_with_a_to_tag_is_no_way_to_another_pair() {
    for sticky in MODES {
        let mut world = World::new(&Setup { sticky, mutate: two, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut victim = Phone::new("victim", wire);
        victim.register(&mut world, 600);
        let evil = world.connect(1, TLS);
        let mut mallory = Phone::new("victim", evil);
        "sip:victim@192.0.2.66".clone_into(&mut mallory.contact);
        "evil".clone_into(&mut mallory.call_id);
        world.write(evil, &to_the_other_pair(&mut mallory));
        assert_eq!(world.try_read_udp("10.8.0.1:5070"), None, "{sticky:?}");
        world.expect_server("REGISTER ");
    }
}

/// An endpoint that did not register, calls over TCP, says what its Contact is, and goes.
#[test]
fn what_an_endpoint_says_its_contact_is_opens_no_connection_to_others() {
    each(|mut world, sticky, shards| {
        let wire = world.connect(shards - 1, TCP);
        let contact = "sip:x@10.9.9.9:25;transport=tcp";
        let invite = request("INVITE", "sip:9000@example.com", "c1", "").replace("UDP", "TCP");
        world.write(wire, &invite.replace(&format!("<sip:{SERVER}>"), &format!("<{contact}>")));
        let invite = world.read_server();
        assert_eq!(uri(header(&invite, "Contact")), contact);
        world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
        world.read(wire);
        let mut server = Dialog::callee(&invite, "s");
        world.hang_up(wire);
        world.datagram(0, SERVER, &server.request("BYE", &format!("UDP {SERVER}")));
        assert!(world.opened.is_empty(), "{sticky:?} {shards}: {:?}", world.opened);
    });
}

/// With `contact` and `aor` a phone's own Path is no route of the server's.
#[test]
fn a_path_of_a_phone_opens_no_connection() {
    each(|mut world, sticky, shards| {
        let wire = world.connect(shards - 1, TLS);
        let mut mallory = Phone::new("mallory", wire);
        mallory.supported = "Supported: path\r\nPath: <sip:10.9.9.9:25;transport=tcp;lr>\r\n";
        mallory.register(&mut world, 600);
        let call = mallory.server_request("MESSAGE", "p1", 1);
        world.datagram(0, SERVER, &call);
        assert!(world.opened.is_empty(), "{sticky:?} {shards}: {:?} by {:?}", world.opened, headers(&call, "Route"));
    });
}

/// Who stands behind the same NAT, and has seen the caller's Via at a proxying server.
#[test]
fn a_callee_behind_the_same_nat_cannot_cancel_its_callers_call() {
    each(|mut world, sticky, shards| {
        let caller = "10.0.0.66:5060";
        let invite = "INVITE sip:group@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKc;rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:bob@example.com>;tag=b\r\nTo: <sip:group@example.com>\r\n\
             Call-ID: n1\r\nCSeq: 1 INVITE\r\nContact: <sip:bob@192.168.1.10>\r\nContent-Length: 0\r\n\r\n";
        world.datagram(0, caller, invite);
        let sent = world.expect_server("INVITE ");
        world.datagram(0, SERVER, &answer(&sent, "180 Ringing", "s", ""));
        world.read_udp(caller);
        let cancel = crate::stage::cancel(invite);
        world.datagram(0, "10.0.0.66:40001", &cancel);
        assert!(world.try_read_udp(SERVER).is_none_or(|text| !text.starts_with("CANCEL")), "{sticky:?} {shards}");
    });
}

/// A phone's connection that Bob shares, who did not register; Alice has her own by now, or will have.
fn shared_with_alice(world: &mut World) -> (crate::world::Wire, Phone) {
    let shared = world.connect(0, TLS);
    let mut alice = Phone::new("alice", shared);
    alice.register(world, 3_600);
    (shared, alice)
}

/// Bob asks by an edge proxy, whose connection it is.
fn bobs(id: &str) -> String {
    let own = "Via: SIP/2.0/UDP 192.168.1.9;branch=z9hG4bKown\r\nMax-Forwards";
    crate::stage::ask("MESSAGE", id).replace("alice", "bob").replacen("Max-Forwards", own, 1)
}

/// Alice leaves the connection while Bob waits for his answer, which is there all the time.
#[test]
fn an_answer_stays_on_its_connection_when_another_who_shares_it_moves() {
    each(|mut world, sticky, shards| {
        let (shared, mut alice) = shared_with_alice(&mut world);
        world.write(shared, &bobs("b1"));
        let asked = world.expect_server("MESSAGE ");
        alice.wire = world.connect(shards - 1, TLS);
        alice.register(&mut world, 3_600);
        world.datagram(0, SERVER, &answer(&asked, "200 OK", "s", "X-Secret: bob's\r\n"));
        assert_eq!(world.try_read(alice.wire), None, "{sticky:?} {shards}: alice gets bob's answer");
        world.expect(shared, "SIP/2.0 200");
    });
}

/// Alice has left it before, and it is lost while Bob waits.
#[test]
fn an_answer_whose_connection_is_lost_goes_to_nobody_who_shared_it_once() {
    each(|mut world, sticky, shards| {
        let (shared, mut alice) = shared_with_alice(&mut world);
        alice.wire = world.connect(shards - 1, TLS);
        alice.register(&mut world, 3_600);
        world.write(shared, &bobs("b1"));
        let asked = world.expect_server("MESSAGE ");
        world.hang_up(shared);
        world.datagram(0, SERVER, &answer(&asked, "200 OK", "s", "X-Secret: bob's\r\n"));
        assert_eq!(world.try_read(alice.wire), None, "{sticky:?} {shards}: alice gets bob's answer");
    });
}

/// Who un-registered has left his address, which is another's by now: nothing of his dialogs is for him.
#[test]
fn a_dialog_of_who_un_registered_reaches_nobody_who_has_registered_at_his_address_since() {
    each(|mut world, sticky, shards| {
        let at = "10.7.0.1:5060";
        let wire = world.connect(0, TLS);
        let [mut alice, mut bob] = ["alice", "bob"].map(|user| Phone { via: "UDP", ..Phone::new(user, wire) });
        let text = alice.register_text(3_600);
        world.datagram(1, at, &text);
        alice.accept_register(&mut world, 3_600);
        world.read_udp(at);
        let call = alice.server_request("INVITE", "c1", 1);
        world.datagram(0, SERVER, &call);
        let invite = world.read_udp(at);
        world.datagram(1, at, &answer(&invite, "200 OK", "a", &format!("Contact: <sip:alice@{at}>\r\n")));
        let mut server = Dialog::caller(&world.expect_server("SIP/2.0 200"));
        world.pass_s(3_700);
        world.drain();
        let text = bob.register_text(3_600);
        world.datagram(1, at, &text);
        bob.accept_register(&mut world, 3_600);
        world.read_udp(at);
        world.datagram(0, SERVER, &server.request("INFO", &format!("UDP {SERVER}")));
        assert_eq!(world.try_read_udp(at), None, "{sticky:?} {shards}: bob gets alice's");
    });
}

/// The other pair has an account of the same name: its 2xx takes the phone of the serving pair.
#[test]
fn who_has_an_account_of_the_same_name_at_another_pair_gets_no_calls_of_this_one() {
    for sticky in MODES {
        let mut world = World::new(&Setup { sticky, mutate: two, ..Setup::default() });
        let wire = world.connect(0, TLS);
        let mut victim = Phone::new("victim", wire);
        victim.register(&mut world, 600);
        let evil = world.connect(1, TLS);
        let mut mallory = Phone::new("victim", evil);
        "evil".clone_into(&mut mallory.call_id);
        world.write(evil, &to_the_other_pair(&mut mallory));
        if let Some(register) = world.try_read_udp("10.8.0.1:5070") {
            let ok =
                answer(&register, "200 OK", "s", &format!("Contact: {};expires=600\r\n", header(&register, "Contact")));
            world.datagram(0, "10.8.0.1:5070", &ok);
            world.try_read(evil);
        }
        let call = victim.server_request("INVITE", "v1", 1);
        world.datagram(0, SERVER, &call);
        assert_eq!(world.try_read(evil), None, "{sticky:?}: mallory has the victim's call");
        world.expect(wire, "INVITE ");
    }
}

/// Nor from another pair of ours, or another site.
#[test]
fn who_says_a_servers_address_takes_no_call_from_it() {
    for host in ["10.8.0.1:5070", "10.9.9.9"] {
        let mut world = World::new(&Setup { mutate: crate::next_hop::wide, ..Setup::default() });
        let wire = world.connect(1, TLS);
        let mut mallory = Phone::new("mallory", wire);
        mallory.contact = format!("sip:6000@{host}");
        mallory.register(&mut world, 600);
        let target = format!("sip:6000@{host}");
        let text =
            request("INVITE", &target, "m1", "").replace(&format!("To: <{target}>"), "To: <sip:8000@example.com>");
        world.datagram(0, SERVER, &text);
        assert_eq!(world.try_read(wire), None, "{host}: mallory has it");
    }
}

/// A token of ours behind the server's Route comes back from it as if it had named its target; a made-up To tag
/// makes no dialog.
#[test]
fn a_phones_path_behind_the_servers_route_is_refused_with_a_made_up_tag_too() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let mut victim = Phone::new("victim", wire);
    victim.register(&mut world, 600);
    let evil = world.connect(1, TLS);
    let extra = format!("Route: <sip:{SERVER};lr>\r\nRoute: {}\r\nEvent: check-sync;reboot=true\r\n", victim.path[0]);
    let text = request("NOTIFY", "sip:victim@example.com", "n1", &extra)
        .replace(&format!("UDP {SERVER}"), "TLS 192.0.2.66")
        .replace("To: <sip:victim@example.com>", "To: <sip:victim@example.com>;tag=x");
    world.write(evil, &text);
    let sent = world.try_read_udp(SERVER);
    if let Some(sent) = &sent {
        // A proxying server takes itself out, and goes by what is left.
        let own = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKfwd\r\n");
        let on =
            sent.replacen("Via:", &format!("{own}Via:"), 1).replacen(&format!("Route: <sip:{SERVER};lr>\r\n"), "", 1);
        world.datagram(0, SERVER, &on);
        assert_eq!(world.try_read(wire), None, "the victim's phone restarts");
    }
    assert_eq!(sent, None);
    world.expect(evil, "SIP/2.0 403");
}

/// A datagram's source may be forged: what is sent there, repetitions too, is at most three times what came from it.
#[test]
fn the_final_answer_of_a_strangers_invite_is_repeated_within_its_bound_and_for_who_asks_again() {
    let from = "10.0.0.9:5060";
    let invite = "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKi;rport\r\n\
                  From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: s1\r\nCSeq: 1 INVITE\r\n\
                  Contact: <sip:a@10.0.0.9>\r\nContent-Length: 0\r\n\r\n";
    for own in [true, false] {
        let mut world = World::new(&Setup::default());
        world.datagram(0, from, invite);
        if own {
            world.pass_s(40);
        } else {
            let sent = world.read_server();
            world.datagram(1, SERVER, &answer(&sent, "486 Busy Here", "s", ""));
            world.pass_s(40);
        }
        let all: Vec<String> = std::iter::from_fn(|| world.try_read_udp(from)).collect();
        let (len, finals) =
            (all.iter().map(String::len).sum::<usize>(), all.iter().filter(|text| !text.contains(" 100 ")));
        assert!(finals.count() >= 1 && len <= 3 * invite.len(), "{len} bytes for {}: {all:#?}", invite.len());
        // Within its transaction a repetition is answered each time.
        let mut world = World::new(&Setup::default());
        world.datagram(0, from, invite);
        let sent = world.read_server();
        world.datagram(1, SERVER, &answer(&sent, "486 Busy Here", "s", ""));
        world.pass_s(10);
        while world.try_read_udp(from).is_some() {}
        world.datagram(0, from, invite);
        assert!(world.read_udp(from).starts_with("SIP/2.0 486"));
        world.drain();
        world.end();
    }
}

/// Of the sockets that share a port the system tells one that nobody listens there.
#[test]
fn a_server_that_never_was_there_refuses_what_every_shard_has_sent_it() {
    let mut world = World::new(&Setup { shards: 3, ..Setup::default() });
    let wires: Vec<_> = (0..3).map(|shard| world.connect(shard, TLS)).collect();
    for (at, wire) in wires.iter().enumerate() {
        world.write(*wire, &crate::stage::ask("MESSAGE", &format!("n{at}")));
        world.expect_server("MESSAGE ");
    }
    let to = SERVER.parse().expect("an address");
    world.input(1, hawser::engine::Input::Unreachable { to });
    for wire in wires {
        world.expect(wire, "SIP/2.0 503");
    }
}

/// A registrar that knows no instance-id lists a phone's former Contact still, and asks by it: no device is there.
#[test]
fn a_users_former_contact_is_no_device_while_he_is_registered_by_another() {
    for shards in [1, 2] {
        for transport in ["udp", "tcp"] {
            let mut world = World::new(&Setup { sticky: Sticky::Aor, shards, ..Setup::default() });
            let wire = world.connect(shards - 1, TLS);
            let mut phone = Phone::new("alice", wire);
            let contact = |port| format!("sip:alice@192.168.9.9:{port};transport={transport}");
            for port in [5071, 5072] {
                phone.contact = contact(port);
                phone.register(&mut world, 600);
            }
            let former = request("INVITE", &contact(5071), "f1", "");
            let former = former.replace(&format!("To: <{}>", contact(5071)), "To: <sip:alice@example.com>");
            world.datagram(0, SERVER, &former);
            world.expect_server("SIP/2.0 480");
            assert!(world.opened.is_empty() && world.try_read_udp("192.168.9.9:5071").is_none());
            let now = request("INVITE", &contact(5072), "f2", "");
            world.datagram(0, SERVER, &now.replace(&format!("To: <{}>", contact(5072)), "To: <sip:alice@example.com>"));
            world.expect(wire, "INVITE ");
        }
    }
}
