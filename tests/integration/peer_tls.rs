//! Peers with certificates, CAs and lists of their own, against OpenSSL, in both directions.

use std::process::Command;

use rcgen::{CertificateParams, SanType};

use crate::certificates::{Authority, FINE, Own, WITHIN, call, dns, ends, expired, text};
use crate::harness::Scratch;
use crate::harness::ports::{Kind, free_port, is_bound};
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in, page};

/// OpenSSL as the SIP Server, which takes clients with certificates of these CAs only.
fn server(what: &str, own: &Own, clients: &str, version: &str) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", version, "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
    command.args(["-Verify", "2", "-verify_return_error", "-CAfile", clients]);
    let mut server = Process::start(&format!("openssl s_server, {what}"), &command);
    server.wait_until("listening", WITHIN, || is_bound(Kind::Tcp, port));
    (server, port)
}

/// A proxy whose `[security]` has our CA and certificate, with lines for the SIP Server.
fn proxy(scratch: &Scratch, port: u16, lines: &str, ours: &Own) -> Proxy {
    let mut settings = Settings { server_port: port, internal_protocol: "tls", oos_check: 1, ..Settings::new(scratch) };
    settings.certificates.ca = scratch.path().join("ours.ca.pem");
    settings.certificates.certificate.clone_from(&ours.certificate);
    settings.certificates.key.clone_from(&ours.key);
    let toml = settings.toml().replace("\n[security]\n", &format!("{lines}\n[security]\n"));
    let toml = toml.replace("oos-check = 1\n", "oos-check = 1\noos-force = 1\n");
    Proxy::start_with(scratch, settings, "127.0.0.1".parse().expect("an address"), &toml)
}

#[test]
fn a_server_of_another_organisation_is_shown_its_own_certificate_and_verified_by_its_own_ca() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("peer-tls-server");
    let (ca, partner) = (Authority::new(&scratch, "ours"), Authority::new(&scratch, "partner"));
    let stranger = Authority::new(&scratch, "stranger");
    let ip = || SanType::IpAddress("127.0.0.1".parse().expect("an address"));
    let with_ip = move |params: &mut CertificateParams| params.subject_alt_names = vec![ip()];
    let ours = ca.issue("proxy", "", with_ip);
    let by_partner = partner.issue("by-partner", "", |_| {});
    let theirs = partner.issue("theirs", "", with_ip);
    let impostor = ca.issue("impostor", "", with_ip);
    let revoked = partner.issue("revoked", "", |params| {
        with_ip(params);
        params.serial_number = Some(7_u64.into());
    });
    let crl = partner.revokes(7);
    let partner_ca = scratch.path().join("partner.ca.pem");
    let trusting = |ca: &str| format!("trusted-ca = {:?}\n", scratch.path().join(ca));
    let trusted = trusting("partner.ca.pem");
    let shown = format!("certificate = {:?}\ncertificate-key = {:?}\n", by_partner.certificate, by_partner.key);
    let lists = format!("crl = {crl:?}\n");
    // How it ends by TLS 1.2 and 1.3, and whether it is they who refuse. By the latter a client is through before the
    // server has looked at its certificate: what that holds against it comes behind.
    let cases = [
        ("all its own", &theirs, format!("{trusted}{shown}{lists}"), [FINE; 2], false),
        ("the side's certificate", &theirs, trusted.clone(), ["unknown_ca"; 2], true),
        ("no certificate", &theirs, format!("{trusted}certificate = \"\"\n"), ["cipher", "none"], true),
        ("the side's CA", &theirs, shown.clone(), ["unknown_ca"; 2], false),
        ("one of our own CA's", &impostor, format!("{trusted}{shown}"), ["unknown_ca"; 2], false),
        ("a revoked one", &revoked, format!("{trusted}{shown}{lists}"), ["revoked"; 2], false),
        ("a revoked one without the list", &revoked, format!("{trusted}{shown}"), [FINE; 2], false),
    ];
    for (at, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        for (what, own, lines, wants, by_them) in &cases {
            let what = format!("{what}, {version}");
            let (_server, port) = server(&what, own, text(&partner_ca), version);
            let mut proxy = proxy(&scratch, port, lines, &ours);
            let http = proxy.http;
            proxy.process.wait_until(&what, WITHIN, || ends(http, "server").contains_key(wants[at]));
            // It goes on asking; what ends otherwise would stand beside the reason.
            let mut ended = ends(http, "server");
            if *by_them && version == "-tls1_3" {
                ended.remove(FINE);
            }
            let reasons: Vec<_> = ended.into_keys().collect();
            assert_eq!(reasons, [wants[at]], "{what}");
        }
    }
    // A file of one peer is watched like all others: the stranger's root gives way to the right one.
    let file = scratch.write("partner-now.pem", &stranger.pem);
    let (_server, port) = server("reload", &theirs, text(&partner_ca), "-tls1_3");
    let mut proxy = proxy(&scratch, port, &format!("trusted-ca = {file:?}\n{shown}"), &ours);
    let http = proxy.http;
    proxy.process.wait_until("refused", WITHIN, || ends(http, "server").contains_key("unknown_ca"));
    assert!(!ends(http, "server").contains_key(FINE));
    std::fs::write(&file, &partner.pem).expect("a scratch file");
    proxy.process.wait_until("through with the new file", WITHIN, || ends(http, "server").contains_key(FINE));
    let expires = page(http, "/metrics").expect("the HTTP port answers");
    let gauge = |own: &Own| format!("hawser_certificate_days_left{{file=\"{}\"", own.certificate.display());
    for own in [&ours, &by_partner] {
        assert!(expires.contains(&gauge(own)), "{expires}");
    }
}

#[test]
fn a_peers_ca_lets_the_peer_in_and_makes_no_phones() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("peer-tls-inbound");
    let (ca, partner) = (Authority::new(&scratch, "ours"), Authority::new(&scratch, "partner"));
    let stranger = Authority::new(&scratch, "stranger");
    let named = |ca: &Authority, file: &str, name: &str| ca.issue(file, "", |p| p.subject_alt_names = vec![dns(name)]);
    let site2 = "sip.partner.example";
    let late = partner.issue("late", "", |params| {
        expired(params);
        params.subject_alt_names = vec![dns(site2)];
    });
    let cases = [
        ("the partner", named(&partner, "their-proxy", site2), FINE),
        ("a phone of the partner's", named(&partner, "their-phone", "phone.partner.example"), "name"),
        ("a nameless one of the partner's", partner.issue("nameless", "", |_| {}), "name"),
        ("the partner, too late", late, "expired"),
        ("a phone of ours", named(&ca, "phone", "phone.example.com"), FINE),
        ("a phone of ours with the partner's name", named(&ca, "impostor", site2), FINE),
        ("a stranger with the partner's name", named(&stranger, "odd", site2), "unknown_ca"),
    ];
    let mut settings = Settings::new(&scratch);
    settings.certificates.ca = scratch.path().join("ours.ca.pem");
    let peer = format!(
        "[[peer-proxy]]\nname = \"partner\"\nservers = [\"10.2.0.20\"]\npeer-proxy-contact = {site2:?}\n\
         trusted-ca = {:?}\n",
        scratch.path().join("partner.ca.pem")
    );
    let toml = settings.toml().replace("\n[security]\n", &format!("{peer}\n[security]\ntls-mutual = 1\n"));
    let mut proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);
    for version in ["-tls1_2", "-tls1_3"] {
        for (what, own, want) in &cases {
            let what = format!("{what}, {version}");
            call(&mut proxy, &what, &[version, "-cert", text(&own.certificate), "-key", text(&own.key)], want);
        }
    }
}
