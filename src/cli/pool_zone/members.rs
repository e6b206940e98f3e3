//! The members of a pool, from the words of the command line and the proxies' configuration files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Line, Port, ZoneError};
use crate::cli::file::load;
use crate::config::{Config, Host, Listener};
use crate::ids::Side;

const PREFERENCE: u16 = 10;

/// A place where endpoints reach a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The name that SRV records point to.
    pub target: String,
    /// Whether `target` was given; else it was made up here, and the DNS may have another.
    pub is_named: bool,
    /// Empty: the name has records of its own.
    pub addresses: Vec<IpAddr>,
    /// 0 = off.
    pub sip_port: u16,
    pub tls_port: u16,
    pub priority: u16,
    pub weight: u16,
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// The names that the proxy goes by; `None`: not known.
    pub domains: Option<Vec<String>>,
}

impl Member {
    /// `None` when it is off.
    pub(super) fn port(&self, port: Port) -> Option<u16> {
        let number = match port {
            Port::Sip => self.sip_port,
            Port::Tls => self.tls_port,
        };
        (number != 0).then_some(number)
    }
}

/// A host name in lower case; `None` when it is none.
pub(super) fn canonical(text: &str) -> Option<String> {
    match Host::parse(text.trim_end_matches('.'))? {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
    }
}

/// A name without a dot is one in the domain.
pub(super) fn complete(name: &str, domain: &str) -> String {
    if name.contains('.') { name.trim_end_matches('.').to_owned() } else { format!("{name}.{domain}") }
}

/// Reads every member of the line.
pub(super) fn read(line: &Line, domain: &str) -> Result<Vec<Member>, ZoneError> {
    let mut members: Vec<Member> = Vec::new();
    for (at, word) in line.members.iter().enumerate() {
        let refuse = || ZoneError::Member(word.clone());
        let (name, source) = word.split_once('=').map_or((None, word.as_str()), |(name, source)| (Some(name), source));
        let name = match name {
            Some(name) => Some(complete(&canonical(name).ok_or_else(refuse)?, domain)),
            None => None,
        };
        let addresses: Option<Vec<IpAddr>> = source.split(',').map(|address| address.parse().ok()).collect();
        match (name, addresses) {
            (Some(target), Some(addresses)) => members.push(from_words(line, target, addresses)),
            (None, None) if !Path::new(source).is_file() && !is_meant_as_file(source) => {
                let target = canonical(source).ok_or_else(refuse)?;
                members.push(from_words(line, complete(&target, domain), Vec::new()));
            }
            (name, None) if Path::new(source).is_file() => {
                let path = Path::new(source);
                let made_up = format!("sipproxy{}.{domain}", at + 1);
                members.extend(from_file(&load(path).map_err(ZoneError::File)?, path, name, &made_up)?);
            }
            _ => return Err(refuse()),
        }
    }
    Ok(members)
}

/// A file that is not there must not become a name that phones are sent to.
fn is_meant_as_file(word: &str) -> bool {
    word.contains('/') || Path::new(word).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

fn from_words(line: &Line, target: String, addresses: Vec<IpAddr>) -> Member {
    Member {
        target,
        is_named: true,
        addresses,
        sip_port: line.sip_port,
        tls_port: line.tls_port,
        priority: PREFERENCE,
        weight: PREFERENCE,
        file: None,
        domains: None,
    }
}

/// One member for each listener of the endpoints' side; those that share name and ports are one.
fn from_file(config: &Config, path: &Path, name: Option<String>, made_up: &str) -> Result<Vec<Member>, ZoneError> {
    let mut members: Vec<Member> = Vec::new();
    for listener in config.listeners.iter().filter(|listener| listener.side != Some(Side::Server)) {
        let Listener { address, advertise, sip_port, tls_port, .. } = listener;
        let (advertised, addresses) = match advertise {
            Some(Host::Ip(ip)) => (None, vec![*ip]),
            Some(Host::Name(name)) if address.is_unspecified() => (Some(name.clone()), Vec::new()),
            Some(Host::Name(name)) => (Some(name.clone()), vec![*address]),
            None if address.is_unspecified() => return Err(ZoneError::Unspecified(path.to_owned())),
            None => (None, vec![*address]),
        };
        let given = name.clone().or(advertised);
        let member = Member {
            is_named: given.is_some(),
            target: given.unwrap_or_else(|| made_up.to_owned()),
            addresses,
            sip_port: *sip_port,
            tls_port: *tls_port,
            priority: PREFERENCE,
            weight: PREFERENCE,
            file: Some(path.to_owned()),
            domains: Some(config.sipproxy.domains.clone()),
        };
        let same = |other: &&mut Member| {
            (&other.target, other.sip_port, other.tls_port) == (&member.target, member.sip_port, member.tls_port)
        };
        match members.iter_mut().find(same) {
            Some(known) => known.addresses.extend(member.addresses),
            None => members.push(member),
        }
    }
    if members.is_empty() {
        return Err(ZoneError::NoListener(path.to_owned()));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(sipproxy: &str, more: &str, name: Option<&str>) -> Result<Vec<Member>, ZoneError> {
        let text = format!(
            "[sipproxy]\n{sipproxy}\ndomains = [\"example.com\"]\n{more}\n[[sip-server]]\nname = \"s\"\n\
             primary = \"127.0.0.1:7000\"\n"
        );
        let config = Config::parse(&text, "test.toml").expect("a configuration");
        from_file(&config, Path::new("test.toml"), name.map(str::to_owned), "sipproxy1.example.com")
    }

    #[test]
    fn what_a_proxy_is_reached_by_is_read_from_its_file() {
        let plain = members("sip-address = \"192.0.2.1\"\ntls-port = 0", "", None).expect("members");
        assert_eq!((plain[0].target.as_str(), plain[0].is_named), ("sipproxy1.example.com", false));
        assert_eq!(plain[0].addresses, ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
        assert_eq!((plain[0].port(Port::Sip), plain[0].port(Port::Tls)), (Some(5060), None));

        let named = "sip-address = \"0.0.0.0\"\ntls-port = 0\nexternal-address = \"p1.example.com\"";
        let named = members(named, "", None).expect("members");
        assert_eq!((named[0].target.as_str(), named[0].is_named), ("p1.example.com", true));
        assert_eq!(named[0].addresses, [] as [IpAddr; 0]);

        let nowhere =
            members("sip-address = \"0.0.0.0\"\ntls-port = 0\nexternal-address = \"192.0.2.7\"", "", Some("a"));
        assert_eq!(nowhere.expect("members")[0].addresses, ["192.0.2.7".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn only_listeners_for_endpoints_count_and_those_of_one_name_are_one_member() {
        let listener = |side: &str, address: &str| {
            format!(
                "[[listener]]\nside = \"{side}\"\naddress = \"{address}\"\nsip-port = 5070\ntls-port = 0\nadvertise = \"p.example.com\"\n"
            )
        };
        let more =
            listener("endpoint", "192.0.2.1") + &listener("endpoint", "2001:db8::1") + &listener("server", "10.0.0.1");
        let members = members("http-port = 0", &more, None).expect("members");
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].sip_port, members[0].addresses.len()), (5070, 2));
    }
}
