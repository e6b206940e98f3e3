//! RFC 3263 §4 as a function of what the cache holds: the servers of a name, or which record sets are missing.
//!
//! Owns: the order of NAPTR, SRV and addresses, and what an absent record leads to. Must not touch: the resolvers.
//!
//! Two rules beyond the RFC's letter. Of two forms of the SRV name for TLS, `_sips._tcp` (the RFC's) and `_sips._tls`
//! (what Genesys SIP Server publishes), both are asked for and their targets count as one set. And a NAPTR question
//! that no resolver answers is passed over, for there are forwarders that drop what they do not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::cache::{At, Cache, Seen};
use super::wire::{self, Kind, Known, Naptr, Srv};
use super::{Failure, Question, Target};
use crate::clock::Time;
use crate::ids::Transport;
use crate::limits::{DNS_ALIASES_MAX, DNS_RETRY_AFTER, DNS_TARGETS_MAX, DNS_TTL_MAX};
use crate::stats::{Counter, Counters};

/// A record set to be asked for.
pub(super) type Key = (Kind, Box<str>);

/// What came of a walk.
#[derive(Debug)]
pub(super) enum Walked {
    /// Answers that are missing; walk again when they are there.
    Missing(SmallVec<[Key; 4]>),
    /// All is known.
    Known {
        /// The best first; never empty.
        answer: Result<Vec<Target>, Failure>,
        /// When the first of the sets behind it expires.
        until: Time,
        /// Whether a set behind it has expired.
        stale: bool,
    },
}

/// Walks from the question to its targets.
pub(super) fn walk(question: &Question, cache: &Cache, at: At, counters: &mut Counters) -> Walked {
    let until = at.now.after(DNS_TTL_MAX);
    let mut walk = Walk { cache, at, missing: SmallVec::new(), until, stale: false, counters };
    let found = walk.question(question);
    if !walk.missing.is_empty() {
        return Walked::Missing(walk.missing);
    }
    let answer = match found {
        Found::Targets(mut targets) => {
            targets.sort_by_key(|target| target.priority);
            if targets.len() > DNS_TARGETS_MAX {
                walk.counters.count(Counter::LimitDnsTargets);
                targets.truncate(DNS_TARGETS_MAX);
            }
            Ok(targets)
        }
        Found::None(failure) => Err(failure),
    };
    Walked::Known { answer, until: walk.until, stale: walk.stale }
}

enum Found {
    /// At least one.
    Targets(Vec<Target>),
    /// While something is missing this says nothing.
    None(Failure),
}

/// What SRV records say.
enum Offer {
    Targets(Vec<Target>),
    /// There are no SRV records.
    Absent,
    /// There are, and they lead nowhere: the service is not offered, or no target has an address.
    Nowhere,
    /// No resolver has answered for them, or for all of their targets.
    Unanswered,
    /// A bound was reached.
    Bound,
    /// The records are among the missing.
    Missing,
}

struct Walk<'a> {
    cache: &'a Cache,
    at: At,
    missing: SmallVec<[Key; 4]>,
    until: Time,
    stale: bool,
    counters: &'a mut Counters,
}

/// Why nothing can be said of a record set.
enum Gap {
    /// The record set is among the missing.
    Missing,
    Unanswered,
    Bound,
}

static NO_SUCH_NAME: Known = Known::NoSuchName;
static NO_RECORDS: Known = Known::NoRecords;

impl<'a> Walk<'a> {
    fn question(&mut self, question: &Question) -> Found {
        let Question { host, port, transport, secure } = question;
        let transport = match transport {
            // A stream to a sips URI is TLS (RFC 3261 §26.2.2); there is no other transport for it.
            Some(Transport::Tcp | Transport::Tls) if *secure => Some(Transport::Tls),
            Some(Transport::Udp) if *secure => return Found::None(Failure::NoRecords),
            other => *other,
        };
        let default = if *secure { Transport::Tls } else { Transport::Udp };
        if let Some(port) = *port {
            return self.plain(host, transport.unwrap_or(default), port);
        }
        let offer = match transport {
            Some(transport) => self.services_of(host, transport),
            None => match self.by_pointers(host, *secure) {
                Some(offer) => offer,
                None => self.any_services(host, *secure),
            },
        };
        match offer {
            Offer::Targets(targets) => Found::Targets(targets),
            // RFC 3263 §4.2: without SRV records, the addresses of the name itself.
            Offer::Absent => {
                let transport = transport.unwrap_or(default);
                self.plain(host, transport, transport.default_port())
            }
            Offer::Nowhere => Found::None(Failure::NoRecords),
            // What is missing is asked for, and then there is another walk.
            Offer::Missing | Offer::Unanswered => Found::None(Failure::Unanswered),
            Offer::Bound => Found::None(Failure::Bound),
        }
    }

    /// The addresses of a name, with a port.
    fn plain(&mut self, host: &str, transport: Transport, port: u16) -> Found {
        match self.addresses(host) {
            Ok(addresses) => {
                let target = |ip| Target { transport, address: SocketAddr::new(ip, port), priority: 0, weight: 0 };
                Found::Targets(addresses.into_iter().map(target).collect())
            }
            Err(failure) => Found::None(failure),
        }
    }

    /// By NAPTR records; `None` when there is none that we could follow.
    fn by_pointers(&mut self, host: &str, secure: bool) -> Option<Offer> {
        let pointers = match self.look(host, Kind::Naptr) {
            Ok(Known::Pointers(pointers)) => pointers,
            // What is missing is asked for first: it may make all other questions needless.
            Err(Gap::Missing) => return Some(Offer::Missing),
            _ => return None,
        };
        let mut order = None;
        let mut last = None;
        for Naptr { transport, replacement, order: own, .. } in pointers.iter().filter(|p| p.secure || !secure) {
            // RFC 3403 §4.1: another order counts only when the ones before it held nothing for us.
            if *order.get_or_insert(*own) != *own {
                break;
            }
            let offer = self.services(&[replacement], *transport);
            if !self.missing.is_empty() || matches!(offer, Offer::Targets(_)) {
                return Some(offer);
            }
            last = match (last, offer) {
                (Some(Offer::Unanswered), _) => Some(Offer::Unanswered),
                // The pointer leads nowhere, but the name has said what it offers: its addresses do not count.
                (_, Offer::Absent) => Some(Offer::Nowhere),
                (_, offer) => Some(offer),
            };
        }
        last
    }

    /// RFC 3263 §4.1 without NAPTR records: every transport is asked for, and the first that is offered is taken.
    fn any_services(&mut self, host: &str, secure: bool) -> Offer {
        let transports: &[_] =
            if secure { &[Transport::Tls] } else { &[Transport::Udp, Transport::Tcp, Transport::Tls] };
        let mut found = None;
        let mut worst = Offer::Absent;
        // All of them, even when the first has targets: whatever is missing is asked for at one time.
        for transport in transports {
            match self.services_of(host, *transport) {
                Offer::Targets(targets) => found = found.or(Some(targets)),
                Offer::Absent => {}
                // What is not known outweighs what is known not to be offered.
                offer if !matches!(worst, Offer::Unanswered) => worst = offer,
                _ => {}
            }
        }
        found.map_or(worst, Offer::Targets)
    }

    fn services_of(&mut self, host: &str, transport: Transport) -> Offer {
        match transport {
            Transport::Udp => self.services(&[&format!("_sip._udp.{host}")], transport),
            Transport::Tcp => self.services(&[&format!("_sip._tcp.{host}")], transport),
            Transport::Tls => self.services(&[&format!("_sips._tcp.{host}"), &format!("_sips._tls.{host}")], transport),
        }
    }

    /// The targets of SRV records under these names, which count as one set.
    fn services(&mut self, names: &[&str], transport: Transport) -> Offer {
        let mut records: SmallVec<[&'a Srv; 8]> = SmallVec::new();
        let mut gap = None;
        for name in names {
            match self.look(name, Kind::Srv) {
                Ok(Known::Services(services)) => {
                    for srv in services {
                        if !records.iter().any(|known| known.port == srv.port && known.target == srv.target) {
                            records.push(srv);
                        }
                    }
                }
                Ok(_) => {}
                Err(Gap::Missing) => gap = Some(Offer::Missing),
                Err(Gap::Unanswered) => gap = Some(Offer::Unanswered),
                Err(Gap::Bound) => gap = gap.or(Some(Offer::Bound)),
            }
        }
        if records.is_empty() {
            return gap.unwrap_or(Offer::Absent);
        }
        let mut targets = Vec::new();
        let mut failed = Offer::Nowhere;
        for Srv { priority, weight, port, target } in records {
            // RFC 2782: a target of "." says that the service is not offered here.
            if target.is_empty() || *port == 0 {
                continue;
            }
            match self.addresses(target) {
                Ok(addresses) => targets.extend(addresses.into_iter().map(|ip| Target {
                    transport,
                    address: SocketAddr::new(ip, *port),
                    priority: *priority,
                    weight: *weight,
                })),
                Err(Failure::Unanswered) => failed = Offer::Unanswered,
                Err(_) => {}
            }
        }
        if targets.is_empty() { failed } else { Offer::Targets(targets) }
    }

    /// A and AAAA, asked for at one time; at least one address. While one is missing the result says nothing.
    fn addresses(&mut self, host: &str) -> Result<SmallVec<[IpAddr; 4]>, Failure> {
        if is_local(host) {
            return Ok(SmallVec::from_slice(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
        }
        let mut addresses = SmallVec::new();
        let mut failure = Failure::NoRecords;
        for kind in [Kind::A, Kind::Aaaa] {
            failure = match (self.look(host, kind), failure) {
                (Ok(Known::Addresses(found)), kept) => {
                    addresses.extend_from_slice(found);
                    kept
                }
                (Err(Gap::Unanswered), _) | (_, Failure::Unanswered) => Failure::Unanswered,
                (Err(Gap::Bound), _) | (_, Failure::Bound) => Failure::Bound,
                // Said of one type, it holds for the name (RFC 2308 §5).
                (Ok(Known::NoSuchName), _) => Failure::NoSuchName,
                (Ok(_) | Err(Gap::Missing), kept) => kept,
            };
        }
        if addresses.is_empty() { Err(failure) } else { Ok(addresses) }
    }

    /// What is known of a name and type, by way of its aliases. Never [`Known::Alias`].
    fn look(&mut self, name: &str, kind: Kind) -> Result<&'a Known, Gap> {
        if is_local(name) {
            return Ok(&NO_RECORDS);
        }
        let cache = self.cache;
        let mut name = name;
        for _ in 0..=DNS_ALIASES_MAX {
            match cache.look(name, kind, self.at) {
                Seen::Known { known, until, stale } => {
                    self.until = self.until.min(until);
                    self.stale |= stale;
                    match known {
                        Known::Alias(target) => name = target,
                        Known::AliasesWithoutEnd => return Err(Gap::Bound),
                        known => return Ok(known),
                    }
                }
                Seen::Unanswered { until } => {
                    self.until = self.until.min(until);
                    return Err(Gap::Unanswered);
                }
                Seen::Missing if !wire::is_askable(name) => return Ok(&NO_SUCH_NAME),
                Seen::Missing => {
                    if !self.missing.iter().any(|(k, n)| *k == kind && **n == *name) {
                        self.missing.push((kind, name.into()));
                    }
                    return Err(Gap::Missing);
                }
            }
        }
        self.counters.count(Counter::LimitDnsAliases);
        self.until = self.until.min(self.at.now.after(DNS_RETRY_AFTER));
        Err(Gap::Bound)
    }
}

/// RFC 6761 §6.3: these are this host, and no resolver is asked for them.
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}
