//! `hawser bans` and `hawser unban`: which addresses a running proxy has shut out, and letting one in again.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::ask::{AskError, Proxy};
use super::locate::{cell, escaped};
use super::servers::span;

/// Why nobody was let in.
#[derive(Debug)]
pub(super) enum UnbanError {
    /// The proxy cannot be asked.
    Ask(AskError),
    /// The proxy refuses: the address, and what is said of it.
    Refused(String, String),
}

impl fmt::Display for UnbanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(fault) => fault.fmt(f),
            Self::Refused(address, why) => write!(f, "{address}: {why}"),
        }
    }
}

impl From<AskError> for UnbanError {
    fn from(fault: AskError) -> Self {
        Self::Ask(fault)
    }
}

/// Asks a proxy whom it has shut out, and lays out what it says for reading.
pub(super) fn bans(proxy: &Proxy) -> Result<String, AskError> {
    let (status, body) = proxy.ask("GET", "/bans")?;
    match (status, serde_json::from_slice(&body)) {
        (200, Ok(Value::Array(bans))) if bans.is_empty() => Ok("no address is shut out\n".to_owned()),
        (200, Ok(Value::Array(bans))) => Ok(bans.iter().map(ban).collect()),
        (200, _) => Err(proxy.not_hawser()),
        _ => Err(proxy.status(status)),
    }
}

/// Lets an address in again, and says so.
pub(super) fn unban(address: &str, proxy: &Proxy) -> Result<String, UnbanError> {
    let (status, body) = proxy.ask("POST", &format!("/unban?address={}", escaped(address)))?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status, &json["error"], &json["address"]) {
        (200, _, Value::String(_)) => Ok(format!("{}: let in again\n", cell(&json["address"]))),
        (200 | 404, Value::Null, _) => Err(proxy.not_hawser().into()),
        (_, Value::Null, _) => Err(proxy.status(status).into()),
        (_, why, _) => Err(UnbanError::Refused(address.to_owned(), cell(why))),
    }
}

/// Two lines for each: since and until when, and why.
fn ban(ban: &Value) -> String {
    let mut out = format!(
        "{}: shut out for {}, {} left (time {}); {} connections turned away\n",
        cell(&ban["address"]),
        span(&ban["since_s"]),
        span(&ban["left_s"]),
        cell(&ban["time"]),
        cell(&ban["turned_away"]),
    );
    let kinds = [
        ("connections", "failed connections"),
        ("malformed", "malformed messages"),
        ("refused", "requests refused with 403"),
        ("registers", "addresses of record refused"),
    ];
    let said = kinds.iter().filter(|(key, _)| ban["failed"][key].as_u64() != Some(0));
    let said: Vec<_> = said.map(|(key, words)| format!("{} {words}", cell(&ban["failed"][key]))).collect();
    // Writing to a String does not fail.
    writeln!(out, "  {}", said.join(", ")).unwrap_or_default();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ban_is_laid_out_for_reading() {
        let row = json!({
            "address": "203.0.113.66", "since_s": 61, "left_s": 1_139, "time": 2, "turned_away": 4_312,
            "failed": { "connections": 153, "malformed": 0, "refused": 0, "registers": 16 },
        });
        assert_eq!(
            ban(&row),
            "203.0.113.66: shut out for 1 min 1 s, 18 min 59 s left (time 2); 4312 connections turned away\n\
             \x20 153 failed connections, 16 addresses of record refused\n"
        );
    }
}
