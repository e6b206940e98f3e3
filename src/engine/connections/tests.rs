//! The machine without an engine: what it is asked and told, and what it answers.

use std::time::Duration;

use super::*;
use crate::config::engine::Point;
use crate::config::{Server, ServerAddress};
use crate::dns::{self, Dns, Target};
use crate::engine::io::Output;
use crate::ids::{ShardId, Side};
use crate::limits::LINK_RETRY_MAX;
use crate::rng::Rng;
use crate::server_pool::{MemberView, PairView, TargetView, View};
use crate::sip::Message;
use crate::wheel::Wheel;

const SERVER: Element = Element::Server(0);

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn to(transport: Transport, text: &str) -> NextHop {
    NextHop { transport, address: at(text) }
}

fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

fn target(address: &str, up: bool, why: Evidence) -> TargetView {
    TargetView { address: at(address), priority: 0, weight: 0, up, since: Time(0), why }
}

fn upstream(primary: &[TargetView], backup: &[TargetView]) -> Upstream {
    let member = |targets: &[TargetView]| MemberView { targets: targets.to_vec(), ..MemberView::default() };
    let pair = PairView {
        active: Member::Primary,
        since: Time(0),
        why: Evidence::Start,
        pinned: false,
        outage: None,
        heard: true,
        members: [member(primary), member(backup)],
    };
    Upstream { view: View { pairs: vec![pair] }, peers: Vec::new() }
}

/// One shard of two, its pair at 192.0.2.10 and .11 over one transport, and what the machine is given.
struct Bench {
    env: Env,
    ports: Ports,
    dns: Dns,
    all: Connections,
    now: Time,
}

impl Bench {
    fn new(transport: Transport) -> Self {
        let point = |transport| Point {
            transport,
            bind: at("192.0.2.1:5060"),
            advertised_host: "192.0.2.1".to_owned(),
            advertised_port: 5060,
            side: None,
        };
        let points = vec![point(Transport::Udp), point(Transport::Tcp), point(Transport::Tls)];
        let backup = Some(ServerAddress::Address(at("192.0.2.11:5060")));
        let server = Server { backup, ..Server::at("sips1", at("192.0.2.10:5060"), transport) };
        let env = Env::new(Settings { shards: 2, ..Settings::plain(points, vec![server]) });
        let state = KeyedState(siphasher::sip::SipHasher13::new_with_keys(1, 2));
        let up = |address| target(address, true, Evidence::Start);
        let upstream = upstream(&[up("192.0.2.10:5060")], &[up("192.0.2.11:5060")]);
        Self {
            ports: Ports::new(ShardId(0), Rng::new(&env.settings.seed), Wheel::new(Time(0))),
            dns: Dns::new(dns::Settings::default(), [7; 32]),
            all: Connections::new(upstream, state),
            env,
            now: Time(0),
        }
    }

    fn way(&mut self, element: Element, to: NextHop) -> Way {
        self.all.way_to(to, element, None, &self.env, &mut self.ports, self.now)
    }

    /// Asks for a way, and opens the connection that is asked for.
    fn open(&mut self, element: Element, to: NextHop, conn: ConnId) -> ConnectionKey {
        let Way::Open { key, .. } = self.way(element, to) else { panic!("it is to be opened") };
        self.all.opening(key, conn, self.now);
        key
    }

    fn ready(&mut self, key: ConnectionKey) -> Actions {
        self.all.ready(key, &mut self.ports, self.now)
    }

    fn closed(&mut self, key: ConnectionKey, conn: ConnId, reason: CloseReason) -> Actions {
        self.all.closed(key, conn, reason, &mut self.ports, self.now)
    }

    fn unreachable(&mut self, address: &str) -> Option<Actions> {
        self.all.unreachable(at(address), &self.env, &mut self.ports, self.now)
    }

    fn aims_at(&mut self, address: &str) -> bool {
        self.all.on_aims_at(at(address), &self.env, &mut self.ports, self.now)
    }

    fn heard(&mut self, address: &str) {
        self.all.heard(at(address), &self.env, &mut self.ports, self.now);
    }

    fn pass(&mut self, wait: Duration) {
        self.now = self.now.after(wait);
    }

    fn device(&self) -> Element {
        element_of_device(None, &self.env.keys)
    }

    /// What was said and sent since the last look.
    fn told(&mut self) -> Vec<String> {
        let told = |output| match output {
            Output::Event(event) => event.what.to_owned(),
            Output::Mail { to, mail } => format!("{to:?} {mail:?}"),
            other => format!("{other:?}"),
        };
        self.ports.outputs.drain(..).map(told).collect()
    }
}

#[test]
fn a_connection_is_opened_once_for_several_who_ask() {
    let mut bench = Bench::new(Transport::Tcp);
    let server = to(Transport::Tcp, "192.0.2.10:5060");
    let key = bench.open(SERVER, server, conn(1));
    let flow = FlowRef::Stream { shard: ShardId(0), conn: conn(1), point: PointId(1) };
    assert_eq!(bench.way(SERVER, server), Way::Flow(flow), "while it is being opened");
    bench.all.check([(conn(1), key, false)].into_iter());
    assert_eq!(*bench.ready(key), [Action::Unblock(server)]);
    assert_eq!(bench.way(SERVER, server), Way::Flow(flow));
    assert!(bench.all.is_open(SERVER, server) && !bench.all.is_idle());
    bench.all.check([(conn(1), key, true)].into_iter());
    // Whoever wants TCP for what is too large, or another address, has a connection apart.
    assert!(matches!(bench.way(Element::Large(Side::Server), server), Way::Open { .. }));
    assert!(matches!(bench.way(SERVER, to(Transport::Tcp, "192.0.2.11:5060")), Way::Open { .. }));
}

#[test]
fn what_could_not_be_opened_rests_and_says_why_until_it_is_forgiven() {
    let mut bench = Bench::new(Transport::Tls);
    let server = to(Transport::Tls, "192.0.2.10:5060");
    let key = bench.open(SERVER, server, conn(1));
    let actions = bench.closed(key, conn(1), CloseReason::Connect(ConnectFailure::Tls));
    let seen = (0, server.address, Evidence::Tls);
    let lost = Action::ChecksLost(SentBy::Conn(conn(1)), Evidence::Tls);
    assert_eq!(*actions, [Action::Block(server), lost, Action::Evidence(seen)]);
    assert_eq!(bench.told(), ["SIP Server cannot be reached"]);
    assert_eq!(bench.way(SERVER, server), Way::Resting(Some(ConnectFailure::Tls)));
    bench.pass(LINK_RETRY_MIN);
    let key = bench.open(SERVER, server, conn(2));
    bench.closed(key, conn(2), CloseReason::Connect(ConnectFailure::Refused));
    assert!(bench.told().is_empty(), "it is said once");
    bench.pass(LINK_RETRY_MIN);
    assert!(bench.all.rests(SERVER, server, bench.now), "the second pause is longer");
    bench.all.no_rest(SERVER, server);
    let key = bench.open(SERVER, server, conn(3));
    bench.ready(key);
    assert_eq!(bench.told(), ["SIP Server can be reached again"]);
    assert!(!bench.all.rests(SERVER, server, bench.now));
}

#[test]
fn how_a_connection_ends_says_something_of_a_server_and_nothing_of_others() {
    let end = |element, reason| {
        let mut bench = Bench::new(Transport::Tcp);
        let key = bench.open(element, to(Transport::Tcp, "192.0.2.10:5060"), conn(1));
        bench.ready(key);
        bench.closed(key, conn(1), reason).into_vec()
    };
    let evidence = |reason| match end(SERVER, reason)[..] {
        [Action::ChecksLost(SentBy::Conn(_), lost), Action::Evidence((0, _, evidence))] => Some((lost, evidence)),
        [Action::ChecksLost(SentBy::Conn(_), Evidence::Reset)] => None,
        ref other => panic!("{other:?}"),
    };
    for reason in [CloseReason::Peer, CloseReason::Reset, CloseReason::Dead, CloseReason::SendStalled] {
        assert_eq!(evidence(reason), Some((Evidence::Reset, Evidence::Reset)), "{reason:?}");
    }
    for reason in [CloseReason::Idle, CloseReason::Framing, CloseReason::Panic, CloseReason::Pings] {
        assert_eq!(evidence(reason), None, "{reason:?} is ours");
    }
    assert_eq!(evidence_of(CloseReason::Connect(ConnectFailure::Timeout)), Some(Evidence::ConnectTimeout));
    assert_eq!(evidence_of(CloseReason::Connect(ConnectFailure::Resources)), None);
    assert!(end(Element::Peer(0), CloseReason::Reset).is_empty());
    assert!(end(Element::Large(Side::Server), CloseReason::Reset).is_empty());
}

#[test]
fn the_end_of_a_connection_that_another_has_replaced_changes_nothing() {
    let mut bench = Bench::new(Transport::Tcp);
    let server = to(Transport::Tcp, "192.0.2.10:5060");
    let key = bench.open(SERVER, server, conn(1));
    bench.closed(key, conn(1), CloseReason::Peer);
    bench.open(SERVER, server, conn(2));
    assert!(bench.closed(key, conn(1), CloseReason::Reset).is_empty());
    bench.all.check([(conn(2), key, false)].into_iter());
}

#[test]
#[should_panic(expected = "a connection has lost its slot")]
fn a_connection_without_a_slot_is_found_by_the_check() {
    let mut bench = Bench::new(Transport::Tcp);
    bench.open(SERVER, to(Transport::Tcp, "192.0.2.10:5060"), conn(1));
    bench.all.check(std::iter::empty());
}

#[test]
fn there_is_room_for_so_many_and_what_is_over_gives_way() {
    let mut bench = Bench::new(Transport::Tcp);
    let device = |nth: usize| {
        let [.., high, low] = u32::try_from(nth).expect("it fits").to_be_bytes();
        NextHop { transport: Transport::Tcp, address: SocketAddr::new([198, 51, high, low].into(), 5060) }
    };
    let element = bench.device();
    for nth in 0..LINKS_COUNT_MAX {
        bench.open(element, device(nth), conn(u32::try_from(nth).expect("it fits")));
    }
    assert_eq!(bench.way(element, device(LINKS_COUNT_MAX)), Way::NoRoom);
    assert_eq!(bench.ports.counters.of(Counter::LimitLinksCount), 1);
    assert!(matches!(bench.way(element, device(7)), Way::Flow(_)), "what is there is used");
    bench.closed(ConnectionKey { element, to: device(7) }, conn(7), CloseReason::Idle);
    assert!(matches!(bench.way(element, device(LINKS_COUNT_MAX)), Way::Open { .. }));
}

#[test]
fn no_point_of_ours_means_no_way() {
    let mut bench = Bench::new(Transport::Udp);
    assert_eq!(bench.way(SERVER, to(Transport::Udp, "[2001:db8::10]:5060")), Way::NoPoint);
}

#[test]
fn what_a_certificate_must_carry_is_said_with_the_wish_to_open() {
    let mut bench = Bench::new(Transport::Tls);
    let wanted = |way| match way {
        Way::Open { tls, .. } => tls.map(|tls| (tls.side, tls.expected)),
        other => panic!("{other:?}"),
    };
    let address = |text: &str| crate::config::engine::Expected::Address(text.parse().expect("an address"));
    let backup = to(Transport::Tls, "192.0.2.11:5060");
    assert_eq!(wanted(bench.way(SERVER, backup)), Some((Side::Server, address("192.0.2.11"))));
    let host = crate::config::engine::Expected::Name("mg.test".to_owned());
    let device = to(Transport::Tls, "198.51.100.7:5061");
    let tls = tls_of_device(&host, device.address, &bench.env.settings);
    let element = element_of_device(Some(&tls), &bench.env.keys);
    let way = bench.all.way_to(device, element, Some(&tls), &bench.env, &mut bench.ports, bench.now);
    assert_eq!(wanted(way), Some((Side::Endpoint, host)));
    assert_eq!(wanted(bench.way(Element::Large(Side::Endpoint), to(Transport::Tcp, "198.51.100.7:5060"))), None);
}

#[test]
fn the_other_shards_hear_once_that_a_device_is_sent_to_over_udp() {
    let mut bench = Bench::new(Transport::Udp);
    let (element, device) = (bench.device(), to(Transport::Udp, "198.51.100.7:5060"));
    assert!(!bench.all.aims_at(device, &bench.env));
    for _ in 0..2 {
        assert!(matches!(bench.way(element, device), Way::Flow(FlowRef::Udp { .. })));
    }
    let told = bench.told();
    assert!(matches!(&told[..], [one] if one.starts_with("ShardId(1) AimsAt")), "{told:?}");
    assert!(bench.all.aims_at(device, &bench.env));
    bench.way(SERVER, to(Transport::Udp, "192.0.2.10:5060"));
    assert!(bench.told().is_empty(), "of servers everybody knows");
}

#[test]
fn an_unreachable_address_rests_its_requests_move_and_a_repetition_says_nothing_new() {
    let mut bench = Bench::new(Transport::Udp);
    let server = to(Transport::Udp, "192.0.2.10:5060");
    let actions = bench.unreachable("192.0.2.10:5060").expect("it is news");
    let lost = Action::ChecksLost(SentBy::Udp(server.address), Evidence::Refused);
    let seen = Action::Evidence((0, server.address, Evidence::Refused));
    assert_eq!(*actions, [lost, seen, Action::Block(server), Action::Move(server.address)]);
    assert_eq!(bench.unreachable("192.0.2.10:5060"), None);
    assert_eq!(bench.way(SERVER, server), Way::Resting(Some(ConnectFailure::Refused)));
    bench.heard("192.0.2.10:5060");
    assert!(matches!(bench.way(SERVER, server), Way::Flow(_)));
    assert_eq!(bench.told(), ["SIP Server cannot be reached", "SIP Server can be reached again"]);
    bench.heard("192.0.2.10:5060");
    assert!(bench.told().is_empty());
}

#[test]
fn of_a_phone_nobody_is_told_unless_another_shard_sends_requests_there() {
    let mut bench = Bench::new(Transport::Udp);
    assert_eq!(bench.unreachable("198.51.100.7:5060"), None);
    assert!(!bench.aims_at("198.51.100.8:5060"), "nothing was said of this one");
    assert!(bench.aims_at("198.51.100.7:5060"), "the system was quicker than the mail");
    assert!(!bench.aims_at("198.51.100.7:5060"), "it is said once");
    let device = to(Transport::Udp, "198.51.100.7:5060");
    let actions = bench.unreachable("198.51.100.7:5060").expect("it is a device's now");
    assert_eq!(*actions, [Action::Block(device), Action::Move(device.address)]);
    // What was heard long ago, or pushed out by others, counts no more.
    bench.unreachable("198.51.100.9:5060");
    bench.pass(LINK_RETRY_MIN);
    assert!(!bench.aims_at("198.51.100.9:5060"));
    bench.unreachable("198.51.100.10:5060");
    for port in 0..UNHEARD_COUNT_MAX {
        bench.unreachable(&format!("203.0.113.1:{}", 1_024 + port));
    }
    assert!(!bench.aims_at("198.51.100.10:5060"));
    bench.all.check(std::iter::empty());
}

#[test]
fn a_servers_address_over_udp_is_a_devices_when_its_own_transport_is_another() {
    let mut bench = Bench::new(Transport::Tcp);
    let (element, device) = (bench.device(), to(Transport::Udp, "192.0.2.10:5060"));
    bench.way(element, device);
    assert_eq!(bench.unreachable("192.0.2.10:5060").map(SmallVec::into_vec), {
        Some(vec![Action::Block(device), Action::Move(device.address)])
    });
    bench.heard("192.0.2.10:5060");
    assert!(matches!(bench.way(element, device), Way::Flow(_)));
}

#[test]
fn a_new_verdict_ends_rests_and_says_who_is_back_and_who_is_down() {
    let mut bench = Bench::new(Transport::Udp);
    let (primary, backup) = (to(Transport::Udp, "192.0.2.10:5060"), to(Transport::Udp, "192.0.2.11:5060"));
    bench.unreachable("192.0.2.10:5060");
    bench.unreachable("192.0.2.11:5060");
    let down = upstream(
        &[target("192.0.2.10:5060", false, Evidence::Refused)],
        &[target("192.0.2.11:5060", true, Evidence::Retry)],
    );
    let verdict = bench.all.on_verdict(down, &bench.env.settings);
    assert_eq!(verdict.back, [], "to be tried again is less than heard of");
    assert_eq!(verdict.down, [Down { pair: 0, address: primary.address, refuses: true }]);
    assert!(matches!(bench.way(SERVER, backup), Way::Flow(_)) && matches!(bench.way(SERVER, primary), Way::Resting(_)));
    let up = upstream(
        &[target("192.0.2.10:5060", true, Evidence::Answered)],
        &[target("192.0.2.11:5060", false, Evidence::Silent)],
    );
    let verdict = bench.all.on_verdict(up, &bench.env.settings);
    assert_eq!(verdict.back, [primary]);
    assert_eq!(verdict.down, [Down { pair: 0, address: backup.address, refuses: false }], "silence may end");
    assert!(matches!(bench.way(SERVER, primary), Way::Flow(_)));
    assert!(!bench.all.upstream().answers(1) && bench.all.upstream().answers(0));
}

fn request(text: &str) -> Box<Message> {
    let text = format!(
        "INVITE {text} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bK1\r\nFrom: <sip:a@example.com>;tag=a\r\n\
         To: <sip:b@example.com>;tag=b\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    );
    Message::scan(text.into_bytes(), false).expect("a request")
}

#[test]
fn a_request_goes_to_the_active_server_then_to_its_partner_then_nowhere() {
    let mut bench = Bench::new(Transport::Udp);
    let mut server = |upstream: Upstream, tried: &[SocketAddr], request: Option<&Message>| {
        bench.all.on_verdict(upstream, &bench.env.settings);
        let (all, dns) = (bench.all.upstream(), &mut bench.dns);
        all.server_of(0, request, tried, &bench.env, dns, bench.now).map(|to| to.address)
    };
    let (first, second) = (at("192.0.2.10:5060"), at("192.0.2.11:5060"));
    let up = |address| target(address, true, Evidence::Answered);
    let down = |address| target(address, false, Evidence::Silent);
    let both = || upstream(&[up("192.0.2.10:5060")], &[up("192.0.2.11:5060")]);
    assert_eq!(server(both(), &[], None), Some(first));
    assert_eq!(server(both(), &[first], None), Some(second));
    assert_eq!(server(both(), &[first, second], None), None);
    let dead = || upstream(&[down("192.0.2.10:5060")], &[down("192.0.2.11:5060")]);
    assert_eq!(server(dead(), &[], None), None);
    let mut young = dead();
    young.view.pairs[0].heard = false;
    assert_eq!(server(young, &[], None), Some(first), "it may only be late to start");
    let mut pinned = upstream(&[down("192.0.2.10:5060")], &[up("192.0.2.11:5060")]);
    pinned.view.pairs[0].pinned = true;
    assert_eq!(server(pinned, &[], None), None, "what is pinned stands alone");
    // Of several targets: the one that the Request-URI of a dialog names, else always the same for the same Call-ID.
    let several = || {
        let all = ["192.0.2.20:5060", "192.0.2.21:5060", "192.0.2.22:5060"];
        upstream(&all.map(up), &[])
    };
    let named = request("sip:b@192.0.2.21:5060");
    assert_eq!(server(several(), &[], Some(&named)), Some(at("192.0.2.21:5060")));
    let other = request("sip:b@192.0.2.99:5060");
    let picked = server(several(), &[], Some(&other)).expect("one of them");
    assert_eq!(server(several(), &[], Some(&other)), Some(picked));
    assert_ne!(server(several(), &[picked], Some(&other)), Some(picked));
}

#[test]
fn what_is_seen_of_servers_is_said_only_when_the_owner_does_not_know_it() {
    let bench = Bench::new(Transport::Udp);
    let upstream = bench.all.upstream();
    let backup = at("192.0.2.11:5060");
    let invite = request("sip:b@example.com");
    assert_eq!(upstream.seen_request(&invite, backup, &bench.env), Some((0, backup, Evidence::Request)));
    let elsewhere = at("192.0.2.11:40000");
    assert_eq!(
        upstream.seen_request(&invite, elsewhere, &bench.env),
        Some((0, backup, Evidence::Request)),
        "by its Via"
    );
    assert_eq!(upstream.seen_request(&invite, at("192.0.2.10:5060"), &bench.env), None, "it is the active one");
    assert_eq!(upstream.seen_call_taken(0, backup, &bench.env), Some((0, backup, Evidence::TookCall)));
    let settings = &bench.env.settings;
    assert_eq!(upstream.seen_answer(0, backup, 200, settings), Some((0, backup, Evidence::Answered)));
    assert_eq!(upstream.seen_answer(0, backup, 503, settings), None);
}

#[test]
fn the_targets_of_a_peer_come_in_the_order_of_their_priority() {
    let mut bench = Bench::new(Transport::Udp);
    let peer =
        |address: &str, priority| Target { transport: Transport::Udp, address: at(address), priority, weight: 0 };
    let peers = vec![vec![peer("192.0.2.31:5060", 2), peer("192.0.2.30:5060", 1)]];
    bench.all.on_verdict(Upstream { peers, ..Upstream::default() }, &bench.env.settings);
    let mut order = |peer| -> Vec<SocketAddr> {
        let targets = bench.all.upstream().peer_targets(peer, &mut bench.dns, bench.now);
        targets.iter().map(|target| target.address).collect()
    };
    assert_eq!(order(0), [at("192.0.2.30:5060"), at("192.0.2.31:5060")]);
    assert!(order(1).is_empty());
}

#[test]
fn the_pause_of_an_address_that_stays_away_has_a_bound() {
    let mut bench = Bench::new(Transport::Udp);
    for _ in 0..12 {
        assert!(bench.unreachable("192.0.2.10:5060").is_some());
        bench.pass(LINK_RETRY_MAX);
    }
    assert!(!bench.all.rests(SERVER, to(Transport::Udp, "192.0.2.10:5060"), bench.now));
}
