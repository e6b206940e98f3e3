//! The HTTP port over TLS and with a token, asked by curl, by OpenSSL's client and by `hawser where`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::certs::Certificates;
use crate::harness::process::Process;
use crate::harness::proxy::{Settings, hawser, is_stand_in};
use crate::harness::{DOMAIN, START_MAX, Scratch};

const TOKEN: &str = "0123456789-abcdef.~+/==";

/// Starts a proxy with HTTPS and a token, and waits until it is ready.
fn start(scratch: &Scratch, names: &[&str]) -> (Process, Settings) {
    let token = scratch.write("token", &format!("{TOKEN}\n"));
    let more = format!("http-tls = true\nhttp-token-file = {token:?}\n");
    let mut settings = Settings { more, ..Settings::new(scratch) };
    settings.certificates = Certificates::named(scratch, names);
    let toml = format!("{}key-log-file = {:?}\n", settings.toml(), scratch.path().join("keys.log"));
    let mut process = hawser(&scratch.write("hawser.toml", &toml));
    let url = url(&settings, "/readyz");
    // The name is another test's matter.
    let mut probe = Command::new("curl");
    probe.args(["--silent", "--fail", "--cacert"]).arg(&settings.certificates.ca).arg("--resolve");
    probe.arg(format!("{DOMAIN}:{}:127.0.0.1", settings.http_port)).arg(url.replace("127.0.0.1", DOMAIN));
    process.wait_until("ready", START_MAX, || probe.output().expect("curl").status.success());
    (process, settings)
}

fn url(settings: &Settings, path: &str) -> String {
    format!("https://127.0.0.1:{}{path}", settings.http_port)
}

/// The status and the page that curl gets, or why not.
fn curl(ca: &Path, url: &str, more: &[&str]) -> Result<(String, String), String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "-w", "\n%{http_code} %{http_version}"]);
    let got = command.arg("--cacert").arg(ca).args(more).arg(url).output().expect("curl");
    let text = String::from_utf8(got.stdout).expect("text");
    let (page, status) = text.rsplit_once('\n').expect("it was asked for");
    match got.status.success() {
        true => Ok((status.to_owned(), page.to_owned())),
        false => Err(String::from_utf8(got.stderr).expect("text")),
    }
}

fn locate(arguments: &[&str]) -> (bool, String) {
    let got = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["where", "sip:alice@example.com"])
        .args(arguments)
        .output()
        .expect("it runs");
    (got.status.success(), String::from_utf8(got.stderr).expect("text"))
}

#[test]
fn https_asks_for_the_token_and_shows_the_certificate_of_phones() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("https");
    let (_process, settings) = start(&scratch, &[DOMAIN, "127.0.0.1"]);
    let ca = &settings.certificates.ca;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/metrics", "/stats", "/where?aor=alice@example.com"] {
        let (status, _) = curl(ca, &url(&settings, path), &[]).expect("an answer");
        assert_eq!(status, "401 1.1", "{path}");
        let (status, _) = curl(ca, &url(&settings, path), &["-H", "Authorization: Bearer no"]).expect("an answer");
        assert_eq!(status, "401 1.1", "{path}");
        let (status, page) = curl(ca, &url(&settings, path), &["-H", &bearer]).expect("an answer");
        let wanted = if path.starts_with("/where") { "404 1.1" } else { "200 1.1" };
        assert_eq!(status, wanted, "{path}");
        assert!(!page.is_empty(), "{path}");
    }
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(curl(ca, &url(&settings, path), &[]).expect("an answer").0, "200 1.1", "{path}");
    }
    // Somebody else's CA; and no TLS at all.
    let other = Certificates::named(&Scratch::new("other-ca"), &[DOMAIN]);
    let refused = curl(&other.ca, &url(&settings, "/readyz"), &[]).expect_err("it cannot be verified");
    assert!(refused.contains("certificate"), "{refused}");
    assert!(curl(ca, &url(&settings, "/readyz").replace("https", "http"), &[]).is_err());

    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", settings.http_port), version]);
        client.args(["-alpn", "h2,http/1.1", "-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile"]).arg(ca);
        let mut client = Process::start("openssl s_client", &client);
        client.write_stdin(b"GET /healthz HTTP/1.1\r\nHost: hawser\r\n\r\n");
        client.wait_line("HTTP/1.1 200", Duration::from_secs(10));
    }
    let keys = std::fs::read(scratch.path().join("keys.log")).expect("it is made at the start");
    assert!(keys.is_empty(), "the token's sessions are no SIP");
}

#[test]
fn https_shows_a_renewed_certificate_without_a_restart() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("https-renewed");
    let (mut process, settings) = start(&scratch, &[DOMAIN, "127.0.0.1"]);
    let url = url(&settings, "/readyz");
    // Over the same files, by another CA.
    let renewed = Certificates::named(&scratch, &[DOMAIN, "127.0.0.1"]);
    process.wait_until("showing the new certificate", START_MAX, || curl(&renewed.ca, &url, &[]).is_ok());
}

#[test]
fn hawser_where_speaks_https_and_sends_the_token_of_the_configuration() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("where-https");
    // As phones have it: no address in the certificate.
    let (_process, settings) = start(&scratch, &[DOMAIN]);
    let file = scratch.path().join("hawser.toml");
    let (found, said) = locate(&["--config", file.to_str().expect("text")]);
    assert!(!found && said == "sip:alice@example.com: not registered through this proxy\n", "{said}");
    let (found, said) = locate(&["--http", &format!("127.0.0.1:{}", settings.http_port)]);
    assert!(!found && said.contains("wants TLS"), "{said}");

    let config = file.to_str().expect("text");
    for command in [&["servers"][..], &["pin", "server", "primary"], &["release", "server"]] {
        let done = Command::new(env!("CARGO_BIN_EXE_hawser")).args(command).args(["--config", config]).output();
        let done = done.expect("it runs");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    let with = |name: &str, from: &str, to: &str| {
        let text = settings.toml().replacen(from, to, 1);
        let (found, said) = locate(&["--config", scratch.write(name, &text).to_str().expect("text")]);
        assert!(!found, "{said}");
        said
    };
    let wrong = scratch.write("wrong-token", "another-token-of-somebody\n");
    let said = with("wrong.toml", &format!("{:?}", scratch.path().join("token")), &format!("{wrong:?}"));
    assert!(said.contains("asks for a bearer token"), "{said}");
    let other = Scratch::new("where-other");
    let ca = Certificates::named(&other, &[DOMAIN]).ca;
    let said = with("ca.toml", &format!("{:?}", settings.certificates.ca), &format!("{ca:?}"));
    assert!(said.contains("the certificate is refused: "), "{said}");
    let said = with("name.toml", &format!("[\"{DOMAIN}\"]"), "[\"proxy.example.net\"]");
    assert!(said.contains("the certificate is refused: "), "{said}");
    let garbage = scratch.write("garbage", "no token\n");
    let said = with("garbage.toml", &format!("{:?}", scratch.path().join("token")), &format!("{garbage:?}"));
    assert!(said.starts_with(&format!("{}: expected a bearer token", garbage.display())), "{said}");
}
