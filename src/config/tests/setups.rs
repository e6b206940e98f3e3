//! What single peers have of their own of TLS, and what is said of endpoints alone.

use super::*;

/// A server, a site and a network of devices over TLS, with lines of their own, and a side's settings.
fn text(server: &str, peer: &str, device: &str) -> String {
    format!(
        "[[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5061\"\ntransport = \"tls\"\n{server}\
         [[peer-proxy]]\nname = \"p\"\nservers = [\"10.1.0.1\"]\npeer-proxy-contact = \"p.example.com\"\n{peer}\
         [[device]]\nnetwork = \"10.2.0.0/16\"\n{device}\
         [security]\n{CERTIFICATE}[security.server]\ntrusted-ca = \"servers.pem\"\n\
         [security.endpoint]\ntrusted-ca = \"ends.pem\"\ncrl = \"ends.crl\"\n"
    )
}

fn setups(server: &str, peer: &str, device: &str) -> (Config, [Option<PeerSetup>; 3]) {
    let config = checked(&text(server, peer, device)).unwrap_or_else(|fault| panic!("{fault}"));
    let setups = [config.servers[0].setup, config.peers[0].setup, config.devices[0].setup];
    (config, setups)
}

#[test]
fn a_peer_has_what_it_names_and_for_the_rest_what_its_side_has() {
    let own = PeerSetup { id: SetupId(0), own_trust: true };
    let (config, found) = setups("", "trusted-ca = \"partner.pem\"\n", "");
    assert_eq!(found, [None, Some(own), None]);
    let expected = PeerSecurity {
        certificate: Some("a.pem".into()),
        certificate_key: Some("a.key".into()),
        trust: TrustFiles { trusted_ca: Some("partner.pem".into()), system_roots: false, crl: Some("ends.crl".into()) },
        key_log_file: None,
    };
    assert_eq!(config.security.peers, std::slice::from_ref(&expected));
    assert_eq!(config.security.outbound(Side::Endpoint, Some(own.id)), expected);
    assert_eq!(config.peers[0].tls_peer().setup, Some(own.id));
    let server = &config.servers[0];
    assert_eq!(server.tls_peer(&server.primary).setup, None);
    assert_eq!(config.security.outbound(Side::Server, None).trust.trusted_ca, Some("servers.pem".into()));
    assert_eq!(config.with_own_setup().collect::<Vec<_>>(), [("peer-proxy p".to_owned(), Side::Endpoint, own)]);
    // "" takes away what the side has.
    let (config, found) = setups("certificate = \"\"\n", "crl = \"\"\n", "system-roots = true\n");
    let [server, peer, device] = found.map(Option::unwrap);
    assert_eq!([server.own_trust, peer.own_trust, device.own_trust], [false, true, true]);
    let of = |side, setup: PeerSetup| config.security.outbound(side, Some(setup.id));
    assert_eq!((of(Side::Server, server).certificate, of(Side::Server, server).certificate_key), (None, None));
    assert_eq!(of(Side::Endpoint, peer).trust.crl, None);
    assert!(of(Side::Endpoint, device).trust.system_roots);
}

#[test]
fn what_says_the_same_is_one_set_up_and_what_says_nothing_new_is_none() {
    let (config, found) = setups("", "trusted-ca = \"ends.pem\"\n", "system-roots = false\n");
    assert_eq!(found, [None; 3]);
    assert!(config.security.peers.is_empty());
    let own = "certificate = \"b.pem\"\ncertificate-key = \"b.key\"\n";
    let (config, found) = setups("trusted-ca = \"ends.pem\"\ncrl = \"ends.crl\"\n", own, own);
    let ids = found.map(|setup| setup.unwrap().id.0);
    assert_eq!(ids, [0, 1, 1]);
    assert_eq!(found.map(|setup| setup.unwrap().own_trust), [true, false, false]);
    assert_eq!(config.security.peers.len(), 2);
}

#[test]
fn faults_are_told_where_they_stand() {
    let fault = |server: &str, peer: &str, device: &str| checked(&text(server, peer, device)).unwrap_err().to_string();
    let none = "trusted-ca = \"\"\n";
    assert_eq!(
        fault(none, "", ""),
        "h.toml:4: sip-server.transport: tls, expected security.trusted-ca or security.system-roots = true to go with it"
    );
    assert!(fault("", none, "").starts_with("h.toml:5: peer-proxy.peer-proxy-protocol: tls, expected "));
    assert!(fault("", "", none).starts_with("h.toml:9: device: tls, expected "));
    let lone = "certificate-key = \"b.key\"\ncertificate = \"\"\n";
    assert_eq!(fault("", lone, ""), "h.toml:9: peer-proxy.certificate-key: expected certificate to go with it");
    let bare = text("", "", "certificate = \"b.pem\"\n").replace("certificate-key = \"a.key\"\n", "");
    let bare = bare.replace("certificate = \"a.pem\"\n", "");
    let fault = checked(&format!("[sipproxy]\ntls-port = 0\n{bare}")).unwrap_err();
    assert_eq!((fault.key.as_str(), fault.fault), ("sip-server.transport", Fault::Needs(Need::Port)));
    let bare = bare.replace("[[device]]", "[[listener]]\naddress = \"10.0.0.7\"\ntls-port = 0\n[[device]]");
    let bare =
        bare.replace("transport = \"tls\"\n", "").replace("contact = ", "protocol = \"udp\"\npeer-proxy-contact = ");
    let fault = checked(&bare).unwrap_err();
    assert_eq!((fault.key.as_str(), fault.fault), ("device.certificate", Fault::Needs(Need::Key)));
}

#[test]
fn set_ups_are_counted() {
    let with = |count: usize| {
        let device =
            |n: usize| format!("[[device]]\nnetwork = \"10.{}.{}.0/24\"\ntrusted-ca = \"{n}.pem\"\n", n / 256, n % 256);
        format!("{LEAST}{}", (0..count).map(device).collect::<String>())
    };
    assert_eq!(checked(&with(1_024)).unwrap().security.peers.len(), 1_024);
    let fault = checked(&with(1_025)).unwrap_err();
    assert_eq!((fault.key.as_str(), fault.fault), ("device", Fault::TooMany(1_024)));
    assert_eq!(fault.line, 6 + 1_024 * 3);
}

#[test]
fn what_certificates_cover_is_said_of_endpoints_that_are_asked_for_one() {
    let with = |security: &str| checked(&format!("{LEAST}[security]\ntrusted-ca = \"ca.pem\"\n{security}"));
    let rule = |security: &str| with(security).map(|config| config.security.client_aor);
    assert_eq!(rule(""), Ok(ClientAor::Off));
    assert_eq!(rule("tls-mutual = 1\nclient-aor = \"user\"\n"), Ok(ClientAor::User));
    let endpoint = "[security.endpoint]\ntls-mutual = 1\nclient-aor = \"domain\"\n";
    assert_eq!(rule(endpoint), Ok(ClientAor::Domain));
    assert_eq!(rule(&format!("tls-mutual = 1\nclient-aor = \"user\"\n{endpoint}")), Ok(ClientAor::Domain));
    let fault = |security: &str| with(security).unwrap_err().to_string();
    let wanted = "expected \"off\", or tls-mutual = 1 for endpoints to go with it";
    assert_eq!(fault("client-aor = \"user\"\n"), format!("h.toml:8: security.client-aor: {wanted}"));
    let endpoint = "tls-mutual = 1\n[security.endpoint]\nclient-aor = \"user\"\ntls-mutual = 0\n";
    assert_eq!(fault(endpoint), format!("h.toml:10: security.endpoint.client-aor: {wanted}"));
    let server = fault("tls-mutual = 1\n[security.server]\nclient-aor = \"user\"\n");
    assert_eq!(server, "h.toml:10: security.server.client-aor: unknown key, did you mean security.client-aor?");
    assert!(fault("client-aor = \"phone\"\n").contains("\"off\", \"domain\" or \"user\""));
}
