//! Holds the tree to what DESIGN says of it: the layers, what pure code may name, and the habits of every file.
//!
//! Each rule is a function from files to faults. It runs over the real tree, and a test beside it shows that it
//! finds what it is there to find.

mod graph;
mod habits;
mod layers;
mod lexer;
mod metrics;
mod purity;
mod readme;
mod structure;

use std::fs;
use std::path::{Path, PathBuf};

use lexer::{Token, tokens, without_tests};

/// A source file with its tokens.
pub struct File {
    /// From the top of the repository, with `/` between parts.
    pub path: String,
    /// As written.
    pub text: String,
    /// All tokens.
    pub all: Vec<Token>,
    /// The tokens without items under `#[cfg(test)]`; empty when the whole file is one.
    pub code: Vec<Token>,
}

/// Something that a rule found.
pub type Fault = String;

impl File {
    fn new(path: &str, text: &str) -> Self {
        let all = tokens(text);
        let code = without_tests(&all);
        Self { path: path.to_owned(), text: text.to_owned(), all, code }
    }

    /// The module path inside the crate: `sip::framer` for `src/sip/framer.rs`; `None` outside `src`.
    pub fn module(&self) -> Option<Vec<&str>> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        Some(path.split('/').collect())
    }

    /// A fault at a line of this file.
    pub fn fault(&self, line: usize, what: impl std::fmt::Display) -> Fault {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Files for a rule's own test.
#[must_use]
pub fn tree(files: &[(&str, &str)]) -> Vec<File> {
    let mut files: Vec<_> = files.iter().map(|(path, text)| File::new(path, text)).collect();
    empty_test_files(&mut files);
    files
}

/// Takes the code out of files that are modules under `#[cfg(test)] mod NAME;`.
fn empty_test_files(files: &mut [File]) {
    let mut roots = Vec::new();
    for file in &*files {
        let beside = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let own = file.path.trim_end_matches(".rs");
        let index = ["/mod.rs", "/lib.rs", "/main.rs"].iter().any(|end| file.path.ends_with(end));
        for (name, by_path) in lexer::test_modules(&file.all) {
            let folder = if index || by_path { beside } else { own };
            roots.push(format!("{folder}/{name}"));
        }
    }
    for file in files {
        if roots.iter().any(|root| file.path == format!("{root}.rs") || file.path.starts_with(&format!("{root}/"))) {
            file.code.clear();
        }
    }
}

/// Every Rust file of the repository.
fn repository() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        collect(&top.join(folder), &mut paths);
    }
    paths.sort();
    let mut files: Vec<_> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(top).expect("it was found below").to_str().expect("our names are UTF-8");
            File::new(name, &fs::read_to_string(path).expect("a file that was listed can be read"))
        })
        .collect();
    empty_test_files(&mut files);
    assert!(files.len() > 20, "the tree was not found");
    files
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a folder of ours").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn hold(rule: impl Fn(&[File]) -> Vec<Fault>) {
    let faults = rule(&repository());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn imports_only_go_down_the_layers() {
    hold(layers::imports_go_down);
}

#[test]
fn pure_modules_name_nothing_from_outside() {
    hold(purity::pure_modules_are_pure);
}

#[test]
fn unsafe_code_is_in_sys_only() {
    hold(habits::unsafe_is_in_sys);
}

#[test]
fn no_file_is_too_long() {
    hold(habits::files_are_short);
}

#[test]
fn nothing_is_left_to_be_done() {
    hold(habits::no_stubs);
}

#[test]
fn packages_at_rest_are_named_in_few_files() {
    hold(habits::resting_packages_are_contained);
}

#[test]
fn no_test_sleeps() {
    hold(habits::tests_do_not_sleep);
}

#[test]
fn metric_names_are_declared_once() {
    hold(metrics::names_are_declared_once);
}

#[test]
fn every_metric_is_counted() {
    hold(metrics::rows_are_counted);
}

#[test]
fn every_file_opens_with_its_doc() {
    hold(habits::files_open_with_a_doc);
}

#[test]
fn the_readme_agrees_with_the_code() {
    hold(readme::readme_agrees);
}

#[test]
fn every_limit_is_documented_used_and_counted() {
    hold(metrics::limits_are_used_and_counted);
}

#[test]
fn no_file_cycle_is_large() {
    hold(structure::cycles_are_small);
}

#[test]
fn no_function_is_too_long() {
    hold(structure::functions_are_short);
}

#[test]
#[ignore = "a measurement, printed for people"]
fn figures() {
    println!("{}", structure::figures(&repository()));
}
