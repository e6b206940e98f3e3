//! Plays every exchange of the corpus through both proxies, some at a time, and keeps what arrived.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::arrived::{Arrived, Field};
use super::corpus::{Exchange, Make, Side, Transport, Words};
use super::parties::{Arrival, Parties};
use crate::harness::DOMAIN;

/// Exchanges under way at once: so many long messages fit into a socket that the system gives 200 KiB.
const AT_ONCE: usize = 12;
/// Without any message for so long, what has not arrived is lost.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// What became of one exchange through one proxy.
#[derive(Debug, Default)]
pub struct Passage {
    pub request: Option<Arrived>,
    /// In the order of the exchange's answers.
    pub answers: Vec<Arrived>,
    /// What the proxy itself answered instead.
    pub refusal: Option<Arrived>,
}

/// An exchange of a make, and what became of it through either proxy.
pub struct Case<'a> {
    pub make: &'a Make,
    pub exchange: &'a Exchange,
    number: usize,
    /// Bodies that were sent: the request's, then those of the answers.
    pub bodies: Vec<Vec<u8>>,
    pub passages: [Passage; 2],
}

impl Case<'_> {
    /// The other side of the one that sends the request.
    fn receiver(&self) -> Side {
        match self.make.side {
            Side::Phone => Side::Server,
            Side::Server => Side::Phone,
        }
    }

    fn is_over(&self, proxy: usize) -> bool {
        let passage = &self.passages[proxy];
        let is_whole = passage.request.is_some() && passage.answers.len() == self.exchange.answers.len();
        is_whole || passage.refusal.is_some()
    }

    pub fn name(&self) -> String {
        format!("{}, {} ({})", self.make.name, self.exchange.method, self.number)
    }
}

/// How a proxy is reached, and what it has told of itself.
#[derive(Clone, Debug)]
struct Edge {
    sip: SocketAddr,
    /// The Path that it gave the phone that registered over this transport.
    paths: HashMap<&'static str, String>,
}

/// The run.
pub struct Run {
    parties: Parties,
    edges: [Edge; 2],
}

impl Run {
    /// Registers the phone over UDP and TCP through both proxies, whose Paths the server's requests will take.
    pub fn start(parties: Parties, proxies: [SocketAddr; 2]) -> Self {
        let edges = proxies.map(|sip| Edge { sip, paths: HashMap::new() });
        let mut run = Self { parties, edges };
        for proxy in 0..2 {
            for transport in [Transport::Udp, Transport::Tcp] {
                let path = run.register(proxy, transport);
                run.edges[proxy].paths.insert(transport.name(), path);
            }
        }
        run
    }

    fn contact(&self, transport: Transport) -> String {
        let here = self.here(Side::Phone);
        match transport {
            Transport::Udp => format!("sip:phone-udp@{here}"),
            Transport::Tcp => format!("sip:phone-tcp@{here};transport=tcp"),
        }
    }

    fn here(&self, side: Side) -> SocketAddr {
        let socket = if side == Side::Phone { &self.parties.phone } else { &self.parties.server };
        socket.local_addr().expect("it is bound")
    }

    fn register(&mut self, proxy: usize, transport: Transport) -> String {
        let (here, contact, via) = (self.here(Side::Phone), self.contact(transport), transport.name());
        let user = format!("phone-{}", via.to_lowercase());
        let register = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{via} {here};branch=z9hG4bK-set-up-{proxy}-{via};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{user}@{DOMAIN}>;tag=set-up\r\nTo: <sip:{user}@{DOMAIN}>\r\n\
             Call-ID: set-up-{proxy}-{via}\r\nCSeq: 1 REGISTER\r\nContact: <{contact}>;expires=3600\r\n\
             Supported: path\r\nContent-Length: 0\r\n\r\n"
        );
        self.parties.send(Side::Phone, transport, proxy, register.as_bytes());
        let arrived = self.arrival(proxy, Side::Server);
        let path = arrived.joined("Path");
        assert!(!path.is_empty(), "a REGISTER gets a Path: {arrived}");
        let (vias, path_lines) = (arrived.lines("Via"), arrived.lines("Path"));
        let answer = format!(
            "SIP/2.0 200 OK\r\n{vias}\r\n{path_lines}\r\nFrom: <sip:{user}@{DOMAIN}>;tag=set-up\r\n\
             To: <sip:{user}@{DOMAIN}>;tag=server\r\nCall-ID: set-up-{proxy}-{via}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <{contact}>;expires=3600\r\nContent-Length: 0\r\n\r\n"
        );
        self.parties.send(Side::Server, Transport::Udp, proxy, answer.as_bytes());
        let answer = self.arrival(proxy, Side::Phone);
        assert_eq!(answer.status(), Some("200 OK"), "a REGISTER is answered");
        path
    }

    fn arrival(&self, proxy: usize, side: Side) -> Arrived {
        loop {
            let arrival = self.parties.next(SILENCE_MAX).expect("a message");
            let arrived = Arrived::read(&arrival.bytes);
            if (arrival.proxy, arrival.side) == (proxy, side) && !arrived.is_trying() {
                return arrived;
            }
        }
    }

    /// Plays all of them.
    pub fn play<'a>(&mut self, makes: &'a [Make]) -> Vec<Case<'a>> {
        let all = makes.iter().flat_map(|make| make.exchanges.iter().map(move |exchange| (make, exchange)));
        let mut cases: Vec<Case<'a>> = all
            .enumerate()
            .map(|(number, (make, exchange))| Case {
                make,
                exchange,
                number,
                bodies: Vec::new(),
                passages: Default::default(),
            })
            .collect();
        let mut begun = 0;
        loop {
            let under_way = cases[..begun].iter().filter(|case| !(case.is_over(0) && case.is_over(1))).count();
            if begun < cases.len() && under_way < AT_ONCE {
                self.begin(&mut cases[begun]);
                begun += 1;
            } else if under_way == 0 {
                return cases;
            } else {
                let Some(arrival) = self.parties.next(SILENCE_MAX) else { return cases };
                self.take(&mut cases[..begun], &arrival);
            }
        }
    }

    fn words(&self, case: &Case<'_>, proxy: usize, side: Side) -> Words {
        let Case { make, exchange, number, .. } = case;
        let edge = &self.edges[proxy];
        let (here, server, sip) = (self.here(side), self.here(Side::Server), edge.sip);
        let transport = if side == Side::Server { "UDP" } else { make.transport.name() };
        let route = match (make.side, exchange.is_in_dialog, make.transport) {
            (Side::Server, _, transport) => edge.paths[transport.name()].clone(),
            (Side::Phone, true, Transport::Udp) => format!("<sip:{sip};lr>"),
            (Side::Phone, true, Transport::Tcp) => format!("<sip:{sip};transport=tcp;lr>"),
            (Side::Phone, false, _) => String::new(),
        };
        let mut words = Words::default();
        words
            .set("call", format!("hx{number:04}xh"))
            .set("branch", format!("z9hG4bKhx{number:04}xh"))
            .set("tag", format!("tag{number}"))
            .set("number", (number + 1).to_string())
            .set("here", here.to_string())
            .set("host", here.ip().to_string())
            .set("port", here.port().to_string())
            .set("server", server.to_string())
            .set("proxy", sip.to_string())
            .set("transport", transport)
            .set("route", route)
            .set("contact", self.contact(make.transport))
            .set("domain", DOMAIN)
            .set("to-tag", if exchange.is_in_dialog { format!(";tag=their{number}") } else { String::new() });
        words
    }

    fn begin(&mut self, case: &mut Case<'_>) {
        for proxy in 0..2 {
            let bytes = case.make.request(case.exchange, &self.words(case, proxy, case.make.side));
            if proxy == 0 {
                case.bodies.push(Arrived::read(&bytes).body);
            }
            self.parties.send(case.make.side, case.make.transport, proxy, &bytes);
        }
    }

    fn take(&mut self, cases: &mut [Case<'_>], arrival: &Arrival) {
        let arrived = Arrived::read(&arrival.bytes);
        let number = arrived.value("Call-ID").and_then(|id| id.split_once("hx")?.1.get(..4)?.parse::<usize>().ok());
        let Some(case) = number.and_then(|number| cases.get_mut(number)) else { return };
        let (proxy, receiver) = (arrival.proxy, case.receiver());
        let passage = &mut case.passages[proxy];
        let got = passage.answers.len();
        match arrived.status() {
            // The ACK to a refusal goes from hop to hop, and is the proxy's own.
            None if arrival.side == receiver
                && arrived.method() == case.exchange.method
                && passage.request.is_none() =>
            {
                passage.request = Some(arrived);
                self.answer(case, proxy);
            }
            Some(status) if !arrived.is_trying() && arrival.side != receiver && passage.refusal.is_none() => {
                let answers = &case.exchange.answers;
                // A final answer to an INVITE comes again, for nobody acknowledges it.
                if answers[..got].iter().any(|(sent, _)| sent == status) {
                    return;
                }
                if passage.request.is_some() && answers.get(got).is_some_and(|(sent, _)| sent == status) {
                    passage.answers.push(arrived);
                    self.answer(case, proxy);
                } else {
                    passage.refusal = Some(arrived);
                }
            }
            _ => {}
        }
    }

    /// Sends the next answer to a request that has arrived.
    fn answer(&mut self, case: &mut Case<'_>, proxy: usize) {
        let side = case.receiver();
        let passage = &case.passages[proxy];
        let (nth, request) = (passage.answers.len(), passage.request.as_ref().expect("it has arrived"));
        let Some(answer) = case.exchange.answers.get(nth) else { return };
        let to = request.value("To").expect("every request has one");
        let tag = if to.contains("tag=") { String::new() } else { format!(";tag=their{}", case.number) };
        let mut words = self.words(case, proxy, side);
        words
            .set("via", request.lines("Via"))
            .set("vias", request.joined("Via"))
            .set("record-route", request.lines("Record-Route"))
            .set("record-routes", request.joined("Record-Route"))
            .set("path", request.lines("Path"))
            .set("from", request.value("From").expect("every request has one"))
            .set("to", format!("{to}{tag}"))
            .set("call-id", request.value("Call-ID").expect("every request has one"))
            .set("cseq", request.value("CSeq").expect("every request has one"))
            .set("registered", request.joined("Contact"));
        let bytes = case.make.response(answer, &words);
        if case.bodies.len() == nth + 1 {
            case.bodies.push(Arrived::read(&bytes).body);
        }
        self.parties.send(side, case.make.transport, proxy, &bytes);
    }

    /// A message that has arrived by a proxy, with that proxy's own addresses taken for PROXY, and the port of the
    /// phone's connection to it for PHONE.
    pub fn disguise(&self, proxy: usize, message: &Arrived) -> Arrived {
        let (sip, port) = (self.edges[proxy].sip.to_string(), self.parties.port_at(proxy));
        let mut message = message.clone();
        for Field { value, .. } in &mut message.fields {
            *value = value.replace(&sip, "PROXY").replace(&port.to_string(), "PHONE");
        }
        message
    }
}
