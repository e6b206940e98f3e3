//! The lab's own messages, read off the wire by a bare UDP socket that plays a proxy.

use crate::bench::{Bench, Place};
use crate::net::{TlsSettings, Transport};
use crate::registrar::{PathPolicy, Policy};
use crate::server::{Habits, Plan, Step};
use crate::stack::Timers;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
const QUICK: Timers = Timers { t1_us: 20_000, t2_us: 80_000, give_up_us: 400_000, linger_us: 400_000 };

struct Scene {
    bench: Bench,
    server: SocketAddr,
    proxy: UdpSocket,
}

fn scene(path: PathPolicy) -> Scene {
    let mut bench = Bench::new(TlsSettings::default(), QUICK).expect("a bench");
    let listen = Place { transport: Transport::Udp, addr: "127.0.0.1:0".parse().expect("an address") };
    let policy = Policy { path, ..Policy::default() };
    let places = bench.add_server(&[listen], policy, Habits::default()).expect("a socket");
    let proxy = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    proxy.set_nonblocking(true).expect("a socket that does not wait");
    Scene { bench, server: places[0].addr, proxy }
}

impl Scene {
    fn address(&self) -> SocketAddr {
        self.proxy.local_addr().expect("a bound socket")
    }

    fn say(&self, text: &str) {
        self.proxy.send_to(text.replace('\n', "\r\n").as_bytes(), self.server).expect("sent");
    }

    /// The next datagram that the server sends.
    fn hear(&mut self) -> String {
        let mut buffer = [0; 4_096];
        let mut heard = None;
        let proxy = &self.proxy;
        self.bench
            .turn_until(DEADLINE, |_| {
                heard = heard.or_else(|| proxy.recv(&mut buffer).ok());
                heard.is_some()
            })
            .expect("turns");
        String::from_utf8_lossy(&buffer[..heard.expect("a datagram in time")]).into_owned()
    }

    fn register(&mut self, extra: &str) -> String {
        let here = self.address();
        self.say(&format!(
            "REGISTER sip:x SIP/2.0\nVia: SIP/2.0/UDP {here};branch=z9hG4bKr\nVia: SIP/2.0/TLS 192.0.2.7;branch=z9hG4bKs\n\
             From: <sip:ann@x>;tag=f\nTo: <sip:ann@x>\nCall-ID: r\nCSeq: 1 REGISTER\nContact: <sip:ann@192.0.2.7>\n{extra}\n"
        ));
        self.hear()
    }

    fn answer(&self, request: &str, status: &str, extra: &str) {
        let kept = ["Via", "From", "To", "Call-ID", "CSeq"];
        let mut text = format!("SIP/2.0 {status}\n");
        for line in request.lines().filter(|line| kept.iter().any(|name| line.starts_with(&format!("{name}:")))) {
            let tag = if line.starts_with("To:") && !line.contains("tag=") { ";tag=callee" } else { "" };
            text.push_str(&format!("{line}{tag}\n"));
        }
        self.say(&format!("{text}{extra}\n"));
    }
}

/// Start line, Route and CSeq of a request.
fn routing(request: &str) -> Vec<&str> {
    let kept = |line: &&str| ["Route:", "CSeq:"].iter().any(|name| line.starts_with(name));
    request.lines().take(1).chain(request.lines().filter(kept)).collect()
}

fn branch(request: &str) -> &str {
    let from = request.find("branch=").expect("a branch") + 7;
    &request[from..from + request[from..].find([';', '\r']).expect("an end")]
}

#[test]
fn a_call_follows_path_and_then_the_route_set() {
    let mut scene = scene(PathPolicy::Keep);
    let here = scene.address();
    let answer = scene.register(&format!("Supported: path\nPath: <sip:token@{here};lr>\n"));
    assert!(answer.starts_with("SIP/2.0 200") && answer.contains(&format!("Path: <sip:token@{here};lr>")), "{answer}");
    let (stack, server) = scene.bench.server();
    let plan = Plan { talk: Some(Duration::ZERO), is_watched: true };
    let call = server.place_call(stack, "ann@x", plan).expect("a binding");
    let invite = scene.hear();
    let route = format!("Route: <sip:token@{here};lr>");
    assert_eq!(routing(&invite), ["INVITE sip:ann@192.0.2.7 SIP/2.0", route.as_str(), "CSeq: 1 INVITE"]);
    let recorded = format!("Record-Route: <sip:near@192.0.2.200;lr>, <sip:far@{here};lr>\n");
    scene.answer(&invite, "200 OK", &format!("{recorded}Contact: <sip:ann@192.0.2.8>\n"));
    let routes = [format!("Route: <sip:far@{here};lr>"), "Route: <sip:near@192.0.2.200;lr>".to_owned()];
    let ack = scene.hear();
    assert_eq!(routing(&ack), ["ACK sip:ann@192.0.2.8 SIP/2.0", &routes[0], &routes[1], "CSeq: 1 ACK"]);
    assert_ne!(branch(&ack), branch(&invite), "the ACK to a 2xx is a transaction of its own");
    let bye = scene.hear();
    assert_eq!(routing(&bye), ["BYE sip:ann@192.0.2.8 SIP/2.0", &routes[0], &routes[1], "CSeq: 2 BYE"]);
    scene.answer(&bye, "200 OK", "");
    let ended = |bench: &mut Bench| bench.server().1.journal.contains(&(call, Step::Ended));
    assert!(scene.bench.turn_until(DEADLINE, ended).expect("turns"));
}

#[test]
fn a_registrar_without_path_calls_the_proxy_that_brought_the_phone() {
    let mut scene = scene(PathPolicy::Ignore);
    assert!(!scene.register("Supported: path\nPath: <sip:192.0.2.9;lr>\n").contains("Path"));
    let (stack, server) = scene.bench.server();
    server.place_call(stack, "ann@x", Plan { talk: None, is_watched: false }).expect("a binding");
    assert_eq!(routing(&scene.hear()), ["INVITE sip:ann@192.0.2.7 SIP/2.0", "CSeq: 1 INVITE"]);
}

#[test]
fn an_invite_is_repeated_until_something_comes_and_given_up_when_nothing_does() {
    let mut scene = scene(PathPolicy::Ignore);
    scene.register("");
    let (stack, server) = scene.bench.server();
    let call = server.place_call(stack, "ann@x", Plan { talk: None, is_watched: true }).expect("a binding");
    let first = scene.hear();
    assert_eq!(scene.hear(), first);
    assert_eq!(scene.hear(), first);
    let failed = |bench: &mut Bench| bench.server().1.journal.contains(&(call, Step::Failed(408)));
    assert!(scene.bench.turn_until(DEADLINE, failed).expect("turns"));
    assert_eq!(scene.bench.stack.tally.timeouts, 1);
    // 20, 40, 80 and 160 ms after one another, and 400 ms in all.
    assert_eq!(scene.bench.stack.tally.requests_resent, 4);
}

#[test]
fn a_cancel_waits_for_a_provisional_response_and_shares_the_branch() {
    let mut scene = scene(PathPolicy::Ignore);
    scene.register("");
    let (stack, server) = scene.bench.server();
    let call = server.place_call(stack, "ann@x", Plan { talk: None, is_watched: true }).expect("a binding");
    let invite = scene.hear();
    let (stack, server) = scene.bench.server();
    server.hang_up(stack, call);
    assert_eq!(scene.hear(), invite, "nothing but the INVITE itself before a provisional response");
    scene.answer(&invite, "180 Ringing", "");
    let mut cancel = scene.hear();
    while cancel == invite {
        cancel = scene.hear();
    }
    assert_eq!(routing(&cancel), ["CANCEL sip:ann@192.0.2.7 SIP/2.0", "CSeq: 1 CANCEL"]);
    assert_eq!(branch(&cancel), branch(&invite));
    scene.answer(&cancel, "200 OK", "");
    scene.answer(&invite, "487 Request Terminated", "");
    let ack = scene.hear();
    assert_eq!(routing(&ack), ["ACK sip:ann@192.0.2.7 SIP/2.0", "CSeq: 1 ACK"]);
    assert_eq!(branch(&ack), branch(&invite), "the ACK to a refusal belongs to the INVITE");
    assert!(scene.bench.server().1.journal.contains(&(call, Step::Failed(487))));
    // A repeated refusal is acknowledged again and told to nobody.
    scene.answer(&invite, "487 Request Terminated", "");
    assert_eq!(scene.hear(), ack);
    assert_eq!(scene.bench.server().1.journal.iter().filter(|entry| **entry == (call, Step::Failed(487))).count(), 1);
}

#[test]
fn a_2xx_is_repeated_until_its_ack_and_a_repeated_invite_makes_no_second_call() {
    let mut scene = scene(PathPolicy::Keep);
    let here = scene.address();
    let invite = format!(
        "INVITE sip:answer@x SIP/2.0\nVia: SIP/2.0/UDP {here};branch=z9hG4bKi;rport\nVia: SIP/2.0/TLS 192.0.2.7;branch=z9hG4bKj\n\
         Record-Route: <sip:{here};lr>\nFrom: <sip:ann@x>;tag=f\nTo: <sip:answer@x>\nCall-ID: c\nCSeq: 1 INVITE\n\
         Contact: <sip:ann@192.0.2.7>\n\n"
    );
    scene.say(&invite);
    let heard: Vec<String> = (0..3).map(|_| scene.hear()).collect();
    let codes: Vec<&str> = heard.iter().map(|text| &text[8..11]).collect();
    assert_eq!(codes, ["100", "180", "200"]);
    assert!(heard[2].contains(&format!("Record-Route: <sip:{here};lr>")), "{}", heard[2]);
    assert!(heard[2].contains(&format!("rport={}", here.port())), "{}", heard[2]);
    scene.say(&invite);
    assert_eq!(scene.hear(), heard[2]);
    assert_eq!(scene.hear(), heard[2]);
    assert_eq!(scene.bench.server().1.calls_open(), 1);
    let to = heard[2].lines().find(|line| line.starts_with("To:")).expect("a To").to_owned();
    let in_dialog = |method: &str, cseq: u32, to: &str| {
        format!(
            "{method} sip:lab@127.0.0.1 SIP/2.0\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{method}\n\
             From: <sip:ann@x>;tag=f\n{to}\nCall-ID: c\nCSeq: {cseq} {method}\n\n"
        )
    };
    scene.say(&in_dialog("ACK", 1, &to));
    scene.bench.turn_until(Duration::from_millis(200), |_| false).expect("turns");
    while scene.proxy.recv(&mut [0; 4_096]).is_ok() {}
    let resent = scene.bench.stack.tally.responses_resent;
    scene.bench.turn_until(Duration::from_millis(300), |_| false).expect("turns");
    assert_eq!(scene.bench.stack.tally.responses_resent, resent, "nothing is repeated after the ACK");
    scene.say(&in_dialog("BYE", 2, &to));
    assert!(scene.hear().starts_with("SIP/2.0 200"));
    assert_eq!(scene.bench.server().1.calls_open(), 0);
    scene.say(&in_dialog("BYE", 3, &to).replace("z9hG4bKBYE", "z9hG4bKother"));
    assert!(scene.hear().starts_with("SIP/2.0 481"));
    let empty = scene.bench.turn_until(DEADLINE, |bench| bench.stack.open_transactions() == 0);
    assert!(empty.expect("turns"), "{} transactions left", scene.bench.stack.open_transactions());
}
