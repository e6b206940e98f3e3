//! What holds for every file.

use std::collections::{BTreeMap, HashSet};

use crate::source::Token;
use crate::{Fault, File};

/// Lines of a file.
const LINES_MAX: usize = 800;

/// Packages that are hardly maintained any more, and in how many files they may be named.
const RESTING: &[(&str, usize)] = &[("rustls_pemfile", 1), ("glommio", 2)];

/// `unsafe` stands in `src/sys` only.
pub fn unsafe_is_in_sys(files: &[File]) -> Vec<Fault> {
    let elsewhere = files.iter().filter(|file| file.module().is_none_or(|module| module[0] != "sys"));
    find(elsewhere, "unsafe code outside of src/sys", |file, at| file.all[at].is("unsafe"))
}

/// Every file opens with `//!`.
pub fn files_open_with_a_doc(files: &[File]) -> Vec<Fault> {
    let bare = files.iter().filter(|file| !file.text.starts_with("//! "));
    bare.map(|file| file.fault(1, "it does not open with a //! doc")).collect()
}

/// No file is longer than [`LINES_MAX`].
pub fn files_are_short(files: &[File]) -> Vec<Fault> {
    let long = files.iter().filter(|file| file.text.lines().count() > LINES_MAX);
    long.map(|file| file.fault(LINES_MAX, format!("{} lines are too many", file.text.lines().count()))).collect()
}

/// No stub, no mark for later, and no ignored test but for measurements that are run by hand.
pub fn no_stubs(files: &[File]) -> Vec<Fault> {
    let mut faults = find(files, "something is left to be done", |file, at| {
        let next = |sign| file.all.get(at + 1).is_some_and(|token| token.is(sign));
        let open = at > 0 && file.all[at - 1].is("[");
        let stub = (file.all[at].is("todo") || file.all[at].is("unimplemented")) && next("!");
        let reason = file.all.get(at + 2).and_then(Token::quoted);
        let by_hand = reason.is_some_and(|reason| reason.starts_with("a measurement"));
        stub || (file.all[at].is("ignore") && open && (next("]") || next("=")) && !by_hand)
    });
    for file in files {
        let marks = file.text.lines().enumerate().filter(|(_, line)| line.contains(concat!("// TO", "DO")));
        faults.extend(marks.map(|(nth, _)| file.fault(nth + 1, "something is left to be done")));
    }
    faults
}

/// Packages at rest are named in few files, so that they can be replaced.
pub fn resting_packages_are_contained(files: &[File]) -> Vec<Fault> {
    let mut naming: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        for (package, _) in RESTING.iter().filter(|(package, _)| file.all.iter().any(|token| token.is(package))) {
            naming.entry(package).or_default().push(&file.path);
        }
    }
    let too_many = RESTING.iter().filter(|(package, max)| naming.get(package).is_some_and(|n| n.len() > *max));
    too_many
        .map(|(package, max)| format!("{package} is named in more than {max} files: {:?}", naming[package]))
        .collect()
}

/// Test code waits for events, with a deadline, and never just for time to pass.
pub fn tests_do_not_sleep(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        let inside: HashSet<_> = file.code.iter().collect();
        for (at, token) in file.all.iter().enumerate() {
            let test_code = file.path.starts_with("tests/") || !inside.contains(token);
            let call = file.all.get(at + 1).is_some_and(|next| next.is("("));
            let path = at > 0 && file.all[at - 1].is("::");
            if test_code && call && path && token.is("sleep") {
                faults.push(file.fault(token.at.line, "a test sleeps"));
            }
        }
    }
    faults
}

fn find<'a>(files: impl IntoIterator<Item = &'a File>, what: &str, at: impl Fn(&File, usize) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        let found = (0..file.all.len()).filter(|nth| at(file, *nth));
        faults.extend(found.map(|nth| file.fault(file.all[nth].at.line, what)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn unsafe_code_elsewhere_is_found() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(unsafe_is_in_sys(&tree(&[("src/shard/mod.rs", text)])).len(), 1);
        assert_eq!(unsafe_is_in_sys(&tree(&[("tests/x.rs", text)])).len(), 1);
        assert!(unsafe_is_in_sys(&tree(&[("src/sys.rs", text), ("src/sys/socket.rs", text)])).is_empty());
        assert!(unsafe_is_in_sys(&tree(&[("src/lib.rs", "#[allow(unsafe_code)] mod sys; // unsafe")])).is_empty());
    }

    #[test]
    fn a_file_without_a_doc_is_found() {
        assert_eq!(files_open_with_a_doc(&tree(&[("src/a.rs", "// What it owns.\nuse x;")])).len(), 1);
        assert!(files_open_with_a_doc(&tree(&[("src/a.rs", "//! What it owns.\n")])).is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        assert_eq!(files_are_short(&tree(&[("src/a.rs", &"\n".repeat(LINES_MAX + 1))])).len(), 1);
        assert!(files_are_short(&tree(&[("src/a.rs", &"\n".repeat(LINES_MAX))])).is_empty());
    }

    #[test]
    fn a_stub_is_found() {
        let stubs = [
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"x\") }",
            "#[ignore] fn f() {}",
            "#[ignore = \"slow\"] fn f() {}",
        ];
        for text in stubs.into_iter().chain([concat!("// TO", "DO: later")]) {
            assert_eq!(no_stubs(&tree(&[("src/a.rs", text)])).len(), 1, "{text}");
        }
        let fine = "#[ignore = \"a measurement, run by hand\"] fn todo() {} // todo!() is not code\nfn ignore(x: [Ignore; 1]) { ignore(x) }";
        assert!(no_stubs(&tree(&[("src/a.rs", fine)])).is_empty());
    }

    #[test]
    fn a_package_at_rest_that_spreads_is_found() {
        let text = "use rustls_pemfile::certs;";
        assert_eq!(resting_packages_are_contained(&tree(&[("src/a.rs", text), ("src/b.rs", text)])).len(), 1);
        assert!(resting_packages_are_contained(&tree(&[("src/a.rs", text), ("src/b.rs", "")])).is_empty());
    }

    #[test]
    fn a_test_that_sleeps_is_found() {
        let text = "fn f() { std::thread::sleep(d); }";
        assert_eq!(tests_do_not_sleep(&tree(&[("tests/a.rs", text)])).len(), 1);
        assert!(tests_do_not_sleep(&tree(&[("src/shard/a.rs", text)])).is_empty());
        let inside = "fn g() {}\n#[cfg(test)] mod tests {\n fn f() { thread::sleep(d); } }";
        assert_eq!(tests_do_not_sleep(&tree(&[("src/shard/a.rs", inside)])).len(), 1);
    }
}
