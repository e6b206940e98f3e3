//! The server through a real socket, over a source that a test holds.

mod bans;
mod pins;
mod upstreams;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::{About, Access, Admin, Certificate, Crl, Readiness, Source, TlsFiles, Token, days_until, start};
use crate::abuse::{self, BanRow, Failed};
use crate::engine::Located;
use crate::ids::{ConnId, FlowRef, PointId, ShardId, Transport};
use crate::limits::{
    ADMIN_ANSWER_MAX, ADMIN_ANSWERS_MAX, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_LEN_MAX, ADMIN_HEAD_MAX, ADMIN_QUESTIONS_MAX,
};
use crate::server_pool::{Member, PinFault};
use crate::stats::{Counter, Gauge, PairRow, Snapshot};

/// Longer than any bound that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two shards, of which some may be silent; `snapshots` waits while the gate is shut.
pub(super) struct Fake {
    silent: Vec<u8>,
    readiness: Readiness,
    gate: Arc<Gate>,
    /// Pins of the pair `sips 1`.
    pins: Arc<Mutex<Vec<Option<Member>>>>,
    /// DNS names that each shard holds.
    names: usize,
}

fn banned() -> abuse::Source {
    abuse::Source::of([203, 0, 113, 66].into())
}

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().expect("no test panics with it") = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().expect("no test panics with it");
        drop(self.opened.wait_while(shut, |shut| *shut).expect("no test panics with it"));
    }
}

impl Source for Fake {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.gate.pass();
        // Out of order on purpose: the answers sort them.
        [1, 0]
            .into_iter()
            .filter(|shard| !self.silent.contains(shard))
            .map(|shard| {
                let mut snapshot = Snapshot { shard, ..Snapshot::default() };
                snapshot.counters.add(Counter::RequestEndpointRegister, 3 + u64::from(shard));
                snapshot.counters.count(Counter::Panics);
                snapshot.gauges.set(Gauge::Bindings, 10);
                snapshot.upstreams = upstreams::of_shard(shard, self.names);
                snapshot
            })
            .collect()
    }

    fn locate(&self, aor: &str) -> Option<Vec<Located>> {
        match aor {
            "sip:silent@example.com" => None,
            "sip:alice@example.com" => Some(vec![Located {
                aor: aor.to_owned(),
                contact: "sip:alice@192.0.2.7:5061;transport=tls".to_owned(),
                instance: "<urn:uuid:1>".to_owned(),
                flow: FlowRef::Stream { shard: ShardId(1), conn: ConnId { slot: 5, generation: 9 }, point: PointId(2) },
                transport: Transport::Tls,
                peer: "[2001:db8::7]:41000".parse().expect("an address"),
                certificate: vec!["dns:phone.example.com".to_owned()],
                expires_in: Duration::from_secs(3599),
                age: Duration::from_secs(1),
            }]),
            _ => Some(Vec::new()),
        }
    }

    fn pairs(&self) -> Option<Vec<PairRow>> {
        self.gate.pass();
        (!self.silent.contains(&0)).then(upstreams::pairs)
    }

    fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>> {
        match (pair, member) {
            ("silent", _) => None,
            ("sips 1", member) => {
                self.pins.lock().expect("no test panics with it").push(member);
                Some(Ok(()))
            }
            ("alone", Some(Member::Backup)) => Some(Err(PinFault::Member)),
            _ => Some(Err(PinFault::Pair)),
        }
    }

    fn bans(&self) -> Option<Vec<BanRow>> {
        self.gate.pass();
        let failed = Failed { connections: 153, garbage: 2, refused: 0, registers: 1 };
        let (since, left) = (Duration::from_secs(60), Duration::from_secs(540));
        let row = BanRow { source: banned(), since, left, nth: 2, failed, turned_away: 4_312 };
        (!self.silent.contains(&0)).then(|| vec![row])
    }

    fn unban(&self, address: abuse::Source) -> Option<bool> {
        (!self.silent.contains(&0)).then(|| address == banned())
    }

    fn running(&self) -> (usize, usize) {
        (2 - self.silent.len(), 2)
    }

    fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    fn pairs_answering(&self) -> Option<(usize, usize)> {
        (!self.silent.contains(&0)).then_some((1, 2))
    }

    fn about(&self) -> About {
        About {
            version: "1.2.3\"\\\n".to_owned(),
            uptime: Duration::from_secs(61),
            shards: 2,
            driver: "epoll".to_owned(),
            listeners: vec!["tls 127.0.0.1:5061".to_owned()],
            server: "sips1 udp 127.0.0.1:7000".to_owned(),
            sticky: "path".to_owned(),
            tls_files: TlsFiles {
                certificates: vec![Certificate {
                    file: "conf/certs/server.pem".to_owned(),
                    not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000),
                }],
                crls: vec![Crl {
                    file: "crl.pem".to_owned(),
                    issuer: "CN=ca".to_owned(),
                    next_update_unix_s: 1_900_000_000,
                }],
                taken: 3,
                refused: 1,
                stale_since: Instant::now().checked_sub(Duration::from_secs(3_600)),
            },
            log_lost: 5,
        }
    }
}

pub(super) fn fake() -> Fake {
    Fake { silent: Vec::new(), readiness: Readiness::Ready, gate: Arc::default(), pins: Arc::default(), names: 1 }
}

fn serve(source: Fake, token: Option<Token>) -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let access = Access { token, names: vec!["x".to_owned()], tls: false };
    start(listener, source, access).expect("the server starts")
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

/// Sends `request` and reads until the server closes: (status, head, body).
fn exchange(to: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = connect(to);
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn get(to: SocketAddr, path: &str) -> (u16, String, String) {
    exchange(to, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn metrics_are_prometheus_text_unless_openmetrics_is_asked_for() {
    let admin = serve(fake(), None);
    let (status, head, text) = get(admin.address(), "/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(text.contains("# TYPE hawser_requests_total counter\nhawser_requests_total{"), "{text}");
    assert!(text.contains("# HELP hawser_panics_total "), "{text}");
    assert!(text.contains("# TYPE hawser_bindings gauge\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().expect("a name");
        } else if !line.starts_with('#') {
            assert_eq!(line.split(['{', ' ']).next(), Some(family), "{line}");
        }
    }
}

#[test]
fn metrics_have_every_row_by_shard_with_help_and_type() {
    let admin = serve(fake(), None);
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    let (status, head, text) = exchange(admin.address(), request);
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    let register = "hawser_requests_total{shard=\"1\",side=\"endpoint\",method=\"REGISTER\"} 4\n";
    assert!(text.contains(register), "{text}");
    assert!(text.contains("hawser_bindings{shard=\"0\"} 10\n"), "{text}");
    assert!(text.contains("hawser_shard_up{shard=\"1\"} 1\n"));
    assert!(text.contains("hawser_certificate_not_after_seconds{file=\"conf/certs/server.pem\"} 2000000000\n"));
    assert!(text.contains("hawser_certificate_days_left{file=\"conf/certs/server.pem\"} "));
    assert!(text.contains("hawser_crl_next_update_seconds{file=\"crl.pem\",issuer=\"CN=ca\"} 1900000000\n"));
    assert!(text.contains("hawser_tls_files_read_total{outcome=\"taken\"} 3\n"));
    assert!(text.contains("hawser_tls_files_read_total{outcome=\"refused\"} 1\n"));
    assert!(text.contains("hawser_log_lost_total 5\n"), "{text}");
    assert!(text.contains("hawser_tls_files_stale_seconds 3600."), "{text}");
    assert!(
        text.contains("hawser_build_info{version=\"1.2.3\\\"\\\\\\n\",driver=\"epoll\"} 1\n"),
        "labels are escaped: {text}"
    );
    assert!(text.ends_with("# EOF\n"));

    let mut family = String::new();
    let mut seen = std::collections::HashSet::new();
    let mut lines = 0;
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().expect("a name").to_owned();
            assert!(seen.insert(family.clone()), "{family} is opened twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(rest.starts_with(&format!("{family} ")), "{line}");
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            let stem = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name);
            assert_eq!(stem, family, "{line}");
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            lines += 1;
        }
    }
    assert!(lines > 2 * crate::stats::COUNTERS.len(), "{lines}");
}

#[test]
fn stats_are_the_sum_and_each_shard() {
    let admin = serve(fake(), None);
    let (status, _, text) = get(admin.address(), "/stats");
    assert_eq!(status, 200);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let total = &json["total"]["counters"];
    assert_eq!(total["hawser_panics_total"], 2);
    let requests = total["hawser_requests_total"].as_array().expect("it has labels");
    let register = requests.iter().find(|r| r["side"] == "endpoint" && r["method"] == "REGISTER").expect("a row");
    assert_eq!(register["value"], 7);
    assert_eq!(json["about"]["driver"], "epoll");
    assert_eq!(json["shards"][1]["shard"], 1);
    assert_eq!(json["shards"][1]["gauges"]["hawser_bindings"], 10);
    assert_eq!(json["about"]["uptime_s"], 61);
    assert_eq!(json["about"]["certificates"][0]["not_after_unix_s"], 2_000_000_000);
    assert_eq!(json["ready"], true);
}

#[test]
fn where_finds_a_binding_in_both_spellings() {
    let admin = serve(fake(), None);
    for aor in ["sip:alice@example.com", "alice@example.com", "sip%3Aalice%40example.com"] {
        let (status, _, text) = get(admin.address(), &format!("/where?aor={aor}"));
        assert_eq!(status, 200, "{aor}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!([{
            "aor": "sip:alice@example.com", "contact": "sip:alice@192.0.2.7:5061;transport=tls",
            "instance": "<urn:uuid:1>", "shard": 1, "conn": "5.9", "transport": "tls",
            "peer": "[2001:db8::7]:41000", "certificate": "dns:phone.example.com",
            "expires_in_s": 3599, "age_s": 1,
        }]);
        assert_eq!(json, expected);
    }
    let (status, _, text) = get(admin.address(), "/where?aor=bob@example.com");
    assert_eq!((status, text.as_str()), (404, "[]"));
    assert_eq!(get(admin.address(), "/where").0, 400);
    assert_eq!(get(admin.address(), "/where?aor=silent@example.com").0, 503);
}

#[test]
fn a_silent_shard_fails_health_and_only_its_own_metrics() {
    let admin = serve(Fake { silent: vec![1], ..fake() }, None);
    let (status, _, text) = get(admin.address(), "/healthz");
    assert_eq!((status, text.as_str()), (503, "1 of 2 shards run\n"));
    let (status, _, text) = get(admin.address(), "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("hawser_shard_up{shard=\"0\"} 1\nhawser_shard_up{shard=\"1\"} 0\n"), "{text}");
    assert_eq!(get(serve(fake(), None).address(), "/healthz").0, 200);
}

#[test]
fn readiness_says_why_not() {
    let admin = serve(Fake { readiness: Readiness::Not("draining".to_owned()), ..fake() }, None);
    let (status, _, text) = get(admin.address(), "/readyz");
    assert_eq!((status, text.as_str()), (503, "draining\n1 of 2 pairs of SIP Servers answer\n"));
    let (status, _, text) = get(serve(fake(), None).address(), "/readyz");
    assert_eq!((status, text.as_str()), (200, "ready\n1 of 2 pairs of SIP Servers answer\n"));
    let silent = serve(Fake { silent: vec![0], ..fake() }, None);
    let (status, _, text) = get(silent.address(), "/readyz");
    assert_eq!((status, text.as_str()), (200, "ready\nthe state of the SIP Servers is not known\n"));
}

#[test]
fn other_paths_and_methods_are_refused_and_head_has_no_body() {
    let admin = serve(fake(), None);
    let to = admin.address();
    assert_eq!(get(to, "/nothing").0, 404);
    let (status, head, _) = exchange(to, "POST /stats HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (status, head, body) = exchange(to, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    let (status, head, body) = get(to, "/");
    assert_eq!(status, 200);
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(!body.contains("http://") && !body.contains("https://"), "the page loads nothing from elsewhere");
    let (_, _, metrics) = get(to, "/metrics");
    assert!(metrics.contains("hawser_admin_answers_total{code=\"404\"} 1\n"), "{metrics}");
}

#[test]
fn the_page_asks_only_for_metrics_that_exist() {
    let known: Vec<_> = crate::stats::COUNTERS.iter().chain(crate::stats::GAUGES).map(|row| row.name).collect();
    let mut asked = 0;
    for (_, rest) in super::page::PAGE.match_indices("\"hawser_").map(|(at, _)| super::page::PAGE.split_at(at + 1)) {
        let name = rest.split('"').next().expect("a quoted name");
        assert!(known.contains(&name), "{name}");
        asked += 1;
    }
    assert!(asked > 10);
}

#[test]
fn numbers_need_the_token_and_probes_do_not() {
    let admin = serve(fake(), Token::new("s3cret-of-the-operator"));
    let to = admin.address();
    for path in ["/metrics", "/stats", "/servers", "/where?aor=alice@example.com"] {
        let (status, head, _) = get(to, path);
        assert_eq!(status, 401, "{path}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
        let with = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret-of-the-operator\r\n\r\n");
        assert_eq!(exchange(to, &with).0, 200, "{path}");
    }
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(get(to, path).0, 200, "{path}");
    }
}

#[test]
fn a_page_whose_name_was_made_to_lead_here_reads_nothing() {
    let admin = serve(fake(), None);
    let ask = |method: &str, path: &str, host: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        exchange(admin.address(), &request).0
    };
    for path in ["/metrics", "/stats", "/servers", "/where?aor=alice@example.com"] {
        assert_eq!(ask("GET", path, "evil.example:8080"), 421, "{path}");
        for host in [admin.address().to_string().as_str(), "localhost", "x:8080"] {
            assert_eq!(ask("GET", path, host), 200, "{path} of {host}");
        }
    }
    assert_eq!(ask("POST", "/servers/sips%201/release", "evil.example:8080"), 421);
    assert_eq!(ask("POST", "/servers/sips%201/release", "x"), 200);
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(ask("GET", path, "evil.example"), 200, "{path} holds nothing");
    }
}

#[test]
fn a_shard_that_hangs_costs_its_asker_a_503_and_nobody_else_anything() {
    let gate = Arc::<Gate>::default();
    let admin = serve(Fake { gate: Arc::clone(&gate), ..fake() }, None);
    let to = admin.address();
    gate.set(true);
    let mut hanging = connect(to);
    hanging.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n").expect("the server reads");
    let begun = Instant::now();
    assert_eq!((get(to, "/readyz").0, get(to, "/healthz").0), (200, 200));
    assert!(begun.elapsed() < ADMIN_ANSWER_MAX, "they waited for the other's question");
    let mut answer = String::new();
    hanging.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    gate.set(false);
    assert_eq!(get(to, "/stats").0, 200);
}

#[test]
fn it_stops_although_a_question_hangs() {
    let gate = Arc::<Gate>::default();
    let admin = serve(Fake { gate: Arc::clone(&gate), ..fake() }, None);
    let to = admin.address();
    gate.set(true);
    assert_eq!(get(to, "/stats").0, 503);
    drop(admin);
    assert!(TcpStream::connect(to).is_err(), "nobody listens any more");
    gate.set(false);
}

#[test]
fn a_head_at_the_bound_is_read_and_one_past_it_is_not() {
    let admin = serve(fake(), None);
    let frame = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: \r\n\r\n".len();
    let request = |len: usize| format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(len - frame));
    assert_eq!(exchange(admin.address(), &request(ADMIN_HEAD_LEN_MAX)).0, 200);
    assert_eq!(exchange(admin.address(), &request(ADMIN_HEAD_LEN_MAX + 1)).0, 431);
}

#[test]
fn a_request_that_never_comes_is_not_waited_for() {
    let admin = serve(fake(), None);
    let begun = Instant::now();
    let mut slow = connect(admin.address());
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo").expect("the server reads");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the server closes");
    assert!(begun.elapsed() >= ADMIN_HEAD_MAX / 2, "it closed at once");
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn connections_without_a_request_keep_nobody_out() {
    let admin = serve(fake(), None);
    let idle: Vec<_> = (0..2 * ADMIN_CONNECTIONS_MAX).map(|_| connect(admin.address())).collect();
    let begun = Instant::now();
    assert_eq!(get(admin.address(), "/healthz").0, 200);
    assert!(begun.elapsed() < ADMIN_HEAD_MAX, "it has not waited for their end");
    drop(idle);
}

#[test]
fn probes_are_answered_while_other_clients_have_all_places() {
    let gate = Arc::<Gate>::default();
    let admin = serve(Fake { gate: Arc::clone(&gate), ..fake() }, None);
    let to = admin.address();
    gate.set(true);
    // Each is being answered, or waits for somebody who does not read.
    let others: Vec<_> = (0..ADMIN_ANSWERS_MAX)
        .map(|_| {
            let mut other = connect(to);
            other.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n").expect("the server reads");
            other
        })
        .collect();
    let many: Vec<_> = (0..2 * ADMIN_CONNECTIONS_MAX).map(|_| connect(to)).collect();
    for _ in 0..ADMIN_QUESTIONS_MAX {
        assert_eq!((get(to, "/healthz").0, get(to, "/readyz").0), (200, 200));
    }
    gate.set(false);
    drop((others, many));
}

#[test]
fn days_are_whole_and_below_zero_for_what_is_past() {
    let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
    let now = at(10 * 86_400);
    assert_eq!(days_until(at(12 * 86_400 - 1), now), 1);
    assert_eq!(days_until(now, now), 0);
    assert_eq!(days_until(at(10 * 86_400 - 1), now), -1);
    assert_eq!(days_until(at(8 * 86_400), now), -3);
}
