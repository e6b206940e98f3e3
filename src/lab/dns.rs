//! A phone's own way to its proxies: SRV and address records of the pool's name (RFC 3263 §4.2, RFC 2782).
//!
//! Owns: asking, and the order in which one phone tries what it found. Must not touch: connections. It waits for its
//! answers, which is well before anything else happens. Left out on purpose: NAPTR, caching, TCP.

use crate::net::Transport;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;

/// A proxy as the DNS names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub priority: u16,
    pub weight: u16,
    pub addr: SocketAddr,
}

/// The proxies of a domain for a transport.
///
/// # Errors
/// No answer, or no proxy in it.
pub fn find(resolver: SocketAddr, domain: &str, transport: Transport) -> Result<Vec<Target>, Box<dyn Error>> {
    let service = match transport {
        Transport::Tls => "_sips._tcp",
        Transport::Tcp => "_sip._tcp",
        Transport::Udp => "_sip._udp",
    };
    let name = format!("{service}.{domain}");
    let mut targets = Vec::new();
    for data in ask(resolver, &name, RecordType::SRV)? {
        let RData::SRV(srv) = data else { continue };
        for kind in [RecordType::A, RecordType::AAAA] {
            for data in ask(resolver, &srv.target.to_ascii(), kind)? {
                let ip: IpAddr = match data {
                    RData::A(ip) => ip.0.into(),
                    RData::AAAA(ip) => ip.0.into(),
                    _ => continue,
                };
                let addr = SocketAddr::new(ip, srv.port);
                targets.push(Target { priority: srv.priority, weight: srv.weight, addr });
            }
        }
    }
    if targets.is_empty() { Err(format!("{name}: no proxy").into()) } else { Ok(targets) }
}

fn ask(resolver: SocketAddr, name: &str, kind: RecordType) -> Result<Vec<RData>, Box<dyn Error>> {
    let mut query = Name::from_ascii(name)?;
    query.set_fqdn(true);
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(query, kind));
    let bytes = question.to_vec()?;
    // The system's own port is all that tells this answer from another: the resolver is the test's.
    let socket =
        UdpSocket::bind(SocketAddr::new(if resolver.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() }, 0))?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let mut buffer = [0; 4_096];
    for _ in 0..TRIES {
        socket.send(&bytes)?;
        if let Ok(len) = socket.recv(&mut buffer) {
            let answer = Message::from_vec(&buffer[..len])?;
            return Ok(answer.answers.into_iter().filter(|r| r.record_type() == kind).map(|r| r.data).collect());
        }
    }
    Err(format!("{name}: {resolver} does not answer").into())
}

/// The order in which one phone tries them: by priority, and among equals by chance in proportion to the weight
/// (RFC 2782). `random` gives a number below the one that it is given.
pub fn order(targets: &[Target], mut random: impl FnMut(u64) -> u64) -> Vec<SocketAddr> {
    let mut left = targets.to_vec();
    left.sort_by_key(|target| (target.priority, target.weight));
    let mut order = Vec::new();
    while let Some(first) = left.first() {
        let peers = left.iter().take_while(|target| target.priority == first.priority).count();
        let total: u64 = left[..peers].iter().map(|target| u64::from(target.weight)).sum();
        let wanted = random(total + 1);
        let mut sum = 0;
        let at = left[..peers].iter().position(|target| {
            sum += u64::from(target.weight);
            sum >= wanted
        });
        order.push(left.remove(at.unwrap_or(0)).addr);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_comes_first_and_weight_decides_among_equals() {
        let target =
            |priority, weight, last: u8| Target { priority, weight, addr: SocketAddr::from(([127, 0, 0, last], 5061)) };
        let targets = [target(20, 100, 3), target(10, 30, 2), target(10, 10, 1), target(10, 0, 4)];
        let lasts = |pick: u64| -> Vec<u8> {
            let order = order(&targets, |below| pick.min(below - 1));
            order.iter().map(|addr| if let IpAddr::V4(ip) = addr.ip() { ip.octets()[3] } else { 0 }).collect()
        };
        assert_eq!(lasts(0), [4, 1, 2, 3]);
        assert_eq!(lasts(5), [1, 2, 4, 3]);
        assert_eq!(lasts(11), [2, 1, 4, 3]);
    }
}
