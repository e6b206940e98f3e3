//! What `--check` prints: what would run with a configuration, in words for a person.

use std::fmt;
use std::net::SocketAddr;

use super::lookup::{Name, Whose};
use super::tls_report;
use crate::config::{Config, Host, NetworkRule, Verify};
use crate::dns::{Answer, Failure};
use crate::ids::{Side, Transport};
use crate::tls::inventory::Inventory;

/// What would run.
#[derive(Debug)]
pub struct Report {
    config: Config,
    cores: Vec<usize>,
    driver: String,
    /// The lines about TLS.
    tls: String,
    resolvers: Vec<SocketAddr>,
    names: Vec<(Name, Answer)>,
}

impl Report {
    /// What would run on these cores. TLS comes with [`Self::with_tls`] when its files have been read, and names
    /// with [`Self::with_names`] when they have been looked up.
    #[must_use]
    pub fn new(config: &Config, cores: &[usize]) -> Self {
        Self {
            config: config.clone(),
            cores: cores.to_vec(),
            driver: String::new(),
            tls: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Adds what the shards wait with, and why.
    #[must_use]
    pub(super) fn with_driver(self, driver: impl fmt::Display) -> Self {
        Self { driver: format!("driver       {driver}\n"), ..self }
    }

    /// Adds what files of TLS were found to hold; `now` is in seconds since 1970.
    #[must_use]
    pub(super) fn with_tls(self, inventory: &Inventory, now: i64) -> Self {
        Self { tls: tls_report::lines(&self.config, inventory, now), ..self }
    }

    /// Adds what names give by these resolvers.
    #[must_use]
    pub(super) fn with_names(self, resolvers: Vec<SocketAddr>, names: Vec<(Name, Answer)>) -> Self {
        Self { resolvers, names, ..self }
    }

    fn listeners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for listener in &self.config.listeners {
            let host = listener.advertised_host();
            let only = match listener.side {
                None => "",
                Some(Side::Endpoint) => ", for endpoints only",
                Some(Side::Server) => ", for servers only",
            };
            for (transport, bind) in listener.sockets() {
                writeln!(f, "listen       {:3} {bind}, as {host}:{}{only}", transport.via_name(), bind.port())?;
            }
        }
        let sipproxy = &self.config.sipproxy;
        if sipproxy.http_port == 0 {
            return writeln!(f, "http         off");
        }
        let bind = SocketAddr::new(sipproxy.http_address, sipproxy.http_port);
        write!(f, "http         {}://{bind}", if sipproxy.http_tls { "https" } else { "http" })?;
        match &sipproxy.http_token_file {
            Some(path) => writeln!(f, ", with the token of {}", path.display()),
            None => writeln!(f, ", without a token"),
        }
    }

    fn peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { servers, peers, devices, networks, sipproxy, .. } = &self.config;
        for server in servers {
            write!(f, "sip-server   {} at {}", server.name, server.primary)?;
            if let Some(backup) = &server.backup {
                write!(f, " and {backup}")?;
            }
            write!(f, " over {}", server.transport.param_name())?;
            if server.transport == Transport::Tls {
                certificate_of(f, server.tls_name.as_ref(), server.verify)?;
            }
            let serves = servers.len() > 1 && server.name == self.config.serving().name;
            writeln!(f, "{}", if serves { ", serves endpoints" } else { "" })?;
        }
        match sipproxy.oos_check.as_secs_f64() {
            0.0 => writeln!(f, "checks       off")?,
            every => {
                let force = sipproxy.oos_force.as_secs_f64();
                writeln!(f, "checks       every {every} s, and every {force} s while none answers")?;
            }
        }
        for peer in peers {
            write!(f, "peer-proxy   {} at {} over {}", peer.name, peer.contact, peer.protocol.param_name())?;
            if peer.protocol == Transport::Tls {
                certificate_of(f, peer.tls_name.as_ref(), peer.verify)?;
            }
            let servers: Vec<_> = peer.servers.iter().map(ToString::to_string).collect();
            writeln!(f, ", for {}", servers.join(", "))?;
        }
        for device in devices {
            write!(f, "device       {}", device.network)?;
            certificate_of(f, device.tls_name.as_ref(), device.verify)?;
            writeln!(f)?;
        }
        for rule in networks {
            let NetworkRule { network, unregistered_max, handshakes_max, proxy_protocol, bans } = rule;
            let by_header = if *proxy_protocol { ", by their PROXY header" } else { "" };
            write!(f, "network      {network}: {unregistered_max} unregistered, ")?;
            let no_bans = if *bans || *proxy_protocol { "" } else { ", never shut out" };
            writeln!(f, "{handshakes_max} handshakes{by_header}{no_bans}")?;
        }
        Ok(())
    }

    /// Our own addresses over a transport: those that are bound, and those that what we advertise gives.
    fn own(&self, over: Option<Transport>) -> Vec<SocketAddr> {
        let mut own = Vec::new();
        for listener in &self.config.listeners {
            for (_, bind) in listener.sockets().filter(|(transport, _)| Some(*transport) == over) {
                own.extend(Some(bind).filter(|bind| !bind.ip().is_unspecified()));
                if let Some(Host::Ip(ip)) = listener.advertise {
                    own.push(SocketAddr::new(ip, bind.port()));
                }
            }
        }
        let advertised = self.names.iter().filter(|(name, _)| name.whose == Whose::Own);
        let advertised = advertised.filter(|(name, _)| name.question.transport == over);
        own.extend(advertised.filter_map(|(_, answer)| answer.as_ref().ok()).flat_map(|t| t.iter().map(|t| t.address)));
        own
    }

    fn names(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.names.is_empty() {
            let resolvers: Vec<_> = self.resolvers.iter().map(ToString::to_string).collect();
            let resolvers = if resolvers.is_empty() { "none".to_owned() } else { resolvers.join(", ") };
            writeln!(f, "resolvers    {resolvers}")?;
        }
        for (Name { whose, question }, answer) in &self.names {
            let over = question.transport.map_or("any transport", Transport::param_name);
            write!(f, "name         {}", question.host)?;
            if let Some(port) = question.port {
                write!(f, ":{port}")?;
            }
            write!(f, " over {over}: ")?;
            match answer {
                Err(Failure::NoSuchName) => f.write_str("does not exist")?,
                Err(Failure::NoRecords) => f.write_str("has no records for it")?,
                Err(Failure::Unanswered) => f.write_str("no resolver answers")?,
                Err(Failure::Bound) => f.write_str("its records lead on and on")?,
                Ok(targets) => {
                    for (at, target) in targets.iter().enumerate() {
                        write!(f, "{}{}", if at == 0 { "" } else { ", " }, target.address)?;
                        if (target.priority, target.weight) != (0, 0) {
                            write!(f, " (priority {}, weight {})", target.priority, target.weight)?;
                        }
                    }
                    let own = self.own(question.transport);
                    if *whose == Whose::Pool && !targets.iter().any(|target| own.contains(&target.address)) {
                        f.write_str("; THIS PROXY IS NOT AMONG THEM")?;
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// What a peer's certificate must carry.
fn certificate_of(f: &mut fmt::Formatter<'_>, tls_name: Option<&Host>, verify: Verify) -> fmt::Result {
    match (verify, tls_name) {
        (Verify::Chain, _) => f.write_str(" (certificate: any name)"),
        (Verify::Name, Some(name)) => write!(f, " (certificate: {name})"),
        (Verify::Name, None) => Ok(()),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<_> = self.cores.iter().map(usize::to_string).collect();
        writeln!(f, "cores        {}", cores.join(","))?;
        f.write_str(&self.driver)?;
        self.listeners(f)?;
        self.peers(f)?;
        self.names(f)?;
        writeln!(f, "sticky       {}", self.config.sipproxy.sticky)?;
        f.write_str(&self.tls)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Device, Network, PeerProxy, ServerAddress};
    use crate::dns::Target;
    use crate::server::lookup;

    #[test]
    fn a_report_says_what_would_run() {
        let text = "[sipproxy]\nexternal-address = \"2001:db8::1\"\nhttp-port = 0\ncores = \"0-1\"\n\
                    [[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\n\
                    [security]\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n";
        let config = Config::parse(text, "hawser.toml").unwrap();
        let report = Report::new(&config, &[0, 1]).with_driver("epoll, for so it is");
        let report = report.with_tls(&Inventory::default(), 0).to_string();
        let lines: Vec<_> = report.lines().collect();
        assert_eq!(
            lines,
            [
                "cores        0,1",
                "driver       epoll, for so it is",
                "listen       UDP 127.0.0.1:5060, as [2001:db8::1]:5060",
                "listen       TCP 127.0.0.1:5060, as [2001:db8::1]:5060",
                "listen       TLS 127.0.0.1:5061, as [2001:db8::1]:5061",
                "http         off",
                "sip-server   sips1 at 127.0.0.1:7000 over udp",
                "checks       every 5 s, and every 5 s while none answers",
                "sticky       path",
                "clients      of 127.0.0.1:5061 see a.pem",
            ]
        );
    }

    #[test]
    fn a_report_says_who_is_reached_how_and_what_names_give() {
        let text = "[sipproxy]\ndomains = [\"example.com\", \"10.0.0.9\"]\nhttp-port = 0\n\
                    [[listener]]\nside = \"endpoint\"\naddress = \"10.0.0.1\"\nadvertise = \"p1.example.com\"\ntls-port = 0\n\
                    [[listener]]\nside = \"server\"\naddress = \"10.0.0.2\"\nsip-port = 0\n\
                    [[sip-server]]\nname = \"sips1\"\nprimary = \"10.0.0.3:5061\"\ntransport = \"tls\"\nverify = \"chain\"\n\
                    [security]\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\ntrusted-ca = \"ca.pem\"\n";
        let mut config = Config::parse(text, "hawser.toml").unwrap();
        config.servers[0].backup = Some(ServerAddress::Name("sips2.example.com".into(), Some(5061)));
        config.sipproxy.oos_check = Duration::from_secs(5);
        config.sipproxy.oos_force = Duration::from_millis(1_500);
        config.peers.push(PeerProxy {
            name: "site2".into(),
            servers: vec!["10.2.0.1".parse().unwrap(), "10.2.0.2".parse().unwrap()],
            contact: Host::Name("site2.example.com".into()),
            protocol: Transport::Tls,
            port_tls: None,
            tls_name: Some(Host::Name("proxy.site2.example.com".into())),
            verify: Verify::Name,
            setup: None,
        });
        config.devices.push(Device {
            network: Network { address: "10.9.0.0".parse().unwrap(), prefix_len: 16 },
            tls_name: None,
            verify: Verify::Chain,
            setup: None,
        });
        config.networks.push(NetworkRule {
            network: Network { address: "198.51.100.7".parse().unwrap(), prefix_len: 32 },
            unregistered_max: 5_000,
            handshakes_max: 256,
            proxy_protocol: true,
            bans: true,
        });
        config.networks.push(NetworkRule {
            network: Network { address: "203.0.113.0".parse().unwrap(), prefix_len: 24 },
            unregistered_max: 50,
            handshakes_max: 9,
            proxy_protocol: false,
            bans: false,
        });
        let target = |address: &str, priority, weight| Target {
            transport: Transport::Udp,
            address: address.parse().unwrap(),
            priority,
            weight,
        };
        let names = lookup::names(&config);
        let asked: Vec<_> =
            names.iter().map(|Name { whose, question }| (*whose, &*question.host, question.port)).collect();
        assert_eq!(
            asked,
            [
                (Whose::Peer, "sips2.example.com", Some(5061)),
                (Whose::Peer, "site2.example.com", None),
                (Whose::Own, "p1.example.com", Some(5060)),
                (Whose::Own, "p1.example.com", Some(5060)),
                (Whose::Pool, "example.com", None),
                (Whose::Pool, "example.com", None),
            ]
        );
        let answers: [Answer; 6] = [
            Err(Failure::NoSuchName),
            Err(Failure::Unanswered),
            Ok([target("203.0.113.1:5060", 0, 0)].into()),
            Err(Failure::NoRecords),
            Ok([target("203.0.113.1:5060", 1, 60), target("203.0.113.2:5060", 1, 40)].into()),
            Ok([target("203.0.113.2:5060", 0, 0)].into()),
        ];
        let names = names.into_iter().zip(answers).collect();
        let report = Report::new(&config, &[0]).with_names(vec!["10.0.0.53:53".parse().unwrap()], names).to_string();
        let expected = "cores        0
listen       UDP 10.0.0.1:5060, as p1.example.com:5060, for endpoints only
listen       TCP 10.0.0.1:5060, as p1.example.com:5060, for endpoints only
listen       TLS 10.0.0.2:5061, as 10.0.0.2:5061, for servers only
http         off
sip-server   sips1 at 10.0.0.3:5061 and sips2.example.com:5061 over tls (certificate: any name)
checks       every 5 s, and every 1.5 s while none answers
peer-proxy   site2 at site2.example.com over tls (certificate: proxy.site2.example.com), for 10.2.0.1, 10.2.0.2
device       10.9.0.0/16 (certificate: any name)
network      198.51.100.7/32: 5000 unregistered, 256 handshakes, by their PROXY header
network      203.0.113.0/24: 50 unregistered, 9 handshakes, never shut out
resolvers    10.0.0.53:53
name         sips2.example.com:5061 over tls: does not exist
name         site2.example.com over tls: no resolver answers
name         p1.example.com:5060 over udp: 203.0.113.1:5060
name         p1.example.com:5060 over tcp: has no records for it
name         example.com over udp: 203.0.113.1:5060 (priority 1, weight 60), 203.0.113.2:5060 (priority 1, weight 40)
name         example.com over tcp: 203.0.113.2:5060; THIS PROXY IS NOT AMONG THEM
sticky       path
";
        assert_eq!(report, expected);
    }
}
