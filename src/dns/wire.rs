//! DNS messages: a question to bytes, an answer to what it says about that question.
//!
//! Owns: what this module takes of `hickory_proto`, which is used as a codec only. Must not touch: who is asked, and
//! what is kept.
//!
//! An answer is believed only where it belongs to the question: same id, same name, type and class, and records whose
//! owner is that name or follows from it by CNAMEs of the answer section. The other sections count only for what
//! RFC 2308 says of the SOA record, and to tell a referral.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::ids::Transport;
use crate::limits::{DNS_ALIASES_MAX, DNS_DATAGRAM_LEN_MAX, DNS_RECORDS_MAX};

/// The types of records that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Srv,
    Naptr,
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Srv => RecordType::SRV,
            Self::Naptr => RecordType::NAPTR,
        }
    }
}

/// An SRV record (RFC 2782). An empty target: decidedly not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: Box<str>,
}

/// A NAPTR record that leads to SRV records of a transport that we speak (RFC 3263 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Naptr {
    pub order: u16,
    pub preference: u16,
    pub transport: Transport,
    /// Whether its service is for sips.
    pub secure: bool,
    pub replacement: Box<str>,
}

/// What there is of a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Addresses(Vec<IpAddr>),
    Services(Vec<Srv>),
    Pointers(Vec<Naptr>),
    /// The records are those of another name, which this answer did not hold.
    Alias(Box<str>),
    /// CNAMEs that lead round in a circle, or too far.
    AliasesWithoutEnd,
    NoSuchName,
    NoRecords,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The records, or that there are none.
    Known {
        known: Known,
        /// In seconds.
        ttl: u32,
        /// Whether there were more records than are used.
        cut: bool,
    },
    /// There is more, over TCP.
    Truncated,
    /// The resolver does not understand EDNS (RFC 6891 §7), or says so.
    NoEdns,
    /// The resolver could not find out.
    Failure,
    /// The resolver does not answer us.
    Refused,
    /// The resolver sends us on to others, which a resolver should not.
    Lame,
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    Id,
    Question,
}

/// Whether a name can be asked for: its labels have 1 to 63 characters, 253 in all (RFC 1035 §2.3.4).
pub(crate) fn is_askable(name: &str) -> bool {
    name.len() <= 253
        && name.is_ascii()
        && name.split('.').all(|label| (1..=63).contains(&label.len()))
        && Name::from_ascii(name).is_ok()
}

/// A question; `None` when the name cannot be written.
pub(crate) fn question(id: u16, name: &str, kind: Kind, edns: bool) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind.record_type()));
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(u16::try_from(DNS_DATAGRAM_LEN_MAX).unwrap_or(512));
        message.set_edns(options);
    }
    message.to_vec().ok()
}

/// Reads an answer to such a question.
///
/// # Errors
/// It is none: see [`Fault`].
pub(crate) fn read(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Result<Said, Fault> {
    // The id first: what was not meant for us is not looked into.
    let own_id = bytes.first_chunk::<2>().ok_or(Fault::Malformed)?;
    if u16::from_be_bytes(*own_id) != id {
        return Err(Fault::Id);
    }
    let message = Message::from_vec(bytes).map_err(|_| Fault::Malformed)?;
    let head = &message.metadata;
    if head.message_type != MessageType::Response || head.op_code != OpCode::Query {
        return Err(Fault::Malformed);
    }
    match message.queries.as_slice() {
        [query] if answers(query, name, kind) => {}
        // A server that could not read the question may leave it out (RFC 1035 §4.1.1).
        [] if head.response_code == ResponseCode::FormErr => return Ok(Said::NoEdns),
        _ => return Err(Fault::Question),
    }
    Ok(match head.response_code {
        _ if head.truncation => Said::Truncated,
        ResponseCode::NoError | ResponseCode::NXDomain => known(&message, name, kind),
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Said::NoEdns,
        ResponseCode::Refused => Said::Refused,
        _ => Said::Failure,
    })
}

fn answers(query: &Query, name: &str, kind: Kind) -> bool {
    query.query_type() == kind.record_type() && query.query_class() == DNSClass::IN && text(query.name()) == *name
}

/// In lower case, without the dot at the end.
fn text(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Follows the answer section from the name to its records.
fn known(message: &Message, name: &str, kind: Kind) -> Said {
    let records: Vec<(String, &Record)> = message
        .answers
        .iter()
        .filter(|record| record.dns_class == DNSClass::IN)
        .map(|record| (text(&record.name), record))
        .collect();
    let mut owner = name.to_owned();
    let mut ttl = u32::MAX;
    for step in 0..=DNS_ALIASES_MAX {
        let own: Vec<&Record> = records.iter().filter(|(name, _)| *name == owner).map(|(_, record)| *record).collect();
        if let Some((known, cut)) = records_of(&own, kind, &mut ttl) {
            return Said::Known { known, ttl, cut };
        }
        let alias = own.iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((record.ttl, text(&target.0))),
            _ => None,
        });
        match alias {
            Some((alias_ttl, target)) => {
                ttl = ttl.min(alias_ttl);
                owner = target;
            }
            None => return nothing(message, owner, step > 0, ttl),
        }
    }
    Said::Known { known: Known::AliasesWithoutEnd, ttl, cut: false }
}

/// There is nothing of the kind at `owner`: it is said not to exist (RFC 2308 §2), or is to be asked for itself.
fn nothing(message: &Message, owner: String, is_alias: bool, ttl: u32) -> Said {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        // RFC 2308 §5: the lesser of the record's own TTL and its minimum field.
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let negative = |known| Said::Known { known, ttl: ttl.min(soa.unwrap_or(0)), cut: false };
    if message.metadata.response_code == ResponseCode::NXDomain {
        return negative(Known::NoSuchName);
    }
    if is_alias && soa.is_none() {
        return Said::Known { known: Known::Alias(owner.into()), ttl, cut: false };
    }
    let refers = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
    if soa.is_none() && refers && !message.metadata.authoritative {
        return Said::Lame;
    }
    negative(Known::NoRecords)
}

/// The records of the kind among those of one owner, the best first where there is an order; `None` when there are
/// none. Says too whether some were left out.
fn records_of(own: &[&Record], kind: Kind, ttl: &mut u32) -> Option<(Known, bool)> {
    let of_kind: Vec<&Record> =
        own.iter().copied().filter(|record| record.record_type() == kind.record_type()).collect();
    let least = of_kind.iter().map(|record| record.ttl).min()?;
    *ttl = least.min(*ttl);
    let mut cut = false;
    let known = match kind {
        Kind::A | Kind::Aaaa => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for record in of_kind {
                match &record.data {
                    RData::A(address) => addresses.push(address.0.into()),
                    RData::AAAA(address) => addresses.push(address.0.into()),
                    _ => {}
                }
            }
            cut = bound(&mut addresses);
            Known::Addresses(addresses)
        }
        Kind::Srv => {
            let mut services: Vec<Srv> = of_kind.into_iter().filter_map(srv).collect();
            services.sort_by_key(|srv| (srv.priority, u16::MAX - srv.weight));
            cut = bound(&mut services);
            Known::Services(services)
        }
        Kind::Naptr => {
            let mut pointers: Vec<Naptr> = of_kind.into_iter().filter_map(naptr).collect();
            pointers.sort_by_key(|naptr| (naptr.order, naptr.preference));
            cut |= bound(&mut pointers);
            Known::Pointers(pointers)
        }
    };
    Some((known, cut))
}

/// Drops repetitions and what is too much.
fn bound<T: PartialEq>(records: &mut Vec<T>) -> bool {
    let mut at = 0;
    while at < records.len().min(DNS_RECORDS_MAX) {
        if records[..at].contains(&records[at]) {
            records.remove(at);
        } else {
            at += 1;
        }
    }
    let cut = records.len() > DNS_RECORDS_MAX;
    records.truncate(DNS_RECORDS_MAX);
    cut
}

fn srv(record: &Record) -> Option<Srv> {
    let RData::SRV(srv) = &record.data else { return None };
    let target = text(&srv.target).into();
    Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target })
}

/// RFC 3263 §4.1: only those whose replacement is for SRV, and whose service is one of ours.
fn naptr(record: &Record) -> Option<Naptr> {
    let RData::NAPTR(naptr) = &record.data else { return None };
    if !naptr.flags.eq_ignore_ascii_case(b"s") || !naptr.regexp.is_empty() {
        return None;
    }
    let services = naptr.services.to_ascii_uppercase();
    let (transport, secure) = match services.as_slice() {
        b"SIP+D2U" => (Transport::Udp, false),
        b"SIP+D2T" => (Transport::Tcp, false),
        b"SIPS+D2T" => (Transport::Tls, true),
        _ => return None,
    };
    let replacement = text(&naptr.replacement);
    (!replacement.is_empty()).then(|| Naptr {
        order: naptr.order,
        preference: naptr.preference,
        transport,
        secure,
        replacement: replacement.into(),
    })
}
