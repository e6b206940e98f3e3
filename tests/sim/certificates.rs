//! TLS of all runs: one CA, made once.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use hawser::config::Config;
use hawser::tls::Tls;
use hawser::tls::tickets::TicketSecrets;
use rustls::{ClientConnection, Connection, ServerConnection};

/// How parties speak TLS.
#[derive(Clone)]
pub struct Clients {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

/// What a process has of it.
pub struct Certificates {
    pub proxy: Tls,
    pub parties: Clients,
}

impl Clients {
    pub fn connect(&self) -> Box<Connection> {
        let name = "proxy.example.com".try_into().expect("a name");
        Box::new(Connection::Client(ClientConnection::new(self.client.clone(), name).expect("a session")))
    }

    pub fn accept(&self) -> Box<Connection> {
        Box::new(Connection::Server(ServerConnection::new(self.server.clone()).expect("a session")))
    }
}

/// Those of this process.
pub fn certificates() -> &'static Certificates {
    static ALL: OnceLock<Certificates> = OnceLock::new();
    ALL.get_or_init(Certificates::new)
}

impl Certificates {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hawser-sim-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, "sim");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let ca = rcgen::CertifiedIssuer::self_signed(params, key).expect("a CA");
        let sign = |names: &[&str]| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let params = rcgen::CertificateParams::new(names).expect("parameters");
            (params.signed_by(&key, &ca).expect("a certificate"), key)
        };
        let (own, own_key) = sign(&["proxy.example.com"]);
        let write = |name: &str, text: String| -> PathBuf {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let (cert, key) = (write("cert.pem", own.pem()), write("key.pem", own_key.serialize_pem()));
        let authority = write("ca.pem", ca.pem());
        let text = format!(
            "[[sip-server]]\nname = \"sips1\"\nprimary = \"192.0.2.11:7000\"\ntransport = \"tls\"\n\
             [security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\ntrusted-ca = {authority:?}\n"
        );
        let secrets = TicketSecrets { server: [1; 32], endpoint: [2; 32] };
        let config = Config::parse(&text, "hawser.toml").expect("settings");
        let proxy = hawser::tls::setup::set_up(&config, &secrets, &Default::default()).expect("certificates").0;
        let _ = std::fs::remove_dir_all(&folder);
        let parties = parties(&ca, sign(&["192.0.2.11", "192.0.2.12", "sip.example.com", "sip1.example.com"]));
        Self { proxy, parties }
    }
}

fn parties(
    ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
    (cert, key): (rcgen::Certificate, rcgen::KeyPair),
) -> Clients {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate");
    Clients { client: Arc::new(client), server: Arc::new(server) }
}
