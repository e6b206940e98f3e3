//! Throw-away certificates: one authority and a certificate for the loopback address, made for each test.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::Scratch;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate for the loopback addresses and for the phones' domain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in the test's folder.
    pub fn new(scratch: &Scratch) -> Self {
        Self::named(scratch, &[super::DOMAIN, "127.0.0.1", "127.0.0.2", "::1"])
    }

    /// The same for these names and addresses.
    pub fn named(scratch: &Scratch, names: &[&str]) -> Self {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::<String>::new()).expect("no names");
        ca.distinguished_name.push(DnType::CommonName, "Hawser test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "Hawser test");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");

        Self {
            ca: scratch.write("ca.pem", &ca_certificate.pem()),
            certificate: scratch.write("server.pem", &certificate.pem()),
            key: scratch.write("server.key", &key.serialize_pem()),
        }
    }
}
