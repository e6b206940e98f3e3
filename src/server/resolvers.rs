//! Which resolvers are asked: `dns.servers`, or those of resolv.conf.

use std::net::{IpAddr, SocketAddr};

use crate::config;
use crate::config::engine::DnsSettings;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;

/// Read once, at start. Without any, no name resolves.
pub fn settings(config: &config::Dns) -> DnsSettings {
    let resolvers = if config.servers.is_empty() {
        // A host without that file has no resolver, which is no fault as long as no name is used.
        parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
    } else {
        config.servers.clone()
    };
    DnsSettings { resolvers, ttl_stale: config.ttl_stale }
}

/// The `nameserver` lines of resolv.conf(5). Search lists and options do not matter here: the names that are asked for
/// are whole ones. An address that names an interface (`fe80::1%eth0`) is left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        resolvers.extend(address.map(|address| SocketAddr::new(address, PORT)).filter(|a| !resolvers.contains(a)));
    }
    resolvers
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nameservers_are_read_in_their_order_and_the_rest_is_passed_over() {
        let text = "# nameserver 10.0.0.9\n; nameserver 10.0.0.8\nsearch example.com\nnameserver 10.0.0.2\n\
                    nameserver\t2001:db8::1   # ours\n nameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\n\
                    nameserver ns.example.com\nnameserver 10.0.0.2\noptions timeout:1\nnameservers 10.0.0.7\n";
        let expected = ["10.0.0.2:53", "[2001:db8::1]:53", "10.0.0.1:53"];
        assert_eq!(parse(text), expected.map(|address| address.parse().unwrap()));
        assert!(parse("").is_empty());
    }

    #[test]
    fn what_is_configured_comes_instead_of_the_system_s() {
        let servers = vec!["127.0.0.1:5353".parse().unwrap()];
        let found = settings(&config::Dns { servers: servers.clone(), ttl_stale: Duration::from_secs(7) });
        assert_eq!((found.resolvers, found.ttl_stale), (servers, Duration::from_secs(7)));
    }
}
