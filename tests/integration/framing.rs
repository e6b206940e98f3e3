//! Where a message's bytes are cut makes no difference: a MESSAGE with a folded line and a blank line in its body is
//! sent in two pieces, cut at every byte, and three and a half of them are sent at once; what the SIP Server gets is
//! the same each time. Over TCP, and over TLS cut into records and into segments within a record.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::client::Client;
use crate::harness::datagrams::Datagrams;
use crate::harness::proxy::{Proxy, Settings};
use crate::harness::text::{answer, field};
use crate::harness::{DOMAIN, Scratch};

/// A message that differs from its like in six digits only.
fn message(number: usize) -> String {
    let body = "one\r\n\r\ntwo\r\n";
    format!(
        "MESSAGE sip:9000@{DOMAIN} SIP/2.0\r\n\
         Via: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK{number:06}\r\n\
         From: \"Split, here\" <sip:raw@{DOMAIN}>;tag=1\r\nTo: <sip:9000@{DOMAIN}>\r\nCall-ID: {number:06}\r\n\
         CSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\nSubject: folded\r\n  over two lines\r\n\
         c: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The SIP Server: answers what it gets with 200.
struct Server {
    udp: Datagrams,
    served: BTreeSet<String>,
}

impl Server {
    /// The next message, answered; with its six digits, and with them and the proxy's own branch made equal. What the
    /// proxy sends again is answered again, and is no next message.
    fn serve(&mut self) -> (String, String) {
        loop {
            let (message, from) = self.udp.receive();
            self.udp.send(from, &answer(&message, "200 OK", "2", ""));
            let number = field(&message, "Call-ID").expect("a Call-ID").to_owned();
            if self.served.insert(number.clone()) {
                let via = field(&message, "Via").expect("a Via");
                let branch = via.split_once("branch=").expect("a branch").1;
                let branch = branch.split([';', ',', '\r']).next().expect("split gives one").to_owned();
                return (number.clone(), message.replace(&branch, "BRANCH").replace(&number, "NUMBER"));
            }
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The message: over TLS, each part is a record of its own.
    Message,
    /// The bytes on the wire: over TLS, within a record.
    Wire,
}

fn bytes_may_be_cut_anywhere(scratch: &Scratch, connect: impl FnOnce(&Settings) -> Client, cut: Cut) {
    let settings = Settings::new(scratch);
    let udp = Datagrams::bind((Ipv4Addr::LOCALHOST, settings.server_port).into());
    let mut server = Server { udp, served: BTreeSet::new() };
    let proxy = Proxy::start(scratch, settings);
    let mut client = connect(&proxy.settings);

    let whole = client.seal(message(0).as_bytes());
    client.send_and_be_read(&whole);
    let (_, expected) = server.serve();
    assert!(expected.contains("one\r\n\r\ntwo\r\n"), "{expected}");
    assert!(client.receive().starts_with("SIP/2.0 200 "));

    let len = match cut {
        Cut::Message => message(0).len(),
        Cut::Wire => whole.len(),
    };
    for at in 1..len {
        let message = message(at);
        let (first, second) = match cut {
            Cut::Message => {
                let (first, second) = message.as_bytes().split_at(at);
                (client.seal(first), client.seal(second))
            }
            Cut::Wire => {
                let mut first = client.seal(message.as_bytes());
                let second = first.split_off(at);
                (first, second)
            }
        };
        client.send_and_be_read(&first);
        client.send_and_be_read(&second);
        let (_, got) = server.serve();
        assert_eq!(got, expected, "cut at byte {at}");
        let answer = client.receive();
        assert!(answer.starts_with("SIP/2.0 200 "), "cut at byte {at}: {answer}");
        assert_eq!(field(&answer, "Call-ID"), Some(format!("{at:06}").as_str()));
    }

    // Three in one segment, with the half of a fourth behind them.
    let numbers = [900_001, 900_002, 900_003, 900_004];
    let mut all: String = numbers.map(message).concat();
    let rest = all.split_off(all.len() - 100);
    let (first, second) = (client.seal(all.as_bytes()), client.seal(rest.as_bytes()));
    client.send_and_be_read(&first);
    let mut got = BTreeMap::new();
    for _ in 0..3 {
        let (number, message) = server.serve();
        got.insert(number, message);
    }
    client.send_and_be_read(&second);
    let (number, message) = server.serve();
    got.insert(number, message);
    let mut answered: Vec<String> = numbers.iter().map(|_| client.receive()).collect();
    answered.sort_by_key(|answer| field(answer, "Call-ID").map(str::to_owned));
    for (answer, number) in answered.iter().zip(numbers) {
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        assert_eq!(field(answer, "Call-ID"), Some(number.to_string().as_str()));
        assert_eq!(got[&number.to_string()], expected, "pipelined");
    }
}

#[test]
fn a_message_over_tcp_may_be_cut_at_any_byte() {
    let scratch = Scratch::new("cut-tcp");
    bytes_may_be_cut_anywhere(&scratch, |settings| Client::tcp(loopback(settings.sip_port)), Cut::Wire);
}

#[test]
fn a_message_over_tls_may_be_cut_into_records_at_any_byte() {
    let scratch = Scratch::new("cut-records");
    let connect = |settings: &Settings| Client::tls(loopback(settings.tls_port), &settings.certificates);
    bytes_may_be_cut_anywhere(&scratch, connect, Cut::Message);
}

#[test]
fn a_tls_record_may_be_cut_into_segments_at_any_byte() {
    let scratch = Scratch::new("cut-segments");
    let connect = |settings: &Settings| Client::tls(loopback(settings.tls_port), &settings.certificates);
    bytes_may_be_cut_anywhere(&scratch, connect, Cut::Wire);
}
