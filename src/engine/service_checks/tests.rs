//! The owner without an engine: what it wants sent, and what it makes of answers and names.

use std::sync::Arc;

use super::*;
use crate::config::engine::{Live, Point};
use crate::dns::{self, Failure};
use crate::engine::io::Output as EngineOutput;
use crate::ids::{ConnId, PointId, Transport};
use crate::rng::Rng;
use crate::wheel::Wheel;

const PRIMARY: &str = "192.0.2.10:5060";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn targets(addresses: &[&str]) -> Answer {
    let target = |text: &&str| Target { transport: Transport::Udp, address: at(text), priority: 0, weight: 0 };
    Ok(addresses.iter().map(target).collect::<Vec<_>>().into())
}

struct Bench {
    env: Env,
    ports: Ports,
    checks: ServiceChecks,
    now: Time,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let point = Point {
            transport: Transport::Udp,
            bind: at("192.0.2.1:5060"),
            advertised_host: "192.0.2.1".to_owned(),
            advertised_port: 5060,
            side: None,
        };
        let mut settings = Settings::plain(vec![point], vec![Server::at("sips1", at(PRIMARY), Transport::Udp)]);
        settings.live = Live { oos_check: Duration::from_secs(5), ..settings.live };
        change(&mut settings);
        let env = Env::new(settings);
        let state = KeyedState(siphasher::sip::SipHasher13::new_with_keys(1, 2));
        let checks = ServiceChecks::new(&env.settings, state, Time(0));
        let ports = Ports::new(OWNER, Rng::new(&env.settings.seed), Wheel::new(Time(0)));
        Self { env, ports, checks, now: Time(0) }
    }

    /// All that it wants done, with a check sent on the flow that is given.
    fn pump(&mut self, flow: Option<FlowRef>) -> (Vec<Vec<u8>>, Vec<Upstream>) {
        let (mut sent, mut verdicts) = (Vec::new(), Vec::new());
        while let Some(action) = self.checks.poll(&mut self.ports) {
            match action {
                Action::Verdict(upstream) => verdicts.push(upstream),
                Action::Send { id, address, .. } => {
                    let to = NextHop { transport: Transport::Udp, address };
                    match flow {
                        Some(flow) => {
                            sent.push(self.checks.send(id, to, flow, &self.env, &mut self.ports, self.now));
                        }
                        None => self.checks.lost(id, Evidence::Unreachable, self.now),
                    }
                }
            }
        }
        self.checks.check();
        (sent, verdicts)
    }

    /// Fires what is due until a time, and gives what is sent again.
    fn pass(&mut self, wait: Duration) -> usize {
        let end = self.now.after(wait);
        let mut again = 0;
        while let Some(next) = self.ports.wheel.next().filter(|next| *next <= end) {
            self.now = next;
            while let Some(timer) = self.ports.wheel.poll(self.now) {
                if let Timer::Ping(nonce) = timer {
                    let sent = self.checks.on_check_timer(nonce, &self.env, &mut self.ports, self.now);
                    again += usize::from(sent.is_some());
                }
            }
        }
        self.now = end;
        again
    }

    fn answer(&mut self, check: &[u8], code: u16, from: &str) -> bool {
        let check = Message::scan(check.to_vec(), false).expect("a check");
        let branch = crate::transaction::Branch::read(check.text(check.top_via().branch)).expect("a branch of ours");
        let text = format!(
            "SIP/2.0 {code} OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx\r\nFrom: <sip:a@example.com>;tag=a\r\n\
             To: <sip:b@example.com>;tag=b\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        let message = Message::scan(text.into_bytes(), false).expect("a response");
        let side = if from == PRIMARY { Side::Server } else { Side::Endpoint };
        let source =
            Source { flow: udp(from), peer: at(from), side, is_peer: false, is_forwarded: false, binding: None };
        self.checks.on_response(branch.nonce, &message, &source, &mut self.ports, self.now)
    }

    /// What an operator has been told since the last look.
    fn told(&mut self) -> Vec<&'static str> {
        let told = |output| match output {
            EngineOutput::Event(event) => event.what,
            other => panic!("{other:?}"),
        };
        self.ports.outputs.drain(..).map(told).collect()
    }
}

fn udp(remote: &str) -> FlowRef {
    FlowRef::Udp { shard: OWNER, point: PointId(0), remote: at(remote) }
}

#[test]
fn a_check_is_repeated_until_its_answer_comes_from_where_it_was_sent() {
    let mut bench = Bench::new(|_| {});
    let (sent, _) = bench.pump(Some(udp(PRIMARY)));
    let [check] = &sent[..] else { panic!("one server, one check") };
    assert!(check.starts_with(b"OPTIONS sip:192.0.2.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch="));
    assert_eq!(bench.pass(Duration::from_millis(1_600)), 2, "after 500 ms and after another second (Timer E)");
    assert!(!bench.answer(check, 200, "203.0.113.5:5060"));
    assert!(bench.answer(check, 100, PRIMARY));
    assert_eq!(bench.checks.checks.len(), 1, "a provisional response ends nothing");
    assert!(bench.answer(check, 200, PRIMARY));
    let (sent, verdicts) = bench.pump(None);
    assert!(sent.is_empty());
    assert_eq!(verdicts.last().map(|upstream| upstream.view.pairs[0].heard), Some(true));
    assert_eq!(bench.checks.timers(), 1, "the pool's own is left");
    assert!(bench.answer(check, 200, PRIMARY));
    assert_eq!(bench.ports.counters.of(Counter::ResponseStray), 1, "it is over");
}

#[test]
fn a_check_on_a_connection_is_sent_once_and_lost_with_it() {
    let mut bench = Bench::new(|settings| {
        settings.points[0].transport = Transport::Tcp;
        settings.servers[0].transport = Transport::Tcp;
    });
    let conn = ConnId { slot: 3, generation: 1 };
    let flow = FlowRef::Stream { shard: OWNER, conn, point: PointId(0) };
    assert_eq!(bench.pump(Some(flow)).0.len(), 1);
    assert_eq!(bench.pass(Duration::from_secs(4)), 0);
    let other = ConnId { slot: 3, generation: 2 };
    let is_on = |gone| move |flow| matches!(flow, FlowRef::Stream { conn, .. } if conn == gone);
    assert!(bench.checks.end_those_on(is_on(other), &mut bench.ports).is_empty());
    let lost = bench.checks.end_those_on(is_on(conn), &mut bench.ports);
    assert_eq!(lost.len(), 1);
    bench.checks.lost(lost[0], Evidence::Reset, bench.now);
    assert!(bench.checks.checks.is_empty());
    bench.pump(None);
}

#[test]
fn who_cannot_be_reached_is_down() {
    let mut bench = Bench::new(|_| {});
    for _ in 0..3 {
        bench.pump(None);
        bench.now = bench.now.after(Duration::from_secs(6));
        bench.checks.on_pool_timer(bench.now);
    }
    let (up, all) = bench.checks.answering();
    assert_eq!((up, all), (0, 1));
    let (sent, _) = bench.pump(Some(udp(PRIMARY)));
    bench.answer(&sent[0], 200, PRIMARY);
    bench.pump(None);
    assert_eq!(bench.checks.answering(), (1, 1));
    assert_eq!(bench.checks.pin("nobody", None, bench.now), Err(PinFault::Pair));
}

#[test]
fn a_peers_new_targets_are_a_verdict_and_the_same_ones_again_are_not() {
    let mut bench = Bench::new(|settings| {
        settings.peers = vec![PeerProxy {
            name: "site2".to_owned(),
            servers: Vec::new(),
            contact: Host::Name("proxy.test".to_owned()),
            protocol: Transport::Udp,
            port_tls: None,
            tls_name: None,
            verify: crate::config::Verify::Name,
            setup: None,
        }];
    });
    bench.pump(None);
    assert_eq!(bench.checks.names_due(bench.now), Some(vec![0]));
    for (answer, verdicts) in [(targets(&["192.0.2.30:5060"]), 1), (targets(&["192.0.2.30:5060"]), 0)] {
        bench.checks.on_answer(0, answer, &bench.env, &mut bench.ports, bench.now);
        let (_, said) = bench.pump(None);
        assert_eq!(said.len(), verdicts);
    }
    assert_eq!(bench.checks.upstream().peers[0][0].address, at("192.0.2.30:5060"));
    bench.told();
    bench.checks.on_answer(0, Err(Failure::NoSuchName), &bench.env, &mut bench.ports, bench.now);
    assert_eq!(bench.told(), ["the name of a peer proxy does not resolve"]);
    assert!(bench.pump(None).1[0].peers[0].is_empty());
}

#[test]
fn a_pools_name_without_our_address_is_said_once_and_cleared() {
    let mut bench = Bench::new(|settings| {
        settings.dns = dns::Settings { resolvers: vec![at("192.0.2.53:53")], ..dns::Settings::default() };
        settings.live.domains = vec!["pool.test".to_owned()];
    });
    bench.pump(None);
    bench.told();
    let answers = [
        targets(&["192.0.2.2:5060"]),
        targets(&["192.0.2.3:5060"]),
        Err(Failure::Unanswered),
        targets(&["192.0.2.3:5060", "192.0.2.1:5060"]),
        Ok(Arc::new([])),
    ];
    for answer in answers {
        bench.checks.on_answer(0, answer, &bench.env, &mut bench.ports, bench.now);
    }
    let said = "40000 the DNS list of the pool does not hold this proxy";
    assert_eq!(bench.told(), [said, "40000 cleared: the DNS list of the pool holds this proxy", said]);
    assert_eq!(bench.checks.names_due(bench.now), Some(vec![0]));
    assert_eq!(bench.checks.names_due(bench.now), Some(Vec::new()), "the pool's names are compared once a minute");
}
