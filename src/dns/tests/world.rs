//! A resolver, a clock, and zones that are answered from as a test wants it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NAPTR, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::clock::Time;
use crate::dns::{Answer, Dns, Failure, Input, Output, Question, Settings, Target};
use crate::ids::Transport;
use crate::stats::{Counter, Counters};

/// Longer than any record is kept.
pub const DAY_AND_MORE: Duration = Duration::from_secs(25 * 3_600);

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// A question that leaves everything open.
pub fn host(host: &str) -> Question {
    Question { host: host.into(), port: None, transport: None, secure: false }
}

pub fn over(host: &str, transport: Transport) -> Question {
    Question { host: host.into(), port: None, transport: Some(transport), secure: false }
}

pub fn with_port(host: &str, port: u16) -> Question {
    Question { host: host.into(), port: Some(port), transport: None, secure: false }
}

/// A record as a line of a zone: `name ttl TYPE data…`.
pub fn record(line: &str) -> Record {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u16>().unwrap();
    let data = match words[2] {
        "A" => RData::A(A(words[3].parse().unwrap())),
        "AAAA" => RData::AAAA(AAAA(words[3].parse().unwrap())),
        "CNAME" => RData::CNAME(CNAME(name(words[3]))),
        "NS" => RData::NS(NS(name(words[3]))),
        "SRV" => RData::SRV(SRV::new(number(3), number(4), number(5), name(words[6]))),
        "SOA" => RData::SOA(SOA::new(name("ns.test"), name("root.test"), 1, 2, 3, 4, words[3].parse().unwrap())),
        "NAPTR" => {
            let bytes = |at: usize| words[at].trim_matches('"').as_bytes().to_vec().into_boxed_slice();
            RData::NAPTR(NAPTR::new(number(3), number(4), bytes(5), bytes(6), bytes(7), name(words[8])))
        }
        other => panic!("{other}"),
    };
    Record::from_rdata(name(words[0]), words[1].parse().unwrap(), data)
}

/// A question that the resolver was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub exchange: u32,
    pub to: SocketAddr,
    pub tcp: bool,
    pub id: u16,
    pub query: Query,
    pub edns: Option<u16>,
}

impl Asked {
    /// `TYPE name`.
    pub fn text(&self) -> String {
        let name = self.query.name().to_ascii().to_ascii_lowercase();
        format!("{} {}", self.query.query_type(), name.trim_end_matches('.'))
    }

    /// An answer to it with nothing in it.
    pub fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message
    }
}

pub struct World {
    pub dns: Dns,
    pub now: Time,
    pub counters: Counters,
    /// Questions that wait for an answer.
    pub asked: Vec<Asked>,
    pub done: Vec<u32>,
    pub found: BTreeMap<u64, Answer>,
    pub zone: Vec<Record>,
    next_waiter: u64,
}

pub fn resolver(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 53))
}

impl World {
    pub fn new() -> Self {
        Self::with(1, Duration::from_secs(3_600))
    }

    /// With so many resolvers.
    pub fn with(resolvers: u8, ttl_stale: Duration) -> Self {
        let settings = Settings { resolvers: (1..=resolvers).map(resolver).collect(), ttl_stale };
        Self {
            dns: Dns::new(settings, [5; 32]),
            now: Time(7_000_000),
            counters: Counters::default(),
            asked: Vec::new(),
            done: Vec::new(),
            found: BTreeMap::new(),
            zone: Vec::new(),
            next_waiter: 1,
        }
    }

    pub fn zone(&mut self, lines: &[&str]) {
        self.zone = lines.iter().map(|line| record(line)).collect();
    }

    /// Asks; gives what is known at once, or else the waiter's number.
    pub fn ask(&mut self, question: &Question) -> Result<Answer, u64> {
        let waiter = self.next_waiter;
        self.next_waiter += 1;
        let answer = self.dns.ask(question, waiter, self.now, &mut self.counters);
        self.pump();
        answer.ok_or(waiter)
    }

    /// Asks, and answers from the zone until it is known.
    pub fn resolve(&mut self, question: &Question) -> Answer {
        match self.ask(question) {
            Ok(answer) => answer,
            Err(waiter) => {
                self.answer_all();
                self.found.remove(&waiter).unwrap_or_else(|| panic!("no answer; waiting: {:?}", self.asked))
            }
        }
    }

    pub fn pump(&mut self) {
        while let Some(output) = self.dns.poll_output() {
            match output {
                Output::Send { exchange, to, tcp, bytes } => {
                    let message = Message::from_vec(&bytes).unwrap();
                    assert_eq!(message.metadata.message_type, MessageType::Query);
                    assert!(message.metadata.recursion_desired);
                    let [query] = message.queries.as_slice() else { panic!("{message:?}") };
                    let edns = message.edns.as_ref().map(|edns| edns.max_payload());
                    let id = message.metadata.id;
                    self.asked.push(Asked { exchange, to, tcp, id, query: query.clone(), edns });
                }
                Output::Done { exchange } => {
                    self.asked.retain(|asked| asked.exchange != exchange);
                    self.done.push(exchange);
                }
                Output::Found { waiter, answer } => {
                    assert!(self.found.insert(waiter, answer).is_none(), "{waiter} heard twice");
                }
            }
        }
    }

    /// What is asked for now, as `TYPE name`, sorted.
    pub fn questions(&self) -> Vec<String> {
        let mut all: Vec<String> = self.asked.iter().map(Asked::text).collect();
        all.sort();
        all
    }

    /// Takes out the question with this text.
    pub fn take(&mut self, text: &str) -> Asked {
        let at = self.asked.iter().position(|asked| asked.text() == text);
        self.asked.remove(at.unwrap_or_else(|| panic!("{text} is not asked: {:?}", self.questions())))
    }

    pub fn send(&mut self, asked: &Asked, message: &Message) {
        self.send_bytes(asked.exchange, asked.to, &message.to_vec().unwrap());
    }

    pub fn send_bytes(&mut self, exchange: u32, from: SocketAddr, bytes: &[u8]) {
        self.dns.handle(Input::Answer { exchange, from, bytes }, self.now, &mut self.counters);
        self.pump();
    }

    pub fn fail(&mut self, exchange: u32) {
        self.asked.retain(|asked| asked.exchange != exchange);
        self.dns.handle(Input::Failed { exchange }, self.now, &mut self.counters);
        self.pump();
    }

    /// Answers one question from the zone, as a resolver does: with CNAMEs followed as far as they lead, and the zone's
    /// SOA record where there is nothing.
    pub fn answer(&mut self, asked: &Asked) {
        let mut message = asked.reply(ResponseCode::NoError);
        let mut owner = asked.query.name().clone();
        let mut exists = false;
        for _ in 0..20 {
            let own = || self.zone.iter().filter(|record| record.name == owner);
            exists = own().next().is_some();
            let found: Vec<Record> = own().filter(|r| r.record_type() == asked.query.query_type()).cloned().collect();
            if !found.is_empty() {
                message.add_answers(found);
                break;
            }
            let Some(alias) = own().find(|r| r.record_type() == RecordType::CNAME).cloned() else { break };
            let RData::CNAME(target) = &alias.data else { unreachable!() };
            let target = target.0.clone();
            message.add_answer(alias.clone());
            owner = target;
        }
        if !exists {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        if !message.answers.iter().any(|record| record.record_type() == asked.query.query_type()) {
            message.add_authorities(self.zone.iter().filter(|r| r.record_type() == RecordType::SOA).cloned());
        }
        self.send(asked, &message);
    }

    /// Answers from the zone until nothing is asked any more.
    pub fn answer_all(&mut self) {
        for _ in 0..1_000 {
            let Some(asked) = self.asked.first().cloned() else { return };
            self.answer(&asked);
        }
        panic!("without end: {:?}", self.questions());
    }

    /// Lets time pass, with every timer at its time. Nobody answers meanwhile.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.dns.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.dns.fire(self.now, &mut self.counters);
            self.pump();
        }
        self.now = end;
    }

    pub fn of(&self, counter: Counter) -> u64 {
        self.counters.of(counter)
    }

    pub fn heard(&mut self, waiter: u64) -> Option<Answer> {
        self.found.remove(&waiter)
    }
}

/// Targets in short: `udp 10.0.0.1:5060 p1 w2`.
pub fn short(answer: &Answer) -> Vec<String> {
    let targets = answer.as_ref().unwrap_or_else(|failure| panic!("{failure:?}"));
    targets.iter().map(short_one).collect()
}

pub fn short_one(target: &Target) -> String {
    let Target { transport, address, priority, weight } = target;
    format!("{} {address} p{priority} w{weight}", transport.param_name())
}

pub fn failure(answer: &Answer) -> Failure {
    *answer.as_ref().expect_err("a failure")
}
