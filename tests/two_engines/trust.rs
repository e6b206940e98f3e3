//! Who may bind, who may answer, and where a token leads: what an endpoint tries with what is rightfully its own, and
//! with what it has seen of others.

use hawser::config::Verify;
use hawser::engine::{Settings, Sticky};
use hawser::ids::{PointId, Transport};
use hawser::stats::Counter;
use hawser::tls::identity::Identities;

use crate::talk::{Dialog, Phone, answer, header, headers, start_line};
use crate::world::{SERVER, SERVER2, Setup, TCP, TLS, UDP, Wire, World};

/// An endpoint over one of the transports.
#[derive(Clone, Copy, Debug)]
enum Party {
    Wire(Wire, &'static str),
    Udp(&'static str),
}

impl Party {
    fn new(world: &mut World, shard: u8, point: PointId, udp: &'static str) -> Self {
        let shard = shard % u8::try_from(world.engines.len()).expect("few");
        match point {
            UDP => Self::Udp(udp),
            TCP => Self::Wire(world.connect(shard, TCP), "TCP"),
            _ => Self::Wire(world.connect(shard, TLS), "TLS"),
        }
    }

    fn via(self) -> String {
        match self {
            Self::Wire(_, name) => format!("{name} 192.0.2.66:5060"),
            Self::Udp(from) => format!("UDP {from}"),
        }
    }

    fn say(self, world: &mut World, text: &str) {
        match self {
            Self::Wire(wire, _) => world.write(wire, text),
            Self::Udp(from) => world.datagram(1, from, text),
        }
    }

    fn hear(self, world: &mut World) -> Option<String> {
        match self {
            Self::Wire(wire, _) => world.try_read(wire),
            Self::Udp(from) => world.try_read_udp(from),
        }
    }

    #[track_caller]
    fn expect(self, world: &mut World, start: &str) -> String {
        let text = self.hear(world).unwrap_or_else(|| panic!("{start:?} is expected; said: {:#?}", world.events));
        assert!(text.starts_with(start), "{start:?} is expected: {text}");
        text
    }

    fn request(self, method: &str, call_id: &str, to: &str, extra: &str) -> String {
        format!(
            "{method} sip:example.com SIP/2.0\r\nVia: SIP/2.0/{};branch=z9hG4bK{method}{call_id}{};rport\r\n{extra}\
             From: <sip:mallory@example.com>;tag=m\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: 7 {method}\r\n\
             Content-Length: 0\r\n\r\n",
            self.via(),
            extra.len()
        )
    }

    /// Calls the server, which answers: the end of the dialog that this party has.
    fn call(self, world: &mut World, call_id: &str) -> Dialog {
        let extra = "Contact: <sip:mallory@192.0.2.66>\r\n";
        self.say(world, &self.request("INVITE", call_id, "<sip:service@example.com>", extra));
        let invite = world.expect_server("INVITE ");
        let ok = answer(&invite, "200 OK", "s", &format!("Contact: <sip:{SERVER}>\r\n"));
        world.datagram(0, SERVER, &ok);
        Dialog::caller(&self.expect(world, "SIP/2.0 200"))
    }
}

/// Each mode, one shard and two, each transport of who attacks.
fn everywhere(story: impl Fn(World, PointId)) {
    for sticky in [Sticky::Path, Sticky::Contact, Sticky::Aor] {
        for shards in [1, 2] {
            for point in [UDP, TCP, TLS] {
                story(World::new(&Setup { sticky, shards, ..Setup::default() }), point);
            }
        }
    }
}

fn victim(world: &mut World) -> Phone {
    let shard = u8::try_from(world.engines.len()).expect("few") - 1;
    let wire = world.connect(shard, TLS);
    let mut phone = Phone::new("victim", wire);
    phone.register(world, 600);
    phone
}

fn routes_of(dialog: &Dialog, times: usize) -> String {
    let once: String = dialog.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    once.repeat(times)
}

/// The server's next request for the phone reaches it and nobody else.
#[track_caller]
fn assert_still_bound(world: &mut World, phone: &Phone, call_id: &str) {
    let (_, invite) = phone.asked(world, "MESSAGE", call_id);
    world.write(phone.wire, &answer(&invite, "200 OK", "v", ""));
    world.expect_server("SIP/2.0 200");
    world.assert_silent();
}

#[test]
fn a_register_by_ones_own_route_values_goes_nowhere_and_binds_nothing() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let dialog = mallory.call(&mut world, "x1");
        for (at, contact) in
            [format!("<sip:victim@192.0.2.66>{};expires=600", phone.params), "*".to_owned()].iter().enumerate()
        {
            for times in [2, 3] {
                let extra = format!("{}Contact: {contact}\r\nExpires: 0\r\n", routes_of(&dialog, times));
                let to = format!("<sip:victim@example.com>;tag={at}{times}");
                mallory.say(&mut world, &mallory.request("REGISTER", "x1", &to, &extra));
                mallory.expect(&mut world, "SIP/2.0 403");
            }
        }
        world.assert_silent();
        assert_still_bound(&mut world, &phone, "m1");
        world.drain();
        world.end();
    });
}

/// One traversal's values say how it came, and that may stand in a REGISTER too: its answer is the server's to give.
#[test]
fn a_register_with_its_own_way_on_top_is_the_servers_and_nobody_elses_to_answer() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let dialog = mallory.call(&mut world, "x1");
        let extra = format!("{}Contact: <sip:victim@192.0.2.66>{}\r\n", routes_of(&dialog, 1), phone.params);
        let to = "<sip:victim@example.com>;tag=1";
        mallory.say(&mut world, &mallory.request("REGISTER", "x1", to, &extra));
        let register = world.expect_server("REGISTER ");
        // Its sender knows the branch from the server that it is hand in glove with, and answers for it.
        mallory.say(&mut world, &answer(&register, "200 OK", "m", "Contact: <sip:victim@192.0.2.66>;expires=600\r\n"));
        assert_eq!(world.counted(Counter::ResponseElsewhere), 1);
        assert_eq!(mallory.hear(&mut world), None);
        world.datagram(0, SERVER, &answer(&register, "403 Forbidden", "s", ""));
        mallory.expect(&mut world, "SIP/2.0 403");
        assert_still_bound(&mut world, &phone, "m1");
        world.drain();
        world.end();
    });
}

#[test]
fn a_request_by_ones_own_route_values_is_the_servers_however_often_they_stand_there() {
    everywhere(|mut world, point| {
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let dialog = mallory.call(&mut world, "x1");
        for method in ["MESSAGE", "INVITE", "REFER"] {
            for times in [1, 2, 5] {
                let extra = routes_of(&dialog, times);
                mallory.say(&mut world, &mallory.request(method, "x1", "<sip:service@example.com>;tag=s", &extra));
                let request = world.expect_server(method);
                assert!(headers(&request, "Route").is_empty(), "{request}");
                world.datagram(0, SERVER, &answer(&request, "403 Forbidden", "s", ""));
                mallory.expect(&mut world, "SIP/2.0 403");
                if method == "INVITE" {
                    world.expect_server("ACK ");
                }
            }
        }
        world.drain();
        world.end();
    });
}

#[test]
fn another_dialogs_values_behind_ones_own_reach_nobody() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        // The victim is called in a dialog with the same Call-ID, which a server that keeps it hands on.
        let (_, invite) = phone.asked(&mut world, "INVITE", "x1");
        let theirs: String =
            headers(&invite, "Record-Route").iter().map(|value| format!("Route: {value}\r\n")).collect();
        world.write(phone.wire, &answer(&invite, "486 Busy Here", "v", ""));
        world.expect_server("SIP/2.0 486");
        world.expect(phone.wire, "ACK ");
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let dialog = mallory.call(&mut world, "x1");
        for method in ["MESSAGE", "INVITE", "REFER", "REGISTER"] {
            // With the tag of either dialog, as if the other's party were its partner.
            for tag in ["s", "c1", "v"] {
                let extra = format!("{}{theirs}", routes_of(&dialog, 1));
                let to = format!("<sip:victim@example.com>;tag={tag}");
                mallory.say(&mut world, &mallory.request(method, "x1", &to, &extra).replace("Kx1", tag));
                mallory.expect(&mut world, "SIP/2.0 403");
                assert_eq!(world.try_read(phone.wire), None);
            }
        }
        world.drain();
        world.end();
    });
}

/// Two endpoints that talk past a proxying server reach each other in their dialog, and cannot register by it.
#[test]
fn a_register_to_an_accomplice_in_a_dialog_of_two_endpoints_is_403() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        let wire = world.connect(0, TLS);
        let mut accomplice = Phone::new("oscar", wire);
        accomplice.params = "";
        accomplice.register(&mut world, 600);
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let extra = "Contact: <sip:mallory@192.0.2.66>\r\n";
        mallory.say(&mut world, &mallory.request("INVITE", "x1", "<sip:oscar@example.com>", extra));
        // The server forwards it, and does not stay in between.
        let invite = world.expect_server("INVITE ");
        let routes: String = accomplice.path.iter().map(|path| format!("Route: {path}\r\n")).collect();
        let via = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKfwd\r\n{routes}");
        let forwarded = invite.replacen("Via:", &format!("{via}Via:"), 1).replacen(
            "INVITE sip:example.com",
            &format!("INVITE {}", accomplice.bound_contact),
            1,
        );
        world.datagram(0, SERVER, &forwarded);
        let invite = world.expect(wire, "INVITE ");
        let ok = answer(&invite, "200 OK", "o", &format!("Contact: <{}>\r\n", accomplice.contact));
        world.write(wire, &ok);
        let ok = world.expect_server("SIP/2.0 200");
        world.datagram(0, SERVER, &ok.replacen(&format!("Via: {}\r\n", headers(&ok, "Via")[0]), "", 1));
        let mut dialog = Dialog::caller(&mallory.expect(&mut world, "SIP/2.0 200"));
        // In the dialog it reaches its partner, as it should.
        mallory.say(&mut world, &dialog.request("INFO", &mallory.via()));
        let info = world.expect(wire, "INFO ");
        world.write(wire, &answer(&info, "200 OK", "", ""));
        mallory.expect(&mut world, "SIP/2.0 200");
        let contact = format!("<sip:victim@192.0.2.66>{};expires=600", phone.params);
        let extra = format!("{}Contact: {contact}\r\n", routes_of(&dialog, 1));
        let to = format!("<sip:victim@example.com>;tag={}", header(&ok, "To").split("tag=").nth(1).expect("a tag"));
        mallory.say(&mut world, &mallory.request("REGISTER", "x1", &to, &extra));
        mallory.expect(&mut world, "SIP/2.0 403");
        assert_eq!(world.try_read(wire), None);
        assert_still_bound(&mut world, &phone, "m1");
        world.drain();
        world.end();
    });
}

#[test]
fn a_callee_cannot_answer_its_caller_past_a_proxying_server() {
    everywhere(|mut world, point| {
        let caller = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let callee = Party::new(&mut world, 1, point, "10.0.0.67:5060");
        let to = "<sip:callee@example.com>";
        caller.say(&mut world, &caller.request("INVITE", "x1", to, "Contact: <sip:c@192.0.2.66>\r\n"));
        let invite = world.expect_server("INVITE ");
        // The callee has been shown the Vias of the caller's leg.
        let ok = answer(&invite, "200 OK", "evil", "Contact: <sip:callee@192.0.2.67>\r\n");
        callee.say(&mut world, &ok);
        // From the server's host, and with the server's port in a Via, it is still not the server.
        world.datagram(0, "127.0.0.1:7077", &ok);
        let wire = world.connect_from(0, TCP, "127.0.0.1:40404".parse().expect("an address"));
        world.write(wire, &ok);
        assert_eq!(world.counted(Counter::ResponseElsewhere), 3);
        assert_eq!(caller.hear(&mut world), None);
        world.datagram(1, SERVER, &answer(&invite, "486 Busy Here", "s", ""));
        caller.expect(&mut world, "SIP/2.0 486");
        world.drain();
        world.end();
    });
}

#[test]
fn a_phones_request_is_answered_by_its_phone_alone() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        let (_, invite) = phone.asked(&mut world, "INVITE", "x1");
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        mallory.say(&mut world, &answer(&invite, "603 Decline", "m", ""));
        assert_eq!(world.counted(Counter::ResponseElsewhere), 1);
        world.assert_silent();
        // Nor the answer to our CANCEL of it.
        world.write(phone.wire, &answer(&invite, "180 Ringing", "v", ""));
        world.expect_server("SIP/2.0 180");
        world.write(phone.wire, &answer(&invite, "200 OK", "v", "Contact: <sip:victim@192.0.2.7>\r\n"));
        world.expect_server("SIP/2.0 200");
        world.drain();
        world.end();
    });
}

#[test]
fn a_response_to_what_is_no_via_of_ours_troubles_no_other_shard() {
    let mut world = World::new(&Setup::default());
    let mallory = world.connect(0, TLS);
    let phone = victim(&mut world);
    let (_, invite) = phone.asked(&mut world, "INVITE", "x1");
    let placed = world.counted(Counter::Placed);
    let text =
        answer(&invite, "200 OK", "m", "").replace("Via: SIP/2.0/TLS 127.0.0.1:5061", "Via: SIP/2.0/TLS a.b:5061");
    world.write(mallory, &text);
    assert_eq!(world.counted(Counter::ResponseForeignVia), 1);
    assert_eq!(world.counted(Counter::Placed), placed);
    world.write(phone.wire, &answer(&invite, "486 Busy Here", "v", ""));
    world.drain();
    world.end();
}

#[test]
fn a_via_does_not_make_a_server_of_who_shares_its_host_over_another_transport() {
    for (internal, by, point) in [
        (Transport::Udp, "TCP", TCP),
        (Transport::Udp, "TLS", TLS),
        (Transport::Tcp, "TLS", TLS),
        (Transport::Tls, "TCP", TCP),
    ] {
        for server in [SERVER, SERVER2] {
            let mut world = World::new(&Setup { internal, mutate: crate::stage::paired, ..Setup::default() });
            let wire = world.connect_from(0, point, "127.0.0.1:40404".parse().expect("an address"));
            let device = "X-Genesys-Route: sip:198.51.100.7:5060\r\n";
            world.write(
                wire,
                &format!(
                    "MESSAGE sip:x@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/{by} {server};branch=z9hG4bKv1\r\n{device}\
                     From: <sip:m@example.com>;tag=m\r\nTo: <sip:x@example.com>\r\nCall-ID: v1\r\nCSeq: 1 MESSAGE\r\n\
                     Content-Length: 0\r\n\r\n"
                ),
            );
            assert_eq!(world.counted(Counter::ServerSwitchRequest), 0);
            assert_eq!(world.try_read_udp("198.51.100.7:5060"), None);
            // It is an endpoint's request, and goes to the active server.
            match internal {
                Transport::Udp => {
                    world.expect_server("OPTIONS ");
                    world.expect_server("MESSAGE ");
                }
                _ => assert!(world.opened.iter().any(|(_, to)| to.to_string() == SERVER), "{:?}", world.opened),
            }
        }
    }
}

#[test]
fn every_route_of_an_endpoint_without_a_dialog_has_to_lead_to_servers() {
    everywhere(|mut world, point| {
        let phone = victim(&mut world);
        let mallory = Party::new(&mut world, 0, point, "10.0.0.66:5060");
        let token = phone.path.first().cloned().unwrap_or_else(|| "<sip:x@127.0.0.1:5060;lr>".to_owned());
        for (at, behind) in ["<sip:198.51.100.7;lr>", &token, "<sip:evil.example>"].iter().enumerate() {
            let extra = format!("Route: <sip:{SERVER};lr>, {behind}\r\n");
            mallory.say(&mut world, &mallory.request("MESSAGE", &format!("r{at}"), "<sip:x@example.com>", &extra));
            mallory.expect(&mut world, "SIP/2.0 403");
        }
        // What leads to servers only may stand there, and in a dialog the route set is its elements'.
        for (at, (tag, behind)) in
            [("", "<sip:example.com;lr>"), (";tag=s", "<sip:198.51.100.7;lr>")].iter().enumerate()
        {
            let extra = format!("Route: <sip:{SERVER};lr>, {behind}\r\n");
            let to = format!("<sip:x@example.com>{tag}");
            mallory.say(&mut world, &mallory.request("MESSAGE", &format!("s{at}"), &to, &extra));
            let sent = world.read_server();
            assert_eq!(start_line(&sent), "MESSAGE sip:example.com SIP/2.0");
            world.datagram(0, SERVER, &answer(&sent, "404 Not Found", "s", ""));
            mallory.expect(&mut world, "SIP/2.0 404");
        }
        world.drain();
        world.end();
    });
}

/// Under `tls-mutual` everybody shows a certificate, and that alone says who is a server.
#[test]
fn a_certificate_that_names_no_server_makes_an_endpoint_whatever_its_address_and_via_say() {
    let phone = {
        let mut names = Identities::default();
        names.add_uri("sip:mallory@example.com");
        names
    };
    let server = Identities { addresses: vec!["127.0.0.1".parse().expect("an address")], ..Identities::default() };
    let of_phones_ca = Identities { of_endpoint: true, ..phone.clone() };
    let by_chain: fn(&mut Settings) = |settings| settings.servers[0].verify = Verify::Chain;
    for (names, mutate, is_server) in [
        (&phone, None, false),
        (&server, None, true),
        // Where its name does not count, its address and Via do, besides the CA.
        (&phone, Some(by_chain), true),
        (&of_phones_ca, Some(by_chain), false),
    ] {
        let setup = Setup { internal: Transport::Tls, ..Setup::default() };
        let mut world = World::new(&Setup { mutate: mutate.unwrap_or(setup.mutate), ..setup });
        let from = "127.0.0.1:40404".parse().expect("an address");
        let wire = world.connect_mutual(0, TLS, from, names.clone());
        let text = format!(
            "MESSAGE sip:x@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/TLS {SERVER};branch=z9hG4bKv1\r\n\
             From: <sip:m@example.com>;tag=m\r\nTo: <sip:x@example.com>\r\nCall-ID: v1\r\nCSeq: 1 MESSAGE\r\n\
             Content-Length: 0\r\n\r\n"
        );
        world.write(wire, &text);
        assert_eq!(world.try_read_udp("198.51.100.7:5060").is_some(), is_server, "{names:?}");
    }
}
