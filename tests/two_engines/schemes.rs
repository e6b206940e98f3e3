//! URIs that are neither sip nor sips: numbers and names that are dialled (RFC 3966, RFC 5031), and what a registrar
//! may know (RFC 4475 §3.3.4).

use hawser::engine::Sticky;
use hawser::stats::Counter;

use crate::calls::registered_with;
use crate::next_hop::request;
use crate::stage::ask;
use crate::talk::{Dialog, Phone, answer, header, headers, start_line};
use crate::world::{SERVER, Setup, TLS, World};

const DIALLED: [&str; 4] =
    ["tel:+15551234;phone-context=example.com", "TEL:112", "urn:service:sos", "urn:service:sos.fire"];

#[test]
fn what_a_phone_dials_goes_to_the_server_unchanged_and_its_dialog_stands() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for dialled in DIALLED {
            let (mut world, phone) = registered_with(&Setup { sticky, ..Setup::default() });
            let invite = ask("INVITE", "d1").replace("sip:bob@example.com", dialled);
            world.write(phone.wire, &invite);
            let sent = world.read_server();
            assert_eq!(start_line(&sent), format!("INVITE {dialled} SIP/2.0"));
            assert_eq!(header(&sent, "To"), format!("<{dialled}>"));
            assert_eq!((headers(&sent, "Via").len(), headers(&sent, "Record-Route").len()), (2, 2));
            world.datagram(1, SERVER, &answer(&sent, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n")));
            let mut caller = Dialog::caller(&world.expect(phone.wire, "SIP/2.0 200"));
            world.write(phone.wire, &caller.request("ACK", "TLS 192.0.2.7:5060"));
            world.expect_server("ACK ");
            Dialog::callee(&sent, "s").server_hangs_up(&mut world, 0, phone.wire);
            // Not found is the server's word.
            world.write(phone.wire, &invite.replace("d1", "d2"));
            let sent = world.read_server();
            world.datagram(0, SERVER, &answer(&sent, "404 Not Found", "s", ""));
            world.expect(phone.wire, "SIP/2.0 404");
            world.drain();
            world.end();
        }
    }
}

#[test]
fn a_number_of_the_servers_goes_on_where_something_else_says_where() {
    let (mut world, phone) = registered_with(&Setup::default());
    for (at, dialled) in DIALLED.iter().enumerate() {
        let text = |call: &str, fields: &str| request("INVITE", dialled, &format!("{call}{at}"), fields);
        let to_phone = text("t", &format!("Route: {}\r\n", phone.path[0]));
        for shard in [0, 1] {
            // A repetition lands elsewhere, and reaches the same transaction.
            world.datagram(shard, SERVER, &to_phone);
        }
        let came = world.expect(phone.wire, &format!("INVITE {dialled} SIP/2.0"));
        world.write(phone.wire, &answer(&came, "486 Busy Here", "p", ""));
        world.expect(phone.wire, "ACK ");
        world.expect_server("SIP/2.0 486");
        world.assert_silent();
        let gateway = "10.1.1.1:5070";
        for (call, fields) in
            [("g", "X-Genesys-Route: sip:10.1.1.1:5070\r\n"), ("r", "Route: <sip:10.1.1.1:5070;lr>\r\n")]
        {
            for shard in [0, 1] {
                world.datagram(shard, SERVER, &text(call, fields));
            }
            let came = world.read_udp(gateway);
            assert_eq!(start_line(&came), format!("INVITE {dialled} SIP/2.0"));
            world.assert_silent();
            world.datagram(0, gateway, &answer(&came, "503 Service Unavailable", "g", ""));
            world.expect_server("SIP/2.0 500");
            world.read_udp(gateway);
        }
    }
    world.drain();
    world.end();
}

#[test]
fn a_number_of_the_servers_that_nothing_else_leads_anywhere_is_416_as_are_schemes_that_nobody_knows() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        let (mut world, phone) = registered_with(&Setup { sticky, ..Setup::default() });
        let mut count = 0;
        let own = "Route: <sip:127.0.0.1:5060;lr>\r\n";
        for dialled in DIALLED.iter().chain(&["isbn:2983792873", "mailto:a@b"]) {
            for (method, fields) in [("MESSAGE", ""), ("OPTIONS", own)] {
                count += 1;
                world.datagram(0, SERVER, &request(method, dialled, &format!("n{count}"), fields));
                world.expect_server("SIP/2.0 416");
                world.assert_silent();
            }
        }
        world.write(phone.wire, &ask("MESSAGE", "m1").replacen("sip:bob@example.com", "isbn:2983792873", 1));
        world.expect(phone.wire, "SIP/2.0 416");
        assert_eq!(world.counted(Counter::FaultScheme), count + 1);
        world.end();
    }
}

/// RFC 4475 §3.3.4.
#[test]
fn a_register_of_another_scheme_passes_and_binds_nothing() {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for (to, contact, aor) in [
            ("isbn:2983792873", "<sip:alice@192.0.2.7:5060;transport=tls>;expires=600", "sip:alice@192.0.2.7:5060"),
            ("isbn:2983792873", "*", "sip:alice@example.com"),
            ("<tel:+15551234>", "<sip:alice@192.0.2.7:5060;transport=tls>;expires=600", "tel:+15551234"),
            ("<sip:alice@example.com>", "<name:John_Smith>;expires=600", "sip:alice@example.com"),
        ] {
            for shard in [0, 1] {
                let mut world = World::new(&Setup { sticky, ..Setup::default() });
                let mut phone = Phone::new("alice", world.connect(shard, TLS));
                let text = phone.register_text(600);
                let text = text.replace(&format!("To: {}", header(&text, "To")), &format!("To: {to}"));
                let text =
                    text.replace(&format!("Contact: {}", header(&text, "Contact")), &format!("Contact: {contact}"));
                world.write(phone.wire, &text);
                let sent = world.expect_server("REGISTER ");
                assert_eq!((header(&sent, "To"), header(&sent, "Contact")), (to, contact));
                world.datagram(1, SERVER, &answer(&sent, "200 OK", "s", &format!("Contact: {contact}\r\n")));
                assert_eq!(header(&world.expect(phone.wire, "SIP/2.0 200"), "Contact"), contact);
                for engine in &world.engines {
                    assert_eq!(engine.snapshot().gauges.of(hawser::stats::Gauge::Bindings), 0, "{to} {contact}");
                    assert!(engine.locate(aor, world.now).is_empty());
                }
                world.end();
            }
        }
    }
}
