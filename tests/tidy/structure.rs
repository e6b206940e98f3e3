//! How the crate hangs together: file cycles and functions, and the figures that anyone can print.

use crate::graph::Graph;
use crate::{Fault, File};

/// Files that may need one another, directly or not.
const CYCLE_FILES_MAX: usize = 3;

/// Lines of a function, from the one that names it to the one that closes it.
const FUNCTION_LINES_MAX: usize = 60;

/// Folders that may have larger cycles for now. A fault when one of them has none.
const CYCLES_YET: &[&str] = &[];

/// Functions that may be longer for now: file and name. A fault when one of them is not.
const LONG_YET: &[(&str, &str)] = &[];

/// No more than [`CYCLE_FILES_MAX`] files need one another.
pub fn cycles_are_small(files: &[File]) -> Vec<Fault> {
    cycles_but(files, CYCLES_YET)
}

fn cycles_but(files: &[File], yet: &[&str]) -> Vec<Fault> {
    let graph = Graph::new(files);
    let large: Vec<_> = graph.cycles().into_iter().filter(|cycle| cycle.len() > CYCLE_FILES_MAX).collect();
    let lies_in = |cycle: &[usize], folder: &str| {
        cycle
            .iter()
            .all(|at| graph.files[*at].path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(['/', '.'])))
    };
    let faults = large.iter().filter(|cycle| !yet.iter().any(|folder| lies_in(cycle, folder)));
    let faults = faults
        .map(|cycle| format!("{} files need one another:\n    {}", cycle.len(), graph.told(cycle).join("\n    ")));
    let stale = yet.iter().filter(|folder| !large.iter().any(|cycle| lies_in(cycle, folder)));
    faults.chain(stale.map(|folder| format!("{folder} has no large cycle any more: take it out of the list"))).collect()
}

/// No function of the product is longer than [`FUNCTION_LINES_MAX`].
pub fn functions_are_short(files: &[File]) -> Vec<Fault> {
    long_but(files, LONG_YET)
}

fn long_but(files: &[File], yet: &[(&str, &str)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut left = yet.to_vec();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        for function in file.outline.functions.iter().filter(|function| function.extent.lines() > FUNCTION_LINES_MAX) {
            let (name, lines) = (function.name.as_str(), function.extent.lines());
            if yet.contains(&(file.path.as_str(), name)) {
                left.retain(|known| *known != (file.path.as_str(), name));
            } else {
                faults.push(
                    file.fault(function.extent.line(), format!("`{name}` has {lines} lines, which are too many")),
                );
            }
        }
    }
    faults.extend(
        left.into_iter()
            .map(|(path, name)| format!("{path}: `{name}` is not too long any more: take it out of the list")),
    );
    faults
}

/// The figures of every part of the product, a line each: files, lines, the largest file, the longest function, public
/// items; then the cycles. A part is a module of the crate; of the engine, each of its folders too.
pub fn figures(files: &[File]) -> String {
    let mut parts: Vec<(String, Vec<&File>)> = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") && !file.code.is_empty()) {
        let words: Vec<_> = file.path.split('/').collect();
        let depth = if words[1] == "engine" { words.len() - 1 } else { 2.min(words.len() - 1) };
        for part in (2..=depth).map(|len| words[..len].join("/")) {
            match parts.iter_mut().find(|(name, _)| *name == part) {
                Some((_, all)) => all.push(file),
                None => parts.push((part, vec![file])),
            }
        }
    }
    let lines = |file: &&File| file.text.lines().count();
    let mut out = "part: files, lines; largest file; longest function; public items\n".to_owned();
    for (part, files) in &parts {
        let largest = files.iter().max_by_key(|file| lines(file)).expect("a part has a file");
        let longest =
            files.iter().flat_map(|file| &file.outline.functions).max_by_key(|function| function.extent.lines());
        out += &format!(
            "{part}: {}, {}; {} {}; {} {}; {}\n",
            files.len(),
            files.iter().map(lines).sum::<usize>(),
            largest.path.rsplit('/').next().unwrap_or_default(),
            lines(largest),
            longest.map_or("-", |longest| longest.name.as_str()),
            longest.map_or(0, |longest| longest.extent.lines()),
            files.iter().map(|file| file.outline.public_items).sum::<usize>(),
        );
    }
    let graph = Graph::new(files);
    for cycle in graph.cycles() {
        let paths: Vec<_> = cycle.iter().map(|at| graph.files[*at].path.as_str()).collect();
        out += &format!("cycle of {}: {}\n", paths.len(), paths.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    /// Four files in a ring: each but the last needs the next by `needs`, which names `NEXT`.
    fn ring(parent: &str, needs: [&str; 4]) -> usize {
        let texts = needs.map(|need| format!("pub struct A; {need}"));
        let names = ["src/x/a.rs", "src/x/b.rs", "src/x/c.rs", "src/x/d.rs"];
        let mut all = vec![("src/x/mod.rs", parent)];
        all.extend(names.into_iter().zip(texts.iter().map(String::as_str)));
        cycles_but(&tree(&all), &[]).len()
    }

    const MODS: &str = "mod a; mod b; mod c; mod d;";

    #[test]
    fn a_large_cycle_of_paths_is_found() {
        let a = "use super::b::A as N;";
        let b = "use crate::x::{c::A as N};";
        let c = "fn f() { super::d::A::new() }";
        let d = "use super::a; fn f() { a::A::new() }";
        assert_eq!(ring(MODS, [a, b, c, d]), 1);
        assert_eq!(ring(MODS, [a, b, c, "use super::a;"]), 0, "a module's name alone needs nothing");
        assert_eq!(ring(MODS, [a, b, c, "#[cfg(test)] use super::a::A as N;"]), 0);
        assert_eq!(ring(MODS, [a, b, "use super::a::A as N;", d]), 0, "three may");
        assert_eq!(ring(MODS, [a, b, c, "use super::*;"]), 0);
    }

    #[test]
    fn what_a_mod_hands_on_counts_for_the_file_that_defines_it() {
        let parent = "mod a; mod b; mod c; mod d; pub use a::A as Of; pub use d::*; macro_rules! m { () => {} }";
        let rest = ["use super::b::A as N;", "use super::c::A as N;", "use super::d::A as N;"];
        assert_eq!(ring(parent, [rest[0], rest[1], rest[2], "use super::Of;"]), 1);
        assert_eq!(ring(parent, [rest[0], rest[1], "fn f(a: super::A) {}", "use super::Of;"]), 1);
        assert_eq!(ring(parent, [rest[0], rest[1], rest[2], "use std::fmt; use super::m;"]), 0);
        let itself = "mod a; mod b; mod c; mod d; pub use a::A as Of; pub struct M; fn f(of: Of) {}";
        assert_eq!(ring(itself, [rest[0], rest[1], "", "use super::M;"]), 0);
        assert_eq!(ring(itself, [rest[0], rest[1], "use super::M;", ""]), 1, "the mod needs what it uses itself");
    }

    #[test]
    fn methods_of_a_type_that_is_spread_over_files_count() {
        let spread = |bodies: [&str; 4]| {
            let texts = bodies.map(|body| format!("{body} "));
            let names = ["src/x/mod.rs", "src/x/a.rs", "src/x/b.rs", "src/x/c.rs"];
            let all: Vec<_> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
            cycles_but(&tree(&all), &[]).len()
        };
        let top = "mod a; mod b; mod c; pub struct Core<T>(T); impl<T> Core<T> { fn new(&self) { self.a(); } }";
        let a = "use super::Core; impl<T: Fn(u8) -> u8> Core<T> where T: Copy { fn a(&self) { self.b(1); } }";
        let b = "use super::Core; impl Core<u8> { fn b(&self, n: u8) { self.0.a(); self.c::<u8>(); } }";
        let c = "use super::Core; impl Core<u8> { fn c<T>(&self) { self.new(); } }";
        assert_eq!(spread([top, a, b, c]), 1);
        assert_eq!(spread([top, a, b, "fn c(core: u8) { core.new(); }"]), 0, "no method of it");
        assert_eq!(
            spread([top, a, "use super::Core; impl Core<u8> { fn b(&self) {} } fn f(x: &mut Core) { x.c() }", c]),
            1
        );
        assert_eq!(spread([top, a, "use super::Core; impl Core<u8> { fn b(&self) {} } fn f() { Core::c() }", c]), 1);
        assert_eq!(spread([top, a, "use super::Core; impl Core<u8> { fn b(&self) {} } fn f() { x.c() }", c]), 0);
        let by_trait = "use super::Core; impl Drop for Core { fn c(&self) { self.new(); } }";
        assert_eq!(spread([top, a, b, by_trait]), 0);
    }

    #[test]
    fn an_exception_that_is_not_needed_is_found() {
        let small = tree(&[("src/x/a.rs", "pub struct A;")]);
        assert_eq!(cycles_but(&small, &["src/x"]).len(), 1);
        assert_eq!(long_but(&small, &[("src/x/a.rs", "f")]).len(), 1);
    }

    #[test]
    fn a_function_that_is_too_long_is_found() {
        let of = |lines: usize| format!("trait A {{ fn f(a: [u8; 3])\n-> B {{{}}} fn g(); }}", "\n".repeat(lines - 2));
        let faults = |path: &str, text: &str| long_but(&tree(&[(path, text)]), &[]).len();
        assert_eq!(faults("src/a.rs", &of(FUNCTION_LINES_MAX)), 0);
        assert_eq!(faults("src/a.rs", &of(FUNCTION_LINES_MAX + 1)), 1);
        assert_eq!(faults("tests/a.rs", &of(FUNCTION_LINES_MAX + 1)), 0);
        assert_eq!(faults("src/a.rs", &format!("#[cfg(test)] mod t {{ {} }}", of(FUNCTION_LINES_MAX + 1))), 0);
        assert!(long_but(&tree(&[("src/a.rs", &of(FUNCTION_LINES_MAX + 1))]), &[("src/a.rs", "f")]).is_empty());
    }

    #[test]
    fn public_items_are_counted_and_fields_are_not() {
        let text = "pub struct A { pub a: u8, pub(crate) b: u8 } impl A { pub(in crate::x) const fn f() {} fn g() {} }";
        assert_eq!(tree(&[("src/a.rs", text)])[0].outline.public_items, 2);
    }
}
