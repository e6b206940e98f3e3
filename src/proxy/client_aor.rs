//! Whether the certificate of a connection covers whom a request speaks for (`client-aor`): the address of record that a
//! REGISTER binds, and the sender of what begins something new.
//!
//! What covers an address of record: the certificate of its domain (RFC 5922 §7.1: a `sip:` URI without a user part, or
//! without any of these a DNS name), or that of the user, a `sip:` URI with the same user and domain. With
//! `client-aor = "user"` only the latter registers; but who has a `sip:` URI of the domain itself, such as a session
//! border controller before it, may speak for all of its users.
//!
//! Left out on purpose: requests within dialogs, which the server knows by their tags; senders of other domains, such as
//! callers whom a gateway brings in, and `anonymous.invalid`; and what else a request says of its sender, such as
//! P-Preferred-Identity, which is for the server to believe or not. What comes over UDP or TCP shows no certificate and
//! is not asked for one, as `tls-mutual` asks nobody there either.

use super::{Names, Refusal, register};
use crate::config::ClientAor;
use crate::sip::{Message, Method, Name, NameAddr, Uri};
use crate::stats::Counter;
use crate::tls::identity::{Expected, Identities};

/// Checks a request of an endpoint that came over TLS from who has shown this certificate. None covers nobody.
///
/// # Errors
/// The refusal to answer with.
pub fn check(request: &Message, rule: ClientAor, names: &Names, shown: Option<&Identities>) -> Result<(), Refusal> {
    let buf = request.buf();
    // No certificate names a user of another scheme.
    let is_covered = |uri: &Uri, registers: bool| {
        let mut aor = Vec::new();
        uri.write_aor(buf, &mut aor);
        uri.scheme.is_sip() && shown.is_some_and(|shown| covers(shown, rule, &aor, &domain_of(uri, buf), registers))
    };
    let fine = match (rule, request.method()) {
        (ClientAor::Off, _) | (_, None | Some(Method::Ack | Method::Cancel)) => true,
        // One without an address of record is malformed, and is answered so.
        (_, Some(Method::Register)) => register::to_uri(request).is_none_or(|to| is_covered(&to, true)),
        _ if !request.to_tag().is_empty() => true,
        _ => match from_uri(request) {
            Some(from) if !from.scheme.is_sip() || !names.has_users_at(from.host, buf) => true,
            Some(from) => is_covered(&from, false),
            // What we cannot read another may.
            None => false,
        },
    };
    match fine {
        true => Ok(()),
        false => Err(Refusal::new(403, "Certificate Does Not Cover AOR", Counter::Refused403ClientAor)),
    }
}

fn covers(shown: &Identities, rule: ClientAor, aor: &[u8], domain: &Expected, registers: bool) -> bool {
    shown.names_user(aor)
        || match rule {
            ClientAor::User => !registers && shown.names_domain_by_uri(domain),
            ClientAor::Off | ClientAor::Domain => shown.match_expected(domain),
        }
}

fn domain_of(uri: &Uri, buf: &[u8]) -> Expected {
    let mut host = Vec::new();
    uri.host.write(buf, &mut host);
    uri.host.ip().map_or_else(|| Expected::Name(String::from_utf8_lossy(&host).into_owned()), Expected::Address)
}

fn from_uri(request: &Message) -> Option<Uri> {
    let from = request.first(Name::From)?;
    let value = NameAddr::parse(request.buf(), from.value).ok()?;
    Uri::parse(request.buf(), value.uri).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uris: &[&str], dns: &[&str]) -> Identities {
        let mut all = Identities::default();
        uris.iter().for_each(|uri| all.add_uri(uri));
        dns.iter().for_each(|name| all.add_dns(name));
        all
    }

    /// By domain and by user, each for who registers and for who only sends.
    fn verdicts(shown: &Identities, aor: &str) -> [bool; 4] {
        let uri = Uri::parse(aor.as_bytes(), crate::sip::Span::new(0, aor.len())).expect("a URI");
        let mut canonical = Vec::new();
        uri.write_aor(aor.as_bytes(), &mut canonical);
        let domain = domain_of(&uri, aor.as_bytes());
        let by = |rule, registers| covers(shown, rule, &canonical, &domain, registers);
        [
            by(ClientAor::Domain, true),
            by(ClientAor::Domain, false),
            by(ClientAor::User, true),
            by(ClientAor::User, false),
        ]
    }

    const ALL: [bool; 4] = [true; 4];
    const NONE: [bool; 4] = [false; 4];
    const BY_DOMAIN: [bool; 4] = [true, true, false, false];

    #[test]
    fn a_users_uri_covers_that_user_and_nobody_else() {
        let alice = shown(&["sip:alice@Example.com"], &[]);
        for own in ["sip:alice@example.com", "sips:alice@EXAMPLE.com.", "sip:%61lice@example.com:5060;user=phone"] {
            assert_eq!(verdicts(&alice, own), ALL, "{own}");
        }
        let others = ["sip:bob@example.com", "sip:Alice@example.com", "sip:alice@example.org", "sip:example.com"];
        for other in others.into_iter().chain(["sip:alice@example.com:5070", "sip:alice@sub.example.com"]) {
            assert_eq!(verdicts(&alice, other), NONE, "{other}");
        }
        let both = shown(&["sip:alice@example.com", "sip:bob@example.com;transport=tls"], &[]);
        assert_eq!(verdicts(&both, "sip:bob@example.com"), ALL, "one that registers for several");
    }

    #[test]
    fn a_domains_uri_covers_its_users_but_registers_none_of_them_by_user() {
        let domain = shown(&["sip:example.com"], &["example.org"]);
        assert_eq!(verdicts(&domain, "sip:alice@example.com"), [true, true, false, true]);
        assert_eq!(verdicts(&domain, "sip:alice@sub.example.com"), NONE);
        assert_eq!(verdicts(&domain, "sip:alice@example.org"), NONE, "a URI hides DNS names (RFC 5922 §7.1)");
    }

    #[test]
    fn a_dns_name_covers_its_domain_by_domain_only() {
        assert_eq!(verdicts(&shown(&[], &["EXAMPLE.com"]), "sip:alice@example.com"), BY_DOMAIN);
        assert_eq!(verdicts(&shown(&[], &["*.example.com"]), "sip:alice@a.example.com"), NONE);
        // A person's URI is no domain's, and hides no DNS name.
        let phone = shown(&["sip:alice@example.com"], &["example.com"]);
        assert_eq!(verdicts(&phone, "sip:bob@example.com"), BY_DOMAIN);
        let mut at_address = shown(&[], &[]);
        at_address.addresses.push("192.0.2.1".parse().expect("an address"));
        assert_eq!(verdicts(&at_address, "sip:alice@192.0.2.1"), BY_DOMAIN);
        assert_eq!(verdicts(&shown(&[], &["192.0.2.1"]), "sip:alice@192.0.2.1"), NONE);
    }

    #[test]
    fn a_uri_that_is_none_covers_nobody() {
        for uri in
            ["sip:alice@", "sip:@example.com", "alice@example.com", "sip:a@b@example.com", "mailto:alice@example.com"]
        {
            let all = shown(&[uri], &[]);
            assert_eq!((all.users.len(), all.sip.len()), (0, 0), "{uri}");
            assert_eq!(verdicts(&all, "sip:alice@example.com"), NONE, "{uri}");
        }
        assert_eq!(verdicts(&Identities::default(), "sip:alice@example.com"), NONE);
    }
}
