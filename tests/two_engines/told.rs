//! What an operator is told of requests: which are refused, and at the levels debug and trace what passes.

use hawser::config::LogLevel;

use crate::stage::{Mode, Stage, ask};
use crate::world::{SERVER, Setup};

fn stage(level: LogLevel) -> Stage {
    let mut stage = Stage::new(&Setup { shards: 1, ..Setup::default() });
    let mut live = stage.world.engines[0].settings().live.clone();
    live.log_level = level;
    stage.world.input(0, hawser::engine::Input::Live(Box::new(live)));
    stage.world.events.clear();
    stage
}

#[test]
fn a_refusal_names_the_call_id_however_long_the_rest_is() {
    let mut stage = stage(LogLevel::Info);
    let wire = stage.phone();
    let long = "a".repeat(500);
    let refused =
        ask("MESSAGE", "the-call-id").replacen("<sip:alice@example.com>", &format!("<sip:{long}@example.com>"), 1);
    let refused = refused.replacen("Max-Forwards: 70", "Max-Forwards: 0", 1);
    stage.write(wire, &refused);
    stage.read_status(wire, "483");
    assert_eq!(stage.told("Call-ID the-call-id"), 1, "{:?}", stage.world.events);

    stage.set(SERVER, Mode::Gone);
    stage.write(wire, &ask("MESSAGE", "another"));
    stage.read_status(wire, "503");
    assert_eq!(stage.told("Call-ID another"), 1, "{:?}", stage.world.events);
}

#[test]
fn what_passes_is_told_at_debug_and_trace_and_only_there() {
    for level in [LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
        let mut stage = stage(level);
        let wire = stage.phone();
        let request = stage.asked(wire, "MESSAGE", "m", SERVER);
        stage.reply(SERVER, &request, "200 OK");
        stage.read_status(wire, "200");
        stage.world.hang_up(wire);
        let (debug, trace) = (level != LogLevel::Info, level == LogLevel::Trace);
        let routed = format!(
            "request routed: MESSAGE from sip:alice@example.com to sip:bob@example.com, Call-ID m, sent to {SERVER} over udp"
        );
        assert_eq!(stage.told(&routed), usize::from(debug), "{:?}", stage.world.events);
        assert_eq!(stage.told("connection opened: tls"), usize::from(debug));
        assert_eq!(stage.told("message received: MESSAGE sip:bob@example.com SIP/2.0 ("), usize::from(trace));
        assert_eq!(stage.told("message received: SIP/2.0 200 OK ("), usize::from(trace));
        assert_eq!(stage.told("message sent: SIP/2.0 200 OK ("), usize::from(trace));
    }
}
