//! What can be wrong with a configuration, one variant for each fault, and how it reads on one line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::value::CoresFault;
use crate::ids::Side;

/// A fault in a configuration file. Prints as `FILE:LINE: key: what was expected`, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name as it was given.
    pub file: String,
    /// From 1. For a key that is missing: the line of its table's header, or 1.
    pub line: u32,
    /// Dotted, such as `sipproxy.sticky`; empty when the text is not TOML at all.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text is not TOML.
    Syntax(Box<toml::de::Error>),
    /// A key or a table stands there a second time.
    KeyTwice,
    /// Not a key of the schema; with the one that was probably meant.
    UnknownKey(Option<String>),
    /// Cores that this process cannot have.
    Cores(CoresFault),
    /// A value of the wrong type or out of range.
    Expected(Expected),
    /// A key that its table must have.
    Missing(Expected),
    /// The feature that it asks for comes with a later release.
    NotYet,
    /// Every listening port is 0.
    NoListener,
    /// A key of `[sipproxy]` that `[[listener]]` stands in place of.
    ListenersInstead,
    /// More tables of a kind than there may be.
    TooMany(usize),
    /// No listener serves this side.
    NoListenerFor(Side),
    /// No `[[sip-server]]`.
    NoServer,
    /// The same name twice.
    NameTwice,
    /// The same address and port twice.
    AddressTwice(SocketAddr),
    /// `serving-sipserver` names no pair.
    ServingUnknown,
    /// Several pairs and no `serving-sipserver`.
    ServingNeeded,
    /// A key needs another, which is not set.
    Needs(Need),
    /// An address where only a name can stand.
    NameNeeded,
    /// The HTTP port on an address that is not loopback, without protection and without saying so.
    HttpExposed,
    /// `t2` is less than `t1`.
    TimerOrder,
    /// A SIP Server or another site's proxy at our own address and port.
    ServerIsSelf,
    /// A SIP Server that cannot be reached from our address.
    FamilyDiffers,
    /// A SIP Server behind the proxies of two sites.
    ServerOfTwoPeers(IpAddr),
    /// The same network twice.
    NetworkTwice,
    /// A SIP Server, another site's proxy or a trusted source in a load balancer's network.
    BalancerIsServer(IpAddr),
}

/// What a key needs to go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A TLS port without a certificate.
    Certificate,
    /// A certificate without its key.
    Key,
    /// A key without its certificate.
    CertificateOfKey,
    /// TLS towards a server that nothing could verify.
    Roots,
    /// Client certificates that nothing could verify.
    MutualRoots,
    /// What certificates of clients must cover, while nobody asks for them.
    Mutual,
    /// HTTPS without a certificate.
    HttpCertificate,
    /// The unspecified address cannot be written into a Via.
    External,
    /// An unspecified address of a listener needs `advertise`.
    Advertise,
    /// The internal protocol needs a port that is off.
    Port,
}

/// What a key's value should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// true or false.
    Boolean,
    /// A file's path or nothing.
    Path,
    /// `[table]`.
    Table,
    /// `[[table]]`.
    Tables,
    /// A whole number.
    Integer {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// Seconds, with fractions.
    Seconds {
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// One of some words.
    OneOf(&'static [&'static str]),
    /// An IP address.
    Address,
    /// An IP address, a host name or nothing.
    Host,
    /// A host name or IP address that may not be left out.
    HostRequired,
    /// A list of host names.
    Hosts,
    /// A list of servers' addresses, not empty.
    Addresses,
    /// A port, 0 for off.
    Port,
    /// Numbers of cores.
    Cores,
    /// A SIP Server.
    Server,
    /// A network.
    Network,
    /// A list of networks.
    Networks,
    /// A list of addresses with ports.
    Sockets,
    /// An address with a port, or nothing.
    Socket,
    /// The name of a pair or of a site.
    Name,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("true or false"),
            Self::Path => f.write_str("a file's path, or \"\" for none"),
            Self::Table => f.write_str("a [table]"),
            Self::Tables => f.write_str("one or more [[tables]]"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Seconds { min, max } => write!(f, "seconds from {min} to {max}"),
            Self::OneOf(words) => {
                for (at, word) in words.iter().enumerate() {
                    let joint = match at {
                        0 => "",
                        at if at + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{joint}\"{word}\"")?;
                }
                Ok(())
            }
            Self::Address => f.write_str("an IPv4 or IPv6 address"),
            Self::Host => f.write_str("an address or a host name, or \"\" for none"),
            Self::HostRequired => f.write_str("an address or a host name"),
            Self::Hosts => f.write_str("a list of host names or addresses"),
            Self::Addresses => f.write_str("a list of addresses, with at least one"),
            Self::Port => f.write_str("a port from 1 to 65535, or 0 for off"),
            Self::Cores => f.write_str("\"all\" or numbers of cores such as \"0-3,6\""),
            Self::Server => f.write_str("an address with its port such as \"10.0.0.1:5060\", or a name to resolve"),
            Self::Network => f.write_str("a network such as \"10.1.0.0/16\", without host bits, or an address"),
            Self::Networks => {
                f.write_str("a list of addresses and of networks such as \"10.1.0.0/16\", without host bits")
            }
            Self::Socket => f.write_str("an address with a port such as \"192.0.2.9:9060\", or \"\""),
            Self::Sockets => f.write_str("a list of addresses with ports such as \"127.0.0.1:53\""),
            Self::Name => f.write_str("a name of 1 to 64 letters, digits, '.', '_' or '-'"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(fault) => {
                write!(f, "not TOML: {}", fault.message().lines().next().unwrap_or_default())
            }
            Self::KeyTwice => f.write_str("expected to be given once"),
            Self::UnknownKey(None) => f.write_str("unknown key"),
            Self::UnknownKey(Some(meant)) => write!(f, "unknown key, did you mean {meant}?"),
            Self::Cores(fault) => fault.fmt(f),
            Self::Expected(what) => write!(f, "expected {what}"),
            Self::Missing(what) => write!(f, "missing, expected {what}"),
            Self::NotYet => f.write_str("not available in this release"),
            Self::NoListener => f.write_str("expected a port, as sip-port and tls-port are both 0"),
            Self::ListenersInstead => f.write_str("expected to stand in [[listener]], as there is one"),
            Self::TooMany(max) => write!(f, "expected at most {max} of these"),
            Self::NoListenerFor(Side::Server) => {
                f.write_str("expected \"server\" or \"both\" for one listener at least")
            }
            Self::NoListenerFor(Side::Endpoint) => {
                f.write_str("expected \"endpoint\" or \"both\" for one listener at least")
            }
            Self::NoServer => f.write_str("missing, expected at least one [[sip-server]]"),
            Self::NameTwice => f.write_str("expected a name that is not used before"),
            Self::AddressTwice(address) => {
                write!(f, "expected an address and port that is not used before, not {address}")
            }
            Self::ServingUnknown => f.write_str("expected the name of a [[sip-server]]"),
            Self::ServingNeeded => f.write_str("expected the name of a [[sip-server]], as there are several"),
            Self::Needs(need) => need.fmt(f),
            Self::NameNeeded => f.write_str("expected a host name: no client asks for an address"),
            Self::HttpExposed => {
                f.write_str("expected a loopback address, or http-tls and http-token-file, or http-in-the-clear = true")
            }
            Self::TimerOrder => f.write_str("expected at least timers.t1"),
            Self::ServerIsSelf => f.write_str("expected another address and port than our own"),
            Self::FamilyDiffers => {
                f.write_str("expected an address of the family (IPv4 or IPv6) of a listener that faces servers")
            }
            Self::ServerOfTwoPeers(address) => {
                write!(f, "expected addresses that no other [[peer-proxy]] has, not {address}")
            }
            Self::BalancerIsServer(address) => write!(
                f,
                "expected false, or a network without SIP Servers, sites' proxies and trusted-sources, not with {address}"
            ),
            Self::NetworkTwice => f.write_str("expected a network that is not used before"),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "expected 0 (off), or security.certificate and security.certificate-key to go with it",
            Self::Key => "expected certificate-key to go with it",
            Self::CertificateOfKey => "expected certificate to go with it",
            Self::Roots => "tls, expected security.trusted-ca or security.system-roots = true to go with it",
            Self::MutualRoots => "1, expected security.trusted-ca or security.system-roots = true to go with it",
            Self::Mutual => "expected \"off\", or tls-mutual = 1 for endpoints to go with it",
            Self::HttpCertificate => {
                "expected false, or security.certificate and security.certificate-key to go with it"
            }
            Self::External => "expected an address that peers can reach, or external-address to go with it",
            Self::Advertise => "expected an address that peers can reach, or advertise to go with it",
            Self::Port => "expected a transport that is on: udp and tcp need sip-port, tls needs tls-port",
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.fault.fmt(f)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Syntax(fault) => Some(fault.as_ref()),
            _ => None,
        }
    }
}
