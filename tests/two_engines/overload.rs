//! What gives way when messages wait too long for their turn, and when too many dialogs begin (DESIGN.md, Overload).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hawser::engine::Settings;
use hawser::limits::{KNOWN_WAIT_MAX, OVERLOAD_AT_ONCE, OVERLOAD_QUIET, QUEUE_WAIT_MAX, REGISTER_WAIT_MAX};
use hawser::overload::DialogRate;
use hawser::stats::Counter;

use crate::calls::registered;
use crate::talk::{Dialog, Phone, answer, header, headers, start_line, uri};
use crate::world::{SERVER, Setup, TLS, World};

const TICK: Duration = Duration::from_micros(1);

fn told(world: &World, words: &str) -> usize {
    world.events.iter().filter(|event| event.contains(words)).count()
}

/// A request of the server's to nobody that registered, of its own transaction.
fn to_device(method: &str, uri: &str, id: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {SERVER};branch=z9hG4bKo{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:s@127.0.0.1>;tag=o\r\nTo: <{uri}>\r\nCall-ID: o{id}\r\nCSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

const DEVICE: &str = "sip:gw@10.0.0.7:5060;transport=udp";
const DEVICE_AT: &str = "10.0.0.7:5060";

/// Every shard is overloaded by a message that has waited for very long, and that is no new work.
pub fn overload(world: &mut World) {
    world.waited = OVERLOAD_AT_ONCE;
    let shards = u8::try_from(world.engines.len()).expect("few");
    for shard in 0..shards {
        world.datagram(shard, SERVER, "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1\r\n\r\n");
    }
    world.waited = Duration::ZERO;
}

/// What a server's request of the present wait comes to: it goes on, or it is turned away.
#[track_caller]
fn goes_on(world: &mut World, method: &str, uri: &str, id: &str, extra: &str) -> bool {
    world.datagram(0, SERVER, &to_device(method, uri, id, extra));
    match world.try_read_udp(DEVICE_AT) {
        Some(text) => text.starts_with(method),
        None => {
            let refused = world.read_server();
            assert_eq!(start_line(&refused), "SIP/2.0 503 Overloaded", "{refused}");
            assert_eq!(headers(&refused, "Retry-After").len(), 1, "{refused}");
            assert!(header(&refused, "To").contains(";tag="), "{refused}");
            false
        }
    }
}

#[test]
fn nothing_is_refused_for_a_moment_in_which_messages_wait() {
    let mut world = World::new(&Setup::default());
    world.waited = OVERLOAD_AT_ONCE - TICK;
    assert!(goes_on(&mut world, "MESSAGE", DEVICE, "1", ""));
    assert_eq!(told(&world, "overloaded"), 0);
    world.drain();
    world.end();
}

#[test]
fn an_overload_turns_new_work_away_and_says_when_it_begins_and_ends() {
    let mut world = World::new(&Setup { shards: 1, ..Setup::default() });
    overload(&mut world);
    assert_eq!(told(&world, "messages wait 1000 ms for their turn"), 1, "{:?}", world.events);
    world.waited = QUEUE_WAIT_MAX;
    assert!(!goes_on(&mut world, "INVITE", DEVICE, "1", ""));
    assert!(!goes_on(&mut world, "INVITE", DEVICE, "1", ""), "a repetition too");
    world.waited = QUEUE_WAIT_MAX - TICK;
    assert!(goes_on(&mut world, "INVITE", DEVICE, "2", ""));
    assert_eq!(world.counted(Counter::Refused503OverloadDialog), 2);
    world.waited = Duration::ZERO;
    world.pass(OVERLOAD_QUIET + Duration::from_millis(10));
    let over = "it lasted 0.0 s, messages waited up to 1000 ms; put off or refused were 0 steps of TLS handshakes, 0 registrations, \
                2 requests outside dialogs, 0 in dialogs";
    assert_eq!(told(&world, over), 1, "{:?}", world.events);
    world.drain();
    world.waited = QUEUE_WAIT_MAX;
    assert!(goes_on(&mut world, "MESSAGE", DEVICE, "3", ""), "it is over");
    world.drain();
    world.end();
}

#[test]
fn emergency_calls_and_a_servers_checks_never_give_way() {
    let mut world = World::new(&Setup::default());
    overload(&mut world);
    world.waited = KNOWN_WAIT_MAX * 2;
    for (id, extra) in [
        ("1", "Resource-Priority: esnet.1\r\n"),
        ("2", "resource-priority: q735.0, WPS.2\r\n"),
        ("3", "Resource-Priority: ets.0\r\n"),
    ] {
        assert!(goes_on(&mut world, "INVITE", DEVICE, id, extra), "{extra}");
    }
    for (id, extra) in [("4", "Resource-Priority: etsi.0\r\n"), ("5", "Resource-Priority: q735.0\r\n")] {
        assert!(!goes_on(&mut world, "INVITE", DEVICE, id, extra), "{extra}");
    }
    let phone = world.connect(0, TLS);
    let sos =
        |uri: &str, id: &str| to_device("INVITE", uri, id, "").replace(&format!("UDP {SERVER}"), "TLS 192.0.2.7:5061");
    for (uri, id) in [("urn:service:sos", "6"), ("URN:service:sos.fire", "7")] {
        world.write(phone, &sos(uri, id));
        assert!(world.read_server().starts_with("INVITE "), "{uri}");
    }
    world.write(phone, &sos("urn:service:sosnot", "8"));
    assert_eq!(start_line(&world.read(phone)), "SIP/2.0 503 Overloaded");
    world.datagram(0, SERVER, &to_device("OPTIONS", "sip:127.0.0.1:5060", "9", ""));
    assert_eq!(start_line(&world.read_server()), "SIP/2.0 200 OK");
    world.drain();
    world.end();
}

/// First who has no binding, then what begins a dialog, last who has one or is in one.
#[test]
fn what_gives_way_first_is_who_is_not_known_yet_and_last_a_dialog() {
    let (mut world, mut phone) = registered();
    world.datagram(0, SERVER, &phone.server_request("INVITE", "c1", 1));
    let invite = world.read(phone.wire);
    world.write(phone.wire, &answer(&invite, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
    let mut server = Dialog::caller(&world.expect_server("SIP/2.0 200"));
    world.datagram(0, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    world.expect(phone.wire, "ACK ");

    overload(&mut world);
    world.waited = REGISTER_WAIT_MAX;
    let mut other = Phone::new("bob", world.connect(1, TLS));
    other.send_register(&mut world, 600);
    assert_eq!(start_line(&world.read(other.wire)), "SIP/2.0 503 Overloaded");
    assert_eq!(world.counted(Counter::Refused503OverloadRegister), 1);
    world.waited = KNOWN_WAIT_MAX - TICK;
    phone.send_register(&mut world, 600);
    phone.accept_register(&mut world, 600);
    world.expect(phone.wire, "SIP/2.0 200");
    world.datagram(0, SERVER, &server.request("INFO", &format!("UDP {SERVER}")));
    let info = world.read(phone.wire);
    assert!(info.starts_with("INFO "), "{info}");
    world.write(phone.wire, &answer(&info, "200 OK", "", ""));
    world.expect_server("SIP/2.0 200");
    world.waited = KNOWN_WAIT_MAX;
    world.datagram(0, SERVER, &server.request("INFO", &format!("UDP {SERVER}")));
    world.expect_server("SIP/2.0 503");
    assert_eq!(world.counted(Counter::Refused503OverloadKnown), 1);
    world.datagram(0, SERVER, &server.request("ACK", &format!("UDP {SERVER}")));
    world.expect(phone.wire, "ACK ");
    assert!(!uri(&phone.path[0]).is_empty());
    world.drain();
    world.end();
}

/// Its final answer would be taken for that of the call that goes on.
#[test]
fn a_repetition_of_what_was_admitted_is_absorbed_and_not_turned_away() {
    let mut world = World::new(&Setup::default());
    assert!(goes_on(&mut world, "INVITE", DEVICE, "1", ""));
    overload(&mut world);
    world.waited = KNOWN_WAIT_MAX * 2;
    world.datagram(0, SERVER, &to_device("INVITE", DEVICE, "1", ""));
    let said: Vec<String> = std::iter::from_fn(|| world.try_read_udp(SERVER)).collect();
    assert!(said.iter().all(|text| start_line(text) == "SIP/2.0 100 Trying"), "{said:?}");
    world.drain();
    world.end();
}

/// Ten a second, of which as many as come in a tenth of a second may come at once.
fn ten(settings: &mut Settings) {
    static SHARED: LazyLock<Arc<DialogRate>> = LazyLock::new(Arc::default);
    settings.live.dialog_rate = 10;
    settings.dialog_rate = SHARED.clone();
}

#[test]
fn the_cap_on_dialogs_is_one_for_all_shards_and_for_invites_that_begin_one() {
    let mut world = World::new(&Setup { mutate: ten, ..Setup::default() });
    let invite = |world: &mut World, at: u64| {
        let text = to_device("INVITE", DEVICE, &format!("r{at}"), "");
        world.datagram(u8::try_from(at % 2).expect("small"), SERVER, &text);
        world.try_read_udp(DEVICE_AT).is_some()
    };
    let through = (0..100).filter(|at| invite(&mut world, *at)).count();
    assert_eq!(through, 2);
    assert_eq!(world.counted(Counter::Refused503DialogRate), 98);
    world.drain();
    assert!(goes_on(&mut world, "MESSAGE", DEVICE, "m", ""), "it begins no dialog");
    let mut later = 0;
    for at in 100..200 {
        world.pass(Duration::from_millis(20));
        later += usize::from(invite(&mut world, at));
        world.drain();
    }
    assert!((19..=21).contains(&later), "{later} in two seconds");
    world.end();
}
