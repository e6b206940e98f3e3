//! What is published against what the proxies are set to.
//!
//! Owns: the comparison. Must not touch: sockets; the DNS is a function that is given.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::members::Member;
use super::{Port, SERVICES, ZoneError};
use crate::dns::wire::{Kind, Known, Srv};

/// Something that does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Difference {
    /// A proxy that phones will not find.
    Missing { service: String, member: String, port: u16 },
    /// A record that leads to no proxy of this pool.
    Extra { service: String, target: String, port: u16 },
    /// A record that leads to a port of a proxy where nothing listens.
    Port { service: String, target: String, published: u16, wanted: Vec<u16> },
    /// Another priority or weight than asked for.
    Preference { service: String, target: String, published: (u16, u16), wanted: (u16, u16) },
    /// Priorities or weights that are not all the same, though none were asked for.
    Unequal { service: String },
    /// A target without any address.
    NoAddress { target: String },
    /// An address where the proxy does not listen.
    Address { target: String, published: IpAddr },
    /// An address of the proxy that its name does not have.
    NotPublished { target: String, address: IpAddr },
    /// The proxy does not know that the pool's name means itself.
    Domain { file: PathBuf, domain: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { service, member, port } => write!(f, "{service}: no record for {member} port {port}"),
            Self::Extra { service, target, port } => {
                write!(f, "{service}: {target} port {port} is no proxy of this pool")
            }
            Self::Port { service, target, published, wanted } => {
                let wanted: Vec<String> = wanted.iter().map(u16::to_string).collect();
                write!(f, "{service}: {target} has port {published}, but the proxy ")?;
                match wanted.as_slice() {
                    [] => f.write_str("does not serve this"),
                    _ => write!(f, "listens on {}", wanted.join(" and ")),
                }
            }
            Self::Preference { service, target, published, wanted } => write!(
                f,
                "{service}: {target} has priority {} and weight {}, not {} and {}",
                published.0, published.1, wanted.0, wanted.1
            ),
            Self::Unequal { service } => {
                write!(f, "{service}: the priorities or weights differ, and --priority or --weight does not say so")
            }
            Self::NoAddress { target } => write!(f, "{target}: has no address"),
            Self::Address { target, published } => {
                write!(f, "{target}: has address {published}, where its proxy does not listen")
            }
            Self::NotPublished { target, address } => write!(f, "{target}: lacks its proxy's address {address}"),
            Self::Domain { file, domain } => write!(f, "{}: domains does not name {domain}", file.display()),
        }
    }
}

/// What the DNS is asked.
type Ask<'a> = dyn FnMut(&str, Kind) -> Result<Known, ZoneError> + 'a;

/// An SRV record with the addresses of its target.
struct Published {
    target: String,
    port: u16,
    preference: (u16, u16),
    addresses: Vec<IpAddr>,
}

impl Published {
    /// A member that was given no name is known by its address.
    fn is_of(&self, member: &Member) -> bool {
        if member.is_named {
            return self.target == member.target;
        }
        member.addresses.iter().any(|address| self.addresses.contains(address))
    }
}

/// Everything that does not agree, each once; `is_preferred`: priorities and weights were asked for.
pub(super) fn compare(
    domain: &str,
    members: &[Member],
    is_preferred: bool,
    ask: &mut Ask<'_>,
) -> Result<Vec<Difference>, ZoneError> {
    let mut comparison = Comparison { members, is_preferred, differences: Vec::new() };
    comparison.domains(domain);
    for (service, port) in SERVICES {
        let service = format!("{service}.{domain}");
        let published = published(&service, ask)?;
        for record in &published {
            comparison.record(&service, port, record);
        }
        comparison.service(&service, port, &published);
    }
    Ok(comparison.differences)
}

/// What is compared, and what has been found.
struct Comparison<'a> {
    members: &'a [Member],
    is_preferred: bool,
    differences: Vec<Difference>,
}

impl Comparison<'_> {
    fn tell(&mut self, difference: Difference) {
        if !self.differences.contains(&difference) {
            self.differences.push(difference);
        }
    }

    /// Whether each proxy knows that the pool's name means itself.
    fn domains(&mut self, domain: &str) {
        for member in self.members {
            if let (Some(domains), Some(file)) = (&member.domains, &member.file)
                && !domains.iter().any(|name| name.eq_ignore_ascii_case(domain))
            {
                self.tell(Difference::Domain { file: file.clone(), domain: domain.to_owned() });
            }
        }
    }

    /// One record of a service: whose it is, and what it says of that member.
    fn record(&mut self, service: &str, port: Port, record: &Published) {
        let Published { target, port: number, preference, addresses } = record;
        let (service, target) = (service.to_owned(), target.clone());
        if addresses.is_empty() {
            self.tell(Difference::NoAddress { target: target.clone() });
        }
        let of: Vec<&Member> = self.members.iter().filter(|member| record.is_of(member)).collect();
        if of.is_empty() {
            return self.tell(Difference::Extra { service, target, port: *number });
        }
        let Some(member) = of.iter().find(|member| member.port(port) == Some(*number)) else {
            let wanted = of.iter().filter_map(|member| member.port(port)).collect();
            return self.tell(Difference::Port { service, target, published: *number, wanted });
        };
        let wanted = (member.priority, member.weight);
        if self.is_preferred && *preference != wanted {
            self.tell(Difference::Preference { service, target: target.clone(), published: *preference, wanted });
        }
        let own: Vec<IpAddr> = of.iter().flat_map(|member| member.addresses.iter().copied()).collect();
        if own.is_empty() {
            return;
        }
        for &address in addresses.iter().filter(|address| !own.contains(address)) {
            self.tell(Difference::Address { target: target.clone(), published: address });
        }
        for &address in own.iter().filter(|address| !addresses.contains(address)) {
            self.tell(Difference::NotPublished { target: target.clone(), address });
        }
    }

    /// All records of a service: their preferences beside one another, and the members that none of them names.
    fn service(&mut self, service: &str, port: Port, published: &[Published]) {
        let is_unequal = published.iter().any(|record| record.preference != published[0].preference);
        if is_unequal && !self.is_preferred {
            self.tell(Difference::Unequal { service: service.to_owned() });
        }
        for member in self.members {
            let Some(number) = member.port(port) else { continue };
            if !published.iter().any(|record| record.is_of(member)) {
                let member = match (member.is_named, member.addresses.first()) {
                    (false, Some(address)) => address.to_string(),
                    _ => member.target.clone(),
                };
                self.tell(Difference::Missing { service: service.to_owned(), member, port: number });
            }
        }
    }
}

fn published(service: &str, ask: &mut Ask<'_>) -> Result<Vec<Published>, ZoneError> {
    let mut all = Vec::new();
    let Known::Services(services) = ask(service, Kind::Srv)? else { return Ok(all) };
    for Srv { priority, weight, port, target } in services {
        // RFC 2782: a target of "." says that the service is decidedly not offered.
        if target.is_empty() {
            continue;
        }
        let mut addresses = Vec::new();
        for kind in [Kind::A, Kind::Aaaa] {
            if let Known::Addresses(found) = ask(&target, kind)? {
                addresses.extend(found);
            }
        }
        all.push(Published { target: target.into(), port, preference: (priority, weight), addresses });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(target: &str, is_named: bool, address: &str) -> Member {
        Member {
            target: target.to_owned(),
            is_named,
            addresses: vec![address.parse().expect("an address")],
            sip_port: 0,
            tls_port: 5061,
            priority: 10,
            weight: 10,
            file: None,
            domains: None,
        }
    }

    /// The lines that a check prints for a zone: SRV records `weight port target` of both services, and addresses.
    fn lines(
        members: &[Member],
        is_preferred: bool,
        services: &[(u16, u16, &str)],
        hosts: &[(&str, &str)],
    ) -> Vec<String> {
        let mut ask = |name: &str, kind: Kind| {
            Ok(match kind {
                Kind::Srv if name.starts_with("_sips._tcp.") || name.starts_with("_sips._tls.") => {
                    let srv = |&(weight, port, target): &(u16, u16, &str)| Srv {
                        priority: 10,
                        weight,
                        port,
                        target: target.into(),
                    };
                    Known::Services(services.iter().map(srv).collect())
                }
                Kind::A => {
                    let own = hosts.iter().filter(|(host, _)| *host == name);
                    Known::Addresses(own.map(|(_, address)| address.parse().expect("an address")).collect())
                }
                _ => Known::NoRecords,
            })
        };
        let found = compare("example.com", members, is_preferred, &mut ask).expect("answers");
        // What is said of one service is said of the other too.
        found.iter().map(Difference::to_string).filter(|line| !line.starts_with("_sips._tls")).collect()
    }

    const HOSTS: [(&str, &str); 2] = [("one.example.com", "192.0.2.1"), ("two.example.com", "192.0.2.2")];

    #[test]
    fn a_zone_that_agrees_has_no_differences() {
        let named = [member("one.example.com", true, "192.0.2.1"), member("two.example.com", true, "192.0.2.2")];
        let services = [(10, 5061, "one.example.com"), (10, 5061, "two.example.com")];
        assert_eq!(lines(&named, true, &services, &HOSTS), [""; 0]);
        // Without names of their own, members are known by their addresses.
        let made_up =
            [member("sipproxy1.example.com", false, "192.0.2.1"), member("sipproxy2.example.com", false, "192.0.2.2")];
        assert_eq!(lines(&made_up, false, &services, &HOSTS), [""; 0]);
    }

    #[test]
    fn each_difference_is_told() {
        let members =
            [member("one.example.com", true, "192.0.2.1"), member("sipproxy2.example.com", false, "192.0.2.2")];
        let at = |services: &[(u16, u16, &str)], hosts: &[(&str, &str)]| lines(&members, false, services, hosts);
        assert_eq!(
            at(&[(10, 5061, "one.example.com")], &HOSTS),
            ["_sips._tcp.example.com: no record for 192.0.2.2 port 5061"]
        );
        assert_eq!(
            at(&[(10, 5062, "one.example.com"), (10, 5061, "two.example.com"), (10, 5061, "old.example.com")], &HOSTS),
            [
                "_sips._tcp.example.com: one.example.com has port 5062, but the proxy listens on 5061",
                "old.example.com: has no address",
                "_sips._tcp.example.com: old.example.com port 5061 is no proxy of this pool",
            ]
        );
        let moved = [("one.example.com", "192.0.2.9"), HOSTS[1]];
        assert_eq!(
            at(&[(10, 5061, "one.example.com"), (20, 5061, "two.example.com")], &moved),
            [
                "one.example.com: has address 192.0.2.9, where its proxy does not listen",
                "one.example.com: lacks its proxy's address 192.0.2.1",
                "_sips._tcp.example.com: the priorities or weights differ, and --priority or --weight does not say so",
            ]
        );
        assert_eq!(
            lines(&members, true, &[(10, 5061, "one.example.com"), (20, 5061, "two.example.com")], &HOSTS),
            ["_sips._tcp.example.com: two.example.com has priority 10 and weight 20, not 10 and 10"]
        );
        let elsewhere = Member {
            file: Some("p.toml".into()),
            domains: Some(vec!["other.org".to_owned()]),
            tls_port: 0,
            ..members[0].clone()
        };
        assert_eq!(
            lines(&[elsewhere], false, &[(10, 5061, "one.example.com")], &HOSTS),
            [
                "p.toml: domains does not name example.com",
                "_sips._tcp.example.com: one.example.com has port 5061, but the proxy does not serve this",
            ]
        );
    }
}
