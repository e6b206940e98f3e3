//! A SIP Server and devices that are known by name, with dnsmasq as the resolver: found, followed when they move, and
//! not lost when the resolver is.

use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::harness::Scratch;
use crate::harness::client::ANSWER_MAX;
use crate::harness::datagrams::{Datagrams, uninterrupted};
use crate::harness::dnsmasq::Dnsmasq;
use crate::harness::ports::free_port;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::sipp::{Mode, Sipp};
use crate::harness::text::{answer, field, first_line};

/// Starts Hawser with this resolver.
fn start(scratch: &Scratch, settings: Settings, resolver: SocketAddr, change: impl Fn(&str) -> String) -> Proxy {
    let toml = change(&settings.toml()) + &format!("[dns]\nservers = [\"{resolver}\"]\n");
    Proxy::start_with(scratch, settings, "127.0.0.1".parse().expect("an address"), &toml)
}

/// A device on a UDP port, that answers 200 to everything with its name as the tag.
struct Device {
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    fn start(tag: &'static str) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = udp.local_addr().expect("bound").port();
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok((len, from)) = uninterrupted(|| udp.recv_from(&mut bytes)) {
                match std::str::from_utf8(&bytes[..len]) {
                    Ok("") => return,
                    Ok(request) => drop(udp.send_to(answer(request, "200 OK", tag, "").as_bytes(), from)),
                    Err(_) => {}
                }
            }
        });
        Self { port, thread: Some(thread) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let end = UdpSocket::bind("127.0.0.1:0").and_then(|udp| udp.send_to(b"", ("127.0.0.1", self.port)));
        if end.is_ok() {
            self.thread.take().map(JoinHandle::join);
        }
    }
}

/// The SIP Server, which sends requests to devices by their names.
struct Server {
    udp: Datagrams,
    proxy: SocketAddr,
    sent: u32,
}

impl Server {
    fn new(settings: &Settings) -> Self {
        let udp = Datagrams::bind(([127, 0, 0, 1], settings.server_port).into());
        Self { udp, proxy: SocketAddr::from(([127, 0, 0, 1], settings.sip_port)), sent: 0 }
    }

    /// Sends a request for this host and gives the final answer's status line and To tag.
    fn ask(&mut self, host: &str) -> (String, String) {
        self.sent += 1;
        let (n, own) = (self.sent, self.udp.address());
        let request = format!(
            "MESSAGE sip:door@{host} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKn{n}\r\nMax-Forwards: 70\r\n\
             From: <sip:server@example.com>;tag=s{n}\r\nTo: <sip:door@{host}>\r\nCall-ID: n{n}\r\n\
             CSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        );
        self.udp.send(self.proxy, &request);
        loop {
            let (message, _) = self.udp.receive();
            if field(&message, "Call-ID") == Some(&format!("n{n}")) && !message.starts_with("SIP/2.0 1") {
                let tag = field(&message, "To").and_then(|to| to.split(";tag=").nth(1)).unwrap_or_default();
                return (first_line(&message).to_owned(), tag.to_owned());
            }
        }
    }

    /// Asks again and again, each time with success, until `done` says so of the answering device's tag.
    fn ask_until(&mut self, host: &str, what: &str, mut done: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let (status, tag) = self.ask(host);
            assert_eq!(status, "SIP/2.0 200 OK", "request {}", self.sent);
            if done(&tag) {
                return;
            }
            assert!(Instant::now() < deadline, "in vain: {what}");
        }
    }
}

#[test]
fn a_device_is_found_by_name_followed_and_not_lost_with_the_resolver() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("named-device");
    let settings = Settings::new(&scratch);
    let mut server = Server::new(&settings);
    let (first, second) = (Device::start("first"), Device::start("second"));
    let port = free_port();
    let resolver = |best: &Device, other: &Device| {
        let srv = |device: &Device, priority: u8| {
            format!("srv-host=_sip._udp.door.test,here.test,{},{priority},1", device.port)
        };
        Dnsmasq::at(&scratch, port, 1, &[&srv(best, 1), &srv(other, 2), "host-record=here.test,127.0.0.1"])
    };
    let dnsmasq = resolver(&first, &second);
    let proxy = start(&scratch, settings, dnsmasq.address, str::to_owned);
    let open = |proxy: &Proxy| proxy.metric("process_open_fds", "");
    let open_before = open(&proxy);
    let stale = |proxy: &Proxy| proxy.metric("hawser_dns_asked_total", "from=\"stale\"") > 0.0;

    assert_eq!(server.ask("door.test"), ("SIP/2.0 200 OK".into(), "first".into()));
    assert_eq!(server.ask("gone.test").0, "SIP/2.0 503 No Such Name");
    assert!(!stale(&proxy), "the resolver has answered so far");

    dnsmasq.freeze();
    server.ask_until("door.test", "expired records serve", |_| stale(&proxy));
    drop(dnsmasq);
    server.ask_until("door.test", "the resolver's host refuses", |_| {
        proxy.metric("hawser_dns_socket_errors_total", "") > 0.0
    });
    let _dnsmasq = resolver(&second, &first);
    server.ask_until("door.test", "the new records are found", |tag| tag == "second");
    // Of the questions that nobody answered the last may be in the air yet.
    server.ask_until("door.test", "every question's socket is closed", |_| open(&proxy) <= open_before);
}

#[test]
fn calls_go_on_to_a_sip_server_known_by_name_when_the_resolver_freezes() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("named-server");
    let settings = Settings::new(&scratch);
    let calls = 200;
    let sipp = Sipp::server(&scratch, "call-from-phone", Mode::Udp, settings.server_port, calls);
    let record = format!("srv-host=_sip._udp.sips.test,sips-1.test,{},1,1", settings.server_port);
    let dnsmasq = Dnsmasq::start(&scratch, 1, &[&record, "host-record=sips-1.test,127.0.0.1"]);
    let address = format!("primary = \"127.0.0.1:{}\"", settings.server_port);
    let named = move |toml: &str| toml.replace(&address, "primary = \"sips.test\"");
    let proxy = start(&scratch, settings, dnsmasq.address, named);
    let deadline = Instant::now() + ANSWER_MAX;
    while proxy.metric("hawser_dns_lookups_total", "result=\"found\"") < 1.0 {
        assert!(Instant::now() < deadline, "the server's name is not looked up");
    }
    // Four seconds of calls, and records that last for one.
    let phones = Sipp::phones(&scratch, "call-from-phone", Mode::Udp, &proxy.sip(), &proxy.sip(), calls);
    dnsmasq.freeze();
    phones.succeed();
    sipp.succeed();
    let stale = proxy.metric("hawser_dns_asked_total", "from=\"stale\"");
    assert!(stale > 0.0, "the name was looked up meanwhile, in vain");
    for name in ["panics", "refusals", "faults", "responses_dropped"] {
        assert!(proxy.metric(&format!("hawser_{name}_total"), "") == 0.0, "{name}");
    }
}

#[test]
fn a_target_that_is_gone_gives_way_to_the_next_at_once_whichever_shard_hears_of_it() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("dead-target");
    let settings = Settings::new(&scratch);
    let mut server = Server::new(&settings);
    let second = Device::start("second");
    // Several, for the kernel picks the shard that hears of each by its address.
    let mut zone = vec!["host-record=here.test,127.0.0.1".to_owned()];
    let names: Vec<String> = (0..8).map(|n| format!("door-{n}.test")).collect();
    for name in &names {
        zone.push(format!("srv-host=_sip._udp.{name},here.test,{},1,1", free_port()));
        zone.push(format!("srv-host=_sip._udp.{name},here.test,{},2,1", second.port));
    }
    let zone: Vec<&str> = zone.iter().map(String::as_str).collect();
    let dnsmasq = Dnsmasq::start(&scratch, 60, &zone);
    let proxy = start(&scratch, settings, dnsmasq.address, str::to_owned);
    for name in &names {
        assert_eq!(server.ask(name), ("SIP/2.0 200 OK".into(), "second".into()), "{name}");
    }
    // One for each target: nothing had to be sent again before it was given up.
    assert!((proxy.metric("hawser_datagrams_dropped_total", "unreachable") - 8.0).abs() < 0.5);
}
