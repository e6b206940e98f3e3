//! The layer table: imports only go down it.

use crate::{Fault, File};

/// One row for each line of the table in DESIGN, from the top: the modules, and whether they are pure. A module
/// that lies in another row than the one around it is named with it.
pub const LAYERS: &[(&[&str], bool)] = &[
    (&["main", "cli", "server", "admin"], false),
    (&["lab"], false),
    (&["shard"], false),
    (&["driver"], false),
    (&["transport", "tls", "dns::socket", "sys"], false),
    (&["engine"], true),
    (&["proxy"], true),
    (&["flow"], true),
    (&["server_pool", "dns", "dns::plan", "tls::identity"], true),
    (&["transaction"], true),
    (&["sip", "proxy_header"], true),
    (&["abuse", "overload", "limits", "config", "stats"], true),
    (&["wheel", "clock", "rng", "ids", "planted"], true),
];

/// The row of a module path, by its longest part that the table names.
pub fn layer(path: &[&str]) -> Option<usize> {
    let row = |name: &str| LAYERS.iter().position(|(modules, _)| modules.contains(&name));
    let two = path.get(..2).and_then(|two| row(&two.join("::")));
    two.or_else(|| path.first().and_then(|one| row(one)))
}

/// Whether a module is pure; what the table does not name is not.
pub fn is_pure(path: &[&str]) -> bool {
    layer(path).is_some_and(|row| LAYERS[row].1)
}

/// Every module has its row, and names only modules of its own row and of those below.
pub fn imports_go_down(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        if module == ["lib"] {
            continue;
        }
        let Some(from) = layer(&module) else {
            faults.push(file.fault(1, "its module is not in the layer table"));
            continue;
        };
        for (line, path) in file.paths() {
            if !["crate", "hawser", "super"].contains(&path[0].as_str()) {
                continue;
            }
            let target = match absolute(&module, &path) {
                Some(target) => target,
                None => continue,
            };
            let target: Vec<_> = target.iter().map(String::as_str).collect();
            let Some(name) = target.first() else { continue };
            // In a binary `crate` is the binary, whose modules are its own.
            if path[0] == "crate" && matches!(module[0], "lab" | "main") {
                continue;
            }
            match layer(&target) {
                None => faults.push(file.fault(line, format!("`{name}` is not in the layer table"))),
                Some(to) if to < from => {
                    faults.push(file.fault(line, format!("`{}` is above it in the layer table", path.join("::"))));
                }
                Some(_) => {}
            }
        }
    }
    faults
}

/// A path from the top of the crate; `None` when it stays within the module of the file that names it.
fn absolute(module: &[&str], path: &[String]) -> Option<Vec<String>> {
    if path[0] != "super" {
        return Some(path[1..].to_vec());
    }
    let up = path.iter().take_while(|word| *word == "super").count();
    (up >= module.len()).then(|| path[up..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn faults(path: &str, text: &str) -> usize {
        imports_go_down(&tree(&[(path, text)])).len()
    }

    #[test]
    fn an_import_that_goes_up_is_found() {
        assert_eq!(faults("src/sip/uri.rs", "use crate::engine::Mail;"), 1);
        assert_eq!(faults("src/sip/uri.rs", "use crate::{ids::Side, flow::Table};"), 1);
        assert_eq!(faults("src/stats/mod.rs", "fn f() { crate::sip::Method::Ack }"), 1);
        assert_eq!(faults("src/stats/mod.rs", "use super::sip::Method;"), 1);
        assert_eq!(faults("src/stats/pick.rs", "use super::super::engine::Mail;"), 1);
        assert_eq!(faults("src/engine/mod.rs", "use crate::shard::Handle;"), 1);
        assert_eq!(faults("src/tls/identity.rs", "use crate::tls::Config;"), 1);
        assert_eq!(faults("src/shard/mod.rs", "use crate::lab::Phone;"), 1);
        assert_eq!(faults("src/lab/load.rs", "use hawser::server::run;"), 1);
        assert_eq!(faults("src/newcomer.rs", ""), 1);
        assert_eq!(faults("src/sip/uri.rs", "use crate::newcomer::X;"), 1);
    }

    #[test]
    fn an_import_that_goes_down_or_sideways_is_not() {
        assert_eq!(faults("src/engine/mod.rs", "use crate::{sip::Uri, ids, stats::{Counter, Gauge}};"), 0);
        assert_eq!(faults("src/stats/pick.rs", "use super::Counter; use crate::ids::Side;"), 0);
        assert_eq!(faults("src/tls/acceptor.rs", "use crate::tls::identity::Name; use crate::sys::x;"), 0);
        assert_eq!(faults("src/lab/load.rs", "use crate::phone::Phone; use hawser::sip::Uri;"), 0);
        assert_eq!(faults("src/sip/uri.rs", "#[cfg(test)] mod tests { use crate::engine::Mail; }"), 0);
        assert_eq!(faults("tests/tidy/main.rs", "use crate::newcomer::X;"), 0);
    }
}
