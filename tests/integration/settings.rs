//! The settings of a running proxy: changed in its file, and read again on SIGHUP.

use std::time::{Duration, Instant};

use crate::harness::Scratch;
use crate::harness::client::ANSWER_MAX;
use crate::harness::datagrams::Datagrams;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};

const TOLD_MAX: Duration = Duration::from_secs(10);

/// A request that the proxy answers itself when the domain is one of its own, and sends on to the server otherwise.
fn options(domain: &str, n: u32, from: &Datagrams) -> String {
    format!(
        "OPTIONS sip:{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKhup{n};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:a@example.com>;tag=a\r\nTo: <sip:{domain}>\r\nCall-ID: hup{n}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n",
        from.address()
    )
}

#[test]
fn what_is_safe_is_taken_up_what_is_not_is_named_and_a_fault_changes_nothing() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("sighup");
    let settings = Settings::new(&scratch);
    let (before, sip_port) = (settings.toml(), settings.sip_port);
    let server = Datagrams::bind(([127, 0, 0, 1], settings.server_port).into());
    let mut proxy = Proxy::start(&scratch, settings);
    let phone = Datagrams::bind(([127, 0, 0, 1], 0).into());
    let to = ([127, 0, 0, 1], sip_port).into();
    phone.send(to, &options("new.example", 1, &phone));
    let (sent_on, _) = server.receive();
    assert!(sent_on.starts_with("OPTIONS sip:new.example "), "{sent_on}");

    let hup = |proxy: &mut Proxy, toml: &str, line: &str| {
        scratch.write("hawser.toml", toml);
        proxy.process.signal("HUP");
        proxy.process.wait_line(line, TOLD_MAX);
    };
    let file = scratch.path().join("hawser.toml").display().to_string();
    let line_of = |toml: &str, key: &str| toml.lines().position(|line| line.starts_with(key)).expect("it is there") + 1;
    let broken = before.replace("domains = [", "domains = [7, ");
    let place = format!("{file}:{}: sipproxy.domains", line_of(&before, "domains"));
    hup(&mut proxy, &broken, &place);
    proxy.process.wait_line("the settings in use stay", TOLD_MAX);

    let after = before
        .replace("domains = [", "domains = [\"new.example\", ")
        .replace(&format!("sip-port = {sip_port}"), "sip-port = 1");
    hup(&mut proxy, &after, &format!("{place}: changed, and taken up"));
    let port = format!("{file}:{}: sipproxy.sip-port: changed, but takes a restart", line_of(&before, "sip-port"));
    proxy.process.wait_line(&port, TOLD_MAX);
    // The shards have it a moment after the line.
    let deadline = Instant::now() + ANSWER_MAX;
    for n in 2.. {
        assert!(Instant::now() < deadline, "it never answers for its new domain");
        phone.send(to, &options("new.example", n, &phone));
        let (answer, _) = phone.receive();
        if answer.starts_with("SIP/2.0 200 ") && answer.contains(&format!("Call-ID: hup{n}\r\n")) {
            break;
        }
    }

    hup(&mut proxy, &format!("{after}[log]\nlevel = \"error\"\n"), "log.level: changed, and taken up");
    proxy.process.signal("TERM");
    assert!(proxy.process.wait_exit(TOLD_MAX).success());
}
