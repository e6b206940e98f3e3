//! Certificates, keys and CAs that change while Hawser runs.

use std::time::Instant;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Phone = StreamOwned<ClientConnection, TcpStream>;

/// A CA, and files with a certificate of it.
struct Certificates {
    folder: Folder,
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Certificates {
    fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        Self { folder: Folder::new(name), ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A new certificate and its key, in PEM.
    fn issue(&self) -> (String, String, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = cert.signed_by(&key, &self.ca).unwrap();
        (cert.pem(), key.serialize_pem(), cert.der().clone())
    }

    /// A new one in the files; gives what a phone sees of it.
    fn renew(&self) -> CertificateDer<'static> {
        let (cert, key, der) = self.issue();
        self.write("cert.pem", &cert);
        self.write("key.pem", &key);
        der
    }

    fn connect(&self, port: u16) -> Phone {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut phone =
            Phone::new(ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap(), socket);
        // RFC 5626 §4.4.1.
        phone.write_all(b"\r\n\r\n").unwrap();
        phone.read_exact(&mut [0; 2]).unwrap();
        phone
    }

    fn shown(&self, port: u16) -> CertificateDer<'static> {
        self.connect(port).conn.peer_certificates().unwrap()[0].clone()
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn get(port: u16, path: &str) -> String {
    let mut web = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    web.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(web, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn changed_files_are_taken_by_every_shard_and_a_bad_file_is_refused_while_the_old_serve_on() {
    let certificates = Certificates::new("reload");
    let first = certificates.renew();
    let (tls, http) = (free_port(), free_port());
    let (cert, key) = (certificates.path("cert.pem"), certificates.path("key.pem"));
    let security = format!("[security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\n");
    let config = config(free_port(), tls, http, &security);
    // Two shards, on one core if there is no other: a connection lands on either.
    let core = cores()[0];
    let running = Running::start(&config, &[core, core], Default::default()).unwrap();
    let mut old = certificates.connect(tls);
    assert_eq!(certificates.shown(tls), first);

    let second = certificates.renew();
    wait_until("the new certificate is shown", || certificates.shown(tls) == second);
    // Both shards have it within one mail; which one answers is the system's choice.
    wait_until("it is in use everywhere", || (0..16).all(|_| certificates.shown(tls) == second));
    let metrics = get(http, "/metrics");
    assert!(metrics.contains("hawser_tls_files_read_total{outcome=\"taken\"} 1\n"), "{metrics}");

    certificates.write("cert.pem", "half of a certi");
    let refused = "hawser_tls_files_read_total{outcome=\"refused\"} 1\n";
    wait_until("the bad file is refused", || get(http, "/metrics").contains(refused));
    assert_eq!(certificates.shown(tls), second);
    // The certificate of another key is waited out, and then it is there.
    let (cert, key, third) = certificates.issue();
    certificates.write("cert.pem", &cert);
    certificates.write("key.pem", &key);
    wait_until("the third is shown", || certificates.shown(tls) == third);

    // SIGHUP reads what has not changed.
    running.reload.read_again();
    let taken = "hawser_tls_files_read_total{outcome=\"taken\"} 3\n";
    wait_until("they are read again", || get(http, "/metrics").contains(taken));
    assert_eq!(certificates.shown(tls), third);
    // The connection of the first hour is as good as any.
    old.write_all(b"\r\n\r\n").unwrap();
    old.read_exact(&mut [0; 2]).unwrap();
    running.stop();
}

#[test]
fn handshakes_go_on_while_certificates_change_and_none_of_them_fails() {
    let certificates = Arc::new(Certificates::new("reload-load"));
    certificates.renew();
    let tls = free_port();
    let (cert, key) = (certificates.path("cert.pem"), certificates.path("key.pem"));
    let security = format!("[security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\n");
    let core = cores()[0];
    let running = Running::start(&config(free_port(), tls, 0, &security), &[core, core], Default::default()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let phones: Vec<_> = (0..3)
        .map(|_| {
            let (certificates, done) = (certificates.clone(), done.clone());
            std::thread::spawn(move || {
                let mut count = 0;
                // Each connection panics when its handshake or its ping fails.
                while !done.load(Ordering::SeqCst) {
                    drop(certificates.connect(tls));
                    count += 1;
                }
                count
            })
        })
        .collect();
    for at in 0..4 {
        if at == 2 {
            certificates.write("cert.pem", "half of a certi");
            certificates.write("key.pem", "");
        }
        let new = certificates.renew();
        wait_until("the new certificate is shown", || certificates.shown(tls) == new);
    }
    done.store(true, Ordering::SeqCst);
    for phone in phones {
        assert!(phone.join().expect("no handshake failed") > 0);
    }
    running.stop();
}
