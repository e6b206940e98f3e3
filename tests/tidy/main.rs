//! Holds the tree to what DESIGN says of it: the layers, what pure code may name, and the habits of every file.
//!
//! Each rule is a function from files to faults. It runs over the real tree, and a test beside it shows that it
//! finds what it is there to find.

mod graph;
mod habits;
mod layers;
mod metrics;
mod purity;
mod readme;
mod source;
mod structure;

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use source::{Outline, Token, tokens, without_tests};

/// A source file as `syn` reads it. Outside of `src` there are its tokens only.
#[derive(Default)]
pub struct File {
    /// From the top of the repository, with `/` between parts.
    pub path: String,
    /// As written.
    pub text: String,
    /// All tokens.
    pub all: Vec<Token>,
    /// The tokens without items under `#[cfg(test)]`; empty when the whole file is one, as are all that follow.
    pub code: Vec<Token>,
    /// The same as trees.
    pub stream: TokenStream,
    /// The same as items.
    pub items: Vec<syn::Item>,
    /// What stands in them.
    pub outline: Outline,
    /// Files below this one's folder that are for tests only.
    test_modules: Vec<(String, bool)>,
}

/// Something that a rule found.
pub type Fault = String;

impl File {
    fn new(path: &str, text: &str) -> Self {
        let mut file = Self { path: path.to_owned(), text: text.to_owned(), ..Self::default() };
        let all: TokenStream = text.parse().unwrap_or_else(|fault| panic!("{path}: {fault}"));
        if path.starts_with("src/") {
            file.stream = without_tests(all.clone(), &mut file.test_modules);
            let read = syn::parse2::<syn::File>(file.stream.clone()).unwrap_or_else(|fault| panic!("{path}: {fault}"));
            file.code = tokens(file.stream.clone());
            file.outline = Outline::new(&read.items);
            file.items = read.items;
        }
        Self { all: tokens(all), ..file }
    }

    /// The product's code without `use` declarations.
    pub fn without_uses(&self) -> Vec<Token> {
        let mut inside = false;
        let keep = |token: &&Token| {
            inside |= token.is("use");
            let keep = !inside;
            inside &= !token.is(";");
            keep
        };
        self.code.iter().filter(keep).cloned().collect()
    }

    /// Every path that the product's code names, those of `use` one by one: line and words.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let imports = self.outline.imports.iter().map(|import| (import.line, import.path.clone()));
        imports.chain(source::paths(&self.without_uses())).collect()
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
        for (name, by_path) in &file.test_modules {
            let folder = if index || *by_path { beside } else { own };
            roots.push(format!("{folder}/{name}"));
        }
    }
    for file in files {
        if roots.iter().any(|root| file.path == format!("{root}.rs") || file.path.starts_with(&format!("{root}/"))) {
            (file.code, file.stream, file.items, file.outline) = Default::default();
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
        if path.ends_with("tests/fuzz/target") {
            // cargo-fuzz builds there, when it is not told otherwise.
        } else if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// From files to faults.
type Rule = fn(&[File]) -> Vec<Fault>;

/// Every rule, by what it says.
const RULES: &[(&str, Rule)] = &[
    ("imports only go down the layers", layers::imports_go_down),
    ("pure modules name nothing from outside", purity::pure_modules_are_pure),
    ("unsafe code is in sys only", habits::unsafe_is_in_sys),
    ("no file is too long", habits::files_are_short),
    ("nothing is left to be done", habits::no_stubs),
    ("packages at rest are named in few files", habits::resting_packages_are_contained),
    ("no test sleeps", habits::tests_do_not_sleep),
    ("every file opens with its doc", habits::files_open_with_a_doc),
    ("metric names are declared once", metrics::names_are_declared_once),
    ("every metric is counted", metrics::rows_are_counted),
    ("every limit is documented, used and counted", metrics::limits_are_used_and_counted),
    ("the README agrees with the code", readme::readme_agrees),
    ("no file cycle is large", structure::cycles_are_small),
    ("no function is too long", structure::functions_are_short),
];

#[test]
fn the_tree_holds_to_every_rule() {
    let files = repository();
    let faults = RULES.iter().flat_map(|(rule, check)| {
        let faults = check(&files).into_iter();
        faults.map(move |fault| format!("{rule}: {fault}"))
    });
    let faults: Vec<_> = faults.collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
#[ignore = "a measurement, printed for people"]
fn figures() {
    println!("{}", structure::figures(&repository()));
}
