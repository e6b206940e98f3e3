//! Whatever a resolver sends: nothing panics, and what is not the answer does not end the question.

use std::time::Duration;

use hickory_proto::op::ResponseCode;

use super::world::*;
use crate::ids::Transport;
use crate::limits::DNS_NAME_MAX;

/// Answers of every shape that is looked into.
fn shapes(asked: &Asked) -> Vec<Vec<u8>> {
    let mut records = asked.reply(ResponseCode::NoError);
    for line in [
        "_sip._udp.a.test 60 CNAME _sip._udp.b.test",
        "_sip._udp.b.test 60 SRV 1 2 5060 x.b.test",
        "_sip._udp.b.test 60 SRV 1 2 5060 .",
        "_sip._udp.b.test 60 NAPTR 1 2 s SIP+D2U \"\" y.b.test",
        "_sip._udp.b.test 60 A 10.0.0.1",
        "_sip._udp.b.test 60 AAAA ::1",
    ] {
        records.add_answer(record(line));
    }
    records.add_additional(record("x.b.test 60 A 10.0.0.1"));
    let mut negative = asked.reply(ResponseCode::NXDomain);
    negative.add_authority(record("test 60 SOA 30"));
    let mut referral = asked.reply(ResponseCode::NoError);
    referral.add_authority(record("test 60 NS ns.test"));
    [records, negative, referral].iter().map(|message| message.to_vec().unwrap()).collect()
}

/// Runs a question into these bytes, with the right id or without, and to its end.
fn feed(bytes: &[u8], keep_id: bool, seed: u64) {
    let mut world = World::with(2, Duration::ZERO);
    let waiter = world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    let asked = world.asked[0].clone();
    let mut bytes = bytes.to_vec();
    if keep_id && bytes.len() >= 2 {
        bytes[..2].copy_from_slice(&asked.id.to_be_bytes());
    }
    world.send_bytes(asked.exchange, asked.to, &bytes);
    world.pass(DNS_NAME_MAX * 2);
    assert!(world.heard(waiter).is_some(), "seed {seed}: nobody was told, after {bytes:?}");
    assert!(world.dns.is_idle(), "seed {seed}: something is left, after {bytes:?}");
    assert!(world.asked.is_empty(), "seed {seed}: a socket is left, after {bytes:?}");
}

#[test]
fn answers_that_are_cut_off_anywhere_do_no_harm() {
    let mut world = World::new();
    world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    for whole in shapes(&world.asked[0].clone()) {
        for len in 0..=whole.len() {
            feed(&whole[..len], true, len as u64);
        }
    }
}

#[test]
fn answers_with_any_change_do_no_harm() {
    let mut world = World::new();
    world.ask(&over("a.test", Transport::Udp)).unwrap_err();
    let shapes = shapes(&world.asked[0].clone());
    for seed in 0..4_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = shapes[rng.usize(0..shapes.len())].clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..5) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes[at] ^= 1 << rng.u8(0..8),
                // A pointer of name compression.
                2 => bytes[at] = 0xc0 | rng.u8(0..4),
                3 => drop(bytes.splice(at..at, (0..rng.usize(1..20)).map(|_| rng.u8(..)).collect::<Vec<_>>())),
                _ => drop(bytes.drain(at..(at + rng.usize(1..20)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        feed(&bytes, rng.u8(0..4) > 0, seed);
    }
}

#[test]
fn bytes_of_any_kind_do_no_harm() {
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
        feed(&bytes, true, seed);
    }
    // As many records as the head can promise, and a name that points at itself.
    let mut bytes = vec![0, 0, 0x84, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    bytes.extend([0xc0, 12, 0, 33, 0, 1]);
    feed(&bytes, true, 0);
}
