//! Faults at start, each with one line on stderr and a status within 3 s, and the clean end by a signal.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::harness::Scratch;
use crate::harness::proxy::{Proxy, Settings, hawser, is_stand_in};

const FAULT_MAX: Duration = Duration::from_secs(3);
const END_MAX: Duration = Duration::from_secs(8);

/// Starts Hawser with these settings and gives the one line that it says why it doesn't run.
fn fault(scratch: &Scratch, toml: &str) -> String {
    let file = scratch.write("hawser.toml", toml);
    let mut process = hawser(&file);
    let status = process.wait_exit(FAULT_MAX);
    assert!(!status.success(), "{status}");
    assert!(status.code().is_some(), "it ended by itself: {status}");
    let errors = process.errors();
    let [line] = errors.as_slice() else { panic!("one line, not {errors:#?}") };
    line.clone()
}

/// Where `text` first stands in the settings, as an error names it.
fn place(scratch: &Scratch, toml: &str, text: &str) -> String {
    let at = toml.lines().position(|line| line.contains(text)).expect("it is there") + 1;
    format!("{}:{at}: ", scratch.path().join("hawser.toml").display())
}

fn names_file(line: &str, file: &Path) -> bool {
    line.contains(&*file.to_string_lossy())
}

#[test]
fn a_taken_port_is_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("port-taken");
    let settings = Settings::new(&scratch);
    for port in [settings.sip_port, settings.tls_port, settings.http_port] {
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        let line = fault(&scratch, &settings.toml());
        assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    }
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, settings.sip_port)).expect("a free port");
    let line = fault(&scratch, &settings.toml());
    assert!(line.contains(&format!("127.0.0.1:{}", settings.sip_port)), "{line}");
}

#[test]
fn a_second_hawser_is_told_that_the_port_is_taken() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("second");
    let first = Proxy::start(&scratch, Settings::new(&scratch));
    let line = fault(&scratch, &first.settings.toml());
    assert!(line.contains("127.0.0.1:"), "{line}");
}

#[test]
fn a_missing_certificate_is_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("no-certificate");
    let mut settings = Settings::new(&scratch);
    settings.certificates.certificate = scratch.path().join("absent.pem");
    let line = fault(&scratch, &settings.toml());
    assert!(names_file(&line, &settings.certificates.certificate), "{line}");
}

#[test]
fn a_certificate_that_is_none_is_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("garbage-certificate");
    let mut settings = Settings::new(&scratch);
    settings.certificates.certificate = scratch.write("garbage.pem", "not a certificate\n");
    let line = fault(&scratch, &settings.toml());
    assert!(names_file(&line, &settings.certificates.certificate), "{line}");
}

#[test]
fn a_key_of_another_certificate_is_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("key-mismatch");
    let mut settings = Settings::new(&scratch);
    settings.certificates.key = settings.certificates.other_key.clone();
    let line = fault(&scratch, &settings.toml());
    let named = names_file(&line, &settings.certificates.key) || names_file(&line, &settings.certificates.certificate);
    assert!(named, "{line}");
}

#[test]
fn faults_in_the_settings_are_named_with_file_line_and_key() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("settings");
    let good = Settings::new(&scratch).toml();
    for (from, to, key) in [
        ("http-port", "htpp-port", "htpp-port"),
        ("sip-port = ", "sip-port = 1", "sip-port"),
        ("internal-protocol = \"udp\"", "internal-protocol = \"sctp\"", "internal-protocol"),
        ("sip-address = \"127.0.0.1\"", "sip-address = \"nowhere\"", "sip-address"),
        ("cores = \"all\"", "cores = \"many\"", "cores"),
        ("domains = [\"example.com\"]", "domains = \"example.com\"", "domains"),
    ] {
        let bad = good.replacen(from, to, 1);
        let line = fault(&scratch, &bad);
        assert!(line.starts_with(&place(&scratch, &bad, to)), "{to}: {line}");
        assert!(line.contains(key), "{to}: {line}");
    }
}

#[test]
fn settings_that_are_no_toml_are_named_with_their_line() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("no-toml");
    let bad = Settings::new(&scratch).toml().replacen("http-port = ", "http-port : ", 1);
    let line = fault(&scratch, &bad);
    assert!(line.starts_with(&place(&scratch, &bad, "http-port :")), "{line}");
}

#[test]
fn missing_settings_are_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("no-settings");
    let file = scratch.path().join("absent.toml");
    let mut process = hawser(&file);
    assert!(!process.wait_exit(FAULT_MAX).success());
    let errors = process.errors();
    assert!(errors.len() == 1 && names_file(&errors[0], &file), "{errors:#?}");
}

#[test]
fn sigterm_and_sigint_end_it_with_status_0_and_free_its_ports() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("signals");
    let mut settings = Settings::new(&scratch);
    for signal in ["TERM", "INT"] {
        let mut proxy = Proxy::start(&scratch, settings);
        // An idle connection does not hold it up.
        let _idle = std::net::TcpStream::connect(proxy.sip()).expect("it listens");
        proxy.process.signal(signal);
        let status = proxy.process.wait_exit(END_MAX);
        assert_eq!(status.code(), Some(0), "{signal}");
        settings = proxy.settings.clone();
    }
}
