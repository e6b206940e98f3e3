//! What pure code may not name: anything that reaches the world, the time, or chance.

use crate::layers::is_pure;
use crate::lexer::{Kind, Token};
use crate::{Fault, File};

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

/// Modules of std, and packages with a common word for a name, when a path goes through them.
const MODULES: &[&str] = &["thread", "fs", "env", "process", "log"];

/// Macros that write.
const MACROS: &[&str] =
    &["error", "warn", "info", "debug", "trace", "log", "println", "eprintln", "print", "eprint", "dbg"];

/// Pure modules name no socket, clock, thread, file, log, nor a hasher with a seed of the system's.
pub fn pure_modules_are_pure(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.module().is_some_and(|module| is_pure(&module))) {
        for (at, token) in file.code.iter().enumerate() {
            let Some(word) = token.word() else { continue };
            let next = file.code.get(at + 1);
            let is_path = next.is_some_and(|next| next.kind == Kind::Path)
                || (at > 1 && file.code[at - 1].kind == Kind::Path && file.code[at - 2].is("std"));
            let imports_log = word == "log" && at > 0 && file.code[at - 1].is("use");
            if WORDS.contains(&word) || (MODULES.contains(&word) && is_path) || imports_log {
                faults.push(file.fault(token.line, format!("a pure module names `{word}`")));
            }
            let compared = file.code.get(at + 2).is_some_and(|after| after.is_sign('='));
            if MACROS.contains(&word) && next.is_some_and(|next| next.is_sign('!')) && !compared {
                faults.push(file.fault(token.line, format!("a pure module writes with `{word}!`")));
            }
            if has_seed_of_the_system(&file.code[at..]) {
                faults.push(file.fault(token.line, format!("a pure module uses `{word}` with the system's seed")));
            }
        }
    }
    faults
}

/// Whether a `HashMap` or `HashSet` here has the default hasher: made by `new` or `with_capacity`, which only
/// that one has, or named without a hasher of its own.
fn has_seed_of_the_system(code: &[Token]) -> bool {
    let hasher = match code[0].word() {
        Some("HashMap") => 2,
        Some("HashSet") => 1,
        _ => return false,
    };
    let mut rest = &code[1..];
    if rest.first().is_some_and(|token| token.kind == Kind::Path) {
        rest = &rest[1..];
        if rest.first().is_some_and(|token| token.is("new") || token.is("with_capacity")) {
            return true;
        }
    }
    rest.first().is_some_and(|token| token.is_sign('<')) && commas(rest) < hasher
}

/// Commas directly inside the angle brackets that `code` begins with; a last one is not counted.
fn commas(code: &[Token]) -> usize {
    let (mut depth, mut count) = (0_usize, 0);
    for (at, token) in code.iter().enumerate() {
        match token.kind {
            Kind::Sign('<' | '(' | '[') => depth += 1,
            Kind::Sign(')' | ']') => depth = depth.saturating_sub(1),
            // Not the end of an arrow.
            Kind::Sign('>') if at > 0 && !code[at - 1].is_sign('-') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return count;
                }
            }
            Kind::Sign(',') if depth == 1 && !code.get(at + 1).is_some_and(|next| next.is_sign('>')) => count += 1,
            _ => {}
        }
    }
    count
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
            assert_eq!(faults("src/shard/mod.rs", text), 0, "{text}");
        }
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
