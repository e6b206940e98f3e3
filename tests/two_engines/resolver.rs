//! A resolver that answers the engines from a zone, or keeps them waiting.

use std::net::SocketAddr;

use hawser::dns::Output;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NAPTR, SRV};
use hickory_proto::rr::{Name, RData, Record};

pub const RESOLVER: &str = "127.0.0.1:53";

/// See the module.
pub struct Resolver {
    zone: Vec<Record>,
    /// Seconds that the records of the next zone are kept.
    pub ttl: u32,
    /// It says nothing.
    pub silent: bool,
    /// What it was asked, as `TYPE name`.
    pub asked: Vec<String>,
}

/// What it says, to whom.
pub struct Answer {
    pub exchange: u32,
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

/// `name TYPE data…`.
fn record(line: &str, ttl: u32) -> Record {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u16>().expect("a number");
    let data = match words[1] {
        "A" => RData::A(A(words[2].parse().expect("an address"))),
        "AAAA" => RData::AAAA(AAAA(words[2].parse().expect("an address"))),
        "SRV" => RData::SRV(SRV::new(number(2), number(3), number(4), name(words[5]))),
        "NAPTR" => {
            let bytes = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
            RData::NAPTR(NAPTR::new(10, 10, bytes("s"), bytes(words[2]), bytes(""), name(words[3])))
        }
        other => panic!("{other}"),
    };
    Record::from_rdata(name(words[0]), ttl, data)
}

impl Default for Resolver {
    fn default() -> Self {
        Self { zone: Vec::new(), ttl: 600, silent: false, asked: Vec::new() }
    }
}

impl Resolver {
    /// The only records that there are.
    pub fn set_zone(&mut self, lines: &[&str]) {
        self.zone = lines.iter().map(|line| record(line, self.ttl)).collect();
    }

    pub fn take(&mut self, output: Output) -> Option<Answer> {
        let Output::Send { exchange, to, bytes, .. } = output else { return None };
        let question = Message::from_vec(&bytes).expect("a DNS message");
        let query: Query = question.queries[0].clone();
        let asked = query.name().to_ascii().to_ascii_lowercase();
        self.asked.push(format!("{} {}", query.query_type(), asked.trim_end_matches('.')));
        if self.silent {
            return None;
        }
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        let own = || self.zone.iter().filter(|record| record.name == *query.name());
        if own().next().is_none() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer.add_answers(own().filter(|record| record.record_type() == query.query_type()).cloned());
        answer.add_query(query);
        Some(Answer { exchange, from: to, bytes: answer.to_vec().expect("it can be written") })
    }
}
