//! What a call costs in the pure core: one shard, phones over TLS, the SIP Server over UDP, one call = INVITE 180
//! 200 ACK BYE 200. Prints microseconds for each call spent inside the engine.
//!
//! `cargo bench --bench engine_call`; for instructions, which do not depend on the machine's mood:
//! `valgrind --tool=callgrind --toggle-collect='*engine::Engine>::handle*' BINARY 2000`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hawser::clock::Time;
use hawser::config::Server;
use hawser::engine::{Accept, Engine, Input, Output, Point, Settings};
use hawser::ids::{ConnId, PointId, Transport};

const SERVER: &str = "127.0.0.1:7000";
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\n\
                   a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

struct Bench {
    engine: Engine,
    now: Time,
    inside: Duration,
    server_address: SocketAddr,
}

impl Bench {
    fn feed(&mut self, input: Input<'_>) -> Vec<Output> {
        let start = Instant::now();
        self.engine.handle(input, self.now);
        self.inside += start.elapsed();
        let mut outputs = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            outputs.push(output);
        }
        outputs
    }

    /// What came out, as text, its buffer given back.
    fn texts(&mut self, outputs: Vec<Output>) -> Vec<String> {
        let mut texts = Vec::new();
        for output in outputs {
            if let Output::Datagram { bytes, .. } | Output::Bytes { bytes, .. } = output {
                texts.push(String::from_utf8(bytes.clone()).expect("text"));
                self.engine.recycle(bytes);
            }
        }
        texts
    }

    fn server_sends(&mut self, text: &str) -> Vec<String> {
        let from = self.server_address;
        let outputs =
            self.feed(Input::Datagram { point: PointId(0), from, bytes: text.as_bytes(), waited: Duration::ZERO });
        self.texts(outputs)
    }

    fn phone_sends(&mut self, conn: ConnId, text: &str) -> Vec<String> {
        let outputs = self.feed(Input::Bytes { conn, bytes: text.as_bytes(), waited: Duration::ZERO });
        self.texts(outputs)
    }
}

fn lines<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.split("\r\n").filter(move |line| line.starts_with(name))
}

fn answer(request: &str, status: &str, tag: &str, extra: &str) -> String {
    let mut out = format!("SIP/2.0 {status}\r\n");
    for name in ["Via:", "Record-Route:", "From:", "To:", "Call-ID:", "CSeq:"] {
        for line in lines(request, name) {
            out += line;
            if name == "To:" && !line.contains("tag=") {
                out += ";tag=";
                out += tag;
            }
            out += "\r\n";
        }
    }
    out + extra + "Content-Length: 0\r\n\r\n"
}

fn settings() -> Settings {
    let point = |transport, port: u16| Point {
        transport,
        bind: SocketAddr::from(([127, 0, 0, 1], port)),
        advertised_host: "127.0.0.1".to_owned(),
        advertised_port: port,
        side: None,
    };
    let points = vec![point(Transport::Udp, 5060), point(Transport::Tcp, 5060), point(Transport::Tls, 5061)];
    let server = Server::at("sips1", SERVER.parse().expect("an address"), Transport::Udp);
    Settings {
        connections_max: 10_000,
        transactions_max: 1_000_000,
        unregistered_per_source_max: 10_000,
        ..Settings::plain(points, vec![server])
    }
}

/// A registered phone: its connection, and the Path that the server stored.
fn register(bench: &mut Bench, at: usize) -> (ConnId, String) {
    let peer = SocketAddr::from(([10, 0, 0, 1], u16::try_from(10_000 + at).expect("few phones")));
    let conn = bench.engine.accept(Accept { point: PointId(2), peer, is_forwarded: false }, bench.now).expect("room");
    bench.feed(Input::Ready { conn, identities: None });
    let request = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKr{at};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:phone{at}@example.com>;tag=r\r\nTo: <sip:phone{at}@example.com>\r\n\
         Call-ID: reg{at}\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:phone{at}@192.0.2.7:5060;transport=tls>;+sip.instance=\"<urn:uuid:{at}>\";reg-id=1\r\n\
         Supported: path, outbound\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n"
    );
    let sent = bench.phone_sends(conn, &request).remove(0);
    let path = lines(&sent, "Path:").next().expect("a Path").trim_start_matches("Path:").trim().to_owned();
    let contact = lines(&sent, "Contact:").next().expect("a Contact").to_owned();
    bench.server_sends(&answer(&sent, "200 OK", "s", &format!("{contact};expires=3600\r\n")));
    (conn, path)
}

fn call(bench: &mut Bench, phone: &(ConnId, String), at: usize, serial: usize) {
    let (conn, path) = phone;
    let contact = format!("sip:phone{at}@192.0.2.7:5060;transport=tls");
    let len = SDP.len();
    let invite = format!(
        "INVITE {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {SERVER};branch=z9hG4bKi{serial}\r\nMax-Forwards: 70\r\n\
         Route: {path}\r\nFrom: \"Caller\" <sip:caller@example.com>;tag=c{serial}\r\nTo: <sip:phone{at}@example.com>\r\n\
         Call-ID: call{serial}@127.0.0.1\r\nCSeq: 1 INVITE\r\nContact: <sip:{SERVER}>\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE\r\nSupported: timer, 100rel\r\nUser-Agent: bench\r\n\
         Content-Type: application/sdp\r\nContent-Length: {len}\r\n\r\n{SDP}"
    );
    let at_phone = bench.server_sends(&invite).remove(0);
    bench.phone_sends(*conn, &answer(&at_phone, "180 Ringing", "p", ""));
    let ok = answer(&at_phone, "200 OK", "p", &format!("Contact: <{contact}>\r\n"));
    let ok = bench.phone_sends(*conn, &ok).remove(0);
    let mut routes: Vec<&str> = lines(&ok, "Record-Route:").collect();
    routes.reverse();
    let routes: String = routes.iter().map(|route| format!("{}\r\n", route.replace("Record-", ""))).collect();
    let in_dialog = |method: &str, cseq: u32| {
        format!(
            "{method} {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {SERVER};branch=z9hG4bK{method}{serial}\r\n\
             Max-Forwards: 70\r\n{routes}From: \"Caller\" <sip:caller@example.com>;tag=c{serial}\r\n\
             To: <sip:phone{at}@example.com>;tag=p\r\nCall-ID: call{serial}@127.0.0.1\r\nCSeq: {cseq} {method}\r\n\
             User-Agent: bench\r\nContent-Length: 0\r\n\r\n"
        )
    };
    assert!(bench.server_sends(&in_dialog("ACK", 1)).remove(0).starts_with("ACK "));
    let bye = bench.server_sends(&in_dialog("BYE", 2)).remove(0);
    assert!(bench.phone_sends(*conn, &answer(&bye, "200 OK", "", "")).remove(0).starts_with("SIP/2.0 200"));
}

fn main() {
    let calls = std::env::args().skip(1).find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(50_000);
    let now = Time(1_000_000);
    let mut bench = Bench {
        engine: Engine::new(settings(), now),
        now,
        inside: Duration::ZERO,
        server_address: SERVER.parse().expect("an address"),
    };
    let phones: Vec<_> = (0..100).map(|at| register(&mut bench, at)).collect();
    let run = |bench: &mut Bench, from: usize, count: usize| {
        for serial in from..from + count {
            // 1,000 calls/s of virtual time, so that timers fire at their usual density.
            bench.now = bench.now.after(Duration::from_millis(1));
            let now = bench.now;
            let start = Instant::now();
            bench.engine.fire(now);
            bench.inside += start.elapsed();
            call(bench, &phones[serial % phones.len()], serial % phones.len(), serial);
        }
    };
    // Until the first transactions end and their memory is used again.
    let warm = (calls / 2).max(1);
    run(&mut bench, 0, warm);
    bench.inside = Duration::ZERO;
    run(&mut bench, warm, calls);
    let per_call = bench.inside.as_secs_f64() * 1e6 / calls as f64;
    println!("{per_call:.2} us of engine a call ({:.2} a message) over {calls} calls", per_call / 6.0);
}
