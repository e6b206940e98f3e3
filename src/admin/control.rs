//! `POST /servers/NAME/pin?member=…` and `POST /servers/NAME/release`: what an operator may change.
//!
//! Owns: what such a request says, and whether it may say it. A page that a browser has loaded from elsewhere can
//! send a POST to any address that the browser reaches, and on loopback no token is asked for by default; browsers
//! tell where such a request comes from, and what does not come from this very server is refused.

use hyper::header::{HOST, HeaderMap, ORIGIN};

use crate::server_pool::Member;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `pin`, which says in its query which member.
    Pin,
    /// `release`.
    Release,
}

/// The pair and the action of a path, still escaped; `None` for other paths.
pub(super) fn of_path(path: &str) -> Option<(&str, Action)> {
    let (pair, action) = path.strip_prefix("/servers/")?.split_once('/')?;
    match action {
        "pin" => Some((pair, Action::Pin)),
        "release" => Some((pair, Action::Release)),
        _ => None,
    }
}

/// The `member` of a query.
pub(super) fn member_of(query: Option<&str>) -> Option<Member> {
    match query?.split('&').find_map(|pair| pair.strip_prefix("member="))? {
        "primary" => Some(Member::Primary),
        "backup" => Some(Member::Backup),
        _ => None,
    }
}

/// Whether no browser sends this for a page of another origin.
///
/// In the clear the page's own origin counts only with an address for its host: a name may have been made to lead
/// here by whoever owns it (DNS rebinding). Over TLS the certificate speaks against that.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let text = |value: &hyper::header::HeaderValue| value.to_str().map(str::to_ascii_lowercase).unwrap_or_default();
    if headers.get("sec-fetch-site").is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN).map(text) else { return true };
    let host = headers.get(HOST).map(text).unwrap_or_default();
    match origin.split_once("://") {
        Some(("https", from)) => from == host,
        Some(("http", from)) => from == host && is_address(&host),
        _ => false,
    }
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

    #[test]
    fn paths_and_members_are_told_apart() {
        assert_eq!(of_path("/servers/sips1/pin"), Some(("sips1", Action::Pin)));
        assert_eq!(of_path("/servers/a%2Fb/release"), Some(("a%2Fb", Action::Release)));
        for path in ["/servers", "/servers/", "/servers/sips1", "/servers/sips1/", "/servers/a/b/pin", "/x/sips1/pin"] {
            assert_eq!(of_path(path), None, "{path}");
        }
        assert_eq!(member_of(Some("x=1&member=backup")), Some(Member::Backup));
        for query in [None, Some(""), Some("member="), Some("member=Backup"), Some("members=backup")] {
            assert_eq!(member_of(query), None, "{query:?}");
        }
    }

    fn own(lines: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, value.parse().expect("a value"));
        }
        is_own(&headers)
    }

    #[test]
    fn a_page_of_another_origin_is_told() {
        assert!(own(&[("host", "127.0.0.1:8080")]), "no browser");
        for host in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1", "[2001:db8::1]", "localhost:8080"] {
            assert!(own(&[("host", host), ("origin", &format!("http://{host}"))]), "{host}");
            assert!(own(&[("host", host), ("origin", &format!("https://{host}"))]), "{host}");
        }
        assert!(own(&[("host", "Proxy1.example.com"), ("origin", "https://proxy1.example.com")]));
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
