//! Every key of the schema, once: what the README's table is made from and what an unknown key is told by.

/// A key of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted: table and key.
    pub name: &'static str,
    /// As it is written in TOML; empty when the key has to be given. `internal-protocol` and `security` stand for what
    /// is said there.
    pub default: &'static str,
    /// Meaning, unit and range.
    pub meaning: &'static str,
}

/// The schema as a table in Markdown, as the README has it.
#[must_use]
pub fn markdown() -> String {
    let mut table = "| key | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for Key { name, default, meaning } in KEYS {
        let default = match *default {
            "" => "*required*".to_owned(),
            text => format!("`{text}`"),
        };
        let live = if is_live(name) { " *Live.*" } else { "" };
        table.push_str(&format!("| `{name}` | {default} | {meaning}{live} |\n"));
    }
    table
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning }
}

/// Every key. Those of `[security]` stand in `[security.server]` and `[security.endpoint]` too, but for what is said of
/// one side only.
pub const KEYS: &[Key] = &[
    key("sipproxy.sip-address", "\"127.0.0.1\"", "Address that is bound, and written into Via, Record-Route and Path."),
    key(
        "sipproxy.external-address",
        "\"\"",
        "Name or address to write into Via, Record-Route and Path when it differs from the one that is bound.",
    ),
    key("sipproxy.sip-port", "5060", "Port for UDP and TCP; 0–65535, 0 = off."),
    key("sipproxy.tls-port", "5061", "Port for TLS, the same on every proxy of a pool; 0–65535, 0 = off."),
    key("sipproxy.http-port", "8080", "Port for statistics and control; 0–65535, 0 = off."),
    key("sipproxy.http-address", "\"127.0.0.1\"", "Address of http-port."),
    key("sipproxy.http-tls", "false", "HTTPS on http-port, with the certificate that phones see."),
    key(
        "sipproxy.http-token-file",
        "\"\"",
        "File with the bearer token that http-port asks for, but not for / and the probes; 16 to 512 letters, digits or -._~+/.",
    ),
    key(
        "sipproxy.http-in-the-clear",
        "false",
        "Says that http-port on an address that is not loopback is wanted without TLS and token.",
    ),
    key("sipproxy.domains", "[]", "Names that mean this proxy or its pool."),
    key("sipproxy.cores", "\"all\"", "Cores that get a shard each: \"all\" or numbers such as \"0-3,6\"; at most 64."),
    key(
        "sipproxy.driver",
        "\"auto\"",
        "What the shards wait with: io_uring, epoll, or auto: io_uring where the system allows it, else epoll.",
    ),
    key("sipproxy.internal-protocol", "\"udp\"", "Transport between SIP Server and proxy: udp, tcp or tls."),
    key("sipproxy.sticky", "\"path\"", "How the SIP Server finds the way back to a phone: path, contact or aor."),
    key(
        "sipproxy.path-add-supported",
        "true",
        "Adds `Supported: path` for phones that do not say it, and takes Path out of their 2xx.",
    ),
    key(
        "sipproxy.flow-token-key-file",
        "\"\"",
        "Key of flow tokens, 64 hex digits, shared and lasting; made when missing. \"\" = made at start.",
    ),
    key(
        "sipproxy.flow-grace",
        "3",
        "Seconds that an in-dialog request waits for a phone to come back; 0–32, fractions allowed, 0 = off.",
    ),
    key("sipproxy.oos-check", "5", "Seconds between OPTIONS to the active SIP Server; 0–300, 0 = off."),
    key("sipproxy.oos-force", "5", "Seconds between OPTIONS while no SIP Server answers; 1–32, fractions allowed."),
    key(
        "sipproxy.overload-ctrl-dialog-rate",
        "0",
        "Hard cap on INVITEs that begin a dialog, each second, in the whole process; 0–1000000, 0 = off.",
    ),
    key(
        "sipproxy.sip-ip-tos",
        "256",
        "IP TOS byte (IPv6: traffic class) of SIP packets; 0–255, 256 = left to the system.",
    ),
    key("sipproxy.serving-sipserver", "\"\"", "Name of the pair that all endpoint requests go to."),
    key("sipproxy.trusted-sources", "[]", "Further addresses and networks that count as the SIP Server."),
    key(
        "sipproxy.udp-oversize-action",
        "\"tcp\"",
        "What becomes of a request of more than 1,300 bytes over UDP: tcp (then udp), udp, or reject (513). What no datagram can carry (65,507 bytes) gets 513 in any case.",
    ),
    key(
        "sipproxy.spin-before-park-us",
        "0",
        "Microseconds that an idle core spins before it sleeps, for lower latency; 0–1000000.",
    ),
    key(
        "sipproxy.gather-us",
        "0",
        "Microseconds to wait for more before each pass under load: less CPU, more latency; 0–10000.",
    ),
    key(
        "listener.side",
        "\"both\"",
        "Which side it serves: endpoint (nobody counts as a server there), server (whoever is none gets 403) or both.",
    ),
    key("listener.address", "", "Address that is bound."),
    key("listener.advertise", "\"\"", "Name or address for Via, Record-Route and Path."),
    key("listener.sip-port", "5060", "Port for UDP and TCP; 0–65535, 0 = off."),
    key("listener.tls-port", "5061", "Port for TLS; 0–65535, 0 = off."),
    key("sip-server.name", "", "Name of the pair; 1 to 64 letters, digits, '.', '_' or '-'."),
    key("sip-server.primary", "", "Address and port of the SIP Server, or a name to resolve."),
    key("sip-server.backup", "\"\"", "The same for its backup."),
    key("sip-server.transport", "internal-protocol", "udp, tcp or tls for this server."),
    key("sip-server.tls-name", "\"\"", "Name that its certificate must carry; \"\" = the name or address of primary."),
    key("sip-server.verify", "\"name\"", "name, or chain to leave the name out."),
    key(
        "sip-server.certificate",
        "security",
        "PEM file with the certificate of ours that this server is shown, with its chain; absent = that of the server side, \"\" = none.",
    ),
    key("sip-server.certificate-key", "security", "PEM file with its private key."),
    key(
        "sip-server.trusted-ca",
        "security",
        "PEM file with the CAs that this server is verified against; absent = those of the server side.",
    ),
    key("sip-server.system-roots", "security", "The system's CAs count for this server too."),
    key(
        "sip-server.crl",
        "security",
        "File with the revocation lists that count for this server; absent = that of the server side, \"\" = none.",
    ),
    key("peer-proxy.name", "", "Name of the site; 1 to 64 letters, digits, '.', '_' or '-'."),
    key("peer-proxy.servers", "", "Addresses of the SIP Servers of that site."),
    key("peer-proxy.peer-proxy-contact", "", "Name or address of that site's proxy."),
    key("peer-proxy.peer-proxy-protocol", "\"tls\"", "udp, tcp or tls."),
    key(
        "peer-proxy.peer-proxy-port-tls",
        "0",
        "TLS port of that site's proxy; 1–65535, 0 = what the DNS says of peer-proxy-contact, 5061 for an address.",
    ),
    key("peer-proxy.tls-name", "\"\"", "Name that its certificate must carry; \"\" = peer-proxy-contact."),
    key("peer-proxy.verify", "\"name\"", "name, or chain to leave the name out."),
    key(
        "peer-proxy.certificate",
        "security",
        "PEM file with the certificate of ours that that proxy is shown, with its chain; absent = that of the endpoint side, \"\" = none.",
    ),
    key("peer-proxy.certificate-key", "security", "PEM file with its private key."),
    key(
        "peer-proxy.trusted-ca",
        "security",
        "PEM file with the CAs that that proxy is verified against; absent = those of the endpoint side.",
    ),
    key("peer-proxy.system-roots", "security", "The system's CAs count for that proxy too."),
    key(
        "peer-proxy.crl",
        "security",
        "File with the revocation lists that count for that proxy; absent = that of the endpoint side, \"\" = none.",
    ),
    key("device.network", "", "Addresses of devices that do not register."),
    key("device.tls-name", "\"\"", "Name that their certificates must carry; \"\" = the target of the request."),
    key("device.verify", "\"name\"", "name, or chain to leave the name out."),
    key(
        "device.certificate",
        "security",
        "PEM file with the certificate of ours that these devices are shown, with its chain; absent = that of the endpoint side, \"\" = none.",
    ),
    key("device.certificate-key", "security", "PEM file with its private key."),
    key(
        "device.trusted-ca",
        "security",
        "PEM file with the CAs that these devices are verified against; absent = those of the endpoint side.",
    ),
    key("device.system-roots", "security", "The system's CAs count for these devices too."),
    key(
        "device.crl",
        "security",
        "File with the revocation lists that count for these devices; absent = that of the endpoint side, \"\" = none.",
    ),
    key(
        "network.network",
        "",
        "Network whose addresses have shares of their own, for a site or a load balancer stands behind one; the smallest that holds an address counts.",
    ),
    key("network.unregistered-max", "1024", "Connections without a binding, of each address; 1–1000000."),
    key("network.handshakes-max", "192", "TLS handshakes in the air of a shard, of each address; 1–256."),
    key(
        "network.proxy-protocol",
        "false",
        "Connections from there begin with a PROXY header (v1 or v2): they are a load balancer's, and the address in it is the phone's from then on.",
    ),
    key(
        "network.bans",
        "true",
        "An address that only fails is slowed, then shut out for a time; never a load balancer's (proxy-protocol).",
    ),
    key(
        "security.tls-mutual",
        "0",
        "Whether client certificates are asked for and verified on every TLS port; 0 or 1.",
    ),
    key("security.certificate", "\"\"", "PEM file with our certificate and its chain."),
    key("security.certificate-key", "\"\"", "PEM file with its private key."),
    key(
        "security.trusted-ca",
        "\"\"",
        "PEM file with the CAs that servers, peers and (with tls-mutual) clients are verified against.",
    ),
    key("security.system-roots", "false", "The system's CAs count too."),
    key("security.crl", "\"\"", "File with certificate revocation lists, in PEM or one in DER."),
    key(
        "security.client-eku",
        "\"strict\"",
        "Extended key usage of client certificates: strict (clientAuth or none) or any (serverAuth too).",
    ),
    key(
        "security.client-aor",
        "\"off\"",
        "What a phone's certificate must cover, with tls-mutual = 1, of the address that it registers or sends from: off, domain (its domain or its user) or user. Not in [security.server].",
    ),
    key(
        "security.ticket-key-file",
        "\"\"",
        "Secret of session tickets, 64 hex digits; made when missing. \"\" = a secret of this start.",
    ),
    key("security.ticket-key-hours", "12", "Hours that a ticket key is used; 1–168."),
    key(
        "security.key-log-file",
        "\"\"",
        "File that the keys of all TLS sessions are appended to (NSS key log format), for reading captures: whoever has it reads all traffic.",
    ),
    key("security.sni.domain", "", "Name for which a certificate of its own is shown."),
    key("security.sni.certificate", "", "PEM file with that certificate and its chain."),
    key("security.sni.certificate-key", "", "PEM file with its private key."),
    key("dns.servers", "[]", "Resolvers, such as \"127.0.0.1:53\"; [] = those of resolv.conf."),
    key("dns.ttl-stale", "3600", "Seconds that expired records serve while no resolver answers; 0–604800."),
    key("timers.t1", "500", "Milliseconds, RFC 3261 table 4; 10–10000."),
    key("timers.t2", "4000", "Milliseconds, at least t1; 10–60000."),
    key("timers.t4", "5000", "Milliseconds; 10–60000."),
    key("timers.c", "180000", "Milliseconds, may be less than 3 minutes; 100–86400000."),
    key("hep.address", "\"\"", "The Homer collector that messages are sent to, as \"192.0.2.9:9060\"; \"\" = off."),
    key("hep.capture-id", "0", "What this proxy is known by there; 0–4294967295."),
    key("hep.what", "\"traced\"", "What is sent there: traced or all."),
    key("log.level", "\"info\"", "off, error, warn, info, debug or trace."),
    key("log.format", "\"text\"", "text or json."),
];

/// What a running proxy takes up when it is told to read its settings again; all else counts from the next start on.
pub(super) const LIVE: &[&str] = &[
    "sipproxy.domains",
    "sipproxy.path-add-supported",
    "sipproxy.flow-grace",
    "sipproxy.oos-check",
    "sipproxy.oos-force",
    "sipproxy.overload-ctrl-dialog-rate",
    "sipproxy.trusted-sources",
    "sipproxy.udp-oversize-action",
    "network.network",
    "network.unregistered-max",
    "network.handshakes-max",
    "network.proxy-protocol",
    "network.bans",
    "timers.t1",
    "timers.t2",
    "timers.t4",
    "timers.c",
    "log.level",
];

/// Whether a key is one of [`LIVE`].
pub(super) fn is_live(name: &str) -> bool {
    LIVE.contains(&name)
}

/// What a key says when it is not written, as in [`Key::default`].
pub(super) fn default(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default)
}

/// The tables of one side, which override `[security]`.
pub(super) const SIDE_TABLES: [&str; 2] = ["security.server", "security.endpoint"];

/// What is said of one side only.
const ENDPOINT_ONLY: [&str; 1] = ["security.server.client-aor"];

/// Tables that stand once, and those that may stand several times.
const TABLES: [&str; 8] = ["sipproxy", "security", SIDE_TABLES[0], SIDE_TABLES[1], "dns", "timers", "hep", "log"];
const LISTS: [&str; 6] = ["listener", "sip-server", "peer-proxy", "device", "network", "security.sni"];

/// What a name in the document stands for.
pub(super) enum Kind {
    Table,
    Tables,
    Key,
}

/// What a dotted name stands for; `None` for one that the schema does not have.
pub(super) fn kind(name: &str) -> Option<Kind> {
    if TABLES.contains(&name) {
        Some(Kind::Table)
    } else if LISTS.contains(&name) {
        Some(Kind::Tables)
    } else {
        is_key(name).then_some(Kind::Key)
    }
}

/// The key or table that an unknown name was probably meant for: one that is spelt nearly the same, in the same table if
/// there is such a one, or else in a table that stands once.
pub(super) fn nearest(name: &str) -> Option<String> {
    let (table, last) = split(name);
    let of_sides = SIDE_TABLES.into_iter().flat_map(|side| {
        let both = KEYS.iter().filter_map(|key| key.name.strip_prefix("security.").filter(|bare| !bare.contains('.')));
        both.map(move |bare| format!("{side}.{bare}"))
    });
    let all = KEYS.iter().map(|key| key.name).chain(TABLES).chain(LISTS).map(str::to_owned).chain(of_sides);
    let near = all.filter(|known| !ENDPOINT_ONLY.contains(&known.as_str())).filter_map(|known| {
        let (its_table, its_last) = split(&known);
        let other = its_table != table;
        let (distance, length) = (distance(last, its_last), last.chars().count());
        let distance_max = if other { length / 5 } else { (length / 3).max(1) };
        // A table of a list is seldom meant by who names none.
        let is_list = other && LISTS.contains(&its_table);
        let how_near = (distance + if is_list { 2 } else { 0 }, other);
        (distance <= distance_max).then_some((how_near, known))
    });
    near.min_by_key(|(how_near, _)| *how_near).map(|(_, known)| known)
}

fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// How many characters have to be put in, taken out or replaced to make one word of the other (Levenshtein). Case, and
/// whether words are joined by `-` or `_`, make no difference.
fn distance(a: &str, b: &str) -> usize {
    let letters = |word: &str| -> Vec<char> { word.to_ascii_lowercase().replace('_', "-").chars().collect() };
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for (nth, to) in b.iter().enumerate() {
            let replaced = before + usize::from(from != to);
            before = row[nth + 1];
            row[nth + 1] = replaced.min(before + 1).min(row[nth] + 1);
        }
    }
    row[b.len()]
}

fn is_key(name: &str) -> bool {
    if ENDPOINT_ONLY.contains(&name) {
        return false;
    }
    let side_key = SIDE_TABLES.iter().find_map(|table| name.strip_prefix(table)?.strip_prefix('.'));
    match side_key {
        Some(bare) => KEYS.iter().any(|key| key.name.strip_prefix("security.") == Some(bare) && !bare.contains('.')),
        None => KEYS.iter().any(|key| key.name == name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_spelt_nearly_so_or_stands_elsewhere_is_found() {
        for (name, meant) in [
            ("sipproxy.sip_port", "sipproxy.sip-port"),
            ("sipproxy.Sticky", "sipproxy.sticky"),
            ("sipproxy.flow-grase", "sipproxy.flow-grace"),
            ("sipproxy.domain", "sipproxy.domains"),
            ("sipproxy.tlsport", "sipproxy.tls-port"),
            ("sip-port", "sipproxy.sip-port"),
            ("sip-servers", "sip-server"),
            ("sipproxy.trusted-ca", "security.trusted-ca"),
            ("security.server.certificat", "security.server.certificate"),
            ("security.server.sni", "security.sni"),
            ("security.server.client-aor", "security.client-aor"),
        ] {
            assert_eq!(nearest(name).as_deref(), Some(meant), "{name}");
        }
        for name in ["sipproxy.colour", "weight", "security.phones", "x", ""] {
            assert_eq!(nearest(name), None, "{name}");
        }
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("sip_PORT", "sip-port"), 0);
    }
}
