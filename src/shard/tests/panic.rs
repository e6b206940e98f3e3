//! Panics while a message is handled.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::stream::{connect, responses};
use super::*;
use crate::limits::PANICS_COUNT_MAX;
use crate::shard::core::tests::{PANIC, PANIC_READING};

#[test]
fn a_panic_closes_its_flow_and_no_other() {
    let rig = Rig::start(1);
    let mut bystander = TcpStream::connect(rig.tcp).unwrap();
    bystander.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut victim = TcpStream::connect(rig.tcp).unwrap();
    victim.set_read_timeout(Some(DEADLINE)).unwrap();
    victim.write_all(PANIC).unwrap();
    assert!(matches!(uninterrupted(|| victim.read(&mut [0; 1])), Ok(0) | Err(_)), "it is closed");
    rig.wait_for(Counter::Panics, 1);
    rig.wait_for(Counter::ClosedPanic, 1);
    udp_phone().send_to(PANIC, rig.udp).unwrap();
    rig.wait_for(Counter::Panics, 2);
    bystander.write_all(b"\r\n\r\n").unwrap();
    bystander.read_exact(&mut [0; 2]).unwrap();
    assert!(rig.shards.handle().ready());
    rig.shards.stop();
}

#[test]
fn repeated_panics_take_the_shard_out_of_service_and_leave_its_connections() {
    let rig = Rig::start(1);
    let mut bystander = TcpStream::connect(rig.tcp).unwrap();
    bystander.set_read_timeout(Some(DEADLINE)).unwrap();
    bystander.write_all(b"\r\n\r\n").unwrap();
    bystander.read_exact(&mut [0; 2]).unwrap();
    let phone = udp_phone();
    for _ in 0..PANICS_COUNT_MAX {
        phone.send_to(PANIC, rig.udp).unwrap();
    }
    rig.wait_for(Counter::Panics, PANICS_COUNT_MAX as u64);
    assert!(!rig.shards.handle().ready());
    bystander.write_all(b"\r\n\r\n").unwrap();
    bystander.read_exact(&mut [0; 2]).unwrap();
    let refused = TcpStream::connect(rig.tcp).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        uninterrupted(|| stream.read(&mut [0; 1]))
    });
    assert!(matches!(refused, Err(_) | Ok(0)), "{refused:?}");
    rig.shards.stop();
}

#[test]
fn a_panic_while_a_session_is_fed_closes_its_connection_and_all_others_are_read_on() {
    let certificates = Certificates::new("fed");
    let rig = Rig::with(1, certificates.tls("proxy.example.com"), nobody());
    let name = "proxy.example.com".try_into().unwrap();
    let session = rustls::ClientConnection::new(certificates.phone(), name).unwrap();
    let mut bystander = rustls::StreamOwned::new(session, connect(rig.tls));
    bystander.write_all(b"\r\n\r\n").unwrap();
    bystander.read_exact(&mut [0; 2]).unwrap();
    let mut victim = connect(rig.tls);
    victim.write_all(PANIC_READING).unwrap();
    assert!(matches!(uninterrupted(|| victim.read(&mut [0; 1])), Ok(0) | Err(_)), "it is closed");
    bystander.write_all(options(rig.tls, "TLS", "after").as_bytes()).unwrap();
    assert!(responses(&mut bystander, 1).starts_with("SIP/2.0 200"));
    let mut other = connect(rig.tcp);
    other.write_all(options(rig.tcp, "TCP", "after").as_bytes()).unwrap();
    assert!(responses(&mut other, 1).starts_with("SIP/2.0 200"));
    assert_eq!((rig.of(Counter::Panics), rig.of(Counter::ClosedPanic)), (1, 1));
    rig.shards.stop();
}
