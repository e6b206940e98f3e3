//! What this release does not have: a key that asks for it is refused, never ignored.
//!
//! One row for each feature. The change that brings a feature deletes its row.

use super::document::Lines;
use super::error::{ConfigError, Fault};
use super::{Config, SideSecurity};
use crate::ids::Side;

/// A key or `[[table]]`, and the index of the first table that asks for its feature.
struct Row {
    key: &'static str,
    /// Whether there are values that this release takes, besides the one that means off.
    partly: bool,
    asks: fn(&Config, &Lines) -> Option<usize>,
}

/// A key of `[security]`, and whether a side asks for its feature.
struct SideRow {
    key: &'static str,
    asks: fn(&SideSecurity) -> bool,
}

const ROWS: &[Row] = &[Row {
    key: "sipproxy.overload-ctrl-dialog-rate",
    partly: false,
    asks: |config, _| first(config.sipproxy.overload_ctrl_dialog_rate != 0),
}];

const SIDE_ROWS: &[SideRow] = &[
    SideRow { key: "ticket-key-file", asks: |side| side.ticket_key_file.is_some() },
    SideRow { key: "ticket-key-hours", asks: |side| side.ticket_key_hours != 12 },
];

pub(super) fn refuse(config: &Config, lines: &Lines) -> Result<(), ConfigError> {
    for row in ROWS {
        if let Some(index) = (row.asks)(config, lines) {
            return Err(lines.error(row.key, index, Fault::NotYet));
        }
    }
    for row in SIDE_ROWS {
        for (side, table) in [(Side::Server, "security.server"), (Side::Endpoint, "security.endpoint")] {
            if (row.asks)(config.security.side(side)) {
                let own = format!("{table}.{}", row.key);
                let asked = if lines.has(&own, 0) { own } else { format!("security.{}", row.key) };
                return Err(lines.error(&asked, 0, Fault::NotYet));
            }
        }
    }
    Ok(())
}

/// Whether this release takes nothing for a key but the value that means off.
pub(super) fn is_later(name: &str) -> bool {
    let row =
        |row: &Row| !row.partly && (name == row.key || name.strip_prefix(row.key).is_some_and(|k| k.starts_with('.')));
    let side_key = name.strip_prefix("security.");
    ROWS.iter().any(row) || SIDE_ROWS.iter().any(|row| side_key == Some(row.key))
}

fn first(asks: bool) -> Option<usize> {
    asks.then_some(0)
}
