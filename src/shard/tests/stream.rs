//! TCP connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;
use crate::limits::{SEND_AGE_MAX, SEND_QUEUE_LEN_MAX, SEND_STALL_MAX};

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads until so many responses have come; gives all bytes.
pub fn responses(from: &mut impl Read, count: usize) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while text.windows(4).filter(|part| part == b"\r\n\r\n").count() < count {
        let n = uninterrupted(|| from.read(&mut buffer)).expect("a response in time");
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_ping_gets_its_pong_and_a_request_its_answer() {
    let rig = Rig::start(2);
    let mut phones: Vec<TcpStream> = (0..20).map(|_| connect(rig.tcp)).collect();
    for phone in &mut phones {
        phone.write_all(b"\r\n\r\n").unwrap();
        let mut pong = [0; 2];
        phone.read_exact(&mut pong).unwrap();
        assert_eq!(&pong, b"\r\n");
        phone.write_all(options(rig.tcp, "TCP", "one").as_bytes()).unwrap();
        assert!(responses(phone, 1).starts_with("SIP/2.0 200"));
    }
    assert_eq!(rig.of(Counter::AcceptedTcp), 20);
    drop(phones);
    rig.wait_for(Counter::ClosedPeer, 20);
    rig.shards.stop();
}

#[test]
fn a_message_split_at_every_byte_and_three_in_one_segment_get_the_same_answers() {
    let rig = Rig::start(1);
    let mut phone = connect(rig.tcp);
    let text = options(rig.tcp, "TCP", "split");
    for byte in text.bytes() {
        phone.write_all(&[byte]).unwrap();
    }
    let first = responses(&mut phone, 1);
    let three: String = ["a", "b", "c"].map(|name| options(rig.tcp, "TCP", name)).concat();
    phone.write_all(three.as_bytes()).unwrap();
    let all = responses(&mut phone, 3);
    // The To tag is another for each answer; all else is the same.
    let without_to =
        |text: &str| -> String { text.split_inclusive("\r\n").filter(|line| !line.starts_with("To: ")).collect() };
    let want: String = ["a", "b", "c"].map(|name| first.replace("split", name)).concat();
    assert_eq!(without_to(&all), without_to(&want));
    rig.shards.stop();
}

#[test]
fn a_stream_that_cannot_be_framed_gets_its_400_before_it_is_closed() {
    let rig = Rig::start(1);
    let mut phone = connect(rig.tcp);
    let text = options(rig.tcp, "TCP", "bad").replace("Content-Length: 0", "Content-Length: 5\r\nContent-Length: 7");
    // What follows is never read, and must not turn the close into a reset that eats the answer.
    phone.write_all(text.as_bytes()).unwrap();
    phone.write_all(&[b'x'; 10_000]).unwrap();
    let mut answer = String::new();
    phone.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("SIP/2.0 400"), "{answer:?}");
    rig.wait_for(Counter::ClosedFraming, 1);
    rig.shards.stop();
}

#[test]
fn a_peer_that_reads_nothing_is_cut_off_at_the_bound_and_others_go_on() {
    let rig = Rig::start(1);
    let mut deaf = connect(rig.tcp);
    let text = options(rig.tcp, "TCP", "deaf").repeat(100);
    let deadline = Instant::now() + DEADLINE;
    // The kernel's buffers of both ends fill first, then ours up to the bound.
    while deaf.write_all(text.as_bytes()).is_ok() {
        assert!(Instant::now() < deadline, "it is never cut off");
    }
    rig.wait_for(Counter::ClosedSendQueueFull, 1);
    let mut other = connect(rig.tcp);
    other.write_all(b"\r\n\r\n").unwrap();
    other.read_exact(&mut [0; 2]).unwrap();
    let waiting = rig.total().gauges.of(crate::stats::Gauge::SendQueueBytes);
    assert!(waiting <= SEND_QUEUE_LEN_MAX as u64, "{waiting}");
    rig.shards.stop();
}

#[test]
fn a_peer_that_stops_reading_is_cut_off_when_nothing_has_gone_for_the_time_of_the_bound() {
    let rig = Rig::start(1);
    let mut deaf = connect(rig.tcp);
    // A small window, so that the kernel's buffers are full soon.
    socket2::SockRef::from(&deaf).set_recv_buffer_size(4096).unwrap();
    let text = options(rig.tcp, "TCP", "deaf").repeat(20);
    let waiting = || rig.total().gauges.of(crate::stats::Gauge::SendQueueBytes);
    wait_until("something waits", || {
        deaf.write_all(text.as_bytes()).unwrap();
        waiting() > 0
    });
    let since = Instant::now();
    while rig.of(Counter::ClosedSendStalled) == 0 {
        assert!(since.elapsed() < 2 * SEND_STALL_MAX, "it is never cut off");
        std::thread::park_timeout(LOOK_EVERY);
    }
    assert!(since.elapsed() > SEND_STALL_MAX / 2, "it had its time: {:?}", since.elapsed());
    assert_eq!((rig.of(Counter::ClosedSendQueueFull), waiting()), (0, 0));
    rig.shards.stop();
}

/// A peer with a small window that has asked for so many answers, of some 300 bytes each.
fn asks_and_does_not_read(rig: &Rig, count: usize) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&rig.tcp.into()).unwrap();
    let mut peer = TcpStream::from(socket);
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    peer.set_write_timeout(Some(DEADLINE)).unwrap();
    peer.write_all(options(rig.tcp, "TCP", "deaf").repeat(count).as_bytes()).unwrap();
    peer
}

#[test]
fn a_peer_whose_window_stays_closed_is_cut_off_though_the_system_holds_all_that_it_was_sent() {
    let rig = Rig::start(1);
    // More than its window, and less than the proxy's socket holds.
    let _deaf = asks_and_does_not_read(&rig, 250);
    // A byte now and then does not open its window again.
    let mut nibbler = asks_and_does_not_read(&rig, 250);
    rig.wait_for(Counter::messages_in(Transport::Tcp), 500);
    let waiting = || rig.total().gauges.of(crate::stats::Gauge::SendQueueBytes);
    wait_until("all answers are with the system", || waiting() == 0);
    let mut reader = connect(rig.tcp);
    let deadline = Instant::now() + 3 * SEND_STALL_MAX;
    let mut looks = 0_u32;
    while rig.of(Counter::ClosedSendStalled) < 2 {
        assert!(Instant::now() < deadline, "they are never cut off");
        assert_eq!(waiting(), 0, "they stay there");
        looks += 1;
        if looks.is_multiple_of(50) {
            // The connection's end is told by the counter.
            let _ = nibbler.read(&mut [0; 1]);
            reader.write_all(options(rig.tcp, "TCP", "reads").as_bytes()).unwrap();
            responses(&mut reader, 1);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    reader.write_all(b"\r\n\r\n").unwrap();
    reader.read_exact(&mut [0; 2]).unwrap();
    let others = [Counter::ClosedDead, Counter::ClosedReset, Counter::ClosedSendSlow, Counter::ClosedSendQueueFull];
    assert_eq!(others.map(|counter| rig.of(counter)), [0; 4]);
    rig.shards.stop();
}

#[test]
fn a_peer_that_reads_too_slowly_for_any_transaction_is_cut_off() {
    let rig = Rig::start(1);
    let mut slow = asks_and_does_not_read(&rig, 700);
    let mut buffer = [0; 512];
    let deadline = Instant::now() + 3 * SEND_AGE_MAX;
    while rig.of(Counter::ClosedSendSlow) == 0 {
        assert!(Instant::now() < deadline, "it is never cut off");
        let _ = slow.read(&mut buffer);
        std::thread::park_timeout(SEND_AGE_MAX / 80);
        let others = [Counter::ClosedSendStalled, Counter::ClosedSendQueueFull, Counter::ClosedDead];
        assert_eq!(others.map(|counter| rig.of(counter)), [0; 3]);
    }
    rig.shards.stop();
}

#[test]
fn a_half_closed_peer_and_a_reset_are_counted_by_reason() {
    let rig = Rig::start(1);
    let mut half = connect(rig.tcp);
    half.write_all(b"\r\n\r\n").unwrap();
    half.read_exact(&mut [0; 2]).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(uninterrupted(|| half.read(&mut [0; 1])).unwrap(), 0);
    rig.wait_for(Counter::ClosedPeer, 1);
    let mut reset = connect(rig.tcp);
    reset.write_all(b"\r\n\r\n").unwrap();
    reset.read_exact(&mut [0; 2]).unwrap();
    socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    rig.wait_for(Counter::ClosedReset, 1);
    rig.shards.stop();
}

#[test]
fn a_gathering_pause_loses_nothing() {
    let rig = Rig::gathering(Duration::from_micros(500));
    let mut phones: Vec<TcpStream> = (0..10).map(|_| connect(rig.tcp)).collect();
    for phone in &mut phones {
        phone.write_all(options(rig.tcp, "TCP", "gather").repeat(20).as_bytes()).unwrap();
    }
    for phone in &mut phones {
        assert_eq!(responses(phone, 20).matches("SIP/2.0 200").count(), 20);
    }
    rig.shards.stop();
}

#[test]
fn a_burst_larger_than_a_read_keeps_every_message() {
    let rig = Rig::start(1);
    let mut phone = connect(rig.tcp);
    let count = 400;
    let text: String = (0..count).map(|at| options(rig.tcp, "TCP", &format!("n{at}n"))).collect();
    let mut writer = phone.try_clone().unwrap();
    let writes = std::thread::spawn(move || writer.write_all(text.as_bytes()).unwrap());
    let answers = responses(&mut phone, count);
    writes.join().unwrap();
    for at in 0..count {
        assert!(answers.contains(&format!("Call-ID: n{at}n\r\n")), "{at}");
    }
    rig.shards.stop();
}

#[test]
fn a_request_right_before_the_peers_fin_is_answered() {
    let rig = Rig::start(1);
    for round in 0..20 {
        let mut phone = connect(rig.tcp);
        phone.write_all(options(rig.tcp, "TCP", "last").as_bytes()).unwrap();
        phone.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        phone.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("SIP/2.0 200"), "round {round}: {answer:?}");
    }
    rig.wait_for(Counter::ClosedPeer, 20);
    rig.shards.stop();
}
