//! The program as an operator starts it: every fault ends it within 3 s, with a status that is not zero and one
//! line on stderr that says where the fault is.

mod log;
mod ports;
mod stop;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// DESIGN.md, Settings.
const START_FAULT_MAX: Duration = Duration::from_secs(3);

struct Ended {
    status: i32,
    out: String,
    err: String,
}

/// Runs the program to its end, and kills it when it has not ended in time.
fn hawser(arguments: &[&str]) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is there");
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (done, ended) = mpsc::channel();
    // Both pipes end with the process.
    let reader = thread::spawn(move || {
        let (mut out_text, mut err_text) = (String::new(), String::new());
        err.read_to_string(&mut err_text).expect("stderr is text");
        out.read_to_string(&mut out_text).expect("stdout is text");
        done.send(()).expect("the test waits");
        (out_text, err_text)
    });
    let in_time = ended.recv_timeout(START_FAULT_MAX).is_ok();
    if !in_time {
        child.kill().expect("it can be killed");
    }
    let status = child.wait().expect("it ends").code();
    let (out, err) = reader.join().expect("the reader ends");
    assert!(in_time, "{arguments:?} has not ended after {START_FAULT_MAX:?}: {out}{err}");
    Ended { status: status.expect("no signal ended it"), out, err }
}

/// A file of this test process, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hawser-start-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("the temporary directory can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("its name is text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// A port where UDP and TCP are both free.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = tcp.local_addr().expect("it is bound").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A configuration without TLS and HTTP on a free port.
fn plain(sip_port: u16) -> String {
    format!(
        "[sipproxy]\nsip-port = {sip_port}\ntls-port = 0\nhttp-port = 0\n\
         [[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:1\"\n"
    )
}

#[test]
fn faults_of_arguments_are_one_line_and_status_2() {
    for (arguments, line) in [
        (&[][..], "hawser: the following required arguments were not provided: --config <FILE> (see hawser --help)\n"),
        (&["--frob"], "hawser: unexpected argument '--frob' found (see hawser --help)\n"),
        (
            &["--config", "a", "--cores", "x"],
            "hawser: invalid value 'x' for '--cores <LIST>': expected \"all\" or numbers of cores such as \"0-3,6\" \
             (see hawser --help)\n",
        ),
    ] {
        let ended = hawser(arguments);
        assert_eq!((ended.status, ended.err.as_str(), ended.out.as_str()), (2, line, ""));
    }
}

#[test]
fn faults_of_the_file_are_one_line_and_status_1() {
    let bad = File::new("bad.toml", "[sipproxy]\n\nsticky = \"cookie\"\n");
    let good = File::new("good.toml", &plain(free_port()));
    let cores = File::new("cores.toml", &plain(free_port()).replacen("\n", "\ncores = \"65535\"\n", 1));
    let twice = File::new("twice.toml", "[sipproxy]\nsticky = \"path\"\nsticky = \"aor\"\n");
    let unknown = File::new("unknown.toml", "[sipproxy]\nstiky = \"path\"\n");
    let binary = File::new("binary.toml", "");
    fs::write(&binary.0, [0xff, 0xfe]).expect("it can be written");
    let missing = format!("{}-none", good.path());
    for (arguments, line) in [
        (
            vec!["--config", bad.path()],
            format!("{}:3: sipproxy.sticky: expected \"path\", \"contact\" or \"aor\"\n", bad.path()),
        ),
        (
            vec!["--config", bad.path(), "--check"],
            format!("{}:3: sipproxy.sticky: expected \"path\", \"contact\" or \"aor\"\n", bad.path()),
        ),
        (vec!["--config", &missing], format!("{missing}: cannot be read: No such file or directory (os error 2)\n")),
        (
            vec!["--config", binary.path()],
            format!("{}: cannot be read: stream did not contain valid UTF-8\n", binary.path()),
        ),
        (
            vec!["--config", good.path(), "--cores", "65535"],
            "--cores: expected cores that this process may run on, not 65535\n".to_owned(),
        ),
        (
            vec!["--config", cores.path()],
            format!("{}:2: sipproxy.cores: expected cores that this process may run on, not 65535\n", cores.path()),
        ),
        (vec!["--config", twice.path()], format!("{}:3: sipproxy.sticky: expected to be given once\n", twice.path())),
        (
            vec!["--config", unknown.path()],
            format!("{}:2: sipproxy.stiky: unknown key, did you mean sipproxy.sticky?\n", unknown.path()),
        ),
        (
            vec!["where", "alice@example.com", "--config", good.path()],
            "the proxy of this configuration cannot be asked: sipproxy.http-port is 0\n".to_owned(),
        ),
    ] {
        let ended = hawser(&arguments);
        assert_eq!((ended.status, ended.err, ended.out.as_str()), (1, line, ""), "{arguments:?}");
    }
}

#[test]
fn check_prints_what_would_run() {
    let port = free_port();
    let good = File::new("check.toml", &plain(port));
    let ended = hawser(&["--config", good.path(), "--check"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    assert!(ended.out.contains(&format!("UDP 127.0.0.1:{port}, as 127.0.0.1:{port}\n")), "{}", ended.out);
}

/// A self-signed certificate and its key, in files.
fn certificate(name: &str) -> (File, File) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["sip.example.com".to_owned(), "127.0.0.1".to_owned()];
    let params = rcgen::CertificateParams::new(names).expect("names");
    let certificate = params.self_signed(&key).expect("a certificate");
    (File::new(&format!("{name}.pem"), &certificate.pem()), File::new(&format!("{name}.key"), &key.serialize_pem()))
}

/// A configuration with a TLS port only, and UDP to the server from `sip_port`.
fn with_tls(sip_port: u16, certificate: &str, key: &str) -> String {
    let plain = plain(sip_port).replace("tls-port = 0", &format!("tls-port = {}", free_port()));
    format!("{plain}[security]\ncertificate = \"{certificate}\"\ncertificate-key = \"{key}\"\n")
}

#[test]
fn check_reads_certificates_and_says_what_is_in_them() {
    let (pem, key) = certificate("check");
    let good = File::new("check-tls.toml", &with_tls(free_port(), pem.path(), key.path()));
    let ended = hawser(&["--config", good.path(), "--check"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    for part in [pem.path(), "matches its key", "names DNS:sip.example.com, IP:127.0.0.1", "valid until "] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
}

/// A start and `--check` find the same faults of files, and name the file.
#[test]
fn faults_of_certificates_and_keys_are_one_line_that_names_the_file() {
    let (pem, key) = certificate("one");
    let (_, other_key) = certificate("two");
    let nothing = File::new("nothing.pem", "no certificate\n");
    let missing = format!("{}-none", pem.path());
    let with_token = |text: &str| {
        plain(free_port()).replacen("[sipproxy]\n", &format!("[sipproxy]\nflow-token-key-file = \"{text}\"\n"), 1)
    };
    for (text, named) in [
        (with_tls(free_port(), &missing, key.path()), missing.as_str()),
        (with_tls(free_port(), pem.path(), &missing), &missing),
        (with_tls(free_port(), nothing.path(), key.path()), nothing.path()),
        (with_tls(free_port(), pem.path(), nothing.path()), nothing.path()),
        (with_tls(free_port(), pem.path(), other_key.path()), other_key.path()),
        (with_token(nothing.path()), nothing.path()),
    ] {
        let file = File::new("faults.toml", &text);
        for arguments in [&["--config", file.path()][..], &["--config", file.path(), "--check"]] {
            let ended = hawser(arguments);
            assert_eq!((ended.status, ended.out.as_str()), (1, ""), "{}", ended.err);
            assert!(ended.err.contains(named), "{named}: {}", ended.err);
            assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let http = plain(free_port());
    for (text, address) in [
        (plain(udp.local_addr().expect("bound").port()), udp.local_addr().expect("bound")),
        (plain(tcp.local_addr().expect("bound").port()), tcp.local_addr().expect("bound")),
        (
            http.replace("http-port = 0", &format!("http-port = {}", tcp.local_addr().expect("bound").port())),
            tcp.local_addr().expect("bound"),
        ),
    ] {
        let file = File::new("port.toml", &text);
        let ended = hawser(&["--config", file.path()]);
        assert_eq!((ended.status, ended.out.as_str()), (1, ""), "{}", ended.err);
        assert!(ended.err.contains(&address.to_string()), "{address}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .arg("settings")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is there");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn help_and_settings_go_to_stdout() {
    for (argument, part) in [
        ("--help", "--config <FILE>"),
        ("--version", env!("CARGO_PKG_VERSION")),
        ("settings", "| `log.level` | `\"info\"` |"),
        ("settings", "\nFor a later release: "),
    ] {
        let ended = hawser(&[argument]);
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{argument}");
        assert!(ended.out.contains(part), "{}", ended.out);
    }
}
