//! `hawser where AOR`: asks a running proxy, and lays out what it says for reading.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::ask::{AskError, Proxy};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum LocateError {
    /// The proxy cannot be asked.
    Ask(AskError),
    /// The phone has no binding here.
    NotFound(String),
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(fault) => fault.fmt(f),
            Self::NotFound(aor) => write!(f, "{aor}: not registered through this proxy"),
        }
    }
}

impl From<AskError> for LocateError {
    fn from(fault: AskError) -> Self {
        Self::Ask(fault)
    }
}

/// Asks a proxy and gives its answer as a table.
pub(super) fn locate(aor: &str, proxy: &Proxy) -> Result<String, LocateError> {
    let (status, body) = proxy.ask("GET", &format!("/where?aor={}", escaped(aor)))?;
    match status {
        // 404 is also what another server says to a path that it does not know.
        200 | 404 => match serde_json::from_slice(&body) {
            Ok(Value::Array(bindings)) if bindings.is_empty() => Err(LocateError::NotFound(aor.to_owned())),
            Ok(Value::Array(bindings)) => Ok(table(&bindings)),
            _ => Err(proxy.not_hawser().into()),
        },
        status => Err(proxy.status(status).into()),
    }
}

/// RFC 3986 §2.3: all but the unreserved characters.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => write!(escaped, "%{byte:02X}").unwrap_or_default(),
        }
    }
    escaped
}

/// The fields of a binding in the order of interest; others follow.
const FIELDS: [&str; 10] =
    ["aor", "contact", "instance", "shard", "conn", "transport", "peer", "certificate", "expires_in_s", "age_s"];

/// Each binding as a block of `name  value`; a phone has one or two, and a row of all that would be too wide.
fn table(bindings: &[Value]) -> String {
    let mut out = String::new();
    for binding in bindings.iter().filter_map(Value::as_object) {
        let known = FIELDS.iter().filter_map(|name| binding.get(*name).map(|value| (*name, value)));
        let others = binding.iter().map(|(name, value)| (name.as_str(), value));
        let others = others.filter(|(name, _)| !FIELDS.contains(name));
        if !out.is_empty() {
            out.push('\n');
        }
        for (name, value) in known.chain(others) {
            let name = name.replace('_', " ");
            // Writing to a String does not fail.
            writeln!(out, "{name:<12}  {}", cell(value)).unwrap_or_default();
        }
    }
    out
}

/// A value without line breaks or control characters: some of it comes from phones, and goes to a terminal.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::abuse::{self, BanRow};
    use crate::admin::{self, About, Readiness, Source};
    use crate::engine::Located;
    use crate::ids::{ConnId, FlowRef, PointId, ShardId, Transport};
    use crate::server_pool::{Member, PinFault};
    use crate::stats::{PairRow, Snapshot};

    fn asked(aor: &str, http: &str) -> Result<String, LocateError> {
        locate(aor, &Proxy::at(http)?)
    }

    /// Answers one request with `answer`.
    fn serve_once(answer: &'static [u8]) -> (String, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut chunk).unwrap();
                assert_ne!(n, 0, "the request ends early");
                request.extend_from_slice(&chunk[..n]);
            }
            stream.write_all(answer).unwrap();
        });
        (address, served)
    }

    /// A proxy that holds one phone, with two bindings.
    struct OnePhone;

    impl Source for OnePhone {
        fn snapshots(&self) -> Vec<Snapshot> {
            Vec::new()
        }

        fn locate(&self, aor: &str) -> Option<Vec<Located>> {
            let located = |contact: &str, flow| Located {
                aor: aor.to_owned(),
                contact: contact.to_owned(),
                instance: String::new(),
                flow,
                transport: Transport::Tls,
                peer: "[2001:db8::7]:41000".parse().unwrap(),
                certificate: vec!["sip:phones.example.com".to_owned(), "dns:a.example.com".to_owned()],
                expires_in: Duration::from_secs(3599),
                age: Duration::from_secs(1),
            };
            let stream =
                FlowRef::Stream { shard: ShardId(1), conn: ConnId { slot: 5, generation: 9 }, point: PointId(2) };
            let udp = FlowRef::Udp { shard: ShardId(0), point: PointId(0), remote: "192.0.2.7:5060".parse().unwrap() };
            let here = aor == "sip:alice;\u{fc}&@example.com";
            Some(if here { vec![located("sip:a@b", stream), located("sip:\u{1b}[2J", udp)] } else { Vec::new() })
        }

        fn pairs(&self) -> Option<Vec<PairRow>> {
            None
        }

        fn pin(&self, _: &str, _: Option<Member>) -> Option<Result<(), PinFault>> {
            None
        }

        fn bans(&self) -> Option<Vec<BanRow>> {
            None
        }

        fn unban(&self, _: abuse::Source) -> Option<bool> {
            None
        }

        fn running(&self) -> (usize, usize) {
            (1, 1)
        }

        fn pairs_answering(&self) -> Option<(usize, usize)> {
            None
        }

        fn readiness(&self) -> Readiness {
            Readiness::Ready
        }

        fn about(&self) -> About {
            About {
                version: String::new(),
                uptime: Duration::ZERO,
                shards: 2,
                driver: String::new(),
                listeners: Vec::new(),
                server: String::new(),
                sticky: String::new(),
                tls_files: crate::admin::TlsFiles::default(),
                log_lost: 0,
            }
        }
    }

    #[test]
    fn a_running_proxy_says_where_a_phone_is() {
        let admin =
            admin::start(TcpListener::bind("127.0.0.1:0").unwrap(), OnePhone, admin::Access::default()).unwrap();
        let http = admin.address().to_string();
        let table = asked("sip:alice;\u{fc}&@example.com", &http).unwrap();
        let first = "aor           sip:alice;\u{fc}&@example.com\ncontact       sip:a@b\ninstance      -\n\
                     shard         1\nconn          5.9\ntransport     tls\npeer          [2001:db8::7]:41000\n\
                     certificate   sip:phones.example.com, dns:a.example.com\n\
                     expires in s  3599\nage s         1\n\n";
        assert_eq!(table[..first.len()], *first);
        assert!(table[first.len()..].contains("contact       sip:?[2J\n"), "{table}");
        assert!(matches!(asked("sip:bob@example.com", &http), Err(LocateError::NotFound(_))));
    }

    #[test]
    fn a_token_that_is_asked_for_is_told() {
        let token = admin::Token::new("0123456789abcdef");
        let admin = admin::start(
            TcpListener::bind("127.0.0.1:0").unwrap(),
            OnePhone,
            admin::Access { token, ..admin::Access::default() },
        )
        .unwrap();
        let refused = asked("a", &admin.address().to_string());
        assert!(matches!(refused, Err(LocateError::Ask(AskError::Unauthorized(_)))));
    }

    #[test]
    fn another_status_is_told() {
        let (http, served) = serve_once(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert!(matches!(asked("a", &http), Err(LocateError::Ask(AskError::Status(_, 503)))));
        served.join().unwrap();
    }

    #[test]
    fn another_server_is_told_apart() {
        for answer in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n<html>",
            b"HTTP/1.1 404 No\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\n",
            b"",
        ] {
            let (http, served) = serve_once(answer);
            assert!(matches!(asked("a", &http), Err(LocateError::Ask(AskError::NotHawser(_)))), "{answer:?}");
            served.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_told() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(asked("a", &address.to_string()), Err(LocateError::Ask(AskError::Unreachable(..)))));
        assert!(matches!(asked("a", "127.0.0.1"), Err(LocateError::Ask(AskError::Address(_)))));
    }
}
