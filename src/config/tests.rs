//! Tables of configurations: what each gives, and each fault's one line.

use super::*;

/// The least that starts: a SIP Server, and no TLS port as there is no certificate.
const LEAST: &str = "[sipproxy]\ntls-port = 0\n[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\n";

#[test]
fn the_least_configuration_has_the_defaults() {
    let config = Config::parse(LEAST, "hawser.toml").unwrap();
    assert_eq!(config.serving().primary.address(), Some("127.0.0.1:7000".parse().unwrap()));
    assert_eq!(config.serving().transport, Transport::Udp);
    assert_eq!(config.sipproxy.sticky, Sticky::Path);
    let sockets: Vec<_> = config.listeners[0].sockets().map(|(by, at)| format!("{by:?} {at}")).collect();
    assert_eq!(sockets, ["Udp 127.0.0.1:5060", "Tcp 127.0.0.1:5060"]);
}
