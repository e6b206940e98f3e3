//! Asks a running proxy's HTTP port, in the clear or over TLS, with the token that its configuration names.
//!
//! A client for one question at a time, so that the program needs no HTTP client library: HTTP/1.0, whose answers end
//! with the connection and are never chunked. It does not follow redirects.
//!
//! Over TLS the proxy's certificate must chain to `trusted-ca` (or the system's CAs, when they are on) and carry one
//! of the names that the configuration gives the proxy: its http-address, what a listener advertises, or one of
//! `domains`. They are tried in this order, for a certificate for phones seldom has an address in it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

use crate::admin::Token;
use crate::config::{Config, Host};
use crate::ids::Side;
use crate::server::{self, SecretError};
use crate::tls::pem::{self, PemError};

/// The whole exchange, from connect to the last byte.
const EXCHANGE_MAX: Duration = Duration::from_secs(3);
const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// The configuration has `http-port = 0`.
    HttpOff,
    /// Not HOST:PORT, or a name that does not resolve.
    Address(String),
    /// The token's file is of no use.
    Token(SecretError),
    /// The CAs' file is of no use.
    Pem(PemError),
    /// `http-tls` is on, and nothing says which CAs to trust.
    NoTrust,
    /// Nobody answers there.
    Unreachable(String, io::Error),
    /// Who answers there has no certificate that counts.
    Certificate(String, rustls::Error),
    /// What answers there is no HTTP server, or not ours.
    NotHawser(String),
    /// The proxy wants a token, or another one.
    Unauthorized(String),
    /// An HTTP status that is no answer to the question.
    Status(String, u16),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpOff => f.write_str("the proxy of this configuration cannot be asked: sipproxy.http-port is 0"),
            Self::Address(text) => write!(f, "{text}: expected the HOST:PORT of a proxy's http-port"),
            Self::Token(fault) => fault.fmt(f),
            Self::Pem(fault) => fault.fmt(f),
            Self::NoTrust => f.write_str(
                "the proxy of this configuration is asked over TLS, but no CA is trusted: set trusted-ca in [security]",
            ),
            Self::Unreachable(url, fault) => write!(f, "{url}: no proxy answers: {fault}"),
            Self::Certificate(url, fault) => write!(f, "{url}: the certificate is refused: {fault}"),
            Self::NotHawser(url) => write!(
                f,
                "{url}: what answers there is no Hawser, or one that wants TLS: then give --config with its \
                 configuration"
            ),
            Self::Unauthorized(url) => write!(
                f,
                "{url}: asks for a bearer token: give --config with the proxy's configuration, whose http-token-file \
                 holds it"
            ),
            Self::Status(url, status) => write!(f, "{url}: answers with status {status}"),
        }
    }
}

/// What came back: the status and the body.
pub(super) type Answer = (u16, Vec<u8>);

/// Where a proxy can be asked, and how.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    host: String,
    token: Option<Token>,
    tls: Option<Trusted>,
}

/// Whom to expect there.
#[derive(Debug)]
struct Trusted {
    config: Arc<ClientConfig>,
    /// At least one.
    names: Vec<ServerName<'static>>,
}

impl Proxy {
    /// The one at HOST:PORT, in the clear and without a token.
    ///
    /// # Errors
    /// [`AskError::Address`].
    pub(super) fn at(http: &str) -> Result<Self, AskError> {
        let unknown = || AskError::Address(http.to_owned());
        let address = http.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(unknown)?;
        Ok(Self { address, host: http.to_owned(), token: None, tls: None })
    }

    /// The one that runs with a configuration.
    ///
    /// # Errors
    /// HTTP is off, or a file that it names is of no use.
    pub(super) fn of(config: &Config) -> Result<Self, AskError> {
        let sipproxy = &config.sipproxy;
        if sipproxy.http_port == 0 {
            return Err(AskError::HttpOff);
        }
        // The unspecified address can be bound but not called.
        let ip = match sipproxy.http_address {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let address = SocketAddr::new(ip, sipproxy.http_port);
        let token = sipproxy.http_token_file.as_deref().map(server::http_token).transpose().map_err(AskError::Token)?;
        let tls = sipproxy.http_tls.then(|| Trusted::of(config, ip)).transpose()?;
        Ok(Self { address, host: address.to_string(), token, tls })
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    /// One request without a body; `path` with its query, escaped.
    ///
    /// # Errors
    /// There is no answer of an HTTP server, or it is a 401.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Answer, AskError> {
        let authorization = match &self.token {
            Some(token) => format!("Authorization: {}\r\n", token.authorization()),
            None => String::new(),
        };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\n{authorization}Accept: application/json\r\n\
             Content-Length: 0\r\n\r\n",
            // The proxy may not know the name that it was asked for by.
            self.address
        );
        let answer = self.exchange(request.as_bytes())?;
        let (status, body) = status_and_body(&answer).ok_or_else(|| self.not_hawser())?;
        match status {
            401 => Err(AskError::Unauthorized(self.url())),
            status => Ok((status, body.to_vec())),
        }
    }

    /// For an answer that no Hawser gives.
    pub(super) fn not_hawser(&self) -> AskError {
        AskError::NotHawser(self.url())
    }

    /// For a status that is no answer.
    pub(super) fn status(&self, status: u16) -> AskError {
        AskError::Status(self.url(), status)
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, AskError> {
        let end = Instant::now() + EXCHANGE_MAX;
        let unreachable = |fault| AskError::Unreachable(self.url(), fault);
        let Some(trusted) = &self.tls else {
            let mut stream = Timed::connect(self.address, end).map_err(unreachable)?;
            return exchange(&mut stream, request).map_err(unreachable);
        };
        let mut names = trusted.names.iter();
        loop {
            let name = names.next().ok_or(AskError::NoTrust)?;
            let mut stream = Timed::connect(self.address, end).map_err(unreachable)?;
            let session = ClientConnection::new(trusted.config.clone(), name.clone());
            let mut session = session.map_err(|fault| AskError::Certificate(self.url(), fault))?;
            match exchange(&mut rustls::Stream::new(&mut session, &mut stream), request) {
                Ok(answer) => return Ok(answer),
                Err(fault) => match rustls_fault(&fault) {
                    Some(fault) if is_other_name(&fault) && names.len() > 0 => {}
                    Some(fault) => return Err(AskError::Certificate(self.url(), fault)),
                    None => return Err(unreachable(fault)),
                },
            }
        }
    }
}

fn rustls_fault(fault: &io::Error) -> Option<rustls::Error> {
    fault.get_ref()?.downcast_ref().cloned()
}

fn is_other_name(fault: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(fault, rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

impl Trusted {
    fn of(config: &Config, ip: IpAddr) -> Result<Self, AskError> {
        let security = config.security.side(Side::Endpoint);
        let mut roots = RootCertStore::empty();
        if let Some(path) = &security.trusted_ca {
            roots.add_parsable_certificates(pem::certificates(path).map_err(AskError::Pem)?);
        }
        if security.system_roots {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(AskError::NoTrust);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| AskError::NoTrust)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let advertised = config.listeners.iter().map(crate::config::Listener::advertised_host);
        let hosts = advertised.chain(config.sipproxy.domains.iter().cloned()).filter_map(|text| Host::parse(&text));
        let mut names = vec![ServerName::from(ip)];
        for host in hosts {
            let name = match host {
                Host::Ip(ip) => Some(ServerName::from(ip)),
                Host::Name(name) => ServerName::try_from(name).ok(),
            };
            names.extend(name.filter(|name| !names.contains(name)));
        }
        Ok(Self { config: Arc::new(client), names })
    }
}

/// A connection with one deadline for all that is done with it.
struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Timed {
    fn connect(address: SocketAddr, end: Instant) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect_timeout(&address, left(end)?)?, end })
    }
}

/// A timeout of zero would mean none at all.
fn left(end: Instant) -> io::Result<Duration> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.end)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.end)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            // A process that is stopped and continued ends a read with a timeout so (signal(7)).
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
        if answer.len() > ANSWER_LEN_MAX {
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
