//! Kamailio as the SIP Server, with the strict Path that it has by default, and baresip as TLS phones: the call passes
//! the proxy twice, from one phone to Kamailio and from Kamailio to the other.

use crate::harness::baresip::Phone;
use crate::harness::proxy::{Proxy, Settings};
use crate::harness::{Scratch, registrar};

#[test]
fn one_baresip_calls_another_over_tls_and_either_hangs_up() {
    let scratch = Scratch::new("baresip");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let _registrar = registrar::start(&scratch, proxy.settings.server_port);
    let Settings { certificates, tls_port, .. } = &proxy.settings;
    let mut alice = Phone::start(&scratch, "alice", certificates, *tls_port);
    let mut bob = Phone::start(&scratch, "bob", certificates, *tls_port);
    for phone in [&alice, &bob] {
        phone.wait_registered();
        phone.wait_bindings(1);
    }

    alice.dial("bob");
    assert_eq!(alice.wait_event("CALL_ESTABLISHED")["direction"], "outgoing");
    assert_eq!(bob.wait_event("CALL_ESTABLISHED")["direction"], "incoming");
    alice.hang_up();
    bob.wait_event("CALL_CLOSED");
    alice.wait_event("CALL_CLOSED");

    bob.dial("alice");
    assert_eq!(bob.wait_event("CALL_ESTABLISHED")["direction"], "outgoing");
    assert_eq!(alice.wait_event("CALL_ESTABLISHED")["direction"], "incoming");
    alice.hang_up();
    bob.wait_event("CALL_CLOSED");
    alice.wait_event("CALL_CLOSED");
}
