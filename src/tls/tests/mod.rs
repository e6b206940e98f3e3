//! Sessions of both roles joined in memory, set up from files as in a real start.

mod files;
mod mutual;
mod peers;

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore};

use super::error::TlsError;
use super::identity::TlsPeer;
use super::inventory::Inventory;
use super::key_log::KeyLogs;
use super::session::{Progress, Session};
use super::tickets::TicketSecrets;
use super::*;
use crate::config::Config;
use crate::stats::HandshakeFailure;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        // Tests run side by side, and some take the same name twice.
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let at = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hawser-tls-{name}-{}-{at}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// A CA that this one vouches for.
    fn intermediate(&self, name: &str, serial: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = Self::params(name);
        params.serial_number = Some(serial.into());
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A list of revoked serial numbers, in PEM.
    fn revokes(&self, serials: &[u64], next_update: (i32, u8, u8)) -> String {
        let revoked = |serial: &u64| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let revoked_certs = serials.iter().map(revoked).collect();
        let params = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update.0, next_update.1, next_update.2),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A certificate and its key in PEM.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["sips1.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "peer");
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// One set-up: what we show, what we trust, and how the server must be named. Further lines of `[security]` may stand
/// in `more`.
fn config_with(folder: &Folder, own: (&str, &str), trusted: &str, server: &str, more: &str) -> Config {
    let (cert, key) = own;
    let (cert, key) = (folder.write("cert.pem", cert), folder.write("key.pem", key));
    let ca = folder.write("ca.pem", trusted);
    let text = format!(
        "[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\ntransport = \"tls\"\n{server}\n\
         [security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\ntrusted-ca = {ca:?}\n{more}"
    );
    Config::parse(&text, "hawser.toml").unwrap()
}

fn config(folder: &Folder, cert: &str, key: &str, trusted: &str, server: &str) -> Config {
    config_with(folder, (cert, key), trusted, server, "")
}

fn set_up(config: &Config) -> Result<(Tls, Inventory), TlsError> {
    setup::set_up(config, &TicketSecrets { server: [1; 32], endpoint: [2; 32] }, &KeyLogs::default())
}

/// What is made from files, and the server whom the settings expect.
struct SetUp {
    tls: Tls,
    peer: TlsPeer,
}

fn made(config: &Config) -> SetUp {
    let server = config.serving();
    SetUp { tls: set_up(config).unwrap().0, peer: server.tls_peer(&server.primary) }
}

/// Two sessions, and what is on its way between them.
struct Pair {
    client: Session,
    server: Session,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    at_client: Vec<u8>,
    at_server: Vec<u8>,
}

fn feed(session: &mut Session, read: &[u8], wire: &mut Vec<u8>, text: &mut Vec<u8>) -> Result<Progress, Error> {
    let mut scratch = vec![0; session.part_len() + read.len()];
    let start = session.lay_part(&mut scratch);
    scratch[start..].copy_from_slice(read);
    session.feed(&mut scratch, wire, &mut |part| text.extend_from_slice(part))
}

impl Pair {
    /// We connect to ourselves, as to the server of the settings.
    fn new(set_up: &SetUp) -> Self {
        Self::of(set_up.tls.connect(&set_up.peer).unwrap(), &set_up.tls)
    }

    fn of(mut client: Session, tls: &Tls) -> Self {
        let mut to_server = Vec::new();
        assert_eq!(feed(&mut client, &[], &mut to_server, &mut Vec::new()), Ok(Progress::Handshaking));
        let server = tls.accept(None).unwrap();
        Self { client, server, to_server, to_client: vec![], at_client: vec![], at_server: vec![] }
    }

    /// Carries bytes in pieces of `piece` until nothing moves any more. The faults of client and server.
    fn run(&mut self, piece: usize) -> (Option<Error>, Option<Error>) {
        let (mut client_fault, mut server_fault) = (None, None);
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            for read in std::mem::take(&mut self.to_server).chunks(piece) {
                if server_fault.is_none() {
                    server_fault = feed(&mut self.server, read, &mut self.to_client, &mut self.at_server).err();
                }
            }
            for read in std::mem::take(&mut self.to_client).chunks(piece) {
                if client_fault.is_none() {
                    client_fault = feed(&mut self.client, read, &mut self.to_server, &mut self.at_client).err();
                }
            }
        }
        (client_fault, server_fault)
    }
}

fn outcome(tls: &SetUp) -> (Option<HandshakeFailure>, Option<HandshakeFailure>) {
    let (client, server) = Pair::new(tls).run(usize::MAX);
    (client.as_ref().map(failure::reason), server.as_ref().map(failure::reason))
}

const BY_NAME: &str = "tls-name = \"sips1.example.com\"";

#[test]
fn text_goes_both_ways_whatever_the_pieces_and_no_part_is_kept() {
    let folder = Folder::new("pieces");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let config = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    assert_eq!(set_up(&config).unwrap().1.leaves.len(), 1);
    let tls = made(&config);
    for piece in [1, 2, 7, 100, usize::MAX] {
        let mut pair = Pair::new(&tls);
        assert_eq!(pair.run(piece), (None, None));
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        let long = vec![b'x'; 40_000];
        pair.client.encrypt(b"one", &mut pair.to_server).unwrap();
        pair.client.encrypt(&long, &mut pair.to_server).unwrap();
        pair.server.encrypt(b"two", &mut pair.to_client).unwrap();
        assert_eq!(pair.run(piece), (None, None));
        assert_eq!(pair.at_server, [b"one", long.as_slice()].concat());
        assert_eq!(pair.at_client, b"two");
        assert_eq!((pair.client.part_len(), pair.server.part_len()), (0, 0));
        // Text may be sent while a part record is there.
        pair.client.encrypt(b"three", &mut pair.to_server).unwrap();
        let rest = pair.to_server.split_off(7);
        assert_eq!(pair.run(usize::MAX), (None, None));
        assert_eq!(pair.server.part_len(), 7);
        pair.server.encrypt(b"four", &mut pair.to_client).unwrap();
        pair.to_server = rest;
        assert_eq!(pair.run(usize::MAX), (None, None));
        assert!(pair.at_server.ends_with(b"three") && pair.at_client.ends_with(b"four"));
    }
}

#[test]
fn a_close_notify_ends_the_peers_reading() {
    let folder = Folder::new("close");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME));
    let mut pair = Pair::new(&tls);
    assert_eq!(pair.run(usize::MAX), (None, None));
    pair.server.encrypt(b"last", &mut pair.to_client).unwrap();
    pair.server.close(&mut pair.to_client).unwrap();
    let wire = std::mem::take(&mut pair.to_client);
    let progress = feed(&mut pair.client, &wire, &mut pair.to_server, &mut pair.at_client);
    assert_eq!(progress, Ok(Progress::PeerClosed));
    assert_eq!(pair.at_client, b"last");
    pair.client.close(&mut pair.to_server).unwrap();
    let wire = std::mem::take(&mut pair.to_server);
    assert_eq!(feed(&mut pair.server, &wire, &mut pair.to_client, &mut pair.at_server), Ok(Progress::PeerClosed));
}

#[test]
fn text_before_the_handshake_is_refused() {
    let folder = Folder::new("early");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME));
    let mut pair = Pair::new(&tls);
    assert_eq!(pair.client.encrypt(b"early", &mut Vec::new()), Err(Error::HandshakeNotComplete));
    assert_eq!(pair.run(usize::MAX), (None, None));
}

#[test]
fn a_second_connection_resumes_with_a_stateless_ticket() {
    let folder = Folder::new("resume");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let config = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    let strangers = TicketSecrets { server: [1; 32], endpoint: [3; 32] };
    for version in [&TLS12, &TLS13] {
        let phone = phone(&ca, &[], &[version]);
        let resumes = |tls: &Tls| {
            let mut pair = Pair::of(call(&phone), tls);
            assert_eq!(pair.run(usize::MAX), (None, None));
            pair.server.is_resumed() && pair.client.is_resumed()
        };
        let tls = made(&config).tls;
        assert_eq!([resumes(&tls), resumes(&tls)], [false, true]);
        // A new start, or another member of the pool.
        assert!(resumes(&made(&config).tls), "the secret is the same");
        let stranger = setup::set_up(&config, &strangers, &KeyLogs::default()).unwrap().0;
        assert_eq!([resumes(&stranger), resumes(&stranger)], [false, true], "a full handshake where it is another");
    }
}

#[test]
fn the_certificate_of_a_server_must_carry_the_configured_name() {
    let folder = Folder::new("name");
    let ca = Ca::new("ca");
    let refused = (Some(HandshakeFailure::Name), Some(HandshakeFailure::Protocol));
    let uri = |uri: &str| SanType::URI(uri.to_owned().try_into().unwrap());
    let cases = [
        ("tls-name = \"sips1.example.com\"", vec![], (None, None)),
        ("tls-name = \"other.example.com\"", vec![], refused),
        ("tls-name = \"other.example.com\"\nverify = \"chain\"", vec![], (None, None)),
        ("", vec![], refused),
        ("", vec![SanType::IpAddress("127.0.0.1".parse().unwrap())], (None, None)),
        ("tls-name = \"example.com\"", vec![uri("sip:example.com")], (None, None)),
        (BY_NAME, vec![uri("sip:example.com")], refused),
    ];
    for (server, more, want) in cases {
        let (cert, key) = ca.issue(|params| params.subject_alt_names.extend(more.clone()));
        let tls = made(&config(&folder, &cert, &key, &ca.pem, server));
        assert_eq!(outcome(&tls), want, "{server:?} {more:?}");
    }
}

#[test]
fn the_names_that_a_certificate_has_and_the_one_that_is_meant_are_told() {
    let folder = Folder::new("name-told");
    let ca = Ca::new("ca");
    let hostile = SanType::URI("sip:a\nb".to_owned().try_into().unwrap());
    let (cert, key) = ca.issue(|params| params.subject_alt_names.push(hostile));
    let tls = made(&config(&folder, &cert, &key, &ca.pem, "tls-name = \"other.example.com\""));
    let fault = Pair::new(&tls).run(usize::MAX).0.unwrap().to_string();
    assert!(fault.contains("other.example.com") && fault.contains("dns:sips1.example.com"), "{fault}");
    assert!(fault.contains("sip:a?b") && !fault.contains('\n'), "{fault}");
}

#[test]
fn a_chain_that_does_not_verify_has_its_reason_whether_or_not_the_name_counts() {
    let folder = Folder::new("chain");
    let (ca, stranger) = (Ca::new("ca"), Ca::new("stranger"));
    for server in [BY_NAME, "verify = \"chain\""] {
        let failed = |cert: &(String, String)| {
            let tls = made(&config(&folder, &cert.0, &cert.1, &ca.pem, server));
            outcome(&tls).0
        };
        assert_eq!(failed(&stranger.issue(|_| {})), Some(HandshakeFailure::UnknownCa));
        let expired = ca.issue(|params| params.not_after = date_time_ymd(2020, 1, 1));
        assert_eq!(failed(&expired), Some(HandshakeFailure::Expired));
        let early = ca.issue(|params| {
            params.not_before = date_time_ymd(2090, 1, 1);
            params.not_after = date_time_ymd(2091, 1, 1);
        });
        assert_eq!(failed(&early), Some(HandshakeFailure::NotYetValid));
        let client_only = ca.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(failed(&client_only), Some(HandshakeFailure::Usage));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["sips1.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "itself");
        let own = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        assert_eq!(failed(&own), Some(HandshakeFailure::SelfSigned));
    }
}

/// A client as a phone may be, with a list of ALPN names and versions of its choice.
fn phone(ca: &Ca, alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls_pki(&ca.pem)).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn call(phone: &Arc<ClientConfig>) -> Session {
    Session::connect(phone.clone(), "sips1.example.com".try_into().unwrap()).unwrap()
}

fn rustls_pki(pem: &str) -> rustls::pki_types::CertificateDer<'static> {
    let folder = Folder::new("pem");
    super::pem::certificates(&folder.write("one.pem", pem)).unwrap().remove(0)
}

#[test]
fn alpn_is_selected_when_offered_and_never_required() {
    let folder = Folder::new("alpn");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME));
    for version in [&TLS12, &TLS13] {
        let run = |alpn: &[&str]| {
            let mut pair = Pair::of(call(&phone(&ca, alpn, &[version])), &tls.tls);
            let (client, server) = pair.run(usize::MAX);
            (client.as_ref().map(failure::reason), server.as_ref().map(failure::reason))
        };
        assert_eq!(run(&[]), (None, None));
        assert_eq!(run(&["sip/2"]), (None, None));
        assert_eq!(run(&["h2", "sip/2"]), (None, None));
        let refused = (Some(HandshakeFailure::Alpn), Some(HandshakeFailure::Alpn));
        assert_eq!(run(&["h2"]), refused, "both know the reason: the alert reached the client");
    }
}

#[test]
fn bytes_that_are_no_tls_are_a_protocol_fault() {
    let folder = Folder::new("noise");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME));
    let mut server = tls.tls.accept(None).unwrap();
    let mut wire = Vec::new();
    let fault = feed(&mut server, b"OPTIONS sip:a SIP/2.0\r\n\r\n", &mut wire, &mut Vec::new()).unwrap_err();
    assert_eq!(failure::reason(&fault), HandshakeFailure::Protocol);
    // A fault in the middle of the text, with a part record before it, and what is asked of the session after it.
    let mut pair = Pair::new(&tls);
    assert_eq!(pair.run(usize::MAX), (None, None));
    pair.client.encrypt(b"text", &mut pair.to_server).unwrap();
    let wire = std::mem::take(&mut pair.to_server);
    feed(&mut pair.server, &wire[..9], &mut pair.to_client, &mut pair.at_server).unwrap();
    let mut broken = wire[9..].to_vec();
    broken[0] ^= 1;
    feed(&mut pair.server, &broken, &mut pair.to_client, &mut pair.at_server).unwrap_err();
    assert!(!pair.to_client.is_empty(), "there is an alert");
    assert!(pair.server.is_faulty());
    assert_eq!(pair.server.encrypt(b"more", &mut pair.to_client), Err(Error::EncryptError));
    assert_eq!(pair.server.close(&mut pair.to_client), Err(Error::EncryptError));
    feed(&mut pair.server, &wire, &mut pair.to_client, &mut pair.at_server).unwrap_err();
    assert!(pair.at_server.is_empty());
}

#[test]
fn a_set_up_that_cannot_work_names_its_file() {
    let folder = Folder::new("faults");
    let ca = Ca::new("ca");
    let ((cert, key), (_, other_key)) = (ca.issue(|_| {}), ca.issue(|_| {}));
    let fault =
        |cert: &str, key: &str, ca: &str| set_up(&config(&folder, cert, key, ca, BY_NAME)).map(|_| ()).unwrap_err();
    assert!(matches!(fault(&cert, &other_key, &ca.pem), TlsError::Mismatch { .. }));
    assert!(matches!(fault("", &key, &ca.pem), TlsError::Pem(pem::PemError::NoCertificate(..))));
    assert!(matches!(fault(&cert, &cert, &ca.pem), TlsError::Pem(pem::PemError::NoKey(..))));
    assert!(matches!(fault(&cert, &key, "garbage"), TlsError::Pem(pem::PemError::NoCertificate(..))));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(fault(broken, &key, &ca.pem), TlsError::Unusable(..)));
    assert!(matches!(fault(&cert, &key, broken), TlsError::BadCa(_)));
    let gone = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    std::fs::remove_file(folder.0.join("key.pem")).unwrap();
    let fault = set_up(&gone).map(|_| ()).unwrap_err();
    assert!(matches!(fault, TlsError::Pem(pem::PemError::Unreadable(..))));
    assert!(fault.to_string().contains("key.pem: cannot be read"), "{fault}");
}

#[test]
fn a_server_over_tls_needs_someone_to_trust() {
    let folder = Folder::new("no-trust");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let mut config = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    config.security.server.trusted_ca = None;
    assert!(matches!(set_up(&config), Err(TlsError::NoTrust(_))));
}

#[test]
fn a_name_that_nobody_can_ask_for_is_told_at_the_start() {
    let folder = Folder::new("bad-name");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let name = |name: &str| {
        let mut config = config(&folder, &cert, &key, &ca.pem, BY_NAME);
        config.devices.push(crate::config::Device {
            network: crate::config::Network { address: "192.0.2.0".parse().unwrap(), prefix_len: 24 },
            tls_name: Some(crate::config::Host::Name(name.to_owned())),
            verify: crate::config::Verify::Name,
            setup: None,
        });
        set_up(&config).map(|_| ())
    };
    name("device.example.com").unwrap();
    assert!(matches!(name("-device.example.com"), Err(TlsError::BadName(_))));
}
