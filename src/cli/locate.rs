//! `hawser where AOR`: asks a running proxy's HTTP port, and lays out what it says for reading.
//!
//! A client for this one question, so that the program needs no HTTP client library: HTTP/1.0, whose answers end
//! with the connection and are never chunked. It does not follow redirects and speaks no TLS.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Config;

/// The whole exchange, from connect to the last byte.
const EXCHANGE_MAX: Duration = Duration::from_secs(3);
const ANSWER_LEN_MAX: u64 = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum LocateError {
    /// The configuration has `http-port = 0`.
    HttpOff,
    /// Not HOST:PORT, or a name that does not resolve.
    Address(String),
    /// Nobody answers there.
    Unreachable(SocketAddr, io::Error),
    /// What answers there is no HTTP server, or not ours.
    NotHawser(SocketAddr),
    /// An HTTP status that means neither found nor not found.
    Status(SocketAddr, u16),
    /// The phone has no binding here.
    NotFound(String),
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpOff => f.write_str("the proxy of this configuration cannot be asked: sipproxy.http-port is 0"),
            Self::Address(text) => write!(f, "{text}: expected the HOST:PORT of a proxy's http-port"),
            Self::Unreachable(address, fault) => write!(f, "http://{address}: no proxy answers: {fault}"),
            Self::NotHawser(address) => write!(f, "http://{address}: what answers there is no Hawser"),
            Self::Status(address, status) => write!(f, "http://{address}: answers with status {status}"),
            Self::NotFound(aor) => write!(f, "{aor}: not registered through this proxy"),
        }
    }
}

/// Where a proxy with this configuration can be asked.
pub(super) fn http_of(config: &Config) -> Result<String, LocateError> {
    let port = config.sipproxy.http_port;
    if port == 0 {
        return Err(LocateError::HttpOff);
    }
    // The unspecified address can be bound but not called.
    let ip = match config.sipproxy.http_address {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, port).to_string())
}

/// Asks the proxy at `http` and gives its answer as a table.
pub(super) fn locate(aor: &str, http: &str) -> Result<String, LocateError> {
    let unknown = || LocateError::Address(http.to_owned());
    let address = http.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(unknown)?;
    let request =
        format!("GET /where?aor={} HTTP/1.0\r\nHost: {http}\r\nAccept: application/json\r\n\r\n", query_escaped(aor));
    let answer = exchange(address, request.as_bytes()).map_err(|fault| LocateError::Unreachable(address, fault))?;
    let (status, body) = status_and_body(&answer).ok_or(LocateError::NotHawser(address))?;
    match status {
        // 404 is also what another server says to a path that it does not know.
        200 | 404 => match serde_json::from_slice(body) {
            Ok(Value::Array(bindings)) if bindings.is_empty() => Err(LocateError::NotFound(aor.to_owned())),
            Ok(Value::Array(bindings)) => Ok(table(&bindings)),
            _ => Err(LocateError::NotHawser(address)),
        },
        status => Err(LocateError::Status(address, status)),
    }
}

fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let end = Instant::now() + EXCHANGE_MAX;
    // A timeout of zero would mean none at all.
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(answer),
            n => answer.extend_from_slice(&chunk[..n]),
        }
        if answer.len() as u64 > ANSWER_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn status_and_body(answer: &[u8]) -> Option<(u16, &[u8])> {
    let head_len = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..head_len]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[head_len + 4..]))
}

/// RFC 3986 §2.3: all but the unreserved characters.
fn query_escaped(text: &str) -> String {
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
const FIELDS: [&str; 9] = ["aor", "contact", "instance", "shard", "conn", "transport", "peer", "expires_in_s", "age_s"];

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
fn cell(value: &Value) -> String {
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
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::admin::{self, About, Readiness, Source};
    use crate::engine::Located;
    use crate::ids::{ConnId, FlowRef, PointId, ShardId, Transport};
    use crate::stats::Snapshot;

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
                expires_in: Duration::from_secs(3599),
                age: Duration::from_secs(1),
            };
            let stream =
                FlowRef::Stream { shard: ShardId(1), conn: ConnId { slot: 5, generation: 9 }, point: PointId(2) };
            let udp = FlowRef::Udp { shard: ShardId(0), point: PointId(0), remote: "192.0.2.7:5060".parse().unwrap() };
            let here = aor == "sip:alice;\u{fc}&@example.com";
            Some(if here { vec![located("sip:a@b", stream), located("sip:\u{1b}[2J", udp)] } else { Vec::new() })
        }

        fn readiness(&self) -> Readiness {
            Readiness::Ready
        }

        fn about(&self) -> About {
            About {
                version: String::new(),
                uptime: Duration::ZERO,
                shards: 2,
                listeners: Vec::new(),
                server: String::new(),
                sticky: String::new(),
                certificates: Vec::new(),
            }
        }
    }

    #[test]
    fn a_running_proxy_says_where_a_phone_is() {
        let admin = admin::start(TcpListener::bind("127.0.0.1:0").unwrap(), OnePhone, None).unwrap();
        let http = admin.address().to_string();
        let table = locate("sip:alice;\u{fc}&@example.com", &http).unwrap();
        let first = "aor           sip:alice;\u{fc}&@example.com\ncontact       sip:a@b\ninstance      -\n\
                     shard         1\nconn          5.9\ntransport     tls\npeer          [2001:db8::7]:41000\n\
                     expires in s  3599\nage s         1\n\n";
        assert_eq!(table[..first.len()], *first);
        assert!(table[first.len()..].contains("contact       sip:?[2J\n"), "{table}");
        assert!(matches!(locate("sip:bob@example.com", &http), Err(LocateError::NotFound(_))));
    }

    #[test]
    fn another_status_is_told() {
        let (http, served) = serve_once(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert!(matches!(locate("a", &http), Err(LocateError::Status(_, 503))));
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
            assert!(matches!(locate("a", &http), Err(LocateError::NotHawser(_))), "{answer:?}");
            served.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_told() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(locate("a", &address.to_string()), Err(LocateError::Unreachable(at, _)) if at == address));
        assert!(matches!(locate("a", "127.0.0.1"), Err(LocateError::Address(_))));
    }
}
