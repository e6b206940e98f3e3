//! Who is faced by which listener: several listeners, other sites, and devices.

use super::*;
use crate::config::engine::{Live, Settings};
use crate::limits::{HANDSHAKES_PER_SOURCE_MAX, NETWORKS_MAX, UNREGISTERED_PER_SOURCE_MAX};

const SERVER: &str = "[[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5060\"\n";

fn listener(side: &str, rest: &str) -> String {
    format!("[[listener]]\nside = \"{side}\"\naddress = \"10.0.0.7\"\n{rest}\n")
}

fn key_and_fault(text: &str) -> (String, Fault) {
    let fault = checked(text).map(|_| ()).unwrap_err();
    (fault.key, fault.fault)
}

fn keyed(key: &str, fault: Fault) -> (String, Fault) {
    (key.to_owned(), fault)
}

#[test]
fn each_listener_has_its_side_its_name_and_its_ports() {
    let text = format!(
        "[sipproxy]\nsip-ip-tos = 184\n{SERVER}{}{}[security]\n{CERTIFICATE}",
        listener("endpoint", "advertise = \"Phones.example.com\"\nsip-port = 0"),
        "[[listener]]\naddress = \"10.0.0.8\"\ntls-port = 0\n",
    );
    let config = Config::parse(&text, "h.toml").unwrap();
    assert_eq!(config.sipproxy.sip_ip_tos, Some(184));
    let [phones, both] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((phones.side, phones.advertised_host().as_str()), (Some(Side::Endpoint), "phones.example.com"));
    assert_eq!((both.side, both.advertised_host().as_str()), (None, "10.0.0.8"));
    let sockets: Vec<_> = config.listeners.iter().flat_map(Listener::sockets).map(|(_, at)| at.to_string()).collect();
    assert_eq!(sockets, ["10.0.0.7:5061", "10.0.0.8:5060", "10.0.0.8:5060"]);
}

#[test]
fn listeners_fit_together() {
    let sides = listener("server", "tls-port = 0") + &listener("endpoint", "sip-port = 5070\ntls-port = 0");
    assert_eq!(checked(&format!("{SERVER}{sides}")).unwrap().listeners.len(), 2);
    let same = listener("server", "tls-port = 0") + &listener("endpoint", "tls-port = 0");
    let clash = checked(&format!("{SERVER}{same}")).unwrap_err();
    assert_eq!((clash.line, clash.key.as_str()), (8, "listener.sip-port"));
    assert_eq!(clash.fault, Fault::AddressTwice("10.0.0.7:5060".parse().unwrap()));
    for (side, lacks) in [("endpoint", Side::Server), ("server", Side::Endpoint)] {
        let one = format!("{SERVER}{}", listener(side, "tls-port = 0"));
        assert_eq!(key_and_fault(&one), keyed("listener.side", Fault::NoListenerFor(lacks)));
    }
    let tls = format!("{SERVER}{}[security]\n{CERTIFICATE}", listener("both", "sip-port = 0"));
    assert_eq!(key_and_fault(&tls), keyed("sipproxy.internal-protocol", Fault::Needs(Need::Port)));
    for key in ["sip-address = \"10.0.0.7\"", "external-address = \"\"", "sip-port = 0", "tls-port = 5061"] {
        let name = format!("sipproxy.{}", key.split(' ').next().unwrap());
        let text = format!("[sipproxy]\n{key}\n{SERVER}{sides}");
        assert_eq!(key_and_fault(&text), keyed(&name, Fault::ListenersInstead));
    }
    let many = |count: u16| {
        let ports = (0..count).map(|n| listener("both", &format!("sip-port = {}\ntls-port = 0", 6_000 + n)));
        format!("{SERVER}{}", ports.collect::<String>())
    };
    assert_eq!(checked(&many(64)).unwrap().listeners.len(), 64);
    assert_eq!(key_and_fault(&many(65)), keyed("listener", Fault::TooMany(64)));
}

#[test]
fn a_server_is_faced_by_a_listener_of_its_family_and_transport() {
    let v6 = "[[listener]]\nside = \"server\"\naddress = \"2001:db8::7\"\nsip-port = 0\n";
    let phones = listener("endpoint", "tls-port = 0");
    let inside = listener("server", "sip-port = 5070\ntls-port = 0");
    let text = format!("{SERVER}{phones}{inside}{v6}[security]\n{CERTIFICATE}trusted-ca = \"ca.pem\"\n");
    assert!(checked(&text).is_ok());
    // IPv6 is on, but only over TLS; and the phones' listener faces no server.
    let server_v6 = text.replace("10.0.0.1:5060", "[2001:db8::1]:5060");
    assert_eq!(key_and_fault(&server_v6), keyed("sip-server.primary", Fault::FamilyDiffers));
    let over_tls = server_v6.replacen("[[listener]]", "transport = \"tls\"\n[[listener]]", 1);
    assert!(checked(&over_tls).is_ok());
    let over_tls = text.replacen("[[listener]]", "transport = \"tls\"\n[[listener]]", 1);
    assert_eq!(key_and_fault(&over_tls), keyed("sip-server.primary", Fault::FamilyDiffers));
}

#[test]
fn pairs_and_sites_are_counted() {
    let pairs = |count: u16| {
        let pair = |n| format!("[[sip-server]]\nname = \"s{n}\"\nprimary = \"10.0.0.1:{}\"\n", 6_000 + n);
        let first = "[sipproxy]\ntls-port = 0\nserving-sipserver = \"s0\"\n";
        format!("{first}{}", (0..count).map(pair).collect::<String>())
    };
    assert_eq!(checked(&pairs(64)).unwrap().servers.len(), 64);
    assert_eq!(key_and_fault(&pairs(65)), keyed("sip-server", Fault::TooMany(64)));
    let sites = |count: u16| {
        let site = |n| {
            format!(
                "[[peer-proxy]]\nname = \"p{n}\"\nservers = [\"10.1.0.{n}\"]\npeer-proxy-contact = \"p{n}\"\n\
                 peer-proxy-protocol = \"udp\"\n"
            )
        };
        format!("[sipproxy]\ntls-port = 0\n{SERVER}{}", (1..=count).map(site).collect::<String>())
    };
    assert_eq!(checked(&sites(64)).unwrap().peers.len(), 64);
    assert_eq!(key_and_fault(&sites(65)), keyed("peer-proxy", Fault::TooMany(64)));
}

#[test]
fn a_server_with_a_name_is_somebody_else() {
    let text = |primary: &str| {
        format!(
            "[sipproxy]\nexternal-address = \"p.example.com\"\ntls-port = 0\n\
             [[sip-server]]\nname = \"a\"\nprimary = {primary:?}\n"
        )
    };
    for own in ["p.example.com", "P.example.com:5060"] {
        assert_eq!(key_and_fault(&text(own)), keyed("sip-server.primary", Fault::ServerIsSelf), "{own}");
    }
    for other in ["p.example.com:5070", "sips.example.com"] {
        assert!(checked(&text(other)).is_ok(), "{other}");
    }
}

#[test]
fn the_wildcards_of_both_families_stand_side_by_side() {
    let wildcard =
        |address: &str| format!("[[listener]]\naddress = \"{address}\"\nadvertise = \"p.example.com\"\ntls-port = 0\n");
    let both = format!("{SERVER}{}{}", wildcard("0.0.0.0"), wildcard("::"));
    assert_eq!(checked(&both).unwrap().listeners.len(), 2);
    let unnamed = both.replacen("advertise = \"p.example.com\"\n", "", 1);
    assert_eq!(key_and_fault(&unnamed), keyed("listener.address", Fault::Needs(Need::Advertise)));
    let twice = format!("{SERVER}{}{}", wildcard("::"), wildcard("::1"));
    assert_eq!(key_and_fault(&twice).0, "listener.sip-port");
}

#[test]
fn other_sites_are_reached_and_are_others() {
    let first = "[sipproxy]\ntls-port = 0\n";
    let peer = "[[peer-proxy]]\nname = \"p\"\nservers = [\"10.0.0.9\"]\npeer-proxy-contact = \"p\"\n\
                peer-proxy-protocol = \"udp\"\n";
    assert_eq!(checked(&format!("{first}{SERVER}{peer}")).unwrap().peers[0].port_tls, None);
    let other = peer.replace("\"p\"", "\"q\"");
    let twice = Fault::ServerOfTwoPeers("10.0.0.9".parse().unwrap());
    assert_eq!(key_and_fault(&format!("{first}{SERVER}{peer}{other}")), keyed("peer-proxy.servers", twice));
    let contact = "peer-proxy.peer-proxy-contact";
    let own = peer.replace("contact = \"p\"", "contact = \"127.0.0.1\"");
    assert_eq!(key_and_fault(&format!("{first}{SERVER}{own}")), keyed(contact, Fault::ServerIsSelf));
    assert!(checked(&format!("{first}sip-port = 5070\n{SERVER}{own}")).is_ok());
    let named = format!("{first}external-address = \"P\"\n{SERVER}{peer}");
    assert_eq!(key_and_fault(&named), keyed(contact, Fault::ServerIsSelf));
    let peer = peer.replace("\"udp\"", "\"tls\"");
    let off = keyed("peer-proxy.peer-proxy-protocol", Fault::Needs(Need::Port));
    assert_eq!(key_and_fault(&format!("{first}{SERVER}{peer}")), off);
    let tls = format!("{SERVER}{peer}[security]\n{CERTIFICATE}");
    assert_eq!(key_and_fault(&tls), keyed("peer-proxy.peer-proxy-protocol", Fault::Needs(Need::Roots)));
    assert!(checked(&format!("{tls}trusted-ca = \"ca.pem\"\n")).is_ok());
    let port = format!("[sipproxy]\nexternal-address = \"p\"\n{tls}system-roots = true\n");
    assert_eq!(key_and_fault(&port), keyed(contact, Fault::ServerIsSelf));
    let port = port.replacen("\"tls\"\n", "\"tls\"\npeer-proxy-port-tls = 5062\n", 1);
    assert_eq!(checked(&port).unwrap().peers[0].port_tls, Some(5062));
}

#[test]
fn rules_for_devices_are_told_apart_and_have_something_to_verify_with() {
    let first = "[sipproxy]\ntls-port = 0\n";
    let device = "[[device]]\nnetwork = \"10.0.0.0/8\"\n";
    let within = "[[device]]\nnetwork = \"10.1.0.0/16\"\n";
    let ca = "[security]\ntrusted-ca = \"ca.pem\"\n";
    assert_eq!(key_and_fault(&format!("{first}{SERVER}{device}")), keyed("device", Fault::Needs(Need::Roots)));
    assert!(checked(&format!("{first}{SERVER}{device}{within}{ca}")).is_ok());
    let twice = format!("{first}{SERVER}{device}{within}{device}{ca}");
    assert_eq!(key_and_fault(&twice), keyed("device.network", Fault::NetworkTwice));
}

#[test]
fn of_several_networks_the_smallest_counts_and_others_have_the_usual_shares() {
    let rule = |network: &str, lines: &str| format!("[[network]]\nnetwork = \"{network}\"\n{lines}\n");
    let text = [
        "[sipproxy]\ntls-port = 0\n",
        SERVER,
        &rule("10.0.0.0/8", "unregistered-max = 5000"),
        &rule("10.1.0.0/16", "handshakes-max = 7"),
        &rule("2001:db8::/32", "unregistered-max = 9"),
    ];
    let networks = checked(&text.concat()).unwrap().networks;
    let of = |ip: &str| {
        let rule = NetworkRule::at(&networks, ip.parse().unwrap());
        rule.map(|rule| (rule.unregistered_max, rule.handshakes_max))
    };
    assert_eq!(of("10.2.0.1"), Some((5_000, HANDSHAKES_PER_SOURCE_MAX)));
    assert_eq!(of("10.1.255.255"), Some((UNREGISTERED_PER_SOURCE_MAX, 7)), "nothing is handed down");
    assert_eq!(of("2001:db8::1"), Some((9, HANDSHAKES_PER_SOURCE_MAX)));
    assert_eq!(of("11.0.0.1"), None);
}

#[test]
fn bans_are_on_but_where_told_and_for_load_balancers() {
    let of = |lines: &str| {
        let network = format!("[[network]]\nnetwork = \"10.1.0.0/16\"\n{lines}\n");
        let live = Live {
            networks: checked(&format!("[sipproxy]\ntls-port = 0\n{SERVER}{network}")).unwrap().networks,
            ..Settings::plain(vec![], vec![]).live
        };
        let settings = Settings { live, ..Settings::plain(vec![], vec![]) };
        ["10.1.1.1", "11.0.0.1"].map(|ip| settings.bans(ip.parse().unwrap()))
    };
    assert_eq!([of(""), of("bans = true")], [[true; 2]; 2]);
    assert_eq!(of("bans = false"), [false, true]);
    assert_eq!(of("proxy-protocol = true\nbans = true"), [false, true]);
}

#[test]
fn there_may_be_so_many_networks_and_no_more() {
    let of = |count: usize| {
        let network = |n: usize| format!("[[network]]\nnetwork = \"10.{}.{}.0/24\"\n", n / 256, n % 256);
        format!("[sipproxy]\ntls-port = 0\n{SERVER}{}", (0..count).map(network).collect::<String>())
    };
    assert!(checked(&of(NETWORKS_MAX)).is_ok());
    assert_eq!(key_and_fault(&of(NETWORKS_MAX + 1)), keyed("network", Fault::TooMany(NETWORKS_MAX)));
}
