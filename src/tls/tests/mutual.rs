//! `tls-mutual = 1`: clients that show certificates of all kinds, and servers on a revocation list.

use rustls::pki_types::pem::PemObject;

use super::*;
use crate::config::Config;
use HandshakeFailure as Why;

const FAR: (i32, u8, u8) = (2090, 1, 1);
const PAST: (i32, u8, u8) = (2024, 2, 1);

/// A certificate and its key.
type CertAndKey = (String, String);

/// A client that shows `own`.
fn client(ca: &Ca, own: &CertAndKey) -> SetUp {
    let folder = Folder::new("mutual-client");
    made(&config(&folder, &own.0, &own.1, &ca.pem, BY_NAME))
}

/// A proxy that verifies clients, with further lines of `[security]`.
fn proxy(folder: &Folder, ca: &Ca, more: &str) -> Config {
    let (cert, key) = ca.issue(|_| {});
    config_with(folder, (&cert, &key), &ca.pem, BY_NAME, &format!("tls-mutual = 1\n{more}"))
}

/// The proxy's verdict on a client, and the names that it was found to have.
fn verdict(client: &SetUp, proxy: &Tls) -> Result<Option<Identities>, Why> {
    let mut pair = Pair::of(client.tls.connect(&client.peer).unwrap(), proxy);
    match pair.run(usize::MAX).1 {
        Some(fault) => Err(failure::reason(&fault)),
        None => Ok(proxy.identities_of_client(&pair.server, None)),
    }
}

fn usages(params: &mut CertificateParams, usages: &[ExtendedKeyUsagePurpose]) {
    params.extended_key_usages = usages.to_vec();
}

#[test]
fn each_kind_of_client_certificate_is_taken_or_refused_with_its_reason() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let folder = Folder::new("mutual-kinds");
    let (ca, stranger) = (Ca::new("ca"), Ca::new("stranger"));
    let strict = set_up(&proxy(&folder, &ca, "")).unwrap().0;
    let any_folder = Folder::new("mutual-any");
    let any = set_up(&proxy(&any_folder, &ca, "client-eku = \"any\"\n")).unwrap().0;
    let own_key = || {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["phone.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "itself");
        (params, key)
    };
    let itself = |is_ca: IsCa| {
        let (mut params, key) = own_key();
        params.is_ca = is_ca;
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let unconstrained = IsCa::Ca(BasicConstraints::Unconstrained);
    let cases: Vec<(&str, CertAndKey, Option<Why>, Option<Why>)> = vec![
        ("no usage at all", ca.issue(|_| {}), None, None),
        ("for clients", ca.issue(|p| usages(p, &[ClientAuth])), None, None),
        ("for both", ca.issue(|p| usages(p, &[ServerAuth, ClientAuth])), None, None),
        ("for servers", ca.issue(|p| usages(p, &[ServerAuth])), Some(Why::Usage), None),
        ("for code", ca.issue(|p| usages(p, &[CodeSigning])), Some(Why::Usage), Some(Why::Usage)),
        ("a CA itself", ca.issue(|p| p.is_ca = unconstrained), Some(Why::Usage), Some(Why::Usage)),
        ("expired", ca.issue(|p| p.not_after = date_time_ymd(2020, 1, 1)), Some(Why::Expired), Some(Why::Expired)),
        (
            "early",
            ca.issue(|p| {
                p.not_before = date_time_ymd(2090, 1, 1);
                p.not_after = date_time_ymd(2091, 1, 1);
            }),
            Some(Why::NotYetValid),
            Some(Why::NotYetValid),
        ),
        ("of a stranger", stranger.issue(|_| {}), Some(Why::UnknownCa), Some(Why::UnknownCa)),
        ("of itself", itself(IsCa::NoCa), Some(Why::SelfSigned), Some(Why::SelfSigned)),
        ("of itself, as a CA", itself(unconstrained), Some(Why::SelfSigned), Some(Why::SelfSigned)),
    ];
    for (what, pair, by_strict, by_any) in &cases {
        let client = client(&ca, pair);
        assert_eq!(verdict(&client, &strict).err(), *by_strict, "strict: {what}");
        assert_eq!(verdict(&client, &any).err(), *by_any, "any: {what}");
    }
}

#[test]
fn a_client_without_a_certificate_is_refused_in_both_versions_and_one_with_is_known_by_its_names() {
    let folder = Folder::new("mutual-none");
    let ca = Ca::new("ca");
    let tls = set_up(&proxy(&folder, &ca, "")).unwrap().0;
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::of(call(&phone(&ca, &[], &[version])), &tls);
        let (client, server) = pair.run(usize::MAX);
        assert_eq!(server.as_ref().map(failure::reason), Some(Why::None));
        assert!(matches!(client, Some(Error::AlertReceived(_))), "the alert reaches the client: {client:?}");
    }
    let sip = SanType::URI("sip:Phones.Example.com".to_owned().try_into().unwrap());
    let pair = ca.issue(|params| params.subject_alt_names.push(sip.clone()));
    let identities = verdict(&client(&ca, &pair), &tls).unwrap().unwrap();
    assert_eq!(identities.sip, ["phones.example.com"]);
    assert_eq!(identities.dns, ["sips1.example.com"]);
    // Without tls-mutual nobody is asked, and nobody has a name.
    let open = Folder::new("mutual-off");
    let (cert, key) = ca.issue(|_| {});
    let open = set_up(&config(&open, &cert, &key, &ca.pem, BY_NAME)).unwrap().0;
    assert_eq!(verdict(&client(&ca, &pair), &open), Ok(None));
}

#[test]
fn under_mutual_tls_no_session_is_taken_up_again() {
    let folder = Folder::new("mutual-resume");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let open = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    let mutual = set_up(&proxy(&folder, &ca, "")).unwrap().0;
    for version in [&TLS12, &TLS13] {
        let (cert, key) = ca.issue(|_| {});
        let chain = vec![rustls_pki(&cert)];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut phone = ClientConfig::clone(&phone(&ca, &[], &[version]));
        phone.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
            rustls::sign::CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap(),
        ));
        let phone = Arc::new(phone);
        // What the phone got while nobody asked for certificates is worth nothing either.
        let open = set_up(&open).unwrap().0;
        for (tls, want) in [(&open, false), (&open, true), (&mutual, false), (&mutual, false)] {
            let mut pair = Pair::of(call(&phone), tls);
            assert_eq!(pair.run(usize::MAX), (None, None));
            assert_eq!(pair.server.is_resumed(), want);
        }
    }
}

#[test]
fn a_revoked_certificate_is_refused_in_both_directions_and_an_old_list_still_revokes() {
    let folder = Folder::new("mutual-crl");
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let sub = ca.intermediate("sub", 77);
    let chained = |params: fn(&mut CertificateParams)| {
        let (cert, key) = sub.issue(params);
        (format!("{cert}{}", sub.pem), key)
    };
    let lists = [
        ("no list", String::new(), None, None, None),
        ("another's list", other.revokes(&[5], FAR), None, None, None),
        ("a list", ca.revokes(&[5], FAR), Some(Why::Revoked), None, None),
        ("an old list", ca.revokes(&[5], PAST), Some(Why::Revoked), None, None),
        ("two lists", format!("{}{}", ca.revokes(&[1], FAR), sub.revokes(&[6], FAR)), None, Some(Why::Revoked), None),
        ("a list with the one that vouches", ca.revokes(&[77], FAR), None, Some(Why::Revoked), Some(Why::Revoked)),
    ];
    let first = ca.issue(|params| params.serial_number = Some(5_u64.into()));
    let second = chained(|params| params.serial_number = Some(6_u64.into()));
    let third = chained(|params| params.serial_number = Some(7_u64.into()));
    for (what, list, by_first, by_second, by_third) in &lists {
        let path = folder.write("crl.pem", list);
        let more = if list.is_empty() { String::new() } else { format!("crl = {path:?}\n") };
        let tls = set_up(&proxy(&folder, &ca, &more)).unwrap().0;
        let wanted = [(&first, by_first), (&second, by_second), (&third, by_third)];
        for (at, (pair, want)) in wanted.into_iter().enumerate() {
            assert_eq!(verdict(&client(&ca, pair), &tls).err(), *want, "client {at} under {what}");
            // The same certificate as a server's, whom we connect to.
            let theirs = Folder::new("mutual-crl-server");
            let server = set_up(&config(&theirs, &pair.0, &pair.1, &ca.pem, BY_NAME)).unwrap().0;
            let ours = made(&proxy(&folder, &ca, &more));
            let mut pair = Pair::of(ours.tls.connect(&ours.peer).unwrap(), &server);
            assert_eq!(pair.run(usize::MAX).0.as_ref().map(failure::reason), *want, "server {at} under {what}");
        }
    }
}

#[test]
fn a_port_for_both_sides_takes_what_either_trusts_and_an_endpoints_ca_names_no_server() {
    let folder = Folder::new("mutual-sides");
    let (ends, servers) = (Ca::new("ends"), Ca::new("servers"));
    let (cert, key) = ends.issue(|_| {});
    let ca = folder.write("servers.pem", &servers.pem);
    let more = format!("tls-mutual = 1\n[security.server]\ntrusted-ca = {ca:?}\n");
    let tls = set_up(&config_with(&folder, (&cert, &key), &ends.pem, BY_NAME, &more)).unwrap().0;
    let by = |ca: &Ca, side: Option<Side>| {
        let client = client(&ends, &ca.issue(|_| {}));
        let mut pair = Pair::of(client.tls.connect(&client.peer).unwrap(), &tls);
        pair.server = tls.accept(side).unwrap();
        let fault = pair.run(usize::MAX).1;
        fault.map_or_else(
            || Ok(tls.identities_of_client(&pair.server, side).unwrap().of_endpoint),
            |fault| Err(failure::reason(&fault)),
        )
    };
    assert_eq!(by(&ends, None), Ok(true));
    assert_eq!(by(&servers, None), Ok(false));
    assert_eq!(tls.files(Side::Endpoint, None).servers_ca, Some(ca), "a SIP Server's CA is not for the phones' file");
    assert_eq!(tls.files(Side::Server, None).servers_ca, None);
    assert_eq!(by(&ends, Some(Side::Endpoint)), Ok(true));
    assert_eq!(by(&servers, Some(Side::Endpoint)), Err(Why::UnknownCa));
    assert_eq!(by(&servers, Some(Side::Server)), Ok(false));
    assert_eq!(by(&ends, Some(Side::Server)), Err(Why::UnknownCa));
}

#[test]
fn lists_and_cas_that_are_of_no_use_are_named() {
    let folder = Folder::new("mutual-faults");
    let ca = Ca::new("ca");
    let crl = |text: &str| {
        let path = folder.write("crl.pem", text);
        set_up(&proxy(&folder, &ca, &format!("crl = {path:?}\n"))).map(|(_, inventory)| inventory.crls)
    };
    assert!(matches!(crl("garbage"), Err(TlsError::Pem(pem::PemError::NoCrl(_)))));
    assert!(matches!(crl(&ca.pem), Err(TlsError::Pem(pem::PemError::NoCrl(_)))));
    let broken = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    assert!(matches!(crl(broken), Err(TlsError::BadCrl(..))));
    let lists = crl(&ca.revokes(&[], (2030, 1, 2))).unwrap();
    assert_eq!(lists.len(), 1);
    assert_eq!((lists[0].issuer.as_str(), lists[0].next_update), ("CN=ca", Some(1_893_542_400)));
    // A list in DER.
    let text = ca.revokes(&[], FAR);
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(text.as_bytes()).unwrap();
    let path = folder.0.join("crl.der");
    std::fs::write(&path, &der).unwrap();
    let (_, inventory) = set_up(&proxy(&folder, &ca, &format!("crl = {path:?}\n"))).unwrap();
    assert_eq!(inventory.crls.len(), 1);
    assert!(!inventory.authorities[0].unlisted, "its CA has a list");
    let foreign = crl(&Ca::new("ca").revokes(&[], FAR)).unwrap_err();
    assert!(matches!(foreign, TlsError::ForeignCrl(..)), "{foreign}");
    assert!(foreign.to_string().ends_with("crl.pem: holds a revocation list of CN=ca that is not signed by its key"));
    let other = folder.write("other.pem", &Ca::new("other").revokes(&[], FAR));
    let (_, inventory) = set_up(&proxy(&folder, &ca, &format!("crl = {other:?}\n"))).unwrap();
    assert!(inventory.authorities[0].unlisted, "another's list is no list of this CA");
}

#[test]
fn a_ca_that_has_changed_its_key_has_a_list_for_each() {
    let folder = Folder::new("mutual-rollover");
    let (old, new) = (Ca::new("ca"), Ca::new("ca"));
    let (cert, key) = old.issue(|_| {});
    let phones = |ca: &Ca| [5, 6].map(|serial: u64| ca.issue(|params| params.serial_number = Some(serial.into())));
    for lists in [[old.revokes(&[5], FAR), new.revokes(&[6], FAR)], [new.revokes(&[6], FAR), old.revokes(&[5], FAR)]] {
        let path = folder.write("crl.pem", &lists.concat());
        let more = format!("tls-mutual = 1\ncrl = {path:?}\n");
        let both = format!("{}{}", old.pem, new.pem);
        let tls = set_up(&config_with(&folder, (&cert, &key), &both, BY_NAME, &more)).unwrap().0;
        let by = |pair: &CertAndKey| verdict(&client(&old, pair), &tls).err();
        let [fifth, sixth] = phones(&old);
        assert_eq!((by(&fifth), by(&sixth)), (Some(Why::Revoked), None));
        let [fifth, sixth] = phones(&new);
        assert_eq!((by(&fifth), by(&sixth)), (None, Some(Why::Revoked)));
    }
}

#[test]
fn two_cas_of_one_name_may_stand_for_the_two_sides() {
    let folder = Folder::new("mutual-namesakes");
    let (ends, servers) = (Ca::new("ca"), Ca::new("ca"));
    let (cert, key) = ends.issue(|_| {});
    let ca = folder.write("servers.pem", &servers.pem);
    let more = format!("tls-mutual = 1\n[security.server]\ntrusted-ca = {ca:?}\n");
    let tls = set_up(&config_with(&folder, (&cert, &key), &ends.pem, BY_NAME, &more)).unwrap().0;
    assert!(!verdict(&client(&ends, &servers.issue(|_| {})), &tls).unwrap().unwrap().of_endpoint);
    assert!(verdict(&client(&ends, &ends.issue(|_| {})), &tls).unwrap().unwrap().of_endpoint);
    assert_eq!(verdict(&client(&ends, &Ca::new("ca").issue(|_| {})), &tls).unwrap_err(), Why::Signature);
}
