//! Which server of which pair gets a request, and what an operator hears of it.

use std::time::Duration;

use hawser::config::{Host, PeerProxy, Server, ServerAddress, Verify};
use hawser::engine::{Input, Settings};
use hawser::ids::Transport;
use hawser::server_pool::Member;
use hawser::stats::Counter;

use crate::stage::{Mode, Stage, address, ask, cancel, everywhere, paired, unchecked};
use crate::talk::{Dialog, answer, header, headers, start_line};
use crate::world::{SERVER, SERVER2, Setup, TCP, TLS};

const OTHER: &str = "127.0.0.1:7100";
const OTHER2: &str = "127.0.0.1:7101";

/// A request of a server to nobody that we know.
fn request_of(stage: &Stage, server: &str, method: &str, id: &str) -> String {
    let via = stage.world.engines[0].settings().servers[0].transport.via_name();
    format!(
        "{method} sip:127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/{via} {server};branch=z9hG4bK{id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{server}>;tag=o\r\nTo: <sip:127.0.0.1>\r\nCall-ID: {id}\r\n\
         CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_request_of_the_backup_makes_it_active_everywhere_and_its_options_do_not() {
    everywhere(paired, |mut stage| {
        stage.assert_served_by(SERVER);
        let check = request_of(&stage, SERVER2, "OPTIONS", "o");
        stage.say(SERVER2, &check);
        assert!(stage.read_at(SERVER2).starts_with("SIP/2.0 200"));
        stage.assert_served_by(SERVER);
        let real = request_of(&stage, SERVER2, "NOTIFY", "n");
        stage.say(SERVER2, &real);
        stage.read_at(SERVER2);
        stage.assert_served_by(SERVER2);
        assert_eq!(
            stage.told(&format!("backup {SERVER2} in place of primary {SERVER} (backup: it sent a request)")),
            1
        );
        stage.end();
    });
}

#[test]
fn a_pinned_pair_does_not_switch_and_nothing_takes_the_place_of_the_pinned_server() {
    everywhere(paired, |mut stage| {
        let now = stage.world.now;
        stage.world.engines[0].pin("sips1", Some(Member::Backup), now).expect("it has one");
        stage.run();
        stage.assert_served_by(SERVER2);
        let real = request_of(&stage, SERVER, "NOTIFY", "n");
        stage.say(SERVER, &real);
        stage.read_at(SERVER);
        stage.assert_served_by(SERVER2);
        stage.set(SERVER2, Mode::Gone);
        stage.pass_s(10);
        let wire = stage.phone();
        stage.write(wire, &ask("MESSAGE", "m"));
        let refused = stage.read_status(wire, "503");
        assert_eq!(headers(&refused, "Retry-After").len(), 1, "{refused}");
        stage.assert_idle(SERVER);
        let now = stage.world.now;
        stage.world.engines[0].pin("sips1", None, now).expect("it is there");
        stage.pass_s(2);
        stage.assert_served_by(SERVER);
        stage.end();
    });
}

#[test]
fn only_the_shard_that_owns_the_verdict_takes_a_pin() {
    let mut stage = Stage::new(&Setup { shards: 2, mutate: paired, ..Setup::default() });
    let now = stage.world.now;
    assert!(stage.world.engines[1].pin("sips1", Some(Member::Backup), now).is_err());
    assert!(stage.world.engines[0].pin("sips2", Some(Member::Backup), now).is_err());
    stage.end();
}

#[test]
fn without_service_checks_nothing_is_pinged_evidence_switches_and_what_is_down_is_tried_again() {
    everywhere(unchecked, |mut stage| {
        stage.pass_s(60);
        assert_eq!(stage.pings(SERVER) + stage.pings(SERVER2), 0);
        stage.assert_served_by(SERVER);
        stage.set(SERVER, Mode::Gone);
        stage.assert_served_by(SERVER2);
        stage.set(SERVER, Mode::Up);
        stage.pass_s(5);
        stage.assert_served_by(SERVER2);
        stage.set(SERVER2, Mode::Gone);
        stage.assert_served_by(SERVER);
        stage.set(SERVER, Mode::Gone);
        let wire = stage.phone();
        stage.write(wire, &ask("MESSAGE", "m"));
        stage.read_status(wire, "503");
        // After oos-force it is tried again.
        stage.set(SERVER, Mode::Up);
        stage.pass_ms(1_100);
        stage.assert_served_by(SERVER);
        assert_eq!(stage.pings(SERVER) + stage.pings(SERVER2), 0);
        stage.end();
    });
}

#[test]
fn without_service_checks_a_server_that_answers_requests_is_shown_as_one_that_answers() {
    everywhere(unchecked, |mut stage| {
        let shown = |stage: &Stage| {
            let pair = stage.world.engines[0].pairs(stage.world.now).remove(0);
            (pair.why, pair.servers[0].why.clone(), pair.servers[1].why.clone())
        };
        let words = |primary: &str| ("since the start".to_owned(), primary.to_owned(), "nothing heard yet".to_owned());
        assert_eq!(shown(&stage), words("nothing heard yet"));
        stage.assert_served_by(SERVER);
        assert_eq!(shown(&stage), words("it answers"));
        stage.end();
    });
}

#[test]
fn a_partner_that_takes_the_calls_which_the_active_one_refuses_becomes_active() {
    everywhere(paired, |mut stage| {
        stage.set(SERVER, Mode::Overloaded);
        let wire = stage.phone();
        let moved = stage.asked(wire, "INVITE", "i", SERVER2);
        stage.reply(SERVER2, &moved, "200 OK");
        let ok = stage.read_status(wire, "200");
        let ack = Dialog::caller(&ok).request("ACK", "TLS 192.0.2.7:5060");
        stage.write(wire, &ack);
        stage.read_request(SERVER2, "ACK");
        stage.assert_served_by(SERVER2);
        stage.end();
    });
}

#[test]
fn the_outage_of_both_is_said_once_with_what_is_held_against_them_and_cleared_once() {
    everywhere(paired, |mut stage| {
        stage.set(SERVER, Mode::Gone);
        stage.set(SERVER2, Mode::Silent);
        stage.pass_s(60);
        let wire = stage.phone();
        assert_eq!(stage.told("40001 no SIP Server answers"), 1, "{:#?}", stage.world.events);
        let both = format!("sips1: primary {SERVER}: connection refused; backup {SERVER2}: no ");
        assert_eq!(stage.told(&both), 1, "{:#?}", stage.world.events);
        for method in ["INVITE", "MESSAGE", "REGISTER"] {
            stage.write(wire, &ask(method, method));
            let refused = stage.read_status(wire, "503");
            assert_eq!(headers(&refused, "Retry-After").len(), 1, "{refused}");
        }
        let check = ask("OPTIONS", "o").replace("OPTIONS sip:bob@", "OPTIONS sip:");
        stage.write(wire, &check);
        stage.read_status(wire, "503");
        stage.forget(SERVER2);
        stage.set(SERVER2, Mode::Up);
        stage.pass_s(3);
        assert_eq!(stage.told("40001 cleared"), 1, "{:#?}", stage.world.events);
        stage.forget(SERVER2);
        stage.assert_served_by(SERVER2);
        stage.pass_s(60);
        assert_eq!(stage.told("40001"), 2);
        stage.end();
    });
}

#[test]
fn connections_to_a_server_are_kept_one_for_each_shard() {
    for internal in [Transport::Tcp, Transport::Tls] {
        let mut stage = Stage::new(&Setup { internal, shards: 3, mutate: paired, ..Setup::default() });
        for _ in 0..3 {
            stage.assert_served_by(SERVER);
            stage.pass_s(20);
        }
        let to: Vec<_> = stage.world.opened.iter().filter(|(_, to)| *to == address(SERVER)).collect();
        assert_eq!(to.len(), 3, "{to:?}");
        assert_eq!(stage.wires(SERVER).len(), 3);
        stage.end();
    }
}

#[test]
fn service_checks_go_every_oos_check_to_the_active_server_only() {
    everywhere(paired, |mut stage| {
        stage.pass_ms(60_100);
        let count = stage.pings(SERVER);
        assert!((12..=14).contains(&count), "{count}");
        assert_eq!(stage.pings(SERVER2), 0);
        stage.end();
    });
}

#[test]
fn draining_keeps_the_dialogs_of_a_server_that_dies() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let invite = stage.asked(wire, "INVITE", "i", SERVER);
        stage.reply(SERVER, &invite, "200 OK");
        let ok = stage.read_status(wire, "200");
        let mut dialog = Dialog::caller(&ok);
        let other = stage.phone();
        let waiting = ask("INVITE", "w");
        stage.write(other, &waiting);
        stage.read_request(SERVER, "INVITE");
        for shard in 0..stage.shards() {
            stage.world.input(shard, Input::Drain);
        }
        stage.set(SERVER, Mode::Gone);
        stage.pass_s(6);
        let moved = stage.read_request(SERVER2, "INVITE");
        stage.reply(SERVER2, &moved, "180 Ringing");
        stage.forget(SERVER2);
        stage.in_dialog(wire, &mut dialog, "BYE", SERVER2);
        stage.write(other, &cancel(&waiting));
        let taken_back = stage.read_request(SERVER2, "CANCEL");
        stage.reply(SERVER2, &taken_back, "200 OK");
        stage.reply(SERVER2, &moved, "487 Request Terminated");
        while !stage.read(other).starts_with("SIP/2.0 487") {}
        stage.world.drain();
        stage.forget(SERVER);
        stage.end();
    });
}

/// Two pairs; the endpoints' requests go to the first.
fn two_pairs(settings: &mut Settings) {
    paired(settings);
    let transport = settings.servers[0].transport;
    let mut other = Server::at("sips2", address(OTHER), transport);
    other.backup = Some(ServerAddress::Address(address(OTHER2)));
    settings.servers.push(other);
}

fn with_two_pairs(internal: Transport) -> Stage {
    let mut stage = Stage::new(&Setup { internal, shards: 3, mutate: two_pairs, ..Setup::default() });
    stage.add(OTHER, internal);
    stage.add(OTHER2, internal);
    stage.run();
    stage
}

#[test]
fn of_several_pairs_the_serving_one_gets_what_is_new_and_a_dialog_stays_with_its_own() {
    for internal in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut stage = with_two_pairs(internal);
        let phone = stage.registered("alice", SERVER);
        for server in [SERVER, OTHER] {
            // Servers of either pair reach the phone.
            let invite = stage.request_of(server, &phone, "INVITE", &format!("c{}", &server[10..]));
            stage.say(server, &invite);
            let invite = stage.read(phone.wire);
            assert!(invite.starts_with("INVITE "), "{invite}");
            let mut callee = Dialog::callee(&invite, "p");
            stage.write(phone.wire, &answer(&invite, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
            assert!(stage.read_at(server).starts_with("SIP/2.0 200"), "{server}");
            // What the phone says in the dialog goes to the pair that its target names.
            for method in ["INFO", "BYE"] {
                let request = stage.in_dialog(phone.wire, &mut callee, method, server);
                assert_eq!(start_line(&request), format!("{method} sip:{server} SIP/2.0"));
            }
        }
        // The name of another pair alone does not lead there.
        stage.write(phone.wire, &ask("MESSAGE", "m").replacen("sip:bob@example.com", &format!("sip:bob@{OTHER}"), 1));
        let request = stage.read_request(SERVER, "MESSAGE");
        stage.reply(SERVER, &request, "200 OK");
        stage.read_status(phone.wire, "200");
        stage.assert_idle(OTHER);
        stage.end();
    }
}

#[test]
fn a_pair_that_fails_takes_its_own_dialogs_along_and_leaves_the_others_alone() {
    for internal in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut stage = with_two_pairs(internal);
        let phone = stage.registered("alice", SERVER);
        let invite = stage.request_of(OTHER, &phone, "INVITE", "c");
        stage.say(OTHER, &invite);
        let invite = stage.read(phone.wire);
        let mut callee = Dialog::callee(&invite, "p");
        stage.write(phone.wire, &answer(&invite, "200 OK", "p", &format!("Contact: <{}>\r\n", phone.contact)));
        stage.read_at(OTHER);
        stage.set(OTHER, Mode::Gone);
        stage.pass_s(6);
        assert_eq!(stage.told("sips2: backup 127.0.0.1:7101 in place of"), 1, "{:#?}", stage.world.events);
        stage.in_dialog(phone.wire, &mut callee, "BYE", OTHER2);
        stage.assert_served_by(SERVER);
        stage.end();
    }
}

/// The only server has a name.
fn named(settings: &mut Settings) {
    settings.servers[0].primary = ServerAddress::Name("sips.test".to_owned(), None);
    settings.live.oos_check = Duration::from_secs(5);
    settings.dns.resolvers = vec![address(crate::resolver::RESOLVER)];
    settings.dns.ttl_stale = Duration::from_secs(3_600);
    settings.live.domains.clear();
}

impl Stage {
    fn srv(&mut self, ttl: u32, targets: &[(&str, u16, u16, u16)]) {
        let mut lines = Vec::new();
        for (host, priority, weight, port) in targets {
            for service in ["_sip._udp", "_sip._tcp", "_sips._tcp"] {
                lines.push(format!("{service}.sips.test SRV {priority} {weight} {port} {host}"));
            }
            lines.push(format!("{host} A 127.0.0.1"));
            lines.push("sips.test A 127.0.0.1".to_owned());
        }
        lines.dedup();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.world.resolver.ttl = ttl;
        self.world.resolver.set_zone(&lines);
    }
}

#[test]
fn a_server_whose_name_does_not_resolve_yet_is_503_with_retry_after_and_then_served() {
    everywhere(named, |mut stage| {
        let wire = stage.phone();
        stage.write(wire, &ask("INVITE", "i"));
        let refused = stage.read_status(wire, "503");
        assert_eq!(headers(&refused, "Retry-After").len(), 1, "{refused}");
        assert_eq!(stage.told("the name of a SIP Server does not resolve"), 1);
        stage.srv(60, &[("a.test", 0, 0, 7000)]);
        // No longer than that it has no records is remembered.
        stage.pass_s(310);
        stage.assert_served_by(SERVER);
        stage.end();
    });
}

/// Until then it is nobody that we know, whom a stranger could be too; but not for as long as the connection lives.
#[test]
fn a_servers_own_connection_is_its_own_from_when_its_name_resolves() {
    for shards in [1, 2] {
        let mut stage = Stage::new(&Setup { mutate: named, internal: Transport::Tcp, shards, ..Setup::default() });
        let own = stage.world.connect_from(shards - 1, TCP, address("127.0.0.1:43210"));
        let message = |id: &str| {
            request_of(&stage, SERVER, "MESSAGE", id).replacen("sip:127.0.0.1:5060", "sip:gw@10.0.0.7;transport=udp", 1)
        };
        let (before, after) = (message("m1").replace("127.0.0.1:7000;", "sips.test:7000;"), message("m2"));
        let after = after.replace("127.0.0.1:7000;", "sips.test:7000;");
        stage.world.write(own, &before);
        stage.read_status(own, "503");
        stage.srv(60, &[("a.test", 0, 0, 7000)]);
        for _ in 0..4 {
            stage.pass_s(80);
            stage.world.write(own, "\r\n\r\n");
            assert_eq!(stage.world.read(own), "\r\n");
        }
        stage.world.write(own, &after);
        assert!(stage.world.read_udp("10.0.0.7:5060").starts_with("MESSAGE "));
        stage.end();
    }
}

#[test]
fn a_name_is_asked_for_at_start_and_not_only_when_something_happens() {
    let mut stage = Stage::new(&Setup { mutate: named, ..Setup::default() });
    stage.srv(60, &[("a.test", 0, 0, 7000)]);
    stage.run();
    stage.assert_served_by(SERVER);
    stage.end();
}

#[test]
fn a_set_of_servers_shares_new_requests_by_weight_and_each_dialog_stays() {
    everywhere(named, |mut stage| {
        stage.srv(60, &[("a.test", 0, 3, 7000), ("b.test", 0, 1, 7001), ("c.test", 1, 1, 7100)]);
        stage.add(OTHER, stage.world.engines[0].settings().servers[0].transport);
        stage.run();
        let wire = stage.phone();
        let mut shares = [0; 2];
        for count in 0..80 {
            stage.write(wire, &ask("INVITE", &format!("i{count}")));
            let (at, server) = match stage.try_read_at(SERVER) {
                Some(invite) => (0, (SERVER, invite)),
                None => (1, (SERVER2, stage.read_request(SERVER2, "INVITE"))),
            };
            shares[at] += 1;
            let (server, invite) = server;
            stage.reply(server, &invite, "200 OK");
            let ok = stage.read_status(wire, "200");
            let mut dialog = Dialog::caller(&ok);
            stage.acknowledge(wire, &mut dialog, server);
            stage.in_dialog(wire, &mut dialog, "BYE", server);
        }
        assert!((45..=75).contains(&shares[0]), "{shares:?}");
        stage.assert_idle(OTHER);
        stage.end();
    });
}

/// Its Contact names the whole set, and says nothing of the one that has the dialog.
#[test]
fn a_dialog_stays_with_its_server_though_the_contact_is_the_name_of_the_set() {
    everywhere(named, |mut stage| {
        stage.srv(60, &[("a.test", 0, 1, 7000), ("b.test", 0, 1, 7001)]);
        stage.run();
        let wire = stage.phone();
        let mut shares = [0; 2];
        for count in 0..24 {
            stage.write(wire, &ask("INVITE", &format!("i{count}")));
            let (at, server, invite) = match stage.try_read_at(SERVER) {
                Some(invite) => (0, SERVER, invite),
                None => (1, SERVER2, stage.read_request(SERVER2, "INVITE")),
            };
            shares[at] += 1;
            stage.say(server, &answer(&invite, "200 OK", "t", "Contact: <sip:set.test>\r\n"));
            let mut dialog = Dialog::caller(&stage.read_status(wire, "200"));
            assert_eq!(dialog.target, "sip:set.test");
            stage.acknowledge(wire, &mut dialog, server);
            stage.in_dialog(wire, &mut dialog, "BYE", server);
        }
        assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
        stage.end();
    });
}

#[test]
fn a_dead_target_of_a_name_gives_its_requests_to_the_next() {
    for mode in [Mode::Gone, Mode::Silent, Mode::Unavailable] {
        everywhere(named, |mut stage| {
            stage.srv(60, &[("a.test", 0, 0, 7000), ("b.test", 1, 0, 7001)]);
            stage.run();
            let wire = stage.phone();
            let first = stage.asked(wire, "INVITE", "i", SERVER);
            stage.reply(SERVER, &first, "100 Trying");
            stage.set(SERVER, mode);
            stage.pass_s(7);
            let moved = stage.read_request(SERVER2, "INVITE");
            stage.reply(SERVER2, &moved, "200 OK");
            stage.read_final(wire, "200");
            stage.forget(SERVER2);
            stage.assert_served_by(SERVER2);
            // The one of the better priority is back.
            stage.set(SERVER, Mode::Up);
            stage.forget(SERVER);
            stage.pass_s(7);
            stage.assert_served_by(SERVER);
            stage.end();
        });
    }
}

#[test]
fn new_addresses_get_new_requests_when_the_old_have_expired() {
    everywhere(named, |mut stage| {
        stage.srv(30, &[("a.test", 0, 0, 7000)]);
        stage.run();
        stage.assert_served_by(SERVER);
        stage.srv(30, &[("b.test", 0, 0, 7001)]);
        stage.pass_s(10);
        stage.assert_served_by(SERVER);
        stage.pass_s(25);
        stage.assert_served_by(SERVER2);
        // Nobody answers: what was known goes on.
        stage.world.resolver.silent = true;
        stage.pass_s(600);
        stage.assert_served_by(SERVER2);
        stage.world.resolver.silent = false;
        stage.end();
    });
}

#[test]
fn a_response_and_a_2xx_are_heard_from_a_target_that_the_dns_has_taken_away() {
    everywhere(named, |mut stage| {
        stage.srv(30, &[("a.test", 0, 0, 7000)]);
        stage.run();
        let wire = stage.phone();
        let invite = stage.asked(wire, "INVITE", "i", SERVER);
        stage.reply(SERVER, &invite, "180 Ringing");
        stage.read_status(wire, "180");
        stage.srv(30, &[("b.test", 0, 0, 7001)]);
        stage.pass_s(40);
        stage.reply(SERVER, &invite, "200 OK");
        stage.read_status(wire, "200");
        assert_eq!(stage.world.counted(Counter::CallsAnswered), 1);
        stage.end();
    });
}

#[test]
fn an_options_of_a_phone_is_a_request_like_others_when_it_is_not_for_the_proxy() {
    let mut stage = Stage::new(&Setup { mutate: paired, ..Setup::default() });
    let wire = stage.world.connect(0, TLS);
    let request = stage.asked(wire, "OPTIONS", "o", SERVER);
    assert_eq!(header(&request, "Call-ID"), "o");
    stage.reply(SERVER, &request, "200 OK");
    stage.read_status(wire, "200");
    stage.end();
}

#[test]
fn service_checks_do_not_wait_for_the_back_off_and_their_answer_ends_it_on_every_shard() {
    for internal in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut stage = Stage::new(&Setup { internal, shards: 3, mutate: paired, ..Setup::default() });
        stage.assert_served_by(SERVER);
        stage.set(SERVER, Mode::Gone);
        stage.set(SERVER2, Mode::Gone);
        for _ in 0..6 {
            // Nobody connects for a request meanwhile.
            let wire = stage.phone();
            stage.write(wire, &ask("MESSAGE", &format!("m{}", stage.world.now.0)));
            stage.read_status(wire, "503");
            stage.pass_s(10);
        }
        let tries = stage.world.opened.iter().filter(|(_, to)| *to == address(SERVER)).count();
        if internal != Transport::Udp {
            // One in turn every oos-force, though the longest pause would be 8 s.
            assert!((28..=40).contains(&tries), "{tries}");
            assert!(stage.told("SIP Server cannot be reached") <= 6, "{:#?}", stage.world.events);
        }
        stage.set(SERVER, Mode::Up);
        stage.pass_ms(2_100);
        stage.assert_served_by(SERVER);
        stage.end();
    }
}

const PEER: &str = "127.0.0.1:5070";

/// Another site, whose proxy is reached over TCP.
fn with_peer(settings: &mut Settings) {
    paired(settings);
    settings.peers.push(PeerProxy {
        name: "site2".to_owned(),
        servers: vec!["10.2.0.10".parse().expect("an address")],
        contact: Host::Name("proxy.test".to_owned()),
        protocol: Transport::Tcp,
        port_tls: None,
        tls_name: None,
        verify: Verify::Name,
        setup: None,
    });
    settings.dns.resolvers = vec![address(crate::resolver::RESOLVER)];
    settings.live.domains.clear();
}

#[test]
fn a_call_that_another_sites_proxy_took_before_it_died_goes_to_its_next_target_or_ends() {
    for has_next in [true, false] {
        let mut stage = Stage::new(&Setup { mutate: with_peer, ..Setup::default() });
        let mut zone = vec!["_sip._tcp.proxy.test SRV 0 0 5070 a.test", "a.test A 127.0.0.1"];
        if has_next {
            zone.push("_sip._tcp.proxy.test SRV 1 0 7101 a.test");
        }
        stage.world.resolver.set_zone(&zone);
        stage.add(PEER, Transport::Tcp);
        stage.add(OTHER2, Transport::Tcp);
        stage.run();
        let invite = request_of(&stage, SERVER, "INVITE", "c").replacen("sip:127.0.0.1:5060", "sip:bob@10.2.0.10", 1);
        stage.say(SERVER, &invite);
        let first = stage.read_request(PEER, "INVITE");
        stage.reply(PEER, &first, "180 Ringing");
        assert!(stage.read_at(SERVER).starts_with("SIP/2.0 180"));
        stage.set(PEER, Mode::Gone);
        if has_next {
            let second = stage.read_request(OTHER2, "INVITE");
            stage.reply(OTHER2, &second, "200 OK");
            assert!(stage.read_at(SERVER).starts_with("SIP/2.0 200"));
        } else {
            assert!(stage.read_at(SERVER).starts_with("SIP/2.0 503"));
        }
        stage.pass_s(100);
        stage.forget(SERVER);
        stage.end();
    }
}
