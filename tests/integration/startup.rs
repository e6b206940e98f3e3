//! What a start and an end take with others about: a port that is taken, and the clean end by a signal. Faults of
//! settings and files are in `tests/start`.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::Scratch;
use crate::harness::proxy::{Proxy, Settings, hawser, is_stand_in};

const FAULT_MAX: Duration = Duration::from_secs(3);
const END_MAX: Duration = Duration::from_secs(8);

/// Starts Hawser with these settings and gives the one line that it says why it doesn't run.
pub fn fault(scratch: &Scratch, toml: &str) -> String {
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

#[test]
fn a_taken_tls_port_is_named() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("port-taken");
    let settings = Settings::new(&scratch);
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.tls_port)).expect("a free port");
    let line = fault(&scratch, &settings.toml());
    assert!(line.contains(&format!("127.0.0.1:{}", settings.tls_port)), "{line}");
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
fn sigterm_and_sigint_end_it_with_status_0_and_free_its_ports() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("signals");
    let mut settings = Settings::new(&scratch);
    for signal in ["TERM", "INT"] {
        let mut proxy = Proxy::start(&scratch, settings);
        // An idle connection does not hold it up.
        let _idle = TcpStream::connect(proxy.sip()).expect("it listens");
        proxy.process.signal(signal);
        let status = proxy.process.wait_exit(END_MAX);
        assert_eq!(status.code(), Some(0), "{signal}");
        settings = proxy.settings.clone();
    }
}
