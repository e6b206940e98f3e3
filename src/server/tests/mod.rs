//! Starts that fail, with the words that an operator reads; one that succeeds, with real sockets.

mod reload;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hawser-server-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A certificate and another one's key.
    fn certificates(&self) -> (PathBuf, PathBuf, PathBuf) {
        let make = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
            (cert.pem(), key.serialize_pem())
        };
        let ((cert, key), (_, other)) = (make(), make());
        let write = |name: &str, text: String| {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        (write("cert.pem", cert), write("key.pem", key), write("other.pem", other))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that was free a moment ago, for UDP and TCP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn config(sip: u16, tls: u16, http: u16, more: &str) -> Config {
    let text = format!(
        "[sipproxy]\nsip-port = {sip}\ntls-port = {tls}\nhttp-port = {http}\n\
         [[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:9\"\n{more}"
    );
    Config::parse(&text, "hawser.toml").unwrap()
}

fn cores() -> Vec<usize> {
    crate::cli::cores_available().unwrap().into_iter().take(1).collect()
}

fn refusal(config: &Config, cores: &[usize]) -> String {
    let refusal =
        Running::start(config, cores, Default::default()).map(Running::stop).expect_err("it cannot start").to_string();
    assert!(!refusal.contains('\n'), "one line: {refusal}");
    refusal
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = refusal(&config(port, 0, 0, ""), &cores());
    assert!(said.starts_with(&format!("udp 127.0.0.1:{port}: cannot be bound: ")), "{said}");
    assert!(said.ends_with("(another process listens there: stop it, or change the port)"), "{said}");
    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = http.local_addr().unwrap().port();
    let said = refusal(&config(free_port(), 0, port, ""), &cores());
    assert!(said.starts_with(&format!("http 127.0.0.1:{port}: cannot be bound: ")), "{said}");
}

#[test]
fn a_key_of_another_certificate_and_a_missing_file_are_named() {
    let folder = Folder::new("mismatch");
    let (cert, _, other) = folder.certificates();
    let security = |key: &Path| format!("[security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\n");
    let mismatch = config(free_port(), free_port(), 0, &security(&other));
    let said = refusal(&mismatch, &cores());
    assert_eq!(said, format!("{}: is not the key of the certificate in {}", other.display(), cert.display()));
    assert_eq!(check(&mismatch, &cores()).unwrap_err().to_string(), said, "--check finds it too");
    let gone = folder.0.join("gone.pem");
    let said = refusal(&config(free_port(), free_port(), 0, &security(&gone)), &cores());
    assert!(said.starts_with(&format!("{}: cannot be read: ", gone.display())), "{said}");
}

#[test]
fn garbage_as_key_of_flow_tokens_and_too_many_cores_stop_the_start() {
    let folder = Folder::new("key");
    let path = folder.0.join("flow.key");
    std::fs::write(&path, "secret").unwrap();
    let text = format!(
        "[sipproxy]\nsip-port = {}\ntls-port = 0\nhttp-port = 0\nflow-token-key-file = {path:?}\n\
         [[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:9\"\n",
        free_port()
    );
    let said = refusal(&Config::parse(&text, "hawser.toml").unwrap(), &cores());
    assert!(said.starts_with(&format!("{}: expected the 64 hex digits", path.display())), "{said}");
    let token = text.replace("http-port = 0", &format!("http-port = {}", free_port()));
    let token = Config::parse(&token.replace("flow-token-key-file", "http-token-file"), "hawser.toml").unwrap();
    let said = refusal(&token, &cores());
    assert!(said.starts_with(&format!("{}: expected a bearer token", path.display())), "{said}");
    assert_eq!(check(&token, &cores()).unwrap_err().to_string(), said, "--check finds it too");
    let config = config(free_port(), 0, 0, "");
    assert_eq!(refusal(&config, &[]), "cores: none to run on");
    assert_eq!(refusal(&config, &[0; 65]), "cores: 65 are too many, 64 are the most");
}

#[test]
fn refusals_of_the_system_name_the_mend() {
    let io_uring = |disabled: &str| {
        let fault = io::Error::from_raw_os_error(libc::EPERM);
        StartError::IoUring { call: "io_uring_setup", disabled: disabled.to_owned(), fault }.to_string()
    };
    assert!(io_uring("2").contains("kernel.io_uring_disabled is 2: set it to 0"));
    assert!(io_uring("0").contains("seccomp"));
    assert!(StartError::Memlock { soft: 65_536 }.to_string().contains("only 64 KiB"));
    assert!(StartError::Memlock { soft: 65_536 }.to_string().contains("LimitMEMLOCK=64M"));
    assert!(StartError::Descriptors { soft: 100, needed: 352 }.to_string().contains("LimitNOFILE"));
}

#[test]
fn a_start_listens_on_every_port_and_a_stop_lets_go_of_them() {
    let folder = Folder::new("start");
    let (cert, key, _) = folder.certificates();
    let (sip, tls, http) = (free_port(), free_port(), free_port());
    let security = format!("[security]\ncertificate = {cert:?}\ncertificate-key = {key:?}\n");
    let config = config(sip, tls, http, &security);
    let running = Running::start(&config, &cores(), Default::default()).unwrap();
    let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    phone.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    phone.send_to(b"\r\n\r\n", (Ipv4Addr::LOCALHOST, sip)).unwrap();
    // With a timeout set, the system does not begin again what the work of an io_uring has interrupted.
    let pong = loop {
        match phone.recv(&mut [0; 10]) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    assert_eq!(pong, 2);
    for port in [sip, tls] {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
    let mut web = TcpStream::connect((Ipv4Addr::LOCALHOST, http)).unwrap();
    web.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    web.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let second = refusal(&config, &cores());
    assert!(second.contains("another process listens there"), "{second}");
    running.stop();
}
