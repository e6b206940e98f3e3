//! Names, with dnsmasq as the resolver: over UDP and TCP, while it answers and when it does not any more.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hawser::dns::{Answer, Failure, NameState, Question};
use hawser::ids::Transport;
use hawser::limits::{DNS_NAME_MAX, DNS_TRY_MAX};
use hawser::stats::Counter;

use crate::harness::Scratch;
use crate::harness::dnsmasq::Dnsmasq;
use crate::harness::resolver::with_resolver;

fn question(host: &str, transport: Option<Transport>) -> Question {
    Question { host: host.into(), port: None, transport, secure: false }
}

/// `udp 10.0.0.1:5060`, in the order of the answer.
fn targets(answer: &Answer) -> Vec<String> {
    let targets = answer.as_ref().unwrap_or_else(|failure| panic!("{failure:?}"));
    targets.iter().map(|target| format!("{} {}", target.transport.param_name(), target.address)).collect()
}

/// A set of four weights and one of another priority.
const POOL: &[&str] = &[
    "srv-host=_sip._udp.pool.test,w1.test,5061,10,10",
    "srv-host=_sip._udp.pool.test,w2.test,5062,10,20",
    "srv-host=_sip._udp.pool.test,w3.test,5063,10,30",
    "srv-host=_sip._udp.pool.test,w4.test,5064,10,40",
    "srv-host=_sip._udp.pool.test,last.test,5065,20,99",
    "host-record=w1.test,10.0.0.1",
    "host-record=w2.test,10.0.0.2",
    "host-record=w3.test,10.0.0.3",
    "host-record=w4.test,10.0.0.4",
    "host-record=last.test,10.0.0.5,2001:db8::5",
];

#[test]
fn srv_targets_are_tried_by_priority_and_as_often_as_their_weights_say() {
    let scratch = Scratch::new("dns");
    let dnsmasq = Dnsmasq::start(&scratch, 60, POOL);
    with_resolver(vec![dnsmasq.address], |mut resolver| {
        let answer = resolver.ask(&question("pool.test", Some(Transport::Udp))).expect("it is there");
        assert_eq!(answer.len(), 6);
        let now = resolver.now();
        let mut firsts = [0_u32; 4];
        for _ in 0..10_000 {
            let order = resolver.dns.order(&answer, now);
            firsts[usize::from(order[0].address.port() - 5061)] += 1;
            assert!(order[..4].iter().all(|target| target.priority == 10));
            assert!(order[4..].iter().all(|target| target.priority == 20));
        }
        let terms = firsts.iter().zip([1_000.0, 2_000.0, 3_000.0, 4_000.0]);
        let chi_square: f64 = terms.map(|(n, expected)| (f64::from(*n) - expected).powi(2) / expected).sum();
        // Three degrees of freedom, 1 %. The seed is fixed.
        assert!(chi_square < 11.34, "{firsts:?}");
        resolver.settle();
    });
}

#[test]
fn naptr_leads_to_srv_and_srv_to_addresses_of_both_families() {
    let scratch = Scratch::new("dns");
    let mut lines = POOL.to_vec();
    lines.extend([
        "naptr-record=voip.test,10,20,s,SIP+D2T,,_sip._tcp.voip.test",
        "naptr-record=voip.test,10,10,s,SIPS+D2T,,_sips._tcp.voip.test",
        "srv-host=_sips._tcp.voip.test,last.test,5061,1,1",
        "srv-host=_sip._tcp.voip.test,w1.test,5060,1,1",
        "srv-host=_sips._tls.genesys.test,w2.test,5061,1,1",
        "cname=alias.test,w3.test",
    ]);
    let dnsmasq = Dnsmasq::start(&scratch, 60, &lines);
    with_resolver(vec![dnsmasq.address], |mut resolver| {
        let answer = resolver.ask(&question("voip.test", None));
        assert_eq!(targets(&answer), ["tls 10.0.0.5:5061", "tls [2001:db8::5]:5061"]);
        let answer = resolver.ask(&question("genesys.test", Some(Transport::Tls)));
        assert_eq!(targets(&answer), ["tls 10.0.0.2:5061"], "the form that Genesys SIP Server publishes");
        let answer = resolver.ask(&question("alias.test", None));
        assert_eq!(targets(&answer), ["udp 10.0.0.3:5060"], "no NAPTR, no SRV, an alias");
        resolver.settle();
    });
}

#[test]
fn a_name_that_does_not_exist_is_told_from_one_without_records() {
    let scratch = Scratch::new("dns");
    let dnsmasq = Dnsmasq::start(&scratch, 60, &["txt-record=empty.test,x"]);
    with_resolver(vec![dnsmasq.address], |mut resolver| {
        let gone = Question { port: Some(5060), ..question("gone.test", None) };
        assert_eq!(resolver.ask(&gone), Err(Failure::NoSuchName));
        let empty = Question { port: Some(5060), ..question("empty.test", None) };
        assert_eq!(resolver.ask(&empty), Err(Failure::NoRecords));
        resolver.settle();
    });
}

#[test]
fn a_set_that_does_not_fit_a_datagram_comes_over_tcp() {
    let scratch = Scratch::new("dns");
    let mut lines = Vec::new();
    for n in 0..40 {
        let name = format!("a-rather-long-name-of-a-server-{n}.somewhere.test");
        lines.push(format!("srv-host=_sip._tcp.big.test,{name},5060,{n},1"));
        lines.push(format!("host-record={name},10.0.1.{n}"));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let dnsmasq = Dnsmasq::start(&scratch, 60, &lines);
    with_resolver(vec![dnsmasq.address], |mut resolver| {
        let answer = resolver.ask(&question("big.test", Some(Transport::Tcp)));
        let expected: Vec<String> = (0..40).map(|n| format!("tcp 10.0.1.{n}:5060")).collect();
        assert_eq!(targets(&answer), expected);
        assert_eq!(resolver.of(Counter::DnsTcpFallback), 1);
        assert_eq!(resolver.of(Counter::DnsAnswerTruncated), 1);
        resolver.settle();
    });
}

#[test]
fn a_resolver_that_refuses_and_one_that_is_silent_make_way_for_one_that_answers() {
    let scratch = Scratch::new("dns");
    let lame = Dnsmasq::start(&scratch, 60, &[]);
    // `.example` is nobody's here, so it is refused.
    let right = Dnsmasq::start(&scratch, 60, &["local=/example/", "host-record=a.example,10.0.0.1"]);
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let resolvers = vec![lame.address, silent.local_addr().expect("bound"), right.address];
    with_resolver(resolvers, |mut resolver| {
        let asked = Question { port: Some(5060), ..question("a.example", None) };
        let begun = Instant::now();
        assert_eq!(targets(&resolver.ask(&asked)), ["udp 10.0.0.1:5060"]);
        assert!(begun.elapsed() >= DNS_TRY_MAX, "the silent one had its time");
        assert_eq!(resolver.of(Counter::DnsAnswerRefused), 2, "A and AAAA");
        assert_eq!(resolver.of(Counter::DnsTimeout), 2);
        let other = Question { port: Some(5060), ..question("b.example", None) };
        assert_eq!(resolver.ask(&other), Err(Failure::NoSuchName));
        assert_eq!(resolver.of(Counter::DnsTimeout), 2, "the one that answers is asked first now");
        resolver.settle();
    });
}

#[test]
fn records_expire_and_are_asked_for_again() {
    let scratch = Scratch::new("dns");
    let first = Dnsmasq::start(&scratch, 30, &["host-record=a.test,10.0.0.1"]);
    let port = first.address.port();
    with_resolver(vec![first.address], move |mut resolver| {
        let asked = Question { port: Some(5060), ..question("a.test", None) };
        assert_eq!(targets(&resolver.ask(&asked)), ["udp 10.0.0.1:5060"]);
        drop(first);
        let _second = Dnsmasq::at(&scratch, port, 30, &["host-record=a.test,10.0.0.2"]);
        resolver.skip(Duration::from_secs(15));
        assert_eq!(targets(&resolver.ask(&asked)), ["udp 10.0.0.1:5060"], "it is fresh");
        resolver.skip(Duration::from_secs(15));
        assert_eq!(targets(&resolver.ask(&asked)), ["udp 10.0.0.2:5060"]);
        resolver.settle();
    });
}

#[test]
fn a_dead_resolver_costs_no_name_that_was_known() {
    let scratch = Scratch::new("dns");
    let dnsmasq = Dnsmasq::start(&scratch, 30, POOL);
    let (address, port) = (dnsmasq.address, dnsmasq.address.port());
    with_resolver(vec![address], move |mut resolver| {
        let pool = question("pool.test", Some(Transport::Udp));
        let fresh = resolver.ask(&pool);
        assert_eq!(targets(&fresh).len(), 6);

        // Frozen: silence. Those who ask first wait a moment, all others not at all.
        dnsmasq.freeze();
        resolver.skip(Duration::from_secs(31));
        let waiters: Vec<u64> = (0..200).map(|_| resolver.begin(&pool)).collect();
        for waiter in waiters {
            assert_eq!(resolver.wait(waiter), fresh);
        }
        let now = resolver.now();
        assert_eq!(resolver.dns.names(now)[0].state, NameState::Stale);
        assert_eq!(resolver.of(Counter::DnsAskedStale), 200);
        for _ in 0..200 {
            let waiter = resolver.begin(&pool);
            assert_eq!(resolver.wait(waiter), fresh);
        }
        assert_eq!(resolver.of(Counter::DnsAskedResolvers), 201, "nobody waited again");
        resolver.settle();

        // Gone: refused. Nothing is left of waiting.
        drop(dnsmasq);
        resolver.skip(Duration::from_secs(31));
        let asked = resolver.of(Counter::DnsAskedResolvers);
        assert_eq!(resolver.ask(&pool), fresh);
        resolver.settle();
        assert!(resolver.of(Counter::DnsSocketError) > 0, "the system tells that nobody listens");
        assert_eq!(resolver.of(Counter::DnsAskedResolvers), asked);
        let unknown = Question { port: Some(5060), ..question("unknown.test", None) };
        assert_eq!(resolver.ask(&unknown), Err(Failure::Unanswered));

        // Back again, with something else to say.
        let _second = Dnsmasq::at(&scratch, port, 30, &["host-record=pool.test,10.0.0.9"]);
        resolver.skip(Duration::from_secs(31));
        assert_eq!(resolver.ask(&pool), fresh, "expired records serve while it is asked");
        resolver.settle();
        assert_eq!(targets(&resolver.ask(&pool)), ["udp 10.0.0.9:5060"]);
    });
}

#[test]
fn a_frozen_resolver_is_given_up_in_time_and_used_again_when_it_goes_on() {
    let scratch = Scratch::new("dns");
    let dnsmasq = Dnsmasq::start(&scratch, 30, POOL);
    with_resolver(vec![dnsmasq.address], move |mut resolver| {
        let asked = Question { port: Some(5060), ..question("w1.test", None) };
        dnsmasq.freeze();
        let begun = Instant::now();
        assert_eq!(resolver.ask(&asked), Err(Failure::Unanswered));
        assert!(begun.elapsed() >= DNS_NAME_MAX - Duration::from_millis(10));
        assert!(resolver.of(Counter::DnsTimeout) >= 2);
        resolver.settle();
        dnsmasq.thaw();
        resolver.skip(Duration::from_secs(10));
        assert_eq!(targets(&resolver.ask(&asked)), ["udp 10.0.0.1:5060"]);
        resolver.settle();
    });
}
