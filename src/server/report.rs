//! What `--check` prints: what would run with a configuration, in words for a person.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::config::{Config, ServerAddress, Sticky};
use crate::ids::{Side, Transport};

/// What would run.
#[derive(Debug)]
pub struct Report {
    cores: Vec<usize>,
    sockets: Vec<Socket>,
    http: Option<Http>,
    server: (String, ServerAddress, Transport),
    sticky: Sticky,
    certificates: Vec<Certificate>,
}

#[derive(Debug)]
struct Socket {
    transport: Transport,
    bind: SocketAddr,
    advertised: String,
}

#[derive(Debug)]
struct Http {
    bind: SocketAddr,
    tls: bool,
    token: Option<PathBuf>,
}

/// A certificate of ours that has been read and matches its key.
#[derive(Debug)]
pub struct Certificate {
    side: Side,
    path: PathBuf,
    subject: String,
    names: Vec<String>,
    not_after: String,
    expired: bool,
}

impl Certificate {
    /// What the leaf certificate of a file says. `now` is in seconds since 1970. `None` when it is no certificate.
    #[must_use]
    pub fn read(side: Side, path: &Path, der: &[u8], now: i64) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        let alternatives = leaf.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        let not_after = leaf.validity().not_after;
        Some(Self {
            side,
            path: path.to_owned(),
            subject: printable(&leaf.subject().to_string()),
            names: alternatives.flatten().map(name_text).collect(),
            not_after: not_after.to_string(),
            expired: not_after.timestamp() < now,
        })
    }
}

/// A certificate may hold any text, and this goes to a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn name_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS:{}", printable(name)),
        GeneralName::URI(uri) => format!("URI:{}", printable(uri)),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => format!("IP:{}", std::net::Ipv4Addr::from(v4)),
            (_, Ok(v6)) => format!("IP:{}", std::net::Ipv6Addr::from(v6)),
            _ => "IP:?".to_owned(),
        },
        other => printable(&other.to_string()),
    }
}

impl Report {
    /// What would run on these cores. Certificates come with [`Self::with_certificate`] when they have been read.
    #[must_use]
    pub fn new(config: &Config, cores: &[usize]) -> Self {
        let sockets = config.listeners.iter().flat_map(|listener| {
            listener.sockets().map(|(transport, bind)| Socket {
                transport,
                bind,
                advertised: format!("{}:{}", listener.advertised_host(), bind.port()),
            })
        });
        let sipproxy = &config.sipproxy;
        let server = config.serving();
        Self {
            cores: cores.to_vec(),
            sockets: sockets.collect(),
            http: (sipproxy.http_port != 0).then(|| Http {
                bind: SocketAddr::new(sipproxy.http_address, sipproxy.http_port),
                tls: sipproxy.http_tls,
                token: sipproxy.http_token_file.clone(),
            }),
            server: (server.name.clone(), server.primary.clone(), server.transport),
            sticky: sipproxy.sticky,
            certificates: Vec::new(),
        }
    }

    /// Adds a certificate of ours.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificates.push(certificate);
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<_> = self.cores.iter().map(usize::to_string).collect();
        writeln!(f, "cores        {}", cores.join(","))?;
        for socket in &self.sockets {
            let Socket { transport, bind, advertised } = socket;
            writeln!(f, "listen       {:3} {bind}, as {advertised}", transport.via_name())?;
        }
        match &self.http {
            Some(Http { bind, tls, token }) => {
                write!(f, "http         {}://{bind}", if *tls { "https" } else { "http" })?;
                match token {
                    Some(path) => writeln!(f, ", with the token of {}", path.display())?,
                    None => writeln!(f, ", without a token")?,
                }
            }
            None => writeln!(f, "http         off")?,
        }
        let (name, primary, transport) = &self.server;
        writeln!(f, "sip-server   {name} at {primary} over {}", transport.param_name())?;
        writeln!(f, "sticky       {}", self.sticky)?;
        for certificate in &self.certificates {
            let Certificate { side, path, subject, names, not_after, expired } = certificate;
            let side = match side {
                Side::Server => "server side",
                Side::Endpoint => "endpoint side",
            };
            writeln!(f, "certificate  {} ({side}), matches its key", path.display())?;
            writeln!(f, "             subject {subject}")?;
            writeln!(f, "             names {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })?;
            writeln!(f, "             {} {not_after}", if *expired { "EXPIRED on" } else { "valid until" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_would_run() {
        let text = "[sipproxy]\nexternal-address = \"2001:db8::1\"\nhttp-port = 0\ncores = \"0-1\"\n\
                    [[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\n\
                    [security]\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n";
        let config = Config::parse(text, "hawser.toml").unwrap();
        let names = vec!["sip.example.com".to_owned(), "10.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a\nb");
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let leaf = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let at = |now| Certificate::read(Side::Endpoint, Path::new("a.pem"), leaf.der(), now).unwrap();
        let report = Report::new(&config, &[0, 1]).with_certificate(at(1_800_000_000)).to_string();
        let lines: Vec<_> = report.lines().collect();
        assert_eq!(
            lines[..8],
            [
                "cores        0,1",
                "listen       UDP 127.0.0.1:5060, as [2001:db8::1]:5060",
                "listen       TCP 127.0.0.1:5060, as [2001:db8::1]:5060",
                "listen       TLS 127.0.0.1:5061, as [2001:db8::1]:5061",
                "http         off",
                "sip-server   sips1 at 127.0.0.1:7000 over udp",
                "sticky       path",
                "certificate  a.pem (endpoint side), matches its key",
            ]
        );
        assert!(lines[8].contains("a?b"), "{}", lines[8]);
        assert_eq!(lines[9], "             names DNS:sip.example.com, IP:10.0.0.1");
        assert!(lines[10].starts_with("             valid until Jan  2"), "{}", lines[10]);
        assert_eq!(lines.len(), 11);
        assert!(at(1_900_000_000).expired);
        assert!(Certificate::read(Side::Endpoint, Path::new("a.pem"), b"none", 0).is_none());
    }
}
