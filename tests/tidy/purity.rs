//! What pure code may not name: anything that reaches the world, the time, or chance.

use crate::layers::is_pure;
use crate::{Fault, File};
use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::parse::{ParseStream, Parser};
use syn::{AngleBracketedGenericArguments, Token};

/// Words, wherever they stand.
const WORDS: &[&str] = &[
    // Packages of the shell.
    "glommio",
    "tokio",
    "hyper",
    "mio",
    "socket2",
    "libc",
    "rustls",
    "rustls_pemfile",
    "crossbeam_channel",
    "signal_hook",
    "env_logger",
    "notify",
    // Sockets.
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "ToSocketAddrs",
    // Clocks.
    "Instant",
    "SystemTime",
    // Chance.
    "RandomState",
    "getrandom",
    "rand",
    "fastrand",
];

/// The core of a shard stands on a driver, and is as pure as what it is made of lets it be: its numbers of faults, its
/// sessions and the ends of its channels have names of the shell.
const CORE: &[&str] = &["shard", "core"];
const CORE_WORDS: &[&str] = &["libc", "rustls", "crossbeam_channel"];

/// Modules of std, and packages with a common word for a name, when a path goes through them.
const MODULES: &[&str] = &["thread", "fs", "env", "process", "log"];

/// Macros that write.
const MACROS: &[&str] =
    &["error", "warn", "info", "debug", "trace", "log", "println", "eprintln", "print", "eprint", "dbg"];

/// Pure modules name no socket, clock, thread, file, log, nor a hasher with a seed of the system's.
pub fn pure_modules_are_pure(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        let is_core = module.starts_with(CORE);
        if !is_core && !is_pure(&module) {
            continue;
        }
        for (at, token) in file.code.iter().enumerate() {
            let Some(word) = token.word() else { continue };
            let next = file.code.get(at + 1);
            let is_path = next.is_some_and(|next| next.is("::"))
                || (at > 1 && file.code[at - 1].is("::") && file.code[at - 2].is("std"));
            let imports_log = word == "log" && at > 0 && file.code[at - 1].is("use");
            let is_foreign = WORDS.contains(&word) && !(is_core && CORE_WORDS.contains(&word));
            if is_foreign || (MODULES.contains(&word) && is_path) || imports_log {
                faults.push(file.fault(token.at.line, format!("a pure module names `{word}`")));
            }
            let compared = file.code.get(at + 2).is_some_and(|after| after.is("="));
            if MACROS.contains(&word) && next.is_some_and(|next| next.is("!")) && !compared {
                faults.push(file.fault(token.at.line, format!("a pure module writes with `{word}!`")));
            }
        }
        seeds_of_the_system(&file.stream, &mut |word| {
            let line = word.span().start().line;
            faults.push(file.fault(line, format!("a pure module uses `{word}` with the system's seed")));
        });
    }
    faults
}

/// Every `HashMap` and `HashSet` that has the default hasher: made by `new` or `with_capacity`, which only that one has,
/// or named without a hasher of its own.
fn seeds_of_the_system(code: &TokenStream, found: &mut impl FnMut(&Ident)) {
    let trees: Vec<_> = code.clone().into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        let (word, hasher) = match tree {
            TokenTree::Group(group) => {
                seeds_of_the_system(&group.stream(), found);
                continue;
            }
            TokenTree::Ident(word) if word == "HashMap" => (word, 3),
            TokenTree::Ident(word) if word == "HashSet" => (word, 2),
            _ => continue,
        };
        let is_default = |input: ParseStream<'_>| {
            let is_default = if input.peek(Token![::]) && input.peek3(syn::Ident) {
                input.parse::<Token![::]>()?;
                ["new", "with_capacity"].contains(&input.parse::<Ident>()?.to_string().as_str())
            } else {
                input.parse::<AngleBracketedGenericArguments>()?.args.len() < hasher
            };
            input.parse::<TokenStream>().map(|_| is_default)
        };
        if is_default.parse2(trees[at + 1..].iter().cloned().collect()).is_ok_and(|is_default| is_default) {
            found(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn faults(path: &str, text: &str) -> usize {
        pure_modules_are_pure(&tree(&[(path, text)])).len()
    }

    #[test]
    fn what_reaches_outside_is_found() {
        for text in [
            "use glommio::net::TcpStream as S;",
            "use std::net::UdpSocket;",
            "fn f() { let t = std::time::Instant::now(); }",
            "use std::time::{Duration, SystemTime};",
            "use std::thread;",
            "fn f() { std::thread::spawn(g); }",
            "fn f() { thread::sleep(d); }",
            "use std::fs;",
            "fn f() { fs::read(p) }",
            "use log::warn;",
            "use log;",
            "fn f() { log::warn(x) }",
            "fn f() { warn!(\"x\"); }",
            "fn f() { println!(\"x\"); }",
            "use std::collections::hash_map::RandomState;",
            "fn f() { getrandom::fill(b); }",
            "fn f() { let m = HashMap::new(); }",
            "fn f() { let m = HashSet::with_capacity(3); }",
            "struct S { m: HashMap<Key, (A, B)> }",
            "struct S { m: HashSet<Vec<u8>> }",
            "fn f() { HashMap::<K, V>::default() }",
            "struct S { m: HashMap<K, Vec<A>,> }",
        ] {
            assert!(faults("src/engine/mod.rs", text) > 0, "{text}");
            assert!(faults("src/shard/core/pass.rs", text) > 0, "{text}");
            assert_eq!(faults("src/shard/mod.rs", text), 0, "{text}");
        }
        assert_eq!(faults("src/shard/core/ends.rs", "use libc::EMFILE; use rustls::Error;"), 0);
        assert_eq!(faults("src/tls/identity.rs", "use rustls::X;"), 1);
        assert_eq!(faults("src/tls/mod.rs", "use rustls::X;"), 0);
    }

    #[test]
    fn what_is_plain_data_is_not() {
        for text in [
            "use std::net::{IpAddr, SocketAddr}; use std::time::Duration;",
            "// println!(x); std::thread\nconst X: &str = \"glommio\";",
            "struct S { m: HashMap<K, V, Hasher>, s: HashSet<K, BuildHasherDefault<SipHasher>> }",
            "fn f() { HashMap::with_hasher(h) }",
            "struct S { log: Log, thread: u8, process: u8 } fn f(s: S) { s.log.level }",
            "fn error(e: Error) { if e.info != other { debug(e) } }",
            "#[cfg(test)] mod tests { use std::fs; use std::time::Instant; }",
            "use super::{Kind, log_level};",
        ] {
            assert_eq!(faults("src/engine/mod.rs", text), 0, "{text}");
        }
        let files = [("src/sip/mod.rs", "#[cfg(test)] mod torture;"), ("src/sip/torture.rs", "use std::fs;")];
        assert!(pure_modules_are_pure(&tree(&files)).is_empty());
    }
}
