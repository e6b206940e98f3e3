//! Pins the heap blocks that a forwarded message costs inside the engine once it is warm. rustls makes its own, and
//! so does the shell's task for each connection; they are not counted here.

#![allow(missing_docs, reason = "a test")]

#[path = "../two_engines/record.rs"]
mod record;
#[allow(dead_code, reason = "the stories use the rest")]
#[path = "../two_engines/resolver.rs"]
mod resolver;
#[allow(dead_code, reason = "the stories use the rest")]
#[path = "../two_engines/talk.rs"]
mod talk;
#[allow(dead_code, reason = "the stories use the rest")]
#[path = "../two_engines/world.rs"]
mod world;

use hawser::engine::Input;
use talk::{Dialog, Phone, answer};
use world::{SERVER, Setup, TLS, UDP, World};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What one input costs.
fn blocks(world: &mut World, input: Input<'_>) -> u64 {
    let now = world.now;
    let before = dhat::HeapStats::get().total_blocks;
    world.engines[0].handle(input, now);
    let after = dhat::HeapStats::get().total_blocks;
    // Outputs are carried out, and their buffers come back.
    world.pass_ms(0);
    after - before
}

/// A call from the server to the phone: what its six messages cost.
fn call(world: &mut World, phone: &Phone, serial: usize) -> [u64; 6] {
    let server = SERVER.parse().expect("an address");
    let datagram = |world: &mut World, text: &str| {
        blocks(
            world,
            Input::Datagram { point: UDP, from: server, bytes: text.as_bytes(), waited: std::time::Duration::ZERO },
        )
    };
    let from_phone = |world: &mut World, text: &str| {
        blocks(world, Input::Bytes { conn: phone.wire.conn, bytes: text.as_bytes(), waited: std::time::Duration::ZERO })
    };
    let request = phone.server_request("INVITE", &format!("call{serial}"), 1);
    let invite = datagram(world, &request);
    let at_phone = world.read(phone.wire);
    let ringing = from_phone(world, &answer(&at_phone, "180 Ringing", "p", ""));
    world.read_server();
    let ok = from_phone(world, &answer(&at_phone, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
    let mut dialog = Dialog::caller(&world.read_server());
    let via = format!("UDP {SERVER}");
    let ack = datagram(world, &dialog.request("ACK", &via));
    world.read(phone.wire);
    let bye = datagram(world, &dialog.request("BYE", &via));
    let bye_at_phone = world.read(phone.wire);
    let done = from_phone(world, &answer(&bye_at_phone, "200 OK", "", ""));
    world.read_server();
    // So that transactions end at the rate at which they begin.
    world.pass_ms(300);
    world.drain();
    [invite, ringing, ok, ack, bye, done]
}

#[test]
fn a_forwarded_message_costs_few_heap_blocks() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    let wire = world.connect(0, TLS);
    let mut phone = Phone::new("alice", wire);
    phone.register(&mut world, 3_600);
    for serial in 0..300 {
        call(&mut world, &phone, serial);
    }
    let mut worst = [0; 6];
    for serial in 300..350 {
        for (worst, blocks) in worst.iter_mut().zip(call(&mut world, &phone, serial)) {
            *worst = blocks.max(*worst);
        }
    }
    // INVITE, 180, 200, ACK, BYE, 200: the message itself; for a request its context; for a final response the three of
    // what its context shrinks to; for one that may have to be sent again over UDP its exact copy.
    let most = [2, 2, 4, 1, 2, 4];
    assert!(worst.iter().zip(most).all(|(blocks, most)| *blocks <= most), "{worst:?} heap blocks, at most {most:?}");
}

/// What a call over UDP on both sides, hung up, keeps for the half minute in which its messages may come again: bytes on
/// the heap.
#[test]
#[ignore = "a measurement, with a profiler of its own: run by hand, see perf/README.md"]
fn bytes_of_a_finished_call() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mutate = |settings: &mut hawser::engine::Settings| settings.transactions_max = 10_000;
    let mut world = World::new(&Setup { shards: 1, mutate, ..Setup::default() });
    let at = "10.9.0.1:5060";
    let mut phone = Phone::new("alice", world.connect(0, TLS));
    phone.via = "UDP";
    phone.contact = format!("sip:alice@{at}");
    let register = phone.register_text(3_600);
    world.datagram(0, at, &register);
    phone.accept_register(&mut world, 3_600);
    world.read_udp(at);
    let mut play = |calls: std::ops::Range<usize>| {
        for serial in calls {
            let invite = phone.server_request("INVITE", &format!("call{serial}"), 1);
            world.datagram(0, SERVER, &invite);
            let came = world.read_udp(at);
            let ok = answer(&came, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact));
            world.datagram(0, at, &ok);
            let mut dialog = Dialog::caller(&world.read_server());
            let via = format!("UDP {SERVER}");
            world.datagram(0, SERVER, &dialog.request("ACK", &via));
            world.read_udp(at);
            world.datagram(0, SERVER, &dialog.request("BYE", &via));
            let bye = world.read_udp(at);
            world.datagram(0, at, &answer(&bye, "200 OK", "", ""));
            world.read_server();
            world.drain();
        }
        // Timer K is over, and J, L and M are not.
        world.pass_s(6);
        (dhat::HeapStats::get().curr_bytes, world.engines[0].held_len())
    };
    // Tables have their room then, and the pool its buffers.
    let (heap, held) = play(0..500);
    let (more_heap, more_held) = play(500..900);
    eprintln!("a finished call keeps {} bytes on the heap", (more_heap - heap) / 400);
    eprintln!("and {} by the engine's own count", (more_held - held) / 400);
}
