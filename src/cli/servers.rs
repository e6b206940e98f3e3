//! `hawser servers`: asks a running proxy for its pairs of SIP Servers, and lays out what it says for reading.
//! `hawser pin` and `hawser release`: tell it which one is active.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::ask::{AskError, Proxy};
use super::locate::{cell, escaped};

/// A server of a pair, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Which {
    /// `primary` of the settings.
    Primary,
    /// `backup` of the settings.
    Backup,
}

/// Why nothing was pinned or released.
#[derive(Debug)]
pub(super) enum PinError {
    /// The proxy cannot be asked.
    Ask(AskError),
    /// The proxy refuses: the pair, and what is said of it.
    Refused(String, String),
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(fault) => fault.fmt(f),
            Self::Refused(pair, why) => write!(f, "{pair}: {why}"),
        }
    }
}

impl From<AskError> for PinError {
    fn from(fault: AskError) -> Self {
        Self::Ask(fault)
    }
}

/// Pins a server of a pair, or releases it, and says so.
pub(super) fn pin(pair: &str, which: Option<Which>, proxy: &Proxy) -> Result<String, PinError> {
    let name = escaped(pair);
    let path = match which {
        Some(Which::Primary) => format!("/servers/{name}/pin?member=primary"),
        Some(Which::Backup) => format!("/servers/{name}/pin?member=backup"),
        None => format!("/servers/{name}/release"),
    };
    let (status, body) = proxy.ask("POST", &path)?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status, &json["error"], &json["pinned"]) {
        (200, _, Value::String(member)) => Ok(format!("{pair}: {member} is active until it is released\n")),
        (200, _, Value::Null) if json.is_object() => Ok(format!("{pair}: released\n")),
        // 404 without a reason is also what another server says to a path that it does not know.
        (200 | 404, Value::Null, _) => Err(proxy.not_hawser().into()),
        (_, Value::Null, _) => Err(proxy.status(status).into()),
        (_, why, _) => Err(PinError::Refused(pair.to_owned(), cell(why))),
    }
}

/// Asks a proxy for its pairs and gives them as tables.
pub(super) fn servers(proxy: &Proxy) -> Result<String, AskError> {
    let (status, body) = proxy.ask("GET", "/servers")?;
    match (status, serde_json::from_slice(&body)) {
        (200, Ok(Value::Array(pairs))) => Ok(pairs.iter().map(pair).collect::<Vec<_>>().join("\n")),
        (200, _) => Err(proxy.not_hawser()),
        _ => Err(proxy.status(status)),
    }
}

/// One pair: a line for itself, and one for each address of its servers.
fn pair(pair: &Value) -> String {
    let mut out = format!(
        "{}: {} is {} for {} ({})\n",
        cell(&pair["name"]),
        cell(&pair["active"]),
        if pair["pinned"] == true { "pinned" } else { "active" },
        span(&pair["since_s"]),
        cell(&pair["why"]),
    );
    // Writing to a String does not fail.
    if !pair["out_since_s"].is_null() {
        writeln!(out, "  40001: neither server has answered for {}", span(&pair["out_since_s"])).unwrap_or_default();
    }
    let rows = pair["servers"].as_array().map_or(&[][..], Vec::as_slice);
    let address = |row: &Value| if row["address"].is_null() { "no address".to_owned() } else { cell(&row["address"]) };
    let width = rows.iter().map(|row| address(row).len()).max().unwrap_or(0);
    for row in rows {
        let member = cell(&row["member"]);
        let (state, since) = (if row["up"] == true { "up" } else { "down" }, span(&row["since_s"]));
        writeln!(out, "  {member:<7}  {:<width$}  {state:<4}  for {since}: {}", address(row), cell(&row["why"]))
            .unwrap_or_default();
    }
    out
}

/// A number of seconds in words.
pub(super) fn span(seconds: &Value) -> String {
    let s = seconds.as_u64().unwrap_or(0);
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, min, s) => format!("{min} min {s} s"),
        (0, h, min, _) => format!("{h} h {min} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;
    use crate::abuse::{self, BanRow};
    use crate::admin::{self, About, Readiness, Source};
    use crate::engine::Located;
    use crate::server_pool::{Member, PinFault};
    use crate::stats::{PairRow, Snapshot};

    /// A proxy with one pair, `sips 1`, that has no backup.
    struct OnePair;

    impl Source for OnePair {
        fn snapshots(&self) -> Vec<Snapshot> {
            Vec::new()
        }

        fn locate(&self, _: &str) -> Option<Vec<Located>> {
            None
        }

        fn pairs(&self) -> Option<Vec<PairRow>> {
            Some(Vec::new())
        }

        fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>> {
            match (pair, member) {
                ("sips 1", Some(Member::Backup)) => Some(Err(PinFault::Member)),
                ("sips 1", _) => Some(Ok(())),
                ("silent", _) => None,
                _ => Some(Err(PinFault::Pair)),
            }
        }

        fn bans(&self) -> Option<Vec<BanRow>> {
            None
        }

        fn unban(&self, _: abuse::Source) -> Option<bool> {
            None
        }

        fn running(&self) -> (usize, usize) {
            (1, 1)
        }

        fn readiness(&self) -> Readiness {
            Readiness::Ready
        }

        fn pairs_answering(&self) -> Option<(usize, usize)> {
            None
        }

        fn about(&self) -> About {
            unreachable!("nobody asks")
        }
    }

    #[test]
    fn a_running_proxy_is_told_to_pin_and_to_release() {
        let admin = admin::start(TcpListener::bind("127.0.0.1:0").unwrap(), OnePair, admin::Access::default()).unwrap();
        let proxy = Proxy::at(&admin.address().to_string()).unwrap();
        let pinned = pin("sips 1", Some(Which::Primary), &proxy).unwrap();
        assert_eq!(pinned, "sips 1: primary is active until it is released\n");
        assert_eq!(pin("sips 1", None, &proxy).unwrap(), "sips 1: released\n");
        let refused = |pair: &str, which| pin(pair, which, &proxy).unwrap_err();
        assert_eq!(refused("sips 1", Some(Which::Backup)).to_string(), "sips 1: the pair has no backup");
        assert_eq!(refused("other", None).to_string(), "other: there is no pair of this name");
        assert!(matches!(refused("silent", None), PinError::Ask(AskError::Status(_, 503))));
        assert_eq!(servers(&proxy).unwrap(), "");
    }

    #[test]
    fn a_pair_is_laid_out_for_reading() {
        let answer = json!({
            "name": "sips1", "active": "backup", "since_s": 61, "why": "no answer in time", "pinned": false,
            "out_since_s": null,
            "servers": [
                { "member": "primary", "address": "192.0.2.1:5060", "up": false, "since_s": 61, "why": "no answer in time" },
                { "member": "backup", "address": "[2001:db8::2]:5060", "up": true, "since_s": 90_061, "why": "\u{1b}[2J" },
            ],
        });
        assert_eq!(
            pair(&answer),
            "sips1: backup is active for 1 min 1 s (no answer in time)\n\
             \x20 primary  192.0.2.1:5060      down  for 1 min 1 s: no answer in time\n\
             \x20 backup   [2001:db8::2]:5060  up    for 1 d 1 h: ?[2J\n"
        );
    }

    #[test]
    fn a_pin_an_outage_and_a_name_without_an_address_are_told() {
        let answer = json!({
            "name": "sips1", "active": "primary", "since_s": 7_300, "why": "pinned by an operator", "pinned": true,
            "out_since_s": 5,
            "servers": [{ "member": "primary", "address": null, "up": false, "since_s": 5, "why": "its name does not resolve" }],
        });
        assert_eq!(
            pair(&answer),
            "sips1: primary is pinned for 2 h 1 min (pinned by an operator)\n\
             \x20 40001: neither server has answered for 5 s\n\
             \x20 primary  no address  down  for 5 s: its name does not resolve\n"
        );
    }
}
