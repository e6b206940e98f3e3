//! Whether a certificate names the peer that was meant (RFC 5922 §7.1 to §7.4), or a user.
//!
//! Pure: the names of a certificate come in as plain data, and whether its chain is trusted is another's
//! question. A URI with a user part is a user's and no domain's; it counts where users do (`client-aor`). Left out on
//! purpose: wildcards, which RFC 5922 §7.2 forbids, and the CN, which it only tolerates.

use std::net::IpAddr;

pub use crate::config::engine::{Expected, TlsPeer};
use crate::ids::{SetupId, Side};
use crate::sip::{Span, Uri};

/// The names of a certificate's subjectAltName that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// Hosts of its `sip:` URIs, in lower case.
    pub sip: Vec<String>,
    /// The certificate's `sip:` URIs with a user part, as canonical addresses of record.
    pub users: Vec<Vec<u8>>,
    /// The certificate's DNS names, in lower case.
    pub dns: Vec<String>,
    /// The certificate's addresses.
    pub addresses: Vec<IpAddr>,
    /// Only CAs of the endpoint side vouch for it, and they have no say in who is a server.
    pub of_endpoint: bool,
    /// The set-ups of those whose own CAs vouch for it. Whoever has CAs of its own is named by a certificate of these
    /// and of no other.
    pub peers: Vec<(Side, SetupId)>,
    /// None but those vouch for it: it may be one of them, and nobody else.
    pub of_peers_only: bool,
}

impl Identities {
    /// Takes a URI in, if it is the identity of a SIP domain (RFC 5922 §7.1), with scheme `sip` and no user part, or of
    /// a user.
    pub fn add_uri(&mut self, uri: &str) {
        let Some((scheme, rest)) = uri.split_once(':') else { return };
        if !scheme.eq_ignore_ascii_case("sip") {
            return;
        }
        if rest.contains('@') {
            let text = uri.as_bytes();
            if let Ok(user) = Uri::parse(text, Span::new(0, text.len()))
                && !user.user.is_empty()
            {
                let mut aor = Vec::new();
                user.write_aor(text, &mut aor);
                self.users.push(aor);
            }
            return;
        }
        let end = rest.find([';', '?']).unwrap_or(rest.len());
        let host = match rest[..end].rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains(':') => host,
            _ => &rest[..end],
        };
        if !host.is_empty() {
            self.sip.push(canonical(host));
        }
    }

    /// Takes a DNS name in.
    pub fn add_dns(&mut self, name: &str) {
        self.dns.push(canonical(name));
    }

    /// In words, for people.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let users = self.users.iter().map(|user| String::from_utf8_lossy(user).into_owned());
        // Escapes of a URI may stand for anything, and these words go to logs and terminals.
        let users = users.map(|user| user.chars().map(|c| if c.is_control() { '?' } else { c }).collect());
        let sip = users.chain(self.sip.iter().map(|domain| format!("sip:{domain}")));
        let dns = self.dns.iter().map(|name| format!("dns:{name}"));
        sip.chain(dns).chain(self.addresses.iter().map(|ip| format!("ip:{ip}"))).collect()
    }

    /// Whether those vouch for it who decide on a peer of `side`: the CAs of its own set-up, when it has such; else those
    /// of a side, of which phones' have no say in who is a server.
    #[must_use]
    pub fn is_vouched_for(&self, side: Side, own: Option<SetupId>) -> bool {
        match own {
            Some(setup) => self.peers.contains(&(side, setup)),
            None => !self.of_peers_only && (side == Side::Endpoint || !self.of_endpoint),
        }
    }

    /// Whether it is a user's, by the canonical address of record.
    #[must_use]
    pub fn names_user(&self, aor: &[u8]) -> bool {
        self.users.iter().any(|user| user == aor)
    }

    /// Whether it is a domain's by a `sip:` URI, which nobody is given by chance.
    #[must_use]
    pub fn names_domain_by_uri(&self, domain: &Expected) -> bool {
        !self.sip.is_empty() && matches!(domain, Expected::Name(_)) && self.match_expected(domain)
    }

    /// Whether it is the peer that was meant. DNS names count only where there is no `sip:` URI, and a name with a
    /// wildcard matches nothing but itself, which is no host name.
    #[must_use]
    pub fn match_expected(&self, expected: &Expected) -> bool {
        match expected {
            Expected::Address(ip) => self.addresses.contains(&ip.to_canonical()),
            Expected::Name(name) => {
                let names = if self.sip.is_empty() { &self.dns } else { &self.sip };
                let name = canonical(name);
                names.iter().any(|own| *own == name && !own.contains('*'))
            }
        }
    }
}

/// Names are compared without regard to case (RFC 5922 §7.2); a dot at the end says only that they are absolute.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities(uris: &[&str], dns: &[&str]) -> Identities {
        let mut all = Identities::default();
        uris.iter().for_each(|uri| all.add_uri(uri));
        dns.iter().for_each(|name| all.add_dns(name));
        all
    }

    fn name(name: &str) -> Expected {
        Expected::Name(name.into())
    }

    #[test]
    fn a_sip_uri_names_its_domain_and_hides_the_dns_names() {
        let all = identities(&["sip:Example.COM"], &["sips1.example.com"]);
        assert!(all.match_expected(&name("example.com")));
        assert!(all.match_expected(&name("EXAMPLE.com.")));
        assert!(!all.match_expected(&name("sips1.example.com")));
    }

    #[test]
    fn dns_names_count_where_there_is_no_sip_uri() {
        let all = identities(&["https://example.net", "sips:example.org"], &["SIPS1.example.com"]);
        assert!(all.match_expected(&name("sips1.example.com")));
        assert!(!all.match_expected(&name("example.net")) && !all.match_expected(&name("example.org")));
    }

    #[test]
    fn a_uri_with_a_user_part_is_a_persons_and_no_domains() {
        let all = identities(&["sip:alice@example.com"], &["example.net"]);
        assert!(!all.match_expected(&name("example.com")));
        assert!(all.match_expected(&name("example.net")));
    }

    #[test]
    fn a_port_or_parameter_does_not_belong_to_the_name() {
        let all = identities(&["sip:example.com:5061", "sip:example.org;transport=tls"], &[]);
        assert!(all.match_expected(&name("example.com")) && all.match_expected(&name("example.org")));
    }

    #[test]
    fn no_wildcard_matches() {
        let all = identities(&[], &["*.example.com"]);
        assert!(!all.match_expected(&name("sips1.example.com")));
        assert!(!all.match_expected(&name("*.example.com")));
        assert!(!identities(&["sip:*.example.com"], &[]).match_expected(&name("a.example.com")));
    }

    #[test]
    fn an_address_is_matched_by_an_address_only() {
        let mut all = identities(&["sip:192.0.2.1"], &["192.0.2.1"]);
        let expected = Expected::Address("192.0.2.1".parse().unwrap());
        assert!(!all.match_expected(&expected));
        all.addresses.push("192.0.2.1".parse().unwrap());
        assert!(all.match_expected(&expected));
        assert!(!all.match_expected(&Expected::Address("192.0.2.2".parse().unwrap())));
    }

    #[test]
    fn who_has_cas_of_its_own_is_vouched_for_by_these_alone_and_phones_cas_make_no_server() {
        let own = |side, setup| (side, SetupId(setup));
        let vouched = |all: &Identities, side, setup: Option<u16>| all.is_vouched_for(side, setup.map(SetupId));
        let of_side = Identities::default();
        assert!(vouched(&of_side, Side::Endpoint, None) && vouched(&of_side, Side::Server, None));
        assert!(!vouched(&of_side, Side::Endpoint, Some(3)) && !vouched(&of_side, Side::Server, Some(3)));
        let of_phones = Identities { of_endpoint: true, ..Identities::default() };
        assert!(vouched(&of_phones, Side::Endpoint, None) && !vouched(&of_phones, Side::Server, None));
        let of_both = Identities { peers: vec![own(Side::Endpoint, 3)], ..Identities::default() };
        assert!(vouched(&of_both, Side::Endpoint, None) && vouched(&of_both, Side::Endpoint, Some(3)));
        let of_peer = Identities { of_peers_only: true, ..of_both };
        assert!(vouched(&of_peer, Side::Endpoint, Some(3)));
        assert!(!vouched(&of_peer, Side::Endpoint, Some(4)), "another's CAs");
        assert!(!vouched(&of_peer, Side::Server, Some(3)), "the same files, named for the other side");
        assert!(!vouched(&of_peer, Side::Endpoint, None) && !vouched(&of_peer, Side::Server, None));
    }

    #[test]
    fn a_certificate_without_names_matches_nothing() {
        assert!(!Identities::default().match_expected(&name("")));
        assert!(!Identities::default().match_expected(&name("example.com")));
    }
}
