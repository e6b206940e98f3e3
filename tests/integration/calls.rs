//! Calls both ways over every transport, busy and given up: each request has to arrive over the connection (for UDP
//! from the port) that the phone registered with, for SIPp takes it nowhere else.

use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::sipp::{Mode, Sipp};
use crate::harness::stunnel::Stunnel;
use crate::harness::{Scratch, ports};

const CALLS: u32 = 20;

/// What the phones use.
#[derive(Clone, Copy, Debug)]
pub enum Phones {
    Udp,
    Tcp,
    TcpEach,
    TlsEach,
}

/// Plays both sides of `scenario` through a proxy on all cores, and gives it with the folder of its files.
pub fn play(scenario: &str, phones: Phones, internal: &'static str) -> (Proxy, Scratch) {
    let scratch = Scratch::new(&format!("{scenario}-{phones:?}-{internal}"));
    let mut settings = Settings::new(&scratch);
    settings.internal_protocol = internal;
    let server_mode = if internal == "udp" { Mode::Udp } else { Mode::Tcp };
    let mut server_tunnel = None;
    let sipp_port = if internal == "tls" {
        let behind = ports::free_port();
        server_tunnel = Some(Stunnel::server(&scratch, &settings.certificates, settings.server_port, behind));
        behind
    } else {
        settings.server_port
    };
    let server = Sipp::server(&scratch, scenario, server_mode, sipp_port, CALLS);
    let proxy = Proxy::start(&scratch, settings);
    let certificates = &proxy.settings.certificates;
    let (mode, tunnel) = match phones {
        Phones::Udp => (Mode::Udp, None),
        Phones::Tcp => (Mode::Tcp, None),
        Phones::TcpEach => (Mode::TcpEach, None),
        Phones::TlsEach => (Mode::TcpEach, Some(Stunnel::client(&scratch, certificates, proxy.settings.tls_port))),
    };
    let to = tunnel.as_ref().map_or_else(|| proxy.sip(), |tunnel| format!("127.0.0.1:{}", tunnel.port));
    Sipp::phones(&scratch, scenario, mode, &to, &proxy.sip(), CALLS).succeed();
    server.succeed();
    drop(server_tunnel);
    if !is_stand_in() {
        check_counters(&proxy, phones);
    }
    (proxy, scratch)
}

/// Nothing was refused, dropped or caught, and where there are several cores, they had to work together.
fn check_counters(proxy: &Proxy, phones: Phones) {
    for name in ["panics", "unparsable_dropped", "refusals", "faults", "responses_dropped", "acks_dropped"] {
        assert!(proxy.metric(&format!("hawser_{name}_total"), "") == 0.0, "{name}");
    }
    let calls = proxy.metric("hawser_calls_total", "event=\"begun\"");
    assert!((calls - f64::from(CALLS)).abs() < 0.5, "{calls} calls");
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    if shards > 1 && matches!(phones, Phones::TcpEach | Phones::TlsEach) {
        // The connections of 20 phones do not all land on the core that the SIP Server's messages land on.
        assert!(proxy.metric("hawser_placed_total", "") > 0.0, "no message crossed over to another core");
    }
}

#[test]
fn the_server_calls_udp_phones() {
    play("call-to-phone", Phones::Udp, "udp");
}

#[test]
fn the_server_calls_phones_that_share_a_tcp_connection() {
    play("call-to-phone", Phones::Tcp, "udp");
}

#[test]
fn the_server_calls_tcp_phones() {
    play("call-to-phone", Phones::TcpEach, "udp");
}

#[test]
fn the_server_calls_tls_phones() {
    play("call-to-phone", Phones::TlsEach, "udp");
}

#[test]
fn the_server_calls_tls_phones_over_tcp() {
    play("call-to-phone", Phones::TlsEach, "tcp");
}

#[test]
fn the_server_calls_tls_phones_over_tls() {
    if !is_stand_in() {
        play("call-to-phone", Phones::TlsEach, "tls");
    }
}

#[test]
fn udp_phones_call_the_server() {
    play("call-from-phone", Phones::Udp, "udp");
}

#[test]
fn phones_that_share_a_tcp_connection_call_the_server() {
    play("call-from-phone", Phones::Tcp, "udp");
}

#[test]
fn tcp_phones_call_the_server() {
    play("call-from-phone", Phones::TcpEach, "udp");
}

#[test]
fn tls_phones_call_the_server() {
    play("call-from-phone", Phones::TlsEach, "udp");
}

#[test]
fn tls_phones_call_the_server_over_tcp() {
    play("call-from-phone", Phones::TlsEach, "tcp");
}

#[test]
fn tls_phones_call_the_server_over_tls() {
    if !is_stand_in() {
        play("call-from-phone", Phones::TlsEach, "tls");
    }
}

#[test]
fn a_busy_udp_phone_is_busy_for_the_caller() {
    play("busy", Phones::Udp, "udp");
}

#[test]
fn a_busy_tls_phone_is_busy_for_the_caller() {
    play("busy", Phones::TlsEach, "udp");
}

#[test]
fn a_cancelled_call_stops_a_udp_phone_ringing() {
    play("cancel", Phones::Udp, "udp");
}

#[test]
fn a_cancelled_call_stops_a_tls_phone_ringing() {
    play("cancel", Phones::TlsEach, "udp");
}
