//! `hawser where AOR`: asks a running proxy's HTTP port, and lays its JSON out as a table.
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
        200 => {
            let value = serde_json::from_slice(body).map_err(|_| LocateError::NotHawser(address))?;
            Ok(table(&value))
        }
        404 => Err(LocateError::NotFound(aor.to_owned())),
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
            // Writing to a String does not fail.
            _ => write!(escaped, "%{byte:02X}").unwrap_or_default(),
        }
    }
    escaped
}

/// Lays out JSON for reading: single values as `name  value`, lists of objects as columns.
fn table(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) => {
            let single = fields.iter().filter(|(_, v)| !v.is_array() && !v.is_object());
            let rows = single.map(|(name, v)| vec![name.clone(), cell(v)]).collect::<Vec<_>>();
            align(&rows, &mut out);
            for (name, inner) in fields.iter().filter(|(_, v)| v.is_array() || v.is_object()) {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(name);
                out.push('\n');
                out.push_str(&table(inner));
            }
        }
        Value::Array(items) => {
            let mut columns: Vec<String> = Vec::new();
            for name in items.iter().filter_map(Value::as_object).flat_map(|fields| fields.keys()) {
                if !columns.contains(name) {
                    columns.push(name.clone());
                }
            }
            let row = |item: &Value| match item {
                Value::Object(fields) => {
                    columns.iter().map(|name| fields.get(name).map_or(String::new(), cell)).collect()
                }
                other => vec![cell(other)],
            };
            let mut rows: Vec<Vec<String>> = items.iter().map(row).collect();
            if !columns.is_empty() {
                rows.insert(0, columns);
            }
            align(&rows, &mut out);
        }
        single => {
            out.push_str(&cell(single));
            out.push('\n');
        }
    }
    out
}

/// A value without line breaks or control characters: some of it comes from phones, and goes to a terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn align(rows: &[Vec<String>], out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            write!(line, "{text:<width$}  ").unwrap_or_default();
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one request with `answer`; gives the request's first line.
    fn serve_once(answer: &'static [u8]) -> (String, thread::JoinHandle<String>) {
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
            String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
        });
        (address, served)
    }

    #[test]
    fn an_answer_becomes_a_table() {
        let (http, served) = serve_once(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"aor\":\"sip:a@b\",\"bindings\":[\
              {\"shard\":0,\"peer\":\"127.0.0.1:40000\"},{\"shard\":11,\"peer\":\"\\u001b[2J\",\"expires\":null}]}",
        );
        let table = locate("sip:a@b;x=\u{fc} &", &http).unwrap();
        assert_eq!(served.join().unwrap(), "GET /where?aor=sip%3Aa%40b%3Bx%3D%C3%BC%20%26 HTTP/1.0");
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[..3], ["aor  sip:a@b", "", "bindings"]);
        let columns: Vec<_> = lines[3].split_whitespace().collect();
        assert_eq!(columns, ["peer", "shard", "expires"]);
        assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["127.0.0.1:40000", "0"]);
        assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["?[2J", "11", "-"]);
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn a_phone_that_is_not_here_is_told() {
        let (http, served) = serve_once(b"HTTP/1.1 404 Not Found\r\n\r\n{}");
        assert!(matches!(locate("a", &http), Err(LocateError::NotFound(aor)) if aor == "a"));
        served.join().unwrap();
    }

    #[test]
    fn another_status_is_told() {
        let (http, served) = serve_once(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert!(matches!(locate("a", &http), Err(LocateError::Status(_, 503))));
        served.join().unwrap();
    }

    #[test]
    fn another_server_is_told_apart() {
        for answer in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 200 OK\r\n", b""] {
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
