//! Which file needs which: by the items that it names, and by the methods that it calls of a type whose `impl` is
//! spread over several files.
//!
//! An item counts for the file that defines it, whatever `mod.rs` hands it on; `mod x;` alone, and a `pub use` of what
//! the file does not use itself, need nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::File;
use crate::source::{Import, Token, names, paths};

/// The files of `src`, and which of them each one needs.
pub struct Graph<'a> {
    /// In order.
    pub files: Vec<&'a File>,
    /// By the index of a file: those that it needs, each with one thing that it needs of it.
    pub needs: Vec<BTreeMap<usize, String>>,
}

/// A file as names are looked up in it.
struct Scope {
    /// From the top of the repository's crates: empty for `lib.rs`, `lab::net` for a module of the lab.
    module: Vec<String>,
    items: HashSet<String>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// An item of this file, with the words behind its name.
    Item(usize, String, Vec<String>),
}

/// How many imports may lead to one another before a path counts as not ours.
const STEPS_MAX: usize = 16;

impl<'a> Graph<'a> {
    /// Reads all files under `src`.
    pub fn new(files: &'a [File]) -> Self {
        let files: Vec<_> =
            files.iter().filter(|file| file.path.starts_with("src/") && !file.code.is_empty()).collect();
        let names = Names::new(&files);
        let needs = (0..files.len()).map(|at| names.needs(at)).collect();
        Self { files, needs }
    }

    /// The files that need one another, directly or not: each set of more than one file, in order.
    pub fn cycles(&self) -> Vec<Vec<usize>> {
        let reached: Vec<_> = (0..self.files.len()).map(|from| self.reached(from)).collect();
        let both = |a: usize, b: usize| reached[a].contains(&b) && reached[b].contains(&a);
        let with = |at: usize| (0..reached.len()).filter(|to| both(at, *to)).collect();
        let sets: BTreeSet<Vec<usize>> = (0..reached.len()).map(with).collect();
        sets.into_iter().filter(|set| set.len() > 1).collect()
    }

    fn reached(&self, from: usize) -> HashSet<usize> {
        let mut reached = HashSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            open.extend(self.needs[at].keys().filter(|to| reached.insert(**to)));
        }
        reached
    }

    /// A line for each thing that files of a set need of one another.
    pub fn told(&self, set: &[usize]) -> Vec<String> {
        let mut lines = Vec::new();
        for from in set {
            let within = self.needs[*from].iter().filter(|(to, _)| set.contains(to));
            lines.extend(
                within.map(|(to, what)| format!("{} -> {} ({what})", self.files[*from].path, self.files[*to].path)),
            );
        }
        lines
    }
}

/// All names of all files.
struct Names<'a> {
    files: &'a [&'a File],
    scopes: Vec<Scope>,
    by_module: HashMap<Vec<String>, usize>,
    /// Types whose `impl` is spread over files: for each method the files that define it.
    spread: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl<'a> Names<'a> {
    fn new(files: &'a [&'a File]) -> Self {
        let scopes: Vec<_> = files.iter().map(|file| Scope::of(file)).collect();
        let by_module = scopes.iter().enumerate().map(|(at, scope)| (scope.module.clone(), at)).collect();
        let mut names = Self { files, scopes, by_module, spread: HashMap::new() };
        let mut of: BTreeMap<(usize, String), BTreeMap<usize, Vec<String>>> = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for block in &file.outline.impls {
                if let Some(Found::Item(home, name, _)) = names.resolve(at, std::slice::from_ref(&block.name), 0) {
                    of.entry((home, name)).or_default().entry(at).or_default().extend(block.items.clone());
                }
            }
        }
        for ((_, name), homes) in of.into_iter().filter(|(_, homes)| homes.len() > 1) {
            let methods = names.spread.entry(name).or_default();
            for (home, items) in homes {
                items.into_iter().for_each(|item| methods.entry(item).or_default().push(home));
            }
        }
        names
    }

    /// The file where a spread type has this method, if it is one file.
    fn home(&self, name: &str, method: &str) -> Option<usize> {
        match self.spread.get(name)?.get(method)?.as_slice() {
            [home] => Some(*home),
            _ => None,
        }
    }

    /// What a path that stands in the file `at` leads to; `None` when that is not of `src`.
    fn resolve(&self, at: usize, path: &[String], steps: usize) -> Option<Found> {
        if steps > STEPS_MAX {
            return None;
        }
        let own = &self.scopes[at].module;
        let top = if own.first().is_some_and(|first| first == "lab") { &own[..1] } else { &[] };
        let up = path.iter().take_while(|word| *word == "super").count();
        let (mut module, rest) = match path.first()?.as_str() {
            "crate" => (top.to_vec(), &path[1..]),
            "hawser" => (Vec::new(), &path[1..]),
            "self" => (own.clone(), &path[1..]),
            "super" => (own.get(..own.len().checked_sub(up)?)?.to_vec(), &path[up..]),
            _ => (own.clone(), path),
        };
        for (nth, word) in rest.iter().enumerate() {
            let file = self.by_module.get(&module).copied();
            let behind = &rest[nth + 1..];
            module.push(word.clone());
            if self.by_module.contains_key(&module) {
                continue;
            }
            let file = file?;
            if self.scopes[file].items.contains(word) {
                return Some(Found::Item(file, word.clone(), behind.to_vec()));
            }
            let step = |import: &Import, more: &[String]| {
                let path = [&import.path, more].concat();
                self.resolve(file, &path, steps + 1)
            };
            let imports = &self.files[file].outline.imports;
            let named = imports.iter().find(|import| import.name == *word && import.path != [word.clone()]);
            if let Some(import) = named {
                return step(import, behind);
            }
            let globs = imports.iter().filter(|import| import.name == "*");
            return globs.filter_map(|import| step(import, &rest[nth..])).next().or_else(|| {
                // What a macro makes.
                let is_ours = nth > 0 || rest.len() < path.len();
                is_ours.then(|| Found::Item(file, word.clone(), behind.to_vec()))
            });
        }
        self.by_module.get(&module).map(|file| Found::Module(*file))
    }

    fn needs(&self, at: usize) -> BTreeMap<usize, String> {
        let mut needs = BTreeMap::new();
        let mut need = |to: usize, what: &str| {
            if to != at {
                needs.entry(to).or_insert_with(|| what.to_owned());
            }
        };
        let File { outline, .. } = self.files[at];
        let code = self.files[at].without_uses();
        for import in &outline.imports {
            let is_used = !import.is_public || code.iter().any(|token| token.is(&import.name));
            match self.resolve(at, &import.path, 0) {
                Some(Found::Item(file, name, _)) if is_used => need(file, &name),
                Some(Found::Module(file)) if import.name == "*" => need(file, "*"),
                _ => {}
            }
        }
        for (_, path) in paths(&code) {
            match self.resolve(at, &path, 0) {
                Some(Found::Item(file, name, behind)) => {
                    need(file, &name);
                    if let Some(home) = behind.first().and_then(|method| self.home(&name, method)) {
                        need(home, &behind[0]);
                    }
                }
                Some(Found::Module(_)) | None => {}
            }
        }
        let receivers = self.receivers(&code);
        for (nth, method) in calls(&code) {
            let Some(receiver) = code[nth].word() else { continue };
            let own =
                || outline.impls.iter().find(|block| block.extent.holds(&code[nth])).map(|block| block.name.as_str());
            let direct = nth == 0 || !code[nth - 1].is(".");
            let name = match receiver {
                "self" | "Self" if direct => own(),
                _ => receivers.get(receiver).copied(),
            };
            if let Some(home) = name.and_then(|name| self.home(name, method)) {
                need(home, &format!("{receiver}.{method}"));
            }
        }
        needs
    }

    /// Names of variables and fields that hold a spread type: by their declared type, or called as it is.
    fn receivers<'b>(&'b self, code: &'b [Token]) -> HashMap<&'b str, &'b str> {
        let mut receivers = HashMap::new();
        for (nth, token) in code.iter().enumerate() {
            let Some(word) = token.word() else { continue };
            if let Some((name, _)) = self.spread.iter().find(|(name, _)| snake(name) == word) {
                receivers.entry(word).or_insert(name.as_str());
            }
            if code.get(nth + 1).is_some_and(|next| next.is(":")) {
                let typed = code[nth + 2..].iter().find(|token| !token.is("&") && !token.is("mut"));
                if let Some((name, _)) = typed.and_then(|typed| self.spread.get_key_value(typed.word()?)) {
                    receivers.insert(word, name.as_str());
                }
            }
        }
        receivers
    }
}

impl Scope {
    fn of(file: &File) -> Self {
        let mut module: Vec<String> = file.module().unwrap_or_default().iter().map(|&part| part.to_owned()).collect();
        if module == ["lib"] || module == ["lab", "main"] {
            module.pop();
        }
        Self { module, items: names(&file.items).into_iter().collect() }
    }
}

/// `ResponseContext` as `response_context`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// Calls of `RECEIVER.NAME(` and `RECEIVER::NAME(`: the index of the receiver, and the name.
fn calls(code: &[Token]) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, four) in code.windows(4).enumerate() {
        if let [_, sign, name, open] = four
            && (sign.is(".") || sign.is("::"))
            && (open.is("(") || open.is("::"))
            && let Some(name) = name.word()
        {
            found.push((at, name));
        }
    }
    found
}
