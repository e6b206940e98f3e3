//! What `--check` prints of TLS: our certificates with their chains, whom we trust, what is revoked, and what a client
//! of each port would see.

use std::fmt::Write as _;

use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::config::{ClientAor, Config, Listener, PeerSecurity};
use crate::ids::{Side, Transport};
use crate::tls::inventory::{Authority, Crl, Inventory, Leaf};
use crate::tls::key_log;

/// Writing to a String does not fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {
        writeln!($out, $($text)*).unwrap_or_default()
    };
}

/// The lines, each with its end. `now` is in seconds since 1970.
pub(super) fn lines(config: &Config, inventory: &Inventory, now: i64) -> String {
    let mut out = String::new();
    for leaf in &inventory.leaves {
        certificate(&mut out, leaf, now);
        usage(&mut out, config, leaf);
    }
    inventory.authorities.iter().for_each(|ca| authority(&mut out, ca, now));
    inventory.crls.iter().for_each(|list| crl(&mut out, list, now));
    config.listeners.iter().for_each(|listener| seen(&mut out, config, listener));
    for (name, side, setup) in config.with_own_setup() {
        peer(&mut out, &name, &config.security.outbound(side, Some(setup.id)));
    }
    for file in key_log::files(config) {
        line!(out, "KEY LOG      {}: whoever reads it can read all traffic", file.display());
    }
    out
}

fn certificate(out: &mut String, leaf: &Leaf, now: i64) {
    let Ok((_, own)) = X509Certificate::from_der(leaf.der()) else { return };
    let side = match (&leaf.peer, leaf.side) {
        (Some(peer), _) => peer.as_str(),
        (None, Side::Server) => "server side",
        (None, Side::Endpoint) => "endpoint side",
    };
    line!(out, "certificate  {} ({side}), matches its key ({})", leaf.path.display(), key_words(&own));
    line!(out, "             subject {}", printable(&own.subject().to_string()));
    let names = names(&own);
    line!(out, "             names {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    line!(out, "             {}", until(&own, now));
    let chain: Vec<_> = leaf.chain[1..]
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, ca)| format!("{} ({})", printable(&ca.subject().to_string()), until(&ca, now)))
        .collect();
    let issuer = match own.issuer() == own.subject() {
        true => "itself".to_owned(),
        false => printable(&own.issuer().to_string()),
    };
    match chain.as_slice() {
        [] => line!(out, "             issued by {issuer}, whom a peer has to know"),
        chain => line!(out, "             issued by {issuer}; sent with it: {}", chain.join(", ")),
    }
    if let Some(domain) = &leaf.domain {
        let covers = names.iter().any(|name| covers(name, domain));
        line!(out, "             for {domain}{}", if covers { "" } else { ", WHICH IT DOES NOT NAME" });
    }
}

/// A certificate that is good for nothing where it is shown: Hawser itself would not notice, its peers do.
fn usage(out: &mut String, config: &Config, leaf: &Leaf) {
    let Ok((_, own)) = X509Certificate::from_der(leaf.der()) else { return };
    // Without this extension it is good for everything.
    let Ok(Some(usage)) = own.extended_key_usage() else { return };
    let is_seen = |listener: &Listener| listener.tls_port != 0 && listener.side.unwrap_or(Side::Endpoint) == leaf.side;
    let accepts = leaf.peer.is_none() && config.listeners.iter().any(is_seen);
    if accepts && !usage.value.server_auth && !usage.value.any {
        line!(out, "             WITHOUT serverAuth: clients that verify it refuse it");
    }
    if leaf.peer.is_some() && !usage.value.client_auth && !usage.value.any {
        line!(out, "             without clientAuth: a peer that verifies clients may refuse it");
    }
}

fn authority(out: &mut String, authority: &Authority, now: i64) {
    let Ok((_, ca)) = X509Certificate::from_der(&authority.der) else { return };
    let unlisted = if authority.unlisted { ", without a revocation list" } else { "" };
    let subject = printable(&authority.subject());
    line!(out, "trusted CA   {}: {subject}, {}{unlisted}", authority.path.display(), until(&ca, now));
}

fn crl(out: &mut String, crl: &Crl, now: i64) {
    let next = match crl.next_update {
        None => "says not when the next one comes".to_owned(),
        Some(next) if next < now => "IS PAST ITS NEXT UPDATE".to_owned(),
        Some(next) => format!("next update in {} days", (next - now) / 86_400),
    };
    line!(out, "revocations  {}: of {}, {next}", crl.path.display(), printable(&crl.issuer));
}

/// What a client of a port sees, and what it has to show.
fn seen(out: &mut String, config: &Config, listener: &Listener) {
    let Some((_, bind)) = listener.sockets().find(|(transport, _)| *transport == Transport::Tls) else { return };
    let security = config.security.side(listener.side.unwrap_or(Side::Endpoint));
    let Some(shown) = &security.certificate else { return };
    let mut text = format!("clients      of {bind} see {}", shown.display());
    for sni in &config.security.sni {
        write!(text, ", or {} when they ask for {}", sni.certificate.display(), sni.domain).unwrap_or_default();
    }
    if security.tls_mutual {
        let files = [Some(security), Some(config.security.side(Side::Server)).filter(|_| listener.side.is_none())];
        let mut trusted: Vec<_> = files.into_iter().flatten().filter_map(|side| side.trusted_ca.as_ref()).collect();
        trusted.dedup();
        let trusted: Vec<_> = trusted.into_iter().map(|path| path.display().to_string()).collect();
        let roots = if security.system_roots { " or of the system's" } else { "" };
        let eku = security.client_eku;
        write!(text, "; they show one of {}{roots} (client-eku {eku})", trusted.join(" or ")).unwrap_or_default();
        if config.security.client_aor != ClientAor::Off && listener.side != Some(Side::Server) {
            let rule = config.security.client_aor;
            write!(text, ", which covers whom they speak for (client-aor {rule})").unwrap_or_default();
        }
    }
    line!(out, "{text}");
}

/// What a peer with a set-up of its own sees of us when we connect to it, and what it has to show.
fn peer(out: &mut String, name: &str, own: &PeerSecurity) {
    let shown = own.certificate.as_ref().map_or_else(|| "no certificate".to_owned(), |path| path.display().to_string());
    let ca = own.trust.trusted_ca.as_ref().map(|path| path.display().to_string());
    let roots = own.trust.system_roots.then(|| "the system's".to_owned());
    let trusted: Vec<_> = [ca, roots].into_iter().flatten().collect();
    let trusted = if trusted.is_empty() { "nobody is trusted".to_owned() } else { trusted.join(" or ") };
    let revoked = own.trust.crl.as_ref().map(|path| format!(", revoked by {}", path.display())).unwrap_or_default();
    line!(out, "own TLS      {name}: is shown {shown}; shows one of {trusted}{revoked}");
}

fn key_words(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
        Ok(PublicKey::EC(key)) => format!("ECDSA, {} bits", key.key_size()),
        _ => "Ed25519".to_owned(),
    }
}

fn until(certificate: &X509Certificate<'_>, now: i64) -> String {
    let validity = certificate.validity();
    match (validity.not_before.timestamp() > now, validity.not_after.timestamp() < now) {
        (true, _) => format!("NOT VALID BEFORE {}", validity.not_before),
        (_, true) => format!("EXPIRED on {}", validity.not_after),
        _ => format!("valid until {}", validity.not_after),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    alternatives.flatten().map(name_text).collect()
}

/// Whether a client that asks for `domain` finds it, by the rules of the web: those that phones have, wildcards
/// included.
fn covers(name: &str, domain: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let host = name.strip_prefix("dns:").or_else(|| name.strip_prefix("uri:sip:"));
    host.is_some_and(|host| match host.strip_prefix("*.") {
        Some(parent) => domain.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => host == domain,
    })
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "company CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(2035, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn the_lines_say_what_we_show_whom_we_trust_and_what_clients_see() {
        let text = "[sipproxy]\nhttp-port = 0\n[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\n\
                    [security]\ntls-mutual = 1\nclient-aor = \"user\"\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n\
                    trusted-ca = \"ca.pem\"\n[[security.sni]]\ndomain = \"b.example.com\"\ncertificate = \"b.pem\"\n\
                    certificate-key = \"b.key\"\n";
        let config = Config::parse(text, "hawser.toml").unwrap();
        let ca = ca();
        let leaf = |path: &str, domain: Option<&str>, with: Vec<_>| {
            let names = vec!["sip.example.com".to_owned(), "10.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, "a\nb");
            params.not_after = date_time_ymd(2030, 1, 2);
            let own = params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der().clone();
            let chain = [vec![own], with].concat();
            Leaf { side: Side::Endpoint, peer: None, path: path.into(), chain, domain: domain.map(str::to_owned) }
        };
        let inventory = Inventory {
            leaves: vec![leaf("a.pem", None, vec![]), leaf("b.pem", Some("b.example.com"), vec![ca.der().clone()])],
            authorities: vec![Authority { path: "ca.pem".into(), der: ca.der().clone(), unlisted: true }],
            crls: vec![
                Crl { path: "crl.pem".into(), issuer: "CN=x".into(), next_update: Some(NOW + 3 * 86_400) },
                Crl { path: "old.pem".into(), issuer: "CN=y".into(), next_update: Some(NOW - 1) },
            ],
        };
        let expected = "certificate  a.pem (endpoint side), matches its key (ECDSA, 256 bits)
             subject CN=a?b
             names DNS:sip.example.com, IP:10.0.0.1
             valid until Jan  2 00:00:00 2030 +00:00
             issued by CN=company CA, whom a peer has to know
certificate  b.pem (endpoint side), matches its key (ECDSA, 256 bits)
             subject CN=a?b
             names DNS:sip.example.com, IP:10.0.0.1
             valid until Jan  2 00:00:00 2030 +00:00
             issued by CN=company CA; sent with it: CN=company CA (valid until Jan  1 00:00:00 2035 +00:00)
             for b.example.com, WHICH IT DOES NOT NAME
trusted CA   ca.pem: CN=company CA, valid until Jan  1 00:00:00 2035 +00:00, without a revocation list
revocations  crl.pem: of CN=x, next update in 3 days
revocations  old.pem: of CN=y, IS PAST ITS NEXT UPDATE
clients      of 127.0.0.1:5061 see a.pem, or b.pem when they ask for b.example.com; they show one of ca.pem \
             (client-eku strict), which covers whom they speak for (client-aor user)
";
        assert_eq!(lines(&config, &inventory, NOW), expected);
        let late = lines(&config, &inventory, 2_200_000_000);
        assert!(late.contains("             EXPIRED on Jan  2 00:00:00 2030 +00:00\n"), "{late}");
        assert!(lines(&config, &inventory, 0).contains("NOT VALID BEFORE Jan  1 "));
    }

    #[test]
    fn the_lines_say_who_sees_another_certificate_and_shows_one_of_others() {
        let text = "[sipproxy]\nhttp-port = 0\ntls-port = 0\n[[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5060\"\n\
                    crl = \"a.crl\"\n[[device]]\nnetwork = \"10.1.0.0/16\"\ncertificate = \"c.pem\"\n\
                    certificate-key = \"c.key\"\nsystem-roots = true\n[security]\ntrusted-ca = \"ca.pem\"\n\
                    key-log-file = \"keys.log\"\n";
        let config = Config::parse(text, "hawser.toml").unwrap();
        let ca = ca();
        let (side, peer) = (Side::Endpoint, Some("device 10.1.0.0/16".to_owned()));
        let leaf = Leaf { side, peer, path: "c.pem".into(), chain: vec![ca.der().clone()], domain: None };
        let inventory = Inventory { leaves: vec![leaf], ..Inventory::default() };
        let all = lines(&config, &inventory, NOW);
        assert!(all.starts_with("certificate  c.pem (device 10.1.0.0/16), matches its key"), "{all}");
        let expected = "own TLS      sip-server a: is shown no certificate; shows one of ca.pem, revoked by a.crl
own TLS      device 10.1.0.0/16: is shown c.pem; shows one of ca.pem or the system's
KEY LOG      keys.log: whoever reads it can read all traffic
";
        assert!(all.ends_with(expected), "{all}");
    }

    #[test]
    fn a_certificate_for_another_use_is_told_where_it_is_shown() {
        use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let text = |listener: &str| {
            let text = format!(
                "[sipproxy]\nhttp-port = 0\n{listener}[[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5060\"\n"
            );
            let own = "[security]\ncertificate = \"a.pem\"\ncertificate-key = \"a.key\"\n";
            Config::parse(&format!("{text}{own}"), "hawser.toml").unwrap()
        };
        let (on, off) = (text(""), text("tls-port = 0\n"));
        let ca = ca();
        let told = |config: &Config, peer: Option<&str>, usages: &[rcgen::ExtendedKeyUsagePurpose]| {
            let mut params = CertificateParams::new(vec!["sip.example.com".to_owned()]).unwrap();
            params.extended_key_usages = usages.to_vec();
            let chain = vec![params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der().clone()];
            let (side, peer) = (Side::Endpoint, peer.map(str::to_owned));
            let leaf = Leaf { side, peer, path: "a.pem".into(), chain, domain: None };
            let all = lines(config, &Inventory { leaves: vec![leaf], ..Inventory::default() }, NOW);
            (all.contains("WITHOUT serverAuth"), all.contains("without clientAuth"))
        };
        assert_eq!(told(&on, None, &[ClientAuth]), (true, false));
        assert_eq!(told(&off, None, &[ClientAuth]), (false, false), "it is shown as a client only");
        for usages in [&[][..], &[ServerAuth], &[ServerAuth, ClientAuth]] {
            assert_eq!(told(&on, None, usages), (false, false));
        }
        assert_eq!(told(&on, Some("device 10.1.0.0/16"), &[ServerAuth]), (false, true));
        assert_eq!(told(&on, Some("device 10.1.0.0/16"), &[ClientAuth]), (false, false));
    }

    #[test]
    fn a_domain_is_covered_as_phones_see_it() {
        assert!(covers("DNS:Sip.Example.com", "sip.example.com") && covers("URI:sip:example.com", "example.com"));
        assert!(covers("DNS:*.example.com", "sip.example.com"));
        assert!(!covers("DNS:*.example.com", "a.sip.example.com") && !covers("DNS:example.com", "sip.example.com"));
        assert!(!covers("IP:10.0.0.1", "10.0.0.1"));
    }
}
