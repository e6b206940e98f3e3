//! A server of a pair fails with requests in flight: where they go, what comes back, and what the other one hears.

use std::time::Duration;

use hawser::engine::Settings;
use hawser::ids::Transport;
use hawser::stats::Counter;

use crate::overload::overload;
use crate::stage::{Mode, Stage, ask, branch, cancel, everywhere, paired, unchecked};
use crate::talk::{Dialog, Phone, answer, header, headers, start_line};
use crate::world::{SERVER, SERVER2, Setup, TLS, Wire};

/// The ways in which a server shows at once that it will not do.
const AT_ONCE: [Mode; 3] = [Mode::Gone, Mode::Unavailable, Mode::Stranger];

/// Whether such a fault exists over this transport.
fn exists(stage: &Stage, mode: Mode) -> bool {
    mode != Mode::Stranger || stage.world.engines[0].settings().servers[0].transport == Transport::Tls
}

/// A phone's INVITE that the primary got and never answered, and as the backup got it by the verdict.
fn moved_by_silence(stage: &mut Stage, phone: Wire) -> (String, String) {
    let first = stage.asked(phone, "INVITE", "i", SERVER);
    stage.set(SERVER, Mode::Silent);
    // oos-check and oos-force.
    stage.pass_ms(6_100);
    (first, stage.read_request(SERVER2, "INVITE"))
}

#[test]
fn a_request_in_flight_goes_to_the_partner_under_a_new_branch_and_its_answer_goes_back() {
    for mode in AT_ONCE {
        everywhere(paired, |mut stage| {
            if !exists(&stage, mode) {
                return;
            }
            let wire = stage.phone();
            stage.set(SERVER, mode);
            for (method, id) in [("INVITE", "i"), ("MESSAGE", "m")] {
                stage.write(wire, &ask(method, id));
                let moved = stage.read_request(SERVER2, method);
                assert_eq!(headers(&moved, "Via").len(), 2, "{moved}");
                let first = stage.try_read_at(SERVER).filter(|text| text.starts_with(method));
                assert!(first.is_none_or(|first| branch(&first) != branch(&moved)), "RFC 3263 §4.3");
                stage.forget(SERVER);
                stage.reply(SERVER2, &moved, "200 OK");
                stage.read_status(wire, "200");
                stage.world.assert_silent();
            }
            stage.end();
        });
    }
}

#[test]
fn all_shards_follow_and_stay_when_the_primary_is_back_until_the_backup_dies() {
    for mode in AT_ONCE {
        everywhere(paired, |mut stage| {
            if !exists(&stage, mode) {
                return;
            }
            stage.assert_served_by(SERVER);
            stage.set(SERVER, mode);
            // At the latest the next service check tells.
            stage.pass_s(6);
            assert_eq!(stage.told("switched to the other SIP Server"), 1, "{:#?}", stage.world.events);
            stage.assert_served_by(SERVER2);
            stage.assert_idle(SERVER);
            stage.set(SERVER, Mode::Up);
            stage.pass_s(30);
            stage.assert_served_by(SERVER2);
            stage.set(SERVER2, mode);
            stage.pass_s(6);
            stage.assert_served_by(SERVER);
            assert_eq!(stage.told("switched to the other SIP Server"), 2);
            stage.end();
        });
    }
}

#[test]
fn a_server_is_not_taken_for_dead_while_its_answers_may_have_found_no_room_here() {
    everywhere(paired, |mut stage| {
        let phone = stage.phone();
        stage.set(SERVER, Mode::Silent);
        let silent = |stage: &Stage| stage.world.counted(Counter::ServerPingSilent);
        while silent(&stage) < 3 {
            overload(&mut stage.world);
            stage.pass_ms(100);
        }
        assert_eq!(stage.world.counted(Counter::ServerSwitchSilent), 0);
        stage.pass_ms(20_000);
        stage.asked(phone, "INVITE", "i", SERVER2);
        stage.set(SERVER, Mode::Up);
        stage.forget(SERVER);
        stage.forget(SERVER2);
        stage.end();
    });
}

#[test]
fn an_invite_that_nobody_answers_has_its_server_checked_at_once() {
    let patient = |settings: &mut Settings| {
        paired(settings);
        settings.live.oos_force = Duration::from_secs(5);
    };
    everywhere(patient, |mut stage| {
        let wire = stage.phone();
        stage.pass_ms(100);
        // The next scheduled check would be seconds away, and its patience as long again.
        stage.set(SERVER, Mode::Silent);
        stage.write(wire, &ask("INVITE", "i"));
        stage.pass_ms(6_200);
        let moved = stage.read_request(SERVER2, "INVITE");
        stage.reply(SERVER2, &moved, "200 OK");
        while !stage.read(wire).starts_with("SIP/2.0 200") {}
        stage.world.drain();
    });
}

#[test]
fn silence_moves_what_is_in_flight_by_the_verdict_answered_or_not() {
    for (status, passed_on) in [(None, false), (Some("100 Trying"), false), (Some("180 Ringing"), true)] {
        everywhere(paired, |mut stage| {
            let wire = stage.phone();
            let first = stage.asked(wire, "INVITE", "i", SERVER);
            if let Some(status) = status {
                stage.reply(SERVER, &first, status);
            }
            if passed_on {
                stage.read_status(wire, "180");
            }
            stage.set(SERVER, Mode::Silent);
            // oos-check and oos-force.
            stage.pass_ms(6_100);
            let moved = stage.read_request(SERVER2, "INVITE");
            // It came a while ago, and was sent again since.
            stage.forget(SERVER2);
            assert_ne!(branch(&first), branch(&moved));
            stage.reply(SERVER2, &moved, "200 OK");
            let last = stage.read_final(wire, "200");
            let mut dialog = Dialog::caller(&last);
            stage.acknowledge(wire, &mut dialog, SERVER2);
            // It thaws, and finds the INVITE: what it makes of it is taken back.
            stage.set(SERVER, Mode::Up);
            stage.forget(SERVER);
            stage.reply(SERVER, &first, "180 Ringing");
            let taken_back = stage.read_request(SERVER, "CANCEL");
            assert_eq!(branch(&taken_back), branch(&first));
            stage.reply(SERVER, &taken_back, "200 OK");
            stage.reply(SERVER, &first, "487 Request Terminated");
            let ack = stage.read_request(SERVER, "ACK");
            assert_eq!(branch(&ack), branch(&first));
            assert!(header(&ack, "To").ends_with(";tag=t0"), "{ack}");
            assert_eq!(stage.world.try_read(wire), None);
            stage.end();
        });
    }
}

#[test]
fn a_request_other_than_invite_is_moved_by_the_verdict_and_never_hears_408() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        stage.set(SERVER, Mode::Silent);
        stage.write(wire, &ask("MESSAGE", "m"));
        stage.pass_ms(6_100);
        let moved = stage.read_request(SERVER2, "MESSAGE");
        stage.set(SERVER2, Mode::Silent);
        stage.pass_s(40);
        while let Some(text) = stage.world.try_read(wire) {
            assert!(text.starts_with("SIP/2.0 100"), "{text}");
        }
        // The answer comes too late to help anybody (RFC 4320).
        stage.set(SERVER2, Mode::Up);
        stage.reply(SERVER2, &moved, "200 OK");
        assert_eq!(stage.world.try_read(wire), None);
        stage.end();
    });
}

#[test]
fn in_dialog_requests_and_acks_go_to_the_partner_after_a_switch() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let invite = stage.asked(wire, "INVITE", "i", SERVER);
        stage.reply(SERVER, &invite, "200 OK");
        let ok = stage.read_status(wire, "200");
        let mut dialog = Dialog::caller(&ok);
        stage.set(SERVER, Mode::Gone);
        stage.pass_s(6);
        stage.acknowledge(wire, &mut dialog, SERVER2);
        let again = stage.in_dialog(wire, &mut dialog, "INVITE", SERVER2);
        assert_eq!(start_line(&again), format!("INVITE sip:{SERVER} SIP/2.0"), "never changed");
        stage.in_dialog(wire, &mut dialog, "BYE", SERVER2);
        stage.end();
    });
}

#[test]
fn a_503_of_both_is_passed_on_with_retry_after_and_each_503_gets_its_ack() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let first = stage.asked(wire, "INVITE", "i", SERVER);
        stage.reply(SERVER, &first, "503 Service Unavailable");
        let second = stage.read_request(SERVER2, "INVITE");
        let ack = stage.read_request(SERVER, "ACK");
        assert_eq!(branch(&ack), branch(&first));
        assert_eq!(stage.world.try_read(wire), None, "not while an alternative lives");
        stage.reply(SERVER2, &second, "503 Service Unavailable");
        let last = stage.read_status(wire, "503");
        assert_eq!(headers(&last, "Retry-After").len(), 1, "{last}");
        assert_eq!(branch(&stage.read_request(SERVER2, "ACK")), branch(&second));
        if stage.world.engines[0].settings().servers[0].transport == Transport::Udp {
            // Its ACK was lost.
            stage.reply(SERVER, &first, "503 Service Unavailable");
            let again = stage.read_request(SERVER, "ACK");
            assert_eq!(branch(&again), branch(&first));
            assert_eq!(headers(&again, "To"), headers(&ack, "To"));
            stage.reply(SERVER2, &second, "503 Service Unavailable");
            assert_eq!(branch(&stage.read_request(SERVER2, "ACK")), branch(&second));
        }
        let ack = ask("INVITE", "i").replacen("INVITE ", "ACK ", 1).replacen(" INVITE\r\n", " ACK\r\n", 1);
        stage.write(wire, &ack);
        stage.assert_idle(SERVER2);
        stage.end();
    });
}

#[test]
fn a_partner_that_takes_what_the_active_one_would_not_is_active_and_the_log_says_why() {
    everywhere(paired, |mut stage| {
        stage.set(SERVER, Mode::Overloaded);
        let wire = stage.phone();
        stage.write(wire, &ask("INVITE", "i"));
        let moved = stage.read_request(SERVER2, "INVITE");
        stage.forget(SERVER);
        stage.reply(SERVER2, &moved, "200 OK");
        stage.read_status(wire, "200");
        assert_eq!(stage.told("(backup: it took a call that the other one would not)"), 1, "{:#?}", stage.world.events);
        stage.assert_served_by(SERVER2);
        stage.end();
    });
}

#[test]
fn an_endpoints_503_goes_to_the_server_as_500() {
    everywhere(paired, |mut stage| {
        let phone = stage.registered("alice", SERVER);
        let invite = stage.request_of(SERVER, &phone, "INVITE", "c");
        stage.say(SERVER, &invite);
        let invite = stage.read(phone.wire);
        stage.write(phone.wire, &answer(&invite, "503 Service Unavailable", "p", ""));
        assert!(stage.read_at(SERVER).starts_with("SIP/2.0 500"));
        stage.assert_idle(SERVER2);
        stage.forget(SERVER);
        stage.end();
    });
}

#[test]
fn a_cancel_goes_where_the_invite_is() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let invite = ask("INVITE", "i");
        stage.write(wire, &invite);
        let first = stage.read_request(SERVER, "INVITE");
        stage.reply(SERVER, &first, "503 Service Unavailable");
        let moved = stage.read_request(SERVER2, "INVITE");
        // Nothing has been heard of it there: the CANCEL waits.
        stage.write(wire, &cancel(&invite));
        stage.read_status(wire, "200");
        stage.assert_idle(SERVER2);
        stage.reply(SERVER2, &moved, "100 Trying");
        let taken_back = stage.read_request(SERVER2, "CANCEL");
        assert_eq!(branch(&taken_back), branch(&moved));
        stage.reply(SERVER2, &taken_back, "200 OK");
        stage.reply(SERVER2, &moved, "487 Request Terminated");
        let last = stage.read_status(wire, "487");
        assert_eq!(header(&last, "CSeq"), "1 INVITE");
        stage.forget(SERVER);
        stage.end();
    });
}

#[test]
fn a_cancelled_invite_at_a_dead_server_ends_with_the_verdict_and_is_never_moved() {
    for ringing in [false, true] {
        everywhere(paired, |mut stage| {
            let wire = stage.phone();
            let invite = ask("INVITE", "i");
            stage.write(wire, &invite);
            let first = stage.read_request(SERVER, "INVITE");
            if ringing {
                stage.reply(SERVER, &first, "180 Ringing");
                stage.read_status(wire, "180");
            }
            stage.set(SERVER, Mode::Silent);
            stage.write(wire, &cancel(&invite));
            stage.read_status(wire, "200");
            stage.pass_ms(6_100);
            stage.read_final(wire, "487");
            stage.assert_idle(SERVER2);
            stage.set(SERVER, Mode::Up);
            stage.forget(SERVER);
            stage.end();
        });
    }
}

#[test]
fn a_server_that_was_only_late_is_told_that_the_invite_was_cancelled() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let invite = ask("INVITE", "i");
        stage.write(wire, &invite);
        let first = stage.read_request(SERVER, "INVITE");
        stage.set(SERVER, Mode::Silent);
        stage.write(wire, &cancel(&invite));
        stage.read_status(wire, "200");
        stage.pass_ms(6_100);
        stage.read_final(wire, "487");
        stage.write(wire, &cancel(&invite).replace("CANCEL", "ACK"));
        stage.set(SERVER, Mode::Up);
        stage.forget(SERVER);
        stage.pass_s(10);
        stage.reply(SERVER, &first, "180 Ringing");
        let taken_back = stage.read_request(SERVER, "CANCEL");
        assert_eq!(branch(&taken_back), branch(&first));
        stage.reply(SERVER, &taken_back, "200 OK");
        stage.reply(SERVER, &first, "487 Request Terminated");
        stage.read_request(SERVER, "ACK");
        stage.end();
    });
}

#[test]
fn a_late_2xx_of_the_former_server_goes_back_and_what_was_asked_of_the_next_is_taken_back() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let (first, moved) = moved_by_silence(&mut stage, wire);
        stage.forget(SERVER2);
        stage.reply(SERVER2, &moved, "180 Ringing");
        stage.set(SERVER, Mode::Up);
        stage.reply(SERVER, &first, "200 OK");
        let ok = stage.read_final(wire, "200");
        let taken_back = stage.read_request(SERVER2, "CANCEL");
        stage.reply(SERVER2, &taken_back, "200 OK");
        stage.reply(SERVER2, &moved, "487 Request Terminated");
        stage.read_request(SERVER2, "ACK");
        assert_eq!(stage.world.try_read(wire), None, "answered once");
        stage.forget(SERVER);
        // The dialog is that server's, though its partner is active.
        let mut dialog = Dialog::caller(&ok);
        stage.acknowledge(wire, &mut dialog, SERVER);
        stage.in_dialog(wire, &mut dialog, "INFO", SERVER);
        stage.in_dialog(wire, &mut dialog, "BYE", SERVER);
        stage.assert_idle(SERVER2);
        stage.end();
    });
}

#[test]
fn when_both_have_taken_the_call_both_2xx_go_back() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let (first, moved) = moved_by_silence(&mut stage, wire);
        stage.reply(SERVER2, &moved, "200 OK");
        stage.set(SERVER, Mode::Up);
        stage.reply(SERVER, &first, "200 OK");
        let mut dialogs = Vec::new();
        while let Some(text) = stage.world.try_read(wire) {
            if text.starts_with("SIP/2.0 200") {
                dialogs.push(Dialog::caller(&text));
            }
        }
        let tags: Vec<_> = dialogs.iter().filter_map(|dialog| dialog.remote.split("tag=").nth(1)).collect();
        assert_eq!(tags, ["t1", "t0"]);
        stage.forget(SERVER);
        stage.forget(SERVER2);
        for (dialog, (server, cseq)) in dialogs.iter_mut().zip([(SERVER2, 1), (SERVER, 11)]) {
            dialog.cseq = cseq;
            stage.acknowledge(wire, dialog, server);
            stage.in_dialog(wire, dialog, "BYE", server);
        }
        stage.end();
    });
}

#[test]
fn a_late_2xx_to_a_request_that_the_next_server_never_answers_ends_it() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let (first, _) = moved_by_silence(&mut stage, wire);
        stage.set(SERVER, Mode::Up);
        stage.reply(SERVER, &first, "200 OK");
        let rejected = Counter::CallsRejected;
        stage.pass_s(100);
        assert_eq!(stage.world.counted(rejected), 0, "it was answered");
        assert_eq!(stage.world.counted(Counter::CallsAnswered), 1);
        assert_eq!(stage.world.counted(Counter::CallsCancelled), 0);
        stage.world.drain();
        stage.forget(SERVER);
        stage.forget(SERVER2);
        stage.end();
    });
}

#[test]
fn timer_b_at_the_primary_moves_an_invite_and_at_the_last_one_it_is_408() {
    for internal in [Transport::Udp, Transport::Tcp] {
        let mut stage = Stage::new(&Setup { internal, mutate: unchecked, ..Setup::default() });
        let wire = stage.phone();
        stage.set(SERVER, Mode::Silent);
        stage.set(SERVER2, Mode::Silent);
        stage.write(wire, &ask("INVITE", "i"));
        stage.pass_ms(31_900);
        stage.read_status(wire, "100");
        stage.world.assert_silent();
        stage.pass_ms(32_000);
        stage.world.assert_silent();
        stage.pass_ms(300);
        stage.read_status(wire, "408");
        stage.end();
    }
}

#[test]
fn handshakes_that_never_end_are_tried_at_both_and_end_with_503() {
    let mut stage = Stage::new(&Setup { internal: Transport::Tls, mutate: unchecked, ..Setup::default() });
    let wire = stage.phone();
    stage.set(SERVER, Mode::Silent);
    stage.set(SERVER2, Mode::Silent);
    stage.write(wire, &ask("INVITE", "i"));
    stage.pass_ms(19_900);
    stage.read_status(wire, "100");
    stage.world.assert_silent();
    stage.pass_ms(300);
    let last = stage.read_status(wire, "503");
    assert_eq!(headers(&last, "Retry-After").len(), 1, "{last}");
    stage.end();
}

#[test]
fn a_registration_in_flight_binds_once_at_its_home() {
    for sticky in [hawser::engine::Sticky::Path, hawser::engine::Sticky::Contact, hawser::engine::Sticky::Aor] {
        for internal in [Transport::Udp, Transport::Tcp] {
            let mut stage = Stage::new(&Setup { internal, sticky, shards: 3, mutate: paired, ..Setup::default() });
            let wire = stage.phone();
            let mut phone = crate::talk::Phone::new("alice", wire);
            let text = phone.register_text(3_600);
            stage.write(wire, &text);
            stage.read_request(SERVER, "REGISTER");
            stage.set(SERVER, Mode::Gone);
            stage.pass_s(6);
            stage.grant(&mut phone, SERVER2);
            stage.read_final(wire, "200");
            assert_eq!(stage.world.counted(Counter::BindingBound), 1);
            stage.forget(SERVER2);
            let request = stage.request_of(SERVER2, &phone, "MESSAGE", "c");
            stage.say(SERVER2, &request);
            let request = stage.read(wire);
            assert!(request.starts_with("MESSAGE "), "{request}");
            stage.write(wire, &answer(&request, "200 OK", "p", ""));
            let ok = stage.read_at(SERVER2);
            assert!(ok.starts_with("SIP/2.0 200"), "{ok}");
            stage.end();
        }
    }
}

#[test]
fn what_waits_at_one_dead_server_goes_back_to_the_other_when_that_answers_again() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        stage.asked(wire, "INVITE", "i", SERVER);
        stage.set(SERVER, Mode::Gone);
        stage.pass_s(6);
        let second = stage.read_request(SERVER2, "INVITE");
        stage.reply(SERVER2, &second, "180 Ringing");
        stage.set(SERVER2, Mode::Silent);
        stage.pass_s(10);
        stage.set(SERVER, Mode::Up);
        stage.pass_s(3);
        let third = stage.read_request(SERVER, "INVITE");
        assert_ne!(branch(&second), branch(&third));
        stage.reply(SERVER, &third, "200 OK");
        stage.read_final(wire, "200");
        stage.world.assert_silent();
        stage.forget(SERVER);
        stage.end();
    });
}

#[test]
fn a_server_that_took_the_request_and_died_is_found_out_without_service_checks() {
    for internal in [Transport::Tcp, Transport::Tls] {
        let mut stage = Stage::new(&Setup { internal, shards: 2, mutate: unchecked, ..Setup::default() });
        let wire = stage.phone();
        let first = stage.asked(wire, "INVITE", "i", SERVER);
        stage.reply(SERVER, &first, "180 Ringing");
        stage.read_status(wire, "180");
        stage.set(SERVER, Mode::Gone);
        let moved = stage.read_request(SERVER2, "INVITE");
        stage.reply(SERVER2, &moved, "200 OK");
        stage.read_status(wire, "200");
        stage.set(SERVER, Mode::Up);
        stage.end();
    }
}

#[test]
fn an_idle_connection_that_was_closed_costs_no_request() {
    for internal in [Transport::Tcp, Transport::Tls] {
        let mut stage = Stage::new(&Setup { internal, shards: 1, mutate: paired, ..Setup::default() });
        let wire = stage.phone();
        let first = stage.asked(wire, "MESSAGE", "m", SERVER);
        // It closes its end while the request is under way.
        stage.set(SERVER, Mode::Gone);
        stage.set(SERVER, Mode::Up);
        let at = |stage: &mut Stage, server| stage.try_read_at(server).map(|text| (server, text));
        let (server, again) = at(&mut stage, SERVER).or_else(|| at(&mut stage, SERVER2)).expect("sent again");
        assert!(again.starts_with("MESSAGE "), "{again}");
        assert_eq!(header(&first, "Call-ID"), header(&again, "Call-ID"));
        stage.reply(server, &again, "200 OK");
        stage.read_status(wire, "200");
        stage.end();
    }
}

#[test]
fn full_mailboxes_lose_neither_evidence_nor_verdict() {
    for internal in [Transport::Udp, Transport::Tcp] {
        let mut stage = Stage::new(&Setup { internal, shards: 3, mutate: paired, ..Setup::default() });
        let wires: Vec<_> = (0..3).map(|shard| stage.world.connect(shard, TLS)).collect();
        for (at, wire) in wires.iter().enumerate() {
            stage.write(*wire, &ask("INVITE", &format!("i{at}")));
            let invite = stage.read_request(SERVER, "INVITE");
            stage.reply(SERVER, &invite, "100 Trying");
        }
        stage.world.hold_mail = true;
        stage.set(SERVER, Mode::Gone);
        for _ in 0..120 {
            stage.pass_ms(50);
            while stage.world.mails() > 0 {
                stage.world.deliver_mail(0, true);
            }
        }
        stage.world.hold_mail = false;
        let mut moved = Vec::new();
        while let Some(text) = stage.try_read_at(SERVER2) {
            if text.starts_with("INVITE ") && !moved.contains(&text) {
                moved.push(text);
            }
        }
        assert_eq!(moved.len(), 3, "{:#?}", stage.world.events);
        for invite in moved {
            stage.reply(SERVER2, &invite, "200 OK");
        }
        for wire in wires {
            while stage.world.try_read(wire).is_some_and(|text| !text.starts_with("SIP/2.0 200")) {}
        }
        stage.world.assert_silent();
        stage.set(SERVER, Mode::Up);
        stage.end();
    }
}

#[test]
fn a_late_2xx_to_a_register_binds_and_what_the_partner_says_then_changes_nothing() {
    everywhere(paired, |mut stage| {
        let wire = stage.phone();
        let mut phone = Phone::new("alice", wire);
        let text = phone.register_text(600);
        stage.write(wire, &text);
        let first = stage.read_request(SERVER, "REGISTER");
        stage.set(SERVER, Mode::Silent);
        stage.pass_ms(6_100);
        let second = stage.read_request(SERVER2, "REGISTER");
        stage.set(SERVER, Mode::Up);
        stage.forget(SERVER);
        let contact = format!("Contact: {};expires=600\r\n", header(&first, "Contact"));
        stage.say(SERVER, &answer(&first, "200 OK", "s", &contact));
        while !stage.read(wire).starts_with("SIP/2.0 200") {}
        let bound = |stage: &Stage| -> usize {
            stage.world.engines.iter().map(|engine| engine.locate("sip:alice@example.com", stage.world.now).len()).sum()
        };
        assert_eq!(bound(&stage), 1);
        stage.say(SERVER2, &answer(&second, "401 Unauthorized", "s", ""));
        assert_eq!(stage.world.try_read(wire), None);
        assert_eq!(bound(&stage), 1);
        stage.world.drain();
    });
}
