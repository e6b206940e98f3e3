//! Who may ask for what: the token, and the names that a request may call us by.
//!
//! A page that a browser has loaded from elsewhere can make requests to any address that the browser reaches, and on
//! loopback no token is asked for by default. What it may not read of another origin it reads when its own name has been
//! made to lead here (DNS rebinding): the browser then takes both for one origin and shows it the answer. But it also says
//! that name as Host, and so a name is answered to only when it is ours. An address cannot be rebound; over TLS the
//! certificate speaks against it; and who shows the token is no such page.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};

use super::Token;

/// What requests are measured by.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// With one, all but probes and the page must show it.
    pub token: Option<Token>,
    /// The names that we are called by, in lower case, without ports.
    pub names: Vec<String>,
    /// The connections are TLS: [`super::start`] and [`super::start_tls`] see to it.
    pub tls: bool,
}

impl Access {
    /// Whether it shows the token, if there is one.
    pub(super) fn has_token(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        self.token.as_ref().is_none_or(|token| token.admits(given))
    }

    /// Whether it calls us by an address or by a name of ours, where a name could be anybody's.
    pub(super) fn is_meant(&self, headers: &HeaderMap) -> bool {
        // Whoever names no host is no browser.
        self.tls || self.token.is_some() || headers.get_all(HOST).iter().all(|host| self.is_ours(&text(host)))
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        is_address(host) || self.names.iter().any(|ours| ours == name)
    }

    /// Whether no browser sends this for a page of another origin: what changes something is refused then, although the
    /// page would not see the answer.
    pub(super) fn is_own(&self, headers: &HeaderMap) -> bool {
        if headers.get("sec-fetch-site").is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
            return false;
        }
        let Some(origin) = headers.get(ORIGIN).map(text) else { return true };
        let host = headers.get(HOST).map(text).unwrap_or_default();
        match origin.split_once("://") {
            Some(("https", from)) => from == host,
            Some(("http", from)) => from == host && self.is_ours(&host),
            _ => false,
        }
    }
}

fn text(value: &HeaderValue) -> String {
    value.to_str().map(str::to_ascii_lowercase).unwrap_or_default()
}

/// Whether a Host names an address, or `localhost`, which leads nowhere else.
fn is_address(host: &str) -> bool {
    let alone = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || host.parse::<std::net::SocketAddr>().is_ok() || alone.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn ours() -> Access {
        Access { names: vec!["proxy1.example.com".to_owned()], ..Access::default() }
    }

    #[test]
    fn a_host_is_an_address_or_a_name_of_ours() {
        let meant = |access: &Access, host: &str| access.is_meant(&headers(&[("host", host)]));
        for host in [
            "127.0.0.1:8080",
            "192.0.2.1",
            "[::1]:8080",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:8080",
            "Proxy1.example.com:8080",
            "proxy1.example.com",
        ] {
            assert!(meant(&ours(), host), "{host}");
        }
        for host in
            ["evil.example:8080", "evil.example", "proxy1.example.com.evil.example", "", "127.0.0.1.evil.example"]
        {
            assert!(!meant(&ours(), host), "{host}");
            assert!(meant(&Access { tls: true, ..ours() }, host), "the certificate speaks against it");
            let token = Token::new("s3cret-of-the-operator");
            assert!(meant(&Access { token, ..ours() }, host), "the token speaks against it");
        }
        assert!(ours().is_meant(&headers(&[])), "no browser");
        assert!(!ours().is_meant(&headers(&[("host", "127.0.0.1"), ("host", "evil.example")])));
    }

    #[test]
    fn a_page_of_another_origin_is_told() {
        let own = |lines: &[(&'static str, &str)]| ours().is_own(&headers(lines));
        assert!(own(&[("host", "127.0.0.1:8080")]), "no browser");
        for host in
            ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1", "[2001:db8::1]", "localhost:8080", "proxy1.example.com"]
        {
            assert!(own(&[("host", host), ("origin", &format!("http://{host}"))]), "{host}");
            assert!(own(&[("host", host), ("origin", &format!("https://{host}"))]), "{host}");
        }
        assert!(own(&[("host", "Proxy2.example.com"), ("origin", "https://proxy2.example.com")]));
        assert!(own(&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]));
        for origin in
            ["http://evil.example", "null", "", "http://127.0.0.1:8081", "http://127.0.0.1", "file://127.0.0.1:8080"]
        {
            assert!(!own(&[("host", "127.0.0.1:8080"), ("origin", origin)]), "{origin}");
        }
        assert!(!own(&[("host", "evil.example:8080"), ("origin", "http://evil.example:8080")]), "DNS rebinding");
        for site in ["cross-site", "same-site"] {
            assert!(!own(&[("host", "127.0.0.1:8080"), ("sec-fetch-site", site)]), "{site}");
        }
    }
}
