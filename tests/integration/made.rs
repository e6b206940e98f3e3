//! What `scripts/make-certs` makes: Hawser runs with it, and OpenSSL's client takes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::text::service_check;
use crate::harness::{DOMAIN, Scratch, repository};

const WITHIN: Duration = Duration::from_secs(30);

/// Runs the script to its end; says whether it succeeded, and what it complained of.
fn make(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(repository("scripts/make-certs"));
    command.arg("--dir").arg(folder).args(arguments);
    let mut process = Process::start("make-certs", &command);
    let status = process.wait_exit(WITHIN);
    (status.success(), process.errors().join("\n"))
}

/// Whether OpenSSL takes a certificate for this purpose, such as `sslclient`.
fn is_for(folder: &Path, certificate: &str, purpose: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args(["verify", "-purpose", purpose, "-CAfile"]).arg(folder.join("ca.pem")).arg(folder.join(certificate));
    Process::start("openssl verify", &command).wait_exit(WITHIN).success()
}

#[test]
fn certificates_are_for_their_kind_and_nothing_is_overwritten_unasked() {
    let scratch = Scratch::new("made-files");
    let folder = scratch.path().join("certs");
    let good = |arguments: &[&str]| assert_eq!(make(&folder, arguments), (true, String::new()));
    let refused = |arguments: &[&str], fault: &str| {
        let (done, said) = make(&folder, arguments);
        assert!(!done && said.contains(fault), "{arguments:?}: {said}");
    };
    good(&["server", "proxy", "example.com", "192.0.2.1", "::1"]);
    good(&["phone", "alice", "sip:alice@example.com", "alice.example.com"]);
    let purposes = |name: &str| (is_for(&folder, name, "sslserver"), is_for(&folder, name, "sslclient"));
    assert_eq!(purposes("proxy.pem"), (true, true));
    assert_eq!(purposes("alice.pem"), (false, true));
    for key in ["ca.key", "proxy.key", "alice.key"] {
        let mode = fs::metadata(folder.join(key)).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }

    let read = |name: &str| fs::read(folder.join(name)).expect("it was made");
    let (ca, proxy) = (read("ca.pem"), read("proxy.pem"));
    refused(&["server", "proxy", "example.com"], "proxy.pem is there already; --force overwrites it");
    assert_eq!(read("proxy.pem"), proxy);
    good(&["--force", "--rsa", "--days", "30", "server", "proxy", "example.com"]);
    assert_eq!(read("ca.pem"), ca, "the CA stays, so that what it signed before still counts");
    assert_ne!(read("proxy.pem"), proxy);
    assert_eq!(purposes("proxy.pem"), (true, true));

    refused(&["server", "bad", "*.example.com"], "*.example.com: expected a host name");
    refused(&["server", "bad", "1.2.3"], "1.2.3: expected");
    refused(&["server", "bad", "a,DNS:b"], "a,DNS:b: expected");
    refused(&["server", "bad"], "which names");
    refused(&["phone", "../x", "a"], "../x: no name for files");
    refused(&["--days", "0", "phone", "bad", "a"], "--days: expected");
    refused(&["--frob"], "--frob is no option");
    refused(&["king", "bad", "a"], "king: server, phone or revoke");
    assert!(!folder.join("bad.pem").exists());
    let (done, said) = make(&folder, &["server", "two", "one.example", "sip:two.example"]);
    assert!(done && said.contains("will not take two for one.example"), "{said}");
}

#[test]
fn hawser_runs_with_them_and_openssl_takes_it() {
    if is_stand_in() {
        return;
    }
    for (kind, more) in [("ecdsa", &[][..]), ("rsa", &["--rsa"])] {
        let scratch = Scratch::new(&format!("made-{kind}"));
        let folder = scratch.path().join("made");
        let path = |name: &str| folder.join(name);
        for names in
            [&["server", "proxy", "example.com", "127.0.0.1"][..], &["phone", "phone", "sip:alice@example.com"]]
        {
            assert_eq!(make(&folder, &[more, names].concat()), (true, String::new()));
        }
        let mut settings = Settings::new(&scratch);
        settings.certificates.ca = path("ca.pem");
        settings.certificates.certificate = path("proxy.pem");
        settings.certificates.key = path("proxy.key");
        let toml = format!("{}tls-mutual = 1\n", settings.toml());

        let mut check = Command::new(env!("CARGO_BIN_EXE_hawser"));
        check.arg("--config").arg(scratch.write("check.toml", &toml)).arg("--check");
        let mut check = Process::start("hawser --check", &check);
        assert!(check.wait_exit(WITHIN).success(), "{:?}", check.errors());

        let proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);
        let port = proxy.settings.tls_port;
        for (what, option, name) in [("domain", "-verify_hostname", DOMAIN), ("address", "-verify_ip", "127.0.0.1")] {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-quiet", "-verify_return_error", option, name]);
            client.args(["-connect", &format!("127.0.0.1:{port}")]).arg("-CAfile").arg(path("ca.pem"));
            client.arg("-cert").arg(path("phone.pem")).arg("-key").arg(path("phone.key"));
            let mut client = Process::start(&format!("openssl s_client, {kind}, {what}"), &client);
            client.try_write_stdin(service_check(port, "probe").as_bytes());
            client.wait_line("SIP/2.0 200", WITHIN);
        }
    }
}
