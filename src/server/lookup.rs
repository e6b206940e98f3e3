//! What the names of a configuration give, for `--check`.
//!
//! The machine is the one that the shards use (`dns`), so that a check finds what they would find; the sockets are
//! plain ones that block, each on a thread of its own, for no executor runs here. Every question has the deadlines
//! that it has in a shard.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::resolvers;
use super::secrets::{self, SecretError};
use crate::clock::Time;
use crate::config::engine::DnsSettings;
use crate::config::{Config, Host, PeerProxy, ServerAddress};
use crate::dns::{Answer, Dns, Input, Output, Question};
use crate::ids::{Side, Transport};
use crate::stats::Counters;

/// A thread that nobody waits for any more ends after so long.
const SOCKET_MAX: Duration = Duration::from_secs(10);
/// Between two looks at the time when the machine has no timer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is asked for, and why.
#[derive(Debug)]
pub struct Name {
    /// Whom it leads to.
    pub whose: Whose,
    /// As a shard would ask.
    pub question: Question,
}

/// Whom a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A SIP Server or another site's proxy.
    Peer,
    /// Us: a listener advertises it.
    Own,
    /// Phones to any proxy of the pool, so that we should be among them.
    Pool,
}

/// The names that a proxy with this configuration would ask for, each once.
pub fn names(config: &Config) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let mut push = |whose, host: &str, port, transport| {
        let question = Question { host: host.into(), port, transport: Some(transport), secure: false };
        if !names.iter().any(|name| name.whose == whose && name.question == question) {
            names.push(Name { whose, question });
        }
    };
    for server in &config.servers {
        for target in [Some(&server.primary), server.backup.as_ref()].into_iter().flatten() {
            if let ServerAddress::Name(host, port) = target {
                push(Whose::Peer, host, *port, server.transport);
            }
        }
    }
    for PeerProxy { contact, port_tls, protocol, .. } in &config.peers {
        if let Host::Name(host) = contact {
            push(Whose::Peer, host, port_tls.filter(|_| *protocol == Transport::Tls), *protocol);
        }
    }
    let phones = || config.listeners.iter().filter(|listener| listener.side != Some(Side::Server));
    for listener in phones() {
        if let Some(Host::Name(host)) = &listener.advertise {
            for (transport, bound) in listener.sockets() {
                push(Whose::Own, host, Some(bound.port()), transport);
            }
        }
    }
    for domain in &config.sipproxy.domains {
        if let Some(Host::Name(host)) = Host::parse(domain) {
            for (transport, _) in phones().flat_map(|listener| listener.sockets()) {
                push(Whose::Pool, &host, None, transport);
            }
        }
    }
    names
}

/// Looks all of them up; one answer for each, in their order.
///
/// # Errors
/// There are no random numbers.
pub fn look_up<'q>(
    settings: DnsSettings,
    questions: impl IntoIterator<Item = &'q Question>,
) -> Result<Vec<Answer>, SecretError> {
    let start = Instant::now();
    let now = || Time(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    let mut counters = Counters::default();
    let mut dns = Dns::new(settings, secrets::random()?);
    let mut found: Vec<Option<Answer>> = Vec::new();
    for (waiter, question) in (0..).zip(questions) {
        found.push(dns.ask(question, waiter, now(), &mut counters));
    }
    let (heard, hear) = channel();
    loop {
        while let Some(output) = dns.poll_output() {
            match output {
                Output::Send { exchange, to, tcp, bytes } => {
                    let heard = heard.clone();
                    std::thread::spawn(move || ask(exchange, to, tcp, &bytes, &heard));
                }
                Output::Found { waiter, answer } => {
                    if let Some(place) = usize::try_from(waiter).ok().and_then(|at| found.get_mut(at)) {
                        *place = Some(answer);
                    }
                }
                // The exchange's thread ends by itself; what it still hears is ignored.
                Output::Done { .. } => {}
            }
        }
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        let wait = dns.poll_timeout().map_or(LOOK_EVERY, |at| at.since(now()).min(LOOK_EVERY));
        match hear.recv_timeout(wait) {
            Ok(Heard { exchange, from, bytes: Some(bytes) }) => {
                dns.handle(Input::Answer { exchange, from, bytes: &bytes }, now(), &mut counters);
            }
            Ok(Heard { exchange, bytes: None, .. }) => dns.handle(Input::Failed { exchange }, now(), &mut counters),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        dns.fire(now(), &mut counters);
    }
}

/// What a socket has brought; no bytes when it has failed.
struct Heard {
    exchange: u32,
    from: SocketAddr,
    bytes: Option<Vec<u8>>,
}

/// Asks, and tells whatever comes, until nobody listens or the socket fails.
fn ask(exchange: u32, to: SocketAddr, tcp: bool, question: &[u8], heard: &Sender<Heard>) {
    let tell = |bytes| heard.send(Heard { exchange, from: to, bytes }).is_err();
    let _fault = resolvers::ask(to, tcp, question, SOCKET_MAX, |bytes| tell(Some(bytes.to_vec())));
    tell(None);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::dns::Failure;

    /// A resolver that knows one address of one name, says that others do not exist, and over UDP says only that its
    /// answer is too long when it is told to.
    fn resolver(truncates: bool) -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            // Another program may have the port for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let at = udp.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                udp.send_to(&answer(&buffer[..len], truncates), from).unwrap();
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut len = [0; 2];
                stream.read_exact(&mut len).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question, false);
                let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&len[..], &answer].concat()).unwrap();
            }
        });
        at
    }

    fn answer(question: &[u8], truncate: bool) -> Vec<u8> {
        const NAME: &[u8] = b"\x04here\x07example\x03net\x00";
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
        let known = &question[12..end] == NAME;
        let is_a = question[end..end + 2] == [0, 1];
        // Recursion desired and available; truncated, or NXDOMAIN.
        let mut answer = question[..2].to_vec();
        let code = if known { 0x80 } else { 0x83 };
        answer.extend([if truncate { 0x83 } else { 0x81 }, code, 0, 1, 0, u8::from(known && is_a && !truncate)]);
        answer.extend([0; 4]);
        answer.extend(&question[12..end + 4]);
        if known && is_a && !truncate {
            answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        }
        answer
    }

    fn question(host: &str) -> Question {
        Question { host: host.into(), port: Some(5070), transport: Some(Transport::Tcp), secure: false }
    }

    #[test]
    fn names_are_found_or_not_over_udp_and_over_tcp_when_that_is_too_short() {
        for truncates in [false, true] {
            let settings = DnsSettings { resolvers: vec![resolver(truncates)], ttl_stale: Duration::ZERO };
            let (here, gone) = (question("here.example.net"), question("gone.example.net"));
            let found = look_up(settings, [&here, &gone, &here]).unwrap();
            let [Ok(targets), Err(Failure::NoSuchName), Ok(again)] = &found[..] else { panic!("{found:?}") };
            let addresses: Vec<_> = targets.iter().map(|target| target.address.to_string()).collect();
            assert_eq!(addresses, ["192.0.2.7:5070"]);
            assert_eq!(targets, again);
        }
    }

    #[test]
    fn without_a_resolver_nothing_is_found() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for resolvers in [vec![], vec![nobody]] {
            let settings = DnsSettings { resolvers, ttl_stale: Duration::ZERO };
            assert_eq!(look_up(settings, [&question("a.example.net")]).unwrap(), [Err(Failure::Unanswered)]);
        }
        assert!(look_up(DnsSettings::default(), []).unwrap().is_empty());
    }
}
