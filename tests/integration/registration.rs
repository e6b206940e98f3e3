//! REGISTER, its refresh and its end, by phones that do not say "Supported: path", at registrars that insist on it.

use crate::harness::Scratch;
use crate::harness::proxy::{Proxy, Settings};
use crate::harness::registrar;
use crate::harness::sipp::{Mode, Sipp};
use crate::harness::stunnel::Stunnel;

const PHONES: u32 = 20;

fn phones_register_at_sipp(test: &str, mode: Mode, tls: bool) {
    let scratch = Scratch::new(test);
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let server = Sipp::server(&scratch, "register", Mode::Udp, proxy.settings.server_port, PHONES);
    let tunnel = tls.then(|| Stunnel::client(&scratch, &proxy.settings.certificates, proxy.settings.tls_port));
    let to = tunnel.as_ref().map_or_else(|| proxy.sip(), |tunnel| format!("127.0.0.1:{}", tunnel.port));
    Sipp::phones(&scratch, "register", mode, &to, &proxy.sip(), PHONES).succeed();
    server.succeed();
}

#[test]
fn phones_register_over_udp() {
    phones_register_at_sipp("register-udp", Mode::Udp, false);
}

#[test]
fn phones_register_over_one_tcp_connection() {
    phones_register_at_sipp("register-tcp-one", Mode::Tcp, false);
}

#[test]
fn phones_register_over_a_tcp_connection_each() {
    phones_register_at_sipp("register-tcp-each", Mode::TcpEach, false);
}

#[test]
fn phones_register_over_a_tls_connection_each() {
    phones_register_at_sipp("register-tls", Mode::TcpEach, true);
}

#[test]
fn tls_phones_without_the_option_tag_register_at_kamailio_with_strict_path() {
    let scratch = Scratch::new("register-kamailio");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let _registrar = registrar::start(&scratch, proxy.settings.server_port);
    let tunnel = Stunnel::client(&scratch, &proxy.settings.certificates, proxy.settings.tls_port);
    let to = format!("127.0.0.1:{}", tunnel.port);
    Sipp::phones(&scratch, "register", Mode::TcpEach, &to, &proxy.sip(), PHONES).succeed();
}
