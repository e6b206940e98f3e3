//! Kamailio as a pair of SIP Servers that tell each other what registers: baresips register and call through the
//! primary, the primary is killed, and they call each other through the backup.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::harness::baresip::Phone;
use crate::harness::ports::free_port;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::{DOMAIN, Scratch, registrar};

const COPY_MAX: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Waits until a Kamailio knows where a phone is: a REGISTER without Contact asks for it (RFC 3261 §10.2.3).
fn wait_known(port: u16, user: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(ASK_EVERY)).expect("a timeout above zero");
    let here = socket.local_addr().expect("a bound socket");
    let deadline = Instant::now() + COPY_MAX;
    let mut answer = [0; 4096];
    for number in 1.. {
        let text = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKask{number}\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{DOMAIN}>;tag=ask\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: ask-{user}-{here}\r\n\
             CSeq: {number} REGISTER\r\nSupported: path\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send_to(text.as_bytes(), ("127.0.0.1", port)).expect("a datagram");
        let len = socket.recv(&mut answer).unwrap_or(0);
        if String::from_utf8_lossy(&answer[..len]).contains("\r\nContact: ") {
            return;
        }
        assert!(Instant::now() < deadline, "the backup never hears of {user}");
    }
}

#[test]
fn baresips_call_each_other_by_the_backup_when_the_primary_is_killed() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("kamailio-pair");
    let backup_port = free_port();
    let settings = Settings {
        backup_port: Some(backup_port),
        oos_check: 1,
        more: "oos-force = 1".to_owned(),
        ..Settings::new(&scratch)
    };
    let primary_port = settings.server_port;
    let partner = |port: u16| (format!("PARTNER=\"sip:127.0.0.1:{port}\""), format!("PARTNER_PORT={port}"));
    let (of_primary, of_backup) = (partner(backup_port), partner(primary_port));
    let primary = registrar::start_with(&scratch, primary_port, &[&of_primary.0, &of_primary.1]);
    let _backup = registrar::start_with(&scratch, backup_port, &[&of_backup.0, &of_backup.1]);
    let proxy = Proxy::start(&scratch, settings);
    let Settings { certificates, tls_port, .. } = &proxy.settings;
    let mut alice = Phone::start(&scratch, "alice", certificates, *tls_port);
    let mut bob = Phone::start(&scratch, "bob", certificates, *tls_port);
    for phone in [&alice, &bob] {
        phone.wait_bindings(1);
    }

    alice.call(&mut bob);
    alice.end_call(&mut bob);

    wait_known(backup_port, "alice");
    wait_known(backup_port, "bob");
    drop(primary);

    bob.call(&mut alice);
    alice.end_call(&mut bob);
}
