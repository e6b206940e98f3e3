//! What resolvers answer. Input: what is asked for, then the answers: how each comes, and a piece with its flags, counts and
//! records. Id and question are those of what was asked, unless it is to be a stranger's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::dns::{Answer, Dns, Input, Output, Question, Settings};
use hawser::ids::Transport;
use hawser::limits::{DNS_NAME_MAX, DNS_TARGETS_MAX};
use hawser::stats::Counters;

use super::parts::Front;

const ANSWERS_MAX: usize = 64;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let question = question(front.byte());
    let mut asker = Asker::new();
    asker.ask(&question);
    for _ in 0..ANSWERS_MAX {
        if front.0.is_empty() {
            break;
        }
        let how = front.byte();
        asker.hear(how, front.piece());
        if how & 0x40 != 0 {
            asker.ask(&question);
        }
    }
    asker.pass(DNS_NAME_MAX + Duration::from_millis(10));
    assert_eq!(asker.found.len(), asker.waiters, "a waiter has not heard in time");
    asker.pass(Duration::from_secs(60));
    assert!(asker.dns.is_idle() && asker.open.is_empty(), "something is asked for nobody: {:?}", asker.open.keys());
    for answer in asker.found.values().chain(&asker.at_once) {
        is_what_was_asked_for(&question, answer);
    }
}

fn question(shape: u8) -> Question {
    let transports = [None, Some(Transport::Udp), Some(Transport::Tcp), Some(Transport::Tls)];
    let transport = transports[usize::from(shape & 3)];
    let port = (shape & 4 != 0).then_some(5070);
    // TLS is the one transport of a sips URI.
    let secure = shape & 8 != 0 && matches!(transport, None | Some(Transport::Tls));
    Question { host: "a.example".into(), port, transport, secure }
}

fn is_what_was_asked_for(question: &Question, answer: &Answer) {
    let Ok(targets) = answer else { return };
    assert!(!targets.is_empty() && targets.len() <= DNS_TARGETS_MAX);
    for target in targets.iter() {
        assert!(question.port.is_none_or(|port| port == target.address.port()), "{target:?}");
        assert!(question.transport.is_none_or(|transport| transport == target.transport), "{target:?}");
        assert!(!question.secure || target.transport == Transport::Tls, "{target:?}");
        assert!(target.address.port() != 0, "{target:?}");
    }
}

/// A question in the air.
struct Asked {
    to: SocketAddr,
    bytes: Vec<u8>,
}

struct Asker {
    dns: Dns,
    now: Time,
    counters: Counters,
    open: BTreeMap<u32, Asked>,
    ended: BTreeSet<u32>,
    found: BTreeMap<u64, Answer>,
    at_once: Vec<Answer>,
    waiters: usize,
}

impl Asker {
    fn new() -> Self {
        let resolvers = [1, 2].map(|n| SocketAddr::from(([127, 0, 0, n], 53))).to_vec();
        Self {
            dns: Dns::new(Settings { resolvers, ttl_stale: Duration::from_secs(3_600) }, [5; 32]),
            now: Time(1_000_000),
            counters: Counters::default(),
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            found: BTreeMap::new(),
            at_once: Vec::new(),
            waiters: 0,
        }
    }

    fn ask(&mut self, question: &Question) {
        let waiter = self.waiters as u64;
        match self.dns.ask(question, waiter, self.now, &mut self.counters) {
            Some(answer) => self.at_once.push(answer),
            None => self.waiters += 1,
        }
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(output) = self.dns.poll_output() {
            match output {
                Output::Send { exchange, to, bytes, .. } => {
                    assert!((18..512).contains(&bytes.len()));
                    self.open.insert(exchange, Asked { to, bytes });
                }
                Output::Done { exchange } => {
                    assert!(self.open.remove(&exchange).is_some(), "what is not open is closed");
                    self.ended.insert(exchange);
                }
                Output::Found { waiter, answer } => {
                    assert!(self.found.insert(waiter, answer).is_none(), "a waiter has heard twice");
                }
            }
        }
    }

    fn hear(&mut self, how: u8, said: &[u8]) {
        let nth = usize::from(how >> 4 & 3) % self.open.len().max(1);
        let Some((&exchange, asked)) = self.open.iter().nth(nth) else { return self.pass(Duration::from_secs(1)) };
        let from = if how & 1 != 0 { SocketAddr::from(([127, 0, 0, 9], 53)) } else { asked.to };
        let mut bytes = Vec::new();
        let id = [asked.bytes[0] ^ (how >> 1 & 1), asked.bytes[1]];
        let (head, records) = said.split_at(said.len().min(8));
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(head.get(..2).unwrap_or_default());
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(head.get(2..).unwrap_or_default());
        bytes.extend_from_slice(question_of(&asked.bytes));
        bytes.extend_from_slice(records);
        match how >> 2 & 3 {
            0 | 1 => self.dns.handle(Input::Answer { exchange, from, bytes: &bytes }, self.now, &mut self.counters),
            2 => {
                self.open.remove(&exchange);
                self.dns.handle(Input::Failed { exchange }, self.now, &mut self.counters);
            }
            _ => self.pass(Duration::from_millis(700)),
        }
        if how >> 2 & 3 < 2 && how & 3 != 0 {
            assert!(self.dns.poll_output().is_none(), "a stranger is heard");
        }
        self.pump();
    }

    /// Lets time pass while nobody answers.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.dns.poll_timeout().filter(|due| *due <= end) {
            // A wheel may name a moment a little early.
            self.now = self.now.max(due);
            self.dns.fire(self.now, &mut self.counters);
            self.pump();
            if self.dns.poll_timeout().is_some_and(|next| next <= self.now) {
                self.now = self.now.after(Duration::from_millis(1));
            }
        }
        self.now = self.now.max(end);
    }
}

/// The question section of a question.
fn question_of(bytes: &[u8]) -> &[u8] {
    let mut at = 12;
    while bytes[at] != 0 {
        at += usize::from(bytes[at]) + 1;
    }
    &bytes[12..at + 5]
}
