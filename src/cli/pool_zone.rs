//! `hawser pool-zone`: the DNS records of a pool of proxies, and whether what is published agrees with them
//! (RFC 3263 §4, RFC 2782).
//!
//! Owns: the arguments of this command and the records that follow from them. Must not touch: the shards' resolver
//! (`dns::Dns`), which has a cache and finds servers, not records; this command asks as a phone would. Left out on
//! purpose: NAPTR, which says nothing here that the SRV names do not, and DNSSEC, which is the name server's own
//! business.

mod check;
mod lookup;
mod members;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::file::FileError;
use crate::server::resolvers::{self, RESOLV_CONF};
use members::Member;

/// What SRV records are published under, before the domain: for sips URIs as RFC 3263 §4.1 says it, and as Genesys
/// SIP Proxy's deployment guide does; for sip URIs over TCP and UDP.
const SERVICES: [(&str, Port); 4] =
    [("_sips._tcp", Port::Tls), ("_sips._tls", Port::Tls), ("_sip._tcp", Port::Sip), ("_sip._udp", Port::Sip)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Sip,
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A zone file, as BIND and Knot read it.
    Zone,
    /// Lines for dnsmasq.conf.
    Dnsmasq,
}

/// A number for one member (`NAME=NUMBER`) or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Preference {
    name: Option<String>,
    number: u16,
}

impl FromStr for Preference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once('=').map_or((None, text), |(name, number)| (Some(name), number));
        let number = number.parse().map_err(|_| format!("{text}: expected NUMBER or NAME=NUMBER, up to 65535"))?;
        Ok(Self { name: name.map(str::to_ascii_lowercase), number })
    }
}

/// The arguments.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct Line {
    /// The name that phones are given, such as example.com.
    #[arg(long, value_name = "NAME")]
    domain: String,
    /// Each proxy: its configuration file, NAME=FILE, NAME=ADDRESS,…, or a NAME that has its own records. A
    /// name without a dot is one in the domain.
    #[arg(required = true, value_name = "MEMBER")]
    members: Vec<String>,
    /// Of members that are not given by a file: for UDP and TCP; 0 = off.
    #[arg(long, value_name = "PORT", default_value_t = 5060)]
    sip_port: u16,
    /// Of members that are not given by a file; 0 = off.
    #[arg(long, value_name = "PORT", default_value_t = 5061)]
    tls_port: u16,
    /// SRV priority, the lowest first, for all or for one; may be repeated (default 10).
    #[arg(long, value_name = "[NAME=]NUMBER")]
    priority: Vec<Preference>,
    /// SRV weight among those of one priority, for all or for one; may be repeated (default 10).
    #[arg(long, value_name = "[NAME=]NUMBER")]
    weight: Vec<Preference>,
    /// Seconds that resolvers may keep the records.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    ttl: u32,
    #[arg(long, value_enum, default_value_t = Format::Zone)]
    format: Format,
    /// Print nothing, but ask the DNS and tell what does not agree.
    #[arg(long)]
    check: bool,
    /// Ask this resolver in place of the system's.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "check")]
    resolver: Option<SocketAddr>,
}

/// Why there are no records, or no answer.
#[derive(Debug)]
pub(super) enum ZoneError {
    /// A member is neither a name, nor an address, nor a file.
    Member(String),
    /// The domain is no host name.
    Domain(String),
    /// A member's file.
    File(FileError),
    /// A member listens on all addresses and does not say by which it is reached.
    Unspecified(PathBuf),
    /// A member has no listener for endpoints.
    NoListener(PathBuf),
    /// A preference for a member that there is not.
    NoSuchMember(String),
    /// The system names no resolver, or says nothing at all.
    NoResolver(Option<io::Error>),
    /// No resolver answered a question.
    Lookup(String, lookup::LookupFault),
    /// What is published does not agree with the proxies.
    Differs(Vec<check::Difference>),
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(text) => {
                write!(f, "{text}: expected a configuration file, NAME=FILE, NAME=ADDRESS,… or a host name")
            }
            Self::Domain(text) => write!(f, "--domain {text}: expected a host name"),
            Self::File(fault) => fault.fmt(f),
            Self::Unspecified(path) => write!(
                f,
                "{}: listens on all addresses; give NAME=ADDRESS, or set external-address (or advertise)",
                path.display()
            ),
            Self::NoListener(path) => write!(f, "{}: has no listener for endpoints", path.display()),
            Self::NoSuchMember(name) => write!(f, "{name}: a preference for no member of this pool"),
            Self::NoResolver(None) => write!(f, "{RESOLV_CONF}: names no resolver"),
            Self::NoResolver(Some(fault)) => write!(f, "{RESOLV_CONF}: cannot be read: {fault}"),
            Self::Lookup(name, fault) => write!(f, "{name}: cannot be looked up: {fault}"),
            Self::Differs(differences) => {
                for (at, difference) in differences.iter().enumerate() {
                    if at > 0 {
                        f.write_str("\n")?;
                    }
                    difference.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

/// The records in the form that was asked for, or what the check has found to agree.
///
/// # Errors
/// A member that cannot be understood, no answer, or differences.
pub(super) fn run(line: &Line) -> Result<String, ZoneError> {
    let domain = members::canonical(&line.domain).ok_or_else(|| ZoneError::Domain(line.domain.clone()))?;
    let mut members = members::read(line, &domain)?;
    prefer(line, &domain, &mut members)?;
    if !line.check {
        return Ok(match line.format {
            Format::Zone => zone_file(&domain, &members, line.ttl),
            Format::Dnsmasq => dnsmasq_lines(&domain, &members, line.ttl),
        });
    }
    let resolvers = match line.resolver {
        Some(resolver) => vec![resolver],
        None => match resolvers::system() {
            Ok(resolvers) if !resolvers.is_empty() => resolvers,
            none => return Err(ZoneError::NoResolver(none.err())),
        },
    };
    let is_preferred = !(line.priority.is_empty() && line.weight.is_empty());
    let mut ask = |name: &str, kind| {
        lookup::ask(&resolvers, name, kind).map_err(|fault| ZoneError::Lookup(name.to_owned(), fault))
    };
    let differences = check::compare(&domain, &members, is_preferred, &mut ask)?;
    if differences.is_empty() {
        return Ok(format!("{domain}: the DNS agrees with its {} proxies\n", members.len()));
    }
    Err(ZoneError::Differs(differences))
}

/// Gives the members their priorities and weights.
fn prefer(line: &Line, domain: &str, members: &mut [Member]) -> Result<(), ZoneError> {
    for (preferences, is_weight) in [(&line.priority, false), (&line.weight, true)] {
        for Preference { name, number } in preferences {
            let name = name.as_deref().map(|name| members::complete(name, domain));
            let mut is_known = false;
            for member in members.iter_mut().filter(|member| name.as_ref().is_none_or(|name| *name == member.target)) {
                *(if is_weight { &mut member.weight } else { &mut member.priority }) = *number;
                is_known = true;
            }
            if !is_known {
                return Err(ZoneError::NoSuchMember(name.unwrap_or_default()));
            }
        }
    }
    Ok(())
}

/// Every SRV record: the name that it stands under, and the member and port that it names.
fn services<'a>(domain: &'a str, members: &'a [Member]) -> impl Iterator<Item = (String, &'a Member, u16)> {
    SERVICES.into_iter().flat_map(move |(service, port)| {
        let with_port = members.iter().filter_map(move |member| Some((member, member.port(port)?)));
        with_port.map(move |(member, port)| (format!("{service}.{domain}"), member, port))
    })
}

/// The addresses of each target, each once.
fn addresses(members: &[Member]) -> BTreeMap<&str, Vec<IpAddr>> {
    let mut all: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for member in members {
        let own = all.entry(&member.target).or_default();
        own.extend(&member.addresses);
        own.sort_unstable();
        own.dedup();
    }
    all
}

fn zone_file(domain: &str, members: &[Member], ttl: u32) -> String {
    let mut out = String::new();
    let mut put = |text: fmt::Arguments<'_>| out.write_fmt(text).expect("a String takes everything");
    for (name, member, port) in services(domain, members) {
        let Member { priority, weight, target, .. } = member;
        put(format_args!("{name}. {ttl} IN SRV {priority} {weight} {port} {target}.\n"));
    }
    for (target, addresses) in addresses(members) {
        let is_inside = target == domain || target.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        for address in addresses {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            // A zone holds no records of another one.
            let mark = if is_inside { "" } else { "; in its own zone: " };
            put(format_args!("{mark}{target}. {ttl} IN {kind} {address}\n"));
        }
    }
    out
}

fn dnsmasq_lines(domain: &str, members: &[Member], ttl: u32) -> String {
    let mut out = String::new();
    let mut put = |text: fmt::Arguments<'_>| out.write_fmt(text).expect("a String takes everything");
    for (name, member, port) in services(domain, members) {
        let Member { priority, weight, target, .. } = member;
        put(format_args!("srv-host={name},{target},{port},{priority},{weight}\n"));
    }
    for (target, addresses) in addresses(members) {
        if !addresses.is_empty() {
            // Else the family that a target lacks is asked for upstream, where nobody knows the name at all.
            put(format_args!("local=/{target}/\n"));
        }
        for address in addresses {
            put(format_args!("host-record={target},{address},{ttl}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Shell {
        #[command(flatten)]
        line: Line,
    }

    fn records(arguments: &str) -> String {
        let line = Shell::try_parse_from(arguments.split(' ')).expect("arguments").line;
        run(&line).expect("records")
    }

    #[test]
    fn a_zone_has_both_forms_for_sips_and_every_address() {
        let text = records(
            "pool-zone --domain Example.com --ttl 60 --sip-port 0 --weight one=30 --priority 20 \
             one=192.0.2.1,2001:db8::1 two.other.org=192.0.2.2 three.example.com",
        );
        let expected = "\
_sips._tcp.example.com. 60 IN SRV 20 30 5061 one.example.com.
_sips._tcp.example.com. 60 IN SRV 20 10 5061 two.other.org.
_sips._tcp.example.com. 60 IN SRV 20 10 5061 three.example.com.
_sips._tls.example.com. 60 IN SRV 20 30 5061 one.example.com.
_sips._tls.example.com. 60 IN SRV 20 10 5061 two.other.org.
_sips._tls.example.com. 60 IN SRV 20 10 5061 three.example.com.
one.example.com. 60 IN A 192.0.2.1
one.example.com. 60 IN AAAA 2001:db8::1
; in its own zone: two.other.org. 60 IN A 192.0.2.2
";
        assert_eq!(text, expected);
    }

    #[test]
    fn dnsmasq_gets_lines_of_its_own() {
        let text = records("pool-zone --domain example.com --format dnsmasq --tls-port 0 one=192.0.2.1");
        let expected = "\
srv-host=_sip._tcp.example.com,one.example.com,5060,10,10
srv-host=_sip._udp.example.com,one.example.com,5060,10,10
local=/one.example.com/
host-record=one.example.com,192.0.2.1,300
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (arguments, expected) in [
            ("pool-zone --domain a..b x=192.0.2.1", "--domain a..b: expected a host name"),
            ("pool-zone --domain a.b --weight y=3 x=192.0.2.1", "y.a.b: a preference for no member of this pool"),
            (
                "pool-zone --domain a.b misspelt.toml",
                "misspelt.toml: expected a configuration file, NAME=FILE, NAME=ADDRESS,… or a host name",
            ),
            (
                "pool-zone --domain a.b x=192.0.2.1.1",
                "x=192.0.2.1.1: expected a configuration file, NAME=FILE, NAME=ADDRESS,… or a host name",
            ),
        ] {
            let line = Shell::try_parse_from(arguments.split(' ')).expect("arguments").line;
            assert_eq!(run(&line).expect_err(arguments).to_string(), expected);
        }
        assert!(Shell::try_parse_from("pool-zone --domain a.b --weight x=70000 x".split(' ')).is_err());
        assert!(Shell::try_parse_from("pool-zone --domain a.b --resolver 127.0.0.1:53 x".split(' ')).is_err());
    }
}
