//! Real phones of two makes over TLS, with and without `tls-mutual`: each registers, and one of each is called by
//! another phone through Kamailio. Their certificates are those of `scripts/make-certs`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use crate::harness::baresip::Phone;
use crate::harness::linphone::Linphone;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in, page};
use crate::harness::{DOMAIN, Scratch, registrar, repository};

const WITHIN: Duration = Duration::from_secs(30);

fn phones_are_called(mutual: bool) {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new(if mutual { "real-phones-mutual" } else { "real-phones" });
    let made = scratch.path().join("made");
    for words in [
        &["server", "proxy", DOMAIN, "localhost", "127.0.0.1"][..],
        &["phone", "alice", "sip:alice@example.com"],
        &["phone", "bob", "sip:bob@example.com"],
        &["phone", "carol", "carol.example.com"],
    ] {
        let mut command = Command::new(repository("scripts/make-certs"));
        let mut script = Process::start("make-certs", command.arg("--dir").arg(&made).args(words));
        assert!(script.wait_exit(WITHIN).success(), "{words:?}");
    }
    let file = |name: &str| made.join(name);
    let mut settings = Settings::new(&scratch);
    settings.oos_check = 5;
    settings.certificates.ca = file("ca.pem");
    settings.certificates.certificate = file("proxy.pem");
    settings.certificates.key = file("proxy.key");
    let toml = format!("{}tls-mutual = {}\n", settings.toml(), u8::from(mutual));
    let proxy = Proxy::start_with(&scratch, settings, Ipv4Addr::LOCALHOST.into(), &toml);
    let Settings { certificates, tls_port, server_port, .. } = &proxy.settings;
    let _registrar = registrar::start(&scratch, *server_port);

    let [mut alice, mut bob] = ["alice", "bob"].map(|user| {
        // baresip wants both in one file.
        let [certificate, key] =
            ["pem", "key"].map(|end| std::fs::read_to_string(file(&format!("{user}.{end}"))).expect("it was made"));
        let both = scratch.write(&format!("{user}.both.pem"), &format!("{certificate}{key}"));
        let more = if mutual { format!("sip_certificate {}\n", both.display()) } else { String::new() };
        let phone = Phone::start_with(&scratch, user, certificates, *tls_port, &more);
        phone.wait_bindings(1);
        phone
    });
    let own = (file("carol.pem"), file("carol.key"));
    let own = mutual.then_some((own.0.as_path(), own.1.as_path()));
    let carol = Linphone::start(&scratch, "carol", certificates, *tls_port, own, proxy.http);
    let known = page(proxy.http, &format!("/where?aor=carol@{DOMAIN}")).expect("the HTTP port answers");
    assert_eq!(known.contains("dns:carol.example.com"), mutual, "{known}");

    alice.dial("carol");
    assert_eq!(alice.wait_event("CALL_ESTABLISHED")["direction"], "outgoing");
    carol.wait_connected(1, "alice");
    alice.hang_up();
    carol.wait_ended(1, "alice");
    alice.wait_event("CALL_CLOSED");

    bob.call(&mut alice);
    bob.end_call(&mut alice);
}

#[test]
fn baresip_and_linphone_register_and_are_called_over_tls() {
    phones_are_called(false);
}

#[test]
fn baresip_and_linphone_register_and_are_called_over_mutual_tls() {
    phones_are_called(true);
}
