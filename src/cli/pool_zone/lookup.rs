//! One question to the DNS, waited for, as a phone's resolver would ask it.
//!
//! Owns: the question, its transport (UDP, then TCP on truncation, RFC 7766) and what of the answer belongs to it.
//! Left out on purpose: a cache, for a check wants what is published now.

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

pub(super) const SYSTEM_FILE: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
const TRY_MAX: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
const ALIASES_MAX: usize = 8;
const DATAGRAM_LEN_MAX: usize = 4_096;

/// A record that answers a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Address(IpAddr),
    Service { priority: u16, weight: u16, port: u16, target: String },
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// Why there is no answer.
#[derive(Debug)]
pub(in crate::cli) enum LookupFault {
    /// The name is none that can be asked for.
    Name,
    /// Nobody answered; the last reason.
    Silent(io::Error),
    /// The resolver answered with this code.
    Refused(ResponseCode),
}

impl fmt::Display for LookupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("it is no name of the DNS"),
            Self::Silent(fault) => write!(f, "no resolver answers: {fault}"),
            Self::Refused(code) => write!(f, "the resolver says: {code}"),
        }
    }
}

/// The resolvers that the system uses.
pub(super) fn system_resolvers() -> io::Result<Vec<SocketAddr>> {
    let resolvers = nameservers(&fs::read_to_string(SYSTEM_FILE)?);
    if resolvers.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(resolvers) }
}

fn nameservers(text: &str) -> Vec<SocketAddr> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
    values.filter_map(|value| value.parse().ok()).map(|ip: IpAddr| SocketAddr::new(ip, PORT)).collect()
}

/// The records of a name; none when there are none or no such name.
pub(super) fn ask(resolvers: &[SocketAddr], name: &str, kind: Kind) -> Result<Vec<Found>, LookupFault> {
    let record_type = match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Srv => RecordType::SRV,
    };
    let mut query = Name::from_ascii(name).map_err(|_| LookupFault::Name)?;
    query.set_fqdn(true);
    let mut last = LookupFault::Silent(io::ErrorKind::NotFound.into());
    for resolver in resolvers.iter().cycle().take(resolvers.len() * TRIES) {
        match exchange(*resolver, &query, record_type) {
            Ok(answer) => match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(records(&answer, name, record_type)),
                code => last = LookupFault::Refused(code),
            },
            Err(fault) => last = LookupFault::Silent(fault),
        }
    }
    Err(last)
}

fn exchange(resolver: SocketAddr, name: &Name, record_type: RecordType) -> io::Result<Message> {
    let id = RandomState::new().hash_one(name) as u16;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), record_type));
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(resolver)?;
    socket.send(&bytes)?;
    let until = Instant::now() + TRY_MAX;
    let mut buffer = [0; DATAGRAM_LEN_MAX];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut buffer) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        // What does not belong to the question may be forged; the answer may still come.
        match own(&buffer[..len], id, &question) {
            Some(answer) if answer.metadata.truncation => return over_tcp(resolver, &bytes, id, &question),
            Some(answer) => return Ok(answer),
            None => {}
        }
    }
}

fn over_tcp(resolver: SocketAddr, bytes: &[u8], id: u16, question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&resolver, TRY_MAX)?;
    stream.set_read_timeout(Some(TRY_MAX))?;
    stream.set_write_timeout(Some(TRY_MAX))?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer)?;
    own(&answer, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn own(bytes: &[u8], id: u16, question: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_own = answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    is_own.then_some(answer)
}

fn text(name: &Name) -> String {
    name.to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned()
}

/// Those of the name itself, or of the one that its CNAMEs lead to.
fn records(answer: &Message, name: &str, record_type: RecordType) -> Vec<Found> {
    let mut owner = name.trim_end_matches('.').to_ascii_lowercase();
    for _ in 0..=ALIASES_MAX {
        let own = || answer.answers.iter().filter(|record| text(&record.name) == owner);
        let found: Vec<Found> = own()
            .filter(|record| record.record_type() == record_type)
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(Found::Address(address.0.into())),
                RData::AAAA(address) => Some(Found::Address(address.0.into())),
                RData::SRV(srv) => Some(Found::Service {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: text(&srv.target),
                }),
                _ => None,
            })
            .collect();
        let alias = own().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(text(&target.0)),
            _ => None,
        });
        match alias {
            Some(alias) if found.is_empty() => owner = alias,
            _ => return found,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_resolvers_are_read() {
        let text = "# a comment\nsearch example.com\nnameserver 192.0.2.53\n nameserver\t2001:db8::53\nnameserver x\n";
        let expected: Vec<SocketAddr> =
            ["192.0.2.53:53", "[2001:db8::53]:53"].iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(nameservers(text), expected);
    }
}
