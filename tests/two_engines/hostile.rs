//! What an endpoint must not get anybody to do.

use hawser::config::{Device, Network, Verify};
use hawser::engine::Settings;
use hawser::stats::Counter;

use crate::calls::{answered, registered};
use crate::stage::cancel;
use crate::talk::{Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TCP, TLS, World};

fn request(method: &str, uri: &str, call_id: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.66:5060;branch=z9hG4bKm{call_id}\r\n\
         From: <sip:mallory@example.com>;tag=m\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:mallory@192.0.2.66>\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_foreign_route_gets_403_and_a_foreign_request_uri_only_the_server() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("INVITE", "sip:x@evil.example", "m1", "Route: <sip:evil.example;lr>\r\n"));
    world.expect(wire, "SIP/2.0 403");
    world.write(wire, &request("INVITE", "sip:x@198.51.100.1:5060", "m2", ""));
    let sent = world.read_server();
    assert_eq!(start_line(&sent), "INVITE sip:x@198.51.100.1:5060 SIP/2.0");
    world.datagram(0, SERVER, &answer(&sent, "404 Not Found", "s", ""));
    world.drain();
    world.end();
}

#[test]
fn routes_that_mean_us_a_domain_or_the_server_lead_to_the_server() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    for (at, route) in
        ["<sip:127.0.0.1:5061;transport=tls;lr>", "<sip:example.com;lr>", "<sip:127.0.0.1:7000;lr>"].iter().enumerate()
    {
        let text = request("OPTIONS", "sip:x@example.com", &format!("m{at}"), &format!("Route: {route}\r\n"));
        world.write(wire, &text);
        let sent = world.read_server();
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        assert!(world.read(wire).starts_with("SIP/2.0 200"), "{route}");
    }
    world.end();
}

#[test]
fn a_phones_own_path_another_phones_path_and_a_forged_token_reach_nobody() {
    let (mut world, phone) = registered();
    let wire = world.connect(0, TLS);
    let mut mallory = Phone::new("mallory", wire);
    mallory.params = "";
    mallory.register(&mut world, 600);
    let own = uri(&mallory.path[0]).to_owned();
    let borrowed = uri(&phone.path[0]).to_owned();
    let mut forged = borrowed.clone();
    let at = forged.find('@').expect("a user part") - 1;
    let swapped = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, swapped);
    // On top, a token says how the request came: it goes to the server, never to a phone.
    for (at, route) in [&own, &borrowed].iter().enumerate() {
        let text = request("MESSAGE", "sip:bob@example.com", &format!("t{at}"), &format!("Route: <{route}>\r\n"));
        world.write(wire, &text);
        world.expect_server("MESSAGE ");
    }
    let text = request("MESSAGE", "sip:bob@example.com", "t3", &format!("Route: <{forged}>\r\n"));
    world.write(wire, &text);
    world.expect(wire, "SIP/2.0 403");
    // Behind its own, a Path token is no target.
    let text = request("MESSAGE", "sip:bob@example.com", "t4", &format!("Route: <{own}>, <{borrowed}>\r\n"));
    world.write(wire, &text);
    world.expect(wire, "SIP/2.0 403");
    // In the Request-URI it is none either: a server that forwards it would name it as its own.
    let text = request("MESSAGE", &borrowed, "t5", "");
    world.write(wire, &text);
    world.expect(wire, "SIP/2.0 403");
    assert_eq!(world.try_read(phone.wire), None);
    world.drain();
    world.end();
}

#[test]
fn a_record_route_token_is_worth_nothing_in_another_dialog() {
    let (mut world, phone) = registered();
    let (_, invite) = phone.asked(&mut world, "INVITE", "c1");
    let routes: Vec<String> = headers(&invite, "Record-Route").iter().map(ToString::to_string).collect();
    let wire = world.connect(0, TLS);
    for (call_id, tag) in [("other", "c1"), ("c1", "m"), ("c1", "c1")] {
        let extra = format!("Route: <sip:127.0.0.1:5061;lr>\r\nRoute: {}\r\nRoute: {}\r\n", routes[0], routes[1]);
        let text = request("MESSAGE", "sip:bob@example.com", call_id, &extra).replace("tag=m", &format!("tag={tag}"));
        world.write(wire, &text);
        // In its own dialog, with the tag of who began it, the first traversal only says how the request came.
        if (call_id, tag) == ("c1", "c1") {
            world.expect_server("MESSAGE ");
        } else {
            world.expect(wire, "SIP/2.0 403");
        }
        assert_eq!(world.try_read(phone.wire), None);
    }
    world.drain();
    world.end();
}

/// The server forwards the INVITE of one phone, over `wire`, to another without a Record-Route of its own: the called
/// one's end of the dialog.
fn past_the_server(world: &mut World, phone: &Phone, wire: crate::world::Wire) -> crate::talk::Dialog {
    world.write(wire, &request("INVITE", "sip:x@example.com", "pp", ""));
    let sent = world.read_server();
    let second = {
        let path = &phone.path[0];
        let via = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKfwd\r\nRoute: {path}\r\n");
        sent.replacen("Via:", &format!("{via}Via:"), 1).replacen(
            "sip:x@example.com SIP",
            &format!("{} SIP", phone.contact),
            1,
        )
    };
    world.datagram(0, SERVER, &second);
    let at_phone = world.read(phone.wire);
    assert_eq!(headers(&at_phone, "Record-Route").len(), 4, "{at_phone}");
    crate::talk::Dialog::callee(&at_phone, "p")
}

#[test]
fn two_phones_talk_past_a_server_that_does_not_stay_by_the_second_traversal() {
    let (mut world, phone) = registered();
    let wire = world.connect(0, TLS);
    let mut bob = Phone::new("bob", wire);
    bob.params = "";
    bob.register(&mut world, 600);
    let mut callee = past_the_server(&mut world, &phone, wire);
    let bye = callee.request("BYE", "TLS 192.0.2.7:5060");
    world.write(phone.wire, &bye);
    let bye = world.expect(wire, "BYE sip:mallory@192.0.2.66 ");
    world.write(wire, &answer(&bye, "200 OK", "", ""));
    world.expect(phone.wire, "SIP/2.0 200");
    world.drain();
    world.end();
}

#[test]
fn after_a_restart_the_slot_that_the_other_phone_had_is_not_taken_for_ones_own() {
    let (mut world, mut phone) = registered();
    let wire = world.connect(0, TLS);
    let mut bob = Phone::new("bob", wire);
    bob.params = "";
    bob.register(&mut world, 600);
    let mut callee = past_the_server(&mut world, &phone, wire);
    world.restart(&Setup { boot: 2, ..Setup::default() });
    // Slots and generations begin anew: the called phone has now what the caller had.
    let swapped = wire;
    while phone.wire != swapped {
        phone.wire = world.connect(swapped.shard, TLS);
    }
    phone.register(&mut world, 600);
    bob.wire = world.connect(1, TLS);
    bob.register(&mut world, 600);
    world.write(phone.wire, &callee.request("BYE", "TLS 192.0.2.7:5060"));
    let bye = world.expect(bob.wire, "BYE sip:mallory@192.0.2.66 ");
    world.write(bob.wire, &answer(&bye, "200 OK", "", ""));
    world.expect(phone.wire, "SIP/2.0 200");
    world.drain();
    world.end();
}

#[test]
fn a_phone_on_the_servers_host_is_not_taken_for_it() {
    let (mut world, phone) = registered();
    let token = uri(&phone.path[0]).to_owned();
    let text = |call: &str, via: &str| {
        request("MESSAGE", &phone.contact, call, &format!("Route: <{token}>\r\nX-Genesys-Route: sip:10.0.0.1\r\n"))
            .replace("SIP/2.0/TLS 192.0.2.66:5060", via)
    };
    // Over UDP: the address without the port. Over a stream: the address without the server's Via.
    world.datagram(0, "127.0.0.1:7001", &text("h1", "SIP/2.0/UDP 127.0.0.1:7001"));
    let sent = world.read_server();
    assert!(!sent.contains("X-Genesys"), "{sent}");
    let wire = world.connect_from(0, TCP, "127.0.0.1:43210".parse().expect("an address"));
    world.write(wire, &text("h2", "SIP/2.0/TCP 127.0.0.1:7001"));
    world.expect_server("MESSAGE ");
    assert_eq!(world.try_read(phone.wire), None);
    world.drain();
    world.end();
}

#[test]
fn a_forged_token_of_the_server_is_a_flow_that_is_gone() {
    let (mut world, mut phone) = registered();
    phone.path[0] = phone.path[0].replacen("sip:", "sip:A", 1);
    let text = phone.server_request("INVITE", "f1", 1);
    world.datagram(0, SERVER, &text);
    world.expect_server("SIP/2.0 480");
    assert_eq!(world.try_read(phone.wire), None);
    world.drain();
    world.end();
}

#[test]
fn a_stranger_cannot_answer_or_cancel_anothers_transaction() {
    let (mut world, phone) = registered();
    let (invite, invite_at_phone) = phone.asked(&mut world, "INVITE", "c1");
    // A CANCEL with the server's branch, from a phone.
    let wire = world.connect(0, TLS);
    world.write(wire, &cancel(&invite));
    world.expect(wire, "SIP/2.0 481");
    assert_eq!(world.try_read(phone.wire), None);
    // A response with a branch of our form, and another nonce.
    let via = headers(&invite_at_phone, "Via")[0].to_owned();
    let at = via.find("branch=").expect("a branch") + 7 + 7 + 20;
    let mut other = via.clone();
    let swapped = if &other[at..=at] == "a" { "b" } else { "a" };
    other.replace_range(at..=at, swapped);
    let forged = answer(&invite_at_phone, "603 Decline", "m", "").replace(&via, &other);
    world.write(wire, &forged);
    assert_eq!(world.counted(Counter::ResponseStray), 1);
    world.assert_silent();
    world.write(phone.wire, &answer(&invite_at_phone, "486 Busy Here", "p", ""));
    world.drain();
    world.end();
}

#[test]
fn the_checks_of_16_3_answer_with_their_codes() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let good = request("OPTIONS", "sip:x@example.com", "k", "Max-Forwards: 7\r\n");
    for (text, status) in [
        (good.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"), "SIP/2.0 505"),
        (good.replace("sip:x@example.com", "mailto:x@example.com"), "SIP/2.0 416"),
        (good.replace("Max-Forwards: 7", "Max-Forwards: 0"), "SIP/2.0 483"),
        (good.replace("Max-Forwards", "Max-Breadth: 0\r\nMax-Forwards"), "SIP/2.0 440"),
        (good.replace("Max-Forwards", "Proxy-Require: a, b\r\nMax-Forwards"), "SIP/2.0 420"),
        (good.replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"), "SIP/2.0 400"),
        (good.replace("From:", "X-From:"), "SIP/2.0 400"),
    ] {
        world.write(wire, &text);
        let response = world.read(wire);
        assert!(response.starts_with(status), "{status}: {response}");
        if status.ends_with("420") {
            assert_eq!(headers(&response, "Unsupported"), ["a, b"]);
        }
    }
    world.assert_silent();
    world.end();
}

#[test]
fn a_request_that_comes_back_unchanged_is_a_loop() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("OPTIONS", "sip:x@example.com", "l1", ""));
    let sent = world.read_server();
    // Somebody sends it back to us, from an endpoint's place.
    world.datagram(0, "10.0.0.9:5060", &sent.replacen("Via:", "Via: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKq\r\nVia:", 1));
    let response = world.read_udp("10.0.0.9:5060");
    assert!(response.starts_with("SIP/2.0 482"), "{response}");
    world.drain();
    world.end();
}

/// RFC 5393 §4.2.2: what decides where a request goes is part of what tells a loop from a spiral.
#[test]
fn what_the_server_sends_elsewhere_by_x_genesys_route_is_no_loop() {
    let mut world = World::new(&Setup::default());
    let named = |text: &str, address: &str| {
        let own = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKl{}\r\n", headers(text, "Via").len());
        text.replacen("Via:", &format!("X-Genesys-Route: sip:{address}\r\n{own}Via:"), 1)
    };
    let first = named(&request("MESSAGE", "sip:x@example.com", "l2", ""), "10.1.1.1:5070");
    world.datagram(0, SERVER, &first);
    let sent = world.read_udp("10.1.1.1:5070");
    // It comes back to the server, which names another, and then the first again.
    world.datagram(1, SERVER, &named(&sent, "10.1.1.1:5071"));
    let sent = world.read_udp("10.1.1.1:5071");
    world.datagram(0, SERVER, &named(&sent, "10.1.1.1:5070"));
    world.expect_server("SIP/2.0 482");
    // An endpoint's word decides nothing, and hides no loop.
    let evil = "10.0.0.9:5060";
    world.datagram(0, evil, &request("MESSAGE", "sip:x@example.com", "l3", "X-Genesys-Route: sip:10.1.1.1:5070\r\n"));
    let sent = world.expect_server("MESSAGE ");
    let via = "X-Genesys-Route: sip:10.1.1.1:5071\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKq\r\nVia:";
    world.datagram(0, evil, &sent.replacen("Via:", via, 1));
    assert!(world.read_udp(evil).starts_with("SIP/2.0 482"));
    world.drain();
    world.end();
}

/// DESIGN.md, Next hop: only X-Genesys-Route is the proxy's own.
#[test]
fn x_genesys_route_of_an_endpoint_passes_in_no_message_and_all_else_of_x_genesys_does_both_ways() {
    const FIELDS: &str =
        "X-Genesys-GVP-Session-ID: 1\r\nX-Genesys-Route: sip:10.3.3.3:5060\r\nx-genesys-CallUUID: 2\r\n";
    fn said(text: &str) -> (usize, usize) {
        let rest = ["X-Genesys-GVP-Session-ID", "X-Genesys-CallUUID"].map(|name| headers(text, name).len());
        (rest.iter().sum(), headers(text, "X-Genesys-Route").len())
    }
    let (mut world, phone) = registered();
    let with = |text: &str| text.replacen("CSeq:", &format!("{FIELDS}CSeq:"), 1);
    // What the phone asks, and what it is answered.
    world.write(phone.wire, &with(&request("MESSAGE", "sip:x@example.com", "g1", "")));
    let sent = world.expect_server("MESSAGE ");
    assert_eq!(said(&sent), (2, 0), "{sent}");
    world.datagram(0, SERVER, &with(&answer(&sent, "200 OK", "s", "")));
    let ok = world.expect(phone.wire, "SIP/2.0 200");
    assert_eq!(said(&ok), (2, 1), "{ok}");
    // What the server asks, and what it is answered, by and by.
    let invite = phone.server_request("INVITE", "g2", 1).replacen(
        "CSeq:",
        "X-Genesys-GVP-Session-ID: 1\r\nx-genesys-callUUID: 2\r\nCSeq:",
        1,
    );
    world.datagram(0, SERVER, &invite);
    let came = world.expect(phone.wire, "INVITE ");
    assert_eq!(said(&came), (2, 0), "{came}");
    for status in ["180 Ringing", "200 OK"] {
        world.write(phone.wire, &with(&answer(&came, status, "p", "Contact: <sip:p@192.0.2.7>\r\n")));
        let response = world.expect_server(&format!("SIP/2.0 {status}"));
        assert_eq!(said(&response), (2, 0), "{response}");
    }
    assert_eq!(world.counted(Counter::XGenesysStrippedEndpoint), 3);
    world.drain();
    world.end();
}

#[test]
fn an_answer_of_an_endpoint_to_an_endpoint_loses_x_genesys_route_too() {
    let (mut world, phone) = registered();
    let wire = world.connect(0, TLS);
    let mut bob = Phone::new("bob", wire);
    bob.params = "";
    bob.register(&mut world, 600);
    let mut callee = past_the_server(&mut world, &phone, wire);
    world.write(phone.wire, &callee.request("INFO", "TLS 192.0.2.7:5060"));
    let info = world.expect(wire, "INFO ");
    let fields = "X-Genesys-Route: sip:10.3.3.3:5060\r\nX-Genesys-CallUUID: 2\r\n";
    world.write(wire, &answer(&info, "200 OK", "", fields));
    let ok = world.expect(phone.wire, "SIP/2.0 200");
    assert_eq!((headers(&ok, "X-Genesys-Route").len(), headers(&ok, "X-Genesys-CallUUID").len()), (0, 1), "{ok}");
    world.drain();
    world.end();
}

#[test]
fn a_wrong_content_length_ends_a_stream_after_its_400() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    let text = request("OPTIONS", "sip:x@example.com", "cl", "Content-Length: 5\r\n");
    world.write(wire, &text);
    world.expect(wire, "SIP/2.0 400");
    assert_eq!(world.closed.len(), 1);
    world.assert_silent();
    world.end();
}

/// A request of as few bytes as can be.
fn tiny(uri: &str, via: &str, more: &str) -> String {
    format!("OPTIONS {uri} SIP/2.0\r\nv:SIP/2.0/UDP {via}\r\nf:a:b\r\nt:a:b\r\ni:1\r\nCSeq:1 OPTIONS\r\n{more}\r\n")
}

#[test]
fn what_a_stranger_gets_over_udp_is_whole_up_to_three_times_what_it_sent_and_else_the_shortest() {
    let mut world = World::new(&Setup::default());
    let mut ask = |text: &str| {
        world.datagram(0, "10.0.0.9:5060", text);
        let answer = world.read_udp("10.0.0.9:5060");
        assert!(answer.len() <= text.len() * 3, "{} for {}: {answer}", answer.len(), text.len());
        assert!(header(&answer, "To").starts_with("a:b;tag="), "RFC 3261 §8.2.6.2: {answer}");
        answer
    };
    let refused = ask(&tiny("sip:a@b", "10.0.0.9", "Proxy-Require:x,y\r\n"));
    assert_eq!((start_line(&refused), header(&refused, "Unsupported")), ("SIP/2.0 420 Bad Extension", "x,y"));
    let whole = ask(&tiny("sip:127.0.0.1", "h", "Subject: how are you, so early in the morning?\r\n"));
    assert_eq!((start_line(&whole), headers(&whole, "Allow").len()), ("SIP/2.0 200 OK", 1));
    let short = ask(&tiny("sip:127.0.0.1", "h", ""));
    assert_eq!((start_line(&short), headers(&short, "Allow").len()), ("SIP/2.0 200 ", 0), "{short}");
    assert_eq!(world.counted(Counter::LimitStrangerAnswerFactor), 1);
    assert_eq!(world.counted(Counter::ResponseUnsendable), 0);
    world.end();
}

#[test]
fn who_is_known_gets_the_whole_answer_however_little_it_sent() {
    let mut world = World::new(&Setup::default());
    let text = tiny("sip:127.0.0.1", "h:7000", "");
    world.datagram(0, SERVER, &text);
    let whole = world.read_server();
    assert!(headers(&whole, "Allow").len() == 1 && whole.len() > text.len() * 3, "{whole}");
    world.end();
}

/// Who stands in the settings is no stranger: a final answer to its INVITE that is lost is said again, as often as to a
/// phone.
#[test]
fn a_device_over_udp_is_told_its_final_answer_until_it_acknowledges() {
    fn with_device(settings: &mut Settings) {
        let network = Network { address: "10.0.0.0".parse().expect("an address"), prefix_len: 24 };
        settings.devices = vec![Device { network, tls_name: None, verify: Verify::Name, setup: None }];
    }
    for (mutate, said) in [(with_device as fn(&mut Settings), 11), (|_| {}, 1)] {
        let mut world = World::new(&Setup { mutate, ..Setup::default() });
        let text =
            request("INVITE", "sip:bob@example.com", "d1", "").replace("SIP/2.0/TLS 192.0.2.66:5060", "SIP/2.0/UDP h");
        world.datagram(0, "10.0.0.9:5060", &text);
        let sent = world.read_server();
        world.datagram(0, SERVER, &answer(&sent, "486 Busy Here", "b", &format!("Reason: {}\r\n", "x".repeat(600))));
        world.read_server();
        world.pass_s(40);
        let heard = std::iter::from_fn(|| world.try_read_udp("10.0.0.9:5060"));
        assert_eq!(heard.filter(|text| text.contains(" 486 ")).count(), said);
        world.end();
    }
}

#[test]
fn an_unanswerable_flood_leaves_nothing_behind() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    for at in 0..50 {
        world.datagram(at % 2, "10.0.0.9:5060", "SIP/2.0 200 OK\r\n\r\n");
        world.datagram(at % 2, "10.0.0.9:5060", "nonsense");
    }
    world.write(wire, "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bKxyz\r\nl: 0\r\n\r\n");
    world.assert_silent();
    world.end();
}

#[test]
fn the_service_check_is_answered_on_every_transport_and_while_draining() {
    let (mut world, phone) = registered();
    let options = request("OPTIONS", "sip:127.0.0.1:5060", "o", "");
    world.write(phone.wire, &options);
    world.expect(phone.wire, "SIP/2.0 200");
    let from_server = options.replace("SIP/2.0/TLS 192.0.2.66:5060", &format!("SIP/2.0/UDP {SERVER}"));
    world.datagram(0, SERVER, &from_server);
    world.expect_server("SIP/2.0 200");
    for shard in [0, 1] {
        world.input(shard, hawser::engine::Input::Drain);
    }
    world.datagram(1, SERVER, &from_server);
    assert!(world.read_server().starts_with("SIP/2.0 200"), "phones are moored here");
    world.write(phone.wire, &options.replace("z9hG4bKmo", "z9hG4bKmo2"));
    let response = world.read(phone.wire);
    assert!(response.starts_with("SIP/2.0 503"));
    assert_eq!(headers(&response, "Retry-After").len(), 1);
    world.end();
}

#[test]
fn the_service_check_is_answered_with_no_hops_left_and_what_would_go_on_is_not() {
    let (mut world, phone) = registered();
    let none = "Max-Forwards: 0\r\nMax-Breadth: 0\r\n";
    let by_server = |text: &str| text.replace("SIP/2.0/TLS 192.0.2.66:5060", &format!("SIP/2.0/UDP {SERVER}"));
    for target in ["sip:127.0.0.1:5060", "sip:example.com"] {
        let options = request("OPTIONS", target, &format!("o{}", target.len()), none);
        world.write(phone.wire, &options);
        assert_eq!(headers(&world.expect(phone.wire, "SIP/2.0 200"), "Allow").len(), 1);
        world.datagram(0, SERVER, &by_server(&options));
        world.expect_server("SIP/2.0 200");
    }
    world.write(phone.wire, &request("OPTIONS", "sip:bob@example.com", "p1", none));
    world.expect(phone.wire, "SIP/2.0 483");
    world.write(phone.wire, &request("MESSAGE", "sip:example.com", "p2", none));
    world.expect(phone.wire, "SIP/2.0 483");
    // The server names somebody else.
    for (call, fields) in
        [("p3", "X-Genesys-Route: sip:10.1.1.1:5070\r\n"), ("p4", "Route: <sip:10.1.1.1:5070;lr>\r\n")]
    {
        let text = by_server(&request("OPTIONS", "sip:127.0.0.1:5060", call, &format!("{none}{fields}")));
        world.datagram(0, SERVER, &text);
        world.expect_server("SIP/2.0 483");
    }
    world.assert_silent();
    world.end();
}

#[test]
fn in_dialog_requests_go_on_while_draining_and_new_ones_do_not() {
    let (mut world, phone) = registered();
    let (mut server, _) = answered(&mut world, &phone, "c1");
    for shard in [0, 1] {
        world.input(shard, hawser::engine::Input::Drain);
    }
    let invite = phone.server_request("INVITE", "c2", 1);
    world.datagram(0, SERVER, &invite);
    world.expect_server("SIP/2.0 503");
    server.server_hangs_up(&mut world, 0, phone.wire);
    world.end();
}

#[test]
fn while_draining_the_server_hears_200_as_long_as_another_shard_may_hold_a_phone() {
    let (mut world, phone) = registered();
    for shard in [0, 1] {
        world.input(shard, hawser::engine::Input::Drain);
    }
    let options = request("OPTIONS", "sip:127.0.0.1:5060", "o", "");
    // The phone is at shard 1.
    world.datagram(0, SERVER, &options.replace("SIP/2.0/TLS 192.0.2.66:5060", &format!("SIP/2.0/UDP {SERVER}")));
    world.expect_server("SIP/2.0 200");
    world.hang_up(phone.wire);
    world.end();
}
