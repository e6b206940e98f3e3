//! Certificates of all kinds, in both directions, against OpenSSL: who is let in, who is refused, and by which
//! reason that is counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose as Usage,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, date_time_ymd,
};

use crate::harness::ports::{Kind, free_port, is_bound};
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in, page};
use crate::harness::text::service_check;
use crate::harness::{Scratch, repository};

pub const WITHIN: Duration = Duration::from_secs(20);
/// What is not a reason, but the end of a handshake.
pub const FINE: &str = "fine";

/// An authority and the certificates that it has issued, as files.
pub struct Authority {
    folder: PathBuf,
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its chain, and its key.
#[derive(Clone)]
pub struct Own {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        scratch.write(&format!("{name}.ca.pem"), &pem);
        Self { folder: scratch.path().to_owned(), pem, issuer: Issuer::new(params, key) }
    }

    fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name);
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Self { folder: self.folder.clone(), pem, issuer: Issuer::new(params, key) }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("a scratch file");
        path
    }

    /// With a key of its own; `more` goes behind the certificate in its file.
    pub fn issue(&self, name: &str, more: &str, change: impl FnOnce(&mut CertificateParams)) -> Own {
        self.issue_for(name, &KeyPair::generate().expect("a key"), more, change)
    }

    fn issue_for(&self, name: &str, key: &KeyPair, more: &str, change: impl FnOnce(&mut CertificateParams)) -> Own {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let pem = params.signed_by(key, &self.issuer).expect("a certificate").pem();
        Own {
            certificate: self.write(&format!("{name}.pem"), &format!("{pem}{more}")),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// One that vouches for itself.
    fn itself(&self, name: &str) -> Own {
        let key = KeyPair::generate().expect("a key");
        let pem = Self::params(name).self_signed(&key).expect("a certificate").pem();
        Own {
            certificate: self.write(&format!("{name}.pem"), &pem),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// A list of the one serial number.
    pub fn revokes(&self, serial: u64) -> PathBuf {
        let revoked = RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        self.write("crl.pem", &list.pem().expect("PEM"))
    }
}

pub fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2020, 1, 1);
}

fn early(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2090, 1, 1);
    params.not_after = date_time_ymd(2091, 1, 1);
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("a URI"))
}

/// Runs OpenSSL to its end, for keys that rcgen does not make.
pub fn openssl(arguments: &[&str]) {
    let mut process = Process::start("openssl", Command::new("openssl").args(arguments));
    assert!(process.wait_exit(WITHIN).success(), "openssl {arguments:?}");
}

/// The settings of a proxy with further lines in `[security]`.
fn proxy(scratch: &Scratch, more: &str) -> Proxy {
    let settings = Settings::new(scratch);
    let toml = format!("{}{more}", settings.toml());
    Proxy::start_with(scratch, settings, "127.0.0.1".parse().expect("an address"), &toml)
}

/// Ends of handshakes of a side so far, by reason.
pub fn ends(http: SocketAddr, side: &str) -> BTreeMap<String, u64> {
    let page = page(http, "/metrics").expect("the HTTP port answers");
    let mut all = BTreeMap::new();
    for line in page.lines().filter(|line| line.contains(&format!("side=\"{side}\""))) {
        let reason = if line.starts_with("hawser_tls_handshakes_total") {
            FINE
        } else if line.starts_with("hawser_tls_handshake_failures_total") {
            let (_, rest) = line.split_once("reason=\"").expect("it has a reason");
            rest.split('"').next().expect("it ends")
        } else {
            continue;
        };
        let count: u64 = line.rsplit(' ').next().expect("a value").parse().expect("a number");
        *all.entry(reason.to_owned()).or_insert(0) += count;
    }
    all.retain(|_, count| *count > 0);
    all
}

/// How the handshake ends that `begin` begins.
fn end_of<T>(proxy: &mut Proxy, side: &str, what: &str, begin: impl FnOnce() -> T) -> (String, T) {
    let http = proxy.http;
    let before = ends(http, side);
    let begun = begin();
    let mut ended = None;
    proxy.process.wait_until(&format!("through with {what}"), WITHIN, || {
        ended = ends(http, side).into_iter().find(|(reason, count)| before.get(reason).copied().unwrap_or(0) < *count);
        ended.is_some()
    });
    (ended.expect("it was waited for").0, begun)
}

/// OpenSSL's client with a service check, and how its handshake ends at the proxy. One that is let in gets its 200.
pub fn call(proxy: &mut Proxy, what: &str, arguments: &[&str], want: &str) {
    let port = proxy.settings.tls_port;
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let (ended, client) = end_of(proxy, "endpoint", what, || {
        let mut client = Process::start(&format!("openssl s_client, {what}"), &command);
        client.try_write_stdin(service_check(port, "probe").as_bytes());
        client
    });
    assert_eq!(ended, want, "{what}");
    if want == FINE {
        client.wait_line("SIP/2.0 200", WITHIN);
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("its name is text")
}

#[test]
fn phones_without_certificates_are_let_in_or_refused_by_what_they_offer() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-open");
    let ca = Authority::new(&scratch, "phones");
    let own = ca.issue("phone", "", |_| {});
    let mut proxy = proxy(&scratch, "");
    let ours = proxy.settings.certificates.ca.clone();
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    let trusting = ["-verify_return_error", "-CAfile", text(&ours)];
    let weak = "DEFAULT@SECLEVEL=0";
    let cases: [(&str, &[&str], &str); 14] = [
        ("TLS 1.2", &["-tls1_2"], FINE),
        ("TLS 1.3", &["-tls1_3"], FINE),
        ("the name that it asks for", &["-servername", "example.com", "-verify_hostname", "example.com"], FINE),
        ("a certificate that nobody asked for", &["-cert", certificate, "-key", key], FINE),
        ("sip/2", &["-alpn", "sip/2"], FINE),
        ("sip/2 among others", &["-alpn", "h2,sip/2"], FINE),
        ("another protocol", &["-alpn", "h2"], "alpn"),
        ("TLS 1.1", &["-tls1_1", "-cipher", weak], "version"),
        ("TLS 1.0", &["-tls1", "-cipher", weak], "version"),
        ("no forward secrecy", &["-tls1_2", "-cipher", "AES128-GCM-SHA256"], "cipher"),
        ("CBC", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "cipher"),
        ("SHA-1 only", &["-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", weak], "signature"),
        ("no trust in our authority", &["-verify_return_error", "-no-CAfile", "-no-CApath"], "unknown_ca"),
        (
            "another name",
            &["-verify_return_error", "-CAfile", text(&ours), "-verify_hostname", "other.example"],
            "protocol",
        ),
    ];
    for (what, arguments, want) in cases {
        let all: Vec<&str> = match want {
            FINE => trusting.iter().chain(arguments).copied().collect(),
            _ => arguments.to_vec(),
        };
        call(&mut proxy, what, &all, want);
    }
    let to = ("127.0.0.1", proxy.settings.tls_port);
    let (ended, mut clear) = end_of(&mut proxy, "endpoint", "text in the clear", || {
        let mut clear = TcpStream::connect(to).expect("it listens");
        clear.write_all(b"OPTIONS sip:127.0.0.1 SIP/2.0\r\n\r\n").expect("it takes bytes");
        clear
    });
    assert_eq!(ended, "protocol");
    let mut answer = Vec::new();
    clear.set_read_timeout(Some(WITHIN)).expect("a deadline");
    clear.read_to_end(&mut answer).expect("it is closed");
    assert_eq!(answer.first(), Some(&21), "an alert, and no SIP in the clear");
    let (ended, ()) = end_of(&mut proxy, "endpoint", "a goodbye at once", || {
        drop(TcpStream::connect(to).expect("it listens"));
    });
    assert_eq!(ended, "reset");
}

#[test]
fn phones_with_certificates_of_all_kinds_are_let_in_or_refused_under_mutual_tls() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-mutual");
    let (ca, stranger) = (Authority::new(&scratch, "phones"), Authority::new(&scratch, "stranger"));
    let sub = ca.intermediate("sub");
    let crl = ca.revokes(7);
    ca.write("phones.key", &ca.issuer.key().serialize_pem());
    // Without any, OpenSSL makes certificates of X.509 version 1.
    let extensions = ca.write("extensions", "subjectAltName = DNS:phone.example.com\n");
    let extensions = text(&extensions);
    let signed = |name: &str, kind: &[&str], digest: &str, extensions: &str| {
        let path = |end: &str| scratch.path().join(format!("{name}.{end}"));
        let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
        openssl(&[&["genpkey", "-out", text(&key), "-algorithm"], kind].concat());
        openssl(&["req", "-new", "-key", text(&key), "-subj", "/CN=phone", "-out", text(&request)]);
        let (authority, its_key) = (scratch.path().join("phones.ca.pem"), scratch.path().join("phones.key"));
        let by = ["x509", "-req", "-in", text(&request), "-CA", text(&authority), "-CAkey", text(&its_key)];
        let more = ["-CAcreateserial", "-days", "2", digest, "-extfile", extensions, "-out", text(&certificate)];
        openssl(&[&by[..], &more[..]].concat());
        Own { certificate, key }
    };
    let rsa = |bits: &'static str| ["RSA", "-pkeyopt", bits];
    let (rsa2048, rsa1024) = (rsa("rsa_keygen_bits:2048"), rsa("rsa_keygen_bits:1024"));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let usage = |usages: &[Usage]| {
        let usages = usages.to_vec();
        move |params: &mut CertificateParams| params.extended_key_usages = usages
    };
    let cases = [
        ("for clients", ca.issue("client", "", usage(&[Usage::ClientAuth])), FINE, FINE),
        ("without a usage", ca.issue("plain", "", |_| {}), FINE, FINE),
        ("for both", ca.issue("both", "", usage(&[Usage::ServerAuth, Usage::ClientAuth])), FINE, FINE),
        ("for servers", ca.issue("for-servers", "", usage(&[Usage::ServerAuth])), "usage", FINE),
        ("for code", ca.issue("code", "", usage(&[Usage::CodeSigning])), "usage", "usage"),
        ("P-384", ca.issue_for("p384", &p384, "", |_| {}), FINE, FINE),
        ("Ed25519", signed("ed25519", &["ed25519"], "-sha256", extensions), FINE, FINE),
        ("RSA of 2,048 bits", signed("rsa2048", &rsa2048, "-sha256", extensions), FINE, FINE),
        ("RSA of 1,024 bits", signed("rsa1024", &rsa1024, "-sha256", extensions), "signature", "signature"),
        ("signed with SHA-1", signed("sha1", &rsa2048, "-sha1", extensions), "signature", "signature"),
        ("X.509 version 1", signed("v1", &rsa2048, "-sha256", "/dev/null"), "protocol", "protocol"),
        ("by way of another", sub.issue("chained", &sub.pem, |_| {}), FINE, FINE),
        ("without the one between", sub.issue("unchained", "", |_| {}), "unknown_ca", "unknown_ca"),
        ("expired", ca.issue("expired", "", expired), "expired", "expired"),
        ("early", ca.issue("early", "", early), "not_yet_valid", "not_yet_valid"),
        ("a stranger's", stranger.issue("strange", "", |_| {}), "unknown_ca", "unknown_ca"),
        ("its own", ca.itself("itself"), "self_signed", "self_signed"),
        ("revoked", ca.issue("revoked", "", |params| params.serial_number = Some(7_u64.into())), "revoked", "revoked"),
    ];
    for (eku, at) in [("strict", 0), ("any", 1)] {
        let trusted = scratch.path().join("phones.ca.pem");
        let more = format!("tls-mutual = 1\ncrl = {crl:?}\nclient-eku = {eku:?}\n");
        let settings = Settings::new(&scratch);
        let toml = settings.toml().replace(&format!("{:?}", settings.certificates.ca), &format!("{trusted:?}"));
        let http = "127.0.0.1".parse().expect("an address");
        let mut proxy = Proxy::start_with(&scratch, settings, http, &format!("{toml}{more}"));
        for version in ["-tls1_2", "-tls1_3"] {
            call(&mut proxy, &format!("none, {version}"), &[version], "none");
            for (what, own, strict, any) in &cases {
                let want = [strict, any][at];
                // OpenSSL itself would refuse weak keys and SHA-1.
                let arguments = [version, "-cipher", "DEFAULT@SECLEVEL=0", "-cert", text(&own.certificate)];
                let chain = ["-cert_chain", text(&own.certificate), "-key", text(&own.key)];
                call(&mut proxy, &format!("{what}, {version}, {eku}"), &[&arguments[..], &chain].concat(), want);
            }
        }
    }
}

/// A case for a server's certificate: what it is, itself, the lines of `[[sip-server]]`, and the end of the handshake.
type ServerCase<'a> = (&'a str, Own, &'a str, &'a str);

#[test]
fn servers_with_certificates_of_all_kinds_are_taken_or_refused() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-server");
    let (ca, stranger) = (Authority::new(&scratch, "servers"), Authority::new(&scratch, "stranger"));
    let sub = ca.intermediate("sub");
    let crl = ca.revokes(7);
    let named =
        |name: &'static str, names: Vec<SanType>| ca.issue(name, "", move |params| params.subject_alt_names = names);
    let ip = SanType::IpAddress("127.0.0.1".parse().expect("an address"));
    let with_ip = |params: &mut CertificateParams| params.subject_alt_names = vec![ip.clone()];
    let and = |change: fn(&mut CertificateParams)| {
        let ip = ip.clone();
        move |params: &mut CertificateParams| {
            params.subject_alt_names = vec![ip];
            change(params);
        }
    };
    let tls_name = "tls-name = \"sips1.example.com\"";
    let domain = "tls-name = \"example.com\"";
    let chain = "tls-name = \"sips1.example.com\"\nverify = \"chain\"";
    let cases: Vec<ServerCase<'_>> = vec![
        ("its address", ca.issue("address", "", with_ip), "", FINE),
        ("no address", named("nobody", vec![dns("sips1.example.com")]), "", "name"),
        (
            "another's address",
            named("other-ip", vec![SanType::IpAddress("127.0.0.2".parse().expect("one"))]),
            "",
            "name",
        ),
        ("its name", named("name", vec![dns("other.example.com"), dns("SIPS1.example.com")]), tls_name, FINE),
        ("another's name", named("other-name", vec![dns("sips2.example.com")]), tls_name, "name"),
        ("a wildcard", named("wildcard", vec![dns("*.example.com")]), tls_name, "name"),
        ("its domain's URI", named("uri", vec![uri("sip:example.com")]), domain, FINE),
        ("a person's URI", named("person", vec![uri("sip:a@example.com")]), domain, "name"),
        (
            "a URI that hides its name",
            named("hidden", vec![uri("sip:example.com"), dns("sips1.example.com")]),
            tls_name,
            "name",
        ),
        ("a CN only", ca.issue("sips1.example.com", "", |_| {}), tls_name, "name"),
        ("any name of the chain", named("any", vec![dns("sips2.example.com")]), chain, FINE),
        ("by way of another", sub.issue("chained", &sub.pem, with_ip), "", FINE),
        ("expired", ca.issue("expired", "", and(expired)), "", "expired"),
        ("expired, whatever its name", ca.issue("expired-chain", "", expired), chain, "expired"),
        ("early", ca.issue("early", "", and(early)), "", "not_yet_valid"),
        ("a stranger's", stranger.issue("strange", "", with_ip), "", "unknown_ca"),
        ("a stranger's, whatever its name", stranger.issue("strange-chain", "", |_| {}), chain, "unknown_ca"),
        ("its own", ca.itself("itself"), "", "self_signed"),
        ("for clients", ca.issue("client", "", and(|p| p.extended_key_usages = vec![Usage::ClientAuth])), "", "usage"),
        ("revoked", ca.issue("revoked", "", and(|p| p.serial_number = Some(7_u64.into()))), "", "revoked"),
    ];
    for mutual in [0, 1] {
        let ours = ca.issue("ours", "", |params| params.subject_alt_names = vec![ip.clone()]);
        for (what, own, lines, want) in &cases {
            server_case(&scratch, mutual, (what, own.clone(), lines, want), &ours, &crl, &[]);
        }
        let good = &cases[0].1;
        for (what, options, want) in [
            ("TLS 1.1", ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "version"),
            ("no forward secrecy", ["-tls1_2", "-cipher", "AES128-GCM-SHA256"], "cipher"),
            ("TLS 1.2", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], FINE),
        ] {
            server_case(&scratch, mutual, (what, good.clone(), "", want), &ours, &crl, &options);
        }
    }
}

#[test]
fn a_server_that_refuses_our_certificate_is_counted_and_told_although_the_handshake_was_over_for_us() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-refused");
    let (ca, stranger) = (Authority::new(&scratch, "servers"), Authority::new(&scratch, "stranger"));
    let crl = ca.revokes(7);
    let ip = SanType::IpAddress("127.0.0.1".parse().expect("an address"));
    let named = |params: &mut CertificateParams| params.subject_alt_names = vec![ip.clone()];
    let (theirs, ours) = (ca.issue("theirs", "", named), stranger.issue("ours", "", named));
    for version in ["-tls1_3", "-tls1_2"] {
        let case = (version, theirs.clone(), "", "unknown_ca");
        let (_server, mut proxy) = server_and_proxy(&scratch, 1, &case, &ours, &crl, &[version]);
        let http = proxy.http;
        proxy.process.wait_until(version, WITHIN, || ends(http, "server").contains_key("unknown_ca"));
        proxy.process.wait_line(&format!("shown the certificate in {}", text(&ours.certificate)), WITHIN);
    }
}

/// OpenSSL as the SIP Server, whom the proxy asks for its health as soon as it has started.
fn server_case(scratch: &Scratch, mutual: u8, case: ServerCase<'_>, ours: &Own, crl: &Path, options: &[&str]) {
    let (_server, mut proxy) = server_and_proxy(scratch, mutual, &case, ours, crl, options);
    let (http, (what, _, _, want)) = (proxy.http, case);
    let what = format!("{what}, mutual {mutual}");
    proxy.process.wait_until(&format!("through with {what}"), WITHIN, || !ends(http, "server").is_empty());
    // It goes on asking; what ends otherwise would stand beside the reason.
    let reasons: Vec<_> = ends(http, "server").into_keys().collect();
    assert_eq!(reasons, [want], "{what}");
}

/// Both, started. With `mutual` the server asks for our certificate.
fn server_and_proxy(
    scratch: &Scratch,
    mutual: u8,
    (what, own, lines, _): &ServerCase<'_>,
    ours: &Own,
    crl: &Path,
    options: &[&str],
) -> (Process, Proxy) {
    let trusted = scratch.path().join("servers.ca.pem");
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")]).args(options);
    command.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key).arg("-cert_chain").arg(&own.certificate);
    if mutual == 1 {
        command.args(["-Verify", "2", "-verify_return_error", "-CAfile"]).arg(&trusted);
    }
    let mut server = Process::start(&format!("openssl s_server, {what}"), &command);
    server.wait_until("listening", WITHIN, || is_bound(Kind::Tcp, port));
    let mut settings = Settings { server_port: port, internal_protocol: "tls", oos_check: 5, ..Settings::new(scratch) };
    settings.certificates.ca.clone_from(&trusted);
    settings.certificates.certificate.clone_from(&ours.certificate);
    settings.certificates.key.clone_from(&ours.key);
    let toml = settings.toml().replace("\n[security]\n", &format!("{lines}\n[security]\n"));
    let toml = format!("{toml}tls-mutual = {mutual}\ncrl = {crl:?}\n");
    (server, Proxy::start_with(scratch, settings, "127.0.0.1".parse().expect("an address"), &toml))
}

#[test]
fn keys_and_chains_in_all_the_forms_that_people_have_are_taken() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-forms");
    let path = |name: &str| scratch.path().join(name);
    let make = |name: &str, key: &[&str]| {
        let file = path(&format!("{name}.key"));
        openssl(&[key, &["-out", text(&file)]].concat());
        let certificate = path(&format!("{name}.pem"));
        let request = ["req", "-x509", "-new", "-key", text(&file), "-subj", "/CN=proxy", "-days", "2"];
        let more = ["-passin", "pass:secret", "-addext", "subjectAltName=DNS:example.com", "-out", text(&certificate)];
        openssl(&[&request[..], &more[..]].concat());
        Own { certificate, key: file }
    };
    let mut forms = vec![
        ("PKCS#1", make("pkcs1", &["genrsa", "-traditional"]), ""),
        ("PKCS#8 of RSA", make("pkcs8", &["genpkey", "-algorithm", "RSA"]), ""),
        ("SEC1 with its parameters", make("sec1", &["ecparam", "-name", "prime256v1", "-genkey"]), ""),
        ("SEC1 of P-384", make("sec1-384", &["ecparam", "-name", "secp384r1", "-genkey", "-noout"]), ""),
        ("Ed25519", make("ed25519", &["genpkey", "-algorithm", "ed25519"]), ""),
        (
            "RSA of 1,024 bits",
            make("rsa1024", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
            "rsa1024.key: cannot be used",
        ),
        (
            "encrypted PKCS#8",
            make("encrypted", &["genpkey", "-algorithm", "RSA", "-aes256", "-pass", "pass:secret"]),
            "encrypted.key: holds an encrypted private key",
        ),
        (
            "encrypted PKCS#1",
            make("encrypted1", &["genrsa", "-traditional", "-aes256", "-passout", "pass:secret"]),
            "encrypted1.key: holds an encrypted private key",
        ),
    ];
    let (first, second) = (forms[0].1.clone(), forms[1].1.clone());
    let swapped = Own { key: second.key, ..first.clone() };
    forms.push(("another's key", swapped, "pkcs8.key: is not the key of the certificate in"));
    let none = Own { key: first.certificate.clone(), ..first };
    forms.push(("no key", none, "pkcs1.pem: holds no private key"));
    for (what, own, fault) in forms {
        let mut settings = Settings::new(&scratch);
        settings.certificates.certificate = own.certificate;
        settings.certificates.key = own.key;
        let file = scratch.write("hawser.toml", &settings.toml());
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
        command.arg("--config").arg(&file).arg("--check");
        let mut check = Process::start(&format!("hawser --check, {what}"), &command);
        assert_eq!(check.wait_exit(WITHIN).success(), fault.is_empty(), "{what}: {:?}", check.errors());
        assert!(fault.is_empty() || check.errors().join("\n").contains(fault), "{what}: {:?}", check.errors());
    }
}

#[test]
fn a_trial_ca_vouches_for_proxy_and_phone_and_takes_a_phone_back_while_the_proxy_runs() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("certificates-make");
    let trial = scratch.path().join("trial");
    let make = |words: &[&str]| {
        let mut command = Command::new(repository("scripts/make-certs"));
        let mut script = Process::start("make-certs", command.arg("--dir").arg(&trial).args(words));
        assert!(script.wait_exit(WITHIN).success(), "{words:?}");
    };
    make(&["server", "proxy", "sip:example.com", "proxy.example.com", "127.0.0.1"]);
    make(&["phone", "alice", "alice.example.com"]);
    make(&["phone", "bob", "bob.example.com"]);
    // A list that names nobody of these, so that there is a file from the start.
    make(&["phone", "carol", "carol.example.com"]);
    make(&["revoke", "carol"]);
    let file = |name: &str| trial.join(name);
    let mut settings = Settings::new(&scratch);
    settings.certificates.ca = file("ca.pem");
    settings.certificates.certificate = file("proxy.pem");
    settings.certificates.key = file("proxy.key");
    let toml = format!("{}tls-mutual = 1\ncrl = {:?}\n", settings.toml(), file("crl.pem"));
    let mut proxy = Proxy::start_with(&scratch, settings, "127.0.0.1".parse().expect("an address"), &toml);
    let ca = file("ca.pem");
    let trusting = ["-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile", text(&ca)];
    let phone = |proxy: &mut Proxy, name: &str, want: &str| {
        let (certificate, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let own = ["-cert", text(&certificate), "-key", text(&key)];
        call(proxy, name, &[&trusting[..], &own].concat(), want);
    };
    phone(&mut proxy, "alice", FINE);
    phone(&mut proxy, "carol", "revoked");
    make(&["revoke", "alice"]);
    let http = proxy.http;
    proxy.process.wait_until("aware of the new list", WITHIN, || {
        page(http, "/metrics").is_some_and(|page| page.contains("hawser_tls_files_read_total{outcome=\"taken\"} 1"))
    });
    phone(&mut proxy, "alice", "revoked");
    phone(&mut proxy, "bob", FINE);
}
