//! `client-aor`: whom an endpoint may register and speak for by the certificate of its connection.

use std::net::SocketAddr;

use hawser::config::{ClientAor, Host};
use hawser::engine::Settings;
use hawser::ids::{PointId, Transport};
use hawser::stats::Counter;
use hawser::tls::identity::Identities;

use crate::registration::user_with_home;
use crate::talk::{Phone, answer, header, start_line};
use crate::world::{SERVER, Setup, TCP, TLS, Wire, World};

const REFUSED: &str = "SIP/2.0 403 Certificate Does Not Cover AOR";

fn by(rule: ClientAor) -> Setup {
    let mutate: fn(&mut Settings) = match rule {
        ClientAor::Off => |_| {},
        ClientAor::Domain => |settings| settings.client_aor = ClientAor::Domain,
        ClientAor::User => |settings| settings.client_aor = ClientAor::User,
    };
    Setup { mutate, ..Setup::default() }
}

fn shown(uris: &[&str], dns: &[&str]) -> Identities {
    let mut all = Identities::default();
    uris.iter().for_each(|uri| all.add_uri(uri));
    dns.iter().for_each(|name| all.add_dns(name));
    all
}

/// A connection to shard 1.
fn connect(world: &mut World, port: u16, identities: Identities) -> Wire {
    world.connect_mutual(1, TLS, SocketAddr::from(([192, 0, 2, 7], port)), identities)
}

/// A request from `from`, in a dialog when there is a tag.
fn request(method: &str, from: &str, call_id: &str, to_tag: &str) -> String {
    format!(
        "{method} sip:9000@example.com SIP/2.0\r\n\
         Via: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK{method}{call_id}\r\nMax-Forwards: 70\r\n\
         From: <{from}>;tag=f\r\nTo: <sip:9000@example.com>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:x@192.0.2.7:5061;transport=tls>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Whether a request gets through to the server, which answers it. One that is refused never reaches the server.
#[track_caller]
fn passes(world: &mut World, wire: Wire, text: &str) -> bool {
    world.write(wire, text);
    if let Some(sent) = world.try_read_udp(SERVER) {
        world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
        world.expect(wire, "SIP/2.0 200");
        return true;
    }
    assert_eq!(start_line(&world.read(wire)), REFUSED);
    false
}

#[test]
fn a_register_binds_what_its_certificate_covers_wherever_its_home_is() {
    let domain = || shown(&["sip:example.com"], &[]);
    let dns = || shown(&[], &["example.com"]);
    let other = || shown(&["sip:mallory@example.com"], &["example.org"]);
    for home in [0, 1] {
        let user = user_with_home(&World::new(&Setup { shards: 2, ..Setup::default() }), home);
        let own = || shown(&[&format!("sip:{user}@example.com")], &[]);
        let cases = [
            (ClientAor::Off, other(), true),
            (ClientAor::Domain, own(), true),
            (ClientAor::Domain, domain(), true),
            (ClientAor::Domain, dns(), true),
            (ClientAor::Domain, other(), false),
            (ClientAor::Domain, Identities::default(), false),
            (ClientAor::User, own(), true),
            (ClientAor::User, domain(), false),
            (ClientAor::User, dns(), false),
            (ClientAor::User, other(), false),
        ];
        for (n, (rule, identities, fine)) in cases.into_iter().enumerate() {
            let mut world = World::new(&Setup { shards: 2, ..by(rule) });
            let wire = connect(&mut world, 40_000, identities);
            let mut phone = Phone::new(user, wire);
            if fine {
                phone.register(&mut world, 3_600);
                phone.asked(&mut world, "MESSAGE", "m1");
                world.drain();
            } else {
                phone.send_register(&mut world, 3_600);
                assert_eq!(start_line(&world.read(wire)), REFUSED, "case {n}");
                assert_eq!(world.try_read_udp(SERVER), None, "case {n}");
                assert_eq!(world.counted(Counter::Refused403ClientAor), 1);
                let said = world.events.iter().filter(|event| event.contains("Certificate Does Not Cover AOR"));
                assert_eq!(said.count(), 1, "{:?}", world.events);
            }
        }
    }
}

#[test]
fn a_register_of_another_scheme_is_covered_by_no_certificate() {
    for rule in [ClientAor::Off, ClientAor::Domain, ClientAor::User] {
        let mut world = World::new(&by(rule));
        let wire = connect(&mut world, 40_000, shown(&["sip:alice@example.com", "sip:example.com"], &["example.com"]));
        let text =
            Phone::new("alice", wire).register_text(600).replace("To: <sip:alice@example.com>", "To: <tel:+1555>");
        assert_eq!(passes(&mut world, wire, &text), rule == ClientAor::Off, "{rule:?}");
        world.end();
    }
}

#[test]
fn what_begins_something_new_is_held_to_its_from_when_that_is_of_our_domains() {
    let own = |settings: &mut Settings| {
        settings.client_aor = ClientAor::User;
        settings.points[usize::from(TLS.0)].advertised_host = "Proxy.example.net".into();
    };
    let mut world = World::new(&Setup { mutate: own, ..Setup::default() });
    let alice = connect(&mut world, 40_000, shown(&["sip:alice@example.com"], &["phone.example.com"]));
    let server_ip = format!("sip:bob@{}", SERVER.split(':').next().expect("an address"));
    let cases = [
        ("sip:alice@example.com", true),
        ("sips:alice@EXAMPLE.com", true),
        ("sip:bob@example.com", false),
        ("sip:bob@example.com:5070", false),
        ("sip:example.com", false),
        // Our own names and the server's stand for the same users.
        ("sip:bob@proxy.example.net", false),
        ("sip:bob@127.0.0.1", false),
        (server_ip.as_str(), false),
        // Callers from elsewhere, whom a gateway brings in.
        ("sip:bob@example.org", true),
        ("sip:anonymous@anonymous.invalid", true),
        ("tel:+4930123", true),
    ];
    for (n, (from, fine)) in cases.into_iter().enumerate() {
        for method in ["MESSAGE", "SUBSCRIBE"] {
            let text = request(method, from, &format!("c{n}{method}"), "");
            assert_eq!(passes(&mut world, alice, &text), fine, "{method} from {from}");
        }
    }
    // What is in a dialog is the server's to judge, and a question for our health is nobody's secret.
    let text = request("INFO", "sip:bob@example.com", "d1", ";tag=t");
    assert!(passes(&mut world, alice, &text));
    let ping = request("OPTIONS", "sip:bob@example.com", "o1", "").replace("9000@", "");
    world.write(alice, &ping);
    assert_eq!(start_line(&world.read(alice)), "SIP/2.0 200 OK");
    // A domain's own element speaks for its users; a phone of it by DNS name does not.
    let border = connect(&mut world, 40_001, shown(&["sip:example.com"], &[]));
    assert!(passes(&mut world, border, &request("MESSAGE", "sip:bob@example.com", "b1", "")));
    let phone = connect(&mut world, 40_002, shown(&[], &["example.com"]));
    assert!(!passes(&mut world, phone, &request("MESSAGE", "sip:bob@example.com", "b2", "")));
}

#[test]
fn an_invite_in_anothers_name_rings_nobody_and_its_ack_and_cancel_are_no_news() {
    let mut world = World::new(&by(ClientAor::Domain));
    let mallory = connect(&mut world, 40_000, shown(&["sip:mallory@example.org"], &[]));
    let invite = request("INVITE", "sip:alice@example.com", "i1", "");
    world.write(mallory, &invite);
    let refused = world.read(mallory);
    assert_eq!(start_line(&refused), REFUSED);
    let ack = invite.replace("INVITE", "ACK").replace("z9hG4bKACK", "z9hG4bKINVITE");
    let ack = ack.replace("<sip:9000@example.com>\r\nCall", &format!("{}\r\nCall", header(&refused, "To")));
    world.write(mallory, &ack);
    assert_eq!(world.try_read(mallory), None);
    world.write(mallory, &invite.replace("INVITE", "CANCEL").replace("z9hG4bKCANCEL", "z9hG4bKINVITE"));
    assert!(world.read(mallory).starts_with("SIP/2.0 481 "));
    assert_eq!(world.try_read_udp(SERVER), None);
    assert_eq!(world.counted(Counter::Refused403ClientAor), 1);
}

#[test]
fn servers_and_peers_speak_for_others_and_who_shows_no_certificate_is_not_asked() {
    let mutate = |settings: &mut Settings| {
        settings.client_aor = ClientAor::User;
        settings.servers[0].tls_name = Host::parse("sips1.example.com");
        crate::peers::site(settings, "10.9.0.1", Transport::Tls, Some(5071));
        settings.peers[0].tls_name = Host::parse("site2.example.com");
        settings.unregistered_per_source_max = 100;
    };
    let mut world = World::new(&Setup { mutate, ..Setup::default() });
    let peer = connect(&mut world, 40_000, shown(&[], &["site2.example.com"]));
    assert!(passes(&mut world, peer, &request("MESSAGE", "sip:bob@example.com", "p1", "")));
    let tcp = world.connect_from(1, TCP, SocketAddr::from(([192, 0, 2, 8], 40_000)));
    let text = request("MESSAGE", "sip:bob@example.com", "t1", "").replace("2.0/TLS", "2.0/TCP");
    assert!(passes(&mut world, tcp, &text));
    // A server over TLS reaches a phone in whose name it likes.
    let user = user_with_home(&world, 0);
    let wire = connect(&mut world, 40_001, shown(&[&format!("sip:{user}@example.com")], &[]));
    let mut phone = Phone::new(user, wire);
    phone.register(&mut world, 3_600);
    let server = connect(&mut world, 40_002, shown(&[], &["sips1.example.com"]));
    let text = phone.server_request("MESSAGE", "s1", 1).replace(&format!("UDP {SERVER}"), "TLS 192.0.2.7:5061");
    world.write(server, &text);
    assert!(world.read(wire).starts_with("MESSAGE "));
    // One that came over TLS and of whose certificate nothing is known covers nobody.
    let unknown = world.connect_from(1, PointId(TLS.0), SocketAddr::from(([192, 0, 2, 9], 40_000)));
    assert!(!passes(&mut world, unknown, &request("MESSAGE", "sip:bob@example.com", "u1", "")));
}
