//! What this release does not have: a key that asks for it is refused, never ignored.
//!
//! One row for each feature. The change that brings a feature deletes its row.

use super::document::Lines;
use super::error::{ConfigError, Fault};
use super::keys::Key;
use super::settings::Config;
use super::value::LogFormat;

/// A key or `[[table]]`, and the index of the first table that asks for its feature.
struct Row {
    key: &'static str,
    /// Whether there are values that this release takes, besides the one that means off.
    partly: bool,
    asks: fn(&Config, &Lines) -> Option<usize>,
}

const ROWS: &[Row] = &[
    Row { key: "hep.address", partly: false, asks: |config, _| first(config.hep.address.is_some()) },
    Row { key: "log.format", partly: true, asks: |config, _| first(config.log.format == LogFormat::Json) },
];

pub(super) fn refuse(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for row in ROWS {
        if let Some(index) = (row.asks)(config, lines) {
            return Err(lines.error(row.key, index, Fault::NotYet));
        }
    }
    Ok(())
}

impl Key {
    /// Whether this release takes nothing for it but the value that means off.
    #[must_use]
    pub fn is_later(&self) -> bool {
        is_later(self.name)
    }
}

/// Whether this release takes nothing for a key but the value that means off.
pub(super) fn is_later(name: &str) -> bool {
    let row =
        |row: &Row| !row.partly && (name == row.key || name.strip_prefix(row.key).is_some_and(|k| k.starts_with('.')));
    ROWS.iter().any(row)
}

fn first(asks: bool) -> Option<usize> {
    asks.then_some(0)
}
