//! Tables of configurations: what each gives, and each fault's one line.

mod facing;
mod setups;

use std::time::Duration;

use super::document::Document;
use super::*;
use crate::ids::{SetupId, Side, Transport};

/// The least that starts: a SIP Server, and no TLS port as there is no certificate.
const LEAST: &str = "[sipproxy]\ntls-port = 0\n[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\n";
/// What a TLS port needs of `[security]`.
const CERTIFICATE: &str = "certificate = \"a.pem\"\ncertificate-key = \"a.key\"\n";
const EXAMPLE: &str = include_str!("../../conf/hawser.toml");

fn line_of_fault(text: &str) -> String {
    match Config::parse(text, "h.toml") {
        Ok(_) => "no fault".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

/// What reading gives, with features of later releases not refused.
fn read_only(text: &str) -> Result<Config, ConfigError> {
    read::config(&Document::parse(text, "h.toml")?)
}

/// Reading and what must fit together, with features of later releases not refused.
fn checked(text: &str) -> Result<Config, ConfigError> {
    let document = Document::parse(text, "h.toml")?;
    let config = read::config(&document)?;
    check::check(&config, &document.lines)?;
    Ok(config)
}

#[test]
fn the_least_configuration_has_the_defaults() {
    let config = Config::parse(LEAST, "h.toml").unwrap();
    let SipProxy { cores, driver, sticky, flow_grace, udp_oversize_action, .. } = &config.sipproxy;
    assert_eq!(config.serving().primary.address(), Some("127.0.0.1:7000".parse().unwrap()));
    assert_eq!(config.serving().transport, Transport::Udp);
    assert_eq!((cores, driver), (&Cores::All, &DriverChoice::Auto));
    assert_eq!((sticky, udp_oversize_action), (&Sticky::Path, &UdpOversize::Tcp));
    assert_eq!(*flow_grace, Duration::from_secs(3));
    let sockets: Vec<_> = config.listeners[0].sockets().map(|(by, at)| format!("{by:?} {at}")).collect();
    assert_eq!(sockets, ["Udp 127.0.0.1:5060", "Tcp 127.0.0.1:5060"]);
    assert_eq!(config.listeners[0].advertised_host(), "127.0.0.1");
    assert_eq!(config.timers.t1 * 64, Duration::from_secs(32));
}

#[test]
fn values_become_what_they_mean() {
    let text = r#"
[sipproxy]
sip-address = "::1"
external-address = "Proxy.Example.com"
sip-port = 0x13c4
http-port = 0
http-address = "0.0.0.0"
domains = ["Example.COM", "2001:db8::1"]
cores = "1,0"
driver = "epoll"
internal-protocol = "tls"
sticky = "aor"
path-add-supported = false
flow-token-key-file = "token.key"
flow-grace = 0.25
serving-sipserver = "b.1"
trusted-sources = ["10.1.0.0/16", "::2"]
udp-oversize-action = "reject"
spin-before-park-us = 50
gather-us = 20
[[sip-server]]
name = "b.1"
primary = "[::1]:7000"
tls-name = "sips.example.com"
verify = "chain"
[security]
certificate = "a.pem"
certificate-key = "a.key"
[security.server]
certificate = ""
certificate-key = ""
trusted-ca = "ca.pem"
[security.endpoint]
system-roots = true
[timers]
t1 = 20
t2 = 20
[log]
level = "off"
"#;
    let config = Config::parse(text, "h.toml").unwrap();
    let listener = &config.listeners[0];
    assert_eq!((listener.sip_port, listener.tls_port), (5060, 5061));
    assert_eq!(listener.advertised_host(), "proxy.example.com");
    let sipproxy = &config.sipproxy;
    assert_eq!(sipproxy.domains, ["example.com", "[2001:db8::1]"]);
    assert_eq!(sipproxy.cores, Cores::List(vec![0, 1]));
    assert_eq!(sipproxy.driver, DriverChoice::Epoll);
    assert_eq!(sipproxy.flow_grace, Duration::from_millis(250));
    assert_eq!(sipproxy.serving_sipserver, Some(0));
    assert_eq!(sipproxy.trusted_sources.iter().map(Network::to_string).collect::<Vec<_>>(), ["10.1.0.0/16", "::2/128"]);
    assert_eq!(sipproxy.spin_before_park, Duration::from_micros(50));
    assert_eq!(sipproxy.gather, Duration::from_micros(20));
    assert_eq!(config.serving().transport, Transport::Tls);
    assert_eq!(config.serving().tls_name, Some(Host::Name("sips.example.com".to_owned())));
    assert_eq!(config.serving().verify, Verify::Chain);
    let Security { server, endpoint, .. } = &config.security;
    assert_eq!((&server.certificate, &endpoint.certificate), (&None, &Some("a.pem".into())));
    assert_eq!((&server.trusted_ca, &endpoint.trusted_ca), (&Some("ca.pem".into()), &None));
    assert_eq!((server.system_roots, endpoint.system_roots), (false, true));
    assert_eq!(config.log.level, LogLevel::Off);
}

/// A fault in `[sipproxy]`, which stands in line 3 of the file.
#[test]
fn a_bad_setting_is_told_in_one_line() {
    let port = "expected a port from 1 to 65535, or 0 for off";
    let cores = "expected \"all\" or numbers of cores such as \"0-3,6\"";
    let host = "expected an address or a host name, or \"\" for none";
    let hosts = "expected a list of host names or addresses";
    let networks = "expected a list of addresses and of networks such as \"10.1.0.0/16\", without host bits";
    let path = "expected a file's path, or \"\" for none";
    let protocols = "expected \"udp\", \"tcp\" or \"tls\"";
    for (setting, key, fault) in [
        ("sip-address = \"localhost\"", "sip-address", "expected an IPv4 or IPv6 address"),
        ("sip-address = \"224.0.0.1\"", "sip-address", "expected an IPv4 or IPv6 address"),
        ("sip-address = \"::ffff:10.0.0.1\"", "sip-address", "expected an IPv4 or IPv6 address"),
        ("sip-address = 1", "sip-address", "expected an IPv4 or IPv6 address"),
        (
            "sip-address = \"0.0.0.0\"",
            "sip-address",
            "expected an address that peers can reach, or external-address to go with it",
        ),
        ("external-address = \"a_b\"", "external-address", host),
        ("external-address = \"a.example.com:5060\"", "external-address", host),
        ("external-address = \"0.0.0.0\"", "external-address", host),
        ("sip-port = -1", "sip-port", port),
        ("sip-port = 65536", "sip-port", port),
        ("sip-port = \"5060\"", "sip-port", port),
        ("sip-port = 5060.0", "sip-port", port),
        ("sip-port = 99999999999999999999", "sip-port", port),
        ("sip-port = 0", "sip-port", "expected a port, as sip-port and tls-port are both 0"),
        ("http-port = true", "http-port", port),
        ("http-port = 5060", "http-port", "expected an address and port that is not used before, not 127.0.0.1:5060"),
        (
            "http-address = \"10.0.0.1\"",
            "http-address",
            "expected a loopback address, or http-tls and http-token-file, or http-in-the-clear = true",
        ),
        ("http-in-the-clear = 1", "http-in-the-clear", "expected true or false"),
        ("domains = \"example.com\"", "domains", hosts),
        ("domains = [\"example.com\", 1]", "domains", hosts),
        ("domains = [\"*.example.com\"]", "domains", hosts),
        ("cores = \"3-1\"", "cores", cores),
        ("cores = 0", "cores", cores),
        ("cores = \"0-64\"", "cores", cores),
        ("internal-protocol = \"UDP\"", "internal-protocol", protocols),
        ("internal-protocol = \"ws\"", "internal-protocol", protocols),
        (
            "internal-protocol = \"tls\"",
            "internal-protocol",
            "expected a transport that is on: udp and tcp need sip-port, tls needs tls-port",
        ),
        ("sticky = \"cookie\"", "sticky", "expected \"path\", \"contact\" or \"aor\""),
        ("path-add-supported = \"yes\"", "path-add-supported", "expected true or false"),
        ("flow-token-key-file = 1", "flow-token-key-file", path),
        ("flow-token-key-file = \"a\\u0000b\"", "flow-token-key-file", path),
        ("flow-grace = -1", "flow-grace", "expected seconds from 0 to 32"),
        ("flow-grace = 32.001", "flow-grace", "expected seconds from 0 to 32"),
        ("flow-grace = nan", "flow-grace", "expected seconds from 0 to 32"),
        ("flow-grace = inf", "flow-grace", "expected seconds from 0 to 32"),
        ("flow-grace = \"3\"", "flow-grace", "expected seconds from 0 to 32"),
        ("oos-check = 301", "oos-check", "expected seconds from 0 to 300"),
        ("oos-force = 0.9", "oos-force", "expected seconds from 1 to 32"),
        ("sip-ip-tos = 257", "sip-ip-tos", "expected a whole number from 0 to 256"),
        ("overload-ctrl-dialog-rate = -1", "overload-ctrl-dialog-rate", "expected a whole number from 0 to 1000000"),
        ("serving-sipserver = \"sips2\"", "serving-sipserver", "expected the name of a [[sip-server]]"),
        (
            "serving-sipserver = \"a b\"",
            "serving-sipserver",
            "expected a name of 1 to 64 letters, digits, '.', '_' or '-'",
        ),
        ("trusted-sources = [\"10.0.0.1/8\"]", "trusted-sources", networks),
        ("trusted-sources = [\"0.0.0.0/0\"]", "trusted-sources", networks),
        ("trusted-sources = [\"sips1\"]", "trusted-sources", networks),
        ("driver = \"kqueue\"", "driver", "expected \"auto\", \"io_uring\" or \"epoll\""),
        ("udp-oversize-action = \"drop\"", "udp-oversize-action", "expected \"tcp\", \"udp\" or \"reject\""),
        ("spin-before-park-us = 1000001", "spin-before-park-us", "expected a whole number from 0 to 1000000"),
        ("gather-us = 10001", "gather-us", "expected a whole number from 0 to 10000"),
        ("gather-us = 1.5", "gather-us", "expected a whole number from 0 to 10000"),
        (
            "overload-ctrl-dialog-rate = 1000001",
            "overload-ctrl-dialog-rate",
            "expected a whole number from 0 to 1000000",
        ),
        ("sip_port = 5060", "sip_port", "unknown key, did you mean sipproxy.sip-port?"),
        ("server = {}", "server", "unknown key, did you mean security.server?"),
        (
            "http-tls = true",
            "http-tls",
            "expected false, or security.certificate and security.certificate-key to go with it",
        ),
    ] {
        let text = LEAST.replacen("[sipproxy]\n", &format!("# first line\n[sipproxy]\n{setting}\n"), 1);
        assert_eq!(line_of_fault(&text), format!("h.toml:3: sipproxy.{key}: {fault}"), "{setting}");
    }
}

/// A fault in what stands behind the five lines of `LEAST`.
#[test]
fn a_bad_table_is_told_in_one_line() {
    let second = "[[sip-server]]\nname = \"sips2\"\nprimary = \"127.0.0.1:7001\"";
    for (text, line) in [
        ("transport = \"sctp\"", "6: sip-server.transport: expected \"udp\", \"tcp\" or \"tls\"".to_owned()),
        (
            "transport = \"tls\"",
            "6: sip-server.transport: expected a transport that is on: udp and tcp need sip-port, tls needs tls-port"
                .to_owned(),
        ),
        ("verify = \"none\"", "6: sip-server.verify: expected \"name\" or \"chain\"".to_owned()),
        (
            "tls-name = \"sip:a\"",
            "6: sip-server.tls-name: expected an address or a host name, or \"\" for none".to_owned(),
        ),
        ("weight = 1", "6: sip-server.weight: unknown key".to_owned()),
        (second, "1: sipproxy.serving-sipserver: expected the name of a [[sip-server]], as there are several".to_owned()),
        ("[sip-server2]", "6: sip-server2: unknown key, did you mean sip-server?".to_owned()),
        (
            "[[listener]]\naddress = \"127.0.0.1\"",
            "2: sipproxy.tls-port: expected to stand in [[listener]], as there is one".to_owned(),
        ),
        ("[[listener]]", "6: listener.address: missing, expected an IPv4 or IPv6 address".to_owned()),
        (
            "[[listener]]\naddress = \"127.0.0.1\"\nside = \"left\"",
            "8: listener.side: expected \"endpoint\", \"server\" or \"both\"".to_owned(),
        ),
        (
            "[[peer-proxy]]\nname = \"s\"\nservers = []\npeer-proxy-contact = \"p.example.com\"",
            "8: peer-proxy.servers: missing, expected a list of addresses, with at least one".to_owned(),
        ),
        (
            "[[peer-proxy]]\nname = \"s\"\nservers = [\"10.0.0.1\"]\npeer-proxy-contact = \"p\"\npeer-proxy-port-tls = 65536",
            "10: peer-proxy.peer-proxy-port-tls: expected a port from 1 to 65535, or 0 for off".to_owned(),
        ),
        (
            "[[device]]\nnetwork = \"10.0.0.0/99\"",
            "7: device.network: expected a network such as \"10.1.0.0/16\", without host bits, or an address"
                .to_owned(),
        ),
        (
            "[[network]]\nnetwork = \"10.0.0.1/8\"",
            "7: network.network: expected a network such as \"10.1.0.0/16\", without host bits, or an address".to_owned(),
        ),
        ("[[network]]\nunregistered-max = 5", "6: network.network: missing, expected a network such as \"10.1.0.0/16\", without host bits, or an address".to_owned()),
        (
            "[[network]]\nnetwork = \"10.0.0.0/8\"\nunregistered-max = 0",
            "8: network.unregistered-max: expected a whole number from 1 to 1000000".to_owned(),
        ),
        (
            "[[network]]\nnetwork = \"10.0.0.0/8\"\nhandshakes-max = 257",
            "8: network.handshakes-max: expected a whole number from 1 to 256".to_owned(),
        ),
        (
            "[[network]]\nnetwork = \"10.0.0.0/8\"\n[[network]]\nnetwork = \"10.0.0.0/8\"",
            "9: network.network: expected a network that is not used before".to_owned(),
        ),
        (
            "[[network]]\nnetwork = \"127.0.0.0/8\"\nproxy-protocol = true",
            "8: network.proxy-protocol: expected false, or a network without SIP Servers, sites' proxies and \
             trusted-sources, not with 127.0.0.1"
                .to_owned(),
        ),
        ("[device]\nnetwork = \"10.0.0.0/8\"", "6: device: expected one or more [[tables]]".to_owned()),
        ("[[timers]]\nt1 = 500", "6: timers: expected a [table]".to_owned()),
        ("[timers]\nt1 = 9", "7: timers.t1: expected a whole number from 10 to 10000".to_owned()),
        ("[timers]\nt2 = 499", "7: timers.t2: expected at least timers.t1".to_owned()),
        ("[timers]\nt1 = 4001", "6: timers.t2: expected at least timers.t1".to_owned()),
        ("[timers]\nt4 = 60001", "7: timers.t4: expected a whole number from 10 to 60000".to_owned()),
        ("[timers]\nc = 99", "7: timers.c: expected a whole number from 100 to 86400000".to_owned()),
        ("[timers]\nc = 3m", "7: ".to_owned()),
        ("[log]\nlevel = \"verbose\"", "7: log.level: ".to_owned()),
        ("[log]\nformat = \"json\"", "7: log.format: not available in this release".to_owned()),
        ("[hep]\naddress = \"192.0.2.9:9060\"", "7: hep.address: not available in this release".to_owned()),
        ("[hep]\naddress = \"192.0.2.9\"", "7: hep.address: expected an address with a port such as \"192.0.2.9:9060\", or \"\"".to_owned()),
        (
            "[dns]\nservers = [\n\"127.0.0.1:53\",\n\"127.0.0.1\",\n]",
            "9: dns.servers: expected a list of addresses with ports such as \"127.0.0.1:53\"".to_owned(),
        ),
        ("[security]\ntls-mutual = true", "7: security.tls-mutual: expected a whole number from 0 to 1".to_owned()),
        ("[security]\ntls-mutual = 1", "7: security.tls-mutual: 1, expected security.trusted-ca or security.system-roots = true to go with it".to_owned()),
        (
            "[security]\n[security.endpoint]\ntls-mutual = 1",
            "8: security.endpoint.tls-mutual: 1, expected security.trusted-ca or security.system-roots = true to go with it".to_owned(),
        ),
        ("[security]\nclient-eku = \"none\"", "7: security.client-eku: expected \"strict\" or \"any\"".to_owned()),
        ("[security]\nticket-key-file = 7", "7: security.ticket-key-file: expected a file's path, or \"\" for none".to_owned()),
        (
            "[security]\nticket-key-hours = 0",
            "7: security.ticket-key-hours: expected a whole number from 1 to 168".to_owned(),
        ),
        (
            "[[security.sni]]\ndomain = \"192.0.2.1\"\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"",
            "7: security.sni.domain: expected a host name: no client asks for an address".to_owned(),
        ),
        (
            "[[security.sni]]\ndomain = \"a.b\"\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n\
             [[security.sni]]\ndomain = \"A.b.\"\ncertificate = \"b.pem\"\ncertificate-key = \"b.key\"",
            "11: security.sni.domain: expected a name that is not used before".to_owned(),
        ),
        (
            "[[security.sni]]\ndomain = \"a\"\ncertificate = \"a.pem\"",
            "6: security.sni.certificate-key: missing, expected a file's path, or \"\" for none".to_owned(),
        ),
        (
            "[security]\ncertificate = \"a.pem\"",
            "7: security.certificate: expected certificate-key to go with it".to_owned(),
        ),
        (
            "[security]\ncertificate-key = \"a.key\"",
            "7: security.certificate-key: expected certificate to go with it".to_owned(),
        ),
        (
            "[security]\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n[security.endpoint]\ncertificate = \"\"",
            "8: security.certificate-key: expected certificate to go with it".to_owned(),
        ),
        ("[security.server.sni]", "6: security.server.sni: unknown key, did you mean security.sni?".to_owned()),
        ("[security.phones]", "6: security.phones: unknown key".to_owned()),
    ] {
        let found = line_of_fault(&format!("{LEAST}{text}\n"));
        let whole = format!("h.toml:{line}");
        // A row that ends with a space leaves out the words of toml, or a list of words.
        let same = if line.ends_with(": ") { found.starts_with(&whole) } else { found == whole };
        assert!(same, "{text}\n  has   {found}\n  wants {whole}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn a_bad_whole_is_told_in_one_line() {
    let server = "[[sip-server]]\nname = \"sips1\"\n";
    let server_words = "expected an address with its port such as \"10.0.0.1:5060\", or a name to resolve";
    for (text, line) in [
        (
            String::new(),
            "1: sipproxy.tls-port: expected 0 (off), or security.certificate and security.certificate-key to go with it",
        ),
        ("\n[sipproxy]\ntls-port = 0\n".to_owned(), "1: sip-server: missing, expected at least one [[sip-server]]"),
        ("sip-server = 1\n".to_owned(), "1: sip-server: expected one or more [[tables]]"),
        ("sip-server = [1]\n".to_owned(), "1: sip-server: expected one or more [[tables]]"),
        (format!("sipproxy.tls-port = 0\n{server}"), &format!("2: sip-server.primary: missing, {server_words}")),
        (
            "sipproxy.tls-port = 0\n\n[[sip-server]]\nprimary = \"127.0.0.1:7000\"".to_owned(),
            "3: sip-server.name: missing, expected a name of 1 to 64 letters, digits, '.', '_' or '-'",
        ),
        (
            format!("sipproxy.tls-port = 0\n{server}primary = \"127.0.0.1\""),
            &format!("4: sip-server.primary: {server_words}"),
        ),
        (
            format!("sipproxy.tls-port = 0\n{server}primary = \"127.0.0.1:5060\""),
            "4: sip-server.primary: expected another address and port than our own",
        ),
        (
            format!("sipproxy.tls-port = 0\n{server}primary = \"[::1]:7000\""),
            "4: sip-server.primary: expected an address of the family (IPv4 or IPv6) of a listener that faces servers",
        ),
        (
            "[sipproxy]\ntls-port = 5060\n[security]\ncertificate = \"a\"\ncertificate-key = \"b\"\n".to_owned(),
            "2: sipproxy.tls-port: expected an address and port that is not used before, not 127.0.0.1:5060",
        ),
        (
            format!(
                "[sipproxy]\ninternal-protocol = \"tls\"\n[security]\ncertificate = \"a\"\ncertificate-key = \"b\"\n\
                 {server}primary = \"127.0.0.1:7000\""
            ),
            "2: sipproxy.internal-protocol: tls, expected security.trusted-ca or security.system-roots = true to go \
             with it",
        ),
        (
            format!(
                "[sipproxy]\nsip-port = 0\n[security]\ncertificate = \"a\"\ncertificate-key = \"b\"\n\
                 {server}primary = \"127.0.0.1:7000\""
            ),
            "1: sipproxy.internal-protocol: expected a transport that is on: udp and tcp need sip-port, tls needs \
             tls-port",
        ),
        (
            "[sipproxy]\nhttp-address = \"0.0.0.0\"\nhttp-in-the-clear = true\ntls-port = 8080\n[security]\n\
             certificate = \"a\"\ncertificate-key = \"b\"\n"
                .to_owned(),
            "1: sipproxy.http-port: expected an address and port that is not used before, not 0.0.0.0:8080",
        ),
        ("[sipproxy]\nsip-port = 1\nsip-port = 2\n".to_owned(), "3: sipproxy.sip-port: expected to be given once"),
        ("[log]\n[dns]\n[log]\n".to_owned(), "3: log: expected to be given once"),
        ("[dns]\nservers = { a = 1, a = 2 }\n".to_owned(), "2: dns.a: expected to be given once"),
        ("[sipproxy\n".to_owned(), "1: not TOML: "),
        ("a = \n".to_owned(), "1: not TOML: "),
        ("\n\n[sipproxy]\nsticky = \"path\n".to_owned(), "4: not TOML: "),
    ] {
        let found = line_of_fault(&text);
        let whole = format!("h.toml:{line}");
        let same = if line.ends_with(": ") { found.starts_with(&whole) } else { found == whole };
        assert!(same, "{text}\n  has   {found}\n  wants {whole}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn ranges_end_where_they_say() {
    for setting in [
        "sip-port = 1",
        "sip-port = 65535",
        "http-port = 0",
        "flow-grace = 0",
        "flow-grace = 32",
        "flow-grace = 32.0",
        "flow-grace = 0.001",
        "oos-check = 0",
        "oos-check = 0.0",
        "overload-ctrl-dialog-rate = 0",
        "sip-ip-tos = 256",
        "spin-before-park-us = 1000000",
        "gather-us = 10000",
        "http-tls = false",
        "http-token-file = \"\"",
        "http-address = \"127.255.255.254\"",
        "http-address = \"::1\"",
        "http-address = \"10.0.0.1\"\nhttp-in-the-clear = true",
        "http-address = \"10.0.0.1\"\nhttp-port = 0",
        "sip-address = \"0.0.0.0\"\nexternal-address = \"10.0.0.1\"",
        "serving-sipserver = \"sips1\"",
        "serving-sipserver = \"\"",
        "trusted-sources = []",
        "cores = \"0-63\"",
    ] {
        let text = LEAST.replacen("[sipproxy]\n", &format!("[sipproxy]\n{setting}\n"), 1);
        assert_eq!(line_of_fault(&text), "no fault", "{setting}");
    }
    for tables in [
        "[timers]\nt1 = 10\nt2 = 10\nt4 = 10\nc = 100",
        "[timers]\nt1 = 10000\nt2 = 60000\nt4 = 60000\nc = 86400000",
        "[security]\ntls-mutual = 0\nticket-key-hours = 12\nclient-eku = \"strict\"\ncrl = \"\"",
        "[dns]\nservers = []\nttl-stale = 3600",
        "backup = \"\"\ntransport = \"tcp\"",
    ] {
        assert_eq!(line_of_fault(&format!("{LEAST}{tables}\n")), "no fault", "{tables}");
    }
}

#[test]
fn the_http_port_is_guarded_or_said_to_be_open() {
    let server = "[[sip-server]]\nname = \"a\"\nprimary = \"127.0.0.1:7000\"\n";
    let text = |lines: &str| {
        format!("[sipproxy]\ntls-port = 0\nhttp-address = \"10.0.0.1\"\n{lines}\n{server}[security]\n{CERTIFICATE}")
    };
    let token = "http-token-file = \"token\"";
    for lines in ["", "http-tls = true", token] {
        assert_eq!(checked(&text(lines)).unwrap_err().fault, Fault::HttpExposed, "{lines}");
    }
    for lines in ["http-in-the-clear = true", "http-port = 0", &format!("http-tls = true\n{token}")] {
        assert!(checked(&text(lines)).is_ok(), "{lines}");
    }
}

/// The checks of several pairs, peers and devices, also while a release does not have them yet.
#[test]
fn what_comes_later_is_checked_too() {
    let pair = |name: &str, at: &str| format!("[[sip-server]]\nname = \"{name}\"\nprimary = \"{at}\"\n");
    let first = "[sipproxy]\ntls-port = 0\n";
    let serving = "[sipproxy]\ntls-port = 0\nserving-sipserver = \"b\"\n";
    let (a, b) = (pair("a", "10.0.0.1:5060"), pair("b", "10.0.0.2:5060"));
    let peer = "[[peer-proxy]]\nname = \"p\"\nservers = [\"10.0.0.9\"]\npeer-proxy-contact = \"p\"\n\
                peer-proxy-protocol = \"udp\"\n";
    let fault = |text: &str| checked(text).unwrap_err();
    assert_eq!(checked(&format!("{serving}{a}{b}{peer}")).unwrap().serving().name, "b");
    assert_eq!(fault(&format!("{first}{a}{b}")).fault, Fault::ServingNeeded);
    let twice = fault(&format!("{serving}{b}{}", pair("b", "10.0.0.3:5060")));
    assert_eq!((twice.line, twice.fault), (8, Fault::NameTwice));
    let address = "10.0.0.1:5060".parse().unwrap();
    let twice = fault(&format!("{serving}{a}{}", pair("b", "10.0.0.1:5060")));
    assert_eq!((twice.line, twice.fault), (9, Fault::AddressTwice(address)));
    let backup = fault(&format!("{first}{a}backup = \"10.0.0.1:5060\"\n"));
    assert_eq!((backup.key.as_str(), backup.fault), ("sip-server.backup", Fault::AddressTwice(address)));
    assert_eq!(fault(&format!("{first}{a}{peer}{peer}")).fault, Fault::NameTwice);
}

/// For each table: a header and its keys that have to be there.
fn table_with(name: &str, key: &str, value: &str) -> String {
    let required: &[(&str, &str)] = match name {
        "listener" => &[("address", "\"127.0.0.1\"")],
        "sip-server" => &[("name", "\"a\""), ("primary", "\"127.0.0.1:7000\"")],
        "peer-proxy" => &[("name", "\"p\""), ("servers", "[\"10.0.0.1\"]"), ("peer-proxy-contact", "\"p\"")],
        "device" | "network" => &[("network", "\"10.0.0.0/8\"")],
        "security.sni" => &[("domain", "\"a\""), ("certificate", "\"a\""), ("certificate-key", "\"b\"")],
        _ => &[],
    };
    let repeated = matches!(name, "listener" | "sip-server" | "peer-proxy" | "device" | "network" | "security.sni");
    let mut text = if repeated { format!("[[{name}]]\n") } else { format!("[{name}]\n") };
    for (other, value) in required.iter().filter(|(other, _)| *other != key) {
        text.push_str(&format!("{other} = {value}\n"));
    }
    if !key.is_empty() {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

#[test]
fn every_key_of_the_schema_is_read() {
    for Key { name, .. } in KEYS {
        let mut places = vec![(*name).to_owned()];
        if let Some(key) = name.strip_prefix("security.").filter(|key| !key.contains('.')) {
            places.extend(["server", "endpoint"].map(|side| format!("security.{side}.{key}")));
            places.retain(|place| place != "security.server.client-aor");
        }
        for place in places {
            let (table, key) = place.rsplit_once('.').unwrap();
            // No setting is a date.
            let fault = read_only(&table_with(table, key, "1979-05-27")).unwrap_err();
            assert_eq!(fault.key, place);
            assert!(matches!(fault.fault, Fault::Expected(_)), "{fault}");
        }
    }
}

#[test]
fn every_default_is_what_absence_means() {
    for Key { name, default, .. } in KEYS {
        let (table, key) = name.rsplit_once('.').unwrap();
        if default.is_empty() {
            let fault = read_only(&table_with(table, "", "").replace(&format!("{key} = "), "# ")).unwrap_err();
            assert_eq!(fault.key, *name);
            assert!(matches!(fault.fault, Fault::Missing(_)), "{fault}");
            continue;
        }
        // Defaults that are another key's value.
        let default = match *default {
            "internal-protocol" => "\"udp\"",
            "security" if key == "system-roots" => "false",
            "security" => "\"\"",
            default => default,
        };
        let given = read_only(&table_with(table, key, default)).unwrap_or_else(|fault| panic!("{fault}"));
        let absent = read_only(&table_with(table, "", "")).unwrap();
        assert_eq!(format!("{given:?}"), format!("{absent:?}"), "{name} = {default}");
    }
}

#[test]
fn the_example_works_as_it_stands() {
    let config = Config::parse(EXAMPLE, "conf/hawser.toml").unwrap_or_else(|fault| panic!("{fault}"));
    let sockets: Vec<_> = config.listeners[0].sockets().map(|(by, _)| by).collect();
    assert_eq!(sockets, [Transport::Udp, Transport::Tcp, Transport::Tls]);
    assert_eq!(config.serving().name, "sips1");
}

/// Each key of the example with whether it is commented out; a comment that is a sentence is no key.
fn example_keys() -> Vec<(String, bool)> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        let (line, commented) = match line.strip_prefix("# ") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let header = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).filter(|l| !l.contains(' '));
        if let Some(header) = header {
            table = header.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '"', '#'])) {
            keys.push((format!("{table}.{key}"), commented));
        }
    }
    keys
}

#[test]
fn the_example_has_every_key_once() {
    let mut found: Vec<_> =
        example_keys().into_iter().map(|(key, _)| key).filter(|key| !key.starts_with('.')).collect();
    let mut wanted: Vec<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

/// Tables that the example shows as comments, for they name what not everybody has.
const OPTIONAL: [&str; 5] = ["listener", "peer-proxy", "device", "network", "security.sni"];

#[test]
fn the_example_comments_out_what_comes_later() {
    for (key, commented) in example_keys() {
        let Some(entry) = KEYS.iter().find(|entry| entry.name == key) else { continue };
        // Keys that are optional and have no value to show that would not repeat another key.
        let repeats = matches!(entry.default, "internal-protocol" | "security");
        let optional = repeats || OPTIONAL.iter().any(|table| key.starts_with(table));
        assert!(commented == entry.is_later() || (commented && optional), "{key}");
    }
}

#[test]
fn the_optional_tables_of_the_example_work_when_they_are_uncommented() {
    let with = |table: &str| {
        let header = format!("# [[{table}]]");
        let (before, rest) = EXAMPLE.split_once(&header).unwrap();
        let (lines, after) = rest.split_once("\n\n").unwrap();
        let is_key = |line: &&str| line.contains(" = ") && !line[2..].split(" = ").next().unwrap().contains(' ');
        let keys: Vec<_> = lines.lines().filter(is_key).map(|line| line.trim_start_matches("# ")).collect();
        let text = format!("{before}[[{table}]]\n{}\n\n{after}", keys.join("\n"));
        let beside = ["sip-address", "external-address", "sip-port", "tls-port"];
        if table != "listener" {
            return text;
        }
        let own = |line: &&str| !beside.iter().any(|key| line.starts_with(&format!("{key} = ")));
        let [head, rest] = ["[sipproxy]", "[[listener]]"].map(|at| text.find(at).unwrap_or(text.len()));
        let head: Vec<_> = text[head..rest].lines().filter(own).collect();
        format!("{}\n{}", head.join("\n"), &text[rest..])
    };
    for table in OPTIONAL.iter().filter(|table| !not_yet::is_later(table)) {
        let text = with(table);
        Config::parse(&text, "h.toml").unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    }
    assert_eq!(Config::parse(&with("listener"), "h.toml").unwrap().listeners.len(), 1);
}

#[test]
fn the_markdown_table_has_a_row_for_each_key() {
    let table = markdown();
    assert_eq!(table.lines().count(), KEYS.len() + 2);
    assert!(table.contains("| `sipproxy.sip-port` | `5060` | Port for UDP and TCP; 0–65535, 0 = off. |\n"));
    assert!(table.contains("| `sip-server.name` | *required* | "));
}

#[test]
fn no_text_panics() {
    for end in 0..EXAMPLE.len() {
        if let Some(part) = EXAMPLE.get(..end) {
            let _fault_or_not = Config::parse(part, "h.toml");
        }
    }
}
