//! Kamailio as the SIP Server and baresip as TLS phones: the call passes the proxy twice, from one phone to Kamailio
//! and from Kamailio to the other. With each way of finding back to a phone (`sticky`): by Path, which Kamailio treats
//! strictly by default, by an alias in the Contact, and by the AOR alone.

use crate::harness::baresip::Phone;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::{Scratch, registrar};

/// A call from one phone to another and one back; once the caller hangs up, once the one who was called.
fn phones_call_each_other(scratch: &Scratch, sticky: &str, registrar: impl FnOnce(&Proxy) -> Process) {
    let mut settings = Settings::new(scratch);
    settings.oos_check = 5;
    settings.more = format!("sticky = \"{sticky}\"");
    let proxy = Proxy::start(scratch, settings);
    let _registrar = registrar(&proxy);
    let Settings { certificates, tls_port, .. } = &proxy.settings;
    let mut alice = Phone::start(scratch, "alice", certificates, *tls_port);
    let mut bob = Phone::start(scratch, "bob", certificates, *tls_port);
    for phone in [&alice, &bob] {
        phone.wait_bindings(1);
    }

    alice.call(&mut bob);
    alice.end_call(&mut bob);

    bob.call(&mut alice);
    alice.end_call(&mut bob);
}

#[test]
fn baresips_call_each_other_by_kamailio_with_strict_path() {
    let scratch = Scratch::new("baresip-path");
    phones_call_each_other(&scratch, "path", |proxy| registrar::start(&scratch, proxy.settings.server_port));
}

#[test]
fn baresips_call_each_other_by_kamailio_without_path_by_their_contact() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("baresip-contact");
    phones_call_each_other(&scratch, "contact", |proxy| {
        registrar::start_with(&scratch, proxy.settings.server_port, &["NO_PATH"])
    });
}

#[test]
fn baresips_call_each_other_by_kamailio_without_path_by_their_aor() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("baresip-aor");
    phones_call_each_other(&scratch, "aor", |proxy| {
        let to_proxy = format!("PROXY=\"sip:{}\"", proxy.sip());
        registrar::start_with(&scratch, proxy.settings.server_port, &["NO_PATH", &to_proxy])
    });
}
