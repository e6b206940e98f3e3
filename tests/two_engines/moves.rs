//! A phone that changes its connection, or loses it, in each state of a call.

use std::time::Duration;

use hawser::engine::Sticky;
use hawser::stats::Counter;

use crate::calls::{answered, registered, registered_with};
use crate::registration::user_with_home;
use crate::stage::cancel;
use crate::talk::{Dialog, Phone, answer, headers, start_line};
use crate::world::{SERVER, Setup, TLS, World};

/// The phone registers over another connection. `first_close`: the old one is lost before; else it stays.
fn move_to(world: &mut World, phone: &mut Phone, shard: u8, first_close: bool) {
    if first_close {
        world.hang_up(phone.wire);
    }
    phone.wire = world.connect(shard, TLS);
    phone.register(world, 3_600);
}

/// The phone calls somebody itself.
fn own_invite(phone: &Phone) -> String {
    format!(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKi1\r\n\
         From: <sip:{0}@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: p1\r\nCSeq: 1 INVITE\r\n\
         Contact: <{1}>\r\nContent-Length: 0\r\n\r\n",
        phone.user, phone.contact
    )
}

const MOVES: [(u8, bool); 4] = [(0, false), (1, false), (0, true), (1, true)];

#[test]
fn after_a_move_requests_from_both_sides_arrive() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for (shard, first_close) in MOVES {
            let (mut world, mut phone) = registered_with(&Setup { sticky, ..Setup::default() });
            let (mut server, mut callee) = answered(&mut world, &phone, "c1");
            move_to(&mut world, &mut phone, shard, first_close);
            // A re-INVITE from the server, by its old route set.
            let invite = server.request("INVITE", &format!("UDP {SERVER}"));
            world.datagram(0, SERVER, &invite);
            let invite = world.read(phone.wire);
            world.write(phone.wire, &answer(&invite, "200 OK", "", &format!("Contact: <{}>\r\n", phone.contact)));
            assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
            let ack = server.request("ACK", &format!("UDP {SERVER}"));
            world.datagram(1, SERVER, &ack);
            world.expect(phone.wire, "ACK ");
            // One from the phone.
            let invite = callee.request("INVITE", "TLS 192.0.2.7:5060");
            world.write(phone.wire, &invite);
            let invite = world.read_server();
            world.datagram(0, SERVER, &answer(&invite, "200 OK", "", &format!("Contact: <sip:{SERVER}>\r\n")));
            assert_eq!(start_line(&world.read(phone.wire)), "SIP/2.0 200 OK");
            let ack = callee.request("ACK", "TLS 192.0.2.7:5060");
            world.write(phone.wire, &ack);
            world.read_server();
            // And the end, from the server.
            server.server_hangs_up(&mut world, 1, phone.wire);
            world.assert_silent();
            world.end();
        }
    }
}

#[test]
fn a_new_call_after_a_move_goes_over_the_new_connection_though_the_path_names_the_old() {
    for (shard, first_close) in MOVES {
        let (mut world, mut phone) = registered();
        let old_path = phone.path.clone();
        move_to(&mut world, &mut phone, shard, first_close);
        phone.path = old_path;
        let (_, invite) = phone.asked(&mut world, "INVITE", "c2");
        world.write(phone.wire, &answer(&invite, "486 Busy Here", "p", ""));
        world.expect(phone.wire, "ACK ");
        world.expect_server("SIP/2.0 486");
        world.drain();
        world.end();
    }
}

#[test]
fn a_phone_that_moves_while_it_rings_is_answered_and_cancelled_over_the_new_connection() {
    for (shard, first_close) in MOVES {
        for cancelled in [false, true] {
            let (mut world, mut phone) = registered();
            let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
            world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
            world.read_server();
            move_to(&mut world, &mut phone, shard, first_close);
            if cancelled {
                world.datagram(0, SERVER, &cancel(&request));
                world.expect_server("SIP/2.0 200");
                let cancel = world.read(phone.wire);
                assert!(cancel.starts_with("CANCEL "));
                world.write(phone.wire, &answer(&cancel, "200 OK", "p1", ""));
                world.write(phone.wire, &answer(&invite, "487 Request Terminated", "p1", ""));
                assert!(world.read(phone.wire).starts_with("ACK "), "the ACK follows too");
                world.expect_server("SIP/2.0 487");
            } else {
                world.write(phone.wire, &answer(&invite, "200 OK", "p1", ""));
                world.expect_server("SIP/2.0 200");
            }
            world.drain();
            world.end();
        }
    }
}

#[test]
fn an_invite_whose_flow_is_lost_under_way_is_sent_again_to_the_phone_that_comes_back() {
    let (mut world, mut phone) = registered();
    let (_, first) = phone.asked(&mut world, "INVITE", "c1");
    world.hang_up(phone.wire);
    world.pass_ms(1_000);
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 100 Trying");
    phone.wire = world.connect(0, TLS);
    phone.send_register(&mut world, 3_600);
    phone.accept_register(&mut world, 3_600);
    let both = [world.read(phone.wire), world.read(phone.wire)];
    let again = both.iter().find(|text| text.starts_with("INVITE ")).expect("the INVITE follows").clone();
    assert_eq!(headers(&again, "Via"), headers(&first, "Via"), "the same transaction");
    world.write(phone.wire, &answer(&again, "200 OK", "p1", ""));
    world.drain();
    world.end();
}

#[test]
fn an_invite_whose_flow_is_lost_for_good_ends_with_430_or_480_within_2_s() {
    for (outbound, ringing, status) in
        [(true, false, "SIP/2.0 430"), (false, false, "SIP/2.0 480"), (true, true, "SIP/2.0 430")]
    {
        let mut world = World::new(&Setup::default());
        let wire = world.connect(1, TLS);
        let mut phone = Phone::new("alice", wire);
        if !outbound {
            phone.params = "";
        }
        phone.register(&mut world, 3_600);
        let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
        if ringing {
            world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
            world.read_server();
        }
        world.hang_up(phone.wire);
        world.pass_ms(2_000);
        let mut last = world.read_server();
        if last.starts_with("SIP/2.0 100") {
            last = world.read_server();
        }
        assert!(last.starts_with(status), "{last}");
        world.drain();
        world.end();
    }
}

#[test]
fn an_out_of_dialog_request_to_a_phone_that_is_gone_fails_at_once() {
    let (mut world, phone) = registered();
    world.hang_up(phone.wire);
    for (method, call) in [("INVITE", "c1"), ("MESSAGE", "c2")] {
        let request = phone.server_request(method, call, 1);
        world.datagram(0, SERVER, &request);
        world.expect_server("SIP/2.0 430");
    }
    world.drain();
    world.end();
}

#[test]
fn an_in_dialog_request_waits_for_the_phone_to_come_back() {
    for shard in [0, 1] {
        let (mut world, mut phone) = registered();
        let (mut server, _) = answered(&mut world, &phone, "c1");
        world.hang_up(phone.wire);
        let bye = server.request("BYE", &format!("UDP {SERVER}"));
        world.datagram(0, SERVER, &bye);
        world.pass_ms(2_500);
        world.assert_silent();
        phone.wire = world.connect(shard, TLS);
        phone.send_register(&mut world, 3_600);
        phone.accept_register(&mut world, 3_600);
        let both = [world.read(phone.wire), world.read(phone.wire)];
        let bye = both.iter().find(|text| text.starts_with("BYE ")).expect("the BYE follows");
        world.write(phone.wire, &answer(bye, "200 OK", "", ""));
        world.expect_server("SIP/2.0 200");
        assert_eq!(world.counted(Counter::GraceRescued), 1);
        world.end();
    }
}

#[test]
fn an_in_dialog_request_to_a_phone_that_stays_away_gets_480_after_the_grace() {
    let (mut world, phone) = registered();
    let (mut server, _) = answered(&mut world, &phone, "c1");
    world.hang_up(phone.wire);
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &bye);
    world.pass_ms(3_100);
    world.expect_server("SIP/2.0 480");
    world.end();
}

#[test]
fn with_flow_grace_off_it_fails_at_once() {
    let (mut world, phone) = registered_with(&Setup { flow_grace: Duration::ZERO, ..Setup::default() });
    let (mut server, _) = answered(&mut world, &phone, "c1");
    world.hang_up(phone.wire);
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &bye);
    world.expect_server("SIP/2.0 480");
    world.end();
}

#[test]
fn a_response_follows_its_phone_to_the_connection_that_it_comes_back_over() {
    for (shard, first_close) in MOVES {
        let (mut world, mut phone) = registered();
        let invite = own_invite(&phone);
        world.write(phone.wire, &invite);
        let sent = world.read_server();
        move_to(&mut world, &mut phone, shard, first_close);
        let ok = answer(&sent, "200 OK", "s1", &format!("Contact: <sip:{SERVER}>\r\n"));
        world.datagram(0, SERVER, &ok);
        let ok = world.read(phone.wire);
        assert!(ok.starts_with("SIP/2.0 200"));
        let mut dialog = Dialog::caller(&ok);
        let ack = dialog.request("ACK", "TLS 192.0.2.7:5060");
        world.write(phone.wire, &ack);
        world.expect_server("ACK ");
        world.end();
    }
}

#[test]
fn a_phone_that_moves_while_its_call_rings_hangs_up_over_the_new_connection_and_nobody_else_does() {
    for (first, shards) in [(0, 2), (1, 2), (2, 3)] {
        for (shard, first_close) in MOVES {
            let mut world = World::new(&Setup { shards, ..Setup::default() });
            let wire = world.connect(first, TLS);
            let mut phone = Phone::new("alice", wire);
            phone.register(&mut world, 3_600);
            let wire = world.connect(shard, TLS);
            let mut other = Phone::new("mallory", wire);
            other.register(&mut world, 3_600);
            let invite = own_invite(&phone);
            world.write(phone.wire, &invite);
            let sent = world.read_server();
            world.datagram(0, SERVER, &answer(&sent, "180 Ringing", "s1", ""));
            world.read(phone.wire);
            move_to(&mut world, &mut phone, shard, first_close);

            let cancel = invite.replace("INVITE sip", "CANCEL sip").replace("1 INVITE", "1 CANCEL");
            world.write(other.wire, &cancel);
            assert!(world.read(other.wire).starts_with("SIP/2.0 481"));
            world.write(phone.wire, &cancel);
            assert!(world.read(phone.wire).starts_with("SIP/2.0 200"));
            let cancelled = world.read_server();
            assert!(cancelled.starts_with("CANCEL "), "{cancelled}");
            world.datagram(0, SERVER, &answer(&cancelled, "200 OK", "s1", ""));
            world.datagram(0, SERVER, &answer(&sent, "487 Request Terminated", "s1", ""));
            assert!(world.read_server().starts_with("ACK "));
            let ended = world.read(phone.wire);
            assert!(ended.starts_with("SIP/2.0 487"), "{ended}");
            world.end();
        }
    }
}

#[test]
fn a_response_to_a_phone_that_is_away_for_a_moment_waits_for_it() {
    let (mut world, mut phone) = registered();
    let request = format!(
        "MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKi1\r\n\
         From: <sip:{0}@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: p1\r\nCSeq: 1 MESSAGE\r\n\
         Content-Length: 0\r\n\r\n",
        phone.user
    );
    world.write(phone.wire, &request);
    let sent = world.read_server();
    world.hang_up(phone.wire);
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s1", ""));
    world.pass_ms(500);
    phone.wire = world.connect(0, TLS);
    phone.send_register(&mut world, 3_600);
    phone.accept_register(&mut world, 3_600);
    let both = [world.read(phone.wire), world.read(phone.wire)];
    assert!(both.iter().any(|text| text.contains("CSeq: 1 MESSAGE")), "{both:?}");
    world.end();
}

#[test]
fn after_a_restart_with_the_same_key_the_binding_decides() {
    for member in [7, 8] {
        let (mut world, mut phone) = registered();
        let (mut server, _) = answered(&mut world, &phone, "c1");
        let old = phone.clone();
        let setup = Setup { boot: 2, member, ..Setup::default() };
        world.restart(&setup);
        // Another phone takes the slot that the token names.
        let stranger_wire = world.connect(1, TLS);
        assert_eq!(stranger_wire, old.wire, "the same slot and generation");
        let mut stranger = Phone::new("zoe", stranger_wire);
        stranger.register(&mut world, 3_600);
        let request = old.server_request("INVITE", "c2", 1);
        world.datagram(0, SERVER, &request);
        world.expect_server("SIP/2.0 430");
        // The phone comes back: its dialog goes on.
        phone.wire = world.connect(0, TLS);
        phone.register(&mut world, 3_600);
        server.server_hangs_up(&mut world, 1, phone.wire);
        assert_eq!(world.try_read(stranger_wire), None);
        world.drain();
        world.end();
    }
}

#[test]
fn a_slot_that_is_used_again_is_never_taken_for_the_connection_before() {
    let (mut world, phone) = registered();
    world.hang_up(phone.wire);
    let other = world.connect(1, TLS);
    assert_eq!(other.conn.slot, phone.wire.conn.slot);
    let mut stranger = Phone::new("zoe", other);
    stranger.register(&mut world, 3_600);
    let request = phone.server_request("INVITE", "c1", 1);
    world.datagram(0, SERVER, &request);
    world.expect_server("SIP/2.0 430");
    assert_eq!(world.try_read(other), None);
    world.drain();
    world.end();
}

#[test]
fn a_phone_that_goes_back_to_its_first_connection_is_reached_there() {
    let (mut world, mut phone) = registered();
    let (mut server, _) = answered(&mut world, &phone, "c1");
    let first = phone.wire;
    move_to(&mut world, &mut phone, 0, false);
    phone.wire = first;
    phone.register(&mut world, 3_600);
    let bye = server.request("BYE", &format!("UDP {SERVER}"));
    world.datagram(0, SERVER, &bye);
    let bye = world.read(first);
    world.write(first, &answer(&bye, "200 OK", "", ""));
    world.expect_server("SIP/2.0 200");
    world.end();
}

#[test]
fn a_request_over_a_connection_that_the_binding_has_left_is_answered_there() {
    for shard in [0, 1] {
        let (mut world, mut phone) = registered();
        let first = phone.wire;
        move_to(&mut world, &mut phone, shard, false);
        let (second, call) = (phone.wire, phone.server_request("MESSAGE", "m", 1));
        let text = call.replace(&format!("UDP {SERVER}"), "TLS 192.0.2.7:5060").replace("Route:", "X-Route:");
        world.write(first, &text);
        let sent = world.read_server();
        // The connection that it had moved to is lost meanwhile; the one that asked is there.
        world.hang_up(second);
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        world.expect(first, "SIP/2.0 200");
        world.end();
    }
}

/// The phone registers over a second connection, and loses that before the 2xx comes.
fn move_to_a_connection_that_dies(world: &mut World, phone: &mut Phone, shard: u8) {
    let first = phone.wire;
    phone.wire = world.connect(shard, TLS);
    phone.send_register(world, 3_600);
    world.hang_up(phone.wire);
    phone.accept_register(world, 3_600);
    phone.wire = first;
}

#[test]
fn an_answer_reaches_its_asker_though_the_binding_has_moved_to_a_connection_that_is_gone() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for shards in 2..=4 {
            for second in 0..shards {
                let (mut world, mut phone) = registered_with(&Setup { sticky, shards, ..Setup::default() });
                let message = own_invite(&phone).replace("INVITE", "MESSAGE");
                world.write(phone.wire, &message);
                let at_server = world.expect_server("MESSAGE ");
                move_to_a_connection_that_dies(&mut world, &mut phone, second);
                world.datagram(0, SERVER, &answer(&at_server, "200 OK", "s", ""));
                let ok = world.read(phone.wire);
                assert!(ok.starts_with("SIP/2.0 200"), "{ok}");
                world.drain();
                world.end();
            }
        }
    }
}

#[test]
fn a_dialog_goes_on_over_the_flow_that_it_names_when_the_binding_has_moved_to_one_that_is_gone() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for shards in 2..=4 {
            for (second, third) in [(0, 0), (0, shards - 1), (shards - 1, 0), (shards - 1, shards - 1)] {
                let (mut world, mut phone) = registered_with(&Setup { sticky, shards, ..Setup::default() });
                let (mut server, _) = answered(&mut world, &phone, "c1");
                // Twice: where the first move leads is known to the flow's owner, where the second does is not.
                let first = phone.wire;
                let between = world.connect(second, TLS);
                phone.wire = between;
                phone.register(&mut world, 3_600);
                move_to_a_connection_that_dies(&mut world, &mut phone, third);
                for method in ["INFO", "MESSAGE"] {
                    let request = server.request(method, &format!("UDP {SERVER}"));
                    world.datagram(0, SERVER, &request);
                    let request = world.expect(first, method);
                    world.write(first, &answer(&request, "200 OK", "", ""));
                    world.expect_server("SIP/2.0 200");
                }
                server.server_hangs_up(&mut world, 0, first);
                world.hang_up(between);
                world.drain();
                world.end();
            }
        }
    }
}

#[test]
fn a_udp_phone_that_has_moved_is_cancelled_called_and_hung_up_where_it_is() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for shards in [1, 2, 3] {
            for home in 0..shards {
                // Where the datagrams of the phone's first and second address land, and of its third; and the server's.
                for lands in 0..27_u8 {
                    let (a, b, c) = (lands % 3 % shards, lands / 3 % 3 % shards, lands / 9 % shards);
                    let mut world = World::new(&Setup { sticky, shards, ..Setup::default() });
                    let user = user_with_home(&world, home);
                    let nowhere = world.connect(0, TLS);
                    let mut phone = Phone::new(user, nowhere);
                    phone.via = "UDP";
                    let register = |world: &mut World, phone: &mut Phone, shard, from: &str| {
                        let text = phone.register_text(600);
                        world.datagram(shard, from, &text);
                        phone.accept_register(world, 600);
                        let ok = world.read_udp(from);
                        assert!(ok.starts_with("SIP/2.0 200"), "{ok}");
                    };
                    register(&mut world, &mut phone, a, "10.0.0.7:5061");
                    let invite = phone.server_request("INVITE", "c1", 1);
                    world.datagram(c, SERVER, &invite);
                    let rings = world.read_udp("10.0.0.7:5061");
                    world.datagram(a, "10.0.0.7:5061", &answer(&rings, "180 Ringing", "p", ""));
                    world.expect_server("SIP/2.0 180");
                    register(&mut world, &mut phone, b, "10.0.0.7:5062");
                    register(&mut world, &mut phone, a, "10.0.0.7:5063");
                    world.datagram(c, SERVER, &cancel(&invite));
                    let context = format!("{sticky:?}, {shards} shards, home {home}, lands on {a}, {b}, {c}");
                    assert_eq!(world.try_read_udp("10.0.0.7:5061"), None, "{context}");
                    assert_eq!(world.try_read_udp("10.0.0.7:5062"), None, "{context}");
                    let cancelled =
                        world.try_read_udp("10.0.0.7:5063").unwrap_or_else(|| panic!("no CANCEL: {context}"));
                    assert!(cancelled.starts_with("CANCEL "), "{context}: {cancelled}");
                    world.datagram(a, "10.0.0.7:5063", &answer(&cancelled, "200 OK", "p", ""));
                    world.datagram(a, "10.0.0.7:5063", &answer(&rings, "487 Request Terminated", "p", ""));
                    world.drain();
                }
            }
        }
    }
}
