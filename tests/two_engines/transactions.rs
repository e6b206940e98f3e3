//! What finds a transaction (RFC 3261 §9.2, §17.1.3, §17.2.3): Via and CSeq, whose text compares without regard to
//! case.

use hawser::stats::Counter;

use crate::calls::{answered, registered};
use crate::registration::user_with_home;
use crate::stage::{ask, branch, cancel};
use crate::talk::{Phone, answer, header, headers, start_line};
use crate::world::{SERVER, Setup, TCP, TLS, UDP, World};

/// The text with the branch of its top Via as `with` writes it.
fn rewritten(text: &str, with: impl Fn(&str) -> String) -> String {
    let branch = branch(text);
    text.replace(&branch, &with(&branch))
}

#[test]
fn a_server_that_writes_our_branch_in_another_case_is_understood() {
    for with in [str::to_ascii_lowercase as fn(&str) -> String, str::to_ascii_uppercase] {
        let mut world = World::new(&Setup::default());
        let wire = world.connect(1, TLS);
        world.write(wire, &ask("INVITE", "i1"));
        let invite = world.read_server();
        world.datagram(0, SERVER, &rewritten(&answer(&invite, "180 Ringing", "s", ""), with));
        assert_eq!(branch(&world.expect(wire, "SIP/2.0 180")), "z9hG4bKi1", "the phone's own is left as it is");
        world.datagram(0, SERVER, &rewritten(&answer(&invite, "486 Busy Here", "s", ""), with));
        assert_eq!(branch(&world.expect_server("ACK ")), branch(&invite));
        world.expect(wire, "SIP/2.0 486");
        assert_eq!(world.counted(Counter::ResponseStray), 0);
        world.drain();
        world.end();
    }
}

#[test]
fn our_branch_has_one_case_so_that_nothing_is_lost_by_another() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(1, TLS);
    world.write(wire, &ask("MESSAGE", "m1"));
    let sent = world.read_server();
    let own = branch(&sent).split_off("z9hG4bK".len());
    assert_eq!(own, own.to_ascii_lowercase());
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.drain();
    world.end();
}

#[test]
fn an_ack_a_cancel_and_a_repetition_in_another_case_find_their_invite() {
    let (mut world, phone) = registered();
    let (request, invite) = phone.asked(&mut world, "INVITE", "c1");
    world.datagram(1, SERVER, &rewritten(&request, str::to_ascii_uppercase));
    assert_eq!(world.counted(Counter::AbsorbedRequest), 1);
    world.write(phone.wire, &answer(&invite, "180 Ringing", "p1", ""));
    world.expect_server("SIP/2.0 180");
    world.datagram(0, SERVER, &rewritten(&cancel(&request), str::to_ascii_lowercase));
    assert_eq!(header(&world.expect_server("SIP/2.0 200"), "CSeq"), "1 CANCEL");
    world.expect(phone.wire, "CANCEL ");
    world.write(phone.wire, &answer(&invite, "487 Request Terminated", "p1", ""));
    world.expect(phone.wire, "ACK ");
    world.expect_server("SIP/2.0 487");
    let ack = request.replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK");
    world.datagram(1, SERVER, &rewritten(&ack, str::to_ascii_uppercase));
    world.pass_s(10);
    world.assert_silent();
    world.end();
}

#[test]
fn an_ack_to_an_error_of_ours_ends_here_in_whichever_case_its_tag_is() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &ask("INVITE", "i1").replace("Max-Forwards: 70", "Max-Forwards: 0"));
    let refused = world.expect(wire, "SIP/2.0 483");
    let to = header(&refused, "To").to_owned();
    let (name, tag) = to.split_once(";tag=").expect("a tag");
    let ack = ask("ACK", "i1").replace("To: <sip:bob@example.com>", &format!("To: {name};tag={}", tag.to_uppercase()));
    world.write(wire, &ack);
    world.assert_silent();
    assert_eq!(world.counted(Counter::AbsorbedAck), 1);
    world.end();
}

/// RFC 3261 §9.2, §16.10.
#[test]
fn a_cancel_of_a_request_that_is_no_invite_is_answered_200_and_goes_nowhere() {
    for method in ["OPTIONS", "MESSAGE", "SUBSCRIBE", "INFO", "WHATEVER"] {
        let (mut world, phone) = registered();
        // From the server's side, over UDP: pending, and just finished.
        let (request, came) = phone.asked(&mut world, method, "c1");
        for answered in [false, true] {
            if answered {
                world.write(phone.wire, &answer(&came, "200 OK", "p", ""));
                world.expect_server("SIP/2.0 200");
            }
            world.datagram(1, SERVER, &cancel(&request));
            let ok = world.expect_server("SIP/2.0 200");
            assert_eq!(header(&ok, "CSeq"), "1 CANCEL", "{method}");
            world.assert_silent();
        }
        // From a phone, over a connection.
        world.write(phone.wire, &ask(method, "c2"));
        let sent = world.read_server();
        world.write(phone.wire, &cancel(&ask(method, "c2")));
        assert_eq!(header(&world.expect(phone.wire, "SIP/2.0 200"), "CSeq"), "1 CANCEL", "{method}");
        world.assert_silent();
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        assert_eq!(header(&world.expect(phone.wire, "SIP/2.0 200"), "CSeq"), format!("1 {method}"));
        // What has ended, and what was never begun, is not known.
        world.pass_s(6);
        for id in ["c2", "c3"] {
            world.write(phone.wire, &cancel(&ask(method, id)));
            world.expect(phone.wire, "SIP/2.0 481");
        }
        world.end();
    }
}

#[test]
fn a_cancel_of_a_register_is_answered_200_wherever_its_home_is() {
    for (home, point) in [(0, TLS), (1, TLS), (0, TCP), (0, UDP)] {
        let mut world = World::new(&Setup { shards: 2, ..Setup::default() });
        let user = user_with_home(&world, home);
        // Nothing is known of who sends it but the connection.
        let wire = world.connect(1, if point == UDP { TCP } else { point });
        let mut phone = Phone::new(user, wire);
        let text = phone.register_text(600);
        let say = |world: &mut World, text: &str| match point {
            UDP => world.datagram(1, "192.0.2.7:5060", text),
            _ => world.write(wire, text),
        };
        say(&mut world, &text);
        let sent = world.expect_server("REGISTER ");
        say(&mut world, &cancel(&text));
        let ok = if point == UDP { world.read_udp("192.0.2.7:5060") } else { world.read(wire) };
        assert_eq!((start_line(&ok), header(&ok, "CSeq")), ("SIP/2.0 200 OK", "1 CANCEL"), "home {home}");
        world.assert_silent();
        world.datagram(0, SERVER, &answer(&sent, "403 Forbidden", "s", ""));
        world.drain();
        world.end();
    }
}

/// A response without the header fields of these names.
fn without(response: &str, names: &[&str]) -> String {
    let is_named = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}:")));
    let lines = response.split_inclusive("\r\n").filter(|line| !is_named(line));
    lines.collect()
}

/// RFC 3261 §17.1.3: neither From nor To nor Call-ID has a say in it.
#[test]
fn a_final_response_is_known_by_its_via_and_its_cseq_alone() {
    for names in [&["From"][..], &["To"], &["Call-ID"], &["From", "To", "Call-ID"]] {
        let (mut world, phone) = registered();
        let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
        world.write(phone.wire, &without(&answer(&invite, "486 Busy Here", "p1", ""), names));
        let ack = world.expect(phone.wire, "ACK ");
        for name in ["From", "Call-ID"] {
            assert_eq!(header(&ack, name), header(&invite, name), "{names:?}");
        }
        let tag = if names.contains(&"To") { "" } else { ";tag=p1" };
        assert_eq!(header(&ack, "To"), format!("{}{tag}", header(&invite, "To")), "{names:?}");
        assert_eq!(header(&ack, "CSeq"), "1 ACK");
        let busy = world.expect_server("SIP/2.0 486");
        for name in ["From", "To", "Call-ID"] {
            assert_eq!(headers(&busy, name).len(), usize::from(!names.contains(&name)), "{name} of {names:?}");
        }
        world.drain();
        world.pass_s(40);
        world.drain();
        world.end();

        // The answer to a REGISTER, and a call's, from the server.
        let mut world = World::new(&Setup::default());
        let mut phone = Phone::new("alice", world.connect(0, TLS));
        phone.send_register(&mut world, 600);
        let sent = world.expect_server("REGISTER ");
        let contact = format!("Contact: {};expires=600\r\n", header(&sent, "Contact"));
        world.datagram(0, SERVER, &without(&answer(&sent, "200 OK", "s", &contact), names));
        world.expect(phone.wire, "SIP/2.0 200");
        let bound: usize =
            world.engines.iter().map(|engine| engine.locate("sip:alice@example.com", world.now).len()).sum();
        assert_eq!(bound, 1);
        world.write(phone.wire, &ask("INVITE", "c2"));
        let sent = world.expect_server("INVITE ");
        world.datagram(0, SERVER, &without(&answer(&sent, "404 Not Found", "s", ""), names));
        world.expect_server("ACK ");
        world.expect(phone.wire, "SIP/2.0 404");
        world.drain();
        world.end();
    }
}

#[test]
fn what_a_server_writes_in_to_is_no_part_of_our_ack_when_it_is_no_value() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &ask("INVITE", "c1"));
    let sent = world.expect_server("INVITE ");
    let response = answer(&sent, "404 Not Found", "s", "");
    let broken = response.replace(&format!("To: {}", header(&response, "To")), "To: \"<sip:bob@example.com>;tag=s");
    world.datagram(0, SERVER, &broken);
    let ack = world.expect_server("ACK ");
    assert_eq!(header(&ack, "To"), "<sip:bob@example.com>");
    world.expect(wire, "SIP/2.0 404");
    world.drain();
    world.end();
}

#[test]
fn requests_of_one_that_knows_no_branches_are_told_apart_by_their_cseq() {
    let (mut world, phone) = registered();
    let (mut server, _) = answered(&mut world, &phone, "c1");
    for _ in 0..2 {
        let info = server.request("INFO", &format!("UDP {SERVER}"));
        let old = info.replace(&format!(";branch={}", branch(&info)), "");
        for _ in 0..2 {
            world.datagram(0, SERVER, &old);
        }
        let came = world.expect(phone.wire, "INFO ");
        assert_eq!(world.try_read(phone.wire), None, "a repetition");
        world.write(phone.wire, &answer(&came, "200 OK", "", ""));
        world.expect_server("SIP/2.0 200");
    }
    world.drain();
    world.end();
}

/// Over UDP: what is absorbed, and said again, after the context has shrunk.
#[test]
fn a_shrunk_context_says_again_what_it_said_to_where_the_asker_is() {
    let mut world = World::new(&Setup::default());
    let from = "192.0.2.9:6000";
    let text = ask("INVITE", "i1").replace("TLS", "UDP");
    world.datagram(0, from, &text);
    let invite = world.expect_server("INVITE ");
    world.datagram(0, SERVER, &answer(&invite, "486 Busy Here", "p", ""));
    world.expect_server("ACK ");
    let said = world.drain();
    assert_eq!(said.len(), 1, "{said:#?}");
    // Timer G, a repetition, and a repeated final response.
    world.pass_ms(600);
    assert_eq!(world.drain().len(), 1);
    world.datagram(0, from, &text);
    assert_eq!(world.drain().len(), 1);
    world.datagram(1, SERVER, &answer(&invite, "486 Busy Here", "p", ""));
    world.expect_server("ACK ");
    world.assert_silent();
    // Another than who asked can't cancel what is over.
    world.datagram(0, "192.0.2.9:6001", &cancel(&text));
    assert!(world.try_read_udp("192.0.2.9:6001").is_some_and(|text| text.starts_with("SIP/2.0 481")));
    world.datagram(0, from, &cancel(&text));
    let said = world.drain();
    assert_eq!(said.len(), 1, "{said:#?}");
    world.end();
}
