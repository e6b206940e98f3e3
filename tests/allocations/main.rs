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
        blocks(world, Input::Datagram { point: UDP, from: server, bytes: text.as_bytes() })
    };
    let from_phone =
        |world: &mut World, text: &str| blocks(world, Input::Bytes { conn: phone.wire.conn, bytes: text.as_bytes() });
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
    // INVITE, 180, 200, ACK, BYE, 200: the message itself; for a request its exchange; for a response that may have to
    // be sent again over UDP a buffer that the pool has not got at times.
    let most = [2, 2, 1, 1, 2, 2];
    assert!(worst.iter().zip(most).all(|(blocks, most)| *blocks <= most), "{worst:?} heap blocks, at most {most:?}");
}
