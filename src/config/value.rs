//! The values that settings are made of, each parsed from its text and printed as it is written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::limits::SHARDS_MAX;

/// How far a peer's certificate is checked. The chain always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Chain and name (RFC 5922).
    Name,
    /// The chain only.
    Chain,
}

/// Which extended key usages a client's certificate may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEku {
    /// clientAuth, or no EKU at all.
    Strict,
    /// serverAuth too.
    Any,
}

/// How much of an address of record a client's certificate must cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAor {
    /// Nothing: who the server takes for whom is its own affair.
    Off,
    /// The certificate names the AOR's domain, or its user.
    Domain,
    /// The certificate names the AOR's user.
    User,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the values of the setting `log.level`")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What a collector is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HepWhat {
    /// The messages of those who are traced.
    Traced,
    /// All messages.
    All,
}

/// A value that is written as one of some words.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// The words and what they stand for, in the same order.
    const WORDS: &'static [&'static str];
    /// What they stand for.
    const VALUES: &'static [Self];

    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().position(|w| *w == word).map(|at| Self::VALUES[at])
    }

    fn word(self) -> &'static str {
        // Each value stands in VALUES: the test `every_word_comes_back` holds it.
        Self::VALUES.iter().position(|v| *v == self).map_or("", |at| Self::WORDS[at])
    }
}

macro_rules! words {
    ($($type:ty { $($word:literal => $value:expr),+ $(,)? })+) => {$(
        impl Words for $type {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const VALUES: &'static [Self] = &[$($value),+];
        }
    )+};
}

/// The macro gives the type's own words to `Display` as well.
macro_rules! display_words {
    ($($type:ty),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    )+};
}

words! {
    Sticky { "path" => Self::Path, "contact" => Self::Contact, "aor" => Self::Aor }
    DriverChoice { "auto" => Self::Auto, "io_uring" => Self::IoUring, "epoll" => Self::Epoll }
    UdpOversize { "tcp" => Self::Tcp, "udp" => Self::Udp, "reject" => Self::Reject }
    Verify { "name" => Self::Name, "chain" => Self::Chain }
    ClientEku { "strict" => Self::Strict, "any" => Self::Any }
    ClientAor { "off" => Self::Off, "domain" => Self::Domain, "user" => Self::User }
    LogLevel {
        "off" => Self::Off, "error" => Self::Error, "warn" => Self::Warn,
        "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace,
    }
    LogFormat { "text" => Self::Text, "json" => Self::Json }
    HepWhat { "traced" => Self::Traced, "all" => Self::All }
    crate::ids::Transport { "udp" => Self::Udp, "tcp" => Self::Tcp, "tls" => Self::Tls }
}
display_words!(DriverChoice, Sticky, UdpOversize, Verify, ClientEku, ClientAor, LogLevel, LogFormat, HepWhat);

/// How the SIP Server finds the way back to a phone (DESIGN.md, What it does on the wire, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the values of the setting `sticky`")]
pub enum Sticky {
    Path,
    Contact,
    Aor,
}

/// What the shards wait with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the system allows it, else epoll.
    Auto,
    /// By glommio, or no start.
    IoUring,
    /// Whether io_uring is there or not.
    Epoll,
}

/// What becomes of a request that would pass 1,300 bytes over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the values of the setting `udp-oversize-action`")]
pub enum UdpOversize {
    Tcp,
    Udp,
    Reject,
}

/// An address, or a name to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name, in lower case.
    Name(String),
}

impl Host {
    /// The longest host name (RFC 1035 §2.3.4, in text).
    const NAME_LEN_MAX: usize = 253;
    const LABEL_LEN_MAX: usize = 63;

    /// An address, with or without brackets when it is IPv6, or a host name (RFC 1123 §2.1).
    /// `None` for anything else; digits and dots that are no address are no name either.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return inner.parse().ok().map(|ip| Self::Ip(IpAddr::V6(ip)));
        }
        if let Ok(ip) = text.parse() {
            return Some(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label_ok = |label: &str| {
            (1..=Self::LABEL_LEN_MAX).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let top = name.rsplit('.').next()?;
        (name.len() <= Self::NAME_LEN_MAX
            && name.split('.').all(label_ok)
            && top.starts_with(|c: char| c.is_ascii_alphabetic()))
        .then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl Host {
    /// Whether somebody can be sent there: an unspecified or multicast address is nobody's.
    pub(super) fn can_be_peer(&self) -> bool {
        match self {
            Self::Ip(ip) => can_be_peer(*ip),
            Self::Name(_) => true,
        }
    }
}

/// As a URI's host part has it: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Where a SIP Server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// An address and its port.
    Address(SocketAddr),
    /// A name, and a port if one was given (RFC 3263 §4.2: with a port no SRV is asked for).
    Name(String, Option<u16>),
}

impl ServerAddress {
    /// The numeric address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(..) => None,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0 && can_be_peer(address.ip())).then_some(Self::Address(address));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        match Host::parse(host)? {
            // The port of an address has no default here: 5060 would be a guess at another's configuration.
            Host::Ip(_) => None,
            Host::Name(name) => Some(Self::Name(name, port)),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, Some(port)) => write!(f, "{name}:{port}"),
            Self::Name(name, None) => f.write_str(name),
        }
    }
}

fn can_be_peer(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast || is_mapped(ip))
}

/// `::ffff:10.0.0.1`: IPv4 in the clothes of IPv6, which sockets that take IPv6 only can neither bind nor reach.
pub(super) fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// With no bit set behind the prefix.
    pub address: IpAddr,
    /// 1–32 or 1–128. Never 0, which would mean everybody.
    pub prefix_len: u8,
}

impl Network {
    /// Whether an address is inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix_len)
            }
            _ => false,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let prefix_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = match prefix {
            // u8::from_str would take a plus sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => prefix_max,
        };
        let bits_unused = match address {
            IpAddr::V4(ip) => ip.to_bits().trailing_zeros(),
            IpAddr::V6(ip) => ip.to_bits().trailing_zeros(),
        };
        let fits = (1..=prefix_max).contains(&prefix_len) && u32::from(prefix_max - prefix_len) <= bits_unused;
        fits.then_some(Self { address, prefix_len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Which cores get a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Every core that the process may run on, [`SHARDS_MAX`] at most.
    All,
    /// Cores by their numbers, ascending, each once; between 1 and [`SHARDS_MAX`] of them.
    List(Vec<usize>),
}

/// What is wrong with a list of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoresFault {
    /// Not `all`, nor numbers and ranges joined by commas.
    Syntax,
    /// More than [`SHARDS_MAX`].
    TooMany,
    /// This machine has no such core, or the process may not run on it.
    Absent(usize),
    /// The process may run on no core at all.
    None,
}

impl Cores {
    /// The cores to run on, of those that are there.
    ///
    /// # Errors
    /// [`CoresFault::Absent`] for a core that is not in `available`; [`CoresFault::None`] when that is empty.
    pub fn resolve(&self, available: &[usize]) -> Result<Vec<usize>, CoresFault> {
        match self {
            Self::All => {
                let mut cores = available.to_vec();
                cores.sort_unstable();
                cores.dedup();
                cores.truncate(SHARDS_MAX);
                if cores.is_empty() { Err(CoresFault::None) } else { Ok(cores) }
            }
            Self::List(cores) => match cores.iter().find(|core| !available.contains(core)) {
                Some(absent) => Err(CoresFault::Absent(*absent)),
                None => Ok(cores.clone()),
            },
        }
    }
}

impl FromStr for Cores {
    type Err = CoresFault;

    fn from_str(text: &str) -> Result<Self, CoresFault> {
        /// No machine has a core of so high a number; a bound for what a range may unfold to.
        const CORE_MAX: usize = 65_535;
        let number = |digits: &str| {
            let digits = digits.trim();
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<usize>().ok()).flatten().filter(|n| *n <= CORE_MAX).ok_or(CoresFault::Syntax)
        };
        if text.trim() == "all" {
            return Ok(Self::All);
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(CoresFault::Syntax);
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        if cores.len() > SHARDS_MAX { Err(CoresFault::TooMany) } else { Ok(Self::List(cores)) }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::List(cores) => {
                for (at, core) in cores.iter().enumerate() {
                    write!(f, "{}{core}", if at == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for CoresFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("expected \"all\" or numbers of cores such as \"0-3,6\""),
            Self::TooMany => write!(f, "expected at most {SHARDS_MAX} cores"),
            Self::Absent(core) => write!(f, "expected cores that this process may run on, not {core}"),
            Self::None => f.write_str("expected at least one core that this process may run on"),
        }
    }
}

impl std::error::Error for CoresFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back() {
        fn back<T: Words + fmt::Debug>() {
            assert_eq!(T::WORDS.len(), T::VALUES.len());
            for (word, value) in T::WORDS.iter().zip(T::VALUES) {
                assert_eq!(T::from_word(word), Some(*value));
                assert_eq!(value.word(), *word);
            }
        }
        back::<Sticky>();
        back::<DriverChoice>();
        back::<UdpOversize>();
        back::<Verify>();
        back::<ClientEku>();
        back::<LogLevel>();
        back::<crate::ids::Transport>();
        assert_eq!(Sticky::from_word("Path"), None);
    }

    #[test]
    fn cores_are_numbers_and_ranges() {
        let list = |cores: &[usize]| Ok(Cores::List(cores.to_vec()));
        assert_eq!("all".parse(), Ok(Cores::All));
        assert_eq!("0".parse(), list(&[0]));
        assert_eq!("0-3,6".parse(), list(&[0, 1, 2, 3, 6]));
        assert_eq!(" 1 , 0 - 2 ".parse(), list(&[0, 1, 2]));
        assert_eq!("5-5".parse(), list(&[5]));
        assert_eq!("0-63".parse(), list(&(0..64).collect::<Vec<_>>()));
        assert_eq!("0-64".parse::<Cores>(), Err(CoresFault::TooMany));
        for bad in ["", "ALL", "all,1", "3-1", "1,", ",1", "-1", "1-", "1-2-3", "+1", "0x1", "1 2", "65536", "0-65536"]
        {
            assert_eq!(bad.parse::<Cores>(), Err(CoresFault::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn cores_resolve_against_what_is_there() {
        assert_eq!(Cores::All.resolve(&[3, 1, 1]), Ok(vec![1, 3]));
        assert_eq!(Cores::All.resolve(&[]), Err(CoresFault::None));
        assert_eq!(Cores::List(vec![1]).resolve(&[0, 1]), Ok(vec![1]));
        assert_eq!(Cores::List(vec![1, 2]).resolve(&[0, 1]), Err(CoresFault::Absent(2)));
        let many: Vec<usize> = (0..SHARDS_MAX + 1).collect();
        assert_eq!(Cores::All.resolve(&many).map(|cores| cores.len()), Ok(SHARDS_MAX));
    }

    #[test]
    fn a_network_has_a_prefix_and_no_host_bits() {
        let parse = |text: &str| Network::parse(text).map(|n| n.to_string());
        assert_eq!(parse("10.0.0.1").as_deref(), Some("10.0.0.1/32"));
        assert_eq!(parse("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(parse("128.0.0.0/1").as_deref(), Some("128.0.0.0/1"));
        assert_eq!(parse("::1").as_deref(), Some("::1/128"));
        assert_eq!(parse("2001:db8::/32").as_deref(), Some("2001:db8::/32"));
        for bad in ["", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/+8", "10/8", "a"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_only() {
        let inside = |net: &str, ip: &str| Network::parse(net).unwrap().contains(ip.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.255.255.255"));
        assert!(!inside("10.0.0.0/8", "11.0.0.0"));
        assert!(inside("10.0.0.1", "10.0.0.1"));
        assert!(!inside("10.0.0.1", "10.0.0.0"));
        assert!(inside("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!inside("2001:db8::/32", "2001:db9::"));
        assert!(!inside("10.0.0.0/8", "::ffff:10.0.0.1"));
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        let parse = |text: &str| Host::parse(text).map(|h| h.to_string());
        assert_eq!(parse("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(parse("2001:db8::1").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(parse("[2001:db8::1]").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(parse("Proxy.Example.COM").as_deref(), Some("proxy.example.com"));
        assert_eq!(parse("example.com.").as_deref(), Some("example.com"));
        assert_eq!(parse("a").as_deref(), Some("a"));
        let label = "a".repeat(63);
        assert!(parse(&label).is_some());
        assert_eq!(parse(&"a".repeat(64)), None);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(parse(&longest).is_some());
        assert_eq!(parse(&format!("{longest}a")), None);
        for bad in ["", ".", "a..b", "-a", "a-", "a_b", "10.0.0", "10.0.0.256", "[10.0.0.1]", "a b", "a:1", "*.a", "1"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_server_is_an_address_with_its_port_or_a_name() {
        let parse = |text: &str| ServerAddress::parse(text).map(|s| s.to_string());
        assert_eq!(parse("10.0.0.1:5060").as_deref(), Some("10.0.0.1:5060"));
        assert_eq!(parse("[::1]:1").as_deref(), Some("[::1]:1"));
        assert_eq!(parse("Sips.example.com").as_deref(), Some("sips.example.com"));
        assert_eq!(parse("sips.example.com:65535").as_deref(), Some("sips.example.com:65535"));
        for bad in [
            "",
            "10.0.0.1",
            "::1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "0.0.0.0:5060",
            "[::]:5060",
            "[::ffff:10.0.0.1]:5060",
            "224.0.0.1:5060",
            "255.255.255.255:5060",
            "sips.example.com:0",
            "sips.example.com:",
            "sip:10.0.0.1:5060",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
