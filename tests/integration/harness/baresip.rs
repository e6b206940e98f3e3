//! baresip as a TLS phone without a sound card: its audio is bridged back into itself, and it is driven over its
//! control port, whose messages are JSON in netstrings.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::certs::Certificates;
use super::ports::{Kind, free_port, is_bound};
use super::process::Process;
use super::{DOMAIN, START_MAX, Scratch};

/// How long a phone may take until an expected event.
const EVENT_MAX: Duration = Duration::from_secs(15);

/// A phone that verifies the proxy's certificate and answers every call by itself.
#[derive(Debug)]
pub struct Phone {
    name: String,
    control: TcpStream,
    received: Vec<u8>,
    events: Vec<Value>,
    process: Process,
}

impl Phone {
    /// Starts a phone for `user`, which registers through the proxy's TLS port.
    pub fn start(scratch: &Scratch, user: &str, certificates: &Certificates, tls_port: u16) -> Self {
        Self::start_with(scratch, user, certificates, tls_port, "")
    }

    /// The same with further lines of its configuration.
    pub fn start_with(scratch: &Scratch, user: &str, certificates: &Certificates, tls_port: u16, more: &str) -> Self {
        let control_port = free_port();
        let folder = scratch.path().join(user);
        std::fs::create_dir_all(&folder).expect("a scratch folder");
        scratch.write(
            &format!("{user}/config"),
            &format!(
                "poll_method epoll\nnet_interface 127.0.0.1\nsip_listen 127.0.0.1:0\nsip_cafile {ca}\n\
                 audio_player aubridge,{user}\naudio_source aubridge,{user}\naudio_alert aubridge,{user}\n\
                 module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule aubridge.so\nmodule_tmp uuid.so\n\
                 module_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
                 ctrl_tcp_listen 127.0.0.1:{control_port}\n{more}",
                ca = certificates.ca.display()
            ),
        );
        scratch.write(
            &format!("{user}/accounts"),
            &format!(
                "<sip:{user}@{DOMAIN};transport=tls>;outbound=\"sip:127.0.0.1:{tls_port};transport=tls\";\
                 regint=60;answermode=auto;auth_pass=unused\n"
            ),
        );
        scratch.write(&format!("{user}/contacts"), "");
        let mut command = Command::new("baresip");
        command.arg("-4").arg("-s").arg("-f").arg(&folder);
        let mut process = Process::start(&format!("baresip {user}"), &command);
        process.wait_until("listening", START_MAX, || is_bound(Kind::Tcp, control_port));
        let control = TcpStream::connect((Ipv4Addr::LOCALHOST, control_port)).expect("its control port");
        Self { name: user.to_owned(), control, received: Vec::new(), events: Vec::new(), process }
    }

    /// Waits until it is registered and shows so many bindings of its AOR.
    pub fn wait_bindings(&self, count: u32) {
        self.process.wait_line(&format!("[{count} binding"), EVENT_MAX);
    }

    /// Calls another phone.
    pub fn dial(&mut self, user: &str) {
        self.command("dial", &format!("sip:{user}@{DOMAIN}"));
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.command("hangup", "");
    }

    /// Calls another baresip; both say that the call stands.
    pub fn call(&mut self, other: &mut Self) {
        self.dial(&other.name);
        assert_eq!(self.wait_event("CALL_ESTABLISHED")["direction"], "outgoing");
        assert_eq!(other.wait_event("CALL_ESTABLISHED")["direction"], "incoming");
    }

    /// Ends the call with another one; both say so.
    pub fn end_call(&mut self, other: &mut Self) {
        self.hang_up();
        other.wait_event("CALL_CLOSED");
        self.wait_event("CALL_CLOSED");
    }

    /// Waits for an event of the call, such as `CALL_ESTABLISHED`, that has not been waited for before.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_event(&mut self, kind: &str) -> Value {
        let deadline = Instant::now() + EVENT_MAX;
        loop {
            if let Some(at) = self.events.iter().position(|event| event["type"] == kind) {
                return self.events.remove(at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: no {kind} within {EVENT_MAX:?}; only {:?}", self.name, self.events);
            self.read(left);
        }
    }

    fn command(&mut self, command: &str, params: &str) {
        let text = json!({ "command": command, "params": params }).to_string();
        write!(self.control, "{}:{text},", text.len()).expect("its control port takes bytes");
    }

    fn read(&mut self, within: Duration) {
        self.control.set_read_timeout(Some(within)).expect("a timeout above zero");
        let mut bytes = [0; 4096];
        match self.control.read(&mut bytes) {
            Ok(0) => panic!("{}: it has closed its control port", self.name),
            Ok(len) => self.received.extend_from_slice(&bytes[..len]),
            Err(_) => return,
        }
        while let Some((message, len)) = netstring(&self.received) {
            self.events.push(serde_json::from_slice(message).expect("JSON"));
            self.received.drain(..len);
        }
    }
}

/// The first whole netstring (`5:hello,`) and the length with its frame.
fn netstring(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let len: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let message = bytes.get(colon + 1..colon + 1 + len)?;
    (bytes.len() > colon + 1 + len).then_some((message, colon + len + 2))
}
