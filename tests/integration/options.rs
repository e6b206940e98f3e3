//! The service check: OPTIONS to the proxy itself, over each transport.

use std::process::Command;
use std::time::Duration;

use crate::harness::Scratch;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings};
use crate::harness::sipp::{Mode, Sipp};
use crate::harness::text::service_check;

#[test]
fn options_over_udp_and_tcp_gets_200() {
    let scratch = Scratch::new("options");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    for mode in [Mode::Udp, Mode::Tcp, Mode::TcpEach] {
        Sipp::phones(&scratch, "options", mode, &proxy.sip(), &proxy.sip(), 10).succeed();
    }
}

#[test]
fn options_by_openssl_gets_200() {
    let scratch = Scratch::new("openssl");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", proxy.settings.tls_port), version])
            .args(["-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile"])
            .arg(&proxy.settings.certificates.ca);
        let mut client = Process::start("openssl s_client", &command);
        client.write_stdin(service_check(proxy.settings.tls_port, &format!("probe{version}")).as_bytes());
        client.wait_line("SIP/2.0 200", Duration::from_secs(10));
        client.wait_line(&format!("Call-ID: probe{version}"), Duration::from_secs(10));
    }
}

#[test]
fn openssl_without_our_authority_refuses_the_certificate() {
    let scratch = Scratch::new("openssl-refuses");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", proxy.settings.tls_port)]).args([
        "-verify_return_error",
        "-no-CAfile",
        "-no-CApath",
    ]);
    let mut client = Process::start("openssl s_client", &command);
    assert!(!client.wait_exit(Duration::from_secs(10)).success());
}
