//! `client-aor`: phones with certificates made by OpenSSL register in their own names, and in no other's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::certificates::{Own, WITHIN, openssl, text};
use crate::harness::Scratch;
use crate::harness::datagrams::Datagrams;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::text::answer;

/// An authority and those whom it vouches for, all made by OpenSSL.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let authority = Self { folder: folder.to_owned() };
        authority.make("authority", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn make(&self, name: &str, more: &[&str]) -> Own {
        let own = Own { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        let subject = format!("/CN={name}");
        let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let out = ["-subj", &subject, "-keyout", text(&own.key), "-out", text(&own.certificate)];
        openssl(&[&request[..], &out, more].concat());
        own
    }

    /// A phone's, with this subjectAltName.
    fn issue(&self, name: &str, names: &str) -> Own {
        let (ca, key) = (self.path("authority.pem"), self.path("authority.key"));
        let names = format!("subjectAltName={names}");
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &names];
        self.make(name, &[&["-CA", text(&ca), "-CAkey", text(&key)][..], &leaf].concat())
    }
}

/// A request of a phone in the name of alice.
fn request(method: &str, port: u16, call_id: &str) -> String {
    format!(
        "{method} sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;rport;branch=z9hG4bK{call_id}\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContact: <sip:alice@127.0.0.1:{port};transport=tls>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_phone_registers_and_speaks_for_whom_its_certificate_covers() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("client-aor");
    let authority = Authority::new(scratch.path());
    let cases = [
        ("alice", "URI:sip:alice@example.com", [true, true]),
        ("bob", "URI:sip:bob@example.com", [false, false]),
        ("one-of-several", "URI:sip:bob@example.com,URI:sip:alice@example.com,DNS:phone1", [true, true]),
        ("domain", "DNS:example.com", [true, false]),
        ("elsewhere", "DNS:example.org", [false, false]),
        ("elsewhere-by-uri", "URI:sip:example.org,DNS:example.com", [false, false]),
    ];
    let owns = cases.map(|(name, names, _)| authority.issue(name, names));
    for (at, rule) in ["domain", "user"].into_iter().enumerate() {
        let mut settings = Settings::new(&scratch);
        settings.certificates.ca = authority.path("authority.pem");
        let server = Datagrams::bind(SocketAddr::from(([127, 0, 0, 1], settings.server_port)));
        let toml = format!("{}tls-mutual = 1\nclient-aor = {rule:?}\n", settings.toml());
        let proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);
        let port = proxy.settings.tls_port;
        let mut refused = 0.0;
        for ((name, _, wants), own) in cases.iter().zip(&owns) {
            for method in ["REGISTER", "MESSAGE"] {
                let what = format!("{method} of {name} by {rule}");
                let mut command = Command::new("openssl");
                command.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]);
                command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
                let mut phone = Process::start(&format!("openssl s_client, {what}"), &command);
                phone.write_stdin(request(method, port, &format!("{rule}{name}{method}")).as_bytes());
                if wants[at] {
                    let (received, from) = server.receive();
                    assert!(received.starts_with(method), "{what}: {received}");
                    server.send(from, &answer(&received, "200 OK", "s", ""));
                    phone.wait_line("SIP/2.0 200", WITHIN);
                } else {
                    phone.wait_line("SIP/2.0 403 Certificate Does Not Cover AOR", WITHIN);
                    refused += 1.0;
                }
            }
        }
        assert!((proxy.metric("hawser_refusals_total", "client_aor") - refused).abs() < 0.5);
        proxy.process.wait_line("; the certificate names sip:bob@example.com", WITHIN);
    }
}
