//! A server that is told to be ill, as whoever talks to it sees it.

use super::*;
use std::io::{ErrorKind, Read};
use std::net::{TcpStream, UdpSocket};

const DEADLINE: Duration = Duration::from_secs(10);
/// Long for a loopback address; that nothing comes cannot be waited for in any other way.
const SILENCE: Duration = Duration::from_millis(300);

struct Scene {
    desk: Desk,
    udp: UdpSocket,
    tcp: SocketAddr,
}

fn scene() -> Scene {
    let mut bench = Bench::new(Default::default(), Timers::default()).expect("a bench");
    let any = |text: &str| text.parse::<Place>().expect("a place");
    let listen = [any("udp:127.0.0.1:0"), any("tcp:127.0.0.1:0")];
    let places = bench.add_server(&listen, Default::default(), Default::default()).expect("sockets");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    udp.connect(places[0].addr).expect("an address");
    udp.set_nonblocking(true).expect("a socket that does not wait");
    let desk = Desk { bench, health: Health::Up, partner: None, calls: Vec::new() };
    Scene { desk, udp, tcp: places[1].addr }
}

impl Scene {
    fn order(&mut self, text: &str) -> Value {
        let (reply, _) = crossbeam_channel::bounded(1);
        self.desk.obey(text, &reply).unwrap_or(Value::Null)
    }

    /// The status of the answer to a request over UDP; `None` when the port is closed or silent.
    fn ask(&mut self, method: &str) -> Option<String> {
        let here = self.udp.local_addr().expect("a bound socket");
        let branch = self.desk.bench.stack.random();
        let text = format!(
            "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{branch:x}\r\nFrom: <sip:a@x>;tag=1\r\n\
             To: <sip:a@x>\r\nCall-ID: {branch:x}\r\nCSeq: 1 {method}\r\nContact: <sip:a@{here}>\r\n\r\n"
        );
        // A closed port is told at the next call, sending or receiving.
        self.udp.send(text.as_bytes()).ok();
        let (udp, mut heard) = (&self.udp, None);
        let mut buffer = [0; 4_096];
        let within = if self.desk.health == Health::Cut { SILENCE } else { DEADLINE };
        self.desk
            .bench
            .turn_until(within, |_| {
                heard = match udp.recv(&mut buffer) {
                    Ok(len) => Some(Some(String::from_utf8_lossy(&buffer[8..len.min(11)]).into_owned())),
                    Err(fault) if fault.kind() == ErrorKind::ConnectionRefused => Some(None),
                    Err(_) => None,
                };
                heard.is_some()
            })
            .expect("turns");
        heard.flatten()
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect_timeout(&self.tcp, SILENCE)
    }
}

#[test]
fn a_server_refuses_what_it_is_told_to_refuse() {
    let mut scene = scene();
    assert_eq!(scene.order("health options-503")["health"], "options-503");
    assert_eq!((scene.ask("OPTIONS").as_deref(), scene.ask("MESSAGE").as_deref()), (Some("503"), Some("404")));
    scene.order("health 503");
    assert_eq!((scene.ask("OPTIONS").as_deref(), scene.ask("REGISTER").as_deref()), (Some("503"), Some("503")));
    scene.order("health up");
    assert_eq!((scene.ask("OPTIONS").as_deref(), scene.ask("REGISTER").as_deref()), (Some("200"), Some("200")));
    assert!(scene.order("health unwell")["error"].is_string());
    assert_eq!(scene.order("stats")["stats"]["options_in"], 3);
}

#[test]
fn a_shut_server_resets_and_refuses_until_it_is_up_again() {
    let mut scene = scene();
    let mut stream = scene.connect().expect("a listener");
    stream.set_nonblocking(true).expect("a socket that does not wait");
    scene.desk.bench.turn(Duration::from_millis(50)).expect("turns");
    scene.order("health refuse");
    let mut ended = None;
    let seen = scene.desk.bench.turn_until(DEADLINE, |_| {
        ended = stream.read(&mut [0; 16]).err().map(|fault| fault.kind()).filter(|kind| *kind != ErrorKind::WouldBlock);
        ended.is_some()
    });
    assert!(seen.expect("turns"));
    assert_eq!(ended, Some(ErrorKind::ConnectionReset));
    assert_eq!(scene.connect().expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(scene.ask("OPTIONS"), None);
    scene.order("health up");
    assert!(scene.connect().is_ok());
    assert_eq!(scene.ask("OPTIONS").as_deref(), Some("200"));
}

#[test]
fn a_server_that_is_cut_off_says_nothing_at_all_and_comes_back() {
    let mut scene = scene();
    scene.order("health cut");
    assert_eq!(scene.connect().expect_err("a dead cable").kind(), ErrorKind::TimedOut);
    assert_eq!(scene.ask("OPTIONS"), None);
    scene.order("health up");
    assert!(scene.connect().is_ok());
    assert_eq!(scene.ask("OPTIONS").as_deref(), Some("200"));
}
