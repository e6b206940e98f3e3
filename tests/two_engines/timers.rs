//! Timers of whole exchanges, as both sides see them.

use hawser::stats::Counter;

use crate::calls::registered;
use crate::talk::{answer, header, start_line};
use crate::world::{SERVER, Setup, TLS, World};

fn request(method: &str, call_id: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.7:5060;branch=z9hG4bKt{call_id}\r\n\
         From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:a@192.0.2.7>\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn timer_b_expiry_answers_408_after_seven_sendings() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("INVITE", "b"));
    world.pass_ms(31_900);
    let mut sendings = 0;
    while let Some(text) = world.try_read_udp(SERVER) {
        assert!(text.starts_with("INVITE "));
        sendings += 1;
    }
    assert_eq!(sendings, 7, "timer A at 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s");
    assert_eq!(start_line(&world.read(wire)), "SIP/2.0 100 Trying");
    world.pass_ms(200);
    world.expect(wire, "SIP/2.0 408");
    world.end();
}

#[test]
fn a_non_invite_hears_100_when_timer_e_reaches_t2_and_never_408() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("MESSAGE", "e"));
    world.pass_ms(3_400);
    assert_eq!(world.try_read(wire), None);
    world.pass_ms(200);
    assert_eq!(start_line(&world.read(wire)), "SIP/2.0 100 Trying");
    world.pass_s(40);
    assert_eq!(world.try_read(wire), None);
    let sendings = world.drain().len();
    assert_eq!(sendings, 11, "timer E at 0.5, 1.5, 3.5, then each 4 s until 31.5 s");
    assert_eq!(world.counted(Counter::TimerF), 1);
    world.end();
}

#[test]
fn a_408_to_a_non_invite_is_not_passed_on() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("MESSAGE", "e"));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "408 Request Timeout", "s", ""));
    world.pass_s(1);
    assert_eq!(world.try_read(wire), None);
    world.end();
}

#[test]
fn timer_c_cancels_and_answers_408_when_that_brings_nothing() {
    let (mut world, phone) = registered();
    let (_, at_phone) = phone.asked(&mut world, "INVITE", "c");
    world.write(phone.wire, &answer(&at_phone, "180 Ringing", "p", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 180 Ringing");
    world.pass_s(100);
    // Each further provisional begins timer C anew.
    world.write(phone.wire, &answer(&at_phone, "183 Session Progress", "p", ""));
    world.read_server();
    world.pass_s(179);
    world.assert_silent();
    world.pass_s(2);
    world.expect(phone.wire, "CANCEL ");
    world.pass_s(33);
    let timeout = world.expect_server("SIP/2.0 408");
    assert_eq!(header(&timeout, "CSeq"), "1 INVITE");
    world.drain();
    world.end();
}

#[test]
fn a_retransmission_over_udp_gets_the_same_final_response_again() {
    let mut world = World::new(&Setup::default());
    let from = "10.0.0.5:5060";
    let text = request("MESSAGE", "r").replace("SIP/2.0/TLS 192.0.2.7:5060", "SIP/2.0/UDP 10.0.0.5:5060");
    world.datagram(0, from, &text);
    let sent = world.read_server();
    world.datagram(0, from, &text);
    world.assert_silent();
    world.datagram(1, SERVER, &answer(&sent, "202 Accepted", "s", ""));
    let first = world.read_udp(from);
    world.datagram(0, from, &text);
    assert_eq!(world.read_udp(from), first);
    world.assert_silent();
    world.end();
}

#[test]
fn to_a_non_invite_no_provisional_but_100_is_passed_on() {
    let mut world = World::new(&Setup::default());
    let wire = world.connect(0, TLS);
    world.write(wire, &request("MESSAGE", "e"));
    let sent = world.read_server();
    world.datagram(0, SERVER, &answer(&sent, "183 Session Progress", "s", ""));
    world.pass_ms(3_400);
    assert_eq!(world.try_read(wire), None);
    world.pass_ms(200);
    assert_eq!(start_line(&world.read(wire)), "SIP/2.0 100 Trying");
    world.datagram(0, SERVER, &answer(&sent, "200 OK", "s", ""));
    world.expect(wire, "SIP/2.0 200");
    world.drain();
    world.end();
}
