//! A phone without an instance-id that registers under a new Call-ID, and one that un-registers during a call: it is
//! the same binding, and its calls go on (RFC 3261 §10.3; DESIGN.md, What it does on the wire, 3).

use std::time::Duration;

use hawser::engine::Sticky;
use hawser::stats::{Counter, Gauge};

use crate::stage::{ask, cancel};
use crate::talk::{Dialog, Phone, answer, header, start_line};
use crate::world::{SERVER, Setup, TLS, Wire, World};

const MODES: [Sticky; 3] = [Sticky::Path, Sticky::Contact, Sticky::Aor];
const UDP_PHONE: &str = "10.9.9.9:40000";

/// How a phone is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stream(Wire),
    /// From this address; its datagrams land on this shard.
    Udp(&'static str, u8),
}

impl Way {
    fn say(self, world: &mut World, text: &str) {
        match self {
            Self::Stream(wire) => world.write(wire, text),
            Self::Udp(from, shard) => world.datagram(shard, from, text),
        }
    }

    #[track_caller]
    fn hear(self, world: &mut World, start: &str) -> String {
        let text = match self {
            Self::Stream(wire) => world.read(wire),
            Self::Udp(from, _) => world.read_udp(from),
        };
        assert!(text.starts_with(start), "{start:?} is expected: {text}");
        text
    }
}

/// A phone without an instance-id.
fn plain(world: &mut World, over_udp: bool) -> (Phone, Way) {
    let shards = u8::try_from(world.engines.len()).expect("few");
    let wire = world.connect(shards - 1, TLS);
    let mut phone = Phone { params: "", ..Phone::new("alice", wire) };
    if !over_udp {
        return (phone, Way::Stream(wire));
    }
    phone.via = "UDP";
    "sip:alice@10.9.9.9:40000".clone_into(&mut phone.contact);
    (phone, Way::Udp(UDP_PHONE, shards - 1))
}

#[track_caller]
fn register(world: &mut World, phone: &mut Phone, way: Way, expires: u32) {
    let text = phone.register_text(expires);
    way.say(world, &text);
    phone.accept_register(world, expires);
    way.hear(world, "SIP/2.0 200");
}

/// The server calls; the phone answers.
#[track_caller]
fn answered(world: &mut World, phone: &Phone, way: Way) -> Dialog {
    world.datagram(0, SERVER, &phone.server_request("INVITE", "c1", 1));
    let invite = way.hear(world, "INVITE ");
    way.say(world, &answer(&invite, "200 OK", "p1", &format!("Contact: <{}>\r\n", phone.contact)));
    let mut server = Dialog::caller(&world.expect_server("SIP/2.0 200"));
    let ack = server.request("ACK", &format!("UDP {SERVER}"));
    world.datagram(1, SERVER, &ack);
    way.hear(world, "ACK ");
    server
}

/// The server asks within the dialog, and the phone hears it at once.
#[track_caller]
fn in_dialog(world: &mut World, server: &mut Dialog, method: &str, way: Way) {
    let request = server.request(method, &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &request);
    let request = way.hear(world, method);
    way.say(world, &answer(&request, "200 OK", "", ""));
    world.expect_server("SIP/2.0 200");
}

/// The server calls again within the dialog, and both the request and the ACK reach the phone.
#[track_caller]
fn re_invited(world: &mut World, phone: &Phone, server: &mut Dialog, way: Way) {
    let invite = server.request("INVITE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &invite);
    let invite = way.hear(world, "INVITE ");
    way.say(world, &answer(&invite, "200 OK", "", &format!("Contact: <{}>\r\n", phone.contact)));
    world.expect_server("SIP/2.0 200");
    let ack = server.request("ACK", &format!("UDP {SERVER}"));
    world.datagram(1, SERVER, &ack);
    way.hear(world, "ACK ");
}

fn everywhere(story: impl Fn(World, bool)) {
    for sticky in MODES {
        for shards in [1, 2] {
            for over_udp in [false, true] {
                story(World::new(&Setup { sticky, shards, ..Setup::default() }), over_udp);
            }
        }
    }
}

#[test]
fn a_phone_that_registers_under_a_new_call_id_keeps_its_calls() {
    everywhere(|mut world, over_udp| {
        let (mut phone, way) = plain(&mut world, over_udp);
        register(&mut world, &mut phone, way, 600);
        let mut server = answered(&mut world, &phone, way);
        "after-a-restart".clone_into(&mut phone.call_id);
        register(&mut world, &mut phone, way, 600);
        in_dialog(&mut world, &mut server, "INFO", way);
        in_dialog(&mut world, &mut server, "BYE", way);
        world.assert_silent();
        assert_eq!(world.counted(Counter::GraceBegun), 0);
        world.end();
    });
}

#[test]
fn a_phone_that_un_registers_keeps_its_calls() {
    everywhere(|mut world, over_udp| {
        let (mut phone, way) = plain(&mut world, over_udp);
        register(&mut world, &mut phone, way, 600);
        let mut server = answered(&mut world, &phone, way);
        register(&mut world, &mut phone, way, 0);
        assert_eq!(world.counted(Counter::BindingRemoved), 1);
        in_dialog(&mut world, &mut server, "INFO", way);
        re_invited(&mut world, &phone, &mut server, way);
        in_dialog(&mut world, &mut server, "BYE", way);
        world.assert_silent();
        assert_eq!(world.counted(Counter::GraceBegun), 0);
        world.end();
    });
}

#[test]
fn a_udp_phone_whose_registration_expires_keeps_its_calls() {
    for shards in [1, 2] {
        let mut world = World::new(&Setup { shards, ..Setup::default() });
        let (mut phone, way) = plain(&mut world, true);
        register(&mut world, &mut phone, way, 60);
        let mut server = answered(&mut world, &phone, way);
        world.pass_s(62);
        assert_eq!(world.counted(Counter::BindingExpired), 1);
        in_dialog(&mut world, &mut server, "BYE", way);
        world.end();
    }
}

/// What begins something new needs a registration.
#[test]
fn a_udp_phone_that_has_un_registered_gets_no_new_calls() {
    for sticky in [Sticky::Path, Sticky::Contact] {
        let mut world = World::new(&Setup { sticky, ..Setup::default() });
        let (mut phone, way) = plain(&mut world, true);
        register(&mut world, &mut phone, way, 600);
        let former = phone.clone();
        register(&mut world, &mut phone, way, 0);
        world.datagram(0, SERVER, &former.server_request("INVITE", "c2", 1));
        world.expect_server("SIP/2.0 480");
        world.assert_silent();
        world.end();
    }
}

#[test]
fn a_call_that_rings_is_cancelled_though_its_phone_has_a_new_call_id_or_has_un_registered() {
    everywhere(|mut world, over_udp| {
        let (mut phone, way) = plain(&mut world, over_udp);
        for (at, expires) in [(1, 600), (2, 0)] {
            register(&mut world, &mut phone, way, 600);
            let request = phone.server_request("INVITE", &format!("c{at}"), 1);
            world.datagram(0, SERVER, &request);
            let invite = way.hear(&mut world, "INVITE ");
            way.say(&mut world, &answer(&invite, "180 Ringing", "p1", ""));
            world.expect_server("SIP/2.0 180");
            phone.call_id = format!("again{at}");
            register(&mut world, &mut phone, way, expires);
            world.datagram(0, SERVER, &cancel(&request));
            world.expect_server("SIP/2.0 200");
            let cancel = way.hear(&mut world, "CANCEL ");
            way.say(&mut world, &answer(&cancel, "200 OK", "p1", ""));
            way.say(&mut world, &answer(&invite, "487 Request Terminated", "p1", ""));
            way.hear(&mut world, "ACK ");
            world.expect_server("SIP/2.0 487");
        }
        world.assert_silent();
        world.end();
    });
}

/// Nothing else knows of the phone any more: what has no answer is sent again, and the ACK to an error too.
#[test]
fn an_invite_is_sent_again_over_udp_though_its_phone_has_un_registered() {
    let mut world = World::new(&Setup::default());
    let (mut phone, way) = plain(&mut world, true);
    register(&mut world, &mut phone, way, 600);
    world.datagram(0, SERVER, &phone.server_request("INVITE", "c1", 1));
    let invite = way.hear(&mut world, "INVITE ");
    register(&mut world, &mut phone, way, 0);
    world.pass_ms(600);
    assert_eq!(way.hear(&mut world, "INVITE "), invite);
    way.say(&mut world, &answer(&invite, "486 Busy Here", "p1", ""));
    way.hear(&mut world, "ACK ");
    world.expect_server("SIP/2.0 100");
    world.expect_server("SIP/2.0 486");
    world.end();
}

/// A dialog that is older than the phone's former address is remembered for.
#[test]
fn a_dialog_finds_a_udp_phone_that_moved_though_its_first_address_is_forgotten() {
    let mut world = World::new(&Setup::default());
    let (mut phone, way) = plain(&mut world, true);
    register(&mut world, &mut phone, way, 60);
    let mut server = answered(&mut world, &phone, way);
    let way = Way::Udp("10.9.9.9:40001", 0);
    for _ in 0..3 {
        register(&mut world, &mut phone, way, 60);
        world.pass_s(50);
    }
    in_dialog(&mut world, &mut server, "BYE", way);
    world.end();
}

/// The shard of the first address has heard of the second alone, where the registration is over: the home knows more.
#[test]
fn a_dialog_finds_a_udp_phone_that_came_back_elsewhere_when_its_registration_was_over() {
    for first in [0, 1] {
        let mut world = World::new(&Setup::default());
        let (mut phone, _) = plain(&mut world, true);
        let way = Way::Udp(UDP_PHONE, first);
        register(&mut world, &mut phone, way, 600);
        let mut server = answered(&mut world, &phone, way);
        register(&mut world, &mut phone, Way::Udp("10.9.9.9:40001", 1 - first), 60);
        world.pass_s(62);
        assert_eq!(world.counted(Counter::BindingExpired), 1);
        let way = Way::Udp("10.9.9.9:40002", 1 - first);
        register(&mut world, &mut phone, way, 60);
        in_dialog(&mut world, &mut server, "INFO", way);
        in_dialog(&mut world, &mut server, "BYE", way);
        world.assert_silent();
        world.end();
    }
}

/// Its first address is forgotten by then where its request came in.
#[test]
fn an_answer_finds_a_udp_phone_that_moved_when_its_registration_at_the_address_that_it_asked_from_is_over() {
    for first in [0, 1] {
        let mut world = World::new(&Setup::default());
        let (mut phone, _) = plain(&mut world, true);
        let way = Way::Udp(UDP_PHONE, first);
        register(&mut world, &mut phone, way, 60);
        let invite = ask("INVITE", "late").replace("TLS 192.0.2.7", "UDP 192.0.2.7");
        way.say(&mut world, &invite);
        let invite = world.expect_server("INVITE ");
        world.datagram(0, SERVER, &answer(&invite, "180 Ringing", "s", ""));
        way.hear(&mut world, "SIP/2.0 180");
        world.pass_s(40);
        let way = Way::Udp("10.9.9.9:40001", 1 - first);
        register(&mut world, &mut phone, way, 60);
        world.pass_s(30);
        world.drain();
        world.datagram(0, SERVER, &answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
        way.hear(&mut world, "SIP/2.0 200");
        world.end();
    }
}

/// It has nothing else to be reached by than where it was last.
#[test]
fn a_udp_phone_that_moved_keeps_its_calls_though_its_registration_is_over() {
    for (first, expires) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut world = World::new(&Setup::default());
        let (mut phone, _) = plain(&mut world, true);
        let way = Way::Udp(UDP_PHONE, first);
        register(&mut world, &mut phone, way, 600);
        let mut server = answered(&mut world, &phone, way);
        let way = Way::Udp("10.9.9.9:40001", 1 - first);
        register(&mut world, &mut phone, way, 60);
        match expires {
            true => world.pass_s(62),
            false => register(&mut world, &mut phone, way, 0),
        }
        re_invited(&mut world, &phone, &mut server, way);
        in_dialog(&mut world, &mut server, "BYE", way);
        world.assert_silent();
        world.end();
    }
}

/// What counts is when the two came, not when their turn was.
#[test]
fn a_register_that_lay_in_a_slow_shard_does_not_take_a_phone_back_that_has_registered_since() {
    for shards in [1, 2] {
        let mut world = World::new(&Setup { shards, ..Setup::default() });
        let (phone, former) = plain(&mut world, true);
        let mut phone = Phone { params: Phone::new("alice", phone.wire).params, ..phone };
        let before = phone.register_text(600);
        world.pass(Duration::from_millis(10));
        "after-a-reboot".clone_into(&mut phone.call_id);
        let way = Way::Udp("10.9.9.9:40001", 0);
        register(&mut world, &mut phone, way, 600);
        world.waited = Duration::from_millis(10);
        former.say(&mut world, &before);
        phone.accept_register(&mut world, 600);
        world.waited = Duration::ZERO;
        former.hear(&mut world, "SIP/2.0 200");
        answered(&mut world, &phone, way);
        world.end();
    }
}

#[test]
fn with_sticky_contact_a_new_call_id_leaves_no_dead_alias() {
    for shards in [1, 2] {
        for over_udp in [false, true] {
            let mut world = World::new(&Setup { sticky: Sticky::Contact, shards, ..Setup::default() });
            let (mut phone, mut way) = plain(&mut world, over_udp);
            register(&mut world, &mut phone, way, 600);
            let first = phone.clone();
            // Over the same flow; over another one, the former still there, and gone; over another UDP port.
            for (at, keeps) in [(1, true), (2, true), (3, false), (4, false)] {
                phone.call_id = format!("boot{at}");
                way = match way {
                    Way::Stream(wire) if at > 1 => {
                        if !keeps {
                            world.hang_up(wire);
                        }
                        Way::Stream(world.connect(at % shards, TLS))
                    }
                    Way::Udp(..) if at > 1 => Way::Udp(["10.9.9.9:40002", "10.9.9.9:40003"][usize::from(at % 2)], at),
                    same => same,
                };
                register(&mut world, &mut phone, way, 600);
                assert_eq!(phone.bound_contact, first.bound_contact, "one alias: {at}");
                world.datagram(0, SERVER, &first.server_request("OPTIONS", &format!("o{at}"), 1));
                let options = way.hear(&mut world, "OPTIONS ");
                assert_eq!(start_line(&options), format!("OPTIONS {} SIP/2.0", phone.contact));
                way.say(&mut world, &answer(&options, "200 OK", "p", ""));
                world.expect_server("SIP/2.0 200");
            }
            let bindings: u64 = world.engines.iter().map(|one| one.snapshot().gauges.of(Gauge::Bindings)).sum();
            assert_eq!(bindings, 1);
            world.end();
        }
    }
}

/// Two phones of one user behind different NATs, both 192.168.1.10.
#[test]
fn two_phones_of_one_user_with_the_same_private_contact_stay_two() {
    for sticky in MODES {
        for shards in [1, 2] {
            let mut world = World::new(&Setup { sticky, shards, ..Setup::default() });
            let mut phones: Vec<Phone> = [([198, 51, 100, 1], 0), ([198, 51, 100, 2], shards - 1)]
                .into_iter()
                .map(|(ip, shard)| {
                    let wire = world.connect_from(shard, TLS, (ip, 40_000).into());
                    let call_id = format!("of-{}", ip[3]);
                    let contact = "sip:alice@192.168.1.10:5060;transport=tls".to_owned();
                    Phone { params: "", call_id, contact, ..Phone::new("alice", wire) }
                })
                .collect();
            for phone in &mut phones {
                phone.register(&mut world, 600);
            }
            let bindings: u64 = world.engines.iter().map(|one| one.snapshot().gauges.of(Gauge::Bindings)).sum();
            assert_eq!(bindings, 2, "{sticky:?}");
            // A call of the first is not the second's, whatever that one does.
            let way = Way::Stream(phones[0].wire);
            let mut server = if sticky == Sticky::Aor {
                // Nothing on the wire tells them apart: the one that registered last rings.
                phones[0].register(&mut world, 600);
                answered(&mut world, &phones[0], way)
            } else {
                answered(&mut world, &phones[0], way)
            };
            phones[1].register(&mut world, 600);
            in_dialog(&mut world, &mut server, "INFO", way);
            if sticky == Sticky::Contact {
                assert_ne!(phones[0].bound_contact, phones[1].bound_contact);
            }
            phones[1].register(&mut world, 0);
            in_dialog(&mut world, &mut server, "BYE", way);
            let count: u64 = world.engines.iter().map(|one| one.snapshot().gauges.of(Gauge::Bindings)).sum();
            assert_eq!(count, 1, "its own Contact, and not the other's");
            world.end();
        }
    }
}

/// The former flow is gone: by its Contact alone the phone is known again.
#[test]
fn a_phone_that_comes_back_from_elsewhere_under_a_new_call_id_is_the_same_when_its_flow_is_gone() {
    for (lost, shards) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let mut world = World::new(&Setup { sticky: Sticky::Contact, shards, ..Setup::default() });
        let (mut phone, way) = plain(&mut world, false);
        register(&mut world, &mut phone, way, 600);
        let mut server = answered(&mut world, &phone, way);
        let alias = phone.bound_contact.clone();
        if lost {
            world.hang_up(phone.wire);
        }
        let elsewhere = world.connect_from(0, TLS, ([203, 0, 113, 9], 40_000).into());
        let other_way = Way::Stream(elsewhere);
        "another".clone_into(&mut phone.call_id);
        register(&mut world, &mut phone, other_way, 600);
        assert_eq!(phone.bound_contact == alias, lost);
        in_dialog(&mut world, &mut server, "BYE", if lost { other_way } else { way });
        world.end();
    }
}

/// Who may register for one AOR says the Contact of another AOR's phone: nothing comes of it.
#[test]
fn the_contact_of_another_users_phone_makes_nobody_that_phone() {
    for sticky in MODES {
        for ends in [false, true] {
            let mut world = World::new(&Setup { sticky, ..Setup::default() });
            let (mut alice, way) = plain(&mut world, false);
            register(&mut world, &mut alice, way, 600);
            let mut server = answered(&mut world, &alice, way);
            // From the same address, under the same Call-ID, with the same Contact, and to take it back.
            let wire = world.connect(0, TLS);
            let mut mallory = Phone { user: "mallory", wire, ..alice.clone() };
            mallory.register(&mut world, if ends { 0 } else { 600 });
            if sticky == Sticky::Contact {
                assert_ne!(mallory.bound_contact, alice.bound_contact);
            }
            in_dialog(&mut world, &mut server, "BYE", way);
            let (_, asked) = alice.asked(&mut world, "OPTIONS", "o1");
            world.write(alice.wire, &answer(&asked, "200 OK", "p", ""));
            world.expect_server("SIP/2.0 200");
            assert_eq!(world.try_read(wire), None);
            world.end();
        }
    }
}

/// An attempt that its registrar refuses changes nothing for the phone that it claims to be.
#[test]
fn a_refused_register_with_a_phones_contact_takes_nothing_from_it() {
    for sticky in MODES {
        let mut world = World::new(&Setup { sticky, ..Setup::default() });
        let (mut phone, way) = plain(&mut world, false);
        register(&mut world, &mut phone, way, 600);
        let thief = world.connect(0, TLS);
        for expires in [600, 0] {
            let mut claims = phone.clone();
            claims.cseq += expires;
            let text = claims.register_text(expires);
            world.write(thief, &text);
            let request = world.expect_server("REGISTER ");
            assert!(!header(&request, "Contact").is_empty());
            world.datagram(0, SERVER, &answer(&request, "401 Unauthorized", "s", ""));
            world.expect(thief, "SIP/2.0 401");
        }
        let (_, asked) = phone.asked(&mut world, "OPTIONS", "o1");
        world.write(phone.wire, &answer(&asked, "200 OK", "p", ""));
        world.expect_server("SIP/2.0 200");
        assert_eq!(world.try_read(thief), None);
        world.end();
    }
}

/// Answers come in another order than the server gave them.
#[test]
fn an_answer_that_comes_late_does_not_take_a_phone_back_that_has_registered_again_since() {
    for sticky in MODES {
        for (params, knows) in [("", false), ("", true), (";+sip.instance=\"<urn:uuid:1>\"", false)] {
            for expires in [600, 0] {
                let mut world = World::new(&Setup { sticky, ..Setup::default() });
                let (mut phone, way) = plain(&mut world, false);
                phone.params = params;
                if knows {
                    register(&mut world, &mut phone, way, 600);
                }
                phone.send_register(&mut world, expires);
                let slow = world.expect_server("REGISTER ");
                world.pass_ms(100);
                world.hang_up(phone.wire);
                phone.wire = world.connect(0, TLS);
                "after-a-restart".clone_into(&mut phone.call_id);
                phone.cseq = 0;
                phone.register(&mut world, 600);
                world.pass_ms(100);
                let contact = match expires {
                    0 => String::new(),
                    _ => format!("Contact: {};expires=600\r\n", header(&slow, "Contact")),
                };
                world.datagram(0, SERVER, &answer(&slow, "200 OK", "srv", &contact));
                let (_, asked) = phone.asked(&mut world, "OPTIONS", "o1");
                world.write(phone.wire, &answer(&asked, "200 OK", "p", ""));
                world.expect_server("SIP/2.0 200");
                world.drain();
                world.end();
            }
        }
    }
}
