//! linphonec as a TLS phone without a sound card, driven over its standard input. Its TLS is mbedTLS, which knows host
//! names in certificates and no addresses.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::certs::Certificates;
use super::ports::free_port;
use super::process::Process;
use super::proxy::page;
use super::{DOMAIN, START_MAX, Scratch};

const EVENT_MAX: Duration = Duration::from_secs(20);

/// A phone that verifies the proxy's certificate and answers every call by itself.
#[derive(Debug)]
pub struct Linphone(Process);

impl Linphone {
    /// Starts a phone for `user`, which registers through the proxy's TLS port at `localhost`, with a certificate and
    /// key of its own if there are any, and waits until the proxy knows it.
    pub fn start(
        scratch: &Scratch,
        user: &str,
        certificates: &Certificates,
        tls_port: u16,
        own: Option<(&Path, &Path)>,
        http: SocketAddr,
    ) -> Self {
        let folder = scratch.path().join(user);
        // Where its data base is; without the folder it has none and complains.
        std::fs::create_dir_all(folder.join(".local/share/linphone")).expect("a scratch folder");
        let mut settings = format!(
            "[sip]\nsip_port=0\nsip_tcp_port=0\nsip_tls_port={port}\nroot_ca={ca}\nverify_server_certs=1\n\
             verify_server_cn=1\ndefault_proxy=0\nguess_hostname=1\ncontact=\"{user}\" <sip:{user}@127.0.0.1>\n",
            port = free_port(),
            ca = certificates.ca.display(),
        );
        if let Some((certificate, key)) = own {
            writeln!(settings, "client_cert_chain={}\nclient_cert_key={}", certificate.display(), key.display())
                .expect("a String takes all");
        }
        writeln!(
            settings,
            "[proxy_0]\nreg_proxy=<sip:localhost:{tls_port};transport=tls>\n\
             reg_route=<sip:localhost:{tls_port};transport=tls;lr>\nreg_identity=sip:{user}@{DOMAIN}\n\
             reg_expires=60\nreg_sendregister=1\npublish=0\n[video]\nenabled=0"
        )
        .expect("a String takes all");
        let file = scratch.write(&format!("{user}/linphonerc"), &settings);
        let mut command = Command::new("linphonec");
        command.arg("-c").arg(file).arg("-a").env("HOME", &folder);
        let mut process = Process::start(&format!("linphonec {user}"), &command);
        let binding = format!("/where?aor={user}@{DOMAIN}");
        process.wait_until("registered", START_MAX, || {
            page(http, &binding).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        Self(process)
    }

    /// Waits until its call of that number (they count from 1) with this user is answered.
    pub fn wait_connected(&self, number: u32, user: &str) {
        self.0.wait_line(&format!("Call {number} with sip:{user}@{DOMAIN} connected"), EVENT_MAX);
    }

    /// Waits until it is over.
    pub fn wait_ended(&self, number: u32, user: &str) {
        self.0.wait_line(&format!("Call {number} with sip:{user}@{DOMAIN} ended"), EVENT_MAX);
    }
}
