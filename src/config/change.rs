//! What a configuration text says otherwise than the one that is in use.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::error::ConfigError;
use super::keys::{self, Kind};

/// A key whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `FILE:LINE: key`; the line of its table, or 1, when it is no longer there.
    pub place: String,
    /// Taken up while the proxy runs; else it counts from the next start on.
    pub is_live: bool,
}

/// What each key that is written says, by its dotted name and its index in `[[tables]]`.
type Values = BTreeMap<(String, usize), String>;

/// The values that are in use.
#[derive(Debug)]
pub struct InUse(Values);

impl InUse {
    /// The settings of a text that a start was made with.
    ///
    /// # Errors
    /// It is no TOML, or has keys that do not exist.
    pub fn new(text: &str, file: &str) -> Result<Self, ConfigError> {
        Document::parse(text, file).map(|document| Self(values(document.root())))
    }

    /// What the text says otherwise, in the order of the keys' names. What is live counts as in use from now on, so that
    /// the next call tells of the rest alone.
    ///
    /// # Errors
    /// As [`InUse::new`]; nothing has changed then.
    pub fn take(&mut self, text: &str, file: &str) -> Result<Vec<Change>, ConfigError> {
        let document = Document::parse(text, file)?;
        let now = values(document.root());
        let mut changes = Vec::new();
        let all: BTreeSet<_> = self.0.keys().chain(now.keys()).cloned().collect();
        for at in all {
            let (before, after) = (said(&self.0, &at), said(&now, &at));
            if before == after {
                continue;
            }
            let (key, index) = &at;
            let is_live = keys::is_live(key) && !turns_checks_on_or_off(key, &before, &after);
            changes.push(Change { place: document.lines.place(key, *index), is_live });
            if is_live {
                self.0.insert(at, after);
            }
        }
        Ok(changes)
    }
}

/// What a key says; one that is not written says its default.
fn said(values: &Values, at: &(String, usize)) -> String {
    let default = || {
        let text = format!("key = {}", keys::default(&at.0));
        let table = DeTable::parse(&text).ok();
        table.and_then(|table| table.get_ref().get("key").map(|value| normal(value.get_ref()))).unwrap_or_default()
    };
    values.get(at).cloned().unwrap_or_else(default)
}

/// What a pair is known by with checks and without is not the same.
fn turns_checks_on_or_off(key: &str, before: &str, after: &str) -> bool {
    key == "sipproxy.oos-check" && (before == "0") != (after == "0")
}

fn values(root: &DeTable<'_>) -> Values {
    let mut all = Values::new();
    collect(root, "", 0, &mut all);
    all
}

fn collect(table: &DeTable<'_>, path: &str, index: usize, all: &mut Values) {
    for (key, value) in table.iter() {
        let name = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        match (keys::kind(&name), value.get_ref()) {
            (Some(Kind::Key), value) => {
                all.insert((name, index), normal(value));
            }
            (_, DeValue::Table(inner)) => collect(inner, &name, 0, all),
            (_, DeValue::Array(list)) => {
                for (at, item) in list.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        collect(inner, &name, at, all);
                    }
                }
            }
            // `Document` has refused it.
            _ => {}
        }
    }
}

/// The value in one form, whichever way it is written.
fn normal(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map_or_else(|_| number.as_str().to_owned(), |number| number.to_string())
        }
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(list) => {
            let items: Vec<_> = list.iter().map(|item| normal(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let items: Vec<_> =
                table.iter().map(|(key, value)| format!("{} = {}", key.get_ref(), normal(value.get_ref()))).collect();
            format!("{{{}}}", items.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[sipproxy]\ndomains = [\"a.example\"]\nflow-grace = 3\nsip-port = 5060\n\
                        [[sip-server]]\nname = \"one\"\nprimary = \"10.0.0.1:5060\"\n\
                        [[sip-server]]\nname = \"two\"\nprimary = \"10.0.0.2:5060\"\n[security]\ncrl = \"a.crl\"\n";

    fn changed(text: &str) -> Vec<(String, bool)> {
        let mut in_use = InUse::new(TEXT, "h.toml").unwrap();
        let changes = in_use.take(text, "h.toml").unwrap();
        changes.into_iter().map(|change| (change.place, change.is_live)).collect()
    }

    #[test]
    fn each_changed_key_is_named_with_its_line_and_whether_it_is_live() {
        let same = TEXT.replace("\nflow-grace = 3", "").replace("sip-port = 5060", "sip-port = 0x13c4 # the same");
        assert_eq!(changed(&same), []);
        let text = TEXT
            .replace("\"a.example\"", "\"a.example\", \"b.example\"")
            .replace("flow-grace = 3", "flow-grace = 3.5")
            .replace("sip-port = 5060", "sip-port = 5070\ndriver = \"epoll\"")
            .replace("10.0.0.2:", "10.0.0.3:")
            .replace("crl = \"a.crl\"\n", "");
        let want = [
            ("h.toml:12: security.crl", false),
            ("h.toml:11: sip-server.primary", false),
            ("h.toml:2: sipproxy.domains", true),
            ("h.toml:5: sipproxy.driver", false),
            ("h.toml:3: sipproxy.flow-grace", true),
            ("h.toml:4: sipproxy.sip-port", false),
        ];
        assert_eq!(changed(&text), want.map(|(place, live)| (place.to_owned(), live)));
    }

    #[test]
    fn what_is_live_is_told_once_and_what_needs_a_restart_each_time() {
        let mut in_use = InUse::new(TEXT, "h.toml").unwrap();
        let text = TEXT.replace("flow-grace = 3", "flow-grace = 5").replace("sip-port = 5060", "sip-port = 5070");
        assert_eq!(in_use.take(&text, "h.toml").unwrap().len(), 2);
        let again = in_use.take(&text, "h.toml").unwrap();
        assert_eq!(again, [Change { place: "h.toml:4: sipproxy.sip-port".to_owned(), is_live: false }]);
        assert!(in_use.take("[sipproxy]\nno-such = 1\n", "h.toml").is_err());
        assert_eq!(in_use.take(TEXT, "h.toml").unwrap().len(), 1, "back again");
    }

    #[test]
    fn service_checks_are_turned_on_and_off_by_a_start_only() {
        let with = |seconds: u32| TEXT.replace("flow-grace = 3", &format!("flow-grace = 3\noos-check = {seconds}"));
        assert_eq!(changed(&with(7)), [("h.toml:4: sipproxy.oos-check".to_owned(), true)]);
        assert_eq!(changed(&with(0)), [("h.toml:4: sipproxy.oos-check".to_owned(), false)]);
        assert_eq!(changed(&with(5)), [], "the default");
    }

    #[test]
    fn every_key_that_is_live_exists() {
        for key in keys::LIVE {
            assert!(keys::KEYS.iter().any(|known| known.name == *key), "{key}");
        }
    }
}
