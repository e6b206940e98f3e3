//! The README says what the code says: every setting, metric and bound, and what is refused for now.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use hawser::config::{self, Config};
use hawser::stats::{COUNTERS, GAUGES, Row};

use crate::{Fault, File};

/// The README between `<!-- NAME -->` and the next `<!-- end -->`.
fn part<'a>(readme: &'a str, name: &str) -> &'a str {
    let after = readme.split_once(&format!("<!-- {name} -->\n")).map_or("", |(_, after)| after);
    after.split_once("<!-- end -->").map_or("", |(part, _)| part)
}

/// The table of every metric of the shards, as it has to stand in the README.
fn metrics() -> String {
    let mut out = "| metric | labels | what |\n| --- | --- | --- |\n".to_owned();
    for table in [COUNTERS, GAUGES] {
        for family in table.chunk_by(|a, b| a.name == b.name) {
            let Row { name, help, labels } = family[0];
            let labels: Vec<_> = labels.iter().map(|(key, _)| format!("`{key}`")).collect();
            out += &format!("| `{name}` | {} | {help} |\n", labels.join(", "));
        }
    }
    out
}

/// What differs between a part of the README and what the code says.
fn differences(readme: &str, name: &str, expected: &str) -> Vec<Fault> {
    let found: BTreeSet<_> = part(readme, name).lines().collect();
    let wanted: BTreeSet<_> = expected.lines().collect();
    let missing = wanted.difference(&found).map(|line| format!("README, {name}: missing: {line}"));
    let stale = found.difference(&wanted).map(|line| format!("README, {name}: not so any more: {line}"));
    missing.chain(stale).collect()
}

/// Keys between backticks in the part `not yet`, against the rows of `config::not_yet`.
fn refused(readme: &str, files: &[File]) -> Vec<Fault> {
    let mut named: BTreeMap<String, u32> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path == "src/config/not_yet.rs") {
        for five in file.code.windows(5) {
            if let [row, open, key, colon, value] = five
                && open.is("{")
                && key.is("key")
                && colon.is(":")
                && let Some(text) = value.quoted()
            {
                let table = if row.is("SideRow") { "security." } else { "" };
                *named.entry(format!("{table}{text}")).or_default() |= 1;
            }
        }
    }
    for text in part(readme, "not yet").split('`').skip(1).step_by(2) {
        *named.entry(text.to_owned()).or_default() |= 2;
    }
    let differing = named.into_iter().filter(|(_, places)| *places != 3);
    differing
        .map(|(key, places)| match places {
            1 => format!("README: `{key}` is refused by config::not_yet and not named"),
            _ => format!("README: `{key}` is named as refused, and config::not_yet has no row for it"),
        })
        .collect()
}

/// Bounds and metrics that the text names must exist, and every bound must be named.
fn names(readme: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let own = ["src/admin/metrics.rs", "src/admin/upstreams.rs"].map(|path| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file with names of metrics")
    });
    let own = own.concat();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in readme.match_indices("hawser_") {
        let name: String = readme[at..].chars().take_while(|c| is_name(*c)).collect();
        let stem = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(&name);
        if !COUNTERS.iter().chain(GAUGES).any(|row| row.name == name) && !own.contains(&format!("\"{stem}\"")) {
            faults.push(format!("README: there is no metric {name}"));
        }
    }
    let limits = part(readme, "limits");
    for label in COUNTERS.iter().filter_map(|row| row.label("limit")) {
        if !limits.contains(&format!("| `{label}` |")) {
            faults.push(format!("README, limits: `{label}` is missing"));
        }
    }
    faults
}

/// Configurations in the text are ones that Hawser takes.
fn examples(readme: &str) -> Vec<Fault> {
    let blocks = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let results = blocks.map(|(block, _)| Config::parse(block, "README.md, example"));
    results.filter_map(|result| result.err().map(|fault| fault.to_string())).collect()
}

/// The README's tables, its list of what is refused, and the names in its text are those of the code.
///
/// With `UPDATE_README=1` in the environment the tables of settings and metrics are written first.
pub fn readme_agrees(files: &[File]) -> Vec<Fault> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut readme = fs::read_to_string(&path).expect("the README can be read");
    if std::env::var_os("UPDATE_README").is_some() {
        for (name, table) in [("settings", config::markdown()), ("metrics", metrics())] {
            let old = format!("<!-- {name} -->\n{}<!-- end -->", part(&readme, name));
            readme = readme.replace(&old, &format!("<!-- {name} -->\n{table}<!-- end -->"));
        }
        fs::write(&path, &readme).expect("the README can be written");
    }
    let mut faults = differences(&readme, "settings", &config::markdown());
    faults.extend(differences(&readme, "metrics", &metrics()));
    faults.extend(refused(&readme, files));
    faults.extend(names(&readme));
    faults.extend(examples(&readme));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn a_table_that_has_aged_is_found() {
        let readme = "<!-- settings -->\n| a |\n| old |\n<!-- end -->\n| b |\n";
        let faults = differences(readme, "settings", "| a |\n| b |\n");
        assert_eq!(faults, ["README, settings: missing: | b |", "README, settings: not so any more: | old |"]);
        assert!(differences(readme, "settings", "| a |\n| old |\n").is_empty());
    }

    #[test]
    fn a_feature_that_has_come_or_is_not_named_is_found() {
        let rows = "const R: &[Row] = &[Row { key: \"dns.servers\", asks: f }, SideRow { key: \"crl\", asks: g }];";
        let files = tree(&[("src/config/not_yet.rs", rows)]);
        assert!(refused("<!-- not yet -->\n`dns.servers`, `security.crl`\n<!-- end -->", &files).is_empty());
        assert_eq!(refused("<!-- not yet -->\n`dns.servers`\n<!-- end -->", &files).len(), 1);
        let stale = "<!-- not yet -->\n`dns.servers`, `security.crl`, `device`\n<!-- end -->";
        assert_eq!(refused(stale, &files).len(), 1);
    }

    #[test]
    fn an_example_that_hawser_refuses_is_found() {
        let good = "```toml\n[[sip-server]]\nname = \"a\"\nprimary = \"192.0.2.1:5060\"\n\
                    [sipproxy]\ntls-port = 0\n```\n";
        assert_eq!(examples(good), Vec::<Fault>::new());
        assert_eq!(examples(&good.replace("primary", "primry")).len(), 1);
    }

    #[test]
    fn a_metric_that_does_not_exist_and_a_bound_that_is_not_named_are_found() {
        let faults = names("`hawser_panics_total`, `hawser_build_info`, `hawser_nonsense_total`");
        assert!(faults.iter().any(|fault| fault.ends_with("hawser_nonsense_total")), "{faults:?}");
        assert!(!faults.iter().any(|fault| fault.contains("panics") || fault.contains("build")), "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("`uri_len` is missing")), "{faults:?}");
    }
}
